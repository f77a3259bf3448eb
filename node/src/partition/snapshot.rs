//! Snapshots: read for other nodes, and fetched from them into a fresh generation
//! (rule 13).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::cluster::report::CopyProgress;
use cairn_core::ids::{Index, Mark, NodeId, PartitionId};
use cairn_core::replication::{Event, Generation, GiveError, SnapshotWanted};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::handle::Handle;
use super::inbox::Input;
use super::links::SnapshotFetch;
use super::shared::Shared;
use crate::peer::{SnapshotPart, SnapshotReader, SnapshotRefusal, SnapshotSource, Throttle};
use crate::store::{self, ApplyHandle, SnapshotSink, StateReader};

/// How often it is told how far a copy is.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// How long the source of a snapshot may be behind what is asked for, and how often it is
/// looked whether it still is.
const BEHIND_FOR: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A copy under way, for the metrics.
struct Copying {
    bytes: metrics::Counter,
    under_way: metrics::Gauge,
}

impl Copying {
    /// Of a replica of `partition` for the node `to`; `direction` is "received" or "sent".
    fn begin(shared: &Shared, direction: &'static str, partition: PartitionId, to: NodeId) -> Self {
        let map = shared.map.load();
        let record = map.partitions.get(partition.0 as usize);
        let member = record.is_some_and(|record| {
            let there = record.config.on_node(to);
            there.is_some_and(|there| record.config.is_voter(there.replica))
        });
        let reason = if member { "behind" } else { "new_replica" };
        let under_way = metrics::gauge!("cairn_snapshots_under_way", "direction" => direction);
        under_way.increment(1.0);
        Self {
            bytes: metrics::counter!(
                "cairn_snapshot_copied_bytes_total",
                "direction" => direction,
                "reason" => reason
            ),
            under_way,
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.under_way.decrement(1.0);
    }
}

/// A view that is being streamed. While it lives, the log keeps what follows it.
struct Served {
    view: store::SnapshotSource,
    to: NodeId,
    partition: PartitionId,
    shared: Arc<Shared>,
    copying: Copying,
}

impl Served {
    fn new(
        view: store::SnapshotSource,
        to: NodeId,
        partition: PartitionId,
        shared: Arc<Shared>,
    ) -> Self {
        shared.inbox.push(Input::Event(Event::SnapshotServing {
            partition,
            to,
            from: view.mark().index(),
        }));
        let copying = Copying::begin(&shared, "sent", partition, to);
        Self {
            view,
            to,
            partition,
            shared,
            copying,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shared.inbox.push(Input::Event(Event::SnapshotServed {
            partition: self.partition,
            to: self.to,
            from: self.view.mark().index(),
        }));
    }
}

impl SnapshotReader for Served {
    fn mark(&self) -> Mark {
        self.view.mark()
    }

    fn lineage(&self) -> Vec<Mark> {
        self.view.lineage().to_vec()
    }

    fn expected_bytes(&self) -> u64 {
        self.view.expected_bytes()
    }

    fn next_chunk(&mut self, bytes: usize) -> Result<Option<Bytes>, String> {
        let chunk = self.view.next_chunk(bytes).map_err(|error| {
            let partitions = vec![self.partition];
            self.shared
                .inbox
                .push(Input::Event(Event::Corrupt { partitions }));
            error.to_string()
        })?;
        let given = chunk.as_ref().map_or(0, Bytes::len);
        self.copying.bytes.increment(given as u64);
        Ok(chunk)
    }
}

impl SnapshotSource for Handle {
    fn open(
        &self,
        to: NodeId,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotReader>, SnapshotRefusal>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let SnapshotWanted {
                partition,
                replica,
                after,
                ..
            } = wanted;
            let refused = |reason| SnapshotRefusal::Refused {
                partition,
                replica,
                reason,
            };
            if shared.is_damaged(partition, replica) {
                return Err(refused(GiveError::NotHere));
            }
            let generation = shared.may_give(wanted).await.map_err(refused)?;
            let failed = |error: &dyn fmt::Display| SnapshotRefusal::Failed(error.to_string());
            let reader = shared.reader.load_full();
            let reader = reader.ok_or_else(|| failed(&"the storage is not open"))?;
            let opened = spawn_blocking(move || reader.snapshot(generation)).await;
            let view = opened
                .map_err(|error| failed(&error))?
                .map_err(|error| failed(&error))?;
            if view.mark() == Mark::ZERO || view.mark().index() < after {
                // The state was given up since, and begins to go.
                return Err(refused(GiveError::Behind));
            }
            let served = Served::new(view, to, partition, shared);
            Ok(Box::new(served) as Box<dyn SnapshotReader>)
        })
    }
}

