//! Whatever stands on the disk, recovery reads it or says what is wrong.
//!
//! Checksums refuse nearly every change, so that what is behind them would never be
//! tried: one target leaves them as they are, the other sets them right again first.

use bytes::Bytes;
use cairn_core::ids::{Epoch, Mark, PartitionId};
use cairn_core::replication::DurableRecord;

use super::super::segment_name;
use super::model::{open, record};
use super::scenarios::{Bench, create, entries, records};
use crate::disk::{Disk, DiskFile};
use crate::format::batch::{ALIGNMENT, BATCH_HEADER_BYTES, SECTOR_BYTES};
use crate::format::record::decode_record;
use crate::format::segment_header::HEADER_BYTES;
use crate::format::snapshot_chunk::{SnapshotChunk, decode_chunk, encode_chunk};
use crate::sim::{MemDisk, MemStore};

const P: PartitionId = PartitionId(1);

/// The first segment of a log with each kind of record in it, without the empty rest.
fn segment() -> Vec<u8> {
    let mut bench = Bench::new();
    let (mut wal, _) = bench.open();
    wal.append(&[create(1), create(2)]).unwrap();
    let configured = DurableRecord::Configure {
        record: std::sync::Arc::new(record(P, Epoch(3), 1)),
    };
    let promised = DurableRecord::Promise {
        partition: P,
        epoch: Epoch(3),
    };
    wal.append(&[configured, promised]).unwrap();
    let log = entries(Mark::ZERO, 3, 4);
    wal.append(&records(1, &log)).unwrap();
    let cut = DurableRecord::Truncate {
        partition: P,
        to: log[1].mark(),
    };
    wal.append(&[cut]).unwrap();
    wal.confirm().unwrap();
    drop(wal);
    let mut bytes = bench
        .disk
        .contents(&segment_name(1))
        .expect("the first segment");
    let end = bytes
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |at| at + 1);
    // The last batch is filled up to a sector.
    bytes.truncate(end.next_multiple_of(SECTOR_BYTES as usize));
    bytes
}

/// Opens a log that has these bytes as its first segment; says how many partitions it
/// has, if it can be opened.
fn recover(bytes: &[u8]) -> Option<usize> {
    let (disk, store) = (MemDisk::new(), MemStore::new());
    let file = disk.create(&segment_name(1)).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    disk.sync_directory().unwrap();
    let (wal, recovery) = open(&disk, &store, 1).ok()?;
    drop(wal);
    // What was carried over is read too.
    let _ = open(&disk, &store, 2);
    Some(recovery.partitions.len())
}

fn put_u32(bytes: &mut [u8], at: usize, number: u32) {
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map_or(0, |four| u32::from_le_bytes(four) as usize)
}

/// Sets the checksums of everything right that looks like a batch.
fn mend_checksums(bytes: &mut [u8]) {
    // The places of a header's fields: see `format::batch`.
    const BODY_BYTES_AT: usize = 44;
    const BODY_CHECKSUM_AT: usize = 48;
    const CHECKSUM_AT: usize = BATCH_HEADER_BYTES - 4;
    for at in (HEADER_BYTES..bytes.len()).step_by(ALIGNMENT as usize) {
        if bytes.get(at..at + 4) != Some(b"CBAT") || bytes.len() < at + BATCH_HEADER_BYTES {
            continue;
        }
        let start = at + BATCH_HEADER_BYTES;
        let end = start
            .saturating_add(u32_at(bytes, at + BODY_BYTES_AT))
            .min(bytes.len());
        let mut frame = start;
        while frame + 8 <= end {
            let payload = frame + 8;
            let stop = payload.saturating_add(u32_at(bytes, frame)).min(end);
            let sum = crc32c::crc32c(&bytes[payload..stop]);
            put_u32(bytes, frame + 4, sum);
            frame = stop;
        }
        put_u32(bytes, at + BODY_BYTES_AT, (end - start) as u32);
        let sum = crc32c::crc32c(&bytes[start..end]);
        put_u32(bytes, at + BODY_CHECKSUM_AT, sum);
        let sum = crc32c::crc32c(&bytes[at..at + CHECKSUM_AT]);
        put_u32(bytes, at + CHECKSUM_AT, sum);
    }
}

#[test]
fn what_mends_checksums_knows_where_they_are() {
    let whole = segment();
    let mut mended = whole.clone();
    mend_checksums(&mut mended);
    assert_eq!(mended, whole);
    // Else no mutation of it would get far.
    assert_eq!(recover(&whole), Some(2));
}

#[test]
fn fuzz_recovery_from_a_damaged_segment() {
    cairn_fuzz::run("wal_recovery", 4, vec![segment(), Vec::new()], |input| {
        recover(input);
    });
}

#[test]
fn fuzz_recovery_from_a_segment_of_nonsense_with_right_checksums() {
    cairn_fuzz::run("wal_nonsense", 4, vec![segment()], |input| {
        let mut bytes = input.to_vec();
        mend_checksums(&mut bytes);
        recover(&bytes);
    });
}

#[test]
fn fuzz_log_records() {
    // The first payload of each batch is a seed.
    let bytes = segment();
    let mut seeds = Vec::new();
    for at in (HEADER_BYTES..bytes.len()).step_by(ALIGNMENT as usize) {
        if bytes.get(at..at + 4) == Some(b"CBAT") {
            let payload = at + BATCH_HEADER_BYTES + 8;
            let end = payload + u32_at(&bytes, payload - 8);
            seeds.extend(bytes.get(payload..end).map(<[u8]>::to_vec));
        }
    }
    cairn_fuzz::run("log_record", 1, seeds, |input| {
        let _ = decode_record(input);
    });
}

#[test]
fn fuzz_snapshot_chunks() {
    let row = |key: &'static str| (Bytes::from(key), Bytes::from_static(b"value"));
    let chunk = encode_chunk(&SnapshotChunk {
        number: 300,
        rows: vec![row("a"), row("b")],
        last: true,
    });
    // The checksum is the driver's: nothing behind it would be tried else.
    let body = chunk[..chunk.len() - 4].to_vec();
    cairn_fuzz::run("snapshot_chunk", 1, vec![body], |input| {
        let mut bytes = input.to_vec();
        bytes.extend_from_slice(&crc32c::crc32c(input).to_le_bytes());
        if let Ok(read) = decode_chunk(&Bytes::from(bytes)) {
            assert_eq!(decode_chunk(&encode_chunk(&read)), Ok(read));
        }
    });
}
