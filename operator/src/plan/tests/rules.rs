//! Single rules, held to a sight of a settled cluster that was changed by hand.

use super::world::{World, cluster};
use crate::names::Role;
use crate::observed::Observed;
use crate::plan::{Admin, AgreedSettings, Step, Topic, plan};
use crate::store::{Health, Store};

fn store(seen: &mut Observed) -> &mut Store {
    seen.store.as_mut().unwrap()
}

#[test]
fn only_numbers_that_differ_are_asked_for() {
    let mut world = World::settled(cluster(3, 3, 3));
    assert!(plan(&world.cluster, &world.observe()).steps.is_empty());
    world.cluster.spec.timings.lease_ms = Some(500);
    let change = |change| vec![Step::Admin(Admin::Settings(change))];
    let lease = AgreedSettings {
        lease_ms: Some(500),
        ..AgreedSettings::default()
    };
    let asked = plan(&world.cluster, &world.observe());
    assert_eq!(asked.steps, change(lease));
    // W is not left to follow RF by itself.
    world.cluster.spec.timings.lease_ms = None;
    world.cluster.spec.replication_factor = 2;
    world.cluster.spec.write_quorum = Some(2);
    let quorums = AgreedSettings {
        replication_factor: Some(2),
        write_quorum: Some(2),
        min_in_sync: Some(1),
        ..AgreedSettings::default()
    };
    let asked = plan(&world.cluster, &world.observe());
    assert_eq!(asked.steps, change(quorums));
}

#[test]
fn more_copies_wait_for_the_nodes_that_they_need() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.replication_factor = 5;
    let mut seen = world.observe();
    assert_eq!(plan(&world.cluster, &seen).steps.len(), 1);
    store(&mut seen).nodes[4].health = Health::Down;
    let asked = plan(&world.cluster, &seen);
    assert!(asked.steps.is_empty());
    assert!(asked.notes.iter().any(|note| note.topic == Topic::Settings));
}

#[test]
fn fewer_copies_are_agreed_on_before_nodes_give_up_what_they_hold() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.replication_factor = 2;
    world.cluster.spec.data.replicas = 2;
    let asked = plan(&world.cluster, &world.observe());
    assert!(matches!(
        asked.steps.as_slice(),
        [Step::Admin(Admin::Settings(_))]
    ));
    world.settle();
}

#[test]
fn no_more_nodes_drain_than_leave_enough_for_every_copy() {
    let mut world = World::settled(cluster(5, 3, 3));
    // The others that are asked for may be long in coming back.
    world.cluster.spec.data.replicas = 3;
    let mut seen = world.observe();
    store(&mut seen)
        .nodes
        .retain(|node| node.name != "orders-data-0");
    let asked = plan(&world.cluster, &seen);
    let id = store(&mut seen).member("orders-data-4").unwrap().id;
    assert_eq!(asked.steps, [Step::Admin(Admin::Drain(id))]);
    let mut notes = asked.notes.iter();
    assert!(notes.any(|note| note.node.as_deref() == Some("orders-data-3")));
}

#[test]
fn moves_are_held_back_and_go_on() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.cluster.spec.maintenance.rebalance_paused = true;
    let asked = plan(&world.cluster, &world.observe());
    assert_eq!(asked.steps, [Step::Admin(Admin::PauseMoves(true))]);
    world.settle();
    assert!(plan(&world.cluster, &world.observe()).steps.is_empty());
    world.cluster.spec.maintenance.rebalance_paused = false;
    let asked = plan(&world.cluster, &world.observe());
    assert_eq!(asked.steps, [Step::Admin(Admin::PauseMoves(false))]);
}

