//! A data node's process: what is opened in which order, and how it ends.
//!
//! # Start
//! 1. Every port is bound, so that whoever is told of this node can connect to it.
//! 2. The directory is locked and says who this node is.
//! 3. The agent finds the node's number: from the last map on disk, or from the
//!    coordinators, for as long as it takes, once it is known where the node stands.
//! 4. The log and the store are recovered; the engine runs; peers and clients are
//!    served; the agent keeps in touch with the coordinators.
//!
//! # End
//! What the node leads is handed over while it still serves; then clients are let
//! go, the peers, the engine, and at last the log is closed, so that the next start
//! finds an end and no torn tail. All of it is bounded, threads that hang with a disk by
//! the watchdog: whoever waits for longer has nothing to lose, since what was
//! acknowledged is on disk.

mod clients;
mod descriptors;
pub(crate) mod keyspace;
mod redis;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::ids::{Micros, NodeId};
use cairn_core::record::{Addresses, ClusterMap};
use cairn_core::replication::Timing;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::agent::{
    self, Agent, AgentConfig, AgentError, AgentInbox, AgentStatus, NodeIdentity, Places,
};
use crate::budget::Budget;
use crate::counters::{Counters, CountersService};
use crate::disk::{DataDirectory, WalConfig};
use crate::grpc::{self, MapFeed, ServeConfig};
use crate::http::{Check, Health, HttpState, metrics};
use crate::listener::{Accept, ListenerConfig, TlsSource};
use crate::partition::{
    EngineConfig, EngineStorage, Handle, Links, Prepared, RunningEngine, SnapshotRates,
};
use crate::peer::{LocalIdentity, PeerConfig, PeerEvents, PeerPool, PeerService};
use crate::settings::{DataSettings, OutsideListen, TlsPorts};
use crate::store::{NodeStorage, StorageConfig};
use crate::tasks::{self, NodeError, Servers};
use crate::tls::Tls;
use crate::trace::Tracer;
use crate::users::Users;
use crate::watchdog::Watchdog;

/// The lease that holds until a map says otherwise. A node without a map has
/// granted nothing and leads nothing.
const LEASE_MS_DEFAULT: u64 = cairn_core::cluster::settings::LEASE_MS_DEFAULT;
/// The part of the drain bound that handing over may take; the rest is for letting
/// clients go.
const HAND_OVER_SHARE: f64 = 0.75;
/// How long connections may take to end once nothing is led here any more.
const CONNECTIONS_DRAIN_MAX: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most connections from other nodes: each opens one, and one per snapshot.
const PEER_CONNECTIONS_MAX: usize = 4096;

/// Where others reach a data node, bound.
#[derive(Debug)]
pub struct Ports<L = TcpListener> {
    /// Redis.
    pub resp: L,
    /// gRPC for clients.
    pub client: L,
    /// gRPC between nodes.
    pub peer: L,
    /// For clients that are not on the nodes' network, if there are any.
    pub outside: Option<OutsidePorts<L>>,
}

/// Where clients reach a data node that are not on its network, bound.
#[derive(Debug)]
pub struct OutsidePorts<L = TcpListener> {
    /// Redis.
    pub resp: L,
    /// gRPC.
    pub client: L,
}

impl Ports {
    async fn bind(settings: &DataSettings) -> Result<Self, NodeError> {
        let process = &settings.process;
        let outside = match settings.outside_listen {
            None => None,
            Some(OutsideListen { resp, client }) => Some(OutsidePorts {
                resp: tasks::bind("Redis for clients outside", resp).await?,
                client: tasks::bind("gRPC for clients outside", client).await?,
            }),
        };
        Ok(Self {
            resp: tasks::bind("Redis", settings.resp_listen).await?,
            client: tasks::bind("gRPC for clients", process.client_listen).await?,
            peer: tasks::bind("gRPC between nodes", process.peer_listen).await?,
            outside,
        })
    }
}

/// Into how many parts a lease is divided, of which a lease for reads lasts for one.
const READ_LEASE_PARTS: u64 = 4;
/// No lease for reads is longer.
const READ_LEASE_MAX: Micros = Micros::from_millis(100);

