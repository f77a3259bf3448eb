//! What broken places cost: as little as can be, and never more than one partition.

use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, Mark, PartitionId, ReplicaId};
use cairn_core::replication::{DurableRecord, EntryKind, Generation, LogEntry};

use super::super::{Wal, segment_name};
use super::model::{options, record};
use super::scenarios::{Bench, G, batch_offsets, create, entries, last_batch_offset, of, records};
use crate::format::segment_header::{COPY_BYTES, HEADER_BYTES};
use crate::sim::MemDisk;
use crate::state::{Kind, apply_entries, kind_range};
use crate::store::Store;

const P: PartitionId = PartitionId(1);

/// Breaks the batch that stands at this offset of the first segment.
fn break_batch(bench: &Bench, offset: u64) {
    bench.disk.flip_bit(&segment_name(1), (offset + 2) * 8);
}

/// A log in which the batch of `lost` is broken, between entries of epoch 8.
fn around_a_broken_batch(lost: &[DurableRecord], behind: &[DurableRecord]) -> Bench {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &entries(Mark::ZERO, 8, 2))).unwrap();
    wal.append(lost).unwrap();
    let offset = last_batch_offset(&bench.disk, &segment_name(1));
    wal.append(behind).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    break_batch(&bench, offset);
    bench.lose_power();
    bench
}

#[test]
fn a_promise_lost_to_a_broken_batch_is_known_from_inherited_entries_behind_it() {
    let promise = DurableRecord::Promise {
        partition: P,
        epoch: Epoch(9),
    };
    let mine = entries(Mark::ZERO, 8, 4);
    let behind = [
        records(1, &mine[2..]),
        vec![DurableRecord::Truncate {
            partition: P,
            to: mine[1].mark(),
        }],
    ];
    for behind in behind {
        let mut bench = around_a_broken_batch(std::slice::from_ref(&promise), &behind);
        let (_, recovery) = bench.open();
        assert_eq!(recovery.damage.len(), 1);
        let p = of(&recovery, 1);
        assert!(p.corrupt || p.meta.promised == Epoch(9), "{:?}", p.meta);
        assert!(!p.corrupt);
    }
}

#[test]
fn a_promise_that_nothing_behind_the_broken_place_shows_leaves_the_replica_in_doubt() {
    let promise = DurableRecord::Promise {
        partition: P,
        epoch: Epoch(9),
    };
    let mut bench = around_a_broken_batch(&[promise], &[create(2)]);
    let (_, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
}

#[test]
fn whoever_knows_of_an_epoch_has_promised_it() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let configure = DurableRecord::Configure {
        record: Arc::new(record(P, Epoch(5), 1)),
    };
    wal.append(&[configure, create(1)]).unwrap();
    drop(wal);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert_eq!(of(&recovery, 1).meta.promised, Epoch(5));
}

#[test]
fn a_torn_write_takes_nothing_that_was_flushed_before_it() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 4);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &mine[..2])).unwrap();
    // The write reaches the disk's cache, its flush does not return.
    bench.disk.fail_after(1);
    wal.append(&records(1, &mine[2..])).unwrap_err();
    drop(wal);
    bench.disk.lose_power(&mut |n| u64::from(n == 8));
    bench.store.lose_power(&mut |_| 0);
    let (mut wal, recovery) = bench.open();
    let p = of(&recovery, 1);
    assert!(!p.corrupt);
    assert_eq!(p.entries, mine[..2]);
    // The same holds for the batch that says what is flushed.
    wal.append(&records(1, &mine[2..])).unwrap();
    bench.disk.fail_after(1);
    wal.confirm().unwrap_err();
    drop(wal);
    bench.disk.lose_power(&mut |n| u64::from(n == 8));
    let (_, recovery) = bench.open();
    assert_eq!(of(&recovery, 1).entries, mine);
}

