//! The cache at a client: what it read, and how old that may be.
//!
//! An entry is of a *source*, the stream to the node that it was read from. The node tells on
//! it what changed, and *vouches*: asked at some moment, it says that whatever it did not tell
//! to have changed was current at that moment. So an entry is as old as the later of two
//! moments of the client's own clock: when its read was sent, and when the last question was
//! that its source has vouched for. No other clock has a part in it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::ids::{Index, Micros};
use crate::kv::request::Value;
use crate::seeded::{Bug, is_seeded};

/// What an entry costs beside its bytes.
const ENTRY_BYTES: usize = 160;

/// A stream to a node. A number is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Source(pub u64);

/// A read that is under way.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(u64);

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NearBounds {
    /// The most keys.
    pub entries: usize,
    /// The most bytes, about.
    pub bytes: usize,
}

/// What the cache knows of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Served {
    /// Its value; `None`: there was none.
    pub value: Option<Value>,
    /// It was current so long ago, or since.
    pub age: Micros,
}

#[derive(Debug)]
struct Entry {
    value: Option<Value>,
    source: Source,
    asked: Micros,
    used: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Asked {
    source: Source,
    key: Bytes,
    at: Micros,
}

/// See the module.
#[derive(Debug)]
pub struct NearCache {
    bounds: NearBounds,
    bytes: usize,
    entries: BTreeMap<Bytes, Entry>,
    /// The keys by when they were used last.
    order: BTreeMap<u64, Bytes>,
    uses: u64,
    /// The open streams, and the last moment that each has vouched for.
    sources: BTreeMap<Source, Option<Micros>>,
    asked: BTreeMap<Ticket, Asked>,
    tickets: u64,
}

impl NearCache {
    /// An empty one.
    #[must_use]
    pub fn new(bounds: NearBounds) -> Self {
        Self {
            bounds,
            bytes: 0,
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            uses: 0,
            sources: BTreeMap::new(),
            asked: BTreeMap::new(),
            tickets: 0,
        }
    }

    /// A stream is open: the node remembers what is read with it from now on.
    pub fn opened(&mut self, source: Source) {
        self.sources.insert(source, None);
    }

    /// It is not any more: nobody tells what changes of what was read with it.
    pub fn closed(&mut self, source: Source) {
        self.all(source);
        self.sources.remove(&source);
    }

    /// A read is about to be sent. `None`: its answer cannot be kept.
    pub fn ask(&mut self, now: Micros, source: Source, key: &[u8]) -> Option<Ticket> {
        self.sources.get(&source)?;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let asked = Asked {
            source,
            key: Bytes::copy_from_slice(key),
            at: now,
        };
        self.asked.insert(ticket, asked);
        Some(ticket)
    }

    /// The read failed, or its answer is not to be kept.
    pub fn give_up(&mut self, ticket: Ticket) {
        self.asked.remove(&ticket);
    }

    /// The read was answered. Its answer is kept unless it was told meanwhile that the key
    /// changed: nobody knows which of the two came first at the node. Whether it is.
    pub fn answer(&mut self, ticket: Ticket, value: Option<Value>) -> bool {
        let Some(Asked { source, key, at }) = self.asked.remove(&ticket) else {
            return false;
        };
        // One that was asked later is newer, or of a node that took over.
        let newer = self.entries.get(&key).filter(|entry| entry.asked > at);
        if newer.is_some() || !self.sources.contains_key(&source) {
            return false;
        }
        self.remove(&key);
        let length = value.as_ref().map_or(0, |value| value.data.len());
        let bytes = ENTRY_BYTES + 2 * key.len() + length;
        if bytes > self.bounds.bytes || self.bounds.entries == 0 {
            return false;
        }
        self.uses += 1;
        self.bytes += bytes;
        self.order.insert(self.uses, key.clone());
        let entry = Entry {
            value,
            source,
            asked: at,
            used: self.uses,
            bytes,
        };
        self.entries.insert(key, entry);
        while self.bytes > self.bounds.bytes || self.entries.len() > self.bounds.entries {
            let Some((_, oldest)) = self.order.pop_first() else {
                break;
            };
            if let Some(entry) = self.entries.remove(&oldest) {
                self.bytes -= entry.bytes;
            }
        }
        true
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
            self.order.remove(&entry.used);
        }
    }

