//! Copies of a replica's state: what is told of them.

use super::*;
use crate::cluster::report::CopyProgress;

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
