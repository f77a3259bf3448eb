//! The thread that applies committed entries to the store.

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{Generation, LogEntry};

/// How far a partition's state has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Which partition.
    pub partition: PartitionId,
    /// In which generation of its state.
    pub generation: Generation,
    /// The last applied index.
    pub index: Index,
}

/// Hands committed entries to the apply thread. Cheap to clone; every call returns
/// at once.
#[derive(Clone, Debug)]
pub struct ApplyHandle {}

impl ApplyHandle {
    /// Applies entries in the order in which they are submitted. Entries at or
    /// below the applied index are passed over.
    pub fn submit(&self, partition: PartitionId, generation: Generation, entries: Vec<LogEntry>) {
        let _ = (partition, generation, entries);
    }

    /// How many bytes wait to be applied: past some bound the engine takes no more
    /// proposals.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        0
    }

    /// Removes every key of a generation, in the background.
    pub fn drop_generation(&self, generation: Generation) {
        let _ = generation;
    }
}
