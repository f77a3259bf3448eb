//! What the processes of both roles share: binding their ports, running servers as
//! tasks, and the health and metrics listener.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::agent::AgentError;
use crate::coordinator::CoordinatorError;
use crate::disk::DirectoryError;
use crate::http::metrics::{InstallError, Metrics};
use crate::http::{self, HttpConfig, HttpState};
use crate::listener::TlsSource;
use crate::store::StorageError;

/// How often the histograms of a process that nobody scrapes are folded.
const UPKEEP: Duration = Duration::from_secs(5);

/// Why a node could not start, or what stopped it.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A port cannot be had.
    #[error(
        "listen on {address} ({purpose}): {source}; is another process using the port? \
         `ss -ltnp` shows which"
    )]
    Listen {
        /// What it is for.
        purpose: &'static str,
        /// Which.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log or the store cannot be used.
    #[error("open the storage: {0}")]
    Storage(#[from] StorageError),
    /// The coordinators do not admit this node.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The coordinator failed.
    #[error(transparent)]
    Coordinator(#[from] CoordinatorError),
    /// There is no metrics recorder.
    #[error(transparent)]
    Metrics(#[from] InstallError),
    /// TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] crate::tls::TlsError),
    /// The users file cannot be used.
    #[error(transparent)]
    Users(#[from] crate::users::UsersError),
    /// The system refused something else.
    #[error("{action}: {source}")]
    Io {
        /// Verb and object.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something that must run for as long as the node does ended.
    #[error("{0} ended unexpectedly")]
    Ended(&'static str),
}

/// Binds a listener.
///
/// # Errors
/// [`NodeError::Listen`].
pub(crate) async fn bind(
    purpose: &'static str,
    address: SocketAddr,
) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| NodeError::Listen {
            purpose,
            address,
            source,
        })
}

/// Servers that run as tasks until their token is cancelled.
#[derive(Debug)]
pub(crate) struct Servers {
    shutdown: CancellationToken,
    tasks: JoinSet<(&'static str, io::Result<()>)>,
}

impl Servers {
    pub(crate) fn new() -> Self {
        Self {
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
        }
    }

    /// What the servers are to be given: it is cancelled by [`Self::stop`].
    pub(crate) fn token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Runs a server.
    pub(crate) fn run(
        &mut self,
        name: &'static str,
        server: impl Future<Output = io::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn(async move { (name, server.await) });
    }

    /// Waits until one of them ends although it should not have; for ever if none
    /// does.
    pub(crate) async fn failed(&mut self) -> NodeError {
        match self.tasks.join_next().await {
            None => std::future::pending().await,
            Some(Ok((name, Ok(())))) => NodeError::Ended(name),
            Some(Ok((name, Err(source)))) => NodeError::Io {
                action: name,
                source,
            },
            Some(Err(error)) => NodeError::Io {
                action: "run a server",
                source: io::Error::other(error),
            },
        }
    }

    /// Asks all of them to stop and waits. Each bounds its own drain.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::warn!(%error, "stopping: {name}");
            }
        }
    }
}

/// Runs the health and metrics listener among `servers`. It speaks TLS where the node
/// does, without asking for a client's certificate: neither the kubelet's probes nor
/// Prometheus have one of the cluster's.
pub(crate) fn run_http(
    servers: &mut Servers,
    listener: TcpListener,
    metrics: Metrics,
    state: HttpState,
    tls: Option<TlsSource>,
) {
    let state = HttpState {
        metrics: Some(metrics.clone()),
        ..state
    };
    let config = HttpConfig {
        connections_max: 256,
        header_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(10),
        write_timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(1),
        tls,
    };
    let token = servers.token();
    servers.run(
        "serve health and metrics",
        http::serve(listener, state, config, token.clone()),
    );
    servers.run("fold metrics", async move {
        let mut clock = interval(UPKEEP);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = token.cancelled() => return Ok(()),
                _ = clock.tick() => metrics.upkeep(),
            }
        }
    });
}
