//! The world's coordinators: what they are told, what they decide, a disk that is
//! replaced under them.

use std::sync::Arc;

use cairn_core::cluster::command::Command;
use cairn_core::cluster::report::{Heartbeat, HeatReport, Order, ReplicaReport, Role};
use cairn_core::cluster::state::ClusterState;
use cairn_core::cluster::supervisor::{
    AdminRequest, Input, Output, ProposalId, ProposalOutcome, SupervisorEvent,
};
use cairn_core::hot::PartitionLoad;
use cairn_core::ids::{Epoch, MapVersion, NodeId, PartitionId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::Event;
use rand::Rng;
use rand::rngs::StdRng;

use super::{Brain, COORDINATORS, Happening, World};
use crate::coordinators::{Act, Doing};
use crate::invariants::leases;
use crate::plan::Noise;

/// How often the shipped coordinators are asked for what nobody needs, and how often
/// their log takes its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unrest {
    /// Another primary is asked for, at each look.
    promotions: f64,
    /// Other seats are given, at each look.
    moves: f64,
    /// A proposal commits after its proposer gave up waiting.
    late: f64,
}

impl Unrest {
    /// They are asked for nothing.
    pub(super) const NONE: Self = Self {
        promotions: 0.0,
        moves: 0.0,
        late: 0.0,
    };

    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self {
            promotions: [0.001, 0.01, 0.03][rng.random_range(0..3)],
            moves: [0.0, 0.002, 0.01, 0.04][rng.random_range(0..4)],
            late: [0.02, 0.1, 0.4][rng.random_range(0..3)],
        }
    }
}

impl World {
    /// A heartbeat, as the agent sends it.
    pub(super) fn beat(&mut self, id: NodeId, session: u64) {
        let now = self.now;
        if self.is_cut(id.0, COORDINATORS) {
            return;
        }
        let (known, sequence) = self.beats.get(&id.0).copied().unwrap_or((0, 0));
        let sequence = if known == session { sequence + 1 } else { 1 };
        self.beats.insert(id.0, (session, sequence));
        let unreachable = (1..=self.nodes.len() as u64)
            .filter(|other| *other != id.0 && !self.retired.contains(other))
            .filter(|other| {
                let down = self.nodes[(*other - 1) as usize].core.is_none();
                down || self
                    .cut
                    .get(&(id.0, *other))
                    .is_some_and(|until| *until > now)
            })
            .map(NodeId)
            .collect();
        let map_version = self.map_version(id);
        let heat = Some(Box::new(self.heat(id)));
        let node = self.node(id);
        let (clock, disk_full) = (node.clock(now), node.full_until > now);
        let draining = node.draining_until > now;
        let Some(core) = &mut node.core else { return };
        let partitions = core.statuses(clock, true);
        let led = partitions.iter().filter(|s| s.role == Role::Primary);
        if led.count() > 1 {
            self.coverage.count("several partitions led by one node");
        }
        let beat = Heartbeat {
            node: id,
            session,
            sequence,
            map_version,
            unreachable,
            silent_client_ports: Vec::new(),
            disk_full,
            draining,
            figures: None,
            heat,
            full: true,
            partitions,
        };
        self.at(1_000, Happening::Heartbeat(beat));
    }

    /// What clients read of a node: each partition is hot by turns, on whoever answers for it.
    fn heat(&self, id: NodeId) -> HeatReport {
        let turn = self.now.0 / 4_000_000;
        let hot = |record: &Arc<PartitionRecord>| {
            let config = &record.config;
            let answers = config.answering_reads().iter().any(|m| m.node == id);
            answers && !self.healing && (turn + u64::from(record.id.0)) % 3 != 2
        };
        let load = |record: Arc<PartitionRecord>| {
            // Its primary is the busiest, so that others have time to spare.
            let leads = record.primary.is_some_and(|primary| primary.node == id);
            let reads = if leads { 4_000 } else { 1_000 };
            let load = PartitionLoad {
                reads_per_second: reads,
                replica_reads_per_second: reads,
                ..PartitionLoad::default()
            };
            (record.id, load)
        };
        HeatReport {
            partitions: self.records().filter(hot).map(load).collect(),
            keys: Vec::new(),
        }
    }

