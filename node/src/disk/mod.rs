//! A data node's disk: its directory and identity, the write-ahead log's thread,
//! and the watch over free space.
//!
//! What the log's bytes mean, and how they are recovered, is `cairn-storage`'s; this
//! module gives it files, a thread and a clock. A write or a flush that fails stops
//! the process at once: nothing may be acknowledged after it (rule 12).

mod directory;
mod wal;

pub use directory::{DataDirectory, DirectoryError, Identity};
pub use wal::{WalConfig, WalHandle};
