//! `cairn bench`: a load generator with the workloads of YCSB ("Benchmarking cloud serving
//! systems with YCSB", 2010) and some of its own. Each connection has one request under way
//! at a time. In a closed loop it begins the next when that is answered. In an open one
//! (`--rate`) operations are due evenly, and their latency counts from when they were due:
//! a cluster that stands still delays all that came meanwhile, which a closed loop omits.
//!
//! Over the Redis protocol it is written for little processor time ([`load`]); its
//! own share is part of the report, so that a figure that measures the generator
//! rather than the servers is seen as such. `--native` goes through the Rust client.

mod load;
mod native;
mod report;

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::load::Task;
use self::report::Report;
use crate::endpoints;
use crate::failure::Failure;
use crate::output::Format;
use cairn_workload::directory::Directory;
use cairn_workload::distribution::{Chooser, Distribution, Inserted};
use cairn_workload::operation::{Mix, Pace, Plan, Window};
use cairn_workload::tally::Tally;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BenchArgs {
    /// What to ask for
    #[arg(
        long,
        short = 'w',
        alias = "mode",
        value_enum,
        default_value_t = Workload::Write,
        ignore_case = true
    )]
    workload: Workload,
    /// Shares of the operations where the workload is `mix`
    #[arg(
        long,
        value_name = "get=N,set=N,insert=N,rmw=N,incr=N",
        default_value = "set=45,get=45,incr=10"
    )]
    mix: Mix,
    /// Which keys are asked for how often (default: as YCSB has it for a to f, else uniform)
    #[arg(long, value_enum)]
    distribution: Option<Distribution>,
    /// Operations per second that are due, answered or not (open loop); without it each
    /// connection asks again once it is answered (closed loop)
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    rate: Option<f64>,
    /// How many connections, each with one request at a time
    #[arg(long, short = 'c', default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// How many keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,
    /// Bytes per value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=8_388_608))]
    value_size: u32,
    /// Seconds to measure
    #[arg(long, default_value_t = 10.0, value_parser = seconds, conflicts_with = "requests")]
    duration: f64,
    /// Operations to measure, instead of a duration
    #[arg(long)]
    requests: Option<u64>,
    /// Seconds before the measurement whose operations are not counted
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Threads of the generator (default: one per four processors)
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// The seed of keys and operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Do not write every key first where the mode reads
    #[arg(long)]
    no_preload: bool,
    /// Redis addresses of data nodes (default: asked of the cluster)
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    resp: Vec<String>,
    /// Go through the Rust client (gRPC) instead of the Redis protocol
    #[arg(long, conflicts_with = "resp")]
    native: bool,
}

/// What to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Workload {
    /// SET alone
    Write,
    /// GET alone
    Read,
    /// What --mix says
    Mix,
    /// YCSB A: half reads, half updates, Zipfian
    A,
    /// YCSB B: 95% reads, 5% updates, Zipfian
    B,
    /// YCSB C: reads alone, Zipfian
    C,
    /// YCSB D: 95% reads of the latest keys, 5% inserts
    D,
    /// YCSB F: half reads, half read-modify-writes, Zipfian
    F,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|rate| rate.is_finite() && (0.1..=10_000_000.0).contains(rate))
        .ok_or_else(|| "give operations per second from 0.1 to 10000000".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| seconds.is_finite() && (0.0..=86_400.0).contains(seconds))
        .ok_or_else(|| "give seconds from 0 to 86400".to_owned())
}

impl BenchArgs {
    fn mix(&self) -> Mix {
        match self.workload {
            Workload::Mix => self.mix,
            Workload::Write => Mix::WRITES,
            Workload::Read | Workload::C => Mix::READS,
            Workload::A => Mix::YCSB_A,
            Workload::B => Mix::YCSB_B,
            Workload::D => Mix::YCSB_D,
            Workload::F => Mix::YCSB_F,
        }
    }

    fn distribution(&self) -> Distribution {
        self.distribution.unwrap_or(match self.workload {
            Workload::Write | Workload::Read | Workload::Mix => Distribution::Uniform,
            Workload::A | Workload::B | Workload::C | Workload::F => Distribution::Zipfian,
            Workload::D => Distribution::Latest,
        })
    }

    /// As it is given.
    fn workload_name(&self) -> String {
        clap::ValueEnum::to_possible_value(&self.workload)
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn preloads(&self) -> bool {
        self.mix().reads() && !self.no_preload
    }

    fn threads(&self) -> usize {
        let most = self.connections as usize;
        self.threads
            .map_or_else(
                || (cairn_node::settings::allowed_cpus() / 4).max(1),
                |threads| threads as usize,
            )
            .clamp(1, most)
    }

    fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.duration)
    }

    fn warmup(&self) -> Duration {
        // A count of requests is measured from the first one.
        if self.requests.is_some() {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(self.warmup)
        }
    }
}

/// Runs the measurement and prints its report.
pub(crate) fn run(
    args: &BenchArgs,
    endpoints: &endpoints::Endpoints,
    format: Format,
) -> Result<(), Failure> {
    if endpoints.has_tls() && !args.native {
        return Err(Failure::usage(
            "the load generator speaks the Redis protocol without TLS alone",
        )
        .with_remedy("Give --native to measure through the Rust client, which speaks TLS"));
    }
    let report = if args.native {
        native::run(args, endpoints)?
    } else {
        run_resp(args, endpoints)?
    };
    report.print(format)
}

