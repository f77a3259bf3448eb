//! The partitions of this node behind the Redis listener.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::ids::NodeId;
use cairn_core::kv::request::{ReadLevel as KvReadLevel, RequestError, WriteLevel, WriteRequest};
use futures::future::BoxFuture;

use super::keyspace::Keyspace;
use crate::counters::{Counters, Engine, Flows, Plain, StartedCount};
use crate::grpc::MapFeed;
use crate::partition::{self, Handle, PendingReading, ReplyQueue, WriteBatch};
use crate::resp::backend::{AskResult, Question, ReadResult, WriteResult};
use crate::resp::{Backend, Facts, Figures, ReadLevel, ReadTerms, Session, Started};
use crate::tracking::Tracker;

/// A read on its way.
pub(super) enum Reading {
    Plain {
        read: PendingReading,
        handle: Handle,
    },
    /// Of a key that may be a striped counter.
    Counter(BoxFuture<'static, ReadResult>),
}

impl Future for Reading {
    type Output = ReadResult;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ReadResult> {
        match &mut *self {
            Self::Plain { read, handle } => {
                let result = std::task::ready!(Pin::new(read).poll(context));
                Poll::Ready(spoken(handle, result))
            }
            Self::Counter(read) => read.as_mut().poll(context),
        }
    }
}

/// As Redis clients take it. They learn from `MOVED` who is primary of a slot: a replica
/// that can answer although the primary may not is no such node, and the command waits
/// here until the primary is known.
fn spoken(handle: &Handle, result: partition::ReadingResult) -> ReadResult {
    match result {
        Ok(reading) => Ok(reading.value),
        Err(RequestError::Moved {
            partition,
            epoch,
            primary: Some(member),
        }) if !handle.knows_as_primary(partition, member) || member.node == handle.node() => {
            Err(RequestError::Moved {
                partition,
                epoch,
                primary: None,
            })
        }
        Err(error) => Err(error),
    }
}

/// A primary that was deposed a moment ago may still have a map that names it: a client
/// that is sent there would run in a circle. The command waits here for the newer map.
fn spoken_of_write(here: NodeId, result: WriteResult) -> WriteResult {
    match result {
        Err(RequestError::Moved {
            partition,
            epoch,
            primary: Some(member),
        }) if member.node == here => Err(RequestError::Moved {
            partition,
            epoch,
            primary: None,
        }),
        result => result,
    }
}

/// The door to the partitions, as the Redis listener knows it.
pub(super) struct Redis {
    pub(super) handle: Handle,
    /// Says when a newer map came.
    pub(super) feed: MapFeed,
    pub(super) keyspace: Arc<Keyspace>,
    /// Keys that are counted wherever they are.
    pub(super) counters: Counters,
    /// The level of connections that said `READONLY`.
    pub(super) readonly_level: KvReadLevel,
}

impl Facts for Redis {
    fn node(&self) -> Option<NodeId> {
        Some(self.handle.node())
    }

    fn tracker(&self) -> Option<&Arc<Tracker>> {
        Some(self.handle.tracker())
    }

    fn figures(&self) -> Figures {
        Figures {
            keys: self.handle.keys(),
            disk_full: self.handle.disk_full(),
            expired_keys: self.handle.expired_keys(),
        }
    }
}

impl Backend for Redis {
    type Session = Writes;
    type Read = Reading;

    fn session(&self) -> Writes {
        Writes {
            engine: Usual {
                handle: self.handle.clone(),
                queue: ReplyQueue::default(),
                batch: WriteBatch::default(),
            },
            flows: Flows::new(self.counters.clone()),
        }
    }

    fn ask(&self, question: Question) -> BoxFuture<'static, AskResult> {
        Box::pin(Arc::clone(&self.keyspace).ask(question))
    }

