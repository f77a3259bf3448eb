//! Promotion: ask, raise the epoch, fence and inspect, wait for leases, name
//! (rules 1, 2, 5 and 9).
//!
//! What must hold when a primary is named in an epoch:
//! - of *each* set in force, N-W+1 whole replicas had promised that epoch durably
//!   before they reported their head; a head counts only in the epoch that it was
//!   reported for, and a replica that is corrupt, silent or was restarted since counts
//!   as absent;
//! - the chosen one's head is the highest of all that count;
//! - every grant that any of them gave, of any epoch, has run out.
//!
//! Where the configured W is 1, N minus the lease's quorum plus one will do, for any
//! lease is then known to be over; what may be lost is counted (rule 9).

use super::io::{PromotionReason, SupervisorEvent};
use super::work::{Answer, Inquiry, Named, Promotion, Trouble, Work};
use super::{Supervisor, work};
use crate::cluster::command::{Command, Direction, Loss};
use crate::cluster::failure_detector::Health;
use crate::cluster::report::{Order, ReplicaReport, Role, Wish};
use crate::cluster::state::promotion_needs;
use crate::ids::{Epoch, Micros, NodeId, Position, ReplicaId};
use crate::record::{Member, PartitionRecord, ReplicaSet};
use crate::seeded::{Bug, is_seeded};

/// How many times longer than for anything else the rest is waited for where going
/// on without them may lose writes.
const PATIENCE_WHERE_LOSSY: u64 = 8;
/// Promotions within the window of flapping that go unpunished.
const FLAPS_FREE: u32 = 3;
/// The shortest and the longest rest of a partition that flaps.
const FLAP_REST: Micros = Micros::from_millis(500);
const FLAP_REST_LONGEST: Micros = Micros::from_millis(5_000);
/// When a blocked promotion is told of.
const TELL_BLOCKED: Micros = Micros::from_millis(1_000);

/// How many of a set answered, against how many are needed.
#[derive(Clone, Copy, Debug)]
struct Tally {
    have: usize,
    /// Enough to promote at all.
    needed: usize,
    /// Enough to be sure that nothing is lost.
    sure: usize,
}

impl Supervisor {
    pub(super) fn promote(&mut self, now: Micros, record: &PartitionRecord, work: &mut Work) {
        let step = std::mem::replace(&mut work.promotion, Promotion::Idle);
        let Some(primary) = record.primary else {
            let trouble = step.trouble().unwrap_or(Trouble {
                reason: PromotionReason::NoPrimary,
                urgent: true,
                since: *work.unserved_since.get_or_insert(now),
                avoid: None,
                to: None,
            });
            let inquiry = match step {
                Promotion::Fencing(inquiry) | Promotion::Naming(inquiry, _)
                    if inquiry.epoch == record.epoch =>
                {
                    inquiry
                }
                _ => Inquiry::new(
                    now,
                    trouble,
                    record.epoch,
                    self.options.resend,
                    self.last_round,
                ),
            };
            work.promotion = self.fence(now, record, work, inquiry);
            return;
        };
        let trouble = self.trouble(now, record, primary, work);
        if trouble.is_none()
            && self.views.is_serving(record)
            && step.is_idle()
            && let Some(since) = work.unserved_since.take()
        {
            self.event(SupervisorEvent::Serving {
                partition: record.id,
                epoch: record.epoch,
                unserved: now.minus(since),
            });
        }
        let asking = match step {
            Promotion::Asking(inquiry) => Some(inquiry),
            _ => None,
        };
        let same = asking.as_ref().is_some_and(|inquiry| {
            trouble.is_some_and(|t| t.is_doubt() == inquiry.trouble.is_doubt())
        });
        if !same && asking.as_ref().is_some_and(|i| !i.trouble.is_doubt()) {
            work.told = None;
            self.event(SupervisorEvent::PromotionAbandoned {
                partition: record.id,
            });
        }
        let Some(trouble) = trouble else {
            return;
        };
        let inquiry = match asking {
            Some(mut inquiry) if same => {
                inquiry.trouble = Trouble {
                    since: inquiry.trouble.since,
                    ..trouble
                };
                inquiry
            }
            _ => {
                if !trouble.is_doubt() {
                    work.unserved_since.get_or_insert(now);
                }
                let rested_at = self.rested_at(now, work);
                if trouble.reason.may_be_mistaken() && now < rested_at {
                    return;
                }
                if !trouble.is_doubt() {
                    self.tell_started(now, record, trouble, work);
                }
                Inquiry::new(
                    now,
                    trouble,
                    record.epoch,
                    self.options.resend,
                    self.last_round,
                )
            }
        };
        work.promotion = self.ask(now, record, primary, work, inquiry);
    }

