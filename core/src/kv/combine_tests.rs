//! Increments that become one entry must come to what they come to one by one.

use proptest::prelude::*;

use super::*;

/// Who gathers increments, as the primary does: in order, and everything else by itself.
struct Gatherer {
    partition: Partition,
    combined: Combined,
    /// The outcomes so far, by number.
    told: BTreeMap<usize, (WriteOutcome, Position)>,
    /// Those whose entry is to be proposed.
    joined: Vec<(usize, i64)>,
    /// How many entries had more than one increment.
    several: usize,
}

impl Gatherer {
    fn new() -> Self {
        Self {
            partition: Partition::new(),
            combined: Combined::default(),
            told: BTreeMap::new(),
            joined: Vec::new(),
            several: 0,
        }
    }

    fn write(&mut self, number: usize, request: &WriteRequest) {
        loop {
            let store = &self.partition.store;
            let bases = |key: &Bytes| Some(store.get(key).cloned());
            let (evaluator, now) = (&self.partition.evaluator, self.partition.now_ms);
            match evaluator.join(now, &mut self.combined, request, &bases) {
                Joined::Joined(sum) => return self.joined.push((number, sum)),
                Joined::Full => self.let_go(),
                Joined::Apart => break,
                Joined::NeedBase(keys) => panic!("all of {keys:?} are at hand"),
            }
        }
        self.let_go();
        let told = match self.partition.write(request) {
            Evaluation::Propose { outcome, .. } | Evaluation::Refuse { outcome } => {
                let head = self.partition.log.last();
                (outcome, head.map_or(Position::ZERO, |e| e.position))
            }
            Evaluation::Duplicate {
                outcome, version, ..
            } => (outcome, version),
            other => panic!("no outcome: {other:?}"),
        };
        self.told.insert(number, told);
    }

    fn let_go(&mut self) {
        let combined = std::mem::take(&mut self.combined);
        if combined.is_empty() {
            return;
        }
        assert_eq!(combined.len(), self.joined.len());
        self.several += usize::from(combined.len() > 1);
        let store = &self.partition.store;
        let bases = |key: &Bytes| Some(store.get(key).cloned());
        let (evaluator, now) = (&self.partition.evaluator, self.partition.now_ms);
        let entry = evaluator.conclude_combined(now, combined, &bases);
        self.partition.append(entry.body.clone());
        let position = self.partition.log.last().expect("appended").position;
        for (at, (number, sum)) in self.joined.drain(..).enumerate() {
            let version = entry.version(at, position);
            self.told
                .insert(number, (WriteOutcome::Integer(sum), version));
        }
    }

    fn entry(&self, index: usize) -> EntryBody {
        EntryBody::decode(self.partition.log[index].body.clone()).expect("our own body")
    }
}

fn sum(number: i64, index: u64) -> (WriteOutcome, Position) {
    (WriteOutcome::Integer(number), at(index))
}

#[test]
fn increments_without_names_are_one_put_of_the_last_value() {
    let mut gatherer = Gatherer::new();
    gatherer.partition.outcome(set("n", "40"));
    for (number, delta) in [(0, 1), (1, -3), (2, 4)] {
        gatherer.write(number, &plain(increment("n", delta)));
    }
    gatherer.let_go();
    assert_eq!(gatherer.partition.log.len(), 2);
    let put = EntryBody {
        writes: vec![(key("n"), Some(stored("42", None)))],
        ..EntryBody::default()
    };
    assert_eq!(gatherer.partition.log[1].body, put.encode());
    // No value in between was ever the key's: who had it is told the version before.
    let told = [sum(41, 1), sum(38, 1), sum(42, 2)];
    assert_eq!(gatherer.told.into_values().collect::<Vec<_>>(), told);
}

#[test]
fn a_condition_on_the_version_of_an_increment_sees_those_behind_it() {
    let mut gatherer = Gatherer::new();
    for number in 0..2 {
        gatherer.write(number, &plain(increment("n", 1)));
    }
    gatherer.let_go();
    let (_, first) = gatherer.told[&0];
    let (_, second) = gatherer.told[&1];
    let partition = &mut gatherer.partition;
    let reset = |version| set_if("n", "0", Condition::Version(version));
    assert!(matches!(
        partition.outcome(reset(first)),
        WriteOutcome::ConditionFailed { .. }
    ));
    assert!(matches!(
        partition.outcome(reset(second)),
        WriteOutcome::Set { .. }
    ));
}

