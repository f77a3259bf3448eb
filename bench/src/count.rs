//! One counter to which many add, through kills of data nodes and changes of its stripes: how many
//! additions a second each state of it takes, and whether it comes to what was acknowledged.

mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_client::{Client, Consistency, Error, Options};
use cairn_workload::tally::histogram;
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use self::report::{Report, Round, Stage};
use crate::compare::seconds;
use crate::machine::Machine;
use crate::rounds;
use crate::scratch::{PathArgs, Scratch};
use crate::stop;
use crate::systems::{Cairn, CairnSpec};

const KEY: &str = "count:views";
/// How often it is looked how far the additions are.
const LOOK: Duration = Duration::from_millis(20);
/// How long an addition may take before it is given up, and the sum to be told.
const PATIENCE: Duration = Duration::from_secs(30);

/// How many add, to how many stripes, for how long
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CountArgs {
    /// With how many data nodes; all of them are killed in turn but one
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=64))]
    nodes: u32,
    /// How many add at once, by the Rust client
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    adders: u32,
    /// Over how many stripes the counter is spread, one number after the other; 0 for none
    #[arg(long, value_delimiter = ',', default_value = "0,16,64,4,0", value_parser = clap::value_parser!(u16).range(0..=64))]
    stripes: Vec<u16>,
    /// For how many seconds each state is kept
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// How often all of it is done, each time with a cluster of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    #[command(flatten)]
    paths: PathArgs,
}

pub(crate) fn run(args: &CountArgs) -> Result<()> {
    let scratch = Scratch::make(&args.paths)?;
    let machine = Machine::here(&scratch.paths.scratch);
    let (rounds, outcome) = rounds::play(args.rounds, |round| play(args, round, &scratch));
    let report = Report::new(
        machine,
        scratch.command.clone(),
        (args.nodes, args.adders),
        rounds,
    );
    if report.has_figures() {
        let written = report.write(&scratch.results)?;
        eprintln!("written: {}", written.display());
    }
    outcome?;
    ensure!(report.is_exact(), "a counter is not what was added to it");
    Ok(())
}

fn play(args: &CountArgs, round: u32, scratch: &Scratch) -> Result<Round> {
    stop::check()?;
    let name = format!("count-{round}");
    let spec = CairnSpec {
        data_nodes: args.nodes as usize,
        name: name.clone(),
        ..CairnSpec::default()
    };
    let directory = scratch.paths.scratch.join(&name);
    let mut cluster = Cairn::start(&scratch.paths.cairn, &directory, &spec)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(scratch.threads)
        .enable_all()
        .build()
        .context("start a runtime")?;
    let client = runtime.block_on(Client::connect(
        cluster.clients().to_vec(),
        Options {
            deadline: PATIENCE,
            ..Options::default()
        },
    ));
    let client = client.context("connect the Rust client")?;
    let adders = Adders::start(&runtime, &client, args.adders);
    let mut stages = Vec::new();
    let kept = Duration::from_secs_f64(args.seconds);
    for stripes in &args.stripes {
        let what = told(*stripes);
        cluster.set(
            &scratch.paths.cairn,
            &[format!("counters=count:={stripes}")],
        )?;
        stages.push(adders.during(format!("{what}: from the change on"), kept, || Ok(()))?);
        stages.push(adders.during(what.clone(), kept, || Ok(()))?);
        if *stripes == 0 {
            continue;
        }
        for number in 1..args.nodes as usize {
            let node = cluster.data_node(number).context("a data node")?;
            let label = format!("{what}: {} killed", node.name);
            stages.push(adders.during(label, kept, || node.kill())?);
            let node = cluster.data_node(number).context("a data node")?;
            let label = format!("{what}: {} started", node.name);
            stages.push(adders.during(label, kept, || node.start_again())?);
            cluster.await_ready()?;
        }
    }
    let added = adders.stop(&runtime)?;
    let sum = runtime.block_on(sum(&client))?;
    let done = Round::new(stages, added, sum);
    eprintln!("round {}: {}", round + 1, done.sentence());
    Ok(done)
}

