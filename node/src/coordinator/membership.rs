//! Changes of the coordinators' group that a person or the operator asks for, and what
//! its leader keeps in order meanwhile.
//!
//! A change goes on by itself once it has begun: learners get the log, then the voters
//! change by way of a joint configuration. What a leader that lost its place leaves
//! half-way, the next one finishes where the voters were changing already; before that
//! a learner presents itself to the next leader. So asking twice does no harm.
//!
//! What is refused: more than five voters, a name that a living disk has, a second
//! change at a time, and whatever would leave too few voters that answer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_core::cluster::Command;
use cairn_core::record::CoordinatorInfo;
use cairn_proto::pb::coordinator::v1 as pb;
use futures::future::join_all;
use openraft::ChangeMembers;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{sleep, timeout};
use tonic::Status;

use super::config::{COORDINATORS_MAX, CoordinatorAddress};
use super::group::{Card, Group};
use super::join::ASK_TIMEOUT;
use super::leader::Reign;
use super::raft::{RaftId, RaftMetrics, RaftNode};
use super::service::Office;

/// How often the leader looks after the group.
const LOOK: Duration = Duration::from_millis(200);

/// How far a change of the group is, for people.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    /// What was asked for.
    what: String,
    /// What is being done for it; empty once it has ended.
    step: String,
    /// Why it came to nothing, if it did.
    failed: Option<String>,
}

/// The last change that this coordinator worked on as leader.
#[derive(Clone, Debug, Default)]
pub(super) struct Changing(Arc<Mutex<Option<Progress>>>);

impl Changing {
    pub(super) fn progress(&self) -> Option<Progress> {
        self.0.lock().clone()
    }

    fn begin(&self, what: &str) {
        *self.0.lock() = Some(Progress {
            what: what.to_owned(),
            step: "it begins".to_owned(),
            failed: None,
        });
    }

    fn step(&self, step: String) {
        tracing::info!(step, "the coordinators' group changes");
        if let Some(progress) = self.0.lock().as_mut() {
            progress.step = step;
        }
    }

    fn end(&self, outcome: Result<(), String>) {
        if let Some(progress) = self.0.lock().as_mut() {
            progress.step.clear();
            progress.failed = outcome.err();
        }
    }
}

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wanted {
    add: Vec<CoordinatorAddress>,
    remove: BTreeSet<String>,
}

impl TryFrom<pb::ChangeCoordinators> for Wanted {
    type Error = Status;

    fn try_from(change: pb::ChangeCoordinators) -> Result<Self, Status> {
        let pb::ChangeCoordinators { add, remove } = change;
        if add.len() > COORDINATORS_MAX || remove.len() > COORDINATORS_MAX {
            return Err(Status::invalid_argument(format!(
                "a group has at most {COORDINATORS_MAX} coordinators"
            )));
        }
        let mut wanted = Self {
            add: Vec::new(),
            remove: remove.into_iter().collect(),
        };
        for pb::CoordinatorAt { name, peer } in add {
            let address: CoordinatorAddress = format!("{name}={peer}")
                .parse()
                .map_err(|e| Status::invalid_argument(format!("{e}")))?;
            let twice = wanted.add.iter().any(|a| a.name == address.name);
            if twice || wanted.remove.contains(&address.name) {
                return Err(Status::invalid_argument(format!(
                    "`{}` is named twice",
                    address.name
                )));
            }
            wanted.add.push(address);
        }
        if wanted.add.is_empty() && wanted.remove.is_empty() {
            return Err(Status::invalid_argument("no coordinator is named"));
        }
        Ok(wanted)
    }
}

impl Wanted {
    fn describe(&self) -> String {
        let mut parts = Vec::new();
        if !self.add.is_empty() {
            let names: Vec<_> = self.add.iter().map(|a| format!("`{}`", a.name)).collect();
            parts.push(format!("add {}", names.join(", ")));
        }
        if !self.remove.is_empty() {
            let names: Vec<_> = self.remove.iter().map(|n| format!("`{n}`")).collect();
            parts.push(format!("remove {}", names.join(", ")));
        }
        parts.join(" and ")
    }
}

/// What is to be done.
#[derive(Debug)]
struct Plan {
    added: Vec<(RaftId, RaftNode)>,
    dropped: BTreeSet<RaftId>,
    voters: BTreeSet<RaftId>,
}

/// A refusal that may be another one later.
fn refuse(why: impl Into<String>) -> Status {
    Status::failed_precondition(why)
}

