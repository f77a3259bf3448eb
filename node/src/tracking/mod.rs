//! Caches at clients: who reads which key here, and is told when it changes
//! ([`cairn_core::tracking`] says why nobody is left with an old value).
//!
//! - A reader opens a [`Reader`], and remembers each key before it reads it.
//! - The apply thread tells of each batch ([`Tracker`] is its [`KeyWatch`]), the engine of
//!   partitions that are no longer seen here.
//! - What a reader is told waits in its [`Mail`].
//!
//! Where nobody keeps anything, a batch costs a look at a number.

mod mail;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use bytes::Bytes;
use cairn_core::counters::name::is_reserved;
use cairn_core::hot::KeyHash;
use cairn_core::ids::PartitionId;
use cairn_core::tracking::{Change, Prefixes, ReaderId, Told, Tracked};
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use parking_lot::{Mutex, RwLock};

pub use mail::{Mail, Post};

use crate::store::KeyWatch;

/// What is remembered is in so many parts, each under a lock of its own.
const PARTS: usize = 16;

/// What a reader wants to be told of.
#[derive(Debug)]
pub enum Scope {
    /// The keys that it read.
    Read,
    /// All keys that begin in some way, in the partitions that this node is primary of.
    Prefixes(Prefixes),
}

/// Somebody who is told. Whoever opened it is told until this is dropped.
#[derive(Debug)]
pub struct Reader {
    tracker: Arc<Tracker>,
    about: Arc<About>,
}

/// What the tracker knows of a reader.
#[derive(Debug)]
struct About {
    id: ReaderId,
    scope: Scope,
    /// It may keep its copy of what it is told of: it is told of every change.
    stays: bool,
    /// It reads from replicas too, so that it is told of partitions that another node is
    /// primary of.
    replicas: AtomicBool,
    mail: Arc<Mail>,
    /// Of which it may keep something.
    partitions: Mutex<BTreeSet<PartitionId>>,
}

impl Reader {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> ReaderId {
        self.about.id
    }

    /// It is about to read a key, and wants to be vouched for.
    pub fn remember(&self, partition: PartitionId, key: &[u8]) {
        self.about.partitions.lock().insert(partition);
        self.tracker.remember(partition, key, self.about.id);
    }

    /// The partitions of the keys that it remembered so.
    #[must_use]
    pub fn partitions(&self) -> BTreeSet<PartitionId> {
        self.about.partitions.lock().clone()
    }

    /// Nobody vouches for what it keeps of a partition: it is told that all may have changed.
    pub fn doubt(&self, partition: PartitionId) {
        self.about.partitions.lock().remove(&partition);
        self.about.mail.all();
    }

    /// From now on it reads from replicas too.
    pub fn reads_replicas(&self) {
        self.about.replicas.store(true, Ordering::Relaxed);
        // As where it was opened.
        fence(Ordering::SeqCst);
    }

    /// What it is told.
    #[must_use]
    pub fn mail(&self) -> &Arc<Mail> {
        &self.about.mail
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tracker.close(&self.about);
    }
}

/// See the module.
#[derive(Debug)]
pub struct Tracker {
    parts: Box<[Mutex<Tracked>]>,
    readers: RwLock<BTreeMap<ReaderId, Arc<About>>>,
    /// Those of them that are told of prefixes.
    broad: RwLock<BTreeMap<ReaderId, Arc<About>>>,
    open: AtomicUsize,
    next: AtomicU64,
    figures: Figures,
}

#[derive(Debug)]
struct Figures {
    readers: Gauge,
    keys: Gauge,
    bytes: Gauge,
    told: Counter,
    flushed: Counter,
    forgotten: Counter,
}

impl Figures {
    fn new() -> Self {
        describe_gauge!(
            "cairn_tracking_readers",
            "Clients that keep what they read here and are told when it changes."
        );
        describe_gauge!(
            "cairn_tracked_keys",
            "Keys of which a client is told when they change."
        );
        describe_gauge!(
            "cairn_tracked_bytes",
            "About what remembering who reads which key takes."
        );
        describe_counter!(
            "cairn_invalidations_total",
            "How often a client was told that a key has changed, or may have, by why."
        );
        let told = |why| counter!("cairn_invalidations_total", "reason" => why);
        Self {
            readers: gauge!("cairn_tracking_readers"),
            keys: gauge!("cairn_tracked_keys"),
            bytes: gauge!("cairn_tracked_bytes"),
            told: told("changed"),
            flushed: told("unseen"),
            forgotten: told("room"),
        }
    }
}

