//! The newest log position that this client knows of each partition (rule 8).

use std::sync::OnceLock;

use cairn_core::ids::{PartitionId, Position};
use cairn_proto::limits;
use parking_lot::Mutex;

/// The newest log position that this client knows of each partition.
#[derive(Debug, Default)]
pub(crate) struct Known {
    // The table is made with the first reply: a client that only watches needs none.
    positions: OnceLock<Box<[Mutex<Position>]>>,
}

impl Known {
    /// The position to send along with a new write of the partition; zero for none.
    pub(crate) fn get(&self, partition: PartitionId) -> Position {
        self.positions
            .get()
            .and_then(|table| table.get(partition.0 as usize))
            .map_or(Position::ZERO, |known| *known.lock())
    }

    /// A reply told of a position. Newer is what has the higher epoch, whatever its
    /// index: a log may go on from a lower one after a promotion that lost entries.
    pub(crate) fn learn(&self, partition: PartitionId, position: Position) {
        let table = self
            .positions
            .get_or_init(|| (0..limits::PARTITIONS).map(|_| Mutex::default()).collect());
        if let Some(known) = table.get(partition.0 as usize) {
            let mut known = known.lock();
            *known = (*known).max(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::{Epoch, Index};

    use super::*;

    #[test]
    fn a_lower_index_of_a_higher_epoch_is_newer() {
        let at = |epoch, index| Position {
            epoch: Epoch(epoch),
            index: Index(index),
        };
        let known = Known::default();
        assert_eq!(known.get(PartitionId(1)), Position::ZERO);
        known.learn(PartitionId(1), at(1, 100));
        known.learn(PartitionId(1), at(2, 51));
        known.learn(PartitionId(1), at(1, 99));
        assert_eq!(known.get(PartitionId(1)), at(2, 51));
        assert_eq!(known.get(PartitionId(2)), Position::ZERO);
    }
}
