//! Reads that a replica must not answer.

use super::*;
use crate::replication::message::{ReadAnswer, Stand};
use crate::replication::{Proof, ProofLevel, Unproved};

fn prove(rig: &mut Rig, level: ProofLevel, before: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    let read = Unproved {
        partition: P,
        level,
        before,
    };
    rig.core.prove(rig.now, &[read], &mut effects);
    effects
}

/// What the questions among the effects are, by whom they go to.
fn questions(effects: &[Effect]) -> Vec<(u64, u64)> {
    let ask = |effect: &Effect| match effect {
        Effect::Send {
            to,
            message: PeerMessage::ReadAsk(ask),
        } => Some((to.0, ask.number)),
        _ => None,
    };
    effects.iter().filter_map(ask).collect()
}

fn proofs(effects: &[Effect]) -> Vec<(u64, Proof)> {
    let proved = |effect: &Effect| match effect {
        Effect::Proved { before, proof, .. } => Some((*before, *proof)),
        _ => None,
    };
    effects.iter().filter_map(proved).collect()
}

fn at(epoch: u64, index: u64) -> Position {
    Position {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

fn stand(replica: u64, epoch: u64, head: Position, commit: Position) -> Stand {
    Stand {
        partition: P,
        replica: ReplicaId(replica),
        epoch: Epoch(epoch),
        leased: false,
        head,
        commit,
        reads_for: Micros(0),
    }
}

fn answer(rig: &mut Rig, from: u64, number: u64, stand: Stand) -> Vec<Effect> {
    rig.hear(
        from,
        PeerMessage::ReadAnswer(ReadAnswer {
            session: SESSION,
            number,
            stands: vec![stand],
        }),
    )
}

/// Where W is 1 a promotion may lose what a replica has applied: its applied index is
/// then above the primary's commit index, and says nothing.
#[test]
fn an_applied_index_of_a_lost_line_proves_nothing() {
    let log = entries(Mark::ZERO, 1, 10, "old");
    let mut rig = Rig::recovered(2, record(2, 1, 3, 1, Some(1)), log.clone(), 10, false);
    let asked = prove(&mut rig, ProofLevel::Replica, 1);
    assert_eq!(questions(&asked), [(1, 1)]);
    let leased = Stand {
        leased: true,
        ..stand(1, 2, at(2, 9), at(2, 9))
    };
    let effects = answer(&mut rig, 1, 1, leased);
    assert!(proofs(&effects).is_empty(), "{effects:?}");
    // The new line arrives: the state of the old one goes, and still nothing is proved.
    let barrier = entries(log[7].mark(), 2, 1, "new");
    let append = append(2, 2, 500, log[7].mark(), &barrier);
    let effects = rig.hear(1, PeerMessage::Append(append));
    assert!(
        discards(&effects) && proofs(&effects).is_empty(),
        "{effects:?}"
    );
    rig.now = rig.now.plus(timing().lease);
    let effects = rig.step(Event::Tick);
    assert_eq!(
        proofs(&effects),
        [(1, Proof::Elsewhere(Some(member(1))))],
        "it is given up"
    );
}

#[test]
fn an_answer_to_another_question_or_epoch_or_without_the_lease_proves_nothing() {
    let log = entries(Mark::ZERO, 1, 3, "x");
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), log.clone(), 3, false);
    prove(&mut rig, ProofLevel::Replica, 1);
    let leased = Stand {
        leased: true,
        ..stand(1, 1, at(1, 3), at(1, 3))
    };
    assert!(proofs(&answer(&mut rig, 1, 7, leased)).is_empty());
    assert!(proofs(&answer(&mut rig, 3, 1, leased)).is_empty());
    let elsewhere = Proof::Elsewhere(Some(member(1)));
    let effects = answer(&mut rig, 1, 1, stand(1, 1, at(1, 3), at(1, 3)));
    assert_eq!(proofs(&effects), [(1, elsewhere)], "no lease");
    prove(&mut rig, ProofLevel::Replica, 2);
    let newer = Stand {
        epoch: Epoch(2),
        ..leased
    };
    assert_eq!(proofs(&answer(&mut rig, 1, 2, newer)), [(2, elsewhere)]);
}

#[test]
fn a_quorum_waits_until_its_bound_is_known_to_be_committed_and_no_longer() {
    let log = entries(Mark::ZERO, 1, 5, "x");
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), log.clone(), 4, false);
    let asked = prove(&mut rig, ProofLevel::Quorum, 1);
    assert_eq!(questions(&asked), [(1, 1), (3, 1)]);
    // Two have the fifth entry, and neither knows whether it is committed.
    let effects = answer(&mut rig, 3, 1, stand(3, 1, at(1, 5), at(1, 4)));
    assert!(proofs(&effects).is_empty());
    // The primary has gone on since, and knows: what it has more binds nobody here.
    let effects = answer(&mut rig, 1, 1, stand(1, 1, at(1, 9), at(1, 6)));
    // This replica has not matched the entry to this primary, and may not take it for
    // committed: another one can answer.
    assert_eq!(proofs(&effects), [(1, Proof::Elsewhere(Some(member(1))))]);
    // Matched, it is proved at the bound.
    let append = append(2, 1, 500, log[4].mark(), &[]);
    rig.hear(1, PeerMessage::Append(append));
    prove(&mut rig, ProofLevel::Quorum, 2);
    let effects = answer(&mut rig, 3, 2, stand(3, 1, at(1, 5), at(1, 5)));
    assert_eq!(
        proofs(&effects),
        [(
            2,
            Proof::Applied {
                epoch: Epoch(1),
                index: Index(5)
            }
        )]
    );
}

