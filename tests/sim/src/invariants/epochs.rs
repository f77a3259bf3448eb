//! Rule 1: a promised epoch never goes back, nor does what the disk says of it: whoever
//! vouched for an epoch had it durable.

use std::collections::BTreeMap;

use cairn_core::cluster::report::ReplicaReport;
use cairn_core::ids::{Epoch, NodeId};
use cairn_core::replication::{DurableRecord, RecoveredPartition, Standing};

use super::{Check, broken};

const NAME: &str = "epochs never go back (rule 1)";

/// The epochs of each node.
#[derive(Debug, Default)]
pub struct Epochs {
    /// In this process.
    promised: BTreeMap<NodeId, (u64, Epoch)>,
    /// What was flushed.
    flushed: BTreeMap<NodeId, Epoch>,
}

impl Epochs {
    /// A node was stepped.
    ///
    /// # Errors
    /// Where its promise went back.
    pub fn check(&mut self, node: NodeId, session: u64, standing: &Standing) -> Check {
        let before = self.promised.insert(node, (session, standing.epoch));
        match before {
            Some((of, epoch)) if of == session && epoch > standing.epoch => Err(broken(
                NAME,
                format!("{node} went from {epoch} to {}", standing.epoch),
            )),
            _ => Ok(()),
        }
    }

    /// A node has flushed a record.
    pub fn flushed(&mut self, node: NodeId, record: &DurableRecord) {
        if let DurableRecord::Promise { epoch, .. } = record {
            let known = self.flushed.entry(node).or_default();
            *known = (*known).max(*epoch);
        }
    }

    /// The newest epoch that a node has promised durably.
    #[must_use]
    pub fn durable(&self, node: NodeId) -> Epoch {
        self.flushed.get(&node).copied().unwrap_or_default()
    }

    /// A node tells the coordinators how it stands.
    ///
    /// # Errors
    /// Where it vouches for an epoch that is not durable.
    pub fn reports(&mut self, node: NodeId, report: &ReplicaReport) -> Check {
        let durable = self.durable(node);
        if report.fenced && report.promised > durable {
            return Err(broken(
                NAME,
                format!(
                    "{node} reports {} while {durable} is what it flushed",
                    report.promised
                ),
            ));
        }
        Ok(())
    }

    /// A process starts from what its disk holds.
    ///
    /// # Errors
    /// Where the disk forgot what was flushed.
    pub fn recovered(&mut self, node: NodeId, found: Option<&RecoveredPartition>) -> Check {
        let durable = self.durable(node);
        let promised = found.map_or(Epoch::ZERO, |found| found.meta.promised);
        let corrupt = found.is_some_and(|found| found.corrupt);
        if promised < durable && !corrupt {
            return Err(broken(
                NAME,
                format!("{node} starts with {promised}, and had flushed {durable}"),
            ));
        }
        // A promise that was written and not flushed may have reached the disk, and
        // counts from now on.
        self.flushed.insert(node, durable.max(promised));
        Ok(())
    }
}
