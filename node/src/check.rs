//! A look at the directory of a node that does not run: what a start would find there, with
//! nothing in it changed.
//!
//! The log is read by the code that recovers it, over a disk that takes no writes. The store
//! cannot be opened without being written to: it is opened as a copy, whose tables are links
//! to the original ones, which are never written to once they exist.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use cairn_storage::disk::{Disk, DiskFile};
use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::store::{Store, StoreError};
use cairn_storage::wal::{self, Recovery, WalError};
use serde::Serialize;
use uuid::Uuid;

use crate::disk::{DirectoryError, ReadOnlyDisk, StoppedDirectory};
use crate::store::{StorageConfig, StorageError, opening};

/// The folders of the store whose files are written once.
const WRITTEN_ONCE: [&str; 2] = ["tables", "blobs"];
/// What tells the directory of a coordinator.
const WITNESS: &str = "witness";

/// Why a directory cannot be checked. Damage is none of these.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It is a coordinator's.
    #[error(
        "{} is the directory of a coordinator, which checks all of it whenever it starts, and \
         refuses to start where it is damaged", .0.display()
    )]
    Coordinator(PathBuf),
    /// It cannot be used as the directory of a data node, or is in use.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The log cannot be judged.
    #[error("the write-ahead log: {0}")]
    Log(#[from] WalError),
    /// The store cannot be judged.
    #[error("the store: {0}")]
    Storage(#[from] StorageError),
    /// Something could not be read or copied.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// Verb.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl CheckError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The node, as its disk knows it.
    pub node: Uuid,
    /// This life of its disk.
    pub incarnation: Uuid,
    /// The cluster that admitted it.
    pub cluster: Option<String>,
    /// The log.
    pub log: LogReport,
    /// The store.
    pub store: StoreReport,
    /// The replicas that a node would have after its start.
    pub replicas: Vec<Replica>,
}

/// The log.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogReport {
    /// How many segments.
    pub segments: usize,
    /// How long they are.
    pub bytes: u64,
    /// Entries that were read.
    pub entries: u64,
    /// Whether a torn tail would be dropped, which is what a power loss leaves and no damage.
    pub torn_tail: bool,
    /// What is broken although it had been flushed.
    pub damage: Vec<String>,
}

/// The store.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreReport {
    /// How long its files are.
    pub bytes: u64,
    /// Rows that were read, each with its checksum.
    pub rows: u64,
    /// Whether the end of its last journal would be cut, which is no damage.
    pub torn_tail: bool,
    /// What is broken in it. What the log still has would be applied anew.
    pub damage: Vec<String>,
}

/// A replica.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Of which partition.
    pub partition: u32,
    /// Its number.
    pub replica: u64,
    /// Entries of its log that are there.
    pub entries: usize,
    /// Whether it would count as absent until it was replaced or mended (rule 12).
    pub corrupt: bool,
    /// Whether other replicas can fill in what it lacks.
    pub mendable: bool,
}

impl Report {
    /// Whether nothing is damaged.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.log.damage.is_empty()
            && self.store.damage.is_empty()
            && !self.replicas.iter().any(|replica| replica.corrupt)
    }
}

/// Checks the directory of a data node that does not run. `scratch` is where the copy of what
/// the store may change is made, and removed again: some hundred megabytes at most.
///
/// # Errors
/// See [`CheckError`].
pub fn check(root: &Path, scratch: &Path) -> Result<Report, CheckError> {
    if root.join(WITNESS).exists() {
        return Err(CheckError::Coordinator(root.to_owned()));
    }
    let directory = StoppedDirectory::open(root)?;
    let identity = directory.identity();
    let log = LogIdentity {
        cluster: identity.cluster.clone().unwrap_or_default(),
        node: identity.node.as_u128(),
        incarnation: identity.incarnation.as_u128(),
    };
    let copy = Copy::of_store(&directory.state_path(), scratch)?;
    let config = StorageConfig::default();
    let looked = opening::look_at_copy(&copy.store(), &log, &config)?;
    let mut store = StoreReport {
        bytes: copy.bytes,
        rows: 0,
        torn_tail: looked.cut.as_ref().is_some_and(|cut| cut.is_torn_tail()),
        damage: looked.unusable.clone().into_iter().collect(),
    };
    if let Some(cut) = looked.cut.filter(|cut| !cut.is_torn_tail()) {
        store.damage.push(format!(
            "journal {} at offset {}: {}, with {} more journals behind it",
            cut.journal, cut.at, cut.what, cut.removed
        ));
    }
    // Each block that is read is held against its checksum.
    let scanned = looked.store.scan(&[], None, &mut |_, _| {
        store.rows += 1;
        true
    });
    if let Err(error) = scanned {
        store.damage.push(judge(error)?);
    }
    let (log, found) = check_log(&directory.log_path(), &log, &config, &looked.store)?;
    Ok(Report {
        node: identity.node,
        incarnation: identity.incarnation,
        cluster: identity.cluster.clone(),
        log,
        store,
        replicas: replicas(&found),
    })
}

