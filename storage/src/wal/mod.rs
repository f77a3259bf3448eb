//! The segmented write-ahead log that all partitions of a node share.
//!
//! # Segments
//! A segment is prepared under another name: header, checkpoint of every
//! partition's metadata, whatever must be carried over. Only when that is durable
//! does it get its name, and only when the name is durable is it written to. Its
//! header says where the segment before it ends, so that "cutting" a segment is
//! part of the same durable step. Files are used again: what a file held in an
//! earlier life carries another segment's random id.
//!
//! # Batches
//! A call of [`Wal::append`] writes whole batches and flushes once. A batch says
//! below which offset everything was known to be flushed when it was written; an
//! empty batch says so when the log falls idle or closes. A batch with structural
//! records, which create, delete or cut replicas, is followed by the rows that they
//! made, so that one broken place cannot lose both. What one flush makes durable ends
//! at a sector's end: the next write must not share a sector with it, since a write
//! that is torn by a power loss may take the whole sector with it.
//!
//! # Recovery
//! What is broken below the highest such offset is corruption, above it a torn tail
//! (rule 12). The module `recovery` says what follows from either.
//!
//! # Reclaiming
//! The module `ledger` knows which segment holds entries of which partition, up to which
//! index. The oldest segment goes once the store durably holds all of them and no
//! replica needs them (rule 17). Where the log is larger than it may be and what keeps
//! the oldest segment is little, as where a partition without a quorum holds a few
//! entries that cannot commit, those are carried forward: the log goes over to a new
//! segment that begins with them. What nobody needs may be kept for a while all the same,
//! for those who read it back: the module `history` finds the entries of a partition.

mod fold;
mod history;
mod image;
mod ledger;
mod recovery;
mod scan;
mod segments;
mod unapplied;
mod writer;

#[cfg(test)]
mod tests;

pub use fold::Misplaced;
pub use history::LogReader;
pub use image::prepare_spare;
pub use recovery::Recovery;
pub use writer::Wal;

use std::io;

use cairn_core::replication::DurableRecord;

use crate::disk::Disk;
use crate::format::DecodeError;
use crate::format::segment_header::LogIdentity;
use crate::store::Store;

/// Sizes of the log.
#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// The size of a segment, unless one batch alone needs more.
    pub segment_bytes: u64,
    /// The size of the whole log past which replicas that lag no longer hold
    /// segments back; what the store does not durably hold always does.
    pub total_bytes: u64,
    /// So much of the closed segments stays, and less than one segment more, though it
    /// might go: for those who read the log back.
    pub kept_bytes: u64,
    /// Where a batch is closed and the next begun.
    pub batch_bytes: usize,
    /// The most bytes of entries that recovery keeps in memory although the store
    /// durably holds them.
    pub recovered_bytes: usize,
    /// How many reclaimed files are kept to be used again.
    pub spares: usize,
}

/// What [`Wal::open`] would find, with nothing of the log changed. The store is persisted,
/// as it is there.
///
/// # Errors
/// See [`WalError`].
pub fn inspect<D: Disk>(
    disk: &D,
    identity: &LogIdentity,
    options: &WalOptions,
    store: &dyn Store,
) -> Result<Recovery, WalError> {
    recovery::recover(disk, identity, options, store).map(|(found, _)| found)
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            total_bytes: 512 << 20,
            kept_bytes: 0,
            batch_bytes: 4 << 20,
            recovered_bytes: 64 << 20,
            spares: 1,
        }
    }
}

/// Why the log could not be opened or written. Writing: nothing may be acknowledged
/// after it, the process stops.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// The disk refused something.
    #[error("{action} {name}: {source}")]
    Io {
        /// Verb and object.
        action: &'static str,
        /// Which file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The disk holds a format that this build does not read.
    #[error("read {name}: {source}")]
    Format {
        /// Which file.
        name: String,
        /// Why.
        source: DecodeError,
    },
    /// The log is another node's, or another cluster's.
    #[error("{name} belongs to {found}, not to {wanted}")]
    Foreign {
        /// Which file.
        name: String,
        /// Whose it is.
        found: String,
        /// Who opens it.
        wanted: String,
    },
    /// So much is damaged that not even the partitions' names are left.
    #[error("no checkpoint of the write-ahead log can be read: the disk has to be wiped")]
    Unreadable,
    /// It is not known which replicas there are, or what their logs consist of.
    #[error(
        "the write-ahead log lost records that create, delete or cut replicas: \
         the disk has to be wiped, and its replicas to be made anew ({0})"
    )]
    StructureLost(String),
    /// The store could not say what it holds.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
}

impl WalError {
    fn io(action: &'static str, name: &str) -> impl FnOnce(io::Error) -> Self {
        let name = name.to_owned();
        move |source| Self::Io {
            action,
            name,
            source,
        }
    }
}

const SEGMENT_PREFIX: &str = "segment-";
const SPARE_PREFIX: &str = "spare-";
const PREPARING_PREFIX: &str = "preparing-";

fn segment_name(number: u64) -> String {
    format!("{SEGMENT_PREFIX}{number:016x}")
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(SEGMENT_PREFIX)?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Whether the record changes what a log consists of, rather than adding to it.
fn is_structural(record: &DurableRecord) -> bool {
    match record {
        DurableRecord::Create { .. }
        | DurableRecord::Delete { .. }
        | DurableRecord::Truncate { .. }
        | DurableRecord::Installed { .. } => true,
        DurableRecord::Promise { .. }
        | DurableRecord::Configure { .. }
        | DurableRecord::Corrupt { .. }
        | DurableRecord::Entry { .. } => false,
    }
}
