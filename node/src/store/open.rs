//! Opens everything that a data node keeps on its disk.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::PartitionId;
use cairn_core::replication::{DiskRoom, Generation, RecoveredPartition};
use cairn_core::tracking::Change;
use cairn_storage::disk::Disk;
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::state;
use cairn_storage::store::StoreError;
use cairn_storage::wal::{LogReader, Wal, WalError};

use super::apply::{AppliedCallback, AppliedSpent, WhoIsTold};
use super::cache::ValueCache;
use super::counts::KeyCounts;
use super::maintenance::{MaintenanceHandle, PersistAfter, Place, Told};
use super::opening::open_store;
use super::snapshot::Room;
use super::{ApplyHandle, FjallStore, StateReader};
use crate::disk::{
    DataDirectory, DirectoryDisk, DirectoryError, DiskSpace, KeepWatch, SpaceWatch, WalConfig,
    WalHandle,
};

/// Sizes and periods of a node's storage.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// The write-ahead log.
    pub wal: WalConfig,
    /// fjall's block cache.
    pub block_cache_bytes: u64,
    /// fjall's memtable; up to four more may wait to be written.
    pub memtable_bytes: u64,
    /// fjall's journals, at least 64 MiB.
    pub journal_bytes: u64,
    /// Values kept in memory: what reads find at once.
    pub value_cache_bytes: u64,
    /// Threads that read the store for those who must not block.
    pub reader_threads: usize,
    /// Free bytes below which data writes are refused.
    pub reserve_bytes: u64,
    /// The store is made durable after so many bytes of entries ...
    pub persist_bytes: u64,
    /// ... or after so long, whichever comes first. Until then the log keeps them.
    pub persist_after: Duration,
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            wal: WalConfig::default(),
            block_cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            journal_bytes: 128 << 20,
            value_cache_bytes: 64 << 20,
            reader_threads: 2,
            reserve_bytes: 512 << 20,
            persist_bytes: 32 << 20,
            persist_after: Duration::from_secs(5),
        }
    }
}

/// What is called with a partition whose replica was found to be damaged.
pub type CorruptCallback = Arc<dyn Fn(PartitionId) + Send + Sync>;

/// What is called with generations and about how many bytes each takes, ascending.
pub type SizesCallback = Box<dyn FnMut(Vec<(Generation, u64)>) + Send>;

/// Who wants to know which keys of clients change.
pub trait KeyWatch: Send + Sync {
    /// Whether anybody does, asked after a change can be seen: whoever has begun to want it
    /// before it read is not passed over.
    fn wants(&self) -> bool;

    /// These keys have changed, and every read here sees it.
    fn changed(&self, changes: &[Change]);
}

/// Nobody does.
impl KeyWatch for () {
    fn wants(&self) -> bool {
        false
    }

    fn changed(&self, _: &[Change]) {}
}

/// What the storage's threads call. None of them may block for long.
pub struct StorageCallbacks {
    /// From the log's thread: everything up to the record of this number is durable.
    pub flushed: Box<dyn FnMut(u64) + Send>,
    /// From the apply thread: these partitions' states have moved on.
    pub applied: AppliedCallback,
    /// From the apply thread, after that: whom it worked for.
    pub spent: AppliedSpent,
    /// From the apply thread, before that: which keys have changed.
    pub keys: Arc<dyn KeyWatch>,
    /// From the log's thread and the apply thread: the partition's replica is damaged.
    /// Comes before whatever else would vouch for it.
    pub corrupt: CorruptCallback,
    /// From the watch over free space: what room for data there is.
    /// Called once at the start and then at each change.
    pub disk_room: Box<dyn FnMut(DiskRoom) + Send>,
    /// From there too: the room of the disk, at each look.
    pub disk_space: Box<dyn FnMut(DiskSpace) + Send>,
    /// About how many bytes generations take on the disk, where that is news.
    pub sizes: SizesCallback,
}

impl std::fmt::Debug for StorageCallbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageCallbacks").finish_non_exhaustive()
    }
}

