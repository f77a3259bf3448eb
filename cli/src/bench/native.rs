//! The same closed loop through the Rust client: what an application that uses it
//! sees, its own cost included. All connections of the generator share the client,
//! as the tasks of an application do.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cairn_client::{Client, Error};

use super::load::Tally;
use super::report::Report;
use super::workload::{Operation, Plan, Random, Values, Window, key};
use super::{BenchArgs, Phase, cpu_time, plan, show_progress, window};
use crate::endpoints::Endpoints;
use crate::failure::{Failure, Kind};

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
    let window = window(args, phase, start);
    let total = Arc::new(Mutex::new(Tally::new()));
    let progress = Arc::new(AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let connections = u64::from(args.connections);
    std::thread::scope(|scope| {
        scope.spawn(|| show_progress(args, phase, &progress, &stop));
        let outcome = runtime.block_on(async {
            let mut tasks = tokio::task::JoinSet::new();
            for at in 0..connections {
                tasks.spawn(drive(
                    client.clone(),
                    plan(args, phase, at, connections),
                    window,
                    args.seed.wrapping_add(at),
                    args.value_size as usize,
                    Arc::clone(&progress),
                    Arc::clone(&total),
                ));
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
    let elapsed = match window {
        Some(window) => window.until - window.from,
        None => start.elapsed(),
    };
    let tally = total.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok((tally, elapsed))
}

async fn drive(
    client: Client,
    mut plan: Plan,
    window: Option<Window>,
    seed: u64,
    value_size: usize,
    progress: Arc<AtomicU64>,
    total: Arc<Mutex<Tally>>,
) {
    let mut random = Random::new(seed);
    let values = Values::new(value_size, &mut random);
    let mut tally = Tally::new();
    loop {
        let started = Instant::now();
        if window.is_some_and(|window| started >= window.until) {
            break;
        }
        let Some((operation, number)) = plan.next(&mut random) else {
            break;
        };
        let key = key(operation, number).to_vec();
        let mut missing = false;
        let outcome = match operation {
            Operation::Set => client
                .put(key, values.cut(&mut random).to_vec())
                .await
                .map(|_version| ()),
            Operation::Get => client.get(key).await.map(|value| missing = value.is_none()),
            Operation::Incr => client.increment(key, 1).await.map(|_sum| ()),
        };
        let ended = Instant::now();
        // As over RESP: what ends after the window is not counted.
        if window.is_some_and(|window| ended >= window.until) {
            break;
        }
        match outcome {
            Ok(()) => {
                progress.fetch_add(1, Ordering::Relaxed);
                if window.is_none_or(|window| started >= window.from) {
                    tally.good(ended - started);
                    tally.missing += u64::from(missing);
                }
            }
            Err(error) => tally.error(kind(&error)),
        }
    }
    total
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .add(&tally);
}

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Connect { .. } => "connect",
        Error::Unavailable { .. } => "unavailable",
        Error::OutcomeUnknown { .. } => "outcome unknown",
        Error::DiskFull => "disk full",
        Error::Invalid { .. } => "invalid",
        Error::Unsupported { .. } => "unsupported",
        Error::Compacted { .. } => "compacted",
        Error::NotAnInteger => "not an integer",
        Error::Overflow => "overflow",
    }
}
