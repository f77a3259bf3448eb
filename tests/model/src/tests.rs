//! That the exploration is what it says it is. The explorations themselves are a step of
//! `ci/run-tests`.

use std::collections::{BTreeMap, HashSet};

use cairn_core::seeded::Bug;

use crate::Mistake;
use crate::configurations::{OF_COORDINATORS, OF_THE_CORE};
use crate::explore::explore;
use crate::memory::Memory;
use crate::world::{Model, Scope};

const SMALL: Scope = Scope {
    epochs: 2,
    promotions: 1,
    writes: 1,
    ..Scope::NONE
};

const RIGHT: Model = Model {
    scope: SMALL,
    mistake: None,
};

#[test]
fn every_state_is_visited_on_however_many_threads() {
    let one = explore(&RIGHT, 1, usize::MAX);
    let again = explore(&RIGHT, 1, usize::MAX);
    assert_eq!(
        (one.states, one.steps, one.depth, &one.seen),
        (again.states, again.steps, again.depth, &again.seen)
    );
    // Which of several equal nodes is met first differs then, and with it how its records
    // are numbered: states are told apart by that which need not be.
    let two = explore(&RIGHT, 2, usize::MAX);
    for explored in [one, two] {
        assert!(explored.exhausted && explored.counterexample.is_none());
        assert!(explored.seen.acknowledged_later > 0 && explored.seen.cut > 0);
    }
}

#[test]
fn what_is_cut_short_is_not_called_exhausted() {
    let cut = explore(&RIGHT, 1, 100);
    assert!(!cut.exhausted && cut.counterexample.is_none());
}

#[test]
fn a_mistake_is_shown_by_a_shortest_way() {
    let mistaken = Model {
        mistake: Some(Mistake::InspectOneFewer),
        ..RIGHT
    };
    let way = explore(&mistaken, 2, usize::MAX).counterexample;
    let way = way.expect("a write is lost");
    assert!(way.what.contains("without write 0"), "{way}");
    // The write reaches two; the third alone is fenced, inspected and named.
    assert_eq!(way.steps.len(), 10, "{way}");
    assert_eq!(
        way.steps.last().map(|s| &s[..9]),
        Some("n3: takes"),
        "{way}"
    );
}

#[test]
fn what_recovery_finds_depends_on_nothing_but_what_a_log_comes_to() {
    let model = Model {
        scope: Scope {
            records_to_all: true,
            epochs: 2,
            promotions: 1,
            ..Scope::NONE
        },
        mistake: None,
    };
    let mut memory = Memory::default();
    let mut level = vec![model.initial(&mut memory)];
    let mut visited = HashSet::new();
    while let Some(state) = level.pop() {
        let mut actions = Vec::new();
        model.actions(&state, &mut actions);
        for action in actions {
            if let Some(next) = model.next(&mut memory, &state, &action)
                && visited.insert(next.print())
            {
                level.push(next);
            }
        }
    }
    let (mut known, mut again) = (BTreeMap::new(), 0);
    for node in memory.nodes() {
        let (log, recovered) = node.recovered();
        match known.get(&log) {
            None => drop(known.insert(log, recovered)),
            Some(before) => {
                again += 1;
                assert_eq!(before, &recovered, "{log}");
            }
        }
    }
    assert!(known.len() > 10 && again > 10, "{} {again}", known.len());
}

#[test]
fn every_mistake_is_tried_once() {
    let trials = || OF_COORDINATORS.iter().chain(OF_THE_CORE);
    let names: HashSet<&str> = trials().map(|t| t.mistake.name()).collect();
    assert_eq!(names.len(), trials().count());
    assert!(names.contains(Bug::LeaveJointEarly.name()));
}
