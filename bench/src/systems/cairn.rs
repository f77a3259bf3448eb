//! Cairn: coordinators and data nodes, each a process.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_workload::resp;

use super::Protocol;
use super::server::{Server, version_of, wait_ready};
use crate::cgroup::{Groups, Quota};
use crate::driver::{Increments, Level, Target};
use crate::ports;

const COORDINATORS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a cluster is made of.
#[derive(Debug)]
pub(crate) struct Spec<'a> {
    pub(crate) data_nodes: usize,
    /// Further variables of every node.
    pub(crate) environment: BTreeMap<String, String>,
    /// What is told to `cairn cluster set` once it serves.
    pub(crate) settings: Vec<String>,
    /// Where each data node gets a group of its own.
    pub(crate) groups: Option<&'a Groups>,
    /// What the names of the groups begin with.
    pub(crate) name: String,
}

impl Default for Spec<'_> {
    fn default() -> Self {
        Self {
            data_nodes: 3,
            environment: BTreeMap::new(),
            settings: Vec::new(),
            groups: None,
            name: "cairn".to_owned(),
        }
    }
}

/// A cluster that runs.
#[derive(Debug)]
pub(crate) struct Cairn {
    /// The data nodes, then the coordinators.
    servers: Vec<Server>,
    /// Where each of them listens.
    nodes: Vec<Node>,
    data_nodes: usize,
    resp: Vec<String>,
    grpc: Vec<String>,
    pub(crate) description: String,
}

#[derive(Debug)]
struct Node {
    name: String,
    role: &'static str,
    resp: Option<u16>,
    client: u16,
    peer: u16,
    http: u16,
}

impl Node {
    fn lay_out(role: &'static str, number: usize) -> Result<Self> {
        Ok(Self {
            name: format!("{role}-{number}"),
            role,
            resp: if role == "data" {
                Some(ports::free()?)
            } else {
                None
            },
            client: ports::free()?,
            peer: ports::free()?,
            http: ports::free()?,
        })
    }

