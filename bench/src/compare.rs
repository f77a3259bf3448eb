//! The comparison: every system runs, and each cell (a workload, a number of connections) is
//! measured on one after the other, round by round, so that what the machine does meanwhile
//! falls on all alike.

mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_workload::distribution::{Skew, THETA};

use self::report::Report;
use crate::driver::{self, Level, Load};
use crate::machine::{self, Machine};
use crate::sample::Collected;
use crate::scratch::{PathArgs, Scratch};
use crate::stats::Spread;
use crate::stop;
use crate::systems::{Kind, Paths, Protocol, Server, System};
use crate::usage;
use crate::workloads::{Workload, skew_name};

/// How long the keys may take to be loaded into one system.
const PRELOAD: Duration = Duration::from_secs(300);
/// All systems together have come to rest when they take less of one processor than this.
const REST: f64 = 0.15;
const REST_SPAN: Duration = Duration::from_millis(200);
const REST_TRIES: usize = 15;

/// What to compare, and how long
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CompareArgs {
    /// About three minutes: writes and strong reads, 64 connections, cairn-3, redis and etcd
    #[arg(long, conflicts_with = "full")]
    quick: bool,
    /// Everything: all workloads, connections, depths and protocols, uniform and Zipfian keys
    #[arg(long)]
    full: bool,
    /// Cairn alone, two seconds: whether the harness works
    #[arg(long, conflicts_with_all = ["quick", "full"])]
    smoke: bool,
    /// Which systems [default: cairn-3,cairn-5,redis,etcd]
    #[arg(long, value_enum, value_delimiter = ',')]
    systems: Vec<Kind>,
    /// Which workloads
    #[arg(long, value_enum, value_delimiter = ',', ignore_case = true)]
    workloads: Vec<Workload>,
    /// How many connections
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: Vec<u32>,
    /// Operations under way on each connection
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000))]
    depths: Vec<u32>,
    /// What Cairn is spoken to by [default: resp; with --full resp,grpc]
    #[arg(long, value_enum, value_delimiter = ',')]
    protocols: Vec<Protocol>,
    /// Seconds of each measurement
    #[arg(long, value_parser = seconds)]
    seconds: Option<f64>,
    /// Seconds before it that do not count
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// How often each is measured
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How many keys, of 16 bytes
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Bytes per value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_size: u32,
    #[command(flatten)]
    paths: PathArgs,
}

/// Seconds, as a flag has them.
pub(crate) fn seconds(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.1..=3600.0).contains(seconds))
        .ok_or_else(|| "give seconds from 0.1 to 3600".to_owned())
}

/// One thing that is measured on each arm.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cell {
    workload: Workload,
    skew: Skew,
    connections: u32,
    depth: u32,
}

impl Cell {
    fn new(workload: Workload, connections: u32, depth: u32) -> Self {
        Self {
            workload,
            skew: workload.skew(),
            connections,
            depth,
        }
    }

    fn zipfian(self) -> Self {
        Self {
            skew: Skew::Zipfian(THETA),
            ..self
        }
    }

    /// For the names of files.
    fn name(&self) -> String {
        let depth = match self.depth {
            1 => String::new(),
            depth => format!("-depth{depth}"),
        };
        let skew = match self.skew {
            skew if skew == self.workload.skew() => String::new(),
            skew => format!("-{}", skew_name(skew)),
        };
        format!(
            "{}-c{}{depth}{skew}",
            self.workload.name(),
            self.connections
        )
    }
}

impl CompareArgs {
    fn systems(&self) -> Vec<Kind> {
        if !self.systems.is_empty() {
            let mut systems = self.systems.clone();
            systems.sort_unstable();
            systems.dedup();
            return systems;
        }
        if self.smoke {
            vec![Kind::Cairn3]
        } else if self.quick {
            vec![Kind::Cairn3, Kind::Etcd, Kind::Redis]
        } else {
            vec![Kind::Cairn3, Kind::Cairn5, Kind::Etcd, Kind::Redis]
        }
    }

