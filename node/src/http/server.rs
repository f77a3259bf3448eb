//! The listener and its routes.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::health::{Health, Probe};
use super::metrics::Metrics;
use crate::listener::{self, Accept, ConnectionHandler, Ends, ListenerConfig, TlsSource};

/// The largest head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// The bounds of the HTTP listener.
#[derive(Clone)]
pub struct HttpConfig {
    /// The most connections at a time.
    pub connections_max: usize,
    /// How long a request's head may take to arrive, and how long a connection may
    /// lie idle between two requests.
    pub header_timeout: Duration,
    /// How long a response may take to be made.
    pub request_timeout: Duration,
    /// How long a client may take nothing of a response.
    pub write_timeout: Duration,
    /// How long requests may take to finish at shutdown.
    pub drain_timeout: Duration,
    /// TLS, where it is wanted.
    pub tls: Option<TlsSource>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            connections_max: 256,
            header_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(2),
            tls: None,
        }
    }
}

impl std::fmt::Debug for HttpConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            connections_max,
            header_timeout,
            request_timeout,
            write_timeout,
            drain_timeout,
            tls,
        } = self;
        f.debug_struct("HttpConfig")
            .field("connections_max", connections_max)
            .field("header_timeout", header_timeout)
            .field("request_timeout", request_timeout)
            .field("write_timeout", write_timeout)
            .field("drain_timeout", drain_timeout)
            .field("tls", &tls.is_some())
            .finish()
    }
}

/// What the HTTP listener answers from.
#[derive(Clone)]
pub struct HttpState {
    /// Whether the process is alive: a failure means that it is to be restarted.
    pub livez: Probe,
    /// Whether it can serve.
    pub readyz: Probe,
    /// The metrics of the process; `/metrics` is not found without.
    pub metrics: Option<Metrics>,
    /// Further routes, such as the coordinators' status page.
    pub routes: Option<Router>,
}

impl std::fmt::Debug for HttpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpState").finish_non_exhaustive()
    }
}

/// The routes over `state`.
fn router(state: HttpState) -> Router {
    let mut router = Router::new()
        .route("/livez", get(|State(s): State<HttpState>| probe(s.livez)))
        .route("/readyz", get(|State(s): State<HttpState>| probe(s.readyz)));
    if state.metrics.is_some() {
        router = router.route("/metrics", get(metrics));
    }
    let extra = state.routes.clone();
    let router = router.with_state(state);
    match extra {
        Some(routes) => router.merge(routes),
        None => router,
    }
}

async fn probe(probe: Probe) -> impl IntoResponse {
    let health: Health = probe();
    let status = if health.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, health.text())
}

async fn metrics(State(state): State<HttpState>) -> Response<Body> {
    let Some(metrics) = state.metrics else {
        return StatusCode::NOT_FOUND.into_response();
    };
    // Rendering may take milliseconds, which network threads have not.
    let rendered = tokio::task::spawn_blocking(move || metrics.render()).await;
    match rendered {
        Ok(text) => {
            let mut response = text.into_response();
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
            );
            response
        }
        Err(error) => {
            tracing::error!(%error, "render metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Serves until `shutdown` is cancelled, then lets the requests under way finish.
///
/// # Errors
/// Where the listener cannot be used.
pub async fn serve<L: Accept>(
    listener: L,
    state: HttpState,
    config: HttpConfig,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let listening = ListenerConfig {
        name: "http",
        connections_max: config.connections_max,
        handshake_timeout: config.header_timeout,
        drain_timeout: config.drain_timeout,
        tls: config.tls.clone(),
    };
    let handler = Arc::new(Http {
        router: router(state),
        config,
        shutdown: shutdown.clone(),
    });
    listener::serve(listener, handler, listening, shutdown).await
}

struct Http {
    router: Router,
    config: HttpConfig,
    shutdown: CancellationToken,
}

impl Http {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let answer = self.router.clone().oneshot(request.map(Body::new));
        match timeout(self.config.request_timeout, answer).await {
            Ok(response) => response,
            Err(_) => Ok(StatusCode::SERVICE_UNAVAILABLE.into_response()),
        }
    }
}

impl ConnectionHandler for Http {
    async fn handle<S>(self: Arc<Self>, stream: S, ends: Ends)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(ends);
            self.answer(request)
        });
        // A client that takes none of an answer would hold it for ever.
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(self.config.write_timeout));
        let stream = Box::pin(stream);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.config.header_timeout)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(remote = %ends.remote, %error, "HTTP connection ended");
        }
    }

    fn refusal(&self) -> &'static [u8] {
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_dropped_with_what_it_was_to_get() {
        let dropped = CancellationToken::new();
        let guard = Arc::new(dropped.clone().drop_guard());
        // The first to ask gets the one that says when it goes.
        let endless = Arc::new(parking_lot::Mutex::new(Some(guard)));
        let route = get(move || {
            let guard = endless.lock().take();
            async move {
                let pieces = std::iter::repeat_with(move || {
                    let _held = &guard;
                    Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1024]))
                });
                Body::from_stream(futures::stream::iter(pieces))
            }
        });
        let well: Probe = Arc::new(Health::default);
        let state = HttpState {
            livez: Arc::clone(&well),
            readyz: well,
            metrics: None,
            routes: Some(Router::new().route("/endless", route)),
        };
        let config = HttpConfig {
            write_timeout: Duration::from_millis(50),
            ..HttpConfig::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, state, config, shutdown.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"GET /endless HTTP/1.1\r\nhost: a\r\n\r\n";
        client.write_all(request).await.unwrap();
        timeout(Duration::from_secs(60), dropped.cancelled())
            .await
            .expect("the answer to be dropped");
        shutdown.cancel();
        serving.await.unwrap().unwrap();
    }
}
