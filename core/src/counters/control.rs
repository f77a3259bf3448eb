//! What the key of a striped counter holds, and what its stripes hold.

use bytes::{BufMut, Bytes, BytesMut};

use crate::kv::DecodeError;
use crate::kv::integer;

/// The format of [`Control`].
const FORMAT: u8 = 1;
/// What the value of a sealed stripe begins with: so that it is no integer.
const SEAL: u8 = b'=';

/// An edition of a striped counter, as its key holds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// Drawn when it began.
    pub edition: u64,
    /// Over how many stripes; at least one.
    pub stripes: u16,
    /// What the counter was when the edition began.
    pub base: i64,
    /// What it was when it was last added up.
    pub total: i64,
    /// When that was: milliseconds since the Unix epoch, by the clock of the node that did.
    pub counted_at_ms: u64,
}

impl Control {
    /// Encodes it, as the data of a value of kind [`crate::kv::body::KIND_COUNTER`].
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(35);
        out.put_u8(FORMAT);
        out.put_u64(self.edition);
        out.put_u16(self.stripes);
        out.put_i64(self.base);
        out.put_i64(self.total);
        out.put_u64(self.counted_at_ms);
        out.freeze()
    }

    /// Decodes it.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(data: &[u8]) -> Result<Self, DecodeError> {
        let (format, rest) = data.split_first().ok_or(DecodeError::Short)?;
        if *format != FORMAT {
            return Err(DecodeError::Format(*format));
        }
        let rest: &[u8; 34] = match rest.len() {
            34 => rest.try_into().map_err(|_| DecodeError::Short)?,
            0..34 => return Err(DecodeError::Short),
            more => return Err(DecodeError::Trailing(more - 34)),
        };
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&rest[at..at + 8]);
            u64::from_be_bytes(bytes)
        };
        let control = Self {
            edition: number(0),
            stripes: u16::from_be_bytes([rest[8], rest[9]]),
            base: number(10) as i64,
            total: number(18) as i64,
            counted_at_ms: number(26),
        };
        if control.stripes == 0 {
            return Err(DecodeError::Number);
        }
        Ok(control)
    }
}

/// What a stripe holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StripeValue {
    /// Its sum.
    pub sum: i64,
    /// Whether its edition has ended, or is about to.
    pub is_sealed: bool,
}

impl StripeValue {
    /// From the data of its value.
    #[must_use]
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (sum, is_sealed) = match data.split_first() {
            Some((&SEAL, sum)) => (sum, true),
            _ => (data, false),
        };
        integer::parse(sum).map(|sum| Self { sum, is_sealed })
    }

    /// The data of its value.
    #[must_use]
    pub fn spell(&self) -> Bytes {
        let sum = integer::spell(self.sum);
        if self.is_sealed {
            let mut out = BytesMut::with_capacity(1 + sum.len());
            out.put_u8(SEAL);
            out.put_slice(&sum);
            out.freeze()
        } else {
            sum
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn editions_come_back(
            edition: u64, stripes in 1u16.., base: i64, total: i64, counted_at_ms: u64,
        ) {
            let control = Control { edition, stripes, base, total, counted_at_ms };
            prop_assert_eq!(Control::decode(&control.encode()), Ok(control));
        }

        #[test]
        fn what_a_stripe_holds_comes_back(sum: i64, is_sealed: bool) {
            let value = StripeValue { sum, is_sealed };
            prop_assert_eq!(StripeValue::parse(&value.spell()), Some(value));
            prop_assert_eq!(integer::parse(&value.spell()).is_none(), is_sealed);
        }

        #[test]
        fn nothing_that_is_read_is_trusted(data: Vec<u8>) {
            let _ = Control::decode(&data);
            let _ = StripeValue::parse(&data);
        }
    }
}
