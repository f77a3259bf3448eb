//! What took place in runs, and how a failure is told.

use std::collections::BTreeMap;
use std::fmt;

/// What took place in a run.
///
/// The second field is a checksum of the whole trace, each line of it; zero where no
/// trace was kept.
#[derive(Clone, Debug, Default)]
pub struct Coverage(pub BTreeMap<&'static str, u64>, pub u64);

impl Coverage {
    pub(crate) fn count(&mut self, what: &'static str) {
        if !what.is_empty() {
            *self.0.entry(what).or_default() += 1;
        }
    }

    pub(crate) fn add(&mut self, what: &'static str, times: u64) {
        *self.0.entry(what).or_default() += times;
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

/// A broken invariant.
#[derive(Debug)]
pub struct Failure {
    /// The seed that shows it.
    pub seed: u64,
    /// What broke: the invariant's name, a colon, what was seen.
    pub what: String,
}

impl Failure {
    /// The name of the invariant.
    #[must_use]
    pub fn invariant(&self) -> &str {
        self.what.split(':').next().unwrap_or_default()
    }
}

/// The count under which a run tells its simulated microseconds.
pub const SIMULATED: &str = "simulated microseconds";
/// The count of operations that clients saw answered.
pub const OPERATIONS: &str = "client operation answered";

/// What took place over many runs.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// How many runs.
    pub seeds: u64,
    /// For each kind: in how many runs, and how often in all.
    pub kinds: BTreeMap<&'static str, (u64, u64)>,
}

impl Tally {
    /// Adds a run.
    pub fn add(&mut self, run: &Coverage) {
        self.seeds += 1;
        for (what, count) in &run.0 {
            let kind = self.kinds.entry(what).or_default();
            kind.0 += u64::from(*count > 0);
            kind.1 += count;
        }
    }

    /// Adds the runs of another tally.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        for (what, (seeds, times)) in &other.kinds {
            let kind = self.kinds.entry(what).or_default();
            kind.0 += seeds;
            kind.1 += times;
        }
    }

    /// How often something took place in all.
    #[must_use]
    pub fn times(&self, what: &str) -> u64 {
        self.kinds.get(what).map_or(0, |(_, times)| *times)
    }

    /// What must take place in some run, else the simulator does not try it, and did not.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let never = |what: &&&str| self.times(what) == 0;
        MUST_HAPPEN.iter().filter(never).copied().collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>10} {:>12}", "in seeds", "times")?;
        for (what, (seeds, times)) in self.kinds.iter().filter(|(what, _)| **what != SIMULATED) {
            writeln!(f, "{seeds:>10} {times:>12}  {what}")?;
        }
        let hours = self.times(SIMULATED) as f64 / 3.6e9;
        let operations = self.times(OPERATIONS);
        write!(
            f,
            "{} seeds, {hours:.2} simulated hours, {operations} client operations",
            self.seeds
        )
    }
}

/// What a set of runs must have tried.
pub const MUST_HAPPEN: &[&str] = &[
    "RF changed",
    "W changed",
    "W is 1",
    "added a copy for reads",
    "added a learner",
    "ambush",
    "another weight or zone",
    "any read",
    "any read of a copy for reads",
    "away for longer than the grace",
    "back after it was replaced",
    "batch",
    "conditional write refused",
    "confined replica",
    "coordinators away",
    "copies wanted elsewhere",
    "copy for reads by the supervisor",
    "copy for reads taken away",
    "crash",
    "cut in two",
    "damage found",
    "delay",
    "deposed",
    "disk wiped",
    "drain begun",
    "drain done",
    "drain taken back",
    "drained",
    "drop",
    "duplicate",
    "election",
    "entered joint",
    "failed flush",
    "flipped bit",
    "full disk",
    "gone for good",
    "hand-over",
    "increments combined",
    "joint left by the supervisor",
    "kept key forgotten",
    "kept key told",
    "kept keys of a partition flushed",
    "kept value served",
    "kept values doubted",
    "key expired",
    "late commit",
    "late request",
    "lease changed",
    "lease for reads renewed",
    "lease lapsed",
    "left joint",
    "log probed",
    "moves held back or let go on",
    "names combined",
    "node joined",
    "node retired",
    "node stays away",
    "one-way cut",
    "other nodes reach each other",
    "partial partition",
    "partition",
    "pause",
    "power loss",
    "primary besieged",
    "primary read",
    "promoted by the supervisor",
    "promotion",
    "quorum read",
    "quorum read without a primary",
    "read of an expired value",
    "read redirected",
    "reads under a lease for reads",
    "replica read",
    "replica read of a copy for reads",
    "retry answered by the table",
    "retry that cannot be judged",
    "segment reclaimed",
    "several partitions",
    "several partitions led by one node",
    "shrunk",
    "slow disk",
    "slow links",
    "snapshot broken off",
    "snapshot given by a follower",
    "snapshot installed",
    "snapshot refused",
    "tail dropped",
    "truncation",
    "write acknowledged",
    "write given up",
    "write tried again",
];
