//! Who is to hold the data: draining, staying away, seats and what they were made for, RF
//! and W that change.

use super::*;
use crate::cluster::command::SeatChange;

fn change(machine: &Machine, change: impl FnOnce(&mut ClusterSettings)) -> Command {
    let mut settings = ClusterSettings::clone(machine.state.settings().expect("a cluster"));
    change(&mut settings);
    Command::ChangeSettings { settings }
}

fn seats(machine: &Machine, nodes: &[u64]) -> Command {
    Command::Rebalance {
        basis: machine.state.basis(),
        moves: (0..2)
            .map(|partition| SeatChange {
                partition: PartitionId(partition),
                before: machine.state.seats(PartitionId(partition)).to_vec(),
                seats: nodes.iter().copied().map(NodeId).collect(),
            })
            .collect(),
    }
}

#[test]
fn seats_are_made_for_the_nodes_that_there_are() {
    let mut machine = made(3, 2, 4);
    assert_eq!(*machine.state.placed_for(), machine.state.basis());
    let stale = seats(&machine, &[1, 2, 4]);
    machine.apply(register("data-5", "u5"));
    assert_ne!(*machine.state.placed_for(), machine.state.basis());
    assert_eq!(
        machine.refused(stale),
        "other nodes are to hold the data by now"
    );
    let first = seats(&machine, &[1, 2, 5]);
    machine.done(seats(&machine, &[1, 2, 4]));
    assert_eq!(*machine.state.placed_for(), machine.state.basis());
    assert_eq!(
        machine.refused(first),
        "partition p0 has other seats by now",
        "all or none"
    );
    // Nothing to change, for the same nodes.
    let nothing = Command::Rebalance {
        basis: machine.state.basis(),
        moves: Vec::new(),
    };
    assert_eq!(machine.apply(nothing), Response::Unchanged);
    machine.done(Command::Drain { node: NodeId(5) });
    assert_eq!(
        machine.refused(seats(&machine, &[1, 2, 5])),
        "node n5 is to hold nothing"
    );
}

#[test]
fn seats_given_by_themselves_are_given_anew_once_all_is_as_it_was_before() {
    let mut machine = made(3, 2, 3);
    let rf = |machine: &Machine, rf| {
        change(machine, |settings| {
            settings.replication_factor = rf;
            settings.write_quorum = 2;
            settings.min_in_sync = 1;
        })
    };
    machine.done(rf(&machine, 2));
    machine.done(Command::Reseat {
        partition: PartitionId(0),
        before: machine.state.seats(PartitionId(0)).to_vec(),
        seats: vec![NodeId(2), NodeId(1)],
    });
    machine.done(rf(&machine, 3));
    let basis = machine.state.basis();
    assert_eq!(*machine.state.placed_for(), basis, "as it was before");
    assert!(!machine.state.seats_fit(&basis), "and yet not settled");
    machine.done(seats(&machine, &[1, 2, 3]));
    assert!(machine.state.seats_fit(&basis));
}

#[test]
fn a_drain_is_asked_for_and_taken_back_as_often_as_anyone_likes() {
    let mut machine = made(3, 2, 4);
    let node = NodeId(4);
    machine.done(Command::Drain { node });
    assert_eq!(machine.apply(Command::Drain { node }), Response::Unchanged);
    // One that drains is not marked as away, nor as back, whatever becomes of it.
    assert_eq!(
        machine.apply(Command::MarkAway { node }),
        Response::Unchanged
    );
    assert_eq!(
        machine.apply(Command::MarkBack { node }),
        Response::Unchanged
    );
    assert_eq!(machine.state.leaving(node), Some(Leaving::Draining));
    machine.done(Command::Undrain { node });
    assert_eq!(
        machine.apply(Command::Undrain { node }),
        Response::Unchanged
    );
    assert_eq!(
        machine.refused(Command::Retire { node }),
        "node n4 has not been asked to give up what it holds"
    );
    machine.done(Command::MarkAway { node });
    machine.done(Command::Drain { node });
    machine.done(Command::Retire { node });
    assert_eq!(machine.apply(Command::Retire { node }), Response::Unchanged);
    assert_eq!(
        machine.refused(Command::Drain { node }),
        "node n4 is not a member"
    );
}

#[test]
fn a_node_goes_only_once_it_has_neither_replica_nor_seat() {
    let mut machine = made(3, 2, 4);
    let node = NodeId(4);
    machine.done(seats(&machine, &[1, 2, 4]));
    machine.done(Command::Drain { node });
    // A seat alone: a replica may be made there at any moment.
    assert!(
        machine
            .refused(Command::Retire { node })
            .contains("not empty")
    );
    machine.done(seats(&machine, &[1, 2, 3]));
    machine.done(machine.add_learner(4));
    // A learner counts nowhere, and yet a person would lose sight of it.
    assert!(
        machine
            .refused(Command::Retire { node })
            .contains("not empty")
    );
}

#[test]
fn the_heir_of_a_node_that_drains_drains() {
    let mut machine = made(3, 2, 4);
    machine.done(Command::Drain { node: NodeId(4) });
    let heir = Command::RegisterNode(NodeRegistration {
        replace_dead: true,
        ..registration("data-4", "u9")
    });
    assert_eq!(
        machine.apply(heir),
        Response::Registered { node: NodeId(5) }
    );
    assert_eq!(machine.state.leaving(NodeId(4)), None);
    assert_eq!(machine.state.leaving(NodeId(5)), Some(Leaving::Draining));
}

