//! A primary that stands still past its lease and wakes up.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::resp::{ClusterClient, Connection, Patience, Reply, Routes};
use cairn_process_tests::{seed, slot_keys, waiting};
use rand::Rng;
use tokio::runtime::Runtime;

use crate::kills::led_by;

/// How long an answer may take that comes in the end.
const PATIENCE: Duration = Duration::from_secs(15);

/// Asks a node that was the primary of a key for what it may no longer answer.
pub(crate) async fn ask_for_the_past(connection: &mut Connection, key: &str) -> Result<()> {
    connection.send(&[b"GET", key.as_bytes()]).await?;
    connection
        .send(&[b"SET", key.as_bytes(), b"from the past"])
        .await?;
    connection
        .send(&[b"INCR", format!("{{{key}}}:counter").as_bytes()])
        .await
}

/// Checks what it answers: errors, or the value that was written in its absence.
pub(crate) async fn answers_harmlessly(
    connection: &mut Connection,
    key: &str,
    new: &str,
) -> Result<()> {
    for what in ["GET", "SET", "INCR"] {
        let reply = tokio::time::timeout(PATIENCE, connection.receive()).await;
        let reply = reply
            .map_err(anyhow::Error::from)
            .flatten()
            .with_context(|| format!("{what} {key} of a former primary"))?;
        let harmless = match &reply {
            Reply::Error(_) => true,
            Reply::Bulk(Some(value)) => what == "GET" && value == new.as_bytes(),
            _ => false,
        };
        ensure!(
            harmless,
            "{what} {key} was answered {reply:?} by a former primary"
        );
    }
    Ok(())
}

/// Writes through whoever leads now.
pub(crate) fn write(
    runtime: &Runtime,
    client: &mut ClusterClient,
    key: &str,
    value: &str,
) -> Result<()> {
    let words: [&[u8]; 3] = [b"SET", key.as_bytes(), value.as_bytes()];
    waiting::until("a write by the new primary", PATIENCE, || {
        let reply = runtime.block_on(client.call(key, &words))?;
        Ok((reply == Reply::Simple("OK".to_owned())).then_some(()))
    })
}

/// Checks that a key has the value that was last written through [`write`].
pub(crate) fn is_still(
    runtime: &Runtime,
    client: &mut ClusterClient,
    key: &str,
    value: &str,
) -> Result<()> {
    let words: [&[u8]; 2] = [b"GET", key.as_bytes()];
    let reply = waiting::until("a read", PATIENCE, || {
        Ok(Some(runtime.block_on(client.call(key, &words))?))
    })?;
    ensure!(
        reply == Reply::Bulk(Some(value.as_bytes().to_vec())),
        "{key} is {reply:?}"
    );
    Ok(())
}

#[test]
fn a_primary_that_slept_past_its_lease_serves_nothing_stale_and_acknowledges_nothing() -> Result<()>
{
    let (seed, mut rng) = seed::draw("frozen primary");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let patience = Patience::default();
    let keys = slot_keys::one_per_partition("frozen:", cluster.partitions());
    let mut client = ClusterClient::new(Routes::new(cluster.resp()), patience);
    for round in 0..3 {
        let victim = rng.random_range(0..cluster.data.len());
        let other = (victim + 1) % cluster.data.len();
        let address: Arc<str> = cluster.data[victim].resp().into();
        let led = led_by(&cluster, &address, &cluster.data[other].resp())?;
        println!(
            "round {round}: freezing {}, primary of {}",
            cluster.data[victim].name,
            led.len()
        );

        // Connections that are open before it freezes: the kernel takes requests on
        // them while the process stands still.
        let mut asked = Vec::new();
        for &partition in &led {
            let key = keys[partition as usize].clone();
            let open = Connection::open(&address, patience.connect);
            asked.push((key, runtime.block_on(open)?));
        }
        cluster.data[victim].freeze()?;
        load.await_every_partition().context("while it is frozen")?;

        // New values, through whoever leads now; only then ask the one that sleeps.
        let new = format!("new-{round}");
        for (key, _) in &asked {
            write(&runtime, &mut client, key, &new)?;
        }
        for (key, connection) in &mut asked {
            runtime.block_on(ask_for_the_past(connection, key))?;
        }
        cluster.data[victim].thaw()?;
        for (key, connection) in &mut asked {
            runtime.block_on(answers_harmlessly(connection, key, &new))?;
        }
        // What it was told to write is nowhere.
        for (key, _) in &asked {
            is_still(&runtime, &mut client, key, &new)?;
        }
        cluster.await_ready()?;
        load.await_every_partition()?;
    }
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}
