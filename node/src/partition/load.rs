//! How much clients ask of this node: counted where it is served, and smoothed for those
//! who plan what goes where.

use std::sync::atomic::{AtomicU64, Ordering};

use cairn_core::ids::Micros;

/// Over about how long a rate is smoothed: a burst of a second is no reason to move
/// anything, and what lasts shows within a minute.
const SMOOTHED_OVER: Micros = Micros::from_millis(10_000);

/// What clients asked of this node since it was taken last.
#[derive(Debug, Default)]
pub(super) struct Load {
    reads: AtomicU64,
    bytes: AtomicU64,
}

impl Load {
    /// A read was served that found so many bytes.
    pub(super) fn read(&self, bytes: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Reads, and the bytes that they found, since the last call.
    pub(super) fn take(&self) -> (u64, u64) {
        let take = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (take(&self.reads), take(&self.bytes))
    }
}

/// How often something happens in a second: an average in which what is past fades.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    per_second: f64,
}

impl Rate {
    /// It happened so often in the time that passed.
    pub(super) fn observe(&mut self, count: u64, passed: Micros) {
        if passed.0 == 0 {
            return;
        }
        let passed = passed.0 as f64 / 1e6;
        let kept = (-passed * 1e6 / SMOOTHED_OVER.0 as f64).exp();
        self.per_second = self.per_second * kept + count as f64 / passed * (1.0 - kept);
    }

    /// The rate, rounded.
    pub(super) fn per_second(&self) -> u64 {
        self.per_second.round() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_comes_near_what_lasts_and_fades_after_it() {
        let second = Micros::from_millis(1_000);
        let mut rate = Rate::default();
        rate.observe(1_000, second);
        assert!(rate.per_second() < 100, "a burst is not the rate: {rate:?}");
        for _ in 0..60 {
            rate.observe(1_000, second);
        }
        assert!((990..=1_000).contains(&rate.per_second()), "{rate:?}");
        // The same over longer spans comes to the same.
        let mut slower = Rate::default();
        for _ in 0..6 {
            slower.observe(10_000, Micros::from_millis(10_000));
        }
        assert!(
            slower.per_second().abs_diff(rate.per_second()) <= 10,
            "{slower:?}"
        );
        for _ in 0..100 {
            rate.observe(0, second);
        }
        assert_eq!(rate.per_second(), 0);
        rate.observe(7, Micros(0));
        assert_eq!(rate.per_second(), 0);
    }

    #[test]
    fn reads_are_counted_once() {
        let load = Load::default();
        load.read(5);
        load.read(0);
        assert_eq!(load.take(), (2, 5));
        assert_eq!(load.take(), (0, 0));
    }
}
