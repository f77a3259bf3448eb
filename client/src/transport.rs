//! Dialling: TCP with or without TLS, under gRPC's HTTP/2. Nodes dial each other
//! with it too.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures::FutureExt;
use futures::future::select_ok;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderValue, Request, Response, Uri};
use tonic::transport::Endpoint;

use cairn_core::record::{Addresses, NodeStanding};

use crate::topology::SharedMap;

/// Gives the TLS configuration for each new connection, so that certificates that
/// were reloaded serve from the next connection on.
pub type TlsSource = Arc<dyn Fn() -> Arc<rustls::ClientConfig> + Send + Sync>;

/// What a connection's bytes travel on.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// A [`ByteStream`] on its way.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;

/// Connects to a host and port by other means than TCP, such as a simulated network.
pub type ConnectSource = Arc<dyn Fn(&str, u16) -> Connecting + Send + Sync>;

/// Says at which IP address `host:port` is at present, where that is known better than by
/// resolving the host, whose answers may be as old as a resolver's cache.
pub type LocateSource = Arc<dyn Fn(&str) -> Option<IpAddr> + Send + Sync>;

/// How much earlier the address that is known is tried than the one that the name resolves to.
const HEAD_START: Duration = Duration::from_millis(100);

/// Where each side's flow control begins: enough for a batch of large values.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// What a user is known by: a token, or a name and a password. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    header: HeaderValue,
}

impl Credential {
    /// A token. `None` where it holds what no header may, such as a line's end.
    #[must_use]
    pub fn token(token: &str) -> Option<Self> {
        Self::new(format!("Bearer {token}"))
    }

    /// A user's name and password. `None` where the name holds a colon.
    #[must_use]
    pub fn password(user: &str, password: &str) -> Option<Self> {
        let encoded = BASE64.encode(format!("{user}:{password}"));
        (!user.contains(':')).then(|| Self::new(format!("Basic {encoded}")))?
    }

    fn new(text: String) -> Option<Self> {
        let mut header = HeaderValue::try_from(text).ok()?;
        // Keeps it out of logs, and of the tables that HTTP/2 compresses headers with.
        header.set_sensitive(true);
        Some(Self { header })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(..)")
    }
}

/// A connection to one node that sends the credential with each call.
#[derive(Clone, Debug)]
pub struct Channel {
    inner: tonic::transport::Channel,
    header: Option<HeaderValue>,
}

impl tower::Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = tonic::transport::channel::ResponseFuture;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower::Service::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(header) = &self.header {
            request.headers_mut().insert(AUTHORIZATION, header.clone());
        }
        tower::Service::call(&mut self.inner, request)
    }
}

/// How connections are made.
#[derive(Clone)]
pub struct Dialer {
    /// How long a connection, its TLS handshake included, may take.
    pub connect_timeout: Duration,
    /// How often an idle connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may go unanswered before the connection counts as lost.
    pub keepalive_timeout: Duration,
    /// TLS, where it is wanted.
    pub tls: Option<TlsSource>,
    /// Who calls, where the cluster has users.
    pub credential: Option<Credential>,
    /// What connects in the place of TCP, where something does.
    pub connect: Option<ConnectSource>,
    /// What knows where hosts are besides a resolver, where something does.
    pub locate: Option<LocateSource>,
}

impl Default for Dialer {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_millis(500),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(2),
            tls: None,
            credential: None,
            connect: None,
            locate: None,
        }
    }
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connect_timeout,
            keepalive_interval,
            keepalive_timeout,
            tls,
            credential,
            connect,
            locate,
        } = self;
        f.debug_struct("Dialer")
            .field("connect_timeout", connect_timeout)
            .field("keepalive_interval", keepalive_interval)
            .field("keepalive_timeout", keepalive_timeout)
            .field("tls", &tls.is_some())
            .field("credential", credential)
            .field("tcp", &connect.is_none())
            .field("locates", &locate.is_some())
            .finish()
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The text cannot be an address.
    #[error("`{address}` is not of the form host:port")]
    Address {
        /// The text.
        address: String,
    },
    /// The connection was refused or broke.
    #[error("connect to {address}: {reason}")]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        reason: String,
    },
    /// There was no answer in time.
    #[error("connect to {address}: no answer within {after:?}")]
    Timeout {
        /// Where to.
        address: String,
        /// How long it took.
        after: Duration,
    },
}

