//! What the operator sees of the model.

use std::collections::BTreeMap;

use super::{PARTITIONS, Partition, World};
use crate::observed::{ClaimSeen, Observed, PodSeen, SetSeen, Silence};
use crate::store::{self, Coordinator, GroupChange, Health, NodeStanding, Seat, Store};

impl World {
    /// What the operator sees.
    pub(in super::super) fn observe(&self) -> Observed {
        let sets = self.sets.iter().map(|(role, replicas)| {
            let set = SetSeen {
                uid: format!("set-{role}"),
                replicas: *replicas,
                update_revision: self.revision[role].clone(),
                is_current: true,
                storage_size: self.made_with[role].0.clone(),
            };
            (*role, set)
        });
        let pods = self.pods.iter().map(|(name, pod)| {
            let (running, ready) = (self.is_running(pod), self.is_ready(name));
            let is_bad = self.bad_revisions.contains(&pod.revision);
            let waiting = match &pod.host {
                None => Some("Unschedulable".to_owned()),
                Some(_) => (is_bad && pod.age >= 2).then(|| "ImagePullBackOff".to_owned()),
            };
            let seen = PodSeen {
                uid: pod.uid.clone(),
                role: Some(pod.role),
                ordinal: pod.ordinal,
                ready,
                running,
                deleting: pod.deleting,
                host: pod.host.clone(),
                revision: pod.revision.clone(),
                waiting,
                not_ready_since_unix_ms: (!ready).then_some(pod.unready_since),
                ready_since_unix_ms: pod.ready_since,
                ..PodSeen::default()
            };
            (name.clone(), seen)
        });
        let claims = self.claims.iter().map(|(name, claim)| {
            let seen = ClaimSeen {
                uid: claim.uid.clone(),
                bound: claim.host.is_some(),
                names_volume: claim.host.is_some(),
                deleting: claim.deleting,
                retired: claim.retired,
                requested_bytes: claim.size,
                capacity_bytes: claim.capacity,
                waits_for_mount: false,
                only_on: claim.host.clone().map(|host| vec![host]),
            };
            (name.clone(), seen)
        });
        Observed {
            now_unix_ms: self.now,
            sets: sets.collect(),
            pods: pods.collect(),
            claims: claims.collect(),
            outside: BTreeMap::new(),
            hosts: self.reads_hosts.then(|| self.hosts.clone()),
            store: self.status(),
        }
    }

    fn status(&self) -> Result<Store, Silence> {
        if self.group.is_empty() {
            return Err(Silence::NotAsked);
        }
        if !self.has_leader() {
            return Err(Silence::NoAnswer("no leader".to_owned()));
        }
        let leader = self.group.keys().find(|name| self.votes(name)).cloned();
        let coordinators = self.group.keys().map(|name| Coordinator {
            name: name.clone(),
            voter: true,
            leader: Some(name) == leader.as_ref(),
            lag: Some(0),
        });
        let mut store = Store {
            coordinators: coordinators.collect(),
            coordinators_change: self.group_change.as_ref().map(|_| GroupChange {
                what: "change".to_owned(),
                step: "a newcomer gets the log".to_owned(),
                failed: serde_json::Value::Null,
            }),
            ..Store::default()
        };
        store.settings.clone_from(&self.settings);
        if store.settings.is_some() {
            store.cluster_id = "c1".to_owned();
        }
        store.rebalance.paused = self.paused;
        store.rebalance.planned = true;
        for (number, partition) in (0..PARTITIONS).zip(&self.partitions) {
            let seats = self.seats(number).unwrap_or_default();
            let missing = seats.iter().filter(|s| !partition.copies.contains(s));
            let missing = u32::try_from(missing.count()).unwrap();
            store.rebalance.waiting += missing;
            let has_surplus = missing == 0 && partition.copies.len() > seats.len();
            store.rebalance.to_adjust += u32::from(has_surplus && !seats.is_empty());
            store
                .partitions
                .push(self.partition_status(number, partition));
        }
        store.nodes = self.node_statuses();
        Ok(store)
    }

    fn partition_status(&self, number: u32, partition: &Partition) -> store::Partition {
        let is_up = |id: &u64| self.members[id].live && self.members[id].up;
        let quorum = self.settings.as_ref().unwrap().write_quorum as usize;
        let up = partition.copies.iter().filter(|id| is_up(id)).count();
        let serving = up >= quorum.min(partition.copies.len());
        let state = if !serving {
            "unserved"
        } else if partition.copies.len() < self.copies_asked() {
            "degraded"
        } else if partition.learner.is_some() {
            "moving"
        } else if up < partition.copies.len() {
            "member-silent"
        } else {
            "healthy"
        };
        let members = partition.copies.iter().map(|id| (*id, "member"));
        let learner = partition.learner.map(|(id, _)| (id, "learner"));
        store::Partition {
            partition: number,
            state: state.to_owned(),
            primary: partition.primary.map(|node| Seat { node }),
            serving,
            replicas: members
                .chain(learner)
                .map(|(node, standing)| store::Copy {
                    member: Seat { node },
                    standing: standing.to_owned(),
                    up: is_up(&node),
                    lag: is_up(&node).then_some(0),
                })
                .collect(),
        }
    }

    fn node_statuses(&self) -> Vec<store::Node> {
        let count = |test: &dyn Fn(&Partition) -> bool| {
            let held = self.partitions.iter().filter(|p| test(p));
            u32::try_from(held.count()).unwrap()
        };
        let known = self.members.iter().filter(|(id, member)| {
            member.live || self.partitions.iter().any(|p| p.copies.contains(id))
        });
        let statuses = known.map(|(id, member)| store::Node {
            id: *id,
            name: member.name.clone(),
            zone: String::new(),
            standing: if member.live {
                NodeStanding::Member
            } else {
                NodeStanding::Gone
            },
            health: match (member.up, member.down_ms > 2_000) {
                (true, _) => Health::Up,
                (false, true) => Health::Down,
                (false, false) => Health::Unknown,
            },
            draining: false,
            disk_full: false,
            expected_back_unix_ms: member.expected_back,
            cordoned_until_unix_ms: Some(member.cordoned_until),
            leads: count(&|p| p.primary == Some(*id)),
            replicas: count(&|p| p.copies.contains(id)),
            seats: 0,
            leaving: member.leaving,
            empty: self.is_empty(*id),
        });
        statuses.collect()
    }
}
