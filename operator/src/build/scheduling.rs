//! Where pods run, where the manifest does not say: two of a role on one Kubernetes node, or
//! unevenly over the zones, only where it cannot be otherwise. Neither keeps a pod from
//! running: a copy in the wrong place is better than none.

use k8s_openapi::api::core::v1::{
    Affinity, PodAffinityTerm, PodAntiAffinity, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::metadata;
use crate::names::{Names, Role};

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// Keeps two pods of a role off one Kubernetes node where there is another.
pub(super) fn affinity(names: &Names, role: Role) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![
                WeightedPodAffinityTerm {
                    weight: 100,
                    pod_affinity_term: PodAffinityTerm {
                        label_selector: Some(metadata::role_selector(names, role)),
                        topology_key: HOST.to_owned(),
                        ..PodAffinityTerm::default()
                    },
                },
            ]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// Spreads the pods of a role over zones, and over Kubernetes nodes, as evenly as can be.
pub(super) fn spread(names: &Names, role: Role) -> Vec<TopologySpreadConstraint> {
    [ZONE, HOST]
        .into_iter()
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(metadata::role_selector(names, role)),
            ..TopologySpreadConstraint::default()
        })
        .collect()
}
