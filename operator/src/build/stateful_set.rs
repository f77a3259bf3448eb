//! The StatefulSet of a role.
//!
//! - Its pods start and end together (`Parallel`): nodes need each other to become ready, and
//!   one that is stuck must not keep the others down.
//! - It restarts nobody by itself (`OnDelete`): the planner picks each, and waits until what
//!   it held is safe elsewhere.
//! - It keeps the claims of pods that it removed: only the planner knows that a volume is
//!   empty. Claims of a cluster that is deleted go by the manifest's policy.
//! - Neither name, selector, Service nor claim template ever changes: Kubernetes would refuse.

use std::collections::BTreeMap;

use cairn_crds::spec::VolumePolicy;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec,
    StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::RoleSpec;
use super::{metadata, pod, replicas};
use crate::cluster::Cluster;
use crate::names::{Role, VOLUME};
use crate::plan::Plan;

pub(super) fn stateful_set(cluster: &Cluster, plan: &Plan, role: Role) -> StatefulSet {
    let name = cluster.names.role(role);
    let replicas = i32::try_from(replicas(plan, role)).unwrap_or(i32::MAX);
    StatefulSet {
        metadata: metadata::of(cluster, name.clone(), Some(role)),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas),
            service_name: Some(name),
            selector: metadata::role_selector(&cluster.names, role),
            pod_management_policy: Some("Parallel".to_owned()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".to_owned()),
                rolling_update: None,
            }),
            persistent_volume_claim_retention_policy: Some(
                StatefulSetPersistentVolumeClaimRetentionPolicy {
                    when_scaled: Some("Retain".to_owned()),
                    when_deleted: Some(policy(cluster.spec.volumes.when_deleted).to_owned()),
                },
            ),
            template: pod::template(cluster, role),
            volume_claim_templates: Some(vec![claim(cluster, role)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn claim(cluster: &Cluster, role: Role) -> PersistentVolumeClaim {
    let storage = RoleSpec::of(&cluster.spec, role).storage;
    let size = BTreeMap::from([("storage".to_owned(), storage.size.clone())]);
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(VOLUME.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some(size),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn policy(policy: VolumePolicy) -> &'static str {
    match policy {
        VolumePolicy::Retain => "Retain",
        VolumePolicy::Delete => "Delete",
    }
}
