//! The state of partitions in the store: where it lies, and how entries change it.
//!
//! # Keys
//! Every key begins with its generation (u64, big-endian) and a byte that says what
//! it is: metadata, data, a row of the idempotence table or one of the expiry index. All
//! of a partition's state is in one keyspace and changes in one batch: data, table,
//! index, the number of keys and the applied mark (rule 17). After a crash they have gone back together or
//! not at all.
//!
//! Generation 0 is no partition's: there lies the stamp that says whose store it is.
//!
//! # Applying
//! [`Applier`] stages committed entries of any number of partitions and hands them
//! to the store as one atomic batch. It checks that each entry continues the state
//! it is applied to, by checksum, and counts the keys that come and go.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::kv::body::encode_stored;
use cairn_core::kv::{DecodeError as BodyError, EntryBody, ExpiryRow};
use cairn_core::replication::{EntryKind, Generation, LogEntry};
use cairn_core::seeded::{Bug, is_seeded};

use crate::format::DecodeError;
use crate::format::key_count::{KeyCount, decode_key_count, encode_key_count};
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
    /// The applied mark, the lineage and the number of keys.
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
const KEYS: &[u8] = b"keys";
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

/// How many of the clients' keys a generation holds, those past their expiry that are
/// not removed yet included. Where no count of the applied mark stands in the store,
/// as an earlier build left it, the keys are counted one by one.
///
/// # Errors
/// See [`StoreError`].
pub fn keys(store: &dyn Store, generation: Generation) -> Result<u64, StoreError> {
    let at = applied(store, generation)?;
    if at == Mark::ZERO {
        // Nothing was applied, or the generation is being dropped.
        return Ok(0);
    }
    let stored = store
        .get(&store_key(generation, Kind::Meta, KEYS))?
        .map(|bytes| decode_key_count(&bytes).map_err(unreadable("read a count of keys")))
        .transpose()?;
    if let Some(count) = stored.filter(|count| count.at == at) {
        return Ok(count.keys);
    }
    let (from, to) = kind_range(generation, Kind::Data);
    let mut keys = 0;
    store.scan_keys(&from, Some(&to), &mut |_| {
        keys += 1;
        true
    })?;
    Ok(keys)
}

/// The row that says how many keys a generation holds at a mark.
fn key_count_row(generation: Generation, at: Mark, keys: u64) -> StoreChange {
    let row = encode_key_count(KeyCount { at, keys });
    (
        store_key(generation, Kind::Meta, KEYS),
        Some(Bytes::from(row)),
    )
}

/// As [`keys`], and keeps a count that was taken one by one, so that the next one is
/// at hand. Nothing may be applied meanwhile.
///
/// # Errors
/// See [`StoreError`].
pub fn count_keys(store: &dyn Store, generation: Generation) -> Result<u64, StoreError> {
    let counted = keys(store, generation)?;
    let at = applied(store, generation)?;
    if at != Mark::ZERO {
        store.write(&[key_count_row(generation, at, counted)])?;
    }
    Ok(counted)
}

/// The metadata rows of a generation that holds `keys` keys and everything up to the
/// last mark of `lineage`: the last step of installing a snapshot, so that a generation
/// without them was not finished.
#[must_use]
pub fn metadata_rows(
    generation: Generation,
    mark: Mark,
    lineage: &[Mark],
    keys: u64,
) -> Vec<StoreChange> {
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
        key_count_row(generation, mark, keys),
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
    /// Whether the store has such a key, where that is known without a look at it.
    fn known(&self, key: &Bytes) -> Option<bool> {
        let _ = key;
        None
    }

    /// The state of the generation cannot be read, so that nothing more is applied to
    /// it, what was staged for it included.
    fn unreadable(&mut self, generation: Generation, error: StoreError) {
        let _ = (generation, error);
    }

    /// These changes are about to be written: nobody can see them yet.
    fn before(&mut self, changes: &[StoreChange]) {
        let _ = changes;
    }

    /// They were written: everybody sees them.
    fn after(&mut self, changes: &[StoreChange]) {
        let _ = changes;
    }

    /// The generation has come so far, and holds so many keys.
    fn moved(&mut self, generation: Generation, applied: Mark, keys: u64) {
        let _ = (generation, applied, keys);
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
    /// How many keys it held when it was last written.
    keys: u64,
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
                keys: keys(store, generation)?,
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

    /// Counts the keys that come and go with what is staged, which is settled: no key
    /// stands twice in it. An entry carries a result and does not say whether its key was
    /// there before, so that the store is asked. A generation whose keys cannot be read
    /// takes no part in the batch.
    fn count(&mut self, store: &dyn Store, observer: &mut dyn ApplyObserver) {
        let mut failed = BTreeSet::new();
        for (key, value) in &self.changes {
            let Some(generation) = generation_of_data(key).filter(|g| !failed.contains(g)) else {
                continue;
            };
            let Some(progress) = self.progress.get_mut(&generation) else {
                continue;
            };
            let existed = match observer.known(key) {
                Some(known) => known,
                None => match store.contains(key) {
                    Ok(existed) => existed,
                    Err(error) => {
                        observer.unreadable(generation, error);
                        failed.insert(generation);
                        continue;
                    }
                },
            };
            match (existed, value.is_some()) {
                (false, true) => progress.keys += 1,
                (true, false) => progress.keys = progress.keys.saturating_sub(1),
                (true, true) | (false, false) => {}
            }
        }
        for generation in failed {
            self.progress.remove(&generation);
            self.staged.remove(&generation);
            let prefix = generation.0.to_be_bytes();
            self.changes.retain(|(key, _)| !key.starts_with(&prefix));
        }
    }

    /// Writes what is staged, with the applied marks and the counts, as one batch.
    ///
    /// # Errors
    /// See [`ApplyError`]; the applier may not be used after it.
    pub fn commit(
        &mut self,
        store: &dyn Store,
        observer: &mut dyn ApplyObserver,
    ) -> Result<(), ApplyError> {
        self.settle();
        self.count(store, observer);
        let data = self.changes.len();
        for generation in &self.staged {
            let Some(progress) = self.progress.get_mut(generation) else {
                continue;
            };
            self.changes
                .push(key_count_row(*generation, progress.applied, progress.keys));
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
            self.staged_bytes = 0;
            return Ok(());
        }
        observer.before(&self.changes);
        if is_seeded(Bug::ApplyMarkApart) {
            store.write(&self.changes.split_off(data))?;
        }
        store.write(&self.changes)?;
        observer.after(&self.changes);
        self.changes.clear();
        self.staged_bytes = 0;
        for generation in std::mem::take(&mut self.staged) {
            if let Some(progress) = self.progress.get(&generation) {
                observer.moved(generation, progress.applied, progress.keys);
            }
        }
        Ok(())
    }

    /// Forgets a generation that is about to be dropped.
    pub fn forget(&mut self, generation: Generation) {
        self.progress.remove(&generation);
    }
}

/// The generation of a client's key; `None` for everything else.
#[must_use]
pub fn generation_of_data(key: &[u8]) -> Option<Generation> {
    let (prefix, rest) = key.split_first_chunk::<8>()?;
    (rest.first() == Some(&(Kind::Data as u8))).then(|| Generation(u64::from_be_bytes(*prefix)))
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
#[path = "state_tests.rs"]
mod tests;