/// Why the storage could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The write-ahead log.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system.
    #[error("{action}: {source}")]
    Io {
        /// Verb and object.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Something does not read as what it should be.
    #[error("{0}")]
    Damaged(String),
    /// The store has a format that this build does not read.
    #[error("the store has format {found}; this build reads format {known}")]
    Format {
        /// The store's.
        found: u32,
        /// This build's.
        known: u32,
    },
    /// The store is another node's, or another cluster's.
    #[error("the store belongs to {found}, not to {wanted}")]
    Foreign {
        /// Whose it is.
        found: String,
        /// Who opens it.
        wanted: String,
    },
    /// What would be written has no room.
    #[error(
        "the disk has no room for another copy: {free} bytes are free, and {kept} are kept for \
         what is here already"
    )]
    NoRoom {
        /// What is free.
        free: u64,
        /// What has to stay free.
        kept: u64,
    },
    /// Too many reads wait.
    #[error("too many reads wait for the disk")]
    Overloaded,
    /// The storage was closed.
    #[error("the storage is closed")]
    Closed,
}

impl StorageError {
    pub(super) fn io(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, source }
    }
}

/// All handles of an opened storage. Each is cheap to clone.
#[derive(Debug)]
pub struct NodeStorage {
    /// The write-ahead log.
    pub wal: WalHandle,
    /// The apply thread.
    pub apply: ApplyHandle,
    /// Reads and snapshots.
    pub reader: StateReader,
    /// Reads of the log on disk.
    pub log: LogReader<DirectoryDisk>,
    /// For [`cairn_core::replication::NodeCore::new`]; to be taken out.
    pub recovered: Vec<RecoveredPartition>,
    /// For [`cairn_core::replication::NodeCore::new`].
    pub next_generation: u64,
    closer: StorageCloser,
}

/// Closes a storage whose handles have gone elsewhere. Cheap to clone.
#[derive(Clone, Debug)]
pub struct StorageCloser {
    wal: WalHandle,
    apply: ApplyHandle,
    reader: StateReader,
    maintenance: MaintenanceHandle,
}

impl StorageCloser {
    /// Applies and flushes what was submitted, persists the store, closes the log
    /// with its empty batch, and ends the threads. Blocks.
    pub fn close(&self) {
        self.reader.close();
        self.apply.close();
        self.maintenance.close();
        self.wal.close();
    }
}

impl NodeStorage {
    /// Recovers the store and the log, and starts their threads. Blocks; call it
    /// outside the runtime's workers.
    ///
    /// # Errors
    /// See [`StorageError`].
    pub fn open(
        directory: &DataDirectory,
        config: &StorageConfig,
        callbacks: StorageCallbacks,
    ) -> Result<Self, StorageError> {
        let StorageCallbacks {
            flushed,
            applied,
            spent,
            keys,
            corrupt,
            disk_room,
            disk_space,
            sizes,
        } = callbacks;
        if directory.is_established() && !directory.log_path().is_dir() {
            return Err(directory
                .damaged("its write-ahead log is missing, though it has an identity")
                .into());
        }
        let disk = DirectoryDisk::open(&directory.log_path())
            .map_err(StorageError::io("open the write-ahead log"))?;
        let disk = if config.wal.direct {
            disk.past_the_cache()
        } else {
            disk
        };
        if directory.is_established() && is_empty(&disk)? {
            return Err(directory
                .damaged("its write-ahead log is empty, though it has an identity")
                .into());
        }
        let identity = log_identity(directory);
        let store = open_store(&directory.state_path(), &identity, config)?;
        let (wal, recovery) = Wal::open(
            disk.clone(),
            identity,
            config.wal.options(),
            &store,
            Box::new(rand::random),
        )?;
        directory.establish()?;
        report(&recovery);
        let log = wal.reader();

        let wal = WalHandle::start(
            wal,
            disk.clone(),
            config.wal.segment_bytes,
            flushed,
            Arc::clone(&corrupt),
        )
        .map_err(StorageError::io("start the log's thread"))?;
        let cache = Arc::new(ValueCache::new(config.value_cache_bytes));
        let counts = Arc::new(KeyCounts::new(counts(&store, &recovery.partitions)));
        let maintenance = MaintenanceHandle::new(PersistAfter {
            bytes: config.persist_bytes,
            time: config.persist_after,
        });
        match orphans(&store, &recovery.partitions) {
            Ok(orphans) => {
                for generation in orphans {
                    maintenance.drop_generation(generation);
                }
            }
            // They only take room: no reason not to start.
            Err(error) => tracing::error!(%error, "cannot look for what nobody uses"),
        }
        metrics::gauge!("cairn_disk_reserve_bytes").set(config.reserve_bytes as f64);
        let room = Room::new(disk.clone(), config.reserve_bytes);
        let (segment, kept) = (config.wal.segment_bytes, config.wal.kept_bytes);
        let keep = KeepWatch::new(config.reserve_bytes, segment, kept);
        maintenance
            .start(
                store.clone(),
                Place {
                    disk,
                    state: directory.state_path(),
                },
                wal.clone(),
                Arc::clone(&counts),
                (SpaceWatch::new(config.reserve_bytes), keep),
                Told {
                    disk_room,
                    disk_space,
                    sizes,
                },
            )
            .map_err(StorageError::io("start the maintenance thread"))?;
        let apply = ApplyHandle::start(
            store.clone(),
            Arc::clone(&cache),
            Arc::clone(&counts),
            maintenance.clone(),
            WhoIsTold {
                applied,
                spent,
                keys,
            },
            corrupt,
        )
        .map_err(StorageError::io("start the apply thread"))?;
        let reader = StateReader::start(
            store,
            (cache, counts),
            apply.clone(),
            config.reader_threads,
            room,
        )
        .map_err(StorageError::io("start the reader threads"))?;
        let closer = StorageCloser {
            wal: wal.clone(),
            apply: apply.clone(),
            reader: reader.clone(),
            maintenance,
        };
        Ok(Self {
            wal,
            apply,
            reader,
            log,
            recovered: recovery.partitions,
            next_generation: recovery.next_generation,
            closer,
        })
    }

