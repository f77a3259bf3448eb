//! One replica: what it holds, what of it is durable, and how it follows.
//!
//! Invariants, checked by `validate`:
//! - `applied <= applying <= commit <= head`;
//! - `durable` is never past the head;
//! - nothing is accepted, acknowledged or granted below `promised`.

use std::collections::VecDeque;
use std::sync::Arc;

use super::context::Context;
use super::durable::{DurableRecord, Generation, RecoveredPartition};
use super::entry::EntryKind;
use super::event::Effect;
use super::lease::Holdings;
use super::log::Log;
use super::message::{Append, AppendOutcome, AppendReply, Confirm, ConfirmReply, PeerMessage};
use super::node::Timing;
use super::primary::Leadership;
use super::suspended::Suspension;
use crate::cluster::report::{Order, PartitionStatus, ReplicaReport, Role, Wish};
use crate::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId, ReplicaId};
use crate::record::{Member, PartitionRecord};

/// How many entries may be on their way to the store.
const APPLY_WINDOW: u64 = 16_384;

/// Something that waits for a WAL record to be durable.
#[derive(Debug)]
pub(super) enum Pending {
    /// The log is durable up to here.
    Head(Mark),
    /// A promise; holds back whatever vouches for it.
    Promised,
    /// Then acknowledge to the primary of that epoch.
    Ack {
        to: NodeId,
        epoch: Epoch,
        index: Index,
    },
    /// Then answer a fence (rule 1).
    Report { round: u64 },
    /// Then the installed state replaces the old one.
    Installed {
        durable: Mark,
        old: Generation,
        primary: Option<NodeId>,
    },
}

/// What the replica does in its epoch.
#[derive(Debug)]
pub(super) enum Part {
    /// Follows, or waits for someone to follow.
    Follower,
    /// Was named primary in `promised`.
    Primary(Box<Leadership>),
    /// Was primary of `promised` before the process restarted (rules 3, 14).
    Suspended(Suspension),
}

/// One replica of one partition.
#[derive(Debug)]
pub(super) struct Replica {
    pub(super) partition: PartitionId,
    pub(super) me: Member,
    pub(super) generation: Generation,
    pub(super) promised: Epoch,
    pub(super) record: Arc<PartitionRecord>,
    pub(super) log: Log,
    pub(super) durable: Mark,
    pub(super) pending: VecDeque<(u64, Pending)>,
    pub(super) commit: Index,
    /// The last index matched to the primary of `promised`.
    pub(super) matched: Index,
    pub(super) applied: Index,
    pub(super) applying: Index,
    pub(super) corrupt: bool,
    pub(super) dropped_tail: bool,
    /// The newest epoch whose fence this process answered.
    pub(super) inspected: Epoch,
    pub(super) part: Part,
    /// A snapshot that is being fetched, and from which node.
    pub(super) fetching: Option<(Generation, NodeId)>,
    /// Marks of snapshots that are being served from this replica.
    pub(super) serving_snapshots: Vec<Index>,
    pub(super) reclaimable_told: Index,
    /// Since when the oldest unflushed record of this replica waits.
    pub(super) unflushed_since: Option<Micros>,
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
        ctx.append(DurableRecord::Create {
            partition: record.id,
            replica: me.replica,
            generation,
        });
        Self {
            partition: record.id,
            me,
            generation,
            promised,
            record,
            log: Log::new(Mark::ZERO, Vec::new(), Vec::new()),
            durable: Mark::ZERO,
            pending: VecDeque::new(),
            commit: Index::ZERO,
            matched: Index::ZERO,
            applied: Index::ZERO,
            applying: Index::ZERO,
            corrupt: false,
            dropped_tail: false,
            inspected: Epoch::ZERO,
            part: Part::Follower,
            fetching: None,
            serving_snapshots: Vec::new(),
            reclaimable_told: Index::ZERO,
            unflushed_since: None,
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
        } = found;
        let replica = meta.replica?;
        let record = meta.record?;
        let mut log = Log::new(meta.base, entries, meta.lineage);
        if applied.index() < log.base().index() {
            // The store lost what the log no longer holds.
            corrupt = true;
        } else if log.mark_at(applied.index()) != Some(applied) {
            // The store holds more than the log, or another line than its tail:
            // only committed entries are applied, so the store is right.
            log.install(applied, vec![applied]);
        }
        let me = Member { node, replica };
        let named = record.primary == Some(me) && record.epoch == meta.promised;
        let part = if named {
            Part::Suspended(Suspension::new())
        } else {
            Part::Follower
        };
        Some(Self {
            partition: meta.partition,
            me,
            generation: meta.generation,
            promised: meta.promised,
            record,
            durable: log.head(),
            log,
            pending: VecDeque::new(),
            commit: applied.index(),
            matched: Index::ZERO,
            applied: applied.index(),
            applying: applied.index(),
            corrupt,
            dropped_tail,
            inspected: Epoch::ZERO,
            part,
            fetching: None,
            serving_snapshots: Vec::new(),
            reclaimable_told: Index::ZERO,
            unflushed_since: None,
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
        self.promised = epoch;
        self.matched = Index::ZERO;
        ctx.grants.fence(self.partition);
        ctx.standing_changed(self.partition);
        self.append_promise(ctx, epoch)
    }

    pub(super) fn append_promise(&mut self, ctx: &mut Context<'_>, epoch: Epoch) -> u64 {
        self.waiting_from(ctx.now);
        let number = ctx.append(DurableRecord::Promise {
            partition: self.partition,
            epoch,
        });
        self.pending.push_back((number, Pending::Promised));
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
            self.part = Part::Follower;
            ctx.standing_changed(self.partition);
        }
    }