/// How far the node has come, for `/readyz`.
#[derive(Debug, Default)]
struct Progress {
    admitted: AtomicBool,
    recovered: AtomicBool,
    serving: AtomicBool,
    draining: AtomicBool,
    /// Once the engine runs.
    engine: OnceLock<Handle>,
}

impl Progress {
    fn reach(step: &AtomicBool) {
        step.store(true, Ordering::Release);
    }

    fn health(&self, places: &Places) -> Health {
        let reached = |step: &AtomicBool| step.load(Ordering::Acquire);
        Health::new(vec![
            match places.lack() {
                None => Check::ok("placed"),
                Some(lack) => Check::failed("placed", lack),
            },
            Check::when(
                "admitted",
                reached(&self.admitted),
                "the coordinators have not admitted this node yet; are they within reach?",
            ),
            Check::when(
                "recovered",
                reached(&self.recovered),
                "the log and the store are being recovered",
            ),
            Check::when(
                "serving",
                reached(&self.serving),
                "its ports are not served yet",
            ),
            match self.engine.get().map_or(0, Handle::away) {
                0 => Check::ok("back"),
                away => Check::failed(
                    "back",
                    format!("{away} of its replicas do not keep up with their primaries yet"),
                ),
            },
            Check::when(
                "not-draining",
                !reached(&self.draining),
                "it is about to stop",
            ),
        ])
    }
}

/// How other nodes are reached.
struct Dialers {
    /// At their ports between nodes.
    peer: Dialer,
    /// At their ports for clients.
    client: Dialer,
}

/// Who is let in, and how.
struct Access {
    tls: Tls,
    dialers: Dialers,
    users: Users,
    /// For what clients send, over Redis and gRPC.
    room: Budget,
}

impl Access {
    fn new(settings: &DataSettings, dialers: Dialers, tls: Tls, users: Users) -> Self {
        Self {
            tls,
            dialers,
            users,
            room: Budget::new(settings.input_room_bytes),
        }
    }
}

/// Runs a data node until `shutdown`, or until something fails.
///
/// # Errors
/// What kept it from starting, or what stopped it.
pub async fn run(mut settings: DataSettings, shutdown: CancellationToken) -> Result<(), NodeError> {
    settings.max_connections = descriptors::fit(
        settings.max_connections,
        if settings.outside_listen.is_some() {
            4
        } else {
            2
        },
    );
    let watchdog = Watchdog::new("the data node", settings.process.drain_timeout);
    watchdog.arm_with(&shutdown);
    let metrics = metrics::install()?;
    let tls = Tls::load(settings.process.tls.as_ref(), settings.process.tls_ports)?;
    let users = Users::load(settings.process.users_file.as_deref())?;
    let ports = Ports::bind(&settings).await?;
    let http = tasks::bind("health and metrics", settings.process.http_listen).await?;
    let progress = Arc::new(Progress::default());
    let places = places(&settings);
    let mut watchers = Servers::new();
    tls.keep_fresh(&mut watchers);
    users.keep_fresh(&mut watchers, tls.covers_clients());
    tasks::run_http(
        &mut watchers,
        http,
        metrics,
        http_state(&progress, &places),
        tls.plain_server(),
    );
    let dialers = Dialers {
        peer: tls.peer_dialer(),
        client: tls.client_dialer(),
    };
    let access = Access::new(&settings, dialers, tls, users);
    let node = Assembly {
        settings,
        access,
        places,
        progress,
        watchers,
        watchdog: Some(watchdog),
    };
    node.run(ports, shutdown).await
}

/// Runs a data node, open to everybody, over a network of the caller's: without a port
/// for health and metrics, and without a watchdog that ends the process. For tests.
///
/// # Errors
/// As [`run`].
pub async fn run_over<L: Accept>(
    settings: DataSettings,
    ports: Ports<L>,
    dialer: Dialer,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let dialers = Dialers {
        peer: dialer.clone(),
        client: dialer,
    };
    let tls = Tls::load(None, TlsPorts::default())?;
    let access = Access::new(&settings, dialers, tls, Users::open());
    let node = Assembly {
        places: places(&settings),
        settings,
        access,
        progress: Arc::default(),
        watchers: Servers::new(),
        watchdog: None,
    };
    node.run(ports, shutdown).await
}

