//! What people and tools ask of the coordinators.

use std::sync::Arc;

use cairn_core::cluster::status::ClusterStatus;
use cairn_core::cluster::{AdminRequest, Command, Response as Answer};
use cairn_core::ids::{Epoch, NodeId, PartitionId};
use cairn_core::record::ClusterSettings;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::admin_server::Admin;
use cairn_proto::pb::coordinator::v1::change_request::Change;
use serde::Serialize;
use tonic::{Request, Response, Status};

use super::{Office, refusal_status};
use crate::coordinator::group::Group;
use crate::coordinator::leader::{Message, Noted};
use crate::coordinator::membership::Progress;
use crate::coordinator::raft::{RaftId, RaftMetrics};
use crate::grpc::caller_of;
use crate::users::{Role, Users};

/// What `cairn status` and the status page show.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(in super::super) struct StatusDocument {
    /// Nodes and partitions, as the leader sees them.
    #[serde(flatten)]
    status: ClusterStatus,
    /// The coordinator that says so.
    answered_by: String,
    /// Whether it leads.
    leading: bool,
    /// Its Raft term.
    term: u64,
    /// Its HTTP address.
    http: String,
    /// Every member of the Raft group.
    coordinators: Vec<CoordinatorStatus>,
    /// The last change of the group that this coordinator worked on as its leader.
    coordinators_change: Option<Progress>,
    /// What the cluster agreed on.
    settings: Option<Arc<ClusterSettings>>,
    /// What happened of late, oldest first.
    events: Vec<Noted>,
}

/// A member of the Raft group.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct CoordinatorStatus {
    name: String,
    /// As text: JSON's numbers end before it does.
    raft_id: String,
    peer: String,
    client: String,
    voter: bool,
    leader: bool,
    /// How many entries of the log it is behind the leader, as only that one knows.
    lag: Option<u64>,
}

/// `cairn.coordinator.v1.Admin`.
#[derive(Clone, Debug)]
pub(in super::super) struct AdminService(pub(in super::super) Office);

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, Status> {
        // Where a leader is known, it knows more. Where none is, this is all there is.
        let leader = {
            let metrics = self.0.group.raft.metrics();
            let metrics = metrics.borrow();
            Group::leader_of(&metrics)
        };
        // One that was removed knows of what was, and would be believed.
        if self.0.group.is_out() || leader.is_some_and(|(id, _)| id != self.0.group.id()) {
            return Err(self.0.group.not_leader());
        }
        let document = self.0.document().await;
        let json = serde_json::to_vec(&document).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(pb::StatusReply { json: json.into() }))
    }

    async fn change(
        &self,
        request: Request<pb::ChangeRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
        if !caller_of(request.extensions()).has(Role::Admin) {
            Users::note_forbidden("coordinator-client");
            return Err(Status::permission_denied(
                "permission denied: changing the cluster takes the role admin",
            ));
        }
        let pb::ChangeRequest {
            // Nothing governs the cluster by a manifest yet.
            override_manifest: _,
            change,
        } = request.into_inner();
        let change = change.ok_or_else(|| Status::invalid_argument("no change is named"))?;
        let message = self.0.change(change).await?;
        Ok(Response::new(pb::ChangeReply { message }))
    }
}

impl Office {
    /// What there is to show, as this coordinator has it: only a leader knows how
    /// nodes and partitions are.
    pub(in super::super) async fn document(&self) -> StatusDocument {
        let shown = self.desk.show().await;
        let metrics = self.group.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        let coordinators = membership
            .nodes()
            .map(|(id, node)| CoordinatorStatus {
                name: node.name.clone(),
                raft_id: id.to_string(),
                peer: node.peer.clone(),
                client: node.client.clone(),
                voter: membership.voter_ids().any(|voter| voter == *id),
                leader: metrics.current_leader == Some(*id),
                lag: lag_of(&metrics, *id),
            })
            .collect();
        let (status, events) =
            shown.map_or_else(Default::default, |shown| (shown.status, shown.events));
        StatusDocument {
            status,
            answered_by: self.group.identity.name.clone(),
            leading: self.desk.reign().is_some(),
            term: metrics.current_term,
            http: self.http_advertise.clone(),
            coordinators,
            coordinators_change: self.changing.progress(),
            settings: self.view.borrow().map.settings.clone(),
            events,
        }
    }

