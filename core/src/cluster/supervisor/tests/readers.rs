//! Copies for reads alone: when they come and go, and that they stand in the way of nothing.

use super::world::{Draw, World};
use crate::cluster::command::{Command, NodeRegistration, Response};
use crate::cluster::report::HeatReport;
use crate::cluster::settings::SettingsRequest;
use crate::cluster::status::PartitionState;
use crate::cluster::supervisor::{Input, ReadCopies, SupervisorOptions};
use crate::features::{CoordinatorFeatures, UNDERSTOOD};
use crate::hot::PartitionLoad;
use crate::ids::{Micros, NodeId, PartitionId};
use crate::record::{Addresses, Member, PartitionRecord};

const P: PartitionId = PartitionId(0);

fn world(nodes: u32) -> World {
    world_with(nodes, ReadCopies::default())
}

fn world_with(nodes: u32, read_copies: ReadCopies) -> World {
    let request = SettingsRequest {
        replication_factor: Some(3),
        partitions: Some(4),
        ..SettingsRequest::default()
    };
    let options = SupervisorOptions {
        read_copies,
        ..SupervisorOptions::default()
    };
    let mut world = World::with_cluster(options, nodes, &request);
    // Long enough for every node to count as settled.
    world.run(5_000);
    understood(&mut world, UNDERSTOOD);
    world
}

/// The coordinators say what they understand.
fn understood(world: &mut World, features: u64) {
    let voter = |name: &str| CoordinatorFeatures {
        name: name.to_owned(),
        features: Some(features),
    };
    world.feed(Input::Coordinators(vec![voter("c1"), voter("c2")]));
}

fn record(world: &World) -> &PartitionRecord {
    &world.state.partitions()[0]
}

fn readers(world: &World) -> Vec<Member> {
    record(world).config.readers.clone()
}

/// Clients read the partition that much, evenly from whoever answers.
fn read(world: &mut World, reads: u64) {
    let answering = record(world).config.answering_reads();
    let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
    for node in nodes {
        let serves = answering.iter().any(|m| m.node == node);
        let each = reads / answering.len() as u64;
        world.sim(node).heat = Some(HeatReport {
            partitions: serves
                .then_some((
                    P,
                    PartitionLoad {
                        reads_per_second: each,
                        replica_reads_per_second: each,
                        ..PartitionLoad::default()
                    },
                ))
                .into_iter()
                .collect(),
            keys: Vec::new(),
        });
    }
}

/// Lets so many seconds pass under that load.
fn seconds(world: &mut World, seconds: u64, reads: u64) {
    for _ in 0..seconds {
        read(world, reads);
        world.run(1_000);
    }
}

fn state(world: &World) -> PartitionState {
    world.supervisor.status(Micros(world.now)).partitions[0].state
}

#[test]
fn reads_that_stay_hot_get_copies_and_lose_them_when_they_cool() {
    let mut world = world(6);
    let others = |world: &World| {
        let voters = record(world).config.voters();
        readers(world)
            .iter()
            .all(|reader| voters.iter().all(|voter| voter.node != reader.node))
    };
    // 20,000 for each of three.
    seconds(&mut world, 8, 60_000);
    assert_eq!(readers(&world), [], "not yet for long enough");
    seconds(&mut world, 5, 60_000);
    assert_eq!(readers(&world).len(), 1);
    assert!(others(&world));
    // 15,000 for each of four.
    seconds(&mut world, 13, 60_000);
    assert_eq!(readers(&world).len(), 2);
    assert!(others(&world));
    // 12,000 for each of five, and no more are allowed.
    seconds(&mut world, 30, 60_000);
    assert_eq!(readers(&world).len(), 2);
    let status = world.supervisor.status(Micros(world.now));
    assert_eq!(status.summary.degraded, 0);
    assert_eq!(status.summary.moving, 0);
    assert!(status.rebalance.is_settled(), "{:?}", status.rebalance);
    assert_eq!(state(&world), PartitionState::Healthy);
    // Between what makes a copy and what takes one away.
    seconds(&mut world, 90, 30_000);
    assert_eq!(readers(&world).len(), 2);
    // 4,500 for each of four.
    seconds(&mut world, 50, 18_000);
    assert_eq!(readers(&world).len(), 2, "not cool for long enough");
    seconds(&mut world, 12, 18_000);
    assert_eq!(readers(&world).len(), 1);
    // 6,000 for each of three: the one that is left is still of use.
    seconds(&mut world, 90, 18_000);
    assert_eq!(readers(&world).len(), 1);
    seconds(&mut world, 65, 0);
    assert_eq!(readers(&world), []);
    assert!(world.all_serve());
}

