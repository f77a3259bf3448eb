//! Power loss: forgets what a killed process had not flushed.
//!
//! `shim/power_loss.c`, loaded into the node by `LD_PRELOAD`, keeps an undo journal
//! of every unflushed write; its head says what it models. [`Power::cut`] applies it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand::rngs::StdRng;

const MAGIC: u64 = 0x4f44_4e55_4e52_4943;
const HEAD: usize = 32;
/// A disk keeps or loses whole sectors.
const SECTOR: u64 = 512;

/// The shim, compiled once per test run.
///
/// # Errors
/// Where there is no C compiler, or the source does not compile.
pub fn shim() -> Result<&'static Path> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match BUILT.get_or_init(|| compile().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(reason) => bail!("{reason}"),
    }
}

fn compile() -> Result<PathBuf> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/shim/power_loss.c");
    // Beside the test itself, where the next run overwrites it.
    let test = std::env::current_exe()?;
    let library = test.with_file_name("power_loss.so");
    let done = Command::new("gcc")
        .args([
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-format-truncation",
        ])
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(source)
        .args(["-lpthread", "-ldl"])
        .output()
        .context("run gcc")?;
    ensure!(
        done.status.success(),
        "gcc: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(library)
}

/// How much of what was not flushed is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forget {
    /// All of it.
    All,
    /// Each sector at random: a disk writes back in any order.
    Some,
}

/// What a cut forgot.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Forgotten {
    /// Files whose unflushed bytes were put back.
    pub files: usize,
    /// How many bytes.
    pub bytes: u64,
    /// New files whose names were never flushed.
    pub names: usize,
}

/// The power supply of one node's directory.
#[derive(Clone, Debug)]
pub struct Power {
    data: PathBuf,
    journal: PathBuf,
}

impl Power {
    /// For the node whose files lie in `data`; keeps its journals in `journal`.
    ///
    /// # Errors
    /// Where the directories cannot be made.
    pub fn new(data: &Path, journal: &Path) -> Result<Self> {
        fs::create_dir_all(data)?;
        fs::create_dir_all(journal)?;
        Ok(Self {
            data: data.canonicalize()?,
            journal: journal.canonicalize()?,
        })
    }

    /// What the node's environment needs.
    ///
    /// # Errors
    /// See [`shim`].
    pub fn environment(&self) -> Result<Vec<(String, String)>> {
        let variables = [
            ("LD_PRELOAD", shim()?.display().to_string()),
            ("CAIRN_SHIM_DIR", self.data.display().to_string()),
            ("CAIRN_SHIM_JOURNAL", self.journal.display().to_string()),
        ];
        Ok(variables
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    /// Lets every fsync and fdatasync fail, or succeed again.
    ///
    /// # Errors
    /// Where the switch cannot be set.
    pub fn fail_flushes(&self, on: bool) -> Result<()> {
        self.switch("fail-fsync", on)
    }

    /// Lets every fsync and fdatasync say that it flushed, without flushing.
    ///
    /// # Errors
    /// Where the switch cannot be set.
    pub fn lie(&self, on: bool) -> Result<()> {
        self.switch("lie", on)
    }

    /// Lets every fsync and fdatasync wait until this is switched off: what was
    /// written meanwhile is not flushed, and nobody is told that it was.
    ///
    /// # Errors
    /// Where the switch cannot be set.
    pub fn stall(&self, on: bool) -> Result<()> {
        self.switch("stall", on)
    }

    /// Lets the calendar be a minute ahead.
    ///
    /// # Errors
    /// Where the switch cannot be set.
    pub fn skew(&self, on: bool) -> Result<()> {
        self.switch("skew", on)
    }

    /// Lets a process that removes a file end in the middle of it.
    ///
    /// # Errors
    /// Where the switch cannot be set.
    pub fn die_removing(&self, on: bool) -> Result<()> {
        self.switch("die-removing", on)
    }

    /// Where in a file that still exists the bytes lie that were written and not yet
    /// flushed; `None` where there are none.
    ///
    /// # Errors
    /// Where its journal cannot be read.
    pub fn unflushed(&self, file: &Path) -> Result<Option<Range<u64>>> {
        let journal = self.undo_of(file)?;
        if !journal.exists() {
            return Ok(None);
        }
        let journal = fs::read(journal)?;
        let mut range: Option<Range<u64>> = None;
        for record in records(&journal)? {
            let end = record.offset + record.old.len() as u64;
            range = Some(match range {
                None => record.offset..end,
                Some(range) => range.start.min(record.offset)..range.end.max(end),
            });
        }
        Ok(range.filter(|range| !range.is_empty()))
    }

    /// Adds half a note to a file's journal, as a process does that is killed over it.
    ///
    /// # Errors
    /// Where its journal cannot be written.
    pub fn tear(&self, file: &Path) -> Result<()> {
        let half = [MAGIC, 0, 1 << 20, 0].map(u64::to_le_bytes).concat();
        let mut journal = fs::OpenOptions::new()
            .append(true)
            .open(self.undo_of(file)?)?;
        journal.write_all(&half)?;
        Ok(())
    }

    fn undo_of(&self, file: &Path) -> Result<PathBuf> {
        let inode = file.metadata()?.ino();
        Ok(self.journal.join(format!("{inode}.undo")))
    }

    fn switch(&self, name: &str, on: bool) -> Result<()> {
        let switch = self.journal.join(name);
        if on {
            fs::write(switch, [])?;
        } else if switch.exists() {
            fs::remove_file(switch)?;
        }
        Ok(())
    }

    /// Forgets what was not flushed. The process must be dead.
    ///
    /// # Errors
    /// Where files cannot be read or written.
    pub fn cut(&self, forget: Forget, rng: &mut StdRng) -> Result<Forgotten> {
        let mut files = BTreeMap::new();
        by_inode(&self.data, &mut files)?;
        let mut forgotten = Forgotten::default();
        let mut new = Vec::new();
        for entry in fs::read_dir(&self.journal)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let inode = |text: &str| text.parse::<u64>().context("a journal's name");
            match name.split('.').collect::<Vec<_>>().as_slice() {
                [number, "undo"] => {
                    if let Some(file) = files.get(&inode(number)?) {
                        let bytes = undo(file, &fs::read(&path)?, forget, rng)?;
                        forgotten.files += usize::from(bytes > 0);
                        forgotten.bytes += bytes;
                    }
                }
                [_, number, "new"] => new.extend(files.get(&inode(number)?).cloned()),
                _ => continue,
            }
            fs::remove_file(&path)?;
        }
        for file in new {
            if forget == Forget::All || rng.random() {
                println!("the name {} was never flushed", file.display());
                fs::remove_file(file)?;
                forgotten.names += 1;
            }
        }
        Ok(forgotten)
    }
}

fn by_inode(directory: &Path, files: &mut BTreeMap<u64, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            by_inode(&entry.path(), files)?;
        } else if kind.is_file() {
            files.insert(entry.metadata()?.ino(), entry.path());
        }
    }
    Ok(())
}

