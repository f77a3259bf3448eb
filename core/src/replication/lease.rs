//! Leases, batched per pair of nodes (rules 5 and 16).
//!
//! A *holder* is a node that is primary of something; a *grantor* is a node that
//! holds a replica of it. Per pair there is one set of partitions that both know
//! by a version, and one round trip renews the whole set.
//!
//! Invariants: a grantor's set never holds a partition whose promised epoch is
//! another than the set's; what a grantor takes out of a set keeps its remaining
//! time in [`Grants::lingering`]; a holder counts a grant from when it sent the
//! request, and only for partitions that were in the granted version.

use std::collections::{BTreeMap, VecDeque};

use super::message::{LeaseRenew, LeaseReply};
use crate::ids::{Epoch, Index, Micros, NodeId, PartitionId};

/// How many rounds may be unanswered before the oldest is forgotten.
const ROUNDS_MAX: usize = 16;

/// What this node asked of its peers, as a holder.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    session: u64,
    peers: BTreeMap<NodeId, HeldFrom>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    epoch: Epoch,
    /// The first version of the set that holds it.
    since: u64,
    /// The grantor left it out; it is asked for again under a new version.
    excluded: bool,
}

/// The state of one pair, as a holder.
#[derive(Debug, Default)]
struct HeldFrom {
    set: BTreeMap<PartitionId, Held>,
    version: u64,
    /// The last version that the grantor is known to have.
    confirmed: u64,
    round: u64,
    rounds: VecDeque<(u64, Micros, u64)>,
    granted_sent: Option<Micros>,
    granted_version: u64,
    last_sent: Option<Micros>,
    last_answer: Option<Micros>,
    urgent: bool,
    disk_full: bool,
}

impl Holdings {
    pub(super) fn new(session: u64) -> Self {
        Self {
            session,
            peers: BTreeMap::new(),
        }
    }

    /// Asks the peer for a lease on the partition from the next round on.
    pub(super) fn add(&mut self, peer: NodeId, partition: PartitionId, epoch: Epoch) {
        let held = self.peers.entry(peer).or_default();
        match held.set.get(&partition) {
            Some(known) if known.epoch == epoch && !known.excluded => {}
            _ => {
                held.version += 1;
                let since = held.version;
                held.set.insert(
                    partition,
                    Held {
                        epoch,
                        since,
                        excluded: false,
                    },
                );
                held.urgent = true;
            }
        }
    }

    /// Stops asking for the partition, of any peer.
    pub(super) fn remove(&mut self, partition: PartitionId) {
        for held in self.peers.values_mut() {
            if held.set.remove(&partition).is_some() {
                held.version += 1;
            }
        }
    }

    /// The connection is new: what was in flight may be lost.
    pub(super) fn reconnected(&mut self, peer: NodeId) {
        if let Some(held) = self.peers.get_mut(&peer) {
            held.confirmed = 0;
            held.urgent = true;
        }
    }

    /// Asks for a round with every peer that holds a replica of the partition.
    pub(super) fn hurry(&mut self, partition: PartitionId) {
        for held in self.peers.values_mut() {
            if held.set.contains_key(&partition) {
                held.urgent = true;
            }
        }
    }

    /// The requests that are due. `interval` is the time between two rounds,
    /// `spacing` the least time before an urgent one; `commit` gives the commit
    /// index of a partition where the peer has not been told it yet.
    pub(super) fn due(
        &mut self,
        now: Micros,
        interval: Micros,
        spacing: Micros,
        span: Micros,
        mut commit: impl FnMut(NodeId, PartitionId) -> Option<(Epoch, Index)>,
    ) -> Vec<(NodeId, LeaseRenew)> {
        let session = self.session;
        let mut requests = Vec::new();
        for (&peer, held) in &mut self.peers {
            if held.set.is_empty() {
                continue;
            }
            let wait = if held.urgent { spacing } else { interval };
            if held.last_sent.is_some_and(|at| now < at.plus(wait)) {
                continue;
            }
            held.re_add_excluded();
            held.urgent = false;
            held.last_sent = Some(now);
            held.round += 1;
            held.rounds.push_back((held.round, now, held.version));
            if held.rounds.len() > ROUNDS_MAX {
                held.rounds.pop_front();
            }
            let set = (held.confirmed != held.version)
                .then(|| held.set.iter().map(|(&p, h)| (p, h.epoch)).collect());
            let commits = held
                .set
                .keys()
                .filter_map(|&p| commit(peer, p).map(|(epoch, index)| (p, epoch, index)))
                .collect();
            requests.push((
                peer,
                LeaseRenew {
                    session,
                    round: held.round,
                    version: held.version,
                    span,
                    set,
                    commits,
                },
            ));
        }
        requests
    }

