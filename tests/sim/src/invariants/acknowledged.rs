//! Rules 3, 7 and 11: a write is acknowledged once W members of each set in force have
//! flushed it, and stands in the log of whoever serves in a newer epoch.

use std::collections::BTreeMap;

use cairn_core::ids::{Epoch, Index, Mark, NodeId, PartitionId, ReplicaId};
use cairn_core::record::{Configuration, ReplicaSet};
use cairn_core::replication::{DurableRecord, NodeCore, RecoveredPartition, Standing};

use super::{Check, broken};

const FLUSHED: &str = "acknowledged means flushed on W (rule 7)";
const KEPT: &str = "acknowledged writes are in newer epochs' logs (rule 3)";

/// What the disk of its node holds durably of a replica's log. One that was deleted since
/// did hold it.
#[derive(Debug, Default)]
struct Flushed {
    base: Mark,
    entries: BTreeMap<Index, Mark>,
}

impl Flushed {
    /// Whether it holds the log up to an entry. What a snapshot covers is held too.
    fn holds(&self, mark: Mark) -> bool {
        self.entries.get(&mark.index()) == Some(&mark) || self.base.index() >= mark.index()
    }

    fn take(&mut self, record: &DurableRecord) {
        match record {
            DurableRecord::Entry { entry, .. } => {
                self.entries.insert(entry.position.index, entry.mark());
            }
            DurableRecord::Truncate { to, .. } => {
                self.entries.split_off(&to.index().next());
            }
            DurableRecord::Installed {
                mark, keep_tail, ..
            } => {
                self.base = *mark;
                if !keep_tail {
                    self.entries.clear();
                }
            }
            DurableRecord::Create { .. }
            | DurableRecord::Delete { .. }
            | DurableRecord::Corrupt { .. }
            | DurableRecord::Promise { .. }
            | DurableRecord::Configure { .. } => {}
        }
    }
}

/// What was acknowledged, and what is flushed where.
#[derive(Debug, Default)]
pub struct Acknowledged {
    newest: Option<Mark>,
    /// The newest entry that was acknowledged in an epoch. A primary that wakes up in its old
    /// epoch need not know what was acknowledged since: it has no lease to tell it under.
    by_epoch: BTreeMap<Epoch, Mark>,
    /// How many writes by the index of their entry.
    count: BTreeMap<Index, u64>,
    replicas: BTreeMap<ReplicaId, Flushed>,
    /// Whose log the disk of a node holds.
    living: BTreeMap<NodeId, ReplicaId>,
    configurations: BTreeMap<Epoch, Configuration>,
}

impl Acknowledged {
    /// The newest entry that was acknowledged.
    #[must_use]
    pub fn newest(&self) -> Option<Mark> {
        self.newest
    }

    /// Whether a replica has flushed an entry.
    #[must_use]
    pub fn is_flushed(&self, replica: ReplicaId, mark: Mark) -> bool {
        let flushed = self.replicas.get(&replica);
        flushed.is_some_and(|flushed| flushed.holds(mark))
    }

    /// The sets of an epoch.
    #[must_use]
    pub fn configuration(&self, epoch: Epoch) -> Option<&Configuration> {
        self.configurations.get(&epoch)
    }

    /// How many members of a set have flushed an entry of an epoch, or of a later one.
    #[must_use]
    pub fn holding_epoch(&self, set: &ReplicaSet, epoch: Epoch) -> usize {
        let reaches = |flushed: &Flushed| {
            let newest = flushed.entries.last_key_value().map(|(_, mark)| *mark);
            flushed.base.epoch() >= epoch || newest.is_some_and(|mark| mark.epoch() >= epoch)
        };
        let holds = |replica| self.replicas.get(&replica).is_some_and(reaches);
        set.members.iter().filter(|m| holds(m.replica)).count()
    }

    /// The coordinators decided on the sets of an epoch.
    pub fn configured(&mut self, epoch: Epoch, configuration: &Configuration) {
        let known = self.configurations.entry(epoch);
        known.or_insert_with(|| configuration.clone());
    }

    /// A node has flushed a record.
    pub fn flushed(&mut self, node: NodeId, record: &DurableRecord) {
        if let DurableRecord::Create { replica, .. } = record {
            self.living.insert(node, *replica);
        }
        if let Some(replica) = self.living.get(&node) {
            self.replicas.entry(*replica).or_default().take(record);
        }
    }

    /// A process starts from what its disk holds, all of which is flushed by then.
    pub fn recovered(&mut self, node: NodeId, found: Option<&RecoveredPartition>) {
        let Some((found, replica)) = found.and_then(|f| Some((f, f.meta.replica?))) else {
            return;
        };
        let entries = found.entries.iter().map(|e| (e.position.index, e.mark()));
        let flushed = Flushed {
            base: found.meta.base.max_by_index(found.applied),
            entries: entries.collect(),
        };
        self.living.insert(node, replica);
        // What was damaged since was flushed all the same.
        if !found.corrupt {
            self.replicas.insert(replica, flushed);
        }
    }

    /// A primary acknowledges a write.
    ///
    /// # Errors
    /// Where too few have flushed it.
    pub fn acknowledge(&mut self, node: NodeId, standing: &Standing, mark: Mark) -> Check {
        if self
            .newest
            .is_none_or(|newest| newest.index() < mark.index())
        {
            self.newest = Some(mark);
        }
        let newest = self.by_epoch.entry(standing.epoch).or_insert(mark);
        if newest.index() < mark.index() {
            *newest = mark;
        }
        *self.count.entry(mark.index()).or_default() += 1;
        let Some(configuration) = self.configurations.get(&standing.epoch) else {
            return Ok(());
        };
        for set in configuration.sets() {
            let holds = |replica| self.is_flushed(replica, mark);
            let holding = set.members.iter().filter(|m| holds(m.replica)).count();
            if holding < set.write_quorum() {
                return Err(broken(
                    FLUSHED,
                    format!(
                        "{node} acknowledged {} in {}, which {holding} of {set:?} have flushed",
                        mark.position, standing.epoch
                    ),
                ));
            }
        }
        Ok(())
    }

    /// A node begins to serve in an epoch.
    ///
    /// # Errors
    /// Where its log lacks what was acknowledged.
    pub fn serves(
        &self,
        node: NodeId,
        core: &NodeCore,
        partition: PartitionId,
        standing: &Standing,
    ) -> Check {
        let earlier = self.by_epoch.range(..=standing.epoch);
        let Some(newest) = earlier.map(|(_, mark)| *mark).max_by_key(Mark::index) else {
            return Ok(());
        };
        let before = Index(newest.index().0.saturating_sub(1));
        let tail = core.log_after(partition, before);
        // Below what is in memory everything was applied, which is held against the line.
        let at = tail.first().filter(|e| e.position.index == newest.index());
        let lacks = standing.commit < newest.index() || at.is_some_and(|e| e.mark() != newest);
        if lacks {
            return Err(broken(
                KEPT,
                format!(
                    "{node} serves in {} from {}, without {newest:?}",
                    standing.epoch, standing.commit
                ),
            ));
        }
        Ok(())
    }

    /// A promotion lost what was past an index (rule 9). How many acknowledged writes.
    pub fn cut(&mut self, to: Index, newest: Option<Mark>) -> u64 {
        let lost = self.count.split_off(&to.next());
        if !lost.is_empty() {
            self.newest = newest;
            self.by_epoch.retain(|_, mark| mark.index() <= to);
            if let Some(newest) = newest {
                self.by_epoch.entry(newest.epoch()).or_insert(newest);
            }
        }
        lost.values().sum()
    }
}
