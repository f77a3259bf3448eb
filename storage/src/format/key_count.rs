//! How many keys a state holds, as a value of the store.
//!
//! The count says at which mark it was taken. A build that knows nothing of counts
//! moves the applied mark and leaves the count behind: one that does not match the
//! applied mark counts for nothing.

use cairn_core::ids::Mark;

use super::mark::{put_mark, read_mark};
use super::primitives::{DecodeError, Reader, check_format, put_number};

const FORMAT: u8 = 1;

/// A number of keys, and the mark of the state that holds so many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyCount {
    /// The last entry that the state holds.
    pub at: Mark,
    /// The clients' keys in it, those past their expiry that are not removed yet
    /// included.
    pub keys: u64,
}

/// Encodes a count.
#[must_use]
pub fn encode_key_count(count: KeyCount) -> Vec<u8> {
    let KeyCount { at, keys } = count;
    let mut out = vec![FORMAT];
    put_mark(&mut out, at);
    put_number(&mut out, keys);
    out
}

/// Decodes what [`encode_key_count`] made.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode_key_count(bytes: &[u8]) -> Result<KeyCount, DecodeError> {
    let mut reader = Reader::new(bytes);
    check_format(
        "a count of keys",
        u32::from(reader.byte()?),
        u32::from(FORMAT),
    )?;
    let count = KeyCount {
        at: read_mark(&mut reader)?,
        keys: reader.number()?,
    };
    reader.end()?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::generators;
    use super::*;

    proptest! {
        #[test]
        fn a_count_comes_back(at in generators::mark(), keys in any::<u64>()) {
            let count = KeyCount { at, keys };
            prop_assert_eq!(decode_key_count(&encode_key_count(count)), Ok(count));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(junk in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = decode_key_count(&junk);
        }
    }
}
