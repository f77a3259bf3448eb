//! What all connections of the Redis listener share: settings, the map as clients
//! see it, the list of clients, and counts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use cairn_core::record::ClusterMap;
use futures::task::AtomicWaker;
use parking_lot::Mutex;

use super::backend::Facts;
use super::config::{EndpointType, RespConfig};
use super::topology::Topology;
use crate::listener::Ends;
use crate::side::Side;
use crate::tracking::Mail;

/// What all connections share.
pub(crate) struct Shared {
    pub(crate) config: RespConfig,
    pub(crate) facts: Arc<dyn Facts>,
    /// Those of both sides.
    pub(crate) clients: Arc<Clients>,
    /// Those of both sides.
    pub(crate) counts: Arc<Counts>,
    pub(crate) started: Instant,
    pub(crate) port: u16,
    /// From which side its clients come.
    pub(crate) side: Side,
    map: Arc<ArcSwap<ClusterMap>>,
    topology: ArcSwapOption<Topology>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub(crate) fn new(
        config: RespConfig,
        facts: Arc<dyn Facts>,
        map: Arc<ArcSwap<ClusterMap>>,
        port: u16,
    ) -> Self {
        Self {
            config,
            facts,
            clients: Arc::default(),
            counts: Arc::default(),
            started: Instant::now(),
            port,
            side: Side::Inside,
            map,
            topology: ArcSwapOption::empty(),
        }
    }

    /// The same for clients from outside, on a port of their own. Their addresses are told
    /// as they are: a host name of the inside is of no use to them.
    pub(crate) fn outside(&self, port: u16) -> Self {
        Self {
            config: RespConfig {
                endpoint_type: EndpointType::Address,
                ..self.config.clone()
            },
            facts: Arc::clone(&self.facts),
            clients: Arc::clone(&self.clients),
            counts: Arc::clone(&self.counts),
            started: self.started,
            port,
            side: Side::Outside,
            map: Arc::clone(&self.map),
            topology: ArcSwapOption::empty(),
        }
    }

    /// The newest map.
    pub(crate) fn map(&self) -> arc_swap::Guard<Arc<ClusterMap>> {
        self.map.load()
    }

    /// The view of the newest map.
    pub(crate) fn topology(&self) -> Arc<Topology> {
        let map = self.map.load();
        let here = self.facts.node();
        let cached = self.topology.load();
        if let Some(view) = cached.as_ref().filter(|view| view.is_of(&map, here)) {
            return Arc::clone(view);
        }
        let view = Arc::new(Topology::new(
            Arc::clone(&map),
            (here, self.side),
            self.config.announce_replicas,
            self.config.endpoint_type,
            cached.as_deref(),
        ));
        // Another task may store the view of an older map after this one: it is made
        // anew then.
        self.topology.store(Some(Arc::clone(&view)));
        view
    }
}

/// What is counted, for `INFO` and the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Count {
    Connections,
    Commands,
    Errors,
    InputBytes,
    OutputBytes,
    Hits,
    Misses,
    /// Connections closed because they were idle or stalled.
    TimedOut,
    /// Requests that waited here for a partition without a primary.
    Held,
}

const COUNTS: usize = Count::Held as usize + 1;

/// What was counted since the process started.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    totals: [AtomicU64; COUNTS],
    /// What `INFO` subtracts: the totals when a client reset them.
    reset_at: [AtomicU64; COUNTS],
    /// Commands in the last full second.
    pub(crate) commands_per_second: AtomicU64,
}

impl Counts {
    /// Counts.
    pub(crate) fn add(&self, what: Count, by: u64) {
        if by > 0 {
            self.totals[what as usize].fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Since the process started.
    pub(crate) fn total(&self, what: Count) -> u64 {
        self.totals[what as usize].load(Ordering::Relaxed)
    }

    /// Since a client reset them.
    pub(crate) fn since_reset(&self, what: Count) -> u64 {
        self.total(what)
            .saturating_sub(self.reset_at[what as usize].load(Ordering::Relaxed))
    }

    /// `CONFIG RESETSTAT`.
    pub(crate) fn reset(&self) {
        for (total, at) in self.totals.iter().zip(&self.reset_at) {
            at.store(total.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

/// Why a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Fate {
    /// It goes on.
    Lives = 0,
    /// The node stops: end once the client asks for nothing more here. It is told of a
    /// better place by every answer, and what it sent before it knew is answered too.
    Leaves = 1,
    /// Finish what is in flight.
    Drains = 2,
    /// It ends now.
    Killed = 3,
}

impl Fate {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Lives,
            1 => Self::Leaves,
            2 => Self::Drains,
            _ => Self::Killed,
        }
    }
}

/// The open connections.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Client>>>,
    /// Counted up by [`Clients::sweep`]: the clock of idle and stalled clients.
    tick: AtomicU32,
    /// The [`Fate`] of those that are yet to come.
    fate: AtomicU8,
}

/// What others may know of a connection, and do to it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) ends: Ends,
    pub(crate) since: Instant,
    pub(crate) waker: Arc<AtomicWaker>,
    /// What it is told of keys that it keeps.
    pub(crate) mail: Arc<Mail>,
    /// What others were told who have it redirected here.
    pub(crate) redirected: Arc<Mail>,
    fate: AtomicU8,
    /// The tick of its last command.
    active: AtomicU32,
    /// The tick since which it owes bytes of a command or leaves replies unread, and
    /// has hardly moved; `u32::MAX`: it does not.
    stalled: AtomicU32,
    pub(crate) about: Mutex<About>,
}

/// What a client said of itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct About {
    pub(crate) name: String,
    /// Who logged in.
    pub(crate) user: String,
    pub(crate) library: String,
    pub(crate) library_version: String,
    pub(crate) resp: i64,
    pub(crate) read_only: bool,
    /// What it is told of keys that it keeps, if anything.
    pub(crate) tracking: Option<AboutTracking>,
    pub(crate) command: &'static str,
}

