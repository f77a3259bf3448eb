//! A seeded simulation of a few partitions' replicas: the shipped replication core, log,
//! recovery and apply, many nodes in one thread, on simulated time, disk and network.
//!
//! One run is a function of its seed and of what is left out of it. [`run`] returns what
//! took place, or the first broken invariant. What is modelled and what is not:
//! `docs/testing.md`.

#![forbid(unsafe_code)]

#[cfg(seeded_bugs)]
pub mod bugs;
pub mod coordinators;
pub mod digest;
pub mod edge;
pub mod invariants;
pub mod node;
pub mod plan;
pub mod report;
pub mod shipped;
pub mod shrink;
pub mod world;

pub use report::{Coverage, Failure, MUST_HAPPEN, Tally};
pub use world::{Options, Planted, run, run_planted, run_with, scenarios, trace};
