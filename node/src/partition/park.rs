//! Writes that wait for values from the store, in order key by key.
//!
//! A write waits in the line of each of its keys. It is tried when it stands first
//! in all of them; while it waits, a later write of one of its keys waits behind
//! it, and writes of other keys go on.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use cairn_core::ids::Micros;
use cairn_core::kv::VersionedValue;

use super::inbox::{Submission, Work};

/// What is known of the value of a key that someone waits for.
#[derive(Debug)]
enum Base {
    /// The lookup of this ticket is under way.
    Wanted(u64),
    /// It came, and no write of the key was evaluated since.
    Known(Option<VersionedValue>),
    /// Nothing.
    Unknown,
}

#[derive(Debug)]
struct Line {
    waiting: VecDeque<u64>,
    base: Base,
}

#[derive(Debug)]
struct Parked {
    keys: Vec<Bytes>,
    /// `None` while it is lent, and after it was given up.
    write: Option<Submission>,
}

/// The writes of one partition that wait.
#[derive(Debug, Default)]
pub(super) struct Park {
    lines: HashMap<Bytes, Line>,
    writes: HashMap<u64, Parked>,
    next: u64,
}

/// The keys of a write.
fn keys(work: &Work) -> Vec<Bytes> {
    let mut keys: Vec<Bytes> = work.keys().cloned().collect();
    if keys.len() > 1 {
        keys.sort_unstable();
        keys.dedup();
    }
    keys
}

impl Park {
    pub(super) fn len(&self) -> usize {
        self.writes.len()
    }

    /// Whether a write must wait behind another one.
    pub(super) fn blocks(&self, work: &Work) -> bool {
        !self.lines.is_empty() && work.keys().any(|key| self.lines.contains_key(key))
    }

    /// Adds a write at the end of the lines of all of its keys.
    pub(super) fn add(&mut self, write: Submission) -> u64 {
        let id = self.next;
        self.next += 1;
        let keys = keys(&write.work);
        for key in &keys {
            let line = self.lines.entry(key.clone()).or_insert_with(|| Line {
                waiting: VecDeque::new(),
                base: Base::Unknown,
            });
            line.waiting.push_back(id);
        }
        let write = Some(write);
        self.writes.insert(id, Parked { keys, write });
        id
    }

    /// Notes that the keys are wanted; returns those for which no lookup is under
    /// way yet, and the ticket of the lookup that is to be started for them.
    pub(super) fn want(&mut self, keys: Vec<Bytes>) -> (u64, Vec<Bytes>) {
        let ticket = self.next;
        self.next += 1;
        let missing = keys
            .into_iter()
            .filter(|key| match self.lines.get_mut(key) {
                Some(line) if !matches!(line.base, Base::Wanted(_)) => {
                    line.base = Base::Wanted(ticket);
                    true
                }
                _ => false,
            })
            .collect();
        (ticket, missing)
    }

    /// A lookup came back. Returns the write to be tried now. A lookup that was
    /// started before the last write of the key left counts nothing: the write may
    /// have changed what it saw.
    pub(super) fn found(
        &mut self,
        ticket: u64,
        key: &Bytes,
        value: Option<VersionedValue>,
    ) -> Option<u64> {
        let line = self.lines.get_mut(key)?;
        if !matches!(line.base, Base::Wanted(wanted) if wanted == ticket) {
            return None;
        }
        line.base = Base::Known(value);
        line.waiting.front().copied()
    }

    /// The value of a key, if it is known.
    pub(super) fn base(&self, key: &Bytes) -> Option<Option<VersionedValue>> {
        match &self.lines.get(key)?.base {
            Base::Known(value) => Some(value.clone()),
            Base::Wanted(_) | Base::Unknown => None,
        }
    }

    /// Whether a write stands first in all of its lines.
    pub(super) fn is_first(&self, id: u64) -> bool {
        self.writes.get(&id).is_some_and(|parked| {
            parked.keys.iter().all(|key| {
                self.lines
                    .get(key)
                    .is_some_and(|line| line.waiting.front() == Some(&id))
            })
        })
    }

    /// The write itself; its place, and the values that came for it, stay until it
    /// leaves. `None` where it was given up.
    pub(super) fn lend(&mut self, id: u64) -> Option<Submission> {
        self.writes.get_mut(&id)?.write.take()
    }

    /// A lent write comes back: it needs more values.
    pub(super) fn give_back(&mut self, id: u64, write: Submission) {
        if let Some(parked) = self.writes.get_mut(&id) {
            parked.write = Some(write);
        }
    }

