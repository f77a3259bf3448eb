//! A directory of the operating system as a [`Disk`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cairn_storage::disk::{Disk, DiskFile, Preallocation};
use rustix::fs::FallocateFlags;

use super::direct::{Direct, DirectWrites};
use super::space::DiskSpace;

/// How much is filled with zeroes between two flushes, so that filling a file does
/// not make everybody else's flush wait for all of it.
const FILL_BYTES: usize = 1 << 20;
const FILL_FLUSH_EVERY: u64 = 8 << 20;

/// One flat directory. Clones share it.
#[derive(Clone, Debug)]
pub struct DirectoryDisk {
    path: Arc<PathBuf>,
    directory: Arc<File>,
    direct: Option<Arc<Direct>>,
}

impl DirectoryDisk {
    /// Opens the directory, making it where it does not exist. The parent is flushed,
    /// so that the directory outlives a power loss.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        if let Some(parent) = path.parent() {
            File::open(parent)?.sync_all()?;
        }
        Ok(Self {
            path: Arc::new(path.to_path_buf()),
            directory: Arc::new(File::open(path)?),
            direct: None,
        })
    }

    /// The same, whose files are written past the page cache where that can be.
    #[must_use]
    pub fn past_the_cache(self) -> Self {
        Self {
            direct: Some(Arc::default()),
            ..self
        }
    }

    /// The room of the file system that it lies on.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn space(&self) -> io::Result<DiskSpace> {
        let stat = rustix::fs::fstatvfs(&*self.directory)?;
        Ok(DiskSpace {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}

impl Disk for DirectoryDisk {
    type File = RealFile;

    fn create(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.path.join(name))
            .map(|file| RealFile::new(file, self.direct.clone()))
    }

    fn open(&self, name: &str) -> io::Result<RealFile> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(self.path.join(name))
            .map(|file| RealFile::new(file, self.direct.clone()))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path.as_path())? {
            // A name that is no text is none of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.directory.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.space().map(|space| space.free_bytes)
    }
}

/// A file of a [`DirectoryDisk`].
#[derive(Debug)]
pub struct RealFile {
    file: File,
    direct: Option<DirectWrites>,
}

impl RealFile {
    fn new(file: File, direct: Option<Arc<Direct>>) -> Self {
        let direct = direct.map(DirectWrites::new);
        Self { file, direct }
    }

    /// Whether it was written past the page cache.
    #[cfg(test)]
    pub(super) fn is_written_directly(&self) -> bool {
        self.direct.as_ref().is_some_and(DirectWrites::is_used)
    }

    fn fill(&self, length: u64) -> io::Result<()> {
        let zeroes = vec![0; FILL_BYTES];
        let mut at = 0;
        while at < length {
            let part = (length - at).min(FILL_BYTES as u64) as usize;
            self.write_at(at, &zeroes[..part])?;
            at += part as u64;
            if at.is_multiple_of(FILL_FLUSH_EVERY) {
                self.file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_at(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < buffer.len() {
        match file.read_at(&mut buffer[read..], offset + read as u64) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

impl DiskFile for RealFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        read_at(&self.file, offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match &self.direct {
            Some(direct) if direct.write_at(&self.file, offset, bytes)? => Ok(()),
            _ => self.file.write_all_at(bytes, offset),
        }
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn preallocate(&self, length: u64, how: Preallocation) -> io::Result<()> {
        if how == Preallocation::Reserved {
            match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, length) {
                Ok(()) => return Ok(()),
                // Some file systems reserve nothing: then zeroes are written.
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.fill(length)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
