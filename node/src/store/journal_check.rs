//! fjall's journals, walked before fjall opens them.
//!
//! fjall replays its journals one after the other and takes the end of each for
//! granted. Three things follow that a node cannot live with:
//!
//! - It stops reading a *sealed* journal at the first thing that does not decode, cuts
//!   the file there, and goes on with the next journal. The batches in between are
//!   gone, and the applied marks of later ones stand over a state that lacks them.
//! - A torn tail that happens to decode, such as a large value of which one page never
//!   reached the disk, is an error at every start.
//! - What it reads may be in the page cache alone, left there by a flush that failed
//!   (rule 12). Its next flush finds nothing to write, succeeds, and the log is
//!   reclaimed on the strength of it.
//!
//! So [`settle`] reads them first, as one sequence that ends where anything is wrong:
//! what follows goes, and the journal that is left to be written to is copied and
//! flushed. Batches are whole and in order, so that the store has gone back to an
//! earlier moment, which the log makes good or recovery notices
//! ([`cairn_storage::wal`] compares the applied mark with what the log still has).
//!
//! The format is that of the pinned fjall: a batch is a start (how many items, and a
//! sequence number), items, and an end with a checksum over the items. The checksum
//! leaves out the start, hence the check that the numbers ascend.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

const EXTENSION: &str = "jnl";
/// A journal's copy until it takes the journal's name; fjall passes over it.
const COPY_SUFFIX: &str = ".new";
const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const TRAILER: [u8; 4] = [b'F', b'J', b'L', 3];
/// An item's fixed part behind its tag: value type, compression, keyspace, and the
/// lengths of the key, of the value, and of the value as it is stored.
const ITEM_BYTES: usize = 1 + 1 + 8 + 2 + 4 + 4;
/// Values, tombstones and weak tombstones. At a pointer to a blob fjall panics.
const VALUE_TYPE_MAX: u8 = 2;
/// None and LZ4.
const COMPRESSION_MAX: u8 = 1;
/// fjall keeps the highest bit of a sequence number for itself, and panics.
const SEQUENCE_LIMIT: u64 = 1 << 63;
const BUFFER_BYTES: usize = 256 << 10;

/// What [`settle`] found and did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Settled {
    /// How many whole batches the journals hold.
    pub(crate) batches: u64,
    /// Bytes of the journal that was copied and flushed.
    pub(crate) copied_bytes: u64,
    /// Where the sequence of batches was cut.
    pub(crate) cut: Option<Cut>,
}

/// Where and why journals were cut.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// The journal that is the last to stay.
    pub(crate) journal: u64,
    /// Its length.
    pub(crate) at: u64,
    /// What stood there.
    pub(crate) what: &'static str,
    /// How many later journals go.
    pub(crate) removed: usize,
}

impl Cut {
    /// Whether this is what a power loss leaves behind: the end of what was being
    /// written. Otherwise something was damaged that had been flushed.
    pub(crate) fn is_torn_tail(&self) -> bool {
        self.removed == 0
    }
}

/// A place in the sequence of journals.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    /// Which of the listed journals.
    journal: usize,
    offset: u64,
}

/// Makes what fjall will read of its journals at `path` whole, in order, and durable.
///
/// # Errors
/// What the operating system says. Damage is no error: it is cut.
pub(super) fn settle(path: &Path) -> io::Result<Settled> {
    Journals::read(path)?.settle()
}

/// Journals as they were found, with nothing changed yet.
#[derive(Debug)]
pub(crate) struct Journals {
    directory: PathBuf,
    /// Ascending.
    files: Vec<(u64, PathBuf)>,
    batches: u64,
    /// Where the sequence of whole batches ends.
    end: Place,
    /// What stands there, unless it is the end.
    flaw: Option<&'static str>,
}

