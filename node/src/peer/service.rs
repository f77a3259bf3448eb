//! The peer port: streams that other nodes opened, snapshots, the map.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cairn_core::ids::{Epoch, Index, MapVersion, NodeId, ReplicaId};
use cairn_core::replication::{PeerMessage, SnapshotWanted};
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::map::v1 as map_pb;
use cairn_proto::pb::peer::v1 as pb;
use cairn_proto::pb::peer::v1::peer_server::{Peer, PeerServer};
use cairn_proto::peer::Handshake;
use cairn_proto::trace::TracedEntry;
use cairn_proto::{Malformed, limits};
use futures::Stream;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status, Streaming};
use tracing::warn;

use super::handshake::{self, HandshakeError};
use super::pool::{Caller, PeerPool};
use super::snapshot::{SnapshotSource, Throttle, serve};
use super::{LocalIdentity, PeerConfig, PeerSink, SharedMap};
use crate::listener::Ends;

/// What this node answers on its peer port.
#[derive(Clone)]
pub struct PeerService {
    shared: Arc<Shared>,
}

struct Shared {
    own: LocalIdentity,
    config: PeerConfig,
    map: SharedMap,
    /// Hears who calls.
    pool: PeerPool,
    sink: Arc<dyn PeerSink>,
    snapshots: Arc<dyn SnapshotSource>,
    throttle: Throttle,
    serving: Arc<Semaphore>,
    /// The newest stream of each node; an older one ends when a newer one comes.
    streams: Mutex<HashMap<NodeId, CancellationToken>>,
    shutdown: CancellationToken,
}

impl fmt::Debug for PeerService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerService")
            .field("own", &self.shared.own)
            .finish_non_exhaustive()
    }
}

impl PeerService {
    /// Lets those in that `pool` knows, delivers what comes to `sink`, serves snapshots
    /// from `snapshots` no faster than `throttle` allows, and ends every stream with
    /// `shutdown`.
    #[must_use]
    pub fn new(
        pool: PeerPool,
        config: PeerConfig,
        sink: Arc<dyn PeerSink>,
        snapshots: Arc<dyn SnapshotSource>,
        throttle: Throttle,
        shutdown: CancellationToken,
    ) -> Self {
        let serving = Arc::new(Semaphore::new(config.snapshots_served_max));
        Self {
            shared: Arc::new(Shared {
                own: pool.own().clone(),
                config,
                map: Arc::clone(pool.map()),
                pool,
                sink,
                snapshots,
                throttle,
                serving,
                streams: Mutex::default(),
                shutdown,
            }),
        }
    }

