//! Stand-in coordinators of one partition: they follow rules 1, 2, 10 and 11 at random
//! moments, whether there is a reason or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use cairn_core::cluster::report::{PartitionStatus, ReplicaReport, Role};
use cairn_core::ids::{Epoch, MapVersion, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::record::{Configuration, Member, PartitionRecord, ReplicaSet};
use cairn_core::slots::range_of_partition;
use rand::Rng;
use rand::rngs::StdRng;

use crate::plan::Layout;

/// What they do at the moment.
#[derive(Debug, Clone)]
pub enum Doing {
    /// Nothing.
    Idle,
    /// Collecting reports for a raised epoch.
    Fencing {
        /// When to fence again.
        again: Micros,
        /// Counts fences.
        round: u64,
        /// Who reported, and when its grants end.
        reports: BTreeMap<ReplicaId, (ReplicaReport, Micros)>,
        /// Since when enough have.
        enough_since: Option<Micros>,
    },
}

/// The coordinators' state.
#[derive(Debug)]
pub struct Coordinators {
    /// The committed record.
    pub record: PartitionRecord,
    /// What they do.
    pub doing: Doing,
    /// The newest status of each replica.
    pub statuses: BTreeMap<NodeId, PartitionStatus>,
    next_replica: u64,
    next_change: Micros,
    rounds: u64,
}

/// What they want done.
#[derive(Debug)]
pub enum Act {
    /// Tell every node the record.
    Publish,
    /// Fence a node.
    Fence(NodeId, Epoch, u64),
}

/// How many replicas a partition may have had: their numbers are the cluster's.
const REPLICAS_MAX: u64 = 1_000_000;

impl Coordinators {
    /// Those of one partition. Where not all are placed alike, each begins with members on
    /// other nodes as far as there are some, and with another primary.
    pub fn new(id: u32, layout: Layout, nodes: u64, replicas: u64, write_quorum: u8) -> Self {
        let first = match layout.alike {
            true => 0,
            false => u64::from(id),
        };
        let first_replica = u64::from(id) * REPLICAS_MAX + 1;
        let members: Vec<Member> = (0..replicas)
            .map(|n| Member {
                node: NodeId((first + n) % nodes + 1),
                replica: ReplicaId(first_replica + n),
            })
            .collect();
        let record = PartitionRecord {
            id: PartitionId(id),
            slots: range_of_partition(id, layout.partitions),
            epoch: Epoch(1),
            revision: 1,
            primary: members.first().copied(),
            config: Configuration {
                current: ReplicaSet {
                    members,
                    write_quorum,
                },
                joint: None,
                learners: Vec::new(),
                readers: Vec::new(),
            },
            degraded: false,
            changed_at: MapVersion(1),
        };
        Self {
            record,
            doing: Doing::Idle,
            statuses: BTreeMap::new(),
            next_replica: first_replica + replicas,
            next_change: Micros(0),
            rounds: 0,
        }
    }

    /// Raises the epoch and begins to fence.
    pub fn promote(&mut self, now: Micros, acts: &mut Vec<Act>) {
        self.record.epoch = self.record.epoch.next();
        self.record.revision += 1;
        self.record.primary = None;
        self.doing = Doing::Fencing {
            again: now,
            round: 0,
            reports: BTreeMap::new(),
            enough_since: None,
        };
        self.tick(now, acts);
    }

    /// Takes a report, received at `now` on the coordinators' clock.
    pub fn report(&mut self, now: Micros, report: ReplicaReport) {
        let Doing::Fencing { reports, .. } = &mut self.doing else {
            return;
        };
        if report.promised != self.record.epoch || !report.whole {
            return;
        }
        // The grant ends by the reporter's clock, which may run slower.
        let wait = report.lease_remaining.0 + report.lease_remaining.0 / 20;
        reports.insert(report.member.replica, (report, now.plus(Micros(wait))));
    }

    /// Goes on with what is under way.
    pub fn tick(&mut self, now: Micros, acts: &mut Vec<Act>) {
        let epoch = self.record.epoch;
        let voters = self.record.config.voters();
        let Doing::Fencing {
            again,
            round,
            reports,
            enough_since,
        } = &mut self.doing
        else {
            return;
        };
        let enough = self.record.config.sets().all(|set| {
            let there = set
                .members
                .iter()
                .filter(|m| reports.contains_key(&m.replica))
                .count();
            let leases = if set.write_quorum() == 1 {
                set.len() - set.lease_quorum() + 1
            } else {
                0
            };
            there >= set.inspection_quorum().max(leases)
        });
        if enough {
            let since = *enough_since.get_or_insert(now);
            let all = voters.iter().all(|m| reports.contains_key(&m.replica));
            let wait = reports
                .values()
                .map(|(_, until)| *until)
                .max()
                .unwrap_or_default();
            if (all || now >= since.plus(Micros::from_millis(50))) && now >= wait {
                let best = voters
                    .iter()
                    .filter_map(|m| reports.get(&m.replica).map(|(r, _)| (r.head, *m)))
                    .max_by_key(|(head, _)| *head);
                if let Some((_, best)) = best {
                    self.record.primary = Some(best);
                    self.record.revision += 1;
                    self.doing = Doing::Idle;
                    acts.push(Act::Publish);
                    return;
                }
            }
        }
        if now >= *again {
            *again = now.plus(Micros::from_millis(60));
            *round += 1;
            self.rounds += 1;
            for member in voters {
                acts.push(Act::Fence(member.node, epoch, self.rounds));
            }
        }
    }

    /// Takes a heartbeat's status.
    pub fn status(&mut self, node: NodeId, status: PartitionStatus) {
        self.statuses.insert(node, status);
    }

    /// Perhaps changes the configuration by one legal step.
    pub fn reconfigure(
        &mut self,
        now: Micros,
        nodes: u64,
        rng: &mut StdRng,
        acts: &mut Vec<Act>,
    ) -> &'static str {
        if now < self.next_change || !matches!(self.doing, Doing::Idle) {
            return "";
        }
        self.next_change = now.plus(Micros::from_millis(rng.random_range(20..400)));
        let Some(primary) = self.record.primary else {
            return "";
        };
        let Some(status) = self.statuses.get(&primary.node) else {
            return "";
        };
        if status.epoch != self.record.epoch || status.role != Role::Primary {
            return "";
        }
        let followers = status.followers.clone();
        if self.record.config.joint.is_none() && rng.random_bool(0.3) {
            let done = self.change_readers(nodes, rng);
            if !done.is_empty() {
                self.record.revision += 1;
                acts.push(Act::Publish);
                return done;
            }
        }
        let config = &mut self.record.config;
        let done = if let Some(joint) = config.joint.clone() {
            // The barrier of the joint epoch has committed in both sets.
            if rng.random_bool(0.8) {
                config.current = joint;
            }
            config.joint = None;
            self.record.epoch = self.record.epoch.next();
            if !config.is_voter(primary.replica) {
                self.record.primary = None;
                self.record.revision += 1;
                self.doing = Doing::Fencing {
                    again: now,
                    round: 0,
                    reports: BTreeMap::new(),
                    enough_since: None,
                };
                acts.push(Act::Publish);
                return "left joint without its primary";
            }
            "left joint"
        } else if let Some(learner) = config.learners.first().copied() {
            let caught_up = followers
                .iter()
                .any(|f| f.replica == learner.replica && f.caught_up);
            if !caught_up {
                if rng.random_bool(0.05) {
                    config.learners.clear();
                    self.record.revision += 1;
                    acts.push(Act::Publish);
                    return "gave a learner up";
                }
                return "";
            }
            let mut joint = config.current.clone();
            let out = rng.random_range(0..joint.members.len());
            joint.members[out] = learner;
            config.joint = Some(joint);
            config.learners.clear();
            self.record.epoch = self.record.epoch.next();
            "entered joint"
        } else {
            let used: Vec<NodeId> = config.replicas().iter().map(|m| m.node).collect();
            let free: Vec<u64> = (1..=nodes)
                .filter(|n| !used.contains(&NodeId(*n)))
                .collect();
            if free.is_empty() {
                return "";
            }
            let node = NodeId(free[rng.random_range(0..free.len())]);
            config.learners.push(Member {
                node,
                replica: ReplicaId(self.next_replica),
            });
            self.next_replica += 1;
            "added a learner"
        };
        self.record.revision += 1;
        acts.push(Act::Publish);
        done
    }

    /// Gives the partition a copy for reads, makes one a learner, or takes one away.
    fn change_readers(&mut self, nodes: u64, rng: &mut StdRng) -> &'static str {
        let config = &mut self.record.config;
        let used: Vec<NodeId> = config.replicas().iter().map(|m| m.node).collect();
        let mut free: Vec<u64> = (1..=nodes).collect();
        free.retain(|n| !used.contains(&NodeId(*n)));
        let count = config.readers.len();
        if count > 0 && rng.random_bool(0.3) {
            config.readers.remove(rng.random_range(0..count));
            "gave up a copy for reads"
        } else if count > 0 && config.learners.is_empty() && rng.random_bool(0.3) {
            let reader = config.readers.remove(rng.random_range(0..count));
            config.learners.push(reader);
            "made a learner of a copy for reads"
        } else if count < 2 && !free.is_empty() {
            config.readers.push(Member {
                node: NodeId(free[rng.random_range(0..free.len())]),
                replica: ReplicaId(self.next_replica),
            });
            self.next_replica += 1;
            "added a copy for reads"
        } else {
            ""
        }
    }

    /// The committed record, to be told to nodes.
    pub fn published(&self) -> Arc<PartitionRecord> {
        Arc::new(self.record.clone())
    }
}
