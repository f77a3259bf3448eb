//! How the cost of Cairn grows along one axis at a time: partitions, data nodes, keys, bytes per
//! value, connections, operations under way. Each point has a cluster of its own, or shares one
//! with its axis where only the client differs, so that no other cluster takes of the machine.

mod axis;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cairn_workload::distribution::Skew;
use cairn_workload::operation::Mix;
use serde::Serialize;

use self::axis::{Axis, Point, parse_axis};
use self::report::{Report, Row};
use crate::compare::seconds;
use crate::driver::{self, Increments, Level, Load};
use crate::machine::{self, Machine};
use crate::sample::Collected;
use crate::scratch::{PathArgs, Scratch};
use crate::stop;
use crate::systems::{Cairn, CairnSpec, Protocol, Server};
use crate::usage::{self, Usage};

/// How long the keys of one point may take to be loaded.
const PRELOAD: Duration = Duration::from_secs(900);
/// How long a cluster is left alone before its rest is measured, and for how long that is.
const REST: Duration = Duration::from_secs(3);
const RESTS_FOR: Duration = Duration::from_secs(5);

/// What to try, and how long
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct GrowArgs {
    /// An axis and its points, NAME=NUMBER,...: partitions, nodes, keys, value-bytes, connections
    /// or depth (operations under way on each of 256 connections); to be given several times
    /// [default: all of them, each with points of its own]
    #[arg(long = "axis", value_name = "NAME=NUMBER,...", value_parser = parse_axis)]
    axes: Vec<(Axis, Vec<u64>)>,
    /// How many connections, but along their own axis
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds before it that do not count
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    warmup: f64,
    /// How often each is measured
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many keys, of 16 bytes, but along their own axis
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Bytes per value, but along their own axis
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_size: u32,
    #[command(flatten)]
    paths: PathArgs,
}

/// What is asked at each point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Asked {
    Writes,
    Reads,
}

impl Asked {
    const ALL: [Self; 2] = [Self::Writes, Self::Reads];

    fn name(self) -> &'static str {
        match self {
            Self::Writes => "writes",
            Self::Reads => "strong reads",
        }
    }

    fn mix(self) -> Mix {
        match self {
            Self::Writes => Mix::WRITES,
            Self::Reads => Mix::READS,
        }
    }
}

/// What a process takes while nobody asks for anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rest {
    /// Of one processor, in percent.
    processor_percent: f64,
    resident_mib: f64,
}

/// The dearest of the data nodes and of the coordinators.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rests {
    data_node: Rest,
    coordinator: Rest,
}

pub(crate) fn run(args: &GrowArgs) -> Result<()> {
    let axes = match args.axes.as_slice() {
        [] => Axis::ALL.map(|axis| (axis, axis.usual().to_vec())).into(),
        given => given.to_vec(),
    };
    let mut seen: Vec<Axis> = axes.iter().map(|(axis, _)| *axis).collect();
    seen.sort_unstable();
    seen.dedup();
    ensure!(seen.len() == axes.len(), "an axis is given twice");
    let scratch = Scratch::make(&args.paths)?;
    let machine = Machine::here(&scratch.paths.scratch);
    let mut report = Report::new(machine, scratch.command.clone());
    let mut outcome = Ok(());
    for (axis, points) in &axes {
        outcome = along(args, *axis, points, &scratch, &mut report);
        if outcome.is_err() {
            break;
        }
    }
    if report.has_figures() {
        let written = report.write(&scratch.results)?;
        eprintln!("written: {}", written.display());
    }
    outcome
}

fn along(
    args: &GrowArgs,
    axis: Axis,
    points: &[u64],
    scratch: &Scratch,
    report: &mut Report,
) -> Result<()> {
    let usual = Point {
        connections: args.connections as usize,
        keys: args.keys,
        value_bytes: args.value_size as usize,
        ..Point::default()
    };
    let mut shared: Option<Cairn> = None;
    for value in points {
        stop::check()?;
        let point = axis.at(usual, *value);
        let cluster = match shared.take() {
            Some(cluster) => cluster,
            None => start(&point, &format!("{}-{value}", axis.name()), scratch)?,
        };
        preload(args, &cluster, &point, scratch)?;
        let row = measure(args, axis, *value, &cluster, &point, scratch)?;
        report.add(row);
        if axis.is_the_clients() {
            shared = Some(cluster);
        }
    }
    Ok(())
}

