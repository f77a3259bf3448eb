//! The command line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_node::settings::TlsPorts;
use cairn_node::tls::client_dialer;
use clap::{CommandFactory, Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::check::CheckArgs;
use crate::cluster::ClusterArgs;
use crate::config::Config;
use crate::coordinators::CoordinatorsArgs;
use crate::credential::{Credential, CredentialArgs};
use crate::data::{DeleteArgs, GetArgs, IncrementArgs, PutArgs};
use crate::debug::DebugCommand;
use crate::dev::DevArgs;
use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::hotkeys::HotkeysArgs;
use crate::inspect::PartitionsArgs;
use crate::keyspace::{ScanArgs, WatchArgs};
use crate::membership::NodesArgs;
use crate::output::Format;
use crate::plan::PlanArgs;
use crate::rebalance::RebalanceArgs;
use crate::recover::RecoverArgs;
use crate::recover_coordinators::RecoverCoordinatorsArgs;
use crate::user::UserCommand;
use crate::{
    bench, check, cluster, coordinators, data, debug, dev, hotkeys, inspect, keyspace, membership,
    node, plan, rebalance, recover, recover_coordinators, user,
};

/// A durable, replicated key-value store
///
/// Exit codes: 0 done; 1 no such key, a condition did not hold, or damage was found; 2 wrong usage or
/// settings; 3 the cluster cannot be reached or cannot serve, nothing was done; 4 the
/// outcome of a write is unknown, or what was waited for is not done yet; 5 refused; 6 anything else.
// The TLS files carry the names of a node's settings as ids (which clap would make the
// flags' names too, were those not given), so that under `cairn node`
// the node's own flags take their place instead of clashing with them. clap hands such
// values up and down, so they have the same type as there.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "cairn",
    version,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// gRPC addresses of any nodes of the cluster [default: the cluster of `cairn dev`]
    #[arg(
        long,
        global = true,
        env = "CAIRN_ENDPOINTS",
        value_delimiter = ',',
        value_name = "HOST:PORT,..."
    )]
    endpoints: Vec<String>,
    /// A file with endpoints and TLS files [default: cairn/config.toml in the user's
    /// configuration directory]
    #[arg(long, global = true, env = "CAIRN_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// The CA that signs the nodes' certificates, where the cluster has TLS
    #[arg(
        id = "CAIRN_TLS_CA_FILE",
        long = "tls-ca-file",
        global = true,
        env = "CAIRN_TLS_CA_FILE",
        value_name = "PEM"
    )]
    tls_ca_file: Option<String>,
    /// A certificate to show to the nodes
    #[arg(
        id = "CAIRN_TLS_CERT_FILE",
        long = "tls-cert-file",
        global = true,
        env = "CAIRN_TLS_CERT_FILE",
        value_name = "PEM",
        requires_all = ["CAIRN_TLS_KEY_FILE", "CAIRN_TLS_CA_FILE"]
    )]
    tls_cert_file: Option<String>,
    /// Its private key
    #[arg(
        id = "CAIRN_TLS_KEY_FILE",
        long = "tls-key-file",
        global = true,
        env = "CAIRN_TLS_KEY_FILE",
        value_name = "PEM",
        requires_all = ["CAIRN_TLS_CERT_FILE", "CAIRN_TLS_CA_FILE"]
    )]
    tls_key_file: Option<String>,
    /// Which ports of the cluster speak TLS: all, or the peer ports between nodes alone
    /// [default: all]
    #[arg(
        id = "CAIRN_TLS_PORTS",
        long = "tls-ports",
        global = true,
        env = "CAIRN_TLS_PORTS",
        value_name = "PORTS"
    )]
    tls_ports: Option<String>,
    #[command(flatten)]
    credential: CredentialArgs,
    /// How to print
    #[arg(long, short = 'o', global = true, value_enum, default_value_t)]
    output: Format,
    /// Seconds after which a command gives up
    #[arg(long, global = true, default_value_t = 10.0, value_parser = timeout)]
    timeout: f64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    Dev(DevArgs),
    /// Set a key
    Put(PutArgs),
    /// Print the value of a key
    Get(GetArgs),
    /// Delete a key
    Del(DeleteArgs),
    /// Add to the integer of a key
    Incr(IncrementArgs),
    /// Print the keys with a prefix, and their values
    Scan(ScanArgs),
    /// Print what happens to a key, or to the keys with a prefix
    Watch(WatchArgs),
    /// How the cluster is
    Status,
    /// The ring of virtual nodes, and how much of it each node has
    Ring,
    /// The data nodes and coordinators; which data nodes hold the data
    Nodes(NodesArgs),
    /// The partitions: primary, replicas, epoch, lag
    Partitions(PartitionsArgs),
    /// The keys that data nodes are asked for far more than others
    ///
    /// Each node looks at what clients ask of it and tells the keys that take a noticeable part
    /// of that: by a hash, or by name where CAIRN_HOT_KEYS is `names`. Where the cluster has
    /// users it takes the role admin.
    Hotkeys(HotkeysArgs),
    /// What is being copied to where, and holding it back
    Rebalance(RebalanceArgs),
    /// What the cluster agreed on, and changing it while it serves
    Cluster(ClusterArgs),
    /// Name the survivors of a partition that lost too many replicas
    ///
    /// Where fewer than N-W+1 replicas of a partition are left, nobody is made its primary
    /// by itself: what the lost ones acknowledged might be missing. This shows what may be
    /// lost, asks, gives up every replica but the named ones, and waits until it is served.
    Recover(RecoverArgs),
    /// The coordinators, and changes of their group while it runs
    Coordinators(CoordinatorsArgs),
    /// Go on with one coordinator's disk where the majority of the disks is lost
    ///
    /// On the machine of a coordinator that is stopped. This shows what its disk and the data
    /// nodes know, asks, and makes it the only coordinator of a new group, from which the
    /// other disks are kept out. Start it then, and add the others again.
    RecoverCoordinators(RecoverCoordinatorsArgs),
    /// Measure the cluster under load
    Bench(BenchArgs),
    /// What nodes a cluster needs for a load: storage, operations, flushes, network, memory
    ///
    /// It asks no cluster. What a node does comes from measurements, see docs/capacity.md, or from
    /// flags. Exit code 0: such nodes would do; 1: they would not.
    Plan(PlanArgs),
    /// Look for damage in the directory of a data node that is stopped
    ///
    /// Reads the log and the store as a start does, with all checksums, and changes nothing.
    /// Exit code 0: nothing is damaged; 1: something is. A torn tail is no damage.
    Check(CheckArgs),
    /// Collect what somebody else needs to look at the cluster
    Debug {
        #[command(subcommand)]
        command: DebugCommand,
    },
    /// Print what makes a shell complete this command line
    ///
    /// bash: `source <(cairn completion bash)` in ~/.bashrc.
    /// zsh: `source <(cairn completion zsh)` in ~/.zshrc, after compinit.
    /// fish: `cairn completion fish > ~/.config/fish/completions/cairn.fish`.
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Make what stands in the users file of a cluster
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// List the settings of a node
    Settings {
        /// As the page in the docs
        #[arg(long)]
        markdown: bool,
    },
}

