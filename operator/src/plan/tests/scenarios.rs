//! Whole stories: each ends with everything as asked, and the model holds every act on the
//! way to what must never happen.

use cairn_crds::spec::VolumePolicy;

use super::world::{World, cluster};

#[test]
fn a_cluster_is_made() {
    for (data, coordinators, copies) in [(1, 1, 1), (3, 3, 3), (5, 5, 2)] {
        let world = World::settled(cluster(data, coordinators, copies));
        assert_eq!(world.identities(), data as usize);
    }
}

#[test]
fn a_cluster_is_made_though_the_number_changes_meanwhile() {
    for after in 0..8 {
        let mut world = World::new(cluster(3, 3, 2));
        world.run(after);
        world.cluster.spec.data.replicas = 5;
        world.run(after);
        world.cluster.spec.data.replicas = 2;
        world.settle();
    }
}

#[test]
fn data_nodes_go_from_three_to_five_to_three() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.cluster.spec.data.replicas = 5;
    world.settle();
    world.cluster.spec.data.replicas = 3;
    world.settle();
    assert_eq!(world.identities(), 5);
    // By policy the volumes stay.
    assert!(world.claim_uid("orders-data-4").is_some());
}

#[test]
fn volumes_of_removed_nodes_go_where_the_policy_says_so() {
    let mut spec = cluster(5, 3, 3);
    spec.spec.volumes.when_scaled = VolumePolicy::Delete;
    let mut world = World::settled(spec);
    world.cluster.spec.data.replicas = 3;
    world.settle();
    world.run(5);
    assert_eq!(world.claim_uid("orders-data-4"), None);
    assert!(world.claim_uid("orders-data-2").is_some());
}

#[test]
fn a_scale_down_that_is_thought_better_of_ends_with_five() {
    for after in 0..40 {
        let mut world = World::settled(cluster(5, 3, 3));
        world.cluster.spec.data.replicas = 3;
        world.run(after);
        world.cluster.spec.data.replicas = 5;
        world.settle();
    }
}

#[test]
fn a_scale_up_that_is_thought_better_of_ends_with_three() {
    for after in 0..20 {
        let mut world = World::settled(cluster(3, 3, 3));
        world.cluster.spec.data.replicas = 5;
        world.run(after);
        world.cluster.spec.data.replicas = 3;
        world.settle();
    }
}

#[test]
fn claims_of_nodes_that_were_never_scheduled_go_where_the_policy_says_so() {
    for policy in [VolumePolicy::Delete, VolumePolicy::Retain] {
        let mut spec = cluster(3, 3, 3);
        spec.spec.volumes.when_scaled = policy;
        let mut world = World::settled(spec);
        for host in world.hosts.values_mut() {
            host.cordoned = true;
        }
        world.cluster.spec.data.replicas = 5;
        world.run(10);
        assert!(world.claim_uid("orders-data-4").is_some());
        world.cluster.spec.data.replicas = 3;
        world.run(10);
        let stays = policy == VolumePolicy::Retain;
        assert_eq!(world.claim_uid("orders-data-4").is_some(), stays);
        for host in world.hosts.values_mut() {
            host.cordoned = false;
        }
        world.settle();
    }
}

#[test]
fn an_operator_that_dies_after_any_number_of_writes_ends_where_one_that_lives_does() {
    for writes in 1..6 {
        for policy in [VolumePolicy::Retain, VolumePolicy::Delete] {
            let mut spec = cluster(5, 3, 3);
            spec.spec.volumes.when_scaled = policy;
            let mut world = World::new(spec);
            world.settle_with(writes);
            world.cluster.spec.data.replicas = 3;
            world.settle_with(writes);
            world.cluster.spec.data.replicas = 5;
            world.settle_with(writes);
            world.cluster.spec.coordinators.replicas = 5;
            world.settle_with(writes);
            world.cluster.spec.coordinators.replicas = 3;
            world.settle_with(writes);
        }
    }
}

#[test]
fn a_node_that_was_retired_comes_back_on_an_empty_volume() {
    // The operator dies after each write, so that every moment between two is met.
    for rounds in 0..60 {
        let mut world = World::settled(cluster(5, 3, 3));
        world.cluster.spec.data.replicas = 3;
        for _ in 0..rounds {
            world.round(1);
            world.tick();
        }
        world.cluster.spec.data.replicas = 5;
        world.settle_with(1);
    }
}

#[test]
fn a_host_that_is_lost_for_good_is_replaced_by_another() {
    for coordinators in [3, 5] {
        let mut world = World::settled(cluster(4, coordinators, 3));
        let host = world.host_of("orders-data-1");
        let before = world.claim_uid("orders-data-1");
        world.power(&host, false);
        world.run(5);
        world.hosts.remove(&host);
        world.settle();
        assert_ne!(world.claim_uid("orders-data-1"), before);
    }
}

