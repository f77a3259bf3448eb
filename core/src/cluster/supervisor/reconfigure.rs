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

use std::collections::BTreeMap;

use super::Supervisor;
use super::work::Work;
use crate::cluster::command::{Command, Direction};
use crate::cluster::failure_detector::Health;
use crate::cluster::report::Wish;
use crate::cluster::state::{Leaving, may_shrink, promotion_needs, write_quorum_for};
use crate::ids::{Micros, NodeId, PartitionId, ReplicaId};
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

/// A replica that is wanted. They are ordered by what is most urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Wanted {
    /// How many more members could be lost before nobody could be promoted.
    spare: usize,
    partition: PartitionId,
    primary: NodeId,
    node: NodeId,
}

/// How many sets may be adjusted at a time, of those that one node leads.
const ADJUSTED_AT_ONCE: usize = 16;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct MovesUnderWay {
    /// Replicas that are being made, by the node that gets them.
    pub(super) joining: BTreeMap<NodeId, usize>,
    /// The same by the node that leads them.
    pub(super) giving: BTreeMap<NodeId, usize>,
    /// Joint configurations that copy nothing, by the node that leads them.
    pub(super) adjusting: BTreeMap<NodeId, usize>,
}

impl MovesUnderWay {
    fn copy(&mut self, from: NodeId, to: NodeId) {
        *self.joining.entry(to).or_default() += 1;
        *self.giving.entry(from).or_default() += 1;
    }
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
            if is_seeded(Bug::TwoMovesAtOnce) && work.pending.is_none() {
                self.want_learner(now, record, primary, work);
            }
        } else if now >= work.change_after && self.views.is_serving(record) {
            if let Some(set) = self.adjusted_set(record) {
                self.adjusted.push((record.id, primary.node, set));
            } else {
                self.want_learner(now, record, primary, work);
            }
        }
    }

    fn want_learner(
        &mut self,
        now: Micros,
        record: &PartitionRecord,
        primary: Member,
        work: &Work,
    ) {
        if let Some(node) = self.wanted_learner(now, record, work) {
            self.wanted.push(Wanted {
                spare: self.spare_copies(record),
                partition: record.id,
                primary: primary.node,
                node,
            });
        }
    }

    /// How many more members could be lost before nobody could be promoted, in the set
    /// where that is fewest.
    fn spare_copies(&self, record: &PartitionRecord) -> usize {
        let may_be_lost = self.state.is_eventual(record.id);
        record
            .config
            .sets()
            .map(|set| {
                let live = set
                    .members
                    .iter()
                    .filter(|m| self.views.is_up(m.node) && !self.views.is_corrupt(record.id, **m))
                    .count();
                live.saturating_sub(promotion_needs(set, may_be_lost))
            })
            .min()
            .unwrap_or(0)
    }

    /// Has the wanted replicas made, those of the most endangered partitions first, as
    /// many at a time as the settings allow on each node and out of what each node leads.
    ///
    /// What only adjusts a set copies nothing, and each is over in a moment: of them a few
    /// more may be under way, so that not every partition begins a new epoch at once.
    pub(super) fn admit_wanted(&mut self, now: Micros) {
        if self.wanted.is_empty() && self.adjusted.is_empty() {
            return;
        }
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_unstable();
        let most = self
            .state
            .settings()
            .map_or(1, |s| usize::from(s.moves_per_node));
        let MovesUnderWay {
            mut joining,
            mut giving,
            mut adjusting,
        } = self.moves_under_way();
        for (partition, primary, set) in std::mem::take(&mut self.adjusted) {
            let by_primary = adjusting.entry(primary).or_default();
            let Some(record) = self.state.partition(partition) else {
                continue;
            };
            if *by_primary >= ADJUSTED_AT_ONCE {
                self.waiting.insert(partition);
                continue;
            }
            *by_primary += 1;
            let command = Command::EnterJoint {
                partition,
                epoch: record.epoch,
                revision: record.revision,
                set,
            };
            self.admit(now, partition, command);
        }
        for Wanted {
            spare: _,
            partition,
            primary,
            node,
        } in wanted
        {
            let to = joining.entry(node).or_default();
            let from = giving.entry(primary).or_default();
            let Some(record) = self.state.partition(partition) else {
                continue;
            };
            if *to >= most || *from >= most {
                self.waiting.insert(partition);
                continue;
            }
            *to += 1;
            *from += 1;
            let command = Command::AddLearner {
                partition,
                epoch: record.epoch,
                revision: record.revision,
                node,
            };
            self.admit(now, partition, command);
        }
    }

    /// Proposes a change of a partition that had to be let in.
    fn admit(&mut self, now: Micros, partition: PartitionId, command: Command) {
        self.waiting.remove(&partition);
        if let Some(work) = self.works.get_mut(&partition) {
            work.pending = Some(now);
            self.queue.push(command);
        }
    }

    /// What is under way. What is proposed and not in the state yet counts as well. Of a
    /// partition that nobody leads nothing is copied, and what waits for its primary takes
    /// no place from others.
    pub(super) fn moves_under_way(&self) -> MovesUnderWay {
        let mut moves = MovesUnderWay::default();
        for record in self.state.partitions() {
            let config = &record.config;
            let Some(primary) = record.primary.filter(|p| self.views.is_up(p.node)) else {
                continue;
            };
            let mut copies = false;
            for member in config.in_the_making() {
                copies = true;
                moves.copy(primary.node, member.node);
            }
            if config.joint.is_some() && !copies {
                *moves.adjusting.entry(primary.node).or_default() += 1;
            }
        }
        let proposed = self
            .queue
            .iter()
            .chain(self.in_flight.iter().flat_map(|p| &p.commands));
        for command in proposed {
            let known = command
                .partition()
                .and_then(|partition| self.state.partition(partition));
            let Some((record, primary)) = known.and_then(|record| Some((record, record.primary?)))
            else {
                continue;
            };
            match command {
                Command::AddLearner {
                    epoch,
                    revision,
                    node,
                    ..
                } if record.order() == (*epoch, *revision) => moves.copy(primary.node, *node),
                Command::EnterJoint {
                    epoch, revision, ..
                } if record.order() == (*epoch, *revision) => {
                    *moves.adjusting.entry(primary.node).or_default() += 1;
                }
                _ => {}
            }
        }
        moves
    }

    /// The same members, or fewer, with what RF and W ask for by now: surplus ones go once
    /// every seat is filled, and W changes once they are gone and none is missing.
    fn adjusted_set(&self, record: &PartitionRecord) -> Option<ReplicaSet> {
        let settings = self.state.settings()?;
        let seats = self.state.seats(record.id);
        let current = &record.config.current;
        let primary = record.primary?;
        // It hands over first.
        if !seats.contains(&primary.node) {
            return None;
        }
        let mut members: Vec<Member> = current
            .members
            .iter()
            .copied()
            .filter(|m| seats.contains(&m.node))
            .collect();
        if members.len() < seats.len() || seats.len() != usize::from(settings.replication_factor) {
            return None;
        }
        self.sort_by_seat(record, &mut members);
        let write_quorum = write_quorum_for(settings, current, members.len());
        if members.len() == current.len() && write_quorum == current.write_quorum {
            return None;
        }
        let set = ReplicaSet {
            members,
            write_quorum,
        };
        // Joint for as long as one of the needed ones is away would be worse than waiting;
        // and a copy that lives is not given up for one that may be lost.
        let shrinks = set.len() < current.len();
        let needed = if shrinks {
            set.len()
        } else {
            set.lease_quorum()
        };
        (self.answering(record, primary, &set) >= needed).then_some(set)
    }

    /// How many members of the set are there, by what makes a joint set be left again.
    fn answering(&self, record: &PartitionRecord, primary: Member, set: &ReplicaSet) -> usize {
        let answers = |m: &&Member| **m == primary || !self.is_silent(record, **m);
        set.members.iter().filter(answers).count()
    }

    /// Whether the replica has lost what it held: it answers nobody until another takes its
    /// place.
    fn is_damaged(&self, record: &PartitionRecord, member: Member) -> bool {
        self.views.is_corrupt(record.id, member)
            || (self.views.is_missing(record, member) && self.is_silent(record, member))
    }

    fn sort_by_seat(&self, record: &PartitionRecord, members: &mut [Member]) {
        let seats = self.state.seats(record.id);
        members.sort_by_key(|m| {
            seats
                .iter()
                .position(|seat| *seat == m.node)
                .unwrap_or(usize::MAX)
        });
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
            set.len() - lost < set.lease_quorum()
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
        let eventual = self.state.is_eventual(record.id);
        if !sound || !may_shrink(set, eventual) || !set.contains(primary.replica) {
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

    /// Whether enough members of the set answer for it to commit and to lead.
    fn can_serve(&self, record: &PartitionRecord, set: &ReplicaSet) -> bool {
        record
            .primary
            .is_some_and(|primary| self.answering(record, primary, set) >= set.lease_quorum())
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
        // The set could not serve before one of its own members is replaced, which comes first.
        let can_serve = set.as_ref().is_some_and(|set| self.can_serve(record, set));
        let behind_damage = set.as_ref().is_some_and(|set| {
            !can_serve
                && set
                    .members
                    .iter()
                    .any(|m| *m != learner && self.is_damaged(record, *m))
        });
        let hopeless = set.is_none()
            || behind_damage
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
            // Joint for as long as one of the needed ones is away would be worse than waiting.
            && can_serve
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
    fn wanted_learner(&self, now: Micros, record: &PartitionRecord, work: &Work) -> Option<NodeId> {
        let current = &record.config.current;
        let seats = self.state.seats(record.id).to_vec();
        let repair_after = self.options.repair_after;
        let damaged = |node: &NodeId| {
            let own = current.members.iter().find(|m| m.node == *node);
            own.is_some_and(|own| self.is_damaged(record, *own))
        };
        let (first, then): (Vec<_>, Vec<_>) = seats.into_iter().partition(damaged);
        let seat = first.into_iter().chain(then).find(|node| {
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
        let held_back = self.unsettled || self.state.moves_paused();
        (!held_back || self.is_repair(record, seat)).then_some(seat)
    }

    /// Whether a new replica on `node` takes the place of one that is lost or missing, and
    /// not of one that merely belongs elsewhere.
    fn is_repair(&self, record: &PartitionRecord, node: NodeId) -> bool {
        match self.place_for(record, node) {
            Some(Place::Of(old)) => {
                old.node == node || self.is_lost(old.node) || self.is_damaged(record, old)
            }
            // Dropped so that writes could go on (rule 10), rather than never made.
            Some(Place::Added) => {
                let settings = self.state.settings();
                settings.is_some_and(|s| record.config.current.len() <= usize::from(s.write_quorum))
            }
            None => false,
        }
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
        // One that is gone for good first, then one that is of no use where it does not belong,
        // then any that does not belong, but never the primary: it hands over first.
        let replaceable = |m: &&Member| record.primary != Some(**m);
        let lost = |m: &Member| {
            if !self.state.is_member(m.node) {
                return Some(0);
            }
            let away = self.state.leaving(m.node) == Some(Leaving::Away);
            let useless = away || self.is_damaged(record, *m);
            (useless && !seats.contains(&m.node)).then_some(1)
        };
        let lost = current
            .members
            .iter()
            .filter(replaceable)
            .filter_map(|m| lost(m).map(|order| (order, *m)))
            .min();
        if let Some((_, lost)) = lost {
            return Some(Place::Of(lost));
        }
        let settings = self.state.settings()?;
        if current.len() < usize::from(settings.replication_factor) {
            return Some(Place::Added);
        }
        // One that is down first: it may be lost.
        let unseated = current
            .members
            .iter()
            .filter(replaceable)
            .filter(|m| !seats.contains(&m.node))
            .min_by_key(|m| self.views.is_up(m.node));
        if let Some(unseated) = unseated {
            return Some(Place::Of(*unseated));
        }
        // A single copy moves by being two for a moment: it is the primary, and hands over.
        let alone = current.len() == 1 && !current.members.iter().any(|m| seats.contains(&m.node));
        alone.then_some(Place::Added)
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
        self.sort_by_seat(record, &mut members);
        let write_quorum = write_quorum_for(settings, &record.config.current, members.len());
        Some(ReplicaSet {
            members,
            write_quorum,
        })
    }

    /// Whether the node is up, and has been for that long.
    pub(super) fn is_up_for(&self, now: Micros, node: NodeId, long: Micros) -> bool {
        self.views.health(node) == Health::Up && now.minus(self.views.detector.since(node)) >= long
    }
}
