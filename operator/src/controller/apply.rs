//! Brings Kubernetes' objects to what they should be, by server-side apply.
//!
//! Each is read first, and left alone where it is as asked already: what was applied last is
//! told by a hash in an annotation, and whether somebody changed it since by comparing. So a
//! cluster at rest costs reads alone, and an operator that dies between any two writes goes on
//! where it was.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client, ResourceExt};
use serde::Serialize;
use serde_json::Value;
use xxhash_rust::xxh3::xxh3_64;

use super::ownership::{Standing, standing};
use super::writes::{Deleted, Deletion, Error, Owned, Writes, within};
use crate::build::{Object, Unwanted};
use crate::cluster::Cluster;
use crate::quantity;

/// On an object: a hash of what was applied last.
pub const ANNOTATION_APPLIED: &str = "cairn.dev/applied";

/// What of a StatefulSet cannot be changed once it exists.
const FIXED_OF_SETS: [&str; 4] = [
    "podManagementPolicy",
    "selector",
    "serviceName",
    "volumeClaimTemplates",
];

/// What came of applying an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// It was as asked already.
    Unchanged,
    /// It is now.
    Changed,
    /// It is not this cluster's, and was left alone.
    Foreign,
}

/// Brings one object to what it should be.
///
/// # Errors
/// See [`Error`].
pub async fn apply(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    object: &Object,
) -> Result<Applied, Error> {
    let asked = object.to_json().map_err(unwritable)?;
    let (resource, name) = (object.resource(), object.name());
    apply_value(client, writes, cluster, &resource, name, asked).await
}

/// Brings one object, of a kind that this need not know, to what it should be.
///
/// # Errors
/// See [`Error`].
pub async fn apply_value(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    resource: &ApiResource,
    name: &str,
    mut asked: Value,
) -> Result<Applied, Error> {
    let kind = resource.kind.clone();
    let namespace = &cluster.names.namespace;
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    let what = || format!("read {kind} {name}");
    let live = match within(what, api.get_opt(name)).await? {
        None => None,
        Some(live) if standing(&live.metadata, cluster) == Standing::Foreign => {
            return Ok(Applied::Foreign);
        }
        Some(live) => Some(as_value(&live)?),
    };
    if let Some(live) = &live {
        keep_fixed(&mut asked, live, &kind);
    }
    // What is derived from the rest is no part of what is hashed.
    let hash = format!("{:016x}", xxh3_64(asked.to_string().as_bytes()));
    asked["metadata"]["annotations"][ANNOTATION_APPLIED] = hash.into();
    if live.is_some_and(|live| is_covered(&asked, &live, false)) {
        return Ok(Applied::Unchanged);
    }
    writes.apply(&api, &kind, name, &asked).await?;
    Ok(Applied::Changed)
}

fn unwritable(error: serde_json::Error) -> Error {
    Error::Content {
        what: "write an object as JSON".to_owned(),
        reason: error.to_string(),
    }
}

fn as_value(object: &impl Serialize) -> Result<Value, Error> {
    serde_json::to_value(object).map_err(unwritable)
}

/// Asks for what is there where something else would be refused.
fn keep_fixed(asked: &mut Value, live: &Value, kind: &str) {
    if kind != "StatefulSet" {
        return;
    }
    for field in FIXED_OF_SETS {
        match live["spec"].get(field) {
            Some(live) => asked["spec"][field] = live.clone(),
            None => {
                if let Some(spec) = asked["spec"].as_object_mut() {
                    spec.remove(field);
                }
            }
        }
    }
}

/// Whether everything that is asked for is there. The API server adds defaults, and writes
/// amounts in its own way: `amounts` says that these are some.
fn is_covered(asked: &Value, live: &Value, amounts: bool) -> bool {
    match (asked, live) {
        (Value::Null, _) => true,
        (Value::Object(asked), _) if asked.is_empty() => true,
        (Value::Array(asked), Value::Null) => asked.is_empty(),
        (Value::Object(asked), Value::Object(live)) => asked.iter().all(|(key, asked)| {
            let amounts = amounts || key == "requests" || key == "limits";
            is_covered(asked, live.get(key).unwrap_or(&Value::Null), amounts)
        }),
        (Value::Array(asked), Value::Array(live)) => {
            asked.len() == live.len()
                && asked
                    .iter()
                    .zip(live)
                    .all(|(asked, live)| is_covered(asked, live, amounts))
        }
        (Value::String(one), Value::String(other)) if amounts => {
            let amount = |text: &String| {
                quantity::nanos(&k8s_openapi::apimachinery::pkg::api::resource::Quantity(
                    text.clone(),
                ))
            };
            one == other || amount(one).is_ok_and(|one| amount(other) == Ok(one))
        }
        _ => asked == live,
    }
}

/// Deletes an object that nothing asks for any more, if it is the cluster's.
///
/// # Errors
/// See [`Error`].
pub async fn remove(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    unwanted: &Unwanted,
) -> Result<(), Error> {
    match unwanted {
        Unwanted::DisruptionBudget(name) => {
            remove_one::<PodDisruptionBudget>(client, writes, cluster, name).await
        }
        Unwanted::Service(name) => remove_one::<Service>(client, writes, cluster, name).await,
    }
}

async fn remove_one<K: Owned>(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    name: &str,
) -> Result<(), Error> {
    let api: Api<K> = Api::namespaced(client.clone(), &cluster.names.namespace);
    let kind = K::kind(&());
    let what = || format!("read {kind} {name}");
    let Some(live) = within(what, api.get_metadata_opt(name)).await? else {
        return Ok(());
    };
    if standing(&live.metadata, cluster) == Standing::Foreign {
        return Ok(());
    }
    let uid = live.uid().unwrap_or_default();
    if writes.delete(&api, name, &uid, Deletion::Usual).await? == Deleted::Done {
        tracing::info!(%kind, name, "deleted: nothing asks for it any more");
    }
    Ok(())
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
