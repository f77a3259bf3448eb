//! Which nodes hold a partition: consistent hashing with bounded loads.
//!
//! Each partition walks the ring clockwise from its position and takes the nodes
//! that it meets, passing over a node that already holds its fair share, one that
//! holds the partition already, and one whose zone holds enough of it. Where the
//! last partitions find nobody left, replicas are shifted along shortest paths, so
//! that the bounds hold all the same; copies that the bounds do not ask for are then
//! given up again.
//!
//! What this module keeps to:
//! - a node holds a partition once, and a partition has RF nodes;
//! - the replicas of a partition are spread over zones as evenly as the zones' sizes
//!   permit: never two in a zone while another zone that could hold one has none;
//! - no node holds more than 1.05 of its fair share, rounded up; a fair share follows
//!   the weights, as far as zones and one replica per partition and node permit;
//! - a node that joins holds its fair share, rounded down, and no other less than 0.9
//!   of its own: further off than joins and leaves bring it, so that it binds where a
//!   weight was raised, and never nothing where its share is a replica or more;
//! - given the placement before, none within these bounds takes fewer copies, and
//!   placing again with nothing changed moves nothing;
//! - whole numbers alone decide, in an order that the request fixes.
//!
//! It plans; nothing moves here. The result travels in a command, so it need not be
//! the same for every version of this code.

mod primaries;
mod quota;
mod repair;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::ids::{NodeId, PartitionId};

use self::quota::Share;
use super::ring::{self, Ring, RingNode};

/// How much of its fair share a node may hold, in hundredths, rounded up to a whole
/// replica.
pub const LOAD_BOUND_PERCENT: u64 = 105;

/// Below how much of its fair share a node that was there before is fed at the price
/// of copies, rounded down to a whole replica. It is well below what bounded loads
/// leave a node with, lest a leave, which raises every share by a little, set many
/// nodes moving that were just above it.
const LOAD_FLOOR_PERCENT: u64 = 90;

/// A node that may hold replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementNode {
    /// Its number.
    pub id: NodeId,
    /// Its UUID, by which it has its place on the ring.
    pub uuid: String,
    /// Its zone. Nodes without one share the zone of the empty name.
    pub zone: String,
    /// Its share; 100 is usual.
    pub weight: u32,
}

/// What is to be placed.
#[derive(Clone, Copy, Debug)]
pub struct PlacementRequest<'a> {
    /// The nodes that there are.
    pub nodes: &'a [PlacementNode],
    /// RF.
    pub replication_factor: usize,
    /// How many partitions.
    pub partitions: u32,
    /// Virtual nodes of a node of weight 100.
    pub virtual_nodes: u32,
    /// The placement before; empty for the first one. Nodes in it that are no longer
    /// among `nodes` have left.
    pub previous: &'a [Vec<NodeId>],
}

/// Why nothing can be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// RF > nodes.
    #[error("{replication_factor} replicas need as many nodes, there are {nodes}")]
    TooFewNodes {
        /// RF.
        replication_factor: usize,
        /// How many nodes.
        nodes: usize,
    },
    /// RF of zero.
    #[error("a partition needs at least one replica")]
    NoReplicas,
}

/// Places every partition: its nodes, preferred primary first.
///
/// # Errors
/// See [`PlacementError`].
pub fn place(request: &PlacementRequest<'_>) -> Result<Vec<Vec<NodeId>>, PlacementError> {
    let PlacementRequest {
        nodes,
        replication_factor,
        partitions: _,
        virtual_nodes: _,
        previous: _,
    } = *request;
    if replication_factor == 0 {
        return Err(PlacementError::NoReplicas);
    }
    if nodes.len() < replication_factor {
        return Err(PlacementError::TooFewNodes {
            replication_factor,
            nodes: nodes.len(),
        });
    }
    let mut plan = Plan::new(request);
    plan.trim();
    plan.set_quotas(request.previous.is_empty());
    plan.fill_by_walking();
    plan.feed_by_distance();
    plan.repair();
    Ok(plan.into_seats(request.previous))
}

/// How many replicas would have to be copied to get from one placement to another.
#[must_use]
pub fn copies_between(before: &[Vec<NodeId>], after: &[Vec<NodeId>]) -> usize {
    let none = Vec::new();
    after
        .iter()
        .enumerate()
        .map(|(at, seats)| {
            let old = before.get(at).unwrap_or(&none);
            seats.iter().filter(|n| !old.contains(n)).count()
        })
        .sum()
}

/// A node by its place in the request.
type NodeAt = usize;
/// A partition by its number.
type PartitionAt = usize;

#[derive(Debug)]
struct Zone {
    /// Between these, both included, lies the number of replicas that any partition
    /// has in the zone; they differ by one at most.
    least: usize,
    most: usize,
    nodes: Vec<NodeAt>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    zone: usize,
    weight: u64,
    positions: Vec<u64>,
    /// Whether it held nothing in the placement before.
    is_new: bool,
    /// What it should hold, in replicas.
    share: Share,
    /// What the walk aims at giving it.
    quota: usize,
    /// The least that it may hold.
    least: usize,
    /// The most that it may hold.
    most: usize,
    holds: Vec<PartitionAt>,
}

