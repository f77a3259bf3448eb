//! A cluster of cores on one thread, driven by text.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::cluster::report::Order;
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet, SlotRange};
use cairn_core::replication::message::{AppendOutcome, PeerMessage};
use cairn_core::replication::{
    DurableRecord, Effect, EntryKind, Event, LogEntry, MissingRange, NodeCore, PartitionMeta,
    Proof, ProofLevel, RecoveredPartition, Timing, Unproved,
};

const P: PartitionId = PartitionId(0);

/// The cluster of a transcript.
#[derive(Default)]
pub(crate) struct Cluster {
    now: u64,
    nodes: BTreeMap<u64, Machine>,
    wire: Vec<(NodeId, NodeId, PeerMessage)>,
    cut: BTreeSet<u64>,
    /// Whose disks hang.
    hung: BTreeSet<u64>,
    record: Option<PartitionRecord>,
    quiet: bool,
}

#[derive(Default)]
struct Machine {
    core: Option<NodeCore>,
    wal: Vec<DurableRecord>,
    flushed: usize,
    at_start: usize,
    applied: Mark,
    to_apply: Vec<(cairn_core::replication::Generation, Index)>,
    /// A broken place takes these entries at the next start.
    lost: Option<(Index, Index)>,
}

fn timing() -> Timing {
    Timing {
        lease: Micros::from_millis(400),
        lease_longest: Micros::from_millis(400),
        lease_margin: None,
        tick: Micros::from_millis(20),
        resend: Micros::from_millis(100),
        stuck: Micros::from_millis(1500),
        window_bytes: 1 << 20,
        log_bytes: 1 << 20,
        keep_bytes: 1 << 18,
        unapplied_bytes: 1 << 20,
        push_back: Micros::from_millis(10_000),
        read_lease_at: 1,
        read_lease_parts: 0,
        read_lease_max: Micros::from_millis(100),
    }
}

fn number(name: &str) -> u64 {
    name.trim_start_matches(['n', 'r', 'e', '+'])
        .trim_end_matches("ms")
        .parse()
        .unwrap_or_else(|_| panic!("{name:?} is not a number"))
}

fn members(list: &str) -> Vec<Member> {
    list.split(',')
        .filter(|n| !n.is_empty())
        .map(|name| {
            let (node, replica) = name.split_once(':').unwrap_or((name, name));
            Member {
                node: NodeId(number(node)),
                replica: ReplicaId(number(replica)),
            }
        })
        .collect()
}

