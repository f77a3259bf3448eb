//! The narrow view of a disk: one flat directory of files.

use std::io;

/// A directory of files. Names are plain: no separators.
///
/// Creating, renaming and removing are durable only after [`Disk::sync_directory`];
/// a file's content is only after [`DiskFile::sync_data`].
pub trait Disk {
    /// An open file.
    type File: DiskFile;

    /// Creates a file for reading and writing; fails where the name exists.
    ///
    /// # Errors
    /// What the disk says.
    fn create(&self, name: &str) -> io::Result<Self::File>;

    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// What the disk says.
    fn open(&self, name: &str) -> io::Result<Self::File>;

    /// The names of all files, in no order.
    ///
    /// # Errors
    /// What the disk says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Renames a file, replacing what had the new name.
    ///
    /// # Errors
    /// What the disk says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the disk says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes creations, renames and removals durable.
    ///
    /// # Errors
    /// What the disk says; nothing may be acknowledged after a failure.
    fn sync_directory(&self) -> io::Result<()>;

    /// Bytes that are free for this process.
    ///
    /// # Errors
    /// What the disk says.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// How [`DiskFile::preallocate`] gets its space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preallocation {
    /// Reserves it, which is quick; the first write to each part then costs the
    /// file system a change of its own records at the next flush.
    Reserved,
    /// Writes zeroes, which is slow; flushes of later writes are cheaper.
    Zeroed,
}

/// An open file.
pub trait DiskFile {
    /// Its length.
    ///
    /// # Errors
    /// What the disk says.
    fn length(&self) -> io::Result<u64>;

    /// Reads at an offset; fewer bytes than asked for only at the file's end.
    ///
    /// # Errors
    /// What the disk says.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// What the disk says.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Cuts the file, or lengthens it with zeroes.
    ///
    /// # Errors
    /// What the disk says.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Gives the file its full length and the space for it.
    ///
    /// # Errors
    /// What the disk says.
    fn preallocate(&self, length: u64, how: Preallocation) -> io::Result<()>;

    /// Makes the content durable (`fdatasync`).
    ///
    /// # Errors
    /// What the disk says; nothing may be acknowledged after a failure.
    fn sync_data(&self) -> io::Result<()>;
}
