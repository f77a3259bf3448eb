//! Keys that everybody asks for are named, in the words that the setting allows, and limited,
//! while all others are served.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_client::{Client, Consistency, Options};
use cairn_core::slots;
use cairn_process_tests::cli;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec, Target};
use cairn_process_tests::resp::{ClusterClient, Connection, Patience, Reply, Routes};
use cairn_process_tests::{status, waiting};
use serde_json::Value;
use tokio::runtime;

const READ: &str = "hot:read";
const WRITTEN: &str = "hot:written";
/// Keys that are all alike.
const OTHERS: usize = 500;
/// How often in a second a hot key is answered. Far less than it is asked for here.
const RATE: &str = "40";
/// Between two looks.
const LOOK: Duration = Duration::from_millis(300);

/// Asks for two keys far more than for the others, until told to stop. Counts what is refused
/// of the two; nothing else may be.
fn ask(target: &Target, stop: &AtomicBool, limited: &AtomicU64) -> Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let patience = Patience {
        retry: BOUND,
        ..Patience::default()
    };
    let mut client = ClusterClient::new(Routes::new(target.resp.clone()), patience);
    runtime.block_on(async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            number += 1;
            let other = format!("other:{}", number * 7_919 % OTHERS);
            let (key, is_write) = match number % 10 {
                0 | 3 | 5 => (READ, false),
                1 => (WRITTEN, true),
                _ => (other.as_str(), number % 4 == 0),
            };
            let words: &[&[u8]] = if is_write {
                &[b"SET", key.as_bytes(), b"value"]
            } else {
                &[b"GET", key.as_bytes()]
            };
            match client.call(key, words).await {
                Ok(Reply::Error(text))
                    if key.starts_with("hot:") && text.starts_with("LIMITED this key") =>
                {
                    limited.fetch_add(1, Ordering::Relaxed);
                }
                Ok(Reply::Error(text)) => anyhow::bail!("{key}: {text}"),
                Ok(_) => {}
                Err(error) => anyhow::bail!("{key}: {error:?}"),
            }
        }
        Ok(())
    })
}

/// What every node tells, by `cairn hotkeys`.
fn told(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = cli::done(cluster.cairn(&["hotkeys", "--output", "json"])?, BOUND)?;
    let document: Value = serde_json::from_str(&text).context("read what `hotkeys` prints")?;
    let nodes = document["nodes"].as_array().cloned().unwrap_or_default();
    ensure!(nodes.len() == cluster.data.len(), "{document}");
    Ok(nodes)
}

/// Every key that is hot somewhere.
fn hot(nodes: &[Value]) -> Vec<Value> {
    let keys = nodes.iter().filter_map(|node| node["keys"].as_array());
    keys.flatten().cloned().collect()
}

#[test]
fn keys_that_everybody_asks_for_are_named_and_forgotten() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 12,
        ..Spec::default()
    };
    let spec = spec.with("CAIRN_HOT_KEYS", "names");
    let mut cluster = Cluster::start(spec.with("CAIRN_KEY_RATE_MAX", RATE))?;
    // Its keys are told by their hashes.
    cluster.data[0].terminate(BOUND)?;
    cluster.data[0].set("CAIRN_HOT_KEYS", "hashes");
    cluster.data[0].start()?;
    cluster.await_ready()?;

    let stop = Arc::new(AtomicBool::new(false));
    let limited = Arc::new(AtomicU64::new(0));
    let (target, stopping) = (cluster.target(), Arc::clone(&stop));
    let refused = Arc::clone(&limited);
    let asking = thread::spawn(move || ask(&target, &stopping, &refused));
    let found = waiting::until_every(LOOK, "both keys to be hot", BOUND, || {
        let nodes = told(&cluster)?;
        let keys = hot(&nodes);
        let reads = |key: &Value| key["readsPerSecond"].as_f64().unwrap_or_default();
        let writes = |key: &Value| key["writesPerSecond"].as_f64().unwrap_or_default();
        let read = keys
            .iter()
            .any(|k| reads(k) > 10.0 * writes(k) && reads(k) > 20.0);
        let written = keys.iter().any(|k| writes(k) > 10.0 * reads(k));
        // What is refused is asked for all the same: the keys stay hot.
        let refused = limited.load(Ordering::Relaxed) > 100;
        Ok((read && written && refused).then_some(nodes))
    });
    stop.store(true, Ordering::Relaxed);
    asking.join().expect("no panic")?;
    let counted = cluster.data.iter();
    let counted = counted.map(|node| node.metric("cairn_requests_limited_total"));
    let counted: f64 = counted.sum::<Result<f64>>()?;
    let limited = limited.load(Ordering::Relaxed) as f64;
    ensure!(counted >= limited, "{counted} of {limited} were counted");
    for node in found? {
        let name = node["node"].as_str().context("a name")?.to_owned();
        for key in hot(std::slice::from_ref(&node)) {
            let shown = key["key"].as_str();
            if name == "data-0" {
                ensure!(shown.is_none(), "{name} tells names: {key}");
            } else {
                ensure!(
                    shown.is_some_and(|k| k.starts_with("hot:")),
                    "{name}: {key}"
                );
            }
            ensure!(
                key["share"].as_f64().is_some_and(|share| share > 0.05),
                "{key}"
            );
        }
    }
    let shown = cli::done(cluster.cairn(&["hotkeys"])?, BOUND)?;
    ensure!(
        shown.starts_with("KEY") || shown.starts_with("no key"),
        "{shown}"
    );
    waiting::until_every(LOOK, "everything to cool", BOUND, || {
        Ok(hot(&told(&cluster)?).is_empty().then_some(()))
    })?;
    let unknown = cluster.cairn(&["hotkeys", "--node", "data-9"])?.output()?;
    ensure!(unknown.status.code() == Some(1), "{unknown:?}");
    Ok(())
}

