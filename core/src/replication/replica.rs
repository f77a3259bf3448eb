//! One replica: what it holds, what of it is durable, and how it follows.
//!
//! Invariants, checked by `validate`:
//! - `applied <= applying <= commit <= head`;
//! - `durable` is never past the head;
//! - nothing is accepted, acknowledged or granted below `promised`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::context::Context;
use super::copying::Fetching;
use super::durable::{DurableRecord, Generation, RecoveredPartition};
use super::event::Effect;
use super::lease::Holdings;
use super::log::Log;
use super::mending::Mending;
use super::message::{Append, AppendOutcome, AppendReply, Confirm, ConfirmReply, PeerMessage};
use super::node::Timing;
use super::primary::Leadership;
use super::proof::Proving;
use super::read_lease::ReadGrants;
use super::room::Room;
use super::suspended::Suspension;
use crate::cluster::report::{PartitionStatus, Role, Wish};
use crate::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId};
use crate::record::{Member, PartitionRecord};
use crate::seeded::{Bug, is_seeded};

/// How many entries may be on their way to the store.
const APPLY_WINDOW: u64 = 16_384;

/// Something that waits for a WAL record to be durable.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    /// The log is durable up to here.
    Head(Mark),
    /// A promise; holds back whatever vouches for it.
    Promised(Epoch),
    /// Then acknowledge to that process of the primary of that epoch.
    Ack {
        to: NodeId,
        epoch: Epoch,
        session: u64,
        index: Index,
    },
    /// Then answer the coordinators (rule 1); `fence` is the epoch that a fence named.
    Report { round: u64, fence: Option<Epoch> },
    /// Then the installed state replaces the old one, and the log is durable up to
    /// `durable`; where the log was kept it is as durable as it was.
    Installed {
        durable: Option<Mark>,
        old: Generation,
        primary: Option<NodeId>,
    },
}

/// What the replica does in its epoch.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Follows, or waits for someone to follow.
    Follower,
    /// Was named primary in `promised`.
    Primary(Box<Leadership>),
    /// Was primary of `promised` before the process restarted (rules 3, 14).
    Suspended(Suspension),
}

/// What became of a cut.
enum Cut {
    /// The log ends before the index.
    Done,
    /// The whole state went: it followed a line that was lost.
    Discarded,
    /// Nothing was cut, and what asked for it is passed over.
    Refused,
}

/// One replica of one partition.
#[derive(Clone, Debug)]
pub(super) struct Replica {
    pub(super) partition: PartitionId,
    pub(super) me: Member,
    pub(super) generation: Generation,
    pub(super) promised: Epoch,
    /// The highest promise that is flushed: what a report may tell of.
    pub(super) flushed_promise: Epoch,
    /// Which process of the primary of `promised` entries were last taken from.
    pub(super) followed: Option<u64>,
    /// Which process of that primary asked whether it may resume: from then on nothing
    /// is taken that another one sent (rule 14). Not durable, and need not be: what an
    /// older process sent to an older one of this node never reaches this one.
    pub(super) confirmed: Option<u64>,
    pub(super) record: Arc<PartitionRecord>,
    pub(super) log: Log,
    pub(super) durable: Mark,
    pub(super) pending: VecDeque<(u64, Pending)>,
    pub(super) commit: Index,
    /// The last index matched to the primary of `promised`.
    pub(super) matched: Index,
    /// The highest commit index that a primary told this process.
    pub(super) told: Index,
    pub(super) applied: Index,
    pub(super) applying: Index,
    pub(super) corrupt: bool,
    /// Corrupt, but only for want of one range of entries (rule 12).
    pub(super) mending: Option<Box<Mending>>,
    pub(super) dropped_tail: bool,
    /// The newest epoch whose fence this process answered.
    pub(super) inspected: Epoch,
    pub(super) part: Part,
    /// A snapshot that is being fetched.
    pub(super) fetching: Option<Fetching>,
    /// About how many bytes its state takes on the disk, once that was measured.
    pub(super) bytes: Option<u64>,
    /// Snapshots that are being served from this replica: to whom, and their marks.
    pub(super) serving_snapshots: Vec<(NodeId, Index)>,
    pub(super) reclaimable_told: Index,
    /// What is being proved for reads.
    pub(super) proving: Box<Proving>,
    /// What others may read here without asking, of whatever epoch.
    pub(super) read_grants: ReadGrants,
    /// When it last wrote an entry as primary.
    pub(super) written: Micros,
}

