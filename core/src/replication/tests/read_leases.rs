//! Leases for reads, as the primary that grants them.

use super::*;
use crate::replication::message::{ReadAnswer, ReadAsk, Stand};
use crate::replication::{ProofLevel, ReadsArrived, Unproved};

fn after(millis: u64) -> impl Fn(Micros) -> Micros {
    move |at| at.plus(Micros::from_millis(millis))
}

fn matched(rig: &mut Rig, from: u64, index: u64) -> Vec<Effect> {
    let index = Index(index);
    let reply = AppendReply {
        partition: P,
        epoch: Epoch(1),
        from: ReplicaId(from),
        session: SESSION,
        outcome: AppendOutcome::Matched { index },
    };
    rig.hear(from, PeerMessage::AppendReply(reply))
}

/// A tick, after which whoever was asked for a lease has granted it.
fn tick(rig: &mut Rig) -> Vec<Effect> {
    let effects = rig.step(Event::Tick);
    for effect in &effects {
        if let Effect::Send {
            to,
            message: PeerMessage::LeaseRenew(request),
        } = effect
        {
            rig.hear(to.0, PeerMessage::LeaseReply(granted(request)));
        }
    }
    effects
}

/// Node 1 leads, under its lease, and nothing was written for a while.
fn primary() -> Rig {
    let mut rig = Rig::start(1, Vec::new());
    rig.learn(record(1, 1, 3, 2, Some(1)));
    rig.flush();
    for from in [2, 3] {
        matched(&mut rig, from, 1);
    }
    tick(&mut rig);
    rig.now = after(60)(rig.now);
    let standing = rig.core.standing(P).expect("a replica");
    assert!(standing.serving && standing.lease_until > rig.now);
    rig
}

/// For how long a lease for reads is granted to the replica on that node.
fn lease(rig: &mut Rig, to: u64) -> Micros {
    let ask = ReadAsk {
        session: 9,
        number: 1,
        partitions: vec![P],
        leases: vec![P],
    };
    let effects = rig.hear(to, PeerMessage::ReadAsk(ask));
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Send {
            message: PeerMessage::ReadAnswer(answer),
            ..
        } => answer.stands.first(),
        _ => None,
    });
    told.expect("an answer").reads_for
}

/// Writes an entry, which this node flushes.
fn write(rig: &mut Rig) {
    let mut effects = Vec::new();
    let body = Bytes::from_static(b"x");
    rig.core
        .propose(rig.now, P, body, &mut effects)
        .expect("taken");
    rig.appended += 1;
    rig.flush();
}

fn commits(effects: &[Effect]) -> bool {
    let is_committed = |e: &Effect| matches!(e, Effect::Committed { .. });
    effects.iter().any(is_committed)
}

#[test]
fn what_the_holder_of_a_lease_for_reads_has_not_matched_does_not_commit() {
    let mut rig = primary();
    assert_eq!(lease(&mut rig, 3), Micros::from_millis(50));
    write(&mut rig);
    assert!(!commits(&matched(&mut rig, 2, 2)));
    assert!(commits(&matched(&mut rig, 3, 2)));
    // Once the lease is over nobody is waited for.
    rig.now = after(60)(rig.now);
    assert_eq!(lease(&mut rig, 3), Micros::from_millis(50));
    write(&mut rig);
    assert!(!commits(&matched(&mut rig, 2, 3)));
    rig.now = after(49)(rig.now);
    assert!(!commits(&tick(&mut rig)));
    rig.now = after(1)(rig.now);
    assert!(commits(&tick(&mut rig)));
}

#[test]
fn a_lease_for_reads_is_not_granted_where_something_was_written_lately() {
    let mut rig = primary();
    write(&mut rig);
    assert_eq!(lease(&mut rig, 3), Micros(0));
    for from in [2, 3] {
        matched(&mut rig, from, 2);
    }
    rig.now = after(49)(rig.now);
    assert_eq!(lease(&mut rig, 3), Micros(0));
    rig.now = after(1)(rig.now);
    assert_eq!(lease(&mut rig, 3), Micros::from_millis(50));
}

#[test]
fn a_lease_for_reads_ends_before_the_primarys_own() {
    let mut rig = primary();
    let until = rig.core.standing(P).expect("a replica").lease_until;
    rig.now = Micros(until.0 - 10);
    assert_eq!(lease(&mut rig, 3), Micros(10));
    rig.now = until;
    assert_eq!(lease(&mut rig, 3), Micros(0));
}

#[test]
fn a_hand_over_gives_nothing_back_while_a_lease_for_reads_lasts() {
    let mut rig = primary();
    lease(&mut rig, 3);
    let order = Order::HandOver {
        partition: P,
        epoch: Epoch(1),
        to: member(2),
    };
    let releases = |effects: &[Effect]| {
        effects.iter().any(|effect| {
            let Effect::Send { message, .. } = effect else {
                return false;
            };
            matches!(message, PeerMessage::Release { .. })
        })
    };
    assert!(!releases(&rig.step(Event::Order { order })));
    // None is granted any more.
    assert_eq!(lease(&mut rig, 2), Micros(0));
    rig.now = after(49)(rig.now);
    assert!(!releases(&tick(&mut rig)));
    rig.now = after(1)(rig.now);
    assert!(releases(&tick(&mut rig)));
}

