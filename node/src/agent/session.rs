//! The session with the coordinators' leader: heartbeats and reports up, orders and
//! maps down.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::transport::Channel;
use cairn_core::cluster::report::{Heartbeat, Order, PartitionStatus, ReplicaReport, Role};
use cairn_core::ids::{NodeId, PartitionId};
use cairn_core::replication::Event;
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use cairn_proto::pb::coordinator::v1::coordinator_to_node::Message as DownMessage;
use cairn_proto::pb::coordinator::v1::node_to_coordinator::Message as UpMessage;
use cairn_proto::pb::peer::v1::Handshake;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use super::inbox::Shared;
use super::leader::{Search, Unhelpful, register};
use super::maps::Maps;
use super::{AgentConfig, AgentStatus, EngineHandle, NodeIdentity, Place};

/// How many messages may wait to go up. The stream is read by the transport at
/// once, so that a full one means a connection that is stuck.
const UP_MAX: usize = 64;
/// How many reports travel in one message.
const REPORTS_MAX: usize = 4096;
/// The shortest time between two heartbeats, however urgent.
const URGENT_SPACING: Duration = Duration::from_millis(5);
/// After how long without an answer the next coordinator is asked beside the last.
const HEDGE_AFTER: Duration = Duration::from_millis(150);

/// Which partitions the node leads, by the statuses that it tells.
#[derive(Debug, Default)]
struct Led(BTreeSet<PartitionId>);

impl Led {
    fn note(&mut self, statuses: &[PartitionStatus], full: bool) -> usize {
        if full {
            self.0.clear();
        }
        for status in statuses {
            match status.role {
                Role::Primary | Role::Rising | Role::Suspended => {
                    self.0.insert(status.partition);
                }
                Role::Replica | Role::Learner => {
                    self.0.remove(&status.partition);
                }
            }
        }
        self.0.len()
    }
}

/// Keeps the session.
pub(super) struct Keeper {
    pub(super) node: NodeId,
    pub(super) config: AgentConfig,
    pub(super) identity: NodeIdentity,
    pub(super) engine: EngineHandle,
    pub(super) maps: Arc<Maps>,
    pub(super) reports: mpsc::Receiver<ReplicaReport>,
    pub(super) shared: Arc<Shared>,
    pub(super) draining: watch::Receiver<bool>,
    pub(super) leads: watch::Sender<Option<usize>>,
    pub(super) status: watch::Sender<AgentStatus>,
    /// Of the last heartbeat; counts on from session to session.
    pub(super) sequence: u64,
}