    fn protocols(&self) -> Vec<Protocol> {
        match self.protocols.as_slice() {
            [] if self.full => vec![Protocol::Resp, Protocol::Grpc],
            [] => vec![Protocol::Resp],
            given => given.to_vec(),
        }
    }

    fn seconds(&self) -> f64 {
        self.seconds.unwrap_or(if self.smoke { 1.0 } else { 5.0 })
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(match (self.smoke, self.full) {
            (true, _) => 1,
            (_, true) => 5,
            (false, false) => 3,
        })
    }

    fn cells(&self) -> Vec<Cell> {
        use Workload::{A, B, C, D, F, Read, Write};
        let given = |flag: &[u32], default: &[u32]| match flag {
            [] => default.to_vec(),
            flag => flag.to_vec(),
        };
        let chosen =
            !(self.workloads.is_empty() && self.connections.is_empty() && self.depths.is_empty());
        if chosen {
            let workloads = match self.workloads.as_slice() {
                [] => vec![Write, Read],
                given => given.to_vec(),
            };
            let (connections, depths) =
                (given(&self.connections, &[64]), given(&self.depths, &[1]));
            return workloads
                .into_iter()
                .flat_map(|workload| connections.iter().map(move |at| (workload, *at)))
                .flat_map(|(workload, at)| {
                    depths
                        .iter()
                        .map(move |depth| Cell::new(workload, at, *depth))
                })
                .collect();
        }
        if self.smoke || self.quick {
            return vec![Cell::new(Write, 64, 1), Cell::new(Read, 64, 1)];
        }
        let mut cells = Vec::new();
        for workload in [Write, Read] {
            cells.extend([1, 64, 256].map(|connections| Cell::new(workload, connections, 1)));
            cells.push(Cell::new(workload, 64, 16));
            if self.full {
                cells.push(Cell::new(workload, 64, 1).zipfian());
            }
        }
        let mixes: &[Workload] = if self.full { &[A, B, C, D, F] } else { &[A, B] };
        cells.extend(mixes.iter().map(|workload| Cell::new(*workload, 64, 1)));
        cells
    }

    fn load(&self, cell: &Cell, keys: u64, round: u32, threads: usize) -> Load {
        Load {
            mix: cell.workload.mix(),
            skew: cell.skew,
            keys,
            value_bytes: self.value_size as usize,
            connections: cell.connections as usize,
            depth: cell.depth as usize,
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.seconds()),
            threads,
            seed: u64::from(round) + 1,
        }
    }
}

/// A system as it is spoken to by one protocol.
struct Arm {
    kind: Kind,
    protocol: Protocol,
    /// Which of the systems that run.
    system: usize,
    name: String,
    /// How many keys it holds by now.
    keys: u64,
}

struct Running {
    kind: Kind,
    system: System,
}

/// Runs it all; what was measured until somebody stopped it is still written.
pub(crate) fn run(args: &CompareArgs) -> Result<()> {
    let scratch = Scratch::make(&args.paths)?;
    let mut report = Report::new(
        Machine::here(&scratch.paths.scratch),
        args.keys,
        args.value_size,
        args.seconds(),
        args.rounds(),
        scratch.command.clone(),
    );
    let outcome = measure_all(args, &scratch, &mut report);
    if report.has_figures() {
        let written = report.write(&scratch.results)?;
        eprintln!("written: {}", written.display());
    }
    outcome?;
    ensure!(
        report.is_sound() || !args.smoke,
        "some answers were not good: see the report"
    );
    Ok(())
}

