//! Reads of every level (rule 6), on the task that asks.
//!
//! `primary` is [`super::read`]'s. A `replica` or `quorum` read takes a number, waits for a
//! proof that was asked for after it arrived, waits until the state has applied as far as
//! that says, reads it, and looks once more. Under a lease for reads a `replica` read finds
//! its proof in the partition's cell. `any` reads the state as it is.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, PartitionId};
use cairn_core::kv::VersionedValue;
use cairn_core::kv::request::{ReadLevel, RequestError, Value};
use cairn_core::record::Member;
use cairn_core::replication::{Proof, ProofLevel, ProofLook};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::board::{Cell, Published};
use super::clock;
use super::handle::Handle;
use super::inbox::Input;
use super::read::{PendingRead, StartedRead, to_value};
use super::shared::Shared;

/// How often a local read is tried whose state is given up under it.
const LOCAL_TRIES: usize = 8;
/// How long a read waits before it asks again for a proof that could not be given.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(5);

/// How current a state is that was read as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalState {
    /// The replica's epoch.
    pub epoch: Epoch,
    /// The applied index that the state had at least.
    pub applied: Index,
    /// The commit index that the replica knew of.
    pub commit: Index,
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The value.
    pub value: Option<Value>,
    /// Where it is of the level [`ReadLevel::Any`]: how current it is.
    pub local: Option<LocalState>,
}

impl Reading {
    fn current(value: Option<Value>) -> Self {
        Self { value, local: None }
    }
}

/// What came of a read of any level.
pub type ReadingResult = Result<Reading, RequestError>;

/// A read of any level that was answered at once, or is to be waited for.
#[derive(Debug)]
pub enum StartedReading {
    /// The answer was at hand.
    Done(ReadingResult),
    /// The answer will come.
    Waiting(PendingReading),
}

/// Waits for a read of any level.
pub struct PendingReading(Waiting);

enum Waiting {
    /// From the primary, under its lease.
    Primary(PendingRead),
    Other(Pin<Box<dyn Future<Output = ReadingResult> + Send>>),
}

impl fmt::Debug for PendingReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReading").finish_non_exhaustive()
    }
}

impl Future for PendingReading {
    type Output = ReadingResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ReadingResult> {
        match &mut self.0 {
            Waiting::Primary(read) => Pin::new(read)
                .poll(context)
                .map(|result| result.map(Reading::current)),
            Waiting::Other(read) => read.as_mut().poll(context),
        }
    }
}

impl Handle {
    /// The level of reads that name none, as the cluster agreed.
    #[must_use]
    pub fn default_read_level(&self) -> ReadLevel {
        let map = self.shared.map.load();
        map.settings
            .as_ref()
            .map_or(ReadLevel::Primary, |s| s.read_level)
    }

    /// Whether the member is primary of the partition, as far as this node knows.
    #[must_use]
    pub fn knows_as_primary(&self, partition: PartitionId, member: Member) -> bool {
        let here = self.shared.board.load(partition);
        let map = self.shared.map.load();
        let record = map.partitions.get(partition.0 as usize);
        [here.and_then(|p| p.primary), record.and_then(|r| r.primary)].contains(&Some(member))
    }

    /// Starts a read of a key of `partition`, as current as asked for. Never blocks.
    #[must_use]
    pub fn start_read_at(
        &self,
        partition: PartitionId,
        key: &Bytes,
        level: ReadLevel,
    ) -> StartedReading {
        let shared = &self.shared;
        if matches!(level, ReadLevel::Replica | ReadLevel::Any) {
            shared.heat.replica_read(partition);
        }
        let here = shared.board.load(partition);
        let primary = here.filter(|here| here.is_primary(shared.config.node));
        let proof = match (level, primary) {
            (ReadLevel::Any, _) => return self.start_local(partition, key),
            // The primary's own word is as good and costs nobody anything. A quorum may
            // know although the primary lost its lease.
            (ReadLevel::Primary, _) | (ReadLevel::Replica, Some(_)) => None,
            (ReadLevel::Quorum, Some(here)) if here.leads(clock::boottime()) => None,
            (ReadLevel::Replica, None) => Some(ProofLevel::Replica),
            (ReadLevel::Quorum, _) => Some(ProofLevel::Quorum),
        };
        let Some(proof) = proof else {
            return match self.start_read(partition, key) {
                StartedRead::Done(result) => StartedReading::Done(result.map(Reading::current)),
                StartedRead::Waiting(read) => {
                    StartedReading::Waiting(PendingReading(Waiting::Primary(read)))
                }
            };
        };
        if here.is_none() {
            return StartedReading::Done(Err(shared.moved(partition, None)));
        }
        if let Err(error) = shared.admit_read(partition, key) {
            return StartedReading::Done(Err(error));
        }
        match proof {
            ProofLevel::Replica => shared.reads.replica.increment(1),
            ProofLevel::Quorum => shared.reads.quorum.increment(1),
        }
        if proof == ProofLevel::Replica
            && let Some(reading) = shared.leased_at_once(partition, key)
        {
            return StartedReading::Done(reading);
        }
        // The key shares its connection's read buffer, which must not live as long
        // as a slow read.
        let (shared, key) = (Arc::clone(shared), Bytes::copy_from_slice(key));
        waiting(async move {
            let value = shared.read_proved(partition, key, proof).await;
            value.map(Reading::current)
        })
    }