    fn tell_started(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        trouble: Trouble,
        work: &mut Work,
    ) {
        let told = (record.epoch, trouble.reason);
        if work.told.replace(told) != Some(told) {
            self.event(SupervisorEvent::PromotionStarted {
                partition: record.id,
                epoch: record.epoch,
                reason: trouble.reason,
            });
        }
        if trouble.reason != PromotionReason::HandedOver {
            self.quiet_since = now;
        }
    }

    /// Until when a partition that was promoted again and again is left alone.
    fn rested_at(&self, now: Micros, work: &mut Work) -> Micros {
        let Some(last) = work.last_promotion else {
            return Micros::default();
        };
        let calm = last.plus(self.options.flap_window);
        if work.unserved_since.unwrap_or(now) > calm {
            work.promotions = 0;
        }
        let Some(extra) = work.promotions.checked_sub(FLAPS_FREE) else {
            return Micros::default();
        };
        let rest = FLAP_REST.0 << extra.min(8);
        last.plus(Micros(rest.min(FLAP_REST_LONGEST.0)))
    }

    /// What is wrong with the primary of the record's epoch, if anything.
    fn trouble(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
        work: &mut Work,
    ) -> Option<Trouble> {
        // A try that came to nothing does not make the trouble any younger.
        let since = work.unserved_since.unwrap_or(now);
        let trouble = |reason, urgent| {
            Some(Trouble {
                reason,
                urgent,
                since,
                avoid: None,
                to: None,
            })
        };
        if !self.state.is_member(primary.node) {
            return trouble(PromotionReason::PrimaryGone, true);
        }
        if work.requested == Some(record.epoch) {
            return trouble(PromotionReason::Requested, true);
        }
        match self.views.health(primary.node) {
            Health::Down(why) => {
                return trouble(PromotionReason::PrimaryDown, why.is_confirmed());
            }
            // What it said last is no longer known to hold. Its ports may answer
            // although its engine hangs, so that the replicas are asked: asking has
            // no effect, and while they renew its lease nothing is done. Where the
            // lease is the primary's alone, nobody else could bear witness.
            Health::Suspect(_) => {
                let silent = self.views.detector.silent_for(now, primary.node);
                let asked = silent >= self.options.ask_after
                    && record.config.sets().all(|set| set.lease_quorum() > 1);
                return trouble(PromotionReason::PrimarySilent, false).filter(|_| asked);
            }
            Health::Unknown => return None,
            Health::Up => {}
        }
        let avoiding = |reason| {
            trouble(reason, true).map(|trouble| Trouble {
                avoid: Some(primary.replica),
                ..trouble
            })
        };
        if self
            .views
            .detector
            .is_unreachable_to_peers(now, primary.node)
        {
            return avoiding(PromotionReason::PrimaryUnreachable);
        }
        if self.views.detector.is_client_port_dead(now, primary.node)
            && self.another_hears(record, primary)
        {
            return avoiding(PromotionReason::ClientPortDead);
        }
        if let Some(status) = self.views.primary_status(record) {
            match (status.wish, status.role) {
                (Wish::HandedOver, _) => {
                    return trouble(PromotionReason::HandedOver, true).map(|trouble| Trouble {
                        to: work.hand_over.map(|h| h.to.replica),
                        ..trouble
                    });
                }
                (Wish::Replace, _) => return avoiding(PromotionReason::PrimaryCorrupt),
                (_, Role::Suspended) => return trouble(PromotionReason::PrimaryRestarted, true),
                // A primary that restarted is as good a candidate as any; one that
                // runs and is stuck is not.
                (Wish::Promote, Role::Rising | Role::Primary) => {
                    return avoiding(PromotionReason::PrimaryAsked);
                }
                (Wish::Promote, _) => return trouble(PromotionReason::PrimaryAsked, true),
                (Wish::None, Role::Primary) => {
                    if !self.is_cut_off(now, record, primary, work) {
                        return None;
                    }
                    // If the others report leases after all, they are waited for.
                    return avoiding(PromotionReason::PrimaryCutOff).map(|trouble| Trouble {
                        urgent: false,
                        ..trouble
                    });
                }
                (Wish::None, _) => {}
            }
        }
        let status = self.views.primary_status(record);
        let since = (*work.unserved_since.get_or_insert(now))
            .max(work.epoch_since)
            .max(work.progress_since(now, status));
        let catches_up = status.is_none_or(|status| {
            status.role == Role::Rising
                && status
                    .followers
                    .iter()
                    .any(|f| f.answering && !f.caught_up && record.config.is_voter(f.replica))
        });
        let patience = if catches_up {
            self.options.catch_up_timeout
        } else {
            self.options.serve_timeout
        };
        if self.heard_of(now, primary).minus(since) <= patience || !self.could_serve(record, None) {
            return None;
        }
        let reason = if self.views.is_missing(record, primary) {
            PromotionReason::PrimaryMissing
        } else {
            PromotionReason::NotServing
        };
        avoiding(reason)
    }

