//! Snapshots: read for other nodes, and fetched from them into a fresh generation
//! (rule 13).

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Mark, NodeId, PartitionId, ReplicaId};
use cairn_core::replication::{Event, Generation};
use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::handle::Handle;
use super::inbox::Input;
use super::links::{SnapshotFetch, SnapshotWanted};
use super::shared::Shared;
use crate::peer::{SnapshotPart, SnapshotReader, SnapshotRefusal, SnapshotSource, Throttle};
use crate::store::{self, ApplyHandle, SnapshotSink, StateReader};

/// A view that is being streamed. While it lives, the log keeps what follows it.
struct Served {
    view: store::SnapshotSource,
    to: NodeId,
    partition: PartitionId,
    shared: Arc<Shared>,
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
        Self {
            view,
            to,
            partition,
            shared,
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

    fn next_chunk(&mut self, bytes: usize) -> Result<Option<Bytes>, String> {
        self.view.next_chunk(bytes).map_err(|error| {
            let partitions = vec![self.partition];
            self.shared
                .inbox
                .push(Input::Event(Event::Corrupt { partitions }));
            error.to_string()
        })
    }
}

impl SnapshotSource for Handle {
    fn open(
        &self,
        to: NodeId,
        partition: PartitionId,
        epoch: Epoch,
        replica: ReplicaId,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotReader>, SnapshotRefusal>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let published = shared
                .board
                .load(partition)
                .filter(|here| here.replica == replica && !shared.is_damaged(partition, replica))
                .ok_or(SnapshotRefusal::NotHere { partition, replica })?;
            if published.epoch < epoch {
                return Err(SnapshotRefusal::Behind { partition, replica });
            }
            let failed = |error: &dyn fmt::Display| SnapshotRefusal::Failed(error.to_string());
            let reader = shared.reader.load_full();
            let reader = reader.ok_or_else(|| failed(&"the storage is not open"))?;
            let opened = spawn_blocking(move || reader.snapshot(published.generation)).await;
            let view = opened
                .map_err(|error| failed(&error))?
                .map_err(|error| failed(&error))?;
            let served = Served::new(view, to, partition, shared);
            Ok(Box::new(served) as Box<dyn SnapshotReader>)
        })
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
    pub(super) async fn run(self, wanted: SnapshotWanted, generation: Generation) {
        let partition = wanted.partition;
        let event = match self.fetch(wanted, generation).await {
            Ok((mark, lineage)) => {
                metrics::counter!("cairn_snapshots_fetched_total").increment(1);
                tracing::info!(%partition, from = %wanted.from, %mark.position, "fetched a snapshot");
                Event::SnapshotFetched {
                    partition,
                    generation,
                    mark,
                    lineage,
                }
            }
            Err(error) => {
                metrics::counter!("cairn_snapshots_failed_total").increment(1);
                tracing::warn!(%partition, from = %wanted.from, error, "could not fetch a snapshot");
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
        wanted: SnapshotWanted,
        generation: Generation,
    ) -> Result<(Mark, Vec<Mark>), String> {
        let _permit = self
            .at_once
            .acquire()
            .await
            .map_err(|error| error.to_string())?;
        let mut parts = self.source.fetch(wanted).await?;
        let reader = self.reader.clone();
        let mut sink = blocking(move || reader.install(generation)).await?;
        loop {
            match parts.next().await? {
                SnapshotPart::Rows(chunk) => {
                    self.throttle.pass(chunk.len()).await;
                    sink = blocking(move || sink.write_chunk(chunk).map(|()| sink)).await?;
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
