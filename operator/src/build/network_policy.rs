//! Who may reach a pod: the port between nodes is for pods of the cluster alone, the others
//! are for everybody. Who may do what there is a matter of users and of TLS.
//!
//! Where the network of Kubernetes enforces no policies these are without effect; nodes still
//! believe nobody without the cluster's certificate on the port between them. What a pod may
//! reach is not restricted.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::pod::{outside_ports, ports};
use crate::cluster::Cluster;
use crate::names::{PEER_PORT, Role};

pub(super) fn network_policy(cluster: &Cluster, role: Role) -> NetworkPolicy {
    let (between_nodes, open): (Vec<u16>, Vec<u16>) = ports(role)
        .iter()
        .chain(outside_ports(cluster, role))
        .map(|(_, port)| *port)
        .partition(|port| *port == PEER_PORT);
    let nodes = NetworkPolicyPeer {
        pod_selector: Some(metadata::selector(cluster.names.selector())),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: metadata::of(cluster, cluster.names.role(role), Some(role)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(metadata::role_selector(&cluster.names, role)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(vec![nodes]),
                    ports: Some(between_nodes.into_iter().map(policy_port).collect()),
                },
                // From anybody: it names nobody.
                NetworkPolicyIngressRule {
                    from: None,
                    ports: Some(open.into_iter().map(policy_port).collect()),
                },
            ]),
            egress: None,
        }),
    }
}

fn policy_port(port: u16) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(i32::from(port))),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}