    /// Whether another member could take over whose client port does answer: where
    /// nobody's does, the witnesses rather than the ports are at fault.
    fn another_hears(&self, record: &PartitionRecord, primary: Member) -> bool {
        record.config.voters().into_iter().any(|m| {
            m != primary
                && self.views.is_up(m.node)
                && !self.views.detector.is_deaf(m.node)
                && !self.views.is_corrupt(record.id, m)
        })
    }

    /// Whether too few members have answered the primary for a while, although enough
    /// of the others are up: it says that it serves, and nobody is served (rule 15).
    /// Where it takes the primary as well, dropping who is lost is the way on (rule 10).
    fn is_cut_off(
        &self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
        work: &mut Work,
    ) -> bool {
        if self.views.has_quorum(record) || !self.could_serve(record, Some(primary)) {
            work.cut_off_since = None;
            return false;
        }
        let since = *work.cut_off_since.get_or_insert(now);
        self.heard_of(now, primary).minus(since) > self.options.cut_off_after
    }

    /// Until when it is known how a primary stands: of a node that has just fallen silent,
    /// or that this coordinator has just lost sight of, what it said last is all there is,
    /// and says nothing of how long it stayed so.
    fn heard_of(&self, now: Micros, primary: Member) -> Micros {
        let heard = self.views.detector.last_heard(primary.node);
        heard.unwrap_or(now)
    }

    /// Whether enough members are up, but for one, for any primary to serve at all: if
    /// not, another one would be stuck as well.
    fn could_serve(&self, record: &PartitionRecord, but: Option<Member>) -> bool {
        record.config.sets().all(|set| {
            let up = set
                .members
                .iter()
                .filter(|m| Some(**m) != but)
                .filter(|m| self.views.is_up(m.node) && !self.views.is_corrupt(record.id, **m))
                .count();
            up >= set.lease_quorum()
        })
    }

    fn ask(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
        work: &mut Work,
        mut inquiry: Inquiry,
    ) -> Promotion {
        inquiry.intact_heads = self.needs_intact_heads(now, record, &inquiry);
        let tallies = self.tallies(record, &inquiry, None);
        let enough = tallies.iter().all(|t| t.have >= t.needed);
        let held = |supervisor: &Self, inquiry: &Inquiry, set: &ReplicaSet| {
            !inquiry.trouble.urgent && supervisor.lease_holds(set, primary, inquiry)
        };
        let all_held = record.config.sets().all(|set| held(self, &inquiry, set));
        if let Some(lapse) = first_lapse(&inquiry) {
            // Whether it was renewed is worth knowing at once.
            let soonest = inquiry.last_send.plus(self.options.resend);
            inquiry.next_send = inquiry.next_send.min(lapse.max(soonest));
        }
        if now >= inquiry.next_send {
            self.last_round += 1;
            let round = self.last_round;
            for member in record.config.voters() {
                self.order(
                    member.node,
                    Order::Ask {
                        partition: record.id,
                        round,
                    },
                );
            }
            self.set_next_send(now, &mut inquiry, !enough || all_held);
        }
        if !enough {
            inquiry.enough_since = None;
            if !inquiry.trouble.is_doubt() {
                self.tell_blocked(now, record, &mut inquiry, &tallies);
            }
            if self.joint_is_hopeless(now, record, &inquiry, &tallies)
                && !held(self, &inquiry, &record.config.current)
            {
                self.propose_backward(now, record, work);
            }
            return Promotion::Asking(inquiry);
        }
        let since = *inquiry.enough_since.get_or_insert(now);
        if all_held {
            return Promotion::Asking(inquiry);
        }
        // Asking ranks nobody: where the lease decides nothing, the rest need not be
        // heard. Where it does, one that is still to answer may report it as current.
        if !inquiry.trouble.urgent
            && !self.all_expected_answered(record, &inquiry, Some(primary))
            && now < since.plus(self.options.gather)
        {
            return Promotion::Asking(inquiry);
        }
        if inquiry.trouble.is_doubt() {
            work.unserved_since.get_or_insert(now);
            self.tell_started(now, record, inquiry.trouble, work);
        }
        self.propose(
            now,
            work,
            Command::RaiseEpoch {
                partition: record.id,
                epoch: record.epoch,
            },
        );
        Promotion::Raising(inquiry.trouble)
    }

