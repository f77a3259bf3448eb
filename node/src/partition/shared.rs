//! What the engine and everybody else share.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use cairn_core::ids::{PartitionId, ReplicaId};
use cairn_core::record::ClusterMap;
use cairn_core::replication::Event;
use cairn_storage::wal::LogReader;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::admission::Admission;
use super::board::Board;
use super::config::EngineConfig;
use super::figures::ReadFigures;
use super::heat::Heat;
use super::inbox::{Inbox, Input};
use super::limit::Limit;
use super::load::Load;
use crate::disk::{DirectoryDisk, DiskSpace};
use crate::peer::Throttle;
use crate::store::StateReader;
use crate::tracking::Tracker;

/// How many scans read the store at a time: each keeps a thread busy for a page.
const SCANS_AT_ONCE: usize = 2;
/// How many watches may be open on a node.
const WATCHES_MAX: usize = 10_000;
/// How many watches read the log on disk at a time: each keeps a thread busy for a batch.
const WATCHES_ON_DISK: usize = 2;

/// What the engine and everybody else share.
pub(super) struct Shared {
    pub(super) config: EngineConfig,
    pub(super) inbox: Inbox,
    pub(super) board: Board,
    pub(super) map: Arc<ArcSwap<ClusterMap>>,
    pub(super) admission: Admission,
    pub(super) peer_backlog: PeerBacklog,
    pub(super) reads: ReadFigures,
    /// What clients read.
    pub(super) load: Load,
    /// For which keys they ask most.
    pub(super) heat: Heat,
    /// How often those are answered.
    pub(super) limit: Limit,
    /// Who keeps which key.
    pub(super) tracker: Arc<Tracker>,
    /// The room of the disk, once it was looked at.
    pub(super) disk_space: Mutex<Option<DiskSpace>>,
    /// Whether this node refuses writes for want of disk space.
    pub(super) disk_full: AtomicBool,
    /// Replicas that are not back since the process started.
    pub(super) away: AtomicUsize,
    /// Keys that this node deleted as primary because their time was past.
    pub(super) expired: AtomicU64,
    /// Of snapshots that other nodes fetch here; the engine sets its rate.
    pub(super) serving_throttle: Throttle,
    /// Replicas whose log or state is damaged: nothing is copied from them.
    damaged: Mutex<HashSet<(PartitionId, ReplicaId)>>,
    /// Scans that read the store at a time.
    pub(super) scanning: Arc<Semaphore>,
    pub(super) watches: Watches,
    /// There while the engine runs: a handle that outlives it keeps no store open.
    pub(super) reader: ArcSwapOption<StateReader>,
    /// As `reader`: what watchers read of the log on disk.
    pub(super) log: ArcSwapOption<LogReader<DirectoryDisk>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("board", &self.board)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(super) fn new(config: EngineConfig, map: Arc<ArcSwap<ClusterMap>>) -> Self {
        let admission = Admission::new(config.pending_writes_max, config.pending_bytes_max);
        let serving_throttle = Throttle::new(config.snapshot_rates.at_start().snapshots);
        Self {
            heat: Heat::new(config.hot_keys),
            limit: Limit::new(config.key_rate),
            tracker: Arc::new(Tracker::new(config.tracking_bytes)),
            config,
            inbox: Inbox::default(),
            board: Board::new(),
            map,
            admission,
            peer_backlog: PeerBacklog::default(),
            reads: ReadFigures::new(),
            load: Load::default(),
            disk_space: Mutex::new(None),
            disk_full: AtomicBool::new(false),
            away: AtomicUsize::new(0),
            expired: AtomicU64::new(0),
            serving_throttle,
            damaged: Mutex::default(),
            scanning: Arc::new(Semaphore::new(SCANS_AT_ONCE)),
            watches: Watches::new(),
            reader: ArcSwapOption::empty(),
            log: ArcSwapOption::empty(),
        }
    }

    pub(super) fn is_damaged(&self, partition: PartitionId, replica: ReplicaId) -> bool {
        self.damaged.lock().contains(&(partition, replica))
    }

    /// Says whether that was news.
    pub(super) fn set_damaged(&self, partition: PartitionId, replica: ReplicaId) -> bool {
        self.damaged.lock().insert((partition, replica))
    }

