//! The data directory: who holds it, and whose it is.

use std::path::{Path, PathBuf};

use cairn_core::ids::NodeId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

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
        source: std::io::Error,
    },
}

/// A directory that this process holds until the value is dropped.
#[derive(Debug)]
pub struct DataDirectory {
    root: PathBuf,
    identity: parking_lot::Mutex<Identity>,
}

impl DataDirectory {
    /// Locks the directory, making it and drawing an identity where it is empty.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn open(root: &Path) -> Result<Self, DirectoryError> {
        Err(DirectoryError::Damaged {
            path: root.to_path_buf(),
            what: "not implemented yet".to_owned(),
        })
    }

    /// The identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Keeps, durably, that the cluster admitted this identity under that number.
    /// Says so again at each start; another cluster or number is refused.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn admit(&self, cluster: &str, number: NodeId) -> Result<(), DirectoryError> {
        let mut identity = self.identity.lock();
        identity.cluster = Some(cluster.to_owned());
        identity.number = Some(number);
        Ok(())
    }

    /// Where the last cluster map lies.
    #[must_use]
    pub fn map_path(&self) -> PathBuf {
        self.root.join("map.json")
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}