    fn fence(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        work: &mut Work,
        mut inquiry: Inquiry,
    ) -> Promotion {
        if now >= inquiry.next_send {
            self.last_round += 1;
            let round = self.last_round;
            let unanswered: Vec<Member> = record
                .config
                .voters()
                .into_iter()
                .filter(|m| !inquiry.answers.contains_key(&m.replica))
                .collect();
            for member in unanswered {
                self.order(
                    member.node,
                    Order::Fence {
                        partition: record.id,
                        epoch: record.epoch,
                        round,
                    },
                );
            }
            self.set_next_send(now, &mut inquiry, true);
        }
        inquiry.intact_heads = self.needs_intact_heads(now, record, &inquiry);
        let tallies = self.tallies(record, &inquiry, None);
        if !tallies.iter().all(|t| t.have >= t.needed) {
            inquiry.enough_since = None;
            self.tell_blocked(now, record, &mut inquiry, &tallies);
            if self.joint_is_hopeless(now, record, &inquiry, &tallies) {
                self.propose_backward(now, record, work);
            }
            return Promotion::Fencing(inquiry);
        }
        let since = *inquiry.enough_since.get_or_insert(now);
        let sure = tallies.iter().all(|t| t.have >= t.sure);
        let patience = if sure {
            self.options.gather
        } else {
            Micros(self.options.gather.0 * PATIENCE_WHERE_LOSSY)
        };
        let settled = self.all_expected_answered(record, &inquiry, None)
            && (sure || self.absent_are_down(record, &inquiry));
        if !settled && now < since.plus(patience) {
            return Promotion::Fencing(inquiry);
        }
        let mut ready_at = inquiry.leases_until;
        if self.state.is_forced(record.id) {
            // Members that a person wrote off may have granted what nobody here knows.
            ready_at = ready_at.max(inquiry.since.plus(self.lease_longest()));
        }
        if now < ready_at && !is_seeded(Bug::NameBeforeLeasesEnd) {
            return Promotion::Fencing(inquiry);
        }
        let Some(chosen) = self.choose(record, &inquiry) else {
            return Promotion::Fencing(inquiry);
        };
        self.propose(
            now,
            work,
            Command::NamePrimary {
                partition: record.id,
                epoch: record.epoch,
                primary: chosen.named.primary,
                loss: chosen.loss,
            },
        );
        let named = Named {
            waited: ready_at.minus(since),
            ..chosen.named
        };
        Promotion::Naming(inquiry, named)
    }

    fn set_next_send(&self, now: Micros, inquiry: &mut Inquiry, back_off: bool) {
        inquiry.last_send = now;
        inquiry.next_send = now.plus(inquiry.pause);
        inquiry.pause = if back_off {
            Micros((inquiry.pause.0 * 2).min(self.options.resend_longest.0))
        } else {
            self.options.resend
        };
    }

    /// Whether an answer counts: whole, or as good as that where too few are, and its
    /// node has not failed since.
    fn counts(&self, inquiry: &Inquiry, answer: &Answer) -> bool {
        let report = &answer.report;
        let knows_its_head = report.whole || (inquiry.intact_heads && report.head_intact);
        knows_its_head && self.is_reachable(report.member.node)
    }

    /// Whether the whole replicas that may be hoped for are too few without those that
    /// merely know their heads (rule 12).
    fn needs_intact_heads(&self, now: Micros, record: &PartitionRecord, inquiry: &Inquiry) -> bool {
        let waited = now >= inquiry.since.plus(self.options.gather);
        if !waited && !self.all_expected_answered(record, inquiry, None) {
            return false;
        }
        record.config.sets().any(|set| {
            let whole = set
                .members
                .iter()
                .filter_map(|m| inquiry.answers.get(&m.replica))
                .filter(|a| a.report.whole && self.is_reachable(a.report.member.node))
                .count();
            whole < self.needed(record, set)
        })
    }

