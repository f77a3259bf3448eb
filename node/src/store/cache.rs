//! Values in memory, by key, bounded by bytes.
//!
//! # Never stale
//! Whoever saw an applied index published reads from the cache at least what that
//! index made:
//!
//! - The apply thread changes what the cache knows of the keys of a batch after the
//!   batch is in the store and before its indexes are published.
//! - A reader that missed read the store at some point in time. It may put what it
//!   read into the cache only if no batch that touches the key has *begun* since
//!   before it read: [`ValueCache::now`] is taken before the read, every batch first
//!   marks its keys as touched by itself, and marking and putting exclude each other.

use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cairn_core::replication::Generation;
use cairn_storage::state::{KEY_PREFIX_BYTES, Kind};
use cairn_storage::store::StoreChange;
use parking_lot::RwLock;
use quick_cache::{Equivalent, Weighter, sync::Cache};

/// How many marks of touched keys there are. Keys that share one keep each other out
/// for a moment, no more.
const MARKS: usize = 1 << 14;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 96;
/// Larger values are read from the store each time.
const VALUE_BYTES_MAX: usize = 256 << 10;

/// A key of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key(Bytes);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (prefix, key) = self.0.split_at(KEY_PREFIX_BYTES.min(self.0.len()));
        state.write(prefix);
        state.write(key);
    }
}

/// A key of the store that was not put together.
struct Lookup<'a> {
    prefix: [u8; KEY_PREFIX_BYTES],
    key: &'a [u8],
}

impl<'a> Lookup<'a> {
    fn new(generation: Generation, key: &'a [u8]) -> Self {
        let mut prefix = [0; KEY_PREFIX_BYTES];
        prefix[..8].copy_from_slice(&generation.0.to_be_bytes());
        prefix[8] = Kind::Data as u8;
        Self { prefix, key }
    }
}

impl Hash for Lookup<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.prefix);
        state.write(self.key);
    }
}

impl Equivalent<Key> for Lookup<'_> {
    fn equivalent(&self, other: &Key) -> bool {
        other.0.len() == KEY_PREFIX_BYTES + self.key.len()
            && other.0.starts_with(&self.prefix)
            && &other.0[KEY_PREFIX_BYTES..] == self.key
    }
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<Key, Option<Bytes>> for ByBytes {
    fn weight(&self, key: &Key, value: &Option<Bytes>) -> u64 {
        let value = value.as_ref().map_or(0, Bytes::len);
        ENTRY_BYTES + key.0.len() as u64 + value as u64
    }
}

/// When a reader began to read, in batches.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment(u64);

/// The cache.
#[derive(Debug)]
pub(super) struct ValueCache {
    values: Cache<Key, Option<Bytes>, ByBytes>,
    /// The last batch that is in the store and in the cache.
    done: AtomicU64,
    /// For keys that share a mark, the last batch that touches one of them. Written
    /// under the gate's exclusive side, read under its shared one.
    gate: RwLock<Box<[u64]>>,
    hits: metrics::Counter,
    misses: metrics::Counter,
}

fn mark_of(key: &[u8]) -> usize {
    // Only spread matters here; the cache hashes for itself.
    crc32c::crc32c(key) as usize % MARKS
}

fn is_data(key: &[u8]) -> bool {
    key.get(KEY_PREFIX_BYTES - 1) == Some(&(Kind::Data as u8))
}

impl ValueCache {
    pub(super) fn new(bytes: u64) -> Self {
        let items = (bytes / 256).clamp(64, 1 << 22) as usize;
        Self {
            values: Cache::with_weighter(items, bytes, ByBytes),
            done: AtomicU64::new(0),
            gate: RwLock::new(vec![0; MARKS].into_boxed_slice()),
            hits: metrics::counter!("cairn_value_cache_hits_total"),
            misses: metrics::counter!("cairn_value_cache_misses_total"),
        }
    }

    /// What is known of a key: nothing, that it is absent, or its value.
    pub(super) fn get(&self, generation: Generation, key: &[u8]) -> Option<Option<Bytes>> {
        let found = self.values.get(&Lookup::new(generation, key));
        match &found {
            Some(_) => self.hits.increment(1),
            None => self.misses.increment(1),
        }
        found
    }

