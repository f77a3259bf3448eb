//! A directory of the operating system as a [`Disk`] that nothing can be written to.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use cairn_storage::disk::{Disk, DiskFile, Preallocation};

use super::files::read_at;

/// One flat directory, to be read.
#[derive(Clone, Debug)]
pub struct ReadOnlyDisk(PathBuf);

impl ReadOnlyDisk {
    /// The directory at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::ReadOnlyFilesystem,
        "the directory is only read",
    ))
}

impl Disk for ReadOnlyDisk {
    type File = ReadOnlyFile;

    fn create(&self, _: &str) -> io::Result<ReadOnlyFile> {
        refused()
    }

    fn open(&self, name: &str) -> io::Result<ReadOnlyFile> {
        File::open(self.0.join(name)).map(ReadOnlyFile)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            // A name that is no text is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_directory(&self) -> io::Result<()> {
        refused()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        Ok(0)
    }
}

/// A file of a [`ReadOnlyDisk`].
#[derive(Debug)]
pub struct ReadOnlyFile(File);

impl DiskFile for ReadOnlyFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_at(&self.0, offset, buffer)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        refused()
    }

    fn set_length(&self, _: u64) -> io::Result<()> {
        refused()
    }

    fn preallocate(&self, _: u64, _: Preallocation) -> io::Result<()> {
        refused()
    }

    fn sync_data(&self) -> io::Result<()> {
        refused()
    }
}