impl Tracker {
    /// Remembers who reads what in about so many bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let each = bytes_max / PARTS;
        Self {
            parts: (0..PARTS).map(|_| Mutex::new(Tracked::new(each))).collect(),
            readers: RwLock::default(),
            broad: RwLock::default(),
            open: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            figures: Figures::new(),
        }
    }

    /// Somebody keeps what it reads from now on. `stays`: it is told of a key again although
    /// it did not read it again.
    #[must_use]
    pub fn open(self: &Arc<Self>, scope: Scope, stays: bool, mail: Arc<Mail>) -> Reader {
        let about = Arc::new(About {
            id: ReaderId(self.next.fetch_add(1, Ordering::Relaxed)),
            scope,
            stays,
            replicas: AtomicBool::new(false),
            mail,
            partitions: Mutex::default(),
        });
        self.readers.write().insert(about.id, Arc::clone(&about));
        if matches!(about.scope, Scope::Prefixes(_)) {
            self.broad.write().insert(about.id, Arc::clone(&about));
        }
        self.open.fetch_add(1, Ordering::Relaxed);
        // Either who applies a batch sees, once it can be seen, that somebody wants to be
        // told, or what is read after this is the batch's.
        fence(Ordering::SeqCst);
        Reader {
            tracker: Arc::clone(self),
            about,
        }
    }

    fn close(&self, about: &About) {
        self.readers.write().remove(&about.id);
        self.broad.write().remove(&about.id);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether nobody keeps anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    fn part(&self, key: &[u8]) -> &Mutex<Tracked> {
        &self.parts[KeyHash::of(key).0 as usize % PARTS]
    }

    /// A reader is about to read a key.
    pub fn remember(&self, partition: PartitionId, key: &[u8], reader: ReaderId) {
        let readers = &self.readers;
        // Who applies a batch holds the readers while it takes a part: waiting behind a writer
        // who waits for that one would be for ever.
        let lives = |reader: ReaderId| readers.read_recursive().contains_key(&reader);
        let forgotten = self
            .part(key)
            .lock()
            .remember(partition, key, reader, &lives);
        if !forgotten.is_empty() {
            let told = self.tell(&forgotten);
            self.figures.forgotten.increment(told);
        }
    }

    /// What a reader is about to read of a key is not to be kept.
    pub fn tell_one(&self, key: &[u8], reader: ReaderId) {
        let key = Bytes::copy_from_slice(key);
        let told = self.tell(&[(key, vec![reader])]);
        self.figures.flushed.increment(told);
    }

    fn tell(&self, all: &[Told]) -> u64 {
        let readers = self.readers.read();
        let mut told = 0;
        for (key, of) in all {
            for about in of.iter().filter_map(|reader| readers.get(reader)) {
                about.mail.changed(key, None);
                told += 1;
            }
        }
        told
    }

    /// What changes in a partition is no longer seen here, or not surely: whoever keeps
    /// something of it is told that it may have changed. Called after reads here know it.
    pub fn flush(&self, partition: PartitionId) {
        fence(Ordering::SeqCst);
        if self.is_idle() {
            return;
        }
        let mut told = 0;
        for part in &self.parts {
            let all = part.lock().flush(partition);
            told += self.tell(&all);
        }
        // Which of its keys they keep is not known.
        for about in self.broad.read().values() {
            about.mail.all();
            told += 1;
        }
        self.figures.flushed.increment(told);
    }

    /// The partitions of which somebody keeps something, as far as is known; and whether
    /// somebody may keep something of each.
    #[must_use]
    pub fn partitions(&self) -> (BTreeSet<PartitionId>, bool) {
        let mut partitions = BTreeSet::new();
        for part in &self.parts {
            partitions.extend(part.lock().partitions());
        }
        (partitions, !self.broad.read().is_empty())
    }

    /// Whether a node that leads, or does not lead, the partition tells such a reader of it.
    fn concerns(about: &About, leads: bool) -> bool {
        leads || about.replicas.load(Ordering::Relaxed)
    }

    /// Keys have changed, each with whether this node is primary of its partition.
    fn changed(&self, changes: &[Change], leads: &dyn Fn(PartitionId) -> bool) {
        let readers = self.readers.read();
        let broad = self.broad.read();
        let stays = |reader: ReaderId| readers.get(&reader).is_some_and(|about| about.stays);
        let mut told = 0;
        for change in changes {
            let Change {
                partition,
                key,
                version,
            } = change;
            let of = self.part(key).lock().changed(*partition, key, &stays);
            if of.is_empty() && broad.is_empty() {
                continue;
            }
            // The key shares the memory of a whole message or a batch.
            let key = Bytes::copy_from_slice(key);
            for about in of.iter().filter_map(|reader| readers.get(reader)) {
                about.mail.changed(&key, *version);
                told += 1;
            }
            // Stripes of counters have names that nobody else may use.
            let broad = broad.values().filter(|_| !is_reserved(&key));
            for about in broad {
                if let Scope::Prefixes(prefixes) = &about.scope
                    && prefixes.match_key(&key)
                    && Self::concerns(about, leads(*partition))
                {
                    about.mail.changed(&key, *version);
                    told += 1;
                }
            }
        }
        self.figures.told.increment(told);
    }

    /// Publishes its figures.
    pub fn publish(&self) {
        let (mut keys, mut bytes) = (0, 0);
        for part in &self.parts {
            let part = part.lock();
            keys += part.keys();
            bytes += part.bytes();
        }
        self.figures.keys.set(keys as f64);
        self.figures.bytes.set(bytes as f64);
        self.figures.readers.set(self.readers.read().len() as f64);
    }
}

