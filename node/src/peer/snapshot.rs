//! Copies of a replica's state, from node to node.
//!
//! The sender reads chunk by chunk from a consistent view, as fast as its throttle
//! and the receiver's flow control allow; the receiver gets chunks, and at the end
//! the mark that they lead to, once count and checksum agree.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cairn_client::transport::{Channel, DialError};
use cairn_core::ids::{Index, Mark, NodeId, PartitionId, ReplicaId};
use cairn_core::replication::{GiveError, SnapshotWanted};
use cairn_proto::limits;
use cairn_proto::pb::peer::v1 as pb;
use cairn_proto::pb::peer::v1::peer_client::PeerClient;
use cairn_proto::peer::{Handshake, SnapshotChunk, SnapshotEnd, SnapshotSum};
use futures::Stream;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

/// Where copies of this node's replicas are read from.
pub trait SnapshotSource: Send + Sync + 'static {
    /// Opens a consistent view of the replica for another node, if the replica may give
    /// one: [`cairn_core::replication::NodeCore::give_snapshot`].
    fn open(
        &self,
        to: NodeId,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotReader>, SnapshotRefusal>>;
}

/// A consistent view of a replica's state. It is dropped when the copy is done, or
/// nobody wants the rest of it.
pub trait SnapshotReader: Send + 'static {
    /// The last entry that the view holds.
    fn mark(&self) -> Mark;

    /// The last mark of each epoch up to it, oldest first.
    fn lineage(&self) -> Vec<Mark>;

    /// About how many bytes all chunks have together, as far as is known by now; 0 where
    /// nothing is.
    fn expected_bytes(&self) -> u64;

    /// The next chunk of about `bytes`; `None` after the last one. Blocks.
    ///
    /// # Errors
    /// What went wrong, in a sentence.
    fn next_chunk(&mut self, bytes: usize) -> Result<Option<Bytes>, String>;
}

/// Why no copy is given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SnapshotRefusal {
    /// The replica does not give one.
    #[error("{replica} of {partition}: {reason}")]
    Refused {
        /// Which partition.
        partition: PartitionId,
        /// Which replica was asked for.
        replica: ReplicaId,
        /// Why.
        reason: GiveError,
    },
    /// It cannot be read.
    #[error("open the snapshot: {0}")]
    Failed(String),
}

impl From<SnapshotRefusal> for Status {
    fn from(refusal: SnapshotRefusal) -> Self {
        match &refusal {
            SnapshotRefusal::Refused {
                reason: GiveError::NotHere,
                ..
            } => Status::not_found(refusal.to_string()),
            SnapshotRefusal::Refused { .. } => Status::failed_precondition(refusal.to_string()),
            SnapshotRefusal::Failed(_) => Status::internal(refusal.to_string()),
        }
    }
}

/// Bounds a rate of bytes, shared by everyone who holds a clone. The rate may be
/// changed while it is in use.
#[derive(Clone)]
pub struct Throttle {
    shared: Arc<ThrottleState>,
}

struct ThrottleState {
    bytes_per_second: AtomicU64,
    passed: AtomicU64,
    /// When the bytes that were let through so far are paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("bytes_per_second", &self.rate())
            .finish()
    }
}

impl Throttle {
    /// Lets through so many bytes in a second; 0 for any number.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Self {
        Self {
            shared: Arc::new(ThrottleState {
                bytes_per_second: AtomicU64::new(bytes_per_second),
                passed: AtomicU64::new(0),
                paid_at: Mutex::new(None),
            }),
        }
    }

    /// The rate; 0 for none.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.shared.bytes_per_second.load(Ordering::Relaxed)
    }

    /// Changes the rate, from the next chunk on.
    pub fn set_rate(&self, bytes_per_second: u64) {
        self.shared
            .bytes_per_second
            .store(bytes_per_second, Ordering::Relaxed);
    }

    /// How many bytes have passed, or wait to.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::Relaxed)
    }

    /// Waits until so many bytes may pass.
    pub async fn pass(&self, bytes: usize) {
        self.shared
            .passed
            .fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(at) = self.reserve(Instant::now(), bytes) {
            sleep_until(at).await;
        }
    }

    /// When so many bytes may pass: once those before them are paid for. `None`
    /// without a rate.
    fn reserve(&self, now: Instant, bytes: usize) -> Option<Instant> {
        let rate = self.rate();
        if rate == 0 {
            return None;
        }
        let cost = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let mut paid_at = self.shared.paid_at.lock();
        let begins = paid_at.map_or(now, |at| at.max(now));
        *paid_at = Some(begins + cost);
        Some(begins)
    }
}