    /// Takes an order of the coordinators.
    pub(super) fn order(&mut self, ctx: &mut Context<'_>, order: &Order) {
        match *order {
            Order::Ask { round, .. } => self.report(ctx, round),
            Order::Fence { epoch, round, .. } => {
                if epoch > self.promised && !self.corrupt {
                    let number = self.promise(ctx, epoch);
                    self.pending.push_back((number, Pending::Report { round }));
                } else if let Some(&(number, _)) = self.pending.back() {
                    // What was accepted, the promise included, is flushed first.
                    self.pending.push_back((number, Pending::Report { round }));
                } else {
                    self.report(ctx, round);
                }
            }
            Order::HandOver { epoch, to, .. } => self.hand_over(ctx, epoch, to),
        }
    }

    fn report(&mut self, ctx: &mut Context<'_>, round: u64) {
        self.inspected = self.promised;
        let lease_current = match &self.part {
            Part::Primary(leadership) => {
                leadership.serving && self.lease_until(ctx.holdings, ctx.timing) > ctx.now
            }
            _ => ctx.grants.current(self.partition, self.promised, ctx.now),
        };
        let report = ReplicaReport {
            partition: self.partition,
            member: self.me,
            round,
            promised: self.promised,
            head: self.durable.position,
            commit: self.commit,
            whole: !self.corrupt,
            lease_current,
            lease_remaining: ctx.grants.remaining(self.partition, ctx.now),
        };
        ctx.effects.push(Effect::Report(report));
    }

    /// Takes entries from the primary of an epoch (rule 4).
    pub(super) fn on_append(&mut self, ctx: &mut Context<'_>, from: NodeId, append: Append) {
        if append.to != self.me.replica || self.corrupt {
            return;
        }
        if append.epoch < self.promised {
            self.reply(ctx, from, self.promised, AppendOutcome::Refused);
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
        if ctx.disk_full && append.entries.iter().any(|e| e.kind == EntryKind::Write) {
            self.reply(ctx, from, append.epoch, AppendOutcome::DiskFull);
            return;
        }
        let Some(skip) = self.find_previous(&append) else {
            self.reply_diverged(ctx, from, append.epoch);
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
                if !self.cut_before(ctx, index) {
                    self.reply_diverged(ctx, from, append.epoch);
                    return;
                }
            }
            if !entry.follows(self.log.head()) || entry.position.epoch > append.epoch {
                // Not what a primary sends: damaged on the way. It is sent again.
                return;
            }
            last = entry.mark();
            self.log.push(entry.clone());
            self.waiting_from(ctx.now);
            let number = ctx.append(DurableRecord::Entry {
                partition: self.partition,
                entry: entry.clone(),
            });
            self.pending.push_back((number, Pending::Head(last)));
        }
        self.matched = self.matched.max(last.index());
        self.learn_commit(ctx, append.commit);
        self.acknowledge(ctx, from, append.epoch, last.index());
    }

    /// Finds where the entries join the log: how many of them lie at or below the
    /// base. `None` where the logs do not share `previous`.
    fn find_previous(&self, append: &Append) -> Option<usize> {
        let base = self.log.base();
        let previous = append.previous;
        if previous.index() >= base.index() {
            return (self.log.mark_at(previous.index()) == Some(previous)).then_some(0);
        }
        // The base is in the middle of what was sent: it proves the join.
        let at = append.entries.iter().position(|e| e.mark() == base)?;
        Some(at + 1)
    }

    /// Cuts the log so that `index` is free. False where that falls below what was
    /// applied: then the state is discarded and a snapshot will come (rule 4).
    fn cut_before(&mut self, ctx: &mut Context<'_>, index: Index) -> bool {
        let to = Index(index.0 - 1);
        if to < self.applying {
            self.discard(ctx);
            return false;
        }
        self.log.truncate(to);
        let mark = self.log.head();
        self.commit = self.commit.min(to);
        if self.durable.index() > to {
            self.durable = mark;
        }
        self.pending
            .retain(|(_, p)| !matches!(p, Pending::Head(m) if m.index() > to));
        ctx.append(DurableRecord::Truncate {
            partition: self.partition,
            to: mark,
        });
        true
    }

