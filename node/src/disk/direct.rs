//! Writes past the page cache (`O_DIRECT`), where the file system has that.
//!
//! A batch of the log is written once, flushed at once and hardly ever read. Through the page
//! cache that costs a copy, the marking of pages and a walk over them at each flush, and the
//! flush writes whole folios: measured, a flush took the processor a third longer at least, and a
//! disk did fewer (ADR 263).
//!
//! What is written so is seen by reads of the same file through the page cache: the kernel drops
//! from it what was overwritten. It is durable after `fdatasync`, as any write is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

/// What offsets, lengths and memory are aligned to: the page, which is at least what disks and
/// file systems ask for, with few exceptions that refuse.
const ALIGNMENT: usize = 4096;
/// The most that is written at once.
const PIECE: usize = 1 << 20;

/// Whether a directory's files are written so.
#[derive(Debug, Default)]
pub(super) struct Direct {
    /// The file system refused: none is tried any more.
    refused: AtomicBool,
}

impl Direct {
    /// Says so once.
    fn refuse(&self, error: &io::Error) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            tracing::info!(%error, "the log is written through the page cache: its disk takes nothing else");
            metrics::gauge!("cairn_wal_direct").set(0.0);
        }
    }
}

/// Writes of one file past the page cache.
#[derive(Debug)]
pub(super) struct DirectWrites {
    of_all: Arc<Direct>,
    /// The file, opened once more for that at the first write; `None` where that cannot be.
    file: OnceLock<Option<File>>,
    /// Memory of which some part is aligned.
    scratch: Mutex<Vec<u8>>,
}

impl DirectWrites {
    pub(super) fn new(of_all: Arc<Direct>) -> Self {
        Self {
            of_all,
            file: OnceLock::new(),
            scratch: Mutex::new(Vec::new()),
        }
    }

    /// Writes all bytes at an offset of `file`. Whether it did: what is not aligned, or is refused,
    /// is to be written otherwise.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) fn write_at(&self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<bool> {
        let is_aligned =
            offset.is_multiple_of(ALIGNMENT as u64) && bytes.len().is_multiple_of(ALIGNMENT);
        if !is_aligned || self.of_all.refused.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let Some(direct) = self.file.get_or_init(|| self.open(file)) else {
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
                Err(error) if is_refusal(&error) => {
                    self.of_all.refuse(&error);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// By its descriptor, whatever its name is by now.
    fn open(&self, file: &File) -> Option<File> {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(format!("/proc/self/fd/{}", file.as_raw_fd()));
        match opened {
            Ok(file) => {
                metrics::gauge!("cairn_wal_direct").set(1.0);
                Some(file)
            }
            Err(error) => {
                self.of_all.refuse(&error);
                None
            }
        }
    }

    /// Whether anything was written so.
    #[cfg(test)]
    pub(super) fn is_used(&self) -> bool {
        matches!(self.file.get(), Some(Some(_))) && !self.of_all.refused.load(Ordering::Relaxed)
    }
}

/// Whether a write failed for how it is made, and not for the disk.
fn is_refusal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
    )
}