#[test]
fn every_name_is_recorded_and_each_retry_answered_once() {
    let mut gatherer = Gatherer::new();
    gatherer.write(0, &plain(increment("n", 1)));
    for client in 1..=3 {
        gatherer.write(client, &named(increment("n", 10), client as u128, 1, 0));
    }
    gatherer.let_go();
    assert_eq!(gatherer.partition.log.len(), 1);
    let entry = gatherer.entry(0);
    assert_eq!(entry.writes, vec![(key("n"), Some(stored("31", None)))]);
    assert_eq!(entry.sequenced.len(), 3);
    assert_eq!(gatherer.partition.log[0].body[0], 2, "the format of old");
    for _ in 0..2 {
        for client in 1..=3u128 {
            let retry = named(increment("n", 10), client, 1, 0);
            let number = 10 + client as usize;
            gatherer.write(number, &retry);
            let original = gatherer.told[&(client as usize)].clone();
            assert_eq!(gatherer.told[&number], original);
        }
        gatherer.partition.apply(9);
    }
    assert_eq!(gatherer.partition.log.len(), 1);
    assert_eq!(
        gatherer.partition.outcome(increment("n", 0)),
        WriteOutcome::Integer(31)
    );
}

/// A retry that arrives before its original was proposed is answered by it.
#[test]
fn a_name_stands_in_an_entry_once() {
    let mut gatherer = Gatherer::new();
    let once = named(increment("n", 1), 7, 1, 0);
    gatherer.write(0, &once);
    gatherer.write(1, &once);
    gatherer.write(2, &named(increment("n", 1), 7, 2, 0));
    gatherer.let_go();
    assert_eq!(gatherer.told[&1], gatherer.told[&0]);
    assert_eq!(gatherer.told[&2], sum(2, 2));
}

/// The record that answers a retry with the entry's position must be of the last increment.
#[test]
fn nothing_without_a_name_follows_a_name_of_its_key() {
    let mut gatherer = Gatherer::new();
    gatherer.write(0, &named(increment("n", 1), 7, 1, 0));
    gatherer.write(1, &plain(increment("m", 1)));
    gatherer.write(2, &plain(increment("n", 1)));
    gatherer.let_go();
    let told = [sum(1, 1), sum(1, 1), sum(2, 2)];
    assert_eq!(gatherer.told.into_values().collect::<Vec<_>>(), told);
}

#[test]
fn what_changes_nothing_is_judged_by_itself() {
    let mut gatherer = Gatherer::new();
    gatherer.partition.outcome(set("w", "word"));
    gatherer.write(0, &plain(increment("n", i64::MAX)));
    gatherer.write(1, &plain(increment("n", 1)));
    gatherer.write(2, &plain(increment("w", 1)));
    gatherer.write(3, &plain(increment("n", -1)));
    gatherer.let_go();
    assert_eq!(gatherer.told[&0], sum(i64::MAX, 2));
    assert_eq!(gatherer.told[&1], (WriteOutcome::Overflow, at(2)));
    assert_eq!(gatherer.told[&2], (WriteOutcome::NotAnInteger, at(2)));
    assert_eq!(gatherer.told[&3], sum(i64::MAX - 1, 3));
}

#[test]
fn an_entry_takes_so_many_and_no_more() {
    let mut gatherer = Gatherer::new();
    for number in 0..2 * COMBINED_MAX + 1 {
        gatherer.write(number, &plain(increment("n", 1)));
    }
    gatherer.let_go();
    assert_eq!(gatherer.partition.log.len(), 3);
    assert_eq!(
        gatherer.told[&(2 * COMBINED_MAX)],
        sum(2 * COMBINED_MAX as i64 + 1, 3)
    );
}

