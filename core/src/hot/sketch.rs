//! The heaviest keys of a stream, in bounded memory, with a past that fades.
//!
//! Space-Saving (Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and Top-k
//! Elements in Data Streams", ICDT 2005): as many counters as there is room for; a key without
//! one takes over the smallest, with its count, which from then on is how much the key may be
//! overestimated. Of a total weight W over m counters, every key heavier than W/m has one, and
//! no count is wrong by more than W/m.
//!
//! The past fades by forward decay (Cormode, Shkapenyuk, Srivastava, Xu, "Forward Decay: A
//! Practical Time Decay Model for Streaming Systems", ICDE 2009): what is added weighs twice
//! as much with every half-life that passes, so that nothing that is there has to be touched;
//! what is told is scaled back.

use std::collections::BTreeMap;

use super::KeyHash;
use crate::ids::Micros;

/// Half-lives after which weights are scaled back: far from where doubles lose precision.
const RESCALE_AFTER: f64 = 64.0;

/// A key and its weight.
#[derive(Clone, PartialEq, Debug)]
pub struct Heavy<T> {
    /// Which.
    pub hash: KeyHash,
    /// What was kept of it.
    pub about: T,
    /// Its weight at most, per second.
    pub at_most: f64,
    /// Its weight at least, per second.
    pub at_least: f64,
}

/// See the module. `T` is kept for each key that has a counter.
#[derive(Clone, Debug)]
pub struct Sketch<T> {
    room: usize,
    half_life: Micros,
    /// What everything is relative to.
    origin: Option<Micros>,
    /// The first touch since it was empty: until some half-lives have passed there was less to
    /// add up.
    began: Micros,
    counters: Vec<Counter<T>>,
    by_key: BTreeMap<KeyHash, usize>,
    total: f64,
}

#[derive(Clone, Debug)]
struct Counter<T> {
    hash: KeyHash,
    about: T,
    count: f64,
    /// How much of the count may be another's.
    error: f64,
}

impl<T> Sketch<T> {
    /// An empty one with that many counters.
    #[must_use]
    pub fn new(room: usize, half_life: Micros) -> Self {
        Self {
            room: room.max(1),
            half_life: Micros(half_life.0.max(1)),
            origin: None,
            began: Micros::default(),
            counters: Vec::new(),
            by_key: BTreeMap::new(),
            total: 0.0,
        }
    }

    /// Adds a weight to a key; `about` is kept where the key takes a counter.
    pub fn add(&mut self, now: Micros, hash: KeyHash, weight: f64, about: impl FnOnce() -> T) {
        let weight = weight * self.growth(now);
        self.total += weight;
        if let Some(&at) = self.by_key.get(&hash) {
            self.counters[at].count += weight;
            return;
        }
        if self.counters.len() < self.room {
            self.by_key.insert(hash, self.counters.len());
            self.counters.push(Counter {
                hash,
                about: about(),
                count: weight,
                error: 0.0,
            });
            return;
        }
        let counts = self.counters.iter().enumerate();
        let smallest = counts.min_by(|(_, a), (_, b)| a.count.total_cmp(&b.count));
        let Some((at, _)) = smallest else { return };
        let counter = &mut self.counters[at];
        self.by_key.remove(&counter.hash);
        self.by_key.insert(hash, at);
        *counter = Counter {
            hash,
            about: about(),
            error: counter.count,
            count: counter.count + weight,
        };
    }

    /// By how much what is added now outweighs what was added at the origin.
    fn growth(&mut self, now: Micros) -> f64 {
        let origin = *self.origin.get_or_insert_with(|| {
            self.began = now;
            now
        });
        let halves = now.minus(origin).0 as f64 / self.half_life.0 as f64;
        if halves <= RESCALE_AFTER {
            return halves.exp2();
        }
        let shrink = (-halves).exp2();
        self.origin = Some(now);
        self.total *= shrink;
        for counter in &mut self.counters {
            counter.count *= shrink;
            counter.error *= shrink;
        }
        1.0
    }

    /// What a weight of now is per second, of one that is told relative to the origin.
    fn rate(&self, now: Micros) -> f64 {
        let Some(origin) = self.origin else {
            return 0.0;
        };
        let half_life = self.half_life.0 as f64;
        let fade = (-(now.minus(origin).0 as f64) / half_life).exp2();
        // A steady rate r adds up to r * half-life / ln 2, once enough half-lives have passed.
        let begun = 1.0 - (-(now.minus(self.began).0 as f64) / half_life).exp2();
        let seconds = half_life / 1e6 / std::f64::consts::LN_2 * begun;
        if seconds <= 0.0 { 0.0 } else { fade / seconds }
    }

