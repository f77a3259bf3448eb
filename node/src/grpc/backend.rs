//! What the client's service needs of the partitions.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::kv::request::{ReadLevel, RequestError, WriteLevel, WriteReply, WriteRequest};
use cairn_core::record::ClusterMap;
use cairn_proto::trace::SpanContext;

use crate::partition::ReadingResult;
use crate::trace::Tracer;

/// The result of a write.
pub type WriteResult = Result<WriteReply, RequestError>;
/// The result of a read.
pub type ReadResult = ReadingResult;

/// A read that was answered at once, or is to be waited for.
#[derive(Debug)]
pub enum StartedRead<F> {
    /// The answer was at hand.
    Done(ReadResult),
    /// The answer will come.
    Waiting(F),
}

/// Serves keys. Nothing here blocks.
pub trait KvBackend: Clone + Send + Sync + 'static {
    /// The writes of one connection.
    type Writes: WriteQueue;
    /// Waits for a read.
    type Read: Future<Output = ReadResult> + Send + Unpin + 'static;

    /// A queue for the writes of one connection or call.
    fn writes(&self) -> Self::Writes;

    /// Starts a read, as current as asked for; as the cluster agreed where no level is
    /// given.
    fn read(&self, key: &Bytes, level: Option<ReadLevel>) -> StartedRead<Self::Read>;

    /// The newest map, to tell where a primary is.
    fn map(&self) -> Arc<ClusterMap>;

    /// What traces requests.
    fn tracer(&self) -> Tracer {
        Tracer::default()
    }
}

/// The writes that one connection has started and not been answered for. Dropping
/// it abandons the answers, not the writes.
pub trait WriteQueue: Send + Unpin + 'static {
    /// Starts a write, at the latest with the next [`Self::flush`]. Writes of one partition take effect in the order in which
    /// they were started.
    fn submit(&mut self, token: u64, request: WriteRequest, level: WriteLevel);

    /// As [`Self::submit`], of a request that is a part of a trace, or is not.
    fn submit_traced(
        &mut self,
        token: u64,
        request: WriteRequest,
        level: WriteLevel,
        _trace: Option<SpanContext>,
    ) {
        self.submit(token, request, level);
    }

    /// Starts what was not started yet: called once for the calls of a turn.
    fn flush(&mut self) {}

    /// Takes every answer that is there, in any order, each with the token of its
    /// write; waits while there is none.
    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>>;
}
