//! A cluster that speaks TLS on every port.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_client::transport::Dialer;
use cairn_client::{Client, Options};
use cairn_process_tests::certificates::Authority;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::waiting;
use rustls::ClientConfig;
use tempfile::TempDir;

use crate::dev::cairn;

const PATIENCE: Duration = Duration::from_secs(10);

fn resp(port: u16, config: &Arc<ClientConfig>) -> impl Future<Output = Result<Connection>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    Connection::open_tls(address, PATIENCE, config.clone())
}

/// SETs a key over TLS at whichever node leads it.
async fn set(ports: &[u16], config: &Arc<ClientConfig>, key: &str) -> Result<()> {
    let mut said = Vec::new();
    for &port in ports {
        let mut node = resp(port, config).await?;
        match node.call(&[b"SET", key.as_bytes(), b"over TLS"]).await? {
            Reply::Simple(ok) if ok == "OK" => return Ok(()),
            other => said.push(other),
        }
    }
    anyhow::bail!("{said:?}")
}

#[test]
fn a_cluster_with_tls_files_speaks_nothing_else_and_takes_new_ones_while_it_runs() -> Result<()> {
    let files = TempDir::with_prefix("cairn-tls-")?;
    let authority = Authority::new(files.path())?;
    let first = authority.issue()?;
    let mut spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    };
    for (name, value) in authority.environment() {
        spec = spec.with(name, value);
    }
    let mut cluster = Cluster::lay_out(spec)?;
    let plain = authority.client(None)?;
    for node in cluster.nodes() {
        node.tls = Some(plain.clone());
        node.start()?;
    }
    // Over TLS too: it is the same listener that probes and Prometheus ask.
    cluster.await_ready()?;

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let ports: Vec<u16> = cluster.data.iter().map(|node| node.ports.resp).collect();
    waiting::until("a write over TLS", BOUND, || {
        runtime.block_on(set(&ports, &plain, "greeting")).map(Some)
    })?;

    // The Rust client, over gRPC.
    let grpc = authority.client(Some(b"h2"))?;
    let options = Options {
        deadline: BOUND,
        dialer: Dialer {
            tls: Some(Arc::new(move || grpc.clone())),
            connect_timeout: PATIENCE,
            ..Dialer::default()
        },
        ..Options::default()
    };
    let addresses = cluster.client_addresses();
    let client = runtime.block_on(Client::connect(addresses.clone(), options))?;
    let value = runtime
        .block_on(client.get("greeting"))?
        .context("a value")?;
    ensure!(value.data[..] == *b"over TLS", "{value:?}");
    for sum in 1..=5 {
        ensure!(runtime.block_on(client.increment("visits", 1))? == sum);
    }

    // The command, with the CA alone, and without it.
    let endpoints = addresses.join(",");
    let ca = files.path().join("ca.pem").display().to_string();
    let done = cairn(&[
        "get",
        "greeting",
        "--endpoints",
        &endpoints,
        "--tls-ca-file",
        &ca,
    ])?
    .output()?;
    ensure!(
        done.status.success() && done.stdout == b"over TLS",
        "{done:?}"
    );
    let done = cairn(&["status", "--endpoints", &endpoints, "--tls-ca-file", &ca])?.output()?;
    ensure!(done.status.success(), "{done:?}");
    let done = cairn(&[
        "get",
        "greeting",
        "--endpoints",
        &endpoints,
        "--timeout",
        "2",
    ])?
    .output()?;
    ensure!(!done.status.success(), "it spoke without TLS: {done:?}");

    // Nobody is answered in plain text.
    for node in &cluster.data {
        let answer = runtime.block_on(async {
            let mut open = Connection::open(&node.resp(), PATIENCE).await?;
            tokio::time::timeout(PATIENCE, open.call(&[b"PING"])).await?
        });
        ensure!(answer.is_err(), "{} answered {answer:?}", node.name);
    }

    // New files come into force from the next connection on; open ones stay.
    let mut old = runtime.block_on(resp(ports[0], &plain))?;
    ensure!(old.certificate() == Some(first));
    let second = authority.issue()?;
    for &port in &ports {
        waiting::until("the new certificate to be shown", BOUND, || {
            let shown = runtime.block_on(resp(port, &plain))?.certificate();
            Ok((shown.as_ref() == Some(&second)).then_some(()))
        })?;
    }
    let pong = runtime.block_on(old.call(&[b"PING"]))?;
    ensure!(pong == Reply::Simple("PONG".to_owned()), "{pong:?}");

    // Nodes know each other by the new ones: one that starts again is let in.
    cluster.data[0].kill()?;
    cluster.data[0].start()?;
    cluster.await_ready()?;
    ensure!(runtime.block_on(client.increment("visits", 1))? == 6);
    cluster.check_running()
}
