//! Rule 11: no more replicas are being made at a time on a node than the settings allow.

use std::collections::BTreeMap;

use cairn_core::cluster::state::ClusterState;
use cairn_core::ids::NodeId;

use super::{Check, broken};

const NAME: &str = "no more moves at a time on a node than allowed (rule 11)";

/// The coordinators' state has changed.
///
/// # Errors
/// Where a node has more of them.
pub fn check(state: &ClusterState) -> Check {
    let Some(settings) = state.settings() else {
        return Ok(());
    };
    let mut made: BTreeMap<NodeId, usize> = BTreeMap::new();
    for record in state.partitions() {
        for member in record.config.in_the_making() {
            *made.entry(member.node).or_default() += 1;
        }
    }
    let most = usize::from(settings.moves_per_node);
    match made.into_iter().find(|(_, made)| *made > most) {
        None => Ok(()),
        Some((node, made)) => Err(broken(
            NAME,
            format!("{made} replicas are being made on {node}, {most} is the most"),
        )),
    }
}
