//! What the leader does: one task that owns the supervisor, feeds it and carries
//! out what it wants.
//!
//! It runs on every coordinator and waits there until Raft says that this one
//! leads. It begins to act only when a quorum has confirmed that and everything
//! committed before is applied here, and stops as soon as Raft says otherwise, no
//! quorum was heard for a while, or Raft's own task hangs. Such a time is a [`Reign`]; every session of a data
//! node belongs to one and ends with it.

mod events;
mod gauges;
mod proposals;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::cluster::report::{Heartbeat, Order, ReplicaReport};
use cairn_core::cluster::status::{ClusterStatus, Plan, RebalanceStatus, Summary};
use cairn_core::cluster::supervisor::{HeatFigures, PreviewError, ReadCopies};
use cairn_core::cluster::{
    AdminRequest, Command, Input, Output, Response, Supervisor, SupervisorOptions,
};
use cairn_core::features::CoordinatorFeatures;
use cairn_core::ids::{Micros, NodeId};
use cairn_core::record::ClusterSettings;
use openraft::ServerState;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::raft::{Applied, RaftMetrics};
use super::storage::View;
use crate::partition::wall_ms;
use events::Chronicle;
pub(super) use events::Noted;
use proposals::Proposals;

/// What there is to show to people. How nodes and partitions are is known to a
/// leader alone.
#[derive(Debug)]
pub(super) struct Shown {
    /// The cluster.
    pub(super) status: ClusterStatus,
    /// What happened of late, oldest first.
    pub(super) events: Vec<Noted>,
}

/// How many messages of data nodes may wait for the leader's task.
const MESSAGES_MAX: usize = 8192;
/// How many of them one turn takes.
const TURN_MAX: usize = 512;
/// How long a new leader may take to be confirmed before it tries once more.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(3);
/// How often the figures of the cluster are told.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// How long it waits before that.
const CONFIRM_PAUSE: Duration = Duration::from_millis(200);

/// The time during which this coordinator leads.
#[derive(Clone, Debug)]
pub(super) struct Reign {
    /// The Raft term.
    pub(super) term: u64,
    /// Cancelled when it ends.
    pub(super) over: CancellationToken,
}

/// What reaches the leader's task.
#[derive(Debug)]
pub(super) enum Message {
    /// A data node opened its session.
    Opened {
        /// Whose.
        node: NodeId,
        /// Drawn for this session.
        stream: u64,
        /// The way down.
        orders: mpsc::Sender<Vec<Order>>,
    },
    /// It ended.
    Closed {
        /// Whose.
        node: NodeId,
        /// Which.
        stream: u64,
    },
    /// From a data node.
    Heartbeat {
        /// In which session.
        stream: u64,
        /// What it says.
        heartbeat: Box<Heartbeat>,
    },
    /// From a data node.
    Reports {
        /// Which.
        from: NodeId,
        /// In which session.
        stream: u64,
        /// What it says.
        reports: Vec<ReplicaReport>,
    },
    /// From a person.
    Admin(AdminRequest),
    /// What the voters of the group understand.
    Coordinators(Vec<CoordinatorFeatures>),
    /// Whether the identity that holds the name is down.
    MayReplace {
        /// Whose.
        name: String,
        /// The answer.
        answer: oneshot::Sender<bool>,
    },
    /// What would have to be copied.
    Preview {
        /// After this change, if one is named.
        change: Option<Box<Command>>,
        /// The answer.
        answer: oneshot::Sender<Result<Plan, PreviewError>>,
    },
    /// What there is to show to people.
    Show {
        /// The answer.
        answer: oneshot::Sender<Shown>,
    },
}

/// How the services reach the leader's task.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    messages: mpsc::Sender<Message>,
    reign: watch::Receiver<Option<Reign>>,
}

impl Desk {
    /// The present reign, if this coordinator leads.
    pub(super) fn reign(&self) -> Option<Reign> {
        self.reign.borrow().clone()
    }

    /// The reign as it changes.
    pub(super) fn watch(&self) -> watch::Receiver<Option<Reign>> {
        self.reign.clone()
    }

