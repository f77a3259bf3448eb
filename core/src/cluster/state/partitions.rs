//! Commands about partitions: the table, epochs, primaries, configurations.
//!
//! # Why a new epoch may carry its primary over
//! `EnterJoint`, `LeaveJoint` and `Shrink` raise the epoch and name the primary of
//! the epoch before in the same step, without fencing. That is sound because the
//! compare-and-set admits nothing between the two epochs: nobody else was or will be
//! primary of the older one, so the same log goes on; and whoever is primary of the
//! newer one still writes a barrier in it before it serves (rule 3).

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ClusterState;
use crate::cluster::command::{Direction, Loss, Refusal, Response};
use crate::ids::{Epoch, MapVersion, NodeId, PartitionId, ReplicaId};
use crate::record::{ClusterSettings, Configuration, Member, PartitionRecord, ReplicaSet};
use crate::seeded::{Bug, is_seeded};
use crate::slots;

pub(super) fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid {
        reason: reason.into(),
    }
}

/// W for a set of that many members that follows `current`: the configured one, as far as
/// there are members. One that still has more members than configured keeps its own: with
/// a lower one, more of them would have to be there for a promotion than before.
#[must_use]
pub(crate) fn write_quorum_for(
    settings: &ClusterSettings,
    current: &ReplicaSet,
    members: usize,
) -> u8 {
    let surplus = members > usize::from(settings.replication_factor);
    let wanted = if surplus && settings.replication_factor == 1 {
        // Two for a moment, so that a single copy can move: the second has all of it.
        2
    } else if surplus {
        settings.write_quorum.max(current.write_quorum)
    } else {
        settings.write_quorum
    };
    wanted.min(u8::try_from(members).unwrap_or(u8::MAX))
}

/// How many members a set may have that follows `current`: RF, or as many as there are.
/// With RF 1 a copy moves by being two for a moment.
fn largest_set(settings: &ClusterSettings, current: &ReplicaSet) -> usize {
    match usize::from(settings.replication_factor) {
        1 => current.len().max(2),
        rf => current.len().max(rf),
    }
}

impl ClusterState {
    pub(super) fn settings_or_refuse(&self) -> Result<Arc<ClusterSettings>, Refusal> {
        self.settings.clone().ok_or(Refusal::NoCluster)
    }

    /// The record, if it still is in that epoch.
    fn at_epoch(&self, partition: PartitionId, epoch: Epoch) -> Result<PartitionRecord, Refusal> {
        let record = self
            .partition(partition)
            .ok_or(Refusal::UnknownPartition { partition })?;
        if record.epoch != epoch {
            return Err(Refusal::Stale {
                partition,
                epoch: record.epoch,
                revision: record.revision,
            });
        }
        Ok(PartitionRecord::clone(record))
    }

    /// The record, if it still is at that epoch and revision.
    pub(super) fn at_order(
        &self,
        partition: PartitionId,
        (epoch, revision): (Epoch, u64),
    ) -> Result<PartitionRecord, Refusal> {
        let record = self.at_epoch(partition, epoch)?;
        if record.revision != revision {
            return Err(Refusal::Stale {
                partition,
                epoch: record.epoch,
                revision: record.revision,
            });
        }
        Ok(record)
    }

