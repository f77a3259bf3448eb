//! What is read back of the log while it is written, cut and reclaimed.

use cairn_core::ids::{Index, Mark, PartitionId};
use cairn_core::replication::{DurableRecord, Line, LogEntry};

use super::super::history::{History, LogReader};
use super::super::{WalOptions, segment_name};
use super::model::{ModelPartition, body, open_with, options};
use super::random::World;
use super::scenarios::{Bench, G, create, entries, last_batch_offset, records};
use crate::disk::{Disk, DiskFile};
use crate::format::batch::BATCH_HEADER_BYTES;
use crate::sim::MemDisk;
use crate::state::{self, apply_entries};
use crate::store::Store;

const SEEDS: u64 = 60;
const P: PartitionId = PartitionId(1);

fn line_of(state: &ModelPartition, base: Index) -> Line {
    Line {
        base: state.mark_at(base),
        lineage: state.lineage(),
    }
}

/// The line of a log that consists of these entries.
fn line(log: &[LogEntry]) -> Line {
    let state = ModelPartition {
        log: log.to_vec(),
        ..ModelPartition::default()
    };
    line_of(&state, state.head().index())
}

/// Reads page by page, from after an index, for as long as there is anything.
fn read_on(
    reader: &LogReader<MemDisk>,
    partition: PartitionId,
    after: u64,
    line: &Line,
    bytes: usize,
) -> Vec<LogEntry> {
    let mut all: Vec<LogEntry> = Vec::new();
    loop {
        let at = Index(after + all.len() as u64);
        let page = reader.read(partition, at, line, bytes).unwrap();
        if page.is_empty() {
            return all;
        }
        let size: usize = page.iter().map(|entry| entry.body.len()).sum();
        assert!(size <= bytes || page.len() == 1, "{size} of {bytes} bytes");
        all.extend(page);
    }
}

/// What came of the reads of a test.
#[derive(Default)]
struct Tally {
    whole: usize,
    cut_short: usize,
    gone: usize,
}

/// Reads of each partition from somewhere up to somewhere: what comes is the log, and
/// comes whole where no segment of it can have gone.
fn read_somewhere(world: &mut World, reader: &LogReader<MemDisk>, seed: u64, tally: &mut Tally) {
    let all_kept = world.options.kept_bytes == u64::MAX;
    for (partition, state) in world.model.partitions.clone() {
        let Some(generation) = state.generation.filter(|_| state.replica.is_some()) else {
            continue;
        };
        let head = state.head().index().0;
        let after = world.choices.below(head + 1);
        let base = after + world.choices.below(head + 1 - after);
        let line = line_of(&state, Index(base));
        let bytes = 1 + world.choices.below(3000) as usize;
        let read = read_on(reader, partition, after, &line, bytes);
        let end = after as usize + read.len();
        assert!(end as u64 <= base, "seed {seed}: past the base");
        assert_eq!(read, state.log[after as usize..end], "seed {seed}");
        let applied = state::applied(&world.store, generation).unwrap().index().0;
        if end as u64 == base {
            tally.whole += usize::from(base > after);
        } else {
            let place = format!("seed {seed}: {partition} ends at {end} of {after} to {base}");
            assert!(!all_kept && after < applied, "{place}");
            if read.is_empty() {
                tally.gone += 1;
            } else {
                tally.cut_short += 1;
            }
        }
    }
}

#[test]
fn what_is_read_back_is_the_log_and_nothing_is_missing_that_was_not_reclaimed() {
    let mut tally = Tally::default();
    for seed in 0..SEEDS {
        let mut world = World::new(seed ^ 0x4157);
        if world.choices.one_in(2) {
            world.options.kept_bytes = u64::MAX;
            world.options.total_bytes = u64::MAX;
        }
        let mut wal = world.recover(seed);
        for _ in 0..4 {
            if world.choices.one_in(2) {
                let changes = world.choices.below(60);
                world.disk.fail_after(changes);
            }
            for _ in 0..world.choices.below(60) {
                if !world.step(&mut wal) {
                    break;
                }
                read_somewhere(&mut world, &wal.reader(), seed, &mut tally);
            }
            world.lose_power();
            wal = world.recover(seed);
            read_somewhere(&mut world, &wal.reader(), seed, &mut tally);
        }
    }
    let Tally {
        whole,
        cut_short,
        gone,
    } = tally;
    println!("{whole} whole, {gone} gone, {cut_short} cut short");
    assert!(whole > 1000 && gone > 50, "{whole} whole, {gone} gone");
}

#[test]
fn what_a_log_lost_is_not_given_though_it_stands_there() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let lost = entries(Mark::ZERO, 1, 6);
    let kept = lost[2].mark();
    let after = entries(kept, 2, 3);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &lost)).unwrap();
    let cut = DurableRecord::Truncate {
        partition: P,
        to: kept,
    };
    wal.append(&[cut]).unwrap();
    wal.append(&records(1, &after)).unwrap();
    let log = [&lost[..3], &after].concat();
    let read = |after: u64, line: &Line| read_on(&wal.reader(), P, after, line, 1 << 20);
    assert_eq!(read(0, &line(&log)), log);
    assert_eq!(read(3, &line(&log)), after);
    // Of a line that has what was lost here, this log holds all the same what is its own.
    assert_eq!(read(0, &line(&lost)), lost);
    // And the replica that comes after this one has none of it.
    drop(bench.open());
    let (mut wal, _) = bench.open();
    let order = (cairn_core::ids::Epoch(9), 1);
    wal.append(&[DurableRecord::Delete {
        partition: P,
        order,
    }])
    .unwrap();
    assert_eq!(read_on(&wal.reader(), P, 0, &line(&log), 1 << 20), []);
}

