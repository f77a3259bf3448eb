//! Scenarios with a sentence for a name.

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, Mark, PartitionId, ReplicaId};
use cairn_core::replication::{DurableRecord, EntryKind, Generation, LogEntry, RecoveredPartition};

use super::super::{Recovery, Wal, WalError, WalOptions, segment_name};
use super::model::{identity, open, options};
use crate::disk::{Disk, DiskFile};
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::format::segment_header::LogIdentity;
use crate::sim::{MemDisk, MemStore};
use crate::state::apply_entries;
use crate::store::Store;

pub(super) const G: Generation = Generation(1);

pub(super) fn create(partition: u32) -> DurableRecord {
    DurableRecord::Create {
        partition: PartitionId(partition),
        replica: ReplicaId(u64::from(partition)),
        generation: Generation(u64::from(partition)),
    }
}

/// `count` barriers behind `head`, in an epoch.
pub(super) fn entries(head: Mark, epoch: u64, count: u64) -> Vec<LogEntry> {
    let mut head = head;
    (0..count)
        .map(|_| {
            let entry = LogEntry::after(head, Epoch(epoch), EntryKind::Barrier, Bytes::new());
            head = entry.mark();
            entry
        })
        .collect()
}

pub(super) fn records(partition: u32, entries: &[LogEntry]) -> Vec<DurableRecord> {
    entries
        .iter()
        .map(|entry| DurableRecord::Entry {
            partition: PartitionId(partition),
            entry: entry.clone(),
        })
        .collect()
}

pub(super) struct Bench {
    pub(super) disk: MemDisk,
    pub(super) store: MemStore,
    opened: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self {
            disk: MemDisk::new(),
            store: MemStore::new(),
            opened: 0,
        }
    }

    pub(super) fn open(&mut self) -> (Wal<MemDisk>, Recovery) {
        self.opened += 1;
        open(&self.disk, &self.store, self.opened).unwrap()
    }

    /// The power goes and takes with it whatever was not flushed.
    pub(super) fn lose_power(&self) {
        self.disk.lose_power(&mut |_| 0);
        self.store.lose_power(&mut |_| 0);
    }
}

pub(super) fn of(recovery: &Recovery, partition: u32) -> &RecoveredPartition {
    recovery
        .partitions
        .iter()
        .find(|r| r.meta.partition == PartitionId(partition))
        .unwrap()
}

pub(super) fn last_batch_offset(disk: &MemDisk, name: &str) -> u64 {
    *batch_offsets(disk, name).last().unwrap()
}

#[test]
fn the_last_batch_torn_is_a_torn_tail() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let log = entries(Mark::ZERO, 1, 4);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &log[..2])).unwrap();
    wal.append(&records(1, &log[2..])).unwrap();
    drop(wal);
    let name = segment_name(1);
    let offset = last_batch_offset(&bench.disk, &name);
    bench
        .disk
        .flip_bit(&name, (offset + BATCH_HEADER_BYTES as u64 + 3) * 8);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert!(recovery.dropped_tail);
    assert!(recovery.damage.is_empty());
    let p = of(&recovery, 1);
    assert!(p.dropped_tail && !p.corrupt);
    assert_eq!(p.entries, log[..2]);
}

#[test]
fn the_last_batch_broken_after_the_log_fell_idle_is_corruption() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let log = entries(Mark::ZERO, 1, 4);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &log)).unwrap();
    let name = segment_name(1);
    let offset = last_batch_offset(&bench.disk, &name);
    wal.confirm().unwrap();
    drop(wal);
    bench
        .disk
        .flip_bit(&name, (offset + BATCH_HEADER_BYTES as u64 + 3) * 8);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert!(!recovery.dropped_tail);
    assert_eq!(recovery.damage.len(), 1);
    assert!(of(&recovery, 1).corrupt);
    bench.lose_power();
    let (_, again) = bench.open();
    assert!(of(&again, 1).corrupt, "the next start has forgotten it");
}

#[test]
fn a_new_replica_ends_corruption() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &entries(Mark::ZERO, 1, 4))).unwrap();
    let name = segment_name(1);
    let offset = last_batch_offset(&bench.disk, &name);
    wal.confirm().unwrap();
    drop(wal);
    bench
        .disk
        .flip_bit(&name, (offset + BATCH_HEADER_BYTES as u64 + 3) * 8);
    let (mut wal, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
    wal.append(&[DurableRecord::Create {
        partition: PartitionId(1),
        replica: ReplicaId(7),
        generation: Generation(7),
    }])
    .unwrap();
    drop(wal);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert!(!of(&recovery, 1).corrupt);
}

