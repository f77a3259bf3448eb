//! Strong reads from the primary (rule 6), on the task that asks.
//!
//! A read looks at the partition's cell, reads the value, and looks again: it is
//! answered only if the replica served as primary under its lease at both looks,
//! in the same epoch, and if the value came from a state that had applied the
//! commit index of the first look. The engine has no part in it, except where a
//! lease lapsed or a key expired.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, PartitionId};
use cairn_core::kv::request::{RequestError, Value};
use cairn_core::kv::{DecodeError, DueKey, VersionedValue};
use cairn_core::replication::Event;
use tokio::time::{Instant, timeout_at};

use super::board::{Cell, Published};
use super::clock;
use super::handle::Handle;
use super::inbox::Input;
use super::shared::Shared;
use crate::store::{StateReader, StorageError};

/// What came of a read.
pub type ReadResult = Result<Option<Value>, RequestError>;

/// A read that was answered at once, or is to be waited for.
#[derive(Debug)]
pub enum StartedRead {
    /// The answer was at hand.
    Done(ReadResult),
    /// The answer will come.
    Waiting(PendingRead),
}

/// Waits for a read.
pub struct PendingRead {
    future: Pin<Box<dyn Future<Output = ReadResult> + Send>>,
}

impl fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingRead").finish_non_exhaustive()
    }
}

impl Future for PendingRead {
    type Output = ReadResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ReadResult> {
        self.future.as_mut().poll(context)
    }
}

impl Handle {
    /// The latest committed value, from the primary under its lease.
    ///
    /// # Errors
    /// [`RequestError::Moved`], [`RequestError::NotReady`], [`RequestError::NoMap`].
    pub async fn read(&self, key: &Bytes) -> ReadResult {
        let partition = self.partition_of(key)?;
        match self.start_read(partition, key) {
            StartedRead::Done(result) => result,
            StartedRead::Waiting(pending) => pending.await,
        }
    }

    /// Several keys of any partitions, each read as [`Self::read`] does.
    pub async fn read_many(&self, keys: &[Bytes]) -> Vec<ReadResult> {
        let started: Vec<StartedRead> = keys
            .iter()
            .map(|key| match self.partition_of(key) {
                Ok(partition) => self.start_read(partition, key),
                Err(error) => StartedRead::Done(Err(error)),
            })
            .collect();
        let mut results = Vec::with_capacity(started.len());
        for read in started {
            results.push(match read {
                StartedRead::Done(result) => result,
                StartedRead::Waiting(pending) => pending.await,
            });
        }
        results
    }

    /// Starts a read of a key of `partition`. Never blocks.
    #[must_use]
    pub fn start_read(&self, partition: PartitionId, key: &Bytes) -> StartedRead {
        if let Err(error) = self.shared.admit_read(partition, key) {
            return StartedRead::Done(Err(error));
        }
        let (heat, shared) = (&self.shared.heat, &self.shared);
        if let Some(result) = heat.timed(partition, || shared.read_at_once(partition, key)) {
            self.shared.reads.at_once.increment(1);
            return StartedRead::Done(result);
        }
        // The key shares its connection's read buffer, which must not live as long
        // as a slow read.
        let key = Bytes::copy_from_slice(key);
        self.shared.reads.waited.increment(1);
        let shared = Arc::clone(&self.shared);
        StartedRead::Waiting(PendingRead {
            future: Box::pin(async move { shared.read_slowly(partition, key).await }),
        })
    }
}

/// What one look at a cell allows.
enum Look {
    /// Read from this generation; `commit` is covered by its applied index.
    Read(Published),
    /// Wait for the cell to change.
    Wait { lapsed: bool },
    /// Not here.
    Refuse(RequestError),
}

impl Shared {
    /// Whether a key may be read now, where a limit is set.
    ///
    /// # Errors
    /// [`RequestError::Limited`].
    pub(super) fn admit_read(
        &self,
        partition: PartitionId,
        key: &[u8],
    ) -> Result<(), RequestError> {
        let admitted = self.limit.read(key, clock::boottime);
        if admitted.is_err() {
            // It is asked for all the same: what is refused keeps it hot.
            self.heat.read(partition, key, 0);
        }
        admitted
    }

    pub(super) fn moved(
        &self,
        partition: PartitionId,
        published: Option<&Published>,
    ) -> RequestError {
        let map = self.map.load();
        let record = usize::try_from(partition.0)
            .ok()
            .and_then(|at| map.partitions.get(at));
        let Some(record) = record else {
            return RequestError::NoMap;
        };
        match published {
            Some(here) if here.epoch >= record.epoch => RequestError::Moved {
                partition,
                epoch: here.epoch,
                primary: here
                    .primary
                    .or(record.primary.filter(|_| here.epoch == record.epoch)),
            },
            _ => RequestError::Moved {
                partition,
                epoch: record.epoch,
                primary: record.primary,
            },
        }
    }

    fn look(&self, partition: PartitionId, cell: &Cell, covers: Option<Index>) -> Look {
        let Some(published) = cell.load() else {
            return Look::Refuse(self.moved(partition, None));
        };
        if !published.is_primary(self.config.node) {
            return Look::Refuse(self.moved(partition, Some(&published)));
        }
        if !published.leads(clock::boottime()) {
            return Look::Wait {
                lapsed: published.serving,
            };
        }
        if published.applied < covers.unwrap_or(published.commit) {
            return Look::Wait { lapsed: false };
        }
        Look::Read(published)
    }

    /// Whether what was read after `first` may be answered.
    pub(super) fn still_leads(&self, cell: &Cell, first: &Published) -> bool {
        cell.load().is_some_and(|now| {
            now.epoch == first.epoch
                && now.generation == first.generation
                && now.leads(clock::boottime())
        })
    }

