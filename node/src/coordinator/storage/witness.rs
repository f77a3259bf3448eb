//! A witness beside the database: how many flushed writes there were.
//!
//! A last batch that is broken, or a journal or table that is gone, looks like the end
//! of the log. For Raft that is fatal: a forgotten vote is given twice. So each batch
//! carries its number, and *after* it was flushed the number is also put here, without
//! a flush of its own. At the start the database must hold at least the witnessed
//! number: less means that flushed writes are gone, and such a disk must not vote (rule
//! 12). The witness itself may lag behind (after a power cut), which proves nothing and
//! harms nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The number, and the CRC32C of its bytes, both little-endian.
const BYTES: usize = 12;

#[derive(Debug)]
pub(super) struct Witness {
    file: File,
}

impl Witness {
    /// Opens it; what it says. A new or torn one says 0.
    pub(super) fn open(path: &Path) -> io::Result<(Self, u64)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let mut bytes = Vec::new();
        file.by_ref()
            .take(BYTES as u64 + 1)
            .read_to_end(&mut bytes)?;
        Ok((Self { file }, decode(&bytes).unwrap_or(0)))
    }

    /// Notes that so many flushed writes there were.
    pub(super) fn note(&self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(number), 0)
    }
}

fn encode(number: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    let sum = crc32c::crc32c(&bytes[..8]);
    bytes[8..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
    let number = u64::from_le_bytes(bytes[..8].try_into().ok()?);
    (encode(number) == *bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_was_noted_last_and_nothing_where_it_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let (witness, number) = Witness::open(&path).unwrap();
        assert_eq!(number, 0);
        witness.note(3).unwrap();
        witness.note(u64::MAX - 1).unwrap();
        assert_eq!(Witness::open(&path).unwrap().1, u64::MAX - 1);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[2] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(Witness::open(&path).unwrap().1, 0);
        std::fs::write(&path, &bytes[..5]).unwrap();
        assert_eq!(Witness::open(&path).unwrap().1, 0);
    }
}
