//! Leases, batched per pair of nodes (rules 5 and 16).
//!
//! A *holder* is a node that is primary of something; a *grantor* is a node that
//! holds a replica of it. Per pair there is one set of partitions that both know
//! by a version, and one round trip renews the whole set.
//!
//! Invariants: a grantor's set never holds a partition whose promised epoch is
//! another than the set's; what a grantor takes out of a set keeps its remaining
//! time in [`Grants::lingering`]; a holder counts a grant from when it sent the
//! request, for the span that was granted then, and only for partitions that were in
//! the granted version; a grantor grants nothing longer than what it would count as
//! granted if it started again now.

use std::collections::{BTreeMap, VecDeque};

use super::message::{LeaseRenew, LeaseReply};
use super::node::Timing;
use crate::ids::{Epoch, Index, Micros, NodeId, PartitionId};
use crate::seeded::{Bug, is_seeded};

/// How many rounds may be unanswered before the oldest is forgotten.
const ROUNDS_MAX: usize = 16;
/// How many rounds there are while a grant lasts.
const ROUNDS_PER_LEASE: u64 = 4;

/// What this node asked of its peers, as a holder.
#[derive(Clone, Debug, Default)]
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
    /// When, and how long was waited for the last time: each asking sends the whole
    /// set, so that one partition that stays left out must not have it sent with
    /// every round (rule 16).
    ask_again: Micros,
    pause: Micros,
}

/// A request that awaits its answer.
#[derive(Debug, Clone, Copy)]
struct Round {
    number: u64,
    sent: Micros,
    version: u64,
    /// What was asked for then, whatever the lease is by now.
    span: Micros,
}

