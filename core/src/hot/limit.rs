//! How often one key may be asked for.
//!
//! A bucket of tokens that refills evenly, kept as one number, the time at which the next
//! request were due if requests came evenly (the "generic cell rate algorithm" of ATM networks,
//! ITU-T I.371): a request is admitted unless it comes earlier than that by more than the
//! bucket holds. One number, so that many threads can share it without a lock.

use crate::ids::Micros;

const SECOND_NANOS: u64 = 1_000_000_000;
/// How far ahead of an even pace requests may come: what a tenth of a second holds.
const BURST_NANOS: u64 = SECOND_NANOS / 10;

/// A rate that no hot key may exceed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyRate {
    /// Between two requests at an even pace.
    apart_nanos: u64,
}

/// When the next request of a key were due at an even pace: nanoseconds of the clock that is
/// asked with. Zero for a key that was never asked for.
pub type Due = u64;

impl KeyRate {
    /// The most that is taken for a rate.
    pub const PER_SECOND_MAX: u32 = 1_000_000;

    /// So many requests in a second; `None` for none, or for more than can be told apart.
    #[must_use]
    pub fn per_second(requests: u32) -> Option<Self> {
        (1..=Self::PER_SECOND_MAX)
            .contains(&requests)
            .then(|| Self {
                apart_nanos: SECOND_NANOS / u64::from(requests),
            })
    }

    /// Judges a request. Admitted: what is to be kept.
    ///
    /// # Errors
    /// How long to wait before the next try.
    pub fn admit(self, due: Due, now: Micros) -> Result<Due, Micros> {
        let now = now.0.saturating_mul(1_000);
        let early = due.saturating_sub(now);
        if early > BURST_NANOS {
            return Err(Micros((early - BURST_NANOS).div_ceil(1_000)));
        }
        Ok(due.max(now).saturating_add(self.apart_nanos))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: u64 = 5_000_000;

    /// Asks at these times; how many were admitted.
    fn admitted(rate: KeyRate, times: impl IntoIterator<Item = u64>) -> u64 {
        let mut due = 0;
        let mut count = 0;
        for time in times {
            if let Ok(next) = rate.admit(due, Micros(time)) {
                due = next;
                count += 1;
            }
        }
        count
    }

    #[test]
    fn a_key_gets_its_rate_and_what_the_bucket_holds() {
        let rate = KeyRate::per_second(1_000).expect("a rate");
        // A hundred at once, and one more.
        assert_eq!(admitted(rate, std::iter::repeat_n(START, 500)), 101);
        // Ten thousand a second for ten seconds.
        let asked = (0..100_000).map(|n| START + n * 100);
        let count = admitted(rate, asked);
        assert!((10_000..=10_101).contains(&count), "{count}");
        // Below the rate all are admitted.
        let asked = (0..5_000).map(|n| START + n * 1_100);
        assert_eq!(admitted(rate, asked), 5_000);
    }

    #[test]
    fn who_waits_as_told_is_admitted() {
        let rate = KeyRate::per_second(2).expect("a rate");
        let first = rate.admit(0, Micros(START)).expect("the first");
        let wait = rate.admit(first, Micros(START)).expect_err("too soon");
        assert_eq!(wait, Micros::from_millis(400));
        assert!(rate.admit(first, Micros(START + wait.0 - 1)).is_err());
        assert!(rate.admit(first, Micros(START + wait.0)).is_ok());
    }

    #[test]
    fn no_rate_is_no_limit() {
        assert_eq!(KeyRate::per_second(0), None);
        assert_eq!(KeyRate::per_second(KeyRate::PER_SECOND_MAX + 1), None);
    }

    proptest! {
        /// Whatever the pace: over any span no more than the rate and the bucket.
        #[test]
        fn no_span_sees_more_than_the_rate_and_the_bucket(
            requests in 1u32..5_000,
            gaps in prop::collection::vec(0u64..3_000, 1..400),
        ) {
            let rate = KeyRate::per_second(requests).expect("a rate");
            let (mut due, mut now) = (0, START);
            let mut taken = Vec::new();
            for gap in gaps {
                now += gap;
                if let Ok(next) = rate.admit(due, Micros(now)) {
                    due = next;
                    taken.push(now);
                }
            }
            for (at, first) in taken.iter().enumerate() {
                for (further, last) in taken[at..].iter().enumerate() {
                    let span = (last - first) as f64 / 1e6;
                    let most = (span + 0.1) * f64::from(requests) * 1.001 + 2.0;
                    prop_assert!((further + 1) as f64 <= most, "{further} in {span}");
                }
            }
        }
    }
}
