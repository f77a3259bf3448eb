//! A node's storage on a real disk.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, Mark, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::kv::request::WriteOutcome;
use cairn_core::kv::{EntryBody, SequencedRecord, StoredValue, VersionedValue};
use cairn_core::replication::{
    DiskRoom, DurableRecord, EntryKind, Generation, LogEntry, RecoveredPartition,
};
use cairn_storage::format::snapshot_chunk::decode_chunk;
use tempfile::{TempDir, tempdir};

use super::{Applied, KeyRange, NodeStorage, StorageCallbacks, StorageConfig, StorageError};
use crate::disk::{DataDirectory, WalConfig};

mod damage;
mod samples;

const P: PartitionId = PartitionId(1);
const G: Generation = Generation(1);
/// Long enough for a loaded machine; nothing waits for it unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node's storage in a directory that goes with it.
struct Node {
    storage: NodeStorage,
    directory: DataDirectory,
    flushed: mpsc::Receiver<u64>,
    applied: mpsc::Receiver<Vec<Applied>>,
    full: mpsc::Receiver<bool>,
    corrupt: mpsc::Receiver<PartitionId>,
    sizes: mpsc::Receiver<Vec<(Generation, u64)>>,
}

fn config() -> StorageConfig {
    StorageConfig {
        wal: WalConfig {
            segment_bytes: 64 << 10,
            total_bytes: 1 << 20,
            kept_bytes: 0,
            ..WalConfig::default()
        },
        reserve_bytes: 0,
        persist_bytes: 16 << 10,
        persist_after: Duration::from_millis(50),
        ..StorageConfig::default()
    }
}

fn try_open(root: &Path, config: &StorageConfig) -> Result<Node, StorageError> {
    let directory = DataDirectory::open(root)?;
    let (flushed_to, flushed) = mpsc::channel();
    let (applied_to, applied) = mpsc::channel();
    let (full_to, full) = mpsc::channel();
    let (corrupt_to, corrupt) = mpsc::channel();
    let (sizes_to, sizes) = mpsc::channel();
    let callbacks = StorageCallbacks {
        // The receivers may be gone when the storage closes.
        flushed: Box::new(move |number| {
            let _ = flushed_to.send(number);
        }),
        applied: Box::new(move |all: &[Applied]| {
            let _ = applied_to.send(all.to_vec());
        }),
        spent: Box::new(|shares, _| assert!(shares.iter().all(|(_, entries)| *entries > 0))),
        keys: Arc::new(()),
        corrupt: Arc::new(move |partition| {
            let _ = corrupt_to.send(partition);
        }),
        disk_room: Box::new(move |room| {
            let _ = full_to.send(room != DiskRoom::Ample);
        }),
        disk_space: Box::new(|space| {
            assert!(space.free_bytes > 0 && space.free_bytes <= space.total_bytes);
        }),
        sizes: Box::new(move |news| {
            let _ = sizes_to.send(news);
        }),
    };
    let storage = NodeStorage::open(&directory, config, callbacks)?;
    Ok(Node {
        storage,
        directory,
        flushed,
        applied,
        full,
        corrupt,
        sizes,
    })
}

impl Node {
    fn open(root: &TempDir) -> Self {
        try_open(root.path(), &config()).unwrap()
    }

    fn write(&self, records: Vec<DurableRecord>, upto: u64) {
        self.storage.wal.submit(records);
        while self.flushed.recv_timeout(PATIENCE).unwrap() < upto {}
    }

    fn apply(&self, entries: &[LogEntry]) {
        self.storage.apply.submit(P, G, entries.to_vec());
        let upto = entries.last().unwrap().position.index;
        loop {
            let moved = self.applied.recv_timeout(PATIENCE).unwrap();
            if moved.iter().any(|a| a.partition == P && a.index >= upto) {
                return;
            }
        }
    }

    fn recovered(&self) -> &RecoveredPartition {
        let found = &self.storage.recovered;
        found.iter().find(|r| r.meta.partition == P).unwrap()
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        let stored = self.storage.reader.get_blocking(G, key.as_bytes()).unwrap();
        stored.map(|s| VersionedValue::decode(s).unwrap().value.data)
    }

