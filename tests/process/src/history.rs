//! Histories: what many tasks saw of some keys through the Rust client, for
//! `cairn-linear` to judge.
//!
//! Every operation stands in the history with its call and its return on one clock of this
//! process. A write whose outcome is unknown stays in it, pending; an operation that the
//! client says changed nothing, and a read without an answer, do not belong in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cairn_client::{Client, Condition, Consistency, Error, Options, PutOptions, Stats};
use cairn_linear::kv::{Key, KeyOperation, Op, Output};
use cairn_linear::{Summary, check_keys};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::cluster::{BOUND, Target};
use crate::waiting;

/// What is done to the keys.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The consistency of reads, drawn for each.
    pub reads: &'static [Consistency],
    /// Tasks, half of them of a client that gives up early.
    pub tasks: u32,
    /// Keys. Most operations go to a few of them at a time.
    pub keys: u64,
    /// Operations that return, after which the tasks end at the latest.
    pub operations: u64,
}

/// Keys that most operations go to at a time.
const HOT: u64 = 24;
/// How many operations go by before these are other ones.
const HOT_FOR: u64 = 4_000;
/// A client that gives up so early leaves outcomes unknown while a node is away.
const EARLY: Duration = Duration::from_millis(300);
/// How many operations on one key may be under way, or without an outcome for good, at a
/// time. Each that stays pending may take effect anywhere after its call, so that the search
/// for an order doubles with it: a key that has collected so many is left alone.
const OPEN_MAX: u32 = 10;
/// How long a task waits that drew such a key.
const PAUSE: Duration = Duration::from_millis(1);
/// Written values lie so far apart that no increments lead from one to the next.
const SPACING: i64 = 1 << 20;
/// Configurations that the search for an order may visit per key.
const SEARCH_MAX: usize = 4_000_000;

/// What tasks did so far, wherever they run.
#[derive(Clone, Debug)]
pub struct History(Arc<Shared>);

impl History {
    /// Nothing yet. What the tasks do is drawn from the seed.
    #[must_use]
    pub fn new(plan: Plan, seed: u64) -> Self {
        Self(Arc::new(Shared {
            plan,
            seed,
            prefix: format!("history:{seed:x}"),
            started: Instant::now(),
            completed: AtomicU64::new(0),
            next_value: AtomicU64::new(1),
            stop: AtomicBool::new(false),
            open: (0..plan.keys).map(|_| AtomicU32::new(0)).collect(),
            history: Mutex::default(),
            failed: Mutex::default(),
        }))
    }

    /// What a client does that is patient, and one that gives up early.
    #[must_use]
    pub fn options() -> [Options; 2] {
        let with = |deadline, attempt_timeout| Options {
            deadline,
            attempt_timeout,
            ..Options::default()
        };
        let usual = Options::default().attempt_timeout;
        [with(BOUND, usual), with(EARLY, EARLY)]
    }

    /// Lets a task work until there is enough of it.
    pub async fn work(self, task: u32, client: Client) {
        let random = StdRng::seed_from_u64(self.0.seed ^ (u64::from(task) << 32));
        work(self.0, task, client, random).await;
    }

