//! Coordinators, data nodes and clients in one simulated network.
//!
//! A data node has threads of its own, for its log and its store, and counts
//! its leases on the machine's clock: they neither wait for simulated time nor make it
//! wait. So simulated time is held back to the machine's, step by step, and a run takes as
//! long as what it simulates. Where the machine cannot keep up, simulated time falls behind:
//! messages come later and timers, the engine's among them, fire later than they would, which
//! no promise of the store rests on.

use std::cell::RefCell;
use std::fmt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_client::{Client, Error, Options};
use cairn_node::coordinator::{CoordinatorAddress, Machinery, Probe, WriteOn, start_with};
use cairn_node::data_node::{Ports, run_over};
use cairn_node::settings::{DataSettings, NodeSettings, Values, read};
use cairn_process_tests::history::History;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use turmoil::{Builder, Sim};

use crate::fleet::{COUNT, config, directory, host, listeners, peer};
use crate::ledger::Ledger;
use crate::network::{Port, dialer};

/// The host that the clients are on.
const CLIENTS: &str = "clients";
const RESP: u16 = 6379;
const CLIENT: u16 = 7400;
const PEER: u16 = 7401;
/// A step of the simulation, and how far it may be ahead of the machine's time.
const STEP: Duration = Duration::from_millis(1);
/// How long a condition may take to come about, of the machine's time.
const PATIENCE: Duration = Duration::from_secs(90);

/// The host of a data node, which is its name too.
#[must_use]
pub fn data_host(node: usize) -> String {
    format!("d{node}")
}

/// A data node's disk and process.
#[derive(Debug)]
struct DataPlace {
    directory: TempDir,
    /// Ends the process that runs.
    stop: RefCell<CancellationToken>,
}

impl DataPlace {
    async fn run(&self, node: usize) -> turmoil::Result {
        let ports = Ports {
            resp: Port::bind(RESP).await?,
            client: Port::bind(CLIENT).await?,
            peer: Port::bind(PEER).await?,
            outside: None,
        };
        let stop = CancellationToken::new();
        self.stop.replace(stop.clone());
        let settings = data_settings(node, self.directory.path());
        Ok(run_over(settings, ports, dialer(), stop).await?)
    }
}

fn data_settings(node: usize, directory: &Path) -> DataSettings {
    let coordinators = (0..COUNT).map(|place| {
        let (name, peer) = (host(place), peer(place));
        CoordinatorAddress { name, peer }.to_string()
    });
    let given = [
        ("CAIRN_ROLE", "data".to_owned()),
        ("CAIRN_NAME", data_host(node)),
        ("CAIRN_ADVERTISE_HOST", data_host(node)),
        (
            "CAIRN_DATA_DIR",
            directory.join("data").display().to_string(),
        ),
        (
            "CAIRN_COORDINATORS",
            coordinators.collect::<Vec<_>>().join(","),
        ),
        // Several of them, of which none is large.
        ("CAIRN_MAX_VALUE_BYTES", (1 << 20).to_string()),
        ("CAIRN_WAL_SEGMENT_BYTES", (4 << 20).to_string()),
        // What stops does so as if it had died: nothing is handed over.
        ("CAIRN_DRAIN_TIMEOUT_MS", "0".to_owned()),
    ];
    let given = given.map(|(name, value)| (name.to_owned(), value));
    match read(&Values::from_variables(given)) {
        Ok(NodeSettings::Data(settings)) => *settings,
        other => panic!("settings of a data node: {other:?}"),
    }
}

/// A coordinator's disk and process.
#[derive(Debug)]
struct Place {
    directory: TempDir,
    running: RefCell<Option<Probe>>,
}

