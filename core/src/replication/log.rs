//! The part of a partition's log that is in memory, and its lineage.
//!
//! Invariants: `entries` ascend without gaps from `base.index + 1`; each follows
//! the one before by checksum; `lineage` holds the last mark of each epoch up to
//! the head, oldest first, for as many epochs as [`LINEAGE_MAX`].

use std::collections::VecDeque;

use super::entry::LogEntry;
use crate::ids::{Epoch, Index, Mark};
use crate::seeded::{Bug, is_seeded};

/// How many epochs a lineage remembers. A replica that shares none of them with
/// its primary gets a snapshot.
pub(super) const LINEAGE_MAX: usize = 64;

/// What an entry costs in memory beside its body.
const ENTRY_OVERHEAD: usize = 96;

fn entry_bytes(entry: &LogEntry) -> usize {
    entry.body.len() + ENTRY_OVERHEAD
}

/// A log in memory.
#[derive(Debug, Clone)]
pub(super) struct Log {
    base: Mark,
    entries: VecDeque<LogEntry>,
    /// For each entry, how many bytes the log has held up to and including it, so
    /// that the size of any part of it is one subtraction.
    ends: VecDeque<usize>,
    /// The same up to the base.
    begin: usize,
    lineage: Vec<Mark>,
}

impl Log {
    /// From what recovery found. `lineage` reaches up to the last entry.
    pub(super) fn new(base: Mark, entries: Vec<LogEntry>, lineage: Vec<Mark>) -> Self {
        let mut log = Self {
            base,
            entries: VecDeque::new(),
            ends: VecDeque::new(),
            begin: 0,
            lineage,
        };
        log.cut_lineage(base);
        for entry in entries {
            log.push(entry);
        }
        log
    }

    /// The mark before the first entry in memory.
    pub(super) fn base(&self) -> Mark {
        self.base
    }

    /// The last entry, or the base.
    pub(super) fn head(&self) -> Mark {
        match self.entries.back() {
            Some(entry) => entry.mark(),
            None if is_seeded(Bug::HeadWithoutSnapshot) => Mark::ZERO,
            None => self.base,
        }
    }

    /// The last mark of each epoch, oldest first.
    pub(super) fn lineage(&self) -> &[Mark] {
        &self.lineage
    }

    /// About how many bytes the entries take.
    pub(super) fn bytes(&self) -> usize {
        self.end() - self.begin
    }

    /// About how many bytes the entries past `index` take.
    pub(super) fn bytes_after(&self, index: Index) -> usize {
        let held = index.0.saturating_sub(self.base.index().0);
        let before = match usize::try_from(held) {
            Ok(0) => self.begin,
            Ok(held) => self.ends.get(held - 1).copied().unwrap_or(self.end()),
            Err(_) => self.end(),
        };
        self.end() - before
    }

    fn end(&self) -> usize {
        self.ends.back().copied().unwrap_or(self.begin)
    }

    /// The mark at an index, if it is the base or in memory.
    pub(super) fn mark_at(&self, index: Index) -> Option<Mark> {
        if index == self.base.index() {
            return Some(self.base);
        }
        self.get(index).map(LogEntry::mark)
    }

    /// The entry at an index, if in memory.
    pub(super) fn get(&self, index: Index) -> Option<&LogEntry> {
        let at = index.0.checked_sub(self.base.index().0 + 1)?;
        self.entries.get(usize::try_from(at).ok()?)
    }

    /// The entries from `first` to `last`, as far as they are in memory, stopping
    /// before the bodies exceed `bytes`; at least one if there is any.
    pub(super) fn slice(&self, first: Index, last: Index, bytes: usize) -> Vec<LogEntry> {
        let mut taken = Vec::new();
        let mut size = 0;
        let mut index = first;
        while index <= last {
            let Some(entry) = self.get(index) else { break };
            size += entry_bytes(entry);
            if size > bytes && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
            index = index.next();
        }
        taken
    }

    /// Appends the entry that follows the head.
    ///
    /// # Panics
    /// Where it does not follow: callers check what comes from outside.
    pub(super) fn push(&mut self, entry: LogEntry) {
        let head = self.head();
        assert!(
            entry.position.index == head.index().next() && entry.position.epoch >= head.epoch(),
            "entry {} does not follow head {}",
            entry.position,
            head.position
        );
        let mark = entry.mark();
        match self.lineage.last_mut() {
            Some(last) if last.epoch() == mark.epoch() => *last = mark,
            _ => self.lineage.push(mark),
        }
        if self.lineage.len() > LINEAGE_MAX {
            self.lineage.remove(0);
        }
        self.ends.push_back(self.end() + entry_bytes(&entry));
        self.entries.push_back(entry);
    }

