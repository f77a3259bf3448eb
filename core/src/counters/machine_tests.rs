use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::super::Declared;
use super::*;
use crate::ids::{Epoch, Index};
use crate::kv::evaluate::{Evaluation, Evaluator};
use crate::kv::request::WriteRequest;
use crate::kv::{StoredValue, VersionedValue};

const KEY: &[u8] = b"c:views";

/// All keys, as one partition whose writes are judged by the real evaluator.
struct Store {
    values: BTreeMap<Bytes, VersionedValue>,
    evaluator: Evaluator,
    index: u64,
    now_ms: u64,
}

impl Store {
    fn new() -> Self {
        let mut evaluator = Evaluator::new(16);
        evaluator.set_counters(std::sync::Arc::new(Declared::parse("c:=4").unwrap()));
        Self {
            values: BTreeMap::new(),
            evaluator,
            index: 0,
            now_ms: 1_000_000,
        }
    }

    fn read(&self, key: &Bytes) -> Found {
        let stored = self.values.get(key)?;
        (!stored.value.expired(self.now_ms))
            .then(|| Value::of(stored.version, stored.value.clone()).unwrap())
    }

    fn write(&mut self, op: WriteOp) -> Answer {
        let request = WriteRequest {
            op,
            sequenced: None,
        };
        let values = &self.values;
        let bases = |key: &Bytes| Some(values.get(key).cloned());
        match self.evaluator.evaluate(self.now_ms, &request, &bases) {
            Evaluation::Propose { body, outcome } => {
                self.index += 1;
                let version = Position {
                    epoch: Epoch(1),
                    index: Index(self.index),
                };
                for (key, value) in body.writes {
                    match value {
                        Some(value) => self.values.insert(key, VersionedValue { version, value }),
                        None => self.values.remove(&key),
                    };
                }
                Answer::Wrote(outcome, version)
            }
            Evaluation::Refuse { outcome } => Answer::Wrote(
                outcome,
                Position {
                    epoch: Epoch(1),
                    index: Index(self.index),
                },
            ),
            Evaluation::IsCounter => Answer::Failed(RequestError::IsCounter),
            other => panic!("{other:?}"),
        }
    }

    /// An edition's encoded control.
    fn control(&self) -> Bytes {
        let control = Control {
            edition: 3,
            stripes: 4,
            base: 0,
            total: 0,
            counted_at_ms: self.now_ms,
        };
        control.encode()
    }

    fn put(&mut self, key: &[u8], data: &str) {
        let value = StoredValue {
            expires_at: None,
            kind: crate::kv::body::KIND_STRING,
            data: Bytes::from(data.to_owned()),
        };
        let version = Position {
            epoch: Epoch(1),
            index: Index(self.index),
        };
        let stored = VersionedValue { version, value };
        self.values.insert(Bytes::copy_from_slice(key), stored);
    }
}

/// A machine, and the calls of it that nobody has answered.
struct Running {
    machine: Machine,
    calls: Vec<Asked>,
    /// Calls that were carried out, and whose answers are on their way.
    answers: VecDeque<(u16, Answer)>,
    done: Option<Result<Done, Failure>>,
}

