//! The first blocks of a segment: whose it is, and where the log before it ends.
//!
//! The header stands there twice, each time in a block of its own, since nothing else
//! in the log repeats the newest one: no single sector holds both.

use super::primitives::{DecodeError, Reader, check_format};

/// How much of a segment its header takes.
pub const HEADER_BYTES: usize = COPIES * COPY_BYTES;
/// How much one copy of it takes.
pub const COPY_BYTES: usize = 4096;
/// The format of segments, batches and records that this build writes.
pub const FORMAT: u32 = 2;
/// The longest name of a cluster.
pub const CLUSTER_BYTES_MAX: usize = 64;

const MAGIC: [u8; 8] = *b"CAIRNWAL";
const COPIES: usize = 2;
const CHECKSUM_AT: usize = COPY_BYTES - 4;

/// Whose log it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogIdentity {
    /// The cluster's id; empty until a cluster admitted the node.
    pub cluster: String,
    /// The node's UUID.
    pub node: u128,
    /// Its incarnation's UUID.
    pub incarnation: u128,
}

/// The end of the log before a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Predecessor {
    /// The random id of the segment before.
    pub segment: u64,
    /// The offset there at which the log goes over to this segment. What stands
    /// past it is void.
    pub end: u64,
}

/// A segment's header. It is written, with the checkpoint and whatever else stands
/// before `prepared_end`, and made durable before the segment gets its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Whose log.
    pub identity: LogIdentity,
    /// Counts the segments of a log.
    pub number: u64,
    /// Drawn at random; each batch of the segment carries it.
    pub segment: u64,
    /// The segment before; none for the first of a log.
    pub predecessor: Option<Predecessor>,
    /// The sequence of the last batch before this segment.
    pub batch_sequence: u64,
    /// How many structural records the log held before this segment.
    pub structural: u64,
    /// Everything before this offset was durable before the segment was used.
    pub prepared_end: u64,
}

/// Encodes a header.
///
/// # Panics
/// Where the cluster's id is longer than [`CLUSTER_BYTES_MAX`]; whoever sets it
/// checks that.
#[must_use]
pub fn encode_header(header: &SegmentHeader) -> Vec<u8> {
    let SegmentHeader {
        identity:
            LogIdentity {
                cluster,
                node,
                incarnation,
            },
        number,
        segment,
        predecessor,
        batch_sequence,
        structural,
        prepared_end,
    } = header;
    assert!(cluster.len() <= CLUSTER_BYTES_MAX, "a cluster id too long");
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&segment.to_le_bytes());
    out.extend_from_slice(&node.to_le_bytes());
    out.extend_from_slice(&incarnation.to_le_bytes());
    out.push(u8::from(predecessor.is_some()));
    let Predecessor { segment, end } = predecessor.unwrap_or_default();
    out.extend_from_slice(&segment.to_le_bytes());
    out.extend_from_slice(&end.to_le_bytes());
    out.extend_from_slice(&batch_sequence.to_le_bytes());
    out.extend_from_slice(&structural.to_le_bytes());
    out.extend_from_slice(&prepared_end.to_le_bytes());
    out.push(cluster.len() as u8);
    out.extend_from_slice(cluster.as_bytes());
    out.resize(CHECKSUM_AT, 0);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.extend_from_within(..COPY_BYTES);
    out
}

/// Decodes what [`encode_header`] made, from whichever copy is intact.
///
/// # Errors
/// See [`DecodeError`]: of the first copy where neither can be read. Another format is
/// told apart from damage only where the checksum, whose place no format changes, is
/// intact.
pub fn decode_header(bytes: &[u8]) -> Result<SegmentHeader, DecodeError> {
    let mut found = decode_copy(bytes);
    for copy in 1..COPIES {
        let damaged = matches!(
            found,
            Err(DecodeError::Checksum(_) | DecodeError::Foreign(_))
        );
        if !damaged {
            break;
        }
        if let Some(second) = bytes.get(copy * COPY_BYTES..).map(decode_copy)
            && !matches!(
                second,
                Err(DecodeError::Short | DecodeError::Checksum(_) | DecodeError::Foreign(_))
            )
        {
            found = second;
        }
    }
    found
}

