//! openraft with Cairn's types: the commands of the cluster's state machine travel
//! in its log.

use std::io::Cursor;
use std::sync::Arc;

use openraft::{Config, SnapshotPolicy};
use serde::{Deserialize, Serialize};

use super::config::CoordinatorConfig;

pub(super) use cairn_core::cluster::{ClusterState, Command, Response};

/// One coordinator's disk: drawn when an empty disk is first used, never reused.
pub(super) type RaftId = u64;

/// What the membership says of a coordinator.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct RaftNode {
    /// Its configured name: a label that survives its disk.
    pub(super) name: String,
    /// The port between nodes, as the coordinator itself is configured.
    pub(super) peer: String,
    /// The port for clients.
    pub(super) client: String,
}

openraft::declare_raft_types!(
    /// The types of the coordinators' Raft group.
    pub(super) TypeConfig:
        D = Command,
        R = Applied,
        NodeId = RaftId,
        Node = RaftNode,
);

/// What the state machine answered to an entry: nothing where it was not a command.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Applied(pub(super) Option<Response>);

pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<RaftId>;
pub(super) type Vote = openraft::Vote<RaftId>;
pub(super) type Membership = openraft::StoredMembership<RaftId, RaftNode>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<RaftId, RaftNode>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<RaftId>;
pub(super) type RaftMetrics = openraft::RaftMetrics<RaftId, RaftNode>;

/// Raft's configuration.
#[allow(
    clippy::result_large_err,
    reason = "built once, when the process starts"
)]
pub(super) fn raft_config(
    config: &CoordinatorConfig,
) -> Result<Arc<Config>, openraft::ConfigError> {
    let election = config.raft.election.as_millis() as u64;
    let raft = Config {
        cluster_name: "cairn".to_owned(),
        // A range of one value: openraft 0.9 draws once per process, so that two that
        // drew nearly the same would split votes for ever. `election` gives turns.
        election_timeout_min: election,
        election_timeout_max: election + 1,
        heartbeat_interval: config.raft.heartbeat.as_millis() as u64,
        install_snapshot_timeout: 10_000,
        max_payload_entries: 128,
        replication_lag_threshold: config.snapshot_every * 2,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_every),
        // The payloads are JSON, which makes about four characters of a byte.
        snapshot_max_chunk_size: 1 << 20,
        // Only where `election` finds that a majority hears no leader.
        enable_elect: false,
        max_in_snapshot_log_to_keep: config.snapshot_every / 2,
        ..Config::default()
    };
    Ok(Arc::new(raft.validate()?))
}