impl Replica {
    /// A replica that never held anything.
    pub(super) fn create(
        ctx: &mut Context<'_>,
        record: Arc<PartitionRecord>,
        me: Member,
        promised: Epoch,
    ) -> Self {
        let generation = ctx.fresh_generation();
        let number = ctx.append(DurableRecord::Create {
            partition: record.id,
            replica: me.replica,
            generation,
        });
        Self {
            partition: record.id,
            me,
            generation,
            promised,
            flushed_promise: Epoch::ZERO,
            followed: None,
            confirmed: None,
            record,
            log: Log::new(Mark::ZERO, Vec::new(), Vec::new()),
            durable: Mark::ZERO,
            // The promise is what a replica before this one left here, flushed or not.
            pending: VecDeque::from([(number, Pending::Promised(promised))]),
            commit: Index::ZERO,
            matched: Index::ZERO,
            told: Index::ZERO,
            applied: Index::ZERO,
            applying: Index::ZERO,
            corrupt: false,
            mending: None,
            dropped_tail: false,
            inspected: Epoch::ZERO,
            part: Part::Follower,
            fetching: None,
            bytes: None,
            serving_snapshots: Vec::new(),
            reclaimable_told: Index::ZERO,
            proving: Box::default(),
            read_grants: ReadGrants::default(),
            written: Micros(0),
        }
    }

    /// From what recovery found; `None` where no replica lives here.
    pub(super) fn recover(node: NodeId, found: RecoveredPartition) -> Option<Self> {
        let RecoveredPartition {
            meta,
            entries,
            applied,
            mut corrupt,
            dropped_tail,
            missing,
        } = found;
        let replica = meta.replica?;
        let record = meta.record?;
        let mut log = Log::new(meta.base, entries, meta.lineage);
        if log.mark_at(applied.index()) != Some(applied) {
            // The store lost what the log no longer holds, or holds what the log does
            // not: a log is never cut below what was applied, so that one of them is
            // damaged.
            corrupt = true;
            if applied.index() > log.base().index() {
                log.install(applied, vec![applied]);
            }
        }
        let mending = missing
            .filter(|missing| {
                let reaches = log.head() == missing.after;
                reaches && log.mark_at(applied.index()) == Some(applied)
            })
            .map(Mending::new);
        let corrupt = corrupt || mending.is_some();
        let highest = mending
            .as_ref()
            .map_or(log.head().epoch(), |mending| mending.head().epoch());
        let me = Member { node, replica };
        let named = record.primary == Some(me) && record.epoch == meta.promised;
        let part = if named {
            Part::Suspended(Suspension::new())
        } else {
            Part::Follower
        };
        let promised = meta.promised.max(highest);
        Some(Self {
            partition: meta.partition,
            me,
            generation: meta.generation,
            promised,
            flushed_promise: promised,
            followed: None,
            confirmed: None,
            record,
            durable: log.head(),
            log,
            pending: VecDeque::new(),
            commit: applied.index(),
            matched: Index::ZERO,
            told: Index::ZERO,
            applied: applied.index(),
            applying: applied.index(),
            corrupt,
            mending: mending.map(Box::new),
            dropped_tail,
            inspected: Epoch::ZERO,
            part,
            fetching: None,
            bytes: None,
            serving_snapshots: Vec::new(),
            reclaimable_told: Index::ZERO,
            proving: Box::default(),
            read_grants: ReadGrants::default(),
            written: Micros(0),
        })
    }

