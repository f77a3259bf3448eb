//! The data plane without its control plane.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::gaps::Gaps;
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::{seed, status, waiting, wal};
use rand::Rng;

/// The default node time-out: a data node that is silent for longer counts as down.
pub(crate) const NODE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Promotions that the coordinators began, whatever for.
pub(crate) fn promotions_started(cluster: &Cluster) -> Result<f64> {
    let all = cluster.coordinators.iter();
    all.map(|node| node.metric("cairn_coordinator_promotions_started_total"))
        .sum()
}

/// What the coordinators' logs say of them, and of the health that they went by.
pub(crate) fn promotions_told(cluster: &Cluster) -> String {
    let told = |line: &&str| {
        line.contains("looking for a primary") || line.contains("a data node's health changed")
    };
    let logs = cluster.coordinators.iter().map(|node| {
        let log = node.log_text();
        let lines: Vec<&str> = log.lines().filter(told).collect();
        let last = &lines[lines.len().saturating_sub(20)..];
        format!("{}:\n{}", node.name, last.join("\n"))
    });
    logs.collect::<Vec<_>>().join("\n")
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
    let load = Load::start(&cluster.target(), Plan::patient(BOUND / 2), seed)?;
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

#[test]
fn a_coordinator_with_a_damaged_disk_does_not_vote_and_joins_anew_once_it_is_empty() -> Result<()> {
    let (seed, mut rng) = seed::draw("damaged coordinator");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let victim = rng.random_range(0..cluster.coordinators.len());
    let before = status::voters(&cluster)?
        .get(&cluster.coordinators[victim].name)
        .cloned();
    let node = &mut cluster.coordinators[victim];
    node.kill()?;
    // In the first batch of its journal, with all the others behind it. What tells that
    // flushed writes are gone is not there, as after a power cut.
    let journal = node.data.join("log").join("0.jnl");
    wal::flip(&journal, rng.random_range(40..60))?;
    std::fs::remove_file(node.data.join("witness")).context("its witness")?;
    for _ in 0..2 {
        node.start()?;
        let status = node.await_end(BOUND)?;
        ensure!(!status.success(), "it ended as if nothing had happened");
        let said = node.log_tail(5);
        ensure!(said.contains("must not vote any more"), "it said: {said}");
    }
    node.wipe()?;
    node.start()?;
    cluster.await_ready()?;
    let name = cluster.coordinators[victim].name.clone();
    waiting::until("it to vote under another id", BOUND, || {
        let id = status::voters(&cluster)?.get(&name).cloned();
        Ok((id.is_some() && id != before).then_some(()))
    })?;
    // It counts again: another one may go.
    let other = (victim + 1) % cluster.coordinators.len();
    cluster.coordinators[other].kill()?;
    cluster.data[0].kill()?;
    load.await_every_partition()?;
    cluster.start_all()?;
    cluster.await_ready()?;
    load.stop()?.verify(&cluster.target())
}