fn run_resp(args: &BenchArgs, endpoints: &endpoints::Endpoints) -> Result<Report, Failure> {
    let seeds = if args.resp.is_empty() {
        endpoints.resp_addresses()?
    } else {
        args.resp.clone()
    };
    let directory = Directory::open(seeds, endpoints.auth().cloned()).map_err(|error| {
        Failure::unavailable(format!("no data node told its slots: {error}")).with_remedy(
            "is the cluster up? `cairn status` shows it; --resp names its Redis addresses",
        )
    })?;
    if args.preloads() {
        let (tally, _) = phase(args, &directory, Phase::Preload)?;
        if !tally.errors.is_empty() {
            eprintln!("while keys were preloaded: {:?}", tally.errors);
        }
    }
    let cpu_before = cpu_time();
    let (tally, elapsed) = phase(args, &directory, Phase::Measure)?;
    let cpu = cpu_time().saturating_sub(cpu_before);
    Ok(Report::new(args, "resp", &tally, elapsed, cpu))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Preload,
    Measure,
}

/// What part `at` of `parts` has of a total.
fn share(total: u64, at: u64, parts: u64) -> u64 {
    total * (at + 1) / parts - total * at / parts
}

/// What the threads or tasks of a phase have in common.
struct Shared<'a> {
    args: &'a BenchArgs,
    phase: Phase,
    start: Instant,
    /// When it measures; a phase that ends by a count measures all of it.
    window: Option<Window>,
    keys: Chooser,
}

impl<'a> Shared<'a> {
    fn new(args: &'a BenchArgs, phase: Phase, start: Instant) -> Self {
        let window = (phase == Phase::Measure && args.requests.is_none()).then(|| Window {
            from: start + args.warmup(),
            until: start + args.warmup() + args.duration(),
        });
        Self {
            args,
            phase,
            start,
            window,
            keys: Chooser::new(args.distribution(), Inserted::new(args.keys)),
        }
    }

    /// What part `at` of `parts` asks for.
    fn plan(&self, at: u64, parts: u64) -> Plan {
        let args = self.args;
        match self.phase {
            Phase::Preload => Plan::Preload {
                next: args.keys * at / parts,
                end: args.keys * (at + 1) / parts,
            },
            Phase::Measure => Plan::Random {
                mix: args.mix(),
                keys: self.keys.clone(),
                left: args.requests.map(|requests| share(requests, at, parts)),
            },
        }
    }

    /// When it is due, if that is not when it can.
    fn pace(&self, at: u64, parts: u64) -> Option<Pace> {
        let rate = self.args.rate.filter(|_| self.phase == Phase::Measure)?;
        Some(Pace::new(self.start, rate, at, parts))
    }

    /// How long it measured.
    fn elapsed(&self) -> Duration {
        match self.window {
            Some(window) => window.until - window.from,
            None => self.start.elapsed(),
        }
    }
}

/// Runs one phase on every thread.
fn phase(
    args: &BenchArgs,
    directory: &Directory,
    phase: Phase,
) -> anyhow::Result<(Tally, Duration)> {
    let threads = args.threads() as u64;
    let start = Instant::now();
    let shared = Shared::new(args, phase, start);
    let progress = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let mut tally = Tally::new();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..threads)
            .map(|at| {
                let task = Task {
                    directory,
                    connections: share(u64::from(args.connections), at, threads) as usize,
                    plan: shared.plan(at, threads),
                    pace: shared.pace(at, threads),
                    window: shared.window,
                    seed: args.seed.wrapping_add(at.wrapping_mul(0x51_7C_C1)),
                    value_size: args.value_size as usize,
                    progress: &progress,
                };
                scope.spawn(move || load::run(task))
            })
            .collect();
        scope.spawn(|| directory.keep_fresh(&stop));
        scope.spawn(|| show_progress(args, phase, &progress, &stop));
        let mut result = Ok(());
        for worker in workers {
            match worker.join() {
                Ok(Ok(part)) => tally.add(&part),
                Ok(Err(error)) => result = Err(error).context("drive connections"),
                Err(_) => result = Err(anyhow::anyhow!("a thread of the generator panicked")),
            }
        }
        stop.store(true, Ordering::Release);
        result
    })?;
    Ok((tally, shared.elapsed()))
}

/// Shows operations per second on a terminal until `stop`.
fn show_progress(args: &BenchArgs, phase: Phase, progress: &AtomicU64, stop: &AtomicBool) {
    let (total, label) = match phase {
        Phase::Preload => (args.keys, "preload"),
        Phase::Measure => (args.requests.unwrap_or(0), "measure"),
    };
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr_with_hz(4)
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target((total > 0).then_some(total), target);
    let template = if total > 0 {
        "{msg} {bar:30} {pos}/{len} {elapsed_precise}"
    } else {
        "{msg} {spinner} {elapsed_precise}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut last = (Instant::now(), 0u64);
    while !stop.load(Ordering::Acquire) {
        std::thread::sleep(Duration::from_millis(50));
        let (at, done) = (Instant::now(), progress.load(Ordering::Relaxed));
        let since = at.duration_since(last.0);
        if since >= Duration::from_millis(500) {
            let rate = (done - last.1) as f64 / since.as_secs_f64();
            bar.set_message(format!("{label}: {rate:>9.0} ops/s"));
            bar.set_position(if total > 0 { done } else { 0 });
            last = (at, done);
        }
    }
    bar.finish_and_clear();
}

/// The processor time that this process has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
