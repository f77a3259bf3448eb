//! One stream to each other node, and what is sent on it.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_client::transport::{Channel, Dialer};
use cairn_core::counters::Answer;
use cairn_core::ids::{MapVersion, Micros, NodeId};
use cairn_core::kv::request::RequestError;
use cairn_core::record::{ClusterMap, NodeStanding};
use cairn_core::replication::{PeerMessage, SnapshotWanted};
use cairn_proto::counters::decode_answer;
use cairn_proto::kv::KvError;
use cairn_proto::limits;
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::map::v1::MapRequest;
use cairn_proto::pb::peer::v1::counters_client::CountersClient;
use cairn_proto::pb::peer::v1::peer_client::PeerClient;
use cairn_proto::pb::peer::v1::{CounterCall, CounterCalls};
use cairn_proto::trace::TracedEntry;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::dial;
use super::handshake;
use super::outbox::{Outbox, Pushed};
use super::snapshot::{self, FetchError, SnapshotStream};
use super::{LocalIdentity, PeerConfig, PeerEvents, SharedMap};

/// The streams to all other nodes. Cheap to clone; nothing here blocks.
#[derive(Clone, Debug)]
pub struct PeerPool {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) own: LocalIdentity,
    pub(super) config: PeerConfig,
    pub(super) dialer: Dialer,
    pub(super) map: SharedMap,
    pub(super) events: Arc<dyn PeerEvents>,
    /// Sent to whenever the map may have changed.
    pub(super) changes: watch::Sender<MapVersion>,
    pub(super) connects: Counter,
    links: ArcSwap<HashMap<NodeId, Arc<Link>>>,
    /// Held while `links` is changed.
    changing: Mutex<()>,
    /// Held while the unreachable are told, so that the last list told is the newest.
    telling: Mutex<()>,
    shutdown: CancellationToken,
    runtime: tokio::runtime::Handle,
    sent: Counter,
    dropped_closed: Counter,
    dropped_full: Counter,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPool")
            .field("own", &self.own)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// The stream to one peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: NodeId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) connected: AtomicBool,
    pub(super) ended: CancellationToken,
    /// The connection of the open stream, for calls beside it.
    pub(super) connection: Mutex<Option<Connection>>,
    /// The last stream that the peer opened to this node.
    pub(super) caller: watch::Sender<Option<Caller>>,
    unreachable: AtomicBool,
}

/// What a stream is open on.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) channel: Channel,
    /// Where the peer is, if it was not found by its name.
    pub(super) at: Option<IpAddr>,
}

/// Who opened a stream to this node, and from where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Caller {
    /// Drawn when its process started.
    pub(super) session: u64,
    /// Where its connection comes from.
    pub(super) ip: IpAddr,
}

impl Link {
    fn channel(&self) -> Option<Channel> {
        let open = self.connection.lock();
        open.as_ref().map(|open| open.channel.clone())
    }

    /// Notes whether the peer gives an answer, and tells if that changed.
    pub(super) fn set_unreachable(&self, shared: &Shared, unreachable: bool) -> bool {
        let changed = self.unreachable.swap(unreachable, Ordering::Relaxed) != unreachable;
        if changed {
            shared.tell_unreachable();
        }
        changed
    }
}

/// Why a peer's map could not be had.
#[derive(Debug, thiserror::Error)]
pub enum MapFetchError {
    /// There is no open stream to it.
    #[error("{0} is not connected")]
    NotConnected(NodeId),
    /// It did not answer in time.
    #[error("{0} did not send its map in time")]
    Timeout(NodeId),
    /// It refused, or the connection broke.
    #[error("fetch the map: {}", .0.message())]
    Refused(#[from] tonic::Status),
    /// What it sent makes no sense.
    #[error(transparent)]
    Malformed(#[from] cairn_proto::Malformed),
}

/// Why calls for counters were not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CarryError {
    /// The peer has not got them, or did nothing about them.
    #[error("the peer took nothing")]
    NotSent,
    /// They may have been carried out.
    #[error("the peer did not answer")]
    Lost,
}

/// A peer's refusal, as one of this node's own.
fn refused(error: KvError) -> RequestError {
    match error {
        KvError::Moved {
            partition,
            epoch,
            primary,
            ..
        } => RequestError::Moved {
            partition,
            epoch,
            primary,
        },
        KvError::NotReady { partition } => RequestError::NotReady { partition },
        KvError::Unjudged { position } => RequestError::Unjudged { position },
        KvError::DiskFull => RequestError::DiskFull,
        KvError::Overloaded => RequestError::Overloaded,
        KvError::Limited { wait_ms } => RequestError::Limited {
            wait: Micros::from_millis(u64::from(wait_ms)),
        },
        KvError::NoMap => RequestError::NoMap,
        KvError::IsCounter => RequestError::IsCounter,
        KvError::Unknown
        | KvError::CrossPartition
        | KvError::Invalid { .. }
        | KvError::Unsupported { .. }
        | KvError::PermissionDenied { .. }
        | KvError::Striped(_) => RequestError::Unknown,
    }
}

impl PeerPool {
    /// Starts to keep streams to every node that shares a partition with this one,
    /// by the map, and to every node that something is sent to. To be called within
    /// a tokio runtime, which the streams then run on. They end with `shutdown`.
    #[must_use]
    pub fn start(
        own: LocalIdentity,
        config: PeerConfig,
        dialer: Dialer,
        map: SharedMap,
        events: Arc<dyn PeerEvents>,
        shutdown: CancellationToken,
    ) -> Self {
        let dialer = Dialer {
            connect_timeout: config.connect_timeout,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            ..dialer
        };
        let dropped = |reason: &'static str| metrics::counter!("cairn_peer_messages_dropped_total", "reason" => reason);
        let pool = Self {
            shared: Arc::new(Shared {
                own,
                config,
                dialer,
                map,
                events,
                changes: watch::Sender::new(MapVersion::ZERO),
                connects: metrics::counter!("cairn_peer_connects_total"),
                links: ArcSwap::default(),
                changing: Mutex::default(),
                telling: Mutex::default(),
                shutdown,
                runtime: tokio::runtime::Handle::current(),
                sent: metrics::counter!("cairn_peer_messages_sent_total"),
                dropped_closed: dropped("disconnected"),
                dropped_full: dropped("full"),
            }),
        };
        pool.map_changed();
        pool
    }

