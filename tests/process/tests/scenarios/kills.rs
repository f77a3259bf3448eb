//! kill -9 of data nodes, one at a time, and of everything at once.

use anyhow::{Context, Result};
use cairn_process_tests::cluster::{Cluster, Spec};
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
    let kills = if seed::full() { 20 } else { 6 };
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
        anyhow::ensure!(load.broken().is_empty(), "{:#?}", load.broken());
    }
    load.await_every_partition()?;
    println!("gap in service per partition over {kills} kills: {gaps}");
    cluster.check_running()?;
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
