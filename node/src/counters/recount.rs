//! Adds up, once a second, the counters that this node has added to, and tells their keys.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::counters::{Done, Machine};
use futures::stream::StreamExt;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Counters;
use crate::partition::wall_ms;

/// How often.
const EVERY: Duration = Duration::from_secs(1);
/// How old what a key tells may be: somebody else may have added it up.
const AGE_MS: u64 = 900;
/// The most that are added up in one go, and how many at a time.
const AT_ONCE: usize = 512;
const SIDE_BY_SIDE: usize = 8;
/// The most that wait. What is added to beyond that is added up the next time it is.
const WAITING_MAX: usize = 16_384;

/// Counters that were added to, and when: milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(super) struct Dirty(BTreeMap<Bytes, u64>);

impl Dirty {
    /// This one was added to just now.
    pub(super) fn add(&mut self, key: Bytes) {
        self.note(key, wall_ms());
    }

    fn note(&mut self, key: Bytes, at_ms: u64) {
        if let Some(before) = self.0.get_mut(&key) {
            *before = (*before).max(at_ms);
        } else if self.0.len() < WAITING_MAX {
            // The key may share a connection's buffer.
            self.0.insert(Bytes::copy_from_slice(&key), at_ms);
        }
    }

    /// Those that have waited longest, some of them.
    fn take(&mut self) -> Vec<(Bytes, u64)> {
        if self.0.len() <= AT_ONCE {
            return std::mem::take(&mut self.0).into_iter().collect();
        }
        let mut all: Vec<(Bytes, u64)> = std::mem::take(&mut self.0).into_iter().collect();
        all.sort_by_key(|(_, at)| *at);
        self.0.extend(all.split_off(AT_ONCE));
        all
    }
}

impl Counters {
    /// Keeps adding up until it is cancelled.
    pub(crate) async fn keep_counted(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let taken = self.shared.dirty.lock().take();
            if taken.is_empty() {
                continue;
            }
            let recounts = taken.into_iter().map(|(key, at)| self.recount(key, at));
            let mut recounts = futures::stream::iter(recounts).buffer_unordered(SIDE_BY_SIDE);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    recount = recounts.next() => if recount.is_none() { break },
                }
            }
        }
    }

    async fn recount(&self, key: Bytes, added_at_ms: u64) {
        let Some(stripes) = self.stripes(&key) else {
            return;
        };
        self.shared.figures.recounts.increment(1);
        let machine = Machine::recount(key.clone(), AGE_MS, stripes, rand::random());
        let counted_at_ms = match self.run(machine, None).await.1 {
            Ok(Done::Recounted(at)) => at,
            Ok(_) | Err(_) => 0,
        };
        if counted_at_ms <= added_at_ms {
            self.shared.dirty.lock().note(key, added_at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_the_oldest_goes_first() {
        let mut dirty = Dirty::default();
        for n in 0..WAITING_MAX as u64 + 10 {
            dirty.note(Bytes::from(n.to_string()), 1_000_000 - n);
        }
        assert_eq!(dirty.0.len(), WAITING_MAX);
        let first = dirty.take();
        assert_eq!(first.len(), AT_ONCE);
        assert_eq!(first[0].1, 1_000_000 - (WAITING_MAX as u64 - 1));
        assert_eq!(dirty.0.len(), WAITING_MAX - AT_ONCE);
        // What is added to once more counts from then on.
        let key = dirty.0.keys().next().unwrap().clone();
        dirty.note(key.clone(), 5);
        assert!(dirty.0[&key] > 5);
    }
}
