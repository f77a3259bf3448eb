//! Striped counters at a data node: whichever node a request comes to carries it out.
//!
//! What is read and written, and in which order, [`cairn_core::counters::Machine`] decides.
//! Here it is carried out: calls for partitions that this node leads by its own engine, the
//! others by the nodes that lead them, over the peer port ([`carry`], [`service`]). [`flows`]
//! are the requests of one connection that go this way, [`backend`] puts them behind the gRPC
//! and the Redis listener, and [`recount`] adds up what was added to.
//!
//! # Invariants
//! - Keys of no declared prefix take no other way than before, and cost one look at the
//!   settings.
//! - What is known of an edition is kept for [`KEPT`] at most: far less than seals are.

mod backend;
mod carry;
mod flows;
mod recount;
mod service;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use cairn_core::counters::machine::Learned;
use cairn_core::counters::{Declared, Done, Machine};
use cairn_core::ids::Position;
use cairn_core::kv::request::{RequestError, Sequenced, WriteOp, WriteOutcome, WriteReply};
use cairn_core::record::ClusterSettings;
use metrics::{Counter, counter};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

pub(crate) use backend::{Counted, StartedCount};
pub(crate) use flows::{Engine, Flows, Plain};
pub(crate) use service::CountersService;

use crate::partition::{Handle, ReadResult, WriteResult};
use crate::peer::PeerPool;
use recount::Dirty;

/// How long an edition is gone by.
const KEPT: Duration = Duration::from_secs(10);
/// Of how many counters the edition is kept.
const EDITIONS_MAX: usize = 16_384;
/// Requests for counters that are under way at a time.
const UNDER_WAY_MAX: usize = 16_384;

/// The counters. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    handle: Handle,
    peers: PeerPool,
    declared: ArcSwapOption<Parsed>,
    editions: Cache<Bytes, Arc<Known>>,
    dirty: Mutex<Dirty>,
    room: Arc<Semaphore>,
    figures: Figures,
}

/// The declarations of some settings.
#[derive(Debug)]
struct Parsed {
    of: Arc<ClusterSettings>,
    declared: Declared,
}

/// An edition, as it was learned.
#[derive(Debug)]
struct Known {
    learned: Learned,
    /// What this node has added to it since.
    own: AtomicI64,
    at: Instant,
}

#[derive(Debug)]
struct Figures {
    additions: Counter,
    reads: Counter,
    changes: Counter,
    recounts: Counter,
    carried: Counter,
    asked: Counter,
}

impl Counters {
    pub(crate) fn new(handle: Handle, peers: PeerPool) -> Self {
        Self {
            shared: Arc::new(Shared {
                handle,
                peers,
                declared: ArcSwapOption::empty(),
                editions: Cache::new(EDITIONS_MAX),
                dirty: Mutex::default(),
                room: Arc::new(Semaphore::new(UNDER_WAY_MAX)),
                figures: Figures {
                    additions: counter!("cairn_counter_additions_total"),
                    reads: counter!("cairn_counter_reads_total"),
                    changes: counter!("cairn_counter_changes_total"),
                    recounts: counter!("cairn_counter_recounts_total"),
                    carried: counter!("cairn_counter_calls_carried_total"),
                    asked: counter!("cairn_counter_calls_sent_total"),
                },
            }),
        }
    }

    /// The door to this node's partitions.
    pub(crate) fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// How many stripes a key has as a counter, if it may be one.
    pub(crate) fn stripes(&self, key: &[u8]) -> Option<u16> {
        let map = self.shared.handle.shared_map().load();
        let settings = map.settings.as_ref()?;
        if settings.counters.is_empty() {
            return None;
        }
        let parsed = self.shared.declared.load();
        if let Some(parsed) = parsed.as_ref().filter(|p| Arc::ptr_eq(&p.of, settings)) {
            return parsed.declared.stripes(key);
        }
        let declared = settings.declared_counters();
        let stripes = declared.stripes(key);
        self.shared.declared.store(Some(Arc::new(Parsed {
            of: Arc::clone(settings),
            declared,
        })));
        stripes
    }

    fn room(&self) -> Result<OwnedSemaphorePermit, RequestError> {
        Arc::clone(&self.shared.room)
            .try_acquire_owned()
            .map_err(|_| RequestError::Overloaded)
    }

