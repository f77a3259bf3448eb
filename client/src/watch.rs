//! Watching keys: one stream to each node that serves some of their partitions, opened
//! again from where it stopped whenever a node fails or a partition is served elsewhere.
//!
//! Everything happens while somebody waits for the next event: nobody who does not read
//! makes anything pile up here but what the network holds on the way.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{Epoch, Index, MapVersion, PartitionId, Position};
use cairn_core::kv::watch::{KeyEvent, KeyFilter};
use cairn_core::record::ClusterMap;
use cairn_core::slots::{slot, slot_of_prefix};
use cairn_proto::keyspace::{HEARTBEAT_DEFAULT, WatchEnd, WatchQuery, WatchUpdate};
use cairn_proto::kv::KvError;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use rand::Rng;
use tokio::sync::watch::Receiver;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_stream::StreamMap;
use tonic::{Code, Status};
use tracing::debug;

use crate::answer::final_refusal;
use crate::client::{Client, Inner};
use crate::error::Error;
use crate::scan::{TokenError, keyspace};

/// How a watch begins.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchOptions {
    /// After what an earlier watch has told; `None`: what is written from now on.
    pub from: Option<WatchToken>,
    /// How often the nodes say how far they have come: for so long the token of a watch
    /// may lag behind where nothing happens to its keys.
    pub heartbeat: Duration,
}

impl Default for WatchOptions {
    fn default() -> Self {
        Self {
            from: None,
            heartbeat: HEARTBEAT_DEFAULT,
        }
    }
}

/// How far a watch has come in each partition. Any later primary goes on from there, as
/// long as its log reaches back so far. As text, `PARTITION:EPOCH/INDEX`, with commas
/// between.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchToken {
    positions: BTreeMap<PartitionId, Position>,
}

impl WatchToken {
    /// The position of a partition.
    #[must_use]
    pub fn position(&self, partition: PartitionId) -> Option<Position> {
        self.positions.get(&partition).copied()
    }
}

impl fmt::Display for WatchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (partition, position)) in self.positions.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let Position { epoch, index } = position;
            write!(f, "{comma}{}:{}/{}", partition.0, epoch.0, index.0)?;
        }
        Ok(())
    }
}

impl FromStr for WatchToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let one = |text: &str| {
            let (partition, position) = text.split_once(':')?;
            let (epoch, index) = position.split_once('/')?;
            let position = Position {
                epoch: Epoch(epoch.parse().ok()?),
                index: Index(index.parse().ok()?),
            };
            Some((PartitionId(partition.parse().ok()?), position))
        };
        let positions = text.split(',').map(one).collect::<Option<_>>();
        positions
            .map(|positions| Self { positions })
            .ok_or(TokenError("watch"))
    }
}

/// How far the watch of one partition has come.
#[derive(Debug, Default)]
struct Part {
    /// What the nodes told, and what the next stream goes on after; `None`: it has not
    /// begun.
    received: Option<Position>,
    /// What of it was handed out.
    given: Option<Position>,
    /// The node that is asked.
    at: Option<String>,
    /// Whether that one has told anything of it.
    told: bool,
    /// Where a refusal pointed to, and the epoch in which.
    hint: Option<(Epoch, String)>,
}

impl Part {
    /// The node is asked no more; which one it was.
    fn leave(&mut self) -> Option<String> {
        self.told = false;
        self.at.take()
    }
}

/// An event that was received and not handed out.
#[derive(Debug)]
struct Ready {
    partition: PartitionId,
    event: KeyEvent,
    /// How far it takes the token: nowhere while other events of its entry are left.
    position: Option<Position>,
}

/// What a stream tells: its end last.
type Told = Result<WatchUpdate, Status>;

