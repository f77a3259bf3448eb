//! Visits every state that can be reached, level by level, so that the way to the first
//! one that is broken is a shortest one.
//!
//! A state is known again by a fingerprint of 64 bits: among ten million states two that
//! are taken for one are met once in four hundred thousand explorations.

use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::coverage::Seen;
use crate::memory::{Hashed, Memory};
use crate::world::{Model, State};

/// How many states a thread takes at a time.
const BLOCK: usize = 512;
const SHARDS: usize = 64;

type Prints = HashSet<u64, BuildHasherDefault<Hashed>>;

/// From which state of the level before, by which of its actions.
#[derive(Clone, Copy, Debug)]
struct Origin {
    state: u32,
    action: u16,
}

/// What an exploration came to.
#[derive(Debug)]
pub struct Explored {
    /// How many different states there are.
    pub states: usize,
    /// How many steps lead from them, to known ones too.
    pub steps: u64,
    /// How many steps the furthest is away.
    pub depth: usize,
    /// How many different nodes were met, on the thread that met most.
    pub nodes: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether nothing is left.
    pub exhausted: bool,
    /// In how many states each of the things was seen that should be.
    pub seen: Seen,
    /// The shortest way to a state that is broken.
    pub counterexample: Option<Counterexample>,
}

/// A way to a state in which something does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Counterexample {
    /// What does not.
    pub what: String,
    /// Each step.
    pub steps: Vec<String>,
}

struct Visited(Vec<Mutex<Prints>>);

impl Visited {
    fn new() -> Self {
        Self((0..SHARDS).map(|_| Mutex::default()).collect())
    }

    /// Whether it was not there before.
    fn insert(&self, print: u64) -> bool {
        let shard = &self.0[(print >> 58) as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.insert(print)
    }
}

#[derive(Default)]
struct Found {
    states: Vec<State>,
    origins: Vec<Origin>,
    steps: u64,
    seen: Seen,
}

/// Explores a model on so many threads, up to so many states.
///
/// # Panics
/// Where the initial state cannot be made.
#[must_use]
pub fn explore(model: &Model, threads: usize, most: usize) -> Explored {
    let began = Instant::now();
    model.prepare();
    let mut memories: Vec<Memory> = (0..threads.max(1)).map(|_| Memory::default()).collect();
    let initial = model.initial(&mut memories[0]);
    let visited = Visited::new();
    visited.insert(initial.print());
    let mut seen = Seen::default();
    seen.look(&initial);
    let mut levels: Vec<Vec<Origin>> = Vec::new();
    let mut level = vec![initial];
    let mut explored = Explored {
        states: 1,
        steps: 0,
        depth: 0,
        nodes: 0,
        took: Duration::ZERO,
        exhausted: false,
        seen,
        counterexample: None,
    };
    loop {
        let next = AtomicUsize::new(0);
        let (level_now, visited) = (&level, &visited);
        let found: Vec<Found> = std::thread::scope(|scope| {
            let workers: Vec<_> = memories
                .iter_mut()
                .map(|memory| {
                    let next = &next;
                    scope.spawn(move || {
                        model.prepare();
                        expand(model, memory, level_now, next, visited)
                    })
                })
                .collect();
            let joined = workers.into_iter().map(|w| w.join().expect("a worker"));
            joined.collect()
        });
        let mut origins = Vec::new();
        level = Vec::new();
        for mut found in found {
            explored.steps += found.steps;
            explored.seen.merge(&found.seen);
            origins.append(&mut found.origins);
            level.append(&mut found.states);
        }
        if level.is_empty() {
            explored.exhausted = true;
            break;
        }
        explored.depth += 1;
        explored.states += level.len();
        levels.push(origins);
        if let Some(at) = level.iter().position(|state| state.broken.is_some()) {
            explored.counterexample = Some(retrace(model, &mut memories[0], &levels, at));
            break;
        }
        if explored.states >= most {
            break;
        }
    }
    explored.nodes = memories.iter().map(|m| m.sizes().0).max().unwrap_or(0);
    explored.took = began.elapsed();
    explored
}

fn expand(
    model: &Model,
    memory: &mut Memory,
    level: &[State],
    next: &AtomicUsize,
    visited: &Visited,
) -> Found {
    let mut found = Found::default();
    let mut actions = Vec::new();
    loop {
        let first = next.fetch_add(BLOCK, Ordering::Relaxed);
        if first >= level.len() {
            return found;
        }
        let block = &level[first..level.len().min(first + BLOCK)];
        for (number, state) in (first..).zip(block) {
            actions.clear();
            model.actions(state, &mut actions);
            for (action, what) in actions.iter().enumerate() {
                let Some(mut after) = model.next(memory, state, what) else {
                    continue;
                };
                found.steps += 1;
                if visited.insert(after.print()) {
                    after.judge();
                    found.seen.look(&after);
                    found.states.push(after);
                    found.origins.push(Origin {
                        state: number as u32,
                        action: action as u16,
                    });
                }
            }
        }
    }
}

/// Goes the way to a state of the last level again.
fn retrace(
    model: &Model,
    memory: &mut Memory,
    levels: &[Vec<Origin>],
    at: usize,
) -> Counterexample {
    let mut way = Vec::new();
    let mut state = at;
    for level in levels.iter().rev() {
        let origin = level[state];
        way.push(usize::from(origin.action));
        state = origin.state as usize;
    }
    let mut state = model.initial(memory);
    let mut steps = Vec::new();
    for action in way.into_iter().rev() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        steps.push(actions[action].to_string());
        state = model
            .next(memory, &state, &actions[action])
            .expect("a step that was gone before");
    }
    state.judge();
    Counterexample {
        what: state.broken.map(String::from).unwrap_or_default(),
        steps,
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for step in &self.steps {
            write!(f, "\n    {step}")?;
        }
        Ok(())
    }
}