impl Place {
    async fn run(&self, place: usize, data_nodes: u32) -> turmoil::Result {
        let machinery = Machinery {
            // A disk that is written in a task is closed with the process.
            write_on: WriteOn::Task(Arc::new(|| Duration::ZERO)),
            ..Machinery::default()
        };
        let coordinator = start_with(
            config(place, self.directory.path(), data_nodes),
            listeners().await?,
            CancellationToken::new(),
            machinery,
        )
        .await?;
        self.running.replace(Some(coordinator.probe()));
        Ok(coordinator.wait().await?)
    }
}

/// A whole cluster and its clients.
pub struct Cluster {
    /// The network.
    pub sim: Sim<'static>,
    /// For what is drawn of what happens.
    pub rng: SmallRng,
    /// What the coordinators were seen to do.
    pub ledger: Ledger,
    coordinators: Vec<Rc<Place>>,
    data: Vec<Rc<DataPlace>>,
    begun: Instant,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standings: Vec<_> = self
            .coordinators
            .iter()
            .map(|place| place.running.borrow().as_ref().map(Probe::standing))
            .collect();
        f.debug_struct("Cluster")
            .field("simulated", &self.sim.elapsed())
            .field("real", &self.begun.elapsed())
            .field("coordinators", &standings)
            .field("epochs", &self.epochs())
            .finish_non_exhaustive()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Threads of nodes that were not stopped still use their disks, and end the
        // process where these are gone before the test could say why it failed.
        if std::thread::panicking() {
            for disk in &self.data {
                eprintln!("left behind: {}", disk.directory.path().display());
                std::mem::forget(Rc::clone(disk));
            }
        }
    }
}

