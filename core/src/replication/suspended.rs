//! A primary that restarted in its own epoch (rules 3 and 14).
//!
//! With coordinators within reach it asks them to promote someone, itself among
//! the candidates. Without, it resumes once N-W+1 replicas confirm that there is
//! no higher epoch and no head above its own; then it writes a barrier.

use std::collections::BTreeSet;

use super::context::Context;
use super::message::{Confirm, ConfirmReply, PeerMessage};
use super::quorum;
use super::replica::{Part, Replica};
use crate::ids::{Micros, ReplicaId};

/// What a suspended primary has learnt.
#[derive(Debug, Default)]
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
            ctx.send(
                voter.node,
                PeerMessage::Confirm(Confirm {
                    partition: self.partition,
                    epoch: self.promised,
                    to: voter.replica,
                    session: ctx.session,
                }),
            );
        }
        self.resume_if_confirmed(ctx);
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
        // It does not count itself if it dropped a tail at this start.
        let own = !self.dropped_tail;
        let confirmed = quorum::confirmed(&self.record.config, |m| {
            if *m == self.me {
                own
            } else {
                suspension.confirmed.contains(&m.replica)
            }
        });
        if confirmed {
            let epoch = self.promised;
            self.rise(ctx, epoch);
        }
    }
}
