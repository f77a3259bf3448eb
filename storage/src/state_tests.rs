//! What applying does to a state.

use cairn_core::ids::{Epoch, Position};
use cairn_core::kv::{StoredValue, VersionedValue};

use super::*;
use crate::sim::MemStore;

const P: PartitionId = PartitionId(3);
const G: Generation = Generation(2);

fn write(head: Mark, epoch: u64, key: &'static str, value: Option<&'static str>) -> LogEntry {
    let body = EntryBody {
        writes: vec![(
            Bytes::from_static(key.as_bytes()),
            value.map(|value| StoredValue {
                expires_at: None,
                kind: 0,
                data: Bytes::from_static(value.as_bytes()),
            }),
        )],
        ..EntryBody::default()
    };
    LogEntry::after(head, Epoch(epoch), EntryKind::Write, body.encode())
}

fn value(store: &MemStore, key: &str) -> Option<(Position, Bytes)> {
    let stored = store.get(&data_key(G, key.as_bytes())).unwrap()?;
    let value = VersionedValue::decode(stored).unwrap();
    Some((value.version, value.value.data))
}

#[test]
fn of_writes_to_one_key_in_one_batch_the_last_one_stays() {
    let store = MemStore::new();
    let first = write(Mark::ZERO, 1, "k", Some("1"));
    let second = write(first.mark(), 1, "k", Some("2"));
    let third = write(second.mark(), 1, "gone", Some("x"));
    let fourth = write(third.mark(), 1, "gone", None);
    let log = [first, second.clone(), third, fourth.clone()];
    assert_eq!(apply_entries(&store, P, G, &log).unwrap(), fourth.mark());
    let expected = (second.position, Bytes::from_static(b"2"));
    assert_eq!(value(&store, "k"), Some(expected));
    assert_eq!(value(&store, "gone"), None);
    // Applied again, nothing changes.
    apply_entries(&store, P, G, &log).unwrap();
    assert_eq!(applied(&store, G).unwrap(), fourth.mark());
}

#[test]
fn the_expiry_index_follows_the_entries() {
    let store = MemStore::new();
    let key = Bytes::from_static(b"k");
    let entry = |head: Mark, expires_at: Option<u64>, unindexed: &[u64]| {
        let value = StoredValue {
            expires_at,
            kind: 0,
            data: Bytes::new(),
        };
        let body = EntryBody {
            writes: vec![(key.clone(), Some(value))],
            unindexed: unindexed
                .iter()
                .map(|second| ExpiryRow {
                    second: *second,
                    key: key.clone(),
                })
                .collect(),
            ..EntryBody::default()
        };
        LogEntry::after(head, Epoch(1), EntryKind::Write, body.encode())
    };
    let rows = || {
        let (from, to) = kind_range(G, Kind::Expiry);
        let mut rows = Vec::new();
        let scanned = store.scan_keys(&from, Some(&to), &mut |name| {
            let row = ExpiryRow::decode(&name.slice(KEY_PREFIX_BYTES..)).unwrap();
            assert_eq!(row.key, key);
            rows.push(row.second);
            true
        });
        scanned.unwrap();
        rows
    };
    let first = entry(Mark::ZERO, Some(1_500), &[]);
    let second = entry(first.mark(), Some(8_000), &[]);
    let third = entry(second.mark(), Some(9_000), &[2, 8, 9]);
    apply_entries(&store, P, G, &[first, second]).unwrap();
    assert_eq!(rows(), [2, 8]);
    // What a value needs comes after what leaves.
    apply_entries(&store, P, G, &[third]).unwrap();
    assert_eq!(rows(), [9]);
}

#[test]
fn an_entry_that_does_not_continue_the_state_is_refused_whole() {
    let store = MemStore::new();
    let first = write(Mark::ZERO, 1, "k", Some("1"));
    let stranger = write(Mark::ZERO, 1, "k", Some("other"));
    let behind = write(stranger.mark(), 1, "k", Some("2"));
    apply_entries(&store, P, G, std::slice::from_ref(&first)).unwrap();
    let error = apply_entries(&store, P, G, &[behind]).unwrap_err();
    assert!(matches!(error, ApplyError::Gap { .. }), "{error}");
    assert_eq!(applied(&store, G).unwrap(), first.mark());
}

#[test]
fn a_body_of_a_newer_format_is_refused() {
    let store = MemStore::new();
    let newer = Bytes::from_static(&[99, 0]);
    let entry = LogEntry::after(Mark::ZERO, Epoch(1), EntryKind::Write, newer);
    let error = apply_entries(&store, P, G, &[entry]).unwrap_err();
    assert!(matches!(error, ApplyError::Body { .. }), "{error}");
}

