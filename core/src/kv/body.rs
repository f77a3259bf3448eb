//! What a write entry carries, and what the store keeps of it: the formats.
//!
//! An entry carries *results*, not operations (rule 17): the primary evaluated the
//! write, and a replica that applies it reads nothing and decides nothing. That
//! holds for the idempotence table too: an entry names the rows that leave the
//! table with it ([`EntryBody::forgets`]), so that every replica forgets the same.
//!
//! # Rows in the store
//! Beside its keys, a partition's state holds the table of rule 8: one row per
//! entry that carries sequenced records, under the entry's index, plus one row
//! under [`FORGOTTEN_ROW`] that says through which position rows were forgotten.
//! [`EntryBody::table_rows`] gives the changes that an entry makes to them; they
//! go into the same batch as its keys and the applied index.
//!
//! And it holds the [expiry index](super::expiry), whose rows follow from the values
//! that an entry writes; those that leave are named ([`EntryBody::unindexed`]).
//!
//! # Formats
//! What an older build could read too is written as that build does: a body has one
//! encoding, of the lowest format that can say it. Format 3 of a body, and 2 of a row
//! of the table, brought the outcomes of batches; that of a body brought rows of the
//! expiry index that leave, besides.

use bytes::{BufMut, Bytes, BytesMut};

use super::expiry::ExpiryRow;
use super::outcome::{self, put_outcome, read_outcome};
use super::request::WriteOutcome;
use super::wire::{
    DecodeError, Reader, number_bytes, put_bytes, put_number, put_position, read_position,
};
use crate::ids::{Epoch, Index, Position};

/// The longest key.
pub const KEY_BYTES_MAX: usize = 64 * 1024;
/// The longest value.
pub const VALUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The most bytes of keys and values that one entry may bring: it has to fit into a
/// message between nodes.
pub const ENTRY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The type of a string ([`StoredValue::kind`]).
pub const KIND_STRING: u8 = 0;
/// The type of a striped counter, whose data is a [`crate::counters::Control`].
pub const KIND_COUNTER: u8 = 1;
/// The row of the idempotence table under which stands through which position rows
/// were forgotten. Entries count from 1, so no entry has a row here.
pub const FORGOTTEN_ROW: Index = Index::ZERO;

/// The format of an entry's body. The first one named the rows that leave the table
/// by their index alone.
const BODY_FORMAT: u8 = 2;
/// The format of a body that says more, see above.
const BODY_FORMAT_MORE: u8 = 3;
/// The format of a value in the store.
const VALUE_FORMAT: u8 = 1;
/// The format of a row of the idempotence table.
const ROW_FORMAT: u8 = 1;
/// The format of a row with an outcome that [`outcome::is_plain`] denies.
const ROW_FORMAT_MORE: u8 = 2;
/// The format of the row under [`FORGOTTEN_ROW`]. The first one held an index alone.
const FORGOTTEN_FORMAT: u8 = 2;

/// A key's new value, without its version: that is the position of its entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredValue {
    /// When it expires: milliseconds since the Unix epoch.
    pub expires_at: Option<u64>,
    /// Its type; [`KIND_STRING`] or [`KIND_COUNTER`].
    pub kind: u8,
    /// The bytes.
    pub data: Bytes,
}

impl StoredValue {
    /// Whether it counts as absent for the primary at that time (rule 6).
    #[must_use]
    pub fn expired(&self, now_ms: u64) -> bool {
        self.expires_at.is_some_and(|at| at <= now_ms)
    }
}

/// A value as it lies in the store: with its version (rule 18).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionedValue {
    /// The position of the entry that wrote it.
    pub version: Position,
    /// The value.
    pub value: StoredValue,
}

impl VersionedValue {
    /// Encodes it for the store.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        encode_stored(self.version, &self.value)
    }

    /// Decodes it from the store; the value's bytes share the buffer.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(stored: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(stored);
        match reader.byte()? {
            VALUE_FORMAT => {}
            other => return Err(DecodeError::Format(other)),
        }
        let flags = reader.byte()?;
        if flags & !FLAG_EXPIRES != 0 {
            return Err(DecodeError::Tag(flags));
        }
        let kind = reader.byte()?;
        let version = read_position(&mut reader)?;
        let expires_at = match flags & FLAG_EXPIRES {
            0 => None,
            _ => Some(reader.number()?),
        };
        Ok(Self {
            version,
            value: StoredValue {
                expires_at,
                kind,
                data: reader.rest(),
            },
        })
    }
}

