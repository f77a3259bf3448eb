//! `cairn dev`: a whole cluster on this machine, every node a process of its own.
//!
//! - [`layout`]: which nodes and ports, where the files are, what is remembered.
//! - [`lock`] and [`holder`]: one at a time, and who has what is taken.
//! - [`child`]: how a node is started and how it ended.
//! - [`mod@supervise`]: keeps the nodes running and stops them.
//! - [`ready`]: whether everything serves.
//! - [`control`]: the socket by which other terminals ask the one that runs, and
//!   [`orders`]: how it does what they ask.
//! - [`commands`]: what is typed there, and [`copies`]: whether it would lose data.
//! - [`reset`]: deletes it all.

mod child;
mod commands;
mod control;
mod copies;
mod holder;
pub(crate) mod layout;
mod lock;
mod orders;
mod ready;
mod reset;
mod supervise;

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use cairn_core::cluster::settings::Preset;
use cairn_node::users::Users;

use self::holder::Holder;
use self::layout::{Asked, Node, Place, RESP_PORT_MAX, Recorded};
use self::lock::DirectoryLock;
use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::output::Format;
use cairn_workload::resp::Auth;

/// A cluster on this machine
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    command: Option<DevCommand>,
    /// How many coordinators: 1, 3 or 5 [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=5))]
    coordinators: Option<u16>,
    /// How many data nodes [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=95))]
    data_nodes: Option<u16>,
    /// Copies of each partition [default: 3]
    #[arg(long, value_name = "N", env = "CAIRN_REPLICATION_FACTOR")]
    replication_factor: Option<u8>,
    /// Copies that a write is flushed on before it is acknowledged [default: a majority]
    #[arg(long, value_name = "N", env = "CAIRN_WRITE_QUORUM")]
    write_quorum: Option<u8>,
    /// A preset for the write quorum and the level of reads [default: a majority, primary]
    #[arg(long, value_name = "strong|eventual", env = "CAIRN_CONSISTENCY", value_parser = preset)]
    consistency: Option<Preset>,
    /// How many partitions [default: 128]
    #[arg(long, value_name = "N", env = "CAIRN_PARTITIONS")]
    partitions: Option<u32>,
    #[command(flatten)]
    place: Place,
    /// Redis port of the first data node; the others follow it. gRPC for clients
    /// begins 1021 above it, between nodes 1121, HTTP 1221 [default: 6379]
    #[arg(long, value_name = "P", value_parser = clap::value_parser!(u16).range(1..=i64::from(RESP_PORT_MAX)))]
    resp_port: Option<u16>,
    /// Who may do what on the ports for clients [default: everyone everything]. With
    /// --user and the like, readiness is looked at as that user
    #[arg(long, value_name = "TOML")]
    users_file: Option<PathBuf>,
    /// Leave a node that died dead
    #[arg(long)]
    no_restart: bool,
    /// How long after its death a node is started again
    #[arg(long, value_name = "MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    restart_delay_ms: u64,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum DevCommand {
    #[command(flatten)]
    Running(commands::Command),
    /// Delete the cluster with all its data
    Reset(reset::ResetArgs),
}

fn preset(text: &str) -> Result<Preset, String> {
    Preset::from_name(text).ok_or_else(|| "give strong or eventual".to_owned())
}

impl DevArgs {
    fn asked(&self) -> Asked {
        Asked {
            coordinators: self.coordinators,
            data_nodes: self.data_nodes,
            replication_factor: self.replication_factor,
            write_quorum: self.write_quorum,
            consistency: self.consistency,
            partitions: self.partitions,
            resp_port: self.resp_port,
        }
    }
}

/// Who is let in, and who this command is.
#[derive(Clone, Copy, Debug)]
struct Access<'a> {
    users_file: Option<&'a Path>,
    auth: Option<&'a Auth>,
}

/// Runs a cluster until a signal ends it, changes one that runs, or deletes one.
pub(crate) fn run(args: &DevArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    match &args.command {
        None => supervise(args, endpoints.auth()),
        Some(DevCommand::Running(command)) => commands::run(command, endpoints, format),
        Some(DevCommand::Reset(reset)) => reset::run(reset),
    }
}

fn supervise(args: &DevArgs, auth: Option<&Auth>) -> Result<(), Failure> {
    let directory = args.place.directory()?;
    let users_file = match &args.users_file {
        None => None,
        Some(path) => {
            Users::load(Some(path)).map_err(|error| Failure::usage(error.to_string()))?;
            let path =
                std::path::absolute(path).with_context(|| format!("find {}", path.display()))?;
            Some(path)
        }
    };
    // Judged before anything is made, and again once nobody else can change it.
    decide(args.asked(), &directory)?;
    fs::create_dir_all(directory.join("logs"))
        .with_context(|| format!("create {}", directory.display()))?;
    let lock = DirectoryLock::take(&directory)?;
    let cluster = decide(args.asked(), &directory)?;
    check_ports(&cluster.nodes())?;
    cluster.save(&directory)?;
    // What was left of an earlier run that ended while it deleted.
    orders::empty_discarded(&directory)?;
    for warning in cluster.warnings() {
        eprintln!("warning: {warning}");
    }
    for name in child::set_aside(std::env::vars_os().map(|(name, _)| name)) {
        eprintln!("note: {name} is not passed on: `cairn dev` decides that for its nodes itself");
    }
    let restart = (!args.no_restart).then(|| Duration::from_millis(args.restart_delay_ms));
    let access = Access {
        users_file: users_file.as_deref(),
        auth,
    };
    let outcome = supervise::run(cluster, &directory, restart, access);
    drop(lock);
    outcome
}

fn decide(asked: Asked, directory: &Path) -> Result<Recorded, Failure> {
    match Recorded::load(directory)? {
        Some(made) => made.again(asked, directory),
        None => Recorded::new(asked),
    }
}

/// Whether nobody has a port.
fn try_port(port: u16) -> std::io::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop)
}

/// Refuses ports that are taken, all of them at once, and says who has them.
fn check_ports(nodes: &[Node]) -> Result<(), Failure> {
    let mut taken = Vec::new();
    for node in nodes {
        for (purpose, port) in node.ports() {
            let Err(error) = try_port(port) else {
                continue;
            };
            let why = if error.kind() == ErrorKind::AddrInUse {
                Holder::of_port(port).map_or_else(
                    || "in use by a process that this user may not see".to_owned(),
                    |holder| format!("in use by {holder}"),
                )
            } else {
                error.to_string()
            };
            taken.push(format!("  - {port}, {purpose} of {}: {why}", node.name));
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    Err(
        Failure::refused(format!("these ports cannot be had:\n{}", taken.join("\n")))
            .with_remedy("Stop what has them, or choose other ports with --resp-port"),
    )
}
