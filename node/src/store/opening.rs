//! Opens the store, whatever a crash or a lying disk made of it.
//!
//! The store is made of the log and of other replicas; what it holds alone is nothing.
//! So a store that is damaged past use is set aside, and an empty one takes its place:
//! recovery finds applied marks below what the log still has, and the replicas that
//! this concerns count as absent until they are replaced (rule 12). Everything else
//! that keeps it from opening, a newer format, another node's store, a refusal of the
//! operating system, is left for a person to see, and nothing is touched.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use cairn_storage::format::segment_header::LogIdentity;
use cairn_storage::state;
use cairn_storage::store::StoreError;

use super::journal_check::{Cut, Journals, Settled, settle};
use super::{FjallStore, StorageConfig, StorageError};

/// What stands behind the store's name, and a number, where it was set aside.
const SET_ASIDE: &str = ".damaged-";
/// fjall's marker: three letters, and the number of its format. It is written last
/// when a store is made.
const MARKER: &str = "version";
const MARKER_LETTERS: &[u8] = b"FJL";
const MARKER_FORMAT: u8 = 3;
/// Where fjall keeps its tables.
const TABLES: &str = "keyspaces";

/// Why a store did not open.
enum Failure {
    /// It is damaged, and stays so.
    Damaged(String),
    /// Something else.
    Refused(StorageError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.damaged {
            Self::Damaged(error.to_string())
        } else {
            Self::Refused(error.into())
        }
    }
}

impl Failure {
    fn into_error(self) -> StorageError {
        match self {
            Self::Damaged(why) => StorageError::Damaged(why),
            Self::Refused(error) => error,
        }
    }

    fn io(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Refused(StorageError::Io { action, source })
    }
}

/// Opens the store at `path`, or an empty one in its place where it is damaged. What
/// it reads is durable afterwards.
///
/// # Errors
/// See [`StorageError`].
pub(super) fn open_store(
    path: &Path,
    identity: &LogIdentity,
    config: &StorageConfig,
) -> Result<FjallStore, StorageError> {
    let why = match try_open(path, identity, config) {
        Ok(store) => return Ok(store),
        Err(Failure::Refused(error)) => return Err(error),
        Err(Failure::Damaged(why)) => why,
    };
    let aside = set_aside(path).map_err(StorageError::io("set the damaged store aside"))?;
    metrics::counter!("cairn_stores_set_aside_total").increment(1);
    tracing::error!(
        why,
        aside = %aside.display(),
        "the store is damaged: it is set aside, and replicas whose state the log cannot make \
         anew are replaced from others"
    );
    try_open(path, identity, config).map_err(Failure::into_error)
}

/// What a look at a store found, which was changed by it: it is to be a copy.
#[derive(Debug)]
pub(crate) struct Looked {
    /// The store, or an empty one where it is damaged past use.
    pub(crate) store: FjallStore,
    /// Where its journals end before their time.
    pub(crate) cut: Option<Cut>,
    /// Why it is damaged past use, if it is.
    pub(crate) unusable: Option<String>,
}

/// Opens a copy of a store as [`open_store`] does, and says what it finds instead of
/// counting and logging it.
///
/// # Errors
/// See [`StorageError`].
pub(crate) fn look_at_copy(
    path: &Path,
    identity: &LogIdentity,
    config: &StorageConfig,
) -> Result<Looked, StorageError> {
    let cut = Journals::read(path)
        .map_err(StorageError::io("read the store's journals"))?
        .cut();
    match try_open(path, identity, config) {
        Ok(store) => Ok(Looked {
            store,
            cut,
            unusable: None,
        }),
        Err(Failure::Damaged(why)) => {
            set_aside(path).map_err(StorageError::io("set the damaged copy aside"))?;
            Ok(Looked {
                store: try_open(path, identity, config).map_err(Failure::into_error)?,
                cut,
                unusable: Some(why),
            })
        }
        Err(failure) => Err(failure.into_error()),
    }
}

fn try_open(
    path: &Path,
    identity: &LogIdentity,
    config: &StorageConfig,
) -> Result<FjallStore, Failure> {
    look_at_marker(path)?;
    let settled = settle(path).map_err(Failure::io("check the store's journals"))?;
    report(&settled);
    let store = FjallStore::open(path, config)?;
    check_stamp(&store, identity)?;
    // Recovery reads these first, and nobody serves a partition without them.
    for generation in state::generations(&store)? {
        state::lineage(&store, generation)?;
    }
    Ok(store)
}

