//! What a batch, a change of an expiry and a splice must do, a sentence each.

use super::*;
use crate::ids::Epoch;

const NOW: u64 = 1_000_000;

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn value(text: &str, expires_at: Option<u64>) -> StoredValue {
    StoredValue {
        expires_at,
        kind: KIND_STRING,
        data: key(text),
    }
}

const VERSION: Position = Position {
    epoch: crate::ids::Epoch(2),
    index: Index(7),
};

/// Evaluates a write over a store of these values, all of one version.
fn write(store: &[(&str, StoredValue)], op: WriteOp) -> Evaluation {
    let bases = |wanted: &Bytes| {
        let found = store.iter().find(|(name, _)| name.as_bytes() == wanted);
        Some(found.map(|(_, value)| VersionedValue {
            version: VERSION,
            value: value.clone(),
        }))
    };
    let request = WriteRequest {
        op,
        sequenced: None,
    };
    Evaluator::new(10).evaluate(NOW, &request, &bases)
}

fn body(evaluation: Evaluation) -> (EntryBody, WriteOutcome) {
    match evaluation {
        Evaluation::Propose { body, outcome } => (body, outcome),
        other => panic!("not an entry: {other:?}"),
    }
}

fn operation(name: &str, condition: Condition, action: BatchAction) -> BatchOperation {
    BatchOperation {
        key: key(name),
        condition,
        action,
    }
}

fn put(name: &str, text: &str) -> BatchOperation {
    put_if(name, text, Condition::Always)
}

fn put_if(name: &str, text: &str, condition: Condition) -> BatchOperation {
    let action = BatchAction::Put {
        value: key(text),
        expiry: Expiry::Never,
    };
    operation(name, condition, action)
}

fn add(name: &str, delta: i64) -> BatchOperation {
    operation(name, Condition::Always, BatchAction::Increment { delta })
}

fn remove(name: &str) -> BatchOperation {
    operation(name, Condition::Always, BatchAction::Delete)
}

fn batch(operations: Vec<BatchOperation>) -> WriteOp {
    WriteOp::Batch { operations }
}

fn refused(at: usize, why: WriteOutcome) -> WriteOutcome {
    let why = Box::new(why);
    WriteOutcome::BatchRefused { at, why }
}

#[test]
fn a_batch_is_one_entry_and_each_operation_sees_those_before_it() {
    let store = [("old", value("1", None))];
    let operations = vec![
        put("n", "5"),
        add("n", 2),
        remove("old"),
        remove("old"),
        add("old", 1),
    ];
    let (body, outcome) = body(write(&store, batch(operations)));
    assert_eq!(
        body.writes,
        vec![
            (key("n"), Some(value("7", None))),
            (key("old"), Some(value("1", None)))
        ]
    );
    assert_eq!(
        outcome,
        WriteOutcome::Batch(vec![
            WriteOutcome::Set { previous: None },
            WriteOutcome::Integer(7),
            WriteOutcome::Deleted { count: 1 },
            WriteOutcome::Deleted { count: 0 },
            WriteOutcome::Integer(1),
        ])
    );
}

#[test]
fn conditions_are_judged_against_the_state_before_the_batch() {
    // `MSETNX a 1 a 2` sets a.
    let absent = |text| put_if("a", text, Condition::Absent);
    let (entry, _) = body(write(&[], batch(vec![absent("1"), absent("2")])));
    assert_eq!(entry.writes, vec![(key("a"), Some(value("2", None)))]);
    let store = [("k", value("1", None))];
    let swap = batch(vec![
        put("k", "2"),
        put_if("k", "3", Condition::Version(VERSION)),
    ]);
    let (entry, _) = body(write(&store, swap));
    assert_eq!(entry.writes, vec![(key("k"), Some(value("3", None)))]);
}

