//! A world small enough to read: data nodes that do what replication promises, in
//! broad strokes, and a Raft log that commits what it is given.
//!
//! A replica here is a promise, a head, a grant and a role. It answers orders,
//! follows whoever leads, serves once its barrier is on W of each set, and grants
//! leases. Messages take a millisecond; heartbeats come every 100.

mod faults;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::command::{Command, NodeRegistration, Refusal, Response};
use crate::cluster::report::{
    FollowerStatus, Heartbeat, HeatReport, NodeFigures, Order, PartitionStatus, ReplicaReport,
    Role, Wish,
};
use crate::cluster::settings::SettingsRequest;
use crate::cluster::state::ClusterState;
use crate::cluster::supervisor::{
    Input, Output, ProposalId, ProposalOutcome, Supervisor, SupervisorOptions,
};
use crate::ids::{Epoch, Index, Micros, NodeId, PartitionId, Position};
use crate::record::{Addresses, ClusterSettings, Member, PartitionRecord};

pub(super) const MS: u64 = 1_000;
const SLICE: u64 = 5 * MS;
const LATENCY: u64 = MS;
const LEASE: u64 = 400 * MS;

/// SplitMix64: enough to draw faults from a seed.
pub(super) struct Draw(pub(super) u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

#[derive(Debug, Clone)]
pub(super) struct SimReplica {
    pub(super) member: Member,
    pub(super) promised: Epoch,
    /// The promise that a power cut leaves, and when the newer one is flushed.
    flushed_promise: Epoch,
    flushed_at: u64,
    pub(super) head: Position,
    pub(super) whole: bool,
    /// Not whole, but for one range of entries, which the others have.
    intact: bool,
    role: Role,
    wish: Wish,
    pub(super) granted_until: u64,
    granted_in: Epoch,
    /// Until when the process before this one may have granted, whatever is given back.
    started_until: u64,
    /// The epoch that this process rose in, if it did.
    rose: Option<Epoch>,
    /// When a handover ends.
    hands_over_at: Option<u64>,
}

impl SimReplica {
    /// Promises an epoch; it is flushed after `delay`.
    fn promise(&mut self, now: u64, epoch: Epoch, delay: u64) {
        self.settle(now);
        if epoch > self.promised {
            self.promised = epoch;
            self.flushed_at = now + delay;
            self.settle(now);
        }
    }

    /// Whether everything that was promised is flushed.
    fn settle(&mut self, now: u64) -> bool {
        if now >= self.flushed_at {
            self.flushed_promise = self.promised;
        }
        self.flushed_promise == self.promised
    }
}

#[derive(Debug)]
pub(super) struct SimNode {
    pub(super) name: String,
    pub(super) alive: bool,
    /// Whether it and the coordinators hear each other.
    pub(super) connected: bool,
    /// Answers no orders.
    pub(super) mute: bool,
    /// How long a promise takes to be flushed.
    pub(super) flush: u64,
    pub(super) draining: bool,
    pub(super) stopped: bool,
    /// Its ports answer its peers, and its engine does nothing more.
    pub(super) hung: bool,
    /// Its port for clients gives no answer; all else works.
    pub(super) deaf: bool,
    /// What it tells of its disk.
    pub(super) figures: Option<NodeFigures>,
    pub(super) heat: Option<HeatReport>,
    stream_open: bool,
    session: u64,
    sequence: u64,
    full: bool,
    next_heartbeat: u64,
    pub(super) replicas: BTreeMap<PartitionId, SimReplica>,
    known: BTreeMap<PartitionId, Arc<PartitionRecord>>,
}

#[derive(Debug)]
enum Delivery {
    Commit(ProposalId, Command),
    Order(NodeId, Order),
    Report(NodeId, ReplicaReport, bool),
}

pub(super) struct World {
    pub(super) now: u64,
    pub(super) supervisor: Supervisor,
    pub(super) state: ClusterState,
    pub(super) raft_up: bool,
    /// Whether entries are refused as a whole, whatever they hold.
    pub(super) refuse_entries: bool,
    /// Where set, orders and reports are delayed and lost as drawn from it.
    pub(super) weather: Option<Draw>,
    /// Whether clients write all the time.
    pub(super) writes: bool,
    /// What every replica takes on its disk, if that is told.
    pub(super) replica_bytes: Option<u64>,
    raft_index: u64,
    term: u64,
    pub(super) nodes: BTreeMap<NodeId, SimNode>,
    /// Pairs that do not reach each other, smaller first.
    pub(super) cut: BTreeSet<(NodeId, NodeId)>,
    /// Nodes whose replicas do not catch up while clients write.
    pub(super) slow: BTreeSet<NodeId>,
    deliveries: Vec<(u64, u64, Delivery)>,
    next_delivery: u64,
    next_tick: u64,
    /// Everything that happened, for transcripts.
    pub(super) trace: Vec<(u64, Traced)>,
    /// Every primary that was ever named, by partition and epoch.
    pub(super) named: BTreeMap<(PartitionId, Epoch), Member>,
    /// The last acknowledged entry of each partition.
    acknowledged: BTreeMap<PartitionId, Position>,
    /// Until when a primary that was cut off might still answer, and in which epoch.
    leased: BTreeMap<(PartitionId, NodeId), (Epoch, u64)>,
}

/// Something worth telling.
pub(super) enum Traced {
    Output(Output),
    /// And whether it answers a fence.
    Report(ReplicaReport, bool),
    Response(Response),
}

impl World {
    pub(super) fn new(options: SupervisorOptions) -> Self {
        let mut world = Self {
            now: 1_000 * MS,
            supervisor: Supervisor::new(options),
            state: ClusterState::default(),
            raft_up: true,
            refuse_entries: false,
            writes: false,
            replica_bytes: None,
            weather: None,
            raft_index: 0,
            term: 0,
            nodes: BTreeMap::new(),
            cut: BTreeSet::new(),
            slow: BTreeSet::new(),
            deliveries: Vec::new(),
            next_delivery: 0,
            next_tick: 0,
            trace: Vec::new(),
            named: BTreeMap::new(),
            acknowledged: BTreeMap::new(),
            leased: BTreeMap::new(),
        };
        world.take_office();
        world
    }

    /// The supervisor becomes leader, in a new term.
    pub(super) fn take_office(&mut self) {
        self.term += 1;
        let (term, state) = (self.term, Arc::new(self.state.clone()));
        self.feed(Input::BecameLeader { term, state });
    }

    /// Makes a cluster and waits until it serves.
    pub(super) fn with_cluster(
        options: SupervisorOptions,
        nodes: u32,
        request: &SettingsRequest,
    ) -> Self {
        let mut world = Self::new(options);
        let request = SettingsRequest {
            data_nodes: Some(nodes),
            ..request.clone()
        };
        let settings = request.resolve().expect("settings").settings;
        world.commit(Command::CreateCluster {
            cluster_id: "test".to_owned(),
            settings,
        });
        for number in 1..=nodes {
            world.register(&format!("data-{number}"), false);
        }
        world.run(3_000);
        world.trace.clear();
        world
    }

    /// Registers a node with an empty disk.
    pub(super) fn register(&mut self, name: &str, replace_dead: bool) -> Response {
        let number = self.state.nodes().len() + 1;
        let response = self.commit(Command::RegisterNode(NodeRegistration {
            uuid: format!("uuid-{number}"),
            incarnation: format!("incarnation-{number}"),
            name: name.to_owned(),
            addresses: Addresses::default(),
            zone: String::new(),
            weight: 100,
            features: crate::features::UNDERSTOOD,
            replace_dead,
        }));
        if let Response::Registered { node } = response {
            self.nodes.insert(
                node,
                SimNode {
                    name: name.to_owned(),
                    alive: true,
                    connected: true,
                    mute: false,
                    flush: 0,
                    draining: false,
                    stopped: false,
                    hung: false,
                    deaf: false,
                    figures: None,
                    heat: None,
                    stream_open: false,
                    session: 1,
                    sequence: 0,
                    full: true,
                    next_heartbeat: self.now,
                    replicas: BTreeMap::new(),
                    known: BTreeMap::new(),
                },
            );
        }
        response
    }

    /// Changes what the cluster agreed on.
    pub(super) fn change_settings(
        &mut self,
        change: impl FnOnce(&mut ClusterSettings),
    ) -> Response {
        let mut settings = ClusterSettings::clone(self.state.settings().expect("a cluster"));
        change(&mut settings);
        self.commit(Command::ChangeSettings { settings })
    }

    /// Applies a command, and checks what must hold of every state.
    pub(super) fn commit(&mut self, command: Command) -> Response {
        self.raft_index += 1;
        let naming = match &command {
            Command::NamePrimary { .. } => vec![command.clone()],
            Command::Batch(commands) => commands.clone(),
            _ => Vec::new(),
        };
        let response = self.state.apply(self.raft_index, command);
        assert_eq!(self.state.broken_invariant(), None);
        for record in self.state.partitions() {
            if let Some(primary) = record.primary {
                let named = *self
                    .named
                    .entry((record.id, record.epoch))
                    .or_insert(primary);
                assert_eq!(named, primary, "{} in {}", record.id, record.epoch);
            }
        }
        let responses = match &response {
            Response::Batch(responses) => responses.clone(),
            single => vec![single.clone()],
        };
        for (command, response) in naming.iter().zip(responses) {
            if response == Response::Done {
                self.check_naming(command);
            }
        }
        let state = Arc::new(self.state.clone());
        self.feed(Input::Applied { state });
        response
    }

    /// Who is named holds everything that was acknowledged, unless the loss is told,
    /// and no primary of an older epoch may still answer.
    fn check_naming(&mut self, command: &Command) {
        let Command::NamePrimary {
            partition,
            epoch,
            primary,
            loss,
        } = command
        else {
            return;
        };
        let head = self.nodes[&primary.node].replicas[partition].head;
        let acknowledged = self
            .acknowledged
            .get(partition)
            .copied()
            .unwrap_or_default();
        if loss.is_some() {
            self.acknowledged.insert(*partition, head.min(acknowledged));
        } else {
            assert!(
                head >= acknowledged,
                "{partition}: {primary:?} is named in {epoch} with head {head}, \
                 {acknowledged} was acknowledged"
            );
        }
        for ((of, node), (older, until)) in &self.leased {
            // One that promised a newer epoch, or runs anew, answers nothing.
            let might = of == partition
                && older < epoch
                && self.nodes[node].alive
                && self.nodes[node]
                    .replicas
                    .get(of)
                    .is_some_and(|r| r.promised < *epoch && r.rose.is_some());
            assert!(
                !might || *until <= self.now,
                "{partition}: {node} may still answer in {older} for {} us",
                until.saturating_sub(self.now)
            );
        }
    }

    /// What was acknowledged is on W replicas of the set in force.
    pub(super) fn check_nothing_lost(&self, partition: PartitionId) {
        let record = &self.state.partitions()[partition.0 as usize];
        let acknowledged = self
            .acknowledged
            .get(&partition)
            .copied()
            .unwrap_or_default();
        for set in record.config.sets() {
            let copies = set
                .members
                .iter()
                .filter_map(|m| self.nodes[&m.node].replicas.get(&partition))
                .filter(|r| r.whole && r.head >= acknowledged)
                .count();
            assert!(
                copies >= set.write_quorum(),
                "{partition}: {copies} copies of {acknowledged}"
            );
        }
    }

    pub(super) fn sim(&mut self, node: NodeId) -> &mut SimNode {
        self.nodes.get_mut(&node).expect("a node")
    }

    pub(super) fn feed(&mut self, input: Input) {
        self.feed_all([input]);
    }

    fn feed_all(&mut self, inputs: impl IntoIterator<Item = Input>) {
        let outputs = self.supervisor.step_all(Micros(self.now), inputs);
        for output in outputs {
            match &output {
                Output::Propose { id, command } => {
                    self.deliver(Delivery::Commit(*id, Command::clone(command)));
                }
                Output::SendOrder { node, order } => {
                    self.deliver(Delivery::Order(*node, order.clone()));
                }
                Output::Event(_) => {}
            }
            self.trace.push((self.now, Traced::Output(output)));
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        self.next_delivery += 1;
        let mut latency = LATENCY;
        if let Some(weather) = &mut self.weather
            && !matches!(delivery, Delivery::Commit(..))
        {
            if weather.below(4) == 0 {
                return;
            }
            if weather.below(4) == 0 {
                latency += weather.below(500) * MS;
            }
        }
        self.deliveries
            .push((self.now + latency, self.next_delivery, delivery));
    }

    /// Lets time pass.
    pub(super) fn run(&mut self, millis: u64) {
        let end = self.now + millis * MS;
        while self.now < end {
            self.now += MS;
            let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.deliveries)
                .into_iter()
                .partition(|(at, ..)| *at <= self.now);
            self.deliveries = later;
            // Reports that arrive together are taken in one turn, as the leader's
            // task does.
            let mut reports = Vec::new();
            for (_, _, delivery) in due {
                match delivery {
                    Delivery::Report(from, report, fenced) => {
                        self.trace
                            .push((self.now, Traced::Report(report.clone(), fenced)));
                        reports.push(Input::Report { from, report });
                    }
                    Delivery::Order(node, order) => self.obey(node, &order),
                    Delivery::Commit(id, command) => self.try_commit(id, command),
                }
            }
            self.feed_all(reports);
            if self.now.is_multiple_of(SLICE) {
                self.replicate();
                self.heartbeats();
            }
            if self.now >= self.next_tick {
                self.next_tick = self.now + 25 * MS;
                self.feed(Input::Tick {
                    unix_ms: self.now / MS,
                });
            }
        }
    }

    fn try_commit(&mut self, id: ProposalId, command: Command) {
        let outcome = if self.refuse_entries {
            ProposalOutcome::Applied(Response::Refused(Refusal::BadBatch))
        } else if !self.raft_up {
            ProposalOutcome::Unknown
        } else {
            let response = self.commit(command);
            self.trace
                .push((self.now, Traced::Response(response.clone())));
            ProposalOutcome::Applied(response)
        };
        self.feed(Input::Proposal { id, outcome });
    }

    fn runs(&self, node: NodeId) -> bool {
        self.answers(node) && !self.nodes[&node].hung
    }

    /// Whether its ports answer, whatever stands behind them.
    fn answers(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|n| n.alive && !n.stopped)
    }

    fn connects(&self, a: NodeId, b: NodeId) -> bool {
        self.answers(a) && self.answers(b) && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    pub(super) fn reach(&self, a: NodeId, b: NodeId) -> bool {
        self.runs(a) && self.runs(b) && self.connects(a, b)
    }

    /// How long the next promise of a node takes to be flushed.
    fn flush_delay(&mut self, node: NodeId) -> u64 {
        let drawn = self.weather.as_mut().map_or(0, |w| w.below(60) * MS);
        drawn.max(self.nodes[&node].flush)
    }

    fn obey(&mut self, node: NodeId, order: &Order) {
        let now = self.now;
        let runs = self.runs(node);
        let delay = self.flush_delay(node);
        let Some(sim) = self.nodes.get_mut(&node) else {
            return;
        };
        if !runs || !sim.connected || sim.mute {
            return;
        }
        let (partition, round, fence) = match order {
            Order::Ask { partition, round } => (*partition, *round, None),
            Order::Fence {
                partition,
                epoch,
                round,
            } => (*partition, *round, Some(*epoch)),
            Order::HandOver {
                partition, epoch, ..
            } => {
                if let Some(replica) = sim.replicas.get_mut(partition)
                    && replica.promised == *epoch
                    && replica.role == Role::Primary
                {
                    replica.role = Role::Rising;
                    replica.hands_over_at = Some(now + 20 * MS);
                }
                return;
            }
        };
        let Some(replica) = sim.replicas.get_mut(&partition) else {
            return;
        };
        let current = replica.granted_in == replica.promised && replica.granted_until > now;
        if let Some(epoch) = fence
            && epoch > replica.promised
        {
            replica.promise(now, epoch, delay);
            replica.role = Role::Replica;
            replica.wish = if replica.whole || replica.intact {
                Wish::None
            } else {
                Wish::Replace
            };
            replica.rose = None;
            replica.hands_over_at = None;
        }
        if !replica.settle(now) {
            // Nothing is reported before it is flushed.
            let at = replica.flushed_at;
            self.next_delivery += 1;
            let again = Delivery::Order(node, order.clone());
            self.deliveries.push((at, self.next_delivery, again));
            return;
        }
        let report = ReplicaReport {
            partition,
            member: replica.member,
            round,
            fenced: fence == Some(replica.promised),
            promised: replica.promised,
            head: replica.head,
            commit: replica.head.index,
            whole: replica.whole,
            head_intact: replica.intact && !replica.whole,
            lease_current: current && replica.rose.is_none(),
            lease_remaining: Micros(
                replica
                    .granted_until
                    .max(replica.started_until)
                    .saturating_sub(now),
            ),
        };
        self.deliver(Delivery::Report(node, report, fence.is_some()));
    }

    /// What data nodes do with maps and with each other.
    fn replicate(&mut self) {
        let records: Vec<Arc<PartitionRecord>> = self.state.partitions().to_vec();
        let running: Vec<NodeId> = self
            .nodes
            .keys()
            .copied()
            .filter(|n| self.runs(*n))
            .collect();
        for node in running {
            // Maps reach a node through other members too.
            let informed = self.nodes[&node].connected
                || self
                    .nodes
                    .keys()
                    .any(|peer| self.nodes[peer].connected && self.reach(*peer, node));
            if informed {
                for record in &records {
                    self.learn(node, record);
                }
            }
        }
        for record in &records {
            self.lead(record.id);
        }
    }

    fn learn(&mut self, node: NodeId, record: &Arc<PartitionRecord>) {
        let now = self.now;
        let delay = self.flush_delay(node);
        let Some(sim) = self.nodes.get_mut(&node) else {
            return;
        };
        if sim
            .known
            .get(&record.id)
            .is_some_and(|known| known.order() >= record.order())
        {
            return;
        }
        sim.known.insert(record.id, Arc::clone(record));
        let Some(member) = record.config.on_node(node) else {
            sim.replicas.remove(&record.id);
            return;
        };
        let fresh = sim
            .replicas
            .get(&record.id)
            .is_none_or(|r| r.member.replica < member.replica);
        if fresh {
            sim.replicas.insert(
                record.id,
                SimReplica {
                    member,
                    promised: Epoch::ZERO,
                    flushed_promise: Epoch::ZERO,
                    flushed_at: 0,
                    head: Position::ZERO,
                    whole: true,
                    intact: false,
                    role: Role::Replica,
                    wish: Wish::None,
                    granted_until: 0,
                    granted_in: Epoch::ZERO,
                    started_until: 0,
                    rose: None,
                    hands_over_at: None,
                },
            );
        }
        let Some(replica) = sim.replicas.get_mut(&record.id) else {
            return;
        };
        if replica.member != member || record.epoch < replica.promised {
            return;
        }
        let named = record.primary == Some(member) && (replica.whole || replica.intact);
        // Whoever is named asks the others for what it lacks.
        replica.whole |= named;
        if named && replica.rose != Some(record.epoch) {
            replica.role = Role::Rising;
            replica.wish = Wish::None;
            replica.rose = Some(record.epoch);
            replica.hands_over_at = None;
        } else if !named && record.epoch > replica.promised {
            replica.role = Role::Replica;
            replica.rose = None;
        }
        replica.promise(now, record.epoch, delay);
    }

    /// The members, learners too, that follow the primary of a partition.
    fn lead(&mut self, partition: PartitionId) {
        let leaders: Vec<NodeId> = self
            .nodes
            .iter()
            .filter(|(_, n)| n.alive && !n.stopped && !n.hung)
            .filter(|(_, n)| {
                n.replicas.get(&partition).is_some_and(|r| {
                    r.rose == Some(r.promised) && matches!(r.role, Role::Rising | Role::Primary)
                })
            })
            .map(|(id, _)| *id)
            .collect();
        for leader in leaders {
            let Some(replica) = self.nodes[&leader].replicas.get(&partition).cloned() else {
                continue;
            };
            let Some(record) = self.nodes[&leader].known.get(&partition).cloned() else {
                continue;
            };
            if record.epoch != replica.promised {
                continue;
            }
            let mut following: Vec<Member> = vec![replica.member];
            for member in record.config.replicas() {
                let follows = member != replica.member
                    && self.reach(leader, member.node)
                    && self.nodes[&member.node]
                        .replicas
                        .get(&partition)
                        .is_some_and(|r| {
                            let may = r.whole || r.intact;
                            r.member == member && may && r.promised <= replica.promised
                        });
                if follows {
                    following.push(member);
                    let there = self.nodes.get_mut(&member.node);
                    if let Some(r) = there.and_then(|n| n.replicas.get_mut(&partition)) {
                        // Its primary gave it what it lacked.
                        r.whole = true;
                    }
                }
            }
            let enough = record.config.sets().all(|set| {
                let count = set.members.iter().filter(|m| following.contains(m)).count();
                count >= set.write_quorum() && count >= set.lease_quorum()
            });
            let rises = replica.role == Role::Rising && replica.hands_over_at.is_none() && enough;
            let writes = replica.role == Role::Primary && self.writes && enough;
            let head = if rises || writes {
                Position {
                    epoch: replica.promised,
                    index: replica.head.index.next(),
                }
            } else {
                replica.head
            };
            if enough && replica.hands_over_at.is_none() {
                // The primary counts from the send and keeps a margin.
                self.leased.insert(
                    (partition, leader),
                    (replica.promised, self.now + LEASE - 5 * MS),
                );
                if rises || writes {
                    let last = self.acknowledged.entry(partition).or_default();
                    *last = head.max(*last);
                }
            } else if replica.hands_over_at.is_some() {
                self.leased.remove(&(partition, leader));
            }
            let released = replica.hands_over_at.is_some_and(|at| at <= self.now);
            for member in &following {
                let now = self.now;
                let Some(follower) = self
                    .nodes
                    .get_mut(&member.node)
                    .and_then(|n| n.replicas.get_mut(&partition))
                else {
                    continue;
                };
                follower.head = head;
                // What was flushed with an entry of the epoch is flushed with it.
                follower.promise(now, replica.promised, 0);
                follower.flushed_at = now;
                if released {
                    follower.granted_until = now;
                } else if replica.hands_over_at.is_none() {
                    follower.granted_until = now + LEASE;
                    follower.granted_in = replica.promised;
                }
            }
            if let Some(me) = self
                .nodes
                .get_mut(&leader)
                .and_then(|n| n.replicas.get_mut(&partition))
            {
                if rises {
                    me.role = Role::Primary;
                }
                if released {
                    me.wish = Wish::HandedOver;
                }
            }
        }
    }

    fn heartbeats(&mut self) {
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let up = self.runs(id);
            let gone = !self.state.is_member(id);
            let connected = self.nodes[&id].connected;
            let alive = self.nodes[&id].alive;
            let open = self.nodes[&id].stream_open;
            // A stopped process leaves its connection open.
            if open && (!alive || !connected) {
                self.set_stream(id, false);
                self.feed(Input::StreamClosed { node: id });
            }
            if !up || !connected || gone {
                continue;
            }
            if !self.nodes[&id].stream_open {
                self.set_stream(id, true);
                self.feed(Input::StreamOpened { node: id });
            }
            if self.now >= self.nodes[&id].next_heartbeat {
                let heartbeat = self.heartbeat(id);
                self.feed(Input::Heartbeat(heartbeat));
            }
        }
    }

    fn set_stream(&mut self, node: NodeId, open: bool) {
        if let Some(sim) = self.nodes.get_mut(&node) {
            sim.stream_open = open;
            sim.full = true;
            sim.next_heartbeat = self.now;
        }
    }

    pub(super) fn heartbeat(&mut self, node: NodeId) -> Heartbeat {
        let unreachable: Vec<NodeId> = self
            .state
            .members()
            .map(|n| n.id)
            .filter(|peer| *peer != node && !self.connects(node, *peer))
            .collect();
        let silent_client_ports: Vec<NodeId> = self
            .state
            .members()
            .map(|n| n.id)
            .filter(|peer| *peer != node)
            .filter(|peer| !self.connects(node, *peer) || self.nodes[peer].deaf)
            .collect();
        let statuses: Vec<PartitionStatus> = self.nodes[&node]
            .replicas
            .iter()
            .map(|(partition, replica)| self.status(node, *partition, replica))
            .collect();
        let map_version = self.state.version();
        let now = self.now;
        let sim = self.nodes.get_mut(&node).expect("a node");
        sim.sequence += 1;
        sim.next_heartbeat = now + 100 * MS;
        Heartbeat {
            node,
            session: sim.session,
            sequence: sim.sequence,
            map_version,
            unreachable,
            silent_client_ports,
            disk_full: false,
            draining: sim.draining,
            figures: sim.figures,
            heat: sim.heat.clone().map(Box::new),
            full: std::mem::take(&mut sim.full),
            partitions: statuses,
        }
    }

    fn status(
        &self,
        node: NodeId,
        partition: PartitionId,
        replica: &SimReplica,
    ) -> PartitionStatus {
        let leads = matches!(replica.role, Role::Rising | Role::Primary);
        let followers = self.nodes[&node]
            .known
            .get(&partition)
            .filter(|_| leads)
            .map(|record| {
                record
                    .config
                    .replicas()
                    .into_iter()
                    .filter(|m| *m != replica.member)
                    .map(|m| {
                        let there = self
                            .nodes
                            .get(&m.node)
                            .and_then(|n| n.replicas.get(&partition))
                            .filter(|r| r.member == m && r.whole);
                        FollowerStatus {
                            replica: m.replica,
                            matched: there.map_or(Index::ZERO, |r| r.head.index),
                            caught_up: there.is_some_and(|r| r.head == replica.head)
                                && !self.slow.contains(&m.node),
                            answering: there.is_some() && self.reach(node, m.node),
                            hopeless: self.slow.contains(&m.node),
                        }
                    })
                    .collect()
            })
            .unwrap_or_default();
        PartitionStatus {
            partition,
            replica: replica.member.replica,
            epoch: replica.promised,
            role: replica.role,
            head: replica.head,
            commit: replica.head.index,
            applied: replica.head.index,
            wish: replica.wish,
            followers,
            bytes: self.replica_bytes,
            copying: None,
        }
    }

    /// Whether every partition has a primary that serves.
    pub(super) fn all_serve(&self) -> bool {
        let status = self.supervisor.status(Micros(self.now));
        status.summary.serving == status.summary.partitions
    }
}