/// Tells a store that was never finished, which fjall cannot go on with, from one that
/// lost its marker, and a newer fjall's from a damaged one.
fn look_at_marker(path: &Path) -> Result<(), Failure> {
    match fs::read(path.join(MARKER)) {
        Ok(marker) => match marker.strip_prefix(MARKER_LETTERS) {
            Some([MARKER_FORMAT, ..]) => Ok(()),
            Some([found, ..]) => Err(Failure::Refused(StorageError::Format {
                found: u32::from(*found),
                known: u32::from(MARKER_FORMAT),
            })),
            _ => Err(Failure::Damaged("its marker is damaged".to_owned())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let unfinished =
                remove_unfinished(path).map_err(Failure::io("remove an unfinished store"))?;
            if unfinished || !path.exists() {
                Ok(())
            } else {
                Err(Failure::Damaged("its marker is missing".to_owned()))
            }
        }
        Err(error) => Err(Failure::io("read the store's marker")(error)),
    }
}

/// Removes what there is of a fjall database that was not finished when it was made, and
/// with which fjall cannot go on. `true` where there was one.
///
/// # Errors
/// What the operating system says.
pub(crate) fn remove_unfinished(path: &Path) -> io::Result<bool> {
    if !path.exists() || path.join(MARKER).exists() || holds_tables(path)? {
        return Ok(false);
    }
    // fjall makes the tables' places after the marker: nothing was written yet.
    tracing::warn!("the database was not finished when it was made: it is made again");
    fs::remove_dir_all(path)?;
    Ok(true)
}

fn holds_tables(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path.join(TABLES)) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn check_stamp(store: &FjallStore, wanted: &LogIdentity) -> Result<(), Failure> {
    let found = state::stamp(store)?;
    if let Some(found) = &found {
        let same_node = found.node == wanted.node && found.incarnation == wanted.incarnation;
        let same_cluster = found.cluster.is_empty()
            || wanted.cluster.is_empty()
            || found.cluster == wanted.cluster;
        if !same_node || !same_cluster {
            let words = |identity: &LogIdentity| {
                format!(
                    "node {:032x}, incarnation {:032x}, cluster {:?}",
                    identity.node, identity.incarnation, identity.cluster
                )
            };
            return Err(Failure::Refused(StorageError::Foreign {
                found: words(found),
                wanted: words(wanted),
            }));
        }
    }
    // A cluster that admitted the node since is written down; one that is known is not
    // forgotten.
    let known = found.is_some_and(|f| f.cluster == wanted.cluster || wanted.cluster.is_empty());
    if !known {
        state::write_stamp(store, wanted)?;
    }
    Ok(())
}

fn report(settled: &Settled) {
    let Some(cut) = &settled.cut else {
        return;
    };
    if cut.is_torn_tail() {
        tracing::info!(
            journal = cut.journal,
            at = cut.at,
            what = cut.what,
            "cut the end of the store's journal, as a power loss leaves it"
        );
    } else {
        metrics::counter!("cairn_store_journals_damaged_total").increment(1);
        tracing::error!(
            journal = cut.journal,
            at = cut.at,
            what = cut.what,
            removed = cut.removed,
            "a journal of the store is damaged: what follows it is cut, and made anew from the \
             log or from other replicas"
        );
    }
}

/// Moves the store away; returns where. Of those set aside the newest is kept.
fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let before = all_set_aside(path)?;
    let number = before.last().map_or(1, |(number, _)| number + 1);
    let mut name = path.as_os_str().to_owned();
    name.push(format!("{SET_ASIDE}{number}"));
    let aside = PathBuf::from(name);
    fs::rename(path, &aside)?;
    if let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    for (_, older) in before {
        fs::remove_dir_all(older)?;
    }
    Ok(aside)
}

/// What was set aside, by number.
fn all_set_aside(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|other| {
            let number = other.strip_prefix(name)?.strip_prefix(SET_ASIDE)?;
            number.parse().ok()
        });
        if let Some(number) = number {
            found.push((number, entry.path()));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Removes what was set aside: evidence for a person, and the first to go where room
/// is wanted. `true` where there was any.
///
/// # Errors
/// What the operating system says.
pub(super) fn remove_set_aside(path: &Path) -> io::Result<bool> {
    let found = all_set_aside(path)?;
    for (_, aside) in &found {
        fs::remove_dir_all(aside)?;
    }
    Ok(!found.is_empty())
}
