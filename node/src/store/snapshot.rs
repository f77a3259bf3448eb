//! Snapshots of a partition's state: read in chunks from a consistent view, and
//! written into a fresh generation (rule 13).

use bytes::Bytes;
use cairn_core::ids::Mark;
use cairn_core::replication::Generation;

use super::StorageError;

/// A consistent view of one generation, read chunk by chunk. All calls block.
#[derive(Debug)]
pub struct SnapshotSource {
    mark: Mark,
    lineage: Vec<Mark>,
}

impl SnapshotSource {
    pub(super) fn open(generation: Generation) -> Result<Self, StorageError> {
        let _ = generation;
        Err(StorageError::Refused("not implemented yet".to_owned()))
    }

    /// The last entry that the snapshot holds.
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// The last mark of each epoch up to [`Self::mark`], oldest first.
    #[must_use]
    pub fn lineage(&self) -> &[Mark] {
        &self.lineage
    }

    /// The next chunk of about `bytes`, encoded and checksummed; `None` after the
    /// last.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn next_chunk(&mut self, bytes: usize) -> Result<Option<Bytes>, StorageError> {
        let _ = bytes;
        Ok(None)
    }
}

/// Writes a snapshot into a fresh generation. All calls block. Dropped before
/// [`Self::finish`], it leaves keys behind that
/// [`super::ApplyHandle::drop_generation`] removes.
#[derive(Debug)]
pub struct SnapshotSink {}

impl SnapshotSink {
    pub(super) fn open(generation: Generation) -> Result<Self, StorageError> {
        let _ = generation;
        Err(StorageError::Refused("not implemented yet".to_owned()))
    }

    /// Writes a chunk, in the order in which the source gave them.
    ///
    /// # Errors
    /// Where the chunk is damaged, out of order, or cannot be written.
    pub fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let _ = chunk;
        Ok(())
    }

    /// Makes it all durable; afterwards it may be reported.
    ///
    /// # Errors
    /// Where it cannot be made durable.
    pub fn finish(self, mark: Mark, lineage: &[Mark]) -> Result<(), StorageError> {
        let _ = (mark, lineage);
        Ok(())
    }
}
