//! What a replica does as the primary of its epoch: barrier, replication, commit,
//! handing over.
//!
//! Invariants: only flushed entries are sent (rule 7); the commit index moves only
//! to entries of this epoch at or past the barrier (rule 3); W counts in each set
//! in force, the primary only in sets that it belongs to (rule 11).

use std::collections::BTreeMap;

use bytes::Bytes;

use super::catch_up;
use super::context::Context;
use super::durable::DurableRecord;
use super::entry::{EntryKind, LogEntry};
use super::event::Effect;
use super::lease::Holdings;
use super::message::{Append, AppendOutcome, AppendReply, PeerMessage};
use super::node::{ProposeError, Timing};
use super::pace;
use super::progress::{Flow, Progress};
use super::quorum;
use super::replica::{Part, Pending, Replica};
use crate::cluster::report::{FollowerStatus, Role, Wish};
use crate::ids::{Epoch, Index, Mark, Micros, NodeId, Position, ReplicaId};
use crate::record::{Member, ReplicaSet};
use crate::seeded::{Bug, is_seeded};

/// The most bytes of entries in one append.
const APPEND_BYTES: usize = 512 * 1024;
/// The most bytes of entries in a probe, which may be sent in vain.
const PROBE_BYTES: usize = 64 * 1024;
/// So often may a replica refuse what the lineages say it has.
const DISAGREEMENTS_MAX: u32 = 3;
/// For so long each renewal of a lease is told after somebody needed it.
const LEASE_WANTED: Micros = Micros::from_millis(10_000);

/// The state of a primary in one epoch.
#[derive(Clone, Debug)]
pub(super) struct Leadership {
    pub(super) epoch: Epoch,
    /// The barrier that must commit before anything is served (rule 3).
    pub(super) barrier: Index,
    /// The barrier has committed.
    pub(super) serving: bool,
    pub(super) followers: BTreeMap<ReplicaId, Progress>,
    /// Up to here the edge was told that it may answer.
    acknowledged: Index,
    /// Somebody waits until every member has flushed up to here.
    everywhere_wanted: Index,
    /// Up to here the edge was told that they have.
    everywhere_told: Index,
    pub(super) handover: Option<HandOver>,
    /// The own flush is stuck: leases are not renewed, someone is to be promoted.
    pub(super) stuck: bool,
    /// Until then somebody is likely to ask whether the lease is held.
    wanted_until: Micros,
    /// How many bytes may be written until the next tick, where writes are slowed for
    /// a replica that catches up (rule 13).
    pub(super) allowance: Option<i64>,
    /// When that was last worked out.
    pub(super) paced: Micros,
}

/// A hand-over under way (rule 11).
#[derive(Debug, Clone, Copy)]
pub(super) struct HandOver {
    pub(super) to: Member,
    pub(super) since: Micros,
    /// The grants were given back: there is no way back in this epoch.
    pub(super) released: bool,
}

impl Leadership {
    /// What each member has flushed of this log, where `me` has flushed `own`.
    fn flushed(&self, me: Member, own: Index) -> impl Fn(&Member) -> Index {
        move |member| match self.followers.get(&member.replica) {
            _ if *member == me => own,
            Some(progress) if progress.retries > 3 && is_seeded(Bug::AckBeforeShrink) => own,
            Some(progress) => progress.matched,
            None => Index::ZERO,
        }
    }
}

