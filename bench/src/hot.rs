//! Cairn under hot keys: every data node is held to the same share of a processor, as machines
//! of their own would hold them, so that more nodes are more capacity and one overloaded node
//! is seen as such. Each arm is a way to deal with hot keys: a level of reads, settings of the
//! nodes, a client.

mod arm;
mod report;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use cairn_workload::distribution::{Skew, THETA};
use cairn_workload::operation::Mix;

use self::arm::{Arm, parse_arm};
use self::report::{Report, Row};
use crate::cgroup::{Groups, Quota};
use crate::compare::seconds;
use crate::driver::{self, Load, Seen};
use crate::machine::{self, Machine};
use crate::sample::Collected;
use crate::scratch::{PathArgs, Scratch};
use crate::stats::{Spread, max_over_mean};
use crate::stop;
use crate::systems::{Cairn, CairnSpec};

/// What is compared where nobody says otherwise.
const USUAL_ARMS: [&str; 3] = [
    "primary=read=primary",
    "replica=read=replica",
    "striped=loads=counter,increments=any,set:counters=ctr:=16",
];
const PRELOAD: Duration = Duration::from_secs(120);
/// Between two measurements, so that the budget of the one before is used up.
const PAUSE: Duration = Duration::from_millis(500);

/// A load with hot keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum HotLoad {
    /// Reads, keys Zipfian with exponent 0.99
    #[value(name = "zipf-0.99")]
    Zipf099,
    /// Reads, keys Zipfian with exponent 1.2
    #[value(name = "zipf-1.2")]
    Zipf12,
    /// Reads, of which one key takes half
    #[value(name = "one-key")]
    OneKey,
    /// Increments of one counter
    #[value(name = "counter")]
    Counter,
}

impl HotLoad {
    const ALL: [Self; 4] = [Self::Zipf099, Self::Zipf12, Self::OneKey, Self::Counter];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zipf099 => "zipf-0.99",
            Self::Zipf12 => "zipf-1.2",
            Self::OneKey => "one-key",
            Self::Counter => "counter",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Zipf099 => "Reads, Zipfian keys (0.99)",
            Self::Zipf12 => "Reads, Zipfian keys (1.2)",
            Self::OneKey => "Reads, half of them of one key",
            Self::Counter => "Increments of one counter",
        }
    }

    fn skew(self) -> Skew {
        match self {
            Self::Zipf099 => Skew::Zipfian(THETA),
            Self::Zipf12 => Skew::Zipfian(1.2),
            Self::OneKey => Skew::OneKey(0.5),
            Self::Counter => Skew::OneKey(1.0),
        }
    }

    fn mix(self) -> Mix {
        let counter = u32::from(self == Self::Counter);
        Mix {
            get: 1 - counter,
            incr: counter,
            ..Mix::default()
        }
    }
}

/// What to try, and how long
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HotArgs {
    /// With how many data nodes
    #[arg(long, value_delimiter = ',', default_value = "3,6,12",
          value_parser = clap::value_parser!(u32).range(3..=64))]
    nodes: Vec<u32>,
    /// Which loads [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<HotLoad>,
    /// A way to deal with hot keys: NAME=KEY=VALUE,... with the keys `read` (primary,
    /// replica, or near: from the Rust client's memory), `increments` (owner, or any: each connection's to one node), `protocol` (resp,
    /// grpc or client), `loads` (those that it is tried under, with + between them),
    /// `set:SETTING` (told to `cairn cluster set`), or a CAIRN_* variable of every node; to be
    /// given several times [default: primary=read=primary, replica=read=replica and
    /// striped=loads=counter,increments=any,set:counters=ctr:=16]
    #[arg(long = "arm", value_name = "NAME=KEY=VALUE,...", value_parser = parse_arm)]
    arms: Vec<Arm>,
    /// What of one processor each data node may take
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    share: f64,
    /// Of how many microseconds the share is taken: short ones delay what waits for the next less
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000))]
    period_us: u64,
    /// Let nodes share the machine: for trying the harness, says nothing about more nodes
    #[arg(long)]
    no_quota: bool,
    /// How many connections read
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// How many increment the counter
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    counter_connections: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Seconds before it that do not count: what is to be found hot is found then
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    warmup: f64,
    /// How often each is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How many keys, of 16 bytes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    /// Bytes per value
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(0..=1_048_576))]
    value_size: u32,
    #[command(flatten)]
    paths: PathArgs,
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|share| (0.01..=64.0).contains(share))
        .ok_or_else(|| "give processors per node from 0.01 to 64".to_owned())
}

impl HotArgs {
    fn arms(&self) -> Vec<Arm> {
        if self.arms.is_empty() {
            return USUAL_ARMS
                .iter()
                .filter_map(|text| parse_arm(text).ok())
                .collect();
        }
        self.arms.clone()
    }

    fn loads(&self) -> Vec<HotLoad> {
        match self.loads.as_slice() {
            [] => HotLoad::ALL.to_vec(),
            given => given.to_vec(),
        }
    }

