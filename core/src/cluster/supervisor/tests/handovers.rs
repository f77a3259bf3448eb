//! Planned handovers: how long nobody serves.

use super::world::{Traced, World};
use crate::cluster::failure_detector::Health;
use crate::cluster::settings::SettingsRequest;
use crate::cluster::supervisor::io::Output;
use crate::cluster::supervisor::{SupervisorEvent, SupervisorOptions};
use crate::ids::{Micros, NodeId};

/// The longest that nobody served a partition since then.
fn longest_pause(world: &World, since: u64) -> Micros {
    let pauses = world.trace.iter().filter_map(|(at, traced)| match traced {
        Traced::Output(Output::Event(SupervisorEvent::Serving { unserved, .. }))
            if *at >= since =>
        {
            Some(*unserved)
        }
        _ => None,
    });
    pauses.max().expect("something was handed over")
}

fn is_up(world: &World, node: NodeId) -> bool {
    let status = world.supervisor.status(Micros(world.now));
    let mut nodes = status.nodes.iter();
    nodes.any(|told| told.id == node && told.health == Health::Up)
}

fn leads(world: &World, node: NodeId) -> usize {
    let records = world.state.partitions().iter();
    let led = records.filter(|record| record.primary.is_some_and(|p| p.node == node));
    led.count()
}

/// A rolling restart: the next node begins as soon as the one before is back.
#[test]
fn nobody_waits_for_what_a_node_may_have_granted_before_its_restart() {
    let request = SettingsRequest {
        replication_factor: Some(3),
        partitions: Some(24),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(SupervisorOptions::default(), 5, &request);
    let began = world.now;
    for node in (1..=5).map(NodeId) {
        world.sim(node).draining = true;
        for _ in 0..200 {
            if leads(&world, node) == 0 {
                break;
            }
            world.run(10);
        }
        assert_eq!(leads(&world, node), 0, "{node} leads nothing any more");
        world.kill(node);
        world.run(1_500);
        world.sim(node).draining = false;
        world.start(node);
        // It is up, and hardly more.
        for _ in 0..200 {
            if is_up(&world, node) {
                break;
            }
            world.run(5);
        }
    }
    assert!(world.all_serve());
    let longest = longest_pause(&world, began);
    assert!(longest < Micros::from_millis(150), "{longest:?}");
}

/// Whoever takes over has to commit a barrier, and the one who hands over is about to go.
#[test]
fn who_takes_over_reaches_a_quorum_without_the_one_who_goes() {
    let request = SettingsRequest {
        replication_factor: Some(5),
        partitions: Some(24),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(SupervisorOptions::default(), 5, &request);
    let (goes, cut_off) = (NodeId(1), NodeId(2));
    // With the one that goes it would be three of five.
    world.cut.insert((cut_off, NodeId(4)));
    world.cut.insert((cut_off, NodeId(5)));
    world.run(1_000);
    assert!(leads(&world, cut_off) > 0, "it serves");
    let before = leads(&world, cut_off);
    world.sim(goes).draining = true;
    world.run(2_000);
    assert_eq!(leads(&world, goes), 0);
    assert_eq!(leads(&world, cut_off), before, "it got none of them");
}