impl Journals {
    /// Reads them as one sequence that ends where anything is wrong.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn read(directory: &Path) -> io::Result<Self> {
        let mut found = Self {
            directory: directory.to_owned(),
            files: list(directory)?,
            batches: 0,
            end: Place::default(),
            flaw: None,
        };
        // The last batch may have to go with the one behind it.
        let mut last: Option<(u64, Place)> = None;
        for (number, (id, file)) in found.files.iter().enumerate() {
            if number > 0 && found.files[number - 1].0 + 1 != *id {
                found.flaw = Some("a journal is missing");
                break;
            }
            let mut walk = Walk::new(open_buffered(file)?);
            found.end = Place {
                journal: number,
                offset: 0,
            };
            while found.flaw.is_none() {
                match walk.batch()? {
                    Step::Batch(sequence) => {
                        if let Some((before, begun)) = last
                            && before >= sequence
                        {
                            // One of the two numbers is wrong, and nobody knows which. A
                            // number that is too high would put old values over new ones.
                            found.flaw = Some("sequence numbers that do not ascend");
                            found.end = begun;
                            found.batches -= 1;
                            break;
                        }
                        last = Some((sequence, found.end));
                        found.end.offset = walk.at;
                        found.batches += 1;
                    }
                    Step::Over => break,
                    Step::Flaw(what) => found.flaw = Some(what),
                }
            }
            if found.flaw.is_some() {
                break;
            }
        }
        Ok(found)
    }

    /// Where they have to be cut.
    pub(crate) fn cut(&self) -> Option<Cut> {
        self.flaw.map(|what| Cut {
            journal: self.files[self.end.journal].0,
            at: self.end.offset,
            what,
            removed: self.files.len() - 1 - self.end.journal,
        })
    }

    /// Whether anything whole stands behind the place where they have to be cut: a later
    /// journal, or a batch of the same one. Where each batch is flushed before the next
    /// one is begun, what is broken there had been flushed.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn is_whole_behind_cut(&self) -> io::Result<bool> {
        let Some(cut) = self.cut() else {
            return Ok(false);
        };
        if cut.removed > 0 {
            return Ok(true);
        }
        let mut rest = Vec::new();
        let mut file = File::open(&self.files[self.end.journal].1)?;
        // What is broken may itself be whole and have a wrong number.
        file.seek(SeekFrom::Start(cut.at + 1))?;
        file.read_to_end(&mut rest)?;
        holds_whole_batch(&rest)
    }

    /// Cuts them where they have to be, and makes them durable.
    ///
    /// # Errors
    /// What the operating system says.
    pub(crate) fn settle(self) -> io::Result<Settled> {
        let cut = self.cut();
        let Some((_, last)) = self.files.get(self.end.journal) else {
            return Ok(Settled::default());
        };
        // The newest goes first and the cut comes last: a process that dies in between
        // finds the flaw again, never a gap that nobody sees.
        for (_, file) in self.files[self.end.journal + 1..].iter().rev() {
            fs::remove_file(file)?;
            sync_directory(&self.directory)?;
        }
        let mut copied_bytes = 0;
        if self.end.offset > 0 || cut.is_some() {
            rewrite(&self.directory, last, self.end.offset)?;
            copied_bytes = self.end.offset;
        }
        Ok(Settled {
            batches: self.batches,
            copied_bytes,
            cut,
        })
    }
}

/// The journals, ascending. What has another name is fjall's to judge.
fn list(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut journals = Vec::new();
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(journals),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let file = entry?.path();
        let id = file.file_stem().and_then(|stem| stem.to_str());
        let id = id.and_then(|stem| stem.parse().ok());
        if let Some(id) = id
            && file.extension().is_some_and(|e| e == EXTENSION)
        {
            journals.push((id, file));
        }
    }
    journals.sort_unstable();
    Ok(journals)
}

/// Leaves the first `length` bytes of a journal, and those on the disk.
///
/// A copy is written and flushed before it takes the journal's name. Flushing the
/// journal itself would prove nothing: pages that a failed flush left behind count as
/// clean, and are not written again.
fn rewrite(directory: &Path, journal: &Path, length: u64) -> io::Result<()> {
    let mut name = journal.as_os_str().to_owned();
    name.push(COPY_SUFFIX);
    let copy = PathBuf::from(name);
    let written = File::create(&copy).and_then(|mut to| {
        let from = File::open(journal)?;
        let copied = copy_bytes(&mut from.take(length), &mut to)?;
        if copied != length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.sync_all()
    });
    match written {
        Ok(()) => fs::rename(&copy, journal)?,
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            // A full disk must not keep the node from starting and making room. The
            // same bytes at the same place need none.
            fs::remove_file(&copy)?;
            rewrite_in_place(journal, length)?;
        }
        Err(error) => return Err(error),
    }
    sync_directory(directory)
}

