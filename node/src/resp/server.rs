//! The listener: connections come in here, and are counted and swept here.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::record::ClusterMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::backend::{Backend, Facts};
use super::config::RespConfig;
use super::connection;
use super::shared::{Clients, Count, Fate, Shared};
use super::words;
use crate::listener::{self, Accept, ConnectionHandler, Ends, ListenerConfig};

/// The listener's word in logs and metrics.
pub(super) const LISTENER: &str = "resp";
/// The word of the listener for clients from outside.
const LISTENER_OUTSIDE: &str = "resp-outside";
/// How often idle and stalled connections are looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How long connections at most stay open at shutdown for clients that still ask here.
const LINGER_MAX: Duration = Duration::from_secs(2);

/// Serves Redis clients until `shutdown` is cancelled, those that come from outside the nodes'
/// network on `outside`, where there is such a listener. Then each connection ends once its
/// client asks for nothing more here, and after at most half of the drain bound, two
/// seconds at most, once what was taken is answered.
///
/// # Errors
/// Where a listener cannot be used.
pub async fn serve<L: Accept, B: Backend>(
    listener: L,
    outside: Option<L>,
    backend: Arc<B>,
    map: Arc<ArcSwap<ClusterMap>>,
    config: RespConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let port = listener.local_addr()?.port();
    let listening = ListenerConfig {
        name: LISTENER,
        connections_max: config.connections_max,
        handshake_timeout: config.handshake_timeout,
        drain_timeout: config.drain_timeout,
        tls: config.tls.clone(),
    };
    let server = Arc::new(Server::new(backend, map, config, port));
    let ended = CancellationToken::new();
    let sweeper = tokio::spawn(sweep(
        Arc::clone(&server.shared),
        shutdown.clone(),
        ended.clone(),
    ));
    let from_outside = async {
        let Some(listener) = outside else {
            return Ok(());
        };
        let port = listener.local_addr()?.port();
        let config = ListenerConfig {
            name: LISTENER_OUTSIDE,
            ..listening.clone()
        };
        let server = Arc::new(server.outside(port));
        listener::serve(listener, server, config, shutdown.clone()).await
    };
    let from_inside = listener::serve(
        listener,
        Arc::clone(&server),
        listening.clone(),
        shutdown.clone(),
    );
    let result = futures::future::try_join(from_inside, from_outside)
        .await
        .map(|_| ());
    ended.cancel();
    if let Err(error) = sweeper.await {
        tracing::error!(%error, "the sweeper of the Redis listener failed");
    }
    result
}

/// A Redis server without its listener.
pub struct Server<B> {
    backend: Arc<B>,
    shared: Arc<Shared>,
}

impl<B> std::fmt::Debug for Server<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("shared", &self.shared)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> Server<B> {
    /// Makes one that says of itself that it listens on `port`.
    pub fn new(
        backend: Arc<B>,
        map: Arc<ArcSwap<ClusterMap>>,
        config: RespConfig,
        port: u16,
    ) -> Self {
        let facts: Arc<dyn Facts> = Arc::clone(&backend) as _;
        Self {
            backend,
            shared: Arc::new(Shared::new(config, facts, map, port)),
        }
    }

    /// The same for clients from outside the nodes' network, who come in on that port and are
    /// told other addresses.
    #[must_use]
    pub fn outside(&self, port: u16) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            shared: Arc::new(self.shared.outside(port)),
        }
    }

    /// Serves one connection to its end.
    pub async fn connection<S>(&self, stream: S, ends: Ends)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let caller = self.shared.config.users.stranger();
        let client = self.shared.clients.open(ends, caller.name());
        self.shared.counts.add(Count::Connections, 1);
        let _listed = Listed {
            clients: &self.shared.clients,
            id: client.id,
        };
        connection::run(
            stream,
            Arc::clone(&self.shared),
            Arc::clone(&self.backend),
            client,
            caller,
        )
        .await;
    }

    /// Looks for idle and stalled connections as if a second had passed. Returns how
    /// many were ended.
    pub fn sweep(&self) -> u64 {
        sweep_once(&self.shared)
    }

    /// Lets every connection answer what it took and end.
    pub fn drain(&self) {
        self.shared.clients.end(Fate::Drains);
    }

    /// Lets every connection end once its client asks for nothing more here.
    pub fn leave(&self) {
        self.shared.clients.end(Fate::Leaves);
    }
}

