//! Which readers are to be told when a key changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use crate::ids::PartitionId;

/// About what a key costs beside its bytes, and a reader of it.
const KEY_BYTES: usize = 96;
const READER_BYTES: usize = 8;
/// Lists of readers from this length on are looked through for readers that are gone.
const READERS_LOOKED_AT: usize = 64;

/// Somebody who keeps what it reads. A number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ReaderId(pub u64);

/// A key, and who is to be told of it.
pub type Told = (Bytes, Vec<ReaderId>);

/// What is remembered, in a bounded number of bytes.
#[derive(Debug)]
pub struct Tracked {
    bytes_max: usize,
    bytes: usize,
    keys: usize,
    partitions: BTreeMap<PartitionId, BTreeMap<Bytes, Vec<ReaderId>>>,
    /// What was forgotten last for want of room: the next is the one behind it.
    forgotten: Option<(PartitionId, Bytes)>,
}

fn cost(key: &[u8], readers: usize) -> usize {
    KEY_BYTES + key.len() + READER_BYTES * readers
}

impl Tracked {
    /// Remembers about so many bytes at most.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            keys: 0,
            partitions: BTreeMap::new(),
            forgotten: None,
        }
    }

    /// A reader is about to read a key. Returns what is forgotten for it, of which the
    /// readers are to be told: one key by the next, in their order, so that none stays for
    /// being first. `lives` says which readers there still are: others are dropped where a
    /// key has many.
    pub fn remember(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        reader: ReaderId,
        lives: &dyn Fn(ReaderId) -> bool,
    ) -> Vec<Told> {
        let keys = self.partitions.entry(partition).or_default();
        match keys.get_mut(key) {
            Some(readers) => {
                let Err(mut at) = readers.binary_search(&reader) else {
                    return Vec::new();
                };
                if readers.len() >= READERS_LOOKED_AT && readers.len() == readers.capacity() {
                    let before = readers.len();
                    readers.retain(|reader| lives(*reader));
                    self.bytes -= READER_BYTES * (before - readers.len());
                    at = readers.partition_point(|other| *other < reader);
                }
                readers.insert(at, reader);
                self.bytes += READER_BYTES;
            }
            None => {
                keys.insert(Bytes::copy_from_slice(key), vec![reader]);
                self.keys += 1;
                self.bytes += cost(key, 1);
            }
        }
        let mut forgotten = Vec::new();
        while self.bytes > self.bytes_max
            && let Some(told) = self.forget_next()
        {
            forgotten.push(told);
        }
        forgotten
    }

    fn forget_next(&mut self) -> Option<Told> {
        let behind = self.forgotten.take().and_then(|(partition, key)| {
            let within = self.partitions.get(&partition).and_then(|keys| {
                let behind = (Bound::Excluded(&key[..]), Bound::Unbounded);
                let (key, _) = keys.range::<[u8], _>(behind).next()?;
                Some((partition, key.clone()))
            });
            within.or_else(|| {
                let behind = (Bound::Excluded(partition), Bound::Unbounded);
                let (partition, keys) = self.partitions.range(behind).next()?;
                Some((*partition, keys.keys().next()?.clone()))
            })
        });
        let first = || {
            let (partition, keys) = self.partitions.iter().next()?;
            Some((*partition, keys.keys().next()?.clone()))
        };
        let (partition, key) = behind.or_else(first)?;
        let readers = self.take(partition, &key)?;
        self.forgotten = Some((partition, key.clone()));
        Some((key, readers))
    }

    fn take(&mut self, partition: PartitionId, key: &[u8]) -> Option<Vec<ReaderId>> {
        let keys = self.partitions.get_mut(&partition)?;
        let readers = keys.remove(key)?;
        if keys.is_empty() {
            self.partitions.remove(&partition);
        }
        self.keys -= 1;
        self.bytes -= cost(key, readers.len());
        Some(readers)
    }

    /// A key has changed, and everybody sees it: who is to be told. They are forgotten,
    /// since they have to read it again, but for those that `stays` holds for: they may
    /// keep their copy.
    pub fn changed(
        &mut self,
        partition: PartitionId,
        key: &[u8],
        stays: &dyn Fn(ReaderId) -> bool,
    ) -> Vec<ReaderId> {
        let Some(readers) = self.take(partition, key) else {
            return Vec::new();
        };
        let staying: Vec<ReaderId> = readers.iter().copied().filter(|r| stays(*r)).collect();
        if !staying.is_empty() {
            self.keys += 1;
            self.bytes += cost(key, staying.len());
            let keys = self.partitions.entry(partition).or_default();
            keys.insert(Bytes::copy_from_slice(key), staying);
        }
        readers
    }

    /// What happens to the keys of a partition is no longer seen here: all who are to be
    /// told. They are forgotten.
    pub fn flush(&mut self, partition: PartitionId) -> Vec<Told> {
        let keys = self.partitions.remove(&partition).unwrap_or_default();
        for (key, readers) in &keys {
            self.keys -= 1;
            self.bytes -= cost(key, readers.len());
        }
        keys.into_iter().collect()
    }

    /// The partitions of which a key is remembered.
    pub fn partitions(&self) -> impl Iterator<Item = PartitionId> + '_ {
        self.partitions.keys().copied()
    }

    /// How many keys are remembered.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.keys
    }

    /// About how many bytes that takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(1);
    const Q: PartitionId = PartitionId(2);
    const A: ReaderId = ReaderId(1);
    const B: ReaderId = ReaderId(2);

    fn all(_: ReaderId) -> bool {
        true
    }

    fn none(_: ReaderId) -> bool {
        false
    }

    #[test]
    fn whoever_read_a_key_is_told_once_that_it_changed() {
        let mut tracked = Tracked::new(1 << 20);
        assert!(tracked.remember(P, b"k", B, &all).is_empty());
        tracked.remember(P, b"k", A, &all);
        tracked.remember(P, b"k", A, &all);
        tracked.remember(Q, b"k", A, &all);
        assert_eq!(tracked.keys(), 2);
        assert_eq!(tracked.changed(P, b"other", &none), []);
        assert_eq!(tracked.changed(P, b"k", &none), [A, B]);
        assert_eq!(tracked.changed(P, b"k", &none), []);
        assert_eq!(tracked.changed(Q, b"k", &none), [A]);
        assert_eq!((tracked.keys(), tracked.bytes()), (0, 0));
    }

    #[test]
    fn who_may_keep_its_copy_is_told_again() {
        let mut tracked = Tracked::new(1 << 20);
        tracked.remember(P, b"k", A, &all);
        tracked.remember(P, b"k", B, &all);
        assert_eq!(tracked.changed(P, b"k", &|reader| reader == B), [A, B]);
        assert_eq!(tracked.changed(P, b"k", &|reader| reader == B), [B]);
        assert_eq!(tracked.keys(), 1);
    }

    #[test]
    fn a_partition_is_flushed_alone_and_as_a_whole() {
        let mut tracked = Tracked::new(1 << 20);
        tracked.remember(P, b"a", A, &all);
        tracked.remember(P, b"b", A, &all);
        tracked.remember(P, b"b", B, &all);
        tracked.remember(Q, b"c", A, &all);
        let told = tracked.flush(P);
        let expected = [
            (Bytes::from_static(b"a"), vec![A]),
            (Bytes::from_static(b"b"), vec![A, B]),
        ];
        assert_eq!(told, expected);
        assert_eq!(tracked.flush(P), []);
        assert_eq!(tracked.partitions().collect::<Vec<_>>(), [Q]);
        assert_eq!(tracked.bytes(), cost(b"c", 1));
    }

    /// Whatever is remembered, changed and flushed, everybody who reads and is not told is
    /// still remembered, and the bytes are what they are.
    #[test]
    fn what_has_no_room_is_told_and_each_key_has_its_turn() {
        let mut tracked = Tracked::new(4 * cost(b"k00", 1));
        let mut told = Vec::new();
        for number in 0..40 {
            let key = format!("k{number:02}");
            let partition = PartitionId(number % 3);
            told.extend(tracked.remember(partition, key.as_bytes(), A, &all));
            assert!(tracked.bytes() <= tracked.bytes_max);
        }
        assert_eq!(told.len() + tracked.keys(), 40);
        told.sort();
        told.dedup();
        assert_eq!(told.len() + tracked.keys(), 40, "none is told twice");
        assert_eq!(tracked.keys(), 4);
        // A key that alone has no room is told at once.
        let long = vec![b'x'; 4096];
        let told = tracked.remember(P, &long, A, &all);
        assert_eq!(told.len(), 5);
        assert_eq!((tracked.keys(), tracked.bytes()), (0, 0));
    }

    #[test]
    fn readers_that_are_gone_do_not_fill_the_list_of_a_key() {
        let mut tracked = Tracked::new(1 << 20);
        for number in 0..100_000 {
            let lives = |reader: ReaderId| reader.0 + 10 > number;
            tracked.remember(P, b"k", ReaderId(number), &lives);
        }
        let readers = tracked.changed(P, b"k", &none);
        assert!(readers.len() < 4 * READERS_LOOKED_AT, "{}", readers.len());
        assert_eq!(readers.last(), Some(&ReaderId(99_999)));
        assert_eq!(tracked.bytes(), 0);
    }
}
