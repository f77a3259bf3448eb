//! The data plane without its control plane.

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::{seed, status};
use rand::Rng;

#[test]
fn reads_and_writes_go_on_without_coordinators_and_nothing_is_promoted_when_they_return()
-> Result<()> {
    let (seed, mut rng) = seed::draw("no coordinators");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let before = status::epochs(&cluster)?;
    // Under load and with every process up, nothing may be promoted.
    load.await_acknowledged(5000)?;
    ensure!(
        status::epochs(&cluster)? == before,
        "a failover without a fault"
    );

    for coordinator in &mut cluster.coordinators {
        coordinator.kill()?;
    }
    for _ in 0..5 {
        load.await_acknowledged(2000)?;
        load.await_every_partition()?;
    }

    // A data node comes back as primary of its own epochs (rule 14).
    let victim = rng.random_range(0..cluster.data.len());
    println!("restarting {}", cluster.data[victim].name);
    cluster.data[victim].kill()?;
    cluster.data[victim].start()?;
    load.await_every_partition()?;
    cluster.data[victim].check_running()?;

    cluster.start_all()?;
    cluster.await_ready()?;
    load.await_acknowledged(5000)?;
    load.await_every_partition()?;
    let after = status::epochs(&cluster)?;
    let raised: Vec<_> = (0..before.len())
        .filter(|&p| before[p] != after[p])
        .collect();
    ensure!(
        raised.is_empty(),
        "promoted needlessly: partitions {raised:?}"
    );
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn one_coordinator_at_a_time_may_die_and_failover_still_works() -> Result<()> {
    let (seed, mut rng) = seed::draw("one coordinator at a time");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    for dead in 0..cluster.coordinators.len() {
        cluster.coordinators[dead].kill()?;
        let victim = rng.random_range(0..cluster.data.len());
        cluster.data[victim].kill()?;
        load.await_every_partition()?;
        cluster.start_all()?;
        cluster.await_ready()?;
    }
    load.stop()?.verify(&cluster.target())
}
