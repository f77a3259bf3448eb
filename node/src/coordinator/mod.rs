//! A coordinator: one member of the Raft group that owns the cluster's metadata.
//!
//! It wraps the pure `cairn_core::cluster` in openraft, fjall and gRPC.
//!
//! Invariants:
//! - Only the Raft leader changes metadata, and acts only on what it has committed
//!   and applied; followers answer with a redirect.
//! - A Raft id belongs to a disk: it is drawn when an empty disk is first used, and
//!   every message names the id that it is for, so that a wiped coordinator never
//!   answers for what it forgot (rule 12).
//! - A failed write or flush stops the process.
//!
//! It does not decide anything about partitions: that is the supervisor of
//! `cairn_core::cluster`.

mod addresses;
mod config;
mod election;
mod group;
mod join;
mod leader;
mod membership;
mod network;
mod page;
mod probe;
mod raft;
mod recovery;
mod service;
mod storage;
#[cfg(test)]
pub(crate) mod tests;
mod voters;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::ids::Micros;
use cairn_core::record::ClusterMap;
use cairn_proto::limits;
use cairn_proto::pb::coordinator::v1::admin_server::{self, AdminServer};
use cairn_proto::pb::coordinator::v1::coordinator_server::CoordinatorServer;
use cairn_proto::pb::coordinator::v1::raft_server::RaftServer;
use cairn_proto::pb::kv::v1::topology_server;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use addresses::Addresses;
use election::Elections;
use group::{ClusterId, Group};
use join::Superseded;
use leader::{Leader, Reign};
use membership::Changing;
use network::Network;
use page::Documents;
use raft::{Raft, RaftMetrics, raft_config};
use service::{AdminService, Office, PeerPort};
use storage::{OpenError, Opened, View};

use crate::diagnosis;
use crate::grpc::{self, MapFeed, ServeConfig, TopologyServer};
use crate::listener::{Accept, ListenerConfig, TlsSource};
use crate::partition::boottime;
use crate::users::Users;

pub use config::{AddressError, ConfigError, CoordinatorAddress, CoordinatorConfig, RaftTimings};
pub use probe::{Logged, Probe, Standing};
pub use recovery::{Heard, KnownMember, RecoverError, SurvivingDisk};
pub use storage::{Pace, WriteOn};

/// What a coordinator says of itself, for `/livez`, `/readyz` and people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoordinatorHealth {
    /// Whether the Raft group exists and this disk is a voting member of it.
    pub member: bool,
    /// The name of the leader, as far as known.
    pub leader: Option<String>,
    /// Whether this one leads and has applied all that was committed before it.
    pub leading: bool,
    /// Whether everything known to be committed is applied here.
    pub caught_up: bool,
    /// The Raft term.
    pub term: u64,
}

impl CoordinatorHealth {
    /// Whether the process may be sent requests: it is a member, it knows a leader,
    /// and it is caught up.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.member && self.leader.is_some() && self.caught_up
    }
}

/// Why a coordinator could not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The configuration does not hold together.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A listener could not be opened.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The directory is another coordinator's, of a newer format, or broken.
    #[error("open the coordinator's data in {}: {reason}", directory.display())]
    Open {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Writing or flushing failed, so that nothing can be promised any more.
    #[error("the coordinator's storage failed: {0}")]
    Storage(String),
    /// A person went on without this disk.
    #[error(
        "the coordinators lost their majority, and a person went on with another disk, as group \
         {by}: this one must not take part any more. Empty its directory, and take it in with \
         `cairn coordinators add`"
    )]
    Superseded {
        /// The group that exists.
        by: String,
    },
    /// Serving ended with an error.
    #[error("serve gRPC: {0}")]
    Serve(String),
}

/// The listeners of a coordinator, bound before anything else happens.
#[derive(Debug)]
pub struct Listeners<L = TcpListener> {
    /// Between nodes.
    pub peer: L,
    /// For clients.
    pub client: L,
}

impl Listeners {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// [`CoordinatorError::Listen`].
    pub async fn bind(config: &CoordinatorConfig) -> Result<Self, CoordinatorError> {
        let bind = |address: String| async move {
            TcpListener::bind(&address)
                .await
                .map_err(|source| CoordinatorError::Listen { address, source })
        };
        Ok(Self {
            peer: bind(config.peer_listen.clone()).await?,
            client: bind(config.client_listen.clone()).await?,
        })
    }
}

