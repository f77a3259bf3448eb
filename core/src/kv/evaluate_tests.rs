//! What the evaluator must do, a sentence each.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::ids::{Epoch, Mark};

const NOW: u64 = 1_000_000;

fn at(index: u64) -> Position {
    Position {
        epoch: Epoch(2),
        index: Index(index),
    }
}

fn key(name: &'static str) -> Bytes {
    Bytes::from_static(name.as_bytes())
}

fn stored(text: &str, expires_at: Option<u64>) -> StoredValue {
    StoredValue {
        expires_at,
        kind: KIND_STRING,
        data: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn set(name: &'static str, value: &'static str) -> WriteOp {
    WriteOp::Set {
        key: key(name),
        value: key(value),
        condition: Condition::Always,
        expiry: Expiry::Never,
        return_previous: false,
    }
}

fn set_if(name: &'static str, value: &'static str, condition: Condition) -> WriteOp {
    WriteOp::Set {
        key: key(name),
        value: key(value),
        condition,
        expiry: Expiry::Never,
        return_previous: true,
    }
}

fn increment(name: &'static str, delta: i64) -> WriteOp {
    WriteOp::Increment {
        key: key(name),
        delta,
    }
}

fn delete(name: &'static str) -> WriteOp {
    WriteOp::Delete {
        key: key(name),
        condition: Condition::Always,
    }
}

#[test]
fn nothing_is_done_blindly_to_a_counter_whose_prefix_is_not_known_yet() {
    let control = crate::counters::Control {
        edition: 1,
        stripes: 4,
        base: 0,
        total: 0,
        counted_at_ms: 0,
    };
    let counter = VersionedValue {
        version: at(3),
        value: StoredValue {
            expires_at: None,
            kind: KIND_COUNTER,
            data: control.encode(),
        },
    };
    let bases = |_: &Bytes| Some(Some(counter.clone()));
    let mut evaluator = Evaluator::new(16);
    evaluator.set_counters(Arc::new(Declared::unknown()));
    let batch = WriteOp::Batch {
        operations: vec![BatchOperation {
            key: key("a"),
            condition: Condition::Always,
            action: BatchAction::Put {
                value: key("1"),
                expiry: Expiry::Never,
            },
        }],
    };
    for op in [set("a", "1"), delete("a"), increment("a", 1), batch] {
        let evaluation = evaluator.evaluate(NOW, &plain(op), &bases);
        assert_eq!(evaluation, Evaluation::IsCounter);
    }
}

fn plain(op: WriteOp) -> WriteRequest {
    WriteRequest {
        op,
        sequenced: None,
    }
}

fn named(op: WriteOp, client: u128, sequence: u64, known: u64) -> WriteRequest {
    WriteRequest {
        op,
        sequenced: Some(Sequenced {
            client,
            sequence,
            known: at(known),
        }),
    }
}

/// A partition in small: a store that applies when told, and a log.
struct Partition {
    evaluator: Evaluator,
    store: BTreeMap<Bytes, VersionedValue>,
    /// The expiry index of the store.
    index: BTreeSet<ExpiryRow>,
    log: Vec<LogEntry>,
    applied: usize,
    now_ms: u64,
}

impl Partition {
    fn new() -> Self {
        let mut evaluator = Evaluator::new(100);
        evaluator.set_table(Table::new(), &[]).expect("empty");
        Self {
            evaluator,
            store: BTreeMap::new(),
            index: BTreeSet::new(),
            log: Vec::new(),
            applied: 0,
            now_ms: NOW,
        }
    }

    fn evaluate(&self, request: &WriteRequest) -> Evaluation {
        let bases = |key: &Bytes| Some(self.store.get(key).cloned());
        self.evaluator.evaluate(self.now_ms, request, &bases)
    }

    fn write(&mut self, request: &WriteRequest) -> Evaluation {
        let evaluation = self.evaluate(request);
        if let Evaluation::Propose { body, .. } = &evaluation {
            self.append(body.clone());
        }
        evaluation
    }

    fn append(&mut self, body: EntryBody) {
        let mark = self.log.last().map_or(Mark::ZERO, LogEntry::mark);
        let entry = LogEntry::after(mark, Epoch(2), EntryKind::Write, body.encode());
        self.evaluator.proposed(entry.position, body);
        self.log.push(entry);
    }

    fn outcome(&mut self, op: WriteOp) -> WriteOutcome {
        match self.write(&plain(op)) {
            Evaluation::Propose { outcome, .. } | Evaluation::Refuse { outcome } => outcome,
            other => panic!("no outcome: {other:?}"),
        }
    }

    /// What the primary does with what the store's expiry index names.
    fn sweep(&mut self) {
        let due: Vec<DueKey> = self.index.iter().cloned().map(DueKey::from).collect();
        let bases = |key: &Bytes| Some(self.store.get(key).cloned());
        if let Evaluation::Propose { body, .. } = self.evaluator.expire(self.now_ms, &due, &bases) {
            self.append(body);
        }
    }

    fn apply(&mut self, count: usize) {
        for entry in self.log.iter().skip(self.applied).take(count) {
            let body = EntryBody::decode(entry.body.clone()).expect("our own body");
            for (comes, row) in body.expiry_rows() {
                if comes {
                    self.index.insert(row);
                } else {
                    self.index.remove(&row);
                }
            }
            for (key, value) in body.writes {
                match value {
                    Some(value) => self.store.insert(
                        key,
                        VersionedValue {
                            version: entry.position,
                            value,
                        },
                    ),
                    None => self.store.remove(&key),
                };
            }
            self.applied += 1;
            self.evaluator.applied(entry.position.index);
        }
    }
}

#[test]
fn a_blind_set_needs_no_look_at_the_store() {
    let evaluator = Evaluator::new(10);
    let nothing_at_hand = |_: &Bytes| None;
    assert!(matches!(
        evaluator.evaluate(NOW, &plain(set("k", "v")), &nothing_at_hand),
        Evaluation::Propose { .. }
    ));
    assert_eq!(
        evaluator.evaluate(NOW, &plain(increment("k", 1)), &nothing_at_hand),
        Evaluation::NeedBase(vec![key("k")])
    );
    assert_eq!(
        evaluator.evaluate(NOW, &plain(delete("a")), &nothing_at_hand),
        Evaluation::NeedBase(vec![key("a")])
    );
}

#[test]
fn a_write_sees_those_before_it_that_are_not_applied() {
    let mut partition = Partition::new();
    assert_eq!(
        partition.outcome(increment("n", 5)),
        WriteOutcome::Integer(5)
    );
    assert_eq!(
        partition.outcome(increment("n", 2)),
        WriteOutcome::Integer(7)
    );
    partition.apply(1);
    assert_eq!(
        partition.outcome(increment("n", 1)),
        WriteOutcome::Integer(8)
    );
    partition.apply(9);
    assert_eq!(partition.evaluator.unapplied(), 0);
    assert!(!partition.evaluator.covers(&key("n")));
    assert_eq!(
        partition.outcome(increment("n", 1)),
        WriteOutcome::Integer(9)
    );
}

#[test]
fn increments_follow_redis() {
    let mut partition = Partition::new();
    partition.outcome(set("s", "word"));
    assert_eq!(
        partition.outcome(increment("s", 1)),
        WriteOutcome::NotAnInteger
    );
    partition.outcome(set("m", "9223372036854775807"));
    assert_eq!(partition.outcome(increment("m", 1)), WriteOutcome::Overflow);
    assert_eq!(
        partition.outcome(increment("m", -1)),
        WriteOutcome::Integer(i64::MAX - 1)
    );
    assert_eq!(
        partition.outcome(increment("n", i64::MIN)),
        WriteOutcome::Integer(i64::MIN)
    );
    assert_eq!(
        partition.outcome(increment("n", -1)),
        WriteOutcome::Overflow
    );
}

#[test]
fn an_increment_keeps_the_expiry() {
    let mut partition = Partition::new();
    partition.append(EntryBody {
        writes: vec![(key("n"), Some(stored("1", Some(NOW + 5))))],
        ..EntryBody::default()
    });
    let Evaluation::Propose { body, .. } = partition.write(&plain(increment("n", 1))) else {
        panic!("an increment is an entry");
    };
    assert_eq!(
        body.writes,
        vec![(key("n"), Some(stored("2", Some(NOW + 5))))]
    );
}

#[test]
fn a_delete_tells_whether_there_was_something() {
    let mut partition = Partition::new();
    partition.outcome(set("a", "1"));
    assert_eq!(
        partition.outcome(delete("a")),
        WriteOutcome::Deleted { count: 1 }
    );
    assert_eq!(
        partition.evaluate(&plain(delete("a"))),
        Evaluation::Refuse {
            outcome: WriteOutcome::Deleted { count: 0 }
        }
    );
}

#[test]
fn conditions_are_judged_against_the_head_of_the_log() {
    let mut partition = Partition::new();
    let absent = plain(set_if("k", "one", Condition::Absent));
    assert!(matches!(
        partition.write(&absent),
        Evaluation::Propose { .. }
    ));
    assert_eq!(
        partition.evaluate(&absent),
        Evaluation::Refuse {
            outcome: WriteOutcome::ConditionFailed {
                version: Some(at(1)),
                previous: Some(key("one")),
            }
        }
    );
    assert_eq!(
        partition.outcome(set_if("k", "two", Condition::Version(at(1)))),
        WriteOutcome::Set {
            previous: Some(key("one"))
        }
    );
    assert!(matches!(
        partition.outcome(set_if("k", "three", Condition::Version(at(1)))),
        WriteOutcome::ConditionFailed { .. }
    ));
    assert_eq!(
        partition.outcome(set_if("none", "x", Condition::Present)),
        WriteOutcome::ConditionFailed {
            version: None,
            previous: None
        }
    );
    let delete_old = WriteOp::Delete {
        key: key("k"),
        condition: Condition::Version(at(1)),
    };
    assert_eq!(
        partition.outcome(delete_old),
        WriteOutcome::ConditionFailed {
            version: Some(at(2)),
            previous: None
        }
    );
}

#[test]
fn an_expired_key_counts_as_absent_and_is_deleted_by_the_entry_that_says_so() {
    let mut partition = Partition::new();
    for name in ["set", "incr", "del", "xx"] {
        partition.append(EntryBody {
            writes: vec![(key(name), Some(stored("7", Some(NOW))))],
            ..EntryBody::default()
        });
    }
    assert_eq!(
        partition.outcome(set_if("set", "new", Condition::Absent)),
        WriteOutcome::Set { previous: None }
    );
    assert_eq!(
        partition.outcome(increment("incr", 1)),
        WriteOutcome::Integer(1)
    );
    let Evaluation::Propose { body, outcome } = partition.write(&plain(delete("del"))) else {
        panic!("judged by a clock, so it is an entry");
    };
    assert_eq!(outcome, WriteOutcome::Deleted { count: 0 });
    assert_eq!(body.writes, vec![(key("del"), None)]);
    let xx = plain(set_if("xx", "new", Condition::Present));
    let Evaluation::Propose { body, outcome } = partition.write(&xx) else {
        panic!("judged by a clock, so it is an entry");
    };
    assert_eq!(
        outcome,
        WriteOutcome::ConditionFailed {
            version: None,
            previous: None
        }
    );
    assert_eq!(body.writes, vec![(key("xx"), None)]);
    assert!(matches!(partition.evaluate(&xx), Evaluation::Refuse { .. }));
}

#[test]
fn a_read_past_the_expiry_deletes_once_and_only_what_is_past() {
    let mut partition = Partition::new();
    partition.append(EntryBody {
        writes: vec![(key("k"), Some(stored("v", Some(NOW))))],
        ..EntryBody::default()
    });
    let none = |_: &Bytes| None;
    let due = [DueKey {
        key: key("k"),
        row: None,
    }];
    let expire = |partition: &Partition| partition.evaluator.expire(NOW, &due, &none);
    let Evaluation::Propose { body, outcome } = expire(&partition) else {
        panic!("the key is there and expired");
    };
    assert_eq!(body.writes, vec![(key("k"), None)]);
    assert_eq!(outcome, WriteOutcome::Deleted { count: 1 });
    partition.append(body);
    assert!(matches!(expire(&partition), Evaluation::Refuse { .. }));
    partition.outcome(set("k", "newer"));
    assert!(matches!(expire(&partition), Evaluation::Refuse { .. }));
}

#[test]
fn a_value_that_is_set_past_its_time_is_a_deletion() {
    let mut partition = Partition::new();
    let op = |expiry| WriteOp::Set {
        key: key("k"),
        value: key("v"),
        condition: Condition::Always,
        expiry,
        return_previous: false,
    };
    let writes = |evaluation| match evaluation {
        Evaluation::Propose { body, .. } => body.writes,
        other => panic!("a set is an entry: {other:?}"),
    };
    let past = partition.write(&plain(op(Expiry::AtMillis(NOW))));
    assert_eq!(writes(past), vec![(key("k"), None)]);
    let future = partition.write(&plain(op(Expiry::AtMillis(NOW + 9))));
    assert_eq!(
        writes(future),
        vec![(key("k"), Some(stored("v", Some(NOW + 9))))]
    );
    let keep = partition.write(&plain(op(Expiry::Keep)));
    assert_eq!(
        writes(keep),
        vec![(key("k"), Some(stored("v", Some(NOW + 9))))]
    );
    let never = partition.write(&plain(op(Expiry::Never)));
    assert_eq!(writes(never), vec![(key("k"), Some(stored("v", None)))]);
}

// Rule 8, sentence by sentence.

#[test]
fn a_retry_of_an_increment_is_applied_once() {
    let mut partition = Partition::new();
    let first = named(increment("n", 5), 1, 1, 0);
    assert!(matches!(
        partition.write(&first),
        Evaluation::Propose { .. }
    ));
    let duplicate = Evaluation::Duplicate {
        outcome: WriteOutcome::Integer(5),
        position: at(1),
        version: at(1),
    };
    // Judged against the whole log: before it is applied, and after.
    assert_eq!(partition.write(&first), duplicate);
    partition.apply(1);
    assert_eq!(partition.write(&first), duplicate);
    assert_eq!(
        partition.outcome(increment("n", 0)),
        WriteOutcome::Integer(5)
    );
}

#[test]
fn a_retry_of_a_compare_and_set_gets_its_first_answer() {
    let mut partition = Partition::new();
    partition.outcome(set("k", "a"));
    let swap = named(set_if("k", "b", Condition::Version(at(1))), 1, 1, 0);
    assert!(matches!(partition.write(&swap), Evaluation::Propose { .. }));
    partition.outcome(set("k", "c"));
    assert_eq!(
        partition.write(&swap),
        Evaluation::Duplicate {
            outcome: WriteOutcome::Set {
                previous: Some(key("a"))
            },
            position: at(2),
            version: at(2)
        }
    );
}

#[test]
fn a_refusal_that_carries_a_sequence_is_an_entry() {
    let mut partition = Partition::new();
    let refused = named(set_if("k", "v", Condition::Present), 1, 1, 0);
    let Evaluation::Propose { body, outcome } = partition.write(&refused) else {
        panic!("a sequenced refusal is an entry");
    };
    assert!(body.writes.is_empty());
    assert_eq!(body.sequenced[0].outcome, outcome);
    partition.outcome(set("k", "v"));
    // Were it judged anew, the condition would hold now.
    assert_eq!(
        partition.write(&refused),
        Evaluation::Duplicate {
            outcome,
            position: at(1),
            version: at(1)
        }
    );
}

#[test]
fn a_retry_that_cannot_be_judged_is_refused_and_never_applied() {
    let mut partition = Partition::new();
    partition.evaluator.set_window(2);
    for sequence in 1..=4 {
        // The client learns each answer before it goes on.
        partition.write(&named(increment("n", 1), 1, sequence, sequence - 1));
    }
    assert_eq!(
        partition.write(&named(increment("n", 1), 1, 1, 0)),
        Evaluation::Unjudged
    );
    assert_eq!(
        partition.write(&named(increment("n", 1), 9, 1, 1)),
        Evaluation::Unjudged
    );
    assert!(matches!(
        partition.write(&named(increment("n", 1), 9, 1, 2)),
        Evaluation::Propose { .. }
    ));
    assert_eq!(
        partition.outcome(increment("n", 0)),
        WriteOutcome::Integer(5)
    );
}

#[test]
fn without_the_table_no_sequenced_write_is_judged() {
    let mut evaluator = Evaluator::new(10);
    let absent = |_: &Bytes| Some(None);
    let write = named(increment("n", 1), 1, 1, 0);
    assert_eq!(
        evaluator.evaluate(NOW, &write, &absent),
        Evaluation::NeedTable
    );
    assert!(matches!(
        evaluator.evaluate(NOW, &plain(increment("n", 1)), &absent),
        Evaluation::Propose { .. }
    ));
    evaluator.set_table(Table::new(), &[]).expect("empty");
    assert!(matches!(
        evaluator.evaluate(NOW, &write, &absent),
        Evaluation::Propose { .. }
    ));
}

#[test]
fn the_table_survives_a_promotion() {
    let mut old = Partition::new();
    let write = named(increment("n", 5), 1, 1, 0);
    old.write(&write);
    old.write(&named(increment("n", 5), 1, 2, 0));
    old.apply(1);
    // The successor has one entry in its store and one in its log alone.
    let rows = EntryBody::decode(old.log[0].body.clone())
        .expect("our own body")
        .table_rows(old.log[0].position)
        .into_iter()
        .filter_map(|(index, row)| Some((index, row?)));
    let mut evaluator = Evaluator::new(100);
    evaluator.inherit(&old.log[1..]).expect("our own bodies");
    evaluator
        .set_table(Table::from_rows(rows).expect("our own rows"), &old.log[1..])
        .expect("our own bodies");
    let new = Partition { evaluator, ..old };
    for sequence in 1..=2 {
        assert!(matches!(
            new.evaluate(&named(increment("n", 5), 1, sequence, 0)),
            Evaluation::Duplicate { .. }
        ));
    }
    assert!(matches!(
        new.evaluate(&plain(increment("n", 0))),
        Evaluation::Propose {
            outcome: WriteOutcome::Integer(10),
            ..
        }
    ));
}

#[path = "combine_tests.rs"]
mod combined;
#[path = "evaluate_model_tests.rs"]
mod model;
