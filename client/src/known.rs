//! The newest log index that this client knows of each partition (rule 8).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_core::ids::{Index, PartitionId};
use cairn_proto::limits;

/// The newest log index that this client knows of each partition.
#[derive(Debug, Default)]
pub(crate) struct Known {
    // The table is made with the first reply: a client that only watches needs none.
    indexes: OnceLock<Box<[AtomicU64]>>,
}

impl Known {
    /// The index to send along with a new write of the partition; zero for none.
    pub(crate) fn get(&self, partition: PartitionId) -> Index {
        let known = self
            .indexes
            .get()
            .and_then(|table| table.get(partition.0 as usize))
            .map_or(0, |index| index.load(Ordering::Acquire));
        Index(known)
    }

    /// A reply told of an index.
    pub(crate) fn learn(&self, partition: PartitionId, index: Index) {
        let table = self
            .indexes
            .get_or_init(|| (0..limits::PARTITIONS).map(|_| AtomicU64::new(0)).collect());
        if let Some(known) = table.get(partition.0 as usize) {
            known.fetch_max(index.0, Ordering::AcqRel);
        }
    }
}
