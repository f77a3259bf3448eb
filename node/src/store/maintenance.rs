//! What must be done now and then: persisting the store and telling the log what is
//! durable, removing dropped generations, looking at free space, estimating how much each
//! generation takes.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{DiskRoom, Generation};
use cairn_storage::state::Dropping;
use cairn_storage::store::Store;
use parking_lot::{Condvar, Mutex};

use super::counts::KeyCounts;
use super::open::SizesCallback;
use super::opening::remove_set_aside;
use super::sizes::Sizes;
use super::{Applied, FjallStore};
use crate::disk::{DirectoryDisk, DiskSpace, KeepWatch, SpaceWatch, WalHandle, fatal};

/// How often free space is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often the sizes of generations are estimated, where anything changed.
const MEASURE: Duration = Duration::from_secs(5);
/// Keys of a dropped generation that go in one batch.
const DROP_KEYS: usize = 512;

/// Where things lie.
#[derive(Debug)]
pub(super) struct Place {
    /// The log's directory, on the disk that all share.
    pub(super) disk: DirectoryDisk,
    /// The store's directory.
    pub(super) state: PathBuf,
}

/// Whom the maintenance thread tells what it sees. None of them may block for long.
pub(super) struct Told {
    /// What room for data there is; at the start, and at each change.
    pub(super) disk_room: Box<dyn FnMut(DiskRoom) + Send>,
    /// The room of the disk, at each look.
    pub(super) disk_space: Box<dyn FnMut(DiskSpace) + Send>,
    /// Sizes that are news.
    pub(super) sizes: SizesCallback,
}

/// When the store is persisted: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub(super) struct PersistAfter {
    pub(super) bytes: u64,
    pub(super) time: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    /// What was applied since the store was last persisted.
    applied: BTreeMap<PartitionId, (Generation, Index)>,
    applied_bytes: u64,
    drops: VecDeque<Generation>,
    closing: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Hands work to the maintenance thread. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct MaintenanceHandle {
    shared: Arc<Shared>,
    persist_after: PersistAfter,
}

impl MaintenanceHandle {
    pub(super) fn new(persist_after: PersistAfter) -> Self {
        Self {
            shared: Arc::default(),
            persist_after,
        }
    }

    pub(super) fn start(
        &self,
        store: FjallStore,
        place: Place,
        wal: WalHandle,
        counts: Arc<KeyCounts>,
        (watch, keep): (SpaceWatch, KeepWatch),
        told: Told,
    ) -> std::io::Result<()> {
        let worker = Worker {
            store,
            place,
            dropping: None,
            wal,
            watch,
            keep,
            told,
            counts,
            sizes: Sizes::default(),
            shared: Arc::clone(&self.shared),
            persist_after: self.persist_after,
            persisted_at: Instant::now(),
            persist_seconds: metrics::histogram!("cairn_store_persist_seconds"),
            free: metrics::gauge!("cairn_disk_free_bytes"),
            disk_size: metrics::gauge!("cairn_disk_size_bytes"),
            size: metrics::gauge!("cairn_store_size_bytes"),
        };
        let thread = std::thread::Builder::new()
            .name("cairn-upkeep".to_owned())
            .spawn(move || worker.run())?;
        *self.shared.thread.lock() = Some(thread);
        Ok(())
    }

    /// From the apply thread: so much was applied.
    pub(super) fn applied(&self, moved: &[Applied], bytes: u64) {
        let mut queue = self.shared.queue.lock();
        for one in moved {
            queue
                .applied
                .insert(one.partition, (one.generation, one.index));
        }
        let before = queue.applied_bytes;
        queue.applied_bytes += bytes;
        let due = self.persist_after.bytes;
        if before < due && queue.applied_bytes >= due {
            self.shared.news.notify_one();
        }
    }

    pub(super) fn drop_generation(&self, generation: Generation) {
        self.shared.queue.lock().drops.push_back(generation);
        self.shared.news.notify_one();
    }

    /// Persists the store a last time and ends the thread. Blocks.
    pub(super) fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.news.notify_one();
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            // The thread ends the process rather than panic.
            let _ = thread.join();
        }
    }
}

