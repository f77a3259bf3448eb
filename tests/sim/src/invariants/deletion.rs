//! Rule 11: a replica is deleted only once a configuration without it is in force.

use std::collections::BTreeMap;

use cairn_core::ids::{NodeId, ReplicaId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::{DurableRecord, RecoveredPartition};

use super::{Check, broken};

const NAME: &str = "old data goes once the new configuration is in force (rule 11)";

/// Which replica each node holds, or is about to.
#[derive(Debug, Default)]
pub struct Deletion {
    living: BTreeMap<NodeId, ReplicaId>,
}

impl Deletion {
    /// A node is about to write a record; `newest` is what the coordinators have decided.
    ///
    /// # Errors
    /// Where it deletes a replica that counts.
    pub fn appends(
        &mut self,
        node: NodeId,
        record: &DurableRecord,
        newest: Option<&PartitionRecord>,
    ) -> Check {
        match record {
            DurableRecord::Create { replica, .. } => {
                self.living.insert(node, *replica);
            }
            DurableRecord::Delete { .. } => {
                let replica = self.living.remove(&node);
                // A damaged one goes for its successor on the same node, while it counts as
                // absent (rule 12).
                let here = newest.and_then(|newest| newest.config.on_node(node));
                if let Some(here) = here.filter(|here| Some(here.replica) == replica) {
                    return Err(broken(
                        NAME,
                        format!("{here:?} is deleted, and is one of {newest:?}"),
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// A process starts from what its disk holds.
    pub fn recovered(&mut self, node: NodeId, found: Option<&RecoveredPartition>) {
        match found.and_then(|found| found.meta.replica) {
            Some(replica) => self.living.insert(node, replica),
            None => self.living.remove(&node),
        };
    }
}
