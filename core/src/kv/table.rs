//! The idempotence table of rule 8: which sequenced writes a partition remembers.
//!
//! # Invariants
//! - It lists records in log order, and rows leave it in log order alone.
//! - What leaves is decided once, by the primary that writes the entry, and stands
//!   in the entry ([`EntryBody::forgets`]): every replica holds the same table at
//!   the same index, whatever window it believes in.
//! - `forgotten` is the position of the last row that left. A write that is not
//!   listed, and whose client knew a position below it, by epoch and then by index, may
//!   have been listed once: it is never judged new.
//!
//! A primary keeps the table as of the *head* of its log, since a retry is judged
//! against the whole log; the store keeps it as of the applied index, as rows.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::body::{
    EntryBody, FORGOTTEN_ROW, SequencedRecord, decode_forgotten, decode_row, encode_forgotten,
    encode_row,
};
use super::evaluate::before;
use super::request::{Sequenced, WriteOutcome};
use super::wire::DecodeError;
use crate::ids::{Index, Position};
use crate::seeded::{Bug, is_seeded};

/// How many bytes of records a partition remembers at most, whatever its window:
/// answers that carry a previous value can be long.
pub const TABLE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How many rows leave with an entry of one record at most for the window's sake. One is usual;
/// more only after it was made smaller. For the sake of memory as many leave as it takes.
const FORGETS_MAX: usize = 16;

/// What the table says of a sequenced write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// It is in the log already.
    Applied {
        /// What came of it.
        outcome: WriteOutcome,
        /// The entry that recorded it.
        position: Position,
        /// The version that it gave to its key, as far as the table can tell: of several
        /// increments of one entry all but the last are told the position before it, see
        /// [`super::evaluate::Combined`].
        version: Position,
    },
    /// The table has dropped something newer than what the client knew, and lacks
    /// this write: whether it was applied cannot be told.
    Unjudged,
    /// It was never applied.
    New,
}

#[derive(Debug)]
struct Row {
    position: Position,
    records: Vec<SequencedRecord>,
    weight: usize,
}

type Name = (u128, u64);

/// The table, in memory.
#[derive(Debug, Default)]
pub struct Table {
    rows: VecDeque<Row>,
    /// Where each record stands: its entry, and which of that entry's records.
    names: BTreeMap<Name, (Position, usize)>,
    records: usize,
    weight: usize,
    forgotten: Position,
}

impl Table {
    /// The table of an empty partition.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table that the rows in the store make up, ascending by index.
    ///
    /// # Errors
    /// Where a row cannot be decoded.
    pub fn from_rows(rows: impl IntoIterator<Item = (Index, Bytes)>) -> Result<Self, DecodeError> {
        let mut table = Self::new();
        for (index, row) in rows {
            if index == FORGOTTEN_ROW {
                table.forgotten = decode_forgotten(row)?;
            } else {
                let (epoch, records) = decode_row(row)?;
                table.add(Position { epoch, index }, records);
            }
        }
        Ok(table)
    }

    /// The rows that the store holds of it, ascending by index.
    #[must_use]
    pub fn to_rows(&self) -> Vec<(Index, Bytes)> {
        let forgotten = (self.forgotten > Position::ZERO)
            .then(|| (FORGOTTEN_ROW, encode_forgotten(self.forgotten)));
        let rows = self.rows.iter().map(|row| {
            (
                row.position.index,
                encode_row(row.position.epoch, &row.records),
            )
        });
        forgotten.into_iter().chain(rows).collect()
    }

    /// Through which position rows have left.
    #[must_use]
    pub fn forgotten(&self) -> Position {
        self.forgotten
    }

