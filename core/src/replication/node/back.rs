//! Whether a node that has just started is back among the others.

use super::NodeCore;
use crate::ids::Index;
use crate::replication::progress::CAUGHT_UP;
use crate::replication::replica::{Part, Replica};

impl NodeCore {
    /// How many replicas here that count are of no use to their partitions yet: no primary has
    /// reached them since the process started, or they have not caught up with it. As long as
    /// there are any, the loss of another node may cost a partition its quorum.
    #[must_use]
    pub fn away(&self) -> usize {
        let here = self.seats.values().filter_map(|seat| seat.replica.as_ref());
        here.filter(|replica| replica.is_away()).count()
    }
}

impl Replica {
    fn is_away(&self) -> bool {
        // One that is damaged for good is replaced, and does not come back.
        let is_lost = self.corrupt && self.mending.is_none();
        let is_here = match &self.part {
            Part::Primary(leadership) => leadership.serving,
            Part::Follower => {
                let behind = self.told.0.saturating_sub(self.matched.0);
                !self.corrupt && self.matched > Index::ZERO && behind <= CAUGHT_UP
            }
            Part::Suspended(_) => false,
        };
        self.record.config.is_voter(self.me.replica) && !is_lost && !is_here
    }
}