const FLAG_EXPIRES: u8 = 1;

/// Encodes a value for the store, see [`VersionedValue::encode`].
#[must_use]
pub fn encode_stored(version: Position, value: &StoredValue) -> Bytes {
    let mut out = BytesMut::with_capacity(value.data.len() + 24);
    out.put_u8(VALUE_FORMAT);
    out.put_u8(if value.expires_at.is_some() {
        FLAG_EXPIRES
    } else {
        0
    });
    out.put_u8(value.kind);
    put_position(&mut out, version);
    if let Some(at) = value.expires_at {
        put_number(&mut out, at);
    }
    out.put_slice(&value.data);
    out.freeze()
}

/// That a sequenced write was judged, and how (rule 8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SequencedRecord {
    /// The client.
    pub client: u128,
    /// Its write.
    pub sequence: u64,
    /// What came of it.
    pub outcome: WriteOutcome,
}

impl SequencedRecord {
    /// Roughly how many bytes it takes, in memory and on disk.
    #[must_use]
    pub fn weight(&self) -> usize {
        64 + outcome::weight(&self.outcome)
    }
}

/// What a write entry carries.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EntryBody {
    /// Keys and their new values, or `None` where the key is deleted. No key
    /// stands here twice. Empty for a recorded refusal.
    pub writes: Vec<(Bytes, Option<StoredValue>)>,
    /// The sequenced writes that this entry answers; empty for a Redis client's.
    pub sequenced: Vec<SequencedRecord>,
    /// The rows of the idempotence table, by the position of their entries and
    /// ascending, that leave it with this entry.
    pub forgets: Vec<Position>,
    /// The rows of the expiry index that leave it with this entry, beside those that
    /// its values bring.
    pub unindexed: Vec<ExpiryRow>,
}

/// A change of one row of the idempotence table: its index, and its new content or
/// `None` where it goes.
pub type TableRowChange = (Index, Option<Bytes>);