    /// The key has changed, or was written by this very client: what is known of it is of
    /// no use, nor what is being read.
    pub fn changed(&mut self, key: &[u8]) {
        self.remove(key);
        self.asked.retain(|_, asked| asked.key != key);
    }

    /// All that was read with the stream may have changed.
    pub fn all(&mut self, source: Source) {
        let (bytes, order) = (&mut self.bytes, &mut self.order);
        self.entries.retain(|_, entry| {
            let stays = entry.source != source;
            if !stays {
                *bytes -= entry.bytes;
                order.remove(&entry.used);
            }
            stays
        });
        self.asked.retain(|_, asked| asked.source != source);
    }

    /// What the node did not tell to have changed was current at that moment, at which it
    /// was asked to say so.
    pub fn vouched(&mut self, source: Source, at: Micros) {
        if let Some(vouched) = self.sources.get_mut(&source) {
            *vouched = (*vouched).max(Some(at));
        }
    }

    /// What is known of a key, if it is no older than that.
    pub fn serve(&mut self, now: Micros, key: &[u8], max_age: Micros) -> Option<Served> {
        let entry = self.entries.get_mut(key)?;
        let vouched = self.sources.get(&entry.source).copied().flatten();
        let since = vouched.map_or(entry.asked, |at| at.max(entry.asked));
        let age = now.minus(since);
        if age > max_age {
            return None;
        }
        self.order.remove(&entry.used);
        self.uses += 1;
        entry.used = self.uses;
        self.order.insert(self.uses, key_of(&self.entries, key)?);
        let value = self.entries.get(key)?.value.clone();
        Some(Served { value, age })
    }

    /// The stream that a key was read with, if it is kept.
    #[must_use]
    pub fn source(&self, key: &[u8]) -> Option<Source> {
        self.entries.get(key).map(|entry| entry.source)
    }

    /// How many keys are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// About how many bytes that takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

fn key_of(entries: &BTreeMap<Bytes, Entry>, key: &[u8]) -> Option<Bytes> {
    entries.get_key_value(key).map(|(key, _)| key.clone())
}

/// Whether a primary may vouch for what its readers keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Vouch {
    /// It may.
    Yes,
    /// Not yet.
    Wait,
    /// It does not serve: what is kept is to be read elsewhere.
    No,
}

/// How a primary stands, at a look that came after it was asked to vouch.
#[derive(Clone, Copy, Debug)]
pub struct VouchLook {
    /// Whether it serves.
    pub serving: bool,
    /// Its clock.
    pub clock: Micros,
    /// Until when it holds the lease.
    pub lease_until: Micros,
    /// The commit index of the first look that found the lease held.
    pub covers: Index,
    /// What those who read see; all changes up to there were told.
    pub applied: Index,
}