    /// Closes the storage later, when the handles have gone elsewhere.
    #[must_use]
    pub fn closer(&self) -> StorageCloser {
        self.closer.clone()
    }

    /// See [`StorageCloser::close`].
    pub fn close(&self) {
        self.closer.close();
    }
}

fn is_empty(disk: &DirectoryDisk) -> Result<bool, StorageError> {
    let names = disk
        .list()
        .map_err(StorageError::io("list the write-ahead log"))?;
    Ok(!names.iter().any(|name| name.starts_with("segment-")))
}

fn log_identity(directory: &DataDirectory) -> LogIdentity {
    let identity = directory.identity();
    LogIdentity {
        cluster: identity.cluster.unwrap_or_default(),
        node: identity.node.as_u128(),
        incarnation: identity.incarnation.as_u128(),
    }
}

fn report(recovery: &cairn_storage::wal::Recovery) {
    for damage in &recovery.damage {
        tracing::error!(damage, "the write-ahead log is damaged");
    }
    let corrupt = recovery.partitions.iter().filter(|p| p.corrupt).count();
    let replicas = recovery
        .partitions
        .iter()
        .filter(|p| p.meta.replica.is_some())
        .count();
    metrics::counter!("cairn_corrupt_replicas_total").increment(corrupt as u64);
    tracing::info!(
        replicas,
        corrupt,
        entries = recovery.entries_read,
        dropped_tail = recovery.dropped_tail,
        "recovered the write-ahead log"
    );
}

/// How many keys each replica's state holds: counted where an earlier build left no
/// count. One whose keys cannot be read is found to be damaged when it is read or
/// applied to, and counts as empty until then.
fn counts(store: &FjallStore, recovered: &[RecoveredPartition]) -> Vec<(Generation, u64)> {
    let used = recovered.iter().filter(|p| p.meta.replica.is_some());
    used.filter_map(|found| {
        let generation = found.meta.generation;
        match state::count_keys(store, generation) {
            Ok(keys) => Some((generation, keys)),
            Err(error) => {
                let partition = found.meta.partition;
                tracing::error!(%partition, %error, "cannot count the keys of a partition");
                None
            }
        }
    })
    .collect()
}

/// Generations in the store that no partition uses: snapshots that were not finished
/// and what was dropped just before the process ended.
fn orphans(
    store: &FjallStore,
    recovered: &[RecoveredPartition],
) -> Result<Vec<Generation>, StoreError> {
    let used: BTreeSet<Generation> = recovered
        .iter()
        .filter(|p| p.meta.replica.is_some())
        .map(|p| p.meta.generation)
        .collect();
    let mut found = state::generations(store)?;
    found.retain(|generation| !used.contains(generation));
    Ok(found)
}
