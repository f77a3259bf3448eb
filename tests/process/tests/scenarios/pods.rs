//! Nodes as an operator runs them on Kubernetes.

use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::network::Host;
use cairn_process_tests::node::Node;
use cairn_process_tests::pod::{self, Machine};
use cairn_process_tests::{cli, skip, status, waiting};
use serde_json::Value;

fn small() -> Spec {
    Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 8,
        ..Spec::default()
    }
}

/// Waits until a node's log has the words.
fn await_said(node: &Node, words: &str) -> Result<()> {
    waiting::until(&format!("{} to say: {words}", node.name), BOUND, || {
        Ok(node.log_text().contains(words).then_some(()))
    })
}

/// Gives a node an address. The test is outside, and does not know the pods' names.
fn place(node: &mut Node, number: u8) {
    node.host = Host::on_loopback(number);
    let (resp, client) = (node.resp(), node.client());
    node.set("CAIRN_RESP_ADVERTISE", resp);
    node.set("CAIRN_CLIENT_ADVERTISE", client);
}

#[test]
fn pods_that_start_before_their_names_are_known_and_move_to_other_addresses_serve() -> Result<()> {
    if let Some(lack) = pod::lack()? {
        return skip::without(lack);
    }
    let spec = Spec {
        coordinators: 3,
        ..small()
    };
    let mut cluster = Cluster::lay_out(spec)?;
    let machine = Machine::new(&cluster.directory())?;
    let list: Vec<String> = cluster
        .coordinators
        .iter()
        .map(|node| format!("{}={}:{}", node.name, pod::host_name(node), node.ports.peer))
        .collect();
    for (number, node) in (1..).zip(cluster.nodes()) {
        machine.admit(node)?;
        node.set("CAIRN_COORDINATORS", list.join(","));
        place(node, number);
        node.start()?;
    }
    // Nobody knows where anybody is, and nobody gives up.
    for node in &cluster.coordinators {
        await_said(node, "not a member of the coordinators' group yet")?;
    }
    for node in &cluster.data {
        await_said(node, "not admitted by the coordinators yet")?;
        ensure!(node.http("/livez")?.0 == 200);
        ensure!(node.http("/readyz")?.0 == 503);
    }
    machine.name(cluster.coordinators.iter().chain(&cluster.data))?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    for node in cluster.nodes() {
        pod::check(node)?;
    }

    // They come back at other addresses, as pods do: coordinators that died, so many that
    // the third leads nobody but by their new addresses, and a data node that was stopped.
    for (moved, number) in [(0, 101), (1, 102), (3, 103)] {
        let node = cluster.nodes().nth(moved).context("a node")?;
        if moved < 3 {
            node.kill()?;
        } else {
            let ended = node.terminate(BOUND)?;
            ensure!(ended.success(), "{}: {ended}", node.name);
        }
        place(node, number);
        machine.name(cluster.coordinators.iter().chain(&cluster.data))?;
        cluster.start_all()?;
        cluster.await_ready()?;
        status::await_healthy(&cluster)?;
        cluster.await_serving()?;
    }
    for node in cluster.nodes() {
        let ended = node.terminate(BOUND)?;
        ensure!(ended.success(), "{}: {ended}", node.name);
    }
    Ok(())
}

/// A node's zone and weight, as the coordinators know them; `None` before they know it.
fn known(cluster: &Cluster, name: &str) -> Result<Option<(String, u64)>> {
    let text = cli::done(cluster.cairn(&["status", "-o", "json"])?, BOUND)?;
    let document: Value = serde_json::from_str(&text)?;
    let find = |list: &str, field: &str, is: &Value| {
        let all = document[list].as_array();
        all.and_then(|all| all.iter().find(|one| one[field] == *is).cloned())
    };
    let Some(node) = find("nodes", "name", &name.into()) else {
        return Ok(None);
    };
    let place = find("ring", "node", &node["id"]).context("its place on the ring")?;
    let zone = node["zone"].as_str().context("a zone")?.to_owned();
    Ok(Some((zone, place["weight"].as_u64().context("a weight")?)))
}

