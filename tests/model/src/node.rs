//! A data node of the model: the shipped core, what it handed to its log, and what of
//! that is on its disk.
//!
//! A node never changes: each step makes another one. What a step does depends on the
//! node, the time and the input alone, so that it is worked out once and remembered
//! ([`crate::memory`]), however many states of the cluster it is part of.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use cairn_core::cluster::report::Role;
use cairn_core::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{
    DurableRecord, Effect, EntryKind, Event, Generation, NodeCore, PeerMessage, RecoveredPartition,
    Timing,
};
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::sim::{MemDisk, MemStore};
use cairn_storage::wal::{Wal, WalOptions};

use crate::message::{Body, Message};

/// The one partition.
pub const P: PartitionId = PartitionId(0);

/// The unit of time: what [`crate::world::Action::Advance`] adds.
pub const UNIT: Micros = Micros::from_millis(100);

/// How long a lease lasts.
pub const LEASE: Micros = Micros(2 * UNIT.0);

/// The time at which an exploration begins: what a process counts as granted when it
/// starts for the first time is over by then.
pub const START: Micros = Micros(10 * LEASE.0);

/// Nothing of what a timer alone would do takes place in the few units that there are:
/// resending is a step of its own ([`Input::Reconnect`]).
const NEVER: Micros = Micros::from_millis(1_000_000);

fn timing() -> Timing {
    Timing {
        lease: LEASE,
        lease_longest: LEASE,
        lease_margin: None,
        tick: UNIT,
        resend: NEVER,
        stuck: NEVER,
        window_bytes: 1 << 20,
        log_bytes: 1 << 20,
        keep_bytes: 1 << 20,
        unapplied_bytes: 1 << 20,
        push_back: NEVER,
        read_lease_at: 0,
        read_lease_parts: 0,
        read_lease_max: Micros::from_millis(100),
    }
}

/// What a node is told in one step.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A message.
    Take(&'static Message),
    /// So many of the records that wait are flushed.
    Flush(usize),
    /// The process ends, which loses what was not flushed, and starts again.
    Restart {
        /// Recovery found a torn tail.
        dropped_tail: bool,
    },
    /// A client's write.
    Write(u8),
    /// The connection to that node is new: what was in flight may be lost.
    Reconnect(NodeId),
    /// Time passed.
    Tick,
}

impl Input {
    /// A number for each input, for [`crate::memory`].
    pub(crate) fn key(&self) -> u64 {
        match *self {
            Self::Take(message) => message.print,
            Self::Flush(records) => 1_000 + records as u64,
            Self::Restart { dropped_tail } => 2_000 + u64::from(dropped_tail),
            Self::Write(number) => 3_000 + u64::from(number),
            Self::Reconnect(peer) => 4_000 + peer.0,
            Self::Tick => 5_000,
        }
    }
}

/// What the invariants and the coordinators look at.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Its role; `None` where there is no replica.
    pub role: Option<Role>,
    /// The promised epoch.
    pub epoch: Epoch,
    /// Whether it serves as primary of that epoch.
    pub serving: bool,
    /// Until when it holds the lease.
    pub lease_until: Micros,
    /// The commit index.
    pub commit: Index,
    /// The log in memory: marks, and the number of the write where it is one.
    pub log: Vec<(Mark, Option<u8>)>,
    /// The log on the disk.
    pub durable: Vec<Mark>,
    /// The newest record that it knows.
    pub record: Option<std::sync::Arc<PartitionRecord>>,
    /// The epoch that it has promised on its disk.
    pub promised: Epoch,
    /// It cut its log at some time.
    pub has_cut: bool,
    /// The process is not the first.
    pub restarted: bool,
}

/// A node at one moment.
#[derive(Debug)]
pub struct Node {
    /// The fingerprint of all of it.
    pub print: u64,
    /// Its number.
    pub id: NodeId,
    /// What others see.
    pub view: View,
    /// How many records wait to be flushed.
    pub waiting: usize,
    starts: u64,
    core: NodeCore,
    disk: Vec<DurableRecord>,
    unflushed: VecDeque<DurableRecord>,
    /// How many records of this process are flushed.
    flushed: u64,
}

