//! `cairn check` of the disk of a node that does not run: clean, torn, and damaged.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::{cli, slot_keys, wal};
use cairn_storage::format::batch::{BATCH_HEADER_BYTES, BatchKind};
use serde_json::Value;
use tempfile::TempDir;

/// A file's content, and when it was last written to.
type Seen = (Vec<u8>, i64, i64);

/// Every file below a folder.
fn all(folder: &Path) -> Result<BTreeMap<PathBuf, Seen>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, about) = (entry.path(), entry.metadata()?);
            if about.is_dir() {
                folders.push(path);
            } else {
                let text = fs::read(&path)?;
                found.insert(path, (text, about.mtime(), about.mtime_nsec()));
            }
        }
    }
    Ok(found)
}

/// What it says of a directory, and its exit code; it may have changed nothing and left
/// nothing behind.
fn check(data: &Path) -> Result<(Value, i32)> {
    let scratch = TempDir::with_prefix("cairn-scratch-")?;
    let before = all(data)?;
    let mut command = cli::cairn(&["check", "-o", "json", "--scratch"])?;
    let output = command.arg(scratch.path()).arg(data).output()?;
    ensure!(all(data)? == before, "it changed something");
    let left = fs::read_dir(scratch.path())?.count();
    ensure!(left == 0, "it left {left} files behind");
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    Ok((report, output.status.code().context("an exit code")?))
}

fn count(report: &Value, part: &str) -> usize {
    report[part]["damage"].as_array().map_or(0, Vec::len)
}

#[test]
fn a_clean_disk_is_clean_a_torn_tail_is_no_damage_and_a_flipped_byte_is() -> Result<()> {
    let spec = Spec {
        coordinators: 1,
        data_nodes: 1,
        partitions: 8,
        ..Spec::default()
    }
    .with("CAIRN_REPLICATION_FACTOR", 1);
    let mut cluster = Cluster::start(spec)?;
    for round in 0..5 {
        for key in slot_keys::one_per_partition("checked", cluster.partitions()) {
            let value = format!("{round} {}", "x".repeat(1000));
            cli::done(cluster.cairn(&["put", &key, &value])?, BOUND)?;
        }
    }
    let data = cluster.data[0].data.clone();

    // One that runs writes meanwhile.
    let mut running = cli::cairn(&["check"])?;
    running.arg(&data);
    let said = cli::refused(running, BOUND)?;
    let pid = cluster.data[0].pid()?.to_string();
    ensure!(
        said.contains("in use by process") && said.contains(&pid),
        "{said}"
    );
    ensure!(said.contains("Stop the node first"), "{said}");

    cluster.data[0].kill()?;
    let (report, code) = check(&data)?;
    ensure!(code == 0, "{report}");
    let replicas = report["replicas"].as_array().context("replicas")?;
    ensure!(replicas.len() == 8, "{report}");
    ensure!(report["log"]["entries"].as_u64() >= Some(40), "{report}");

    // What a power loss leaves at the end of the log.
    let segment = wal::last_segment(&data)?;
    let batches = wal::batches(&segment)?;
    let intact = fs::read(&segment)?;
    let end = batches.last().context("a batch")?.end;
    let mut torn = intact.clone();
    let at = usize::try_from(end)?;
    torn[at..at + 300].copy_from_slice(&intact[usize::try_from(batches[0].offset)?..][..300]);
    fs::write(&segment, &torn)?;
    let (report, code) = check(&data)?;
    ensure!(code == 0 && count(&report, "log") == 0, "{report}");
    ensure!(report["log"]["tornTail"] == true, "{report}");
    fs::write(&segment, &intact)?;

    // A byte of what was flushed long ago.
    let records = batches
        .iter()
        .filter(|batch| batch.header.kind == BatchKind::Records);
    let records: Vec<_> = records.collect();
    let batch = records
        .get(records.len() / 2)
        .context("a batch of records")?;
    wal::flip(&segment, batch.offset + BATCH_HEADER_BYTES as u64 + 7)?;
    let (report, code) = check(&data)?;
    ensure!(code == 1 && count(&report, "log") == 1, "{report}");
    let what = report["log"]["damage"][0].as_str().context("words")?;
    let place = format!("offset {}", batch.offset);
    ensure!(what.contains("segment-") && what.contains(&place), "{what}");
    fs::write(&segment, &intact)?;

    // A store that is of no use.
    let marker = data.join("state/version");
    let right = fs::read(&marker)?;
    fs::write(&marker, "???")?;
    let (report, code) = check(&data)?;
    ensure!(code == 1 && count(&report, "store") == 1, "{report}");
    fs::write(&marker, right)?;

    // After all that the node starts as if nothing had happened.
    let (report, code) = check(&data)?;
    ensure!(code == 0, "{report}");
    cluster.data[0].start()?;
    cluster.await_ready()?;
    cluster.await_serving()
}
