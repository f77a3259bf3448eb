//! What the state machine accepts and refuses, one rule each, and random commands.

mod membership;
mod random;

use super::*;
use crate::cluster::command::{Direction, Loss, NodeRegistration};
use crate::cluster::settings::{Preset, SettingsRequest};
use crate::record::{Addresses, Member, ReplicaSet};

const P: PartitionId = PartitionId(0);

struct Machine {
    state: ClusterState,
    index: u64,
}

impl Machine {
    fn apply(&mut self, command: Command) -> Response {
        self.index += 1;
        let response = self.state.apply(self.index, command);
        assert_eq!(self.state.broken_invariant(), None);
        response
    }

    fn done(&mut self, command: Command) {
        assert_eq!(self.apply(command), Response::Done);
    }

    fn refused(&mut self, command: Command) -> String {
        let before = self.state.clone();
        let Response::Refused(refusal) = self.apply(command) else {
            panic!("taken");
        };
        assert_eq!(self.state, before, "a refusal changes nothing");
        refusal.to_string()
    }

    fn record(&self) -> &PartitionRecord {
        self.state.partition(P).expect("a partition")
    }

    fn member(&self, at: usize) -> Member {
        self.record().config.current.members[at]
    }

    fn raise(&self) -> Command {
        Command::RaiseEpoch {
            partition: P,
            epoch: self.record().epoch,
        }
    }

    fn name(&self, at: usize) -> Command {
        Command::NamePrimary {
            partition: P,
            epoch: self.record().epoch,
            primary: self.member(at),
            loss: None,
        }
    }

    fn add_learner(&self, node: u64) -> Command {
        Command::AddLearner {
            partition: P,
            epoch: self.record().epoch,
            revision: self.record().revision,
            node: NodeId(node),
        }
    }

    fn enter_joint(&self, members: Vec<Member>, write_quorum: u8) -> Command {
        Command::EnterJoint {
            partition: P,
            epoch: self.record().epoch,
            revision: self.record().revision,
            set: ReplicaSet {
                members,
                write_quorum,
            },
        }
    }

    fn leave_joint(&self, direction: Direction) -> Command {
        Command::LeaveJoint {
            partition: P,
            epoch: self.record().epoch,
            direction,
        }
    }

    fn shrink(&self, keep: &[usize]) -> Command {
        Command::Shrink {
            partition: P,
            epoch: self.record().epoch,
            keep: keep.iter().map(|at| self.member(*at).replica).collect(),
        }
    }
}

fn registration(name: &str, uuid: &str) -> NodeRegistration {
    NodeRegistration {
        uuid: uuid.to_owned(),
        incarnation: format!("incarnation of {uuid}").replace(' ', "-"),
        name: name.to_owned(),
        addresses: Addresses::default(),
        zone: String::new(),
        weight: 100,
        features: 0,
        replace_dead: false,
    }
}

fn register(name: &str, uuid: &str) -> Command {
    Command::RegisterNode(registration(name, uuid))
}

fn empty(rf: u8, w: u8) -> Machine {
    let settings = SettingsRequest {
        replication_factor: Some(rf),
        write_quorum: Some(w),
        partitions: Some(2),
        ..SettingsRequest::default()
    }
    .resolve()
    .expect("settings")
    .settings;
    let mut machine = Machine {
        state: ClusterState::default(),
        index: 0,
    };
    machine.done(Command::CreateCluster {
        cluster_id: "c".to_owned(),
        settings,
    });
    machine
}

/// A cluster of `nodes`, both partitions on the first RF of them.
fn made(rf: u8, w: u8, nodes: u64) -> Machine {
    let mut machine = empty(rf, w);
    for n in 1..=nodes {
        machine.apply(register(&format!("data-{n}"), &format!("u{n}")));
    }
    let seats: Vec<NodeId> = (1..=u64::from(rf)).map(NodeId).collect();
    machine.done(Command::MakeTable {
        seats: vec![seats.clone(), seats],
    });
    machine
}

