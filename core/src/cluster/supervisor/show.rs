//! The supervisor's view of everything, for people.

use std::collections::BTreeMap;

use super::Supervisor;
use super::work::{Promotion, Work};
use crate::cluster::command::Loss;
use crate::cluster::rebalance::copies_to;
use crate::cluster::report::{Role, Wish};
use crate::cluster::status::{
    ClusterStatus, FeatureStatus, NodeStatus, PartitionHealth, PartitionState, PromotionStep,
    RebalanceStatus, ReplicaHealth, Standing, Summary,
};
use crate::features::{Feature, UNDERSTOOD};
use crate::ids::{Micros, NodeId};
use crate::record::{Configuration, Member, NodeStanding, PartitionRecord, ReplicaSet};

/// What a set of replicas can lose, the worst first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Spare {
    /// It has lost too much already.
    Missing,
    /// Nothing more, of what it could lose.
    None,
    /// Something, or nothing is missing.
    Enough,
}

impl Supervisor {
    /// How everything stands now.
    #[must_use]
    pub fn status(&self, now: Micros) -> ClusterStatus {
        let state = &self.state;
        let heat = self.heat(now);
        let partitions: Vec<PartitionHealth> = state
            .partitions()
            .iter()
            .map(|record| PartitionHealth {
                load: heat.partitions.get(&record.id).copied(),
                ..self.partition_health(record)
            })
            .collect();
        ClusterStatus {
            cluster_id: state.cluster_id().to_owned(),
            version: state.version(),
            summary: self.summary(),
            rebalance: self.rebalance_status(),
            nodes: self.node_statuses(now),
            partitions,
            heat: self.heat_status(&heat),
            features: self.feature_statuses(),
        }
    }

    fn feature_statuses(&self) -> Vec<FeatureStatus> {
        let of = |feature: Feature| FeatureStatus {
            name: feature.name().to_owned(),
            held_back: self.check_feature(feature).err().map(|e| e.to_string()),
        };
        let own = |feature: &Feature| feature.is_in(UNDERSTOOD);
        Feature::ALL.into_iter().filter(own).map(of).collect()
    }