    /// Drops every entry past `index`, which is in memory or the base.
    pub(super) fn truncate(&mut self, index: Index) {
        while self.head().index() > index {
            if self.entries.pop_back().is_none() {
                break;
            }
            self.ends.pop_back();
        }
        self.cut_lineage(self.head());
    }

    /// Drops entries up to `index` from memory; they become the base.
    pub(super) fn drop_prefix(&mut self, index: Index) {
        while self.base.index() < index {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            self.begin = self.ends.pop_front().unwrap_or(self.begin);
            self.base = entry.mark();
        }
    }

    /// Replaces the log by what a snapshot covers; keeps the entries past `mark`
    /// if `mark` is in the log (rule 13).
    pub(super) fn install(&mut self, mark: Mark, lineage: Vec<Mark>) {
        if self.mark_at(mark.index()) == Some(mark) {
            self.drop_prefix(mark.index());
            return;
        }
        self.entries.clear();
        self.ends.clear();
        self.base = mark;
        self.begin = 0;
        self.lineage = lineage;
        self.cut_lineage(mark);
    }

    fn cut_lineage(&mut self, to: Mark) {
        while self.lineage.last().is_some_and(|m| m.index() > to.index()) {
            self.lineage.pop();
        }
        if to.index() == Index::ZERO {
            return;
        }
        match self.lineage.last_mut() {
            Some(last) if last.epoch() == to.epoch() => *last = to,
            _ => self.lineage.push(to),
        }
    }

    /// The newest lineage entries, for a message.
    pub(super) fn recent_lineage(&self) -> Vec<Mark> {
        let from = self.lineage.len().saturating_sub(32);
        self.lineage[from..].to_vec()
    }

    /// The last index that this log and another one share, by the rule that an
    /// epoch's entries come from one primary: the newest epoch that both have, up
    /// to the shorter of the two. `None` where the lineages tell nothing.
    pub(super) fn shared_with(&self, other_head: Index, other: &[Mark]) -> Option<Index> {
        if other_head == Index::ZERO {
            return Some(Index::ZERO);
        }
        for theirs in other.iter().rev() {
            if let Some(ours) = self.last_of(theirs.epoch()) {
                return Some(ours.min(theirs.index()));
            }
        }
        None
    }

    /// The epoch of the entry at an index, in memory or not, if the lineage tells.
    pub(super) fn epoch_at(&self, index: Index) -> Option<Epoch> {
        self.lineage
            .iter()
            .find(|m| m.index() >= index)
            .map(Mark::epoch)
    }

    fn last_of(&self, epoch: Epoch) -> Option<Index> {
        self.lineage
            .iter()
            .rev()
            .find(|m| m.epoch() == epoch)
            .map(Mark::index)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::replication::entry::EntryKind;

    fn log(epochs: &[u64]) -> Log {
        let mut log = Log::new(Mark::ZERO, Vec::new(), Vec::new());
        for &epoch in epochs {
            let entry = LogEntry::after(log.head(), Epoch(epoch), EntryKind::Write, Bytes::new());
            log.push(entry);
        }
        log
    }

    #[test]
    fn logs_share_up_to_the_end_of_their_newest_common_epoch() {
        let primary = log(&[1, 1, 2, 4]);
        let follower = log(&[1, 1, 2, 2, 3]);
        let shared = primary.shared_with(follower.head().index(), follower.lineage());
        assert_eq!(shared, Some(Index(3)));
    }

    #[test]
    fn truncating_takes_the_lineage_back_with_it() {
        let mut log = log(&[1, 1, 2, 3]);
        log.truncate(Index(2));
        assert_eq!(log.lineage().len(), 1);
        assert_eq!(log.lineage()[0], log.head());
    }

    #[test]
    fn the_size_of_any_part_of_a_log_is_that_of_its_entries() {
        let mut log = log(&[1, 1, 1, 2, 2]);
        log.drop_prefix(Index(1));
        log.truncate(Index(4));
        let one = log.bytes() / 3;
        assert_eq!(log.bytes(), 3 * one);
        let after: Vec<usize> = (0..=6).map(|i| log.bytes_after(Index(i)) / one).collect();
        assert_eq!(after, [3, 3, 2, 1, 0, 0, 0]);
    }

    #[test]
    fn a_snapshot_keeps_the_tail_only_where_the_log_holds_its_mark() {
        let long = log(&[1, 1, 2, 2]);
        let mut same = long.clone();
        same.install(
            long.mark_at(Index(3)).unwrap(),
            long.lineage()[..1].to_vec(),
        );
        assert_eq!(same.head(), long.head());

        let other = log(&[1, 1, 1]);
        let mut replaced = long.clone();
        replaced.install(other.head(), other.lineage().to_vec());
        assert_eq!(replaced.head(), other.head());
        assert_eq!(replaced.bytes(), 0);
    }
}
