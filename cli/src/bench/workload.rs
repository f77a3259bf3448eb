//! What the generator asks for: which operation, which key, which value.

use std::time::Instant;

/// Counts down the phases of a measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Operations that began before are warm-up and not counted.
    pub(super) from: Instant,
    /// Nothing is begun after.
    pub(super) until: Instant,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// `SET`.
    Set,
    /// `GET`.
    Get,
    /// `INCR`.
    Incr,
}

/// How often each operation comes, in parts of the sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Mix {
    pub(super) set: u32,
    pub(super) get: u32,
    pub(super) incr: u32,
}

impl std::str::FromStr for Mix {
    type Err = String;

    /// Reads `set=40,get=50,incr=10`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self {
            set: 0,
            get: 0,
            incr: 0,
        };
        for part in text.split(',') {
            let (name, share) = part
                .split_once('=')
                .ok_or_else(|| format!("`{part}` is not operation=share"))?;
            let share: u32 = share
                .parse()
                .ok()
                .filter(|share| *share <= 1_000_000)
                .ok_or_else(|| format!("`{share}` is not a share from 0 to 1000000"))?;
            match name.trim() {
                "set" => mix.set = share,
                "get" => mix.get = share,
                "incr" => mix.incr = share,
                other => return Err(format!("`{other}` is not set, get or incr")),
            }
        }
        if mix.sum() == 0 {
            return Err("every share is 0".to_owned());
        }
        Ok(mix)
    }
}

impl Mix {
    fn sum(self) -> u32 {
        self.set + self.get + self.incr
    }

    fn choose(self, random: u64) -> Operation {
        let at = (random % u64::from(self.sum())) as u32;
        if at < self.set {
            Operation::Set
        } else if at < self.set + self.get {
            Operation::Get
        } else {
            Operation::Incr
        }
    }
}

/// What one thread asks for.
#[derive(Clone, Debug)]
pub(super) enum Plan {
    /// Every key from the first number to before the second, once, set.
    Preload {
        /// The next one.
        next: u64,
        /// Where it ends.
        end: u64,
    },
    /// Keys at random.
    Random {
        /// Which operations.
        mix: Mix,
        /// How many keys there are.
        keys: u64,
        /// How many operations are left to begin, if that ends it.
        left: Option<u64>,
    },
}

impl Plan {
    /// The next operation and its key's number.
    pub(super) fn next(&mut self, random: &mut Random) -> Option<(Operation, u64)> {
        match self {
            Self::Preload { next, end } => {
                let number = *next;
                *next += 1;
                (number < *end).then_some((Operation::Set, number))
            }
            Self::Random { mix, keys, left } => {
                if let Some(left) = left {
                    *left = left.checked_sub(1)?;
                }
                Some((mix.choose(random.next() >> 16), random.below(*keys)))
            }
        }
    }
}

/// A small generator (xorshift64*), seeded: runs with the same seed ask for the
/// same keys.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        // A state of zero would stay zero.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// How long every key is.
pub(super) const KEY_BYTES: usize = 16;

/// Writes the key of a number. Counters have keys of their own: a value is no number.
pub(super) fn key(operation: Operation, number: u64) -> [u8; KEY_BYTES] {
    let mut key = *match operation {
        Operation::Set | Operation::Get => b"key:000000000000",
        Operation::Incr => b"ctr:000000000000",
    };
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Bytes that do not compress, from which values are cut.
#[derive(Clone, Debug)]
pub(super) struct Values {
    pool: Vec<u8>,
    size: usize,
}

impl Values {
    pub(super) fn new(size: usize, random: &mut Random) -> Self {
        let pool = (0..size + (64 << 10))
            .map(|_| random.next() as u8)
            .collect();
        Self { pool, size }
    }

    pub(super) fn cut(&self, random: &mut Random) -> &[u8] {
        let at = random.below((self.pool.len() - self.size) as u64) as usize;
        &self.pool[at..at + self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_read_and_kept_to() {
        let mix: Mix = "set=25,get=50,incr=25".parse().expect("a mix");
        let mut random = Random::new(7);
        let mut counts = [0u32; 3];
        for _ in 0..40_000 {
            counts[mix.choose(random.next() >> 16) as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([10_000u32, 20_000, 10_000]) {
            assert!(count.abs_diff(expected) < 600, "{counts:?}");
        }
        for wrong in ["", "set", "set=x", "scan=1", "set=0"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_have_their_length_and_reach_every_partition() {
        assert_eq!(&key(Operation::Set, 12_345), b"key:000000012345");
        assert_eq!(&key(Operation::Incr, 7), b"ctr:000000000007");
        let mut partitions = [0u32; 128];
        for number in 0..100_000 {
            let slot = cairn_core::slots::slot(&key(Operation::Get, number));
            partitions[usize::from(slot) / 128] += 1;
        }
        let (least, most) = (partitions.iter().min(), partitions.iter().max());
        assert!(
            least >= Some(&600) && most <= Some(&960),
            "{least:?} {most:?}"
        );
    }

    #[test]
    fn a_plan_ends() {
        let mut random = Random::new(1);
        let mut preload = Plan::Preload { next: 3, end: 5 };
        assert_eq!(preload.next(&mut random), Some((Operation::Set, 3)));
        assert_eq!(preload.next(&mut random), Some((Operation::Set, 4)));
        assert_eq!(preload.next(&mut random), None);
        let mut some = Plan::Random {
            mix: Mix {
                set: 1,
                get: 0,
                incr: 0,
            },
            keys: 10,
            left: Some(2),
        };
        assert!(some.next(&mut random).is_some());
        assert!(some.next(&mut random).is_some());
        assert!(some.next(&mut random).is_none());
    }
}
