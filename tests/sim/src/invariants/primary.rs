//! Rule 1: an epoch has at most one primary, so that whatever was flushed at a place of
//! an epoch is one entry wherever it stands.

use std::collections::BTreeMap;

use cairn_core::ids::{Epoch, Mark, NodeId, Position};
use cairn_core::record::{Member, PartitionRecord};
use cairn_core::replication::Standing;

use super::{Check, broken};

const NAME: &str = "one primary per epoch (rule 1)";

/// Who served in which epoch, and what was written in it.
#[derive(Debug, Default)]
pub struct OnePrimary {
    named: BTreeMap<Epoch, Member>,
    serving: BTreeMap<Epoch, NodeId>,
    written: BTreeMap<Position, (u64, NodeId)>,
}

impl OnePrimary {
    /// The coordinators have committed a record.
    ///
    /// # Errors
    /// Where another primary was named in its epoch before.
    pub fn named(&mut self, record: &PartitionRecord) -> Check {
        let Some(primary) = record.primary else {
            return Ok(());
        };
        let first = *self.named.entry(record.epoch).or_insert(primary);
        if first == primary {
            return Ok(());
        }
        Err(broken(
            NAME,
            format!(
                "{first:?} and {primary:?} are both named in {}",
                record.epoch
            ),
        ))
    }

    /// A node serves. Whether it is the first time in this epoch.
    ///
    /// # Errors
    /// Where another one served in the epoch.
    pub fn serves(&mut self, node: NodeId, standing: &Standing) -> Result<bool, String> {
        let before = self.serving.insert(standing.epoch, node);
        match before {
            Some(other) if other != node => Err(broken(
                NAME,
                format!("{other} and {node} both serve in {}", standing.epoch),
            )),
            Some(_) => Ok(false),
            None => Ok(true),
        }
    }

    /// A node has flushed an entry.
    ///
    /// # Errors
    /// Where another entry was flushed at its position.
    pub fn flushed(&mut self, node: NodeId, mark: Mark) -> Check {
        let written = self.written.entry(mark.position);
        let (chain, other) = *written.or_insert((mark.chain, node));
        if chain == mark.chain {
            return Ok(());
        }
        Err(broken(
            NAME,
            format!("{node} has another entry than {other} at {}", mark.position),
        ))
    }
}