    fn load(&self, load: HotLoad, round: u32, threads: usize) -> Load {
        let connections = match load {
            HotLoad::Counter => self.counter_connections,
            HotLoad::Zipf099 | HotLoad::Zipf12 | HotLoad::OneKey => self.connections,
        };
        Load {
            mix: load.mix(),
            skew: load.skew(),
            keys: self.keys,
            value_bytes: self.value_size as usize,
            connections: connections as usize,
            depth: 1,
            warmup: Duration::from_secs_f64(self.warmup),
            duration: Duration::from_secs_f64(self.seconds),
            threads,
            seed: u64::from(round) + 1,
        }
    }
}

/// Those of the arms that share a cluster that a load is tried with. The counter knows no level
/// of reads: once for each cluster.
fn tried_under(sharing: &[usize], arms: &[Arm], load: HotLoad) -> Vec<usize> {
    let tried = sharing.iter().copied();
    let mut tried: Vec<usize> = tried.filter(|at| arms[*at].is_tried_under(load)).collect();
    if load == HotLoad::Counter {
        tried.truncate(1);
    }
    tried
}

/// What is collected of an arm under a load.
struct Measured {
    collected: Collected,
    /// How unevenly the data nodes were busy, by round.
    uneven: Vec<f64>,
    /// What the busiest node took of its share, by round.
    busiest: Vec<f64>,
    /// How long the node that waited most was held back, per second, by round.
    throttled: Vec<f64>,
}

impl Measured {
    fn new() -> Self {
        Self {
            collected: Collected::new(),
            uneven: Vec::new(),
            busiest: Vec::new(),
            throttled: Vec::new(),
        }
    }
}

