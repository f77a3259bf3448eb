//! Reads of the state: at once from the value cache, else on a reader thread.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use cairn_core::ids::{Index, Mark};
use cairn_core::kv::ExpiryRow;
use cairn_core::replication::Generation;
use cairn_storage::state::{self, KEY_PREFIX_BYTES, Kind};
use cairn_storage::store::Store;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::cache::ValueCache;
use super::counts::KeyCounts;
use super::snapshot::Room;
use super::{ApplyHandle, FjallStore, SnapshotSink, SnapshotSource, StorageError};

/// The most reads that wait for a reader thread.
const WAITING_MAX: usize = 64 << 10;
/// How many reads a thread takes at once.
const TAKEN_MAX: usize = 32;

type Answer = Result<Option<Bytes>, StorageError>;

#[derive(Debug)]
struct Wanted {
    generation: Generation,
    key: Bytes,
    answer: oneshot::Sender<Answer>,
}

#[derive(Debug, Default)]
struct Queue {
    wanted: VecDeque<Wanted>,
    sleeping: usize,
    closing: bool,
}

#[derive(Debug)]
struct Shared {
    store: FjallStore,
    cache: Arc<ValueCache>,
    counts: Arc<KeyCounts>,
    room: Room,
    queue: Mutex<Queue>,
    news: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
    apply: ApplyHandle,
}

/// How much of the expiry index is taken at once.
#[derive(Clone, Copy, Debug)]
pub struct DueBounds {
    /// The most rows.
    pub rows: usize,
    /// About the most bytes of keys.
    pub bytes: usize,
}

/// What of the expiry index is due.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// The rows, ascending.
    pub rows: Vec<ExpiryRow>,
    /// The first row behind them, due or not.
    pub next: Option<ExpiryRow>,
}

/// The idempotence table as the store holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableRows {
    /// The last mark that was applied when it was so.
    pub applied: Mark,
    /// The rows, ascending by index.
    pub rows: Vec<(Index, Bytes)>,
}

/// A range of clients' keys.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct KeyRange {
    /// The first key that may be in it.
    pub from: Bytes,
    /// The first key past it; `None`: it reaches to the last key.
    pub to: Option<Bytes>,
}

impl KeyRange {
    /// The keys that begin with `prefix`, those after `after` where it is given.
    #[must_use]
    pub fn new(prefix: &[u8], after: Option<&[u8]>) -> Self {
        // The first key that is greater than another is that one with a zero behind it.
        let behind = after.map(|after| [after, &[0]].concat());
        let from = behind.filter(|behind| &behind[..] > prefix);
        // Past all of them is the shortest key that is greater than each.
        let last = prefix.iter().rposition(|byte| *byte != u8::MAX);
        let to = last.map(|last| {
            let mut to = prefix[..=last].to_vec();
            to[last] += 1;
            Bytes::from(to)
        });
        Self {
            from: from.map_or_else(|| Bytes::copy_from_slice(prefix), Bytes::from),
            to,
        }
    }
}

/// Reads the state of any partition. Cheap to clone.
///
/// Values come back as the store holds them:
/// [`cairn_core::kv::VersionedValue::decode`] reads them.
#[derive(Clone, Debug)]
pub struct StateReader {
    shared: Arc<Shared>,
}

