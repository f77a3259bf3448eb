//! The client: routes calls by the map, and tries them again.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::transport::Channel;
use bytes::Bytes;
use cairn_core::ids::{Epoch, MapVersion, PartitionId, Position};
use cairn_core::kv::request::{
    Condition, Expiry, ReadLevel, Sequenced, Value, WriteLevel, WriteOp, WriteOutcome, WriteReply,
    WriteRequest,
};
use cairn_core::record::{ClusterMap, PartitionRecord};
use cairn_core::slots;
use cairn_proto::batch::check_operations;
use cairn_proto::kv::{Consistency, KvError, ReadRequest};
use cairn_proto::levels::{LeveledWrite, ReplicaState};
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::answer::{checked, final_refusal, invalid, wait_out, write_reply};
use crate::batch::{Batch, BatchOutcome};
use crate::connection::{Connection, Routed, Why};
use crate::counter::{Editions, Written};
use crate::error::Error;
use crate::known::Known;
use crate::load;
use crate::near::Near;
use crate::options::Options;
use crate::stats::{Counters, Stats, count};
use crate::topology::{SharedMap, Topology};
use crate::transport::DialError;

/// A client of one cluster. Clones share everything; calls may be made from any
/// number of tasks at once.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    id: Uuid,
    pub(crate) options: Options,
    pub(crate) topology: Arc<Topology>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) near: Near,
    known: Known,
    pub(crate) editions: Editions,
    next_sequence: AtomicU64,
    counters: Arc<Counters>,
    _shutdown: DropGuard,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("id", &self.inner.id)
            .field("map", &self.inner.topology.map().version)
            .finish_non_exhaustive()
    }
}

/// How a key is put.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PutOptions {
    /// When it may be.
    pub condition: Condition,
    /// When the key expires.
    pub expiry: Expiry,
    /// Whether the value before is wanted.
    pub return_previous: bool,
    /// When it is acknowledged; as [`Options::write_level`] says, where unsaid.
    pub write_level: Option<WriteLevel>,
}

/// What came of a put.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PutOutcome {
    /// The key was set.
    Applied {
        /// Its new version.
        version: Position,
        /// The value before, where it was asked for and existed.
        previous: Option<Bytes>,
    },
    /// The condition did not hold; nothing was changed.
    ConditionFailed {
        /// The version that the key has, if it exists.
        existing: Option<Position>,
        /// Its value, where it was asked for.
        previous: Option<Bytes>,
    },
}

impl PutOutcome {
    /// Whether the key was set.
    #[must_use]
    pub fn applied(&self) -> bool {
        matches!(self, Self::Applied { .. })
    }
}

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// The value, if the key exists.
    pub value: Option<Value>,
    /// Where it was read at [`Consistency::Any`]: how current the replica was.
    pub state: Option<ReplicaState>,
}

/// What came of a conditional delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeleteOutcome {
    /// The key existed and is gone.
    Deleted,
    /// There was no such key.
    Missing,
    /// The condition did not hold; nothing was changed.
    ConditionFailed {
        /// The version that the key has, if it exists.
        existing: Option<Position>,
    },
}

