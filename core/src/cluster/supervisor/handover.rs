//! Handing over: a promotion that the primary prepares (rule 11). For nodes that
//! drain, for people who ask, and to bring primaries back to where the ring puts
//! them, a few at a time, once nothing has happened for a while.
//!
//! A node that is cordoned gets none of them while another can have it: it is about to go,
//! and what it handed over would only have to move again. Whoever is named after a failure is
//! chosen by what it holds alone.
//!
//! A replica whose process has just started counts as having granted a whole lease (rule 5),
//! which whoever is named next has to wait out while nobody serves. The old primary serves on
//! until then.

use std::collections::BTreeMap;

use super::Supervisor;
use super::io::{AdminRequest, SupervisorEvent};
use super::work::{HandOver, Work};
use crate::cluster::report::Order;
use crate::ids::{Micros, NodeId, PartitionId};
use crate::record::{Member, PartitionRecord};

/// How many handovers to where replicas belong may be under way at a time, of those that
/// one node leads.
const SEATED_AT_ONCE: usize = 16;

/// Who leads how much, once what is under way is done.
#[derive(Debug, Default)]
pub(super) struct Leads {
    /// Partitions by the node that leads them.
    partitions: BTreeMap<NodeId, usize>,
    /// Handovers under way by the node that hands over.
    under_way: BTreeMap<NodeId, usize>,
    /// Of all of them, those for balance.
    for_balance: usize,
}

impl Supervisor {
    pub(super) fn hand_over(&mut self, now: Micros, record: &PartitionRecord, work: &mut Work) {
        if let Some(under_way) = work.hand_over {
            let over = under_way.epoch != record.epoch
                || now.minus(under_way.since) >= self.options.hand_over_timeout;
            if !over {
                return;
            }
            // Nothing came of it: the order or the answer was lost, or the successor
            // could not follow. If the primary stopped serving over it, that is seen.
            work.hand_over = None;
        }
        let Some(primary) = record.primary else {
            return;
        };
        let steady = self.views.is_serving(record)
            && record.config.joint.is_none()
            && record.config.learners.is_empty();
        if !steady {
            return;
        }
        let asked = work.hand_over_asked;
        let draining = self.views.is_draining(primary.node);
        let seats = self.state.seats(record.id);
        let preferred = seats.first() == Some(&primary.node);
        let kept = work.kept_for_heat.is_some() && seats.contains(&primary.node);
        if (preferred || kept) && !draining && asked.is_none() {
            work.hand_over_waits = None;
            return;
        }
        if self.awaits_starters(now, record, work) {
            return;
        }
        self.count_leads();
        let (to, for_balance) = if draining {
            (self.best_successor(record, primary), false)
        } else if let Some(node) = asked {
            let to = match node {
                Some(node) => self.successors(record, primary).find(|m| m.node == node),
                None => self.best_successor(record, primary),
            };
            (to, false)
        } else if !self.state.seats(record.id).contains(&primary.node) {
            if self.handing_over(primary.node) >= SEATED_AT_ONCE {
                return;
            }
            (self.seated_successor(record, primary), false)
        } else {
            (self.balanced_successor(now, record, primary), true)
        };
        let Some(to) = to else {
            if asked.is_some() {
                work.hand_over_asked = None;
                self.event(SupervisorEvent::RequestRefused {
                    partition: record.id,
                    reason: "no such member follows closely enough to take over".to_owned(),
                });
            }
            return;
        };
        if let Some(leads) = &mut self.leads {
            *leads.partitions.entry(to.node).or_default() += 1;
            let before = leads.partitions.entry(primary.node).or_default();
            *before = before.saturating_sub(1);
            *leads.under_way.entry(primary.node).or_default() += 1;
            leads.for_balance += usize::from(for_balance);
        }
        work.hand_over_asked = None;
        work.hand_over = Some(HandOver {
            to,
            epoch: record.epoch,
            since: now,
            for_balance,
        });
        self.event(SupervisorEvent::HandOverOrdered {
            partition: record.id,
            to,
        });
        self.order(
            primary.node,
            Order::HandOver {
                partition: record.id,
                epoch: record.epoch,
                to,
            },
        );
    }

    /// Whether a handover now would have to wait for leases that a process which has just
    /// started may have granted before. For as long as that at most: a node that stops has only so
    /// much time, and processes may start again and again.
    fn awaits_starters(&self, now: Micros, record: &PartitionRecord, work: &mut Work) -> bool {
        let lease = self.lease_longest();
        let starts = |m: &Member| self.views.is_up(m.node) && !self.is_up_for(now, m.node, lease);
        if !record.config.voters().iter().any(starts) {
            work.hand_over_waits = None;
            return false;
        }
        let since = *work.hand_over_waits.get_or_insert(now);
        now.minus(since) < lease
    }

    /// Members that could take over at once.
    pub(super) fn successors(
        &self,
        record: &PartitionRecord,
        primary: Member,
    ) -> impl Iterator<Item = Member> {
        record
            .config
            .current
            .members
            .iter()
            .copied()
            .filter(move |m| *m != primary)
            .filter(|m| {
                self.views.is_up(m.node)
                    && !self.views.is_draining(m.node)
                    && !self.views.is_full(m.node)
                    && !self.views.detector.is_deaf(m.node)
                    && !self.views.is_corrupt(record.id, *m)
                    && self
                        .views
                        .follower(record, *m)
                        .is_some_and(|f| f.caught_up && f.answering)
            })
    }

