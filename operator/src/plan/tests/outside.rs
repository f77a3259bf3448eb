//! Services and addresses for clients outside.

use std::collections::BTreeSet;

use cairn_crds::spec::{NodeAddress, OutsideSpec, OutsideType};

use super::world::{World, cluster};
use crate::observed::{Observed, OutsideSeen};
use crate::plan::{OutsideAddress, Plan, Topic, plan};

fn spec(kind: OutsideType) -> OutsideSpec {
    OutsideSpec {
        kind,
        node_address: None,
        source_ranges: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
    }
}

/// A settled cluster of three, and what is seen of it, with Services that Kubernetes has given
/// ports and a load balancer has given addresses.
fn settled(outside: Option<OutsideSpec>) -> (World, Observed) {
    let mut world = World::settled(cluster(3, 3, 3));
    world.cluster.spec.outside = outside;
    let mut seen = world.observe();
    for ordinal in 0..3 {
        let service = OutsideSeen {
            redis_node_port: Some(30_000 + ordinal),
            grpc_node_port: Some(31_000 + ordinal),
            ingress: Some(format!("198.51.100.{ordinal}")),
        };
        let name = world.cluster.names.outside(u32::from(ordinal));
        seen.outside.insert(name, service);
    }
    for (at, host) in seen.hosts.iter_mut().flatten().enumerate() {
        host.1.internal_ip = Some(format!("10.0.0.{at}"));
        host.1.external_ip = Some(format!("192.0.2.{at}"));
    }
    for pod in seen.pods.values_mut() {
        pod.host_ip = Some("10.9.9.9".to_owned());
    }
    (world, seen)
}

/// Where the third data node is told to be, by a plan.
fn third(plan: &Plan) -> Option<&OutsideAddress> {
    plan.places.outside.get("orders-data-2")
}

/// The number of the Kubernetes node that the third data node is on.
fn host_of_third(seen: &Observed) -> usize {
    let host = seen.pods["orders-data-2"].host.clone().expect("a host");
    let mut hosts = seen.hosts.iter().flatten();
    hosts.position(|(name, _)| *name == host).expect("known")
}

#[test]
fn who_asks_for_no_way_from_outside_has_no_services_and_loses_those_that_there_were() {
    let (world, seen) = settled(None);
    let plan = plan(&world.cluster, &seen);
    assert!(plan.outside.services.is_empty());
    assert_eq!(plan.outside.unwanted.len(), 3);
    assert!(plan.places.outside.is_empty() && plan.outside.hosts.is_empty());
}

#[test]
fn a_node_is_told_the_address_of_its_kubernetes_node_or_of_its_load_balancer() {
    let (mut world, seen) = settled(Some(spec(OutsideType::NodePort)));
    let at = host_of_third(&seen);
    let of = |world: &World, seen: &Observed| third(&plan(&world.cluster, seen)).cloned();
    let told = |host: &str| {
        Some(OutsideAddress {
            redis: format!("{host}:30002"),
            grpc: format!("{host}:31002"),
        })
    };
    assert_eq!(of(&world, &seen), told(&format!("192.0.2.{at}")));
    let mut asks = |address| {
        world
            .cluster
            .spec
            .outside
            .as_mut()
            .expect("asked")
            .node_address = address;
        world.cluster.clone()
    };
    let internal = plan(&asks(Some(NodeAddress::InternalIP)), &seen);
    assert_eq!(third(&internal).cloned(), told(&format!("10.0.0.{at}")));
    // Kubernetes nodes that may not be read: a pod knows the internal address of its own.
    let mut blind = seen.clone();
    blind.hosts = None;
    let known = plan(&asks(None), &blind);
    assert_eq!(third(&known).cloned(), told("10.9.9.9"));
    let external = asks(Some(NodeAddress::ExternalIP));
    assert_eq!(third(&plan(&external, &blind)), None);
    let (world, seen) = settled(Some(spec(OutsideType::LoadBalancer)));
    let balanced = OutsideAddress {
        redis: "198.51.100.2:6379".to_owned(),
        grpc: "198.51.100.2:7400".to_owned(),
    };
    assert_eq!(of(&world, &seen), Some(balanced));
}

#[test]
fn an_ipv6_address_stands_in_brackets_and_in_the_certificate_without() {
    let (world, mut seen) = settled(Some(spec(OutsideType::LoadBalancer)));
    for service in seen.outside.values_mut() {
        service.ingress = Some("2001:db8::1".to_owned());
    }
    let plan = plan(&world.cluster, &seen);
    let redis = third(&plan).map(|address| address.redis.as_str());
    assert_eq!(redis, Some("[2001:db8::1]:6379"));
    assert_eq!(
        plan.outside.hosts,
        BTreeSet::from(["2001:db8::1".to_owned()])
    );
}

#[test]
fn a_pod_that_moves_is_told_of_at_its_new_place_which_certificates_name_before() {
    let (world, mut seen) = settled(Some(spec(OutsideType::NodePort)));
    let before = plan(&world.cluster, &seen);
    let at = host_of_third(&seen);
    let hosts: Vec<String> = seen
        .hosts
        .iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .collect();
    let next = (at + 1) % hosts.len();
    seen.pods.get_mut("orders-data-2").expect("there").host = Some(hosts[next].clone());
    let after = plan(&world.cluster, &seen);
    let redis = third(&after).map(|address| address.redis.clone());
    assert_eq!(redis, Some(format!("192.0.2.{next}:30002")));
    assert!(before.outside.hosts.contains(&format!("192.0.2.{next}")));
    assert_eq!(before.outside.hosts, after.outside.hosts);
}

#[test]
fn a_node_without_an_address_is_told_of_and_named_nowhere() {
    let (world, mut seen) = settled(Some(spec(OutsideType::LoadBalancer)));
    let quiet = plan(&world.cluster, &seen);
    assert!(!quiet.notes.iter().any(|note| note.topic == Topic::Outside));
    let name = world.cluster.names.outside(2);
    seen.outside.get_mut(&name).expect("there").ingress = None;
    let plan = plan(&world.cluster, &seen);
    assert_eq!(third(&plan), None);
    let note = plan.notes.iter().find(|note| note.topic == Topic::Outside);
    let text = &note.expect("a note").text;
    assert!(
        text.starts_with("1 data nodes") && text.contains("orders-data-2"),
        "{text}"
    );
}

#[test]
fn a_service_outlives_the_drain_of_its_node_and_goes_once_the_pod_is_gone() {
    let (mut world, mut seen) = settled(Some(spec(OutsideType::NodePort)));
    let services = |plan: &Plan| plan.outside.services.iter().copied().collect::<Vec<u32>>();
    world.cluster.spec.replication_factor = 2;
    world.cluster.spec.data.replicas = 2;
    // It is a member, so that its pod is kept.
    let plan_with_pod = plan(&world.cluster, &seen);
    assert_eq!(services(&plan_with_pod), [0, 1, 2]);
    // It is none any more, and its pod ends.
    if let Ok(store) = &mut seen.store {
        store.nodes.retain(|node| node.name != "orders-data-2");
    }
    let ending = plan(&world.cluster, &seen);
    assert_eq!(ending.replicas.data, 2);
    assert_eq!(services(&ending), [0, 1, 2]);
    assert!(ending.outside.unwanted.is_empty());
    seen.pods.remove("orders-data-2");
    let gone = plan(&world.cluster, &seen);
    assert_eq!(services(&gone), [0, 1]);
    assert_eq!(gone.outside.unwanted, [world.cluster.names.outside(2)]);
}
