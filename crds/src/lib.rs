//! The `KvCluster` resource of Kubernetes: its types, from which its schema is made.
//!
//! - [`spec`]: what a person asks for. Every field has a description, a bound and, where it
//!   cannot be left to whoever applies it, a default.
//! - [`status`]: what the operator answers.
//! - [`settled`]: the agreed numbers with their defaults worked out, as the nodes do.
//! - `rules`: what is refused when a manifest is applied, in CEL.
//!
//! `kvcluster.yaml` beside this directory is generated from it (`cairn-operator crd`) and held
//! to it by a test. Nothing here speaks to Kubernetes.

mod rules;
pub mod settled;
pub mod spec;
pub mod status;

pub use spec::{KvCluster, KvClusterSpec};
pub use status::KvClusterStatus;

/// The group of the resource.
pub const GROUP: &str = "cairn.dev";
/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// The name of the definition.
pub const CRD_NAME: &str = "kvclusters.cairn.dev";

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The definition, as it is applied.
#[must_use]
pub fn definition() -> CustomResourceDefinition {
    KvCluster::crd()
}
