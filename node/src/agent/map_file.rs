//! The last map on disk: a header of 16 bytes, then the map as JSON.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `CAIRNMAP` |
//! | 4 | the number of the format, little-endian |
//! | 4 | CRC32C of what follows, little-endian |
//!
//! A file is replaced as a whole: written beside, flushed, renamed, directory
//! flushed. It is a cache: where it is damaged the coordinators are asked instead.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use cairn_core::record::ClusterMap;

const MAGIC: &[u8; 8] = b"CAIRNMAP";
const FORMAT: u32 = 1;
const HEADER: usize = 16;
/// More than any map measures.
const BYTES_MAX: u64 = 512 << 20;

/// Why a map cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// By the system.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// By a newer build: refused (rule 18).
    #[error("it has format {0}, and this build understands up to {FORMAT}")]
    Newer(u32),
    /// Not a map, or damaged.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// Reads the map; `None` where there is none yet. Blocks.
pub(super) fn read(path: &Path) -> Result<Option<ClusterMap>, ReadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    decode(&bytes).map(Some)
}

/// Replaces the map. Blocks.
pub(super) fn write(path: &Path, map: &ClusterMap) -> io::Result<()> {
    let bytes = encode(map)?;
    let beside = beside(path);
    let mut file = File::create(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn encode(map: &ClusterMap) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; HEADER];
    serde_json::to_writer(&mut bytes, map)?;
    let sum = crc32c::crc32c(&bytes[HEADER..]);
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<ClusterMap, ReadError> {
    let damaged = |what: &str| ReadError::Damaged(what.to_owned());
    let Some((header, json)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(damaged("it is too short"));
    };
    if &header[..8] != MAGIC {
        return Err(damaged("it is not a map"));
    }
    let number = |at: usize| {
        u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
    };
    if number(8) > FORMAT {
        return Err(ReadError::Newer(number(8)));
    }
    if number(12) != crc32c::crc32c(json) {
        return Err(damaged("its checksum does not match"));
    }
    serde_json::from_slice(json).map_err(|e| ReadError::Damaged(e.to_string()))
}

#[cfg(test)]
mod tests {
    use cairn_core::ids::MapVersion;

    use super::*;

    fn map() -> ClusterMap {
        ClusterMap {
            cluster_id: "c".to_owned(),
            version: MapVersion(7),
            ..ClusterMap::default()
        }
    }

    #[test]
    fn a_map_is_read_back_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        assert!(read(&path).unwrap().is_none());
        write(&path, &map()).unwrap();
        assert_eq!(read(&path).unwrap(), Some(map()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_or_newer_map_is_told_apart() {
        let good = encode(&map()).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            match decode(&bytes) {
                Err(ReadError::Damaged(_)) => {}
                Err(ReadError::Newer(_)) => assert!((8..12).contains(&at)),
                other => panic!("byte {at}: {other:?}"),
            }
            assert!(matches!(decode(&good[..at]), Err(ReadError::Damaged(_))));
        }
    }

    #[test]
    fn fuzz_map_files() {
        let seeds = [ClusterMap::default(), map()]
            .iter()
            .map(|map| encode(map).unwrap().split_off(HEADER))
            .chain([b"{\"cluster_id\":\"a\",\"partitions\":[{}],\"nodes\":{\"1\":{}}}".to_vec()])
            .collect();
        // The header is the driver's: nothing behind its checksum would be tried else.
        cairn_fuzz::run("map_file", 4, seeds, |json| {
            let mut bytes = vec![0; HEADER];
            bytes[..8].copy_from_slice(MAGIC);
            bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
            bytes[12..16].copy_from_slice(&crc32c::crc32c(json).to_le_bytes());
            bytes.extend_from_slice(json);
            if let Ok(read) = decode(&bytes) {
                let again = decode(&encode(&read).unwrap());
                assert_eq!(again.ok(), Some(read));
            }
            let _ = decode(json);
        });
    }
}
