//! The Services: one without an address of its own for each role, which gives each pod a name,
//! and one for clients, of the data nodes that serve.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::pod::ports;
use crate::cluster::Cluster;
use crate::names::{CLIENT_PORT, RESP_PORT, Role};

/// Gives each pod of a role its name, ready or not: nodes must find each other to become
/// ready.
pub(super) fn headless(cluster: &Cluster, role: Role) -> Service {
    Service {
        metadata: metadata::of(cluster, cluster.names.role(role), Some(role)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(cluster.names.role_selector(role)),
            ports: Some(ports(role).iter().copied().map(service_port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// Where clients begin: any data node that is ready. From there they learn of the others.
pub(super) fn clients(cluster: &Cluster) -> Service {
    let given = &cluster.spec.service;
    let mut metadata = metadata::of(cluster, cluster.names.client_service(), Some(Role::Data));
    metadata.labels = metadata
        .labels
        .map(|own| metadata::merged(&given.labels, own));
    metadata.annotations = (!given.annotations.is_empty()).then(|| given.annotations.clone());
    let offered = ports(Role::Data)
        .iter()
        .copied()
        .filter(|(_, port)| [RESP_PORT, CLIENT_PORT].contains(port));
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            selector: Some(cluster.names.role_selector(Role::Data)),
            ports: Some(offered.map(service_port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn service_port((name, port): (&str, u16)) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    }
}
