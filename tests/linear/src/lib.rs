//! Judges whether what clients saw of a store is linearizable: whether each operation
//! can have taken effect at one moment between its call and its return.
//!
//! A test or a simulator records [`Operation`]s by key and asks [`check_keys`]. Keys are
//! judged one by one, for a history is linearizable exactly where that of each of its
//! objects is (Herlihy and Wing, "Linearizability: a correctness condition for concurrent
//! objects", 1990, theorem 1). So an operation names one key; what touches several at once
//! would have to be judged with all of them as one object.
//!
//! An operation whose outcome nobody knows stays pending: it may take effect at any time
//! after its call, or never. One that surely did nothing does not belong in the history.
//!
//! Pure: no clock, no randomness, the same verdict each time.

#![forbid(unsafe_code)]

pub mod kv;
mod search;

use std::collections::BTreeMap;
use std::fmt::{self, Debug, Display};
use std::hash::Hash;

pub use search::check;

/// A sequential object: what an operation does to its state, and what it may return.
pub trait Model {
    /// The state of the object.
    type State: Clone + Eq + Hash + Debug;
    /// What is asked of it. Equal ones are interchangeable.
    type Op: PartialEq + Debug;
    /// What it answers.
    type Output: Debug;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after the operation took effect in `state` and returned `output`, or
    /// none where it cannot have returned that there. An `output` of none stands for one
    /// that nobody saw, which must be possible in every state.
    fn step(
        &self,
        state: &Self::State,
        op: &Self::Op,
        output: Option<&Self::Output>,
    ) -> Option<Self::State>;
}

/// One operation on one key, as its client saw it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation<Op, Output> {
    /// Who made it; only shown.
    pub client: u32,
    /// When it was called, on a clock that all clients of the history share and that
    /// never goes back: nanoseconds, or the steps of a simulator.
    pub called: u64,
    /// When it returned and with what; none where its outcome is unknown.
    pub returned: Option<(u64, Output)>,
    /// What was asked.
    pub op: Op,
}

/// The operations of a model.
pub type OperationOf<M> = Operation<<M as Model>::Op, <M as Model>::Output>;

/// What came of a check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is an order that explains everything.
    Linearizable,
    /// There is none. Tells how far the search came and what stood in its way.
    Violation(Explanation),
    /// The search visited as many configurations as it may and found neither.
    OutOfBound,
}

/// How far a search came that found no order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Explanation {
    /// How many completed operations it could put in order at most.
    pub ordered: usize,
    /// How many there are.
    pub completed: usize,
    /// The last ones that it put in order there, and the state that they led to.
    pub before: Vec<String>,
    /// That state.
    pub state: String,
    /// The operations of which one had to come next, and none could.
    pub stuck: Vec<String>,
}

impl Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} operations can be put in order, the last of them:",
            self.ordered, self.completed
        )?;
        for line in &self.before {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "which leaves {}; none of these can be next:", self.state)?;
        for line in &self.stuck {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

/// What was judged, for a test to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Keys.
    pub keys: usize,
    /// Operations that returned.
    pub completed: usize,
    /// Operations whose outcome is unknown.
    pub unknown: usize,
    /// The most operations of one key.
    pub longest: usize,
}

/// A key whose history is not shown to be linearizable.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejected<K> {
    /// Which.
    pub key: K,
    /// Why.
    pub verdict: Verdict,
}

impl<K: Debug> Display for Rejected<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            Verdict::Violation(explanation) => {
                write!(f, "{:?} is not linearizable: {explanation}", self.key)
            }
            other => write!(f, "{:?}: {other:?}", self.key),
        }
    }
}

impl<K: Debug> std::error::Error for Rejected<K> {}

/// Judges the history of each key, with at most `bound` configurations visited per key.
///
/// # Errors
/// The first key whose history has no order, or none within the bound.
pub fn check_keys<K: Clone + Ord, M: Model>(
    model: &M,
    history: &BTreeMap<K, Vec<OperationOf<M>>>,
    bound: usize,
) -> Result<Summary, Rejected<K>> {
    let mut summary = Summary::default();
    for (key, operations) in history {
        let completed = operations.iter().filter(|op| op.returned.is_some()).count();
        summary.keys += 1;
        summary.completed += completed;
        summary.unknown += operations.len() - completed;
        summary.longest = summary.longest.max(operations.len());
        match check(model, operations, bound) {
            Verdict::Linearizable => {}
            verdict => {
                return Err(Rejected {
                    key: key.clone(),
                    verdict,
                });
            }
        }
    }
    Ok(summary)
}