#[test]
fn one_condition_that_fails_refuses_all() {
    let store = [("there", value("1", None)), ("text", value("x", None))];
    let refuses = |operations| match write(&store, batch(operations)) {
        Evaluation::Refuse { outcome } => outcome,
        other => panic!("something was written: {other:?}"),
    };
    let failed = |version| WriteOutcome::ConditionFailed {
        version,
        previous: None,
    };
    assert_eq!(
        refuses(vec![
            put("new", "1"),
            put_if("there", "2", Condition::Absent),
            put_if("none", "3", Condition::Present),
        ]),
        refused(1, failed(Some(VERSION)))
    );
    assert_eq!(
        refuses(vec![put_if("none", "3", Condition::Present), put("a", "1")]),
        refused(0, failed(None))
    );
    assert_eq!(
        refuses(vec![put("new", "1"), add("text", 1)]),
        refused(1, WriteOutcome::NotAnInteger)
    );
    assert_eq!(
        refuses(vec![add("there", i64::MAX - 1), add("there", 1)]),
        refused(1, WriteOutcome::Overflow)
    );
}

#[test]
fn a_refused_batch_that_met_an_expired_key_is_an_entry_that_deletes_it() {
    let store = [("past", value("1", Some(NOW))), ("there", value("1", None))];
    let operations = vec![
        put_if("past", "2", Condition::Absent),
        put_if("there", "2", Condition::Absent),
    ];
    let (body, outcome) = body(write(&store, batch(operations)));
    assert!(matches!(outcome, WriteOutcome::BatchRefused { at: 1, .. }));
    assert_eq!(body.writes, vec![(key("past"), None)]);
    assert_eq!(body.unindexed.len(), 1);
}

#[test]
fn a_batch_asks_for_all_that_it_lacks_at_once_and_for_nothing_that_it_sets_blindly() {
    let request = WriteRequest {
        op: batch(vec![put("blind", "1"), remove("a"), add("b", 1)]),
        sequenced: None,
    };
    let nothing_at_hand = |_: &Bytes| None;
    let evaluator = Evaluator::new(10);
    assert_eq!(
        evaluator.evaluate(NOW, &request, &nothing_at_hand),
        Evaluation::NeedBase(vec![key("a"), key("b")])
    );
}

#[test]
fn a_batch_carries_one_record_under_one_name() {
    let mut evaluator = Evaluator::new(10);
    evaluator.set_table(Table::new(), &[]).expect("empty");
    let request = WriteRequest {
        op: batch(vec![put("a", "1"), add("n", 1)]),
        sequenced: Some(Sequenced {
            client: 1,
            sequence: 1,
            known: Position::ZERO,
        }),
    };
    let bases = |_: &Bytes| Some(None);
    let (entry, outcome) = body(evaluator.evaluate(NOW, &request, &bases));
    assert_eq!(entry.sequenced.len(), 1);
    assert_eq!(EntryBody::decode(entry.encode()), Ok(entry.clone()));
    let position = Position {
        epoch: Epoch(1),
        index: Index(1),
    };
    evaluator.proposed(position, entry);
    assert_eq!(
        evaluator.evaluate(NOW, &request, &bases),
        Evaluation::Duplicate {
            outcome,
            position,
            version: position
        }
    );
}

fn expire(name: &str, expiry: Expiry, condition: ExpiryCondition) -> WriteOp {
    WriteOp::Expire {
        key: key(name),
        expiry,
        condition,
        return_value: true,
    }
}

#[test]
fn a_new_expiry_replaces_the_old_ones_row_and_leaves_the_value() {
    let store = [("k", value("v", Some(NOW + 4_000)))];
    let later = Expiry::AtMillis(NOW + 9_001);
    let (entry, outcome) = body(write(&store, expire("k", later, ExpiryCondition::Later)));
    assert_eq!(
        entry.writes,
        vec![(key("k"), Some(value("v", Some(NOW + 9_001))))]
    );
    assert_eq!(
        entry.unindexed,
        vec![ExpiryRow {
            second: 1_004,
            key: key("k")
        }]
    );
    let previous = Some(key("v"));
    assert_eq!(outcome, WriteOutcome::Set { previous });
    let persist = expire("k", Expiry::Never, ExpiryCondition::Expires);
    let (entry, _) = body(write(&store, persist.clone()));
    assert_eq!(entry.writes, vec![(key("k"), Some(value("v", None)))]);
    let store = [("k", value("v", None))];
    assert!(matches!(
        write(&store, persist),
        Evaluation::Refuse {
            outcome: WriteOutcome::ConditionFailed { .. }
        }
    ));
}