    /// Gives up the state: it followed a line that was lost (rule 9).
    fn discard(&mut self, ctx: &mut Context<'_>) {
        let generation = ctx.fresh_generation();
        self.switch_to(ctx, generation, Mark::ZERO, Vec::new(), false, None);
    }

    fn switch_to(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        mark: Mark,
        lineage: Vec<Mark>,
        keep_tail: bool,
        primary: Option<NodeId>,
    ) {
        let old = std::mem::replace(&mut self.generation, generation);
        if !keep_tail {
            self.log = Log::new(mark, Vec::new(), lineage.clone());
            self.matched = Index::ZERO;
            self.commit = mark.index();
            self.durable = Mark::ZERO;
            self.pending
                .retain(|(_, p)| !matches!(p, Pending::Head(_) | Pending::Ack { .. }));
        } else {
            self.log.install(mark, lineage.clone());
            self.commit = self.commit.max(mark.index());
        }
        self.applied = mark.index();
        self.applying = mark.index();
        let durable = if keep_tail { self.durable } else { mark };
        let number = ctx.append(DurableRecord::Installed {
            partition: self.partition,
            generation,
            mark,
            lineage,
            keep_tail,
        });
        self.waiting_from(ctx.now);
        self.pending.push_back((
            number,
            Pending::Installed {
                durable,
                old,
                primary,
            },
        ));
        ctx.standing_changed(self.partition);
    }

    /// Learns a commit index of the primary of `promised`: never past what was
    /// matched to it (rule 4).
    pub(super) fn learn_commit(&mut self, ctx: &mut Context<'_>, commit: Index) {
        let known = commit.min(self.matched);
        if known > self.commit {
            self.commit = known;
        }
        self.apply_committed(ctx);
    }

