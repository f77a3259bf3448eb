//! fjall behind the [`Store`] trait.
//!
//! One keyspace holds all partitions: many mostly idle keyspaces make fjall's
//! journals grow without bound. Its journal is not flushed at each batch, since the
//! write-ahead log is the truth; [`FjallStore::persist`] flushes it now and then.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cairn_storage::store::{Store, StoreChange, StoreError};
use fjall::{
    AnyTree, Database, JournalRecoveryError, Keyspace, KeyspaceCreateOptions, LsmError,
    PersistMode, Readable, Snapshot,
};

use super::StorageConfig;

const KEYSPACE: &str = "state";
/// fjall's threads: one may compact while the other flushes memtables. However many CPUs
/// there are: with one keyspace there is nothing for a third to do at the same time.
const WORKERS: usize = 2;
const JOURNAL_EXTENSION: &str = "jnl";

fn failed(action: &'static str) -> impl FnOnce(fjall::Error) -> StoreError {
    move |error| StoreError {
        action,
        reason: error.to_string(),
        damaged: is_damage(&error),
    }
}

/// Whether the error tells of bytes that are not what was written. A format of another
/// version, a lock, and whatever the operating system refuses do not.
fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error;
    match error {
        Error::Storage(error) => match error {
            LsmError::Io(error) => is_amiss(error),
            LsmError::Decompress(_)
            | LsmError::Unrecoverable
            | LsmError::ChecksumMismatch { .. }
            | LsmError::InvalidTag(_)
            | LsmError::InvalidTrailer
            | LsmError::InvalidHeader(_)
            | LsmError::Utf8(_) => true,
            _ => false,
        },
        Error::Io(error) => is_amiss(error),
        Error::JournalRecovery(error) => *error != JournalRecoveryError::InvalidFileName,
        Error::Decompress(_)
        | Error::InvalidTrailer
        | Error::InvalidTag(_)
        | Error::Unrecoverable => true,
        _ => false,
    }
}

/// Whether a file, or a part of one, is not there that has to be, or one is there that
/// the store knows nothing of, since what lists it is gone.
fn is_amiss(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
    )
}

/// The state of every partition of a node. Clones share it.
#[derive(Clone)]
pub struct FjallStore {
    database: Database,
    keyspace: Keyspace,
    path: PathBuf,
}

impl std::fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FjallStore")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl FjallStore {
    /// Opens the store, making it where there is none. What its journals hold is
    /// taken as it is: `super::opening` looks at them before.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub fn open(path: &Path, config: &StorageConfig) -> Result<Self, StoreError> {
        let database = Database::builder(path)
            .cache_size(config.block_cache_bytes)
            .max_journaling_size(config.journal_bytes.max(64 << 20))
            .manual_journal_persist(true)
            .worker_threads(WORKERS)
            .open()
            .map_err(failed("open the store"))?;
        let memtable = config.memtable_bytes.max(1 << 20);
        let keyspace = database
            .keyspace(KEYSPACE, || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .max_memtable_size(memtable)
            })
            .map_err(failed("open the state"))?;
        Ok(Self {
            database,
            keyspace,
            path: path.to_path_buf(),
        })
    }

    /// A consistent view that later writes do not change.
    pub(super) fn view(&self) -> View {
        View {
            snapshot: self.database.snapshot(),
            keyspace: self.keyspace.clone(),
        }
    }

    /// fjall's tree below the keyspace: for what it tells of its tables.
    pub(super) fn tree(&self) -> &AnyTree {
        &self.keyspace.tree
    }

    /// How many bytes the store takes on the disk.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }

    /// Flushes the journals beside fjall, without its lock: [`Self::persist`] takes
    /// the lock that every write takes, and should find little left to flush.
    fn flush_journals(&self) -> std::io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == JOURNAL_EXTENSION) {
                match File::open(&path) {
                    Ok(journal) => journal.sync_data()?,
                    // fjall removed it meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

impl Store for FjallStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.keyspace.get(key).map_err(failed("read the state"))?;
        Ok(value.map(|v| Bytes::copy_from_slice(&v)))
    }

    fn contains(&self, key: &[u8]) -> Result<bool, StoreError> {
        self.keyspace
            .contains_key(key)
            .map_err(failed("read the state"))
    }

    fn write(&self, changes: &[StoreChange]) -> Result<(), StoreError> {
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), changes.len());
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, &key[..], &value[..]),
                None => batch.remove(&self.keyspace, &key[..]),
            }
        }
        batch.commit().map_err(failed("write the state"))
    }

    fn persist(&self) -> Result<(), StoreError> {
        self.flush_journals().map_err(|error| StoreError {
            action: "flush the state's journal",
            reason: error.to_string(),
            damaged: false,
        })?;
        self.database
            .persist(PersistMode::SyncAll)
            .map_err(failed("persist the state"))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError> {
        self.view().scan(from, to, visit)
    }

    fn scan_keys(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes) -> bool,
    ) -> Result<(), StoreError> {
        for row in self.view().rows(from, to) {
            let key = row.key().map_err(failed("read the state"))?;
            if !visit(Bytes::copy_from_slice(&key)) {
                break;
            }
        }
        Ok(())
    }
}

/// A consistent view of the store. It can be read, not written.
pub(super) struct View {
    snapshot: Snapshot,
    keyspace: Keyspace,
}

impl View {
    /// The rows from `from` on and before `to`, ascending.
    pub(super) fn rows(&self, from: &[u8], to: Option<&[u8]>) -> fjall::Iter {
        match to {
            Some(to) => self.snapshot.range(&self.keyspace, from..to),
            None => self.snapshot.range(&self.keyspace, from..),
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self
            .snapshot
            .get(&self.keyspace, key)
            .map_err(failed("read the state"))?;
        Ok(value.map(|v| Bytes::copy_from_slice(&v)))
    }

    pub(super) fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError> {
        for row in self.rows(from, to) {
            let (key, value) = row.into_inner().map_err(failed("read the state"))?;
            if !visit(Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)) {
                break;
            }
        }
        Ok(())
    }
}

impl Store for View {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Self::get(self, key)
    }

    fn write(&self, _changes: &[StoreChange]) -> Result<(), StoreError> {
        Err(StoreError {
            action: "write the state",
            reason: "a view cannot be written".to_owned(),
            damaged: false,
        })
    }

    fn persist(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(Bytes, Bytes) -> bool,
    ) -> Result<(), StoreError> {
        Self::scan(self, from, to, visit)
    }
}
