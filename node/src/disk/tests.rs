//! The data directory on a real disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use cairn_core::ids::NodeId;
use cairn_storage::disk::{Disk, DiskFile, Preallocation};
use tempfile::tempdir;

use super::{DataDirectory, DirectoryDisk, DirectoryError};

#[test]
fn a_second_holder_is_told_who_the_first_is() {
    let root = tempdir().unwrap();
    let held = DataDirectory::open(root.path()).unwrap();
    let error = DataDirectory::open(root.path()).unwrap_err();
    let words = error.to_string();
    assert!(matches!(error, DirectoryError::Locked { .. }), "{words}");
    assert!(
        words.contains(&format!("in use by process {}", std::process::id())),
        "{words}"
    );
    drop(held);
    DataDirectory::open(root.path()).unwrap();
}

#[test]
fn an_identity_is_drawn_once_and_lives_on_the_disk_alone() {
    let root = tempdir().unwrap();
    let first = DataDirectory::open(root.path()).unwrap();
    first.establish().unwrap();
    let identity = first.identity();
    drop(first);
    let again = DataDirectory::open(root.path()).unwrap();
    assert!(again.is_established());
    assert_eq!(again.identity(), identity);
    drop(again);
    // A wiped disk is another node.
    fs::remove_dir_all(root.path()).unwrap();
    let wiped = DataDirectory::open(root.path()).unwrap();
    assert_ne!(wiped.identity().node, identity.node);
    assert_ne!(wiped.identity().incarnation, identity.incarnation);
}

#[test]
fn a_directory_is_made_with_those_above_it() {
    let root = tempdir().unwrap();
    let deep = root.path().join("a").join("b");
    let directory = DataDirectory::open(&deep).unwrap();
    assert!(directory.root().ends_with("a/b"));
}

#[test]
fn a_volume_that_holds_only_what_its_file_system_was_made_with_is_empty() {
    let root = tempdir().unwrap();
    let found = root.path().join("lost+found");
    fs::create_dir(&found).unwrap();
    fs::set_permissions(&found, fs::Permissions::from_mode(0o000)).unwrap();
    let directory = DataDirectory::open(root.path()).unwrap();
    assert!(!directory.is_established());
    let identity = directory.identity();
    directory.establish().unwrap();
    drop(directory);
    let again = DataDirectory::open(root.path()).unwrap();
    assert_eq!(again.identity(), identity);
    assert!(found.is_dir());
}

#[test]
fn an_identity_that_cannot_be_looked_for_is_not_called_absent() {
    let root = tempdir().unwrap();
    // Whoever asks for it goes round in circles.
    std::os::unix::fs::symlink("identity.json", root.path().join("identity.json")).unwrap();
    let error = DataDirectory::open(root.path()).unwrap_err();
    assert!(matches!(error, DirectoryError::Io { .. }), "{error}");
}

#[test]
fn an_unfinished_directory_is_begun_again_under_the_same_identity() {
    let root = tempdir().unwrap();
    let first = DataDirectory::open(root.path()).unwrap();
    first.admit("c", NodeId(3)).unwrap();
    let identity = first.identity();
    fs::create_dir(first.log_path()).unwrap();
    fs::write(first.log_path().join("segment-0000000000000001"), "half").unwrap();
    drop(first);
    let again = DataDirectory::open(root.path()).unwrap();
    assert_eq!(again.identity(), identity);
    assert!(!again.is_established());
    assert!(!again.log_path().exists());
}

#[test]
fn data_without_an_identity_is_refused() {
    let root = tempdir().unwrap();
    let first = DataDirectory::open(root.path()).unwrap();
    first.establish().unwrap();
    fs::create_dir(first.log_path()).unwrap();
    drop(first);
    fs::remove_file(root.path().join("identity.json")).unwrap();
    let error = DataDirectory::open(root.path()).unwrap_err();
    assert!(error.to_string().contains("identity.json is missing"));
}