    /// The version of the map that a node has seen: that of the state, once it was told
    /// every newest record.
    fn map_version(&mut self, id: NodeId) -> MapVersion {
        let version = self.state().map_or(MapVersion(0), ClusterState::version);
        let node = &self.nodes[(id.0 - 1) as usize];
        let told = |record: Arc<PartitionRecord>| {
            let told = node.told.get(&record.id);
            told.is_some_and(|order| *order >= record.order())
        };
        if self.records().all(told) {
            self.node(id).map_version = version;
        }
        self.node(id).map_version
    }

    /// A node hears of a record.
    pub(super) fn tell_record(
        &mut self,
        id: NodeId,
        record: Arc<PartitionRecord>,
    ) -> Result<(), String> {
        let node = self.node(id);
        if node.core.is_some() {
            let told = node.told.entry(record.id).or_default();
            *told = record.order().max(*told);
        }
        self.step(id, Event::Record { record })
    }

    /// The coordinators take a report.
    pub(super) fn report(&mut self, from: NodeId, report: ReplicaReport) -> Result<(), String> {
        self.say(|| format!("report {report:?}"));
        if let Brain::StandIn(stand_in) = &mut self.brain {
            let stand_in = &mut stand_in[report.partition.0 as usize];
            stand_in.report(self.now, report);
            return Ok(());
        }
        self.supervise(Input::Report { from, report })
    }

    /// The coordinators take a heartbeat.
    pub(super) fn heartbeat(&mut self, beat: Heartbeat) -> Result<(), String> {
        if let Brain::StandIn(stand_in) = &mut self.brain {
            for status in beat.partitions {
                stand_in[status.partition.0 as usize].status(beat.node, status);
            }
            return Ok(());
        }
        if beat.sequence == 1 {
            self.supervise(Input::StreamOpened { node: beat.node })?;
        }
        self.supervise(Input::Heartbeat(beat))
    }

    /// The shipped supervisor takes an input.
    pub(super) fn supervise(&mut self, input: Input) -> Result<(), String> {
        let now = self.now;
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        let outputs = shipped.step(now, input);
        self.outputs(outputs)
    }

    /// Another leader takes office.
    pub(super) fn elected(&mut self) -> Result<(), String> {
        let now = self.now;
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        let outputs = shipped.lead(now);
        self.beats.clear();
        self.outputs(outputs)
    }

    /// The newest record of a partition that was committed.
    pub(super) fn record(&self, partition: PartitionId) -> Option<Arc<PartitionRecord>> {
        match &self.brain {
            Brain::StandIn(stand_in) => Some(stand_in[partition.0 as usize].published()),
            Brain::Shipped(shipped) => shipped.record(partition),
        }
    }

    /// Those of all partitions.
    pub(super) fn records(&self) -> impl Iterator<Item = Arc<PartitionRecord>> {
        self.partitions.ids().filter_map(|id| self.record(id))
    }

    /// What the coordinators decided is held against what must hold.
    pub(super) fn observe_records(&mut self) -> Result<(), String> {
        let records: Vec<_> = self.records().collect();
        records.iter().try_for_each(|record| self.observe(record))
    }

    fn observe(&mut self, record: &PartitionRecord) -> Result<(), String> {
        let partition = &mut self.partitions[record.id];
        let mut held = partition.invariants.decided(record);
        if let Brain::Shipped(shipped) = &self.brain {
            partition.invariants.losses.told = shipped.state.loss(record.id).promotions;
        }
        if record.primary.is_some() && record.epoch > partition.named {
            partition.named = record.epoch;
            held = held.and_then(|()| leases::named(&self.nodes, record, self.now));
        }
        held.map_err(self.partitions.broken(record.id))
    }

    /// The coordinators tell what they decided of every partition.
    pub(super) fn publish_all(&mut self) -> Result<(), String> {
        for partition in self.partitions.ids() {
            self.publish(partition)?;
        }
        Ok(())
    }

    /// They tell what a command may have changed.
    fn publish_changed(&mut self, of: Option<PartitionId>) -> Result<(), String> {
        match of {
            Some(partition) => self.publish(partition),
            None => self.publish_all(),
        }
    }