/// A watch. Events of one partition come in the order of its log, each exactly once,
/// whatever fails meanwhile; those of different partitions in any order.
pub struct Watch {
    client: Client,
    filter: KeyFilter,
    heartbeat: Duration,
    parts: BTreeMap<PartitionId, Part>,
    streams: StreamMap<String, BoxStream<'static, Option<Told>>>,
    ready: VecDeque<Ready>,
    versions: Receiver<MapVersion>,
    /// When partitions that nobody is asked for are tried again.
    retry: Instant,
    /// How long nodes are left alone after the next refusal. Grows until all partitions
    /// are told of: that one is served well is no reason to hurry those who refuse another.
    pause: Duration,
    /// Why it cannot go on.
    failed: Option<Error>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("filter", &self.filter)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Watches a key, or all keys with a prefix. What is written after this returned is
    /// told; with a token, everything that followed it.
    ///
    /// # Errors
    /// See [`Error`]: [`Error::Compacted`] where the log no longer reaches back to the
    /// token; [`Error::Unavailable`] where the watch does not begin before the deadline.
    pub async fn watch(&self, filter: KeyFilter, options: WatchOptions) -> Result<Watch, Error> {
        let WatchOptions { from, heartbeat } = options;
        let map = self.map();
        let only = match &filter {
            KeyFilter::Key(key) => Some(slot(key)),
            KeyFilter::Prefix(prefix) => slot_of_prefix(prefix),
        };
        let only = only.and_then(|slot| map.partition_of_slot(slot));
        let partitions = map
            .partitions
            .iter()
            .map(|record| record.id)
            .filter(|id| only.is_none_or(|only| only.id == *id));
        let parts = partitions.map(|partition| {
            let position = from.as_ref().and_then(|token| token.position(partition));
            let part = Part {
                received: position,
                given: position,
                ..Part::default()
            };
            (partition, part)
        });
        let mut watch = Watch {
            client: self.clone(),
            filter,
            heartbeat,
            parts: parts.collect(),
            streams: StreamMap::new(),
            ready: VecDeque::new(),
            versions: self.map_versions(),
            retry: Instant::now(),
            pause: self.inner.options.backoff_min,
            failed: None,
        };
        watch.begin().await?;
        Ok(watch)
    }
}