    async fn change(&self, change: Change) -> Result<String, Status> {
        self.reign()?;
        match change {
            Change::NodeGone(pb::NodeGone { node, force }) => {
                let node = NodeId(node);
                let command = Command::MarkGone { node, force };
                self.carry(
                    command,
                    format!("{node} is given up; its replicas are replaced"),
                )
                .await
            }
            Change::Settings(change) => {
                let agreed = self.view.borrow().map.settings.clone();
                let agreed =
                    agreed.ok_or_else(|| Status::unavailable("the cluster is not made yet"))?;
                let settings = changed(&agreed, change)?;
                let command = Command::ChangeSettings { settings };
                self.carry(command, "the settings are changed".to_owned())
                    .await
            }
            Change::MovePrimary(pb::MovePrimary { partition, to_node }) => {
                let partition = PartitionId(partition);
                let to = Some(NodeId(to_node));
                self.ask(AdminRequest::HandOver { partition, to }).await?;
                Ok(format!("the primary of {partition} is asked to hand over"))
            }
            Change::Recover(recover) => self.recover(recover).await,
            Change::Coordinators(change) => self.change_coordinators(change).await,
        }
    }

    /// Goes on with the survivors that a person named (rules 9 and 12).
    async fn recover(&self, recover: pb::Recover) -> Result<String, Status> {
        let pb::Recover {
            partition,
            survivors,
            accept_loss,
            epoch,
        } = recover;
        let partition = PartitionId(partition);
        if !accept_loss {
            return Err(Status::failed_precondition(
                "what only the lost replicas held would be given up: \
                 this needs to be accepted explicitly",
            ));
        }
        // A primary that serves has everything; naming survivors could only lose.
        let shown = self.desk.show().await;
        let shown = shown.ok_or_else(|| self.group.not_leader())?;
        let health = shown.status.partitions.iter();
        if let Some(primary) = health
            .filter(|health| health.partition == partition && health.serving)
            .find_map(|health| health.primary)
        {
            return Err(Status::failed_precondition(format!(
                "{partition} is served by {}: there is nothing to recover",
                primary.node
            )));
        }
        let config = {
            let view = self.view.borrow();
            let record = view.state.partition(partition);
            record.map(|record| record.config.clone())
        };
        let config =
            config.ok_or_else(|| Status::invalid_argument(format!("there is no {partition}")))?;
        let keep = survivors
            .iter()
            .map(|&node| {
                let member = config.on_node(NodeId(node));
                member.map(|member| member.replica).ok_or_else(|| {
                    Status::invalid_argument(format!("node {node} holds no replica of {partition}"))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let command = Command::KeepSurvivors {
            partition,
            epoch: Epoch(epoch),
            keep,
        };
        let done = format!("{partition} goes on with what its survivors hold");
        self.carry(command, done).await
    }

    async fn ask(&self, request: AdminRequest) -> Result<(), Status> {
        if self.desk.tell(Message::Admin(request)).await {
            Ok(())
        } else {
            Err(self.group.not_leader())
        }
    }

    async fn carry(&self, command: Command, done: String) -> Result<String, Status> {
        match self.propose(command).await? {
            Answer::Refused(refusal) => Err(refusal_status(&refusal)),
            Answer::Unchanged => Ok("it already is as asked".to_owned()),
            _ => Ok(done),
        }
    }
}

/// How far behind the leader's log a member is, as far as this coordinator knows.
fn lag_of(metrics: &RaftMetrics, id: RaftId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&id)?;
    let last = metrics.last_log_index.unwrap_or(0);
    Some(last.saturating_sub(matched.map_or(0, |matched| matched.index)))
}

/// The settings with what is asked for; absent fields stay as they are.
fn changed(agreed: &ClusterSettings, change: pb::Settings) -> Result<ClusterSettings, Status> {
    let pb::Settings {
        replication_factor,
        write_quorum,
        min_in_sync,
        lease_ms,
        node_timeout_ms,
    } = change;
    let small = |value: Option<u32>, field: &str, present: u8| match value {
        None => Ok(present),
        Some(value) => u8::try_from(value)
            .map_err(|_| Status::invalid_argument(format!("{field} {value} is out of range"))),
    };
    Ok(ClusterSettings {
        replication_factor: small(
            replication_factor,
            "replicationFactor",
            agreed.replication_factor,
        )?,
        write_quorum: small(write_quorum, "writeQuorum", agreed.write_quorum)?,
        min_in_sync: small(min_in_sync, "minInSync", agreed.min_in_sync)?,
        lease_ms: lease_ms.unwrap_or(agreed.lease_ms),
        node_timeout_ms: node_timeout_ms.unwrap_or(agreed.node_timeout_ms),
        ..agreed.clone()
    })
}
