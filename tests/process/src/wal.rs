//! Damage to the log segments of a node that does not run.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The write-ahead log's segments of a node, oldest first by name.
///
/// # Errors
/// Where there are none.
pub fn segments(data: &Path) -> Result<Vec<PathBuf>> {
    let directory = data.join("wal");
    let mut found = Vec::new();
    for entry in
        fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?
    {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no segment in {}", directory.display());
    Ok(found)
}

/// Where the written part of a preallocated segment ends: after the last byte that
/// is not zero.
///
/// # Errors
/// Where it cannot be read.
pub fn end_of_content(segment: &Path) -> Result<u64> {
    let bytes = fs::read(segment)?;
    Ok(bytes
        .iter()
        .rposition(|&b| b != 0)
        .map_or(0, |at| at as u64 + 1))
}

/// Overwrites the last `length` written bytes with zeros, as a write that was under
/// way when the power went leaves it.
///
/// # Errors
/// Where it cannot be written.
pub fn tear(segment: &Path, length: u64) -> Result<()> {
    let end = end_of_content(segment)?;
    let from = end.saturating_sub(length);
    let file = fs::OpenOptions::new().write(true).open(segment)?;
    file.write_all_at(&vec![0; usize::try_from(end - from)?], from)?;
    Ok(())
}

/// Appends bytes after the content that mean nothing, as a torn write of a later
/// batch leaves them.
///
/// # Errors
/// Where it cannot be written.
pub fn append_garbage(segment: &Path, garbage: &[u8]) -> Result<()> {
    let end = end_of_content(segment)?;
    let file = fs::OpenOptions::new().write(true).open(segment)?;
    file.write_all_at(garbage, end)?;
    Ok(())
}

/// Flips one bit of the byte at `at`.
///
/// # Errors
/// Where there is no such byte.
pub fn flip(segment: &Path, at: u64) -> Result<()> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at)?;
    Ok(())
}
