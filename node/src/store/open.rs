//! Opens everything that a data node keeps on its disk.

use cairn_core::replication::RecoveredPartition;

use super::{Applied, ApplyHandle, StateReader};
use crate::disk::{DataDirectory, WalConfig, WalHandle};

/// Sizes and periods of a node's storage.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// The write-ahead log.
    pub wal: WalConfig,
    /// fjall's block cache.
    pub block_cache_bytes: u64,
    /// fjall's memtable.
    pub memtable_bytes: u64,
    /// fjall's journals, at least 64 MiB.
    pub journal_bytes: u64,
    /// Values kept in memory, decoded from nothing: what reads find at once.
    pub value_cache_bytes: u64,
    /// Threads that read the store for those who must not block.
    pub reader_threads: usize,
    /// Free bytes below which data writes are refused.
    pub reserve_bytes: u64,
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
        }
    }
}

/// What the storage's threads call. None of them may block for long.
pub struct StorageCallbacks {
    /// From the log's thread: everything up to the record of this number is durable.
    pub flushed: Box<dyn FnMut(u64) + Send>,
    /// From the apply thread: these partitions' states have moved on.
    pub applied: Box<dyn FnMut(&[Applied]) + Send>,
    /// From the watch over free space: whether data writes are to be refused.
    /// Called once at the start and then at each change.
    pub disk_full: Box<dyn FnMut(bool) + Send>,
}

impl std::fmt::Debug for StorageCallbacks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StorageCallbacks").finish_non_exhaustive()
    }
}

/// Why the storage could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// Anything that stands in the way, in words.
    #[error("{0}")]
    Refused(String),
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
    /// For [`cairn_core::replication::NodeCore::new`].
    pub recovered: Vec<RecoveredPartition>,
    /// For [`cairn_core::replication::NodeCore::new`].
    pub next_generation: u64,
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
        let _ = (directory, config, callbacks);
        Err(StorageError::Refused("not implemented yet".to_owned()))
    }

    /// Flushes what was submitted, closes the log with its empty batch, persists the
    /// store, and ends the threads. Blocks.
    pub fn close(self) {}
}