fn decode_copy(bytes: &[u8]) -> Result<SegmentHeader, DecodeError> {
    let bytes = bytes.get(..COPY_BYTES).ok_or(DecodeError::Short)?;
    let mut reader = Reader::new(bytes);
    if reader.array::<8>()? != MAGIC {
        return Err(DecodeError::Foreign("segment of a write-ahead log"));
    }
    let stored = Reader::new(&bytes[CHECKSUM_AT..]).u32()?;
    if crc32c::crc32c(&bytes[..CHECKSUM_AT]) != stored {
        return Err(DecodeError::Checksum("a segment's header"));
    }
    let format = reader.u32()?;
    check_format("the write-ahead log", format, FORMAT)?;
    let number = reader.u64()?;
    let segment = reader.u64()?;
    let node = reader.u128()?;
    let incarnation = reader.u128()?;
    let has_predecessor = reader.flag("a predecessor's presence")?;
    let predecessor = Predecessor {
        segment: reader.u64()?,
        end: reader.u64()?,
    };
    let batch_sequence = reader.u64()?;
    let structural = reader.u64()?;
    let prepared_end = reader.u64()?;
    let length = usize::from(reader.byte()?);
    if length > CLUSTER_BYTES_MAX {
        return Err(DecodeError::Range("a cluster id's length"));
    }
    let cluster = std::str::from_utf8(reader.take(length)?)
        .map_err(|_| DecodeError::Range("a cluster id"))?
        .to_owned();
    Ok(SegmentHeader {
        identity: LogIdentity {
            cluster,
            node,
            incarnation,
        },
        number,
        segment,
        predecessor: has_predecessor.then_some(predecessor),
        batch_sequence,
        structural,
        prepared_end,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_header_comes_back(header in generators::segment_header()) {
            let bytes = encode_header(&header);
            prop_assert_eq!(bytes.len(), HEADER_BYTES);
            prop_assert_eq!(decode_header(&bytes), Ok(header));
        }

        #[test]
        fn a_flipped_bit_leaves_the_other_copy(header in generators::segment_header(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = encode_header(&header);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode_header(&bytes), Ok(header));
        }

        #[test]
        fn a_flipped_bit_in_each_copy_is_noticed(header in generators::segment_header(), first in 0..COPY_BYTES * 8, second in 0..COPY_BYTES * 8) {
            let mut bytes = encode_header(&header);
            bytes[first / 8] ^= 1 << (first % 8);
            bytes[COPY_BYTES + second / 8] ^= 1 << (second % 8);
            prop_assert!(decode_header(&bytes).is_err());
        }

        #[test]
        fn a_lost_block_leaves_the_other_copy(header in generators::segment_header(), copy in 0..COPIES) {
            let mut bytes = encode_header(&header);
            bytes[copy * COPY_BYTES..][..COPY_BYTES].fill(0);
            prop_assert_eq!(decode_header(&bytes), Ok(header));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..HEADER_BYTES + 10)) {
            let _ = decode_header(&junk);
        }
    }

    #[test]
    fn another_format_is_refused_by_number() {
        let header = SegmentHeader {
            identity: LogIdentity::default(),
            number: 1,
            segment: 2,
            predecessor: None,
            batch_sequence: 0,
            structural: 0,
            prepared_end: 0,
        };
        let words = |format: u32| {
            let mut bytes = encode_header(&header);
            bytes[8..12].copy_from_slice(&format.to_le_bytes());
            let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
            bytes[CHECKSUM_AT..COPY_BYTES].copy_from_slice(&checksum.to_le_bytes());
            decode_header(&bytes).unwrap_err().to_string()
        };
        assert_eq!(
            words(9),
            "format 9 of the write-ahead log is newer than this build, which reads up to 2"
        );
        assert_eq!(
            words(1),
            "format 1 of the write-ahead log is older than this build, which reads from 2 on"
        );
    }
}
