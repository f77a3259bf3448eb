//! Reads one segment back, batch by batch, and goes on past a broken one.

use std::ops::Range;

use crate::format::batch::{
    ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, decode_batch_header, resembles_batch,
};

/// What stands in a segment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Item {
    /// An intact batch.
    Batch {
        offset: u64,
        header: BatchHeader,
        body: Range<usize>,
    },
    /// Something broken, from this offset to the next intact batch or to the end.
    Broken { offset: u64 },
}

/// What a scan found.
#[derive(Debug)]
pub(super) struct Scan {
    pub(super) items: Vec<Item>,
    /// Where the last intact batch ends.
    pub(super) end: u64,
    /// The highest offset that an intact batch knew to be flushed.
    pub(super) known_flushed: u64,
}

/// Scans the batches of `segment` in its bytes, of which `from..limit` may hold
/// any; `sequence` is the last batch before them.
pub(super) fn scan(bytes: &[u8], segment: u64, from: u64, limit: u64, sequence: u64) -> Scan {
    let limit = limit.min(bytes.len() as u64);
    let mut scan = Scan {
        items: Vec::new(),
        end: from,
        known_flushed: 0,
    };
    let mut sequence = sequence;
    let mut offset = from;
    while offset + BATCH_HEADER_BYTES as u64 <= limit {
        let found = intact_batch(bytes, segment, offset, limit)
            .filter(|(header, _)| header.sequence > sequence);
        if let Some((header, body)) = found {
            if header.sequence > sequence + 1 && !ends_broken(&scan) {
                scan.items.push(Item::Broken { offset });
            }
            sequence = header.sequence;
            scan.known_flushed = scan.known_flushed.max(header.known_flushed);
            scan.end = header.next_offset(offset);
            scan.items.push(Item::Batch {
                offset,
                header,
                body,
            });
            offset = scan.end;
            continue;
        }
        let next = (offset + ALIGNMENT..limit)
            .step_by(ALIGNMENT as usize)
            .find(|&at| {
                intact_batch(bytes, segment, at, limit)
                    .is_some_and(|(header, _)| header.sequence > sequence)
            });
        let Some(next) = next else {
            if is_torn(bytes, segment, offset, limit) {
                scan.items.push(Item::Broken { offset });
            }
            break;
        };
        scan.items.push(Item::Broken { offset });
        offset = next;
    }
    scan
}

fn ends_broken(scan: &Scan) -> bool {
    matches!(scan.items.last(), Some(Item::Broken { .. }))
}

fn at(bytes: &[u8], offset: u64) -> Option<&[u8]> {
    bytes.get(usize::try_from(offset).ok()?..)
}

fn intact_batch(
    bytes: &[u8],
    segment: u64,
    offset: u64,
    limit: u64,
) -> Option<(BatchHeader, Range<usize>)> {
    let header = own_header(at(bytes, offset)?, segment)?;
    let start = usize::try_from(offset).ok()? + BATCH_HEADER_BYTES;
    let end = start + header.body_bytes as usize;
    if end as u64 > limit {
        return None;
    }
    intact_body(&header, bytes.get(start..end)?).then_some((header, start..end))
}

/// The header that `bytes` begin with, if it is of a batch of that segment.
pub(super) fn own_header(bytes: &[u8], segment: u64) -> Option<BatchHeader> {
    let header = decode_batch_header(bytes).ok()?;
    (header.segment == segment).then_some(header)
}

/// Whether the body is the one that the header was written for.
pub(super) fn intact_body(header: &BatchHeader, body: &[u8]) -> bool {
    crc32c::crc32c(body) == header.body_checksum
}

/// Whether a batch was begun after the last intact one and did not get whole.
fn is_torn(bytes: &[u8], segment: u64, offset: u64, limit: u64) -> bool {
    let here = at(bytes, offset).is_some_and(|b| resembles_batch(b, segment));
    here || (offset + ALIGNMENT..limit)
        .step_by(ALIGNMENT as usize)
        .any(|o| {
            // Further on, only this segment's random id says anything.
            at(bytes, o)
                .and_then(|b| b.get(8..16))
                .is_some_and(|id| id == segment.to_le_bytes())
        })
}
