//! Where a run's files are: data of the servers below `target/bench`, removed at the end, and
//! results, which stay.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::compare::{RESULTS, below};
use crate::systems::Paths;

/// Programs, folders and threads
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PathArgs {
    /// The cairn binary [default: the one beside this program]
    #[arg(long, value_name = "PATH")]
    cairn: Option<PathBuf>,
    /// An etcd 3.6 server [default: built from its Go module]
    #[arg(long, value_name = "PATH")]
    etcd: Option<PathBuf>,
    /// A Redis 7 server
    #[arg(long, value_name = "PATH", default_value = "redis-server")]
    redis_server: PathBuf,
    /// Where results go [default: bench/results in the checkout]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where the servers keep their data meanwhile [default: target/bench in the checkout]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Threads of the driver [default: one per four processors]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
}

/// The files of a run. Dropping it removes what does not stay.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) paths: Paths,
    pub(crate) results: PathBuf,
    pub(crate) threads: usize,
    /// As it was called, for the report.
    pub(crate) command: String,
}

impl Scratch {
    pub(crate) fn make(args: &PathArgs) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("the crate lies in the checkout")?
            .to_owned();
        let beside = std::env::current_exe().context("find this program's own path")?;
        let data = args
            .data_dir
            .clone()
            .unwrap_or_else(|| root.join("target/bench"));
        let scratch = below(&root, data).join(format!("run-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).with_context(|| format!("make {}", scratch.display()))?;
        if let Some(folder) = scratch.parent() {
            remove_of_the_dead(folder, "run-", |path| std::fs::remove_dir_all(path).is_ok());
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            results: args.out.clone().unwrap_or_else(|| root.join(RESULTS)),
            threads: args
                .threads
                .map_or((processors / 4).max(1), |threads| threads as usize),
            command: command_line(std::env::args().skip(1)),
            paths: Paths {
                scratch,
                cairn: args
                    .cairn
                    .clone()
                    .unwrap_or_else(|| beside.with_file_name("cairn")),
                etcd: args.etcd.clone(),
                redis_server: args.redis_server.clone(),
                root,
            },
        })
    }
}

/// Keeps a result under its name in the folder of results; where it is then.
pub(crate) fn keep(results: &Path, name: &str, text: &str) -> Result<PathBuf> {
    std::fs::create_dir_all(results).with_context(|| format!("make {}", results.display()))?;
    let path = results.join(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let scratch = &self.paths.scratch;
        if let Err(error) = std::fs::remove_dir_all(scratch) {
            eprintln!("{} could not be removed: {error}", scratch.display());
        }
    }
}

/// Removes what runs that were killed have left: folders with the pid of a process that is gone.
pub(crate) fn remove_of_the_dead(folder: &Path, prefix: &str, remove: impl Fn(&Path) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(prefix));
        if let Some(pid) = pid.and_then(|pid| pid.parse::<u32>().ok())
            && !Path::new(&format!("/proc/{pid}")).exists()
            && remove(&entry.path())
        {
            eprintln!(
                "removed {}, of a run that was killed",
                entry.path().display()
            );
        }
    }
}

/// The call without the paths of this machine, which say nothing to others.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    const PATHS: [&str; 5] = ["--cairn", "--etcd", "--redis-server", "--out", "--data-dir"];
    let mut text = "cairn-bench".to_owned();
    let mut skip = false;
    for argument in arguments {
        let name = argument.split('=').next().unwrap_or_default();
        if std::mem::take(&mut skip) {
            continue;
        }
        if PATHS.contains(&name) {
            skip = !argument.contains('=');
            continue;
        }
        text.push(' ');
        text.push_str(&argument);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_killed_runs_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a directory");
        let own = format!("run-{}", std::process::id());
        // No process has a number above the kernel's highest.
        for name in [&own, "run-4194999", "run-x", "other-4194999"] {
            std::fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        remove_of_the_dead(folder.path(), "run-", |path| {
            std::fs::remove_dir(path).is_ok()
        });
        let left = |name: &str| folder.path().join(name).exists();
        assert!(left(&own) && left("run-x") && left("other-4194999"));
        assert!(!left("run-4194999"));
    }

    #[test]
    fn a_report_names_no_paths() {
        let words = [
            "compare", "--etcd", "/x/etcd", "--quick", "--out=/y", "--rounds", "3",
        ];
        let text = command_line(words.map(str::to_owned).into_iter());
        assert_eq!(text, "cairn-bench compare --quick --rounds 3");
    }
}
