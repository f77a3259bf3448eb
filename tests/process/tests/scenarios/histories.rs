//! Histories of the Rust client while nodes are killed and stopped, judged for
//! linearizability.

use anyhow::{Result, ensure};
use cairn_client::Consistency;
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::history::{Plan, Recording};
use cairn_process_tests::seed;
use rand::Rng;

const OPERATIONS: u64 = 101_000;

/// Kills and stops data nodes by turns while a history is made, and judges it.
fn judged(reads: &'static [Consistency]) -> Result<()> {
    let (seed, mut rng) = seed::draw(&format!("history of {reads:?} reads"));
    let mut cluster = Cluster::start(Spec::default())?;
    let plan = Plan {
        reads,
        tasks: 48,
        keys: 1_000,
        operations: OPERATIONS,
    };
    let recording = Recording::start(&cluster.target(), plan, seed)?;
    let (mut kills, mut stops) = (0, 0);
    recording.await_more(2_000)?;
    while !recording.is_complete() {
        let victim = rng.random_range(0..cluster.data.len());
        // A stopped process wakes past its lease, with requests that it took before.
        let stop = (kills + stops) % 2 == 1;
        if stop {
            cluster.data[victim].freeze()?;
            stops += 1;
        } else {
            cluster.data[victim].kill()?;
            kills += 1;
        }
        let served = recording.await_more(6_000);
        if stop {
            cluster.data[victim].thaw()?;
        } else {
            cluster.data[victim].start()?;
        }
        served?;
        cluster.await_ready()?;
        recording.await_more(6_000)?;
    }
    let stats = recording.stats();
    let summary = recording.finish()?.judge()?;
    println!("{kills} kills, {stops} stops: {summary:?}; {stats:?}");
    ensure!(summary.completed as u64 >= OPERATIONS, "{summary:?}");
    ensure!(kills > 1 && stops > 1, "{kills} kills, {stops} stops");
    cluster.check_running()
}

#[test]
fn reads_of_the_primary_are_linearizable_while_nodes_are_killed_and_stopped() -> Result<()> {
    judged(&[Consistency::Primary])
}

#[test]
fn reads_of_a_quorum_are_linearizable_while_nodes_are_killed_and_stopped() -> Result<()> {
    judged(&[Consistency::Quorum])
}

#[test]
fn reads_of_replicas_are_linearizable_while_nodes_are_killed_and_stopped() -> Result<()> {
    judged(&[Consistency::Replica])
}
