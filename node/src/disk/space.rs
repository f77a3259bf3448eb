//! Watches free space, so that data writes are refused before the operating system
//! refuses anything: what is left is for epochs, barriers and deletes (rule 15).

use cairn_core::replication::DiskRoom;

/// The room of a file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskSpace {
    /// All of it, in bytes.
    pub total_bytes: u64,
    /// What may still be used, in bytes.
    pub free_bytes: u64,
}

/// Says when the disk counts as full, when even the reserve as spent, and when again
/// as not.
///
/// Each two bounds lie apart, so that a disk at its bound does not go back and forth
/// with every file that is made and removed.
#[derive(Clone, Copy, Debug)]
pub struct SpaceWatch {
    reserve_bytes: u64,
    room: Option<DiskRoom>,
}

impl SpaceWatch {
    /// Keeps `reserve_bytes` free of data, and a quarter of that of deletes too. What
    /// was refused is taken again once a quarter more than its bound is free.
    #[must_use]
    pub fn new(reserve_bytes: u64) -> Self {
        Self {
            reserve_bytes,
            room: None,
        }
    }

    /// Takes what is free now; returns what room that is where it is news.
    pub fn observe(&mut self, free_bytes: u64) -> Option<DiskRoom> {
        let short_of = |bound: u64, was_short: bool| {
            let back = if was_short { bound / 4 } else { 0 };
            free_bytes < bound.saturating_add(back)
        };
        let was_spent = self.room == Some(DiskRoom::Spent);
        let was_full = was_spent || self.room == Some(DiskRoom::Reserve);
        let now = if short_of(self.reserve_bytes / 4, was_spent) {
            DiskRoom::Spent
        } else if short_of(self.reserve_bytes, was_full) {
            DiskRoom::Reserve
        } else {
            DiskRoom::Ample
        };
        (self.room.replace(now) != Some(now)).then_some(now)
    }
}

/// Says whether log that nobody needs may stay on the disk. It goes long before writes are
/// refused, and comes back only where it fits in again whole.
#[derive(Clone, Copy, Debug)]
pub struct KeepWatch {
    floor_bytes: u64,
    kept_bytes: u64,
    keeping: bool,
}

impl KeepWatch {
    /// For `kept_bytes` of log in segments of `segment_bytes`, on a disk of which
    /// `reserve_bytes` are kept free of data.
    #[must_use]
    pub fn new(reserve_bytes: u64, segment_bytes: u64, kept_bytes: u64) -> Self {
        // Data is taken again a quarter above the reserve, and the log grows by the segment
        // that is written and the next one.
        let floor_bytes = reserve_bytes
            .saturating_add(reserve_bytes / 4)
            .saturating_add(segment_bytes.saturating_mul(2));
        Self {
            floor_bytes,
            // The oldest segment goes once the others are as much.
            kept_bytes: kept_bytes.saturating_add(segment_bytes),
            keeping: true,
        }
    }

    /// Takes what is free now; says whether log may be kept where that is news. At first it
    /// may.
    pub fn observe(&mut self, free_bytes: u64) -> Option<bool> {
        let needed = if self.keeping { 0 } else { self.kept_bytes };
        let now = free_bytes >= self.floor_bytes.saturating_add(needed);
        (std::mem::replace(&mut self.keeping, now) != now).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::DiskRoom::{Ample, Reserve, Spent};
    use super::*;

    #[test]
    fn log_that_nobody_needs_goes_before_writes_are_refused_and_is_not_the_cause_of_that() {
        let (reserve, segment, kept) = (256, 16, 128);
        // Whatever is free without it, at any step of its growing and going.
        for free_without in 0..1000 {
            let mut space = SpaceWatch::new(reserve);
            let mut keep = KeepWatch::new(reserve, segment, kept);
            let (mut log, mut changes, mut keeping) = (0, 0, true);
            for _ in 0..100 {
                let free = u64::saturating_sub(free_without, log);
                if let Some(news) = keep.observe(free) {
                    assert_ne!(news, keeping);
                    keeping = news;
                    changes += 1;
                }
                log = if keeping {
                    (log + segment).min(kept + segment)
                } else {
                    0
                };
                space.observe(free);
                let room = SpaceWatch::new(reserve).observe(free_without);
                assert!(
                    space.room == room || free_without < reserve * 5 / 4,
                    "{free_without}"
                );
            }
            assert!(changes <= 2, "{free_without}: {changes} changes");
        }
    }

    #[test]
    fn the_first_look_is_always_told() {
        assert_eq!(SpaceWatch::new(100).observe(1000), Some(Ample));
        assert_eq!(SpaceWatch::new(100).observe(99), Some(Reserve));
        assert_eq!(SpaceWatch::new(100).observe(24), Some(Spent));
    }

    #[test]
    fn a_disk_at_its_bound_does_not_go_back_and_forth() {
        let mut watch = SpaceWatch::new(100);
        assert_eq!(watch.observe(100), Some(Ample));
        assert_eq!(watch.observe(99), Some(Reserve));
        assert_eq!(watch.observe(101), None);
        assert_eq!(watch.observe(124), None);
        assert_eq!(watch.observe(125), Some(Ample));
        assert_eq!(watch.observe(100), None);
    }

    #[test]
    fn deletes_have_a_reserve_of_their_own_bound() {
        let mut watch = SpaceWatch::new(100);
        assert_eq!(watch.observe(50), Some(Reserve));
        assert_eq!(watch.observe(25), None);
        assert_eq!(watch.observe(24), Some(Spent));
        assert_eq!(watch.observe(30), None);
        assert_eq!(watch.observe(31), Some(Reserve));
        assert_eq!(watch.observe(124), None);
    }
}