    /// The service for tonic's router.
    #[must_use]
    pub fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self)
            .max_decoding_message_size(limits::PEER_MESSAGE_BYTES)
            .max_encoding_message_size(limits::COORDINATOR_MESSAGE_BYTES)
    }

    /// Lets a node in that says who it is, if it is a member.
    pub(crate) fn admit(&self, theirs: Option<pb::Handshake>) -> Result<Handshake, Status> {
        let shared = &self.shared;
        let refuse = |error: HandshakeError| {
            metrics::counter!("cairn_peer_handshakes_refused_total").increment(1);
            warn!(%error, "refused a peer");
            Status::from(error)
        };
        let theirs = theirs
            .ok_or_else(|| Malformed::missing("handshake"))
            .and_then(Handshake::try_from)
            .map_err(|e| refuse(e.into()))?;
        handshake::check(&shared.own, &shared.map.load(), &theirs).map_err(refuse)?;
        Ok(theirs)
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type ExchangeStream = Incoming;
    type FetchSnapshotStream =
        Pin<Box<dyn Stream<Item = Result<pb::SnapshotChunk, Status>> + Send>>;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::Frame>>,
    ) -> Result<Response<Incoming>, Status> {
        let shared = &self.shared;
        let ends = request.extensions().get::<Ends>().copied();
        let mut frames = request.into_inner();
        let first = timeout(shared.config.connect_timeout, frames.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no handshake in time"))??
            .ok_or_else(|| Status::invalid_argument("the stream ended before its handshake"))?;
        let theirs = self.admit(first.handshake)?;
        let ended = shared.shutdown.child_token();
        if let Some(older) = shared.streams.lock().insert(theirs.node, ended.clone()) {
            older.cancel();
        }
        if let Some(Ends { remote, .. }) = ends {
            let (session, ip) = (theirs.session, remote.ip());
            shared.pool.called(theirs.node, Caller { session, ip });
        }
        let ours = handshake::ours(&shared.own, &shared.map.load(), theirs.uuid);
        Ok(Response::new(Incoming {
            from: theirs.node,
            sink: Arc::clone(&shared.sink),
            frames,
            answer: Some(pb::Answer {
                handshake: Some(ours.into()),
            }),
            room: None,
            ended: Box::pin(ended.cancelled_owned()),
        }))
    }

    async fn fetch_snapshot(
        &self,
        request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let shared = &self.shared;
        let pb::SnapshotRequest {
            handshake,
            partition,
            epoch,
            replica,
            after,
        } = request.into_inner();
        let theirs = self.admit(handshake)?;
        let partition = cairn_proto::map::partition(partition, "partition")?;
        let wanted = SnapshotWanted {
            partition,
            replica: ReplicaId(replica),
            epoch: Epoch(epoch),
            after: Index(after),
        };
        let permit = Arc::clone(&shared.serving)
            .try_acquire_owned()
            .map_err(|_| {
                Status::resource_exhausted("this node serves as many snapshots as it may")
            })?;
        let reader = shared.snapshots.open(theirs.node, wanted).await?;
        let chunks = serve(
            reader,
            shared.throttle.clone(),
            shared.config.snapshot_chunk_bytes,
            permit,
        );
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn map_of(
        &self,
        request: Request<map_pb::MapRequest>,
    ) -> Result<Response<map_pb::MapUpdate>, Status> {
        let map_pb::MapRequest {
            cluster_id,
            version,
        } = request.into_inner();
        let map = self.shared.map.load_full();
        let update = MapUpdate::since(&map, &cluster_id, MapVersion(version));
        Ok(Response::new((&update).into()))
    }
}

/// A stream that another node opened. It is the answer's stream to tonic: polling
/// it delivers the frames that came in, on the connection's own task.
pub struct Incoming {
    from: NodeId,
    sink: Arc<dyn PeerSink>,
    frames: Streaming<pb::Frame>,
    answer: Option<pb::Answer>,
    /// Where the sink has too much waiting: until there is room.
    room: Option<BoxFuture<'static, ()>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("from", &self.from)
            .finish_non_exhaustive()
    }
}

impl Stream for Incoming {
    type Item = Result<pb::Answer, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<pb::Answer, Status>>> {
        let this = &mut *self;
        if let Some(answer) = this.answer.take() {
            return Poll::Ready(Some(Ok(answer)));
        }
        if this.ended.as_mut().poll(context).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            if let Some(room) = &mut this.room {
                std::task::ready!(room.as_mut().poll(context));
                this.room = None;
            }
            match std::task::ready!(Pin::new(&mut this.frames).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                Some(Ok(frame)) => match decode(frame) {
                    Ok((messages, traced)) => {
                        if !traced.is_empty() {
                            this.sink.traced(traced);
                        }
                        if !messages.is_empty() {
                            this.room = this.sink.deliver(this.from, messages);
                        }
                    }
                    Err(error) => {
                        metrics::counter!("cairn_peer_frames_malformed_total").increment(1);
                        warn!(from = %this.from, %error, "malformed frame");
                        return Poll::Ready(Some(Err(error.into())));
                    }
                },
            }
        }
    }
}

fn decode(frame: pb::Frame) -> Result<(Vec<PeerMessage>, Vec<TracedEntry>), Malformed> {
    let within = |field, count, most| {
        if count > most {
            let problem = format!("has {count} parts, and {most} is the most");
            return Err(Malformed::new(field, problem));
        }
        Ok(())
    };
    within("messages", frame.messages.len(), limits::FRAME_MESSAGES)?;
    within("traced", frame.traced.len(), limits::TRACED_ENTRIES)?;
    let messages = frame.messages.into_iter().map(PeerMessage::try_from);
    let traced = frame.traced.into_iter().map(TracedEntry::try_from);
    Ok((
        messages.collect::<Result<_, _>>()?,
        traced.collect::<Result<_, _>>()?,
    ))
}