#[derive(Debug)]
struct Plan {
    replication_factor: usize,
    nodes: Vec<Node>,
    zones: Vec<Zone>,
    ring: Ring,
    at: BTreeMap<NodeId, NodeAt>,
    /// Who holds each partition, in no order that means anything.
    holders: Vec<Vec<NodeAt>>,
    /// Who held each partition in the placement before, and is still there.
    before: Vec<Vec<NodeAt>>,
}

impl Plan {
    fn new(request: &PlacementRequest<'_>) -> Self {
        let mut zone_names: BTreeMap<&str, Vec<NodeAt>> = BTreeMap::new();
        for (at, node) in request.nodes.iter().enumerate() {
            zone_names.entry(&node.zone).or_default().push(at);
        }
        let zones = zone_bounds(
            zone_names.into_values().collect(),
            request.replication_factor,
        );
        let mut zone_of = vec![0; request.nodes.len()];
        for (zone, members) in zones.iter().enumerate() {
            for &node in &members.nodes {
                zone_of[node] = zone;
            }
        }
        let ring_nodes: Vec<RingNode<'_>> = request
            .nodes
            .iter()
            .map(|n| RingNode {
                id: n.id,
                uuid: &n.uuid,
                weight: n.weight,
            })
            .collect();
        let nodes: Vec<Node> = request
            .nodes
            .iter()
            .zip(&ring_nodes)
            .zip(&zone_of)
            .map(|((node, ring_node), &zone)| Node {
                id: node.id,
                zone,
                weight: u64::from(node.weight.max(1)),
                positions: ring::positions_of(ring_node, request.virtual_nodes),
                is_new: true,
                share: Share::default(),
                quota: 0,
                least: 0,
                most: 0,
                holds: Vec::new(),
            })
            .collect();
        let at: BTreeMap<NodeId, NodeAt> =
            nodes.iter().enumerate().map(|(at, n)| (n.id, at)).collect();
        let mut plan = Self {
            replication_factor: request.replication_factor,
            ring: Ring::new(&ring_nodes, request.virtual_nodes),
            zones,
            at,
            holders: vec![Vec::new(); request.partitions as usize],
            before: Vec::new(),
            nodes,
        };
        for partition in 0..plan.holders.len() {
            for id in request.previous.get(partition).into_iter().flatten() {
                if let Some(&node) = plan.at.get(id)
                    && !plan.holders[partition].contains(&node)
                {
                    plan.hold(partition, node);
                    plan.nodes[node].is_new = false;
                }
            }
        }
        plan.before.clone_from(&plan.holders);
        plan
    }

    fn load(&self, node: NodeAt) -> usize {
        self.nodes[node].holds.len()
    }

    fn hold(&mut self, partition: PartitionAt, node: NodeAt) {
        self.holders[partition].push(node);
        self.nodes[node].holds.push(partition);
    }

    fn drop_from(&mut self, partition: PartitionAt, node: NodeAt) {
        self.holders[partition].retain(|n| *n != node);
        self.nodes[node].holds.retain(|p| *p != partition);
    }

    fn replace(&mut self, partition: PartitionAt, from: NodeAt, to: NodeAt) {
        self.drop_from(partition, from);
        self.hold(partition, to);
    }

    fn in_zone(&self, partition: PartitionAt, zone: usize) -> usize {
        self.holders[partition]
            .iter()
            .filter(|n| self.nodes[**n].zone == zone)
            .count()
    }

    /// How many replicas the partition lacks in zones that must have more.
    fn zones_lack(&self, partition: PartitionAt) -> usize {
        (0..self.zones.len())
            .map(|z| {
                self.zones[z]
                    .least
                    .saturating_sub(self.in_zone(partition, z))
            })
            .sum()
    }

    fn missing(&self, partition: PartitionAt) -> usize {
        self.replication_factor
            .saturating_sub(self.holders[partition].len())
    }

    /// Whether the partition may have one more replica, on `node`.
    fn may_add(&self, partition: PartitionAt, node: NodeAt) -> bool {
        if self.holders[partition].contains(&node) {
            return false;
        }
        let zone = self.nodes[node].zone;
        let there = self.in_zone(partition, zone);
        if self.zones_lack(partition) >= self.missing(partition) {
            // Every replica that is missing is owed to a zone that has too few.
            there < self.zones[zone].least
        } else {
            there < self.zones[zone].most
        }
    }

    /// Whether the partition may have its replica on `from` moved to `to`.
    fn may_replace(&self, partition: PartitionAt, from: NodeAt, to: NodeAt) -> bool {
        if self.holders[partition].contains(&to) {
            return false;
        }
        let (zone_from, zone_to) = (self.nodes[from].zone, self.nodes[to].zone);
        zone_from == zone_to
            || (self.in_zone(partition, zone_to) < self.zones[zone_to].most
                && self.in_zone(partition, zone_from) > self.zones[zone_from].least)
    }