impl Cluster {
    /// Carries out one line of a transcript and appends what came of it.
    pub(crate) fn command(&mut self, line: &str, out: &mut String) {
        let mut words = line.split_whitespace();
        let verb = words.next().expect("a verb");
        let mut named = BTreeMap::new();
        let mut plain = Vec::new();
        for word in words {
            match word.split_once('=') {
                Some((name, value)) => drop(named.insert(name, value)),
                None => plain.push(word),
            }
        }
        let targets = |key: &str| -> Vec<u64> {
            named
                .get(key)
                .map(|l| l.split(',').map(number).collect())
                .unwrap_or_default()
        };
        match verb {
            "cluster" => {
                self.now = 10_000_000;
                for id in 1..=number(named["nodes"]) {
                    self.nodes.insert(id, Machine::default());
                    self.start(id, false);
                }
                // Past the lease that a fresh process counts as granted.
                self.now += 1_000_000;
            }
            "record" => {
                let record = self.next_record(&named);
                self.record = Some(record.clone());
                let everyone: Vec<u64> = self.nodes.keys().copied().collect();
                let to = if named.contains_key("to") {
                    targets("to")
                } else {
                    everyone
                };
                for id in to {
                    self.step(
                        id,
                        Event::Record {
                            record: Arc::new(record.clone()),
                        },
                        out,
                    );
                }
            }
            "propose" => {
                let (id, body) = (number(plain[0]), Bytes::from(plain[1].to_owned()));
                let mut effects = Vec::new();
                let now = Micros(self.now);
                let core = self.machine(id).core.as_mut().expect("a running node");
                match core.propose(now, P, body, &mut effects) {
                    Ok(position) => drop(writeln!(out, "n{id} proposes {position}")),
                    Err(error) => drop(writeln!(out, "n{id} refuses: {error}")),
                }
                self.carry_out(id, effects, out);
            }
            "read" => {
                let (id, level) = (number(plain[0]), plain[1]);
                let level = match level {
                    "replica" => ProofLevel::Replica,
                    "quorum" => ProofLevel::Quorum,
                    other => panic!("no proof is needed for {other}"),
                };
                let reads = [Unproved {
                    partition: P,
                    level,
                    before: number(named["below"]),
                }];
                let mut effects = Vec::new();
                let now = Micros(self.now);
                let core = self.machine(id).core.as_mut().expect("a running node");
                core.prove(now, &reads, &mut effects);
                self.carry_out(id, effects, out);
            }
            "everywhere" => {
                let (id, index) = (number(plain[0]), Index(number(named["up-to"])));
                let mut effects = Vec::new();
                let now = Micros(self.now);
                let core = self.machine(id).core.as_mut().expect("a running node");
                core.want_everywhere(now, P, index, &mut effects);
                self.carry_out(id, effects, out);
            }
            "fence" | "ask" => {
                for id in targets("to") {
                    let epoch = named.get("epoch").map_or(Epoch::ZERO, |e| Epoch(number(e)));
                    let order = if verb == "ask" {
                        Order::Ask {
                            partition: P,
                            round: 1,
                        }
                    } else {
                        Order::Fence {
                            partition: P,
                            epoch,
                            round: 1,
                        }
                    };
                    self.step(id, Event::Order { order }, out);
                }
            }
            "hand-over" => {
                let to = members(named["to"])[0];
                let order = Order::HandOver {
                    partition: P,
                    epoch: Epoch(number(named["epoch"])),
                    to,
                };
                self.step(number(plain[0]), Event::Order { order }, out);
            }
            "flush" => {
                for name in plain {
                    self.flush(number(name), out);
                }
            }
            "deliver" => {
                let only = targets("to");
                let waiting = std::mem::take(&mut self.wire);
                for (from, to, message) in waiting {
                    if !only.is_empty() && !only.contains(&to.0) {
                        self.wire.push((from, to, message));
                        continue;
                    }
                    self.step(to.0, Event::Peer { from, message }, out);
                }
            }
            "drop" => {
                let only = targets("to");
                self.wire
                    .retain(|(_, to, _)| !only.is_empty() && !only.contains(&to.0));
            }
            "cut" => self.cut.extend(plain.into_iter().map(number)),
            "heal" => self.cut.clear(),
            "hang" => self.hung.extend(plain.into_iter().map(number)),
            "unhang" => {
                self.hung.clear();
                for id in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.probe(id, out);
                }
            }
            "wishes" => self.wishes(out),
            "stabilize" => {
                self.quiet = named.contains_key("quietly");
                self.stabilize(out);
                self.quiet = false;
            }
            "tick" => {
                self.now += number(named["after"]) * 1000;
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                for id in ids {
                    self.step(id, Event::Tick, out);
                }
            }
            "crash" => {
                let id = number(plain[0]);
                let machine = self.machine(id);
                machine.core = None;
                machine.wal.truncate(machine.flushed);
            }
            "restart" => {
                let id = number(plain[0]);
                if let Some(lost) = named.get("lost") {
                    let (first, last) = lost.split_once("..").expect("first..last");
                    self.machine(id).lost = Some((Index(number(first)), Index(number(last))));
                    self.machine(id).applied = Mark::ZERO;
                }
                self.start(id, plain.contains(&"dropped-tail"));
            }
            "coordinators" => {
                let reachable = plain[0] == "back";
                let ids: Vec<u64> = self.nodes.keys().copied().collect();
                for id in ids {
                    self.step(id, Event::Coordinators { reachable }, out);
                }
            }
            "standing" => self.standing(out),
            other => panic!("no such verb: {other}"),
        }
    }

    fn machine(&mut self, id: u64) -> &mut Machine {
        self.nodes
            .get_mut(&id)
            .unwrap_or_else(|| panic!("no node n{id}"))
    }

    fn next_record(&self, named: &BTreeMap<&str, &str>) -> PartitionRecord {
        let before = self.record.clone();
        let mut config = before.as_ref().map_or_else(
            || Configuration {
                current: ReplicaSet {
                    members: Vec::new(),
                    write_quorum: 2,
                },
                joint: None,
                learners: Vec::new(),
                readers: Vec::new(),
            },
            |r| r.config.clone(),
        );
        if let Some(list) = named.get("members") {
            config.current.members = members(list);
        }
        if let Some(w) = named.get("w") {
            config.current.write_quorum = number(w) as u8;
        }
        if let Some(list) = named.get("joint") {
            let write_quorum = config.current.write_quorum;
            let members = members(list);
            config.joint = (!members.is_empty()).then_some(ReplicaSet {
                members,
                write_quorum,
            });
        }
        if let Some(list) = named.get("readers") {
            config.readers = members(list);
        }
        if let Some(list) = named.get("learners") {
            config.learners = members(list);
        }
        let epoch = Epoch(number(named["epoch"]));
        let primary = named.get("primary").map(|p| members(p)[0]);
        PartitionRecord {
            id: P,
            slots: SlotRange {
                first: 0,
                last: 16_383,
            },
            epoch,
            revision: before.map_or(1, |r| r.revision + 1),
            config,
            primary,
            degraded: false,
            changed_at: MapVersion(1),
        }
    }

    fn start(&mut self, id: u64, dropped_tail: bool) {
        let now = Micros(self.now);
        let machine = self.machine(id);
        machine.flushed = machine.wal.len();
        machine.at_start = machine.wal.len();
        machine.to_apply.clear();
        let mut recovered = recover(&machine.wal, machine.applied, dropped_tail);
        if let Some(lost) = machine.lost.take() {
            recovered.iter_mut().for_each(|found| lose(found, lost));
        }
        let session = id * 100 + machine.wal.len() as u64;
        machine.core = Some(NodeCore::new(
            NodeId(id),
            session,
            timing(),
            100,
            recovered,
            now,
        ));
    }

    fn flush(&mut self, id: u64, out: &mut String) -> bool {
        let hung = self.hung.contains(&id);
        let machine = self.machine(id);
        if machine.core.is_none() || machine.flushed == machine.wal.len() || hung {
            return false;
        }
        machine.flushed = machine.wal.len();
        let number = (machine.flushed - machine.at_start) as u64;
        self.say(out, || format!("n{id} flushed"));
        self.step(id, Event::Flushed { number }, out);
        true
    }

    /// A probe is flushed at once, unless the disk hangs.
    fn probe(&mut self, id: u64, out: &mut String) {
        if self.hung.contains(&id) {
            return;
        }
        let machine = self.machine(id);
        let number = (machine.flushed - machine.at_start) as u64;
        self.step(id, Event::Flushed { number }, out);
    }

    fn stabilize(&mut self, out: &mut String) {
        for _ in 0..200 {
            let mut busy = false;
            let ids: Vec<u64> = self.nodes.keys().copied().collect();
            for id in ids {
                busy |= self.flush(id, out);
                for (generation, index) in std::mem::take(&mut self.machine(id).to_apply) {
                    busy = true;
                    self.step(
                        id,
                        Event::Applied {
                            partition: P,
                            generation,
                            index,
                        },
                        out,
                    );
                }
            }
            let waiting = std::mem::take(&mut self.wire);
            busy |= !waiting.is_empty();
            for (from, to, message) in waiting {
                self.step(to.0, Event::Peer { from, message }, out);
            }
            if !busy {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn step(&mut self, id: u64, event: Event, out: &mut String) {
        let now = Micros(self.now);
        let mut effects = Vec::new();
        let Some(core) = &mut self.machine(id).core else {
            return;
        };
        core.step(now, event, &mut effects);
        self.carry_out(id, effects, out);
    }

    fn say(&self, out: &mut String, line: impl FnOnce() -> String) {
        if !self.quiet {
            let _ = writeln!(out, "{}", line());
        }
    }

    fn carry_out(&mut self, id: u64, effects: Vec<Effect>, out: &mut String) {
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    self.say(out, || format!("  n{id} wal {}", durable(&record)));
                    self.machine(id).wal.push(record);
                }
                Effect::Send { to, message } => {
                    let lost = self.cut.contains(&id) || self.cut.contains(&to.0);
                    let mark = if lost { " (lost)" } else { "" };
                    self.say(out, || format!("  n{id} -> {to} {}{mark}", peer(&message)));
                    if !lost {
                        self.wire.push((NodeId(id), to, message));
                    }
                }
                Effect::Apply { generation, entries, .. } => {
                    let last = entries.last().map(LogEntry::mark).unwrap_or_default();
                    self.say(out, || format!("  n{id} applies up to {}", last.position));
                    let machine = self.machine(id);
                    machine.applied = last;
                    machine.to_apply.push((generation, last.index()));
                }
                Effect::Committed { index, .. } => {
                    self.say(out, || format!("  n{id} may answer up to {index}"));
                }
                Effect::Deposed { epoch, .. } => {
                    self.say(out, || format!("  n{id} is deposed of {epoch}"));
                }
                Effect::Report(r) => self.say(out, || {
                    format!(
                        "  n{id} reports promised={} head={} commit={} whole={}{} lease={} remaining={}ms",
                        r.promised,
                        r.head,
                        r.commit,
                        r.whole,
                        if r.head_intact { ", head intact" } else { "" },
                        if r.lease_current { "current" } else { "lapsed" },
                        r.lease_remaining.0 / 1000
                    )
                }),
                Effect::FetchSnapshot { from, generation, .. } => {
                    self.say(out, || format!("  n{id} fetches a snapshot from {from}, {generation:?}"));
                }
                Effect::DropGeneration { generation, .. } => {
                    self.say(out, || format!("  n{id} drops {generation:?}"));
                }
                Effect::Everywhere { index, .. } => {
                    self.say(out, || format!("  n{id} has everything up to {index} everywhere"));
                }
                Effect::Proved { level, before, proof, .. } => {
                    let level = format!("{level:?}").to_lowercase();
                    self.say(out, || format!("  n{id} {level} reads below {before}: {}", proved(&proof)));
                }
                Effect::Mended { .. } => self.say(out, || format!("  n{id} is whole again")),
                Effect::ProbeLog => self.probe(id, out),
                Effect::Standing { .. } | Effect::Reclaimable { .. } => {}
            }
        }
    }

    /// What heartbeats say.
    fn wishes(&mut self, out: &mut String) {
        let now = Micros(self.now);
        for (id, machine) in &mut self.nodes {
            let Some(core) = &mut machine.core else {
                continue;
            };
            for status in core.statuses(now, true) {
                let _ = write!(out, "n{id} {:?}, wishes {:?}", status.role, status.wish);
                for follower in &status.followers {
                    let answers = if follower.answering {
                        "answers"
                    } else {
                        "does not answer"
                    };
                    let _ = write!(out, ", {} {answers}", follower.replica);
                }
                let _ = writeln!(out);
            }
        }
    }

    fn standing(&self, out: &mut String) {
        for (id, machine) in &self.nodes {
            let Some(core) = &machine.core else {
                let _ = writeln!(out, "n{id} is down");
                continue;
            };
            let Some(s) = core.standing(P) else {
                let _ = writeln!(out, "n{id} has no replica");
                continue;
            };
            let role = if s.serving {
                "serves"
            } else {
                "does not serve"
            };
            let lease = match s.lease_until.0 {
                u64::MAX => "lease for ever".to_owned(),
                until if until > self.now => format!("lease for {}ms", (until - self.now) / 1000),
                _ => "no lease".to_owned(),
            };
            let _ = writeln!(
                out,
                "n{id} {} {role}, {lease}, commit {} head {}",
                s.epoch, s.commit, s.head
            );
        }
    }
}

