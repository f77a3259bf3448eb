//! Clients that keep what they read are told of every change, whatever happens to the node
//! that they read from.

use std::collections::BTreeMap;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_client::{Client, NearCacheOptions, Options};
use cairn_process_tests::cli;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{ClusterClient, Patience, Routes, slots_of};
use cairn_process_tests::resp3::Keeper;
use cairn_process_tests::{slot_keys, waiting};
use tokio::runtime::{self, Runtime};

use crate::freeze::write;

const PARTITIONS: u32 = 6;
/// How old a value may be that is to be from after a write.
const YOUNG: Duration = Duration::from_millis(300);

struct Stage {
    cluster: Cluster,
    runtime: Runtime,
    writer: ClusterClient,
    keeper: Keeper,
    keys: Vec<String>,
}

impl Stage {
    /// The primary of each key, as a node tells that is asked.
    fn primaries(&self, ask: usize) -> Result<BTreeMap<String, String>> {
        let ask = self.cluster.data[ask].resp();
        let ranges = self.runtime.block_on(slots_of(&ask, BOUND))?;
        let primary = |key: &String| {
            let slot = cairn_core::slots::slot(key.as_bytes());
            let mut ranges = ranges.iter();
            let of = ranges.find(|(first, last, _)| (*first..=*last).contains(&slot))?;
            Some((key.clone(), of.2.clone()))
        };
        Ok(self.keys.iter().filter_map(primary).collect())
    }

    fn write_all(&mut self, value: &str) -> Result<()> {
        for key in &self.keys {
            write(&self.runtime, &mut self.writer, key, value)?;
        }
        Ok(())
    }

    /// Reads every key from its primary, and keeps it; again where a hand-over, by which
    /// primaries are evened out, took one back meanwhile.
    fn keep_all(&mut self, ask: usize, value: &str) -> Result<()> {
        waiting::until("all to be kept", BOUND, || {
            for key in self.keys.clone() {
                let read = waiting::until("a read that is kept", BOUND, || {
                    self.keeper.listen()?;
                    let primaries = self.primaries(ask)?;
                    let node = primaries.get(&key).context("a primary")?;
                    self.keeper.read(node, &key).map(Some)
                })?;
                ensure!(read == value.as_bytes(), "{key}: {read:?}, not {value}");
            }
            Ok((self.kept() == self.keys.len()).then_some(()))
        })
    }

    /// Waits until nothing of some node, or at all, is kept that is not `value`.
    fn await_told(&mut self, what: &str, of: Option<&str>, value: &str) -> Result<()> {
        waiting::until(what, BOUND, || {
            self.keeper.listen()?;
            let old = self.keys.iter().find(|key| {
                let kept = self.keeper.kept(key);
                kept.is_some_and(|(node, kept)| {
                    of.is_none_or(|of| of == node) && kept != value.as_bytes()
                })
            });
            Ok(old.is_none().then_some(()))
        })
    }

    /// Reads every key with the Rust client until it answers all of them from its cache, with
    /// `value`.
    fn await_near(&self, client: &Client, max_age: Duration, value: &str) -> Result<()> {
        waiting::until("a near cache that has all", BOUND, || {
            for key in &self.keys {
                let hits = client.stats().near_hits;
                let reading = client.get_within(key.clone(), max_age);
                let found = self.runtime.block_on(reading)?.value.context("a value")?;
                if found.data != value || client.stats().near_hits == hits {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
    }

    fn kept(&self) -> usize {
        let kept = self.keys.iter().filter(|k| self.keeper.kept(k).is_some());
        kept.count()
    }
}

#[test]
fn what_a_client_keeps_is_never_old_for_good() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: PARTITIONS,
        ..Spec::default()
    };
    let cluster = Cluster::start(spec)?;
    let mut stage = Stage {
        runtime: runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?,
        writer: ClusterClient::new(Routes::new(cluster.resp()), Patience::default()),
        keeper: Keeper::new(&[], BOUND),
        keys: slot_keys::one_per_partition("kept:", PARTITIONS),
        cluster,
    };

    // Another client's write.
    stage.write_all("one")?;
    stage.keep_all(0, "one")?;
    stage.write_all("two")?;
    stage.await_told("the writes of another client", None, "two")?;
    stage.keep_all(0, "two")?;

    // The Rust client's own cache, of a read that may be older than any of this takes.
    let options = Options {
        near_cache: Some(NearCacheOptions::default()),
        ..Options::default()
    };
    let addresses = stage.cluster.client_addresses();
    let near = stage
        .runtime
        .block_on(Client::connect(addresses, options))?;
    let old = Duration::from_secs(600);
    stage.await_near(&near, old, "two")?;
    stage.write_all("two and a half")?;
    stage.await_near(&near, old, "two and a half")?;
    stage.keep_all(0, "two and a half")?;

    // A node that sleeps past its lease tells once it wakes: others have written meanwhile.
    let primaries = stage.primaries(1)?;
    let asleep = stage.cluster.data[0].resp();
    let count = primaries.values().filter(|node| **node == asleep).count();
    ensure!(count > 0, "{asleep} is primary of nothing");
    stage.cluster.data[0].freeze()?;
    stage.write_all("three")?;
    // What may be this old was the newest after the writes were acknowledged.
    let written = Instant::now();
    while written.elapsed() < YOUNG {
        std::thread::park_timeout(YOUNG / 10);
    }
    for key in &stage.keys {
        let read = stage
            .runtime
            .block_on(near.get_within(key.clone(), YOUNG))?;
        let value = read.value.context("a value")?;
        ensure!(
            value.data == "three",
            "{key}: {value:?}, {:?} old",
            read.age
        );
        ensure!(read.age <= YOUNG);
    }
    stage.cluster.data[0].thaw()?;
    stage.await_near(&near, old, "three")?;
    stage.await_told("a node that slept", None, "three")?;
    stage.keep_all(1, "three")?;

    // A node that hands over tells, though nothing was written: from then on it would not
    // know of all changes.
    let leaving = stage.cluster.data[1].resp();
    let name = stage.cluster.data[1].name.clone();
    stage.cluster.await_ready()?;
    let words = ["nodes", "handover", &name, "--for", "60", "--wait"];
    cli::done(stage.cluster.cairn(&words)?, BOUND)?;
    stage.await_told("a node that handed over", Some(&leaving), "nothing")?;
    stage.keep_all(0, "three")?;

    // A key that expires.
    let key = stage.keys[0].clone();
    let words: [&[u8]; 5] = [b"SET", key.as_bytes(), b"soon gone", b"PX", b"500"];
    stage
        .runtime
        .block_on(stage.writer.call(&key, &words))
        .context("SET PX")?;
    let node = stage.primaries(0)?[&key].clone();
    stage.keeper.listen()?;
    // On a slow machine it may be gone already.
    if stage.keeper.read(&node, &key).is_ok() {
        stage.await_told("an expiry", Some(&node), "three")?;
    }

    let node = &stage.cluster.data[1];
    let told = |why| node.metric_with("cairn_invalidations_total", &[&format!("reason=\"{why}\"")]);
    println!(
        "told of {} changes, of {} unseen",
        told("changed")?,
        told("unseen")?
    );
    ensure!(told("unseen")? > 0.0);
    stage.cluster.check_running()?;
    Ok(())
}