#[test]
fn no_copy_is_made_where_it_would_not_help() {
    // Every node is as busy as those that serve the partition.
    let mut world = world(6);
    for _ in 0..30 {
        read(&mut world, 60_000);
        let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
        for node in nodes {
            let heat = world.sim(node).heat.as_mut().expect("set");
            heat.partitions.push((
                PartitionId(1),
                PartitionLoad {
                    reads_per_second: 50_000,
                    ..PartitionLoad::default()
                },
            ));
        }
        world.run(1_000);
    }
    assert_eq!(readers(&world), []);

    // All nodes have one of it already.
    let mut small = self::world(3);
    seconds(&mut small, 30, 600_000);
    assert_eq!(readers(&small), []);

    // They are switched off, or none are left of what all partitions may have.
    for copies in [
        ReadCopies {
            per_partition: 0,
            ..ReadCopies::default()
        },
        ReadCopies {
            in_all: 0,
            ..ReadCopies::default()
        },
    ] {
        let mut off = world_with(6, copies);
        seconds(&mut off, 30, 600_000);
        assert_eq!(readers(&off), []);
    }

    // Reads that only the primary may answer are no reason.
    let mut strong = self::world(6);
    for _ in 0..30 {
        read(&mut strong, 600_000);
        for node in (1..=6).map(NodeId) {
            for (_, load) in &mut strong.sim(node).heat.as_mut().expect("set").partitions {
                load.replica_reads_per_second = 0;
            }
        }
        strong.run(1_000);
    }
    assert_eq!(readers(&strong), []);
}

#[test]
fn while_anybody_is_of_an_earlier_build_there_are_none() {
    let mut world = world(6);
    understood(&mut world, 0);
    seconds(&mut world, 30, 90_000);
    assert_eq!(readers(&world), [], "a coordinator");
    understood(&mut world, UNDERSTOOD);
    seconds(&mut world, 30, 90_000);
    assert_eq!(readers(&world).len(), 2);
    // A new leader has not asked the coordinators yet, and then one of them is silent.
    world.feed(Input::LostLeadership);
    world.take_office();
    seconds(&mut world, 5, 90_000);
    assert_eq!(readers(&world).len(), 2, "they stay");
    let silent = CoordinatorFeatures {
        name: "c3".to_owned(),
        features: None,
    };
    world.feed(Input::Coordinators(vec![silent]));
    seconds(&mut world, 5, 90_000);
    assert_eq!(readers(&world).len(), 2, "they stay");
    understood(&mut world, UNDERSTOOD);
    // A data node goes back to an earlier build.
    let info = world.state.node(NodeId(6)).expect("a node").clone();
    let answer = world.commit(Command::RegisterNode(NodeRegistration {
        uuid: info.uuid.clone(),
        incarnation: info.incarnation.clone(),
        name: info.name.clone(),
        addresses: Addresses::default(),
        zone: String::new(),
        weight: 100,
        features: 0,
        replace_dead: false,
    }));
    assert!(matches!(answer, Response::Registered { .. }), "{answer:?}");
    seconds(&mut world, 10, 90_000);
    assert_eq!(readers(&world), []);
    // A new leader does not know of the coordinators until it has asked.
    let refused = {
        world.feed(Input::LostLeadership);
        world.take_office();
        world
            .supervisor
            .check_feature(crate::features::Feature::ReadCopies)
    };
    assert!(refused.unwrap_err().not_asked);
}

#[test]
fn a_copy_goes_with_its_node_and_keeps_it_from_nothing() {
    let mut world = world(6);
    seconds(&mut world, 13, 60_000);
    let reader = readers(&world)[0];
    assert_eq!(
        world.commit(Command::Drain { node: reader.node }),
        Response::Done
    );
    seconds(&mut world, 5, 60_000);
    assert!(!readers(&world).contains(&reader));
    assert!(readers(&world).iter().all(|m| m.node != reader.node));

    // One whose node dies is given up, and another is made after a while.
    let mut world = self::world(6);
    seconds(&mut world, 13, 60_000);
    let reader = readers(&world)[0];
    world.kill(reader.node);
    seconds(&mut world, 16, 60_000);
    assert_eq!(readers(&world), []);
    assert_eq!(state(&world), PartitionState::Healthy);
    seconds(&mut world, 80, 60_000);
    assert!(!readers(&world).is_empty());
    assert!(readers(&world).iter().all(|m| m.node != reader.node));
}

#[test]
fn where_its_node_is_to_hold_a_member_the_copy_becomes_it() {
    let mut world = world(4);
    seconds(&mut world, 13, 60_000);
    let reader = readers(&world)[0];
    let primary = record(&world).primary.expect("served");
    let voters = record(&world).config.voters();
    let lost = *voters.iter().find(|m| **m != primary).expect("one");
    world.kill(lost.node);
    let gone = Command::MarkGone {
        node: lost.node,
        force: false,
    };
    assert_eq!(world.commit(gone), Response::Done);
    seconds(&mut world, 15, 30_000);
    let config = &record(&world).config;
    assert!(config.current.members.contains(&reader), "{config:?}");
    assert!(!config.readers.contains(&reader));
    assert_eq!(config.current.len(), 3);
    assert!(world.all_serve());
}

