//! Scripts: lines that begin with `>` are carried out, and what came of each is
//! written below it. Times count from the line before.

use std::fmt::Write as _;

use super::world::{MS, Traced, World};
use crate::cluster::command::{Command, Response, SeatChange};
use crate::cluster::report::{Order, ReplicaReport};
use crate::cluster::settings::SettingsRequest;
use crate::cluster::supervisor::{AdminRequest, Input, Output, SupervisorEvent, SupervisorOptions};
use crate::ids::{Epoch, Index, Micros, NodeId, PartitionId, Position, ReplicaId};
use crate::record::{Member, ReplicaSet};

/// Carries out a script and returns it with its outcome.
pub(super) fn play(script: &str) -> String {
    let mut world: Option<World> = None;
    let mut out = String::new();
    for line in script.lines() {
        if let Some(words) = line.strip_prefix("> ") {
            let _ = writeln!(out, "{line}");
            let words: Vec<&str> = words.split_whitespace().collect();
            if words[0] == "cluster" {
                world = Some(cluster(&words[1..]));
                continue;
            }
            let world = world.as_mut().expect("a script begins with a cluster");
            let start = world.now;
            for told in run(world, &words) {
                let _ = writeln!(out, "    {told}");
            }
            for (at, traced) in std::mem::take(&mut world.trace) {
                if let Some(told) = tell(&traced) {
                    let _ = writeln!(out, "  +{:<5} {told}", (at - start) / MS);
                }
            }
        } else if line.is_empty() || line.starts_with('#') {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

fn number(words: &[&str], key: &str) -> Option<u64> {
    words.iter().find_map(|w| {
        w.strip_prefix(key)
            .and_then(|w| w.strip_prefix('='))
            .map(|n| n.parse().expect("a number"))
    })
}

fn cluster(words: &[&str]) -> World {
    let small = |key| number(words, key).map(|n| u8::try_from(n).expect("small"));
    let request = SettingsRequest {
        replication_factor: small("rf"),
        write_quorum: small("w"),
        partitions: Some(1),
        ..SettingsRequest::default()
    };
    let nodes = number(words, "nodes").expect("nodes=");
    let options = SupervisorOptions {
        balance_primaries: words.contains(&"balance"),
        ..SupervisorOptions::default()
    };
    let world = World::with_cluster(options, u32::try_from(nodes).expect("small"), &request);
    assert!(world.all_serve(), "the cluster serves");
    world
}

fn node(word: &str) -> NodeId {
    NodeId(word.trim_start_matches('n').parse().expect("a node"))
}

fn position(word: &str) -> Position {
    let (epoch, index) = word.split_once('/').expect("epoch/index");
    Position {
        epoch: Epoch(epoch.parse().expect("an epoch")),
        index: Index(index.parse().expect("an index")),
    }
}

const P: PartitionId = PartitionId(0);

fn run(world: &mut World, words: &[&str]) -> Vec<String> {
    match words {
        ["run", millis] => world.run(millis.parse().expect("milliseconds")),
        ["show"] => return show(world),
        ["kill", n] => world.kill(node(n)),
        ["start", n] => world.start(node(n)),
        ["wipe", n] => {
            let old = node(n);
            world.kill(old);
            let name = world.nodes[&old].name.clone();
            let may = world.supervisor.may_replace(&name);
            let response = world.register(&name, may);
            return vec![respond(&response)];
        }
        ["stop", n] => at(world, n).stopped = true,
        ["continue", n] => at(world, n).stopped = false,
        ["hang", n] => at(world, n).hung = true,
        ["deafen", n] => at(world, n).deaf = true,
        ["hear", n] => at(world, n).deaf = false,
        ["gone", n] => {
            let response = world.commit(Command::MarkGone {
                node: node(n),
                force: false,
            });
            return vec![respond(&response)];
        }
        ["leave", n] => {
            return vec![respond(&world.commit(Command::Drain { node: node(n) }))];
        }
        ["stay", n] => {
            return vec![respond(&world.commit(Command::Undrain { node: node(n) }))];
        }
        ["retire", n] => {
            return vec![respond(&world.commit(Command::Retire { node: node(n) }))];
        }
        ["set", changes @ ..] => {
            let small = |key| number(changes, key).map(|n| u8::try_from(n).expect("small"));
            let response = world.change_settings(|settings| {
                if let Some(rf) = small("rf") {
                    settings.replication_factor = rf;
                }
                if let Some(w) = small("w") {
                    settings.write_quorum = w;
                    settings.min_in_sync = settings.min_in_sync.min(w);
                }
                if let Some(grace) = number(changes, "grace") {
                    settings.replace_after_ms = grace;
                }
            });
            return vec![respond(&response)];
        }
        ["register", name] => {
            let response = world.register(name, false);
            return vec![respond(&response)];
        }
        ["disconnect", "all"] => world.nodes.values_mut().for_each(|n| n.connected = false),
        ["connect", "all"] => world.nodes.values_mut().for_each(|n| n.connected = true),
        ["disconnect", n] => at(world, n).connected = false,
        ["connect", n] => at(world, n).connected = true,
        ["mute", n] => at(world, n).mute = true,
        ["unmute", n] => at(world, n).mute = false,
        ["flush", n, millis] => {
            at(world, n).flush = MS * millis.parse::<u64>().expect("milliseconds");
        }
        ["drain", n] => at(world, n).draining = true,
        ["cut", a, b] => {
            let (a, b) = (node(a), node(b));
            world.cut.insert((a.min(b), a.max(b)));
        }
        ["heal"] => world.cut.clear(),
        ["slow", n] => drop(world.slow.insert(node(n))),
        ["fast", n] => drop(world.slow.remove(&node(n))),
        ["corrupt", n] => world.corrupt(node(n), P),
        ["lose-range", n] => world.lose_range(node(n), P),
        ["head", n, head] => {
            if let Some(replica) = at(world, n).replicas.get_mut(&P) {
                replica.head = position(head);
            }
        }
        ["raft", "down"] => world.raft_up = false,
        ["raft", "up"] => world.raft_up = true,
        ["leader"] => {
            world.feed(Input::LostLeadership);
            world.take_office();
        }
        ["promote"] => world.feed(Input::Admin(AdminRequest::Promote { partition: P })),
        ["hand-over", n] => world.feed(Input::Admin(AdminRequest::HandOver {
            partition: P,
            to: Some(node(n)),
        })),
        ["seats", nodes @ ..] => {
            let response = world.commit(Command::Rebalance {
                basis: world.state.basis(),
                moves: vec![SeatChange {
                    partition: P,
                    before: world.state.seats(P).to_vec(),
                    seats: nodes.iter().copied().map(node).collect(),
                }],
            });
            assert_eq!(response, Response::Done);
        }
        ["survivors", replicas @ ..] => {
            let keep = replicas
                .iter()
                .map(|r| ReplicaId(r.trim_start_matches('r').parse().expect("a replica")))
                .collect();
            let response = world.commit(Command::KeepSurvivors {
                partition: P,
                epoch: world.state.partitions()[0].epoch,
                keep,
            });
            assert_eq!(response, Response::Done);
        }
        ["report", n, rest @ ..] => {
            let from = node(n);
            let member = world.state.partitions()[0]
                .config
                .on_node(from)
                .expect("a replica");
            let field = |key: &str| number(rest, key);
            let head = rest
                .iter()
                .find_map(|w| w.strip_prefix("head="))
                .map_or(Position::ZERO, position);
            let report = ReplicaReport {
                partition: P,
                member,
                round: world.supervisor.last_round,
                fenced: !rest.contains(&"asked"),
                promised: Epoch(field("promised").unwrap_or(0)),
                head,
                commit: Index::ZERO,
                whole: !rest.contains(&"damaged"),
                head_intact: rest.contains(&"intact"),
                lease_current: false,
                lease_remaining: Micros::from_millis(field("lease").unwrap_or(0)),
            };
            world.feed(Input::Report { from, report });
        }
        other => panic!("no such line: {other:?}"),
    }
    Vec::new()
}

fn at<'a>(world: &'a mut World, n: &str) -> &'a mut super::world::SimNode {
    world.nodes.get_mut(&node(n)).expect("a node")
}

fn members(set: &ReplicaSet) -> String {
    let all: Vec<String> = set.members.iter().map(member).collect();
    format!("{} W={}", all.join(" "), set.write_quorum)
}

fn member(m: &Member) -> String {
    format!("{}@{}", m.replica, m.node)
}

fn show(world: &World) -> Vec<String> {
    let record = &world.state.partitions()[0];
    let status = world.supervisor.status(Micros(world.now));
    let health = &status.partitions[0];
    let mut lines = vec![format!(
        "{}.{} primary {} {:?}",
        record.epoch,
        record.revision,
        record.primary.as_ref().map_or("none".to_owned(), member),
        health.state,
    )];
    lines.push(format!("set {}", members(&record.config.current)));
    if let Some(joint) = &record.config.joint {
        lines.push(format!("and {}", members(joint)));
    }
    for learner in &record.config.learners {
        lines.push(format!("learner {}", member(learner)));
    }
    for replica in &health.replicas {
        lines.push(format!(
            "{} {:?} {} head {}{}",
            member(&replica.member),
            replica.standing,
            replica
                .role
                .map_or("away".to_owned(), |role| format!("{role:?}")),
            replica.head.unwrap_or_default(),
            if replica.corrupt { " damaged" } else { "" },
        ));
    }
    if health.lossy_promotions > 0 {
        lines.push(format!(
            "lost: {} promotion(s), {} entries known of",
            health.lossy_promotions, health.lost.entries_known
        ));
    }
    lines
}

/// One line for what is worth reading; asking without effect and what answers it is
/// not.
pub(super) fn tell(traced: &Traced) -> Option<String> {
    Some(match traced {
        Traced::Output(Output::Propose { command, .. }) => format!("propose {}", propose(command)),
        Traced::Output(Output::SendOrder { node, order }) => match order {
            Order::Ask { .. } => return None,
            Order::Fence { epoch, .. } => format!("{node} <- fence {epoch}"),
            Order::HandOver { epoch, to, .. } => {
                format!("{node} <- hand over {epoch} to {}", member(to))
            }
        },
        Traced::Output(Output::Event(event)) => tell_event(event)?,
        Traced::Report(_, false) => return None,
        Traced::Report(report, true) => {
            format!(
                "{} -> promised {} head {} lease {} ms{}",
                report.member.node,
                report.promised,
                report.head,
                report.lease_remaining.0 / MS,
                match (report.whole, report.head_intact) {
                    (true, _) => "",
                    (false, true) => " damaged, head intact",
                    (false, false) => " damaged",
                }
            )
        }
        Traced::Response(response) => match response {
            Response::Done | Response::Unchanged => return None,
            other => respond(other),
        },
    })
}

fn respond(response: &Response) -> String {
    match response {
        Response::Registered { node } => format!("registered as {node}"),
        Response::Refused(refusal) => format!("refused: {refusal}"),
        other => format!("{other:?}"),
    }
}

fn propose(command: &Command) -> String {
    match command {
        Command::RaiseEpoch { epoch, .. } => format!("to raise {epoch}"),
        Command::NamePrimary {
            epoch,
            primary,
            loss,
            ..
        } => format!(
            "{} as primary of {epoch}{}",
            member(primary),
            if loss.is_some() {
                ", writes may be lost"
            } else {
                ""
            }
        ),
        Command::AddLearner { node, .. } => format!("a learner on {node}"),
        Command::RemoveLearner { replica, .. } => format!("to give up learner {replica}"),
        Command::EnterJoint { set, .. } => format!("joint with {}", members(set)),
        Command::LeaveJoint { direction, .. } => format!("to leave joint, {direction:?}"),
        Command::Shrink { keep, .. } => format!("to shrink to {keep:?}"),
        Command::KeepSurvivors { keep, .. } => format!("to keep only {keep:?}"),
        Command::Batch(commands) => {
            let all: Vec<String> = commands.iter().map(propose).collect();
            all.join("; ")
        }
        Command::Rebalance { moves, .. } => {
            let all: Vec<String> = moves
                .iter()
                .map(|change| {
                    let nodes: Vec<String> = change.seats.iter().map(ToString::to_string).collect();
                    format!("{} on {}", change.partition, nodes.join(" "))
                })
                .collect();
            format!("seats {}", all.join(", "))
        }
        other => format!("{other:?}"),
    }
}

fn tell_event(event: &SupervisorEvent) -> Option<String> {
    Some(match event {
        SupervisorEvent::NodeHealth { node, to, .. } => format!("* {node} is {to:?}"),
        SupervisorEvent::PromotionStarted { reason, .. } => format!("* promotion: {reason:?}"),
        SupervisorEvent::PromotionAbandoned { .. } => "* promotion abandoned".to_owned(),
        SupervisorEvent::PromotionBlocked { have, need, .. } => {
            format!("* promotion blocked: {have} of {need} answer")
        }
        SupervisorEvent::Promoted {
            epoch,
            primary,
            head,
            took,
            waited_for_leases,
            ..
        } => format!(
            "* {} is primary of {epoch}, head {head}, after {} ms, {} of them for leases",
            member(primary),
            took.0 / MS,
            waited_for_leases.0 / MS
        ),
        SupervisorEvent::PossibleLoss {
            absent,
            entries_known,
            ..
        } => format!("* {absent} absent, {entries_known} entries known to be lost"),
        SupervisorEvent::Serving {
            epoch, unserved, ..
        } => format!("* serving in {epoch} after {} ms", unserved.0 / MS),
        SupervisorEvent::HandOverOrdered { .. } => return None,
        SupervisorEvent::Shrunk { left, .. } => format!("* shrunk to {left}"),
        SupervisorEvent::LearnerAdded { node, .. } => format!("* learner on {node}"),
        SupervisorEvent::LearnerRemoved { node, .. } => format!("* learner on {node} given up"),
        SupervisorEvent::ReaderAdded { node, .. } => format!("* a copy for reads on {node}"),
        SupervisorEvent::ReaderRemoved { node, .. } => format!("* no copy for reads on {node}"),
        SupervisorEvent::JointEntered { .. } => "* joint".to_owned(),
        SupervisorEvent::JointLeft { direction, .. } => format!("* joint left, {direction:?}"),
        SupervisorEvent::Planned { partitions, copies } => {
            format!("* new seats for {partitions} partition(s), {copies} replica(s) to make")
        }
        SupervisorEvent::ReplacementHeldBack { down, nodes } => {
            format!("* {down} of {nodes} nodes are down: nobody is replaced")
        }
        SupervisorEvent::ProposalRefused { refusal, .. } => format!("* refused: {refusal}"),
        SupervisorEvent::RequestRefused { reason, .. } => format!("* cannot: {reason}"),
    })
}
