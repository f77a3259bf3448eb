//! What a coordinator keeps on disk: its identity, Raft's vote and log, and the
//! last snapshot of the cluster's state, all in one fjall keyspace.
//!
//! Invariants:
//! - Whatever is acknowledged to Raft was flushed before ([`writer`]).
//! - A disk that lost any of that is refused, and is left as it is, so that it is refused
//!   the next time too: a forgotten vote is given twice. [`check_journals`] and
//!   [`witness`] tell.
//! - Whatever was read back at the start is written and flushed once more before it
//!   is used: after a failed flush and a restart it may have been in the page cache
//!   alone (rule 12).
//! - The retained log is in memory too, so that reading it never waits for a disk;
//!   snapshots bound it.

mod format;
mod identity;
mod log_store;
mod machine;
mod rewrite;
#[cfg(test)]
mod tests;
mod witness;
mod writer;

use std::collections::BTreeMap;
use std::path::Path;

use fjall::{Database, KeyspaceCreateOptions};
use tokio::sync::oneshot;

pub(super) use identity::Identity;
pub(super) use log_store::LogStore;
pub(super) use machine::{Machine, View};
pub(super) use rewrite::OnDisk;
pub use writer::{Pace, WriteOn};
pub(super) use writer::{WriteError, Writer};

use format::{DecodeError, keys};
use witness::Witness;
use writer::Disk;

use super::raft::{Entry, LogId, RaftId, Vote};
use crate::disk::{DirectoryError, lock};
use crate::store::journal_check::{Cut, Journals};
use crate::store::remove_unfinished;

const MUST_NOT_VOTE: &str = "it must not vote any more. Empty the directory, and the \
     coordinator joins anew under another Raft id";

/// Why the disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    /// fjall's own reasons.
    #[error("{0}")]
    Fjall(String),
    /// Another process has it, or it cannot be locked.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Something stored cannot be read.
    #[error("{what}: {source}")]
    Stored {
        /// What.
        what: &'static str,
        /// Why.
        source: DecodeError,
    },
    /// The log has a hole, or does not continue the snapshot.
    #[error("the Raft log is broken: {0}")]
    Log(String),
    /// The thread that writes could not be started, or failed.
    #[error("{0}")]
    Write(#[from] WriteError),
    /// Less is there than was flushed.
    #[error("{missing} flushed writes are gone from the disk: {MUST_NOT_VOTE}")]
    Lost {
        /// How many.
        missing: u64,
    },
    /// What was flushed is broken.
    #[error(
        "the disk is damaged: {} at byte {} of journal {}, and what stands behind it was \
         written after it had been flushed: {MUST_NOT_VOTE}",
        .0.what, .0.at, .0.journal
    )]
    Damaged(Cut),
    /// No coordinator ever used the directory.
    #[error("no coordinator's data is there")]
    Nobody,
    /// A person went on without this disk.
    #[error(
        "the coordinators lost their majority, and a person went on with another disk, as group \
         {by}: {MUST_NOT_VOTE}"
    )]
    Superseded {
        /// The group that exists.
        by: String,
    },
    /// The directory belongs to another coordinator.
    #[error("the directory belongs to the coordinator `{found}`, and this one is `{expected}`")]
    OtherName {
        /// On disk.
        found: String,
        /// Configured.
        expected: String,
    },
}

impl From<fjall::Error> for OpenError {
    fn from(error: fjall::Error) -> Self {
        Self::Fjall(error.to_string())
    }
}

/// An opened disk.
#[derive(Debug)]
pub(super) struct Opened {
    /// Who this disk is.
    pub(super) identity: Identity,
    /// Raft's log.
    pub(super) log: LogStore,
    /// The cluster's state.
    pub(super) machine: Machine,
    /// What machine and identity write through.
    pub(super) writer: Writer,
    /// Hears when the last user of the disk is gone and it is closed.
    pub(super) closed: oneshot::Receiver<()>,
}

/// The vote of a disk whose process ended. openraft would let a leader that restarts lead
/// on at once in its term; its supervisor would begin the numbers of its rounds again, and
/// take answers to the process before it for its own (rule 1). As no more than a candidate
/// of that term it has to be elected in a later one.
fn as_candidate(mut vote: Vote, own: RaftId) -> Vote {
    if vote.leader_id().voted_for() == Some(own) {
        vote.committed = false;
    }
    vote
}

/// What an opened disk holds.
struct Contents {
    disk: Disk,
    identity: Identity,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    snapshot: Option<Vec<u8>>,
    entries: Vec<Entry>,
}