#[test]
fn a_bad_block_in_the_newest_header_costs_nothing() {
    for copy in 0..HEADER_BYTES / COPY_BYTES {
        let mut bench = Bench::new();
        let (mut wal, _) = bench.open();
        let mine = entries(Mark::ZERO, 1, 3);
        wal.append(&[create(1)]).unwrap();
        wal.append(&records(1, &mine)).unwrap();
        drop(wal);
        bench
            .disk
            .fail_reads(&segment_name(1), (copy * COPY_BYTES) as u64);
        let (_, recovery) = bench.open();
        assert_eq!(recovery.damage, Vec::<String>::new());
        assert_eq!(of(&recovery, 1).entries, mine);
    }
}

#[test]
fn a_block_that_cannot_be_read_costs_the_replicas_that_stood_there_and_not_the_node() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let (mine, other) = (entries(Mark::ZERO, 1, 4), entries(Mark::ZERO, 1, 3));
    wal.append(&[create(1), create(2)]).unwrap();
    wal.append(&records(2, &other[..1])).unwrap();
    wal.append(&records(1, &mine)).unwrap();
    let offset = last_batch_offset(&bench.disk, &segment_name(1));
    wal.append(&records(2, &other[1..])).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    bench.disk.fail_reads(&segment_name(1), offset);
    let (_, recovery) = bench.open();
    assert_eq!(recovery.damage.len(), 1);
    assert!(of(&recovery, 1).corrupt);
    assert!(!of(&recovery, 2).corrupt);
    assert_eq!(of(&recovery, 2).entries, other);
}

#[test]
fn what_a_start_carries_over_of_replicas_stands_there_twice() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1)]).unwrap();
    wal.append(&[create(2)]).unwrap();
    // The process ends at once: the last batch is not known to be flushed.
    drop(wal);
    let (wal, _) = bench.open();
    drop(wal);
    let name = segment_name(2);
    // A checkpoint, the creation, its row.
    let offsets = batch_offsets(&bench.disk, &name);
    assert_eq!(offsets.len(), 3);
    for broken in [offsets[1], offsets[2]] {
        let bit = (broken + 2) * 8;
        bench.disk.flip_bit(&name, bit);
        let (wal, recovery) = bench.open();
        drop(wal);
        assert_eq!(recovery.damage.len(), 1);
        assert_eq!(of(&recovery, 2).meta.replica, Some(ReplicaId(2)));
        bench.disk.flip_bit(&name, bit);
    }
}

#[test]
fn an_applied_mark_that_cannot_be_read_costs_its_own_replica() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 3);
    wal.append(&[create(1), create(2)]).unwrap();
    wal.append(&records(1, &mine)).unwrap();
    wal.append(&records(2, &mine)).unwrap();
    drop(wal);
    apply_entries(&bench.store, P, G, &mine).unwrap();
    let (from, to) = kind_range(G, Kind::Meta);
    let mut junk = Vec::new();
    bench
        .store
        .scan(&from, Some(&to), &mut |key, _| {
            junk.push((key, Some(Bytes::from_static(b"junk"))));
            true
        })
        .unwrap();
    bench.store.write(&junk).unwrap();
    let (_, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
    assert!(!of(&recovery, 2).corrupt);
    assert_eq!(of(&recovery, 2).entries, mine);
}

#[test]
fn corruption_found_while_the_node_ran_is_known_at_the_next_start() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1), create(2)]).unwrap();
    let corrupt = |replica: u64| DurableRecord::Corrupt {
        partition: P,
        replica: ReplicaId(replica),
    };
    // Of a replica that is gone nothing is said.
    wal.append(&[corrupt(1), corrupt(9)]).unwrap();
    drop(wal);
    for _ in 0..2 {
        bench.lose_power();
        let (_, recovery) = bench.open();
        assert!(of(&recovery, 1).corrupt);
        assert!(!of(&recovery, 2).corrupt);
    }
    let (mut wal, _) = bench.open();
    wal.append(&[DurableRecord::Create {
        partition: P,
        replica: ReplicaId(7),
        generation: Generation(7),
    }])
    .unwrap();
    drop(wal);
    let (_, recovery) = bench.open();
    assert!(!of(&recovery, 1).corrupt);
}