impl Replica {
    /// Becomes primary of `epoch`: writes the barrier and finds out what the others
    /// hold. Also called for an epoch that was promised before, by a fence or before
    /// a restart.
    pub(super) fn rise(&mut self, ctx: &mut Context<'_>, epoch: Epoch) {
        ctx.holdings.remove(self.partition);
        ctx.givers.retain(self.partition, |_| false);
        self.void_proofs(ctx);
        let was_leading = matches!(self.part, Part::Primary(_));
        if !was_leading {
            self.depose(ctx);
        }
        if epoch > self.promised {
            self.promised = epoch;
            self.matched = Index::ZERO;
            self.followed = None;
            self.confirmed = None;
            ctx.grants.fence(ctx.now, self.partition);
            self.append_promise(ctx, epoch);
        }
        // A fetched snapshot would replace the log that was just chosen.
        self.fetching = None;
        let (acknowledged, everywhere_wanted) = match &self.part {
            Part::Primary(before) => (before.acknowledged, before.everywhere_wanted),
            _ => (self.commit, Index::ZERO),
        };
        let barrier = self.log.head().index().next();
        let followers = self
            .record
            .config
            .replicas()
            .into_iter()
            .filter(|m| *m != self.me)
            .map(|m| (m.replica, Progress::new(m, barrier)))
            .collect();
        self.part = Part::Primary(Box::new(Leadership {
            epoch,
            barrier,
            serving: is_seeded(Bug::SkipBarrier),
            followers,
            acknowledged,
            everywhere_wanted,
            everywhere_told: Index::ZERO,
            handover: None,
            stuck: false,
            wanted_until: ctx.now.plus(LEASE_WANTED),
            allowance: None,
            paced: ctx.now,
        }));
        self.note_served();
        self.append_entry(ctx, EntryKind::Barrier, Bytes::new());
        ctx.standing_changed(self.partition);
    }

    /// The record changed within the epoch: only learners may have.
    pub(super) fn reconfigure_in_epoch(&mut self, ctx: &mut Context<'_>) {
        let wanted = self.record.config.replicas();
        let next = self.log.head().index().next();
        let me = self.me;
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        leadership
            .followers
            .retain(|_, p| wanted.contains(&p.member));
        let followers = &leadership.followers;
        ctx.givers
            .retain(self.partition, |to| followers.contains_key(&to));
        for member in wanted.into_iter().filter(|m| *m != me) {
            leadership
                .followers
                .entry(member.replica)
                .or_insert_with(|| Progress::new(member, next));
        }
        self.note_served();
    }

    fn append_entry(&mut self, ctx: &mut Context<'_>, kind: EntryKind, body: Bytes) -> Mark {
        self.written = ctx.now;
        let entry = LogEntry::after(self.log.head(), self.promised, kind, body);
        let mark = entry.mark();
        self.log.push(entry.clone());
        let number = ctx.append(DurableRecord::Entry {
            partition: self.partition,
            entry,
        });
        self.pending.push_back((number, Pending::Head(mark)));
        mark
    }

    /// See [`super::NodeCore::propose`].
    pub(super) fn propose(
        &mut self,
        ctx: &mut Context<'_>,
        body: Bytes,
    ) -> Result<Position, ProposeError> {
        let Part::Primary(leadership) = &self.part else {
            return Err(ProposeError::NotPrimary);
        };
        if !leadership.serving || leadership.handover.is_some() {
            return Err(ProposeError::NotPrimary);
        }
        self.admit(ctx, &body)?;
        Ok(self.append_entry(ctx, EntryKind::Write, body).position)
    }

    /// Sends what may be sent to everyone.
    pub(super) fn replicate(&mut self, ctx: &mut Context<'_>) {
        let Part::Primary(leadership) = &self.part else {
            return;
        };
        let ids: Vec<ReplicaId> = leadership.followers.keys().copied().collect();
        for id in ids {
            self.replicate_to(ctx, id);
        }
    }

