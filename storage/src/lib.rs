//! What a data node keeps on its disk: the write-ahead log and the state.
//!
//! - [`mod@format`]: every persisted format, one file each, with its version.
//! - [`wal`]: the segmented log: group commit, rolling, recovery, reclaiming.
//! - [`state`]: the layout of the state in the store, and how entries are applied.
//! - [`disk`] and [`store`]: the narrow traits under both, so that the simulator
//!   runs this very code.
//! - `sim`: a disk and a store in memory that lose what was not flushed.
//!
//! Everything here is synchronous and deterministic: no threads, no clock, no
//! random source, and no I/O but through the traits. The threads are `cairn-node`'s.

#![forbid(unsafe_code)]

pub mod disk;
pub mod format;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod state;
pub mod store;
pub mod wal;
