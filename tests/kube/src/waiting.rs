//! Waiting for what `kubectl` tells, each call of which costs a tenth of a second of a core.

use std::time::Duration;

use anyhow::Result;
use cairn_process_tests::waiting::until_every;

const PAUSE: Duration = Duration::from_millis(500);

/// Looks until `look` returns something.
///
/// # Errors
/// Where nothing came within `bound`: names what was waited for, and the last reason that
/// `look` gave.
pub fn until<T>(what: &str, bound: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until_every(PAUSE, what, bound, look)
}
