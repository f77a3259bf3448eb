//! Disks of earlier builds, kept so that later builds are held to reading them (rule
//! 18).
//!
//! A sample is a data directory as [`write_sample`] makes it: an identity and a log
//! with a replica and its entries, without the store, which the log makes anew. To
//! keep one of this build, when a format has changed:
//!
//! ```text
//! CAIRN_KEEP_SAMPLE=wal-2 cargo test -p cairn-node --lib store::tests::samples
//! ```

use std::fs;

use super::super::journal_check::tests::copy_tree;
use super::*;

/// Names the sample to be kept, below [`KEPT`].
const KEEP: &str = "CAIRN_KEEP_SAMPLE";
const KEPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/samples");
/// The most bytes of a sample: it is kept for good.
const SAMPLE_BYTES_MAX: u64 = 64 << 10;
const ENTRIES: u64 = 10;

fn sample_config() -> StorageConfig {
    StorageConfig {
        wal: WalConfig {
            segment_bytes: 24 << 10,
            ..config().wal
        },
        ..config()
    }
}

/// Makes a sample at `to`.
fn write_sample(to: &Path) {
    let root = tempdir().unwrap();
    let node = try_open(root.path(), &sample_config()).unwrap();
    node.directory.admit("sample", NodeId(3)).unwrap();
    node.write(vec![create()], 1);
    node.write(records(&entries(Mark::ZERO, ENTRIES)), 1 + ENTRIES);
    node.close();
    fs::create_dir_all(to.join("wal")).unwrap();
    let identity = root.path().join("identity.json");
    fs::copy(identity, to.join("identity.json")).unwrap();
    let mut bytes = 0;
    for segment in segments(&root) {
        let name = segment.file_name().unwrap();
        bytes += fs::copy(&segment, to.join("wal").join(name)).unwrap();
    }
    assert!(bytes <= SAMPLE_BYTES_MAX, "{bytes}");
}

/// Opens a copy of a sample and looks at all that is in it.
fn check_sample(sample: &Path) {
    let root = tempdir().unwrap();
    copy_tree(sample, root.path());
    let node = try_open(root.path(), &sample_config()).unwrap();
    let identity = node.directory.identity();
    assert_eq!(identity.cluster.as_deref(), Some("sample"));
    assert_eq!(identity.number, Some(NodeId(3)));
    let found = node.recovered().clone();
    assert!(!found.corrupt && !found.dropped_tail, "{found:?}");
    assert_eq!(found.meta.replica, Some(ReplicaId(1)));
    assert_eq!(found.entries.len() as u64, ENTRIES);
    let log = found.entries.to_vec();
    node.apply(&log);
    for number in 1..=ENTRIES {
        let value = node.value(&format!("key{number}"));
        assert_eq!(value.unwrap(), format!("value{number}"));
    }
    node.close();
}

#[test]
fn a_sample_of_this_build_opens() {
    let sample = tempdir().unwrap();
    write_sample(sample.path());
    check_sample(sample.path());
    if let Some(name) = std::env::var_os(KEEP) {
        copy_tree(sample.path(), &Path::new(KEPT).join(name));
    }
}

#[test]
fn every_sample_of_an_earlier_build_still_opens() {
    // None is kept before the first format that is to be read for good.
    let Ok(kept) = fs::read_dir(KEPT) else {
        return;
    };
    for sample in kept {
        let sample = sample.unwrap().path();
        println!("{}", sample.display());
        check_sample(&sample);
    }
}
