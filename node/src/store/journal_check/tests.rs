//! Journals that fjall wrote, damaged in every way that a disk has.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use cairn_core::replication::Generation;
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::state::data_key;
use cairn_storage::store::{Store, StoreChange};
use tempfile::{TempDir, tempdir};

use super::super::opening::open_store;
use super::super::{FjallStore, StorageConfig};
use super::*;
use crate::samples::copy_tree;

const G: Generation = Generation(1);
const PAGE: usize = 4096;

fn config() -> StorageConfig {
    StorageConfig {
        memtable_bytes: 1 << 20,
        ..StorageConfig::default()
    }
}

pub(in super::super) fn open(path: &Path) -> FjallStore {
    open_store(path, &LogIdentity::default(), &config()).unwrap()
}

/// Bytes that do not compress, of a length and a content that follow from the number.
fn noise(number: u64, length: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect::<Vec<u8>>().into()
}

fn value(number: u64) -> Bytes {
    // Every fourth is long enough for fjall to compress it.
    noise(number, if number.is_multiple_of(4) { 6000 } else { 100 })
}

fn key(number: u64) -> Bytes {
    data_key(G, &number.to_be_bytes())
}

fn mark_key() -> Bytes {
    data_key(G, b"the mark")
}

/// One batch: a row, and the mark that says so.
pub(in super::super) fn write(store: &FjallStore, number: u64, value: Bytes) {
    let changes: [StoreChange; 2] = [
        (key(number), Some(value)),
        (
            mark_key(),
            Some(Bytes::copy_from_slice(&number.to_be_bytes())),
        ),
    ];
    store.write(&changes).unwrap();
}

fn fill(path: &Path, numbers: std::ops::RangeInclusive<u64>) {
    let store = open(path);
    for number in numbers {
        write(&store, number, value(number));
    }
    store.persist().unwrap();
}

/// Checks that every row up to the mark is there, and none behind it; returns the mark.
pub(in super::super) fn checked_mark(store: &FjallStore, value: impl Fn(u64) -> Bytes) -> u64 {
    let mark = store.get(&mark_key()).unwrap();
    let mark = mark.map_or(0, |m| u64::from_be_bytes(m[..].try_into().unwrap()));
    for number in 1..=mark {
        let found = store.get(&key(number)).unwrap();
        assert!(found == Some(value(number)), "{number} of {mark} is wrong");
    }
    for number in mark + 1..mark + 100 {
        assert_eq!(store.get(&key(number)).unwrap(), None, "behind {mark}");
    }
    mark
}

fn journal(path: &Path, id: u64) -> PathBuf {
    path.join(format!("{id}.jnl"))
}

/// Where each batch of a journal ends.
pub(crate) fn batch_ends(journal: &Path) -> Vec<u64> {
    let mut walk = Walk::new(open_buffered(journal).unwrap());
    let mut ends = Vec::new();
    while let Step::Batch(_) = walk.batch().unwrap() {
        ends.push(walk.at);
    }
    ends
}

/// A store of three journals, two of them sealed, none of them in tables: as fjall
/// leaves it when it dies while memtables wait to be written.
struct Sealed {
    root: TempDir,
    /// Where each batch of the first journal ends.
    ends: Vec<u64>,
    /// The number of the last row.
    rows: u64,
}

/// fjall seals a journal at 64 MB; a stream of batches can be parted anywhere between
/// two of them.
fn sealed() -> Sealed {
    let root = tempdir().unwrap();
    let rows = 40;
    fill(root.path(), 1..=rows);
    let whole = journal(root.path(), 0);
    let all = batch_ends(&whole);
    let bytes = fs::read(&whole).unwrap();
    let (first, second) = (all[all.len() / 2], all[3 * all.len() / 4]);
    let last = *all.last().unwrap();
    let part = |from: u64, to: u64| &bytes[from as usize..to as usize];
    // The zeroes of the file that was made longer in advance.
    fs::write(&whole, [part(0, first), &[0; 5000]].concat()).unwrap();
    let rest = [part(first, second), &[0; 100]].concat();
    fs::write(journal(root.path(), 1), rest).unwrap();
    fs::write(journal(root.path(), 2), part(second, last)).unwrap();
    Sealed {
        root,
        ends: all.into_iter().filter(|end| *end <= first).collect(),
        rows,
    }
}

