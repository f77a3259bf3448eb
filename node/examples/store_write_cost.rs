//! Measures what the disk pays for rows that reach fjall by inserting them, through
//! its journal and memtable, against ingesting them as sorted tables.
//!
//!     cargo run --release -p cairn-node --example store_write_cost
//!
//! 200,000 rows of 16 + 128 bytes that do not compress, in a temporary directory.
//! "Written" is what the kernel counts for the process (`write_bytes` of
//! `/proc/self/io`), once memtables are flushed and compactions have ended.
//! `docs/adr/0005-inserting-into-fjall.md` draws the conclusion.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

const ROWS: u64 = 200_000;
const KEY_BYTES: usize = 16;
const VALUE_BYTES: usize = 128;
/// Rows to a batch, as the apply thread merges them under load.
const BATCH: usize = 1000;

type Row = ([u8; KEY_BYTES], [u8; VALUE_BYTES]);

fn rows(sorted: bool, keys: u64) -> Vec<Row> {
    let mut state = 0x5eed_u64;
    let mut random = move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let mut rows: Vec<Row> = (0..ROWS)
        .map(|number| {
            let number = if sorted { number } else { random() % keys };
            let mut key = [0; KEY_BYTES];
            key[8..].copy_from_slice(&number.to_be_bytes());
            let mut value = [0; VALUE_BYTES];
            for part in value.chunks_mut(8) {
                part.copy_from_slice(&random().to_le_bytes());
            }
            (key, value)
        })
        .collect();
    if sorted {
        rows.sort_unstable();
    }
    rows
}

fn open(path: &Path) -> Result<(Database, Keyspace)> {
    let database = Database::builder(path)
        .cache_size(64 << 20)
        .manual_journal_persist(true)
        .worker_threads(2)
        .open()?;
    let keyspace = database.keyspace("state", || {
        KeyspaceCreateOptions::default()
            .manual_journal_persist(true)
            .max_memtable_size(32 << 20)
    })?;
    Ok((database, keyspace))
}

fn written_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/io")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("write_bytes: "))
        .context("the kernel does not count written bytes")?;
    Ok(line.trim().parse()?)
}

/// Waits until nothing is left to flush or to compact.
fn settle(database: &Database, keyspace: &Keyspace) -> Result<()> {
    keyspace.rotate_memtable_and_wait()?;
    let mut quiet = Instant::now();
    let mut completed = database.compactions_completed();
    while quiet.elapsed() < Duration::from_millis(500) {
        let now = database.compactions_completed();
        if database.active_compactions() > 0
            || database.outstanding_flushes() > 0
            || now != completed
        {
            completed = now;
            quiet = Instant::now();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    database.persist(PersistMode::SyncAll)?;
    Ok(())
}

fn measure(name: &str, act: impl FnOnce(&Database, &Keyspace) -> Result<()>) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (database, keyspace) = open(directory.path())?;
    let before = written_bytes()?;
    let begun = Instant::now();
    act(&database, &keyspace)?;
    database.persist(PersistMode::SyncAll)?;
    let durable = begun.elapsed();
    settle(&database, &keyspace)?;
    let written = written_bytes()? - before;
    let payload = ROWS * (KEY_BYTES + VALUE_BYTES) as u64;
    println!(
        "{name:<44} {:>7.1} MiB written, {:>5.2} times the rows; durable after {:>6.0} ms; {:>4} tables",
        written as f64 / f64::from(1 << 20),
        written as f64 / payload as f64,
        durable.as_secs_f64() * 1000.0,
        keyspace.table_count(),
    );
    Ok(())
}

fn insert(database: &Database, keyspace: &Keyspace, rows: &[Row]) -> Result<()> {
    for batch in rows.chunks(BATCH) {
        let mut write = database.batch();
        for (key, value) in batch {
            write.insert(keyspace, &key[..], &value[..]);
        }
        write.commit()?;
    }
    Ok(())
}

/// Ingests runs of `run` rows, each sorted, of equal keys the last one.
fn ingest(database: &Database, keyspace: &Keyspace, rows: &[Row], run: usize) -> Result<()> {
    for run in rows.chunks(run) {
        let mut sorted: Vec<&Row> = run.iter().collect();
        sorted.sort_by_key(|(key, _)| *key);
        // Without this, what was inserted before and not persisted could be lost
        // alone: the applied index would go back while the ingested rows stay.
        database.persist(PersistMode::SyncAll)?;
        let mut ingestion = keyspace.start_ingestion()?;
        for (at, row) in sorted.iter().enumerate() {
            if sorted.get(at + 1).is_none_or(|next| next.0 != row.0) {
                ingestion.write(&row.0[..], &row.1[..])?;
            }
        }
        ingestion.finish()?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let sorted = rows(true, ROWS);
    println!("a snapshot: {ROWS} new keys in order");
    measure("  inserted, batches of 1,000", |d, k| insert(d, k, &sorted))?;
    measure("  ingested at once", |d, k| {
        ingest(d, k, &sorted, sorted.len())
    })?;
    measure("  ingested by chunks of 1 MiB", |d, k| {
        ingest(d, k, &sorted, 7282)
    })?;
    let random = rows(false, ROWS / 2);
    println!("writes: {ROWS} to {} keys at random", ROWS / 2);
    measure("  inserted, batches of 1,000", |d, k| insert(d, k, &random))?;
    measure("  ingested by runs of 50,000 (7 MiB)", |d, k| {
        ingest(d, k, &random, 50_000)
    })?;
    measure("  ingested by runs of 10,000 (1.4 MiB)", |d, k| {
        ingest(d, k, &random, 10_000)
    })?;
    measure("  ingested batch by batch (1,000)", |d, k| {
        ingest(d, k, &random, BATCH)
    })
}
