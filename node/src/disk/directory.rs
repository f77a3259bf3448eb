//! The data directory: who holds it, and whose it is.
//!
//! `LOCK` is held by one process at a time and names it. `identity.json` says who
//! the node is; it gets that name only once the log and the store exist, so that a
//! directory with an identity and without a log has lost it, and is refused (rule
//! 12: an empty disk is a new replica, never "head 0").

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cairn_core::ids::NodeId;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The format of the identity file, and of the directory's layout.
const FORMAT: u32 = 1;
const LOCK: &str = "LOCK";
/// For how long a lock that somebody has is tried again.
const LOCK_PATIENCE: Duration = Duration::from_millis(400);
const IDENTITY: &str = "identity.json";
/// The identity while the log and the store are made.
const UNFINISHED: &str = "identity.new";
const LOG: &str = "wal";
const STATE: &str = "state";
const MAP: &str = "map.json";
/// How much of a file of ours is read at most.
const SMALL_FILE_BYTES: u64 = 64 << 10;

/// Who a node is. Drawn when an empty directory is first used, and living only
/// there (design.md, "identity").
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node: Uuid,
    /// This life of its disk.
    pub incarnation: Uuid,
    /// The cluster that admitted it, once one has.
    pub cluster: Option<String>,
    /// The number under which that cluster admitted it.
    pub number: Option<NodeId>,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format: u32,
    identity: Identity,
}

#[derive(Deserialize)]
struct FormatOnly {
    format: u32,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("the data directory {path} is in use by process {holder}")]
    Locked {
        /// Which directory.
        path: PathBuf,
        /// The holder's process id, or "unknown".
        holder: String,
    },
    /// Something is missing or unreadable that the rest cannot be used without.
    #[error("the data directory {path} is damaged: {what}")]
    Damaged {
        /// Which directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Made by a newer build.
    #[error(
        "the data directory {path} has format {found}, which is newer than this build, \
         which reads up to {FORMAT}"
    )]
    Newer {
        /// Which directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It belongs to another cluster, or to another node of this one.
    #[error("the data directory {path} belongs to {owner}, not to {wanted}")]
    Foreign {
        /// Which directory.
        path: PathBuf,
        /// Whose it is.
        owner: String,
        /// Who asked for it.
        wanted: String,
    },
    /// The operating system refused something.
    #[error("{action} {path}: {source}")]
    Io {
        /// Verb and object.
        action: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DirectoryError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}

#[derive(Debug)]
struct Held {
    identity: Identity,
    established: bool,
}

/// A directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    root: PathBuf,
    held: parking_lot::Mutex<Held>,
    /// The lock goes with it.
    _lock: File,
}

