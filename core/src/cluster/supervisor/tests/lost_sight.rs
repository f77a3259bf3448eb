//! A coordinator that loses sight of its data nodes, which are well.

use super::world::{Traced, World};
use crate::cluster::settings::SettingsRequest;
use crate::cluster::supervisor::{Output, SupervisorEvent, SupervisorOptions};
use crate::ids::PartitionId;

fn promotions(world: &World) -> usize {
    let started = |traced: &Traced| {
        matches!(
            traced,
            Traced::Output(Output::Event(SupervisorEvent::PromotionStarted { .. }))
        )
    };
    world.trace.iter().filter(|(_, t)| started(t)).count()
}

#[test]
fn how_a_primary_stood_when_it_was_heard_of_last_does_not_last() {
    let request = SettingsRequest {
        replication_factor: Some(3),
        partitions: Some(1),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(SupervisorOptions::default(), 5, &request);
    let record = world.state.partition(PartitionId(0)).expect("it is there");
    let primary = record.primary.expect("named").node;
    let others: Vec<_> = record.config.voters().into_iter().map(|m| m.node).collect();
    let before = promotions(&world);
    // Its followers lose it, for less long than they may.
    for other in others.into_iter().filter(|other| *other != primary) {
        world.cut.insert((primary.min(other), primary.max(other)));
    }
    world.run(700);
    // Then nothing at all reaches the coordinator, and nothing breaks either.
    for node in world.nodes.values_mut() {
        node.stopped = true;
    }
    world.run(10_000);
    assert_eq!(promotions(&world), before);
    // Where it stays so, and is seen, another one is named.
    for node in world.nodes.values_mut() {
        node.stopped = false;
    }
    world.run(4_000);
    assert!(promotions(&world) > before);
    assert!(world.all_serve());
}