    /// Whether the store has a key, given as the store holds it, if that is known. For
    /// the apply thread, which alone changes what the answer is; it counts as no read.
    pub(super) fn known(&self, key: &Bytes) -> Option<bool> {
        self.values.peek(&Key(key.clone())).map(|v| v.is_some())
    }

    /// To be taken before the store is read for [`Self::put`].
    pub(super) fn now(&self) -> Moment {
        Moment(self.done.load(Ordering::Acquire))
    }

    /// Puts what a reader found in the store, unless the key was touched since.
    pub(super) fn put(&self, key: Bytes, value: Option<Bytes>, read: Moment) {
        if value.as_ref().is_some_and(|v| v.len() > VALUE_BYTES_MAX) {
            return;
        }
        let marks = self.gate.read();
        if marks[mark_of(&key)] <= read.0 {
            self.values.insert(Key(key), value);
        }
    }

    /// The apply thread is about to write a batch.
    pub(super) fn begin(&self, changes: &[StoreChange]) {
        let batch = self.done.load(Ordering::Relaxed) + 1;
        let mut marks = self.gate.write();
        for (key, _) in changes.iter().filter(|(key, _)| is_data(key)) {
            marks[mark_of(key)] = batch;
        }
    }

    /// The batch is in the store.
    pub(super) fn finish(&self, changes: &[StoreChange]) {
        for (key, value) in changes.iter().filter(|(key, _)| is_data(key)) {
            // Only what somebody read is kept: a load of writes alone stays cheap.
            match value {
                Some(value) if value.len() > VALUE_BYTES_MAX => {
                    self.values.remove(&Key(key.clone()));
                }
                _ => {
                    let replaced = self.values.replace(Key(key.clone()), value.clone(), false);
                    drop(replaced);
                }
            }
        }
        self.done.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use cairn_storage::state::data_key;

    use super::*;

    const G: Generation = Generation(1);

    fn value(text: &'static str) -> Option<Bytes> {
        Some(Bytes::from_static(text.as_bytes()))
    }

    fn write(cache: &ValueCache, key: &[u8], to: Option<Bytes>) {
        let changes = [(data_key(G, key), to)];
        cache.begin(&changes);
        cache.finish(&changes);
    }

    #[test]
    fn what_was_read_is_found_and_follows_the_writes() {
        let cache = ValueCache::new(1 << 20);
        let now = cache.now();
        cache.put(data_key(G, b"k"), value("1"), now);
        assert_eq!(cache.get(G, b"k"), Some(value("1")));
        write(&cache, b"k", value("2"));
        assert_eq!(cache.get(G, b"k"), Some(value("2")));
        write(&cache, b"k", None);
        assert_eq!(cache.get(G, b"k"), Some(None));
        assert_eq!(cache.get(Generation(2), b"k"), None);
    }

    #[test]
    fn what_was_read_before_a_write_began_is_not_put_after_it() {
        let cache = ValueCache::new(1 << 20);
        let before = cache.now();
        write(&cache, b"k", value("new"));
        cache.put(data_key(G, b"k"), value("old"), before);
        assert_eq!(cache.get(G, b"k"), None);
    }

    #[test]
    fn what_was_read_while_a_write_is_under_way_is_not_put() {
        let cache = ValueCache::new(1 << 20);
        let changes = [(data_key(G, b"k"), value("new"))];
        let before = cache.now();
        cache.begin(&changes);
        let during = cache.now();
        cache.put(data_key(G, b"k"), value("old"), before);
        cache.put(data_key(G, b"k"), value("old"), during);
        cache.finish(&changes);
        assert_eq!(cache.get(G, b"k"), None);
        cache.put(data_key(G, b"k"), value("new"), cache.now());
        assert_eq!(cache.get(G, b"k"), Some(value("new")));
    }

    #[test]
    fn the_cache_keeps_to_its_bytes() {
        let cache = ValueCache::new(1 << 20);
        for number in 0..10_000u32 {
            let key = number.to_be_bytes();
            let found = Some(Bytes::from(vec![0; 1000]));
            cache.put(data_key(G, &key), found, cache.now());
        }
        assert!(cache.values.weight() <= 1 << 20);
    }
}
