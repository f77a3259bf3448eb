//! Puts mistakes into the replication core, one at a time, and looks whether the
//! simulator finds them. Exits with a failure if one escapes, or if a seed breaks an
//! invariant without any.

#[cfg(not(seeded_bugs))]
fn main() -> std::process::ExitCode {
    eprintln!("this build cannot carry bugs: run `make seeded-bugs`");
    std::process::ExitCode::from(2)
}

#[cfg(seeded_bugs)]
fn main() -> anyhow::Result<std::process::ExitCode> {
    hunter::main()
}

#[cfg(seeded_bugs)]
mod hunter {
    use std::process::ExitCode;
    use std::time::Duration;

    use cairn_core::seeded::Bug;
    use cairn_sim::bugs::{Budget, Outcome, hunt, line, passed_over};
    use clap::Parser;

    /// How much is told of what an invariant said.
    const TOLD: usize = 100;

    /// Looks whether the simulator finds the bugs that are put in.
    #[derive(Debug, Parser)]
    struct Arguments {
        /// These bugs alone, by name.
        #[arg(long = "bug")]
        bugs: Vec<String>,
        /// Only the bugs that few seeds are enough to find.
        #[arg(long)]
        quick: bool,
        /// How many seeds to play with each at most.
        #[arg(long, default_value_t = 2_000)]
        seeds: u64,
        /// After so many seconds no further seed is begun.
        #[arg(long, default_value_t = 3_600)]
        seconds: u64,
        /// The first seed; a fresh one if it is not given.
        #[arg(long)]
        first: Option<u64>,
        /// Play this seed alone, with one bug or none, and show what happens.
        #[arg(long)]
        seed: Option<u64>,
    }

    pub(super) fn main() -> anyhow::Result<ExitCode> {
        let arguments = Arguments::parse();
        let mut bugs = Vec::new();
        for name in &arguments.bugs {
            let bug = Bug::ALL.iter().find(|bug| bug.name() == name);
            bugs.push(*bug.ok_or_else(|| anyhow::anyhow!("there is no bug called {name}"))?);
        }
        // A panic of the core is one more way in which a bug is found.
        std::panic::set_hook(Box::new(|_| {}));
        if let Some(seed) = arguments.seed {
            anyhow::ensure!(bugs.len() <= 1, "one bug at a time");
            return Ok(replay(bugs.first().copied(), seed));
        }
        if bugs.is_empty() {
            bugs = Bug::ALL.to_vec();
            bugs.retain(|bug| {
                let passed_over = passed_over(*bug, arguments.quick);
                if let Some(line) = &passed_over {
                    println!("{line}");
                }
                passed_over.is_none()
            });
        }
        let budget = Budget {
            first: arguments
                .first
                .unwrap_or_else(|| rand::random::<u32>().into()),
            seeds: arguments.seeds,
            time: Duration::from_secs(arguments.seconds),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
        };
        println!(
            "{} bugs, up to {} seeds from {} for each",
            bugs.len(),
            budget.seeds,
            budget.first
        );
        Ok(tell(&hunt(&bugs, budget)))
    }

    fn replay(bug: Option<Bug>, seed: u64) -> ExitCode {
        let (result, trace) = cairn_sim::bugs::replay(bug, seed);
        print!("{trace}");
        match result {
            Ok(_) => {
                println!("seed {seed} breaks no invariant");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("seed {seed}: {}", failure.what);
                ExitCode::FAILURE
            }
        }
    }

    fn tell(outcome: &Outcome) -> ExitCode {
        let mut escaped = 0;
        for (bug, trial) in &outcome.trials {
            if trial.caught.is_none() {
                escaped += 1;
                println!("{}", line(*bug, trial));
            }
        }
        println!("\n{:<28} rule {:>6}  found by", "bug", "seeds");
        for (bug, trial) in &outcome.trials {
            let what = match &trial.caught {
                Some(caught) => caught.what.as_str(),
                None => "ESCAPED",
            };
            let what: String = what.chars().take(TOLD).collect();
            let (name, rule, seeds) = (bug.name(), bug.rule(), trial.seeds);
            println!("{name:<28} {rule:>4} {seeds:>6}  {what}");
        }
        println!(
            "\n{} of {} bugs caught, {} clean seeds without a bug, {} broken",
            outcome.trials.len() - escaped,
            outcome.trials.len(),
            outcome.clean - outcome.broken.len() as u64,
            outcome.broken.len()
        );
        for failure in &outcome.broken {
            println!("without a bug, seed {}: {}", failure.seed, failure.what);
        }
        if escaped == 0 && outcome.broken.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