fn timeout(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|seconds| (0.1..=86_400.0).contains(seconds))
        .ok_or_else(|| "give seconds from 0.1 to 86400".to_owned())
}

/// The whole command line, with `node`, whose flags are made of the table of
/// settings.
pub(crate) fn command() -> clap::Command {
    Cli::command().subcommand(node::command())
}

/// Carries a command out.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let Cli {
        endpoints,
        config,
        tls_ca_file,
        tls_cert_file,
        tls_key_file,
        tls_ports,
        credential,
        output,
        timeout,
        command,
    } = cli;
    // What needs no cluster does not need to know where one is.
    // Nor does what speaks with nobody log in.
    let (asks, logs_in) = match &command {
        Command::Dev(_) => (false, true),
        Command::Completion { .. }
        | Command::Settings { .. }
        | Command::User { .. }
        | Command::Plan(_)
        | Command::Check(_) => (false, false),
        _ => (true, true),
    };
    let config = if asks {
        Config::load(config.as_deref())?
    } else {
        Config::default()
    };
    let credential = if logs_in {
        credential.read(|name| std::env::var(name).ok(), &config)?
    } else {
        None
    };
    let endpoints = if endpoints.iter().all(String::is_empty) {
        config.endpoints
    } else {
        endpoints
    };
    let file = |given: Option<String>, configured| given.map(PathBuf::from).or(configured);
    // A certificate goes with its own key.
    let (cert, key) = match (tls_cert_file, tls_key_file) {
        (None, None) => (config.tls_cert_file, config.tls_key_file),
        (cert, key) => (file(cert, None), file(key, None)),
    };
    let tls_ports = match tls_ports.or(config.tls_ports) {
        // A manifest may leave the variable blank.
        Some(ports) if !ports.is_empty() => ports
            .parse::<TlsPorts>()
            .map_err(|error| Failure::usage(format!("--tls-ports {ports}: {error}")))?,
        _ => TlsPorts::default(),
    };
    let peer_dialer = match file(tls_ca_file, config.tls_ca_file) {
        None => Dialer::default(),
        Some(ca) => {
            let identity = cert.as_deref().zip(key.as_deref());
            client_dialer(Path::new(&ca), identity)
                .map_err(|error| Failure::usage(error.to_string()))?
        }
    };
    let dialer = match tls_ports {
        TlsPorts::All => peer_dialer.clone(),
        TlsPorts::Peer => Dialer::default(),
    };
    let dialer = Dialer {
        credential: credential.as_ref().map(Credential::for_grpc).transpose()?,
        ..dialer
    };
    let timeout = Duration::from_secs_f64(timeout);
    let auth = credential.as_ref().map(Credential::for_resp);
    let endpoints = Endpoints::new(endpoints, dialer, auth, timeout);
    match command {
        Command::Dev(args) => dev::run(&args, &endpoints, output),
        Command::Put(args) => data::put(&args, &endpoints, output),
        Command::Get(args) => data::get(&args, &endpoints, output),
        Command::Del(args) => data::delete(&args, &endpoints, output),
        Command::Incr(args) => data::increment(&args, &endpoints, output),
        Command::Scan(args) => keyspace::scan(&args, &endpoints, output),
        Command::Watch(args) => keyspace::watch(&args, &endpoints, output),
        Command::Status => inspect::status(&endpoints, output),
        Command::Ring => inspect::ring(&endpoints, output),
        Command::Nodes(args) => membership::run(args, &endpoints, output),
        Command::Hotkeys(args) => hotkeys::run(&args, &endpoints, output),
        Command::Rebalance(args) => rebalance::run(&args, &endpoints, output),
        Command::Cluster(args) => cluster::run(args, &endpoints, output),
        Command::Partitions(args) => inspect::partitions(&args, &endpoints, output),
        Command::Recover(args) => recover::run(&args, &endpoints, output),
        Command::Coordinators(args) => coordinators::run(args, &endpoints, output),
        Command::RecoverCoordinators(args) => {
            recover_coordinators::run(&args, &endpoints, &peer_dialer, output)
        }
        Command::Bench(args) => bench::run(&args, &endpoints, output),
        Command::Check(args) => check::run(&args, output),
        Command::Plan(args) => plan::run(&args, output),
        Command::Debug { command } => debug::run(&command, &endpoints, output),
        Command::Completion { shell } => completion(shell),
        Command::User { command } => user::run(&command, output),
        Command::Settings { markdown } => settings(markdown, output),
    }
}

