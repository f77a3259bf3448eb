use std::path::Path;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, LogState, RaftLogReader, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::format::{self, keys};
use super::*;
use crate::coordinator::raft::{Command, Entry, LogId, StorageError, TypeConfig, Vote};

struct OnDisk;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for OnDisk {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
        Ok((dir, opened.log, opened.machine))
    }
}

#[test]
fn openrafts_own_suite_accepts_the_store() {
    Suite::test_all(OnDisk).unwrap();
}

fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term, 7), index)
}

fn blank(term: u64, index: u64) -> Entry {
    Entry {
        log_id: id(term, index),
        payload: EntryPayload::Blank,
    }
}

fn create(index: u64) -> Entry {
    Entry {
        log_id: id(1, index),
        payload: EntryPayload::Normal(Command::CreateCluster {
            cluster_id: "c".to_owned(),
            settings: crate::coordinator::tests::settings(1),
        }),
    }
}

/// Closes a store and opens it again.
async fn reopened(opened: Opened, dir: &Path) -> Opened {
    let Opened {
        identity,
        log,
        machine,
        writer,
        closed,
    } = opened;
    drop((log, machine, writer));
    closed.await.unwrap();
    let again = open(dir, "a", WriteOn::Thread).unwrap();
    assert_eq!(again.identity, identity);
    again
}

#[tokio::test]
async fn a_leader_that_restarts_is_a_candidate_of_its_term() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    let own = opened.identity.raft_id;
    let vote = Vote::new_committed(3, own);
    opened.log.save_vote(&vote).await.unwrap();
    let mut again = reopened(opened, dir.path()).await;
    let found = again.log.read_vote().await.unwrap();
    assert_eq!(found, Some(Vote::new(3, own)));
}

#[tokio::test]
async fn vote_log_and_snapshot_are_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    assert!(opened.log.is_empty());
    let vote = Vote::new_committed(3, 7);
    opened.log.save_vote(&vote).await.unwrap();
    let entries = [blank(1, 0), create(1)]
        .into_iter()
        .chain((2..9).map(|i| blank(1, i)));
    opened
        .log
        .blocking_append(entries.clone().collect::<Vec<_>>())
        .await
        .unwrap();
    opened.log.truncate(id(1, 7)).await.unwrap();
    opened.log.blocking_append([blank(2, 7)]).await.unwrap();
    opened.log.save_committed(Some(id(2, 7))).await.unwrap();
    opened.machine.apply(entries.take(5)).await.unwrap();
    opened.machine.build_snapshot().await.unwrap();
    opened.log.purge(id(1, 3)).await.unwrap();

    let mut again = reopened(opened, dir.path()).await;
    assert!(!again.log.is_empty());
    assert_eq!(again.log.read_vote().await.unwrap(), Some(vote));
    assert_eq!(again.log.read_committed().await.unwrap(), Some(id(2, 7)));
    assert_eq!(
        again.log.get_log_state().await.unwrap(),
        LogState {
            last_purged_log_id: Some(id(1, 3)),
            last_log_id: Some(id(2, 7)),
        }
    );
    let log = again.log.try_get_log_entries(..).await.unwrap();
    let ids: Vec<LogId> = log.iter().map(|e| e.log_id).collect();
    assert_eq!(ids, [id(1, 4), id(1, 5), id(1, 6), id(2, 7)]);
    let (applied, _) = again.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(id(1, 4)));
    assert_eq!(again.machine.view().borrow().map.cluster_id, "c");
}

#[tokio::test]
async fn an_older_snapshot_never_replaces_an_installed_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    opened
        .machine
        .apply([blank(1, 0), create(1)])
        .await
        .unwrap();
    let newer = opened.machine.build_snapshot().await.unwrap();
    let mut meta = newer.meta.clone();
    meta.last_log_id = Some(id(1, 50));
    opened
        .machine
        .install_snapshot(&meta, newer.snapshot)
        .await
        .unwrap();
    // A builder that began before the installation, as far as it knows.
    let current = opened
        .machine
        .get_current_snapshot()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(current.meta.last_log_id, Some(id(1, 50)));
    let mut again = reopened(opened, dir.path()).await;
    let (applied, _) = again.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(id(1, 50)));
}

#[tokio::test]
async fn a_directory_is_one_coordinators_and_one_processes() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    let refused = open(dir.path(), "a", WriteOn::Thread)
        .unwrap_err()
        .to_string();
    let holder = format!("in use by process {}", std::process::id());
    assert!(refused.contains(&holder), "{refused}");
    let opened = reopened(opened, dir.path()).await;
    let first = opened.identity.clone();
    drop((opened.log, opened.machine, opened.writer));
    opened.closed.await.unwrap();
    assert!(matches!(
        open(dir.path(), "b", WriteOn::Thread),
        Err(OpenError::OtherName { .. })
    ));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open(elsewhere.path(), "a", WriteOn::Thread).unwrap();
    assert_ne!(other.identity.raft_id, first.raft_id);
}

#[tokio::test]
async fn a_newer_format_and_a_hole_in_the_log_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    let entries: Vec<Entry> = (0..5).map(|i| blank(1, i)).collect();
    opened.log.blocking_append(entries).await.unwrap();
    opened
        .writer
        .write(vec![(keys::entry(2), None)])
        .await
        .unwrap();
    drop((opened.log, opened.machine, opened.writer));
    opened.closed.await.unwrap();
    assert!(matches!(
        open(dir.path(), "a", WriteOn::Thread),
        Err(OpenError::Log(_))
    ));

    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    opened
        .writer
        .write(vec![(
            keys::FORMAT.to_vec(),
            Some(vec![format::FORMAT + 1]),
        )])
        .await
        .unwrap();
    drop((opened.log, opened.machine, opened.writer));
    opened.closed.await.unwrap();
    assert!(matches!(
        open(dir.path(), "a", WriteOn::Thread),
        Err(OpenError::Stored { .. })
    ));
}

#[tokio::test]
async fn a_disk_that_lost_flushed_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    drop((opened.log, opened.machine, opened.writer));
    opened.closed.await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    copy(&dir.path().join("log"), &kept.path().join("log"));

    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    opened.log.save_vote(&Vote::new(9, 1)).await.unwrap();
    drop((opened.log, opened.machine, opened.writer));
    opened.closed.await.unwrap();
    // What was there before the vote, under the witness from after it.
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    copy(&kept.path().join("log"), &dir.path().join("log"));
    assert!(matches!(
        open(dir.path(), "a", WriteOn::Thread),
        Err(OpenError::Lost { missing: 2 })
    ));
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().unwrap().is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}