#[test]
fn entries_lost_to_a_flipped_bit_are_no_loss_where_the_store_holds_them() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 6);
    let other = entries(Mark::ZERO, 1, 2);
    wal.append(&[create(1), create(2)]).unwrap();
    wal.append(&records(2, &other[..1])).unwrap();
    wal.append(&records(1, &mine[..2])).unwrap();
    wal.append(&records(1, &mine[2..4])).unwrap();
    let name = segment_name(1);
    let offset = last_batch_offset(&bench.disk, &name);
    wal.append(&records(1, &mine[4..])).unwrap();
    wal.append(&records(2, &other[1..])).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    apply_entries(&bench.store, PartitionId(1), G, &mine[..5]).unwrap();
    bench.store.persist().unwrap();
    bench.disk.flip_bit(&name, (offset + 2) * 8);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert_eq!(recovery.damage.len(), 1);
    let p = of(&recovery, 1);
    assert!(!p.corrupt);
    assert_eq!(p.meta.base, mine[4].mark());
    assert_eq!(p.entries, mine[5..]);
    let p = of(&recovery, 2);
    assert!(!p.corrupt, "an entry behind the hole continues its log");
    assert_eq!(p.entries, other);
}

#[test]
fn entries_lost_to_a_flipped_bit_make_a_replica_corrupt_where_the_store_lacks_them() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 6);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &mine[..2])).unwrap();
    wal.append(&records(1, &mine[2..4])).unwrap();
    let name = segment_name(1);
    let offset = last_batch_offset(&bench.disk, &name);
    wal.append(&records(1, &mine[4..])).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    apply_entries(&bench.store, PartitionId(1), G, &mine[..3]).unwrap();
    bench.store.persist().unwrap();
    bench.disk.flip_bit(&name, (offset + 2) * 8);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
}

/// The offsets of all batches in a segment.
pub(super) fn batch_offsets(disk: &MemDisk, name: &str) -> Vec<u64> {
    let bytes = disk.contents(name).unwrap();
    (4096..bytes.len())
        .step_by(64)
        .filter(|offset| bytes[*offset..].starts_with(b"CBAT"))
        .map(|offset| offset as u64)
        .collect()
}

/// Breaks the batch of a deletion, or its repetition, or both.
fn delete_and_break(which: &[usize]) -> (Bench, Vec<LogEntry>) {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 4);
    wal.append(&[create(1), create(2)]).unwrap();
    wal.append(&records(1, &mine[..2])).unwrap();
    let name = segment_name(1);
    let before = batch_offsets(&bench.disk, &name).len();
    wal.append(&[DurableRecord::Delete {
        partition: PartitionId(2),
        order: (Epoch(3), 1),
    }])
    .unwrap();
    let offsets = batch_offsets(&bench.disk, &name);
    assert_eq!(offsets.len(), before + 2, "the records and their rows");
    wal.append(&records(1, &mine[2..])).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    for at in which {
        bench.disk.flip_bit(&name, (offsets[before + at] + 2) * 8);
    }
    bench.lose_power();
    (bench, mine)
}

#[test]
fn a_structural_record_is_read_from_either_of_its_two_places() {
    for which in [0, 1] {
        let (mut bench, mine) = delete_and_break(&[which]);
        let (_, recovery) = bench.open();
        assert_eq!(recovery.damage.len(), 1);
        let p = of(&recovery, 1);
        assert!(!p.corrupt);
        assert_eq!(p.entries, mine);
        let p = of(&recovery, 2);
        assert_eq!(p.meta.replica, None);
        assert_eq!(p.meta.deleted_at, Some((Epoch(3), 1)));
    }
}

#[test]
fn a_node_that_may_have_forgotten_a_replica_is_not_started() {
    let (bench, _) = delete_and_break(&[0, 1]);
    let error = open(&bench.disk, &bench.store, 9).unwrap_err();
    assert!(matches!(error, WalError::StructureLost(_)), "{error}");
}

#[test]
fn a_store_that_lost_what_the_log_no_longer_has_is_noticed() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 800);
    wal.append(&[create(1)]).unwrap();
    for entry in records(1, &mine).chunks(10) {
        wal.append(entry).unwrap();
    }
    apply_entries(&bench.store, PartitionId(1), G, &mine).unwrap();
    bench.store.persist().unwrap();
    wal.set_store_durable(PartitionId(1), G, Index(800));
    wal.set_reclaimable(PartitionId(1), Index(800));
    assert!(wal.segments() > 2);
    while wal.reclaim().unwrap() {}
    assert_eq!(wal.segments(), 1);
    drop(wal);
    let (_, recovery) = bench.open();
    assert!(!of(&recovery, 1).corrupt);
    bench.store = MemStore::new();
    let (_, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
}

