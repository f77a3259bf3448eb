//! What must hold after every step, over all nodes at once.

use std::collections::BTreeMap;

use cairn_core::ids::{Epoch, Index, Mark, Micros, NodeId, PartitionId};

use crate::node::Node;

/// What the checker knows of the one partition.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Entries whose write was acknowledged to a client.
    pub acknowledged: BTreeMap<Index, Mark>,
    /// How far any strong read saw.
    pub observed: Index,
    /// Every entry that any node applied.
    pub applied: BTreeMap<Index, Mark>,
    /// Who was seen serving in an epoch.
    pub primaries: BTreeMap<Epoch, NodeId>,
}

impl Ledger {
    /// Rule 7: an acknowledged write stands in the log for ever.
    ///
    /// # Errors
    /// Two different entries at one index.
    pub fn acknowledge(&mut self, mark: Mark) -> Result<(), String> {
        match self.acknowledged.insert(mark.index(), mark) {
            Some(before) if before != mark => Err(format!(
                "acknowledged twice at one index: {before:?} and {mark:?}"
            )),
            _ => Ok(()),
        }
    }

    /// Rule 4: whoever applies an index applies the same entry.
    ///
    /// # Errors
    /// Where two nodes applied different entries.
    pub fn applied(&mut self, node: NodeId, mark: Mark) -> Result<(), String> {
        let known = *self.applied.entry(mark.index()).or_insert(mark);
        if known != mark {
            return Err(format!(
                "{node} applied {mark:?} where {known:?} was applied"
            ));
        }
        match self.acknowledged.get(&mark.index()) {
            Some(acked) if *acked != mark => Err(format!(
                "{node} applied {mark:?}, acknowledged was {acked:?}"
            )),
            _ => Ok(()),
        }
    }

    /// Rules 1, 3 and 5: at most one node serves reads at a time, one primary to an
    /// epoch, and what it would answer from includes every acknowledged write.
    ///
    /// # Errors
    /// The first that does not hold.
    pub fn check(
        &mut self,
        nodes: &[Node],
        partition: PartitionId,
        now: Micros,
    ) -> Result<(), String> {
        let mut reader: Option<NodeId> = None;
        let newest = self
            .acknowledged
            .last_key_value()
            .map(|(i, _)| *i)
            .unwrap_or_default();
        for node in nodes {
            let Some(core) = &node.core else { continue };
            if node.paused_until > now {
                continue;
            }
            let Some(standing) = core.standing(partition) else {
                continue;
            };
            if !standing.serving {
                continue;
            }
            let first = *self.primaries.entry(standing.epoch).or_insert(node.id);
            if first != node.id {
                return Err(format!(
                    "{first} and {} both serve in {}",
                    node.id, standing.epoch
                ));
            }
            if standing.lease_until <= node.clock(now) {
                continue;
            }
            if let Some(other) = reader {
                return Err(format!("{other} and {} both hold the lease", node.id));
            }
            reader = Some(node.id);
            if standing.commit < newest {
                return Err(format!(
                    "{} would read at {} although {newest} was acknowledged",
                    node.id, standing.commit
                ));
            }
        }
        Ok(())
    }
}
