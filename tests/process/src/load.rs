//! Load from many connections, with a ledger of what was promised.
//!
//! Every task owns its connections and a set of keys that only it sets; counters are
//! incremented by all. A read notes the ledger's floor before it is sent, so that a
//! stale answer is caught when it is given. Violations are collected, not panicked
//! on: a test asks for them at the end, with everything else that was seen.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};

use crate::cluster::{BOUND, Target};
use crate::gaps::{Acknowledgements, Gaps};
use crate::latencies::Latencies;
use crate::ledger::{Counter, Outcome, Register, Violation};
use crate::native::Native;
use crate::resp::{ClusterClient, Patience, Reply, Routes, Unanswered};
use crate::{slot_keys, waiting};

const VALUE_BYTES: usize = 128;

/// How much load.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Redis connections at a time, to each node that they need.
    pub writers: usize,
    /// Keys that each of them sets.
    pub keys: usize,
    /// Counters that all of them increment.
    pub counters: usize,
    /// Tasks that increment through the Rust client.
    pub native: usize,
    /// Counters of theirs.
    pub native_counters: usize,
    /// How patient the Redis clients are.
    pub patience: Patience,
    /// How far apart the requests of one task begin at least; zero for as fast as it goes.
    /// How long they take is noted only where load is paced so: else it tells how many wait
    /// for each other.
    pub interval: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            writers: 64,
            keys: 24,
            counters: 256,
            native: 8,
            native_counters: 128,
            patience: Patience::default(),
            interval: Duration::ZERO,
        }
    }
}

impl Plan {
    /// By clients that wait for an answer as long as that: where a slow machine may make a
    /// request wait, and must not make it fail.
    #[must_use]
    pub fn patient(within: Duration) -> Self {
        Self {
            patience: Patience {
                connect: within,
                request: within,
                ..Patience::default()
            },
            ..Self::default()
        }
    }

    /// Little of everything, at a steady pace, by clients that try again what was refused, as
    /// programs do.
    #[must_use]
    pub fn steady() -> Self {
        Self {
            writers: 12,
            keys: 24,
            counters: 64,
            native: 6,
            native_counters: 64,
            patience: Patience {
                retry: Duration::from_secs(10),
                ..Patience::default()
            },
            interval: Duration::from_millis(20),
        }
    }

