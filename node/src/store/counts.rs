//! How many keys each generation of the state holds, for those who only ask.

use std::collections::BTreeMap;

use cairn_core::replication::Generation;
use parking_lot::Mutex;

/// How many keys each generation holds: as of the applied index that was published
/// last, or newer. One that is not there holds none.
#[derive(Debug, Default)]
pub(super) struct KeyCounts {
    counts: Mutex<BTreeMap<Generation, u64>>,
}

impl KeyCounts {
    pub(super) fn new(counts: impl IntoIterator<Item = (Generation, u64)>) -> Self {
        Self {
            counts: Mutex::new(counts.into_iter().collect()),
        }
    }

    pub(super) fn set(&self, generation: Generation, keys: u64) {
        self.counts.lock().insert(generation, keys);
    }

    pub(super) fn forget(&self, generation: Generation) {
        self.counts.lock().remove(&generation);
    }

    /// Every generation that was counted, with its keys, ascending.
    pub(super) fn all(&self) -> Vec<(Generation, u64)> {
        let counts = self.counts.lock();
        counts.iter().map(|(g, keys)| (*g, *keys)).collect()
    }

    pub(super) fn get(&self, generation: Generation) -> u64 {
        self.counts.lock().get(&generation).copied().unwrap_or(0)
    }
}
