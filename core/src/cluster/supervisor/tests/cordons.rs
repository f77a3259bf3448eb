//! Nodes that are to lead nothing for a while: what they handed over stays where it is.

use super::world::World;
use crate::cluster::settings::SettingsRequest;
use crate::cluster::supervisor::{AdminRequest, Input, SupervisorOptions};
use crate::ids::{Micros, NodeId, PartitionId};

const NODE: NodeId = NodeId(2);
const LONG: u64 = 3_600_000;

fn cluster() -> World {
    let request = SettingsRequest {
        replication_factor: Some(3),
        partitions: Some(12),
        ..SettingsRequest::default()
    };
    World::with_cluster(SupervisorOptions::default(), 3, &request)
}

fn cordon(world: &mut World, node: NodeId, for_ms: Option<u64>) {
    let until_unix_ms = for_ms.map_or(0, |for_ms| world.now / 1_000 + for_ms);
    world.feed(Input::Admin(AdminRequest::Cordon {
        node,
        until_unix_ms,
    }));
}

fn led_by(world: &World, node: NodeId) -> Vec<PartitionId> {
    let records = world.state.partitions().iter();
    let led = records.filter(|record| record.primary.is_some_and(|p| p.node == node));
    led.map(|record| record.id).collect()
}

/// The node hands over all that it leads.
fn hand_over(world: &mut World, node: NodeId) {
    let led = led_by(world, node);
    assert!(!led.is_empty());
    for partition in led {
        world.feed(Input::Admin(AdminRequest::HandOver {
            partition,
            to: None,
        }));
    }
    world.run(2_000);
    assert!(led_by(world, node).is_empty());
}

fn told_until(world: &World, node: NodeId) -> u64 {
    let status = world.supervisor.status(Micros(world.now));
    let mut nodes = status.nodes.iter();
    let told = nodes.find(|told| told.id == node).expect("a member");
    told.cordoned_until_unix_ms
}

#[test]
fn primaries_do_not_go_back_to_a_node_that_is_cordoned() {
    let mut world = cluster();
    let led = led_by(&world, NODE);
    cordon(&mut world, NODE, Some(LONG));
    assert!(told_until(&world, NODE) > world.now / 1_000);
    hand_over(&mut world, NODE);
    world.run(90_000);
    assert!(led_by(&world, NODE).is_empty());
    // They do once it is taken back.
    cordon(&mut world, NODE, None);
    assert_eq!(told_until(&world, NODE), 0);
    world.run(90_000);
    assert_eq!(led_by(&world, NODE), led);
}

#[test]
fn a_cordon_ends_at_its_time_whoever_forgot_it() {
    let mut world = cluster();
    let led = led_by(&world, NODE);
    cordon(&mut world, NODE, Some(60_000));
    hand_over(&mut world, NODE);
    world.run(55_000);
    assert!(led_by(&world, NODE).is_empty());
    world.run(60_000);
    assert_eq!(led_by(&world, NODE), led);
    assert_eq!(told_until(&world, NODE), 0);
}

#[test]
fn who_hands_over_does_so_to_a_cordoned_node_where_there_is_no_other() {
    let mut world = cluster();
    cordon(&mut world, NODE, Some(LONG));
    hand_over(&mut world, NODE);
    let (first, third) = (NodeId(1), NodeId(3));
    hand_over(&mut world, first);
    assert_eq!(led_by(&world, third).len(), 12);
    // It is worse to be led by nobody.
    world.kill(first);
    world.run(3_000);
    hand_over(&mut world, third);
    assert_eq!(led_by(&world, NODE).len(), 12);
}

#[test]
fn a_cordoned_node_is_promoted_where_another_fails() {
    let mut world = cluster();
    cordon(&mut world, NODE, Some(LONG));
    hand_over(&mut world, NODE);
    world.kill(NodeId(1));
    world.kill(NodeId(3));
    world.run(1_000);
    world.start(NodeId(3));
    world.run(10_000);
    let led = led_by(&world, NODE).len() + led_by(&world, NodeId(3)).len();
    assert_eq!(led, 12);
    for partition in 0..12 {
        world.check_nothing_lost(PartitionId(partition));
    }
}

#[test]
fn another_leader_is_told_anew() {
    let mut world = cluster();
    cordon(&mut world, NODE, Some(LONG));
    world.take_office();
    world.run(1_000);
    assert_eq!(told_until(&world, NODE), 0);
    cordon(&mut world, NODE, Some(LONG));
    assert!(told_until(&world, NODE) > 0);
    // One that leads no more takes no word.
    world.feed(Input::LostLeadership);
    cordon(&mut world, NODE, Some(LONG));
    world.take_office();
    assert_eq!(told_until(&world, NODE), 0);
    // Nor is anybody cordoned who is no member.
    cordon(&mut world, NodeId(99), Some(LONG));
    world.run(2_000);
}
