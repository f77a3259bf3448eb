//! What the generator asks for: which operation, which key, which value.

use std::time::{Duration, Instant};

use crate::distribution::Chooser;

/// Counts down the phases of a measurement.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Operations that began before are warm-up and not counted.
    pub from: Instant,
    /// Nothing is begun after.
    pub until: Instant,
}

/// An operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `GET`.
    Read,
    /// `SET` of a key that is there.
    Update,
    /// `SET` of a new key.
    Insert,
    /// `GET`, then `SET` of the same key: one operation, timed as a whole.
    ReadModifyWrite,
    /// `INCR`.
    Increment,
}

impl Operation {
    /// Each of them.
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Update,
        Self::Insert,
        Self::ReadModifyWrite,
        Self::Increment,
    ];

    /// As the report names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Update => "update",
            Self::Insert => "insert",
            Self::ReadModifyWrite => "read-modify-write",
            Self::Increment => "increment",
        }
    }

    /// Whether it begins with a `GET`.
    pub fn reads(self) -> bool {
        matches!(self, Self::Read | Self::ReadModifyWrite)
    }
}

/// How often each operation comes, in parts of the sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Mix {
    /// `GET`s.
    pub get: u32,
    /// `SET`s of keys that are there.
    pub set: u32,
    /// `SET`s of new keys.
    pub insert: u32,
    /// `GET`s with a `SET` of the same key after each.
    pub rmw: u32,
    /// `INCR`s.
    pub incr: u32,
}

impl Mix {
    /// Nothing but `SET`s.
    pub const WRITES: Self = Self::of(0, 1, 0, 0);
    /// Nothing but `GET`s; YCSB's C.
    pub const READS: Self = Self::of(1, 0, 0, 0);
    /// YCSB's A.
    pub const YCSB_A: Self = Self::of(50, 50, 0, 0);
    /// YCSB's B.
    pub const YCSB_B: Self = Self::of(95, 5, 0, 0);
    /// YCSB's D.
    pub const YCSB_D: Self = Self::of(95, 0, 5, 0);
    /// YCSB's F.
    pub const YCSB_F: Self = Self::of(50, 0, 0, 50);

    const fn of(get: u32, set: u32, insert: u32, rmw: u32) -> Self {
        Self {
            get,
            set,
            insert,
            rmw,
            incr: 0,
        }
    }
}

impl std::str::FromStr for Mix {
    type Err = String;

    /// Reads `set=40,get=50,incr=10`.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut mix = Self::default();
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
                "get" => mix.get = share,
                "set" => mix.set = share,
                "insert" => mix.insert = share,
                "rmw" => mix.rmw = share,
                "incr" => mix.incr = share,
                other => return Err(format!("`{other}` is not get, set, insert, rmw or incr")),
            }
        }
        if mix.sum() == 0 {
            return Err("every share is 0".to_owned());
        }
        Ok(mix)
    }
}

impl Mix {
    fn shares(self) -> [u32; 5] {
        [self.get, self.set, self.insert, self.rmw, self.incr]
    }

    fn sum(self) -> u32 {
        self.shares().iter().sum()
    }

    /// Whether anything is read.
    pub fn reads(self) -> bool {
        self.get + self.rmw > 0
    }

    fn choose(self, random: u64) -> Operation {
        let mut at = (random % u64::from(self.sum())) as u32;
        for (share, operation) in self.shares().into_iter().zip(Operation::ALL) {
            match at.checked_sub(share) {
                None => return operation,
                Some(rest) => at = rest,
            }
        }
        Operation::Increment
    }
}

/// What one thread asks for.
#[derive(Clone, Debug)]
pub enum Plan {
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
        /// Which keys.
        keys: Chooser,
        /// How many operations are left to begin, if that ends it.
        left: Option<u64>,
    },
}

impl Plan {
    /// The next operation and its key's number.
    pub fn next(&mut self, random: &mut Random) -> Option<(Operation, u64)> {
        match self {
            Self::Preload { next, end } => {
                let number = *next;
                *next += 1;
                (number < *end).then_some((Operation::Update, number))
            }
            Self::Random { mix, keys, left } => {
                if let Some(left) = left {
                    *left = left.checked_sub(1)?;
                }
                let operation = mix.choose(random.bits() >> 16);
                let number = match operation {
                    Operation::Insert => keys.new_key(),
                    _ => keys.existing(random),
                };
                Some((operation, number))
            }
        }
    }

    /// An operation of this plan has ended, well or not.
    pub fn ended(&self, operation: Operation, number: u64) {
        if let (Self::Random { keys, .. }, Operation::Insert) = (self, operation) {
            keys.insert_ended(number);
        }
    }
}