    pub(super) fn own(&self) -> &LocalIdentity {
        &self.shared.own
    }

    pub(super) fn map(&self) -> &SharedMap {
        &self.shared.map
    }

    /// Hands over messages for a peer, in order. They are dropped, and counted,
    /// where there is no open stream to it or too much waits for it.
    pub fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        let count = messages.len() as u64;
        let pushed = match self.shared.links.load().get(&to) {
            Some(link) => link.outbox.push(messages),
            None => {
                self.link(to);
                Pushed::Closed
            }
        };
        match pushed {
            Pushed::All => self.shared.sent.increment(count),
            Pushed::Closed => self.shared.dropped_closed.increment(count),
            Pushed::Dropped(dropped) => {
                let dropped = dropped as u64;
                self.shared.sent.increment(count - dropped);
                self.shared.dropped_full.increment(dropped);
            }
        }
    }

    /// Has a peer told of entries that are traced, with what is sent next.
    pub fn tell_traced(&self, to: NodeId, entries: Vec<TracedEntry>) {
        if let Some(link) = self.shared.links.load().get(&to) {
            link.outbox.tell_traced(entries);
        }
    }

    /// To be called whenever the shared map was replaced: streams follow addresses
    /// and identities.
    pub fn map_changed(&self) {
        let map = self.shared.map.load_full();
        for peer in neighbours(&map, self.shared.own.node) {
            self.link(peer);
        }
        self.unlink(&map);
        self.shared.changes.send_replace(map.version);
    }

    /// Notes that a peer opened a stream to this node.
    pub(super) fn called(&self, peer: NodeId, caller: Caller) {
        if let Some(link) = self.shared.links.load().get(&peer) {
            link.caller.send_replace(Some(caller));
        }
    }

    /// The peers that give no answer right now.
    #[must_use]
    pub fn unreachable(&self) -> Vec<NodeId> {
        self.shared.unreachable()
    }

    /// Whether there is an open stream to the peer.
    #[must_use]
    pub fn is_connected(&self, peer: NodeId) -> bool {
        let links = self.shared.links.load();
        links
            .get(&peer)
            .is_some_and(|l| l.connected.load(Ordering::Relaxed))
    }