    fn publish(&mut self, partition: PartitionId) -> Result<(), String> {
        let Some(record) = self.record(partition) else {
            return Ok(());
        };
        self.observe(&record)?;
        self.say(|| format!("record {record:?}"));
        let newest = (record.epoch, record.primary);
        let decided = &mut self.partitions[partition].decided;
        if newest.0 > decided.0 || newest.1 != decided.1 {
            *decided = newest;
            self.spring_ambush(&record);
        }
        for n in 1..=self.nodes.len() as u64 {
            if !self.noise(Noise::Unheard, 0.1) && !self.is_cut(COORDINATORS, n) {
                let after = self.rng.random_range(200..20_000);
                self.at(after, Happening::Record(NodeId(n), record.clone()));
            }
        }
        Ok(())
    }

    fn order(&mut self, node: NodeId, order: Order) {
        if !self.noise(Noise::Unheard, 0.1) && !self.is_cut(COORDINATORS, node.0) {
            let after = self.rng.random_range(200..5_000);
            self.at(after, Happening::Order(node, order));
        }
    }

    /// Carries out what the shipped supervisor wants.
    pub(super) fn outputs(&mut self, outputs: Vec<Output>) -> Result<(), String> {
        for output in outputs {
            match output {
                Output::Propose { id, command } => {
                    let after = self.rng.random_range(500..30_000);
                    self.at(after, Happening::Proposal(id, *command));
                }
                Output::SendOrder { node, order } => self.order(node, order),
                Output::Event(event) => {
                    self.say(|| format!("supervisor: {event:?}"));
                    self.coverage.count(match event {
                        SupervisorEvent::Promoted { .. } => "promoted by the supervisor",
                        SupervisorEvent::Shrunk { .. } => "shrunk",
                        SupervisorEvent::LearnerAdded { .. } => "learner by the supervisor",
                        SupervisorEvent::ReaderAdded { .. } => "copy for reads by the supervisor",
                        SupervisorEvent::ReaderRemoved { .. } => "copy for reads taken away",
                        SupervisorEvent::JointEntered { .. } => "joint by the supervisor",
                        SupervisorEvent::JointLeft { .. } => "joint left by the supervisor",
                        SupervisorEvent::HandOverOrdered { .. } => "hand-over",
                        _ => "",
                    });
                }
            }
        }
        Ok(())
    }

    /// The Raft log takes a proposal, or loses it.
    pub(super) fn decide(&mut self, id: ProposalId, command: Command) -> Result<(), String> {
        let now = self.now;
        let lost = self.noise(Noise::Proposals, 0.05);
        let heard = !self.noise(Noise::Proposals, 0.05);
        let late = self.noise(Noise::Proposals, self.unrest.late);
        let of = command.partition();
        let after = self.rng.random_range(50_000..1_500_000);
        self.say(|| format!("raft: {command:?} lost {lost} heard {heard} late {late}"));
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        let outputs = if lost {
            shipped.fail(now, id)
        } else if late {
            let term = shipped.term;
            let outcome = ProposalOutcome::Unknown;
            let outputs = shipped.step(now, Input::Proposal { id, outcome });
            self.at(after, Happening::Late(term, command));
            self.coverage.count("late commit");
            outputs
        } else {
            shipped.commit(now, id, command, heard)
        };
        let struck = match of {
            Some(partition) => partition,
            None => self.partitions.draw(&mut self.rng),
        };
        if let Some(record) = self.record(struck).filter(|_| late && !lost) {
            self.spring_ambush(&record);
        }
        self.publish_changed(of)?;
        self.observe_membership()?;
        self.outputs(outputs)
    }

    /// What the leader of that term proposed commits, long after it gave up waiting for it.
    pub(super) fn commit_late(&mut self, term: u64, command: Command) -> Result<(), String> {
        let now = self.now;
        self.say(|| format!("raft: late {command:?}"));
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        if !shipped.leading || shipped.term != term {
            // The next leader does not have it.
            return Ok(());
        }
        let of = command.partition();
        let outputs = shipped.commit_unheard(now, command);
        self.publish_changed(of)?;
        self.observe_membership()?;
        self.outputs(outputs)
    }

