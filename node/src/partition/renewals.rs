//! Leases for reads that are renewed before they end (rule 6), as long as they are used.

use std::collections::BTreeSet;

use cairn_core::ids::{Micros, PartitionId};
use cairn_core::replication::{ProofLevel, ReadsArrived};

use super::board::Board;

/// The partitions that are read here under such leases.
#[derive(Debug, Default)]
pub(super) struct Renewals {
    leased: BTreeSet<PartitionId>,
    reads: Vec<ReadsArrived>,
}

impl Renewals {
    /// A partition may be read under a lease until then.
    pub(super) fn leased(&mut self, partition: PartitionId, until: Micros, now: Micros) {
        if until > now {
            self.leased.insert(partition);
        }
    }

    /// How much was read of each that may still be read so.
    pub(super) fn reads(&mut self, board: &Board, now: Micros) -> &[ReadsArrived] {
        self.reads.clear();
        self.leased.retain(|&partition| {
            let Some(cell) = board.cell(partition) else {
                return false;
            };
            self.reads.push(ReadsArrived {
                partition,
                before: cell.counted(ProofLevel::Replica),
            });
            cell.load().is_some_and(|here| here.reads_until > now)
        });
        &self.reads
    }
}
