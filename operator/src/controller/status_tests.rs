use std::collections::BTreeMap;

use super::*;
use crate::observed::{HostSeen, PodSeen};
use crate::store::{Coordinator, Heat, HotKey, HotPartition, NodeStanding, Rebalance, Summary};
use crate::testing;

const NOW: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn names() -> Names {
    testing::cluster().names
}

fn pod(role: Role, ordinal: u32, ready: bool) -> (String, PodSeen) {
    let seen = PodSeen {
        role: Some(role),
        ordinal,
        ready,
        running: true,
        host: Some(format!("host-{ordinal}")),
        not_ready_since_unix_ms: (!ready).then_some(1),
        ..PodSeen::default()
    };
    (names().pod(role, ordinal), seen)
}

fn member(id: u64, ordinal: u32) -> Node {
    Node {
        id,
        name: names().pod(Role::Data, ordinal),
        zone: "z1".to_owned(),
        standing: NodeStanding::Member,
        health: Health::Up,
        draining: false,
        disk_full: false,
        expected_back_unix_ms: None,
        cordoned_until_unix_ms: Some(0),
        leads: 4,
        replicas: 12,
        seats: 12,
        leaving: None,
        empty: false,
    }
}

/// A cluster at rest: three coordinators, three data nodes.
fn whole() -> Observed {
    let mut pods = BTreeMap::new();
    for role in Role::ALL {
        pods.extend((0..3).map(|ordinal| pod(role, ordinal, true)));
    }
    let coordinators = (0..3).map(|ordinal| Coordinator {
        name: names().pod(Role::Coordinator, ordinal),
        voter: true,
        leader: ordinal == 0,
        lag: Some(0),
    });
    Observed {
        pods,
        hosts: Some(BTreeMap::from([("host-0".to_owned(), HostSeen::default())])),
        store: Ok(Store {
            cluster_id: "id".to_owned(),
            summary: Summary {
                partitions: 128,
                serving: 128,
                ..Summary::default()
            },
            nodes: (0..3)
                .map(|ordinal| member(u64::from(ordinal) + 1, ordinal))
                .collect(),
            coordinators: coordinators.collect(),
            rebalance: Rebalance {
                planned: true,
                ..Rebalance::default()
            },
            ..Store::default()
        }),
        ..Observed::default()
    }
}

fn store(observed: &mut Observed) -> &mut Store {
    observed.store.as_mut().unwrap()
}

fn note(topic: Topic, text: &str) -> Note {
    Note {
        topic,
        node: None,
        text: text.to_owned(),
    }
}

/// The status of a cluster that was `old`.
fn judge(old: Option<KvClusterStatus>, observed: &Observed, notes: &[Note]) -> KvClusterStatus {
    judge_at(old, observed, notes, at(0))
}

fn judge_at(
    old: Option<KvClusterStatus>,
    observed: &Observed,
    notes: &[Note],
    now: Timestamp,
) -> KvClusterStatus {
    let mut manifest = testing::manifest();
    manifest.status = old;
    let cluster = testing::cluster();
    let found = Found {
        manifest: &manifest,
        names: &cluster.names,
        cluster: Ok(&cluster),
        observed,
        notes,
        outside: &BTreeMap::new(),
    };
    status(&found, now)
}

/// The status of a cluster that runs.
fn running() -> KvClusterStatus {
    judge(None, &whole(), &[])
}

fn is(status: &KvClusterStatus, kind: &str) -> (String, String) {
    let one = status
        .conditions
        .iter()
        .find(|one| one.type_ == kind)
        .unwrap();
    (one.status.clone(), one.reason.clone())
}

fn expect(status: &KvClusterStatus, kind: &str, truth: &str, reason: &str) {
    assert_eq!(
        is(status, kind),
        (truth.to_owned(), reason.to_owned()),
        "{kind}: {status:#?}"
    );
}

#[test]
fn a_cluster_at_rest_is_ready_and_nothing_else() {
    let status = running();
    assert_eq!(status.phase, Some(Phase::Running));
    expect(&status, "Ready", "True", "Serving");
    expect(&status, "Progressing", "False", "Settled");
    expect(&status, "Degraded", "False", "Whole");
    expect(&status, "QuorumHealthy", "True", "Quorum");
    expect(&status, "Rebalancing", "False", "Balanced");
    assert_eq!(status.conditions.len(), 5);
    assert_eq!(status.ready_nodes, "3/3");
    assert_eq!((status.data.replicas, status.data.ready), (3, 3));
    assert_eq!(status.version, "1.2.3");
    assert_eq!(status.cluster_id, "id");
    assert_eq!(status.observed_generation, 3);
    assert_eq!(status.message, "");
    let selector = "app.kubernetes.io/component=data,app.kubernetes.io/instance=orders,\
                    app.kubernetes.io/name=cairn";
    assert_eq!(status.selector, selector);
    assert_eq!(status.nodes.len(), 6);
    assert!(status.nodes.iter().all(|node| node.state == "Ready"));
    let data = status
        .nodes
        .iter()
        .find(|node| node.name == "orders-data-1")
        .unwrap();
    assert_eq!(
        (data.id, data.replicas, data.leads),
        (Some(2), Some(12), Some(4))
    );
    assert_eq!((data.zone.as_str(), data.host.as_str()), ("z1", "host-1"));
}