fn completion(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command(), "cairn", &mut text);
    crate::output::bytes(&text)
}

fn settings(markdown: bool, format: Format) -> Result<(), Failure> {
    use cairn_node::settings::SETTINGS;
    if markdown {
        return crate::output::text(&cairn_node::settings::markdown());
    }
    if format == Format::Json {
        let rows: Vec<_> = SETTINGS
            .iter()
            .map(|setting| {
                serde_json::json!({
                    "name": setting.name,
                    "flag": format!("--{}", setting.flag()),
                    "roles": setting.roles.label(),
                    "default": setting.default,
                    "value": setting.unit,
                    "purpose": setting.purpose,
                })
            })
            .collect();
        return crate::output::json(&rows);
    }
    crate::output::table(
        &["VARIABLE", "ROLE", "DEFAULT", "VALUE", "WHAT FOR"],
        SETTINGS.iter().map(|setting| {
            [
                setting.name,
                setting.roles.label(),
                setting.default,
                setting.unit,
                setting.purpose,
            ]
            .map(|cell| cell.replace('`', ""))
            .to_vec()
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn a_node_takes_its_own_tls_files() {
        let line = "cairn node --tls-cert-file /n.pem --tls-key-file /n.key --tls-ca-file /ca.pem \
                    --tls-ports peer";
        let matches = command()
            .try_get_matches_from(line.split(' '))
            .expect("node flags");
        let (name, node) = matches.subcommand().expect("a command");
        assert_eq!(name, "node");
        let given = node.try_get_one::<String>("CAIRN_TLS_CERT_FILE");
        assert_eq!(given.expect("a string").map(String::as_str), Some("/n.pem"));
        let given = node.try_get_one::<String>("CAIRN_TLS_PORTS");
        assert_eq!(given.expect("a string").map(String::as_str), Some("peer"));
    }

    #[test]
    fn commands_are_read() {
        for line in [
            "cairn dev",
            "cairn dev --coordinators 1 --data-nodes 3 --replication-factor 2 --write-quorum 2 --data-dir /x --resp-port 7000",
            "cairn dev --consistency eventual",
            "cairn dev reset --yes --data-dir /x",
            "cairn dev add --data-dir /x",
            "cairn dev add --count 3 --zone b --weight 50 -o json --timeout 60",
            "cairn dev list -o json",
            "cairn dev stop data-1",
            "cairn dev stop coordinator-2 --kill",
            "cairn dev start data-1 --data-dir /x",
            "cairn dev wipe data-1 --yes --force",
            "cairn dev remove data-1 -y",
            "cairn put key value",
            "cairn put key --file -",
            "cairn get key -o json",
            "cairn get key --consistency quorum",
            "cairn put key value --write-level all",
            "cairn incr key --write-level quorum",
            "cairn del a b c",
            "cairn incr key",
            "cairn incr key --by=-3",
            "cairn scan",
            "cairn scan user: --limit 5 --keys-only -o json --from 3:6b",
            "cairn watch key -o json",
            "cairn watch --prefix user: --from 1:2/3,2:0/0 --limit 1",
            "cairn status --endpoints a:1,b:2",
            "cairn status --tls-ca-file /ca.pem --tls-cert-file /c.pem --tls-key-file /c.key",
            "cairn --tls-ca-file /ca.pem get key",
            "cairn status --tls-ca-file /ca.pem --tls-ports peer",
            "cairn partitions --degraded",
            "cairn recover 7 --survivor data-1,data-2 --yes",
            "cairn recover 7 --survivor data-1 --accept-loss",
            "cairn nodes",
            "cairn nodes add data-4 data-5 --wait --wait-timeout 60",
            "cairn nodes drain data-4 --wait",
            "cairn nodes drain data-4 --plan -o json",
            "cairn nodes undrain data-4",
            "cairn nodes remove data-4",
            "cairn nodes remove data-4 --gone-for-good --force --yes",
            "cairn nodes expect data-4 --within 60",
            "cairn nodes handover data-4 --for 60 --wait",
            "cairn nodes handover data-4 --clear",
            "cairn nodes expect data-4 --clear",
            "cairn nodes add data-4 --override-manifest",
            "cairn nodes drain data-4 --wait --override-manifest",
            "cairn nodes undrain data-4 --override-manifest",
            "cairn nodes remove data-4 --override-manifest",
            "cairn nodes expect data-4 --clear --override-manifest",
            "cairn rebalance",
            "cairn rebalance --plan -o json",
            "cairn rebalance --wait",
            "cairn rebalance pause",
            "cairn rebalance resume",
            "cairn rebalance pause --override-manifest",
            "cairn rebalance resume --override-manifest",
            "cairn cluster",
            "cairn cluster set replicationFactor=5 writeQuorum=3 --wait",
            "cairn cluster set replicationFactor=5 --plan",
            "cairn cluster set replicationFactor=5 --override-manifest",
            "cairn cluster reset-token --override-manifest",
            "cairn coordinators -o json",
            "cairn coordinators add c1=h:1 c2=h:2 --wait --timeout 60",
            "cairn coordinators remove c1 c2",
            "cairn coordinators remove c1 --override-manifest",
            "cairn coordinators replace c1 c3=h:3 --wait",
            "cairn recover-coordinators --data-dir /x --accept-loss",
            "cairn bench --mode mix --mix set=1,get=2,incr=3 -c 256",
            "cairn bench --mode read --requests 1000",
            "cairn bench --workload A --rate 1000 --distribution latest",
            "cairn bench -w d --native",
            "cairn plan",
            "cairn plan --data 3TiB --ops 50000 --reads 90 --value-size 4KiB --data-nodes 9 -o json",
            "cairn completion zsh",
            "cairn get key --config /c.toml",
            "cairn get key --user app --password-file /p",
            "cairn --token-file - get key",
            "cairn user hash",
            "cairn user hash --token --file /t",
            "cairn user token -o json",
            "cairn dev --users-file users.toml",
        ] {
            let parsed = Cli::try_parse_from(line.split(' '));
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
        for line in [
            "cairn",
            "cairn dev --coordinators 9",
            "cairn dev --consistency lax",
            "cairn dev reset --coordinators 3",
            "cairn dev --data-nodes 3 add",
            "cairn dev add --count 0",
            "cairn dev add --weight 10001",
            "cairn dev stop",
            "cairn put key",
            "cairn put key value --file x",
            "cairn incr key --by x",
            "cairn recover 7",
            "cairn recover 7 --survivor data-1 --override-manifest",
            "cairn status --override-manifest",
            "cairn nodes drain",
            "cairn nodes drain data-4 --plan --wait",
            "cairn nodes remove data-4 --force",
            "cairn nodes expect data-4",
            "cairn nodes expect data-4 --within 0",
            "cairn nodes drain data-4 --wait-timeout 5",
            "cairn rebalance pause --plan",
            "cairn cluster set",
            "cairn cluster set partitions=7",
            "cairn coordinators add c1",
            "cairn coordinators remove",
            "cairn coordinators replace c1",
            "cairn recover --survivor data-1",
            "cairn scan --limit 0",
            "cairn scan --from x",
            "cairn watch",
            "cairn watch key --prefix p",
            "cairn get key --consistency all",
            "cairn del key --write-level any",
            "cairn bench --mix scan=1",
            "cairn bench -w e",
            "cairn bench --rate 0",
            "cairn completion cmd",
            "cairn bench --duration 5 --requests 5",
            "cairn status --timeout 0",
            "cairn status --password-file /p --token-file /t",
            "cairn user",
            "cairn status --tls-cert-file /c.pem --tls-key-file /c.key",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
