//! The thread that applies committed entries to the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::kv::VersionedValue;
use cairn_core::replication::{Generation, LogEntry};
use cairn_core::tracking::{BatchStage, Change};
use cairn_storage::state::{Applier, ApplyObserver, KEY_PREFIX_BYTES, generation_of_data};
use cairn_storage::store::{StoreChange, StoreError};
use parking_lot::{Condvar, Mutex};

use super::FjallStore;
use super::cache::ValueCache;
use super::counts::KeyCounts;
use super::maintenance::MaintenanceHandle;
use super::open::{CorruptCallback, KeyWatch};
use super::present::Present;
use crate::disk::fatal;
use crate::processor::thread_time;

/// Where a batch is closed and written.
const BATCH_BYTES: usize = 4 << 20;
/// How long after a batch the next one is begun, where nobody waits for it: each batch
/// has rows of every partition that it touches, so that few large ones write far less than
/// many small ones. An acknowledged write is in W logs and is applied after that, so that
/// whoever is told of it is told no later. Whoever waits for what is applied hurries it
/// ([`ApplyHandle::hurry`]), after which nothing is gathered for as long again.
const GATHER: Duration = Duration::from_millis(100);
/// As soon as so much waits nothing more is gathered.
const GATHERED_BYTES: u64 = 1 << 20;

/// How far a partition's state has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    /// Which partition.
    pub partition: PartitionId,
    /// In which generation of its state.
    pub generation: Generation,
    /// The last applied index.
    pub index: Index,
}

/// What the apply thread calls with the partitions that moved on.
pub type AppliedCallback = Box<dyn FnMut(&[Applied]) + Send>;

/// What the apply thread calls with how many entries it applied for whom, and how long that took of
/// a processor.
pub type AppliedSpent = Box<dyn FnMut(&[(PartitionId, usize)], Duration) + Send>;

/// Whom the apply thread tells of what it did.
pub(super) struct WhoIsTold {
    pub(super) applied: AppliedCallback,
    pub(super) spent: AppliedSpent,
    pub(super) keys: Arc<dyn KeyWatch>,
}

#[derive(Debug)]
enum Job {
    Apply {
        partition: PartitionId,
        generation: Generation,
        entries: Vec<LogEntry>,
    },
    Drop {
        generation: Generation,
    },
}

fn bytes_of(entries: &[LogEntry]) -> u64 {
    entries.iter().map(|e| e.body.len() as u64 + 64).sum()
}

#[derive(Debug, Default)]
struct Queue {
    jobs: Vec<Job>,
    sleeping: bool,
    /// The thread gathers more before it writes.
    gathering: bool,
    /// Somebody waits for what lies here to be applied.
    hurried: bool,
    closing: bool,
}

impl Queue {
    /// Whether the thread did gather, and is to be woken.
    fn stop_gathering(&mut self) -> bool {
        std::mem::take(&mut self.gathering)
    }
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    backlog: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Hands committed entries to the apply thread. Cheap to clone; every call returns
/// at once.
#[derive(Clone, Debug)]
pub struct ApplyHandle {
    shared: Arc<Shared>,
}

impl ApplyHandle {
    pub(super) fn start(
        store: FjallStore,
        cache: Arc<ValueCache>,
        counts: Arc<KeyCounts>,
        maintenance: MaintenanceHandle,
        WhoIsTold {
            applied,
            spent,
            keys,
        }: WhoIsTold,
        corrupt: CorruptCallback,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let worker = Worker {
            store,
            cache,
            present: Present::new(),
            counts,
            maintenance,
            applied,
            spent,
            spent_until: Duration::ZERO,
            shares: Vec::new(),
            keys,
            corrupt,
            damaged: BTreeSet::new(),
            applier: Applier::default(),
            touched: Vec::new(),
            dropped: BTreeSet::new(),
            shared: Arc::clone(&shared),
            figures: Figures::new(),
        };
        let thread = std::thread::Builder::new()
            .name("cairn-apply".to_owned())
            .spawn(move || worker.run())?;
        *shared.thread.lock() = Some(thread);
        Ok(Self { shared })
    }

    /// Applies entries in the order in which they are submitted. Entries at or
    /// below the applied index are passed over.
    pub fn submit(&self, partition: PartitionId, generation: Generation, entries: Vec<LogEntry>) {
        if entries.is_empty() {
            return;
        }
        self.shared
            .backlog
            .fetch_add(bytes_of(&entries), Ordering::Relaxed);
        self.push(Job::Apply {
            partition,
            generation,
            entries,
        });
    }

