//! Counters behind the gRPC listener.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::kv::request::{ReadLevel, RequestError, WriteLevel, WriteRequest};
use cairn_core::record::ClusterMap;
use cairn_proto::trace::SpanContext;
use futures::future::BoxFuture;

use super::flows::{Engine, Plain};
use super::{Counters, Flows};
use crate::grpc::{EngineWrites, KvBackend, StartedRead, WriteQueue};
use crate::partition::{self, PendingReading, ReadResult, Reading, ReadingResult, WriteResult};
use crate::trace::Tracer;

/// The partitions of this node, and counters wherever they are.
#[derive(Clone, Debug)]
pub(crate) struct Counted {
    counters: Counters,
}

impl Counted {
    pub(crate) fn new(counters: Counters) -> Self {
        Self { counters }
    }
}

impl Counters {
    /// Starts a strong read of a key that may be a counter; `None`: it cannot be one.
    pub(crate) fn start_read(&self, key: &Bytes) -> Option<StartedCount> {
        let stripes = self.stripes(key)?;
        let handle = self.handle();
        if let Ok(partition) = handle.partition_of(key)
            && handle.leads(partition)
            && let partition::StartedRead::Done(result) = handle.start_read(partition, key)
            && result
                .as_ref()
                .is_ok_and(|found| found.as_ref().is_none_or(|value| value.counter.is_none()))
        {
            return Some(StartedCount::Done(result));
        }
        // The key shares its connection's read buffer.
        let (counters, key) = (self.clone(), Bytes::copy_from_slice(key));
        Some(StartedCount::Waiting(Box::pin(async move {
            counters.read(key, stripes).await
        })))
    }

    /// Puts a counter together again that is to have no stripes any more.
    pub(super) async fn put_together(&self, key: Bytes, stripes: u16) -> WriteResult {
        let partition = self.handle().partition_of(&key)?;
        let machine = cairn_core::counters::Machine::recount(key, 0, stripes, rand::random());
        self.run(machine, None).await.1?;
        Err(RequestError::NotReady { partition })
    }
}

/// A read of a key that may be a counter.
pub(crate) enum StartedCount {
    /// It was at hand.
    Done(ReadResult),
    /// It will come.
    Waiting(BoxFuture<'static, ReadResult>),
}

/// A read on its way.
pub(crate) enum CountedRead {
    Plain(PendingReading),
    Counter(BoxFuture<'static, ReadResult>),
}

impl std::fmt::Debug for CountedRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CountedRead").finish_non_exhaustive()
    }
}

impl Future for CountedRead {
    type Output = ReadingResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ReadingResult> {
        match &mut *self {
            Self::Plain(read) => Pin::new(read).poll(context),
            Self::Counter(read) => read.as_mut().poll(context).map(current),
        }
    }
}

fn current(result: ReadResult) -> ReadingResult {
    result.map(|value| Reading { value, local: None })
}

impl KvBackend for Counted {
    type Writes = CountedWrites;
    type Read = CountedRead;

    fn writes(&self) -> CountedWrites {
        CountedWrites {
            engine: self.counters.handle().writes(),
            flows: Flows::new(self.counters.clone()),
        }
    }

    fn read(&self, key: &Bytes, level: Option<ReadLevel>) -> StartedRead<CountedRead> {
        let handle = self.counters.handle();
        let level = level.unwrap_or_else(|| handle.default_read_level());
        if level != ReadLevel::Any
            && let Some(started) = self.counters.start_read(key)
        {
            return match started {
                StartedCount::Done(result) => StartedRead::Done(current(result)),
                StartedCount::Waiting(read) => StartedRead::Waiting(CountedRead::Counter(read)),
            };
        }
        match KvBackend::read(handle, key, Some(level)) {
            StartedRead::Done(result) => StartedRead::Done(result),
            StartedRead::Waiting(read) => StartedRead::Waiting(CountedRead::Plain(read)),
        }
    }

    fn map(&self) -> Arc<ClusterMap> {
        self.counters.handle().map()
    }

    fn tracer(&self) -> Tracer {
        self.counters.handle().tracer().clone()
    }
}

/// The writes of one gRPC stream or call.
#[derive(Debug)]
pub(crate) struct CountedWrites {
    engine: EngineWrites,
    flows: Flows,
}

impl WriteQueue for CountedWrites {
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
        let write = Plain {
            token,
            request,
            level,
        };
        if let Some(Plain {
            token,
            request,
            level,
        }) = self.flows.take(write)
        {
            self.engine.submit_traced(token, request, level, trace);
        }
    }

    fn flush(&mut self) {
        self.engine.flush();
    }

    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        self.flows.poll_answers(context, &mut self.engine)
    }
}

impl Engine for EngineWrites {
    fn submit(&mut self, writes: impl Iterator<Item = Plain>) {
        for write in writes {
            WriteQueue::submit(self, write.token, write.request, write.level);
        }
        self.flush();
    }

    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        self.poll_take(context)
    }
}