    /// The weight of everything, per second.
    #[must_use]
    pub fn total(&self, now: Micros) -> f64 {
        self.total * self.rate(now)
    }

    /// Everything that has a counter, in no order.
    pub fn heavy(&self, now: Micros) -> impl Iterator<Item = Heavy<&T>> {
        let rate = self.rate(now);
        self.counters.iter().map(move |counter| Heavy {
            hash: counter.hash,
            about: &counter.about,
            at_most: counter.count * rate,
            at_least: (counter.count - counter.error) * rate,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HALF_LIFE: Micros = Micros::from_millis(2_000);

    fn of(sketch: &Sketch<u64>, now: Micros, key: u64) -> Option<(f64, f64)> {
        let mut heavy = sketch.heavy(now);
        let found = heavy.find(|heavy| *heavy.about == key)?;
        Some((found.at_least, found.at_most))
    }

    fn add(sketch: &mut Sketch<u64>, now: Micros, key: u64, weight: f64) {
        sketch.add(now, KeyHash(key), weight, || key);
    }

    #[test]
    fn a_steady_rate_is_told_from_the_first_seconds_on_and_fades_after_it() {
        let mut sketch = Sketch::new(8, HALF_LIFE);
        for ms in 0..60_000 {
            let now = Micros::from_millis(ms);
            add(&mut sketch, now, 7, 1.0);
            if ms % 10 == 0 {
                add(&mut sketch, now, 8, 1.0);
            }
            if ms > 1_000 && ms % 1_000 == 0 {
                let (least, most) = of(&sketch, now, 7).expect("it has a counter");
                assert!((least - 1_000.0).abs() < 20.0, "{least} after {ms} ms");
                assert!((most - least).abs() < 1e-6);
                let (least, _) = of(&sketch, now, 8).expect("it has a counter");
                assert!((least - 100.0).abs() < 5.0, "{least} after {ms} ms");
                assert!((sketch.total(now) - 1_100.0).abs() < 25.0);
            }
        }
        let later = Micros::from_millis(60_000 + 2_000 * 3);
        let (least, _) = of(&sketch, later, 7).expect("it has a counter");
        assert!((least - 125.0).abs() < 5.0, "an eighth of it: {least}");
        // For as long as anybody may wait.
        let much_later = Micros::from_millis(1 << 40);
        add(&mut sketch, much_later, 9, 1.0);
        let (least, _) = of(&sketch, much_later, 7).expect("it has a counter");
        assert!(least < 1e-9 && sketch.total(much_later).is_finite());
    }

    #[test]
    fn an_empty_one_tells_nothing() {
        let sketch = Sketch::<u64>::new(0, Micros(0));
        assert_eq!(sketch.total(Micros(5)), 0.0);
        assert_eq!(sketch.heavy(Micros(5)).count(), 0);
    }

    proptest! {
        /// Against exact counts, without decay to speak of.
        #[test]
        fn what_is_told_encloses_the_truth(
            keys in proptest::collection::vec(0..60u64, 1..2_000),
            room in 4..24usize,
        ) {
            let mut sketch = Sketch::new(room, Micros::from_millis(1 << 40));
            let mut exact: BTreeMap<u64, f64> = BTreeMap::new();
            let now = Micros(1_000);
            let skewed = |key: u64| if key > 30 { 1 } else { key };
            add(&mut sketch, Micros(0), 1_000, 1.0);
            *exact.entry(1_000).or_default() += 1.0;
            for key in keys {
                let key = skewed(key);
                add(&mut sketch, now, key, 1.0);
                *exact.entry(key).or_default() += 1.0;
            }
            let total: f64 = exact.values().sum();
            let scale = total / sketch.total(now);
            let bound = total / room as f64 + 1e-3;
            for heavy in sketch.heavy(now) {
                let truth = exact[heavy.about];
                let (least, most) = (heavy.at_least * scale, heavy.at_most * scale);
                prop_assert!(least <= truth + 1e-3 && truth <= most + 1e-3, "{least} {truth} {most}");
                prop_assert!(most - least <= bound);
            }
            for (key, truth) in exact {
                if truth > bound {
                    prop_assert!(of(&sketch, now, key).is_some(), "{key} with {truth} of {total}");
                }
            }
        }
    }
}
