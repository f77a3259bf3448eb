//! The coordinator's gRPC services: Raft and data nodes on the peer port, people
//! and clients on the client port.

mod admin;
mod session;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::cluster::{Command, NodeRegistration, Refusal, Response as Answer};
use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::{NodeInfo, NodeStanding};
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_server::Coordinator;
use cairn_proto::pb::coordinator::v1::raft_server::Raft;
use cairn_proto::{Malformed, limits};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Request, Response, Status, Streaming};

use super::group::Group;
use super::leader::{Desk, Reign};
use super::membership::Changing;
use super::page::{Documents, Edition};
use super::raft::Applied;
use super::storage::View;

pub(super) use admin::{AdminService, StatusDocument};

/// How long a proposal on behalf of a caller may take.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What the services share.
#[derive(Clone, Debug)]
pub(super) struct Office {
    pub(super) group: Arc<Group>,
    pub(super) desk: Desk,
    pub(super) view: watch::Receiver<View>,
    pub(super) changing: Changing,
    pub(super) http_advertise: String,
    /// Held while a change is read, judged and proposed.
    pub(super) one_at_a_time: Arc<tokio::sync::Mutex<()>>,
    /// The manifest that governs the cluster.
    pub(super) managed_by: Option<Arc<str>>,
}

impl Office {
    /// The present reign, or a redirect to the leader.
    pub(super) fn reign(&self) -> Result<Reign, Status> {
        self.desk.reign().ok_or_else(|| self.group.not_leader())
    }

    /// Proposes on behalf of a caller, and waits for the answer.
    pub(super) async fn propose(&self, command: Command) -> Result<Answer, Status> {
        self.reign()?;
        match timeout(PROPOSE_TIMEOUT, self.group.raft.client_write(command)).await {
            Ok(Ok(written)) => match written.data {
                Applied(Some(answer)) => Ok(answer),
                Applied(None) => Ok(Answer::Unchanged),
            },
            Ok(Err(error)) if error.forward_to_leader().is_some() => Err(self.group.not_leader()),
            Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
            Err(_) => Err(Status::unavailable(
                "no quorum of coordinators answers in time",
            )),
        }
    }

    fn map_update(&self, cluster_id: &str, version: MapVersion) -> MapUpdate {
        MapUpdate::since(&self.view.borrow().map, cluster_id, version)
    }
}

/// The port between nodes.
#[derive(Clone, Debug)]
pub(super) struct PeerPort {
    pub(super) office: Office,
    pub(super) documents: Documents,
}

#[tonic::async_trait]
impl Raft for PeerPort {
    async fn call(
        &self,
        request: Request<pb::RaftRequest>,
    ) -> Result<Response<pb::RaftReply>, Status> {
        let reply = self.office.group.answer(request.into_inner()).await?;
        Ok(Response::new(reply))
    }
}

#[tonic::async_trait]
impl Coordinator for PeerPort {
    async fn show(
        &self,
        request: Request<pb::ShowRequest>,
    ) -> Result<Response<pb::ShowReply>, Status> {
        self.office.reign()?;
        let Edition { tag, json } = self.documents.newest().await?;
        let known = request.into_inner().tag == tag;
        Ok(Response::new(pb::ShowReply {
            tag,
            json: if known { Bytes::new() } else { json },
        }))
    }

    async fn register(
        &self,
        request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let office = &self.office;
        office.reign()?;
        let (cluster_id, registration) = registration(request.into_inner())?;
        let ours = office.view.borrow().map.cluster_id.clone();
        if !cluster_id.is_empty() && cluster_id != ours {
            return Err(refused(format!(
                "the node's disk belongs to cluster {cluster_id}, and these coordinators run {ours}"
            )));
        }
        let node = match office.known(&registration) {
            Some(node) => node,
            None => office.admit(registration).await?,
        };
        let map = office.map_update(&cluster_id, MapVersion::ZERO);
        Ok(Response::new(pb::RegisterReply {
            node: node.0,
            cluster_id: ours,
            map: Some((&map).into()),
        }))
    }

    type SessionStream = session::Down;

    async fn session(
        &self,
        request: Request<Streaming<pb::NodeToCoordinator>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let down = session::open(self.office.clone(), request.into_inner()).await?;
        Ok(Response::new(down))
    }
}

