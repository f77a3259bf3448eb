//! One node's first process: it makes the node's folders and network, starts containerd,
//! kubelet and kube-proxy, and ends with any of them.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{WaitOptions, wait};

use crate::component::Component;
use crate::layout::{self, Layout, NodeId};
use crate::namespaces;
use crate::process::{output, run};
use crate::template;

/// Where Debian's package puts the network plugins.
const CNI: &str = "/usr/lib/cni";
/// How long containerd may take on a slow machine.
const CONTAINERD: Duration = Duration::from_secs(60);
/// Images that are imported at each start.
const IMAGES: [&str; 2] = ["pause", "coredns"];

/// What a kubelet sets on a machine of its own.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// Where a node keeps its volumes, as it sees them.
pub const VOLUMES: &str = "/var/lib/cairn-lab/volumes";

/// Its disk, as the machine sees it.
#[must_use]
pub fn disk(layout: &Layout, node: NodeId) -> std::path::PathBuf {
    layout.node(node).join("var")
}

/// What is written once all parts of a node have been started.
pub const STARTED: &str = "started";

/// Runs a node, in namespaces that were made for it. Returns only where something failed.
///
/// # Errors
/// Where a part cannot be started, or ends.
pub fn run_node(layout: &Layout, node: NodeId) -> Result<()> {
    namespaces::settle()?;
    mount_disk(layout, node)?;
    plug_in(layout, node)?;
    write_configuration(layout, node)?;
    let mut parts = vec![start_containerd(layout, node)?];
    parts.push(start_kubelet(layout, node)?);
    parts.push(start_proxy(layout, node)?);
    // The control plane may be gone already, and then this process soon is as well.
    let _ = writeln!(std::io::stdout(), "{STARTED}");
    reap(&parts)
}

/// `/var` is the node's own disk and survives a power cut, `/run` does not.
fn mount_disk(layout: &Layout, node: NodeId) -> Result<()> {
    let disk = disk(layout, node);
    for folder in ["lib/cairn-lab/volumes", "log", "tmp"] {
        fs::create_dir_all(disk.join(folder))?;
    }
    let run_link = disk.join("run");
    if !run_link.is_symlink() {
        symlink("/run", run_link)?;
    }
    run("mount", &["--bind", text(&disk)?, "/var"])?;
    run("mount", &["-t", "tmpfs", "run", "/run"])?;
    hide_settings(&layout.node(node).join("settings"))?;
    // Kubelet mounts volumes, and containers must see them.
    run("mount", &["--make-rshared", "/"])?;
    fs::write("/proc/sys/kernel/hostname", node.name()).context("set the host name")
}

/// Files in the places of the machine's settings that a kubelet would change, with the values
/// that it wants.
fn hide_settings(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (setting, value) in SETTINGS {
        let file = folder.join(setting.replace('/', "."));
        fs::write(&file, value)?;
        let path = format!("/proc/sys/{setting}");
        run("mount", &["--bind", text(&file)?, &path])?;
    }
    Ok(())
}

/// A cable to the bridge, and the ways to the other nodes' pods.
fn plug_in(layout: &Layout, node: NodeId) -> Result<()> {
    let lab = layout.network();
    let lab = text(&lab)?;
    let port = node.port();
    run(
        "ip",
        &[
            "link", "add", "eth0", "type", "veth", "peer", "name", &port, "netns", lab,
        ],
    )?;
    let inside = format!("--net={lab}");
    run(
        "nsenter",
        &[
            &inside, "ip", "link", "set", &port, "master", "bridge", "up",
        ],
    )?;
    let address = format!("{}/24", node.address());
    run("ip", &["address", "add", &address, "dev", "eth0"])?;
    run("ip", &["link", "set", "eth0", "up"])?;
    let gateway = layout::control_plane().to_string();
    run("ip", &["route", "add", "default", "via", &gateway])?;
    for other in NodeId::all(layout.nodes).filter(|other| *other != node) {
        let via = other.address().to_string();
        run("ip", &["route", "add", &other.pods(), "via", &via])?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward packets")
}

fn write_configuration(layout: &Layout, node: NodeId) -> Result<()> {
    let folder = layout.node(node);
    fs::create_dir_all(folder.join("cni"))?;
    let cgroup = layout.node_cgroup(node);
    let (name, pods) = (node.name(), node.pods());
    let values = [
        ("STATE", text(&layout.state)?),
        ("NODE", text(&folder)?),
        ("NAME", &name),
        ("CNI", CNI),
        ("CGROUP", &cgroup),
        ("DNS", layout::DNS),
    ];
    let containerd = include_str!("../templates/containerd.toml");
    template::write(&folder.join("containerd.toml"), containerd, &values)?;
    let kubelet = include_str!("../templates/kubelet.yaml");
    template::write(&folder.join("kubelet.yaml"), kubelet, &values)?;
    let cni = include_str!("../templates/cni.conflist");
    template::write(&folder.join("cni/lab.conflist"), cni, &[("PODS", &pods)])?;
    let proxy = include_str!("../templates/proxy.yaml");
    let cluster = [("PODS", layout::PODS)];
    template::write(
        &folder.join("proxy.yaml"),
        proxy,
        &[&values[..], &cluster].concat(),
    )
}

fn start(layout: &Layout, node: NodeId, part: &str, command: Command) -> Result<Component> {
    let name = format!("{}-{part}", node.name());
    Component::start(&name, &Layout::log(&layout.state, &name), command)
}

fn start_containerd(layout: &Layout, node: NodeId) -> Result<Component> {
    let mut command = Command::new("containerd");
    command
        .arg("--config")
        .arg(layout.node(node).join("containerd.toml"));
    let mut containerd = start(layout, node, "containerd", command)?;
    containerd.until("containerd to answer", CONTAINERD, || {
        Ok(output(Command::new("ctr").arg("version")).ok())
    })?;
    for image in IMAGES {
        import(&layout.programs.join(format!("{image}.tar")))?;
    }
    Ok(containerd)
}

fn import(archive: &Path) -> Result<()> {
    run(
        "ctr",
        &[
            "--timeout=60s",
            "--namespace",
            "k8s.io",
            "images",
            "import",
            text(archive)?,
        ],
    )
}

fn start_kubelet(layout: &Layout, node: NodeId) -> Result<Component> {
    let mut command = layout.kube("kubelet");
    command
        .arg("--config")
        .arg(layout.node(node).join("kubelet.yaml"))
        .arg("--kubeconfig")
        .arg(layout.conf(&node.name()))
        .arg(format!("--hostname-override={}", node.name()))
        .arg(format!("--node-ip={}", node.address()))
        .arg(format!(
            "--node-labels=topology.kubernetes.io/zone={}",
            node.zone()
        ));
    start(layout, node, "kubelet", command)
}

fn start_proxy(layout: &Layout, node: NodeId) -> Result<Component> {
    let mut command = layout.kube("proxy");
    command
        .arg("--config")
        .arg(layout.node(node).join("proxy.yaml"));
    start(layout, node, "proxy", command)
}

/// Waits for children, those that others left included, as the first process has to.
fn reap(parts: &[Component]) -> Result<()> {
    loop {
        let Some((pid, status)) = wait(WaitOptions::empty()).context("wait for children")? else {
            continue;
        };
        let pid = u32::try_from(pid.as_raw_nonzero().get())?;
        if let Some(part) = parts.iter().find(|part| part.pid() == pid) {
            bail!("{} ended: {status:?}", part.name());
        }
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}
