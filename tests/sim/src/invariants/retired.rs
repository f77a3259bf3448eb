//! Rule 11: a node that was retired holds no replica that counts, has no seat, and was not
//! the last to hold what was acknowledged.

use cairn_core::cluster::state::ClusterState;
use cairn_core::ids::NodeId;
use cairn_core::record::PartitionRecord;

use super::acknowledged::Acknowledged;
use super::{Check, broken};

const NAME: &str = "who is retired is not needed (rule 11)";

/// The coordinators' state has changed since a node was retired.
///
/// # Errors
/// Where it holds something, or is to.
pub fn check(state: &ClusterState, node: NodeId) -> Check {
    match state.held_by(node) {
        None => Ok(()),
        Some(partition) => Err(broken(
            NAME,
            format!("{node} is retired, and holds {partition} or has a seat of it"),
        )),
    }
}

/// A node was retired, and this is the newest record of a partition.
///
/// # Errors
/// Where nobody else has what was acknowledged last.
pub fn is_not_the_last(
    node: NodeId,
    record: &PartitionRecord,
    acknowledged: &Acknowledged,
) -> Check {
    let Some(newest) = acknowledged.newest() else {
        return Ok(());
    };
    let others = record.config.voters();
    let mut others = others.iter().filter(|member| member.node != node);
    if others.any(|member| acknowledged.is_flushed(member.replica, newest)) {
        return Ok(());
    }
    Err(broken(
        NAME,
        format!(
            "{node} is retired, and nobody of {:?} has {newest:?}, which was acknowledged",
            record.config
        ),
    ))
}
