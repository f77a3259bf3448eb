//! Stores that are damaged, foreign, unfinished, or without room.

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::store::Store;

use super::super::journal_check::tests::{checked_mark, open, write};
use super::super::opening::open_store;
use super::super::snapshot::{Room, SnapshotSink};
use super::*;
use crate::samples::copy_tree;

/// Set in the environment of a test that is to end in the process's end.
const DOOMED: &str = "CAIRN_TEST_DOOMED";

fn set_aside(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains(".damaged-")).collect();
    names.sort();
    names
}

fn refusal(path: &Path, identity: &LogIdentity) -> String {
    let refused = open_store(path, identity, &config()).unwrap_err();
    refused.to_string()
}

#[test]
fn a_damaged_store_is_set_aside_and_its_replicas_count_as_corrupt() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let log = entries(Mark::ZERO, 2000);
    node.write(vec![create()], 1);
    for (at, part) in log.chunks(100).enumerate() {
        node.write(records(part), 101 + 100 * at as u64);
    }
    node.apply(&log);
    node.storage.wal.set_reclaimable(P, Index(2000));
    node.close();
    Node::open(&root).close();
    let state = root.path().join("state");
    for aside in ["state.damaged-1", "state.damaged-2"] {
        fs::write(state.join("version"), b"???").unwrap();
        let node = Node::open(&root);
        assert!(node.recovered().corrupt);
        assert_eq!(node.recovered().applied, Mark::ZERO);
        node.close();
        assert_eq!(set_aside(root.path()), [aside]);
    }
    Node::open(&root).close();
    assert_eq!(set_aside(root.path()), ["state.damaged-2"]);
    // Evidence is the first to go where room is wanted.
    let full = StorageConfig {
        reserve_bytes: u64::MAX / 2,
        ..config()
    };
    let node = try_open(root.path(), &full).unwrap();
    assert!(node.full.recv_timeout(PATIENCE).unwrap());
    node.close();
    assert_eq!(set_aside(root.path()), [] as [&str; 0]);
}

fn files(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
}

#[test]
fn whatever_file_of_the_tables_is_lost_or_cut_the_node_starts_without_wrong_data() {
    let root = tempdir().unwrap();
    let state = root.path().join("state");
    let value = |number: u64| Bytes::from(number.to_string().repeat(30_000));
    let store = open(&state);
    for number in 1..=60 {
        write(&store, number, value(number));
    }
    store.persist().unwrap();
    drop(store);
    let mut all = Vec::new();
    files(&state.join("keyspaces"), &mut all);
    for file in &all {
        for lost in [true, false] {
            let copy = tempdir().unwrap();
            let copied = copy.path().join("state");
            copy_tree(&state, &copied);
            let file = copied.join(file.strip_prefix(&state).unwrap());
            if lost {
                fs::remove_file(&file).unwrap();
            } else {
                let length = fs::metadata(&file).unwrap().len();
                let handle = OpenOptions::new().write(true).open(&file).unwrap();
                handle.set_len(length / 2).unwrap();
            }
            let store = open(&copied);
            let mark = checked_mark(&store, value);
            assert!(mark <= 60, "{mark} after {}", file.display());
        }
    }
}

#[test]
fn a_store_of_another_node_or_of_a_newer_build_is_refused_and_left_alone() {
    let root = tempdir().unwrap();
    let state = root.path().join("state");
    let mine = LogIdentity {
        cluster: String::new(),
        node: 7,
        incarnation: 8,
    };
    drop(open_store(&state, &mine, &config()).unwrap());
    // The cluster that admitted the node is written down, and not forgotten.
    let admitted = LogIdentity {
        cluster: "blue".to_owned(),
        ..mine.clone()
    };
    for identity in [&admitted, &mine, &admitted] {
        drop(open_store(&state, identity, &config()).unwrap());
    }
    let green = LogIdentity {
        cluster: "green".to_owned(),
        ..mine.clone()
    };
    let other = LogIdentity {
        incarnation: 9,
        ..admitted.clone()
    };
    for stranger in [&green, &other] {
        let refused = refusal(&state, stranger);
        assert!(refused.starts_with("the store belongs to"), "{refused}");
    }
    fs::write(state.join("version"), b"FJL\x04").unwrap();
    let refused = refusal(&state, &admitted);
    assert_eq!(refused, "the store has format 4; this build reads format 3");
    assert_eq!(set_aside(root.path()), [] as [&str; 0]);
    fs::write(state.join("version"), b"FJL\x03").unwrap();
    drop(open_store(&state, &admitted, &config()).unwrap());
}

