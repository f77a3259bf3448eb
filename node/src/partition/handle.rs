//! The door to the partitions of this node, for the protocols, the peers and the
//! agent. Cheap to clone; nothing here blocks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::cluster::report::PartitionStatus;
use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::kv::request::{RequestError, WriteLevel, WriteOp, WriteRequest};
use cairn_core::record::ClusterMap;
use cairn_core::replication::{Event, PartitionMeta};
use cairn_core::slots;
use futures::future::BoxFuture;
use tokio::sync::oneshot;

use super::admission::Place;
use super::board::Published;
use super::clock;
use super::heat::Heated;
use super::inbox::{Input, Submission, Work};
use super::reply::{ReplyQueue, ReplyTo, WriteResult};
use super::shared::Shared;
use crate::agent::EngineLink;
use crate::peer::Throttle;
use crate::trace::Tracer;
use crate::tracking::Tracker;

/// The door to the partitions of this node.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) shared: Arc<Shared>,
}

/// Waits for a write. May be dropped at any time; the write goes on.
#[derive(Debug)]
pub struct PendingWrite {
    queue: ReplyQueue,
}

impl Future for PendingWrite {
    type Output = WriteResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<WriteResult> {
        self.queue.poll_take(context, 1).map(|mut answers| {
            answers
                .pop()
                .map_or(Err(RequestError::Unknown), |(_, result)| result)
        })
    }
}

/// Waits for writes that were started together.
#[derive(Debug)]
pub struct PendingWrites {
    queue: ReplyQueue,
    count: usize,
}

impl Future for PendingWrites {
    type Output = Vec<WriteResult>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Vec<WriteResult>> {
        let count = self.count;
        self.queue.poll_take(context, count).map(|mut answers| {
            answers.sort_unstable_by_key(|(token, _)| *token);
            answers.into_iter().map(|(_, result)| result).collect()
        })
    }
}

/// Writes that are to be started together, in order: see [`Handle::submit_batch`].
#[derive(Debug, Default)]
pub struct WriteBatch {
    writes: Vec<Submission>,
}

impl WriteBatch {
    fn take(&mut self, admitted: Result<Submission, (ReplyTo, RequestError)>) {
        match admitted {
            Ok(submission) => self.writes.push(submission),
            Err((reply, error)) => reply.answer_now(Err(error)),
        }
    }
}

impl Handle {
    /// What bounds the snapshots that other nodes fetch here.
    #[must_use]
    pub fn snapshot_throttle(&self) -> Throttle {
        self.shared.serving_throttle.clone()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.config.node
    }

    /// How many replicas of this node its process has not brought back among the others yet.
    /// Once there were none there are none; nor are there half a minute after the start.
    #[must_use]
    pub fn away(&self) -> usize {
        self.shared.away.load(Ordering::Relaxed)
    }

    /// How long a request may wait.
    #[must_use]
    pub fn request_timeout(&self) -> Duration {
        self.shared.config.request_timeout
    }

    /// What traces requests.
    #[must_use]
    pub fn tracer(&self) -> &Tracer {
        &self.shared.config.tracer
    }

