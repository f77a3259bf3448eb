//! The metadata of every partition, as the records that pass make it. The writer
//! keeps it for the next checkpoint, recovery rebuilds it: one fold for both.

use std::collections::BTreeMap;

use cairn_core::ids::{Epoch, Mark, PartitionId};
use cairn_core::replication::{DurableRecord, Generation, LogEntry, PartitionMeta};

use super::is_structural;
use crate::format::mark::LINEAGE_MAX;
use crate::format::meta::CheckpointRow;

/// A record that does not follow from those before it: a bug of whoever submitted it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a record of {partition} does not follow: {reason}")]
pub struct Misplaced {
    /// Of which partition.
    pub partition: PartitionId,
    /// Why not.
    pub reason: &'static str,
}

/// The partitions, and what passed so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Fold {
    rows: BTreeMap<PartitionId, CheckpointRow>,
    /// How many structural records have passed.
    pub(super) structural: u64,
    /// The highest generation that any record named.
    pub(super) generation_max: u64,
}

/// The last mark of the log that the metadata describes.
pub(super) fn head(meta: &PartitionMeta) -> Mark {
    match meta.lineage.last() {
        Some(last) if last.index() > meta.base.index() => *last,
        _ => meta.base,
    }
}

/// Adds the newest mark of a log to its lineage.
fn extend(lineage: &mut Vec<Mark>, mark: Mark) {
    match lineage.last_mut() {
        Some(last) if last.epoch() == mark.epoch() => *last = mark,
        _ => {
            if lineage.len() >= LINEAGE_MAX {
                lineage.remove(0);
            }
            lineage.push(mark);
        }
    }
}

/// Cuts a lineage back to a mark of its log.
fn cut(lineage: &mut Vec<Mark>, to: Mark) {
    lineage.retain(|mark| mark.index() < to.index());
    if to != Mark::ZERO {
        extend(lineage, to);
    }
}

/// The row as it was when the log ended with `to`, but for its promise.
pub(super) fn rewound(row: &CheckpointRow, to: Mark) -> CheckpointRow {
    let mut row = row.clone();
    cut(&mut row.meta.lineage, to);
    row.meta.base = to;
    row
}

fn vacant(partition: PartitionId) -> CheckpointRow {
    CheckpointRow {
        meta: PartitionMeta {
            partition,
            replica: None,
            generation: Generation(0),
            promised: Epoch::ZERO,
            record: None,
            deleted_at: None,
            base: Mark::ZERO,
            lineage: Vec::new(),
        },
        corrupt: false,
        dropped_tail: false,
    }
}

impl Fold {
    pub(super) fn rows(&self) -> impl Iterator<Item = &CheckpointRow> {
        self.rows.values()
    }

    pub(super) fn row(&self, partition: PartitionId) -> Option<&CheckpointRow> {
        self.rows.get(&partition)
    }

    pub(super) fn row_mut(&mut self, partition: PartitionId) -> Option<&mut CheckpointRow> {
        self.rows.get_mut(&partition)
    }

    /// Takes a checkpoint's row for what is true.
    pub(super) fn replace(&mut self, row: CheckpointRow) {
        self.generation_max = self.generation_max.max(row.meta.generation.0);
        self.rows.insert(row.meta.partition, row);
    }

    /// Sets the head without looking at what was before it: recovery, where what was
    /// before is lost.
    pub(super) fn jump(&mut self, partition: PartitionId, mark: Mark) {
        if let Some(row) = self.rows.get_mut(&partition) {
            extend(&mut row.meta.lineage, mark);
            row.meta.promised = row.meta.promised.max(mark.epoch());
        }
    }

    /// What a partition has promised.
    pub(super) fn promised(&self, partition: PartitionId) -> Epoch {
        self.rows
            .get(&partition)
            .map_or(Epoch::ZERO, |row| row.meta.promised)
    }

    /// A record that was read back shows what its partition had promised by then.
    pub(super) fn prove(&mut self, partition: PartitionId, promised: Epoch) {
        if let Some(row) = self.rows.get_mut(&partition) {
            row.meta.promised = row.meta.promised.max(promised);
        }
    }