impl Office {
    /// Begins a change of the group, in words. It goes on by itself.
    pub(super) async fn change_coordinators(
        &self,
        change: pb::ChangeCoordinators,
    ) -> Result<pb::ChangeReply, Status> {
        let said = |message: String| pb::ChangeReply {
            message,
            warnings: Vec::new(),
        };
        let reign = self.reign()?;
        let wanted = Wanted::try_from(change)?;
        let what = wanted.describe();
        let Ok(alone) = Arc::clone(&self.group.joining).try_lock_owned() else {
            let under_way = self.changing.progress();
            return match under_way.filter(|progress| !progress.step.is_empty()) {
                Some(progress) if progress.what == what => {
                    Ok(said(format!("under way already: {}", progress.step)))
                }
                Some(progress) => Err(refuse(format!(
                    "another change is under way, to {}: {}",
                    progress.what, progress.step
                ))),
                None => Err(Status::unavailable("a coordinator is being taken in")),
            };
        };
        let confirmed = timeout(ASK_TIMEOUT, self.group.raft.ensure_linearizable()).await;
        if !matches!(confirmed, Ok(Ok(_))) {
            return Err(self.group.not_leader());
        }
        let metrics = self.group.raft.metrics().borrow().clone();
        if metrics
            .membership_config
            .membership()
            .get_joint_config()
            .len()
            > 1
        {
            return Err(Status::unavailable(
                "an earlier change of the group is being finished",
            ));
        }
        let Some(plan) = self.plan(&wanted, &metrics).await? else {
            return Ok(said("it already is as asked".to_owned()));
        };
        let count = plan.voters.len();
        self.changing.begin(&what);
        tokio::spawn(self.clone().carry_out(plan, reign, alone));
        let message = format!("begun to {what}; the group will have {count} coordinators");
        let mut reply = said(message);
        if count.is_multiple_of(2) {
            reply.warnings.push(format!(
                "{count} coordinators survive no more losses than {}: an even number is for \
                 passing through only",
                count - 1
            ));
        }
        Ok(reply)
    }

    async fn carry_out(self, plan: Plan, reign: Reign, _alone: OwnedMutexGuard<()>) {
        let (group, changing) = (&self.group, &self.changing);
        let step = |step| changing.step(step);
        // What a leader that lost its place still waits for may never come, and would keep
        // the disk open.
        let outcome = tokio::select! {
            outcome = group.change_voters(&plan.added, &plan.dropped, step) => outcome,
            () = reign.over.cancelled() => Err("this coordinator leads no longer".to_owned()),
        };
        if let Err(why) = &outcome
            && !reign.over.is_cancelled()
        {
            tracing::warn!(why, "the change of the coordinators' group came to nothing");
            // What did not become a voter is nobody.
            let added = plan.added.iter().map(|(id, _)| *id).collect();
            let dropped = tokio::select! {
                dropped = group.drop_learners(&added) => dropped,
                () = reign.over.cancelled() => Ok(()),
            };
            if let Err(error) = dropped {
                tracing::warn!(error, "drop the learners of a change that failed");
            }
        }
        changing.end(outcome);
    }

    /// What is to be done; nothing where all is as asked.
    async fn plan(&self, wanted: &Wanted, metrics: &RaftMetrics) -> Result<Option<Plan>, Status> {
        let membership = metrics.membership_config.membership();
        let nodes: BTreeMap<RaftId, RaftNode> = membership
            .nodes()
            .map(|(id, node)| (*id, node.clone()))
            .collect();
        let before: BTreeSet<RaftId> = membership.voter_ids().collect();
        let mut plan = Plan {
            added: Vec::new(),
            dropped: BTreeSet::new(),
            voters: before.clone(),
        };
        let mut answered = BTreeSet::from([self.group.id()]);
        for address in &wanted.add {
            let card = self.newcomer(address, &nodes).await?;
            answered.insert(card.raft_id);
            let named = nodes
                .iter()
                .filter(|(id, node)| node.name == address.name && **id != card.raft_id);
            plan.dropped.extend(named.map(|(id, _)| *id));
            if before.contains(&card.raft_id) {
                continue;
            }
            let node = RaftNode {
                name: card.name,
                peer: card.peer,
                client: card.client,
            };
            plan.voters.insert(card.raft_id);
            plan.added.push((card.raft_id, node));
        }
        let removed = nodes
            .iter()
            .filter(|(_, node)| wanted.remove.contains(&node.name));
        plan.dropped.extend(removed.map(|(id, _)| *id));
        plan.voters.retain(|id| !plan.dropped.contains(id));
        if plan.added.is_empty() && plan.dropped.is_empty() {
            return Ok(None);
        }
        if plan.voters.is_empty() {
            return Err(refuse("the last coordinator cannot be removed"));
        }
        if plan.voters.len() > COORDINATORS_MAX && plan.voters.len() >= before.len() {
            return Err(refuse(format!(
                "a group has at most {COORDINATORS_MAX} coordinators, and this would make {}",
                plan.voters.len()
            )));
        }
        self.check_quorum(&plan, &nodes, answered).await?;
        Ok(Some(plan))
    }