/// The stream of chunks of one view, for the answer of a call.
pub(super) fn serve(
    reader: Box<dyn SnapshotReader>,
    throttle: Throttle,
    chunk_bytes: usize,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<pb::SnapshotChunk, Status>> + Send {
    struct Serving {
        reader: Box<dyn SnapshotReader>,
        sum: SnapshotSum,
        throttle: Throttle,
        _permit: OwnedSemaphorePermit,
    }
    let begin = Serving {
        reader,
        sum: SnapshotSum::default(),
        throttle,
        _permit: permit,
    };
    futures::stream::try_unfold(Some(begin), move |serving| async move {
        let Some(serving) = serving else {
            return Ok(None);
        };
        // Reading blocks on the disk, which no network task may.
        let read = tokio::task::spawn_blocking(move || {
            let mut serving = serving;
            let chunk = serving.reader.next_chunk(chunk_bytes);
            if let Ok(Some(chunk)) = &chunk {
                serving.sum.add(chunk);
            }
            (serving, chunk)
        });
        let (serving, chunk) = read
            .await
            .map_err(|error| Status::internal(format!("read the snapshot: {error}")))?;
        match chunk {
            Err(error) => Err(Status::internal(format!("read the snapshot: {error}"))),
            Ok(Some(chunk)) => {
                serving.throttle.pass(chunk.len()).await;
                let rows = SnapshotChunk::Rows {
                    expected_bytes: serving.reader.expected_bytes(),
                    last: serving.reader.mark().index(),
                    rows: chunk,
                };
                Ok(Some((rows.into(), Some(serving))))
            }
            Ok(None) => {
                let end = SnapshotEnd {
                    mark: serving.reader.mark(),
                    lineage: serving.reader.lineage(),
                    chunks: serving.sum.chunks(),
                    checksum: serving.sum.finish(),
                };
                Ok(Some((SnapshotChunk::End(end).into(), None)))
            }
        }
    })
}

/// Why a copy could not be fetched. What was received is of no use.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The map does not list the node.
    #[error("{0} is not in the map")]
    UnknownNode(NodeId),
    /// There is no connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The node refuses, or the connection broke.
    #[error("fetch the snapshot: {}", .0.message())]
    Refused(#[from] Status),
    /// Nothing came for too long.
    #[error("the snapshot stalled for {0:?}")]
    Stalled(Duration),
    /// What came makes no sense.
    #[error(transparent)]
    Malformed(#[from] cairn_proto::Malformed),
    /// It ended before its end.
    #[error("the snapshot broke off")]
    BrokenOff,
    /// Count or checksum disagree.
    #[error("the snapshot was damaged on its way: {0}")]
    Damaged(String),
}

/// A part of a copy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SnapshotPart {
    /// A chunk of rows, as [`SnapshotReader::next_chunk`] gave it.
    Rows {
        /// The rows.
        rows: Bytes,
        /// About how many bytes of rows there will be in all; 0 where nobody can say.
        expected_bytes: u64,
        /// The last index that the copy holds; zero from a build that does not tell.
        last: Index,
    },
    /// It is whole; nothing follows.
    End {
        /// The last entry that it holds.
        mark: Mark,
        /// The last mark of each epoch up to it, oldest first.
        lineage: Vec<Mark>,
    },
}

/// A copy on its way.
#[derive(Debug)]
pub struct SnapshotStream {
    chunks: Streaming<pb::SnapshotChunk>,
    sum: SnapshotSum,
    stall: Duration,
}

impl SnapshotStream {
    /// The next part. After [`SnapshotPart::End`], or an error, there is nothing
    /// more to ask for.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn next(&mut self) -> Result<SnapshotPart, FetchError> {
        let chunk = timeout(self.stall, self.chunks.message())
            .await
            .map_err(|_| FetchError::Stalled(self.stall))??
            .ok_or(FetchError::BrokenOff)?;
        match SnapshotChunk::try_from(chunk)? {
            SnapshotChunk::Rows {
                rows,
                expected_bytes,
                last,
            } => {
                self.sum.add(&rows);
                Ok(SnapshotPart::Rows {
                    rows,
                    expected_bytes,
                    last,
                })
            }
            SnapshotChunk::End(SnapshotEnd {
                mark,
                lineage,
                chunks,
                checksum,
            }) => {
                if chunks != self.sum.chunks() {
                    return Err(FetchError::Damaged(format!(
                        "{chunks} chunks were sent and {} came",
                        self.sum.chunks()
                    )));
                }
                if checksum != self.sum.finish() {
                    return Err(FetchError::Damaged("the checksums differ".to_owned()));
                }
                Ok(SnapshotPart::End { mark, lineage })
            }
        }
    }
}

pub(super) async fn fetch(
    channel: Channel,
    hello: Handshake,
    wanted: &SnapshotWanted,
    stall: Duration,
) -> Result<SnapshotStream, FetchError> {
    let mut client = PeerClient::new(channel).max_decoding_message_size(limits::PEER_MESSAGE_BYTES);
    let request = pb::SnapshotRequest {
        handshake: Some(hello.into()),
        partition: wanted.partition.0,
        epoch: wanted.epoch.0,
        replica: wanted.replica.0,
        after: wanted.after.0,
    };
    let chunks = timeout(stall, client.fetch_snapshot(request))
        .await
        .map_err(|_| FetchError::Stalled(stall))??
        .into_inner();
    Ok(SnapshotStream {
        chunks,
        sum: SnapshotSum::default(),
        stall,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_spreads_what_passes() {
        let throttle = Throttle::new(1000);
        let now = Instant::now();
        let after = |ms| Some(now + Duration::from_millis(ms));
        assert_eq!(throttle.reserve(now, 500), after(0));
        assert_eq!(throttle.reserve(now, 250), after(500));
        assert_eq!(throttle.reserve(now, 1), after(750));
        // What was not used in time is not saved up.
        let later = now + Duration::from_secs(60);
        assert_eq!(throttle.reserve(later, 500), Some(later));
        throttle.set_rate(0);
        assert_eq!(throttle.reserve(later, 1 << 40), None);
    }
}
