//! Keeping the stream to one peer: dial, handshake, watch over it, dial again.
//!
//! Where the peer is, the map says by a name, which may go on standing for an address that the
//! peer has left for as long as resolvers keep it. So it is looked for first where it called from
//! last, by the stream that it opens in the other direction, and where the map says that the
//! name leads. A new process is dialled back as soon as it called.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_client::transport::DialError;
use cairn_core::ids::NodeId;
use cairn_core::record::{ClusterMap, NodeStanding};
use cairn_proto::limits;
use cairn_proto::pb::peer::v1 as pb;
use cairn_proto::pb::peer::v1::peer_client::PeerClient;
use cairn_proto::peer::Handshake;
use rand::Rng;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};

use super::handshake;
use super::pool::{Caller, Connection, Link, Shared};

/// Where a peer is, and who it is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Target {
    address: String,
    uuid: String,
    incarnation: String,
}

fn target(map: &ClusterMap, peer: NodeId) -> Option<Target> {
    map.nodes
        .get(&peer)
        .filter(|n| n.standing == NodeStanding::Member && !n.addresses.peer.is_empty())
        .map(|n| Target {
            address: n.addresses.peer.clone(),
            uuid: n.uuid.clone(),
            incarnation: n.incarnation.clone(),
        })
}

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum OpenError {
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The peer answers, and does not want this stream.
    #[error("refused: {}", .0.message())]
    Refused(Status),
    #[error("the stream broke: {0}")]
    Broken(Status),
    #[error("no handshake within {0:?}")]
    Silent(Duration),
}

impl OpenError {
    /// Whether it shows that the peer gives no answer.
    fn is_unreachable(&self) -> bool {
        match self {
            Self::Dial(_) | Self::Broken(_) | Self::Silent(_) => true,
            Self::Refused(_) => false,
        }
    }
}

/// A stream that lasted no longer is not dialled again at once.
const BRIEF: Duration = Duration::from_millis(200);

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..1.0))
}

/// Keeps the stream to `link.peer` until the pool ends or drops the link.
pub(super) async fn keep(shared: Arc<Shared>, link: Arc<Link>) {
    let mut pause = shared.config.backoff_min;
    let mut refused: Option<String> = None;
    let mut calls = link.caller.subscribe();
    loop {
        // The version is noted before the map is read, so that no change between
        // the two is missed.
        let mut changes = shared.changes.subscribe();
        changes.mark_unchanged();
        let caller = *calls.borrow_and_update();
        let Some(target) = target(&shared.map.load(), link.peer) else {
            link.set_unreachable(&shared, false);
            tokio::select! {
                () = link.ended.cancelled() => return,
                _ = changes.changed() => continue,
            }
        };
        let places = whereabouts(&shared, &link, &target, caller);
        let opened = tokio::select! {
            () = link.ended.cancelled() => return,
            // It called from elsewhere: it answers there rather than where it is waited for.
            _ = calls.wait_for(|now| whereabouts(&shared, &link, &target, *now) != places) => continue,
            opened = open(&shared, &link, &target, &places) => opened,
        };
        match opened {
            Ok(mut stream) => {
                let opened_at = Instant::now();
                pause = shared.config.backoff_min;
                refused = None;
                debug!(peer = %link.peer, address = target.address, "stream to peer open");
                *link.connection.lock() = Some(stream.connection.clone());
                link.outbox.open();
                link.connected.store(true, Ordering::Relaxed);
                link.set_unreachable(&shared, false);
                shared.connects.increment(1);
                shared.events.connected(link.peer);
                let why = watch(&shared, &link, &target, &mut stream, &mut calls).await;
                link.connected.store(false, Ordering::Relaxed);
                link.outbox.close();
                *link.connection.lock() = None;
                let Some(why) = why else { return };
                if opened_at.elapsed() < BRIEF {
                    // Two processes of one identity take it from each other by turns.
                    sleep(jittered(pause)).await;
                }
                info!(peer = %link.peer, address = target.address, why, "stream to peer lost");
                // The first dial after a loss comes at once: it tells a stream that
                // broke from a process that is gone.
            }
            Err(error) => {
                link.outbox.close();
                if link.set_unreachable(&shared, error.is_unreachable()) {
                    info!(peer = %link.peer, address = target.address, %error, "peer unreachable");
                }
                if let OpenError::Refused(status) = &error {
                    // Said once per reason: a mismatch lasts until somebody acts.
                    let reason = status.message().to_owned();
                    if refused.as_ref() != Some(&reason) {
                        warn!(peer = %link.peer, address = target.address, reason, "peer refuses");
                    }
                    refused = Some(reason);
                }
                tokio::select! {
                    () = link.ended.cancelled() => return,
                    () = sleep(jittered(pause)) => {}
                    // A new address, perhaps.
                    _ = changes.changed() => {}
                    // It is there.
                    _ = calls.changed() => {
                        pause = shared.config.backoff_min;
                        continue;
                    }
                }
                pause = (pause * 2).min(shared.config.backoff_max);
            }
        }
    }
}

