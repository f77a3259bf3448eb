//! Which keys are asked for how often: uniform, Zipfian, or the latest most.
//!
//! The Zipfian generator is that of Gray and others ("Quickly generating billion-record
//! synthetic databases", 1994), as YCSB has it, with YCSB's constant of 0.99. Scrambled, its
//! popular keys lie all over the key space; unscrambled and counted back from the newest
//! key it is YCSB's "latest".

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::operation::Random;

/// YCSB's exponent.
pub const THETA: f64 = 0.99;
/// YCSB draws scrambled keys from so many, whatever the number of keys, so that the shape
/// does not depend on it.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;
/// So many terms of a zeta sum are added up, the rest is its integral.
const TERMS: u64 = 10_000;

/// Which keys are asked for how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Distribution {
    /// All equally
    Uniform,
    /// Few often and most seldom, spread over all keys (YCSB's scrambled Zipfian, 0.99)
    Zipfian,
    /// The newest most (YCSB's latest)
    Latest,
}

/// Which keys are asked for how often, with its numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Skew {
    /// All equally.
    Uniform,
    /// Scrambled Zipfian of this exponent: above 0, and not 1.
    Zipfian(f64),
    /// YCSB's latest.
    Latest,
    /// One key takes this share of all, from 0 to 1; the others share the rest equally.
    OneKey(f64),
}

impl From<Distribution> for Skew {
    fn from(distribution: Distribution) -> Self {
        match distribution {
            Distribution::Uniform => Self::Uniform,
            Distribution::Zipfian => Self::Zipfian(THETA),
            Distribution::Latest => Self::Latest,
        }
    }
}

/// The sum of 1/k^theta for k from 1 to `items`.
fn zeta(items: u64, theta: f64) -> f64 {
    let exact = items.min(TERMS);
    let sum: f64 = (1..=exact).map(|k| (k as f64).powf(-theta)).sum();
    if items <= TERMS {
        return sum;
    }
    let (from, to) = (exact as f64, items as f64);
    // Euler and Maclaurin, to the second term: far closer than a random draw can tell.
    sum + (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta)
        + (to.powf(-theta) - from.powf(-theta)) / 2.0
}

/// Draws ranks from 0, the most frequent one.
#[derive(Clone, Copy, Debug)]
struct Zipfian {
    items: u64,
    theta: f64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    fn new(items: u64, theta: f64) -> Self {
        let items = items.max(1);
        let zeta_n = zeta(items, theta);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - theta)) / (1.0 - zeta(2, theta) / zeta_n);
        Self {
            items,
            theta,
            zeta: zeta_n,
            eta,
        }
    }

    fn draw(&self, random: &mut Random) -> u64 {
        let u = random.fraction();
        let uz = u * self.zeta;
        if uz < 1.0 {
            return 0;
        }
        if uz < 1.0 + 0.5f64.powf(self.theta) {
            return 1.min(self.items - 1);
        }
        let rank =
            self.items as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - self.theta));
        (rank as u64).min(self.items - 1)
    }
}

/// FNV-1a over the eight bytes of a number, by which YCSB scrambles.
fn scramble(number: u64) -> u64 {
    number
        .to_le_bytes()
        .iter()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3)
        })
}

/// The keys that are there: those that were loaded, and those that are inserted meanwhile,
/// by whichever thread.
#[derive(Debug)]
pub struct Inserted {
    next: AtomicU64,
    /// Every key below is there, as far as this generator can tell.
    known: AtomicU64,
    /// Keys at or above it whose inserts have ended.
    ended: Mutex<BTreeSet<u64>>,
}

impl Inserted {
    /// The keys from 0 to before this one are there.
    pub fn new(keys: u64) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(keys),
            known: AtomicU64::new(keys),
            ended: Mutex::default(),
        })
    }

    /// Every key below is there, as far as this generator can tell.
    pub fn known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    /// The number of a new key.
    fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An insert has ended. One that failed counts too: its key is then found missing,
    /// which is reported, while a gap would keep all later keys from being read.
    pub fn ended(&self, number: u64) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.insert(number);
        let mut known = self.known.load(Ordering::Relaxed);
        while ended.remove(&known) {
            known += 1;
        }
        self.known.store(known, Ordering::Relaxed);
    }
}

/// Chooses keys.
#[derive(Clone, Debug)]
pub struct Chooser {
    skew: Skew,
    zipfian: Zipfian,
    inserted: Arc<Inserted>,
}

impl Chooser {
    /// Of these keys.
    pub fn new(skew: impl Into<Skew>, inserted: Arc<Inserted>) -> Self {
        let skew = skew.into();
        let known = inserted.known.load(Ordering::Relaxed);
        let (items, theta) = match skew {
            Skew::Zipfian(theta) => (SCRAMBLED_ITEMS, theta),
            Skew::Uniform | Skew::Latest | Skew::OneKey(_) => (known, THETA),
        };
        Self {
            skew,
            zipfian: Zipfian::new(items, theta),
            inserted,
        }
    }

