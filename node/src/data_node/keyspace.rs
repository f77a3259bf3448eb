//! `SCAN` and `DBSIZE` over the partitions that this node is primary of.
//!
//! # Cursors
//! A cursor names a partition and the last key that was looked at there, by a hash of
//! it: 0 begins, and is what the last page answers. It fits into 53 bits, since some
//! clients read it as a JavaScript number. Which key a hash stands for is remembered
//! here, but only to find it quickly: any other node, and this one after it has
//! forgotten, finds it by walking through the partition, some thousands of keys to each
//! call; meanwhile the pages are empty and the cursor stays the same. Where the key is
//! gone by then, the partition is walked through from its beginning. So an element that
//! is there from the first call to the last is returned at least once, whoever answers.
//!
//! A partition that moved to another node while it was walked through is gone on with in
//! the replica that stays here; where none does, its rest is left to its new primary.

use std::hash::Hasher;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::PartitionId;
use cairn_core::kv::request::{RequestError, Value};
use cairn_core::slots::slot_of_prefix;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use xxhash_rust::xxh3::Xxh3;

use crate::partition::{Examined, Handle, Visit};
use crate::resp::backend::{AskResult, Found, Question, ScanQuestion};
use crate::resp::glob;
use crate::store::KeyRange;

/// The bits of a key's hash in a cursor: with 15 for a partition and the beginning, 53.
const HASH_BITS: u32 = 38;
const HASH_MASK: u64 = (1 << HASH_BITS) - 1;
/// Hashes of the same keys are the same on every node of every release.
const HASH_SEED: u64 = 0;
/// What remembering costs at most, in bytes.
const REMEMBERED_BYTES: u64 = 4 << 20;
/// What one remembered key costs beside its bytes.
const REMEMBERED_EACH: u64 = 128;
/// The most keys that one call looks at, whatever the client says.
const COUNT_MAX: usize = 10_000;
/// About how many bytes of keys one call returns.
const REPLY_BYTES: usize = 1 << 20;
/// How many partitions one call goes through.
const PARTITIONS_MAX: usize = 256;
/// How often one call reads on in search of the key of a cursor.
const SEARCHES_MAX: usize = 4;

/// Where a walk goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Place {
    partition: PartitionId,
    /// After which key; `None`: from the first on.
    after: Option<Bytes>,
}

/// What is known of the key that a hash stands for.
#[derive(Clone, Debug)]
enum Known {
    Key(Bytes),
    /// It is none up to this one.
    NotUpTo(Bytes),
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<(PartitionId, u64), Known> for ByBytes {
    fn weight(&self, _: &(PartitionId, u64), known: &Known) -> u64 {
        let (Known::Key(key) | Known::NotUpTo(key)) = known;
        REMEMBERED_EACH + key.len() as u64
    }
}

/// Never 0, which stands for the beginning of a partition.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    let mut hash = Xxh3::with_seed(HASH_SEED);
    hash.write(key);
    (hash.finish() & HASH_MASK).max(1)
}

fn cursor_of(partition: PartitionId, hash: u64) -> u64 {
    (u64::from(partition.0) + 1) << HASH_BITS | hash
}

fn parts_of(cursor: u64) -> Option<(PartitionId, u64)> {
    let partition = (cursor >> HASH_BITS).checked_sub(1)?;
    let partition = u32::try_from(partition).unwrap_or(u32::MAX);
    Some((PartitionId(partition), cursor & HASH_MASK))
}

/// The keys of this node, to those who ask for many.
#[derive(Debug)]
pub(crate) struct Keyspace {
    handle: Handle,
    known: Cache<(PartitionId, u64), Known, ByBytes>,
}

/// What came of the search for a cursor's key.
enum Resolved {
    At(Place),
    /// This node is primary of nothing.
    Nowhere,
    /// The search goes on with the next call.
    NotYet,
}

impl Keyspace {
    pub(crate) fn new(handle: Handle) -> Arc<Self> {
        let items = REMEMBERED_BYTES / REMEMBERED_EACH;
        Arc::new(Self {
            handle,
            known: Cache::with_weighter(items as usize, REMEMBERED_BYTES, ByBytes),
        })
    }

