//! What people and tools ask of the coordinators.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::cluster::ring::{Ring, partition_position};
use cairn_core::cluster::settings::{self, SettingsChange};
use cairn_core::cluster::status::{ClusterStatus, Plan};
use cairn_core::cluster::supervisor::PreviewError;
use cairn_core::cluster::{AdminRequest, Command, Refusal, Response as Answer};
use cairn_core::features;
use cairn_core::ids::{Epoch, NodeId, PartitionId};
use cairn_core::record::{ClusterMap, ClusterSettings};
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::admin_server::Admin;
use cairn_proto::pb::coordinator::v1::change_request::Change;
use serde::Serialize;
use tonic::{Code, Request, Response, Status};

use super::Office;
use crate::coordinator::group::Group;
use crate::coordinator::leader::{Message, Noted};
use crate::coordinator::membership::Progress;
use crate::coordinator::raft::{RaftId, RaftMetrics};
use crate::grpc::admins_only;

/// The listener, to count whom it refuses.
const LISTENER: &str = "coordinator-client";

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
    /// Every member of the cluster on the ring, and where it listens.
    ring: Vec<RingMember>,
    /// From where on the ring each partition walks, in 65,536ths of it.
    ring_positions: Vec<u16>,
    /// The last change of the group that this coordinator worked on as its leader.
    coordinators_change: Option<Progress>,
    /// What the cluster agreed on.
    settings: Option<Arc<ClusterSettings>>,
    /// The manifest that governs the cluster, by the settings of this coordinator.
    #[serde(skip_serializing_if = "Option::is_none")]
    managed_by: Option<Arc<str>>,
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
    /// Whether it answered the leader when it was asked last; absent where nobody asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    answers: Option<bool>,
}

/// A data node's part of the ring.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RingMember {
    node: NodeId,
    /// Relative to the others; 100 is usual.
    weight: u32,
    virtual_nodes: usize,
    /// The part of all positions whose first virtual node clockwise is its, from 0 to 1.
    share: f64,
    /// Where its virtual nodes are, in 65,536ths of the ring.
    points: Vec<u16>,
    /// For Redis clients.
    resp: String,
    /// For gRPC clients.
    client: String,
    /// Health and metrics.
    http: String,
}

/// A position on the ring as far as a picture needs it.
fn coarse(position: u64) -> u16 {
    (position >> 48) as u16
}

fn ring_members(map: &ClusterMap) -> Vec<RingMember> {
    let ring = Ring::of_map(map);
    let shares = ring.shares();
    let mut points: BTreeMap<NodeId, Vec<u16>> = BTreeMap::new();
    for point in ring.points() {
        let of = points.entry(point.node).or_default();
        of.push(coarse(point.position));
    }
    let on_ring = |(node, (virtual_nodes, share)): (NodeId, (usize, f64))| {
        let points = points.remove(&node).unwrap_or_default();
        let info = map.nodes.get(&node)?;
        Some(RingMember {
            node,
            weight: info.weight,
            virtual_nodes,
            share,
            points,
            resp: info.addresses.resp.clone(),
            client: info.addresses.client.clone(),
            http: info.addresses.http.clone(),
        })
    };
    shares.into_iter().filter_map(on_ring).collect()
}

impl StatusDocument {
    /// Tells which coordinators answered the leader, by name.
    pub(in super::super) fn note_answers(&mut self, answers: &BTreeMap<String, bool>) {
        for coordinator in &mut self.coordinators {
            coordinator.answers = answers.get(&coordinator.name).copied();
        }
    }

    /// Without what changes by the passing of time alone.
    pub(in super::super) fn forget_ages(&mut self) {
        for node in &mut self.status.nodes {
            node.health_for_ms = 0;
            node.heard_ms_ago = None;
        }
        for key in &mut self.status.heat.keys {
            key.hot_for_ms = 0;
        }
    }
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
        // One that was removed knows of what was, one that waits to be taken in of nothing, and
        // either would be believed.
        let is_no_member = self.0.group.is_out() || self.0.group.is_unlisted();
        if is_no_member || leader.is_some_and(|(id, _)| id != self.0.group.id()) {
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
        admins_only(
            request.extensions(),
            LISTENER,
            "permission denied: changing the cluster takes the role admin",
        )?;
        let request = request.into_inner();
        Ok(Response::new(self.0.change(request).await?))
    }

