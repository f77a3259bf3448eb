//! A cluster that speaks TLS on every port, and one that does so between nodes alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_client::transport::Dialer;
use cairn_client::{Client, Options};
use cairn_process_tests::certificates::Authority;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::{cli, waiting};
use rustls::ClientConfig;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

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
    // Every node, coordinators too, says what it goes by.
    let sha256 = |der: &[u8]| {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        digest.as_ref().to_vec()
    };
    let dialer = {
        let grpc = authority.client(Some(b"h2"))?;
        Dialer {
            tls: Some(Arc::new(move || grpc.clone())),
            connect_timeout: PATIENCE,
            ..Dialer::default()
        }
    };
    for address in &addresses {
        let told = waiting::until("the new certificate to be in force", BOUND, || {
            let asked = cairn_client::in_force(&dialer, address, PATIENCE);
            let told = runtime.block_on(asked).map_err(anyhow::Error::msg)?;
            Ok((told.certificate == sha256(&second)).then_some(told))
        })?;
        ensure!(
            told.authorities.len() == 1 && told.users.is_empty(),
            "{told:?}"
        );
    }
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

/// What a port answers to one who begins HTTP/2 in plain text.
async fn answer_in_plain_text(address: &str) -> Result<Vec<u8>> {
    const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await?;
    stream.write_all(&EMPTY_SETTINGS).await?;
    let mut answer = vec![0; 9];
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut answer)).await;
    answer.truncate(read.context("an answer in time")??);
    Ok(answer)
}

/// Whether that is HTTP/2's first frame, its settings.
fn speaks_http2(answer: &[u8]) -> bool {
    answer.get(3) == Some(&4)
}

#[test]
fn where_tls_is_between_nodes_alone_clients_probes_and_commands_speak_plain_text() -> Result<()> {
    let files = TempDir::with_prefix("cairn-tls-")?;
    let authority = Authority::new(files.path())?;
    let shown = authority.issue()?;
    let mut spec = Spec {
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    }
    .with("CAIRN_TLS_PORTS", "peer");
    for (name, value) in authority.environment() {
        spec = spec.with(name, value);
    }
    // Health over HTTP and writes over RESP, both in plain text.
    let mut cluster = Cluster::start(spec)?;

    // Between nodes there is TLS and nothing else.
    let runtime = tokio::runtime::Runtime::new()?;
    let h2 = authority.client(Some(b"h2"))?;
    for node in cluster.coordinators.iter().chain(&cluster.data) {
        let peer = runtime.block_on(resp(node.ports.peer, &h2))?;
        ensure!(peer.certificate().as_ref() == Some(&shown));
        let plain = runtime.block_on(answer_in_plain_text(&node.peer()))?;
        ensure!(!speaks_http2(&plain), "{}: {plain:?}", node.name);
        let plain = runtime.block_on(answer_in_plain_text(&node.client()))?;
        ensure!(speaks_http2(&plain), "{}: {plain:?}", node.name);
    }

    // The nodes' own looks at each other's ports for clients are those of a client.
    for node in &cluster.data {
        waiting::until("the others' ports to answer a node", BOUND, || {
            let answering = node.metric("cairn_agent_client_ports_answering")?;
            Ok((answering == 2.0).then_some(()))
        })?;
    }

    // A command that finds the node's own settings in its environment, as in a pod.
    cli::done(cluster.cairn(&["put", "greeting", "in plain text"])?, BOUND)?;
    let mut inside = cluster.cairn(&["get", "greeting"])?;
    inside.envs(authority.environment());
    inside.env("CAIRN_TLS_PORTS", "peer");
    ensure!(cli::done(inside, BOUND)? == "in plain text");
    let mut mistaken = cluster.cairn(&["status", "--timeout", "2"])?;
    mistaken.envs(authority.environment());
    cli::refused(mistaken, BOUND)?;

    // It asks data nodes as a client does and coordinators over TLS, who are there.
    cluster.coordinators[0].kill()?;
    let directory = cluster.coordinators[0].data.display().to_string();
    let words = ["recover-coordinators", "--accept-loss", "--data-dir"];
    let mut recover = cluster.cairn(&[&words[..], &[&directory]].concat())?;
    recover.envs(authority.environment());
    recover.env("CAIRN_TLS_PORTS", "peer");
    let said = cli::refused(recover, BOUND)?;
    ensure!(
        said.contains("the other coordinators have a majority"),
        "{said}"
    );
    ensure!(!said.contains("No answer from"), "{said}");
    cluster.start_all()?;
    cluster.await_ready()
}