impl Client {
    /// Fetches the map from one of `endpoints`, client ports of data nodes or of
    /// coordinators, and follows it from then on.
    ///
    /// # Errors
    /// [`Error::Connect`] where none of them has a map before the deadline.
    pub async fn connect<I>(endpoints: I, options: Options) -> Result<Self, Error>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        let counters = Arc::new(Counters::default());
        let shutdown = CancellationToken::new();
        let map = SharedMap::default();
        let options = Options {
            dialer: options.dialer.following(Arc::clone(&map)),
            ..options
        };
        let connections = Arc::new(Connections {
            open: Mutex::default(),
            channels: Mutex::default(),
            map: Arc::clone(&map),
            options: options.clone(),
            counters: Arc::clone(&counters),
            shutdown: shutdown.clone(),
        });
        let superseded = Arc::clone(&connections);
        let topology = Topology::new(
            endpoints,
            Box::new(options.dialer.clone()),
            map,
            Arc::clone(&counters),
            Box::new(move |changed, map| superseded.supersede(changed, map)),
        );
        topology.fetch_first(options.deadline).await?;
        tokio::spawn(Arc::clone(&topology).follow(shutdown.clone()));
        Ok(Self {
            inner: Arc::new(Inner {
                id: Uuid::new_v4(),
                near: Near::new(&options, &connections, &counters, shutdown.clone()),
                options,
                topology,
                connections,
                known: Known::default(),
                editions: Editions::default(),
                next_sequence: AtomicU64::new(1),
                counters,
                _shutdown: shutdown.drop_guard(),
            }),
        })
    }

    /// The UUID under which this client's writes are known.
    #[must_use]
    pub fn id(&self) -> Uuid {
        self.inner.id
    }

    /// The newest map.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.inner.topology.map()
    }

    /// Told of every newer map.
    #[must_use]
    pub fn map_versions(&self) -> watch::Receiver<MapVersion> {
        self.inner.topology.versions()
    }

    /// What this client counted.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.inner.counters.stats()
    }

    /// The value of a key, as current as [`Options::consistency`] says.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<Option<Value>, Error> {
        self.get_with(key, self.inner.options.consistency).await
    }

    /// The value of a key, as current as asked for.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_with(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Option<Value>, Error> {
        Ok(self.read(key, consistency).await?.value)
    }

    /// As [`Self::get_with`], and how current the value is where that is not certain.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read(
        &self,
        key: impl Into<Bytes>,
        consistency: Consistency,
    ) -> Result<Reading, Error> {
        self.inner.read(key.into(), consistency).await
    }

    /// Sets a key; returns its new version.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<Position, Error> {
        match self.put_with(key, value, PutOptions::default()).await? {
            PutOutcome::Applied { version, .. } => Ok(version),
            PutOutcome::ConditionFailed { .. } => Err(nonsense("a failed condition")),
        }
    }

    /// Sets a key if a condition holds.
    ///
    /// # Errors
    /// See [`Error`]. A condition that does not hold is an outcome, not an error.
    pub async fn put_with(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
        options: PutOptions,
    ) -> Result<PutOutcome, Error> {
        let PutOptions {
            condition,
            expiry,
            return_previous,
            write_level,
        } = options;
        let value = value.into();
        if value.len() > limits::VALUE_BYTES {
            return Err(Error::Invalid {
                field: "value".to_owned(),
                problem: format!(
                    "has {} bytes, and {} is the most",
                    value.len(),
                    limits::VALUE_BYTES
                ),
            });
        }
        let op = WriteOp::Set {
            key: key.into(),
            value,
            condition,
            expiry,
            return_previous,
        };
        let WriteReply { outcome, position } = self.inner.write(op, write_level).await?;
        match outcome {
            WriteOutcome::Set { previous } => Ok(PutOutcome::Applied {
                version: position,
                previous,
            }),
            WriteOutcome::ConditionFailed { version, previous } => {
                Ok(PutOutcome::ConditionFailed {
                    existing: version,
                    previous,
                })
            }
            other => Err(nonsense(&format!("{other:?}"))),
        }
    }

    /// Deletes a key; returns whether it existed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<bool, Error> {
        match self.delete_if(key, Condition::Always).await? {
            DeleteOutcome::Deleted => Ok(true),
            DeleteOutcome::Missing => Ok(false),
            DeleteOutcome::ConditionFailed { .. } => Err(nonsense("a failed condition")),
        }
    }

    /// Deletes a key if a condition holds.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete_if(
        &self,
        key: impl Into<Bytes>,
        condition: Condition,
    ) -> Result<DeleteOutcome, Error> {
        let op = WriteOp::Delete {
            key: key.into(),
            condition,
        };
        match self.inner.write(op, None).await?.outcome {
            WriteOutcome::Deleted { count: 0 } => Ok(DeleteOutcome::Missing),
            WriteOutcome::Deleted { .. } => Ok(DeleteOutcome::Deleted),
            WriteOutcome::ConditionFailed { version, .. } => {
                Ok(DeleteOutcome::ConditionFailed { existing: version })
            }
            other => Err(nonsense(&format!("{other:?}"))),
        }
    }

    /// Adds to a decimal integer, a missing one counting as 0; returns the sum. Of a striped
    /// counter it returns what the counter was when it was last added up, and what this
    /// client has added to it since: [`Self::get`] tells what it is.
    ///
    /// # Errors
    /// [`Error::NotAnInteger`], [`Error::Overflow`], and see [`Error`].
    pub async fn increment(&self, key: impl Into<Bytes>, delta: i64) -> Result<i64, Error> {
        match self.inner.increment(key.into(), delta).await? {
            WriteOutcome::Integer(sum) => Ok(sum),
            WriteOutcome::NotAnInteger => Err(Error::NotAnInteger),
            WriteOutcome::Overflow => Err(Error::Overflow),
            other => Err(nonsense(&format!("{other:?}"))),
        }
    }

    /// Carries out several writes of keys of one partition, all or nothing: a retry
    /// too takes effect once, as a whole.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::Invalid`] where the keys are of several partitions. A
    /// condition that does not hold is an outcome, not an error.
    pub async fn batch(&self, batch: Batch) -> Result<BatchOutcome, Error> {
        let operations = batch.into_operations();
        check_operations(&operations).map_err(|error| invalid(&error))?;
        let map = self.map();
        let mut partitions = operations
            .iter()
            .map(|o| map.partition_of_slot(slots::slot(&o.key)).map(|p| p.id));
        let first = partitions.next();
        if partitions.any(|partition| Some(partition) != first) {
            return Err(Error::Invalid {
                field: "operations".to_owned(),
                problem: KvError::CrossPartition.to_string(),
            });
        }
        let reply = self
            .inner
            .write(WriteOp::Batch { operations }, None)
            .await?;
        BatchOutcome::try_from(reply)
    }
}

