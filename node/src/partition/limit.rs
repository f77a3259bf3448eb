//! Keeps one key from starving the others: a key that is hot is answered so often in a second
//! and no more, where a limit is set.
//!
//! Only keys that were found hot are limited: for all others there is nothing to look up, and
//! while no key is hot there is nothing to look at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use cairn_core::hot::{Due, HotKey, KeyHash, KeyRate};
use cairn_core::ids::Micros;
use cairn_core::kv::request::RequestError;
use metrics::{Counter, counter};

/// The limit, and the keys that it is held against.
#[derive(Debug)]
pub(super) struct Limit {
    rate: Option<KeyRate>,
    /// `None` while no key is hot.
    hot: ArcSwapOption<BTreeMap<KeyHash, Bucket>>,
    reads: Counter,
    writes: Counter,
}

/// What one key has left; shared with the table before.
type Bucket = Arc<AtomicU64>;

impl Limit {
    pub(super) fn new(rate: Option<KeyRate>) -> Self {
        let limited = |kind| counter!("cairn_requests_limited_total", "kind" => kind);
        Self {
            rate,
            hot: ArcSwapOption::empty(),
            reads: limited("read"),
            writes: limited("write"),
        }
    }

    /// These keys are hot from now on, and no others.
    pub(super) fn judged(&self, keys: &[HotKey]) {
        if self.rate.is_none() {
            return;
        }
        let before = self.hot.load_full();
        let bucket = |key: &HotKey| {
            let known = before.as_ref().and_then(|before| before.get(&key.hash));
            (key.hash, known.cloned().unwrap_or_default())
        };
        let hot: BTreeMap<_, _> = keys.iter().map(bucket).collect();
        self.hot.store((!hot.is_empty()).then(|| Arc::new(hot)));
    }

    /// Judges a read of a key. `now` is asked for only where it counts.
    ///
    /// # Errors
    /// [`RequestError::Limited`].
    pub(super) fn read(&self, key: &[u8], now: impl Fn() -> Micros) -> Result<(), RequestError> {
        let judged = self.judge(std::iter::once(key), now);
        judged.inspect_err(|_| self.reads.increment(1))
    }

    /// Judges a write of some keys: the first one that was asked for too often refuses it.
    ///
    /// # Errors
    /// [`RequestError::Limited`].
    pub(super) fn write<'a>(
        &self,
        keys: impl Iterator<Item = &'a Bytes>,
        now: impl Fn() -> Micros,
    ) -> Result<(), RequestError> {
        let judged = self.judge(keys.map(Bytes::as_ref), now);
        judged.inspect_err(|_| self.writes.increment(1))
    }

    fn judge<'a>(
        &self,
        keys: impl Iterator<Item = &'a [u8]>,
        now: impl Fn() -> Micros,
    ) -> Result<(), RequestError> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let hot = self.hot.load();
        let Some(hot) = hot.as_ref() else {
            return Ok(());
        };
        for key in keys {
            if let Some(bucket) = hot.get(&KeyHash::of(key)) {
                take(bucket, rate, now()).map_err(|wait| RequestError::Limited { wait })?;
            }
        }
        Ok(())
    }
}

fn take(bucket: &AtomicU64, rate: KeyRate, now: Micros) -> Result<(), Micros> {
    let mut due: Due = bucket.load(Ordering::Relaxed);
    loop {
        let next = rate.admit(due, now)?;
        match bucket.compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(other) => due = other,
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::PartitionId;

    use super::*;

    fn hot(names: &[&str]) -> Vec<HotKey> {
        let key = |name: &&str| HotKey {
            partition: PartitionId(0),
            hash: KeyHash::of(name.as_bytes()),
            key: None,
            reads_per_second: 1_000.0,
            writes_per_second: 0.0,
            bytes_per_second: 0.0,
            share: 0.5,
            since: Micros(0),
        };
        names.iter().map(key).collect()
    }

    fn now() -> Micros {
        Micros::from_millis(60_000)
    }

    fn admitted(limit: &Limit, name: &str) -> usize {
        let reads = (0..1_000).filter(|_| limit.read(name.as_bytes(), now).is_ok());
        reads.count()
    }

    #[test]
    fn only_hot_keys_are_limited_and_each_by_itself() {
        let limit = Limit::new(KeyRate::per_second(100));
        assert_eq!(admitted(&limit, "a"), 1_000, "nothing is hot");
        limit.judged(&hot(&["a", "b"]));
        assert_eq!(admitted(&limit, "a"), 11);
        assert_eq!(admitted(&limit, "b"), 11);
        assert_eq!(admitted(&limit, "c"), 1_000);
        // What it had left is not forgotten while it stays hot.
        limit.judged(&hot(&["a"]));
        assert_eq!(admitted(&limit, "a"), 0);
        assert_eq!(admitted(&limit, "b"), 1_000, "it is hot no more");
        limit.judged(&[]);
        assert_eq!(admitted(&limit, "a"), 1_000);
    }

    #[test]
    fn reads_and_writes_count_together_and_a_batch_by_each_of_its_keys() {
        let limit = Limit::new(KeyRate::per_second(100));
        limit.judged(&hot(&["a"]));
        let keys = [Bytes::from_static(b"x"), Bytes::from_static(b"a")];
        for _ in 0..5 {
            assert_eq!(limit.write(keys.iter(), now), Ok(()));
            assert_eq!(limit.read(b"a", now), Ok(()));
        }
        assert_eq!(limit.write(keys.iter(), now), Ok(()));
        let wait = Micros::from_millis(10);
        let refused = Err(RequestError::Limited { wait });
        assert_eq!(limit.write(keys.iter(), now), refused);
        assert_eq!(limit.read(b"a", now), refused);
        assert_eq!(limit.write(keys[..1].iter(), now), Ok(()));
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let limit = Limit::new(None);
        limit.judged(&hot(&["a"]));
        assert!(limit.hot.load().is_none());
        assert_eq!(admitted(&limit, "a"), 1_000);
    }
}
