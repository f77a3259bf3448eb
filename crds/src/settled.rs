//! The agreed numbers of a spec with their defaults worked out, as the nodes do.

use crate::spec::{Consistency, KvClusterSpec};

impl KvClusterSpec {
    /// On how many copies a write is on disk before it is acknowledged.
    #[must_use]
    pub fn settled_write_quorum(&self) -> u8 {
        self.write_quorum.unwrap_or(match self.consistency {
            Some(Consistency::Eventual) => 1,
            Some(Consistency::Strong) | None => self.replication_factor / 2 + 1,
        })
    }

    /// How far the write quorum may be lowered while copies are missing.
    #[must_use]
    pub fn settled_min_in_sync(&self) -> u8 {
        self.min_in_sync.unwrap_or_else(|| {
            self.settled_write_quorum()
                .min(self.replication_factor.div_ceil(2))
        })
    }

    /// Which keys may become striped counters, as the nodes' settings spell it.
    #[must_use]
    pub fn declared_counters(&self) -> String {
        let mut items: Vec<String> = self
            .counters
            .iter()
            .map(|counter| format!("{}={}", counter.prefix, counter.stripes))
            .collect();
        items.sort_unstable();
        items.join(",")
    }
}
