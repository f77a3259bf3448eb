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
    (total * weight as usize * 105).div_ceil(weights as usize * 100)
}

/// For placements where neither zones nor one replica per node and partition keep
/// anyone from what the weights give them.
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

/// What a partition may have in each zone: the first level that seats every replica,
/// or one less.
fn zone_limits(nodes: &[PlacementNode], rf: usize) -> BTreeMap<&str, (usize, usize)> {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        *sizes.entry(&node.zone).or_default() += 1;
    }
    let level = (1..)
        .find(|level| sizes.values().map(|s| s.min(level)).sum::<usize>() >= rf)
        .expect("enough nodes");
    sizes
        .into_iter()
        .map(|(zone, size)| (zone, (size.min(level - 1), size.min(level))))
        .collect()
}

/// Finds what each gets of `total` if all get the same per weight, within limits.
fn level(claims: &[(f64, f64, f64)], total: f64) -> Vec<f64> {
    let at = |level: f64| {
        claims
            .iter()
            .map(move |(w, l, m)| (w * level).clamp(*l, *m))
    };
    let (mut low, mut high) = (0.0, claims.iter().map(|c| c.2).sum::<f64>() + 1.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if at(middle).sum::<f64>() < total {
            low = middle;
        } else {
            high = middle;
        }
    }
    at(high).collect()
}

/// What a node may and must hold.
#[derive(Clone, Copy, Debug)]
struct Limits {
    least: usize,
    most: usize,
}

/// The limits of nodes as this module's head states them, worked out in another way:
/// by search, and in floating point.
fn limits(
    nodes: &[PlacementNode],
    rf: usize,
    partitions: usize,
    before: &[Vec<NodeId>],
) -> BTreeMap<NodeId, Limits> {
    let held = loads(before);
    let zones = zone_limits(nodes, rf);
    let members =
        |zone: &str| -> Vec<&PlacementNode> { nodes.iter().filter(|n| n.zone == zone).collect() };
    let weight = |nodes: &[&PlacementNode]| nodes.iter().map(|n| f64::from(n.weight)).sum::<f64>();
    let claims: Vec<_> = zones
        .iter()
        .map(|(zone, (least, most))| {
            let of = |replicas: &usize| (replicas * partitions) as f64;
            (weight(&members(zone)), of(least), of(most))
        })
        .collect();
    let mut limits = BTreeMap::new();
    for (zone, total) in zones.keys().zip(level(&claims, (rf * partitions) as f64)) {
        let members = members(zone);
        let claims: Vec<_> = members
            .iter()
            .map(|n| (f64::from(n.weight), 0.0, partitions as f64))
            .collect();
        for (node, share) in members.iter().zip(level(&claims, total)) {
            let feed = if held.contains_key(&node.id) {
                0.9
            } else {
                1.0
            };
            let one = usize::from(share + 1e-6 >= 1.0);
            limits.insert(
                node.id,
                Limits {
                    least: ((share * feed + 1e-6).floor() as usize).max(one),
                    most: ((share * 1.05 - 1e-6).ceil() as usize).min(partitions),
                },
            );
        }
    }
    limits
}

/// At most 1.1 of `least`, rounded up. This is for changes whose copies can be told without the
/// bounds, by what joins or leaves; [`change`] asks of each that none within the bounds takes fewer.
fn check_moved(before: &[Vec<NodeId>], after: &[Vec<NodeId>], least: usize) {
    let moved = copies_between(before, after);
    let most = (least * 11).div_ceil(10);
    assert!(moved <= most, "{moved} moved where {least} could do");
}

/// An edge of the flow from partitions over zones and nodes to a drain, along which so
/// many replicas go.
struct Edge {
    from: usize,
    to: usize,
    least: i64,
    most: i64,
    copies: i64,
    flow: i64,
}