#[test]
fn a_record_that_does_not_follow_costs_its_own_replica() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 4);
    wal.append(&[create(1), create(2)]).unwrap();
    let mut batch = records(1, &mine[2..]);
    batch.extend(records(2, &mine));
    assert_eq!(wal.append(&batch).unwrap(), 8);
    let misplaced = wal.take_misplaced();
    assert_eq!(misplaced.len(), 1, "{misplaced:?}");
    assert_eq!(misplaced[0].partition, P);
    assert_eq!(wal.take_misplaced(), []);
    drop(wal);
    bench.lose_power();
    let (_, recovery) = bench.open();
    assert!(of(&recovery, 1).corrupt);
    assert!(!of(&recovery, 2).corrupt);
    assert_eq!(of(&recovery, 2).entries, mine);
}

/// Two partitions: one that has entries which cannot commit, and one that is written
/// to and applied, round after round.
struct Pinned {
    bench: Bench,
    mine: Vec<LogEntry>,
    head: Mark,
}

impl Pinned {
    fn new(count: u64, body: usize) -> (Self, Wal<MemDisk>) {
        let mut bench = Bench::new();
        let (mut wal, _) = bench.open();
        let mut mine = entries(Mark::ZERO, 1, 2);
        for _ in 0..count {
            let head = mine.last().unwrap().mark();
            let body = Bytes::from(vec![7; body]);
            mine.push(LogEntry::after(head, Epoch(1), EntryKind::Barrier, body));
        }
        wal.append(&[create(1), create(2)]).unwrap();
        let promise = DurableRecord::Promise {
            partition: P,
            epoch: Epoch(4),
        };
        wal.append(&[promise]).unwrap();
        for batch in records(1, &mine).chunks(4) {
            wal.append(batch).unwrap();
        }
        apply_entries(&bench.store, P, G, &mine[..2]).unwrap();
        bench.store.persist().unwrap();
        wal.set_store_durable(P, G, Index(2));
        let head = Mark::ZERO;
        (Self { bench, mine, head }, wal)
    }

    /// Writes and applies a few segments' worth of the other partition.
    fn write(&mut self, wal: &mut Wal<MemDisk>) {
        let other = PartitionId(2);
        for _ in 0..200 {
            let more = entries(self.head, 1, 10);
            self.head = more.last().unwrap().mark();
            wal.append(&records(2, &more)).unwrap();
            apply_entries(&self.bench.store, other, Generation(2), &more).unwrap();
            self.bench.store.persist().unwrap();
            wal.set_store_durable(other, Generation(2), self.head.index());
            wal.set_reclaimable(other, self.head.index());
            while wal.reclaim().unwrap() {}
        }
    }

    fn check(&mut self) -> Wal<MemDisk> {
        let (wal, recovery) = self.bench.open();
        assert_eq!(recovery.damage, Vec::<String>::new());
        let p = of(&recovery, 1);
        assert!(!p.corrupt);
        assert_eq!(p.meta.promised, Epoch(4));
        assert_eq!(p.meta.lineage, [self.mine.last().unwrap().mark()]);
        assert!(p.meta.base.index() <= Index(2));
        assert!(p.entries.ends_with(&self.mine[2..]));
        assert!(!of(&recovery, 2).corrupt);
        wal
    }
}

#[test]
fn an_entry_that_cannot_commit_does_not_hold_the_log_for_ever() {
    let (mut pinned, mut wal) = Pinned::new(1, 10);
    for _ in 0..3 {
        pinned.write(&mut wal);
        let most = options().total_bytes + options().segment_bytes;
        assert!(wal.bytes() <= most, "{} bytes", wal.bytes());
        drop(wal);
        pinned.bench.lose_power();
        wal = pinned.check();
    }
    // Its quorum comes back: it is applied, and nothing is carried any more.
    apply_entries(&pinned.bench.store, P, G, &pinned.mine).unwrap();
    pinned.bench.store.persist().unwrap();
    wal.set_store_durable(P, G, Index(3));
    wal.set_reclaimable(P, Index(3));
    while wal.reclaim().unwrap() {}
    drop(wal);
    let (_, recovery) = pinned.bench.open();
    let p = of(&recovery, 1);
    assert!(!p.corrupt);
    assert_eq!(p.applied, pinned.mine[2].mark());
}

