//! The one thread that writes a coordinator's disk.
//!
//! Whatever waits when it comes round goes into one fjall batch and one flush
//! (fjall persists under its journal's lock and groups nothing by itself), and only
//! then is everybody told, in order. After a failure nothing is ever written again:
//! what reached the disk is unknown, and the process is to stop.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};
use fjall::{Database, Keyspace, PersistMode};
use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

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
    /// Starts the thread. The receiver hears when the database is closed.
    pub(super) fn spawn(disk: Disk) -> Result<(Self, oneshot::Receiver<()>), WriteError> {
        let (requests, queue) = crossbeam_channel::unbounded();
        let failed = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&failed);
        let (closed, receiver) = oneshot::channel();
        #[cfg(test)]
        let hang = Arc::new(parking_lot::Mutex::new(()));
        #[cfg(test)]
        let hangs = Arc::clone(&hang);
        let hold = move || {
            #[cfg(test)]
            drop(hangs.lock());
        };
        std::thread::Builder::new()
            .name("raft-writer".to_owned())
            .spawn(move || {
                serve(disk, &queue, &flag, &hold);
                let _ = closed.send(());
            })
            .map_err(|e| WriteError::Thread(e.to_string()))?;
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

fn serve(mut disk: Disk, queue: &Receiver<Request>, failed: &AtomicBool, hold: &impl Fn()) {
    let flushes = metrics::counter!("cairn_coordinator_log_flushes_total");
    let seconds = metrics::histogram!("cairn_coordinator_log_flush_seconds");
    while let Ok(first) = queue.recv() {
        let mut changes = BTreeMap::new();
        let mut waiting = Vec::new();
        for request in std::iter::once(first).chain(queue.try_iter().take(GROUP_MAX)) {
            // A later change of a key replaces an earlier one: the items of a fjall
            // batch share a sequence number, so that each key must stand there once.
            changes.extend(request.changes);
            waiting.push(request.done);
        }
        let outcome = if failed.load(Ordering::Acquire) {
            Err(WriteError::Failed(" before".to_owned()))
        } else {
            let flushed = waiting.iter().any(|done| !matches!(done, Done::Nobody));
            let begun = std::time::Instant::now();
            hold();
            let outcome = disk.commit(changes, flushed);
            seconds.record(begun.elapsed().as_secs_f64());
            flushes.increment(1);
            outcome
        };
        if let Err(error) = &outcome {
            failed.store(true, Ordering::Release);
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

/// What the thread writes to.
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
