//! Reads what there is, live: no round decides by a cache.
//!
//! What may not be read is no failure: Kubernetes nodes and volumes are cluster-wide, and an
//! operator that is let into some namespaces alone does without them, see `Observed::hosts`.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    Node, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::writes::{Error, within};
use crate::leader::now_unix_ms;
use crate::names::{
    ANNOTATION_RETIRED, CLIENT_PORT, LABEL_COMPONENT, LABEL_OUTSIDE, Names, RESP_PORT, Role, VOLUME,
};
use crate::observed::{ClaimSeen, HostSeen, Observed, OutsideSeen, PodSeen, SetSeen, Silence};
use crate::quantity;

/// How many volumes are read at a time.
const AT_A_TIME: usize = 8;
/// The label of a Kubernetes node with its host name, by which local volumes name it.
const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// The label of a Kubernetes node with its zone.
const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// The label of a pod with the revision that its StatefulSet made it as.
const LABEL_REVISION: &str = "controller-revision-hash";
/// Set by a person or a controller: the node is off, and its pods may be taken away.
const TAINT_OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Set by Kubernetes itself on a node that does not answer, or is not well.
const TAINTS_OF_SILENCE: [&str; 2] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
];
/// What a container waits for at every start.
const WAITS_OF_A_START: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Everything but what the coordinators say.
///
/// # Errors
/// Where the API server does not answer, or refuses what no operator can do without.
pub async fn observe(client: &Client, names: &Names) -> Result<Observed, Error> {
    let selector = selector(names);
    let sets = sets(client, names).await?;
    let pods: Vec<Pod> = list(client, names, &selector).await?;
    let pods: BTreeMap<String, PodSeen> = pods
        .iter()
        .map(|pod| (pod.name_any(), pod_seen(pod, names)))
        .collect();
    let claims: Vec<PersistentVolumeClaim> = list(client, names, &selector).await?;
    let volumes = volumes(client, names, &pods, &claims).await?;
    let services: Vec<Service> =
        list(client, names, &format!("{selector},{LABEL_OUTSIDE}=true")).await?;
    let outside = services
        .iter()
        .map(|service| (service.name_any(), outside_seen(service)))
        .collect();
    // Last: a node that a volume names and that is missing here is gone, and not one that
    // joined since they were listed.
    let hosts = hosts(client).await?;
    let claims = claims
        .iter()
        .map(|claim| {
            let name = claim.name_any();
            let only_on = volumes
                .get(&name)
                .and_then(|volume| only_on(volume, hosts.as_deref()?));
            let seen = ClaimSeen {
                only_on,
                ..claim_seen(claim)
            };
            (name, seen)
        })
        .collect();
    Ok(Observed {
        now_unix_ms: now_unix_ms(),
        sets,
        pods,
        claims,
        outside,
        hosts: hosts.map(|hosts| {
            hosts
                .iter()
                .map(|host| (host.name_any(), host_seen(host)))
                .collect()
        }),
        store: Err(Silence::NotAsked),
    })
}

fn selector(names: &Names) -> String {
    let pairs: Vec<String> = names
        .selector()
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

async fn list<K>(client: &Client, names: &Names, selector: &str) -> Result<Vec<K>, Error>
where
    K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), &names.namespace);
    let params = ListParams::default().labels(selector);
    let what = || format!("list {}", K::plural(&()));
    Ok(within(what, api.list(&params)).await?.items)
}