    /// Checks what must hold after every step.
    ///
    /// # Panics
    /// Where it does not.
    pub(super) fn validate(&self) {
        let head = self.log.head().index();
        assert!(
            self.applied <= self.applying && self.applying <= self.commit && self.commit <= head,
            "{}: applied {} applying {} commit {} head {head}",
            self.partition,
            self.applied,
            self.applying,
            self.commit,
        );
        assert!(
            self.durable.index() <= head,
            "{}: durable {} past head {head}",
            self.partition,
            self.durable.index(),
        );
        assert!(
            self.log.head().epoch() <= self.promised,
            "{}: head {} above promise {}",
            self.partition,
            self.log.head().position,
            self.promised,
        );
    }

    /// Promises an epoch above the present one: from here on nothing older is
    /// accepted, acknowledged or granted. Returns the number of the WAL record.
    pub(super) fn promise(&mut self, ctx: &mut Context<'_>, epoch: Epoch) -> u64 {
        assert!(
            epoch > self.promised,
            "{} is not above {}",
            epoch,
            self.promised
        );
        self.depose(ctx);
        self.void_proofs(ctx);
        if let Some(mending) = &mut self.mending {
            mending.promised();
        }
        self.promised = epoch;
        self.matched = Index::ZERO;
        self.followed = None;
        self.confirmed = None;
        if !is_seeded(Bug::RenewPastFence) {
            ctx.grants.fence(ctx.now, self.partition);
        }
        ctx.standing_changed(self.partition);
        self.append_promise(ctx, epoch)
    }

    pub(super) fn append_promise(&mut self, ctx: &mut Context<'_>, epoch: Epoch) -> u64 {
        let number = ctx.append(DurableRecord::Promise {
            partition: self.partition,
            epoch,
        });
        if is_seeded(Bug::ReportBeforePromise) {
            self.flushed_promise = epoch;
            return number;
        }
        self.pending.push_back((number, Pending::Promised(epoch)));
        number
    }

    /// Ends a leadership or a suspension.
    pub(super) fn depose(&mut self, ctx: &mut Context<'_>) {
        if let Part::Primary(leadership) = &self.part {
            ctx.effects.push(Effect::Deposed {
                partition: self.partition,
                epoch: leadership.epoch,
            });
        }
        if !matches!(self.part, Part::Follower) {
            ctx.holdings.remove(self.partition);
            ctx.givers.retain(self.partition, |_| false);
            self.part = Part::Follower;
            ctx.standing_changed(self.partition);
        }
    }

