//! Bounds the writes that wait on this node, by their number and their bytes.
//!
//! A write of level `all` waits for members that may be away, for as long as a request
//! may wait. All such writes together hold a share of the places alone, so that those
//! that a quorum is enough for find some, whoever is away.

use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_core::kv::request::{RequestError, WriteLevel};

use super::refusals::RefusedWrites;

/// One place in so many is for writes of level `all`.
pub(super) const ALL_SHARE: usize = 2;

/// What one write holds until it is answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// When the write is acknowledged.
    pub(super) level: WriteLevel,
    pub(super) bytes: usize,
}

/// How many writes, and of how many bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Count {
    writes: usize,
    bytes: usize,
}

impl Count {
    fn add(&mut self, bytes: usize) {
        self.writes += 1;
        self.bytes += bytes;
    }
}

/// Places that are given back together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Freed {
    all: Count,
    /// Those among them of writes of level `all`.
    everywhere: Count,
}

impl Freed {
    pub(super) fn add(&mut self, place: Place) {
        self.all.add(place.bytes);
        if place.level == WriteLevel::All {
            self.everywhere.add(place.bytes);
        }
    }
}

/// What waits.
#[derive(Debug, Default)]
struct Waiting {
    writes: AtomicUsize,
    bytes: AtomicUsize,
}

impl Waiting {
    fn reaches(&self, max: Count) -> bool {
        self.writes.load(Ordering::Relaxed) >= max.writes
            || self.bytes.load(Ordering::Relaxed) >= max.bytes
    }

    fn add(&self, count: Count) {
        self.writes.fetch_add(count.writes, Ordering::Relaxed);
        self.bytes.fetch_add(count.bytes, Ordering::Relaxed);
    }

    fn subtract(&self, count: Count) {
        self.writes.fetch_sub(count.writes, Ordering::Relaxed);
        self.bytes.fetch_sub(count.bytes, Ordering::Relaxed);
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Admission {
    all: Waiting,
    /// Of these, the writes of level `all`.
    everywhere: Waiting,
    max: Count,
    refused: RefusedWrites,
}

impl Admission {
    pub(super) fn new(writes: usize, bytes: usize) -> Self {
        Self {
            all: Waiting::default(),
            everywhere: Waiting::default(),
            max: Count { writes, bytes },
            refused: RefusedWrites::new(),
        }
    }

    /// Counts a write in, unless too much waits already. The bounds are soft by as
    /// many writes as are admitted at the same instant.
    pub(super) fn admit(&self, place: Place) -> Result<(), RequestError> {
        let share = Count {
            writes: self.max.writes / ALL_SHARE,
            bytes: self.max.bytes / ALL_SHARE,
        };
        let is_for_all = place.level == WriteLevel::All;
        if self.all.reaches(self.max) || (is_for_all && self.everywhere.reaches(share)) {
            self.refused.count(&RequestError::Overloaded);
            return Err(RequestError::Overloaded);
        }
        let mut taken = Freed::default();
        taken.add(place);
        self.all.add(taken.all);
        if is_for_all {
            self.everywhere.add(taken.everywhere);
        }
        Ok(())
    }

    /// Counts writes out.
    pub(super) fn release(&self, freed: Freed) {
        self.all.subtract(freed.all);
        if freed.everywhere != Count::default() {
            self.everywhere.subtract(freed.everywhere);
        }
    }

    /// How many writes wait.
    pub(super) fn waiting(&self) -> usize {
        self.all.writes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(level: WriteLevel, bytes: usize) -> Place {
        Place { level, bytes }
    }

    #[test]
    fn writes_for_all_hold_their_share_and_others_every_place() {
        let refused = Err(RequestError::Overloaded);
        let (all, quorum) = (place(WriteLevel::All, 1), place(WriteLevel::Quorum, 1));
        let admission = Admission::new(10, 1 << 20);
        for _ in 0..5 {
            assert_eq!(admission.admit(all), Ok(()));
        }
        assert_eq!(admission.admit(all), refused);
        for _ in 0..5 {
            assert_eq!(admission.admit(quorum), Ok(()));
        }
        assert_eq!(admission.admit(quorum), refused);
        let mut freed = Freed::default();
        freed.add(all);
        freed.add(quorum);
        admission.release(freed);
        assert_eq!(admission.waiting(), 8);
        assert_eq!(admission.admit(all), Ok(()));
        assert_eq!(admission.admit(all), refused);
        assert_eq!(admission.admit(quorum), Ok(()));
        // Those that a quorum is enough for may have them all.
        let admission = Admission::new(10, 1 << 20);
        for _ in 0..10 {
            assert_eq!(admission.admit(quorum), Ok(()));
        }
        assert_eq!(admission.admit(all), refused);
    }

    #[test]
    fn bytes_are_shared_as_places_are() {
        let admission = Admission::new(1000, 100);
        assert_eq!(admission.admit(place(WriteLevel::All, 60)), Ok(()));
        let refused = Err(RequestError::Overloaded);
        assert_eq!(admission.admit(place(WriteLevel::All, 1)), refused);
        assert_eq!(admission.admit(place(WriteLevel::Quorum, 60)), Ok(()));
        assert_eq!(admission.admit(place(WriteLevel::Quorum, 1)), refused);
    }
}
