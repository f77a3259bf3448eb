//! Reads of every level against real processes, with and without their primary.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_client::{Client, Consistency, Error, Options, WriteLevel};
use cairn_core::slots;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::{status, waiting};
use tokio::runtime::Runtime;

const KEY: &str = "watched";

fn spec() -> Spec {
    Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 8,
        ..Spec::default()
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

async fn connect(cluster: &Cluster, deadline: Duration) -> Result<Client> {
    let options = Options {
        deadline,
        ..Options::default()
    };
    Ok(Client::connect(cluster.client_addresses(), options).await?)
}

/// The place among the data nodes of the key's primary.
fn primary_of(cluster: &Cluster, client: &Client, key: &str) -> Result<usize> {
    let map = client.map();
    let record = map.partition_of_slot(slots::slot(key.as_bytes()));
    let primary = record.and_then(|r| r.primary).context("no primary")?;
    let address = &map.nodes[&primary.node].addresses.client;
    let at = cluster.data.iter().position(|n| n.client() == *address);
    at.context("a data node of this cluster")
}

async fn get(client: &Client, consistency: Consistency) -> Result<Option<String>, Error> {
    let value = client.get_with(KEY, consistency).await?;
    Ok(value.map(|v| String::from_utf8_lossy(&v.data).into_owned()))
}

/// A connection that reads from replicas.
async fn open_readonly(address: &str) -> Result<Connection> {
    let mut connection = Connection::open(address, BOUND).await?;
    let reply = connection.call(&[b"READONLY"]).await?;
    ensure!(reply.text().as_deref() == Some("OK"), "{reply:?}");
    Ok(connection)
}

/// What the node answers, once it does not name another one for being behind.
async fn answer(connection: &mut Connection, key: &str) -> Result<Option<String>> {
    let began = Instant::now();
    loop {
        match connection.call(&[b"GET", key.as_bytes()]).await? {
            Reply::Error(error) => ensure!(began.elapsed() < BOUND, "{key}: {error}"),
            reply => return Ok(reply.text()),
        }
    }
}

#[test]
fn reads_of_a_quorum_and_of_any_replica_go_on_without_primary_and_coordinators() -> Result<()> {
    let mut cluster = Cluster::start(spec())?;
    status::await_healthy(&cluster)?;
    let runtime = runtime()?;
    let client = runtime.block_on(connect(&cluster, BOUND))?;
    let strong = [
        Consistency::Primary,
        Consistency::Quorum,
        Consistency::Replica,
    ];
    runtime.block_on(async {
        for round in 0..50 {
            let value = format!("v{round}");
            client.put(KEY, value.clone()).await?;
            for consistency in strong {
                let read = get(&client, consistency).await?;
                ensure!(
                    read.as_ref() == Some(&value),
                    "{consistency:?} read {read:?} after {value} was acknowledged"
                );
            }
        }
        Ok(())
    })?;

    // Each replica hears that the last of them is committed.
    runtime.block_on(async {
        for node in &cluster.data {
            let read = answer(&mut open_readonly(&node.resp()).await?, KEY).await?;
            ensure!(read.as_deref() == Some("v49"), "{}: {read:?}", node.name);
        }
        Ok(())
    })?;
    // Nobody is promoted: what answers from here on are two replicas without a primary.
    cluster.coordinators[0].kill()?;
    let primary = primary_of(&cluster, &client, KEY)?;
    cluster.data[primary].freeze()?;
    println!("froze {}", cluster.data[primary].name);
    runtime.block_on(async {
        for consistency in [Consistency::Quorum, Consistency::Any] {
            let read = get(&client, consistency).await?;
            ensure!(read.as_deref() == Some("v49"), "{consistency:?}: {read:?}");
        }
        let hasty = connect(&cluster, Duration::from_secs(3)).await?;
        for consistency in [Consistency::Primary, Consistency::Replica] {
            let refused = get(&hasty, consistency).await;
            ensure!(
                matches!(refused, Err(Error::Unavailable { .. })),
                "nobody can know without the primary: {consistency:?}: {refused:?}"
            );
        }
        Ok(())
    })?;
    cluster.data[primary].thaw()?;
    runtime.block_on(async {
        for consistency in strong {
            let read = get(&client, consistency).await?;
            ensure!(read.as_deref() == Some("v49"), "{consistency:?}: {read:?}");
        }
        Ok(())
    })
}

#[test]
fn a_write_of_level_all_waits_for_the_last_replica() -> Result<()> {
    let mut cluster = Cluster::start(spec())?;
    status::await_healthy(&cluster)?;
    let runtime = runtime()?;
    let options = Options {
        deadline: BOUND,
        write_level: WriteLevel::All,
        ..Options::default()
    };
    let addresses = cluster.client_addresses();
    let client = runtime.block_on(Client::connect(addresses, options))?;
    runtime.block_on(client.put(KEY, "everywhere"))?;
    let primary = primary_of(&cluster, &client, KEY)?;
    // One of the others is gone, and no coordinator replaces it.
    status::await_saved_maps(&cluster)?;
    cluster.coordinators[0].kill()?;
    let lost = (primary + 1) % cluster.data.len();
    cluster.data[lost].kill()?;
    let incremented = runtime.spawn({
        let client = client.clone();
        async move { client.increment("{watched}counted", 1).await }
    });
    let other = runtime.block_on(connect(&cluster, BOUND))?;
    waiting::until("the increment to be applied", BOUND, || {
        let read = other.get_with("{watched}counted", Consistency::Primary);
        let applied = runtime.block_on(read)?.is_some_and(|v| v.data == "1");
        Ok(applied.then_some(()))
    })?;
    ensure!(
        !incremented.is_finished(),
        "acknowledged although one lacks it"
    );
    cluster.data[lost].start()?;
    let sum = runtime.block_on(incremented)??;
    ensure!(sum == 1, "applied {sum} times");
    Ok(())
}

#[test]
fn a_redis_connection_that_said_readonly_reads_from_replicas_what_was_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(spec())?;
    status::await_healthy(&cluster)?;
    let runtime = runtime()?;
    let client = runtime.block_on(connect(&cluster, BOUND))?;
    let keys: Vec<String> = (0..8).map(|n| format!("key-{n}")).collect();
    runtime.block_on(async {
        let mut nodes = Vec::new();
        for node in &cluster.data {
            nodes.push(open_readonly(&node.resp()).await?);
        }
        for round in 0..20 {
            for key in &keys {
                let value = format!("v{round}");
                client.put(key.clone(), value.clone()).await?;
                for connection in &mut nodes {
                    let read = answer(connection, key).await?;
                    ensure!(
                        read.as_ref() == Some(&value),
                        "{key}: {read:?}, not {value}"
                    );
                }
            }
        }
        Ok(())
    })?;
    // A replica that hears nothing of the primary names it instead. Nobody is promoted.
    cluster.coordinators[0].kill()?;
    let primary = primary_of(&cluster, &client, &keys[0])?;
    cluster.data[primary].freeze()?;
    let other = &cluster.data[(primary + 1) % cluster.data.len()];
    let key = keys[0].as_bytes();
    waiting::until("the replica to give up", BOUND, || {
        runtime.block_on(async {
            let mut connection = open_readonly(&other.resp()).await?;
            let reply = connection.call(&[b"GET", key]).await?;
            Ok(matches!(reply, Reply::Error(_)).then_some(()))
        })
    })?;
    cluster.data[primary].thaw()
}
