//! Replication factors and quorums other than three and two.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::{seed, status};
use rand::Rng;

#[test]
fn two_copies_shrink_to_one_when_a_node_dies_and_grow_again_when_it_returns() -> Result<()> {
    // W = N = 2: writes stop until the coordinators drop the lost replica (rule 10).
    let (seed, mut rng) = seed::draw("two copies");
    let spec = Spec {
        data_nodes: 3,
        partitions: 32,
        ..Spec::default()
    }
    .with("CAIRN_REPLICATION_FACTOR", 2)
    .with("CAIRN_WRITE_QUORUM", 2)
    .with("CAIRN_MIN_IN_SYNC", 1);
    let mut cluster = Cluster::start(spec)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    for _ in 0..2 {
        let victim = rng.random_range(0..cluster.data.len());
        cluster.data[victim].kill()?;
        load.await_every_partition()?;
        let table = status::map(&cluster)?.partitions;
        ensure!(
            table.iter().any(|record| record.degraded),
            "no partition says that it is degraded"
        );
        cluster.start_all()?;
        cluster.await_ready()?;
        status::await_healthy(&cluster)?;
        let table = status::map(&cluster)?.partitions;
        ensure!(
            table.iter().all(|record| record.config.current.len() == 2),
            "a copy is missing"
        );
    }
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn five_copies_with_a_quorum_of_three_survive_two_losses_at_once() -> Result<()> {
    let (seed, mut rng) = seed::draw("five copies");
    let spec = Spec {
        partitions: 32,
        ..Spec::default()
    }
    .with("CAIRN_REPLICATION_FACTOR", 5)
    .with("CAIRN_WRITE_QUORUM", 3);
    let mut cluster = Cluster::start(spec)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    for _ in 0..2 {
        load.await_acknowledged(500)?;
        let first = rng.random_range(0..cluster.data.len());
        let second = (first + 1) % cluster.data.len();
        cluster.data[first].kill()?;
        cluster.data[second].kill()?;
        load.await_every_partition()?;
        cluster.start_all()?;
        cluster.await_ready()?;
        status::await_healthy(&cluster)?;
    }
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn a_single_copy_is_away_with_its_node_and_whole_when_that_returns() -> Result<()> {
    let (seed, mut rng) = seed::draw("one copy");
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 32,
        ..Spec::default()
    }
    .with("CAIRN_REPLICATION_FACTOR", 1);
    let mut cluster = Cluster::start(spec)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(500)?;
    let victim = rng.random_range(0..cluster.data.len());
    cluster.data[victim].kill()?;
    // The others do not care.
    load.await_acknowledged(500)?;
    cluster.start_all()?;
    cluster.await_ready()?;
    load.await_every_partition()?;
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn a_write_quorum_of_one_keeps_everything_until_a_failover_and_then_counts_what_it_may_have_lost()
-> Result<()> {
    let (seed, mut rng) = seed::draw("write quorum of one");
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 32,
        ..Spec::default()
    }
    .with("CAIRN_CONSISTENCY", "eventual");
    let mut cluster = Cluster::start(spec)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(1000)?;
    let lost = "cairn_coordinator_possible_losses_total";
    ensure!(cluster.coordinators[0].metric(lost)? == 0.0);
    load.stop()?.verify(&cluster.target())?;

    // Without the Rust client, which would look for outcomes that nobody knows any more.
    let plan = Plan {
        native: 0,
        ..Plan::default()
    };
    let load = Load::start(&cluster.target(), plan, seed + 1)?;
    load.await_every_partition()?;
    let victim = rng.random_range(0..cluster.data.len());
    cluster.data[victim].kill()?;
    load.await_every_partition()?;
    let counted = cluster.coordinators[0].metric(lost)?;
    cluster.start_all()?;
    cluster.await_ready()?;
    status::await_healthy(&cluster)?;
    cluster.check_running()?;
    // Acknowledged writes may be gone (rule 9), so that an increment may be answered as
    // one before it was. Nothing else may be wrong.
    let broken = load.stop()?.broken(&cluster.target())?;
    let allowed = |line: &String| line.contains("Lost") || line.contains("SameReply");
    let wrong: Vec<_> = broken.iter().filter(|line| !allowed(line)).collect();
    println!(
        "{} signs of lost writes; {counted} promotions that may have lost some",
        broken.len()
    );
    ensure!(wrong.is_empty(), "{wrong:#?}");
    ensure!(counted > 0.0, "nobody counted what may have been lost");
    Ok(())
}

#[test]
fn a_zone_that_goes_with_two_of_five_coordinators_stops_nothing() -> Result<()> {
    let (seed, _) = seed::draw("zones and weights");
    let spec = Spec {
        coordinators: 5,
        data_nodes: 6,
        partitions: 64,
        ..Spec::default()
    };
    let mut cluster = Cluster::lay_out(spec)?;
    for (number, node) in cluster.data.iter_mut().enumerate() {
        node.set("CAIRN_ZONE", format!("zone-{}", number % 3));
        // One node of each zone is made for thrice as much as the other.
        node.set("CAIRN_WEIGHT", if number < 3 { 300 } else { 100 });
    }
    cluster.bring_up()?;
    let map = status::map(&cluster)?;
    let mut held = BTreeMap::new();
    for record in &map.partitions {
        let nodes = record
            .config
            .current
            .members
            .iter()
            .map(|m| &map.nodes[&m.node]);
        let zones: BTreeSet<_> = nodes.clone().map(|node| &node.zone).collect();
        ensure!(zones.len() == 3, "a partition lies in the zones {zones:?}");
        for node in nodes {
            *held.entry(node.name.clone()).or_insert(0) += 1;
        }
    }
    println!("replicas by node: {held:?}");
    for (heavy, light) in [(0, 3), (1, 4), (2, 5)] {
        let of = |number: usize| held.get(&cluster.data[number].name).copied().unwrap_or(0);
        ensure!(
            of(light) > 0 && of(heavy) > 2 * of(light),
            "the weights count for nothing: {held:?}"
        );
    }

    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(500)?;
    for number in [0, 3] {
        cluster.data[number].kill_without_waiting()?;
    }
    for number in [0, 1] {
        cluster.coordinators[number].kill_without_waiting()?;
    }
    for node in [0, 3] {
        cluster.data[node].reap()?;
    }
    for node in [0, 1] {
        cluster.coordinators[node].reap()?;
    }
    load.await_every_partition()?;
    cluster.start_all()?;
    cluster.await_ready()?;
    status::await_healthy(&cluster)?;
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}
