//! The expiry index: which keys may have to go, and when.
//!
//! Beside its keys, a partition's state holds one row per value that expires, under
//! the second from which the key has to be looked at. The primary finds there what is
//! due without passing over anything else; replicas hold the same rows, for they
//! follow from the entries alone.
//!
//! # Invariants
//! - A live value that expires has its row, at the same applied index.
//! - A row may be stale: a blind write replaces a value without a look at what it
//!   replaces, and leaves its row behind. A row says where to look, no more.
//! - Rows leave by entries ([`super::EntryBody::unindexed`]), decided by the primary.
//!
//! Seconds rather than milliseconds bound what a key that is set blindly again and
//! again leaves behind: a row for each second of its time to live.

use bytes::{BufMut, Bytes, BytesMut};

use super::body::StoredValue;

/// The bytes of a row's second.
const SECOND_BYTES: usize = 8;

/// The second from which on a value that expires at `at_ms` has to be looked at: never
/// before it has expired, less than a second after.
#[must_use]
pub fn due_second(at_ms: u64) -> u64 {
    at_ms.div_ceil(1000)
}

/// A row of the expiry index. Rows order by when they are due.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ExpiryRow {
    /// When the key is to be looked at: seconds since the Unix epoch.
    pub second: u64,
    /// The key.
    pub key: Bytes,
}

impl ExpiryRow {
    /// The row of a value, where it expires.
    #[must_use]
    pub fn of(key: &Bytes, value: &StoredValue) -> Option<Self> {
        value.expires_at.map(|at| Self {
            second: due_second(at),
            key: key.clone(),
        })
    }

    /// The row's name in the store: names order as the rows do.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(SECOND_BYTES + self.key.len());
        out.put_u64(self.second);
        out.put_slice(&self.key);
        out.freeze()
    }

    /// Reads what [`Self::encode`] wrote; the key shares the buffer. `None` where it is
    /// too short.
    #[must_use]
    pub fn decode(row: &Bytes) -> Option<Self> {
        let second = row.first_chunk::<SECOND_BYTES>()?;
        Some(Self {
            second: u64::from_be_bytes(*second),
            key: row.slice(SECOND_BYTES..),
        })
    }
}

/// A key that may have expired, and how that was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DueKey {
    /// The key.
    pub key: Bytes,
    /// The second of the row that named it; `None` where a read met the value.
    pub row: Option<u64>,
}

impl From<ExpiryRow> for DueKey {
    fn from(ExpiryRow { second, key }: ExpiryRow) -> Self {
        Self {
            key,
            row: Some(second),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_come_back_and_order_by_when_they_are_due(
            a in (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)),
            b in (any::<u64>(), prop::collection::vec(any::<u8>(), 0..9)),
        ) {
            let row = |(second, key): (u64, Vec<u8>)| ExpiryRow { second, key: key.into() };
            let (a, b) = (row(a), row(b));
            prop_assert_eq!(ExpiryRow::decode(&a.encode()), Some(a.clone()));
            prop_assert_eq!(a.cmp(&b), a.encode().cmp(&b.encode()));
        }

        #[test]
        fn a_row_is_due_once_its_value_has_expired_and_within_a_second(at in any::<u64>()) {
            let due = u128::from(due_second(at)) * 1000;
            prop_assert!(due >= u128::from(at) && due < u128::from(at) + 1000);
        }
    }

    #[test]
    fn a_row_without_a_whole_second_is_none() {
        assert_eq!(ExpiryRow::decode(&Bytes::from_static(b"1234567")), None);
    }
}
