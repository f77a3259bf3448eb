//! Measures the write-ahead log on a real disk: how many flushes a second it makes
//! of batches of a size, in segments whose space is only reserved and in segments
//! that were filled before.
//!
//!     cargo run --release -p cairn-node --example wal_throughput [DIRECTORY]

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use cairn_core::ids::{Epoch, Mark, PartitionId, ReplicaId};
use cairn_core::replication::{DurableRecord, EntryKind, Generation, LogEntry};
use cairn_node::disk::DirectoryDisk;
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::sim::MemStore;
use cairn_storage::wal::{Wal, WalOptions, prepare_spare};

const FOR: Duration = Duration::from_secs(2);
const BODY_BYTES: usize = 160;

fn measure(root: &std::path::Path, filled: bool, batch: usize) -> Result<()> {
    let directory = tempfile::tempdir_in(root)?;
    let disk = DirectoryDisk::open(directory.path())?;
    let options = WalOptions::default();
    let mut names = Vec::new();
    if filled {
        names.push(prepare_spare(&disk, options.segment_bytes, rand::random())?);
    }
    let (mut wal, _) = Wal::open(
        disk,
        LogIdentity::default(),
        options,
        &MemStore::new(),
        Box::new(rand::random),
    )?;
    wal.append(&[DurableRecord::Create {
        partition: PartitionId(0),
        replica: ReplicaId(1),
        generation: Generation(1),
    }])?;
    let body = Bytes::from(vec![7; BODY_BYTES]);
    let mut head = Mark::ZERO;
    let mut spent = Duration::ZERO;
    let mut flushes = 0u32;
    // No more than the first segment, which is the one that was prepared.
    while spent < FOR && wal.segments() == 1 {
        let records: Vec<DurableRecord> = (0..batch)
            .map(|_| {
                let entry = LogEntry::after(head, Epoch(1), EntryKind::Write, body.clone());
                head = entry.mark();
                DurableRecord::Entry {
                    partition: PartitionId(0),
                    entry,
                }
            })
            .collect();
        let begun = Instant::now();
        wal.append(&records)?;
        spent += begun.elapsed();
        flushes += 1;
    }
    let rate = f64::from(flushes) / spent.as_secs_f64();
    println!(
        "{:<8} {batch:>4} records to a flush: {rate:>7.0} flushes/s, {:>8.0} records/s, {:>6.0} us each flush",
        if filled { "filled" } else { "reserved" },
        rate * batch as f64,
        1e6 / rate,
    );
    Ok(())
}

fn main() -> Result<()> {
    let root = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, std::path::PathBuf::from);
    for batch in [1, 32, 256] {
        for filled in [false, true, false, true] {
            measure(&root, filled, batch)?;
        }
    }
    Ok(())
}
