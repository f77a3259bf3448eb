//! Rule 6: what a client serves from its cache was the newest value no longer ago than it
//! says.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_core::ids::{Index, Mark, Micros};

use super::{Check, broken};

const OLDER: &str = "a cache is no older than it says (rule 6)";

/// What was written, and when it was acknowledged.
#[derive(Debug, Default)]
pub struct Near {
    /// Which entries changed a key.
    changes: BTreeMap<Bytes, BTreeSet<Index>>,
    /// Up to where writes were acknowledged, by when.
    acknowledged: Vec<(Micros, Index)>,
}

impl Near {
    /// A committed entry changes a key.
    pub fn changes(&mut self, key: &Bytes, index: Index) {
        self.changes.entry(key.clone()).or_default().insert(index);
    }

    /// A write was acknowledged.
    pub fn acknowledged(&mut self, now: Micros, mark: Mark) {
        let newest = self.acknowledged.last().map_or(Index::ZERO, |last| last.1);
        if mark.index() > newest {
            self.acknowledged.push((now, mark.index()));
        }
    }

    /// A client serves what it read of a state that had come so far, and says that it was
    /// the newest value at some moment, or since.
    ///
    /// # Errors
    /// Where a later write was acknowledged by then.
    pub fn serves(&self, who: usize, key: &Bytes, seen: Index, since: Micros) -> Check {
        let upto = self.acknowledged.partition_point(|(at, _)| *at < since);
        let Some((_, floor)) = upto.checked_sub(1).and_then(|at| self.acknowledged.get(at)) else {
            return Ok(());
        };
        let changes = self.changes.get(key);
        let later = changes.and_then(|all| all.range(seen.next()..).next());
        match later.filter(|index| *index <= floor) {
            None => Ok(()),
            Some(index) => Err(broken(
                OLDER,
                format!(
                    "keeper {who} serves {key:?} as of {seen}, says that it was the newest value \
                     at {since:?}, and {index} had changed it, acknowledged by then"
                ),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::{Epoch, Position};

    use super::*;

    fn mark(index: u64) -> Mark {
        let mark = Mark::ZERO;
        Mark {
            position: Position {
                epoch: Epoch(1),
                index: Index(index),
            },
            ..mark
        }
    }

    #[test]
    fn a_write_that_was_acknowledged_by_then_is_missed() {
        let mut near = Near::default();
        let key = Bytes::from_static(b"k");
        for index in [3, 5] {
            near.changes(&key, Index(index));
            near.acknowledged(Micros(index * 100), mark(index));
        }
        near.acknowledged(Micros(900), mark(9));
        let serves = |seen, since| near.serves(0, &key, Index(seen), Micros(since)).is_ok();
        assert!(serves(3, 400) && serves(4, 500) && serves(5, 10_000) && serves(1, 300));
        assert!(!serves(4, 501) && !serves(2, 301) && !serves(0, 10_000));
        assert!(
            near.serves(0, &Bytes::new(), Index(0), Micros(10_000))
                .is_ok()
        );
    }
}