/// How long connections may take to end when the coordinator stops, at most.
const CONNECTIONS_DRAIN_MAX: Duration = Duration::from_secs(2);
/// The most connections on one port.
const CONNECTIONS_MAX: usize = 4096;
/// How far the applied entries may be behind the log of a coordinator that counts
/// as caught up: what is under way is never applied yet.
const LAG_MAX: u64 = 64;

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    office: Office,
    documents: Documents,
    users: Users,
    health: watch::Receiver<CoordinatorHealth>,
    shutdown: CancellationToken,
    ended: JoinHandle<Result<(), CoordinatorError>>,
}

impl Coordinator {
    /// What it says of itself, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<CoordinatorHealth> {
        self.health.clone()
    }

    /// What the status page shows, from this coordinator's view; the leader's also
    /// says how the data nodes are.
    pub fn status(&self) -> impl Future<Output = serde_json::Value> + Send + use<> {
        let office = self.office.clone();
        async move {
            // Every part of it is plain data.
            serde_json::to_value(office.document().await).unwrap_or_default()
        }
    }

    /// The routes of the status page, for the HTTP listener. They do not keep the
    /// coordinator's disk open.
    pub fn page(&self) -> axum::Router {
        page::routes(&self.documents, self.users.clone())
    }

    /// For tests that look into it.
    #[must_use]
    pub fn probe(&self) -> Probe {
        Probe::new(self.office.clone())
    }

    /// Asks it to stop.
    pub fn stop(&self) {
        self.shutdown.cancel();
    }

    /// Waits until it ended: after [`Self::stop`], after its shutdown token was
    /// cancelled, or because something failed.
    ///
    /// # Errors
    /// What failed. The process must end then.
    pub async fn wait(self) -> Result<(), CoordinatorError> {
        let Self {
            office,
            documents,
            ended,
            ..
        } = self;
        // They hold the disk open.
        drop((office, documents));
        match ended.await {
            Ok(result) => result,
            Err(error) => Err(CoordinatorError::Serve(error.to_string())),
        }
    }
}

/// Starts a coordinator: opens its disk, serves its ports, and joins or makes its
/// Raft group in the background.
///
/// # Errors
/// Where it cannot start.
pub async fn start<L: Accept>(
    config: CoordinatorConfig,
    listeners: Listeners<L>,
    shutdown: CancellationToken,
) -> Result<Coordinator, CoordinatorError> {
    start_with(config, listeners, shutdown, Machinery::default()).await
}

/// What a coordinator takes of its machine besides the network. Tests simulate it.
#[derive(Clone, Debug)]
pub struct Machinery {
    /// What the leader's supervisor counts time by.
    pub clock: fn() -> Micros,
    /// Where the disk is written.
    pub write_on: WriteOn,
}

impl Default for Machinery {
    fn default() -> Self {
        Self {
            clock: boottime,
            write_on: WriteOn::default(),
        }
    }
}

/// As [`start`], on another machine than this one.
///
/// # Errors
/// Where it cannot start.
pub async fn start_with<L: Accept>(
    config: CoordinatorConfig,
    listeners: Listeners<L>,
    shutdown: CancellationToken,
    machinery: Machinery,
) -> Result<Coordinator, CoordinatorError> {
    config.validate()?;
    let Opened {
        identity,
        log,
        machine,
        writer,
        closed,
    } = open(&config, machinery.write_on).await?;
    tracing::info!(
        name = identity.name,
        raft_id = identity.raft_id,
        uuid = %identity.uuid,
        cluster_id = identity.cluster_id.as_deref().unwrap_or("none yet"),
        "the coordinator's disk is open"
    );
    let addresses = Arc::new(Addresses::new(&config.coordinators));
    let cluster = ClusterId::new(identity.cluster_id.as_deref());
    let network = Network {
        from: identity.raft_id,
        cluster: cluster.clone(),
        dialer: config.dialer.clone(),
        addresses: Arc::clone(&addresses),
    };
    let raft_config = raft_config(&config)
        .map_err(|e| CoordinatorError::Serve(format!("configure Raft: {e}")))?;
    let election = Duration::from_millis(raft_config.election_timeout_max);
    let view = machine.view();
    let raft = Raft::new(identity.raft_id, raft_config, network, log.clone(), machine)
        .await
        .map_err(|e| CoordinatorError::Storage(e.to_string()))?;
    addresses.follow(raft.metrics());
    let group = Arc::new(Group::new(
        identity,
        cluster,
        raft,
        addresses,
        config.client_advertise.clone(),
        config.dialer.clone(),
        log,
        writer,
        view.clone(),
        Elections::new(election),
    ));
    // By then every follower has let its own lease run out.
    let patience = election * 3;
    let (leader, desk) = Leader::new(
        Arc::clone(&group),
        view.clone(),
        config.cluster.clone(),
        config.read_copies,
        patience,
        config.tick,
        machinery.clock,
    );
    let office = Office {
        group,
        desk,
        view,
        changing: Changing::default(),
        http_advertise: config.http_advertise.clone(),
        one_at_a_time: Arc::default(),
        managed_by: config.managed_by.as_deref().map(Arc::from),
    };
    let documents = Documents::new(office.clone());
    let users = config.users.clone();
    let (health, receiver) = watch::channel(CoordinatorHealth::default());
    let running = Running {
        office: office.clone(),
        documents: documents.clone(),
        shutdown: shutdown.child_token(),
        closed,
        health,
        peer_tls: config.peer_tls,
        client_tls: config.client_tls,
        users: config.users,
        drain_timeout: config.drain_timeout,
    };
    let shutdown = running.shutdown.clone();
    let ended = tokio::spawn(running.run(leader, listeners));
    Ok(Coordinator {
        office,
        documents,
        users,
        health: receiver,
        shutdown,
        ended,
    })
}