struct Record<'a> {
    offset: u64,
    old: &'a [u8],
    size: u64,
}

/// The whole records of a journal. A torn last one stands for a write that never began.
fn records(mut journal: &[u8]) -> Result<Vec<Record<'_>>> {
    let mut found = Vec::new();
    while journal.len() >= HEAD {
        let number = |at: usize| -> u64 {
            let bytes = &journal[at * 8..at * 8 + 8];
            u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
        };
        ensure!(number(0) == MAGIC, "a journal is damaged");
        let (offset, length, size) = (number(1), usize::try_from(number(2))?, number(3));
        let Some(old) = journal.get(HEAD..HEAD + length) else {
            break;
        };
        found.push(Record { offset, old, size });
        journal = &journal[HEAD + length..];
    }
    Ok(found)
}

fn undo(path: &Path, journal: &[u8], forget: Forget, rng: &mut StdRng) -> Result<u64> {
    let records = records(journal)?;
    let Some(first) = records.first() else {
        return Ok(0);
    };
    let file = fs::OpenOptions::new().read(true).write(true).open(path)?;
    let old_size = first.size;
    let mut kept: BTreeMap<u64, bool> = BTreeMap::new();
    let mut keeps = |sector: u64, rng: &mut StdRng| {
        forget == Forget::Some && *kept.entry(sector).or_insert_with(|| rng.random())
    };
    let mut bytes = 0;
    for record in records.iter().rev() {
        let end = record.offset + record.old.len() as u64;
        let mut at = record.offset;
        while at < end {
            let next = ((at / SECTOR + 1) * SECTOR).min(end);
            if !keeps(at / SECTOR, rng) {
                let from = usize::try_from(at - record.offset)?;
                let to = usize::try_from(next - record.offset)?;
                file.write_all_at(&record.old[from..to], at)?;
                bytes += next - at;
            }
            at = next;
        }
    }
    let size = file.metadata()?.len();
    if size == old_size {
        return Ok(bytes);
    }
    if forget == Forget::All || rng.random() {
        file.set_len(old_size)?;
        return Ok(bytes + size.abs_diff(old_size));
    }
    // The new size was written back; of what lies past the old one, some was not.
    let zeros = [0; SECTOR as usize];
    let mut at = old_size;
    while at < size {
        let next = ((at / SECTOR + 1) * SECTOR).min(size);
        if !keeps(at / SECTOR, rng) {
            file.write_all_at(&zeros[..usize::try_from(next - at)?], at)?;
            bytes += next - at;
        }
        at = next;
    }
    Ok(bytes)
}