/// The state of one pair, as a holder.
#[derive(Clone, Debug, Default)]
struct HeldFrom {
    set: BTreeMap<PartitionId, Held>,
    version: u64,
    /// The last version that the grantor is known to have.
    confirmed: u64,
    round: u64,
    rounds: VecDeque<Round>,
    /// When the newest round was sent that was granted.
    granted_sent: Option<Micros>,
    granted_version: u64,
    granted_span: Micros,
    /// Until when, by this node's clock and less the margin for drift.
    granted_until: Micros,
    last_sent: Option<Micros>,
    last_answer: Option<Micros>,
    urgent: bool,
    disk_full: bool,
    /// How many snapshots it gives, as it told last.
    giving: u32,
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
            // What was left out is asked for again in its time.
            Some(known) if known.epoch == epoch => {}
            _ => {
                held.version += 1;
                let since = held.version;
                held.set.insert(
                    partition,
                    Held {
                        epoch,
                        since,
                        excluded: false,
                        ask_again: Micros(0),
                        pause: Micros(0),
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
            for left_out in held.set.values_mut().filter(|h| h.excluded) {
                left_out.ask_again = Micros(0);
                left_out.pause = Micros(0);
            }
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

    /// The requests that are due. `spacing` is the least time before an urgent one,
    /// `span` is what is asked for; `commit` gives the commit index of a partition
    /// where the peer has not been told it yet.
    pub(super) fn due(
        &mut self,
        now: Micros,
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
            let granted = match held.granted_span {
                Micros(0) => span,
                granted => granted.min(span),
            };
            let wait = if held.urgent {
                spacing
            } else {
                Micros(granted.0 / ROUNDS_PER_LEASE)
            };
            if held.last_sent.is_some_and(|at| now < at.plus(wait)) {
                continue;
            }
            held.re_add_excluded(now);
            held.urgent = false;
            held.last_sent = Some(now);
            held.round += 1;
            held.rounds.push_back(Round {
                number: held.round,
                sent: now,
                version: held.version,
                span,
            });
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
    pub(super) fn answered(
        &mut self,
        peer: NodeId,
        now: Micros,
        timing: &Timing,
        reply: &LeaseReply,
    ) -> bool {
        if reply.session != self.session {
            return false;
        }
        let Some(held) = self.peers.get_mut(&peer) else {
            return false;
        };
        held.last_answer = Some(now);
        held.disk_full = reply.disk_full;
        held.giving = reply.giving;
        let Some(at) = held
            .rounds
            .iter()
            .position(|round| round.number == reply.round)
        else {
            return false;
        };
        let Round {
            sent,
            version,
            span,
            ..
        } = held.rounds[at];
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
                && !known.excluded
            {
                known.excluded = true;
                known.pause = match known.pause {
                    Micros(0) => Micros(span.0 / ROUNDS_PER_LEASE),
                    before => Micros(before.0 * 2).min(span),
                };
                known.ask_again = now.plus(known.pause);
            }
        }
        for known in held.set.values_mut() {
            if !known.excluded && known.since <= version {
                known.pause = Micros(0);
            }
        }
        if held.granted_sent.is_none_or(|before| sent > before) {
            // The span of that very round: a lease that was made longer since does not
            // lengthen what was granted before.
            let granted = reply.span.min(span);
            let counted_from = if is_seeded(Bug::CountLeaseFromReceipt) {
                now
            } else {
                sent
            };
            held.granted_sent = Some(sent);
            held.granted_version = version;
            held.granted_span = granted;
            held.granted_until = counted_from.plus(granted).minus(timing.margin(granted));
        }
        true
    }

    /// Until when the peer's grant on the partition lasts, by this node's clock.
    pub(super) fn until(&self, peer: NodeId, partition: PartitionId, epoch: Epoch) -> Micros {
        let Some(held) = self.peers.get(&peer) else {
            return Micros(0);
        };
        match held.set.get(&partition) {
            Some(known)
                if known.epoch == epoch
                    && !known.excluded
                    && known.since <= held.granted_version =>
            {
                if is_seeded(Bug::ServeAfterLease) {
                    return Micros(u64::MAX);
                }
                held.granted_until
            }
            _ => Micros(0),
        }
    }

    /// When the peer last answered a round.
    pub(super) fn last_answer(&self, peer: NodeId) -> Option<Micros> {
        self.peers.get(&peer)?.last_answer
    }

    /// How many snapshots that node gives, as it told last.
    pub(super) fn giving(&self, peer: NodeId) -> usize {
        self.peers.get(&peer).map_or(0, |held| held.giving as usize)
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
    fn re_add_excluded(&mut self, now: Micros) {
        let due = |held: &Held| held.excluded && now >= held.ask_again;
        if self.set.values().any(due) {
            self.version += 1;
            let version = self.version;
            for held in self.set.values_mut().filter(|h| due(h)) {
                held.excluded = false;
                held.since = version;
            }
        }
    }
}

/// What this node granted, as a grantor.
#[derive(Clone, Debug, Default)]
pub(super) struct Grants {
    peers: BTreeMap<NodeId, GrantedTo>,
    /// Grants on partitions that left a set, which last as long as they would have.
    lingering: BTreeMap<PartitionId, Vec<Lingering>>,
    /// Epochs of which this node grants nothing any more (rule 11).
    released: BTreeMap<PartitionId, Epoch>,
    /// A process that starts counts as having granted everything until then.
    boot_until: Micros,
    /// Nothing longer is granted: what this node would count as granted if it started
    /// again from what its disk says now.
    longest: Micros,
}

/// A grant on a partition that left its holder's set.
#[derive(Debug, Clone, Copy)]
struct Lingering {
    holder: NodeId,
    epoch: Epoch,
    until: Micros,
}

#[derive(Clone, Debug, Default)]
struct GrantedTo {
    session: u64,
    version: u64,
    set: BTreeMap<PartitionId, Epoch>,
    excluded: Vec<PartitionId>,
    until: Micros,
}

impl Grants {
    /// A process that starts at `now`, where the longest lease that its disk knows of
    /// is `longest`.
    pub(super) fn new(now: Micros, longest: Micros) -> Self {
        Self {
            boot_until: if is_seeded(Bug::ForgetGrantsOnRestart) {
                now
            } else {
                now.plus(longest)
            },
            longest,
            ..Self::default()
        }
    }

    /// Nothing longer is granted.
    pub(super) fn longest(&self) -> Micros {
        self.longest
    }

    /// The disk knows of a lease as long as that: the next start waits for it.
    pub(super) fn allow(&mut self, longest: Micros) {
        self.longest = self.longest.max(longest);
    }

    /// Takes a request; `promised` tells the epoch that this node promised for a
    /// partition of which it holds a replica that may vote.
    pub(super) fn renew(
        &mut self,
        peer: NodeId,
        now: Micros,
        request: &LeaseRenew,
        promised: impl Fn(PartitionId) -> Option<Epoch>,
        (disk_full, giving): (bool, u32),
    ) -> LeaseReply {
        let span = request.span.min(self.longest);
        let reply = |version, excluded, span| LeaseReply {
            session: request.session,
            round: request.round,
            version,
            excluded,
            span,
            disk_full,
            giving,
        };
        let granted = self.peers.entry(peer).or_default();
        let known = granted.session == request.session && granted.version == request.version;
        if !known {
            if granted.session == request.session && granted.version > request.version {
                // An older round, overtaken: it grants nothing.
                return reply(granted.version, Vec::new(), Micros(0));
            }
            let Some(set) = &request.set else {
                return reply(0, Vec::new(), Micros(0));
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
                    let left = Lingering {
                        holder: peer,
                        epoch,
                        until: granted.until,
                    };
                    linger(&mut self.lingering, now, partition, left);
                }
            }
            granted.session = request.session;
            granted.version = request.version;
            granted.set = taken;
            granted.excluded = excluded;
        }
        // Never shortened: what an earlier version granted to the same partitions
        // ends no later than this.
        granted.until = granted.until.max(now.plus(span));
        reply(granted.version, granted.excluded.clone(), span)
    }

    /// Takes the partition out of every set; what was granted lasts as long as it
    /// would have (rule 16: before the fence is answered).
    pub(super) fn fence(&mut self, now: Micros, partition: PartitionId) {
        for (&holder, granted) in &mut self.peers {
            if let Some(epoch) = granted.set.remove(&partition) {
                granted.excluded.push(partition);
                let left = Lingering {
                    holder,
                    epoch,
                    until: granted.until,
                };
                linger(&mut self.lingering, now, partition, left);
                if is_seeded(Bug::FenceWholeBatch) {
                    granted.set.clear();
                }
            }
        }
    }

    /// The holder gave its grants of that epoch back: they count no more, and no
    /// new one is given (rule 11). It asks for none from when it begins to hand over,
    /// so that the partition has often left its set by then, and the grant lingers; one
    /// of an older epoch is void all the more, for that holder answers in none but its
    /// newest.
    pub(super) fn release(&mut self, peer: NodeId, partition: PartitionId, epoch: Epoch) {
        if let Some(granted) = self.peers.get_mut(&peer)
            && granted.set.get(&partition) == Some(&epoch)
        {
            granted.set.remove(&partition);
            granted.excluded.push(partition);
        }
        if let Some(left) = self.lingering.get_mut(&partition) {
            left.retain(|l| l.holder != peer || l.epoch > epoch);
        }
        let released = self.released.entry(partition).or_default();
        *released = (*released).max(epoch);
    }

    /// How much longer any grant for the partition lasts.
    pub(super) fn remaining(&self, partition: PartitionId, now: Micros) -> Micros {
        let lingering = self
            .lingering
            .get(&partition)
            .into_iter()
            .flatten()
            .map(|l| l.until)
            .max()
            .unwrap_or_default();
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

fn linger(
    lingering: &mut BTreeMap<PartitionId, Vec<Lingering>>,
    now: Micros,
    partition: PartitionId,
    left: Lingering,
) {
    let all = lingering.entry(partition).or_default();
    all.retain(|l| l.until > now);
    all.push(left);
}

#[cfg(test)]
mod tests {
    use super::super::tests::timing;
    use super::*;

    const HOLDER: NodeId = NodeId(1);
    const GRANTOR: NodeId = NodeId(2);
    const P: PartitionId = PartitionId(0);

    fn ms(millis: u64) -> Micros {
        Micros::from_millis(millis)
    }

    fn holdings(partitions: u32) -> Holdings {
        let mut holdings = Holdings::new(7);
        for partition in 0..partitions {
            holdings.add(GRANTOR, PartitionId(partition), Epoch(1));
        }
        holdings
    }

    fn due(holdings: &mut Holdings, now: Micros, span: Micros) -> Option<LeaseRenew> {
        let mut due = holdings.due(now, ms(5), span, |_, _| None);
        due.pop().map(|(_, request)| request)
    }

    fn round(
        holdings: &mut Holdings,
        grants: &mut Grants,
        now: Micros,
        lease: Micros,
    ) -> Option<LeaseRenew> {
        let request = due(holdings, now, lease)?;
        let promised = |p: PartitionId| (p != PartitionId(9)).then_some(Epoch(1));
        let reply = grants.renew(HOLDER, now, &request, promised, (false, 0));
        holdings.answered(GRANTOR, now, &timing(), &reply);
        Some(request)
    }

    #[test]
    fn a_lease_that_is_made_longer_does_not_lengthen_what_was_granted() {
        let mut holdings = holdings(1);
        let mut grants = Grants::new(Micros(0), ms(5_000));
        round(&mut holdings, &mut grants, ms(10_000), ms(400));
        let until = holdings.until(GRANTOR, P, Epoch(1));
        assert_eq!(until, ms(10_000 + 400 - 40));
        // Asked for, but not granted yet.
        due(&mut holdings, ms(10_200), ms(5_000)).expect("a round");
        assert_eq!(holdings.until(GRANTOR, P, Epoch(1)), until);
        assert!(until <= ms(10_000).plus(grants.remaining(P, ms(10_000))));
    }

    #[test]
    fn a_grantor_grants_nothing_longer_than_its_next_start_would_wait_out() {
        let mut holdings = holdings(1);
        let mut grants = Grants::new(Micros(0), ms(400));
        round(&mut holdings, &mut grants, ms(10_000), ms(5_000));
        assert_eq!(grants.remaining(P, ms(10_000)), ms(400));
        assert_eq!(holdings.until(GRANTOR, P, Epoch(1)), ms(10_360));
        // Rounds keep pace with what is granted, not with what is asked for.
        assert!(due(&mut holdings, ms(10_100), ms(5_000)).is_some());
        grants.allow(ms(5_000));
        round(&mut holdings, &mut grants, ms(10_200), ms(5_000));
        assert_eq!(grants.remaining(P, ms(10_200)), ms(5_000));
        assert_eq!(holdings.until(GRANTOR, P, Epoch(1)), ms(14_700));
    }

    #[test]
    fn a_margin_fits_the_grant_that_it_is_taken_from() {
        let tenth = timing();
        assert_eq!(tenth.margin(ms(5_000)), ms(500));
        assert_eq!(tenth.margin(ms(400)), ms(40));
        let set = Timing {
            lease_margin: Some(ms(500)),
            ..tenth
        };
        assert_eq!(set.margin(ms(5_000)), ms(500));
        assert_eq!(set.margin(ms(400)), ms(200));
    }

    #[test]
    fn what_is_given_back_is_not_waited_for_although_it_left_the_set_before() {
        let mut holdings = holdings(2);
        let mut grants = Grants::new(Micros(0), ms(400));
        round(&mut holdings, &mut grants, ms(10_000), ms(400));
        // The hand-over begins, and a round goes out without the partition.
        holdings.remove(P);
        round(&mut holdings, &mut grants, ms(10_100), ms(400));
        assert_eq!(grants.remaining(P, ms(10_100)), ms(300));
        // Another's word does not void it.
        grants.release(NodeId(3), P, Epoch(1));
        assert_eq!(grants.remaining(P, ms(10_100)), ms(300));
        grants.release(HOLDER, P, Epoch(1));
        assert_eq!(grants.remaining(P, ms(10_100)), Micros(0));
        assert_eq!(grants.remaining(PartitionId(1), ms(10_100)), ms(400));
    }

    #[test]
    fn a_grant_that_was_fenced_lasts_as_long_as_it_would_have() {
        let mut holdings = holdings(2);
        let mut grants = Grants::new(Micros(0), ms(400));
        round(&mut holdings, &mut grants, ms(10_000), ms(400));
        grants.fence(ms(10_050), P);
        // The other partition of the batch is not touched by it.
        let other = PartitionId(1);
        assert_eq!(grants.remaining(other, ms(10_050)), ms(350));
        assert!(grants.current(other, Epoch(1), ms(10_050)));
        round(&mut holdings, &mut grants, ms(10_100), ms(400));
        assert_eq!(grants.remaining(P, ms(10_100)), ms(300));
        assert_eq!(grants.remaining(P, ms(10_500)), Micros(0));
    }

    #[test]
    fn one_partition_that_stays_left_out_does_not_have_the_set_sent_with_every_round() {
        let mut holdings = holdings(1_000);
        let mut grants = Grants::new(Micros(0), ms(400));
        let (mut rounds, mut sets) = (0, 0);
        for tick in 0..1_000 {
            let now = ms(10_000 + tick * 10);
            // What a primary does on every tick.
            holdings.add(GRANTOR, PartitionId(9), Epoch(1));
            if let Some(request) = round(&mut holdings, &mut grants, now, ms(400)) {
                rounds += 1;
                sets += usize::from(request.set.is_some());
                assert!(holdings.until(GRANTOR, P, Epoch(1)) > now);
            }
        }
        assert_eq!(holdings.until(GRANTOR, PartitionId(9), Epoch(1)), Micros(0));
        assert!((90..=110).contains(&rounds), "{rounds} rounds");
        assert!(sets <= 30, "the set was sent {sets} times");
    }
}
