//! Raft's log and vote.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::sync::Arc;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader, StorageIOError};
use parking_lot::Mutex;

use super::OpenError;
use super::format::{self, keys};
use super::writer::{Done, Writer};
use crate::coordinator::raft::{Entry, LogId, StorageError, TypeConfig, Vote};

/// The most entries that one read returns to replication.
const READ_MAX: u64 = 256;

#[derive(Debug)]
struct Log {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

/// The log: in memory, behind a disk that is always ahead of what was acknowledged.
#[derive(Clone, Debug)]
pub(in super::super) struct LogStore {
    log: Arc<Mutex<Log>>,
    writer: Writer,
}

impl LogStore {
    pub(super) fn new(
        writer: Writer,
        vote: Option<Vote>,
        committed: Option<LogId>,
        purged: Option<LogId>,
        entries: Vec<Entry>,
    ) -> Result<Self, OpenError> {
        let first = purged.map_or(0, |p| p.index + 1);
        for (expected, entry) in (first..).zip(&entries) {
            let index = entry.log_id.index;
            if index != expected {
                return Err(OpenError::Log(format!(
                    "entry {index} stands where {expected} belongs"
                )));
            }
        }
        let last = entries.last().map(|e| e.log_id).or(purged);
        let log = Log {
            entries: entries.into_iter().map(|e| (e.log_id.index, e)).collect(),
            purged,
            vote,
            // Only a hint, and not flushed with care: never beyond the log.
            committed: committed.filter(|c| Some(*c) <= last),
        };
        Ok(Self {
            log: Arc::new(Mutex::new(log)),
            writer,
        })
    }

    /// Whether nothing was ever appended here.
    pub(in super::super) fn is_empty(&self) -> bool {
        let log = self.log.lock();
        log.entries.is_empty() && log.purged.is_none()
    }

    /// Whether anything of it is known to be committed.
    pub(in super::super) fn has_committed(&self) -> bool {
        let log = self.log.lock();
        log.committed.is_some() || log.purged.is_some()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let log = self.log.lock();
        Ok(log.entries.range(range).map(|(_, e)| e.clone()).collect())
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        let end = end.min(start.saturating_add(READ_MAX));
        self.try_get_log_entries(start..end).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let log = self.log.lock();
        let last = log.entries.last_key_value().map(|(_, e)| e.log_id);
        Ok(LogState {
            last_purged_log_id: log.purged,
            last_log_id: last.or(log.purged),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.writer
            .write(vec![(keys::VOTE.to_vec(), Some(format::encode(vote)))])
            .await
            .map_err(|e| StorageIOError::write_vote(&e))?;
        self.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.log.lock().vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.log.lock().committed = committed;
        // A hint costs no flush of its own.
        let change = (keys::COMMITTED.to_vec(), Some(format::encode(&committed)));
        self.writer
            .submit(vec![change], Done::Nobody)
            .map_err(|e| StorageIOError::write(&e).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut changes = Vec::new();
        {
            let mut log = self.log.lock();
            for entry in entries {
                let index = entry.log_id.index;
                changes.push((keys::entry(index), Some(format::encode(&entry))));
                log.entries.insert(index, entry);
            }
        }
        self.writer
            .submit(changes, Done::Raft(callback))
            .map_err(|e| StorageIOError::write_logs(&e).into())
    }

    async fn truncate(&mut self, since: LogId) -> Result<(), StorageError> {
        let cut = self.log.lock().entries.split_off(&since.index);
        self.remove(cut.into_keys()).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), StorageError> {
        let gone: Vec<u64> = {
            let mut log = self.log.lock();
            let kept = log.entries.split_off(&(upto.index + 1));
            log.purged = Some(upto);
            std::mem::replace(&mut log.entries, kept)
                .into_keys()
                .collect()
        };
        let mut changes: Vec<_> = gone.into_iter().map(|i| (keys::entry(i), None)).collect();
        changes.push((keys::PURGED.to_vec(), Some(format::encode(&upto))));
        self.writer
            .write(changes)
            .await
            .map_err(|e| StorageIOError::write_logs(&e).into())
    }
}

impl LogStore {
    async fn remove(&self, indexes: impl Iterator<Item = u64>) -> Result<(), StorageError> {
        let changes = indexes.map(|i| (keys::entry(i), None)).collect();
        self.writer
            .write(changes)
            .await
            .map_err(|e| StorageIOError::write_logs(&e).into())
    }
}