/// Where a peer may be, besides where its name leads.
fn whereabouts(
    shared: &Shared,
    link: &Link,
    target: &Target,
    caller: Option<Caller>,
) -> Vec<IpAddr> {
    if target.address.parse::<SocketAddr>().is_ok() {
        // It is no name: nobody else need say where that is.
        return Vec::new();
    }
    let map = shared.map.load();
    let told = map.nodes.get(&link.peer).and_then(|node| node.addresses.ip);
    let called = caller.map(|caller| caller.ip);
    let mut all: Vec<IpAddr> = called.into_iter().chain(told).collect();
    all.dedup();
    all
}

/// A stream that is open.
struct Stream {
    answers: Streaming<pb::Answer>,
    connection: Connection,
    /// Drawn when the peer's process started.
    session: u64,
}

/// Opens a stream: to one of the places where the peer may be, and else to where its name leads.
async fn open(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    target: &Target,
    places: &[IpAddr],
) -> Result<Stream, OpenError> {
    for &ip in places {
        match open_at(shared, link, target, Some(ip)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                debug!(peer = %link.peer, %ip, %error, "no stream to where the peer is to be");
                link.outbox.close();
                if error.is_unreachable() {
                    link.set_unreachable(shared, true);
                }
            }
        }
    }
    open_at(shared, link, target, None).await
}

async fn open_at(
    shared: &Arc<Shared>,
    link: &Arc<Link>,
    target: &Target,
    at: Option<IpAddr>,
) -> Result<Stream, OpenError> {
    let within = shared.config.connect_timeout;
    let channel = shared.dialer.dial_at(&target.address, at).await?;
    let map = shared.map.load_full();
    let first = pb::Frame {
        handshake: Some(handshake::ours(&shared.own, &map, target.uuid.clone()).into()),
        ..pb::Frame::default()
    };
    let frames = link.outbox.stream(first, shared.config.frame_bytes);
    let mut client = PeerClient::new(channel.clone())
        .max_encoding_message_size(limits::PEER_MESSAGE_BYTES)
        .max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES);
    let deadline = Instant::now() + within;
    let mut answers = timeout(within, client.exchange(frames))
        .await
        .map_err(|_| OpenError::Silent(within))?
        .map_err(sort)?
        .into_inner();
    let answer = tokio::time::timeout_at(deadline, answers.message())
        .await
        .map_err(|_| OpenError::Silent(within))?
        .map_err(sort)?
        .and_then(|a| a.handshake)
        .ok_or_else(|| OpenError::Refused(Status::internal("no handshake in the answer")))?;
    let theirs = Handshake::try_from(answer).map_err(|e| OpenError::Refused(e.into()))?;
    handshake::check(&shared.own, &map, &theirs).map_err(|e| OpenError::Refused(e.into()))?;
    if theirs.node != link.peer {
        return Err(OpenError::Refused(Status::failed_precondition(format!(
            "{} answers where {} was expected",
            theirs.node, link.peer
        ))));
    }
    Ok(Stream {
        answers,
        connection: Connection { channel, at },
        session: theirs.session,
    })
}

/// A status that the peer's process gave, or one of the transport?
fn sort(status: Status) -> OpenError {
    use std::error::Error;
    let refusals = [
        Code::InvalidArgument,
        Code::FailedPrecondition,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::Unimplemented,
    ];
    // A status that the transport made has its cause as its source.
    let by_peer = status.source().is_none()
        && (refusals.contains(&status.code()) || status.code() == Code::Unavailable);
    if by_peer {
        OpenError::Refused(status)
    } else {
        OpenError::Broken(status)
    }
}

/// Waits until the stream breaks or should; says why, or `None` at the end.
async fn watch(
    shared: &Shared,
    link: &Link,
    target_now: &Target,
    stream: &mut Stream,
    calls: &mut Receiver<Option<Caller>>,
) -> Option<String> {
    let mut changes = shared.changes.subscribe();
    loop {
        if target(&shared.map.load(), link.peer).as_ref() != Some(target_now) {
            return Some("the map has another address or identity".to_owned());
        }
        tokio::select! {
            () = link.ended.cancelled() => return None,
            answer = stream.answers.message() => match answer {
                Ok(Some(_)) => {}
                Ok(None) => return Some("closed by the peer".to_owned()),
                Err(status) => return Some(status.message().to_owned()),
            },
            _ = changes.changed() => {}
            _ = calls.changed() => {
                let caller = *calls.borrow_and_update();
                if caller.is_some_and(|caller| caller.session != stream.session) {
                    return Some("another process calls in its place".to_owned());
                }
            }
        }
    }
}