impl Sealed {
    fn damaged(&self, damage: impl FnOnce(&Path)) -> TempDir {
        let copy = tempdir().unwrap();
        copy_tree(self.root.path(), copy.path());
        damage(copy.path());
        copy
    }
}

fn change(path: &Path, at: u64, with: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(with, at).unwrap();
}

fn flip(path: &Path, at: u64, mask: u8) {
    let byte = fs::read(path).unwrap()[at as usize];
    change(path, at, &[byte ^ mask]);
}

#[test]
fn whole_journals_are_replayed_whole() {
    let sealed = sealed();
    let store = open(sealed.root.path());
    assert_eq!(checked_mark(&store, value), sealed.rows);
}

#[test]
fn a_flipped_byte_of_a_sealed_journal_never_puts_a_mark_ahead_of_its_rows() {
    let sealed = sealed();
    let begin = sealed.ends[4];
    // All of one batch's start and of its first item's lengths, and then here and there.
    let offsets = (begin..begin + 40).chain((begin..*sealed.ends.last().unwrap()).step_by(701));
    for (turn, at) in offsets.enumerate() {
        let mask = [0x01, 0x80, 0x10][turn % 3];
        let copy = sealed.damaged(|path| flip(&journal(path, 0), at, mask));
        // The first batch is the stamp.
        let whole = sealed.ends.iter().filter(|end| **end <= at).count() as u64 - 1;
        let store = open(copy.path());
        let mark = checked_mark(&store, value);
        // Numbers out of order cast doubt on the batch before as well.
        assert!(
            mark == whole || mark + 1 == whole,
            "{mark} of {whole}, {at}"
        );
        // What is written from here on is found again.
        write(&store, mark + 1, value(mark + 1));
        store.persist().unwrap();
        drop(store);
        assert_eq!(checked_mark(&open(copy.path()), value), mark + 1);
    }
}

#[test]
fn a_mended_store_whose_process_dies_meanwhile_is_mended_again() {
    let sealed = sealed();
    let whole = sealed.ends.len() as u64 - 2;
    let at = sealed.ends[sealed.ends.len() - 2] + 20;
    for gone in [vec![], vec![2], vec![2, 1]] {
        let copy = sealed.damaged(|path| {
            flip(&journal(path, 0), at, 1);
            fs::write(path.join("0.jnl.new"), b"half a copy").unwrap();
            for id in &gone {
                fs::remove_file(journal(path, *id)).unwrap();
            }
        });
        assert_eq!(checked_mark(&open(copy.path()), value), whole);
    }
}

#[test]
fn what_follows_a_missing_journal_goes() {
    let sealed = sealed();
    let copy = sealed.damaged(|path| fs::remove_file(journal(path, 1)).unwrap());
    let settled = settle(copy.path()).unwrap();
    assert_eq!(settled.cut.unwrap().removed, 1);
    let whole = sealed.ends.len() as u64 - 1;
    assert_eq!(checked_mark(&open(copy.path()), value), whole);
}

#[test]
fn a_page_that_a_power_loss_took_from_the_last_journal_is_cut_off() {
    let root = tempdir().unwrap();
    let long = |number: u64| match number {
        11 => noise(number, 64 << 10),
        _ => value(number),
    };
    let store = open(root.path());
    for number in 1..=12 {
        write(&store, number, long(number));
    }
    store.persist().unwrap();
    drop(store);
    let ends = batch_ends(&journal(root.path(), 0));
    let (begin, end) = (ends[ends.len() - 3] as usize, ends[ends.len() - 2] as usize);
    let mut tried = 0;
    for page in begin.div_ceil(PAGE)..end / PAGE {
        let copy = tempdir().unwrap();
        copy_tree(root.path(), copy.path());
        change(&journal(copy.path(), 0), (page * PAGE) as u64, &[0; PAGE]);
        let settled = settle(copy.path()).unwrap();
        assert!(settled.cut.unwrap().is_torn_tail());
        assert_eq!(checked_mark(&open(copy.path()), long), 10);
        tried += 1;
    }
    assert!(tried > 10);
}