    fn command(&self, program: &Path, directory: &Path, of_all: &[(String, String)]) -> Command {
        let address = |port: u16| format!("127.0.0.1:{port}");
        let mut command = Command::new(program);
        command
            .env("CAIRN_ROLE", self.role)
            .env("CAIRN_NAME", &self.name)
            .env("CAIRN_DATA_DIR", directory.join(&self.name))
            .env("CAIRN_CLIENT_LISTEN", address(self.client))
            .env("CAIRN_PEER_LISTEN", address(self.peer))
            .env("CAIRN_HTTP_LISTEN", address(self.http))
            .env("CAIRN_EXIT_WITH_STDIN", "true");
        if let Some(resp) = self.resp {
            command.env("CAIRN_RESP_LISTEN", address(resp));
        }
        command.envs(of_all.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Cairn {
    /// Starts a cluster and waits until every slot has an owner and every node is ready.
    pub(crate) fn start(program: &Path, directory: &Path, spec: &Spec<'_>) -> Result<Self> {
        ensure!(
            program.is_file(),
            "{} is missing: build it by `cargo build --release --locked`, or name it by --cairn",
            program.display()
        );
        let coordinators: Vec<Node> = (1..=COORDINATORS)
            .map(|number| Node::lay_out("coordinator", number))
            .collect::<Result<_>>()?;
        let data: Vec<Node> = (1..=spec.data_nodes)
            .map(|number| Node::lay_out("data", number))
            .collect::<Result<_>>()?;
        let list: Vec<String> = coordinators
            .iter()
            .map(|node| format!("{}=127.0.0.1:{}", node.name, node.peer))
            .collect();
        let of_all = |role: &str| {
            let mut environment = vec![
                ("CAIRN_COORDINATORS".to_owned(), list.join(",")),
                ("CAIRN_LOG".to_owned(), "warn".to_owned()),
            ];
            if role == "coordinator" {
                let count = spec.data_nodes.to_string();
                environment.push(("CAIRN_INITIAL_DATA_NODES".to_owned(), count));
            }
            environment.extend(spec.environment.clone());
            environment
        };
        let mut servers = Vec::new();
        for node in data.iter().chain(&coordinators) {
            let mut command = node.command(program, directory, &of_all(node.role));
            let group = match spec.groups.filter(|_| node.role == "data") {
                Some(groups) => Some(groups.group(&format!("{}-{}", spec.name, node.name))?),
                None => None,
            };
            servers.push(Server::spawn(&node.name, &mut command, directory, group)?);
        }
        let addresses = |port: fn(&Node) -> Option<u16>| -> Vec<String> {
            let ports = data.iter().filter_map(port);
            ports.map(|port| format!("127.0.0.1:{port}")).collect()
        };
        let (resp, grpc) = (
            addresses(|node| node.resp),
            addresses(|node| Some(node.client)),
        );
        let mut cluster = Self {
            servers,
            nodes: data.into_iter().chain(coordinators).collect(),
            data_nodes: spec.data_nodes,
            resp,
            grpc,
            description: format!(
                "{}: {} data nodes, {COORDINATORS} coordinators, RF 3, W 2, every write in W \
                 flushed logs before it is acknowledged, strong reads from the primary under its \
                 lease",
                version_of(program, &["--version"])?,
                spec.data_nodes
            ),
        };
        cluster.await_ready()?;
        cluster.set(program, &spec.settings)?;
        Ok(cluster)
    }

    /// Tells `cairn cluster set` so.
    pub(crate) fn set(&self, program: &Path, settings: &[String]) -> Result<()> {
        if settings.is_empty() {
            return Ok(());
        }
        let output = Command::new(program)
            .args(["--endpoints", &self.grpc.join(","), "cluster", "set"])
            .args(settings)
            .env_remove("CAIRN_ROLE")
            .output()
            .context("run cairn cluster set")?;
        ensure!(
            output.status.success(),
            "cairn cluster set {}: {}",
            settings.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub(crate) fn data(&self) -> &[Server] {
        &self.servers[..self.data_nodes]
    }

    /// A data node, to be killed and started again.
    pub(crate) fn data_node(&mut self, number: usize) -> Option<&mut Server> {
        self.servers[..self.data_nodes].get_mut(number)
    }

    /// Waits until every node is ready and every slot has an owner.
    pub(crate) fn await_ready(&mut self) -> Result<()> {
        let nodes = &self.nodes;
        wait_ready("Cairn", &mut self.servers, || is_ready(nodes))
    }

    /// Where the data nodes take clients' gRPC.
    pub(crate) fn clients(&self) -> &[String] {
        &self.grpc
    }

    pub(crate) fn target(
        &self,
        protocol: Protocol,
        level: Level,
        increments: Increments,
    ) -> Target {
        match protocol {
            Protocol::Resp => Target::Resp {
                seeds: self.resp.clone(),
                level,
                wait: 0,
                increments,
            },
            Protocol::Grpc => Target::CairnGrpc {
                endpoints: self.grpc.clone(),
                level,
            },
            Protocol::Client => Target::CairnClient {
                endpoints: self.grpc.clone(),
                level,
            },
        }
    }

    /// Holds each data node to its quota, or lets it have what there is.
    pub(crate) fn set_quota(&self, quota: Option<Quota>) -> Result<()> {
        for server in self.data() {
            if let Some(group) = server.group() {
                group.set_quota(quota)?;
            }
        }
        Ok(())
    }
}

fn is_ready(nodes: &[Node]) -> Result<()> {
    for node in nodes {
        let answer = ready_line(node.http).with_context(|| format!("ask {}", node.name))?;
        ensure!(answer.contains(" 200 "), "{}: {answer}", node.name);
    }
    let resp = nodes
        .iter()
        .find_map(|node| node.resp)
        .context("no data node")?;
    let owners = resp::fetch_slots(&format!("127.0.0.1:{resp}"), TIMEOUT, None)?;
    let slots: u32 = owners
        .iter()
        .map(|range| u32::from(range.last - range.first) + 1)
        .sum();
    ensure!(slots == 16_384, "{slots} of 16384 slots have a primary");
    Ok(())
}

fn ready_line(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
