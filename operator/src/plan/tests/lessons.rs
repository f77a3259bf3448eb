//! What other operators got wrong, and cost somebody an outage: each is provoked here, and
//! turns red where the rule that prevents it is taken out.

use std::collections::BTreeMap;

use super::by_hand::{admin, deleted, down, has_note, member, seen, store};
use super::world::{World, cluster};
use crate::names::Role;
use crate::observed::{Observed, Silence};
use crate::plan::{Admin, Step, Topic, plan};
use crate::store::{Health, Leaving};

#[test]
fn a_bad_revision_of_every_pod_at_once_does_not_deadlock_a_cold_start() {
    let mut world = World::new(cluster(3, 3, 3));
    world.bad_revisions.insert("r1".to_owned());
    world.run(10);
    assert!(seen(&world).store.is_err());
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    world.settle();
}

#[test]
fn no_node_is_restarted_while_another_is_away_or_behind() {
    let mut world = World::settled(cluster(3, 3, 3));
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    let whole = seen(&world);
    assert_eq!(deleted(&plan(&world.cluster, &whole)).len(), 1);
    let mut changed: Vec<Observed> = Vec::new();
    let mut change = |change: &dyn Fn(&mut Observed)| {
        let mut seen = whole.clone();
        change(&mut seen);
        changed.push(seen);
    };
    change(&|seen| seen.pods.get_mut("orders-data-1").unwrap().ready = false);
    change(&|seen| seen.pods.get_mut("orders-data-1").unwrap().deleting = true);
    change(&|seen| seen.pods.get_mut("orders-coordinator-0").unwrap().ready = false);
    change(&|seen| drop(seen.pods.remove("orders-data-0")));
    change(&|seen| member(seen, "orders-data-2").health = Health::Unknown);
    change(&|seen| store(seen).partitions[3].state = "degraded".to_owned());
    change(&|seen| store(seen).partitions[3].state = "member-silent".to_owned());
    change(&|seen| store(seen).rebalance.waiting = 1);
    change(&|seen| store(seen).rebalance.to_adjust = 1);
    change(&|seen| store(seen).rebalance.planned = false);
    change(&|seen| store(seen).coordinators[1].voter = false);
    change(&|seen| seen.store = Err(Silence::NoAnswer("no leader".to_owned())));
    for seen in changed {
        let plan = plan(&world.cluster, &seen);
        assert_eq!(deleted(&plan), Vec::<&str>::new(), "{:#?}", plan.notes);
    }
    // Nor where the sets do not yet say what the present revision is.
    let mut unsure = whole;
    for set in unsure.sets.values_mut() {
        set.is_current = false;
    }
    assert!(deleted(&plan(&world.cluster, &unsure)).is_empty());
}

#[test]
fn who_is_removed_is_the_member_of_that_name_and_never_the_number_of_its_pod() {
    let mut world = World::settled(cluster(4, 3, 3));
    world.cluster.spec.data.replicas = 3;
    let mut seen = seen(&world);
    // Identities do not come in the order of pods, and names pass on.
    let ids = BTreeMap::from([(1, 41), (2, 17), (3, 4), (4, 23)]);
    let nodes = &mut store(&mut seen).nodes;
    for node in nodes {
        node.id = ids[&node.id];
    }
    let id = member(&mut seen, "orders-data-3").id;
    let asked = plan(&world.cluster, &seen);
    assert_eq!(admin(&asked), [&Admin::Drain(id)]);
    // An identity of that name that is gone for good is not who is meant.
    let gone = crate::store::Node {
        id: 9,
        standing: crate::store::NodeStanding::Gone,
        ..member(&mut seen, "orders-data-3").clone()
    };
    store(&mut seen).nodes.insert(0, gone);
    assert_eq!(admin(&plan(&world.cluster, &seen)), [&Admin::Drain(id)]);
}

