//! What the log's results come to must be what its operations come to.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, WriteOp),
    Apply(usize),
    Later(u64),
    /// Looks at what the expiry index of the store names, due or not.
    Sweep,
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn any_condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        2 => Just(Condition::Always),
        1 => Just(Condition::Absent),
        1 => Just(Condition::Present)
    ]
}

fn any_expiry() -> impl Strategy<Value = Expiry> {
    prop_oneof![
        Just(Expiry::Never),
        Just(Expiry::Keep),
        (NOW - 5..NOW + 50).prop_map(Expiry::AtMillis)
    ]
}

fn any_operation() -> impl Strategy<Value = BatchOperation> {
    let action = prop_oneof![
        (prop_oneof![Just("3"), Just("x")], any_expiry()).prop_map(|(text, expiry)| {
            BatchAction::Put {
                value: key(text),
                expiry,
            }
        }),
        Just(BatchAction::Delete),
        (-3i64..3).prop_map(|delta| BatchAction::Increment { delta }),
    ];
    (0usize..NAMES.len(), any_condition(), action).prop_map(|(n, condition, action)| {
        BatchOperation {
            key: key(NAMES[n]),
            condition,
            action,
        }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0usize..NAMES.len();
    let op = prop_oneof![
        (name.clone(), -3i64..3).prop_map(|(n, delta)| increment(NAMES[n], delta)),
        name.clone().prop_map(|n| delete(NAMES[n])),
        (name.clone(), any_condition(), any_expiry(), any::<bool>()).prop_map(
            |(n, condition, expiry, return_previous)| WriteOp::Set {
                key: key(NAMES[n]),
                value: key("3"),
                condition,
                expiry,
                return_previous,
            }
        ),
        (
            name.clone(),
            any_expiry(),
            prop::sample::select(vec![
                ExpiryCondition::Always,
                ExpiryCondition::Never,
                ExpiryCondition::Expires,
                ExpiryCondition::Later,
                ExpiryCondition::Sooner,
                ExpiryCondition::ExpiresSooner,
            ]),
            any::<bool>()
        )
            .prop_map(|(n, expiry, condition, return_value)| WriteOp::Expire {
                key: key(NAMES[n]),
                expiry,
                condition,
                return_value,
            }),
        (
            name,
            prop::option::of(0usize..5),
            prop_oneof![Just(""), Just("4")]
        )
            .prop_map(|(n, offset, data)| WriteOp::Splice {
                key: key(NAMES[n]),
                offset,
                data: key(data),
                bytes_max: 1000,
            }),
        prop::collection::vec(any_operation(), 0..5)
            .prop_map(|operations| WriteOp::Batch { operations }),
    ];
    let step = prop_oneof![
        6 => (0usize..4, op).prop_map(|(retry, op)| Step::Write(retry, op)),
        2 => (0usize..4).prop_map(Step::Apply),
        1 => (0u64..10).prop_map(Step::Later),
        1 => Just(Step::Sweep),
    ];
    prop::collection::vec(step, 0..60)
}

/// The operation of a batch as a write of its own, without its condition.
fn alone(BatchOperation { key, action, .. }: &BatchOperation) -> WriteOp {
    let key = key.clone();
    match action.clone() {
        BatchAction::Put { value, expiry } => WriteOp::Set {
            key,
            value,
            condition: Condition::Always,
            expiry,
            return_previous: false,
        },
        BatchAction::Delete => WriteOp::Delete {
            key,
            condition: Condition::Always,
        },
        BatchAction::Increment { delta } => WriteOp::Increment { key, delta },
    }
}

/// A map that runs operations one by one, as the meaning that the log must have.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Bytes, (String, Option<u64>)>,
}

impl Model {
    fn live(&mut self, now: u64, key: &Bytes) -> Option<(String, Option<u64>)> {
        let entry = self.keys.get(key)?.clone();
        if entry.1.is_some_and(|at| at <= now) {
            self.keys.remove(key);
            return None;
        }
        Some(entry)
    }

    fn expire(
        &mut self,
        now: u64,
        key: &Bytes,
        expiry: Expiry,
        condition: ExpiryCondition,
        return_value: bool,
    ) -> WriteOutcome {
        let Some((text, old)) = self.live(now, key) else {
            return WriteOutcome::ConditionFailed {
                version: None,
                previous: None,
            };
        };
        let previous = return_value.then(|| Bytes::copy_from_slice(text.as_bytes()));
        let new = match expiry {
            Expiry::Never => None,
            Expiry::Keep => old,
            Expiry::AtMillis(at) => Some(at),
        };
        let holds = match (condition, old, new) {
            (ExpiryCondition::Always, _, _) => true,
            (ExpiryCondition::Never, old, _) => old.is_none(),
            (ExpiryCondition::Expires, old, _) => old.is_some(),
            (ExpiryCondition::Later, Some(old), new) => new.is_none_or(|new| new > old),
            (ExpiryCondition::Later, None, _) => false,
            (ExpiryCondition::Sooner, None, new) => new.is_some(),
            (ExpiryCondition::ExpiresSooner, None, _) => false,
            (ExpiryCondition::Sooner | ExpiryCondition::ExpiresSooner, Some(old), new) => {
                new.is_some_and(|new| new < old)
            }
        };
        if !holds {
            return WriteOutcome::ConditionFailed {
                version: None,
                previous,
            };
        }
        self.keys.insert(key.clone(), (text, new));
        WriteOutcome::Set { previous }
    }

    fn batch(&mut self, now: u64, operations: &[BatchOperation]) -> WriteOutcome {
        for (at, BatchOperation { key, condition, .. }) in operations.iter().enumerate() {
            let live = self.live(now, key);
            let holds = match condition {
                Condition::Absent => live.is_none(),
                Condition::Present => live.is_some(),
                _ => true,
            };
            if !holds {
                let why = Box::new(WriteOutcome::ConditionFailed {
                    version: None,
                    previous: None,
                });
                return WriteOutcome::BatchRefused { at, why };
            }
        }
        let before = self.keys.clone();
        let mut outcomes = Vec::new();
        for (at, operation) in operations.iter().enumerate() {
            let outcome = self.run(now, &alone(operation));
            if outcome == WriteOutcome::NotAnInteger {
                self.keys = before;
                let why = Box::new(outcome);
                return WriteOutcome::BatchRefused { at, why };
            }
            outcomes.push(outcome);
        }
        WriteOutcome::Batch(outcomes)
    }

    fn run(&mut self, now: u64, op: &WriteOp) -> WriteOutcome {
        match op {
            WriteOp::Set {
                key,
                value,
                condition,
                expiry,
                return_previous,
            } => {
                let live = self.live(now, key);
                let previous = live
                    .as_ref()
                    .filter(|_| *return_previous)
                    .map(|(text, _)| Bytes::copy_from_slice(text.as_bytes()));
                let held = match condition {
                    Condition::Always => true,
                    Condition::Absent => live.is_none(),
                    Condition::Present => live.is_some(),
                    Condition::Version(_) => unreachable!("not generated"),
                };
                if !held {
                    return WriteOutcome::ConditionFailed {
                        version: None,
                        previous,
                    };
                }
                let at = match expiry {
                    Expiry::Never => None,
                    Expiry::Keep => live.and_then(|(_, at)| at),
                    Expiry::AtMillis(at) => Some(*at),
                };
                let text = String::from_utf8(value.to_vec()).expect("text");
                self.keys.insert(key.clone(), (text, at));
                WriteOutcome::Set { previous }
            }
            WriteOp::Delete { key, .. } => {
                let count = u64::from(self.live(now, key).is_some());
                self.keys.remove(key);
                WriteOutcome::Deleted { count }
            }
            WriteOp::Increment { key, delta } => {
                let (text, at) = self.live(now, key).unwrap_or(("0".to_owned(), None));
                // A number in another spelling than its own is none.
                let number = text.parse::<i64>().ok();
                let Some(number) = number.filter(|number| number.to_string() == text) else {
                    return WriteOutcome::NotAnInteger;
                };
                let number = number + delta;
                self.keys.insert(key.clone(), (number.to_string(), at));
                WriteOutcome::Integer(number)
            }
            WriteOp::Expire {
                key,
                expiry,
                condition,
                return_value,
            } => self.expire(now, key, *expiry, *condition, *return_value),
            WriteOp::Splice {
                key, offset, data, ..
            } => {
                let live = self.live(now, key);
                let (text, at) = live.clone().unwrap_or_default();
                if offset.is_some() && data.is_empty() {
                    return WriteOutcome::Integer(text.len() as i64);
                }
                let begin = offset.unwrap_or(text.len());
                let mut bytes = text.into_bytes();
                bytes.resize(bytes.len().max(begin + data.len()), b'\0');
                bytes[begin..begin + data.len()].copy_from_slice(data);
                let length = bytes.len() as i64;
                let text = String::from_utf8(bytes).expect("text");
                self.keys.insert(key.clone(), (text, at));
                WriteOutcome::Integer(length)
            }
            WriteOp::Batch { operations } => self.batch(now, operations),
            WriteOp::Establish { .. }
            | WriteOp::Adopt { .. }
            | WriteOp::Seal { .. }
            | WriteOp::Conclude { .. } => {
                unreachable!("not drawn")
            }
        }
    }
}

fn without_version(outcome: WriteOutcome) -> WriteOutcome {
    match outcome {
        WriteOutcome::ConditionFailed { previous, .. } => WriteOutcome::ConditionFailed {
            version: None,
            previous,
        },
        WriteOutcome::BatchRefused { at, why } => WriteOutcome::BatchRefused {
            at,
            why: Box::new(without_version(*why)),
        },
        other => other,
    }
}

proptest! {
    #[test]
    fn results_come_to_what_the_operations_come_to(steps in steps()) {
        let mut partition = Partition::new();
        let mut model = Model::default();
        for (sequence, step) in (1..).zip(steps) {
            match step {
                Step::Apply(count) => partition.apply(count),
                Step::Later(ms) => partition.now_ms += ms,
                Step::Sweep => partition.sweep(),
                Step::Write(retries, op) => {
                    let expected = model.run(partition.now_ms, &op);
                    if retries == 0 {
                        let outcome = partition.outcome(op);
                        prop_assert_eq!(without_version(outcome), expected);
                        continue;
                    }
                    let request = named(op, 7, sequence, 0);
                    for retry in 0..retries {
                        let outcome = match partition.write(&request) {
                            Evaluation::Propose { outcome, .. } if retry == 0 => outcome,
                            Evaluation::Duplicate { outcome, .. } if retry > 0 => outcome,
                            other => panic!("try {retry}: {other:?}"),
                        };
                        prop_assert_eq!(without_version(outcome), expected.clone());
                    }
                }
            }
        }
        partition.apply(usize::MAX);
        // Every value that expires has its row.
        for (key, stored) in &partition.store {
            if let Some(row) = ExpiryRow::of(key, &stored.value) {
                prop_assert!(partition.index.contains(&row), "no row {row:?}");
            }
        }
        // Nothing stale outlives a sweep, and nothing that is past.
        partition.sweep();
        partition.apply(usize::MAX);
        let rows: BTreeSet<ExpiryRow> = partition
            .store
            .iter()
            .filter_map(|(key, stored)| ExpiryRow::of(key, &stored.value))
            .collect();
        prop_assert_eq!(&partition.index, &rows);
        let now = partition.now_ms;
        let past = partition.store.values().filter(|v| v.value.expired(now)).count();
        prop_assert_eq!(past, 0);
        let live = |at: Option<u64>| at.is_none_or(|at| at > now);
        let state: Vec<_> = partition
            .store
            .iter()
            .filter(|(_, v)| live(v.value.expires_at))
            .map(|(k, v)| (k.clone(), v.value.data.clone()))
            .collect();
        let meaning: Vec<_> = model
            .keys
            .iter()
            .filter(|(_, (_, at))| live(*at))
            .map(|(k, (text, _))| (k.clone(), Bytes::copy_from_slice(text.as_bytes())))
            .collect();
        prop_assert_eq!(state, meaning);
    }
}