    fn map_changed(&self) -> Option<BoxFuture<'static, ()>> {
        let mut changes = self.feed.subscribe();
        Some(Box::pin(async move {
            if changes.changed().await.is_err() {
                std::future::pending().await
            }
        }))
    }

    fn read(&self, slot: u16, key: &Bytes, terms: ReadTerms) -> Started<Reading> {
        let partition = match self.handle.partition_of_slot(slot) {
            Ok(partition) => partition,
            Err(error) => return Started::Done(Err(error)),
        };
        if let Some(reader) = terms.reader {
            let tracker = self.handle.tracker();
            if self.counters.stripes(key).is_some() {
                // It is added to elsewhere, and nobody here hears of that.
                tracker.tell_one(key, reader);
            } else {
                tracker.remember(partition, key, reader);
            }
        }
        let level = match terms.level {
            ReadLevel::Primary => KvReadLevel::Primary,
            ReadLevel::Replica => self.readonly_level,
        };
        if level != KvReadLevel::Any
            && let Some(started) = self.counters.start_read(key)
        {
            return match started {
                StartedCount::Done(result) => Started::Done(result),
                StartedCount::Waiting(read) => Started::Waiting(Reading::Counter(read)),
            };
        }
        match self.handle.start_read_at(partition, key, level) {
            partition::StartedReading::Done(result) => Started::Done(spoken(&self.handle, result)),
            partition::StartedReading::Waiting(read) => Started::Waiting(Reading::Plain {
                read,
                handle: self.handle.clone(),
            }),
        }
    }
}

/// The writes of one connection.
pub(super) struct Writes {
    engine: Usual,
    flows: Flows,
}

/// The usual way of the writes of one connection.
struct Usual {
    handle: Handle,
    queue: ReplyQueue,
    /// What was started since the last flush.
    batch: WriteBatch,
}

impl Session for Writes {
    fn write(&mut self, slot: u16, token: u64, request: WriteRequest) {
        let write = Plain {
            token,
            request,
            level: WriteLevel::Quorum,
        };
        let Some(Plain { token, request, .. }) = self.flows.take(write) else {
            return;
        };
        let Usual {
            handle,
            queue,
            batch,
        } = &mut self.engine;
        let reply = queue.reply_to(token);
        match handle.partition_of_slot(slot) {
            Ok(partition) => handle.batch_write_to(batch, partition, request, reply),
            Err(_) => handle.batch_write(batch, request, reply),
        }
    }

    fn flush(&mut self) {
        self.engine.handle.submit_batch(&mut self.engine.batch);
    }

    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        self.flows.poll_answers(context, &mut self.engine)
    }
}

impl Engine for Usual {
    fn submit(&mut self, writes: impl Iterator<Item = Plain>) {
        for Plain { token, request, .. } in writes {
            let reply = self.queue.reply_to(token);
            self.handle.batch_write(&mut self.batch, request, reply);
        }
        self.handle.submit_batch(&mut self.batch);
    }

    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        let mut answers = std::task::ready!(self.queue.poll_take(context, 1));
        let here = self.handle.node();
        for (_, result) in &mut answers {
            if result.is_err() {
                let told = std::mem::replace(result, Err(RequestError::NoMap));
                *result = spoken_of_write(here, told);
            }
        }
        Poll::Ready(answers)
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::{Epoch, PartitionId, ReplicaId};
    use cairn_core::record::Member;

    use super::*;

    #[test]
    fn nobody_is_sent_to_the_node_that_says_so() {
        let moved = |node: Option<u64>| RequestError::Moved {
            partition: PartitionId(3),
            epoch: Epoch(7),
            primary: node.map(|node| Member {
                node: NodeId(node),
                replica: ReplicaId(node),
            }),
        };
        let here = NodeId(1);
        let told = |error| spoken_of_write(here, Err(error)).unwrap_err();
        assert_eq!(told(moved(Some(1))), moved(None));
        assert_eq!(told(moved(Some(2))), moved(Some(2)));
        assert_eq!(told(RequestError::DiskFull), RequestError::DiskFull);
    }
}