impl Keeper {
    /// Runs until `shutdown`.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let reach = Reach {
            engine: self.engine.clone(),
            status: self.status.clone(),
            grace: self.config.coordinators_grace,
        };
        let reaching = tokio::spawn(reach.watch(shutdown.clone()));
        let mut search = Search::new(&self.config);
        while !shutdown.is_cancelled() {
            let (address, session) = tokio::select! {
                () = shutdown.cancelled() => break,
                found = self.find(&mut search) => found,
            };
            tracing::info!(leader = address, "in session with the coordinators' leader");
            search.succeeded(address.clone());
            self.tell_status(Some(address.clone()));
            let why = tokio::select! {
                () = shutdown.cancelled() => break,
                why = self.converse(session) => why,
            };
            self.tell_status(None);
            tracing::info!(leader = address, %why, "the session with the leader ended");
            let pause = search.failed(&address, &why);
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = sleep(pause) => {}
            }
        }
        self.tell_status(None);
        reaching.abort();
    }

    /// Looks for the leader for as long as it takes. One that does not answer soon is
    /// not waited for alone: the next one is asked beside it.
    async fn find(&self, search: &mut Search) -> (String, Session) {
        let mut trying = FuturesUnordered::new();
        let mut asked = BTreeSet::new();
        let mut next_at = Instant::now();
        loop {
            tokio::select! {
                Some((address, met)) = trying.next() => {
                    let why = match met {
                        Ok(session) => return (address, session),
                        Err(why) => why,
                    };
                    if let Unhelpful::Refused(_) | Unhelpful::Behind { .. } = &why {
                        tracing::error!(coordinator = address, %why, "no session");
                    } else {
                        tracing::debug!(coordinator = address, %why, "no session");
                    }
                    if let Unhelpful::Behind { .. } = &why {
                        self.status.send_modify(|status| status.leader_behind = true);
                    }
                    asked.remove(&address);
                    next_at = Instant::now() + search.failed(&address, &why);
                }
                () = sleep_until(next_at) => {
                    next_at = Instant::now() + HEDGE_AFTER;
                    search.follow(&self.maps.current());
                    if let Some((address, client)) = search.next()
                        && asked.insert(address.clone())
                    {
                        trying.push(async move { (address, self.meet(client).await) });
                    }
                }
            }
        }
    }

    fn tell_status(&self, leader: Option<String>) {
        metrics::gauge!("cairn_agent_connected").set(f64::from(u8::from(leader.is_some())));
        self.status.send_modify(|status| {
            status.connected = leader.is_some();
            status.leader_behind &= !status.connected;
            status.leader = leader;
        });
    }

    /// Registers, and opens a session.
    async fn meet(&self, mut client: CoordinatorClient<Channel>) -> Result<Session, Unhelpful> {
        let unavailable = |what: &str| Unhelpful::Unavailable(what.to_owned());
        let cluster_id = self.maps.cluster_id();
        let ours = self.maps.version();
        let admission = register(&mut client, &self.config, &self.identity, &cluster_id).await?;
        if admission.node != self.node || admission.cluster_id != cluster_id {
            return Err(Unhelpful::Refused(format!(
                "this process runs as {} of cluster {cluster_id}, and was now admitted as {} of {}",
                self.node, admission.node, admission.cluster_id
            )));
        }
        // What this node has was committed, and a leader has all that was: one that
        // lacks it is none, and following it would keep this node on an old map.
        let place = admission.place;
        let theirs = admission.map.version();
        if theirs < ours {
            return Err(Unhelpful::Behind { theirs, ours });
        }
        self.take_map(admission.map)?;
        let (up, messages) = mpsc::channel(UP_MAX);
        let hello = pb::Hello {
            handshake: Some(Handshake {
                format: cairn_proto::FORMAT,
                cluster_id,
                node: self.node.0,
                uuid: self.identity.uuid.clone(),
                incarnation: self.identity.incarnation.clone(),
                expected_uuid: String::new(),
                features: self.config.features,
                session: self.config.session,
            }),
            map_version: self.maps.version().0,
        };
        let mut session = Session {
            up,
            down: None,
            place,
        };
        session.send(UpMessage::Hello(hello))?;
        let opened = timeout(
            self.config.connect_timeout,
            client.session(ReceiverStream::new(messages)),
        )
        .await
        .map_err(|_| Unhelpful::Silent("no session in time"))??;
        let mut down = opened.into_inner();
        let first = timeout(self.config.connect_timeout, down.message())
            .await
            .map_err(|_| Unhelpful::Silent("no welcome in time"))??;
        match first.and_then(|m| m.message) {
            Some(DownMessage::Welcome(_)) => {}
            _ => return Err(unavailable("the session does not begin with a welcome")),
        }
        session.down = Some(down);
        Ok(session)
    }

    fn take_map(&self, update: MapUpdate) -> Result<(), Unhelpful> {
        // A gap, or another cluster: the next session begins with a whole map, or
        // with a refusal.
        self.maps
            .offer(update)
            .map_err(|e| Unhelpful::Unavailable(e.to_string()))
    }

    /// Speaks with the leader until one of the two has had enough; says why.
    async fn converse(&mut self, mut session: Session) -> Unhelpful {
        let Some(mut down) = session.down.take() else {
            return Unhelpful::Unavailable("no session".to_owned());
        };
        let places = self.config.places.clone();
        let former = session.place.clone();
        let mut moved = pin!(places.changed_from(&former));
        // What was reported to an earlier leader means nothing to this one.
        while self.reports.try_recv().is_ok() {}
        let mut beat = tokio::time::interval(self.config.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut led = Led::default();
        let mut full = true;
        let mut statuses: Option<BoxFuture<'static, Vec<PartitionStatus>>> = None;
        let mut due = false;
        let mut last_sent = Instant::now() - URGENT_SPACING;
        let mut last_heard = Instant::now();
        let mut reports = Vec::new();
        loop {
            if due && statuses.is_none() && last_sent.elapsed() >= URGENT_SPACING {
                due = false;
                statuses = Some(self.engine.0.statuses(full));
            }
            let silence = sleep_until(last_heard + self.config.connect_timeout);
            let spacing = sleep_until(last_sent + URGENT_SPACING);
            let collecting = statuses.is_some();
            let outcome = tokio::select! {
                message = down.message() => {
                    last_heard = Instant::now();
                    self.heard(message)
                }
                // The next session begins with a registration.
                () = &mut moved => {
                    Err(Unhelpful::Unavailable("the node's place has changed".to_owned()))
                }
                () = silence => Err(Unhelpful::Silent("nothing was heard in the session")),
                _ = beat.tick() => {
                    due = true;
                    Ok(())
                }
                () = self.shared.urgent() => {
                    due = true;
                    Ok(())
                }
                changed = self.draining.changed() => {
                    due = true;
                    if changed.is_err() {
                        Err(Unhelpful::Unavailable("the agent ends".to_owned()))
                    } else {
                        Ok(())
                    }
                }
                () = spacing, if due && !collecting => Ok(()),
                collected = collected(&mut statuses), if collecting => {
                    let count = led.note(&collected, full);
                    self.leads.send_if_modified(|known| {
                        let changed = *known != Some(count);
                        *known = Some(count);
                        changed
                    });
                    let sent = self.beat(&session, full, collected);
                    full = false;
                    last_sent = Instant::now();
                    sent
                }
                count = self.reports.recv_many(&mut reports, REPORTS_MAX) => {
                    if count == 0 {
                        // The engine and the peers are gone: the process ends.
                        Err(Unhelpful::Unavailable("the node ends".to_owned()))
                    } else {
                        let reports = std::mem::take(&mut reports);
                        session.send(UpMessage::Reports(reports.into()))
                    }
                }
            };
            if let Err(why) = outcome {
                return why;
            }
        }
    }

    fn beat(
        &mut self,
        session: &Session,
        full: bool,
        partitions: Vec<PartitionStatus>,
    ) -> Result<(), Unhelpful> {
        self.sequence += 1;
        let heartbeat = Heartbeat {
            node: self.node,
            session: self.config.session,
            sequence: self.sequence,
            map_version: self.maps.version(),
            unreachable: self.shared.unreachable(),
            silent_client_ports: self.shared.silent_client_ports(),
            disk_full: self.shared.disk_full(),
            draining: *self.draining.borrow(),
            figures: self.shared.figures(),
            heat: self.shared.take_heat().map(Box::new),
            full,
            partitions,
        };
        session.send(UpMessage::Heartbeat(heartbeat.into()))
    }

    /// Takes what the leader says.
    fn heard(
        &self,
        message: Result<Option<pb::CoordinatorToNode>, tonic::Status>,
    ) -> Result<(), Unhelpful> {
        let message =
            message?.ok_or_else(|| Unhelpful::Unavailable("closed by the leader".to_owned()))?;
        let malformed =
            |e: cairn_proto::Malformed| Unhelpful::Unavailable(format!("from the leader: {e}"));
        match message.message {
            Some(DownMessage::Orders(orders)) => {
                let orders: Vec<Order> = orders.try_into().map_err(malformed)?;
                for order in orders {
                    self.engine.0.submit(Event::Order { order });
                }
                Ok(())
            }
            Some(DownMessage::Map(update)) => {
                let update = MapUpdate::try_from(update).map_err(malformed)?;
                self.take_map(update)
            }
            // That it was heard is all that they say.
            Some(DownMessage::HeartbeatSeen(_) | DownMessage::Welcome(_)) => Ok(()),
            // Of a newer leader; passed over.
            None => Ok(()),
        }
    }
}