#[test]
fn an_end_that_was_cut_anywhere_is_cut_back_to_the_last_whole_batch() {
    let root = tempdir().unwrap();
    fill(root.path(), 1..=4);
    let file = journal(root.path(), 0);
    let ends = batch_ends(&file);
    let (begin, end) = (ends[ends.len() - 2], ends[ends.len() - 1]);
    for length in (begin..end).step_by(97).chain(begin + 1..begin + 40) {
        let copy = tempdir().unwrap();
        copy_tree(root.path(), copy.path());
        let file = journal(copy.path(), 0);
        let handle = OpenOptions::new().write(true).open(&file).unwrap();
        handle.set_len(length).unwrap();
        // With and without the zeroes of the file's length in advance.
        handle.set_len(length + 64 * (length % 2)).unwrap();
        let settled = settle(copy.path()).unwrap();
        assert_eq!(settled.copied_bytes, begin);
        assert_eq!(fs::metadata(&file).unwrap().len(), begin);
    }
    assert_eq!(checked_mark(&open(root.path()), value), 4);
}

#[test]
fn lengths_that_are_nonsense_reserve_no_memory() {
    let root = tempdir().unwrap();
    fill(root.path(), 1..=2);
    let file = journal(root.path(), 0);
    let begin = batch_ends(&file)[1];
    // Items of the batch; length of the key; length of the value, twice.
    for (at, length) in [(1, 4), (24, 2), (26, 4), (30, 4)] {
        let copy = tempdir().unwrap();
        copy_tree(root.path(), copy.path());
        change(&journal(copy.path(), 0), begin + at, &[0xff; 4][..length]);
        let settled = settle(copy.path()).unwrap();
        assert_eq!((settled.batches, settled.copied_bytes), (2, begin));
        assert_eq!(checked_mark(&open(copy.path()), value), 1);
    }
}

#[test]
fn what_is_read_at_the_start_is_written_and_flushed_anew() {
    let root = tempdir().unwrap();
    fill(root.path(), 1..=8);
    let file = journal(root.path(), 0);
    let (before, inode) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().ino());
    let settled = settle(root.path()).unwrap();
    let (after, copy) = (fs::read(&file).unwrap(), fs::metadata(&file).unwrap().ino());
    assert_ne!(inode, copy);
    assert!(before.starts_with(&after));
    assert_eq!(settled.copied_bytes, after.len() as u64);
    assert_eq!(settled.cut, None);
    // Where there is no room for a copy it happens in place.
    rewrite_in_place(&file, after.len() as u64).unwrap();
    assert!(fs::read(&file).unwrap() == after);
    assert_eq!(checked_mark(&open(root.path()), value), 8);
}

#[test]
fn a_fresh_journal_and_none_at_all_are_left_alone() {
    let root = tempdir().unwrap();
    assert_eq!(settle(root.path()).unwrap(), Settled::default());
    let missing = root.path().join("missing");
    assert_eq!(settle(&missing).unwrap(), Settled::default());
    fs::write(journal(root.path(), 3), [0; 3 * PAGE]).unwrap();
    assert_eq!(settle(root.path()).unwrap(), Settled::default());
    assert_eq!(
        fs::metadata(journal(root.path(), 3)).unwrap().len(),
        3 * PAGE as u64
    );
}

/// How many whole batches the bytes begin with, where they end, and whether nothing else
/// follows.
fn walked(bytes: &[u8]) -> (u64, usize, bool) {
    let mut walk = Walk::new(bytes);
    let (mut batches, mut end) = (0, 0);
    loop {
        match walk.batch().unwrap() {
            Step::Batch(_) => {
                batches += 1;
                end = walk.at as usize;
            }
            Step::Over => return (batches, end, true),
            Step::Flaw(_) => return (batches, end, false),
        }
    }
}

#[test]
fn fuzz_store_journals() {
    let root = tempdir().unwrap();
    fill(root.path(), 1..=6);
    let file = journal(root.path(), 0);
    let end = batch_ends(&file).pop().unwrap() as usize;
    let whole = fs::read(&file).unwrap()[..end].to_vec();
    let padded = [&whole[..], &[0; 64]].concat();
    cairn_fuzz::run(
        "store_journal",
        4,
        vec![whole, padded, vec![0; 64]],
        |bytes| {
            let (batches, end, is_over) = walked(bytes);
            // What is cut behind them stays whole.
            assert_eq!(walked(&bytes[..end]), (batches, end, true));
            if !is_over {
                holds_whole_batch(&bytes[end + 1..]).unwrap();
            }
        },
    );
}
