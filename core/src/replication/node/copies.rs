//! Copies of replicas that live on this node, for others.

use super::NodeCore;
use crate::ids::Micros;
use crate::replication::copying::{GiveError, SnapshotWanted};
use crate::replication::durable::Generation;
use crate::replication::event::Effect;

impl NodeCore {
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