#[test]
fn a_pod_that_ends_on_a_host_that_lives_is_expected_back_once() {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = world.observe();
    seen.pods.get_mut("orders-data-1").unwrap().deleting = true;
    let id = store(&mut seen).member("orders-data-1").unwrap().id;
    let until = seen.now_unix_ms + 140_000;
    let expected = [Step::Admin(Admin::ExpectBack(id, until))];
    assert_eq!(plan(&world.cluster, &seen).steps, expected);
    let mut known = seen.clone();
    let nodes = &mut store(&mut known).nodes;
    let node = nodes.iter_mut().find(|node| node.id == id).unwrap();
    node.expected_back_unix_ms = Some(until);
    assert!(plan(&world.cluster, &known).steps.is_empty());
    // One that does not end is not on its way back, nor one whose host is silent.
    let mut late = seen.clone();
    let since = late.now_unix_ms - 140_001;
    let pod = late.pods.get_mut("orders-data-1").unwrap();
    pod.not_ready_since_unix_ms = Some(since);
    assert!(plan(&world.cluster, &late).steps.is_empty());
    let host = world.host_of("orders-data-1");
    let hosts = seen.hosts.as_mut().unwrap();
    hosts.get_mut(&host).unwrap().ready = false;
    hosts.get_mut(&host).unwrap().since_unix_ms = seen.now_unix_ms;
    assert!(plan(&world.cluster, &seen).steps.is_empty());
}

#[test]
fn primaries_move_only_to_copies_that_can_take_over() {
    let world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-0");
    let mut seen = world.observe();
    let hosts = seen.hosts.as_mut().unwrap();
    hosts.get_mut(&host).unwrap().evicting = true;
    let from = store(&mut seen).member("orders-data-0").unwrap().id;
    let leads = world.leads("orders-data-0");
    let moves = |seen: &Observed| {
        let steps = plan(&world.cluster, seen).steps;
        let moves = steps.into_iter().filter_map(|step| match step {
            Step::Admin(Admin::MovePrimary { to, .. }) => Some(to),
            Step::Admin(Admin::Cordon(..)) => None,
            other => panic!("{other:?}"),
        });
        moves.collect::<Vec<u64>>()
    };
    assert_eq!(moves(&seen).len(), leads);
    assert!(!moves(&seen).contains(&from));
    // To the one other that is not to go as well.
    let other = world.host_of("orders-data-1");
    let mut both = seen.clone();
    let hosts = both.hosts.as_mut().unwrap();
    hosts.get_mut(&other).unwrap().cordoned = true;
    let third = store(&mut both).member("orders-data-2").unwrap().id;
    assert!(moves(&both).iter().all(|to| *to == third));
    // Not to those that are behind, or of which that is not known.
    for lag in [None, Some(100_000)] {
        let mut behind = seen.clone();
        for partition in &mut store(&mut behind).partitions {
            for copy in &mut partition.replicas {
                copy.lag = lag;
            }
        }
        assert!(moves(&behind).is_empty());
    }
    // Not while copies come or go.
    let mut moving = seen;
    for partition in &mut store(&mut moving).partitions {
        partition.replicas[2].standing = "learner".to_owned();
    }
    assert!(moves(&moving).is_empty());
}

#[test]
fn what_the_coordinators_refuse_for_long_holds_nothing_back_that_they_do_not() {
    // Drains, removals and numbers can be refused; they come after everything else.
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.data.replicas = 4;
    world.cluster.spec.timings.lease_ms = Some(500);
    let host = world.host_of("orders-data-0");
    let mut seen = world.observe();
    let hosts = seen.hosts.as_mut().unwrap();
    hosts.get_mut(&host).unwrap().cordoned = true;
    let steps = plan(&world.cluster, &seen).steps;
    let refusable = |step: &Step| matches!(step, Step::Admin(Admin::Drain(_) | Admin::Settings(_)));
    let first = steps.iter().position(refusable).unwrap();
    assert!(
        first > 0 && steps[first..].iter().all(refusable),
        "{steps:#?}"
    );
}

#[test]
fn a_node_whose_claim_somebody_deleted_is_not_restarted() {
    let mut world = World::settled(cluster(1, 1, 1));
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    let mut seen = world.observe();
    for claim in seen.claims.values_mut() {
        claim.deleting = true;
    }
    let plan = plan(&world.cluster, &seen);
    assert!(plan.steps.is_empty(), "{:#?}", plan.steps);
    assert_eq!(
        plan.notes.first().map(|note| note.topic),
        Some(Topic::Stuck)
    );
}

