//! The partitions of this node behind the client's service.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::kv::request::{ReadLevel, WriteLevel, WriteRequest};
use cairn_core::record::ClusterMap;
use cairn_proto::trace::SpanContext;

use super::backend::{KvBackend, StartedRead, WriteQueue, WriteResult};
use crate::partition;
use crate::partition::{Handle, PendingReading, ReplyQueue, WriteBatch};
use crate::trace::Tracer;

impl KvBackend for Handle {
    type Writes = EngineWrites;
    type Read = PendingReading;

    fn writes(&self) -> EngineWrites {
        EngineWrites {
            handle: self.clone(),
            queue: ReplyQueue::default(),
            batch: WriteBatch::default(),
        }
    }

    fn read(&self, key: &Bytes, level: Option<ReadLevel>) -> StartedRead<PendingReading> {
        let partition = match self.partition_of(key) {
            Ok(partition) => partition,
            Err(error) => return StartedRead::Done(Err(error)),
        };
        let level = level.unwrap_or_else(|| self.default_read_level());
        match self.start_read_at(partition, key, level) {
            partition::StartedReading::Done(result) => StartedRead::Done(result),
            partition::StartedReading::Waiting(pending) => StartedRead::Waiting(pending),
        }
    }

    fn map(&self) -> Arc<ClusterMap> {
        Handle::map(self)
    }

    fn tracer(&self) -> Tracer {
        Handle::tracer(self).clone()
    }
}

/// The writes of one gRPC stream or call.
#[derive(Debug)]
pub struct EngineWrites {
    handle: Handle,
    queue: ReplyQueue,
    /// What was started since the last flush.
    batch: WriteBatch,
}

impl WriteQueue for EngineWrites {
    fn submit(&mut self, token: u64, request: WriteRequest, level: WriteLevel) {
        self.submit_traced(token, request, level, None);
    }

    fn submit_traced(
        &mut self,
        token: u64,
        request: WriteRequest,
        level: WriteLevel,
        trace: Option<SpanContext>,
    ) {
        let reply = self.queue.reply_to(token).traced(trace);
        self.handle
            .batch_write_at(&mut self.batch, level, request, reply);
    }

    fn flush(&mut self) {
        self.handle.submit_batch(&mut self.batch);
    }

    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        self.queue.poll_take(context, 1)
    }
}