    /// The whole map that a connected peer has.
    ///
    /// # Errors
    /// See [`MapFetchError`].
    pub async fn fetch_map(&self, from: NodeId) -> Result<Arc<ClusterMap>, MapFetchError> {
        let links = self.shared.links.load_full();
        let channel = links
            .get(&from)
            .and_then(|l| l.channel())
            .ok_or(MapFetchError::NotConnected(from))?;
        let mut client =
            PeerClient::new(channel).max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES);
        // Without a version the answer is the whole map.
        let request = MapRequest::default();
        let within = self.shared.config.connect_timeout * 4;
        let update = timeout(within, client.map_of(request))
            .await
            .map_err(|_| MapFetchError::Timeout(from))??;
        match MapUpdate::try_from(update.into_inner())? {
            MapUpdate::Full(map) => Ok(map),
            MapUpdate::Delta(_) => {
                Err(cairn_proto::Malformed::new("update", "is not the whole map").into())
            }
        }
    }

    /// Has a peer carry out calls for counters. One answer for each, in their order.
    ///
    /// # Errors
    /// See [`CarryError`].
    pub(crate) async fn carry_counters(
        &self,
        to: NodeId,
        calls: Vec<CounterCall>,
        within: Duration,
    ) -> Result<Vec<Answer>, CarryError> {
        let links = self.shared.links.load_full();
        let Some(channel) = links.get(&to).and_then(|l| l.channel()) else {
            self.link(to);
            return Err(CarryError::NotSent);
        };
        let map = self.shared.map.load_full();
        let peer = map.nodes.get(&to).ok_or(CarryError::NotSent)?;
        let handshake = handshake::ours(&self.shared.own, &map, peer.uuid.clone());
        let mut client = CountersClient::new(channel)
            .max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES);
        let request = CounterCalls {
            handshake: Some(handshake.into()),
            calls,
        };
        let answers = match timeout(within, client.carry(request)).await {
            Err(_) => return Err(CarryError::Lost),
            Ok(Err(status)) => {
                return Err(match status.code() {
                    // It says that it did nothing: it knows another map, or no counters.
                    Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
                        CarryError::NotSent
                    }
                    _ => CarryError::Lost,
                });
            }
            Ok(Ok(answers)) => answers.into_inner().answers,
        };
        let decoded = answers
            .into_iter()
            .map(|answer| match decode_answer(answer) {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => Answer::Failed(refused(error)),
                Err(_) => Answer::Failed(RequestError::Unknown),
            });
        Ok(decoded.collect())
    }

    /// Fetches a copy of a replica's state, on a connection of its own.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch_snapshot(
        &self,
        from: NodeId,
        wanted: &SnapshotWanted,
    ) -> Result<SnapshotStream, FetchError> {
        let shared = &self.shared;
        let map = shared.map.load_full();
        let node = map.nodes.get(&from).ok_or(FetchError::UnknownNode(from))?;
        let hello = handshake::ours(&shared.own, &map, node.uuid.clone());
        let links = shared.links.load();
        let open = links.get(&from).and_then(|l| l.connection.lock().clone());
        let at = open.and_then(|open| open.at);
        drop(links);
        let channel = shared.dialer.dial_at(&node.addresses.peer, at).await?;
        snapshot::fetch(channel, hello, wanted, shared.config.snapshot_stall).await
    }

    fn link(&self, peer: NodeId) {
        let shared = &self.shared;
        if peer == shared.own.node || shared.shutdown.is_cancelled() {
            return;
        }
        let _changing = shared.changing.lock();
        let links = shared.links.load();
        let known = shared
            .map
            .load()
            .nodes
            .get(&peer)
            .is_some_and(|n| n.standing == NodeStanding::Member);
        if links.contains_key(&peer) || !known {
            return;
        }
        let link = Arc::new(Link {
            peer,
            outbox: Arc::new(Outbox::new(
                shared.config.queue_bytes_max,
                shared.config.queue_messages_max,
            )),
            connected: AtomicBool::new(false),
            ended: shared.shutdown.child_token(),
            connection: Mutex::new(None),
            caller: watch::Sender::new(None),
            unreachable: AtomicBool::new(false),
        });
        let mut changed = HashMap::clone(&links);
        changed.insert(peer, Arc::clone(&link));
        shared.links.store(Arc::new(changed));
        shared.runtime.spawn(dial::keep(Arc::clone(shared), link));
    }

    /// Ends the streams to nodes that are gone for good.
    fn unlink(&self, map: &ClusterMap) {
        let shared = &self.shared;
        let gone = |peer: &NodeId| {
            map.nodes
                .get(peer)
                .is_none_or(|n| n.standing == NodeStanding::Gone)
        };
        {
            let _changing = shared.changing.lock();
            let links = shared.links.load();
            if !links.keys().any(gone) {
                return;
            }
            let mut kept = HashMap::clone(&links);
            kept.retain(|peer, link| {
                let stays = !gone(peer);
                if !stays {
                    link.ended.cancel();
                    link.outbox.close();
                }
                stays
            });
            shared.links.store(Arc::new(kept));
        }
        shared.tell_unreachable();
    }
}

impl Shared {
    fn unreachable(&self) -> Vec<NodeId> {
        let links = self.links.load();
        let mut peers: Vec<NodeId> = links
            .values()
            .filter(|l| l.unreachable.load(Ordering::Relaxed))
            .map(|l| l.peer)
            .collect();
        peers.sort_unstable();
        peers
    }

    /// Tells the list as it is now.
    fn tell_unreachable(&self) {
        let _telling = self.telling.lock();
        self.events.unreachable(self.unreachable());
    }
}

/// The nodes that share a partition with `own`.
fn neighbours(map: &ClusterMap, own: NodeId) -> BTreeSet<NodeId> {
    map.partitions
        .iter()
        .filter(|p| p.config.on_node(own).is_some())
        .flat_map(|p| p.config.replicas())
        .map(|m| m.node)
        .filter(|node| *node != own)
        .collect()
}
