//! The operator: turns `KvCluster` manifests into running clusters, and drives membership
//! from the health of pods.
//!
//! A reconciliation goes in steps, of which only the first and the last two speak to anybody:
//!
//! 1. `controller::observe` reads what there is, live, into [`observed::Observed`];
//! 2. [`validate`] makes a [`cluster::Cluster`] of the manifest, or says why not;
//! 3. [`plan`] decides, purely, what is to be done: a [`plan::Plan`];
//! 4. [`build`] makes the objects of Kubernetes, purely; `controller::apply` applies them and
//!    carries out the steps, the first that fails ending the round;
//! 5. `controller::status` tells how things are.
//!
//! The spec is the truth about what is wanted, the coordinators about who holds what, and
//! Kubernetes about pods and volumes. Nothing is remembered between rounds that is not in one
//! of these: an operator may die between any two calls.

pub mod admin;
pub mod args;
pub mod build;
pub mod cluster;
pub mod controller;
pub mod events;
pub mod health;
pub mod leader;
pub mod metrics;
pub mod names;
pub mod observed;
pub mod pki;
pub mod plan;
pub mod quantity;
pub mod rotation;
pub mod store;
#[cfg(test)]
pub(crate) mod testing;
pub mod users;
pub mod validate;