    /// A key that is there.
    pub fn existing(&mut self, random: &mut Random) -> u64 {
        let known = self.inserted.known.load(Ordering::Relaxed).max(1);
        match self.skew {
            Skew::Uniform => random.below(known),
            Skew::Zipfian(_) => scramble(self.zipfian.draw(random)) % known,
            Skew::OneKey(share) if random.fraction() < share => 0,
            Skew::OneKey(_) => random.below(known),
            Skew::Latest => {
                // Its shape changes so slowly with the number of keys that a hundredth
                // more is soon enough to take note of.
                if known > self.zipfian.items + self.zipfian.items / 100 {
                    self.zipfian = Zipfian::new(known, THETA);
                }
                known - 1 - self.zipfian.draw(random).min(known - 1)
            }
        }
    }

    /// A key that nobody has inserted yet.
    pub fn new_key(&self) -> u64 {
        self.inserted.take()
    }

    /// The insert of a new key has ended, well or not.
    pub fn insert_ended(&self, number: u64) {
        self.inserted.ended(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u32 = 200_000;

    #[test]
    fn the_zeta_sums_are_those_of_ycsb() {
        // The constant in YCSB's source for its ten billion items.
        assert!((zeta(SCRAMBLED_ITEMS, THETA) - 26.469_028_201_783_02).abs() < 1e-6);
        let direct: f64 = (1..=100_000u32).map(|k| f64::from(k).powf(-THETA)).sum();
        assert!((zeta(100_000, THETA) - direct).abs() < 1e-6);
    }

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        for theta in [THETA, 1.2] {
            let zipfian = Zipfian::new(1000, theta);
            let mut random = Random::new(3);
            let mut counts = vec![0u32; 1000];
            for _ in 0..DRAWS {
                counts[zipfian.draw(&mut random) as usize] += 1;
            }
            let all = zeta(1000, theta);
            for rank in [0usize, 1] {
                let expected = f64::from(DRAWS) / ((rank + 1) as f64).powf(theta) / all;
                let found = f64::from(counts[rank]);
                assert!(
                    (found - expected).abs() < 0.05 * expected,
                    "{theta}, rank {rank}: {found}, expected {expected}"
                );
            }
            // Gray's method is an approximation further on: the half that is drawn least.
            let tail: u32 = counts[500..].iter().sum();
            let expected = f64::from(DRAWS) * (all - zeta(500, theta)) / all;
            assert!(
                (f64::from(tail) - expected).abs() < 0.15 * expected,
                "{theta}: {tail}, expected {expected}"
            );
        }
    }

    #[test]
    fn one_key_takes_its_share() {
        let mut chooser = Chooser::new(Skew::OneKey(0.5), Inserted::new(1000));
        let mut random = Random::new(9);
        let hot = (0..DRAWS)
            .filter(|_| chooser.existing(&mut random) == 0)
            .count();
        let expected = DRAWS as usize / 2 + DRAWS as usize / 2000;
        assert!(hot.abs_diff(expected) < expected / 50, "{hot}");
    }

    #[test]
    fn scrambled_keys_are_skewed_and_spread_over_every_partition() {
        let mut chooser = Chooser::new(Distribution::Zipfian, Inserted::new(100_000));
        let mut random = Random::new(5);
        let mut counts = std::collections::HashMap::<u64, u32>::new();
        let mut partitions = [0u32; 128];
        for _ in 0..DRAWS {
            let key = chooser.existing(&mut random);
            assert!(key < 100_000);
            *counts.entry(key).or_default() += 1;
            partitions[(key % 128) as usize] += 1;
        }
        let most = counts.values().max().copied().unwrap_or(0);
        let expected = DRAWS / 26;
        assert!(
            most.abs_diff(expected) < expected / 5,
            "{most} of {expected}"
        );
        assert!(
            partitions.iter().all(|&count| count > 100),
            "{partitions:?}"
        );
    }

    #[test]
    fn the_latest_are_asked_for_most_and_only_once_they_are_there() {
        let inserted = Inserted::new(1000);
        let mut chooser = Chooser::new(Distribution::Latest, Arc::clone(&inserted));
        let mut random = Random::new(11);
        let (first, second) = (chooser.new_key(), chooser.new_key());
        assert_eq!((first, second), (1000, 1001));
        chooser.insert_ended(second);
        let newest = |chooser: &mut Chooser, random: &mut Random| {
            let mut keys: Vec<u64> = (0..10_000).map(|_| chooser.existing(random)).collect();
            keys.sort_unstable();
            (keys[0], keys[5_000], keys[9_999])
        };
        // The first of the two is not there yet, so that the second is not either.
        let (oldest, middle, last) = newest(&mut chooser, &mut random);
        assert_eq!(last, 999);
        assert!(oldest < 300 && middle > 900, "{oldest} {middle}");
        chooser.insert_ended(first);
        assert_eq!(newest(&mut chooser, &mut random).2, 1001);
    }
}