#[test]
fn a_cluster_is_made_once() {
    let mut machine = empty(3, 2);
    let settings = SettingsRequest::default().resolve().unwrap().settings;
    assert_eq!(
        machine.apply(Command::CreateCluster {
            cluster_id: "c".to_owned(),
            settings: settings.clone()
        }),
        Response::Unchanged
    );
    assert_eq!(
        machine.refused(Command::CreateCluster {
            cluster_id: "d".to_owned(),
            settings
        }),
        "cluster c exists already"
    );
}

#[test]
fn bad_settings_are_refused_by_the_state_machine_too() {
    let mut settings = SettingsRequest::default().resolve().unwrap().settings;
    settings.write_quorum = 4;
    let mut machine = Machine {
        state: ClusterState::default(),
        index: 0,
    };
    assert!(
        machine
            .refused(Command::CreateCluster {
                cluster_id: "c".to_owned(),
                settings
            })
            .contains("writeQuorum 4 is above replicationFactor 3")
    );
}

#[test]
fn the_longest_lease_never_shrinks() {
    let mut machine = empty(3, 2);
    let mut settings = ClusterSettings::clone(machine.state.settings().unwrap());
    settings.lease_ms = 2_000;
    machine.done(Command::ChangeSettings {
        settings: settings.clone(),
    });
    settings.lease_ms = 100;
    settings.lease_ms_longest = 100;
    machine.done(Command::ChangeSettings {
        settings: settings.clone(),
    });
    assert_eq!(machine.state.settings().unwrap().lease_ms_longest, 2_000);
    settings.partitions = 4;
    assert_eq!(
        machine.refused(Command::ChangeSettings { settings }),
        "partitions cannot be changed while the cluster lives"
    );
}

#[test]
fn a_newcomer_takes_the_seats_of_the_gone_ones_of_its_name() {
    let mut machine = made(3, 2, 3);
    machine.done(Command::MarkGone {
        node: NodeId(3),
        force: false,
    });
    // One of another name takes nothing.
    machine.apply(register("data-9", "u9"));
    assert_eq!(machine.state.seats(P), [NodeId(1), NodeId(2), NodeId(3)]);
    let heir = machine.apply(register("data-3", "u4"));
    assert_eq!(heir, Response::Registered { node: NodeId(5) });
    assert_eq!(machine.state.seats(P), [NodeId(1), NodeId(2), NodeId(5)]);
}

#[test]
fn seats_are_given_anew_only_by_whoever_knows_the_present_ones() {
    let mut machine = made(3, 2, 5);
    let ids = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect::<Vec<_>>();
    let reseat = |before: &[u64], seats: &[u64]| Command::Reseat {
        partition: P,
        before: ids(before),
        seats: ids(seats),
    };
    machine.done(reseat(&[1, 2, 3], &[4, 2, 3]));
    assert_eq!(machine.state.seats(P), ids(&[4, 2, 3]));
    assert_eq!(
        machine.refused(reseat(&[1, 2, 3], &[5, 2, 3])),
        "partition p0 has other seats by now"
    );
    let same = reseat(&[4, 2, 3], &[4, 2, 3]);
    assert_eq!(machine.apply(same), Response::Unchanged);
    for (seats, why) in [
        (
            &[4, 2][..],
            "partition p0 needs 3 distinct nodes, and is given [n4, n2]",
        ),
        (
            &[4, 2, 2],
            "partition p0 needs 3 distinct nodes, and is given [n4, n2, n2]",
        ),
        (&[4, 2, 9], "node n9 is not a member"),
    ] {
        assert_eq!(machine.refused(reseat(&[4, 2, 3], seats)), why);
    }
}

#[test]
fn nobody_is_dropped_for_a_primary_whose_disk_was_replaced() {
    let mut machine = made(2, 1, 2);
    let mut replacing = registration("data-1", "u9");
    replacing.replace_dead = true;
    machine.apply(Command::RegisterNode(replacing));
    let late = machine.shrink(&[0]);
    assert_eq!(machine.refused(late), "node n1 is not a member");
}

