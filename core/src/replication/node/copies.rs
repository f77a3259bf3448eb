//! Copies of replicas that live on this node, for others.

use super::NodeCore;
use crate::ids::Micros;
use crate::replication::copying::{GiveError, SnapshotWanted};
use crate::replication::durable::Generation;
use crate::replication::event::Effect;

impl NodeCore {
    /// Bounds what is sent from the log to learners that are far behind, to all of them
    /// together: so many bytes in a second from now on, 0 for any number.
    pub fn set_catch_up_rate(&mut self, bytes_per_second: u64) {
        self.pace.set_rate(bytes_per_second);
    }

    /// How many bytes of its logs it has sent to learners that were far behind.
    #[must_use]
    pub fn catch_up_sent(&self) -> u64 {
        self.pace.sent()
    }

    /// As the source of a snapshot: the prefix of the state that may be given, of which a
    /// view is to be taken at once. What that view holds must reach as far as was asked for:
    /// the state may have been given up since.
    ///
    /// # Errors
    /// See [`GiveError`].
    pub fn give_snapshot(
        &mut self,
        now: Micros,
        wanted: &SnapshotWanted,
        effects: &mut Vec<Effect>,
    ) -> Result<Generation, GiveError> {
        self.with(now, effects, wanted.partition, |replica, ctx| {
            replica.give_snapshot(ctx, wanted)
        })
        .unwrap_or(Err(GiveError::NotHere))
    }
}
