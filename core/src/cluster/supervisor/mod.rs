//! What the Raft leader runs: it watches, and promotes and mends what needs it.
//!
//! [`Supervisor::step`] is a function of what it was told: it keeps no clock and does
//! no I/O. Nothing that it remembers needs to survive: a new leader starts from the
//! state and from what data nodes tell it.
//!
//! Each partition has a small machine of its own (`work::Work`):
//!
//! ```text
//! idle -> asking -> raising -> fencing (and waiting for leases) -> naming -> idle
//! ```
//!
//! What an order or a proposal brought about is seen in reports, heartbeats and the
//! state, never assumed; each is sent again until it is seen, and each is harmless
//! when it arrives twice. Proposals travel one entry at a time, all that came up
//! meanwhile in the next one, so that a failed node's partitions move together.

mod handover;
mod hot_primaries;
mod io;
mod membership;
mod preview;
mod promotion;
mod readers;
mod reconfigure;
mod returns;
mod show;
#[cfg(test)]
mod tests;
mod view;
mod work;

pub use preview::PreviewError;
pub use readers::{HeatFigures, ReadCopies};

pub use io::{
    AdminRequest, Input, Output, PromotionReason, ProposalId, ProposalOutcome, SupervisorEvent,
    SupervisorOptions,
};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::cluster::command::{BATCH_MAX, Command, Direction, PlacementBasis, Response};
use crate::cluster::failure_detector::HealthChange;
use crate::cluster::placement::{self, PlacementRequest};
use crate::cluster::rebalance;
use crate::cluster::report::Order;
use crate::cluster::settings::{LEASE_MS_DEFAULT, NODE_TIMEOUT_MS_DEFAULT};
use crate::cluster::state::ClusterState;
use crate::features::{CoordinatorFeatures, Feature, Lacking};
use crate::ids::{MapVersion, Micros, NodeId, PartitionId};
use crate::record::{Configuration, PartitionRecord, ReplicaSet};

use handover::Leads;
use hot_primaries::Crowded;
use readers::ReadHeat;
use reconfigure::Wanted;
use returns::Announced;
use view::Views;
use work::Work;

/// How often every partition is looked at, whether something was told of it or not.
const SWEEP: Micros = Micros::from_millis(1_000);
/// How long a partition rests after a proposal about it failed.
const RETRY: Micros = Micros::from_millis(100);

/// How many rounds of questions a leader may ask: the number of its term stands above.
const ROUNDS_PER_TERM: u64 = 1 << 32;

/// The leader's judgement.
#[derive(Debug)]
pub struct Supervisor {
    options: SupervisorOptions,
    state: Arc<ClusterState>,
    views: Views,
    leading: bool,
    unix_ms: u64,
    works: BTreeMap<PartitionId, Work>,
    /// Partitions of which something was told since they were last looked at.
    dirty: BTreeSet<PartitionId>,
    /// Partitions with something under way: looked at on every tick.
    active: BTreeSet<PartitionId>,
    next_sweep: Micros,
    /// Since when nothing has happened that calls for calm.
    quiet_since: Micros,
    /// Commands that wait for the proposal under way.
    queue: Vec<Command>,
    in_flight: Option<InFlight>,
    last_proposal: ProposalId,
    last_round: u64,
    /// Replicas that are wanted, and how endangered their partition is without them.
    wanted: Vec<Wanted>,
    /// Sets that are to be adjusted: of which partition, and who leads it.
    adjusted: Vec<(PartitionId, NodeId, ReplicaSet)>,
    /// Partitions that want a replica and have to wait for others that are being made.
    waiting: BTreeSet<PartitionId>,
    /// Whether one of those has ended: they are looked at on the next tick.
    wake_waiting: bool,
    /// Nodes that have been away for longer than the grace, drained ones included.
    lost: BTreeSet<NodeId>,
    /// Who leads how much, for the present turn.
    leads: Option<Leads>,
    /// Nodes that drain and hold nothing any more, and the version of the map that says so.
    emptied: BTreeMap<NodeId, MapVersion>,
    /// Who is down, and since when without a break.
    down_since: BTreeMap<NodeId, Micros>,
    /// Who is to get no primary, and until when (milliseconds since 1970 UTC).
    cordoned: BTreeMap<NodeId, u64>,
    /// Who is away on purpose, or about to be.
    announced: BTreeMap<NodeId, Announced>,
    /// Whether nobody is replaced because too many are down at once.
    replacement_held_back: bool,
    /// Whether the seats were made for other nodes than those that are to hold the data:
    /// what only follows them waits for the new ones.
    unsettled: bool,
    /// What they are to be made for, and since when it has been that.
    basis_seen: Option<(PlacementBasis, Micros)>,
    /// The voters of the coordinators' group and what they understand, once they were asked in
    /// this term of office.
    coordinators: Option<Vec<CoordinatorFeatures>>,
    /// Whether the reads of partitions are hot, and since when.
    read_heat: BTreeMap<PartitionId, ReadHeat>,
    /// Who leads several hot partitions.
    crowded: Crowded,
    outputs: Vec<Output>,
}

