//! Properties of placements, over 3 to 200 nodes.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn node(id: u64, zone: &str, weight: u32) -> PlacementNode {
    PlacementNode {
        id: NodeId(id),
        uuid: format!("node-{id}"),
        zone: zone.to_owned(),
        weight,
    }
}

fn put(
    nodes: &[PlacementNode],
    replication_factor: usize,
    partitions: u32,
    previous: &[Vec<NodeId>],
) -> Vec<Vec<NodeId>> {
    place(&PlacementRequest {
        nodes,
        replication_factor,
        partitions,
        virtual_nodes: 64,
        previous,
    })
    .expect("place")
}

fn loads(seats: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    for node in seats.iter().flatten() {
        *loads.entry(*node).or_default() += 1;
    }
    loads
}

fn leads(seats: &[Vec<NodeId>]) -> BTreeMap<NodeId, usize> {
    let mut leads = BTreeMap::new();
    for seats in seats {
        *leads.entry(seats[0]).or_default() += 1;
    }
    leads
}

/// RF distinct nodes, spread over zones as evenly as their sizes permit.
fn check_shape(nodes: &[PlacementNode], rf: usize, seats: &[Vec<NodeId>]) {
    let zone_of: BTreeMap<NodeId, &str> = nodes.iter().map(|n| (n.id, n.zone.as_str())).collect();
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        *sizes.entry(&node.zone).or_default() += 1;
    }
    for seats in seats {
        let distinct: BTreeSet<_> = seats.iter().collect();
        assert_eq!((seats.len(), distinct.len()), (rf, rf), "{seats:?}");
        let mut used: BTreeMap<&str, usize> = sizes.keys().map(|z| (*z, 0)).collect();
        for seat in seats {
            *used.get_mut(zone_of[seat]).expect("a known node") += 1;
        }
        for (zone, count) in &used {
            for (other, less) in &used {
                assert!(
                    *count <= less + 1 || *less == sizes[other],
                    "{count} in {zone} but {less} in {other}: {seats:?}"
                );
            }
        }
    }
}

/// 1.05 of the mean, rounded up.
fn bound(total: usize, weight: u32, weights: u32) -> usize {
    (total as f64 * f64::from(weight) / f64::from(weights) * 1.05 - 1e-9).ceil() as usize
}

fn check_balance(nodes: &[PlacementNode], rf: usize, seats: &[Vec<NodeId>]) {
    let weights: u32 = nodes.iter().map(|n| n.weight).sum();
    let loads = loads(seats);
    let leads = leads(seats);
    for node in nodes {
        let load = loads.get(&node.id).copied().unwrap_or(0);
        let most = bound(seats.len() * rf, node.weight, weights);
        assert!(load <= most, "{} holds {load}, more than {most}", node.id);
        let lead = leads.get(&node.id).copied().unwrap_or(0);
        let most = bound(seats.len(), node.weight, weights);
        assert!(lead <= most, "{} leads {lead}, more than {most}", node.id);
    }
}

/// At most 1.1 of `least`, rounded up.
fn check_moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>], least: usize) {
    let moved = copies_between(before, after);
    let most = (least as f64 * 1.1).ceil() as usize;
    assert!(moved <= most, "{moved} moved where {least} could do");
}

/// What a node of that weight is to hold, rounded up.
fn fair(total: usize, weight: u32, weights: u32) -> usize {
    (total * weight as usize).div_ceil(weights as usize)
}

/// The next lower or same power of two, from a seed: partition counts as people
/// choose them, and odd ones.
fn partitions_from(seed: u32) -> u32 {
    [32, 64, 100, 128, 256, 333][seed as usize % 6]
}

