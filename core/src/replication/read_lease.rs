//! Leases for reads: a replica that many read answers by itself for a while (rule 6).
//!
//! A question for a proof may ask for a lease besides. A primary that grants one commits
//! nothing, until it is over, that the one who asked has not matched to it. So whatever was
//! acknowledged is in that one's log, and a state that has applied all of the log is as current as
//! the primary's. Where more is in the log than is known to be committed, it asks as before.
//!
//! Invariants: a lease ends before the primary's own does, counted by the primary; the replica
//! counts it from when it sent the question, less the margin for drift; the primary's is counted
//! in every epoch that its process leads, and a process that starts counts as having granted
//! one to everybody; grants are not given back by a hand-over before it is over; and a primary
//! that is inspected reports it with the grants that it gave for its own part. That has to be,
//! since its own share in its lease ends with a fence: the quorum of the lease and the quorum
//! that is inspected may have nobody else in common.
//!
//! The quorum leases of Moraru, Andersen and Kaminsky, "Paxos Quorum Leases: Fast Reads Without
//! Sacrificing Writes" (`SoCC` 2014), are the same idea; here the primary alone grants, and
//! only for what is read much and was not written lately.

use std::collections::BTreeMap;

use super::context::Context;
use super::lease::Holdings;
use super::node::Timing;
use super::progress::{Flow, Progress};
use super::proof::ProofLevel;
use super::replica::{Part, Replica};
use crate::ids::{Epoch, Index, Micros, NodeId, ReplicaId};
use crate::seeded::{Bug, is_seeded};

impl Timing {
    /// What a lease for reads is of one that long.
    pub(super) fn part_of(&self, lease: Micros) -> Micros {
        let part = lease.0.checked_div(self.read_lease_parts).unwrap_or(0);
        Micros(part).min(self.read_lease_max)
    }

    /// How long a lease for reads lasts.
    pub(super) fn reads(&self) -> Micros {
        self.part_of(self.lease)
    }

    /// How long one lasts that is granted, where the disk knows of leases as long as `longest`: a
    /// process that starts anew goes by that.
    pub(super) fn reads_granted(&self, longest: Micros) -> Micros {
        self.part_of(self.lease.min(longest))
    }
}

/// What a replica was granted.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadLease {
    pub(super) epoch: Epoch,
    /// By this node's clock, less the margin.
    pub(super) until: Micros,
    /// What had been committed when it was granted.
    pub(super) floor: Index,
}

/// How much is read here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wanted {
    since: Micros,
    from: u64,
    much: bool,
}

impl Wanted {
    /// So many reads have arrived in all.
    pub(super) fn count(&mut self, now: Micros, arrived: u64, timing: &Timing) {
        let over = now >= self.since.plus(timing.reads());
        let read = arrived.saturating_sub(self.from);
        let enough = timing.read_lease_at > 0 && read >= timing.read_lease_at;
        if over || enough {
            *self = Self {
                since: now,
                from: arrived,
                much: enough,
            };
        }
    }

    /// What is left of it: up to where was counted.
    pub(super) fn of_another_role(self) -> Self {
        Self {
            much: false,
            ..self
        }
    }

    pub(super) fn is_much(&self) -> bool {
        self.much
    }
}

/// What a primary granted, by its own clock.
#[derive(Clone, Debug, Default)]
pub(super) struct ReadGrants(BTreeMap<ReplicaId, Micros>);

impl ReadGrants {
    /// Forgets what is over; whether anything is left.
    pub(super) fn last(&mut self, now: Micros) -> bool {
        self.0.retain(|_, until| *until > now);
        !self.0.is_empty()
    }

    /// How much longer the last one takes.
    fn remaining(&self, now: Micros) -> Micros {
        let last = self.0.values().max().copied().unwrap_or_default();
        last.minus(now)
    }