    /// Whether members of the set other than the primary, one fewer than the lease's
    /// quorum, report a current lease: then the primary is alive and serves (rule 1).
    ///
    /// A grant that was current when it was reported counts until its replica says
    /// otherwise, for by the time at which it would have run out it may have been
    /// renewed, and an answer that is late must not fence a healthy pair. Where as
    /// many as that are mute, too few are left for a promotion in any case.
    fn lease_holds(&self, set: &ReplicaSet, primary: Member, inquiry: &Inquiry) -> bool {
        let others = set.lease_quorum().saturating_sub(1);
        let current = set
            .members
            .iter()
            .filter(|m| **m != primary)
            .filter_map(|m| inquiry.answers.get(&m.replica))
            .filter(|a| a.report.lease_current && self.is_reachable(a.report.member.node))
            .count();
        others > 0 && current >= others
    }

    fn is_reachable(&self, node: NodeId) -> bool {
        self.state.is_member(node)
            && self.views.detector.is_connected(node)
            && !self.views.health(node).is_down()
    }

    /// How many members of each set answered, but for one that is passed over.
    fn tallies(
        &self,
        record: &PartitionRecord,
        inquiry: &Inquiry,
        except: Option<ReplicaId>,
    ) -> Vec<Tally> {
        let voters = record.config.voters();
        record
            .config
            .sets()
            .map(|set| Tally {
                have: voters
                    .iter()
                    .filter(|m| set.contains(m.replica) || is_seeded(Bug::CountStrangers))
                    .filter(|m| Some(m.replica) != except)
                    .filter(|m| {
                        inquiry
                            .answers
                            .get(&m.replica)
                            .is_some_and(|a| self.counts(inquiry, a))
                    })
                    .count(),
                needed: self.needed(record, set),
                sure: set.inspection_quorum(),
            })
            .collect()
    }

    fn needed(&self, record: &PartitionRecord, set: &ReplicaSet) -> usize {
        promotion_needs(set, self.state.is_eventual(record.id))
    }

    /// Whether everyone answered of whom an answer can be hoped for, but for one whose
    /// answer makes no difference.
    fn all_expected_answered(
        &self,
        record: &PartitionRecord,
        inquiry: &Inquiry,
        except: Option<Member>,
    ) -> bool {
        record.config.voters().iter().all(|m| {
            inquiry.answers.contains_key(&m.replica)
                || Some(*m) == except
                || !self.is_reachable(m.node)
                // A damaged replica that its node has replaced already.
                || record.config.on_node(m.node) != Some(*m)
        })
    }

    /// Whether everyone who did not answer counts as failed, so that there is nobody
    /// to wait for.
    fn absent_are_down(&self, record: &PartitionRecord, inquiry: &Inquiry) -> bool {
        record.config.voters().iter().all(|m| {
            inquiry.answers.contains_key(&m.replica)
                || !self.state.is_member(m.node)
                || self.views.health(m.node).is_down()
        })
    }

    fn tell_blocked(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        inquiry: &mut Inquiry,
        tallies: &[Tally],
    ) {
        if inquiry.told_blocked || now.minus(inquiry.since) < TELL_BLOCKED {
            return;
        }
        let worst = tallies
            .iter()
            .max_by_key(|t| t.needed.saturating_sub(t.have));
        if let Some(Tally { have, needed, .. }) = worst.copied() {
            inquiry.told_blocked = true;
            self.event(SupervisorEvent::PromotionBlocked {
                partition: record.id,
                have,
                need: needed,
            });
        }
    }

    /// Whether only the new set of a joint configuration lacks answers, and for so
    /// long that the old set should go on alone (rule 11).
    fn joint_is_hopeless(
        &self,
        now: Micros,
        record: &PartitionRecord,
        inquiry: &Inquiry,
        tallies: &[Tally],
    ) -> bool {
        record.config.joint.is_some()
            && now.minus(inquiry.since) > self.options.catch_up_timeout
            && tallies.first().is_some_and(|old| old.have >= old.needed)
    }

    pub(super) fn propose_backward(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        work: &mut Work,
    ) {
        self.propose(
            now,
            work,
            Command::LeaveJoint {
                partition: record.id,
                epoch: record.epoch,
                direction: Direction::Backward,
            },
        );
    }

