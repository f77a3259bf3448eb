//! Scans and watches while data nodes are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use cairn_client::{
    Client, KeyEvent, KeyFilter, Options, PutOptions, ScanOptions, Watch, WatchOptions, WatchToken,
    WriteLevel,
};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::{seed, slot_keys};
use rand::Rng;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PARTITIONS: u32 = 16;

fn spec() -> Spec {
    Spec {
        coordinators: 3,
        data_nodes: 4,
        partitions: PARTITIONS,
        ..Spec::default()
    }
}

fn runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    Ok(builder.worker_threads(2).enable_all().build()?)
}

async fn connect(cluster: &Cluster) -> Result<Client> {
    // So patient that every outcome is found out.
    let options = Options {
        deadline: BOUND * 2,
        ..Options::default()
    };
    Ok(Client::connect(cluster.client_addresses(), options).await?)
}

/// What a watcher saw of counters that are only ever incremented.
#[derive(Default)]
struct Seen {
    last: BTreeMap<String, u64>,
    events: u64,
}

impl Seen {
    /// Each counter goes up by one with each event: none is missing, and none comes twice.
    fn take(&mut self, event: &KeyEvent) -> Result<()> {
        let KeyEvent::Put { key, value } = event else {
            anyhow::bail!("nothing was deleted: {event:?}");
        };
        let key = String::from_utf8(key.to_vec())?;
        let number: u64 = std::str::from_utf8(&value.data)?.parse()?;
        let last = self.last.entry(key.clone()).or_default();
        ensure!(
            number == *last + 1,
            "{key} went from {last} to {number}, at {}",
            value.version
        );
        *last = number;
        self.events += 1;
        Ok(())
    }
}

/// Increments counters until it is told to stop; how often each was.
fn increment(
    client: Client,
    keys: Vec<String>,
    stop: Arc<AtomicBool>,
) -> JoinHandle<Result<BTreeMap<String, u64>>> {
    tokio::spawn(async move {
        let mut sums = BTreeMap::new();
        while !stop.load(Ordering::Relaxed) {
            for key in &keys {
                let sum = client.increment(key.clone(), 1).await?;
                sums.insert(key.clone(), u64::try_from(sum)?);
            }
        }
        Ok(sums)
    })
}

fn partition_of(key: &str) -> u32 {
    slot_keys::partition_of(key, PARTITIONS)
}

async fn next(watch: &mut Watch) -> Result<KeyEvent> {
    let event = timeout(BOUND, watch.next()).await;
    Ok(event.context("an event comes")??)
}

/// A client each, so that what one caches is nothing to the other.
async fn writer_and_watcher(cluster: &Cluster) -> Result<(Client, Client)> {
    Ok((connect(cluster).await?, connect(cluster).await?))
}

#[test]
fn a_watch_of_all_partitions_loses_and_repeats_nothing_while_data_nodes_are_killed() -> Result<()> {
    let (_, mut rng) = seed::draw("watch");
    let mut cluster = Cluster::start(spec())?;
    let runtime = runtime()?;
    let (writer, watcher) = runtime.block_on(writer_and_watcher(&cluster))?;
    let filter = KeyFilter::Prefix("watched:".into());
    let watching = watcher.watch(filter.clone(), WatchOptions::default());
    let mut watch = runtime.block_on(watching)?;
    let stop = Arc::new(AtomicBool::new(false));
    let keys = slot_keys::one_per_partition("watched:", PARTITIONS);
    let writers: Vec<_> = {
        let _inside = runtime.enter();
        let halves = keys.chunks(keys.len().div_ceil(4));
        let stop = || Arc::clone(&stop);
        halves
            .map(|keys| increment(writer.clone(), keys.to_vec(), stop()))
            .collect()
    };
    let mut seen = Seen::default();
    let read = |watch: &mut Watch, seen: &mut Seen, count: u64| -> Result<()> {
        let enough = seen.events + count;
        runtime.block_on(async {
            while seen.events < enough {
                seen.take(&next(watch).await?)?;
            }
            Ok(())
        })
    };
    for kill in 0..4 {
        read(&mut watch, &mut seen, 300)?;
        let victim = rng.random_range(0..cluster.data.len());
        cluster.data[victim].kill()?;
        println!("kill {kill}: {}", cluster.data[victim].name);
        read(&mut watch, &mut seen, 300)?;
        if kill % 2 == 1 {
            // Another watcher takes over, with the token as it is printed.
            let token = watch.token().to_string();
            drop(watch);
            let options = WatchOptions {
                from: Some(token.parse::<WatchToken>()?),
                ..WatchOptions::default()
            };
            watch = runtime.block_on(watcher.watch(filter.clone(), options))?;
        }
        cluster.data[victim].start()?;
        cluster.await_ready()?;
    }
    stop.store(true, Ordering::Relaxed);
    let mut sums = BTreeMap::new();
    for writer in writers {
        sums.extend(runtime.block_on(writer)??);
    }
    runtime.block_on(read_up_to(&mut watch, &mut seen, &sums))?;
    println!("{} events, each once", seen.events);

    // A token of a line that no log ever had.
    let stray = WatchOptions {
        from: Some(format!("{}:1/999999999", partition_of(&keys[3])).parse()?),
        ..WatchOptions::default()
    };
    let one = KeyFilter::Key(keys[3].clone().into());
    let refused = runtime.block_on(async {
        let mut watch = watcher.watch(one, stray).await?;
        next(&mut watch).await
    });
    let refused = refused.err().context("it is refused")?;
    ensure!(
        matches!(
            refused.downcast_ref(),
            Some(cairn_client::Error::Compacted { .. })
        ),
        "{refused:#}"
    );
    cluster.check_running()
}