#[test]
fn the_lineage_holds_the_last_mark_of_each_epoch() {
    let store = MemStore::new();
    let mut head = Mark::ZERO;
    let mut expected = Vec::new();
    for epoch in [1, 4, 9] {
        let log: Vec<LogEntry> = (0..3)
            .map(|_| {
                let entry = write(head, epoch, "k", Some("v"));
                head = entry.mark();
                entry
            })
            .collect();
        // An applier that does not remember the epochs before reads them.
        apply_entries(&store, P, G, &log).unwrap();
        expected.push(head);
    }
    assert_eq!(lineage(&store, G).unwrap(), expected);
    let copy = Generation(7);
    store
        .write(&metadata_rows(copy, head, &expected, 0))
        .unwrap();
    assert_eq!(lineage(&store, copy).unwrap(), expected);
    assert_eq!(generations(&store).unwrap(), [G, copy]);
}

#[test]
fn dropping_a_generation_takes_its_mark_first_and_touches_no_other() {
    let store = MemStore::new();
    let entry = write(Mark::ZERO, 1, "k", Some("v"));
    for generation in [G, Generation(3)] {
        apply_entries(&store, P, generation, std::slice::from_ref(&entry)).unwrap();
    }
    let mut dropping = Dropping::new(G);
    assert!(dropping.step(&store, 1).unwrap());
    assert_eq!(applied(&store, G).unwrap(), Mark::ZERO);
    assert!(value(&store, "k").is_some());
    while dropping.step(&store, 1).unwrap() {}
    assert_eq!(generations(&store).unwrap(), [Generation(3)]);
    assert_eq!(applied(&store, Generation(3)).unwrap(), entry.mark());
}

/// A store that counts the keys that scans pass over, removed ones too, as one
/// does that keeps tombstones.
struct Tombstones {
    live: MemStore,
    removed: std::cell::RefCell<BTreeSet<Bytes>>,
    passed: std::cell::Cell<usize>,
}

impl Store for Tombstones {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.live.get(key)
    }

    fn write(&self, changes: &[StoreChange]) -> Result<(), StoreError> {
        let gone = changes.iter().filter(|(_, value)| value.is_none());
        let gone = gone.map(|(key, _)| key.clone());
        self.removed.borrow_mut().extend(gone);
        self.live.write(changes)
    }

    fn persist(&self) -> Result<(), StoreError> {
        self.live.persist()
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError> {
        let mut last = None;
        self.live.scan(from, to, &mut |key, value| {
            last = Some(key.clone());
            self.passed.set(self.passed.get() + 1);
            visit(key, value)
        })?;
        let removed = self.removed.borrow();
        let passed = removed
            .iter()
            .filter(|key| &key[..] >= from && last.as_ref().is_none_or(|last| *key < last))
            .count();
        self.passed.set(self.passed.get() + passed);
        Ok(())
    }
}

#[test]
fn dropping_a_generation_passes_over_no_key_twice() {
    let store = Tombstones {
        live: MemStore::new(),
        removed: std::cell::RefCell::default(),
        passed: std::cell::Cell::default(),
    };
    let keys = 1000;
    let rows: Vec<StoreChange> = (0..keys)
        .map(|n: u64| (table_key(G, Index(n)), Some(Bytes::from_static(b"row"))))
        .collect();
    store.write(&rows).unwrap();
    drop_generation(&store, G, 10).unwrap();
    assert_eq!(generations(&store.live).unwrap(), []);
    assert_eq!(store.passed.get(), rows.len());
}

#[test]
fn the_stamp_is_of_no_generation_and_outlives_them_all() {
    let store = MemStore::new();
    assert_eq!(stamp(&store).unwrap(), None);
    let identity = LogIdentity {
        cluster: "c".to_owned(),
        node: 1,
        incarnation: 2,
    };
    write_stamp(&store, &identity).unwrap();
    assert_eq!(generations(&store).unwrap(), []);
    drop_generation(&store, Generation(0), 10).unwrap();
    assert_eq!(stamp(&store).unwrap(), Some(identity));
}

#[test]
fn a_call_that_fails_leaves_the_lineage_and_what_is_staged_as_they_were() {
    let store = MemStore::new();
    let first = write(Mark::ZERO, 1, "k", Some("1"));
    let second = write(first.mark(), 2, "k", Some("2"));
    let stranger = write(first.mark(), 3, "k", Some("x"));
    let behind = write(stranger.mark(), 3, "k", Some("y"));
    let mut applier = Applier::default();
    applier
        .stage(&store, P, G, std::slice::from_ref(&first))
        .unwrap();
    let staged = applier.staged_bytes();
    applier
        .stage(&store, P, G, &[second.clone(), behind])
        .unwrap_err();
    assert_eq!(applier.staged_bytes(), staged);
    applier
        .stage(&store, P, G, std::slice::from_ref(&second))
        .unwrap();
    applier.commit(&store, &mut ()).unwrap();
    assert_eq!(lineage(&store, G).unwrap(), [first.mark(), second.mark()]);
}

