//! When a volume counts as lost, and how many are given up together.

use std::collections::BTreeMap;

use super::by_hand::{admin, deleted, down, has_note, member, seen, store};
use super::world::{World, cluster};
use crate::observed::Observed;
use crate::plan::{Admin, Topic, plan};
use crate::store::{Copy, NodeStanding, Seat};

fn copy(node: u64, standing: &str, up: bool) -> Copy {
    Copy {
        member: Seat { node },
        standing: standing.to_owned(),
        up,
        lag: up.then_some(0),
    }
}

/// The Kubernetes node of a pod is out of the API, or has been silent for long.
fn lose_host(world: &World, seen: &mut Observed, pod: &str, is_gone: bool) {
    let name = world.host_of(pod);
    let hosts = seen.hosts.as_mut().unwrap();
    if is_gone {
        hosts.remove(&name);
    } else {
        let host = hosts.get_mut(&name).unwrap();
        host.ready = false;
        host.since_unix_ms = seen.now_unix_ms - 60_001;
    }
}

#[test]
fn a_volume_is_needed_while_its_node_leads_or_another_set_is_to_follow() {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = seen(&world);
    down(&mut seen, "orders-data-1");
    lose_host(&world, &mut seen, "orders-data-1", true);
    let id = member(&mut seen, "orders-data-1").id;
    let gives_up = |seen: &Observed| {
        let plan = plan(&world.cluster, seen);
        let is_stuck = has_note(&plan, Topic::Stuck, "orders-data-1");
        let gives_up = admin(&plan).contains(&&Admin::Gone(id));
        assert_ne!(is_stuck, gives_up, "{:#?}", plan.notes);
        gives_up
    };
    assert!(gives_up(&seen));
    let mut leading = seen.clone();
    store(&mut leading).partitions[2].primary = Some(Seat { node: id });
    assert!(!gives_up(&leading));
    // The set of now could do without the node, the one that is to follow could not.
    let others: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
    let of = |joining_is_up| {
        vec![
            copy(id, "member", false),
            copy(others[0], "member", true),
            copy(others[1], "leaving", true),
            copy(9, "joining", joining_is_up),
        ]
    };
    store(&mut seen).partitions[2].replicas = of(true);
    assert!(gives_up(&seen));
    store(&mut seen).partitions[2].replicas = of(false);
    assert!(!gives_up(&seen));
}

#[test]
fn one_whose_host_is_gone_is_not_waited_for_though_it_is_expected() {
    let world = World::settled(cluster(3, 3, 3));
    for is_gone in [true, false] {
        let mut seen = seen(&world);
        down(&mut seen, "orders-data-1");
        lose_host(&world, &mut seen, "orders-data-1", is_gone);
        let soon = seen.now_unix_ms + 100_000;
        let member = member(&mut seen, "orders-data-1");
        member.expected_back_unix_ms = Some(soon);
        let gone = Admin::Gone(member.id);
        // A host may be off on purpose, too, for as long as it is there.
        assert_eq!(
            admin(&plan(&world.cluster, &seen)).contains(&&gone),
            is_gone
        );
    }
}

/// Five data nodes of which two are down that share nothing, and who is given up.
fn two_are_down(are_gone: bool) -> (World, Observed, BTreeMap<String, u64>) {
    let world = World::settled(cluster(5, 3, 3));
    let mut seen = seen(&world);
    let ids: BTreeMap<String, u64> = store(&mut seen)
        .nodes
        .iter()
        .map(|node| (node.name.clone(), node.id))
        .collect();
    let of = |n: u32| ids[&format!("orders-data-{n}")];
    let sets = [[of(0), of(2), of(3)], [of(1), of(3), of(4)]];
    let partitions = &mut store(&mut seen).partitions;
    partitions.truncate(2);
    for (partition, set) in partitions.iter_mut().zip(sets) {
        partition.replicas = set.map(|node| copy(node, "member", true)).into();
    }
    for pod in ["orders-data-0", "orders-data-1"] {
        down(&mut seen, pod);
        lose_host(&world, &mut seen, pod, are_gone);
    }
    (world, seen, ids)
}

#[test]
fn of_silent_nodes_one_is_given_up_at_a_time() {
    let (world, mut seen, ids) = two_are_down(false);
    let asked = plan(&world.cluster, &seen);
    assert_eq!(admin(&asked), [&Admin::Gone(ids["orders-data-0"])]);
    assert!(has_note(&asked, Topic::Lost, "orders-data-1"));
    // One that was given up before holds a seat still.
    let gone = crate::store::Node {
        id: 9,
        name: "orders-data-7".to_owned(),
        standing: NodeStanding::Gone,
        ..member(&mut seen, "orders-data-0").clone()
    };
    store(&mut seen).nodes.push(gone);
    assert!(admin(&plan(&world.cluster, &seen)).is_empty());
}

#[test]
fn of_nodes_that_are_gone_none_waits_for_another() {
    let (world, seen, ids) = two_are_down(true);
    let asked = plan(&world.cluster, &seen);
    let both = ["orders-data-0", "orders-data-1"].map(|name| Admin::Gone(ids[name]));
    assert_eq!(admin(&asked), both.iter().collect::<Vec<_>>());
}

#[test]
fn coordinators_volumes_are_given_up_one_at_a_time() {
    let world = World::settled(cluster(3, 5, 3));
    let mut seen = seen(&world);
    for name in ["orders-coordinator-3", "orders-coordinator-4"] {
        lose_host(&world, &mut seen, name, true);
        let pod = seen.pods.get_mut(name).unwrap();
        pod.ready = false;
        pod.running = false;
    }
    let asked = plan(&world.cluster, &seen);
    let deleted = deleted(&asked);
    assert!(deleted.contains(&"data-orders-coordinator-3"));
    assert!(!deleted.contains(&"data-orders-coordinator-4"));
    assert!(has_note(&asked, Topic::Lost, "orders-coordinator-4"));
}

#[test]
fn a_coordinator_that_is_ready_is_not_given_up() {
    let world = World::settled(cluster(3, 3, 3));
    let mut seen = seen(&world);
    lose_host(&world, &mut seen, "orders-coordinator-1", false);
    let claim = "data-orders-coordinator-1";
    assert!(!deleted(&plan(&world.cluster, &seen)).contains(&claim));
    seen.pods.get_mut("orders-coordinator-1").unwrap().ready = false;
    assert!(deleted(&plan(&world.cluster, &seen)).contains(&claim));
}
