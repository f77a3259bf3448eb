//! The data node's side of the coordinators: registration, the session with the
//! leader, and the map.
//!
//! Invariants:
//! - The map only grows newer, and only within one cluster id.
//! - Every map that arrives was committed by the coordinators; the newest one is on
//!   disk soon after it is in memory, so that the node starts and serves while they
//!   are away (rule 14).
//! - Whether the coordinators count as within reach is settled by one rule: they
//!   do from the beginning of a session with their leader until
//!   [`AgentConfig::coordinators_grace`] after its end. At the start nothing is said
//!   for as long.
//!
//! It decides nothing about partitions: orders and maps go to the engine as they
//! come.
//!
//! # Starting a data node
//! Lock and identity of the directory; [`enroll()`]; keep the number that it returns
//! in the identity; recover the log, start the engine and the listeners; [`spawn`].

mod enroll;
mod inbox;
mod leader;
mod map_file;
mod maps;
mod places;
mod ports;
mod session;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_client::transport::Dialer;
use cairn_core::cluster::report::PartitionStatus;
use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::{Addresses, ClusterMap};
use cairn_core::replication::Event;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::coordinator::CoordinatorAddress;
use crate::peer::PeerPool;

pub use enroll::enroll;
pub use inbox::AgentInbox;
pub use maps::SavedMap;
pub use places::{Place, PlaceSettings, Places, PlacesFile};
pub(crate) use places::{WEIGHTS, check_label};

use inbox::Outbox;
use maps::Maps;
use session::Keeper;

/// The newest map that the process has; an empty one at first. Only the agent
/// replaces it.
pub type SharedMap = Arc<ArcSwap<ClusterMap>>;

/// What a data node tells of itself, and how it keeps in touch.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Its label.
    pub name: String,
    /// Its zone and its share of the data.
    pub places: Places,
    /// The features that it understands.
    pub features: u64,
    /// Where it listens, as others reach it.
    pub addresses: Addresses,
    /// Drawn by the process when it started: what `NodeCore` and the peers use too.
    pub session: u64,
    /// The coordinators.
    pub coordinators: Vec<CoordinatorAddress>,
    /// The file that keeps the last map.
    pub map_file: PathBuf,
    /// How connections to ports between nodes are made.
    pub dialer: Dialer,
    /// How connections to ports for clients are made.
    pub client_dialer: Dialer,
    /// How often a heartbeat is sent.
    pub heartbeat: Duration,
    /// How long the coordinators may be away before they count as out of reach.
    pub coordinators_grace: Duration,
    /// How long one coordinator may take to answer before the next is tried, and how
    /// long a leader may be silent in a session.
    pub connect_timeout: Duration,
}

impl AgentConfig {
    /// A configuration with the usual timings.
    #[must_use]
    pub fn new(
        name: String,
        session: u64,
        coordinators: Vec<CoordinatorAddress>,
        map_file: PathBuf,
    ) -> Self {
        Self {
            places: Places::new(&name, PlaceSettings::default()),
            name,
            features: cairn_proto::FEATURES,
            addresses: Addresses::default(),
            session,
            coordinators,
            map_file,
            dialer: Dialer::default(),
            client_dialer: Dialer::default(),
            heartbeat: Duration::from_millis(100),
            coordinators_grace: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
        }
    }
}

/// The identity on the node's disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeIdentity {
    /// Drawn when the empty disk was first used.
    pub uuid: String,
    /// Drawn at the same time.
    pub incarnation: String,
    /// The cluster that admitted it, once one has.
    pub cluster_id: Option<String>,
    /// The number under which it did.
    pub node: Option<NodeId>,
}

/// What the agent needs of the engine that drives `NodeCore`.
pub trait EngineLink: Send + Sync + 'static {
    /// Takes an event without blocking: orders, whether the coordinators are within
    /// reach, draining.
    fn submit(&self, event: Event);

    /// The status of every replica, or of those whose status changed since the last
    /// call. An engine that is stopping may answer with nothing.
    fn statuses(&self, full: bool) -> BoxFuture<'static, Vec<PartitionStatus>>;

    /// A newer map than before, or the first one. Its records are the engine's to
    /// look at; nobody else tells it of them.
    fn set_map(&self, map: Arc<ClusterMap>);
}

/// What the agent needs of the streams to other data nodes.
pub trait PeerLink: Send + Sync + 'static {
    /// The shared map was replaced: addresses and identities may have changed.
    fn map_changed(&self);

    /// The whole map of another node.
    fn fetch_map(&self, from: NodeId) -> BoxFuture<'static, Result<Arc<ClusterMap>, String>>;
}

impl PeerLink for PeerPool {
    fn map_changed(&self) {
        Self::map_changed(self);
    }

    fn fetch_map(&self, from: NodeId) -> BoxFuture<'static, Result<Arc<ClusterMap>, String>> {
        let pool = self.clone();
        async move {
            Self::fetch_map(&pool, from)
                .await
                .map_err(|e| e.to_string())
        }
        .boxed()
    }
}

