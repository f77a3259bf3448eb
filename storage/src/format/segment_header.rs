//! The first block of a segment: whose it is, and where the log before it ends.

use super::primitives::{DecodeError, Reader};

/// How much of a segment its header takes.
pub const HEADER_BYTES: usize = 4096;
/// The format of segments, batches and records that this build writes.
pub const FORMAT: u32 = 1;
/// The longest name of a cluster.
pub const CLUSTER_BYTES_MAX: usize = 64;

const MAGIC: [u8; 8] = *b"CAIRNWAL";
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

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
    out
}

/// Decodes what [`encode_header`] made.
///
/// # Errors
/// See [`DecodeError`]. A newer format is told apart from damage only where the
/// checksum, whose place no format changes, is intact.
pub fn decode_header(bytes: &[u8]) -> Result<SegmentHeader, DecodeError> {
    let bytes = bytes.get(..HEADER_BYTES).ok_or(DecodeError::Short)?;
    let mut reader = Reader::new(bytes);
    if reader.array::<8>()? != MAGIC {
        return Err(DecodeError::Foreign("segment of a write-ahead log"));
    }
    let stored = Reader::new(&bytes[CHECKSUM_AT..]).u32()?;
    if crc32c::crc32c(&bytes[..CHECKSUM_AT]) != stored {
        return Err(DecodeError::Checksum("a segment's header"));
    }
    let format = reader.u32()?;
    if format != FORMAT {
        return Err(DecodeError::Newer {
            what: "the write-ahead log",
            found: format,
            known: FORMAT,
        });
    }
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
        fn a_flipped_bit_is_noticed(header in generators::segment_header(), bit in 0..HEADER_BYTES * 8) {
            let mut bytes = encode_header(&header);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_header(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..HEADER_BYTES + 10)) {
            let _ = decode_header(&junk);
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_number() {
        let header = SegmentHeader {
            identity: LogIdentity::default(),
            number: 1,
            segment: 2,
            predecessor: None,
            batch_sequence: 0,
            structural: 0,
            prepared_end: 0,
        };
        let mut bytes = encode_header(&header);
        bytes[8..12].copy_from_slice(&9u32.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        let error = decode_header(&bytes).unwrap_err();
        assert_eq!(
            error.to_string(),
            "format 9 of the write-ahead log is newer than this build, which reads up to 1"
        );
    }
}
