//! How long partitions were silent after a fault, as clients saw it.

use std::fmt;

/// Times of acknowledged writes, per partition, in milliseconds since the start of
/// the load. Acknowledgements of one partition come in ascending order.
#[derive(Debug, Clone)]
pub struct Acknowledgements {
    by_partition: Vec<Vec<u32>>,
}

impl Acknowledgements {
    /// None yet.
    #[must_use]
    pub fn new(partitions: u32) -> Self {
        Self {
            by_partition: vec![Vec::new(); partitions as usize],
        }
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.by_partition.len() as u32
    }

    /// Notes one.
    pub fn note(&mut self, partition: u32, at_ms: u32) {
        let times = &mut self.by_partition[partition as usize];
        let at_ms = times.last().map_or(at_ms, |&last| last.max(at_ms));
        times.push(at_ms);
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_partition.iter().map(Vec::len).sum()
    }

    /// The partitions that acknowledged nothing at or after `since_ms`.
    #[must_use]
    pub fn silent_since(&self, since_ms: u32) -> Vec<usize> {
        let silent = |times: &Vec<u32>| times.last().is_none_or(|&last| last < since_ms);
        let partitions = self.by_partition.iter().enumerate();
        partitions
            .filter(|(_, times)| silent(times))
            .map(|(n, _)| n)
            .collect()
    }

    /// The longest time without an acknowledgement in a partition that overlaps
    /// `from..to`. Where none came until `to`, the silence lasts until then.
    #[must_use]
    pub fn longest_gap(&self, partition: u32, from_ms: u32, to_ms: u32) -> u32 {
        let times = &self.by_partition[partition as usize];
        let mut longest = 0;
        let mut previous = None;
        for &at in times.iter().chain(std::iter::once(&to_ms)) {
            if at >= from_ms {
                longest = longest.max(at.min(to_ms) - previous.unwrap_or(from_ms).min(at));
            }
            previous = Some(at.min(to_ms));
            if at >= to_ms {
                break;
            }
        }
        longest
    }
}

/// A distribution of gaps, to be printed.
#[derive(Debug, Default, Clone)]
pub struct Gaps(Vec<u32>);

impl Gaps {
    /// Adds one.
    pub fn add(&mut self, gap_ms: u32) {
        self.0.push(gap_ms);
        self.0.sort_unstable();
    }

    /// Adds another distribution.
    pub fn merge(&mut self, other: &Self) {
        self.0.extend_from_slice(&other.0);
        self.0.sort_unstable();
    }

    /// The value below which `percent` of them lie.
    #[must_use]
    pub fn percentile(&self, percent: usize) -> u32 {
        if self.0.is_empty() {
            return 0;
        }
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0[rank - 1]
    }
}

impl fmt::Display for Gaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: p50 {} ms, p90 {} ms, p99 {} ms, longest {} ms",
            self.0.len(),
            self.percentile(50),
            self.percentile(90),
            self.percentile(99),
            self.percentile(100)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_overlaps_the_window() {
        let mut acks = Acknowledgements::new(1);
        for at in [0, 10, 20, 500, 510, 2000] {
            acks.note(0, at);
        }
        assert_eq!(acks.longest_gap(0, 100, 600), 480);
        assert_eq!(acks.longest_gap(0, 505, 1000), 490);
        assert_eq!(acks.longest_gap(0, 2100, 2400), 400);
        assert_eq!(Acknowledgements::new(1).longest_gap(0, 100, 400), 300);
    }

    #[test]
    fn percentiles_are_of_what_was_added() {
        let mut gaps = Gaps::default();
        for gap in 1..=100 {
            gaps.add(gap);
        }
        assert_eq!((gaps.percentile(50), gaps.percentile(99)), (50, 99));
        assert_eq!(gaps.percentile(100), 100);
        assert_eq!(Gaps::default().percentile(99), 0);
    }
}