#[test]
fn every_host_is_lost_in_turn_and_nothing_is_lost_with_it() {
    let mut world = World::settled(cluster(3, 3, 3));
    for n in 0..4 {
        let host = format!("host-{n}");
        world.power(&host, false);
        world.run(3);
        world.hosts.remove(&host);
        world.settle();
    }
}

#[test]
fn a_host_that_is_out_of_service_or_silent_for_long_is_replaced() {
    for taint in [true, false] {
        let mut world = World::settled(cluster(3, 3, 3));
        let host = world.host_of("orders-data-2");
        let before = world.claim_uid("orders-data-2");
        world.power(&host, false);
        world.hosts.get_mut(&host).unwrap().out_of_service = taint;
        world.run(30);
        // Certain losses do not wait, and silence may pass.
        assert_eq!(world.claim_uid("orders-data-2") != before, taint);
        world.settle();
        assert_ne!(world.claim_uid("orders-data-2"), before);
    }
}

#[test]
fn a_host_that_comes_and_goes_keeps_its_volumes() {
    let mut world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-0");
    let before = world.claim_uid("orders-data-0");
    for _ in 0..20 {
        world.power(&host, false);
        world.run(20);
        world.power(&host, true);
        world.run(10);
    }
    world.settle();
    assert_eq!(world.claim_uid("orders-data-0"), before);
    assert_eq!(world.identities(), 3);
}

#[test]
fn a_lost_volume_is_found_by_an_operator_that_dies_after_each_write() {
    let mut world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-2");
    world.power(&host, false);
    world.hosts.remove(&host);
    world.settle_with(1);
}

#[test]
fn a_host_that_returns_while_its_node_is_given_up_does_no_harm() {
    for rounds in 60..75 {
        let mut world = World::settled(cluster(3, 3, 3));
        let host = world.host_of("orders-data-2");
        world.power(&host, false);
        for _ in 0..rounds {
            world.round(1);
            world.tick();
        }
        world.power(&host, true);
        world.settle_with(1);
    }
}

/// A cluster of which the first data node has just been told to restart.
fn restarting() -> (World, String) {
    let mut world = World::settled(cluster(4, 3, 3));
    world
        .revision
        .insert(crate::names::Role::Data, "r2".to_owned());
    let host = world.host_of("orders-data-3");
    world.run(1);
    assert!(!world.serves("orders-data-3"));
    (world, host)
}

/// How many seconds pass until the pod is on another volume.
fn seconds_to_replace(world: &mut World, pod: &str) -> u32 {
    let before = world.claim_uid(pod);
    for second in 1..300 {
        world.run(1);
        if world.claim_uid(pod) != before {
            return second;
        }
    }
    panic!("it is not replaced");
}

#[test]
fn a_host_that_is_cut_right_after_a_planned_restart_is_replaced_after_the_grace() {
    let (mut world, host) = restarting();
    while !world.serves("orders-data-3") {
        world.run(1);
    }
    world.power(&host, false);
    let seconds = seconds_to_replace(&mut world, "orders-data-3");
    assert!((60..80).contains(&seconds), "{seconds}");
    world.settle();
}

#[test]
fn a_host_that_is_lost_for_good_in_a_planned_restart_is_replaced_at_once() {
    let (mut world, host) = restarting();
    world.power(&host, false);
    world.hosts.remove(&host);
    let seconds = seconds_to_replace(&mut world, "orders-data-3");
    assert!(seconds < 20, "{seconds}");
    world.settle();
}

#[test]
fn a_cordoned_host_has_no_primaries() {
    let mut world = World::settled(cluster(3, 3, 3));
    let host = world.host_of("orders-data-0");
    assert!(world.leads("orders-data-0") > 0);
    world.hosts.get_mut(&host).unwrap().cordoned = true;
    world.run(2);
    // For as long as it is, however calm all is, and whoever dies between any two writes.
    for _ in 0..1_200 {
        assert_eq!(world.leads("orders-data-0"), 0);
        world.round(1);
        world.tick();
    }
    world.hosts.get_mut(&host).unwrap().cordoned = false;
    world.settle();
    world.run(40);
    assert!(world.leads("orders-data-0") > 0);
}

#[test]
fn coordinators_go_from_one_to_three_to_five_to_three_to_one() {
    let mut world = World::settled(cluster(3, 1, 3));
    for coordinators in [3, 5, 3, 1, 3] {
        world.cluster.spec.coordinators.replicas = coordinators;
        world.settle();
        assert!(world.group_is_whole());
    }
}

