//! Mends a log from which a broken place on the disk took one range of entries
//! (rule 12).
//!
//! Head and promise of such a replica are provably intact, so that it may report its
//! head where too few whole ones are left. It vouches for nothing else until the range
//! is back: it acknowledges, grants and serves nothing. The range proves itself: its
//! running checksum leads from the last good entry into what stands behind, so that any
//! member may give it, whatever its part and whatever else is wrong with it.
//!
//! Once the range is there the log is written anew from the last good entry on, in one
//! step, and the replica is like any other.

use super::context::Context;
use super::durable::{DurableRecord, MissingRange};
use super::entry::LogEntry;
use super::event::Effect;
use super::message::{FetchRange, PeerMessage, Range};
use super::replica::{Pending, Replica};
use crate::ids::{Epoch, Mark, Micros, NodeId, ReplicaId};

/// The most bytes of entries in one answer.
const RANGE_BYTES: usize = 512 * 1024;
/// How many times the resending pause a follower waits for its primary to give the
/// range, before it asks to be replaced.
const PATIENCE: u64 = 16;

/// What is missing, and how far the search has come.
#[derive(Clone, Debug)]
pub(super) struct Mending {
    missing: MissingRange,
    found: Vec<LogEntry>,
    asked: Option<Micros>,
    /// Since when the primary of the promised epoch is asked in vain.
    since: Option<Micros>,
    /// The replica was named primary of this epoch and rises once it is whole.
    rising: Option<Epoch>,
}

impl Mending {
    pub(super) fn new(missing: MissingRange) -> Self {
        Self {
            missing,
            found: Vec::new(),
            asked: None,
            since: None,
            rising: None,
        }
    }

    /// The last entry of the log, missing ones counted.
    pub(super) fn head(&self) -> Mark {
        self.missing.head().unwrap_or(self.missing.after)
    }

    /// From where on entries are looked for.
    fn reached(&self) -> Mark {
        self.found.last().map_or(self.missing.after, LogEntry::mark)
    }

    /// What was promised changed: whoever was asked is no longer the one to ask.
    pub(super) fn promised(&mut self) {
        (self.asked, self.since, self.rising) = (None, None, None);
    }
}

impl Replica {
    /// Named primary of `epoch`, which is promised: the range comes before the barrier
    /// (rule 3).
    pub(super) fn rise_once_mended(&mut self, ctx: &mut Context<'_>, epoch: Epoch) {
        if epoch > self.promised {
            self.promise(ctx, epoch);
        } else {
            self.depose(ctx);
        }
        if let Some(mending) = &mut self.mending {
            mending.rising = Some(epoch);
        }
        self.tick_mending(ctx);
    }

    /// Asks for the range, every now and then: a replica that rises asks every member,
    /// one that follows its primary.
    pub(super) fn tick_mending(&mut self, ctx: &mut Context<'_>) {
        let (now, resend) = (ctx.now, ctx.timing.resend);
        let primary = (self.record.epoch == self.promised)
            .then_some(self.record.primary)
            .flatten()
            .filter(|primary| *primary != self.me);
        let Some(mending) = &mut self.mending else {
            return;
        };
        if mending.asked.is_some_and(|at| now < at.plus(resend)) {
            return;
        }
        let asked = match (mending.rising, primary) {
            (Some(_), _) => self.record.config.replicas(),
            (None, Some(primary)) => vec![primary],
            (None, None) => return,
        };
        if mending.rising.is_none() {
            let since = *mending.since.get_or_insert(now);
            if now >= since.plus(Micros(resend.0.saturating_mul(PATIENCE))) {
                return self.give_up_mending(ctx);
            }
        }
        mending.asked = Some(now);
        for member in asked.into_iter().filter(|m| m.node != self.me.node) {
            self.ask_for_range(ctx, member.node, member.replica);
        }
    }

    fn ask_for_range(&self, ctx: &mut Context<'_>, node: NodeId, to: ReplicaId) {
        let Some(mending) = &self.mending else { return };
        let request = FetchRange {
            partition: self.partition,
            to,
            after: mending.reached(),
            until: mending.missing.until,
        };
        ctx.send(node, PeerMessage::FetchRange(request));
    }

    /// Someone lacks entries that may be in this log.
    pub(super) fn on_fetch_range(&self, ctx: &mut Context<'_>, from: NodeId, request: &FetchRange) {
        if request.to != self.me.replica {
            return;
        }
        let after = request.after;
        let entries = if self.log.mark_at(after.index()) == Some(after) {
            self.log
                .slice(after.index().next(), request.until, RANGE_BYTES)
        } else {
            // Too far back, or another line.
            Vec::new()
        };
        let range = Range {
            partition: self.partition,
            from: self.me.replica,
            after,
            entries,
        };
        ctx.send(from, PeerMessage::Range(range));
    }

    /// A part of the range, or that the sender does not have it.
    pub(super) fn on_range(&mut self, ctx: &mut Context<'_>, from: NodeId, range: Range) {
        let Some(mending) = &mut self.mending else {
            return;
        };
        if range.after != mending.reached() {
            // An answer to an earlier question, or another member's to this one.
            return;
        }
        let before = mending.found.len();
        for entry in range.entries {
            if entry.position.index > mending.missing.until || !entry.follows(mending.reached()) {
                break;
            }
            mending.found.push(entry);
        }
        let follows = mending.rising.is_none();
        if mending.reached().index() < mending.missing.until {
            if mending.found.len() > before {
                mending.asked = Some(ctx.now);
                return self.ask_for_range(ctx, from, range.from);
            }
        } else if mending.missing.is_filled_by(&mending.found) {
            return self.mended(ctx);
        } else {
            // Another line than this log's: someone else may have the right one.
            mending.found.clear();
        }
        if follows {
            // It was the primary, and nobody else's log counts in this epoch.
            self.give_up_mending(ctx);
        }
    }

    /// Writes the log anew from the last good entry on.
    fn mended(&mut self, ctx: &mut Context<'_>) {
        let Some(mending) = self.mending.take() else {
            return;
        };
        let Mending {
            missing: MissingRange { after, kept, .. },
            found,
            rising,
            ..
        } = *mending;
        ctx.append(DurableRecord::Truncate {
            partition: self.partition,
            to: after,
        });
        for entry in found.into_iter().chain(kept) {
            let mark = entry.mark();
            self.log.push(entry.clone());
            let number = ctx.append(DurableRecord::Entry {
                partition: self.partition,
                entry,
            });
            self.pending.push_back((number, Pending::Head(mark)));
        }
        self.corrupt = false;
        ctx.effects.push(Effect::Mended {
            partition: self.partition,
        });
        ctx.standing_changed(self.partition);
        if let Some(epoch) = rising.filter(|epoch| *epoch == self.promised) {
            self.rise(ctx, epoch);
        }
    }

    /// Asks to be replaced instead (rule 11); the next start is not to hope again.
    fn give_up_mending(&mut self, ctx: &mut Context<'_>) {
        self.found_corrupt(ctx);
    }

    /// The last index of the log, missing entries counted: what an inspection is told.
    pub(super) fn inspected_head(&self) -> Mark {
        self.mending
            .as_ref()
            .map_or(self.durable, |mending| mending.head())
    }
}
