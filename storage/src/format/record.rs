//! One record of the write-ahead log, with the frame that carries its checksum.
//!
//! A frame is the payload's length (u32), the payload's CRC32C (u32) and the
//! payload, integers little-endian. A payload is a tag and the record's fields. The
//! version of this format is the segment header's.
//!
//! Every payload says which epoch its partition had promised once the record was
//! taken. A primary replicates entries of older epochs than its own, so that an entry
//! alone does not show what was promised before it: a promise lost to a broken batch
//! is known from any later record of its partition.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Epoch, PartitionId, ReplicaId};
use cairn_core::replication::{DurableRecord, EntryKind, Generation, LogEntry};

use super::mark::{put_lineage, put_mark, put_position, read_lineage, read_mark, read_position};
use super::partition_record::{put_partition_record, read_partition_record};
use super::primitives::{DecodeError, Reader, put_number};

/// The bytes before a frame's payload.
pub const FRAME_BYTES: usize = 8;

const TAG_CREATE: u8 = 1;
const TAG_DELETE: u8 = 2;
const TAG_PROMISE: u8 = 3;
const TAG_CONFIGURE: u8 = 4;
const TAG_ENTRY: u8 = 5;
const TAG_TRUNCATE: u8 = 6;
const TAG_INSTALLED: u8 = 7;
const TAG_CORRUPT: u8 = 8;
const TAG_MEND: u8 = 9;

/// A record as it stands in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Logged {
    /// The record.
    pub record: DurableRecord,
    /// What its partition had promised once it was taken.
    pub promised: Epoch,
    /// Only of a cut: the entries behind it are to mend a log with a missing range, so
    /// that it counts for nothing before they are all there.
    pub mends: bool,
}

/// Appends a frame around what `payload` writes.
///
/// # Panics
/// Where the payload is 4 GiB or more, which no record is: bodies are bounded long
/// before they reach the log.
pub fn put_frame(out: &mut Vec<u8>, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_BYTES]);
    payload(out);
    let begin = start + FRAME_BYTES;
    let length = u32::try_from(out.len() - begin).expect("a log record of 4 GiB");
    let checksum = crc32c::crc32c(&out[begin..]);
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
    out[start + 4..begin].copy_from_slice(&checksum.to_le_bytes());
}

/// Takes the first frame off `bytes` and returns its payload.
///
/// # Errors
/// See [`DecodeError`].
pub fn take_frame<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], DecodeError> {
    let mut reader = Reader::new(bytes);
    let length = reader.u32()?;
    let checksum = reader.u32()?;
    let payload = reader.take(length as usize)?;
    if crc32c::crc32c(payload) != checksum {
        return Err(DecodeError::Checksum("a log record"));
    }
    *bytes = reader.rest();
    Ok(payload)
}

/// At least as many bytes as the record's frame takes.
#[must_use]
pub fn size_hint(record: &DurableRecord) -> usize {
    let payload = match record {
        DurableRecord::Entry { entry, .. } => 48 + entry.body.len(),
        DurableRecord::Installed { lineage, .. } => 80 + lineage.len() * 28,
        DurableRecord::Create { .. }
        | DurableRecord::Delete { .. }
        | DurableRecord::Promise { .. }
        | DurableRecord::Corrupt { .. }
        | DurableRecord::Truncate { .. } => 48,
        DurableRecord::Configure { record } => {
            let config = &record.config;
            let members = config.sets().map(|set| set.members.len()).sum::<usize>();
            160 + 20 * (members + config.learners.len() + config.readers.len())
        }
    };
    FRAME_BYTES + payload
}

/// Appends a record's payload; see [`Logged`].
pub fn put_record(out: &mut Vec<u8>, record: &DurableRecord, promised: Epoch, mends: bool) {
    let put_partition = |out: &mut Vec<u8>, partition: &PartitionId| {
        put_number(out, u64::from(partition.0));
        put_number(out, promised.0);
    };
    match record {
        DurableRecord::Create {
            partition,
            replica,
            generation,
        } => {
            out.push(TAG_CREATE);
            put_partition(out, partition);
            put_number(out, replica.0);
            put_number(out, generation.0);
        }
        DurableRecord::Delete {
            partition,
            order: (epoch, revision),
        } => {
            out.push(TAG_DELETE);
            put_partition(out, partition);
            put_number(out, epoch.0);
            put_number(out, *revision);
        }
        DurableRecord::Promise { partition, epoch } => {
            out.push(TAG_PROMISE);
            put_partition(out, partition);
            put_number(out, epoch.0);
        }
        DurableRecord::Corrupt { partition, replica } => {
            out.push(TAG_CORRUPT);
            put_partition(out, partition);
            put_number(out, replica.0);
        }
        DurableRecord::Configure { record } => {
            out.push(TAG_CONFIGURE);
            put_number(out, promised.0);
            put_partition_record(out, record);
        }
        DurableRecord::Entry {
            partition,
            entry:
                LogEntry {
                    position,
                    kind,
                    body,
                    chain,
                },
        } => {
            out.push(TAG_ENTRY);
            put_partition(out, partition);
            put_position(out, *position);
            out.push(*kind as u8);
            out.extend_from_slice(&chain.to_le_bytes());
            out.extend_from_slice(body);
        }
        DurableRecord::Truncate { partition, to } => {
            out.push(if mends { TAG_MEND } else { TAG_TRUNCATE });
            put_partition(out, partition);
            put_mark(out, *to);
        }
        DurableRecord::Installed {
            partition,
            generation,
            mark,
            lineage,
            keep_tail,
        } => {
            out.push(TAG_INSTALLED);
            put_partition(out, partition);
            put_number(out, generation.0);
            put_mark(out, *mark);
            put_lineage(out, lineage);
            out.push(u8::from(*keep_tail));
        }
    }
}