    /// How many operations have returned.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.0.completed.load(Ordering::Relaxed)
    }

    /// Whether enough have.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.0.ended()
    }

    /// Lets the tasks end once they have their answers.
    pub fn end(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// All of it by key, once the tasks have ended.
    ///
    /// # Errors
    /// Where a call failed in a way that it must not.
    pub fn take(&self) -> Result<BTreeMap<u64, Vec<KeyOperation>>> {
        let failed = self.0.failed.lock();
        if let Some(failed) = failed.unwrap_or_else(PoisonError::into_inner).take() {
            bail!("{failed}");
        }
        let history = self.0.history.lock();
        let mut history = history.unwrap_or_else(PoisonError::into_inner);
        Ok(std::mem::take(&mut *history))
    }
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    seed: u64,
    prefix: String,
    started: Instant,
    completed: AtomicU64,
    next_value: AtomicU64,
    stop: AtomicBool,
    /// By key: operations under way and those without an outcome.
    open: Vec<AtomicU32>,
    history: Mutex<BTreeMap<u64, Vec<KeyOperation>>>,
    failed: Mutex<Option<String>>,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn record(&self, key: u64, operation: KeyOperation) {
        if operation.returned.is_some() {
            self.completed.fetch_add(1, Ordering::Relaxed);
        }
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.entry(key).or_default().push(operation);
    }

    fn ended(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
            || self.completed.load(Ordering::Relaxed) >= self.plan.operations
    }

    fn key(&self, random: &mut StdRng) -> u64 {
        let phase = self.completed.load(Ordering::Relaxed) / HOT_FOR;
        match random.random_range(0..10) {
            0 => random.random_range(0..self.plan.keys),
            _ => (phase * HOT + random.random_range(0..HOT)) % self.plan.keys,
        }
    }

    fn open(&self, key: u64) -> &AtomicU32 {
        &self.open[usize::try_from(key).unwrap_or(usize::MAX)]
    }

    /// A key on which one more operation may begin; [`Self::close`] is due after it.
    fn open_a_key(&self, random: &mut StdRng) -> Option<u64> {
        let key = self.key(random);
        let room = |open: u32| (open < OPEN_MAX).then_some(open + 1);
        let opened = self
            .open(key)
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        opened.is_ok().then_some(key)
    }

    /// The outcome of an operation on the key is known.
    fn close(&self, key: u64) {
        self.open(key).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Tasks that make a history, until there is enough of it.
#[derive(Debug)]
pub struct Recording {
    runtime: Runtime,
    history: History,
    clients: [Client; 2],
    tasks: Vec<JoinHandle<()>>,
}

impl Recording {
    /// Starts it.
    ///
    /// # Errors
    /// Where a client cannot be made.
    pub fn start(target: &Target, plan: Plan, seed: u64) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let connect = |options| runtime.block_on(Client::connect(target.clients.clone(), options));
        let [patient, hasty] = History::options();
        let clients = [connect(patient)?, connect(hasty)?];
        let history = History::new(plan, seed);
        let tasks = (0..plan.tasks)
            .map(|task| {
                let client = clients[task as usize % clients.len()].clone();
                runtime.spawn(history.clone().work(task, client))
            })
            .collect();
        Ok(Self {
            runtime,
            history,
            clients,
            tasks,
        })
    }

    /// How many operations have returned.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.history.completed()
    }

    /// Whether enough have.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.history.is_complete()
    }

    /// Waits until so many more have returned, or all.
    ///
    /// # Errors
    /// Where they did not, in time.
    pub fn await_more(&self, more: u64) -> Result<()> {
        let goal = self.completed() + more;
        waiting::until(&format!("{more} more operations"), BOUND, || {
            Ok((self.completed() >= goal || self.is_complete()).then_some(()))
        })
    }

    /// Lets no further operation begin.
    pub fn wind_down(&self) {
        self.history.end();
    }

    /// What both clients counted.
    #[must_use]
    pub fn stats(&self) -> [Stats; 2] {
        [self.clients[0].stats(), self.clients[1].stats()]
    }

    /// Waits for the end of every task and returns the history, by key.
    ///
    /// # Errors
    /// Where a call failed in a way that it must not, or the tasks do not end in time.
    pub fn finish(self) -> Result<Recorded> {
        let outcome = waiting::until("the history to be complete", BOUND * 4, || {
            Ok(self.is_complete().then_some(()))
        });
        self.wind_down();
        self.runtime.block_on(async {
            for task in self.tasks {
                task.await.context("a task of the history panicked")?;
            }
            anyhow::Ok(())
        })?;
        outcome?;
        Ok(Recorded(self.history.take()?))
    }
}

/// What was seen of each key.
#[derive(Debug)]
pub struct Recorded(BTreeMap<u64, Vec<KeyOperation>>);

impl Recorded {
    /// Judges it; and judges it again with one read that is older than it may be, which must
    /// be rejected: what was judged is one in which that would be seen.
    ///
    /// # Errors
    /// Where it is not linearizable, or the planted read is accepted.
    pub fn judge(mut self) -> Result<Summary> {
        let summary =
            check_keys(&Key, &self.0, SEARCH_MAX).map_err(|rejected| anyhow!("{rejected}"))?;
        self.plant_a_stale_read()?;
        ensure!(
            check_keys(&Key, &self.0, SEARCH_MAX).is_err(),
            "a planted stale read was accepted"
        );
        Ok(summary)
    }