#[test]
fn nothing_changes_by_the_passing_of_time() {
    let first = running();
    let later = judge_at(Some(first.clone()), &whole(), &[], at(3600));
    assert_eq!(first, later);
    // As it comes back from the API server.
    let text = serde_json::to_string(&later).unwrap();
    let read: KvClusterStatus = serde_json::from_str(&text).unwrap();
    assert_eq!(judge_at(Some(read.clone()), &whole(), &[], at(7200)), read);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let mut observed = whole();
    let since = |status: &KvClusterStatus| {
        let one = status
            .conditions
            .iter()
            .find(|one| one.type_ == "Degraded")
            .unwrap();
        one.last_transition_time.0.as_second() - NOW
    };
    let first = running();
    store(&mut observed).summary.degraded = 4;
    let worse = judge_at(Some(first), &observed, &[], at(10));
    assert_eq!(since(&worse), 10);
    store(&mut observed).summary.degraded = 2;
    let other_reason = judge_at(Some(worse), &observed, &[note(Topic::Lost, "x")], at(20));
    expect(&other_reason, "Degraded", "True", "NodeLost");
    assert_eq!(
        since(&other_reason),
        10,
        "another reason is no other status"
    );
    let well = judge_at(Some(other_reason), &whole(), &[], at(30));
    assert_eq!(since(&well), 30);
}

#[test]
fn a_cluster_is_created_until_every_node_serves() {
    let nothing = judge(None, &Observed::default(), &[]);
    assert_eq!(nothing.phase, Some(Phase::Creating));
    expect(&nothing, "Ready", "False", "Creating");
    expect(&nothing, "Progressing", "True", "Creating");
    expect(&nothing, "Degraded", "False", "Creating");
    expect(&nothing, "QuorumHealthy", "False", "NotRunning");
    assert_eq!(nothing.ready_nodes, "0/3");

    let mut observed = whole();
    let last = observed.pods.get_mut("orders-data-2").unwrap();
    last.ready = false;
    last.waiting = Some("ImagePullBackOff".to_owned());
    let most = judge(Some(nothing), &observed, &[]);
    assert_eq!(most.phase, Some(Phase::Creating));
    let ready = most
        .conditions
        .iter()
        .find(|one| one.type_ == "Ready")
        .unwrap();
    assert!(
        ready.message.contains("orders-data-2 (ImagePullBackOff)"),
        "{}",
        ready.message
    );
    assert_eq!(most.ready_nodes, "2/3");

    let all = judge(Some(most), &whole(), &[]);
    assert_eq!(all.phase, Some(Phase::Running));
    // From now on the same is a loss.
    let lost = judge(Some(all), &observed, &[]);
    assert_eq!(lost.phase, Some(Phase::Degraded));
}

#[test]
fn a_cluster_whose_coordinators_are_silent_is_not_said_to_be_well_or_gone() {
    let mut observed = whole();
    observed.store = Err(Silence::NoAnswer("no coordinator answers".to_owned()));
    let status = judge(Some(running()), &observed, &[]);
    assert_eq!(status.phase, Some(Phase::Degraded));
    // Data nodes serve without them.
    expect(&status, "Ready", "Unknown", "NoCoordinators");
    expect(&status, "Degraded", "Unknown", "NoCoordinators");
    expect(&status, "QuorumHealthy", "False", "NoLeader");
    expect(&status, "Rebalancing", "Unknown", "NoCoordinators");
    assert!(status.message.contains("no coordinator answers"));
    // What was known stays known.
    assert_eq!(status.cluster_id, "id");
    assert_eq!(status.partitions.unwrap().total, 128);
}

#[test]
fn partitions_that_are_not_served_come_before_everything_else() {
    let mut observed = whole();
    store(&mut observed).summary.serving = 126;
    let notes = [note(Topic::Scaling, "nodes join")];
    let status = judge(Some(running()), &observed, &notes);
    assert_eq!(status.phase, Some(Phase::Unavailable));
    expect(&status, "Ready", "False", "PartitionsUnserved");
    expect(&status, "Degraded", "True", "PartitionsUnserved");
    expect(&status, "Progressing", "True", "Scaling");
}