/// All that a data node consists of before it starts, but for its ports.
struct Assembly {
    settings: DataSettings,
    access: Access,
    places: Places,
    progress: Arc<Progress>,
    watchers: Servers,
    watchdog: Option<Watchdog>,
}

impl Assembly {
    async fn run<L: Accept>(
        self,
        ports: Ports<L>,
        shutdown: CancellationToken,
    ) -> Result<(), NodeError> {
        let Self {
            settings,
            access,
            places,
            progress,
            mut watchers,
            watchdog,
        } = self;
        let stop = shutdown.clone();
        let started = start(&settings, &access, &places, ports, &progress, stop).await;
        let outcome = match started {
            Ok(node) => {
                places.keep_fresh(&mut watchers);
                let watchdog = watchdog.as_ref();
                node.serve(&settings, &progress, &mut watchers, shutdown, watchdog)
                    .await
            }
            // Asked to stop before it had begun: nothing is amiss.
            Err(NodeError::Agent(AgentError::Shutdown)) => Ok(()),
            Err(error) => Err(error),
        };
        watchers.stop().await;
        outcome
    }
}

fn places(settings: &DataSettings) -> Places {
    Places::new(&settings.process.name, settings.place.clone())
}

fn http_state(progress: &Arc<Progress>, places: &Places) -> HttpState {
    let (progress, places) = (Arc::clone(progress), places.clone());
    HttpState {
        livez: Arc::new(|| Health::new(vec![Check::ok("process")])),
        readyz: Arc::new(move || progress.health(&places)),
        metrics: None,
        routes: None,
    }
}

/// A data node that runs.
struct DataNode {
    directory: DataDirectory,
    storage: NodeStorage,
    engine: RunningEngine,
    agent: Agent,
    /// What clients use.
    clients: Servers,
    /// What the other nodes use.
    peers: Servers,
}