    /// Takes entries from the primary of an epoch (rule 4).
    pub(super) fn on_append(&mut self, ctx: &mut Context<'_>, from: NodeId, append: Append) {
        if append.to != self.me.replica {
            return;
        }
        if self.corrupt {
            if self.mending.is_some() && append.epoch > self.promised {
                // Whoever serves by now has the range, if anyone has.
                self.promise(ctx, append.epoch);
            }
            return;
        }
        if !append.is_sound() {
            // Not what a primary sends: damaged on the way. It is sent again. Seen
            // before anything is changed: a cut for the sake of a flipped bit would
            // take away what was acknowledged.
            return;
        }
        let session = append.session;
        if self.is_fenced_off(append.epoch) {
            self.reply(ctx, from, (self.promised, session), AppendOutcome::Refused);
            if self.record.epoch > append.epoch {
                ctx.send(from, PeerMessage::Record(self.record.clone()));
            }
            return;
        }
        if append.epoch > self.promised {
            self.promise(ctx, append.epoch);
        } else if !matches!(self.part, Part::Follower) {
            // Two primaries in one epoch cannot be: the coordinators name one.
            return;
        }
        let to = (append.epoch, session);
        if self.confirmed.is_some_and(|confirmed| confirmed != session) {
            self.reply(ctx, from, to, AppendOutcome::Refused);
            return;
        }
        if self.followed != Some(session) {
            // What matched another process's log need not match this one's.
            self.followed = Some(session);
            self.matched = Index::ZERO;
            self.proving.lease = None;
            if is_seeded(Bug::TruncateByCommit) && self.commit < self.log.head().index() {
                self.cut_before(ctx, self.commit.next());
            }
        }
        match self.room_for(ctx, &append) {
            Room::Enough => {}
            Room::DiskFull => {
                self.reply(ctx, from, to, AppendOutcome::DiskFull);
                return;
            }
            // It is sent again.
            Room::Later => return,
        }
        let Some(skip) = self.find_previous(&append) else {
            self.reply_diverged(ctx, from, to);
            return;
        };
        let mut last = append.previous.max_by_index(self.log.base());
        for entry in &append.entries[skip..] {
            let index = entry.position.index;
            if let Some(mine) = self.log.mark_at(index) {
                if mine == entry.mark() {
                    last = mine;
                    continue;
                }
                match self.cut_before(ctx, index) {
                    Cut::Done => {}
                    Cut::Discarded => return self.reply_diverged(ctx, from, to),
                    Cut::Refused => return,
                }
            }
            last = entry.mark();
            self.log.push(entry.clone());
            let number = ctx.append(DurableRecord::Entry {
                partition: self.partition,
                entry: entry.clone(),
            });
            self.pending.push_back((number, Pending::Head(last)));
        }
        self.matched = self.matched.max(last.index());
        self.leased_reads_changed(ctx);
        self.told = self.told.max(append.commit);
        let commit = if is_seeded(Bug::ApplyUncommitted) {
            last.index()
        } else {
            append.commit
        };
        self.learn_commit(ctx, commit);
        self.settle_proofs(ctx);
        self.acknowledge(ctx, from, to, last.index());
    }

    /// Finds where the entries join the log: how many of them lie at or below the
    /// base. `None` where the logs do not share `previous`.
    fn find_previous(&self, append: &Append) -> Option<usize> {
        let base = self.log.base();
        let previous = append.previous;
        if previous.index() >= base.index() {
            let mine = self.log.mark_at(previous.index())?;
            return (mine == previous || is_seeded(Bug::MatchByIndex)).then_some(0);
        }
        // The base is in the middle of what was sent: it proves the join.
        let at = append.entries.iter().position(|e| e.mark() == base)?;
        Some(at + 1)
    }

    /// Cuts the log so that `index` is free.
    fn cut_before(&mut self, ctx: &mut Context<'_>, index: Index) -> Cut {
        let to = Index(index.0 - 1);
        if to < self.matched {
            // This very process of the primary has sent another entry there before, and
            // may have been told that it is safe here.
            return Cut::Refused;
        }
        if to < self.applying {
            return self.cut_applied(ctx);
        }
        self.log.truncate(to);
        let mark = self.log.head();
        self.commit = self.commit.min(to);
        self.matched = self.matched.min(to);
        if self.durable.index() > to {
            self.durable = mark;
        }
        for (_, pending) in &mut self.pending {
            if let Pending::Head(m)
            | Pending::Installed {
                durable: Some(m), ..
            } = pending
                && m.index() > to
            {
                // What is flushed by then lies beyond the cut; what is left is flushed
                // all the more.
                *m = mark;
            }
        }
        ctx.append(DurableRecord::Truncate {
            partition: self.partition,
            to: mark,
        });
        Cut::Done
    }

    /// The primary's log parts from this one below what was applied. Only committed
    /// entries are applied, so that a primary that lacks them was named at a loss: where
    /// the configured W is 1, or a person named the survivors, which leaves fewer members
    /// than there should be (rule 9). Then the state is discarded and a snapshot comes.
    /// Anywhere else one of the two logs is damaged, and this one is not thrown away as
    /// if nothing were wrong (rule 12).
    fn cut_applied(&mut self, ctx: &mut Context<'_>) -> Cut {
        if self.record.epoch != self.promised {
            // Which of the two it is, the record of this epoch tells. It is under way.
            return Cut::Refused;
        }
        if self.may_lose() {
            self.discard(ctx);
            return Cut::Discarded;
        }
        self.found_corrupt(ctx);
        Cut::Refused
    }

