//! The partitions of a data node: the engine that drives replication, and the door
//! to it.
//!
//! One task owns [`cairn_core::replication::NodeCore`] and what is evaluated but
//! not yet applied; everything else reaches it through one queue. It never blocks
//! on a disk, a socket or a lock that someone holds for long: the log, the store and
//! the peers have threads of their own, and it hands each of them one batch per
//! turn of its loop.
//!
//! - [`Handle`]: writes, strong reads, events; for the protocols, the peers, the agent.
//! - `start`: how it starts and stops. `links`: what it hands things to.
//! - `engine`: that task. `lane`, `park`, `gather`: the writes of one partition. `admission`: how
//!   many may wait.
//! - `board`: what is published of each partition; `read`, `levels`: the reads that use it.
//! - `expiry`: finds the keys whose time is past.
//! - `scan`: keys in order, and how many there are. `watch`: committed entries as they come.
//! - `vouch`: whether changes of keys that clients keep are still seen here.
//! - `snapshot`: copies for other nodes, and from them. `copies`: how fast they may go.
//! - `load`: how much clients ask. `heat`: for which keys most, and `spent`: what partitions take;
//!   `limit`: how often hot keys are answered. `traces`: entries that are traced.
//! - `inbox`, `reply`: the ways in and out.

mod admission;
mod back;
mod board;
mod clock;
mod config;
mod copies;
mod engine;
mod expiry;
mod figures;
mod gather;
mod handle;
mod heat;
mod inbox;
mod lane;
mod levels;
mod limit;
mod links;
mod load;
mod park;
mod read;
mod refusals;
mod renewals;
mod reply;
mod scan;
mod shared;
mod snapshot;
mod spent;
mod start;
mod traces;
mod vouch;
mod watch;

pub use board::Published;
pub use clock::{boottime, wall_ms};
pub use config::EngineConfig;
pub use copies::SnapshotRates;
pub use handle::{Handle, PendingWrite, PendingWrites, WriteBatch};
pub use heat::{Heated, HotKeysShown};
pub use levels::{LocalState, PendingReading, Reading, ReadingResult, StartedReading};
pub use links::{AgentLink, Links, PeerLink, SnapshotFetch, SnapshotParts};
pub use read::{PendingRead, ReadResult, StartedRead};
pub use reply::{ReplyQueue, ReplyTo, WriteResult};
pub use scan::{Examined, Visit};
pub use start::{EngineStorage, Prepared, RunningEngine};
pub use watch::{Ended, Step, Watcher};

#[cfg(test)]
mod cluster_tests;
