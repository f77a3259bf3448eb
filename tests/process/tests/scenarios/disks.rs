//! Disks that tear, rot, vanish and fill up.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_core::ids::ReplicaId;
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::node::Node;
use cairn_process_tests::power::Forget;
use cairn_process_tests::small_disk::{NO_SMALL_DISK, SmallDisk, allocate, free_bytes};
use cairn_process_tests::{seed, skip, status, waiting, wal};
use cairn_storage::format::batch::{BATCH_HEADER_BYTES, BatchKind};
use rand::Rng;
use rand::rngs::StdRng;

#[test]
fn a_write_that_was_under_way_when_everything_was_killed_is_torn_and_loses_nothing() -> Result<()> {
    let (seed, _) = seed::draw("torn tails");
    let mut cluster = Cluster::start(Spec {
        shim: true,
        ..Spec::default()
    })?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(2000)?;

    // No flush returns any more, so that every log comes to end in a batch which was
    // written, not flushed, and so acknowledged to nobody: that one may be torn.
    for node in &cluster.data {
        node.power.as_ref().expect("loaded").stall(true)?;
    }
    for node in &cluster.data {
        let power = node.power.as_ref().expect("loaded");
        waiting::until("an unflushed batch in every log", BOUND, || {
            power.unflushed(&wal::last_segment(&node.data)?)
        })?;
    }
    cluster.kill_all()?;
    load.wind_down();
    let mut said = Vec::new();
    for node in &cluster.data {
        let power = node.power.as_ref().expect("loaded");
        power.stall(false)?;
        let segment = wal::last_segment(&node.data)?;
        let torn = power.unflushed(&segment)?.context("an unflushed batch")?;
        println!("{}: tearing {torn:?} of {}", node.name, segment.display());
        wal::tear(&segment, &torn)?;
        said.push(node.log_text().len());
    }
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    for (node, before) in cluster.data.iter().zip(said) {
        let text = node.log_text().split_off(before);
        ensure!(
            text.contains("dropped_tail=true") && !text.contains("is damaged"),
            "{} took its torn tail for something else:\n{text}",
            node.name
        );
    }
    load.stop()?.verify(&cluster.target())
}

/// What the damage to a node's log hit.
struct Flipped {
    /// The replicas that the node had.
    replicas: Vec<ReplicaId>,
    /// How long its log of lines was.
    said: usize,
}

/// Loads until a node's log holds what its store does not durably hold, and returns
/// where that begins. The store would make good for anything before it.
fn write_past_the_store(load: &Load, node: &Node) -> Result<(PathBuf, u64)> {
    let persisted = || node.metric("cairn_store_persist_seconds_count");
    waiting::until("writes that only the log holds", BOUND * 2, || {
        let before = persisted()?;
        waiting::until("the store to be persisted", BOUND, || {
            Ok((persisted()? > before).then_some(()))
        })?;
        let segment = wal::last_segment(&node.data)?;
        let batches = wal::batches(&segment)?;
        let end = batches.last().context("a batch")?.end;
        let before = persisted()?;
        load.await_acknowledged(1000)?;
        let same = persisted()? == before && wal::last_segment(&node.data)? == segment;
        Ok(same.then_some((segment, end)))
    })
}

/// Flips a byte of a dead node's log, in the middle of what its store has lost with the
/// power: nothing on this node can make good for it.
fn flip_a_byte(node: &Node, (segment, from): (PathBuf, u64), rng: &mut StdRng) -> Result<()> {
    let power = node.power.as_ref().context("the shim")?;
    println!("{}: {:?}", node.name, power.cut(Forget::All, rng)?);
    let batches = wal::batches(&segment)?;
    let hit: Vec<_> = batches
        .iter()
        .filter(|batch| batch.offset >= from && batch.header.kind == BatchKind::Records)
        .collect();
    let batch = hit.get(hit.len() / 2).context("a batch of records")?;
    let body = batch.offset + BATCH_HEADER_BYTES as u64;
    let at = rng.random_range(body..body + u64::from(batch.header.body_bytes));
    println!(
        "flipping byte {at} of {}, whose log goes on to {}",
        segment.display(),
        batches.last().context("a batch")?.end
    );
    wal::flip(&segment, at)
}

/// Checks that a node noticed the damage, and that each replica that it hit was made
/// anew or had the broken range fetched from a peer (rule 12).
fn is_repaired(cluster: &Cluster, victim: usize, before: &Flipped) -> Result<()> {
    let node = &cluster.data[victim];
    let damaged = node.metric("cairn_corrupt_replicas_total")?;
    let text = node.log_text().split_off(before.said);
    ensure!(
        damaged > 0.0 && text.contains("the write-ahead log is damaged"),
        "the damage went unnoticed: {damaged} replicas\n{text}"
    );
    status::await_healthy(cluster)?;
    // One that fetches what is broken is not to be replaced, and so counts as healthy.
    let replaced_and_mended = || -> Result<(usize, usize)> {
        let now = status::replicas_on(cluster, &node.name)?;
        ensure!(
            now.len() == before.replicas.len(),
            "{} replicas before, {} now",
            before.replicas.len(),
            now.len()
        );
        let old = before.replicas.iter();
        let replaced = old.filter(|id| !now.contains(id)).count();
        let text = node.log_text().split_off(before.said);
        Ok((replaced, text.matches("the log was mended").count()))
    };
    let (replaced, mended) = waiting::until("every damaged replica to be repaired", BOUND, || {
        let (replaced, mended) = replaced_and_mended()?;
        Ok(((replaced + mended) as f64 >= damaged).then_some((replaced, mended)))
    })?;
    println!(
        "{damaged} of {} replicas were damaged, {replaced} were replaced, {mended} mended",
        before.replicas.len()
    );
    Ok(())
}

