//! How a coordinator's disk comes to be a voter, and stays one: by the bootstrap of a
//! new group, or by a membership change of one that exists (see [`super::group`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::features;
use cairn_proto::pb::coordinator::v1::raft_request::Kind;
use futures::future::join_all;
use openraft::ChangeMembers;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::config::COORDINATORS_MAX;
use super::group::{AdoptError, Card, Group, Introduction, IntroductionReply};
use super::network::{CallError, Caller};
use super::raft::{RaftId, RaftMetrics, RaftNode};

/// How long another coordinator may take to say who it is.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a membership change may take before the caller hears that it is busy.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before the others are asked again.
const RETRY: Duration = Duration::from_millis(200);
/// After how many rounds without success it is said in the log once more.
const SAY_EVERY: u32 = 25;
/// After how many rounds one that is settled asks whether its group was given up.
const ASK_EVERY: u32 = 25;
/// How long a newcomer may take to have the log.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// How far behind the leader's log a newcomer counts as having it.
const CAUGHT_UP: u64 = 64;

/// The leader's answer to a coordinator that wants to be taken in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum JoinReply {
    /// It is a voter.
    Joined,
    /// This is not the leader.
    NotLeader,
    /// Not now; the reason is for the log.
    Busy(String),
    /// Not this one, until something is done about it.
    Refused(String),
    /// Nobody of that name belongs to the group: it was never added, or was removed.
    Unlisted,
}

/// Whether the id is a voter and no change of the membership is under way.
pub(super) fn is_settled_voter(metrics: &RaftMetrics, id: RaftId) -> bool {
    let membership = metrics.membership_config.membership();
    membership.get_joint_config().len() == 1 && membership.voter_ids().any(|voter| voter == id)
}

/// Whether a coordinator may go to the cluster of one that has a log.
///
/// A disk that was prepared for a cluster may be counted on by its initialiser, and
/// one that has a log may itself be no more than an initialiser for whom nobody has
/// voted: were the disk to go back to that one, it could vote for both, and two
/// clusters come of one bootstrap. Once something is committed there, the other
/// initialiser can no longer have prepared everybody with an empty log.
fn may_follow(own: &Card, other: &Card) -> bool {
    own.cluster_id.is_empty() || own.cluster_id == other.cluster_id || other.committed
}

/// The group that this disk belongs to was given up: the id of the one that a person
/// went on with.
#[derive(Debug)]
pub(super) struct Superseded(pub(super) String);

/// What another coordinator answered, and where.
pub(super) struct Met {
    pub(super) name: String,
    pub(super) answer: Result<(String, Card), String>,
}

impl Group {
    /// Works until this coordinator is a voter of the one group, under the address that
    /// it is configured with, and sees to it that it stays one. Ends where the group was
    /// given up.
    pub(super) async fn settle(self: Arc<Self>) -> Superseded {
        let mut round = 0u32;
        loop {
            let settled = self.is_settled();
            if settled {
                self.set_out(false);
            }
            if !settled || round.is_multiple_of(ASK_EVERY) {
                let others = self.ask_others().await;
                if let Some(by) = self.superseding(&others) {
                    if let Err(error) = self.set_superseded(&by).await {
                        tracing::error!(%error, "note that the group was given up");
                    }
                    return Superseded(by);
                }
                if !settled
                    && let Err(obstacle) = self.settle_once(others).await
                    && round.is_multiple_of(SAY_EVERY)
                {
                    self.say(&obstacle);
                }
            }
            round = round.wrapping_add(1);
            sleep(RETRY).await;
        }
    }

    fn say(&self, obstacle: &str) {
        if self.is_out() {
            tracing::warn!(
                name = self.identity.name,
                peer = self.node().peer,
                "this coordinator was removed from the group and takes part in nothing; stop it,                  or take it in again with `cairn coordinators add`"
            );
        } else if is_settled_voter(&self.raft.metrics().borrow(), self.id()) {
            tracing::info!(obstacle, "no leader of the coordinators is heard");
        } else {
            tracing::info!(obstacle, "not a member of the coordinators' group yet");
        }
    }