impl Watch {
    /// The next event. Waits for as long as it takes, through failures of nodes too.
    ///
    /// # Errors
    /// Where the watch cannot go on; every later call returns the same.
    pub async fn next(&mut self) -> Result<KeyEvent, Error> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                let Ready {
                    partition,
                    event,
                    position,
                } = ready;
                if let Some(part) = self.parts.get_mut(&partition) {
                    part.given = position.or(part.given);
                }
                return Ok(event);
            }
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            self.turn().await;
        }
    }

    /// How far it has come: a later watch from here tells what was not handed out. Of
    /// several events of one atomic batch, all or none count as handed out.
    #[must_use]
    pub fn token(&self) -> WatchToken {
        let given = self.parts.iter();
        let positions = given.filter_map(|(id, part)| Some((*id, part.given?)));
        WatchToken {
            positions: positions.collect(),
        }
    }

    /// The events as a stream. It ends after an error.
    pub fn into_stream(self) -> impl Stream<Item = Result<KeyEvent, Error>> + Send {
        futures::stream::try_unfold(self, |mut watch| async move {
            Ok(Some((watch.next().await?, watch)))
        })
    }

    /// Waits until it has begun in every partition.
    async fn begin(&mut self) -> Result<(), Error> {
        let within = self.client.inner.options.deadline;
        let until = Instant::now() + within;
        while self.parts.values().any(|part| part.received.is_none()) {
            if let Some(error) = &self.failed {
                return Err(error.clone());
            }
            if timeout_at(until, self.turn()).await.is_err() {
                let missing = self.parts.iter().filter(|(_, p)| p.received.is_none());
                let missing: Vec<String> = missing.map(|(id, _)| id.to_string()).collect();
                return Err(Error::Unavailable {
                    within,
                    attempts: 1,
                    reason: format!("no watch of {}", missing.join(", ")),
                });
            }
        }
        Ok(())
    }

    /// Waits for one thing to happen, and takes it. Loses nothing where it is dropped.
    async fn turn(&mut self) {
        self.assign();
        let unassigned = self.parts.values().any(|part| part.at.is_none());
        let told = tokio::select! {
            Some(told) = self.streams.next(), if !self.streams.is_empty() => told,
            changed = self.versions.changed() => {
                if changed.is_err() {
                    self.failed = Some(Error::Unavailable {
                        within: Duration::ZERO,
                        attempts: 0,
                        reason: "the client was closed".to_owned(),
                    });
                }
                return self.follow_map();
            }
            () = sleep_until(self.retry), if unassigned => return,
        };
        match told {
            (address, Some(Ok(update))) => self.take(&address, update),
            (address, Some(Err(status))) => self.lose(&address, Some(&status)),
            (address, None) => self.lose(&address, None),
        }
    }

    /// Asks nodes for the partitions that nobody is asked for: each node on one stream
    /// for all that it is asked for.
    fn assign(&mut self) {
        if Instant::now() < self.retry {
            return;
        }
        let map = self.client.map();
        let mut asked: Vec<String> = Vec::new();
        let mut missing = false;
        for (partition, part) in &mut self.parts {
            if part.at.is_some() {
                continue;
            }
            match address_of(&map, *partition, part.hint.take()) {
                Some(address) => {
                    part.at = Some(address.clone());
                    if !asked.contains(&address) {
                        asked.push(address);
                    }
                }
                None => missing = true,
            }
        }
        for address in asked {
            let served = self
                .parts
                .iter()
                .filter(|(_, p)| p.at.as_ref() == Some(&address));
            let query = WatchQuery {
                filter: self.filter.clone(),
                from: served.map(|(id, part)| (*id, part.received)).collect(),
                heartbeat: self.heartbeat,
            };
            let stream = open(Arc::clone(&self.client.inner), address.clone(), query);
            // One that was open is dropped: what it has told and nobody took yet is told
            // again by this one.
            self.streams.insert(address, stream);
        }
        if missing {
            self.client.inner.topology.poke();
            self.rest();
        }
    }

    /// Takes partitions away from nodes that the map no longer names their primary.
    fn follow_map(&mut self) {
        let map = self.client.map();
        let mut left: Vec<String> = Vec::new();
        for (partition, part) in &mut self.parts {
            let named = address_of(&map, *partition, None);
            if named.is_some() && part.at.is_some() && part.at != named {
                left.extend(part.leave());
                self.retry = Instant::now();
            }
        }
        for address in left {
            self.close_if_unused(&address);
        }
    }

    fn close_if_unused(&mut self, address: &str) {
        let used = self
            .parts
            .values()
            .any(|part| part.at.as_deref() == Some(address));
        if !used {
            self.streams.remove(address);
        }
    }

    fn take(&mut self, address: &str, update: WatchUpdate) {
        match update {
            WatchUpdate::Events {
                partition,
                events,
                position,
            } => {
                let Some(part) = self.part_at(partition, address) else {
                    return;
                };
                part.received = Some(position);
                let news = !std::mem::replace(&mut part.told, true);
                let mut events = events.into_iter().peekable();
                while let Some(event) = events.next() {
                    let version = event.version();
                    let position = match events.peek() {
                        None => Some(position),
                        Some(next) => (next.version() != version).then_some(version),
                    };
                    self.ready.push_back(Ready {
                        partition,
                        event,
                        position,
                    });
                }
                if news {
                    self.relax();
                }
            }
            WatchUpdate::Positions(positions) => {
                let mut news = false;
                for (partition, position) in positions {
                    let waiting = self.ready.iter().any(|r| r.partition == partition);
                    let Some(part) = self.part_at(partition, address) else {
                        continue;
                    };
                    part.received = Some(position);
                    news |= !std::mem::replace(&mut part.told, true);
                    if !waiting {
                        part.given = Some(position);
                    }
                }
                if news {
                    self.relax();
                }
            }
            WatchUpdate::End { partition, why } => {
                let Some(part) = self.part_at(partition, address) else {
                    return;
                };
                match why {
                    WatchEnd::Compacted => self.failed = Some(Error::Compacted { partition }),
                    WatchEnd::Refused(refusal) => {
                        debug!(%partition, address, %refusal, "no longer watched there");
                        part.leave();
                        if let KvError::Moved { epoch, address, .. } = refusal
                            && !address.is_empty()
                        {
                            part.hint = Some((epoch, address));
                        }
                        self.client.inner.topology.poke();
                        self.close_if_unused(address);
                        self.rest();
                    }
                }
            }
        }
    }

    /// The partition, if that node is still the one that is asked for it.
    fn part_at(&mut self, partition: PartitionId, address: &str) -> Option<&mut Part> {
        let part = self.parts.get_mut(&partition)?;
        (part.at.as_deref() == Some(address)).then_some(part)
    }

    /// The stream to a node ended.
    fn lose(&mut self, address: &str, status: Option<&Status>) {
        debug!(address, ?status, "a watch was cut off");
        self.streams.remove(address);
        for part in self.parts.values_mut() {
            if part.at.as_deref() == Some(address) {
                part.leave();
            }
        }
        let refusal = status.and_then(KvError::from_status);
        self.failed = match (&refusal, status) {
            (Some(refusal), _) => final_refusal(refusal),
            (None, Some(status)) if status.code() == Code::Unimplemented => {
                Some(Error::Unsupported {
                    what: "watches".to_owned(),
                })
            }
            (None, Some(status)) if status.code() == Code::Unauthenticated => {
                Some(Error::Unauthenticated {
                    reason: status.message().to_owned(),
                })
            }
            _ => None,
        };
        if refusal.is_none() {
            self.client.inner.topology.suspect(address);
        }
        self.client.inner.topology.poke();
        self.rest();
    }

    /// Forgets the refusals once there is none left.
    fn relax(&mut self) {
        if self.parts.values().all(|part| part.told) {
            self.pause = self.client.inner.options.backoff_min;
        }
    }

    /// Pauses before nodes are asked again.
    fn rest(&mut self) {
        let now = Instant::now();
        if self.retry <= now {
            let jittered = self.pause.mul_f64(rand::rng().random_range(0.5..1.0));
            self.retry = now + jittered;
            self.pause = (self.pause * 2).min(self.client.inner.options.backoff_max);
        }
    }
}

