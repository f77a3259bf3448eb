//! The Secrets that the operator keeps.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::{Material, metadata};
use crate::cluster::Cluster;
use crate::pki::SecretData;

/// Those of which the content is given.
pub(super) fn secrets<'a>(
    cluster: &'a Cluster,
    material: &'a Material,
) -> impl Iterator<Item = Secret> + 'a {
    let Material {
        authority,
        certificate,
        users,
    } = material;
    let names = &cluster.names;
    // The type of each is `Opaque`: it cannot be changed later, and Kubernetes' own type for
    // certificates asks for nothing more than what is in them anyway.
    [
        (names.authority(), authority),
        (names.certificate(), certificate),
        (names.users(), users),
    ]
    .into_iter()
    .filter_map(|(name, data)| Some(secret(cluster, name, data.as_ref()?)))
}

fn secret(cluster: &Cluster, name: String, data: &SecretData) -> Secret {
    let data = data
        .iter()
        .map(|(key, value)| (key.clone(), ByteString(value.clone())))
        .collect();
    Secret {
        metadata: metadata::of(cluster, name, None),
        data: Some(data),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    }
}
