//! Figures of several rounds.

use serde::Serialize;

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these figures; all zero where there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else {
            return Self::default();
        };
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted[middle - 1] + sorted[middle]) / 2.0
        };
        Self {
            median,
            min: *min,
            max: *max,
        }
    }

    /// How one system's figures relate to another's, round by round: what the machine did in a
    /// round it did to both.
    pub(crate) fn of_ratios(ours: &[f64], theirs: &[f64]) -> Self {
        let pairs = ours.iter().zip(theirs);
        Self::of(pairs.filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b))
    }
}

/// How unevenly a load lies on its nodes: the busiest one over the mean.
pub(crate) fn max_over_mean(figures: &[f64]) -> f64 {
    let mean = figures.iter().sum::<f64>() / figures.len().max(1) as f64;
    if mean > 0.0 {
        figures.iter().copied().fold(0.0, f64::max) / mean
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_and_its_bounds() {
        let spread = |figures: &[f64]| Spread::of(figures.iter().copied());
        let of = |median, min, max| Spread { median, min, max };
        assert_eq!(spread(&[3.0, 1.0, 2.0]), of(2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), of(2.5, 1.0, 4.0));
        assert_eq!(spread(&[7.0]), of(7.0, 7.0, 7.0));
        assert_eq!(spread(&[]), Spread::default());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine was twice as slow in the second round: the ratio does not move.
        let ratios = Spread::of_ratios(&[200.0, 100.0], &[100.0, 50.0]);
        assert_eq!((ratios.median, ratios.min, ratios.max), (2.0, 2.0, 2.0));
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), Spread::default());
    }

    #[test]
    fn unevenness_is_one_where_all_do_the_same() {
        assert!((max_over_mean(&[2.0, 2.0, 2.0]) - 1.0).abs() < 1e-9);
        assert!((max_over_mean(&[6.0, 0.0, 0.0]) - 3.0).abs() < 1e-9);
        assert!(max_over_mean(&[]).abs() < 1e-9);
    }
}
