//! Changing configurations: dropping what stops writes (rule 10), putting replicas
//! back on their seats (rules 11 and 12).
//!
//! Every step is judged anew from the record and from what the primary says, so that
//! a new leader goes on where the old one stopped:
//!
//! ```text
//! seat empty or damaged -> learner -> caught up -> joint -> barrier in both -> done
//!                             |                      |
//!                             v given up             v backwards
//! ```

use super::Supervisor;
use super::work::Work;
use crate::cluster::command::{Command, Direction};
use crate::cluster::failure_detector::Health;
use crate::cluster::report::Wish;
use crate::cluster::state::may_shrink;
use crate::ids::{Micros, NodeId, ReplicaId};
use crate::record::{Member, PartitionRecord, ReplicaSet};
use crate::seeded::{Bug, is_seeded};

/// What a new replica on a node does to the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// It takes this member's place.
    Of(Member),
    /// It is one more.
    Added,
}

impl Supervisor {
    pub(super) fn reconfigure(&mut self, now: Micros, record: &PartitionRecord, work: &mut Work) {
        let Some(primary) = record.primary else {
            return;
        };
        if !self.views.is_up(primary.node) || self.views.primary_status(record).is_none() {
            // Whoever the primary may be silent towards is not known.
            return;
        }
        self.note_silence(now, record, primary, work);
        if record.config.joint.is_some() {
            self.settle_joint(now, record, work);
        } else if let Some(keep) = self.shrunken(now, record, primary, work) {
            self.propose(
                now,
                work,
                Command::Shrink {
                    partition: record.id,
                    epoch: record.epoch,
                    keep,
                },
            );
        } else if let Some(learner) = record.config.learners.first().copied() {
            self.settle_learner(now, record, learner, work);
        } else if now >= work.change_after
            && self.views.is_serving(record)
            && let Some(node) = self.wanted_learner(now, record, work)
        {
            *self.joining_on(node) += 1;
            self.propose(
                now,
                work,
                Command::AddLearner {
                    partition: record.id,
                    epoch: record.epoch,
                    revision: record.revision,
                    node,
                },
            );
        }
    }

    /// Keeps track of which replicas do not answer, and since when.
    fn note_silence(
        &self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
        work: &mut Work,
    ) {
        let replicas = record.config.replicas();
        work.silent
            .retain(|replica, _| replicas.iter().any(|m| m.replica == *replica));
        for member in replicas {
            if member != primary && self.is_silent(record, member) {
                work.silent.entry(member.replica).or_insert(now);
            } else {
                work.silent.remove(&member.replica);
            }
        }
    }

    fn is_silent(&self, record: &PartitionRecord, member: Member) -> bool {
        !self.state.is_member(member.node)
            || self.views.health(member.node).is_down()
            || self.views.is_corrupt(record.id, member)
            || self.views.is_missing(record, member)
            || !self
                .views
                .follower(record, member)
                .is_some_and(|f| f.answering)
    }

    fn silent_for(&self, now: Micros, replica: ReplicaId, work: &Work) -> Micros {
        work.silent
            .get(&replica)
            .map_or(Micros::default(), |since| now.minus(*since))
    }

    /// Leaves a joint configuration: forwards as soon as the primary serves in it, for
    /// then its barrier is in both sets; backwards where it cannot.
    fn settle_joint(&mut self, now: Micros, record: &PartitionRecord, work: &mut Work) {
        if self.views.is_serving(record) || is_seeded(Bug::LeaveJointEarly) {
            self.propose(
                now,
                work,
                Command::LeaveJoint {
                    partition: record.id,
                    epoch: record.epoch,
                    direction: Direction::Forward,
                },
            );
            return;
        }
        let stuck = record.config.sets().any(|set| {
            let lost = set
                .members
                .iter()
                .filter(|m| self.silent_for(now, m.replica, work) >= self.options.shrink_after)
                .count();
            set.len() - lost < set.lease_quorum().max(set.write_quorum())
        });
        if stuck || now.minus(work.epoch_since) > self.options.joiner_timeout {
            work.change_after = now.plus(self.options.repair_after);
            self.propose_backward(now, record, work);
        }
    }

    /// Whom to keep, where someone is to be dropped so that writes can go on.
    fn shrunken(
        &self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
        work: &Work,
    ) -> Option<Vec<ReplicaId>> {
        let settings = self.state.settings()?;
        let set = &record.config.current;
        // A primary that is damaged or stuck is dealt with by a promotion.
        let sound = self
            .views
            .primary_status(record)
            .is_some_and(|s| s.wish == Wish::None);
        if !sound || !may_shrink(set, settings) || !set.contains(primary.replica) {
            return None;
        }
        let keep: Vec<ReplicaId> = set
            .members
            .iter()
            .filter(|m| {
                **m == primary || self.silent_for(now, m.replica, work) < self.options.shrink_after
            })
            .map(|m| m.replica)
            .collect();
        (keep.len() < set.len() && keep.len() >= usize::from(settings.min_in_sync)).then_some(keep)
    }

