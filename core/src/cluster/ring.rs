//! The ring: every data node's virtual nodes, placed by hash.
//!
//! A node's virtual nodes depend on its UUID alone, so that the ring is the same for
//! everyone who knows the nodes, and one node's coming or going moves no other's.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::ids::{NodeId, PartitionId};
use crate::record::{ClusterMap, NodeStanding};

/// The most virtual nodes that one node has, whatever its weight.
pub const VIRTUAL_NODES_PER_NODE_MAX: u32 = 8_192;

/// Seeds keep the positions of nodes and of partitions from being correlated.
const NODE_SEED: u64 = 0x6361_6972_6e6e_6f64;
const PARTITION_SEED: u64 = 0x6361_6972_6e70_6172;

/// A node on the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingNode<'a> {
    /// Its number.
    pub id: NodeId,
    /// Its UUID, which alone decides where its virtual nodes are.
    pub uuid: &'a str,
    /// Its share; 100 is usual.
    pub weight: u32,
}

/// One virtual node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualNode {
    /// Where on the ring, which closes after the largest number.
    pub position: u64,
    /// Whose.
    pub node: NodeId,
}

/// The ring.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    points: Vec<VirtualNode>,
}

/// The position of a node's virtual node.
#[must_use]
pub fn virtual_node_position(uuid: &str, number: u32) -> u64 {
    let mut bytes = Vec::with_capacity(uuid.len() + 4);
    bytes.extend_from_slice(uuid.as_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    xxh3_64_with_seed(&bytes, NODE_SEED)
}

/// The position from which a partition walks clockwise.
#[must_use]
pub fn partition_position(partition: PartitionId) -> u64 {
    xxh3_64_with_seed(&partition.0.to_le_bytes(), PARTITION_SEED)
}

/// How many virtual nodes a node of this weight has.
#[must_use]
pub fn virtual_node_count(virtual_nodes: u32, weight: u32) -> u32 {
    let count = (u64::from(virtual_nodes) * u64::from(weight) + 50) / 100;
    u32::try_from(count)
        .unwrap_or(u32::MAX)
        .clamp(1, VIRTUAL_NODES_PER_NODE_MAX)
}

/// The positions of one node's virtual nodes, ascending.
#[must_use]
pub fn positions_of(node: &RingNode<'_>, virtual_nodes: u32) -> Vec<u64> {
    let mut positions: Vec<u64> = (0..virtual_node_count(virtual_nodes, node.weight))
        .map(|number| virtual_node_position(node.uuid, number))
        .collect();
    positions.sort_unstable();
    positions
}

/// How far it is clockwise from `from` to the nearest of `positions`, which ascend.
#[must_use]
pub fn clockwise_distance(positions: &[u64], from: u64) -> u64 {
    let at = positions.partition_point(|p| *p < from);
    positions
        .get(at)
        .or(positions.first())
        .map_or(u64::MAX, |p| p.wrapping_sub(from))
}

impl Ring {
    /// The ring of these nodes; `virtual_nodes` is the count for a weight of 100.
    #[must_use]
    pub fn new(nodes: &[RingNode<'_>], virtual_nodes: u32) -> Self {
        let mut points: Vec<VirtualNode> = nodes
            .iter()
            .flat_map(|node| {
                positions_of(node, virtual_nodes)
                    .into_iter()
                    .map(|position| VirtualNode {
                        position,
                        node: node.id,
                    })
            })
            .collect();
        points.sort_unstable();
        Self { points }
    }

    /// The ring of a map's members; empty where the cluster was not made yet.
    #[must_use]
    pub fn of_map(map: &ClusterMap) -> Self {
        let Some(settings) = &map.settings else {
            return Self::default();
        };
        let members: Vec<_> = map
            .nodes
            .values()
            .filter(|node| node.standing == NodeStanding::Member)
            .map(|node| RingNode {
                id: node.id,
                uuid: &node.uuid,
                weight: node.weight,
            })
            .collect();
        Self::new(&members, settings.virtual_nodes)
    }

    /// Every virtual node, ascending by position.
    #[must_use]
    pub fn points(&self) -> &[VirtualNode] {
        &self.points
    }

    /// How many virtual nodes each node has, and the part of all positions whose first
    /// virtual node clockwise is its, from 0 to 1. No decision rests on it.
    #[must_use]
    pub fn shares(&self) -> BTreeMap<NodeId, (usize, f64)> {
        const WHOLE: f64 = 18_446_744_073_709_551_616.0;
        let mut shares: BTreeMap<NodeId, (usize, f64)> = BTreeMap::new();
        for (at, point) in self.points.iter().enumerate() {
            // A virtual node owns the arc from the one before it, so that the arc of the
            // first one goes around zero.
            let before = self.points[(at + self.points.len() - 1) % self.points.len()];
            let arc = if self.points.len() == 1 {
                WHOLE
            } else {
                point.position.wrapping_sub(before.position) as f64
            };
            let share = shares.entry(point.node).or_default();
            share.0 += 1;
            share.1 += arc / WHOLE;
        }
        shares
    }

    /// The virtual nodes clockwise from a position, each once, with their places among
    /// [`Self::points`].
    pub fn clockwise(&self, from: u64) -> impl Iterator<Item = (usize, VirtualNode)> {
        let at = self.points.partition_point(|p| p.position < from);
        (at..self.points.len())
            .chain(0..at)
            .map(|place| (place, self.points[place]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, uuid: &str) -> RingNode<'_> {
        RingNode {
            id: NodeId(id),
            uuid,
            weight: 100,
        }
    }

    #[test]
    fn a_walk_meets_every_virtual_node_once_and_closes_the_ring() {
        let ring = Ring::new(&[node(1, "a"), node(2, "b"), node(3, "c")], 4);
        assert_eq!(ring.points().len(), 12);
        let from = ring.points()[7].position;
        let walk: Vec<_> = ring.clockwise(from).collect();
        assert_eq!(walk.len(), 12);
        assert_eq!(walk[0], (7, ring.points()[7]));
        assert_eq!(walk[5], (0, ring.points()[0]));
    }

    #[test]
    fn arcs_make_the_whole_ring() {
        let quarter = 1u64 << 62;
        let shares = |points: &[(u64, u64)]| {
            let points = points.iter().map(|&(position, node)| VirtualNode {
                position,
                node: NodeId(node),
            });
            Ring {
                points: points.collect(),
            }
            .shares()
        };
        let three = shares(&[(quarter, 1), (2 * quarter, 2), (3 * quarter, 1)]);
        assert_eq!(three[&NodeId(1)], (2, 0.75));
        assert_eq!(three[&NodeId(2)], (1, 0.25));
        assert_eq!(shares(&[(7, 1)])[&NodeId(1)], (1, 1.0));
        assert!(shares(&[]).is_empty());
    }

    #[test]
    fn a_node_that_comes_or_goes_moves_no_other_virtual_node() {
        let small = Ring::new(&[node(1, "a"), node(2, "b")], 64);
        let large = Ring::new(&[node(1, "a"), node(2, "b"), node(3, "c")], 64);
        let without: Vec<_> = large
            .points()
            .iter()
            .filter(|p| p.node != NodeId(3))
            .copied()
            .collect();
        assert_eq!(small.points(), without);
    }

    #[test]
    fn weight_multiplies_virtual_nodes_and_leaves_at_least_one() {
        assert_eq!(virtual_node_count(64, 100), 64);
        assert_eq!(virtual_node_count(64, 250), 160);
        assert_eq!(virtual_node_count(64, 1), 1);
        assert_eq!(virtual_node_count(1024, 10_000), VIRTUAL_NODES_PER_NODE_MAX);
    }

    #[test]
    fn distance_wraps_past_the_end_of_the_ring() {
        assert_eq!(clockwise_distance(&[10, 20], 15), 5);
        assert_eq!(clockwise_distance(&[10, 20], 20), 0);
        assert_eq!(clockwise_distance(&[10, 20], u64::MAX), 11);
    }

    #[test]
    fn positions_never_change_between_versions() {
        // Coordinators of two versions must draw the same ring.
        assert_eq!(virtual_node_position("5f0c", 0), 8_911_674_274_704_759_908);
        assert_eq!(
            partition_position(PartitionId(0)),
            7_732_502_104_184_507_425
        );
    }
}
