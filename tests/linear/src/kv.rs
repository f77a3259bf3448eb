//! One key of the store: an integer that is set, added to, read and deleted.

use crate::{Model, Operation};

/// The model of one key. Before the first operation it has no value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key;

/// What is asked of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read it.
    Get,
    /// Set it.
    Set(i64),
    /// Add to it; no value counts as 0.
    Add(i64),
    /// Set it if it has the first value, or has none where that is none.
    SetIf(Option<i64>, i64),
    /// Delete it.
    Delete,
    /// Nobody's, and without an answer: the time of that value is past, so that it may go
    /// from now on.
    Expire(i64),
}

/// What it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// To `Get`: the value, if there is one.
    Value(Option<i64>),
    /// To `Set`.
    Done,
    /// To `Add`: the sum.
    Sum(i64),
    /// To `Add`: that it was done, and no more.
    Added,
    /// To `SetIf` and `Delete`: whether anything was changed.
    Changed(bool),
}

/// An operation on a key.
pub type KeyOperation = Operation<Op, Output>;

impl Model for Key {
    type State = Option<i64>;
    type Op = Op;
    type Output = Output;

    fn initial(&self) -> Option<i64> {
        None
    }

    fn step(&self, state: &Option<i64>, op: &Op, output: Option<&Output>) -> Option<Option<i64>> {
        let (next, answer) = match *op {
            Op::Get => (*state, Output::Value(*state)),
            Op::Set(value) => (Some(value), Output::Done),
            Op::Add(delta) => {
                let sum = state.unwrap_or(0).wrapping_add(delta);
                (Some(sum), Output::Sum(sum))
            }
            Op::SetIf(expected, value) if *state == expected => {
                (Some(value), Output::Changed(true))
            }
            Op::SetIf(..) => (*state, Output::Changed(false)),
            Op::Delete => (None, Output::Changed(state.is_some())),
            Op::Expire(value) => (state.filter(|held| *held != value), Output::Done),
        };
        output
            .is_none_or(|output| {
                *output == answer || (*output == Output::Added && matches!(op, Op::Add(_)))
            })
            .then_some(next)
    }
}
