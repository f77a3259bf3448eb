//! The partitions of a run: what is known of each, and which keys fall into it.

use std::fmt;
use std::ops::{Index, IndexMut};

use bytes::Bytes;
use cairn_core::ids::{Epoch, PartitionId};
use cairn_core::record::{Member, SlotRange};
use cairn_core::slots;
use rand::Rng;
use rand::rngs::StdRng;

use super::clients;
use crate::invariants::Invariants;

/// What the world knows of one partition.
#[derive(Debug)]
pub(super) struct Partition {
    /// What its keys begin with, so that their slots are its own.
    pub(super) prefix: String,
    /// What must hold of it.
    pub(super) invariants: Invariants,
    /// The newest epoch in which a primary was seen to be named.
    pub(super) named: Epoch,
    /// The newest epoch and primary that were published.
    pub(super) decided: (Epoch, Option<Member>),
}

/// All of them, by number.
#[derive(Debug)]
pub(super) struct Partitions(Vec<Partition>);

/// Says of which partition something is, where there are several.
#[derive(Clone, Copy, Debug)]
pub(super) struct Of(Option<PartitionId>);

impl fmt::Display for Of {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(partition) => write!(f, " of {partition}"),
            None => Ok(()),
        }
    }
}

/// The first prefix with which every key falls into the slots.
fn prefix(slots: SlotRange) -> String {
    let falls_into = |prefix: &String| {
        let mut keys = clients::keys(prefix);
        keys.all(|key: Bytes| slots.contains(slots::slot(&key)))
    };
    let tags = (0u32..).map(|tag| format!("{{{tag}}}"));
    let mut prefixes = std::iter::once(String::new()).chain(tags);
    prefixes.find(falls_into).unwrap_or_default()
}

impl Partitions {
    /// So many; whether the configured W is 1, so that writes `may_be_lost`.
    pub(super) fn new(count: u32, may_be_lost: bool) -> Self {
        let new = |id| {
            let mut invariants = Invariants::default();
            invariants.losses.allowed = may_be_lost;
            Partition {
                prefix: prefix(slots::range_of_partition(id, count)),
                invariants,
                named: Epoch::ZERO,
                decided: (Epoch::ZERO, None),
            }
        };
        Self((0..count).map(new).collect())
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        self.0.len() as u32
    }

    /// The number of each.
    pub(super) fn ids(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.count()).map(PartitionId)
    }

    /// One of them. Where there is no other, nothing is drawn.
    pub(super) fn draw(&self, rng: &mut StdRng) -> PartitionId {
        PartitionId(match self.count() {
            1 => 0,
            count => rng.random_range(0..count),
        })
    }

    /// Says of which partition something is, where there are several.
    pub(super) fn of(&self, partition: PartitionId) -> Of {
        Of((self.count() > 1).then_some(partition))
    }

    /// Says of which partition it is that something broke.
    pub(super) fn broken(&self, partition: PartitionId) -> impl FnOnce(String) -> String + use<> {
        let several = self.count() > 1;
        move |what| match several {
            true => format!("{what} ({partition})"),
            false => what,
        }
    }
}

impl Index<PartitionId> for Partitions {
    type Output = Partition;

    fn index(&self, partition: PartitionId) -> &Partition {
        &self.0[partition.0 as usize]
    }
}

impl IndexMut<PartitionId> for Partitions {
    fn index_mut(&mut self, partition: PartitionId) -> &mut Partition {
        &mut self.0[partition.0 as usize]
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn every_key_falls_into_its_own_partition() {
        for count in 1..=3 {
            let partitions = Partitions::new(count, false);
            for partition in partitions.ids() {
                let slots = slots::range_of_partition(partition.0, count);
                for key in clients::keys(&partitions[partition].prefix) {
                    assert!(slots.contains(slots::slot(&key)), "{key:?} of {partition}");
                }
            }
        }
    }

    #[test]
    fn where_there_is_one_partition_nothing_is_drawn_or_said_of_it() {
        let partitions = Partitions::new(1, false);
        let (mut drawn, mut other) = (StdRng::seed_from_u64(7), StdRng::seed_from_u64(7));
        assert_eq!(partitions.draw(&mut drawn), PartitionId(0));
        assert_eq!(drawn.random::<u64>(), other.random::<u64>());
        assert_eq!(partitions.of(PartitionId(0)).to_string(), "");
        assert_eq!(partitions[PartitionId(0)].prefix, "");
    }

    #[test]
    fn what_breaks_says_of_which_partition_where_there_are_several() {
        let partitions = Partitions::new(3, false);
        let broken = partitions.broken(PartitionId(2))("stale (rule 6): a read".to_owned());
        assert_eq!(broken, "stale (rule 6): a read (p2)");
    }
}
