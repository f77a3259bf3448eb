//! Watches free space, so that data writes are refused before the operating system
//! refuses anything: what is left is for epochs, barriers and deletes (rule 15).

/// Says when the disk counts as full, and when again as not.
///
/// The two bounds lie apart, so that a disk at its bound does not go back and forth
/// with every file that is made and removed.
#[derive(Clone, Copy, Debug)]
pub struct SpaceWatch {
    full_below: u64,
    room_above: u64,
    full: Option<bool>,
}

impl SpaceWatch {
    /// Keeps `reserve_bytes` free; writes come back once a quarter more is free.
    #[must_use]
    pub fn new(reserve_bytes: u64) -> Self {
        Self {
            full_below: reserve_bytes,
            room_above: reserve_bytes.saturating_add(reserve_bytes / 4),
            full: None,
        }
    }

    /// Takes what is free now; returns whether the disk is full where that is news.
    pub fn observe(&mut self, free_bytes: u64) -> Option<bool> {
        let now = match self.full {
            Some(true) => free_bytes < self.room_above,
            Some(false) | None => free_bytes < self.full_below,
        };
        (self.full.replace(now) != Some(now)).then_some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_look_is_always_told() {
        assert_eq!(SpaceWatch::new(100).observe(1000), Some(false));
        assert_eq!(SpaceWatch::new(100).observe(99), Some(true));
    }

    #[test]
    fn a_disk_at_its_bound_does_not_go_back_and_forth() {
        let mut watch = SpaceWatch::new(100);
        assert_eq!(watch.observe(100), Some(false));
        assert_eq!(watch.observe(99), Some(true));
        assert_eq!(watch.observe(101), None);
        assert_eq!(watch.observe(124), None);
        assert_eq!(watch.observe(125), Some(false));
        assert_eq!(watch.observe(100), None);
    }
}
