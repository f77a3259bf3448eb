//! How a coordinator's disk comes to be a voter: by the bootstrap of a new group,
//! or by a membership change of one that exists (see [`super::group`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::pb::coordinator::v1::raft_request::Kind;
use futures::future::join_all;
use openraft::ChangeMembers;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::group::{AdoptError, Card, Group, Introduction, IntroductionReply};
use super::network::{CallError, Caller};
use super::raft::{RaftId, RaftMetrics, RaftNode};

/// How long another coordinator may take to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a membership change may take before the caller hears that it is busy.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before the others are asked again.
const RETRY: Duration = Duration::from_millis(200);
/// After how many rounds without success it is said in the log once more.
const SAY_EVERY: u32 = 25;

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

impl Group {
    /// Works until this coordinator is a voter of the one group, or Raft stopped.
    pub(super) async fn settle(self: Arc<Self>) {
        let mut round = 0u32;
        loop {
            if is_settled_voter(&self.raft.metrics().borrow(), self.id()) {
                return;
            }
            if let Err(obstacle) = self.settle_once().await
                && round.is_multiple_of(SAY_EVERY)
            {
                tracing::info!(%obstacle, "not a member of the coordinators' group yet");
            }
            round = round.wrapping_add(1);
            sleep(RETRY).await;
        }
    }

