//! A small model of one partition, exhausted.
//!
//! The shipped replication core, the shipped recovery and the shipped state machine of
//! the coordinators, with three or four nodes, W=2 and very few writes, epochs, crashes
//! and units of time: small enough that *every* order of events is tried. What the
//! simulator (`tests/sim`) meets by chance in large runs is met here for certain in small
//! ones.
//!
//! `docs/testing.md` tells what is covered, how large each exploration is, and what is
//! left out.

pub mod configurations;
pub mod council;
pub mod coverage;
pub mod explore;
pub mod invariants;
pub mod memory;
pub mod message;
pub mod node;
#[cfg(test)]
mod tests;
pub mod world;

use cairn_core::seeded::Bug;

/// Something done wrong on purpose, to see that the model shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mistake {
    /// The coordinators inspect one replica fewer than N-W+1.
    InspectOneFewer,
    /// One of `core/src/seeded.rs`. Those of the supervisor are made by the model's own
    /// coordinators, in any build; the others need a build with `--cfg seeded_bugs`.
    Seeded(Bug),
}

impl Mistake {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InspectOneFewer => "inspect-one-fewer",
            Self::Seeded(bug) => bug.name(),
        }
    }

    /// What is done wrong.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::InspectOneFewer => "One replica fewer is inspected than N-W+1.",
            Self::Seeded(bug) => bug.sentence(),
        }
    }
}
