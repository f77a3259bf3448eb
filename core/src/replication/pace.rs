//! How much a node sends to learners that are far behind (rule 13).
//!
//! A new replica of a young partition is made from the log alone. Sent as fast as it is
//! taken, such a log fills the disks and the network that clients' writes wait for; nobody
//! waits for the learner. What a node sends to all of them together is bounded by a rate
//! that the edge sets, and what is under way to one of them by [`WINDOW_BYTES`], so that no
//! flush of its node carries more than that beside what clients wrote.
//!
//! Members are sent everything at once: writes wait for them. So is a learner that has
//! caught up, since it is about to become one.

use crate::ids::Micros;

/// The most unacknowledged bytes on their way to a learner that is far behind.
pub(super) const WINDOW_BYTES: usize = 512 * 1024;
/// The most bytes of entries in one append to it.
pub(super) const APPEND_BYTES: usize = 64 * 1024;
/// What is saved up while nothing is sent: so many microseconds of the rate.
const SAVED: u64 = 50_000;

/// What may be sent to learners that are far behind, by one node. A bucket of bytes that
/// fills with time: what passes may overdraw it once, and is paid for before the next.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// 0 for no limit.
    bytes_per_second: u64,
    left: i64,
    filled: Micros,
    /// What has passed so far.
    sent: u64,
}

impl Pace {
    /// Lets so many bytes pass in a second from now on; 0 for any number.
    pub(super) fn set_rate(&mut self, bytes_per_second: u64) {
        self.bytes_per_second = bytes_per_second;
    }

    /// Time has passed.
    pub(super) fn fill(&mut self, now: Micros) {
        let earned = |span: u64| {
            let bytes = u128::from(self.bytes_per_second) * u128::from(span) / 1_000_000;
            i64::try_from(bytes).unwrap_or(i64::MAX)
        };
        let passed = now.minus(self.filled).0;
        let (gained, most) = (earned(passed), earned(SAVED).max(1));
        if gained == 0 && passed < 1_000_000 {
            // A slow rate earns its bytes over several ticks.
            return;
        }
        self.filled = now;
        self.left = self.left.saturating_add(gained).min(most);
    }

    /// Whether anything may pass now.
    pub(super) fn has_room(&self) -> bool {
        self.bytes_per_second == 0 || self.left > 0
    }

    /// So much has passed.
    pub(super) fn spend(&mut self, bytes: usize) {
        let bytes = bytes as u64;
        self.sent = self.sent.saturating_add(bytes);
        if self.bytes_per_second > 0 {
            self.left = self.left.saturating_sub_unsigned(bytes);
        }
    }

    /// How many bytes have passed since the node started.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_much_passes_as_the_rate_allows_and_no_more_is_saved_up() {
        let mut pace = Pace::default();
        assert!(pace.has_room(), "no limit is set");
        pace.set_rate(1_000_000);
        assert!(!pace.has_room());
        pace.fill(Micros(10_000));
        assert!(pace.has_room());
        // An append may be larger than what is left, and the next waits until it is paid for.
        pace.spend(25_000);
        pace.fill(Micros(24_000));
        assert!(!pace.has_room());
        pace.fill(Micros(26_000));
        assert!(pace.has_room());
        // After a rest there is no more than what a short time earns.
        pace.fill(Micros::from_millis(60_000));
        pace.spend(SAVED as usize);
        assert!(!pace.has_room());
        assert_eq!(pace.sent(), 25_000 + SAVED);
    }

    #[test]
    fn what_passed_before_there_was_a_limit_is_not_owed() {
        let mut pace = Pace::default();
        pace.spend(1 << 30);
        pace.set_rate(1_000);
        pace.fill(Micros::from_millis(1_000));
        assert!(pace.has_room());
    }

    #[test]
    fn a_rate_of_less_than_a_byte_a_tick_still_earns() {
        let mut pace = Pace::default();
        pace.set_rate(100);
        for tick in 1..=100 {
            pace.fill(Micros(tick * 1_000));
        }
        assert!(pace.has_room());
        // Nor does it overflow at the other end.
        pace.set_rate(u64::MAX);
        pace.fill(Micros(u64::MAX));
        pace.spend(usize::MAX);
        pace.fill(Micros(u64::MAX));
    }
}