impl EntryBody {
    /// Encodes it for a log entry.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self {
            writes,
            sequenced,
            forgets,
            unindexed,
        } = self;
        let says_more = self.says_more();
        let mut out = BytesMut::with_capacity(self.size_hint());
        out.put_u8(if says_more {
            BODY_FORMAT_MORE
        } else {
            BODY_FORMAT
        });
        put_number(&mut out, writes.len() as u64);
        for (key, value) in writes {
            put_bytes(&mut out, key);
            match value {
                None => out.put_u8(TAG_DELETE),
                Some(value) => {
                    match value.expires_at {
                        None => out.put_u8(TAG_VALUE),
                        Some(at) => {
                            out.put_u8(TAG_VALUE_EXPIRES);
                            put_number(&mut out, at);
                        }
                    }
                    out.put_u8(value.kind);
                    put_bytes(&mut out, &value.data);
                }
            }
        }
        put_records(&mut out, sequenced);
        put_number(&mut out, forgets.len() as u64);
        for position in forgets {
            put_position(&mut out, *position);
        }
        if says_more {
            put_number(&mut out, unindexed.len() as u64);
            for ExpiryRow { second, key } in unindexed {
                put_number(&mut out, *second);
                put_bytes(&mut out, key);
            }
        }
        out.freeze()
    }

    /// Whether it takes [`BODY_FORMAT_MORE`].
    fn says_more(&self) -> bool {
        !self.unindexed.is_empty() || !all_plain(&self.sequenced)
    }

    fn size_hint(&self) -> usize {
        let writes: usize = self
            .writes
            .iter()
            .map(|(key, value)| {
                let data = value.as_ref().map_or(0, |v| v.data.len() + 12);
                key.len() + data + 6
            })
            .sum();
        let records: usize = self.sequenced.iter().map(SequencedRecord::weight).sum();
        let unindexed: usize = self.unindexed.iter().map(|row| row.key.len() + 8).sum();
        9 + writes + records + unindexed + self.forgets.len() * 2 * number_bytes(u64::MAX)
    }

    /// Decodes the body of a write entry; keys and values share the buffer.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(body: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let says_more = match reader.byte()? {
            BODY_FORMAT => false,
            BODY_FORMAT_MORE => true,
            other => return Err(DecodeError::Format(other)),
        };
        let count = reader.count(2)?;
        let mut writes = Vec::with_capacity(count.min(DECODE_CAPACITY_MAX));
        for _ in 0..count {
            let key = reader.bytes()?;
            let value = match reader.byte()? {
                TAG_DELETE => None,
                tag @ (TAG_VALUE | TAG_VALUE_EXPIRES) => {
                    let expires_at = match tag {
                        TAG_VALUE => None,
                        _ => Some(reader.number()?),
                    };
                    let kind = reader.byte()?;
                    let data = reader.bytes()?;
                    Some(StoredValue {
                        expires_at,
                        kind,
                        data,
                    })
                }
                other => return Err(DecodeError::Tag(other)),
            };
            writes.push((key, value));
        }
        let sequenced = read_records(&mut reader)?;
        let count = reader.count(2)?;
        let mut forgets = Vec::with_capacity(count.min(DECODE_CAPACITY_MAX));
        for _ in 0..count {
            forgets.push(read_position(&mut reader)?);
        }
        let mut unindexed = Vec::new();
        if says_more {
            let count = reader.count(2)?;
            unindexed.reserve(count.min(DECODE_CAPACITY_MAX));
            for _ in 0..count {
                unindexed.push(ExpiryRow {
                    second: reader.number()?,
                    key: reader.bytes()?,
                });
            }
        }
        reader.end()?;
        let body = Self {
            writes,
            sequenced,
            forgets,
            unindexed,
        };
        if body.says_more() != says_more {
            return Err(DecodeError::Disagrees);
        }
        Ok(body)
    }

    /// The changes that this entry makes to the rows of the expiry index, in the order
    /// in which they are to be made: whether the row comes, and the row.
    pub fn expiry_rows(&self) -> impl Iterator<Item = (bool, ExpiryRow)> {
        let leave = self.unindexed.iter().map(|row| (false, row.clone()));
        let come = self.writes.iter().filter_map(|(key, value)| {
            let row = ExpiryRow::of(key, value.as_ref()?)?;
            Some((true, row))
        });
        leave.chain(come)
    }

    /// The changes that this entry, standing at `position`, makes to the rows of
    /// the idempotence table. They stand in the order in which they are to be made.
    #[must_use]
    pub fn table_rows(&self, position: Position) -> Vec<TableRowChange> {
        let mut rows: Vec<TableRowChange> = self.forgets.iter().map(|p| (p.index, None)).collect();
        if let Some(last) = self.forgets.last() {
            rows.push((FORGOTTEN_ROW, Some(encode_forgotten(*last))));
        }
        if !self.sequenced.is_empty() {
            rows.push((
                position.index,
                Some(encode_row(position.epoch, &self.sequenced)),
            ));
        }
        rows
    }
}

const TAG_DELETE: u8 = 0;
const TAG_VALUE: u8 = 1;
const TAG_VALUE_EXPIRES: u8 = 2;

/// How much a decoder reserves on the word of a count alone.
const DECODE_CAPACITY_MAX: usize = 1024;

/// Encodes a row of the idempotence table: the records of one entry.
#[must_use]
pub fn encode_row(epoch: Epoch, records: &[SequencedRecord]) -> Bytes {
    let weight: usize = records.iter().map(SequencedRecord::weight).sum();
    let mut out = BytesMut::with_capacity(weight + 8);
    out.put_u8(if all_plain(records) {
        ROW_FORMAT
    } else {
        ROW_FORMAT_MORE
    });
    put_number(&mut out, epoch.0);
    put_records(&mut out, records);
    out.freeze()
}

/// Decodes what [`encode_row`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_row(row: Bytes) -> Result<(Epoch, Vec<SequencedRecord>), DecodeError> {
    let mut reader = Reader::new(row);
    let says_more = match reader.byte()? {
        ROW_FORMAT => false,
        ROW_FORMAT_MORE => true,
        other => return Err(DecodeError::Format(other)),
    };
    let epoch = Epoch(reader.number()?);
    let records = read_records(&mut reader)?;
    reader.end()?;
    if all_plain(&records) == says_more {
        return Err(DecodeError::Disagrees);
    }
    Ok((epoch, records))
}

