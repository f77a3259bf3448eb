//! The load driver: the same loop, the same keys and the same clock for every system, over
//! whichever protocol a system speaks.
//!
//! A connection is a task with sockets of its own. It has `depth` operations under way: they
//! are sent together, and the next ones begin when all of them are answered. An operation's
//! latency is from when its batch was sent to when its own answer was there. What is answered
//! within the window is counted, whenever it began, so that a rate is answers per second.

mod cairn;
mod client;
mod etcd;
mod resp;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_workload::distribution::{Chooser, Inserted, Skew};
use cairn_workload::operation::{Mix, Operation, Plan, Random, Values, key};
use cairn_workload::tally::Tally;

use crate::stop;
use crate::usage::{self, Disk, Usage};

/// How long a connection rests after an answer that was not good.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// A connection that has waited for so long at the end says so.
const SILENCE: Duration = Duration::from_secs(2);
/// How long before the window what waits in memory is written: the window begins with what is
/// its own.
const SETTLE: Duration = Duration::from_secs(1);
/// Connections that load the keys, and how many operations each has under way.
const LOADERS: usize = 16;
const LOADERS_DEPTH: usize = 16;

/// How current reads are, at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// From the primary.
    Primary,
    /// As current, from any replica.
    Replica,
    /// At most a second old, from the Rust client's own memory where it keeps the key; from the
    /// primary for whoever keeps nothing.
    Near,
}

/// Where increments go: a striped counter is added to at any node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Increments {
    /// To the primary of the key's partition.
    Owner,
    /// Each connection's to one node, all nodes in turn.
    Any,
}

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    /// RESP: a cluster whose slots it tells, or one server.
    Resp {
        /// Any of its servers.
        seeds: Vec<String>,
        level: Level,
        /// How many replicas each write waits for by `WAIT`; 0: none, as the server's own
        /// acknowledgement says it.
        wait: u32,
        /// Where increments go.
        increments: Increments,
    },
    /// Cairn's gRPC, a connection to each node for each of the driver's.
    CairnGrpc {
        /// Client addresses of its nodes.
        endpoints: Vec<String>,
        level: Level,
    },
    /// The Rust client, which all the driver's connections share.
    CairnClient {
        /// Client addresses of its nodes.
        endpoints: Vec<String>,
        level: Level,
    },
    /// etcd's gRPC.
    Etcd {
        /// Its members.
        endpoints: Vec<String>,
    },
}

/// What to ask for.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) mix: Mix,
    pub(crate) skew: Skew,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    pub(crate) connections: usize,
    /// Operations under way on each connection.
    pub(crate) depth: usize,
    pub(crate) warmup: Duration,
    pub(crate) duration: Duration,
    pub(crate) threads: usize,
    pub(crate) seed: u64,
}

/// What was seen of a load.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) tally: Tally,
    pub(crate) seconds: f64,
    /// Of this process, within the window.
    pub(crate) driver_cpu: Duration,
    /// Of each server, within the window, in the order of its pids.
    pub(crate) servers: Vec<Usage>,
    /// Bytes to the servers' block device within the window, of whoever, and what the window
    /// left to be written.
    pub(crate) disk_bytes: u64,
    /// Bytes over loopback within the window, of whoever.
    pub(crate) loopback_bytes: u64,
    /// Processor time of whoever is neither a server of the system nor the driver.
    pub(crate) others_cpu: Duration,
    /// How many keys there are now, with those that were inserted.
    pub(crate) keys: u64,
    /// How much of the driver's threads it kept busy, from 0 to 1.
    pub(crate) driver_busy: f64,
}

impl Seen {
    /// Good answers.
    pub(crate) fn operations(&self) -> u64 {
        Operation::ALL
            .into_iter()
            .filter_map(|operation| self.tally.of(operation))
            .map(hdrhistogram::Histogram::len)
            .sum()
    }

    pub(crate) fn rate(&self) -> f64 {
        self.operations() as f64 / self.seconds
    }
}

/// A request to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Get,
    Set,
    Increment,
}

/// What is asked of one key.
#[derive(Clone, Copy, Debug)]
struct Call {
    verb: Verb,
    key: [u8; 16],
    slot: u16,
}

