//! The cgroups that kubelets keep their pods in, in each hierarchy of cgroup v1.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::process::until;

const ROOT: &str = "/sys/fs/cgroup";
/// How long processes that were killed may take to leave.
const EMPTY: Duration = Duration::from_secs(20);

fn hierarchies() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(ROOT).with_context(|| format!("list {ROOT}"))? {
        let path = entry?.path();
        // Links such as `cpu,cpuacct` name the same hierarchy again.
        if path.is_dir() && !path.is_symlink() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes a cgroup.
///
/// # Errors
/// Where a hierarchy refuses.
pub fn create(cgroup: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let mut folder = hierarchy.clone();
        for part in Path::new(cgroup) {
            let parent = folder.clone();
            folder.push(part);
            fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
            // A new cgroup may use no processor until it is told.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if parent.join(file).exists() {
                    fs::write(folder.join(file), fs::read(parent.join(file))?)
                        .with_context(|| format!("write {file} of {}", folder.display()))?;
                }
            }
        }
    }
    Ok(())
}

/// Removes a cgroup with all that are in it, once their processes are gone.
///
/// # Errors
/// Where processes stay.
pub fn remove(cgroup: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(cgroup);
        until(
            &format!("{} to be empty", folder.display()),
            EMPTY,
            || match remove_tree(&folder) {
                Ok(()) => Ok(Some(())),
                Err(error) if error.kind() == ErrorKind::ResourceBusy => Ok(None),
                Err(error) => Err(error).with_context(|| format!("remove {}", folder.display())),
            },
        )?;
    }
    Ok(())
}

/// The folders alone: the files in them are the kernel's.
fn remove_tree(folder: &Path) -> std::io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}