    /// The best of those who count, and what naming it may lose.
    fn choose(&self, record: &PartitionRecord, inquiry: &Inquiry) -> Option<Chosen> {
        let passed_over = inquiry.trouble.avoid.filter(|replica| {
            // Passing over is sound only where the others are enough without it. Where
            // W is 1 that may cost writes, and is done only for one that its peers do
            // not reach: rule 9 speaks of the reachable ones.
            let may_lose = inquiry.trouble.reason == PromotionReason::PrimaryUnreachable;
            self.tallies(record, inquiry, Some(*replica))
                .iter()
                .all(|t| {
                    t.have
                        >= if may_lose {
                            t.needed
                        } else {
                            t.sure.max(t.needed)
                        }
                })
        });
        let counted: Vec<&ReplicaReport> = inquiry
            .answers
            .values()
            .filter(|a| self.counts(inquiry, a))
            .map(|a| &a.report)
            .filter(|r| Some(r.member.replica) != passed_over)
            .filter(|r| record.config.voters().contains(&r.member))
            .collect();
        let seat = |member: Member| {
            record
                .config
                .sets()
                .flat_map(|s| s.members.iter())
                .position(|m| *m == member)
                .unwrap_or(usize::MAX)
        };
        let rank = |head: Position| {
            if is_seeded(Bug::RankByIndex) {
                (Epoch::ZERO, head.index)
            } else {
                (head.epoch, head.index)
            }
        };
        // By head first; the rest only settles ties.
        let best = counted.iter().max_by_key(|r| {
            (
                rank(r.head),
                // The others need not ask anyone for what they lack.
                r.whole,
                !self.views.detector.is_deaf(r.member.node),
                !self.views.is_draining(r.member.node),
                !self.views.is_full(r.member.node),
                Some(r.member.replica) == inquiry.trouble.to,
                std::cmp::Reverse(seat(r.member)),
            )
        })?;
        let sure = self
            .tallies(record, inquiry, passed_over)
            .iter()
            .all(|t| t.have >= t.sure);
        let absent: Vec<Member> = record
            .config
            .voters()
            .into_iter()
            .filter(|m| !counted.iter().any(|r| r.member == *m))
            .collect();
        let entries_known = absent
            .iter()
            .filter_map(|m| {
                let told = inquiry.answers.get(&m.replica).map(|a| a.report.head);
                let last = self.views.last_status(record.id, *m).map(|s| s.head);
                told.max(last)
            })
            .map(|head| head.index.0.saturating_sub(best.head.index.0))
            .max()
            .unwrap_or(0);
        let lossy = !sure || self.state.is_forced(record.id);
        Some(Chosen {
            named: Named {
                primary: best.member,
                head: best.head,
                waited: Micros::default(),
                absent: absent.len(),
            },
            loss: lossy.then_some(Loss { entries_known }),
        })
    }

    pub(super) fn on_report(&mut self, now: Micros, from: NodeId, report: ReplicaReport) {
        let Some(record) = self.state.partition(report.partition) else {
            return;
        };
        let known = report.member.node == from
            && record.config.voters().contains(&report.member)
            && report.round <= self.last_round;
        if !known {
            return;
        }
        let Some(work) = self.works.get_mut(&report.partition) else {
            return;
        };
        let inquiry = match &mut work.promotion {
            Promotion::Asking(inquiry) => inquiry,
            Promotion::Fencing(inquiry) | Promotion::Naming(inquiry, _)
                // A head counts only in the epoch that it was reported for: before it
                // promised this one the replica may have accepted more. And it counts
                // only as the answer to a fence: a question that came late is answered
                // as well, by a replica that has merely heard of the epoch.
                if report.fenced
                    && report.promised == inquiry.epoch
                    && record.epoch == inquiry.epoch =>
            {
                inquiry
            }
            _ => return,
        };
        if report.round < inquiry.first_round {
            return;
        }
        let answer = work::Answer {
            received: now,
            report,
        };
        inquiry.leases_until = inquiry.leases_until.max(answer.lease_until());
        let partition = answer.report.partition;
        inquiry.answers.insert(answer.report.member.replica, answer);
        self.dirty.insert(partition);
    }
}

#[derive(Debug)]
struct Chosen {
    named: Named,
    loss: Option<Loss>,
}

/// When the first of the grants that were reported as current runs out, unless it is
/// renewed.
fn first_lapse(inquiry: &Inquiry) -> Option<Micros> {
    inquiry
        .answers
        .values()
        .filter(|a| a.report.lease_current)
        .map(Answer::lease_until)
        .min()
}
