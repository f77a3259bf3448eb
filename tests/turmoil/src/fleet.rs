//! Three coordinators on simulated hosts, what is done to them, and what they did.
//!
//! All of it runs on simulated time: the network, the timers of tokio, tonic and openraft,
//! the clock of the leader's supervisor, and how long a disk takes. What a coordinator
//! keeps is on a real disk, through the shipped log store, and is found again by the one
//! that starts on it.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cairn_core::ids::Micros;
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::ClusterSettings;
use cairn_node::coordinator::{
    CoordinatorAddress, CoordinatorConfig, Listeners, Machinery, Probe, RaftTimings, Standing,
    WriteOn, start_with,
};
use cairn_node::users::Users;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use turmoil::{Builder, Sim};

use crate::ledger::Ledger;
use crate::network::{Port, dialer};
use crate::writers::{Calls, write};

/// How many coordinators there are.
pub const COUNT: usize = 3;
/// After how many entries a snapshot is taken.
pub const SNAPSHOT_EVERY: u64 = 24;
/// The host that those who change the cluster call from.
const CALLER: &str = "caller";
/// The port between nodes.
const PEER: u16 = 7000;
/// The port for clients.
const CLIENT: u16 = 7001;
/// A step of the simulation.
const STEP: Duration = Duration::from_millis(2);
/// What a flush of a healthy disk takes.
const FLUSH: Duration = Duration::from_millis(2);
/// How much simulated time a condition may take to come about.
const PATIENCE: Duration = Duration::from_secs(60);

/// The host of a coordinator, which is its name too.
#[must_use]
pub fn host(place: usize) -> String {
    format!("c{place}")
}

/// Where its port between nodes is.
#[must_use]
pub fn peer(place: usize) -> String {
    format!("{}:{PEER}", host(place))
}

/// Where its port for clients and people is.
#[must_use]
pub fn client(place: usize) -> String {
    format!("{}:{CLIENT}", host(place))
}

/// The other coordinators.
pub fn others(place: usize) -> impl Iterator<Item = usize> {
    (0..COUNT).filter(move |other| *other != place)
}

/// A directory for a coordinator, whose flushes are many and files small: in memory where
/// that is offered. What a real disk does to what was flushed is not tried here.
///
/// # Panics
/// Where there is none to be had.
#[must_use]
pub fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    made.expect("a temporary directory")
}

/// Settings for a cluster of so many data nodes.
#[must_use]
pub fn settings(data_nodes: u32) -> ClusterSettings {
    let replicas = data_nodes.min(3) as u8;
    ClusterSettings {
        replication_factor: replicas,
        write_quorum: replicas / 2 + 1,
        min_in_sync: 1,
        partitions: 8,
        virtual_nodes: 16,
        initial_data_nodes: data_nodes,
        lease_ms: 400,
        lease_ms_longest: 400,
        idempotence_window: 1024,
        node_timeout_ms: 1500,
        read_level: ReadLevel::Primary,
        read_quorum: 0,
        replace_after_ms: 300_000,
        moves_per_node: 4,
        counters: String::new(),
    }
}

/// What the coordinator at a place is told.
#[must_use]
pub fn config(place: usize, data_dir: &Path, data_nodes: u32) -> CoordinatorConfig {
    let coordinators = (0..COUNT).map(|place| CoordinatorAddress {
        name: host(place),
        peer: peer(place),
    });
    CoordinatorConfig {
        name: host(place),
        data_dir: data_dir.join("raft"),
        coordinators: coordinators.collect(),
        // Where it listens is decided by who binds its ports.
        peer_listen: String::new(),
        client_listen: String::new(),
        client_advertise: client(place),
        http_advertise: String::new(),
        dialer: dialer(),
        peer_tls: None,
        client_tls: None,
        users: Users::open(),
        cluster: settings(data_nodes),
        raft: RaftTimings::default(),
        tick: Duration::from_millis(25),
        snapshot_every: SNAPSHOT_EVERY,
        read_copies: Default::default(),
        drain_timeout: Duration::from_secs(10),
        managed_by: None,
    }
}