impl DataDirectory {
    /// Locks the directory, making it and drawing an identity where it is empty.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        create_durably(root)?;
        let root = root
            .canonicalize()
            .map_err(DirectoryError::io("find", root))?;
        let lock = lock(&root)?;
        // A disk that does not answer must not pass for an empty one.
        let held = if exists(&root.join(IDENTITY))? {
            Held {
                identity: read_identity(&root, IDENTITY)?,
                established: true,
            }
        } else {
            begin(&root)?
        };
        Ok(Self {
            root,
            held: parking_lot::Mutex::new(held),
            _lock: lock,
        })
    }

    /// The identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.held.lock().identity.clone()
    }

    /// Keeps, durably, that the cluster admitted this identity under that number.
    /// Says so again at each start; another cluster or number is refused.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn admit(&self, cluster: &str, number: NodeId) -> Result<(), DirectoryError> {
        let mut held = self.held.lock();
        let known = (held.identity.cluster.as_deref(), held.identity.number);
        if known == (Some(cluster), Some(number)) {
            return Ok(());
        }
        let same_cluster = known.0.is_none_or(|c| c == cluster);
        let same_number = known.1.is_none_or(|n| n == number);
        if !same_cluster || !same_number {
            let words = |cluster: Option<&str>, number: Option<NodeId>| {
                let number = number.map_or_else(|| "?".to_owned(), |n| n.0.to_string());
                format!("node {number} of cluster {}", cluster.unwrap_or("?"))
            };
            return Err(DirectoryError::Foreign {
                path: self.root.clone(),
                owner: words(known.0, known.1),
                wanted: words(Some(cluster), Some(number)),
            });
        }
        let identity = Identity {
            cluster: Some(cluster.to_owned()),
            number: Some(number),
            ..held.identity.clone()
        };
        let name = if held.established {
            IDENTITY
        } else {
            UNFINISHED
        };
        write_identity(&self.root, name, &identity)?;
        held.identity = identity;
        Ok(())
    }

    /// Whether the log and the store of this identity were once made.
    #[must_use]
    pub fn is_established(&self) -> bool {
        self.held.lock().established
    }

    /// To be called once the log and the store exist: from here on the directory is
    /// refused without them.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn establish(&self) -> Result<(), DirectoryError> {
        let mut held = self.held.lock();
        if !held.established {
            let from = self.root.join(UNFINISHED);
            fs::rename(&from, self.root.join(IDENTITY))
                .map_err(DirectoryError::io("rename", &from))?;
            sync_directory(&self.root)?;
            held.established = true;
        }
        Ok(())
    }

    /// Where the last cluster map lies.
    #[must_use]
    pub fn map_path(&self) -> PathBuf {
        self.root.join(MAP)
    }

    /// Where the write-ahead log lies.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.root.join(LOG)
    }

    /// Where the store lies.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.root.join(STATE)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn damaged(&self, what: &str) -> DirectoryError {
        DirectoryError::Damaged {
            path: self.root.clone(),
            what: what.to_owned(),
        }
    }
}

/// The directory of a node that does not run, to be read and nothing else. None starts on it
/// until the value is dropped.
#[derive(Debug)]
pub struct StoppedDirectory {
    root: PathBuf,
    identity: Identity,
    /// The lock goes with it, where there was a file to lock.
    _lock: Option<File>,
}

impl StoppedDirectory {
    /// Locks the directory without writing to it.
    ///
    /// # Errors
    /// See [`DirectoryError`]; also where no node has ever used it.
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        let root = root
            .canonicalize()
            .map_err(DirectoryError::io("find", root))?;
        let lock = hold(&root)?;
        if !exists(&root.join(IDENTITY))? {
            return Err(DirectoryError::Damaged {
                what: format!("it has no {IDENTITY}: no data node has used it"),
                path: root,
            });
        }
        let identity = read_identity(&root, IDENTITY)?;
        Ok(Self {
            root,
            identity,
            _lock: lock,
        })
    }

    /// The identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where the write-ahead log lies.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.root.join(LOG)
    }

    /// Where the store lies.
    #[must_use]
    pub fn state_path(&self) -> PathBuf {
        self.root.join(STATE)
    }
}

/// Holds a directory against processes that would write to it, without writing to it. A
/// directory without a file to lock is in nobody's use.
pub(crate) fn hold(root: &Path) -> Result<Option<File>, DirectoryError> {
    let path = root.join(LOCK);
    if !exists(&path)? {
        return Ok(None);
    }
    let mut file = File::open(&path).map_err(DirectoryError::io("open", &path))?;
    take(&mut file, root, &path)?;
    Ok(Some(file))
}

fn exists(path: &Path) -> Result<bool, DirectoryError> {
    path.try_exists().map_err(DirectoryError::io("find", path))
}

/// Makes the directory and those above it that are missing, so that a power loss leaves
/// them: each stands in the one above it, which is flushed.
fn create_durably(root: &Path) -> Result<(), DirectoryError> {
    let mut missing = Vec::new();
    for path in root.ancestors() {
        if path.as_os_str().is_empty() || exists(path)? {
            break;
        }
        missing.push(path);
    }
    fs::create_dir_all(root).map_err(DirectoryError::io("create", root))?;
    for path in missing.into_iter().rev() {
        let above = path.parent().filter(|p| !p.as_os_str().is_empty());
        sync_directory(above.unwrap_or(Path::new(".")))?;
    }
    Ok(())
}