    /// Whether what was committed may be lost all the same (rule 9).
    pub(super) fn may_lose(&self) -> bool {
        self.record.degraded || self.record.config.sets().any(|s| s.write_quorum() == 1)
    }

    /// Gives up the state: it followed a line that was lost (rule 9).
    fn discard(&mut self, ctx: &mut Context<'_>) {
        let generation = ctx.fresh_generation();
        self.switch_to(ctx, generation, Mark::ZERO, Vec::new(), false, None);
    }

    pub(super) fn switch_to(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        mark: Mark,
        lineage: Vec<Mark>,
        keep_tail: bool,
        primary: Option<NodeId>,
    ) {
        let old = std::mem::replace(&mut self.generation, generation);
        self.bytes = None;
        if !keep_tail {
            self.log = Log::new(mark, Vec::new(), lineage.clone());
            self.matched = Index::ZERO;
            self.proving.lease = None;
            self.commit = mark.index();
            self.durable = Mark::ZERO;
            self.pending
                .retain(|(_, p)| !matches!(p, Pending::Head(_) | Pending::Ack { .. }));
            for (_, pending) in &mut self.pending {
                if let Pending::Installed { durable, .. } = pending {
                    // Replaced before it was flushed: the log begins elsewhere now.
                    *durable = None;
                }
            }
        } else {
            self.log.install(mark, lineage.clone());
            self.commit = self.commit.max(mark.index());
        }
        self.applied = mark.index();
        self.applying = mark.index();
        // A tail that was kept may be cut before this is flushed, so that how far it is
        // durable is not remembered from now.
        let durable = (!keep_tail).then_some(mark);
        let number = ctx.append(DurableRecord::Installed {
            partition: self.partition,
            generation,
            mark,
            lineage,
            keep_tail,
        });
        self.pending.push_back((
            number,
            Pending::Installed {
                durable,
                old,
                primary,
            },
        ));
        self.delay_reports(number);
        ctx.standing_changed(self.partition);
    }

    /// Learns a commit index of the primary of `promised`: never past what was
    /// matched to it (rule 4).
    pub(super) fn learn_commit(&mut self, ctx: &mut Context<'_>, commit: Index) {
        let matched = if is_seeded(Bug::CommitPastMatched) {
            self.log.head().index()
        } else {
            self.matched
        };
        let known = commit.min(matched);
        if known > self.commit {
            self.commit = known;
            self.leased_reads_changed(ctx);
        }
        self.apply_committed(ctx);
    }

    fn acknowledge(
        &mut self,
        ctx: &mut Context<'_>,
        to: NodeId,
        (epoch, session): (Epoch, u64),
        index: Index,
    ) {
        let flushed = self.durable.index() >= index && self.pending.is_empty();
        if flushed || is_seeded(Bug::AckBeforeFlush) {
            let outcome = AppendOutcome::Matched { index };
            self.reply(ctx, to, (epoch, session), outcome);
            return;
        }
        let number = match self.pending.back() {
            Some(&(number, _)) => number,
            None => ctx.numbers.appended,
        };
        if let Some((
            _,
            Pending::Ack {
                to: t,
                epoch: e,
                session: s,
                index: i,
            },
        )) = self.pending.back_mut()
            && (*t, *e, *s) == (to, epoch, session)
        {
            *i = (*i).max(index);
            return;
        }
        let ack = Pending::Ack {
            to,
            epoch,
            session,
            index,
        };
        self.pending.push_back((number, ack));
    }

