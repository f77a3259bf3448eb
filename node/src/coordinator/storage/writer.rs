//! The one thread that writes a coordinator's disk.
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
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use fjall::{Database, Keyspace, PersistMode};
use openraft::storage::LogFlushed;
use tokio::sync::oneshot;

use super::format::{self, keys};
use super::witness::Witness;
use crate::coordinator::raft::TypeConfig;

/// The most requests that one flush covers.
const GROUP_MAX: usize = 256;
/// For how long nothing is asked for before the disk counts as idle.
const IDLE: Duration = Duration::from_millis(100);

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
    let mut changes = BTreeMap::new();
    // The last batch is the one that was written when the disk was opened.
    let mut is_last_proven = false;
    loop {
        let first = if is_last_proven && changes.is_empty() {
            queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            queue.recv_timeout(IDLE)
        };
        let is_idle = first.is_err();
        let is_over = matches!(first, Err(RecvTimeoutError::Disconnected));
        let mut waiting = Vec::new();
        for request in first.into_iter().chain(queue.try_iter().take(GROUP_MAX)) {
            // A later change of a key replaces an earlier one: the items of a fjall
            // batch share a sequence number, so that each key must stand there once.
            changes.extend(request.changes);
            if !matches!(request.done, Done::Nobody) {
                waiting.push(request.done);
            }
        }
        if waiting.is_empty() && !is_idle {
            // Hints wait for a flush that takes them along.
            continue;
        }
        if is_over && is_last_proven && changes.is_empty() {
            return;
        }
        is_last_proven = waiting.is_empty();
        let batch = std::mem::take(&mut changes);
        let outcome = if failed.load(Ordering::Acquire) {
            Err(WriteError::Failed(" before".to_owned()))
        } else {
            let begun = Instant::now();
            hold();
            let outcome = disk.commit(batch);
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
        if is_over {
            return;
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
