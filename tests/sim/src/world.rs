//! The world: a queue of events in simulated time, the nodes, the network.

mod clients;
mod confined;
mod copies;
mod effects;
mod faults;
mod govern;
mod membership;
mod near;
mod partitions;
mod reads;
mod rotation;
pub mod scenarios;
pub(crate) mod tallies;

pub use reads::Planted;

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use cairn_core::cluster::command::Command;
use cairn_core::cluster::report::{Heartbeat, Order, ReplicaReport};
use cairn_core::cluster::settings::SettingsRequest;
use cairn_core::cluster::supervisor::{Input, ProposalId};
use cairn_core::ids::{Index, Micros, NodeId, PartitionId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{DiskRoom, Event, Generation, PeerMessage, Timing};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use copies::Copy;

use crate::coordinators::Coordinators;
use crate::edge::{Answer, Caller, Edge, Work};
use crate::node::{Node, Started};
use crate::plan::{self, Fault, Kind, Layout, Mask, Noise};
use crate::report::{Coverage, Failure, SIMULATED};
use crate::shipped::{self, Shipped};

/// The coordinators, among those who are cut off from each other.
const COORDINATORS: u64 = 0;
const TICK: Micros = Micros::from_millis(10);
/// For how long there are faults, and for how long there are none after them.
const FAULTS: Micros = Micros::from_millis(6_000);
const PEACE: Micros = Micros::from_millis(8_000);
/// Within this after the faults every copy has to be where it belongs.
const SETTLING: Micros = Micros::from_millis(40_000);
/// What the nodes of a run may send to learners that are far behind, in bytes a second; 0
/// for any: a few entries of a partition at a tick, and some more.
const CATCH_UP_RATES: [u64; 4] = [0, 20_000, 0, 100_000];
const SECOND: Micros = Micros::from_millis(1_000);

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
    Applied(NodeId, u64, PartitionId, Generation, Index),
    Copy(Box<Copy>),
    /// A client begins a write.
    Client(usize),
    /// A client's try reaches a node.
    Request(NodeId, PartitionId, Work),
    /// A node lets go the increments of a partition that it gathered.
    LetGo(NodeId, u64, PartitionId),
    /// An answer reaches a client.
    Reply(Caller, Answer),
    /// A client has waited long enough for an answer to a try.
    Patience(Caller),
    /// A client tries again.
    Retry(Caller),
    /// A client of the striped counter begins a request.
    TallyBegins(usize),
    /// A try of such a client has an answer, or has waited long enough for one.
    Tally(u64, Option<cairn_core::counters::Answer>),
    /// It is made again.
    TallyAgain(u64),
    Read,
    Look(NodeId, u64),
    /// Of clients that keep what they read.
    Near(near::Happens),
    Coordinators,
    Fault(Fault),
    /// An ambush strikes.
    Strike(NodeId, Kind, u64),
    /// Perhaps others reach each other from now on.
    Turn,
    /// What is to happen to a replica that hears its primary alone.
    Confined(confined::Confined),
    Room(NodeId, u64, DiskRoom),
    /// The disk of a node that is no member any more is thrown away.
    Discard(NodeId),
    /// A node that drained ends.
    Stop(NodeId, u64),
    /// A node hears of the cluster's lease.
    Lease(NodeId, Micros),
    /// Its disk knows of the longest one.
    LeaseSaved(NodeId, u64, Micros),
    Start(NodeId),
}

/// Who decides.
enum Brain {
    /// Restless stand-ins, one for each partition, which change things for no reason.
    StandIn(Vec<Coordinators>),
    /// The shipped coordinators.
    Shipped(Box<Shipped>),
}

/// How a run is to be made, beside its seed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Which faults are left out.
    pub without: Mask,
    /// Whether a trace is kept, which takes most of the time.
    pub trace: bool,
    /// A mistake that is made on purpose.
    pub planted: Option<Planted>,
    /// Whether W is 1, which few seeds draw.
    pub lossy: bool,
    /// How many partitions there are, where the seed is not to say it.
    pub partitions: Option<u32>,
    /// The shipped coordinators' cluster as it begins, where the seed is not to say it.
    pub cluster: Option<Cluster>,
}

