//! Which pod of an outdated revision is restarted next, and when none is.

use super::by_hand::{admin, deleted, down, member, seen, store};
use super::world::{World, cluster};
use crate::names::Role;
use crate::observed::Observed;
use crate::plan::{Admin, plan};
use crate::store::Health;

#[test]
fn nothing_is_restarted_in_a_round_with_other_steps() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.revision.insert(Role::Data, "r2".to_owned());
    let seen = seen(&world);
    assert_eq!(deleted(&plan(&world.cluster, &seen)), ["orders-data-2"]);
    world.cluster.spec.timings.lease_ms = Some(500);
    let asked = plan(&world.cluster, &seen);
    assert!(matches!(admin(&asked)[..], [Admin::Settings(_)]));
    assert!(deleted(&asked).is_empty());
}

#[test]
fn of_the_coordinators_the_leader_is_the_last() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.revision.insert(Role::Coordinator, "r2".to_owned());
    let mut seen = seen(&world);
    for coordinator in &mut store(&mut seen).coordinators {
        coordinator.leader = coordinator.name == "orders-coordinator-2";
    }
    let next = plan(&world.cluster, &seen);
    assert_eq!(deleted(&next), ["orders-coordinator-1"]);
    for name in ["orders-coordinator-0", "orders-coordinator-1"] {
        seen.pods.get_mut(name).unwrap().revision = "r2".to_owned();
    }
    let last = plan(&world.cluster, &seen);
    assert_eq!(deleted(&last), ["orders-coordinator-2"]);
}

#[test]
fn a_pod_that_is_never_ready_is_replaced_where_nobody_else_is_away() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.revision.insert(Role::Data, "r2".to_owned());
    let mut seen = seen(&world);
    down(&mut seen, "orders-data-1");
    let since = seen.now_unix_ms - 300_000;
    let pod = seen.pods.get_mut("orders-data-1").unwrap();
    pod.running = true;
    pod.not_ready_since_unix_ms = Some(since);
    assert_eq!(deleted(&plan(&world.cluster, &seen)), ["orders-data-1"]);
    let waits = |change: &dyn Fn(&mut Observed)| {
        let mut seen = seen.clone();
        change(&mut seen);
        let asked = plan(&world.cluster, &seen);
        assert!(deleted(&asked).is_empty(), "{:#?}", asked.steps);
    };
    // It may read a long log, and of one that does not say since when nothing is known.
    for since in [Some(since + 1), None] {
        waits(&|seen| {
            let pod = seen.pods.get_mut("orders-data-1").unwrap();
            pod.not_ready_since_unix_ms = since;
        });
    }
    // Another copy does not answer, or another node is away.
    waits(&|seen| {
        let id = member(seen, "orders-data-2").id;
        let copies = store(seen).partitions[0].replicas.iter_mut();
        for copy in copies.filter(|copy| copy.member.node == id) {
            copy.up = false;
        }
    });
    waits(&|seen| member(seen, "orders-data-2").health = Health::Down);
}

#[test]
fn moves_that_have_nowhere_to_go_hold_no_restart_back() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.revision.insert(Role::Data, "r2".to_owned());
    let mut seen = seen(&world);
    let restarts = |seen: &Observed| !deleted(&plan(&world.cluster, seen)).is_empty();
    // As the status has it: these are no moves.
    store(&mut seen).rebalance.planned = false;
    assert!(!restarts(&seen) && store(&mut seen).is_moving());
    let mut paused = seen.clone();
    store(&mut paused).rebalance.paused = true;
    let mut manifest = world.cluster.clone();
    manifest.spec.maintenance.rebalance_paused = true;
    assert!(!store(&mut paused).is_moving());
    assert!(!deleted(&plan(&manifest, &paused)).is_empty());
    store(&mut seen).rebalance.too_few_nodes = true;
    assert!(restarts(&seen) && !store(&mut seen).is_moving());
    // What is under way is one, paused or not.
    store(&mut seen).rebalance.under_way = 1;
    assert!(!restarts(&seen) && store(&mut seen).is_moving());
}
