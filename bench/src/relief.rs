//! How soon a hot key is found, when the copies that it gets bring relief, and when all is at
//! rest again once nobody asks for it any more.

mod report;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cairn_client::admin::Admin;
use cairn_client::transport::Dialer;
use cairn_core::cluster::status::ClusterStatus;
use cairn_proto::pb::hot::v1::ListRequest;
use cairn_proto::pb::hot::v1::hot_keys_client::HotKeysClient;
use cairn_workload::distribution::Skew;
use cairn_workload::operation::Mix;
use tokio::time::timeout;

use self::report::{Report, Round};
use crate::cgroup::{Groups, Quota};
use crate::compare::seconds;
use crate::driver::{self, Increments, Level, Load};
use crate::hot::share;
use crate::machine::Machine;
use crate::rounds;
use crate::scratch::{PathArgs, Scratch};
use crate::stop;
use crate::systems::{Cairn, CairnSpec, Protocol, Server};

const PRELOAD: Duration = Duration::from_secs(120);
/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);
/// How long the cluster has to come to rest.
const REST_MAX: Duration = Duration::from_secs(300);
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Under which load, and for how long
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ReliefArgs {
    /// With how many data nodes
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(3..=64))]
    nodes: u32,
    /// What of one processor each data node may take
    #[arg(long, default_value_t = 0.1, value_parser = share)]
    share: f64,
    /// Of how many microseconds the share is taken
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000))]
    period_us: u64,
    /// How many connections read, half of the time one key
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    connections: u32,
    /// For how many seconds they read
    #[arg(long, default_value_t = 40.0, value_parser = seconds)]
    seconds: f64,
    /// How often all of it is done, each time with a cluster of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// From how many reads in a second for each replica on a partition gets further copies: as
    /// CAIRN_READ_COPIES_AT, for nodes that have this share of a processor
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u64).range(1..))]
    copies_at: u64,
    /// How many keys, of 16 bytes
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: u64,
    #[command(flatten)]
    paths: PathArgs,
}

pub(crate) fn run(args: &ReliefArgs) -> Result<()> {
    let quota = Quota::new(args.share, args.period_us)?;
    let scratch = Scratch::make(&args.paths)?;
    let machine = Machine::here(&scratch.paths.scratch);
    let (rounds, outcome) = rounds::play(args.rounds, |round| play(args, round, quota, &scratch));
    let report = Report::new(
        machine,
        scratch.command.clone(),
        (args.nodes, args.share),
        rounds,
    );
    if report.has_figures() {
        let written = report.write(&scratch.results)?;
        eprintln!("written: {}", written.display());
    }
    outcome
}

fn play(args: &ReliefArgs, round: u32, quota: Quota, scratch: &Scratch) -> Result<Round> {
    stop::check()?;
    let groups = Groups::make()?;
    let name = format!("relief-{round}");
    let copies_at = (
        "CAIRN_READ_COPIES_AT".to_owned(),
        args.copies_at.to_string(),
    );
    let spec = CairnSpec {
        data_nodes: args.nodes as usize,
        environment: [copies_at].into(),
        groups: Some(&groups),
        name: name.clone(),
        ..CairnSpec::default()
    };
    let directory = scratch.paths.scratch.join(&name);
    let cluster = Cairn::start(&scratch.paths.cairn, &directory, &spec)?;
    let target = cluster.target(Protocol::Resp, Level::Replica, Increments::Owner);
    let load = Load {
        mix: Mix::READS,
        skew: Skew::OneKey(0.5),
        keys: args.keys,
        value_bytes: 128,
        connections: args.connections as usize,
        depth: 1,
        warmup: Duration::ZERO,
        duration: Duration::from_secs_f64(args.seconds),
        threads: scratch.threads,
        seed: u64::from(round) + 1,
    };
    driver::preload(&target, &load, PRELOAD)?;
    cluster.set_quota(Some(quota))?;
    let pids: Vec<u32> = cluster.data().iter().map(Server::pid).collect();
    let began = Instant::now();
    let over = OnceLock::new();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch(cluster.clients(), began, &over));
        let driven = driver::measure(&target, &load, &pids, &scratch.paths.scratch);
        let ended = began.elapsed();
        let _ = over.set(Instant::now());
        let watched = watch.join();
        driven?;
        let Ok(watched) = watched else {
            bail!("whoever looked at the cluster broke off");
        };
        let done = Round::new(watched?, ended);
        eprintln!("round {}: {}", round + 1, done.sentence());
        Ok(done)
    })
}

/// When something was first so, since the first request.
#[derive(Clone, Debug, Default)]
struct Moments {
    /// Reads in a second, as all data nodes together tell the coordinators, since the first
    /// request.
    rates: Vec<(Duration, f64)>,
    /// A data node names a hot key.
    named: Option<Duration>,
    /// The coordinators tell of it.
    known: Option<Duration>,
    /// The first copy for reads is in the map.
    copied: Option<Duration>,
    /// The last one that was made.
    copied_last: Option<Duration>,
    /// How many copies there were at most.
    copies: usize,
    /// After the last request: no key is hot any more.
    cool: Option<Duration>,
    /// No copy is left.
    rest: Option<Duration>,
}

/// Looks at the cluster until it is at rest.
fn watch(clients: &[String], began: Instant, over: &OnceLock<Instant>) -> Result<Moments> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    runtime.block_on(async {
        let dialer = Dialer::default();
        let admin = Admin::new(clients.to_vec(), dialer.clone()).deadline(PATIENCE);
        let mut moments = Moments::default();
        loop {
            stop::check()?;
            if moments.named.is_none() {
                let named = timeout(PATIENCE, any_names(&dialer, clients)).await;
                if named.unwrap_or(false) {
                    moments.named = Some(began.elapsed());
                }
            }
            if let Some(status) = status_of(&admin).await? {
                let over = over.get().map(Instant::elapsed);
                moments.take(&status, began.elapsed(), over);
            }
            match over.get() {
                Some(_) if moments.rest.is_some() => return Ok(moments),
                Some(over) if over.elapsed() > REST_MAX => return Ok(moments),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
    })
}

impl Moments {
    fn take(&mut self, status: &ClusterStatus, since: Duration, over: Option<Duration>) {
        let heat = &status.heat;
        if !heat.keys.is_empty() {
            self.known.get_or_insert(since);
        }
        if heat.read_copies > self.copies {
            self.copies = heat.read_copies;
            self.copied.get_or_insert(since);
            self.copied_last = Some(since);
        }
        let Some(over) = over else {
            let figures = status.nodes.iter().filter_map(|node| node.figures);
            let reads: u64 = figures.map(|figures| figures.reads_per_second).sum();
            self.rates.push((since, reads as f64));
            return;
        };
        if heat.keys.is_empty() {
            self.cool.get_or_insert(over);
            if heat.read_copies == 0 {
                self.rest.get_or_insert(over);
            }
        }
    }
}

/// How the cluster is; nothing where nobody says it in time.
async fn status_of(admin: &Admin) -> Result<Option<ClusterStatus>> {
    match admin.status().await {
        Ok(text) => Ok(Some(
            serde_json::from_str(&text).context("read the cluster's status")?,
        )),
        Err(_) => Ok(None),
    }
}

/// Whether any data node names a hot key.
async fn any_names(dialer: &Dialer, clients: &[String]) -> bool {
    for address in clients {
        let Ok(channel) = dialer.dial(address).await else {
            continue;
        };
        let reply = HotKeysClient::new(channel).list(ListRequest {}).await;
        if reply.is_ok_and(|reply| !reply.into_inner().keys.is_empty()) {
            return true;
        }
    }
    false
}
