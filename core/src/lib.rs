//! The decisions of Cairn, without a clock, a socket, a disk or a random source.
//!
//! - [`replication`]: one partition's log on its replicas: primaries, fences,
//!   barriers, leases, joint configurations.
//! - [`kv`]: what a write means: evaluation, the idempotence table, encoding.
//! - [`cluster`]: what the coordinators decide: ring, placement, the state machine
//!   behind their Raft log, failure detection, promotion.
//! - [`counters`]: keys whose additions are spread over partitions.
//! - [`features`]: what builds of different ages may use among them.
//! - [`tracking`]: who keeps which key in a cache, and is told when it changes.
//! - [`slots`], [`ids`], [`record`]: the words that all of them share.
//! - [`seeded`]: mistakes for the simulator to find, which no shipped build can have.
//!
//! Nothing here does I/O or reads the time: `clippy.toml` forbids it.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod counters;
pub mod features;
pub mod hot;
pub mod ids;
pub mod kv;
pub mod record;
pub mod replication;
pub mod seeded;
pub mod slots;
pub mod tracking;