    /// Drops replicas that no valid placement has: too many, or too many in a zone.
    fn trim(&mut self) {
        for partition in 0..self.holders.len() {
            loop {
                let crowded = |plan: &Self, node: NodeAt| {
                    let zone = plan.nodes[node].zone;
                    plan.in_zone(partition, zone) > plan.zones[zone].most
                };
                let spare = |plan: &Self, node: NodeAt| {
                    let zone = plan.nodes[node].zone;
                    plan.in_zone(partition, zone) > plan.zones[zone].least
                };
                let holders = &self.holders[partition];
                let over = holders.len() > self.replication_factor;
                let starved = self.zones_lack(partition) > self.missing(partition);
                let candidates: Vec<NodeAt> = if holders.iter().any(|n| crowded(self, *n)) {
                    holders
                        .iter()
                        .copied()
                        .filter(|n| crowded(self, *n))
                        .collect()
                } else if over || starved {
                    holders
                        .iter()
                        .copied()
                        .filter(|n| spare(self, *n))
                        .collect()
                } else {
                    break;
                };
                let Some(victim) = candidates.into_iter().max_by(|a, b| {
                    let left = self.load(*a) as u64 * self.nodes[*b].weight;
                    let right = self.load(*b) as u64 * self.nodes[*a].weight;
                    left.cmp(&right).then(b.cmp(a))
                }) else {
                    break;
                };
                self.drop_from(partition, victim);
            }
        }
    }

    /// The walk of the brief: clockwise from the partition's position, passing over
    /// nodes that hold their share.
    fn fill_by_walking(&mut self) {
        let ring = std::mem::take(&mut self.ring);
        let owners: Vec<NodeAt> = (ring.points().iter())
            .map(|point| self.at[&point.node])
            .collect();
        for partition in 0..self.holders.len() {
            let mut hungry: Vec<bool> = (self.nodes.iter())
                .map(|node| node.holds.len() < node.quota)
                .collect();
            let mut left = hungry.iter().filter(|hungry| **hungry).count();
            let mut walk = ring.clockwise(position(partition));
            // Whoever may not have the partition when it is met may not have it after
            // others got it either, so that one round is enough.
            while left > 0
                && self.missing(partition) > 0
                && let Some((place, _)) = walk.next()
            {
                let node = owners[place];
                if !std::mem::take(&mut hungry[node]) {
                    continue;
                }
                left -= 1;
                if self.may_add(partition, node) {
                    self.hold(partition, node);
                }
            }
        }
        self.ring = ring;
    }

    /// Gives a node that holds too little, as one that just joined, the partitions
    /// that come to it first on their walk, from nodes that hold too much.
    fn feed_by_distance(&mut self) {
        for to in 0..self.nodes.len() {
            if self.load(to) >= self.nodes[to].quota {
                continue;
            }
            for partition in self.by_distance(to) {
                if self.load(to) >= self.nodes[to].quota {
                    break;
                }
                let from = self.holders[partition]
                    .iter()
                    .copied()
                    .filter(|from| self.load(*from) > self.nodes[*from].quota)
                    .filter(|from| self.may_replace(partition, *from, to))
                    .max_by_key(|from| (self.load(*from) - self.nodes[*from].quota, *from));
                if let Some(from) = from {
                    self.replace(partition, from, to);
                }
            }
        }
    }

    /// Every partition, those that meet the node soonest on their walk first.
    fn by_distance(&self, node: NodeAt) -> Vec<PartitionAt> {
        let mut order: Vec<(u64, PartitionAt)> = (0..self.holders.len())
            .map(|p| (self.distance(p, node), p))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, partition)| partition).collect()
    }

    /// How far the partition walks until it meets the node.
    fn distance(&self, partition: PartitionAt, node: NodeAt) -> u64 {
        ring::clockwise_distance(&self.nodes[node].positions, position(partition))
    }

    fn into_seats(self, previous: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
        let first = self.choose_primaries(previous);
        (0..self.holders.len())
            .map(|partition| {
                let mut order = self.holders[partition].clone();
                order.sort_by_key(|n| (*n != first[partition], self.distance(partition, *n), *n));
                order.into_iter().map(|n| self.nodes[n].id).collect()
            })
            .collect()
    }
}

fn position(partition: PartitionAt) -> u64 {
    ring::partition_position(PartitionId(u32::try_from(partition).unwrap_or(u32::MAX)))
}

/// How many replicas of a partition each zone may and must have: spread as evenly as
/// the sizes of the zones permit.
fn zone_bounds(zones: Vec<Vec<NodeAt>>, replication_factor: usize) -> Vec<Zone> {
    let fits = |level: usize| zones.iter().map(|z| z.len().min(level)).sum::<usize>();
    let mut level = 1;
    while fits(level) < replication_factor && level < replication_factor {
        level += 1;
    }
    zones
        .into_iter()
        .map(|nodes| Zone {
            least: nodes.len().min(level - 1),
            most: nodes.len().min(level),
            nodes,
        })
        .collect()
}
