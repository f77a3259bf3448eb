//! gRPC over the connections of a listener.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tracing::debug;

use super::authenticate::AuthenticateLayer;
use super::intake::IntakeLayer;
use super::patience::Patience;
use crate::budget::Budget;
use crate::listener::{self, Accept, ConnectionHandler, Ends, ListenerConfig};
use crate::users::{Origin, Users};

/// How gRPC is spoken on a port, beyond what [`ListenerConfig`] says of its
/// connections.
#[derive(Clone, Debug)]
pub struct ServeConfig {
    /// The most calls at a time on one connection.
    pub streams_max: u32,
    /// How far a caller may send ahead on one call, in bytes.
    pub stream_window: u32,
    /// How far a caller may send ahead on one connection, in bytes.
    pub connection_window: u32,
    /// How often an idle connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered.
    pub keepalive_timeout: Duration,
    /// How long a call may take to be sent and to be answered, where that is bounded;
    /// of a call that is answered by a stream, how long until the stream begins.
    pub call_timeout: Option<Duration>,
    /// Who may call.
    pub users: Users,
    /// What callers may make the node hold; `None` where callers are trusted.
    pub intake: Option<IntakeConfig>,
}

/// What callers may make the node hold of messages that come in and of answers that go
/// out.
#[derive(Clone, Debug)]
pub struct IntakeConfig {
    /// Room for long messages, of all connections together.
    pub room: Budget,
    /// The most of it that one connection may take, in bytes.
    pub connection_bytes: usize,
    /// The most that the answers on one connection may hold until they are taken, in
    /// bytes.
    pub answer_bytes: usize,
    /// How long a message may take to come once it was begun, and for how long a client
    /// may take nothing of its answers.
    pub stall_timeout: Duration,
}

impl Default for IntakeConfig {
    fn default() -> Self {
        Self {
            room: Budget::new(512 << 20),
            connection_bytes: 2 * cairn_proto::limits::CLIENT_MESSAGE_BYTES,
            answer_bytes: 2 * cairn_proto::limits::CLIENT_MESSAGE_BYTES,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for ServeConfig {
    fn default() -> Self {
        Self {
            streams_max: 1024,
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            keepalive_interval: Duration::from_secs(5),
            keepalive_timeout: Duration::from_secs(5),
            call_timeout: None,
            users: Users::open(),
            intake: None,
        }
    }
}

impl ServeConfig {
    /// For clients, of which there are many, and any of which may be hostile.
    #[must_use]
    pub fn for_clients() -> Self {
        const STREAMS: u32 = 64;
        const STREAM_WINDOW: u32 = 128 << 10;
        Self {
            streams_max: STREAMS,
            stream_window: STREAM_WINDOW,
            // Enough for every call's window: calls that are not read, because they wait
            // for room, must not keep the connection from bringing those that have some.
            connection_window: STREAMS * STREAM_WINDOW,
            call_timeout: Some(Duration::from_secs(10)),
            intake: Some(IntakeConfig::default()),
            ..Self::default()
        }
    }
}

/// How many calls that the client reset, or was reset for, may be remembered at a time.
/// One more ends the connection: it is an attack that opens calls to reset them.
const RESETS_MAX: usize = 64;
/// The most bytes of headers that one request may have.
const HEADER_BYTES_MAX: u32 = 16 << 10;

/// Serves `routes` on a listener until `shutdown`, then lets calls finish within the
/// listener's drain bound. Streams that would never end are to end with `shutdown`
/// by themselves.
///
/// # Errors
/// As [`listener::serve`].
pub async fn serve<L: Accept>(
    listener: L,
    routes: Routes,
    config: ServeConfig,
    connections: ListenerConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let handler = Arc::new(Grpc {
        routes: routes.prepare(),
        config,
        listener: connections.name,
        shutdown: shutdown.clone(),
    });
    listener::serve(listener, handler, connections, shutdown).await
}

struct Grpc {
    routes: Routes,
    config: ServeConfig,
    /// The listener's word in the metrics.
    listener: &'static str,
    shutdown: CancellationToken,
}

impl ConnectionHandler for Grpc {
    async fn handle<S>(self: Arc<Self>, stream: S, ends: Ends)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (closed, cut) = (CancellationToken::new(), CancellationToken::new());
        let intake = self.config.intake.clone().map(|config| {
            let patience = Patience::new(config.stall_timeout);
            (config, patience)
        });
        let patience = intake.as_ref().map(|(_, patience)| patience.clone());
        let connection = Connection {
            stream,
            ends,
            patience: patience.clone(),
            cut: Box::pin(cut.clone().cancelled_owned()),
            _closed: closed.clone().drop_guard(),
        };
        let watched = async {
            if let Some(patience) = patience {
                patience.watch().await;
                debug!(remote = %ends.remote, "a gRPC connection takes none of its answers");
                cut.cancel();
            }
            std::future::pending::<()>().await;
        };
        // The stream of connections must not end before this one does: its end
        // would ask the connection to finish.
        let connections = futures::stream::once(async { Ok::<_, io::Error>(connection) })
            .chain(futures::stream::pending());
        let ended = async {
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = closed.cancelled() => {}
            }
        };
        let ServeConfig {
            streams_max,
            stream_window,
            connection_window,
            keepalive_interval,
            keepalive_timeout,
            call_timeout,
            users,
            intake: _,
        } = self.config.clone();
        let mut server = Server::builder();
        if let Some(within) = call_timeout {
            server = server.timeout(within);
        }
        let served = server
            .max_concurrent_streams(streams_max)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .http2_keepalive_interval(Some(keepalive_interval))
            .http2_keepalive_timeout(Some(keepalive_timeout))
            .http2_max_header_list_size(HEADER_BYTES_MAX)
            .http2_max_pending_accept_reset_streams(Some(RESETS_MAX))
            .http2_max_local_error_reset_streams(Some(RESETS_MAX))
            .layer(AuthenticateLayer {
                users,
                origin: Origin {
                    listener: self.listener,
                    address: ends.remote.ip(),
                },
            })
            .layer(IntakeLayer::new(intake))
            .add_routes(self.routes.clone())
            .serve_with_incoming_shutdown(connections, ended);
        let served = tokio::select! {
            served = served => served,
            () = watched => Ok(()),
        };
        if let Err(error) = served {
            debug!(%error, remote = %ends.remote, "serve gRPC connection");
        }
    }

    fn refusal(&self) -> &'static [u8] {
        // There are no words before HTTP/2's preface: the close says it.
        b""
    }
}

/// A connection that says when it was dropped and how writing to it goes, and that can be
/// cut off.
struct Connection<S> {
    stream: S,
    ends: Ends,
    patience: Option<Patience>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _closed: DropGuard,
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Ends;

    fn connect_info(&self) -> Ends {
        self.ends
    }
}

impl<S> Connection<S> {
    /// Fails once the connection was cut off. The transport reads or writes at any time, and
    /// is woken by either.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        if let Some(patience) = &self.patience {
            patience.wrote(&result);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.wrote(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
