//! The processes of a development cluster: this very executable, set up by its
//! environment alone, as it would be in a container.
//!
//! A child never outlives its parent, however that ends: the kernel kills it when
//! the parent's main thread is gone, and its standard input is a pipe from the
//! parent, at whose end it stops by itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use anyhow::Context;
use tokio::process::{Child, Command};

use super::layout::{Node, Recorded, Role};

/// A log that is longer than this when its process starts is put aside.
const LOG_BYTES_MAX: u64 = 16 << 20;

/// The executable of this very process, also where its file was replaced by a newer
/// build meanwhile: then by a path that leads to it without its name.
pub(super) fn executable() -> PathBuf {
    const OWN: &str = "/proc/self/exe";
    let id = |path: &Path| fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    // By its path it has its name in the tables of processes.
    std::env::current_exe()
        .ok()
        .filter(|path| id(path).is_some() && id(path) == id(Path::new(OWN)))
        .unwrap_or_else(|| PathBuf::from(OWN))
}

/// The variables that make a node of the cluster what it is.
pub(super) fn environment(
    cluster: &Recorded,
    node: &Node,
    directory: &Path,
    users_file: Option<&Path>,
) -> BTreeMap<&'static str, String> {
    let coordinators: Vec<_> = cluster
        .nodes()
        .into_iter()
        .filter(|node| node.role == Role::Coordinator)
        .map(|node| format!("{}=127.0.0.1:{}", node.name, node.peer))
        .collect();
    let mut env = BTreeMap::from([
        ("CAIRN_ROLE", node.role.word().to_owned()),
        ("CAIRN_NAME", node.name.clone()),
        (
            "CAIRN_DATA_DIR",
            directory.join(&node.name).display().to_string(),
        ),
        ("CAIRN_COORDINATORS", coordinators.join(",")),
        ("CAIRN_CLIENT_LISTEN", format!("127.0.0.1:{}", node.client)),
        ("CAIRN_PEER_LISTEN", format!("127.0.0.1:{}", node.peer)),
        ("CAIRN_HTTP_LISTEN", format!("127.0.0.1:{}", node.http)),
        ("CAIRN_EXIT_WITH_STDIN", "true".to_owned()),
    ]);
    match node.role {
        Role::Coordinator => {
            env.extend([
                (
                    "CAIRN_REPLICATION_FACTOR",
                    cluster.replication_factor.to_string(),
                ),
                ("CAIRN_WRITE_QUORUM", cluster.write_quorum.to_string()),
                ("CAIRN_PARTITIONS", cluster.partitions.to_string()),
                ("CAIRN_INITIAL_DATA_NODES", cluster.data_nodes.to_string()),
            ]);
            if let Some(preset) = cluster.consistency {
                env.insert("CAIRN_CONSISTENCY", preset.name().to_owned());
            }
        }
        Role::Data => {
            if let Some(resp) = node.resp {
                env.insert("CAIRN_RESP_LISTEN", format!("127.0.0.1:{resp}"));
            }
            if let Some(zone) = &node.traits.zone {
                env.insert("CAIRN_ZONE", zone.clone());
            }
            if let Some(weight) = node.traits.weight {
                env.insert("CAIRN_WEIGHT", weight.to_string());
            }
        }
    }
    if let Some(path) = users_file {
        env.insert("CAIRN_USERS_FILE", path.display().to_string());
    }
    // What somebody set for all of them holds, unless it says who a node is.
    if std::env::var_os("CAIRN_DRAIN_TIMEOUT_MS").is_none() {
        // Enough for one that is stopped alone. Where all end together, the supervisor
        // does not wait for it.
        env.insert("CAIRN_DRAIN_TIMEOUT_MS", "10000".to_owned());
    }
    env
}

/// Whether a variable of the parent is kept from its children: it would make a node
/// another one than it is, or one that nobody here can talk to. The readiness probe and
/// the commands speak plain text on loopback, so that TLS files are among these.
/// Bounds, timings and the rest of what the cluster agrees on hold for all nodes alike
/// and are inherited, misspelled names too, so that the nodes warn of them.
fn is_set_aside(name: &str) -> bool {
    use cairn_node::settings::{Group, setting};
    // What this command logs in with is nothing for a node.
    matches!(
        name,
        "CAIRN_CONFIG" | "CAIRN_ENDPOINTS" | "CAIRN_USER" | "CAIRN_PASSWORD" | "CAIRN_TOKEN"
    ) || name != "CAIRN_READONLY_LEVEL"
        && setting(name).is_some_and(|row| matches!(row.group, Group::Identity | Group::Network))
}

/// Which of these variables the children do not get.
pub(super) fn set_aside(names: impl Iterator<Item = OsString>) -> Vec<String> {
    names
        .filter_map(|name| name.into_string().ok())
        .filter(|name| is_set_aside(name))
        .collect()
}