#[test]
fn a_process_commits_nothing_while_one_before_it_may_have_granted_a_lease_for_reads() {
    let mut rig = Rig::start(1, Vec::new());
    let start = Micros::from_millis(1_000);
    rig.now = start;
    rig.learn(record(1, 1, 3, 2, Some(1)));
    rig.flush();
    let is_serving = |rig: &Rig| rig.core.standing(P).expect("a replica").serving;
    matched(&mut rig, 2, 1);
    assert!(!is_serving(&rig));
    rig.now = after(49)(start);
    tick(&mut rig);
    assert!(!is_serving(&rig));
    rig.now = after(50)(start);
    tick(&mut rig);
    assert!(is_serving(&rig));
}

#[test]
fn a_primary_that_is_inspected_reports_the_leases_for_reads_that_it_granted() {
    let mut rig = primary();
    lease(&mut rig, 3);
    rig.now = after(10)(rig.now);
    let mut effects = rig.fence(2, 1);
    effects.extend(rig.flush());
    // Its own share in its lease is over, and it granted nobody one; 40 ms may still be read.
    let remaining: Vec<Micros> = reports(&effects)
        .iter()
        .map(|report| report.lease_remaining)
        .collect();
    assert_eq!(remaining, [Micros::from_millis(40)]);
}

#[test]
fn a_lease_for_reads_is_bounded_however_long_the_primarys_is() {
    let timing = Timing {
        lease: Micros::from_millis(60_000),
        ..timing()
    };
    assert_eq!(timing.reads(), Micros::from_millis(100));
    // What the disk does not know of is not granted.
    let known = timing.reads_granted(Micros::from_millis(400));
    assert_eq!(known, Micros::from_millis(50));
}

/// Another partition.
const Q: PartitionId = PartitionId(1);

/// The questions among the effects, each of which node 1 answers with a lease for reads of 50 ms.
fn answered(rig: &mut Rig, effects: &[Effect]) -> Vec<ReadAsk> {
    let asked: Vec<ReadAsk> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send {
                to,
                message: PeerMessage::ReadAsk(ask),
            } => {
                assert_eq!(*to, NodeId(1));
                Some(ask.clone())
            }
            _ => None,
        })
        .collect();
    for ask in &asked {
        let stand = |partition: &PartitionId| Stand {
            partition: *partition,
            replica: ReplicaId(1),
            epoch: Epoch(1),
            leased: true,
            head: Position::ZERO,
            commit: Position::ZERO,
            reads_for: Micros::from_millis(50),
        };
        rig.hear(
            1,
            PeerMessage::ReadAnswer(ReadAnswer {
                session: ask.session,
                number: ask.number,
                stands: ask.partitions.iter().map(stand).collect(),
            }),
        );
    }
    asked
}

#[test]
fn leases_for_reads_that_are_used_are_renewed_together_before_they_end() {
    let mut rig = Rig::start(3, Vec::new());
    for id in [P, Q] {
        rig.learn(PartitionRecord {
            id,
            ..record(1, 1, 3, 2, Some(1))
        });
    }
    rig.flush();
    let begun = rig.now;
    let read = |rig: &mut Rig, partition| {
        let mut effects = Vec::new();
        let reads = Unproved {
            partition,
            level: ProofLevel::Replica,
            before: 1,
        };
        rig.core.prove(rig.now, &[reads], &mut effects);
        answered(rig, &effects)
    };
    let until = |rig: &Rig, partition| rig.core.standing(partition).expect("a replica").reads_until;
    let renew = |rig: &mut Rig, before| {
        let mut effects = Vec::new();
        let reads = [P, Q].map(|partition| ReadsArrived { partition, before });
        rig.core.renew_reads(rig.now, &reads, &mut effects);
        answered(rig, &effects)
    };
    assert_eq!(read(&mut rig, P).len(), 1);
    assert_eq!(until(&rig, P), after(45)(begun));
    rig.now = after(15)(begun);
    assert_eq!(read(&mut rig, Q).len(), 1);
    assert_eq!(until(&rig, Q), after(60)(begun));
    // None ends soon.
    rig.now = after(20)(begun);
    assert_eq!(renew(&mut rig, 5), []);
    // One does, and the other one comes with it.
    rig.now = after(30)(begun);
    let asked = renew(&mut rig, 10);
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(
        (&asked[0].partitions, &asked[0].leases),
        (&vec![P, Q], &vec![P, Q])
    );
    for partition in [P, Q] {
        assert_eq!(until(&rig, partition), after(75)(begun));
    }
    // What nobody has read for as long as one lasts ends.
    rig.now = after(65)(begun);
    assert_eq!(renew(&mut rig, 11).len(), 1);
    rig.now = after(105)(begun);
    assert_eq!(renew(&mut rig, 11).len(), 1);
    assert_eq!(until(&rig, P), after(150)(begun));
    rig.now = after(140)(begun);
    assert_eq!(renew(&mut rig, 11), []);
}