#[test]
fn a_power_loss_while_entries_are_carried_forward_loses_nothing() {
    for changes in 0..30 {
        let (mut pinned, mut wal) = Pinned::new(3, 2000);
        let other = PartitionId(2);
        let more = entries(Mark::ZERO, 1, 900);
        for batch in records(2, &more).chunks(10) {
            wal.append(batch).unwrap();
        }
        assert!(wal.bytes() > options().total_bytes);
        apply_entries(&pinned.bench.store, other, Generation(2), &more).unwrap();
        pinned.bench.store.persist().unwrap();
        wal.set_store_durable(other, Generation(2), Index(900));
        let before = wal.segments();
        pinned.bench.disk.fail_after(changes);
        while wal.reclaim().is_ok_and(|went| went) {}
        if changes == 29 {
            assert!(wal.segments() < before, "nothing was carried");
        }
        drop(wal);
        pinned.bench.lose_power();
        pinned.check();
    }
}

#[test]
fn more_than_fits_beside_other_things_is_not_carried() {
    let (mut pinned, mut wal) = Pinned::new(20, 3000);
    let mut head = Mark::ZERO;
    for _ in 0..200 {
        let more = entries(head, 1, 10);
        head = more.last().unwrap().mark();
        wal.append(&records(2, &more)).unwrap();
        assert!(!wal.reclaim().unwrap());
    }
    drop(wal);
    pinned.check();
}

/// A log whose entries 3 and 4 of 6 are lost, with a store that has applied so many.
fn with_a_missing_range(applied: usize) -> (Bench, Vec<LogEntry>) {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 6);
    wal.append(&[create(1), create(2)]).unwrap();
    wal.append(&records(1, &mine[..2])).unwrap();
    wal.append(&records(1, &mine[2..4])).unwrap();
    let offset = last_batch_offset(&bench.disk, &segment_name(1));
    wal.append(&records(1, &mine[4..])).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    apply_entries(&bench.store, P, G, &mine[..applied]).unwrap();
    bench.store.persist().unwrap();
    break_batch(&bench, offset);
    bench.lose_power();
    (bench, mine)
}

#[test]
fn one_missing_range_is_named_until_it_is_mended() {
    for applied in [0, 1, 2, 3] {
        let (mut bench, mine) = with_a_missing_range(applied);
        let good = applied.max(2);
        for _ in 0..3 {
            bench.lose_power();
            let (_, recovery) = bench.open();
            let p = of(&recovery, 1);
            assert!(p.corrupt, "it counts as absent");
            let missing = p.missing.as_ref().expect("a missing range");
            assert_eq!(missing.after, mine[good - 1].mark());
            assert_eq!(missing.until, Index(4));
            assert_eq!(missing.kept, mine[4..]);
            assert_eq!(missing.head(), Some(mine[5].mark()));
            assert!(missing.is_filled_by(&mine[good..4]));
            assert!(!missing.is_filled_by(&mine[good..3]));
            assert!(!missing.is_filled_by(&entries(missing.after, 1, 4 - good as u64 - 1)));
            let last = p.entries.last().map_or(p.meta.base, LogEntry::mark);
            assert_eq!(last, missing.after);
        }
        let (mut wal, _) = bench.open();
        let mut mended = vec![DurableRecord::Truncate {
            partition: P,
            to: mine[good - 1].mark(),
        }];
        mended.extend(records(1, &mine[good..]));
        wal.append(&mended).unwrap();
        assert_eq!(wal.take_misplaced(), []);
        drop(wal);
        for _ in 0..2 {
            bench.lose_power();
            let (_, recovery) = bench.open();
            let p = of(&recovery, 1);
            assert!(!p.corrupt && p.missing.is_none(), "{p:?}");
            assert!(p.entries.ends_with(&mine[good..]));
        }
    }
}

