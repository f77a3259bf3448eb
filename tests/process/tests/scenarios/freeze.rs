//! A primary that stands still past its lease and wakes up.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::resp::{ClusterClient, Connection, Patience, Reply, Routes};
use cairn_process_tests::{seed, slot_keys, waiting};
use rand::Rng;

use crate::kills::led_by;

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
            let words: [&[u8]; 3] = [b"SET", key.as_bytes(), new.as_bytes()];
            waiting::until("a write by the new primary", patience.request * 10, || {
                let reply = runtime.block_on(client.call(key, &words))?;
                Ok((reply == Reply::Simple("OK".to_owned())).then_some(()))
            })?;
        }
        for (key, connection) in &mut asked {
            runtime.block_on(async {
                connection.send(&[b"GET", key.as_bytes()]).await?;
                connection
                    .send(&[b"SET", key.as_bytes(), b"from the past"])
                    .await?;
                connection
                    .send(&[b"INCR", format!("{{{key}}}:counter").as_bytes()])
                    .await
            })?;
        }
        cluster.data[victim].thaw()?;
        for (key, mut connection) in asked {
            let mut receive = || -> Result<Reply> {
                runtime.block_on(async {
                    tokio::time::timeout(patience.request * 10, connection.receive()).await?
                })
            };
            for what in ["GET", "SET", "INCR"] {
                let reply = receive().with_context(|| format!("{what} {key} after it woke"))?;
                let harmless = match &reply {
                    Reply::Error(_) => true,
                    Reply::Bulk(Some(value)) => what == "GET" && value == new.as_bytes(),
                    _ => false,
                };
                ensure!(
                    harmless,
                    "{what} {key} was answered {reply:?} by a primary that slept"
                );
            }
        }
        // What it was told to write is nowhere.
        for &partition in &led {
            let key = &keys[partition as usize];
            let words: [&[u8]; 2] = [b"GET", key.as_bytes()];
            let reply = waiting::until("a read", patience.request * 10, || {
                Ok(Some(runtime.block_on(client.call(key, &words))?))
            })?;
            ensure!(
                reply == Reply::Bulk(Some(new.clone().into_bytes())),
                "{key} is {reply:?}"
            );
        }
        cluster.await_ready()?;
        load.await_every_partition()?;
    }
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}