/// A cluster as it begins.
#[derive(Clone, Copy, Debug)]
pub struct Cluster {
    /// How many nodes.
    pub nodes: u64,
    /// RF.
    pub replicas: u64,
    /// W.
    pub write_quorum: u8,
}

/// What happens at a time, in the order of that, and then of when it was decided on.
struct Scheduled {
    at: u64,
    sequence: u64,
    happening: Box<Happening>,
}

impl Scheduled {
    const fn place(&self) -> (u64, u64) {
        (self.at, self.sequence)
    }
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    fn cmp(&self, other: &Self) -> Ordering {
        self.place().cmp(&other.place())
    }
}

struct World {
    options: Options,
    rng: StdRng,
    now: Micros,
    queue: BinaryHeap<Reverse<Scheduled>>,
    sequence: u64,
    nodes: Vec<Node>,
    timing: Timing,
    brain: Brain,
    beats: BTreeMap<u64, (u64, u64)>,
    /// Nodes that lost their disk for good.
    retired: BTreeSet<u64>,
    seats: BTreeMap<u64, u64>,
    /// A copy was lost in this run: no protocol gives back more than one at a time.
    copy_lost: bool,
    coordinators_away_until: Micros,
    cut: BTreeMap<(u64, u64), Micros>,
    slow: BTreeMap<(u64, u64), (Micros, u64)>,
    rotation: Option<rotation::Rotation>,
    ambush: Option<faults::Ambush>,
    /// How restless the shipped coordinators are made.
    unrest: govern::Unrest,
    membership: membership::Membership,
    partitions: partitions::Partitions,
    edges: BTreeMap<(NodeId, PartitionId), Edge>,
    clients: clients::Clients,
    tallies: tallies::Tallies,
    coverage: Coverage,
    trace: Vec<String>,
    healing: bool,
    /// Clients write nothing any more.
    quiet: bool,
    /// Until when clients begin no write to a partition.
    hushed: BTreeMap<PartitionId, Micros>,
    silence: Option<confined::Silence>,
    /// Whether who no longer serves tells the coordinators at once.
    urged: bool,
    reads: BTreeMap<u64, reads::Read>,
    reads_begun: u64,
    proofs: BTreeMap<(u64, u64, PartitionId), reads::Proofs>,
    near: near::Keepers,
}

/// Runs one seed.
///
/// # Errors
/// The first broken invariant.
pub fn run(seed: u64) -> Result<Coverage, Box<Failure>> {
    run_with(seed, &Options::default())
}

/// Runs one seed with a mistake in it.
///
/// # Errors
/// The first broken invariant.
pub fn run_planted(seed: u64, planted: Option<Planted>) -> Result<Coverage, Box<Failure>> {
    run_with(
        seed,
        &Options {
            planted,
            ..Options::default()
        },
    )
}

/// Runs one seed.
///
/// # Errors
/// The first broken invariant.
pub fn run_with(seed: u64, options: &Options) -> Result<Coverage, Box<Failure>> {
    play(seed, options).0
}

/// Runs one seed and tells all its steps, whatever came of it.
pub fn trace(seed: u64, options: &Options) -> (Result<Coverage, Box<Failure>>, String) {
    let options = Options {
        trace: true,
        ..options.clone()
    };
    play(seed, &options)
}

fn play(seed: u64, options: &Options) -> (Result<Coverage, Box<Failure>>, String) {
    let mut world = World::new(seed, options);
    let result = played(seed, &mut world, |world| world.play(seed));
    (result, world.trace.join("\n"))
}

/// What came of playing a world.
fn played(
    seed: u64,
    world: &mut World,
    play: impl FnOnce(&mut World) -> Result<(), String>,
) -> Result<Coverage, Box<Failure>> {
    // A panic is the core's own assertion: an invariant like the others.
    let played = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| play(world)));
    let result = match played {
        Ok(Ok(())) => Ok(std::mem::take(&mut world.coverage)),
        Ok(Err(what)) => Err(what),
        Err(panic) => {
            let words = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!(
                "assertion: {}",
                words.unwrap_or("a panic without words")
            ))
        }
    };
    result.map_err(|what| Box::new(Failure { seed, what }))
}