impl VouchLook {
    /// What a read would be asked too (rules 5 and 6): whether whatever was acknowledged
    /// before the question was told to have changed.
    #[must_use]
    pub fn vouches(&self) -> Vouch {
        if !self.serving {
            return Vouch::No;
        }
        let leads = self.clock < self.lease_until || is_seeded(Bug::VouchPastLease);
        if leads && self.applied >= self.covers {
            Vouch::Yes
        } else {
            Vouch::Wait
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Position};

    const A: Source = Source(1);
    const B: Source = Source(2);
    const SECOND: Micros = Micros::from_millis(1000);

    fn at(ms: u64) -> Micros {
        Micros::from_millis(ms)
    }

    fn value(data: &'static str) -> Option<Value> {
        let version = Position {
            epoch: Epoch(1),
            index: Index(1),
        };
        Some(Value::string(Bytes::from(data), version, None))
    }

    fn cache() -> NearCache {
        let mut cache = NearCache::new(NearBounds {
            entries: 3,
            bytes: 4096,
        });
        cache.opened(A);
        cache.opened(B);
        cache
    }

    fn read(cache: &mut NearCache, ms: u64, source: Source, key: &str, data: &'static str) {
        let ticket = cache.ask(at(ms), source, key.as_bytes()).unwrap();
        cache.answer(ticket, value(data));
    }

    fn served(cache: &mut NearCache, ms: u64, key: &str) -> Option<(Option<Value>, Micros)> {
        let served = cache.serve(at(ms), key.as_bytes(), SECOND)?;
        Some((served.value, served.age))
    }

    #[test]
    fn an_entry_is_as_old_as_its_read_or_what_its_source_vouched_for() {
        let mut cache = cache();
        read(&mut cache, 100, A, "a", "1");
        assert_eq!(served(&mut cache, 400, "a"), Some((value("1"), at(300))));
        assert_eq!(served(&mut cache, 1101, "a"), None);
        cache.vouched(A, at(900));
        cache.vouched(A, at(800));
        cache.vouched(B, at(1100));
        assert_eq!(served(&mut cache, 1101, "a"), Some((value("1"), at(201))));
        // A vouching of before the read makes it no older.
        read(&mut cache, 1200, A, "a", "2");
        assert_eq!(served(&mut cache, 1300, "a"), Some((value("2"), at(100))));
    }

    #[test]
    fn what_is_told_while_a_read_is_under_way_makes_its_answer_useless() {
        let mut cache = cache();
        for tell in [
            NearCache::changed as fn(&mut NearCache, &[u8]),
            |cache, _| cache.all(A),
            |cache, _| cache.closed(A),
        ] {
            cache.opened(A);
            let ticket = cache.ask(at(1), A, b"k").unwrap();
            let other = cache.ask(at(1), B, b"other").unwrap();
            tell(&mut cache, b"k");
            cache.answer(ticket, value("old"));
            cache.answer(other, value("1"));
            assert_eq!(served(&mut cache, 2, "k"), None);
            assert!(served(&mut cache, 2, "other").is_some());
        }
        assert_eq!(cache.ask(at(3), A, b"k"), None, "its stream is closed");
    }

    #[test]
    fn a_stream_that_ends_takes_what_was_read_with_it() {
        let mut cache = cache();
        read(&mut cache, 1, A, "a", "1");
        read(&mut cache, 1, B, "b", "1");
        cache.changed(b"c");
        cache.closed(A);
        assert_eq!(served(&mut cache, 2, "a"), None);
        assert!(served(&mut cache, 2, "b").is_some());
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn an_older_answer_does_not_take_the_place_of_a_newer_one() {
        let mut cache = cache();
        let slow = cache.ask(at(1), A, b"k").unwrap();
        read(&mut cache, 2, B, "k", "new");
        cache.answer(slow, value("old"));
        assert_eq!(served(&mut cache, 2, "k"), Some((value("new"), at(0))));
    }

    #[test]
    fn it_keeps_to_its_bounds_and_to_what_was_used_last() {
        let mut cache = cache();
        for key in ["a", "b", "c"] {
            read(&mut cache, 1, A, key, "1");
        }
        assert!(served(&mut cache, 1, "a").is_some());
        read(&mut cache, 1, A, "d", "1");
        assert_eq!(served(&mut cache, 1, "b"), None);
        assert!(served(&mut cache, 1, "a").is_some());
        let ticket = cache.ask(at(2), A, b"long").unwrap();
        let long = value("").map(|value| Value {
            data: Bytes::from(vec![0; 3800]),
            ..value
        });
        cache.answer(ticket, long);
        assert_eq!(cache.len(), 1);
        cache.changed(b"long");
        assert_eq!((cache.len(), cache.bytes(), cache.order.len()), (0, 0, 0));
        assert!(cache.asked.is_empty());
    }

    #[test]
    fn a_primary_vouches_under_its_lease_for_what_it_has_applied() {
        let look = VouchLook {
            serving: true,
            clock: Micros(10),
            lease_until: Micros(20),
            covers: Index(7),
            applied: Index(7),
        };
        assert_eq!(look.vouches(), Vouch::Yes);
        let behind = VouchLook {
            applied: Index(6),
            ..look
        };
        let lapsed = VouchLook {
            lease_until: Micros(10),
            ..look
        };
        let deposed = VouchLook {
            serving: false,
            ..look
        };
        assert_eq!(behind.vouches(), Vouch::Wait);
        assert_eq!(lapsed.vouches(), Vouch::Wait);
        assert_eq!(deposed.vouches(), Vouch::No);
    }
}