impl Call {
    fn new(verb: Verb, operation: Operation, number: u64) -> Self {
        let key = key(operation, number);
        Self {
            verb,
            key,
            slot: cairn_core::slots::slot(&key),
        }
    }
}

/// What came of it, and when.
type Answer = (Instant, Result<Found, String>);

/// What a good answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// A value, or that it was written.
    Good,
    /// There is no such key.
    Missing,
}

/// What the connections of a load share.
enum Shared {
    Resp(resp::Servers),
    CairnGrpc(cairn::Cluster),
    CairnClient(client::Shared),
    Etcd(etcd::Members),
}

impl Shared {
    async fn open(target: &Target) -> Result<Self> {
        Ok(match target {
            Target::Resp {
                seeds,
                level,
                wait,
                increments,
            } => Self::Resp(resp::Servers::open(
                seeds.clone(),
                *level,
                *wait,
                *increments,
            )?),
            Target::CairnGrpc { endpoints, level } => {
                Self::CairnGrpc(cairn::Cluster::open(endpoints.clone(), *level).await?)
            }
            Target::CairnClient { endpoints, level } => {
                Self::CairnClient(client::Shared::open(endpoints.clone(), *level).await?)
            }
            Target::Etcd { endpoints } => Self::Etcd(etcd::Members::open(endpoints).await?),
        })
    }

    async fn connect(&self, number: usize) -> Result<Connection> {
        Ok(match self {
            Self::Resp(servers) => Connection::Resp(Box::new(servers.connect(number).await?)),
            Self::CairnGrpc(cluster) => Connection::CairnGrpc(Box::new(cluster.connect().await?)),
            Self::CairnClient(shared) => Connection::CairnClient(shared.connect()),
            Self::Etcd(members) => Connection::Etcd(Box::new(members.connect(number).await?)),
        })
    }
}

enum Connection {
    Resp(Box<resp::Connection>),
    CairnGrpc(Box<cairn::Connection>),
    CairnClient(client::Connection),
    Etcd(Box<etcd::Connection>),
}

impl Connection {
    /// Sends the calls together; one answer for each, in their order.
    async fn exchange(
        &mut self,
        calls: &[Call],
        values: &Values,
        random: &mut Random,
    ) -> Vec<Answer> {
        match self {
            Self::Resp(connection) => connection.exchange(calls, values, random).await,
            Self::CairnGrpc(connection) => connection.exchange(calls, values, random).await,
            Self::CairnClient(connection) => connection.exchange(calls, values, random).await,
            Self::Etcd(connection) => connection.exchange(calls, values, random).await,
        }
    }
}

/// When answers count.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: Instant,
    until: Instant,
}

struct Worker {
    connection: Connection,
    plan: Plan,
    depth: usize,
    window: Option<Window>,
    random: Random,
    values: Values,
    tally: Arc<Mutex<Tally>>,
    /// Since when it waits for answers.
    waiting: Option<Instant>,
}

