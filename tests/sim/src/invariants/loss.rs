//! Rule 9: only where the configured W is 1 may a promotion lose acknowledged writes, and
//! only one of which the coordinators say so. What was acknowledged since stays.

use cairn_core::ids::{Epoch, Index, NodeId, PartitionId};
use cairn_core::replication::{NodeCore, Standing};

use super::{Invariants, broken};

const NAME: &str = "losses are counted, and only where W is 1 (rule 9)";

/// What may be lost.
#[derive(Debug, Default)]
pub struct Losses {
    /// Whether the configured W is 1.
    pub allowed: bool,
    /// How many promotions that may lose something the coordinators told of.
    pub told: u64,
    /// How many of them did, as far as seen.
    seen: u64,
    /// Up to where the last loss left everything.
    pub cut: Option<Index>,
    /// The newest epoch whose primary has committed something in it.
    newest: Epoch,
}

impl Losses {
    /// Whether that is the primary of the newest epoch in which anything committed.
    pub(super) fn is_newest(&self, standing: &Standing) -> bool {
        standing.epoch == self.newest && is_primary(standing)
    }
}

fn is_primary(standing: &Standing) -> bool {
    standing
        .primary
        .is_some_and(|p| p.replica == standing.replica)
}

impl Invariants {
    /// A node was stepped. Where it is the primary that first commits in an epoch, what its
    /// log lacks is lost.
    ///
    /// # Errors
    /// Where acknowledged writes are, and nobody told.
    pub(super) fn reconcile(
        &mut self,
        node: NodeId,
        core: &NodeCore,
        partition: PartitionId,
        standing: &Standing,
    ) -> Result<(), String> {
        let before = Index(standing.commit.0.saturating_sub(1));
        let last = core.log_after(partition, before).into_iter().next();
        let of_its_own = last.is_some_and(|entry| {
            entry.position.index == standing.commit && entry.position.epoch == standing.epoch
        });
        if !of_its_own || standing.epoch <= self.losses.newest || !is_primary(standing) {
            return Ok(());
        }
        self.losses.newest = standing.epoch;
        let shared = self.logs.shared_with(core, partition, standing);
        let last = self.logs.at(shared);
        if self.logs.at(shared.next()).is_none() {
            return Ok(());
        }
        let lost = self.acknowledged.cut(shared, last);
        self.logs.cut(shared, node, core, partition, standing);
        self.states.cut(shared);
        // What a strong read saw is as good as acknowledged.
        if lost == 0 && !self.history.saw_past(shared) {
            return Ok(());
        }
        self.history.cut(shared);
        self.losses.cut = Some(shared);
        self.losses.seen += 1;
        if self.losses.seen > self.losses.told {
            return Err(broken(
                NAME,
                format!(
                    "{node} commits in {} without {lost} acknowledged writes past {shared}, \
                     and {} losses were told of",
                    standing.epoch, self.losses.told
                ),
            ));
        }
        Ok(())
    }
}
