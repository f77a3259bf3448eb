//! The state of partitions in the store: where it lies, and how entries change it.
//!
//! # Keys
//! Every key begins with its generation (u64, big-endian) and a byte that says what
//! it is: metadata, data, a row of the idempotence table or one of the expiry index. All
//! of a partition's state is in one keyspace and changes in one batch: data, table,
//! index, and the applied mark (rule 17). After a crash they have gone back together or
//! not at all.
//!
//! Generation 0 is no partition's: there lies the stamp that says whose store it is.
//!
//! # Applying
//! [`Applier`] stages committed entries of any number of partitions and hands them
//! to the store as one atomic batch. It checks that each entry continues the state
//! it is applied to, by checksum.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::kv::body::encode_stored;
use cairn_core::kv::{DecodeError as BodyError, EntryBody, ExpiryRow};
use cairn_core::replication::{EntryKind, Generation, LogEntry};

use crate::format::DecodeError;
use crate::format::mark::{LINEAGE_MAX, decode_lineage, decode_mark, encode_lineage, encode_mark};
use crate::format::segment_header::LogIdentity;
use crate::format::store_stamp::{decode_stamp, encode_stamp};
use crate::store::{Store, StoreChange, StoreError};

/// The bytes before the part of a key that is the client's.
pub const KEY_PREFIX_BYTES: usize = 9;

/// What a key of the store is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Kind {
    /// The applied mark and the lineage.
    Meta = 0,
    /// A client's key.
    Data = 1,
    /// A row of the idempotence table, under its index (u64, big-endian).
    Table = 2,
    /// A row of the expiry index, see [`ExpiryRow`]; its value is empty.
    Expiry = 3,
}

const APPLIED: &[u8] = b"applied";
const LINEAGE: &[u8] = b"lineage";
const STAMP: &[u8] = b"stamp";
/// Where rows about the store itself lie. No replica has this generation: a
/// partition's metadata names it where there is none.
const OF_THE_STORE: Generation = Generation(0);

/// A key of the store.
#[must_use]
pub fn store_key(generation: Generation, kind: Kind, key: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(KEY_PREFIX_BYTES + key.len());
    out.put_u64(generation.0);
    out.put_u8(kind as u8);
    out.put_slice(key);
    out.freeze()
}

/// The key of a client's key.
#[must_use]
pub fn data_key(generation: Generation, key: &[u8]) -> Bytes {
    store_key(generation, Kind::Data, key)
}

/// The key of a row of the idempotence table.
#[must_use]
pub fn table_key(generation: Generation, index: Index) -> Bytes {
    store_key(generation, Kind::Table, &index.0.to_be_bytes())
}

/// The key of a row of the expiry index.
#[must_use]
pub fn expiry_key(generation: Generation, row: &ExpiryRow) -> Bytes {
    store_key(generation, Kind::Expiry, &row.encode())
}

/// The first key of a generation, and the first key after it if there can be one.
#[must_use]
pub fn generation_range(generation: Generation) -> (Bytes, Option<Bytes>) {
    let begin = |number: u64| Bytes::copy_from_slice(&number.to_be_bytes());
    (begin(generation.0), generation.0.checked_add(1).map(begin))
}

/// The first key of a kind in a generation, and the first key after it.
#[must_use]
pub fn kind_range(generation: Generation, kind: Kind) -> (Bytes, Bytes) {
    let begin = store_key(generation, kind, b"");
    let mut end = BytesMut::from(&begin[..]);
    end[KEY_PREFIX_BYTES - 1] += 1;
    (begin, end.freeze())
}

/// Why the state could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The entry does not continue the state: one of them is damaged.
    #[error("entry {entry} of {partition} does not continue its state, which stands at {applied}")]
    Gap {
        /// Which partition.
        partition: PartitionId,
        /// The entry.
        entry: cairn_core::ids::Position,
        /// What the state holds.
        applied: cairn_core::ids::Position,
    },
    /// The entry's body cannot be read by this build.
    #[error("entry {entry} of {partition}: {source}")]
    Body {
        /// Which partition.
        partition: PartitionId,
        /// The entry.
        entry: cairn_core::ids::Position,
        /// Why.
        source: BodyError,
    },
}

