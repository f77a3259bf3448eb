//! Which keys are asked for far more than others.
//!
//! What clients ask of a node is sampled; the samples go into a [`sketch::Sketch`] that keeps
//! the few keys with the largest weights, and whose past fades; [`Watch`] judges them: a key
//! is *hot* from when it takes a noticeable part of what the node serves until it takes
//! clearly less. [`Loads`] says of the same samples how much each partition is asked.
//! Everything here is told what time it is.

mod limit;
mod loads;
mod sketch;
mod watch;

pub use limit::{Due, KeyRate};
pub use loads::{Loads, PartitionLoad};
pub use sketch::{Heavy, Sketch};
pub use watch::{HotKey, Touch, Watch, WatchOptions};

use xxhash_rust::xxh3::xxh3_64;

/// What a key is called where its name must not be shown: XXH3 of its bytes, 64 bits, without
/// a seed, so that all nodes and tools call it the same. Who can guess a key can check the
/// guess: it hides what a list of hot keys would otherwise spell out, and is no encryption.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyHash(pub u64);

impl KeyHash {
    /// Of a key.
    #[must_use]
    pub fn of(key: &[u8]) -> Self {
        Self(xxh3_64(key))
    }
}

impl std::fmt::Display for KeyHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:016x}", self.0)
    }
}
