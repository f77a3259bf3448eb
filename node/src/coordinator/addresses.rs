//! Where the coordinators are reached.
//!
//! Two things say so: the membership, which follows a coordinator that moves, and the
//! list that this process was configured with, which alone is there at first and where
//! all of them moved at once. Both are tried, by turns until one answers. A wrong one does no harm: messages name
//! the Raft id that they are for, and whoever else gets one refuses it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::config::CoordinatorAddress;
use super::raft::{RaftId, RaftMetrics, RaftNode};

/// Where coordinators may be.
#[derive(Debug)]
pub(super) struct Addresses {
    configured: BTreeMap<String, CoordinatorAddress>,
    /// Raft itself is made with these addresses, and tells the membership later.
    metrics: OnceLock<watch::Receiver<RaftMetrics>>,
    /// Whose turn it is, where it is not the likeliest's: Raft makes a new link for each
    /// vote, so that a link alone would begin with the wrong one each time.
    turns: Mutex<BTreeMap<RaftId, String>>,
}

impl Addresses {
    pub(super) fn new(configured: &[CoordinatorAddress]) -> Self {
        Self {
            configured: configured
                .iter()
                .map(|address| (address.name.clone(), address.clone()))
                .collect(),
            metrics: OnceLock::new(),
            turns: Mutex::default(),
        }
    }

    /// Follows the membership from here on.
    pub(super) fn follow(&self, metrics: watch::Receiver<RaftMetrics>) {
        let _ = self.metrics.set(metrics);
    }

    /// The configured ones, by name.
    pub(super) fn configured(&self) -> &BTreeMap<String, CoordinatorAddress> {
        &self.configured
    }

    /// What the membership says of each, by Raft id.
    pub(super) fn members(&self) -> BTreeMap<RaftId, RaftNode> {
        self.metrics.get().map_or_else(BTreeMap::new, |metrics| {
            let metrics = metrics.borrow();
            let nodes = metrics.membership_config.membership().nodes();
            nodes.map(|(id, node)| (*id, node.clone())).collect()
        })
    }

    /// Where an identity may be, the likeliest first; never empty. `known` is what is
    /// said of it where the membership does not list it.
    pub(super) fn of(&self, id: RaftId, known: &RaftNode) -> Vec<String> {
        let member = self.metrics.get().and_then(|metrics| {
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            membership.get_node(&id).cloned()
        });
        let node = member.as_ref().unwrap_or(known);
        let mut all = vec![node.peer.clone()];
        if let Some(configured) = self.configured.get(&node.name)
            && configured.peer != node.peer
        {
            all.push(configured.peer.clone());
        }
        all
    }

    /// Where an identity is to be looked for now.
    pub(super) fn now(&self, id: RaftId, known: &RaftNode) -> String {
        let mut all = self.of(id, known);
        let turn = self.turns.lock().get(&id).cloned();
        let at = turn.and_then(|turn| all.iter().position(|one| *one == turn));
        all.swap_remove(at.unwrap_or(0))
    }

    /// It gave no answer at the address: the next one's turn comes.
    pub(super) fn failed(&self, id: RaftId, known: &RaftNode, address: &str) {
        if self.now(id, known) != address {
            // Another link was faster.
            return;
        }
        let all = self.of(id, known);
        let at = all.iter().position(|one| one == address).unwrap_or(0);
        let next = all[(at + 1) % all.len()].clone();
        self.turns.lock().insert(id, next);
    }

    /// Where everybody of each name may be, those of `but` aside.
    pub(super) fn by_name(&self, but: &str) -> BTreeMap<String, BTreeSet<String>> {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let members = self.members();
        let members = members.values().map(|node| (&node.name, &node.peer));
        let configured = self.configured.values().map(|a| (&a.name, &a.peer));
        for (name, peer) in members.chain(configured) {
            if name != but && !peer.is_empty() {
                all.entry(name.clone()).or_default().insert(peer.clone());
            }
        }
        all
    }
}
