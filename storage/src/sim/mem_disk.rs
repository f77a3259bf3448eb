//! A disk in memory with a page cache in front of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile, Preallocation};

/// What reaches the disk whole or not at all, as long as the power lasts.
pub const SECTOR_BYTES: usize = 512;
/// What a power loss may leave unreadable where a part of it was being written, and
/// what a bad spot takes with it.
const BLOCK_BYTES: usize = 4096;

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a power loss leaves.
    durable: Vec<u8>,
    /// What is read.
    cached: Vec<u8>,
    /// Sectors that differ, or may.
    dirty: BTreeSet<usize>,
    /// Blocks that the disk does not give.
    bad: BTreeSet<usize>,
}

impl Inode {
    /// Writes nonsense over a block.
    fn garble(&mut self, block: usize, choose: &mut dyn FnMut(u64) -> u64) {
        let start = block * BLOCK_BYTES;
        let end = (start + BLOCK_BYTES).min(self.durable.len());
        let mut nonsense = choose(u64::MAX);
        for byte in self.durable.get_mut(start..end).into_iter().flatten() {
            nonsense = nonsense
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            *byte = (nonsense >> 56) as u8;
        }
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(String, u64),
    Unlink(String),
}

#[derive(Debug, Default)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    /// Each step is made durable whole: a rename is one.
    pending: Vec<Vec<NameChange>>,
    capacity: Option<u64>,
    fail_sync: bool,
    /// How many more changes the disk takes before the power goes.
    changes_left: Option<u64>,
    /// Counts power losses: files opened before the last one are dead.
    life: u64,
    syncs: u64,
}

impl Inner {
    fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|inode| self.inodes.get(inode))
            .map(|inode| inode.cached.len() as u64)
            .sum()
    }

    fn grow(&self, by: u64) -> io::Result<()> {
        match self.capacity {
            Some(capacity) if self.used() + by > capacity => {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            }
            _ => Ok(()),
        }
    }

    /// Counts a change down; past the last one nothing reaches the disk any more.
    fn spend(&mut self) -> io::Result<()> {
        match &mut self.changes_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the power is gone")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    fn change(&mut self, step: Vec<NameChange>) -> io::Result<()> {
        self.spend()?;
        apply(&mut self.names, &step);
        self.pending.push(step);
        Ok(())
    }
}

fn apply(names: &mut BTreeMap<String, u64>, step: &[NameChange]) {
    for change in step {
        match change {
            NameChange::Link(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Unlink(name) => {
                names.remove(name);
            }
        }
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    inner: Arc<Mutex<Inner>>,
}

impl MemDisk {
    /// An empty disk without a limit.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("a test's disk")
    }

    /// Lets the disk hold no more than that many bytes.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.inner().capacity = bytes;
    }

    /// Lets the next flush fail, after which what was dirty may be lost although it
    /// is still read: as a real disk does.
    pub fn fail_next_sync(&self) {
        self.inner().fail_sync = true;
    }

    /// Lets the power go after that many more changes: until [`Self::lose_power`] is
    /// called, whatever would change the disk then fails.
    pub fn fail_after(&self, changes: u64) {
        self.inner().changes_left = Some(changes);
    }

    /// How many flushes of files there were.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.inner().syncs
    }

    /// Ends the process that uses the disk: files that it opened are dead. What it wrote
    /// is read on, flushed or not, until the power goes.
    pub fn end_process(&self) {
        let mut inner = self.inner();
        inner.life += 1;
        inner.fail_sync = false;
        inner.changes_left = None;
    }

    /// Cuts the power. Of what was not flushed each sector reaches the disk, or does
    /// not, or does so in part, as `choose(n)` (below `n`) decides, or the whole block
    /// around it is left as nonsense, what was flushed of it included; of the changes
    /// of names a first part does. Files opened before are dead.
    pub fn lose_power(&self, choose: &mut dyn FnMut(u64) -> u64) {
        let mut inner = self.inner();
        inner.life += 1;
        let kept = choose(inner.pending.len() as u64 + 1) as usize;
        let pending = std::mem::take(&mut inner.pending);
        for step in pending.iter().take(kept) {
            apply(&mut inner.durable_names, step);
        }
        inner.names = inner.durable_names.clone();
        for inode in inner.inodes.values_mut() {
            let length = inode.cached.len();
            if !inode.dirty.is_empty() || inode.durable.len() != length {
                // The length is metadata: where data reached the disk it did too.
                inode.durable.resize(length, 0);
            }
            let mut judged = None;
            let mut nonsense = false;
            for sector in std::mem::take(&mut inode.dirty) {
                let start = sector * SECTOR_BYTES;
                let block = start / BLOCK_BYTES;
                if judged.replace(block) != Some(block) {
                    nonsense = choose(8) == 1;
                    if nonsense {
                        inode.garble(block, choose);
                    }
                }
                if nonsense {
                    continue;
                }
                let end = (start + SECTOR_BYTES).min(length);
                let Some(cached) = inode.cached.get(start..end) else {
                    continue;
                };
                match choose(4) {
                    0 => {}
                    1 => {
                        // Torn: a first part.
                        let part = choose(cached.len() as u64 + 1) as usize;
                        inode.durable[start..start + part].copy_from_slice(&cached[..part]);
                    }
                    _ => inode.durable[start..end].copy_from_slice(cached),
                }
            }
            inode.cached = inode.durable.clone();
        }
        let named: BTreeSet<u64> = inner.names.values().copied().collect();
        inner.inodes.retain(|inode, _| named.contains(inode));
        inner.fail_sync = false;
        inner.changes_left = None;
    }

    /// Flips a bit of what is on the disk.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let mut inner = self.inner();
        let Some(id) = inner.names.get(name).copied() else {
            return;
        };
        let inode = inner.inodes.get_mut(&id).expect("a named file");
        let at = (bit / 8) as usize;
        for bytes in [&mut inode.cached, &mut inode.durable] {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << (bit % 8);
            }
        }
    }

    /// Lets the block at that offset fail to be read until it is written to.
    pub fn fail_reads(&self, name: &str, offset: u64) {
        let mut inner = self.inner();
        let Some(id) = inner.names.get(name).copied() else {
            return;
        };
        let inode = inner.inodes.get_mut(&id).expect("a named file");
        inode.bad.insert(offset as usize / BLOCK_BYTES);
    }

    /// What a file holds.
    #[must_use]
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let inner = self.inner();
        let id = inner.names.get(name)?;
        inner.inodes.get(id).map(|inode| inode.cached.clone())
    }
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, name.to_owned())
}