impl Shared {
    /// Asks the engine whether a snapshot may be given, for a while where the replica is
    /// only a little behind.
    async fn may_give(&self, wanted: SnapshotWanted) -> Result<Generation, GiveError> {
        let deadline = Instant::now() + BEHIND_FOR;
        loop {
            let (reply, answer) = oneshot::channel();
            self.inbox.push(Input::GiveSnapshot { wanted, reply });
            // An engine that has stopped gives nothing.
            let given = answer.await.unwrap_or(Err(GiveError::NotHere));
            if given != Err(GiveError::Behind) || Instant::now() >= deadline {
                return given;
            }
            sleep(LOOK_AGAIN).await;
        }
    }
}

/// Fetches snapshots, a few at a time.
#[derive(Clone)]
pub(super) struct Fetcher {
    pub(super) shared: Arc<Shared>,
    pub(super) source: Arc<dyn SnapshotFetch>,
    pub(super) reader: StateReader,
    pub(super) apply: ApplyHandle,
    pub(super) at_once: Arc<Semaphore>,
    pub(super) throttle: Throttle,
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher").finish_non_exhaustive()
    }
}

impl Fetcher {
    /// Fetches one snapshot and tells the engine how it ended.
    pub(super) async fn run(self, from: NodeId, wanted: SnapshotWanted, generation: Generation) {
        let partition = wanted.partition;
        let event = match self.fetch(from, wanted, generation).await {
            Ok((mark, lineage)) => {
                metrics::counter!("cairn_snapshots_fetched_total").increment(1);
                tracing::info!(%partition, %from, %mark.position, "fetched a snapshot");
                Event::SnapshotFetched {
                    partition,
                    generation,
                    mark,
                    lineage,
                }
            }
            Err(error) => {
                metrics::counter!("cairn_snapshots_failed_total").increment(1);
                tracing::warn!(%partition, %from, error, "could not fetch a snapshot");
                self.apply.drop_generation(generation);
                Event::SnapshotFailed {
                    partition,
                    generation,
                }
            }
        };
        self.shared.inbox.push(Input::Event(event));
    }

    async fn fetch(
        &self,
        from: NodeId,
        wanted: SnapshotWanted,
        generation: Generation,
    ) -> Result<(Mark, Vec<Mark>), String> {
        let _permit = self
            .at_once
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let partition = wanted.partition;
        let copying = Copying::begin(&self.shared, "received", partition, self.shared.config.node);
        let mut parts = self.source.fetch(from, wanted).await?;
        let mut progress = CopyProgress::default();
        let mut told: Option<Instant> = None;
        let reader = self.reader.clone();
        let mut sink = blocking(move || reader.install(generation)).await?;
        loop {
            match parts.next().await? {
                SnapshotPart::Rows {
                    rows,
                    expected_bytes,
                    last,
                } => {
                    if told.is_none() && last > Index::ZERO {
                        let event = Event::SnapshotBegun {
                            partition,
                            generation,
                            last,
                        };
                        self.shared.inbox.push(Input::Event(event));
                    }
                    self.throttle.pass(rows.len()).await;
                    copying.bytes.increment(rows.len() as u64);
                    progress.received_bytes += rows.len() as u64;
                    progress.expected_bytes = expected_bytes;
                    sink = blocking(move || sink.write_chunk(rows).map(|()| sink)).await?;
                    if told.is_none_or(|at| at.elapsed() >= PROGRESS_EVERY) {
                        told = Some(Instant::now());
                        let event = Event::SnapshotProgress {
                            partition,
                            generation,
                            progress,
                        };
                        self.shared.inbox.push_quietly(Input::Event(event));
                    }
                }
                SnapshotPart::End { mark, lineage } => {
                    return blocking(move || {
                        let sink: SnapshotSink = sink;
                        sink.finish(mark, &lineage).map(|()| (mark, lineage))
                    })
                    .await;
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    act: impl FnOnce() -> Result<T, store::StorageError> + Send + 'static,
) -> Result<T, String> {
    spawn_blocking(act)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}