/// What rounding weighted shares may cost in copies.
const ROUNDING: usize = 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_zones_no_node_exceeds_the_bound_and_joins_and_leaves_move_the_least(
        count in 3usize..=200,
        rf in 1usize..=7,
        seed in 0u32..6,
        leaver in 0usize..200,
    ) {
        let rf = rf.min(count - 1);
        let partitions = partitions_from(seed);
        let mut nodes: Vec<_> = (1..=count as u64).map(|id| node(id, "", 100)).collect();
        let first = put(&nodes, rf, partitions, &[]);
        check_shape(&nodes, rf, &first);
        check_balance(&nodes, rf, &first);

        nodes.push(node(1000, "", 100));
        let joined = put(&nodes, rf, partitions, &first);
        check_shape(&nodes, rf, &joined);
        check_balance(&nodes, rf, &joined);
        let total = partitions as usize * rf;
        check_moved(&first, &joined, fair(total, 1, nodes.len() as u32));
        let share = total / nodes.len();
        let got = loads(&joined).get(&NodeId(1000)).copied().unwrap_or(0);
        prop_assert!(got >= share * 19 / 20, "the newcomer got {got} of {share}");

        let gone = nodes.remove(leaver % count);
        let left = put(&nodes, rf, partitions, &joined);
        check_shape(&nodes, rf, &left);
        check_balance(&nodes, rf, &left);
        let held = loads(&joined).get(&gone.id).copied().unwrap_or(0);
        check_moved(&joined, &left, held + ROUNDING);
    }

    #[test]
    fn with_weights_no_node_exceeds_its_weighted_bound_and_little_moves(
        weights in prop::collection::vec(prop::sample::select(vec![50u32, 100, 100, 150, 200]), 8..120),
        rf in 1usize..=3,
        seed in 0u32..6,
        joiner in prop::sample::select(vec![50u32, 100, 200]),
    ) {
        let partitions = partitions_from(seed);
        let mut nodes: Vec<_> = weights
            .iter()
            .zip(1u64..)
            .map(|(weight, id)| node(id, "", *weight))
            .collect();
        let total = partitions as usize * rf;
        let sum = |nodes: &[PlacementNode]| nodes.iter().map(|n| n.weight).sum::<u32>();
        // Where a node's weight entitles it to more than one replica of a partition,
        // the weights cannot be honoured.
        prop_assume!(200 * rf as u32 <= sum(&nodes));
        let first = put(&nodes, rf, partitions, &[]);
        check_shape(&nodes, rf, &first);
        check_balance(&nodes, rf, &first);

        nodes.push(node(1000, "", joiner));
        let joined = put(&nodes, rf, partitions, &first);
        check_shape(&nodes, rf, &joined);
        check_balance(&nodes, rf, &joined);
        // Weighted shares are rounded for each node: a few copies more may move.
        check_moved(&first, &joined, fair(total, joiner, sum(&nodes)) + ROUNDING);

        let gone = nodes.remove(0);
        let left = put(&nodes, rf, partitions, &joined);
        check_balance(&nodes, rf, &left);
        let held = loads(&joined).get(&gone.id).copied().unwrap_or(0);
        check_moved(&joined, &left, held + ROUNDING);
    }

    #[test]
    fn zones_of_equal_size_keep_replicas_apart_within_the_bound(
        zones in 1usize..=8,
        per_zone in 1usize..=25,
        rf in 1usize..=7,
        seed in 0u32..6,
    ) {
        let count = zones * per_zone;
        prop_assume!(count >= 3);
        let rf = rf.min(count);
        let partitions = partitions_from(seed);
        let mut nodes: Vec<_> = (0..count as u64)
            .map(|id| node(id + 1, &format!("z{}", id as usize % zones), 100))
            .collect();
        let first = put(&nodes, rf, partitions, &[]);
        check_shape(&nodes, rf, &first);
        check_balance(&nodes, rf, &first);

        nodes.push(node(1000, "z0", 100));
        let joined = put(&nodes, rf, partitions, &first);
        check_shape(&nodes, rf, &joined);
        let got = loads(&joined).get(&NodeId(1000)).copied().unwrap_or(0);
        // What the newcomer is to hold depends on what its zone may; it moves that.
        check_moved(&first, &joined, got);
    }

    #[test]
    fn any_zones_and_weights_give_a_valid_placement_and_leaves_move_what_was_left(
        shape in prop::collection::vec((0u8..5, 1u32..=400), 3..60),
        rf in 1usize..=7,
        seed in 0u32..6,
        changes in prop::collection::vec((any::<bool>(), 0usize..60, 0u8..6), 0..6),
    ) {
        let partitions = partitions_from(seed).min(128);
        let mut nodes: Vec<_> = shape
            .iter()
            .zip(1u64..)
            .map(|((zone, weight), id)| node(id, &format!("z{zone}"), *weight))
            .collect();
        let rf = rf.min(nodes.len());
        let mut seats = put(&nodes, rf, partitions, &[]);
        check_shape(&nodes, rf, &seats);
        for (at, (join, which, zone)) in changes.into_iter().enumerate() {
            if join || nodes.len() <= rf {
                nodes.push(node(1000 + at as u64, &format!("z{zone}"), 100));
            } else {
                nodes.remove(which % nodes.len());
            }
            seats = put(&nodes, rf, partitions, &seats);
            check_shape(&nodes, rf, &seats);
        }
        prop_assert_eq!(&put(&nodes, rf, partitions, &seats), &put(&nodes, rf, partitions, &seats));
    }

    #[test]
    fn many_joins_and_leaves_in_a_row_keep_the_bound(
        start in 5usize..40,
        changes in prop::collection::vec((any::<bool>(), 0usize..100), 1..20),
        rf in 1usize..=3,
    ) {
        let mut nodes: Vec<_> = (1..=start as u64).map(|id| node(id, "", 100)).collect();
        let mut seats = put(&nodes, rf, 128, &[]);
        for (at, (join, which)) in changes.into_iter().enumerate() {
            let before = seats;
            let least = if join || nodes.len() <= rf + 1 {
                nodes.push(node(1000 + at as u64, "", 100));
                fair(128 * rf, 1, nodes.len() as u32)
            } else {
                let gone = nodes.remove(which % nodes.len());
                loads(&before).get(&gone.id).copied().unwrap_or(0)
            };
            seats = put(&nodes, rf, 128, &before);
            check_shape(&nodes, rf, &seats);
            check_balance(&nodes, rf, &seats);
            check_moved(&before, &seats, least);
        }
    }
}