#[test]
fn the_same_identity_registers_again_with_new_addresses() {
    let mut machine = empty(3, 2);
    let first = machine.apply(register("data-1", "u1"));
    let version = machine.state.version();
    assert_eq!(machine.apply(register("data-1", "u1")), first);
    assert_eq!(machine.state.version(), version, "nothing changed");
    let mut moved = registration("data-1", "u1");
    moved.addresses.resp = "elsewhere:6379".to_owned();
    assert_eq!(machine.apply(Command::RegisterNode(moved)), first);
    assert!(machine.state.version() > version);
    assert_eq!(
        machine.state.node(NodeId(1)).unwrap().addresses.resp,
        "elsewhere:6379"
    );
}

#[test]
fn one_live_identity_holds_a_name_and_a_dead_one_is_replaced_for_good() {
    let mut machine = made(3, 2, 3);
    assert_eq!(
        machine.refused(register("data-3", "u9")),
        "the name data-3 belongs to node n3, which is not known to be down"
    );
    let mut replacing = registration("data-3", "u9");
    replacing.replace_dead = true;
    assert_eq!(
        machine.apply(Command::RegisterNode(replacing)),
        Response::Registered { node: NodeId(4) }
    );
    assert!(!machine.state.is_member(NodeId(3)));
    assert_eq!(
        machine.state.seats(P),
        [NodeId(1), NodeId(2), NodeId(4)],
        "it takes the seats over"
    );
    assert!(
        machine.record().config.on_node(NodeId(3)).is_some(),
        "the configuration changes step by step, not here"
    );
    assert_eq!(
        machine.refused(register("data-3", "u3")),
        "node n3 was replaced or declared gone and is never admitted again"
    );
}

#[test]
fn a_copied_disk_is_refused() {
    let mut machine = empty(3, 2);
    machine.apply(register("data-1", "u1"));
    let mut copy = registration("data-2", "u1");
    copy.incarnation = "another".to_owned();
    assert_eq!(
        machine.refused(Command::RegisterNode(copy)),
        "node n1 is known under another incarnation: its identity was copied"
    );
}

#[test]
fn a_known_identity_pushes_nobody_out_of_a_name() {
    let mut machine = empty(3, 2);
    machine.apply(register("data-1", "u1"));
    machine.apply(register("data-2", "u2"));
    let mut renamed = registration("data-2", "u1");
    renamed.replace_dead = true;
    assert!(
        machine
            .refused(Command::RegisterNode(renamed))
            .starts_with("the name data-2 belongs to node n2")
    );
}

#[test]
fn texts_from_outside_are_bounded() {
    let mut machine = empty(3, 2);
    assert_eq!(
        machine.refused(register("", "u1")),
        "name is not acceptable: it is empty"
    );
    assert_eq!(
        machine.refused(register(&"x".repeat(254), "u1")),
        "name is not acceptable: it is longer than 253 bytes"
    );
    assert_eq!(
        machine.refused(register("a\nb", "u1")),
        "name is not acceptable: it holds a blank or a control character"
    );
    let mut heavy = registration("data-1", "u1");
    heavy.weight = 0;
    assert_eq!(
        machine.refused(Command::RegisterNode(heavy)),
        "weight 0 is not between 1 and 10000"
    );
}

#[test]
fn the_last_copies_are_given_up_by_explicit_request_alone() {
    let mut single = made(1, 1, 1);
    let gone = |force| Command::MarkGone {
        node: NodeId(1),
        force,
    };
    assert_eq!(
        single.refused(gone(false)),
        "node n1 holds copies that cannot be done without (partition p0): giving it up needs an \
         explicit request"
    );
    single.done(gone(true));

    let mut three = made(3, 2, 3);
    three.done(gone(false));
    assert!(
        three
            .refused(Command::MarkGone {
                node: NodeId(2),
                force: false
            })
            .contains("cannot be done without"),
        "one of three is less than an inspection quorum"
    );
}