    /// The first keys behind one, with their values.
    fn rows(
        &self,
        generation: Generation,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Vec<(Bytes, Bytes)> {
        let mut rows = Vec::new();
        let range = KeyRange::new(b"", after);
        let reader = &self.storage.reader;
        let visited = reader.visit_blocking(generation, &range, &mut |key, value| {
            rows.push((key, value));
            rows.len() < limit
        });
        visited.unwrap();
        rows
    }

    /// Closes everything properly and gives the directory back.
    fn close(self) {
        self.storage.close();
    }
}

fn create() -> DurableRecord {
    DurableRecord::Create {
        partition: P,
        replica: ReplicaId(1),
        generation: G,
    }
}

fn body(key: String, value: Option<String>, sequence: u64) -> Bytes {
    EntryBody {
        writes: vec![(
            Bytes::from(key),
            value.map(|value| StoredValue {
                expires_at: None,
                kind: 0,
                data: Bytes::from(value),
            }),
        )],
        sequenced: vec![SequencedRecord {
            client: 7,
            sequence,
            outcome: WriteOutcome::Set { previous: None },
        }],
        forgets: if sequence > 10 {
            vec![Position {
                epoch: Epoch(1),
                index: Index(sequence - 10),
            }]
        } else {
            Vec::new()
        },
        unindexed: Vec::new(),
    }
    .encode()
}

/// `count` writes behind a mark: `key<i mod 50>` becomes `value<i>`.
fn entries(mut head: Mark, count: u64) -> Vec<LogEntry> {
    (0..count)
        .map(|_| {
            let at = head.index().0 + 1;
            let body = body(format!("key{}", at % 50), Some(format!("value{at}")), at);
            let entry = LogEntry::after(head, Epoch(1), EntryKind::Write, body);
            head = entry.mark();
            entry
        })
        .collect()
}

fn records(entries: &[LogEntry]) -> Vec<DurableRecord> {
    entries
        .iter()
        .map(|entry| DurableRecord::Entry {
            partition: P,
            entry: entry.clone(),
        })
        .collect()
}

fn segments(root: &TempDir) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root.path().join("wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().contains("segment-"))
        .collect();
    found.sort();
    found
}

/// The offsets of the batches in a segment.
fn batches(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    (4096..bytes.len())
        .step_by(64)
        .filter(|offset| bytes[*offset..].starts_with(b"CBAT"))
        .map(|offset| offset as u64)
        .collect()
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, offset).unwrap();
}

#[test]
fn what_was_flushed_is_found_again_and_applied_once() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let log = entries(Mark::ZERO, 100);
    node.write(vec![create()], 1);
    node.write(records(&log), 101);
    node.apply(&log[..60]);
    assert_eq!(node.value("key9").unwrap(), "value59");
    node.close();
    let node = Node::open(&root);
    let found = node.recovered();
    assert!(!found.corrupt && !found.dropped_tail);
    assert_eq!(found.applied, log[59].mark());
    let from = usize::try_from(found.meta.base.index().0).unwrap();
    assert_eq!(found.entries, log[from..]);
    assert_eq!(node.storage.next_generation, 2);
    // What is applied already is passed over.
    node.apply(&log[50..]);
    assert_eq!(node.value("key9").unwrap(), "value59");
    assert_eq!(node.value("key0").unwrap(), "value100");
    let table = node.storage.reader.table(G).unwrap().rows;
    let forgotten = table.iter().filter(|(index, _)| index.0 == 0).count();
    assert_eq!((table.len(), forgotten), (11, 1));
    node.close();
}

#[test]
fn a_table_is_read_as_of_one_applied_mark_while_entries_are_applied() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    // The marks of many partitions go into the store one after the other, that of the
    // table first.
    let (rounds, partitions) = (100, 1_000);
    let log = entries(Mark::ZERO, rounds);
    let apply = node.storage.apply.clone();
    let applying = std::thread::spawn(move || {
        for entry in log {
            for number in 0..partitions {
                let generation = Generation(G.0 + u64::from(number));
                apply.submit(PartitionId(number), generation, vec![entry.clone()]);
            }
        }
    });
    let (mut reads, mut seen) = (0, Index(0));
    while seen < Index(rounds) {
        let table = node.storage.reader.table(G).unwrap();
        let last = table.rows.last().map_or(Index::ZERO, |(index, _)| *index);
        assert_eq!(last, table.applied.index(), "after {reads} reads");
        (reads, seen) = (reads + 1, last);
    }
    applying.join().unwrap();
    assert!(reads > 10, "only {reads} reads while entries were applied");
    node.close();
}