struct World {
    store: Store,
    running: Vec<Running>,
    random: u64,
    /// One call in so many is lost: before or after it took effect.
    loses: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            store: Store::new(),
            running: Vec::new(),
            random: seed | 1,
            loses: 0,
        }
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn start(&mut self, machine: Machine) -> usize {
        self.running.push(Running {
            machine,
            calls: Vec::new(),
            answers: VecDeque::new(),
            done: None,
        });
        let at = self.running.len() - 1;
        self.step(at, None);
        at
    }

    fn step(&mut self, at: usize, answer: Option<(u16, Answer)>) {
        let draw = self.draw();
        let near = draw & 0xff;
        let with = Environment {
            now_ms: self.store.now_ms,
            is_near: &|slot| u64::from(slot) & 0xff < near,
            draw,
        };
        let running = &mut self.running[at];
        match running.machine.step(&with, answer) {
            Step::Ask(asked) => running.calls.extend(asked),
            Step::Done(result) => running.done = Some(result),
        }
    }

    /// Carries out one call of somebody, or brings one answer. False: nothing is left.
    fn turn(&mut self) -> bool {
        let open: Vec<usize> = (0..self.running.len())
            .filter(|at| self.running[*at].done.is_none())
            .collect();
        if open.is_empty() {
            return false;
        }
        let at = open[(self.draw() % open.len() as u64) as usize];
        let draw = self.draw();
        let running = &mut self.running[at];
        let calls = running.calls.len();
        if calls > 0 && (running.answers.is_empty() || draw & 1 == 0) {
            let Asked { token, call } = running.calls.swap_remove((draw >> 1) as usize % calls);
            let lost = self.loses > 0 && (draw >> 20).is_multiple_of(self.loses);
            let answer = match call {
                Call::Read(key) => Answer::Found(self.store.read(&key)),
                Call::Pause(_) => Answer::Paused,
                Call::Write(_) if lost && draw & 2 == 0 => Answer::Failed(RequestError::Unknown),
                Call::Write(op) => {
                    let answer = self.store.write(op);
                    if lost {
                        Answer::Failed(RequestError::Unknown)
                    } else {
                        answer
                    }
                }
            };
            self.running[at].answers.push_back((token, answer));
        } else if let Some(answer) = running.answers.pop_front() {
            self.step(at, Some(answer));
        }
        true
    }

    fn finish(&mut self) {
        for _ in 0..2_000_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("it does not end");
    }

    fn run(&mut self, machine: Machine) -> Result<Done, Failure> {
        let at = self.start(machine);
        self.finish();
        self.running[at].done.clone().unwrap()
    }

    fn nonce(&mut self) -> u64 {
        self.draw()
    }

    fn add(&mut self, delta: i64, stripes: u16, cached: Option<Learned>) -> Machine {
        let nonce = self.nonce();
        Machine::add(Bytes::from_static(KEY), delta, stripes, nonce, cached)
    }

    fn change(&mut self, op: WriteOp) -> Machine {
        let nonce = self.nonce();
        Machine::change(Bytes::from_static(KEY), op, 4, nonce)
    }

    fn value(&mut self) -> Option<String> {
        self.loses = 0;
        let nonce = self.nonce();
        let read = Machine::read(Bytes::from_static(KEY), 4, nonce);
        match self.run(read) {
            Ok(Done::Read(found)) => {
                found.map(|value| String::from_utf8(value.data.to_vec()).unwrap())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn set(value: &'static str) -> WriteOp {
    WriteOp::Set {
        key: Bytes::from_static(KEY),
        value: Bytes::from_static(value.as_bytes()),
        condition: Condition::Always,
        expiry: Expiry::Never,
        return_previous: true,
    }
}

fn delete() -> WriteOp {
    WriteOp::Delete {
        key: Bytes::from_static(KEY),
        condition: Condition::Always,
    }
}

fn expire(expiry: Expiry) -> WriteOp {
    WriteOp::Expire {
        key: Bytes::from_static(KEY),
        expiry,
        condition: crate::kv::request::ExpiryCondition::Always,
        return_value: false,
    }
}

#[test]
fn a_plain_integer_becomes_a_counter_that_adds_up() {
    let mut world = World::new(7);
    world.store.put(KEY, "40");
    for delta in [1, 2, -1] {
        let add = world.add(delta, 4, None);
        assert!(matches!(
            world.run(add),
            Ok(Done::Wrote {
                outcome: WriteOutcome::Integer(_),
                ..
            })
        ));
    }
    assert_eq!(world.value().as_deref(), Some("42"));
    let stored = world.store.read(&Bytes::from_static(KEY)).unwrap();
    assert_eq!(stored.counter.unwrap().stripes, 4);
    assert_eq!(stored.data, "41", "as it began");
}

#[test]
fn what_is_no_integer_stays_as_it_is() {
    let mut world = World::new(7);
    world.store.put(KEY, "forty");
    let add = world.add(1, 4, None);
    let Ok(Done::Wrote { outcome, .. }) = world.run(add) else {
        panic!("not judged");
    };
    assert_eq!(outcome, WriteOutcome::NotAnInteger);
    assert_eq!(world.value().as_deref(), Some("forty"));
}

#[test]
fn a_counter_is_set_deleted_and_expired() {
    let mut world = World::new(11);
    for _ in 0..5 {
        let add = world.add(2, 4, None);
        world.run(add).unwrap();
    }
    let cached = {
        let mut probe = world.add(0, 4, None);
        let with = Environment {
            now_ms: 0,
            is_near: &|_| false,
            draw: 3,
        };
        probe.step(&with, None);
        let found = world.store.read(&Bytes::from_static(KEY));
        probe.step(&with, Some((0, Answer::Found(found))));
        probe.learned()
    };
    assert!(cached.is_some());
    let change = world.change(set("100"));
    let Ok(Done::Wrote { outcome, .. }) = world.run(change) else {
        panic!("not set");
    };
    let previous = Some(Bytes::from_static(b"10"));
    assert_eq!(outcome, WriteOutcome::Set { previous });
    assert_eq!(world.value().as_deref(), Some("100"));
    // Whoever still goes by the edition that has ended is refused by its seals.
    let add = world.add(5, 4, cached);
    world.run(add).unwrap();
    assert_eq!(world.value().as_deref(), Some("105"));

    let change = world.change(expire(Expiry::AtMillis(2_000_000)));
    world.run(change).unwrap();
    let add = world.add(1, 4, None);
    world.run(add).unwrap();
    assert_eq!(world.value().as_deref(), Some("106"));
    let found = world.store.read(&Bytes::from_static(KEY)).unwrap();
    assert_eq!(found.expires_at, Some(2_000_000));
    world.store.now_ms = 2_000_000;
    assert_eq!(world.value(), None);
    // Its stripes go as well, a day later.
    world.store.now_ms += SEALS_KEPT_MS;
    let left = world.store.values.values();
    assert_eq!(
        left.filter(|v| !v.value.expired(world.store.now_ms))
            .count(),
        0
    );
    let add = world.add(3, 4, None);
    world.run(add).unwrap();
    assert_eq!(world.value().as_deref(), Some("3"));

    let change = world.change(delete());
    world.run(change).unwrap();
    assert_eq!(world.value(), None);
    let add = world.add(4, 4, None);
    world.run(add).unwrap();
    assert_eq!(world.value().as_deref(), Some("4"));
}

#[test]
fn conditions_and_what_cannot_be_done() {
    let mut world = World::new(13);
    let add = world.add(9, 4, None);
    world.run(add).unwrap();
    let only_new = WriteOp::Set {
        key: Bytes::from_static(KEY),
        value: Bytes::from_static(b"1"),
        condition: Condition::Absent,
        expiry: Expiry::Never,
        return_previous: true,
    };
    let change = world.change(only_new);
    let Ok(Done::Wrote { outcome, .. }) = world.run(change) else {
        panic!("not judged");
    };
    let WriteOutcome::ConditionFailed { previous, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(previous, Some(Bytes::from_static(b"9")));
    let append = WriteOp::Splice {
        key: Bytes::from_static(KEY),
        offset: None,
        data: Bytes::from_static(b"1"),
        bytes_max: 100,
    };
    let change = world.change(append);
    assert_eq!(world.run(change), Err(RequestError::IsCounter));
    assert_eq!(world.value().as_deref(), Some("9"));
}

#[test]
fn a_counter_that_is_given_up_is_plain_again() {
    let mut world = World::new(17);
    for _ in 0..3 {
        let add = world.add(1, 4, None);
        world.run(add).unwrap();
    }
    let nonce = world.nonce();
    let recount = Machine::recount(Bytes::from_static(KEY), 0, 0, nonce);
    world.run(recount).unwrap();
    let found = world.store.read(&Bytes::from_static(KEY)).unwrap();
    assert_eq!(
        (found.counter, found.data),
        (None, Bytes::from_static(b"3"))
    );
    let add = world.add(1, 0, None);
    world.run(add).unwrap();
    assert_eq!(world.value().as_deref(), Some("4"));
}

#[test]
fn a_plain_integer_is_striped_when_it_is_added_up() {
    let mut world = World::new(23);
    world.store.put(KEY, "12");
    let nonce = world.nonce();
    let recount = Machine::recount(Bytes::from_static(KEY), 0, 8, nonce);
    let done = world.run(recount);
    assert_eq!(done, Ok(Done::Recounted(world.store.now_ms)));
    let found = world.store.read(&Bytes::from_static(KEY)).unwrap();
    assert_eq!(found.counter.map(|c| (c.stripes, c.base)), Some((8, 12)));
    assert_eq!(world.value().as_deref(), Some("12"));
    let other = Machine::recount(Bytes::from_static(b"c:other"), 0, 8, nonce);
    assert_eq!(world.run(other), Ok(Done::Recounted(u64::MAX)));
}

#[test]
fn overflow_is_told_and_nothing_is_lost() {
    let mut world = World::new(19);
    world.store.put(KEY, &(i64::MAX - 1).to_string());
    for _ in 0..2 {
        let add = world.add(1, 4, None);
        world.run(add).unwrap();
    }
    assert_eq!(world.value().as_deref(), Some("9223372036854775808"));
    let nonce = world.nonce();
    let recount = Machine::recount(Bytes::from_static(KEY), 0, 8, nonce);
    let Ok(Done::Wrote { outcome, .. }) = world.run(recount) else {
        panic!("not judged");
    };
    assert_eq!(outcome, WriteOutcome::Overflow);
    assert_eq!(world.value().as_deref(), Some("9223372036854775808"));
    let change = world.change(set("0"));
    world.run(change).unwrap();
    assert_eq!(world.value().as_deref(), Some("0"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Additions while the counter is spread otherwise, added up and given an expiry: none
    /// that was acknowledged is lost, none counts twice.
    #[test]
    fn what_was_acknowledged_is_in_the_sum(seed: u64, loses in prop::sample::select(vec![0u64, 8, 30])) {
        let mut world = World::new(seed);
        world.loses = loses;
        let mut adds = Vec::new();
        let mut cached = None;
        for round in 0..6 {
            for delta in 1..=4i64 {
                let stripes = [4, 1, 8, 0][(world.draw() % 4) as usize];
                let add = world.add(delta << (8 * (round % 3)), stripes, cached);
                adds.push((delta << (8 * (round % 3)), world.start(add)));
            }
            let nonce = world.nonce();
            let stripes = [4, 2, 8, 0, 1][(world.draw() % 5) as usize];
            world.start(Machine::recount(Bytes::from_static(KEY), 0, stripes, nonce));
            let expiry = [Expiry::Never, Expiry::AtMillis(9_000_000)][(world.draw() % 2) as usize];
            let change = world.change(expire(expiry));
            world.start(change);
            for _ in 0..world.draw() % 200 {
                world.turn();
            }
            if world.draw().is_multiple_of(2) {
                cached = world.running.iter().rev().find_map(|r| r.machine.learned());
            }
        }
        world.finish();
        let (mut sure, mut unsure) = (0, Vec::new());
        for (delta, at) in adds {
            match &world.running[at].done {
                Some(Ok(Done::Wrote { outcome: WriteOutcome::Integer(_), .. })) => sure += delta,
                Some(Err(RequestError::Unknown)) => unsure.push(delta),
                Some(Err(RequestError::Overloaded)) => {}
                other => panic!("{other:?}"),
            }
        }
        let value = world.value().unwrap_or_else(|| "0".to_owned());
        let value: i64 = value.parse().unwrap();
        prop_assert!(is_sum(value - sure, &unsure), "{value} {sure} {unsure:?}");
    }

    /// Additions while the counter is set: those before it are gone, those after it count.
    #[test]
    fn a_set_separates_what_came_before_from_what_came_after(seed: u64) {
        let mut world = World::new(seed);
        let mut cached = None;
        for n in 0..4i64 {
            let add = world.add(1 << n, 4, None);
            let at = world.start(add);
            world.finish();
            cached = cached.or(world.running[at].machine.learned());
        }
        let change = if world.draw().is_multiple_of(3) { world.change(delete()) } else { world.change(set("0")) };
        let set_at = world.start(change);
        let mut after = Vec::new();
        let mut during = Vec::new();
        for n in 4..24i64 {
            for _ in 0..world.draw() % 20 {
                world.turn();
            }
            let is_set = world.running[set_at].done.is_some();
            let kept = cached.filter(|_| world.draw().is_multiple_of(2));
            let add = world.add(1 << n, 4, kept);
            let at = world.start(add);
            if is_set { after.push((1 << n, at)) } else { during.push(1 << n) }
        }
        world.finish();
        prop_assert!(matches!(world.running[set_at].done, Some(Ok(_))));
        let value: i64 = world.value().unwrap_or_else(|| "0".to_owned()).parse().unwrap();
        let after: i64 = after.iter().map(|(delta, _)| *delta).sum();
        prop_assert!(is_sum(value - after, &during), "{value} {after} {during:?}");
    }

    /// Reads while one adds ones: each sees no fewer than were acknowledged before it began,
    /// no more than had begun when it ended, and no fewer than a read before it.
    #[test]
    fn reads_of_ones_are_in_order(seed: u64) {
        let mut world = World::new(seed);
        let add = world.add(0, 4, None);
        world.run(add).unwrap();
        let (mut begun, mut seen) = (0, 0);
        let mut adds = Vec::new();
        for _ in 0..8 {
            for _ in 0..3 {
                let stripes = [4, 8][(world.draw() % 2) as usize];
                let add = world.add(1, stripes, None);
                adds.push(world.start(add));
                begun += 1;
            }
            let acknowledged = adds.iter().filter(|at| world.running[**at].done.is_some()).count() as i64;
            let nonce = world.nonce();
            let read = world.start(Machine::read(Bytes::from_static(KEY), 4, nonce));
            let nonce = world.nonce();
            world.start(Machine::recount(Bytes::from_static(KEY), 0, [4, 8][(seed & 1) as usize], nonce));
            while world.running[read].done.is_none() {
                world.turn();
            }
            let Some(Ok(Done::Read(Some(value)))) = &world.running[read].done else { panic!() };
            let value: i64 = std::str::from_utf8(&value.data).unwrap().parse().unwrap();
            prop_assert!(acknowledged <= value && value <= begun, "{acknowledged} {value} {begun}");
            prop_assert!(seen <= value, "{seen} {value}");
            seen = value;
        }
    }
}

/// Whether some of the numbers add up to it.
fn is_sum(wanted: i64, of: &[i64]) -> bool {
    match of.split_first() {
        None => wanted == 0,
        Some((first, rest)) => is_sum(wanted, rest) || is_sum(wanted - first, rest),
    }
}

/// A key that is added to in the usual way, before each of the calls by which it is to become a
/// counter: its version never holds, and no addition is lost all the same.
#[test]
fn a_key_that_never_stands_still_is_striped_at_what_it_is() {
    let mut world = World::new(7);
    world.store.put(KEY, "0");
    let mut added = 0;
    let at = {
        let nonce = world.nonce();
        world.start(Machine::recount(Bytes::from_static(KEY), 0, 4, nonce))
    };
    for _ in 0..1_000 {
        let increment = WriteOp::Increment {
            key: Bytes::from_static(KEY),
            delta: 1,
        };
        if let Answer::Wrote(WriteOutcome::Integer(sum), _) = world.store.write(increment) {
            added += 1;
            assert_eq!(sum, added);
        }
        if !world.turn() {
            break;
        }
    }
    assert!(matches!(
        world.running[at].done,
        Some(Ok(Done::Recounted(_)))
    ));
    assert!(added < 50, "it took {added} additions");
    let nonce = world.nonce();
    let done = world.run(Machine::read(Bytes::from_static(KEY), 4, nonce));
    let Ok(Done::Read(Some(value))) = done else {
        panic!("{done:?}");
    };
    assert!(value.counter.is_some(), "{value:?}");
    assert_eq!(value.data, added.to_string());
}

#[test]
fn what_is_no_number_or_expires_is_not_made_a_counter() {
    let mut world = World::new(9);
    let adopt = |key: &'static [u8]| WriteOp::Adopt {
        key: Bytes::from_static(key),
        control: world.store.control(),
    };
    let (text, missing, other) = (adopt(KEY), adopt(b"c:none"), adopt(b"other"));
    world.store.put(KEY, "text");
    world.store.put(b"other", "5");
    for op in [text.clone(), missing, other] {
        let answer = world.store.write(op.clone());
        let Answer::Wrote(WriteOutcome::ConditionFailed { .. }, _) = answer else {
            panic!("{op:?}: {answer:?}");
        };
    }
    world.store.put(KEY, "5");
    let now = world.store.now_ms;
    let expire = WriteOp::Expire {
        key: Bytes::from_static(KEY),
        expiry: crate::kv::request::Expiry::AtMillis(now + 1_000),
        condition: crate::kv::request::ExpiryCondition::Always,
        return_value: false,
    };
    assert!(matches!(
        world.store.write(expire),
        Answer::Wrote(WriteOutcome::Set { .. }, _)
    ));
    let answer = world.store.write(text.clone());
    assert!(
        matches!(
            answer,
            Answer::Wrote(WriteOutcome::ConditionFailed { .. }, _)
        ),
        "{answer:?}"
    );
    world.store.put(KEY, "5");
    let made = world.store.write(text.clone());
    assert!(
        matches!(made, Answer::Wrote(WriteOutcome::Set { .. }, _)),
        "{made:?}"
    );
    // A counter is none that could become one.
    let again = world.store.write(text);
    assert!(
        matches!(
            again,
            Answer::Wrote(WriteOutcome::ConditionFailed { .. }, _)
        ),
        "{again:?}"
    );
}