/// The partition whose entry the payload is; `None` where it is another record. Looks at
/// nothing else.
#[must_use]
pub fn entry_of(payload: &[u8]) -> Option<PartitionId> {
    let mut reader = Reader::new(payload);
    (reader.byte().ok()? == TAG_ENTRY)
        .then(|| reader.small("a partition").ok().map(PartitionId))
        .flatten()
}

/// Decodes what [`put_record`] made; nothing may be left over. A body is copied, so
/// that keeping an entry does not keep its segment in memory.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_record(payload: &[u8]) -> Result<Logged, DecodeError> {
    let mut reader = Reader::new(payload);
    let tag = reader.byte()?;
    if tag == TAG_CONFIGURE {
        let promised = Epoch(reader.number()?);
        let record = read_partition_record(&mut reader)?;
        reader.end()?;
        let record = DurableRecord::Configure {
            record: Arc::new(record),
        };
        return Ok(Logged {
            record,
            promised,
            mends: false,
        });
    }
    let partition = PartitionId(reader.small("a partition")?);
    let promised = Epoch(reader.number()?);
    let record = match tag {
        TAG_CREATE => DurableRecord::Create {
            partition,
            replica: ReplicaId(reader.number()?),
            generation: Generation(reader.number()?),
        },
        TAG_DELETE => DurableRecord::Delete {
            partition,
            order: (Epoch(reader.number()?), reader.number()?),
        },
        TAG_PROMISE => DurableRecord::Promise {
            partition,
            epoch: Epoch(reader.number()?),
        },
        TAG_CORRUPT => DurableRecord::Corrupt {
            partition,
            replica: ReplicaId(reader.number()?),
        },
        TAG_ENTRY => DurableRecord::Entry {
            partition,
            entry: LogEntry {
                position: read_position(&mut reader)?,
                kind: EntryKind::from_number(reader.byte()?)
                    .ok_or(DecodeError::Range("an entry's kind"))?,
                chain: reader.u64()?,
                body: Bytes::copy_from_slice(reader.rest()),
            },
        },
        TAG_TRUNCATE | TAG_MEND => DurableRecord::Truncate {
            partition,
            to: read_mark(&mut reader)?,
        },
        TAG_INSTALLED => DurableRecord::Installed {
            partition,
            generation: Generation(reader.number()?),
            mark: read_mark(&mut reader)?,
            lineage: read_lineage(&mut reader)?,
            keep_tail: reader.flag("whether a tail stays")?,
        },
        _ => return Err(DecodeError::Range("a log record's tag")),
    };
    reader.end()?;
    Ok(Logged {
        record,
        promised,
        mends: tag == TAG_MEND,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_framed_record_comes_back(record in generators::durable_record(), promised in any::<u64>(), flag in any::<bool>()) {
            let mends = flag && matches!(record, DurableRecord::Truncate { .. });
            let mut bytes = Vec::new();
            put_frame(&mut bytes, |out| put_record(out, &record, Epoch(promised), mends));
            prop_assert!(bytes.len() <= size_hint(&record));
            bytes.extend_from_slice(b"next");
            let mut left = bytes.as_slice();
            let payload = take_frame(&mut left).unwrap();
            prop_assert_eq!(left, b"next");
            let entry = matches!(record, DurableRecord::Entry { .. });
            prop_assert_eq!(entry_of(payload), entry.then(|| record.partition()));
            prop_assert_eq!(decode_record(payload), Ok(Logged { record, promised: Epoch(promised), mends }));
        }

        #[test]
        fn a_flipped_bit_is_noticed(record in generators::durable_record(), bit in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            put_frame(&mut bytes, |out| put_record(out, &record, Epoch(3), false));
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(take_frame(&mut bytes.as_slice()).is_err());
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..200), tag in 0u8..11) {
            let mut bytes = vec![tag];
            bytes.extend(&junk);
            let _ = decode_record(&bytes);
            let _ = entry_of(&bytes);
            let _ = take_frame(&mut bytes.as_slice());
        }
    }
}
