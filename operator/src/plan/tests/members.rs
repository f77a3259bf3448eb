//! Who joins, leaves and comes back, and what becomes of their claims.

use cairn_crds::spec::VolumePolicy;

use super::by_hand::{admin, deleted, down, member, seen, store};
use super::world::{World, cluster};
use crate::observed::{Observed, Silence};
use crate::plan::{Admin, Step, plan};
use crate::store::{Leaving, Store};

fn claim<'a>(seen: &'a mut Observed, pod: &str) -> &'a mut crate::observed::ClaimSeen {
    seen.claims.get_mut(&format!("data-{pod}")).unwrap()
}

fn drains(seen: &mut Observed, name: &str, empty: bool) -> u64 {
    let member = member(seen, name);
    member.leaving = Some(Leaving::Draining);
    member.empty = empty;
    member.id
}

#[test]
fn coordinators_that_have_not_made_the_cluster_prove_nothing() {
    let mut world = World::settled(cluster(4, 3, 3));
    world.cluster.spec.data.replicas = 3;
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    let mut seen = seen(&world);
    seen.store = Ok(Store::default());
    let asked = plan(&world.cluster, &seen);
    assert_eq!((asked.replicas.data, asked.replicas.coordinators), (4, 3));
    assert!(asked.steps.is_empty(), "{:#?}", asked.steps);
}

#[test]
fn a_set_that_is_made_anew_without_the_coordinators_ends_nobody() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.data.replicas = 3;
    let mut seen = seen(&world);
    seen.store = Err(Silence::NoAnswer("no leader".to_owned()));
    seen.sets.clear();
    assert_eq!(plan(&world.cluster, &seen).replicas.data, 5);
    // Nor does it forget those of whom there is a volume alone, unless that is retired.
    seen.pods.clear();
    assert_eq!(plan(&world.cluster, &seen).replicas.data, 5);
    claim(&mut seen, "orders-data-4").retired = true;
    assert_eq!(plan(&world.cluster, &seen).replicas.data, 4);
}

#[test]
fn a_mark_goes_before_its_node_takes_part_again() {
    let world = World::settled(cluster(4, 3, 3));
    let mut seen = seen(&world);
    let id = drains(&mut seen, "orders-data-3", true);
    claim(&mut seen, "orders-data-3").retired = true;
    let asked = plan(&world.cluster, &seen).steps;
    let [Step::MarkRetired { name, retired, .. }, Step::Admin(then)] = &asked[..] else {
        panic!("{asked:#?}");
    };
    assert_eq!((name.as_str(), *retired), ("data-orders-data-3", false));
    assert_eq!(*then, Admin::Undrain(id));
}

#[test]
fn a_mark_goes_from_whoever_stays() {
    let world = World::settled(cluster(3, 3, 3));
    for pod in ["orders-data-1", "orders-coordinator-1"] {
        let mut seen = seen(&world);
        claim(&mut seen, pod).retired = true;
        let asked = plan(&world.cluster, &seen).steps;
        let [Step::MarkRetired { name, retired, .. }] = &asked[..] else {
            panic!("{asked:#?}");
        };
        assert_eq!((name, *retired), (&format!("data-{pod}"), false));
    }
}

#[test]
fn nodes_are_retired_from_the_highest_number_on() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.data.replicas = 3;
    let mut seen = seen(&world);
    let third = drains(&mut seen, "orders-data-3", true);
    let fourth = drains(&mut seen, "orders-data-4", false);
    assert!(admin(&plan(&world.cluster, &seen)).is_empty());
    drains(&mut seen, "orders-data-4", true);
    let asked = plan(&world.cluster, &seen);
    let both = [&Admin::Retire(fourth), &Admin::Retire(third)];
    assert_eq!(admin(&asked), both);
}

#[test]
fn only_claims_of_retired_nodes_go_and_only_by_policy() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.cluster.spec.volumes.when_scaled = VolumePolicy::Delete;
    let mut seen = seen(&world);
    let mut left = claim(&mut seen, "orders-data-2").clone();
    left.uid = "left".to_owned();
    left.retired = true;
    seen.claims.insert("data-orders-data-4".to_owned(), left);
    assert_eq!(
        deleted(&plan(&world.cluster, &seen)),
        ["data-orders-data-4"]
    );
    let stays = |world: &World, seen: &Observed| {
        let asked = plan(&world.cluster, seen);
        assert!(asked.steps.is_empty(), "{:#?}", asked.steps);
    };
    // It may be of a cluster that was deleted.
    let mut unmarked = seen.clone();
    claim(&mut unmarked, "orders-data-4").retired = false;
    stays(&world, &unmarked);
    // One that names a volume may hold something, bound or not; one that never did holds nothing.
    claim(&mut unmarked, "orders-data-4").bound = false;
    stays(&world, &unmarked);
    claim(&mut unmarked, "orders-data-4").names_volume = false;
    let asked = plan(&world.cluster, &unmarked);
    assert_eq!(deleted(&asked), ["data-orders-data-4"]);
    // The set that there is would make its pod again, on a claim that goes.
    let mut larger = seen.clone();
    let set = larger.sets.get_mut(&crate::names::Role::Data).unwrap();
    set.replicas = 5;
    stays(&world, &larger);
    world.cluster.spec.volumes.when_scaled = VolumePolicy::Retain;
    stays(&world, &seen);
    stays(&world, &unmarked);
}

