//! Volumes that grow.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::world::{World, cluster};
use crate::names::Role;
use crate::plan::{Step, Topic, plan};

const GIB: u64 = 1 << 30;

fn asks(world: &mut World, size: &str) {
    world.cluster.spec.data.storage.size = Quantity(size.to_owned());
}

fn is_growth(step: &Step) -> bool {
    matches!(step, Step::GrowClaim { .. })
}

fn renews_a_set(step: &Step) -> bool {
    matches!(step, Step::RenewSet { .. })
}

#[test]
fn volumes_grow_under_their_pods_and_new_ones_are_made_as_large() {
    let mut world = World::settled(cluster(3, 3, 3));
    let pods = world.pod_uids();
    asks(&mut world, "20Gi");
    let first = plan(&world.cluster, &world.observe());
    // All at once: else data would move to the first, and back.
    assert_eq!(first.steps.iter().filter(|step| is_growth(step)).count(), 3);
    assert!(!first.steps.iter().any(renews_a_set), "{:?}", first.steps);
    assert!(first.notes.iter().any(|note| note.topic == Topic::Volumes));
    world.settle();
    assert!(
        world
            .sizes_of(Role::Data)
            .values()
            .all(|size| *size == 20 * GIB)
    );
    assert_eq!(world.made_with(Role::Data), Some("20Gi"));
    assert_eq!(world.pod_uids(), pods, "a pod was made anew");
    world.cluster.spec.data.replicas = 4;
    world.settle();
    assert_eq!(world.sizes_of(Role::Data)["data-orders-data-3"], 20 * GIB);
}

#[test]
fn coordinators_volumes_grow_too() {
    let mut world = World::settled(cluster(3, 3, 3));
    let size = Quantity("50Gi".to_owned());
    world.cluster.spec.coordinators.storage.size = size;
    world.settle();
    let sizes = world.sizes_of(Role::Coordinator);
    assert!(sizes.len() == 3 && sizes.values().all(|size| *size == 50 * GIB));
    assert_eq!(world.made_with(Role::Coordinator), Some("50Gi"));
}

#[test]
fn an_operator_that_dies_after_any_write_ends_with_the_same() {
    for writes in 0..8 {
        let mut world = World::settled(cluster(3, 3, 3));
        asks(&mut world, "20Gi");
        for _ in 0..12 {
            world.round(writes);
            world.tick();
        }
        world.settle();
        assert_eq!(
            world.made_with(Role::Data),
            Some("20Gi"),
            "after {writes} writes"
        );
        assert!(
            world
                .sizes_of(Role::Data)
                .values()
                .all(|size| *size == 20 * GIB)
        );
    }
}

#[test]
fn a_set_is_not_made_anew_while_a_node_leaves_or_a_claim_asks_for_less() {
    let mut world = World::settled(cluster(5, 3, 3));
    asks(&mut world, "20Gi");
    world.cluster.spec.data.replicas = 3;
    for _ in 0..60 {
        let seen = world.observe();
        let plan = plan(&world.cluster, &seen);
        if plan.steps.iter().any(renews_a_set) {
            let members = seen.store.as_ref().unwrap().nodes.iter();
            let live = members.filter(|node| node.standing == crate::store::NodeStanding::Member);
            assert_eq!(live.count(), 3, "nodes are still leaving");
        }
        world.round(usize::MAX);
        world.tick();
    }
    // What a class refuses never takes effect: the set stays, and restarts go on.
    let mut world = World::settled(cluster(3, 3, 3));
    asks(&mut world, "20Gi");
    let mut seen = world.observe();
    let claim = seen.claims.get_mut("data-orders-data-0").unwrap();
    claim.requested_bytes = 10 * GIB;
    for name in ["data-orders-data-1", "data-orders-data-2"] {
        seen.claims.get_mut(name).unwrap().requested_bytes = 20 * GIB;
    }
    seen.sets.get_mut(&Role::Data).unwrap().update_revision = "r2".to_owned();
    let steps = plan(&world.cluster, &seen).steps;
    assert!(!steps.iter().any(renews_a_set), "{steps:?}");
    assert!(steps.iter().any(is_growth), "{steps:?}");
    let restarts = |step: &Step| matches!(step, Step::DeletePod { .. });
    assert!(steps.iter().any(restarts), "{steps:?}");
}

#[test]
fn what_is_about_to_go_does_not_grow_and_nothing_shrinks() {
    let mut world = World::settled(cluster(4, 3, 3));
    world.cluster.spec.data.replicas = 3;
    asks(&mut world, "20Gi");
    let steps = plan(&world.cluster, &world.observe()).steps;
    let of = |n: u32| format!("data-orders-data-{n}");
    let grows = |name: &str| {
        let this = |step: &Step| matches!(step, Step::GrowClaim { name: n, .. } if n == name);
        steps.iter().any(this)
    };
    assert!(grows(&of(0)) && !grows(&of(3)), "{steps:?}");

    let mut world = World::settled(cluster(3, 3, 3));
    asks(&mut world, "5Gi");
    let plan = plan(&world.cluster, &world.observe());
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    let stuck = plan.notes.iter().find(|note| note.topic == Topic::Stuck);
    assert!(stuck.unwrap().text.contains("cannot shrink"));

    // The same amount, written otherwise, is no other one.
    asks(&mut world, "10240Mi");
    let plan = crate::plan::plan(&world.cluster, &world.observe());
    assert!(plan.steps.is_empty() && plan.notes.is_empty(), "{plan:?}");
}

#[test]
fn a_volume_that_does_not_grow_is_told_and_holds_nothing_up() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.volumes_grow = false;
    asks(&mut world, "20Gi");
    world.run(10);
    let plan = plan(&world.cluster, &world.observe());
    assert!(plan.steps.is_empty(), "{:?}", plan.steps);
    let growing = plan
        .notes
        .iter()
        .filter(|note| note.topic == Topic::Volumes);
    assert_eq!(growing.count(), 3);
}

#[test]
fn a_set_waits_for_every_claim_and_for_everybody() {
    let mut world = World::settled(cluster(3, 3, 3));
    asks(&mut world, "20Gi");
    let mut seen = world.observe();
    for (name, claim) in &mut seen.claims {
        if name.starts_with("data-orders-data-") {
            claim.requested_bytes = 20 * GIB;
            claim.capacity_bytes = 20 * GIB;
        }
    }
    let renews = |seen: &crate::observed::Observed| {
        let steps = plan(&world.cluster, seen).steps;
        assert!(steps.iter().all(renews_a_set), "{steps:?}");
        !steps.is_empty()
    };
    assert!(renews(&seen));
    // One without a volume yet is not asked to grow, and was made by the smaller template.
    let mut unbound = seen.clone();
    let claim = unbound.claims.get_mut("data-orders-data-1").unwrap();
    claim.bound = false;
    claim.requested_bytes = 10 * GIB;
    assert!(!renews(&unbound));
    let mut away = seen.clone();
    away.pods.get_mut("orders-coordinator-1").unwrap().ready = false;
    assert!(!renews(&away));
    // Nor is it known yet what the set is.
    seen.sets.get_mut(&Role::Data).unwrap().is_current = false;
    assert!(!renews(&seen));
}