/// Damage in words; whatever else the store complains of is an error.
fn judge(error: StoreError) -> Result<String, CheckError> {
    if error.damaged {
        Ok(error.to_string())
    } else {
        Err(StorageError::from(error).into())
    }
}

fn check_log(
    path: &Path,
    identity: &LogIdentity,
    config: &StorageConfig,
    store: &dyn Store,
) -> Result<(LogReport, Recovery), CheckError> {
    let failed = |source| CheckError::io("read", path)(source);
    let disk = ReadOnlyDisk::new(path);
    let names = disk.list().map_err(failed)?;
    let segments: Vec<_> = names
        .iter()
        .filter(|name| name.starts_with("segment-"))
        .collect();
    let (mut bytes, mut longest) = (0, 0);
    for name in &segments {
        let length = disk
            .open(name)
            .and_then(|file| file.length())
            .map_err(CheckError::io("read", &path.join(name)))?;
        bytes += length;
        longest = longest.max(length);
    }
    let mut options = config.wal.options();
    // The node may be set up with longer ones.
    options.segment_bytes = options.segment_bytes.max(longest);
    let report = |found: &Recovery, damage| LogReport {
        segments: segments.len(),
        bytes,
        entries: found.entries_read,
        torn_tail: found.dropped_tail,
        damage,
    };
    if segments.is_empty() {
        let none = Recovery::default();
        let gone = "there is no segment, though the node has an identity".to_owned();
        return Ok((report(&none, vec![gone]), none));
    }
    let found = wal::inspect(&disk, identity, &options, store)?;
    Ok((report(&found, found.damage.clone()), found))
}

fn replicas(found: &Recovery) -> Vec<Replica> {
    let all = found.partitions.iter();
    all.filter_map(|one| {
        Some(Replica {
            partition: one.meta.partition.0,
            replica: one.meta.replica?.0,
            entries: one.entries.len(),
            corrupt: one.corrupt,
            mendable: one.missing.is_some(),
        })
    })
    .collect()
}

/// What the store may change, copied, and links to the rest. Removed when it is dropped.
struct Copy {
    folder: PathBuf,
    bytes: u64,
}

impl Copy {
    fn of_store(state: &Path, scratch: &Path) -> Result<Self, CheckError> {
        let folder = scratch.join(format!("cairn-check-{}", Uuid::new_v4()));
        fs::create_dir(&folder).map_err(CheckError::io("make", &folder))?;
        let mut copy = Self { folder, bytes: 0 };
        if state.exists() {
            let state = state
                .canonicalize()
                .map_err(CheckError::io("find", state))?;
            let to = copy.store();
            copy.tree(&state, &to, false)?;
        }
        Ok(copy)
    }

    fn store(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn tree(&mut self, from: &Path, to: &Path, written_once: bool) -> Result<(), CheckError> {
        fs::create_dir(to).map_err(CheckError::io("make", to))?;
        let entries = fs::read_dir(from).map_err(CheckError::io("list", from))?;
        for entry in entries {
            let entry = entry.map_err(CheckError::io("list", from))?;
            let (path, target) = (entry.path(), to.join(entry.file_name()));
            let about = entry.metadata().map_err(CheckError::io("look at", &path))?;
            if about.is_dir() {
                let name = entry.file_name();
                let once = WRITTEN_ONCE.iter().any(|folder| name == *folder);
                self.tree(&path, &target, once)?;
                continue;
            }
            self.bytes += about.len();
            if written_once {
                symlink(&path, &target).map_err(CheckError::io("link to", &path))?;
            } else {
                fs::copy(&path, &target).map_err(CheckError::io("copy", &path))?;
            }
        }
        Ok(())
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "remove the copy");
        }
    }
}