pub(crate) fn run(args: &HotArgs) -> Result<()> {
    let arms = args.arms();
    let mut names: Vec<&str> = arms.iter().map(|arm| arm.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    ensure!(names.len() == arms.len(), "two arms have the same name");
    let quota = match args.no_quota {
        true => None,
        false => Some(Quota::new(args.share, args.period_us)?),
    };
    let scratch = Scratch::make(&args.paths)?;
    warn_of_a_small_machine(args);
    let mut report = Report::new(
        Machine::here(&scratch.paths.scratch),
        scratch.command.clone(),
        (!args.no_quota).then_some((args.share, args.period_us)),
        &arms,
    );
    let mut outcome = Ok(());
    for nodes in &args.nodes {
        outcome = with_nodes(args, *nodes, &arms, quota, &scratch, &mut report);
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

/// What the nodes may take together has to be there, and the driver's own share beside it.
fn warn_of_a_small_machine(args: &HotArgs) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let most = args.nodes.iter().max().copied().unwrap_or(0);
    let wanted = f64::from(most) * args.share;
    if !args.no_quota && wanted > processors * 0.7 {
        eprintln!(
            "{most} data nodes of {} processors want {wanted:.1} of this machine's {processors:.0}, \
             which leaves the driver and the coordinators little: where a figure is marked busy, \
             it is the driver's",
            args.share
        );
    }
}

fn with_nodes(
    args: &HotArgs,
    nodes: u32,
    arms: &[Arm],
    quota: Option<Quota>,
    scratch: &Scratch,
    report: &mut Report,
) -> Result<()> {
    // Before the clusters: their groups go first.
    let groups = match quota {
        Some(_) => Some(Groups::make()?),
        None => None,
    };
    let mut measured: BTreeMap<(HotLoad, usize), Measured> = BTreeMap::new();
    // One cluster at a time: many that rest take as much of the machine as one that works.
    for sharing in sharing(arms) {
        let first = &arms[sharing[0]];
        let cluster = start(args, nodes, first, groups.as_ref(), scratch)?;
        cluster.set_quota(quota)?;
        for load in args.loads() {
            for round in 0..args.rounds {
                for at in tried_under(&sharing, arms, load) {
                    let of = measured.entry((load, at)).or_insert_with(Measured::new);
                    let rate = measure(args, &cluster, &arms[at], load, round, scratch, of)?;
                    eprintln!(
                        "{nodes} nodes, {} round {}: {:<12} {rate:>9.0} ops/s",
                        load.name(),
                        round + 1,
                        arms[at].name
                    );
                }
            }
        }
    }
    for ((load, at), of) in measured {
        report.add(Row {
            load,
            nodes,
            arm: arms[at].name.clone(),
            summary: of.collected.summary(),
            max_over_mean: Spread::of(of.uneven),
            busiest_share: Spread::of(of.busiest),
            throttled: Spread::of(of.throttled),
        });
    }
    Ok(())
}

/// The arms that share a cluster, by their places, in the order of the first of each: those that
/// differ by what the client does alone.
fn sharing(arms: &[Arm]) -> Vec<Vec<usize>> {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for (at, arm) in arms.iter().enumerate() {
        let shared = clusters
            .iter_mut()
            .find(|all| all.iter().all(|other| arms[*other].shares_cluster(arm)));
        match shared {
            Some(shared) => shared.push(at),
            None => clusters.push(vec![at]),
        }
    }
    clusters
}

/// Starts the cluster of an arm and of those that share it.
fn start(
    args: &HotArgs,
    nodes: u32,
    arm: &Arm,
    groups: Option<&Groups>,
    scratch: &Scratch,
) -> Result<Cairn> {
    stop::check()?;
    eprintln!("{nodes} nodes: starting a cluster for {}", arm.name);
    let name = format!("{}-{nodes}", arm.name);
    let spec = CairnSpec {
        data_nodes: nodes as usize,
        environment: arm.environment.clone(),
        settings: arm.settings.clone(),
        groups,
        name: name.clone(),
    };
    let directory = scratch.paths.scratch.join(&name);
    let cluster = Cairn::start(&scratch.paths.cairn, &directory, &spec)?;
    let target = cluster.target(arm.protocol, arm.level, arm.increments);
    let load = args.load(HotLoad::OneKey, 0, scratch.threads);
    driver::preload(&target, &load, PRELOAD)?;
    Ok(cluster)
}

fn measure(
    args: &HotArgs,
    cluster: &Cairn,
    arm: &Arm,
    load: HotLoad,
    round: u32,
    scratch: &Scratch,
    of: &mut Measured,
) -> Result<f64> {
    std::thread::sleep(PAUSE);
    let pulse = machine::pulse(&scratch.paths.scratch)?;
    let target = cluster.target(arm.protocol, arm.level, arm.increments);
    let pids: Vec<u32> = cluster
        .servers()
        .iter()
        .map(crate::systems::Server::pid)
        .collect();
    let throttled = |cluster: &Cairn| -> Result<Vec<f64>> {
        let groups = cluster
            .data()
            .iter()
            .filter_map(crate::systems::Server::group);
        groups
            .map(|group| Ok(group.throttled()?.as_secs_f64()))
            .collect()
    };
    let before = throttled(cluster)?;
    let began = std::time::Instant::now();
    let load = args.load(load, round, scratch.threads);
    let seen = driver::measure(&target, &load, &pids, &scratch.paths.scratch)?;
    let span = began.elapsed().as_secs_f64();
    let after = throttled(cluster)?;
    let waited = before
        .iter()
        .zip(&after)
        .map(|(before, after)| (after - before) / span);
    of.throttled.push(waited.fold(0.0, f64::max));
    let busy = busy(&seen, cluster.data().len());
    of.uneven.push(max_over_mean(&busy));
    of.busiest
        .push(busy.iter().copied().fold(0.0, f64::max) / args.share);
    of.collected.add(&seen, pulse);
    Ok(seen.rate())
}

/// What each data node took of a processor.
fn busy(seen: &Seen, data_nodes: usize) -> Vec<f64> {
    let data = seen.servers.iter().take(data_nodes);
    data.map(|usage| usage.cpu.as_secs_f64() / seen.seconds)
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn arms_that_share_a_cluster_each_get_the_loads_that_they_are_tried_under() {
        let arms = [
            "reads=loads=one-key",
            "far=read=replica,loads=one-key",
            "added=loads=counter",
            "again=loads=counter",
            "apart=CAIRN_HOT_KEYS=off",
        ];
        let arms: Vec<Arm> = arms.map(|arm| parse_arm(arm).expect("an arm")).into();
        let sharing = sharing(&arms);
        assert_eq!(sharing, [vec![0, 1, 2, 3], vec![4]]);
        let tried = |load| tried_under(&sharing[0], &arms, load);
        assert_eq!(tried(HotLoad::OneKey), [0, 1]);
        assert_eq!(tried(HotLoad::Counter), [2], "once");
        assert_eq!(tried_under(&sharing[1], &arms, HotLoad::Counter), [4]);
    }

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: HotArgs,
    }

    fn parse(words: &[&str]) -> Result<HotArgs, clap::Error> {
        Cli::try_parse_from(std::iter::once(&"hot").chain(words)).map(|cli| cli.args)
    }

    #[test]
    fn the_usual_arms_and_loads_are_all_there() {
        let args = parse(&[]).expect("the defaults are valid");
        let names: Vec<String> = args.arms().into_iter().map(|arm| arm.name).collect();
        assert_eq!(names, ["primary", "replica", "striped"]);
        assert_eq!(names.len(), USUAL_ARMS.len());
        assert_eq!(args.nodes, [3, 6, 12]);
        assert_eq!(args.loads(), HotLoad::ALL);
        assert!(Quota::new(args.share, args.period_us).is_ok());
        let counter = args.load(HotLoad::Counter, 0, 1);
        assert_eq!((counter.connections, counter.mix.incr), (256, 1));
        assert_eq!(args.load(HotLoad::OneKey, 0, 1).mix.incr, 0);
    }

    #[test]
    fn nonsense_is_refused() {
        for words in [
            &["--nodes", "2"][..],
            &["--share", "0"],
            &["--arm", "x"],
            &["--loads", "cold"],
        ] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }
}