#[test]
fn a_change_of_the_group_may_be_thought_better_of() {
    for (before, after) in [(1, 3), (3, 5), (5, 3), (5, 1)] {
        for rounds in 0..12 {
            let mut world = World::settled(cluster(3, before, 3));
            world.cluster.spec.coordinators.replicas = after;
            world.run(rounds);
            world.cluster.spec.coordinators.replicas = before;
            world.settle();
        }
    }
}

#[test]
fn the_number_of_copies_changes_with_the_nodes() {
    let mut world = World::settled(cluster(3, 3, 3));
    world.cluster.spec.data.replicas = 5;
    world.cluster.spec.replication_factor = 5;
    world.settle();
    world.cluster.spec.data.replicas = 2;
    world.cluster.spec.replication_factor = 2;
    world.settle();
}

#[test]
fn a_new_image_reaches_every_node_one_at_a_time() {
    let mut world = World::settled(cluster(3, 3, 3));
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    world.settle();
    let restarts: Vec<&str> = world
        .log
        .iter()
        .filter_map(|line| line.strip_prefix("DeletePod { name: \"orders-"))
        .filter_map(|line| line.split('"').next())
        .collect();
    // The leader, which is the first, is the last of the coordinators.
    let expected = [
        "coordinator-2",
        "coordinator-1",
        "coordinator-0",
        "data-2",
        "data-1",
        "data-0",
    ];
    assert_eq!(restarts, expected);
    assert_eq!(world.identities(), 3);
}

#[test]
fn a_new_image_waits_for_a_scale_down_that_is_under_way() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.data.replicas = 3;
    world.run(3);
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    world.settle();
}

#[test]
fn an_image_that_never_runs_is_left_again() {
    // From the start, and by an upgrade that goes wrong; all nodes, or those of a role.
    let mut world = World::new(cluster(3, 3, 3));
    world.bad_revisions.insert("r1".to_owned());
    world.run(10);
    for revision in world.revision.values_mut() {
        *revision = "r2".to_owned();
    }
    world.settle();
    world.bad_revisions.insert("r3".to_owned());
    for revision in world.revision.values_mut() {
        *revision = "r3".to_owned();
    }
    world.run(30);
    // It went no further than the first.
    let away = |name: &&str| !world.serves(name);
    let nodes = [
        "coordinator-0",
        "coordinator-1",
        "coordinator-2",
        "data-0",
        "data-1",
        "data-2",
    ];
    let nodes = nodes.map(|node| format!("orders-{node}"));
    assert_eq!(nodes.iter().map(String::as_str).filter(away).count(), 1);
    for revision in world.revision.values_mut() {
        *revision = "r4".to_owned();
    }
    world.settle();
}

#[test]
fn a_bad_image_does_not_wedge_a_node_that_is_to_leave() {
    let mut world = World::settled(cluster(4, 3, 3));
    world.bad_revisions.insert("r2".to_owned());
    world
        .revision
        .insert(crate::names::Role::Data, "r2".to_owned());
    world.run(10);
    world.cluster.spec.data.replicas = 3;
    world
        .revision
        .insert(crate::names::Role::Data, "r3".to_owned());
    world.settle();
}

#[test]
fn nothing_is_done_while_a_manifest_is_paused() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.maintenance.paused = true;
    world.cluster.spec.data.replicas = 3;
    world.cluster.spec.coordinators.replicas = 5;
    world
        .revision
        .insert(crate::names::Role::Data, "r2".to_owned());
    world.run(30);
    assert!(world.log.is_empty(), "{:#?}", world.log);
    world.cluster.spec.maintenance.paused = false;
    world.settle();
}

#[test]
fn nodes_that_a_person_names_are_emptied_and_kept() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.maintenance.drain = vec!["orders-data-1".to_owned()];
    world.settle();
    assert_eq!(world.leads("orders-data-1"), 0);
    // An upgrade goes on meanwhile.
    world
        .revision
        .insert(crate::names::Role::Data, "r2".to_owned());
    world.settle();
    world.cluster.spec.maintenance.drain.clear();
    world.settle();
    assert_eq!(world.identities(), 5);
}

#[test]
fn a_set_that_somebody_deleted_is_made_for_everybody_who_counts() {
    let mut world = World::settled(cluster(5, 3, 3));
    world.cluster.spec.data.replicas = 3;
    world.run(2);
    world.orphan_pods();
    world.settle();
}

#[test]
fn a_cluster_that_is_made_again_on_its_old_volumes_gives_up_what_is_not_asked_for() {
    let mut world = World::settled(cluster(5, 5, 3));
    world.delete_but_for_volumes();
    world.cluster.spec.data.replicas = 3;
    world.cluster.spec.coordinators.replicas = 3;
    world.settle();
    assert_eq!(world.identities(), 5);
}
