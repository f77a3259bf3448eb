//! Explores every configuration to its end: `cairn-model`, `cairn-model --quick`,
//! `cairn-model promotion leases`, `cairn-model --mistakes`.

use std::process::ExitCode;

use cairn_model::configurations::{CONFIGURATIONS, Configuration, Trial, trials};
use cairn_model::explore::{Explored, explore};
use cairn_model::world::Model;
use clap::Parser;

/// Tries every order of events of one small partition.
#[derive(Debug, Parser)]
struct Arguments {
    /// These configurations and mistakes alone.
    names: Vec<String>,
    /// Only the configurations that take seconds.
    #[arg(long)]
    quick: bool,
    /// Then make mistakes on purpose, one at a time, and show how each breaks something.
    /// Those of the core need a build that can carry them: `ci/seeded-bugs --model`.
    #[arg(long)]
    mistakes: bool,
    /// Say what there is, and explore nothing.
    #[arg(long)]
    list: bool,
    /// Tell what was seen in how many states.
    #[arg(long)]
    seen: bool,
    /// On how many threads. As many as there are cores where this is not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Give up after so many states, for want of memory: each takes about 300 bytes.
    #[arg(long, default_value_t = 40_000_000)]
    most: usize,
}

impl Arguments {
    fn wants(&self, name: &str, unasked: bool) -> bool {
        match self.names.is_empty() {
            true => unasked,
            false => self.names.iter().any(|n| n == name),
        }
    }

    fn explore(&self, model: &Model) -> Explored {
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        explore(model, self.threads.unwrap_or_else(cores), self.most)
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let configurations = || CONFIGURATIONS.iter();
    for name in &arguments.names {
        let known =
            configurations().any(|c| c.name == name) || trials().any(|t| t.mistake.name() == name);
        anyhow::ensure!(known, "there is nothing called {name}: see --list");
    }
    if arguments.list {
        for Configuration { name, about, .. } in CONFIGURATIONS {
            println!("{name}: {about}");
        }
        for Trial { mistake, .. } in trials() {
            println!("{}: {}", mistake.name(), mistake.sentence());
        }
        return Ok(ExitCode::SUCCESS);
    }
    // A panic of the core is one more way in which something breaks.
    std::panic::set_hook(Box::new(|_| {}));
    let mut sound = true;
    for configuration in configurations() {
        let unasked = !(configuration.long && arguments.quick);
        if arguments.wants(configuration.name, unasked) {
            sound &= holds(&arguments, configuration);
        }
    }
    for trial in trials() {
        if arguments.wants(trial.mistake.name(), arguments.mistakes) {
            sound &= caught(&arguments, trial);
        }
    }
    Ok(match sound {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn sizes(explored: &Explored) -> String {
    format!(
        "{} states, {} steps, depth {}, in {:.1} s",
        explored.states,
        explored.steps,
        explored.depth,
        explored.took.as_secs_f64()
    )
}

/// Explores a configuration in which nothing is done wrong. Whether everything holds.
fn holds(arguments: &Arguments, configuration: &Configuration) -> bool {
    let name = configuration.name;
    let explored = arguments.explore(&Model {
        scope: configuration.scope,
        mistake: None,
    });
    if arguments.seen {
        for (what, states) in explored.seen.counts().filter(|(_, states)| *states > 0) {
            println!("{states:>10} {what}");
        }
    }
    let sizes = sizes(&explored);
    if let Some(way) = explored.counterexample {
        println!("{name} BROKEN: {way}");
        return false;
    }
    if !explored.exhausted {
        println!("{name} NOT EXHAUSTED: {sizes}");
        return false;
    }
    if (configuration.shows)(&explored.seen) == 0 {
        println!("{name} SHOWS TOO LITTLE: {sizes}, {:?}", explored.seen);
        return false;
    }
    println!("{name} exhausted: {sizes}");
    true
}

/// Looks for a mistake. Whether it was seen.
fn caught(arguments: &Arguments, trial: &Trial) -> bool {
    let name = trial.mistake.name();
    let explored = arguments.explore(&Model {
        scope: trial.scope,
        mistake: Some(trial.mistake),
    });
    let sizes = sizes(&explored);
    match explored.counterexample {
        Some(way) => {
            println!("{name} caught: {sizes}\n{way}\n");
            true
        }
        None => {
            println!("{name} ESCAPED: {sizes}");
            false
        }
    }
}
