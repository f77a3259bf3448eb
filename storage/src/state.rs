//! The state of partitions in the store: where it lies, and how entries change it.
//!
//! # Keys
//! Every key begins with its generation (u64, big-endian) and a byte that says what
//! it is: metadata, data, or a row of the idempotence table. All of a partition's
//! state is in one keyspace and changes in one batch: data, table, and the applied
//! mark (rule 17). After a crash they have gone back together or not at all.
//!
//! # Applying
//! [`Applier`] stages committed entries of any number of partitions and hands them
//! to the store as one atomic batch. It checks that each entry continues the state
//! it is applied to, by checksum.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::kv::body::encode_stored;
use cairn_core::kv::{DecodeError as BodyError, EntryBody};
use cairn_core::replication::{EntryKind, Generation, LogEntry};

use crate::format::DecodeError;
use crate::format::mark::{LINEAGE_MAX, decode_lineage, decode_mark, encode_lineage, encode_mark};
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
}

const APPLIED: &[u8] = b"applied";
const LINEAGE: &[u8] = b"lineage";

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

/// Every generation that the store holds keys of, ascending.
///
/// # Errors
/// See [`StoreError`].
pub fn generations(store: &dyn Store) -> Result<Vec<Generation>, StoreError> {
    let mut found = Vec::new();
    let mut from = Bytes::new();
    loop {
        let mut first = None;
        store.scan(&from, None, &mut |key, _| {
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

/// Removes the next `limit` keys of a generation; `true` while there may be more.
/// The applied mark goes first, so that what is left is never taken for a state.
///
/// # Errors
/// See [`StoreError`].
pub fn drop_some(
    store: &dyn Store,
    generation: Generation,
    limit: usize,
) -> Result<bool, StoreError> {
    let (from, to) = generation_range(generation);
    let mut changes: Vec<StoreChange> = Vec::new();
    store.scan(&from, to.as_deref(), &mut |key, _| {
        changes.push((key, None));
        changes.len() < limit
    })?;
    if changes.is_empty() {
        return Ok(false);
    }
    store.write(&changes)?;
    Ok(changes.len() >= limit)
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
        let before = progress.clone();
        for entry in entries {
            if entry.position.index <= progress.applied.index() {
                continue;
            }
            let result = stage_entry(progress, &mut self.changes, partition, generation, entry);
            if let Err(error) = result {
                *progress = before;
                self.changes.truncate(staged_before);
                return Err(error);
            }
            self.staged_bytes += entry.body.len() + 64;
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
        assert!(drop_some(&store, G, 1).unwrap());
        assert_eq!(applied(&store, G).unwrap(), Mark::ZERO);
        assert!(value(&store, "k").is_some());
        while drop_some(&store, G, 1).unwrap() {}
        assert_eq!(generations(&store).unwrap(), [Generation(3)]);
        assert_eq!(applied(&store, Generation(3)).unwrap(), entry.mark());
    }
}