#[derive(Debug)]
struct InFlight {
    id: ProposalId,
    since: Micros,
    commands: Vec<Command>,
}

impl Supervisor {
    /// Before anything was heard.
    #[must_use]
    pub fn new(options: SupervisorOptions) -> Self {
        Self {
            options,
            state: Arc::default(),
            views: Views::new(Micros::from_millis(NODE_TIMEOUT_MS_DEFAULT)),
            leading: false,
            unix_ms: 0,
            works: BTreeMap::new(),
            dirty: BTreeSet::new(),
            active: BTreeSet::new(),
            next_sweep: Micros::default(),
            quiet_since: Micros::default(),
            queue: Vec::new(),
            in_flight: None,
            last_proposal: ProposalId(0),
            last_round: 0,
            wanted: Vec::new(),
            adjusted: Vec::new(),
            waiting: BTreeSet::new(),
            wake_waiting: false,
            lost: BTreeSet::new(),
            leads: None,
            emptied: BTreeMap::new(),
            down_since: BTreeMap::new(),
            cordoned: BTreeMap::new(),
            announced: BTreeMap::new(),
            replacement_held_back: false,
            unsettled: false,
            basis_seen: None,
            coordinators: None,
            read_heat: BTreeMap::new(),
            crowded: Crowded::default(),
            outputs: Vec::new(),
        }
    }

    /// Takes one input and tells what is to be done, in this order.
    #[must_use]
    pub fn step(&mut self, now: Micros, input: Input) -> Vec<Output> {
        self.step_all(now, [input])
    }

