//! The one thread that writes a coordinator's disk. Where the network is simulated it is a
//! task, on simulated time like all else: see [`WriteOn`].
//!
//! Whatever waits when it comes round goes into one fjall batch and one flush
//! (fjall persists under its journal's lock and groups nothing by itself), and only
//! then is everybody told, in order. After a failure nothing is ever written again:
//! what reached the disk is unknown, and the process is to stop.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fjall::{Database, Keyspace, PersistMode};
use metrics::{Counter, Histogram};
use openraft::storage::LogFlushed;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::format::{self, keys};
use super::witness::Witness;
use crate::coordinator::raft::TypeConfig;

/// The most requests that one flush covers.
const GROUP_MAX: usize = 256;

/// Why something was not written. The process is to stop.
#[derive(Clone, Debug, thiserror::Error)]
pub(in super::super) enum WriteError {
    /// This write, or one before it, failed.
    #[error("a write or flush of the coordinator's disk failed{0}")]
    Failed(String),
    /// The thread could not be started.
    #[error("start the writer thread: {0}")]
    Thread(String),
}

/// Who is told once a request is durable.
pub(super) enum Done {
    /// Raft, of an append.
    Raft(LogFlushed<TypeConfig>),
    /// A task that waits.
    Task(oneshot::Sender<Result<(), WriteError>>),
    /// Nobody: a hint that goes along with the next flush.
    Nobody,
}

/// Puts (`Some`) and removals (`None`).
type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

struct Request {
    changes: Changes,
    done: Done,
}

/// How long a simulated disk takes for the next batch.
pub type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Where a coordinator's disk is written.
#[derive(Clone, Default)]
pub enum WriteOn {
    /// On a thread of its own, that may wait for the disk.
    #[default]
    Thread,
    /// In a task of the runtime that the disk is opened in: what waits when the disk's
    /// time is over is written at once. With the runtime dies what waits.
    Task(Pace),
}

impl fmt::Debug for WriteOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Thread => "Thread",
            Self::Task(_) => "Task",
        })
    }
}

/// A handle to the thread. It ends, and the database closes, with the last handle.
#[derive(Clone, Debug)]
pub(in super::super) struct Writer {
    requests: mpsc::UnboundedSender<Request>,
    failed: Arc<AtomicBool>,
    /// A disk that hangs, for tests: nothing is written while it is locked.
    #[cfg(test)]
    pub(in super::super) hang: Arc<parking_lot::Mutex<()>>,
}

impl Writer {
    /// Starts to write. The receiver hears when the database is closed.
    pub(super) fn spawn(
        disk: Disk,
        on: WriteOn,
    ) -> Result<(Self, oneshot::Receiver<()>), WriteError> {
        let (requests, queue) = mpsc::unbounded_channel();
        let failed = Arc::new(AtomicBool::new(false));
        let (closed, receiver) = oneshot::channel();
        let writing = Writing::new(disk, queue, Arc::clone(&failed));
        #[cfg(test)]
        let hang = Arc::clone(&writing.hang);
        match on {
            WriteOn::Thread => {
                std::thread::Builder::new()
                    .name("raft-writer".to_owned())
                    .spawn(move || {
                        writing.run();
                        let _ = closed.send(());
                    })
                    .map_err(|e| WriteError::Thread(e.to_string()))?;
            }
            WriteOn::Task(pace) => {
                tokio::spawn(async move {
                    writing.run_at(pace).await;
                    let _ = closed.send(());
                });
            }
        }
        let writer = Self {
            requests,
            failed,
            #[cfg(test)]
            hang,
        };
        Ok((writer, receiver))
    }