/// The numbers of everything that may be left out of a run, see [`Options::without`].
#[must_use]
pub fn faults_of(seed: u64) -> Vec<u32> {
    plan::numbers(&plan_of(seed))
}

fn plan_of(seed: u64) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x0070_6c61_6e00);
    let begin = START.plus(Micros::from_millis(200));
    plan::draw(seed, &mut rng, begin, START.plus(FAULTS))
}

fn layout_of(seed: u64, options: &Options) -> Layout {
    let mut rng = StdRng::seed_from_u64(seed ^ 0x7061_7274_7300);
    let drawn = plan::layout(&mut rng);
    Layout {
        partitions: options.partitions.unwrap_or(drawn.partitions),
        ..drawn
    }
}

/// When a run begins.
const START: Micros = Micros(1_000_000);

impl World {
    fn new(seed: u64, options: &Options) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let calm = plan::is_calm(seed);
        let replicas = rng.random_range(2..=5u64);
        let nodes = replicas + rng.random_range(0..=2u64);
        // Stand-ins know no way to lose a write.
        let stand_in = seed.is_multiple_of(2) && !options.lossy && options.cluster.is_none();
        let lossy = !stand_in && (rng.random_bool(0.25) || options.lossy);
        let write_quorum = match lossy {
            true => 1,
            false => rng.random_range(2..=replicas) as u8,
        };
        let drawn = Cluster {
            nodes,
            replicas,
            write_quorum,
        };
        let Cluster {
            nodes,
            replicas,
            write_quorum,
        } = options.cluster.unwrap_or(drawn);
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
            window_bytes: [400, 1_500, 4_096][rng.random_range(0..3)],
            log_bytes: if rng.random_bool(0.5) { 2_000 } else { 1 << 20 },
            keep_bytes: if rng.random_bool(0.5) { 2_000 } else { 1 << 18 },
            unapplied_bytes: if rng.random_bool(0.5) {
                20_000
            } else {
                1 << 20
            },
            push_back: Micros::from_millis(1_000),
            read_lease_at: 1,
            read_lease_parts: match rng.random_range(1..=8) {
                parts if calm => parts / 4 + 1,
                parts => parts,
            },
            // As long as the primary's own where much time is needed to see what comes of one.
            read_lease_max: match calm {
                true => lease,
                false => Micros::from_millis(100),
            },
        };
        let layout = layout_of(seed, options);
        let partitions = layout.partitions;
        let brain = if stand_in {
            let each = (0..partitions)
                .map(|id| Coordinators::new(id, layout, nodes, replicas, write_quorum));
            Brain::StandIn(each.collect())
        } else {
            let lease_ms = lease.0 / 1000;
            let settings = SettingsRequest {
                replication_factor: Some(replicas as u8),
                write_quorum: Some(write_quorum),
                partitions: Some(partitions),
                data_nodes: Some(nodes as u32),
                lease_ms: Some(lease_ms),
                node_timeout_ms: Some([300, 700, 1_500][rng.random_range(0..3)]),
                replace_after_ms: Some([0, 200, 1_000, 300_000][rng.random_range(0..4)]),
                moves_per_node: Some(rng.random_range(1..=3)),
                ..SettingsRequest::default()
            };
            let mut supervisor = shipped::restless(&mut rng);
            if calm {
                // It names another primary as soon as it may.
                supervisor.gather = TICK;
            }
            let shipped = Shipped::new(settings, supervisor);
            Brain::Shipped(Box::new(shipped.expect("legal settings")))
        };
        let seats = (1..=nodes).map(|n| (n, n)).collect();
        let nodes = (1..=nodes)
            .map(|n| {
                let mut node = Node::new(NodeId(n), timing, &mut rng);
                // Not drawn from `rng`: seeds are to mean what they meant.
                node.catch_up_rate = CATCH_UP_RATES[(seed / 2) as usize % CATCH_UP_RATES.len()];
                node
            })
            .collect();
        let clients = clients::Clients::new(&mut rng);
        let unrest = match govern::Unrest::draw(&mut rng) {
            _ if calm => govern::Unrest::NONE,
            unrest => unrest,
        };
        Self {
            options: options.clone(),
            rng,
            now: START,
            queue: BinaryHeap::new(),
            sequence: 0,
            nodes,
            timing,
            brain,
            beats: BTreeMap::new(),
            retired: BTreeSet::new(),
            seats,
            copy_lost: false,
            coordinators_away_until: Micros(0),
            cut: BTreeMap::new(),
            slow: BTreeMap::new(),
            rotation: None,
            ambush: None,
            unrest,
            membership: membership::Membership::default(),
            partitions: partitions::Partitions::new(partitions, write_quorum == 1),
            edges: BTreeMap::new(),
            clients,
            tallies: tallies::Tallies::new(seed),
            coverage: Coverage::default(),
            trace: Vec::new(),
            healing: false,
            quiet: false,
            hushed: BTreeMap::new(),
            silence: None,
            urged: calm,
            reads: BTreeMap::new(),
            reads_begun: 0,
            proofs: BTreeMap::new(),
            near: near::Keepers::new(seed),
        }
    }

    fn at(&mut self, after: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.push(Reverse(Scheduled {
            at: self.now.0 + after,
            sequence: self.sequence,
            happening: Box::new(happening),
        }));
    }

    fn say(&mut self, text: impl FnOnce() -> String) {
        if !self.options.trace {
            return;
        }
        let line = format!("{:>9.3} {}", millis(self.now), text());
        // FNV-1a: any difference between two runs of a seed shows.
        for byte in line.bytes() {
            self.coverage.1 = (self.coverage.1 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.trace.push(line);
    }

    /// Whether something goes wrong that does so all the time, with that probability.
    fn noise(&mut self, noise: Noise, probability: f64) -> bool {
        let strikes = self.rng.random_bool(probability);
        strikes && !self.healing && !self.options.without.contains(&(noise as u32))
    }

    fn play(&mut self, seed: u64) -> Result<(), String> {
        self.begin()?;
        for fault in plan_of(seed) {
            if !self.options.without.contains(&fault.number) {
                self.at(fault.at.0 - self.now.0, Happening::Fault(fault));
            }
        }
        self.run_until(START.plus(FAULTS))?;
        self.heal()?;
        self.make_peace()
    }

    /// Everyone starts.
    fn begin(&mut self) -> Result<(), String> {
        let several = self.partitions.count();
        if several > 1 {
            self.coverage.count("several partitions");
            self.say(|| format!("-- {several} partitions"));
        }
        self.observe_records()?;
        if let Brain::Shipped(shipped) = &mut self.brain {
            let outputs = shipped.lead(self.now);
            self.outputs(outputs)?;
        }
        for node in 1..=self.nodes.len() as u64 {
            self.start(NodeId(node))?;
        }
        for client in 0..self.clients.count() {
            self.at(1_000, Happening::Client(client));
        }
        for client in 0..self.tallies.count() {
            self.at(1_200, Happening::TallyBegins(client));
        }
        self.at(1_500, Happening::Read);
        self.begin_to_keep();
        self.at(1_000, Happening::Coordinators);
        Ok(())
    }

    /// The next thing happens, if there is one up to a time. Whether there was; else it is
    /// that time.
    fn next_until(&mut self, until: Micros) -> Result<bool, String> {
        match self.queue.pop() {
            Some(Reverse(next)) if next.at <= until.0 => {
                self.now = Micros(next.at);
                self.happen(*next.happening)?;
                Ok(true)
            }
            later => {
                self.queue.extend(later);
                self.now = until;
                Ok(false)
            }
        }
    }

    fn run_until(&mut self, until: Micros) -> Result<(), String> {
        while self.next_until(until)? {}
        Ok(())
    }

    /// Nothing goes wrong any more, until everything is settled and serves.
    fn make_peace(&mut self) -> Result<(), String> {
        let began = self.now;
        self.run_until(began.plus(PEACE))?;
        while self.settled().is_err() && self.now < began.plus(SETTLING) {
            self.run_until(self.now.plus(SECOND))?;
        }
        let end = self.now;
        self.coverage.add(SIMULATED, end.0 - START.0);
        if self.may_lose_writes() {
            self.coverage.count("W is 1");
        }
        self.settled()?;
        let longest = self.timing.lease_longest;
        for partition in self.partitions.ids() {
            let invariants = &mut self.partitions[partition].invariants;
            let live = invariants.liveness.check(end, longest);
            live.map_err(self.partitions.broken(partition))?;
            let judged = self.partitions[partition].invariants.history.judge();
            let undecided = judged.map_err(self.partitions.broken(partition))?;
            self.coverage
                .add("history that the search cannot decide", undecided);
        }
        self.judge_tallies()?;
        self.quiet = true;
        self.run_until(self.now.plus(SECOND))?;
        self.check_kept()
    }

    fn start(&mut self, id: NodeId) -> Result<(), String> {
        if self.node(id).core.is_some() || self.retired.contains(&id.0) {
            return Ok(());
        }
        let now = self.now;
        let mut rng = StdRng::seed_from_u64(self.rng.random());
        match self.node(id).start(now, &mut rng)? {
            Started::Unusable(why) => {
                self.say(|| format!("{id} cannot start: {why}"));
                self.coverage.count("log that cannot be read");
                return self.replace(id);
            }
            Started::Running {
                dropped_tail,
                recovered,
            } => {
                if dropped_tail {
                    self.coverage.count("tail dropped");
                }
                let corrupt = recovered.iter().filter(|found| found.corrupt);
                let corrupt: BTreeSet<_> = corrupt.map(|found| found.meta.partition).collect();
                if !corrupt.is_empty() {
                    self.coverage.count("damage found");
                }
                self.node(id).corrupt = corrupt;
                for partition in self.partitions.ids() {
                    let found = recovered.iter().find(|f| f.meta.partition == partition);
                    let recovered = self.partitions[partition].invariants.recovered(id, found);
                    recovered.map_err(self.partitions.broken(partition))?;
                    if let Some(found) = found.filter(|found| !found.corrupt) {
                        self.holds(id, partition, found.meta.generation)?;
                    }
                }
            }
        }
        let session = self.node(id).session;
        self.say(|| format!("{id} starts, session {session}"));
        self.at(0, Happening::Tick(id, session));
        if self.node(id).full_until > now {
            let until = self.node(id).full_until;
            self.step(
                id,
                Event::DiskRoom {
                    room: DiskRoom::Reserve,
                },
            )?;
            self.at(
                until.0 - now.0,
                Happening::Room(id, session, DiskRoom::Ample),
            );
        }
        let tells = now >= self.coordinators_away_until && !self.is_cut(COORDINATORS, id.0);
        let records: Vec<_> = self.records().filter(|_| tells).collect();
        // There is no map before the table was made.
        let map = !records.is_empty();
        for record in records {
            self.at(2_000, Happening::Record(id, record));
        }
        if map {
            let lease = self.timing.lease;
            self.at(2_000, Happening::Lease(id, lease));
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
            let until = self.node(id).paused_until;
            if until > self.now {
                let after = until.0 - self.now.0;
                self.at(after, happening);
                return Ok(());
            }
        }
        if let Some((id, session)) = happening.process()
            && !self.alive(id, session)
        {
            return Ok(());
        }
        match happening {
            Happening::Tick(id, session) => self.tick(id, session),
            Happening::Flushed(id, _) => self.flushed(id),
            Happening::Probed(id, _) => self.probed(id),
            Happening::Deliver { from, to, message } => {
                self.step(to, Event::Peer { from, message })
            }
            Happening::Record(id, record) => self.tell_record(id, record),
            Happening::Order(id, order) => self.step(id, Event::Order { order }),
            Happening::Report(from, report) => self.report(from, report),
            Happening::Heartbeat(beat) => self.heartbeat(beat),
            Happening::StreamClosed(id, session) => {
                if self.alive(id, session) {
                    return Ok(());
                }
                self.supervise(Input::StreamClosed { node: id })
            }
            Happening::Proposal(id, command) => self.decide(id, command),
            Happening::Late(term, command) => self.commit_late(term, command),
            Happening::Elected => self.elected(),
            Happening::Applied(id, _, partition, generation, index) => {
                self.applied(id, partition, generation, index)
            }
            Happening::Copy(copy) => self.go_on_copying(*copy),
            Happening::Client(client) => self.client(client),
            Happening::Request(id, partition, work) => self.request(id, partition, work),
            Happening::LetGo(id, _, partition) => self.let_go(id, partition),
            Happening::Reply(caller, answer) => self.reply(caller, answer),
            Happening::Patience(caller) => self.out_of_patience(caller),
            Happening::Retry(caller) => self.retry(caller),
            Happening::TallyBegins(client) => self.tally(client),
            Happening::Tally(number, answer) => self.tally_told(number, answer),
            Happening::TallyAgain(number) => self.tally_again(number),
            Happening::Read => self.begin_read(),
            Happening::Look(_, number) => self.look(number),
            Happening::Near(happens) => self.near(happens),
            Happening::Coordinators => self.coordinate(),
            Happening::Fault(fault) => self.fault(fault),
            Happening::Strike(id, kind, seed) => {
                self.strike(kind, id, &mut StdRng::seed_from_u64(seed))
            }
            Happening::Turn => self.turn(),
            Happening::Confined(confined) => self.confined(confined),
            Happening::Room(id, _, room) => self.step(id, Event::DiskRoom { room }),
            Happening::Discard(id) => {
                self.discard(id);
                Ok(())
            }
            Happening::Stop(id, _) => {
                self.stop(id);
                Ok(())
            }
            Happening::Lease(id, lease) => self.hear_of_lease(id, lease),
            Happening::LeaseSaved(id, _, longest) => self.lease_saved(id, longest),
            Happening::Start(id) => self.start(id),
        }
    }

    fn tick(&mut self, id: NodeId, session: u64) -> Result<(), String> {
        self.at(TICK.0, Happening::Tick(id, session));
        let away = self.now < self.coordinators_away_until || self.is_cut(id.0, COORDINATORS);
        self.step(id, Event::Coordinators { reachable: !away })?;
        self.step(id, Event::Tick)?;
        if self.alive(id, session) {
            self.renew_reads(id, session)?;
        }
        if self.rng.random_bool(0.2) && !away {
            self.beat(id, session);
        }
        if self.rng.random_bool(0.03) && !self.quiet {
            self.expire_due(id)?;
        }
        Ok(())
    }

    fn node(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[(id.0 - 1) as usize]
    }

    /// How many times as long clients think: what is to be seen after the faults is that
    /// the cluster serves.
    fn leisure(&self) -> u64 {
        if self.healing { 4 } else { 1 }
    }

    fn is_cut(&self, from: u64, to: u64) -> bool {
        let until = self.cut.get(&(from, to));
        until.is_some_and(|until| *until > self.now)
    }

    fn alive(&self, id: NodeId, session: u64) -> bool {
        let node = &self.nodes[(id.0 - 1) as usize];
        node.core.is_some() && node.session == session
    }
}

fn millis(at: Micros) -> f64 {
    (at.0 as f64 - START.0 as f64) / 1000.0
}

impl Happening {
    /// The process that it is for, where it is nothing to one that starts later.
    fn process(&self) -> Option<(NodeId, u64)> {
        match self {
            Self::Tick(id, session)
            | Self::Flushed(id, session)
            | Self::Probed(id, session)
            | Self::Applied(id, session, ..)
            | Self::LetGo(id, session, _)
            | Self::Room(id, session, _)
            | Self::Stop(id, session)
            | Self::LeaseSaved(id, session, _) => Some((*id, *session)),
            _ => None,
        }
    }

    fn node(&self) -> Option<NodeId> {
        match self {
            Self::Tick(id, _)
            | Self::Flushed(id, _)
            | Self::Probed(id, _)
            | Self::Record(id, _)
            | Self::Order(id, _)
            | Self::Applied(id, ..)
            | Self::LetGo(id, ..)
            | Self::Request(id, ..)
            | Self::Room(id, ..)
            | Self::Lease(id, _)
            | Self::LeaseSaved(id, ..)
            | Self::Look(id, _)
            | Self::Deliver { to: id, .. } => Some(*id),
            Self::Near(happens) => happens.node(),
            _ => None,
        }
    }
}
