//! A seeded simulation of one partition's replicas: the shipped replication core,
//! many nodes in one thread, on simulated time, disk and network.
//!
//! One run is a function of its seed alone. [`run`] returns what took place, or the
//! first broken invariant. What is modelled and what is not: `docs/testing.md`.

#![forbid(unsafe_code)]

#[cfg(seeded_bugs)]
pub mod bugs;
pub mod contents;
pub mod coordinators;
pub mod invariants;
pub mod node;
pub mod shipped;
pub mod world;

pub use world::{Coverage, Failure, Planted, run, run_planted, run_untraced};
