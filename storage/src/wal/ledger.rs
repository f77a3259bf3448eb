//! Which segment holds entries of which partition, and which may go (rule 17).

use std::collections::{BTreeMap, VecDeque};

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{DurableRecord, Generation};
use cairn_core::seeded::{Bug, is_seeded};

use super::fold::Fold;
use crate::format::meta::CheckpointRow;

/// A segment that is no longer written to.
#[derive(Clone, Debug)]
pub(super) struct ClosedSegment {
    pub(super) number: u64,
    /// The length of its file.
    pub(super) bytes: u64,
    /// Whether its file has the usual size and can be used again as it is.
    pub(super) reusable: bool,
    last: BTreeMap<PartitionId, Index>,
}

/// The segments, oldest first, the one being written to last.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    closed: VecDeque<ClosedSegment>,
    /// The last valid index of each partition in the segment being written to.
    active: BTreeMap<PartitionId, Index>,
    /// Up to where the store durably holds a partition, in which generation.
    durable: BTreeMap<PartitionId, (Generation, Index)>,
    /// Up to where no replica needs the log.
    reclaimable: BTreeMap<PartitionId, Index>,
}

impl Ledger {
    /// Takes a record that stands in the segment being written to.
    pub(super) fn take(&mut self, record: &DurableRecord) {
        match record {
            DurableRecord::Entry { partition, entry } => {
                self.active.insert(*partition, entry.position.index);
            }
            DurableRecord::Truncate { partition, to } => {
                // What was cut is void, so no segment is kept for it.
                for last in self.lasts(*partition) {
                    *last = (*last).min(to.index());
                }
            }
            DurableRecord::Create { partition, .. } | DurableRecord::Delete { partition, .. } => {
                self.forget(*partition);
            }
            DurableRecord::Installed {
                partition,
                generation,
                mark,
                keep_tail,
                ..
            } => {
                if !*keep_tail {
                    self.forget(*partition);
                }
                // The snapshot was durable in the store before this record was made.
                self.durable.insert(*partition, (*generation, mark.index()));
            }
            DurableRecord::Promise { .. }
            | DurableRecord::Configure { .. }
            | DurableRecord::Corrupt { .. } => {}
        }
    }