async fn start<L: Accept>(
    settings: &DataSettings,
    access: &Access,
    places: &Places,
    ports: Ports<L>,
    progress: &Progress,
    shutdown: CancellationToken,
) -> Result<DataNode, NodeError> {
    let root = settings.process.data_dir.clone();
    let directory = blocking("open the data directory", move || {
        DataDirectory::open(&root)
    })
    .await??;
    let identity = directory.identity();
    let session = rand::random();
    let enrolled = agent::enroll(
        agent_config(settings, access, places, session, &directory),
        NodeIdentity {
            uuid: identity.node.to_string(),
            incarnation: identity.incarnation.to_string(),
            cluster_id: identity.cluster.clone(),
            node: identity.number,
        },
        shutdown.clone(),
    )
    .await?;
    let node = enrolled.node;
    let cluster_id = enrolled.map.load().cluster_id.clone();
    let directory = blocking("keep the identity", move || {
        directory.admit(&cluster_id, node).map(|()| directory)
    })
    .await??;
    Progress::reach(&progress.admitted);
    tracing::info!(name = %settings.process.name, %node, "admitted");

    let timing = timing(settings, &enrolled.map.load());
    let mut peers = Servers::new();
    let tracer = match &settings.trace {
        Some(trace) => Tracer::start(trace, &settings.process.name, peers.token()),
        None => Tracer::default(),
    };
    let prepared = Prepared::new(
        EngineConfig {
            tracer,
            ..engine_config(settings, node, session, timing)
        },
        Arc::clone(&enrolled.map),
    );
    let handle = prepared.handle();
    let (storage_config, callbacks) = (storage_config(settings), prepared.callbacks());
    let opening = blocking("open the storage", move || {
        NodeStorage::open(&directory, &storage_config, callbacks)
            .map(|storage| (directory, storage))
    });
    let (directory, storage) = tokio::select! {
        opened = opening => opened??,
        // The recovery goes on until the process ends, as after a crash: the next one
        // begins anew.
        () = shutdown.cancelled() => return Err(AgentError::Shutdown.into()),
    };
    Progress::reach(&progress.recovered);

    let own = LocalIdentity {
        node,
        uuid: identity.node.to_string(),
        incarnation: identity.incarnation.to_string(),
        session,
    };
    let pool = PeerPool::start(
        own.clone(),
        PeerConfig::default(),
        access.dialers.peer.clone(),
        Arc::clone(&enrolled.map),
        Arc::new(PeerWatch {
            engine: handle.clone(),
            agent: enrolled.inbox.clone(),
        }),
        peers.token(),
    );
    let (storage, engine_storage) = split(storage);
    let engine = prepared.start(
        engine_storage,
        Links {
            peers: Arc::new(pool.clone()),
            snapshots: Arc::new(pool.clone()),
            agent: Arc::new(enrolled.inbox.clone()),
        },
        tokio::runtime::Handle::current(),
    );
    let config = PeerConfig {
        snapshots_served_max: settings.snapshots_sent_at_once,
        ..PeerConfig::default()
    };
    let peer_tls = access.tls.peer_server();
    let counters = Counters::new(handle.clone(), pool.clone());
    serve_peers(
        &mut peers,
        ports.peer,
        config,
        (pool.clone(), &counters),
        peer_tls,
    );

    let feed = MapFeed::new(Arc::clone(&enrolled.map));
    peers.run(
        "add counters up",
        counters.clone().keep_counted(peers.token()),
    );
    let mut clients = Servers::new();
    let (resp_outside, client_outside) = match ports.outside {
        None => (None, None),
        Some(OutsidePorts { resp, client }) => (Some(resp), Some(client)),
    };
    clients::serve_grpc(
        &mut clients,
        settings,
        access,
        (ports.client, client_outside),
        &counters,
        &feed,
    );
    clients::serve_resp(
        &mut clients,
        settings,
        access,
        (ports.resp, resp_outside),
        redis::Redis {
            handle: handle.clone(),
            feed: feed.clone(),
            counters,
            keyspace: keyspace::Keyspace::new(handle.clone()),
            readonly_level: settings.readonly_level,
        },
    );
    let agent = agent::spawn(
        enrolled,
        Arc::new(handle.clone()),
        Arc::new(MapWatch { pool, feed }),
        // The agent ends by `Agent::stop`, after the drain that needs it.
        CancellationToken::new(),
    );
    let _ = progress.engine.set(handle);
    Progress::reach(&progress.serving);
    Ok(DataNode {
        directory,
        storage,
        engine,
        agent,
        clients,
        peers,
    })
}

impl DataNode {
    async fn serve(
        mut self,
        settings: &DataSettings,
        progress: &Progress,
        watchers: &mut Servers,
        shutdown: CancellationToken,
        watchdog: Option<&Watchdog>,
    ) -> Result<(), NodeError> {
        let addresses = &settings.process.advertised;
        tracing::info!(
            resp = %addresses.resp,
            client = %addresses.client,
            peer = %addresses.peer,
            http = %addresses.http,
            "the data node serves"
        );
        let mut status = self.agent.status();
        let outcome = loop {
            tokio::select! {
                () = shutdown.cancelled() => break Ok(()),
                failure = self.clients.failed() => break Err(failure),
                failure = self.peers.failed() => break Err(failure),
                failure = watchers.failed() => break Err(failure),
                () = log_contact(&mut status) => {}
            }
        };
        Progress::reach(&progress.draining);
        if let Some(watchdog) = watchdog {
            watchdog.arm();
        }
        self.stop(settings.process.drain_timeout, outcome.is_ok())
            .await;
        outcome
    }

