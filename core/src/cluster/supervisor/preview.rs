//! What would move, before it does: for people, and to refuse what there is no room for.

use std::collections::{BTreeMap, BTreeSet};

use super::Supervisor;
use crate::cluster::command::{Command, Refusal};
use crate::cluster::placement::PlacementError;
use crate::cluster::rebalance::{self, CopyMove};
use crate::cluster::state::ClusterState;
use crate::cluster::status::{NoRoom, Plan, PlannedCopy};
use crate::ids::{NodeId, PartitionId};
use crate::record::Member;

/// Of a disk, what a plan leaves free, as a share and at most: where nodes begin to refuse
/// writes is theirs to decide, and this is above it.
const KEPT_FREE_PERCENT: u64 = 10;
const KEPT_FREE_BYTES: u64 = 5 << 30;

/// Why nothing can be planned.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PreviewError {
    /// The change itself is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too few nodes are left.
    #[error(transparent)]
    Placement(#[from] PlacementError),
}

impl Supervisor {
    /// Everything that is still to be copied, as things are or as they were after a change.
    ///
    /// # Errors
    /// The change is refused, or the replicas have nowhere to go.
    pub fn preview(&self, change: Option<&Command>) -> Result<Plan, PreviewError> {
        let mut state = ClusterState::clone(&self.state);
        if let Some(change) = change {
            let next = state.version().0 + 1;
            if let Some(refusal) = state.apply(next, change.clone()).refusal() {
                return Err(refusal.clone().into());
            }
        }
        // Of what is to be copied anyway, a change is not to blame.
        let before: BTreeSet<(PartitionId, NodeId)> = match change {
            None => BTreeSet::new(),
            Some(_) => rebalance::preview(&self.state)
                .unwrap_or_default()
                .into_iter()
                .map(|copy| (copy.partition, copy.to))
                .collect(),
        };
        let copies: Vec<PlannedCopy> = rebalance::preview(&state)?
            .into_iter()
            .map(|copy| PlannedCopy {
                bytes: self.bytes_left_of(&copy),
                copy,
            })
            .collect();
        Ok(Plan {
            bytes: copies.iter().filter_map(|copy| copy.bytes).sum(),
            no_room: self.lacks_room(
                copies
                    .iter()
                    .filter(|planned| !before.contains(&(planned.copy.partition, planned.copy.to))),
            ),
            copies,
        })
    }

    /// About how many bytes a replica of the partition takes, by the one that takes most.
    fn bytes_of(&self, partition: PartitionId) -> Option<u64> {
        let record = self.state.partition(partition)?;
        record
            .config
            .current
            .members
            .iter()
            .filter_map(|m| self.views.last_status(partition, *m)?.bytes)
            .max()
    }

    /// The same without what has arrived already.
    pub(super) fn bytes_left_of(&self, copy: &CopyMove) -> Option<u64> {
        let bytes = self.bytes_of(copy.partition)?;
        let record = self.state.partition(copy.partition)?;
        let arrived = |m: Member| self.views.status(copy.partition, m)?.copying;
        let received = record
            .config
            .on_node(copy.to)
            .and_then(arrived)
            .map_or(0, |copying| copying.received_bytes);
        Some(bytes.saturating_sub(received))
    }

    /// The nodes whose disks are too small for what they would get.
    fn lacks_room<'a>(&self, copies: impl Iterator<Item = &'a PlannedCopy>) -> Vec<NoRoom> {
        let mut needed: BTreeMap<NodeId, u64> = BTreeMap::new();
        for planned in copies {
            *needed.entry(planned.copy.to).or_default() += planned.bytes.unwrap_or(0);
        }
        needed
            .into_iter()
            .filter_map(|(node, needed_bytes)| {
                let figures = self.views.figures(node)?;
                let share = figures.disk_total_bytes / 100 * KEPT_FREE_PERCENT;
                let kept = share.min(KEPT_FREE_BYTES);
                let free_bytes = figures.disk_free_bytes.saturating_sub(kept);
                // What it holds already may well be above the mark: only more counts.
                (figures.disk_total_bytes > 0 && needed_bytes > free_bytes).then_some(NoRoom {
                    node,
                    needed_bytes,
                    free_bytes,
                })
            })
            .collect()
    }
}