#[test]
fn a_data_node_takes_part_once_its_zone_is_known_and_follows_it() -> Result<()> {
    let mut cluster = Cluster::lay_out(small())?;
    let file = cluster.directory().join("places.toml");
    let write = |text: &str| -> Result<()> {
        let fresh = file.with_extension("new");
        fs::write(&fresh, text)?;
        Ok(fs::rename(&fresh, &file)?)
    };
    for (number, node) in cluster.data.iter_mut().enumerate() {
        node.set("CAIRN_HOST", format!("worker-{number}"));
        node.set("CAIRN_PLACES_FILE", file.display());
    }
    cluster.start_all()?;
    let waits = |node: &Node, words: &str| {
        waiting::until(&format!("{} to wait", node.name), BOUND, || {
            let (status, text) = node.http("/readyz")?;
            Ok((status == 503 && text.contains(words)).then_some(()))
        })
    };
    for node in &cluster.data {
        waits(node, "places.toml: No such file")?;
        ensure!(node.http("/livez")?.0 == 200);
    }
    write("[zones]\nworker-0 = 'a'\nworker-1 = 'b'\n[weights]\ndata-1 = 50\n")?;
    waits(&cluster.data[2], "the zone of `worker-2`")?;
    for (node, zone, weight) in [("data-0", "a", 100), ("data-1", "b", 50)] {
        waiting::until("the others to be admitted", BOUND, || {
            Ok((known(&cluster, node)? == Some((zone.to_owned(), weight))).then_some(()))
        })?;
    }
    ensure!(known(&cluster, "data-2")?.is_none());
    await_said(&cluster.data[2], "waiting for the zone of `worker-2`")?;

    let whole = "[zones]\nworker-0 = 'a'\nworker-1 = 'b'\nworker-2 = ''\n";
    write(whole)?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    ensure!(known(&cluster, "data-2")? == Some((String::new(), 100)));
    // While it runs, and by what it knows once the file is lost.
    write(&whole.replace("''", "'c'"))?;
    let moved = |cluster: &Cluster| -> Result<Option<()>> {
        Ok((known(cluster, "data-2")? == Some(("c".to_owned(), 100))).then_some(()))
    };
    waiting::until("its new zone", BOUND, || moved(&cluster))?;
    status::await_saved_maps(&cluster)?;
    fs::remove_file(&file)?;
    cluster.data[2].kill()?;
    cluster.data[2].start()?;
    cluster.await_ready()?;
    status::await_healthy(&cluster)?;
    ensure!(moved(&cluster)?.is_some());
    cluster.check_running()
}

#[test]
fn a_managed_cluster_refuses_a_person_who_does_not_insist() -> Result<()> {
    let manifest = "KvCluster shop/orders";
    let mut cluster = Cluster::lay_out(small())?;
    cluster.coordinators[0].set("CAIRN_MANAGED_BY", manifest);
    cluster.bring_up()?;
    for words in [
        &["cluster", "set", "leaseMs=500"][..],
        &["cluster", "reset-token"],
        &["rebalance", "pause"],
        &["rebalance", "resume"],
        &["nodes", "drain", "data-0"],
        &["nodes", "undrain", "data-0"],
        &["nodes", "expect", "data-0", "--within", "60"],
        &["coordinators", "remove", "coordinator-9"],
    ] {
        let said = cli::refused(cluster.cairn(words)?, BOUND)?;
        let named = said.contains(manifest) && said.contains("--override-manifest");
        ensure!(named, "{words:?}: {said}");
    }
    for words in [
        &["cluster", "set", "leaseMs=500", "--override-manifest"][..],
        &["rebalance", "pause", "--override-manifest"],
        &["rebalance", "resume", "--override-manifest"],
        &[
            "nodes",
            "expect",
            "data-0",
            "--clear",
            "--override-manifest",
        ],
        // It changes nothing.
        &["rebalance", "--plan"],
    ] {
        cli::done(cluster.cairn(words)?, BOUND)?;
    }
    cluster.check_running()
}

#[test]
fn a_node_tells_its_version_where_it_would_run_as_one() -> Result<()> {
    let mut asked = cli::cairn(&["--version"])?;
    let told = cli::done(asked, BOUND)?;
    asked = cli::cairn(&["--version"])?;
    asked.env("CAIRN_ROLE", "data");
    ensure!(cli::done(asked, BOUND)? == told);
    ensure!(told.starts_with("cairn "), "{told}");
    Ok(())
}
