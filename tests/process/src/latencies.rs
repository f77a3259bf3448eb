//! How long requests took, and when.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gaps::Gaps;

/// Durations of requests by the time of their answers, in milliseconds since the start of
/// the load, and by the partition of their key.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<(u32, u32, Duration)>);

impl Latencies {
    /// Notes one.
    pub fn note(&mut self, at_ms: u32, partition: u32, took: Duration) {
        self.0.push((at_ms, partition, took));
    }

    /// The duration below which `percent` of those lie that were answered in `from..to`;
    /// zero where there were none.
    #[must_use]
    pub fn percentile(&self, percent: usize, from_ms: u32, to_ms: u32) -> Duration {
        let within = self
            .0
            .iter()
            .filter(|(at, _, _)| (from_ms..to_ms).contains(at));
        let mut durations: Vec<Duration> = within.map(|(_, _, took)| *took).collect();
        durations.sort_unstable();
        let rank = (durations.len() * percent).div_ceil(100).max(1);
        durations.get(rank - 1).copied().unwrap_or_default()
    }

    /// The longest that a request of each partition took, of those that were answered in
    /// `from..to`: how long the partition paused for those who asked, at least.
    #[must_use]
    pub fn longest(&self, from_ms: u32, to_ms: u32) -> Gaps {
        let mut longest: BTreeMap<u32, Duration> = BTreeMap::new();
        for (at, partition, took) in &self.0 {
            if (from_ms..to_ms).contains(at) {
                let longest = longest.entry(*partition).or_default();
                *longest = (*longest).max(*took);
            }
        }
        let mut gaps = Gaps::default();
        for took in longest.into_values() {
            gaps.add(u32::try_from(took.as_millis()).unwrap_or(u32::MAX));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_of_the_requests_of_a_time() {
        let mut latencies = Latencies::default();
        for n in 1..=100 {
            latencies.note(n, 0, Duration::from_millis(n.into()));
        }
        let percentile = |percent, from, to| latencies.percentile(percent, from, to).as_millis();
        assert_eq!(percentile(99, 0, 1000), 99);
        assert_eq!(percentile(100, 0, 1000), 100);
        assert_eq!(percentile(50, 51, 101), 75);
        assert_eq!(percentile(99, 200, 300), 0);
    }

    #[test]
    fn the_longest_is_of_each_partition_and_of_a_time() {
        let mut latencies = Latencies::default();
        for (at, partition, took) in [(1, 0, 900), (5, 0, 30), (6, 0, 20), (7, 1, 50), (9, 1, 80)] {
            latencies.note(at, partition, Duration::from_millis(took));
        }
        let longest = latencies.longest(5, 9);
        assert_eq!((longest.percentile(50), longest.percentile(100)), (30, 50));
    }
}