/// What came of a step.
#[derive(Debug)]
pub struct Stepped {
    /// The node after it.
    pub node: Node,
    /// What it sent.
    pub sent: Vec<Message>,
    /// Up to where it acknowledged.
    pub committed: Option<Index>,
}

impl Node {
    /// A node with an empty disk, started before `START`.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self::start(id, 1, Vec::new(), false, START.minus(Micros(2 * LEASE.0)))
    }

    fn start(
        id: NodeId,
        starts: u64,
        disk: Vec<DurableRecord>,
        dropped_tail: bool,
        now: Micros,
    ) -> Self {
        let (mut recovered, next_generation) = recover(id, &disk);
        for partition in &mut recovered {
            partition.dropped_tail |= dropped_tail;
        }
        let session = id.0 * 1_000 + starts;
        let mut core = NodeCore::new(id, session, timing(), next_generation, recovered, now);
        // A primary that restarts without coordinators within reach may resume; it
        // answers their fences all the same.
        let mut effects = Vec::new();
        core.step(now, Event::Coordinators { reachable: false }, &mut effects);
        // What housekeeping the first tick does is out of the way.
        core.step(now, Event::Tick, &mut effects);
        let mut node = Self {
            print: 0,
            id,
            view: View::default(),
            waiting: 0,
            starts,
            core,
            disk,
            unflushed: VecDeque::new(),
            flushed: 0,
        };
        let mut sent = Vec::new();
        node.carry_out(now, effects, &mut sent);
        assert!(node.unflushed.is_empty(), "a start writes nothing");
        node.seal(now);
        node
    }

    /// One step.
    ///
    /// # Errors
    /// What an assertion of the core said.
    pub fn step(&self, now: Micros, input: Input) -> Result<Stepped, String> {
        catch_unwind(AssertUnwindSafe(|| self.stepped(now, input))).map_err(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            said.unwrap_or_else(|| "the core panicked".to_owned())
        })
    }

    fn stepped(&self, now: Micros, input: Input) -> Stepped {
        let mut sent = Vec::new();
        let mut effects = Vec::new();
        if let Input::Restart { dropped_tail } = input {
            let disk = self.disk.clone();
            let node = Self::start(self.id, self.starts + 1, disk, dropped_tail, now);
            return Stepped {
                node,
                sent,
                committed: None,
            };
        }
        let mut node = Self {
            print: 0,
            id: self.id,
            view: View::default(),
            waiting: 0,
            starts: self.starts,
            core: self.core.clone(),
            disk: self.disk.clone(),
            unflushed: self.unflushed.clone(),
            flushed: self.flushed,
        };
        let core = &mut node.core;
        match input {
            Input::Take(message) => {
                if let Some(event) = message.event() {
                    core.step(now, event, &mut effects);
                }
            }
            Input::Flush(records) => {
                node.disk.extend(node.unflushed.drain(..records));
                node.flushed += records as u64;
                let number = node.flushed;
                core.step(now, Event::Flushed { number }, &mut effects);
            }
            Input::Write(number) => {
                // Where it is refused nothing changes, and there is no such step.
                let body = Bytes::from(vec![b'w', number]);
                let _ = core.propose(now, P, body, &mut effects);
            }
            Input::Reconnect(peer) => {
                core.step(now, Event::PeerConnected { peer }, &mut effects);
            }
            Input::Tick => core.step(now, Event::Tick, &mut effects),
            Input::Restart { .. } => {}
        }
        let committed = node.carry_out(now, effects, &mut sent);
        if let Input::Take(message) = input {
            sent.retain(|answer| !message.is_merely_refused_by(answer));
        }
        node.seal(now);
        Stepped {
            node,
            sent,
            committed,
        }
    }

    /// Carries out effects. Returns up to where the primary may answer.
    fn carry_out(
        &mut self,
        now: Micros,
        effects: Vec<Effect>,
        sent: &mut Vec<Message>,
    ) -> Option<Index> {
        let mut committed = None;
        for effect in effects {
            match effect {
                Effect::Append(record) => self.unflushed.push_back(record),
                // The coordinators have told everyone the same.
                Effect::Send {
                    message: PeerMessage::Record(_),
                    ..
                } => {}
                Effect::Send { to, message } => {
                    let from = self.id;
                    sent.push(Message::new(Some(to), Body::Peer { from, message }));
                }
                Effect::Report(report) => {
                    sent.push(Message::new(None, Body::Report { report, at: now }));
                }
                Effect::Committed { index, .. } => committed = committed.max(Some(index)),
                // The store has made nothing durable when the process ends, so that all
                // of it is replayed; no snapshot ever arrives.
                Effect::Apply { .. }
                | Effect::FetchSnapshot { .. }
                | Effect::DropGeneration { .. }
                | Effect::ProbeLog
                | Effect::Everywhere { .. }
                | Effect::Proved { .. }
                | Effect::Standing { .. }
                | Effect::Deposed { .. }
                | Effect::Mended { .. }
                | Effect::Reclaimable { .. } => {}
            }
        }
        committed
    }

    fn seal(&mut self, now: Micros) {
        self.waiting = self.unflushed.len();
        self.print = xxhash_rust::xxh3::xxh3_64(self.told(now).as_bytes());
        let found = Found::of(&self.disk);
        let mut view = View {
            promised: found.promised,
            has_cut: found.has_cut,
            durable: found.log,
            restarted: self.starts > 1,
            ..View::default()
        };
        if let Some(standing) = self.core.standing(P) {
            view.epoch = standing.epoch;
            view.serving = standing.serving;
            view.lease_until = standing.lease_until;
            view.commit = standing.commit;
            let log = self.core.log_after(P, Index::ZERO);
            view.log = log
                .iter()
                .map(|e| {
                    let write = (e.kind == EntryKind::Write).then(|| e.body[1]);
                    (e.mark(), write)
                })
                .collect();
            view.record = self.core.metas().into_iter().find_map(|meta| meta.record);
            // Telling a status is noted, so that a copy is asked.
            let mut asked = self.core.clone();
            view.role = asked.statuses(START, true).first().map(|s| s.role);
        }
        self.view = view;
    }

    /// All that decides what the node will do.
    ///
    /// Where nothing waits to be flushed, how many records the process has written matters
    /// to nobody.
    fn told(&self, now: Micros) -> String {
        let mut core = without_idle_times(&format!("{:?}", self.core), now);
        if self.unflushed.is_empty() {
            let numbers = format!("appended: {0}, flushed: {0},", self.flushed);
            core = core.replacen(&numbers, "", 1);
        }
        let (id, starts, waiting) = (self.id, self.starts, &self.unflushed);
        format!(
            "{id} {starts} {core} {:?} {waiting:?}",
            Found::of(&self.disk)
        )
    }

    /// What its log on the disk comes to, and what the shipped recovery makes of it.
    #[cfg(test)]
    pub(crate) fn recovered(&self) -> (String, Vec<RecoveredPartition>) {
        let found = format!("{} {:?}", self.id, Found::of(&self.disk));
        (found, recover(self.id, &self.disk).0)
    }

    /// Whether the log holds a write.
    #[must_use]
    pub fn holds(&self, write: u8) -> bool {
        self.view.log.iter().any(|(_, w)| *w == Some(write))
    }
}

