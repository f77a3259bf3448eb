//! Increments that become one entry.
//!
//! Increments that wait for the same flush stand next to each other in a partition's order:
//! each sees what those before it came to, and one entry then carries the last value of each
//! key, and a record for each one that has a name (rule 8).
//!
//! # Why nobody can tell
//! - Each outcome is computed from the one before it, as if that had been an entry of its own:
//!   what comes of them is what comes of running them one after the other.
//! - The values in between were never the key's: nobody can have read them, since all of these
//!   increments are answered only once the one entry has committed.
//! - A *version* names a state of the log, and the state that the entry makes is the one after
//!   the last of a key's increments. An earlier one is told the position before the entry
//!   ([`CombinedEntry::version`]): a condition on it can hold no more, and who watches from it is told
//!   of what came after it. Told the entry's own position, it could overwrite the increments
//!   behind it without noticing them.
//!
//! Increments that change nothing (an overflow, a value that is no integer), and retries, are
//! judged by themselves, against the log with all that came before them.
//!
//! # Format
//! The entry of increments without names is that of one put of the last value. With names, its
//! body and its row of the table hold several records, which every build reads.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::super::body::{EntryBody, SequencedRecord, StoredValue};
use super::super::request::{WriteOp, WriteOutcome, WriteRequest};
use super::super::table::Judgement;
use super::{Bases, Evaluator, Halt, View};
use crate::ids::{Index, Position};
use crate::seeded::{Bug, is_seeded};

/// How many increments one entry takes: with as many names a row of the table has some 16 KiB.
pub const COMBINED_MAX: usize = 256;
/// About how many bytes of keys: an entry of short writes should not become a long one.
const COMBINED_BYTES_MAX: usize = 256 * 1024;

/// What came of trying to join an increment to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Joined {
    /// It is part of the entry, in which it brings its key to this number.
    Joined(i64),
    /// The entry takes no more of this kind: conclude it, and join this one to the next.
    Full,
    /// It is none that may be joined: conclude the entry, then evaluate this one by itself.
    Apart,
    /// The values of these keys are wanted first, see [`Bases`].
    NeedBase(Vec<Bytes>),
}

/// Increments that are to be one entry, evaluated one after the other.
#[derive(Debug, Default)]
pub struct Combined {
    /// What they come to so far.
    draft: BTreeMap<Bytes, Option<StoredValue>>,
    key_bytes: usize,
    records: Vec<SequencedRecord>,
    names: BTreeSet<(u128, u64)>,
    /// The keys of those that have a name.
    named: BTreeSet<Bytes>,
    /// Of each key, which one incremented it last.
    last: BTreeMap<Bytes, usize>,
    count: usize,
}

/// An entry of increments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CombinedEntry {
    /// What is to be proposed.
    pub body: EntryBody,
    /// Of each increment, in order, whether another one of its key follows.
    overtaken: Vec<bool>,
}

impl CombinedEntry {
    /// The version that an increment gave to its key, by its number: the position of the entry,
    /// or the one before it where the entry holds a later increment of the key.
    #[must_use]
    pub fn version(&self, number: usize, position: Position) -> Position {
        match self.overtaken.get(number) {
            Some(true) => before(position),
            _ => position,
        }
    }
}

/// The position before an entry that a serving primary proposed. That one's barrier stands
/// before it, in the same epoch.
pub(in super::super) fn before(position: Position) -> Position {
    Position {
        index: Index(position.index.0.saturating_sub(1)),
        ..position
    }
}

impl Combined {
    /// How many increments it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn is_full(&self) -> bool {
        self.count >= COMBINED_MAX || self.key_bytes >= COMBINED_BYTES_MAX
    }
}

impl Evaluator {
    /// Evaluates an increment behind those that are to be one entry, and joins it to them where
    /// that can be. Else nothing is changed.
    pub fn join(
        &self,
        now_ms: u64,
        combined: &mut Combined,
        request: &WriteRequest,
        bases: &impl Bases,
    ) -> Joined {
        let WriteOp::Increment { key, delta } = &request.op else {
            return Joined::Apart;
        };
        // A retry is answered by the last record of its row as by an entry of its own, see
        // `Table::judge`: nothing without a name may follow that record's increment.
        let would_hide = request.sequenced.is_none() && combined.named.contains(key);
        if combined.is_full() || would_hide {
            return Joined::Full;
        }
        if let Some(name) = &request.sequenced {
            let judged = self.table.as_ref().map(|table| table.judge(name));
            let joined_before = combined.names.contains(&(name.client, name.sequence));
            // Judged by the table as of the head, and by the names that were joined since. What
            // the entry will make the table forget does not matter: it is known by now that
            // this one was never applied.
            if judged != Some(Judgement::New) || joined_before {
                return Joined::Apart;
            }
        }
        let mut view = View::new(self, now_ms, bases);
        view.draft = std::mem::take(&mut combined.draft);
        let evaluated = view.increment(key, *delta);
        combined.draft = view.draft;
        let (writes, sum) = match evaluated {
            Ok((writes, WriteOutcome::Integer(sum))) => (writes, sum),
            Ok(_) | Err(Halt::Counter) => return Joined::Apart,
            Err(Halt::Missing(keys)) => return Joined::NeedBase(keys),
        };
        combined.draft.extend(writes);
        if combined.last.insert(key.clone(), combined.count).is_none() {
            combined.key_bytes += key.len();
        }
        if let Some(name) = &request.sequenced {
            combined.records.push(SequencedRecord {
                client: name.client,
                sequence: name.sequence,
                outcome: WriteOutcome::Integer(sum),
            });
            combined.names.insert((name.client, name.sequence));
            combined.named.insert(key.clone());
        }
        combined.count += 1;
        Joined::Joined(sum)
    }

    /// The entry of increments that were joined, to be proposed next.
    #[must_use]
    pub fn conclude_combined(
        &self,
        now_ms: u64,
        combined: Combined,
        bases: &impl Bases,
    ) -> CombinedEntry {
        let Combined {
            draft,
            mut records,
            last,
            count,
            ..
        } = combined;
        if is_seeded(Bug::RecordFirstOfCombined) {
            records.truncate(1);
        }
        let writes: Vec<_> = draft.into_iter().collect();
        let unindexed = View::new(self, now_ms, bases).left_behind(&writes);
        let forgets = match &self.table {
            Some(table) if !records.is_empty() => table.forgets(&records, self.window),
            _ => Vec::new(),
        };
        let mut overtaken = vec![true; count];
        for number in last.into_values() {
            overtaken[number] = false;
        }
        CombinedEntry {
            body: EntryBody {
                writes,
                sequenced: records,
                forgets,
                unindexed,
            },
            overtaken,
        }
    }
}
