//! Watches free space, so that data writes are refused before the operating system
//! refuses anything: what is left is for epochs, barriers and deletes (rule 15).

use cairn_core::replication::DiskRoom;

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

#[cfg(test)]
mod tests {
    use super::DiskRoom::{Ample, Reserve, Spent};
    use super::*;

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