    /// Whether this is a voter that hears its leader, and listed as it is.
    pub(super) fn is_settled(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = metrics.membership_config.membership();
        is_settled_voter(&metrics, self.id())
            && membership.get_node(&self.id()) == Some(&self.node())
            && self.hears_leader_by(&metrics)
    }

    /// The group that took the place of this disk's, if any of the others knows of one.
    fn superseding(&self, others: &[Met]) -> Option<String> {
        if self.log().is_empty() {
            // Nothing is forgotten where nothing was known: it goes to that group.
            return None;
        }
        let own = self.cluster.get();
        let cards = others.iter().filter_map(|met| met.answer.as_ref().ok());
        let mut over = cards.filter(|(_, card)| card.former_groups.contains(&own));
        over.next().map(|(_, card)| card.cluster_id.clone())
    }

    /// One try. The error says what stands in the way.
    async fn settle_once(&self, others: Vec<Met>) -> Result<(), String> {
        let stopped = |e: AdoptError| e.to_string();
        let own = self.card().await.map_err(stopped)?;
        // A leader that was removed takes itself for one until it hears of another, and
        // nobody speaks to it: it asks the others as anyone does.
        let leads = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let mut voters = metrics.membership_config.membership().voter_ids();
            metrics.current_leader == Some(self.id()) && voters.any(|voter| voter == self.id())
        };
        if leads {
            return match self.take_in(own).await {
                JoinReply::Joined | JoinReply::NotLeader => Ok(()),
                JoinReply::Busy(why) | JoinReply::Refused(why) => Err(why),
                JoinReply::Unlisted => Err("this leader leaves the group".to_owned()),
            };
        }
        let begun: Vec<&(String, Card)> = others
            .iter()
            .filter_map(|met| met.answer.as_ref().ok())
            .filter(|(_, card)| card.has_log)
            .collect();
        let made: Vec<&(String, Card)> = begun
            .iter()
            .copied()
            .filter(|(_, card)| may_follow(&own, card))
            .collect();
        if !made.is_empty() {
            return self.ask_in(&own, &made).await;
        }
        if let Some((_, card)) = begun.first() {
            return Err(format!(
                "this disk was prepared for cluster {}; `{}` has begun cluster {} and does not \
                 know yet whether it came about",
                own.cluster_id, card.name, card.cluster_id
            ));
        }
        if own.has_log {
            // An own log makes this the member of a group that exists, or the
            // initialiser of one that is coming up; where its membership does not
            // list this disk, somebody who knows better has to be heard first.
            return Err("waiting for another coordinator that knows the group".to_owned());
        }
        let silent: Vec<String> = others
            .iter()
            .filter_map(|met| Some(format!("{} ({})", met.name, met.answer.as_ref().err()?)))
            .collect();
        if !silent.is_empty() {
            return Err(format!(
                "the group is made once all coordinators are there; no answer from {}",
                silent.join(", ")
            ));
        }
        match self.addresses.configured().first_key_value() {
            Some((first, _)) if *first == own.name => self.initialise(own).await,
            Some((first, _)) => Err(format!("waiting for `{first}` to make the group")),
            None => Err("no coordinator is configured".to_owned()),
        }
    }

    /// Asks every other coordinator, configured or a member, who it is.
    pub(super) async fn ask_others(&self) -> Vec<Met> {
        let others = self.addresses.by_name(&self.identity.name);
        let asked = others.into_iter().map(|(name, addresses)| async move {
            let mut answer = Err("no address".to_owned());
            for address in addresses {
                answer = match self.who(&address).await {
                    Ok(card) if card.name == name => Ok((address, card)),
                    Ok(card) => Err(format!("{address} answers as `{}`", card.name)),
                    Err(error) => Err(error),
                };
                if answer.is_ok() {
                    break;
                }
            }
            Met { name, answer }
        });
        join_all(asked).await
    }

    /// Asks who answers at an address.
    pub(super) async fn who(&self, address: &str) -> Result<Card, String> {
        match self.introduce(address, &Introduction::Who).await {
            Ok(IntroductionReply::Card(card)) => Ok(card),
            Ok(_) => Err("an answer to another question".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn introduce(
        &self,
        peer: &str,
        introduction: &Introduction,
    ) -> Result<IntroductionReply, CallError> {
        let within = match introduction {
            Introduction::Join(_) => CHANGE_TIMEOUT * 2,
            Introduction::Who | Introduction::Prepare { .. } => ASK_TIMEOUT,
        };
        Caller::new(&self.dialer, peer)
            .call(
                Kind::Identify,
                self.cluster.get(),
                self.id(),
                0,
                introduction,
                within,
            )
            .await
    }

    /// Makes the group: everybody answered, and nobody has a log.
    async fn initialise(&self, own: Card) -> Result<(), String> {
        let cluster_id = if own.cluster_id.is_empty() {
            Uuid::new_v4().to_string()
        } else {
            own.cluster_id
        };
        self.adopt(&cluster_id).await.map_err(|e| e.to_string())?;
        let mut members = std::collections::BTreeMap::from([(self.id(), self.node())]);
        let prepare = Introduction::Prepare { cluster_id };
        let configured = self.addresses.configured();
        for address in configured.values() {
            if address.name == self.identity.name {
                continue;
            }
            match self.introduce(&address.peer, &prepare).await {
                Ok(IntroductionReply::Card(card)) if card.name == address.name => {
                    let node = RaftNode {
                        name: card.name,
                        peer: address.peer.clone(),
                        client: card.client,
                    };
                    members.insert(card.raft_id, node);
                }
                Ok(_) => return Err(format!("`{}` cannot be prepared", address.name)),
                Err(error) => return Err(format!("prepare `{}`: {error}", address.name)),
            }
        }
        if members.len() != configured.len() {
            return Err("two coordinators answered with one Raft id".to_owned());
        }
        tracing::info!(?members, "making the coordinators' group");
        self.raft
            .initialize(members)
            .await
            .map_err(|e| format!("initialise Raft: {e}"))
    }

    /// Asks those who have a log to be taken in.
    async fn ask_in(&self, own: &Card, made: &[&(String, Card)]) -> Result<(), String> {
        let (_, first) = made[0];
        let cluster_id = &first.cluster_id;
        if let Some((_, other)) = made.iter().find(|(_, card)| card.cluster_id != *cluster_id) {
            return Err(format!(
                "`{}` belongs to cluster {cluster_id} and `{}` to {}: the configuration \
                 mixes two clusters",
                first.name, other.name, other.cluster_id
            ));
        }
        self.adopt(cluster_id).await.map_err(|e| match e {
            AdoptError::NotEmpty => format!(
                "this disk belongs to cluster {} and the others to {cluster_id}",
                own.cluster_id
            ),
            other => other.to_string(),
        })?;
        let own = self.card().await.map_err(|e| e.to_string())?;
        let mut heard = Vec::new();
        for (address, card) in made {
            match self
                .introduce(address, &Introduction::Join(own.clone()))
                .await
            {
                Ok(IntroductionReply::Join(JoinReply::Joined)) => {
                    self.set_out(false);
                    self.set_unlisted(false);
                    return Ok(());
                }
                Ok(IntroductionReply::Join(JoinReply::NotLeader)) => {}
                Ok(IntroductionReply::Join(JoinReply::Busy(why) | JoinReply::Refused(why))) => {
                    heard.push(format!("`{}`: {why}", card.name));
                }
                Ok(IntroductionReply::Join(JoinReply::Unlisted)) => {
                    self.set_out(own.has_log);
                    self.set_unlisted(true);
                    heard.push(format!(
                        "`{}`, which leads, knows no member of this name: take this one in with \
                         `cairn coordinators add {}={}`",
                        card.name, own.name, own.peer
                    ));
                }
                Ok(_) => heard.push(format!("`{}` answered something else", card.name)),
                Err(error) => heard.push(format!("`{}`: {error}", card.name)),
            }
        }
        if heard.is_empty() {
            heard.push("no leader among the others just now".to_owned());
        }
        Err(heard.join("; "))
    }

    /// As leader: makes the disk that presents itself a voter in place of the one
    /// that had its name before, or notes where it is by now.
    pub(super) async fn take_in(&self, card: Card) -> JoinReply {
        // One at a time, and whoever waits longer asks again.
        let Ok(_joining) = timeout(CHANGE_TIMEOUT, self.joining.lock()).await else {
            return JoinReply::Busy("another change of the group is under way".to_owned());
        };
        match timeout(CHANGE_TIMEOUT, self.take_in_alone(&card)).await {
            Ok(reply) => reply,
            Err(_) => JoinReply::Busy("the membership change takes long".to_owned()),
        }
    }

    async fn take_in_alone(&self, card: &Card) -> JoinReply {
        if self.raft.ensure_linearizable().await.is_err() {
            return JoinReply::NotLeader;
        }
        if card.cluster_id != self.cluster.get() {
            return JoinReply::Refused("it belongs to another cluster".to_owned());
        }
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let node = RaftNode {
            name: card.name.clone(),
            peer: card.peer.clone(),
            client: card.client.clone(),
        };
        let known = membership.get_node(&card.raft_id);
        if is_settled_voter(&metrics, card.raft_id) && known == Some(&node) {
            return JoinReply::Joined;
        }
        let named: BTreeSet<RaftId> = membership
            .nodes()
            .filter(|(id, node)| node.name == card.name && **id != card.raft_id)
            .map(|(id, _)| *id)
            .collect();
        if known.is_none() && named.is_empty() {
            return JoinReply::Unlisted;
        }
        if let Err(why) = self.check_build(card) {
            return JoinReply::Refused(why);
        }
        if card.raft_id != self.id()
            && let Err(reply) = self.check_living(card, known.is_some(), &named).await
        {
            return reply;
        }
        let is_voter = membership.voter_ids().any(|voter| voter == card.raft_id);
        let changed = if is_voter {
            tracing::info!(name = card.name, peer = card.peer, "a coordinator moved");
            let nodes = [(card.raft_id, node)].into();
            let change = ChangeMembers::SetNodes(nodes);
            let changed = self.raft.change_membership(change, true).await;
            changed
                .map(|_| ())
                .map_err(|e| format!("note its address: {e}"))
        } else {
            let rest = membership.voter_ids().filter(|id| !named.contains(id));
            if rest.count() >= COORDINATORS_MAX {
                return JoinReply::Refused(format!("there are {COORDINATORS_MAX} already"));
            }
            let added = [(card.raft_id, node)];
            self.change_voters(&added, &named, |_| ()).await
        };
        match changed {
            Ok(()) => JoinReply::Joined,
            Err(why) => JoinReply::Busy(why),
        }
    }

    /// Refuses a build that could not read what the group's log and state hold.
    pub(super) fn check_build(&self, card: &Card) -> Result<(), String> {
        let unknown = self.state().features_in_use() & !card.features;
        if unknown == 0 {
            return Ok(());
        }
        Err(format!(
            "the build of `{}` does not understand {}, which the cluster uses: upgrade it first",
            card.name,
            features::names(unknown)
        ))
    }

    /// Whether the disk is the living identity of its name: whoever answers at the
    /// address of the name is. Only that one is taken in, and only then is the old one
    /// known to be gone from there.
    async fn check_living(
        &self,
        card: &Card,
        known: bool,
        named: &BTreeSet<RaftId>,
    ) -> Result<(), JoinReply> {
        // One that is known may have moved; an empty disk that appears elsewhere may be
        // a stranger under a name that is taken.
        let members = self.addresses.members();
        let listed = named
            .iter()
            .filter_map(|id| members.get(id).map(|node| (*id, node)))
            .flat_map(|(id, node)| self.addresses.of(id, node))
            .any(|address| address == card.peer);
        if !known && !listed {
            return Err(JoinReply::Refused(format!(
                "another disk had the name `{}`, elsewhere: take this one in with `cairn \
                 coordinators add {}={}`",
                card.name, card.name, card.peer
            )));
        }
        match self.who(&card.peer).await {
            Ok(living) if living.raft_id == card.raft_id => Ok(()),
            Ok(_) => Err(JoinReply::Refused(format!(
                "another disk answers for `{}` at {}",
                card.name, card.peer
            ))),
            Err(error) => Err(JoinReply::Busy(format!(
                "`{}` does not answer at {}: {error}",
                card.name, card.peer
            ))),
        }
    }

    /// The membership change itself: learners that get the log, then a joint
    /// configuration, then the new one. Safe to repeat from wherever an earlier try
    /// stopped. `step` hears what is being done.
    pub(super) async fn change_voters(
        &self,
        added: &[(RaftId, RaftNode)],
        dropped: &BTreeSet<RaftId>,
        step: impl Fn(String),
    ) -> Result<(), String> {
        for (id, node) in added {
            tracing::info!(name = node.name, id, "taking in a coordinator's disk");
            self.raft
                .add_learner(*id, node.clone(), false)
                .await
                .map_err(|e| format!("add the learner: {e}"))?;
        }
        for (id, node) in added {
            step(format!("`{}` is brought up to the log", node.name));
            self.caught_up(*id, &node.name).await?;
        }
        step("the voters are changed".to_owned());
        let membership = Arc::clone(&self.raft.metrics().borrow().membership_config);
        let voters: BTreeSet<RaftId> = membership
            .voter_ids()
            .filter(|id| !dropped.contains(id))
            .chain(added.iter().map(|(id, _)| *id))
            .collect();
        self.raft
            .change_membership(voters, false)
            .await
            .map_err(|e| format!("change the voters: {e}"))?;
        self.drop_learners(dropped).await
    }

    /// Removes those of the ids that are learners.
    pub(super) async fn drop_learners(&self, ids: &BTreeSet<RaftId>) -> Result<(), String> {
        let membership = Arc::clone(&self.raft.metrics().borrow().membership_config);
        let left: BTreeSet<RaftId> = membership
            .membership()
            .learner_ids()
            .filter(|id| ids.contains(id))
            .collect();
        if !left.is_empty() {
            self.raft
                .change_membership(ChangeMembers::RemoveNodes(left), false)
                .await
                .map_err(|e| format!("remove old learners: {e}"))?;
        }
        Ok(())
    }

    /// Waits until a learner has the log.
    async fn caught_up(&self, id: RaftId, name: &str) -> Result<(), String> {
        let mut metrics = self.raft.metrics();
        let has_log = metrics.wait_for(|metrics| {
            let matched = metrics.replication.as_ref().and_then(|all| *all.get(&id)?);
            let last = metrics.last_log_index.unwrap_or(0);
            matched.is_some_and(|matched| matched.index + CAUGHT_UP >= last)
                || metrics.replication.is_none()
        });
        match timeout(CATCH_UP_TIMEOUT, has_log).await {
            Ok(Ok(metrics)) if metrics.replication.is_some() => Ok(()),
            Ok(_) => Err("this coordinator leads no longer".to_owned()),
            Err(_) => Err(format!(
                "`{name}` did not get the log within {CATCH_UP_TIMEOUT:?}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(cluster_id: &str, has_log: bool, committed: bool) -> Card {
        Card {
            name: "a".to_owned(),
            raft_id: 1,
            cluster_id: cluster_id.to_owned(),
            has_log,
            committed,
            hears_leader: false,
            peer: String::new(),
            client: String::new(),
            membership: None,
            former_groups: Vec::new(),
            features: 0,
        }
    }

    #[test]
    fn a_prepared_disk_leaves_its_cluster_only_for_one_that_is_committed() {
        let prepared = card("y", false, false);
        assert!(!may_follow(&prepared, &card("x", true, false)));
        assert!(may_follow(&prepared, &card("x", true, true)));
        assert!(may_follow(&prepared, &card("y", true, false)));
        let fresh = card("", false, false);
        assert!(may_follow(&fresh, &card("x", true, false)));
    }

    #[test]
    fn the_card_of_an_older_build_vouches_for_nothing() {
        let mut json = serde_json::to_value(card("x", true, true)).unwrap();
        let fields = json.as_object_mut().unwrap();
        fields.remove("committed");
        fields.remove("hears_leader");
        fields.remove("membership");
        fields.remove("former_groups");
        fields.remove("features");
        let card: Card = serde_json::from_value(json).unwrap();
        assert!(!card.committed && !card.hears_leader);
    }
}