    /// Adds to a counter; says what it was when it was last added up, and what this node has
    /// added to it since.
    pub(crate) async fn add(&self, key: Bytes, delta: i64, stripes: u16) -> WriteResult {
        let (learned, result) = self.add_and_learn(&key, delta, stripes).await;
        let (outcome, position) = result?;
        let WriteOutcome::Integer(total) = outcome else {
            return Ok(WriteReply { outcome, position });
        };
        let outcome = WriteOutcome::Integer(match learned {
            // The edition began with it.
            Some(learned) if total == learned.control.total => self.added(key, 0, learned),
            Some(learned) => self.added(key, delta, learned),
            None => total,
        });
        Ok(WriteReply { outcome, position })
    }

    /// For a write with a name, which goes to a stripe: which edition it is of.
    pub(crate) async fn edition(&self, key: Bytes, stripes: u16) -> WriteResult {
        let (learned, result) = self.add_and_learn(&key, 0, stripes).await;
        let (outcome, position) = result?;
        match learned {
            Some(learned) => {
                self.keep(&key, learned);
                self.is_to_be_counted(key);
                Err(RequestError::Striped(learned))
            }
            None => Ok(WriteReply { outcome, position }),
        }
    }

    async fn add_and_learn(
        &self,
        key: &Bytes,
        delta: i64,
        stripes: u16,
    ) -> (
        Option<Learned>,
        Result<(WriteOutcome, Position), RequestError>,
    ) {
        let _room = match self.room() {
            Ok(room) => room,
            Err(error) => return (None, Err(error)),
        };
        self.shared.figures.additions.increment(1);
        let cached = self.shared.editions.get(key);
        let cached = cached.filter(|known| known.at.elapsed() < KEPT);
        let cached = cached.map(|known| known.learned);
        let machine = Machine::add(key.clone(), delta, stripes, rand::random(), cached);
        let (learned, done) = self.run(machine, None).await;
        let written = match done {
            Ok(Done::Wrote { outcome, position }) => Ok((outcome, position)),
            Ok(_) => Err(RequestError::Unknown),
            Err(error) => Err(error),
        };
        if learned.is_none_or(|learned| !learned.may_be_kept()) {
            self.shared.editions.remove(key);
        }
        (learned, written)
    }

    /// Notes an addition. What the counter comes to, as far as this node knows.
    fn added(&self, key: Bytes, delta: i64, learned: Learned) -> i64 {
        let own = if learned.may_be_kept() {
            let known = self.keep(&key, learned);
            known
                .own
                .fetch_add(delta, Ordering::Relaxed)
                .wrapping_add(delta)
        } else {
            delta
        };
        self.is_to_be_counted(key);
        learned.control.total.saturating_add(own)
    }

    /// What is known of the edition, which is what was learned of it now where it is another
    /// one than before.
    fn keep(&self, key: &Bytes, learned: Learned) -> Arc<Known> {
        let editions = &self.shared.editions;
        match editions.get(key) {
            Some(known) if known.learned == learned && known.at.elapsed() < KEPT => known,
            _ => {
                let known = Arc::new(Known {
                    learned,
                    own: AtomicI64::new(0),
                    at: Instant::now(),
                });
                // The key may share a connection's buffer.
                let key = Bytes::copy_from_slice(key);
                editions.insert(key, Arc::clone(&known));
                known
            }
        }
    }

    /// Something was added: the counter is to be added up, or striped where it is none yet.
    fn is_to_be_counted(&self, key: Bytes) {
        self.shared.dirty.lock().add(key);
    }

    /// Reads a key that may be a counter, as it is now.
    pub(crate) async fn read(&self, key: Bytes, stripes: u16) -> ReadResult {
        let _room = self.room()?;
        self.shared.figures.reads.increment(1);
        let machine = Machine::read(key, stripes, rand::random());
        match self.run(machine, None).await.1? {
            Done::Read(found) => Ok(found),
            _ => Err(RequestError::Unknown),
        }
    }

    /// Sets, deletes or expires a key that may be a counter.
    pub(crate) async fn change(
        &self,
        key: Bytes,
        op: WriteOp,
        stripes: u16,
        name: Option<Sequenced>,
    ) -> WriteResult {
        let _room = self.room()?;
        self.shared.figures.changes.increment(1);
        self.shared.editions.remove(&key);
        let machine = Machine::change(key, op, stripes, rand::random());
        match self.run(machine, name).await.1? {
            Done::Wrote { outcome, position } => Ok(WriteReply { outcome, position }),
            _ => Err(RequestError::Unknown),
        }
    }
}