/// Reads until the counters have come as far as they were incremented.
async fn read_up_to(
    watch: &mut Watch,
    seen: &mut Seen,
    sums: &BTreeMap<String, u64>,
) -> Result<()> {
    while seen.last != *sums {
        seen.take(&next(watch).await?)?;
    }
    Ok(())
}

#[test]
fn a_token_that_only_the_disks_hold_is_good_after_every_node_was_restarted() -> Result<()> {
    // Little log in memory; on disk, all of it. Memory holds what follows the last filling
    // but one: a node whose memory holds less than what another missed while it was down
    // sends it a snapshot when it becomes primary, and the history of that one ends there.
    let spec = Spec {
        data_nodes: 3,
        ..spec()
    }
    .with("CAIRN_LOG_MEMORY_BYTES", "4MiB")
    .with("CAIRN_MAX_VALUE_BYTES", "1MiB")
    .with("CAIRN_WAL_SEGMENT_BYTES", "2MiB")
    .with("CAIRN_WAL_KEEP_BYTES", "256MiB");
    let mut cluster = Cluster::start(spec)?;
    old_token(&mut cluster).with_context(|| {
        // Which history was missing, and whether a copy took its place.
        let telling = ["a watcher", "snapshot"];
        let logs = cluster
            .data
            .iter()
            .map(|node| (&node.name, node.log_text()));
        let said = logs.flat_map(|(name, text)| {
            let lines = text.lines();
            let told = lines.filter(|line| telling.iter().any(|part| line.contains(part)));
            told.map(|line| format!("{name}: {line}"))
                .collect::<Vec<_>>()
        });
        said.collect::<Vec<_>>().join("\n")
    })
}

fn old_token(cluster: &mut Cluster) -> Result<()> {
    const FILLING: usize = 64 << 10;
    let (_, mut rng) = seed::draw("old token");
    let runtime = runtime()?;
    let (writer, watcher) = runtime.block_on(writer_and_watcher(cluster))?;
    let filter = KeyFilter::Prefix("watched:".into());
    let watching = watcher.watch(filter.clone(), WatchOptions::default());
    let mut watch = runtime.block_on(watching)?;
    let old = watch.token();
    let stop = Arc::new(AtomicBool::new(false));
    let keys = slot_keys::one_per_partition("watched:", PARTITIONS);
    let counting = {
        let _inside = runtime.enter();
        increment(writer.clone(), keys, Arc::clone(&stop))
    };
    let mut seen = Seen::default();
    let filling = slot_keys::one_per_partition("filling:", PARTITIONS);
    // Nobody may be so far behind that it is sent a snapshot: its disk would lack what
    // stood before that.
    let mut fill = || -> Result<()> {
        let value = vec![rng.random::<u8>(); FILLING];
        let options = PutOptions {
            write_level: Some(WriteLevel::All),
            ..PutOptions::default()
        };
        runtime.block_on(async {
            for key in filling.iter().chain(&filling) {
                let (key, value) = (key.clone(), value.clone());
                writer.put_with(key, value, options).await?;
            }
            Ok(())
        })
    };
    let read = |watch: &mut Watch, seen: &mut Seen| -> Result<()> {
        let enough = seen.events + 100;
        runtime.block_on(async {
            while seen.events < enough {
                seen.take(&next(watch).await?)?;
            }
            Ok(())
        })
    };
    // One by one, told to or not; then all of them at once.
    for victim in 0..cluster.data.len() {
        fill()?;
        read(&mut watch, &mut seen)?;
        if victim == 0 {
            cluster.data[victim].terminate(BOUND)?;
        } else {
            cluster.data[victim].kill()?;
        }
        read(&mut watch, &mut seen)?;
        cluster.data[victim].start()?;
        cluster.await_ready()?;
    }
    cluster.kill_all()?;
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    fill()?;
    read(&mut watch, &mut seen)?;
    stop.store(true, Ordering::Relaxed);
    let sums = runtime.block_on(counting)??;
    runtime.block_on(read_up_to(&mut watch, &mut seen, &sums))?;
    println!("{} events, each once", seen.events);

    let from_disk = |cluster: &Cluster| -> Result<f64> {
        let name = r#"cairn_watch_batches_total{source="disk"}"#;
        cluster.data.iter().map(|node| node.metric(name)).sum()
    };
    let before = from_disk(cluster)?;
    let options = WatchOptions {
        from: Some(old.to_string().parse()?),
        ..WatchOptions::default()
    };
    let mut again = runtime.block_on(watcher.watch(filter, options))?;
    let mut anew = Seen::default();
    runtime.block_on(read_up_to(&mut again, &mut anew, &sums))?;
    ensure!(
        anew.events == seen.events,
        "{} events, then {}",
        seen.events,
        anew.events
    );
    let batches = from_disk(cluster)? - before;
    println!("{batches} batches from disk");
    ensure!(
        batches >= f64::from(PARTITIONS),
        "{batches} batches came from disk: memory held the rest"
    );
    cluster.check_running()
}

