//! A data node's state in fjall: applying, reading, snapshots.
//!
//! [`NodeStorage::open`] opens the store and the write-ahead log together, since
//! each needs the other to recover and to reclaim.

mod apply;
mod open;
mod read;
mod snapshot;

pub use apply::{Applied, ApplyHandle};
pub use open::{NodeStorage, StorageCallbacks, StorageConfig, StorageError};
pub use read::StateReader;
pub use snapshot::{SnapshotSink, SnapshotSource};
