//! What becomes of proposals: how many there are, and that no partition waits for ever
//! for one that came to nothing.

use std::sync::Arc;

use super::world::{Traced, World};
use crate::cluster::command::Command;
use crate::cluster::report::{CopyProgress, Heartbeat, NodeFigures};
use crate::cluster::settings::SettingsRequest;
use crate::cluster::supervisor::{Input, Output, SupervisorEvent, SupervisorOptions};
use crate::ids::{Micros, NodeId, PartitionId};

fn world(partitions: u32, write_quorum: u8) -> World {
    let request = SettingsRequest {
        partitions: Some(partitions),
        write_quorum: Some(write_quorum),
        ..SettingsRequest::default()
    };
    World::with_cluster(SupervisorOptions::default(), 3, &request)
}

/// The node that leads the most partitions, and how many.
fn busiest(world: &World) -> (NodeId, usize) {
    let led = |node: NodeId| {
        let records = world.state.partitions().iter();
        records
            .filter(|r| r.primary.is_some_and(|p| p.node == node))
            .count()
    };
    let nodes = world.nodes.keys().copied();
    nodes
        .map(|n| (n, led(n)))
        .max_by_key(|(_, led)| *led)
        .unwrap()
}

fn commands(world: &World) -> Vec<Vec<Command>> {
    let proposed = world.trace.iter().filter_map(|(_, traced)| match traced {
        Traced::Output(Output::Propose { command, .. }) => Some(Command::clone(command)),
        _ => None,
    });
    proposed
        .map(|command| match command {
            Command::Batch(commands) => commands,
            single => vec![single],
        })
        .collect()
}

#[test]
fn the_partitions_of_a_failed_node_are_raised_and_named_in_one_entry_each() {
    let mut world = world(16, 2);
    let (node, led) = busiest(&world);
    assert!(led > 2);
    world.kill(node);
    world.run(1_000);
    assert!(world.all_serve());
    let entries = commands(&world);
    let of = |test: fn(&Command) -> bool| -> Vec<usize> {
        let counts = entries.iter().map(|e| e.iter().filter(|c| test(c)).count());
        counts.filter(|count| *count > 0).collect()
    };
    assert_eq!(of(|c| matches!(c, Command::RaiseEpoch { .. })), [led]);
    assert_eq!(of(|c| matches!(c, Command::NamePrimary { .. })), [led]);
}

#[test]
fn every_partition_goes_on_after_an_entry_that_was_refused_as_a_whole() {
    let mut world = world(16, 2);
    world.refuse_entries = true;
    let (node, _) = busiest(&world);
    world.kill(node);
    world.run(300);
    assert!(!world.all_serve());
    world.refuse_entries = false;
    world.run(1_500);
    assert!(world.all_serve());
}

#[test]
fn a_proposal_whose_outcome_is_never_told_does_not_lock_its_partition() {
    let mut world = world(1, 2);
    let (node, _) = busiest(&world);
    let now = Micros(world.now);
    let works = world.supervisor.works.values_mut();
    works.for_each(|work| work.pending = Some(now));
    world.kill(node);
    world.run(2_500);
    assert!(!world.all_serve(), "an outcome may still be told");
    world.run(2_500);
    assert!(world.all_serve());
}

#[test]
fn a_loss_is_told_once_however_often_its_naming_is_proposed() {
    let mut world = world(1, 1);
    let record = Arc::clone(&world.state.partitions()[0]);
    let primary = record.primary.unwrap().node;
    // The one that holds the newest entry is gone with the primary's node.
    world.kill(primary);
    world.run(350);
    world.raft_up = false;
    world.run(1_000);
    let told = |world: &World| {
        let events = world.trace.iter().filter_map(|(_, traced)| match traced {
            Traced::Output(Output::Event(event)) => Some(event),
            _ => None,
        });
        events
            .filter(|e| matches!(e, SupervisorEvent::PossibleLoss { .. }))
            .count()
    };
    let namings = commands(&world)
        .iter()
        .flatten()
        .filter(|c| matches!(c, Command::NamePrimary { loss: Some(_), .. }))
        .count();
    assert!(namings > 1, "proposed {namings} times");
    assert_eq!(told(&world), 0, "nothing is lost before it is committed");
    world.raft_up = true;
    world.run(1_000);
    assert_eq!(told(&world), 1);
    assert_eq!(world.state.loss(PartitionId(0)).promotions, 1);
}

#[test]
fn a_heartbeat_that_was_overtaken_changes_nothing() {
    let mut world = world(1, 2);
    let record = Arc::clone(&world.state.partitions()[0]);
    let primary = record.primary.unwrap().node;
    let late = |sequence: u64| {
        Input::Heartbeat(Heartbeat {
            node: primary,
            session: 1,
            sequence,
            map_version: world.state.version(),
            unreachable: Vec::new(),
            silent_client_ports: Vec::new(),
            disk_full: false,
            draining: false,
            figures: None,
            heat: None,
            full: true,
            partitions: Vec::new(),
        })
    };
    let (overtaken, newer) = (late(1), late(10_000));
    world.feed(overtaken);
    assert!(world.all_serve());
    world.feed(newer);
    assert!(!world.all_serve(), "this one lists no replica at all");
}

#[test]
fn the_status_shows_the_figures_that_were_told_last() {
    let mut world = world(1, 2);
    let record = Arc::clone(&world.state.partitions()[0]);
    let member = record.config.current.members[0];
    let shown = |world: &World| {
        let status = world.supervisor.status(Micros(world.now));
        let node = status.nodes.into_iter().find(|n| n.id == member.node);
        let replicas = status.partitions[0].replicas.clone();
        let replica = replicas.into_iter().find(|r| r.member == member);
        let replica = replica.expect("a replica");
        (
            node.expect("a node").figures,
            replica.bytes,
            replica.copying,
        )
    };
    assert_eq!(shown(&world), (None, None, None));
    let figures = NodeFigures {
        disk_total_bytes: 100,
        disk_free_bytes: 40,
        reads_per_second: 7,
        writes_per_second: 5,
        bytes_per_second: 900,
    };
    let copying = CopyProgress {
        received_bytes: 10,
        expected_bytes: 90,
    };
    let mut heartbeat = world.heartbeat(member.node);
    heartbeat.figures = Some(figures);
    for status in &mut heartbeat.partitions {
        status.bytes = Some(12);
        status.copying = Some(copying);
    }
    world.feed(Input::Heartbeat(heartbeat));
    assert_eq!(shown(&world), (Some(figures), Some(12), Some(copying)));
    // One that is away copies nothing; what it held is still of use to know.
    world.feed(Input::StreamClosed { node: member.node });
    world.nodes.get_mut(&member.node).unwrap().alive = false;
    world.run(30_000);
    assert_eq!(shown(&world), (Some(figures), Some(12), None));
}
