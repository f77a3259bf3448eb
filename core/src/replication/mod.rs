//! The replication protocol of a partition, as a state machine.
//!
//! [`NodeCore`] holds every replica of a node and is the only door: the edge feeds
//! it [`Event`]s and carries out its [`Effect`]s. `docs/replication.md` tells the
//! protocol in prose; the rule numbers in comments are those of that page.

mod catch_up;
mod committed;
mod context;
mod copying;
pub mod durable;
pub mod entry;
pub mod event;
mod inspect;
mod lease;
mod log;
mod mending;
pub mod message;
mod node;
mod pace;
mod primary;
mod progress;
mod proof;
mod quorum;
mod read_lease;
mod replica;
mod room;
mod sources;
mod suspended;
#[cfg(test)]
mod tests;

pub use committed::{Committed, CommittedError, Line};
pub use copying::{GiveError, SnapshotWanted};
pub use durable::{DurableRecord, Generation, MissingRange, PartitionMeta, RecoveredPartition};
pub use entry::{EntryKind, LogEntry};
pub use event::{DiskRoom, Effect, Event};
pub use message::PeerMessage;
pub use node::{NodeCore, ProposeError, Standing, Timing};
pub use proof::{Proof, ProofLevel, ProofLook, ReadsArrived, Unproved};