    /// Takes all that came in one turn and tells what is to be done, in this order.
    ///
    /// What it leads to is proposed in one entry. Were each input judged alone, the
    /// first report of a failed node's partitions would be proposed by itself, and
    /// those of the others would wait for its commit.
    #[must_use]
    pub fn step_all(
        &mut self,
        now: Micros,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Vec<Output> {
        for input in inputs {
            self.take(now, input);
        }
        if self.leading {
            self.leads = None;
            self.judge_nodes(now);
            self.look(now);
            self.admit_wanted(now);
            self.flush(now);
        }
        std::mem::take(&mut self.outputs)
    }

    fn take(&mut self, now: Micros, input: Input) {
        match input {
            Input::Tick { unix_ms } => {
                self.unix_ms = unix_ms;
                self.on_tick(now);
            }
            Input::BecameLeader { term, state } => {
                self.clear_work();
                // Answers to another leader's questions are no answers to this one's.
                self.last_round = self.last_round.max(term.saturating_mul(ROUNDS_PER_TERM));
                self.leading = true;
                self.coordinators = None;
                self.down_since.clear();
                self.basis_seen = None;
                self.quiet_since = now;
                self.next_sweep = now;
                self.take_state(now, state);
                self.views.detector.became_leader(now);
                // What was just noted goes by whom this coordinator heard of when it led before.
                self.forget_announced();
                self.mark_all();
            }
            Input::LostLeadership => {
                self.leading = false;
                self.clear_work();
            }
            Input::Applied { state } => self.take_state(now, state),
            Input::Proposal { id, outcome } => self.on_outcome(now, id, outcome),
            Input::StreamOpened { node } => self.views.stream_opened(now, node),
            Input::StreamClosed { node } => self.views.stream_closed(node),
            Input::Heartbeat(heartbeat) => {
                let node = heartbeat.node;
                let heard = self
                    .views
                    .heartbeat(now, heartbeat, self.state.partitions().len());
                if heard.restarted {
                    // What the process before it answered is void: it may have
                    // dropped a tail, and it must be fenced anew.
                    for work in self.works.values_mut() {
                        work.forget_answers_of(node);
                    }
                }
                self.dirty.extend(heard.changed);
            }
            Input::Report { from, report } => self.on_report(now, from, report),
            Input::Admin(request) => self.on_admin(now, request),
            Input::Coordinators(voters) => self.coordinators = Some(voters),
        }
    }

    /// Whether the identity that holds `name` is down, so that another one may take
    /// its place: what goes into `NodeRegistration::replace_dead`.
    #[must_use]
    pub fn may_replace(&self, name: &str) -> bool {
        self.leading
            && self
                .state
                .holder_of_name(name)
                .is_some_and(|holder| self.views.health(holder.id).is_down())
    }

    /// The state that the supervisor has seen last.
    #[must_use]
    pub fn state(&self) -> &Arc<ClusterState> {
        &self.state
    }

    /// Whether every data node and every coordinator understands the feature.
    ///
    /// # Errors
    /// Who does not, or was not asked yet.
    pub fn check_feature(&self, feature: Feature) -> Result<(), Lacking> {
        self.state
            .check_feature(feature, self.coordinators.as_deref())
    }

    fn clear_work(&mut self) {
        self.cordoned.clear();
        self.read_heat.clear();
        self.crowded = Crowded::default();
        self.works.clear();
        self.dirty.clear();
        self.active.clear();
        self.queue.clear();
        self.wanted.clear();
        self.adjusted.clear();
        self.waiting.clear();
        self.in_flight = None;
    }

    fn mark_all(&mut self) {
        self.dirty
            .extend(self.state.partitions().iter().map(|record| record.id));
    }

    fn on_tick(&mut self, now: Micros) {
        if !self.leading {
            return;
        }
        if now >= self.next_sweep {
            self.next_sweep = now.plus(SWEEP);
            self.mark_all();
            self.make_table();
            self.judge_membership(now);
            let heat = self.heat(now);
            self.tend_readers(now, &heat);
            self.spread_hot_primaries(now, &heat);
        }
        self.dirty.extend(&self.active);
        if std::mem::take(&mut self.wake_waiting) {
            self.dirty.append(&mut self.waiting);
        }
        let lost = self
            .in_flight
            .as_ref()
            .is_some_and(|p| now.minus(p.since) > self.options.proposal_timeout);
        if lost && let Some(lost) = self.in_flight.take() {
            self.release(now, &lost.commands, Micros::default());
        }
    }

    fn take_state(&mut self, now: Micros, state: Arc<ClusterState>) {
        let before = std::mem::replace(&mut self.state, state);
        // What is announced is no part of the map.
        self.note_announced();
        if before.version() == self.state.version() {
            return;
        }
        if let Some(settings) = self.state.settings() {
            self.views
                .detector
                .set_timeout(Micros::from_millis(settings.node_timeout_ms));
        }
        let members: BTreeSet<NodeId> = self.state.members().map(|n| n.id).collect();
        self.views.set_members(now, &members);
        for (at, record) in self.state.partitions().iter().enumerate() {
            if before.seats(record.id) != self.state.seats(record.id) {
                self.dirty.insert(record.id);
            }
            let old = before.partitions().get(at);
            if old.is_some_and(|old| Arc::ptr_eq(old, record) || old == record) {
                continue;
            }
            self.dirty.insert(record.id);
            if let Some(old) = old
                && self.leading
            {
                if is_changing(&old.config) && !is_changing(&record.config) {
                    self.wake_waiting = true;
                }
                tell_change(old, record, &mut self.outputs);
                tell_loss(&before, &self.state, record, &self.works, &mut self.outputs);
            }
        }
        let basis = self.state.basis();
        self.unsettled = !self.state.seats_fit(&basis);
        self.note_emptied();
        if before.nodes() != self.state.nodes() || before.basis() != basis {
            self.mark_all();
            self.next_sweep = now;
        }
    }

    fn judge_nodes(&mut self, now: Micros) {
        for HealthChange { node, from, to } in self.views.detector.evaluate(now) {
            self.outputs
                .push(Output::Event(SupervisorEvent::NodeHealth {
                    node,
                    from,
                    to,
                }));
            self.quiet_since = now;
            self.dirty.extend(self.state.partitions_on(node));
            // A seat on the node may be empty: it is not among its partitions then.
            self.next_sweep = now;
        }
    }

    /// Looks at every partition of which something was told.
    fn look(&mut self, now: Micros) {
        for partition in std::mem::take(&mut self.dirty) {
            let Some(record) = self.state.partition(partition).cloned() else {
                continue;
            };
            let mut work = self
                .works
                .remove(&partition)
                .unwrap_or_else(|| Work::new(now, &record));
            work.follow(now, &record, &mut self.outputs);
            work.expire_pending(now, self.options.proposal_timeout);
            if work.pending.is_none() && now >= work.rest_until {
                self.promote(now, &record, &mut work);
                if work.promotion.is_idle() && work.pending.is_none() {
                    self.reconfigure(now, &record, &mut work);
                }
                if work.promotion.is_idle() && work.pending.is_none() {
                    self.hand_over(now, &record, &mut work);
                }
            }
            if work.is_busy(now) || record.primary.is_none() || record.config.joint.is_some() {
                self.active.insert(partition);
            } else {
                self.active.remove(&partition);
            }
            self.works.insert(partition, work);
        }
    }

    /// Queues a command about a partition; it is proposed with the next entry.
    fn propose(&mut self, now: Micros, work: &mut Work, command: Command) {
        work.pending = Some(now);
        self.queue.push(command);
    }

    fn flush(&mut self, now: Micros) {
        if self.in_flight.is_some() || self.queue.is_empty() {
            return;
        }
        let rest = self.queue.split_off(self.queue.len().min(BATCH_MAX));
        let commands = std::mem::replace(&mut self.queue, rest);
        self.last_proposal.0 += 1;
        let command = match commands.as_slice() {
            [single] => single.clone(),
            _ => Command::Batch(commands.clone()),
        };
        self.outputs.push(Output::Propose {
            id: self.last_proposal,
            command: Box::new(command),
        });
        self.in_flight = Some(InFlight {
            id: self.last_proposal,
            since: now,
            commands,
        });
    }

    fn on_outcome(&mut self, now: Micros, id: ProposalId, outcome: ProposalOutcome) {
        let Some(proposal) = self.in_flight.take_if(|p| p.id == id) else {
            return;
        };
        match outcome {
            ProposalOutcome::Applied(response) => {
                let responses = match response {
                    Response::Batch(responses) => responses,
                    single => vec![single],
                };
                if responses.len() != proposal.commands.len() {
                    // The entry as a whole was refused: none of its commands has an
                    // answer of its own, and each partition is looked at again.
                    if let Some(Response::Refused(refusal)) = responses.into_iter().next() {
                        self.event(SupervisorEvent::ProposalRefused {
                            partition: None,
                            refusal,
                        });
                    }
                    self.release(now, &proposal.commands, RETRY);
                    return;
                }
                for (command, response) in proposal.commands.iter().zip(responses) {
                    let rest = if let Response::Refused(refusal) = response {
                        self.outputs
                            .push(Output::Event(SupervisorEvent::ProposalRefused {
                                partition: command.partition(),
                                refusal,
                            }));
                        RETRY
                    } else {
                        Micros::default()
                    };
                    self.release(now, std::slice::from_ref(command), rest);
                }
            }
            ProposalOutcome::Failed | ProposalOutcome::Unknown => {
                self.release(now, &proposal.commands, RETRY);
            }
        }
    }

    /// The partitions of these commands may be looked at again, after a rest.
    fn release(&mut self, now: Micros, commands: &[Command], rest: Micros) {
        for partition in commands.iter().filter_map(Command::partition) {
            if let Some(work) = self.works.get_mut(&partition) {
                work.pending = None;
                work.rest_until = now.plus(rest);
            }
            self.dirty.insert(partition);
            self.active.insert(partition);
        }
    }

    /// Makes the table, once, when enough nodes are here.
    fn make_table(&mut self) {
        let Some(settings) = self.state.settings() else {
            return;
        };
        let proposed = self
            .queue
            .iter()
            .chain(self.in_flight.iter().flat_map(|p| &p.commands))
            .any(|c| matches!(c, Command::MakeTable { .. }));
        let up = self
            .state
            .members()
            .filter(|n| self.views.is_up(n.id))
            .count();
        if proposed
            || !self.state.partitions().is_empty()
            || up < settings.initial_data_nodes as usize
        {
            return;
        }
        let nodes = rebalance::placement_nodes(&self.state, &self.state.basis());
        // Refused settings never got this far, so that placing cannot fail; if it
        // did, nothing would be proposed and the nodes would be waited for.
        if let Ok(seats) = placement::place(&PlacementRequest {
            nodes: &nodes,
            replication_factor: usize::from(settings.replication_factor),
            partitions: settings.partitions,
            virtual_nodes: settings.virtual_nodes,
            previous: &[],
        }) {
            self.queue.push(Command::MakeTable { seats });
        }
    }

    fn order(&mut self, node: NodeId, order: Order) {
        if self.views.detector.is_connected(node) {
            self.outputs.push(Output::SendOrder { node, order });
        }
    }

    fn event(&mut self, event: SupervisorEvent) {
        self.outputs.push(Output::Event(event));
    }

    fn lease_longest(&self) -> Micros {
        Micros::from_millis(
            self.state
                .settings()
                .map_or(LEASE_MS_DEFAULT, |s| s.lease_ms_longest),
        )
    }
}

/// Whether a replica is being made or the voters change.
fn is_changing(config: &Configuration) -> bool {
    config.joint.is_some() || !config.learners.is_empty()
}

/// Tells of a naming that may have lost writes, once it is in the state: it may be
/// proposed several times, and by several leaders, before it is committed.
fn tell_loss(
    before: &ClusterState,
    after: &ClusterState,
    record: &PartitionRecord,
    works: &BTreeMap<PartitionId, Work>,
    outputs: &mut Vec<Output>,
) {
    let (old, new) = (before.loss(record.id), after.loss(record.id));
    if new.promotions <= old.promotions {
        return;
    }
    let named = works.get(&record.id).and_then(|work| work.named());
    outputs.push(Output::Event(SupervisorEvent::PossibleLoss {
        partition: record.id,
        absent: named
            .filter(|named| Some(named.primary) == record.primary)
            .map_or(0, |named| named.absent),
        entries_known: new.entries_known.saturating_sub(old.entries_known),
    }));
}

/// Tells what a new record changed in a partition's configuration.
fn tell_change(old: &PartitionRecord, new: &PartitionRecord, outputs: &mut Vec<Output>) {
    let partition = new.id;
    let mut tell = |event| outputs.push(Output::Event(event));
    for learner in &new.config.learners {
        if !old.config.learners.contains(learner) {
            tell(SupervisorEvent::LearnerAdded {
                partition,
                node: learner.node,
            });
        }
    }
    for learner in &old.config.learners {
        if !new.config.replicas().contains(learner) {
            tell(SupervisorEvent::LearnerRemoved {
                partition,
                node: learner.node,
            });
        }
    }
    for reader in &new.config.readers {
        if !old.config.readers.contains(reader) {
            tell(SupervisorEvent::ReaderAdded {
                partition,
                node: reader.node,
            });
        }
    }
    for reader in &old.config.readers {
        if !new.config.replicas().contains(reader) {
            tell(SupervisorEvent::ReaderRemoved {
                partition,
                node: reader.node,
            });
        }
    }
    match (&old.config.joint, &new.config.joint) {
        (None, Some(_)) => tell(SupervisorEvent::JointEntered { partition }),
        (Some(joint), None) => tell(SupervisorEvent::JointLeft {
            partition,
            direction: if new.config.current == *joint {
                Direction::Forward
            } else {
                Direction::Backward
            },
        }),
        // Where a person named the survivors there is no primary yet.
        (None, None)
            if new.primary.is_some() && new.config.current.len() < old.config.current.len() =>
        {
            tell(SupervisorEvent::Shrunk {
                partition,
                left: new.config.current.len(),
            });
        }
        _ => {}
    }
}
