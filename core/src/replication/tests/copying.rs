//! Copies of a replica's state: what is told of them.

use super::*;
use crate::cluster::report::CopyProgress;
use crate::replication::message::{CopyNews, SnapshotNews};
use crate::replication::{GiveError, SnapshotWanted};

#[test]
fn a_status_tells_what_a_state_takes_and_how_far_a_copy_is_when_that_is_news() {
    let line = entries(Mark::ZERO, 1, 40, "a");
    let (mut rig, generation) = fetching(&line[..30], false);
    let told = |rig: &mut Rig| {
        let changed = rig.core.statuses(rig.now, false);
        changed.first().map(|s| (s.bytes, s.copying))
    };
    let begun = Some(CopyProgress::default());
    assert_eq!(told(&mut rig), Some((None, begun)));
    let measured = |of: u64| Event::StateMeasured {
        sizes: vec![(Generation(of), 500), (Generation(of + 1), 7)],
    };
    rig.step(measured(0));
    assert_eq!(told(&mut rig), Some((Some(7), begun)));
    rig.step(measured(5));
    assert_eq!(told(&mut rig), None, "of other states");
    let progress = CopyProgress {
        received_bytes: 30,
        expected_bytes: 90,
    };
    let more = |generation| Event::SnapshotProgress {
        partition: P,
        generation,
        progress,
    };
    rig.step(more(Generation(99)));
    assert_eq!(told(&mut rig), None, "of another copy");
    rig.step(more(generation));
    assert_eq!(told(&mut rig), Some((Some(7), Some(progress))));
    install(&mut rig, generation, line[39].mark());
    // What the state takes that it switched to is not known yet.
    assert_eq!(told(&mut rig), Some((None, None)));
}

fn wanted(epoch: u64, after: u64) -> SnapshotWanted {
    SnapshotWanted {
        partition: P,
        replica: ReplicaId(2),
        epoch: Epoch(epoch),
        after: Index(after),
    }
}

impl Rig {
    /// What it says as a source, and up to where it applies something for that.
    fn give(&mut self, wanted: SnapshotWanted) -> (Result<Generation, GiveError>, Option<Index>) {
        let mut effects = Vec::new();
        let given = self.core.give_snapshot(self.now, &wanted, &mut effects);
        let applies = effects.iter().find_map(|e| match e {
            Effect::Apply { entries, .. } => entries.last().map(|e| e.position.index),
            _ => None,
        });
        (given, applies)
    }

    fn applied(&mut self, index: u64) {
        self.step(Event::Applied {
            partition: P,
            generation: Generation(1),
            index: Index(index),
        });
    }
}

#[test]
fn a_source_gives_what_is_matched_to_the_primary_that_asked_in_its_epoch_alone() {
    let line = entries(Mark::ZERO, 1, 30, "a");
    let record = record(1, 1, 3, 2, Some(1));
    let mut rig = Rig::recovered(2, record, line.clone(), 10, false);
    let given = Ok(Generation(1));
    // Of what it has applied nothing is known to be this primary's.
    assert_eq!(rig.give(wanted(1, 5)).0, Err(GiveError::Behind));
    let matches = append(2, 1, 7, line[19].mark(), &[]);
    rig.hear(1, PeerMessage::Append(matches));
    assert_eq!(rig.give(wanted(1, 5)).0, given);
    let other = SnapshotWanted {
        replica: ReplicaId(3),
        ..wanted(1, 5)
    };
    assert_eq!(rig.give(other).0, Err(GiveError::NotHere));
    assert_eq!(rig.give(wanted(2, 5)).0, Err(GiveError::Behind));
    // What the primary has applied is committed, as far as it is matched to it here.
    assert_eq!(
        rig.give(wanted(1, 25)),
        (Err(GiveError::Behind), Some(Index(20)))
    );
    rig.applied(20);
    assert_eq!(rig.give(wanted(1, 20)), (given, None));
    assert_eq!(rig.give(wanted(1, 25)), (Err(GiveError::Behind), None));
    rig.fence(2, 1);
    rig.flush();
    let gone_on = Err(GiveError::MovedOn(Epoch(2)));
    assert_eq!(rig.give(wanted(1, 20)).0, gone_on);
    // Whoever leads the new epoch may have lost what was applied here.
    assert_eq!(rig.give(wanted(2, 20)).0, Err(GiveError::Behind));
    let matches = append(2, 2, 7, line[24].mark(), &[]);
    rig.hear(1, PeerMessage::Append(matches));
    assert_eq!(rig.give(wanted(2, 20)).0, given);
    rig.step(Event::Corrupt {
        partitions: vec![P],
    });
    assert_eq!(rig.give(wanted(2, 20)).0, Err(GiveError::NotHere));
}

fn news(effects: &[Effect]) -> Vec<(NodeId, SnapshotNews)> {
    effects
        .iter()
        .filter_map(|e| match e {
            Effect::Send {
                to,
                message: PeerMessage::SnapshotNews(news),
            } => Some((*to, *news)),
            _ => None,
        })
        .collect()
}

#[test]
fn the_next_primary_is_told_of_a_copy_that_is_under_way() {
    let line = entries(Mark::ZERO, 1, 30, "a");
    let (mut rig, generation) = fetching(&line, false);
    let begun = |epoch| SnapshotNews {
        partition: P,
        epoch: Epoch(epoch),
        from: ReplicaId(2),
        source: ReplicaId(1),
        news: CopyNews::Begun { last: Index(50) },
    };
    let begins = |generation| Event::SnapshotBegun {
        partition: P,
        generation,
        last: Index(50),
    };
    assert_eq!(news(&rig.step(begins(Generation(99)))), []);
    let told = news(&rig.step(begins(generation)));
    assert_eq!(told, [(NodeId(1), begun(1))]);
    rig.learn(record(2, 0, 3, 2, Some(3)));
    let member = |id| Member {
        node: NodeId(id),
        replica: ReplicaId(id),
    };
    let again = PeerMessage::NeedSnapshot {
        partition: P,
        epoch: Epoch(2),
        to: ReplicaId(2),
        source: Some(member(3)),
        after: Index(60),
    };
    let effects = rig.hear(3, again);
    assert_eq!(news(&effects), [(NodeId(3), begun(2))]);
    let fetches = |e: &Effect| matches!(e, Effect::FetchSnapshot { .. });
    assert!(!effects.iter().any(fetches), "{effects:?}");
    let failed = Event::SnapshotFailed {
        partition: P,
        generation,
    };
    let failure = SnapshotNews {
        news: CopyNews::Failed,
        ..begun(2)
    };
    assert_eq!(news(&rig.step(failed)), [(NodeId(3), failure)]);
}
