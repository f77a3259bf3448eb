//! The bounds of the Redis listener.

use std::time::Duration;

use crate::budget::Budget;
use crate::listener::TlsSource;
use crate::users::Users;

/// How the Redis listener behaves.
#[derive(Clone)]
pub struct RespConfig {
    /// The most client connections at a time (`maxclients`).
    pub connections_max: usize,
    /// What one client may send and leave unread.
    pub limits: Limits,
    /// Room for the long commands of all connections together, while they come in and
    /// until they are answered.
    pub room: Budget,
    /// Close a connection that has sent nothing for this long (`timeout`).
    /// `None`: never, as Redis does by default.
    pub idle_timeout: Option<Duration>,
    /// Close a connection that leaves a command unfinished, or replies unread, for
    /// this long.
    pub stall_timeout: Duration,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long a request waits here for a partition that has no primary just now,
    /// before the client is told. Most failovers end within it, which spares the
    /// many clients that do not retry; it stays below the two seconds after which
    /// some of them give up.
    pub failover_hold: Duration,
    /// How long connections may take to finish what is in flight at shutdown.
    pub drain_timeout: Duration,
    /// Whether the `CLUSTER` views list replicas besides primaries.
    pub announce_replicas: bool,
    /// By what clients are told to reach a node.
    pub endpoint_type: EndpointType,
    /// TLS, where it is wanted.
    pub tls: Option<TlsSource>,
    /// Who may do what.
    pub users: Users,
}

impl Default for RespConfig {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            limits: Limits::default(),
            room: Budget::new(512 << 20),
            idle_timeout: None,
            stall_timeout: Duration::from_secs(60),
            handshake_timeout: Duration::from_secs(5),
            failover_hold: Duration::from_millis(1500),
            drain_timeout: Duration::from_secs(5),
            announce_replicas: true,
            endpoint_type: EndpointType::Address,
            tls: None,
            users: Users::open(),
        }
    }
}

impl std::fmt::Debug for RespConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            connections_max,
            limits,
            room,
            idle_timeout,
            stall_timeout,
            handshake_timeout,
            failover_hold,
            drain_timeout,
            announce_replicas,
            endpoint_type,
            tls,
            users,
        } = self;
        f.debug_struct("RespConfig")
            .field("connections_max", connections_max)
            .field("limits", limits)
            .field("room", room)
            .field("idle_timeout", idle_timeout)
            .field("stall_timeout", stall_timeout)
            .field("handshake_timeout", handshake_timeout)
            .field("failover_hold", failover_hold)
            .field("drain_timeout", drain_timeout)
            .field("announce_replicas", announce_replicas)
            .field("endpoint_type", endpoint_type)
            .field("tls", &tls.is_some())
            .field("users", users)
            .finish()
    }
}

/// By what clients are told to reach a node (`cluster-preferred-endpoint-type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndpointType {
    /// The host of its advertised address (`ip`).
    Address,
    /// Its host name.
    Hostname,
    /// Whatever they reached this node by: only the port is told (`unknown-endpoint`).
    Unknown,
}

impl EndpointType {
    /// As Redis has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Address => "ip",
            Self::Hostname => "hostname",
            Self::Unknown => "unknown-endpoint",
        }
    }
}

/// What one client may send, and leave unread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The longest key, in bytes.
    pub key_bytes: usize,
    /// The longest value, and any other argument, in bytes.
    pub value_bytes: usize,
    /// The most arguments of one command, its name included.
    pub arguments: usize,
    /// The longest command in all, in bytes.
    pub request_bytes: usize,
    /// The most keys of one command.
    pub keys: usize,
    /// The longest inline command (one without RESP framing), in bytes.
    pub inline_bytes: usize,
    /// The most commands of one connection that wait for their answer. Beyond it
    /// nothing more is read from the client.
    pub in_flight: usize,
    /// The most unread reply bytes. Beyond it nothing more is executed for the
    /// client until it reads.
    pub output_bytes: usize,
    /// The most bytes of commands of one connection that wait for their answer; a
    /// single longer one waits alone. Beyond it nothing more is executed for the client.
    pub waiting_bytes: usize,
    /// The most bytes that one reply may have.
    pub reply_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            key_bytes: 64 << 10,
            value_bytes: 16 << 20,
            arguments: 1 << 20,
            request_bytes: 32 << 20,
            keys: 65_536,
            inline_bytes: 64 << 10,
            in_flight: 1024,
            output_bytes: 1 << 20,
            waiting_bytes: 4 << 20,
            reply_bytes: 64 << 20,
        }
    }
}
