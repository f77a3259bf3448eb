//! The same load through the Rust client: what an application that uses it
//! sees, its own cost included. All connections of the generator share the client,
//! as the tasks of an application do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cairn_client::{Client, Error};

use super::report::Report;
use super::{BenchArgs, Phase, Shared, cpu_time, show_progress};
use crate::endpoints::Endpoints;
use crate::failure::{Failure, Kind};
use cairn_workload::operation::{Operation, Pace, Plan, Random, Values, Window, key};
use cairn_workload::tally::Tally;

pub(super) fn run(args: &BenchArgs, endpoints: &Endpoints) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(args.threads())
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Kind::Other, format!("start the runtime: {error}")))?;
    let client = runtime.block_on(endpoints.client())?;
    if args.preloads() {
        let (tally, _) = phase(args, &runtime, &client, Phase::Preload)?;
        if !tally.errors.is_empty() {
            eprintln!("while keys were preloaded: {:?}", tally.errors);
        }
    }
    let cpu_before = cpu_time();
    let (tally, elapsed) = phase(args, &runtime, &client, Phase::Measure)?;
    let cpu = cpu_time().saturating_sub(cpu_before);
    Ok(Report::new(args, "gRPC", &tally, elapsed, cpu))
}

fn phase(
    args: &BenchArgs,
    runtime: &tokio::runtime::Runtime,
    client: &Client,
    phase: Phase,
) -> Result<(Tally, Duration), Failure> {
    let start = Instant::now();
    let shared = Shared::new(args, phase, start);
    // A tally takes a few hundred KiB, so that there are fewer of them than connections.
    let tallies: Arc<[Mutex<Tally>]> = (0..args.threads() * 2)
        .map(|_| Mutex::new(Tally::new()))
        .collect();
    let progress = Arc::new(AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let connections = u64::from(args.connections);
    std::thread::scope(|scope| {
        scope.spawn(|| show_progress(args, phase, &progress, &stop));
        let outcome = runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for at in 0..connections {
                let worker = Worker {
                    client: client.clone(),
                    plan: shared.plan(at, connections),
                    pace: shared.pace(at, connections),
                    window: shared.window,
                    random: Random::new(args.seed.wrapping_add(at)),
                    progress: Arc::clone(&progress),
                    tallies: Arc::clone(&tallies),
                    tally: at as usize % tallies.len(),
                };
                tasks.spawn(worker.drive(args.value_size as usize));
            }
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|error| {
                    Failure::new(Kind::Other, format!("drive a connection: {error}"))
                })?;
            }
            Ok::<(), Failure>(())
        });
        stop.store(true, Ordering::Release);
        outcome
    })?;
    let mut total = Tally::new();
    for tally in tallies.iter() {
        total.add(&tally.lock().unwrap_or_else(PoisonError::into_inner));
    }
    Ok((total, shared.elapsed()))
}

/// How late a timer of the runtime may wake a task: that much is not the cluster's doing.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// One connection of the generator: a task with one operation under way at a time.
struct Worker {
    client: Client,
    plan: Plan,
    pace: Option<Pace>,
    window: Option<Window>,
    random: Random,
    progress: Arc<AtomicU64>,
    tallies: Arc<[Mutex<Tally>]>,
    /// Which of them is this one's.
    tally: usize,
}

impl Worker {
    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tallies[self.tally]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the next operation is due; returns what its latency counts from.
    async fn due(&mut self) -> Instant {
        let Some(pace) = &mut self.pace else {
            return Instant::now();
        };
        let due = pace.take();
        let too_late = self.window.is_some_and(|window| due >= window.until);
        if too_late || due <= Instant::now() {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now().min(due + TIMER_GRAIN)
    }

    async fn drive(mut self, value_size: usize) {
        let values = Values::new(value_size, &mut self.random);
        loop {
            let started = self.due().await;
            if self.window.is_some_and(|window| started >= window.until) {
                break;
            }
            let Some((operation, number)) = self.plan.next(&mut self.random) else {
                break;
            };
            let call = self.call(operation, number, &values);
            let outcome = match self.window {
                // As over RESP: what ends after the window is not counted.
                Some(window) => match tokio::time::timeout_at(window.until.into(), call).await {
                    Ok(outcome) => outcome,
                    Err(_) => {
                        self.count_unanswered(window.until, started);
                        break;
                    }
                },
                None => call.await,
            };
            let ended = Instant::now();
            self.plan.ended(operation, number);
            match outcome {
                Ok(missing) => {
                    self.progress.fetch_add(1, Ordering::Relaxed);
                    if self.window.is_none_or(|window| started >= window.from) {
                        let mut tally = self.tally();
                        tally.good(operation, ended.saturating_duration_since(started));
                        tally.missing += u64::from(missing);
                    }
                }
                Err(error) => self.tally().error(kind(&error)),
            }
        }
    }

    /// What of an open loop was due within the window and not answered in it.
    fn count_unanswered(&self, until: Instant, oldest: Instant) {
        if let Some(pace) = &self.pace {
            let waited = until.saturating_duration_since(oldest);
            self.tally().unanswered(1 + pace.behind(until), waited);
        }
    }

    /// Makes one operation's calls; says whether a key that it read was missing.
    fn call(
        &mut self,
        operation: Operation,
        number: u64,
        values: &Values,
    ) -> impl Future<Output = Result<bool, Error>> + Send + use<> {
        let client = self.client.clone();
        let key = Bytes::copy_from_slice(&key(operation, number));
        let value = Bytes::copy_from_slice(values.cut(&mut self.random));
        async move {
            match operation {
                Operation::Read => Ok(client.get(key).await?.is_none()),
                Operation::Update | Operation::Insert => {
                    client.put(key, value).await.map(|_version| false)
                }
                Operation::ReadModifyWrite => {
                    let missing = client.get(key.clone()).await?.is_none();
                    client.put(key, value).await.map(|_version| missing)
                }
                Operation::Increment => client.increment(key, 1).await.map(|_sum| false),
            }
        }
    }
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Connect { .. } => "connect",
        Error::Unavailable { .. } => "unavailable",
        Error::OutcomeUnknown { .. } => "outcome unknown",
        Error::DiskFull => "disk full",
        Error::Invalid { .. } => "invalid",
        Error::Unsupported { .. } => "unsupported",
        Error::Unauthenticated { .. } => "not let in",
        Error::PermissionDenied { .. } => "permission denied",
        Error::Compacted { .. } => "compacted",
        Error::NotAnInteger => "not an integer",
        Error::Overflow => "overflow",
    }
}
