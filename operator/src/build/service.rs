//! The Services: one without an address of its own for each role, which gives each pod a name,
//! one for clients, of the data nodes that serve, and where clients outside are to reach the
//! data nodes one for each of these.

use cairn_crds::spec::{OutsideSpec, OutsideType};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::pod::{OUTSIDE_PORTS, ports};
use crate::cluster::Cluster;
use crate::names::{CLIENT_PORT, LABEL_OUTSIDE, LABEL_POD_NAME, RESP_PORT, Role};

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

/// Leads clients outside to one data node, on the usual ports of a load balancer or on ports of
/// every Kubernetes node that Kubernetes chooses. It leads there whether the pod is ready or
/// not, as those inside find it: a node that is about to stop hands over first.
pub(super) fn outside(cluster: &Cluster, spec: &OutsideSpec, ordinal: u32) -> Service {
    let names = &cluster.names;
    let mut metadata = metadata::of(cluster, names.outside(ordinal), Some(Role::Data));
    let mut labels = metadata.labels.take().unwrap_or_default();
    labels.insert(LABEL_OUTSIDE.to_owned(), "true".to_owned());
    metadata.labels = Some(metadata::merged(&spec.labels, labels));
    metadata.annotations = (!spec.annotations.is_empty()).then(|| spec.annotations.clone());
    let mut selector = names.role_selector(Role::Data);
    selector.insert(LABEL_POD_NAME.to_owned(), names.pod(Role::Data, ordinal));
    let usual = [RESP_PORT, CLIENT_PORT];
    let ports = OUTSIDE_PORTS
        .iter()
        .zip(usual)
        .map(|((name, _), port)| ServicePort {
            target_port: Some(IntOrString::String((*name).to_owned())),
            ..service_port((name, port))
        });
    let ranges = &spec.source_ranges;
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(
                match spec.kind {
                    OutsideType::NodePort => "NodePort",
                    OutsideType::LoadBalancer => "LoadBalancer",
                }
                .to_owned(),
            ),
            load_balancer_source_ranges: (!ranges.is_empty()).then(|| ranges.clone()),
            publish_not_ready_addresses: Some(true),
            selector: Some(selector),
            ports: Some(ports.collect()),
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
