//! The Certificate of cert-manager that asks an issuer for the nodes' certificate.

use std::collections::BTreeSet;
use std::net::IpAddr;

use cairn_crds::spec::IssuerRef;
use serde_json::{Value, json};

use super::metadata;
use crate::cluster::Cluster;
use crate::pki;

/// What is asked of the issuer that the manifest names, for nodes that clients outside reach by
/// these hosts; `None` where it names none.
#[must_use]
pub fn certificate(cluster: &Cluster, outside: &BTreeSet<String>) -> Option<Value> {
    let IssuerRef { name, kind, group } = cluster.spec.tls.issuer_ref.as_ref()?;
    let names = &cluster.names;
    let (addresses, hosts): (Vec<String>, Vec<String>) = pki::host_names(names, outside)
        .into_iter()
        .partition(|host| host.parse::<IpAddr>().is_ok());
    Some(json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": metadata::of(cluster, names.certificate(), None),
        "spec": {
            "secretName": names.issued(),
            "dnsNames": hosts,
            "ipAddresses": addresses,
            // Nodes are clients of each other.
            "usages": ["digital signature", "server auth", "client auth"],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
            "issuerRef": {"name": name, "kind": kind, "group": group},
        },
    }))
}
