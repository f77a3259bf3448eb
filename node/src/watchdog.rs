//! The bound on stopping: a thread that ends the process where the orderly way takes too
//! long.
//!
//! Stopping joins threads, and a thread that is in a flush which never returns cannot be
//! joined; no task of the runtime can do anything about that. What was acknowledged is
//! flushed, so that ending is as safe as a crash.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio_util::sync::CancellationToken;

/// How much longer than its bound the orderly way may take: the bounds of its steps are
/// rounded up.
const GRACE: Duration = Duration::from_secs(5);
/// The exit code of a process that was ended so.
const EXIT_OVERDUE: i32 = 124;

/// Ends the process unless it is dropped in time.
#[derive(Debug)]
pub(crate) struct Watchdog(Arc<Shared>);

struct Shared {
    what: &'static str,
    within: Duration,
    state: Mutex<State>,
    changed: Condvar,
    end: fn(),
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("what", &self.what)
            .field("within", &self.within)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    armed: bool,
    over: bool,
}

impl Watchdog {
    /// Not armed yet.
    pub(crate) fn new(what: &'static str, bound: Duration) -> Self {
        Self::ending(what, bound + GRACE, || std::process::exit(EXIT_OVERDUE))
    }

    fn ending(what: &'static str, within: Duration, end: fn()) -> Self {
        Self(Arc::new(Shared {
            what,
            within,
            state: Mutex::default(),
            changed: Condvar::new(),
            end,
        }))
    }

    /// The time runs from here on.
    pub(crate) fn arm(&self) {
        self.0.arm();
    }

    /// The time runs from when the token is cancelled on, whatever the process is doing
    /// then.
    pub(crate) fn arm_with(&self, shutdown: &CancellationToken) {
        let (shared, shutdown) = (Arc::clone(&self.0), shutdown.clone());
        tokio::spawn(async move {
            shutdown.cancelled().await;
            shared.arm();
        });
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.state.lock().over = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn arm(self: &Arc<Self>) {
        let mut state = self.state.lock();
        if state.armed || state.over {
            return;
        }
        state.armed = true;
        drop(state);
        let shared = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(move || shared.wait());
        if let Err(error) = spawned {
            tracing::warn!(%error, "start the watchdog: nothing bounds the end of this process");
        }
    }

    fn wait(&self) {
        let mut state = self.state.lock();
        let late = self
            .changed
            .wait_while_for(&mut state, |state| !state.over, self.within)
            .timed_out();
        if late {
            let within = self.within;
            tracing::error!(
                ?within,
                "{} has not stopped in time; is a disk hanging? The process ends: what was \
                 acknowledged is on disk",
                self.what
            );
            (self.end)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_process_that_stops_too_late_is_ended_and_one_that_stops_in_time_is_not() {
        static ENDED: AtomicUsize = AtomicUsize::new(0);
        let end = || {
            ENDED.fetch_add(1, Ordering::SeqCst);
        };
        let idle = Watchdog::ending("nobody", Duration::ZERO, end);
        drop(idle);
        let timely = Watchdog::ending("one in time", Duration::from_secs(3_600), end);
        timely.arm();
        let waiting = Arc::downgrade(&timely.0);
        drop(timely);
        while waiting.strong_count() > 0 {
            std::thread::yield_now();
        }
        assert_eq!(ENDED.load(Ordering::SeqCst), 0);
        let late = Watchdog::ending("one too late", Duration::from_millis(1), end);
        late.arm();
        late.arm();
        while ENDED.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        drop(late);
        assert_eq!(ENDED.load(Ordering::SeqCst), 1);
    }
}
