//! What every object of a cluster has: name, namespace, labels, owner.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use crate::cluster::Cluster;
use crate::names::{LABEL_COMPONENT, Names, Role};

/// The metadata of an object that is the whole cluster's, or a role's.
pub(super) fn of(cluster: &Cluster, name: String, role: Option<Role>) -> ObjectMeta {
    let mut labels = cluster.names.labels();
    if let Some(role) = role {
        labels.insert(LABEL_COMPONENT.to_owned(), role.component().to_owned());
    }
    ObjectMeta {
        name: Some(name),
        namespace: Some(cluster.names.namespace.clone()),
        labels: Some(labels),
        owner_references: Some(vec![cluster.owner.clone()]),
        ..ObjectMeta::default()
    }
}

/// A person's labels or annotations and the operator's, which win.
pub(super) fn merged(
    given: &BTreeMap<String, String>,
    own: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut all = given.clone();
    all.extend(own);
    all
}

/// Selects the pods of a role.
pub(super) fn role_selector(names: &Names, role: Role) -> LabelSelector {
    selector(names.role_selector(role))
}

/// Selects what has these labels.
pub(super) fn selector(labels: BTreeMap<String, String>) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels),
        match_expressions: None,
    }
}