impl Disk for MemDisk {
    type File = MemFile;

    fn create(&self, name: &str) -> io::Result<MemFile> {
        let mut inner = self.inner();
        if inner.names.contains_key(name) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        inner.next_inode += 1;
        let inode = inner.next_inode;
        inner.inodes.insert(inode, Inode::default());
        inner.change(vec![NameChange::Link(name.to_owned(), inode)])?;
        Ok(MemFile {
            disk: self.clone(),
            inode,
            life: inner.life,
        })
    }

    fn open(&self, name: &str) -> io::Result<MemFile> {
        let inner = self.inner();
        let inode = *inner.names.get(name).ok_or_else(|| missing(name))?;
        Ok(MemFile {
            disk: self.clone(),
            inode,
            life: inner.life,
        })
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.inner().names.keys().cloned().collect())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.inner();
        let inode = *inner.names.get(from).ok_or_else(|| missing(from))?;
        inner.change(vec![
            NameChange::Unlink(from.to_owned()),
            NameChange::Link(to.to_owned(), inode),
        ])
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut inner = self.inner();
        if !inner.names.contains_key(name) {
            return Err(missing(name));
        }
        inner.change(vec![NameChange::Unlink(name.to_owned())])
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.spend()?;
        if std::mem::take(&mut inner.fail_sync) {
            return Err(io::Error::other("the flush failed"));
        }
        inner.pending.clear();
        inner.durable_names = inner.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let inner = self.inner();
        let capacity = inner.capacity.unwrap_or(u64::MAX);
        Ok(capacity.saturating_sub(inner.used()))
    }
}

/// A file of a [`MemDisk`].
#[derive(Clone, Debug)]
pub struct MemFile {
    disk: MemDisk,
    inode: u64,
    life: u64,
}

impl MemFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inner, u64) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.inner();
        if inner.life != self.life {
            return Err(io::Error::other(
                "the process that opened the file has ended",
            ));
        }
        act(&mut inner, self.inode)
    }
}

impl Inner {
    fn inode(&mut self, id: u64) -> io::Result<&mut Inode> {
        self.inodes
            .get_mut(&id)
            .ok_or_else(|| io::Error::other("no such file"))
    }
}

