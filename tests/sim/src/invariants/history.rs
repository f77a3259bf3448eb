//! Rule 6: what clients saw is linearizable, key by key, for writes and strong reads.
//!
//! Two checks: the whole partition as one thing that is read, as the run goes on, where
//! a strong read sees at least what was acknowledged, and what any strong read saw,
//! before it began; and at the end, the values themselves, in the order that Wing and
//! Gong's search finds or does not find.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_core::ids::Index;
use cairn_linear::{Rejected, Verdict, check_keys};

use super::{Check, broken};
use cairn_linear::kv::{Key, KeyOperation, Op, Output};

const STALE: &str = "stale (rule 6)";
const LINEAR: &str = "histories are linearizable (rule 6)";

/// How many configurations the search for one key may visit.
const BOUND: usize = 400_000;

/// The client that stands for nobody, in histories.
const NOBODY: u32 = u32::MAX;

/// What clients did and saw.
#[derive(Debug, Default)]
pub struct History {
    keys: BTreeMap<Bytes, Vec<KeyOperation>>,
    observed: Index,
    /// Acknowledged writes were lost: values have no order that explains them.
    lost: bool,
}

/// A write that has begun on some keys.
#[derive(Clone, Debug, Default)]
pub struct Begun(Vec<(Bytes, usize)>);

impl History {
    /// What a strong read that begins now must see at least.
    #[must_use]
    pub fn floor(&self, acknowledged: Index) -> Index {
        acknowledged.max(self.observed)
    }

    /// A strong read saw the state up to an index.
    ///
    /// # Errors
    /// Where that is older than what was known before it began.
    pub fn saw(&mut self, what: impl FnOnce() -> String, seen: Index, floor: Index) -> Check {
        if seen < floor {
            return Err(broken(
                STALE,
                format!(
                    "{} saw {seen}, and {floor} was known before it began",
                    what()
                ),
            ));
        }
        self.observed = self.observed.max(seen);
        Ok(())
    }

    /// Whether a strong read saw more than what is up to an index.
    #[must_use]
    pub fn saw_past(&self, index: Index) -> bool {
        self.observed > index
    }

    /// A promotion lost what was past an index (rule 9).
    pub fn cut(&mut self, to: Index) {
        self.observed = self.observed.min(to);
        self.lost = true;
    }

    /// A read of a key returned.
    pub fn read(&mut self, client: u32, key: &Bytes, (called, at): (u64, u64), value: Option<i64>) {
        self.keys
            .entry(key.clone())
            .or_default()
            .push(KeyOperation {
                client,
                called,
                returned: Some((at, Output::Value(value))),
                op: Op::Get,
            });
    }

    /// A write begins: it may take effect from now on, or never.
    pub fn begin(&mut self, client: u32, called: u64, ops: Vec<(Bytes, Op)>) -> Begun {
        let begun = ops.into_iter().map(|(key, op)| {
            let operations = self.keys.entry(key.clone()).or_default();
            operations.push(KeyOperation {
                client,
                called,
                returned: None,
                op,
            });
            (key, operations.len() - 1)
        });
        Begun(begun.collect())
    }

    /// A write returned: for each of its keys, in order, what it answered there; `None`
    /// where it did nothing there and saw nothing.
    pub fn end(&mut self, begun: &Begun, at: u64, outputs: &[Option<Output>]) {
        for ((key, place), output) in begun.0.iter().zip(outputs) {
            let operation = self.keys.get_mut(key).and_then(|ops| ops.get_mut(*place));
            let Some(operation) = operation else { continue };
            match output {
                Some(output) => operation.returned = Some((at, *output)),
                // What surely did nothing is explained wherever it stands.
                None => operation.op = NOTHING,
            }
        }
    }

    /// A value that was tried to be written may go from a time on.
    pub fn may_expire(&mut self, key: &Bytes, value: i64, from: u64) {
        self.keys
            .entry(key.clone())
            .or_default()
            .push(KeyOperation {
                client: NOBODY,
                called: from,
                returned: None,
                op: Op::Expire(value),
            });
    }

    /// Whether acknowledged writes were lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Judges everything. How many keys the search could not decide within its bound.
    ///
    /// # Errors
    /// The first key without an order.
    pub fn judge(&mut self) -> Result<u64, String> {
        let mut undecided = 0;
        if self.lost {
            return Ok(0);
        }
        for (key, operations) in &mut self.keys {
            operations.retain(|op| op.op != NOTHING || op.returned.is_some());
            let history = BTreeMap::from([(key.clone(), std::mem::take(operations))]);
            match check_keys(&Key, &history, BOUND) {
                Ok(_) => {}
                Err(Rejected {
                    verdict: Verdict::OutOfBound,
                    ..
                }) => undecided += 1,
                Err(rejected) => return Err(broken(LINEAR, rejected)),
            }
        }
        Ok(undecided)
    }
}

/// An operation that changes nothing; one that never returned is left out.
const NOTHING: Op = Op::Get;
