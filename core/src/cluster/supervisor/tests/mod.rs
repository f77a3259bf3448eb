//! The supervisor against a small world of data nodes: transcripts that a person can
//! read, scenarios, and random faults.

mod absences;
mod chaos;
mod cordons;
mod handovers;
mod lost_sight;
mod membership;
mod proposals;
mod readers;
mod script;
mod transcripts;
mod world;
