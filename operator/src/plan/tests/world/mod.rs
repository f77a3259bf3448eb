//! A model of Kubernetes and of the coordinators, as far as plans meet them: it carries plans
//! out, refuses what they would refuse, and holds every act to what must never happen.

mod coordinators;
mod sight;

use std::collections::{BTreeMap, BTreeSet};

use cairn_crds::KvClusterSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde_json::json;

use crate::cluster::Cluster;
use crate::names::{Names, Role};
use crate::observed::HostSeen;
use crate::plan::{Plan, Step, plan};
use crate::quantity;
use crate::store::{Leaving, Settings};

const PARTITIONS: u32 = 6;
const TICK_MS: u64 = 1_000;

/// A cluster with that many data nodes, coordinators and copies.
pub(super) fn cluster(data: u32, coordinators: u8, copies: u8) -> Cluster {
    let spec: KvClusterSpec = serde_json::from_value(json!({
        "data": { "replicas": data, "storage": { "size": "10Gi" } },
        "coordinators": { "replicas": coordinators },
        "replicationFactor": copies,
        "timings": { "replaceAfterMs": 60_000 },
    }))
    .unwrap();
    Cluster {
        names: Names {
            namespace: "shop".to_owned(),
            cluster: "orders".to_owned(),
        },
        uid: "manifest".to_owned(),
        generation: 1,
        owner: OwnerReference::default(),
        spec,
        version: "0.1.0".to_owned(),
        image: "cairn/node:0.1.0".to_owned(),
        deleting: false,
    }
}

#[derive(Clone, Debug)]
struct Pod {
    uid: String,
    role: Role,
    ordinal: u32,
    revision: String,
    host: Option<String>,
    age: u32,
    deleting: bool,
    unready_since: u64,
    ready_since: Option<u64>,
}

#[derive(Clone, Debug)]
struct Claim {
    uid: String,
    /// What it asks for, and what it has, bytes.
    size: u64,
    capacity: u64,
    /// Where its local volume is.
    host: Option<String>,
    retired: bool,
    deleting: bool,
    /// Whose disk it is, of a data node.
    identity: Option<u64>,
    /// The partitions of which it has all there is.
    holds: BTreeSet<u32>,
}

#[derive(Clone, Debug)]
struct Member {
    name: String,
    live: bool,
    up: bool,
    down_ms: u64,
    leaving: Option<Leaving>,
    expected_back: Option<u64>,
    cordoned_until: u64,
}

#[derive(Clone, Debug, Default)]
struct Partition {
    copies: BTreeSet<u64>,
    learner: Option<(u64, u32)>,
    primary: Option<u64>,
}

/// The model.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) now: u64,
    pub(super) hosts: BTreeMap<String, HostSeen>,
    pub(super) reads_hosts: bool,
    /// The revision of each role's template.
    pub(super) revision: BTreeMap<Role, String>,
    /// Pods of these never run.
    pub(super) bad_revisions: BTreeSet<String>,
    /// What was done, for assertions on order.
    pub(super) log: Vec<String>,
    sets: BTreeMap<Role, u32>,
    /// What the claim template of each set says, as the manifest wrote it.
    made_with: BTreeMap<Role, Quantity>,
    /// Whether whoever provides volumes enlarges them.
    pub(super) volumes_grow: bool,
    pods: BTreeMap<String, Pod>,
    claims: BTreeMap<String, Claim>,
    members: BTreeMap<u64, Member>,
    partitions: Vec<Partition>,
    /// Voters by name, with the disk on which each votes.
    group: BTreeMap<String, String>,
    group_change: Option<(Vec<String>, Vec<String>, u32)>,
    settings: Option<Settings>,
    paused: bool,
    uids: u64,
    /// Since when nothing has happened that calls for calm.
    quiet_since: u64,
}