/// Starts a node. Must be called on the parent's main thread: the kernel kills the
/// child when the thread that started it ends.
pub(super) fn spawn(
    executable: &Path,
    node: &Node,
    env: &BTreeMap<&'static str, String>,
    directory: &Path,
) -> anyhow::Result<Child> {
    let log = open_log(&node.log_file(directory))?;
    let parent = rustix::process::getpid();
    let mut command = Command::new(executable);
    for name in set_aside(std::env::vars_os().map(|(name, _)| name)) {
        command.env_remove(name);
    }
    command
        .arg0(OsString::from(format!("cairn:{}", node.name)))
        .envs(env)
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().context("clone the log's descriptor")?)
        .stderr(log)
        // A terminal's Ctrl-C is for the parent, which then stops the children in order.
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: the closure runs in the child between fork and exec, where only
    // async-signal-safe calls are allowed: it makes two system calls, prctl and
    // getppid, and builds an io::Error from a number, which allocates nothing.
    unsafe {
        command.pre_exec(move || {
            rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
            // The parent may have ended before the call above took hold.
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
    command
        .spawn()
        .with_context(|| format!("start {} as {}", executable.display(), node.name))
}

/// Opens a log at its end; one that has grown long is put aside first, and the one
/// that was aside is deleted.
fn open_log(path: &Path) -> anyhow::Result<File> {
    let long = fs::metadata(path).is_ok_and(|metadata| metadata.len() > LOG_BYTES_MAX);
    if long {
        fs::rename(path, aside(path)).with_context(|| format!("rename {}", path.display()))?;
    }
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

fn aside(path: &Path) -> PathBuf {
    path.with_extension("log.1")
}

/// The last lines of a log, for a person who asks why.
pub(super) fn log_tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let start = text.len().saturating_sub(16 << 10);
    let text = String::from_utf8_lossy(&text[start..]);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| format!("    {line}\n"))
        .collect()
}

/// How a process ended, in words.
pub(super) fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let name = match signal {
                libc::SIGKILL => " (SIGKILL)",
                libc::SIGTERM => " (SIGTERM)",
                libc::SIGINT => " (SIGINT)",
                libc::SIGABRT => " (SIGABRT)",
                libc::SIGSEGV => " (SIGSEGV)",
                libc::SIGBUS => " (SIGBUS)",
                _ => "",
            };
            format!("was ended by signal {signal}{name}")
        }
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::{Asked, Traits};
    use super::*;

    #[test]
    fn every_node_is_set_up_by_valid_settings() {
        let cluster = Recorded::new(Asked::default()).expect("valid");
        let traits = Traits {
            zone: Some("b".to_owned()),
            weight: Some(50),
        };
        let more = cluster.with_more(1, &traits, |_| true);
        let (cluster, added) = more.expect("there is room");
        let env = environment(&cluster, &added[0], Path::new("/x"), None);
        assert_eq!((&*env["CAIRN_ZONE"], &*env["CAIRN_WEIGHT"]), ("b", "50"));
        for node in cluster.nodes() {
            let env = environment(&cluster, &node, Path::new("/x"), Some(Path::new("/u")));
            let values = cairn_node::settings::Values::from_variables(
                env.iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone())),
            );
            assert!(values.unknown().is_empty(), "{:?}", values.unknown());
            let settings = cairn_node::settings::read(&values)
                .unwrap_or_else(|error| panic!("{}: {error}", node.name));
            assert_eq!(settings.process().name, node.name);
            assert_eq!(settings.process().coordinators.len(), 3);
            assert!(settings.process().exit_with_stdin);
        }
    }

    #[test]
    fn what_makes_a_node_another_one_is_not_inherited() {
        for name in [
            "CAIRN_ENDPOINTS",
            "CAIRN_ROLE",
            "CAIRN_NAME",
            "CAIRN_ZONE",
            "CAIRN_ADVERTISE_HOST",
            "CAIRN_HTTP_ADVERTISE",
            "CAIRN_TLS_CERT_FILE",
            "CAIRN_TLS_KEY_FILE",
            "CAIRN_TLS_CA_FILE",
            "CAIRN_USERS_FILE",
            "CAIRN_USER",
            "CAIRN_PASSWORD",
            "CAIRN_TOKEN",
        ] {
            assert!(is_set_aside(name), "{name}");
        }
        for name in [
            "CAIRN_LEASE_MS",
            "CAIRN_LOG",
            "CAIRN_LAESE_MS",
            "CAIRN_READONLY_LEVEL",
            "PATH",
        ] {
            assert!(!is_set_aside(name), "{name}");
        }
    }

    #[test]
    fn an_end_is_told_in_words() {
        assert_eq!(
            describe_exit(ExitStatus::from_raw(9)),
            "was ended by signal 9 (SIGKILL)"
        );
        assert_eq!(
            describe_exit(ExitStatus::from_raw(2 << 8)),
            "exited with code 2"
        );
    }
}