    async fn plan(
        &self,
        request: Request<pb::PlanRequest>,
    ) -> Result<Response<pb::PlanReply>, Status> {
        if request.get_ref().change.is_some() {
            // It is placed for, on the leader.
            admins_only(
                request.extensions(),
                LISTENER,
                "permission denied: planning a change takes the role admin",
            )?;
        }
        let change = request.into_inner().change;
        self.0.reign()?;
        let command = match change {
            None => None,
            Some(request) => {
                let change = named(request.change)?;
                let Asked::Command { command, .. } = self.0.read(change).await? else {
                    return Err(Status::invalid_argument(
                        "where primaries are copies nothing: there is nothing to plan",
                    ));
                };
                Some(*command)
            }
        };
        let plan = self.0.preview(command).await?;
        let json = serde_json::to_vec(&plan).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(pb::PlanReply { json: json.into() }))
    }
}

/// Whether a change is one of members or of what was agreed on, which a manifest decides.
/// Where a primary is, and who survives a loss, no manifest knows.
fn is_governed(change: &Change) -> bool {
    match change {
        Change::MovePrimary(_) | Change::Cordon(_) | Change::Recover(_) => false,
        Change::NodeGone(_)
        | Change::Settings(_)
        | Change::Drain(_)
        | Change::Retire(_)
        | Change::PauseMoves(_)
        | Change::ExpectBack(_)
        | Change::ResetToken(_)
        | Change::Coordinators(_) => true,
    }
}

fn named(change: Option<Change>) -> Result<Change, Status> {
    change.ok_or_else(|| Status::invalid_argument("no change is named"))
}

/// What a change comes to.
enum Asked {
    /// A command of the state machine.
    Command {
        command: Box<Command>,
        /// What is said once it is done.
        done: String,
        warnings: Vec<String>,
        /// Whether copies have to find room for it.
        needs_room: bool,
    },
    /// A question to the leader alone.
    Leader { request: AdminRequest, done: String },
}

