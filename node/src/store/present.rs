//! Which keys were written lately, so that the apply thread, which counts the keys that come
//! and go, need not look for each in the store.
//!
//! A table of fingerprints, each in the one slot that its hash says, where a later key takes
//! the place of an earlier one: what it knows is true, and it does not know all. Two keys are
//! taken for one where 64 bits of one hash and the slot's bits of another are alike, both
//! keyed anew by each process: less often than once in 10^24 looks.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// A power of two. At 8 bytes each; memory that no key was ever written to is not taken.
const SLOTS: usize = 1 << 20;
/// What stands in a slot that no key has.
const EMPTY: u64 = 0;

/// The keys of the store, by their whole names, that are there for certain.
#[derive(Debug)]
pub(super) struct Present {
    fingerprints: Box<[u64]>,
    of_slots: RandomState,
    of_fingerprints: RandomState,
}

impl Present {
    pub(super) fn new() -> Self {
        Self {
            fingerprints: vec![EMPTY; SLOTS].into_boxed_slice(),
            of_slots: RandomState::new(),
            of_fingerprints: RandomState::new(),
        }
    }

    fn find(&self, key: &[u8]) -> (usize, u64) {
        let slot = self.of_slots.hash_one(key) as usize % self.fingerprints.len();
        (slot, self.of_fingerprints.hash_one(key).max(EMPTY + 1))
    }

    /// Whether the key is there; `false` where that is not known.
    pub(super) fn knows(&self, key: &[u8]) -> bool {
        let (slot, fingerprint) = self.find(key);
        self.fingerprints[slot] == fingerprint
    }

    /// The key was written, or removed.
    pub(super) fn changed(&mut self, key: &[u8], is_there: bool) {
        let (slot, fingerprint) = self.find(key);
        let held = &mut self.fingerprints[slot];
        if is_there {
            *held = fingerprint;
        } else if *held == fingerprint {
            *held = EMPTY;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_knows_is_true_however_many_keys_share_its_slots() {
        let mut present = Present::new();
        present.fingerprints = vec![EMPTY; 8].into_boxed_slice();
        let mut there = std::collections::BTreeSet::new();
        let mut known = 0;
        for step in 0..10_000u64 {
            let key = (step * 7919 % 40).to_be_bytes();
            let is_there = step % 3 != 0;
            present.changed(&key, is_there);
            if is_there {
                there.insert(key);
                assert!(present.knows(&key), "just written");
            } else {
                there.remove(&key);
            }
            for key in (0..40u64).map(u64::to_be_bytes) {
                if present.knows(&key) {
                    known += 1;
                    assert!(there.contains(&key), "{key:?} is not there");
                }
            }
        }
        assert!(known > 10_000, "{known}");
    }
}
