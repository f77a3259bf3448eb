//! Whose a store is: one row that stands before every other (rule 18).

use super::primitives::{DecodeError, Reader, put_bytes};
use super::segment_header::{CLUSTER_BYTES_MAX, LogIdentity};

/// The format of what this build keeps in the store: keys, values, and their meaning.
pub const FORMAT: u32 = 1;
/// What a store may hold that a build without it must not open. None yet: the bits
/// are there so that the first one is refused by the builds before it.
pub const FEATURES: u64 = 0;
const MAGIC: [u8; 8] = *b"CAIRNSTA";
const CHECKSUM_BYTES: usize = 4;

/// Encodes the stamp of a store that this build writes.
///
/// # Panics
/// Where the cluster's id is longer than [`CLUSTER_BYTES_MAX`]; whoever sets it
/// checks that.
#[must_use]
pub fn encode_stamp(identity: &LogIdentity) -> Vec<u8> {
    let LogIdentity {
        cluster,
        node,
        incarnation,
    } = identity;
    assert!(cluster.len() <= CLUSTER_BYTES_MAX, "a cluster id too long");
    let mut out = Vec::with_capacity(MAGIC.len() + 49 + cluster.len());
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&FEATURES.to_le_bytes());
    out.extend_from_slice(&node.to_le_bytes());
    out.extend_from_slice(&incarnation.to_le_bytes());
    put_bytes(&mut out, cluster.as_bytes());
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// Decodes what [`encode_stamp`] made.
///
/// # Errors
/// See [`DecodeError`]. A newer format is told apart from damage by magic, number and
/// checksum, whose places no format changes.
pub fn decode_stamp(bytes: &[u8]) -> Result<LogIdentity, DecodeError> {
    let body = bytes
        .len()
        .checked_sub(CHECKSUM_BYTES)
        .ok_or(DecodeError::Short)?;
    let mut reader = Reader::new(&bytes[..body]);
    if reader.array::<8>()? != MAGIC {
        return Err(DecodeError::Foreign("stamp of a store"));
    }
    if crc32c::crc32c(&bytes[..body]) != Reader::new(&bytes[body..]).u32()? {
        return Err(DecodeError::Checksum("a store's stamp"));
    }
    let format = reader.u32()?;
    if format > FORMAT {
        return Err(DecodeError::Newer {
            what: "the store",
            found: format,
            known: FORMAT,
        });
    }
    if format == 0 {
        return Err(DecodeError::Range("the store's format"));
    }
    let unknown = reader.u64()? & !FEATURES;
    if unknown != 0 {
        return Err(DecodeError::Newer {
            what: "the store's features",
            found: unknown.trailing_zeros() + 1,
            known: FEATURES.count_ones(),
        });
    }
    let node = reader.u128()?;
    let incarnation = reader.u128()?;
    let cluster = reader.bytes()?;
    if cluster.len() > CLUSTER_BYTES_MAX {
        return Err(DecodeError::Range("a cluster id's length"));
    }
    let cluster = std::str::from_utf8(cluster)
        .map_err(|_| DecodeError::Range("a cluster id"))?
        .to_owned();
    reader.end()?;
    Ok(LogIdentity {
        cluster,
        node,
        incarnation,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn identity() -> impl Strategy<Value = LogIdentity> {
        ("[a-z0-9-]{0,64}", any::<u128>(), any::<u128>()).prop_map(
            |(cluster, node, incarnation)| LogIdentity {
                cluster,
                node,
                incarnation,
            },
        )
    }

    fn with_number(at: usize, number: u8) -> Vec<u8> {
        let mut bytes = encode_stamp(&LogIdentity::default());
        bytes[at] = number;
        let body = bytes.len() - CHECKSUM_BYTES;
        let checksum = crc32c::crc32c(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn a_stamp_comes_back(identity in identity()) {
            prop_assert_eq!(decode_stamp(&encode_stamp(&identity)), Ok(identity));
        }

        #[test]
        fn a_flipped_bit_is_noticed(identity in identity(), bit in any::<prop::sample::Index>()) {
            let mut bytes = encode_stamp(&identity);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(decode_stamp(&bytes).is_err());
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_stamp(&junk);
        }
    }

    #[test]
    fn a_newer_format_and_an_unknown_feature_are_refused_as_such() {
        let error = decode_stamp(&with_number(8, 9)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "format 9 of the store is newer than this build, which reads up to 1"
        );
        let error = decode_stamp(&with_number(12, 4)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "format 3 of the store's features is newer than this build, which reads up to 0"
        );
    }
}