#[test]
fn a_store_whose_making_was_cut_short_is_made_again() {
    let root = tempdir().unwrap();
    let state = root.path().join("state");
    fs::create_dir_all(state.join("keyspaces")).unwrap();
    fs::File::create(state.join("lock")).unwrap();
    fs::write(state.join("0.jnl"), [0; 4096]).unwrap();
    drop(open(&state));
    assert_eq!(set_aside(root.path()), [] as [&str; 0]);
    // With tables, it is no beginning that lacks its marker.
    fs::remove_file(state.join("version")).unwrap();
    drop(open(&state));
    assert_eq!(set_aside(root.path()), ["state.damaged-1"]);
}

#[test]
fn a_copy_begins_and_goes_on_only_while_the_disk_has_room() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    node.write(vec![create()], 1);
    node.apply(&entries(Mark::ZERO, 200));
    let mut source = node.storage.reader.snapshot(G).unwrap();
    let first = source.next_chunk(500).unwrap().unwrap();
    let second = source.next_chunk(500).unwrap().unwrap();
    drop(source);
    node.close();

    let state = root.path().join("copy");
    let store = open(&state);
    let free = Arc::new(AtomicU64::new(124));
    let asked = Arc::clone(&free);
    let room = Room::of(move || Ok(asked.load(Ordering::Relaxed)), 100);
    let refused = SnapshotSink::open(&store, room.clone(), Arc::default(), G);
    assert!(matches!(refused, Err(StorageError::NoRoom { .. })));
    free.store(125, Ordering::Relaxed);
    let mut sink = SnapshotSink::open(&store, room, Arc::default(), G).unwrap();
    free.store(100, Ordering::Relaxed);
    sink.write_chunk(first).unwrap();
    free.store(99, Ordering::Relaxed);
    let refused = sink.write_chunk(second.clone());
    assert!(matches!(refused, Err(StorageError::NoRoom { .. })));
    free.store(100, Ordering::Relaxed);
    sink.write_chunk(second).unwrap();
}

/// Runs another test of this binary in a process of its own that it is to end.
fn assert_doomed(test: &str) {
    let this = std::env::current_exe().unwrap();
    let path = module_path!().split_once("::").unwrap().1;
    let output = Command::new(this)
        .args(["--exact", "--nocapture", &format!("{path}::{test}")])
        .env(DOOMED, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{said}");
    assert!(said.contains("a copy cannot be made durable"), "{said}");
}

#[test]
fn a_copy_whose_flush_fails_ends_the_process() {
    if std::env::var_os(DOOMED).is_none() {
        return assert_doomed("a_copy_whose_flush_fails_ends_the_process");
    }
    let root = tempdir().unwrap();
    // Nobody else is to flush the store meanwhile.
    let quiet = StorageConfig {
        persist_bytes: u64::MAX,
        persist_after: Duration::MAX,
        ..config()
    };
    let node = try_open(root.path(), &quiet).unwrap();
    node.write(vec![create()], 1);
    node.apply(&entries(Mark::ZERO, 20));
    let mut source = node.storage.reader.snapshot(G).unwrap();
    let mut sink = node.storage.reader.install(Generation(5)).unwrap();
    while let Some(chunk) = source.next_chunk(500).unwrap() {
        sink.write_chunk(chunk).unwrap();
    }
    // A journal that cannot be flushed, since it cannot be found.
    fs::rename(root.path().join("state"), root.path().join("elsewhere")).unwrap();
    let ended = sink.finish(source.mark(), source.lineage());
    std::io::stderr()
        .write_all(format!("went on with {ended:?}").as_bytes())
        .unwrap();
}
