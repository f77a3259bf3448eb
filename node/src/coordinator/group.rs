//! Who this coordinator is among the others, and the server side of their calls.
//!
//! Bootstrap in short: a coordinator whose log is empty asks all the others who they
//! are. If any has a log, the cluster exists, and it joins it under its own new Raft
//! id ([`super::join`]). If none has, the configured coordinator with the lowest name
//! *prepares* the others for a cluster id that it drew, and initialises the group
//! with the ids that they answered with once all of them, without exception, did.
//!
//! Preparing moves a coordinator with an empty log to the new cluster id, from which
//! moment on it refuses whatever was under way under another one. So an initialiser
//! that vanishes half-way (its disk too) leaves nothing that could ever commit. It
//! goes back to another cluster only on the word of one that knows something of it to
//! be committed: an initialiser has a log before anybody voted for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_client::transport::Dialer;
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::raft_request::Kind;
use parking_lot::RwLock;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tonic::Status;

use super::addresses::Addresses;
use super::election::Elections;
use super::join::JoinReply;
use super::raft::{ClusterState, Raft, RaftId, RaftMetrics, RaftNode};
use super::storage::{Identity, LogStore, View, WriteError, Writer};

/// The longest cluster id.
const CLUSTER_ID_BYTES: usize = 64;

/// The cluster that this disk belongs to; empty while it belongs to none.
#[derive(Clone, Debug, Default)]
pub(super) struct ClusterId(Arc<RwLock<String>>);

impl ClusterId {
    pub(super) fn new(id: Option<&str>) -> Self {
        Self(Arc::new(RwLock::new(id.unwrap_or_default().to_owned())))
    }

    pub(super) fn get(&self) -> String {
        self.0.read().clone()
    }
}

/// What one coordinator asks another outside of Raft itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Introduction {
    /// Who are you?
    Who,
    /// Belong to this cluster, if your log is empty.
    Prepare {
        /// Drawn by the initialiser.
        cluster_id: String,
    },
    /// To the leader: take me in, in place of whoever had my name before.
    Join(Card),
}

/// The answer to an [`Introduction`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum IntroductionReply {
    /// To [`Introduction::Who`], and to an accepted [`Introduction::Prepare`].
    Card(Card),
    /// To a [`Introduction::Prepare`] of a coordinator that has a log.
    NotEmpty(Card),
    /// To [`Introduction::Join`].
    Join(JoinReply),
}

/// How a coordinator presents itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Card {
    /// Its configured name.
    pub(super) name: String,
    /// The identity on its disk.
    pub(super) raft_id: RaftId,
    /// Its cluster; empty if it knows none.
    pub(super) cluster_id: String,
    /// Whether it has anything in its log: whether the cluster exists, or is about to.
    pub(super) has_log: bool,
    /// Whether it knows anything of that to be committed: only then the cluster is
    /// known to exist. An older build does not say.
    #[serde(default)]
    pub(super) committed: bool,
    /// Whether it leads, or heard its leader within the leader's lease. An older
    /// build does not say.
    #[serde(default)]
    pub(super) hears_leader: bool,
    /// Its port between nodes.
    pub(super) peer: String,
    /// Its port for clients.
    pub(super) client: String,
    /// The index of the newest membership that it knows of, and the voters in it. An
    /// older build does not say.
    #[serde(default)]
    pub(super) membership: Option<(u64, Vec<RaftId>)>,
    /// The ids of the groups that a person gave up for its own.
    #[serde(default)]
    pub(super) former_groups: Vec<String>,
    /// What it understands (rule 18). An older build does not say: nothing.
    #[serde(default)]
    pub(super) features: u64,
}

