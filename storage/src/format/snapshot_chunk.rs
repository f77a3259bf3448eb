//! A piece of a snapshot on its way from one node's store to another's.
//!
//! Keys stand without their generation, which is the receiver's to choose.

use bytes::Bytes;

use super::primitives::{DecodeError, Reader, check_format, put_bytes, put_number};

/// The format of a chunk.
const FORMAT: u8 = 1;
/// The checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// A run of keys and values, ascending.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SnapshotChunk {
    /// Counts the chunks of a snapshot from 0.
    pub number: u64,
    /// Keys without their generation, and their values.
    pub rows: Vec<(Bytes, Bytes)>,
    /// Whether no more follow.
    pub last: bool,
}

/// Encodes a chunk, with its checksum.
#[must_use]
pub fn encode_chunk(chunk: &SnapshotChunk) -> Bytes {
    let SnapshotChunk { number, rows, last } = chunk;
    let size: usize = rows.iter().map(|(k, v)| k.len() + v.len() + 8).sum();
    let mut out = Vec::with_capacity(size + 32);
    out.push(FORMAT);
    put_number(&mut out, *number);
    out.push(u8::from(*last));
    put_number(&mut out, rows.len() as u64);
    for (key, value) in rows {
        put_bytes(&mut out, key);
        put_bytes(&mut out, value);
    }
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    Bytes::from(out)
}

/// Decodes what [`encode_chunk`] made; keys and values share the buffer.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_chunk(bytes: &Bytes) -> Result<SnapshotChunk, DecodeError> {
    let body = bytes
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .ok_or(DecodeError::Short)?;
    let stored = Reader::new(&bytes[body..]).u32()?;
    if crc32c::crc32c(&bytes[..body]) != stored {
        return Err(DecodeError::Checksum("a snapshot's chunk"));
    }
    let mut reader = Reader::new(&bytes[..body]);
    check_format(
        "a snapshot's chunk",
        u32::from(reader.byte()?),
        u32::from(FORMAT),
    )?;
    let number = reader.number()?;
    let last = reader.flag("a chunk's end")?;
    let count = reader.count(2)?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let key = bytes.slice_ref(reader.bytes()?);
        let value = bytes.slice_ref(reader.bytes()?);
        rows.push((key, value));
    }
    reader.end()?;
    Ok(SnapshotChunk { number, rows, last })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_chunk_comes_back(chunk in generators::snapshot_chunk()) {
            prop_assert_eq!(decode_chunk(&encode_chunk(&chunk)), Ok(chunk));
        }

        #[test]
        fn a_flipped_bit_is_noticed(chunk in generators::snapshot_chunk(), bit in any::<prop::sample::Index>()) {
            let mut bytes = encode_chunk(&chunk).to_vec();
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_chunk(&Bytes::from(bytes)).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut sealed = junk.clone();
            sealed.extend_from_slice(&crc32c::crc32c(&junk).to_le_bytes());
            let _ = decode_chunk(&Bytes::from(sealed));
            let _ = decode_chunk(&Bytes::from(junk));
        }
    }
}
