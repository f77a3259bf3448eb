//! The door of replication: every replica of one node behind one `step`.

use bytes::Bytes;

use super::{Effect, Event, RecoveredPartition};
use crate::cluster::report::PartitionStatus;
use crate::ids::{Epoch, Index, Micros, NodeId, PartitionId, Position, ReplicaId};
use crate::record::Member;
use crate::replication::durable::{Generation, PartitionMeta};

/// The timings and bounds of replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a grant lasts.
    pub lease: Micros,
    /// The longest lease that this cluster ever had (rule 5).
    pub lease_longest: Micros,
    /// What a holder subtracts from a grant for drifting clocks.
    pub lease_margin: Micros,
    /// How often a tick comes.
    pub tick: Micros,
    /// When an unanswered append is sent again.
    pub resend: Micros,
    /// The most unacknowledged bytes in flight to one replica of one partition.
    pub window_bytes: usize,
    /// The most log bytes that a node keeps in memory for replicas that lag.
    pub log_bytes: usize,
}

/// How a replica stands, for the read and write paths of the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which replica.
    pub replica: ReplicaId,
    /// The promised epoch.
    pub epoch: Epoch,
    /// The prefix of its state.
    pub generation: Generation,
    /// Whether it serves as primary: its barrier has committed, it has not been
    /// fenced, it is not handing over. The lease is a separate question.
    pub serving: bool,
    /// Until when it holds the lease; reads check it before and after (rule 5).
    pub lease_until: Micros,
    /// The commit index.
    pub commit: Index,
    /// The last index on disk or under way to it.
    pub head: Index,
    /// Whether so many replicas lack disk room that data writes cannot commit.
    pub write_blocked_by_disk: bool,
    /// Who is primary of the epoch, as far as known.
    pub primary: Option<Member>,
}

/// Why a proposal was not taken. Nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This node has no serving primary of the partition.
    #[error("not the serving primary of the partition")]
    NotPrimary,
    /// Too few replicas have room.
    #[error("too few replicas have disk room for the write")]
    DiskFull,
}

/// Every replica of one node.
#[derive(Debug)]
pub struct NodeCore {}

impl NodeCore {
    /// Starts from what recovery found.
    ///
    /// `session` is drawn by the edge for this start of the process. `next_generation`
    /// is above every generation that the node ever used. Until `lease_longest` has
    /// passed since `now`, every partition counts as granted (rule 5).
    #[must_use]
    pub fn new(
        node: NodeId,
        session: u64,
        timing: Timing,
        next_generation: u64,
        recovered: Vec<RecoveredPartition>,
        now: Micros,
    ) -> Self {
        let _ = (node, session, timing, next_generation, recovered, now);
        Self {}
    }

    /// Takes one event and appends what is to be done to `effects`.
    pub fn step(&mut self, now: Micros, event: Event, effects: &mut Vec<Effect>) {
        let _ = (now, event, effects);
    }

    /// Proposes an entry, as primary. Its position is returned at once;
    /// [`Effect::Committed`] or [`Effect::Deposed`] tells what became of it.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub fn propose(
        &mut self,
        now: Micros,
        partition: PartitionId,
        body: Bytes,
        effects: &mut Vec<Effect>,
    ) -> Result<Position, ProposeError> {
        let _ = (now, partition, body, effects);
        Err(ProposeError::NotPrimary)
    }

    /// How the replica of a partition stands, if there is one here.
    #[must_use]
    pub fn standing(&self, partition: PartitionId) -> Option<Standing> {
        let _ = partition;
        None
    }

    /// The entries past `after` that are in memory: what a newly serving primary's
    /// evaluator must know of the log that the store has not applied.
    #[must_use]
    pub fn log_after(&self, partition: PartitionId, after: Index) -> Vec<super::LogEntry> {
        let _ = (partition, after);
        Vec::new()
    }

    /// For heartbeats: the status of every replica, or of those whose status
    /// changed since the last call.
    pub fn statuses(&mut self, now: Micros, full: bool) -> Vec<PartitionStatus> {
        let _ = (now, full);
        Vec::new()
    }

    /// What a new WAL segment begins with (rule 17). `PartitionMeta::base` is the
    /// mark before the first entry that the log must still hold.
    #[must_use]
    pub fn metas(&self) -> Vec<PartitionMeta> {
        Vec::new()
    }
}