#[test]
fn the_table_waits_for_the_nodes_and_names_primaries_in_epoch_one() {
    let mut machine = empty(3, 2);
    machine.apply(register("data-1", "u1"));
    let seats: Vec<NodeId> = (1..=3).map(NodeId).collect();
    let table = Command::MakeTable {
        seats: vec![seats.clone(), seats.clone()],
    };
    assert_eq!(
        machine.refused(table.clone()),
        "1 data nodes are there to hold replicas, 3 are needed"
    );
    machine.apply(register("data-2", "u2"));
    machine.apply(register("data-3", "u3"));
    assert!(
        machine
            .refused(Command::MakeTable {
                seats: vec![seats.clone(), vec![NodeId(1); 3]]
            })
            .contains("distinct nodes")
    );
    assert!(
        machine
            .refused(Command::MakeTable {
                seats: vec![seats.clone()]
            })
            .contains("2 were agreed")
    );
    machine.done(table.clone());
    assert_eq!(machine.refused(table), "the partition table exists already");
    let record = machine.record();
    assert_eq!(
        (record.epoch, record.primary),
        (Epoch(1), Some(machine.member(0)))
    );
    assert_eq!(record.config.current.write_quorum, 2);
    let replicas: Vec<u64> = machine
        .state
        .partitions()
        .iter()
        .flat_map(|r| r.config.current.members.iter().map(|m| m.replica.0))
        .collect();
    assert_eq!(replicas, [1, 2, 3, 4, 5, 6], "numbers are never shared");
}

#[test]
fn an_epoch_gets_a_primary_at_most_once() {
    let mut machine = made(3, 2, 3);
    let raise = machine.raise();
    machine.done(raise.clone());
    assert_eq!(machine.record().primary, None);
    assert_eq!(machine.refused(raise), "partition p0 is at e2.0 by now");
    let name = machine.name(1);
    machine.done(name.clone());
    assert_eq!(
        machine.refused(name),
        "partition p0 has a primary in its epoch already"
    );
    let other = machine.name(2);
    assert_eq!(
        machine.refused(other),
        "partition p0 has a primary in its epoch already"
    );
    assert_eq!(machine.record().order(), (Epoch(2), 1));
}

#[test]
fn only_voters_are_named() {
    let mut machine = made(3, 2, 4);
    let learn = machine.add_learner(4);
    machine.done(learn);
    let learner = machine.record().config.learners[0];
    let raise = machine.raise();
    machine.done(raise);
    let name = Command::NamePrimary {
        partition: P,
        epoch: Epoch(2),
        primary: learner,
        loss: None,
    };
    assert!(machine.refused(name).contains("is no voter"));
}

#[test]
fn a_loss_is_taken_where_w_is_configured_to_one_and_counted() {
    let mut strict = made(3, 2, 3);
    let raise = strict.raise();
    strict.done(raise);
    let lossy = |machine: &Machine| Command::NamePrimary {
        partition: P,
        epoch: machine.record().epoch,
        primary: machine.member(1),
        loss: Some(Loss { entries_known: 7 }),
    };
    let name = lossy(&strict);
    assert!(
        strict
            .refused(name)
            .starts_with("acknowledged writes are given up only")
    );

    let mut eventual = made(3, 1, 3);
    let raise = eventual.raise();
    eventual.done(raise);
    let name = lossy(&eventual);
    eventual.done(name);
    assert_eq!(
        eventual.state.loss(P),
        LossCount {
            promotions: 1,
            entries_known: 7
        }
    );
}

#[test]
fn a_replica_is_replaced_by_learner_joint_and_forward() {
    let mut machine = made(3, 2, 4);
    let learn = machine.add_learner(4);
    machine.done(learn.clone());
    assert_eq!(
        machine.refused(learn),
        "partition p0 is at e1.1 by now",
        "the same command twice creates one replica"
    );
    let again = machine.add_learner(4);
    assert!(machine.refused(again).contains("one change at a time"));
    let learner = machine.record().config.learners[0];
    assert_eq!(learner.replica, ReplicaId(7));

    let new = vec![machine.member(0), machine.member(1), learner];
    let enter = machine.enter_joint(new.clone(), 2);
    machine.done(enter);
    let record = machine.record();
    assert_eq!(record.order(), (Epoch(2), 0));
    assert_eq!(
        record.primary,
        Some(machine.member(0)),
        "named in the same step"
    );
    assert!(record.config.learners.is_empty());
    assert_eq!(record.config.voters().len(), 4);

    let shrink = machine.shrink(&[0]);
    assert!(machine.refused(shrink).contains("left backwards first"));
    let leave = machine.leave_joint(Direction::Forward);
    machine.done(leave);
    assert_eq!(machine.record().config.current.members, new);
    assert_eq!(machine.record().epoch, Epoch(3));
    assert_eq!(machine.record().primary, Some(new[0]));
}

