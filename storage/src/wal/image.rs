//! Makes segments: what a new one holds before it is used, and the files for them.

use super::{PREPARING_PREFIX, SPARE_PREFIX, WalError, WalOptions, is_structural, segment_name};
use crate::disk::{Disk, DiskFile, Preallocation};
use crate::format::batch::{
    ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, BatchKind, SECTOR_BYTES, encode_batch_header,
};
use crate::format::meta::{CheckpointRow, put_row};
use crate::format::record::{Logged, put_frame, put_record};
use crate::format::segment_header::{
    HEADER_BYTES, LogIdentity, Predecessor, SegmentHeader, encode_header,
};

/// Kept free at a segment's end for the empty batch.
pub(super) const CLOSING_BYTES: u64 = SECTOR_BYTES;

/// The room behind the checkpoint of a segment on a disk that is nearly full.
const SHORT_BYTES: u64 = 256 << 10;

/// The segment that is written to.
pub(super) struct Active<F> {
    pub(super) file: F,
    pub(super) name: String,
    pub(super) number: u64,
    /// Its random id.
    pub(super) id: u64,
    /// The length of its file.
    pub(super) capacity: u64,
    /// Where the next batch goes.
    pub(super) end: u64,
    /// Everything before it is flushed.
    pub(super) flushed: u64,
    /// Whether the last batch says that all before it is flushed.
    pub(super) confirmed: bool,
    /// If the last batch is an empty one: where it lies, and its bytes.
    pub(super) empty: Option<(u64, Vec<u8>)>,
}

pub(super) fn spare_name(random: u64) -> String {
    format!("{SPARE_PREFIX}{random:016x}")
}

/// Writes a file of zeroes for a later segment, away from the log's own thread, and
/// returns its name. `random` must not repeat.
///
/// # Errors
/// See [`WalError`].
pub fn prepare_spare<D: Disk>(disk: &D, bytes: u64, random: u64) -> Result<String, WalError> {
    let preparing = format!("{PREPARING_PREFIX}{random:016x}");
    let file = disk
        .create(&preparing)
        .map_err(WalError::io("create", &preparing))?;
    let filled = file
        .preallocate(bytes, Preallocation::Zeroed)
        .and_then(|()| file.sync_data());
    let name = spare_name(random);
    let made = filled
        .map_err(WalError::io("fill", &preparing))
        .and_then(|()| {
            disk.rename(&preparing, &name)
                .map_err(WalError::io("rename", &preparing))
        });
    if let Err(error) = made {
        // Half a file is of no use to anybody; what cannot be removed now is removed
        // at the next start.
        let _ = disk.remove(&preparing);
        return Err(error);
    }
    disk.sync_directory()
        .map_err(WalError::io("flush", "the log's directory"))?;
    Ok(name)
}

/// Removes what an earlier process left half made; returns the spares.
pub(super) fn tidy<D: Disk>(disk: &D, options: &WalOptions) -> Result<Vec<String>, WalError> {
    let mut spares = Vec::new();
    for name in disk.list().map_err(WalError::io("list", "the log"))? {
        let spare = name.starts_with(SPARE_PREFIX);
        if !spare && !name.starts_with(PREPARING_PREFIX) {
            continue;
        }
        let fits = spare
            && spares.len() < options.spares
            && disk
                .open(&name)
                .and_then(|file| file.length())
                .map_err(WalError::io("measure", &name))?
                == options.segment_bytes;
        if fits {
            spares.push(name);
        } else {
            disk.remove(&name).map_err(WalError::io("remove", &name))?;
        }
    }
    Ok(spares)
}

pub(super) fn shorten<D: Disk>(disk: &D, name: &str, length: u64) -> Result<(), WalError> {
    let file = disk.open(name).map_err(WalError::io("open", name))?;
    if file.length().map_err(WalError::io("measure", name))? > length {
        file.set_length(length)
            .map_err(WalError::io("shorten", name))?;
    }
    Ok(())
}

/// A batch of records that a new segment begins with.
#[derive(Debug, Default)]
pub(super) struct TailBatch {
    pub(super) records: Vec<Logged>,
    /// The rows that the structural ones among them made, so that those do not stand
    /// there once alone.
    pub(super) rows: Vec<CheckpointRow>,
}

/// What a new segment holds before it is used.
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    pub(super) number: u64,
    pub(super) segment: u64,
    pub(super) batch_sequence: u64,
    /// Where the batches of the tail begin.
    pub(super) tail_at: Vec<u64>,
    /// How much must fit behind it.
    pub(super) room: u64,
}

pub(super) struct ImageParts<'a> {
    pub(super) identity: &'a LogIdentity,
    pub(super) number: u64,
    pub(super) segment: u64,
    pub(super) predecessor: Option<Predecessor>,
    pub(super) batch_sequence: u64,
    pub(super) structural: u64,
    pub(super) checkpoint: &'a [CheckpointRow],
    pub(super) tail: &'a [TailBatch],
}

/// Rows to a checkpoint's batch.
const CHECKPOINT_ROWS: usize = 1024;

