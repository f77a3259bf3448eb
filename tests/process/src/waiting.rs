//! Waiting for conditions of other processes, which can only be polled.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long to do nothing between two looks.
const PAUSE: Duration = Duration::from_millis(20);

/// Lets other processes run for a moment. Only between two looks at a condition.
pub fn pause() {
    std::thread::park_timeout(PAUSE);
}

/// Looks until `look` returns something.
///
/// # Errors
/// Where nothing came within `bound`: names what was waited for, and the last reason
/// that `look` gave.
pub fn until<T>(what: &str, bound: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(PAUSE, what, bound, look)
}

/// The same with a longer pause between two looks, where a look costs much.
///
/// # Errors
/// As [`until`].
pub fn until_every<T>(
    pause: Duration,
    what: &str,
    bound: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let reason = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if started.elapsed() > bound {
            match reason {
                Some(error) => bail!("waited {bound:?} for {what}; last: {error:#}"),
                None => bail!("waited {bound:?} for {what}"),
            }
        }
        std::thread::park_timeout(pause);
    }
}
