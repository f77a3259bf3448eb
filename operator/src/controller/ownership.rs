//! Whose an object is: names alone do not say.

use kube::api::ObjectMeta;

use crate::cluster::Cluster;

/// Whose an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// The cluster's.
    Own,
    /// It was the cluster's, by its labels, and has no owner: the manifest was deleted without
    /// what belongs to it, and came back.
    Orphan,
    /// Somebody else's; also what a deleted manifest of the same name owned, until Kubernetes
    /// has cleaned it up.
    Foreign,
}

/// Whose an object with that metadata is.
pub(super) fn standing(metadata: &ObjectMeta, cluster: &Cluster) -> Standing {
    let owners = metadata.owner_references.as_deref().unwrap_or_default();
    if owners.iter().any(|owner| owner.uid == cluster.uid) {
        return Standing::Own;
    }
    let labels = metadata.labels.clone().unwrap_or_default();
    let labelled = cluster
        .names
        .labels()
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value));
    if owners.is_empty() && labelled {
        Standing::Orphan
    } else {
        Standing::Foreign
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_and_labels_do_not_make_an_object_ones_own() {
        let cluster = crate::testing::cluster();
        let of = |metadata: serde_json::Value| {
            let metadata: ObjectMeta = serde_json::from_value(metadata).unwrap();
            standing(&metadata, &cluster)
        };
        let labels = json!(cluster.names.labels());
        let owner = |uid: &str| json!([{"apiVersion": "cairn.dev/v1alpha1", "kind": "KvCluster", "name": "orders", "uid": uid}]);
        assert_eq!(
            of(json!({"ownerReferences": owner("uid-orders")})),
            Standing::Own
        );
        assert_eq!(of(json!({"labels": labels})), Standing::Orphan);
        assert_eq!(of(json!({})), Standing::Foreign);
        // Of a manifest of the same name that was deleted.
        let before = json!({"labels": labels, "ownerReferences": owner("uid-before")});
        assert_eq!(of(before), Standing::Foreign);
    }
}