#[test]
fn five_nodes_share_the_default_table_evenly_in_replicas_and_primaries() {
    let nodes: Vec<_> = (1..=5).map(|id| node(id, "", 100)).collect();
    let seats = put(&nodes, 3, 128, &[]);
    assert!(
        loads(&seats).values().all(|l| (76..=77).contains(l)),
        "{:?}",
        loads(&seats)
    );
    assert!(
        leads(&seats).values().all(|l| (25..=26).contains(l)),
        "{:?}",
        leads(&seats)
    );
}

#[test]
fn a_partition_goes_to_the_first_node_on_its_walk_unless_that_one_has_its_share() {
    let nodes: Vec<_> = (1..=5).map(|id| node(id, "", 100)).collect();
    let seats = put(&nodes, 1, 128, &[]);
    let ring_nodes: Vec<RingNode<'_>> = nodes
        .iter()
        .map(|n| RingNode {
            id: n.id,
            uuid: &n.uuid,
            weight: n.weight,
        })
        .collect();
    let ring = Ring::new(&ring_nodes, 64);
    let first = seats
        .iter()
        .enumerate()
        .filter(|(p, seats)| ring.clockwise(position(*p)).next().unwrap().node == seats[0])
        .count();
    assert!(
        first > 128 * 3 / 4,
        "only {first} of 128 are where they walk to"
    );
}

#[test]
fn nothing_moves_where_nothing_changed() {
    let nodes: Vec<_> = (1..=7)
        .map(|id| node(id, &format!("z{}", id % 3), 100))
        .collect();
    let seats = put(&nodes, 3, 128, &[]);
    assert_eq!(put(&nodes, 3, 128, &seats), seats);
}

#[test]
fn a_new_zone_takes_one_replica_of_every_partition() {
    let mut nodes: Vec<_> = (1..=4)
        .map(|id| node(id, ["a", "b"][id as usize % 2], 100))
        .collect();
    let seats = put(&nodes, 3, 128, &[]);
    nodes.push(node(5, "c", 100));
    nodes.push(node(6, "c", 100));
    let after = put(&nodes, 3, 128, &seats);
    check_shape(&nodes, 3, &after);
    assert_eq!(copies_between(&seats, &after), 128);
}

#[test]
fn too_few_nodes_are_refused_with_the_reason() {
    let nodes = [node(1, "", 100), node(2, "", 100)];
    let error = place(&PlacementRequest {
        nodes: &nodes,
        replication_factor: 3,
        partitions: 128,
        virtual_nodes: 64,
        previous: &[],
    })
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "3 replicas need as many nodes, there are 2"
    );
}