    /// The answer, where it takes no waiting: the cache has the key.
    fn read_at_once(&self, partition: PartitionId, key: &Bytes) -> Option<ReadResult> {
        let Some(cell) = self.board.cell(partition) else {
            return Some(Err(self.moved(partition, None)));
        };
        let first = match self.look(partition, cell, None) {
            Look::Read(first) => first,
            Look::Wait { .. } => return None,
            Look::Refuse(error) => return Some(Err(error)),
        };
        let stored = self
            .reader
            .load()
            .as_ref()?
            .get_cached(first.generation, key)?;
        let value = match self.decode(partition, key, stored) {
            Ok(value) => value,
            Err(error) => return Some(Err(error)),
        };
        if value
            .as_ref()
            .is_some_and(|v| v.value.expires_at.is_some() && v.value.expired(clock::wall_ms()))
            || !self.still_leads(cell, &first)
        {
            return None;
        }
        Some(Ok(value.map(to_value)))
    }

    pub(super) async fn read_slowly(
        self: Arc<Self>,
        partition: PartitionId,
        key: Bytes,
    ) -> ReadResult {
        let Some(cell) = self.board.cell(partition) else {
            return Err(self.moved(partition, None));
        };
        let deadline = Instant::now() + self.config.request_timeout;
        // What must have been applied is settled by the first look: a read does not
        // chase the writes that come after it.
        let mut covers: Option<(Epoch, Index)> = None;
        loop {
            let first = self
                .may_read(partition, cell, &mut covers, deadline)
                .await?;
            let stored = self
                .reader(partition)?
                .get(first.generation, key.clone())
                .await
                .map_err(|error| self.unreadable(partition, &error.into()))?;
            let value = self.decode(partition, &key, stored)?;
            if self.still_leads(cell, &first) {
                let now = clock::wall_ms();
                if !value.as_ref().is_some_and(|v| v.value.expired(now)) {
                    return Ok(value.map(to_value));
                }
                // The key expires by an entry of the log, never by a clock alone:
                // another primary's clock may be behind (rule 6).
                let key = key.clone();
                self.expire(partition, vec![DueKey { key, row: None }])
                    .await?;
                covers = None;
            }
            if Instant::now() >= deadline {
                return Err(RequestError::NotReady { partition });
            }
        }
    }

    /// Waits until the state may be read under the lease. `covers` is what it must have
    /// applied, settled by the first look in an epoch.
    pub(super) async fn may_read(
        &self,
        partition: PartitionId,
        cell: &Cell,
        covers: &mut Option<(Epoch, Index)>,
        deadline: Instant,
    ) -> Result<Published, RequestError> {
        loop {
            let watching = cell.watch();
            let mut changed = std::pin::pin!(watching.changed());
            changed.as_mut().enable();
            if let Some(seen) = cell.load()
                && seen.leads(clock::boottime())
                && covers.is_none_or(|(epoch, _)| epoch != seen.epoch)
            {
                *covers = Some((seen.epoch, seen.commit));
            }
            match self.look(partition, cell, covers.map(|(_, index)| index)) {
                Look::Read(published) => return Ok(published),
                Look::Refuse(error) => return Err(error),
                Look::Wait { lapsed } => {
                    if lapsed && cell.hurry() {
                        // A lapsed lease means one round to its quorum (rule 5).
                        self.inbox.push(Input::HurryLease(partition));
                    }
                    self.hurry_applying();
                    if timeout_at(deadline, changed).await.is_err() {
                        return Err(RequestError::NotReady { partition });
                    }
                }
            }
        }
    }

    /// Has what committed applied at once, which is gathered otherwise: somebody waits.
    pub(super) fn hurry_applying(&self) {
        if let Some(reader) = &*self.reader.load() {
            reader.hurry();
        }
    }

    pub(super) fn reader(&self, partition: PartitionId) -> Result<Arc<StateReader>, RequestError> {
        let reader = self.reader.load_full();
        reader.ok_or(RequestError::NotReady { partition })
    }

    /// Decodes what a read of a client found, and counts it.
    pub(super) fn decode(
        &self,
        partition: PartitionId,
        key: &[u8],
        stored: Option<Bytes>,
    ) -> Result<Option<VersionedValue>, RequestError> {
        // What is read again, since it turned out to be of no use, is load as well.
        let bytes = stored.as_ref().map_or(0, Bytes::len);
        self.load.read(bytes);
        self.heat.read(partition, key, bytes);
        stored
            .map(VersionedValue::decode)
            .transpose()
            .map_err(|error| self.unreadable(partition, &error.into()))
    }

    /// What to answer where the state could not be read. What is damaged is told to
    /// the engine (rule 12); a store that is busy or closed is not damaged.
    pub(super) fn unreadable(&self, partition: PartitionId, error: &Unreadable) -> RequestError {
        match error {
            Unreadable::Storage(StorageError::Overloaded) => return RequestError::Overloaded,
            Unreadable::Storage(StorageError::Closed) => {}
            damage => {
                tracing::error!(%partition, error = %damage, "cannot read the state of a partition");
                self.inbox.push(Input::Event(Event::Corrupt {
                    partitions: vec![partition],
                }));
            }
        }
        RequestError::NotReady { partition }
    }
}

/// Why the state of a partition could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// The store.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// What it gave makes no sense.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

/// As clients are told it. The edition of a counter that cannot be read is no reason to give
/// up a replica: it is read as what it is, and nothing is added to it.
pub(super) fn to_value(stored: VersionedValue) -> Value {
    let VersionedValue { version, value } = stored;
    let expires_at = value.expires_at;
    Value::of(version, value).unwrap_or_else(|_| Value::string(Bytes::new(), version, expires_at))
}
