//! A key as clients see it: the object whose history is judged.

use cairn_linear::{Model, Operation};

/// The model of one key. It begins without a value.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key;

/// What was asked of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Read it.
    Get,
    /// Set it.
    Set(i64),
    /// Set it if it holds the first value; `None` stands for no value.
    SetIf(Option<i64>, i64),
    /// Add to it; no value counts as 0.
    Add(i64),
    /// Delete it.
    Delete,
    /// Nobody's: the value's time is past, so that it may go. Never returns.
    Expire(i64),
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// The value.
    Value(Option<i64>),
    /// Done, whatever stood there.
    Done,
    /// The sum.
    Sum(i64),
    /// Whether anything was changed.
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
            Op::SetIf(expected, value) if *state == expected => {
                (Some(value), Output::Changed(true))
            }
            Op::SetIf(..) => (*state, Output::Changed(false)),
            Op::Add(delta) => {
                let sum = state.unwrap_or(0) + delta;
                (Some(sum), Output::Sum(sum))
            }
            Op::Delete => (None, Output::Changed(state.is_some())),
            Op::Expire(value) => (state.filter(|held| *held != value), Output::Done),
        };
        output
            .is_none_or(|output| *output == answer)
            .then_some(next)
    }
}