#[test]
fn a_torn_tail_is_dropped_and_said_so() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let log = entries(Mark::ZERO, 10);
    node.write(vec![create()], 1);
    node.write(records(&log), 11);
    node.close();
    // As if the process had died within the last write: the closing batch, and the
    // end of the batch before it, never reached the disk.
    let last = segments(&root).pop().unwrap();
    let offsets = batches(&last);
    let file = OpenOptions::new().write(true).open(&last).unwrap();
    file.set_len(offsets[offsets.len() - 2] + 100).unwrap();
    let node = Node::open(&root);
    let found = node.recovered();
    assert!(found.dropped_tail && !found.corrupt);
    assert_eq!(found.entries, []);
    node.write(records(&log), 10);
    node.close();
    let node = Node::open(&root);
    assert_eq!(node.recovered().entries, log);
    assert!(!node.recovered().dropped_tail);
    node.close();
}

#[test]
fn a_flipped_byte_is_corruption_unless_the_store_holds_what_it_hit() {
    for applied in [0, 30] {
        let root = tempdir().unwrap();
        let node = Node::open(&root);
        let log = entries(Mark::ZERO, 40);
        node.write(vec![create()], 1);
        for (at, part) in log.chunks(10).enumerate() {
            node.write(records(part), 11 + 10 * at as u64);
        }
        if applied > 0 {
            node.apply(&log[..applied]);
        }
        node.close();
        let first = segments(&root).remove(0);
        let offsets = batches(&first);
        // Behind the checkpoint: creation, its rows, and then ten entries to a batch.
        flip(&first, offsets[4] + 70);
        let node = Node::open(&root);
        let found = node.recovered();
        assert_eq!(found.corrupt, applied == 0, "{found:?}");
        if applied > 0 {
            assert_eq!(found.entries, log[applied..]);
        }
        node.close();
        let node = Node::open(&root);
        assert_eq!(node.recovered().corrupt, applied == 0);
        node.close();
    }
}

#[test]
fn an_identity_without_its_log_is_refused() {
    let root = tempdir().unwrap();
    Node::open(&root).close();
    std::fs::remove_dir_all(root.path().join("wal")).unwrap();
    let refused = try_open(root.path(), &config()).err().unwrap().to_string();
    assert!(refused.contains("write-ahead log is missing"), "{refused}");
    std::fs::create_dir(root.path().join("wal")).unwrap();
    let refused = try_open(root.path(), &config()).err().unwrap().to_string();
    assert!(refused.contains("write-ahead log is empty"), "{refused}");
}

#[test]
fn a_store_that_lost_what_the_log_let_go_is_noticed() {
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
    // Closing persisted the store, so that the log needs no more than its end.
    let node = Node::open(&root);
    assert!(!node.recovered().corrupt);
    assert_eq!(node.recovered().applied.index(), Index(2000));
    node.close();
    let left = segments(&root).len();
    assert!(left <= 3, "{left} segments were not reclaimed");
    std::fs::remove_dir_all(root.path().join("state")).unwrap();
    let node = Node::open(&root);
    assert!(node.recovered().corrupt);
    node.close();
}

#[test]
fn a_wiped_disk_is_a_new_node_without_replicas() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    node.write(vec![create()], 1);
    let before = node.directory.identity();
    node.close();
    for name in ["wal", "state", "identity.json"] {
        let path = root.path().join(name);
        if path.is_dir() {
            std::fs::remove_dir_all(path).unwrap();
        } else {
            std::fs::remove_file(path).unwrap();
        }
    }
    let node = Node::open(&root);
    assert!(node.storage.recovered.is_empty());
    assert_ne!(node.directory.identity().node, before.node);
    node.close();
}