/// A log of one partition that fills some segments, all applied.
fn filled(bench: &Bench, options: WalOptions) -> (super::super::Wal<MemDisk>, Vec<LogEntry>) {
    let (mut wal, _) = open_with(&bench.disk, &bench.store, 1, options).unwrap();
    let mut choices = super::model::Choices::new(7);
    let mut log: Vec<LogEntry> = Vec::new();
    wal.append(&[create(1)]).unwrap();
    while wal.segments() < 4 {
        let head = log.last().map_or(Mark::ZERO, LogEntry::mark);
        let kind = cairn_core::replication::EntryKind::Write;
        let entry = LogEntry::after(head, cairn_core::ids::Epoch(1), kind, body(&mut choices));
        wal.append(&records(1, std::slice::from_ref(&entry)))
            .unwrap();
        log.push(entry);
    }
    apply_entries(&bench.store, P, G, &log).unwrap();
    bench.store.persist().unwrap();
    let head = log.last().unwrap().position.index;
    wal.set_store_durable(P, G, head);
    wal.set_reclaimable(P, head);
    (wal, log)
}

#[test]
fn a_segment_that_goes_while_it_is_read_is_gone_and_no_error() {
    let bench = Bench::new();
    let (mut wal, log) = filled(&bench, options());
    let line = line(&log);
    assert_eq!(read_on(&wal.reader(), P, 0, &line, 4096), log);
    // Readers that looked where things are before the segments went.
    let looked = |wal: &super::super::Wal<MemDisk>| {
        let catalog = wal.reader().history.lock().clone();
        LogReader::new(bench.disk.clone(), History::new(catalog))
    };
    let early = looked(&wal);
    assert!(wal.reclaim().unwrap());
    assert_eq!(early.read(P, Index(0), &line, 4096).unwrap(), []);
    let rest = read_on(&early, P, log.len() as u64 - 1, &line, 4096);
    assert_eq!(rest, log[log.len() - 1..]);

    // The file is used again while it is open: another segment's bytes stand there.
    let early = looked(&wal);
    let second = segment_name(2);
    let inside = (1..log.len() as u64)
        .find(|at| !early.read(P, Index(*at), &line, 1).unwrap().is_empty())
        .unwrap();
    let other = bench.disk.contents(&segment_name(3)).unwrap();
    bench
        .disk
        .open(&second)
        .unwrap()
        .write_at(0, &other)
        .unwrap();
    assert_eq!(early.read(P, Index(inside), &line, 4096).unwrap(), []);
}

#[test]
fn a_broken_batch_ends_what_is_given_and_leaves_no_gap() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let log = entries(Mark::ZERO, 1, 6);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &log[..2])).unwrap();
    wal.append(&records(1, &log[2..4])).unwrap();
    let offset = last_batch_offset(&bench.disk, &segment_name(1));
    wal.append(&records(1, &log[4..])).unwrap();
    let line = line(&log);
    assert_eq!(read_on(&wal.reader(), P, 0, &line, 4096), log);
    let bit = (offset + BATCH_HEADER_BYTES as u64 + 3) * 8;
    bench.disk.flip_bit(&segment_name(1), bit);
    assert_eq!(read_on(&wal.reader(), P, 0, &line, 4096), log[..2]);
    assert_eq!(wal.reader().read(P, Index(2), &line, 4096).unwrap(), []);
}

#[test]
fn a_disk_that_does_not_give_a_block_is_an_error() {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    let log = entries(Mark::ZERO, 1, 2);
    wal.append(&[create(1)]).unwrap();
    wal.append(&records(1, &log)).unwrap();
    let name = segment_name(1);
    let offset = last_batch_offset(&bench.disk, &name);
    bench.disk.fail_reads(&name, offset);
    assert!(wal.reader().read(P, Index(0), &line(&log), 4096).is_err());
}

#[test]
fn what_nobody_needs_stays_up_to_the_bytes_that_are_to_be_kept() {
    let bench = Bench::new();
    let kept = WalOptions {
        kept_bytes: 128 << 10,
        ..options()
    };
    let (mut wal, log) = filled(&bench, kept);
    // Three are closed: one more than is to be kept.
    assert!(wal.reclaim().unwrap());
    assert!(!wal.reclaim().unwrap());
    assert_eq!(wal.segments(), 3);
    let line = line(&log);
    let first = (0..log.len() as u64)
        .find(|at| {
            !wal.reader()
                .read(P, Index(*at), &line, 1)
                .unwrap()
                .is_empty()
        })
        .unwrap();
    assert!(first > 0 && first < log.len() as u64 / 2, "{first}");
    assert_eq!(
        read_on(&wal.reader(), P, first, &line, 4096),
        log[first as usize..]
    );
    // A restart changes nothing about it.
    drop(wal);
    let (wal, _) = open_with(&bench.disk, &bench.store, 2, kept).unwrap();
    assert_eq!(
        read_on(&wal.reader(), P, first, &line, 4096),
        log[first as usize..]
    );
}
