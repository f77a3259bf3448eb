//! How busy an address is, as this client sees it, and the choice between two.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::Rng;
use rand::seq::index;

/// One answer in so many decides how long an answer takes.
const SMOOTHING: u64 = 8;

/// How long after its last answer what is known of an address counts half. An address
/// that was slow once would else never be asked again, and never be seen to be quick.
const HALF_FORGOTTEN: Duration = Duration::from_millis(100);

/// How long a refusal counts to have taken, at least: longer than answers take, lest the
/// replica that refuses at once be everybody's choice.
const REFUSAL: Duration = Duration::from_millis(50);

/// Calls under way to one address, and how long the answers took of late.
#[derive(Debug)]
pub(crate) struct Load {
    made: Instant,
    in_flight: AtomicUsize,
    /// In microseconds; zero before the first answer.
    latency: AtomicU64,
    /// When the last answer came, in microseconds since `made`.
    answered: AtomicU64,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            made: Instant::now(),
            in_flight: AtomicUsize::new(0),
            latency: AtomicU64::new(0),
            answered: AtomicU64::new(0),
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A call under way. Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    load: &'a Load,
    began: Instant,
    refused: bool,
}

impl UnderWay<'_> {
    /// The address answered with a refusal. That is quickly said, and no reason to ask it
    /// rather than others.
    pub(crate) fn refuse(&mut self) {
        self.refused = true;
    }
}

impl Load {
    /// A call begins.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        UnderWay {
            load: self,
            began: Instant::now(),
            refused: false,
        }
    }

    fn answered_after(&self, took: Duration, now: Instant) {
        let took = micros(took).max(1);
        let since = micros(now.saturating_duration_since(self.made));
        self.answered.store(since, Ordering::Relaxed);
        let before = self.latency.load(Ordering::Relaxed);
        let after = match before {
            0 => took,
            before => before - before / SMOOTHING + took / SMOOTHING,
        };
        // Of two answers at the same moment one may be forgotten.
        self.latency.store(after.max(1), Ordering::Relaxed);
    }

    /// About how long another call would take: zero where nothing is known, so that
    /// every address is tried, and less the longer ago the last answer was.
    pub(crate) fn cost(&self, now: Instant) -> u64 {
        let ahead = self.in_flight.load(Ordering::Relaxed) as u64 + 1;
        let since = micros(now.saturating_duration_since(self.made));
        let silent = since.saturating_sub(self.answered.load(Ordering::Relaxed));
        let forgotten = 1 + silent / micros(HALF_FORGOTTEN);
        self.latency.load(Ordering::Relaxed).saturating_mul(ahead) / forgotten
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        // One that was given up took at least as long: that counts too.
        let took = self.began.elapsed();
        let took = if self.refused {
            took.max(REFUSAL)
        } else {
            took
        };
        self.load.answered_after(took, Instant::now());
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
        let now = Instant::now();
        assert_eq!(load.cost(now), 0);
        load.answered_after(Duration::from_micros(800), now);
        assert_eq!(load.cost(now), 800);
        let under_way = load.begin();
        assert_eq!(load.cost(now), 1600);
        std::mem::forget(under_way);
    }

    #[test]
    fn a_refusal_is_dearer_than_an_answer_however_quick_it_came() {
        let (answers, refuses) = (Load::default(), Load::default());
        drop(answers.begin());
        refuses.begin().refuse();
        let now = Instant::now();
        assert!(refuses.cost(now) > answers.cost(now));
    }

    #[test]
    fn an_address_that_was_slow_once_is_asked_again() {
        let load = Load::default();
        let now = Instant::now();
        load.answered_after(Duration::from_millis(800), now);
        assert_eq!(load.cost(now), 800_000);
        assert_eq!(load.cost(now + HALF_FORGOTTEN), 400_000);
        assert!(load.cost(now + HALF_FORGOTTEN * 1000) < 1_000);
    }
}