fn unreadable(action: &'static str) -> impl FnOnce(DecodeError) -> StoreError {
    move |error| StoreError {
        action,
        reason: error.to_string(),
        // A newer build's row is as it was written; this build may only leave it alone.
        damaged: !matches!(error, DecodeError::Newer { .. }),
    }
}

/// The last mark that a generation has applied; [`Mark::ZERO`] for an empty one.
///
/// # Errors
/// See [`StoreError`].
pub fn applied(store: &dyn Store, generation: Generation) -> Result<Mark, StoreError> {
    match store.get(&store_key(generation, Kind::Meta, APPLIED))? {
        Some(bytes) => decode_mark(&bytes).map_err(unreadable("read an applied mark")),
        None => Ok(Mark::ZERO),
    }
}

/// The last mark of each epoch up to the applied one, oldest first, the newest of
/// them as far as kept.
///
/// # Errors
/// See [`StoreError`].
pub fn lineage(store: &dyn Store, generation: Generation) -> Result<Vec<Mark>, StoreError> {
    let mut lineage = past_epochs(store, generation)?;
    let applied = applied(store, generation)?;
    if applied != Mark::ZERO {
        lineage.push(applied);
    }
    Ok(lineage)
}

/// The lineage of the epochs before that of the applied mark.
fn past_epochs(store: &dyn Store, generation: Generation) -> Result<Vec<Mark>, StoreError> {
    match store.get(&store_key(generation, Kind::Meta, LINEAGE))? {
        Some(bytes) => decode_lineage(&bytes).map_err(unreadable("read a lineage")),
        None => Ok(Vec::new()),
    }
}

/// The metadata rows of a generation that holds everything up to the last mark of
/// `lineage`: the last step of installing a snapshot, so that a generation without
/// them was not finished.
#[must_use]
pub fn metadata_rows(generation: Generation, mark: Mark, lineage: &[Mark]) -> Vec<StoreChange> {
    let past: Vec<Mark> = lineage
        .iter()
        .copied()
        .filter(|m| m.index() < mark.index() && m.epoch() != mark.epoch())
        .collect();
    vec![
        (
            store_key(generation, Kind::Meta, LINEAGE),
            Some(Bytes::from(encode_lineage(&past))),
        ),
        (
            store_key(generation, Kind::Meta, APPLIED),
            Some(Bytes::from(encode_mark(mark))),
        ),
    ]
}

/// Whether a key, without its generation, is metadata, which a snapshot carries
/// beside its rows.
#[must_use]
pub fn is_metadata(key: &[u8]) -> bool {
    key.first() == Some(&(Kind::Meta as u8))
}

/// Whose store it is; `None` for one that was never stamped.
///
/// # Errors
/// See [`StoreError`]. What a newer build left is refused.
pub fn stamp(store: &dyn Store) -> Result<Option<LogIdentity>, StoreError> {
    store
        .get(&store_key(OF_THE_STORE, Kind::Meta, STAMP))?
        .map(|bytes| decode_stamp(&bytes).map_err(unreadable("read the store's stamp")))
        .transpose()
}

/// Writes whose store it is.
///
/// # Errors
/// See [`StoreError`].
pub fn write_stamp(store: &dyn Store, identity: &LogIdentity) -> Result<(), StoreError> {
    let row = Bytes::from(encode_stamp(identity));
    store.write(&[(store_key(OF_THE_STORE, Kind::Meta, STAMP), Some(row))])
}

/// Every generation that the store holds keys of, ascending.
///
/// # Errors
/// See [`StoreError`].
pub fn generations(store: &dyn Store) -> Result<Vec<Generation>, StoreError> {
    let mut found = Vec::new();
    let Some(mut from) = generation_range(OF_THE_STORE).1 else {
        return Ok(found);
    };
    loop {
        let mut first = None;
        store.scan_keys(&from, None, &mut |key| {
            first = key.first_chunk::<8>().map(|b| u64::from_be_bytes(*b));
            false
        })?;
        let Some(generation) = first else {
            return Ok(found);
        };
        found.push(Generation(generation));
        match generation_range(Generation(generation)).1 {
            Some(next) => from = next,
            None => return Ok(found),
        }
    }
}