    /// Ends the node in the order that the module's head gives.
    async fn stop(self, bound: Duration, hand_over: bool) {
        let Self {
            directory,
            storage,
            engine,
            agent,
            clients,
            peers,
        } = self;
        let began = Instant::now();
        if hand_over {
            let drained = agent.drain(bound.mul_f64(HAND_OVER_SHARE)).await;
            tracing::info!(drained, took = ?began.elapsed(), "handed over");
        }
        clients.stop().await;
        agent.stop().await;
        peers.stop().await;
        engine.stop().await;
        let closed = blocking("close the storage", move || {
            storage.close();
            // The lock is the last to go: nobody else opens what is not closed.
            drop(directory);
        })
        .await;
        if let Err(error) = closed {
            tracing::error!(%error, "the storage was not closed");
        }
    }
}

/// Says in the log when the coordinators come within reach or leave it.
async fn log_contact(status: &mut watch::Receiver<AgentStatus>) {
    if status.changed().await.is_err() {
        return std::future::pending().await;
    }
    let status = status.borrow_and_update();
    match (&status.leader, status.reachable) {
        (Some(leader), _) => tracing::info!(%leader, "in touch with the coordinators' leader"),
        (None, Some(false)) => tracing::warn!("the coordinators are out of reach; serving goes on"),
        (None, _) => tracing::debug!("no session with the coordinators' leader"),
    }
}

fn split(mut storage: NodeStorage) -> (NodeStorage, EngineStorage) {
    let engine = EngineStorage {
        wal: storage.wal.clone(),
        apply: storage.apply.clone(),
        reader: storage.reader.clone(),
        log: storage.log.clone(),
        recovered: std::mem::take(&mut storage.recovered),
        next_generation: storage.next_generation,
    };
    (storage, engine)
}

/// Where nobody says at which IP address this node is, the one of the Redis port is it, if it is
/// one of this machine.
fn with_ip(addresses: Addresses) -> Addresses {
    let resp = addresses.resp.parse::<SocketAddr>().ok();
    // What means another machine to whoever hears of it.
    let is_own_alone = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    };
    let is_here = |ip: &IpAddr| !is_own_alone(ip) && UdpSocket::bind((*ip, 0)).is_ok();
    let own = || resp.map(|address| address.ip()).filter(is_here);
    Addresses {
        ip: addresses.ip.or_else(own),
        ..addresses
    }
}

fn agent_config(
    settings: &DataSettings,
    access: &Access,
    places: &Places,
    session: u64,
    directory: &DataDirectory,
) -> AgentConfig {
    AgentConfig {
        places: places.clone(),
        addresses: with_ip(settings.process.advertised.clone()),
        dialer: access.dialers.peer.clone(),
        client_dialer: access.dialers.client.clone(),
        heartbeat: settings.heartbeat,
        ..AgentConfig::new(
            settings.process.name.clone(),
            session,
            settings.process.coordinators.clone(),
            directory.map_path(),
        )
    }
}

fn timing(settings: &DataSettings, map: &ClusterMap) -> Timing {
    let (lease, longest) = map
        .settings
        .as_ref()
        .map_or((LEASE_MS_DEFAULT, LEASE_MS_DEFAULT), |agreed| {
            (agreed.lease_ms, agreed.lease_ms_longest)
        });
    let timing = Timing {
        lease: Micros::from_millis(lease),
        lease_longest: Micros::from_millis(longest),
        lease_margin: settings.lease_margin.map(micros),
        tick: micros(settings.tick),
        resend: micros(settings.resend),
        stuck: micros(settings.stuck_flush),
        window_bytes: settings.window_bytes,
        log_bytes: settings.log_memory_bytes,
        keep_bytes: settings.log_memory_bytes / 4,
        unapplied_bytes: settings.log_memory_bytes,
        push_back: micros(settings.push_back),
        read_lease_at: settings.read_lease_at,
        read_lease_parts: READ_LEASE_PARTS,
        read_lease_max: READ_LEASE_MAX,
    };
    let margin = timing.margin(timing.lease);
    if let Some(wanted) = timing.lease_margin.filter(|wanted| *wanted > margin) {
        tracing::warn!(
            ?wanted, ?margin, lease = ?timing.lease,
            "CAIRN_LEASE_MARGIN_MS takes more than half of the lease; half of it is taken"
        );
    }
    timing
}

