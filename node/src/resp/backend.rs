//! What the Redis listener needs of the rest of the node.

use std::future::Future;

use bytes::Bytes;
use cairn_core::ids::NodeId;
use cairn_core::kv::request::{RequestError, Value, WriteReply, WriteRequest};

/// A request that was started: answered at once, or to be waited for.
#[derive(Debug)]
pub enum Started<T, F> {
    /// The answer was at hand.
    Done(T),
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

/// The result of a write.
pub type WriteResult = Result<WriteReply, RequestError>;
/// The result of a read.
pub type ReadResult = Result<Option<Value>, RequestError>;
/// The result of a read of several keys of one slot.
pub type ReadManyResult = Result<Vec<Option<Value>>, RequestError>;

/// Serves keys by slot.
///
/// # Order
/// Writes of one slot take effect in the order in which [`Backend::write`] was
/// called from one task. A read that is started after a write of its slot was
/// answered sees that write.
///
/// # Bytes
/// Keys and values share the connection's read buffer. Whoever keeps them for
/// longer than the request lasts copies them, else a short key holds a whole
/// buffer in memory.
pub trait Backend: Send + Sync + 'static {
    /// Waits for a write. It may be dropped at any time; the write goes on.
    type Write: Future<Output = WriteResult> + Send + Unpin + 'static;
    /// Waits for a read.
    type Read: Future<Output = ReadResult> + Send + Unpin + 'static;
    /// Waits for a read of several keys.
    type ReadMany: Future<Output = ReadManyResult> + Send + Unpin + 'static;

    /// Starts a write whose keys are all of `slot`. Never blocks.
    fn write(&self, slot: u16, request: WriteRequest) -> Started<WriteResult, Self::Write>;

    /// Starts a read. Never blocks.
    fn read(&self, slot: u16, key: &Bytes, level: ReadLevel) -> Started<ReadResult, Self::Read>;

    /// Starts a read of several keys, all of `slot`, as of one moment. Never blocks.
    fn read_many(
        &self,
        slot: u16,
        keys: &[Bytes],
        level: ReadLevel,
    ) -> Started<ReadManyResult, Self::ReadMany>;

    /// The number of this node, once the coordinators gave it one.
    fn node(&self) -> Option<NodeId>;

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
    /// Partitions that this node serves as primary.
    pub partitions_primary: u64,
    /// Partitions that this node holds a replica of, primaries included.
    pub partitions_held: u64,
    /// Whether writes are refused for want of disk space.
    pub disk_full: bool,
}
