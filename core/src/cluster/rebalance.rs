//! Which partitions get other seats when other nodes are to hold the data, and what has
//! to be copied for it.
//!
//! A function of the state alone: it plans, and nothing moves here. The supervisor turns
//! the plan into a command, people are shown it beforehand, and configurations follow the
//! seats one by one (rule 11).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::command::{PlacementBasis, SeatChange};
use super::placement::{self, PlacementError, PlacementNode, PlacementRequest};
use super::state::{ClusterState, Leaving};
use crate::ids::{NodeId, PartitionId};
use crate::record::{Configuration, PartitionRecord};

/// Why a copy moves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MoveReason {
    /// The node that holds it is gone for good.
    Gone,
    /// The node that holds it stayed away for longer than the grace.
    Away,
    /// The node that holds it gives everything up.
    Draining,
    /// There are fewer copies than the replication factor asks for.
    Missing,
    /// The node that gets it joined and takes its share.
    Joined,
    /// Shares changed: with the nodes, their weights or zones.
    Balance,
}

/// One replica that is to be made, or is being made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyMove {
    /// Of which partition.
    pub partition: PartitionId,
    /// The node whose copy it takes the place of, if of one.
    pub from: Option<NodeId>,
    /// The node that gets it.
    pub to: NodeId,
    /// Why.
    pub reason: MoveReason,
}

/// The partitions that get other seats for the state's present basis.
///
/// Copies that exist come first: a node that comes back keeps what was not made anew
/// elsewhere yet, and what has been copied halfway stays where it goes.
///
/// # Errors
/// Fewer nodes than the replication factor asks for.
pub fn seat_changes(state: &ClusterState) -> Result<Vec<SeatChange>, PlacementError> {
    let basis = state.basis();
    seats_on(state, &basis)
}

/// The same for other nodes than the state's.
pub(in crate::cluster) fn seats_on(
    state: &ClusterState,
    basis: &PlacementBasis,
) -> Result<Vec<SeatChange>, PlacementError> {
    let Some(settings) = state.settings() else {
        return Ok(Vec::new());
    };
    let previous: Vec<Vec<NodeId>> = state
        .partitions()
        .iter()
        .map(|record| previous_seats(state, record, basis))
        .collect();
    let seats = placement::place(&PlacementRequest {
        nodes: &placement_nodes(state, basis),
        replication_factor: usize::from(basis.replication_factor),
        partitions: settings.partitions,
        virtual_nodes: settings.virtual_nodes,
        previous: &previous,
    })?;
    Ok(state
        .partitions()
        .iter()
        .zip(seats)
        .filter(|(record, seats)| state.seats(record.id) != seats.as_slice())
        .map(|(record, seats)| SeatChange {
            partition: record.id,
            before: state.seats(record.id).to_vec(),
            seats,
        })
        .collect())
}

/// The nodes of a basis, as placement wants them.
pub(in crate::cluster) fn placement_nodes(
    state: &ClusterState,
    basis: &PlacementBasis,
) -> Vec<PlacementNode> {
    basis
        .nodes
        .keys()
        .filter_map(|id| state.node(*id))
        .map(|n| PlacementNode {
            id: n.id,
            uuid: n.uuid.clone(),
            zone: n.zone.clone(),
            weight: n.weight,
        })
        .collect()
}

/// Where a partition is as far as the plan is concerned: its preferred primary stays, if
/// it may; then seats with a copy, then copies without a seat, then seats without a copy.
/// What is more than RF, placement drops.
fn previous_seats(
    state: &ClusterState,
    record: &PartitionRecord,
    basis: &PlacementBasis,
) -> Vec<NodeId> {
    let seats = state.seats(record.id);
    let copies: Vec<NodeId> = replicas_of(&record.config);
    let mut nodes: Vec<NodeId> = seats
        .iter()
        .filter(|seat| copies.contains(seat))
        .chain(copies.iter().filter(|copy| !seats.contains(copy)))
        .copied()
        .filter(|node| basis.nodes.contains_key(node))
        .collect();
    let rf = usize::from(basis.replication_factor);
    for seat in seats {
        if nodes.len() < rf && basis.nodes.contains_key(seat) && !nodes.contains(seat) {
            nodes.push(*seat);
        }
    }
    // The first one is the preferred primary: it stays so although its copy is not made yet.
    if let Some(first) = seats.first()
        && let Some(at) = nodes.iter().position(|n| n == first)
    {
        nodes[..=at].rotate_right(1);
    }
    nodes
}

/// The nodes that hold a replica, or are getting one, members of the set to come first.
fn replicas_of(config: &Configuration) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = Vec::new();
    let set = config.joint.as_ref().unwrap_or(&config.current);
    for member in set.members.iter().chain(&config.learners) {
        if !nodes.contains(&member.node) {
            nodes.push(member.node);
        }
    }
    nodes
}

/// The replicas that are still to be made for the partition to be on these seats: those
/// under way, and those that wait.
#[must_use]
pub fn copies_to(
    state: &ClusterState,
    record: &PartitionRecord,
    seats: &[NodeId],
) -> Vec<CopyMove> {
    let holds = |node: &NodeId| {
        record
            .config
            .current
            .members
            .iter()
            .any(|m| m.node == *node)
    };
    let mut leavers: Vec<NodeId> = record
        .config
        .current
        .members
        .iter()
        .map(|m| m.node)
        .filter(|node| !seats.contains(node))
        .collect();
    // The ones that are lost make room first, as they do in fact.
    leavers.sort_by_key(|node| reason_to_leave(state, *node));
    let mut leavers = leavers.into_iter();
    let known = &state.placed_for().nodes;
    seats
        .iter()
        .filter(|seat| !holds(seat))
        .map(|&to| {
            let from = leavers.next();
            let left = from.map(|node| reason_to_leave(state, node));
            let reason = match left {
                None => MoveReason::Missing,
                Some(MoveReason::Balance) if !known.contains_key(&to) => MoveReason::Joined,
                Some(reason) => reason,
            };
            CopyMove {
                partition: record.id,
                from,
                to,
                reason,
            }
        })
        .collect()
}

fn reason_to_leave(state: &ClusterState, node: NodeId) -> MoveReason {
    if !state.is_member(node) {
        return MoveReason::Gone;
    }
    match state.leaving(node) {
        Some(Leaving::Away) => MoveReason::Away,
        Some(Leaving::Draining) => MoveReason::Draining,
        None => MoveReason::Balance,
    }
}

/// Every replica that is still to be made: for the present seats, or, where other nodes
/// are to hold the data by now and may, for those that come next.
///
/// # Errors
/// Fewer nodes than the replication factor asks for.
pub fn preview(state: &ClusterState) -> Result<Vec<CopyMove>, PlacementError> {
    let next: BTreeMap<PartitionId, Vec<NodeId>> = if state.seats_fit(&state.basis()) {
        BTreeMap::new()
    } else {
        seat_changes(state)?
            .into_iter()
            .map(|change| (change.partition, change.seats))
            .collect()
    };
    Ok(state
        .partitions()
        .iter()
        .flat_map(|record| {
            let seats = next
                .get(&record.id)
                .map_or_else(|| state.seats(record.id), Vec::as_slice);
            copies_to(state, record, seats)
        })
        .collect())
}