#[test]
fn what_stood_behind_a_missing_range_outlives_a_mending_that_was_torn() {
    let (mut bench, mine) = with_a_missing_range(0);
    let (mut wal, _) = bench.open();
    let mut mended = vec![DurableRecord::Truncate {
        partition: P,
        to: mine[1].mark(),
    }];
    mended.extend(records(1, &mine[2..]));
    // Only a first part of it reaches the disk, and again at the next try.
    for part in [1, 2, 4] {
        wal.append(&mended[..part]).unwrap();
        wal.set_reclaimable(P, Index(6));
        while wal.reclaim().unwrap() {}
        drop(wal);
        for _ in 0..2 {
            bench.lose_power();
            let (again, recovery) = bench.open();
            drop(again);
            let p = of(&recovery, 1);
            let missing = p.missing.as_ref().expect("a missing range");
            assert_eq!(missing.after, mine[1].mark(), "{part}");
            assert_eq!(missing.kept, mine[4..], "{part}");
            assert_eq!(p.entries, mine[..2], "{part}");
        }
        wal = bench.open().0;
    }
    wal.append(&mended).unwrap();
    assert_eq!(wal.take_misplaced(), []);
    drop(wal);
    for _ in 0..2 {
        bench.lose_power();
        let (_, recovery) = bench.open();
        let p = of(&recovery, 1);
        assert!(!p.corrupt && p.missing.is_none(), "{p:?}");
        assert_eq!(p.entries, mine);
    }
}

#[test]
fn a_range_at_the_end_of_a_segment_is_named_by_the_next_checkpoint() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let mine = entries(Mark::ZERO, 1, 4);
    wal.append(&[create(1), create(2)]).unwrap();
    wal.append(&records(1, &mine[..2])).unwrap();
    wal.append(&records(1, &mine[2..])).unwrap();
    let offset = last_batch_offset(&bench.disk, &segment_name(1));
    let mut head = Mark::ZERO;
    while wal.segments() == 1 {
        let more = entries(head, 1, 10);
        head = more.last().unwrap().mark();
        wal.append(&records(2, &more)).unwrap();
    }
    drop(wal);
    break_batch(&bench, offset);
    let (_, recovery) = bench.open();
    let p = of(&recovery, 1);
    let missing = p.missing.as_ref().expect("a missing range");
    assert_eq!(missing.end, Some(mine[3].mark()));
    assert_eq!(missing.head(), Some(mine[3].mark()));
    assert!(missing.is_filled_by(&mine[2..]));
    assert_eq!(p.entries, mine[..2]);
    assert!(!of(&recovery, 2).corrupt);
}

#[test]
fn a_missing_range_does_not_hold_the_log_for_ever() {
    let (mut bench, _) = with_a_missing_range(0);
    let (mut wal, recovery) = bench.open();
    assert!(of(&recovery, 1).missing.is_some());
    let mut head = Mark::ZERO;
    let other = PartitionId(2);
    let mut given_up = Vec::new();
    for _ in 0..200 {
        let more = entries(head, 1, 10);
        head = more.last().unwrap().mark();
        wal.append(&records(2, &more)).unwrap();
        apply_entries(&bench.store, other, Generation(2), &more).unwrap();
        bench.store.persist().unwrap();
        wal.set_store_durable(other, Generation(2), head.index());
        while wal.reclaim().unwrap() {}
        given_up.extend(wal.take_misplaced());
    }
    assert_eq!(given_up.len(), 1);
    assert_eq!(given_up[0].partition, P);
    assert!(wal.bytes() <= options().total_bytes + options().segment_bytes);
    drop(wal);
    let (_, recovery) = bench.open();
    let p = of(&recovery, 1);
    assert!(p.corrupt && p.missing.is_none());
}
