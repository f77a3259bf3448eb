//! What the Redis listener needs of the rest of the node.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cairn_core::ids::NodeId;
use cairn_core::kv::request::{RequestError, Value, WriteReply, WriteRequest};
use cairn_core::tracking::ReaderId;
use futures::future::BoxFuture;

use crate::tracking::Tracker;

/// The result of a write.
pub type WriteResult = Result<WriteReply, RequestError>;
/// The result of a read.
pub type ReadResult = Result<Option<Value>, RequestError>;

/// A question about all keys that this node is primary of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// How many there are.
    Count,
    /// Some of them.
    Scan(ScanQuestion),
}

/// Which keys are wanted next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScanQuestion {
    /// What the page before answered; 0 begins.
    pub cursor: u64,
    /// About how many keys are to be looked at.
    pub count: usize,
    /// What they have to match: a pattern as Redis writes them.
    pub pattern: Option<Bytes>,
}

/// The answer to a [`Question`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// How many keys there are.
    Count(u64),
    /// Some keys, and the cursor of the next page; 0: there is none.
    Page {
        /// For the next question.
        cursor: u64,
        /// The keys.
        keys: Vec<Bytes>,
    },
}

/// The result of a question.
pub type AskResult = Result<Found, RequestError>;

/// A read that was started: answered at once, or to be waited for.
#[derive(Debug)]
pub enum Started<F> {
    /// The answer was at hand.
    Done(ReadResult),
    /// The answer will come.
    Waiting(F),
}

/// From which replicas a connection may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadLevel {
    /// The primary under its lease: the default.
    #[default]
    Primary,
    /// The connection said `READONLY`: a replica may answer too.
    Replica,
}

/// How a connection reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReadTerms {
    /// From which replicas it may be answered.
    pub level: ReadLevel,
    /// Who is told when the key changes: it is remembered before the key is read.
    pub reader: Option<ReaderId>,
}

/// Serves keys by slot.
pub trait Backend: Facts {
    /// What one connection writes through.
    type Session: Session;
    /// Waits for a read.
    type Read: Future<Output = ReadResult> + Send + Unpin + 'static;

    /// For a new connection.
    fn session(&self) -> Self::Session;

    /// Starts a read. Never blocks. It sees every write of its slot that was
    /// answered before it was started.
    ///
    /// The key shares the connection's read buffer: whoever keeps it for longer
    /// than the request lasts copies it, else it holds a whole buffer in memory.
    fn read(&self, slot: u16, key: &Bytes, terms: ReadTerms) -> Started<Self::Read>;

    /// Starts a question. It sees every write of the connection that was answered before.
    fn ask(&self, question: Question) -> BoxFuture<'static, AskResult>;

    /// Ends when a newer map came, after which a partition without a primary may have
    /// one. `None`: nobody tells.
    fn map_changed(&self) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// The writes of one connection.
///
/// Dropping it drops the answers; the writes go on.
pub trait Session: Send + Unpin + 'static {
    /// Starts a write whose keys are all of `slot`, at the latest with the next
    /// [`Self::flush`]. Never blocks. Writes of one
    /// slot take effect in the order in which they were started; each is answered
    /// exactly once, in any order, under its token.
    ///
    /// Keys and values share the connection's read buffer, see [`Backend::read`].
    fn write(&mut self, slot: u16, token: u64, request: WriteRequest);

    /// Starts what was not started yet: called once for the commands of a turn.
    fn flush(&mut self) {}

    /// Takes what was answered, at least one; else the task is woken once there is
    /// something.
    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>>;
}

/// What the node knows of itself.
pub trait Facts: Send + Sync + 'static {
    /// The number of this node, once the coordinators gave it one.
    fn node(&self) -> Option<NodeId>;

    /// Who keeps which key, and is told when it changes. `None`: nobody tells.
    fn tracker(&self) -> Option<&Arc<Tracker>> {
        None
    }

    /// Figures for `INFO`.
    fn figures(&self) -> Figures {
        Figures::default()
    }
}

/// What a node says of itself in `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Keys in the partitions that this node is primary of, where it is known.
    pub keys: Option<u64>,
    /// Whether writes are refused for want of disk space.
    pub disk_full: bool,
    /// Keys that were deleted because their time was past.
    pub expired_keys: u64,
}
