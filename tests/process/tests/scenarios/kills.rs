//! kill -9 of data nodes, one at a time, and of everything at once.

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::gaps::Gaps;
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::resp;
use cairn_process_tests::{seed, slot_keys};
use rand::Rng;

/// The partitions that a node leads, as another node's `CLUSTER SLOTS` says.
pub(crate) fn led_by(cluster: &Cluster, leader: &str, ask: &str) -> Result<Vec<u32>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let ranges = runtime.block_on(resp::slots_of(ask, std::time::Duration::from_secs(2)))?;
    let keys = slot_keys::one_per_partition("probe:", cluster.partitions());
    let led = keys.iter().enumerate().filter(|(_, key)| {
        let slot = cairn_core::slots::slot(key.as_bytes());
        let owner = ranges
            .iter()
            .find(|(first, last, _)| (*first..=*last).contains(&slot));
        owner.is_some_and(|(_, _, address)| address == leader)
    });
    Ok(led.map(|(partition, _)| partition as u32).collect())
}

#[test]
fn data_nodes_killed_one_after_another_lose_nothing_and_every_partition_serves_again() -> Result<()>
{
    let (seed, mut rng) = seed::draw("kills of data nodes");
    let kills = if seed::full() { 100 } else { 20 };
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let mut gaps = Gaps::default();
    for kill in 0..kills {
        load.await_acknowledged(500)?;
        let victim = rng.random_range(0..cluster.data.len());
        let other = (victim + 1) % cluster.data.len();
        let address = cluster.data[victim].resp();
        let led = led_by(&cluster, &address, &cluster.data[other].resp())?;
        let from = load.now_ms();
        cluster.data[victim].kill()?;
        load.await_every_partition()
            .with_context(|| format!("after kill {kill}, of {}", cluster.data[victim].name))?;
        let to = load.now_ms();
        let mut these = Gaps::default();
        let acknowledgements = load.acknowledgements();
        for &partition in &led {
            these.add(acknowledgements.longest_gap(partition, from, to));
        }
        println!(
            "kill {kill} of {}, primary of {}: {these}",
            cluster.data[victim].name,
            led.len()
        );
        gaps.merge(&these);
        cluster.data[victim].start()?;
        cluster.await_ready()?;
        ensure!(load.broken().is_empty(), "{:#?}", load.broken());
    }
    load.await_every_partition()?;
    println!("gap in service per partition over {kills} kills: {gaps}");
    // Only a client that tried again can show that a retry is applied once.
    let stats = load.client_stats();
    println!("the Rust client: {stats:?}");
    ensure!(stats.retries > 0, "no call was tried again: {stats:?}");
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn two_data_nodes_killed_at_once_lose_nothing_and_serve_again_when_they_are_back() -> Result<()> {
    // Some partitions are left with one replica of three: they wait for another, and
    // must not promote what they have (rule 2).
    let (seed, mut rng) = seed::draw("two data nodes at once");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    for _ in 0..3 {
        load.await_acknowledged(500)?;
        let first = rng.random_range(0..cluster.data.len());
        let second = (first + rng.random_range(1..cluster.data.len())) % cluster.data.len();
        println!(
            "killing {} and {}",
            cluster.data[first].name, cluster.data[second].name
        );
        cluster.data[first].kill_without_waiting()?;
        cluster.data[second].kill_without_waiting()?;
        cluster.data[first].reap()?;
        cluster.data[second].reap()?;
        // What is served by the others goes on.
        load.await_acknowledged(500)?;
        cluster.start_all()?;
        cluster.await_ready()?;
        load.await_every_partition()?;
    }
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn a_data_node_that_is_asked_to_stop_hands_over_and_ends() -> Result<()> {
    let (seed, _) = seed::draw("drain");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let mut gaps = Gaps::default();
    for victim in 0..3 {
        let led = led_by(
            &cluster,
            &cluster.data[victim].resp(),
            &cluster.data[4].resp(),
        )?;
        let from = load.now_ms();
        let status = cluster.data[victim].terminate(BOUND)?;
        ensure!(status.success(), "it ended with {status}");
        load.await_every_partition()?;
        let to = load.now_ms();
        let acknowledgements = load.acknowledgements();
        for &partition in &led {
            gaps.add(acknowledgements.longest_gap(partition, from, to));
        }
        cluster.start_all()?;
        cluster.await_ready()?;
    }
    println!("gap in service per partition over 3 planned stops: {gaps}");
    load.stop()?.verify(&cluster.target())
}

#[test]
fn every_process_killed_at_once_loses_no_acknowledged_write() -> Result<()> {
    let (seed, _) = seed::draw("kill of everything");
    let mut cluster = Cluster::start(Spec::default())?;
    for round in 0..2 {
        let load = Load::start(&cluster.target(), Plan::default(), seed + round)?;
        load.await_every_partition()?;
        load.await_acknowledged(2000)?;
        cluster.kill_all()?;
        load.wind_down();
        cluster.start_all()?;
        cluster.await_ready()?;
        cluster.await_serving()?;
        load.stop()?.verify(&cluster.target())?;
    }
    Ok(())
}
