//! Nodes that are away on purpose: what is announced holds until then, or until they are
//! back.

use super::world::World;
use crate::cluster::command::Command;
use crate::cluster::settings::SettingsRequest;
use crate::cluster::state::Leaving;
use crate::cluster::supervisor::{Input, SupervisorOptions};
use crate::ids::NodeId;

const NODE: NodeId = NodeId(4);
/// How long a node is announced to be away, ms: longer than the grace.
const AWAY: u64 = 140_000;

fn cluster() -> World {
    let request = SettingsRequest {
        replication_factor: Some(3),
        partitions: Some(8),
        replace_after_ms: Some(20_000),
        ..SettingsRequest::default()
    };
    World::with_cluster(SupervisorOptions::default(), 5, &request)
}

fn announce(world: &mut World) {
    let until_unix_ms = world.now / 1_000 + AWAY;
    world.commit(Command::ExpectBack {
        node: NODE,
        until_unix_ms,
    });
}

fn is_announced(world: &World) -> bool {
    world.state.expected_back(NODE).is_some()
}

/// The node's process ends, and another one starts after so long.
fn restart(world: &mut World, away_ms: u64) {
    world.kill(NODE);
    world.run(away_ms);
    world.start(NODE);
}

#[test]
fn a_node_that_is_cut_off_after_a_planned_restart_is_replaced_after_the_grace() {
    let mut world = cluster();
    announce(&mut world);
    restart(&mut world, 6_000);
    world.run(8_000);
    world.kill(NODE);
    world.run(19_000);
    assert_eq!(world.state.leaving(NODE), None, "it may still come back");
    world.run(6_000);
    assert_eq!(world.state.leaving(NODE), Some(Leaving::Away));
}

#[test]
fn what_was_announced_ends_with_the_return_however_short_the_absence() {
    // Some are too short for anybody to notice but by the process that is another one.
    for away_ms in [50, 800, 3_000, 30_000] {
        let mut world = cluster();
        announce(&mut world);
        world.run(2_000);
        restart(&mut world, away_ms);
        assert!(is_announced(&world), "away for {away_ms} ms");
        world.run(8_000);
        assert!(!is_announced(&world), "away for {away_ms} ms");
        // And it can be announced again.
        announce(&mut world);
        world.run(8_000);
        assert!(is_announced(&world), "away for {away_ms} ms");
        restart(&mut world, away_ms);
        world.run(8_000);
        assert!(!is_announced(&world), "away for {away_ms} ms");
    }
}

#[test]
fn what_was_announced_holds_while_the_node_is_still_to_go() {
    let mut world = cluster();
    announce(&mut world);
    world.run(20_000);
    assert!(is_announced(&world), "its process has not ended yet");
    // The network takes it away for a moment, which is no restart.
    world.sim(NODE).connected = false;
    world.run(700);
    world.sim(NODE).connected = true;
    world.run(10_000);
    assert!(is_announced(&world));
    // And while it is away nothing moves.
    world.kill(NODE);
    world.run(60_000);
    assert_eq!(world.state.leaving(NODE), None);
    assert!(is_announced(&world));
}

#[test]
fn what_was_announced_ends_with_the_return_under_another_leader() {
    // It takes over before the node goes, and while it is away.
    for away in [false, true] {
        let mut world = cluster();
        announce(&mut world);
        if !away {
            world.take_office();
            world.run(5_000);
        }
        world.kill(NODE);
        world.run(5_000);
        if away {
            world.take_office();
            world.run(5_000);
        }
        assert!(is_announced(&world));
        world.start(NODE);
        world.run(8_000);
        assert!(!is_announced(&world), "taken over while away: {away}");
    }
}

#[test]
fn a_leader_does_not_take_a_process_that_it_knew_before_for_the_one_that_is_to_end() {
    let mut world = cluster();
    // Another one leads, to which the node comes back, and which hears of its next absence.
    world.feed(Input::LostLeadership);
    world.sim(NODE).connected = false;
    world.run(100);
    restart(&mut world, 50);
    world.run(3_000);
    announce(&mut world);
    world.sim(NODE).connected = true;
    world.take_office();
    world.run(20_000);
    assert!(is_announced(&world), "it has still to go");
    restart(&mut world, 2_000);
    world.run(8_000);
    assert!(!is_announced(&world));
}