impl Asked {
    fn command(command: Command, done: impl Into<String>) -> Self {
        Self::Command {
            command: Box::new(command),
            done: done.into(),
            warnings: Vec::new(),
            needs_room: false,
        }
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
                answers: None,
            })
            .collect();
        let (status, events) =
            shown.map_or_else(Default::default, |shown| (shown.status, shown.events));
        let map = Arc::clone(&self.view.borrow().map);
        StatusDocument {
            status,
            answered_by: self.group.identity.name.clone(),
            leading: self.desk.reign().is_some(),
            term: metrics.current_term,
            http: self.http_advertise.clone(),
            coordinators,
            coordinators_change: self.changing.progress(),
            ring: ring_members(&map),
            ring_positions: map
                .partitions
                .iter()
                .map(|record| coarse(partition_position(record.id)))
                .collect(),
            settings: map.settings.clone(),
            managed_by: self.managed_by.clone(),
            events,
        }
    }

    async fn change(&self, request: pb::ChangeRequest) -> Result<pb::ChangeReply, Status> {
        let pb::ChangeRequest {
            override_manifest,
            token,
            change,
        } = request;
        self.reign()?;
        if token > 0 {
            let judged = self.view.borrow().state.check_token(token);
            judged.map_err(|refusal| refused_change(&refusal))?;
        }
        let change = named(change)?;
        // Whoever comes with a token carries the manifest out.
        if token == 0 && !override_manifest {
            self.check_manifest(&change)?;
        }
        let change = match change {
            Change::Coordinators(change) => {
                self.note_token(token).await?;
                return self.change_coordinators(change).await;
            }
            change => change,
        };
        // What is read of the settings is written back whole: one at a time.
        let _one_at_a_time = self.one_at_a_time.lock().await;
        match self.read(change).await? {
            Asked::Leader { request, done } => {
                if !self.desk.tell(Message::Admin(request)).await {
                    return Err(self.group.not_leader());
                }
                Ok(pb::ChangeReply {
                    message: done,
                    warnings: Vec::new(),
                })
            }
            Asked::Command {
                command,
                done,
                warnings,
                needs_room,
            } => {
                if needs_room {
                    self.check_room(&command).await?;
                }
                let command = match token {
                    0 => *command,
                    token => Command::Fenced { token, command },
                };
                let message = match self.propose(command).await? {
                    Answer::Refused(refusal) => return Err(refused_change(&refusal)),
                    Answer::Unchanged => "it already is as asked".to_owned(),
                    _ => done,
                };
                Ok(pb::ChangeReply { message, warnings })
            }
        }
    }

    /// Refuses what a manifest decides, where one governs the cluster.
    fn check_manifest(&self, change: &Change) -> Result<(), Status> {
        match &self.managed_by {
            Some(manifest) if is_governed(change) => Err(Status::failed_precondition(format!(
                "{manifest} governs this cluster and decides that: edit it, or repeat with \
                 --override-manifest"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses a caller whose place another one took, where what it asks for is no
    /// command of the state machine.
    async fn note_token(&self, token: u64) -> Result<(), Status> {
        if token == 0 {
            return Ok(());
        }
        let coordinators = self.view.borrow().state.coordinators().to_vec();
        let command = Box::new(Command::NoteCoordinators { coordinators });
        match self.propose(Command::Fenced { token, command }).await? {
            Answer::Refused(refusal) => Err(refused_change(&refusal)),
            _ => Ok(()),
        }
    }

    /// Reads a change, and judges what the state machine cannot.
    async fn read(&self, change: Change) -> Result<Asked, Status> {
        Ok(match change {
            Change::NodeGone(pb::NodeGone { node, force }) => {
                let node = NodeId(node);
                Asked::command(
                    Command::MarkGone { node, force },
                    format!("{node} is given up; its replicas are made anew elsewhere"),
                )
            }
            Change::Settings(change) => {
                let agreed = self.view.borrow().map.settings.clone();
                let agreed =
                    agreed.ok_or_else(|| Status::unavailable("the cluster is not made yet"))?;
                let settings = settings_change(change)?.of(&agreed);
                self.check_features(features::of_settings(&settings))
                    .await?;
                let needs_room = settings.replication_factor > agreed.replication_factor;
                Asked::Command {
                    warnings: settings::warnings(&settings)
                        .iter()
                        .map(ToString::to_string)
                        .collect(),
                    done: format!(
                        "the settings are changed: replicationFactor {}, writeQuorum {}, \
                         minInSync {}",
                        settings.replication_factor, settings.write_quorum, settings.min_in_sync
                    ),
                    command: Box::new(Command::ChangeSettings { settings }),
                    needs_room,
                }
            }
            Change::MovePrimary(pb::MovePrimary { partition, to_node }) => {
                let partition = PartitionId(partition);
                let to = Some(NodeId(to_node));
                Asked::Leader {
                    request: AdminRequest::HandOver { partition, to },
                    done: format!("the primary of {partition} is asked to hand over"),
                }
            }
            Change::Cordon(pb::Cordon {
                node,
                until_unix_ms,
            }) => {
                let node = NodeId(node);
                if !self.view.borrow().state.is_member(node) {
                    return Err(refused_change(&Refusal::UnknownNode { node }));
                }
                Asked::Leader {
                    request: AdminRequest::Cordon {
                        node,
                        until_unix_ms,
                    },
                    done: if until_unix_ms == 0 {
                        format!("{node} may lead again")
                    } else {
                        format!("{node} gets no primary until then")
                    },
                }
            }
            // Raft's own membership, not the state machine's.
            Change::Coordinators(_) => {
                return Err(Status::invalid_argument(
                    "changing the coordinators copies nothing: there is nothing to plan",
                ));
            }
            Change::Recover(recover) => self.recover(recover).await?,
            Change::Drain(pb::Drain { node, undo: false }) => {
                let node = NodeId(node);
                Asked::Command {
                    command: Box::new(Command::Drain { node }),
                    done: format!("{node} gives up all that it holds"),
                    warnings: Vec::new(),
                    needs_room: true,
                }
            }
            Change::Drain(pb::Drain { node, undo: true }) => {
                let node = NodeId(node);
                Asked::command(Command::Undrain { node }, format!("{node} stays"))
            }
            Change::Retire(pb::Retire { node }) => {
                let node = NodeId(node);
                self.check_empty(node).await?;
                Asked::command(
                    Command::Retire { node },
                    format!("{node} is no member any more"),
                )
            }
            Change::PauseMoves(pb::PauseMoves { paused }) => Asked::command(
                Command::PauseMoves { paused },
                if paused {
                    "only what is lost is made anew from here on"
                } else {
                    "moves go on"
                },
            ),
            Change::ResetToken(pb::ResetToken {}) => {
                Asked::command(Command::ResetToken, "the next caller's token begins anew")
            }
            Change::ExpectBack(pb::ExpectBack {
                node,
                until_unix_ms,
            }) => {
                let node = NodeId(node);
                Asked::command(
                    Command::ExpectBack {
                        node,
                        until_unix_ms,
                    },
                    if until_unix_ms == 0 {
                        format!("{node} is not expected to be away any more")
                    } else {
                        format!("{node} may be away until then")
                    },
                )
            }
        })
    }

    async fn preview(&self, change: Option<Command>) -> Result<Plan, Status> {
        let plan = self.desk.preview(change).await;
        let plan = plan.ok_or_else(|| self.group.not_leader())?;
        plan.map_err(|error| match error {
            PreviewError::Refused(refusal) => refused_change(&refusal),
            PreviewError::Placement(error) => Status::failed_precondition(error.to_string()),
        })
    }

    /// Refuses what would fill a disk.
    async fn check_room(&self, command: &Command) -> Result<(), Status> {
        let plan = self.preview(Some(command.clone())).await?;
        if plan.no_room.is_empty() {
            return Ok(());
        }
        let nodes: Vec<String> = {
            let view = self.view.borrow();
            plan.no_room
                .iter()
                .map(|lack| {
                    let name = view
                        .state
                        .node(lack.node)
                        .map_or_else(|| lack.node.to_string(), |n| n.name.clone());
                    format!(
                        "{name} would get about {} bytes and may take {}",
                        lack.needed_bytes, lack.free_bytes
                    )
                })
                .collect()
        };
        Err(Status::failed_precondition(format!(
            "the disks are too small for what would have to be copied: {}",
            nodes.join("; ")
        )))
    }

    /// Refuses to retire a node that has not said that it is empty.
    async fn check_empty(&self, node: NodeId) -> Result<(), Status> {
        let shown = self.desk.show().await;
        let shown = shown.ok_or_else(|| self.group.not_leader())?;
        let told = shown.status.nodes.iter().find(|status| status.id == node);
        match told {
            // Whatever else is wrong with it, the state machine says.
            Some(status) if status.leaving.is_some() && status.seats == 0 && !status.empty => {
                Err(Status::failed_precondition(format!(
                    "{} has not said yet that it is empty: {} replicas are left",
                    status.name, status.replicas
                )))
            }
            _ => Ok(()),
        }
    }

    /// Goes on with the survivors that a person named (rules 9 and 12).
    async fn recover(&self, recover: pb::Recover) -> Result<Asked, Status> {
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
        Ok(Asked::command(
            command,
            format!("{partition} goes on with what its survivors hold"),
        ))
    }
}

/// How far behind the leader's log a member is, as far as this coordinator knows.
fn lag_of(metrics: &RaftMetrics, id: RaftId) -> Option<u64> {
    let matched = metrics.replication.as_ref()?.get(&id)?;
    let last = metrics.last_log_index.unwrap_or(0);
    Some(last.saturating_sub(matched.map_or(0, |matched| matched.index)))
}

/// A refusal of what a person or the operator asked for: it is told at once. What another
/// change was faster than may be asked for again.
fn refused_change(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::NoCluster => Code::Unavailable,
        Refusal::Stale { .. } | Refusal::SeatsChanged { .. } | Refusal::BasisChanged => {
            Code::Aborted
        }
        Refusal::UnknownNode { .. } | Refusal::UnknownPartition { .. } => Code::NotFound,
        Refusal::Settings(_) | Refusal::BadText { .. } => Code::InvalidArgument,
        _ => Code::FailedPrecondition,
    };
    Status::new(code, refusal.to_string())
}

/// Reads what is to be changed of the settings; absent fields stay as they are.
fn settings_change(change: pb::Settings) -> Result<SettingsChange, Status> {
    let pb::Settings {
        replication_factor,
        write_quorum,
        min_in_sync,
        lease_ms,
        node_timeout_ms,
        replace_after_ms,
        moves_per_node,
        idempotence_window,
        counters,
    } = change;
    let small = |value: Option<u32>, field: &str| {
        value
            .map(|value| {
                u8::try_from(value).map_err(|_| {
                    Status::invalid_argument(format!("{field} {value} is out of range"))
                })
            })
            .transpose()
    };
    Ok(SettingsChange {
        replication_factor: small(replication_factor, "replicationFactor")?,
        write_quorum: small(write_quorum, "writeQuorum")?,
        min_in_sync: small(min_in_sync, "minInSync")?,
        lease_ms,
        node_timeout_ms,
        replace_after_ms,
        moves_per_node: small(moves_per_node, "movesPerNode")?,
        idempotence_window,
        counters,
    })
}
