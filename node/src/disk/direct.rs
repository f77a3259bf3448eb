//! Writes past the page cache (`O_DIRECT`), where the file system has that.
//!
//! A batch of the log is written once, flushed at once and hardly ever read. Through the page
//! cache that costs a copy, the marking of pages and a walk over them at each flush, and the
//! flush writes whole folios: measured, a flush took the processor twice as long, and a disk
//! did two thirds as many.
//!
//! What is written so is seen by reads of the same file through the page cache: the kernel drops
//! from it what was overwritten. It is durable after `fdatasync`, as any write is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// What offsets, lengths and memory are aligned to: the page, which is at least what disks and
/// file systems ask for, with few exceptions that refuse.
const ALIGNMENT: usize = 4096;
/// The most that is written at once.
const PIECE: usize = 1 << 20;

/// Writes of one file past the page cache.
#[derive(Debug, Default)]
pub(super) struct DirectWrites {
    /// The file, opened once more for that at the first write; `None` where that cannot be.
    file: OnceLock<Option<File>>,
    /// A write was refused for what it is: none is tried any more.
    refused: AtomicBool,
    /// Memory of which some part is aligned.
    scratch: Mutex<Vec<u8>>,
}

impl DirectWrites {
    /// Writes all bytes at an offset of `file`. Whether it did: what is not aligned, or is refused,
    /// is to be written otherwise.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let is_aligned =
            offset.is_multiple_of(ALIGNMENT as u64) && bytes.len().is_multiple_of(ALIGNMENT);
        if !is_aligned || self.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(direct) = self.file.get_or_init(|| open_again(file)) else {
            return Ok(false);
        };
        let mut scratch = self.scratch.lock();
        let mut at = offset;
        for piece in bytes.chunks(PIECE) {
            let room = piece.len() + ALIGNMENT;
            if scratch.len() < room {
                scratch.resize(room, 0);
            }
            let begin = scratch.as_ptr().align_offset(ALIGNMENT);
            let Some(memory) = scratch.get_mut(begin..begin.saturating_add(piece.len())) else {
                return Ok(false);
            };
            memory.copy_from_slice(piece);
            match direct.write_all_at(memory, at) {
                Ok(()) => at += piece.len() as u64,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    tracing::info!(%error, "the disk takes no writes past the page cache");
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// By its descriptor, whatever its name is by now.
fn open_again(file: &File) -> Option<File> {
    OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .ok()
}
