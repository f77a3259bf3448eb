//! Who may stand for election: a question before the vote, beside Raft.
//!
//! openraft has no pre-vote. A coordinator whose link fails and heals would raise its
//! term while it is away, and on its return depose a leader that everybody else hears;
//! with each turn the data nodes' sessions end. So it stands only while a majority of
//! the voters, itself included, says that it hears no leader.
//!
//! This is about disturbance alone: votes, terms and leases remain Raft's own, and
//! nothing is lost where an answer is out of date.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::pb::coordinator::v1::raft_request::Kind;
use futures::stream::{FuturesUnordered, StreamExt as _};
use openraft::ServerState;
use openraft::raft::AppendEntriesResponse;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::group::{Group, Introduction, IntroductionReply};
use super::network::Caller;
use super::raft::{RaftId, RaftMetrics};

/// How many rounds of questions fit into one lease.
const ROUNDS_PER_LEASE: u32 = 8;

/// When the leader was heard of last.
#[derive(Debug)]
pub(super) struct Elections {
    /// For how long a follower refuses other candidates.
    lease: Duration,
    last_heard: Mutex<Option<Instant>>,
    /// How many rounds of questions did not end in leave to stand.
    #[cfg(test)]
    pub(super) refused: std::sync::atomic::AtomicU64,
    /// Whether what leaders say is lost on its way here.
    #[cfg(test)]
    pub(super) cut_off: std::sync::atomic::AtomicBool,
}

impl Elections {
    pub(super) fn new(lease: Duration) -> Self {
        Self {
            lease,
            last_heard: Mutex::new(None),
            #[cfg(test)]
            refused: std::sync::atomic::AtomicU64::new(0),
            #[cfg(test)]
            cut_off: std::sync::atomic::AtomicBool::new(false),
        }
    }

    /// What Raft answered to a leader. One that it refused as outdated is none.
    pub(super) fn heard(&self, answer: &AppendEntriesResponse<RaftId>) {
        match answer {
            AppendEntriesResponse::Success
            | AppendEntriesResponse::PartialSuccess(_)
            | AppendEntriesResponse::Conflict => *self.last_heard.lock() = Some(Instant::now()),
            AppendEntriesResponse::HigherVote(_) => {}
        }
    }

    /// Whether messages of leaders arrive; they always do outside of tests.
    #[allow(
        clippy::result_large_err,
        reason = "what the service that calls it returns"
    )]
    #[cfg_attr(not(test), allow(clippy::unused_self, clippy::unnecessary_wraps))]
    pub(super) fn reached(&self) -> Result<(), Status> {
        #[cfg(test)]
        if self.cut_off.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Status::unavailable("cut off"));
        }
        Ok(())
    }
}

impl Group {
    /// Whether this coordinator leads, or heard its leader within the lease.
    pub(super) fn hears_leader(&self) -> bool {
        let lease = self.elections.lease;
        let leads = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.state == ServerState::Leader
                && metrics
                    .millis_since_quorum_ack
                    .is_some_and(|ms| u128::from(ms) <= lease.as_millis())
        };
        leads
            || self
                .elections
                .last_heard
                .lock()
                .is_some_and(|at| at.elapsed() <= lease)
    }

    /// Lets Raft stand for election, or keeps it from it, for as long as it runs.
    pub(super) async fn guard_elections(self: Arc<Self>) {
        let mut callers = BTreeMap::new();
        loop {
            let may = self.may_stand(&mut callers).await;
            self.raft.runtime_config().elect(may);
            #[cfg(test)]
            self.elections.refused.fetch_add(
                u64::from(!may && !self.hears_leader()),
                std::sync::atomic::Ordering::Relaxed,
            );
            sleep(self.elections.lease / ROUNDS_PER_LEASE).await;
        }
    }

    /// Whether a majority of the voters hears no leader, in each set in force. Known
    /// as soon as enough of them said so: those that are dead are not waited for.
    async fn may_stand(&self, callers: &mut BTreeMap<String, Caller>) -> bool {
        if self.hears_leader() {
            return false;
        }
        let metrics = self.raft.metrics().borrow().clone();
        let mut leaderless = BTreeSet::from([self.id()]);
        if are_majority(&metrics, &leaderless) {
            return true;
        }
        let membership = metrics.membership_config.membership();
        for (id, node) in membership.nodes().filter(|(id, _)| **id != self.id()) {
            let address = self
                .addresses
                .get(&node.name)
                .map_or(node.peer.as_str(), |configured| configured.peer.as_str());
            if membership.voter_ids().any(|voter| voter == *id) && !callers.contains_key(address) {
                let caller = Caller::new(&self.dialer, address);
                callers.insert(address.to_owned(), caller);
            }
        }
        let cluster = self.cluster.get();
        let mut answers: FuturesUnordered<_> = callers
            .values()
            .map(|caller| {
                caller.call(
                    Kind::Identify,
                    cluster.clone(),
                    self.id(),
                    0,
                    &Introduction::Who,
                    self.elections.lease,
                )
            })
            .collect();
        while let Some(answer) = answers.next().await {
            if let Ok(IntroductionReply::Card(card)) = answer
                && !card.hears_leader
            {
                leaderless.insert(card.raft_id);
                if are_majority(&metrics, &leaderless) {
                    return true;
                }
            }
        }
        false
    }
}

/// Whether these are more than half of the voters of each set in force.
fn are_majority(metrics: &RaftMetrics, ids: &BTreeSet<RaftId>) -> bool {
    let sets = metrics.membership_config.membership().get_joint_config();
    !sets.is_empty()
        && sets
            .iter()
            .all(|voters| voters.intersection(ids).count() * 2 > voters.len())
}
