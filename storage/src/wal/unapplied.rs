//! The entries that the store does not durably hold yet: what is carried forward where
//! they alone keep an old segment (rule 17). Bodies are shared with replication, which
//! holds the same entries.

use std::collections::{BTreeMap, VecDeque};

use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::replication::{DurableRecord, LogEntry, RecoveredPartition};

/// What an entry takes in a segment beside its body, about.
const ENTRY_OVERHEAD: u64 = 64;

/// The end of one partition's log.
#[derive(Clone, Debug)]
struct Tail {
    /// The mark before `entries`.
    before: Mark,
    entries: VecDeque<LogEntry>,
    bytes: u64,
    /// A range is missing behind `entries`: what stands behind it is in the old
    /// segments alone.
    broken: bool,
}

impl Tail {
    fn starting_at(before: Mark) -> Self {
        Self {
            before,
            entries: VecDeque::new(),
            bytes: 0,
            broken: false,
        }
    }

    fn push(&mut self, entry: LogEntry) {
        self.bytes += size(&entry);
        self.entries.push_back(entry);
    }

    fn drop_up_to(&mut self, index: Index) {
        while let Some(first) = self.entries.front()
            && first.position.index <= index
        {
            self.bytes -= size(first);
            self.before = first.mark();
            self.entries.pop_front();
        }
    }

    fn drop_past(&mut self, to: Mark) {
        while let Some(last) = self.entries.back()
            && last.position.index > to.index()
        {
            self.bytes -= size(last);
            self.entries.pop_back();
        }
        if self.entries.is_empty() {
            self.before = to;
        }
    }
}

fn size(entry: &LogEntry) -> u64 {
    entry.body.len() as u64 + ENTRY_OVERHEAD
}

/// The ends of all logs.
#[derive(Clone, Debug, Default)]
pub(super) struct Unapplied {
    tails: BTreeMap<PartitionId, Tail>,
}

impl Unapplied {
    /// Takes over what recovery found.
    pub(super) fn recover(&mut self, found: &RecoveredPartition) {
        if found.meta.replica.is_none() {
            return;
        }
        let mut tail = Tail::starting_at(found.meta.base);
        for entry in &found.entries {
            tail.push(entry.clone());
        }
        tail.drop_up_to(found.applied.index());
        tail.broken = found.missing.is_some();
        self.tails.insert(found.meta.partition, tail);
    }

    /// Takes a record that is being written.
    pub(super) fn take(&mut self, record: &DurableRecord) {
        let partition = record.partition();
        match record {
            DurableRecord::Entry { entry, .. } => {
                if let Some(tail) = self.tails.get_mut(&partition) {
                    tail.push(entry.clone());
                }
            }
            DurableRecord::Truncate { to, .. } => {
                if let Some(tail) = self.tails.get_mut(&partition) {
                    tail.drop_past(*to);
                    // The range is written anew, and what stood behind it.
                    tail.broken = false;
                }
            }
            DurableRecord::Create { .. } => {
                self.tails.insert(partition, Tail::starting_at(Mark::ZERO));
            }
            DurableRecord::Installed {
                mark, keep_tail, ..
            } => {
                let kept = self.tails.remove(&partition).filter(|_| *keep_tail);
                let mut tail = kept.unwrap_or_else(|| Tail::starting_at(*mark));
                tail.drop_up_to(mark.index());
                if tail.entries.is_empty() {
                    tail.before = *mark;
                }
                self.tails.insert(partition, tail);
            }
            DurableRecord::Delete { .. } | DurableRecord::Corrupt { .. } => {
                self.tails.remove(&partition);
            }
            DurableRecord::Promise { .. } | DurableRecord::Configure { .. } => {}
        }
    }

    /// The store durably holds the partition up to here.
    pub(super) fn applied(&mut self, partition: PartitionId, index: Index) {
        if let Some(tail) = self.tails.get_mut(&partition) {
            tail.drop_up_to(index);
        }
    }

    /// Whether a range is missing from the partition's log.
    pub(super) fn is_broken(&self, partition: PartitionId) -> bool {
        self.tails.get(&partition).is_some_and(|tail| tail.broken)
    }

    /// About how much of a segment the partition's entries take.
    pub(super) fn bytes(&self, partition: PartitionId) -> u64 {
        self.tails.get(&partition).map_or(0, |tail| tail.bytes)
    }

    /// The mark before the partition's entries, and the entries. `None` where they are
    /// not the end of the log that ends with `head`.
    pub(super) fn of(&self, partition: PartitionId, head: Mark) -> Option<(Mark, Vec<LogEntry>)> {
        let tail = self.tails.get(&partition).filter(|tail| !tail.broken)?;
        let last = tail.entries.back().map_or(tail.before, LogEntry::mark);
        (last == head).then(|| (tail.before, tail.entries.iter().cloned().collect()))
    }
}
