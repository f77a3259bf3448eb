//! Who may stand for election: a question before the vote, beside Raft.
//!
//! openraft has no pre-vote. A coordinator whose link fails and heals would raise its
//! term while it is away, and on its return depose a leader that everybody else hears;
//! with each turn the data nodes' sessions end. So it stands only while a majority of
//! the voters, itself included, says that it hears no leader. One that was removed from
//! the group, and did not hear of it, is told so by the same answers.
//!
//! openraft 0.9 draws its election timeout once per process, so that two that drew nearly
//! the same would split votes for ever. Whoever may stand therefore waits for its turn,
//! by the place of its Raft id among the voters, and again after each vote.
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
use tokio::time::{Instant, timeout_at};
use tonic::Status;

use super::group::{Group, Introduction, IntroductionReply};
use super::network::Caller;
use super::raft::{RaftId, RaftMetrics};

/// How many rounds of questions fit into one lease.
const ROUNDS_PER_LEASE: u32 = 8;

/// How many turns fit into one lease: in one of them there is a tick of openraft's, and
/// a vote with its flushes.
const TURNS_PER_LEASE: u32 = 2;

/// When a coordinator that has leave to stand may do so.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The term in which it has leave.
    term: u64,
    at: Instant,
}

impl Turn {
    /// The turn of one that has leave in a term, if it had `before` after the last round
    /// of questions. Whatever began in another term, such as a vote, is waited for anew.
    fn next(before: Option<Self>, term: u64, wait: Duration) -> Self {
        before
            .filter(|turn| turn.term == term)
            .unwrap_or_else(|| Self {
                term,
                at: Instant::now() + wait,
            })
    }

    fn has_come(self) -> bool {
        Instant::now() >= self.at
    }
}

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
        self.hears_leader_by(&self.raft.metrics().borrow())
    }

    /// [`Self::hears_leader`] for one who holds Raft's metrics: to ask for them a second
    /// time while a writer waits is to wait for oneself.
    pub(super) fn hears_leader_by(&self, metrics: &RaftMetrics) -> bool {
        let lease = self.elections.lease;
        let leads = metrics.state == ServerState::Leader
            && metrics
                .millis_since_quorum_ack
                .is_some_and(|ms| u128::from(ms) <= lease.as_millis());
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
        let mut metrics = self.raft.metrics();
        let mut turn: Option<Turn> = None;
        let round = self.elections.lease / ROUNDS_PER_LEASE;
        loop {
            let leave = self.may_stand(&mut callers).await;
            let (term, wait) = {
                let metrics = metrics.borrow_and_update();
                (metrics.current_term, self.wait(&metrics))
            };
            turn = leave.then(|| Turn::next(turn, term, wait));
            let may = turn.is_some_and(Turn::has_come);
            self.raft.runtime_config().elect(may);
            #[cfg(test)]
            self.elections.refused.fetch_add(
                u64::from(!leave && !self.hears_leader()),
                std::sync::atomic::Ordering::Relaxed,
            );
            let next = Instant::now() + round;
            let next = turn
                .filter(|turn| !turn.has_come())
                .map_or(next, |turn| turn.at.min(next));
            // A vote is seen at once: turns are counted from it.
            let seen = metrics.wait_for(|metrics| metrics.current_term != term);
            if let Ok(Err(_)) = timeout_at(next, seen).await {
                return;
            }
        }
    }

    /// How long this coordinator waits for its turn. openraft's own timeout is over by
    /// the first one: before that all of them would wait for the same moment.
    fn wait(&self, metrics: &RaftMetrics) -> Duration {
        let voters: BTreeSet<RaftId> = metrics.membership_config.voter_ids().collect();
        if voters.len() <= 1 {
            return Duration::ZERO;
        }
        let place = voters.range(..self.id()).count();
        let place = u32::try_from(place).unwrap_or(u32::MAX);
        self.elections.lease + self.elections.lease / TURNS_PER_LEASE * place
    }

    /// Whether a majority of the voters hears no leader, in each set in force. Known
    /// as soon as enough of them said so: those that are dead are not waited for.
    async fn may_stand(&self, callers: &mut BTreeMap<String, Caller>) -> bool {
        if self.hears_leader() || self.is_out() {
            return false;
        }
        let metrics = self.raft.metrics().borrow().clone();
        let mut leaderless = BTreeSet::from([self.id()]);
        if are_majority(&metrics, &leaderless) {
            return true;
        }
        let membership = metrics.membership_config.membership();
        let others = membership.nodes().filter(|(id, _)| **id != self.id());
        let addresses: BTreeSet<String> = others
            .filter(|(id, _)| membership.voter_ids().any(|voter| voter == **id))
            .flat_map(|(id, node)| self.addresses.of(*id, node))
            .collect();
        callers.retain(|address, _| addresses.contains(address));
        for address in addresses {
            let caller = Caller::new(&self.dialer, &address);
            callers.entry(address).or_insert(caller);
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
            let Ok(IntroductionReply::Card(card)) = answer else {
                continue;
            };
            if self.is_told_out(&card) {
                return false;
            }
            if !card.hears_leader {
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