    /// Up to where may be committed, where `commit` is already.
    pub(super) fn bound(
        &mut self,
        now: Micros,
        commit: Index,
        followers: &BTreeMap<ReplicaId, Progress>,
    ) -> Index {
        if self.0.is_empty() || is_seeded(Bug::CommitPastReadLease) {
            return Index(u64::MAX);
        }
        self.last(now);
        let matched = |id: &ReplicaId| followers.get(id).map_or(commit, |p| p.matched.max(commit));
        self.0.keys().map(matched).min().unwrap_or(Index(u64::MAX))
    }
}

impl Replica {
    /// As primary: grants the replica on a node a lease for reads, if it may; for how long.
    pub(super) fn grant_reads(
        &mut self,
        (now, span): (Micros, Micros),
        holdings: &Holdings,
        node: NodeId,
    ) -> Micros {
        let own = self.lease_until(holdings);
        let (commit, head) = (self.commit, self.log.head().index());
        let Part::Primary(leadership) = &self.part else {
            return Micros(0);
        };
        let quiet = span > Micros(0) && commit == head && now >= self.written.plus(span);
        if !leadership.serving || leadership.stuck || !quiet || own <= now {
            return Micros(0);
        }
        let mut there = leadership
            .followers
            .values()
            .filter(|p| p.member.node == node);
        // Where two are on a node, the question does not say which of them asks.
        let (Some(progress), None) = (there.next(), there.next()) else {
            return Micros(0);
        };
        if progress.flow != Flow::Stream || progress.matched < commit {
            return Micros(0);
        }
        let until = now.plus(span).min(own);
        let granted = self
            .read_grants
            .0
            .entry(progress.member.replica)
            .or_default();
        *granted = until.max(*granted);
        until.minus(now)
    }

    /// How much longer somebody may read what this replica granted.
    pub(super) fn reads_remaining(&self, now: Micros) -> Micros {
        match is_seeded(Bug::ForgetReadGrants) {
            true => Micros(0),
            false => self.read_grants.remaining(now),
        }
    }

    /// As the one who asked: until when its state may be read without asking, once it has
    /// applied what is known to be committed.
    pub(super) fn reads_until(&self) -> Micros {
        let Some(lease) = &self.proving.lease else {
            return Micros(0);
        };
        let current = lease.epoch == self.promised && self.record.epoch == self.promised;
        let all = self.log.head().index();
        let known = self.commit == self.matched && self.commit == all;
        let known = known || is_seeded(Bug::ReadBelowMatched);
        let whole = matches!(self.part, Part::Follower) && !self.corrupt;
        if current && whole && known && self.matched >= lease.floor {
            lease.until
        } else {
            Micros(0)
        }
    }

    /// Where much is read under a lease for reads: whose it is, and how long it lasts. So many reads
    /// have arrived in all.
    pub(super) fn reads_left(
        &mut self,
        ctx: &Context<'_>,
        arrived: u64,
    ) -> Option<(NodeId, Micros)> {
        let until = self.reads_until();
        self.proving.wanted.count(ctx.now, arrived, ctx.timing);
        let used = until > ctx.now && self.proving.wanted.is_much();
        if !used || self.proving.is_asking(ProofLevel::Replica) {
            return None;
        }
        Some((self.record.primary?.node, until.minus(ctx.now)))
    }

    /// The question that was sent then was answered with a lease.
    pub(super) fn lease_reads(
        &mut self,
        ctx: &mut Context<'_>,
        sent: Micros,
        span: Micros,
        (epoch, floor): (Epoch, Index),
    ) {
        if span == Micros(0) {
            return;
        }
        let until = sent.plus(span).minus(ctx.timing.margin(span));
        self.proving.lease = Some(ReadLease {
            epoch,
            until,
            floor,
        });
        ctx.standing_changed(self.partition);
    }

    /// What may be read without asking changed, where there is a lease.
    pub(super) fn leased_reads_changed(&self, ctx: &mut Context<'_>) {
        if self
            .proving
            .lease
            .is_some_and(|lease| lease.until > ctx.now)
        {
            ctx.standing_changed(self.partition);
        }
    }
}
