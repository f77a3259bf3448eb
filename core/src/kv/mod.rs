//! What a write means.
//!
//! - [`request`]: what a client may ask, and what it is told.
//! - [`body`]: what a log entry carries of it, and what the store keeps.

pub mod body;
pub mod request;
mod wire;

pub use body::{EntryBody, SequencedRecord, StoredValue, VersionedValue};
pub use wire::DecodeError;
