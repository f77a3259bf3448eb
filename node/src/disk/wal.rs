//! The write-ahead log's thread and the handle that the engine holds.
//!
//! Records that arrive while a flush is under way wait and share the next one: group
//! commit without a timer. The thread sleeps on a condition; submitting wakes it only
//! where it sleeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use cairn_core::ids::{Index, PartitionId};
use cairn_core::replication::{DurableRecord, Generation};
use cairn_storage::disk::Disk;
use cairn_storage::format::record::size_hint;
use cairn_storage::wal::{Wal, WalOptions, prepare_spare};
use parking_lot::{Condvar, Mutex};

use super::{DirectoryDisk, fatal};
use crate::store::CorruptCallback;

/// Sizes of the write-ahead log.
#[derive(Clone, Copy, Debug)]
pub struct WalConfig {
    /// The size of a segment.
    pub segment_bytes: u64,
    /// The size of the whole log past which replicas that lag no longer hold
    /// segments back; what the store does not durably hold always does.
    pub total_bytes: u64,
    /// So much of the log stays that nobody needs, and less than one segment more: watchers
    /// may want it.
    pub kept_bytes: u64,
    /// The most bytes of entries that recovery keeps in memory although the store
    /// durably holds them: for replicas that lag.
    pub recovered_bytes: usize,
    /// Whether it is written past the page cache, where the disk takes that.
    pub direct: bool,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            total_bytes: 512 << 20,
            kept_bytes: 128 << 20,
            recovered_bytes: 64 << 20,
            direct: true,
        }
    }
}

impl WalConfig {
    pub(crate) fn options(&self) -> WalOptions {
        WalOptions {
            segment_bytes: self.segment_bytes,
            total_bytes: self.total_bytes,
            kept_bytes: self.kept_bytes,
            recovered_bytes: self.recovered_bytes,
            ..WalOptions::default()
        }
    }
}

/// How long the log must have nothing to write before it says on the disk that all
/// before is flushed.
const IDLE: Duration = Duration::from_millis(100);
/// How long after a segment could not be prepared that is tried again.
const SPARE_AGAIN: Duration = Duration::from_secs(10);

/// What became of a segment that was to be prepared.
#[derive(Debug)]
enum Spare {
    /// It has this name.
    Ready(String),
    /// It could not be made.
    Failed,
}

#[derive(Debug, Default)]
struct Queue {
    records: Vec<DurableRecord>,
    bytes: u64,
    /// News for reclaiming, the newest of each partition. They wake nobody: they are
    /// read with the next records, or with what the store made durable.
    reclaimable: BTreeMap<PartitionId, Index>,
    durable: BTreeMap<PartitionId, (Generation, Index)>,
    spare: Option<Spare>,
    cluster: Option<String>,
    keeping: Option<bool>,
    closing: bool,
    /// The disk is to be tried.
    probe: bool,
    /// The thread sleeps.
    sleeping: bool,
    /// It is to wake although there are no records.
    nudged: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
    /// Bytes submitted and not yet flushed.
    backlog: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Hands records to the log's thread. Cheap to clone; every call returns at once.
#[derive(Clone, Debug)]
pub struct WalHandle {
    shared: Arc<Shared>,
}

impl WalHandle {
    /// Starts the thread of a log that was recovered. `flushed` and `corrupt` are called
    /// on it, `corrupt` first where both are due.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(
        wal: Wal<DirectoryDisk>,
        disk: DirectoryDisk,
        segment_bytes: u64,
        flushed: Box<dyn FnMut(u64) + Send>,
        corrupt: CorruptCallback,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writer = Writer {
            wal,
            disk,
            segment_bytes,
            spare_asked: false,
            spare_again_at: None,
            shared: Arc::clone(&shared),
            flushed,
            corrupt,
            figures: Figures::new(),
        };
        let thread = std::thread::Builder::new()
            .name("cairn-wal".to_owned())
            .spawn(move || writer.run())?;
        *shared.thread.lock() = Some(thread);
        Ok(Self { shared })
    }

    /// Appends records, in order. The core's numbers count them from 1 for the
    /// first record submitted after start; the `flushed` callback says up to which
    /// number they are durable.
    pub fn submit(&self, mut records: Vec<DurableRecord>) {
        self.submit_from(&mut records);
    }

    /// As [`Self::submit`], leaving the vector empty with memory for the next ones.
    /// How many bytes that is.
    pub fn submit_from(&self, records: &mut Vec<DurableRecord>) -> u64 {
        if records.is_empty() {
            return 0;
        }
        let bytes: u64 = records.iter().map(|r| size_hint(r) as u64).sum();
        self.shared.backlog.fetch_add(bytes, Ordering::Relaxed);
        let mut queue = self.shared.queue.lock();
        queue.bytes += bytes;
        if queue.records.is_empty() {
            // The vectors circulate between the engine and the log's thread.
            std::mem::swap(&mut queue.records, records);
        } else {
            queue.records.append(records);
        }
        self.wake(queue);
        bytes
    }

