//! Numbers, bytes and options, and a reader that trusts nothing that it reads.

/// Why bytes could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the encoding is cut short")]
    Short,
    /// Bytes are left over.
    #[error("the encoding has {0} bytes too many")]
    Trailing(usize),
    /// Made by a newer build.
    #[error("format {found} of {what} is newer than this build, which reads up to {known}")]
    Newer {
        /// Of what.
        what: &'static str,
        /// The number found.
        found: u32,
        /// The highest number known.
        known: u32,
    },
    /// Made by an older build, whose format this one no longer reads.
    #[error("format {found} of {what} is older than this build, which reads from {known} on")]
    Older {
        /// Of what.
        what: &'static str,
        /// The number found.
        found: u32,
        /// The lowest number known.
        known: u32,
    },
    /// Not what it should be at all.
    #[error("this is no {0}")]
    Foreign(&'static str),
    /// A checksum does not match.
    #[error("the checksum of {0} does not match")]
    Checksum(&'static str),
    /// A tag or a number outside of what the format has.
    #[error("a value of {0} is out of range")]
    Range(&'static str),
}

/// Whether a format's number is the one that this build reads.
pub(super) fn check_format(what: &'static str, found: u32, known: u32) -> Result<(), DecodeError> {
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(DecodeError::Newer { what, found, known }),
        std::cmp::Ordering::Less => Err(DecodeError::Older { what, found, known }),
    }
}

/// The most bytes that [`put_number`] writes.
const NUMBER_BYTES_MAX: u32 = 10;

/// Appends an unsigned number, 7 bits to a byte, least significant first.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the functions above wrote.
#[derive(Clone, Debug)]
pub(super) struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, left) = self
            .left
            .split_at_checked(length)
            .ok_or(DecodeError::Short)?;
        self.left = left;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, left) = self
            .left
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Short)?;
        self.left = left;
        Ok(*taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for at in 0..NUMBER_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if at == NUMBER_BYTES_MAX - 1 && bits > 1 {
                return Err(DecodeError::Range("a number"));
            }
            number |= bits << (7 * at);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Range("a number"))
    }

    /// A number that must fit a smaller type.
    pub(super) fn small<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.number()?).map_err(|_| DecodeError::Range(what))
    }

    pub(super) fn flag(&mut self, what: &'static str) -> Result<bool, DecodeError> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Range(what)),
        }
    }

    /// A count of things that take at least `least` bytes each, so that what is
    /// reserved for them is bounded by the input.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count: usize = self.small("a count")?;
        if count > self.left.len() / least {
            return Err(DecodeError::Short);
        }
        Ok(count)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length: usize = self.small("a length")?;
        self.take(length)
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.left)
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.left.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            let mut reader = Reader::new(&out);
            assert_eq!(reader.number(), Ok(number));
            assert_eq!(reader.end(), Ok(()));
        }
    }

    #[test]
    fn an_older_format_is_not_called_newer() {
        assert!(check_format("a thing", 2, 2).is_ok());
        let words = |found| check_format("a thing", found, 2).unwrap_err().to_string();
        assert_eq!(
            words(1),
            "format 1 of a thing is older than this build, which reads from 2 on"
        );
        assert_eq!(
            words(3),
            "format 3 of a thing is newer than this build, which reads up to 2"
        );
    }

    #[test]
    fn a_number_that_is_too_long_is_refused() {
        let mut reader = Reader::new(&[0xff; 11]);
        assert_eq!(reader.number(), Err(DecodeError::Range("a number")));
    }

    #[test]
    fn a_count_is_bounded_by_what_is_left() {
        let mut reader = Reader::new(&[0xff, 0xff, 0x03, 1, 2]);
        assert_eq!(reader.count(1), Err(DecodeError::Short));
    }
}