/// The flow that a placement is: partitions first, then each one's zones, then nodes,
/// and the drain as the last vertex.
fn flow(
    nodes: &[PlacementNode],
    rf: usize,
    before: &[Vec<NodeId>],
    after: &[Vec<NodeId>],
) -> Vec<Edge> {
    let limits = limits(nodes, rf, before.len(), before);
    let zones: Vec<_> = zone_limits(nodes, rf).into_iter().collect();
    let loads = loads(after);
    let of_zone = |partition: usize, zone: usize| before.len() + partition * zones.len() + zone;
    let of_node = |node: usize| before.len() * (1 + zones.len()) + node;
    let mut edges = Vec::new();
    for (partition, (old, new)) in before.iter().zip(after).enumerate() {
        for (zone, (name, (least, most))) in zones.iter().enumerate() {
            let mut there = 0;
            for (at, node) in nodes.iter().enumerate().filter(|(_, n)| n.zone == *name) {
                let flow = i64::from(new.contains(&node.id));
                there += flow;
                edges.push(Edge {
                    from: of_zone(partition, zone),
                    to: of_node(at),
                    least: 0,
                    most: 1,
                    copies: i64::from(!old.contains(&node.id)),
                    flow,
                });
            }
            edges.push(Edge {
                from: partition,
                to: of_zone(partition, zone),
                least: *least as i64,
                most: *most as i64,
                copies: 0,
                flow: there,
            });
        }
    }
    for (at, node) in nodes.iter().enumerate() {
        edges.push(Edge {
            from: of_node(at),
            to: of_node(nodes.len()),
            least: limits[&node.id].least as i64,
            most: limits[&node.id].most as i64,
            copies: 0,
            flow: loads.get(&node.id).copied().unwrap_or(0) as i64,
        });
    }
    edges
}

/// Copies without which no placement keeps within the bounds, by prices.
///
/// Let each vertex have a price at which it takes and passes on replicas. Whatever the
/// prices are, a placement's copies are what its edges lose by them, and no edge loses
/// less than it does at its better end (weak duality of linear programs). So any prices
/// give a bound that no placement is below. The prices that make it a tight one are
/// sought where `after` is, but the bound is as good if that is no good placement.
fn least_copies_by_prices(
    nodes: &[PlacementNode],
    rf: usize,
    before: &[Vec<NodeId>],
    after: &[Vec<NodeId>],
) -> usize {
    let edges = flow(nodes, rf, before, after);
    let drain = edges.last().expect("an edge").to;
    let mut prices = vec![0i64; drain + 1];
    for _ in 0..100 {
        let mut settled = true;
        for edge in &edges {
            let (from, to) = (prices[edge.from], prices[edge.to]);
            if edge.flow < edge.most && to > from + edge.copies {
                prices[edge.to] = from + edge.copies;
                settled = false;
            } else if edge.flow > edge.least && from > to - edge.copies {
                prices[edge.from] = to - edge.copies;
                settled = false;
            }
        }
        if settled {
            break;
        }
    }
    let lost: i64 = edges
        .iter()
        .map(|edge| {
            let loss = edge.copies + prices[edge.from] - prices[edge.to];
            (loss * edge.least).min(loss * edge.most)
        })
        .sum();
    let paid: i64 = prices[..before.len()]
        .iter()
        .map(|price| (prices[drain] - price) * rf as i64)
        .sum();
    usize::try_from(lost + paid).unwrap_or(0)
}

/// Places again after a change, and checks all that is promised.
fn change(nodes: &[PlacementNode], rf: usize, before: &[Vec<NodeId>]) -> Vec<Vec<NodeId>> {
    let after = put(nodes, rf, before.len() as u32, before);
    check_shape(nodes, rf, &after);
    check_limits(nodes, rf, before, &after);
    let least = least_copies_by_prices(nodes, rf, before, &after);
    assert_eq!(copies_between(before, &after), least, "not the least");
    after
}

fn check_limits(nodes: &[PlacementNode], rf: usize, before: &[Vec<NodeId>], after: &[Vec<NodeId>]) {
    let loads = loads(after);
    for (node, limits) in limits(nodes, rf, after.len(), before) {
        let load = loads.get(&node).copied().unwrap_or(0);
        assert!(
            (limits.least..=limits.most).contains(&load),
            "{node} holds {load} of {limits:?}"
        );
    }
}

fn first(nodes: &[PlacementNode], rf: usize, partitions: u32) -> Vec<Vec<NodeId>> {
    let seats = put(nodes, rf, partitions, &[]);
    check_shape(nodes, rf, &seats);
    check_limits(nodes, rf, &[], &seats);
    seats
}

/// Partition counts as people choose them, and odd ones.
fn partition_counts() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![32u32, 64, 100, 128, 256, 333, 512, 1024])
}

fn weights() -> impl Strategy<Value = u32> {
    prop_oneof![
        prop::sample::select(vec![50u32, 100, 100, 150, 200]),
        1u32..=400,
    ]
}