#[test]
fn a_flipped_byte_in_the_middle_of_a_segment_is_repaired_from_a_peer() -> Result<()> {
    let (seed, mut rng) = seed::draw("flipped byte");
    let mut cluster = Cluster::start(Spec {
        shim: true,
        ..Spec::default()
    })?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let victim = rng.random_range(0..cluster.data.len());
    let replicas = status::replicas_on(&cluster, &cluster.data[victim].name)?;
    let node = &mut cluster.data[victim];
    let place = write_past_the_store(&load, node)?;
    node.kill()?;
    flip_a_byte(node, place, &mut rng)?;
    let said = node.log_text().len();
    let before = Flipped { replicas, said };
    cluster.start_all()?;
    cluster.await_ready()?;
    is_repaired(&cluster, victim, &before)?;
    // Now that it is whole again, another node may go.
    let other = (victim + 1) % cluster.data.len();
    cluster.data[other].kill()?;
    load.await_every_partition()?;
    cluster.start_all()?;
    cluster.await_ready()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn every_process_killed_and_a_byte_flipped_loses_no_acknowledged_write() -> Result<()> {
    let (seed, mut rng) = seed::draw("kill of everything, flipped byte");
    let mut cluster = Cluster::start(Spec {
        shim: true,
        ..Spec::default()
    })?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    let victim = rng.random_range(0..cluster.data.len());
    let replicas = status::replicas_on(&cluster, &cluster.data[victim].name)?;
    let place = write_past_the_store(&load, &cluster.data[victim])?;
    cluster.kill_all()?;
    load.wind_down();
    let node = &cluster.data[victim];
    flip_a_byte(node, place, &mut rng)?;
    let said = node.log_text().len();
    let before = Flipped { replicas, said };
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    is_repaired(&cluster, victim, &before)?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn every_process_killed_and_one_disk_wiped_loses_no_acknowledged_write() -> Result<()> {
    let (seed, mut rng) = seed::draw("kill of everything, wiped disk");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(2000)?;
    cluster.kill_all()?;
    load.wind_down();
    let victim = rng.random_range(0..cluster.data.len());
    println!("wiping {}", cluster.data[victim].name);
    cluster.data[victim].wipe()?;
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    status::await_healthy(&cluster)?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn a_wiped_disk_is_filled_again_from_the_others() -> Result<()> {
    let (seed, mut rng) = seed::draw("wiped disk");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(5000)?;
    let victim = rng.random_range(0..cluster.data.len());
    cluster.data[victim].kill()?;
    cluster.data[victim].wipe()?;
    cluster.data[victim].start()?;
    cluster.await_ready()?;
    status::await_healthy(&cluster)?;
    // Every partition has three copies again, so that another node may lose its own.
    let other = (victim + 1) % cluster.data.len();
    cluster.data[other].kill()?;
    load.await_every_partition()?;
    cluster.data[other].wipe()?;
    cluster.start_all()?;
    cluster.await_ready()?;
    status::await_healthy(&cluster)?;
    load.await_every_partition()?;
    load.stop()?.verify(&cluster.target())
}

/// A cluster with all its disks on a small one, and the file that can fill it up.
fn cramped(disk: &SmallDisk) -> Result<(Cluster, PathBuf)> {
    let spec = Spec {
        below: Some(disk.path()),
        ..Spec::default()
    }
    .with("CAIRN_WAL_SEGMENT_BYTES", "16MiB")
    .with("CAIRN_MAX_VALUE_BYTES", "1MiB")
    .with("CAIRN_WAL_RETAIN_BYTES", "32MiB")
    .with("CAIRN_DISK_RESERVE_BYTES", "64MiB");
    Ok((Cluster::start(spec)?, disk.path().join("ballast")))
}

/// Takes everything that is free but 40 MiB, so that each node is below its reserve and
/// nothing has been refused by the file system yet; waits until the nodes refuse writes
/// and sees them serve reads.
fn fill_up(disk: &SmallDisk, ballast: &Path, load: &Load) -> Result<()> {
    let free = free_bytes(&disk.path())?;
    allocate(ballast, free.saturating_sub(40 << 20))?;
    load.await_errors("MISCONF", 500)?;
    load.await_reads(2000)
}

#[test]
fn full_disks_refuse_writes_and_serve_reads_until_there_is_room_again() -> Result<()> {
    let (seed, _) = seed::draw("full disks");
    let Some(disk) = SmallDisk::mount(768)? else {
        return skip::without(NO_SMALL_DISK);
    };
    let (mut cluster, ballast) = cramped(&disk)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    fill_up(&disk, &ballast, &load)?;
    cluster.check_running()?;

    fs::remove_file(&ballast)?;
    load.await_every_partition()?;
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn every_process_killed_on_full_disks_starts_again_and_loses_no_acknowledged_write() -> Result<()> {
    let (seed, _) = seed::draw("kill of everything, full disks");
    let Some(disk) = SmallDisk::mount(768)? else {
        return skip::without(NO_SMALL_DISK);
    };
    let (mut cluster, ballast) = cramped(&disk)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    fill_up(&disk, &ballast, &load)?;
    cluster.kill_all()?;
    load.wind_down();
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.check_running()?;

    fs::remove_file(&ballast)?;
    cluster.await_serving()?;
    load.stop()?.verify(&cluster.target())
}
