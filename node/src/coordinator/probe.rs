//! A look into a coordinator that runs, for tests that hold it against what Raft promises.

use std::sync::Arc;

use cairn_core::cluster::{ClusterState, Command};
use futures::FutureExt as _;
use openraft::{EntryPayload, RaftLogReader as _, ServerState};

use super::service::Office;

/// A look into one coordinator. It keeps no process alive, but its disk open.
#[derive(Clone, Debug)]
pub struct Probe(Office);

/// Where a coordinator stands in its group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Its Raft id.
    pub id: u64,
    /// The term that it voted in last.
    pub term: u64,
    /// Whether Raft takes it for the leader of that term.
    pub leads: bool,
    /// Whom it takes for the leader.
    pub leader: Option<u64>,
    /// The term of its reign, if it is confirmed as the leader and acts as one.
    pub reign: Option<u64>,
    /// The index of its last entry.
    pub last: Option<u64>,
    /// Term and index of the last entry that it applied.
    pub applied: Option<(u64, u64)>,
    /// The index of the last entry that its log has given up for a snapshot.
    pub purged: Option<u64>,
}

/// An entry of Raft's log.
#[derive(Clone, PartialEq, Debug)]
pub struct Logged {
    /// Its place.
    pub index: u64,
    /// All of it, as JSON.
    pub text: String,
    /// What it asks of the state machine, if anything.
    pub command: Option<Command>,
}

impl Probe {
    pub(super) fn new(office: Office) -> Self {
        Self(office)
    }

    /// Where it stands.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let group = &self.0.group;
        let metrics = group.raft.metrics();
        let metrics = metrics.borrow();
        Standing {
            id: group.id(),
            term: metrics.vote.leader_id().term,
            leads: metrics.state == ServerState::Leader,
            leader: metrics.current_leader,
            reign: self.0.desk.reign().map(|reign| reign.term),
            last: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| (id.leader_id.term, id.index)),
            purged: metrics.purged.map(|id| id.index),
        }
    }

    /// Those entries from the first to the last index that its log still holds.
    #[must_use]
    pub fn entries(&self, first: u64, last: u64) -> Vec<Logged> {
        let mut log = self.0.group.log().clone();
        // The log is in memory.
        let read = log.try_get_log_entries(first..=last).now_or_never();
        let entries = read.and_then(Result::ok).unwrap_or_default();
        let logged = entries.into_iter().map(|entry| Logged {
            index: entry.log_id.index,
            text: serde_json::to_string(&entry).unwrap_or_default(),
            command: match entry.payload {
                EntryPayload::Normal(command) => Some(command),
                EntryPayload::Blank | EntryPayload::Membership(_) => None,
            },
        });
        logged.collect()
    }

    /// The cluster as far as it is applied there, and term and index of the last entry
    /// that this is the state after. What [`Standing`] says is older while Raft's own task
    /// waits for its disk.
    #[must_use]
    pub fn applied(&self) -> (Option<(u64, u64)>, Arc<ClusterState>) {
        let view = self.0.view.borrow();
        let applied = view.applied.map(|id| (id.leader_id.term, id.index));
        (applied, Arc::clone(&view.state))
    }
}
