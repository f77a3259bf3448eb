//! A small Redis Cluster client whose every outcome is known for what it is:
//! acknowledged, refused before anything was done, or unknown.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cairn_core::slots;
use rustls::ClientConfig;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::access::Access;
use crate::cluster::Target;

const BULK_MAX: usize = 64 << 20;
const ITEMS_MAX: usize = 1 << 20;
const DEPTH_MAX: usize = 8;

/// A reply of RESP2.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `+`
    Simple(String),
    /// `-`
    Error(String),
    /// `:`
    Integer(i64),
    /// `$`, absent for null.
    Bulk(Option<Vec<u8>>),
    /// `*`
    Array(Vec<Reply>),
}

impl Reply {
    /// The text of a simple or bulk string.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Simple(text) => Some(text.clone()),
            Self::Bulk(Some(bytes)) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }
}

/// Why there is no answer that settles a request.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unanswered {
    /// Nothing was done: it was never sent, or the node said so.
    #[error("refused: {0}")]
    Refused(String),
    /// It may have been done, and may still.
    #[error("unknown: {0}")]
    Unknown(String),
}

/// The error replies by which a node says that it did nothing. Any other error
/// leaves a write unknown.
const NOTHING_DONE: [&str; 9] = [
    "MOVED ",
    "ASK ",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "LOADING",
    "MASTERDOWN",
    "OOM",
    "BUSY",
    "MISCONF",
];

fn nothing_done(error: &str) -> bool {
    NOTHING_DONE.iter().any(|prefix| error.starts_with(prefix))
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufStream<Either<TcpStream, TlsStream<TcpStream>>>,
}

impl Connection {
    /// Connects, within `bound`.
    ///
    /// # Errors
    /// Where nobody accepts in time.
    pub async fn open(address: &str, bound: Duration) -> Result<Self> {
        let stream = timeout(bound, TcpStream::connect(address))
            .await
            .context("connect: out of time")??;
        stream.set_nodelay(true)?;
        Ok(Self::accepted(stream))
    }

    /// Connects over TLS, within `bound`.
    ///
    /// # Errors
    /// Where nobody accepts in time, or shows a certificate that is not trusted.
    pub async fn open_tls(
        address: SocketAddr,
        bound: Duration,
        config: Arc<ClientConfig>,
    ) -> Result<Self> {
        let stream = timeout(bound, async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = address.ip().into();
            TlsConnector::from(config).connect(name, stream).await
        });
        let stream = stream.await.context("connect over TLS: out of time")??;
        Ok(Self {
            stream: BufStream::new(Either::Right(stream)),
        })
    }

    /// Whether the other end has closed it, as far as that is known without asking.
    fn is_closed(&self) -> bool {
        match self.stream.get_ref() {
            // Nothing is outstanding, so that nothing is taken that somebody waits for.
            Either::Left(stream) => !stream
                .try_read(&mut [0])
                .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock),
            Either::Right(_) => false,
        }
    }

    /// The certificate that the other end showed.
    #[must_use]
    pub fn certificate(&self) -> Option<Vec<u8>> {
        match self.stream.get_ref() {
            Either::Left(_) => None,
            Either::Right(stream) => {
                let shown = stream.get_ref().1.peer_certificates()?;
                Some(shown.first()?.to_vec())
            }
        }
    }

    /// The other end of an accepted connection.
    #[must_use]
    pub fn accepted(stream: TcpStream) -> Self {
        Self {
            stream: BufStream::new(Either::Left(stream)),
        }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await?;
        Ok(())
    }

    /// Sends one command and reads its reply. After an error the connection is of
    /// no use: a late reply would be taken for the next one's.
    ///
    /// # Errors
    /// Where the connection breaks, or the answer is not RESP2.
    pub async fn call(&mut self, words: &[&[u8]]) -> Result<Reply> {
        self.send(words).await?;
        self.receive().await
    }

    /// Sends one command without waiting for its reply.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub async fn send(&mut self, words: &[&[u8]]) -> Result<()> {
        let mut frame = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            frame.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            frame.extend_from_slice(word);
            frame.extend_from_slice(b"\r\n");
        }
        self.write(&frame).await
    }

    /// Reads the reply to the first command that has none yet.
    ///
    /// # Errors
    /// Where the connection breaks, or the answer is not RESP2.
    pub async fn receive(&mut self) -> Result<Reply> {
        Box::pin(self.receive_nested(0)).await
    }

    async fn receive_nested(&mut self, depth: usize) -> Result<Reply> {
        let mut line = Vec::new();
        (&mut self.stream)
            .take(64 << 10)
            .read_until(b'\n', &mut line)
            .await?;
        ensure!(line.ends_with(b"\r\n"), "the connection was closed");
        let text = std::str::from_utf8(&line[1..line.len() - 2])?;
        Ok(match line[0] {
            b'+' => Reply::Simple(text.to_owned()),
            b'-' => Reply::Error(text.to_owned()),
            b':' => Reply::Integer(text.parse()?),
            b'$' if text == "-1" => Reply::Bulk(None),
            b'$' => {
                let length: usize = text.parse()?;
                ensure!(length <= BULK_MAX, "a bulk string of {length} bytes");
                let mut bytes = vec![0; length + 2];
                self.stream.read_exact(&mut bytes).await?;
                bytes.truncate(length);
                Reply::Bulk(Some(bytes))
            }
            b'*' if text == "-1" => Reply::Bulk(None),
            b'*' => {
                let length: usize = text.parse()?;
                ensure!(
                    length <= ITEMS_MAX && depth < DEPTH_MAX,
                    "an array of {length} at depth {depth}"
                );
                let mut items = Vec::new();
                for _ in 0..length {
                    items.push(Box::pin(self.receive_nested(depth + 1)).await?);
                }
                Reply::Array(items)
            }
            other => bail!("a reply of type {}", char::from(other)),
        })
    }
}

