//! Coordinators whose network, disks and processes fail, on simulated time.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_turmoil::fleet::{COUNT, Fleet, SNAPSHOT_EVERY, others};
use cairn_turmoil::storm::{Tally, storm};
use rand::Rng as _;

/// How many writers a run has.
const WRITERS: u64 = 4;
/// For how long things happen in a run, twice.
const STORM: Duration = Duration::from_secs(15);
/// How many fixed seeds are played, and how many fresh ones.
const FIXED: u64 = 3;
const FRESH: u64 = 3;

/// A group that leads and is written to.
fn at_work(seed: u64) -> (Fleet, usize) {
    let mut fleet = Fleet::new(seed, WRITERS);
    let leader = fleet.leader();
    fleet.calls.work();
    fleet.until("some writes to be acknowledged", |fleet| {
        (fleet.ledger.acknowledged > 10).then_some(())
    });
    (fleet, leader)
}

/// Waits until so many more writes are acknowledged.
fn more(fleet: &mut Fleet, writes: u64) {
    let goal = fleet.ledger.acknowledged + writes;
    fleet.until("more writes to be acknowledged", |fleet| {
        (fleet.ledger.acknowledged >= goal).then_some(())
    });
}

#[test]
fn a_leader_that_is_cut_off_steps_down_and_accepts_nothing() {
    let (mut fleet, leader) = at_work(1);
    let term = fleet.reign(leader).expect("it leads");
    fleet.isolate(leader);
    // What was on its way to the callers arrives.
    fleet.pass(Duration::from_millis(100));
    let accepted = fleet.calls.accepted[leader].get();
    let refused = fleet.calls.refused[leader].get();
    let rest: Vec<usize> = others(leader).collect();
    let next = fleet.leader_of(&rest);
    assert!(fleet.reign(next) > Some(term));
    fleet.until("the old leader to step down", |fleet| {
        fleet.reign(leader).is_none().then_some(())
    });
    more(&mut fleet, 100);
    fleet.until("the old leader to be called", |fleet| {
        (fleet.calls.refused[leader].get() > refused + 5).then_some(())
    });
    assert_eq!(fleet.calls.accepted[leader].get(), accepted);
    fleet.join(leader);
    fleet.settle();
}

#[test]
fn one_that_was_cut_off_for_long_catches_up_by_a_snapshot() {
    let (mut fleet, leader) = at_work(2);
    let away = others(leader).next().expect("a follower");
    fleet.isolate(away);
    let missed = fleet.standing(away).and_then(|standing| standing.last);
    fleet.until("the log to be given up beyond what it has", |fleet| {
        let purged = fleet.standing(leader)?.purged;
        (purged > missed && fleet.applied(leader) > fleet.applied(away) + 4 * SNAPSHOT_EVERY)
            .then_some(())
    });
    let installed = fleet.ledger.installed;
    fleet.join(away);
    fleet.until("the snapshot to be taken", |fleet| {
        (fleet.ledger.installed > installed).then_some(())
    });
    fleet.settle();
}

#[test]
fn slow_disks_make_neither_two_leaders_nor_lose_what_was_acknowledged() {
    let (mut fleet, leader) = at_work(3);
    // The second one is longer than a follower has to answer, its flush included.
    for flush in [60, 150].map(Duration::from_millis) {
        for places in [vec![leader], others(leader).collect(), (0..COUNT).collect()] {
            for place in &places {
                fleet.slow(*place, Some(flush));
            }
            more(&mut fleet, 40);
            for place in places {
                fleet.slow(place, None);
            }
        }
    }
    // A leader whose disk does not come back is replaced.
    let leader = fleet.leader();
    fleet.slow(leader, Some(Duration::from_secs(20)));
    let rest: Vec<usize> = others(leader).collect();
    fleet.leader_of(&rest);
    more(&mut fleet, 40);
    fleet.slow(leader, None);
    fleet.settle();
}

#[test]
fn coordinators_that_are_all_killed_go_on_with_the_votes_and_logs_that_they_had() {
    let (mut fleet, _) = at_work(4);
    for _ in 0..4 {
        let applied: Vec<u64> = (0..COUNT).map(|place| fleet.applied(place)).collect();
        (0..COUNT).for_each(|place| fleet.crash(place));
        fleet.pass(Duration::from_millis(300));
        (0..COUNT).for_each(|place| fleet.restart(place));
        fleet.leader();
        for (place, applied) in applied.into_iter().enumerate() {
            fleet.until("what was applied to be applied again", |fleet| {
                (fleet.applied(place) >= applied).then_some(())
            });
        }
        more(&mut fleet, 40);
    }
    fleet.settle();
}

#[test]
fn a_leader_that_restarts_at_once_does_not_lead_on_in_its_term() {
    let (mut fleet, leader) = at_work(5);
    let term = fleet.reign(leader).expect("it leads");
    fleet.crash(leader);
    fleet.restart(leader);
    let next = fleet.leader();
    assert!(fleet.reign(next) > Some(term));
    more(&mut fleet, 20);
    fleet.settle();
}

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!("seed {seed} failed: CAIRN_TEST_SEED={seed} CAIRN_TURMOIL_SEEDS=1");
        }
    }
}

fn play(seed: u64) -> (Tally, Duration) {
    let _named = Seed(seed);
    let mut fleet = Fleet::new(seed, WRITERS);
    fleet.calls.work();
    // Every other group is made while things happen already.
    if seed.is_multiple_of(2) {
        fleet.leader();
    }
    let mut tally = storm(&mut fleet, STORM);
    fleet.settle();
    // A disk is taken in for another one while things go on to happen.
    let wiped = fleet.rng.random_range(0..COUNT);
    fleet.wipe(wiped);
    fleet.calls.work();
    tally.merge(&storm(&mut fleet, STORM));
    fleet.settle();
    let ledger = &fleet.ledger;
    tally.add("elections", ledger.terms());
    tally.add("snapshots installed", ledger.installed);
    tally.add("writes acknowledged", ledger.acknowledged);
    (tally, fleet.sim.elapsed())
}

/// Plays that many seeds from the first on, on all cores.
fn play_all(first: u64, count: u64) -> (Tally, Duration) {
    let next = AtomicU64::new(first);
    let sum = Mutex::new((Tally::default(), Duration::ZERO));
    let work = || loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= first + count {
            break;
        }
        let (tally, elapsed) = play(seed);
        let mut sum = sum.lock().expect("the sum");
        sum.0.merge(&tally);
        sum.1 += elapsed;
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    sum.into_inner().expect("the sum")
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn no_storm_makes_two_leaders_of_a_term_or_loses_what_was_acknowledged() {
    let begun = Instant::now();
    let given = number("CAIRN_TEST_SEED");
    let fresh = given.unwrap_or_else(|| u64::from(rand::random::<u32>()) << 24);
    let count = number("CAIRN_TURMOIL_SEEDS");
    // Whoever names seeds wants those alone.
    let fixed = if count.is_some() { 0 } else { FIXED };
    let count = count.unwrap_or(FRESH);
    println!("seeds 0 to {fixed}, and {count} from CAIRN_TEST_SEED={fresh} on");
    let (mut tally, mut elapsed) = play_all(0, fixed);
    let (more, longer) = play_all(fresh, count);
    tally.merge(&more);
    elapsed += longer;
    println!("{tally:?}: {elapsed:?} simulated in {:?}", begun.elapsed());
    if fixed > 0 {
        let missing = tally.missing();
        assert!(missing.is_empty(), "never took place: {missing:?}");
    }
}