#[test]
fn leaving_joint_drops_a_primary_that_does_not_belong() {
    let mut machine = made(3, 2, 4);
    let learn = machine.add_learner(4);
    machine.done(learn);
    let learner = machine.record().config.learners[0];
    let set = vec![machine.member(1), machine.member(2), learner];
    let enter = machine.enter_joint(set, 2);
    machine.done(enter);
    assert_eq!(machine.record().primary, Some(machine.member(0)));
    let leave = machine.leave_joint(Direction::Forward);
    machine.done(leave);
    assert_eq!(
        machine.record().primary,
        None,
        "it is fenced and promoted anew"
    );
}

#[test]
fn joint_is_left_backwards_even_without_a_primary() {
    let mut machine = made(3, 2, 4);
    let learn = machine.add_learner(4);
    machine.done(learn);
    let learner = machine.record().config.learners[0];
    let old = machine.record().config.current.clone();
    let set = vec![machine.member(0), machine.member(1), learner];
    let enter = machine.enter_joint(set, 2);
    machine.done(enter);
    let raise = machine.raise();
    machine.done(raise);
    let forward = machine.leave_joint(Direction::Forward);
    assert_eq!(
        machine.refused(forward),
        "partition p0 has no primary in its epoch"
    );
    let backward = machine.leave_joint(Direction::Backward);
    machine.done(backward);
    assert_eq!(machine.record().config.current, old);
    assert_eq!(machine.record().config.joint, None);
}

#[test]
fn joint_sets_are_judged() {
    let mut machine = made(3, 2, 4);
    let (a, b, c) = (machine.member(0), machine.member(1), machine.member(2));
    let stranger = Member {
        node: NodeId(4),
        replica: ReplicaId(99),
    };
    let sets: [(Vec<Member>, u8, &str); 5] = [
        (vec![a, b, stranger], 2, "neither member nor learner"),
        (vec![a, b, c], 2, "in force already"),
        (
            vec![a],
            1,
            "between 2 and replicationFactor 3 members, not 1",
        ),
        (vec![a, b], 1, "has the write quorum 2, not 1"),
        (vec![a, a], 2, "one replica on each of its nodes"),
    ];
    for (members, w, reason) in sets {
        let enter = machine.enter_joint(members, w);
        let refusal = machine.refused(enter);
        assert!(refusal.contains(reason), "{refusal}");
    }
    let raise = machine.raise();
    machine.done(raise);
    let enter = machine.enter_joint(vec![a, b], 2);
    assert_eq!(
        machine.refused(enter),
        "partition p0 has no primary in its epoch"
    );
}

#[test]
fn a_set_shrinks_only_where_every_member_is_needed_and_not_below_the_floor() {
    let mut majority = made(3, 2, 3);
    let shrink = majority.shrink(&[0, 1]);
    assert!(
        majority.refused(shrink).contains("could lose writes"),
        "never where W<N"
    );

    let mut every = made(3, 3, 3);
    let without_primary = every.shrink(&[1, 2]);
    assert!(
        every
            .refused(without_primary)
            .contains("the primary among them")
    );
    let nobody = every.shrink(&[0, 1, 2]);
    assert_eq!(every.refused(nobody), "nothing is dropped");
    let below = every.shrink(&[0]);
    assert_eq!(every.refused(below), "1 members would be below minInSync 2");
    let shrink = every.shrink(&[0, 2]);
    every.done(shrink);
    let record = every.record();
    assert_eq!(record.epoch, Epoch(2));
    assert_eq!(
        (
            record.config.current.len(),
            record.config.current.write_quorum
        ),
        (2, 2)
    );
    assert_eq!(
        record.config.joint, None,
        "joint would wait for the lost one for ever"
    );
    assert!(record.degraded);
    assert_eq!(record.primary, Some(every.member(0)));
}