/// Which node leads which slot, as every client of a test has heard. Shared, so that
/// a failover is learnt once and not by 64 connections each.
#[derive(Debug)]
pub struct Routes {
    seeds: Vec<String>,
    access: Option<Access>,
    state: Mutex<RouteState>,
}

#[derive(Debug)]
struct RouteState {
    by_slot: Vec<Option<Arc<str>>>,
    refreshed: Option<Instant>,
    next_seed: usize,
}

impl Routes {
    /// Knows nothing but where to ask.
    #[must_use]
    pub fn new(seeds: Vec<String>) -> Arc<Self> {
        Self::with(seeds, None)
    }

    /// The same for whoever is let in there as the target says.
    #[must_use]
    pub fn to(target: &Target) -> Arc<Self> {
        Self::with(target.resp.clone(), target.access.clone())
    }

    fn with(seeds: Vec<String>, access: Option<Access>) -> Arc<Self> {
        Arc::new(Self {
            seeds,
            access,
            state: Mutex::new(RouteState {
                by_slot: vec![None; usize::from(slots::SLOTS)],
                refreshed: None,
                next_seed: 0,
            }),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, RouteState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who leads the slot, as far as known.
    #[must_use]
    pub fn leader(&self, slot: u16) -> Option<Arc<str>> {
        self.state().by_slot[usize::from(slot)].clone()
    }

    /// How many slots each address leads, as far as known.
    #[must_use]
    pub fn slots_by_leader(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for leader in self.state().by_slot.iter().flatten() {
            *counts.entry(leader.to_string()).or_default() += 1;
        }
        counts
    }

    fn learn(&self, slot: u16, leader: &str) {
        self.state().by_slot[usize::from(slot)] = Some(leader.into());
    }

    /// Asks one node for its view, unless somebody did within the last `pause`.
    async fn refresh(&self, pause: Duration, bound: Duration) -> Result<()> {
        let seed = {
            let mut state = self.state();
            if state.refreshed.is_some_and(|at| at.elapsed() < pause) {
                return Ok(());
            }
            state.refreshed = Some(Instant::now());
            state.next_seed = (state.next_seed + 1) % self.seeds.len();
            self.seeds[state.next_seed].clone()
        };
        let (connection, _) = self.open(&seed, bound).await?;
        let ranges = slots_over(connection, bound).await?;
        let mut state = self.state();
        for (first, last, leader) in ranges {
            let leader: Arc<str> = leader.into();
            for slot in first..=last {
                state.by_slot[usize::from(slot)] = Some(leader.clone());
            }
        }
        Ok(())
    }
}

impl Routes {
    /// Connects, and says who it is where that is asked for; with which password.
    async fn open(&self, address: &str, bound: Duration) -> Result<(Connection, String)> {
        let Some(access) = &self.access else {
            return Ok((Connection::open(address, bound).await?, String::new()));
        };
        let password = access.password()?;
        let mut connection =
            Connection::open_tls(address.parse()?, bound, access.tls(None)?).await?;
        let words: [&[u8]; 3] = [b"AUTH", access.user.as_bytes(), password.as_bytes()];
        let reply = timeout(bound, connection.call(&words))
            .await
            .context("AUTH: out of time")??;
        ensure!(reply == Reply::Simple("OK".to_owned()), "AUTH: {reply:?}");
        Ok((connection, password))
    }
}

/// `CLUSTER SLOTS` of one node: first and last slot, and the primary's address.
///
/// # Errors
/// Where the node does not answer, or not in Redis's form.
pub async fn slots_of(address: &str, bound: Duration) -> Result<Vec<(u16, u16, String)>> {
    slots_over(Connection::open(address, bound).await?, bound).await
}

async fn slots_over(
    mut connection: Connection,
    bound: Duration,
) -> Result<Vec<(u16, u16, String)>> {
    let reply = timeout(bound, connection.call(&[b"CLUSTER", b"SLOTS"]))
        .await
        .context("CLUSTER SLOTS: out of time")??;
    let Reply::Array(ranges) = reply else {
        bail!("CLUSTER SLOTS answered {reply:?}");
    };
    ranges
        .iter()
        .map(|range| match range {
            Reply::Array(parts) => match parts.as_slice() {
                [
                    Reply::Integer(first),
                    Reply::Integer(last),
                    Reply::Array(primary),
                    ..,
                ] => {
                    let [host, Reply::Integer(port), ..] = primary.as_slice() else {
                        bail!("a primary like {primary:?}");
                    };
                    let host = host.text().context("a primary without a host")?;
                    let (first, last) = (u16::try_from(*first)?, u16::try_from(*last)?);
                    ensure!(last < slots::SLOTS, "slot {last}");
                    Ok((first, last, format!("{host}:{port}")))
                }
                other => bail!("a range like {other:?}"),
            },
            other => bail!("a range like {other:?}"),
        })
        .collect()
}

/// Between two tries of what was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How patient a client is.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// For one request on one connection.
    pub request: Duration,
    /// Between two looks at the routes.
    pub refresh: Duration,
    /// For how long what was refused, with nothing done, is tried again.
    pub retry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_millis(500),
            request: Duration::from_millis(1500),
            refresh: Duration::from_millis(50),
            retry: Duration::ZERO,
        }
    }
}