#[test]
fn another_cluster_or_number_is_refused() {
    let root = tempdir().unwrap();
    let directory = DataDirectory::open(root.path()).unwrap();
    directory.admit("one", NodeId(1)).unwrap();
    directory.admit("one", NodeId(1)).unwrap();
    let error = directory.admit("two", NodeId(1)).unwrap_err().to_string();
    assert!(
        error.contains("belongs to node 1 of cluster one, not to node 1 of cluster two"),
        "{error}"
    );
    assert!(directory.admit("one", NodeId(2)).is_err());
    drop(directory);
    let again = DataDirectory::open(root.path()).unwrap();
    assert_eq!(again.identity().number, Some(NodeId(1)));
}

#[test]
fn a_newer_directory_is_refused_by_number() {
    let root = tempdir().unwrap();
    let directory = DataDirectory::open(root.path()).unwrap();
    directory.establish().unwrap();
    drop(directory);
    fs::write(
        root.path().join("identity.json"),
        r#"{"format": 7, "something": "else"}"#,
    )
    .unwrap();
    let error = DataDirectory::open(root.path()).unwrap_err();
    assert!(
        matches!(error, DirectoryError::Newer { found: 7, .. }),
        "{error}"
    );
}

#[test]
fn a_directory_is_a_disk() {
    let root = tempdir().unwrap();
    let disk = DirectoryDisk::open(&root.path().join("log")).unwrap();
    let file = disk.create("a").unwrap();
    for how in [Preallocation::Reserved, Preallocation::Zeroed] {
        file.preallocate(3 << 20, how).unwrap();
        assert_eq!(file.length().unwrap(), 3 << 20);
    }
    file.write_at(5, b"hello").unwrap();
    file.sync_data().unwrap();
    let mut found = [0; 7];
    assert_eq!(file.read_at(4, &mut found).unwrap(), 7);
    assert_eq!(&found, b"\0hello\0");
    assert!(disk.create("a").is_err());
    disk.rename("a", "b").unwrap();
    disk.sync_directory().unwrap();
    assert_eq!(disk.list().unwrap(), ["b"]);
    let mut past = [0; 4];
    let reopened = disk.open("b").unwrap();
    assert_eq!(reopened.read_at((3 << 20) - 1, &mut past).unwrap(), 1);
    disk.remove("b").unwrap();
    assert!(disk.open("b").is_err());
    assert!(disk.free_bytes().unwrap() > 0);
}

/// What is written past the page cache, and what beside it, is one file.
#[test]
fn what_is_written_past_the_cache_is_read_through_it() {
    let root = tempdir().unwrap();
    let disk = DirectoryDisk::open(&root.path().join("log")).unwrap();
    let disk = disk.past_the_cache();
    let file = disk.create("a").unwrap();
    file.preallocate(4 << 20, Preallocation::Zeroed).unwrap();
    disk.rename("a", "b").unwrap();
    let reader = disk.open("b").unwrap();
    let mut expected = vec![0; 4 << 20];
    let read_whole = || {
        let mut found = vec![1; 4 << 20];
        assert_eq!(reader.read_at(0, &mut found).unwrap(), 4 << 20);
        found
    };
    assert!(read_whole() == expected);
    // Aligned and not, of one page and of more than one piece, beside each other and over it.
    for (offset, length) in [
        (0, 4096),
        (4096, 8192),
        (12_288, 700),
        (12_988, 3396),
        (16_384, 4096),
        (4096, 4096),
        (1 << 20, (2 << 20) + 4096),
        (8000, 200),
    ] {
        let bytes: Vec<u8> = (0..length)
            .map(|at| (at % 251 + offset % 7) as u8)
            .collect();
        file.write_at(offset as u64, &bytes).unwrap();
        expected[offset..offset + length].copy_from_slice(&bytes);
        file.sync_data().unwrap();
        assert!(read_whole() == expected, "after {length} at {offset}");
    }
    // Where the file system has such writes they are used.
    let has_them = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(root.path().join("log/b"));
    assert_eq!(file.is_written_directly(), has_them.is_ok());
    assert!(!reader.is_written_directly());
    let through = DirectoryDisk::open(&root.path().join("log")).unwrap();
    let again = through.open("b").unwrap();
    again.write_at(4096, &[9; 4096]).unwrap();
    again.sync_data().unwrap();
    assert!(!again.is_written_directly());
    expected[4096..8192].fill(9);
    assert!(read_whole() == expected);
}
