//! The partitions of this node behind the Redis listener.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::ids::NodeId;
use cairn_core::kv::request::WriteRequest;
use futures::future::BoxFuture;

use super::keyspace::Keyspace;
use crate::grpc::MapFeed;
use crate::partition::{self, Handle, PendingRead, ReplyQueue, WriteBatch};
use crate::resp::backend::{AskResult, Question, ReadResult, WriteResult};
use crate::resp::{Backend, Facts, Figures, ReadLevel, Session, Started};

/// A read on its way.
pub(super) enum Reading {
    /// From the primary, under its lease.
    Primary(PendingRead),
    /// From this replica's own state.
    Local(Pin<Box<dyn Future<Output = ReadResult> + Send>>),
}

impl Future for Reading {
    type Output = ReadResult;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<ReadResult> {
        match self.get_mut() {
            Self::Primary(read) => Pin::new(read).poll(context),
            Self::Local(read) => read.as_mut().poll(context),
        }
    }
}

/// The door to the partitions, as the Redis listener knows it.
pub(super) struct Redis {
    pub(super) handle: Handle,
    /// Says when a newer map came.
    pub(super) feed: MapFeed,
    pub(super) keyspace: Arc<Keyspace>,
}

impl Facts for Redis {
    fn node(&self) -> Option<NodeId> {
        Some(self.handle.node())
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
            handle: self.handle.clone(),
            queue: ReplyQueue::default(),
            batch: WriteBatch::default(),
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

    fn read(&self, slot: u16, key: &Bytes, level: ReadLevel) -> Started<Reading> {
        let partition = match self.handle.partition_of_slot(slot) {
            Ok(partition) => partition,
            Err(error) => return Started::Done(Err(error)),
        };
        let leads = || {
            self.handle
                .standing(partition)
                .is_some_and(|here| here.is_primary(self.handle.node()))
        };
        if level == ReadLevel::Replica && !leads() {
            // As Redis does after READONLY: whatever this replica holds.
            let (handle, key) = (self.handle.clone(), Bytes::copy_from_slice(key));
            return Started::Waiting(Reading::Local(Box::pin(async move {
                handle.read_any(&key).await.map(|read| read.value)
            })));
        }
        match self.handle.start_read(partition, key) {
            partition::StartedRead::Done(result) => Started::Done(result),
            partition::StartedRead::Waiting(read) => Started::Waiting(Reading::Primary(read)),
        }
    }
}

/// The writes of one connection.
pub(super) struct Writes {
    handle: Handle,
    queue: ReplyQueue,
    /// What was started since the last flush.
    batch: WriteBatch,
}

impl Session for Writes {
    fn write(&mut self, slot: u16, token: u64, request: WriteRequest) {
        let reply = self.queue.reply_to(token);
        match self.handle.partition_of_slot(slot) {
            Ok(partition) => {
                self.handle
                    .batch_write_to(&mut self.batch, partition, request, reply);
            }
            Err(_) => self.handle.batch_write(&mut self.batch, request, reply),
        }
    }

    fn flush(&mut self) {
        self.handle.submit_batch(&mut self.batch);
    }

    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        self.queue.poll_take(context, 1)
    }
}