    /// Makes a learner a joiner once it has caught up; gives it up where it is of no
    /// use, silent for too long, or too slow for what clients write (rule 13).
    fn settle_learner(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        learner: Member,
        work: &mut Work,
    ) {
        let set = self.set_with(record, learner);
        let follower = self.views.follower(record, learner).copied();
        let too_slow = follower.is_some_and(|f| f.hopeless);
        let hopeless = set.is_none()
            || too_slow
            || !self.state.is_member(learner.node)
            || self.views.is_corrupt(record.id, learner)
            || self.silent_for(now, learner.replica, work) > self.options.joiner_timeout;
        if hopeless {
            if now >= work.change_after {
                work.change_after = now.plus(if too_slow {
                    let doubled = self.options.slow_learner_rest.0 << work.slow_learners.min(5);
                    work.slow_learners += 1;
                    Micros(doubled)
                } else {
                    self.options.repair_after
                });
            }
            self.propose(
                now,
                work,
                Command::RemoveLearner {
                    partition: record.id,
                    epoch: record.epoch,
                    revision: record.revision,
                    replica: learner.replica,
                },
            );
            return;
        }
        let caught_up = follower.is_some_and(|f| f.caught_up && f.answering);
        if caught_up
            && self.views.is_serving(record)
            && let Some(set) = set
        {
            work.slow_learners = 0;
            self.propose(
                now,
                work,
                Command::EnterJoint {
                    partition: record.id,
                    epoch: record.epoch,
                    revision: record.revision,
                    set,
                },
            );
        }
    }

    /// The node that a new replica is wanted on, if any: a seat that is empty, or
    /// whose member is damaged or gone.
    fn wanted_learner(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        work: &Work,
    ) -> Option<NodeId> {
        let current = &record.config.current;
        let seats = self.state.seats(record.id).to_vec();
        let repair_after = self.options.repair_after;
        let seat = seats.into_iter().find(|node| {
            let ready = self.views.is_up(*node)
                && now.minus(self.views.detector.since(*node)) >= repair_after
                && !self.views.is_draining(*node)
                && !self.views.is_full(*node);
            if !ready {
                return false;
            }
            let Some(member) = current.members.iter().find(|m| m.node == *node) else {
                return self.place_for(record, *node).is_some();
            };
            if record.primary == Some(*member) {
                return false;
            }
            self.views.is_corrupt(record.id, *member)
                // The first heartbeat of a node may be older than what it is doing
                // about the record, so a missing replica must be silent as well.
                || (self.views.is_missing(record, *member)
                    && self.silent_for(now, member.replica, work) >= repair_after)
        })?;
        let busy = *self.joining_on(seat) >= self.options.joiners_per_node;
        (!busy).then_some(seat)
    }

    /// What a new replica on `node` would do to the current set, if it has a place.
    fn place_for(&self, record: &PartitionRecord, node: NodeId) -> Option<Place> {
        let current = &record.config.current;
        if let Some(own) = current.members.iter().find(|m| m.node == node) {
            return Some(Place::Of(*own));
        }
        let seats = self.state.seats(record.id);
        if !seats.contains(&node) {
            return None;
        }
        // One that is gone for good first, then one that sits where it does not
        // belong, but never the primary: it hands over first.
        let replaceable = |m: &&Member| record.primary != Some(**m);
        let gone = current
            .members
            .iter()
            .filter(replaceable)
            .find(|m| !self.state.is_member(m.node));
        if let Some(gone) = gone {
            return Some(Place::Of(*gone));
        }
        let settings = self.state.settings()?;
        if current.len() < usize::from(settings.replication_factor) {
            return Some(Place::Added);
        }
        current
            .members
            .iter()
            .filter(replaceable)
            .find(|m| !seats.contains(&m.node))
            .map(|m| Place::Of(*m))
    }

    /// The set that the learner would make, in the order of the seats.
    fn set_with(&self, record: &PartitionRecord, learner: Member) -> Option<ReplicaSet> {
        let settings = self.state.settings()?;
        let place = self.place_for(record, learner.node)?;
        let mut members: Vec<Member> = record
            .config
            .current
            .members
            .iter()
            .copied()
            .filter(|m| place != Place::Of(*m))
            .collect();
        members.push(learner);
        let seats = self.state.seats(record.id);
        members.sort_by_key(|m| {
            seats
                .iter()
                .position(|seat| *seat == m.node)
                .unwrap_or(usize::MAX)
        });
        let write_quorum = settings
            .write_quorum
            .min(u8::try_from(members.len()).unwrap_or(u8::MAX));
        Some(ReplicaSet {
            members,
            write_quorum,
        })
    }

    /// How many replicas are being made on a node.
    fn joining_on(&mut self, node: NodeId) -> &mut usize {
        let state = &self.state;
        self.joining
            .get_or_insert_with(|| {
                let mut joining = std::collections::BTreeMap::new();
                for record in state.partitions() {
                    let config = &record.config;
                    let joiners = config
                        .joint
                        .iter()
                        .flat_map(|set| &set.members)
                        .filter(|m| !config.current.members.contains(m));
                    for member in config.learners.iter().chain(joiners) {
                        *joining.entry(member.node).or_default() += 1;
                    }
                }
                joining
            })
            .entry(node)
            .or_default()
    }

    /// Whether the node is up, and has been for that long.
    pub(super) fn is_up_for(&self, now: Micros, node: NodeId, long: Micros) -> bool {
        self.views.health(node) == Health::Up && now.minus(self.views.detector.since(node)) >= long
    }
}
