//! What the checker accepts and what it must not: a checker that nobody saw reject
//! anything proves nothing.

use std::collections::BTreeMap;

use cairn_linear::kv::{Key, KeyOperation, Op, Output};
use cairn_linear::{Model, Verdict, check, check_keys};
use proptest::prelude::*;

const BOUND: usize = 1_000_000;

fn done(called: u64, returned: u64, op: Op, output: Output) -> KeyOperation {
    KeyOperation {
        client: 0,
        called,
        returned: Some((returned, output)),
        op,
    }
}

fn pending(called: u64, op: Op) -> KeyOperation {
    KeyOperation {
        client: 9,
        called,
        returned: None,
        op,
    }
}

fn get(called: u64, returned: u64, value: Option<i64>) -> KeyOperation {
    done(called, returned, Op::Get, Output::Value(value))
}

fn set(called: u64, returned: u64, value: i64) -> KeyOperation {
    done(called, returned, Op::Set(value), Output::Done)
}

fn add(called: u64, returned: u64, sum: i64) -> KeyOperation {
    done(called, returned, Op::Add(1), Output::Sum(sum))
}

fn holds(history: &[KeyOperation]) -> bool {
    match check(&Key, history, BOUND) {
        Verdict::Linearizable => true,
        Verdict::Violation(_) => false,
        Verdict::OutOfBound => panic!("out of bound"),
    }
}

#[test]
fn what_overlaps_may_take_effect_in_either_order() {
    assert!(holds(&[set(0, 10, 1), get(2, 4, None), get(5, 7, Some(1))]));
    assert!(holds(&[set(0, 10, 1), set(0, 10, 2), get(11, 12, Some(1))]));
    // But in one order for all.
    assert!(!holds(&[
        set(0, 10, 1),
        get(2, 4, Some(1)),
        get(5, 7, None)
    ]));
}

#[test]
fn a_stale_read_is_rejected() {
    let history = [set(0, 1, 1), set(2, 3, 2), get(4, 5, Some(1))];
    let Verdict::Violation(why) = check(&Key, &history, BOUND) else {
        panic!("accepted");
    };
    assert_eq!((why.ordered, why.completed), (2, 3));
    assert_eq!(why.state, "Some(2)");
    assert_eq!(
        why.stuck,
        ["client 0, 4..5: Get -> Value(Some(1))".to_owned()]
    );
}

#[test]
fn a_lost_write_is_rejected() {
    assert!(!holds(&[set(0, 1, 1), get(2, 3, None)]));
    assert!(!holds(&[
        set(0, 1, 1),
        done(2, 3, Op::Delete, Output::Changed(false))
    ]));
    assert!(!holds(&[
        set(0, 1, 1),
        done(2, 3, Op::SetIf(None, 5), Output::Changed(true))
    ]));
}

#[test]
fn an_increment_that_was_applied_twice_or_not_at_all_is_rejected() {
    assert!(holds(&[add(0, 1, 1), add(2, 3, 2)]));
    assert!(!holds(&[add(0, 1, 1), add(2, 3, 3)]));
    assert!(!holds(&[add(0, 1, 1), add(2, 3, 1)]));
    assert!(!holds(&[add(0, 9, 1), add(0, 9, 1)]));
}

#[test]
fn an_unknown_outcome_may_come_late_or_never_but_once() {
    let write = pending(0, Op::Set(7));
    for later in [
        vec![get(1, 2, None)],
        vec![get(1, 2, Some(7))],
        vec![set(1, 2, 1), get(3, 4, Some(1)), get(5, 6, Some(7))],
    ] {
        assert!(holds(&[vec![write.clone()], later].concat()));
    }
    // Never before its call, and not twice.
    assert!(!holds(&[get(0, 1, Some(7)), pending(2, Op::Set(7))]));
    assert!(!holds(&[
        write,
        get(1, 2, Some(7)),
        set(3, 4, 1),
        get(5, 6, Some(7))
    ]));
    let increment = pending(0, Op::Add(1));
    assert!(holds(&[increment.clone(), add(1, 2, 1), add(3, 4, 3)]));
    assert!(!holds(&[increment, add(1, 2, 1), add(3, 4, 4)]));
}

#[test]
fn a_call_at_the_moment_of_a_return_counts_as_at_the_same_time() {
    assert!(holds(&[set(0, 5, 1), get(5, 6, None)]));
    assert!(!holds(&[set(0, 5, 1), get(6, 7, None)]));
}

#[test]
fn many_writes_of_unknown_outcome_do_not_multiply_the_search() {
    let unknown = (0..60).map(|value| pending(0, Op::Set(1000 + value)));
    let mut history: Vec<KeyOperation> = unknown.collect();
    for at in 0..200 {
        let value = i64::try_from(at).expect("small");
        history.push(set(10 * at + 1, 10 * at + 2, value));
        history.push(get(10 * at + 3, 10 * at + 4, Some(value)));
    }
    assert!(matches!(
        check(&Key, &history, 50_000),
        Verdict::Linearizable
    ));
    // A stale read among them is a violation, not a search without end.
    history.push(get(5000, 5001, Some(3)));
    assert!(matches!(
        check(&Key, &history, 50_000),
        Verdict::Violation(_)
    ));
}

