//! What is known, joined for each node: its pod, its claim, and the coordinators' word on it.
//!
//! A node is who the coordinators say has its pod's name *in this round*: numbers of members
//! are never remembered, nor worked out from ordinals.

use std::collections::BTreeSet;

use crate::cluster::Cluster;
use crate::names::Role;
use crate::observed::{ClaimSeen, HostSeen, Observed, PodSeen};
use crate::store::{self, Coordinator, Store};

use super::{Admin, Step};

/// The least time for which a Kubernetes node has to be silent before a volume on it counts
/// as lost, however short the cluster's own patience is: an upgrade of a kubelet takes less.
const PATIENCE_MS_MIN: u64 = 60_000;

/// One more than the highest number that a node can have had, as the manifest bounds it: what
/// registers under a higher one gets no pods.
fn numbers(role: Role) -> u32 {
    match role {
        Role::Coordinator => 5,
        Role::Data => 200,
    }
}

/// How long a pod that is made anew may take besides handing over: to be scheduled, to fetch
/// its image, and to read its log.
const START_MS: u64 = 120_000;

/// How long a node may take to hand over where the manifest does not say, see
/// `drainTimeoutMs`.
const DRAIN_MS_DEFAULT: u64 = 20_000;

/// How a Kubernetes node is, the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum HostFate {
    /// It answers.
    Fine,
    /// It does not answer, which may pass.
    Silent,
    /// It has not answered for longer than one waits for a node.
    Overdue,
    /// It is out of the API, or does not answer and is said to be out of service.
    Gone,
}

/// A node that is asked for, or that anybody knows of.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    /// What it is.
    pub(super) role: Role,
    /// Its pod's number.
    pub(super) ordinal: u32,
    /// Its pod's name, and its own.
    pub(super) name: String,
    /// Its pod.
    pub(super) pod: Option<&'a PodSeen>,
    /// The name of its claim.
    pub(super) claim_name: String,
    /// Its claim.
    pub(super) claim: Option<&'a ClaimSeen>,
    /// Of a data node: the live identity of its name.
    pub(super) member: Option<&'a store::Node>,
    /// Of a coordinator: its place in the group.
    pub(super) seat: Option<&'a Coordinator>,
}

impl Node<'_> {
    /// Whether it has a pod that serves and is to stay.
    pub(super) fn is_ready(&self) -> bool {
        self.pod.is_some_and(|pod| pod.ready && !pod.deleting)
    }

    /// Whether its claim says that the node on it was retired.
    pub(super) fn is_marked(&self) -> bool {
        self.claim.is_some_and(|claim| claim.retired)
    }

    /// Whether it has a claim that never got a volume, and so holds nothing.
    pub(super) fn has_no_volume(&self) -> bool {
        self.claim
            .is_some_and(|claim| !claim.bound && !claim.names_volume)
    }

    /// Whether it has a claim that is there to stay.
    pub(super) fn has_fit_claim(&self) -> bool {
        self.claim
            .is_some_and(|claim| !claim.retired && !claim.deleting)
    }

    /// Whether the coordinators have been asked to empty it.
    pub(super) fn drains(&self) -> bool {
        let leaving = self.member.and_then(|member| member.leaving);
        leaving == Some(store::Leaving::Draining)
    }

    /// Asks for a mark on its claim, or for its removal.
    pub(super) fn mark(&self, retired: bool) -> Option<Step> {
        let claim = self.claim.filter(|claim| claim.retired != retired)?;
        Some(Step::MarkRetired {
            name: self.claim_name.clone(),
            uid: claim.uid.clone(),
            retired,
        })
    }

    /// Asks for its claim to be deleted, where nobody did.
    pub(super) fn delete_claim(&self, reason: &str) -> Option<Step> {
        let claim = self.claim.filter(|claim| !claim.deleting)?;
        Some(Step::DeleteClaim {
            name: self.claim_name.clone(),
            uid: claim.uid.clone(),
            reason: reason.to_owned(),
        })
    }

    /// Asks for its pod to be deleted.
    pub(super) fn delete_pod(&self, force: bool, reason: &str) -> Option<Step> {
        let pod = self.pod.filter(|pod| force || !pod.deleting)?;
        Some(Step::DeletePod {
            name: self.name.clone(),
            uid: pod.uid.clone(),
            force,
            reason: reason.to_owned(),
        })
    }
}

/// The manifest and what there is.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// What is asked for.
    pub(super) cluster: &'a Cluster,
    /// What there is.
    pub(super) seen: &'a Observed,
}

