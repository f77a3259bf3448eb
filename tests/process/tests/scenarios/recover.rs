//! A partition that lost too many replicas, and a person who names the survivor.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cairn_process_tests::binary;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::runbook::Runbook;
use cairn_process_tests::{slot_keys, status, waiting};

pub(crate) fn cairn(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    let mut endpoints = cluster.client_addresses();
    endpoints.push(cluster.coordinators[0].client());
    Command::new(binary::cairn()?)
        .args(arguments)
        .args(["--timeout", "30"])
        .env_remove("CAIRN_ROLE")
        .env("CAIRN_ENDPOINTS", endpoints.join(","))
        .output()
        .context("run cairn")
}

pub(crate) fn said(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn what_one_survivor_holds_is_served_again_once_a_person_says_so() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 8,
        ..Spec::default()
    };
    let mut cluster = Cluster::start(spec)?;
    let keys = slot_keys::one_per_partition("kept", cluster.partitions());
    for key in &keys {
        let put = cairn(&cluster, &["put", key, "by all"])?;
        ensure!(put.status.success(), "{}", said(&put));
    }
    // Every replica has it: what one of them holds is then all that there was.
    let same = |cluster: &Cluster| -> Result<bool> {
        let partitions = status::cluster(cluster)?.partitions;
        Ok(partitions.iter().all(|health| {
            let first = health.replicas[0].head;
            first.is_some() && health.replicas.iter().all(|r| r.head == first)
        }))
    };
    waiting::until("the replicas to be level", BOUND, || {
        Ok(same(&cluster)?.then_some(()))
    })?;
    let survivor = cluster.data[0].name.clone();
    cluster.data[1].kill()?;
    cluster.data[2].kill()?;
    waiting::until("nobody to serve", BOUND, || {
        let summary = status::cluster(&cluster)?.summary;
        Ok((summary.serving == 0 && summary.nodes_up == 1).then_some(()))
    })?;

    let endpoints = cluster.client_addresses().join(",");
    let given: [(&str, &str); 3] = [
        ("CAIRN_ENDPOINTS", &endpoints),
        ("PARTITION", "0"),
        ("SURVIVOR", &survivor),
    ];
    let mut runbook = Runbook::section("recovery.md", "A partition with too few replicas")?;
    let seen = runbook.run(&given)?;
    ensure!(
        seen.contains("unserved") || seen.contains("promoting"),
        "{seen}"
    );
    let unasked = runbook.run(&given)?;
    ensure!(unasked.contains("--accept-loss"), "{unasked}");
    ensure!(unasked.contains("given up"), "{unasked}");
    let dead = cairn(
        &cluster,
        &["recover", "0", "--survivor", "data-2", "--accept-loss"],
    )?;
    ensure!(dead.status.code() == Some(5), "{}", said(&dead));
    ensure!(status::cluster(&cluster)?.summary.serving == 0);

    let done = runbook.run(&given)?;
    ensure!(done.contains("served by"), "{done}");
    let got = cairn(&cluster, &["get", &keys[0]])?;
    ensure!(got.stdout == b"by all", "{}", said(&got));
    let put = cairn(&cluster, &["put", &keys[0], "by one"])?;
    ensure!(put.status.success(), "{}", said(&put));
    // Nothing was asked of the others.
    let health = status::cluster(&cluster)?;
    let served: Vec<_> = health
        .partitions
        .iter()
        .map(|health| health.serving)
        .collect();
    let told: Vec<_> = (0..8).map(|partition| partition == 0).collect();
    ensure!(served == told, "{served:?}");
    ensure!(health.partitions[0].lossy_promotions == 1);
    runbook.run(&given)?;
    runbook.finish()?;
    let arguments = ["recover", "0", "--survivor", &survivor, "--yes"];
    let again = cairn(&cluster, &arguments)?;
    ensure!(again.status.code() == Some(5), "{}", said(&again));

    // The others come back after all: the rest is served by them, and the partition
    // that went on without them is copied to them.
    cluster.start_all()?;
    cluster.await_ready()?;
    status::await_healthy(&cluster)?;
    for (partition, key) in keys.iter().enumerate() {
        let value: &[u8] = if partition == 0 { b"by one" } else { b"by all" };
        let got = cairn(&cluster, &["get", key])?;
        ensure!(got.stdout == value, "{partition}: {}", said(&got));
    }
    cluster.check_running()?;
    Ok(())
}