#[test]
fn a_caller_that_was_replaced_is_refused() {
    let mut machine = made(3, 2, 4);
    let fenced = |token, command| Command::Fenced {
        token,
        command: Box::new(command),
    };
    let drain = Command::Drain { node: NodeId(4) };
    let undrain = Command::Undrain { node: NodeId(4) };
    machine.done(fenced(7, drain.clone()));
    machine.done(fenced(7, undrain.clone()));
    assert_eq!(
        machine.refused(fenced(6, drain.clone())),
        "a caller with token 7 has taken over from the one with 6"
    );
    machine.done(fenced(8, drain.clone()));
    assert!(
        machine
            .refused(fenced(7, undrain.clone()))
            .contains("token 8")
    );
    // One that begins anew would be refused for ever.
    machine.done(Command::ResetToken);
    assert_eq!(machine.apply(Command::ResetToken), Response::Unchanged);
    assert_eq!(machine.apply(fenced(1, drain.clone())), Response::Unchanged);
    // People have none, and are not refused.
    machine.done(undrain);
    let nested = fenced(9, fenced(1, drain));
    assert!(matches!(
        machine.apply(nested),
        Response::Refused(Refusal::BadBatch)
    ));
}

#[test]
fn a_cluster_of_one_copy_grows_although_its_floor_is_higher() {
    let mut machine = made(1, 1, 5);
    machine.done(change(&machine, |settings| {
        settings.replication_factor = 5;
        settings.write_quorum = 3;
        settings.min_in_sync = 3;
    }));
    assert!(machine.record().degraded);
    machine.done(machine.add_learner(2));
    let learner = machine.record().config.learners[0];
    // Two are below the floor, and more than there were.
    machine.done(machine.enter_joint(vec![machine.member(0), learner], 2));
}

#[test]
fn a_set_that_is_larger_than_configured_keeps_its_write_quorum() {
    let mut machine = made(5, 3, 6);
    machine.done(change(&machine, |settings| {
        settings.replication_factor = 3;
        settings.write_quorum = 2;
        settings.min_in_sync = 2;
    }));
    let all: Vec<Member> = machine.record().config.current.members.clone();
    machine.done(machine.add_learner(6));
    let learner = machine.record().config.learners[0];
    let mut replaced = all.clone();
    replaced[4] = learner;
    // N=5 with W=2 would need four for a promotion.
    assert!(
        machine
            .refused(machine.enter_joint(replaced.clone(), 2))
            .contains("has the write quorum 3, not 2")
    );
    machine.done(machine.enter_joint(replaced, 3));
    machine.done(machine.leave_joint(Direction::Forward));
    let kept = machine.record().config.current.members[..3].to_vec();
    machine.done(machine.enter_joint(kept, 2));
}

#[test]
fn where_w_was_one_a_loss_is_taken_until_the_new_set_is_in_force() {
    let mut machine = made(3, 1, 3);
    machine.done(change(&machine, |settings| {
        settings.write_quorum = 2;
        settings.min_in_sync = 2;
    }));
    assert!(machine.state.is_eventual(P));
    let lossy = |machine: &Machine| Command::NamePrimary {
        partition: P,
        epoch: machine.record().epoch,
        primary: machine.member(1),
        loss: Some(Loss { entries_known: 1 }),
    };
    machine.done(machine.raise());
    machine.done(lossy(&machine));
    let all = machine.record().config.current.members.clone();
    machine.done(machine.enter_joint(all, 2));
    assert!(machine.state.is_eventual(P), "the old set still counts");
    machine.done(machine.leave_joint(Direction::Forward));
    assert!(!machine.state.is_eventual(P));
    machine.done(machine.raise());
    assert!(
        machine
            .refused(lossy(&machine))
            .contains("acknowledged writes are given up only")
    );
    // The other partition has not come that far.
    assert!(machine.state.is_eventual(PartitionId(1)));
}

#[test]
fn one_that_is_on_its_way_to_w_of_one_is_remembered_as_well() {
    let mut machine = made(3, 2, 3);
    let set = |machine: &mut Machine, w| {
        machine.done(change(machine, |settings| {
            settings.write_quorum = w;
            settings.min_in_sync = w;
        }));
    };
    set(&mut machine, 1);
    let all = machine.record().config.current.members.clone();
    machine.done(machine.enter_joint(all, 1));
    set(&mut machine, 2);
    machine.done(machine.leave_joint(Direction::Forward));
    assert_eq!(machine.record().config.current.write_quorum, 1);
    assert!(machine.state.is_eventual(P), "one copy acknowledges");
    assert!(!machine.state.is_eventual(PartitionId(1)));
}

#[test]
fn records_say_at_once_that_they_have_fewer_copies_than_configured() {
    let mut machine = made(2, 2, 3);
    let before = machine.record().order();
    machine.done(change(&machine, |settings| settings.replication_factor = 3));
    assert!(machine.record().degraded);
    assert!(machine.record().order() > before, "so that nodes take it");
    machine.done(change(&machine, |settings| settings.replication_factor = 2));
    assert!(!machine.record().degraded);
    assert_eq!(
        machine.refused(change(&machine, |settings| settings.replication_factor = 4)),
        "3 data nodes are there to hold replicas, 4 are needed"
    );
}
