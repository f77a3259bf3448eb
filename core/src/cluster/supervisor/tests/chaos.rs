//! Random faults, from seeds: whatever happens, no acknowledged write is lost and no
//! two primaries may answer at once; once everything is well again, so is every
//! partition.
//!
//! The world itself checks both whenever a primary is named, see
//! [`super::world::World::commit`].

use super::world::{Draw, World};
use crate::cluster::settings::SettingsRequest;
use crate::cluster::status::PartitionState;
use crate::cluster::supervisor::{AdminRequest, Input, SupervisorOptions};
use crate::ids::{Micros, NodeId, PartitionId};

fn fault(world: &mut World, draw: &mut Draw, nodes: u64) {
    let node = NodeId(1 + draw.below(nodes));
    let other = NodeId(1 + draw.below(nodes));
    let partition = PartitionId(u32::try_from(draw.below(4)).expect("small"));
    match draw.below(22) {
        0..=4 => world.kill(node),
        5..=8 => world.start(node),
        9 => world.sim(node).stopped = true,
        10 => world.sim(node).stopped = false,
        11 => world.sim(node).connected = false,
        12 => world.sim(node).connected = true,
        13 if node != other => {
            world.cut.insert((node.min(other), node.max(other)));
        }
        14 => world.cut.clear(),
        15 => world.raft_up = !world.raft_up,
        16 => {
            world.feed(Input::LostLeadership);
            world.take_office();
        }
        17 => world.sim(node).draining ^= true,
        18 => world.feed(Input::Admin(AdminRequest::Promote { partition })),
        19 => world.sim(node).mute ^= true,
        20 => world.sim(node).hung ^= true,
        21 => world.sim(node).deaf ^= true,
        _ => {}
    }
}

/// Everything runs and reaches everything.
fn heal(world: &mut World, nodes: u64) {
    world.cut.clear();
    world.raft_up = true;
    for node in 1..=nodes {
        let node = NodeId(node);
        world.start(node);
        let sim = world.sim(node);
        sim.stopped = false;
        sim.connected = true;
        sim.draining = false;
        sim.mute = false;
        sim.hung = false;
        sim.deaf = false;
    }
}

fn survive(seed: u64, rf: u8, w: u8, nodes: u64, damage: bool) {
    let mut draw = Draw(seed);
    let request = SettingsRequest {
        replication_factor: Some(rf),
        write_quorum: Some(w),
        partitions: Some(4),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(
        SupervisorOptions::default(),
        u32::try_from(nodes).expect("small"),
        &request,
    );
    world.writes = true;
    world.weather = Some(Draw(seed ^ 0x5eed));
    for round in 0..3 {
        for _ in 0..20 {
            fault(&mut world, &mut draw, nodes);
            let pause = draw.below(700);
            world.run(pause);
        }
        heal(&mut world, nodes);
        if damage {
            // One damaged replica at a time is within what W=2 of three survives.
            world.run(30_000);
            world.corrupt(NodeId(1 + draw.below(nodes)), PartitionId(0));
        }
        for _ in 0..60 {
            world.run(1_000);
            if well(&world) {
                break;
            }
        }
        assert!(
            well(&world),
            "seed {seed} RF {rf} W {w}, round {round}: {:#?}",
            world.supervisor.status(Micros(world.now)).partitions
        );
        for partition in 0..4 {
            world.check_nothing_lost(PartitionId(partition));
        }
        world.trace.clear();
    }
}

fn well(world: &World) -> bool {
    world
        .supervisor
        .status(Micros(world.now))
        .partitions
        .iter()
        .all(|p| p.state == PartitionState::Healthy)
}

#[test]
fn three_replicas_lose_nothing_and_heal() {
    for seed in 0..25 {
        survive(seed, 3, 2, 5, false);
    }
}

#[test]
fn a_damaged_replica_is_replaced_among_other_faults() {
    for seed in 100..110 {
        survive(seed, 3, 2, 4, true);
    }
}

#[test]
fn two_replicas_shrink_and_grow_and_lose_nothing() {
    for seed in 200..220 {
        survive(seed, 2, 2, 3, false);
    }
}

#[test]
fn five_replicas_with_a_low_write_quorum_lose_nothing_and_heal() {
    for seed in 300..308 {
        survive(seed, 5, 2, 5, false);
    }
}

#[test]
fn every_replica_needed_for_a_write_shrinks_and_heals() {
    for seed in 400..410 {
        survive(seed, 3, 3, 4, false);
    }
}

#[test]
fn one_replica_serves_whenever_its_node_does() {
    for seed in 500..505 {
        survive(seed, 1, 1, 3, false);
    }
}

#[test]
fn with_w1_losses_are_counted_and_nothing_is_stuck() {
    for seed in 600..615 {
        survive(seed, 3, 1, 4, false);
        survive(seed, 2, 1, 3, false);
    }
}
