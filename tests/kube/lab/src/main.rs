//! `kube-lab`: a Kubernetes cluster on this machine.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use cairn_kube_lab::lab::{self, Lab, Lifetime};
use cairn_kube_lab::layout::{Layout, NodeId};
use cairn_kube_lab::{control_plane, keeper, node};
use clap::{Args, Parser, Subcommand};

/// A Kubernetes cluster on this machine, for tests: needs root and cgroup v1
#[derive(Debug, Parser)]
#[command(name = "kube-lab")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Start the lab, or do nothing where it is up; prints how to use it
    Up {
        /// How many nodes, 1 to 9
        #[arg(default_value_t = 3)]
        nodes: u8,
    },
    /// End the lab and remove all that is left of it, after a crash too
    Down,
    /// Tell what runs
    Status,
    /// Import archives of images on every node
    Load {
        #[arg(required = true)]
        archives: Vec<PathBuf>,
    },
    /// Cut a node's power; its disk stays
    PowerOff { node: String },
    /// Start a node with its disk as it was
    PowerOn { node: String },
    /// Print the log of a component, of a node's part (node-1-kubelet) or of all of a node's
    Logs { name: String },
    /// Print the path of the kubeconfig
    Kubeconfig,
    /// Run a command on a node, or on `control-plane`
    Exec {
        node: String,
        #[arg(required = true, last = true)]
        words: Vec<String>,
    },
    #[command(hide = true)]
    Keep {
        #[command(flatten)]
        place: Place,
        #[arg(long)]
        leased: bool,
    },
    #[command(hide = true)]
    ControlPlane {
        #[command(flatten)]
        place: Place,
    },
    #[command(hide = true)]
    Node {
        #[command(flatten)]
        place: Place,
        name: String,
    },
}

#[derive(Debug, Args)]
struct Place {
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    programs: PathBuf,
    #[arg(long)]
    nodes: u8,
}

impl Place {
    fn layout(&self) -> Result<Layout> {
        Layout::new(&self.state, &self.programs, self.nodes)
    }
}

fn main() -> ExitCode {
    let verb = Arguments::parse().verb;
    let is_kept = matches!(verb, Verb::Keep { .. });
    match act(verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A keeper is heard on its standard output alone.
            if is_kept {
                println!("{error:#}");
            } else {
                eprintln!("error: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<()> {
    let state = Layout::usual_state()?;
    let attach = || Lab::attach(&state);
    match verb {
        Verb::Up { nodes } => {
            let layout = Layout::new(&state, &lab::build()?, nodes)?;
            let program = std::env::current_exe()?;
            let lab = Lab::up(&program, &layout, Lifetime::Detached, |line| {
                eprintln!("{line}")
            })?;
            println!("export KUBECONFIG={}", lab.kubeconfig().display());
            println!("export PATH={}:$PATH", lab.programs().display());
        }
        Verb::Down => lab::down(&state)?,
        Verb::Status => print!("{}", attach()?.status()?),
        Verb::Load { archives } => {
            let lab = attach()?;
            for archive in archives {
                print!("{}", lab.load(&archive)?);
            }
        }
        Verb::PowerOff { node } => print!("{}", attach()?.power_off(&node)?),
        Verb::PowerOn { node } => print!("{}", attach()?.power_on(&node)?),
        Verb::Logs { name } => print_logs(&state, &name)?,
        Verb::Kubeconfig => println!("{}", attach()?.kubeconfig().display()),
        Verb::Exec { node, words } => {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            return Err(attach()?.on(&node, &words)?.exec()).context("run the command");
        }
        Verb::Keep { place, leased } => keeper::keep(&place.layout()?, leased)?,
        Verb::ControlPlane { place } => control_plane::run_control_plane(&place.layout()?)?,
        Verb::Node { place, name } => {
            let node = NodeId::named(&name, place.nodes)?;
            node::run_node(&place.layout()?, node)?;
        }
    }
    Ok(())
}

/// All logs whose name is this one, or begins with it where it is a node's.
fn print_logs(state: &std::path::Path, name: &str) -> Result<()> {
    let parts = ["", "-containerd", "-kubelet", "-proxy"].map(|part| format!("{name}{part}"));
    let logs = parts.map(|part| Layout::log(state, &part));
    let found: Vec<_> = logs.iter().filter(|log| log.is_file()).collect();
    if found.is_empty() {
        bail!(
            "there is no log of {name} in {}",
            state.join("logs").display()
        );
    }
    let status = Command::new("tail")
        .args(["-n", "+1"])
        .args(found)
        .status()?;
    if !status.success() {
        bail!("tail: {status}");
    }
    Ok(())
}