    /// How many partitions and nodes are how: what [`Supervisor::status`] has of it, without
    /// the rest.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let state = &self.state;
        let records = state.partitions();
        let count = |test: &dyn Fn(&PartitionRecord) -> bool| {
            records.iter().filter(|record| test(record)).count()
        };
        Summary {
            partitions: records.len(),
            serving: count(&|record| self.serves(record)),
            degraded: count(&|record| record.degraded),
            moving: count(&|record| super::is_changing(&record.config)),
            without_quorum: count(&|record| self.spare(record) < Spare::None),
            without_spare: count(&|record| self.spare(record) == Spare::None),
            lag_entries: records
                .iter()
                .map(|record| self.lag(record))
                .max()
                .unwrap_or(0),
            nodes_up: state.members().filter(|n| self.views.is_up(n.id)).count(),
            nodes_down: state
                .members()
                .filter(|n| self.views.health(n.id).is_down())
                .count(),
            nodes: state.members().count(),
            lossy_promotions: records
                .iter()
                .map(|record| state.loss(record.id).promotions)
                .sum(),
        }
    }

    /// One that says so and reaches too few others serves nobody.
    fn serves(&self, record: &PartitionRecord) -> bool {
        self.views.is_serving(record) && self.views.has_quorum(record)
    }

    /// What the set in force that is worst off can still lose.
    fn spare(&self, record: &PartitionRecord) -> Spare {
        let whole =
            |m: &&Member| self.views.is_up(m.node) && !self.views.is_corrupt(record.id, **m);
        let of_set = |set: &ReplicaSet| {
            let needed = set.lease_quorum();
            match set.members.iter().filter(whole).count() {
                have if have < needed => Spare::Missing,
                have if have == needed && have < set.members.len() => Spare::None,
                _ => Spare::Enough,
            }
        };
        let sets = record.config.sets().map(of_set);
        sets.min().unwrap_or(Spare::Missing)
    }

    /// How many entries the member furthest behind lacks, as the primary knows it.
    fn lag(&self, record: &PartitionRecord) -> u64 {
        let Some(primary) = self.views.primary_status(record) else {
            return 0;
        };
        if primary.role != Role::Primary {
            return 0;
        }
        let members = record.config.sets().flat_map(|set| set.members.iter());
        members
            .filter_map(|member| self.views.follower(record, *member))
            .map(|follower| primary.head.index.0.saturating_sub(follower.matched.0))
            .max()
            .unwrap_or(0)
    }

    /// What is being moved, and what is to be.
    #[must_use]
    pub fn rebalance_status(&self) -> RebalanceStatus {
        let state = &self.state;
        let basis = state.basis();
        let mut status = RebalanceStatus {
            too_few_nodes: basis.nodes.len() < usize::from(basis.replication_factor),
            paused: state.moves_paused(),
            planned: !self.unsettled,
            held_back: self.replacement_held_back,
            ..RebalanceStatus::default()
        };
        for record in state.partitions() {
            let copies = copies_to(state, record, state.seats(record.id));
            for copy in &copies {
                let there = record.config.on_node(copy.to);
                let begun = there.is_some_and(|m| !record.config.is_reader(m.replica));
                *(if begun {
                    &mut status.under_way
                } else {
                    &mut status.waiting
                }) += 1;
                status.bytes_left += self.bytes_left_of(copy).unwrap_or(0);
            }
            let current = &record.config.current;
            let settled = current.len() == state.seats(record.id).len()
                && state
                    .settings()
                    .is_none_or(|s| s.write_quorum == current.write_quorum);
            if copies.is_empty() && (!settled || super::is_changing(&record.config)) {
                status.to_adjust += 1;
            }
        }
        status
    }

    fn node_statuses(&self, now: Micros) -> Vec<NodeStatus> {
        let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut replicas: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut seats: BTreeMap<NodeId, usize> = BTreeMap::new();
        for seat in self.state.all_seats().iter().flatten() {
            *seats.entry(*seat).or_default() += 1;
        }
        for record in self.state.partitions() {
            if let Some(primary) = record.primary {
                *leads.entry(primary.node).or_default() += 1;
            }
            for member in record.config.replicas() {
                *replicas.entry(member.node).or_default() += 1;
            }
        }
        self.state
            .nodes()
            .values()
            .filter(|n| n.standing == NodeStanding::Member || replicas.contains_key(&n.id))
            .map(|n| NodeStatus {
                id: n.id,
                name: n.name.clone(),
                zone: n.zone.clone(),
                standing: n.standing,
                health: self.views.health(n.id),
                health_for_ms: now.minus(self.views.detector.since(n.id)).0 / 1000,
                heard_ms_ago: self
                    .views
                    .detector
                    .last_heard(n.id)
                    .map(|at| now.minus(at).0 / 1000),
                draining: self.views.is_draining(n.id),
                disk_full: self.views.is_full(n.id),
                expected_back_unix_ms: self.state.expected_back(n.id),
                cordoned_until_unix_ms: self.cordoned_until(n.id).unwrap_or(0),
                leads: leads.get(&n.id).copied().unwrap_or(0),
                replicas: replicas.get(&n.id).copied().unwrap_or(0),
                seats: seats.get(&n.id).copied().unwrap_or(0),
                leaving: self.state.leaving(n.id),
                empty: self
                    .emptied
                    .get(&n.id)
                    .is_some_and(|version| self.views.has_seen(n.id, *version)),
                figures: self.views.figures(n.id),
            })
            .collect()
    }

    fn partition_health(&self, record: &PartitionRecord) -> PartitionHealth {
        let work = self.works.get(&record.id);
        let serving = self.serves(record);
        let replicas: Vec<ReplicaHealth> = record
            .config
            .replicas()
            .into_iter()
            .map(|member| self.replica_health(record, member))
            .collect();
        let promotion = work.and_then(promotion_step);
        let loss = self.state.loss(record.id);
        PartitionHealth {
            partition: record.id,
            slots: record.slots,
            epoch: record.epoch,
            state: if promotion.is_some() {
                PartitionState::Promoting
            } else if !serving {
                PartitionState::Unserved
            } else if record.degraded {
                PartitionState::Degraded
            } else if record.config.joint.is_some() || !record.config.learners.is_empty() {
                PartitionState::Moving
            } else if replicas.iter().any(|r| !r.reader && (!r.up || r.corrupt)) {
                PartitionState::MemberSilent
            } else {
                PartitionState::Healthy
            },
            primary: record.primary,
            serving,
            write_quorum: record
                .config
                .sets()
                .map(|s| s.write_quorum)
                .max()
                .unwrap_or(0),
            degraded: record.degraded,
            promotion,
            lossy_promotions: loss.promotions,
            lost: Loss {
                entries_known: loss.entries_known,
            },
            seats: self.state.seats(record.id).to_vec(),
            load: None,
            replicas,
        }
    }

    fn replica_health(&self, record: &PartitionRecord, member: Member) -> ReplicaHealth {
        let last = self.views.last_status(record.id, member);
        let now_known = self.views.status(record.id, member);
        let primary_head = self
            .views
            .primary_status(record)
            .filter(|s| s.role == Role::Primary)
            .map(|s| s.head.index.0);
        let matched = self
            .views
            .follower(record, member)
            .map(|f| f.matched.0)
            .or_else(|| (record.primary == Some(member)).then_some(u64::MAX));
        ReplicaHealth {
            member,
            standing: standing(&record.config, member),
            reader: record.config.is_reader(member.replica),
            up: self.views.is_up(member.node),
            role: now_known.map(|s| s.role),
            head: last.map(|s| s.head),
            commit: last.map(|s| s.commit),
            applied: last.map(|s| s.applied),
            lag: primary_head
                .zip(matched)
                .map(|(head, matched)| head.saturating_sub(matched)),
            corrupt: now_known.is_some_and(|s| s.wish == Wish::Replace),
            bytes: last.and_then(|s| s.bytes),
            copying: now_known.and_then(|s| s.copying),
        }
    }
}

fn standing(config: &Configuration, member: Member) -> Standing {
    let old = config.current.members.contains(&member);
    match &config.joint {
        Some(new) if new.members.contains(&member) && !old => Standing::Joining,
        Some(new) if old && !new.members.contains(&member) => Standing::Leaving,
        _ if old => Standing::Member,
        _ => Standing::Learner,
    }
}

fn promotion_step(work: &Work) -> Option<(PromotionStep, super::PromotionReason)> {
    let step = match &work.promotion {
        Promotion::Idle => return None,
        Promotion::Asking(inquiry) if inquiry.trouble.is_doubt() => return None,
        Promotion::Asking(_) => PromotionStep::Asking,
        Promotion::Raising(_) => PromotionStep::Raising,
        Promotion::Fencing(_) => PromotionStep::Fencing,
        Promotion::Naming(..) => PromotionStep::Naming,
    };
    work.promotion.trouble().map(|t| (step, t.reason))
}
