//! The search for an order, after Wing and Gong ("Testing and verifying concurrent
//! objects", 1993) with the memory of Lowe ("Testing for linearizability", 2017): depth
//! first over which operation takes effect next, never twice from the same configuration,
//! which is the set of operations that took effect and the state that they led to.
//!
//! Three things keep many pending operations from multiplying the configurations. They are
//! tried last: an operation that nobody saw return is needed only where nothing else
//! explains what others saw. Of equal ones only the one that was called first is tried, for
//! it can stand wherever a later one can. And what follows one must owe it something: where
//! it leads to the same state without it, that path is another one's.

use std::collections::HashSet;
use std::collections::hash_map::DefaultHasher;
use std::hash::BuildHasherDefault;

use crate::{Explanation, Model, OperationOf, Verdict};

/// How many operations an explanation shows before the place where it is stuck.
const SHOWN: usize = 8;

/// Which operations took effect. Completed ones do so nearly in the order of their calls,
/// so that almost all of them are told by one number.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Effected {
    /// Every completed operation before this place did.
    below: u32,
    /// Places of completed ones at or above it, ascending.
    beyond: Vec<u32>,
    /// Places of pending ones, ascending.
    pending: Vec<u32>,
}

impl Effected {
    fn add_completed(&mut self, place: u32) {
        if let Err(at) = self.beyond.binary_search(&place) {
            self.beyond.insert(at, place);
        }
        let joined = self
            .beyond
            .iter()
            .zip(self.below..)
            .take_while(|(place, next)| **place == *next)
            .count();
        self.beyond.drain(..joined);
        self.below += u32::try_from(joined).unwrap_or(0);
    }

    fn add_pending(&mut self, place: u32) {
        if let Err(at) = self.pending.binary_search(&place) {
            self.pending.insert(at, place);
        }
    }

    fn count_completed(&self) -> usize {
        self.below as usize + self.beyond.len()
    }
}

/// An operation that may be next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Candidate {
    Completed(u32),
    Pending(u32),
}

/// A configuration on the current path, and what is still to be tried from it.
struct Frame<S> {
    effected: Effected,
    state: S,
    candidates: Vec<Candidate>,
    next: usize,
    /// Whether a pending operation led here.
    by_pending: bool,
}

/// One key's history, sorted by call.
struct History<'a, M: Model> {
    completed: Vec<&'a OperationOf<M>>,
    pending: Vec<&'a OperationOf<M>>,
}

impl<'a, M: Model> History<'a, M> {
    fn new(operations: &'a [OperationOf<M>]) -> Self {
        let (mut completed, mut pending): (Vec<_>, Vec<_>) =
            operations.iter().partition(|op| op.returned.is_some());
        completed.sort_by_key(|op| op.called);
        pending.sort_by_key(|op| op.called);
        Self { completed, pending }
    }

    fn operation(&self, candidate: Candidate) -> &'a OperationOf<M> {
        match candidate {
            Candidate::Completed(place) => self.completed[place as usize],
            Candidate::Pending(place) => self.pending[place as usize],
        }
    }

    /// What may take effect next: whatever was called before the first return among the
    /// completed ones that did not take effect yet. A call at the very moment of a return
    /// counts as before it, for a clock's tick orders nothing.
    fn candidates(&self, effected: &Effected) -> Vec<Candidate> {
        let mut first_return = u64::MAX;
        let mut candidates = Vec::new();
        let mut beyond = effected.beyond.iter().peekable();
        for (operation, place) in self
            .completed
            .iter()
            .zip(0u32..)
            .skip(effected.below as usize)
        {
            // Who was called later can neither be next nor return earlier.
            if operation.called > first_return {
                break;
            }
            if beyond.next_if_eq(&&place).is_some() {
                continue;
            }
            if let Some((at, _)) = operation.returned {
                first_return = first_return.min(at);
            }
            candidates.push(Candidate::Completed(place));
        }
        candidates.retain(|candidate| self.operation(*candidate).called <= first_return);
        // Who has to return first is the likeliest.
        candidates.sort_by_key(|candidate| {
            self.operation(*candidate)
                .returned
                .as_ref()
                .map(|(at, _)| *at)
        });
        let mut tried: Vec<&OperationOf<M>> = Vec::new();
        for (operation, place) in self.pending.iter().zip(0u32..) {
            if operation.called > first_return {
                break;
            }
            if effected.pending.binary_search(&place).is_ok()
                || tried.iter().any(|other| other.op == operation.op)
            {
                continue;
            }
            tried.push(operation);
            candidates.push(Candidate::Pending(place));
        }
        candidates
    }
}