    pub(crate) async fn ask(self: Arc<Self>, question: Question) -> AskResult {
        match question {
            Question::Count => self.count().await.map(Found::Count),
            Question::Scan(scan) => self.scan(scan).await,
        }
    }

    async fn count(&self) -> Result<u64, RequestError> {
        let mut keys = 0;
        for partition in self.handle.led() {
            match self.handle.count(partition).await {
                Ok(more) => keys += more,
                // It moved away meanwhile, and is counted there.
                Err(RequestError::Moved { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(keys)
    }

    async fn scan(&self, question: ScanQuestion) -> AskResult {
        let ScanQuestion {
            cursor,
            count,
            pattern,
        } = question;
        let prefix = pattern
            .as_deref()
            .map_or(&b""[..], glob::literal_prefix)
            .to_vec();
        let mut place = match self.resolve(cursor, &prefix).await? {
            Resolved::At(place) => place,
            Resolved::Nowhere => {
                return Ok(Found::Page {
                    cursor: 0,
                    keys: Vec::new(),
                });
            }
            Resolved::NotYet => {
                return Ok(Found::Page {
                    cursor,
                    keys: Vec::new(),
                });
            }
        };
        let mut left = count.clamp(1, COUNT_MAX);
        let mut keys: Vec<Bytes> = Vec::new();
        for _ in 0..PARTITIONS_MAX {
            while self.concerns(&place, &prefix) {
                let wanted = Wanted {
                    left,
                    pattern: pattern.clone(),
                    bytes: bytes_of(&keys),
                    keys: std::mem::take(&mut keys),
                };
                let (wanted, examined) = self.walk(&place, &prefix, wanted).await?;
                (left, keys) = (wanted.left, wanted.keys);
                let Examined::Through(key) = examined else {
                    break;
                };
                if let Some(cursor) = self.remember(place.partition, &key) {
                    return Ok(Found::Page { cursor, keys });
                }
                // Its cursor stands for an earlier key: the page ends on a later one.
                place.after = Some(key);
                left = left.max(1);
            }
            let Some(next) = self.next(place.partition) else {
                return Ok(Found::Page { cursor: 0, keys });
            };
            place = Place {
                partition: next,
                after: None,
            };
            if left == 0 || bytes_of(&keys) >= REPLY_BYTES {
                break;
            }
        }
        let cursor = cursor_of(place.partition, 0);
        Ok(Found::Page { cursor, keys })
    }

    /// Whether keys with that prefix may be in the partition.
    fn concerns(&self, place: &Place, prefix: &[u8]) -> bool {
        slot_of_prefix(prefix)
            .and_then(|slot| self.handle.partition_of_slot(slot).ok())
            .is_none_or(|only| only == place.partition)
    }

    /// The next partition that this node is primary of.
    fn next(&self, after: PartitionId) -> Option<PartitionId> {
        let led = self.handle.led();
        led.into_iter().find(|partition| *partition > after)
    }

    /// Walks through a partition from a place on.
    async fn walk(
        &self,
        place: &Place,
        prefix: &[u8],
        wanted: Wanted,
    ) -> Result<(Wanted, Examined), RequestError> {
        let Place { partition, after } = place;
        if after.is_none() && self.handle.count(*partition).await == Ok(0) {
            return Ok((wanted, Examined::All));
        }
        let range = KeyRange::new(prefix, after.as_deref());
        let begin = || (wanted.clone(), Wanted::take);
        match self.visit(*partition, range, begin).await {
            // Its rest is its new primary's to tell.
            Err(RequestError::Moved { .. }) => Ok((wanted, Examined::All)),
            other => other,
        }
    }

    /// Visits keys under the primary's lease, or in the replica that is left here of a
    /// partition that moved.
    async fn visit<T, V>(
        &self,
        partition: PartitionId,
        range: KeyRange,
        begin: impl Fn() -> (T, V),
    ) -> Result<(T, Examined), RequestError>
    where
        T: Send + 'static,
        V: FnMut(&mut T, &Bytes, Value) -> Visit + Send + 'static,
    {
        let led = self.handle.visit(partition, range.clone(), &begin).await;
        match led {
            Err(RequestError::Moved { .. }) => {
                self.handle.visit_any(partition, range, begin()).await
            }
            other => other,
        }
    }

    /// Finds the place that a cursor stands for, among the keys of the prefix: what is
    /// answered tells nothing of others.
    async fn resolve(&self, cursor: u64, prefix: &[u8]) -> Result<Resolved, RequestError> {
        let Some((partition, hash)) = parts_of(cursor) else {
            let first = self.handle.led().into_iter().next();
            return Ok(first.map_or(Resolved::Nowhere, |partition| {
                Resolved::At(Place {
                    partition,
                    after: None,
                })
            }));
        };
        let at = |after| Ok(Resolved::At(Place { partition, after }));
        if hash == 0 {
            return at(None);
        }
        let mut after = match self.known.get(&(partition, hash)) {
            Some(Known::Key(key)) if key.starts_with(prefix) => return at(Some(key)),
            Some(Known::NotUpTo(key)) if key.starts_with(prefix) => Some(key),
            Some(_) | None => None,
        };
        for _ in 0..SEARCHES_MAX {
            let range = KeyRange::new(prefix, after.as_deref());
            let begin = || {
                let find = move |found: &mut bool, key: &Bytes, _: Value| {
                    *found = hash_of(key) == hash;
                    if *found { Visit::Stop } else { Visit::Continue }
                };
                (false, find)
            };
            match self.visit(partition, range, begin).await {
                Ok((true, Examined::Through(key))) => {
                    self.known
                        .insert((partition, hash), Known::Key(key.clone()));
                    return at(Some(key));
                }
                Ok((_, Examined::Through(key))) => {
                    let known = Known::NotUpTo(key.clone());
                    self.known.insert((partition, hash), known);
                    after = Some(key);
                }
                // The key is gone: what followed it is not known any more.
                Ok((_, Examined::All)) => {
                    self.known.remove(&(partition, hash));
                    return at(None);
                }
                // Nothing of it is left here.
                Err(RequestError::Moved { .. }) => return at(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Resolved::NotYet)
    }

    /// The cursor of a place, which is remembered. `None`: it stands for an earlier key
    /// with the same hash, and a walk that ended here would begin there again, for ever.
    fn remember(&self, partition: PartitionId, key: &Bytes) -> Option<u64> {
        let hash = hash_of(key);
        let other = self.known.peek(&(partition, hash));
        if matches!(&other, Some(Known::Key(other)) if other < key) {
            return None;
        }
        self.known
            .insert((partition, hash), Known::Key(key.clone()));
        Some(cursor_of(partition, hash))
    }
}

fn bytes_of(keys: &[Bytes]) -> usize {
    keys.iter().map(Bytes::len).sum()
}

/// What a page gathers.
#[derive(Clone, Debug)]
struct Wanted {
    /// How many more keys are looked at.
    left: usize,
    pattern: Option<Bytes>,
    keys: Vec<Bytes>,
    /// How long they are together.
    bytes: usize,
}

impl Wanted {
    fn take(&mut self, key: &Bytes, _: Value) -> Visit {
        self.left = self.left.saturating_sub(1);
        let matches = self
            .pattern
            .as_ref()
            .is_none_or(|pattern| glob::matches_exactly(pattern, key));
        if matches {
            self.keys.push(key.clone());
            self.bytes += key.len();
        }
        if self.left == 0 || self.bytes >= REPLY_BYTES {
            Visit::Stop
        } else {
            Visit::Continue
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_exact_as_a_javascript_number() {
        for partition in [0, 1, 16_383] {
            for key in ["", "a", "some longer key"] {
                let hash = hash_of(key.as_bytes());
                let cursor = cursor_of(PartitionId(partition), hash);
                assert!(cursor > 0 && cursor < 1 << 53, "{cursor}");
                assert_eq!(parts_of(cursor), Some((PartitionId(partition), hash)));
            }
        }
        assert_eq!(parts_of(0), None);
        // Whatever a client makes up names no partition that there is.
        assert_eq!(parts_of(u64::MAX).map(|(p, _)| p.0), Some((1 << 26) - 2));
    }

    #[test]
    fn hashes_are_the_same_on_every_node_for_good() {
        // The low bits of XXH3's 0x2d06800538d394c2 for no bytes.
        assert_eq!(hash_of(b""), 0x05_38d3_94c2);
        assert_ne!(hash_of(b"key"), hash_of(b"kez"));
    }
}