/// Times by which nothing is decided while no timer but the lease's ends: when something
/// was last sent, heard or flushed.
const IDLE: [&str; 8] = [
    " awaited_since",
    " returned",
    " unmatched_since",
    " wanted_until",
    " paced",
    " since",
    " next_housekeeping",
    " full_since",
];

/// Times after which for a lease's length somebody counts as silent.
const HEARD: [&str; 2] = [" heard", " last_answer"];

/// Times of which only matters whether there is one.
const EXISTENT: [&str; 2] = [" awaiting_since", " asked"];

/// Ends, of which only matters whether they are past, once they are.
const ENDS: [&str; 3] = [" until", " granted_until", " boot_until"];

/// The description of a core without the times that decide nothing.
fn without_idle_times(text: &str, now: Micros) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(colon) = rest.find(": ") {
        let (before, after) = rest.split_at(colon);
        kept.push_str(before);
        let is = |names: &[&str]| names.iter().any(|name| before.ends_with(name));
        let value = &after[2..];
        let end = value.find([',', ' ']).unwrap_or(value.len());
        let value = &value[..end];
        let micros = value.trim_start_matches("Some(").trim_end_matches(')');
        let micros = micros
            .strip_suffix("us")
            .and_then(|n| n.parse::<u64>().ok());
        let stands_for = match micros {
            _ if is(&IDLE) => Some(""),
            Some(_) if is(&EXISTENT) => Some("at some time"),
            Some(at) if is(&ENDS) && at <= now.0 => Some("over"),
            Some(at) if is(&HEARD) && at + LEASE.0 <= now.0 => Some("silent"),
            None if is(&HEARD) => Some("silent"),
            _ => None,
        };
        kept.push_str(": ");
        rest = &after[2..];
        if let Some(told) = stands_for.filter(|_| micros.is_some() || value == "None") {
            kept.push_str(told);
            rest = &rest[end..];
        }
    }
    kept.push_str(rest);
    kept
}