/// The fewest copies of any placement within the limits, by trying all of them.
fn fewest_by_trying(
    options: &[Vec<NodeId>],
    limits: &BTreeMap<NodeId, Limits>,
    before: &[Vec<NodeId>],
    held: &mut BTreeMap<NodeId, usize>,
) -> Option<usize> {
    let Some((old, rest)) = before.split_first() else {
        return (limits.iter())
            .all(|(node, l)| held.get(node).copied().unwrap_or(0) >= l.least)
            .then_some(0);
    };
    let mut fewest = None;
    for seats in options {
        for seat in seats {
            *held.entry(*seat).or_default() += 1;
        }
        if seats.iter().all(|n| held[n] <= limits[n].most)
            && let Some(more) = fewest_by_trying(options, limits, rest, held)
        {
            let copies = more + seats.iter().filter(|n| !old.contains(n)).count();
            fewest = Some(fewest.map_or(copies, |f: usize| f.min(copies)));
        }
        for seat in seats {
            *held.entry(*seat).or_default() -= 1;
        }
    }
    fewest
}

/// Every set of nodes that a partition may have.
fn every_option(nodes: &[PlacementNode], rf: usize) -> Vec<Vec<NodeId>> {
    let zones = zone_limits(nodes, rf);
    (0u32..1 << nodes.len())
        .filter(|set| set.count_ones() as usize == rf)
        .map(|set| {
            (nodes.iter().enumerate())
                .filter(|(at, _)| set >> at & 1 == 1)
                .map(|(_, n)| n)
                .collect::<Vec<_>>()
        })
        .filter(|seats| {
            zones.iter().all(|(zone, (least, most))| {
                let there = seats.iter().filter(|n| n.zone == *zone).count();
                (*least..=*most).contains(&there)
            })
        })
        .map(|seats| seats.iter().map(|n| n.id).collect())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn without_zones_no_node_exceeds_the_bound_and_joins_and_leaves_move_the_least(
        count in 3usize..=200,
        rf in 1usize..=7,
        partitions in partition_counts(),
        leaver in 0usize..200,
    ) {
        let rf = rf.min(count - 1);
        let mut nodes: Vec<_> = (1..=count as u64).map(|id| node(id, "", 100)).collect();
        let placed = first(&nodes, rf, partitions);
        check_balance(&nodes, rf, &placed);

        nodes.push(node(1000, "", 100));
        let joined = change(&nodes, rf, &placed);
        check_balance(&nodes, rf, &joined);
        let share = partitions as usize * rf / nodes.len();
        check_moved(&placed, &joined, share);
        let got = loads(&joined).get(&NodeId(1000)).copied().unwrap_or(0);
        prop_assert!(got >= share, "the newcomer got {got} of {share}");

        let gone = nodes.remove(leaver % count);
        let left = change(&nodes, rf, &joined);
        check_balance(&nodes, rf, &left);
        check_moved(&joined, &left, loads(&joined).get(&gone.id).copied().unwrap_or(0));
    }

    #[test]
    fn with_weights_no_node_exceeds_its_share_by_more_and_the_least_moves(
        weights in prop::collection::vec(weights(), 3..=200),
        rf in 1usize..=7,
        partitions in partition_counts(),
        joiner in weights(),
        leaver in 0usize..200,
    ) {
        let rf = rf.min(weights.len());
        let mut nodes: Vec<_> = weights
            .iter()
            .zip(1u64..)
            .map(|(weight, id)| node(id, "", *weight))
            .collect();
        let placed = first(&nodes, rf, partitions);
        // Where no node's weight entitles it to more than one replica of a partition,
        // the bound is 1.05 of what the weights alone give it.
        let heaviest = nodes.iter().map(|n| n.weight as usize).max().unwrap_or(0);
        let alone = heaviest * rf <= nodes.iter().map(|n| n.weight as usize).sum::<usize>();
        if alone {
            check_balance(&nodes, rf, &placed);
        }

        nodes.push(node(1000, "", joiner));
        let joined = change(&nodes, rf, &placed);
        nodes.remove(leaver % weights.len());
        change(&nodes, rf, &joined);
    }

    #[test]
    fn zones_of_equal_size_keep_replicas_apart_within_the_bound(
        zones in 1usize..=8,
        per_zone in 1usize..=25,
        rf in 1usize..=7,
        partitions in partition_counts(),
        leaver in 0usize..200,
    ) {
        let count = zones * per_zone;
        prop_assume!(count >= 3);
        let rf = rf.min(count);
        let mut nodes: Vec<_> = (0..count as u64)
            .map(|id| node(id + 1, &format!("z{}", id as usize % zones), 100))
            .collect();
        let placed = first(&nodes, rf, partitions);
        check_balance(&nodes, rf, &placed);

        nodes.push(node(1000, "z0", 100));
        let joined = change(&nodes, rf, &placed);
        nodes.remove(leaver % count);
        change(&nodes, rf, &joined);
    }

    #[test]
    fn with_zones_and_weights_no_node_exceeds_its_share_by_more_and_the_least_moves(
        shape in prop::collection::vec((0u8..8, weights()), 3..=200),
        zones in 1u8..=8,
        rf in 1usize..=7,
        partitions in partition_counts(),
        joiner in (0u8..=8, weights()),
        leaver in 0usize..200,
    ) {
        let mut nodes: Vec<_> = shape
            .iter()
            .zip(1u64..)
            .map(|((zone, weight), id)| node(id, &format!("z{}", zone % zones), *weight))
            .collect();
        let rf = rf.min(nodes.len());
        let placed = first(&nodes, rf, partitions);
        nodes.push(node(1000, &format!("z{}", joiner.0), joiner.1));
        let joined = change(&nodes, rf, &placed);
        nodes.remove(leaver % shape.len());
        change(&nodes, rf, &joined);
    }

    #[test]
    fn any_changes_in_a_row_keep_the_bounds_and_move_the_least(
        shape in prop::collection::vec((0u8..5, 1u32..=400), 3..60),
        rf in 1usize..=7,
        partitions in prop::sample::select(vec![32u32, 64, 100, 128]),
        changes in prop::collection::vec((0u8..3, 0usize..60, 0u8..6, weights()), 0..10),
    ) {
        let mut nodes: Vec<_> = shape
            .iter()
            .zip(1u64..)
            .map(|((zone, weight), id)| node(id, &format!("z{zone}"), *weight))
            .collect();
        let rf = rf.min(nodes.len());
        let mut seats = first(&nodes, rf, partitions);
        for (at, (what, which, zone, weight)) in changes.into_iter().enumerate() {
            let which = which % nodes.len();
            match what {
                0 if nodes.len() > rf => {
                    nodes.remove(which);
                }
                1 => nodes[which].weight = weight,
                _ => nodes.push(node(1000 + at as u64, &format!("z{zone}"), weight)),
            }
            seats = change(&nodes, rf, &seats);
        }
        prop_assert_eq!(put(&nodes, rf, partitions, &seats), seats);
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
                128 * rf / nodes.len()
            } else {
                let gone = nodes.remove(which % nodes.len());
                loads(&before).get(&gone.id).copied().unwrap_or(0)
            };
            seats = change(&nodes, rf, &before);
            check_balance(&nodes, rf, &seats);
            check_moved(&before, &seats, least);
        }
    }

    #[test]
    fn no_placement_within_the_bounds_copies_less_from_whatever_was_before(
        shape in prop::collection::vec((0u8..3, prop::sample::select(vec![50u32, 100, 300])), 2..=5),
        rf in 1usize..=3,
        before in prop::collection::vec(prop::collection::btree_set(1u64..=6, 0..=4), 1..=4),
    ) {
        let nodes: Vec<_> = shape
            .iter()
            .zip(1u64..)
            .map(|((zone, weight), id)| node(id, &format!("z{zone}"), *weight))
            .collect();
        let rf = rf.min(nodes.len());
        let before: Vec<Vec<NodeId>> = before
            .into_iter()
            .map(|ids| ids.into_iter().map(NodeId).collect())
            .collect();
        let after = put(&nodes, rf, before.len() as u32, &before);
        check_shape(&nodes, rf, &after);
        check_limits(&nodes, rf, &before, &after);
        let fewest = fewest_by_trying(
            &every_option(&nodes, rf),
            &limits(&nodes, rf, before.len(), &before),
            &before,
            &mut BTreeMap::new(),
        );
        prop_assert_eq!(Some(copies_between(&before, &after)), fewest);
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
        .filter(|(p, seats)| ring.clockwise(position(*p)).next().unwrap().1.node == seats[0])
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
fn a_node_whose_weight_was_raised_is_fed() {
    let mut nodes: Vec<_> = (1..=100).map(|id| node(id, "", 100)).collect();
    let seats = put(&nodes, 3, 1024, &[]);
    nodes[0].weight = 200;
    let after = change(&nodes, 3, &seats);
    let share = 1024 * 3 * 200 / 10_100;
    assert!(loads(&after)[&nodes[0].id] >= share * 9 / 10);
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
