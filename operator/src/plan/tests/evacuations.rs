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

/// Who is to get no primaries until when.
fn cordons(world: &World, seen: &Observed) -> Vec<(u64, u64)> {
    let asked = plan(&world.cluster, seen);
    let cordons = admin(&asked).into_iter().filter_map(|asked| match asked {
        Admin::Cordon(node, until) => Some((*node, *until)),
        _ => None,
    });
    cordons.collect()
}

#[test]
fn a_node_gets_no_primaries_for_as_long_as_its_host_is_cordoned() {
    let (world, mut seen) = cordoned();
    let (id, now) = (member(&mut seen, "orders-data-0").id, seen.now_unix_ms);
    let until = |seen: &mut Observed, until| {
        member(seen, "orders-data-0").cordoned_until_unix_ms = until;
    };
    // Before anything is handed over, and again before it ends, though it leads nothing.
    let first = admin(&plan(&world.cluster, &seen))[0].clone();
    assert_eq!(first, Admin::Cordon(id, now + 600_000));
    until(&mut seen, Some(now + 300_000));
    assert!(cordons(&world, &seen).is_empty());
    for partition in &mut store(&mut seen).partitions {
        partition.primary = None;
    }
    until(&mut seen, Some(now + 299_999));
    assert_eq!(cordons(&world, &seen), [(id, now + 600_000)]);
    // Coordinators of an older version would refuse, and hold the rest of the round back.
    until(&mut seen, None);
    assert!(cordons(&world, &seen).is_empty());
    // It is taken back with the cordon of its host, unless it is over anyway.
    let host = world.host_of("orders-data-0");
    let hosts = seen.hosts.as_mut().unwrap();
    hosts.get_mut(&host).unwrap().cordoned = false;
    until(&mut seen, Some(now + 1));
    assert_eq!(cordons(&world, &seen), [(id, 0)]);
    for over in [Some(0), Some(now), None] {
        until(&mut seen, over);
        assert!(cordons(&world, &seen).is_empty());
    }
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
