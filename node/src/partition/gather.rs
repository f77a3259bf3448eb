//! Increments that wait to become one entry.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use cairn_core::ids::Micros;
use cairn_core::kv::request::{WriteLevel, WriteOp};

use super::inbox::{Submission, Work};

/// Increments of one partition, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    writes: VecDeque<Submission>,
    /// How many there are of each key, and of each reply queue.
    keys: HashMap<Bytes, usize>,
    queues: HashMap<usize, usize>,
}

/// The key of a write that may become an entry with others: an increment that a quorum is
/// enough for. One that every member has to flush is awaited for by its own index.
pub(super) fn combinable(write: &Submission) -> Option<&Bytes> {
    match &write.work {
        Work::Write(request) if write.place.level == WriteLevel::Quorum => match &request.op {
            WriteOp::Increment { key, .. } => Some(key),
            _ => None,
        },
        _ => None,
    }
}

impl Gathered {
    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Whether a write must take effect after what is here: it touches a key of it, or comes
    /// from the same connection. Of all others nobody can tell which came first: none of them
    /// is answered yet, and what comes of each depends on its own keys alone.
    pub(super) fn concerns(&self, write: &Submission) -> bool {
        !self.is_empty()
            && (self.queues.contains_key(&write.reply.queue())
                || write.work.keys().any(|key| self.keys.contains_key(key)))
    }

    /// Adds an increment, see [`combinable`].
    pub(super) fn push(&mut self, write: Submission) {
        for key in write.work.keys() {
            match self.keys.get_mut(key) {
                Some(count) => *count += 1,
                None => {
                    self.keys.insert(key.clone(), 1);
                }
            }
        }
        *self.queues.entry(write.reply.queue()).or_default() += 1;
        self.writes.push_back(write);
    }

    /// The first one, if it arrived before `since`.
    pub(super) fn pop_overdue(&mut self, since: Micros) -> Option<Submission> {
        let first = self.writes.front()?;
        if first.arrived >= since {
            return None;
        }
        let write = self.writes.pop_front()?;
        for key in write.work.keys() {
            leave(&mut self.keys, key);
        }
        leave(&mut self.queues, &write.reply.queue());
        Some(write)
    }

    /// Takes them all. The memory stays for the next ones.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Submission> + '_ {
        self.keys.clear();
        self.queues.clear();
        self.writes.drain(..)
    }
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