impl Office {
    /// The node, if it is admitted exactly as it presents itself: a session that is
    /// opened anew costs no entry in Raft's log.
    fn known(&self, registration: &NodeRegistration) -> Option<NodeId> {
        let NodeRegistration {
            uuid,
            incarnation,
            name,
            addresses,
            zone,
            weight,
            features,
            replace_dead: _,
        } = registration;
        let view = self.view.borrow();
        let info: &NodeInfo = view.state.node_by_uuid(uuid)?;
        let same = info.standing == NodeStanding::Member
            && info.incarnation == *incarnation
            && info.name == *name
            && info.addresses == *addresses
            && info.zone == *zone
            && info.weight == *weight
            && info.features == *features;
        same.then_some(info.id)
    }

    async fn admit(&self, mut registration: NodeRegistration) -> Result<NodeId, Status> {
        let held = {
            let view = self.view.borrow();
            let holder = view.state.holder_of_name(&registration.name);
            holder.is_some_and(|h| h.uuid != registration.uuid)
        };
        if held {
            registration.replace_dead = self.desk.may_replace(registration.name.clone()).await;
        }
        let (name, uuid) = (registration.name.clone(), registration.uuid.clone());
        match self.propose(Command::RegisterNode(registration)).await? {
            Answer::Registered { node } => {
                tracing::info!(%node, name, uuid, "a data node is admitted");
                Ok(node)
            }
            Answer::Refused(refusal) => {
                tracing::warn!(name, uuid, %refusal, "a data node is refused");
                Err(refusal_status(&refusal))
            }
            // The command was answered as another kind than it is.
            other => Err(Status::internal(format!("unexpected answer: {other:?}"))),
        }
    }
}

/// Reads a request to be admitted.
fn registration(request: pb::RegisterRequest) -> Result<(String, NodeRegistration), Status> {
    let pb::RegisterRequest {
        format,
        cluster_id,
        uuid,
        incarnation,
        name,
        addresses,
        zone,
        weight,
        features,
        session: _,
    } = request;
    if format > cairn_proto::FORMAT {
        return Err(refused(format!(
            "the node speaks wire format {format}, and these coordinators only up to {}: \
             upgrade them first",
            cairn_proto::FORMAT
        )));
    }
    for (field, text) in [
        ("cluster_id", &cluster_id),
        ("uuid", &uuid),
        ("incarnation", &incarnation),
        ("name", &name),
        ("zone", &zone),
    ] {
        if text.len() > limits::LABEL_BYTES {
            return Err(Malformed::new(field, "is too long").into());
        }
    }
    let addresses = addresses
        .ok_or_else(|| Malformed::missing("addresses"))?
        .try_into()?;
    Ok((
        cluster_id,
        NodeRegistration {
            uuid,
            incarnation,
            name,
            addresses,
            zone,
            weight,
            features,
            replace_dead: false,
        },
    ))
}

/// A refusal that will not change by itself.
fn refused(why: impl Into<String>) -> Status {
    Status::new(Code::PermissionDenied, why)
}

/// `PermissionDenied` and `InvalidArgument` will not change by themselves;
/// `Unavailable` may.
fn refusal_status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NoCluster
        | Refusal::NameTaken { .. }
        | Refusal::LastCopies { .. }
        | Refusal::TooFewNodes { .. }
        | Refusal::Stale { .. }
        | Refusal::SeatsChanged { .. }
        | Refusal::BasisChanged
        | Refusal::NotEmpty { .. }
        | Refusal::HasPrimary { .. }
        | Refusal::NoPrimary { .. } => Code::Unavailable,
        Refusal::IdentityGone { .. }
        | Refusal::OtherIncarnation { .. }
        | Refusal::ClusterExists { .. }
        | Refusal::TableExists
        | Refusal::StaleCaller { .. }
        | Refusal::FixedSetting { .. } => Code::PermissionDenied,
        Refusal::BadText { .. }
        | Refusal::Settings(_)
        | Refusal::UnknownNode { .. }
        | Refusal::Invalid { .. }
        | Refusal::UnknownPartition { .. }
        | Refusal::BadBatch => Code::InvalidArgument,
    };
    Status::new(code, refusal.to_string())
}