impl World {
    /// Nothing but Kubernetes nodes.
    pub(super) fn new(cluster: Cluster) -> Self {
        let hosts = (0..7).map(|n| {
            let host = HostSeen {
                ready: true,
                zone: format!("zone-{}", n % 3),
                ..HostSeen::default()
            };
            (format!("host-{n}"), host)
        });
        Self {
            cluster,
            now: 1_000_000,
            hosts: hosts.collect(),
            reads_hosts: true,
            revision: Role::ALL.map(|role| (role, "r1".to_owned())).into(),
            bad_revisions: BTreeSet::new(),
            log: Vec::new(),
            sets: BTreeMap::new(),
            made_with: BTreeMap::new(),
            volumes_grow: true,
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            members: BTreeMap::new(),
            partitions: Vec::new(),
            group: BTreeMap::new(),
            group_change: None,
            settings: None,
            paused: false,
            uids: 0,
            quiet_since: 0,
        }
    }

    /// A cluster that runs as asked.
    pub(super) fn settled(cluster: Cluster) -> Self {
        let mut world = Self::new(cluster);
        world.settle();
        world.log.clear();
        world
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn names(&self) -> Names {
        self.cluster.names.clone()
    }

    fn wanted(&self, role: Role) -> u32 {
        match role {
            Role::Coordinator => self.cluster.spec.coordinators.replicas.into(),
            Role::Data => self.cluster.spec.data.replicas,
        }
    }

    // --- Processes.

    fn is_running(&self, pod: &Pod) -> bool {
        let host = pod.host.as_ref().and_then(|host| self.hosts.get(host));
        let works = !self.bad_revisions.contains(&pod.revision);
        host.is_some_and(|host| host.ready) && pod.age >= 2 && works
    }

    fn claim_of(&self, pod: &str) -> Option<&Claim> {
        self.claims.get(&self.names().claim(pod))
    }

    fn is_ready(&self, name: &str) -> bool {
        let Some(pod) = self.pods.get(name).filter(|pod| self.is_running(pod)) else {
            return false;
        };
        match pod.role {
            Role::Coordinator => self.votes(name),
            Role::Data => self.member(name).is_some_and(|(_, member)| member.up),
        }
    }

    fn votes(&self, name: &str) -> bool {
        let runs = self.pods.get(name).is_some_and(|pod| self.is_running(pod));
        let disk = self.claim_of(name).map(|claim| &claim.uid);
        runs && disk.is_some() && self.group.get(name) == disk
    }

    fn has_leader(&self) -> bool {
        let up = self.group.keys().filter(|name| self.votes(name)).count();
        up * 2 > self.group.len()
    }

    fn member(&self, name: &str) -> Option<(u64, &Member)> {
        let mut live = self.members.iter().filter(|(_, member)| member.live);
        let (id, member) = live.find(|(_, member)| member.name == name)?;
        Some((*id, member))
    }

    // --- Kubernetes.

    /// A second passes.
    pub(super) fn tick(&mut self) {
        self.now += TICK_MS;
        self.make_pods();
        self.schedule();
        self.enlarge();
        self.run_pods();
        self.coordinate();
        self.check_nothing_is_lost();
    }

    fn make_pods(&mut self) {
        for (role, replicas) in self.sets.clone() {
            for ordinal in 0..replicas {
                let name = self.names().pod(role, ordinal);
                let claim = self.names().claim(&name);
                if !self.claims.contains_key(&claim) {
                    let uid = self.uid();
                    self.claims.insert(
                        claim,
                        Claim {
                            uid,
                            size: quantity::bytes(&self.made_with[&role]).unwrap(),
                            capacity: 0,
                            host: None,
                            retired: false,
                            deleting: false,
                            identity: None,
                            holds: BTreeSet::new(),
                        },
                    );
                }
                if !self.pods.contains_key(&name) {
                    let uid = self.uid();
                    let pod = Pod {
                        uid,
                        role,
                        ordinal,
                        revision: self.revision[&role].clone(),
                        host: None,
                        age: 0,
                        deleting: false,
                        unready_since: self.now,
                        ready_since: None,
                    };
                    self.pods.insert(name, pod);
                }
            }
            for (name, pod) in &mut self.pods {
                if pod.role == role && pod.ordinal >= replicas && !pod.deleting {
                    self.log.push(format!("the set ends {name}"));
                    pod.deleting = true;
                }
            }
        }
    }

    fn schedule(&mut self) {
        let names = self.names();
        let open = |host: &HostSeen| host.ready && !host.cordoned && !host.out_of_service;
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            let pod = &self.pods[&name];
            let Some(claim) = self.claims.get(&names.claim(&name)) else {
                continue;
            };
            if pod.host.is_some() || pod.deleting || claim.deleting {
                continue;
            }
            let crowd = |host: &String| {
                let of_role = |p: &&Pod| p.host.as_ref() == Some(host) && p.role == pod.role;
                self.pods.values().filter(of_role).count()
            };
            let place = match &claim.host {
                Some(host) => self
                    .hosts
                    .get(host)
                    .filter(|h| open(h))
                    .map(|_| host.clone()),
                None => {
                    let hosts = self.hosts.iter().filter(|(_, host)| open(host));
                    hosts.map(|(name, _)| name.clone()).min_by_key(crowd)
                }
            };
            if let Some(host) = place {
                let claim = self.claims.get_mut(&names.claim(&name)).unwrap();
                claim.host = Some(host.clone());
                claim.capacity = claim.capacity.max(claim.size);
                self.pods.get_mut(&name).unwrap().host = Some(host);
            }
        }
    }