    /// Of those, the one on the node that leads the fewest, so that what a draining
    /// node led is spread; one on a node that leaves, or is cordoned, only where there is no
    /// other, and one that could commit nothing only where none can.
    fn best_successor(&self, record: &PartitionRecord, primary: Member) -> Option<Member> {
        self.successors(record, primary)
            .min_by_key(|m| self.worth(record, *m))
    }

    /// The lower, the better.
    fn worth(&self, record: &PartitionRecord, member: Member) -> (bool, bool, usize) {
        let node = member.node;
        (
            !self.could_commit(record, member),
            self.is_to_go(node),
            self.leads(node),
        )
    }

    /// Whether the member reaches as many others as a write needs, of those that stay: nodes
    /// that were restarted at the same time may not know each other's new addresses yet.
    fn could_commit(&self, record: &PartitionRecord, member: Member) -> bool {
        record.config.sets().all(|set| {
            let reached = set.members.iter().filter(|m| {
                **m == member
                    || self.views.is_up(m.node)
                        && !self.views.is_draining(m.node)
                        && self.views.detector.reach(member.node, m.node)
            });
            reached.count() >= set.lease_quorum()
        })
    }

    /// Who takes over from a primary that has no seat any more: until then it cannot be
    /// replaced.
    fn seated_successor(&self, record: &PartitionRecord, primary: Member) -> Option<Member> {
        let seats = self.state.seats(record.id);
        self.successors(record, primary)
            .filter(|m| seats.contains(&m.node))
            .min_by_key(|m| self.worth(record, *m))
    }

    /// Whether the node is not to lead for long.
    pub(super) fn is_to_go(&self, node: NodeId) -> bool {
        self.state.leaving(node).is_some() || self.cordoned_until(node).is_some()
    }

    /// Until when the node is to get no primary, if it is now.
    pub(super) fn cordoned_until(&self, node: NodeId) -> Option<u64> {
        let until = self.cordoned.get(&node).copied();
        until.filter(|until| *until > self.unix_ms)
    }

    fn cordon(&mut self, node: NodeId, until_unix_ms: u64) {
        let state = &self.state;
        self.cordoned.retain(|node, _| state.is_member(*node));
        if until_unix_ms == 0 {
            self.cordoned.remove(&node);
        } else if self.leading && state.is_member(node) {
            self.cordoned.insert(node, until_unix_ms);
        }
    }

    /// Counts who leads how much, once in a turn: for a table of thousands of partitions
    /// it would take too long to do so for each.
    fn count_leads(&mut self) {
        if self.leads.is_some() {
            return;
        }
        let mut leads = Leads::default();
        for record in self.state.partitions() {
            let under_way = self.works.get(&record.id).and_then(|work| work.hand_over);
            if let (Some(hand_over), Some(primary)) = (under_way, record.primary) {
                *leads.under_way.entry(primary.node).or_default() += 1;
                leads.for_balance += usize::from(hand_over.for_balance);
            }
            if let Some(next) = under_way.map(|h| h.to).or(record.primary) {
                *leads.partitions.entry(next.node).or_default() += 1;
            }
        }
        self.leads = Some(leads);
    }

    /// How many partitions a node leads, or is about to.
    fn leads(&self, node: NodeId) -> usize {
        let leads = self.leads.as_ref();
        leads.map_or(0, |leads| leads.partitions.get(&node).copied().unwrap_or(0))
    }

    /// How many a node is handing over.
    fn handing_over(&self, node: NodeId) -> usize {
        let leads = self.leads.as_ref();
        leads.map_or(0, |leads| leads.under_way.get(&node).copied().unwrap_or(0))
    }

    /// The preferred primary, where it is time to go back to it.
    fn balanced_successor(
        &self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
    ) -> Option<Member> {
        let preferred = *self.state.seats(record.id).first()?;
        let calm = self.options.balance_after;
        if !self.options.balance_primaries
            || record.degraded
            || primary.node == preferred
            || now.minus(self.quiet_since) < calm
            || !self.is_up_for(now, preferred, calm)
            || self.is_announced(preferred)
            || self.cordoned_until(preferred).is_some()
        {
            return None;
        }
        let under_way = self.leads.as_ref().map_or(0, |leads| leads.for_balance);
        if under_way >= self.options.balance_at_once {
            return None;
        }
        self.successors(record, primary)
            .find(|m| m.node == preferred)
    }

    pub(super) fn on_admin(&mut self, now: Micros, request: AdminRequest) {
        match request {
            AdminRequest::HandOver { partition, to } => {
                self.note_asked(now, partition, |work, _| work.hand_over_asked = Some(to));
            }
            // Without a primary a promotion is under way already.
            AdminRequest::Promote { partition } => {
                self.note_asked(now, partition, |work, record| {
                    work.requested = record.primary.map(|_| record.epoch);
                })
            }
            AdminRequest::Cordon {
                node,
                until_unix_ms,
            } => self.cordon(node, until_unix_ms),
        }
    }

    /// Notes what is asked of a partition.
    fn note_asked(
        &mut self,
        now: Micros,
        partition: PartitionId,
        note: impl FnOnce(&mut Work, &PartitionRecord),
    ) {
        let Some(record) = self.state.partition(partition).cloned() else {
            self.refuse(partition, "there is no such partition");
            return;
        };
        if !self.leading {
            self.refuse(partition, "this coordinator does not lead");
            return;
        }
        let work = self
            .works
            .entry(partition)
            .or_insert_with(|| Work::new(now, &record));
        note(work, &record);
        self.dirty.insert(partition);
    }

    fn refuse(&mut self, partition: PartitionId, reason: &str) {
        self.event(SupervisorEvent::RequestRefused {
            partition,
            reason: reason.to_owned(),
        });
    }
}
