//! The two clocks of the engine.

use std::time::{SystemTime, UNIX_EPOCH};

use cairn_core::ids::Micros;
use rustix::time::{ClockId, clock_gettime};

/// Now, on a clock that counts suspended time too: a lease that ran out while the
/// machine slept has run out (rule 5).
#[must_use]
pub fn boottime() -> Micros {
    let now = clock_gettime(ClockId::Boottime);
    // Neither field is ever negative on this clock.
    Micros((now.tv_sec as u64) * 1_000_000 + (now.tv_nsec as u64) / 1000)
}

/// Now, in milliseconds since the Unix epoch: what expiries are compared with.
#[must_use]
pub fn wall_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