    /// Meets a coordinator that is to be added.
    async fn newcomer(
        &self,
        address: &CoordinatorAddress,
        nodes: &BTreeMap<RaftId, RaftNode>,
    ) -> Result<Card, Status> {
        let CoordinatorAddress { name, peer } = address;
        let ours = self.group.cluster.get();
        let living =
            join_all(nodes.iter().filter(|(_, node)| node.name == *name).map(
                |(id, node)| async move { self.answers(*id, node).await.then_some((*id, node)) },
            ))
            .await;
        let living = living.into_iter().flatten().next();
        let met = self.group.who(peer).await;
        let card = match (met, living) {
            (Ok(card), None) => card,
            (Ok(card), Some((id, _))) if card.raft_id == id => card,
            (_, Some((_, node))) => {
                return Err(refuse(format!(
                    "the name `{name}` is taken by a living coordinator at {}: remove that \
                     one first; if it is to move, start it with its new address",
                    node.peer
                )));
            }
            (Err(error), None) => {
                return Err(refuse(format!(
                    "`{name}` does not answer at {peer}: {error}; start it first, with a list \
                     of coordinators that names a present one"
                )));
            }
        };
        if card.name != *name {
            return Err(refuse(format!("{peer} answers as `{}`", card.name)));
        }
        if card.has_log && card.cluster_id != ours {
            return Err(refuse(format!(
                "the disk of `{name}` belongs to another group of coordinators, {}: empty it \
                 first",
                card.cluster_id
            )));
        }
        self.group.check_build(&card).map_err(refuse)?;
        // What the membership is to say of it has to lead there.
        if card.peer != *peer {
            let there = self.group.who(&card.peer).await;
            if !there.is_ok_and(|there| there.raft_id == card.raft_id) {
                return Err(refuse(format!(
                    "`{name}` is configured to be at {}, and does not answer there",
                    card.peer
                )));
            }
        }
        Ok(card)
    }

    /// Whether the disk answers at one of its addresses.
    async fn answers(&self, id: RaftId, node: &RaftNode) -> bool {
        let addresses = self.group.addresses.of(id, node);
        let asked = addresses.iter().map(|address| self.group.who(address));
        let mut cards = join_all(asked).await.into_iter().flatten();
        cards.any(|card| card.raft_id == id)
    }

    /// Refuses where too few of the voters that would be left answer.
    async fn check_quorum(
        &self,
        plan: &Plan,
        nodes: &BTreeMap<RaftId, RaftNode>,
        mut answered: BTreeSet<RaftId>,
    ) -> Result<(), Status> {
        let unknown = plan.voters.difference(&answered).copied();
        let asked = unknown.filter_map(|id| nodes.get(&id).map(|node| (id, node)));
        let asked = asked.map(|(id, node)| async move { (id, self.answers(id, node).await) });
        for (id, answers) in join_all(asked).await {
            if answers {
                answered.insert(id);
            }
        }
        let silent: Vec<String> = plan
            .voters
            .difference(&answered)
            .filter_map(|id| Some(format!("`{}`", nodes.get(id)?.name)))
            .collect();
        let alive = plan.voters.len() - silent.len();
        if alive * 2 > plan.voters.len() {
            return Ok(());
        }
        Err(refuse(format!(
            "of the {} coordinators that there would be, {} would be without an answer: {}; \
             bring them back, or remove them first",
            plan.voters.len(),
            silent.len(),
            silent.join(", ")
        )))
    }

    /// As leader, for as long as the process runs: finishes what an earlier leader began,
    /// and notes in the cluster's state who the coordinators are.
    pub(super) async fn keep_membership(self) {
        loop {
            if self.desk.reign().is_some() {
                self.finish_joint().await;
                self.note_coordinators().await;
            }
            sleep(LOOK).await;
        }
    }

    async fn finish_joint(&self) {
        let group: &Group = &self.group;
        let Ok(_alone) = group.joining.try_lock() else {
            return;
        };
        let membership = Arc::clone(&group.raft.metrics().borrow().membership_config);
        let [_, voters] = membership.membership().get_joint_config().as_slice() else {
            return;
        };
        tracing::info!(?voters, "finishing a change of the coordinators' group");
        let change = ChangeMembers::ReplaceAllVoters(voters.clone());
        if let Err(error) = group.raft.change_membership(change, false).await {
            tracing::debug!(%error, "finish a change of the coordinators' group");
        }
    }

    async fn note_coordinators(&self) {
        let coordinators = {
            let metrics = self.group.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let committed = metrics.last_applied >= *metrics.membership_config.log_id();
            if !committed || membership.get_joint_config().len() != 1 {
                return;
            }
            let nodes = membership
                .voter_ids()
                .filter_map(|id| membership.get_node(&id));
            let mut all: Vec<CoordinatorInfo> = nodes
                .map(|node| CoordinatorInfo {
                    name: node.name.clone(),
                    peer: node.peer.clone(),
                    client: node.client.clone(),
                })
                .collect();
            all.sort();
            all
        };
        if self.view.borrow().state.coordinators() == coordinators {
            return;
        }
        let command = Command::NoteCoordinators { coordinators };
        if let Err(status) = self.propose(command).await {
            tracing::debug!(%status, "note who the coordinators are");
        }
    }
}
