//! A data node's disk: its directory and identity, the write-ahead log's thread,
//! and the watch over free space.
//!
//! What the log's bytes mean, and how they are recovered, is `cairn-storage`'s; this
//! module gives it files, a thread and a clock. A write or a flush that fails stops
//! the process at once: nothing may be acknowledged after it (rule 12).

mod direct;
mod directory;
mod files;
mod read_only;
mod space;
mod wal;

pub(crate) use directory::lock;
pub use directory::{DataDirectory, DirectoryError, Identity, StoppedDirectory};
pub use files::{DirectoryDisk, RealFile};
pub use read_only::{ReadOnlyDisk, ReadOnlyFile};
pub use space::{DiskSpace, KeepWatch, SpaceWatch};
pub use wal::{WalConfig, WalHandle};

/// Ends the process where going on would break a promise: after a flush that failed
/// nobody knows what is on the disk. It neither unwinds nor flushes anything else.
pub(crate) fn fatal(what: &str, error: &dyn std::fmt::Display) -> ! {
    tracing::error!(%error, "{what}: the process ends");
    eprintln!("cairn: {what}: {error}; the process ends, so that nothing is acknowledged after it");
    std::process::abort()
}

#[cfg(test)]
mod tests;
