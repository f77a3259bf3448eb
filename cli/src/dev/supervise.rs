//! Starts the nodes, says when they serve, starts again what died, does what other
//! terminals ask for, and ends all of them with itself.
//!
//! Everything runs on the main thread, because the kernel ends a child with the
//! thread that started it.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use std::collections::BTreeMap;
use tokio::process::ChildStdin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::Access;
use super::child;
use super::control::{Control, Order, Reply};
use super::layout::{self, Node, Recorded, Role};
use super::ready;
use crate::failure::{Failure, Kind};
use crate::output;

/// How long data nodes that all end together may look for somebody to hand over to: there
/// is nobody. Then they are told to end at once.
const HAND_OVER_BOUND: Duration = Duration::from_secs(1);
/// How long children may take to stop before they are killed.
const STOP_BOUND: Duration = Duration::from_secs(10);
/// How often readiness is looked at.
const READY_INTERVAL: Duration = Duration::from_millis(100);
/// How often a person is told what is still missing.
const PATIENCE: Duration = Duration::from_secs(10);
/// A node that dies so often before everything serves will not mend itself.
const DEATHS_BEFORE_READY_MAX: u32 = 5;
/// The exit code of a node whose settings are wrong.
const EXIT_SETTINGS: i32 = 2;

/// What is to become of a node: at once where it has no process, else when that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// A process, always.
    Run,
    /// None, until a person starts it.
    Stop,
    /// An empty disk, and a process again.
    Wipe,
    /// No node.
    Remove,
}

/// One node and its process.
pub(super) struct Slot {
    pub(super) node: Node,
    env: BTreeMap<&'static str, String>,
    pub(super) pid: Option<Pid>,
    /// Closed with this process: the child ends at the end of its input.
    _stdin: Option<ChildStdin>,
    pub(super) restart_at: Option<tokio::time::Instant>,
    pub(super) deaths: u32,
    pub(super) goal: Goal,
    /// Who waits for the goal.
    pub(super) waiting: Vec<oneshot::Sender<Reply>>,
}

/// What `pids.json` says of a node.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PidEntry<'a> {
    #[serde(flatten)]
    node: &'a Node,
    /// None while it is dead.
    pid: Option<i32>,
    /// What makes the process this node: with it, another parent can start it.
    env: &'a BTreeMap<&'static str, String>,
    log: String,
}

pub(super) struct Supervisor<'a> {
    pub(super) cluster: Recorded,
    pub(super) directory: &'a Path,
    executable: PathBuf,
    restart: Option<Duration>,
    access: Access<'a>,
    pub(super) slots: Vec<Slot>,
    exits: JoinSet<(String, std::io::Result<ExitStatus>)>,
    /// The nodes that are to be ready, for who looks whether they are.
    expected: watch::Sender<Vec<Node>>,
    ready: bool,
}

/// Runs the cluster until a signal comes, or until it cannot be started.
pub(super) fn run(
    cluster: Recorded,
    directory: &Path,
    restart: Option<Duration>,
    access: Access<'_>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        // The cluster is worth running without it.
        let mut control = Control::listen(directory)
            .inspect_err(|error| {
                eprintln!("warning: `cairn dev add` and the like cannot be asked for: {error:#}");
            })
            .ok();
        let mut supervisor = Supervisor::new(cluster, directory, restart, access);
        let outcome = supervisor.supervise(&mut control).await;
        drop(control);
        supervisor.stop().await;
        outcome
    })
}

impl<'a> Supervisor<'a> {
    fn new(
        cluster: Recorded,
        directory: &'a Path,
        restart: Option<Duration>,
        access: Access<'a>,
    ) -> Self {
        let nodes = cluster.nodes();
        let mut supervisor = Self {
            cluster,
            directory,
            executable: child::executable(),
            restart,
            access,
            slots: Vec::new(),
            exits: JoinSet::new(),
            expected: watch::Sender::default(),
            ready: false,
        };
        for node in nodes {
            supervisor.lay_out(node);
        }
        supervisor
    }

    /// Makes room for a node, without a process yet.
    pub(super) fn lay_out(&mut self, node: Node) {
        let users_file = self.access.users_file;
        self.slots.push(Slot {
            env: child::environment(&self.cluster, &node, self.directory, users_file),
            node,
            pid: None,
            _stdin: None,
            restart_at: None,
            deaths: 0,
            goal: Goal::Run,
            waiting: Vec::new(),
        });
    }

    async fn supervise(&mut self, control: &mut Option<Control>) -> Result<(), Failure> {
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let mut hang_up = signal(SignalKind::hangup()).context("listen for SIGHUP")?;
        for at in 0..self.slots.len() {
            self.start(at)?;
        }
        self.publish()?;
        self.print_table()?;
        let mut readiness = self.watch_readiness();
        let mut watching = true;
        loop {
            let restart_at = self.slots.iter().filter_map(|slot| slot.restart_at).min();
            tokio::select! {
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hang_up.recv() => break,
                Some(exit) = self.exits.join_next() => {
                    let (name, status) = exit.context("wait for a node")?;
                    self.died(&name, status.context("wait for a node")?)?;
                }
                Some(order) = next_order(control) => self.carry_out(order)?,
                result = &mut readiness, if watching => {
                    watching = false;
                    result.context("watch readiness")?;
                    self.ready = true;
                    output::text("ready\n")?;
                }
                () = sleep_until(restart_at), if restart_at.is_some() => self.restart_due()?,
            }
        }
        eprintln!(
            "stopping {} processes; a second signal kills them",
            self.slots.len()
        );
        Ok(())
    }