/// The cluster answered something that does not answer the call.
pub(crate) fn nonsense(answer: &str) -> Error {
    Error::OutcomeUnknown {
        reason: format!("the answer does not fit the call: {answer}"),
    }
}

/// The connections, by address.
pub(crate) struct Connections {
    open: Mutex<HashMap<String, Connection>>,
    /// Of scans, which travel beside the pipelined calls.
    channels: Mutex<HashMap<String, Channel>>,
    map: SharedMap,
    options: Options,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
}

impl Connections {
    fn get(&self, address: &str) -> Connection {
        let mut open = self.open.lock();
        if let Some(connection) = open.get(address) {
            return connection.clone();
        }
        let connection = Connection::new(
            address.to_owned(),
            self.options.dialer.clone(),
            Arc::clone(&self.map),
            self.options.calls_in_flight_max,
            Arc::clone(&self.counters),
            self.shutdown.clone(),
        );
        open.insert(address.to_owned(), connection.clone());
        connection
    }

    /// A channel for calls that are not pipelined: made when it is first used, and made
    /// again whenever it broke.
    pub(crate) fn channel(&self, address: &str) -> Result<Channel, DialError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = self.options.dialer.lazy(address)?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn supersede(&self, changed: &[PartitionId], map: &ClusterMap) {
        let open: Vec<Connection> = self.open.lock().values().cloned().collect();
        for connection in open {
            connection.supersede(changed, map);
        }
    }
}

/// How long a map without a primary for the key is waited to be replaced before a voter
/// is asked.
const ORPHANED_PATIENCE: Duration = Duration::from_millis(100);

/// One call on its way through its attempts.
pub(crate) struct Trial<'a> {
    inner: &'a Inner,
    slot: u16,
    until: Instant,
    attempts: u32,
    pause: Duration,
    /// Where a refusal pointed to, and the epoch in which.
    hint: Option<(Epoch, String)>,
    /// Refusals in a row that pointed elsewhere.
    moved: u32,
    reason: String,
    /// The map by which the last attempt was routed.
    version: MapVersion,
    /// Since when the partition was seen without a primary.
    orphaned: Option<Instant>,
    /// The level, where others than the primary may answer, and which were left for another.
    spread: Option<ReadLevel>,
    left: Vec<String>,
}

/// Where an attempt goes.
pub(crate) struct Route {
    partition: PartitionId,
    pub(crate) address: String,
    connection: Connection,
}

/// What an attempt came to.
enum Attempt {
    Answered(pb::answer::Reply),
    Refused(KvError),
    /// No answer; whether the call was sent.
    Lost {
        sent: bool,
    },
    /// The node lets this client in no more, and did not take the call.
    Denied(Error),
}

impl<'a> Trial<'a> {
    fn new(inner: &'a Inner, key: &[u8]) -> Self {
        Self::of_slot(inner, slots::slot(key))
    }