#[test]
fn a_snapshot_travels_into_a_fresh_generation() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let log = entries(Mark::ZERO, 300);
    node.write(vec![create()], 1);
    node.apply(&log[..200]);
    let reader = &node.storage.reader;
    let mut source = reader.snapshot(G).unwrap();
    assert_eq!(source.mark(), log[199].mark());
    assert_eq!(source.lineage(), [log[199].mark()]);
    // What is written meanwhile is not in the view.
    node.apply(&log[200..]);
    let fresh = Generation(5);
    let mut sink = reader.install(fresh).unwrap();
    let (mut chunks, mut bytes, mut expected) = (0, 0, Vec::new());
    assert_eq!(source.expected_bytes(), 0);
    while let Some(chunk) = source.next_chunk(500).unwrap() {
        bytes += chunk.len() as u64;
        expected.push(source.expected_bytes());
        sink.write_chunk(chunk).unwrap();
        chunks += 1;
    }
    assert!(chunks > 3);
    // The rows of the table, which come last, are not foreseen.
    assert_eq!(expected.last(), Some(&bytes));
    assert!(
        expected.iter().all(|e| (bytes / 2..=bytes).contains(e)),
        "{expected:?} of {bytes}"
    );
    assert_eq!(reader.table(fresh).unwrap().applied, Mark::ZERO);
    let (mark, lineage) = (source.mark(), source.lineage().to_vec());
    sink.finish(mark, &lineage).unwrap();
    assert_eq!(reader.table(fresh).unwrap().applied, log[199].mark());
    let rows = node.rows(fresh, None, 1000);
    assert_eq!(reader.keys(fresh), 50);
    assert_eq!(reader.keys(G), 50);
    assert_eq!(rows.len(), 50);
    for (key, value) in rows {
        let value = VersionedValue::decode(value).unwrap();
        let version = value.version.index.0;
        assert!(version <= 200);
        assert_eq!(key, format!("key{}", version % 50));
        assert_eq!(value.value.data, format!("value{version}"));
    }
    assert_eq!(reader.table(fresh).unwrap().rows.len(), 11);
    // Scans resume behind a key.
    let first = node.rows(fresh, None, 20);
    let rest = node.rows(fresh, Some(&first[19].0), 1000);
    assert_eq!(rest.len(), 30);
    node.close();
}

#[test]
fn what_a_state_takes_is_told_once_it_grows_by_much() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    node.write(vec![create()], 1);
    let log = entries(Mark::ZERO, 3000);
    node.apply(&log[..1]);
    let told = |least: u64| loop {
        let news = node.sizes.recv_timeout(PATIENCE).expect("it is measured");
        assert_eq!(news.len(), 1);
        assert_eq!(news[0].0, G);
        if news[0].1 >= least {
            return news[0].1;
        }
    };
    let little = told(1);
    node.apply(&log[1..]);
    assert!(told(little + (64 << 10)) < 16 << 20);
    node.close();
}

#[test]
fn a_snapshot_with_a_missing_or_damaged_chunk_is_refused() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    node.write(vec![create()], 1);
    node.apply(&entries(Mark::ZERO, 200));
    let reader = &node.storage.reader;
    let mut source = reader.snapshot(G).unwrap();
    let first = source.next_chunk(500).unwrap().unwrap();
    let second = source.next_chunk(500).unwrap().unwrap();
    let mut sink = reader.install(Generation(5)).unwrap();
    assert!(sink.write_chunk(second).is_err());
    drop(sink);
    let mut sink = reader.install(Generation(6)).unwrap();
    let mut damaged = first.to_vec();
    damaged[40] ^= 1;
    assert!(sink.write_chunk(Bytes::from(damaged)).is_err());
    drop(sink);
    let mut sink = reader.install(Generation(7)).unwrap();
    sink.write_chunk(first).unwrap();
    assert!(sink.finish(source.mark(), &[]).is_err());
    drop(source);
    // Rows without a mark are no state, and nobody is given them.
    let mut unfinished = reader.snapshot(Generation(7)).unwrap();
    let chunk = unfinished.next_chunk(500).unwrap().unwrap();
    assert_eq!(decode_chunk(&chunk).unwrap().rows, []);
    assert_eq!(unfinished.mark(), Mark::ZERO);
    drop(unfinished);
    node.close();
    // What was left half done is nobody's, and goes.
    let node = Node::open(&root);
    assert!(node.storage.next_generation > 7);
    node.close();
}

