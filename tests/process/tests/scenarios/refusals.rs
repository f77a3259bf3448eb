//! What a node refuses at its start, and that it says why.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::node::{Node, Ports, Role};

/// Starts a node that is to refuse, and returns what it said.
fn refused(mut node: Node) -> Result<String> {
    node.start()?;
    let status = node.await_end(BOUND)?;
    ensure!(!status.success(), "it ended as if nothing had happened");
    Ok(node.log_text())
}

fn small() -> Spec {
    Spec {
        coordinators: 1,
        data_nodes: 1,
        partitions: 4,
        ..Spec::default()
    }
    .with("CAIRN_REPLICATION_FACTOR", 1)
}

#[test]
fn a_second_process_on_a_directory_is_told_who_has_it() -> Result<()> {
    let cluster = Cluster::start(small())?;
    for first in cluster.coordinators.iter().chain(&cluster.data) {
        let mut second = first.twin("second", Ports::free()?)?;
        second.data.clone_from(&first.data);
        if second.role == Role::Coordinator {
            // A coordinator starts only under a name of the list.
            let list = format!("{}=127.0.0.1:{}", second.name, second.ports.peer);
            second.set("CAIRN_COORDINATORS", list);
        }
        let said = refused(second)?;
        let held = first.pid()?.to_string();
        ensure!(said.contains(&held), "{} said: {said}", first.name);
    }
    Ok(())
}

#[test]
fn a_directory_of_a_newer_format_is_refused_with_both_numbers() -> Result<()> {
    let mut cluster = Cluster::start(small())?;
    cluster.kill_all()?;
    let identity = cluster.data[0].data.join("identity.json");
    let mut fields: serde_json::Value = serde_json::from_slice(&fs::read(&identity)?)?;
    let known = fields["format"].as_u64().context("a format number")?;
    fields["format"] = 4711.into();
    fs::write(&identity, serde_json::to_vec(&fields)?)?;
    let mut node = cluster.data.remove(0);
    let before = node.log_text().len();
    node.start()?;
    let status = node.await_end(BOUND)?;
    ensure!(!status.success(), "it ended as if nothing had happened");
    let said = node.log_text().split_off(before);
    ensure!(
        said.contains("4711") && said.contains(&known.to_string()),
        "it said: {said}"
    );
    Ok(())
}

#[test]
fn a_taken_port_is_named() -> Result<()> {
    let mut cluster = Cluster::lay_out(small())?;
    for node in cluster.nodes() {
        for port in [node.ports.client, node.ports.peer, node.ports.http] {
            let taken = TcpListener::bind(("127.0.0.1", port))?;
            node.start()?;
            let status = node.await_end(BOUND)?;
            ensure!(!status.success(), "it ended as if nothing had happened");
            let said = node.log_tail(10);
            ensure!(
                said.contains(&port.to_string()),
                "{} said: {said}",
                node.name
            );
            drop(taken);
        }
    }
    Ok(())
}

#[test]
fn wrong_settings_are_all_named_before_anything_is_opened() -> Result<()> {
    let directory = tempfile::TempDir::with_prefix("cairn-settings-")?;
    let environment = BTreeMap::from(
        [
            ("CAIRN_COORDINATORS", "a=127.0.0.1:1,b=127.0.0.1:2"),
            ("CAIRN_LOG_FORMAT", "xml"),
            ("CAIRN_WEIGHT", "0"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let node = Node::new(
        Role::Data,
        "wrong",
        Ports::free()?,
        directory.path(),
        environment,
    );
    let data = node.data.clone();
    let said = refused(node)?;
    for name in ["CAIRN_COORDINATORS", "CAIRN_LOG_FORMAT", "CAIRN_WEIGHT"] {
        ensure!(said.contains(name), "{name} is not named: {said}");
    }
    ensure!(!data.exists(), "it made its directory all the same");
    Ok(())
}