    /// How many records it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Judges a write by its name.
    #[must_use]
    pub fn judge(&self, write: &Sequenced) -> Judgement {
        if let Some((position, at)) = self.names.get(&(write.client, write.sequence))
            && let Some((record, is_last)) = self.record(*position, *at)
        {
            return Judgement::Applied {
                outcome: record.outcome.clone(),
                position: *position,
                version: if is_last {
                    *position
                } else {
                    before(*position)
                },
            };
        }
        if self.forgotten > write.known && !is_seeded(Bug::JudgeForgottenAsNew) {
            Judgement::Unjudged
        } else {
            Judgement::New
        }
    }

    /// A record, and whether it is the last one of its entry.
    fn record(&self, position: Position, at: usize) -> Option<(&SequencedRecord, bool)> {
        let row = self
            .rows
            .binary_search_by_key(&position.index, |row| row.position.index)
            .ok()?;
        let records = &self.rows[row].records;
        Some((records.get(at)?, at + 1 == records.len()))
    }

    /// Which rows are to leave with an entry that adds `adding`, for the table to hold
    /// `window` records and no more than it must: a row leaves as a whole, once as many
    /// records remain without it. With one record to a row that is the window exactly.
    #[must_use]
    pub fn forgets(&self, adding: &[SequencedRecord], window: u32) -> Vec<Position> {
        let window = usize::try_from(window).unwrap_or(usize::MAX);
        let mut records = self.records + adding.len();
        let mut weight = self.weight + adding.iter().map(SequencedRecord::weight).sum::<usize>();
        let mut leave = Vec::new();
        // As many as come, whatever rows they were in, and some more.
        let rows_max = FORGETS_MAX + adding.len().saturating_sub(1);
        for row in &self.rows {
            let too_many = records - row.records.len() >= window && leave.len() < rows_max;
            if !too_many && weight <= TABLE_BYTES_MAX {
                break;
            }
            records -= row.records.len();
            weight -= row.weight;
            leave.push(row.position);
        }
        leave
    }

    /// Takes over what an entry at `position` changes. An entry that the table holds
    /// already, or has forgotten, changes nothing: the log may be followed from before the
    /// mark that the rows are as of, and never from past it.
    pub fn absorb(&mut self, position: Position, body: &EntryBody) {
        for left in &body.forgets {
            while self
                .rows
                .front()
                .is_some_and(|row| row.position.index <= left.index)
            {
                self.drop_oldest();
            }
            self.forgotten = self.forgotten.max(*left);
            if is_seeded(Bug::PruneTableEarly) {
                self.drop_oldest();
            }
        }
        let last = self.rows.back().map(|row| row.position.index);
        let known = position.index <= self.forgotten.index || Some(position.index) <= last;
        if !known && !body.sequenced.is_empty() {
            self.add(position, body.sequenced.clone());
        }
    }

    fn add(&mut self, position: Position, records: Vec<SequencedRecord>) {
        debug_assert!(
            self.rows
                .back()
                .is_none_or(|last| last.position.index < position.index),
            "rows of the idempotence table are out of order"
        );
        for (at, record) in records.iter().enumerate() {
            self.names
                .insert((record.client, record.sequence), (position, at));
        }
        let weight = records.iter().map(SequencedRecord::weight).sum();
        self.records += records.len();
        self.weight += weight;
        self.rows.push_back(Row {
            position,
            records,
            weight,
        });
    }