    /// For a call about the partition of a slot.
    pub(crate) fn of_slot(inner: &'a Inner, slot: u16) -> Self {
        count(&inner.counters.calls);
        Self {
            inner,
            slot,
            until: Instant::now() + inner.options.deadline,
            attempts: 0,
            pause: inner.options.backoff_min,
            hint: None,
            moved: 0,
            reason: "there was no time for an attempt".to_owned(),
            version: MapVersion::ZERO,
            orphaned: None,
            spread: None,
            left: Vec::new(),
        }
    }

    /// Whoever may answer a read of that level.
    fn spread(mut self, level: ReadLevel) -> Self {
        self.spread = (level != ReadLevel::Primary).then_some(level);
        self
    }

    /// Where the next attempt goes; waits for a map that tells. `None` at the
    /// deadline.
    pub(crate) async fn route(&mut self) -> Option<Route> {
        while Instant::now() < self.until {
            let map = self.inner.topology.map();
            self.version = map.version;
            match self.find(&map) {
                Ok((partition, address)) => {
                    return Some(Route {
                        partition,
                        connection: self.inner.connections.get(&address),
                        address,
                    });
                }
                Err(reason) => self.reason = reason,
            }
            self.inner.topology.poke();
            self.rest().await;
        }
        None
    }

    fn find(&mut self, map: &ClusterMap) -> Result<(PartitionId, String), String> {
        let record = map
            .partition_of_slot(self.slot)
            .ok_or("the map has no partition for the key")?;
        let id = record.id;
        // A refusal may know more than the map, and is then followed once.
        if let Some((epoch, address)) = self.hint.take()
            && epoch >= record.epoch
            && !(self.spread.is_some() && self.left.contains(&address))
        {
            return Ok((id, address));
        }
        if let Some(level) = self.spread {
            return self.pick(map, record, level);
        }
        let Some(primary) = record.primary else {
            // A voter may know more than the map that came so far, or serve already.
            let since = *self.orphaned.get_or_insert_with(Instant::now);
            return (since.elapsed() >= ORPHANED_PATIENCE)
                .then(|| self.inner.topology.voter(map, record))
                .flatten()
                .map(|address| (id, address))
                .ok_or_else(|| format!("partition {id} has no primary just now"));
        };
        self.orphaned = None;
        let address = map
            .nodes
            .get(&primary.node)
            .map(|n| n.addresses.client.clone())
            .filter(|address| !address.is_empty())
            .ok_or_else(|| format!("the map has no address for {}", primary.node))?;
        Ok((id, address))
    }

    /// One of the replicas that were not left yet, by how quickly they answer.
    fn pick(
        &mut self,
        map: &ClusterMap,
        record: &PartitionRecord,
        level: ReadLevel,
    ) -> Result<(PartitionId, String), String> {
        let (inner, left) = (self.inner, &self.left);
        let mut replicas = inner.topology.replicas(map, record, level);
        replicas.retain(|address| !left.contains(address));
        let cost = |address: &String| inner.connections.get(address).cost();
        match load::pick(replicas, cost, &mut rand::rng()) {
            Some(address) => Ok((record.id, address)),
            None => {
                // After a pause each may be asked again.
                self.left.clear();
                Err(format!("no replica could answer: {}", self.reason))
            }
        }
    }

    /// A replica could not answer: another one is asked, at once as long as there is one.
    fn leave(&mut self, address: &str) {
        count(&self.inner.counters.replicas_left);
        if !self.left.iter().any(|left| left == address) {
            self.left.push(address.to_owned());
        }
    }

    /// Pauses before the next attempt; a map newer than the last attempt's ends the
    /// pause.
    async fn rest(&mut self) {
        let version = self.version;
        let left = self.until.saturating_duration_since(Instant::now());
        let pause = self
            .pause
            .mul_f64(rand::rng().random_range(0.5..1.0))
            .min(left);
        self.pause = (self.pause * 2).min(self.inner.options.backoff_max);
        let mut versions = self.inner.topology.versions();
        let newer = versions.wait_for(|v| *v > version);
        let _ = timeout(pause, newer).await;
    }