    /// How many bytes wait to be applied: past some bound the engine takes no more
    /// proposals.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    /// Removes every key of a generation, in the background. What was submitted for
    /// it before is passed over.
    pub fn drop_generation(&self, generation: Generation) {
        self.push(Job::Drop { generation });
    }

    fn push(&self, job: Job) {
        let mut queue = self.shared.queue.lock();
        queue.jobs.push(job);
        let much = queue.gathering && self.backlog_bytes() >= GATHERED_BYTES;
        let wake = std::mem::take(&mut queue.sleeping) || (much && queue.stop_gathering());
        drop(queue);
        if wake {
            self.shared.news.notify_one();
        }
    }

    /// Has what was submitted applied without more being gathered: somebody waits for it.
    pub fn hurry(&self) {
        let mut queue = self.shared.queue.lock();
        queue.hurried = true;
        let wake = queue.stop_gathering();
        drop(queue);
        if wake {
            self.shared.news.notify_one();
        }
    }

    /// Applies what was submitted and ends the thread. Blocks.
    pub(super) fn close(&self) {
        {
            let mut queue = self.shared.queue.lock();
            queue.closing = true;
            queue.stop_gathering();
        }
        self.shared.news.notify_one();
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            // The thread ends the process rather than panic.
            let _ = thread.join();
        }
    }
}

struct Figures {
    batch_seconds: metrics::Histogram,
    entries: metrics::Counter,
}

impl Figures {
    fn new() -> Self {
        metrics::describe_histogram!(
            "cairn_apply_batch_seconds",
            "How long writing a batch to the store took."
        );
        Self {
            batch_seconds: metrics::histogram!("cairn_apply_batch_seconds"),
            entries: metrics::counter!("cairn_applied_entries_total"),
        }
    }
}

struct Worker {
    store: FjallStore,
    cache: Arc<ValueCache>,
    present: Present,
    counts: Arc<KeyCounts>,
    maintenance: MaintenanceHandle,
    applied: AppliedCallback,
    spent: AppliedSpent,
    /// The thread's time on a processor that was told of.
    spent_until: Duration,
    /// Entries that were staged since then.
    shares: Vec<(PartitionId, usize)>,
    keys: Arc<dyn KeyWatch>,
    corrupt: CorruptCallback,
    /// Generations to which an entry could not be applied: nothing is built upon them.
    damaged: BTreeSet<Generation>,
    applier: Applier,
    /// The partitions with something staged.
    touched: Vec<(Generation, PartitionId)>,
    /// Generations that were dropped: numbers are never used again, so that what
    /// still comes for one is late.
    dropped: BTreeSet<Generation>,
    shared: Arc<Shared>,
    figures: Figures,
}

impl Worker {
    fn run(mut self) {
        let mut jobs = Vec::new();
        let mut written_at = Instant::now();
        let mut hurried_at = written_at;
        loop {
            let closing = {
                let mut queue = self.shared.queue.lock();
                while queue.jobs.is_empty() && !queue.closing {
                    queue.sleeping = true;
                    self.shared.news.wait(&mut queue);
                }
                queue.sleeping = false;
                if self.keys.wants() {
                    // Who keeps copies of keys is told of changes as they are applied.
                    queue.hurried = true;
                }
                let until = written_at + GATHER;
                queue.gathering =
                    !queue.hurried && !queue.closing && hurried_at.elapsed() >= GATHER;
                while queue.gathering {
                    if self.shared.news.wait_until(&mut queue, until).timed_out() {
                        queue.gathering = false;
                    }
                }
                if std::mem::take(&mut queue.hurried) {
                    hurried_at = Instant::now();
                }
                std::mem::swap(&mut queue.jobs, &mut jobs);
                queue.closing && jobs.is_empty()
            };
            if closing {
                return;
            }
            for job in jobs.drain(..) {
                match job {
                    Job::Apply {
                        partition,
                        generation,
                        entries,
                    } => self.stage(partition, generation, &entries),
                    Job::Drop { generation } => {
                        self.commit();
                        self.dropped.insert(generation);
                        self.damaged.remove(&generation);
                        self.applier.forget(generation);
                        self.counts.forget(generation);
                        self.maintenance.drop_generation(generation);
                    }
                }
                if self.applier.staged_bytes() >= BATCH_BYTES {
                    self.commit();
                }
            }
            self.commit();
            written_at = Instant::now();
        }
    }

