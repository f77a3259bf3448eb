//! A whole cluster of processes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::access::Access;
use crate::network::Host;
use crate::node::{Node, Ports, Role};
use crate::power::Power;
use crate::resp::{ClusterClient, Patience, Reply, Routes, Unanswered};
use crate::{cli, slot_keys, waiting};

/// How long a cluster may take to do what it should do within seconds: generous,
/// since CI machines are slow; it ends a test that would hang.
pub const BOUND: Duration = Duration::from_secs(60);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    /// How many coordinators.
    pub coordinators: usize,
    /// How many data nodes.
    pub data_nodes: usize,
    /// How many partitions.
    pub partitions: u32,
    /// Further variables for every node.
    pub environment: BTreeMap<String, String>,
    /// Whether the power-loss shim is loaded into every node.
    pub shim: bool,
    /// Where the coordinators and then the data nodes run; this machine where it names none.
    pub hosts: Vec<Host>,
    /// Where the directory is made, instead of the system's temporary directory.
    pub below: Option<PathBuf>,
}

impl Default for Spec {
    /// As `cairn dev`: three coordinators, five data nodes, RF 3, W 2, 128 partitions.
    fn default() -> Self {
        Self {
            coordinators: 3,
            data_nodes: 5,
            partitions: 128,
            environment: BTreeMap::new(),
            shim: false,
            hosts: Vec::new(),
            below: None,
        }
    }
}

impl Spec {
    /// The same with one more variable.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }
}

/// Where a cluster is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// RESP addresses.
    pub resp: Vec<String>,
    /// gRPC addresses.
    pub clients: Vec<String>,
    /// How many partitions it has.
    pub partitions: u32,
    /// How clients are let in, where not everybody is.
    pub access: Option<Access>,
}

/// The cluster. Dropping it kills every process and removes the files.
#[derive(Debug)]
pub struct Cluster {
    /// The coordinators.
    pub coordinators: Vec<Node>,
    /// The data nodes.
    pub data: Vec<Node>,
    /// How many data nodes there were ever: no name is used twice.
    data_ever: usize,
    spec: Spec,
    // After the nodes: they are dropped, and so killed, first.
    directory: Directory,
}

#[derive(Debug)]
struct Directory(Option<TempDir>);

impl Drop for Directory {
    fn drop(&mut self) {
        let keep = std::env::var("CAIRN_TEST_KEEP").is_ok_and(|value| value == "1");
        if let Some(directory) = self.0.take()
            && keep
        {
            println!("kept {}", directory.keep().display());
        }
    }
}

impl Cluster {
    /// Lays the cluster out without starting it.
    ///
    /// # Errors
    /// Where ports or directories are missing.
    pub fn lay_out(spec: Spec) -> Result<Self> {
        let directory = match &spec.below {
            Some(below) => TempDir::with_prefix_in("cairn-test-", below)?,
            None => TempDir::with_prefix("cairn-test-")?,
        };
        let root = directory.path().canonicalize()?;
        let name = |kind: &str, number: usize| format!("{kind}-{number}");
        let host = |n: usize| spec.hosts.get(n).cloned().unwrap_or_else(Host::local);
        let coordinators: Vec<(String, Ports, Host)> = (0..spec.coordinators)
            .map(|n| Ok((name("coordinator", n), Ports::free()?, host(n))))
            .collect::<Result<_>>()?;
        let list = coordinators
            .iter()
            .map(|(name, ports, host)| format!("{name}={}:{}", host.address, ports.peer))
            .collect::<Vec<_>>()
            .join(",");

        let mut environment = BTreeMap::from([
            ("CAIRN_COORDINATORS".to_owned(), list),
            ("CAIRN_LOG".to_owned(), "info".to_owned()),
        ]);
        environment.extend(spec.environment.clone());
        // What the cluster agrees on is told to the coordinators alone.
        let mut for_coordinators = environment.clone();
        for_coordinators
            .entry("CAIRN_PARTITIONS".to_owned())
            .or_insert_with(|| spec.partitions.to_string());
        for_coordinators
            .entry("CAIRN_INITIAL_DATA_NODES".to_owned())
            .or_insert_with(|| spec.data_nodes.to_string());

        let coordinators = coordinators
            .into_iter()
            .map(|(name, ports, host)| {
                let settings = for_coordinators.clone();
                let mut node = Node::new(Role::Coordinator, &name, ports, &root, settings);
                node.host = host;
                node
            })
            .collect();
        let cluster_wide = [
            "REPLICATION_FACTOR",
            "WRITE_QUORUM",
            "MIN_IN_SYNC",
            "LEASE_MS",
            "NODE_TIMEOUT_MS",
            "REPLACE_AFTER_MS",
            "MOVES_PER_NODE",
        ];
        for name in cluster_wide {
            environment.remove(&format!("CAIRN_{name}"));
        }
        let data = (0..spec.data_nodes)
            .map(|n| {
                let (name, settings) = (name("data", n), environment.clone());
                let mut node = Node::new(Role::Data, &name, Ports::free()?, &root, settings);
                node.host = host(spec.coordinators + n);
                Ok(node)
            })
            .collect::<Result<Vec<_>>>()?;
        let mut cluster = Self {
            coordinators,
            data_ever: data.len(),
            data,
            spec,
            directory: Directory(Some(directory)),
        };
        cluster.load_shim(&root)?;
        Ok(cluster)
    }

    fn load_shim(&mut self, root: &Path) -> Result<()> {
        if self.spec.shim {
            for node in self.coordinators.iter_mut().chain(&mut self.data) {
                let journal = root.join(format!("{}.journal", node.name));
                node.power = Some(Power::new(&node.data, &journal)?);
            }
        }
        Ok(())
    }