    /// Hands a message over; waits where too much waits already. Whether the task
    /// still runs.
    pub(super) async fn tell(&self, message: Message) -> bool {
        self.messages.send(message).await.is_ok()
    }

    /// Whether the identity that holds the name may be replaced.
    pub(super) async fn may_replace(&self, name: String) -> bool {
        let (answer, receiver) = oneshot::channel();
        self.tell(Message::MayReplace { name, answer }).await && receiver.await.unwrap_or(false)
    }

    /// What would have to be copied, after a change if one is named.
    pub(super) async fn preview(
        &self,
        change: Option<Command>,
    ) -> Option<Result<Plan, PreviewError>> {
        let (answer, receiver) = oneshot::channel();
        let change = change.map(Box::new);
        if !self.tell(Message::Preview { change, answer }).await {
            return None;
        }
        receiver.await.ok()
    }

    /// What there is to show.
    pub(super) async fn show(&self) -> Option<Shown> {
        let (answer, receiver) = oneshot::channel();
        if !self.tell(Message::Show { answer }).await {
            return None;
        }
        receiver.await.ok()
    }
}

#[derive(Debug)]
struct Session {
    stream: u64,
    orders: mpsc::Sender<Vec<Order>>,
}

/// The task.
#[derive(Debug)]
pub(super) struct Leader {
    group: Arc<Group>,
    /// The settings that a new cluster is made with.
    settings: ClusterSettings,
    /// After how long without a quorum a leader counts itself out.
    quorum_patience: Duration,
    tick: Duration,
    /// What the supervisor counts time by.
    clock: fn() -> Micros,
    messages: mpsc::Receiver<Message>,
    view: watch::Receiver<View>,
    metrics: watch::Receiver<RaftMetrics>,
    reign: watch::Sender<Option<Reign>>,
    confirming: Option<(u64, JoinHandle<Result<(), String>>)>,
    supervisor: Supervisor,
    /// What this turn brought: the supervisor takes it all at once, so that what comes
    /// of it is proposed in one entry.
    inputs: Vec<Input>,
    /// When Raft's own task was last seen to come round.
    raft_heard: Instant,
    sessions: HashMap<NodeId, Session>,
    proposals: Proposals,
    chronicle: Chronicle,
    figures_told: Option<Instant>,
}