    /// The newest map that the process has.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.shared.map.load_full()
    }

    /// Where the newest map is kept.
    #[must_use]
    pub fn shared_map(&self) -> &Arc<ArcSwap<ClusterMap>> {
        &self.shared.map
    }

    /// The partition of a key.
    ///
    /// # Errors
    /// [`RequestError::NoMap`] before the cluster was made.
    pub fn partition_of(&self, key: &[u8]) -> Result<PartitionId, RequestError> {
        self.partition_of_slot(slots::slot(key))
    }

    /// The partition of a slot.
    ///
    /// # Errors
    /// [`RequestError::NoMap`] before the cluster was made.
    pub fn partition_of_slot(&self, slot: u16) -> Result<PartitionId, RequestError> {
        self.shared
            .map
            .load()
            .partition_of_slot(slot)
            .map(|record| record.id)
            .ok_or(RequestError::NoMap)
    }

    /// The one partition of all keys of a write.
    ///
    /// # Errors
    /// [`RequestError::CrossPartition`] where there is not one, or no key at all.
    pub fn partition_of_write(&self, request: &WriteRequest) -> Result<PartitionId, RequestError> {
        let mut keys = request.op.keys();
        let first = keys.next().ok_or(RequestError::CrossPartition)?;
        let partition = self.partition_of(first)?;
        for key in keys {
            if self.partition_of(key)? != partition {
                return Err(RequestError::CrossPartition);
            }
        }
        Ok(partition)
    }

    /// How the replica of a partition on this node stands, if there is one.
    #[must_use]
    pub fn standing(&self, partition: PartitionId) -> Option<Published> {
        self.shared.board.load(partition)
    }

    /// Writes. Writes of one partition that one task starts take effect in the
    /// order in which they were started.
    pub fn write(&self, request: WriteRequest) -> PendingWrite {
        let queue = ReplyQueue::with_capacity(1);
        self.submit_write(request, queue.reply_to(0));
        PendingWrite { queue }
    }

    /// As [`Self::write`], for a caller that knows the partition of the keys.
    pub fn write_to(&self, partition: PartitionId, request: WriteRequest) -> PendingWrite {
        let queue = ReplyQueue::with_capacity(1);
        self.submit_write_to(partition, request, queue.reply_to(0));
        PendingWrite { queue }
    }

    /// Writes several at once, of any partitions; the results stand in the order
    /// of the requests, and the caller is woken once, for all of them.
    pub fn write_many(&self, requests: Vec<WriteRequest>) -> PendingWrites {
        let count = requests.len();
        let queue = ReplyQueue::with_capacity(count);
        let mut wakers = Vec::new();
        let submissions = (0..)
            .zip(requests)
            .filter_map(|(token, request)| {
                let reply = queue.reply_to(token);
                match self.admit(WriteLevel::Quorum, request, reply) {
                    Ok(submission) => Some(submission),
                    Err((reply, error)) => {
                        reply.answer(Err(error), &mut wakers);
                        None
                    }
                }
            })
            .collect::<Vec<_>>();
        if !submissions.is_empty() {
            self.shared.inbox.push(Input::SubmitMany(submissions));
        }
        PendingWrites { queue, count }
    }

    /// Starts a write whose answer goes to `reply`: for connections that keep one
    /// [`ReplyQueue`] for all of their writes.
    pub fn submit_write(&self, request: WriteRequest, reply: ReplyTo) {
        match self.admit(WriteLevel::Quorum, request, reply) {
            Ok(submission) => self.shared.inbox.push(Input::Submit(submission)),
            Err((reply, error)) => reply.answer_now(Err(error)),
        }
    }

    /// As [`Self::submit_write`]; the write waits in `batch` until that is submitted.
    pub fn batch_write(&self, batch: &mut WriteBatch, request: WriteRequest, reply: ReplyTo) {
        batch.take(self.admit(WriteLevel::Quorum, request, reply));
    }

    /// As [`Self::batch_write`], acknowledged at `level`.
    pub fn batch_write_at(
        &self,
        batch: &mut WriteBatch,
        level: WriteLevel,
        request: WriteRequest,
        reply: ReplyTo,
    ) {
        batch.take(self.admit(level, request, reply));
    }

    /// As [`Self::batch_write`], for a caller that knows the partition of the keys.
    pub fn batch_write_to(
        &self,
        batch: &mut WriteBatch,
        partition: PartitionId,
        request: WriteRequest,
        reply: ReplyTo,
    ) {
        batch.take(self.admit_to(partition, WriteLevel::Quorum, request, reply));
    }

    /// Starts all writes of a batch at once: the engine is woken once for them.
    pub fn submit_batch(&self, batch: &mut WriteBatch) {
        let input = match batch.writes.len() {
            0 => return,
            1 => batch.writes.pop().map(Input::Submit),
            _ => Some(Input::SubmitMany(std::mem::take(&mut batch.writes))),
        };
        if let Some(input) = input {
            self.shared.inbox.push(input);
        }
    }

    /// As [`Self::submit_write`], for a caller that knows the partition of the keys.
    pub fn submit_write_to(&self, partition: PartitionId, request: WriteRequest, reply: ReplyTo) {
        match self.admit_to(partition, WriteLevel::Quorum, request, reply) {
            Ok(submission) => self.shared.inbox.push(Input::Submit(submission)),
            Err((reply, error)) => reply.answer_now(Err(error)),
        }
    }

    fn admit(
        &self,
        level: WriteLevel,
        request: WriteRequest,
        reply: ReplyTo,
    ) -> Result<Submission, (ReplyTo, RequestError)> {
        match self.partition_of_write(&request) {
            Ok(partition) => self.admit_to(partition, level, request, reply),
            Err(error) => Err((reply, error)),
        }
    }

    fn admit_to(
        &self,
        partition: PartitionId,
        level: WriteLevel,
        request: WriteRequest,
        reply: ReplyTo,
    ) -> Result<Submission, (ReplyTo, RequestError)> {
        let place = Place {
            level,
            bytes: request.op.weight(),
        };
        // What keeps a counter together is no client's.
        let is_ours = matches!(
            request.op,
            WriteOp::Establish { .. }
                | WriteOp::Adopt { .. }
                | WriteOp::Seal { .. }
                | WriteOp::Conclude { .. }
        );
        let keys = request.op.keys().filter(|_| !is_ours);
        if let Err(error) = self.shared.limit.write(keys, clock::boottime) {
            // It is asked for all the same: what is refused keeps it hot.
            self.shared.heat.write(partition, &request.op);
            return Err((reply, error));
        }
        let trace = reply.trace().or_else(|| self.shared.config.tracer.draw());
        match self.shared.admission.admit(place) {
            Ok(()) => Ok(Submission {
                partition,
                work: Work::Write(request),
                reply: reply.traced(trace),
                place,
                arrived: Micros(0),
            }),
            Err(error) => Err((reply, error)),
        }
    }

    /// Hands an event to the engine: orders, records, whether the coordinators are
    /// within reach, connections to peers.
    pub fn submit(&self, event: Event) {
        self.shared.inbox.push(Input::Event(event));
    }

    /// The status of every replica, or of those whose status changed since the last
    /// call. Nothing where the engine has stopped.
    pub async fn statuses(&self, full: bool) -> Vec<PartitionStatus> {
        let (reply, statuses) = oneshot::channel();
        self.shared.inbox.push(Input::Statuses { full, reply });
        statuses.await.unwrap_or_default()
    }

    /// What the log in memory holds of each partition, its entries aside: for
    /// diagnosis. Nothing where the engine has stopped.
    pub async fn metas(&self) -> Vec<PartitionMeta> {
        let (reply, metas) = oneshot::channel();
        self.shared.inbox.push(Input::Metas { reply });
        metas.await.unwrap_or_default()
    }

    /// Takes a newer map: puts it where everyone sees it and tells the engine of
    /// every record that concerns this node. A newer map that is there already stays.
    pub fn install_map(&self, map: Arc<ClusterMap>) {
        self.shared.install_map(map);
    }

    /// Asks that everything that this node leads be handed over: the node is about
    /// to stop.
    pub fn drain(&self) {
        self.submit(Event::Drain);
    }

    /// Says that the state or the log of these partitions is damaged (rule 12).
    pub fn corrupt(&self, partitions: Vec<PartitionId>) {
        self.submit(Event::Corrupt { partitions });
    }

    /// Whether this node refuses writes for want of disk space.
    #[must_use]
    pub fn disk_full(&self) -> bool {
        self.shared.disk_full.load(Ordering::Relaxed)
    }

    /// The keys that this node is asked for far more than others, as they were judged last;
    /// `None` where nobody looks for them.
    #[must_use]
    pub fn hot_keys(&self) -> Option<Arc<Heated>> {
        let heat = &self.shared.heat;
        (!heat.is_off()).then(|| heat.judged())
    }

    /// Who keeps which key, and is told when it changes.
    #[must_use]
    pub fn tracker(&self) -> &Arc<Tracker> {
        &self.shared.tracker
    }

    /// How many keys this node deleted as primary because their time was past.
    #[must_use]
    pub fn expired_keys(&self) -> u64 {
        self.shared.expired.load(Ordering::Relaxed)
    }
}

impl EngineLink for Handle {
    fn submit(&self, event: Event) {
        Self::submit(self, event);
    }

    fn statuses(&self, full: bool) -> BoxFuture<'static, Vec<PartitionStatus>> {
        let handle = self.clone();
        Box::pin(async move { Self::statuses(&handle, full).await })
    }

    fn set_map(&self, map: Arc<ClusterMap>) {
        self.shared.install_map(map);
    }
}
