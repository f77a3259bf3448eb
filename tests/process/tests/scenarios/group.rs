//! The coordinators' group grows, shrinks and is recovered while clients go on.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::node::Ports;
use cairn_process_tests::runbook::Runbook;
use cairn_process_tests::{binary, seed, status, waiting};
use serde_json::Value;

use crate::recover::said;

/// Runs a command with that one endpoint.
fn cairn(endpoint: &str, arguments: &[&str]) -> Result<Output> {
    Command::new(binary::cairn()?)
        .args(arguments)
        .args(["--timeout", "60", "--endpoints", endpoint])
        .env_remove("CAIRN_ROLE")
        .output()
        .context("run cairn")
}

fn done(endpoint: &str, arguments: &[&str]) -> Result<String> {
    let output = cairn(endpoint, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
    Ok(said(&output))
}

/// Names of the group's voters, the leader's first.
fn group(endpoint: &str) -> Result<Vec<String>> {
    let output = cairn(endpoint, &["coordinators", "-o", "json"])?;
    ensure!(output.status.success(), "{}", said(&output));
    let document: Value = serde_json::from_slice(&output.stdout)?;
    let coordinators = document["coordinators"].as_array().context("a list")?;
    let mut named: Vec<(bool, String)> = coordinators
        .iter()
        .filter(|c| c["voter"] == true)
        .filter_map(|c| Some((c["leader"] != true, c["name"].as_str()?.to_owned())))
        .collect();
    named.sort();
    Ok(named.into_iter().map(|(_, name)| name).collect())
}

fn place_of(cluster: &Cluster, name: &str) -> Result<usize> {
    let mut all = cluster.coordinators.iter();
    let place = all.position(|node| node.name == name);
    place.with_context(|| format!("there is no {name}"))
}

fn address(cluster: &Cluster, place: usize) -> String {
    let node = &cluster.coordinators[place];
    format!("{}={}", node.name, node.peer())
}

/// Starts two more coordinators, configured with themselves and the first one.
fn two_more(cluster: &mut Cluster) -> Result<[String; 2]> {
    let first = cluster.coordinators.len();
    let pair = [first, first + 1];
    for place in pair {
        let twin = cluster.coordinators[0].twin(&place.to_string(), Ports::free()?)?;
        cluster.coordinators.push(twin);
    }
    let list = [0, pair[0], pair[1]].map(|place| address(cluster, place));
    for place in pair {
        let node = &mut cluster.coordinators[place];
        node.set("CAIRN_COORDINATORS", list.join(","));
        node.start()?;
    }
    Ok(pair.map(|place| address(cluster, place)))
}

/// Has them taken in, once they listen.
fn take_in(endpoint: &str, new: &[String; 2]) -> Result<()> {
    waiting::until("the newcomers to be taken in", BOUND, || {
        let arguments = ["coordinators", "add", &new[0], &new[1], "--wait"];
        let output = cairn(endpoint, &arguments)?;
        if said(&output).contains("does not answer") {
            return Ok(None);
        }
        ensure!(output.status.success(), "{}", said(&output));
        Ok(Some(()))
    })
}

/// Waits until every partition has a primary, in epochs that are as told.
fn await_primaries(cluster: &Cluster, what: &str, told: impl Fn(&[u64]) -> bool) -> Result<()> {
    waiting::until(what, BOUND, || {
        let map = status::map(cluster)?;
        let epochs: Vec<u64> = map.partitions.iter().map(|r| r.epoch.0).collect();
        let named = map.partitions.iter().all(|record| record.primary.is_some());
        Ok((named && told(&epochs)).then_some(()))
    })
}

#[test]
fn the_group_grows_shrinks_and_is_recovered_from_one_disk_and_no_acknowledged_write_is_lost()
-> Result<()> {
    let (seed, _) = seed::draw("group");
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    }
    .with("CAIRN_REQUEST_TIMEOUT_MS", 20_000);
    let mut cluster = Cluster::start(spec)?;
    let load = Load::start(&cluster.target(), Plan::patient(BOUND / 2), seed)?;
    load.await_every_partition()?;
    let before = status::epochs(&cluster)?;
    let unanswered = load.unanswered();

    // From one to three to five, asked by way of a data node.
    let data = cluster.data[0].client();
    for count in [3, 5] {
        let new = two_more(&mut cluster)?;
        take_in(&data, &new)?;
        ensure!(group(&data)?.len() == count);
        load.await_acknowledged(1000)?;
    }
    // Back to three, without the leader, and without the only one that the data nodes
    // are configured with.
    let mut leaving = group(&data)?;
    leaving.truncate(1);
    let first = cluster.coordinators[0].name.clone();
    if leaving[0] == first {
        leaving.push(group(&data)?[1].clone());
    } else {
        leaving.push(first);
    }
    done(
        &data,
        &["coordinators", "remove", &leaving[0], &leaving[1], "--wait"],
    )?;
    for name in &leaving {
        let place = place_of(&cluster, name)?;
        cluster.coordinators[place].kill()?;
    }
    let left = group(&data)?;
    ensure!(left.len() == 3, "{left:?}");
    load.await_acknowledged(1000)?;
    load.await_every_partition()?;
    ensure!(
        load.unanswered() == unanswered,
        "{} requests failed while the group changed: {:?}",
        load.unanswered() - unanswered,
        load.errors()
    );
    let after = status::epochs(&cluster)?;
    ensure!(after == before, "a failover: {before:?} became {after:?}");

    // The disk that is to be left misses what comes of a data node that dies.
    let survivor = place_of(&cluster, &left[2])?;
    cluster.coordinators[survivor].kill()?;
    cluster.data[2].kill()?;
    await_primaries(&cluster, "others in place of the dead one", |epochs| {
        epochs.iter().zip(&before).any(|(new, old)| new > old)
    })?;
    cluster.data[2].start()?;
    load.await_every_partition()?;
    status::await_saved_maps(&cluster)?;
    let risen = status::epochs(&cluster)?;
    let directory = cluster.coordinators[survivor].data.display().to_string();
    let places: Vec<usize> = left
        .iter()
        .map(|name| place_of(&cluster, name))
        .collect::<Result<_>>()?;
    let at: Vec<String> = places
        .iter()
        .map(|&place| address(&cluster, place))
        .collect();
    let told: [(&str, &str); 4] = [
        ("CAIRN_ENDPOINTS", &data),
        ("DATA_DIR", &directory),
        ("SECOND", &at[0]),
        ("THIRD", &at[1]),
    ];
    let mut runbook = Runbook::section("recovery.md", "The coordinators' quorum")?;
    runbook.run(&told)?;
    for &place in &places[..2] {
        cluster.coordinators[place].kill()?;
        cluster.coordinators[place].wipe()?;
    }
    // It finds the data nodes by what the disk says; it would ask first.
    let unasked = runbook.run(&told)?;
    ensure!(unasked.contains("--accept-loss"), "{unasked}");
    ensure!(unasked.contains("The data nodes know more"), "{unasked}");
    let done = runbook.run(&told)?;
    ensure!(!done.contains("No answer from"), "{done}");
    let arguments = ["recover-coordinators", "--data-dir", &directory];
    let again = cairn(&data, &arguments)?;
    ensure!(!again.status.success(), "{}", said(&again));

    cluster.coordinators[survivor].start()?;
    await_primaries(
        &cluster,
        "primaries in epochs above all that were",
        |epochs| epochs.iter().zip(&risen).all(|(new, old)| new > old),
    )?;
    load.await_every_partition()?;
    let degraded = runbook.run(&told)?;
    ensure!(!degraded.contains("unserved"), "{degraded}");
    let list = [&at[2], &at[0], &at[1]].map(String::as_str).join(",");
    for &place in &places[..2] {
        let node = &mut cluster.coordinators[place];
        node.set("CAIRN_COORDINATORS", &list);
        node.start()?;
        let listens = || Ok(std::net::TcpStream::connect(node.peer()).ok());
        waiting::until("a newcomer to listen", BOUND, listens)?;
    }
    let group_now = runbook.run(&told)?;
    ensure!(
        left.iter().all(|name| group_now.contains(name)),
        "{group_now}"
    );
    runbook.finish()?;
    ensure!(group(&data)?.len() == 3);
    load.await_acknowledged(1000)?;
    load.await_every_partition()?;
    load.stop()?.verify(&cluster.target())
}