impl Dialer {
    fn endpoint(&self, address: &str) -> Result<Endpoint, DialError> {
        let bad = || DialError::Address {
            address: address.to_owned(),
        };
        // A bare `host:port` is what every setting and every map holds.
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(bad());
        }
        Ok(Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| bad())?
            .http2_keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW))
    }

    fn connector(&self, at: Option<IpAddr>) -> Connector {
        Connector {
            tls: self.tls.clone(),
            connect: self.connect.clone(),
            at,
            locate: self.locate.clone(),
            timeout: self.connect_timeout,
        }
    }

    /// The same for nodes that are in a map: it says where each is by now.
    #[must_use]
    pub fn following(self, map: SharedMap) -> Self {
        let locate = move |address: &str| {
            if address.parse::<SocketAddr>().is_ok() {
                // It is no name: there is nothing to be known better.
                return None;
            }
            let map = map.load();
            let members = || {
                let nodes = map.nodes.values();
                let members = nodes.filter(|node| node.standing == NodeStanding::Member);
                members.map(|node| &node.addresses)
            };
            let of = members().find(|of| of.client == address || of.peer == address)?;
            // Of two that say that they are there one has been told wrong, or moved.
            let is_taken = |other: &Addresses| {
                let same = |a: &str, b: &str| port_of(a) == port_of(b);
                other.ip == of.ip
                    && (same(&other.client, &of.client) || same(&other.peer, &of.peer))
            };
            of.ip
                .filter(|_| members().filter(|other| is_taken(other)).count() == 1)
        };
        Self {
            locate: Some(Arc::new(locate)),
            ..self
        }
    }

    /// Makes a connection now.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, address: &str) -> Result<Channel, DialError> {
        self.dial_at(address, None).await
    }

    /// Makes a connection now; where `at` is given, to whoever has that IP address at present,
    /// under the name and to the port of `address`: a certificate has to be one for that name.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial_at(&self, address: &str, at: Option<IpAddr>) -> Result<Channel, DialError> {
        let endpoint = self.endpoint(address)?;
        let address = || match at {
            None => address.to_owned(),
            Some(at) => format!("{address} at {at}"),
        };
        let connecting = endpoint.connect_with_connector(self.connector(at));
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(channel)) => Ok(self.authorized(channel)),
            Ok(Err(error)) => Err(DialError::Connect {
                address: address(),
                reason: innermost(&error),
            }),
            Err(_) => Err(DialError::Timeout {
                address: address(),
                after: self.connect_timeout,
            }),
        }
    }

    /// Makes a connection when it is first used, and again whenever it broke.
    ///
    /// # Errors
    /// [`DialError::Address`].
    pub fn lazy(&self, address: &str) -> Result<Channel, DialError> {
        let endpoint = self.endpoint(address)?;
        Ok(self.authorized(endpoint.connect_with_connector_lazy(self.connector(None))))
    }

    fn authorized(&self, inner: tonic::transport::Channel) -> Channel {
        let header = self.credential.as_ref().map(|own| own.header.clone());
        Channel { inner, header }
    }
}

fn port_of(address: &str) -> Option<&str> {
    address.rsplit_once(':').map(|(_, port)| port)
}

/// The first cause: what the layers above it say is only where it happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

type Plain = Either<TcpStream, Box<dyn ByteStream>>;
type Stream = TokioIo<Either<Plain, TlsStream<Plain>>>;

#[derive(Clone)]
struct Connector {
    tls: Option<TlsSource>,
    connect: Option<ConnectSource>,
    /// Where the host is to be, whatever its name stands for.
    at: Option<IpAddr>,
    locate: Option<LocateSource>,
    timeout: Duration,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            tokio::time::timeout(connector.timeout, connector.connect(uri))
                .await
                .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what.to_owned())
}

impl Connector {
    fn located(&self, address: &str) -> Option<IpAddr> {
        self.locate.as_ref().and_then(|locate| locate(address))
    }

    async fn open(&self, host: &str, port: u16) -> io::Result<Plain> {
        match &self.connect {
            None => {
                let stream = TcpStream::connect((host, port)).await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Some(connect) => Ok(Either::Right(connect(host, port).await?)),
        }
    }

    async fn connect(self, uri: Uri) -> io::Result<Stream> {
        let host = uri.host().ok_or_else(|| invalid("no host"))?;
        // IPv6 addresses stand in brackets in a URI and without them elsewhere.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().ok_or_else(|| invalid("no port"))?;
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        match (self.at, self.located(authority)) {
            (Some(at), _) => self.establish(&at.to_string(), port, host).await,
            (None, None) => self.establish(host, port, host).await,
            (None, Some(at)) => {
                let at = at.to_string();
                let known = self.establish(&at, port, host).boxed();
                let resolved = async {
                    tokio::time::sleep(HEAD_START).await;
                    self.establish(host, port, host).await
                };
                // Whoever is not the one that is meant fails for want of its certificate.
                Ok(select_ok([known, resolved.boxed()]).await?.0)
            }
        }
    }

    /// Connects to a host, which has to be the one of that name where TLS is spoken.
    async fn establish(&self, host: &str, port: u16, name: &str) -> io::Result<Stream> {
        let stream = self.open(host, port).await?;
        let Some(source) = &self.tls else {
            return Ok(TokioIo::new(Either::Left(stream)));
        };
        let name = ServerName::try_from(name.to_owned()).map_err(|_| invalid("no server name"))?;
        let stream = TlsConnector::from(source()).connect(name, stream).await?;
        Ok(TokioIo::new(Either::Right(stream)))
    }
}

#[cfg(test)]
#[path = "transport_tests.rs"]
mod tests;