impl Cluster {
    /// A cluster of so many data nodes with empty disks, and clients that make a history.
    ///
    /// # Panics
    /// Where there are more nodes than numbers.
    #[must_use]
    pub fn new(seed: u64, data_nodes: usize, tasks: u32, history: &History) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut sim = Builder::new()
            .rng_seed(rng.random())
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(STEP)
            .min_message_latency(Duration::from_micros(500))
            .max_message_latency(Duration::from_millis(5))
            .tcp_capacity(4096)
            .build();
        let number = u32::try_from(data_nodes).expect("few nodes");
        let coordinators: Vec<_> = (0..COUNT)
            .map(|place| {
                let disk = Rc::new(Place {
                    directory: directory(),
                    running: RefCell::default(),
                });
                let runs = Rc::clone(&disk);
                sim.host(host(place), move || {
                    let runs = Rc::clone(&runs);
                    async move { runs.run(place, number).await }
                });
                disk
            })
            .collect();
        let data: Vec<_> = (0..data_nodes)
            .map(|node| {
                let disk = Rc::new(DataPlace {
                    directory: tempfile::tempdir().expect("a temporary directory"),
                    stop: RefCell::default(),
                });
                let runs = Rc::clone(&disk);
                sim.host(data_host(node), move || {
                    let runs = Rc::clone(&runs);
                    async move { runs.run(node).await }
                });
                disk
            })
            .collect();
        let history = history.clone();
        sim.client(CLIENTS, async move {
            work(history, tasks, data_nodes).await?;
            Ok(())
        });
        Self {
            sim,
            rng,
            ledger: Ledger::default(),
            coordinators,
            data,
            begun: Instant::now(),
        }
    }

    /// How many data nodes there are.
    #[must_use]
    pub fn data_nodes(&self) -> usize {
        self.data.len()
    }

    /// One step, no sooner than the machine's time has come so far. Whether the clients
    /// have ended.
    ///
    /// # Panics
    /// Where a node ended by itself, or a coordinator did what it must not.
    pub fn step(&mut self) -> bool {
        let over = self.sim.step().expect("every node runs on");
        for (place, disk) in self.coordinators.iter().enumerate() {
            if let Some(probe) = &*disk.running.borrow() {
                self.ledger.look(place, probe);
            }
        }
        let ahead = self.sim.elapsed().saturating_sub(self.begun.elapsed());
        std::thread::sleep(ahead);
        over
    }

    /// Goes on until something is so.
    ///
    /// # Panics
    /// Where it does not come about.
    pub fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < deadline,
                "waited in vain: {what}: {self:?}"
            );
            self.step();
        }
    }

    /// Goes on for so much simulated time.
    pub fn pass(&mut self, time: Duration) {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.step();
        }
    }

    /// The sum of the partitions' epochs, as whoever leads the coordinators has them:
    /// each promotion raises one.
    #[must_use]
    pub fn epochs(&self) -> Option<u64> {
        let leader = self.coordinators.iter().find_map(|place| {
            let probe = place.running.borrow();
            probe.clone().filter(|p| p.standing().reign.is_some())
        })?;
        let (_, state) = leader.applied();
        Some(state.partitions().iter().map(|p| p.epoch.0).sum())
    }

    /// Every host but the clients'.
    fn nodes(&self) -> Vec<String> {
        let coordinators = (0..COUNT).map(host);
        coordinators
            .chain((0..self.data.len()).map(data_host))
            .collect()
    }

    /// Cuts a node off from all other nodes, and from the clients too if so wished.
    pub fn isolate(&mut self, node: &str, clients: bool) {
        for other in self.nodes().iter().filter(|other| *other != node) {
            self.sim.partition(node, other.as_str());
        }
        if clients {
            self.sim.partition(node, CLIENTS);
        }
    }

    /// The opposite.
    pub fn join(&mut self, node: &str) {
        for other in self.nodes().iter().filter(|other| *other != node) {
            self.sim.repair(node, other.as_str());
        }
        self.sim.repair(node, CLIENTS);
    }

    /// Ends a data node's process while nothing that it sends arrives, so that to the
    /// others it has died; then starts it on the disk that it had.
    pub fn kill(&mut self, node: usize) {
        let name = data_host(node);
        self.isolate(&name, true);
        self.data[node].stop.borrow().cancel();
        self.until("a data node to end", |cluster| {
            !cluster.sim.is_host_running(name.as_str())
        });
    }

    /// Ends every process, whose threads would otherwise go on without their disks.
    pub fn stop(mut self) {
        for disk in &self.data {
            disk.stop.borrow().cancel();
        }
        let names: Vec<String> = (0..self.data.len()).map(data_host).collect();
        self.until("all data nodes to end", |cluster| {
            let mut names = names.iter();
            !names.any(|name| cluster.sim.is_host_running(name.as_str()))
        });
    }

    /// Starts a data node that was killed.
    pub fn restart(&mut self, node: usize) {
        let name = data_host(node);
        self.join(&name);
        self.sim.bounce(name);
    }

    /// Kills a coordinator.
    pub fn crash(&mut self, place: usize) {
        self.coordinators[place].running.take();
        self.ledger.ended(place);
        self.sim.crash(host(place));
    }

    /// Starts a coordinator that was killed.
    pub fn revive(&mut self, place: usize) {
        self.sim.bounce(host(place));
    }
}

/// Two clients, one of which gives up early, and their tasks.
async fn work(history: History, tasks: u32, data_nodes: usize) -> Result<(), Error> {
    let endpoints: Vec<String> = (0..data_nodes)
        .map(|node| format!("{}:{CLIENT}", data_host(node)))
        .collect();
    let [patient, hasty] = History::options();
    let clients = [
        connect(&endpoints, patient).await?,
        connect(&endpoints, hasty).await?,
    ];
    let tasks = (0..tasks).map(|task| {
        let client = clients[task as usize % clients.len()].clone();
        history.clone().work(task, client)
    });
    futures::future::join_all(tasks).await;
    Ok(())
}

/// Nobody has a map before the cluster is made.
async fn connect(endpoints: &[String], options: Options) -> Result<Client, Error> {
    let options = Options {
        dialer: dialer(),
        ..options
    };
    loop {
        match Client::connect(endpoints.iter().cloned(), options.clone()).await {
            Err(Error::Connect { .. }) => {}
            outcome => return outcome,
        }
    }
}