/// Copies through memory. The kernel's own copying may share the pages' blocks, and
/// what never reached those would be shared as well.
fn copy_bytes(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                copied += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn rewrite_in_place(journal: &Path, length: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(journal)?;
    file.set_len(length)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    while at < length {
        let part = (length - at).min(BUFFER_BYTES as u64) as usize;
        file.read_exact_at(&mut buffer[..part], at)?;
        file.write_all_at(&buffer[..part], at)?;
        at += part as u64;
    }
    file.sync_all()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// What comes next in a journal.
enum Step {
    /// A whole batch of this sequence number.
    Batch(u64),
    /// Nothing but the end, or the zeroes of a file that was made longer in advance.
    Over,
    /// Something else.
    Flaw(&'static str),
}

/// Whether a whole batch begins anywhere in these bytes.
fn holds_whole_batch(bytes: &[u8]) -> io::Result<bool> {
    for at in 0..bytes.len() {
        if bytes[at] == START
            && let Step::Batch(_) = Walk::new(&bytes[at..]).batch()?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads a journal batch by batch. It holds no more than its buffer, whatever lengths
/// it finds.
struct Walk<R> {
    from: R,
    at: u64,
    checksum: Xxh3,
}

const SHORT: Step = Step::Flaw("the end of the file within a batch");

/// Gives up where the file ends.
macro_rules! read {
    ($walk:ident) => {
        match $walk.read()? {
            Some(bytes) => bytes,
            None => return Ok(SHORT),
        }
    };
}

fn open_buffered(journal: &Path) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(BUFFER_BYTES, File::open(journal)?))
}

impl<R: BufRead> Walk<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            at: 0,
            checksum: Xxh3::new(),
        }
    }

    fn batch(&mut self) -> io::Result<Step> {
        let tag: [u8; 1] = match self.read()? {
            Some(tag) => tag,
            None => return Ok(Step::Over),
        };
        if tag == [0] {
            return Ok(if self.only_zeroes()? {
                Step::Over
            } else {
                Step::Flaw("bytes behind the end")
            });
        }
        if tag != [START] {
            return Ok(Step::Flaw("no start of a batch"));
        }
        let items = u32::from_le_bytes(read!(self));
        let sequence = u64::from_le_bytes(read!(self));
        if items == 0 || sequence >= SEQUENCE_LIMIT {
            return Ok(Step::Flaw("an impossible start of a batch"));
        }
        self.checksum.reset();
        for _ in 0..items {
            let tag: [u8; 1] = read!(self);
            self.checksum.update(&tag);
            match tag {
                [ITEM] => {
                    let fixed: [u8; ITEM_BYTES] = read!(self);
                    self.checksum.update(&fixed);
                    let [value_type, compression, _, _, _, _, _, _, _, _, rest @ ..] = fixed;
                    if value_type > VALUE_TYPE_MAX || compression > COMPRESSION_MAX {
                        return Ok(Step::Flaw("an impossible item"));
                    }
                    let [k0, k1, _, _, _, _, s0, s1, s2, s3] = rest;
                    let key = u64::from(u16::from_le_bytes([k0, k1]));
                    let stored = u64::from(u32::from_le_bytes([s0, s1, s2, s3]));
                    if !self.pass(key + stored)? {
                        return Ok(SHORT);
                    }
                }
                [CLEAR] => {
                    let keyspace: [u8; 8] = read!(self);
                    self.checksum.update(&keyspace);
                }
                _ => return Ok(Step::Flaw("no item of a batch")),
            }
        }
        let tag: [u8; 1] = read!(self);
        let checksum = u64::from_le_bytes(read!(self));
        let trailer: [u8; 4] = read!(self);
        if tag != [END] || trailer != TRAILER {
            return Ok(Step::Flaw("no end of a batch"));
        }
        if checksum != self.checksum.digest() {
            return Ok(Step::Flaw("a wrong checksum"));
        }
        Ok(Step::Batch(sequence))
    }

    /// The next bytes; `None` where the file ends before.
    fn read<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        let mut bytes = [0; N];
        match self.from.read_exact(&mut bytes) {
            Ok(()) => {
                self.at += N as u64;
                Ok(Some(bytes))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Takes so many bytes into the checksum; `false` where the file ends before.
    fn pass(&mut self, mut count: u64) -> io::Result<bool> {
        while count > 0 {
            let buffer = self.from.fill_buf()?;
            if buffer.is_empty() {
                return Ok(false);
            }
            let part = buffer
                .len()
                .min(usize::try_from(count).unwrap_or(usize::MAX));
            self.checksum.update(&buffer[..part]);
            self.from.consume(part);
            self.at += part as u64;
            count -= part as u64;
        }
        Ok(true)
    }

    /// Whether nothing but zeroes follows.
    fn only_zeroes(&mut self) -> io::Result<bool> {
        loop {
            let buffer = self.from.fill_buf()?;
            if buffer.is_empty() {
                return Ok(true);
            }
            if buffer.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            let part = buffer.len();
            self.from.consume(part);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