/// Removes a generation, some keys at a time, so that whoever does it can look after
/// other things in between. Nothing may be written to the generation meanwhile.
///
/// The applied mark goes first, so that what is left is never taken for a state. Each
/// step goes on behind the last: a store may keep what was removed for a while, and
/// to pass over all of it again with every step would take the square of the keys.
#[derive(Clone, Debug)]
pub struct Dropping {
    from: Bytes,
    to: Option<Bytes>,
}

impl Dropping {
    /// Begins; nothing is removed yet.
    #[must_use]
    pub fn new(generation: Generation) -> Self {
        let (from, to) = generation_range(generation);
        if generation == OF_THE_STORE {
            // Nobody's generation has nothing to remove, and the stamp stays.
            return Self {
                to: Some(from.clone()),
                from,
            };
        }
        Self { from, to }
    }

    /// Removes the next `limit` keys; `true` while there may be more.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn step(&mut self, store: &dyn Store, limit: usize) -> Result<bool, StoreError> {
        let mut changes: Vec<StoreChange> = Vec::new();
        store.scan_keys(&self.from, self.to.as_deref(), &mut |key| {
            changes.push((key, None));
            changes.len() < limit
        })?;
        let Some((last, _)) = changes.last() else {
            return Ok(false);
        };
        let mut behind = BytesMut::with_capacity(last.len() + 1);
        behind.put_slice(last);
        behind.put_u8(0);
        store.write(&changes)?;
        self.from = behind.freeze();
        Ok(changes.len() >= limit)
    }
}

/// Removes a generation at once, by batches of `limit` keys.
///
/// # Errors
/// See [`StoreError`].
pub fn drop_generation(
    store: &dyn Store,
    generation: Generation,
    limit: usize,
) -> Result<(), StoreError> {
    let mut dropping = Dropping::new(generation);
    while dropping.step(store, limit)? {}
    Ok(())
}

/// Looks on while a batch is written; what keeps a cache true.
pub trait ApplyObserver {
    /// These changes are about to be written: nobody can see them yet.
    fn before(&mut self, changes: &[StoreChange]) {
        let _ = changes;
    }

    /// They were written: everybody sees them.
    fn after(&mut self, changes: &[StoreChange]) {
        let _ = changes;
    }

    /// The generation has come so far.
    fn moved(&mut self, generation: Generation, applied: Mark) {
        let _ = (generation, applied);
    }
}

impl ApplyObserver for () {}

/// How far a generation has come.
#[derive(Clone, Debug)]
struct Progress {
    applied: Mark,
    past: Vec<Mark>,
    /// Whether `past` changed since it was last written.
    lineage_dirty: bool,
}

/// Stages entries and writes them as one batch.
///
/// It is the only one that applies to the store: it remembers how far every
/// generation has come, so that each entry is checked without a read.
#[derive(Debug, Default)]
pub struct Applier {
    progress: BTreeMap<Generation, Progress>,
    /// The generations with something staged.
    staged: BTreeSet<Generation>,
    changes: Vec<StoreChange>,
    staged_bytes: usize,
}

