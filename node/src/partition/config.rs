//! The bounds and timings of the engine.

use std::time::Duration;

use cairn_core::hot::KeyRate;
use cairn_core::ids::{Micros, NodeId};
use cairn_core::replication::Timing;

use super::copies::SnapshotRates;
use super::heat::HotKeysShown;
use crate::trace::Tracer;

/// How the engine behaves.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// This node.
    pub node: NodeId,
    /// Drawn for this start of the process.
    pub session: u64,
    /// The timings of replication.
    pub timing: Timing,
    /// How long a request waits for a primary that cannot serve just now, and a
    /// write for its quorum.
    pub request_timeout: Duration,
    /// The most writes that wait on this node.
    pub pending_writes_max: usize,
    /// The most bytes of writes that wait on this node.
    pub pending_bytes_max: usize,
    /// The most writes that wait in one partition.
    pub partition_pending_max: usize,
    /// The most bytes that may wait for the log or for the store before writes are
    /// refused as [`cairn_core::kv::request::RequestError::Overloaded`].
    pub backlog_bytes_max: u64,
    /// How many snapshots are fetched at a time.
    pub snapshots_at_once: usize,
    /// How fast snapshots are read for other nodes, and written.
    pub snapshot_rates: SnapshotRates,
    /// What is said of keys that are asked for far more than others.
    pub hot_keys: HotKeysShown,
    /// How often a hot key is answered.
    pub key_rate: Option<KeyRate>,
    /// About how many bytes are taken to remember who keeps which key.
    pub tracking_bytes: usize,
    /// What traces requests, if anything does.
    pub tracer: Tracer,
}

impl EngineConfig {
    /// The usual bounds.
    #[must_use]
    pub fn new(node: NodeId, session: u64, timing: Timing) -> Self {
        Self {
            node,
            session,
            timing,
            request_timeout: Duration::from_secs(2),
            pending_writes_max: 100_000,
            pending_bytes_max: 256 << 20,
            partition_pending_max: 20_000,
            backlog_bytes_max: 512 << 20,
            snapshots_at_once: 2,
            snapshot_rates: SnapshotRates::default(),
            hot_keys: HotKeysShown::default(),
            key_rate: None,
            tracking_bytes: 128 << 20,
            tracer: Tracer::default(),
        }
    }

    pub(super) fn request_timeout_micros(&self) -> Micros {
        Micros(u64::try_from(self.request_timeout.as_micros()).unwrap_or(u64::MAX))
    }
}
