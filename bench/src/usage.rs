//! What processes have used of the machine, as the kernel counts it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

/// Ticks per second of `/proc/PID/stat`: a constant of Linux's interface on every architecture
/// that Cairn runs on.
const TICKS_PER_SECOND: u64 = 100;

/// What one process has used since it began, or between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Memory that it holds now.
    pub(crate) resident: u64,
}

impl Usage {
    /// What was used after an earlier look.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            resident: self.resident,
        }
    }
}

/// Of one process.
pub(crate) fn of_process(pid: u32) -> Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        fs::read_to_string(&path).with_context(|| format!("read {path}: has the server ended?"))
    };
    let cpu = cpu_of_stat(&read("stat")?).context("/proc/PID/stat has another form")?;
    let number = |text: &str, name: &str| field(text, name).unwrap_or(0);
    Ok(Usage {
        cpu,
        resident: number(&read("status")?, "VmRSS:") * 1024,
    })
}

/// User and system time of all threads, ended ones too.
fn cpu_of_stat(stat: &str) -> Option<Duration> {
    // The name in parentheses may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis(
        (user + system) * 1000 / TICKS_PER_SECOND,
    ))
}

/// The number behind a name at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Sectors of `/sys/dev/block`, whatever the device's own are: a constant of Linux's interface.
const SECTOR_BYTES: u64 = 512;

/// The block device below a folder. It is asked for what was written, and not the processes:
/// theirs counts a whole large folio each time that some bytes of it are dirtied.
#[derive(Debug)]
pub(crate) struct Disk {
    folder: File,
    /// Not there where the file system lies on no one device.
    stat: Option<PathBuf>,
}

impl Disk {
    pub(crate) fn below(folder: &Path) -> Result<Self> {
        let opened = File::open(folder).with_context(|| format!("open {}", folder.display()))?;
        let device = opened.metadata().context("look at the folder")?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let stat = PathBuf::from(format!("/sys/dev/block/{major}:{minor}/stat"));
        Ok(Self {
            folder: opened,
            stat: stat.exists().then_some(stat),
        })
    }

    /// Has written what waits in memory to be.
    pub(crate) fn settle(&self) -> Result<()> {
        rustix::fs::syncfs(&self.folder).context("write what waits to be written")
    }

    /// Bytes that were written since the machine began, of whoever; 0 where it cannot be told.
    pub(crate) fn written(&self) -> Result<u64> {
        let Some(stat) = &self.stat else {
            return Ok(0);
        };
        let text = fs::read_to_string(stat).with_context(|| format!("read {}", stat.display()))?;
        written_of(&text).context("the device's statistics have another form")
    }
}

fn written_of(stat: &str) -> Option<u64> {
    let sectors: u64 = stat.split_whitespace().nth(6)?.parse().ok()?;
    Some(sectors * SECTOR_BYTES)
}

/// Processor time of this very process.
pub(crate) fn own_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Processor time of the whole machine that was not idle, since it began.
pub(crate) fn machine_cpu() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    busy_of(&text).context("/proc/stat has another form")
}

fn busy_of(stat: &str) -> Option<Duration> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    // User, nice, system, then idle and waiting for disks, then interrupts and what other
    // machines on the same processors took. What guests took is in the first two.
    let busy: u64 = [0, 1, 2, 5, 6, 7]
        .iter()
        .filter_map(|at| ticks.get(*at))
        .sum();
    Some(Duration::from_millis(busy * 1000 / TICKS_PER_SECOND))
}

/// Bytes that went over loopback since the machine began, of whoever.
pub(crate) fn loopback_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/dev").context("read /proc/net/dev")?;
    Ok(loopback_of(&text).unwrap_or(0))
}

fn loopback_of(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| field(line.trim_start(), "lo:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "42 (a ) name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 9 0 1 2 3";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu_of_stat("42 (short) S"), None);
        assert_eq!(
            field("VmPeak: 7 kB\nVmRSS:\t 4096 kB\n", "VmRSS:"),
            Some(4096)
        );
        let disk = " 593 18 3679 118 512 136 1200 68 0 28 199 1322 267 143 21 178 10\n";
        assert_eq!(written_of(disk), Some(1200 * 512));
        let dev = "Inter-|   Receive\n    lo: 123456  10 0 0\n  eth0: 9 1 0 0\n";
        assert_eq!(loopback_of(dev), Some(123_456));
        let stat = "cpu  100 10 90 5000 600 5 5 40 7 0\ncpu0 1 2 3\n";
        assert_eq!(busy_of(stat), Some(Duration::from_millis(2_500)));
        assert_eq!(busy_of("intr 1"), None);
    }

    #[test]
    fn this_process_uses_the_machine() {
        let own = of_process(std::process::id()).expect("its own usage");
        assert!(own.resident > 1 << 20, "{own:?}");
        let twice = Usage {
            cpu: own.cpu + Duration::from_secs(1),
            resident: 5,
        };
        let since = twice.since(&own);
        assert_eq!((since.cpu, since.resident), (Duration::from_secs(1), 5));
    }

    #[test]
    fn what_is_written_reaches_the_device() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let disk = Disk::below(folder.path()).expect("its disk");
        disk.settle().expect("settled");
        let before = disk.written().expect("a figure");
        fs::write(folder.path().join("file"), vec![7; 1 << 20]).expect("written");
        disk.settle().expect("settled");
        let written = disk.written().expect("a figure") - before;
        assert!(
            disk.stat.is_none() || written >= 1 << 20,
            "{written} of a MiB reached {disk:?}"
        );
    }
}
