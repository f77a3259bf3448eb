//! The data node's side of the coordinators: registration, the session with the
//! leader, and the map.
//!
//! Invariants:
//! - The map only grows newer, and only within one cluster id.
//! - A map is on disk soon after it is in memory, never before it was committed by
//!   the coordinators (every map that arrives was).
//! - Whether the coordinators count as within reach is settled by one rule: there
//!   is a session with their leader. At the start nothing is said until the first
//!   session or [`AgentConfig::coordinators_grace`].
//!
//! It decides nothing about partitions: orders and records go to the engine as
//! they come.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::cluster::report::{PartitionStatus, ReplicaReport};
use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::{Addresses, ClusterMap};
use cairn_core::replication::Event;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::coordinator::CoordinatorAddress;

/// The newest map that the process has; an empty one at first.
pub type SharedMap = Arc<ArcSwap<ClusterMap>>;

/// What a data node tells of itself, and how it keeps in touch.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Its label.
    pub name: String,
    /// Its zone; empty where unknown.
    pub zone: String,
    /// Its share of the data, 100 is usual.
    pub weight: u32,
    /// The features that it understands.
    pub features: u64,
    /// Where it listens, as others reach it.
    pub addresses: Addresses,
    /// The coordinators.
    pub coordinators: Vec<CoordinatorAddress>,
    /// The file that keeps the last map.
    pub map_file: PathBuf,
    /// How often a heartbeat is sent.
    pub heartbeat: Duration,
    /// How long, at the start, a session is waited for before the coordinators
    /// count as out of reach.
    pub coordinators_grace: Duration,
    /// How long one coordinator may take to answer before the next is tried.
    pub connect_timeout: Duration,
}

impl AgentConfig {
    /// A configuration with the usual timings.
    #[must_use]
    pub fn new(name: String, coordinators: Vec<CoordinatorAddress>, map_file: PathBuf) -> Self {
        Self {
            name,
            zone: String::new(),
            weight: 100,
            features: 0,
            addresses: Addresses::default(),
            coordinators,
            map_file,
            heartbeat: Duration::from_millis(100),
            coordinators_grace: Duration::from_secs(2),
            connect_timeout: Duration::from_millis(500),
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
}

/// What the agent needs of the engine that drives `NodeCore`.
pub trait EngineLink: Send + Sync + 'static {
    /// Takes an event without blocking: orders, records, whether the coordinators
    /// are within reach, draining.
    fn submit(&self, event: Event);

    /// The status of every replica, or of those whose status changed since the last
    /// call. An engine that is stopping may answer with nothing.
    fn statuses(&self, full: bool) -> BoxFuture<'static, Vec<PartitionStatus>>;

    /// A newer map than before: settings, addresses. Its records come as events.
    fn set_map(&self, map: Arc<ClusterMap>);
}

/// Where a newer map can be had from another data node.
pub trait MapSource: Send + Sync + 'static {
    /// The map of `from`.
    fn fetch(&self, from: NodeId) -> BoxFuture<'static, Result<ClusterMap, String>>;
}

/// How the rest of the data node speaks to the agent. Cheap to clone; nothing here
/// blocks.
#[derive(Clone, Debug)]
pub struct AgentInbox {}

impl AgentInbox {
    /// An answer to an order ([`cairn_core::replication::Effect::Report`]).
    pub fn report(&self, report: ReplicaReport) {
        let _ = report;
    }

    /// Something changed that the coordinators should hear before the next
    /// heartbeat is due: a wish, a role.
    pub fn urge(&self) {}

    /// The peers that give no answer right now. A change is told at once.
    pub fn set_unreachable(&self, peers: Vec<NodeId>) {
        let _ = peers;
    }

    /// Whether the node refuses writes for want of disk space.
    pub fn set_disk_full(&self, full: bool) {
        let _ = full;
    }

    /// Another node said which map it has.
    pub fn peer_map(&self, peer: NodeId, version: MapVersion) {
        let _ = (peer, version);
    }
}

/// What the agent says of itself, for `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentStatus {
    /// Whether there is a session with the coordinators' leader.
    pub connected: bool,
    /// The leader's name, while connected.
    pub leader: Option<String>,
    /// The version of the map.
    pub map_version: MapVersion,
    /// Whether the node is draining.
    pub draining: bool,
}

/// Why a data node is not admitted. Only what will not change by itself ends
/// [`enroll`]: out-of-reach coordinators are tried for ever.
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
    /// The map: the last one from disk, or the one that came with the admission.
    pub map: SharedMap,
    /// For the engine and the peers.
    pub inbox: AgentInbox,
}

/// Finds out which node this is: from the last map on disk, so that a node starts
/// while the coordinators are away (rule 14), or by registering with them, for as
/// long as it takes.
///
/// # Errors
/// See [`AgentError`].
pub async fn enroll(
    config: AgentConfig,
    identity: NodeIdentity,
    shutdown: CancellationToken,
) -> Result<Enrolled, AgentError> {
    let _ = (config, identity);
    shutdown.cancelled().await;
    Err(AgentError::Shutdown)
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    status: watch::Receiver<AgentStatus>,
}

impl Agent {
    /// What it says of itself, as it changes.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<AgentStatus> {
        self.status.clone()
    }

    /// Hands over what the node leads: tells the coordinators and the engine, and
    /// waits until the node leads nothing any more, at most `bound`. Whether it
    /// leads nothing.
    pub async fn drain(&self, bound: Duration) -> bool {
        let _ = bound;
        true
    }

    /// Ends the session.
    pub async fn stop(self) {}
}

/// Keeps the session with the coordinators until [`Agent::stop`].
#[must_use]
pub fn spawn(
    enrolled: Enrolled,
    engine: Arc<dyn EngineLink>,
    maps: Arc<dyn MapSource>,
    shutdown: CancellationToken,
) -> Agent {
    let _ = (enrolled, engine, maps, shutdown);
    let (_sender, status) = watch::channel(AgentStatus::default());
    Agent { status }
}
