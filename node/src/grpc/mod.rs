//! gRPC: how it is served on a port, and the service for clients, `cairn.kv.v1`.
//!
//! - [`serve()`]: HTTP/2 on any of the node's listeners, coordinators' ports included.
//! - [`KvServer`]: Put, Get, Delete, Increment and their pipeline, over a [`KvBackend`].
//! - [`KeyspaceServer`]: scans and watches.
//! - [`add_about`]: health and server reflection.
//! - [`TopologyServer`]: the map, and its changes as they come, from a [`MapFeed`].
//!
//! Invariants:
//! - Everything that came from outside went through the strict conversions of
//!   `cairn-proto` before it reaches a partition.
//! - What one connection makes wait is bounded: a pipeline is not read while too
//!   many of its calls wait, or while too much of its connection's answers was not read.
//! - What stands still ends after its time, whether or not the transport polls it.
//! - Each refusal carries its reason as a typed detail, so that no client has to
//!   read sentences.

mod about;
mod answers;
#[cfg(test)]
mod answers_tests;
mod authenticate;
mod backend;
#[cfg(test)]
mod batch_tests;
mod engine;
#[cfg(test)]
pub(crate) mod fake;
mod intake;
mod keyspace;
#[cfg(test)]
mod level_tests;
mod patience;
mod pipeline;
mod serve;
mod service;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tls_tests;
mod topology;
#[cfg(test)]
mod users_tests;
#[cfg(test)]
mod watch_tests;

pub use about::add_about;
pub(crate) use authenticate::{PROBE, admins_only, caller_of, check_credential};
pub use backend::{KvBackend, ReadResult, StartedRead, WriteQueue, WriteResult};
pub use engine::EngineWrites;
pub use keyspace::KeyspaceServer;
pub use serve::{IntakeConfig, ServeConfig, serve};
pub use service::{KvLimits, KvServer};
pub use topology::{MapFeed, TopologyServer};