impl StateReader {
    pub(super) fn start(
        store: FjallStore,
        (cache, counts): (Arc<ValueCache>, Arc<KeyCounts>),
        apply: ApplyHandle,
        threads: usize,
        room: Room,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            store,
            cache,
            counts,
            room,
            queue: Mutex::default(),
            news: Condvar::new(),
            threads: Mutex::default(),
            apply,
        });
        for number in 0..threads.max(1) {
            let worker = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("cairn-read-{number}"))
                .spawn(move || worker.serve())?;
            shared.threads.lock().push(thread);
        }
        Ok(Self { shared })
    }

    /// Somebody waits for what has committed to be applied: no more is gathered first.
    pub(crate) fn hurry(&self) {
        self.shared.apply.hurry();
    }

    /// What the value cache knows of a key: `None` where it knows nothing,
    /// `Some(None)` where it knows that there is no such key. Never blocks. What it
    /// returns is at least as new as the applied index that was published before.
    #[must_use]
    pub fn get_cached(&self, generation: Generation, key: &[u8]) -> Option<Option<Bytes>> {
        self.shared.cache.get(generation, key)
    }

    /// A key's value, on a reader thread where the cache lacks it.
    ///
    /// # Errors
    /// Where the store cannot be read, or too many reads wait.
    pub async fn get(
        &self,
        generation: Generation,
        key: Bytes,
    ) -> Result<Option<Bytes>, StorageError> {
        if let Some(known) = self.get_cached(generation, &key) {
            return Ok(known);
        }
        let (answer, answered) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock();
            if queue.closing {
                return Err(StorageError::Closed);
            }
            if queue.wanted.len() >= WAITING_MAX {
                return Err(StorageError::Overloaded);
            }
            queue.wanted.push_back(Wanted {
                generation,
                key,
                answer,
            });
            if queue.sleeping > 0 {
                self.shared.news.notify_one();
            }
        }
        answered.await.map_err(|_| StorageError::Closed)?
    }

    /// A key's value, on the caller's thread, which may block on the disk.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn get_blocking(
        &self,
        generation: Generation,
        key: &[u8],
    ) -> Result<Option<Bytes>, StorageError> {
        match self.get_cached(generation, key) {
            Some(known) => Ok(known),
            None => self.shared.read(generation, key),
        }
    }

    /// How many keys the generation holds, those past their expiry that are not removed
    /// yet included: as of the applied index that was published before, or newer.
    #[must_use]
    pub fn keys(&self, generation: Generation) -> u64 {
        self.shared.counts.get(generation)
    }

    /// The last mark that the generation has applied, and the rows of the idempotence
    /// table as of it, ascending by index ([`cairn_core::kv::body`] says what they hold).
    /// Blocks.
    ///
    /// Both come from one view. fjall shows a single key as soon as a batch has put it in
    /// place, and a range only once the whole batch is there: a mark that was read by itself
    /// may be newer than the rows that are read after it.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn table(&self, generation: Generation) -> Result<TableRows, StorageError> {
        let view = self.shared.store.view();
        let applied = state::applied(&view, generation)?;
        let (from, to) = state::kind_range(generation, Kind::Table);
        let mut rows = Vec::new();
        let mut strange = false;
        view.scan(&from, Some(&to), &mut |key, row| {
            match key[KEY_PREFIX_BYTES..].try_into() {
                Ok(index) => rows.push((Index(u64::from_be_bytes(index)), row)),
                Err(_) => strange = true,
            }
            !strange
        })?;
        if strange {
            return Err(StorageError::Damaged(
                "a row of the idempotence table has no index for a key".to_owned(),
            ));
        }
        Ok(TableRows { applied, rows })
    }

    /// Visits keys within `keys`, ascending, with their values, from one consistent
    /// view, until `visit` returns `false`. The view lives as long as the visit: it is
    /// to be short. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn visit_blocking(
        &self,
        generation: Generation,
        keys: &KeyRange,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StorageError> {
        let (_, end) = state::kind_range(generation, Kind::Data);
        let from = state::data_key(generation, &keys.from);
        let to = keys
            .to
            .as_ref()
            .map_or(end, |to| state::data_key(generation, to));
        if from < to {
            self.shared
                .store
                .scan(&from, Some(&to), &mut |key, value| {
                    visit(key.slice(KEY_PREFIX_BYTES..), value)
                })?;
        }
        Ok(())
    }

    /// The rows of the expiry index from `from` on that are due by the second
    /// `through`, ascending, as many as `bounds` allow and at least one. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn due_blocking(
        &self,
        generation: Generation,
        from: &ExpiryRow,
        through: u64,
        bounds: DueBounds,
    ) -> Result<Due, StorageError> {
        let (_, to) = state::kind_range(generation, Kind::Expiry);
        let from = state::expiry_key(generation, from);
        let mut due = Due::default();
        let mut bytes = 0;
        let mut strange = false;
        self.shared.store.scan_keys(&from, Some(&to), &mut |name| {
            let Some(row) = ExpiryRow::decode(&name.slice(KEY_PREFIX_BYTES..)) else {
                strange = true;
                return false;
            };
            bytes += row.key.len();
            let full = due.rows.len() >= bounds.rows || bytes > bounds.bytes;
            if row.second > through || (full && !due.rows.is_empty()) {
                due.next = Some(row);
                return false;
            }
            due.rows.push(row);
            true
        })?;
        if strange {
            return Err(StorageError::Damaged(
                "a row of the expiry index has no second".to_owned(),
            ));
        }
        Ok(due)
    }

    /// A consistent view of a generation to stream to another node. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn snapshot(&self, generation: Generation) -> Result<SnapshotSource, StorageError> {
        SnapshotSource::open(&self.shared.store, generation)
    }

    /// Begins to write a snapshot from another node into a fresh generation. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be written, or the disk is nearly full.
    pub fn install(&self, generation: Generation) -> Result<SnapshotSink, StorageError> {
        let counts = Arc::clone(&self.shared.counts);
        SnapshotSink::open(
            &self.shared.store,
            self.shared.room.clone(),
            counts,
            generation,
        )
    }

    /// Ends the reader threads; what waits is refused. Blocks.
    pub(super) fn close(&self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.closing = true;
            queue.wanted.clear();
        }
        self.shared.news.notify_all();
        for thread in self.shared.threads.lock().drain(..) {
            // A reader that panicked has printed why.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut taken = Vec::with_capacity(TAKEN_MAX);
        loop {
            {
                let mut queue = self.queue.lock();
                while queue.wanted.is_empty() && !queue.closing {
                    queue.sleeping += 1;
                    self.news.wait(&mut queue);
                    queue.sleeping -= 1;
                }
                if queue.closing {
                    return;
                }
                let count = queue.wanted.len().min(TAKEN_MAX);
                taken.extend(queue.wanted.drain(..count));
            }
            for wanted in taken.drain(..) {
                let answer = self.read(wanted.generation, &wanted.key);
                // Nobody waits any more: then nobody is told.
                let _ = wanted.answer.send(answer);
            }
        }
    }

    fn read(&self, generation: Generation, key: &[u8]) -> Answer {
        let now = self.cache.now();
        let key = state::data_key(generation, key);
        let value = self.store.get(&key)?;
        self.cache.put(key, value.clone(), now);
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(range: &KeyRange, key: &[u8]) -> bool {
        key >= &range.from[..] && range.to.as_ref().is_none_or(|to| key < &to[..])
    }

    #[test]
    fn a_range_holds_the_keys_of_its_prefix_after_the_one_given() {
        let keys: [&[u8]; 9] = [
            b"",
            b"a",
            b"a\0",
            b"ab",
            b"ab\xff",
            b"ab\xff\xff",
            b"b",
            b"\xff",
            b"\xff\xff",
        ];
        for prefix in keys {
            for after in keys.into_iter().map(Some).chain([None]) {
                let range = KeyRange::new(prefix, after);
                for key in keys {
                    let expected = key.starts_with(prefix) && after.is_none_or(|a| key > a);
                    assert_eq!(holds(&range, key), expected, "{prefix:?} {after:?} {key:?}");
                }
            }
        }
    }
}