    /// Sends what may be sent to one replica: flushed entries only.
    fn replicate_to(&mut self, ctx: &mut Context<'_>, id: ReplicaId) {
        let (partition, me, commit) = (self.partition, self.me, self.commit);
        let session = ctx.session;
        let durable = self.durable.index();
        let learner = !self.record.config.is_voter(id);
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let epoch = leadership.epoch;
        let Some(progress) = leadership.followers.get_mut(&id) else {
            return;
        };
        let behind = learner && !progress.caught_up(durable);
        let window = match behind {
            true => ctx.timing.window_bytes.min(pace::WINDOW_BYTES),
            false => ctx.timing.window_bytes,
        };
        while progress.may_send(window) {
            let first = progress.next;
            if progress.flow == Flow::Stream && first > durable {
                return;
            }
            let Some(previous) = self.log.mark_at(Index(first.0 - 1)) else {
                return self.ask_for_snapshot(ctx, id);
            };
            let held = behind && !ctx.pace.has_room();
            if held && progress.flow == Flow::Stream {
                // It goes on at a tick.
                return;
            }
            let bytes = match progress.flow {
                Flow::Probe => PROBE_BYTES,
                _ if behind => pace::APPEND_BYTES,
                _ => APPEND_BYTES,
            };
            // While a replica fetches a snapshot it is only asked how it stands; so is one
            // that may be sent nothing for now.
            let asked = progress.catch_up.rebuilding || held;
            let entries = if progress.flow == Flow::Probe && asked {
                Vec::new()
            } else {
                self.log.slice(first, durable, bytes)
            };
            let last = entries
                .last()
                .map_or(previous.index(), |e| e.position.index);
            let size = entries.iter().map(|e| e.body.len() + 64).sum();
            progress.sent(last, size, ctx.now);
            if behind {
                ctx.pace.spend(size);
            }
            progress.commit_told = commit;
            ctx.send(
                progress.member.node,
                PeerMessage::Append(Append {
                    partition,
                    epoch,
                    to: id,
                    from: me.replica,
                    session,
                    previous,
                    entries,
                    commit,
                }),
            );
        }
    }

    /// A replica answers.
    pub(super) fn on_append_reply(
        &mut self,
        ctx: &mut Context<'_>,
        from: NodeId,
        reply: AppendReply,
    ) {
        let voter = self.record.config.is_voter(reply.from);
        let (head, base) = (self.log.head().index(), self.log.base().index());
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let epoch = leadership.epoch;
        let Some(progress) = leadership.followers.get_mut(&reply.from) else {
            return;
        };
        if progress.member.node != from {
            return;
        }
        if reply.epoch != epoch {
            // Someone promised a higher epoch. The coordinators that raised it will
            // name a primary; until this node is fenced it may go on with the others.
            progress.heard = Some(ctx.now);
            return;
        }
        match reply.outcome {
            // An answer to the process before this one, which led the same epoch: it may
            // speak of entries that were lost, at indexes that others have by now.
            AppendOutcome::Matched { .. } if reply.session != ctx.session => {}
            AppendOutcome::Matched { index } if index <= head => {
                progress.matched_to(index, ctx.now);
                ctx.givers.remove(self.partition, reply.from);
                if voter && !leadership.stuck && leadership.handover.is_none() {
                    // It promised this epoch: it can grant a lease on it.
                    ctx.holdings.add(from, self.partition, epoch);
                }
                self.advance_commit(ctx);
                self.replicate_to(ctx, reply.from);
                self.continue_hand_over(ctx);
            }
            AppendOutcome::Matched { .. } => {}
            AppendOutcome::Diverged {
                head: theirs,
                lineage,
            } => {
                progress.heard = Some(ctx.now);
                progress.unmatched_since = None;
                progress.retries = 0;
                // Lineages without a common epoch part before the first of them:
                // the base is the lowest place from which the log can be sent.
                let shared = self.log.shared_with(theirs.index, &lineage).or(Some(base));
                match shared.map(|s| s.max(progress.matched)) {
                    Some(shared) if shared >= base => {
                        let next = shared.next();
                        let repeated = progress.flow == Flow::Probe
                            && progress.next == next
                            && progress.awaiting_since.is_some();
                        progress.disagreements += u32::from(repeated);
                        if progress.disagreements > DISAGREEMENTS_MAX {
                            // Its log is damaged, or a lineage too short to tell.
                            progress.disagreements = 0;
                            self.ask_for_snapshot(ctx, reply.from);
                        } else {
                            progress.probe_from(next);
                            self.replicate_to(ctx, reply.from);
                        }
                    }
                    _ => {
                        if progress.flow != Flow::Snapshot
                            || progress.overdue(ctx.now, ctx.timing.resend)
                        {
                            self.ask_for_snapshot(ctx, reply.from);
                        }
                    }
                }
            }
            AppendOutcome::Refused => {
                progress.heard = Some(ctx.now);
                if reply.session == ctx.session {
                    // It was asked by a process that is no more whether it may resume,
                    // and the question came late: it is told who leads this epoch.
                    self.ask_to_confirm(ctx, from, reply.from);
                }
            }
            AppendOutcome::DiskFull => {
                progress.heard = Some(ctx.now);
                ctx.holdings.set_disk_full(from, true);
                ctx.standing_changed(self.partition);
            }
        }
    }

