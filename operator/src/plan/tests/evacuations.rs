//! What nodes do whose Kubernetes nodes are to go.

use super::by_hand::{admin, member, seen, store};
use super::world::{World, cluster};
use crate::observed::Observed;
use crate::plan::{Admin, plan};
use crate::store::Seat;

/// A settled cluster of which the first data node's Kubernetes node is cordoned.
fn cordoned() -> (World, Observed) {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = seen(&world);
    let host = world.host_of("orders-data-0");
    let hosts = seen.hosts.as_mut().unwrap();
    hosts.get_mut(&host).unwrap().cordoned = true;
    (world, seen)
}

/// Who is to lead what.
fn moves(world: &World, seen: &Observed) -> Vec<u64> {
    let asked = plan(&world.cluster, seen);
    let moves = admin(&asked).into_iter().filter_map(|asked| match asked {
        Admin::MovePrimary { to, .. } => Some(*to),
        _ => None,
    });
    moves.collect()
}

#[test]
fn nobody_takes_over_who_stops_or_has_no_room() {
    let (world, mut seen) = cordoned();
    assert!(!moves(&world, &seen).is_empty());
    let only = member(&mut seen, "orders-data-2").id;
    member(&mut seen, "orders-data-1").draining = true;
    let to = moves(&world, &seen);
    assert!(!to.is_empty() && to.iter().all(|to| *to == only), "{to:?}");
    member(&mut seen, "orders-data-2").disk_full = true;
    assert!(moves(&world, &seen).is_empty());
}

#[test]
fn so_many_primaries_hand_over_in_a_round() {
    let (world, mut seen) = cordoned();
    let node = member(&mut seen, "orders-data-0").id;
    let mut one = store(&mut seen).partitions[0].clone();
    one.primary = Some(Seat { node });
    store(&mut seen).partitions = (0..40)
        .map(|partition| crate::store::Partition {
            partition,
            ..one.clone()
        })
        .collect();
    assert_eq!(moves(&world, &seen).len(), 16);
}
