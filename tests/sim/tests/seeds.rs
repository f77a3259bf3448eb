//! A fixed set of seeds, and that a run is a function of its seed.

use cairn_sim::{Coverage, Planted, run, run_planted};

/// How many seeds `make test` runs. More: `cargo run -p cairn-sim -- --seeds 5000`.
const SEEDS: u64 = 120;

/// What must have taken place in some seed, else the simulator does not try it.
const MUST_HAPPEN: &[&str] = &[
    "added a learner",
    "any read",
    "coordinators away",
    "crash",
    "deposed",
    "disk wiped",
    "drop",
    "duplicate",
    "election",
    "entered joint",
    "joint left by the supervisor",
    "log probed",
    "left joint",
    "one-way cut",
    "partition",
    "pause",
    "power loss",
    "primary read",
    "promoted by the supervisor",
    "promotion",
    "quorum read",
    "quorum read without a primary",
    "read redirected",
    "replica read",
    "segment reclaimed",
    "shrunk",
    "snapshot installed",
    "write acknowledged",
];

#[test]
fn no_seed_breaks_an_invariant() {
    let mut coverage = Coverage::default();
    for seed in 0..SEEDS {
        match run(seed) {
            Ok(run) => coverage.merge(&run),
            Err(failure) => panic!(
                "seed {seed}: {}\nreplay: cargo run -p cairn-sim -- --seed {seed} --trace",
                failure.what
            ),
        }
    }
    println!("seeds 0 to {SEEDS}: {:#?}", coverage.0);
    for what in MUST_HAPPEN {
        assert!(
            coverage.0.get(what).is_some_and(|count| *count > 0),
            "{what:?} never took place"
        );
    }
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for seed in [3, 8, 21] {
        let first = run(seed).expect("a clean seed");
        let second = run(seed).expect("a clean seed");
        assert_eq!(first.0, second.0);
        assert_eq!(first.1, second.1, "the traces of seed {seed} differ");
    }
}

/// In how many seeds a planted mistake is to show.
const PLANTED_SEEDS: u64 = 60;

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
