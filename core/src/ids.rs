//! The identifiers that every part of Cairn shares, each a type of its own.
//!
//! Numbers that are compared across nodes ([`Epoch`], [`Index`], [`ReplicaId`])
//! never wrap and never go back; zero means "none yet" for each of them.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub struct $name(pub $inner);

        impl $name {
            /// The value that stands for "none yet".
            pub const ZERO: Self = Self(0);

            /// The next number.
            ///
            /// # Panics
            /// Where the number would wrap, which 2^64 steps do not reach.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("an identifier wrapped"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

number!(
    /// A partition: a contiguous range of slots.
    PartitionId, u32, "p"
);
number!(
    /// A data node, numbered by the coordinators when its identity is admitted.
    /// Never used again for another identity.
    NodeId, u64, "n"
);
number!(
    /// One replica of one partition on one node, numbered by the coordinators
    /// over the whole cluster and never used again. A replica that lost or
    /// damaged its data comes back under a new number (rule 12).
    ReplicaId, u64, "r"
);
number!(
    /// The number of a partition's configuration. Only the coordinators raise it.
    Epoch, u64, "e"
);
number!(
    /// The place of an entry in its partition's log, counted from 1.
    Index, u64, "i"
);
number!(
    /// The version of the cluster map: the Raft index of the command that made it.
    MapVersion, u64, "v"
);

/// A place in a partition's log together with the epoch of the entry there.
///
/// The derived order, epoch before index, is the one by which rule 2 ranks
/// replicas for promotion.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The epoch in which the entry was written.
    pub epoch: Epoch,
    /// The entry's index.
    pub index: Index,
}

impl Position {
    /// Before the first entry.
    pub const ZERO: Self = Self {
        epoch: Epoch::ZERO,
        index: Index::ZERO,
    };
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.epoch.0, self.index.0)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A position and the running checksum over every entry up to it.
///
/// Two logs that hold the same mark hold the same entries up to it (rule 4).
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Where.
    pub position: Position,
    /// The running checksum, see [`crate::replication::entry::chain`].
    pub chain: u64,
}

impl Mark {
    /// The mark of an empty log.
    pub const ZERO: Self = Self {
        position: Position::ZERO,
        chain: 0,
    };

    /// The index of the mark.
    #[must_use]
    pub fn index(&self) -> Index {
        self.position.index
    }

    /// The epoch of the mark.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.position.epoch
    }

    /// The one that is further along the log.
    #[must_use]
    pub fn max_by_index(self, other: Self) -> Self {
        if other.index() > self.index() {
            other
        } else {
            self
        }
    }
}

/// Microseconds on a clock that counts suspended time too (`CLOCK_BOOTTIME`).
/// Only differences of two readings of the same process mean anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Micros(pub u64);

impl Micros {
    /// From milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1000)
    }

    /// `self + other`, stopping at the largest value.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// `self - other`, stopping at zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Debug for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0)
    }
}