    /// From [`cairn_core::replication::Effect::ProbeLog`]: writes and flushes something
    /// that says nothing, then calls back with the number that it called with last.
    pub fn probe(&self) {
        let mut queue = self.shared.queue.lock();
        queue.probe = true;
        queue.nudged = true;
        self.wake(queue);
    }

    fn wake(&self, mut queue: parking_lot::MutexGuard<'_, Queue>) {
        let sleeping = std::mem::take(&mut queue.sleeping);
        drop(queue);
        if sleeping {
            self.shared.news.notify_one();
        }
    }

    /// How many bytes wait to be flushed: past some bound the engine takes no more
    /// proposals.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.shared.backlog.load(Ordering::Relaxed)
    }

    /// From [`cairn_core::replication::Effect::Reclaimable`].
    pub fn set_reclaimable(&self, partition: PartitionId, index: Index) {
        self.shared
            .queue
            .lock()
            .reclaimable
            .insert(partition, index);
    }

    /// From the store: up to where it durably holds these partitions.
    pub(crate) fn set_store_durable(&self, durable: &[(PartitionId, Generation, Index)]) {
        let mut queue = self.shared.queue.lock();
        for (partition, generation, index) in durable {
            queue.durable.insert(*partition, (*generation, *index));
        }
        queue.nudged = true;
        self.wake(queue);
    }

    /// Whether the disk has room for segments that nobody needs.
    pub(crate) fn set_keeping(&self, keeping: bool) {
        let mut queue = self.shared.queue.lock();
        queue.keeping = Some(keeping);
        queue.nudged = true;
        self.wake(queue);
    }

    /// The cluster that admitted the node: stands in every segment from the next on.
    pub fn set_cluster(&self, cluster: &str) {
        self.shared.queue.lock().cluster = Some(cluster.to_owned());
    }

    /// Flushes what was submitted, writes the closing batch and ends the thread.
    /// Blocks.
    pub(crate) fn close(&self) {
        let mut queue = self.shared.queue.lock();
        queue.closing = true;
        self.wake(queue);
        let thread = self.shared.thread.lock().take();
        if let Some(thread) = thread {
            // The thread ends the process rather than panic.
            let _ = thread.join();
        }
    }
}

struct Figures {
    flush_seconds: metrics::Histogram,
    batch_records: metrics::Histogram,
    records: metrics::Counter,
    bytes: metrics::Counter,
    segments: metrics::Gauge,
}

impl Figures {
    fn new() -> Self {
        metrics::describe_histogram!(
            "cairn_wal_flush_seconds",
            "How long a write to the log and its flush took."
        );
        metrics::describe_histogram!(
            "cairn_wal_batch_records",
            "How many records shared a flush."
        );
        Self {
            flush_seconds: metrics::histogram!("cairn_wal_flush_seconds"),
            batch_records: metrics::histogram!("cairn_wal_batch_records"),
            records: metrics::counter!("cairn_wal_records_total"),
            bytes: metrics::counter!("cairn_wal_written_bytes_total"),
            segments: metrics::gauge!("cairn_wal_size_bytes"),
        }
    }
}

struct Writer {
    wal: Wal<DirectoryDisk>,
    disk: DirectoryDisk,
    segment_bytes: u64,
    /// A spare is being prepared.
    spare_asked: bool,
    /// Not before then, after a failure.
    spare_again_at: Option<Instant>,
    shared: Arc<Shared>,
    flushed: Box<dyn FnMut(u64) + Send>,
    corrupt: CorruptCallback,
    figures: Figures,
}

/// What one turn of the thread has to do.
#[derive(Default)]
struct Turn {
    bytes: u64,
    reclaimable: BTreeMap<PartitionId, Index>,
    durable: BTreeMap<PartitionId, (Generation, Index)>,
    spare: Option<Spare>,
    cluster: Option<String>,
    keeping: Option<bool>,
    idle: bool,
    probe: bool,
    closing: bool,
}

impl Writer {
    fn run(mut self) {
        let mut records: Vec<DurableRecord> = Vec::new();
        let mut confirmed = true;
        loop {
            let mut turn = self.take(&mut records, confirmed);
            if !records.is_empty() {
                self.append(&mut records, turn.bytes);
                confirmed = false;
            }
            if let Some(cluster) = turn.cluster.take() {
                self.wal.set_cluster(cluster);
            }
            if let Some(spare) = turn.spare.take() {
                self.take_spare(spare);
            }
            if let Some(keeping) = turn.keeping {
                self.wal.set_keeping(keeping);
            }
            self.reclaim(&turn);
            self.ask_for_spare();
            if turn.idle || turn.closing {
                if let Err(error) = self.wal.confirm() {
                    fatal("the write-ahead log cannot be written", &error);
                }
                confirmed = true;
            }
            if turn.probe {
                // Whatever was appended in this turn was an answer already; the
                // callback says nothing new then, and is harmless.
                match self.wal.probe() {
                    Ok(number) => (self.flushed)(number),
                    Err(error) => fatal("the write-ahead log cannot be written", &error),
                }
                confirmed = true;
            }
            if turn.closing {
                return;
            }
        }
    }

