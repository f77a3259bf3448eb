use std::path::{Path, PathBuf};
use std::time::Duration;

use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, EntryPayload, LogState, RaftLogReader, RaftSnapshotBuilder};
use tempfile::TempDir;

use super::format::{self, keys};
use super::*;
use crate::coordinator::raft::{Command, Entry, LogId, StorageError, TypeConfig, Vote};
use crate::samples::{self, copy_tree};
use crate::store::journal_check::tests::batch_ends;

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
    let identity = opened.identity.clone();
    close(opened).await;
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
    close(opened).await;
    assert!(matches!(
        open(dir.path(), "b", WriteOn::Thread),
        Err(OpenError::OtherName { .. })
    ));
    let elsewhere = tempfile::tempdir().unwrap();
    let other = open(elsewhere.path(), "a", WriteOn::Thread).unwrap();
    assert_ne!(other.identity.raft_id, first.raft_id);
}

#[tokio::test]
async fn a_log_with_a_hole_or_without_its_beginning_is_refused() {
    let purged = (keys::PURGED.to_vec(), Some(format::encode(&id(1, 4))));
    let all = (0..5).map(|index| (keys::entry(index), None));
    for changes in [
        vec![(keys::entry(0), None)],
        vec![(keys::entry(2), None)],
        // The snapshot that would hold what was purged is not there.
        all.chain([purged]).collect(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
        let entries: Vec<Entry> = (0..5).map(|i| blank(1, i)).collect();
        opened.log.blocking_append(entries).await.unwrap();
        opened.writer.write(changes).await.unwrap();
        close(opened).await;
        let refused = open(dir.path(), "a", WriteOn::Thread).map(|opened| opened.identity);
        assert!(matches!(refused, Err(OpenError::Log(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_newer_format_is_refused() {
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
    close(opened).await;
    assert!(matches!(
        open(dir.path(), "a", WriteOn::Thread),
        Err(OpenError::Stored { .. })
    ));
}

#[tokio::test]
async fn a_disk_that_lost_flushed_writes_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    close(open(dir.path(), "a", WriteOn::Thread).unwrap()).await;
    let kept = tempfile::tempdir().unwrap();
    copy_tree(&dir.path().join("log"), &kept.path().join("log"));

    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    opened.log.save_vote(&Vote::new(9, 1)).await.unwrap();
    close(opened).await;
    // What was there before the vote, under the witness from after it: the batch of the
    // second start, the vote, and the batch of the closing are missing.
    std::fs::remove_dir_all(dir.path().join("log")).unwrap();
    copy_tree(&kept.path().join("log"), &dir.path().join("log"));
    assert!(matches!(
        open(dir.path(), "a", WriteOn::Thread),
        Err(OpenError::Lost { missing: 3 })
    ));
}

/// A disk with so many votes on it, closed. The last batch of the journal is the one
/// that says that the last vote was flushed.
async fn voted(votes: u64) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    for term in 1..=votes {
        opened.log.save_vote(&Vote::new(term, 7)).await.unwrap();
    }
    close(opened).await;
    trim_journal(dir.path());
    dir
}

/// fjall makes a journal longer than what is in it.
fn trim_journal(dir: &Path) {
    Journals::read(&dir.join("log")).unwrap().settle().unwrap();
}

/// Closes a disk as a process does that ends in order.
async fn close(opened: Opened) {
    drop((opened.log, opened.machine, opened.writer));
    opened.closed.await.unwrap();
}

fn journal(dir: &Path) -> PathBuf {
    dir.join("log").join("0.jnl")
}

/// Damages a copy of a disk as nothing did that the witness could know of.
fn damaged(dir: &Path, damage: impl FnOnce(&Path)) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir, copy.path());
    std::fs::remove_file(copy.path().join("witness")).unwrap();
    damage(&journal(copy.path()));
    copy
}

fn flip(file: &Path, at: u64) {
    let mut bytes = std::fs::read(file).unwrap();
    bytes[usize::try_from(at).unwrap()] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_flipped_byte_of_whatever_was_acknowledged_is_refused_again_and_again() {
    let dir = voted(3).await;
    let ends = batch_ends(&journal(dir.path()));
    // Opening, three votes, closing.
    assert_eq!(ends.len(), 5, "{ends:?}");
    for at in (0..ends[3]).step_by(7).chain(ends[2]..ends[3]) {
        let copy = damaged(dir.path(), |journal| flip(journal, at));
        for _ in 0..2 {
            let refused = open(copy.path(), "a", WriteOn::Thread).map(|opened| opened.identity);
            assert!(
                matches!(refused, Err(OpenError::Damaged(_))),
                "{at}: {refused:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_torn_end_is_cut_and_what_was_acknowledged_before_it_is_there() {
    let dir = voted(3).await;
    let ends = batch_ends(&journal(dir.path()));
    for at in (ends[3] + 1..ends[4]).step_by(5) {
        // Its end never reached the disk, or its beginning.
        for has_end in [false, true] {
            let copy = damaged(dir.path(), |journal| {
                let mut bytes = std::fs::read(journal).unwrap();
                let [begin, at] = [ends[3], at].map(|at| usize::try_from(at).unwrap());
                if has_end {
                    bytes[begin..at].fill(0);
                } else {
                    bytes.truncate(at);
                }
                std::fs::write(journal, bytes).unwrap();
            });
            let mut opened = open(copy.path(), "a", WriteOn::Thread).unwrap();
            assert_eq!(
                opened.log.read_vote().await.unwrap(),
                Some(Vote::new(3, 7)),
                "{at}"
            );
            opened.log.save_vote(&Vote::new(4, 7)).await.unwrap();
            let mut again = reopened(opened, copy.path()).await;
            assert_eq!(again.log.read_vote().await.unwrap(), Some(Vote::new(4, 7)));
            close(again).await;
        }
    }
}

#[tokio::test]
async fn a_disk_that_falls_idle_says_that_its_last_write_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    opened.log.save_vote(&Vote::new(1, 7)).await.unwrap();
    let before = batch_ends(&journal(dir.path())).len();
    while batch_ends(&journal(dir.path())).len() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    close(opened).await;
}

#[tokio::test]
async fn a_hint_waits_for_a_flush_and_is_not_lost_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    let entries: Vec<Entry> = (0..3).map(|i| blank(1, i)).collect();
    opened.log.blocking_append(entries).await.unwrap();
    opened.log.save_committed(Some(id(1, 2))).await.unwrap();
    let mut again = reopened(opened, dir.path()).await;
    assert_eq!(again.log.read_committed().await.unwrap(), Some(id(1, 2)));
    close(again).await;
}

#[tokio::test]
async fn a_journal_that_is_damaged_with_another_behind_it_is_refused() {
    let dir = voted(3).await;
    let copy = damaged(dir.path(), |journal| {
        let bytes = std::fs::read(journal).unwrap();
        let ends = batch_ends(journal);
        let parted = usize::try_from(ends[3]).unwrap();
        let last = usize::try_from(ends[4]).unwrap();
        std::fs::write(journal, &bytes[..parted]).unwrap();
        std::fs::write(journal.with_file_name("1.jnl"), &bytes[parted..last]).unwrap();
        flip(journal, ends[2] + 40);
    });
    for _ in 0..2 {
        let refused = open(copy.path(), "a", WriteOn::Thread)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("must not vote any more"), "{refused}");
    }
}

#[tokio::test]
async fn a_database_that_was_not_finished_when_it_was_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    std::fs::create_dir_all(log.join("keyspaces")).unwrap();
    std::fs::write(log.join("0.jnl"), []).unwrap();
    close(open(dir.path(), "a", WriteOn::Thread).unwrap()).await;
}

/// Samples of a coordinator's disk.
const KIND: &str = "coordinator";

/// Makes a sample at `to`: a vote, a snapshot, and a log that goes on from it.
async fn write_sample(to: &Path) {
    let mut opened = open(to, "a", WriteOn::Thread).unwrap();
    opened
        .log
        .save_vote(&Vote::new_committed(3, 7))
        .await
        .unwrap();
    let entries = [blank(1, 0), create(1)].into_iter();
    let entries: Vec<Entry> = entries.chain((2..6).map(|i| blank(1, i))).collect();
    opened.log.blocking_append(entries.clone()).await.unwrap();
    opened.machine.apply(entries).await.unwrap();
    opened.machine.build_snapshot().await.unwrap();
    opened.log.purge(id(1, 3)).await.unwrap();
    opened.log.blocking_append([blank(3, 6)]).await.unwrap();
    opened.log.save_committed(Some(id(3, 6))).await.unwrap();
    close(opened).await;
    trim_journal(to);
}

/// Opens a copy of a sample and looks at all that is in it.
async fn check_sample(sample: &Path) {
    let dir = tempfile::tempdir().unwrap();
    copy_tree(sample, dir.path());
    let mut opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    assert_eq!(
        opened.log.read_vote().await.unwrap(),
        Some(Vote::new_committed(3, 7))
    );
    assert_eq!(opened.log.read_committed().await.unwrap(), Some(id(3, 6)));
    let log = opened.log.try_get_log_entries(..).await.unwrap();
    let ids: Vec<LogId> = log.iter().map(|e| e.log_id).collect();
    assert_eq!(ids, [id(1, 4), id(1, 5), id(3, 6)]);
    let (applied, _) = opened.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(id(1, 5)));
    let view = opened.machine.view().borrow().clone();
    assert_eq!(view.map.cluster_id, "c");
    assert_eq!(view.state.settings().unwrap().partitions, 8);
    close(opened).await;
}

#[tokio::test]
async fn a_sample_of_this_build_opens() {
    let sample = tempfile::tempdir().unwrap();
    write_sample(sample.path()).await;
    check_sample(sample.path()).await;
    samples::keep(KIND, sample.path());
}

#[tokio::test]
async fn every_sample_of_an_earlier_build_still_opens() {
    for sample in samples::kept(KIND) {
        check_sample(&sample).await;
    }
}

#[tokio::test]
async fn a_volume_that_holds_only_what_its_file_system_was_made_with_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    let opened = open(dir.path(), "a", WriteOn::Thread).unwrap();
    assert_eq!(opened.identity.cluster_id, None);
    let opened = reopened(opened, dir.path()).await;
    close(opened).await;
}
