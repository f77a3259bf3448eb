//! How much log is kept for whom, and how a replica far behind reaches the head
//! (rules 13 and 17).
//!
//! A log stays in memory for replicas that answer and want it, within bounds: of a
//! node, and of one partition. While a replica that is brought up from far behind
//! uses up more than half of a partition's bound, writes are slowed so that the bound
//! is not reached: what is left of it is spread over what is left of the time for
//! which writes may be slowed for that replica at all. After that time it is given
//! up, so that a copy that cannot keep up costs the clients a bounded slowness, and
//! writes go on through all of it.
//!
//! Nothing here decides about safety: a log that was cut too early costs a snapshot.

use std::cmp::Reverse;

use super::context::Context;
use super::lease::Holdings;
use super::node::Timing;
use super::primary::Leadership;
use super::progress::{CatchUp, Flow, Progress};
use super::replica::{Part, Replica};
use crate::ids::{Index, Micros, NodeId};

/// So many snapshots may a replica begin to fetch without catching up.
const SNAPSHOTS_MAX: u32 = 4;
/// How many times longer than writes are slowed a member rests that was given up;
/// a learner is removed instead.
const REST: u64 = 10;
/// The least time over which the rest of the bound is spread.
const SPREAD_LEAST: Micros = Micros::from_millis(1_000);
/// So many ticks' share of writes may be saved up.
const SAVED_TICKS: i64 = 64;

/// How long a primary hears nothing of a replica that still counts as answering, and
/// how long such a one may leave entries unmatched.
pub(super) fn patience(timing: &Timing) -> (Micros, Micros) {
    (Micros(timing.lease.0.saturating_mul(2)), timing.stuck)
}

impl Progress {
    pub(super) fn answers(&self, now: Micros, holdings: &Holdings, timing: &Timing) -> bool {
        let lease_answer = holdings.last_answer(self.member.node);
        self.answering(now, lease_answer, patience(timing))
    }

    /// Past which index it wants the log, of which `base` is the last that is gone.
    fn wants_after(&self, base: Index) -> Option<Index> {
        if self.catch_up.given_up.is_some() {
            return None;
        }
        match (self.catch_up.snapshot, self.flow) {
            (Some(mark), _) => Some(mark.max(self.matched)),
            // The snapshot that it will fetch is not older than what is applied now.
            (None, Flow::Snapshot) => None,
            // What it has is not known in this epoch yet.
            (None, _) if self.matched == Index::ZERO => Some(base),
            (None, _) => Some(self.matched),
        }
    }
}

impl Leadership {
    /// Whether writes are slowed for the sake of a replica that catches up.
    pub(super) fn pushes_back(&self) -> bool {
        self.allowance.is_some()
    }

    /// Whether a write may go now; counts it.
    pub(super) fn admit(&mut self, bytes: usize) -> bool {
        let Some(allowance) = &mut self.allowance else {
            return true;
        };
        if *allowance <= 0 {
            return false;
        }
        *allowance = allowance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
        true
    }
}

impl Replica {
    /// Someone copies the state as of `mark`: what follows will be wanted.
    pub(super) fn snapshot_served(&mut self, to: NodeId, mark: Index) {
        self.serving_snapshots.retain(|(node, _)| *node != to);
        self.serving_snapshots.push((to, mark));
        self.note_served();
    }

    /// The copy is on its way no more. Whether it arrived shows in what the replica
    /// says next: until then its mark is kept.
    pub(super) fn snapshot_ended(&mut self, to: NodeId, mark: Index) {
        self.serving_snapshots.retain(|s| *s != (to, mark));
    }

    /// Tells the leadership of the copies under way: one may have begun before it.
    pub(super) fn note_served(&mut self) {
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        for progress in leadership.followers.values_mut() {
            let served = self
                .serving_snapshots
                .iter()
                .find(|(node, _)| *node == progress.member.node);
            if let Some((_, mark)) = served {
                progress.catch_up.snapshot = Some(*mark);
            }
        }
    }

    /// Up to where nobody who can be hoped for wants the log.
    fn free_to(&self, now: Micros, holdings: &Holdings, timing: &Timing) -> Index {
        let base = self.log.base().index();
        let wanted = match &self.part {
            Part::Primary(leadership) => leadership
                .followers
                .values()
                .filter(|p| p.answers(now, holdings, timing))
                .filter_map(|p| p.wants_after(base))
                .min(),
            _ => self.serving_snapshots.iter().map(|(_, mark)| *mark).min(),
        };
        wanted.unwrap_or(self.applied).min(self.applied)
    }

    /// Drops entries up to `to` from memory while `more` of them are to go.
    fn drop_while(&mut self, to: Index, more: impl Fn(usize) -> bool) -> usize {
        let before = self.log.bytes();
        while self.log.base().index() < to && more(before - self.log.bytes()) {
            let next = self.log.base().index().next();
            self.log.drop_prefix(next);
        }
        before - self.log.bytes()
    }

