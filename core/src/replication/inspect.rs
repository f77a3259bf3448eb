//! What a replica tells the coordinators: that it is fenced, and what it holds (rules 1
//! and 2).

use super::context::Context;
use super::event::Effect;
use super::replica::{Part, Pending, Replica};
use crate::cluster::report::{Order, ReplicaReport};
use crate::ids::Epoch;
use crate::seeded::{Bug, is_seeded};

impl Replica {
    /// Whether nothing of that epoch is accepted or acknowledged any more.
    pub(super) fn is_fenced_off(&self, epoch: Epoch) -> bool {
        epoch < self.promised && !is_seeded(Bug::AckPastFence)
    }

    /// Whether it holds all that it ever flushed (rule 12).
    fn is_whole(&self) -> bool {
        !self.corrupt || is_seeded(Bug::CorruptReplicaCounts)
    }

    /// Takes an order of the coordinators.
    pub(super) fn order(&mut self, ctx: &mut Context<'_>, order: &Order) {
        match *order {
            Order::Ask { round, .. } => self.report_once_flushed(ctx, round, None),
            Order::Fence { epoch, round, .. } => {
                // A damaged replica counts as absent, unless it knows its head.
                let counts = self.is_whole() || self.mending.is_some();
                if epoch > self.promised && counts {
                    self.promise(ctx, epoch);
                }
                self.report_once_flushed(ctx, round, Some(epoch));
            }
            Order::HandOver { epoch, to, .. } => self.hand_over(ctx, epoch, to),
        }
    }

    /// What was accepted, the promise included, is flushed before anything is reported.
    /// Without effect or not: a promise that was learnt of a peer and told before it was
    /// flushed is a fence that a power cut takes away.
    fn report_once_flushed(&mut self, ctx: &mut Context<'_>, round: u64, fence: Option<Epoch>) {
        match self.pending.back() {
            Some(&(number, _)) => {
                let report = Pending::Report { round, fence };
                self.pending.push_back((number, report));
            }
            None => self.report(ctx, round, fence),
        }
    }

    /// What waits to be reported waits for that flush too: while a switch to a snapshot is
    /// on its way to the disk, less is durable here than what was acknowledged, and whoever
    /// is inspected then would hide it.
    pub(super) fn delay_reports(&mut self, number: u64) {
        let pending = std::mem::take(&mut self.pending).into_iter();
        let (reports, rest): (Vec<_>, Vec<_>) =
            pending.partition(|(_, p)| matches!(p, Pending::Report { .. }));
        self.pending.extend(rest);
        let later = reports.into_iter().map(|(_, report)| (number, report));
        self.pending.extend(later);
    }

    pub(super) fn report_all(&mut self, ctx: &mut Context<'_>, reports: Vec<(u64, Option<Epoch>)>) {
        for (round, fence) in reports {
            self.report(ctx, round, fence);
        }
    }

    fn report(&mut self, ctx: &mut Context<'_>, round: u64, fence: Option<Epoch>) {
        let fenced = fence == Some(self.flushed_promise);
        if fenced {
            self.inspected = self.flushed_promise;
        }
        let lease_current = match &self.part {
            Part::Primary(leadership) => {
                leadership.serving && self.lease_until(ctx.holdings) > ctx.now
            }
            _ => ctx.grants.current(self.partition, self.promised, ctx.now),
        };
        let report = ReplicaReport {
            partition: self.partition,
            member: self.me,
            round,
            fenced,
            promised: self.flushed_promise,
            head: self.inspected_head().position,
            commit: self.commit,
            whole: self.is_whole(),
            head_intact: self.mending.is_some(),
            lease_current,
            lease_remaining: ctx
                .grants
                .remaining(self.partition, ctx.now)
                .max(self.reads_remaining(ctx.now)),
        };
        ctx.effects.push(Effect::Report(report));
    }
}
