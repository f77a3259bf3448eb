//! Slots as Redis Cluster defines them: CRC16/XMODEM of the key, or of its
//! hash tag, modulo 16384 (Redis Cluster specification, "Key distribution model").

use crate::record::SlotRange;

/// How many slots there are.
pub const SLOTS: u16 = 16_384;

const TABLE: [u16; 256] = table();

const fn table() -> [u16; 256] {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                (crc << 1) ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, not reflected.
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &b| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ b)]
    })
}

/// The part of the key that is hashed: what stands between the first `{` and the
/// next `}` if that is not empty, else the whole key.
#[must_use]
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&b| b == b'{') else {
        return key;
    };
    let rest = &key[open + 1..];
    match rest.iter().position(|&b| b == b'}') {
        Some(close) if close > 0 => &rest[..close],
        _ => key,
    }
}

/// The slot of a key.
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(hash_tag(key)) % SLOTS
}

/// The one slot of all keys that begin with `prefix`, where there is one: its hash tag
/// is in the prefix.
#[must_use]
pub fn slot_of_prefix(prefix: &[u8]) -> Option<u16> {
    (hash_tag(prefix).len() < prefix.len()).then(|| slot(prefix))
}

/// The slots of partition `id` of `partitions`: ranges of equal length, to one.
///
/// # Panics
/// Where `partitions` is 0 or above [`SLOTS`], or `id` is not below it.
#[must_use]
pub fn range_of_partition(id: u32, partitions: u32) -> SlotRange {
    assert!(partitions > 0 && partitions <= u32::from(SLOTS) && id < partitions);
    let at = |n: u32| (u64::from(n) * u64::from(SLOTS) / u64::from(partitions)) as u32;
    SlotRange {
        first: at(id) as u16,
        last: (at(id + 1) - 1) as u16,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_and_slots_agree_with_redis() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(hash_tag(b"foo{}{bar}"), b"foo{}{bar}");
        assert_eq!(hash_tag(b"foo{{bar}}zap"), b"{bar");
        assert_eq!(hash_tag(b"foo{bar}{zap}"), b"bar");
    }

    #[test]
    fn a_prefix_with_a_hash_tag_has_one_slot() {
        for prefix in ["", "a", "{a", "{}a", "a}", "{}{a}"] {
            assert_eq!(slot_of_prefix(prefix.as_bytes()), None, "{prefix}");
        }
        for prefix in ["{a}", "x{a}y", "{a}{b"] {
            let slot_of_all = slot_of_prefix(prefix.as_bytes());
            for rest in ["", "}", "{c}", "zz"] {
                let key = format!("{prefix}{rest}");
                assert_eq!(slot_of_all, Some(slot(key.as_bytes())), "{key}");
            }
        }
    }

    #[test]
    fn ranges_cover_every_slot_once() {
        for partitions in [1, 3, 7, 128, 1000, 16_384] {
            let mut next = 0u32;
            for id in 0..partitions {
                let range = range_of_partition(id, partitions);
                assert_eq!(u32::from(range.first), next);
                next = u32::from(range.last) + 1;
            }
            assert_eq!(next, u32::from(SLOTS));
        }
    }
}