/// A generator that needs no crate: the histories are to be the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What clients of a correct store may see: each operation takes effect at one moment of
/// its time, and some never return, having taken effect late or not at all.
fn correct(
    clients: u32,
    keys: u64,
    operations: u64,
    one_unknown_in: u64,
    seed: u64,
) -> BTreeMap<u64, Vec<KeyOperation>> {
    let mut random = Random(seed);
    let mut planned: Vec<(u64, u64, u64, u32, Op, bool)> = Vec::new();
    let mut free = vec![0u64; clients as usize];
    for number in 0..operations {
        let client = random.below(u64::from(clients)) as usize;
        let called = free[client] + random.below(20);
        let effect = called + random.below(50);
        let returned = effect + random.below(50);
        free[client] = returned + 1;
        let op = match random.below(10) {
            0..4 => Op::Get,
            4..7 => Op::Set(1_000 * i64::try_from(number).expect("small")),
            7..9 => Op::Add(1),
            _ => Op::Delete,
        };
        let unknown = random.below(one_unknown_in) == 0;
        let effect = match unknown {
            true if random.below(2) == 0 => u64::MAX,
            true => effect + random.below(5000),
            false => effect,
        };
        let client = u32::try_from(client).expect("small");
        planned.push((effect, called, returned, client, op, unknown));
    }
    planned.sort_by_key(|plan| plan.0);
    let mut states: BTreeMap<u64, Option<i64>> = BTreeMap::new();
    let mut history: BTreeMap<u64, Vec<KeyOperation>> = BTreeMap::new();
    for (effect, called, returned, client, op, unknown) in planned {
        let key = random.below(keys);
        let state = states.entry(key).or_default();
        let before = *state;
        if effect != u64::MAX {
            *state = Key.step(state, &op, None).expect("always possible");
        }
        let output = match op {
            Op::Get => Output::Value(before),
            Op::Set(_) | Op::Expire(_) => Output::Done,
            Op::Add(_) => Output::Sum(state.unwrap_or(0)),
            Op::SetIf(..) => Output::Changed(*state != before),
            Op::Delete => Output::Changed(before.is_some()),
        };
        history.entry(key).or_default().push(KeyOperation {
            client,
            called,
            returned: (!unknown).then_some((returned, output)),
            op,
        });
    }
    history
}

#[test]
fn a_hundred_thousand_operations_are_judged_and_one_stale_read_among_them_is_found() {
    let mut history = correct(64, 200, 100_000, 100, 0x5EED);
    let summary = check_keys(&Key, &history, BOUND).expect("a correct store");
    assert_eq!(summary.completed + summary.unknown, 100_000);
    assert!(summary.unknown > 500, "{summary:?}");

    // One read of the middle key answers what a read long before it answered.
    let (&key, operations) = history.iter_mut().nth(100).expect("a key");
    operations.sort_by_key(|op| op.called);
    let reads: Vec<usize> = (0..operations.len())
        .filter(|at| matches!(operations[*at].returned, Some((_, Output::Value(Some(_))))))
        .collect();
    let (old, new) = (reads[reads.len() / 4], reads[reads.len() / 2]);
    let stale = operations[old].returned.map(|(_, output)| output);
    if let (Some((_, answer)), Some(stale)) = (&mut operations[new].returned, stale) {
        assert_ne!(*answer, stale);
        *answer = stale;
    }
    let rejected = check_keys(&Key, &history, BOUND).expect_err("a stale read");
    assert_eq!(rejected.key, key);
    assert!(
        matches!(rejected.verdict, Verdict::Violation(_)),
        "{rejected}"
    );
}

#[test]
fn a_hundred_thousand_operations_on_one_key_are_judged() {
    let history = correct(4, 1, 100_000, 5_000, 7);
    check_keys(&Key, &history, BOUND).expect("a correct store");
}

/// Whether some order explains a history, by trying every order: right by its looks.
fn by_trying_all(state: Option<i64>, left: &[KeyOperation]) -> bool {
    if left.iter().all(|op| op.returned.is_none()) {
        return true;
    }
    let first_return = left
        .iter()
        .filter_map(|op| op.returned.as_ref().map(|(at, _)| *at))
        .min();
    (0..left.len()).any(|at| {
        let op = &left[at];
        let output = op.returned.as_ref().map(|(_, output)| output);
        let mut rest = left.to_vec();
        rest.remove(at);
        first_return.is_none_or(|first| op.called <= first)
            && Key
                .step(&state, &op.op, output)
                .is_some_and(|next| by_trying_all(next, &rest))
    })
}

fn any_operation() -> impl Strategy<Value = KeyOperation> {
    let value = 0i64..3;
    let answer = prop_oneof![
        proptest::option::of(value.clone()).prop_map(|v| (Op::Get, Output::Value(v))),
        value.clone().prop_map(|v| (Op::Set(v), Output::Done)),
        (1i64..5).prop_map(|sum| (Op::Add(1), Output::Sum(sum))),
        (proptest::option::of(value.clone()), value, any::<bool>())
            .prop_map(|(old, new, did)| (Op::SetIf(old, new), Output::Changed(did))),
        any::<bool>().prop_map(|did| (Op::Delete, Output::Changed(did))),
    ];
    (0u64..12, 0u64..8, answer, 0u8..5).prop_map(|(called, length, (op, output), known)| {
        KeyOperation {
            client: 0,
            called,
            returned: (known > 0).then_some((called + length, output)),
            op,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn the_verdict_is_that_of_trying_every_order(
        history in proptest::collection::vec(any_operation(), 0..7)
    ) {
        prop_assert_eq!(holds(&history), by_trying_all(None, &history));
    }
}