    /// No segment is kept for this partition any more.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        self.active.remove(&partition);
        for segment in &mut self.closed {
            segment.last.remove(&partition);
        }
        self.durable.remove(&partition);
        self.reclaimable.remove(&partition);
    }

    fn lasts(&mut self, partition: PartitionId) -> impl Iterator<Item = &mut Index> {
        self.closed
            .iter_mut()
            .map(|segment| &mut segment.last)
            .chain(std::iter::once(&mut self.active))
            .filter_map(move |last| last.get_mut(&partition))
    }

    /// Closes the segment being written to.
    pub(super) fn close(&mut self, number: u64, bytes: u64, reusable: bool) {
        let last = std::mem::take(&mut self.active);
        self.closed.push_back(ClosedSegment {
            number,
            bytes,
            reusable,
            last,
        });
    }

    /// The segment that was closed last was cut to this length.
    pub(super) fn shortened(&mut self, bytes: u64) {
        if let Some(last) = self.closed.back_mut() {
            last.reusable &= bytes >= last.bytes;
            last.bytes = last.bytes.min(bytes);
        }
    }

    pub(super) fn set_durable(&mut self, partition: PartitionId, at: (Generation, Index)) {
        let known = self.durable.entry(partition).or_insert(at);
        *known = (*known).max(at);
    }

    pub(super) fn set_reclaimable(&mut self, partition: PartitionId, index: Index) {
        let known = self.reclaimable.entry(partition).or_default();
        *known = (*known).max(index);
    }

    /// The length of all closed segments together.
    pub(super) fn closed_bytes(&self) -> u64 {
        self.closed.iter().map(|s| s.bytes).sum()
    }

    pub(super) fn closed_count(&self) -> usize {
        self.closed.len()
    }

    /// The oldest closed segment, if it may go. `pressed`: the log is larger than it
    /// may be for the sake of other replicas.
    pub(super) fn oldest_to_go(&self, fold: &Fold, pressed: bool) -> Option<&ClosedSegment> {
        let oldest = self.closed.front()?;
        let free = oldest.last.iter().all(|(partition, last)| {
            let Some(row) = fold.row(*partition) else {
                return true;
            };
            let durable = self.is_durable(row, *last);
            let needless = pressed || self.reclaimable.get(partition) >= Some(last);
            // Of a corrupt replica nothing is worth keeping: a new one takes its place.
            row.corrupt || (durable && needless)
        });
        free.then_some(oldest)
    }

    fn is_durable(&self, row: &CheckpointRow, last: Index) -> bool {
        self.durable
            .get(&row.meta.partition)
            .filter(|(generation, _)| *generation == row.meta.generation)
            .is_some_and(|(_, index)| *index >= last)
            || is_seeded(Bug::ReclaimBeforeDurable)
    }

    /// The length of the oldest closed segment, and the partitions for whose sake it
    /// stays: the store does not durably hold what it holds of them.
    pub(super) fn pins_of_oldest(&self, fold: &Fold) -> Option<(u64, Vec<PartitionId>)> {
        let oldest = self.closed.front()?;
        let pins = oldest
            .last
            .iter()
            .filter(|(partition, last)| {
                fold.row(**partition)
                    .is_some_and(|row| !row.corrupt && !self.is_durable(row, **last))
            })
            .map(|(partition, _)| *partition)
            .collect();
        Some((oldest.bytes, pins))
    }

    /// The segment being written to repeats what the store lacks of a partition, up to
    /// `last`.
    pub(super) fn carried(&mut self, partition: PartitionId, last: Index) {
        for segment in &mut self.closed {
            segment.last.remove(&partition);
        }
        self.active.insert(partition, last);
    }

    /// Every closed segment may hold entries of the partition up to `last`.
    pub(super) fn pin(&mut self, partition: PartitionId, last: Index) {
        for segment in &mut self.closed {
            segment.last.insert(partition, last);
        }
    }

    /// Strikes the oldest closed segment off.
    pub(super) fn remove_oldest(&mut self) {
        self.closed.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::{Epoch, Mark, Position, ReplicaId};
    use cairn_core::replication::{EntryKind, LogEntry};

    use super::*;

    const P: PartitionId = PartitionId(1);
    const G: Generation = Generation(1);

    fn entry(index: u64) -> DurableRecord {
        DurableRecord::Entry {
            partition: P,
            entry: LogEntry {
                position: Position {
                    epoch: Epoch(1),
                    index: Index(index),
                },
                kind: EntryKind::Barrier,
                body: bytes::Bytes::new(),
                chain: 0,
            },
        }
    }

    fn started() -> (Fold, Ledger) {
        let mut fold = Fold::default();
        let mut ledger = Ledger::default();
        let create = DurableRecord::Create {
            partition: P,
            replica: ReplicaId(1),
            generation: G,
        };
        fold.take(&create).unwrap();
        ledger.take(&create);
        for index in 1..=5 {
            fold.take(&entry(index)).unwrap();
            ledger.take(&entry(index));
        }
        ledger.close(1, 100, true);
        (fold, ledger)
    }

    #[test]
    fn a_segment_waits_for_the_store_and_for_the_other_replicas() {
        let (fold, mut ledger) = started();
        assert!(ledger.oldest_to_go(&fold, false).is_none());
        ledger.set_durable(P, (G, Index(5)));
        assert!(ledger.oldest_to_go(&fold, false).is_none());
        ledger.set_reclaimable(P, Index(4));
        assert!(ledger.oldest_to_go(&fold, false).is_none());
        ledger.set_reclaimable(P, Index(5));
        assert_eq!(ledger.oldest_to_go(&fold, false).unwrap().number, 1);
    }

    #[test]
    fn pressure_overrides_other_replicas_but_never_the_store() {
        let (fold, mut ledger) = started();
        ledger.set_durable(P, (G, Index(4)));
        assert!(ledger.oldest_to_go(&fold, true).is_none());
        ledger.set_durable(P, (G, Index(5)));
        assert!(ledger.oldest_to_go(&fold, true).is_some());
    }

    #[test]
    fn a_mark_of_another_generation_counts_nothing() {
        let (fold, mut ledger) = started();
        ledger.set_durable(P, (Generation(0), Index(9)));
        ledger.set_reclaimable(P, Index(9));
        assert!(ledger.oldest_to_go(&fold, false).is_none());
    }

    #[test]
    fn what_was_cut_keeps_no_segment() {
        let (mut fold, mut ledger) = started();
        ledger.set_durable(P, (G, Index(2)));
        ledger.set_reclaimable(P, Index(2));
        assert!(ledger.oldest_to_go(&fold, false).is_none());
        let cut = DurableRecord::Truncate {
            partition: P,
            to: Mark {
                position: Position {
                    epoch: Epoch(1),
                    index: Index(2),
                },
                chain: 0,
            },
        };
        fold.take(&cut).unwrap();
        ledger.take(&cut);
        assert!(ledger.oldest_to_go(&fold, false).is_some());
    }

    #[test]
    fn a_deleted_replica_keeps_no_segment() {
        let (mut fold, mut ledger) = started();
        let delete = DurableRecord::Delete {
            partition: P,
            order: (Epoch(2), 0),
        };
        fold.take(&delete).unwrap();
        ledger.take(&delete);
        assert!(ledger.oldest_to_go(&fold, false).is_some());
    }
}
