//! Damage to the log segments of a node that does not run.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_storage::format::batch::{BatchHeader, decode_batch_header};
use cairn_storage::format::segment_header::HEADER_BYTES;

/// The write-ahead log's segments of a node, oldest first. Files that are prepared to
/// become segments lie beside them and hold nothing.
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
        if entry.file_name().to_string_lossy().starts_with("segment-") {
            found.push(entry.path());
        }
    }
    found.sort();
    ensure!(!found.is_empty(), "no segment in {}", directory.display());
    Ok(found)
}

/// The segment that is written to.
///
/// # Errors
/// Where there is none.
pub fn last_segment(data: &Path) -> Result<PathBuf> {
    segments(data)?.pop().context("a segment")
}

/// A batch of a segment.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Where it stands.
    pub offset: u64,
    /// Where the next one would.
    pub end: u64,
    /// Its header.
    pub header: BatchHeader,
}

/// The batches of a segment, in order, up to the first that is not whole.
///
/// # Errors
/// Where it cannot be read.
pub fn batches(segment: &Path) -> Result<Vec<Batch>> {
    let bytes = fs::read(segment)?;
    let mut found = Vec::new();
    let mut offset = HEADER_BYTES as u64;
    while let Some(rest) = bytes.get(usize::try_from(offset)?..)
        && let Ok(header) = decode_batch_header(rest)
    {
        let end = header.next_offset(offset);
        found.push(Batch {
            offset,
            end,
            header,
        });
        offset = end;
    }
    Ok(found)
}

/// Overwrites the second half of what a range holds with zeros, as a write that was
/// under way when the power went leaves it. The zeros that pad a batch hold nothing.
///
/// # Errors
/// Where it cannot be written.
pub fn tear(segment: &Path, range: &Range<u64>) -> Result<()> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(segment)?;
    let mut bytes = vec![0; usize::try_from(range.end - range.start)?];
    file.read_exact_at(&mut bytes, range.start)?;
    let content = bytes.iter().rposition(|byte| *byte != 0);
    let content = content.context("nothing to tear")? as u64;
    let from = range.start + content / 2;
    file.write_all_at(&vec![0; usize::try_from(range.end - from)?], from)?;
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
