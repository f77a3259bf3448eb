//! The queue in front of the engine: many senders, one receiver that takes all at
//! once. Under load the engine is awake and a sender only pushes; a sender that
//! finds the engine asleep wakes it.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use bytes::Bytes;
use cairn_core::cluster::report::PartitionStatus;
use cairn_core::ids::{Index, Micros, NodeId, PartitionId, Position};
use cairn_core::kv::request::WriteRequest;
use cairn_core::kv::{DueKey, Table, VersionedValue};
use cairn_core::replication::{
    Committed, CommittedError, Event, Generation, GiveError, PartitionMeta, PeerMessage,
    ProofLevel, SnapshotWanted,
};
use cairn_proto::trace::TracedEntry;
use futures::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::admission::Place;
use super::clock;
use super::reply::ReplyTo;
use crate::store::Applied;

/// A write on its way to the engine.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) partition: PartitionId,
    pub(super) work: Work,
    pub(super) reply: ReplyTo,
    /// What it holds of the node's bounds until it is answered.
    pub(super) place: Place,
    /// When the engine saw it first; zero before.
    pub(super) arrived: Micros,
}

/// What is to be evaluated.
#[derive(Debug)]
pub(super) enum Work {
    /// A client's write.
    Write(WriteRequest),
    /// These keys may be past their expiry (rule 6).
    Expire(Vec<DueKey>),
}

impl Work {
    /// The keys that it touches, each as often as it is named.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (written, due) = match self {
            Self::Write(request) => (Some(request.op.keys()), &[][..]),
            Self::Expire(due) => (None, &due[..]),
        };
        written
            .into_iter()
            .flatten()
            .chain(due.iter().map(|due| &due.key))
    }
}

/// The values that a lookup found.
pub(super) type Found = Vec<(Bytes, Option<VersionedValue>)>;

/// An idempotence table, and the applied index from which the log is to be followed.
#[derive(Debug)]
pub(super) struct LoadedTable {
    pub(super) table: Table,
    pub(super) applied: Index,
}

/// Something for the engine.
#[derive(Debug)]
pub(super) enum Input {
    Event(Event),
    Peer {
        from: NodeId,
        messages: Vec<PeerMessage>,
        /// What they weigh in the backlog.
        bytes: usize,
    },
    /// Entries that other nodes' messages bring, or will, are traced.
    Traced(Vec<TracedEntry>),
    Submit(Submission),
    SubmitMany(Vec<Submission>),
    /// Values for writes that wait for them; `None` where the store could not be
    /// read.
    Found {
        partition: PartitionId,
        term: u64,
        ticket: u64,
        found: Option<Found>,
    },
    /// `None` where the store could not be read.
    Table {
        partition: PartitionId,
        term: u64,
        loaded: Option<LoadedTable>,
    },
    Applied(Vec<Applied>),
    Statuses {
        full: bool,
        reply: oneshot::Sender<Vec<PartitionStatus>>,
    },
    /// Another node wants a snapshot of a replica here.
    GiveSnapshot {
        wanted: SnapshotWanted,
        reply: oneshot::Sender<Result<Generation, GiveError>>,
    },
    Metas {
        reply: oneshot::Sender<Vec<PartitionMeta>>,
    },
    /// A watcher wants committed entries past a position.
    Committed {
        partition: PartitionId,
        after: Option<Position>,
        bytes: usize,
        reply: oneshot::Sender<Result<Committed, CommittedError>>,
    },
    /// A read found the lease lapsed.
    HurryLease(PartitionId),
    /// Reads wait for a proof (rule 6).
    Prove(PartitionId, ProofLevel),
    /// The map may name another idempotence window or another lease.
    MapChanged,
    Stop,
}

/// What lies in the queue.
#[derive(Debug, Default)]
struct Waiting {
    inputs: Vec<Input>,
    /// When the first of those came that the engine is woken for.
    since: Option<Micros>,
}

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queue: Mutex<Waiting>,
    asleep: AtomicBool,
    closed: AtomicBool,
    receiver: AtomicWaker,
}