    /// Puts a changed record in place.
    pub(super) fn store(
        &mut self,
        at: MapVersion,
        mut record: PartitionRecord,
    ) -> Result<Response, Refusal> {
        let settings = self.settings_or_refuse()?;
        record.degraded = is_degraded(&record.config, &settings);
        if record.config.sets().all(|set| set.write_quorum > 1) {
            self.eventual.remove(&record.id);
        }
        record.changed_at = at;
        let partition = record.id;
        let slot = self
            .partitions
            .get_mut(partition.0 as usize)
            .ok_or(Refusal::UnknownPartition { partition })?;
        debug_assert!(record.order() > slot.order(), "records only move forward");
        *slot = Arc::new(record);
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn make_table(
        &mut self,
        at: MapVersion,
        seats: Vec<Vec<NodeId>>,
    ) -> Result<Response, Refusal> {
        let settings = self.settings_or_refuse()?;
        if !self.partitions.is_empty() {
            return Err(Refusal::TableExists);
        }
        let have = u32::try_from(self.members().count()).unwrap_or(u32::MAX);
        if have < settings.initial_data_nodes {
            return Err(Refusal::TooFewNodes {
                have,
                need: settings.initial_data_nodes,
            });
        }
        if seats.len() != settings.partitions as usize {
            return Err(invalid(format!(
                "the table has {} partitions, {} were agreed",
                seats.len(),
                settings.partitions
            )));
        }
        for (partition, nodes) in (0..settings.partitions).map(PartitionId).zip(&seats) {
            self.check_seats(partition, nodes, &settings)?;
        }
        self.placed_for = self.basis();
        for (id, nodes) in (0..settings.partitions).zip(&seats) {
            let members: Vec<Member> = nodes
                .iter()
                .map(|&node| Member {
                    node,
                    replica: self.allot_replica(),
                })
                .collect();
            self.partitions.push(Arc::new(PartitionRecord {
                id: PartitionId(id),
                slots: slots::range_of_partition(id, settings.partitions),
                epoch: Epoch(1),
                revision: 0,
                // Nothing was ever written, so the first epoch needs no inspection.
                primary: members.first().copied(),
                config: Configuration {
                    current: ReplicaSet {
                        write_quorum: settings.write_quorum,
                        members,
                    },
                    joint: None,
                    learners: Vec::new(),
                    readers: Vec::new(),
                },
                degraded: false,
                changed_at: at,
            }));
        }
        self.seats = seats;
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn check_seats(
        &self,
        partition: PartitionId,
        nodes: &[NodeId],
        settings: &ClusterSettings,
    ) -> Result<(), Refusal> {
        let distinct: BTreeSet<_> = nodes.iter().collect();
        if nodes.len() != usize::from(settings.replication_factor) || distinct.len() != nodes.len()
        {
            return Err(invalid(format!(
                "partition {partition} needs {} distinct nodes, and is given {nodes:?}",
                settings.replication_factor
            )));
        }
        match nodes.iter().find(|n| !self.is_member(**n)) {
            Some(&node) => Err(Refusal::UnknownNode { node }),
            None => Ok(()),
        }
    }

    pub(super) fn reseat(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        before: &[NodeId],
        seats: Vec<NodeId>,
    ) -> Result<Response, Refusal> {
        let settings = self.settings_or_refuse()?;
        self.check_seats(partition, &seats, &settings)?;
        let known = self
            .seats
            .get_mut(partition.0 as usize)
            .ok_or(Refusal::UnknownPartition { partition })?;
        if *known != before {
            return Err(Refusal::SeatsChanged { partition });
        }
        if *known == seats {
            return Ok(Response::Unchanged);
        }
        *known = seats;
        // These may be fewer, and on other nodes, than all that are there by now would have.
        self.reseated = true;
        self.version = at;
        Ok(Response::Done)
    }

    pub(super) fn allot_replica(&mut self) -> ReplicaId {
        self.last_replica = self.last_replica.next();
        self.last_replica
    }

    pub(super) fn raise_epoch(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        epoch: Epoch,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_epoch(partition, epoch)?;
        record.epoch = record.epoch.next();
        record.revision = 0;
        record.primary = None;
        self.store(at, record)
    }

    pub(super) fn name_primary(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        epoch: Epoch,
        primary: Member,
        loss: Option<Loss>,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_epoch(partition, epoch)?;
        if record.primary.is_some() && !is_seeded(Bug::NameTwoPrimaries) {
            return Err(Refusal::HasPrimary { partition });
        }
        if !record.config.voters().contains(&primary) {
            return Err(invalid(format!(
                "replica {} on node {} is no voter of partition {partition}",
                primary.replica, primary.node
            )));
        }
        if !self.is_member(primary.node) {
            return Err(Refusal::UnknownNode { node: primary.node });
        }
        let forced = self.forced.contains_key(&partition);
        if loss.is_some() && !self.is_eventual(partition) && !forced {
            return Err(invalid(
                "acknowledged writes are given up only where writeQuorum is 1 or a person said so",
            ));
        }
        record.primary = Some(primary);
        record.revision += 1;
        let response = self.store(at, record)?;
        self.forced.remove(&partition);
        if forced || loss.is_some() {
            let count = self.losses.entry(partition).or_default();
            count.promotions += 1;
            count.entries_known += loss.unwrap_or_default().entries_known;
        }
        Ok(response)
    }

    pub(super) fn add_learner(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        order: (Epoch, u64),
        node: NodeId,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_order(partition, order)?;
        if !self.is_member(node) {
            return Err(Refusal::UnknownNode { node });
        }
        let changing = record.config.joint.is_some() || !record.config.learners.is_empty();
        if changing && !is_seeded(Bug::TwoMovesAtOnce) {
            return Err(invalid(format!(
                "partition {partition} is changing already: one change at a time"
            )));
        }
        // A primary's own node would have to hold two replicas, of which the older
        // one still serves; it hands over first.
        if record.primary.is_some_and(|p| p.node == node) {
            return Err(invalid(format!(
                "node {node} holds the primary of partition {partition}"
            )));
        }
        // A copy for reads that is there becomes it: it has what a learner would have to fetch.
        let readers = &mut record.config.readers;
        let learner = match readers.iter().position(|m| m.node == node) {
            Some(at) => readers.remove(at),
            None => Member {
                node,
                replica: self.allot_replica(),
            },
        };
        record.config.learners.push(learner);
        record.revision += 1;
        self.store(at, record)
    }

    pub(super) fn remove_learner(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        order: (Epoch, u64),
        replica: ReplicaId,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_order(partition, order)?;
        let before = record.config.learners.len();
        record.config.learners.retain(|m| m.replica != replica);
        if record.config.learners.len() == before {
            return Err(invalid(format!(
                "replica {replica} is no learner of partition {partition}"
            )));
        }
        record.revision += 1;
        self.store(at, record)
    }

    pub(super) fn enter_joint(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        order: (Epoch, u64),
        set: ReplicaSet,
    ) -> Result<Response, Refusal> {
        let settings = self.settings_or_refuse()?;
        let mut record = self.at_order(partition, order)?;
        if record.config.joint.is_some() {
            return Err(invalid(format!("partition {partition} is joint already")));
        }
        if record.primary.is_none() {
            return Err(Refusal::NoPrimary { partition });
        }
        let config = &mut record.config;
        let nodes: BTreeSet<_> = set.members.iter().map(|m| m.node).collect();
        if nodes.len() != set.len() {
            return Err(invalid("a set has one replica on each of its nodes"));
        }
        // One that grows towards the floor from below is let grow.
        let floor = usize::from(settings.min_in_sync).min(config.current.len());
        if set.len() < floor || set.len() > largest_set(&settings, &config.current) {
            return Err(invalid(format!(
                "a set has between {floor} and replicationFactor {} members, not {}",
                settings.replication_factor,
                set.len()
            )));
        }
        let write_quorum = write_quorum_for(&settings, &config.current, set.len());
        if set.write_quorum != write_quorum {
            return Err(invalid(format!(
                "a set of {} has the write quorum {write_quorum}, not {}",
                set.len(),
                set.write_quorum
            )));
        }
        if let Some(stranger) = set
            .members
            .iter()
            .find(|m| !config.current.members.contains(m) && !config.learners.contains(m))
        {
            return Err(invalid(format!(
                "replica {} is neither member nor learner of partition {partition}",
                stranger.replica
            )));
        }
        if set == config.current {
            return Err(invalid("the set is in force already"));
        }
        config.learners.retain(|m| !set.members.contains(m));
        config.joint = Some(set);
        record.epoch = record.epoch.next();
        record.revision = 0;
        self.store(at, record)
    }

    pub(super) fn leave_joint(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        epoch: Epoch,
        direction: Direction,
    ) -> Result<Response, Refusal> {
        let mut record = self.at_epoch(partition, epoch)?;
        let Some(joint) = record.config.joint.take() else {
            return Err(invalid(format!("partition {partition} is not joint")));
        };
        match direction {
            Direction::Forward => {
                // Only a primary can have said that its barrier is in both sets.
                if record.primary.is_none() {
                    return Err(Refusal::NoPrimary { partition });
                }
                record.config.current = joint;
            }
            Direction::Backward if is_seeded(Bug::LearnerCountsAfterUndo) => {
                record.config.current.members = joint.members;
            }
            Direction::Backward => {}
        }
        record.primary = record
            .primary
            .filter(|p| record.config.current.members.contains(p));
        record.epoch = record.epoch.next();
        record.revision = 0;
        self.store(at, record)
    }

    pub(super) fn shrink(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        epoch: Epoch,
        keep: &[ReplicaId],
    ) -> Result<Response, Refusal> {
        let settings = self.settings_or_refuse()?;
        let mut record = self.at_epoch(partition, epoch)?;
        if record.config.joint.is_some() {
            return Err(invalid(format!(
                "partition {partition} is joint: it is left backwards first"
            )));
        }
        let Some(primary) = record.primary else {
            return Err(Refusal::NoPrimary { partition });
        };
        if !may_shrink(&record.config.current, self.is_eventual(partition)) {
            return Err(invalid(format!(
                "partition {partition} does not need every member for a write: dropping one \
                 without a joint configuration could lose writes"
            )));
        }
        let current = &mut record.config.current;
        let before = current.len();
        if keep.iter().any(|r| !current.contains(*r)) || !keep.contains(&primary.replica) {
            return Err(invalid(
                "what stays must be members, the primary among them",
            ));
        }
        current.members.retain(|m| keep.contains(&m.replica));
        // One that was replaced since this was proposed has nothing any more: to drop the
        // others for it would be to drop the last copies.
        if let Some(gone) = current.members.iter().find(|m| !self.is_member(m.node)) {
            return Err(Refusal::UnknownNode { node: gone.node });
        }
        let after = current.len();
        if after == before {
            return Err(invalid("nothing is dropped"));
        }
        if after < usize::from(settings.min_in_sync) {
            return Err(invalid(format!(
                "{after} members would be below minInSync {}",
                settings.min_in_sync
            )));
        }
        current.write_quorum = current
            .write_quorum
            .min(u8::try_from(after).unwrap_or(u8::MAX));
        record.epoch = record.epoch.next();
        record.revision = 0;
        self.store(at, record)
    }

    pub(super) fn keep_survivors(
        &mut self,
        at: MapVersion,
        partition: PartitionId,
        epoch: Epoch,
        keep: &[ReplicaId],
    ) -> Result<Response, Refusal> {
        let settings = self.settings_or_refuse()?;
        let mut record = self.at_epoch(partition, epoch)?;
        let voters = record.config.voters();
        let members: Vec<Member> = voters
            .iter()
            .filter(|m| keep.contains(&m.replica))
            .copied()
            .collect();
        let distinct: BTreeSet<_> = keep.iter().collect();
        let nodes: BTreeSet<_> = members.iter().map(|m| m.node).collect();
        if members.is_empty() || members.len() != distinct.len() || nodes.len() != members.len() {
            return Err(invalid(
                "survivors must be members of the configuration, each on a node of its own",
            ));
        }
        if let Some(member) = members.iter().find(|m| !self.is_member(m.node)) {
            return Err(Refusal::UnknownNode { node: member.node });
        }
        record.config = Configuration {
            current: ReplicaSet {
                write_quorum: write_quorum_for(&settings, &record.config.current, members.len()),
                members,
            },
            joint: None,
            learners: Vec::new(),
            readers: Vec::new(),
        };
        record.primary = None;
        record.epoch = record.epoch.next();
        record.revision = 0;
        let forced_epoch = record.epoch;
        let response = self.store(at, record)?;
        self.forced.insert(partition, forced_epoch);
        Ok(response)
    }

    /// What is wrong with the state, if anything. Tests call it after every command.
    #[must_use]
    pub fn broken_invariant(&self) -> Option<String> {
        let mut names = BTreeSet::new();
        for node in self.members() {
            if !names.insert(&node.name) {
                return Some(format!("two live identities are called {}", node.name));
            }
        }
        let mut replicas = BTreeSet::new();
        for record in &self.partitions {
            for member in record.config.replicas() {
                if !replicas.insert(member.replica) {
                    return Some(format!("replica {} is in two places", member.replica));
                }
                if member.replica > self.last_replica || member.node > self.last_node {
                    return Some(format!("{member:?} was never allotted"));
                }
            }
            let readers = &record.config.readers;
            let mut others = record.config.voters();
            others.extend(&record.config.learners);
            let beside = |m: &&Member| {
                let on_node = |o: &&Member| o.node == m.node;
                readers.iter().filter(on_node).count() > 1 || others.iter().any(|o| on_node(&o))
            };
            if let Some(reader) = readers.iter().find(beside) {
                return Some(format!("{}: {reader:?} beside another", record.id));
            }
            for set in record.config.sets() {
                let nodes: BTreeSet<_> = set.members.iter().map(|m| m.node).collect();
                if nodes.len() != set.len() || set.is_empty() {
                    return Some(format!("{}: a set with bad nodes: {set:?}", record.id));
                }
                if set.write_quorum == 0 || set.write_quorum() > set.len() {
                    return Some(format!("{}: a set with a bad W: {set:?}", record.id));
                }
            }
            if let Some(primary) = record.primary
                && !record.config.voters().contains(&primary)
            {
                return Some(format!("{}: primary {primary:?} has no vote", record.id));
            }
        }
        None
    }
}

/// Whether rule 10 lets a set be shrunk without a joint configuration.
///
/// With W=N every acknowledged write is on every member, so that any of them will
/// do. With W=1 of two the lease needs both (rule 5), so a lost one stops writes all
/// the same; and what the configured W of 1 promises is not more than the primary
/// keeps (rule 9).
#[must_use]
pub(crate) fn may_shrink(set: &ReplicaSet, may_be_lost: bool) -> bool {
    set.len() > 1
        && (set.write_quorum() == set.len() || (may_be_lost && set.lease_quorum() == set.len()))
}

/// Whether there are fewer copies, or a lower W, than configured.
pub(super) fn is_degraded(config: &Configuration, settings: &ClusterSettings) -> bool {
    config.current.len() < usize::from(settings.replication_factor)
        || config.current.write_quorum < settings.write_quorum
}
