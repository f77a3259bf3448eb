//! What a write means.
//!
//! - [`request`]: what a client may ask, and what it is told.
//! - [`evaluate`]: from an operation to its results, on the primary.
//! - [`body`]: what a log entry carries of them, and what the store keeps.
//! - [`expiry`]: which keys may have to go, and when.
//! - [`table`]: which sequenced writes a partition remembers (rule 8).
//! - [`scan`], [`watch`]: many keys at a time.
//! - [`integer`]: numbers as Redis spells them.

pub mod body;
pub mod evaluate;
pub mod expiry;
pub mod integer;
mod outcome;
pub mod request;
pub mod scan;
pub mod table;
pub mod watch;
mod wire;

#[cfg(test)]
mod fuzz_tests;

pub use body::{EntryBody, SequencedRecord, StoredValue, VersionedValue};
pub use evaluate::{Bases, COMBINED_MAX, Combined, CombinedEntry, Evaluation, Evaluator, Joined};
pub use expiry::{DueKey, ExpiryRow};
pub use table::{Judgement, Table};
pub use wire::DecodeError;
