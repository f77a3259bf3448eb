//! What people and tools ask of the coordinators.

use cairn_core::cluster::{AdminRequest, Command, Response as Answer};
use cairn_core::ids::{NodeId, PartitionId};
use cairn_core::record::ClusterSettings;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::admin_server::Admin;
use cairn_proto::pb::coordinator::v1::change_request::Change;
use serde_json::json;
use tonic::{Request, Response, Status};

use super::{Office, refusal_status};
use crate::coordinator::leader::Message;

/// `cairn.coordinator.v1.Admin`.
#[derive(Clone, Debug)]
pub(in super::super) struct AdminService(pub(in super::super) Office);

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusReply>, Status> {
        let document = self.0.status().await;
        let json = serde_json::to_vec(&document).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(pb::StatusReply { json: json.into() }))
    }

    async fn change(
        &self,
        request: Request<pb::ChangeRequest>,
    ) -> Result<Response<pb::ChangeReply>, Status> {
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
    /// What there is to show. A follower tells who leads; only the leader knows how
    /// the data nodes are.
    pub(in super::super) async fn status(&self) -> serde_json::Value {
        let coordinators: Vec<_> = {
            let metrics = self.group.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let leader = metrics.current_leader;
            membership
                .nodes()
                .map(|(id, node)| {
                    json!({
                        "name": node.name,
                        "raftId": id.to_string(),
                        "peer": node.peer,
                        "client": node.client,
                        "voter": membership.voter_ids().any(|voter| voter == *id),
                        "leader": leader == Some(*id),
                    })
                })
                .collect()
        };
        let recent = match self.desk.reign() {
            Some(_) => self.desk.show().await,
            None => None,
        };
        let (map, term) = {
            let term = self.group.raft.metrics().borrow().current_term;
            (self.view.borrow().map.clone(), term)
        };
        json!({
            "clusterId": map.cluster_id,
            "mapVersion": map.version,
            "answeredBy": self.group.identity.name,
            "http": self.http_advertise,
            "leading": recent.is_some(),
            "term": term,
            "coordinators": coordinators,
            "settings": map.settings,
            "nodes": map.nodes.values().collect::<Vec<_>>(),
            "partitions": map.partitions,
            "observed": recent,
        })
    }

    async fn change(&self, change: Change) -> Result<String, Status> {
        self.reign()?;
        match change {
            Change::NodeGone(pb::NodeGone { node }) => {
                let node = NodeId(node);
                let command = Command::MarkGone { node, force: false };
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
            Change::Recover(pb::Recover {
                partition,
                survivor,
                accept_loss,
            }) => {
                if !accept_loss {
                    return Err(Status::failed_precondition(
                        "what only the lost replicas held would be given up: \
                         this needs to be accepted explicitly",
                    ));
                }
                let partition = PartitionId(partition);
                let member = self
                    .view
                    .borrow()
                    .state
                    .partition(partition)
                    .and_then(|record| record.config.on_node(NodeId(survivor)))
                    .ok_or_else(|| {
                        Status::invalid_argument(format!(
                            "node {survivor} holds no replica of {partition}"
                        ))
                    })?;
                let keep = vec![member.replica];
                self.ask(AdminRequest::KeepSurvivors { partition, keep })
                    .await?;
                Ok(format!(
                    "{partition} goes on with what {} holds",
                    member.node
                ))
            }
        }
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