impl Image {
    pub(super) fn build(parts: &ImageParts<'_>) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        let mut sequence = parts.batch_sequence;
        let mut structural = parts.structural;
        let mut start = |kind: BatchKind, structural: u64| {
            sequence += 1;
            BatchStart {
                kind,
                segment: parts.segment,
                sequence,
                known_flushed: 0,
                structural,
            }
        };
        // The image ends at a sector's end.
        let fill = |last: bool| last.then_some(0);
        let mut rows = parts.checkpoint;
        loop {
            let (now, later) = rows.split_at(rows.len().min(CHECKPOINT_ROWS));
            let begun = begin_batch(&mut bytes);
            for row in now {
                put_frame(&mut bytes, |out| put_row(out, row));
            }
            let kind = if later.is_empty() {
                BatchKind::CheckpointEnd
            } else {
                BatchKind::Checkpoint
            };
            let last = later.is_empty() && parts.tail.is_empty();
            let start = start(kind, structural);
            end_batch(&mut bytes, begun, &start, now.len(), fill(last));
            rows = later;
            if rows.is_empty() {
                break;
            }
        }
        let mut tail_at = Vec::with_capacity(parts.tail.len());
        for (at, batch) in parts.tail.iter().enumerate() {
            tail_at.push(bytes.len() as u64);
            let last = at + 1 == parts.tail.len();
            let before = structural;
            let begun = begin_batch(&mut bytes);
            for logged in &batch.records {
                let record = &logged.record;
                put_frame(&mut bytes, |out| {
                    put_record(out, record, logged.promised, logged.mends);
                });
                structural += u64::from(is_structural(record));
            }
            let records = start(BatchKind::Records, before);
            let count = batch.records.len();
            let filled = fill(last && batch.rows.is_empty());
            end_batch(&mut bytes, begun, &records, count, filled);
            if !batch.rows.is_empty() {
                let begun = begin_batch(&mut bytes);
                for row in &batch.rows {
                    put_frame(&mut bytes, |out| put_row(out, row));
                }
                let rows = start(BatchKind::Rows, structural);
                end_batch(&mut bytes, begun, &rows, batch.rows.len(), fill(last));
            }
        }
        let header = encode_header(&SegmentHeader {
            identity: parts.identity.clone(),
            number: parts.number,
            segment: parts.segment,
            predecessor: parts.predecessor,
            batch_sequence: parts.batch_sequence,
            structural: parts.structural,
            prepared_end: bytes.len() as u64,
        });
        bytes[..HEADER_BYTES].copy_from_slice(&header);
        Self {
            bytes,
            number: parts.number,
            segment: parts.segment,
            batch_sequence: sequence,
            tail_at,
            room: 0,
        }
    }
}

/// Makes a segment of an image: durable under another name first, then named, then
/// the name durable.
pub(super) fn place<D: Disk>(
    disk: &D,
    options: &WalOptions,
    spares: &mut Vec<String>,
    image: &Image,
) -> Result<Active<D::File>, WalError> {
    let end = image.bytes.len() as u64;
    let least = end + image.room + CLOSING_BYTES;
    let mut capacity = options.segment_bytes.max(least);
    let usual = capacity == options.segment_bytes;
    let (from, file) = match spares.pop_if(|_| usual) {
        Some(spare) => {
            let file = disk.open(&spare).map_err(WalError::io("open", &spare))?;
            (spare, file)
        }
        None => {
            let name = format!("{PREPARING_PREFIX}{:016x}", image.segment);
            let file = disk.create(&name).map_err(WalError::io("create", &name))?;
            let reserved = file.preallocate(capacity, Preallocation::Reserved);
            if let Err(error) = reserved {
                if error.kind() != std::io::ErrorKind::StorageFull {
                    return Err(WalError::io("preallocate", &name)(error));
                }
                // A short segment keeps epochs, barriers and deletes going until
                // there is room again.
                capacity = least.max(end + SHORT_BYTES);
                file.set_length(0)
                    .and_then(|()| file.preallocate(capacity, Preallocation::Reserved))
                    .map_err(WalError::io("preallocate", &name))?;
            }
            (name, file)
        }
    };
    let name = segment_name(image.number);
    file.write_at(0, &image.bytes)
        .map_err(WalError::io("write", &from))?;
    file.sync_data().map_err(WalError::io("flush", &from))?;
    disk.rename(&from, &name)
        .map_err(WalError::io("rename", &from))?;
    disk.sync_directory()
        .map_err(WalError::io("flush", "the log's directory"))?;
    Ok(Active {
        file,
        name,
        number: image.number,
        id: image.segment,
        capacity,
        end,
        flushed: end,
        confirmed: true,
        empty: None,
    })
}

/// What a batch's header says before its body is known.
pub(super) struct BatchStart {
    pub(super) kind: BatchKind,
    pub(super) segment: u64,
    pub(super) sequence: u64,
    pub(super) known_flushed: u64,
    pub(super) structural: u64,
}

/// Leaves room for a header; returns where.
pub(super) fn begin_batch(out: &mut Vec<u8>) -> usize {
    let at = out.len();
    out.resize(at + BATCH_HEADER_BYTES, 0);
    at
}

/// Fills in the header of the batch that began at `begun`. `fill`, where the flush ends
/// with this batch: the file's offset of the first byte of `out`; the batch is then
/// filled up to a sector's end.
pub(super) fn end_batch(
    out: &mut Vec<u8>,
    begun: usize,
    start: &BatchStart,
    frames: usize,
    fill: Option<u64>,
) {
    let body = begun + BATCH_HEADER_BYTES;
    if let Some(offset) = fill {
        let end = (offset + out.len() as u64).next_multiple_of(SECTOR_BYTES);
        out.resize((end - offset) as usize, 0);
    }
    let header = encode_batch_header(&BatchHeader {
        kind: start.kind,
        segment: start.segment,
        sequence: start.sequence,
        known_flushed: start.known_flushed,
        structural: start.structural,
        frames: frames as u32,
        body_bytes: u32::try_from(out.len() - body).expect("a batch of 4 GiB"),
        body_checksum: crc32c::crc32c(&out[body..]),
    });
    out[begun..body].copy_from_slice(&header);
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
}