#[test]
fn an_installed_snapshot_replaces_the_log_or_keeps_its_tail() {
    for keep_tail in [false, true] {
        let mut bench = Bench::new();
        let (mut wal, _) = bench.open();
        let mine = entries(Mark::ZERO, 1, 6);
        let fresh = Generation(9);
        wal.append(&[create(1)]).unwrap();
        wal.append(&records(1, &mine)).unwrap();
        apply_entries(&bench.store, PartitionId(1), fresh, &mine[..4]).unwrap();
        bench.store.persist().unwrap();
        let mark = mine[3].mark();
        wal.append(&[DurableRecord::Installed {
            partition: PartitionId(1),
            generation: fresh,
            mark,
            lineage: vec![mark],
            keep_tail,
        }])
        .unwrap();
        drop(wal);
        bench.lose_power();
        let (_, recovery) = bench.open();
        let p = of(&recovery, 1);
        assert!(!p.corrupt);
        assert_eq!(p.meta.generation, fresh);
        assert_eq!(p.meta.base, mark);
        assert_eq!(p.applied, mark);
        assert_eq!(recovery.next_generation, 10);
        let tail: &[LogEntry] = if keep_tail { &mine[4..] } else { &[] };
        assert_eq!(p.entries, tail);
    }
}

#[test]
fn a_state_ahead_of_its_log_is_damage_even_after_a_cut() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 6);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &mine)).unwrap();
    apply_entries(&bench.store, PartitionId(1), G, &mine[..5]).unwrap();
    // Replication never does this: below its state it discards the state instead.
    wal.append(&[DurableRecord::Truncate {
        partition: PartitionId(1),
        to: mine[2].mark(),
    }])
    .unwrap();
    drop(wal);
    let (mut wal, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
    // Another replica ends it, and the node went on meanwhile.
    let fresh = DurableRecord::Create {
        partition: PartitionId(1),
        replica: ReplicaId(7),
        generation: Generation(7),
    };
    wal.append(&[fresh]).unwrap();
}

#[test]
fn replicas_that_lag_hold_the_log_back_only_up_to_its_bound() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 2000);
    wal.append(&[create(1)]).unwrap();
    for batch in records(1, &mine).chunks(20) {
        wal.append(batch).unwrap();
    }
    assert!(wal.bytes() > options().total_bytes);
    assert!(!wal.reclaim().unwrap(), "the store holds nothing yet");
    apply_entries(&bench.store, PartitionId(1), G, &mine).unwrap();
    bench.store.persist().unwrap();
    wal.set_store_durable(PartitionId(1), G, Index(2000));
    while wal.reclaim().unwrap() {}
    assert!(wal.bytes() <= options().total_bytes);
    assert!(
        wal.segments() > 2,
        "below the bound replicas that lag count"
    );
    drop(wal);
    let (_, recovery) = bench.open();
    let p = of(&recovery, 1);
    assert!(!p.corrupt);
    assert_eq!(p.entries.last().unwrap().position.index, Index(2000));
    assert!(p.meta.base.index() > Index(0));
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    let large = LogEntry::after(
        Mark::ZERO,
        Epoch(1),
        EntryKind::Write,
        Bytes::from(vec![7; 100 << 10]),
    );
    wal.append(&records(1, std::slice::from_ref(&large)))
        .unwrap();
    drop(wal);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert_eq!(of(&recovery, 1).entries, [large]);
}

#[test]
fn reclaimed_files_are_used_again_and_their_past_is_not_believed() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    let mut head = Mark::ZERO;
    for round in 0..40 {
        let more = entries(head, 1, 30);
        head = more.last().unwrap().mark();
        wal.append(&records(1, &more)).unwrap();
        apply_entries(&bench.store, PartitionId(1), G, &more).unwrap();
        bench.store.persist().unwrap();
        wal.set_store_durable(PartitionId(1), G, head.index());
        wal.set_reclaimable(PartitionId(1), head.index());
        while wal.reclaim().unwrap() {}
        if round % 7 == 0 {
            drop(wal);
            bench.lose_power();
            let (again, recovery) = bench.open();
            let p = of(&recovery, 1);
            assert!(!p.corrupt && !p.dropped_tail, "round {round}");
            assert_eq!(p.meta.lineage.last(), Some(&head));
            wal = again;
        }
    }
    let files = bench.disk.list().unwrap();
    assert!(files.len() <= 3, "{files:?}");
}