    fn acknowledge(&mut self, ctx: &mut Context<'_>, to: NodeId, epoch: Epoch, index: Index) {
        if self.durable.index() >= index && self.pending.is_empty() {
            self.reply(ctx, to, epoch, AppendOutcome::Matched { index });
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
                index: i,
            },
        )) = self.pending.back_mut()
            && *t == to
            && *e == epoch
        {
            *i = (*i).max(index);
            return;
        }
        self.pending
            .push_back((number, Pending::Ack { to, epoch, index }));
    }

    fn reply(&self, ctx: &mut Context<'_>, to: NodeId, epoch: Epoch, outcome: AppendOutcome) {
        let reply = AppendReply {
            partition: self.partition,
            epoch,
            from: self.me.replica,
            outcome,
        };
        ctx.send(to, PeerMessage::AppendReply(reply));
    }

    fn reply_diverged(&self, ctx: &mut Context<'_>, to: NodeId, epoch: Epoch) {
        let outcome = AppendOutcome::Diverged {
            head: self.log.head().position,
            lineage: self.log.recent_lineage(),
        };
        self.reply(ctx, to, epoch, outcome);
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
        let mut head_moved = false;
        while self.pending.front().is_some_and(|(n, _)| *n <= number) {
            let Some((_, pending)) = self.pending.pop_front() else {
                break;
            };
            match pending {
                Pending::Head(mark) => {
                    self.durable = mark;
                    head_moved = true;
                }
                Pending::Ack { to, epoch, index } => {
                    // After a promise nothing older is acknowledged (rule 1).
                    if epoch == self.promised && !self.corrupt {
                        self.reply(ctx, to, epoch, AppendOutcome::Matched { index });
                    }
                }
                Pending::Promised => {}
                Pending::Report { round } => self.report(ctx, round),
                Pending::Installed {
                    durable,
                    old,
                    primary,
                } => {
                    self.durable = durable.max_by_index(self.durable);
                    ctx.effects.push(Effect::DropGeneration {
                        partition: self.partition,
                        generation: old,
                    });
                    if let Some(primary) = primary {
                        self.reply_diverged(ctx, primary, self.promised);
                    }
                }
            }
        }
        self.unflushed_since = (!self.pending.is_empty()).then_some(ctx.now);
        if head_moved && matches!(self.part, Part::Primary(_)) {
            self.replicate(ctx);
            self.advance_commit(ctx);
        }
        self.apply_committed(ctx);
    }

    pub(super) fn waiting_from(&mut self, now: Micros) {
        self.unflushed_since.get_or_insert(now);
    }

    /// The primary says that its log no longer reaches back to this one.
    pub(super) fn on_need_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        from: NodeId,
        epoch: Epoch,
        to: ReplicaId,
    ) {
        let primary = self.record.config.on_node(from);
        if to != self.me.replica
            || epoch != self.promised
            || self.corrupt
            || !matches!(self.part, Part::Follower)
            || self.fetching.is_some()
        {
            return;
        }
        let Some(primary) = primary else { return };
        let generation = ctx.fresh_generation();
        self.fetching = Some((generation, from));
        ctx.effects.push(Effect::FetchSnapshot {
            partition: self.partition,
            from,
            replica: primary.replica,
            generation,
        });
    }

    /// A snapshot is durable in the store under `generation` (rule 13).
    pub(super) fn on_snapshot(
        &mut self,
        ctx: &mut Context<'_>,
        generation: Generation,
        mark: Mark,
        lineage: Vec<Mark>,
    ) {
        let Some((expected, from)) = self.fetching.take() else {
            return self.drop_generation(ctx, generation);
        };
        if expected != generation {
            self.fetching = Some((expected, from));
            return self.drop_generation(ctx, generation);
        }
        let held = self.log.mark_at(mark.index()) == Some(mark);
        // Only after a promotion that lost entries (rule 9) can the snapshot be of
        // another line than what was applied here.
        let same_line = held || self.log.epoch_at(mark.index()) == Some(mark.epoch());
        let useless = mark.index() <= self.applying && same_line;
        if useless || !matches!(self.part, Part::Follower) || self.corrupt {
            return self.drop_generation(ctx, generation);
        }
        if mark.epoch() > self.promised {
            // What committed in that epoch came after it was raised.
            self.promise(ctx, mark.epoch());
        }
        self.switch_to(ctx, generation, mark, lineage, held, Some(from));
    }

    /// The fetch failed; the primary asks again.
    pub(super) fn on_snapshot_failed(&mut self, generation: Generation) {
        if self.fetching.is_some_and(|(g, _)| g == generation) {
            self.fetching = None;
        }
    }

    fn drop_generation(&self, ctx: &mut Context<'_>, generation: Generation) {
        if generation != self.generation {
            ctx.effects.push(Effect::DropGeneration {
                partition: self.partition,
                generation,
            });
        }
    }

    /// Another replica, primary of its epoch before it restarted, asks (rule 14).
    pub(super) fn on_confirm(&self, ctx: &mut Context<'_>, from: NodeId, confirm: &Confirm) {
        if confirm.to != self.me.replica || self.corrupt {
            return;
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
        let named = record.primary == Some(self.me) && !self.corrupt;
        let epoch = record.epoch;
        self.record = record;
        ctx.standing_changed(self.partition);
        let leads = matches!(&self.part, Part::Primary(_));
        if named && epoch >= self.promised {
            if leads && epoch == self.promised {
                self.reconfigure_in_epoch();
            } else if self.dropped_tail && !leads && self.inspected != epoch {
                // Named as the primary of the epoch before, without an inspection,
                // and restarted since with less than it had: someone must look first.
                if epoch > self.promised {
                    self.promise(ctx, epoch);
                }
                self.part = Part::Suspended(Suspension::new());
            } else {
                self.rise(ctx, epoch);
            }
        } else if epoch > self.promised {
            self.promise(ctx, epoch);
        }
    }

    /// What was read from the disk is damaged: the replica counts as absent from
    /// here on (rule 12).
    pub(super) fn found_corrupt(&mut self, ctx: &mut Context<'_>) {
        self.corrupt = true;
        self.depose(ctx);
        ctx.grants.fence(self.partition);
        ctx.standing_changed(self.partition);
    }

    /// The replica leaves this node.
    pub(super) fn remove(&mut self, ctx: &mut Context<'_>) {
        self.depose(ctx);
        ctx.effects.push(Effect::DropGeneration {
            partition: self.partition,
            generation: self.generation,
        });
        ctx.standing_changed(self.partition);
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
                _ if self.corrupt => Wish::Replace,
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
            head: self.durable.position,
            commit: self.commit,
            applied: self.applied,
            wish,
            followers,
        }
    }

    /// Drops applied entries from memory down to a budget, if there is one, and
    /// returns up to where no replica needs the log any more.
    pub(super) fn trim(&mut self, budget: Option<usize>) -> Index {
        if let Some(budget) = budget {
            while self.log.bytes() > budget && self.log.base().index() < self.applied {
                let next = self.log.base().index().next();
                self.log.drop_prefix(next);
            }
        }
        let needed = match &self.part {
            Part::Primary(l) => l.followers.values().map(|p| p.matched).min(),
            _ => None,
        };
        let served = self.serving_snapshots.iter().min().copied();
        let free = needed
            .unwrap_or(self.applied)
            .min(served.unwrap_or(self.applied));
        free.min(self.applied).max(self.log.base().index())
    }
}
