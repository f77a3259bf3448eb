//! The clock of a thread's work.

use std::sync::OnceLock;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long the calling thread has been on a processor.
pub(crate) fn thread_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    // Neither field is ever negative on this clock.
    Duration::new(spent.tv_sec as u64, spent.tv_nsec as u32)
}

/// What of a span between two looks at [`thread_time`] the looking itself takes.
pub(crate) fn look_time() -> Duration {
    const LOOKS: usize = 16;
    static FOUND: OnceLock<Duration> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let look = || {
            let since = thread_time();
            thread_time().saturating_sub(since)
        };
        (0..LOOKS).map(|_| look()).min().unwrap_or_default()
    })
}
