//! Finds the segments of a log and reads their bytes, as far as the disk gives them.
//!
//! A sector that the disk does not give is read as zeroes: the scan calls what stood
//! there broken, and recovery judges what that costs. Only what concerns the whole file
//! or directory is an error.

use super::{WalError, WalOptions, segment_name, segment_number};
use crate::disk::{Disk, DiskFile};
use crate::format::DecodeError;
use crate::format::batch::{BODY_BYTES_MAX, SECTOR_BYTES};
use crate::format::segment_header::{HEADER_BYTES, LogIdentity, SegmentHeader, decode_header};

/// What a segment that one batch alone needs takes beside that batch, at most.
const BESIDE_ONE_BATCH: u64 = 64 << 20;

/// A segment that is there.
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) name: String,
    /// `None`: it cannot be read.
    pub(super) header: Option<SegmentHeader>,
}

/// The segments, oldest first.
pub(super) fn segment_files<D: Disk>(
    disk: &D,
    identity: &LogIdentity,
) -> Result<Vec<SegmentFile>, WalError> {
    let names = disk.list().map_err(WalError::io("list", "the log"))?;
    let mut numbers: Vec<u64> = names.iter().filter_map(|n| segment_number(n)).collect();
    numbers.sort_unstable();
    let mut files = Vec::with_capacity(numbers.len());
    for number in numbers {
        let name = segment_name(number);
        let file = disk.open(&name).map_err(WalError::io("open", &name))?;
        let block = read_up_to(&file, HEADER_BYTES);
        let header = match decode_header(&block) {
            Ok(header) if header.number == number => Some(header),
            Ok(_) => None,
            Err(source @ (DecodeError::Newer { .. } | DecodeError::Older { .. })) => {
                return Err(WalError::Format { name, source });
            }
            Err(_) => None,
        };
        if let Some(header) = &header {
            check_identity(&name, &header.identity, identity)?;
        }
        files.push(SegmentFile {
            number,
            name,
            header,
        });
    }
    Ok(files)
}

fn check_identity(name: &str, found: &LogIdentity, wanted: &LogIdentity) -> Result<(), WalError> {
    let same_node = found.node == wanted.node && found.incarnation == wanted.incarnation;
    let same_cluster =
        found.cluster.is_empty() || wanted.cluster.is_empty() || found.cluster == wanted.cluster;
    if same_node && same_cluster {
        return Ok(());
    }
    let words = |identity: &LogIdentity| {
        format!(
            "node {:032x}, incarnation {:032x}, cluster {:?}",
            identity.node, identity.incarnation, identity.cluster
        )
    };
    Err(WalError::Foreign {
        name: name.to_owned(),
        found: words(found),
        wanted: words(wanted),
    })
}

/// All bytes of a segment.
pub(super) fn read_all<D: Disk>(
    disk: &D,
    name: &str,
    options: &WalOptions,
) -> Result<Vec<u8>, WalError> {
    let file = disk.open(name).map_err(WalError::io("open", name))?;
    let length = file.length().map_err(WalError::io("measure", name))?;
    // No segment is longer: a length that is damaged asks for no more memory than one.
    let longest = options
        .segment_bytes
        .max(BODY_BYTES_MAX as u64 + BESIDE_ONE_BATCH);
    let length = usize::try_from(length.min(longest)).map_err(|_| WalError::Unreadable)?;
    Ok(read_up_to(&file, length))
}

/// Reads up to `length` bytes; zeroes stand for sectors that the disk does not give.
fn read_up_to<F: DiskFile>(file: &F, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut at = 0;
    while at < length {
        match file.read_at(at as u64, &mut bytes[at..]) {
            Ok(0) => {
                bytes.truncate(at);
                break;
            }
            Ok(read) => at += read,
            Err(_) => {
                // Some sector further on fails: one by one, as far as this one.
                at = read_sectors(file, &mut bytes, at);
            }
        }
    }
    bytes
}

/// Reads sector by sector from `at` past the first one that fails; returns where.
fn read_sectors<F: DiskFile>(file: &F, bytes: &mut [u8], mut at: usize) -> usize {
    let sector = SECTOR_BYTES as usize;
    while at < bytes.len() {
        let end = (at / sector + 1).saturating_mul(sector).min(bytes.len());
        match file.read_at(at as u64, &mut bytes[at..end]) {
            Ok(0) => return at,
            Ok(read) => at += read,
            Err(_) => {
                bytes[at..end].fill(0);
                return end;
            }
        }
    }
    at
}

/// The length of a segment's file.
pub(super) fn length_of<D: Disk>(disk: &D, name: &str) -> Result<u64, WalError> {
    disk.open(name)
        .and_then(|file| file.length())
        .map_err(WalError::io("measure", name))
}