    fn reply(
        &self,
        ctx: &mut Context<'_>,
        to: NodeId,
        (epoch, session): (Epoch, u64),
        outcome: AppendOutcome,
    ) {
        let reply = AppendReply {
            partition: self.partition,
            epoch,
            from: self.me.replica,
            session,
            outcome,
        };
        ctx.send(to, PeerMessage::AppendReply(reply));
    }

    fn reply_diverged(&self, ctx: &mut Context<'_>, to: NodeId, asked: (Epoch, u64)) {
        let outcome = AppendOutcome::Diverged {
            head: self.log.head().position,
            lineage: self.log.recent_lineage(),
        };
        self.reply(ctx, to, asked, outcome);
    }

    /// Hands committed, durable entries to the store, in order.
    pub(super) fn apply_committed(&mut self, ctx: &mut Context<'_>) {
        let last = self
            .commit
            .min(self.durable.index())
            .min(Index(self.applied.0.saturating_add(APPLY_WINDOW)));
        if last <= self.applying {
            return;
        }
        let entries = self.log.slice(self.applying.next(), last, usize::MAX);
        assert_eq!(
            entries.last().map(|e| e.position.index),
            Some(last),
            "{}: committed entries past {} are not in the log",
            self.partition,
            self.applying,
        );
        self.applying = last;
        ctx.effects.push(Effect::Apply {
            partition: self.partition,
            generation: self.generation,
            entries,
        });
    }

    /// The store applied entries.
    pub(super) fn on_applied(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        index: Index,
    ) {
        if generation != self.generation {
            return;
        }
        self.applied = self.applied.max(index.min(self.applying));
        self.apply_committed(ctx);
    }

    /// The WAL is durable up to `number`.
    pub(super) fn on_flushed(&mut self, ctx: &mut Context<'_>, number: u64) {
        let (mut head_moved, mut reports) = (false, Vec::new());
        while self.pending.front().is_some_and(|(n, _)| *n <= number) {
            let Some((_, pending)) = self.pending.pop_front() else {
                break;
            };
            match pending {
                Pending::Head(mark) => {
                    self.durable = mark;
                    head_moved = true;
                }
                Pending::Ack {
                    to,
                    epoch,
                    session,
                    index,
                } => {
                    if !self.is_fenced_off(epoch) && !self.corrupt {
                        let outcome = AppendOutcome::Matched { index };
                        self.reply(ctx, to, (epoch, session), outcome);
                    }
                }
                Pending::Promised(epoch) => {
                    self.flushed_promise = self.flushed_promise.max(epoch);
                }
                Pending::Report { round, fence } => reports.push((round, fence)),
                Pending::Installed {
                    durable,
                    old,
                    primary,
                } => {
                    if let Some(durable) = durable {
                        self.durable = durable.max_by_index(self.durable);
                    }
                    ctx.effects.push(Effect::DropGeneration {
                        partition: self.partition,
                        generation: old,
                    });
                    if let Some(primary) = primary {
                        self.reply_diverged(ctx, primary, (self.promised, 0));
                    }
                }
            }
        }
        // Once all that was flushed is taken note of: they tell of that.
        self.report_all(ctx, reports);
        if head_moved && matches!(self.part, Part::Primary(_)) {
            self.replicate(ctx);
            self.advance_commit(ctx);
        }
        self.apply_committed(ctx);
    }

    /// Another replica, primary of its epoch before it restarted, asks (rule 14).
    pub(super) fn on_confirm(&mut self, ctx: &mut Context<'_>, from: NodeId, confirm: &Confirm) {
        if confirm.to != self.me.replica || self.corrupt {
            return;
        }
        if confirm.epoch == self.promised && matches!(self.part, Part::Follower) {
            // What the process before it sent and is still under way may not be in its
            // log: taken now, it would stand where the primary writes something else.
            self.confirmed = Some(confirm.session);
        }
        let reply = ConfirmReply {
            partition: self.partition,
            epoch: confirm.epoch,
            from: self.me.replica,
            session: confirm.session,
            promised: self.promised,
            head: self.durable.position.max(self.log.head().position),
        };
        ctx.send(from, PeerMessage::ConfirmReply(reply));
        if self.record.epoch > confirm.epoch {
            ctx.send(from, PeerMessage::Record(self.record.clone()));
        }
    }

