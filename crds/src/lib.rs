//! The `KvCluster` resource of Kubernetes: its types, from which its schema is made.
//!
//! - [`spec`]: what a person asks for. Every field has a description, a bound and, where it
//!   cannot be left to whoever applies it, a default.
//! - [`status`]: what the operator answers.
//! - [`settled`]: the agreed numbers with their defaults worked out, as the nodes do.
//! - `rules`: what is refused when a manifest is applied, in CEL.
//! - `schema`: what of the schema the types do not say.
//!
//! `kvcluster.yaml` beside this directory is [`manifest`] (`cairn-operator crd` prints the same),
//! and held to it by a test, as are the chart's copy and `docs/kvcluster.md`. Nothing here
//! speaks to Kubernetes.

mod rules;
mod schema;
pub mod settled;
pub mod spec;
pub mod status;
#[cfg(test)]
mod tests;

pub use spec::{KvCluster, KvClusterSpec};
pub use status::KvClusterStatus;

/// The group of the resource.
pub const GROUP: &str = "cairn.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// The name of the definition.
pub const CRD_NAME: &str = "kvclusters.cairn.dev";

/// The longest name of a cluster, in bytes: a pod's name, with the longest ending, must be a
/// label of 63 bytes, and so must the hash that the StatefulSet controller adds.
pub const CLUSTER_NAME_BYTES_MAX: usize = 40;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definition, as it is applied.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    let mut definition = KvCluster::crd();
    for version in &mut definition.spec.versions {
        let validation = version.schema.as_mut();
        if let Some(root) = validation.and_then(|it| it.open_api_v3_schema.as_mut()) {
            schema::finish(root);
            rules::on_root(root);
        }
    }
    definition
}

/// The definition in YAML, with a line on where it comes from.
///
/// # Panics
/// Never: the definition is data without cycles.
#[must_use]
pub fn manifest() -> String {
    // Through a value, so that keys have one order.
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    let yaml = serde_json::to_value(definition())
        .map_err(|error| error.to_string())
        .and_then(|value| {
            serde_saphyr::to_string_with_options(&value, options).map_err(|error| error.to_string())
        });
    match yaml {
        Ok(yaml) => {
            format!("# Made from the types of the crate cairn-crds; a test compares.\n{yaml}")
        }
        Err(error) => unreachable!("the definition is no YAML: {error}"),
    }
}
