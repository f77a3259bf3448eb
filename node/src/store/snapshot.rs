//! Snapshots of a partition's state: read in chunks from a consistent view, and
//! written into a fresh generation (rule 13).
//!
//! The applied mark and the lineage of a generation are written last, and everything
//! is made durable before it is reported: a generation without a mark was not
//! finished. Rows are inserted rather than ingested as sorted tables;
//! `docs/adr/0005-inserting-into-fjall.md` says why.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::Mark;
use cairn_core::replication::Generation;
use cairn_storage::disk::Disk;
use cairn_storage::format::snapshot_chunk::{SnapshotChunk, decode_chunk, encode_chunk};
use cairn_storage::state::{self, KEY_PREFIX_BYTES, Kind};
use cairn_storage::store::{Store, StoreChange};

use super::counts::KeyCounts;
use super::fjall_store::View;
use super::{FjallStore, StorageError};
use crate::disk::{DirectoryDisk, fatal};

/// Bytes of rows that are written to the store as one batch.
const BATCH_BYTES: usize = 1 << 20;
/// Keys of an unfinished attempt that are removed as one batch.
const DROP_KEYS: usize = 4096;
/// The part of a key that names its generation.
const GENERATION_BYTES: usize = KEY_PREFIX_BYTES - 1;

/// A consistent view of one generation, read chunk by chunk. All calls block.
pub struct SnapshotSource {
    mark: Mark,
    lineage: Vec<Mark>,
    /// How many of the clients' keys there are, and how many of them were given.
    keys: u64,
    keys_given: u64,
    /// Bytes of the chunks that were given.
    bytes_given: u64,
    /// Keeps the view alive as long as its rows are read.
    _view: View,
    rows: fjall::Iter,
    /// The number of the next chunk; none once the last was given.
    next: Option<u64>,
}