    /// Moves the commit index to what W of each set have flushed, if that is of
    /// this epoch and at or past the barrier.
    pub(super) fn advance_commit(&mut self, ctx: &mut Context<'_>) {
        let own = self.durable.index();
        let me = self.me;
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let written = quorum::written(&self.record.config, leadership.flushed(me, own));
        let commit = self.commit;
        let bound = match ctx.now < ctx.reads_unknown_until {
            true => commit,
            false => self
                .read_grants
                .bound(ctx.now, commit, &leadership.followers),
        };
        let reached = written.min(bound);
        let inherited = reached >= leadership.barrier;
        if (inherited || is_seeded(Bug::CountOlderEpoch)) && reached > self.commit {
            self.commit = reached;
            if inherited && !leadership.serving {
                leadership.serving = true;
                ctx.standing_changed(self.partition);
            }
        }
        self.release_answers(ctx);
        self.tell_everywhere(ctx);
        self.apply_committed(ctx);
    }

    /// See [`super::NodeCore::want_everywhere`].
    pub(super) fn want_everywhere(&mut self, ctx: &mut Context<'_>, index: Index) {
        if let Part::Primary(leadership) = &mut self.part {
            leadership.everywhere_wanted = leadership.everywhere_wanted.max(index);
            self.tell_everywhere(ctx);
        }
    }

    /// Tells up to where every member has flushed, while somebody waits for it.
    fn tell_everywhere(&mut self, ctx: &mut Context<'_>) {
        let (own, me, commit) = (self.durable.index(), self.me, self.commit);
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        if leadership.everywhere_told >= leadership.everywhere_wanted {
            return;
        }
        let all = quorum::everyone(&self.record.config, leadership.flushed(me, own)).min(commit);
        if all > leadership.everywhere_told {
            leadership.everywhere_told = all;
            ctx.effects.push(Effect::Everywhere {
                partition: self.partition,
                index: all,
            });
        }
    }

    /// Lets the edge answer for what has committed; with W=1 only under the lease
    /// (rule 7).
    pub(super) fn release_answers(&mut self, ctx: &mut Context<'_>) {
        if self.ack_needs_lease()
            && self.lease_until(ctx.holdings) <= ctx.now
            && !is_seeded(Bug::AckWithoutLease)
        {
            return;
        }
        let commit = self.commit;
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        if leadership.serving && commit > leadership.acknowledged {
            leadership.acknowledged = commit;
            ctx.effects.push(Effect::Committed {
                partition: self.partition,
                index: commit,
            });
        }
    }

    /// Whether an acknowledgement too needs the lease: where one copy is enough, another
    /// primary may have been named that knows nothing of this one's (rule 7).
    pub(super) fn ack_needs_lease(&self) -> bool {
        let alone = |s: &ReplicaSet| s.write_quorum() == 1 && s.len() > 1;
        self.record.config.sets().any(alone)
    }

