//! Judging which keys are hot.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{KeyHash, Sketch};
use crate::ids::{Micros, PartitionId};

/// What a key is asked for once, as far as it was sampled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Touch {
    /// Where the key belongs.
    pub partition: PartitionId,
    /// The key.
    pub hash: KeyHash,
    /// Its name, where it is to be kept.
    pub key: Option<Bytes>,
    /// Whether it is written.
    pub is_write: bool,
    /// Bytes that were written, or that a read found.
    pub bytes: u64,
    /// How many requests it stands for.
    pub weight: u32,
}

/// When a key is hot.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct WatchOptions {
    /// The part of everything that a node is asked from which on a key is hot.
    pub hot_at: f64,
    /// The part below which it is hot no more.
    pub cool_below: f64,
    /// Requests in a second below which no key is hot, whatever part of them it takes.
    pub least_per_second: f64,
    /// How many are told at most, the hottest.
    pub told_max: usize,
    /// Counters for reads, and as many for writes.
    pub counters: usize,
    /// After how long what is past counts half.
    pub half_life: Micros,
}

impl Default for WatchOptions {
    /// A key that begins to take one in a hundred requests of a node has four fifths of its
    /// weight after five seconds: it is named by then.
    fn default() -> Self {
        Self {
            hot_at: 0.006,
            cool_below: 0.003,
            least_per_second: 20.0,
            told_max: 16,
            counters: 512,
            half_life: Micros::from_millis(2_000),
        }
    }
}

/// A key that is hot.
#[derive(Clone, PartialEq, Debug)]
pub struct HotKey {
    /// Where it belongs.
    pub partition: PartitionId,
    /// Which.
    pub hash: KeyHash,
    /// Its name, where that is kept.
    pub key: Option<Bytes>,
    /// Reads of it in a second.
    pub reads_per_second: f64,
    /// Writes of it in a second.
    pub writes_per_second: f64,
    /// Bytes that those found and brought, in a second.
    pub bytes_per_second: f64,
    /// Its part of all requests of the node, of 1.
    pub share: f64,
    /// Since when it is hot.
    pub since: Micros,
}

/// What is kept of a key that has a counter.
#[derive(Clone, Debug)]
struct About {
    partition: PartitionId,
    key: Option<Bytes>,
    /// Bytes of one request, smoothed.
    bytes: f64,
}

/// Watches what is asked of a node.
#[derive(Debug)]
pub struct Watch {
    options: WatchOptions,
    reads: Sketch<About>,
    writes: Sketch<About>,
    hot: BTreeMap<KeyHash, Micros>,
    bytes: BTreeMap<KeyHash, f64>,
}

impl Watch {
    /// Knows of nothing.
    #[must_use]
    pub fn new(options: WatchOptions) -> Self {
        let sketch = || Sketch::new(options.counters, options.half_life);
        Self {
            options,
            reads: sketch(),
            writes: sketch(),
            hot: BTreeMap::new(),
            bytes: BTreeMap::new(),
        }
    }

    /// Takes a sample.
    pub fn touch(&mut self, now: Micros, touch: &Touch) {
        let sketch = if touch.is_write {
            &mut self.writes
        } else {
            &mut self.reads
        };
        let bytes = touch.bytes as f64;
        sketch.add(now, touch.hash, f64::from(touch.weight), || About {
            partition: touch.partition,
            key: touch.key.clone(),
            bytes,
        });
        if let Some(smoothed) = self.bytes.get_mut(&touch.hash) {
            *smoothed += (bytes - *smoothed) / 16.0;
        }
    }

    /// Everything that the node was asked, in a second.
    #[must_use]
    pub fn per_second(&self, now: Micros) -> f64 {
        self.reads.total(now) + self.writes.total(now)
    }

