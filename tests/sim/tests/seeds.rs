//! Fixed seeds and fresh ones, and that a run is a function of its seed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_sim::{
    Coverage, Failure, Options, Planted, Tally, run, run_planted, run_with, scenarios, shrink,
};

/// How many fixed seeds `make test` runs, and how many fresh ones. More: `make sim`.
const FIXED: u64 = 128;
const FRESH: u64 = 120;

/// Runs that many seeds from the first on, on all cores.
fn run_seeds(first: u64, count: u64) -> Tally {
    let next = AtomicU64::new(first);
    let tally = Mutex::new(Tally::default());
    let work = || {
        let mut mine = Tally::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                break;
            }
            match run(seed) {
                Ok(run) => mine.add(&run),
                Err(failure) => panic!(
                    "seed {seed}: {}\nreplay: cargo run --profile sim -p cairn-sim -- --seed {seed} --trace",
                    failure.what
                ),
            }
        }
        tally.lock().expect("the tally").merge(&mine);
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    tally.into_inner().expect("the tally")
}

#[test]
fn no_seed_breaks_an_invariant() {
    let fresh = match std::env::var("CAIRN_TEST_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => u64::from(rand::random::<u32>()) << 24,
    };
    println!("seeds 0 to {FIXED}, and {FRESH} from CAIRN_TEST_SEED={fresh} on");
    let mut tally = run_seeds(0, FIXED);
    tally.merge(&run_seeds(fresh, FRESH));
    println!("{tally}");
    let missing = tally.missing();
    assert!(missing.is_empty(), "never took place: {missing:?}");
}

/// Schedules in which a bug was found. As the simulator grows a seed may come to stand for
/// another schedule; what each showed is held by tests of the core as well, where it could be.
const ONCE_BROKEN: [(u64, &str); 3] = [
    (
        16_397_954_902_395_445,
        "a set grows to a W of all its members while one of them is damaged",
    ),
    (
        61_181_144_401_449_471,
        "a joint set is entered that would be left again at once",
    ),
    (
        16_209_348_476_796_963,
        "seats given for what was lost stay when the lost are back",
    ),
];

#[test]
fn schedules_in_which_a_bug_was_found_are_clean() {
    for (seed, what) in ONCE_BROKEN {
        if let Err(failure) = run(seed) {
            panic!("{what}, as seed {seed} showed once: {}", failure.what);
        }
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for (seed, partitions) in [(3, 1), (8, 2), (21, 3)] {
        let options = Options {
            partitions: Some(partitions),
            ..Options::default()
        };
        let traced = Options {
            trace: true,
            ..options.clone()
        };
        let first = run_with(seed, &traced).expect("a clean seed");
        let second = run_with(seed, &traced).expect("a clean seed");
        assert_eq!(first.0, second.0);
        assert_eq!(first.1, second.1, "the traces of seed {seed} differ");
        let untraced = run_with(seed, &options).expect("a clean seed");
        assert_eq!(first.0, untraced.0, "seed {seed} differs without a trace");
    }
}

/// In how many seeds a planted mistake is to show.
const PLANTED_SEEDS: u64 = 60;

#[test]
fn a_failing_run_is_shrunk_to_fewer_faults() {
    let planted = Some(Planted::AskedBefore);
    let options = Options {
        planted,
        ..Options::default()
    };
    let failing = (0..PLANTED_SEEDS).find_map(|seed| run_with(seed, &options).err());
    let failure = failing.expect("a mistake that is found");
    let (seed, invariant) = (failure.seed, failure.invariant().to_owned());
    let (without, smaller) = shrink::shrink(failure, &options);
    assert!(!without.is_empty(), "seed {seed} needs every fault");
    assert_eq!(smaller.invariant(), invariant);
    let again = Options { without, ..options };
    let again = run_with(seed, &again).expect_err("it fails with the mask too");
    assert_eq!(again.what, smaller.what);
}

#[test]
fn mistakes_in_reads_are_found() {
    for planted in [
        Planted::AskedBefore,
        Planted::Unleased,
        Planted::Unapplied,
        Planted::EmptyCount,
    ] {
        let found = (0..PLANTED_SEEDS).find_map(|seed| {
            let failure = run_planted(seed, Some(planted)).err()?;
            Some((seed, failure.what))
        });
        let (seed, what) = found.unwrap_or_else(|| panic!("{planted:?} was not found"));
        println!("{planted:?}: seed {seed}: {what}");
        assert!(
            what.starts_with("stale"),
            "{planted:?}: seed {seed}: {what}"
        );
    }
}

/// With how many seeds a scenario is played.
const SCENARIO_SEEDS: u64 = 12;

/// Plays a scenario, in which all of that has to happen.
fn play(scenario: fn(u64) -> Result<Coverage, Box<Failure>>, happens: &[&str]) {
    let mut tally = Tally::default();
    for seed in 0..SCENARIO_SEEDS {
        match scenario(seed) {
            Ok(run) => tally.add(&run),
            Err(failure) => panic!("seed {seed}: {}", failure.what),
        }
    }
    for what in happens {
        let times = tally.times(what);
        assert!(times >= SCENARIO_SEEDS, "{what}: {times}");
    }
}

#[test]
fn a_replica_is_swapped_out_while_the_old_primary_is_slow() {
    play(
        scenarios::swap_of_a_slow_primary,
        &["slow primary swapped out"],
    );
}

#[test]
fn a_cluster_expands_from_three_to_six_nodes_with_a_crash_at_each_step() {
    play(
        scenarios::expansion_with_crashes,
        &[
            "struck: learner",
            "struck: primary",
            "struck: leaver",
            "struck: leader",
        ],
    );
}