    /// Somebody needs the lease: each renewal is told for a while. Whether it is held;
    /// where this is no primary there is none to renew.
    pub(super) fn want_lease(&mut self, ctx: &mut Context<'_>) -> bool {
        let Part::Primary(leadership) = &mut self.part else {
            return true;
        };
        leadership.wanted_until = ctx.now.plus(LEASE_WANTED);
        let holds = self.lease_until(ctx.holdings) > ctx.now;
        if holds {
            ctx.standing_changed(self.partition);
        }
        holds
    }

    /// Whether somebody needed the lease lately.
    pub(super) fn lease_is_wanted(&self, now: Micros) -> bool {
        matches!(&self.part, Part::Primary(l) if now < l.wanted_until)
    }

    /// Until when this primary holds the lease (rule 5).
    pub(super) fn lease_until(&self, holdings: &Holdings) -> Micros {
        let Part::Primary(leadership) = &self.part else {
            return Micros(0);
        };
        if leadership.handover.is_some() {
            return Micros(0);
        }
        quorum::leased(&self.record.config, |m| {
            if *m == self.me {
                Micros(u64::MAX)
            } else {
                holdings.until(m.node, self.partition, leadership.epoch)
            }
        })
    }

    /// The commit index for a peer that has not been told it.
    pub(super) fn commit_to_tell(&mut self, peer: NodeId) -> Option<(Epoch, Index)> {
        let commit = self.commit;
        let Part::Primary(leadership) = &mut self.part else {
            return None;
        };
        let progress = leadership
            .followers
            .values_mut()
            .find(|p| p.member.node == peer)?;
        if progress.commit_told >= commit || progress.matched < commit {
            return None;
        }
        progress.commit_told = commit;
        Some((leadership.epoch, commit))
    }

    /// A connection is new: whatever was in flight to that node is sent again.
    pub(super) fn on_peer_connected(&mut self, ctx: &mut Context<'_>, peer: NodeId) {
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let Some((&id, progress)) = leadership
            .followers
            .iter_mut()
            .find(|(_, p)| p.member.node == peer)
        else {
            return;
        };
        progress.retries = 0;
        let next = if progress.matched == Index::ZERO {
            leadership.barrier
        } else {
            progress.matched.next()
        };
        progress.commit_told = Index::ZERO;
        progress.probe_from(next);
        self.replicate_to(ctx, id);
    }

    /// Sends again what is overdue, notices a stuck flush, gives up a hand-over
    /// that does not come to an end.
    pub(super) fn tick_primary(&mut self, ctx: &mut Context<'_>) {
        let (now, timing) = (ctx.now, *ctx.timing);
        let commit = self.commit;
        let stuck = ctx.numbers.stuck(now, timing.stuck);
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        if stuck != leadership.stuck {
            leadership.stuck = stuck;
            if stuck {
                // A primary does not renew what it cannot serve (rule 1).
                ctx.holdings.remove(self.partition);
            }
            ctx.standing_changed(self.partition);
        }
        if !stuck && leadership.handover.is_none() {
            for progress in leadership.followers.values() {
                if progress.matched > Index::ZERO
                    && self.record.config.is_voter(progress.member.replica)
                {
                    ctx.holdings
                        .add(progress.member.node, self.partition, leadership.epoch);
                }
            }
        }
        let durable = self.durable.index();
        let mut overdue = Vec::new();
        for (&id, progress) in &mut leadership.followers {
            progress.full_since = ctx
                .holdings
                .disk_full(progress.member.node)
                .then(|| progress.full_since.unwrap_or(now));
            let silent = progress.awaiting_since.is_none()
                && progress.heard.is_none_or(|at| now >= at.plus(timing.lease))
                && ctx
                    .holdings
                    .last_answer(progress.member.node)
                    .is_none_or(|at| now >= at.plus(timing.lease));
            let held = progress.is_held(durable);
            if held && ctx.pace.has_room() {
                overdue.push(id);
                continue;
            }
            // Voters learn the commit index with the leases, learners only like this.
            let untold = progress.awaiting_since.is_none()
                && !held
                && progress.commit_told < commit
                && !self.record.config.is_voter(id);
            if progress.overdue(now, timing.resend) || silent || untold {
                progress.retries = progress.retries.saturating_add(1);
                let next = progress.next.min(progress.matched.next());
                let next = if progress.matched == Index::ZERO {
                    progress.next
                } else {
                    next
                };
                progress.probe_from(next);
                overdue.push(id);
            }
        }
        if let Some(handover) = leadership.handover
            && !handover.released
            && now >= handover.since.plus(timing.stuck)
        {
            // Nothing was given back yet: serve on.
            leadership.handover = None;
            ctx.standing_changed(self.partition);
        }
        for id in overdue {
            self.replicate_to(ctx, id);
        }
        // A lease for reads may be over.
        if self.commit < durable {
            self.advance_commit(ctx);
        }
        self.continue_hand_over(ctx);
        self.pace_catch_up(ctx);
    }