/// Where a partition is to be watched: at its primary, or where a refusal that knows
/// more than the map pointed to.
fn address_of(
    map: &ClusterMap,
    partition: PartitionId,
    hint: Option<(Epoch, String)>,
) -> Option<String> {
    let record = map.partitions.get(usize::try_from(partition.0).ok()?)?;
    if let Some((epoch, address)) = hint
        && epoch >= record.epoch
    {
        return Some(address);
    }
    let primary = map.nodes.get(&record.primary?.node)?;
    let address = &primary.addresses.client;
    (!address.is_empty()).then(|| address.clone())
}

/// A stream to one node, which says `None` when it ends. It is opened when it is first
/// waited for.
fn open(inner: Arc<Inner>, address: String, query: WatchQuery) -> BoxStream<'static, Option<Told>> {
    let opened = async move {
        // On a connection of its own: a node takes a bounded number of calls on each, and
        // one that is read slowly is not to hold up the others.
        let channel = inner.options.dialer.lazy(&address);
        let channel = channel.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut client = keyspace(channel);
        let opening = client.watch(cairn_proto::pb::kv::v1::WatchRequest::from(query));
        let within = inner.options.attempt_timeout;
        let replies = timeout(within, opening)
            .await
            .map_err(|_| Status::deadline_exceeded("no answer in time"))??;
        let replies = replies.into_inner();
        Ok::<_, Status>(replies.and_then(|reply| async { Ok(WatchUpdate::try_from(reply)?) }))
    };
    futures::stream::once(opened)
        .try_flatten()
        .map(Some)
        .chain(futures::stream::once(async { None }))
        .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_printed() {
        for text in ["0:0/0", "3:1/2,17:18446744073709551615/9"] {
            let token: WatchToken = text.parse().expect("a token");
            assert_eq!(token.to_string(), text);
        }
        for text in ["", "1", "1:2", "1:2/", "1:2/3,", "a:1/1", "1:1/1 "] {
            assert!(text.parse::<WatchToken>().is_err(), "{text}");
        }
    }
}
