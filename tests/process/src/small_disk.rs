//! Small file systems in memory, to be filled up.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// Why a test that needs one is skipped.
pub const NO_SMALL_DISK: &str = "this process may not mount a small file system";

/// A small file system in memory, unmounted when it is dropped.
#[derive(Debug)]
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    ///
    /// # Errors
    /// Where there is no directory to mount it on.
    pub fn mount(mebibytes: u32) -> Result<Option<Self>> {
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

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was just killed may still hold it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

/// What may still be used of the file system that a path lies on.
///
/// # Errors
/// Where it cannot be asked.
pub fn free_bytes(path: &Path) -> Result<u64> {
    let text = std::ffi::CString::new(path.to_str().context("a path of text")?)?;
    // SAFETY: `statvfs` is plain data, for which all zeros is a value.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and the answer is ours, both alive over the call.
    let result = unsafe { libc::statvfs(text.as_ptr(), &raw mut answer) };
    ensure!(result == 0, "statvfs: {}", std::io::Error::last_os_error());
    Ok(answer.f_bavail * answer.f_frsize)
}

/// Makes a file that takes so much room.
///
/// # Errors
/// Where there is none.
pub fn allocate(path: &Path, bytes: u64) -> Result<()> {
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
