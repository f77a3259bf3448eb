//! Runs the simulation: `cairn-sim --seeds 200` or `cairn-sim --seed 17 --trace`.

use clap::Parser;

/// Tries the replication protocol under seeded faults.
#[derive(Debug, Parser)]
struct Arguments {
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many seeds to run.
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// Run this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Print the end of the trace of a failing seed.
    #[arg(long)]
    trace: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let seeds = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.first..arguments.first + arguments.seeds,
    };
    let mut coverage = cairn_sim::Coverage::default();
    for seed in seeds {
        match cairn_sim::run(seed) {
            Ok(run) => coverage.merge(&run),
            Err(failure) => {
                if arguments.trace {
                    eprintln!("{}", failure.trace);
                }
                anyhow::bail!(
                    "seed {seed}: {}\nreplay: cargo run -p cairn-sim -- --seed {seed} --trace",
                    failure.what
                );
            }
        }
    }
    for (what, count) in &coverage.0 {
        println!("{count:>10} {what}");
    }
    Ok(())
}