/// This coordinator among the others.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) identity: Identity,
    pub(super) cluster: ClusterId,
    pub(super) raft: RaftHandle,
    pub(super) addresses: Arc<Addresses>,
    pub(super) client_advertise: String,
    pub(super) dialer: Dialer,
    log: LogStore,
    writer: Writer,
    view: watch::Receiver<View>,
    /// The index of the membership that this disk knew when the leader said that it is no
    /// member any more, if it did.
    out: RwLock<Option<u64>>,
    /// Whether a leader said last that it knows no member of this one's name.
    unlisted: AtomicBool,
    /// Held for reading while a message goes to Raft, for writing while the cluster
    /// id changes, so that no message of the old one comes in behind the change.
    gate: tokio::sync::RwLock<()>,
    /// One membership change at a time.
    pub(super) joining: Arc<tokio::sync::Mutex<()>>,
    pub(super) elections: Elections,
}

/// openraft's handle has no `Debug`.
#[derive(Clone)]
pub(super) struct RaftHandle(pub(super) Raft);

impl std::fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raft")
    }
}

impl std::ops::Deref for RaftHandle {
    type Target = Raft;

    fn deref(&self) -> &Raft {
        &self.0
    }
}

/// Why the cluster id was not changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdoptError {
    /// The log is not empty any more.
    #[error("this coordinator has a log already")]
    NotEmpty,
    /// The disk failed.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Not an id at all.
    #[error("that is no cluster id")]
    Id,
    /// Raft stopped.
    #[error("Raft has stopped: {0}")]
    Stopped(String),
}

