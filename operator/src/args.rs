//! The command line. Every flag is also a variable `CAIRN_OPERATOR_*`.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::controller::Scope;

/// Turns KvCluster manifests into running clusters.
#[derive(Clone, Debug, Parser)]
#[command(name = "cairn-operator", version, propagate_version = true)]
pub struct Cli {
    /// What to do; `run` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What `run` takes, where nothing is said.
    #[command(flatten)]
    pub run: Run,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Look after clusters, until SIGTERM.
    Run(Box<Run>),
    /// Print the definition of the KvCluster resource, as YAML.
    Crd,
}

/// How the operator runs.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// The namespaces whose clusters are looked after, with commas between them; all where none
    /// is named.
    #[arg(long, env = "CAIRN_OPERATOR_NAMESPACE", value_delimiter = ',', value_parser = namespace)]
    pub namespace: Vec<String>,

    /// The repository of the nodes' image, for manifests that name no image.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_IMAGE_REPOSITORY",
        default_value = "cairn/node",
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub image_repository: String,

    /// The version of the nodes of clusters that are made from now on, for manifests that name
    /// none.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_DEFAULT_VERSION",
        default_value = env!("CARGO_PKG_VERSION"),
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    pub default_version: String,

    /// Whether operators choose one that acts. Without it there must be one alone.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_LEADER_ELECTION",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub leader_election: bool,

    /// The Lease by which they choose.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_LEASE_NAME",
        default_value = "cairn-operator",
        value_parser = label
    )]
    pub lease_name: String,

    /// The namespace of the Lease; the operator's own where it is left out.
    #[arg(long, env = "CAIRN_OPERATOR_LEASE_NAMESPACE", value_parser = namespace)]
    pub lease_namespace: Option<String>,

    /// The name of this operator among others, for people; its pod's name.
    #[arg(long, env = "CAIRN_OPERATOR_NAME", value_parser = label)]
    pub name: Option<String>,

    /// Where health and metrics are served.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_HTTP_LISTEN",
        default_value = "0.0.0.0:8080"
    )]
    pub http_listen: SocketAddr,

    /// Whether metrics are served.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_METRICS",
        default_value_t = true,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true"
    )]
    pub metrics: bool,

    /// What is logged: a level, or `target=level,...`.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_LOG",
        default_value = "info,kube=warn,tower=warn"
    )]
    pub log: String,

    /// How it is logged.
    #[arg(
        long,
        env = "CAIRN_OPERATOR_LOG_FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// For tests: end the process at once after that many writes to the API server or the
    /// coordinators.
    #[arg(long, env = "CAIRN_OPERATOR_EXIT_AFTER_WRITES", value_parser = clap::value_parser!(u64).range(1..))]
    pub exit_after_writes: Option<u64>,
}

/// The form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Run {
    /// Where clusters are looked after.
    #[must_use]
    pub fn scope(&self) -> Scope {
        if self.namespace.is_empty() {
            return Scope::Everywhere;
        }
        let mut namespaces = self.namespace.clone();
        namespaces.sort();
        namespaces.dedup();
        Scope::Namespaces(namespaces)
    }
}

/// A label of DNS, which is what a namespace is called.
fn namespace(text: &str) -> Result<String, String> {
    if text.len() > 63 || text.contains('.') {
        return Err("a namespace is a label of at most 63 characters".to_owned());
    }
    label(text)
}

/// What an object of Kubernetes is called.
fn label(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let inside = |c: char| plain(c) || c == '-' || c == '.';
    let fits = (1..=253).contains(&text.len())
        && text.starts_with(plain)
        && text.ends_with(plain)
        && text.chars().all(inside);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(
            "a name has small letters, digits and hyphens, and begins and ends with no hyphen"
                .to_owned(),
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn run(arguments: &[&str]) -> Result<Run, clap::Error> {
        let all = std::iter::once(&"cairn-operator").chain(arguments);
        Cli::try_parse_from(all).map(|cli| match cli.command {
            Some(Command::Run(run)) => *run,
            _ => cli.run,
        })
    }

    #[test]
    fn the_command_line_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn it_runs_where_nothing_is_said_as_where_run_is() {
        for arguments in [&[][..], &["run"][..]] {
            let run = run(arguments).unwrap();
            assert_eq!(run.scope(), Scope::Everywhere);
            assert!(run.leader_election && run.metrics);
            assert_eq!(run.default_version, env!("CARGO_PKG_VERSION"));
            assert_eq!(run.exit_after_writes, None);
        }
    }

    #[test]
    fn namespaces_are_listed_with_commas_and_each_looked_after_once() {
        let run = run(&["run", "--namespace", "shop,stock,shop"]).unwrap();
        let expected = ["shop".to_owned(), "stock".to_owned()];
        assert_eq!(run.scope(), Scope::Namespaces(expected.to_vec()));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        for arguments in [
            &["--namespace", "Shop"][..],
            &["--namespace", "shop,"][..],
            &["--namespace", "a.b"][..],
            &["--lease-name", "-x"][..],
            &["--http-listen", "8080"][..],
            &["--exit-after-writes", "0"][..],
            &["--image-repository", ""][..],
        ] {
            assert!(run(arguments).is_err(), "{arguments:?}");
        }
        assert!(!run(&["--leader-election=false"]).unwrap().leader_election);
    }

    #[test]
    fn every_flag_is_a_variable_of_the_same_spelling() {
        let command = Cli::command();
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            if ["help", "version"].contains(&id) {
                continue;
            }
            let expected = format!("CAIRN_OPERATOR_{}", id.to_uppercase());
            let variable = argument.get_env().unwrap_or_default();
            assert_eq!(variable, expected.as_str(), "{id}");
        }
    }
}