#[test]
fn a_deleted_manifest_is_left_to_owner_references() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.data.replicas = 3;
    world.cluster.deleting = true;
    let plan = plan(&world.cluster, &world.observe());
    assert!(plan.steps.is_empty());
    assert_eq!(plan.replicas.data, 5);
}

#[test]
fn weights_follow_from_volumes_and_zones_from_hosts() {
    let mut world = World::settled(cluster(3, 3, 3));
    let mut seen = world.observe();
    let places = plan(&world.cluster, &seen).places;
    assert_eq!(places.zones.len(), 7);
    assert_eq!(places.zones["host-4"], "zone-1");
    assert!(places.weights.values().all(|weight| *weight == 100));
    // While volumes grow one after another nothing changes: all of them asked for it.
    for claim in seen.claims.values_mut() {
        claim.requested_bytes *= 2;
    }
    let claim = |seen: &mut Observed, n: u32| {
        let name = format!("data-orders-data-{n}");
        seen.claims
            .remove(&name)
            .map(|claim| (name, claim))
            .unwrap()
    };
    let (name, mut grown) = claim(&mut seen, 1);
    grown.capacity_bytes *= 2;
    seen.claims.insert(name, grown);
    assert_eq!(plan(&world.cluster, &seen).places, places);
    // A local volume may be larger than was asked for.
    let (name, mut large) = claim(&mut seen, 2);
    large.capacity_bytes = large.requested_bytes * 4;
    seen.claims.insert(name, large);
    // Of one that is not bound nothing is known.
    let (name, mut unbound) = claim(&mut seen, 0);
    unbound.bound = false;
    seen.claims.insert(name, unbound);
    let weights = plan(&world.cluster, &seen).places.weights;
    let expected = [("orders-data-1", 25), ("orders-data-2", 100)];
    assert_eq!(
        weights,
        expected
            .map(|(name, weight)| (name.to_owned(), weight))
            .into()
    );
    // Where Kubernetes nodes cannot be read, those that are used have no zone.
    world.reads_hosts = false;
    let zones = plan(&world.cluster, &world.observe()).places.zones;
    assert!(!zones.is_empty() && zones.values().all(String::is_empty));
}

#[test]
fn notes_say_first_what_a_person_should_hear_first() {
    let mut world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-1");
    world.power(&host, false);
    world.reads_hosts = false;
    world.cluster.spec.data.replicas = 4;
    world.run(90);
    let notes = plan(&world.cluster, &world.observe()).notes;
    assert_eq!(notes.first().map(|note| note.topic), Some(Topic::Stuck));
    assert!(
        notes.iter().all(|note| note.text.ends_with('.')),
        "{notes:#?}"
    );
}

#[test]
fn what_kubernetes_has_not_taken_up_yet_is_told() {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = world.observe();
    assert!(plan(&world.cluster, &seen).notes.is_empty());
    seen.sets
        .values_mut()
        .for_each(|set| set.is_current = false);
    let plan = plan(&world.cluster, &seen);
    assert!(plan.steps.is_empty());
    assert!(plan.notes.iter().any(|note| note.topic == Topic::Restart));
}

#[test]
fn nobody_is_restarted_before_the_others_can_have_found_the_one_before() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.revision.insert(Role::Data, "r2".to_owned());
    let mut seen = world.observe();
    seen.now_unix_ms += 60_000;
    let restarts = |seen: &Observed| {
        let is_one = |step: &&Step| matches!(step, Step::DeletePod { .. });
        plan(&world.cluster, seen)
            .steps
            .iter()
            .filter(is_one)
            .count()
    };
    assert_eq!(restarts(&seen), 1);
    let now = seen.now_unix_ms;
    let came_back = seen.pods.get_mut("orders-data-1").unwrap();
    came_back.ready_since_unix_ms = Some(now - 7_000);
    assert_eq!(restarts(&seen), 0);
    let notes = plan(&world.cluster, &seen).notes;
    assert!(notes.iter().any(|note| note.topic == Topic::Restart));
    seen.now_unix_ms += 1_000;
    assert_eq!(restarts(&seen), 1);
}