    fn enlarge(&mut self) {
        if self.volumes_grow {
            let bound = self.claims.values_mut().filter(|c| c.host.is_some());
            bound.for_each(|claim| claim.capacity = claim.capacity.max(claim.size));
        }
    }

    fn run_pods(&mut self) {
        let hosts = &self.hosts;
        for pod in self.pods.values_mut() {
            let host = pod.host.as_ref().and_then(|host| hosts.get(host));
            match host {
                Some(host) if host.ready => pod.age += 1,
                _ => pod.age = 0,
            }
        }
        self.pods.retain(|_, pod| {
            let host = pod.host.as_ref().map(|host| hosts.get(host));
            match host {
                // Nobody started it.
                None => !pod.deleting,
                // Kubernetes collects those of hosts that are gone.
                Some(None) => false,
                Some(Some(host)) if host.out_of_service => false,
                Some(Some(host)) => !(pod.deleting && host.ready),
            }
        });
        let names = self.names();
        let used: BTreeSet<String> = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.host.is_some())
            .map(|(name, _)| names.claim(name))
            .collect();
        self.claims
            .retain(|name, claim| !claim.deleting || used.contains(name));
        for name in self.pods.keys().cloned().collect::<Vec<_>>() {
            let (ready, now) = (self.is_ready(&name), self.now);
            let pod = self.pods.get_mut(&name).unwrap();
            pod.ready_since = ready.then(|| pod.ready_since.unwrap_or(now));
            if ready {
                pod.unready_since = now;
            }
        }
    }

    // --- What must never happen.

    fn check_nothing_is_lost(&self) {
        for (number, partition) in (0..PARTITIONS).zip(&self.partitions) {
            let whole = partition.copies.iter().filter(|id| {
                let mut disks = self.claims.values();
                let disk = disks.find(|claim| claim.identity == Some(**id));
                let there = |host: &String| self.hosts.contains_key(host);
                disk.is_some_and(|disk| {
                    disk.holds.contains(&number) && disk.host.as_ref().is_some_and(there)
                })
            });
            assert!(
                whole.count() > 0,
                "partition {number} is lost: {:#?}",
                self.log
            );
        }
    }

    fn check_unneeded(&self, role: Role, name: &str) {
        match role {
            Role::Coordinator => {
                assert!(
                    !self.group.contains_key(name),
                    "{name} votes: {:#?}",
                    self.log
                );
            }
            Role::Data => {
                assert!(
                    self.member(name).is_none(),
                    "{name} is a member: {:#?}",
                    self.log
                );
            }
        }
    }

    // --- The operator.

    /// Plans, and carries out the first writes of the plan. Says whether there was one.
    pub(super) fn round(&mut self, writes_max: usize) -> bool {
        let plan = plan(&self.cluster, &self.observe());
        self.carry_out(&plan, writes_max)
    }

    pub(super) fn carry_out(&mut self, plan: &Plan, writes_max: usize) -> bool {
        let mut writes = 0;
        for role in Role::ALL {
            let replicas = plan.replicas.of(role);
            if self.sets.get(&role) == Some(&replicas) {
                continue;
            }
            if writes == writes_max {
                return true;
            }
            writes += 1;
            for pod in self.pods.values().filter(|pod| pod.role == role) {
                if pod.ordinal >= replicas {
                    self.check_unneeded(role, &self.names().pod(role, pod.ordinal));
                }
            }
            self.log.push(format!("{role}: {replicas} replicas"));
            if self.sets.insert(role, replicas).is_none() {
                let size = self.cluster.storage_size(role).clone();
                self.made_with.insert(role, size);
            }
        }
        for step in &plan.steps {
            if writes == writes_max {
                return true;
            }
            writes += 1;
            self.log.push(format!("{step:?}"));
            if !self.step(step) {
                self.log.push("refused".to_owned());
                return true;
            }
        }
        writes > 0
    }

    fn step(&mut self, step: &Step) -> bool {
        match step {
            Step::Admin(admin) => self.has_leader() && self.admin(admin),
            Step::MarkRetired { name, uid, retired } => {
                if let Some(claim) = self.claims.get_mut(name).filter(|c| c.uid == *uid) {
                    claim.retired = *retired;
                }
                true
            }
            Step::GrowClaim { name, uid, size } => {
                if let Some(claim) = self.claims.get_mut(name).filter(|c| c.uid == *uid) {
                    let size = quantity::bytes(&Quantity(size.clone())).unwrap();
                    assert!(size > claim.size, "{name} shrinks");
                    claim.size = size;
                }
                true
            }
            Step::RenewSet { role, .. } => {
                self.sets.remove(role);
                true
            }
            Step::DeleteClaim { name, uid, .. } => {
                let pod = name.strip_prefix("data-").unwrap().to_owned();
                if self.claims.get(name).is_some_and(|claim| claim.uid == *uid) {
                    self.check_claim_is_nobodys(&pod);
                    self.claims.get_mut(name).unwrap().deleting = true;
                }
                true
            }
            Step::DeletePod {
                name, uid, force, ..
            } => {
                if self.pods.get(name).is_none_or(|pod| pod.uid != *uid) {
                    return true;
                }
                if *force {
                    let host = self.pods[name].host.as_ref();
                    let host = host.and_then(|host| self.hosts.get(host));
                    assert!(!host.is_some_and(|host| host.ready), "{name} may run on");
                    self.pods.remove(name);
                } else {
                    self.check_restart(name);
                    self.pods.get_mut(name).unwrap().deleting = true;
                }
                true
            }
        }
    }

    fn check_claim_is_nobodys(&self, pod: &str) {
        let claim = self.claim_of(pod).unwrap();
        if let Some(id) = claim.identity {
            assert!(
                !self.members[&id].live,
                "{pod} is a member: {:#?}",
                self.log
            );
        }
        if self.group.get(pod) == Some(&claim.uid) {
            let others = self.group.keys().filter(|name| *name != pod);
            let up = others.filter(|name| self.votes(name)).count();
            assert!(!self.votes(pod), "{pod} votes: {:#?}", self.log);
            assert!(up * 2 > self.group.len(), "no majority: {:#?}", self.log);
        }
    }

    /// One node at a time is restarted, of those that serve.
    fn check_restart(&self, name: &str) {
        if !self.is_ready(name) {
            return;
        }
        for role in Role::ALL {
            for ordinal in 0..self.wanted(role) {
                let other = self.names().pod(role, ordinal);
                assert!(
                    self.is_ready(&other) && !self.pods[&other].deleting,
                    "{name} is restarted while {other} is away: {:#?}",
                    self.log
                );
            }
        }
        assert!(
            self.is_whole(),
            "{name} is restarted too early: {:#?}",
            self.log
        );
        if let Some((id, member)) = self.member(name) {
            let settled = member.leaving.is_none() || self.is_empty(id);
            assert!(settled, "{name} drains: {:#?}", self.log);
        }
    }

    // --- Runs.

    /// Rounds and seconds, for as long as anything changes; then all is as asked.
    pub(super) fn settle(&mut self) {
        self.settle_with(usize::MAX);
    }

    /// The same, with an operator that dies after so many writes of each round.
    pub(super) fn settle_with(&mut self, writes_max: usize) {
        for _ in 0..1_500 {
            let acted = self.round(writes_max);
            self.tick();
            if !acted && self.difference().is_none() {
                return;
            }
        }
        let plan = plan(&self.cluster, &self.observe());
        panic!(
            "it does not settle: {}\n{:#?}\n{:#?}\n{:#?}",
            self.difference().unwrap_or_default(),
            self.log.iter().rev().take(30).collect::<Vec<_>>(),
            plan,
            self.observe().pods,
        );
    }

    /// So many rounds, each with its second.
    pub(super) fn run(&mut self, rounds: u32) {
        for _ in 0..rounds {
            self.round(usize::MAX);
            self.tick();
        }
    }

    /// What is not as asked.
    fn difference(&self) -> Option<String> {
        let spec = &self.cluster.spec;
        for role in Role::ALL {
            let wanted: BTreeSet<String> = (0..self.wanted(role))
                .map(|ordinal| self.names().pod(role, ordinal))
                .collect();
            if self.sets.get(&role) != Some(&self.wanted(role)) {
                return Some(format!("{role} has {:?} replicas", self.sets.get(&role)));
            }
            let size = self.cluster.storage_size(role);
            if self.made_with[&role] != *size {
                return Some(format!("{role} has volumes of {}", self.made_with[&role].0));
            }
            for name in &wanted {
                let asked = quantity::bytes(size).unwrap();
                if self.claim_of(name).is_none_or(|claim| claim.size < asked) {
                    return Some(format!("{name} has too small a volume"));
                }
                let pod = self.pods.get(name);
                if !self.is_ready(name) || pod.is_none_or(|pod| pod.deleting) {
                    return Some(format!("{name} is not ready"));
                }
                if pod.is_none_or(|pod| pod.revision != self.revision[&role]) {
                    return Some(format!("{name} is outdated"));
                }
                if self.claim_of(name).is_none_or(|claim| claim.retired) {
                    return Some(format!("{name} is on a retired volume"));
                }
            }
            if self
                .pods
                .values()
                .any(|p| p.role == role && p.ordinal >= self.wanted(role))
            {
                return Some(format!("{role} has too many pods"));
            }
            let there: BTreeSet<String> = match role {
                Role::Coordinator => self.group.keys().cloned().collect(),
                Role::Data => {
                    let live = self.members.values().filter(|member| member.live);
                    live.map(|member| member.name.clone()).collect()
                }
            };
            if there != wanted {
                return Some(format!("{role}: {there:?} are in"));
            }
        }
        let drains = self.members.values().filter(|member| member.live);
        let drains: BTreeSet<&String> = drains
            .filter(|member| member.leaving.is_some())
            .map(|member| &member.name)
            .collect();
        if drains != spec.maintenance.drain.iter().collect() {
            return Some(format!("{drains:?} drain"));
        }
        if self.copies_asked() != usize::from(spec.replication_factor) {
            return Some(format!("{} copies", self.copies_asked()));
        }
        (!self.is_whole()).then(|| "it is not whole".to_owned())
    }

    /// The Kubernetes node of a pod.
    pub(super) fn host_of(&self, pod: &str) -> String {
        self.pods[pod].host.clone().unwrap()
    }

    /// The power of a Kubernetes node goes, or comes back.
    pub(super) fn power(&mut self, host: &str, on: bool) {
        let now = self.now;
        if let Some(host) = self.hosts.get_mut(host) {
            host.ready = on;
            host.since_unix_ms = now;
        }
    }

    /// Somebody deletes a pod.
    pub(super) fn kill(&mut self, pod: &str) {
        if let Some(pod) = self.pods.get_mut(pod) {
            pod.deleting = true;
        }
    }

    /// How many identities there ever were.
    pub(super) fn identities(&self) -> usize {
        self.members.len()
    }

    /// The UID of the claim of a pod.
    pub(super) fn claim_uid(&self, pod: &str) -> Option<String> {
        self.claim_of(pod).map(|claim| claim.uid.clone())
    }

    /// Whether a pod serves.
    pub(super) fn serves(&self, pod: &str) -> bool {
        self.is_ready(pod)
    }

    /// How many of the partitions a node leads.
    pub(super) fn leads(&self, pod: &str) -> usize {
        let id = self.member(pod).map(|(id, _)| id);
        self.partitions.iter().filter(|p| p.primary == id).count()
    }

    /// Whether every coordinator votes.
    pub(super) fn group_is_whole(&self) -> bool {
        self.group.keys().all(|name| self.votes(name)) && self.group_change.is_none()
    }

    /// Somebody deletes the StatefulSets, and leaves their pods.
    pub(super) fn orphan_pods(&mut self) {
        self.sets.clear();
    }

    /// Everything is deleted but volumes and Kubernetes nodes.
    pub(super) fn delete_but_for_volumes(&mut self) {
        self.sets.clear();
        self.pods.clear();
    }

    /// Whether everything is whole, with more than one copy and coordinator, so that nothing
    /// is lost with any one Kubernetes node.
    pub(super) fn can_lose_a_host(&self) -> bool {
        let per_host = |role: Role| {
            let mut hosts: Vec<_> = self.claims_of(role);
            let all = hosts.len();
            hosts.sort();
            hosts.dedup();
            hosts.len() == all
        };
        self.copies_asked() > 1
            && self.settings.is_some()
            && self.cluster.spec.coordinators.replicas > 1
            && self.group.len() > 2
            && self.group_is_whole()
            && self.is_whole()
            && self.hosts.len() > 5
            && Role::ALL.into_iter().all(per_host)
    }

    /// What the claims of a role ask for, by name.
    pub(super) fn sizes_of(&self, role: Role) -> BTreeMap<String, u64> {
        let names = self.names();
        let of_role = self.claims.iter().filter(|(name, _)| {
            let pod = name.strip_prefix("data-").unwrap();
            names.ordinal(role, pod).is_some()
        });
        of_role
            .map(|(name, claim)| (name.clone(), claim.size))
            .collect()
    }

    /// The claim template of a role's set; nothing where there is no set.
    pub(super) fn made_with(&self, role: Role) -> Option<&str> {
        self.sets
            .get(&role)
            .map(|_| self.made_with[&role].0.as_str())
    }

    /// The UIDs of the pods.
    pub(super) fn pod_uids(&self) -> Vec<String> {
        self.pods.values().map(|pod| pod.uid.clone()).collect()
    }

    /// Where the volumes of a role are.
    fn claims_of(&self, role: Role) -> Vec<Option<String>> {
        let names = self.names();
        let of_role = self.claims.iter().filter(|(name, _)| {
            let pod = name.strip_prefix("data-").unwrap();
            names.ordinal(role, pod).is_some()
        });
        of_role.map(|(_, claim)| claim.host.clone()).collect()
    }
}
