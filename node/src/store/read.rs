//! Reads of the state: at once from the value cache, else on a reader thread.

use bytes::Bytes;
use cairn_core::ids::{Index, Mark};
use cairn_core::replication::Generation;

use super::{SnapshotSink, SnapshotSource, StorageError};

/// Reads the state of any partition. Cheap to clone.
///
/// Values come back as the store holds them:
/// [`cairn_core::kv::VersionedValue::decode`] reads them.
#[derive(Clone, Debug)]
pub struct StateReader {}

impl StateReader {
    /// What the value cache knows of a key: `None` where it knows nothing,
    /// `Some(None)` where it knows that there is no such key. Never blocks. What it
    /// returns is at least as new as the applied index that was published before.
    #[must_use]
    pub fn get_cached(&self, generation: Generation, key: &[u8]) -> Option<Option<Bytes>> {
        let _ = (generation, key);
        None
    }

    /// A key's value, on a reader thread where the cache lacks it.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub async fn get(
        &self,
        generation: Generation,
        key: Bytes,
    ) -> Result<Option<Bytes>, StorageError> {
        let _ = (generation, key);
        Ok(None)
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
        let _ = (generation, key);
        Ok(None)
    }

    /// The last mark that the generation has applied. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn applied(&self, generation: Generation) -> Result<Mark, StorageError> {
        let _ = generation;
        Ok(Mark::ZERO)
    }

    /// The rows of the idempotence table, ascending by index
    /// ([`cairn_core::kv::body`] says what they hold). Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn table(&self, generation: Generation) -> Result<Vec<(Index, Bytes)>, StorageError> {
        let _ = generation;
        Ok(Vec::new())
    }

    /// Up to `limit` keys after `after`, ascending, with their values, from one
    /// consistent view. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn scan_blocking(
        &self,
        generation: Generation,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StorageError> {
        let _ = (generation, after, limit);
        Ok(Vec::new())
    }

    /// A consistent view of a generation to stream to another node. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be read, or the generation holds nothing.
    pub fn snapshot(&self, generation: Generation) -> Result<SnapshotSource, StorageError> {
        SnapshotSource::open(generation)
    }

    /// Begins to write a snapshot from another node into a fresh generation. Blocks.
    ///
    /// # Errors
    /// Where the store cannot be written.
    pub fn install(&self, generation: Generation) -> Result<SnapshotSink, StorageError> {
        SnapshotSink::open(generation)
    }
}