/// Holds an existing directory for this process for as long as the file is open.
pub(crate) fn lock(root: &Path) -> Result<File, DirectoryError> {
    let path = root.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(DirectoryError::io("open", &path))?;
    take(&mut file, root, &path)?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(DirectoryError::io("write", &path))?;
    Ok(file)
}

/// Takes the lock, or says who has it. A process that is just ending, and one that is between
/// `fork` and `exec`, hold it for a moment longer than anybody means to.
fn take(file: &mut File, root: &Path, path: &Path) -> Result<(), DirectoryError> {
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_PATIENCE => {
                std::thread::park_timeout(LOCK_PATIENCE / 20);
            }
            outcome => return judge_lock(outcome, file, root, path),
        }
    }
}

fn judge_lock(
    outcome: rustix::io::Result<()>,
    file: &mut File,
    root: &Path,
    path: &Path,
) -> Result<(), DirectoryError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The holder's number is a courtesy: where it cannot be read the refusal
            // stands all the same.
            let _ = Read::by_ref(file).take(32).read_to_string(&mut holder);
            let holder = holder.trim();
            Err(DirectoryError::Locked {
                path: root.to_path_buf(),
                holder: if holder.is_empty() {
                    "unknown".to_owned()
                } else {
                    holder.to_owned()
                },
            })
        }
        Err(error) => Err(DirectoryError::io("lock", path)(error.into())),
    }
}

/// Begins, or begins again, to make a directory that has no identity yet.
fn begin(root: &Path) -> Result<Held, DirectoryError> {
    let (log, state) = (root.join(LOG), root.join(STATE));
    if exists(&root.join(UNFINISHED))? {
        // Nothing was acknowledged from here: what is there is half made. The
        // identity is kept, since a cluster may have admitted it already.
        for path in [log, state] {
            if exists(&path)? {
                fs::remove_dir_all(&path).map_err(DirectoryError::io("remove", &path))?;
            }
        }
        let identity = read_identity(root, UNFINISHED)?;
        return Ok(Held {
            identity,
            established: false,
        });
    }
    if exists(&log)? || exists(&state)? {
        return Err(DirectoryError::Damaged {
            path: root.to_path_buf(),
            what: format!("{IDENTITY} is missing, though there is data"),
        });
    }
    let identity = Identity {
        node: Uuid::new_v4(),
        incarnation: Uuid::new_v4(),
        cluster: None,
        number: None,
    };
    write_identity(root, UNFINISHED, &identity)?;
    Ok(Held {
        identity,
        established: false,
    })
}

fn read_identity(root: &Path, name: &str) -> Result<Identity, DirectoryError> {
    let path = root.join(name);
    let mut text = String::new();
    File::open(&path)
        .and_then(|file| file.take(SMALL_FILE_BYTES).read_to_string(&mut text))
        .map_err(DirectoryError::io("read", &path))?;
    let damaged = |error: serde_json::Error| DirectoryError::Damaged {
        path: root.to_path_buf(),
        what: format!("{name}: {error}"),
    };
    let FormatOnly { format } = serde_json::from_str(&text).map_err(damaged)?;
    if format > FORMAT {
        return Err(DirectoryError::Newer {
            path: root.to_path_buf(),
            found: format,
        });
    }
    let file: IdentityFile = serde_json::from_str(&text).map_err(damaged)?;
    Ok(file.identity)
}

fn write_identity(root: &Path, name: &str, identity: &Identity) -> Result<(), DirectoryError> {
    let file = IdentityFile {
        format: FORMAT,
        identity: identity.clone(),
    };
    let text = serde_json::to_string_pretty(&file).map_err(|error| DirectoryError::Damaged {
        path: root.to_path_buf(),
        what: error.to_string(),
    })?;
    let temporary = root.join(format!("{name}.tmp"));
    File::create(&temporary)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(DirectoryError::io("write", &temporary))?;
    fs::rename(&temporary, root.join(name)).map_err(DirectoryError::io("rename", &temporary))?;
    sync_directory(root)
}

fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(DirectoryError::io("flush", path))
}
