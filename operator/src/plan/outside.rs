//! Clients outside Kubernetes' network: which data nodes have a Service of their own for them,
//! and by what addresses each is told of.
//!
//! A node has one from before its pod is until after its pod is gone, so that whoever still
//! speaks to a node that drains goes on to do so. What a node is told of itself is an address
//! that leads to it now: of NodePort one of the Kubernetes node that its pod is on, which is
//! not known before the pod has one; of LoadBalancer what somebody gave the Service.

use std::collections::{BTreeMap, BTreeSet};

use cairn_crds::spec::{NodeAddress, OutsideSpec, OutsideType};

use super::view::View;
use super::{Note, Outside, Plan, Topic};
use crate::names::{CLIENT_PORT, RESP_PORT, Role};
use crate::observed::{HostSeen, OutsideSeen, PodSeen};

/// The most Kubernetes nodes whose addresses are in a certificate although no pod of the
/// cluster is on them.
const HOSTS_MAX: usize = 500;

/// Where clients outside reach a data node, as `host:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutsideAddress {
    /// Redis.
    pub redis: String,
    /// gRPC.
    pub grpc: String,
}

impl OutsideAddress {
    /// The host of both, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let host = self.redis.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_matches(['[', ']'])
    }
}

/// Which Services there are to be. `data` is how many pods there are to be.
pub(super) fn services(view: View<'_>, data: u32) -> Outside {
    let names = &view.cluster.names;
    let mut wanted = BTreeSet::new();
    if view.cluster.spec.outside.is_some() {
        wanted.extend(0..data);
        let there = view.seen.pods.values();
        let there = there.filter(|pod| pod.role == Some(Role::Data));
        wanted.extend(there.map(|pod| pod.ordinal));
    }
    let named: BTreeSet<String> = wanted.iter().map(|n| names.outside(*n)).collect();
    let unwanted = view.seen.outside.keys();
    Outside {
        unwanted: unwanted
            .filter(|name| !named.contains(*name))
            .cloned()
            .collect(),
        services: wanted,
        hosts: hosts(view),
    }
}

/// The address of each data node that has one by now, by the node's name.
pub(super) fn addresses(view: View<'_>) -> BTreeMap<String, OutsideAddress> {
    let Some(spec) = &view.cluster.spec.outside else {
        return BTreeMap::new();
    };
    let pods = view.seen.pods.iter();
    let pods = pods.filter(|(_, pod)| pod.role == Some(Role::Data));
    pods.filter_map(|(name, pod)| {
        let service = view
            .seen
            .outside
            .get(&view.cluster.names.outside(pod.ordinal))?;
        Some((name.clone(), address(view, spec, pod, service)?))
    })
    .collect()
}

fn address(
    view: View<'_>,
    spec: &OutsideSpec,
    pod: &PodSeen,
    service: &OutsideSeen,
) -> Option<OutsideAddress> {
    let (host, redis, grpc) = match spec.kind {
        OutsideType::NodePort => (
            address_of_host(view, spec, pod)?,
            service.redis_node_port?,
            service.grpc_node_port?,
        ),
        OutsideType::LoadBalancer => (service.ingress.clone()?, RESP_PORT, CLIENT_PORT),
    };
    // An IPv6 address stands in brackets before a port.
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host
    };
    Some(OutsideAddress {
        redis: format!("{host}:{redis}"),
        grpc: format!("{host}:{grpc}"),
    })
}

/// An address of the Kubernetes node that a pod is on. Where Kubernetes nodes may not be read
/// the pod knows one, which is the internal one.
fn address_of_host(view: View<'_>, spec: &OutsideSpec, pod: &PodSeen) -> Option<String> {
    let name = pod.host.as_ref()?;
    let seen = view.seen.hosts.as_ref().and_then(|hosts| hosts.get(name));
    seen.and_then(|host| chosen(spec, host)).or_else(|| {
        let internal = spec.node_address != Some(NodeAddress::ExternalIP);
        pod.host_ip.clone().filter(|_| internal)
    })
}

/// That one of a Kubernetes node's addresses which the manifest asks for.
fn chosen(spec: &OutsideSpec, host: &HostSeen) -> Option<String> {
    match spec.node_address {
        Some(NodeAddress::ExternalIP) => host.external_ip.clone(),
        Some(NodeAddress::InternalIP) => host.internal_ip.clone(),
        None => host
            .external_ip
            .clone()
            .or_else(|| host.internal_ip.clone()),
    }
}

/// What clients outside may reach nodes by, which a certificate has to name: with NodePort the
/// address of every Kubernetes node that is known, so that a pod that moves to another one is
/// believed there at once.
fn hosts(view: View<'_>) -> BTreeSet<String> {
    let Some(spec) = &view.cluster.spec.outside else {
        return BTreeSet::new();
    };
    let told = addresses(view).into_values();
    let mut all: BTreeSet<String> = told.map(|address| address.host().to_owned()).collect();
    if spec.kind == OutsideType::NodePort {
        let known = view.seen.hosts.iter().flatten().take(HOSTS_MAX);
        all.extend(known.filter_map(|(_, host)| chosen(spec, host)));
    }
    all
}

/// Says who cannot be reached from outside, although its pod runs.
pub(super) fn tell_who_has_none(view: View<'_>, plan: &mut Plan) {
    let Some(spec) = &view.cluster.spec.outside else {
        return;
    };
    let pods = view.seen.pods.iter();
    let pods = pods.filter(|(_, pod)| pod.role == Some(Role::Data) && pod.running && !pod.deleting);
    let without: Vec<&String> = pods
        .map(|(name, _)| name)
        .filter(|name| !plan.places.outside.contains_key(*name))
        .collect();
    let (Some(first), count) = (without.first(), without.len()) else {
        return;
    };
    let why = match spec.kind {
        OutsideType::NodePort => "its Kubernetes node has no such address, or its Service no ports",
        OutsideType::LoadBalancer => "nobody has given its Service an address",
    };
    plan.notes.push(Note {
        topic: Topic::Outside,
        node: None,
        text: format!(
            "{count} data nodes have no address for clients outside yet; {first}: {why}."
        ),
    });
}