impl Worker {
    async fn drive(&mut self) {
        let mut operations = Vec::with_capacity(self.depth);
        let mut calls = Vec::with_capacity(self.depth);
        while !stop::requested() {
            operations.clear();
            while operations.len() < self.depth
                && let Some(next) = self.plan.next(&mut self.random)
            {
                operations.push(next);
            }
            if operations.is_empty() {
                return;
            }
            calls.clear();
            calls.extend(
                operations.iter().map(|(operation, number)| {
                    Call::new(first_verb(*operation), *operation, *number)
                }),
            );
            let began = Instant::now();
            self.waiting = Some(began);
            let mut answers = self
                .connection
                .exchange(&calls, &self.values, &mut self.random)
                .await;
            self.second_halves(&operations, &mut answers).await;
            self.waiting = None;
            if self.count(&operations, &answers, began) {
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
            // What a client answers from its own memory is there at once: the others' turn.
            tokio::task::yield_now().await;
        }
    }

    /// The writes of read-modify-writes whose reads were answered well.
    async fn second_halves(&mut self, operations: &[(Operation, u64)], answers: &mut [Answer]) {
        let places: Vec<usize> = (0..operations.len())
            .filter(|&at| operations[at].0 == Operation::ReadModifyWrite && answers[at].1.is_ok())
            .collect();
        if places.is_empty() {
            return;
        }
        let calls: Vec<Call> = places
            .iter()
            .map(|&at| Call::new(Verb::Set, operations[at].0, operations[at].1))
            .collect();
        let second = self
            .connection
            .exchange(&calls, &self.values, &mut self.random)
            .await;
        for (at, (ended, outcome)) in places.into_iter().zip(second) {
            let found = answers[at].1.clone();
            answers[at] = (ended, outcome.and(found));
        }
    }

    /// Says whether any was not good.
    fn count(
        &mut self,
        operations: &[(Operation, u64)],
        answers: &[Answer],
        began: Instant,
    ) -> bool {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let mut failed = false;
        for ((operation, number), (ended, outcome)) in operations.iter().zip(answers) {
            self.plan.ended(*operation, *number);
            let counts = self
                .window
                .is_none_or(|window| *ended >= window.from && *ended <= window.until);
            match outcome {
                Ok(found) if counts => {
                    tally.good(*operation, ended.duration_since(began));
                    tally.missing += u64::from(*found == Found::Missing);
                }
                Ok(_) => {}
                Err(kind) => {
                    tally.error(kind);
                    failed = true;
                }
            }
        }
        failed
    }
}

fn first_verb(operation: Operation) -> Verb {
    match operation {
        Operation::Read | Operation::ReadModifyWrite => Verb::Get,
        Operation::Update | Operation::Insert => Verb::Set,
        Operation::Increment => Verb::Increment,
    }
}

/// A runtime with so many threads for the load.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    let mut builder = if threads > 1 {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads);
        builder
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    builder
        .enable_all()
        .build()
        .context("start the driver's runtime")
}

/// Whether the target can be asked at all.
pub(crate) fn is_reached(target: &Target) -> Result<()> {
    runtime(1)?.block_on(async { Shared::open(target).await.map(|_| ()) })
}

