//! What is typed in another terminal: `cairn dev add`, `list`, `stop`, `start`, `wipe`,
//! `remove`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::control::{self, Request, Standing, State};
use super::layout::{Place, Role, Traits, data_dir_flag};
use super::{copies, ready};
use crate::confirm;
use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::output::{self, Format};

/// How often it is looked whether a node is ready.
const PAUSE: Duration = Duration::from_millis(100);
/// No zone's name is longer, in bytes.
const ZONE_BYTES_MAX: usize = 63;

#[derive(Clone, Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Add data nodes to the cluster that runs
    ///
    /// They get the next names and ports, and are started with the others from then on.
    Add(AddArgs),
    /// The nodes of the cluster that runs
    List(ListArgs),
    /// Stop a node; it stays stopped until it, or the cluster, is started
    Stop(StopArgs),
    /// Start a node that is stopped or died
    Start(StartArgs),
    /// Stop a node, delete its disk, and start it with an empty one
    ///
    /// Refused where others do not hold what is on it, as far as the cluster can tell.
    Wipe(WipeArgs),
    /// Stop a data node, delete its disk, and forget it
    ///
    /// Refused for a node that the cluster still counts on: drain it first with
    /// `cairn nodes drain`, then give it up with `cairn nodes remove`.
    Remove(RemoveArgs),
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct AddArgs {
    /// How many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=95))]
    count: u16,
    /// Their failure zone [default: none]
    #[arg(long, value_name = "NAME", value_parser = zone)]
    zone: Option<String>,
    /// Their share of the data, relative to the others, 1 to 10000 [default: 100]
    #[arg(long, value_name = "W", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    weight: Option<u16>,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct StopArgs {
    /// The name, as `cairn dev list` has it
    node: String,
    /// By SIGKILL, as in a crash, instead of letting it hand over
    #[arg(long)]
    kill: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct StartArgs {
    /// The name, as `cairn dev list` has it
    node: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct WipeArgs {
    /// The name, as `cairn dev list` has it
    node: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
    /// Also where its disk may have the last copies of something
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// The name, as `cairn dev list` has it
    node: String,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
    /// Also where the cluster still counts on it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

fn zone(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty()
        && text.len() <= ZONE_BYTES_MAX
        && text.chars().all(|c| c.is_ascii_graphic());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| format!("give 1 to {ZONE_BYTES_MAX} visible ASCII characters"))
}

/// The cluster that runs in a directory.
struct Running<'a> {
    directory: PathBuf,
    endpoints: &'a Endpoints,
}

/// Has it done and shows what came of it.
pub(super) fn run(command: &Command, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let place = match command {
        Command::Add(args) => &args.place,
        Command::List(args) => &args.place,
        Command::Stop(args) => &args.place,
        Command::Start(args) => &args.place,
        Command::Wipe(args) => &args.place,
        Command::Remove(args) => &args.place,
    };
    let running = Running {
        directory: place.directory()?,
        endpoints,
    };
    match command {
        Command::Add(args) => {
            let added = running.ask(&Request::Add {
                count: args.count,
                traits: Traits {
                    zone: args.zone.clone(),
                    weight: args.weight,
                },
            })?;
            show(&added, format)?;
            running.await_ready(&added)
        }
        Command::List(_) => show(&running.ask(&Request::List)?, format),
        Command::Stop(args) => {
            let request = Request::Stop {
                node: args.node.clone(),
                kill: args.kill,
            };
            show(&running.ask(&request)?, format)
        }
        Command::Start(args) => {
            let node = args.node.clone();
            running.start_by(&Request::Start { node }, format)
        }
        Command::Wipe(args) => {
            let all = running.ask(&Request::List)?;
            let cluster = running.cluster(&all);
            if !args.force {
                copies::refuse_loss(&args.node, &all, &cluster)?;
            }
            let question = format!("Delete everything on the disk of {}?", args.node);
            confirm::require(
                args.yes,
                "deleting a disk",
                &question,
                "nothing was deleted",
            )?;
            let node = args.node.clone();
            running.start_by(&Request::Wipe { node }, format)
        }
        Command::Remove(args) => {
            let all = running.ask(&Request::List)?;
            let cluster = running.cluster(&all);
            if !args.force {
                copies::refuse_member(&args.node, &all, &cluster)?;
            }
            let question = format!("Delete the disk of {} and forget the node?", args.node);
            confirm::require(
                args.yes,
                "removing a node",
                &question,
                "nothing was removed",
            )?;
            let node = args.node.clone();
            show(&running.ask(&Request::Remove { node })?, format)
        }
    }
}

fn show(standings: &[Standing], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(standings);
    }
    let shown = |number: Option<String>| number.unwrap_or_else(|| "-".to_owned());
    output::table(
        &[
            "NODE", "STATE", "PID", "REDIS", "GRPC", "PEER", "HTTP", "ZONE", "WEIGHT",
        ],
        standings.iter().map(|standing| {
            let node = &standing.node;
            vec![
                node.name.clone(),
                standing.state.word().to_owned(),
                shown(standing.pid.map(|pid| pid.to_string())),
                shown(node.resp.map(|port| port.to_string())),
                node.client.to_string(),
                node.peer.to_string(),
                node.http.to_string(),
                shown(node.traits.zone.clone()),
                shown(node.traits.weight.map(|weight| weight.to_string())),
            ]
        }),
    )
}

impl Running<'_> {
    fn ask(&self, request: &Request) -> Result<Vec<Standing>, Failure> {
        control::ask(&self.directory, request, self.endpoints.timeout())
    }

    /// Where its coordinators are asked.
    fn cluster(&self, all: &[Standing]) -> Endpoints {
        let coordinators = all.iter().filter(|s| s.node.role == Role::Coordinator);
        let address = |standing: &Standing| format!("127.0.0.1:{}", standing.node.client);
        self.endpoints.at(coordinators.map(address).collect())
    }

    fn start_by(&self, request: &Request, format: Format) -> Result<(), Failure> {
        let started = self.ask(request)?;
        show(&started, format)?;
        self.await_ready(&started)
    }

    /// Waits until nodes that were started are ready.
    fn await_ready(&self, started: &[Standing]) -> Result<(), Failure> {
        let until = Instant::now() + self.endpoints.timeout();
        for standing in started {
            let name = &standing.node.name;
            while let Err(obstacle) = ready::probe_http(standing.node.http) {
                let now = self.ask(&Request::List)?;
                let now = now.iter().find(|now| now.node.name == *name);
                if now.is_none_or(|now| now.state == State::Stopped) {
                    return Err(Failure::unavailable(format!("{name} has ended again"))
                        .with_remedy(format!("Its log is {}", standing.log.display())));
                }
                if Instant::now() + PAUSE >= until {
                    return Err(Failure::unavailable(format!(
                        "{name} runs, and is not ready after {:?}: {obstacle}",
                        self.endpoints.timeout()
                    ))
                    .with_remedy(format!(
                        "It goes on trying: look again with `cairn dev list{}`, or at its log, {}",
                        data_dir_flag(&self.directory),
                        standing.log.display()
                    )));
                }
                std::thread::sleep(PAUSE);
            }
            eprintln!("{name} is ready");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_a_name() {
        assert_eq!(zone("eu-1b"), Ok("eu-1b".to_owned()));
        for text in ["", "a b", "\u{e9}", &"z".repeat(64)] {
            assert!(zone(text).is_err(), "{text}");
        }
    }
}
