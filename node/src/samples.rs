//! Disks of earlier builds, kept so that later builds are held to reading them (rule
//! 18): directories below `testdata/samples`, by what they are disks of. To keep those
//! of this build, when a format has changed:
//!
//! ```text
//! CAIRN_KEEP_SAMPLE=a-name cargo test --workspace --locked --lib -- a_sample_of_this_build_opens
//! ```

use std::fs;
use std::path::{Path, PathBuf};

/// Names the samples to be kept.
const KEEP: &str = "CAIRN_KEEP_SAMPLE";
/// The most bytes of a sample: it is kept for good.
const SAMPLE_BYTES_MAX: u64 = 64 << 10;

fn place(kind: &str) -> PathBuf {
    let samples = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/samples");
    Path::new(samples).join(kind)
}

/// Keeps a sample if the environment asks for it.
pub(crate) fn keep(kind: &str, sample: &Path) {
    let bytes = bytes_below(sample);
    assert!(bytes <= SAMPLE_BYTES_MAX, "{bytes}");
    if let Some(name) = std::env::var_os(KEEP) {
        copy_tree(sample, &place(kind).join(name));
    }
}

/// The samples that are kept, of which there has to be one.
pub(crate) fn kept(kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place(kind)).unwrap();
    let kept: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!kept.is_empty(), "no sample of kind {kind} is kept");
    println!("{kept:#?}");
    kept
}

fn bytes_below(path: &Path) -> u64 {
    if path.is_dir() {
        let entries = fs::read_dir(path).unwrap();
        entries.map(|e| bytes_below(&e.unwrap().path())).sum()
    } else {
        fs::metadata(path).unwrap().len()
    }
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
