//! The write-ahead log's thread and the handle that the engine holds.

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::DurableRecord;

/// Sizes of the write-ahead log.
#[derive(Clone, Copy, Debug)]
pub struct WalConfig {
    /// The size of a segment.
    pub segment_bytes: u64,
    /// The size of the whole log past which replicas that lag no longer hold
    /// segments back; what the store does not durably hold always does.
    pub total_bytes: u64,
    /// The most bytes of entries that recovery keeps in memory although the store
    /// durably holds them: for replicas that lag.
    pub recovered_bytes: usize,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            total_bytes: 512 << 20,
            recovered_bytes: 64 << 20,
        }
    }
}

/// Hands records to the log's thread. Cheap to clone; every call returns at once.
#[derive(Clone, Debug)]
pub struct WalHandle {}

impl WalHandle {
    /// Appends records, in order. The core's numbers count them from 1 for the
    /// first record submitted after start; the `flushed` callback says up to which
    /// number they are durable.
    pub fn submit(&self, records: Vec<DurableRecord>) {
        let _ = records;
    }

    /// As [`Self::submit`], leaving the vector empty with its memory.
    pub fn submit_from(&self, records: &mut Vec<DurableRecord>) {
        records.clear();
    }

    /// How many bytes wait to be flushed: past some bound the engine takes no more
    /// proposals.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        0
    }

    /// From [`cairn_core::replication::Effect::Reclaimable`].
    pub fn set_reclaimable(&self, partition: PartitionId, index: Index) {
        let _ = (partition, index);
    }
}