impl Leader {
    pub(super) fn new(
        group: Arc<Group>,
        view: watch::Receiver<View>,
        settings: ClusterSettings,
        read_copies: ReadCopies,
        quorum_patience: Duration,
        tick: Duration,
        clock: fn() -> Micros,
    ) -> (Self, Desk) {
        let (sender, messages) = mpsc::channel(MESSAGES_MAX);
        let (reign, receiver) = watch::channel(None);
        let leader = Self {
            metrics: group.raft.metrics(),
            proposals: Proposals::new(proposals::through(group.raft.0.clone())),
            group,
            settings,
            quorum_patience,
            tick,
            clock,
            messages,
            view,
            reign,
            confirming: None,
            supervisor: Supervisor::new(SupervisorOptions {
                read_copies,
                ..SupervisorOptions::default()
            }),
            inputs: Vec::new(),
            raft_heard: Instant::now(),
            sessions: HashMap::new(),
            chronicle: Chronicle::default(),
            figures_told: None,
        };
        let desk = Desk {
            messages: sender,
            reign: receiver,
        };
        (leader, desk)
    }

    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        events::register();
        metrics::gauge!("cairn_coordinator_leading").set(0.0);
        gauges::set(
            Summary::default(),
            RebalanceStatus::default(),
            HeatFigures::default(),
        );
        let mut tick = tokio::time::interval(self.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut taken = Vec::with_capacity(TURN_MAX);
        loop {
            let mut wanted = Vec::new();
            let leading = self.is_leading();
            let confirming = self.confirming.is_some();
            tokio::select! {
                () = shutdown.cancelled() => break,
                changed = self.metrics.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.raft_heard = Instant::now();
                    self.watch_leadership();
                }
                confirmed = confirmation(&mut self.confirming), if confirming => {
                    self.confirmed(confirmed);
                }
                changed = self.view.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.applied();
                }
                _ = self.messages.recv_many(&mut taken, TURN_MAX) => {
                    if taken.is_empty() {
                        break;
                    }
                    for message in taken.drain(..) {
                        self.take(message, &mut wanted);
                    }
                }
                // While this one does not lead, the tick looks whether a quorum
                // that was lost has come back.
                _ = tick.tick() => {
                    if leading {
                        self.inputs.push(Input::Tick { unix_ms: wall_ms() });
                        self.tell_figures();
                    }
                    self.watch_leadership();
                }
                outcome = self.proposals.next(), if self.proposals.any_under_way() => {
                    // The view holds the effect of what was applied: tell it first.
                    self.catch_up();
                    for (id, outcome) in outcome {
                        self.inputs.push(Input::Proposal { id, outcome });
                    }
                }
            }
            self.step(&mut wanted);
            self.carry_out(wanted);
        }
        self.end_reign();
    }

    fn tell_figures(&mut self) {
        if self
            .figures_told
            .is_none_or(|at| at.elapsed() >= FIGURES_EVERY)
        {
            self.figures_told = Some(Instant::now());
            gauges::set(
                self.supervisor.summary(),
                self.supervisor.rebalance_status(),
                self.supervisor.heat_figures((self.clock)()),
            );
        }
    }

    fn is_leading(&self) -> bool {
        self.reign.borrow().is_some()
    }

    /// Lets the supervisor take what came up.
    fn step(&mut self, wanted: &mut Vec<Output>) {
        if !self.inputs.is_empty() {
            let inputs = std::mem::take(&mut self.inputs);
            wanted.extend(self.supervisor.step_all((self.clock)(), inputs));
        }
    }

    /// Whether this is the node's present session. What an earlier one still had under
    /// way says nothing of now, and would count as a sign of life.
    fn is_present(&self, node: NodeId, stream: u64) -> bool {
        self.sessions.get(&node).is_some_and(|s| s.stream == stream)
    }

    fn take(&mut self, message: Message, wanted: &mut Vec<Output>) {
        match message {
            Message::Opened {
                node,
                stream,
                orders,
            } => {
                self.sessions.insert(node, Session { stream, orders });
                self.inputs.push(Input::StreamOpened { node });
            }
            Message::Closed { node, stream } => {
                // A session that took its place is not closed with it.
                if self.is_present(node, stream) {
                    self.sessions.remove(&node);
                    self.inputs.push(Input::StreamClosed { node });
                }
            }
            Message::Heartbeat { stream, heartbeat } => {
                if self.is_present(heartbeat.node, stream) {
                    self.inputs.push(Input::Heartbeat(*heartbeat));
                }
            }
            Message::Reports {
                from,
                stream,
                reports,
            } => {
                if self.is_present(from, stream) {
                    let inputs = reports
                        .into_iter()
                        .map(|report| Input::Report { from, report });
                    self.inputs.extend(inputs);
                }
            }
            Message::Admin(request) => self.inputs.push(Input::Admin(request)),
            Message::Coordinators(voters) => self.inputs.push(Input::Coordinators(voters)),
            Message::MayReplace { name, answer } => {
                self.step(wanted);
                let may = self.is_leading() && self.supervisor.may_replace(&name);
                let _ = answer.send(may);
            }
            Message::Preview { change, answer } => {
                self.catch_up();
                self.step(wanted);
                let _ = answer.send(self.supervisor.preview(change.as_deref()));
            }
            Message::Show { answer } => {
                self.catch_up();
                self.step(wanted);
                let _ = answer.send(Shown {
                    status: self.supervisor.status((self.clock)()),
                    events: self.chronicle.recent(),
                });
            }
        }
    }

    /// Whoever asks was told of what they changed before: it is to be in the answer.
    fn catch_up(&mut self) {
        if self.view.has_changed().unwrap_or(false) {
            self.applied();
        }
    }

    fn applied(&mut self) {
        let state = Arc::clone(&self.view.borrow_and_update().state);
        self.inputs.push(Input::Applied { state });
    }

    /// Whether Raft's task hangs: it appends to the log before it does anything else,
    /// so that with a disk that does not come back nothing is replicated, nobody else
    /// is heard, and what it says of itself stays as good as it was.
    fn is_stalled(&self) -> bool {
        let long = |since: Instant| since.elapsed() > self.quorum_patience;
        long(self.raft_heard) || self.proposals.oldest().is_some_and(long)
    }

    /// Begins or ends a reign by what Raft says of itself.
    fn watch_leadership(&mut self) {
        if self.metrics.has_changed().unwrap_or(false) {
            self.raft_heard = Instant::now();
        }
        let stalled = self.is_stalled();
        let (term, leader, silent) = {
            let metrics = self.metrics.borrow_and_update();
            let leader = metrics.state == ServerState::Leader
                && metrics.current_leader == Some(self.group.id());
            let silent = metrics
                .millis_since_quorum_ack
                .is_some_and(|ms| u128::from(ms) > self.quorum_patience.as_millis());
            (metrics.current_term, leader, silent)
        };
        let leads = leader && !silent && !stalled;
        let reigning = self.reign.borrow().as_ref().map(|r| r.term);
        if let Some(reigning) = reigning
            && (!leads || reigning != term)
        {
            tracing::warn!(
                term = reigning,
                silent,
                stalled,
                "no longer leading the coordinators"
            );
            self.end_reign();
            self.inputs.push(Input::LostLeadership);
            for (id, outcome) in self.proposals.give_up() {
                self.inputs.push(Input::Proposal { id, outcome });
            }
        }
        if self
            .confirming
            .as_ref()
            .is_some_and(|(confirming, _)| !leads || *confirming != term)
            && let Some((_, task)) = self.confirming.take()
        {
            task.abort();
        }
        if leads && !self.is_leading() && self.confirming.is_none() {
            let task = confirm(
                Arc::clone(&self.group),
                self.view.clone(),
                self.settings.clone(),
            );
            self.confirming = Some((term, tokio::spawn(task)));
        }
    }

    fn confirmed(&mut self, outcome: (u64, Result<(), String>)) {
        let (term, outcome) = outcome;
        if let Err(why) = outcome {
            tracing::warn!(term, why, "leading the coordinators is not confirmed yet");
            return;
        }
        {
            let metrics = self.metrics.borrow();
            if metrics.state != ServerState::Leader || metrics.current_term != term {
                // Deposed while it waited: what it saw applied was its successor's.
                return;
            }
        }
        tracing::info!(term, "leading the coordinators");
        metrics::counter!("cairn_coordinator_reigns_total").increment(1);
        metrics::gauge!("cairn_coordinator_leading").set(1.0);
        self.chronicle.begin();
        let state = Arc::clone(&self.view.borrow_and_update().state);
        self.inputs.push(Input::BecameLeader { term, state });
        self.reign.send_replace(Some(Reign {
            term,
            over: CancellationToken::new(),
        }));
    }

    /// Ends every session; whose they were.
    fn end_reign(&mut self) -> Vec<NodeId> {
        if let Some(reign) = self.reign.send_replace(None) {
            reign.over.cancel();
        }
        metrics::gauge!("cairn_coordinator_leading").set(0.0);
        gauges::set(
            Summary::default(),
            RebalanceStatus::default(),
            HeatFigures::default(),
        );
        self.sessions.drain().map(|(node, _)| node).collect()
    }

    fn carry_out(&mut self, wanted: Vec<Output>) {
        let mut orders: BTreeMap<NodeId, Vec<Order>> = BTreeMap::new();
        for output in wanted {
            match output {
                Output::Propose { id, command } => self.proposals.add(id, *command),
                Output::SendOrder { node, order } => orders.entry(node).or_default().push(order),
                Output::Event(event) => self.chronicle.note(event),
            }
        }
        for (node, orders) in orders {
            // An order that does not fit is lost, and the supervisor sends it again.
            let sent = self
                .sessions
                .get(&node)
                .is_some_and(|s| s.orders.try_send(orders).is_ok());
            if !sent {
                metrics::counter!("cairn_coordinator_orders_dropped_total").increment(1);
            }
        }
        self.proposals.launch();
    }
}