/// The Kubernetes nodes; `None` where they may not be read.
async fn hosts(client: &Client) -> Result<Option<Vec<Node>>, Error> {
    let api: Api<Node> = Api::all(client.clone());
    let params = ListParams::default();
    match within(|| "list nodes".to_owned(), api.list(&params)).await {
        Ok(list) => Ok(Some(list.items)),
        Err(error) if error.is_forbidden() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn sets(client: &Client, names: &Names) -> Result<BTreeMap<Role, SetSeen>, Error> {
    let api: Api<StatefulSet> = Api::namespaced(client.clone(), &names.namespace);
    let mut sets = BTreeMap::new();
    for role in Role::ALL {
        let name = names.role(role);
        let what = || format!("read StatefulSet {name}");
        if let Some(set) = within(what, api.get_opt(&name)).await? {
            sets.insert(role, set_seen(&set));
        }
    }
    Ok(sets)
}

fn set_seen(set: &StatefulSet) -> SetSeen {
    let spec = set.spec.clone().unwrap_or_default();
    let status = set.status.clone().unwrap_or_default();
    let storage_size = spec
        .volume_claim_templates
        .iter()
        .flatten()
        .find(|claim| claim.name_any() == VOLUME)
        .and_then(requested)
        .map_or_else(String::new, |size| size.0.clone());
    SetSeen {
        uid: set.uid().unwrap_or_default(),
        replicas: count(spec.replicas),
        update_revision: status.update_revision.unwrap_or_default(),
        is_current: set.metadata.generation.is_some()
            && status.observed_generation == set.metadata.generation,
        storage_size,
    }
}

fn count(replicas: Option<i32>) -> u32 {
    // One is what Kubernetes takes where nothing is said.
    u32::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

fn pod_seen(pod: &Pod, names: &Names) -> PodSeen {
    let name = pod.name_any();
    let component = pod.labels().get(LABEL_COMPONENT);
    let role = Role::ALL
        .into_iter()
        .find(|role| component.is_some_and(|label| label == role.component()))
        .filter(|role| names.ordinal(*role, &name).is_some());
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |wanted: &str| conditions.iter().find(|one| one.type_ == wanted);
    let ready = condition("Ready").is_some_and(|one| one.status == "True");
    let since = condition("Ready")
        .and_then(|one| one.last_transition_time.as_ref())
        .map(unix_ms);
    let states: Vec<_> = status
        .container_statuses
        .iter()
        .flatten()
        .filter_map(|container| container.state.as_ref())
        .collect();
    let unschedulable = condition("PodScheduled")
        .filter(|one| one.status == "False")
        .and_then(|one| one.reason.clone());
    let waiting = states
        .iter()
        .filter_map(|state| state.waiting.as_ref()?.reason.clone())
        .find(|reason| !WAITS_OF_A_START.contains(&reason.as_str()));
    PodSeen {
        uid: pod.uid().unwrap_or_default(),
        role,
        ordinal: role
            .and_then(|role| names.ordinal(role, &name))
            .unwrap_or_default(),
        ready,
        running: states.iter().any(|state| state.running.is_some()),
        deleting: pod.metadata.deletion_timestamp.is_some(),
        host: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        host_ip: status.host_ip,
        revision: pod
            .labels()
            .get(LABEL_REVISION)
            .cloned()
            .unwrap_or_default(),
        waiting: unschedulable.or(waiting),
        not_ready_since_unix_ms: since.filter(|_| !ready),
        ready_since_unix_ms: since.filter(|_| ready),
    }
}

/// A Service for clients outside. Of a load balancer with several addresses the first counts,
/// and of one with both its address rather than its name.
fn outside_seen(service: &Service) -> OutsideSeen {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let node_port = |port: u16| {
        let mut ports = ports.into_iter().flatten();
        let found = ports.find(|one| one.port == i32::from(port))?;
        u16::try_from(found.node_port?)
            .ok()
            .filter(|port| *port > 0)
    };
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let mut given = balancer.iter().flat_map(|one| one.ingress.iter().flatten());
    OutsideSeen {
        redis_node_port: node_port(RESP_PORT),
        grpc_node_port: node_port(CLIENT_PORT),
        ingress: given.find_map(|one| one.ip.clone().or_else(|| one.hostname.clone())),
    }
}

fn unix_ms(time: &Time) -> u64 {
    u64::try_from(time.0.as_millisecond()).unwrap_or(0)
}

pub(super) fn host_seen(host: &Node) -> HostSeen {
    let spec = host.spec.clone().unwrap_or_default();
    let status = host.status.clone().unwrap_or_default();
    let ready = status
        .conditions
        .iter()
        .flatten()
        .find(|one| one.type_ == "Ready");
    let taints = spec.taints.unwrap_or_default();
    let addresses = status.addresses.unwrap_or_default();
    let address = |kind: &str| {
        let found = addresses.iter().find(|one| one.type_ == kind);
        found.map(|one| one.address.clone())
    };
    HostSeen {
        ready: ready.is_some_and(|one| one.status == "True"),
        since_unix_ms: ready
            .and_then(|one| one.last_transition_time.as_ref())
            .or(host.metadata.creation_timestamp.as_ref())
            .map_or(0, unix_ms),
        cordoned: spec.unschedulable == Some(true),
        evicting: taints.iter().any(|taint| {
            taint.effect == "NoExecute"
                && taint.key != TAINT_OUT_OF_SERVICE
                && !TAINTS_OF_SILENCE.contains(&taint.key.as_str())
        }),
        out_of_service: taints.iter().any(|taint| taint.key == TAINT_OUT_OF_SERVICE),
        zone: host.labels().get(LABEL_ZONE).cloned().unwrap_or_default(),
        internal_ip: address("InternalIP"),
        external_ip: address("ExternalIP"),
    }
}

fn requested(
    claim: &PersistentVolumeClaim,
) -> Option<&k8s_openapi::apimachinery::pkg::api::resource::Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage")
}

/// The volumes of claims whose pods are not well, by claim. Where the others' can be used does
/// not matter.
async fn volumes(
    client: &Client,
    names: &Names,
    pods: &BTreeMap<String, PodSeen>,
    claims: &[PersistentVolumeClaim],
) -> Result<BTreeMap<String, PersistentVolume>, Error> {
    let well: BTreeSet<String> = pods
        .iter()
        .filter(|(_, pod)| pod.ready)
        .map(|(pod, _)| names.claim(pod))
        .collect();
    let wanted = claims.iter().filter_map(|claim| {
        let volume = claim.spec.as_ref()?.volume_name.clone()?;
        let claim = claim.name_any();
        (!well.contains(&claim)).then_some((claim, volume))
    });
    stream::iter(wanted)
        .map(|(claim, name)| async move {
            let volume = volume(client, &name).await?;
            Ok::<_, Error>(volume.map(|volume| (claim, volume)))
        })
        .buffer_unordered(AT_A_TIME)
        .try_filter_map(|found| async move { Ok(found) })
        .try_collect()
        .await
}

/// A volume; `None` where it is not there, or may not be read.
async fn volume(client: &Client, name: &str) -> Result<Option<PersistentVolume>, Error> {
    let api: Api<PersistentVolume> = Api::all(client.clone());
    let what = || format!("read PersistentVolume {name}");
    match within(what, api.get_opt(name)).await {
        Err(error) if error.is_forbidden() => Ok(None),
        read => read,
    }
}

fn claim_seen(claim: &PersistentVolumeClaim) -> ClaimSeen {
    let status = claim.status.clone().unwrap_or_default();
    // The API server took them; one that it reads more leniently counts as unknown.
    let bytes = |quantity| quantity::bytes(quantity).unwrap_or(0);
    ClaimSeen {
        uid: claim.uid().unwrap_or_default(),
        bound: status.phase.as_deref() == Some("Bound"),
        names_volume: claim
            .spec
            .as_ref()
            .and_then(|spec| spec.volume_name.as_ref())
            .is_some_and(|volume| !volume.is_empty()),
        deleting: claim.metadata.deletion_timestamp.is_some(),
        retired: claim.annotations().contains_key(ANNOTATION_RETIRED),
        requested_bytes: requested(claim).map_or(0, bytes),
        capacity_bytes: status
            .capacity
            .as_ref()
            .and_then(|capacity| capacity.get("storage"))
            .map_or(0, bytes),
        waits_for_mount: status
            .conditions
            .iter()
            .flatten()
            .any(|one| one.type_ == "FileSystemResizePending" && one.status == "True"),
        only_on: None,
    }
}

/// The Kubernetes nodes on which a volume can be used; `None` where that is not known, or where
/// it is not a matter of single nodes.
fn only_on(volume: &PersistentVolume, hosts: &[Node]) -> Option<Vec<String>> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required.as_ref()?.node_selector_terms;
    // Any of the terms is enough, so each of them has to name nodes.
    let named: Option<Vec<Vec<String>>> = terms.iter().map(|term| named_by(term, hosts)).collect();
    let mut named: Vec<String> = named?.into_iter().flatten().collect();
    named.sort();
    named.dedup();
    (!named.is_empty()).then_some(named)
}

/// The nodes that one term names, by their labels or their names.
fn named_by(term: &NodeSelectorTerm, hosts: &[Node]) -> Option<Vec<String>> {
    let by_label = term.match_expressions.iter().flatten();
    let by_name = term.match_fields.iter().flatten();
    let labels = by_label
        .filter(|one| one.key == LABEL_HOSTNAME && one.operator == "In")
        .map(|one| {
            let labels = one.values.clone().unwrap_or_default();
            labels.iter().map(|label| host_of(label, hosts)).collect()
        });
    let fields = by_name
        .filter(|one| one.key == "metadata.name" && one.operator == "In")
        .map(|one| one.values.clone().unwrap_or_default());
    labels.chain(fields).next()
}

/// The node with that host name. One that is gone is called as its label was, which it usually
/// is, and at any rate it is no node that there is.
fn host_of(label: &str, hosts: &[Node]) -> String {
    hosts
        .iter()
        .find(|host| {
            host.labels()
                .get(LABEL_HOSTNAME)
                .is_some_and(|own| own == label)
        })
        .map_or_else(|| label.to_owned(), ResourceExt::name_any)
}

#[cfg(test)]
#[path = "observe_tests.rs"]
mod tests;