    /// Takes a write out of its lines; returns those that may stand first now.
    pub(super) fn leave(&mut self, id: u64) -> Vec<u64> {
        let Some(parked) = self.writes.remove(&id) else {
            return Vec::new();
        };
        let mut next = Vec::new();
        for key in &parked.keys {
            let Some(line) = self.lines.get_mut(key) else {
                continue;
            };
            line.waiting.retain(|waiting| *waiting != id);
            line.base = Base::Unknown;
            match line.waiting.front() {
                Some(first) => next.push(*first),
                None => {
                    self.lines.remove(key);
                }
            }
        }
        next
    }

    /// Takes a write away from its place, which stays.
    pub(super) fn give_up(&mut self, id: u64) -> Option<Submission> {
        self.lend(id)
    }

    /// The writes that have waited since before `since`.
    pub(super) fn overdue(&self, since: Micros) -> Vec<u64> {
        let late = |parked: &Parked| parked.write.as_ref().is_some_and(|w| w.arrived < since);
        self.writes
            .iter()
            .filter(|(_, parked)| late(parked))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Empties it.
    pub(super) fn drain(&mut self) -> Vec<Submission> {
        self.lines.clear();
        let mut writes: Vec<_> = self.writes.drain().collect();
        writes.sort_unstable_by_key(|(id, _)| *id);
        writes.into_iter().filter_map(|(_, p)| p.write).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::partition::admission::Place;
    use cairn_core::ids::{Micros, PartitionId};
    use cairn_core::kv::DueKey;
    use cairn_core::kv::request::WriteLevel;

    use super::super::reply::ReplyQueue;
    use super::*;

    fn due(names: &[&'static str]) -> Submission {
        Submission {
            partition: PartitionId(0),
            work: Work::Expire(
                names
                    .iter()
                    .map(|name| DueKey {
                        key: key(name),
                        row: None,
                    })
                    .collect(),
            ),
            reply: ReplyQueue::default().reply_to(0),
            place: Place {
                level: WriteLevel::Quorum,
                bytes: 0,
            },
            arrived: Micros(0),
        }
    }

    fn key(name: &'static str) -> Bytes {
        Bytes::from_static(name.as_bytes())
    }

    #[test]
    fn a_write_waits_behind_those_of_its_keys_alone() {
        let mut park = Park::default();
        let first = park.add(due(&["a", "b"]));
        assert!(park.blocks(&due(&["b"]).work));
        assert!(!park.blocks(&due(&["c"]).work));
        let second = park.add(due(&["b", "c"]));
        assert!(park.is_first(first));
        assert!(!park.is_first(second));
        assert_eq!(park.leave(first), vec![second]);
        assert!(park.is_first(second));
        assert!(park.leave(second).is_empty());
        assert_eq!(park.len(), 0);
        assert!(!park.blocks(&due(&["a", "b", "c"]).work));
    }

    #[test]
    fn a_value_serves_one_write_since_that_may_change_it() {
        let mut park = Park::default();
        let first = park.add(due(&["a"]));
        let second = park.add(due(&["a"]));
        let (ticket, keys) = park.want(vec![key("a")]);
        assert_eq!(keys, vec![key("a")]);
        assert!(park.want(vec![key("a")]).1.is_empty());
        assert_eq!(park.base(&key("a")), None);
        assert_eq!(park.found(ticket, &key("a"), None), Some(first));
        assert_eq!(park.base(&key("a")), Some(None));
        assert_eq!(park.leave(first), vec![second]);
        assert_eq!(park.base(&key("a")), None);
        assert_eq!(park.want(vec![key("a")]).1, vec![key("a")]);
    }

    #[test]
    fn a_lookup_from_before_a_write_counts_nothing() {
        let mut park = Park::default();
        let first = park.add(due(&["a"]));
        let second = park.add(due(&["a"]));
        let (early, _) = park.want(vec![key("a")]);
        park.leave(first);
        let (late, _) = park.want(vec![key("a")]);
        assert_eq!(park.found(early, &key("a"), None), None);
        assert_eq!(park.base(&key("a")), None);
        assert_eq!(park.found(late, &key("a"), None), Some(second));
    }

    #[test]
    fn a_write_that_is_given_up_keeps_its_place_until_it_is_its_turn() {
        let mut park = Park::default();
        let first = park.add(due(&["a"]));
        let second = park.add(due(&["a"]));
        assert_eq!(park.overdue(Micros(1)).len(), 2);
        assert!(park.give_up(first).is_some());
        assert_eq!(park.overdue(Micros(1)), vec![second]);
        assert!(park.is_first(first));
        assert!(park.lend(first).is_none());
        assert_eq!(park.leave(first), vec![second]);
        assert_eq!(park.drain().len(), 1);
    }

    #[test]
    fn a_write_that_names_a_key_twice_waits_once() {
        let mut park = Park::default();
        let only = park.add(due(&["a", "a"]));
        assert!(park.is_first(only));
        assert!(park.leave(only).is_empty());
        assert_eq!(park.len(), 0);
    }
}