/// Opens a coordinator's ports on the host that this is called on.
///
/// # Errors
/// Where they are in use.
pub async fn listeners() -> std::io::Result<Listeners<Port>> {
    Ok(Listeners {
        peer: Port::bind(PEER).await?,
        client: Port::bind(CLIENT).await?,
    })
}

/// One coordinator's disk and process.
#[derive(Debug)]
struct Place {
    directory: TempDir,
    /// What its disk takes for a flush, in microseconds.
    flush: Arc<AtomicU64>,
    running: RefCell<Option<Probe>>,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: directory(),
            flush: Arc::new(AtomicU64::new(FLUSH.as_micros() as u64)),
            running: RefCell::default(),
        }
    }

    fn machinery(&self) -> Machinery {
        let flush = Arc::clone(&self.flush);
        Machinery {
            clock: || Micros(turmoil::sim_elapsed().map_or(0, |since| since.as_micros() as u64)),
            write_on: WriteOn::Task(Arc::new(move || {
                Duration::from_micros(flush.load(Ordering::Relaxed))
            })),
        }
    }

    async fn run(&self, place: usize) -> turmoil::Result {
        let coordinator = start_with(
            config(place, self.directory.path(), 3),
            listeners().await?,
            CancellationToken::new(),
            self.machinery(),
        )
        .await?;
        self.running.replace(Some(coordinator.probe()));
        Ok(coordinator.wait().await?)
    }
}

/// The coordinators, and one who calls them.
pub struct Fleet {
    /// The network.
    pub sim: Sim<'static>,
    /// For what is drawn of what happens.
    pub rng: SmallRng,
    /// What was seen.
    pub ledger: Ledger,
    /// What the callers do.
    pub calls: Rc<Calls>,
    places: Vec<Rc<Place>>,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet")
            .field("elapsed", &self.sim.elapsed())
            .field("standings", &self.standings())
            .finish_non_exhaustive()
    }
}

