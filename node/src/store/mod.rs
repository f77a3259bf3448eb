//! A data node's state in fjall: applying, reading, snapshots.
//!
//! [`NodeStorage::open`] opens the store and the write-ahead log together, since
//! each needs the other to recover and to reclaim. The threads:
//!
//! - *apply* merges committed entries of all partitions into large batches, and is
//!   the only one that writes state that is being served;
//! - *readers* read for those who must not block;
//! - *maintenance* persists the store, tells the log what is durable, removes dropped
//!   generations, watches free space, and estimates what each generation takes.

mod apply;
mod cache;
mod counts;
mod fjall_store;
pub(crate) mod journal_check;
mod maintenance;
mod open;
pub(crate) mod opening;
mod present;
mod read;
mod sizes;
mod snapshot;

pub use apply::{Applied, AppliedCallback, AppliedSpent, ApplyHandle};
pub use fjall_store::FjallStore;
pub use open::{
    CorruptCallback, KeyWatch, NodeStorage, SizesCallback, StorageCallbacks, StorageCloser,
    StorageConfig, StorageError,
};
pub(crate) use opening::remove_unfinished;
pub use read::{Due, DueBounds, KeyRange, StateReader, TableRows};
pub use snapshot::{SnapshotSink, SnapshotSource};

#[cfg(test)]
mod tests;