struct Worker {
    store: FjallStore,
    place: Place,
    /// The generation that is being removed.
    dropping: Option<Dropping>,
    wal: WalHandle,
    watch: SpaceWatch,
    keep: KeepWatch,
    told: Told,
    counts: Arc<KeyCounts>,
    sizes: Sizes,
    shared: Arc<Shared>,
    persist_after: PersistAfter,
    persisted_at: Instant,
    persist_seconds: metrics::Histogram,
    free: metrics::Gauge,
    disk_size: metrics::Gauge,
    size: metrics::Gauge,
}

impl Worker {
    fn run(mut self) {
        self.look();
        self.measure();
        let mut looked = Instant::now();
        let mut measured = looked;
        loop {
            let (persist, closing) = self.wait();
            self.drop_some();
            if persist || closing {
                self.persist();
            }
            if closing {
                return;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look();
            }
            if measured.elapsed() >= MEASURE {
                measured = Instant::now();
                self.measure();
            }
        }
    }

    fn wait(&mut self) -> (bool, bool) {
        let due = |queue: &Queue| {
            !queue.applied.is_empty()
                && (queue.applied_bytes >= self.persist_after.bytes
                    || self.persisted_at.elapsed() >= self.persist_after.time)
        };
        let mut queue = self.shared.queue.lock();
        let idle = self.dropping.is_none() && queue.drops.is_empty();
        if idle && !due(&queue) && !queue.closing {
            self.shared.news.wait_for(&mut queue, LOOK);
        }
        if self.dropping.is_none() {
            self.dropping = queue.drops.pop_front().map(Dropping::new);
        }
        (due(&queue), queue.closing)
    }

    fn look(&mut self) {
        let space = match self.place.disk.space() {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "could not ask for free space");
                return;
            }
        };
        let free = space.free_bytes;
        self.free.set(free as f64);
        self.disk_size.set(space.total_bytes as f64);
        (self.told.disk_space)(space);
        if let Some(keeping) = self.keep.observe(free) {
            self.wal.set_keeping(keeping);
        }
        if let Some(room) = self.watch.observe(free) {
            match room {
                DiskRoom::Ample => tracing::info!(free, "the disk has room for data"),
                DiskRoom::Reserve => {
                    tracing::warn!(free, "the disk is nearly full: only deletes are taken");
                }
                DiskRoom::Spent => {
                    tracing::error!(free, "the disk is full: nothing is taken, deletes neither");
                }
            }
            if room != DiskRoom::Ample {
                match remove_set_aside(&self.place.state) {
                    Ok(true) => tracing::warn!("removed a damaged store to make room"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(%error, "could not remove a damaged store"),
                }
            }
            (self.told.disk_room)(room);
        }
    }

    fn measure(&mut self) {
        let news = self.sizes.measure(&self.store, &self.counts.all());
        if !news.is_empty() {
            (self.told.sizes)(news);
        }
    }

    fn persist(&mut self) {
        let applied = {
            let mut queue = self.shared.queue.lock();
            queue.applied_bytes = 0;
            std::mem::take(&mut queue.applied)
        };
        self.persisted_at = Instant::now();
        if applied.is_empty() {
            return;
        }
        if let Err(error) = self.store.persist() {
            fatal("the state cannot be made durable", &error);
        }
        self.persist_seconds.record(self.persisted_at.elapsed());
        self.size.set(self.store.disk_bytes() as f64);
        let durable: Vec<(PartitionId, Generation, Index)> = applied
            .into_iter()
            .map(|(partition, (generation, index))| (partition, generation, index))
            .collect();
        self.wal.set_store_durable(&durable);
    }

    /// A little at a time, so that persisting and the watch over space, which everybody
    /// waits for, come in between.
    fn drop_some(&mut self) {
        let Some(dropping) = &mut self.dropping else {
            return;
        };
        match dropping.step(&self.store, DROP_KEYS) {
            Ok(true) => {}
            Ok(false) => self.dropping = None,
            // What nobody uses any more only takes room: a block of it that cannot be
            // read is no reason to end the process at each start. Where nothing can be
            // written, the apply thread will find that.
            Err(error) => {
                tracing::error!(%error, "cannot remove a state");
                self.dropping = None;
            }
        }
    }
}