#[test]
fn a_removed_pod_is_taken_away_by_force_only_where_nobody_confirms_its_end() {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = seen(&world);
    let mut ends = seen.pods["orders-data-2"].clone();
    ends.ordinal = 4;
    ends.deleting = true;
    let host = ends.host.clone().unwrap();
    seen.pods.insert("orders-data-4".to_owned(), ends);
    assert!(deleted(&plan(&world.cluster, &seen)).is_empty());
    let silent = seen.hosts.as_mut().unwrap().get_mut(&host).unwrap();
    silent.ready = false;
    silent.since_unix_ms = seen.now_unix_ms - 1_000;
    assert!(deleted(&plan(&world.cluster, &seen)).is_empty());
    seen.hosts.as_mut().unwrap().remove(&host);
    let asked = plan(&world.cluster, &seen).steps;
    let forced = asked.iter().any(
        |step| matches!(step, Step::DeletePod { name, force: true, .. } if name == "orders-data-4"),
    );
    assert!(forced, "{asked:#?}");
}

#[test]
fn a_pod_that_waits_for_a_claim_that_is_gone_is_made_anew() {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = seen(&world);
    down(&mut seen, "orders-data-1");
    seen.claims.remove("data-orders-data-1");
    // Its process may run on.
    assert!(deleted(&plan(&world.cluster, &seen)).is_empty());
    seen.pods.get_mut("orders-data-1").unwrap().host = None;
    assert_eq!(deleted(&plan(&world.cluster, &seen)), ["orders-data-1"]);
}

#[test]
fn new_coordinators_are_taken_in_once_all_of_them_run() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.cluster.spec.coordinators.replicas = 5;
    let mut seen = seen(&world);
    for n in [3, 4] {
        let mut pod = seen.pods["orders-coordinator-2"].clone();
        pod.ordinal = n;
        pod.ready = false;
        seen.pods.insert(format!("orders-coordinator-{n}"), pod);
        let claim = seen.claims["data-orders-coordinator-2"].clone();
        seen.claims
            .insert(format!("data-orders-coordinator-{n}"), claim);
    }
    let added = |seen: &Observed| {
        let asked = plan(&world.cluster, seen);
        let added = admin(&asked).into_iter().find_map(|asked| match asked {
            Admin::AddCoordinators(added) => Some(added.len()),
            _ => None,
        });
        added.unwrap_or(0)
    };
    assert_eq!(added(&seen), 2);
    let mut one_starts = seen.clone();
    let pod = one_starts.pods.get_mut("orders-coordinator-4").unwrap();
    pod.running = false;
    assert_eq!(added(&one_starts), 0);
    // Nor while one is on the volume on which it was removed.
    claim(&mut seen, "orders-coordinator-4").retired = true;
    assert_eq!(added(&seen), 0);
}

#[test]
fn coordinators_leave_while_a_majority_of_the_others_is_ready() {
    let mut world = World::settled(cluster(3, 5, 3));
    world.cluster.spec.coordinators.replicas = 3;
    let mut seen = seen(&world);
    let removes = |seen: &Observed| {
        let asked = plan(&world.cluster, seen);
        let mut asked = admin(&asked).into_iter();
        asked.any(|asked| matches!(asked, Admin::RemoveCoordinators(_)))
    };
    let away = |seen: &mut Observed, n: u32| {
        let pod = seen.pods.get_mut(&format!("orders-coordinator-{n}"));
        pod.unwrap().ready = false;
    };
    assert!(removes(&seen));
    away(&mut seen, 1);
    assert!(removes(&seen));
    away(&mut seen, 2);
    assert!(!removes(&seen));
    // A change that is under way ends first.
    seen.pods.get_mut("orders-coordinator-2").unwrap().ready = true;
    store(&mut seen).coordinators_change = Some(crate::store::GroupChange {
        what: "change".to_owned(),
        step: "a newcomer gets the log".to_owned(),
        failed: serde_json::Value::Null,
    });
    assert!(!removes(&seen));
}