    /// Lays out and starts a cluster, and waits until it serves.
    ///
    /// # Errors
    /// Where it does not come to serve.
    pub fn start(spec: Spec) -> Result<Self> {
        let mut cluster = Self::lay_out(spec)?;
        cluster.bring_up()?;
        Ok(cluster)
    }

    /// Starts a cluster that was laid out, and waits until it serves.
    ///
    /// # Errors
    /// Where it does not come to serve.
    pub fn bring_up(&mut self) -> Result<()> {
        let started = Instant::now();
        self.start_all()?;
        self.await_ready()?;
        self.await_serving()?;
        println!("the cluster serves after {:.1?}", started.elapsed());
        Ok(())
    }

    /// Starts further data nodes on empty disks, set up as the others are, and returns their
    /// names.
    ///
    /// # Errors
    /// Where one cannot be started.
    pub fn add_data_nodes(&mut self, count: usize) -> Result<Vec<String>> {
        let root = self.directory().canonicalize()?;
        let mut names = Vec::new();
        for _ in 0..count {
            let name = format!("data-{}", self.data_ever);
            let like = self.data.first().context("a data node")?;
            let mut node = like.like(&name, Ports::free()?, &root);
            node.start()?;
            self.data.push(node);
            self.data_ever += 1;
            names.push(name);
        }
        Ok(names)
    }

    /// A command for this cluster, as a person types it.
    ///
    /// # Errors
    /// Where there is no binary.
    pub fn cairn(&self, words: &[&str]) -> Result<Command> {
        let coordinators: Vec<String> = self.coordinators.iter().map(Node::client).collect();
        let mut command = cli::cairn(words)?;
        command.args(["--endpoints", &coordinators.join(",")]);
        Ok(command)
    }

    /// Every node.
    pub fn nodes(&mut self) -> impl Iterator<Item = &mut Node> {
        self.coordinators.iter_mut().chain(&mut self.data)
    }

    /// The number of partitions.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        self.spec.partitions
    }

    /// Where everything lies.
    ///
    /// # Panics
    /// Never: the directory is there until the cluster is dropped.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        let directory = self.directory.0.as_ref();
        directory.expect("there until dropped").path().to_owned()
    }

    /// RESP addresses of all data nodes.
    #[must_use]
    pub fn resp(&self) -> Vec<String> {
        self.data.iter().map(Node::resp).collect()
    }

    /// gRPC addresses of the coordinators, then of the data nodes.
    #[must_use]
    pub fn client_addresses(&self) -> Vec<String> {
        let nodes = self.coordinators.iter().chain(&self.data);
        nodes.map(Node::client).collect()
    }

    /// What a load needs to know.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            resp: self.resp(),
            clients: self.client_addresses(),
            partitions: self.partitions(),
            access: None,
        }
    }

    /// Waits until every started node says that it is ready.
    ///
    /// # Errors
    /// Where one ends by itself or is not ready in time.
    pub fn await_ready(&mut self) -> Result<()> {
        for node in self.nodes().filter(|node| node.is_started()) {
            let what = format!("{} to be ready", node.name);
            waiting::until(&what, BOUND, || Ok(node.is_ready()?.then_some(())))
                .with_context(|| format!("its log ends with:\n{}", node.log_tail(25)))?;
        }
        Ok(())
    }

    /// Waits until a write in each partition is acknowledged.
    ///
    /// # Errors
    /// Where that does not come in time.
    pub fn await_serving(&mut self) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut client = ClusterClient::new(Routes::new(self.resp()), Patience::default());
        let mut missing = slot_keys::one_per_partition("probe:", self.partitions());
        let served = waiting::until("every partition to serve", BOUND, || {
            let mut reason = None;
            missing.retain(|key| {
                let words: [&[u8]; 3] = [b"SET", key.as_bytes(), b"1"];
                match runtime.block_on(client.call(key, &words)) {
                    Ok(Reply::Simple(ok)) if ok == "OK" => false,
                    Ok(other) => {
                        reason = Some(format!("{other:?}"));
                        true
                    }
                    Err(Unanswered::Refused(why) | Unanswered::Unknown(why)) => {
                        reason = Some(why);
                        true
                    }
                }
            });
            match reason {
                None => Ok(Some(())),
                Some(reason) => {
                    anyhow::bail!("{} partitions are not served: {reason}", missing.len())
                }
            }
        });
        for node in self.nodes() {
            node.check_running()?;
        }
        served
    }

    /// Kills every process at once.
    ///
    /// # Errors
    /// Where one did not run.
    pub fn kill_all(&mut self) -> Result<()> {
        for node in self.nodes().filter(|node| node.is_started()) {
            node.kill_without_waiting()?;
        }
        for node in self.nodes().filter(|node| node.is_started()) {
            node.reap()?;
        }
        Ok(())
    }

    /// Starts every process that does not run.
    ///
    /// # Errors
    /// Where one cannot be started.
    pub fn start_all(&mut self) -> Result<()> {
        for node in self.nodes().filter(|node| !node.is_started()) {
            node.start()?;
        }
        Ok(())
    }

    /// The data node that listens on a RESP address.
    ///
    /// # Errors
    /// Where there is none.
    pub fn data_at(&mut self, resp: &str) -> Result<&mut Node> {
        let node = self.data.iter_mut().find(|node| node.resp() == resp);
        node.with_context(|| format!("no data node at {resp}"))
    }

    /// Checks that every started process still runs.
    ///
    /// # Errors
    /// Where a node ended by itself.
    pub fn check_running(&mut self) -> Result<()> {
        for node in self.nodes().filter(|node| node.is_started()) {
            ensure!(node.check_running()?, "a node does not run");
        }
        Ok(())
    }
}
