//! Nodes that join, leave, stay away and come back, and RF and W that change, over many
//! partitions: what has to move does, no more than that, and nothing is lost.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{Draw, Traced, World};
use crate::cluster::command::{Command, Direction, Refusal, Response};
use crate::cluster::failure_detector::Health;
use crate::cluster::rebalance::{self, MoveReason};
use crate::cluster::report::NodeFigures;
use crate::cluster::settings::SettingsRequest;
use crate::cluster::state::Leaving;
use crate::cluster::status::PartitionState;
use crate::cluster::supervisor::reconfigure::MovesUnderWay;
use crate::cluster::supervisor::{Input, Output, SupervisorEvent, SupervisorOptions};
use crate::ids::{Micros, NodeId, PartitionId};
use crate::record::{Member, NodeStanding};

const PARTITIONS: u32 = 24;

fn cluster(rf: u8, nodes: u32) -> World {
    let request = SettingsRequest {
        replication_factor: Some(rf),
        partitions: Some(PARTITIONS),
        replace_after_ms: Some(20_000),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(SupervisorOptions::default(), nodes, &request);
    world.writes = true;
    world
}

/// Partitions that are not served by the replicas that they should have and no others,
/// and whether the seats are those for the nodes that there are.
fn unsettled(world: &World) -> Vec<String> {
    let state = &world.state;
    let settings = state.settings().expect("a cluster");
    let status = world.supervisor.status(Micros(world.now));
    let mut wrong: Vec<String> = state
        .partitions()
        .iter()
        .zip(&status.partitions)
        .filter(|(record, health)| {
            let members = &record.config.current.members;
            let members: BTreeSet<NodeId> = members.iter().map(|m| m.node).collect();
            let seats: BTreeSet<NodeId> = state.seats(record.id).iter().copied().collect();
            health.state != PartitionState::Healthy
                || members != seats
                || record.config.current.write_quorum != settings.write_quorum
        })
        .map(|(record, health)| {
            format!(
                "{} {:?}, primary {:?}, {:?}, seats {:?}",
                record.id,
                health.state,
                record.primary,
                record.config,
                state.seats(record.id)
            )
        })
        .collect();
    if *state.placed_for() != state.basis() {
        wrong.push(format!(
            "{:?}, placed for {:?}",
            state.basis(),
            state.placed_for()
        ));
    }
    wrong
}

fn settled(world: &World) -> bool {
    unsettled(world).is_empty()
}

fn settle(world: &mut World) {
    for _ in 0..180 {
        world.run(1_000);
        if settled(world) {
            return;
        }
    }
    let status = world.supervisor.status(Micros(world.now));
    let unwell: Vec<String> = status
        .nodes
        .iter()
        .filter(|node| node.health != Health::Up || node.standing != NodeStanding::Member)
        .map(|node| format!("{} is {:?}, {:?}", node.id, node.health, node.standing))
        .collect();
    for (at, traced) in &world.trace[world.trace.len().saturating_sub(2_000)..] {
        if let Some(told) = super::script::tell(traced) {
            eprintln!("{at} {told}");
        }
    }
    panic!("not settled: {:#?}, {unwell:?}", unsettled(world));
}

/// How many replicas were made since the trace was cleared.
fn copies(world: &World) -> usize {
    let made = |traced: &Traced| {
        matches!(
            traced,
            Traced::Output(Output::Event(SupervisorEvent::LearnerAdded { .. }))
        )
    };
    world
        .trace
        .iter()
        .filter(|(_, traced)| made(traced))
        .count()
}

/// How many replicas each node holds.
fn loads(world: &World) -> BTreeMap<NodeId, usize> {
    world
        .state
        .members()
        .map(|n| (n.id, world.state.replicas_on(n.id)))
        .collect()
}

fn nothing_is_lost(world: &World) {
    for partition in 0..PARTITIONS {
        world.check_nothing_lost(PartitionId(partition));
    }
}

fn refusal(response: &Response) -> &Refusal {
    response.refusal().expect("a refusal")
}

#[test]
fn nodes_that_join_together_take_their_share_and_nothing_else_moves() {
    let mut world = cluster(3, 3);
    for number in 4..=6 {
        world.register(&format!("data-{number}"), false);
    }
    assert!(
        rebalance::preview(&world.state)
            .unwrap()
            .iter()
            .all(|m| { m.reason == MoveReason::Joined && m.to > NodeId(3) && m.from.is_some() })
    );
    settle(&mut world);
    // 72 replicas on six nodes: twelve each, and what the newcomers hold was copied once.
    assert!(loads(&world).values().all(|held| (11..=13).contains(held)));
    let held: usize = (4..=6).map(|n| loads(&world)[&NodeId(n)]).sum();
    assert_eq!(copies(&world), held);
    nothing_is_lost(&world);
}

#[test]
fn a_node_that_drains_gives_everything_up_and_only_then_may_go() {
    let mut world = cluster(3, 5);
    let node = NodeId(2);
    let held = world.state.replicas_on(node);
    assert_eq!(world.commit(Command::Drain { node }), Response::Done);
    assert_eq!(world.commit(Command::Drain { node }), Response::Unchanged);
    assert!(matches!(
        refusal(&world.commit(Command::Retire { node })),
        Refusal::NotEmpty { .. }
    ));
    settle(&mut world);
    assert_eq!(world.state.held_by(node), None);
    assert_eq!(copies(&world), held, "each of its copies was made once");
    assert_eq!(world.commit(Command::Retire { node }), Response::Done);
    assert_eq!(world.commit(Command::Retire { node }), Response::Unchanged);
    nothing_is_lost(&world);
}

#[test]
fn a_drain_that_is_taken_back_keeps_what_has_not_moved_yet() {
    let mut world = cluster(3, 5);
    let node = NodeId(2);
    let held = world.state.replicas_on(node);
    assert_eq!(world.commit(Command::Drain { node }), Response::Done);
    while world.state.replicas_on(node) + 4 > held {
        world.run(5);
    }
    let left = world.state.replicas_on(node);
    assert!(left > 0);
    assert_eq!(world.commit(Command::Undrain { node }), Response::Done);
    settle(&mut world);
    // What moved comes back, as far as the bounds ask for it; what was there stayed.
    let moved = held - left;
    assert!(
        copies(&world) <= 2 * (moved + usize::from(world.state.settings().unwrap().moves_per_node)),
        "{} copies for {moved} that had moved",
        copies(&world)
    );
    nothing_is_lost(&world);
}

#[test]
fn a_drain_that_leaves_too_few_nodes_is_refused() {
    let mut world = cluster(3, 4);
    assert_eq!(
        world.commit(Command::Drain { node: NodeId(1) }),
        Response::Done
    );
    assert_eq!(
        refusal(&world.commit(Command::Drain { node: NodeId(2) })).to_string(),
        "2 data nodes are there to hold replicas, 3 are needed"
    );
    // It is the same for one that leaves already.
    assert_eq!(
        world.commit(Command::Drain { node: NodeId(1) }),
        Response::Unchanged
    );
}

#[test]
fn what_a_change_would_copy_is_told_and_whether_there_is_room_for_it() {
    let mut world = cluster(3, 4);
    world.replica_bytes = Some(1_000);
    for node in 1..=4 {
        world.sim(NodeId(node)).figures = Some(NodeFigures {
            disk_total_bytes: 100_000,
            disk_free_bytes: 60_000,
            ..NodeFigures::default()
        });
    }
    world.sim(NodeId(2)).figures = Some(NodeFigures {
        disk_total_bytes: 100_000,
        disk_free_bytes: 11_000,
        ..NodeFigures::default()
    });
    world.run(2_000);
    let before = world.state.clone();
    let held = world.state.replicas_on(NodeId(1));
    let plan = world
        .supervisor
        .preview(Some(&Command::Drain { node: NodeId(1) }))
        .expect("a plan");
    assert_eq!(plan.copies.len(), held);
    assert!(plan.copies.iter().all(|planned| {
        planned.copy.reason == MoveReason::Draining && planned.copy.from == Some(NodeId(1))
    }));
    assert_eq!(plan.bytes, 1_000 * held as u64);
    // A tenth of a disk is left free: of 11,000 bytes 1,000 may be taken.
    let lack = plan.no_room.first().expect("too small a disk");
    assert_eq!(
        (plan.no_room.len(), lack.node, lack.free_bytes),
        (1, NodeId(2), 1_000)
    );
    let refused = world
        .supervisor
        .preview(Some(&Command::Drain { node: NodeId(9) }))
        .expect_err("there is no such node");
    assert_eq!(refused.to_string(), "node n9 is not a member");
    assert_eq!(world.state, before, "nothing is changed");
    assert_eq!(copies(&world), 0);
    let settled = world.supervisor.preview(None).expect("a plan");
    assert!(settled.copies.is_empty());
}

#[test]
fn a_drained_node_is_empty_once_it_knows_so_itself() {
    let mut world = cluster(3, 4);
    let node = NodeId(3);
    let empty = |world: &World| {
        let status = world.supervisor.status(Micros(world.now));
        status.nodes.iter().any(|n| n.id == node && n.empty)
    };
    world.commit(Command::Drain { node });
    while world.state.held_by(node).is_some() {
        assert!(!empty(&world));
        world.run(5);
    }
    assert!(!empty(&world), "its last heartbeat is older");
    world.run(500);
    assert!(empty(&world));
    let status = world.supervisor.rebalance_status();
    assert!(status.is_settled(), "{status:?}");
}

#[test]
fn joins_and_leaves_at_once_make_one_plan() {
    let mut world = cluster(3, 5);
    for number in 6..=8 {
        world.register(&format!("data-{number}"), false);
    }
    for node in [1, 2] {
        let node = NodeId(node);
        assert_eq!(world.commit(Command::Drain { node }), Response::Done);
    }
    let left: usize = [1, 2].iter().map(|n| loads(&world)[&NodeId(*n)]).sum();
    settle(&mut world);
    let taken: usize = (6..=8).map(|n| loads(&world)[&NodeId(n)]).sum();
    assert!(
        copies(&world) <= left.max(taken) + 2,
        "{} copies, {left} had to leave, {taken} had to come",
        copies(&world)
    );
    nothing_is_lost(&world);
}

#[test]
fn whoever_stays_away_is_replaced_after_the_grace_and_keeps_what_is_left() {
    let mut world = cluster(3, 5);
    let node = NodeId(4);
    let held = world.state.replicas_on(node);
    world.kill(node);
    world.run(15_000);
    assert_eq!(world.state.leaving(node), None);
    assert_eq!(copies(&world), 0, "nothing moves within the grace");
    while world.state.replicas_on(node) + 4 > held {
        world.run(5);
    }
    assert_eq!(world.state.leaving(node), Some(Leaving::Away));
    let left = world.state.replicas_on(node);
    world.start(node);
    world.run(6_000);
    assert_eq!(world.state.leaving(node), None);
    settle(&mut world);
    assert!(world.state.replicas_on(node) >= left);
    nothing_is_lost(&world);
}

#[test]
fn one_that_flaps_or_is_expected_back_is_not_replaced() {
    let mut world = cluster(3, 5);
    let node = NodeId(4);
    for _ in 0..6 {
        world.kill(node);
        world.run(12_000);
        world.start(node);
        world.run(3_000);
    }
    assert_eq!(world.state.leaving(node), None);
    let until_unix_ms = u64::MAX;
    world.commit(Command::ExpectBack {
        node,
        until_unix_ms,
    });
    world.kill(node);
    world.run(60_000);
    assert_eq!(world.state.leaving(node), None);
    assert_eq!(copies(&world), 0);
    // Whoever says that it never comes back ends the waiting.
    let gone = Command::MarkGone { node, force: false };
    assert_eq!(world.commit(gone), Response::Done);
    settle(&mut world);
    assert_eq!(world.state.replicas_on(node), 0);
    nothing_is_lost(&world);
}

#[test]
fn where_half_of_the_nodes_are_down_nobody_is_replaced() {
    let mut world = cluster(3, 8);
    for node in 1..=4 {
        world.kill(NodeId(node));
    }
    world.run(60_000);
    assert!((1..=8).all(|n| world.state.leaving(NodeId(n)).is_none()));
    let told = |traced: &Traced| {
        matches!(
            traced,
            Traced::Output(Output::Event(SupervisorEvent::ReplacementHeldBack {
                down: 4,
                nodes: 8
            }))
        )
    };
    assert_eq!(world.trace.iter().filter(|(_, t)| told(t)).count(), 1);
    // Once one is back, the other three have been away for long enough.
    world.start(NodeId(4));
    world.run(10_000);
    assert_eq!(world.state.leaving(NodeId(1)), Some(Leaving::Away));
    // Some partitions have lost two of three, and nobody may be promoted there.
    for node in 1..=3 {
        world.start(NodeId(node));
    }
    world.run(6_000);
    settle(&mut world);
    nothing_is_lost(&world);
}

#[test]
fn the_most_endangered_partitions_are_mended_first() {
    let mut world = cluster(5, 9);
    world.kill(NodeId(1));
    world.kill(NodeId(2));
    let lost = |world: &World, partition: PartitionId| {
        let record = world.state.partition(partition).expect("a partition");
        let members = &record.config.current.members;
        members.iter().filter(|m| m.node <= NodeId(2)).count()
    };
    let twice: BTreeSet<PartitionId> = (0..PARTITIONS)
        .map(PartitionId)
        .filter(|p| lost(&world, *p) == 2)
        .collect();
    assert!(!twice.is_empty());
    while copies(&world) == 0 {
        world.run(5);
    }
    // As long as one of them can begin, no other does.
    let mut order = Vec::new();
    settle(&mut world);
    for (_, traced) in &world.trace {
        if let Traced::Output(Output::Event(SupervisorEvent::LearnerAdded { partition, .. })) =
            traced
        {
            order.push(*partition);
        }
    }
    let first: BTreeSet<PartitionId> = order.iter().take(twice.len()).copied().collect();
    assert!(
        first.intersection(&twice).count() * 2 >= twice.len(),
        "{twice:?} were in danger, {order:?} is the order"
    );
    nothing_is_lost(&world);
}

#[test]
fn no_node_makes_more_replicas_at_a_time_than_the_settings_allow() {
    let mut world = cluster(3, 3);
    let changed = world.change_settings(|settings| settings.moves_per_node = 2);
    assert_eq!(changed, Response::Done);
    for number in 4..=5 {
        world.register(&format!("data-{number}"), false);
    }
    let mut most = 0;
    for _ in 0..20_000 {
        world.run(5);
        let MovesUnderWay {
            joining, giving, ..
        } = world.supervisor.moves_under_way();
        most = most.max(
            joining
                .values()
                .chain(giving.values())
                .copied()
                .max()
                .unwrap_or(0),
        );
        if settled(&world) {
            break;
        }
    }
    assert_eq!(most, 2);
    assert!(settled(&world));
}

#[test]
fn while_moves_are_held_back_only_what_is_lost_is_made_anew() {
    let mut world = cluster(3, 5);
    let paused = Command::PauseMoves { paused: true };
    assert_eq!(world.commit(paused.clone()), Response::Done);
    assert_eq!(world.commit(paused), Response::Unchanged);
    world.register("data-6", false);
    world.commit(Command::Drain { node: NodeId(1) });
    world.run(30_000);
    assert_eq!(copies(&world), 0);
    let node = NodeId(2);
    world.commit(Command::MarkGone { node, force: false });
    world.run(60_000);
    assert_eq!(
        world.state.replicas_on(node),
        0,
        "what is lost is mended: {:#?}",
        unsettled(&world)
    );
    assert_eq!(world.state.replicas_on(NodeId(6)), 0);
    world.commit(Command::PauseMoves { paused: false });
    settle(&mut world);
    assert!(world.state.replicas_on(NodeId(6)) > 0);
    assert_eq!(world.state.held_by(NodeId(1)), None);
    nothing_is_lost(&world);
}

#[test]
fn rf_and_w_change_online_and_come_back() {
    let mut world = cluster(2, 6);
    for (rf, w) in [
        (3, 2),
        (5, 3),
        (5, 4),
        (3, 2),
        (2, 2),
        (1, 1),
        (5, 3),
        (3, 1),
        (3, 2),
    ] {
        let response = world.change_settings(|settings| {
            settings.replication_factor = rf;
            settings.write_quorum = w;
            settings.min_in_sync = w.min(rf.div_ceil(2));
        });
        assert_eq!(response, Response::Done, "RF {rf} W {w}");
        settle(&mut world);
        for record in world.state.partitions() {
            assert_eq!(record.config.current.len(), usize::from(rf));
            assert_eq!(record.config.current.write_quorum, w);
            assert!(!record.degraded);
        }
        nothing_is_lost(&world);
    }
    let response = world.change_settings(|settings| {
        settings.replication_factor = 7;
        settings.write_quorum = 4;
    });
    assert_eq!(
        refusal(&response).to_string(),
        "6 data nodes are there to hold replicas, 7 are needed"
    );
}

#[test]
fn a_set_that_was_shrunk_grows_although_the_floor_is_above_it_by_now() {
    let mut world = cluster(2, 6);
    let node = NodeId(2);
    world.kill(node);
    let shrunk = |world: &World| {
        let mut records = world.state.partitions().iter();
        records.any(|record| record.config.current.len() == 1)
    };
    while !shrunk(&world) {
        world.run(5);
    }
    let response = world.change_settings(|settings| {
        settings.replication_factor = 5;
        settings.write_quorum = 4;
        settings.min_in_sync = 3;
    });
    assert_eq!(response, Response::Done);
    world.start(node);
    settle(&mut world);
    nothing_is_lost(&world);
}

/// A damaged replica answers nobody. A larger set with it in, and with W that asks for all,
/// is entered in vain, and each try stops the writes for a moment.
fn a_set_with_a_damaged_replica_grows(drains: bool) {
    let mut world = cluster(3, 6);
    let node = NodeId(2);
    let response = world.change_settings(|settings| {
        settings.replication_factor = 4;
        settings.write_quorum = 4;
        settings.min_in_sync = 2;
    });
    assert_eq!(response, Response::Done);
    if drains {
        assert_eq!(world.commit(Command::Drain { node }), Response::Done);
    }
    while *world.state.placed_for() != world.state.basis() {
        world.run(1);
    }
    for partition in 0..PARTITIONS {
        world.corrupt(node, PartitionId(partition));
    }
    settle(&mut world);
    nothing_is_lost(&world);
    let back = |traced: &Traced| {
        matches!(
            traced,
            Traced::Output(Output::Event(SupervisorEvent::JointLeft {
                direction: Direction::Backward,
                ..
            }))
        )
    };
    assert_eq!(world.trace.iter().filter(|(_, t)| back(t)).count(), 0);
}

#[test]
fn a_damaged_replica_is_replaced_before_its_set_grows() {
    a_set_with_a_damaged_replica_grows(false);
}

#[test]
fn a_damaged_replica_on_a_node_that_drains_is_replaced_before_its_set_grows() {
    a_set_with_a_damaged_replica_grows(true);
}

#[test]
fn a_single_copy_moves_by_being_two_for_a_moment() {
    let mut world = cluster(1, 2);
    world.register("data-3", false);
    settle(&mut world);
    assert_eq!(world.state.replicas_on(NodeId(3)), 8);
    nothing_is_lost(&world);
    let node = NodeId(1);
    assert_eq!(world.commit(Command::Drain { node }), Response::Done);
    settle(&mut world);
    assert_eq!(world.state.held_by(node), None);
    for record in world.state.partitions() {
        assert_eq!(record.config.current.len(), 1);
        assert_eq!(record.config.current.write_quorum, 1);
    }
    nothing_is_lost(&world);
}

#[test]
fn copies_that_live_are_not_given_up_for_one_that_may_be_lost() {
    let mut world = cluster(5, 6);
    world.kill(NodeId(4));
    world.run(3_000);
    let changed = world.change_settings(|settings| {
        settings.replication_factor = 3;
        settings.write_quorum = 2;
        settings.min_in_sync = 2;
    });
    assert_eq!(changed, Response::Done);
    world.run(12_000);
    for record in world.state.partitions() {
        let living = |m: &&Member| m.node != NodeId(4);
        let members = &record.config.current.members;
        assert!(members.iter().filter(living).count() >= 3, "{record:?}");
    }
    // After the grace the dead one has no seat, and the rest goes.
    settle(&mut world);
    nothing_is_lost(&world);
}

#[test]
fn a_change_of_w_does_not_begin_every_epoch_at_once() {
    let request = SettingsRequest {
        partitions: Some(96),
        ..SettingsRequest::default()
    };
    let mut world = World::with_cluster(SupervisorOptions::default(), 3, &request);
    world.change_settings(|settings| settings.write_quorum = 3);
    let mut most = BTreeMap::new();
    for _ in 0..20_000 {
        world.run(1);
        for (node, count) in world.supervisor.moves_under_way().adjusting {
            let known: &mut usize = most.entry(node).or_default();
            *known = count.max(*known);
        }
        if settled(&world) {
            break;
        }
    }
    assert!(settled(&world));
    assert_eq!(most.values().max(), Some(&16));
}

#[test]
fn what_waits_for_a_lost_partition_takes_no_place_from_others() {
    let mut world = cluster(3, 5);
    world.change_settings(|settings| settings.moves_per_node = 1);
    // Copies to the newcomer never finish, and one of their partitions loses two of three.
    world.register("data-6", false);
    world.slow.insert(NodeId(6));
    while copies(&world) == 0 {
        world.run(5);
    }
    let stuck = world
        .state
        .partitions()
        .iter()
        .find(|record| !record.config.learners.is_empty())
        .expect("a learner")
        .clone();
    for member in &stuck.config.current.members[..2] {
        world.kill(member.node);
    }
    world.run(3_000);
    world.slow.clear();
    world.run(60_000);
    let waits = world.supervisor.moves_under_way();
    let stuck = world.state.partition(stuck.id).expect("a partition");
    assert_eq!(stuck.config.learners.len(), 1, "nobody gave it up");
    assert_eq!(waits.joining.get(&NodeId(6)), None);
    assert!(world.state.replicas_on(NodeId(6)) > 1, "others were made");
}

#[test]
fn while_moves_are_held_back_a_newcomer_may_mend_and_rf_may_have_changed() {
    let mut world = cluster(3, 3);
    world.commit(Command::PauseMoves { paused: true });
    world.register("data-4", false);
    world.kill(NodeId(3));
    world.commit(Command::MarkGone {
        node: NodeId(3),
        force: false,
    });
    world.run(60_000);
    assert_eq!(world.state.replicas_on(NodeId(3)), 0);
    assert_eq!(world.state.replicas_on(NodeId(4)), PARTITIONS as usize);
    world.change_settings(|settings| settings.replication_factor = 2);
    world.register("data-5", false);
    world.kill(NodeId(2));
    world.run(60_000);
    assert_eq!(world.state.leaving(NodeId(2)), Some(Leaving::Away));
    world.commit(Command::PauseMoves { paused: false });
    settle(&mut world);
    nothing_is_lost(&world);
}

/// One thing that happens to a cluster, of those that this file is about.
fn upheaval(world: &mut World, draw: &mut Draw) {
    let count = world.state.nodes().len() as u64;
    let node = NodeId(1 + draw.below(count));
    match draw.below(16) {
        0 | 1 if world.state.members().count() < 9 => {
            world.register(&format!("more-{count}"), false);
        }
        2..=4 => {
            world.commit(Command::Drain { node });
        }
        5 => {
            world.commit(Command::Undrain { node });
        }
        6 => {
            world.commit(Command::Retire { node });
        }
        7 => {
            let gone = Command::MarkGone { node, force: false };
            // Its disk is lost with it.
            if world.state.is_member(node) && world.commit(gone) == Response::Done {
                world.kill(node);
            }
        }
        8 | 9 => world.kill(node),
        10 | 11 if world.state.is_member(node) => world.start(node),
        12 => {
            let paused = draw.below(2) == 0;
            world.commit(Command::PauseMoves { paused });
        }
        13 | 14 => {
            let rf = u8::try_from(2 + draw.below(3)).expect("small");
            let w = u8::try_from(2 + draw.below(u64::from(rf) - 1)).expect("small");
            world.change_settings(|settings| {
                settings.replication_factor = rf;
                settings.write_quorum = w;
                settings.min_in_sync = 1;
            });
        }
        15 => {
            world.feed(Input::LostLeadership);
            world.take_office();
        }
        _ => {}
    }
}

#[test]
fn the_summary_says_what_can_still_be_lost() {
    let mut world = cluster(3, 3);
    settle(&mut world);
    let told = |world: &World| {
        let summary = world.supervisor.summary();
        let (short, bare) = (summary.without_quorum, summary.without_spare);
        (short, bare, summary.nodes_down)
    };
    let all = usize::try_from(PARTITIONS).expect("few");
    assert_eq!(told(&world), (0, 0, 0));
    assert_eq!(world.supervisor.summary().lag_entries, 0);
    world.kill(NodeId(1));
    world.run(5_000);
    assert_eq!(told(&world), (0, all, 1));
    world.kill(NodeId(2));
    world.run(5_000);
    assert_eq!(told(&world), (all, 0, 2));
    for node in [1, 2] {
        world.start(NodeId(node));
    }
    settle(&mut world);
    assert_eq!(told(&world), (0, 0, 0));
    // What was never whole lacks nothing that it could lose.
    let mut world = cluster(1, 3);
    settle(&mut world);
    assert_eq!(told(&world), (0, 0, 0));
}

#[test]
fn whatever_comes_and_goes_nothing_is_lost_and_all_settles() {
    for seed in 0..30 {
        let mut draw = Draw(0x0c0ffee ^ seed);
        let mut world = cluster(3, 6);
        world.weather = Some(Draw(seed));
        for _ in 0..30 {
            upheaval(&mut world, &mut draw);
            let pause = draw.below(6_000);
            world.run(pause);
        }
        world.commit(Command::PauseMoves { paused: false });
        let members: Vec<NodeId> = world.state.members().map(|n| n.id).collect();
        for node in members {
            world.start(node);
        }
        // Where too many are gone for good, the rest waits for others.
        while world.state.basis().nodes.len() < usize::from(world.state.basis().replication_factor)
        {
            let number = world.state.nodes().len();
            world.register(&format!("last-{number}"), false);
        }
        world.trace.clear();
        eprintln!("seed {seed}");
        settle(&mut world);
        nothing_is_lost(&world);
    }
}