    /// Up to where no replica needs the log on disk. One that is away counts as well:
    /// the log on disk has a bound of its own.
    pub(super) fn reclaimable(&self) -> Index {
        let needed = match &self.part {
            Part::Primary(l) => l.followers.values().map(|p| p.matched).min(),
            _ => None,
        };
        let served = self.serving_snapshots.iter().map(|(_, mark)| *mark).min();
        let free = needed
            .unwrap_or(self.applied)
            .min(served.unwrap_or(self.applied));
        free.min(self.applied).max(self.log.base().index())
    }

    /// Judges how those that are far behind come on, and how much may be written for
    /// their sake until the next tick.
    pub(super) fn pace_catch_up(&mut self, ctx: &mut Context<'_>) {
        let (now, timing) = (ctx.now, ctx.timing);
        let (head, base) = (self.log.head().index(), self.log.base().index());
        let Part::Primary(leadership) = &mut self.part else {
            return;
        };
        let passed = now
            .minus(std::mem::replace(&mut leadership.paced, now))
            .min(SPREAD_LEAST);
        let slowing = leadership.pushes_back();
        // Two bounds, so that slowing does not begin and end with every write.
        let threshold = timing.keep_bytes / if slowing { 4 } else { 2 };
        let mut worst: Option<(usize, Micros)> = None;
        let mut changed = false;
        for progress in leadership.followers.values_mut() {
            let learner = !self.record.config.is_voter(progress.member.replica);
            if progress.caught_up(head) {
                if progress.catch_up.rebuilding || progress.catch_up.given_up.is_some() {
                    progress.catch_up = CatchUp::default();
                }
                continue;
            }
            if !learner && !progress.catch_up.rebuilding {
                continue;
            }
            let rest = Micros(timing.push_back.0.saturating_mul(REST));
            if !learner
                && progress
                    .catch_up
                    .given_up
                    .is_some_and(|at| now >= at.plus(rest))
            {
                progress.catch_up = CatchUp {
                    rebuilding: true,
                    snapshot: progress.catch_up.snapshot,
                    ..CatchUp::default()
                };
            }
            if progress.catch_up.given_up.is_some() || !progress.answers(now, ctx.holdings, timing)
            {
                continue;
            }
            let used = progress
                .wants_after(base)
                .map_or(0, |from| self.log.bytes_after(from));
            if slowing && used > threshold {
                progress.catch_up.slowed = progress.catch_up.slowed.plus(passed);
            }
            let left = timing.push_back.minus(progress.catch_up.slowed);
            // Nobody waits for the sake of a copy that only serves reads.
            let reader = self.record.config.is_reader(progress.member.replica);
            if (reader && used > threshold)
                || left.0 == 0
                || progress.catch_up.begun > SNAPSHOTS_MAX
            {
                progress.catch_up.given_up = Some(now);
                changed = true;
            } else if used > threshold && worst.is_none_or(|(most, _)| used > most) {
                worst = Some((used, left));
            }
        }
        let saved = leadership.allowance.unwrap_or(0);
        leadership.allowance = worst.map(|(used, left)| {
            let room = timing.keep_bytes.saturating_sub(used) as u64;
            let share = room.saturating_mul(passed.0) / left.max(SPREAD_LEAST).0;
            // At least something, so that nothing stands still for want of a byte.
            let share = i64::try_from(share).unwrap_or(i64::MAX).max(1);
            saved
                .saturating_add(share)
                .min(share.saturating_mul(SAVED_TICKS))
        });
        if changed || slowing != leadership.pushes_back() {
            ctx.standing_changed(self.partition);
        }
    }
}

/// Drops log entries from memory where the node holds too many: first those that
/// nobody wants, then, of logs past their own bound or where the node holds twice
/// what it should, those that somebody does.
pub(super) fn trim(
    mut replicas: Vec<&mut Replica>,
    now: Micros,
    holdings: &Holdings,
    timing: &Timing,
) {
    let mut total: usize = replicas.iter().map(|r| r.log.bytes()).sum();
    let soft = timing.log_bytes;
    if total <= soft {
        return;
    }
    replicas.sort_by_key(|r| Reverse(r.log.bytes()));
    for replica in &mut replicas {
        let free = replica.free_to(now, holdings, timing);
        total -= replica.drop_while(free, |dropped| total - dropped > soft);
    }
    let hard = soft.saturating_mul(2);
    for replica in &mut replicas {
        let (applied, held) = (replica.applied, replica.log.bytes());
        total -= replica.drop_while(applied, |dropped| {
            let (left, all) = (held - dropped, total - dropped);
            all > hard || (all > soft && left > timing.keep_bytes)
        });
    }
}