#[test]
fn a_data_node_that_comes_for_the_first_time_degrades_nothing() {
    let mut observed = whole();
    observed.pods.remove("orders-data-2");
    let missed = judge(Some(running()), &observed, &[]);
    assert_eq!(missed.phase, Some(Phase::Degraded));
    store(&mut observed)
        .nodes
        .retain(|node| node.name != "orders-data-2");
    let comes = judge(Some(running()), &observed, &[]);
    assert_eq!(comes.phase, Some(Phase::Scaling));
}

#[test]
fn a_cluster_is_not_balanced_before_those_who_joined_have_their_share() {
    let mut observed = whole();
    store(&mut observed).rebalance.planned = false;
    let status = judge(Some(running()), &observed, &[]);
    assert_eq!(status.phase, Some(Phase::Rebalancing));
    expect(&status, "Rebalancing", "True", "Moving");
    store(&mut observed).rebalance.paused = true;
    let status = judge(Some(running()), &observed, &[]);
    expect(&status, "Rebalancing", "False", "Paused");
}

#[test]
fn scaling_shows_who_leaves() {
    let mut observed = whole();
    observed
        .pods
        .extend([pod(Role::Data, 3, true), pod(Role::Data, 4, true)]);
    store(&mut observed).nodes.extend([
        Node {
            leaving: Some(Leaving::Draining),
            ..member(4, 3)
        },
        Node {
            leaving: Some(Leaving::Draining),
            empty: true,
            ..member(5, 4)
        },
    ]);
    store(&mut observed).rebalance = Rebalance {
        under_way: 2,
        waiting: 5,
        bytes_left: 700,
        ..Rebalance::default()
    };
    let notes = [note(Topic::Scaling, "orders-data-3 gives up 9 copies")];
    let status = judge(Some(running()), &observed, &notes);
    assert_eq!(status.phase, Some(Phase::Scaling));
    expect(&status, "Progressing", "True", "Scaling");
    expect(&status, "Rebalancing", "True", "Moving");
    expect(&status, "Degraded", "False", "Whole");
    assert_eq!(status.message, "orders-data-3 gives up 9 copies.");
    let states: Vec<(&str, &str)> = status.nodes[..2]
        .iter()
        .map(|node| (node.name.as_str(), node.state.as_str()))
        .collect();
    assert_eq!(
        states,
        [("orders-data-3", "Removing"), ("orders-data-4", "Empty")]
    );
    let rebalance = status.rebalance.unwrap();
    assert_eq!(
        (rebalance.under_way, rebalance.waiting, rebalance.bytes_left),
        (2, 5, 700)
    );
}

#[test]
fn moves_alone_are_rebalancing() {
    let mut observed = whole();
    store(&mut observed).rebalance.under_way = 1;
    let status = judge(Some(running()), &observed, &[]);
    assert_eq!(status.phase, Some(Phase::Rebalancing));
    store(&mut observed).rebalance.paused = true;
    store(&mut observed).rebalance.under_way = 0;
    store(&mut observed).rebalance.waiting = 3;
    let status = judge(Some(running()), &observed, &[]);
    expect(&status, "Rebalancing", "False", "Paused");
}

#[test]
fn a_node_that_is_lost_is_shown_first() {
    let mut observed = whole();
    observed.pods.remove("orders-data-2");
    store(&mut observed).nodes[2].health = Health::Down;
    store(&mut observed).summary.degraded = 12;
    let status = judge(Some(running()), &observed, &[]);
    assert_eq!(status.phase, Some(Phase::Degraded));
    expect(&status, "Degraded", "True", "CopiesMissing");
    expect(&status, "Ready", "True", "Serving");
    let first = &status.nodes[0];
    assert_eq!(
        (first.name.as_str(), first.state.as_str()),
        ("orders-data-2", "Down")
    );
    assert_eq!(status.ready_nodes, "2/3");
    store(&mut observed).nodes[2].leaving = Some(Leaving::Away);
    let status = judge(Some(running()), &observed, &[]);
    assert_eq!(status.nodes[0].state, "Lost");
}

#[test]
fn a_voter_that_is_away_leaves_the_quorum_healthy_and_is_named() {
    let mut observed = whole();
    observed.pods.get_mut("orders-coordinator-1").unwrap().ready = false;
    let status = judge(Some(running()), &observed, &[]);
    expect(&status, "QuorumHealthy", "True", "VotersAway");
    expect(&status, "Degraded", "True", "CoordinatorsMissing");
    assert_eq!(status.phase, Some(Phase::Degraded));
}

