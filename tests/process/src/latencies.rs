//! How long requests took, and when.

use std::time::Duration;

/// Durations of requests by the time of their answers, in milliseconds since the start of
/// the load.
#[derive(Debug, Default, Clone)]
pub struct Latencies(Vec<(u32, Duration)>);

impl Latencies {
    /// Notes one.
    pub fn note(&mut self, at_ms: u32, took: Duration) {
        self.0.push((at_ms, took));
    }

    /// The duration below which `percent` of those lie that were answered in `from..to`;
    /// zero where there were none.
    #[must_use]
    pub fn percentile(&self, percent: usize, from_ms: u32, to_ms: u32) -> Duration {
        let within = self
            .0
            .iter()
            .filter(|(at, _)| (from_ms..to_ms).contains(at));
        let mut durations: Vec<Duration> = within.map(|(_, took)| *took).collect();
        durations.sort_unstable();
        let rank = (durations.len() * percent).div_ceil(100).max(1);
        durations.get(rank - 1).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_of_the_requests_of_a_time() {
        let mut latencies = Latencies::default();
        for n in 1..=100 {
            latencies.note(n, Duration::from_millis(n.into()));
        }
        let percentile = |percent, from, to| latencies.percentile(percent, from, to).as_millis();
        assert_eq!(percentile(99, 0, 1000), 99);
        assert_eq!(percentile(100, 0, 1000), 100);
        assert_eq!(percentile(50, 51, 101), 75);
        assert_eq!(percentile(99, 200, 300), 0);
    }
}