    /// The coordinators ask the primary to hand over.
    pub(super) fn hand_over(&mut self, ctx: &mut Context<'_>, epoch: Epoch, to: Member) {
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        if leadership.epoch != epoch
            || !leadership.serving
            || leadership.handover.is_some()
            || !leadership.followers.contains_key(&to.replica)
            || !self.record.config.is_voter(to.replica)
        {
            return;
        }
        leadership.handover = Some(HandOver {
            to,
            since: ctx.now,
            released: false,
        });
        ctx.holdings.remove(self.partition);
        ctx.standing_changed(self.partition);
        self.continue_hand_over(ctx);
    }

    /// Once the successor has the whole log: gives the grants back.
    fn continue_hand_over(&mut self, ctx: &mut Context<'_>) {
        let head = self.log.head().index();
        let me = self.me;
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let Some(handover) = &mut leadership.handover else {
            return;
        };
        let there = leadership
            .followers
            .get(&handover.to.replica)
            .is_some_and(|p| p.matched >= head);
        // Whoever takes over knows of no lease for reads.
        let read = self.read_grants.last(ctx.now) && !is_seeded(Bug::HandOverPastReadLease);
        if handover.released || !there || read {
            return;
        }
        handover.released = true;
        let epoch = leadership.epoch;
        for voter in self.record.config.voters().into_iter().filter(|m| *m != me) {
            ctx.send(
                voter.node,
                PeerMessage::Release {
                    partition: self.partition,
                    epoch,
                },
            );
        }
        ctx.standing_changed(self.partition);
    }

    /// The primary's part of a heartbeat.
    pub(super) fn primary_status(
        &self,
        now: Micros,
        holdings: &Holdings,
        timing: &Timing,
    ) -> Option<(Role, Wish, Vec<FollowerStatus>)> {
        let Part::Primary(leadership) = &self.part else {
            return None;
        };
        let role = if leadership.serving && leadership.handover.is_none() {
            Role::Primary
        } else {
            Role::Rising
        };
        let wish = match leadership.handover {
            Some(h) if h.released => Wish::HandedOver,
            _ if leadership.stuck => Wish::Promote,
            _ => Wish::None,
        };
        let head = self.log.head().index();
        let patience = catch_up::patience(timing);
        let followers = leadership
            .followers
            .values()
            .map(|p| {
                let lease_answer = holdings.last_answer(p.member.node);
                FollowerStatus {
                    replica: p.member.replica,
                    matched: p.matched,
                    caught_up: p.caught_up(head),
                    answering: p.answering(now, lease_answer, patience),
                    hopeless: p.catch_up.given_up.is_some(),
                }
            })
            .collect();
        Some((role, wish, followers))
    }
}