/// Encodes the row under [`FORGOTTEN_ROW`].
#[must_use]
pub fn encode_forgotten(through: Position) -> Bytes {
    let mut out = BytesMut::with_capacity(21);
    out.put_u8(FORGOTTEN_FORMAT);
    put_position(&mut out, through);
    out.freeze()
}

/// Decodes what [`encode_forgotten`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_forgotten(row: Bytes) -> Result<Position, DecodeError> {
    let mut reader = Reader::new(row);
    match reader.byte()? {
        FORGOTTEN_FORMAT => {}
        other => return Err(DecodeError::Format(other)),
    }
    let through = read_position(&mut reader)?;
    reader.end()?;
    Ok(through)
}

fn all_plain(records: &[SequencedRecord]) -> bool {
    records
        .iter()
        .all(|record| outcome::is_plain(&record.outcome))
}

fn put_records(out: &mut BytesMut, records: &[SequencedRecord]) {
    put_number(out, records.len() as u64);
    for record in records {
        let SequencedRecord {
            client,
            sequence,
            outcome,
        } = record;
        out.put_u128_le(*client);
        put_number(out, *sequence);
        put_outcome(out, outcome);
    }
}

fn read_records(reader: &mut Reader) -> Result<Vec<SequencedRecord>, DecodeError> {
    let count = reader.count(18)?;
    let mut records = Vec::with_capacity(count.min(DECODE_CAPACITY_MAX));
    for _ in 0..count {
        records.push(SequencedRecord {
            client: u128::from_le_bytes(reader.array()?),
            sequence: reader.number()?,
            outcome: read_outcome(reader)?,
        });
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn position() -> impl Strategy<Value = Position> {
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, index)| Position {
            epoch: Epoch(epoch),
            index: Index(index),
        })
    }

    fn value() -> impl Strategy<Value = StoredValue> {
        (any::<Option<u64>>(), any::<u8>(), bytes()).prop_map(|(expires_at, kind, data)| {
            StoredValue {
                expires_at,
                kind,
                data,
            }
        })
    }

    fn outcome() -> impl Strategy<Value = WriteOutcome> {
        let plain = prop_oneof![
            prop::option::of(bytes()).prop_map(|previous| WriteOutcome::Set { previous }),
            (prop::option::of(position()), prop::option::of(bytes())).prop_map(
                |(version, previous)| WriteOutcome::ConditionFailed { version, previous }
            ),
            any::<u64>().prop_map(|count| WriteOutcome::Deleted { count }),
            any::<i64>().prop_map(WriteOutcome::Integer),
            Just(WriteOutcome::NotAnInteger),
            Just(WriteOutcome::Overflow),
        ];
        prop_oneof![
            4 => plain.clone(),
            1 => Just(WriteOutcome::TooLong),
            1 => prop::collection::vec(plain.clone(), 0..4).prop_map(WriteOutcome::Batch),
            1 => (any::<usize>(), plain).prop_map(|(at, why)| WriteOutcome::BatchRefused {
                at,
                why: Box::new(why),
            }),
        ]
    }

    fn record() -> impl Strategy<Value = SequencedRecord> {
        (any::<u128>(), any::<u64>(), outcome()).prop_map(|(client, sequence, outcome)| {
            SequencedRecord {
                client,
                sequence,
                outcome,
            }
        })
    }

    fn body() -> impl Strategy<Value = EntryBody> {
        (
            prop::collection::vec((bytes(), prop::option::of(value())), 0..5),
            prop::collection::vec(record(), 0..4),
            prop::collection::vec(position(), 0..4),
            prop::collection::vec(
                (any::<u64>(), bytes()).prop_map(|(second, key)| ExpiryRow { second, key }),
                0..3,
            ),
        )
            .prop_map(|(writes, sequenced, forgets, unindexed)| EntryBody {
                writes,
                sequenced,
                forgets,
                unindexed,
            })
    }

    proptest! {
        #[test]
        fn bodies_come_back_as_they_were(body in body()) {
            prop_assert_eq!(EntryBody::decode(body.encode()), Ok(body));
        }

        #[test]
        fn stored_values_come_back_as_they_were(version in position(), value in value()) {
            let value = VersionedValue { version, value };
            prop_assert_eq!(VersionedValue::decode(value.encode()), Ok(value));
        }

        #[test]
        fn rows_come_back_as_they_were(
            epoch in any::<u64>(),
            records in prop::collection::vec(record(), 0..4),
            through in position(),
        ) {
            let row = encode_row(Epoch(epoch), &records);
            prop_assert_eq!(decode_row(row), Ok((Epoch(epoch), records)));
            prop_assert_eq!(decode_forgotten(encode_forgotten(through)), Ok(through));
        }

        #[test]
        fn a_body_cut_short_is_refused(body in body(), cut in any::<prop::sample::Index>()) {
            let whole = body.encode();
            let cut = cut.index(whole.len());
            prop_assert!(EntryBody::decode(whole.slice(..cut)).is_err());
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let junk = Bytes::from(junk);
            let _ = EntryBody::decode(junk.clone());
            let _ = VersionedValue::decode(junk.clone());
            let _ = decode_row(junk.clone());
            let _ = decode_forgotten(junk);
        }

        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            format in BODY_FORMAT..=BODY_FORMAT_MORE,
            junk in prop::collection::vec(0u8..4, 0..60),
        ) {
            let mut bytes = vec![format];
            bytes.extend(junk);
            let bytes = Bytes::from(bytes);
            if let Ok(body) = EntryBody::decode(bytes.clone()) {
                prop_assert_eq!(body.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let newer = Bytes::from_static(&[9, 0, 0, 0]);
        assert_eq!(
            EntryBody::decode(newer.clone()),
            Err(DecodeError::Format(9))
        );
        assert_eq!(
            VersionedValue::decode(newer.clone()),
            Err(DecodeError::Format(9))
        );
        assert_eq!(decode_row(newer), Err(DecodeError::Format(9)));
    }

    #[test]
    fn a_small_write_has_a_small_body() {
        let body = EntryBody {
            writes: vec![(
                Bytes::from_static(b"key"),
                Some(StoredValue {
                    expires_at: None,
                    kind: KIND_STRING,
                    data: Bytes::from_static(b"value"),
                }),
            )],
            ..EntryBody::default()
        };
        assert_eq!(
            &body.encode()[..],
            b"\x02\x01\x03key\x01\x00\x05value\x00\x00"
        );
    }

    #[test]
    fn rows_of_the_expiry_index_leave_before_those_of_the_new_values_come() {
        let key = Bytes::from_static(b"k");
        let row = |second| ExpiryRow {
            second,
            key: key.clone(),
        };
        let value = StoredValue {
            expires_at: Some(5001),
            kind: KIND_STRING,
            data: Bytes::new(),
        };
        let body = EntryBody {
            writes: vec![(key.clone(), Some(value)), (Bytes::from_static(b"d"), None)],
            unindexed: vec![row(3), row(6)],
            ..EntryBody::default()
        };
        assert_eq!(body.encode()[0], BODY_FORMAT_MORE);
        assert_eq!(
            body.expiry_rows().collect::<Vec<_>>(),
            vec![(false, row(3)), (false, row(6)), (true, row(6))]
        );
    }

    #[test]
    fn an_entry_changes_the_rows_that_it_forgets_and_its_own() {
        let at = |index| Position {
            epoch: Epoch(3),
            index: Index(index),
        };
        let position = at(9);
        let record = SequencedRecord {
            client: 7,
            sequence: 1,
            outcome: WriteOutcome::Integer(5),
        };
        let body = EntryBody {
            sequenced: vec![record.clone()],
            forgets: vec![at(2), at(4)],
            ..EntryBody::default()
        };
        assert_eq!(
            body.table_rows(position),
            vec![
                (Index(2), None),
                (Index(4), None),
                (FORGOTTEN_ROW, Some(encode_forgotten(at(4)))),
                (Index(9), Some(encode_row(Epoch(3), &[record]))),
            ]
        );
        assert!(EntryBody::default().table_rows(position).is_empty());
    }
}
