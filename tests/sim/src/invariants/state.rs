//! Rules 8 and 17: at equal applied index every replica holds the same state, the
//! idempotence table included; and a write that was tried again was applied once.
//!
//! A reference applies each committed entry once, one by one, as the first replica does.

use std::collections::BTreeMap;

use cairn_core::ids::{Index, Mark, NodeId, PartitionId, Position};
use cairn_core::kv::EntryBody;
use cairn_core::replication::{EntryKind, Generation, LogEntry};
use cairn_storage::sim::MemStore;
use cairn_storage::state::Applier;

use super::{Check, broken};
use crate::digest::{Digest, Digests};

const EQUAL: &str = "replicas agree on table and data (rules 8, 17)";
const ONCE: &str = "a retried write is applied once (rule 8)";

/// The reference's state. Any number will do that is not 0.
const GENERATION: Generation = Generation(1);

/// What every replica is held against.
#[derive(Debug, Default)]
pub struct States {
    store: MemStore,
    applier: Applier,
    digests: Digests,
    applied: Index,
    /// A promotion lost entries that the reference holds: from then on the first replica
    /// at an index is the reference.
    forked: bool,
    at: BTreeMap<Index, (Mark, Digest)>,
    names: BTreeMap<(u128, u64), Position>,
}

impl States {
    /// Some replica applies committed entries: the reference does too.
    ///
    /// # Errors
    /// Where a sequenced write stands in two of them.
    pub fn follow(&mut self, partition: PartitionId, entries: &[LogEntry]) -> Check {
        for entry in entries {
            if entry.position.index != self.applied.next() {
                continue;
            }
            self.applied = entry.position.index;
            self.name(entry)?;
            if self.forked {
                continue;
            }
            let failed = |error| broken(EQUAL, format!("{}: {error}", entry.position));
            self.applier
                .stage(
                    &self.store,
                    partition,
                    GENERATION,
                    std::slice::from_ref(entry),
                )
                .map_err(failed)?;
            let before = self.digests.of(&self.store, GENERATION);
            before.map_err(|error| broken(EQUAL, error))?;
            let mut following = self.digests.observe(&self.store);
            self.applier
                .commit(&self.store, &mut following)
                .map_err(failed)?;
            let digest = self.digests.of(&self.store, GENERATION);
            let digest = digest.map_err(|error| broken(EQUAL, error))?;
            self.at.insert(self.applied, (entry.mark(), digest));
        }
        Ok(())
    }

    fn name(&mut self, entry: &LogEntry) -> Check {
        if entry.kind != EntryKind::Write {
            return Ok(());
        }
        let body = EntryBody::decode(entry.body.clone())
            .map_err(|error| broken(EQUAL, format!("{}: {error}", entry.position)))?;
        for record in &body.sequenced {
            let name = (record.client, record.sequence);
            if let Some(first) = self.names.insert(name, entry.position) {
                return Err(broken(
                    ONCE,
                    format!("{name:?} stands at {first} and at {}", entry.position),
                ));
            }
        }
        Ok(())
    }

    /// A replica's state holds that mark.
    ///
    /// # Errors
    /// Where it differs from the reference.
    pub fn check(&mut self, node: NodeId, mark: Mark, digest: Digest, lossy: bool) -> Check {
        match self.at.get(&mark.index()) {
            // Where writes may be lost some replica may hold another line: an old primary
            // whose W is 1 commits and applies what it flushes, and acknowledges none of it.
            Some(&(known, _)) if lossy && known != mark => Ok(()),
            Some(&(known, state)) if (known, state) != (mark, digest) => Err(broken(
                EQUAL,
                format!("the state of {node} at {mark:?} is another than that of {known:?}"),
            )),
            None if self.forked => {
                self.at.insert(mark.index(), (mark, digest));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A promotion lost what was past an index (rule 9).
    pub fn cut(&mut self, to: Index) {
        self.forked = true;
        self.applied = self.applied.min(to);
        self.at.split_off(&to.next());
        self.names.retain(|_, position| position.index <= to);
    }
}
