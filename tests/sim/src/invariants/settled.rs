//! Rules 11 and 15: long after the last fault the seats are those for the nodes and the RF
//! that there are, every partition is on its seats and nowhere else with the configured W,
//! and whoever was to give everything up has, and is gone.

use std::collections::BTreeSet;

use cairn_core::cluster::state::ClusterState;
use cairn_core::ids::NodeId;
use cairn_core::record::{ClusterSettings, PartitionRecord};

use super::{Check, broken};

const NAME: &str = "not settled (rules 11, 15)";

/// Whether everything is where it belongs.
///
/// # Errors
/// What is not.
pub fn check(state: &ClusterState) -> Check {
    let Some(settings) = state.settings() else {
        return Ok(());
    };
    let basis = state.basis();
    if *state.placed_for() != basis {
        return Err(broken(
            NAME,
            format!("the seats are for {:?}, not {basis:?}", state.placed_for()),
        ));
    }
    if let Some(node) = state.members().find(|n| state.leaving(n.id).is_some()) {
        let why = state.leaving(node.id);
        return Err(broken(NAME, format!("{} still is {why:?}", node.id)));
    }
    let placed = |record: &PartitionRecord| is_placed(record, state.seats(record.id), settings);
    match state.partitions().iter().find(|record| !placed(record)) {
        None => Ok(()),
        Some(record) => Err(broken(
            NAME,
            format!(
                "RF {} and W {} are configured, {:?} are the seats of {record:?}",
                settings.replication_factor,
                settings.write_quorum,
                state.seats(record.id)
            ),
        )),
    }
}

fn is_placed(record: &PartitionRecord, seats: &[NodeId], settings: &ClusterSettings) -> bool {
    let config = &record.config;
    let members: BTreeSet<NodeId> = config.current.members.iter().map(|m| m.node).collect();
    record.primary.is_some()
        && config.joint.is_none()
        && config.learners.is_empty()
        && config.current.len() == seats.len()
        && seats.len() == usize::from(settings.replication_factor)
        && members == seats.iter().copied().collect()
        && config.current.write_quorum == settings.write_quorum
        && !record.degraded
}