    /// Waits for something to do and takes it.
    fn take(&self, records: &mut Vec<DurableRecord>, confirmed: bool) -> Turn {
        let mut queue = self.shared.queue.lock();
        let mut idle = false;
        while queue.records.is_empty() && !queue.nudged && !queue.closing && !idle {
            queue.sleeping = true;
            if confirmed {
                self.shared.news.wait(&mut queue);
            } else {
                idle = self.shared.news.wait_for(&mut queue, IDLE).timed_out();
            }
        }
        queue.sleeping = false;
        queue.nudged = false;
        std::mem::swap(&mut queue.records, records);
        Turn {
            bytes: std::mem::take(&mut queue.bytes),
            reclaimable: std::mem::take(&mut queue.reclaimable),
            durable: std::mem::take(&mut queue.durable),
            spare: queue.spare.take(),
            cluster: queue.cluster.take(),
            keeping: queue.keeping.take(),
            idle: idle && records.is_empty(),
            probe: std::mem::take(&mut queue.probe),
            closing: queue.closing,
        }
    }

    fn append(&mut self, records: &mut Vec<DurableRecord>, bytes: u64) {
        let begun = Instant::now();
        let number = match self.wal.append(records) {
            Ok(number) => number,
            Err(error) => fatal("the write-ahead log cannot be written", &error),
        };
        self.shared.backlog.fetch_sub(bytes, Ordering::Relaxed);
        // Before the flush is told of: what was not written must not be vouched for.
        self.tell_corrupt();
        (self.flushed)(number);
        self.figures.flush_seconds.record(begun.elapsed());
        self.figures.batch_records.record(records.len() as f64);
        self.figures.records.increment(records.len() as u64);
        self.figures.bytes.increment(bytes);
        records.clear();
    }

    fn tell_corrupt(&mut self) {
        for misplaced in self.wal.take_misplaced() {
            tracing::error!(
                partition = %misplaced.partition,
                reason = misplaced.reason,
                "a replica counts as damaged"
            );
            (self.corrupt)(misplaced.partition);
        }
    }

    fn reclaim(&mut self, turn: &Turn) {
        let Turn {
            reclaimable,
            durable,
            keeping,
            ..
        } = turn;
        if reclaimable.is_empty() && durable.is_empty() && keeping.is_none() {
            return;
        }
        for (partition, index) in reclaimable {
            self.wal.set_reclaimable(*partition, *index);
        }
        for (partition, (generation, index)) in durable {
            self.wal.set_store_durable(*partition, *generation, *index);
        }
        loop {
            match self.wal.reclaim() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => fatal("the write-ahead log cannot be reclaimed", &error),
            }
        }
        self.tell_corrupt();
        self.figures.segments.set(self.wal.bytes() as f64);
    }

    fn take_spare(&mut self, spare: Spare) {
        self.spare_asked = false;
        match spare {
            Spare::Ready(name) => self.wal.add_spare(name),
            Spare::Failed => self.spare_again_at = Some(Instant::now() + SPARE_AGAIN),
        }
    }

    /// Has a file for the next segment filled beside, so that rolling does not wait
    /// for it and its flushes are cheap. Without one, or where the disk is nearly
    /// full, rolling reserves space itself.
    fn ask_for_spare(&mut self) {
        let early = self.spare_again_at.is_some_and(|at| Instant::now() < at);
        if self.spare_asked || early || !self.wal.wants_spare() {
            return;
        }
        let room = self.disk.free_bytes().unwrap_or(0);
        if room < self.segment_bytes.saturating_mul(4) {
            return;
        }
        self.spare_asked = true;
        let (disk, bytes) = (self.disk.clone(), self.segment_bytes);
        let shared = Arc::clone(&self.shared);
        let filling = std::thread::Builder::new()
            .name("cairn-wal-spare".to_owned())
            .spawn(move || {
                let made = match prepare_spare(&disk, bytes, rand::random()) {
                    Ok(name) => Spare::Ready(name),
                    Err(error) => {
                        tracing::warn!(%error, "could not prepare a segment");
                        Spare::Failed
                    }
                };
                shared.queue.lock().spare = Some(made);
            });
        if let Err(error) = filling {
            tracing::warn!(%error, "could not start preparing a segment");
            self.take_spare(Spare::Failed);
        }
    }
}