/// When operations are due in an open loop: evenly, whether the ones before were answered
/// or not. What waits for a free connection has begun to wait when it was due, so that a
/// server that stands still is seen to delay all that came meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    start: Instant,
    interval: f64,
    begun: u64,
}

impl Pace {
    /// Part `at` of `parts` of so many operations a second.
    pub fn new(start: Instant, rate: f64, at: u64, parts: u64) -> Self {
        let interval = parts as f64 / rate;
        Self {
            start: start + Duration::from_secs_f64(interval * at as f64 / parts as f64),
            interval,
            begun: 0,
        }
    }

    /// When the next one is due.
    pub fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.interval * self.begun as f64)
    }

    /// Begins the next one; returns when it was due.
    pub fn take(&mut self) -> Instant {
        let due = self.due();
        self.begun += 1;
        due
    }

    /// How many were due before `until` and have not begun.
    pub fn behind(&self, until: Instant) -> u64 {
        let since = until.saturating_duration_since(self.start).as_secs_f64();
        ((since / self.interval).ceil() as u64).saturating_sub(self.begun)
    }
}

/// A small generator (xorshift64*), seeded: runs with the same seed ask for the
/// same keys.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Of this seed.
    pub fn new(seed: u64) -> Self {
        // A state of zero would stay zero.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// From 0 to below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// From 0 to below 1.
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// How long every key is.
pub const KEY_BYTES: usize = 16;

/// Writes the key of a number. Counters have keys of their own: a value is no number.
pub fn key(operation: Operation, number: u64) -> [u8; KEY_BYTES] {
    let mut key = *match operation {
        Operation::Increment => b"ctr:000000000000",
        _ => b"key:000000000000",
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
pub struct Values {
    pool: Vec<u8>,
    size: usize,
}

impl Values {
    /// Values of so many bytes.
    pub fn new(size: usize, random: &mut Random) -> Self {
        let pool = (0..size + (64 << 10))
            .map(|_| random.bits() as u8)
            .collect();
        Self { pool, size }
    }

    /// One of them.
    pub fn cut(&self, random: &mut Random) -> &[u8] {
        let at = random.below((self.pool.len() - self.size) as u64) as usize;
        &self.pool[at..at + self.size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::distribution::{Distribution, Inserted};

    #[test]
    fn an_open_loop_is_due_evenly_over_its_parts_however_late_they_are() {
        let start = Instant::now();
        let millis = |n| start + Duration::from_millis(n);
        let mut parts = [0, 1].map(|at| Pace::new(start, 1000.0, at, 2));
        let mut due: Vec<Instant> = (0..10).map(|n: usize| parts[n % 2].take()).collect();
        due.sort();
        for (at, due) in due.into_iter().enumerate() {
            let wanted = millis(at as u64);
            let off = due.max(wanted) - due.min(wanted);
            assert!(off < Duration::from_micros(1), "{at}: {off:?}");
        }
        // Five have begun of each; of the first, fifty were due before 100 ms.
        assert_eq!(parts[0].behind(millis(99)), 45);
        assert_eq!(parts[0].behind(millis(1)), 0);
    }

    #[test]
    fn a_mix_is_read_and_kept_to() {
        let mix: Mix = "set=25,get=50,rmw=15,incr=10".parse().expect("a mix");
        let mut random = Random::new(7);
        let mut counts = [0u32; 5];
        for _ in 0..40_000 {
            counts[mix.choose(random.bits() >> 16) as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([20_000u32, 10_000, 0, 6_000, 4_000]) {
            assert!(count.abs_diff(expected) < 600, "{counts:?}");
        }
        for wrong in ["", "set", "set=x", "scan=1", "set=0"] {
            assert!(wrong.parse::<Mix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn keys_have_their_length_and_reach_every_partition() {
        assert_eq!(&key(Operation::Update, 12_345), b"key:000000012345");
        assert_eq!(&key(Operation::Increment, 7), b"ctr:000000000007");
        let mut partitions = [0u32; 128];
        for number in 0..100_000 {
            let slot = cairn_core::slots::slot(&key(Operation::Read, number));
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
        assert_eq!(preload.next(&mut random), Some((Operation::Update, 3)));
        assert_eq!(preload.next(&mut random), Some((Operation::Update, 4)));
        assert_eq!(preload.next(&mut random), None);
        let mut some = Plan::Random {
            mix: Mix {
                set: 1,
                ..Mix::default()
            },
            keys: Chooser::new(Distribution::Uniform, Inserted::new(10)),
            left: Some(2),
        };
        assert!(some.next(&mut random).is_some());
        assert!(some.next(&mut random).is_some());
        assert!(some.next(&mut random).is_none());
    }
}
