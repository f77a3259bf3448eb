//! The world: a queue of events in simulated time, the faults, the clients.

mod govern;
mod reads;

pub use reads::Planted;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::cluster::command::Command;
use cairn_core::cluster::report::{Heartbeat, Order, ReplicaReport};
use cairn_core::cluster::supervisor::{Input, ProposalId};
use cairn_core::ids::{Index, Mark, Micros, NodeId, PartitionId};
use cairn_core::kv::{EntryBody, StoredValue};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{Effect, Event, Generation, PeerMessage, ProposeError, Timing};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::contents::Contents;
use crate::coordinators::Coordinators;
use crate::invariants::Ledger;
use crate::node::Node;
use crate::shipped::{self, Shipped};

const PARTITION: PartitionId = PartitionId(0);
const TICK: Micros = Micros::from_millis(10);
/// The coordinators, among those who are cut off from each other.
const COORDINATORS: u64 = 0;

/// What took place in a run: each must be above zero over a set of seeds.
///
/// The second field is a checksum of the whole trace, each line of it.
#[derive(Clone, Debug, Default)]
pub struct Coverage(pub BTreeMap<&'static str, u64>, pub u64);

impl Coverage {
    fn count(&mut self, what: &'static str) {
        if !what.is_empty() {
            *self.0.entry(what).or_default() += 1;
        }
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

/// A broken invariant, with the end of the trace.
#[derive(Debug)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// What broke.
    pub what: String,
    /// The last steps.
    pub trace: String,
}

#[derive(Debug)]
enum Happening {
    Tick(NodeId, u64),
    Flushed(NodeId, u64),
    Probed(NodeId, u64),
    Deliver {
        from: NodeId,
        to: NodeId,
        message: PeerMessage,
    },
    Record(NodeId, Arc<PartitionRecord>),
    Order(NodeId, Order),
    Report(NodeId, ReplicaReport),
    Heartbeat(Heartbeat),
    StreamClosed(NodeId, u64),
    Proposal(ProposalId, Command),
    /// Commits although its proposer of that term was told nothing, unless another leads.
    Late(u64, Command),
    Elected,
    Applied(NodeId, u64, Generation, Index),
    Fetched {
        node: NodeId,
        session: u64,
        from: NodeId,
        generation: Generation,
    },
    Client,
    Read,
    Look(NodeId, u64),
    Coordinators,
    Fault,
    Start(NodeId),
}

/// Who decides.
enum Brain {
    /// Restless stand-ins, which change things for no reason.
    StandIn(Box<Coordinators>),
    /// The shipped coordinators.
    Shipped(Box<Shipped>),
}

struct World {
    rng: StdRng,
    now: Micros,
    queue: BinaryHeap<Reverse<(u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    nodes: Vec<Node>,
    timing: Timing,
    brain: Brain,
    beats: BTreeMap<u64, (u64, u64)>,
    retired: Vec<u64>,
    seats: BTreeMap<u64, u64>,
    coordinators_away_until: Micros,
    cut: BTreeMap<(u64, u64), Micros>,
    ledger: Ledger,
    contents: Contents,
    pending: BTreeMap<(u64, u64), BTreeMap<Index, Mark>>,
    coverage: Coverage,
    trace: Vec<String>,
    /// Whether there is a trace, which takes most of the time.
    traced: bool,
    healing: bool,
    last_acknowledged: Micros,
    written: u64,
    planted: Option<Planted>,
    reads: BTreeMap<u64, reads::Read>,
    reads_begun: u64,
    edges: BTreeMap<(u64, u64), reads::Edge>,
}

/// Runs one seed.
///
/// # Errors
/// The first broken invariant.
pub fn run(seed: u64) -> Result<Coverage, Box<Failure>> {
    run_planted(seed, None)
}

/// Runs one seed with a mistake in it.
///
/// # Errors
/// The first broken invariant.
pub fn run_planted(seed: u64, planted: Option<Planted>) -> Result<Coverage, Box<Failure>> {
    let mut world = World::new(seed);
    world.planted = planted;
    play(seed, world)
}

/// Runs one seed without a trace, which is several times faster.
///
/// # Errors
/// The first broken invariant.
pub fn run_untraced(seed: u64) -> Result<Coverage, Box<Failure>> {
    let mut world = World::new(seed);
    world.traced = false;
    play(seed, world)
}

fn play(seed: u64, mut world: World) -> Result<Coverage, Box<Failure>> {
    // A panic is the core's own assertion: an invariant like the others.
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.play()));
    match played {
        Ok(Ok(())) => Ok(world.coverage),
        Ok(Err(what)) => Err(Box::new(Failure {
            seed,
            what,
            trace: world.tail(),
        })),
        Err(panic) => {
            let what = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("without words");
            let what = format!("panic: {what}");
            Err(Box::new(Failure {
                seed,
                what,
                trace: world.tail(),
            }))
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let replicas = rng.random_range(2..=5u64);
        let nodes = replicas + rng.random_range(0..=2u64);
        // W=1 may lose writes by rule 9: it has a ledger of its own, later.
        let write_quorum = rng.random_range(2..=replicas) as u8;
        let lease = Micros::from_millis(if rng.random_bool(0.3) {
            rng.random_range(400..2_000)
        } else {
            rng.random_range(100..400)
        });
        let timing = Timing {
            lease,
            lease_longest: lease,
            lease_margin: None,
            tick: TICK,
            resend: Micros::from_millis(rng.random_range(30..150)),
            stuck: Micros::from_millis(1500),
            window_bytes: 4096,
            log_bytes: if rng.random_bool(0.5) { 2_000 } else { 1 << 20 },
            keep_bytes: if rng.random_bool(0.5) { 2_000 } else { 1 << 18 },
            unapplied_bytes: if rng.random_bool(0.5) {
                20_000
            } else {
                1 << 20
            },
            push_back: Micros::from_millis(1_000),
        };
        let brain = if seed.is_multiple_of(2) {
            Brain::StandIn(Box::new(Coordinators::new(replicas, write_quorum)))
        } else {
            let lease_ms = lease.0 / 1000;
            let options = shipped::restless(&mut rng);
            let shipped = Shipped::new(nodes, replicas, write_quorum, lease_ms, options);
            Brain::Shipped(Box::new(shipped.expect("legal settings")))
        };
        let seats = (1..=nodes).map(|n| (n, n)).collect();
        let nodes = (1..=nodes)
            .map(|n| Node::new(NodeId(n), &mut rng))
            .collect();
        Self {
            rng,
            now: Micros(1_000_000),
            queue: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            nodes,
            timing,
            brain,
            beats: BTreeMap::new(),
            retired: Vec::new(),
            seats,
            coordinators_away_until: Micros(0),
            cut: BTreeMap::new(),
            ledger: Ledger::default(),
            contents: Contents::default(),
            pending: BTreeMap::new(),
            coverage: Coverage::default(),
            trace: Vec::new(),
            traced: true,
            healing: false,
            last_acknowledged: Micros(0),
            written: 0,
            planted: None,
            reads: BTreeMap::new(),
            reads_begun: 0,
            edges: BTreeMap::new(),
        }
    }

    fn at(&mut self, after: u64, happening: Happening) {
        self.sequence += 1;
        self.queue
            .push(Reverse((self.now.0 + after, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.traced {
            return;
        }
        if self.trace.len() > 20_000 {
            self.trace.drain(..10_000);
        }
        let line = format!("{:>9.3} {}", (self.now.0 as f64 - 1e6) / 1000.0, text());
        // FNV-1a: any difference between two runs of a seed shows.
        for byte in line.bytes() {
            self.coverage.1 = (self.coverage.1 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.trace.push(line);
    }

    fn tail(&self) -> String {
        let from = self.trace.len().saturating_sub(4_000);
        let mut text = String::new();
        for line in &self.trace[from..] {
            let _ = writeln!(text, "{line}");
        }
        text
    }

    fn play(&mut self) -> Result<(), String> {
        if let Brain::Shipped(shipped) = &mut self.brain {
            let outputs = shipped.lead(self.now);
            self.outputs(outputs);
        }
        for node in 1..=self.nodes.len() as u64 {
            self.start(NodeId(node))?;
        }
        self.at(1_000, Happening::Client);
        self.at(1_500, Happening::Read);
        self.at(1_000, Happening::Coordinators);
        self.at(200_000, Happening::Fault);
        let faults_end = self.now.plus(Micros::from_millis(6_000));
        let end = faults_end.plus(Micros::from_millis(8_000));
        while let Some(Reverse((at, sequence))) = self.queue.pop() {
            if at > end.0 {
                break;
            }
            self.now = Micros(at);
            if !self.healing && self.now >= faults_end {
                self.heal()?;
            }
            if let Some(happening) = self.happenings.remove(&sequence) {
                self.happen(happening)?;
            }
        }
        if self.last_acknowledged < end.minus(Micros::from_millis(1_500)) {
            return Err(format!(
                "not live: the last write was acknowledged at {:.1} ms of {:.1}",
                (self.last_acknowledged.0 as f64 - 1e6) / 1000.0,
                (end.0 as f64 - 1e6) / 1000.0
            ));
        }
        Ok(())
    }

    fn heal(&mut self) -> Result<(), String> {
        self.healing = true;
        self.cut.clear();
        self.coordinators_away_until = Micros(0);
        self.say(|| "-- healing".into());
        for n in 0..self.nodes.len() {
            self.nodes[n].paused_until = Micros(0);
            let id = self.nodes[n].id;
            if self.nodes[n].core.is_none() && !self.retired.contains(&id.0) {
                self.start(id)?;
            }
        }
        Ok(())
    }

    fn start(&mut self, id: NodeId) -> Result<(), String> {
        let n = (id.0 - 1) as usize;
        if self.nodes[n].core.is_some() || self.retired.contains(&id.0) {
            return Ok(());
        }
        let (now, timing) = (self.now, self.timing);
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        if self.nodes[n].start(now, timing, &mut rng)? {
            self.coverage.count("tail dropped");
        }
        self.contents.check(&self.nodes[n], PARTITION)?;
        let session = self.nodes[n].session;
        self.say(|| format!("{id} starts, session {session}"));
        self.at(0, Happening::Tick(id, session));
        if let Some(record) = self.record()
            && now >= self.coordinators_away_until
            && !self.is_cut(COORDINATORS, id.0)
        {
            self.at(2_000, Happening::Record(id, record));
        }
        for other in 1..=self.nodes.len() as u64 {
            if other != id.0 {
                self.step(NodeId(other), Event::PeerConnected { peer: id })?;
            }
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), String> {
        if let Some(id) = happening.node() {
            let until = self.nodes[(id.0 - 1) as usize].paused_until;
            if until > self.now {
                let after = until.0 - self.now.0;
                self.at(after, happening);
                return Ok(());
            }
        }
        match happening {
            Happening::Tick(id, session) => {
                if self.alive(id, session) {
                    self.at(TICK.0, Happening::Tick(id, session));
                    let away =
                        self.now < self.coordinators_away_until || self.is_cut(id.0, COORDINATORS);
                    self.step(id, Event::Coordinators { reachable: !away })?;
                    self.step(id, Event::Tick)?;
                    if self.rng.random_bool(0.2) && !away {
                        self.beat(id, session);
                    }
                }
                Ok(())
            }
            Happening::Flushed(id, session) => {
                if !self.alive(id, session) {
                    return Ok(());
                }
                let number = self.node(id).flush()?;
                self.step(id, Event::Flushed { number })?;
                self.flush(id);
                if self.rng.random_bool(0.02) && self.node(id).idle()? {
                    self.coverage.count("segment reclaimed");
                }
                Ok(())
            }
            Happening::Probed(id, session) => {
                if !self.alive(id, session) {
                    return Ok(());
                }
                let number = self.node(id).probe()?;
                self.coverage.count("log probed");
                self.step(id, Event::Flushed { number })
            }
            Happening::Deliver { from, to, message } => {
                self.step(to, Event::Peer { from, message })
            }
            Happening::Record(id, record) => self.step(id, Event::Record { record }),
            Happening::Order(id, order) => self.step(id, Event::Order { order }),
            Happening::Report(from, report) => {
                self.say(|| format!("report {report:?}"));
                let now = self.now;
                match &mut self.brain {
                    Brain::StandIn(stand_in) => stand_in.report(now, report),
                    Brain::Shipped(shipped) => {
                        let outputs = shipped.step(now, Input::Report { from, report });
                        self.outputs(outputs);
                    }
                }
                Ok(())
            }
            Happening::Heartbeat(beat) => {
                let now = self.now;
                match &mut self.brain {
                    Brain::StandIn(stand_in) => {
                        for status in beat.partitions {
                            stand_in.status(beat.node, status);
                        }
                    }
                    Brain::Shipped(shipped) => {
                        let mut outputs = Vec::new();
                        if beat.sequence == 1 {
                            outputs = shipped.step(now, Input::StreamOpened { node: beat.node });
                        }
                        outputs.extend(shipped.step(now, Input::Heartbeat(beat)));
                        self.outputs(outputs);
                    }
                }
                Ok(())
            }
            Happening::StreamClosed(id, session) => {
                if self.alive(id, session) {
                    return Ok(());
                }
                let now = self.now;
                if let Brain::Shipped(shipped) = &mut self.brain {
                    let outputs = shipped.step(now, Input::StreamClosed { node: id });
                    self.outputs(outputs);
                }
                Ok(())
            }
            Happening::Proposal(id, command) => {
                self.decide(id, command);
                Ok(())
            }
            Happening::Late(term, command) => {
                self.commit_late(term, command);
                Ok(())
            }
            Happening::Elected => {
                let now = self.now;
                if let Brain::Shipped(shipped) = &mut self.brain {
                    let outputs = shipped.lead(now);
                    self.beats.clear();
                    self.outputs(outputs);
                }
                Ok(())
            }
            Happening::Applied(id, session, generation, index) => {
                if !self.alive(id, session) {
                    return Ok(());
                }
                if self.rng.random_bool(0.1) {
                    self.node(id).persist(PARTITION)?;
                }
                self.step(
                    id,
                    Event::Applied {
                        partition: PARTITION,
                        generation,
                        index,
                    },
                )
            }
            Happening::Fetched {
                node,
                session,
                from,
                generation,
            } => self.fetched(node, session, from, generation),
            Happening::Client => self.client(),
            Happening::Read => self.begin_read(),
            Happening::Look(_, number) => self.look(number),
            Happening::Coordinators => self.coordinate(),
            Happening::Fault => self.fault(),
            Happening::Start(id) => self.start(id),
        }
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[(id.0 - 1) as usize]
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        let until = self.cut.get(&(from, to));
        until.is_some_and(|until| *until > self.now)
    }

    fn alive(&self, id: NodeId, session: u64) -> bool {
        let node = &self.nodes[(id.0 - 1) as usize];
        node.core.is_some() && node.session == session
    }

    fn step(&mut self, id: NodeId, event: Event) -> Result<(), String> {
        let mut effects = Vec::new();
        let now = self.now;
        let quiet = matches!(event, Event::Tick | Event::Coordinators { .. });
        let traced = self.traced;
        let node = self.node(id);
        let clock = node.clock(now);
        let Some(core) = &mut node.core else {
            return Ok(());
        };
        let told = (traced && !quiet).then(|| format!("{id} <- {event:?}"));
        core.step(clock, event, &mut effects);
        if let Some(told) = told {
            self.say(|| told);
        }
        self.carry_out(id, effects)
    }

    fn carry_out(&mut self, id: NodeId, effects: Vec<Effect>) -> Result<(), String> {
        for effect in effects {
            match effect {
                Effect::Append(record) => {
                    self.say(|| format!("    {id} wal {record:?}"));
                    self.node(id).waiting.push(record);
                }
                Effect::Send { to, message } => self.send(id, to, message),
                Effect::Apply {
                    generation,
                    entries,
                    ..
                } => {
                    for entry in &entries {
                        self.ledger.applied(id, entry.mark())?;
                        self.contents.note(entry);
                    }
                    let node = self.node(id);
                    let session = node.session;
                    let index = node.apply(PARTITION, generation, &entries)?;
                    let after = self.rng.random_range(50..3_000);
                    self.at(after, Happening::Applied(id, session, generation, index));
                }
                Effect::Committed { index, .. } => self.committed(id, index)?,
                Effect::Deposed { epoch, .. } => {
                    self.say(|| format!("    {id} deposed of {epoch}"));
                    self.coverage.count("deposed");
                    let session = self.node(id).session;
                    self.pending.remove(&(id.0, session));
                }
                Effect::Report(report) => {
                    if self.now >= self.coordinators_away_until && !self.is_cut(id.0, COORDINATORS)
                    {
                        let after = self.rng.random_range(200..5_000);
                        self.at(after, Happening::Report(id, report));
                    }
                }
                Effect::FetchSnapshot {
                    from, generation, ..
                } => {
                    self.coverage.count("snapshot");
                    let session = self.node(id).session;
                    let after = self.rng.random_range(2_000..60_000);
                    self.at(
                        after,
                        Happening::Fetched {
                            node: id,
                            session,
                            from,
                            generation,
                        },
                    );
                }
                Effect::DropGeneration { generation, .. } => {
                    self.node(id).drop_generation(generation)?;
                }
                Effect::Reclaimable { index, .. } => self.node(id).reclaimable(PARTITION, index),
                Effect::ProbeLog => {
                    let session = self.node(id).session;
                    let after = self.rng.random_range(100..1_500);
                    self.at(after, Happening::Probed(id, session));
                }
                Effect::Standing { .. } | Effect::Mended { .. } | Effect::Everywhere { .. } => {}
                Effect::Proved {
                    level,
                    before,
                    proof,
                    ..
                } => self.proved(id, level, before, proof),
            }
        }
        self.flush(id);
        let now = self.now;
        self.ledger.check(&self.nodes, PARTITION, now)
    }

    fn flush(&mut self, id: NodeId) {
        let slow = self.rng.random_bool(0.02);
        let after = if slow && !self.healing {
            self.rng.random_range(20_000..400_000)
        } else {
            self.rng.random_range(100..1_500)
        };
        let node = self.node(id);
        if node.core.is_none() || !node.writing.is_empty() || node.waiting.is_empty() {
            return;
        }
        node.writing = std::mem::take(&mut node.waiting);
        let session = node.session;
        self.at(after, Happening::Flushed(id, session));
    }

    fn send(&mut self, from: NodeId, to: NodeId, mut message: PeerMessage) {
        self.tamper(&mut message);
        if self.is_cut(from.0, to.0) {
            return;
        }
        let faulty = !self.healing;
        if faulty && self.rng.random_bool(0.01) {
            self.coverage.count("drop");
            return;
        }
        let mut after = self.rng.random_range(50..800);
        if faulty && self.rng.random_bool(0.02) {
            after += self.rng.random_range(1_000..200_000);
            self.coverage.count("delay");
        }
        if faulty && self.rng.random_bool(0.01) {
            self.coverage.count("duplicate");
            let late = after + self.rng.random_range(100..50_000);
            self.at(
                late,
                Happening::Deliver {
                    from,
                    to,
                    message: message.clone(),
                },
            );
        }
        self.at(after, Happening::Deliver { from, to, message });
    }

    fn committed(&mut self, id: NodeId, index: Index) -> Result<(), String> {
        let session = self.node(id).session;
        let Some(pending) = self.pending.get_mut(&(id.0, session)) else {
            return Ok(());
        };
        let later = pending.split_off(&index.next());
        let done = std::mem::replace(pending, later);
        for (_, mark) in done {
            self.ledger.acknowledge(mark)?;
            self.coverage.count("write acknowledged");
            self.last_acknowledged = self.now;
        }
        Ok(())
    }

    fn client(&mut self) -> Result<(), String> {
        // Peace is there to see that there is service: few writes will do.
        let pause = if self.healing { 5 } else { 1 };
        let after = self.rng.random_range(500 * pause..8_000 * pause);
        self.at(after, Happening::Client);
        let now = self.now;
        for n in 0..self.nodes.len() {
            if self.nodes[n].paused_until > now {
                continue;
            }
            let id = self.nodes[n].id;
            let clock = self.nodes[n].clock(now);
            self.written += 1;
            let body = body(self.written);
            let mut effects = Vec::new();
            let node = &mut self.nodes[n];
            let Some(core) = &mut node.core else { continue };
            let position = match core.propose(clock, PARTITION, body, &mut effects) {
                Ok(position) => position,
                Err(refusal) => {
                    match refusal {
                        ProposeError::PushedBack => self.coverage.count("write pushed back"),
                        ProposeError::Overloaded => {
                            self.coverage.count("write refused, overloaded")
                        }
                        ProposeError::NotPrimary | ProposeError::DiskFull => {}
                    }
                    continue;
                }
            };
            let mark = effects.iter().find_map(|e| match e {
                Effect::Append(cairn_core::replication::DurableRecord::Entry { entry, .. }) => {
                    Some(entry.mark())
                }
                _ => None,
            });
            let session = node.session;
            if let Some(mark) = mark {
                self.pending
                    .entry((id.0, session))
                    .or_default()
                    .insert(position.index, mark);
            }
            self.carry_out(id, effects)?;
        }
        Ok(())
    }

    fn fault(&mut self) -> Result<(), String> {
        if self.healing {
            return Ok(());
        }
        let after = self.rng.random_range(10_000..300_000);
        self.at(after, Happening::Fault);
        let n = self.rng.random_range(0..self.nodes.len());
        let id = self.nodes[n].id;
        if self.retired.contains(&id.0) {
            return Ok(());
        }
        match self.rng.random_range(0..11) {
            0..=3 => {
                let power_loss = self.rng.random_bool(0.5);
                if self.nodes[n].core.is_some() {
                    let mut rng = StdRng::seed_from_u64(self.rng.random());
                    self.nodes[n].crash(&mut rng, power_loss);
                    self.say(|| format!("{id} crashes, power loss {power_loss}"));
                    self.coverage
                        .count(if power_loss { "power loss" } else { "crash" });
                    let session = self.nodes[n].session;
                    self.at(5_000, Happening::StreamClosed(id, session));
                    let after = self.rng.random_range(1_000..800_000);
                    self.at(after, Happening::Start(id));
                }
            }
            4 | 5 => {
                let until = self
                    .now
                    .plus(Micros(self.rng.random_range(1_000..1_000_000)));
                self.nodes[n].paused_until = until;
                self.say(|| format!("{id} is paused until {until:?}"));
                self.coverage.count("pause");
            }
            6..=8 => {
                let until = self
                    .now
                    .plus(Micros(self.rng.random_range(10_000..1_500_000)));
                let one_way = self.rng.random_bool(0.4);
                self.coverage
                    .count(if one_way { "one-way cut" } else { "partition" });
                for other in COORDINATORS..=self.nodes.len() as u64 {
                    let likely = if other == COORDINATORS { 0.4 } else { 0.7 };
                    if other != id.0 && self.rng.random_bool(likely) {
                        self.cut.insert((id.0, other), until);
                        if !one_way {
                            self.cut.insert((other, id.0), until);
                        }
                    }
                }
                self.say(|| format!("{id} is cut off until {until:?}, one way {one_way}"));
            }
            9 => self.wipe(n),
            _ => {
                if let Brain::Shipped(shipped) = &mut self.brain {
                    // An election: another leader, who has heard nothing yet.
                    shipped.resign();
                    let after = self.rng.random_range(50_000..900_000);
                    self.at(after, Happening::Elected);
                    self.coverage.count("election");
                    return Ok(());
                }
                self.coordinators_away_until = self
                    .now
                    .plus(Micros(self.rng.random_range(100_000..1_500_000)));
                self.say(|| "the coordinators are away".into());
                self.coverage.count("coordinators away");
            }
        }
        Ok(())
    }

    fn fetched(
        &mut self,
        id: NodeId,
        session: u64,
        from: NodeId,
        generation: Generation,
    ) -> Result<(), String> {
        if !self.alive(id, session) {
            return Ok(());
        }
        let source = &self.nodes[(from.0 - 1) as usize];
        let copy = source.core.as_ref().and_then(|core| {
            let standing = core.standing(PARTITION)?;
            let (mark, rows) = source.snapshot(standing.generation).ok()?;
            Some((mark, core.lineage_up_to(PARTITION, mark), rows))
        });
        match copy {
            Some((mark, lineage, rows)) if mark.index() > Index::ZERO => {
                self.node(id).install(generation, mark, &lineage, rows)?;
                self.coverage.count("snapshot installed");
                let partition = PARTITION;
                let event = Event::SnapshotFetched {
                    partition,
                    generation,
                    mark,
                    lineage,
                };
                self.step(id, event)
            }
            _ => self.step(
                id,
                Event::SnapshotFailed {
                    partition: PARTITION,
                    generation,
                },
            ),
        }
    }
}

/// A write of one key, as the engine encodes it.
fn body(number: u64) -> Bytes {
    let value = StoredValue {
        expires_at: None,
        kind: 0,
        data: Bytes::from(format!("value {number}")),
    };
    let key = Bytes::from(format!("key {}", number % 100));
    EntryBody {
        writes: vec![(key, Some(value))],
        ..EntryBody::default()
    }
    .encode()
}

impl Happening {
    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Tick(id, _)
            | Self::Flushed(id, _)
            | Self::Probed(id, _)
            | Self::Record(id, _)
            | Self::Order(id, _)
            | Self::Applied(id, ..)
            | Self::Fetched { node: id, .. }
            | Self::Look(id, _)
            | Self::Deliver { to: id, .. } => Some(*id),
            _ => None,
        }
    }
}