/// Tells a tracker of what the apply thread does.
pub struct Watching<F> {
    /// Whom.
    pub tracker: Arc<Tracker>,
    /// Whether this node is primary of a partition.
    pub leads: F,
}

impl<F> std::fmt::Debug for Watching<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watching").finish_non_exhaustive()
    }
}

impl<F: Fn(PartitionId) -> bool + Send + Sync> KeyWatch for Watching<F> {
    fn wants(&self) -> bool {
        // See `Tracker::open`.
        fence(Ordering::SeqCst);
        !self.tracker.is_idle()
    }

    fn changed(&self, changes: &[Change]) {
        self.tracker.changed(changes, &self.leads);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(1);
    const Q: PartitionId = PartitionId(2);

    fn change(partition: PartitionId, key: &'static str) -> Change {
        Change {
            partition,
            key: Bytes::from(key),
            version: None,
        }
    }

    fn told(reader: &Reader) -> (bool, Vec<Bytes>) {
        let taken = reader.mail().take();
        (taken.all, taken.keys.into_iter().map(|(k, _)| k).collect())
    }

    fn open(tracker: &Arc<Tracker>, scope: Scope) -> Reader {
        tracker.open(scope, false, Arc::new(Mail::default()))
    }

    #[test]
    fn readers_are_told_of_what_they_read_and_no_more_once_they_are_gone() {
        let tracker = Arc::new(Tracker::new(1 << 20));
        let watching = Watching {
            tracker: Arc::clone(&tracker),
            leads: |partition| partition == P,
        };
        assert!(!watching.wants());
        let (a, b) = (open(&tracker, Scope::Read), open(&tracker, Scope::Read));
        assert!(watching.wants());
        tracker.remember(P, b"k", a.id());
        tracker.remember(P, b"k", b.id());
        tracker.remember(Q, b"q", a.id());
        watching.changed(&[change(P, "k"), change(P, "other"), change(P, "k")]);
        assert_eq!(told(&a), (false, vec![Bytes::from("k")]));
        assert_eq!(told(&b), (false, vec![Bytes::from("k")]));
        watching.changed(&[change(Q, "q")]);
        assert_eq!(told(&a), (false, vec![Bytes::from("q")]));
        tracker.remember(P, b"k", a.id());
        tracker.flush(Q);
        assert!(a.mail().is_empty());
        tracker.flush(P);
        assert_eq!(told(&a), (false, vec![Bytes::from("k")]));
        assert!(b.mail().is_empty());
        drop((a, b));
        assert!(!watching.wants());
    }

    #[test]
    fn who_wants_prefixes_is_told_by_the_primary_unless_it_reads_replicas() {
        let tracker = Arc::new(Tracker::new(1 << 20));
        let watching = Watching {
            tracker: Arc::clone(&tracker),
            leads: |partition| partition == P,
        };
        let prefixes = Prefixes::default().with(&[Bytes::from("a")]).unwrap();
        let broad = open(&tracker, Scope::Prefixes(prefixes));
        let changes = [change(P, "a1"), change(P, "b1"), change(Q, "a2")];
        watching.changed(&changes);
        assert_eq!(told(&broad), (false, vec![Bytes::from("a1")]));
        broad.reads_replicas();
        watching.changed(&changes);
        let both = vec![Bytes::from("a1"), Bytes::from("a2")];
        assert_eq!(told(&broad), (false, both));
        tracker.flush(Q);
        assert_eq!(told(&broad), (true, Vec::new()));
        assert_eq!(tracker.partitions(), (BTreeSet::new(), true));
    }

    #[test]
    fn what_has_no_room_is_told() {
        let tracker = Arc::new(Tracker::new(PARTS * 4 * 120));
        let reader = open(&tracker, Scope::Read);
        for number in 0..1000u32 {
            tracker.remember(P, &number.to_be_bytes(), reader.id());
        }
        let (all, keys) = told(&reader);
        let kept: usize = tracker.parts.iter().map(|part| part.lock().keys()).sum();
        assert!(!all && kept > 0 && kept <= PARTS * 4);
        assert_eq!(keys.len() + kept, 1000);
    }
}