/// Writes every key once. What fails is tried until it is written, or it is too late.
pub(crate) fn preload(target: &Target, load: &Load, within: Duration) -> Result<()> {
    let deadline = Instant::now() + within;
    loop {
        let tally = runtime(load.threads)?.block_on(preload_once(target, load));
        let why = match tally {
            Ok(tally) if tally.errors.is_empty() => return Ok(()),
            Ok(tally) => format!("{:?}", tally.errors),
            Err(error) => format!("{error:#}"),
        };
        stop::check()?;
        anyhow::ensure!(
            Instant::now() < deadline,
            "the keys could not be loaded: {why}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

async fn preload_once(target: &Target, load: &Load) -> Result<Tally> {
    let plan = |at: usize, parts: usize| {
        let share = |at: usize| (u128::from(load.keys) * at as u128 / parts as u128) as u64;
        Plan::Preload {
            next: share(at),
            end: share(at + 1),
        }
    };
    let tallies = run_workers(target, load, LOADERS, LOADERS_DEPTH, None, plan).await?;
    Ok(tallies.0)
}

/// Puts the load on the target and says what was seen of it, and of the servers' processes and
/// the disk below their data.
pub(crate) fn measure(target: &Target, load: &Load, pids: &[u32], data: &Path) -> Result<Seen> {
    runtime(load.threads)?.block_on(async {
        let inserted = Inserted::new(load.keys);
        let chooser = Chooser::new(load.skew, Arc::clone(&inserted));
        let plan = |_, _| Plan::Random {
            mix: load.mix,
            keys: chooser.clone(),
            left: None,
        };
        let spans = (
            load.warmup,
            load.duration,
            pids.to_vec(),
            Disk::below(data)?,
        );
        let (tally, usage) = run_workers(
            target,
            load,
            load.connections,
            load.depth,
            Some(spans),
            plan,
        )
        .await?;
        let Used {
            servers,
            driver_cpu,
            disk_bytes,
            loopback_bytes,
            machine_cpu,
        } = usage.unwrap_or_default();
        let own: Duration = servers.iter().map(|usage| usage.cpu).sum();
        Ok(Seen {
            tally,
            seconds: load.duration.as_secs_f64(),
            driver_cpu,
            servers,
            disk_bytes,
            loopback_bytes,
            others_cpu: machine_cpu.saturating_sub(own + driver_cpu),
            keys: inserted.known(),
            driver_busy: driver_cpu.as_secs_f64()
                / (load.duration.as_secs_f64() * load.threads as f64),
        })
    })
}

/// What was used of the machine.
#[derive(Default)]
struct Used {
    /// By each server.
    servers: Vec<Usage>,
    driver_cpu: Duration,
    disk_bytes: u64,
    loopback_bytes: u64,
    /// By all, these included.
    machine_cpu: Duration,
}

async fn run_workers(
    target: &Target,
    load: &Load,
    connections: usize,
    depth: usize,
    spans: Option<(Duration, Duration, Vec<u32>, Disk)>,
    plan: impl Fn(usize, usize) -> Plan,
) -> Result<(Tally, Option<Used>)> {
    let shared = Shared::open(target).await?;
    // A tally takes a few hundred KiB, so that there are fewer of them than connections.
    let tallies: Vec<Arc<Mutex<Tally>>> = (0..load.threads * 2).map(|_| Arc::default()).collect();
    let mut workers = Vec::with_capacity(connections);
    for at in 0..connections {
        let mut random = Random::new(load.seed.wrapping_add(at as u64 * 0x51_7C_C1));
        workers.push(Worker {
            connection: shared.connect(at).await?,
            plan: plan(at, connections),
            depth,
            window: None,
            values: Values::new(load.value_bytes, &mut random),
            random,
            tally: Arc::clone(&tallies[at % tallies.len()]),
            waiting: None,
        });
    }
    let start = Instant::now();
    let window = spans.as_ref().map(|(warmup, duration, ..)| Window {
        from: start + *warmup,
        until: start + *warmup + *duration,
    });
    let watched = spans.zip(window).map(|((warmup, _, pids, disk), window)| {
        let settle = window.from - SETTLE.min(warmup);
        std::thread::spawn(move || used_within(settle, window, &pids, &disk))
    });
    let mut tasks = tokio::task::JoinSet::new();
    for mut worker in workers {
        worker.window = window;
        tasks.spawn(async move {
            if let Some(window) = window {
                let _ended = tokio::time::timeout_at(window.until.into(), worker.drive()).await;
                let silent = worker
                    .waiting
                    .is_some_and(|since| since.elapsed() > SILENCE);
                if silent && !stop::requested() {
                    let mut tally = worker.tally.lock().unwrap_or_else(PoisonError::into_inner);
                    tally.error("no answer for two seconds");
                }
            } else {
                worker.drive().await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.context("a connection of the driver panicked")?;
    }
    drop(shared);
    stop::check()?;
    let used = match watched {
        Some(thread) => match thread.join() {
            Ok(used) => Some(used?),
            Err(_) => anyhow::bail!("the thread that watches the servers panicked"),
        },
        None => None,
    };
    let mut total = Tally::new();
    for tally in tallies {
        total.add(&tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
    Ok((total, used))
}

/// What was used from the beginning of the window to its end, on a thread of its own: looking
/// takes some milliseconds, which no connection should wait for.
fn used_within(settle: Instant, window: Window, pids: &[u32], disk: &Disk) -> Result<Used> {
    let wait = |when: Instant| std::thread::sleep(when.saturating_duration_since(Instant::now()));
    let at = |when: Instant| {
        wait(when);
        Ok::<_, anyhow::Error>(Used {
            servers: pids
                .iter()
                .map(|pid| usage::of_process(*pid))
                .collect::<Result<_>>()?,
            driver_cpu: usage::own_cpu(),
            disk_bytes: disk.written()?,
            loopback_bytes: usage::loopback_bytes()?,
            machine_cpu: usage::machine_cpu()?,
        })
    };
    wait(settle);
    disk.settle()?;
    let before = at(window.from)?;
    let after = at(window.until)?;
    disk.settle()?;
    let written = disk.written()?;
    Ok(Used {
        servers: before
            .servers
            .iter()
            .zip(&after.servers)
            .map(|(before, after)| after.since(before))
            .collect(),
        driver_cpu: after.driver_cpu.saturating_sub(before.driver_cpu),
        disk_bytes: written.saturating_sub(before.disk_bytes),
        loopback_bytes: after.loopback_bytes.saturating_sub(before.loopback_bytes),
        machine_cpu: after.machine_cpu.saturating_sub(before.machine_cpu),
    })
}
