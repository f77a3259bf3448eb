//! What a client counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a client counted since it was made.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn stats(&self) -> Stats {
                Stats {
                    $($name: self.$name.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Calls made.
    calls,
    /// Requests sent for them.
    attempts,
    /// Attempts after the first one of a call.
    retries,
    /// Answers that named another primary.
    moved,
    /// Reads that a replica could not answer, and another was asked.
    replicas_left,
    /// Answers of primaries that could not serve just then.
    not_ready,
    /// Attempts of unknown outcome: the connection broke, or the answer said so.
    unknown,
    /// Answers of idempotence tables that did not reach back far enough.
    unjudged,
    /// Attempts that were not answered in time.
    timeouts,
    /// Attempts given up because the map named another primary.
    superseded,
    /// Connections made.
    connects,
    /// Connections lost, or not made.
    connections_lost,
    /// Reads that the near cache answered.
    near_hits,
    /// Reads that it could not answer.
    near_misses,
    /// Keys that it was told to have changed; everything at once counts as one.
    near_invalidations,
    /// Newer maps taken.
    map_updates,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
