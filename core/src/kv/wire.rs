//! The primitives of this module's encodings: LEB128 numbers, length-prefixed
//! bytes, and a reader that borrows from the buffer it decodes.
//!
//! Nothing that is read is trusted: a length is checked against what is left
//! before anything is made of it, so that no input makes the reader allocate more
//! than its own size.

use bytes::{BufMut, Bytes, BytesMut};

use crate::ids::{Epoch, Index, Position};

/// Why bytes could not be decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the encoding is cut short")]
    Short,
    /// Bytes are left over.
    #[error("the encoding has {0} bytes too many")]
    Trailing(usize),
    /// A format that this build does not know.
    #[error("unknown format {0}")]
    Format(u8),
    /// A tag that the format does not have.
    #[error("unknown tag {0}")]
    Tag(u8),
    /// A number that does not fit, or is not in its shortest form.
    #[error("a malformed number")]
    Number,
    /// The content is not what the format is for.
    #[error("the encoding has another format than its content")]
    Disagrees,
}

/// The most bytes that [`put_number`] writes.
const NUMBER_BYTES_MAX: usize = 10;

/// Appends an unsigned number, 7 bits to a byte, least significant first.
pub(super) fn put_number(out: &mut BytesMut, mut number: u64) {
    let mut buffer = [0u8; NUMBER_BYTES_MAX];
    let mut length = 0;
    while number >= 0x80 {
        buffer[length] = (number as u8) | 0x80;
        number >>= 7;
        length += 1;
    }
    buffer[length] = number as u8;
    out.put_slice(&buffer[..=length]);
}

/// How many bytes [`put_number`] writes.
pub(super) fn number_bytes(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

/// Appends bytes behind their length.
pub(super) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Appends a position.
pub(super) fn put_position(out: &mut BytesMut, position: Position) {
    put_number(out, position.epoch.0);
    put_number(out, position.index.0);
}

/// Reads what [`put_position`] wrote.
pub(super) fn read_position(reader: &mut Reader) -> Result<Position, DecodeError> {
    Ok(Position {
        epoch: Epoch(reader.number()?),
        index: Index(reader.number()?),
    })
}

/// Maps small numbers of either sign to small unsigned ones.
pub(super) fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

/// The reverse of [`zigzag`].
pub(super) fn unzigzag(number: u64) -> i64 {
    ((number >> 1) as i64) ^ -((number & 1) as i64)
}

/// Reads what the functions above wrote. Bytes that it returns share the buffer.
#[derive(Debug)]
pub(super) struct Reader {
    buffer: Bytes,
    at: usize,
}

impl Reader {
    pub(super) fn new(buffer: Bytes) -> Self {
        Self { buffer, at: 0 }
    }

    pub(super) fn left(&self) -> usize {
        self.buffer.len() - self.at
    }

    pub(super) fn byte(&mut self) -> Result<u8, DecodeError> {
        let byte = *self.buffer.get(self.at).ok_or(DecodeError::Short)?;
        self.at += 1;
        Ok(byte)
    }

    pub(super) fn number(&mut self) -> Result<u64, DecodeError> {
        let mut number = 0u64;
        for shift in (0..).step_by(7).take(NUMBER_BYTES_MAX) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(DecodeError::Number);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                // One number has one encoding, so that equal bodies are equal bytes.
                return if byte == 0 && shift > 0 {
                    Err(DecodeError::Number)
                } else {
                    Ok(number)
                };
            }
        }
        Err(DecodeError::Number)
    }

    /// A count of things that take at least `least` bytes each.
    pub(super) fn count(&mut self, least: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number()?).map_err(|_| DecodeError::Number)?;
        if count > self.left() / least {
            return Err(DecodeError::Short);
        }
        Ok(count)
    }

    pub(super) fn take(&mut self, length: usize) -> Result<Bytes, DecodeError> {
        if length > self.left() {
            return Err(DecodeError::Short);
        }
        let bytes = self.buffer.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let slice = self
            .buffer
            .get(self.at..self.at + N)
            .ok_or(DecodeError::Short)?;
        let mut array = [0u8; N];
        array.copy_from_slice(slice);
        self.at += N;
        Ok(array)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = usize::try_from(self.number()?).map_err(|_| DecodeError::Number)?;
        self.take(length)
    }

    pub(super) fn rest(&mut self) -> Bytes {
        let bytes = self.buffer.slice(self.at..);
        self.at = self.buffer.len();
        bytes
    }

    pub(super) fn end(&self) -> Result<(), DecodeError> {
        match self.left() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_the_length_foretold() {
        for number in [0, 1, 127, 128, 300, 1 << 35, u64::MAX - 1, u64::MAX] {
            let mut out = BytesMut::new();
            put_number(&mut out, number);
            assert_eq!(out.len(), number_bytes(number), "{number}");
            let mut reader = Reader::new(out.freeze());
            assert_eq!(reader.number(), Ok(number));
            assert_eq!(reader.end(), Ok(()));
        }
        for number in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
    }

    #[test]
    fn a_number_has_one_encoding_and_fits() {
        let read = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes)).number();
        assert_eq!(read(&[0x80, 0x00]), Err(DecodeError::Number));
        assert_eq!(read(&[0x80]), Err(DecodeError::Short));
        assert_eq!(
            read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Err(DecodeError::Number)
        );
    }

    #[test]
    fn a_count_is_bounded_by_what_is_left() {
        let mut reader = Reader::new(Bytes::from_static(&[0xff, 0xff, 0x03, 1, 2]));
        assert_eq!(reader.count(1), Err(DecodeError::Short));
    }
}
