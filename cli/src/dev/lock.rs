//! One `cairn dev` at a time holds a directory. The lock ends with the process that
//! holds it, however that ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::Path;

use anyhow::Context;

use super::holder::Holder;
use crate::failure::Failure;

/// Held for as long as this exists.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Takes the lock, or says who has it.
    pub(super) fn take(directory: &Path) -> Result<Self, Failure> {
        Self::attempt(directory)?.map_err(|holder| {
            Failure::refused(format!(
                "the directory {} is in use by {holder}",
                directory.display()
            ))
            .with_remedy("Stop that process first, or choose another --data-dir")
        })
    }

    /// Takes the lock, or names who has it.
    pub(super) fn attempt(directory: &Path) -> anyhow::Result<Result<Self, String>> {
        let path = directory.join("dev.lock");
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&path)
                    .ok()
                    .and_then(|text| text.trim().parse().ok())
                    .and_then(Holder::of_pid)
                    .or_else(|| Holder::of_file(&path))
                    .map_or_else(|| "another process".to_owned(), |h| h.to_string());
                return Ok(Err(holder));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(Ok(Self { file }))
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The number of a process that has ended means nothing to the next one.
        let _ = self.file.set_len(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_directory_is_refused_until_it_is_let_go() {
        let directory = std::env::temp_dir().join(format!("cairn-dev-lock-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let lock = DirectoryLock::take(&directory).expect("free");
        let refused = DirectoryLock::take(&directory)
            .expect_err("held")
            .to_string();
        assert!(
            refused.contains(&format!("process {} (", std::process::id())),
            "{refused}"
        );
        drop(lock);
        drop(DirectoryLock::take(&directory).expect("free again"));
        fs::remove_dir_all(&directory).expect("removed");
    }
}
