//! Striped counters: whoever adds, wherever, while stripes' primaries are killed, the counter
//! is spread over more stripes and fewer, and put together again, the sum is what was
//! acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_client::{Client, Consistency, Error, Options, PutOptions, WriteLevel};
use cairn_process_tests::cli;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::waiting;
use tokio::runtime::Runtime;

const KEY: &str = "views:home";
/// How many threads add through each node, beside two native clients.
const PER_NODE: usize = 2;

/// What became of additions.
#[derive(Debug, Default)]
struct Added {
    /// Acknowledged, each of one.
    sure: AtomicI64,
    /// Not answered, or with an unknown outcome.
    unsure: AtomicI64,
    refused: AtomicU64,
    /// The key is to have no stripes, or may be known to have none yet.
    given_up: AtomicBool,
}

impl Added {
    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
}

struct Adders {
    stop: Arc<AtomicBool>,
    added: Arc<Added>,
    threads: Vec<JoinHandle<Result<()>>>,
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

/// Adds ones through one node, whoever is primary of what.
fn add_by_redis(address: &str, stop: &AtomicBool, added: &Added) -> Result<()> {
    runtime()?.block_on(async {
        let mut connection = None;
        while !stop.load(Ordering::Relaxed) {
            let open = match connection.as_mut() {
                Some(open) => open,
                None => match Connection::open(address, BOUND).await {
                    Ok(open) => connection.insert(open),
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        continue;
                    }
                },
            };
            match open.call(&[b"INCRBY", KEY.as_bytes(), b"1"]).await {
                Ok(Reply::Integer(_)) => added.sure.fetch_add(1, Ordering::Relaxed),
                Ok(Reply::Error(error)) if error.starts_with("UNKNOWN") => {
                    added.unsure.fetch_add(1, Ordering::Relaxed)
                }
                // Without stripes it is a key like any other, which one node answers for.
                Ok(Reply::Error(error)) => {
                    let moves = error.starts_with("MOVED") && added.is_given_up();
                    ensure!(
                        moves || error.starts_with("TRYAGAIN") || error.starts_with("CLUSTERDOWN"),
                        "{address}: {error}"
                    );
                    added.refused.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                Ok(other) => anyhow::bail!("{address}: {other:?}"),
                Err(_) => {
                    connection = None;
                    added.unsure.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
        Ok(())
    })
}

/// Adds ones by the native client.
fn add_by_client(addresses: Vec<String>, stop: &AtomicBool, added: &Added) -> Result<()> {
    runtime()?.block_on(async {
        let client = Client::connect(addresses, Options::default()).await?;
        while !stop.load(Ordering::Relaxed) {
            match client.increment(KEY, 1).await {
                Ok(_) => added.sure.fetch_add(1, Ordering::Relaxed),
                Err(Error::OutcomeUnknown { .. }) => added.unsure.fetch_add(1, Ordering::Relaxed),
                Err(Error::Unavailable { .. }) => {
                    added.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(())
    })
}

impl Adders {
    fn start(cluster: &Cluster) -> Self {
        let (stop, added) = (Arc::new(AtomicBool::new(false)), Arc::<Added>::default());
        let mut threads = Vec::new();
        for address in cluster.resp() {
            for _ in 0..PER_NODE {
                let (stop, added) = (Arc::clone(&stop), Arc::clone(&added));
                let address = address.clone();
                threads.push(thread::spawn(move || add_by_redis(&address, &stop, &added)));
            }
        }
        for _ in 0..2 {
            let (stop, added) = (Arc::clone(&stop), Arc::clone(&added));
            let addresses = cluster.client_addresses();
            threads.push(thread::spawn(move || {
                add_by_client(addresses, &stop, &added)
            }));
        }
        Self {
            stop,
            added,
            threads,
        }
    }

    /// Waits until so many more were acknowledged.
    fn await_more(&mut self, more: i64) -> Result<()> {
        let before = self.added.sure.load(Ordering::Relaxed);
        waiting::until("more additions to be acknowledged", BOUND, || {
            let now = self.added.sure.load(Ordering::Relaxed);
            let ended = self.threads.iter().any(JoinHandle::is_finished);
            Ok((ended || now - before >= more).then_some(()))
        })?;
        match self.threads.iter().position(JoinHandle::is_finished) {
            Some(ended) => self.threads.remove(ended).join().expect("no panic"),
            None => Ok(()),
        }
    }

    fn stop(self) -> Result<Arc<Added>> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("no panic")?;
        }
        Ok(self.added)
    }
}

fn set_counters(cluster: &Cluster, counters: &str) -> Result<()> {
    let assigned = format!("counters={counters}");
    cli::done(cluster.cairn(&["cluster", "set", &assigned])?, BOUND)?;
    Ok(())
}

/// What a node says a key is.
async fn ask(connection: &mut Connection, words: &[&[u8]]) -> Result<String> {
    let reply = connection.call(words).await?;
    reply
        .text()
        .with_context(|| format!("{words:?}: {reply:?}"))
}

/// What the counter is, as the cluster has counted it, and over how many stripes it is spread.
async fn counted(client: &Client) -> Result<(String, Option<u16>)> {
    let value = client.get_with(KEY, Consistency::Any).await?;
    let value = value.context("there is no counter")?;
    let stripes = value.counter.map(|control| control.stripes);
    Ok((String::from_utf8_lossy(&value.data).into_owned(), stripes))
}

#[test]
fn a_counter_adds_up_through_kills_and_other_numbers_of_stripes() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    };
    let mut cluster = Cluster::start(spec.with("CAIRN_COUNTERS", "views:=8"))?;
    cluster.await_ready()?;
    let mut adders = Adders::start(&cluster);
    adders.await_more(500)?;
    for counters in ["views:=16", "views:=3"] {
        set_counters(&cluster, counters)?;
        adders.await_more(300)?;
        let victim = cluster.data.len() - 1;
        cluster.data[victim].kill()?;
        adders.await_more(200)?;
        cluster.data[victim].start()?;
        cluster.await_ready()?;
        adders.await_more(300)?;
    }
    adders.added.given_up.store(true, Ordering::Relaxed);
    set_counters(&cluster, "views:=0")?;
    adders.await_more(300)?;
    set_counters(&cluster, "views:=4")?;
    adders.await_more(300)?;
    let added = adders.stop()?;

    let (sure, unsure) = (
        added.sure.load(Ordering::Relaxed),
        added.unsure.load(Ordering::Relaxed),
    );
    println!(
        "{sure} additions acknowledged, {unsure} with an unknown outcome, {} refused",
        added.refused.load(Ordering::Relaxed)
    );
    runtime()?.block_on(async {
        let client = Client::connect(cluster.client_addresses(), Options::default()).await?;
        let value = client.get(KEY).await?.context("there is no counter")?;
        let sum: i64 = String::from_utf8_lossy(&value.data).parse()?;
        ensure!(
            (sure..=sure + unsure).contains(&sum),
            "the counter is {sum}, and {sure} to {} were added",
            sure + unsure
        );
        // Every node says the same, and that is what the key itself comes to be told.
        for address in cluster.resp() {
            let mut connection = Connection::open(&address, BOUND).await?;
            let told = ask(&mut connection, &[b"GET", KEY.as_bytes()]).await?;
            ensure!(told == sum.to_string(), "{address} says {told}, not {sum}");
        }
        let began = std::time::Instant::now();
        while counted(&client).await? != (sum.to_string(), Some(4)) {
            ensure!(
                began.elapsed() < BOUND,
                "it is never added up: {:?}",
                counted(&client).await?
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        set_delete_and_expire(&cluster, &client, sum).await
    })
}

/// The other commands, at the node that leads the key.
async fn set_delete_and_expire(cluster: &Cluster, client: &Client, sum: i64) -> Result<()> {
    let key = KEY.as_bytes();
    let mut leader = None;
    for address in cluster.resp() {
        let mut connection = Connection::open(&address, BOUND).await?;
        // Only the key's primary says what cannot be done to it.
        let reply = connection.call(&[b"APPEND", key, b"1"]).await?;
        match &reply {
            Reply::Error(error) if error.starts_with("WRONGTYPE") => leader = Some(connection),
            Reply::Error(error) => ensure!(error.starts_with("MOVED"), "{error}"),
            other => anyhow::bail!("{other:?}"),
        }
    }
    let mut at = leader.context("no node leads the key")?;
    ensure!(ask(&mut at, &[b"SET", key, b"100", b"GET"]).await? == sum.to_string());
    ensure!(ask(&mut at, &[b"GET", key]).await? == "100");
    // A pipeline keeps its order.
    for words in [
        &[b"INCRBY".as_slice(), key, b"5"] as &[&[u8]],
        &[b"INCRBY", key, b"6"],
        &[b"GETDEL", key],
        &[b"INCR", key],
        &[b"SET", key, b"7", b"GET"],
        &[b"GET", key],
    ] {
        at.send(words).await?;
    }
    let mut told = Vec::new();
    for _ in 0..6 {
        let reply = at.receive().await?;
        told.push(match reply {
            Reply::Integer(number) => number.to_string(),
            other => other
                .text()
                .with_context(|| format!("{told:?}, {other:?}"))?,
        });
    }
    ensure!(told[2..] == ["111", "1", "1", "7"], "{told:?}");
    // The native client, whose writes have names.
    client.increment(KEY, 3).await?;
    let began = std::time::Instant::now();
    // At its primary: another replica may still tell of how it was before.
    while client
        .get(KEY)
        .await?
        .is_none_or(|value| value.counter.is_none())
    {
        ensure!(began.elapsed() < BOUND, "it is never striped again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.increment(KEY, 4).await?;
    let value = client.get(KEY).await?.context("there is no counter")?;
    ensure!(value.data == "14" && value.counter.is_some(), "{value:?}");
    // Stripes are acknowledged by quorums: who asks for more is told so.
    let everywhere = PutOptions {
        write_level: Some(WriteLevel::All),
        ..PutOptions::default()
    };
    let refused = client.put_with(KEY, "19", everywhere).await;
    ensure!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    client.put(KEY, "20").await?;
    ensure!(ask(&mut at, &[b"GET", key]).await? == "20");
    ensure!(at.call(&[b"INCR", key]).await? == Reply::Integer(21));
    ensure!(at.call(&[b"PEXPIRE", key, b"1500"]).await? == Reply::Integer(1));
    at.call(&[b"INCR", key]).await?;
    ensure!(ask(&mut at, &[b"GET", key]).await? == "22");
    let began = std::time::Instant::now();
    while client.get(KEY).await?.is_some() {
        ensure!(began.elapsed() < BOUND, "it does not expire");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(at.call(&[b"INCR", key]).await? == Reply::Integer(1));
    client.delete(KEY).await?;
    ensure!(client.get(KEY).await?.is_none());
    // Nobody sees stripes, and nobody touches them.
    let keys = at.call(&[b"SCAN", b"0", b"COUNT", b"1000"]).await?;
    ensure!(!format!("{keys:?}").contains("cairn"), "{keys:?}");
    let own = at.call(&[b"GET", b"\xffcairn\xff{0000}12345678"]).await?;
    ensure!(matches!(own, Reply::Error(_)), "{own:?}");
    Ok(())
}

/// Additions of one native client, many at a time, to a key that is to be striped: they share
/// entries as those of any key do, and the key becomes a counter although it never stands still.
#[test]
fn a_key_that_is_added_to_all_the_time_is_striped_and_its_additions_share_entries() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 3,
        partitions: 16,
        ..Spec::default()
    };
    let mut cluster = Cluster::start(spec)?;
    cluster.await_ready()?;
    let addresses = cluster.client_addresses();
    let of = &cluster;
    let combined = || -> Result<f64> {
        let each = of.data.iter();
        each.map(|node| node.metric("cairn_combined_writes_total"))
            .sum()
    };
    runtime()?.block_on(async {
        let client = Client::connect(addresses, Options::default()).await?;
        let (stop, sure) = (AtomicBool::new(false), AtomicI64::new(0));
        let add = || async {
            while !stop.load(Ordering::Relaxed) {
                client.increment(KEY, 1).await?;
                sure.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        };
        let adders = futures::future::try_join_all((0..64).map(|_| add()));
        let watch = async {
            let watched = async {
                let until = |more: i64| {
                    let sure = &sure;
                    let wanted = sure.load(Ordering::Relaxed) + more;
                    async move {
                        while sure.load(Ordering::Relaxed) < wanted {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                };
                // None of its prefix is declared, then it is a counter without stripes, then with.
                until(500).await;
                set_counters(of, "views:=0")?;
                tokio::time::sleep(Duration::from_secs(2)).await;
                let before = combined()?;
                until(2_000).await;
                // Nodes tell of their writes once a second.
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                let shared = combined()? - before;
                ensure!(
                    shared > 1_000.0,
                    "{shared} of 2000 additions and more shared an entry"
                );
                set_counters(of, "views:=8")?;
                while counted(&client).await?.1 != Some(8) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                until(500).await;
                Ok(())
            };
            let watched = tokio::time::timeout(BOUND, watched).await;
            stop.store(true, Ordering::Relaxed);
            watched.context("it never becomes a counter")?
        };
        tokio::try_join!(adders, watch)?;
        let value = client.get(KEY).await?.context("there is no counter")?;
        let sum: i64 = String::from_utf8_lossy(&value.data).parse()?;
        let sure = sure.load(Ordering::Relaxed);
        println!("{sure} additions");
        ensure!(sum == sure, "the counter is {sum}, and {sure} were added");
        anyhow::Ok(())
    })?;
    cluster.check_running()
}