#[test]
fn what_needs_a_person_is_stuck() {
    let notes = [note(Topic::Stuck, "the Secret x is missing")];
    let status = judge(Some(running()), &whole(), &notes);
    expect(&status, "Progressing", "False", "Stuck");
    expect(&status, "Degraded", "True", "Stuck");
    assert_eq!(status.message, "the Secret x is missing.");
}

#[test]
fn that_nodes_may_not_be_read_is_said_in_a_condition() {
    let mut observed = whole();
    observed.hosts = None;
    let status = judge(Some(running()), &observed, &[]);
    expect(&status, "Degraded", "False", "Whole");
    let one = status
        .conditions
        .iter()
        .find(|one| one.type_ == "Degraded")
        .unwrap();
    assert!(
        one.message.contains("no volume is given up by itself"),
        "{}",
        one.message
    );
}

#[test]
fn a_manifest_that_cannot_be_followed_is_invalid_and_keeps_its_version() {
    let mut manifest = testing::manifest();
    manifest.status = Some(running());
    let problems = ["spec.data: no".to_owned(), "spec.x: no".to_owned()];
    let observed = whole();
    let found = Found {
        manifest: &manifest,
        names: &names(),
        cluster: Err(&problems),
        observed: &observed,
        notes: &[],
        outside: &BTreeMap::new(),
    };
    let status = status(&found, at(5));
    assert_eq!(status.phase, Some(Phase::Invalid));
    expect(&status, "Progressing", "False", "InvalidSpec");
    // It serves all the same.
    expect(&status, "Ready", "True", "Serving");
    assert_eq!(status.message, "spec.data: no. spec.x: no.");
    assert_eq!(status.version, "1.2.3");
}

#[test]
fn a_paused_cluster_says_so() {
    let mut manifest = testing::manifest();
    manifest.spec.maintenance.paused = true;
    manifest.status = Some(running());
    let cluster = testing::cluster();
    let observed = whole();
    let found = Found {
        manifest: &manifest,
        names: &cluster.names,
        cluster: Ok(&cluster),
        observed: &observed,
        notes: &[],
        outside: &BTreeMap::new(),
    };
    let status = status(&found, at(5));
    assert_eq!(status.phase, Some(Phase::Paused));
    expect(&status, "Progressing", "False", "Paused");
}

#[test]
fn messages_are_bounded() {
    let long = "ü".repeat(2000);
    let status = judge(Some(running()), &whole(), &[note(Topic::Stuck, &long)]);
    assert!(status.message.len() <= MESSAGE_BYTES_MAX && status.message.ends_with('…'));
    assert!(
        status
            .conditions
            .iter()
            .all(|one| one.message.len() <= MESSAGE_BYTES_MAX)
    );
}

#[test]
fn where_a_node_is_reached_from_outside_stands_beside_it() {
    let manifest = testing::manifest();
    let cluster = testing::cluster();
    let observed = whole();
    let address = OutsideAddress {
        redis: "192.0.2.1:30001".to_owned(),
        grpc: "192.0.2.1:30002".to_owned(),
    };
    let outside = BTreeMap::from([("orders-data-1".to_owned(), address)]);
    let found = Found {
        manifest: &manifest,
        names: &cluster.names,
        cluster: Ok(&cluster),
        observed: &observed,
        notes: &[],
        outside: &outside,
    };
    let told: Vec<(String, String)> = status(&found, at(5))
        .nodes
        .into_iter()
        .filter_map(|node| Some((node.name, node.outside?.redis)))
        .collect();
    assert_eq!(
        told,
        [("orders-data-1".to_owned(), "192.0.2.1:30001".to_owned())]
    );
}

#[test]
fn what_stays_hot_is_told_without_rates() {
    let mut observed = whole();
    assert_eq!(judge(None, &observed, &[]).hot, None);
    let key = |key: &str, hot_for_ms| HotKey {
        key: key.to_owned(),
        hot_for_ms,
    };
    store(&mut observed).heat = Heat {
        partitions: vec![HotPartition { partition: 9 }, HotPartition { partition: 3 }],
        keys: vec![key("#b", 60_000), key("#new", 59_999), key("a\n", 90_000)],
        read_copies: 2,
    };
    let status = judge(None, &observed, &[]);
    let hot = status.hot.clone().unwrap();
    assert_eq!(hot.partitions, [3, 9]);
    assert_eq!(hot.keys, ["#b", "a\u{fffd}"]);
    assert_eq!(hot.read_copies, 2);
    // What is known stays known while the coordinators say nothing.
    observed.store = Err(Silence::NoAnswer("away".to_owned()));
    assert_eq!(judge(Some(status), &observed, &[]).hot, Some(hot));
}