    /// The value in this replica's own state, whatever its role: consistency `any`.
    ///
    /// # Errors
    /// [`RequestError::Moved`] where no replica lives here whose state is whole.
    pub async fn read_any(&self, key: &Bytes) -> ReadingResult {
        match self.start_local(self.partition_of(key)?, key) {
            StartedReading::Done(result) => result,
            StartedReading::Waiting(reading) => reading.await,
        }
    }

    fn start_local(&self, partition: PartitionId, key: &Bytes) -> StartedReading {
        let shared = &self.shared;
        if let Err(error) = shared.admit_read(partition, key) {
            return StartedReading::Done(Err(error));
        }
        shared.reads.local.increment(1);
        if let Some(result) = shared.local_at_once(partition, key) {
            return StartedReading::Done(result);
        }
        let (shared, key) = (Arc::clone(shared), Bytes::copy_from_slice(key));
        waiting(async move { shared.read_local(partition, key).await })
    }
}

fn waiting(read: impl Future<Output = ReadingResult> + Send + 'static) -> StartedReading {
    StartedReading::Waiting(PendingReading(Waiting::Other(Box::pin(read))))
}

impl Shared {
    /// The replica here, if its own state may be read, however old: it is one of the
    /// partition's, learners included, it is not damaged, and what it lacked when it was
    /// made, or discarded since, was installed.
    pub(super) fn readable(&self, partition: PartitionId) -> Result<Published, RequestError> {
        let published = self
            .board
            .load(partition)
            .ok_or_else(|| self.moved(partition, None))?;
        let map = self.map.load();
        let record = usize::try_from(partition.0)
            .ok()
            .and_then(|at| map.partitions.get(at));
        // One that was removed is about to go. The map may lag behind the replica.
        let removed = record.is_some_and(|r| {
            let config = &r.config;
            let learns = || {
                let mut others = config.learners.iter().chain(&config.readers);
                others.any(|m| m.replica == published.replica)
            };
            r.epoch >= published.epoch && !config.is_voter(published.replica) && !learns()
        });
        // A state is installed as a whole, and holds an entry then, if only the first
        // primary's barrier: one that has applied none is yet to be filled.
        let empty = published.applied == Index::ZERO;
        if removed || empty || self.is_damaged(partition, published.replica) {
            return Err(self.moved(partition, None));
        }
        Ok(published)
    }

    /// Whether what was read after `first` is of the same state: one that was given up
    /// meanwhile may have been read half deleted, and is not damaged for that.
    pub(super) fn still_readable(
        &self,
        partition: PartitionId,
        first: &Published,
    ) -> Result<Option<Published>, RequestError> {
        let second = self.readable(partition)?;
        let same = (second.generation, second.replica) == (first.generation, first.replica);
        Ok(same.then_some(second))
    }