#[test]
fn a_primary_that_dies_is_replaced_by_a_member_as_without_copies() {
    let mut world = world(7);
    world.writes = true;
    seconds(&mut world, 26, 60_000);
    let copies = readers(&world);
    assert_eq!(copies.len(), 2);
    let primary = record(&world).primary.expect("served");
    world.kill(primary.node);
    seconds(&mut world, 5, 60_000);
    let next = record(&world).primary.expect("served again");
    assert!(!copies.contains(&next) && next != primary);
    assert_eq!(readers(&world), copies, "they follow the new one");
    world.check_nothing_lost(P);
}

/// Random faults while copies come and go.
#[test]
fn whatever_happens_copies_for_reads_change_nothing() {
    for seed in 0..12 {
        let mut draw = Draw(seed * 77 + 5);
        let mut world = world_with(
            6,
            ReadCopies {
                hot_for: Micros::from_millis(1_000),
                cool_for: Micros::from_millis(2_000),
                silent_for: Micros::from_millis(1_000),
                rest: Micros::from_millis(1_000),
                ..ReadCopies::default()
            },
        );
        world.writes = true;
        let mut seen = 0;
        for _ in 0..40 {
            let node = NodeId(1 + draw.below(6));
            match draw.below(8) {
                0 | 1 => world.kill(node),
                2..=4 => world.start(node),
                5 => world.sim(node).draining ^= true,
                6 => {
                    world.feed(Input::LostLeadership);
                    world.take_office();
                }
                _ => {}
            }
            understood(&mut world, UNDERSTOOD);
            let reads = [0, 90_000, 200_000][draw.below(3) as usize];
            seconds(&mut world, 1 + draw.below(3), reads);
            seen += readers(&world).len();
            let named = record(&world).primary;
            assert!(named.is_none_or(|p| !readers(&world).contains(&p)));
        }
        assert!(seen > 0, "seed {seed}: there was never a copy");
        for node in (1..=6).map(NodeId) {
            world.start(node);
            world.sim(node).draining = false;
        }
        seconds(&mut world, 40, 0);
        assert_eq!(readers(&world), [], "seed {seed}");
        assert_eq!(state(&world), PartitionState::Healthy, "seed {seed}");
        world.check_nothing_lost(P);
    }
}

/// Who leads each partition.
fn leaders(world: &World) -> Vec<NodeId> {
    let records = world.state.partitions().iter();
    records.map(|r| r.primary.expect("served").node).collect()
}

/// Lets time pass in which each of those partitions is asked so much of its primary.
fn asked(world: &mut World, seconds: u64, hot: &[(usize, u64)]) {
    for _ in 0..seconds {
        let leaders = leaders(world);
        let nodes: Vec<NodeId> = world.nodes.keys().copied().collect();
        for node in nodes {
            let mine = hot
                .iter()
                .filter(|(partition, _)| leaders[*partition] == node);
            let loads = mine.map(|(partition, writes)| {
                let load = PartitionLoad {
                    writes_per_second: *writes,
                    ..PartitionLoad::default()
                };
                let id = u32::try_from(*partition).expect("few");
                (PartitionId(id), load)
            });
            world.sim(node).heat = Some(HeatReport {
                partitions: loads.collect(),
                keys: Vec::new(),
            });
        }
        world.run(1_000);
    }
}

#[test]
fn of_two_hot_partitions_of_one_primary_one_is_handed_over_until_it_cools() {
    let request = SettingsRequest {
        replication_factor: Some(3),
        partitions: Some(20),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(SupervisorOptions::default(), 5, &request);
    world.run(40_000);
    let before = leaders(&world);
    let node = before[0];
    let two: Vec<usize> = (0..20).filter(|p| before[*p] == node).take(2).collect();
    // One alone is no reason.
    asked(&mut world, 30, &[(two[0], 9_000)]);
    assert_eq!(leaders(&world), before);
    let hot = [(two[0], 9_000), (two[1], 9_000)];
    asked(&mut world, 9, &hot);
    assert_eq!(leaders(&world), before, "not for long enough");
    asked(&mut world, 5, &hot);
    let after = leaders(&world);
    let moved: Vec<usize> = (0..20).filter(|p| after[*p] != before[*p]).collect();
    assert_eq!(moved.len(), 1, "{moved:?}");
    assert!(two.contains(&moved[0]));
    // It stays, however calm it is, and nothing else moves.
    asked(&mut world, 100, &hot);
    assert_eq!(leaders(&world), after);
    // Where nobody has less to do there is nowhere to go.
    let everywhere: Vec<(usize, u64)> = (0..20).map(|p| (p, 9_000)).collect();
    asked(&mut world, 40, &everywhere);
    assert_eq!(leaders(&world), after);
    asked(&mut world, 100, &[]);
    assert_eq!(leaders(&world), before, "back where the ring puts it");
}