    /// A newer committed record of this partition, which lists this replica.
    pub(super) fn on_record(&mut self, ctx: &mut Context<'_>, record: Arc<PartitionRecord>) {
        if record.order() <= self.record.order() {
            return;
        }
        ctx.append(DurableRecord::Configure {
            record: record.clone(),
        });
        let named = record.primary == Some(self.me) && (!self.corrupt || self.mending.is_some());
        let epoch = record.epoch;
        self.record = record;
        ctx.standing_changed(self.partition);
        let leads = matches!(&self.part, Part::Primary(_));
        if named && epoch >= self.promised {
            if leads && epoch == self.promised {
                self.reconfigure_in_epoch(ctx);
            } else if self.dropped_tail && !leads && self.inspected != epoch {
                // Named as the primary of the epoch before, without an inspection,
                // and restarted since with less than it had: someone must look first.
                if epoch > self.promised {
                    self.promise(ctx, epoch);
                }
                self.part = Part::Suspended(Suspension::new());
            } else if self.mending.is_some() {
                self.rise_once_mended(ctx, epoch);
            } else {
                self.rise(ctx, epoch);
            }
        } else if epoch > self.promised {
            self.promise(ctx, epoch);
        }
    }

    /// The log on disk keeps copies for reads as learners, so that after a restart the record
    /// has to be heard once more.
    pub(super) fn relearn_readers(&mut self, record: Arc<PartitionRecord>) {
        if record.order() == self.record.order() && !record.config.readers.is_empty() {
            self.record = record;
        }
    }

    /// What was read from the disk is damaged: the replica counts as absent from
    /// here on (rule 12).
    pub(super) fn found_corrupt(&mut self, ctx: &mut Context<'_>) {
        if !self.corrupt || self.mending.take().is_some() {
            // The damage may not show again: a later start is not to count on it.
            ctx.append(DurableRecord::Corrupt {
                partition: self.partition,
                replica: self.me.replica,
            });
        }
        self.corrupt = true;
        self.depose(ctx);
        self.void_proofs(ctx);
        ctx.grants.fence(ctx.now, self.partition);
        ctx.standing_changed(self.partition);
    }

    /// The replica leaves this node. Returns the prefix of its state.
    pub(super) fn remove(&mut self, ctx: &mut Context<'_>) -> Generation {
        self.depose(ctx);
        self.void_proofs(ctx);
        ctx.standing_changed(self.partition);
        self.generation
    }

    /// How the replica stands, for a heartbeat.
    pub(super) fn status(
        &self,
        now: Micros,
        holdings: &Holdings,
        timing: &Timing,
        coordinators: Option<bool>,
    ) -> PartitionStatus {
        let follower = || {
            let role = match self.part {
                Part::Suspended(_) => Role::Suspended,
                _ if self.record.config.is_voter(self.me.replica) => Role::Replica,
                _ => Role::Learner,
            };
            // A primary that restarted goes through rule 1 where it can.
            let wish = match self.part {
                _ if self.corrupt && self.mending.is_none() => Wish::Replace,
                Part::Suspended(_) if coordinators == Some(true) => Wish::Promote,
                _ => Wish::None,
            };
            (role, wish, Vec::new())
        };
        let (role, wish, followers) = self
            .primary_status(now, holdings, timing)
            .unwrap_or_else(follower);
        PartitionStatus {
            partition: self.partition,
            replica: self.me.replica,
            epoch: self.promised,
            role,
            head: self.inspected_head().position,
            commit: self.commit,
            applied: self.applied,
            wish,
            followers,
            bytes: self.bytes,
            copying: self.fetching.map(|fetching| fetching.progress),
        }
    }
}