/// Waits for the task that confirms this leader; for ever where there is none.
async fn confirmation(
    confirming: &mut Option<(u64, JoinHandle<Result<(), String>>)>,
) -> (u64, Result<(), String>) {
    let Some((term, task)) = confirming else {
        return std::future::pending().await;
    };
    let term = *term;
    let outcome = task.await.unwrap_or_else(|e| Err(e.to_string()));
    *confirming = None;
    (term, outcome)
}

/// As [`confirm_once`]; a failure is not told before a pause, as it leads to
/// another try at once.
async fn confirm(
    group: Arc<Group>,
    view: watch::Receiver<View>,
    settings: ClusterSettings,
) -> Result<(), String> {
    let outcome = confirm_once(group, view, settings).await;
    if outcome.is_err() {
        sleep(CONFIRM_PAUSE).await;
    }
    outcome
}

/// Makes sure that this coordinator leads and has applied all that was committed
/// before, and that the cluster exists.
async fn confirm_once(
    group: Arc<Group>,
    view: watch::Receiver<View>,
    settings: ClusterSettings,
) -> Result<(), String> {
    let confirmed = timeout(CONFIRM_TIMEOUT, group.raft.ensure_linearizable()).await;
    confirmed
        .map_err(|_| "a quorum does not answer in time".to_owned())?
        .map_err(|e| e.to_string())?;
    let state = Arc::clone(&view.borrow().state);
    if let Some(agreed) = state.settings() {
        warn_of_differences(agreed, &settings);
        return Ok(());
    }
    let command = Command::CreateCluster {
        cluster_id: group.cluster.get(),
        settings,
    };
    let written = timeout(CONFIRM_TIMEOUT, group.raft.client_write(command)).await;
    let answer = written
        .map_err(|_| "making the cluster takes long".to_owned())?
        .map_err(|e| e.to_string())?;
    match answer.data {
        Applied(Some(Response::Refused(refusal))) => {
            tracing::error!(%refusal, "the cluster cannot be made with the configured settings");
            Err(refusal.to_string())
        }
        _ => {
            tracing::info!(cluster_id = group.cluster.get(), "the cluster is made");
            Ok(())
        }
    }
}

