//! Where everything is: folders, names and addresses.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The most nodes: their folders, cgroups and subnets end in one digit.
pub const NODES_MAX: u8 = 9;

/// The nodes' network, in the lab's own namespace.
const NETWORK: [u8; 3] = [10, 94, 0];
/// Pods of node N are in 10.95.N.0/24.
pub const PODS: &str = "10.95.0.0/16";
/// Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// The service of CoreDNS.
pub const DNS: &str = "10.96.0.10";
/// The API server's port.
pub const API_PORT: u16 = 6443;
/// Zones that nodes are in by turns.
const ZONES: u8 = 3;

/// The control plane's address, which is also the nodes' gateway.
#[must_use]
pub fn control_plane() -> Ipv4Addr {
    address(1)
}

fn address(host: u8) -> Ipv4Addr {
    let [a, b, c] = NETWORK;
    Ipv4Addr::new(a, b, c, host)
}

/// One node, by its number from 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeId(u8);

impl NodeId {
    /// All of a lab of so many nodes.
    pub fn all(nodes: u8) -> impl Iterator<Item = Self> {
        (1..=nodes).map(Self)
    }

    /// The node of this name in a lab of so many.
    ///
    /// # Errors
    /// Where there is none.
    pub fn named(name: &str, nodes: u8) -> Result<Self> {
        Self::all(nodes)
            .find(|node| node.name() == name)
            .with_context(|| format!("there is no node {name}, only node-1 to node-{nodes}"))
    }

    /// `node-1`.
    #[must_use]
    pub fn name(self) -> String {
        format!("node-{}", self.0)
    }

    /// Its address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        address(10 + self.0)
    }

    /// Its pods' subnet.
    #[must_use]
    pub fn pods(self) -> String {
        format!("10.95.{}.0/24", self.0)
    }

    /// Its failure zone.
    #[must_use]
    pub fn zone(self) -> String {
        format!("zone-{}", (self.0 - 1) % ZONES + 1)
    }

    /// The bridge's port that it is plugged into.
    #[must_use]
    pub fn port(self) -> String {
        format!("port-{}", self.0)
    }

    /// Its place among the nodes, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0 - 1)
    }
}

/// The folders of one lab.
#[derive(Clone, Debug)]
pub struct Layout {
    /// What the lab keeps while it is up.
    pub state: PathBuf,
    /// What `build` made.
    pub programs: PathBuf,
    /// How many nodes there are.
    pub nodes: u8,
}

impl Layout {
    /// # Errors
    /// Where the folders cannot be used, or there are no or too many nodes.
    pub fn new(state: &Path, programs: &Path, nodes: u8) -> Result<Self> {
        ensure!(
            (1..=NODES_MAX).contains(&nodes),
            "a lab has 1 to {NODES_MAX} nodes, not {nodes}"
        );
        for path in [state, programs] {
            ensure!(path.is_absolute(), "{} is relative", path.display());
            // A node has folders of its own in these places.
            ensure!(
                !["/var", "/run"].iter().any(|top| path.starts_with(top)),
                "{} must not lie in /var or /run",
                path.display()
            );
        }
        Ok(Self {
            state: state.to_path_buf(),
            programs: programs.to_path_buf(),
            nodes,
        })
    }

    /// What tells another process of this lab where all that is: the flags of `kube-lab`.
    #[must_use]
    pub fn arguments(&self) -> [OsString; 6] {
        [
            "--state".into(),
            self.state.clone().into(),
            "--programs".into(),
            self.programs.clone().into(),
            "--nodes".into(),
            self.nodes.to_string().into(),
        ]
    }

    /// Where the lab of this user is unless told: `CAIRN_KUBE_LAB`, or a folder of XDG's.
    ///
    /// # Errors
    /// Where there is no home folder.
    pub fn usual_state() -> Result<PathBuf> {
        if let Some(path) = std::env::var_os("CAIRN_KUBE_LAB") {
            return Ok(path.into());
        }
        let states = match std::env::var_os("XDG_STATE_HOME") {
            Some(path) => PathBuf::from(path),
            None => Path::new(&std::env::var_os("HOME").context("HOME is not set")?)
                .join(".local/state"),
        };
        Ok(states.join("cairn/kube-lab"))
    }