/// Reads one key as any replica may answer it, from several places, until told to stop.
async fn read_much(cluster: &[String], stop: Arc<AtomicBool>) -> Result<()> {
    let client = Client::connect(cluster.to_vec(), Options::default()).await?;
    let each = (0..4).map(|_| {
        let (client, stop) = (client.clone(), Arc::clone(&stop));
        async move {
            while !stop.load(Ordering::Relaxed) {
                client.get_with(READ, Consistency::Replica).await?;
            }
            Ok::<(), anyhow::Error>(())
        }
    });
    futures::future::try_join_all(each).await?;
    Ok(())
}

/// The copies for reads of the key's partition, by the node's place.
fn copies(cluster: &Cluster, client: &Client) -> Vec<usize> {
    let map = client.map();
    let record = map.partition_of_slot(slots::slot(READ.as_bytes()));
    let nodes = record.iter().flat_map(|r| &r.config.readers);
    let addresses = nodes.filter_map(|m| Some(&map.nodes.get(&m.node)?.addresses.client));
    addresses
        .filter_map(|at| cluster.data.iter().position(|n| n.client() == *at))
        .collect()
}

/// What a connection that reads from replicas is told of the key.
async fn readonly(address: &str) -> Result<Reply> {
    let mut connection = Connection::open(address, BOUND).await?;
    connection.call(&[b"READONLY"]).await?;
    connection.call(&[b"GET", READ.as_bytes()]).await
}

/// The bounds are low, so that a test reads enough.
#[test]
fn reads_that_stay_hot_are_answered_by_a_copy_that_goes_when_they_cool() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 4,
        partitions: 4,
        ..Spec::default()
    };
    let spec = spec
        .with("CAIRN_READ_COPIES_AT", 40)
        .with("CAIRN_READ_COPIES_AFTER_MS", 1_000)
        .with("CAIRN_READ_COPIES_KEEP_MS", 2_000);
    let cluster = Cluster::start(spec)?;
    status::await_healthy(&cluster)?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let addresses = cluster.client_addresses();
    let client = runtime.block_on(Client::connect(addresses.clone(), Options::default()))?;
    runtime.block_on(client.put(READ, "first"))?;

    let stop = Arc::new(AtomicBool::new(false));
    let stopping = Arc::clone(&stop);
    let reading = runtime.spawn(async move { read_much(&addresses, stopping).await });
    let at = waiting::until_every(LOOK, "a copy for reads", BOUND, || {
        Ok(copies(&cluster, &client).first().copied())
    })?;
    let node = &cluster.data[at];
    waiting::until_every(LOOK, "the copy to answer", BOUND, || {
        let reply = runtime.block_on(readonly(&node.resp()))?;
        Ok((reply.text().as_deref() == Some("first")).then_some(()))
    })?;
    // It answers for what was acknowledged before it was asked.
    for round in 0..20 {
        let value = format!("v{round}");
        runtime.block_on(client.put(READ, value.clone()))?;
        let reply = runtime.block_on(readonly(&node.resp()))?;
        ensure!(reply.text() == Some(value), "round {round}: {reply:?}");
    }
    let slots = runtime.block_on(async {
        let mut connection = Connection::open(&cluster.data[at].resp(), BOUND).await?;
        anyhow::Ok(connection.call(&[b"CLUSTER", b"SLOTS"]).await?)
    })?;
    let port = node
        .resp()
        .rsplit(':')
        .next()
        .unwrap_or_default()
        .to_owned();
    ensure!(
        format!("{slots:?}").matches(&port).count() >= 3,
        "it leads, follows or serves three partitions or more of four: {slots:?}"
    );
    let shown = cli::done(cluster.cairn(&["partitions", "--load"])?, BOUND)?;
    ensure!(shown.contains(&format!("{} (reads)", node.name)), "{shown}");
    status::await_healthy(&cluster)?;

    stop.store(true, Ordering::Relaxed);
    runtime.block_on(reading)??;
    waiting::until_every(LOOK, "the copy to go", BOUND, || {
        Ok(copies(&cluster, &client).is_empty().then_some(()))
    })?;
    waiting::until_every(LOOK, "the node to point elsewhere", BOUND, || {
        let reply = runtime.block_on(readonly(&node.resp()))?;
        Ok(matches!(&reply, Reply::Error(error) if error.starts_with("MOVED")).then_some(()))
    })
}