impl fmt::Debug for SnapshotSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotSource")
            .field("mark", &self.mark)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl SnapshotSource {
    pub(super) fn open(store: &FjallStore, generation: Generation) -> Result<Self, StorageError> {
        let view = store.view();
        let mark = state::applied(&view, generation)?;
        let lineage = state::lineage(&view, generation)?;
        let keys = state::keys(&view, generation)?;
        // Metadata sorts before data and does not travel as rows.
        let (from, _) = state::kind_range(generation, Kind::Data);
        let (_, mut to) = state::generation_range(generation);
        if mark == Mark::ZERO {
            // Nothing was applied, or the generation is being dropped, which begins
            // with its mark: what rows there are belong to no state.
            to = Some(from.clone());
        }
        let rows = view.rows(&from, to.as_deref());
        Ok(Self {
            mark,
            lineage,
            keys,
            keys_given: 0,
            bytes_given: 0,
            _view: view,
            rows,
            next: Some(0),
        })
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

    /// About how many bytes all chunks have together, by what those given so far have: the
    /// clients' keys come first. 0 before the first.
    #[must_use]
    pub fn expected_bytes(&self) -> u64 {
        if self.next.is_none() || self.keys_given == 0 {
            return self.bytes_given;
        }
        let keys = u128::from(self.keys.max(self.keys_given));
        let all = u128::from(self.bytes_given) * keys / u128::from(self.keys_given);
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// The next chunk of about `bytes`, encoded and checksummed; `None` after the
    /// last.
    ///
    /// # Errors
    /// Where the store cannot be read.
    pub fn next_chunk(&mut self, bytes: usize) -> Result<Option<Bytes>, StorageError> {
        let Some(number) = self.next else {
            return Ok(None);
        };
        let mut rows = Vec::new();
        let mut taken = 0;
        let mut last = false;
        while taken < bytes.max(1) {
            let Some(row) = self.rows.next() else {
                last = true;
                break;
            };
            let (key, value) = row
                .into_inner()
                .map_err(|error| StorageError::Damaged(error.to_string()))?;
            taken += key.len() + value.len();
            let key = key.get(GENERATION_BYTES..).unwrap_or_default();
            self.keys_given += u64::from(key.first() == Some(&(Kind::Data as u8)));
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(&value)));
        }
        self.next = (!last).then_some(number + 1);
        let chunk = encode_chunk(&SnapshotChunk { number, rows, last });
        self.bytes_given += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

/// How much room copies from other nodes must leave.
///
/// A copy is the largest thing that a node writes, and nobody but the node itself
/// bounds it. The store that runs into a full disk can be written no more, and takes
/// the whole node with it.
#[derive(Clone)]
pub(super) struct Room {
    free: Arc<dyn Fn() -> io::Result<u64> + Send + Sync>,
    reserve: u64,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room")
            .field("reserve", &self.reserve)
            .finish_non_exhaustive()
    }
}

impl Room {
    pub(super) fn new(disk: DirectoryDisk, reserve: u64) -> Self {
        Self {
            free: Arc::new(move || disk.free_bytes()),
            reserve,
        }
    }

    #[cfg(test)]
    pub(super) fn of(
        free: impl Fn() -> io::Result<u64> + Send + Sync + 'static,
        reserve: u64,
    ) -> Self {
        Self {
            free: Arc::new(free),
            reserve,
        }
    }

    /// Whether a copy may begin: only where clients' writes would come back as well.
    fn may_begin(&self) -> Result<(), StorageError> {
        self.leaves(self.reserve.saturating_add(self.reserve / 4))
    }

    /// Whether a copy may go on.
    fn may_go_on(&self) -> Result<(), StorageError> {
        self.leaves(self.reserve)
    }

    fn leaves(&self, kept: u64) -> Result<(), StorageError> {
        let free = (self.free)().map_err(StorageError::io("ask for free space"))?;
        if free < kept {
            return Err(StorageError::NoRoom { free, kept });
        }
        Ok(())
    }
}

/// Writes a snapshot into a fresh generation. All calls block. Dropped before
/// [`Self::finish`], it leaves keys behind that
/// [`super::ApplyHandle::drop_generation`] removes.
#[derive(Debug)]
pub struct SnapshotSink {
    store: FjallStore,
    room: Room,
    counts: Arc<KeyCounts>,
    generation: Generation,
    /// How many keys were written.
    keys: u64,
    /// The number of the chunk that must come next.
    next: u64,
    last_key: Bytes,
    complete: bool,
}

impl SnapshotSink {
    pub(super) fn open(
        store: &FjallStore,
        room: Room,
        counts: Arc<KeyCounts>,
        generation: Generation,
    ) -> Result<Self, StorageError> {
        room.may_begin()?;
        state::drop_generation(store, generation, DROP_KEYS)?;
        Ok(Self {
            store: store.clone(),
            room,
            counts,
            generation,
            keys: 0,
            next: 0,
            last_key: Bytes::new(),
            complete: false,
        })
    }

    /// Writes a chunk, in the order in which the source gave them.
    ///
    /// # Errors
    /// Where the chunk is damaged or out of order, or the disk is nearly full.
    pub fn write_chunk(&mut self, chunk: Bytes) -> Result<(), StorageError> {
        let chunk =
            decode_chunk(&chunk).map_err(|error| StorageError::Damaged(error.to_string()))?;
        if self.complete || chunk.number != self.next {
            return Err(StorageError::Damaged(format!(
                "chunk {} of a snapshot came where {} belongs",
                chunk.number, self.next
            )));
        }
        self.room.may_go_on()?;
        self.next += 1;
        self.complete = chunk.last;
        let mut changes: Vec<StoreChange> = Vec::new();
        let mut bytes = 0;
        for (key, value) in chunk.rows {
            let travels = [Kind::Data, Kind::Table, Kind::Expiry].map(|kind| kind as u8);
            if !key.first().is_some_and(|kind| travels.contains(kind)) || key <= self.last_key {
                return Err(StorageError::Damaged(
                    "a snapshot's rows are out of order".to_owned(),
                ));
            }
            bytes += key.len() + value.len();
            // Ascending, so that none comes twice.
            self.keys += u64::from(key.first() == Some(&(Kind::Data as u8)));
            let mut stored = Vec::with_capacity(GENERATION_BYTES + key.len());
            stored.extend_from_slice(&self.generation.0.to_be_bytes());
            stored.extend_from_slice(&key);
            changes.push((Bytes::from(stored), Some(value)));
            self.last_key = key;
            if bytes >= BATCH_BYTES {
                self.write(&changes);
                changes.clear();
                bytes = 0;
            }
        }
        if !changes.is_empty() {
            self.write(&changes);
        }
        Ok(())
    }

    fn write(&self, changes: &[StoreChange]) {
        if let Err(error) = self.store.write(changes) {
            fatal("a copy cannot be written to the state", &error);
        }
    }

    /// Makes it all durable; afterwards it may be reported. A flush that fails ends the
    /// process: it says so once, and the next one would succeed over what was lost,
    /// this copy and everybody's applied entries alike (rule 12).
    ///
    /// # Errors
    /// Where chunks are missing.
    pub fn finish(self, mark: Mark, lineage: &[Mark]) -> Result<(), StorageError> {
        if !self.complete {
            return Err(StorageError::Damaged(
                "a snapshot ended before its last chunk".to_owned(),
            ));
        }
        let rows = state::metadata_rows(self.generation, mark, lineage, self.keys);
        self.write(&rows);
        if let Err(error) = self.store.persist() {
            fatal("a copy cannot be made durable", &error);
        }
        self.counts.set(self.generation, self.keys);
        Ok(())
    }
}
