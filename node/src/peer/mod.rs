//! Data nodes speaking to each other on the peer port.
//!
//! A node's messages travel on streams that it opened itself: [`PeerPool`] keeps
//! one stream per other node, and [`PeerService`] takes those that others opened.
//! Snapshots travel on connections of their own, so that they never stand before a
//! message.
//!
//! Invariants:
//! - Nothing is taken from a stream before its handshake matched: format, cluster,
//!   the sender's identity as the map has it, and this node as the one that is meant
//!   (rule 18).
//! - Whatever waits is bounded, in bytes and in messages; what does not fit is
//!   dropped and counted. Replication relies on no message.
//! - Nothing here blocks the thread that sends.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::ids::NodeId;
use cairn_core::record::ClusterMap;
use cairn_core::replication::PeerMessage;
use cairn_proto::trace::TracedEntry;
use futures::future::BoxFuture;

mod dial;
mod handshake;
mod outbox;
mod pool;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;

pub use handshake::HandshakeError;
pub(crate) use outbox::weight;
pub use pool::{CarryError, MapFetchError, PeerPool};
pub use service::PeerService;
pub use snapshot::{
    FetchError, SnapshotPart, SnapshotReader, SnapshotRefusal, SnapshotSource, SnapshotStream,
    Throttle,
};

/// The newest map that the process has.
pub type SharedMap = Arc<ArcSwap<ClusterMap>>;

/// Who this node is, as its disk and the coordinators have it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalIdentity {
    /// Its number.
    pub node: NodeId,
    /// Its UUID.
    pub uuid: String,
    /// Its incarnation.
    pub incarnation: String,
    /// Drawn when the process started.
    pub session: u64,
}

/// Bounds and timings of the streams between nodes.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The most bytes that wait for one peer.
    pub queue_bytes_max: usize,
    /// The most messages that wait for one peer.
    pub queue_messages_max: usize,
    /// About how many bytes travel in one frame; a single larger message travels
    /// alone.
    pub frame_bytes: usize,
    /// How long a connection, and then the handshake, may take.
    pub connect_timeout: Duration,
    /// The shortest pause between two dials that failed.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// How often an idle connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered.
    pub keepalive_timeout: Duration,
    /// How long a snapshot's next chunk may take.
    pub snapshot_stall: Duration,
    /// About how many bytes a snapshot's chunk has.
    pub snapshot_chunk_bytes: usize,
    /// The most snapshots that are served at a time.
    pub snapshots_served_max: usize,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            queue_bytes_max: 64 << 20,
            queue_messages_max: 65_536,
            frame_bytes: 1 << 20,
            connect_timeout: Duration::from_millis(500),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_millis(500),
            keepalive_interval: Duration::from_millis(500),
            keepalive_timeout: Duration::from_secs(1),
            snapshot_stall: Duration::from_secs(30),
            snapshot_chunk_bytes: 256 << 10,
            snapshots_served_max: 4,
        }
    }
}

/// Takes what other nodes send.
pub trait PeerSink: Send + Sync + 'static {
    /// Takes the messages of one frame, in the order in which they were sent,
    /// without blocking. They were taken in any case; where there is too much
    /// waiting, the future that is returned ends once there is room again, and the
    /// stream that they came from is not read until then.
    fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>) -> Option<BoxFuture<'static, ()>>;

    /// Hears which entries of the frame that is delivered next, or of later ones, are traced.
    fn traced(&self, _entries: Vec<TracedEntry>) {}
}

/// Hears of the connections to other nodes. Called from network tasks: never blocks.
pub trait PeerEvents: Send + Sync + 'static {
    /// A stream to the peer was opened anew: what was in flight may be lost.
    fn connected(&self, peer: NodeId);

    /// The list of peers that give no answer changed.
    fn unreachable(&self, peers: Vec<NodeId>);
}