impl Inbox {
    /// Adds an input, and wakes the engine if it sleeps.
    pub(super) fn push(&self, input: Input) {
        self.add(input, true);
        self.wake();
    }

    /// Adds an input that nobody waits for: the engine finds it when it wakes the
    /// next time, at its tick at the latest.
    pub(super) fn push_quietly(&self, input: Input) {
        self.add(input, false);
    }

    fn add(&self, input: Input, wakes: bool) {
        let mut queue = self.queue.lock();
        if self.closed.load(Ordering::Relaxed) {
            // Dropping an input answers it; that takes other locks.
            drop(queue);
            drop(input);
        } else {
            if wakes {
                queue.since.get_or_insert_with(clock::boottime);
            }
            queue.inputs.push(input);
        }
    }

    /// Takes nothing any more: whatever is pushed or lies here is dropped, which
    /// answers it.
    pub(super) fn close(&self) {
        let left = {
            let mut queue = self.queue.lock();
            self.closed.store(true, Ordering::Relaxed);
            std::mem::take(&mut *queue)
        };
        drop(left);
    }

    fn wake(&self) {
        // The engine sets `asleep` before it looks at the queue a last time, under
        // the queue's lock: either it sees what was pushed, or the flag is seen here.
        if self.asleep.load(Ordering::SeqCst) && self.asleep.swap(false, Ordering::SeqCst) {
            self.receiver.wake();
        }
    }

    /// Ready once there is something. At most one task ever waits.
    pub(super) async fn filled(&self) {
        poll_fn(|context| {
            self.receiver.register(context.waker());
            let queue = self.queue.lock();
            let is_empty = queue.inputs.is_empty();
            self.asleep.store(is_empty, Ordering::SeqCst);
            match is_empty {
                true => Poll::Pending,
                false => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Moves everything into the empty `into`. Returns since when the engine was wanted, if it was.
    pub(super) fn take(&self, into: &mut Vec<Input>) -> Option<Micros> {
        debug_assert!(into.is_empty());
        self.asleep.store(false, Ordering::SeqCst);
        let mut queue = self.queue.lock();
        std::mem::swap(&mut queue.inputs, into);
        queue.since.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_sleeping_receiver_is_woken_and_takes_everything_in_order() {
        let inbox = Arc::new(Inbox::default());
        let receiver = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move {
                let (mut seen, mut batch) = (Vec::new(), Vec::new());
                while seen.len() < 1000 {
                    inbox.filled().await;
                    let wanted = inbox.take(&mut batch);
                    assert_eq!(wanted.is_some(), !batch.is_empty());
                    for input in batch.drain(..) {
                        if let Input::Event(Event::Flushed { number }) = input {
                            seen.push(number);
                        }
                    }
                }
                seen
            }
        });
        let sender = std::thread::spawn(move || {
            for number in 0..1000 {
                inbox.push(Input::Event(Event::Flushed { number }));
            }
        });
        let seen = receiver.await.expect("the receiver ends");
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        sender.join().expect("the sender ends");
    }

    /// What nobody waits for makes nobody wait.
    #[test]
    fn the_engine_is_wanted_since_the_first_that_it_is_woken_for() {
        let (inbox, mut batch) = (Inbox::default(), Vec::new());
        inbox.push_quietly(Input::MapChanged);
        assert_eq!(inbox.take(&mut batch), None);
        batch.clear();
        let before = clock::boottime();
        inbox.push(Input::MapChanged);
        let after = clock::boottime();
        inbox.push(Input::MapChanged);
        let since = inbox.take(&mut batch).expect("wanted");
        assert!((before..=after).contains(&since) && batch.len() == 2);
        batch.clear();
        assert_eq!(inbox.take(&mut batch), None);
    }
}
