//! `cluster`: what the cluster agreed on, and changing it while it lives.

use cairn_client::admin::{Change, ResetToken, Settings};
use cairn_core::counters::Declared;
use cairn_core::record::ClusterSettings;

use crate::endpoints::{Endpoints, block_on};
use crate::failure::Failure;
use crate::inspect;
use crate::output::{self, Format};
use crate::rebalance::{self, Manifest, Wait};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: Option<ClusterCommand>,
    #[command(flatten)]
    manifest: Manifest,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum ClusterCommand {
    /// Change what the cluster agreed on, while it serves
    ///
    /// replicationFactor, writeQuorum, minInSync, leaseMs, nodeTimeoutMs, replaceAfterMs,
    /// movesPerNode, idempotenceWindow. Where replicationFactor changes, writeQuorum and
    /// minInSync follow it if they were the usual ones for it.
    Set {
        /// What to change, as replicationFactor=5
        #[arg(required = true, value_name = "NAME=VALUE", value_parser = assignment)]
        changes: Vec<(String, Assigned)>,
        /// Print what would be copied, and change nothing
        #[arg(long, conflicts_with = "wait")]
        plan: bool,
        #[command(flatten)]
        wait: Wait,
    },
    /// Let the tokens of operators begin anew, where one that was made anew is refused
    ResetToken,
}

/// The names that can be set.
const NAMES: [&str; 9] = [
    "replicationFactor",
    "writeQuorum",
    "minInSync",
    "leaseMs",
    "nodeTimeoutMs",
    "replaceAfterMs",
    "movesPerNode",
    "idempotenceWindow",
    "counters",
];

/// What a setting is set to.
#[derive(Clone, Debug)]
enum Assigned {
    Number(u64),
    Text(String),
}

fn assignment(text: &str) -> Result<(String, Assigned), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "give NAME=VALUE".to_owned())?;
    if !NAMES.contains(&name) {
        return Err(format!(
            "there is no `{name}`: {} can be set",
            NAMES.join(", ")
        ));
    }
    if name == "counters" {
        Declared::parse(value).map_err(|error| error.to_string())?;
        return Ok((name.to_owned(), Assigned::Text(value.to_owned())));
    }
    let value = value
        .parse()
        .map_err(|_| format!("`{value}` is not a whole number"))?;
    Ok((name.to_owned(), Assigned::Number(value)))
}

pub(crate) fn run(args: ClusterArgs, endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    match args.command {
        None => show(endpoints, format),
        Some(ClusterCommand::ResetToken) => {
            let change = Change::ResetToken(ResetToken {});
            rebalance::change(endpoints, "cluster", change, args.manifest)
        }
        Some(ClusterCommand::Set {
            changes,
            plan,
            wait,
        }) => {
            let change = Change::Settings(settings(&changes)?);
            if plan {
                return rebalance::show_plan(Some(change), endpoints, format);
            }
            rebalance::change(endpoints, "cluster", change, args.manifest)?;
            rebalance::settle_where_asked(&wait, endpoints, format)
        }
    }
}

fn settings(changes: &[(String, Assigned)]) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    for (name, value) in changes {
        let value = match value {
            Assigned::Number(value) => value,
            Assigned::Text(text) => {
                settings.counters = Some(text.clone());
                continue;
            }
        };
        let small = || {
            u32::try_from(*value)
                .map(Some)
                .map_err(|_| Failure::usage(format!("{name} {value} is out of range")))
        };
        match name.as_str() {
            "replicationFactor" => settings.replication_factor = small()?,
            "writeQuorum" => settings.write_quorum = small()?,
            "minInSync" => settings.min_in_sync = small()?,
            "leaseMs" => settings.lease_ms = Some(*value),
            "nodeTimeoutMs" => settings.node_timeout_ms = Some(*value),
            "replaceAfterMs" => settings.replace_after_ms = Some(*value),
            "movesPerNode" => settings.moves_per_node = small()?,
            "idempotenceWindow" => settings.idempotence_window = small()?,
            other => return Err(Failure::usage(format!("there is no `{other}`"))),
        }
    }
    Ok(settings)
}

fn show(endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let document = block_on(inspect::document(endpoints))?;
    let Some(settings) = document.settings else {
        return Err(Failure::unavailable("the cluster is not made yet"));
    };
    if format == Format::Json {
        return output::json(&settings);
    }
    let ClusterSettings {
        replication_factor,
        write_quorum,
        min_in_sync,
        partitions,
        virtual_nodes,
        initial_data_nodes: _,
        lease_ms,
        lease_ms_longest: _,
        idempotence_window,
        node_timeout_ms,
        read_level,
        read_quorum,
        replace_after_ms,
        moves_per_node,
        counters,
    } = settings;
    let rows = [
        ("replicationFactor", replication_factor.to_string()),
        ("writeQuorum", write_quorum.to_string()),
        ("minInSync", min_in_sync.to_string()),
        ("partitions", partitions.to_string()),
        ("virtualNodes", virtual_nodes.to_string()),
        ("leaseMs", lease_ms.to_string()),
        ("nodeTimeoutMs", node_timeout_ms.to_string()),
        ("replaceAfterMs", replace_after_ms.to_string()),
        ("movesPerNode", moves_per_node.to_string()),
        ("idempotenceWindow", idempotence_window.to_string()),
        ("counters", counters),
        ("readLevel", read_level.name().to_owned()),
        (
            "readQuorum",
            if read_quorum == 0 {
                "as needed".to_owned()
            } else {
                read_quorum.to_string()
            },
        ),
    ];
    output::table(
        &["SETTING", "VALUE"],
        rows.map(|(name, value)| vec![name.to_owned(), value]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_changed() {
        let changes = [assignment("replicationFactor=5"), assignment("leaseMs=600")];
        let changes: Vec<_> = changes.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            settings(&changes),
            Ok(Settings {
                replication_factor: Some(5),
                lease_ms: Some(600),
                ..Settings::default()
            })
        );
        assert!(settings(&[("movesPerNode".to_owned(), Assigned::Number(1 << 40))]).is_err());
        for name in NAMES {
            let text = if name == "counters" {
                "counters=views:=16".to_owned()
            } else {
                format!("{name}=3")
            };
            let assigned = assignment(&text).expect("every name can be given");
            settings(&[assigned]).expect("every name can be set");
        }
        assert!(assignment("counters=views").is_err());
    }

    #[test]
    fn other_names_and_values_are_refused() {
        assert!(
            assignment("partitions=5")
                .unwrap_err()
                .contains("replicationFactor")
        );
        assert!(assignment("replicationFactor").is_err());
        assert!(assignment("replicationFactor=five").is_err());
    }
}
