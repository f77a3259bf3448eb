//! The one thread that writes a coordinator's disk. Where the network is simulated it is a
//! task, on simulated time like all else: see [`WriteOn`].
//!
//! Whatever waits when it comes round goes into one fjall batch and one flush
//! (fjall persists under its journal's lock and groups nothing by itself), and only
//! then is everybody told, in order. After a failure nothing is ever written again:
//! what reached the disk is unknown, and the process is to stop.
//!
//! Each batch is flushed before the next one is begun, so that one that is broken with
//! a whole one behind it was damaged and not torn. When the disk falls idle, and when it
//! closes, a batch follows that is worth nothing by itself: it says so of the last one
//! that was acknowledged (rule 12).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use fjall::{Database, Keyspace, PersistMode};
use metrics::{Counter, Histogram};
use openraft::storage::LogFlushed;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::format::{self, keys};
use super::witness::Witness;
use crate::coordinator::raft::TypeConfig;

/// The most requests that one flush covers.
const GROUP_MAX: usize = 256;
/// For how long nothing is asked for before the disk counts as idle.
const IDLE: Duration = Duration::from_millis(100);
/// How often a task looks into the queue.
const LOOK: Duration = Duration::from_millis(1);

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
    /// Nobody: a hint that goes along with the next flush, or with that of an idle disk.
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
    requests: Sender<Request>,
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
        let (requests, queue) = crossbeam_channel::unbounded();
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
    queue: Receiver<Request>,
    failed: Arc<AtomicBool>,
    /// Hints that wait for a flush.
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Whether the last batch proves the one before it. At first the last one is that
    /// which was written when the disk was opened.
    is_last_proven: bool,
    flushes: Counter,
    seconds: Histogram,
    /// See [`Writer::hang`].
    #[cfg(test)]
    hang: Arc<parking_lot::Mutex<()>>,
}

impl Writing {
    fn new(disk: Disk, queue: Receiver<Request>, failed: Arc<AtomicBool>) -> Self {
        Self {
            disk,
            queue,
            failed,
            changes: BTreeMap::new(),
            is_last_proven: false,
            flushes: metrics::counter!("cairn_coordinator_log_flushes_total"),
            seconds: metrics::histogram!("cairn_coordinator_log_flush_seconds"),
            #[cfg(test)]
            hang: Arc::default(),
        }
    }

    fn run(mut self) {
        loop {
            let first = if self.has_nothing_to_write() {
                let first = self.queue.recv();
                first.map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                self.queue.recv_timeout(IDLE)
            };
            if self.write(first) {
                return;
            }
        }
    }

    /// As [`Self::run`], on the time of the runtime, which the queue knows nothing of.
    async fn run_at(mut self, pace: Pace) {
        let mut idle = Duration::ZERO;
        loop {
            let first = match self.queue.try_recv() {
                Ok(first) => Ok(first),
                Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) => {
                    sleep(LOOK).await;
                    idle += LOOK;
                    if idle < IDLE || self.has_nothing_to_write() {
                        continue;
                    }
                    Err(RecvTimeoutError::Timeout)
                }
            };
            idle = Duration::ZERO;
            sleep(pace()).await;
            if self.write(first) {
                return;
            }
        }
    }

    fn has_nothing_to_write(&self) -> bool {
        self.is_last_proven && self.changes.is_empty()
    }

    /// Writes the request and those that wait behind it, or what an idle disk is given,
    /// and tells whose they are. Whether that was the last.
    fn write(&mut self, first: Result<Request, RecvTimeoutError>) -> bool {
        let is_idle = first.is_err();
        let is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
        let mut waiting = Vec::new();
        for request in first
            .into_iter()
            .chain(self.queue.try_iter().take(GROUP_MAX))
        {
            // A later change of a key replaces an earlier one: the items of a fjall
            // batch share a sequence number, so that each key must stand there once.
            self.changes.extend(request.changes);
            if !matches!(request.done, Done::Nobody) {
                waiting.push(request.done);
            }
        }
        if waiting.is_empty() && !is_idle {
            // Hints wait for a flush that takes them along.
            return false;
        }
        if is_over && self.has_nothing_to_write() {
            return true;
        }
        self.is_last_proven = waiting.is_empty();
        let batch = std::mem::take(&mut self.changes);
        let outcome = if self.failed.load(Ordering::Acquire) {
            Err(WriteError::Failed(" before".to_owned()))
        } else {
            let begun = Instant::now();
            #[cfg(test)]
            drop(self.hang.lock());
            let outcome = self.disk.commit(batch);
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
        is_over
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
    /// Writes the changes as one batch and flushes it.
    pub(super) fn commit(
        &mut self,
        mut changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    ) -> Result<(), WriteError> {
        let number = self.written + 1;
        changes.insert(keys::WRITTEN.to_vec(), Some(format::encode(&number)));
        let mut batch = self.database.batch().durability(Some(PersistMode::SyncAll));
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(&self.keyspace, key, value),
                None => batch.remove(&self.keyspace, key),
            }
        }
        batch
            .commit()
            .map_err(|e| WriteError::Failed(format!(": {e}")))?;
        self.written = number;
        if let Err(error) = self.witness.note(number) {
            // It only ever says too little then.
            tracing::warn!(%error, "note a flushed write");
        }
        Ok(())
    }
}