/// Writes each of `steps` after the one before, in one call.
fn apply_all(
    store: &MemStore,
    mut head: Mark,
    steps: &[(&'static str, Option<&'static str>)],
) -> Mark {
    let mut log = Vec::new();
    for (key, value) in steps {
        let entry = write(head, 1, key, *value);
        head = entry.mark();
        log.push(entry);
    }
    apply_entries(store, P, G, &log).unwrap()
}

#[test]
fn keys_are_counted_as_they_come_and_go_however_batches_are_cut() {
    let steps = [
        ("a", Some("1")),
        ("b", Some("1")),
        ("a", Some("2")),
        ("c", None),
        ("b", None),
        ("b", Some("3")),
        ("c", Some("1")),
        ("a", None),
    ];
    for batch in 1..=steps.len() {
        let store = MemStore::new();
        let mut head = Mark::ZERO;
        for part in steps.chunks(batch) {
            head = apply_all(&store, head, part);
        }
        assert_eq!(keys(&store, G).unwrap(), 2, "batches of {batch}");
    }
}

#[test]
fn what_is_applied_again_after_a_crash_is_counted_once() {
    let store = MemStore::new();
    let head = apply_all(&store, Mark::ZERO, &[("a", Some("1"))]);
    store.persist().unwrap();
    let lost = [write(head, 1, "b", Some("1"))];
    apply_entries(&store, P, G, &lost).unwrap();
    assert_eq!(keys(&store, G).unwrap(), 2);
    store.lose_power(&mut |_| 0);
    assert_eq!(keys(&store, G).unwrap(), 1);
    apply_entries(&store, P, G, &lost).unwrap();
    assert_eq!(keys(&store, G).unwrap(), 2);
}

#[test]
fn a_state_without_a_count_of_its_mark_is_counted_anew() {
    let store = MemStore::new();
    let head = apply_all(&store, Mark::ZERO, &[("a", Some("1")), ("b", Some("1"))]);
    // As an earlier build leaves it: first without a count, then with one that it did
    // not keep up.
    store
        .write(&[(store_key(G, Kind::Meta, KEYS), None)])
        .unwrap();
    assert_eq!(keys(&store, G).unwrap(), 2);
    let wrong = key_count_row(G, Mark::ZERO, 77);
    store.write(&[wrong]).unwrap();
    assert_eq!(count_keys(&store, G).unwrap(), 2);
    let row = store.get(&store_key(G, Kind::Meta, KEYS)).unwrap().unwrap();
    assert_eq!(
        decode_key_count(&row).unwrap(),
        KeyCount { at: head, keys: 2 }
    );
    apply_all(&store, head, &[("c", Some("1"))]);
    assert_eq!(keys(&store, G).unwrap(), 3);
}

/// A store of which one generation's keys cannot be read.
struct Broken(MemStore, Generation);

impl Store for Broken {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.0.get(key)
    }

    fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        if generation_of_data(key) == Some(self.1) {
            return Err(StoreError {
                action: "read the state",
                reason: "a block is damaged".to_owned(),
                damaged: true,
            });
        }
        self.0.contains(key)
    }

    fn write(&self, changes: &[StoreChange]) -> Result<(), StoreError> {
        self.0.write(changes)
    }

    fn persist(&self) -> Result<(), StoreError> {
        self.0.persist()
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError> {
        self.0.scan(from, to, visit)
    }
}

/// Remembers what it was told.
#[derive(Default)]
struct Told {
    unreadable: Vec<Generation>,
    moved: Vec<(Generation, u64)>,
}

impl ApplyObserver for Told {
    fn unreadable(&mut self, generation: Generation, _: StoreError) {
        self.unreadable.push(generation);
    }

    fn moved(&mut self, generation: Generation, _: Mark, keys: u64) {
        self.moved.push((generation, keys));
    }
}

#[test]
fn a_state_that_cannot_be_read_keeps_no_other_from_being_written() {
    let broken = Generation(9);
    let store = Broken(MemStore::new(), broken);
    let mut applier = Applier::default();
    let entry = write(Mark::ZERO, 1, "k", Some("v"));
    for generation in [G, broken] {
        let log = std::slice::from_ref(&entry);
        applier.stage(&store, P, generation, log).unwrap();
    }
    let mut told = Told::default();
    applier.commit(&store, &mut told).unwrap();
    assert_eq!(told.unreadable, [broken]);
    assert_eq!(told.moved, [(G, 1)]);
    assert_eq!(applied(&store, G).unwrap(), entry.mark());
    assert_eq!(applied(&store, broken).unwrap(), Mark::ZERO);
    assert_eq!(generations(&store).unwrap(), [G]);
}