    /// The hottest of the keys that are hot now, and how many have become so since they were
    /// judged last.
    pub fn judge(&mut self, now: Micros) -> (Vec<HotKey>, usize) {
        let mut keys: BTreeMap<KeyHash, HotKey> = BTreeMap::new();
        for (sketch, is_write) in [(&self.reads, false), (&self.writes, true)] {
            for heavy in sketch.heavy(now) {
                let About {
                    partition,
                    key,
                    bytes,
                } = heavy.about;
                let one = keys.entry(heavy.hash).or_insert_with(|| HotKey {
                    partition: *partition,
                    hash: heavy.hash,
                    key: key.clone(),
                    reads_per_second: 0.0,
                    writes_per_second: 0.0,
                    bytes_per_second: 0.0,
                    share: 0.0,
                    since: now,
                });
                if is_write {
                    one.writes_per_second = heavy.at_least;
                } else {
                    one.reads_per_second = heavy.at_least;
                }
                let bytes = self.bytes.get(&heavy.hash).unwrap_or(bytes);
                one.bytes_per_second += heavy.at_least * bytes;
            }
        }
        let total = self.per_second(now);
        let mut hot: Vec<HotKey> = keys
            .into_values()
            .filter_map(|mut one| {
                let known = self.hot.get(&one.hash);
                let (share, least) = match known {
                    Some(_) => (self.options.cool_below, self.options.least_per_second / 2.0),
                    None => (self.options.hot_at, self.options.least_per_second),
                };
                let per_second = one.reads_per_second + one.writes_per_second;
                one.share = per_second / total.max(f64::MIN_POSITIVE);
                one.since = known.copied().unwrap_or(now);
                (one.share >= share && per_second >= least).then_some(one)
            })
            .collect();
        hot.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.hash.cmp(&b.hash)));
        let known = |one: &&HotKey| self.hot.contains_key(&one.hash);
        let new = hot.len() - hot.iter().filter(known).count();
        // Those that are not told are remembered too: a few hundred have such a share at most.
        self.hot = hot.iter().map(|one| (one.hash, one.since)).collect();
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = hot
            .iter()
            .map(|one| {
                let per_second = one.reads_per_second + one.writes_per_second;
                let now = one.bytes_per_second / per_second.max(f64::MIN_POSITIVE);
                (one.hash, bytes.get(&one.hash).copied().unwrap_or(now))
            })
            .collect();
        hot.truncate(self.options.told_max);
        (hot, new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: f64 = 100_000.0;

    /// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators",
    /// OOPSLA 2014).
    struct Dice(u64);

    impl Dice {
        /// From 0 to below 1.
        fn throw(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    struct Load {
        watch: Watch,
        now: Micros,
        dice: Dice,
    }

    impl Load {
        fn new() -> Self {
            Self {
                watch: Watch::new(WatchOptions::default()),
                now: Micros::default(),
                dice: Dice(7),
            }
        }

        /// So many samples a second of 20,000 requests, of which the key takes a part; judged
        /// twice a second.
        fn run(&mut self, ms: u64, samples: u64, key: u64, part: f64) {
            let end = self.now.plus(Micros::from_millis(ms));
            let apart = Micros(1_000_000 / samples);
            while self.now < end {
                self.now = self.now.plus(apart);
                let one = if self.dice.throw() < part {
                    key
                } else {
                    1_000 + (self.dice.throw() * KEYS) as u64
                };
                let touch = Touch {
                    partition: PartitionId(u32::try_from(one % 64).expect("small")),
                    hash: KeyHash(one),
                    key: None,
                    is_write: one.is_multiple_of(3),
                    bytes: 100,
                    weight: u32::try_from(20_000 / samples).expect("small"),
                };
                self.watch.touch(self.now, &touch);
                if self.now.0 % 500_000 < apart.0 {
                    self.watch.judge(self.now);
                }
            }
        }

        fn is_hot(&mut self, key: u64) -> bool {
            let (hot, _) = self.watch.judge(self.now);
            hot.iter().any(|one| one.hash == KeyHash(key))
        }
    }

    #[test]
    fn a_key_that_takes_one_in_a_hundred_is_named_within_five_seconds_and_no_other() {
        for seed in 0..20 {
            let mut load = Load::new();
            load.dice = Dice(seed);
            load.run(20_000, 4_000, 1, 0.0);
            assert_eq!(load.watch.judge(load.now), (vec![], 0), "all are alike");
            load.run(5_000, 4_000, 1, 0.01);
            let (hot, _) = load.watch.judge(load.now);
            assert_eq!(hot.len(), 1, "{hot:?}");
            assert_eq!(hot[0].hash, KeyHash(1));
            assert!((100.0..260.0).contains(&hot[0].reads_per_second), "{hot:?}");
            assert!((0.005..0.013).contains(&hot[0].share));
        }
    }

    #[test]
    fn what_is_hot_stays_so_while_it_is_near_the_bound_and_cools_after_it() {
        let mut load = Load::new();
        load.run(10_000, 4_000, 1, 0.02);
        assert!(load.is_hot(1));
        let since = load.watch.judge(load.now).0[0].since;
        // Below what would make it hot, above what makes it cool.
        for _ in 0..40 {
            load.run(500, 4_000, 1, 0.0052);
            assert!(load.is_hot(1));
        }
        assert_eq!(load.watch.judge(load.now).0[0].since, since);
        load.run(15_000, 4_000, 1, 0.0005);
        assert!(!load.is_hot(1));
    }

    #[test]
    fn where_little_is_asked_nothing_is_hot() {
        let mut load = Load::new();
        for _ in 0..100 {
            load.now = load.now.plus(Micros::from_millis(200));
            let touch = Touch {
                partition: PartitionId(1),
                hash: KeyHash(1),
                key: Some(Bytes::from_static(b"k")),
                is_write: true,
                bytes: 10,
                weight: 1,
            };
            load.watch.touch(load.now, &touch);
        }
        assert!(!load.is_hot(1));
    }

    #[test]
    fn what_is_told_is_bounded_and_the_hottest_come_first() {
        let mut load = Load::new();
        load.watch.options.told_max = 5;
        for round in 0..50_000u64 {
            load.now = load.now.plus(Micros(250));
            // Zipf-like: key n as often as 1/n.
            let n = (1.0 / (0.01 + 0.99 * load.dice.throw())) as u64;
            let touch = Touch {
                partition: PartitionId(0),
                hash: KeyHash(n),
                key: None,
                is_write: round % 4 == 0,
                bytes: 64,
                weight: 1,
            };
            load.watch.touch(load.now, &touch);
        }
        let (hot, new) = load.watch.judge(load.now);
        assert!(new > 5, "{new} are hot");
        assert_eq!(
            load.watch.judge(load.now),
            (hot.clone(), 0),
            "nothing is new"
        );
        assert_eq!(hot.len(), 5);
        assert!(hot.is_sorted_by(|a, b| a.share >= b.share));
        assert_eq!(hot[0].hash, KeyHash(1));
        let reads = hot[0].reads_per_second / hot[0].writes_per_second;
        assert!((2.5..3.5).contains(&reads), "{hot:?}");
        let bytes = hot[0].bytes_per_second / (hot[0].reads_per_second + hot[0].writes_per_second);
        assert!((bytes - 64.0).abs() < 1e-6);
    }
}
