//! A primary that restarted in its own epoch (rules 3 and 14).
//!
//! With coordinators within reach it asks them to promote someone, itself among
//! the candidates. Without, it resumes once N-W+1 replicas confirm that there is
//! no higher epoch and no head above its own; then it writes a barrier.
//!
//! Where it dropped a tail, the process before it may have sent what this one lacks:
//! the barrier would take an index that an entry of the same epoch has elsewhere, and
//! which of the two is newer nobody could tell. So then *every* other voter must
//! confirm, and one that confirmed takes nothing more that the older process sent.

use std::collections::BTreeSet;

use super::context::Context;
use super::message::{Confirm, ConfirmReply, PeerMessage};
use super::quorum;
use super::replica::{Part, Replica};
use crate::ids::{Micros, NodeId, ReplicaId};
use crate::record::Member;
use crate::seeded::{Bug, is_seeded};

/// What a suspended primary has learnt.
#[derive(Clone, Debug, Default)]
pub(super) struct Suspension {
    confirmed: BTreeSet<ReplicaId>,
    /// Someone has a higher epoch or a higher head: only the coordinators can help.
    overtaken: bool,
    asked: Option<Micros>,
}

impl Suspension {
    pub(super) fn new() -> Self {
        Self::default()
    }
}

impl Replica {
    /// Asks the others, while the coordinators are away.
    pub(super) fn tick_suspended(&mut self, ctx: &mut Context<'_>) {
        if ctx.coordinators != Some(false) || self.corrupt {
            return;
        }
        let (now, resend) = (ctx.now, ctx.timing.resend);
        let Part::Suspended(suspension) = &mut self.part else {
            return;
        };
        if suspension.overtaken || suspension.asked.is_some_and(|at| now < at.plus(resend)) {
            return;
        }
        suspension.asked = Some(now);
        let me = self.me;
        for voter in self.record.config.voters().into_iter().filter(|m| *m != me) {
            self.ask_to_confirm(ctx, voter.node, voter.replica);
        }
        self.resume_if_confirmed(ctx);
    }

    /// Asks one replica whether this process may lead its epoch.
    pub(super) fn ask_to_confirm(&self, ctx: &mut Context<'_>, node: NodeId, to: ReplicaId) {
        ctx.send(
            node,
            PeerMessage::Confirm(Confirm {
                partition: self.partition,
                epoch: self.promised,
                to,
                session: ctx.session,
            }),
        );
    }

    /// Another replica answers.
    pub(super) fn on_confirm_reply(&mut self, ctx: &mut Context<'_>, reply: &ConfirmReply) {
        let head = self.durable.position;
        let promised = self.promised;
        let Part::Suspended(suspension) = &mut self.part else {
            return;
        };
        if reply.session != ctx.session || reply.epoch != promised {
            return;
        }
        if reply.promised > promised || reply.head > head {
            suspension.overtaken = true;
            suspension.confirmed.clear();
            return;
        }
        suspension.confirmed.insert(reply.from);
        self.resume_if_confirmed(ctx);
    }

    fn resume_if_confirmed(&mut self, ctx: &mut Context<'_>) {
        let Part::Suspended(suspension) = &self.part else {
            return;
        };
        if ctx.coordinators != Some(false) || suspension.overtaken {
            return;
        }
        let has_confirmed = |m: &Member| {
            if *m == self.me {
                // It does not count itself if it dropped a tail at this start.
                !self.dropped_tail
            } else {
                suspension.confirmed.contains(&m.replica)
            }
        };
        let others = self.record.config.voters();
        let all_others = others.iter().all(|m| *m == self.me || has_confirmed(m));
        if quorum::confirmed(&self.record.config, has_confirmed)
            && (all_others || !self.dropped_tail)
        {
            let epoch = self.promised;
            self.rise(ctx, epoch);
            if is_seeded(Bug::SkipBarrierAfterRestart)
                && let Part::Primary(leadership) = &mut self.part
            {
                leadership.serving = true;
            }
        }
    }
}