    /// When a task's requests are due.
    pub(crate) fn pacer(&self, task: usize) -> Pacer {
        let tasks = u32::try_from(self.writers + self.native).unwrap_or(u32::MAX);
        let place = u32::try_from(task).unwrap_or(0);
        Pacer((!self.interval.is_zero()).then(|| {
            // Not all at the same time.
            let first = tokio::time::Instant::now() + self.interval * place / tasks;
            let mut interval = tokio::time::interval_at(first, self.interval);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }
}

/// When the requests of a task are due.
#[derive(Debug)]
pub(crate) struct Pacer(Option<Interval>);

impl Pacer {
    /// Waits for the next one.
    pub(crate) async fn due(&mut self) {
        if let Some(interval) = &mut self.0 {
            interval.tick().await;
        }
    }
}

/// A key and what is known of it.
#[derive(Debug)]
pub(crate) struct Tracked<T> {
    pub(crate) key: String,
    pub(crate) partition: u32,
    state: Mutex<T>,
}

impl<T: Default> Tracked<T> {
    fn new(key: String, partitions: u32) -> Self {
        Self {
            partition: slot_keys::partition_of(&key, partitions),
            key,
            state: Mutex::default(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What every task of a load shares.
#[derive(Debug)]
pub(crate) struct Shared {
    plan: Plan,
    registers: Vec<Tracked<Register>>,
    counters: Vec<Tracked<Counter>>,
    pub(crate) native_counters: Vec<Tracked<Counter>>,
    started: Instant,
    stop: AtomicBool,
    acknowledgements: Mutex<Acknowledgements>,
    latencies: Mutex<Latencies>,
    broken: Mutex<Vec<String>>,
    errors: Mutex<BTreeMap<String, u64>>,
    acknowledged: AtomicU64,
    refused: AtomicU64,
    unknown: AtomicU64,
    reads: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn elapsed_ms(&self) -> u32 {
        u32::try_from(self.started.elapsed().as_millis()).unwrap_or(u32::MAX)
    }

    pub(crate) fn acknowledged(&self, partition: u32) {
        let at = self.elapsed_ms();
        locked(&self.acknowledgements).note(partition, at);
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how long a request took, its retries included.
    pub(crate) fn took(&self, partition: u32, began: Instant) {
        if !self.plan.interval.is_zero() {
            locked(&self.latencies).note(self.elapsed_ms(), partition, began.elapsed());
        }
    }

    pub(crate) fn pacer(&self, task: usize) -> Pacer {
        self.plan.pacer(task)
    }

    pub(crate) fn check(&self, key: &str, what: &str, judged: Result<(), Violation>) {
        if let Err(violation) = judged {
            let line = format!("{key} at {} ms, {what}: {violation:?}", self.elapsed_ms());
            locked(&self.broken).push(line);
        }
    }

    pub(crate) fn error(&self, text: &str) {
        // Numbers and addresses aside, so that equal errors are counted together.
        let kind: String = text
            .split_whitespace()
            .map(|word| {
                if word.contains(|c: char| c.is_ascii_digit()) {
                    "#"
                } else {
                    word
                }
            })
            .collect::<Vec<_>>()
            .join(" ");
        *locked(&self.errors).entry(kind).or_default() += 1;
    }

    pub(crate) fn unanswered(&self, error: &Unanswered) {
        let counter = match error {
            Unanswered::Refused(_) => &self.refused,
            Unanswered::Unknown(_) => &self.unknown,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        self.error(&error.to_string());
    }
}

fn value_of(key: &str, number: u64) -> Vec<u8> {
    let mut value = format!("{key}={number};").into_bytes();
    value.resize(value.len().max(VALUE_BYTES), b'.');
    value
}

/// The number in a register's value; 0 where there is none.
fn number_of(key: &str, reply: &Reply) -> Result<u64> {
    match reply {
        Reply::Bulk(None) => Ok(0),
        Reply::Bulk(Some(bytes)) => {
            let text = std::str::from_utf8(bytes).context("not text")?;
            let rest = text.strip_prefix(key).and_then(|t| t.strip_prefix('='));
            let (number, _) = rest
                .and_then(|t| t.split_once(';'))
                .with_context(|| format!("another key's value: {text}"))?;
            Ok(number.parse()?)
        }
        other => bail!("{other:?}"),
    }
}

fn count_of(reply: &Reply) -> Result<u64> {
    match reply {
        Reply::Bulk(None) => Ok(0),
        Reply::Bulk(Some(bytes)) => Ok(std::str::from_utf8(bytes)?.parse()?),
        other => bail!("{other:?}"),
    }
}

/// Load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    runtime: Runtime,
    shared: Arc<Shared>,
    native: Option<Native>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// Where a client cannot be made.
    pub fn start(target: &Target, plan: Plan, seed: u64) -> Result<Self> {
        let partitions = target.partitions;
        let register = |n| {
            Tracked::new(
                // A load of its own keys: what an earlier one left is not its own.
                format!(
                    "register:{seed:x}:{}:{}",
                    n % plan.writers,
                    n / plan.writers
                ),
                partitions,
            )
        };
        let counter = |n| Tracked::new(format!("counter:{seed:x}:{n}"), partitions);
        let native = |n| Tracked::new(format!("native:{seed:x}:{n}"), partitions);
        let shared = Arc::new(Shared {
            plan,
            registers: (0..plan.writers * plan.keys).map(register).collect(),
            counters: (0..plan.counters).map(counter).collect(),
            native_counters: (0..plan.native_counters).map(native).collect(),
            started: Instant::now(),
            stop: AtomicBool::new(false),
            acknowledgements: Mutex::new(Acknowledgements::new(partitions)),
            latencies: Mutex::default(),
            broken: Mutex::default(),
            errors: Mutex::default(),
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let routes = Routes::to(target);
        let mut tasks: Vec<_> = (0..plan.writers)
            .map(|writer| {
                let client = ClusterClient::new(routes.clone(), plan.patience);
                let rng = StdRng::seed_from_u64(
                    seed ^ (writer as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
                );
                runtime.spawn(work(shared.clone(), writer, client, rng))
            })
            .collect();
        let native = match plan.native {
            0 => None,
            _ => Some(Native::connect(&runtime, target)?),
        };
        if let Some(native) = &native {
            for task in 0..plan.native {
                let rng = StdRng::seed_from_u64(!seed ^ task as u64);
                let place = plan.writers + task;
                tasks.push(runtime.spawn(native.clone().work(shared.clone(), place, rng)));
            }
        }
        Ok(Self {
            runtime,
            shared,
            native,
            tasks,
        })
    }

    /// Milliseconds since the start: the clock of the acknowledgements.
    #[must_use]
    pub fn now_ms(&self) -> u32 {
        self.shared.elapsed_ms()
    }

    /// Waits until so many more writes were acknowledged.
    ///
    /// # Errors
    /// Where they were not, in time.
    pub fn await_acknowledged(&self, more: u64) -> Result<()> {
        let goal = self.shared.acknowledged.load(Ordering::Relaxed) + more;
        waiting::until(&format!("{more} more acknowledged writes"), BOUND, || {
            Ok((self.shared.acknowledged.load(Ordering::Relaxed) >= goal).then_some(()))
        })
    }

    /// Waits until so many more reads were answered.
    ///
    /// # Errors
    /// Where they were not, in time.
    pub fn await_reads(&self, more: u64) -> Result<()> {
        let goal = self.shared.reads.load(Ordering::Relaxed) + more;
        waiting::until(&format!("{more} more reads"), BOUND, || {
            Ok((self.shared.reads.load(Ordering::Relaxed) >= goal).then_some(()))
        })
    }

    /// Waits until so many requests in all were refused or left with an error that
    /// contains `text`.
    ///
    /// # Errors
    /// Where they were not, in time.
    pub fn await_errors(&self, text: &str, count: u64) -> Result<()> {
        waiting::until(&format!("{count} errors with {text}"), BOUND, || {
            let errors = locked(&self.shared.errors);
            let found: u64 = errors
                .iter()
                .filter(|(kind, _)| kind.contains(text))
                .map(|(_, count)| count)
                .sum();
            ensure!(found >= count, "{found} so far, of {errors:?}");
            Ok(Some(()))
        })
    }

    /// Waits until each partition acknowledged a write after now.
    ///
    /// # Errors
    /// Where one did not, in time.
    pub fn await_every_partition(&self) -> Result<()> {
        let since = self.now_ms() + 1;
        waiting::until("every partition to acknowledge a write", BOUND, || {
            let acknowledgements = locked(&self.shared.acknowledgements);
            match acknowledgements.silent_since(since).as_slice() {
                [] => Ok(Some(())),
                silent => bail!("partitions without one: {silent:?}"),
            }
        })
    }

    /// The acknowledgements until now.
    #[must_use]
    pub fn acknowledgements(&self) -> Acknowledgements {
        locked(&self.shared.acknowledgements).clone()
    }

    /// How long requests took until now; of load that is paced.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        locked(&self.shared.latencies).clone()
    }

    /// How many requests were refused or left unknown until now.
    #[must_use]
    pub fn unanswered(&self) -> u64 {
        let shared = &self.shared;
        shared.refused.load(Ordering::Relaxed) + shared.unknown.load(Ordering::Relaxed)
    }

    /// What went wrong until now, by kind.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, u64> {
        locked(&self.shared.errors).clone()
    }

    /// What went wrong since then, by kind; `before` is what [`Self::errors`] told.
    #[must_use]
    pub fn errors_since(&self, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
        let new = self.errors().into_iter().filter_map(|(kind, count)| {
            let before = before.get(&kind).copied().unwrap_or(0);
            (count > before).then_some((kind, count - before))
        });
        new.collect()
    }

    /// The longest pause of each partition between two times of [`Self::now_ms`].
    #[must_use]
    pub fn gaps(&self, from_ms: u32, to_ms: u32) -> Gaps {
        let acknowledgements = self.acknowledgements();
        let mut gaps = Gaps::default();
        for partition in 0..acknowledgements.partitions() {
            gaps.add(acknowledgements.longest_gap(partition, from_ms, to_ms));
        }
        gaps
    }

    /// What the Rust client counted until now; nothing where the plan has none.
    #[must_use]
    pub fn client_stats(&self) -> cairn_client::Stats {
        self.native.as_ref().map(Native::stats).unwrap_or_default()
    }

    /// What was broken until now.
    #[must_use]
    pub fn broken(&self) -> Vec<String> {
        locked(&self.shared.broken).clone()
    }

    /// Lets no further request begin. What is under way goes on: the Rust client's
    /// calls wait for a cluster that is down to come back.
    pub fn wind_down(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }

    /// Ends the load. Requests under way are waited for, within the clients' bounds.
    ///
    /// # Errors
    /// Where a task panicked.
    pub fn stop(self) -> Result<Stopped> {
        self.wind_down();
        self.runtime.block_on(async {
            for task in self.tasks {
                task.await.context("a task of the load panicked")?;
            }
            anyhow::Ok(())
        })?;
        Ok(Stopped {
            runtime: self.runtime,
            shared: self.shared,
        })
    }
}

async fn work(shared: Arc<Shared>, writer: usize, mut client: ClusterClient, mut rng: StdRng) {
    let plan = shared.plan;
    // Slows a client down that was refused, so that it does not spin.
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut pacer = shared.pacer(writer);
    while !shared.stopping() {
        pacer.due().await;
        let began = Instant::now();
        let (partition, answered) = match rng.random_range(0..100) {
            0..45 => {
                let own = rng.random_range(0..plan.keys) * plan.writers + writer;
                let register = &shared.registers[own];
                (
                    register.partition,
                    set(&shared, register, &mut client).await,
                )
            }
            45..75 if plan.counters > 0 => {
                let counter = &shared.counters[rng.random_range(0..plan.counters)];
                (
                    counter.partition,
                    increment(&shared, counter, &mut client).await,
                )
            }
            75..80 if plan.counters > 0 => {
                let counter = &shared.counters[rng.random_range(0..plan.counters)];
                (
                    counter.partition,
                    get_counter(&shared, counter, &mut client).await,
                )
            }
            _ => {
                let register = &shared.registers[rng.random_range(0..shared.registers.len())];
                (
                    register.partition,
                    get_register(&shared, register, &mut client).await,
                )
            }
        };
        shared.took(partition, began);
        if let Err(error) = answered {
            shared.unanswered(&error);
            pace.tick().await;
        }
    }
}

async fn set(
    shared: &Shared,
    register: &Tracked<Register>,
    client: &mut ClusterClient,
) -> Result<(), Unanswered> {
    let number = register.state().begin();
    let value = value_of(&register.key, number);
    let words: [&[u8]; 3] = [b"SET", register.key.as_bytes(), &value];
    let answer = client.call(&register.key, &words).await;
    let (outcome, answer) = match answer {
        Ok(Reply::Simple(ok)) if ok == "OK" => (Outcome::Acknowledged, Ok(())),
        Ok(other) => (
            Outcome::Unknown,
            Err(Unanswered::Unknown(format!("{other:?}"))),
        ),
        Err(Unanswered::Refused(why)) => (Outcome::Refused, Err(Unanswered::Refused(why))),
        Err(Unanswered::Unknown(why)) => (Outcome::Unknown, Err(Unanswered::Unknown(why))),
    };
    register.state().end(number, outcome);
    if answer.is_ok() {
        shared.acknowledged(register.partition);
    }
    answer
}

async fn increment(
    shared: &Shared,
    counter: &Tracked<Counter>,
    client: &mut ClusterClient,
) -> Result<(), Unanswered> {
    counter.state().begin();
    let words: [&[u8]; 2] = [b"INCR", counter.key.as_bytes()];
    match client.call(&counter.key, &words).await {
        Ok(Reply::Integer(value)) => {
            let judged = counter
                .state()
                .acknowledged(u64::try_from(value).unwrap_or(u64::MAX));
            shared.check(&counter.key, "INCR", judged);
            shared.acknowledged(counter.partition);
            Ok(())
        }
        Ok(other) => Err(Unanswered::Unknown(format!("{other:?}"))),
        Err(Unanswered::Refused(why)) => {
            counter.state().refused();
            Err(Unanswered::Refused(why))
        }
        Err(error) => Err(error),
    }
}

async fn get_register(
    shared: &Shared,
    register: &Tracked<Register>,
    client: &mut ClusterClient,
) -> Result<(), Unanswered> {
    let floor = register.state().floor();
    let words: [&[u8]; 2] = [b"GET", register.key.as_bytes()];
    let reply = client.call(&register.key, &words).await?;
    if let Reply::Error(text) = &reply {
        return Err(Unanswered::Unknown(text.clone()));
    }
    match number_of(&register.key, &reply) {
        Ok(found) => {
            let judged = register.state().judge(floor, found);
            shared.check(&register.key, "GET", judged);
        }
        Err(error) => locked(&shared.broken).push(format!("{}: {error:#}", register.key)),
    }
    shared.reads.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn get_counter(
    shared: &Shared,
    counter: &Tracked<Counter>,
    client: &mut ClusterClient,
) -> Result<(), Unanswered> {
    let least = counter.state().least();
    let words: [&[u8]; 2] = [b"GET", counter.key.as_bytes()];
    let reply = client.call(&counter.key, &words).await?;
    if let Reply::Error(text) = &reply {
        return Err(Unanswered::Unknown(text.clone()));
    }
    match count_of(&reply) {
        Ok(found) => {
            let judged = counter.state().judge(least, found);
            shared.check(&counter.key, "GET", judged);
        }
        Err(error) => locked(&shared.broken).push(format!("{}: {error:#}", counter.key)),
    }
    shared.reads.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A load that ended, whose promises are still to be checked.
#[derive(Debug)]
pub struct Stopped {
    runtime: Runtime,
    shared: Arc<Shared>,
}

impl Stopped {
    /// The acknowledgements.
    #[must_use]
    pub fn acknowledgements(&self) -> Acknowledgements {
        locked(&self.shared.acknowledgements).clone()
    }

    /// How many writes were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Reads everything back and returns every broken promise, those that were
    /// seen under load first. A key that cannot be read in time is one too.
    ///
    /// # Errors
    /// Where no client can be made.
    pub fn broken(&self, target: &Target) -> Result<Vec<String>> {
        let shared = &self.shared;
        let routes = Routes::to(target);
        let deadline = Instant::now() + BOUND;
        self.runtime.block_on(async {
            let mut readers = Vec::new();
            for part in 0..16 {
                let shared = shared.clone();
                let client = ClusterClient::new(routes.clone(), shared.plan.patience);
                readers.push(tokio::spawn(read_back(shared, client, part, 16, deadline)));
            }
            for reader in readers {
                reader.await.context("a reader panicked")?;
            }
            anyhow::Ok(())
        })?;
        let mut broken = locked(&shared.broken).clone();
        for counter in &shared.native_counters {
            let state = counter.state();
            if state.unknown() > 0 {
                broken.push(format!(
                    "{}: the Rust client left {} outcomes unknown",
                    counter.key,
                    state.unknown()
                ));
            }
        }
        Ok(broken)
    }

    /// Checks that nothing was broken, and that the load was one.
    ///
    /// # Errors
    /// Names what was broken.
    pub fn verify(&self, target: &Target) -> Result<()> {
        let broken = self.broken(target)?;
        println!("{self}");
        ensure!(self.acknowledged() > 0, "nothing was acknowledged");
        ensure!(
            broken.is_empty(),
            "{} broken promises, the first of them:\n{}",
            broken.len(),
            broken
                .iter()
                .take(20)
                .cloned()
                .collect::<Vec<_>>()
                .join("\n")
        );
        Ok(())
    }
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shared = &self.shared;
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            f,
            "load: {} writes acknowledged, {} reads, {} requests refused, {} unknown",
            number(&shared.acknowledged),
            number(&shared.reads),
            number(&shared.refused),
            number(&shared.unknown)
        )?;
        let errors = locked(&shared.errors);
        let mut kinds: Vec<_> = errors.iter().collect();
        kinds.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (kind, count) in kinds.into_iter().take(8) {
            write!(f, "\n  {count} x {kind}")?;
        }
        Ok(())
    }
}

/// Reads every `parts`th key back, from `part`.
async fn read_back(
    shared: Arc<Shared>,
    mut client: ClusterClient,
    part: usize,
    parts: usize,
    deadline: Instant,
) {
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let registers = shared.registers.iter().skip(part).step_by(parts);
    let counters = shared.counters.iter().chain(&shared.native_counters);
    let counters = counters.skip(part).step_by(parts);
    for register in registers {
        while let Err(error) = get_register(&shared, register, &mut client).await {
            if Instant::now() > deadline {
                locked(&shared.broken).push(format!("{}: cannot be read: {error}", register.key));
                break;
            }
            pace.tick().await;
        }
    }
    for counter in counters {
        while let Err(error) = get_counter(&shared, counter, &mut client).await {
            if Instant::now() > deadline {
                locked(&shared.broken).push(format!("{}: cannot be read: {error}", counter.key));
                break;
            }
            pace.tick().await;
        }
    }
}
