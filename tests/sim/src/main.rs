//! Runs the simulation: `cairn-sim --seeds 200`, `cairn-sim --seconds 600`,
//! `cairn-sim --seed 17 --trace`, `cairn-sim --seed 17 --shrink`.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cairn_sim::plan::Mask;
use cairn_sim::world::faults_of;
use cairn_sim::{Failure, Options, Tally, run_with, shrink};
use clap::Parser;

/// How many partitions may be asked for.
const PARTITIONS_MAX: i64 = 8;

/// Tries the replication protocol under seeded faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed. Where none is given and seconds are, it is drawn.
    #[arg(long)]
    first: Option<u64>,
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Run seeds for so many seconds instead.
    #[arg(long)]
    seconds: Option<u64>,
    /// On how many threads. As many as there are cores where this is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave these faults out, as in `3,7-12`.
    #[arg(long, value_parser = shrink::parse, default_value = "")]
    without: Mask,
    /// Let W be 1 in every run, so that writes may be lost.
    #[arg(long)]
    lossy: bool,
    /// So many partitions in every run, whatever the seed says.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=PARTITIONS_MAX))]
    partitions: Option<u32>,
    /// Print the trace.
    #[arg(long)]
    trace: bool,
    /// Find a smaller set of faults that breaks the same invariant.
    #[arg(long)]
    shrink: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match arguments.seed {
        Some(seed) => one(seed, &arguments),
        None => many(&arguments),
    }
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            without: self.without.clone(),
            lossy: self.lossy,
            partitions: self.partitions,
            ..Options::default()
        }
    }
}

fn replay(seed: u64, arguments: &Arguments, without: &Mask) -> String {
    let mut command = format!("cargo run --profile sim -p cairn-sim -- --seed {seed} --trace");
    if arguments.lossy {
        command += " --lossy";
    }
    if let Some(partitions) = arguments.partitions {
        command += &format!(" --partitions {partitions}");
    }
    if !without.is_empty() {
        command += &format!(" --without {}", shrink::spell(without));
    }
    command
}

fn one(seed: u64, arguments: &Arguments) -> anyhow::Result<()> {
    let mut without = arguments.without.clone();
    let options = arguments.options();
    let (result, trace) = if arguments.trace && !arguments.shrink {
        cairn_sim::trace(seed, &options)
    } else {
        (run_with(seed, &options), String::new())
    };
    print!("{trace}");
    let failure = match result {
        Ok(run) => {
            let mut tally = Tally::default();
            tally.add(&run);
            println!("{tally}");
            return Ok(());
        }
        Err(failure) if arguments.shrink => {
            let (more, failure) = shrink::shrink(failure, &options);
            without = more;
            failure
        }
        Err(failure) => failure,
    };
    let left: Vec<u32> = faults_of(seed)
        .into_iter()
        .filter(|number| !without.contains(number))
        .collect();
    anyhow::bail!(
        "seed {seed}: {}\nfaults: {left:?}\nreplay: {}\n(--shrink finds fewer faults)",
        failure.what,
        replay(seed, arguments, &without)
    )
}

/// Runs seeds on all cores until there are enough, the time is over, or one fails.
fn many(arguments: &Arguments) -> anyhow::Result<()> {
    let first = match (arguments.first, arguments.seconds) {
        (Some(first), _) => first,
        // A later seed of another run is hardly ever met again.
        (None, Some(_)) => u64::from(rand::random::<u32>()) << 24,
        (None, None) => 0,
    };
    let began = Instant::now();
    let end = arguments.seconds.map(|s| began + Duration::from_secs(s));
    let (next, stop) = (AtomicU64::new(first), AtomicBool::new(false));
    let (tally, failure) = (Mutex::new(Tally::default()), Mutex::new(None));
    let more = |seed: u64| match end {
        Some(end) => Instant::now() < end,
        None => seed < first + arguments.seeds,
    };
    let options = arguments.options();
    let work = || {
        let mut mine = Tally::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if !more(seed) {
                break;
            }
            match run_with(seed, &options) {
                Ok(run) => mine.add(&run),
                Err(broken) => {
                    stop.store(true, Ordering::Relaxed);
                    keep(&failure, broken);
                }
            }
        }
        if let Ok(mut tally) = tally.lock() {
            tally.merge(&mine);
        }
    };
    println!("first seed {first}");
    std::thread::scope(|scope| {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        for _ in 0..arguments.threads.unwrap_or(cores) {
            scope.spawn(work);
        }
    });
    let tally = tally.into_inner().unwrap_or_default();
    println!("{tally}");
    let minutes = began.elapsed().as_secs_f64() / 60.0;
    println!("{:.0} seeds per minute", tally.seeds as f64 / minutes);
    if let Ok(Some(failure)) = failure.into_inner() {
        anyhow::bail!(
            "seed {}: {}\nreplay: {}",
            failure.seed,
            failure.what,
            replay(failure.seed, arguments, &arguments.without)
        );
    }
    // A few runs need not try everything, nor those of one kind.
    let missing = tally.missing();
    anyhow::ensure!(
        arguments.lossy
            || arguments.partitions.is_some()
            || tally.seeds < 100
            || missing.is_empty(),
        "never took place: {missing:?}"
    );
    Ok(())
}

/// Of several failures the one with the lowest seed is told.
fn keep(kept: &Mutex<Option<Box<Failure>>>, failure: Box<Failure>) {
    if let Ok(mut kept) = kept.lock()
        && kept.as_ref().is_none_or(|known| known.seed > failure.seed)
    {
        *kept = Some(failure);
    }
}