impl Fleet {
    /// Three coordinators with empty disks, and so many writers, that rest.
    #[must_use]
    pub fn new(seed: u64, writers: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut sim = Builder::new()
            .rng_seed(rng.random())
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(STEP)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(10))
            // A link that broke at random mends at a later message of it.
            .repair_rate(0.02)
            .tcp_capacity(4096)
            .build();
        let places: Vec<Rc<Place>> = (0..COUNT).map(|_| Rc::new(Place::new())).collect();
        for (place, disk) in places.iter().enumerate() {
            let disk = Rc::clone(disk);
            sim.host(host(place), move || {
                let disk = Rc::clone(&disk);
                async move { disk.run(place).await }
            });
        }
        let calls = Rc::new(Calls::default());
        let seeds: Vec<u64> = (0..writers).map(|_| rng.random()).collect();
        sim.client(CALLER, {
            let calls = Rc::clone(&calls);
            async move {
                let writers = seeds.into_iter().enumerate();
                let all = writers.map(|(number, seed)| write(number, seed, Rc::clone(&calls)));
                futures::future::join_all(all).await;
                Ok(())
            }
        });
        Self {
            sim,
            rng,
            ledger: Ledger::default(),
            calls,
            places,
        }
    }

    /// One step, after which everything is looked at.
    ///
    /// # Panics
    /// Where a coordinator ended by itself, or did what it must not.
    pub fn step(&mut self) {
        self.sim.step().expect("every coordinator runs on");
        for (place, disk) in self.places.iter().enumerate() {
            if let Some(probe) = &*disk.running.borrow() {
                self.ledger.look(place, probe);
            }
        }
        self.ledger.hold(&self.calls.taken());
    }

    /// Goes on for so much simulated time.
    pub fn pass(&mut self, time: Duration) {
        let until = self.sim.elapsed() + time;
        while self.sim.elapsed() < until {
            self.step();
        }
    }

    /// Goes on until there is an answer.
    ///
    /// # Panics
    /// Where there is none for long.
    pub fn until<T>(&mut self, what: &str, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = self.sim.elapsed() + PATIENCE;
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(
                self.sim.elapsed() < deadline,
                "waited in vain: {what}: {self:?}"
            );
            self.step();
        }
    }

    /// Where a coordinator that runs stands.
    #[must_use]
    pub fn standing(&self, place: usize) -> Option<Standing> {
        let probe = self.places[place].running.borrow();
        probe.as_ref().map(Probe::standing)
    }

    /// Where each of them stands.
    fn standings(&self) -> Vec<Option<Standing>> {
        (0..COUNT).map(|place| self.standing(place)).collect()
    }

    /// The term in which one leads that is confirmed.
    #[must_use]
    pub fn reign(&self, place: usize) -> Option<u64> {
        self.standing(place)?.reign
    }

    /// Waits until one of these leads.
    pub fn leader_of(&mut self, places: &[usize]) -> usize {
        self.until("one that leads", |fleet| {
            places.iter().copied().find(|p| fleet.reign(*p).is_some())
        })
    }

    /// Waits until one leads, and everybody knows.
    pub fn leader(&mut self) -> usize {
        self.until("a leader whom all hear", |fleet| {
            let all = fleet.standings();
            let all = all.into_iter().collect::<Option<Vec<_>>>()?;
            let leader = all.iter().position(|standing| standing.reign.is_some())?;
            let id = Some(all[leader].id);
            all.iter()
                .all(|standing| standing.leader == id)
                .then_some(leader)
        })
    }

    /// The last index that a coordinator applied.
    #[must_use]
    pub fn applied(&self, place: usize) -> u64 {
        let standing = self.standing(place);
        standing
            .and_then(|standing| standing.applied)
            .map_or(0, |(_, index)| index)
    }

    /// Kills a process, without a word to anybody.
    pub fn crash(&mut self, place: usize) {
        self.places[place].running.take();
        self.ledger.ended(place);
        self.sim.crash(host(place));
    }

    /// Starts it again on the disk that it had.
    pub fn restart(&mut self, place: usize) {
        self.sim.bounce(host(place));
    }

    /// Kills a process and starts it again on an empty disk.
    ///
    /// # Panics
    /// Where the disk cannot be emptied.
    pub fn wipe(&mut self, place: usize) {
        self.crash(place);
        let directory = self.places[place].directory.path();
        std::fs::remove_dir_all(directory.join("raft")).expect("an empty disk");
        self.ledger.wiped(place);
        self.restart(place);
    }

    /// Lets a disk take so long for each flush from now on; as a healthy one with `None`.
    pub fn slow(&self, place: usize, flush: Option<Duration>) {
        let flush = flush.unwrap_or(FLUSH).as_micros() as u64;
        self.places[place].flush.store(flush, Ordering::Relaxed);
    }

    /// Cuts a coordinator off from the others, but not from who calls it.
    pub fn isolate(&self, place: usize) {
        for other in others(place) {
            self.sim.partition(host(place), host(other));
        }
    }

    /// The opposite.
    pub fn join(&self, place: usize) {
        for other in others(place) {
            self.sim.repair(host(place), host(other));
        }
    }

    /// Ends the writing, waits until all have applied all there is, and sees that they
    /// agree.
    ///
    /// # Panics
    /// Where they do not.
    pub fn settle(&mut self) {
        self.calls.rest();
        self.leader();
        self.until("all to have applied the same", |fleet| {
            let all = fleet.standings();
            let all = all.into_iter().collect::<Option<Vec<_>>>()?;
            let ends = |s: &Standing| (s.last, s.applied);
            let done = all[0].last == all[0].applied.map(|(_, index)| index);
            let same = all.iter().all(|standing| ends(standing) == ends(&all[0]));
            (same && done).then_some(())
        });
        let states = self.places.iter().map(|place| {
            let probe = place.running.borrow();
            let (_, state) = probe.as_ref().map(Probe::applied).expect("all run");
            serde_json::to_string(&*state).expect("JSON")
        });
        let states: Vec<String> = states.collect();
        assert!(states.iter().all(|state| *state == states[0]));
    }
}