fn told(stripes: u16) -> String {
    match stripes {
        0 => "one key".to_owned(),
        stripes => format!("{stripes} stripes"),
    }
}

/// What the counter is, as a strong read tells it.
async fn sum(client: &Client) -> Result<i64> {
    let value = client.get_with(KEY, Consistency::Primary).await?;
    let value = value.context("there is no counter")?;
    let text = String::from_utf8_lossy(&value.data).into_owned();
    let sum = text.parse();
    sum.with_context(|| format!("the counter is {text:?}"))
}

/// What became of additions of one.
#[derive(Clone, Copy, Debug, Default)]
struct Added {
    acknowledged: u64,
    /// Whether they were done nobody knows.
    unknown: u64,
    /// Not done, and told so.
    refused: u64,
}

/// What all adders share.
#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    unknown: AtomicU64,
    refused: AtomicU64,
    /// Of this stage, in microseconds.
    latency: Mutex<Histogram<u64>>,
}

/// Tasks that add, each one addition after the other.
struct Adders {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<Result<(), Error>>>,
}

impl Shared {
    fn added(&self) -> Added {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Added {
            acknowledged: of(&self.acknowledged),
            unknown: of(&self.unknown),
            refused: of(&self.refused),
        }
    }
}

impl Adders {
    fn start(runtime: &Runtime, client: &Client, count: u32) -> Self {
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            latency: Mutex::new(histogram()),
        });
        let tasks = (0..count)
            .map(|_| runtime.spawn(add(client.clone(), Arc::clone(&shared))))
            .collect();
        Self { shared, tasks }
    }

    /// Has something done, and looks at the additions for so long from then on.
    fn during(
        &self,
        label: String,
        kept: Duration,
        begin: impl FnOnce() -> Result<()>,
    ) -> Result<Stage> {
        *self.shared.latency.lock() = histogram();
        let (before, since) = (self.shared.added(), Instant::now());
        begin()?;
        let (mut last, mut moved, mut pause) = (before.acknowledged, since, Duration::ZERO);
        loop {
            std::thread::sleep(LOOK);
            stop::check()?;
            ensure!(
                !self.tasks.iter().any(JoinHandle::is_finished),
                "an addition failed for good"
            );
            let now = Instant::now();
            let acknowledged = self.shared.added().acknowledged;
            pause = pause.max(now - moved);
            if acknowledged > last {
                (last, moved) = (acknowledged, now);
            }
            if since.elapsed() >= kept {
                break;
            }
        }
        let (after, took) = (self.shared.added(), since.elapsed().as_secs_f64());
        let latency = self.shared.latency.lock().clone();
        let milliseconds = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
        let stage = Stage {
            label,
            per_second: (after.acknowledged - before.acknowledged) as f64 / took,
            p50_ms: milliseconds(0.5),
            p99_ms: milliseconds(0.99),
            pause_ms: pause.as_secs_f64() * 1e3,
            refused: after.refused - before.refused,
            unknown: after.unknown - before.unknown,
        };
        eprintln!("{}", stage.sentence());
        Ok(stage)
    }

    fn stop(self, runtime: &Runtime) -> Result<Added> {
        self.shared.stop.store(true, Ordering::Relaxed);
        let ended = runtime.block_on(async {
            for task in self.tasks {
                match task.await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => bail!("an addition failed for good: {error}"),
                    Err(error) => bail!("an adder broke off: {error}"),
                }
            }
            Ok(())
        });
        ended?;
        Ok(self.shared.added())
    }
}

async fn add(client: Client, shared: Arc<Shared>) -> Result<(), Error> {
    while !shared.stop.load(Ordering::Relaxed) {
        let since = Instant::now();
        let count = match client.increment(KEY, 1).await {
            Ok(_) => &shared.acknowledged,
            Err(Error::OutcomeUnknown { .. }) => &shared.unknown,
            Err(Error::Unavailable { .. }) => &shared.refused,
            Err(error) => return Err(error),
        };
        count.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
        shared.latency.lock().saturating_record(took);
    }
    Ok(())
}
