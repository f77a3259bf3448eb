//! A manifest that was found to hold together: the input of planning and building.

use cairn_crds::KvClusterSpec;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::names::{Names, Role};

/// A cluster as it is asked for.
#[derive(Clone, PartialEq, Debug)]
pub struct Cluster {
    /// What its objects are called.
    pub names: Names,
    /// The manifest's own UID.
    pub uid: String,
    /// The generation of the spec.
    pub generation: i64,
    /// The owner of every object.
    pub owner: OwnerReference,
    /// What is asked for; its numbers fit together, see `validate`.
    pub spec: KvClusterSpec,
    /// The version that the nodes are to run: the spec's, else that of the status, else the
    /// operator's own.
    pub version: String,
    /// The image that the nodes are to run.
    pub image: String,
    /// Whether somebody deleted the manifest.
    pub deleting: bool,
}

impl Cluster {
    /// How large the volumes of a role's nodes are to be.
    #[must_use]
    pub fn storage_size(&self, role: Role) -> &Quantity {
        match role {
            Role::Coordinator => &self.spec.coordinators.storage.size,
            Role::Data => &self.spec.data.storage.size,
        }
    }
}
