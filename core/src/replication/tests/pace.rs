//! A learner that is far behind is sent what is let through, and holds nobody up.

use super::*;
use crate::replication::pace::APPEND_BYTES;

/// How many entries the log has.
const ENTRIES: u64 = 2_000;
/// What one of them counts for.
const ENTRY_BYTES: u64 = 100 + 64;

/// The primary of two members and a learner that has nothing, with a long log.
fn primary() -> (Rig, Vec<Effect>) {
    let body = "0123456789".repeat(10).leak();
    let line = entries(Mark::ZERO, 1, ENTRIES, body);
    let before = record(1, 1, 2, 2, Some(2));
    let mut rig = Rig::recovered(1, before, line, ENTRIES as usize, false);
    rig.fence(2, 1);
    rig.flush();
    let mut record = record(2, 2, 2, 2, Some(1));
    record.config.learners = vec![member(3)];
    rig.learn(record);
    let begun = rig.flush();
    (rig, begun)
}

/// The appends to a node, as their first and last index and how many bytes they count for.
fn appends(effects: &[Effect], to: u64) -> Vec<(Index, Index, u64)> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Send {
                to: node,
                message: PeerMessage::Append(append),
            } if *node == NodeId(to) => {
                let last = append.entries.last().map(|e| e.position.index);
                let bytes = append.entries.iter().map(|e| e.body.len() as u64 + 64);
                let previous = append.previous.index();
                Some((previous, last.unwrap_or(previous), bytes.sum()))
            }
            _ => None,
        })
        .collect()
}

fn reply(from: u64, outcome: AppendOutcome) -> PeerMessage {
    PeerMessage::AppendReply(AppendReply {
        partition: P,
        epoch: Epoch(2),
        from: ReplicaId(from),
        session: SESSION,
        outcome,
    })
}

/// A replica answers what it is sent until nothing more comes: it takes what follows
/// `matched`, and refuses the rest. How many bytes came.
fn follow(rig: &mut Rig, node: u64, mut effects: Vec<Effect>, matched: &mut Index) -> u64 {
    let mut bytes = 0;
    loop {
        let sent = appends(&effects, node);
        if sent.is_empty() {
            return bytes;
        }
        effects = Vec::new();
        for (previous, last, size) in sent {
            bytes += size;
            let outcome = if previous > *matched {
                AppendOutcome::Diverged {
                    head: Position::ZERO,
                    lineage: Vec::new(),
                }
            } else {
                *matched = last.max(*matched);
                AppendOutcome::Matched { index: *matched }
            };
            effects.extend(rig.hear(node, reply(node, outcome)));
        }
    }
}

#[test]
fn a_learner_far_behind_gets_what_the_rate_allows_and_a_member_gets_everything() {
    let (mut rig, begun) = primary();
    let rate = 20_000;
    rig.core.set_catch_up_rate(rate);
    let mut member = Index::ZERO;
    follow(&mut rig, 2, begun.clone(), &mut member);
    assert!(
        member > Index(ENTRIES),
        "a member waits for nothing: {member:?}"
    );

    // It is asked how it stands, and gets what is let through.
    let mut learner = Index::ZERO;
    let mut bytes = follow(&mut rig, 3, begun, &mut learner);
    for _ in 0..50 {
        rig.now = rig.now.plus(timing().tick);
        let effects = rig.step(Event::Tick);
        bytes += follow(&mut rig, 3, effects, &mut learner);
    }
    // A second has passed; what went last may overdraw the rate by one append.
    let most = rate + APPEND_BYTES as u64;
    assert!((rate / 2..=most).contains(&bytes), "{bytes} bytes");
    assert!(
        learner > Index::ZERO && learner < Index(ENTRIES / 2),
        "{learner:?}"
    );

    // Without a limit it gets the rest at once.
    rig.core.set_catch_up_rate(0);
    rig.now = rig.now.plus(timing().tick);
    let effects = rig.step(Event::Tick);
    bytes += follow(&mut rig, 3, effects, &mut learner);
    assert_eq!(learner, rig.head());
    assert!(bytes >= ENTRIES * ENTRY_BYTES, "{bytes} bytes");
    assert!(rig.core.catch_up_sent() <= bytes);
}