#[test]
fn a_quorum_that_saw_a_newer_epoch_or_is_one_member_alone_proves_nothing() {
    let log = entries(Mark::ZERO, 1, 3, "x");
    let mut rig = Rig::recovered(2, record(1, 1, 3, 2, Some(1)), log.clone(), 3, false);
    prove(&mut rig, ProofLevel::Quorum, 1);
    let effects = answer(&mut rig, 3, 1, stand(3, 2, at(2, 4), at(1, 3)));
    assert_eq!(proofs(&effects), [(1, Proof::NotNow)]);
    // W is N: a lost member may have been dropped without its hearing of it (rule 10).
    let mut rig = Rig::recovered(2, record(1, 1, 2, 2, Some(1)), log, 3, false);
    rig.core.set_read_quorum(2);
    let effects = prove(&mut rig, ProofLevel::Quorum, 1);
    assert_eq!(proofs(&effects), [(1, Proof::Elsewhere(Some(member(1))))]);
}

/// Asks, and takes the answer of a primary that has committed the log, with a lease for so long.
fn leased(rig: &mut Rig, log: &[LogEntry], reads_for: u64) -> Vec<Effect> {
    let asked = questions(&prove(rig, ProofLevel::Replica, 1));
    let end = log.last().expect("a log").position;
    let told = Stand {
        leased: true,
        reads_for: Micros::from_millis(reads_for),
        ..stand(1, 1, end, end)
    };
    answer(rig, 1, asked[0].1, told)
}

/// Node 2 follows node 1, which has committed all of the log.
fn follower(log: &[LogEntry]) -> Rig {
    let mut rig = Rig::recovered(
        2,
        record(1, 1, 3, 2, Some(1)),
        log.to_vec(),
        log.len(),
        false,
    );
    let commit = log.last().expect("a log").position.index;
    let sent = append(2, 1, 7, Mark::ZERO, log);
    rig.hear(1, PeerMessage::Append(Append { commit, ..sent }));
    rig.flush();
    rig
}

fn is_proved(effects: &[Effect]) -> bool {
    let proved = proofs(effects);
    proved
        .iter()
        .any(|(_, proof)| matches!(proof, Proof::Applied { .. }))
}

#[test]
fn under_a_lease_for_reads_nobody_is_asked_until_it_is_over() {
    let log = entries(Mark::ZERO, 1, 3, "x");
    let mut rig = follower(&log);
    let asked_at = rig.now;
    assert!(is_proved(&leased(&mut rig, &log, 50)));
    // Ten per cent of it are for clocks that drift.
    for (after, is_leased) in [(0, true), (44, true), (45, false)] {
        rig.now = asked_at.plus(Micros::from_millis(after));
        let effects = prove(&mut rig, ProofLevel::Replica, 10 + after);
        assert_eq!(is_proved(&effects), is_leased, "after {after} ms");
        assert_eq!(questions(&effects).is_empty(), is_leased);
    }
}

#[test]
fn a_lease_for_reads_counts_from_when_the_question_was_sent() {
    let log = entries(Mark::ZERO, 1, 3, "x");
    let mut rig = follower(&log);
    prove(&mut rig, ProofLevel::Replica, 1);
    rig.now = rig.now.plus(Micros::from_millis(60));
    let end = log[2].position;
    let told = Stand {
        leased: true,
        reads_for: Micros::from_millis(50),
        ..stand(1, 1, end, end)
    };
    assert!(is_proved(&answer(&mut rig, 1, 1, told)));
    assert!(!is_proved(&prove(&mut rig, ProofLevel::Replica, 2)));
}

#[test]
fn what_is_not_known_to_be_committed_is_asked_about_under_a_lease_for_reads_too() {
    let log = entries(Mark::ZERO, 1, 4, "x");
    let mut rig = follower(&log[..3]);
    leased(&mut rig, &log[..3], 50);
    let more = append(2, 1, 7, log[2].mark(), &log[3..]);
    let commit = Index(3);
    rig.hear(1, PeerMessage::Append(Append { commit, ..more }));
    assert!(!is_proved(&prove(&mut rig, ProofLevel::Replica, 2)));
    let none = append(2, 1, 7, log[3].mark(), &[]);
    let commit = Index(4);
    let effects = rig.hear(1, PeerMessage::Append(Append { commit, ..none }));
    let index = Index(4);
    let mut proved = proofs(&effects);
    proved.extend(proofs(&prove(&mut rig, ProofLevel::Replica, 3)));
    let wanted = Proof::Applied {
        epoch: Epoch(1),
        index,
    };
    assert!(proved.contains(&(3, wanted)), "{proved:?}");
}

#[test]
fn a_lease_for_reads_ends_with_its_epoch() {
    let log = entries(Mark::ZERO, 1, 3, "x");
    let mut rig = follower(&log);
    leased(&mut rig, &log, 50);
    rig.fence(2, 1);
    rig.flush();
    assert!(!is_proved(&prove(&mut rig, ProofLevel::Replica, 2)));
}
