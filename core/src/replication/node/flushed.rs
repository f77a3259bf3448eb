//! How far the logs on this node's disk reach.

use super::NodeCore;
use crate::ids::{Index, PartitionId};

impl NodeCore {
    /// Up to where the log of a partition is flushed here; zero where no replica lives here.
    #[must_use]
    pub fn flushed_to(&self, partition: PartitionId) -> Index {
        let seat = self.seats.get(&partition);
        let replica = seat.and_then(|seat| seat.replica.as_ref());
        replica.map_or(Index::ZERO, |replica| replica.durable.index())
    }
}
