//! `check`: a look at the directory of a data node that does not run.

use std::path::PathBuf;

use cairn_node::check::{CheckError, Report, check};
use cairn_node::disk::DirectoryError;

use crate::failure::{Failure, Kind};
use crate::output::{self, Format};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The directory of the node, whose process is stopped
    data_dir: PathBuf,
    /// Where what a look at the store changes is copied to, and removed again [default: the
    /// system's temporary directory]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
}

/// Reads all of it and prints what a start would find.
pub(crate) fn run(args: &CheckArgs, format: Format) -> Result<(), Failure> {
    let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
    let report = check(&args.data_dir, &scratch).map_err(refusal)?;
    match format {
        Format::Json => output::json(&report)?,
        Format::Table => output::text(&text(&report))?,
    }
    if report.is_whole() {
        Ok(())
    } else {
        Err(Failure::new(Kind::NotFound, "damage was found")
            .with_remedy("Nothing was changed: docs/runbooks/CairnDataDamaged.md says what to do"))
    }
}

fn refusal(error: CheckError) -> Failure {
    let in_use = matches!(error, CheckError::Directory(DirectoryError::Locked { .. }));
    let failure = match &error {
        CheckError::Io { .. } | CheckError::Directory(DirectoryError::Io { .. }) => {
            Failure::new(Kind::Other, error.to_string())
        }
        _ => Failure::refused(error.to_string()),
    };
    if in_use {
        failure.with_remedy(
            "Stop the node first, or check a snapshot of its volume: what a running one writes \
             meanwhile would look like damage",
        )
    } else {
        failure
    }
}

fn text(report: &Report) -> String {
    let Report {
        node,
        incarnation,
        cluster,
        log,
        store,
        replicas,
    } = report;
    let corrupt = replicas.iter().filter(|replica| replica.corrupt);
    let mut lines = vec![
        format!(
            "node {node}, incarnation {incarnation}, of {}",
            cluster.as_deref().map_or_else(
                || "no cluster yet".to_owned(),
                |cluster| format!("cluster {cluster}")
            )
        ),
        format!(
            "log: {} segments, {} bytes, {} entries",
            log.segments, log.bytes, log.entries
        ),
        format!("store: {} bytes, {} rows", store.bytes, store.rows),
        format!(
            "replicas: {}, of which {} would count as absent",
            replicas.len(),
            corrupt.clone().count()
        ),
    ];
    if log.torn_tail {
        lines.push(
            "the log has a torn tail, which a start drops: it was never acknowledged".to_owned(),
        );
    }
    if store.torn_tail {
        lines.push(
            "the end of the store's journal is torn, which a start cuts: the log has what it held"
                .to_owned(),
        );
    }
    lines.extend(log.damage.iter().map(|what| format!("damage: log: {what}")));
    lines.extend(
        store
            .damage
            .iter()
            .map(|what| format!("damage: store: {what}")),
    );
    lines.extend(corrupt.map(|replica| {
        format!(
            "damage: replica {} of partition {}: {}",
            replica.replica,
            replica.partition,
            if replica.mendable {
                "others can fill in what it lacks"
            } else {
                "it has to be made anew from others"
            }
        )
    }));
    if report.is_whole() {
        lines.push("nothing is damaged".to_owned());
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_no_node_used_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = |path: &std::path::Path| CheckArgs {
            data_dir: path.to_owned(),
            scratch: None,
        };
        let refused = run(&args(folder.path()), Format::Table).expect_err("it is empty");
        assert_eq!(refused.kind(), Kind::Refused);
        assert!(refused.to_string().contains("no data node"), "{refused}");
        let missing = run(&args(&folder.path().join("no")), Format::Table);
        assert_eq!(missing.expect_err("it is missing").kind(), Kind::Other);
        std::fs::write(folder.path().join("witness"), "").expect("written");
        let refused = run(&args(folder.path()), Format::Table).expect_err("a coordinator's");
        assert!(refused.to_string().contains("coordinator"), "{refused}");
    }
}
