//! The accept loop that every plain-socket listener of a node shares: a bounded
//! number of connections, `TCP_NODELAY`, optional TLS, and an end within a bound.
//!
//! What a connection speaks is the business of a [`ConnectionHandler`]. The loop
//! never waits for a handler, a TLS handshake or a client.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Gives the TLS configuration for each new connection, so that certificates that
/// were reloaded serve from the next connection on.
pub type TlsSource = Arc<dyn Fn() -> Arc<rustls::ServerConfig> + Send + Sync>;

/// How a listener treats connections.
#[derive(Clone)]
pub struct ListenerConfig {
    /// A word for the logs and metrics: `resp`, `http`.
    pub name: &'static str,
    /// The most connections at a time, those in their TLS handshake included.
    pub connections_max: usize,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long connections may take to finish what is in flight at shutdown.
    pub drain_timeout: Duration,
    /// TLS, where it is wanted.
    pub tls: Option<TlsSource>,
}

impl ListenerConfig {
    /// The same with another bound on TLS handshakes.
    #[must_use]
    pub fn within(self, handshake_timeout: Duration) -> Self {
        Self {
            handshake_timeout,
            ..self
        }
    }
}

impl std::fmt::Debug for ListenerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            name,
            connections_max,
            handshake_timeout,
            drain_timeout,
            tls,
        } = self;
        f.debug_struct("ListenerConfig")
            .field("name", name)
            .field("connections_max", connections_max)
            .field("handshake_timeout", handshake_timeout)
            .field("drain_timeout", drain_timeout)
            .field("tls", &tls.is_some())
            .finish()
    }
}

/// Where connections come in: TCP, or a simulated network in its place.
pub trait Accept: Send + Sync + 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection; who connected.
    ///
    /// # Errors
    /// Those of `accept(2)`.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// The address that this listens on.
    ///
    /// # Errors
    /// Those of `getsockname(2)`.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Readies a connection that was accepted; the address that the client connected to.
    ///
    /// # Errors
    /// Where the connection is gone already.
    fn prepare(stream: &Self::Stream) -> io::Result<SocketAddr>;

    /// Sends as many of the words as fit at once, without waiting for the client.
    fn send_now(stream: &Self::Stream, words: &[u8]);
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    /// Sends replies at once, and finds out about clients that are gone.
    fn prepare(stream: &TcpStream) -> io::Result<SocketAddr> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE)
            .with_interval(KEEPALIVE / 3);
        SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
        stream.local_addr()
    }

    fn send_now(stream: &TcpStream, words: &[u8]) {
        // Not by tokio, which does not know yet that the socket can be written to.
        let _ = SockRef::from(stream).send(words);
    }
}

/// The two ends of an accepted connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's address.
    pub remote: SocketAddr,
    /// The address that the client connected to.
    pub local: SocketAddr,
}

/// What speaks on the connections of a listener.
pub trait ConnectionHandler: Send + Sync + 'static {
    /// Serves one connection to its end. It ends by itself soon after the
    /// listener's shutdown token was cancelled, or it is aborted after the drain
    /// bound.
    fn handle<S>(self: Arc<Self>, stream: S, ends: Ends) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// What a client beyond the connection cap is told before it is closed. Sent
    /// only on connections without TLS, and only as far as it fits into the
    /// socket's buffer at once.
    fn refusal(&self) -> &'static [u8];
}

/// Accepts until `shutdown` is cancelled, then waits for the connections to end,
/// at most as long as the configuration says.
///
/// # Errors
/// None at present: failures to accept are logged, and accepting goes on.
pub async fn serve<L: Accept, H: ConnectionHandler>(
    listener: L,
    handler: Arc<H>,
    config: ListenerConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let permits = Arc::new(Semaphore::new(
        config.connections_max.min(Semaphore::MAX_PERMITS),
    ));
    let refused = metrics::counter!("cairn_connections_refused_total", "listener" => config.name);
    let accepted = metrics::counter!("cairn_connections_accepted_total", "listener" => config.name);
    let mut connections = JoinSet::new();
    loop {
        let result = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(joined) = connections.join_next(), if !connections.is_empty() => {
                if let Err(error) = joined && error.is_panic() {
                    tracing::error!(listener = config.name, %error, "connection task panicked");
                }
                continue;
            }
            result = listener.accept() => result,
        };
        match result {
            Ok((stream, remote)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    refused.increment(1);
                    let words = handler.refusal();
                    // A fresh connection has room for a line. Where it has not, the
                    // client sees the close alone.
                    if config.tls.is_none() && !words.is_empty() {
                        L::send_now(&stream, words);
                    }
                    continue;
                };
                accepted.increment(1);
                connections.spawn(run_connection::<L, H>(
                    stream,
                    remote,
                    Arc::clone(&handler),
                    config.clone(),
                    permit,
                ));
            }
            Err(error) => {
                // Out of descriptors, or the client is gone already. Accepting again
                // at once would spin on the former.
                warn!(listener = config.name, %error, "accept connection");
                if !is_per_connection(&error) {
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = sleep(Duration::from_millis(50)) => {}
                    }
                }
            }
        }
    }
    drop(listener);
    let open = connections.len();
    let drained = timeout(config.drain_timeout, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    if drained.is_err() {
        warn!(
            listener = config.name,
            open,
            left = connections.len(),
            "connections did not finish within the drain bound and are closed"
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// How long a silent connection stays unprobed. A client whose machine died would
/// otherwise hold its place for ever.
const KEEPALIVE: Duration = Duration::from_secs(300);

async fn run_connection<L: Accept, H: ConnectionHandler>(
    stream: L::Stream,
    remote: SocketAddr,
    handler: Arc<H>,
    config: ListenerConfig,
    _permit: OwnedSemaphorePermit,
) {
    let local = match L::prepare(&stream) {
        Ok(local) => local,
        Err(error) => {
            debug!(listener = config.name, %error, "prepare connection");
            return;
        }
    };
    let ends = Ends { remote, local };
    let Some(source) = &config.tls else {
        return handler.handle(stream, ends).await;
    };
    let acceptor = tokio_rustls::TlsAcceptor::from(source());
    match timeout(config.handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => handler.handle(stream, ends).await,
        Ok(Err(error)) => {
            metrics::counter!("cairn_tls_handshakes_failed_total", "listener" => config.name)
                .increment(1);
            debug!(listener = config.name, %remote, %error, "TLS handshake");
        }
        Err(_) => {
            metrics::counter!("cairn_tls_handshakes_failed_total", "listener" => config.name)
                .increment(1);
            debug!(listener = config.name, %remote, "TLS handshake timed out");
        }
    }
}

fn is_per_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
    )
}