/// What the agent says of itself, for `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// Whether there is a session with the coordinators' leader.
    pub connected: bool,
    /// Where the leader is, while connected.
    pub leader: Option<String>,
    /// Whether the coordinators count as within reach; unsettled at the start.
    pub reachable: Option<bool>,
    /// Whether the leader that was found last knows less than this node.
    pub leader_behind: bool,
}

/// Why a data node is not admitted. Only what will not change by itself ends
/// [`enroll()`]: out-of-reach coordinators are tried for ever.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The map on disk cannot be used.
    #[error("read the map in {}: {reason}", file.display())]
    Map {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The coordinators refuse this identity for good.
    #[error("the coordinators refuse this node: {0}")]
    Refused(String),
    /// The process is to end.
    #[error("shut down before the node was admitted")]
    Shutdown,
}

/// An admitted node.
#[derive(Debug)]
pub struct Enrolled {
    /// Its number.
    pub node: NodeId,
    /// The map: the last one from disk, or the one that came with the admission. Its
    /// settings are there.
    pub map: SharedMap,
    /// What of it was on disk.
    pub saved: SavedMap,
    /// For the engine and the peers.
    pub inbox: AgentInbox,
    config: AgentConfig,
    identity: NodeIdentity,
    outbox: Outbox,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    status: watch::Receiver<AgentStatus>,
    draining: watch::Sender<bool>,
    leads: watch::Receiver<Option<usize>>,
    saved: watch::Receiver<SavedMap>,
    engine: EngineHandle,
    /// So that a session never ends because nobody is left who could report.
    _inbox: AgentInbox,
    shutdown: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// `dyn EngineLink` has no `Debug`.
#[derive(Clone)]
struct EngineHandle(Arc<dyn EngineLink>);

impl std::fmt::Debug for EngineHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EngineLink")
    }
}

/// How long the last map may take to reach the disk when the agent stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Agent {
    /// What it says of itself, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.clone()
    }

    /// What of the map is on disk, as it changes.
    #[must_use]
    pub fn saved(&self) -> watch::Receiver<SavedMap> {
        self.saved.clone()
    }

    /// Hands over what the node leads: tells the coordinators and the engine, and
    /// waits until the node leads nothing any more, at most `bound`. Whether it
    /// leads nothing.
    pub async fn drain(&self, bound: Duration) -> bool {
        self.draining.send_replace(true);
        self.engine.0.submit(Event::Drain);
        let mut leads = self.leads.clone();
        // What was known before the drain counts too: a node that led nothing then
        // is named primary of nothing while it says that it drains.
        let drained = leads.wait_for(|leads| *leads == Some(0));
        matches!(timeout(bound, drained).await, Ok(Ok(_)))
    }

    /// Ends the session and waits until the last map is on disk.
    pub async fn stop(self) {
        self.shutdown.cancel();
        for task in self.tasks {
            let abort = task.abort_handle();
            if timeout(STOP_TIMEOUT, task).await.is_err() {
                abort.abort();
            }
        }
    }
}

/// Keeps the session with the coordinators until [`Agent::stop`] or `shutdown`.
#[must_use]
pub fn spawn(
    enrolled: Enrolled,
    engine: Arc<dyn EngineLink>,
    peers: Arc<dyn PeerLink>,
    shutdown: CancellationToken,
) -> Agent {
    let Enrolled {
        node,
        map,
        saved,
        inbox,
        config,
        identity,
        outbox,
    } = enrolled;
    let shutdown = shutdown.child_token();
    let engine = EngineHandle(engine);
    engine.0.set_map(map.load_full());
    let dialer = config.client_dialer.clone().following(Arc::clone(&map));
    let ports = ports::Ports::new(node, Arc::clone(&map), dialer);
    let (maps, saver, saved) = Maps::new(
        map,
        engine.clone(),
        Arc::clone(&peers),
        config.map_file.clone(),
        saved,
    );
    let maps = Arc::new(maps);
    let (status_sender, status) = watch::channel(AgentStatus::default());
    let (draining, drains) = watch::channel(false);
    let (leads_sender, leads) = watch::channel(None);
    let Outbox {
        reports,
        shared,
        peer_maps,
    } = outbox;
    let keeper = Keeper {
        node,
        config,
        identity,
        engine: engine.clone(),
        maps: Arc::clone(&maps),
        reports,
        shared: Arc::clone(&shared),
        draining: drains,
        leads: leads_sender,
        status: status_sender,
        sequence: 0,
    };
    let tasks = vec![
        tokio::spawn(keeper.run(shutdown.clone())),
        tokio::spawn(maps::follow_peers(maps, peer_maps, peers, shutdown.clone())),
        tokio::spawn(saver.run(shutdown.clone())),
        tokio::spawn(ports.watch(shared, shutdown.clone())),
    ];
    Agent {
        status,
        draining,
        leads,
        saved,
        engine,
        _inbox: inbox,
        shutdown,
        tasks,
    }
}

/// Which map another node said to have.
type PeerMap = Option<(NodeId, MapVersion)>;