    /// Whether a write failed: the process is to stop.
    pub(in super::super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// Hands changes over; `done` hears of it once they are durable.
    pub(super) fn submit(&self, changes: Changes, done: Done) -> Result<(), WriteError> {
        if self.has_failed() {
            return Err(WriteError::Failed(" before".to_owned()));
        }
        self.requests
            .send(Request { changes, done })
            .map_err(|_| WriteError::Failed(": the writer thread ended".to_owned()))
    }

    /// Writes and waits until it is durable.
    pub(in super::super) async fn write(&self, changes: Changes) -> Result<(), WriteError> {
        let (sender, receiver) = oneshot::channel();
        self.submit(changes, Done::Task(sender))?;
        receiver
            .await
            .unwrap_or_else(|_| Err(WriteError::Failed(": the writer thread ended".to_owned())))
    }
}

/// The other end of a [`Writer`].
struct Writing {
    disk: Disk,
    queue: mpsc::UnboundedReceiver<Request>,
    failed: Arc<AtomicBool>,
    flushes: Counter,
    seconds: Histogram,
    /// See [`Writer::hang`].
    #[cfg(test)]
    hang: Arc<parking_lot::Mutex<()>>,
}

impl Writing {
    fn new(disk: Disk, queue: mpsc::UnboundedReceiver<Request>, failed: Arc<AtomicBool>) -> Self {
        Self {
            disk,
            queue,
            failed,
            flushes: metrics::counter!("cairn_coordinator_log_flushes_total"),
            seconds: metrics::histogram!("cairn_coordinator_log_flush_seconds"),
            #[cfg(test)]
            hang: Arc::default(),
        }
    }

    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            self.write(first);
        }
    }

    async fn run_at(mut self, pace: Pace) {
        while let Some(first) = self.queue.recv().await {
            sleep(pace()).await;
            self.write(first);
        }
    }

    /// Writes the request and those that wait behind it, and tells whose they are.
    fn write(&mut self, first: Request) {
        let mut changes = BTreeMap::new();
        let mut waiting = Vec::new();
        let more = std::iter::from_fn(|| self.queue.try_recv().ok());
        for request in std::iter::once(first).chain(more.take(GROUP_MAX)) {
            // A later change of a key replaces an earlier one: the items of a fjall
            // batch share a sequence number, so that each key must stand there once.
            changes.extend(request.changes);
            waiting.push(request.done);
        }
        let outcome = if self.failed.load(Ordering::Acquire) {
            Err(WriteError::Failed(" before".to_owned()))
        } else {
            let flushed = waiting.iter().any(|done| !matches!(done, Done::Nobody));
            let begun = std::time::Instant::now();
            #[cfg(test)]
            drop(self.hang.lock());
            let outcome = self.disk.commit(changes, flushed);
            self.seconds.record(begun.elapsed().as_secs_f64());
            self.flushes.increment(1);
            outcome
        };
        if let Err(error) = &outcome {
            self.failed.store(true, Ordering::Release);
            tracing::error!(%error, "write the coordinator's disk");
        }
        for done in waiting {
            match done {
                Done::Raft(callback) => {
                    callback.log_io_completed(outcome.clone().map_err(io::Error::other));
                }
                Done::Task(sender) => {
                    let _ = sender.send(outcome.clone());
                }
                Done::Nobody => {}
            }
        }
    }
}

/// What is written to.
pub(super) struct Disk {
    pub(super) database: Database,
    pub(super) keyspace: Keyspace,
    pub(super) witness: Witness,
    /// How many flushed batches there were.
    pub(super) written: u64,
    /// Goes last: nobody else opens what is not closed yet.
    pub(super) _lock: std::fs::File,
}

impl Disk {
    /// Writes the changes as one batch.
    pub(super) fn commit(
        &mut self,
        mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        flushed: bool,
    ) -> Result<(), WriteError> {
        let number = self.written + 1;
        if flushed {
            changes.insert(keys::WRITTEN.to_vec(), Some(format::encode(&number)));
        }
        let mut batch = self
            .database
            .batch()
            .durability(flushed.then_some(PersistMode::SyncAll));
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, value),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch
            .commit()
            .map_err(|e| WriteError::Failed(format!(": {e}")))?;
        if flushed {
            self.written = number;
            if let Err(error) = self.witness.note(number) {
                // It only ever says too little then.
                tracing::warn!(%error, "note a flushed write");
            }
        }
        Ok(())
    }
}