fn start(point: &Point, name: &str, scratch: &Scratch) -> Result<Cairn> {
    eprintln!("{name}: starting a cluster");
    let partitions = ("CAIRN_PARTITIONS".to_owned(), point.partitions.to_string());
    let spec = CairnSpec {
        data_nodes: point.nodes,
        environment: [partitions].into(),
        name: name.to_owned(),
        ..CairnSpec::default()
    };
    Cairn::start(
        &scratch.paths.cairn,
        &scratch.paths.scratch.join(name),
        &spec,
    )
}

fn load(args: &GrowArgs, point: &Point, asked: Asked, round: u32, threads: usize) -> Load {
    Load {
        mix: asked.mix(),
        skew: Skew::Uniform,
        keys: point.keys,
        value_bytes: point.value_bytes,
        connections: point.connections,
        depth: point.depth,
        warmup: Duration::from_secs_f64(args.warmup),
        duration: Duration::from_secs_f64(args.seconds),
        threads,
        seed: u64::from(round) + 1,
    }
}

fn preload(args: &GrowArgs, cluster: &Cairn, point: &Point, scratch: &Scratch) -> Result<()> {
    let began = Instant::now();
    let target = cluster.target(Protocol::Resp, Level::Primary, Increments::Owner);
    let load = load(args, point, Asked::Writes, 0, scratch.threads);
    driver::preload(&target, &load, PRELOAD)?;
    eprintln!(
        "{} keys of {} bytes are there after {:.1} s",
        point.keys,
        point.value_bytes,
        began.elapsed().as_secs_f64()
    );
    Ok(())
}

fn measure(
    args: &GrowArgs,
    axis: Axis,
    value: u64,
    cluster: &Cairn,
    point: &Point,
    scratch: &Scratch,
) -> Result<Row> {
    let pids: Vec<u32> = cluster.servers().iter().map(Server::pid).collect();
    let target = cluster.target(Protocol::Resp, Level::Primary, Increments::Owner);
    let rest = rest(&pids, cluster.data().len())?;
    let mut collected = Asked::ALL.map(|asked| (asked, Collected::new()));
    for round in 0..args.rounds {
        for (asked, of) in &mut collected {
            let pulse = machine::pulse(&scratch.paths.scratch)?;
            let load = load(args, point, *asked, round, scratch.threads);
            let seen = driver::measure(&target, &load, &pids, &scratch.paths.scratch)?;
            eprintln!(
                "{} {value} round {}: {:<12} {:>9.0} ops/s",
                axis.name(),
                round + 1,
                asked.name(),
                seen.rate()
            );
            of.add(&seen, pulse);
        }
    }
    Ok(Row {
        axis,
        value,
        rest,
        asked: collected
            .iter()
            .map(|(asked, of)| (*asked, of.summary()))
            .collect(),
    })
}

/// What the processes take that nobody asks for anything.
fn rest(pids: &[u32], data_nodes: usize) -> Result<Rests> {
    let look =
        || -> Result<Vec<Usage>> { pids.iter().map(|pid| usage::of_process(*pid)).collect() };
    std::thread::sleep(REST);
    let before = look()?;
    std::thread::sleep(RESTS_FOR);
    let after = look()?;
    let used: Vec<Usage> = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.since(before))
        .collect();
    let (data, coordinators) = used.split_at(data_nodes.min(used.len()));
    Ok(Rests {
        data_node: dearest(data),
        coordinator: dearest(coordinators),
    })
}

fn dearest(used: &[Usage]) -> Rest {
    let most = |of: fn(&Usage) -> f64| used.iter().map(of).fold(0.0, f64::max);
    Rest {
        processor_percent: most(|usage| usage.cpu.as_secs_f64()) / RESTS_FOR.as_secs_f64() * 100.0,
        resident_mib: most(|usage| usage.resident as f64) / f64::from(1 << 20),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rest_of_a_role_is_that_of_its_dearest_process() {
        let usage = |millis: u64, mib: u64| Usage {
            cpu: Duration::from_millis(millis),
            resident: mib << 20,
        };
        let rest = dearest(&[usage(50, 90), usage(100, 70)]);
        assert!((rest.processor_percent - 2.0).abs() < 1e-9, "{rest:?}");
        assert!((rest.resident_mib - 90.0).abs() < 1e-9, "{rest:?}");
        assert_eq!(dearest(&[]), Rest::default());
    }
}
