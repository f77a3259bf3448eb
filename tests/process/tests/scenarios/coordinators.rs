//! The data plane without its control plane.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::gaps::Gaps;
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::resp::Patience;
use cairn_process_tests::{seed, status, waiting};
use rand::Rng;

/// The default node time-out: a data node that is silent for longer counts as down.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Promotions that the coordinators began, whatever for.
pub(crate) fn promotions_started(cluster: &Cluster) -> Result<f64> {
    let all = cluster.coordinators.iter();
    all.map(|node| node.metric("cairn_coordinator_promotions_started_total"))
        .sum()
}

/// Lets time pass: what is waited for is that nothing happens meanwhile.
pub(crate) fn let_pass(time: Duration) -> Result<()> {
    let began = Instant::now();
    waiting::until("time to pass", time + BOUND, || {
        Ok((began.elapsed() >= time).then_some(()))
    })
}

#[test]
fn nothing_is_promoted_in_a_cluster_at_rest_nor_under_steady_load() -> Result<()> {
    let (seed, _) = seed::draw("at rest");
    let mut cluster = Cluster::start(Spec::default())?;
    status::await_healthy(&cluster)?;
    let before = (status::epochs(&cluster)?, promotions_started(&cluster)?);
    let unmoved = |cluster: &Cluster, when: &str| -> Result<()> {
        let after = (status::epochs(cluster)?, promotions_started(cluster)?);
        ensure!(
            after == before,
            "a failover without a fault, {when}: {before:?} became {after:?}"
        );
        Ok(())
    };
    let_pass(NODE_TIMEOUT * 8)?;
    unmoved(&cluster, "at rest")?;

    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    let began = Instant::now();
    while began.elapsed() < NODE_TIMEOUT * 8 {
        load.await_acknowledged(1000)?;
        load.await_reads(500)?;
    }
    load.await_every_partition()?;
    unmoved(&cluster, "under load")?;
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn reads_and_writes_go_on_without_coordinators_and_nothing_is_promoted_when_they_return()
-> Result<()> {
    let (seed, mut rng) = seed::draw("no coordinators");
    // "Untouched" means that no request fails. A slow machine may make one wait.
    let spec = Spec::default().with("CAIRN_REQUEST_TIMEOUT_MS", 20_000);
    let mut cluster = Cluster::start(spec)?;
    let plan = Plan {
        patience: Patience {
            connect: BOUND / 2,
            request: BOUND / 2,
            ..Patience::default()
        },
        ..Plan::default()
    };
    let load = Load::start(&cluster.target(), plan, seed)?;
    load.await_every_partition()?;
    let before = status::epochs(&cluster)?;
    let unanswered = load.unanswered();

    for coordinator in &mut cluster.coordinators {
        coordinator.kill()?;
    }
    let (from, began) = (load.now_ms(), Instant::now());
    // Many leases long, and longer than a node may be silent.
    while began.elapsed() < NODE_TIMEOUT * 6 {
        load.await_acknowledged(1000)?;
        load.await_reads(500)?;
        load.await_every_partition()?;
    }
    let to = load.now_ms();
    ensure!(
        load.unanswered() == unanswered,
        "{} requests failed while the coordinators were away: {:?}",
        load.unanswered() - unanswered,
        load.errors()
    );
    let mut gaps = Gaps::default();
    let acknowledgements = load.acknowledgements();
    for partition in 0..cluster.partitions() {
        gaps.add(acknowledgements.longest_gap(partition, from, to));
    }
    println!(
        "longest time without a write per partition over {} ms without coordinators: {gaps}",
        to - from
    );

    // A data node comes back as primary of its own epochs (rule 14).
    let victim = rng.random_range(0..cluster.data.len());
    println!("restarting {}", cluster.data[victim].name);
    cluster.data[victim].kill()?;
    cluster.data[victim].start()?;
    load.await_every_partition()?;
    load.await_reads(500)?;
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