fn micros(duration: Duration) -> Micros {
    Micros(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn engine_config(
    settings: &DataSettings,
    node: NodeId,
    session: u64,
    timing: Timing,
) -> EngineConfig {
    EngineConfig {
        request_timeout: settings.request_timeout,
        pending_bytes_max: settings.pending_write_bytes,
        snapshots_at_once: settings.snapshots_received_at_once,
        snapshot_rates: SnapshotRates {
            send: settings.snapshot_send_rate,
            receive: settings.snapshot_receive_rate,
        },
        hot_keys: settings.hot_keys,
        key_rate: settings.key_rate,
        tracking_bytes: usize::try_from(settings.tracking_bytes).unwrap_or(usize::MAX),
        ..EngineConfig::new(node, session, timing)
    }
}

fn storage_config(settings: &DataSettings) -> StorageConfig {
    StorageConfig {
        wal: WalConfig {
            segment_bytes: settings.wal.segment_bytes,
            total_bytes: settings.wal.retain_bytes,
            kept_bytes: settings.wal.keep_bytes,
            direct: settings.wal.direct,
            recovered_bytes: settings.log_memory_bytes / 2,
        },
        block_cache_bytes: settings.store_cache_bytes,
        memtable_bytes: settings.store_memtable_bytes,
        journal_bytes: settings.store_journal_bytes,
        value_cache_bytes: settings.value_cache_bytes,
        reader_threads: settings.store_reader_threads,
        reserve_bytes: settings.disk_reserve_bytes,
        ..StorageConfig::default()
    }
}

fn listener_config(
    name: &'static str,
    connections_max: usize,
    drain: Duration,
    tls: Option<TlsSource>,
) -> ListenerConfig {
    ListenerConfig {
        name,
        connections_max,
        handshake_timeout: HANDSHAKE_TIMEOUT,
        drain_timeout: drain.min(CONNECTIONS_DRAIN_MAX),
        tls,
    }
}

fn serve_peers(
    peers: &mut Servers,
    port: impl Accept,
    config: PeerConfig,
    (pool, counters): (PeerPool, &Counters),
    tls: Option<TlsSource>,
) {
    let handle = counters.handle();
    let service = PeerService::new(
        pool,
        config,
        Arc::new(handle.clone()),
        Arc::new(handle.clone()),
        handle.snapshot_throttle(),
        peers.token(),
    );
    peers.run(
        "serve other nodes",
        grpc::serve(
            port,
            Routes::new(service.clone().into_server())
                .add_service(CountersService::new(service, counters.clone()).into_server()),
            ServeConfig::default(),
            listener_config("peer", PEER_CONNECTIONS_MAX, Duration::from_secs(1), tls),
            peers.token(),
        ),
    );
}

/// Tells the engine and the agent of the streams to other nodes.
struct PeerWatch {
    engine: Handle,
    agent: AgentInbox,
}

impl PeerEvents for PeerWatch {
    fn connected(&self, peer: NodeId) {
        self.engine
            .submit(cairn_core::replication::Event::PeerConnected { peer });
    }

    fn unreachable(&self, peers: Vec<NodeId>) {
        self.agent.set_unreachable(peers);
    }
}

/// Tells the streams and the clients that watch of a newer map.
struct MapWatch {
    pool: PeerPool,
    feed: MapFeed,
}

impl agent::PeerLink for MapWatch {
    fn map_changed(&self) {
        self.pool.map_changed();
        self.feed.changed();
    }

    fn fetch_map(&self, from: NodeId) -> BoxFuture<'static, Result<Arc<ClusterMap>, String>> {
        agent::PeerLink::fetch_map(&self.pool, from)
    }
}

/// Runs what blocks on the disk outside the network's threads.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    act: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NodeError> {
    tokio::task::spawn_blocking(act)
        .await
        .map_err(|error| NodeError::Io {
            action,
            source: std::io::Error::other(error),
        })
}