    /// Counts an attempt; until when it may take.
    pub(crate) fn begin(&mut self) -> Instant {
        let counters = &self.inner.counters;
        self.attempts += 1;
        count(&counters.attempts);
        if self.attempts > 1 {
            count(&counters.retries);
        }
        // A replica that says nothing is left for another in good time.
        let patience =
            self.inner.options.attempt_timeout / if self.spread.is_some() { 2 } else { 1 };
        self.until.min(Instant::now() + patience)
    }

    /// Makes one attempt, and counts and notes what came of it.
    async fn attempt(&mut self, route: &Route, request: pb::call::Request) -> Attempt {
        let counters = &self.inner.counters;
        let until = self.begin();
        let routed = Routed {
            partition: route.partition,
            version: self.version,
            to_primary: self.spread.is_none(),
        };
        match route.connection.call(routed, request, until).await {
            Ok(pb::answer::Reply::Error(error)) => match KvError::try_from(error) {
                Ok(error) => Attempt::Refused(error),
                Err(error) => {
                    self.reason = error.to_string();
                    Attempt::Lost { sent: true }
                }
            },
            Ok(reply) => Attempt::Answered(reply),
            Err(lost) => {
                self.reason = lost.why.to_string();
                match lost.why {
                    Why::Denied(reason) => {
                        return Attempt::Denied(Error::Unauthenticated {
                            reason: reason.to_string(),
                        });
                    }
                    Why::Superseded => {}
                    Why::Timeout | Why::Connection(_) => {
                        self.inner.topology.suspect(&route.address);
                    }
                }
                if lost.sent && !matches!(lost.why, Why::Superseded) {
                    count(&counters.unknown);
                }
                Attempt::Lost { sent: lost.sent }
            }
        }
    }

    /// After a refusal that changed nothing and may pass: notes what it says and
    /// pauses, unless it points elsewhere for the first time.
    pub(crate) async fn refused(&mut self, route: &Route, refusal: &KvError) {
        let counters = &self.inner.counters;
        self.reason = refusal.to_string();
        match refusal {
            KvError::Moved { epoch, address, .. } => {
                count(&counters.moved);
                self.moved += 1;
                self.inner.topology.poke();
                if !address.is_empty() {
                    self.hint = Some((*epoch, address.clone()));
                    if self.moved == 1 {
                        if self.spread.is_some() {
                            self.leave(&route.address);
                        }
                        return;
                    }
                }
            }
            KvError::NotReady { .. } => {
                self.moved = 0;
                count(&counters.not_ready);
            }
            KvError::Limited { wait_ms } if self.spread.is_none() => {
                self.moved = 0;
                return wait_out(*wait_ms, self.until).await;
            }
            _ => self.moved = 0,
        }
        if self.spread.is_some() {
            self.leave(&route.address);
        } else {
            self.rest().await;
        }
    }

    /// After an attempt without an answer.
    async fn lost(&mut self, route: &Route) {
        self.moved = 0;
        self.inner.topology.poke();
        if self.spread.is_some() {
            self.leave(&route.address);
        } else {
            self.rest().await;
        }
    }

    /// After an attempt at a read that the node did not answer.
    pub(crate) async fn unanswered(&mut self, route: &Route, reason: &str) {
        reason.clone_into(&mut self.reason);
        self.inner.topology.suspect(&route.address);
        self.lost(route).await;
    }

    pub(crate) fn unavailable(&self) -> Error {
        Error::Unavailable {
            within: self.inner.options.deadline,
            attempts: self.attempts,
            reason: self.reason.clone(),
        }
    }
}

impl Inner {
    async fn read(&self, key: Bytes, consistency: Consistency) -> Result<Reading, Error> {
        checked(&key)?;
        let settings = self.topology.map().settings.clone();
        let default = settings.map_or(ReadLevel::Primary, |s| s.read_level);
        let level = consistency.level(default);
        let mut trial = Trial::new(self, &key).spread(level);
        while let Some(route) = trial.route().await {
            let request = ReadRequest {
                key: key.clone(),
                consistency: level.into(),
            };
            let attempt = trial
                .attempt(&route, pb::call::Request::Get(request.into()))
                .await;
            match attempt {
                Attempt::Answered(pb::answer::Reply::Get(pb::GetReply { value, state })) => {
                    match value.map(Value::try_from).transpose() {
                        Ok(value) => {
                            if let Some(value) = &value {
                                self.known.learn(route.partition, value.version);
                            }
                            return Ok(Reading {
                                value,
                                state: state.map(Into::into),
                            });
                        }
                        Err(error) => {
                            trial.reason = error.to_string();
                            trial.lost(&route).await;
                        }
                    }
                }
                Attempt::Answered(other) => {
                    trial.reason = format!("the answer does not fit a read: {other:?}");
                    trial.lost(&route).await;
                }
                Attempt::Refused(refusal) => match final_refusal(&refusal) {
                    Some(error) => return Err(error),
                    None => trial.refused(&route, &refusal).await,
                },
                Attempt::Lost { .. } => trial.lost(&route).await,
                Attempt::Denied(error) => return Err(error),
            }
        }
        Err(trial.unavailable())
    }

