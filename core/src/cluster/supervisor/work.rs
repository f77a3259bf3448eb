//! What the leader remembers of one partition. Lost with its leadership, and made
//! anew from the state and from what data nodes tell.

use std::collections::BTreeMap;

use super::io::{Output, PromotionReason, SupervisorEvent};
use crate::cluster::report::{PartitionStatus, ReplicaReport, Role};
use crate::ids::{Epoch, Index, Micros, NodeId, Position, ReplicaId};
use crate::record::{Member, PartitionRecord};

/// The promotion of a partition, step by step.
#[derive(Debug)]
pub(super) enum Promotion {
    /// Nothing to do.
    Idle,
    /// Asking without effect.
    Asking(Inquiry),
    /// The raise is proposed.
    Raising(Trouble),
    /// The epoch is raised: replicas promise it and report; then their leases are
    /// waited out.
    Fencing(Inquiry),
    /// The naming is proposed.
    Naming(Inquiry, Named),
}

impl Promotion {
    pub(super) fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    pub(super) fn inquiry_mut(&mut self) -> Option<&mut Inquiry> {
        match self {
            Self::Asking(inquiry) | Self::Fencing(inquiry) | Self::Naming(inquiry, _) => {
                Some(inquiry)
            }
            Self::Idle | Self::Raising(_) => None,
        }
    }

    /// What the promotion is about, whatever step it is at.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::Idle => None,
            Self::Raising(trouble) => Some(*trouble),
            Self::Asking(inquiry) | Self::Fencing(inquiry) | Self::Naming(inquiry, _) => {
                Some(inquiry.trouble)
            }
        }
    }
}

/// Who is to be named, and what was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    pub(super) primary: Member,
    pub(super) head: Position,
    pub(super) waited: Micros,
    /// How many voters were not counted.
    pub(super) absent: usize,
}

/// Why there is to be a new primary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) reason: PromotionReason,
    /// Whether leases that replicas report are no reason to wait before fencing.
    pub(super) urgent: bool,
    pub(super) since: Micros,
    /// A replica that is passed over where the others suffice: it was primary and
    /// could not serve.
    pub(super) avoid: Option<ReplicaId>,
    /// Whom the old primary handed over to.
    pub(super) to: Option<ReplicaId>,
}

impl Trouble {
    /// Whether it is not known yet that there is any: then nothing is said of it
    /// before the replicas' answers bear it out.
    pub(super) fn is_doubt(&self) -> bool {
        self.reason == PromotionReason::PrimarySilent
    }
}

/// A round of questions.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) trouble: Trouble,
    /// The epoch asked about.
    pub(super) epoch: Epoch,
    /// Answers to earlier rounds belong to an earlier inquiry.
    pub(super) first_round: u64,
    pub(super) since: Micros,
    pub(super) last_send: Micros,
    pub(super) next_send: Micros,
    pub(super) pause: Micros,
    /// The newest answer of each replica.
    pub(super) answers: BTreeMap<ReplicaId, Answer>,
    /// Since when enough have answered.
    pub(super) enough_since: Option<Micros>,
    /// Until when grants may last, of every answer there ever was in this inquiry:
    /// an answer that counts no longer still told of a grant.
    pub(super) leases_until: Micros,
    pub(super) told_blocked: bool,
    /// Too few whole replicas are left: those that know their heads for certain count
    /// as well (rule 12).
    pub(super) intact_heads: bool,
}

impl Inquiry {
    pub(super) fn new(
        now: Micros,
        trouble: Trouble,
        epoch: Epoch,
        pause: Micros,
        last_round: u64,
    ) -> Self {
        Self {
            trouble,
            epoch,
            first_round: last_round + 1,
            since: now,
            last_send: Micros::default(),
            next_send: now,
            pause,
            answers: BTreeMap::new(),
            enough_since: None,
            leases_until: Micros::default(),
            told_blocked: false,
            intact_heads: false,
        }
    }
}

/// A report and when it came.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) report: ReplicaReport,
    pub(super) received: Micros,
}

impl Answer {
    /// Until when grants that this answer tells of may last.
    pub(super) fn lease_until(&self) -> Micros {
        self.received.plus(self.report.lease_remaining)
    }
}

/// How far a primary that does not serve yet has got.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Progress {
    role: Role,
    head: Position,
    commit: Index,
    /// Summed over the other replicas.
    matched: u64,
    answering: usize,
}

/// A handover that was ordered.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandOver {
    pub(super) to: Member,
    pub(super) epoch: Epoch,
    pub(super) since: Micros,
    pub(super) for_balance: bool,
}