    fn plant_a_stale_read(&mut self) -> Result<()> {
        let busiest = self
            .0
            .values_mut()
            .max_by_key(|operations| operations.len());
        let operations = busiest.context("an empty history")?;
        operations.sort_by_key(|operation| operation.called);
        let reads: Vec<usize> = (0..operations.len())
            .filter(|&at| {
                let returned = operations[at].returned.as_ref();
                returned.is_some_and(|(_, output)| matches!(output, Output::Value(Some(_))))
            })
            .collect();
        ensure!(
            reads.len() > 10,
            "only {} reads of the busiest key",
            reads.len()
        );
        // What was set once, and is not there again: what is added to a key that is not there
        // comes to the same small numbers over and over.
        let set = |at: usize| match operations[at].returned {
            Some((_, Output::Value(Some(value)))) => Some(value / SPACING).filter(|set| *set > 0),
            _ => None,
        };
        let first = reads.iter().copied().find(|&at| set(at).is_some());
        let first = first.context("no read of what was set")?;
        let is_later = |&at: &usize| set(at).is_some_and(|later| Some(later) != set(first));
        let last = reads.iter().copied().rev().find(is_later);
        let last = last.context("nothing was set anew")?;
        let old = operations[first].returned;
        if let (Some((_, old)), Some((_, new))) = (old, &mut operations[last].returned) {
            *new = old;
        }
        Ok(())
    }
}

async fn work(shared: Arc<Shared>, task: u32, client: Client, mut random: StdRng) {
    while !shared.ended() {
        let Some(number) = shared.open_a_key(&mut random) else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let key = format!("{}:{number}", shared.prefix);
        let value = shared.next_value.fetch_add(1, Ordering::Relaxed);
        let value = i64::try_from(value).unwrap_or(i64::MAX) * SPACING;
        let op = match random.random_range(0..100) {
            0..45 => Op::Get,
            45..70 => Op::Set(value),
            70..90 => Op::Add(1),
            90..96 => Op::SetIf(None, value),
            _ => Op::Delete,
        };
        let level = shared.plan.reads[random.random_range(0..shared.plan.reads.len())];
        let called = shared.now();
        let answer = call(&client, level, key, op).await;
        let returned = match answer {
            Ok(output) => {
                shared.close(number);
                Some((shared.now(), output))
            }
            Err(Error::OutcomeUnknown { .. }) => None,
            Err(Error::Unavailable { .. }) => {
                shared.close(number);
                continue;
            }
            Err(error) => {
                shared.stop.store(true, Ordering::Relaxed);
                let mut failed = shared.failed.lock().unwrap_or_else(PoisonError::into_inner);
                *failed = Some(format!("{op:?}: {error}"));
                return;
            }
        };
        let operation = KeyOperation {
            client: task,
            called,
            returned,
            op,
        };
        shared.record(number, operation);
    }
}

async fn call(client: &Client, reads: Consistency, key: String, op: Op) -> Result<Output, Error> {
    Ok(match op {
        Op::Get => {
            let value = client.get_with(key, reads).await?;
            let number = value.map(|value| number(&value.data)).transpose()?;
            Output::Value(number)
        }
        Op::Set(value) => {
            client.put(key, value.to_string()).await?;
            Output::Done
        }
        Op::Add(delta) => Output::Sum(client.increment(key, delta).await?),
        Op::SetIf(expected, value) => {
            let condition = match expected {
                None => Condition::Absent,
                Some(_) => Condition::Present,
            };
            let options = PutOptions {
                condition,
                ..PutOptions::default()
            };
            let outcome = client.put_with(key, value.to_string(), options).await?;
            Output::Changed(outcome.applied())
        }
        Op::Delete => Output::Changed(client.delete(key).await?),
        // Nobody asks for that: no key of these histories expires.
        Op::Expire(_) => Output::Done,
    })
}

fn number(data: &[u8]) -> Result<i64, Error> {
    let text = std::str::from_utf8(data).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or_else(|| Error::Invalid {
            field: "value".to_owned(),
            problem: format!("was read as {data:?}, which nobody wrote"),
        })
}