impl DiskFile for MemFile {
    fn length(&self) -> io::Result<u64> {
        self.with(|inner, id| Ok(inner.inode(id)?.cached.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|inner, id| {
            let Inode { cached, bad, .. } = inner.inode(id)?;
            let start = (offset as usize).min(cached.len());
            let length = buffer.len().min(cached.len() - start);
            let blocks = start / BLOCK_BYTES..(start + length).div_ceil(BLOCK_BYTES);
            if bad.range(blocks).next().is_some() {
                return Err(io::Error::other("the disk does not give a block"));
            }
            buffer[..length].copy_from_slice(&cached[start..start + length]);
            Ok(length)
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.with(|inner, id| {
            inner.spend()?;
            let start = offset as usize;
            let end = start + bytes.len();
            let length = inner.inode(id)?.cached.len();
            inner.grow(end.saturating_sub(length) as u64)?;
            let inode = inner.inode(id)?;
            if inode.cached.len() < end {
                inode.cached.resize(end, 0);
            }
            inode.cached[start..end].copy_from_slice(bytes);
            if !bytes.is_empty() {
                inode
                    .bad
                    .retain(|b| *b < start / BLOCK_BYTES || *b > (end - 1) / BLOCK_BYTES);
                inode
                    .dirty
                    .extend(start / SECTOR_BYTES..=(end - 1) / SECTOR_BYTES);
            }
            Ok(())
        })
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.with(|inner, id| {
            inner.spend()?;
            let before = inner.inode(id)?.cached.len() as u64;
            inner.grow(length.saturating_sub(before))?;
            let inode = inner.inode(id)?;
            inode.cached.resize(length as usize, 0);
            if length < before {
                // What is cut and comes back as zeroes is not what the disk has there.
                let cut = length as usize / SECTOR_BYTES..(before as usize).div_ceil(SECTOR_BYTES);
                inode.dirty.extend(cut);
            }
            Ok(())
        })
    }

    fn preallocate(&self, length: u64, _how: Preallocation) -> io::Result<()> {
        if self.length()? < length {
            self.set_length(length)?;
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inner, id| {
            inner.spend()?;
            inner.syncs += 1;
            let failing = std::mem::take(&mut inner.fail_sync);
            let inode = inner.inode(id)?;
            if failing {
                // The kernel calls the pages clean and keeps them: a second flush
                // would succeed and write nothing.
                inode.dirty.clear();
                return Err(io::Error::other("the flush failed"));
            }
            let length = inode.cached.len();
            inode.durable.resize(length, 0);
            for sector in std::mem::take(&mut inode.dirty) {
                let start = sector * SECTOR_BYTES;
                let end = (start + SECTOR_BYTES).min(length);
                if start < end {
                    inode.durable[start..end].copy_from_slice(&inode.cached[start..end]);
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_flushed_survives_and_the_rest_may_not() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(0, b"kept").unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        file.write_at(4, b"lost").unwrap();
        disk.lose_power(&mut |_| 0);
        assert_eq!(&disk.contents("a").unwrap()[..4], b"kept");
        assert!(!disk.contents("a").unwrap().ends_with(b"lost"));
        assert!(
            file.write_at(0, b"x").is_err(),
            "the file is of an old life"
        );
    }

    #[test]
    fn what_a_process_wrote_outlives_it_but_not_the_power() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        file.write_at(0, b"written").unwrap();
        disk.end_process();
        assert!(file.sync_data().is_err(), "the file is of an old life");
        assert_eq!(disk.contents("a").unwrap(), b"written");
        disk.lose_power(&mut |_| 0);
        assert_ne!(disk.contents("a").unwrap(), b"written");
    }

    #[test]
    fn a_torn_write_may_take_what_was_flushed_of_its_block() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(0, &[1; BLOCK_BYTES + 10]).unwrap();
        file.sync_data().unwrap();
        disk.sync_directory().unwrap();
        file.write_at(20, &[2; 10]).unwrap();
        disk.lose_power(&mut |n| u64::from(n == 8));
        let left = disk.contents("a").unwrap();
        assert!(left[..10] != [1; 10]);
        assert!(left[BLOCK_BYTES - 10..BLOCK_BYTES] != [1; 10]);
        assert_eq!(left[BLOCK_BYTES..], [1; 10]);
    }

    #[test]
    fn a_block_that_cannot_be_read_leaves_its_neighbours() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        file.write_at(0, &[1; 3 * BLOCK_BYTES]).unwrap();
        disk.fail_reads("a", BLOCK_BYTES as u64);
        let mut block = [0; BLOCK_BYTES];
        let mut read = |at: usize| file.read_at((at * BLOCK_BYTES) as u64, &mut block).is_ok();
        assert_eq!([0, 1, 2].map(&mut read), [true, false, true]);
        file.write_at(BLOCK_BYTES as u64, &[2; BLOCK_BYTES])
            .unwrap();
        assert!(read(1));
    }

    #[test]
    fn a_name_survives_only_a_flushed_directory() {
        let disk = MemDisk::new();
        let file = disk.create("a").unwrap();
        file.sync_data().unwrap();
        disk.lose_power(&mut |_| 0);
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_full_disk_refuses_to_grow() {
        let disk = MemDisk::new();
        disk.set_capacity(Some(8));
        let file = disk.create("a").unwrap();
        file.write_at(0, b"12345678").unwrap();
        let error = file.write_at(8, b"9").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        file.write_at(0, b"overwritten"[..8].as_ref()).unwrap();
    }
}