fn proved(proof: &Proof) -> String {
    match proof {
        Proof::Applied { epoch, index } => format!("once {index} is applied, while in {epoch}"),
        Proof::Elsewhere(Some(member)) => format!("go to {}", member.node),
        Proof::Elsewhere(None) => "go elsewhere".into(),
        Proof::NotNow => "not now".into(),
    }
}

fn entry(e: &LogEntry) -> String {
    match e.kind {
        EntryKind::Barrier => format!("{} barrier", e.position),
        EntryKind::Write => format!("{} {}", e.position, String::from_utf8_lossy(&e.body)),
    }
}

fn durable(record: &DurableRecord) -> String {
    match record {
        DurableRecord::Create { replica, .. } => format!("create {replica}"),
        DurableRecord::Delete { .. } => "delete".into(),
        DurableRecord::Corrupt { replica, .. } => format!("corrupt {replica}"),
        DurableRecord::Promise { epoch, .. } => format!("promise {epoch}"),
        DurableRecord::Configure { record } => format!("configure {}", record.epoch),
        DurableRecord::Entry { entry: e, .. } => format!("entry {}", entry(e)),
        DurableRecord::Truncate { to, .. } => format!("truncate to {}", to.position),
        DurableRecord::Installed {
            mark, keep_tail, ..
        } => {
            format!("installed {} keep_tail={keep_tail}", mark.position)
        }
    }
}

