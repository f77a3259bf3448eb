//! Disks that tear, rot, vanish and fill up.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::load::{Load, Plan};
use cairn_process_tests::{seed, status, waiting, wal};
use rand::Rng;
use tempfile::TempDir;

#[test]
fn a_torn_write_at_the_end_of_every_log_loses_no_acknowledged_write() -> Result<()> {
    let (seed, mut rng) = seed::draw("torn tails");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(2000)?;
    cluster.kill_all()?;
    load.wind_down();
    for node in &cluster.data {
        let segments = wal::segments(&node.data)?;
        let last = segments.last().context("a segment")?;
        let garbage: Vec<u8> = (0..rng.random_range(1..3000))
            .map(|_| rng.random())
            .collect();
        wal::append_garbage(last, &garbage)?;
    }
    cluster.start_all()?;
    cluster.await_ready()?;
    cluster.await_serving()?;
    load.stop()?.verify(&cluster.target())
}

#[test]
fn a_flipped_byte_in_the_middle_of_a_segment_is_repaired_from_a_peer() -> Result<()> {
    let (seed, mut rng) = seed::draw("flipped byte");
    let mut cluster = Cluster::start(Spec::default())?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;
    load.await_acknowledged(5000)?;
    let victim = rng.random_range(0..cluster.data.len());
    cluster.data[victim].kill()?;
    let segments = wal::segments(&cluster.data[victim].data)?;
    let segment = segments.last().context("a segment")?;
    let end = wal::end_of_content(segment)?;
    let at = rng.random_range(end / 4..end * 3 / 4);
    println!("flipping byte {at} of {end} of {}", segment.display());
    wal::flip(segment, at)?;
    let said = cluster.data[victim].log_text().len();
    cluster.data[victim].start()?;
    cluster.await_ready()?;
    let node = &cluster.data[victim];
    waiting::until("the damage to be reported", BOUND, || {
        let text = node.log_text();
        Ok(text[said.min(text.len())..]
            .contains("corrupt")
            .then_some(()))
    })?;
    status::await_healthy(&cluster)?;
    // Now that it is whole again, another node may go.
    let other = (victim + 1) % cluster.data.len();
    cluster.data[other].kill()?;
    load.await_every_partition()?;
    cluster.start_all()?;
    cluster.await_ready()?;
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

/// A small file system in memory, unmounted when it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(mebibytes: u32) -> Result<Option<Self>> {
        let directory = TempDir::with_prefix("cairn-small-disk-")?;
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={mebibytes}m"),
                "cairn-test",
            ])
            .arg(directory.path())
            .output();
        Ok(match mounted {
            Ok(done) if done.status.success() => Some(Self(directory)),
            _ => None,
        })
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may still hold it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
fn full_disks_refuse_writes_and_serve_reads_until_there_is_room_again() -> Result<()> {
    let (seed, _) = seed::draw("full disks");
    let Some(disk) = SmallDisk::mount(768)? else {
        println!("skipped: this process may not mount a small file system");
        return Ok(());
    };
    let spec = Spec {
        below: Some(disk.path()),
        ..Spec::default()
    }
    .with("CAIRN_WAL_SEGMENT_BYTES", "16MiB")
    .with("CAIRN_MAX_VALUE_BYTES", "1MiB")
    .with("CAIRN_WAL_RETAIN_BYTES", "32MiB")
    .with("CAIRN_DISK_RESERVE_BYTES", "64MiB");
    let mut cluster = Cluster::start(spec)?;
    let load = Load::start(&cluster.target(), Plan::default(), seed)?;
    load.await_every_partition()?;

    // Everything that is free but 40 MiB, so that each node is below its reserve and
    // nothing has been refused by the file system yet.
    let ballast = disk.path().join("ballast");
    let free = free_bytes(&disk.path())?;
    allocate(&ballast, free.saturating_sub(40 << 20))?;
    load.await_errors("MISCONF", 500)?;
    load.await_reads(2000)?;
    cluster.check_running()?;

    fs::remove_file(&ballast)?;
    load.await_every_partition()?;
    cluster.check_running()?;
    load.stop()?.verify(&cluster.target())
}

fn free_bytes(path: &std::path::Path) -> Result<u64> {
    let text = std::ffi::CString::new(path.to_str().context("a path of text")?)?;
    // SAFETY: `statvfs` is plain data, for which all zeros is a value.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the answer is ours, both alive over the call.
    let result = unsafe { libc::statvfs(text.as_ptr(), &raw mut answer) };
    ensure!(result == 0, "statvfs: {}", std::io::Error::last_os_error());
    Ok(answer.f_bavail * answer.f_frsize)
}

fn allocate(path: &std::path::Path, bytes: u64) -> Result<()> {
    use std::os::fd::AsRawFd;
    let file = fs::File::create(path)?;
    // SAFETY: `posix_fallocate` takes integers; the descriptor is open over the call.
    let result = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, i64::try_from(bytes)?) };
    ensure!(
        result == 0,
        "fallocate: {}",
        std::io::Error::from_raw_os_error(result)
    );
    Ok(())
}
