//! Which keys are asked for how often: uniform, Zipfian, or the latest most.
//!
//! The Zipfian generator is that of Gray and others ("Quickly generating billion-record
//! synthetic databases", 1994), as YCSB has it, with YCSB's constant of 0.99. Scrambled, its
//! popular keys lie all over the key space; unscrambled and counted back from the newest
//! key it is YCSB's "latest".

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::workload::Random;

/// The exponent.
const THETA: f64 = 0.99;
/// YCSB draws scrambled keys from so many, whatever the number of keys, so that the shape
/// does not depend on it.
const SCRAMBLED_ITEMS: u64 = 10_000_000_000;
/// So many terms of a zeta sum are added up, the rest is its integral.
const TERMS: u64 = 10_000;

/// Which keys are asked for how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Distribution {
    /// All equally
    Uniform,
    /// Few often and most seldom, spread over all keys (YCSB's scrambled Zipfian, 0.99)
    Zipfian,
    /// The newest most (YCSB's latest)
    Latest,
}

/// The sum of 1/k^theta for k from 1 to `items`.
fn zeta(items: u64) -> f64 {
    let exact = items.min(TERMS);
    let sum: f64 = (1..=exact).map(|k| (k as f64).powf(-THETA)).sum();
    if items <= TERMS {
        return sum;
    }
    let (from, to) = (exact as f64, items as f64);
    // Euler and Maclaurin, to the second term: far closer than a random draw can tell.
    sum + (to.powf(1.0 - THETA) - from.powf(1.0 - THETA)) / (1.0 - THETA)
        + (to.powf(-THETA) - from.powf(-THETA)) / 2.0
}

/// Draws ranks from 0, the most frequent one.
#[derive(Clone, Copy, Debug)]
struct Zipfian {
    items: u64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    fn new(items: u64) -> Self {
        let items = items.max(1);
        let zeta_n = zeta(items);
        let eta = (1.0 - (2.0 / items as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / zeta_n);
        Self {
            items,
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
        if uz < 1.0 + 0.5f64.powf(THETA) {
            return 1.min(self.items - 1);
        }
        let rank = self.items as f64 * (self.eta * u - self.eta + 1.0).powf(1.0 / (1.0 - THETA));
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
pub(super) struct Inserted {
    next: AtomicU64,
    /// Every key below is there, as far as this generator can tell.
    known: AtomicU64,
    /// Keys at or above it whose inserts have ended.
    ended: Mutex<BTreeSet<u64>>,
}

impl Inserted {
    pub(super) fn new(keys: u64) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(keys),
            known: AtomicU64::new(keys),
            ended: Mutex::default(),
        })
    }

    /// The number of a new key.
    fn take(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An insert has ended. One that failed counts too: its key is then found missing,
    /// which is reported, while a gap would keep all later keys from being read.
    pub(super) fn ended(&self, number: u64) {
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
pub(super) struct Chooser {
    distribution: Distribution,
    zipfian: Zipfian,
    inserted: Arc<Inserted>,
}

impl Chooser {
    pub(super) fn new(distribution: Distribution, inserted: Arc<Inserted>) -> Self {
        let items = match distribution {
            Distribution::Zipfian => SCRAMBLED_ITEMS,
            Distribution::Uniform | Distribution::Latest => inserted.known.load(Ordering::Relaxed),
        };
        Self {
            distribution,
            zipfian: Zipfian::new(items),
            inserted,
        }
    }

    /// A key that is there.
    pub(super) fn existing(&mut self, random: &mut Random) -> u64 {
        let known = self.inserted.known.load(Ordering::Relaxed).max(1);
        match self.distribution {
            Distribution::Uniform => random.below(known),
            Distribution::Zipfian => scramble(self.zipfian.draw(random)) % known,
            Distribution::Latest => {
                // Its shape changes so slowly with the number of keys that a hundredth
                // more is soon enough to take note of.
                if known > self.zipfian.items + self.zipfian.items / 100 {
                    self.zipfian = Zipfian::new(known);
                }
                known - 1 - self.zipfian.draw(random).min(known - 1)
            }
        }
    }

    /// A key that nobody has inserted yet.
    pub(super) fn new_key(&self) -> u64 {
        self.inserted.take()
    }

    pub(super) fn insert_ended(&self, number: u64) {
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
        assert!((zeta(SCRAMBLED_ITEMS) - 26.469_028_201_783_02).abs() < 1e-6);
        let direct: f64 = (1..=100_000u32).map(|k| f64::from(k).powf(-THETA)).sum();
        assert!((zeta(100_000) - direct).abs() < 1e-6);
    }

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        let zipfian = Zipfian::new(1000);
        let mut random = Random::new(3);
        let mut counts = vec![0u32; 1000];
        for _ in 0..DRAWS {
            counts[zipfian.draw(&mut random) as usize] += 1;
        }
        for rank in [0usize, 1] {
            let expected = f64::from(DRAWS) / ((rank + 1) as f64).powf(THETA) / zeta(1000);
            let found = f64::from(counts[rank]);
            assert!(
                (found - expected).abs() < 0.05 * expected,
                "rank {rank}: {found}, expected {expected}"
            );
        }
        // Gray's method is an approximation further on: the half that is drawn least.
        let tail: u32 = counts[500..].iter().sum();
        let expected = f64::from(DRAWS) * (zeta(1000) - zeta(500)) / zeta(1000);
        assert!(
            (f64::from(tail) - expected).abs() < 0.1 * expected,
            "{tail}"
        );
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
