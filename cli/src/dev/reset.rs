//! `cairn dev reset`: deletes a development cluster, and nothing else.

use std::fs;
use std::io;
use std::path::Path;

use anyhow::Context;

use super::layout::{self, DISCARDED, Place, Recorded};
use super::lock::DirectoryLock;
use crate::confirm;
use crate::failure::Failure;

#[derive(Clone, Debug, clap::Args)]
pub(super) struct ResetArgs {
    #[command(flatten)]
    place: Place,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

pub(super) fn run(args: &ResetArgs) -> Result<(), Failure> {
    let directory = args.place.directory()?;
    if !directory.join("dev.json").exists() {
        return Err(Failure::refused(format!(
            "{} holds no cluster of `cairn dev`: there is no dev.json in it",
            directory.display()
        )));
    }
    let lock = DirectoryLock::take(&directory)?;
    let question = format!(
        "Delete the cluster in {} with all its data?",
        directory.display()
    );
    confirm::require(
        args.yes,
        "deleting all data",
        &question,
        "nothing was deleted",
    )?;
    delete(&directory)?;
    drop(lock);
    // The directory itself goes if nothing of somebody else's is in it.
    let _ = fs::remove_file(directory.join("dev.lock"));
    let _ = fs::remove_dir(&directory);
    println!("deleted the cluster in {}", directory.display());
    Ok(())
}

/// `dev.json` goes last, so that a reset that was cut short can be run again.
fn delete(directory: &Path) -> anyhow::Result<()> {
    let names: Vec<String> = match Recorded::load(directory) {
        Ok(Some(cluster)) => cluster.nodes().into_iter().map(|node| node.name).collect(),
        // A dev.json of another build: its nodes are known by their names.
        Ok(None) | Err(_) => (1..=layout::NODES_MAX)
            .flat_map(|n| [format!("coordinator-{n}"), format!("data-{n}")])
            .collect(),
    };
    for name in names.iter().map(String::as_str).chain(["logs", DISCARDED]) {
        let path = directory.join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("delete {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    for name in ["pids.json", "dev.json"] {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("delete {}", path.display()));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Kind;

    #[test]
    fn only_what_dev_made_is_deleted() {
        let directory = std::env::temp_dir().join(format!("cairn-reset-{}", std::process::id()));
        fs::create_dir_all(directory.join("mine")).expect("a directory");
        let args = ResetArgs {
            place: Place::at(&directory),
            yes: true,
        };
        let refused = run(&args).expect_err("there is no cluster");
        assert_eq!(refused.kind(), Kind::Refused);

        Recorded::new(layout::Asked::default())
            .expect("valid")
            .save(&directory)
            .expect("saved");
        fs::create_dir_all(directory.join("data-1/wal")).expect("a node's directory");
        fs::create_dir_all(directory.join(DISCARDED).join("data-2-x")).expect("a wiped one");
        run(&args).expect("reset");
        assert!(directory.join("mine").exists());
        assert!(!directory.join("data-1").exists());
        assert!(!directory.join(DISCARDED).exists());
        assert!(!directory.join("dev.json").exists());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