    fn stage(&mut self, partition: PartitionId, generation: Generation, entries: &[LogEntry]) {
        self.shared
            .backlog
            .fetch_sub(bytes_of(entries), Ordering::Relaxed);
        if self.dropped.contains(&generation) || self.damaged.contains(&generation) {
            return;
        }
        let staged = self
            .applier
            .stage(&self.store, partition, generation, entries);
        if let Err(error) = staged {
            // Nothing of the call was staged. Whatever it is, a bug, a broken memory or a
            // damaged block of this state, it would be the same at the next start, and is
            // no reason to take the other partitions down (rule 12).
            tracing::error!(%partition, %error, "committed entries cannot be applied");
            self.damaged.insert(generation);
            (self.corrupt)(partition);
            return;
        }
        self.touched.push((generation, partition));
        self.shares.push((partition, entries.len()));
        self.figures.entries.increment(entries.len() as u64);
    }

    fn commit(&mut self) {
        if self.applier.staged_bytes() == 0 {
            self.touched.clear();
            self.shares.clear();
            return;
        }
        let begun = Instant::now();
        self.touched.sort_unstable();
        self.touched.dedup();
        let bytes = self.applier.staged_bytes() as u64;
        let mut watcher = Watcher {
            cache: &self.cache,
            present: &mut self.present,
            counts: &self.counts,
            keys: &*self.keys,
            touched: &self.touched,
            moved: Vec::with_capacity(self.touched.len()),
            unreadable: Vec::new(),
        };
        if let Err(error) = self.applier.commit(&self.store, &mut watcher) {
            fatal("the state cannot be written", &error);
        }
        let Watcher {
            moved, unreadable, ..
        } = watcher;
        for (partition, generation, error) in unreadable {
            // As where entries cannot be staged: no reason to take the others down.
            tracing::error!(%partition, %error, "the state cannot be read to apply to it");
            self.damaged.insert(generation);
            (self.corrupt)(partition);
        }
        (self.applied)(&moved);
        self.maintenance.applied(&moved, bytes);
        self.touched.clear();
        self.figures.batch_seconds.record(begun.elapsed());
        let until = thread_time();
        let spent = until.saturating_sub(self.spent_until);
        (self.spent)(&self.shares, spent);
        self.spent_until = until;
        self.shares.clear();
    }
}

/// Keeps the cache and the counts true and collects what moved on.
struct Watcher<'a> {
    cache: &'a ValueCache,
    present: &'a mut Present,
    counts: &'a KeyCounts,
    keys: &'a dyn KeyWatch,
    /// Sorted by generation.
    touched: &'a [(Generation, PartitionId)],
    moved: Vec<Applied>,
    unreadable: Vec<(PartitionId, Generation, StoreError)>,
}

impl Watcher<'_> {
    fn partition_of(&self, generation: Generation) -> Option<PartitionId> {
        let at = self.touched.partition_point(|(g, _)| *g < generation);
        let (_, partition) = self.touched.get(at).filter(|(g, _)| *g == generation)?;
        Some(*partition)
    }

    /// Tells of the keys that change, when it is time for that.
    fn tell(&self, stage: BatchStage, changes: &[StoreChange]) {
        if !stage.tells() || !self.keys.wants() {
            return;
        }
        let changes = changes.iter().filter_map(|(key, value)| {
            let generation = generation_of_data(key)?;
            // One whose version cannot be read is damaged, which its reader finds.
            let version = value.clone().and_then(|v| VersionedValue::decode(v).ok());
            Some(Change {
                partition: self.partition_of(generation)?,
                key: key.slice(KEY_PREFIX_BYTES..),
                version: version.map(|stored| stored.version),
            })
        });
        self.keys.changed(&changes.collect::<Vec<_>>());
    }
}

impl ApplyObserver for Watcher<'_> {
    fn known(&self, key: &Bytes) -> Option<bool> {
        if self.present.knows(key) {
            return Some(true);
        }
        self.cache.known(key)
    }

    fn unreadable(&mut self, generation: Generation, error: StoreError) {
        if let Some(partition) = self.partition_of(generation) {
            self.unreadable.push((partition, generation, error));
        }
    }

    fn before(&mut self, changes: &[StoreChange]) {
        self.cache.begin(changes);
        self.tell(BatchStage::Begun, changes);
    }

    fn after(&mut self, changes: &[StoreChange]) {
        self.cache.finish(changes);
        for (key, value) in changes {
            if generation_of_data(key).is_some() {
                self.present.changed(key, value.is_some());
            }
        }
        self.tell(BatchStage::Seen, changes);
    }

    fn moved(&mut self, generation: Generation, applied: Mark, keys: u64) {
        self.counts.set(generation, keys);
        if let Some(partition) = self.partition_of(generation) {
            self.moved.push(Applied {
                partition,
                generation,
                index: applied.index(),
            });
        }
    }
}