    pub(super) fn set_mended(&self, partition: PartitionId, replica: ReplicaId) {
        self.damaged.lock().remove(&(partition, replica));
    }

    /// Takes a newer map; see [`super::Handle::install_map`].
    pub(super) fn install_map(&self, map: Arc<ClusterMap>) {
        let previous = self.map.load_full();
        if map.version > previous.version {
            self.map.store(Arc::clone(&map));
        }
        let node = self.config.node;
        for record in &map.partitions {
            let concerned =
                record.config.on_node(node).is_some() || self.board.load(record.id).is_some();
            if concerned {
                let record = Arc::clone(record);
                self.inbox.push(Input::Event(Event::Record { record }));
            }
        }
        self.inbox.push(Input::MapChanged);
    }
}

/// Bounds the watches of this node, and counts what they are given.
pub(super) struct Watches {
    /// Those that may be open.
    pub(super) places: Arc<Semaphore>,
    /// Those that read the log on disk at a time.
    pub(super) reading_disk: Arc<Semaphore>,
    pub(super) from_memory: metrics::Counter,
    pub(super) from_disk: metrics::Counter,
}

impl Watches {
    fn new() -> Self {
        metrics::describe_counter!(
            "cairn_watch_batches_total",
            "How often a watch was given a part of the log, by where it was read."
        );
        let read = |source| metrics::counter!("cairn_watch_batches_total", "source" => source);
        Self {
            places: Arc::new(Semaphore::new(WATCHES_MAX)),
            reading_disk: Arc::new(Semaphore::new(WATCHES_ON_DISK)),
            from_memory: read("memory"),
            from_disk: read("disk"),
        }
    }
}

/// Bounds the messages of peers that wait for the engine: past the bound their
/// streams are not read, so that it is the sender that waits.
#[derive(Debug, Default)]
pub(super) struct PeerBacklog {
    messages: AtomicUsize,
    bytes: AtomicUsize,
    room: Notify,
}

/// Past so many waiting messages, streams are not read.
const PEER_MESSAGES_MAX: usize = 20_000;
/// Past so many bytes of them, streams are not read.
const PEER_BYTES_MAX: usize = 64 << 20;

impl PeerBacklog {
    /// Counts messages in. Whether the sender is to wait for room.
    pub(super) fn add(&self, messages: usize, bytes: usize) -> bool {
        let messages = self.messages.fetch_add(messages, Ordering::Relaxed) + messages;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        messages > PEER_MESSAGES_MAX || bytes > PEER_BYTES_MAX
    }

    /// Counts messages out.
    pub(super) fn take(&self, messages: usize, bytes: usize) {
        let messages_before = self.messages.fetch_sub(messages, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        let crossed = |before: usize, by: usize, max: usize| before > max && before - by <= max;
        if crossed(messages_before, messages, PEER_MESSAGES_MAX)
            || crossed(bytes_before, bytes, PEER_BYTES_MAX)
        {
            self.room.notify_waiters();
        }
    }

    fn is_full(&self) -> bool {
        self.messages.load(Ordering::Relaxed) > PEER_MESSAGES_MAX
            || self.bytes.load(Ordering::Relaxed) > PEER_BYTES_MAX
    }

    /// Waits until there is room.
    pub(super) async fn room(&self) {
        loop {
            let room = self.room.notified();
            let mut room = std::pin::pin!(room);
            room.as_mut().enable();
            if !self.is_full() {
                return;
            }
            room.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_few_long_messages_of_peers_fill_the_backlog_as_many_short_ones_do() {
        let backlog = PeerBacklog::default();
        assert!(!backlog.add(2, PEER_BYTES_MAX));
        assert!(backlog.add(1, 1));
        let mut waiting = std::pin::pin!(backlog.room());
        assert!(waiting.as_mut().now_or_never().is_none());
        backlog.take(1, 1);
        assert!(waiting.as_mut().now_or_never().is_some());
        backlog.take(2, PEER_BYTES_MAX);
        assert!(backlog.add(PEER_MESSAGES_MAX + 1, 0));
        let mut waiting = std::pin::pin!(backlog.room());
        assert!(waiting.as_mut().now_or_never().is_none());
        backlog.take(1, 0);
        assert!(waiting.as_mut().now_or_never().is_some());
    }
}