fn peer(message: &PeerMessage) -> String {
    match message {
        PeerMessage::Append(a) => {
            let entries: Vec<String> = a.entries.iter().map(entry).collect();
            format!(
                "append {} after {} [{}] commit {}",
                a.epoch,
                a.previous.position,
                entries.join(", "),
                a.commit
            )
        }
        PeerMessage::AppendReply(r) => match &r.outcome {
            AppendOutcome::Matched { index } => format!("matched {index} in {}", r.epoch),
            AppendOutcome::Diverged { head, lineage } => {
                let lineage: Vec<String> = lineage.iter().map(|m| m.position.to_string()).collect();
                format!("diverged, head {head} lineage [{}]", lineage.join(", "))
            }
            AppendOutcome::Refused => format!("refused, promised {}", r.epoch),
            AppendOutcome::DiskFull => "disk full".into(),
        },
        PeerMessage::LeaseRenew(r) => {
            let commits: Vec<String> = r.commits.iter().map(|(_, _, i)| i.to_string()).collect();
            let set = r.set.as_ref().map_or(String::new(), |s| {
                let set: Vec<String> = s.iter().map(|(_, e)| e.to_string()).collect();
                format!(" set [{}]", set.join(", "))
            });
            format!(
                "lease round {} version {}{set} commits [{}]",
                r.round,
                r.version,
                commits.join(", ")
            )
        }
        PeerMessage::LeaseReply(r) => {
            format!(
                "grant round {} version {} excluded {}",
                r.round,
                r.version,
                r.excluded.len()
            )
        }
        PeerMessage::Release { epoch, .. } => format!("release {epoch}"),
        PeerMessage::Confirm(c) => format!("confirm {}?", c.epoch),
        PeerMessage::ConfirmReply(c) => format!("confirm: promised {} head {}", c.promised, c.head),
        PeerMessage::FetchRange(r) => {
            format!("fetch range after {} up to {}", r.after.position, r.until)
        }
        PeerMessage::Range(r) => {
            let entries: Vec<String> = r.entries.iter().map(entry).collect();
            format!("range after {} [{}]", r.after.position, entries.join(", "))
        }
        PeerMessage::NeedSnapshot { epoch, .. } => format!("need snapshot in {epoch}"),
        PeerMessage::SnapshotNews(news) => format!("snapshot {:?}", news.news),
        PeerMessage::ReadAsk(ask) => format!("how do you stand? {}", ask.number),
        PeerMessage::ReadAnswer(answer) => {
            let stands: Vec<String> = answer
                .stands
                .iter()
                .map(|s| {
                    let leased = if s.leased { "leased, " } else { "" };
                    format!("{leased}{} head {} commit {}", s.epoch, s.head, s.commit)
                })
                .collect();
            format!("stands {}: [{}]", answer.number, stands.join(", "))
        }
        PeerMessage::Record(r) => format!("record {}", r.epoch),
        PeerMessage::MapVersion(v) => format!("map {v}"),
    }
}

