//! `cairn-bench`: Cairn measured beside etcd and Redis on one machine, in turn and by one
//! driver, and Cairn alone under hot keys and along what grows. It starts every server itself,
//! on loopback with data below `target/bench`, and leaves Markdown, JSON and plots in
//! `bench/results`.
//!
//! It decides nothing about Cairn, and no part of Cairn depends on it.

mod cgroup;
mod compare;
mod count;
mod driver;
mod grow;
mod hot;
mod machine;
mod plot;
mod ports;
mod relief;
mod rounds;
mod sample;
mod scratch;
mod stats;
mod stop;
mod systems;
mod usage;
mod workloads;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The allocator of the `cairn` command too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure Cairn beside its peers
///
/// Every server runs on this machine. Progress goes to standard error; Ctrl-C ends it, and what
/// was measured until then is written.
#[derive(Clone, Debug, Parser)]
#[command(name = "cairn-bench", version, subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Cairn, etcd and Redis in turn under the same loads
    Compare(compare::CompareArgs),
    /// Cairn's data nodes, each held to a share of a processor, under loads with hot keys
    Hot(hot::HotArgs),
    /// How soon a hot key is found, relieved by copies for reads, and at rest again
    Relief(relief::ReliefArgs),
    /// One counter through kills and other numbers of stripes: how fast, and whether the sum is exact
    Count(count::CountArgs),
    /// Cairn alone, along one axis at a time: partitions, nodes, keys, values, connections
    Grow(grow::GrowArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    stop::listen();
    let outcome = match &cli.command {
        Command::Compare(args) => compare::run(args),
        Command::Hot(args) => hot::run(args),
        Command::Relief(args) => relief::run(args),
        Command::Count(args) => count::run(args),
        Command::Grow(args) => grow::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<stop::Stopped>() => ExitCode::from(stop::EXIT_CODE),
        Err(error) => {
            eprintln!("cairn-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