#[test]
fn nobody_is_removed_whose_drain_the_coordinators_do_not_confirm() {
    let mut world = World::settled(cluster(4, 3, 3));
    world.cluster.spec.data.replicas = 3;
    let mut seen = seen(&world);
    // Whatever marks say: the node takes part.
    seen.claims.get_mut("data-orders-data-3").unwrap().retired = true;
    let id = member(&mut seen, "orders-data-3").id;
    let asked = plan(&world.cluster, &seen);
    assert_eq!(admin(&asked), [&Admin::Drain(id)]);
    assert_eq!(asked.replicas.data, 4);
    assert!(deleted(&asked).is_empty());
    // It drains, and is not empty.
    member(&mut seen, "orders-data-3").leaving = Some(Leaving::Draining);
    let asked = plan(&world.cluster, &seen);
    assert!(asked.steps.is_empty(), "{:#?}", asked.steps);
    assert_eq!(asked.replicas.data, 4);
    // It is empty, and a member still.
    member(&mut seen, "orders-data-3").empty = true;
    let asked = plan(&world.cluster, &seen);
    assert_eq!(admin(&asked), [&Admin::Retire(id)]);
    assert_eq!(asked.replicas.data, 4);
    // Where nobody answers, nobody confirms.
    seen.store = Err(Silence::NoAnswer("no leader".to_owned()));
    let asked = plan(&world.cluster, &seen);
    assert!(asked.steps.is_empty());
    assert_eq!(asked.replicas.data, 4);
}

#[test]
fn down_then_up_while_draining_does_not_wedge() {
    for after in 0..25 {
        let mut world = World::settled(cluster(5, 3, 3));
        let host = world.host_of("orders-data-4");
        world.cluster.spec.data.replicas = 3;
        world.run(after / 3);
        world.power(&host, false);
        world.run(after % 10);
        // The drain can be taken back while it is down, too.
        world.cluster.spec.data.replicas = if after % 2 == 0 { 5 } else { 3 };
        world.run(5);
        world.power(&host, true);
        world.settle();
    }
}

#[test]
fn an_upgrade_does_not_hit_a_node_that_drains() {
    let mut world = World::settled(cluster(5, 3, 3));
    let revision = world.revision.get_mut(&Role::Data).unwrap();
    *revision = "r2".to_owned();
    let whole = seen(&world);
    assert_eq!(deleted(&plan(&world.cluster, &whole)), ["orders-data-4"]);
    for name in ["orders-data-4", "orders-data-0"] {
        // All its partitions are whole; that is not enough.
        let mut seen = whole.clone();
        member(&mut seen, name).leaving = Some(Leaving::Draining);
        let mut manifest = world.cluster.clone();
        manifest.spec.maintenance.drain = vec![name.to_owned()];
        assert!(deleted(&plan(&manifest, &seen)).is_empty());
    }
}

#[test]
fn a_dead_local_disk_does_not_wait_for_ever() {
    let mut world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-1");
    world.power(&host, false);
    world.settle();
    assert_eq!(world.identities(), 4);
}

#[test]
fn a_local_disk_is_given_up_only_by_the_rules() {
    let world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-1");
    let mut seen = seen(&world);
    down(&mut seen, "orders-data-1");
    let silent = seen.hosts.as_mut().unwrap().get_mut(&host).unwrap();
    silent.ready = false;
    silent.since_unix_ms = seen.now_unix_ms - 60_001;
    let id = member(&mut seen, "orders-data-1").id;
    let gives_up = |seen: &Observed| {
        let plan = plan(&world.cluster, seen);
        assert!(deleted(&plan).is_empty(), "{:#?}", plan.steps);
        admin(&plan).contains(&&Admin::Gone(id))
    };
    assert!(gives_up(&seen));
    let keeps = |change: &dyn Fn(&mut Observed)| {
        let mut seen = seen.clone();
        change(&mut seen);
        assert!(!gives_up(&seen));
    };
    let on = |seen: &mut Observed, change: &dyn Fn(&mut crate::observed::HostSeen)| {
        let hosts = seen.hosts.as_mut().unwrap();
        change(hosts.get_mut(&host).unwrap());
    };
    // It may come back soon.
    keeps(&|seen| on(seen, &|h| h.since_unix_ms += 2));
    keeps(&|seen| on(seen, &|h| h.ready = true));
    // Its volume can be used elsewhere, or that is not known.
    keeps(&|seen| {
        let claim = seen.claims.get_mut("data-orders-data-1").unwrap();
        claim.only_on = None;
    });
    keeps(&|seen| {
        let claim = seen.claims.get_mut("data-orders-data-1").unwrap();
        claim.only_on = Some(Vec::new());
    });
    keeps(&|seen| {
        let claim = seen.claims.get_mut("data-orders-data-1").unwrap();
        claim.only_on.as_mut().unwrap().push("host-6".to_owned());
    });
    // Nobody may read Kubernetes nodes, or nothing was read.
    keeps(&|seen| seen.hosts = None);
    keeps(&|seen| seen.hosts = Some(BTreeMap::new()));
    // It answers, or is expected back.
    keeps(&|seen| member(seen, "orders-data-1").health = Health::Up);
    keeps(&|seen| member(seen, "orders-data-1").health = Health::Unknown);
    keeps(&|seen| {
        let soon = seen.now_unix_ms + 1;
        member(seen, "orders-data-1").expected_back_unix_ms = Some(soon);
    });
    // It is needed: nobody serves, or it is the last copy but one that answers.
    keeps(&|seen| store(seen).partitions[0].serving = false);
    keeps(&|seen| down(seen, "orders-data-2"));
    // Silence may pass, and something that it holds lacks another copy.
    keeps(&|seen| drop(store(seen).partitions[0].replicas.pop()));
    // The coordinators say nothing.
    let mut nothing = seen.clone();
    nothing.store = Err(Silence::NoAnswer("no leader".to_owned()));
    assert!(plan(&world.cluster, &nothing).steps.is_empty());
}