/// A client with a connection of its own to each node that it needs.
#[derive(Debug)]
pub struct ClusterClient {
    routes: Arc<Routes>,
    connections: BTreeMap<Arc<str>, Kept>,
    patience: Patience,
}

/// A connection that is kept for the next request.
#[derive(Debug)]
struct Kept {
    connection: Connection,
    /// With which it was let in.
    password: String,
    /// How many requests it has carried.
    uses: u32,
}

/// After how many requests a client that is let in by files connects anew, to see what is in
/// them by now and what nodes show.
const USES_MAX: u32 = 50;

impl ClusterClient {
    /// Connects when it is first needed.
    #[must_use]
    pub fn new(routes: Arc<Routes>, patience: Patience) -> Self {
        Self {
            routes,
            connections: BTreeMap::new(),
            patience,
        }
    }

    /// Sends a command about one key to the primary, following `MOVED` a few times, and
    /// again where nothing was done, for as long as its patience lasts. Never sends anything
    /// again whose outcome is unknown.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn call(&mut self, key: &str, words: &[&[u8]]) -> Result<Reply, Unanswered> {
        let until = Instant::now() + self.patience.retry;
        loop {
            match self.call_once(key, words).await {
                Err(Unanswered::Refused(_)) if Instant::now() < until => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                answered => return answered,
            }
        }
    }

    async fn call_once(&mut self, key: &str, words: &[&[u8]]) -> Result<Reply, Unanswered> {
        let slot = slots::slot(key.as_bytes());
        let mut reason = String::from("no route");
        for _ in 0..4 {
            let Some(leader) = self.routes.leader(slot) else {
                if let Err(error) = self.refresh().await {
                    reason = format!("{error:#}");
                }
                if self.routes.leader(slot).is_none() {
                    return Err(Unanswered::Refused(reason));
                }
                continue;
            };
            match self.call_at(&leader, words).await {
                Ok(Reply::Error(text)) if text.starts_with("MOVED ") => {
                    // Where one slot went others went too. What the reply says is newer.
                    let _ = self.refresh().await;
                    if let Some(address) = text.split(' ').nth(2) {
                        self.routes.learn(slot, address);
                    }
                    reason = text;
                }
                Ok(Reply::Error(text)) if nothing_done(&text) => {
                    let _ = self.refresh().await;
                    return Err(Unanswered::Refused(text));
                }
                Ok(reply) => return Ok(reply),
                Err(error) => {
                    // Only a hint for later requests; this one is settled.
                    let _ = self.refresh().await;
                    return Err(error);
                }
            }
        }
        Err(Unanswered::Refused(reason))
    }

    async fn refresh(&self) -> Result<()> {
        self.routes
            .refresh(self.patience.refresh, self.patience.connect)
            .await
    }

    fn is_of_use(&self, kept: &Kept) -> bool {
        let is_current = |access: &Access| {
            let password = access.password();
            kept.uses < USES_MAX && password.is_ok_and(|password| password == kept.password)
        };
        !kept.connection.is_closed() && self.routes.access.as_ref().is_none_or(is_current)
    }

    /// Sends a command to one node, wherever its key may belong.
    ///
    /// # Errors
    /// See [`Unanswered`].
    pub async fn call_at(&mut self, node: &Arc<str>, words: &[&[u8]]) -> Result<Reply, Unanswered> {
        let kept = self.connections.remove(node);
        let mut kept = match kept.filter(|kept| self.is_of_use(kept)) {
            Some(kept) => kept,
            None => {
                let opened = self.routes.open(node, self.patience.connect).await;
                let (connection, password) =
                    opened.map_err(|error| Unanswered::Refused(format!("{error:#}")))?;
                Kept {
                    connection,
                    password,
                    uses: 0,
                }
            }
        };
        match timeout(self.patience.request, kept.connection.call(words)).await {
            Ok(Ok(reply)) => {
                kept.uses += 1;
                self.connections.insert(node.clone(), kept);
                Ok(reply)
            }
            Ok(Err(error)) => Err(Unanswered::Unknown(format!("{error:#}"))),
            Err(_) => Err(Unanswered::Unknown("no answer in time".to_owned())),
        }
    }
}
