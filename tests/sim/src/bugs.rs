//! Shows that the simulator sees: every seeded bug runs over fresh seeds until an
//! invariant finds it. No scenario is written for any of them.
//!
//! The seeds go round by round: each round plays one seed without a bug, which must be
//! clean, and with each bug that was not found yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_core::seeded::{Bug, seed};

use crate::{Coverage, Failure, Options, run, trace};

/// Bugs that the simulated world cannot show yet, and what it lacks for that.
pub const WAITING: &[(Bug, &str)] = &[];

/// Bugs that need a schedule which few seeds have: a short run passes over them.
pub const RARE: &[Bug] = &[
    Bug::AckPastFence,
    Bug::NameTwoPrimaries,
    Bug::RankByIndex,
    Bug::CountStrangers,
    Bug::CountLeaseFromReceipt,
    Bug::ForgetGrantsOnRestart,
    Bug::QuorumReadOfTwoEpochs,
    Bug::ExpireWithoutEntry,
    Bug::VouchPastLease,
    Bug::CommitPastReadLease,
    Bug::HandOverPastReadLease,
    Bug::ForgetReadGrants,
    Bug::AckWithoutLease,
    Bug::PruneTableEarly,
    Bug::AckBeforeShrink,
    Bug::LeaseOfOneSet,
    Bug::RenewPastFence,
    Bug::FenceWholeBatch,
];

/// Whether a bug is not tried, and why.
#[must_use]
pub fn passed_over(bug: Bug, quick: bool) -> Option<String> {
    if let Some((_, reason)) = WAITING.iter().find(|(waiting, _)| *waiting == bug) {
        return Some(format!("{} WAITING: {reason}", bug.name()));
    }
    (quick && RARE.contains(&bug)).then(|| format!("{} left to the long run", bug.name()))
}

/// How a bug was found.
#[derive(Debug)]
pub struct Caught {
    /// The seed that shows it.
    pub seed: u64,
    /// What the invariant said.
    pub what: String,
}

/// What was spent on a bug, and what came of it.
#[derive(Debug, Default)]
pub struct Trial {
    /// How many seeds were played with it.
    pub seeds: u64,
    /// How long that took, on the threads that did it.
    pub spent: Duration,
    /// How it was found. `None`: it escaped.
    pub caught: Option<Caught>,
}

/// What came of all of it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By bug.
    pub trials: BTreeMap<Bug, Trial>,
    /// How many seeds were played without a bug.
    pub clean: u64,
    /// What took place in those.
    pub coverage: Coverage,
    /// Seeds that broke an invariant without a bug.
    pub broken: Vec<Failure>,
}

/// How much may be spent.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The first seed.
    pub first: u64,
    /// How many seeds for each bug.
    pub seeds: u64,
    /// After this no further seed is begun.
    pub time: Duration,
    /// On how many threads.
    pub threads: usize,
}

/// Plays one seed with the bug in.
///
/// # Errors
/// The invariant that it breaks.
fn play(bug: Option<Bug>, number: u64) -> Result<Coverage, Box<Failure>> {
    seed(bug);
    let result = run(number);
    seed(None);
    result
}

/// The same, with a trace.
pub fn replay(bug: Option<Bug>, number: u64) -> (Result<Coverage, Box<Failure>>, String) {
    seed(bug);
    let played = trace(number, &Options::default());
    seed(None);
    played
}

struct Queue {
    budget: Budget,
    until: Instant,
    /// What is to be played of the round that is under way.
    round: VecDeque<Option<Bug>>,
    number: u64,
    outcome: Outcome,
}

impl Queue {
    fn is_open(&self, bug: Bug) -> bool {
        let trial = self.outcome.trials.get(&bug);
        trial.is_some_and(|trial| trial.caught.is_none())
    }

    /// What is to be played next, and with which seed.
    fn next(&mut self) -> Option<(Option<Bug>, u64)> {
        loop {
            while let Some(next) = self.round.pop_front() {
                if next.is_none_or(|bug| self.is_open(bug)) {
                    return Some((next, self.budget.first + self.number - 1));
                }
            }
            let open: Vec<Bug> = self.outcome.trials.keys().copied().collect();
            let open: Vec<Bug> = open.into_iter().filter(|bug| self.is_open(*bug)).collect();
            if open.is_empty() || self.number >= self.budget.seeds || Instant::now() >= self.until {
                return None;
            }
            self.number += 1;
            self.round.push_back(None);
            self.round.extend(open.into_iter().map(Some));
        }
    }

    fn take(
        &mut self,
        bug: Option<Bug>,
        number: u64,
        spent: Duration,
        result: Result<Coverage, Box<Failure>>,
    ) {
        let Some(bug) = bug else {
            self.outcome.clean += 1;
            match result {
                Ok(coverage) => self.outcome.coverage.merge(&coverage),
                Err(failure) => self.outcome.broken.push(*failure),
            }
            return;
        };
        let trial = self.outcome.trials.entry(bug).or_default();
        if trial.caught.is_some() {
            // Another thread found it meanwhile.
            return;
        }
        trial.seeds += 1;
        trial.spent += spent;
        if let Err(failure) = result {
            trial.caught = Some(Caught {
                seed: number,
                what: failure.what,
            });
            println!("{}", line(bug, trial));
        }
    }
}

/// The line that tells what came of a bug.
#[must_use]
pub fn line(bug: Bug, trial: &Trial) -> String {
    match &trial.caught {
        Some(caught) => format!(
            "{} caught seed={} after={:.1}s",
            bug.name(),
            caught.seed,
            trial.spent.as_secs_f64()
        ),
        None => format!("{} ESCAPED", bug.name()),
    }
}

/// Tries the bugs, and tells of each as soon as it is found.
#[must_use]
pub fn hunt(bugs: &[Bug], budget: Budget) -> Outcome {
    let trials = bugs.iter().map(|bug| (*bug, Trial::default())).collect();
    let queue = Mutex::new(Queue {
        budget,
        until: Instant::now() + budget.time,
        round: VecDeque::new(),
        number: 0,
        outcome: Outcome {
            trials,
            ..Outcome::default()
        },
    });
    let locked = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..budget.threads.max(1) {
            scope.spawn(|| {
                loop {
                    let next = locked().next();
                    let Some((bug, number)) = next else { return };
                    let began = Instant::now();
                    let mut result = play(bug, number);
                    if bug.is_some() && result.is_err() && play(None, number).is_err() {
                        // The seed is broken without the bug, which it therefore shows not.
                        result = Ok(Coverage::default());
                    }
                    locked().take(bug, number, began.elapsed(), result);
                }
            });
        }
    });
    let queue = queue.into_inner();
    queue.unwrap_or_else(PoisonError::into_inner).outcome
}
