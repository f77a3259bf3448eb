//! The session of one data node with the leader.
//!
//! It belongs to a reign and ends with it, with a redirect. What goes down never
//! waits for a slow node: orders that do not fit are lost and sent again by the
//! supervisor, and of the map only the newest state is sent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_core::cluster::report::{Heartbeat, Order};
use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::NodeStanding;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_to_node::Message as DownMessage;
use cairn_proto::pb::coordinator::v1::node_to_coordinator::Message as UpMessage;
use cairn_proto::pb::peer::v1::Handshake;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{Office, refused};
use crate::coordinator::leader::{Message, Reign};
use crate::coordinator::storage::View;

/// What goes down.
pub(super) type Down = ReceiverStream<Result<pb::CoordinatorToNode, Status>>;

/// How long a node may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node may take to make room for what goes down before it is given up.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How many messages wait in the stream itself.
const DOWN_MAX: usize = 16;
/// How many batches of orders wait for the stream.
const ORDERS_MAX: usize = 256;
/// How often nodes send heartbeats, as they are told.
const HEARTBEAT_MS: u64 = 100;

static STREAMS: AtomicU64 = AtomicU64::new(1);

/// Opens a session: reads the node's hello, and goes on in a task of its own.
pub(super) async fn open(
    office: Office,
    mut up: Streaming<pb::NodeToCoordinator>,
) -> Result<Down, Status> {
    let reign = office.reign()?;
    let first = timeout(HELLO_TIMEOUT, up.message())
        .await
        .map_err(|_| Status::deadline_exceeded("no hello in time"))??;
    let Some(pb::NodeToCoordinator {
        message: Some(UpMessage::Hello(hello)),
    }) = first
    else {
        return Err(Status::invalid_argument("the first message is not a hello"));
    };
    let pb::Hello {
        handshake,
        map_version,
    } = hello;
    let handshake =
        handshake.ok_or_else(|| Status::invalid_argument("the hello has no handshake"))?;
    let node = recognise(&office.view.borrow(), &handshake)?;
    let (down, stream) = mpsc::channel(DOWN_MAX);
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    let session = Session {
        node,
        process: handshake.session,
        stream: STREAMS.fetch_add(1, Ordering::Relaxed),
        cluster_id: handshake.cluster_id,
        known: MapVersion(map_version),
        view: office.view.clone(),
        office,
        reign,
        down,
    };
    tokio::spawn(session.run(up, sender, orders));
    Ok(ReceiverStream::new(stream))
}

/// Checks who says hello: an identity that is a member of this cluster.
fn recognise(view: &View, handshake: &Handshake) -> Result<NodeId, Status> {
    if handshake.format > cairn_proto::FORMAT {
        return Err(refused("the node speaks a newer wire format"));
    }
    if handshake.cluster_id != view.map.cluster_id {
        return Err(refused(format!(
            "the node belongs to cluster {}, and these coordinators run {}",
            handshake.cluster_id, view.map.cluster_id
        )));
    }
    let id = NodeId(handshake.node);
    let known = view.state.node(id).filter(|known| {
        known.standing == NodeStanding::Member
            && known.uuid == handshake.uuid
            && known.incarnation == handshake.incarnation
    });
    match known {
        Some(known) => Ok(known.id),
        // It registers, and learns there why not.
        None => Err(Status::unavailable(format!(
            "{id} is not a member under this identity"
        ))),
    }
}

struct Session {
    office: Office,
    reign: Reign,
    node: NodeId,
    /// The node's process.
    process: u64,
    /// This session.
    stream: u64,
    cluster_id: String,
    /// The map that the node has.
    known: MapVersion,
    view: watch::Receiver<View>,
    down: mpsc::Sender<Result<pb::CoordinatorToNode, Status>>,
}

/// Why a session ended.
enum End {
    /// The node is gone, or too slow.
    Node,
    /// It said what cannot be.
    Refused(Status),
    /// This coordinator leads no longer.
    Reign,
}

