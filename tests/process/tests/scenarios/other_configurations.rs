//! Replication factors and quorums other than three and two.

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