    /// One try. The error says what stands in the way.
    async fn settle_once(&self) -> Result<(), String> {
        let stopped = |e: AdoptError| e.to_string();
        let own = self.card().await.map_err(stopped)?;
        let others = self.ask_others().await;
        let begun: Vec<&Card> = others
            .iter()
            .filter_map(|(_, card)| card.as_ref().ok())
            .filter(|card| card.has_log)
            .collect();
        let made: Vec<&Card> = begun
            .iter()
            .copied()
            .filter(|card| may_follow(&own, card))
            .collect();
        if !made.is_empty() {
            return self.ask_in(&own, &made).await;
        }
        if let Some(card) = begun.first() {
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
            .filter_map(|(name, card)| card.as_ref().err().map(|e| format!("{name} ({e})")))
            .collect();
        if !silent.is_empty() {
            return Err(format!(
                "the group is made once all coordinators are there; no answer from {}",
                silent.join(", ")
            ));
        }
        match self.addresses.first_key_value() {
            Some((first, _)) if *first == own.name => self.initialise(own).await,
            Some((first, _)) => Err(format!("waiting for `{first}` to make the group")),
            None => Err("no coordinator is configured".to_owned()),
        }
    }

    /// Asks every other configured coordinator who it is.
    pub(super) async fn ask_others(&self) -> Vec<(String, Result<Card, String>)> {
        let asked = self
            .addresses
            .values()
            .filter(|a| a.name != self.identity.name)
            .map(|address| async {
                let reply = self.introduce(&address.peer, &Introduction::Who).await;
                let card = match reply {
                    Ok(IntroductionReply::Card(card)) if card.name == address.name => Ok(card),
                    Ok(IntroductionReply::Card(card)) => {
                        Err(format!("{} answers as `{}`", address.peer, card.name))
                    }
                    Ok(_) => Err("an answer to another question".to_owned()),
                    Err(error) => Err(error.to_string()),
                };
                (address.name.clone(), card)
            });
        join_all(asked).await
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
        for address in self.addresses.values() {
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
        if members.len() != self.addresses.len() {
            return Err("two coordinators answered with one Raft id".to_owned());
        }
        tracing::info!(?members, "making the coordinators' group");
        self.raft
            .initialize(members)
            .await
            .map_err(|e| format!("initialise Raft: {e}"))
    }

    /// Asks those who have a log to be taken in.
    async fn ask_in(&self, own: &Card, made: &[&Card]) -> Result<(), String> {
        let cluster_id = &made[0].cluster_id;
        if let Some(other) = made.iter().find(|card| card.cluster_id != *cluster_id) {
            return Err(format!(
                "`{}` belongs to cluster {cluster_id} and `{}` to {}: the configuration \
                 mixes two clusters",
                made[0].name, other.name, other.cluster_id
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
        for card in made {
            let peer = self
                .addresses
                .get(&card.name)
                .map_or(card.peer.as_str(), |a| a.peer.as_str());
            match self.introduce(peer, &Introduction::Join(own.clone())).await {
                Ok(IntroductionReply::Join(JoinReply::Joined)) => return Ok(()),
                Ok(IntroductionReply::Join(JoinReply::NotLeader)) => {}
                Ok(IntroductionReply::Join(JoinReply::Busy(why) | JoinReply::Refused(why))) => {
                    heard.push(format!("`{}`: {why}", card.name));
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
    /// that had its name before.
    pub(super) async fn take_in(&self, card: Card) -> JoinReply {
        // One at a time, and whoever waits longer asks again.
        let Ok(_joining) = timeout(CHANGE_TIMEOUT, self.joining.lock()).await else {
            return JoinReply::Busy("another coordinator is being taken in".to_owned());
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
        if is_settled_voter(&metrics, card.raft_id) {
            return JoinReply::Joined;
        }
        let Some(address) = self.addresses.get(&card.name) else {
            return JoinReply::Refused(format!(
                "`{}` is not among the coordinators that the leader is configured with",
                card.name
            ));
        };
        // Whoever answers at the configured address is the living identity of the
        // name. Only that one is taken in, and only then is the old one known to be
        // gone from there.
        match self.introduce(&address.peer, &Introduction::Who).await {
            Ok(IntroductionReply::Card(living)) if living.raft_id == card.raft_id => {}
            Ok(_) => {
                return JoinReply::Refused(format!(
                    "another disk answers for `{}` at {}",
                    card.name, address.peer
                ));
            }
            Err(error) => {
                return JoinReply::Busy(format!(
                    "`{}` does not answer at {}: {error}",
                    card.name, address.peer
                ));
            }
        }
        match self.replace(card, &address.peer, &metrics).await {
            Ok(()) => JoinReply::Joined,
            Err(why) => JoinReply::Busy(why),
        }
    }

    /// The membership change itself: learner, then a joint configuration, then the
    /// new one. Safe to repeat from wherever an earlier try stopped.
    async fn replace(&self, card: &Card, peer: &str, metrics: &RaftMetrics) -> Result<(), String> {
        let node = RaftNode {
            name: card.name.clone(),
            peer: peer.to_owned(),
            client: card.client.clone(),
        };
        tracing::info!(
            name = card.name,
            id = card.raft_id,
            "taking in a coordinator's disk"
        );
        self.raft
            .add_learner(card.raft_id, node, true)
            .await
            .map_err(|e| format!("add the learner: {e}"))?;
        let membership = metrics.membership_config.membership();
        let named: BTreeSet<RaftId> = membership
            .nodes()
            .filter(|(id, node)| node.name == card.name && **id != card.raft_id)
            .map(|(id, _)| *id)
            .collect();
        let voters: BTreeSet<RaftId> = membership
            .voter_ids()
            .filter(|id| !named.contains(id))
            .chain([card.raft_id])
            .collect();
        self.raft
            .change_membership(voters, false)
            .await
            .map_err(|e| format!("change the voters: {e}"))?;
        // Learners of the name that never became voters.
        let left: BTreeSet<RaftId> = self
            .raft
            .metrics()
            .borrow()
            .membership_config
            .membership()
            .nodes()
            .map(|(id, _)| *id)
            .filter(|id| named.contains(id))
            .collect();
        if !left.is_empty() {
            self.raft
                .change_membership(ChangeMembers::RemoveNodes(left), false)
                .await
                .map_err(|e| format!("remove old learners: {e}"))?;
        }
        Ok(())
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
        let card: Card = serde_json::from_value(json).unwrap();
        assert!(!card.committed && !card.hears_leader);
    }
}