/// Judges the history of one object. Gives up after `bound` configurations, each of which
/// takes some hundred bytes.
pub fn check<M: Model>(model: &M, operations: &[OperationOf<M>], bound: usize) -> Verdict {
    let history = History::<M>::new(operations);
    let goal = history.completed.len();
    let mut seen: HashSet<(Effected, M::State), BuildHasherDefault<DefaultHasher>> =
        HashSet::default();
    let mut explanation = None;
    let mut furthest = None;
    let start = Effected::default();
    let mut path = vec![Frame {
        candidates: history.candidates(&start),
        effected: start,
        state: model.initial(),
        next: 0,
        by_pending: false,
    }];
    loop {
        let before = path.iter().nth_back(1).map(|frame| frame.state.clone());
        let Some(frame) = path.last_mut() else {
            return Verdict::Violation(explanation.unwrap_or_else(|| Explanation {
                ordered: 0,
                completed: goal,
                before: Vec::new(),
                state: format!("{:?}", model.initial()),
                stuck: Vec::new(),
            }));
        };
        let ordered = frame.effected.count_completed();
        if ordered == goal {
            return Verdict::Linearizable;
        }
        let Some(&candidate) = frame.candidates.get(frame.next) else {
            // Nothing can be next. The furthest such place tells most.
            if furthest.is_none_or(|most| ordered > most) {
                furthest = Some(ordered);
                explanation = Some(explain(&history, &path, goal));
            }
            path.pop();
            continue;
        };
        frame.next += 1;
        let operation = history.operation(candidate);
        let output = operation.returned.as_ref().map(|(_, output)| output);
        let Some(state) = model.step(&frame.state, &operation.op, output) else {
            continue;
        };
        let pending = matches!(candidate, Candidate::Pending(_));
        if pending && state == frame.state {
            // Whether it took effect changes nothing.
            continue;
        }
        if frame.by_pending
            && before.is_some_and(|before| {
                model.step(&before, &operation.op, output).as_ref() == Some(&state)
            })
        {
            // The pending operation that led here changed nothing for this one.
            continue;
        }
        let mut effected = frame.effected.clone();
        match candidate {
            Candidate::Completed(place) => effected.add_completed(place),
            Candidate::Pending(place) => effected.add_pending(place),
        }
        if !seen.insert((effected.clone(), state.clone())) {
            continue;
        }
        if seen.len() > bound {
            return Verdict::OutOfBound;
        }
        path.push(Frame {
            candidates: history.candidates(&effected),
            effected,
            state,
            next: 0,
            by_pending: pending,
        });
    }
}

/// What stands in the way at the end of the path, all of whose candidates were tried.
fn explain<M: Model>(
    history: &History<'_, M>,
    path: &[Frame<M::State>],
    goal: usize,
) -> Explanation {
    let show = |candidate: Candidate| {
        let operation = history.operation(candidate);
        let (until, output) = match &operation.returned {
            Some((at, output)) => (at.to_string(), format!("{output:?}")),
            None => ("?".to_owned(), "unknown".to_owned()),
        };
        format!(
            "client {}, {}..{until}: {:?} -> {output}",
            operation.client, operation.called, operation.op
        )
    };
    // Each frame but the last led on by the candidate that it tried last.
    let steps = &path[..path.len().saturating_sub(1)];
    let before = steps[steps.len().saturating_sub(SHOWN)..]
        .iter()
        .filter_map(|frame| Some(show(*frame.candidates.get(frame.next.checked_sub(1)?)?)))
        .collect();
    let last = path.last();
    Explanation {
        ordered: last.map_or(0, |frame| frame.effected.count_completed()),
        completed: goal,
        before,
        state: last.map_or_else(String::new, |frame| format!("{:?}", frame.state)),
        stuck: last.map_or_else(Vec::new, |frame| {
            frame.candidates.iter().map(|c| show(*c)).collect()
        }),
    }
}