    /// Takes an answer. True where it may have prolonged leases.
    pub(super) fn answered(&mut self, peer: NodeId, now: Micros, reply: &LeaseReply) -> bool {
        if reply.session != self.session {
            return false;
        }
        let Some(held) = self.peers.get_mut(&peer) else {
            return false;
        };
        held.last_answer = Some(now);
        held.disk_full = reply.disk_full;
        let Some(at) = held
            .rounds
            .iter()
            .position(|(round, ..)| *round == reply.round)
        else {
            return false;
        };
        let (_, sent, version) = held.rounds[at];
        held.rounds.drain(..=at);
        if reply.version != version {
            // The grantor does not have that version: the set goes with the next round.
            held.confirmed = 0;
            held.urgent = true;
            return false;
        }
        held.confirmed = held.confirmed.max(version);
        for partition in &reply.excluded {
            if let Some(known) = held.set.get_mut(partition)
                && known.since <= version
            {
                known.excluded = true;
            }
        }
        if held.granted_sent.is_none_or(|before| sent > before) {
            held.granted_sent = Some(sent);
            held.granted_version = version;
        }
        true
    }

    /// Until when the peer's grant on the partition lasts, by this node's clock.
    pub(super) fn until(
        &self,
        peer: NodeId,
        partition: PartitionId,
        epoch: Epoch,
        span: Micros,
        margin: Micros,
    ) -> Micros {
        let Some(held) = self.peers.get(&peer) else {
            return Micros(0);
        };
        let Some(sent) = held.granted_sent else {
            return Micros(0);
        };
        match held.set.get(&partition) {
            Some(known)
                if known.epoch == epoch
                    && !known.excluded
                    && known.since <= held.granted_version =>
            {
                sent.plus(span).minus(margin)
            }
            _ => Micros(0),
        }
    }

    /// When the peer last answered a round.
    pub(super) fn last_answer(&self, peer: NodeId) -> Option<Micros> {
        self.peers.get(&peer)?.last_answer
    }

    /// Whether the peer said that it has no disk room.
    pub(super) fn disk_full(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(|held| held.disk_full)
    }

    /// Notes that the peer has no disk room.
    pub(super) fn set_disk_full(&mut self, peer: NodeId, full: bool) {
        self.peers.entry(peer).or_default().disk_full = full;
    }

    /// The partitions that the peer may have granted.
    pub(super) fn partitions_of(&self, peer: NodeId) -> impl Iterator<Item = PartitionId> {
        self.peers
            .get(&peer)
            .into_iter()
            .flat_map(|held| held.set.keys().copied())
    }
}

impl HeldFrom {
    /// Partitions that the grantor left out are asked for again: it may have
    /// promised the epoch meanwhile.
    fn re_add_excluded(&mut self) {
        if self.set.values().any(|h| h.excluded) {
            self.version += 1;
            let version = self.version;
            for held in self.set.values_mut().filter(|h| h.excluded) {
                held.excluded = false;
                held.since = version;
            }
        }
    }
}

/// What this node granted, as a grantor.
#[derive(Debug, Default)]
pub(super) struct Grants {
    peers: BTreeMap<NodeId, GrantedTo>,
    /// How long a grant still lasts on partitions that left a set.
    lingering: BTreeMap<PartitionId, Micros>,
    /// Epochs of which this node grants nothing any more (rule 11).
    released: BTreeMap<PartitionId, Epoch>,
    /// A process that starts counts as having granted everything until then.
    boot_until: Micros,
}

