//! The programs under test, which cargo builds beside this one.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use cairn_process_tests::binary;

/// The `kube-lab` command: `CAIRN_KUBE_LAB_BIN`, or the one beside `cairn`.
///
/// # Errors
/// Where it is not there.
pub fn kube_lab() -> Result<PathBuf> {
    let path = match std::env::var_os("CAIRN_KUBE_LAB_BIN") {
        Some(path) => path.into(),
        None => binary::cairn()?.with_file_name("kube-lab"),
    };
    ensure!(path.is_file(), "{} is no file", path.display());
    Ok(path)
}
