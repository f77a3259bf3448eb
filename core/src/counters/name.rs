//! How stripes are named.
//!
//! A stripe is a key that begins with [`RESERVED`], which no client may use, and then has a
//! hash tag that puts it into the slot that [`slot_of`] says. The slots of a counter's stripes
//! are spread evenly over all slots, beginning at the counter's own, so that they lie on
//! different partitions as far as there are as many.

use std::sync::OnceLock;

use bytes::{BufMut, Bytes, BytesMut};

use crate::slots::{self, SLOTS};

/// What the keys begin with that Cairn keeps for itself.
pub const RESERVED: &[u8] = b"\xffcairn\xff";
/// The longest key that can be a striped counter.
pub const COUNTER_KEY_BYTES_MAX: usize = 4096;

/// Letters of a hash tag: enough for three of them to reach every slot.
const LETTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// How long a hash tag is.
const TAG_BYTES: usize = 4;

/// Whether a key is one of those that Cairn keeps for itself.
#[must_use]
pub fn is_reserved(key: &[u8]) -> bool {
    key.starts_with(RESERVED)
}

/// What people are told of a key: of a stripe, the counter's.
#[must_use]
pub fn told_as(key: &[u8]) -> &[u8] {
    let begin = RESERVED.len() + TAG_BYTES + 2 + 10;
    if is_reserved(key) && key.len() > begin {
        &key[begin..]
    } else {
        key
    }
}

/// A stripe of a counter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StripeName {
    /// The counter's key.
    pub counter: Bytes,
    /// Of which edition.
    pub edition: u64,
    /// Which one, from 0 on.
    pub stripe: u16,
}

impl StripeName {
    /// The key of the stripe, of so many.
    #[must_use]
    pub fn key(&self, stripes: u16) -> Bytes {
        let tag = tag(slot_of(&self.counter, self.stripe, stripes));
        let mut key = BytesMut::with_capacity(RESERVED.len() + TAG_BYTES + 12 + self.counter.len());
        key.put_slice(RESERVED);
        key.put_u8(b'{');
        key.put_slice(&tag);
        key.put_u8(b'}');
        key.put_u64(self.edition);
        key.put_u16(self.stripe);
        key.put_slice(&self.counter);
        key.freeze()
    }

    /// The stripe that a key names, if it names one.
    #[must_use]
    pub fn parse(key: &Bytes) -> Option<Self> {
        let begin = RESERVED.len() + TAG_BYTES + 2;
        let tagged = key.strip_prefix(RESERVED)?;
        if tagged.first() != Some(&b'{') || tagged.get(TAG_BYTES + 1) != Some(&b'}') {
            return None;
        }
        let edition = key.get(begin..begin + 8)?.try_into().ok()?;
        let stripe = key.get(begin + 8..begin + 10)?.try_into().ok()?;
        Some(Self {
            counter: key.slice(begin + 10..),
            edition: u64::from_be_bytes(edition),
            stripe: u16::from_be_bytes(stripe),
        })
    }
}

/// The slot of a stripe, of so many; at least one.
#[must_use]
pub fn slot_of(counter: &[u8], stripe: u16, stripes: u16) -> u16 {
    let step = u32::from(stripe) * u32::from(SLOTS) / u32::from(stripes.max(1));
    ((u32::from(slots::slot(counter)) + step) % u32::from(SLOTS)) as u16
}

/// A hash tag of the slot: the first one in alphabetical order.
fn tag(slot: u16) -> [u8; TAG_BYTES] {
    static TAGS: OnceLock<Vec<[u8; TAG_BYTES]>> = OnceLock::new();
    let tags = TAGS.get_or_init(|| {
        let mut tags = vec![[0; TAG_BYTES]; usize::from(SLOTS)];
        let mut missing = usize::from(SLOTS);
        for number in 0u32.. {
            if missing == 0 {
                break;
            }
            let mut tag = [0; TAG_BYTES];
            let mut rest = number as usize;
            for letter in tag.iter_mut().rev() {
                *letter = LETTERS[rest % LETTERS.len()];
                rest /= LETTERS.len();
            }
            let tag_slot = usize::from(slots::crc16(&tag) % SLOTS);
            if tags[tag_slot][0] == 0 {
                tags[tag_slot] = tag;
                missing -= 1;
            }
        }
        tags
    });
    tags[usize::from(slot)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_tag_that_lies_in_it() {
        for slot in 0..SLOTS {
            assert_eq!(slots::crc16(&tag(slot)) % SLOTS, slot);
        }
    }

    #[test]
    fn a_stripe_lies_in_its_slot_and_names_come_back() {
        for counter in ["views", "{a}b", "x{y", "", "}{"] {
            for stripes in [1, 3, 16, 64] {
                for stripe in 0..stripes {
                    let name = StripeName {
                        counter: Bytes::from(counter),
                        edition: 0x7b7d_7b7d_0001_00ff,
                        stripe,
                    };
                    let key = name.key(stripes);
                    assert!(is_reserved(&key));
                    if !counter.is_empty() {
                        assert_eq!(told_as(&key), counter.as_bytes());
                    }
                    assert_eq!(
                        slots::slot(&key),
                        slot_of(counter.as_bytes(), stripe, stripes)
                    );
                    assert_eq!(StripeName::parse(&key), Some(name));
                }
            }
        }
    }

    #[test]
    fn stripes_are_spread_over_partitions() {
        let partitions = 64;
        let mut met = std::collections::BTreeSet::new();
        for stripe in 0..16 {
            let slot = slot_of(b"views", stripe, 16);
            met.insert(u32::from(slot) * partitions / u32::from(SLOTS));
        }
        assert_eq!(met.len(), 16);
    }

    #[test]
    fn other_keys_are_no_stripes() {
        let short = [RESERVED, b"{abcd}1234567"].concat();
        let untagged = [RESERVED, b"abcdef1234567890"].concat();
        for key in [
            b"".to_vec(),
            b"views".to_vec(),
            RESERVED.to_vec(),
            short,
            untagged,
        ] {
            assert_eq!(StripeName::parse(&Bytes::from(key)), None);
        }
    }
}