    /// Takes a record that is about to be written, or was read back.
    ///
    /// # Errors
    /// Where it does not follow from what passed before; nothing is changed then.
    pub(super) fn take(&mut self, record: &DurableRecord) -> Result<(), Misplaced> {
        match record {
            DurableRecord::Entry { partition, entry } => self.entry(*partition, entry)?,
            DurableRecord::Promise { partition, epoch } => {
                let row = self.row_or_vacant(*partition);
                row.meta.promised = row.meta.promised.max(*epoch);
            }
            DurableRecord::Configure { record } => {
                let row = self.row_or_vacant(record.id);
                // Whoever knows of an epoch accepts nothing older; the promise itself
                // comes behind the record and may be torn off.
                row.meta.promised = row.meta.promised.max(record.epoch);
                let newer = row
                    .meta
                    .record
                    .as_ref()
                    .is_none_or(|known| record.order() >= known.order());
                if newer {
                    row.meta.record = Some(record.clone());
                }
            }
            DurableRecord::Create {
                partition,
                replica,
                generation,
            } => {
                self.generation_max = self.generation_max.max(generation.0);
                let row = self.row_or_vacant(*partition);
                row.meta.replica = Some(*replica);
                row.meta.generation = *generation;
                row.meta.base = Mark::ZERO;
                row.meta.lineage.clear();
                (row.corrupt, row.dropped_tail) = (false, false);
            }
            DurableRecord::Delete { partition, order } => {
                let row = self.row_or_vacant(*partition);
                row.meta.replica = None;
                row.meta.deleted_at = row.meta.deleted_at.max(Some(*order));
                row.meta.base = Mark::ZERO;
                row.meta.lineage.clear();
                (row.corrupt, row.dropped_tail) = (false, false);
            }
            DurableRecord::Corrupt { partition, replica } => {
                if let Some(row) = self.rows.get_mut(partition)
                    && row.meta.replica == Some(*replica)
                {
                    row.corrupt = true;
                }
            }
            DurableRecord::Truncate { partition, to } => self.truncate(*partition, *to)?,
            DurableRecord::Installed {
                partition,
                generation,
                mark,
                lineage,
                keep_tail,
            } => {
                let row = self.replica(*partition)?;
                row.meta.generation = *generation;
                row.meta.base = *mark;
                let tail = std::mem::replace(&mut row.meta.lineage, lineage.clone());
                cut(&mut row.meta.lineage, *mark);
                if *keep_tail {
                    for later in tail.iter().filter(|m| m.index() > mark.index()) {
                        extend(&mut row.meta.lineage, *later);
                    }
                }
                self.generation_max = self.generation_max.max(generation.0);
            }
        }
        self.structural += u64::from(is_structural(record));
        Ok(())
    }

    fn entry(&mut self, partition: PartitionId, entry: &LogEntry) -> Result<(), Misplaced> {
        let row = self.replica(partition)?;
        let head = head(&row.meta);
        if entry.position.index != head.index().next() || entry.position.epoch < head.epoch() {
            return Err(Misplaced {
                partition,
                reason: "the entry does not stand behind the head",
            });
        }
        extend(&mut row.meta.lineage, entry.mark());
        // Nothing of an epoch is accepted that was not promised before.
        row.meta.promised = row.meta.promised.max(entry.position.epoch);
        row.dropped_tail = false;
        Ok(())
    }

    fn truncate(&mut self, partition: PartitionId, to: Mark) -> Result<(), Misplaced> {
        let row = self.replica(partition)?;
        if to.index() > head(&row.meta).index() {
            return Err(Misplaced {
                partition,
                reason: "the cut stands behind the head",
            });
        }
        cut(&mut row.meta.lineage, to);
        if to.index() < row.meta.base.index() {
            row.meta.base = to;
        }
        Ok(())
    }

    fn replica(&mut self, partition: PartitionId) -> Result<&mut CheckpointRow, Misplaced> {
        self.rows
            .get_mut(&partition)
            .filter(|row| row.meta.replica.is_some())
            .ok_or(Misplaced {
                partition,
                reason: "there is no replica",
            })
    }

    fn row_or_vacant(&mut self, partition: PartitionId) -> &mut CheckpointRow {
        self.rows
            .entry(partition)
            .or_insert_with(|| vacant(partition))
    }
}