    /// The answer, where it takes no waiting: the cache has the key.
    fn local_at_once(&self, partition: PartitionId, key: &Bytes) -> Option<ReadingResult> {
        let first = match self.readable(partition) {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let reader = self.reader.load();
        let stored = reader.as_ref()?.get_cached(first.generation, key)?;
        self.still_readable(partition, &first).ok()??;
        Some(self.local(partition, key, &first, stored))
    }

    /// The answer under a lease for reads, where it takes no waiting: the cache has the key.
    fn leased_at_once(&self, partition: PartitionId, key: &Bytes) -> Option<ReadingResult> {
        let first = self.readable(partition).ok()?;
        // The clock after the cell: what was published held while the lease did.
        if !first.follows(clock::boottime()) {
            return None;
        }
        let reader = self.reader.load();
        let stored = reader.as_ref()?.get_cached(first.generation, key)?;
        let second = self.still_readable(partition, &first).ok()??;
        if second.epoch != first.epoch {
            return None;
        }
        let value = match self.decode(partition, key, stored) {
            Ok(value) => value,
            Err(error) => return Some(Err(error)),
        };
        let is_past =
            |v: &VersionedValue| v.value.expires_at.is_some() && v.value.expired(clock::wall_ms());
        if value.as_ref().is_some_and(is_past) {
            return None;
        }
        self.board.cell(partition)?.pass(ProofLevel::Replica);
        self.reads.leased.increment(1);
        Some(Ok(Reading::current(value.map(to_value))))
    }

    /// What a lease for reads proves, where there is one.
    fn leased(&self, cell: &Cell) -> Option<Proof> {
        let here = cell.load()?;
        if !here.follows(clock::boottime()) {
            return None;
        }
        cell.pass(ProofLevel::Replica);
        self.reads.leased.increment(1);
        Some(Proof::Applied {
            epoch: here.epoch,
            index: here.commit,
        })
    }

    async fn read_local(&self, partition: PartitionId, key: Bytes) -> ReadingResult {
        for _ in 0..LOCAL_TRIES {
            let first = self.readable(partition)?;
            let stored = self
                .reader(partition)?
                .get(first.generation, key.clone())
                .await;
            if self.still_readable(partition, &first)?.is_none() {
                continue;
            }
            let stored = stored.map_err(|error| self.unreadable(partition, &error.into()))?;
            return self.local(partition, &key, &first, stored);
        }
        Err(RequestError::NotReady { partition })
    }

    fn local(
        &self,
        partition: PartitionId,
        key: &Bytes,
        first: &Published,
        stored: Option<Bytes>,
    ) -> ReadingResult {
        let value = self.decode(partition, key, stored)?;
        let now = clock::wall_ms();
        Ok(Reading {
            value: value.filter(|v| !v.value.expired(now)).map(to_value),
            local: Some(LocalState {
                epoch: first.epoch,
                applied: first.applied,
                commit: first.commit.max(first.applied),
            }),
        })
    }

    /// A read that this replica answers once it is proved to be current.
    async fn read_proved(
        self: Arc<Self>,
        partition: PartitionId,
        key: Bytes,
        level: ProofLevel,
    ) -> Result<Option<Value>, RequestError> {
        let Some(cell) = self.board.cell(partition) else {
            return Err(self.moved(partition, None));
        };
        let deadline = Instant::now() + self.config.request_timeout;
        loop {
            let leased = match level {
                ProofLevel::Replica => self.leased(cell),
                ProofLevel::Quorum => None,
            };
            let proof = match leased {
                Some(proof) => proof,
                None => self.proof(partition, cell, level, deadline).await?,
            };
            match proof {
                Proof::Applied { .. } => {
                    let read = self.read_under(partition, cell, &key, proof, deadline);
                    if let Some(value) = read.await? {
                        return Ok(value);
                    }
                }
                Proof::NotNow => sleep_until((Instant::now() + ASK_AGAIN).min(deadline)).await,
                Proof::Elsewhere(member) => {
                    if member.is_some_and(|m| m.node == self.config.node) {
                        return Arc::clone(&self).read_slowly(partition, key).await;
                    }
                    self.reads.redirected.increment(1);
                    let moved = self.moved(partition, cell.load().as_ref());
                    return Err(match (moved, member) {
                        (
                            RequestError::Moved {
                                partition, epoch, ..
                            },
                            Some(member),
                        ) => RequestError::Moved {
                            partition,
                            epoch,
                            primary: Some(member),
                        },
                        (moved, _) => moved,
                    });
                }
            }
            if Instant::now() >= deadline {
                return Err(RequestError::NotReady { partition });
            }
        }
    }

    /// Waits for a proof that was asked for from now on.
    pub(super) async fn proof(
        &self,
        partition: PartitionId,
        cell: &Cell,
        level: ProofLevel,
        deadline: Instant,
    ) -> Result<Proof, RequestError> {
        let (number, asks) = cell.arrive(level);
        if asks {
            self.inbox.push(Input::Prove(partition, level));
        }
        loop {
            let watching = cell.watch();
            let mut changed = std::pin::pin!(watching.changed());
            changed.as_mut().enable();
            if let Some(proof) = cell.proof(level, number) {
                return Ok(proof);
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Err(RequestError::NotReady { partition });
            }
        }
    }

    /// Reads under a proof; `None` where it became void.
    async fn read_under(
        self: &Arc<Self>,
        partition: PartitionId,
        cell: &Cell,
        key: &Bytes,
        proof: Proof,
        deadline: Instant,
    ) -> Result<Option<Option<Value>>, RequestError> {
        let first = loop {
            let watching = cell.watch();
            let mut changed = std::pin::pin!(watching.changed());
            changed.as_mut().enable();
            let here = self.readable(partition)?;
            match proof.look(here.epoch, here.applied) {
                ProofLook::Read => break here,
                ProofLook::Void => return Ok(None),
                ProofLook::Wait => {
                    self.hurry_applying();
                    if timeout_at(deadline, changed).await.is_err() {
                        return Err(RequestError::NotReady { partition });
                    }
                }
            }
        };
        let stored = self
            .reader(partition)?
            .get(first.generation, key.clone())
            .await;
        let still = self.still_readable(partition, &first)?;
        if still.is_none_or(|now| proof.look(now.epoch, now.applied) != ProofLook::Read) {
            return Ok(None);
        }
        let stored = stored.map_err(|error| self.unreadable(partition, &error.into()))?;
        let value = self.decode(partition, key, stored)?;
        if value
            .as_ref()
            .is_some_and(|v| v.value.expired(clock::wall_ms()))
        {
            // The key expires by an entry of the log, which is the primary's to write.
            if first.is_primary(self.config.node) {
                let value = Arc::clone(self).read_slowly(partition, key.clone()).await?;
                return Ok(Some(value));
            }
            self.reads.redirected.increment(1);
            return Err(self.moved(partition, Some(&first)));
        }
        Ok(Some(value.map(to_value)))
    }
}