#[test]
fn two_replicas_shrink_to_one_and_w_comes_back_with_the_second() {
    let mut machine = made(2, 2, 2);
    let shrink = machine.shrink(&[0]);
    machine.done(shrink);
    assert_eq!(machine.record().config.current.write_quorum, 1);
    let learn = machine.add_learner(2);
    machine.done(learn);
    let learner = machine.record().config.learners[0];
    let set = vec![machine.member(0), learner];
    let low = machine.enter_joint(set.clone(), 1);
    assert!(machine.refused(low).contains("has the write quorum 2"));
    let enter = machine.enter_joint(set, 2);
    machine.done(enter);
    assert!(machine.record().degraded);
    let leave = machine.leave_joint(Direction::Forward);
    machine.done(leave);
    assert!(!machine.record().degraded);
}

#[test]
fn with_w_configured_to_one_two_replicas_shrink_and_three_do_not() {
    let mut two = made(2, 1, 2);
    let shrink = two.shrink(&[0]);
    two.done(shrink);
    let mut three = made(3, 1, 3);
    let shrink = three.shrink(&[0, 1]);
    assert!(three.refused(shrink).contains("could lose writes"));
}

#[test]
fn survivors_are_named_by_a_person_and_counted_as_a_loss() {
    let mut machine = made(3, 2, 3);
    let survivor = machine.member(2);
    machine.done(Command::KeepSurvivors {
        partition: P,
        epoch: Epoch(1),
        keep: vec![survivor.replica],
    });
    assert!(machine.state.is_forced(P));
    assert_eq!(machine.record().primary, None);
    assert_eq!(machine.record().config.current.members, [survivor]);
    let name = machine.name(0);
    machine.done(name);
    assert!(!machine.state.is_forced(P));
    assert_eq!(machine.state.loss(P).promotions, 1);
}

#[test]
fn each_command_of_a_batch_is_judged_alone() {
    let mut machine = made(3, 2, 3);
    let good = machine.raise();
    let stale = Command::RaiseEpoch {
        partition: PartitionId(1),
        epoch: Epoch(9),
    };
    let Response::Batch(responses) = machine.apply(Command::Batch(vec![stale, good])) else {
        panic!("a batch answers with a batch");
    };
    assert!(responses[0].refusal().is_some());
    assert_eq!(responses[1], Response::Done);
    assert_eq!(machine.record().epoch, Epoch(2));
    assert_eq!(machine.record().changed_at, machine.state.version());
    let nested = Command::Batch(vec![Command::Batch(Vec::new())]);
    assert!(machine.refused(nested).contains("no other batch"));
}

#[test]
fn a_planned_absence_is_kept_until_it_is_taken_back() {
    let mut machine = made(3, 2, 3);
    let expect = |until_unix_ms| Command::ExpectBack {
        node: NodeId(2),
        until_unix_ms,
    };
    let version = machine.state.version();
    machine.done(expect(1_000));
    assert_eq!(machine.apply(expect(1_000)), Response::Unchanged);
    assert_eq!(machine.state.expected_back(NodeId(2)), Some(1_000));
    machine.done(expect(0));
    assert_eq!(machine.state.expected_back(NodeId(2)), None);
    assert_eq!(machine.state.version(), version, "clients need not know");
}

#[test]
fn a_snapshot_restores_the_very_state() {
    let mut machine = made(3, 2, 4);
    let learn = machine.add_learner(4);
    machine.done(learn);
    machine.done(Command::ExpectBack {
        node: NodeId(2),
        until_unix_ms: 5,
    });
    machine.done(Command::KeepSurvivors {
        partition: PartitionId(1),
        epoch: Epoch(1),
        keep: vec![ReplicaId(4)],
    });
    let bytes = serde_json::to_vec(&machine.state).unwrap();
    let restored: ClusterState = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(restored, machine.state);
}

#[test]
fn the_eventual_preset_makes_a_cluster() {
    let settings = SettingsRequest {
        preset: Some(Preset::Eventual),
        ..SettingsRequest::default()
    }
    .resolve()
    .unwrap()
    .settings;
    let mut machine = Machine {
        state: ClusterState::default(),
        index: 0,
    };
    machine.done(Command::CreateCluster {
        cluster_id: "e".to_owned(),
        settings,
    });
}