#[derive(Clone, Debug)]
enum Step {
    Increment(usize, i64, Option<u64>),
    Set(usize, &'static str, Option<u64>),
    LetGo,
    Apply(usize),
    Later(u64),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..NAMES.len();
    let delta = prop_oneof![5 => -3i64..4, 1 => Just(i64::MAX), 1 => Just(i64::MIN)];
    let step = prop_oneof![
        12 => (name.clone(), delta, prop::option::of(0u64..30))
            .prop_map(|(name, delta, sequence)| Step::Increment(name, delta, sequence)),
        1 => (name, prop_oneof![Just("7"), Just("word")], prop::option::of(1u64..30))
            .prop_map(|(name, value, expires)| Step::Set(name, value, expires)),
        3 => Just(Step::LetGo),
        1 => (0usize..4).prop_map(Step::Apply),
        1 => (0u64..10).prop_map(Step::Later),
    ];
    prop::collection::vec(step, 0..80)
}

fn request(step: &Step, now: u64) -> Option<WriteRequest> {
    Some(match step {
        Step::Increment(name, delta, None) => plain(increment(NAMES[*name], *delta)),
        Step::Increment(name, delta, Some(sequence)) => {
            named(increment(NAMES[*name], *delta), 7, *sequence, 0)
        }
        Step::Set(name, value, expires) => plain(WriteOp::Set {
            key: key(NAMES[*name]),
            value: key(value),
            condition: Condition::Always,
            expiry: expires.map_or(Expiry::Never, |after| Expiry::AtMillis(now + after)),
            return_previous: false,
        }),
        Step::LetGo | Step::Apply(_) | Step::Later(_) => return None,
    })
}

/// What is in a store once all is applied, without versions, and its expiry index.
fn settled(partition: &mut Partition) -> (Vec<(Bytes, StoredValue)>, BTreeSet<ExpiryRow>) {
    partition.apply(usize::MAX);
    partition.sweep();
    partition.apply(usize::MAX);
    let values = partition.store.iter();
    let values = values.map(|(key, stored)| (key.clone(), stored.value.clone()));
    (values.collect(), partition.index.clone())
}

proptest! {
    #[test]
    fn combined_increments_come_to_what_single_ones_come_to(steps in steps()) {
        let mut single = Partition::new();
        let mut gatherer = Gatherer::new();
        let mut expected = BTreeMap::new();
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::LetGo => gatherer.let_go(),
                Step::Apply(count) => {
                    single.apply(*count);
                    gatherer.partition.apply(*count);
                }
                Step::Later(ms) => {
                    single.now_ms += ms;
                    gatherer.partition.now_ms += ms;
                }
                write => {
                    let request = request(write, single.now_ms).expect("a write");
                    let outcome = match single.write(&request) {
                        Evaluation::Propose { outcome, .. }
                        | Evaluation::Refuse { outcome }
                        | Evaluation::Duplicate { outcome, .. } => outcome,
                        other => panic!("no outcome: {other:?}"),
                    };
                    expected.insert(number, outcome);
                    gatherer.write(number, &request);
                }
            }
        }
        gatherer.let_go();
        let told = gatherer.told.iter();
        let told: BTreeMap<_, _> = told.map(|(n, (outcome, _))| (*n, outcome.clone())).collect();
        prop_assert_eq!(told, expected);
        prop_assert!(gatherer.partition.log.len() <= single.log.len());
        // The store holds the same, and so does the table, entry by entry or not.
        prop_assert_eq!(settled(&mut gatherer.partition), settled(&mut single));
        for sequence in 0..30 {
            let judge = |partition: &Partition| {
                let retry = named(increment("a", 1), 7, sequence, 0);
                match partition.evaluate(&retry) {
                    Evaluation::Duplicate { outcome, .. } => Some(outcome),
                    _ => None,
                }
            };
            prop_assert_eq!(judge(&gatherer.partition), judge(&single));
        }
    }
}

/// The property above is of entries that hold several increments, not of single ones.
#[test]
fn the_steps_above_make_entries_of_several() {
    let mut gatherer = Gatherer::new();
    for (number, name) in NAMES.into_iter().enumerate() {
        gatherer.write(number, &plain(increment(name, 1)));
    }
    gatherer.let_go();
    assert_eq!(gatherer.several, 1);
    assert_eq!(gatherer.entry(0).writes.len(), 3);
}