/// Strikes a connection from the list however it ends.
struct Listed<'a> {
    clients: &'a Clients,
    id: u64,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        self.clients.close(self.id);
    }
}

impl<B: Backend> ConnectionHandler for Server<B> {
    async fn handle<S>(self: Arc<Self>, stream: S, ends: Ends)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        self.connection(stream, ends).await;
    }

    fn refusal(&self) -> &'static [u8] {
        words::TOO_MANY_CLIENTS
    }
}

fn sweep_once(shared: &Shared) -> u64 {
    let ticks = |timeout: Duration| u32::try_from(timeout.as_secs().max(1)).unwrap_or(u32::MAX);
    let ended = shared.clients.sweep(
        shared.config.idle_timeout.map(ticks),
        ticks(shared.config.stall_timeout),
    );
    shared.counts.add(Count::TimedOut, ended);
    ended
}

/// Sweeps and publishes counts once a second; tells connections of a shutdown.
async fn sweep(shared: Arc<Shared>, shutdown: CancellationToken, ended: CancellationToken) {
    let gauges = Gauges::new();
    let mut clock = interval(SWEEP);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut commands = shared.counts.total(Count::Commands);
    let linger = LINGER_MAX.min(shared.config.drain_timeout / 2);
    let mut leaving = false;
    let mut drain = pin!(async {
        shutdown.cancelled().await;
        sleep(linger).await;
    });
    let mut draining = false;
    loop {
        tokio::select! {
            () = ended.cancelled() => break,
            () = shutdown.cancelled(), if !leaving => {
                leaving = true;
                shared.clients.end(Fate::Leaves);
            }
            () = &mut drain, if !draining => {
                draining = true;
                shared.clients.end(Fate::Drains);
            }
            _ = clock.tick() => {
                sweep_once(&shared);
                let now = shared.counts.total(Count::Commands);
                shared
                    .counts
                    .commands_per_second
                    .store(now.saturating_sub(commands), Ordering::Relaxed);
                commands = now;
                gauges.publish(&shared);
            }
        }
    }
    gauges.publish(&shared);
}

/// The metrics of the listener: totals that are copied once a second, so that a
/// command costs no more than an addition.
struct Gauges {
    clients: metrics::Gauge,
    totals: [(Count, metrics::Counter); 8],
}

impl Gauges {
    fn new() -> Self {
        Self {
            clients: metrics::gauge!("cairn_resp_connections"),
            totals: [
                (
                    Count::Commands,
                    metrics::counter!("cairn_resp_commands_total"),
                ),
                (Count::Errors, metrics::counter!("cairn_resp_errors_total")),
                (
                    Count::InputBytes,
                    metrics::counter!("cairn_resp_received_bytes_total"),
                ),
                (
                    Count::OutputBytes,
                    metrics::counter!("cairn_resp_sent_bytes_total"),
                ),
                (Count::Hits, metrics::counter!("cairn_resp_hits_total")),
                (Count::Misses, metrics::counter!("cairn_resp_misses_total")),
                (
                    Count::TimedOut,
                    metrics::counter!("cairn_resp_timeouts_total"),
                ),
                (Count::Held, metrics::counter!("cairn_resp_held_total")),
            ],
        }
    }

    fn publish(&self, shared: &Shared) {
        self.clients.set(shared.clients.len() as f64);
        for (count, counter) in &self.totals {
            counter.absolute(shared.counts.total(*count));
        }
    }
}
