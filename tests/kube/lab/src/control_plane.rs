//! The lab's first process: the bridge, etcd, the API server and its company, and the nodes'
//! power.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cgroups;
use crate::component::{Component, end_of, log_ends};
use crate::control::{self, Request};
use crate::layout::{self, Layout, NodeId};
use crate::namespaces;
use crate::node;
use crate::process::{output, run};
use crate::template;
use crate::volumes;

/// The version of Kubernetes in `programs/go.mod`.
const KUBERNETES: &str = "v1.34.4";
/// How long a part may take to answer on a machine under load.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for `kubectl`.
const TIMEOUT: &str = "--timeout=120s";
/// After this a node that says nothing is not ready.
const GRACE: &str = "20s";

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// What is written once the lab can be used.
pub const READY: &str = "ready";

/// Runs a lab, in namespaces that were made for it, until standard input ends: that is where
/// the keeper is gone.
///
/// # Errors
/// Where a part cannot be started or does not answer, with the end of its log.
pub fn run_control_plane(layout: &Layout) -> Result<()> {
    namespaces::settle()?;
    end_with_standard_input();
    let listener = UnixListener::bind(Layout::socket(&layout.state))?;
    make_network(layout)?;
    let lab = Arc::new(ControlPlane::start(layout)?);
    lab.start_nodes()?;
    report("waiting for DNS and volumes");
    volumes::replace(layout, |_| true)?;
    let rollout = [
        "--namespace=kube-system",
        "rollout",
        "status",
        "daemonset/coredns",
        TIMEOUT,
    ];
    output(&mut layout.kubectl(&rollout))?;
    report(READY);

    let supplied = Arc::clone(&lab);
    thread::spawn(move || {
        volumes::supply(&supplied.layout, |node| supplied.power(node).is_some());
    });
    for stream in listener.incoming() {
        let lab = Arc::clone(&lab);
        let stream = stream?;
        // Who asked may be gone before the answer.
        thread::spawn(move || control::answer(stream, |request| lab.act(request)));
    }
    Ok(())
}

fn end_with_standard_input() {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
}

/// Says what is being done, to who waits for the lab.
fn report(what: &str) {
    // Nobody waits any more once the lab is ready.
    let _ = writeln!(std::io::stdout(), "{what}");
}

fn make_network(layout: &Layout) -> Result<()> {
    run("ip", &["link", "add", "bridge", "type", "bridge"])?;
    let address = format!("{}/24", layout::control_plane());
    run("ip", &["address", "add", &address, "dev", "bridge"])?;
    run("ip", &["link", "set", "bridge", "up"])?;
    // The API server calls webhooks in pods.
    for node in NodeId::all(layout.nodes) {
        let via = node.address().to_string();
        run("ip", &["route", "add", &node.pods(), "via", &via])?;
    }
    fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("forward packets")?;
    let name = layout.network();
    fs::File::create(&name)?;
    output(
        Command::new("mount")
            .args(["--bind", "/proc/self/ns/net"])
            .arg(name),
    )
    .map(drop)
}

/// What runs, and what is on.
#[derive(Debug)]
struct ControlPlane {
    layout: Layout,
    components: Mutex<Vec<Component>>,
    /// Each node's first process, where the node is on.
    nodes: Vec<Mutex<Option<Child>>>,
}

impl ControlPlane {
    fn start(layout: &Layout) -> Result<Self> {
        report("making certificates");
        make_certificates(layout)?;
        report("starting etcd and the API server");
        let etcd = start(layout, "etcd", etcd(layout))?;
        let mut apiserver = start(layout, "apiserver", apiserver(layout))?;
        apiserver.until("the API server to be ready", PATIENCE, || {
            Ok(
                output(&mut layout.kubectl(&["get", "--raw", "/readyz", "--request-timeout=10s"]))
                    .ok(),
            )
        })?;
        let manager = start(layout, "controller-manager", controller_manager(layout))?;
        let scheduler = start(layout, "scheduler", scheduler(layout))?;
        let manifests = layout.state.join("cluster.yaml");
        let cluster = include_str!("../templates/cluster.yaml");
        template::write(&manifests, cluster, &[("DNS", layout::DNS)])?;
        output(layout.kubectl(&["apply", "-f"]).arg(manifests))?;
        Ok(Self {
            layout: layout.clone(),
            components: Mutex::new(vec![etcd, apiserver, manager, scheduler]),
            nodes: NodeId::all(layout.nodes)
                .map(|_| Mutex::new(None))
                .collect(),
        })
    }