#[test]
fn a_dropped_generation_leaves_nothing_behind() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let log = entries(Mark::ZERO, 2000);
    node.write(vec![create()], 1);
    node.apply(&log[..1000]);
    node.storage.apply.drop_generation(G);
    node.storage.apply.submit(P, G, log[1000..].to_vec());
    // Another generation's entries tell that the queue was worked off.
    node.storage.apply.submit(P, Generation(9), log);
    loop {
        let moved = node.applied.recv_timeout(PATIENCE).unwrap();
        if moved.iter().any(|a| a.generation == Generation(9)) {
            break;
        }
    }
    let reader = &node.storage.reader;
    let begun = std::time::Instant::now();
    while !node.rows(G, None, 1).is_empty() || !reader.table(G).unwrap().rows.is_empty() {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    assert_eq!(reader.table(G).unwrap().applied, Mark::ZERO);
    node.close();
}

#[test]
fn an_entry_that_cannot_be_applied_costs_its_own_replica() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let unreadable = LogEntry::after(
        Mark::ZERO,
        Epoch(1),
        EntryKind::Write,
        Bytes::from_static(&[99, 0]),
    );
    let other = PartitionId(2);
    node.storage
        .apply
        .submit(other, Generation(2), vec![unreadable.clone()]);
    let behind = LogEntry::after(
        unreadable.mark(),
        Epoch(1),
        EntryKind::Barrier,
        Bytes::new(),
    );
    node.storage
        .apply
        .submit(other, Generation(2), vec![behind]);
    // The thread goes on with the others.
    node.apply(&entries(Mark::ZERO, 2));
    assert_eq!(node.corrupt.recv_timeout(PATIENCE).unwrap(), other);
    assert!(node.corrupt.try_recv().is_err(), "it is told once");
    node.close();
}

#[test]
fn a_record_that_does_not_follow_is_told_before_its_flush() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let stranger = entries(Mark::ZERO, 3).split_off(2);
    node.write(vec![create()], 1);
    node.write(records(&stranger), 2);
    assert_eq!(node.corrupt.try_recv().unwrap(), P);
    node.close();
    let node = Node::open(&root);
    assert!(node.recovered().corrupt);
    node.close();
}

#[test]
fn a_disk_without_room_is_told_at_once() {
    let root = tempdir().unwrap();
    let node = try_open(
        root.path(),
        &StorageConfig {
            reserve_bytes: u64::MAX / 2,
            ..config()
        },
    )
    .unwrap();
    assert!(node.full.recv_timeout(PATIENCE).unwrap());
    node.close();
    let node = Node::open(&root);
    assert!(!node.full.recv_timeout(PATIENCE).unwrap());
    node.close();
}

#[tokio::test]
async fn a_read_that_misses_the_cache_is_answered_and_remembered() {
    let root = tempdir().unwrap();
    let node = Node::open(&root);
    let log = entries(Mark::ZERO, 60);
    node.write(vec![create()], 1);
    node.apply(&log);
    let reader = node.storage.reader.clone();
    assert_eq!(reader.get_cached(G, b"key7"), None);
    let found = reader.get(G, Bytes::from_static(b"key7")).await.unwrap();
    let found = VersionedValue::decode(found.unwrap()).unwrap();
    assert_eq!(found.value.data, "value57");
    assert!(matches!(reader.get_cached(G, b"key7"), Some(Some(_))));
    let absent = reader.get(G, Bytes::from_static(b"nothing")).await.unwrap();
    assert_eq!(absent, None);
    assert_eq!(reader.get_cached(G, b"nothing"), Some(None));
    // A write changes what is remembered before its index is told.
    let more = LogEntry::after(
        log[59].mark(),
        Epoch(1),
        EntryKind::Write,
        body("nothing".to_owned(), Some("something".to_owned()), 61),
    );
    node.apply(&[more]);
    assert!(matches!(reader.get_cached(G, b"nothing"), Some(Some(_))));
    node.close();
    assert!(matches!(
        reader.get(G, Bytes::from_static(b"late")).await,
        Err(StorageError::Closed)
    ));
}
