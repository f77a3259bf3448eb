//! What the coordinators were seen to do, held against what Raft promises.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cairn_core::cluster::{ClusterState, Command};
use cairn_node::coordinator::{Logged, Probe};
use xxhash_rust::xxh3::xxh3_64;

use crate::fleet::COUNT;
use crate::writers::{SETTING, Written};

/// How one coordinator stood when it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// Of its disk: outlives the process.
    term: u64,
    /// Term and index; of the process, as a restarted one applies its log anew.
    applied: Option<(u64, u64)>,
}

/// All that was seen in a run.
#[derive(Debug, Default)]
pub struct Ledger {
    seen: [Seen; COUNT],
    /// By index, the entry that was applied there, whoever did.
    entries: BTreeMap<u64, u64>,
    /// By index, the state after it.
    states: HashMap<u64, u64>,
    /// By term, who was confirmed as its leader: its Raft id, and which of its processes.
    leaders: BTreeMap<u64, (u64, u64)>,
    /// How often the process of each ended.
    lives: [u64; COUNT],
    /// What entries wrote that were applied.
    written: BTreeSet<Written>,
    /// How many writes were acknowledged.
    pub acknowledged: u64,
    /// How often a coordinator went on from another's snapshot.
    pub installed: u64,
}

impl Ledger {
    /// Looks at a coordinator that runs.
    ///
    /// # Panics
    /// Where it did what it must not.
    pub fn look(&mut self, place: usize, probe: &Probe) {
        let now = probe.standing();
        let seen = self.seen[place];
        assert!(
            now.term >= seen.term,
            "c{place} was in term {} and is in {}",
            seen.term,
            now.term
        );
        self.seen[place].term = now.term;
        // openraft may elect a second leader in a term that the first one's vote was for.
        // It does so only where nothing of the first is committed: whoever has that has
        // heard of the term, and stands in a later one.
        if let Some(term) = now.reign {
            let process = (now.id, self.lives[place]);
            let leader = *self.leaders.entry(term).or_insert(process);
            assert_eq!(leader, process, "two were confirmed in term {term}");
        }
        let (applied, state) = probe.applied();
        assert!(
            applied >= seen.applied,
            "c{place} had applied {:?} and now {applied:?}",
            seen.applied
        );
        if let Some((_, last)) = applied.filter(|_| applied != seen.applied) {
            let first = seen.applied.map_or(0, |(_, index)| index + 1);
            let entries = probe.entries(first, last);
            // What it did not have to apply one by one it was given as a whole.
            if seen.applied.is_some() && entries.first().is_none_or(|e| e.index > first) {
                self.installed += 1;
            }
            self.take_entries(place, entries);
            self.take_state(place, &state, last);
            self.seen[place].applied = applied;
        }
    }

    /// What was applied since the last look is what others applied at these indexes.
    fn take_entries(&mut self, place: usize, entries: Vec<Logged>) {
        for entry in entries {
            let digest = xxh3_64(entry.text.as_bytes());
            let known = *self.entries.entry(entry.index).or_insert(digest);
            assert_eq!(
                known, digest,
                "c{place} applied another entry than others did: {}",
                entry.text
            );
            self.written.extend(match entry.command {
                Some(Command::RegisterNode(registration)) => Some(Written {
                    what: registration.uuid,
                    value: registration.addresses.client,
                }),
                Some(Command::ChangeSettings { settings }) => Some(Written {
                    what: SETTING.to_owned(),
                    value: settings.node_timeout_ms.to_string(),
                }),
                _ => None,
            });
        }
    }

    /// Whoever applied as much has the same state.
    fn take_state(&mut self, place: usize, state: &ClusterState, last: u64) {
        let json = serde_json::to_vec(state).expect("JSON");
        let digest = xxh3_64(&json);
        let known = *self.states.entry(last).or_insert(digest);
        assert_eq!(known, digest, "c{place} has another state at {last}");
    }

    /// What is acknowledged has been applied.
    ///
    /// # Panics
    /// Where it was not.
    pub fn hold(&mut self, acknowledged: &[Written]) {
        for written in acknowledged {
            assert!(
                self.written.contains(written),
                "acknowledged and not applied anywhere: {written:?}"
            );
        }
        self.acknowledged += acknowledged.len() as u64;
    }

    /// The process of a coordinator ended.
    pub fn ended(&mut self, place: usize) {
        self.seen[place].applied = None;
        self.lives[place] += 1;
    }

    /// The disk of a coordinator that does not run was emptied: it is another one now.
    pub fn wiped(&mut self, place: usize) {
        self.seen[place] = Seen::default();
    }

    /// In how many terms somebody was confirmed as the leader.
    #[must_use]
    pub fn terms(&self) -> u64 {
        self.leaders.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(index: u64, text: &str) -> Logged {
        Logged {
            index,
            text: text.to_owned(),
            command: None,
        }
    }

    #[test]
    #[should_panic(expected = "c1 applied another entry")]
    fn two_entries_at_one_index_are_noticed() {
        let mut ledger = Ledger::default();
        ledger.take_entries(0, vec![logged(1, "a"), logged(2, "b")]);
        ledger.take_entries(1, vec![logged(1, "a"), logged(2, "c")]);
    }

    #[test]
    #[should_panic(expected = "c2 has another state at 7")]
    fn two_states_at_one_index_are_noticed() {
        let mut ledger = Ledger::default();
        let mut made = ClusterState::default();
        let _ = made.apply(
            1,
            Command::CreateCluster {
                cluster_id: "c".to_owned(),
                settings: crate::fleet::settings(3),
            },
        );
        ledger.take_state(0, &made, 7);
        ledger.take_state(2, &ClusterState::default(), 7);
    }

    #[test]
    #[should_panic(expected = "acknowledged and not applied")]
    fn a_lost_acknowledgement_is_noticed() {
        let lost = Written {
            what: "u1".to_owned(),
            value: "v1:1".to_owned(),
        };
        Ledger::default().hold(&[lost]);
    }
}