impl Applier {
    /// Stages entries of a partition. Those at or below the applied index are passed
    /// over. Nothing is staged of a call that fails.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub fn stage(
        &mut self,
        store: &dyn Store,
        partition: PartitionId,
        generation: Generation,
        entries: &[LogEntry],
    ) -> Result<(), ApplyError> {
        let progress = match self.progress.entry(generation) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(new) => new.insert(Progress {
                applied: applied(store, generation)?,
                past: past_epochs(store, generation)?,
                lineage_dirty: false,
            }),
        };
        let staged_before = self.changes.len();
        let (applied_before, dirty_before) = (progress.applied, progress.lineage_dirty);
        // A lineage is long and changes with the epoch alone: only then is it copied.
        let mut past_before = None;
        let mut bytes = 0;
        for entry in entries {
            if entry.position.index <= progress.applied.index() {
                continue;
            }
            if entry.position.epoch != progress.applied.epoch() && past_before.is_none() {
                past_before = Some(progress.past.clone());
            }
            let result = stage_entry(progress, &mut self.changes, partition, generation, entry);
            if let Err(error) = result {
                progress.applied = applied_before;
                progress.lineage_dirty = dirty_before;
                if let Some(past) = past_before {
                    progress.past = past;
                }
                self.changes.truncate(staged_before);
                return Err(error);
            }
            bytes += entry.body.len() + 64;
        }
        if bytes > 0 {
            self.staged_bytes += bytes;
            self.staged.insert(generation);
        }
        Ok(())
    }

    /// Roughly how many bytes are staged.
    #[must_use]
    pub fn staged_bytes(&self) -> usize {
        self.staged_bytes
    }

    /// Of changes to the same key the last one stays. The batch is sorted, which the
    /// store likes too.
    fn settle(&mut self) {
        self.changes.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.changes.dedup_by(|later, earlier| {
            // `dedup_by` drops its first argument, the later of the two.
            let same = later.0 == earlier.0;
            if same {
                std::mem::swap(&mut earlier.1, &mut later.1);
            }
            same
        });
    }

    /// Writes what is staged, with the applied marks, as one batch.
    ///
    /// # Errors
    /// See [`ApplyError`]; the applier may not be used after it.
    pub fn commit(
        &mut self,
        store: &dyn Store,
        observer: &mut dyn ApplyObserver,
    ) -> Result<(), ApplyError> {
        self.settle();
        for generation in &self.staged {
            let Some(progress) = self.progress.get_mut(generation) else {
                continue;
            };
            self.changes.push((
                store_key(*generation, Kind::Meta, APPLIED),
                Some(Bytes::from(encode_mark(progress.applied))),
            ));
            if progress.lineage_dirty {
                self.changes.push((
                    store_key(*generation, Kind::Meta, LINEAGE),
                    Some(Bytes::from(encode_lineage(&progress.past))),
                ));
                progress.lineage_dirty = false;
            }
        }
        if self.changes.is_empty() {
            return Ok(());
        }
        observer.before(&self.changes);
        store.write(&self.changes)?;
        observer.after(&self.changes);
        self.changes.clear();
        self.staged_bytes = 0;
        for generation in std::mem::take(&mut self.staged) {
            if let Some(progress) = self.progress.get(&generation) {
                observer.moved(generation, progress.applied);
            }
        }
        Ok(())
    }

    /// Forgets a generation that is about to be dropped.
    pub fn forget(&mut self, generation: Generation) {
        self.progress.remove(&generation);
    }
}

fn stage_entry(
    progress: &mut Progress,
    changes: &mut Vec<StoreChange>,
    partition: PartitionId,
    generation: Generation,
    entry: &LogEntry,
) -> Result<(), ApplyError> {
    if !entry.follows(progress.applied) {
        return Err(ApplyError::Gap {
            partition,
            entry: entry.position,
            applied: progress.applied.position,
        });
    }
    match entry.kind {
        EntryKind::Barrier => {}
        EntryKind::Write => {
            let body =
                EntryBody::decode(entry.body.clone()).map_err(|source| ApplyError::Body {
                    partition,
                    entry: entry.position,
                    source,
                })?;
            for (key, value) in &body.writes {
                let value = value.as_ref().map(|v| encode_stored(entry.position, v));
                changes.push((data_key(generation, key), value));
            }
            for (comes, row) in body.expiry_rows() {
                changes.push((expiry_key(generation, &row), comes.then(Bytes::new)));
            }
            for (index, row) in body.table_rows(entry.position) {
                changes.push((table_key(generation, index), row));
            }
        }
    }
    let ended = progress.applied;
    if ended != Mark::ZERO && ended.epoch() != entry.position.epoch {
        progress.past.push(ended);
        let over = progress.past.len().saturating_sub(LINEAGE_MAX);
        progress.past.drain(..over);
        progress.lineage_dirty = true;
    }
    progress.applied = entry.mark();
    Ok(())
}

/// Applies entries of one partition at once: what [`Applier`] does in bulk.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply_entries(
    store: &dyn Store,
    partition: PartitionId,
    generation: Generation,
    entries: &[LogEntry],
) -> Result<Mark, ApplyError> {
    let mut applier = Applier::default();
    applier.stage(store, partition, generation, entries)?;
    applier.commit(store, &mut ())?;
    Ok(applied(store, generation)?)
}

#[cfg(test)]
mod tests {
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
        store.write(&metadata_rows(copy, head, &expected)).unwrap();
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
}
