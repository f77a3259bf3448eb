//! The objects of Kubernetes that make a cluster: pure functions of what is asked for and
//! what was planned, one file per kind.
//!
//! # What a pod's template depends on
//!
//! A changed template restarts nodes, so that it depends on the manifest alone, on fields
//! whose change cannot come about without a restart: see [`pod`] and ADR 121. It does not
//! depend on the operator (its version, its defaults), on the plan, on the number of nodes,
//! nor on what the coordinators agreed on. Files in `testdata` hold every object of a small
//! and of a full manifest, so that a change of the template cannot happen by accident.

pub mod certificate;
mod disruption_budget;
mod metadata;
mod network_policy;
mod object;
mod places;
pub mod pod;
pub mod reach;
mod scheduling;
mod secret;
mod service;
mod service_account;
mod settings;
mod stateful_set;
#[cfg(test)]
mod tests;

pub use object::{Object, Unwanted};

use crate::cluster::Cluster;
use crate::names::Role;
use crate::pki::SecretData;
use crate::plan::{Plan, Replicas};

/// What the Secrets are to hold that the operator keeps. Absent ones are left alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Material {
    /// The cluster's authority, see [`crate::pki`].
    pub authority: Option<SecretData>,
    /// The nodes' certificate.
    pub certificate: Option<SecretData>,
    /// The users file and the operator's token, see [`crate::users`].
    pub users: Option<SecretData>,
}

impl std::fmt::Debug for Material {
    /// Without what is secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            authority,
            certificate,
            users,
        } = self;
        f.debug_struct("Material")
            .field("authority", &authority.is_some())
            .field("certificate", &certificate.is_some())
            .field("users", &users.is_some())
            .finish()
    }
}

/// Every object of the cluster, in the order in which they are applied: what a pod needs to
/// start comes before the pods.
#[must_use]
pub fn objects(cluster: &Cluster, plan: &Plan, material: &Material) -> Vec<Object> {
    let mut all: Vec<Object> = vec![service_account::service_account(cluster).into()];
    all.extend(secret::secrets(cluster, material).map(Object::from));
    for role in Role::ALL {
        all.push(settings::config_map(cluster, plan, role).into());
    }
    all.push(places::config_map(cluster, &plan.places).into());
    for role in Role::ALL {
        all.push(service::headless(cluster, role).into());
    }
    all.push(service::clients(cluster).into());
    if let Some(outside) = &cluster.spec.outside {
        let ordinals = plan.outside.services.iter();
        all.extend(ordinals.map(|n| service::outside(cluster, outside, *n).into()));
    }
    for role in Role::ALL {
        all.push(network_policy::network_policy(cluster, role).into());
    }
    for role in Role::ALL {
        if disruption_budget::is_wanted(plan, role) {
            all.push(disruption_budget::disruption_budget(cluster, role).into());
        }
    }
    for role in Role::ALL {
        all.push(stateful_set::stateful_set(cluster, plan, role).into());
    }
    all
}

/// Objects that the operator may have applied earlier and that are not to be any more.
///
/// Secrets are not among them, although a changed manifest may need one no longer: nodes that
/// were not restarted since do, and so does the operator to speak to them.
#[must_use]
pub fn unwanted(cluster: &Cluster, plan: &Plan) -> Vec<Unwanted> {
    let unwanted = Role::ALL
        .into_iter()
        .filter(|role| !disruption_budget::is_wanted(plan, *role));
    let services = plan.outside.unwanted.iter().cloned();
    unwanted
        .map(|role| Unwanted::DisruptionBudget(cluster.names.role(role)))
        .chain(services.map(Unwanted::Service))
        .collect()
}

/// How many pods of a role there are to be.
fn replicas(plan: &Plan, role: Role) -> u32 {
    let Replicas { coordinators, data } = plan.replicas;
    match role {
        Role::Coordinator => coordinators,
        Role::Data => data,
    }
}