impl Session {
    async fn run(
        mut self,
        up: Streaming<pb::NodeToCoordinator>,
        sender: mpsc::Sender<Vec<Order>>,
        orders: mpsc::Receiver<Vec<Order>>,
    ) {
        let (node, stream) = (self.node, self.stream);
        let opened = Message::Opened {
            node,
            stream,
            orders: sender,
        };
        if !self.office.desk.tell(opened).await {
            return;
        }
        tracing::debug!(%node, stream, "a data node's session begins");
        let end = self.converse(up, orders).await;
        let _ = self
            .office
            .desk
            .tell(Message::Closed { node, stream })
            .await;
        let status = match end {
            End::Node => None,
            End::Refused(status) => {
                tracing::warn!(%node, %status, "a data node's session is refused");
                Some(status)
            }
            End::Reign => Some(self.office.group.not_leader()),
        };
        if let Some(status) = status {
            let _ = timeout(SEND_TIMEOUT, self.down.send(Err(status))).await;
        }
        tracing::debug!(%node, stream, "a data node's session ended");
    }

    async fn converse(
        &mut self,
        mut up: Streaming<pb::NodeToCoordinator>,
        mut orders: mpsc::Receiver<Vec<Order>>,
    ) -> End {
        let over = self.reign.over.clone();
        let welcome = DownMessage::Welcome(pb::Welcome {
            term: self.reign.term,
            heartbeat_ms: HEARTBEAT_MS,
        });
        let mut sent = self.send(welcome).await;
        if sent.is_ok() {
            sent = self.send_map().await;
        }
        let mut batches = Vec::new();
        while sent.is_ok() {
            sent = tokio::select! {
                () = over.cancelled() => return End::Reign,
                message = up.message() => match message {
                    Ok(Some(message)) => match self.heard(message).await {
                        Ok(None) => Ok(()),
                        Ok(Some(answer)) => self.send(answer).await,
                        Err(end) => return end,
                    },
                    Ok(None) | Err(_) => return End::Node,
                },
                count = orders.recv_many(&mut batches, ORDERS_MAX) => {
                    if count == 0 {
                        // Another session of the node took this one's place.
                        return End::Node;
                    }
                    let all: Vec<Order> = batches.drain(..).flatten().collect();
                    self.send(DownMessage::Orders(all.into())).await
                }
                changed = self.view.changed() => match changed {
                    Ok(()) => self.send_map().await,
                    Err(_) => return End::Node,
                },
            };
        }
        End::Node
    }

    async fn send(&self, message: DownMessage) -> Result<(), ()> {
        let message = pb::CoordinatorToNode {
            message: Some(message),
        };
        match timeout(SEND_TIMEOUT, self.down.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(()),
        }
    }

    /// Sends what the node's map lacks, if anything.
    async fn send_map(&mut self) -> Result<(), ()> {
        let version = self.view.borrow_and_update().map.version;
        if version <= self.known {
            return Ok(());
        }
        let update = self.office.map_update(&self.cluster_id, self.known);
        self.known = update.version();
        self.send(DownMessage::Map((&update).into())).await
    }

    /// Takes what the node says; what there is to answer.
    async fn heard(&self, message: pb::NodeToCoordinator) -> Result<Option<DownMessage>, End> {
        let malformed = |e: cairn_proto::Malformed| End::Refused(e.into());
        let (message, answer) = match message.message {
            Some(UpMessage::Heartbeat(heartbeat)) => {
                let heartbeat = Heartbeat::try_from(heartbeat).map_err(malformed)?;
                if heartbeat.node != self.node || heartbeat.session != self.process {
                    return Err(End::Refused(Status::invalid_argument(
                        "a heartbeat of another node or process than the hello's",
                    )));
                }
                let seen = pb::HeartbeatSeen {
                    sequence: heartbeat.sequence,
                };
                (
                    Message::Heartbeat {
                        stream: self.stream,
                        heartbeat: Box::new(heartbeat),
                    },
                    Some(DownMessage::HeartbeatSeen(seen)),
                )
            }
            Some(UpMessage::Reports(reports)) => {
                let reports = reports.try_into().map_err(malformed)?;
                let message = Message::Reports {
                    from: self.node,
                    stream: self.stream,
                    reports,
                };
                (message, None)
            }
            Some(UpMessage::Hello(_)) | None => {
                return Err(End::Refused(Status::invalid_argument(
                    "neither a heartbeat nor reports",
                )));
            }
        };
        if self.office.desk.tell(message).await {
            Ok(answer)
        } else {
            Err(End::Reign)
        }
    }
}
