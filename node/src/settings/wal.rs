//! The write-ahead log's settings.

use super::process::{GIB, MIB};
use super::reader::Reader;

/// How the write-ahead log lies on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalSettings {
    /// The size of a segment.
    pub segment_bytes: u64,
    /// The most that is kept for lagging replicas.
    pub retain_bytes: u64,
    /// What is kept for watches although no replica needs it.
    pub keep_bytes: u64,
    /// Whether it is written past the page cache, where the disk takes that.
    pub direct: bool,
}

/// Reads them, where no value is longer than so many bytes.
pub(super) fn read(reader: &Reader<'_>, max_value_bytes: usize) -> WalSettings {
    let segment_bytes = reader.bytes("CAIRN_WAL_SEGMENT_BYTES", 64 * MIB, MIB..=4 * GIB);
    let retain_bytes = reader.bytes("CAIRN_WAL_RETAIN_BYTES", 512 * MIB, 2 * MIB..=1024 * GIB);
    if segment_bytes < 2 * max_value_bytes as u64 {
        reader.problem(
            "CAIRN_WAL_SEGMENT_BYTES",
            "it is less than two of the largest values",
            "Raise it, or lower CAIRN_MAX_VALUE_BYTES",
        );
    }
    if retain_bytes < 2 * segment_bytes {
        reader.problem(
            "CAIRN_WAL_RETAIN_BYTES",
            "it is less than two segments",
            "Raise it, or lower CAIRN_WAL_SEGMENT_BYTES",
        );
    }
    WalSettings {
        segment_bytes,
        retain_bytes,
        keep_bytes: reader.bytes("CAIRN_WAL_KEEP_BYTES", 128 * MIB, 0..=1024 * GIB),
        direct: reader.flag("CAIRN_WAL_DIRECT", true),
    }
}