    pub(super) fn start(&mut self, at: usize) -> Result<(), Failure> {
        let slot = &mut self.slots[at];
        let mut process = child::spawn(&self.executable, &slot.node, &slot.env, self.directory)?;
        slot.pid = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw);
        // Waiting for a child closes its standard input, which is to stay open.
        slot._stdin = process.stdin.take();
        slot.restart_at = None;
        slot.goal = Goal::Run;
        let name = slot.node.name.clone();
        self.exits
            .spawn(async move { (name, process.wait().await) });
        Ok(())
    }

    fn died(&mut self, name: &str, status: ExitStatus) -> Result<(), Failure> {
        let found = self.slots.iter().position(|slot| slot.node.name == name);
        let at = found.with_context(|| format!("{name} ended, which is no node"))?;
        let slot = &mut self.slots[at];
        let pid = slot.pid.take().map_or(0, Pid::as_raw_pid);
        slot._stdin = None;
        let how = child::describe_exit(status);
        if slot.goal != Goal::Run {
            eprintln!("{name} (pid {pid}) {how}, as it was asked to");
            self.reach_goal(at);
            return self.publish().map_err(Failure::from);
        }
        slot.deaths += 1;
        let log = slot.node.log_file(self.directory);
        let hopeless = status.code() == Some(EXIT_SETTINGS)
            || (!self.ready && slot.deaths >= DEATHS_BEFORE_READY_MAX);
        if hopeless && !self.ready {
            return Err(Failure::new(
                Kind::Other,
                format!(
                    "{name} {how} and would again; its log ends with:\n{}",
                    child::log_tail(&log, 12)
                ),
            )
            .with_remedy(format!("The whole log is {}", log.display())));
        }
        let next = match self.restart {
            // The others serve, and are not ended for its sake.
            _ if hopeless => {
                slot.goal = Goal::Stop;
                format!("it would again, and stays dead until `cairn dev start {name}`")
            }
            Some(delay) => {
                slot.restart_at = Some(tokio::time::Instant::now() + delay);
                format!("starting it again in {} ms", delay.as_millis())
            }
            None => {
                slot.goal = Goal::Stop;
                "it stays dead (--no-restart)".to_owned()
            }
        };
        eprintln!("{name} (pid {pid}) {how}; {next}; log: {}", log.display());
        if !self.ready {
            eprint!("{}", child::log_tail(&log, 6));
        }
        self.publish()?;
        Ok(())
    }

    fn restart_due(&mut self) -> Result<(), Failure> {
        let now = tokio::time::Instant::now();
        for at in 0..self.slots.len() {
            if self.slots[at].restart_at.is_some_and(|due| due <= now) {
                self.start(at)?;
                let slot = &self.slots[at];
                eprintln!(
                    "{} runs again (pid {})",
                    slot.node.name,
                    slot.pid.map_or(0, Pid::as_raw_pid)
                );
            }
        }
        self.publish()?;
        Ok(())
    }

    /// Looks until everything serves; on threads that start no children.
    fn watch_readiness(&self) -> tokio::task::JoinHandle<()> {
        let expected = self.expected.subscribe();
        let partitions = self.cluster.partitions;
        let auth = self.access.auth.cloned();
        tokio::spawn(async move {
            let mut told = Instant::now();
            loop {
                let (nodes, auth) = (expected.borrow().clone(), auth.clone());
                let looked = tokio::task::spawn_blocking(move || {
                    ready::first_obstacle(&nodes, partitions, auth.as_ref())
                })
                .await;
                match looked {
                    Ok(Ok(())) => return,
                    Ok(Err(obstacle)) if told.elapsed() > PATIENCE => {
                        eprintln!("still waiting: {obstacle}");
                        told = Instant::now();
                    }
                    Ok(Err(_)) => {}
                    Err(error) => eprintln!("looking whether everything serves: {error}"),
                }
                tokio::time::sleep(READY_INTERVAL).await;
            }
        })
    }

    /// Tells who looks from outside, and who waits for readiness, how the nodes are.
    pub(super) fn publish(&self) -> anyhow::Result<()> {
        let expected = self.slots.iter().filter(|slot| slot.goal != Goal::Stop);
        self.expected
            .send_replace(expected.map(|slot| slot.node.clone()).collect());
        let entries: Vec<_> = self
            .slots
            .iter()
            .map(|slot| PidEntry {
                node: &slot.node,
                pid: slot.pid.map(Pid::as_raw_pid),
                env: &slot.env,
                log: slot.node.log_file(self.directory).display().to_string(),
            })
            .collect();
        layout::write_json(&self.directory.join("pids.json"), &entries)
    }

    fn print_table(&self) -> Result<(), Failure> {
        let Recorded {
            coordinators,
            replication_factor,
            write_quorum,
            partitions,
            ..
        } = self.cluster;
        let redis: Vec<u16> = self
            .slots
            .iter()
            .filter_map(|slot| slot.node.resp)
            .collect();
        let data_nodes = redis.len();
        let resp_port = redis.first().copied().unwrap_or(self.cluster.resp_port);
        let rows = self.slots.iter().map(|slot| {
            let node = &slot.node;
            vec![
                node.name.clone(),
                slot.pid.map_or(0, Pid::as_raw_pid).to_string(),
                node.resp.map_or("-".to_owned(), |port| port.to_string()),
                node.client.to_string(),
                node.peer.to_string(),
                node.http.to_string(),
                match node.role {
                    Role::Coordinator => "decides: membership, placement, promotion".to_owned(),
                    Role::Data => "stores and serves data".to_owned(),
                },
            ]
        });
        let table = output::render_table(
            &[
                "NODE",
                "PID",
                "REDIS",
                "GRPC",
                "PEER",
                "HTTP",
                "WHAT IT DOES",
            ],
            rows,
        );
        output::text(&format!(
            "{coordinators} coordinators, {data_nodes} data nodes, {partitions} partitions, \
             replication factor {replication_factor}, write quorum {write_quorum}\n\
             data, logs and process ids: {}\n\n\
             {table}\n\
             try:  redis-cli -c -p {resp_port} set greeting hello\n      \
                   cairn get greeting{}\n      \
                   cairn status{}\n\
             status page: http://127.0.0.1:{}/\n\
             All listen on 127.0.0.1. Ctrl-C stops them; the data stays.\n\
             From another terminal: cairn dev add, stop, start, wipe{}\n",
            self.directory.display(),
            self.endpoints_hint(),
            self.endpoints_hint(),
            self.slots.first().map_or(0, |slot| slot.node.http),
            layout::data_dir_flag(self.directory),
        ))
    }

    /// The flag by which the other commands find this cluster, where they would not
    /// find it by themselves.
    fn endpoints_hint(&self) -> String {
        let found = layout::directory(None).is_ok_and(|default| default == self.directory);
        match self.slots.first() {
            Some(slot) if !found => format!(" --endpoints 127.0.0.1:{}", slot.node.client),
            _ => String::new(),
        }
    }

    /// Asks every child to stop, and kills what has not after a bound or when a
    /// second signal comes.
    async fn stop(&mut self) {
        for slot in &mut self.slots {
            slot.restart_at = None;
        }
        // One that is already asked to stop would take it for a second signal.
        self.signal_where(Signal::TERM, |slot| slot.goal == Goal::Run);
        let second = async {
            match (
                signal(SignalKind::interrupt()),
                signal(SignalKind::terminate()),
            ) {
                (Ok(mut interrupt), Ok(mut terminate)) => tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                },
                _ => std::future::pending().await,
            }
        };
        tokio::pin!(second);
        let mut ended = tokio::select! {
            () = Self::wait_all(&mut self.exits, &mut self.slots) => true,
            () = tokio::time::sleep(HAND_OVER_BOUND) => {
                self.signal_where(Signal::TERM, |slot| slot.node.role == Role::Data);
                false
            }
            () = &mut second => false,
        };
        if !ended {
            ended = tokio::select! {
                () = Self::wait_all(&mut self.exits, &mut self.slots) => true,
                () = tokio::time::sleep(STOP_BOUND) => false,
                () = second => false,
            };
        }
        if !ended {
            for slot in self.slots.iter().filter(|slot| slot.pid.is_some()) {
                eprintln!("{} did not stop in time and is killed", slot.node.name);
            }
            self.signal_where(Signal::KILL, |_| true);
            Self::wait_all(&mut self.exits, &mut self.slots).await;
        }
        // It would name processes that are gone.
        let _ = std::fs::remove_file(self.directory.join("pids.json"));
    }

    async fn wait_all(
        exits: &mut JoinSet<(String, std::io::Result<ExitStatus>)>,
        slots: &mut [Slot],
    ) {
        while let Some(exit) = exits.join_next().await {
            if let Ok((name, _)) = exit
                && let Some(slot) = slots.iter_mut().find(|slot| slot.node.name == name)
            {
                slot.pid = None;
            }
        }
    }

    fn signal_where(&self, signal: Signal, is_meant: impl Fn(&Slot) -> bool) {
        let meant = self.slots.iter().filter(|slot| is_meant(slot));
        for pid in meant.filter_map(|slot| slot.pid) {
            // One that ended just now needs no signal.
            let _ = kill_process(pid, signal);
        }
    }
}

async fn next_order(control: &mut Option<Control>) -> Option<Order> {
    control.as_mut()?.orders.recv().await
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