#[derive(Debug, Default)]
struct GrantedTo {
    session: u64,
    version: u64,
    set: BTreeMap<PartitionId, Epoch>,
    excluded: Vec<PartitionId>,
    until: Micros,
}

impl Grants {
    pub(super) fn new(boot_until: Micros) -> Self {
        Self {
            boot_until,
            ..Self::default()
        }
    }

    /// Takes a request; `promised` tells the epoch that this node promised for a
    /// partition of which it holds a replica that may vote.
    pub(super) fn renew(
        &mut self,
        peer: NodeId,
        now: Micros,
        request: &LeaseRenew,
        promised: impl Fn(PartitionId) -> Option<Epoch>,
        disk_full: bool,
    ) -> LeaseReply {
        let reply = |version, excluded| LeaseReply {
            session: request.session,
            round: request.round,
            version,
            excluded,
            disk_full,
        };
        let granted = self.peers.entry(peer).or_default();
        let known = granted.session == request.session && granted.version == request.version;
        if !known {
            if granted.session == request.session && granted.version > request.version {
                // An older round, overtaken: it grants nothing.
                return reply(granted.version, Vec::new());
            }
            let Some(set) = &request.set else {
                return reply(0, Vec::new());
            };
            let (mut taken, mut excluded) = (BTreeMap::new(), Vec::new());
            for &(partition, epoch) in set {
                let released = self.released.get(&partition).is_some_and(|r| *r >= epoch);
                if promised(partition) == Some(epoch) && !released {
                    taken.insert(partition, epoch);
                } else {
                    excluded.push(partition);
                }
            }
            // A grant that the new set does not prolong lasts as long as it would have.
            let same_session = granted.session == request.session;
            for (partition, epoch) in std::mem::take(&mut granted.set) {
                if !(same_session && taken.get(&partition) == Some(&epoch)) {
                    linger(&mut self.lingering, partition, granted.until);
                }
            }
            granted.session = request.session;
            granted.version = request.version;
            granted.set = taken;
            granted.excluded = excluded;
        }
        // Never shortened: what an earlier version granted to the same partitions
        // ends no later than this.
        granted.until = granted.until.max(now.plus(request.span));
        reply(granted.version, granted.excluded.clone())
    }

    /// Takes the partition out of every set; what was granted lasts as long as it
    /// would have (rule 16: before the fence is answered).
    pub(super) fn fence(&mut self, partition: PartitionId) {
        for granted in self.peers.values_mut() {
            if granted.set.remove(&partition).is_some() {
                granted.excluded.push(partition);
                linger(&mut self.lingering, partition, granted.until);
            }
        }
    }

    /// The holder gave its grants of that epoch back: they count no more, and no
    /// new one is given (rule 11).
    pub(super) fn release(&mut self, peer: NodeId, partition: PartitionId, epoch: Epoch) {
        if let Some(granted) = self.peers.get_mut(&peer)
            && granted.set.get(&partition) == Some(&epoch)
        {
            granted.set.remove(&partition);
            granted.excluded.push(partition);
        }
        let released = self.released.entry(partition).or_default();
        *released = (*released).max(epoch);
    }

    /// How much longer any grant for the partition lasts.
    pub(super) fn remaining(&self, partition: PartitionId, now: Micros) -> Micros {
        let lingering = self.lingering.get(&partition).copied().unwrap_or_default();
        let in_sets = self
            .peers
            .values()
            .filter(|g| g.set.contains_key(&partition))
            .map(|g| g.until)
            .max()
            .unwrap_or_default();
        lingering.max(in_sets).max(self.boot_until).minus(now)
    }

    /// Whether a grant on the partition in that epoch has not lapsed.
    pub(super) fn current(&self, partition: PartitionId, epoch: Epoch, now: Micros) -> bool {
        self.peers
            .values()
            .any(|g| g.until > now && g.set.get(&partition).is_some_and(|e| *e == epoch))
    }
}

fn linger(lingering: &mut BTreeMap<PartitionId, Micros>, partition: PartitionId, until: Micros) {
    let entry = lingering.entry(partition).or_default();
    *entry = (*entry).max(until);
}