    fn start_nodes(&self) -> Result<()> {
        report(&format!("starting {} nodes", self.layout.nodes));
        thread::scope(|scope| {
            let nodes = NodeId::all(self.layout.nodes);
            let starts: Vec<_> = nodes
                .map(|node| scope.spawn(move || self.power_on(node)))
                .collect();
            let ends = starts
                .into_iter()
                .map(|start| start.join().expect("no panic"));
            ends.collect::<Result<Vec<_>>>()
        })?;
        report("waiting for the nodes to be ready");
        for node in NodeId::all(self.layout.nodes) {
            let object = format!("node/{}", node.name());
            for condition in ["--for=create", "--for=condition=Ready"] {
                output(&mut self.layout.kubectl(&["wait", condition, &object, TIMEOUT]))
                    .with_context(|| self.kubelet_log(node))?;
            }
        }
        Ok(())
    }

    fn kubelet_log(&self, node: NodeId) -> String {
        let name = format!("{}-kubelet", node.name());
        end_of(&name, &Layout::log(&self.layout.state, &name))
    }

    fn act(&self, request: Request) -> Result<String> {
        let named = |name: &str| NodeId::named(name, self.layout.nodes);
        match request {
            Request::Status => self.status(),
            Request::Pid(name) => Ok(format!("{}\n", self.running(named(&name)?)?)),
            Request::PowerOff(name) => self.power_off(named(&name)?),
            Request::PowerOn(name) => self.power_on(named(&name)?),
            Request::Load(archive) => self.load(&archive),
        }
    }

    /// A node's power, for who is alone with it.
    fn power(&self, node: NodeId) -> MutexGuard<'_, Option<Child>> {
        let power = self.nodes[node.index()].lock();
        // Whoever panicked left a child or none, either of which is right.
        let mut power = power.unwrap_or_else(PoisonError::into_inner);
        // A node that ended by itself is off.
        if let Some(child) = power.as_mut()
            && !matches!(child.try_wait(), Ok(None))
        {
            *power = None;
        }
        power
    }

    /// The process id of a node's first process.
    fn running(&self, node: NodeId) -> Result<u32> {
        let power = self.power(node);
        let child = power
            .as_ref()
            .with_context(|| format!("{} is off", node.name()))?;
        Ok(child.id())
    }

    fn power_off(&self, node: NodeId) -> Result<String> {
        let mut power = self.power(node);
        // The cable first: no other node may hear how the processes end, which a power cut
        // does not tell. Where the node ended by itself its cable is gone as well.
        let cut = run("ip", &["link", "delete", &node.port()]);
        let Some(mut child) = power.take() else {
            return Ok(format!("{} was off\n", node.name()));
        };
        child.kill()?;
        // The kernel ends all processes of the node before this one can be waited for.
        child.wait()?;
        cut?;
        Ok(format!("{} is off\n", node.name()))
    }

    fn power_on(&self, node: NodeId) -> Result<String> {
        let mut power = self.power(node);
        let name = node.name();
        if power.is_some() {
            return Ok(format!("{name} was on\n"));
        }
        // What a node that ended by itself left.
        let _ = run("ip", &["link", "delete", &node.port()]);
        let cgroup = self.layout.node_cgroup(node);
        cgroups::remove(&cgroup)?;
        cgroups::create(&cgroup)?;
        if !self.layout.conf(&name).exists() {
            make_kubeconfig(&self.layout, "kubelet", &name)?;
        }
        let log = Layout::log(&self.layout.state, &name);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("node")
            .args(self.layout.arguments())
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_ends(&log)?.1);
        let mut child = namespaces::spawn(command)?;
        let mut answer = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut answer)?;
        if answer.trim_end() != node::STARTED {
            let _ = child.kill();
            child.wait()?;
            bail!("{}", end_of(&name, &log));
        }
        *power = Some(child);
        Ok(format!("{name} is on\n"))
    }

    fn load(&self, archive: &std::path::Path) -> Result<String> {
        let nodes: Vec<_> = NodeId::all(self.layout.nodes)
            .filter_map(|node| Some((node, self.running(node).ok()?)))
            .collect();
        ensure!(!nodes.is_empty(), "all nodes are off");
        thread::scope(|scope| {
            let import = |pid: u32| scope.spawn(move || import(pid, archive));
            let imports: Vec<_> = nodes
                .iter()
                .map(|(node, pid)| (node, import(*pid)))
                .collect();
            for (node, import) in imports {
                let done = import.join().expect("no panic");
                done.with_context(|| format!("load {} on {}", archive.display(), node.name()))?;
            }
            Ok(format!(
                "{} is on {} nodes\n",
                archive.display(),
                nodes.len()
            ))
        })
    }

    fn status(&self) -> Result<String> {
        let mut lines = String::new();
        let components = self.components.lock();
        for component in components
            .unwrap_or_else(PoisonError::into_inner)
            .iter_mut()
        {
            let state = component.ended()?.unwrap_or_else(|| "runs".to_owned());
            lines.push_str(&format!("{:<20}{state}\n", component.name()));
        }
        for node in NodeId::all(self.layout.nodes) {
            let state = if self.running(node).is_ok() {
                "on"
            } else {
                "off"
            };
            let (name, address, zone) = (node.name(), node.address(), node.zone());
            lines.push_str(&format!("{name:<20}{state:<5}{address}  {zone}\n"));
        }
        Ok(lines)
    }
}

