//! How busy an address is, as this client sees it, and the choice between two.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::index;

/// One answer in so many decides how long an answer takes.
const SMOOTHING: u64 = 8;

/// Calls under way to one address, and how long the answers took of late.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: AtomicUsize,
    /// In microseconds; zero before the first answer.
    latency: AtomicU64,
}

/// A call under way. Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    load: &'a Load,
    began: Instant,
}

impl Load {
    /// A call begins.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        UnderWay {
            load: self,
            began: Instant::now(),
        }
    }

    fn answered_after(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1);
        let before = self.latency.load(Ordering::Relaxed);
        let after = match before {
            0 => took,
            before => before - before / SMOOTHING + took / SMOOTHING,
        };
        // Of two answers at the same moment one may be forgotten.
        self.latency.store(after.max(1), Ordering::Relaxed);
    }

    /// About how long another call would take: zero where nothing is known, so that
    /// every address is tried.
    pub(crate) fn cost(&self) -> u64 {
        let ahead = self.in_flight.load(Ordering::Relaxed) as u64 + 1;
        self.latency.load(Ordering::Relaxed).saturating_mul(ahead)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        // One that was given up took at least as long: that counts too.
        self.load.answered_after(self.began.elapsed());
    }
}

/// The cheaper of two that are drawn at random: nearly as good as the cheapest of all,
/// and not everybody's choice at the same moment.
pub(crate) fn pick<T>(
    mut candidates: Vec<T>,
    cost: impl Fn(&T) -> u64,
    rng: &mut impl Rng,
) -> Option<T> {
    let at = match candidates.len() {
        0 => return None,
        1 => 0,
        len => {
            let drawn = index::sample(rng, len, 2);
            let (first, second) = (drawn.index(0), drawn.index(1));
            if cost(&candidates[second]) < cost(&candidates[first]) {
                second
            } else {
                first
            }
        }
    };
    Some(candidates.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn the_dearest_of_three_is_never_picked_and_the_others_both_are() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut picked = [0u32; 3];
        for _ in 0..300 {
            let costs = [10u64, 50, 900];
            let at = pick(vec![0usize, 1, 2], |at| costs[*at], &mut rng);
            picked[at.expect("one of them")] += 1;
        }
        assert_eq!(picked[2], 0);
        assert!(picked[0] > picked[1] && picked[1] > 0, "{picked:?}");
        assert_eq!(pick(Vec::<u8>::new(), |_| 0, &mut rng), None);
    }

    #[test]
    fn what_is_under_way_makes_an_address_dearer() {
        let load = Load::default();
        assert_eq!(load.cost(), 0);
        load.answered_after(Duration::from_micros(800));
        assert_eq!(load.cost(), 800);
        let first = load.begin();
        assert_eq!(load.cost(), 1600);
        drop(first);
        load.answered_after(Duration::from_micros(8_000_000));
        assert!(load.cost() > 900_000, "{}", load.cost());
    }
}