async fn open(config: &CoordinatorConfig, on: WriteOn) -> Result<Opened, CoordinatorError> {
    let (directory, name) = (config.data_dir.clone(), config.name.clone());
    let opened = tokio::task::spawn_blocking(move || storage::open(&directory, &name, on)).await;
    let failed = |reason: String| CoordinatorError::Open {
        directory: config.data_dir.clone(),
        reason,
    };
    opened
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e: OpenError| failed(e.to_string()))
}

/// Everything that runs, and its end.
struct Running {
    office: Office,
    documents: Documents,
    shutdown: CancellationToken,
    closed: oneshot::Receiver<()>,
    health: watch::Sender<CoordinatorHealth>,
    peer_tls: Option<TlsSource>,
    client_tls: Option<TlsSource>,
    users: Users,
    drain_timeout: Duration,
}

impl Running {
    async fn run<L: Accept>(
        self,
        leader: Leader,
        listeners: Listeners<L>,
    ) -> Result<(), CoordinatorError> {
        let Self {
            office,
            documents,
            shutdown,
            closed,
            health,
            peer_tls,
            client_tls,
            users,
            drain_timeout,
        } = self;
        let raft = office.group.raft.clone();
        let leader = tokio::spawn(leader.run(shutdown.clone()));
        let mut settling = tokio::spawn(Arc::clone(&office.group).settle());
        let keeping = tokio::spawn(office.clone().keep_membership());
        let guarding = tokio::spawn(Arc::clone(&office.group).guard_elections());
        let watching = tokio::spawn(watch_health(office.clone(), health));
        let counting = tokio::spawn(voters::watch(office.clone()));
        let map = Arc::new(ArcSwap::default());
        let feed = MapFeed::new(Arc::clone(&map));
        let feeding = tokio::spawn(feed_map(office.view.clone(), map, feed.clone()));
        let mut serving = JoinSet::new();
        serving.spawn(grpc::serve(
            listeners.peer,
            peer_routes(office.clone(), documents),
            ServeConfig::default(),
            connections("coordinator-peer", peer_tls, drain_timeout),
            shutdown.clone(),
        ));
        serving.spawn(grpc::serve(
            listeners.client,
            client_routes(office, feed, shutdown.clone()),
            ServeConfig {
                users,
                ..ServeConfig::for_clients()
            },
            connections("coordinator-client", client_tls, drain_timeout),
            shutdown.clone(),
        ));

        let mut metrics = raft.metrics();
        let failure = tokio::select! {
            biased;
            () = shutdown.cancelled() => None,
            Ok(Superseded(by)) = &mut settling => Some(CoordinatorError::Superseded { by }),
            Some(ended) = serving.join_next() => Some(serving_ended(ended)),
            error = raft_failure(&mut metrics) => Some(CoordinatorError::Storage(error)),
        };
        if let Some(error) = &failure {
            tracing::error!(%error, "the coordinator stops");
        }
        shutdown.cancel();
        settling.abort();
        for task in [guarding, watching, counting, feeding, keeping] {
            task.abort();
        }
        // Each of them may hang with the disk: one deadline for all. What was answered
        // is flushed, so that nothing is lost with what is not waited for.
        let deadline = Instant::now() + drain_timeout;
        match timeout_at(deadline, raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "stop Raft"),
            Err(_) => tracing::warn!("Raft does not stop in time; is the disk hanging?"),
        }
        let abort = leader.abort_handle();
        if timeout_at(deadline, leader).await.is_err() {
            abort.abort();
        }
        let ending = async { while serving.join_next().await.is_some() {} };
        if timeout_at(deadline, ending).await.is_err() {
            serving.abort_all();
        }
        drop((raft, metrics, serving));
        if timeout_at(deadline, closed).await.is_err() {
            tracing::warn!("the coordinator's disk is still in use");
        }
        match failure {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

fn serving_ended(ended: Result<std::io::Result<()>, tokio::task::JoinError>) -> CoordinatorError {
    CoordinatorError::Serve(match ended {
        Ok(Ok(())) => "a listener ended by itself".to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    })
}

/// Waits until Raft stopped by itself, which it does where its storage failed.
async fn raft_failure(metrics: &mut watch::Receiver<RaftMetrics>) -> String {
    loop {
        if let Err(fatal) = &metrics.borrow_and_update().running_state {
            return fatal.to_string();
        }
        if metrics.changed().await.is_err() {
            return "Raft's task ended".to_owned();
        }
    }
}

/// The port between nodes.
fn peer_routes(office: Office, documents: Documents) -> Routes {
    let limit = limits::COORDINATOR_MESSAGE_BYTES;
    let port = PeerPort { office, documents };
    let mut routes = Routes::builder();
    routes
        .add_service(
            RaftServer::new(port.clone())
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        )
        .add_service(
            CoordinatorServer::new(port)
                .max_decoding_message_size(limit)
                .max_encoding_message_size(limit),
        );
    routes.routes()
}

/// The services on the port for clients and people.
const CLIENT_SERVICES: [&str; 3] = [
    topology_server::SERVICE_NAME,
    admin_server::SERVICE_NAME,
    diagnosis::SERVICE,
];

/// The port for clients and people.
fn client_routes(office: Office, feed: MapFeed, shutdown: CancellationToken) -> Routes {
    let limit = limits::COORDINATOR_MESSAGE_BYTES;
    let mut routes = Routes::builder();
    routes
        .add_service(TopologyServer::new(feed, shutdown).into_server())
        .add_service(AdminServer::new(AdminService(office)).max_encoding_message_size(limit))
        .add_service(diagnosis::service("coordinator-client"));
    crate::grpc::add_about(&mut routes, &CLIENT_SERVICES);
    routes.routes()
}

fn connections(
    name: &'static str,
    tls: Option<TlsSource>,
    drain_timeout: Duration,
) -> ListenerConfig {
    ListenerConfig {
        name,
        connections_max: CONNECTIONS_MAX,
        handshake_timeout: Duration::from_secs(5),
        drain_timeout: drain_timeout.min(CONNECTIONS_DRAIN_MAX),
        tls,
    }
}

/// Gives clients the map as it is applied here: what is was committed, even where
/// this coordinator lags.
async fn feed_map(mut view: watch::Receiver<View>, map: Arc<ArcSwap<ClusterMap>>, feed: MapFeed) {
    loop {
        map.store(Arc::clone(&view.borrow_and_update().map));
        feed.changed();
        if view.changed().await.is_err() {
            return;
        }
    }
}

/// Keeps [`CoordinatorHealth`] current.
async fn watch_health(office: Office, health: watch::Sender<CoordinatorHealth>) {
    let mut metrics = office.group.raft.metrics();
    let mut reign = office.desk.watch();
    let term = metrics::gauge!("cairn_coordinator_raft_term");
    let known = metrics::gauge!("cairn_coordinator_leader_known");
    loop {
        let now = health_of(
            &metrics.borrow_and_update(),
            reign.borrow_and_update().as_ref(),
            &office,
        );
        term.set(now.term as f64);
        known.set(f64::from(u8::from(now.leader.is_some())));
        health.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        tokio::select! {
            changed = metrics.changed() => if changed.is_err() {
                return;
            },
            changed = reign.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

fn health_of(metrics: &RaftMetrics, reign: Option<&Reign>, office: &Office) -> CoordinatorHealth {
    let applied = metrics.last_applied.map_or(0, |id| id.index);
    let last = metrics.last_log_index.unwrap_or(0);
    CoordinatorHealth {
        member: join::is_settled_voter(metrics, office.group.id()) && !office.group.is_out(),
        leader: Group::leader_of(metrics).map(|(_, node)| node.name),
        leading: reign.is_some(),
        caught_up: metrics.last_applied.is_some() && applied + LAG_MAX >= last,
        term: metrics.current_term,
    }
}

/// Binds the configured listeners, runs a coordinator on them until `shutdown`, and
/// says what ended it.
///
/// # Errors
/// Where it could not start, or what stopped it.
pub async fn run(
    config: CoordinatorConfig,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    let listeners = Listeners::bind(&config).await?;
    start(config, listeners, shutdown).await?.wait().await
}