/// Opens the directory, drawing an identity if it is empty. Blocks.
///
/// # Errors
/// See [`OpenError`].
pub(super) fn open(directory: &Path, name: &str, on: WriteOn) -> Result<Opened, OpenError> {
    std::fs::create_dir_all(directory).map_err(|e| OpenError::Fjall(e.to_string()))?;
    let Contents {
        disk,
        identity,
        vote,
        committed,
        purged,
        snapshot,
        entries,
    } = read(directory, Some(name))?;
    let vote = vote.map(|vote| as_candidate(vote, identity.raft_id));
    let (writer, closed) = Writer::spawn(disk, on)?;
    let log = LogStore::new(writer.clone(), vote, committed, purged, entries)?;
    let stored = |source| OpenError::Stored {
        what: "the snapshot",
        source,
    };
    let machine = Machine::restore(writer.clone(), snapshot.as_deref()).map_err(stored)?;
    if purged > machine.applied() {
        return Err(OpenError::Log(
            "what was purged is not in the snapshot".to_owned(),
        ));
    }
    Ok(Opened {
        identity,
        log,
        machine,
        writer,
        closed,
    })
}

/// Reads everything, and writes and flushes it once more. Without a name, the disk may be
/// that of any coordinator, but has to be one.
fn read(directory: &Path, name: Option<&str>) -> Result<Contents, OpenError> {
    let failed = |e: std::io::Error| OpenError::Fjall(e.to_string());
    let path = directory.join("log");
    if name.is_none() && !path.is_dir() {
        return Err(OpenError::Nobody);
    }
    let lock = lock(directory)?;
    remove_unfinished(&path).map_err(failed)?;
    check_journals(&path)?;
    let database = Database::builder(path)
        .worker_threads(1)
        .cache_size(4 << 20)
        .open()?;
    let keyspace = database.keyspace("raft", || {
        KeyspaceCreateOptions::default().max_memtable_size(8 << 20)
    })?;
    let (witness, witnessed) = Witness::open(&directory.join("witness")).map_err(failed)?;

    let stored = |what: &'static str| move |source| OpenError::Stored { what, source };
    let get = |key: &[u8]| keyspace.get(key);
    format::check(get(keys::FORMAT)?.as_deref()).map_err(stored("the format number"))?;
    let identity = match (get(keys::IDENTITY)?, name) {
        (Some(bytes), _) => format::decode::<Identity>(&bytes).map_err(stored("the identity"))?,
        (None, Some(name)) => Identity::draw(name),
        (None, None) => return Err(OpenError::Nobody),
    };
    if let Some(by) = &identity.superseded_by {
        return Err(OpenError::Superseded { by: by.clone() });
    }
    if let Some(name) = name.filter(|name| *name != identity.name) {
        return Err(OpenError::OtherName {
            found: identity.name,
            expected: name.to_owned(),
        });
    }
    let vote = get(keys::VOTE)?
        .map(|b| format::decode(&b))
        .transpose()
        .map_err(stored("the vote"))?;
    let committed = get(keys::COMMITTED)?
        .map(|b| format::decode(&b))
        .transpose()
        .map_err(stored("the committed log id"))?
        .flatten();
    let purged = get(keys::PURGED)?
        .map(|b| format::decode(&b))
        .transpose()
        .map_err(stored("the purged log id"))?;
    let snapshot = get(keys::SNAPSHOT)?.map(|bytes| bytes.to_vec());
    let written = get(keys::WRITTEN)?
        .map(|b| format::decode::<u64>(&b))
        .transpose()
        .map_err(stored("the number of writes"))?
        .unwrap_or(0);
    if witnessed > written {
        return Err(OpenError::Lost {
            missing: witnessed - written,
        });
    }

    let mut rewritten = BTreeMap::new();
    rewritten.insert(keys::FORMAT.to_vec(), Some(format::current()));
    rewritten.insert(keys::IDENTITY.to_vec(), Some(format::encode(&identity)));
    for key in [keys::VOTE, keys::COMMITTED, keys::PURGED, keys::SNAPSHOT] {
        if let Some(bytes) = get(key)? {
            rewritten.insert(key.to_vec(), Some(bytes.to_vec()));
        }
    }
    let mut entries = Vec::new();
    for row in keyspace.prefix(keys::LOG) {
        let (key, bytes) = row.into_inner()?;
        entries.push(format::decode(&bytes).map_err(stored("a log entry"))?);
        rewritten.insert(key.to_vec(), Some(bytes.to_vec()));
    }
    let mut disk = Disk {
        database,
        keyspace,
        witness,
        written,
        _lock: lock,
    };
    disk.commit(rewritten)?;
    Ok(Contents {
        disk,
        identity,
        vote,
        committed,
        purged,
        snapshot,
        entries,
    })
}

/// Cuts off what a power loss tore, and makes durable what is left, as a data node does
/// with its store. But there the write-ahead log makes good for what is cut, and here
/// nothing does: a break with anything whole behind it was flushed and acknowledged.
fn check_journals(path: &Path) -> Result<(), OpenError> {
    let failed = |e: std::io::Error| OpenError::Fjall(format!("check the journals: {e}"));
    let journals = Journals::read(path).map_err(failed)?;
    let damaged = journals.is_whole_behind_cut().map_err(failed)?;
    match journals.cut() {
        Some(cut) if damaged => return Err(OpenError::Damaged(cut)),
        Some(cut) => tracing::info!(
            journal = cut.journal,
            at = cut.at,
            what = cut.what,
            "cut the end of the Raft log's journal, as a power loss leaves it"
        ),
        None => {}
    }
    journals.settle().map_err(failed)?;
    Ok(())
}