#[test]
fn a_volume_that_nobody_may_judge_is_said_to_be_stuck() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.reads_hosts = false;
    let host = world.host_of("orders-data-1");
    world.power(&host, false);
    world.run(90);
    let plan = plan(&world.cluster, &seen(&world));
    assert!(plan.steps.is_empty(), "{:#?}", plan.steps);
    assert!(
        has_note(&plan, Topic::Stuck, "orders-data-1"),
        "{:#?}",
        plan.notes
    );
}

#[test]
fn pods_that_are_lost_are_not_taken_for_a_smaller_cluster() {
    let world = World::settled(cluster(5, 5, 3));
    let whole = seen(&world);
    for lost in 0..5 {
        let mut seen = whole.clone();
        for ordinal in lost..5 {
            seen.pods.remove(&format!("orders-data-{ordinal}"));
            seen.pods.remove(&format!("orders-coordinator-{ordinal}"));
        }
        let asked = plan(&world.cluster, &seen);
        assert_eq!((asked.replicas.data, asked.replicas.coordinators), (5, 5));
        assert!(asked.steps.is_empty(), "{:#?}", asked.steps);
    }
    // Nor is a set that somebody made smaller: those that are members get their pods back.
    let mut seen = whole;
    seen.sets.get_mut(&Role::Data).unwrap().replicas = 3;
    seen.pods.remove("orders-data-4");
    assert_eq!(plan(&world.cluster, &seen).replicas.data, 5);
}

#[test]
fn what_is_deleted_is_named_by_the_uid_that_was_seen() {
    let mut world = World::settled(cluster(3, 3, 3));
    let revision = world.revision.get_mut(&Role::Data).unwrap();
    *revision = "r2".to_owned();
    let seen = seen(&world);
    let plan = plan(&world.cluster, &seen);
    let uids = plan.steps.iter().filter_map(|step| match step {
        Step::DeletePod { name, uid, .. } => Some((&seen.pods[name].uid, uid)),
        _ => None,
    });
    let uids: Vec<_> = uids.collect();
    assert_eq!(uids.len(), 1);
    assert!(uids.iter().all(|(seen, asked)| seen == asked));
}

#[test]
fn a_coordinators_volume_is_given_up_only_while_a_majority_is_up() {
    let world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-coordinator-1");
    let mut seen = seen(&world);
    seen.hosts.as_mut().unwrap().remove(&host);
    for pod in seen.pods.values_mut() {
        pod.ready &= pod.host.as_ref() != Some(&host);
    }
    let claim = "data-orders-coordinator-1";
    let given_up = plan(&world.cluster, &seen);
    assert!(deleted(&given_up).contains(&claim), "{:#?}", given_up.steps);
    seen.pods.get_mut("orders-coordinator-2").unwrap().ready = false;
    let kept = plan(&world.cluster, &seen);
    assert!(!deleted(&kept).contains(&claim));
    assert!(has_note(&kept, Topic::Stuck, "orders-coordinator-1"));
}

#[test]
fn a_coordinator_that_left_is_not_taken_in_again_on_its_old_volume() {
    let mut world = World::settled(cluster(3, 5, 3));
    world.cluster.spec.coordinators.replicas = 3;
    world.settle();
    let before = world.claim_uid("orders-coordinator-4");
    assert!(before.is_some());
    world.cluster.spec.coordinators.replicas = 5;
    world.settle();
    assert_ne!(world.claim_uid("orders-coordinator-4"), before);
}