async fn collected(
    statuses: &mut Option<BoxFuture<'static, Vec<PartitionStatus>>>,
) -> Vec<PartitionStatus> {
    let Some(future) = statuses else {
        return std::future::pending().await;
    };
    let collected = future.await;
    *statuses = None;
    collected
}

/// The two ends of a session.
struct Session {
    up: mpsc::Sender<pb::NodeToCoordinator>,
    down: Option<Streaming<pb::CoordinatorToNode>>,
    /// Where the node was registered to stand.
    place: Place,
}

impl Session {
    /// Sends without waiting: a connection that takes nothing is given up.
    fn send(&self, message: UpMessage) -> Result<(), Unhelpful> {
        let message = pb::NodeToCoordinator {
            message: Some(message),
        };
        self.up
            .try_send(message)
            .map_err(|_| Unhelpful::Silent("the connection is stuck"))
    }
}

/// Settles whether the coordinators are within reach, and tells the engine.
struct Reach {
    engine: EngineHandle,
    status: watch::Sender<AgentStatus>,
    grace: Duration,
}

impl Reach {
    async fn watch(self, shutdown: CancellationToken) {
        let mut status = self.status.subscribe();
        loop {
            let (connected, told) = {
                let status = status.borrow_and_update();
                (status.connected, status.reachable)
            };
            if connected && told != Some(true) {
                self.tell(true);
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = status.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(self.grace), if !connected && told != Some(false) => {
                    self.tell(false);
                }
            }
        }
    }

    fn tell(&self, reachable: bool) {
        tracing::info!(reachable, "whether the coordinators are within reach");
        self.engine.0.submit(Event::Coordinators { reachable });
        self.status
            .send_modify(|status| status.reachable = Some(reachable));
    }
}