/// The cluster keeps the settings that it was made with, or was changed to since:
/// what a start says otherwise is not silently ignored.
fn warn_of_differences(agreed: &ClusterSettings, configured: &ClusterSettings) {
    for (name, agreed, configured) in differences(agreed, configured) {
        tracing::warn!(
            setting = name,
            agreed,
            configured,
            "the cluster keeps the setting that it agreed on; the configured one is not used"
        );
    }
}

/// The settings that differ: name, agreed, configured.
fn differences(
    agreed: &ClusterSettings,
    configured: &ClusterSettings,
) -> Vec<(&'static str, u64, u64)> {
    let list = |settings: &ClusterSettings| {
        let ClusterSettings {
            replication_factor,
            write_quorum,
            min_in_sync,
            partitions,
            virtual_nodes,
            initial_data_nodes,
            lease_ms,
            // Follows from the history of `lease_ms`.
            lease_ms_longest: _,
            idempotence_window,
            node_timeout_ms,
            read_level,
            read_quorum,
            replace_after_ms,
            moves_per_node,
            // No number, and changed by whoever uses them.
            counters: _,
        } = settings;
        [
            ("replicationFactor", u64::from(*replication_factor)),
            ("writeQuorum", u64::from(*write_quorum)),
            ("minInSync", u64::from(*min_in_sync)),
            ("partitions", u64::from(*partitions)),
            ("virtualNodes", u64::from(*virtual_nodes)),
            ("dataNodes", u64::from(*initial_data_nodes)),
            ("leaseMs", *lease_ms),
            ("idempotenceWindow", u64::from(*idempotence_window)),
            ("nodeTimeoutMs", *node_timeout_ms),
            ("readLevel", *read_level as u64),
            ("readQuorum", u64::from(*read_quorum)),
            ("replaceAfterMs", *replace_after_ms),
            ("movesPerNode", u64::from(*moves_per_node)),
        ]
    };
    list(agreed)
        .into_iter()
        .zip(list(configured))
        .filter(|((_, ours), (_, theirs))| ours != theirs)
        .map(|((name, ours), (_, theirs))| (name, ours, theirs))
        .collect()
}