impl<'a> View<'a> {
    /// The coordinators' word, where they gave it and have made the cluster. Before that they
    /// know of nobody, which proves nothing.
    pub(super) fn store(&self) -> Option<&'a Store> {
        let store = self.seen.store.as_ref().ok()?;
        (!store.cluster_id.is_empty()).then_some(store)
    }

    /// How many nodes of the role are asked for.
    pub(super) fn wanted(&self, role: Role) -> u32 {
        match role {
            Role::Coordinator => u32::from(self.cluster.spec.coordinators.replicas),
            Role::Data => self.cluster.spec.data.replicas,
        }
    }

    /// How many pods of the role there have to be for everybody on whom the coordinators count.
    pub(super) fn needed_by_store(&self, role: Role, store: &Store) -> u32 {
        let ordinal = |name: &str| self.ordinal(role, name);
        let highest = match role {
            Role::Coordinator => store
                .coordinators
                .iter()
                .filter_map(|coordinator| ordinal(&coordinator.name))
                .max(),
            Role::Data => store
                .nodes
                .iter()
                .filter(|node| node.standing == store::NodeStanding::Member)
                .filter_map(|node| ordinal(&node.name))
                .max(),
        };
        highest.map_or(0, |highest| highest + 1)
    }

    fn ordinal(&self, role: Role, pod: &str) -> Option<u32> {
        let ordinal = self.cluster.names.ordinal(role, pod)?;
        (ordinal < numbers(role)).then_some(ordinal)
    }

    /// The nodes of the role that are asked for or that anybody knows of, by number.
    pub(super) fn nodes(&self, role: Role) -> Vec<Node<'a>> {
        let names = &self.cluster.names;
        let store = self.store();
        let kept = self.seen.sets.get(&role).map_or(0, |set| set.replicas);
        let mut ordinals: BTreeSet<u32> = (0..self.wanted(role).max(kept)).collect();
        let pods = self.seen.pods.keys().map(String::as_str);
        let prefix = names.claim("");
        let claims = self.seen.claims.keys();
        let claims = claims.filter_map(|claim| claim.strip_prefix(&prefix));
        ordinals.extend(
            pods.chain(claims)
                .filter_map(|name| self.ordinal(role, name)),
        );
        if let Some(store) = store {
            let members = store.nodes.iter().map(|node| node.name.as_str());
            let seats = store.coordinators.iter().map(|c| c.name.as_str());
            ordinals.extend(
                members
                    .chain(seats)
                    .filter_map(|name| self.ordinal(role, name)),
            );
        }
        ordinals
            .into_iter()
            .map(|ordinal| {
                let name = names.pod(role, ordinal);
                let claim_name = names.claim(&name);
                Node {
                    role,
                    ordinal,
                    pod: self.seen.pods.get(&name),
                    claim: self.seen.claims.get(&claim_name),
                    member: store.and_then(|store| store.member(&name)),
                    seat: store
                        .and_then(|store| store.coordinators.iter().find(|c| c.name == name)),
                    claim_name,
                    name,
                }
            })
            .collect()
    }

    /// The Kubernetes nodes, where they are known. A cluster without any is one that cannot
    /// be read rather than one that lost them all.
    fn hosts(&self) -> Option<&'a std::collections::BTreeMap<String, HostSeen>> {
        self.seen.hosts.as_ref().filter(|hosts| !hosts.is_empty())
    }

    /// Whether the operator may know how Kubernetes nodes are.
    pub(super) fn knows_hosts(&self) -> bool {
        self.hosts().is_some()
    }

    /// For how long one waits for a Kubernetes node, in milliseconds.
    pub(super) fn patience_ms(&self) -> u64 {
        let agreed = self.store().and_then(|store| store.settings.as_ref());
        let agreed = agreed.map(|settings| settings.replace_after_ms);
        let asked = super::settings::replace_after_ms(&self.cluster.spec);
        agreed.unwrap_or(asked).max(PATIENCE_MS_MIN)
    }

    /// How a Kubernetes node is; absent where that is not known.
    pub(super) fn fate(&self, host: &str) -> Option<HostFate> {
        let Some(host) = self.hosts()?.get(host) else {
            return Some(HostFate::Gone);
        };
        let silent_for = self.seen.now_unix_ms.saturating_sub(host.since_unix_ms);
        Some(if host.ready {
            HostFate::Fine
        } else if host.out_of_service {
            HostFate::Gone
        } else if silent_for > self.patience_ms() {
            HostFate::Overdue
        } else {
            HostFate::Silent
        })
    }

    /// How the best of those Kubernetes nodes is on which the volume of a node can be used;
    /// absent where that is any, or not known.
    pub(super) fn fate_of_volume(&self, node: &Node<'_>) -> Option<HostFate> {
        let hosts = node.claim?.only_on.as_ref()?;
        let fates: Option<Vec<HostFate>> = hosts.iter().map(|host| self.fate(host)).collect();
        fates?.into_iter().min()
    }

    /// How the Kubernetes node of a pod is, where it has one and that is known.
    pub(super) fn fate_of_pod(&self, pod: &PodSeen) -> Option<HostFate> {
        self.fate(pod.host.as_deref()?)
    }

    /// Whether nobody on the pod's Kubernetes node will ever confirm that it ended.
    pub(super) fn is_stranded(&self, pod: &PodSeen) -> bool {
        self.fate_of_pod(pod) >= Some(HostFate::Overdue)
    }

    /// Whether the node is on a Kubernetes node that takes no new pods, or evicts them.
    pub(super) fn must_yield(&self, node: &Node<'_>) -> bool {
        let host = node.pod.and_then(|pod| pod.host.as_ref());
        let host = host.and_then(|host| self.hosts()?.get(host));
        host.is_some_and(|host| host.cordoned || host.evicting)
    }

    /// Whether a restart would end more than the process: the pod might find no Kubernetes
    /// node that takes it, or no volume.
    pub(super) fn would_not_return(&self, node: &Node<'_>) -> bool {
        self.must_yield(node) || node.claim.is_some_and(|claim| claim.deleting)
    }

    /// How long a pod that is made anew may be away, in milliseconds.
    pub(super) fn restart_ms(&self) -> u64 {
        let drain = self.cluster.spec.timings.drain_timeout_ms;
        drain.map_or(DRAIN_MS_DEFAULT, u64::from) + START_MS
    }

    /// Tells the coordinators that a node is away on purpose, unless they know.
    pub(super) fn expect_back(&self, node: &Node<'_>) -> Option<Step> {
        let member = node.member?;
        let now = self.seen.now_unix_ms;
        if member
            .expected_back_unix_ms
            .is_some_and(|until| until > now)
        {
            return None;
        }
        Some(Step::Admin(Admin::ExpectBack(
            member.id,
            now + self.restart_ms(),
        )))
    }
}
