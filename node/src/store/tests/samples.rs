//! Samples of a data node's disk: an identity and a log with a replica and its entries,
//! without the store, which the log makes anew.

use std::fs;

use super::*;
use crate::samples::{self, copy_tree};

const KIND: &str = "data";
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
    for segment in segments(&root) {
        let name = segment.file_name().unwrap();
        fs::copy(&segment, to.join("wal").join(name)).unwrap();
    }
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
    samples::keep(KIND, sample.path());
}

#[test]
fn every_sample_of_an_earlier_build_still_opens() {
    for sample in samples::kept(KIND) {
        check_sample(&sample);
    }
}