/// What recovery says where a broken place took these entries.
fn lose(found: &mut RecoveredPartition, (first, last): (Index, Index)) {
    let at =
        |entries: &[LogEntry], index: Index| entries.partition_point(|e| e.position.index < index);
    let behind = at(&found.entries, last.next());
    let kept = found.entries.split_off(behind);
    let until = at(&found.entries, first);
    found.entries.truncate(until);
    let after = found.entries.last().map_or(found.meta.base, LogEntry::mark);
    found.corrupt = true;
    found.missing = Some(MissingRange {
        after,
        until: last,
        end: None,
        kept,
    });
}

fn recover(wal: &[DurableRecord], applied: Mark, dropped_tail: bool) -> Vec<RecoveredPartition> {
    let mut meta: Option<PartitionMeta> = None;
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut corrupt = false;
    for record in wal {
        let m = meta.get_or_insert_with(|| PartitionMeta {
            partition: P,
            replica: None,
            generation: cairn_core::replication::Generation(0),
            promised: Epoch::ZERO,
            record: None,
            deleted_at: None,
            base: Mark::ZERO,
            lineage: Vec::new(),
        });
        match record.clone() {
            DurableRecord::Create {
                replica,
                generation,
                ..
            } => {
                m.replica = Some(replica);
                m.generation = generation;
                corrupt = false;
            }
            DurableRecord::Corrupt { replica, .. } => corrupt |= m.replica == Some(replica),
            DurableRecord::Delete { order, .. } => {
                m.replica = None;
                m.deleted_at = Some(order);
            }
            DurableRecord::Promise { epoch, .. } => m.promised = epoch,
            DurableRecord::Configure { record } => m.record = Some(record),
            DurableRecord::Entry { entry, .. } => entries.push(entry),
            DurableRecord::Truncate { to, .. } => {
                entries.retain(|e| e.position.index <= to.index());
            }
            DurableRecord::Installed {
                generation,
                mark,
                lineage,
                ..
            } => {
                m.generation = generation;
                m.base = mark;
                m.lineage = lineage;
                entries.retain(|e| e.position.index > mark.index());
            }
        }
    }
    meta.map(|meta| RecoveredPartition {
        meta,
        entries,
        applied,
        corrupt,
        dropped_tail,
        missing: None,
    })
    .into_iter()
    .collect()
}
