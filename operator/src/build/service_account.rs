//! The account of the nodes. It may do nothing: a node does not speak to Kubernetes.

use k8s_openapi::api::core::v1::ServiceAccount;

use super::metadata;
use crate::cluster::Cluster;

pub(super) fn service_account(cluster: &Cluster) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata::of(cluster, cluster.names.account(), None),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