    /// Makes one write under one name until it is answered (rule 8).
    async fn write(&self, op: WriteOp, level: Option<WriteLevel>) -> Result<WriteReply, Error> {
        match self.write_or_learn(op, level).await? {
            Written::Reply(reply) => Ok(reply),
            Written::Striped(learned) => Err(nonsense(&format!("{learned:?}"))),
        }
    }

    /// As [`Self::write`], of a key that may turn out to be a striped counter.
    pub(crate) async fn write_or_learn(
        &self,
        op: WriteOp,
        level: Option<WriteLevel>,
    ) -> Result<Written, Error> {
        let level = level.unwrap_or(self.options.write_level);
        let key = op.keys().next().cloned().unwrap_or_default();
        checked(&key)?;
        let sequence = self.next_sequence.fetch_add(1, Ordering::Relaxed);
        let mut trial = Trial::new(self, &key);
        // What this client knew of the partition before the first try that a primary
        // may have taken: later tries must not claim to know more.
        let mut known: Option<Position> = None;
        // Whether an earlier try may have been applied, or may still be.
        let mut tried = false;
        while let Some(route) = trial.route().await {
            let known_now = *known.get_or_insert_with(|| self.known.get(route.partition));
            let request = WriteRequest {
                op: op.clone(),
                sequenced: Some(Sequenced {
                    client: self.id.as_u128(),
                    sequence,
                    known: known_now,
                }),
            };
            let write = LeveledWrite { request, level };
            let request = write.try_into().map_err(|error| invalid(&error))?;
            match trial.attempt(&route, request).await {
                Attempt::Answered(reply) => match write_reply(reply) {
                    Ok(reply) => {
                        self.known.learn(route.partition, reply.position);
                        self.near.wrote(&op);
                        return Ok(Written::Reply(reply));
                    }
                    Err(reason) => {
                        return Err(Error::OutcomeUnknown { reason });
                    }
                },
                Attempt::Refused(KvError::Unknown) => {
                    count(&self.counters.unknown);
                    tried = true;
                    trial.reason = KvError::Unknown.to_string();
                    trial.lost(&route).await;
                }
                // The key's partition does not know of this name: no earlier try was applied,
                // and none will be, since the key is a counter now.
                Attempt::Refused(KvError::Striped(learned)) => {
                    return Ok(Written::Striped(learned));
                }
                Attempt::Refused(KvError::Unjudged { position }) => {
                    count(&self.counters.unjudged);
                    self.known.learn(route.partition, position);
                    let reason = KvError::Unjudged { position }.to_string();
                    if tried {
                        return Err(Error::OutcomeUnknown { reason });
                    }
                    // Surely the first try: it was not applied, and may be made anew
                    // by someone who knows more.
                    known = Some(position);
                    trial.reason = reason;
                    trial.rest().await;
                }
                Attempt::Refused(refusal) => match final_refusal(&refusal) {
                    // Where an earlier try may have been applied, only an answer to
                    // this very name settles it.
                    Some(error) if !tried => return Err(error),
                    Some(_) | None => trial.refused(&route, &refusal).await,
                },
                Attempt::Lost { sent } => {
                    tried |= sent;
                    trial.lost(&route).await;
                }
                Attempt::Denied(error) if !tried => return Err(error),
                // Let in again before the deadline, it may still learn the outcome.
                Attempt::Denied(_) => trial.lost(&route).await,
            }
        }
        if tried {
            Err(Error::OutcomeUnknown {
                reason: format!(
                    "no answer within {:?} after {} attempts: {}",
                    self.options.deadline, trial.attempts, trial.reason
                ),
            })
        } else {
            Err(trial.unavailable())
        }
    }
}
