//! How many pods of a role whoever drains a Kubernetes node may take away at a time: one.
//! Where there is one alone there is no budget, for it would keep the node from being drained
//! for ever.

use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, replicas};
use crate::cluster::Cluster;
use crate::names::Role;
use crate::plan::Plan;

/// Whether there is to be one.
pub(super) fn is_wanted(plan: &Plan, role: Role) -> bool {
    replicas(plan, role) > 1
}

pub(super) fn disruption_budget(cluster: &Cluster, role: Role) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata::of(cluster, cluster.names.role(role), Some(role)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(metadata::role_selector(&cluster.names, role)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