/// All that is remembered of one partition.
#[derive(Debug)]
pub(super) struct Work {
    epoch: Epoch,
    pub(super) promotion: Promotion,
    /// Since when a proposal about the partition is under way.
    pub(super) pending: Option<Micros>,
    /// Not looked at before.
    pub(super) rest_until: Micros,
    /// When the record's epoch was first seen.
    pub(super) epoch_since: Micros,
    /// Since when no primary has served.
    pub(super) unserved_since: Option<Micros>,
    /// How far the primary has got on its way to serving, and since when.
    progress: (Option<Progress>, Micros),
    /// Since when too few members answer the primary, while others could serve.
    pub(super) cut_off_since: Option<Micros>,
    /// Members, learners and joiners that do not answer, and since when.
    pub(super) silent: BTreeMap<ReplicaId, Micros>,
    /// Promotions within the window of flapping.
    pub(super) promotions: u32,
    pub(super) last_promotion: Option<Micros>,
    pub(super) hand_over: Option<HandOver>,
    /// A person asked for a promotion in this epoch.
    pub(super) requested: Option<Epoch>,
    /// The trouble that was told last: it is told once in an epoch.
    pub(super) told: Option<(Epoch, PromotionReason)>,
    /// A person asked for a handover, to this node where one is named.
    pub(super) hand_over_asked: Option<Option<NodeId>>,
    /// Since when a handover waits for nodes that have just started.
    pub(super) hand_over_waits: Option<Micros>,
    /// It is led where its heat wants it, whatever the ring says: when it was last hot.
    pub(super) kept_for_heat: Option<Micros>,
    /// When a change of the configuration may be tried again, after one was given up.
    pub(super) change_after: Micros,
    /// How many learners in a row were too slow.
    pub(super) slow_learners: u32,
}

impl Work {
    pub(super) fn new(now: Micros, record: &PartitionRecord) -> Self {
        Self {
            epoch: record.epoch,
            promotion: Promotion::Idle,
            pending: None,
            rest_until: Micros::default(),
            epoch_since: now,
            unserved_since: None,
            progress: (None, Micros::default()),
            cut_off_since: None,
            silent: BTreeMap::new(),
            promotions: 0,
            last_promotion: None,
            hand_over: None,
            requested: None,
            told: None,
            hand_over_asked: None,
            hand_over_waits: None,
            kept_for_heat: None,
            change_after: Micros::default(),
            slow_learners: 0,
        }
    }

    /// Follows the record to where it is now, whoever brought it there.
    pub(super) fn follow(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        outputs: &mut Vec<Output>,
    ) {
        if self.epoch != record.epoch {
            self.epoch = record.epoch;
            self.epoch_since = now;
            self.pending = None;
            self.hand_over = None;
            self.requested = None;
            self.cut_off_since = None;
            self.unserved_since.get_or_insert(now);
        }
        match (&self.promotion, record.primary) {
            (Promotion::Naming(inquiry, named), Some(primary)) => {
                if primary == named.primary && inquiry.epoch == record.epoch {
                    outputs.push(Output::Event(SupervisorEvent::Promoted {
                        partition: record.id,
                        epoch: record.epoch,
                        primary,
                        head: named.head,
                        took: now.minus(inquiry.trouble.since),
                        waited_for_leases: named.waited,
                    }));
                }
                if inquiry.trouble.reason != PromotionReason::HandedOver {
                    self.promotions += 1;
                    self.last_promotion = Some(now);
                }
                self.pending = None;
                self.promotion = Promotion::Idle;
                // A named primary has its time to begin serving from here.
                self.epoch_since = now;
            }
            // Somebody else named it, or the epoch was raised with its primary kept.
            (Promotion::Fencing(_) | Promotion::Raising(_), Some(_)) if self.pending.is_none() => {
                self.promotion = Promotion::Idle;
                self.epoch_since = now;
            }
            (Promotion::Asking(inquiry), Some(_)) if inquiry.epoch != record.epoch => {
                self.promotion = Promotion::Idle;
            }
            _ => {}
        }
    }

    /// Forgets a proposal whose outcome was never told, by whatever mishap: a
    /// partition that waited for it for ever would never get a primary again. What
    /// is proposed twice is a compare-and-set, and refused the second time.
    pub(super) fn expire_pending(&mut self, now: Micros, timeout: Micros) {
        // One time-out for the entry before it, one for its own, one to spare.
        self.pending
            .take_if(|since| now.minus(*since) > Micros(timeout.0 * 3));
    }

    /// Who is proposed as primary, if anyone.
    pub(super) fn named(&self) -> Option<&Named> {
        match &self.promotion {
            Promotion::Naming(_, named) => Some(named),
            _ => None,
        }
    }

    /// Since when the primary has stood where it stands.
    pub(super) fn progress_since(
        &mut self,
        now: Micros,
        status: Option<&PartitionStatus>,
    ) -> Micros {
        let progress = status.map(|s| Progress {
            role: s.role,
            head: s.head,
            commit: s.commit,
            matched: s.followers.iter().map(|f| f.matched.0).sum(),
            answering: s.followers.iter().filter(|f| f.answering).count(),
        });
        if progress != self.progress.0 {
            self.progress = (progress, now);
        }
        self.progress.1
    }

    /// Answers of a process that is no more count no longer.
    pub(super) fn forget_answers_of(&mut self, node: NodeId) {
        if let Some(inquiry) = self.promotion.inquiry_mut() {
            inquiry
                .answers
                .retain(|_, answer| answer.report.member.node != node);
            inquiry.next_send = Micros::default();
        }
    }

    /// Whether something is under way that time alone brings on.
    pub(super) fn is_busy(&self, now: Micros) -> bool {
        !self.promotion.is_idle()
            || self.pending.is_some()
            || self.hand_over.is_some()
            || self.hand_over_asked.is_some()
            || self.hand_over_waits.is_some()
            || self.requested.is_some()
            || self.unserved_since.is_some()
            || self.cut_off_since.is_some()
            || !self.silent.is_empty()
            || now < self.rest_until
    }
}