#[test]
fn scans_give_every_key_once_and_dbsize_counts_them_while_data_nodes_are_killed() -> Result<()> {
    let (_, mut rng) = seed::draw("scan");
    let mut cluster = Cluster::start(spec())?;
    let runtime = runtime()?;
    let client = runtime.block_on(connect(&cluster))?;
    let names: BTreeSet<String> = (0..2000).map(|n| format!("scanned:{n}")).collect();
    runtime.block_on(async {
        let puts = names.iter().map(|name| client.put(name.clone(), "value"));
        // All at once: the client bounds what is in flight.
        for put in futures::future::join_all(puts).await {
            put?;
        }
        Ok::<_, anyhow::Error>(())
    })?;

    // The Rust client, a kill in the middle.
    let mut scan = client.scan(ScanOptions {
        prefix: "scanned:".into(),
        page: 40,
        ..ScanOptions::default()
    });
    let mut given = Vec::new();
    let mut killed = None;
    while let Some(row) = runtime.block_on(scan.next())? {
        ensure!(row.value.data == "value", "{row:?}");
        given.push(String::from_utf8(row.key.to_vec())?);
        if given.len() == 700 {
            let victim = rng.random_range(0..cluster.data.len());
            cluster.data[victim].kill()?;
            killed = Some(victim);
        }
    }
    ensure!(
        given.len() == names.len() && given.iter().cloned().collect::<BTreeSet<_>>() == names,
        "{} of {} keys",
        given.len(),
        names.len()
    );
    let killed = killed.context("a node was killed")?;
    cluster.await_serving()?;

    // Each partition is counted by the one node that is its primary now, the key of the
    // probe included.
    let addresses: Vec<String> = cluster
        .data
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != killed)
        .map(|(_, node)| node.resp())
        .collect();
    let total = addresses.iter().try_fold(0, |total, address| {
        match runtime.block_on(call(address, &["DBSIZE"]))? {
            Reply::Integer(keys) => Ok(total + keys),
            other => anyhow::bail!("DBSIZE: {other:?}"),
        }
    })?;
    ensure!(
        total == i64::try_from(names.len())? + i64::from(PARTITIONS),
        "DBSIZE counts {total}"
    );

    // `SCAN` on every node; then the cursor of a node that dies goes on at the others.
    let mut found = BTreeSet::new();
    for address in &addresses {
        found.extend(runtime.block_on(scan_all(address, "0"))?);
    }
    ensure!(found == names, "{} of {}", found.len(), names.len());
    let (first, rest) = addresses.split_first().context("some nodes live")?;
    cluster.data[killed].start()?;
    cluster.await_ready()?;
    let whole = runtime.block_on(scan_all(first, "0"))?;
    let (cursor, mut found) = runtime.block_on(scan_page(first, "0"))?;
    ensure!(cursor != "0", "one page is not all");
    cluster.data_at(first)?.kill()?;
    cluster.await_serving()?;
    let again = cluster.data[killed].resp();
    for address in rest.iter().chain([&again]) {
        found.extend(runtime.block_on(scan_all(address, &cursor))?);
    }
    let missing: Vec<_> = whole.difference(&found).collect();
    ensure!(missing.is_empty(), "{missing:?} were never returned");
    Ok(())
}

async fn call(address: &str, words: &[&str]) -> Result<Reply> {
    let mut connection = Connection::open(address, BOUND).await?;
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    connection.call(&words).await
}

/// One page of the test's keys: the next cursor, and the keys.
async fn scan_page(address: &str, cursor: &str) -> Result<(String, BTreeSet<String>)> {
    let words = ["SCAN", cursor, "MATCH", "scanned:*", "COUNT", "100"];
    let reply = call(address, &words).await?;
    let Reply::Array(parts) = reply else {
        anyhow::bail!("SCAN: {reply:?}");
    };
    let [cursor, Reply::Array(keys)] = &parts[..] else {
        anyhow::bail!("SCAN: {parts:?}");
    };
    let keys = keys.iter().map(|key| key.text().context("a key"));
    Ok((
        cursor.text().context("a cursor")?,
        keys.collect::<Result<_>>()?,
    ))
}

/// From a cursor to the end.
async fn scan_all(address: &str, cursor: &str) -> Result<BTreeSet<String>> {
    let (mut cursor, mut found, mut pages) = (cursor.to_owned(), BTreeSet::new(), 0);
    loop {
        let (next, keys) = scan_page(address, &cursor).await?;
        found.extend(keys);
        pages += 1;
        if next == "0" {
            return Ok(found);
        }
        ensure!(pages < 10_000, "the walk does not end");
        cursor = next;
    }
}
