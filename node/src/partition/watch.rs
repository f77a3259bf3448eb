//! Watches: committed entries of any number of partitions as they come (rule 19).
//!
//! A watcher pulls. All that is kept for it is how far it has come in each partition; it
//! is told when more has committed there, and takes a bounded batch of it from the
//! primary's log when whoever reads it wants more. One that reads slowly falls behind in
//! the log and costs nothing: it is given what memory no longer holds from the log on
//! disk, on threads that may block, a bounded number at a time. When that no longer
//! reaches back to it either, it is told so.
//!
//! What is given was committed, and was read from the log of a primary that held its
//! lease before and after: a primary that was deposed tells nothing that its successor
//! may lack.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{Index, PartitionId, Position};
use cairn_core::kv::request::RequestError;
use cairn_core::kv::watch::{KeyEvent, KeyFilter, events};
use cairn_core::replication::{Committed, CommittedError, Line};
use cairn_storage::wal::WalError;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::clock;
use super::handle::Handle;
use super::inbox::Input;
use super::shared::Shared;

/// About how many bytes of entries are taken from the log at once.
const BATCH_BYTES: usize = 256 << 10;

/// What a watch tells next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// What happened to the watched keys of a partition, in the order of its log, and up
    /// to which position that is all.
    Events {
        /// Which partition.
        partition: PartitionId,
        /// At least one.
        events: Vec<KeyEvent>,
        /// A later watch goes on after it.
        position: Position,
    },
    /// How far partitions have come where that was not told yet: of one that begins with
    /// what commits from now on, as soon as it has begun, and then at every heartbeat.
    Positions(Vec<(PartitionId, Position)>),
    /// The watch of this partition ended.
    Ended {
        /// Which partition.
        partition: PartitionId,
        /// Why.
        why: Ended,
    },
}

/// Why the watch of a partition ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// See [`CommittedError::Compacted`].
    Compacted,
    /// It is watched elsewhere, or not at all.
    Refused(RequestError),
}

/// How far a watch has come in one partition.
#[derive(Debug, Default)]
struct Part {
    /// `None`: it begins with what commits from now on, and has not begun.
    position: Option<Position>,
    told: Option<Position>,
}

/// Why there is no batch for a watcher.
enum Untold {
    /// The node is not primary, or not surely: it may be, a moment later.
    NotPrimary,
    Ended(Ended),
}

impl From<CommittedError> for Untold {
    fn from(error: CommittedError) -> Self {
        match error {
            CommittedError::NotPrimary => Self::NotPrimary,
            CommittedError::Compacted | CommittedError::BeforeMemory(_) => {
                Self::Ended(Ended::Compacted)
            }
        }
    }
}

/// What is known of a partition that somebody waits for.
enum News {
    /// There may be something to take.
    Some,
    /// It is not served here any more.
    Gone(RequestError),
}

/// A watch of keys in some partitions.
pub struct Watcher {
    shared: Arc<Shared>,
    filter: KeyFilter,
    parts: BTreeMap<PartitionId, Part>,
    waiting: FuturesUnordered<BoxFuture<'static, (PartitionId, News)>>,
    heartbeat: Interval,
    _place: OwnedSemaphorePermit,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("filter", &self.filter)
            .field("parts", &self.parts)
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Watches keys in partitions that this node is primary of, each from after a
    /// position, or from now on.
    ///
    /// # Errors
    /// [`RequestError::Overloaded`] where too many watches are open. What keeps a single
    /// partition from being watched is a [`Step::Ended`].
    pub fn watch(
        &self,
        filter: KeyFilter,
        from: impl IntoIterator<Item = (PartitionId, Option<Position>)>,
        heartbeat: Duration,
    ) -> Result<Watcher, RequestError> {
        let place = Arc::clone(&self.shared.watches.places)
            .try_acquire_owned()
            .map_err(|_| RequestError::Overloaded)?;
        let mut heartbeat = interval_at(Instant::now() + heartbeat, heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let parts = from.into_iter().map(|(partition, position)| {
            let part = Part {
                position,
                told: None,
            };
            (partition, part)
        });
        let watcher = Watcher {
            shared: Arc::clone(&self.shared),
            filter,
            parts: parts.collect(),
            waiting: FuturesUnordered::new(),
            heartbeat,
            _place: place,
        };
        for partition in watcher.parts.keys() {
            // A position is looked at although nothing may have committed behind it: it
            // may be of a line that was lost.
            watcher.waiting.push(watcher.news(*partition, None));
        }
        Ok(watcher)
    }
}

impl Watcher {
    /// What comes next; `None` once the watches of all partitions have ended. Dropping
    /// the future loses what it was about to tell: it is to be waited for.
    pub async fn next(&mut self) -> Option<Step> {
        loop {
            if self.parts.is_empty() {
                return None;
            }
            tokio::select! {
                // A busy partition must not keep the others' positions from being told.
                biased;
                _ = self.heartbeat.tick() => return Some(self.positions()),
                Some((partition, news)) = self.waiting.next() => {
                    if let Some(step) = self.take(partition, news).await {
                        return Some(step);
                    }
                }
            }
        }
    }

    /// How far the partitions have come that moved since they were told.
    fn positions(&mut self) -> Step {
        let moved = self.parts.iter_mut().filter_map(|(partition, part)| {
            let position = part.position.filter(|_| part.told != part.position)?;
            part.told = part.position;
            Some((*partition, position))
        });
        Step::Positions(moved.collect())
    }

    fn end(&mut self, partition: PartitionId, why: Ended) -> Option<Step> {
        self.parts.remove(&partition);
        Some(Step::Ended { partition, why })
    }

