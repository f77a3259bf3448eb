//! A coordinator's process: the coordinator, its health and metrics, and its end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::coordinator::{self, CoordinatorConfig, CoordinatorHealth, Listeners, RaftTimings};
use crate::http::{Check, Health, HttpState, metrics};
use crate::settings::CoordinatorSettings;
use crate::tasks::{self, NodeError, Servers};
use crate::tls::Tls;
use crate::users::Users;
use crate::watchdog::Watchdog;

/// How often the leader's supervisor looks at the time.
const TICK: Duration = Duration::from_millis(20);
/// After how many Raft entries a snapshot is taken.
const SNAPSHOT_EVERY: u64 = 5_000;

/// Runs a coordinator until `shutdown`, or until something fails.
///
/// # Errors
/// What kept it from starting, or what stopped it.
pub async fn run(
    settings: CoordinatorSettings,
    shutdown: CancellationToken,
) -> Result<(), NodeError> {
    let watchdog = Watchdog::new("the coordinator", settings.process.drain_timeout);
    watchdog.arm_with(&shutdown);
    let metrics = metrics::install()?;
    let tls = Tls::load(settings.process.tls.as_ref(), settings.process.tls_ports)?;
    let users = Users::load(settings.process.users_file.as_deref())?;
    let http = tasks::bind("health and metrics", settings.process.http_listen).await?;
    let config = config(&settings, &tls, users.clone());
    let listeners = Listeners::bind(&config).await?;
    let running = coordinator::start(config, listeners, shutdown.clone()).await?;
    let mut servers = Servers::new();
    tls.keep_fresh(&mut servers);
    users.keep_fresh(&mut servers, tls.covers_clients());
    tasks::run_http(
        &mut servers,
        http,
        metrics,
        state(running.health(), running.page()),
        tls.plain_server(),
    );
    tracing::info!(
        name = %settings.process.name,
        client = %settings.process.advertised.client,
        peer = %settings.process.advertised.peer,
        http = %settings.process.advertised.http,
        "the coordinator runs"
    );
    let ended = tokio::select! {
        ended = running.wait() => ended.map_err(NodeError::from),
        failure = servers.failed() => Err(failure),
    };
    watchdog.arm();
    servers.stop().await;
    ended
}

fn config(settings: &CoordinatorSettings, tls: &Tls, users: Users) -> CoordinatorConfig {
    let process = &settings.process;
    CoordinatorConfig {
        name: process.name.clone(),
        data_dir: process.data_dir.clone(),
        coordinators: process.coordinators.clone(),
        peer_listen: process.peer_listen.to_string(),
        client_listen: process.client_listen.to_string(),
        client_advertise: process.advertised.client.clone(),
        http_advertise: process.advertised.http.clone(),
        dialer: tls.peer_dialer(),
        peer_tls: tls.peer_server(),
        client_tls: tls.grpc_server(),
        users,
        cluster: settings.cluster.clone(),
        raft: RaftTimings {
            heartbeat: settings.raft_heartbeat,
            election: settings.raft_election,
        },
        tick: TICK,
        snapshot_every: SNAPSHOT_EVERY,
        read_copies: settings.read_copies,
        drain_timeout: process.drain_timeout,
        managed_by: settings.managed_by.clone(),
    }
}

fn state(health: watch::Receiver<CoordinatorHealth>, page: axum::Router) -> HttpState {
    let readyz = move || {
        let health = health.borrow();
        Health::new(vec![
            Check::when(
                "raft-member",
                health.member,
                "this disk is no voting member of the coordinators' group yet",
            ),
            Check::when(
                "raft-leader",
                health.leader.is_some(),
                "no leader is known; are most coordinators up and within reach?",
            ),
            Check::when(
                "caught-up",
                health.caught_up,
                "it has not applied all that is known to be committed",
            ),
        ])
    };
    HttpState {
        livez: Arc::new(|| Health::new(vec![Check::ok("process")])),
        readyz: Arc::new(readyz),
        metrics: None,
        routes: Some(page),
    }
}
