//! The header of a batch: what one write to a segment consists of.
//!
//! Batches begin at multiples of [`ALIGNMENT`], so that a scan finds the next one
//! behind a broken one. A body is a run of frames ([`super::record`]); what stands
//! behind them is filling.

use super::primitives::{DecodeError, Reader};

/// The size of a batch's header.
pub const BATCH_HEADER_BYTES: usize = 64;
/// Where batches may begin.
pub const ALIGNMENT: u64 = 64;
/// What a power loss may take whole where a part of it was being written. What one
/// flush makes durable is filled up to a multiple of it, so that the next write shares
/// no sector with it.
pub const SECTOR_BYTES: u64 = 4096;
/// The longest body.
pub const BODY_BYTES_MAX: usize = 1 << 30;

const MAGIC: u32 = u32::from_le_bytes(*b"CBAT");
const CHECKSUM_AT: usize = BATCH_HEADER_BYTES - 4;

/// What a batch's frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum BatchKind {
    /// Log records.
    Records = 1,
    /// A checkpoint's rows; another batch of them follows.
    Checkpoint = 2,
    /// A checkpoint's last rows.
    CheckpointEnd = 3,
    /// Nothing: written when the log falls idle or closes, for its
    /// [`BatchHeader::known_flushed`].
    Empty = 4,
    /// The rows of the partitions that the structural records of the batch before
    /// this one changed: a second copy of what nothing else in the log repeats.
    Rows = 5,
}

impl BatchKind {
    fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Records,
            2 => Self::Checkpoint,
            3 => Self::CheckpointEnd,
            4 => Self::Empty,
            5 => Self::Rows,
            _ => return None,
        })
    }
}

/// A batch's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BatchHeader {
    /// What its frames are.
    pub kind: BatchKind,
    /// The random id of its segment: what a segment's file held in an earlier life
    /// carries another one.
    pub segment: u64,
    /// Counts the batches of a log over all its segments.
    pub sequence: u64,
    /// The offset in this segment below which everything was known to be flushed
    /// when this batch was written. What is broken below it was whole once.
    pub known_flushed: u64,
    /// How many structural records (those that create, delete, truncate or install)
    /// stand in the log before this batch: equal counts on both sides of a broken
    /// batch prove that it held none.
    pub structural: u64,
    /// How many frames its body holds.
    pub frames: u32,
    /// The length of its body.
    pub body_bytes: u32,
    /// The CRC32C of its body.
    pub body_checksum: u32,
}

impl BatchHeader {
    /// The offset of the next batch after one at `offset`.
    #[must_use]
    pub fn next_offset(&self, offset: u64) -> u64 {
        (offset + BATCH_HEADER_BYTES as u64 + u64::from(self.body_bytes))
            .next_multiple_of(ALIGNMENT)
    }
}

/// Encodes a header.
#[must_use]
pub fn encode_batch_header(header: &BatchHeader) -> [u8; BATCH_HEADER_BYTES] {
    let BatchHeader {
        kind,
        segment,
        sequence,
        known_flushed,
        structural,
        frames,
        body_bytes,
        body_checksum,
    } = header;
    let mut out = [0u8; BATCH_HEADER_BYTES];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        out[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&MAGIC.to_le_bytes());
    put(&[*kind as u8, 0, 0, 0]);
    put(&segment.to_le_bytes());
    put(&sequence.to_le_bytes());
    put(&known_flushed.to_le_bytes());
    put(&structural.to_le_bytes());
    put(&frames.to_le_bytes());
    put(&body_bytes.to_le_bytes());
    put(&body_checksum.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..CHECKSUM_AT]);
    out[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Decodes what [`encode_batch_header`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_batch_header(bytes: &[u8]) -> Result<BatchHeader, DecodeError> {
    let bytes = bytes.get(..BATCH_HEADER_BYTES).ok_or(DecodeError::Short)?;
    let mut reader = Reader::new(bytes);
    if reader.u32()? != MAGIC {
        return Err(DecodeError::Foreign("batch"));
    }
    let stored = Reader::new(&bytes[CHECKSUM_AT..]).u32()?;
    if crc32c::crc32c(&bytes[..CHECKSUM_AT]) != stored {
        return Err(DecodeError::Checksum("a batch's header"));
    }
    let kind =
        BatchKind::from_number(reader.byte()?).ok_or(DecodeError::Range("a batch's kind"))?;
    reader.take(3)?;
    let header = BatchHeader {
        kind,
        segment: reader.u64()?,
        sequence: reader.u64()?,
        known_flushed: reader.u64()?,
        structural: reader.u64()?,
        frames: reader.u32()?,
        body_bytes: reader.u32()?,
        body_checksum: reader.u32()?,
    };
    if header.body_bytes as usize > BODY_BYTES_MAX {
        return Err(DecodeError::Range("a batch's length"));
    }
    Ok(header)
}

/// Whether the bytes look as though a batch of this segment once began here: one of
/// its two names is still to be read.
#[must_use]
pub fn resembles_batch(bytes: &[u8], segment: u64) -> bool {
    let magic = bytes.get(..4) == Some(&MAGIC.to_le_bytes());
    let id = bytes.get(8..16) == Some(&segment.to_le_bytes());
    // The magic alone may be left from an earlier life of the file, in which case
    // another intact header says so.
    id || (magic && decode_batch_header(bytes).is_err())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_header_comes_back(header in generators::batch_header()) {
            prop_assert_eq!(decode_batch_header(&encode_batch_header(&header)), Ok(header));
        }

        #[test]
        fn a_flipped_bit_is_noticed_and_still_resembles(header in generators::batch_header(), bit in 0..BATCH_HEADER_BYTES * 8) {
            let mut bytes = encode_batch_header(&header);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_batch_header(&bytes).is_err());
            prop_assert!(resembles_batch(&bytes, header.segment));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_batch_header(&junk);
            let _ = resembles_batch(&junk, 7);
        }
    }
}
