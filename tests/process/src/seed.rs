//! The seed of a test: drawn, printed, and settable.

use rand::SeedableRng;
use rand::rngs::StdRng;

/// The seed from `CAIRN_TEST_SEED`, or a fresh one; printed either way.
///
/// # Panics
/// Where the variable is set and is not a number.
#[must_use]
pub fn draw(test: &str) -> (u64, StdRng) {
    let seed = match std::env::var("CAIRN_TEST_SEED") {
        Ok(text) => text.parse().expect("CAIRN_TEST_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("{test}: seed {seed} (CAIRN_TEST_SEED={seed} draws the same again)");
    (seed, StdRng::seed_from_u64(seed))
}

/// Whether the long form was asked for.
#[must_use]
pub fn full() -> bool {
    std::env::var("CAIRN_TEST_FULL").is_ok_and(|value| value == "1")
}

/// How many values lie in a cluster that changes: `CAIRN_TEST_VALUES`, or the default. What a
/// change takes is worth comparing with what the disk takes only where there are many.
///
/// # Panics
/// Where the variable holds no number.
#[must_use]
pub fn values(default: usize) -> usize {
    let Ok(text) = std::env::var("CAIRN_TEST_VALUES") else {
        return default;
    };
    text.parse().expect("CAIRN_TEST_VALUES is a number")
}
