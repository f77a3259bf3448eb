//! Rule 5: a lease never overlaps a promotion. At most one node may answer at a time,
//! one that stands still included, and none but the named one once another is named.

use cairn_core::ids::{Micros, NodeId, PartitionId};
use cairn_core::record::PartitionRecord;
use cairn_core::replication::Standing;

use super::{Check, broken};
use crate::node::Node;

const NAME: &str = "leases never overlap a promotion (rule 5)";

fn holder(node: &Node, partition: PartitionId, now: Micros) -> Option<Standing> {
    let standing = node.core.as_ref()?.standing(partition)?;
    (standing.serving && standing.lease_until > node.clock(now)).then_some(standing)
}

/// A node was stepped: if it may answer now, no other one may.
///
/// # Errors
/// Where another one may.
pub fn check(nodes: &[Node], stepped: NodeId, partition: PartitionId, now: Micros) -> Check {
    let holds = |node: &&Node| holder(node, partition, now).is_some();
    if !nodes.iter().filter(|n| n.id == stepped).any(|n| holds(&n)) {
        return Ok(());
    }
    match nodes.iter().filter(|n| n.id != stepped).find(holds) {
        None => Ok(()),
        Some(other) => Err(broken(
            NAME,
            format!("{} and {stepped} both hold the lease", other.id),
        )),
    }
}

/// A primary was named.
///
/// # Errors
/// Where another one still answers in an older epoch.
pub fn named(nodes: &[Node], record: &PartitionRecord, now: Micros) -> Check {
    let Some(primary) = record.primary else {
        return Ok(());
    };
    for node in nodes.iter().filter(|node| node.id != primary.node) {
        if let Some(standing) = holder(node, record.id, now)
            && standing.epoch < record.epoch
        {
            return Err(broken(
                NAME,
                format!(
                    "{} is named in {} while {} holds the lease of {}",
                    primary.node, record.epoch, node.id, standing.epoch
                ),
            ));
        }
    }
    Ok(())
}