fn measure_all(args: &CompareArgs, scratch: &Scratch, report: &mut Report) -> Result<()> {
    let running = start_all(args, &scratch.paths, report)?;
    let mut arms = arms(args, &running);
    ensure!(
        !arms.is_empty(),
        "no system runs: there is nothing to measure"
    );
    report.idle(idle(&running)?);
    let cells = args.cells();
    let each = args.seconds() + args.warmup + 1.2;
    let total = each * arms.len() as f64 * f64::from(args.rounds()) * cells.len() as f64;
    eprintln!(
        "{} cells, {} arms, {} rounds: about {:.0} minutes",
        cells.len(),
        arms.len(),
        args.rounds(),
        (total / 60.0).ceil()
    );
    for (number, cell) in cells.iter().enumerate() {
        let mut collected: Vec<Collected> = arms.iter().map(|_| Collected::new()).collect();
        for round in 0..args.rounds() {
            for turn in 0..arms.len() {
                // Each round begins with another arm, so that none always follows the same.
                let at = (turn + round as usize) % arms.len();
                let arm = &mut arms[at];
                let system = &running[arm.system].system;
                rest(&running)?;
                let pulse = machine::pulse(&scratch.paths.scratch)?;
                let load = args.load(cell, arm.keys, round, scratch.threads);
                let target = system.target(arm.protocol, Level::Primary);
                let data = &scratch.paths.scratch;
                let seen = driver::measure(&target, &load, &system.pids(), data)?;
                arm.keys = seen.keys;
                eprintln!(
                    "[{}/{}] {} round {}: {:<14} {:>9.0} ops/s",
                    number + 1,
                    cells.len(),
                    cell.name(),
                    round + 1,
                    arm.name,
                    seen.rate()
                );
                collected[at].add(&seen, pulse);
            }
        }
        report.add(cell, &arms, &collected);
    }
    Ok(())
}

