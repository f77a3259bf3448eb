//! The machine that everything is measured on: what it is, and how fast its disk flushes and
//! its loopback answers in this very minute. Without these two a figure says little.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// How long each of the two is tried.
const SPAN: Duration = Duration::from_millis(250);
/// What is written before each flush, over space that is there already.
const BLOCK: usize = 4096;
const FILE_BLOCKS: u64 = 1024;

/// The machine, as it says itself.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) processors: usize,
    pub(crate) model: String,
    pub(crate) kernel: String,
    pub(crate) memory_mib: u64,
    pub(crate) file_system: String,
}

impl Machine {
    /// This one, with its files below the directory.
    pub(crate) fn here(directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            let found = lines.find(|(key, _)| key.trim() == name);
            found.map(|(_, value)| value.trim().to_owned())
        };
        let memory = value(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
        let memory = memory
            .split(' ')
            .next()
            .and_then(|kib| kib.parse::<u64>().ok());
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            model: value(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| "unknown processor".to_owned()),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory.unwrap_or(0) / 1024,
            file_system: file_system(&read("/proc/self/mounts"), directory),
        }
    }

    pub(crate) fn sentence(&self) -> String {
        format!(
            "{} processors ({}), {} MiB of memory, {}, Linux {}",
            self.processors, self.model, self.memory_mib, self.file_system, self.kernel
        )
    }
}

/// The type of the file system that a directory is on.
fn file_system(mounts: &str, directory: &Path) -> String {
    let mut best = (0, "unknown file system");
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (_, Some(place), Some(kind)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if directory.starts_with(place) && place.len() >= best.0 {
            best = (place.len(), kind);
        }
    }
    best.1.to_owned()
}

/// How fast the machine is now.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pulse {
    /// Flushes after a write of 4 KiB, one at a time.
    pub(crate) fdatasyncs_per_second: f64,
    /// There and back over TCP on loopback, one byte at a time.
    pub(crate) loopback_us: f64,
}

/// Measures both, half a second in all.
pub(crate) fn pulse(directory: &Path) -> Result<Pulse> {
    Ok(Pulse {
        fdatasyncs_per_second: fdatasyncs(directory)?,
        loopback_us: loopback().context("measure loopback")?,
    })
}

fn fdatasyncs(directory: &Path) -> Result<f64> {
    let path = directory.join("flushes");
    let block = [0xA5u8; BLOCK];
    let mut file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    for _ in 0..FILE_BLOCKS {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    let start = Instant::now();
    let mut done = 0u64;
    while start.elapsed() < SPAN {
        file.write_all_at(&block, done % FILE_BLOCKS * BLOCK as u64)?;
        file.sync_data()?;
        done += 1;
    }
    let rate = done as f64 / start.elapsed().as_secs_f64();
    fs::remove_file(&path)?;
    Ok(rate)
}

fn loopback() -> std::io::Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        while stream.read(&mut byte)? == 1 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut byte = [7];
    let start = Instant::now();
    let mut done = 0u32;
    while start.elapsed() < SPAN {
        stream.write_all(&byte)?;
        stream.read_exact(&mut byte)?;
        done += 1;
    }
    let each = start.elapsed().as_secs_f64() * 1e6 / f64::from(done.max(1));
    drop(stream);
    echo.join()
        .map_err(|_| std::io::Error::other("the echo panicked"))??;
    Ok(each)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_system_is_the_one_mounted_closest() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/x xfs rw 0 0\n";
        assert_eq!(file_system(mounts, Path::new("/tmp/x/y")), "xfs");
        assert_eq!(file_system(mounts, Path::new("/tmp/xy")), "tmpfs");
        assert_eq!(file_system(mounts, Path::new("/home")), "ext4");
    }

    #[test]
    fn a_machine_flushes_and_answers() {
        let directory = tempfile::tempdir().expect("a directory");
        let pulse = pulse(directory.path()).expect("a pulse");
        assert!(pulse.fdatasyncs_per_second > 0.0 && pulse.loopback_us > 0.0);
        assert_eq!(fs::read_dir(directory.path()).expect("a list").count(), 0);
    }
}