#[test]
fn the_log_of_another_node_is_refused() {
    let mut bench = Bench::new();
    drop(bench.open());
    let stranger = LogIdentity {
        node: 99,
        ..identity()
    };
    let error = Wal::open(
        bench.disk.clone(),
        stranger,
        options(),
        &bench.store,
        Box::new(|| 1),
    )
    .unwrap_err();
    assert!(matches!(error, WalError::Foreign { .. }), "{error}");
}

#[test]
fn a_log_of_a_newer_format_is_refused_by_number() {
    let mut bench = Bench::new();
    drop(bench.open());
    let file = bench.disk.open(&segment_name(1)).unwrap();
    let mut header = vec![0; 4096];
    file.read_at(0, &mut header).unwrap();
    header[8] = 9;
    let checksum = crc32c::crc32c(&header[..4092]);
    header[4092..].copy_from_slice(&checksum.to_le_bytes());
    file.write_at(0, &header).unwrap();
    let error = open(&bench.disk, &bench.store, 5).unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
}

#[test]
fn a_lost_segment_in_the_middle_is_noticed() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 800);
    wal.append(&[create(1)]).unwrap();
    for entry in records(1, &mine).chunks(10) {
        wal.append(entry).unwrap();
    }
    assert!(wal.segments() > 2);
    drop(wal);
    bench.disk.remove(&segment_name(2)).unwrap();
    let (_, recovery) = bench.open();
    assert!(!recovery.damage.is_empty());
    assert!(of(&recovery, 1).corrupt);
}

#[test]
fn an_idle_log_is_confirmed_once() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    wal.confirm().unwrap();
    let before = bench.disk.syncs();
    wal.confirm().unwrap();
    assert_eq!(bench.disk.syncs(), before);
}

#[test]
fn a_probe_flushes_each_time_and_leaves_the_log_as_it_is() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    // Also where nothing was appended since the log was opened.
    for _ in 0..2 {
        let before = bench.disk.syncs();
        assert_eq!(wal.probe().unwrap(), 0);
        assert!(bench.disk.syncs() > before);
    }
    wal.append(&[create(1)]).unwrap();
    let log = entries(Mark::ZERO, 1, 4);
    wal.append(&records(1, &log[..3])).unwrap();
    wal.confirm().unwrap();
    for _ in 0..10_000 {
        let before = bench.disk.syncs();
        assert_eq!(wal.probe().unwrap(), 4);
        assert_eq!(bench.disk.syncs(), before + 1);
    }
    assert_eq!(wal.segments(), 1, "probes take no room");
    wal.append(&records(1, &log[3..])).unwrap();
    drop(wal);
    let (_, recovery) = bench.open();
    assert!(recovery.damage.is_empty());
    assert_eq!(of(&recovery, 1).entries.len(), 4);
}

#[test]
fn many_records_take_one_flush() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    let before = bench.disk.syncs();
    let last = wal
        .append(&records(1, &entries(Mark::ZERO, 1, 30)))
        .unwrap();
    assert_eq!(bench.disk.syncs(), before + 1);
    assert_eq!(last, 31);
}

#[test]
fn what_only_the_page_cache_holds_of_the_store_lets_no_segment_go() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 800);
    wal.append(&[create(1)]).unwrap();
    for batch in records(1, &mine).chunks(10) {
        wal.append(batch).unwrap();
    }
    assert!(wal.segments() > 2);
    apply_entries(&bench.store, PartitionId(1), G, &mine).unwrap();
    drop(wal);
    // The process starts again, with the store as it was left: applied, not persisted.
    let (mut wal, recovery) = bench.open();
    assert_eq!(of(&recovery, 1).applied.index(), Index(800));
    wal.set_reclaimable(PartitionId(1), Index(800));
    while wal.reclaim().unwrap() {}
    drop(wal);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert!(!of(&recovery, 1).corrupt);
    assert_eq!(of(&recovery, 1).applied.index(), Index(800));
}

#[test]
fn a_disk_that_is_nearly_full_gets_short_segments() {
    let bench = Bench::new();
    let generous = WalOptions {
        segment_bytes: 4 << 20,
        ..options()
    };
    let open = |seed: u64| {
        Wal::open(
            bench.disk.clone(),
            identity(),
            generous,
            &bench.store,
            Box::new(move || seed),
        )
    };
    bench.disk.set_capacity(Some(5 << 20));
    let (mut wal, _) = open(1).unwrap();
    wal.append(&[create(1)]).unwrap();
    drop(wal);
    // Opening needs another segment before it can shorten the old one.
    let (mut wal, recovery) = open(2).unwrap();
    assert!(of(&recovery, 1).meta.replica.is_some());
    assert!(wal.bytes() < 5 << 20);
    wal.append(&records(1, &entries(Mark::ZERO, 1, 10)))
        .unwrap();
}