fn start_all(args: &CompareArgs, paths: &Paths, report: &mut Report) -> Result<Vec<Running>> {
    let mut running = Vec::new();
    for kind in args.systems() {
        stop::check()?;
        eprintln!("{}: starting", kind.name());
        let started = Instant::now();
        let up = System::start(kind, paths).and_then(|system| {
            let load = Load {
                connections: 1,
                ..args.load(&Cell::new(Workload::Write, 1, 1), args.keys, 0, 1)
            };
            let protocol = Protocol::Resp;
            driver::preload(&system.target(protocol, Level::Primary), &load, PRELOAD)?;
            Ok(system)
        });
        match up {
            Ok(system) => {
                eprintln!(
                    "{}: serves, with {} keys, after {:.1} s",
                    kind.name(),
                    args.keys,
                    started.elapsed().as_secs_f64()
                );
                report.system(kind.name(), system.description());
                running.push(Running { kind, system });
            }
            Err(error) if kind.is_peer() && !stop::requested() => {
                eprintln!("\n*** {} IS SKIPPED: {error:#}\n", kind.name());
                report.skipped(kind.name(), format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(running)
}

fn arms(args: &CompareArgs, running: &[Running]) -> Vec<Arm> {
    let mut arms = Vec::new();
    for (system, running) in running.iter().enumerate() {
        let protocols = match running.kind {
            Kind::Cairn3 | Kind::Cairn5 => args.protocols(),
            Kind::Etcd => vec![Protocol::Grpc],
            Kind::Redis => vec![Protocol::Resp],
        };
        for protocol in protocols {
            arms.push(Arm {
                kind: running.kind,
                protocol,
                system,
                name: format!("{} {}", running.kind.name(), protocol.name()),
                keys: args.keys,
            });
        }
    }
    arms
}

fn cpu_of(servers: &[Server]) -> Result<f64> {
    let mut sum = 0.0;
    for server in servers {
        sum += usage::of_process(server.pid())?.cpu.as_secs_f64();
    }
    Ok(sum)
}

/// What each system takes of one processor while nobody asks it anything.
fn idle(running: &[Running]) -> Result<Vec<(String, f64)>> {
    const SPAN: Duration = Duration::from_secs(2);
    rest(running)?;
    let all = || -> Result<Vec<f64>> {
        running
            .iter()
            .map(|it| cpu_of(it.system.servers()))
            .collect()
    };
    let before = all()?;
    std::thread::sleep(SPAN);
    let after = all()?;
    Ok(running
        .iter()
        .zip(before.iter().zip(&after))
        .map(|(it, (before, after))| {
            (
                it.kind.name().to_owned(),
                (after - before) / SPAN.as_secs_f64(),
            )
        })
        .collect())
}

/// Waits until what the systems still do of the load before has faded, for a bounded time.
fn rest(running: &[Running]) -> Result<()> {
    let all = || -> Result<f64> { running.iter().map(|it| cpu_of(it.system.servers())).sum() };
    let mut before = all()?;
    for _ in 0..REST_TRIES {
        stop::check()?;
        std::thread::sleep(REST_SPAN);
        let after = all()?;
        if (after - before) / REST_SPAN.as_secs_f64() < REST {
            return Ok(());
        }
        before = after;
    }
    Ok(())
}

/// Where results go, if nobody says otherwise.
pub(crate) const RESULTS: &str = "bench/results";

/// How Cairn does beside one peer, in one cell.
#[derive(Clone, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Against {
    ours: String,
    theirs: String,
    ratio: Spread,
}

fn against(arms: &[Arm], collected: &[Collected]) -> Vec<Against> {
    let mut ratios = Vec::new();
    for (ours, our_rates) in arms.iter().zip(collected) {
        for (theirs, their_rates) in arms.iter().zip(collected) {
            if !ours.kind.is_peer() && theirs.kind.is_peer() {
                ratios.push(Against {
                    ours: ours.name.clone(),
                    theirs: theirs.name.clone(),
                    ratio: Spread::of_ratios(&our_rates.rates(), &their_rates.rates()),
                });
            }
        }
    }
    ratios
}

/// A path below the checkout, where it is relative.
pub(crate) fn below(root: &std::path::Path, path: PathBuf) -> PathBuf {
    if path.is_absolute() {
        path
    } else {
        root.join(path)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: CompareArgs,
    }

    fn args(words: &[&str]) -> CompareArgs {
        Cli::try_parse_from(std::iter::once(&"bench").chain(words))
            .expect("valid")
            .args
    }

    #[test]
    fn the_quick_form_is_short_and_the_full_one_has_everything() {
        let quick = args(&["--quick"]);
        let seconds = quick.cells().len() * quick.systems().len() * quick.rounds() as usize * 7;
        assert!(seconds <= 180, "{seconds}");
        assert_eq!(quick.systems(), [Kind::Cairn3, Kind::Etcd, Kind::Redis]);
        let full = args(&["--full"]).cells();
        for workload in <Workload as clap::ValueEnum>::value_variants() {
            assert!(
                full.iter().any(|cell| cell.workload == *workload),
                "{workload:?}"
            );
        }
        for connections in [1, 64, 256] {
            assert!(full.iter().any(|cell| cell.connections == connections));
        }
        assert!(full.iter().any(|cell| cell.depth > 1));
        let mut names: Vec<String> = full.iter().map(Cell::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), full.len(), "each cell has a name of its own");
    }

    #[test]
    fn what_is_chosen_is_crossed() {
        let chosen = args(&[
            "--workloads",
            "a,Write",
            "--connections",
            "1,8",
            "--depths",
            "4",
        ]);
        let names: Vec<String> = chosen.cells().iter().map(Cell::name).collect();
        let expected = [
            "ycsb-a-c1-depth4",
            "ycsb-a-c8-depth4",
            "write-c1-depth4",
            "write-c8-depth4",
        ];
        assert_eq!(names, expected);
        assert_eq!(
            args(&["--systems", "redis,cairn-3"]).systems(),
            [Kind::Cairn3, Kind::Redis]
        );
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &["--quick", "--full"][..],
            &["--seconds", "0"],
            &["--rounds", "0"],
            &["--systems", "mysql"],
            &["--depths", "0"],
        ] {
            let words = std::iter::once(&"bench").chain(words);
            assert!(Cli::try_parse_from(words).is_err());
        }
    }
}
