//! Nodes as Kubernetes runs them: each the first process of its own, as a user that no file
//! names, with a root file system that cannot be written to, a volume that its group may
//! write to, and names of other hosts that come and change as a cluster's DNS tells them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::binary;
use crate::node::Node;

/// The user and the group of a node's process.
pub const USER: u32 = 65_532;

/// Makes the file system as a pod has it and becomes the process in it. Names are looked up
/// in the file of hosts alone: the resolver asks nobody who would answer.
const BECOME: &str = r#"
set -e
mount --bind "$1" /etc/hosts
mount --bind "$2" /etc/resolv.conf
mount --bind "$3" "$4"
mount --bind "$5" "$5"
mount -o remount,bind,ro /
mount -t proc proc /proc
exec setpriv --reuid 65532 --regid 65532 --groups 65532 --no-new-privs --pdeathsig KILL "$4"
"#;

/// What this machine lacks to run pods, if anything.
///
/// # Errors
/// Where the commands cannot be tried.
pub fn lack() -> Result<Option<&'static str>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Some("pods need root"));
    }
    let tried = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "setpriv", "--version"])
        .stdin(Stdio::null())
        .output();
    Ok(match tried {
        Ok(done) if done.status.success() => None,
        _ => Some("pods need unshare, setpriv and the right to make namespaces"),
    })
}

/// The machine that pods run on: the names that they know, and the binary.
#[derive(Debug)]
pub struct Machine {
    hosts: PathBuf,
    resolver: PathBuf,
    binary: PathBuf,
}

impl Machine {
    /// With files in `directory`, and without any name.
    ///
    /// # Errors
    /// Where they cannot be written.
    pub fn new(directory: &Path) -> Result<Self> {
        // Everybody may go through it, as through a volume's path.
        fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
        let machine = Self {
            hosts: directory.join("hosts"),
            resolver: directory.join("resolv.conf"),
            binary: directory.join("cairn"),
        };
        fs::write(&machine.hosts, "")?;
        fs::write(&machine.resolver, "nameserver 127.0.0.1\n")?;
        // The binary is put in its place, wherever the tests were built.
        fs::write(&machine.binary, "")?;
        Ok(machine)
    }

    /// Says which names there are, and where. Pods that run know it at once.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn name<'a>(&self, nodes: impl IntoIterator<Item = &'a Node>) -> Result<()> {
        let lines = nodes
            .into_iter()
            .map(|node| format!("{} {}\n", node.host.address, host_name(node)));
        // In place: it is this very file that the pods have.
        Ok(fs::write(&self.hosts, lines.collect::<String>())?)
    }

    /// Makes a node that was not started yet a pod, on a new volume.
    ///
    /// # Errors
    /// Where the volume cannot be made.
    pub fn admit(&self, node: &mut Node) -> Result<()> {
        let volume = &node.data;
        // As a volume's own root is: of its file system's maker, and open to the group.
        fs::create_dir_all(volume.join("lost+found"))?;
        let closed = fs::Permissions::from_mode(0o700);
        fs::set_permissions(volume.join("lost+found"), closed)?;
        chown(volume, None, Some(USER))?;
        fs::set_permissions(volume, fs::Permissions::from_mode(0o2775))?;
        let text = |path: &Path| path.display().to_string();
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"];
        let shell = ["sh", "-c", BECOME, "sh"];
        node.runner = (unshare.into_iter().chain(shell))
            .map(str::to_owned)
            .chain([
                text(&self.hosts),
                text(&self.resolver),
                text(&binary::cairn()?),
                text(&self.binary),
                text(volume),
            ])
            .collect();
        node.set("CAIRN_ADVERTISE_HOST", host_name(node));
        Ok(())
    }
}

/// The name under which others know a node's address.
#[must_use]
pub fn host_name(node: &Node) -> String {
    format!("{}.pods.test", node.name)
}

/// Checks that a node is what a pod is.
///
/// # Errors
/// Where it is not.
pub fn check(node: &Node) -> Result<()> {
    let proc = PathBuf::from(format!("/proc/{}", node.pid()?));
    let status = fs::read_to_string(proc.join("status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
        words.with_context(|| format!("{name} of {}", node.name))
    };
    ensure!(field("NSpid:")?.last() == Some(&"1"), "not the first");
    ensure!(field("Uid:")?.iter().all(|uid| *uid == USER.to_string()));
    let mounts = fs::read_to_string(proc.join("mounts"))?;
    let root = mounts.lines().rev().find_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == "/").then(|| words.nth(1).unwrap_or_default().to_owned())
    });
    let root = root.context("a root file system")?;
    ensure!(root.split(',').any(|option| option == "ro"), "{root}");
    Ok(())
}