    pub(super) fn coordinate(&mut self) -> Result<(), String> {
        self.at(10_000, Happening::Coordinators);
        if self.now < self.coordinators_away_until {
            return Ok(());
        }
        let now = self.now;
        if self.rng.random_bool(0.05) {
            self.publish_all()?;
        }
        if let Brain::Shipped(shipped) = &mut self.brain {
            let outputs = shipped.tick(now);
            self.outputs(outputs)?;
        }
        self.retire_the_empty()?;
        for partition in self.partitions.ids() {
            match self.brain {
                Brain::StandIn(_) => self.stand_in(partition)?,
                Brain::Shipped(_) => self.unsettle(partition)?,
            }
        }
        Ok(())
    }

    /// The shipped coordinators are perhaps asked for what nobody needs.
    fn unsettle(&mut self, partition: PartitionId) -> Result<(), String> {
        let unrest = self.unrest;
        if !self.healing && self.rng.random_bool(unrest.moves) {
            self.move_seats(partition)?;
        }
        if !self.healing && self.rng.random_bool(unrest.promotions) {
            self.coverage.count("promotion by request");
            self.supervise(Input::Admin(AdminRequest::Promote { partition }))?;
        }
        Ok(())
    }

    /// A partition's stand-in does what it likes.
    fn stand_in(&mut self, partition: PartitionId) -> Result<(), String> {
        let (now, nodes) = (self.now, self.nodes.len() as u64);
        let served = self.serves_among(partition, |_| true);
        let Brain::StandIn(stand_in) = &mut self.brain else {
            return Ok(());
        };
        let stand_in = &mut stand_in[partition.0 as usize];
        let mut acts = Vec::new();
        stand_in.tick(now, &mut acts);
        let done = stand_in.reconfigure(now, nodes, &mut self.rng, &mut acts);
        self.coverage.count(done);
        let restless = !self.healing && self.rng.random_bool(0.01);
        if matches!(stand_in.doing, Doing::Idle)
            && (restless || (!served && self.rng.random_bool(0.05)))
        {
            self.coverage.count("promotion");
            stand_in.promote(now, &mut acts);
        }
        self.act(partition, acts)
    }

    /// Does what a partition's stand-in decided.
    pub(super) fn act(&mut self, partition: PartitionId, acts: Vec<Act>) -> Result<(), String> {
        for act in acts {
            match act {
                Act::Publish => self.publish(partition)?,
                Act::Fence(node, epoch, round) => {
                    self.order(
                        node,
                        Order::Fence {
                            partition,
                            epoch,
                            round,
                        },
                    );
                }
            }
        }
        Ok(())
    }

    /// Copies are wanted elsewhere, and nothing is wrong where they are.
    fn move_seats(&mut self, partition: PartitionId) -> Result<(), String> {
        let now = self.now;
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        if !shipped.leading {
            return Ok(());
        }
        let outputs = shipped.reseat(now, partition, &mut self.rng);
        self.coverage.count("copies wanted elsewhere");
        let seats = shipped.state.seats(partition).to_vec();
        let of = self.partitions.of(partition);
        self.say(|| format!("copies{of} are wanted on {seats:?}"));
        self.publish(partition)?;
        self.outputs(outputs)
    }

    /// Whether one of those nodes serves a partition in its newest epoch.
    pub(super) fn serves_among(&self, partition: PartitionId, whom: impl Fn(u64) -> bool) -> bool {
        let epoch = self.record(partition).map_or(Epoch::ZERO, |r| r.epoch);
        self.nodes
            .iter()
            .filter(|node| whom(node.id.0))
            .filter_map(|node| node.core.as_ref()?.standing(partition))
            .any(|standing| standing.serving && standing.epoch == epoch)
    }

    /// A disk is gone; an empty one takes its place under the same name.
    pub(super) fn replace(&mut self, old: NodeId) -> Result<(), String> {
        let Brain::Shipped(shipped) = &mut self.brain else {
            return Ok(());
        };
        self.nodes[(old.0 - 1) as usize].core = None;
        self.edges.retain(|(node, _), _| *node != old);
        let seat = self.seats[&old.0];
        if shipped.takes_for_the_same(seat, old.0) {
            // It is taken for the one that it was.
            self.node(old).replace_disk();
            self.at(20_000, Happening::Start(old));
            return Ok(());
        }
        self.retired.insert(old.0);
        let identity = self.admit(seat)?;
        self.say(|| format!("{old} lost its disk; {identity} takes its name"));
        self.at(20_000, Happening::Start(identity));
        Ok(())
    }
}
