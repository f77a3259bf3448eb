//! How the replicas of this node stand.

use super::{NodeCore, Standing};
use crate::ids::PartitionId;
use crate::replication::replica::Part;

impl NodeCore {
    /// How the replica of a partition stands, if there is one here.
    #[must_use]
    pub fn standing(&self, partition: PartitionId) -> Option<Standing> {
        let replica = self.seats.get(&partition)?.replica.as_ref()?;
        let serving = matches!(
            &replica.part,
            Part::Primary(l) if l.serving && l.handover.is_none() && !replica.corrupt
        );
        let primary = (replica.record.epoch == replica.promised)
            .then_some(replica.record.primary)
            .flatten();
        Some(Standing {
            replica: replica.me.replica,
            epoch: replica.promised,
            generation: replica.generation,
            serving,
            lease_until: replica.lease_until(&self.holdings),
            commit: replica.commit,
            head: replica.log.head().index(),
            write_blocked_by_disk: replica.blocked_by_disk(&self.holdings, self.is_full()),
            pushing_back: matches!(&replica.part, Part::Primary(l) if l.pushes_back()),
            ack_needs_lease: replica.ack_needs_lease(),
            primary,
            reads_until: replica.reads_until(),
        })
    }
}