/// Imports an archive on the node of this process. It comes by standard input: the node does
/// not see all of the machine's folders.
fn import(pid: u32, archive: &std::path::Path) -> Result<()> {
    let file = fs::File::open(archive)?;
    let done = Command::new("nsenter")
        .args(["--target", &pid.to_string(), "--mount", "--pid", "--net"])
        .args(["ctr", "--namespace", "k8s.io", "images", "import", "-"])
        .stdin(file)
        .output()?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {}", done.status, said.trim());
    Ok(())
}

fn start(layout: &Layout, name: &str, command: Command) -> Result<Component> {
    Component::start(name, &Layout::log(&layout.state, name), command)
}

fn kubeadm(layout: &Layout, name: &str, phase: &[&str]) -> Result<()> {
    let config = layout.state.join(format!("kubeadm-{name}.yaml"));
    let state = layout.state.to_string_lossy();
    let address = layout::control_plane().to_string();
    let values = [
        ("CONTROL_PLANE", address.as_str()),
        ("NAME", name),
        ("VERSION", KUBERNETES),
        ("STATE", &state),
        ("PODS", layout::PODS),
        ("SERVICES", layout::SERVICES),
    ];
    template::write(&config, include_str!("../templates/kubeadm.yaml"), &values)?;
    let mut command = layout.kube("kubeadm");
    command
        .args(["init", "phase"])
        .args(phase)
        .arg("--config")
        .arg(config);
    output(&mut command).map(drop)
}

fn make_certificates(layout: &Layout) -> Result<()> {
    kubeadm(layout, "control-plane", &["certs", "all"])?;
    for who in ["super-admin", "controller-manager", "scheduler"] {
        make_kubeconfig(layout, who, "control-plane")?;
    }
    Ok(())
}

/// A kubeconfig of this kind: a kubelet's takes the name of its node.
fn make_kubeconfig(layout: &Layout, kind: &str, name: &str) -> Result<()> {
    let folder = layout.state.join("conf").join(format!("of-{name}"));
    let text = folder.to_string_lossy();
    kubeadm(
        layout,
        name,
        &["kubeconfig", kind, "--kubeconfig-dir", &text],
    )?;
    let who = if kind == "kubelet" { name } else { kind };
    fs::rename(folder.join(format!("{kind}.conf")), layout.conf(who)).context("move a kubeconfig")
}