    async fn take(&mut self, partition: PartitionId, news: News) -> Option<Step> {
        if let News::Gone(error) = news {
            return self.end(partition, Ended::Refused(error));
        }
        let after = self.parts.get(&partition)?.position;
        let committed = match self.shared.committed(partition, after).await {
            Ok(committed) => committed,
            Err(Untold::Ended(why)) => return self.end(partition, why),
            Err(Untold::NotPrimary) => {
                // How it stands is published by the end of the engine's turn.
                self.waiting
                    .push(self.news(partition, after.map(|at| at.index)));
                return None;
            }
        };
        let Committed { entries, position } = committed;
        self.waiting
            .push(self.news(partition, Some(position.index)));
        let mut told = Vec::new();
        for entry in &entries {
            match events(entry, &self.filter) {
                Ok(events) => told.extend(events),
                Err(error) => {
                    tracing::error!(%partition, %error, "cannot read the log of a partition");
                    let error = RequestError::NotReady { partition };
                    return self.end(partition, Ended::Refused(error));
                }
            }
        }
        let part = self.parts.get_mut(&partition)?;
        part.position = Some(position);
        if told.is_empty() {
            return after.is_none().then(|| {
                part.told = part.position;
                Step::Positions(vec![(partition, position)])
            });
        }
        part.told = part.position;
        Some(Step::Events {
            partition,
            events: told,
            position,
        })
    }

    /// Waits until something past `after` has committed, or, where there is none, until
    /// the partition can be answered for.
    fn news(
        &self,
        partition: PartitionId,
        after: Option<Index>,
    ) -> BoxFuture<'static, (PartitionId, News)> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { (partition, shared.news(partition, after).await) })
    }
}

impl Shared {
    async fn news(&self, partition: PartitionId, after: Option<Index>) -> News {
        let Some(cell) = self.board.cell(partition) else {
            return News::Gone(self.moved(partition, None));
        };
        loop {
            let watching = cell.watch();
            let mut changed = std::pin::pin!(watching.changed());
            changed.as_mut().enable();
            let published = cell.load();
            let Some(here) = published.filter(|here| here.is_primary(self.config.node)) else {
                return News::Gone(self.moved(partition, published.as_ref()));
            };
            // The lease of a partition without news is nobody's business (rule 16).
            if here.serving && after.is_none_or(|after| here.commit > after) {
                if here.leads(clock::boottime()) {
                    return News::Some;
                }
                if cell.hurry() {
                    self.inbox.push(Input::HurryLease(partition));
                }
            }
            changed.await;
        }
    }

    /// A batch of what committed past a position, under the lease.
    async fn committed(
        &self,
        partition: PartitionId,
        after: Option<Position>,
    ) -> Result<Committed, Untold> {
        let mut may_read_disk = None;
        loop {
            let cell = self.board.cell(partition);
            let first = cell.and_then(|cell| Some((cell, cell.load()?)));
            let (cell, first) = first
                .filter(|(_, first)| first.leads(clock::boottime()))
                .ok_or(Untold::NotPrimary)?;
            let (reply, committed) = oneshot::channel();
            self.inbox.push(Input::Committed {
                partition,
                after,
                bytes: BATCH_BYTES,
                reply,
            });
            let answer = committed.await.unwrap_or(Err(CommittedError::NotPrimary));
            let (committed, source) = match (answer, after, may_read_disk.take()) {
                (Err(CommittedError::BeforeMemory(line)), Some(after), Some(permit)) => {
                    let read = self.committed_on_disk(partition, after, line, permit);
                    (read.await?, &self.watches.from_disk)
                }
                (Err(CommittedError::BeforeMemory(_)), Some(_), None) => {
                    // Its turn may be long in coming: the lease is looked at after that.
                    let permit = Arc::clone(&self.watches.reading_disk).acquire_owned().await;
                    may_read_disk = Some(permit.map_err(|_| Untold::NotPrimary)?);
                    continue;
                }
                (Err(CommittedError::Compacted), Some(after), _) => {
                    tracing::info!(
                        %partition, %after,
                        "a watcher asks for what follows a position that the log's line does not know"
                    );
                    return Err(CommittedError::Compacted.into());
                }
                (answer, ..) => (answer?, &self.watches.from_memory),
            };
            if !self.still_leads(cell, &first) {
                return Err(Untold::NotPrimary);
            }
            source.increment(1);
            return Ok(committed);
        }
    }

    /// A batch of what memory no longer holds, from the log on disk.
    async fn committed_on_disk(
        &self,
        partition: PartitionId,
        after: Position,
        line: Line,
        permit: OwnedSemaphorePermit,
    ) -> Result<Committed, Untold> {
        let log = self.log.load_full().ok_or(Untold::NotPrimary)?;
        let base = line.base;
        let read = spawn_blocking(move || {
            // Whoever asked may have gone: the thread works on and keeps its place.
            let _permit = permit;
            log.read(partition, after.index, &line, BATCH_BYTES)
        });
        let entries = match read.await {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::warn!(%partition, %error, "a watcher cannot be given what it missed");
                let why = match error {
                    // Too many open files, say: it may be asked again.
                    WalError::Io { .. } => Ended::Refused(RequestError::NotReady { partition }),
                    _ => Ended::Compacted,
                };
                return Err(Untold::Ended(why));
            }
            // It panicked, and has printed why, or the node stops.
            Err(_) => return Err(Untold::NotPrimary),
        };
        let Some(last) = entries.last() else {
            tracing::info!(
                %partition, %after, base = %base.position,
                "a watcher asks for what the log on disk does not hold"
            );
            return Err(CommittedError::Compacted.into());
        };
        let position = last.position;
        Ok(Committed { entries, position })
    }
}