#[test]
fn an_expiry_that_has_passed_deletes_and_gives_the_value() {
    let store = [("k", value("v", None))];
    let past = expire("k", Expiry::AtMillis(0), ExpiryCondition::Always);
    let (entry, outcome) = body(write(&store, past));
    assert_eq!(entry.writes, vec![(key("k"), None)]);
    let previous = Some(key("v"));
    assert_eq!(outcome, WriteOutcome::Set { previous });
}

#[test]
fn an_expiry_within_the_same_second_keeps_its_row() {
    let store = [("k", value("v", Some(NOW + 3_500)))];
    let same = expire("k", Expiry::AtMillis(NOW + 3_600), ExpiryCondition::Always);
    let (entry, _) = body(write(&store, same));
    assert!(entry.unindexed.is_empty());
    assert!(entry.expiry_rows().all(|(comes, _)| comes));
}

#[test]
fn a_row_of_a_key_that_lives_on_is_dropped_only_where_the_key_does_not_need_it() {
    let bases = |_: &Bytes| {
        let version = VERSION;
        let value = value("v", Some(NOW + 9_000));
        Some(Some(VersionedValue { version, value }))
    };
    let expire = |second| {
        let row = ExpiryRow {
            second,
            key: key("k"),
        };
        Evaluator::new(10).expire(NOW, &[row.into()], &bases)
    };
    let (entry, outcome) = body(expire(1_000));
    assert_eq!(outcome, WriteOutcome::Deleted { count: 0 });
    assert!(entry.writes.is_empty());
    assert_eq!(entry.unindexed[0].second, 1_000);
    // The clock went back since it was found.
    assert!(matches!(expire(1_009), Evaluation::Refuse { .. }));
}

#[test]
fn an_entry_spends_few_bytes_on_rows_that_its_writes_leave_behind() {
    let names: Vec<String> = (0..20).map(|n| format!("{n:0>60000}")).collect();
    let store: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), value("v", Some(NOW + 5))))
        .collect();
    let deletes = batch(names.iter().map(|name| remove(name)).collect());
    let (entry, _) = body(write(&store, deletes));
    assert_eq!(entry.writes.len(), 20);
    let bytes: usize = entry.unindexed.iter().map(|row| row.key.len()).sum();
    let most = LEFT_BEHIND_BYTES_MAX + 60_000;
    assert!((1..=most).contains(&bytes), "{bytes} bytes");
}

fn splice(name: &str, offset: Option<usize>, data: &str) -> WriteOp {
    WriteOp::Splice {
        key: key(name),
        offset,
        data: key(data),
        bytes_max: 8,
    }
}

#[test]
fn a_splice_keeps_the_expiry_fills_with_zeros_and_is_bounded() {
    let store = [("k", value("abc", Some(NOW + 5)))];
    let spliced = |offset, data: &str| {
        let (entry, outcome) = body(write(&store, splice("k", offset, data)));
        assert_eq!(
            entry.writes[0].1.as_ref().unwrap().expires_at,
            Some(NOW + 5)
        );
        (entry.writes[0].1.clone().unwrap().data, outcome)
    };
    assert_eq!(
        spliced(None, "de"),
        (key("abcde"), WriteOutcome::Integer(5))
    );
    assert_eq!(
        spliced(Some(1), "X"),
        (key("aXc"), WriteOutcome::Integer(3))
    );
    assert_eq!(
        spliced(Some(5), "z"),
        (key("abc\0\0z"), WriteOutcome::Integer(6))
    );
    for too_long in [
        splice("k", None, "123456"),
        splice("k", Some(8), "1"),
        splice("k", Some(usize::MAX), "1"),
    ] {
        assert_eq!(
            write(&store, too_long),
            Evaluation::Refuse {
                outcome: WriteOutcome::TooLong
            }
        );
    }
    let (entry, outcome) = body(write(&[], splice("new", None, "")));
    assert_eq!(entry.writes, vec![(key("new"), Some(value("", None)))]);
    assert_eq!(outcome, WriteOutcome::Integer(0));
    assert!(matches!(
        write(&[], splice("new", Some(3), "")),
        Evaluation::Refuse {
            outcome: WriteOutcome::Integer(0)
        }
    ));
}