    /// The part of Kubernetes of this name.
    #[must_use]
    pub fn kube(&self, part: &str) -> std::process::Command {
        let mut command = std::process::Command::new(self.programs.join("kube"));
        command.arg(part);
        command
    }

    /// `kubectl` with the rights of an administrator, from inside the lab.
    #[must_use]
    pub fn kubectl(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = self.kube("kubectl");
        command
            .arg("--kubeconfig")
            .arg(self.conf("super-admin"))
            // Not in the home folder of whoever started the lab.
            .arg("--cache-dir")
            .arg(self.state.join("kubectl-cache"))
            .args(arguments);
        command
    }

    /// The lock, beside the state folder, so that this can be removed under it.
    #[must_use]
    pub fn lock(state: &Path) -> PathBuf {
        state.with_extension("lock")
    }

    /// The kubeconfig for who is outside the lab.
    #[must_use]
    pub fn kubeconfig(state: &Path) -> PathBuf {
        state.join("kubeconfig")
    }

    /// The socket that takes commands.
    #[must_use]
    pub fn socket(state: &Path) -> PathBuf {
        state.join("control.sock")
    }

    /// The log of a component.
    #[must_use]
    pub fn log(state: &Path, name: &str) -> PathBuf {
        state.join("logs").join(format!("{name}.log"))
    }

    /// A kubeconfig of somebody inside the lab.
    #[must_use]
    pub fn conf(&self, who: &str) -> PathBuf {
        self.state.join("conf").join(format!("{who}.conf"))
    }

    /// The name for the network of the lab itself, for `ip`.
    #[must_use]
    pub fn network(&self) -> PathBuf {
        self.state.join("network")
    }

    /// A node's disk.
    #[must_use]
    pub fn node(&self, node: NodeId) -> PathBuf {
        self.state.join(node.name())
    }

    /// The cgroup of a lab, from the root of each hierarchy.
    #[must_use]
    pub fn cgroup(state: &Path) -> String {
        let path = state.to_string_lossy();
        format!("cairn-lab{}", path.replace('/', "-"))
    }

    /// The cgroup of a node.
    #[must_use]
    pub fn node_cgroup(&self, node: NodeId) -> String {
        format!("{}/{}", Self::cgroup(&self.state), node.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_that_nodes_hide_are_refused() {
        let good = Path::new("/srv/lab");
        for bad in ["/var/tmp/lab", "/run/lab", "lab"] {
            assert!(Layout::new(Path::new(bad), good, 3).is_err(), "{bad}");
            assert!(Layout::new(good, Path::new(bad), 3).is_err(), "{bad}");
        }
        assert!(Layout::new(Path::new("/various"), good, 3).is_ok());
    }

    #[test]
    fn a_lab_has_between_one_and_nine_nodes() {
        let path = Path::new("/srv/lab");
        for (nodes, fits) in [(0, false), (1, true), (9, true), (10, false)] {
            assert_eq!(Layout::new(path, path, nodes).is_ok(), fits, "{nodes}");
        }
    }

    #[test]
    fn nodes_take_turns_in_the_zones() {
        let zones: Vec<_> = NodeId::all(5).map(NodeId::zone).collect();
        assert_eq!(zones, ["zone-1", "zone-2", "zone-3", "zone-1", "zone-2"]);
    }

    #[test]
    fn only_nodes_that_there_are_have_names() {
        assert_eq!(NodeId::named("node-3", 3).unwrap().index(), 2);
        for name in ["node-4", "node-0", "node-01", "3", ""] {
            assert!(NodeId::named(name, 3).is_err(), "{name}");
        }
    }
}