    fn drop_oldest(&mut self) {
        let Some(row) = self.rows.pop_front() else {
            return;
        };
        self.records -= row.records.len();
        self.weight -= row.weight;
        for record in &row.records {
            let name = (record.client, record.sequence);
            if self
                .names
                .get(&name)
                .is_some_and(|(position, _)| *position == row.position)
            {
                self.names.remove(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Epoch;

    fn record(client: u128, sequence: u64) -> SequencedRecord {
        SequencedRecord {
            client,
            sequence,
            outcome: WriteOutcome::Integer(sequence as i64),
        }
    }

    fn at(index: u64) -> Position {
        Position {
            epoch: Epoch(1),
            index: Index(index),
        }
    }

    fn name(client: u128, sequence: u64, known: u64) -> Sequenced {
        Sequenced {
            client,
            sequence,
            known: at(known),
        }
    }

    /// Writes one record at `index`, forgetting what the window demands.
    fn write(table: &mut Table, index: u64, record: SequencedRecord, window: u32) -> EntryBody {
        let sequenced = vec![record];
        let body = EntryBody {
            forgets: table.forgets(&sequenced, window),
            sequenced,
            ..EntryBody::default()
        };
        table.absorb(at(index), &body);
        body
    }

    #[test]
    fn a_write_is_remembered_with_its_outcome_and_position() {
        let mut table = Table::new();
        assert_eq!(table.judge(&name(1, 1, 0)), Judgement::New);
        write(&mut table, 7, record(1, 1), 10);
        assert_eq!(
            table.judge(&name(1, 1, 0)),
            Judgement::Applied {
                outcome: WriteOutcome::Integer(1),
                position: at(7),
                version: at(7)
            }
        );
        assert_eq!(table.judge(&name(1, 2, 0)), Judgement::New);
        assert_eq!(table.judge(&name(2, 1, 0)), Judgement::New);
    }

    #[test]
    fn a_lower_sequence_than_one_that_was_applied_is_still_new() {
        // A window per client, not a maximum: pipelined writes arrive out of order.
        let mut table = Table::new();
        write(&mut table, 1, record(1, 9), 10);
        assert_eq!(table.judge(&name(1, 8, 0)), Judgement::New);
    }

    #[test]
    fn records_leave_in_log_order_whoever_they_are_of() {
        let mut table = Table::new();
        for index in 1..=3 {
            write(&mut table, index, record(u128::from(index), 1), 3);
        }
        let body = write(&mut table, 4, record(1, 2), 3);
        assert_eq!(body.forgets, vec![at(1)]);
        assert_eq!(table.len(), 3);
        assert_eq!(table.forgotten(), at(1));
    }

    #[test]
    fn what_cannot_be_judged_is_never_called_new() {
        let mut table = Table::new();
        for index in 1..=5 {
            write(&mut table, index, record(1, index), 2);
        }
        assert_eq!(table.forgotten(), at(3));
        assert_eq!(table.judge(&name(1, 1, 0)), Judgement::Unjudged);
        assert_eq!(table.judge(&name(1, 6, 2)), Judgement::Unjudged);
        // Whoever knew the index before the first try was dropped after nothing.
        assert_eq!(table.judge(&name(1, 6, 3)), Judgement::New);
        assert!(matches!(
            table.judge(&name(1, 5, 0)),
            Judgement::Applied { .. }
        ));
    }

    #[test]
    fn a_write_known_of_in_a_line_that_was_lost_is_not_new_in_the_next_one() {
        // The client knew 1/100. A promotion that lost entries went on from 1/50; the
        // write's first try was recorded at 2/52, without an answer, and forgotten.
        let mut table = Table::new();
        let new_line = |index| Position {
            epoch: Epoch(2),
            index: Index(index),
        };
        for index in 51..=54 {
            let sequenced = vec![record(1, index)];
            let body = EntryBody {
                forgets: table.forgets(&sequenced, 2),
                sequenced,
                ..EntryBody::default()
            };
            table.absorb(new_line(index), &body);
        }
        assert_eq!(table.forgotten(), new_line(52));
        assert_eq!(table.judge(&name(1, 52, 100)), Judgement::Unjudged);
        let rebuilt = Table::from_rows(table.to_rows()).expect("its own rows");
        assert_eq!(rebuilt.judge(&name(1, 52, 100)), Judgement::Unjudged);
        // Whoever knows the new line is judged by it.
        let mut knows = name(1, 55, 0);
        knows.known = new_line(52);
        assert_eq!(table.judge(&knows), Judgement::New);
    }

    #[test]
    fn a_heavy_record_takes_as_many_light_ones_along_as_it_weighs() {
        let mut table = Table::new();
        for index in 1..=10_000 {
            write(&mut table, index, record(1, index), 100_000);
        }
        for index in 10_001..=10_040 {
            let heavy = SequencedRecord {
                outcome: WriteOutcome::Set {
                    previous: Some(Bytes::from(vec![0; 1 << 20])),
                },
                ..record(1, index)
            };
            write(&mut table, index, heavy, 100_000);
            assert!(table.weight <= TABLE_BYTES_MAX, "{}", table.weight);
        }
    }

    /// Entries of several records take as many out as they bring, and leave the window full.
    #[test]
    fn entries_of_many_records_keep_the_window_and_no_more_than_they_must() {
        let mut table = Table::new();
        for index in 1..=100 {
            write(&mut table, index, record(1, index), 100);
        }
        for index in 101..=120 {
            let sequenced: Vec<_> = (0..40).map(|n| record(2, index * 40 + n)).collect();
            let body = EntryBody {
                forgets: table.forgets(&sequenced, 100),
                sequenced,
                ..EntryBody::default()
            };
            table.absorb(at(index), &body);
            assert!((100..140).contains(&table.len()), "{}", table.len());
        }
        // A window smaller than an entry: the entry itself is remembered.
        let sequenced: Vec<_> = (0..40).map(|n| record(3, n)).collect();
        let body = EntryBody {
            forgets: table.forgets(&sequenced, 5),
            sequenced,
            ..EntryBody::default()
        };
        table.absorb(at(121), &body);
        assert_eq!(table.len(), 40);
        assert!(matches!(
            table.judge(&name(3, 0, 0)),
            Judgement::Applied { version, .. } if version == at(120)
        ));
        assert!(matches!(
            table.judge(&name(3, 39, 0)),
            Judgement::Applied { version, .. } if version == at(121)
        ));
    }

    #[test]
    fn a_smaller_window_takes_effect_bit_by_bit() {
        let mut table = Table::new();
        for index in 1..=100 {
            write(&mut table, index, record(1, index), 100);
        }
        let body = write(&mut table, 101, record(1, 101), 10);
        assert_eq!(body.forgets.len(), FORGETS_MAX);
        for index in 102..=110 {
            write(&mut table, index, record(1, index), 10);
        }
        assert_eq!(table.len(), 10);
    }

    #[test]
    fn long_answers_leave_before_the_window_is_full() {
        let mut table = Table::new();
        let long = |sequence| SequencedRecord {
            client: 1,
            sequence,
            outcome: WriteOutcome::Set {
                previous: Some(Bytes::from(vec![0; TABLE_BYTES_MAX / 4])),
            },
        };
        for index in 1..=10 {
            write(&mut table, index, long(index), 1000);
        }
        assert_eq!(table.len(), 3);
    }

    proptest! {
        #[test]
        fn a_replica_that_follows_the_rows_has_the_same_table(
            steps in prop::collection::vec((1u64..4, 0u128..3, 1u32..6), 1..60),
        ) {
            let mut primary = Table::new();
            let mut store: std::collections::BTreeMap<Index, Bytes> = Default::default();
            let mut index = 0;
            let mut log = Vec::new();
            for (gap, client, window) in steps {
                index += gap;
                let body = write(&mut primary, index, record(client, index), window);
                for (row, content) in body.table_rows(at(index)) {
                    match content {
                        Some(content) => store.insert(row, content),
                        None => store.remove(&row),
                    };
                }
                log.push((at(index), body));
                let rows: Vec<_> = store.clone().into_iter().collect();
                prop_assert_eq!(&primary.to_rows(), &rows);
                let mut rebuilt = Table::from_rows(rows).expect("rows decode");
                // Following the log from before the rows were read changes nothing.
                for (position, body) in &log {
                    rebuilt.absorb(*position, body);
                }
                prop_assert_eq!(rebuilt.to_rows(), primary.to_rows());
                prop_assert_eq!(rebuilt.len(), primary.len());
                prop_assert_eq!(rebuilt.forgotten(), primary.forgotten());
            }
        }
    }
}