/// How a client is told of keys that it keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct AboutTracking {
    pub(crate) broadcast: bool,
    /// The client that is told in its place.
    pub(crate) redirect: Option<u64>,
    /// That one is gone.
    pub(crate) is_broken: bool,
}

const NOT_STALLED: u32 = u32::MAX;

impl Clients {
    /// Lists a new connection.
    pub(crate) fn open(&self, ends: Ends, user: &str) -> Arc<Client> {
        let tick = self.tick.load(Ordering::Relaxed);
        let waker = Arc::new(AtomicWaker::new());
        let client = Arc::new(Client {
            mail: Arc::new(Mail::new(Arc::clone(&waker))),
            redirected: Arc::new(Mail::new(Arc::clone(&waker))),
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            ends,
            since: Instant::now(),
            waker,
            fate: AtomicU8::new(Fate::Lives as u8),
            active: AtomicU32::new(tick),
            stalled: AtomicU32::new(NOT_STALLED),
            about: Mutex::new(About {
                user: user.to_owned(),
                resp: 2,
                command: "NULL",
                ..About::default()
            }),
        });
        self.open.lock().insert(client.id, Arc::clone(&client));
        // Looked at after it was listed: either the end sees it there, or it sees the
        // end here.
        client.doom(Fate::of(self.fate.load(Ordering::SeqCst)));
        client
    }

    /// Strikes a connection from the list.
    pub(crate) fn close(&self, id: u64) {
        self.open.lock().remove(&id);
    }

    /// The open connection of that number.
    pub(crate) fn find(&self, id: u64) -> Option<Arc<Client>> {
        self.open.lock().get(&id).cloned()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// All, by number.
    pub(crate) fn list(&self) -> Vec<Arc<Client>> {
        self.open.lock().values().cloned().collect()
    }

    /// The clock of [`Client::active`] and [`Client::stalled`].
    pub(crate) fn tick(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// Tells every connection how to end, those that are yet to come too.
    pub(crate) fn end(&self, fate: Fate) {
        self.fate.fetch_max(fate as u8, Ordering::SeqCst);
        for client in self.list() {
            client.doom(fate);
        }
    }

    /// Advances the clock by one, and ends connections that were idle or stalled for
    /// so many ticks. Returns how many.
    pub(crate) fn sweep(&self, idle_ticks: Option<u32>, stall_ticks: u32) -> u64 {
        let now = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
        let mut ended = 0;
        for client in self.list() {
            let stalled = client.stalled.load(Ordering::Relaxed);
            let stalled = stalled != NOT_STALLED && now.saturating_sub(stalled) > stall_ticks;
            let active = client.active.load(Ordering::Relaxed);
            let idle = idle_ticks.is_some_and(|ticks| now.saturating_sub(active) > ticks);
            if (stalled || idle) && client.doom(Fate::Killed) {
                ended += 1;
            }
        }
        ended
    }
}

impl Client {
    /// Ends it; whether this call was the first to say so.
    pub(crate) fn doom(&self, fate: Fate) -> bool {
        let before = self.fate.fetch_max(fate as u8, Ordering::SeqCst);
        self.waker.wake();
        before < fate as u8
    }

    /// What is to become of it.
    pub(crate) fn fate(&self) -> Fate {
        Fate::of(self.fate.load(Ordering::SeqCst))
    }

    /// It sent a command.
    pub(crate) fn touch(&self, tick: u32) {
        self.active.store(tick, Ordering::Relaxed);
    }

    /// Ticks since its last command.
    pub(crate) fn idle_ticks(&self, now: u32) -> u32 {
        now.saturating_sub(self.active.load(Ordering::Relaxed))
    }

    /// It has begun to stall at that tick, or does not.
    pub(crate) fn stall(&self, since: Option<u32>) {
        self.stalled
            .store(since.unwrap_or(NOT_STALLED), Ordering::Relaxed);
    }
}
