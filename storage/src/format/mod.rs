//! Every format that lies on a disk or travels in a snapshot, one file each.
//!
//! Each has a version that is checked before anything else is believed, an encoder
//! that destructures its value without `..`, a decoder that never panics and never
//! allocates more than its input's size, and a round-trip property test (rule 18).

pub mod batch;
pub mod key_count;
pub mod mark;
pub mod meta;
pub mod partition_record;
mod primitives;
pub mod record;
pub mod segment_header;
pub mod snapshot_chunk;
pub mod store_stamp;

pub use primitives::DecodeError;

#[cfg(test)]
mod generators;
