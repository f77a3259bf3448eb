//! What replication asks the write-ahead log to keep, and what it gets back of it
//! when the process starts again. The encoding is `cairn-storage`'s.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::entry::LogEntry;
use crate::ids::{Epoch, Index, Mark, PartitionId, ReplicaId};
use crate::record::PartitionRecord;

/// Names one installed copy of a partition's state in the store. Every key of
/// that copy begins with it, so that a snapshot installs into a fresh prefix and
/// is switched to by one record (rule 13). Drawn upwards by the node from its own
/// WAL, never used again on that node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// One record of the write-ahead log. Records take effect in the order in which
/// they were appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DurableRecord {
    /// A replica exists from here on, with an empty log and an empty state.
    Create {
        /// Its partition.
        partition: PartitionId,
        /// Which replica.
        replica: ReplicaId,
        /// The prefix of its state.
        generation: Generation,
    },
    /// The replica is gone; records of its partition that are not newer than this
    /// one create nothing any more.
    Delete {
        /// Its partition.
        partition: PartitionId,
        /// Epoch and revision of the record that no longer lists it.
        order: (Epoch, u64),
    },
    /// Damage to the replica was found while the node ran: it counts as absent from
    /// here on, at later starts too, until another one is created (rule 12).
    Corrupt {
        /// Its partition.
        partition: PartitionId,
        /// Which replica.
        replica: ReplicaId,
    },
    /// From here on nothing of an epoch below `epoch` is accepted (rule 1).
    Promise {
        /// Which partition.
        partition: PartitionId,
        /// The promised epoch.
        epoch: Epoch,
    },
    /// The newest committed record of the coordinators that the node has seen.
    Configure {
        /// The record.
        record: Arc<PartitionRecord>,
    },
    /// An entry at the end of the partition's log.
    Entry {
        /// Which partition.
        partition: PartitionId,
        /// The entry.
        entry: LogEntry,
    },
    /// Every entry past `to` is void.
    Truncate {
        /// Which partition.
        partition: PartitionId,
        /// The last mark that stays.
        to: Mark,
    },
    /// A snapshot was installed: the state is now `generation`, it holds the log
    /// up to `mark`; the whole log is dropped unless it held `mark`.
    Installed {
        /// Which partition.
        partition: PartitionId,
        /// The prefix of the new state, already durable in the store.
        generation: Generation,
        /// The last entry that the state holds.
        mark: Mark,
        /// The last mark of each epoch up to `mark`, oldest first, as far as known.
        lineage: Vec<Mark>,
        /// Whether entries after `mark` stay in the log.
        keep_tail: bool,
    },
}

impl DurableRecord {
    /// The partition that the record is about.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        match self {
            Self::Create { partition, .. }
            | Self::Delete { partition, .. }
            | Self::Corrupt { partition, .. }
            | Self::Promise { partition, .. }
            | Self::Entry { partition, .. }
            | Self::Truncate { partition, .. }
            | Self::Installed { partition, .. } => *partition,
            Self::Configure { record } => record.id,
        }
    }
}

/// What is known of one partition on this node without its log entries: what a
/// new WAL segment begins with, so that older segments can go (rule 17).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartitionMeta {
    /// Which partition.
    pub partition: PartitionId,
    /// The replica that lives here, if any.
    pub replica: Option<ReplicaId>,
    /// The prefix of its state; meaningless without a replica.
    pub generation: Generation,
    /// The promised epoch.
    pub promised: Epoch,
    /// The newest record seen.
    pub record: Option<Arc<PartitionRecord>>,
    /// If a replica was deleted here: the order of the record that dropped it.
    pub deleted_at: Option<(Epoch, u64)>,
    /// The log begins after this mark: the state in the store holds at least this.
    pub base: Mark,
    /// The last mark of each epoch up to the head, oldest first, as far as known.
    pub lineage: Vec<Mark>,
}

/// What recovery found of one partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecoveredPartition {
    /// Everything but the entries. `meta.base` is the mark before `entries`.
    pub meta: PartitionMeta,
    /// The retained log, ascending, without gaps.
    pub entries: Vec<LogEntry>,
    /// The last entry that the store has applied, durably or not: `entries` may
    /// begin before it.
    pub applied: Mark,
    /// The log or the state may be damaged: the replica counts as absent until it
    /// is replaced (rule 12).
    pub corrupt: bool,
    /// An uncertain tail, which may have held entries of this partition, was
    /// dropped at this start (rules 12 and 14).
    pub dropped_tail: bool,
    /// Where the damage is one range of entries and nothing else: what is needed to
    /// mend it. Head and promise are then provably intact. Such a replica is
    /// `corrupt` all the same until the range is back.
    pub missing: Option<MissingRange>,
}

/// A range of entries that a broken place took out of a log, with what stands behind
/// it. `RecoveredPartition::entries` end before it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingRange {
    /// The last mark before the range.
    pub after: Mark,
    /// The last index of the range.
    pub until: Index,
    /// The last mark of the range, where a checkpoint named it; else the first of
    /// `kept` proves it by its checksum.
    pub end: Option<Mark>,
    /// The entries behind the range, ascending, without gaps.
    pub kept: Vec<LogEntry>,
}

impl MissingRange {
    /// The head of the log that the range belongs to.
    #[must_use]
    pub fn head(&self) -> Option<Mark> {
        self.kept.last().map(LogEntry::mark).or(self.end)
    }

    /// Whether these entries are the range: each follows the one before by checksum,
    /// from the last good mark into what stands behind.
    #[must_use]
    pub fn is_filled_by(&self, entries: &[LogEntry]) -> bool {
        let mut last = self.after;
        for entry in entries {
            if !entry.follows(last) {
                return false;
            }
            last = entry.mark();
        }
        last.index() == self.until
            && self.end.is_none_or(|end| end == last)
            && self.kept.first().is_none_or(|next| next.follows(last))
            && (self.end.is_some() || !self.kept.is_empty())
    }
}