fn etcd(layout: &Layout) -> Command {
    let mut command = layout.kube("etcd");
    command
        .arg("--data-dir")
        .arg(layout.state.join("etcd"))
        .args([
            "--listen-client-urls",
            ETCD,
            "--advertise-client-urls",
            ETCD,
        ])
        .args(["--listen-peer-urls", ETCD_PEER])
        // Nothing of a lab outlives it.
        .arg("--unsafe-no-fsync");
    command
}

/// `--flag=STATE/pki/file` for each.
fn pki_flags(layout: &Layout, flags: &[(&str, &str)]) -> Vec<String> {
    let pki = layout.state.join("pki");
    let flag = |(flag, file): &(&str, &str)| format!("--{flag}={}", pki.join(file).display());
    flags.iter().map(flag).collect()
}

fn apiserver(layout: &Layout) -> Command {
    let mut command = layout.kube("apiserver");
    command
        .arg(format!("--etcd-servers={ETCD}"))
        .arg(format!("--advertise-address={}", layout::control_plane()))
        .arg(format!("--secure-port={}", layout::API_PORT))
        .arg(format!("--service-cluster-ip-range={}", layout::SERVICES))
        .args(["--allow-privileged=true", "--authorization-mode=Node,RBAC"])
        .arg("--enable-admission-plugins=NodeRestriction")
        // Nodes are known by address alone: no DNS tells their names.
        .arg("--kubelet-preferred-address-types=InternalIP")
        .arg("--requestheader-allowed-names=front-proxy-client")
        .arg("--requestheader-extra-headers-prefix=X-Remote-Extra-")
        .arg("--requestheader-group-headers=X-Remote-Group")
        .arg("--requestheader-username-headers=X-Remote-User")
        .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
        .args(pki_flags(
            layout,
            &[
                ("client-ca-file", "ca.crt"),
                ("tls-cert-file", "apiserver.crt"),
                ("tls-private-key-file", "apiserver.key"),
                ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
                ("kubelet-client-key", "apiserver-kubelet-client.key"),
                ("proxy-client-cert-file", "front-proxy-client.crt"),
                ("proxy-client-key-file", "front-proxy-client.key"),
                ("requestheader-client-ca-file", "front-proxy-ca.crt"),
                ("service-account-key-file", "sa.pub"),
                ("service-account-signing-key-file", "sa.key"),
            ],
        ));
    command
}

/// The three flags by which a part of the control plane knows itself and others.
fn identity_flags(layout: &Layout, who: &str) -> Vec<String> {
    let conf = layout.conf(who);
    [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .map(|flag| format!("--{flag}={}", conf.display()))
    .to_vec()
}

fn controller_manager(layout: &Layout) -> Command {
    let mut command = layout.kube("controller-manager");
    command
        .args(identity_flags(layout, "controller-manager"))
        .args([
            "--leader-elect=false",
            "--use-service-account-credentials=true",
        ])
        .arg(format!("--node-monitor-grace-period={GRACE}"))
        // It makes the folder, which is the machine's unless told.
        .arg("--flex-volume-plugin-dir")
        .arg(layout.state.join("volume-plugins"))
        .arg(format!("--service-cluster-ip-range={}", layout::SERVICES))
        .args(pki_flags(
            layout,
            &[
                ("client-ca-file", "ca.crt"),
                ("root-ca-file", "ca.crt"),
                ("requestheader-client-ca-file", "front-proxy-ca.crt"),
                ("cluster-signing-cert-file", "ca.crt"),
                ("cluster-signing-key-file", "ca.key"),
                ("service-account-private-key-file", "sa.key"),
            ],
        ));
    command
}

fn scheduler(layout: &Layout) -> Command {
    let mut command = layout.kube("scheduler");
    command
        .args(identity_flags(layout, "scheduler"))
        .arg("--leader-elect=false");
    command
}