impl Group {
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a part of its own, named at the one call"
    )]
    pub(super) fn new(
        identity: Identity,
        cluster: ClusterId,
        raft: Raft,
        addresses: Arc<Addresses>,
        client_advertise: String,
        dialer: Dialer,
        log: LogStore,
        writer: Writer,
        view: watch::Receiver<View>,
        elections: Elections,
    ) -> Self {
        Self {
            identity,
            cluster,
            raft: RaftHandle(raft),
            addresses,
            client_advertise,
            dialer,
            log,
            writer,
            view,
            out: RwLock::default(),
            unlisted: AtomicBool::new(false),
            gate: tokio::sync::RwLock::default(),
            joining: Arc::default(),
            elections,
        }
    }

    /// The identity's Raft id.
    pub(super) fn id(&self) -> RaftId {
        self.identity.raft_id
    }

    /// The configured address of this coordinator's peer port.
    fn peer_address(&self) -> String {
        let configured = self.addresses.configured();
        let own = configured.get(&self.identity.name);
        own.map(|a| a.peer.clone()).unwrap_or_default()
    }

    /// What the membership is to say of this coordinator.
    pub(super) fn node(&self) -> RaftNode {
        RaftNode {
            name: self.identity.name.clone(),
            peer: self.peer_address(),
            client: self.client_advertise.clone(),
        }
    }

    /// Whether anything was ever appended here. Asked of Raft's own task, so that
    /// every message that went to it before has been dealt with.
    pub(super) async fn has_log(&self) -> Result<bool, AdoptError> {
        self.raft
            .with_raft_state(|_| ())
            .await
            .map_err(|e| AdoptError::Stopped(e.to_string()))?;
        Ok(!self.log.is_empty())
    }

    /// How this coordinator presents itself.
    pub(super) async fn card(&self) -> Result<Card, AdoptError> {
        let RaftNode { name, peer, client } = self.node();
        Ok(Card {
            name,
            raft_id: self.id(),
            cluster_id: self.cluster.get(),
            has_log: self.has_log().await?,
            committed: self.log.has_committed(),
            hears_leader: self.hears_leader(),
            peer,
            client,
            membership: self.newest_membership(),
            former_groups: self.view.borrow().state.former_groups().to_vec(),
            features: cairn_proto::FEATURES,
        })
    }

    fn newest_membership(&self) -> Option<(u64, Vec<RaftId>)> {
        let metrics = self.raft.metrics();
        let membership = Arc::clone(&metrics.borrow().membership_config);
        let index = membership.log_id().as_ref()?.index;
        Some((index, membership.voter_ids().collect()))
    }

    /// Whether somebody who knows of a later membership leaves this disk out of it, or of
    /// a group that took the place of its own: it has not heard so.
    pub(super) fn is_told_out(&self, card: &Card) -> bool {
        let newer = |index: u64| {
            let own = self.newest_membership();
            own.is_none_or(|(own, _)| index > own)
        };
        let own = self.cluster.get();
        if card.former_groups.contains(&own) {
            return true;
        }
        card.cluster_id == own
            && card
                .membership
                .as_ref()
                .is_some_and(|(index, voters)| newer(*index) && !voters.contains(&self.id()))
    }

    /// Whether the leader said that this disk is no member any more, and it has heard of
    /// no other membership since.
    pub(super) fn is_out(&self) -> bool {
        let said = *self.out.read();
        said.is_some_and(|at| self.newest_membership().is_none_or(|(now, _)| now == at))
    }

    /// Whether this waits to be taken into a group that exists: it knows nothing of the
    /// cluster, and others do.
    pub(super) fn is_unlisted(&self) -> bool {
        let metrics = self.raft.metrics();
        let is_member = |metrics: &RaftMetrics| {
            let membership = metrics.membership_config.membership();
            membership.get_node(&self.id()).is_some()
        };
        self.unlisted.load(Ordering::Relaxed) && !is_member(&metrics.borrow())
    }

    pub(super) fn set_unlisted(&self, unlisted: bool) {
        self.unlisted.store(unlisted, Ordering::Relaxed);
    }

    pub(super) fn set_out(&self, out: bool) {
        let at = self.newest_membership().map_or(0, |(index, _)| index);
        *self.out.write() = out.then_some(at);
    }

    /// Notes on the disk that a person gave the group up and went on without this disk.
    pub(super) async fn set_superseded(&self, by: &str) -> Result<(), WriteError> {
        let identity = Identity {
            cluster_id: Some(self.cluster.get()),
            superseded_by: Some(by.to_owned()),
            ..self.identity.clone()
        };
        self.writer.write(vec![identity.change()]).await
    }

    /// Moves a coordinator whose log is empty to a cluster, durably.
    pub(super) async fn adopt(&self, cluster_id: &str) -> Result<(), AdoptError> {
        if cluster_id.is_empty() || cluster_id.len() > CLUSTER_ID_BYTES {
            return Err(AdoptError::Id);
        }
        let _changing = self.gate.write().await;
        if self.cluster.get() == cluster_id {
            return Ok(());
        }
        if self.has_log().await? {
            return Err(AdoptError::NotEmpty);
        }
        let identity = Identity {
            cluster_id: Some(cluster_id.to_owned()),
            ..self.identity.clone()
        };
        self.writer.write(vec![identity.change()]).await?;
        *self.cluster.0.write() = cluster_id.to_owned();
        tracing::info!(
            cluster_id,
            "this coordinator's disk now belongs to the cluster"
        );
        Ok(())
    }

    /// The cluster's state, as it is applied here.
    pub(super) fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.view.borrow().state)
    }

    /// Raft's log, as it stands in memory.
    pub(super) fn log(&self) -> &LogStore {
        &self.log
    }

    /// A disk that hangs until the guard is dropped.
    #[cfg(test)]
    pub(super) fn hanging_disk(&self) -> Arc<parking_lot::Mutex<()>> {
        Arc::clone(&self.writer.hang)
    }

    /// The leader as far as this coordinator knows, by the membership.
    pub(super) fn leader_of(metrics: &RaftMetrics) -> Option<(RaftId, RaftNode)> {
        let leader = metrics.current_leader?;
        let node = metrics.membership_config.membership().get_node(&leader)?;
        Some((leader, node.clone()))
    }

    /// For the status details of a refusal.
    pub(super) fn not_leader(&self) -> Status {
        let leader = Self::leader_of(&self.raft.metrics().borrow());
        cairn_proto::refusal::not_leader(match leader {
            // A leader that refuses because it is not established yet sends the
            // caller nowhere else.
            Some((id, node)) if id != self.id() => pb::NotLeader {
                leader: id,
                peer_address: node.peer,
                client_address: node.client,
            },
            _ => pb::NotLeader::default(),
        })
    }

    /// Answers a call of another coordinator.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: pb::RaftRequest,
    ) -> Result<pb::RaftReply, Status> {
        if request.format > cairn_proto::FORMAT {
            return Err(Status::failed_precondition(format!(
                "the message has format {}, and this coordinator understands up to {}",
                request.format,
                cairn_proto::FORMAT
            )));
        }
        let payload = match request.kind() {
            Kind::Unspecified => return Err(Status::invalid_argument("unknown kind of call")),
            Kind::Identify => {
                let reply = self.introduced(parse(&request.payload)?).await?;
                unparse(&reply)?
            }
            Kind::Append => {
                let _passing = self.pass(&request).await?;
                let question = parse(&request.payload)?;
                self.elections.reached()?;
                let answer = self.raft.append_entries(question).await;
                if let Ok(answer) = &answer {
                    self.elections.heard(answer);
                }
                unparse(&answer)?
            }
            Kind::Vote => {
                let _passing = self.pass(&request).await?;
                unparse(&self.raft.vote(parse(&request.payload)?).await)?
            }
            Kind::Snapshot => {
                let _passing = self.pass(&request).await?;
                unparse(&self.raft.install_snapshot(parse(&request.payload)?).await)?
            }
        };
        Ok(pb::RaftReply {
            payload: payload.into(),
        })
    }

    /// Lets a message through to Raft if it is for this identity and this cluster. A
    /// disk that belongs to no cluster yet adopts the one of the first message that
    /// names its Raft id: nobody else knows that id.
    async fn pass(
        &self,
        request: &pb::RaftRequest,
    ) -> Result<tokio::sync::RwLockReadGuard<'_, ()>, Status> {
        if request.to != self.id() {
            return Err(Status::not_found(format!(
                "the message is for Raft id {}, and the disk of coordinator `{}` is {}",
                request.to,
                self.identity.name,
                self.id()
            )));
        }
        if request.cluster_id.is_empty() {
            return Err(Status::invalid_argument("the message names no cluster"));
        }
        if self.cluster.get().is_empty() {
            self.adopt(&request.cluster_id)
                .await
                .map_err(|e| Status::unavailable(e.to_string()))?;
        }
        let passing = self.gate.read().await;
        let ours = self.cluster.get();
        if request.cluster_id != ours {
            return Err(Status::failed_precondition(format!(
                "the message is of cluster {}, and this disk belongs to {ours}",
                request.cluster_id
            )));
        }
        Ok(passing)
    }

    async fn introduced(
        self: &Arc<Self>,
        introduction: Introduction,
    ) -> Result<IntroductionReply, Status> {
        let unavailable = |e: AdoptError| Status::unavailable(e.to_string());
        Ok(match introduction {
            Introduction::Who => IntroductionReply::Card(self.card().await.map_err(unavailable)?),
            Introduction::Prepare { cluster_id } => match self.adopt(&cluster_id).await {
                Ok(()) => {
                    let card = self.card().await.map_err(unavailable)?;
                    // Adopted before, and since then the group was made.
                    if card.has_log {
                        IntroductionReply::NotEmpty(card)
                    } else {
                        IntroductionReply::Card(card)
                    }
                }
                Err(AdoptError::NotEmpty) => {
                    IntroductionReply::NotEmpty(self.card().await.map_err(unavailable)?)
                }
                Err(error) => return Err(unavailable(error)),
            },
            Introduction::Join(card) => IntroductionReply::Join(self.take_in(card).await),
        })
    }
}

fn parse<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(payload)
        .map_err(|e| Status::invalid_argument(format!("the payload does not parse: {e}")))
}

fn unparse<T: Serialize>(answer: &T) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(answer).map_err(|e| Status::internal(e.to_string()))
}