/// What a log of records comes to: what recovery finds depends on nothing else, which a
/// test holds.
#[derive(Debug, Default)]
struct Found<'a> {
    log: Vec<Mark>,
    promised: Epoch,
    record: Option<&'a PartitionRecord>,
    replica: Option<(ReplicaId, Generation)>,
    deleted_at: Option<(Epoch, u64)>,
    has_cut: bool,
}

impl<'a> Found<'a> {
    fn of(records: &'a [DurableRecord]) -> Self {
        let mut found = Self::default();
        for record in records {
            match record {
                DurableRecord::Entry { entry, .. } => {
                    found.promise(entry.position.epoch);
                    found.log.push(entry.mark());
                }
                DurableRecord::Truncate { to, .. } => {
                    found.has_cut = true;
                    found.log.retain(|m| m.index() <= to.index());
                }
                DurableRecord::Promise { epoch, .. } => found.promise(*epoch),
                DurableRecord::Configure { record } => {
                    found.promise(record.epoch);
                    found.record = Some(record);
                }
                DurableRecord::Create {
                    replica,
                    generation,
                    ..
                } => {
                    found.log.clear();
                    found.replica = Some((*replica, *generation));
                }
                DurableRecord::Delete { order, .. } => {
                    found.log.clear();
                    found.replica = None;
                    found.deleted_at = Some(*order);
                }
                DurableRecord::Corrupt { .. } | DurableRecord::Installed { .. } => {
                    unreachable!("nothing is damaged, and no snapshot arrives")
                }
            }
        }
        found
    }

    fn promise(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
    }
}

/// What the shipped recovery finds in a log of these records, with a store that holds
/// nothing yet.
fn recover(id: NodeId, records: &[DurableRecord]) -> (Vec<RecoveredPartition>, u64) {
    let disk = MemDisk::new();
    let store = MemStore::new();
    let open = || {
        let identity = LogIdentity {
            cluster: "model".into(),
            node: u128::from(id.0),
            incarnation: u128::from(id.0),
        };
        let options = WalOptions {
            segment_bytes: 64 << 10,
            ..WalOptions::default()
        };
        Wal::open(disk.clone(), identity, options, &store, Box::new(|| 7)).expect("a sound log")
    };
    if !records.is_empty() {
        let (mut wal, _) = open();
        wal.append(records).expect("room in the log");
        let misplaced = wal.take_misplaced();
        assert!(misplaced.is_empty(), "{misplaced:?}");
    }
    let (_, recovery) = open();
    assert!(recovery.damage.is_empty(), "{:?}", recovery.damage);
    (recovery.partitions, recovery.next_generation.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_decide_nothing_are_left_out() {
        let told = |text: &str, now| without_idle_times(text, Micros(now));
        assert_eq!(
            told(
                "N { paced: 7us, since: 3, until: 9us, asked: Some(8us) }",
                9
            ),
            "N { paced: , since: 3, until: over, asked: at some time }"
        );
        let same = "N { until: 9us, asked: None, heard: Some(8us), sent: 7us }";
        assert_eq!(told(same, 8), same);
        assert_eq!(
            told("N { heard: None, last_answer: Some(8us) }", 8 + LEASE.0),
            "N { heard: silent, last_answer: silent }"
        );
    }
}
