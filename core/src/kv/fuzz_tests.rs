//! Whatever stands in an entry, a value or a row is read or refused, and what is read is
//! written back as it was meant.

use bytes::Bytes;

use super::body::{
    EntryBody, SequencedRecord, StoredValue, VersionedValue, decode_forgotten, decode_row,
    encode_forgotten, encode_row, encode_stored,
};
use super::expiry::ExpiryRow;
use super::request::WriteOutcome;
use crate::ids::{Epoch, Index, Position};

fn position(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn value(expires_at: Option<u64>) -> StoredValue {
    StoredValue {
        expires_at,
        kind: super::body::KIND_STRING,
        data: Bytes::from_static(b"a value"),
    }
}

fn record(sequence: u64, outcome: WriteOutcome) -> SequencedRecord {
    SequencedRecord {
        client: u128::MAX - 5,
        sequence,
        outcome,
    }
}

fn records() -> Vec<SequencedRecord> {
    vec![
        record(1, WriteOutcome::Integer(-42)),
        record(
            2,
            WriteOutcome::ConditionFailed {
                version: Some(position(3, 4)),
                previous: Some(Bytes::from_static(b"before")),
            },
        ),
        record(3, WriteOutcome::Deleted { count: 2 }),
        record(4, WriteOutcome::Set { previous: None }),
    ]
}

fn body() -> EntryBody {
    EntryBody {
        writes: vec![
            (
                Bytes::from_static(b"key"),
                Some(value(Some(1_700_000_000_000))),
            ),
            (Bytes::from_static(b"other"), Some(value(None))),
            (Bytes::from_static(b"gone"), None),
        ],
        sequenced: records(),
        forgets: vec![position(1, 7), position(2, 9)],
        unindexed: Vec::new(),
    }
}

/// One that takes the newest format.
fn body_with_more() -> EntryBody {
    let mut sequenced = records();
    sequenced.push(record(
        5,
        WriteOutcome::Batch(vec![
            WriteOutcome::Set { previous: None },
            WriteOutcome::Integer(7),
        ]),
    ));
    EntryBody {
        sequenced,
        unindexed: vec![ExpiryRow {
            second: 1_700_000_000,
            key: Bytes::from_static(b"gone"),
        }],
        ..body()
    }
}

#[test]
fn fuzz_entry_bodies() {
    let seeds = vec![
        body().encode().to_vec(),
        body_with_more().encode().to_vec(),
        EntryBody::default().encode().to_vec(),
    ];
    cairn_fuzz::run("entry_body", 1, seeds, |input| {
        if let Ok(read) = EntryBody::decode(Bytes::copy_from_slice(input)) {
            let again = EntryBody::decode(read.encode());
            assert_eq!(again, Ok(read));
        }
    });
}

#[test]
fn fuzz_stored_values() {
    let stored = |expires_at| encode_stored(position(5, 6), &value(expires_at)).to_vec();
    cairn_fuzz::run(
        "stored_value",
        1,
        vec![stored(None), stored(Some(9))],
        |input| {
            if let Ok(read) = VersionedValue::decode(Bytes::copy_from_slice(input)) {
                assert_eq!(VersionedValue::decode(read.encode()), Ok(read));
            }
        },
    );
}

#[test]
fn fuzz_rows_of_the_idempotence_table() {
    let seeds = vec![
        encode_row(Epoch(8), &records()).to_vec(),
        encode_row(Epoch(8), &body_with_more().sequenced).to_vec(),
        encode_forgotten(position(1, 2)).to_vec(),
    ];
    cairn_fuzz::run("table_row", 1, seeds, |input| {
        let input = Bytes::copy_from_slice(input);
        if let Ok((epoch, read)) = decode_row(input.clone()) {
            assert_eq!(decode_row(encode_row(epoch, &read)), Ok((epoch, read)));
        }
        if let Ok(read) = decode_forgotten(input) {
            assert_eq!(decode_forgotten(encode_forgotten(read)), Ok(read));
        }
    });
}
