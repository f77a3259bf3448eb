//! Log entries and the running checksum that ties each to all before it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::ids::{Mark, Position};

/// What an entry is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[repr(u8)]
pub enum EntryKind {
    /// Written by a new primary before it serves (rule 3). Its body is empty.
    Barrier = 0,
    /// A write; its body is a [`crate::kv::EntryBody`], encoded.
    Write = 1,
}

impl EntryKind {
    /// From its number on disk and on the wire.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Barrier),
            1 => Some(Self::Write),
            _ => None,
        }
    }
}

/// One entry of a partition's log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Epoch and index.
    pub position: Position,
    /// What it is for.
    pub kind: EntryKind,
    /// What it holds; opaque to replication.
    pub body: Bytes,
    /// The running checksum over the log up to and including this entry.
    pub chain: u64,
}

impl LogEntry {
    /// Makes the entry that follows `previous`.
    #[must_use]
    pub fn after(previous: Mark, epoch: crate::ids::Epoch, kind: EntryKind, body: Bytes) -> Self {
        let position = Position {
            epoch,
            index: previous.index().next(),
        };
        let chain = chain(previous.chain, position, kind, &body);
        Self {
            position,
            kind,
            body,
            chain,
        }
    }

    /// The mark of the log that ends with this entry.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            position: self.position,
            chain: self.chain,
        }
    }

    /// Whether this entry follows `previous`, by index and by checksum.
    #[must_use]
    pub fn follows(&self, previous: Mark) -> bool {
        self.position.index == previous.index().next()
            && self.position.epoch >= previous.epoch()
            && self.chain == chain(previous.chain, self.position, self.kind, &self.body)
    }
}

/// The running checksum after an entry: XXH3-64 over the checksum before it, its
/// position, its kind and its body, integers in little-endian order.
#[must_use]
pub fn chain(previous: u64, position: Position, kind: EntryKind, body: &[u8]) -> u64 {
    let mut head = [0u8; 25];
    head[..8].copy_from_slice(&previous.to_le_bytes());
    head[8..16].copy_from_slice(&position.epoch.0.to_le_bytes());
    head[16..24].copy_from_slice(&position.index.0.to_le_bytes());
    head[24] = kind as u8;
    let mut hash = Xxh3::with_seed(0);
    hash.update(&head);
    hash.update(body);
    hash.digest()
}
