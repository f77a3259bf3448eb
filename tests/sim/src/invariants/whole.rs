//! Rule 12: a replica that calls itself whole holds all that it ever flushed, and did not
//! cut off itself; a damaged one, or an empty disk under an old name, says so.

use std::collections::{BTreeMap, BTreeSet};

use cairn_core::cluster::report::ReplicaReport;
use cairn_core::ids::{Epoch, Index, Mark, NodeId, ReplicaId};
use cairn_core::replication::{DurableRecord, RecoveredPartition};

use super::{Check, broken};

const NAME: &str = "who calls itself whole holds what it flushed (rule 12)";

#[derive(Debug, Default)]
struct Held {
    /// The last entry of each epoch that was flushed and not cut off since.
    flushed: BTreeMap<Epoch, Index>,
    /// Cuts on their way to the disk, oldest first.
    cuts: Vec<Index>,
}

impl Held {
    fn take(&mut self, mark: Mark) {
        let last = self.flushed.entry(mark.epoch()).or_default();
        *last = mark.index().max(*last);
    }

    fn cut(&mut self, to: Index) {
        for last in self.flushed.values_mut() {
            *last = to.min(*last);
        }
    }

    /// Up to where its log reaches at least, as far as it was written before an epoch.
    fn least(&self, before: Epoch) -> Index {
        let older = self.flushed.range(..before);
        let last = older.map(|(_, last)| *last).max().unwrap_or_default();
        self.cuts.iter().copied().fold(last, Index::min)
    }
}

/// What each replica has to hold.
#[derive(Debug, Default)]
pub struct Wholeness {
    replicas: BTreeMap<ReplicaId, Held>,
    /// Whose log a node writes.
    writing: BTreeMap<NodeId, ReplicaId>,
    /// Whose log its disk holds: until the creation of a new replica is flushed, what is
    /// flushed is of the one before.
    living: BTreeMap<NodeId, ReplicaId>,
    /// Replicas whose node knows that they are damaged.
    damaged: BTreeSet<ReplicaId>,
}

/// Up to where a record cuts the log.
fn cut(record: &DurableRecord) -> Option<Index> {
    match record {
        DurableRecord::Truncate { to, .. } => Some(to.index()),
        DurableRecord::Installed {
            mark,
            keep_tail: false,
            ..
        } => Some(mark.index()),
        _ => None,
    }
}

impl Wholeness {
    /// What the replica that a node writes has to hold.
    fn written(&mut self, node: NodeId) -> Option<&mut Held> {
        let replica = self.writing.get(&node)?;
        Some(self.replicas.entry(*replica).or_default())
    }

    /// A node is about to write a record.
    pub fn appends(&mut self, node: NodeId, record: &DurableRecord) {
        if let DurableRecord::Create { replica, .. } = record {
            self.writing.insert(node, *replica);
        }
        if let (Some(to), Some(held)) = (cut(record), self.written(node)) {
            held.cuts.push(to);
        }
    }

    /// A node has flushed a record.
    pub fn flushed(&mut self, node: NodeId, record: &DurableRecord) {
        if let DurableRecord::Create { replica, .. } = record {
            self.living.insert(node, *replica);
        }
        let Some(replica) = self.living.get(&node) else {
            return;
        };
        let held = self.replicas.entry(*replica).or_default();
        match record {
            DurableRecord::Entry { entry, .. } => {
                held.take(entry.mark());
            }
            DurableRecord::Installed { mark, .. } => {
                held.take(*mark);
            }
            _ => {}
        }
        if let Some(to) = cut(record) {
            held.cut(to);
            if !held.cuts.is_empty() {
                held.cuts.remove(0);
            }
        }
    }

    /// A node that runs finds its replica damaged.
    pub fn finds_damage(&mut self, node: NodeId) {
        self.damaged.extend(self.writing.get(&node));
    }

    /// A node has mended its log from that of the primary, which is all that counts.
    pub fn mended(&mut self, node: NodeId, head: Index) {
        if let Some(replica) = self.writing.get(&node) {
            self.damaged.remove(replica);
        }
        if let Some(held) = self.written(node) {
            held.cut(head);
        }
    }

    /// A process starts from what its disk holds.
    ///
    /// # Errors
    /// Where the disk forgot entries and nobody noticed.
    pub fn recovered(&mut self, node: NodeId, found: Option<&RecoveredPartition>) -> Check {
        let Some(found) = found else { return Ok(()) };
        let Some(replica) = found.meta.replica else {
            return Ok(());
        };
        self.writing.insert(node, replica);
        self.living.insert(node, replica);
        let held = self.replicas.entry(replica).or_default();
        let least = held.least(Epoch(u64::MAX));
        held.cuts.clear();
        if found.corrupt {
            self.damaged.insert(replica);
            return Ok(());
        }
        self.damaged.remove(&replica);
        let base = found.meta.base.max_by_index(found.applied);
        held.flushed.clear();
        held.take(base);
        for entry in &found.entries {
            held.take(entry.mark());
        }
        let head = held.least(Epoch(u64::MAX));
        if head < least {
            return Err(broken(
                NAME,
                format!("{node} starts with {head}, and {replica} had flushed {least}"),
            ));
        }
        Ok(())
    }

    /// A node tells the coordinators how it stands, and has promised `durable`.
    ///
    /// # Errors
    /// Where it calls itself whole and is not.
    pub fn reports(&self, node: NodeId, durable: Epoch, report: &ReplicaReport) -> Check {
        if report.whole && self.damaged.contains(&report.member.replica) {
            return Err(broken(
                NAME,
                format!(
                    "{node} calls {} whole, and knows better",
                    report.member.replica
                ),
            ));
        }
        if !report.whole || !report.fenced || report.promised < durable {
            // A newer epoch's primary may have sent it more by now, and nobody will be
            // named in the older one.
            return Ok(());
        }
        // What the epoch's own primary has written since need not be told of.
        let held = self.replicas.get(&report.member.replica);
        let least = held.map_or(Index::ZERO, |held| held.least(report.promised));
        if report.head.index < least {
            return Err(broken(
                NAME,
                format!(
                    "{node} reports {} as its head, and {} had flushed {least}",
                    report.head, report.member.replica
                ),
            ));
        }
        Ok(())
    }
}
