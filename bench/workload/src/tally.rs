//! What a load generator saw.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::operation::Operation;

/// What one thread, or all of them, saw.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Microseconds of every good answer within the window, by operation, made when first
    /// needed.
    latency: [Option<Box<Histogram<u64>>>; Operation::ALL.len()],
    /// By kind.
    pub errors: BTreeMap<String, u64>,
    /// Redirections that were followed.
    pub redirections: u64,
    /// Reads of keys that were not there.
    pub missing: u64,
    /// Operations that were due within the window and not answered in it.
    pub unanswered: u64,
    /// How long the oldest of them had waited at its end.
    pub unanswered_for: Duration,
}

/// An empty histogram of latencies in microseconds, up to two minutes, with three digits.
///
/// # Panics
/// Never: its bounds are valid.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    // Up to two minutes in microseconds, three digits: the bounds are valid.
    Histogram::new_with_bounds(1, 120_000_000, 3).expect("the histogram's bounds are valid")
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self {
            latency: [const { None }; Operation::ALL.len()],
            errors: BTreeMap::new(),
            redirections: 0,
            missing: 0,
            unanswered: 0,
            unanswered_for: Duration::ZERO,
        }
    }

    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.latency.iter_mut().zip(&other.latency) {
            if let Some(theirs) = theirs {
                let mine = mine.get_or_insert_with(|| Box::new(histogram()));
                // Both have the same bounds, so that this cannot fail.
                let _ = mine.add(theirs.as_ref());
            }
        }
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.redirections += other.redirections;
        self.missing += other.missing;
        self.unanswered(other.unanswered, other.unanswered_for);
    }

    /// A good answer.
    pub fn good(&mut self, operation: Operation, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency[operation as usize]
            .get_or_insert_with(|| Box::new(histogram()))
            .saturating_record(micros.max(1));
    }

    /// An answer of this kind that was not good, or none.
    pub fn error(&mut self, kind: &str) {
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }

    /// Operations that were due and not answered.
    pub fn unanswered(&mut self, count: u64, oldest: Duration) {
        self.unanswered += count;
        self.unanswered_for = self.unanswered_for.max(oldest);
    }

    /// The latencies of an operation, if there were any.
    pub fn of(&self, operation: Operation) -> Option<&Histogram<u64>> {
        self.latency[operation as usize].as_deref()
    }

    /// The latencies of all operations.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = histogram();
        for part in self.latency.iter().flatten() {
            let _ = all.add(part.as_ref());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut one = Tally::new();
        one.good(Operation::Read, Duration::from_millis(1));
        one.error("timed out");
        one.unanswered(2, Duration::from_secs(1));
        let mut other = Tally::new();
        other.good(Operation::Read, Duration::from_millis(3));
        other.good(Operation::Insert, Duration::from_millis(9));
        other.error("timed out");
        other.unanswered(1, Duration::from_secs(3));
        one.add(&other);
        assert_eq!(one.all().len(), 3);
        assert_eq!(one.of(Operation::Read).map(Histogram::len), Some(2));
        assert!(one.of(Operation::Update).is_none());
        assert_eq!(one.errors["timed out"], 2);
        assert_eq!((one.unanswered, one.unanswered_for.as_secs()), (3, 3));
    }
}
