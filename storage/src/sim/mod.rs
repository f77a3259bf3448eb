//! A disk and a store in memory that forget what was not flushed when the power
//! goes: for tests and the simulator. Every choice is the caller's, so that a seed
//! replays them.

mod mem_disk;
mod mem_store;

pub use mem_disk::{MemDisk, MemFile, SECTOR_BYTES};
pub use mem_store::MemStore;
