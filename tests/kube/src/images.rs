//! The images under test, made of the binaries that cargo built.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::binary;

/// The tag of the images that the tests use, which is that of `make images`: who runs the
/// tests on another cluster loads what that made there first.
pub const TAG: &str = env!("CARGO_PKG_VERSION");

/// Makes the images and returns their archives. The operator's is left out where its binary
/// is not there.
///
/// # Errors
/// Where one cannot be made.
pub fn build() -> Result<Vec<PathBuf>> {
    let cairn = binary::cairn()?;
    let out = cairn.with_file_name("images");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/build");
    let done = Command::new(script)
        .args(["--profile", "dev", "--tag", TAG, "--out"])
        .arg(&out)
        .env("CAIRN_BIN", cairn)
        .env("CAIRN_OPERATOR_BIN", cairn.with_file_name("cairn-operator"))
        .env("CAIRN_LOAD_BIN", cairn.with_file_name("cairn-load"))
        .output()
        .with_context(|| format!("run {script}"))?;
    ensure!(
        done.status.success(),
        "{script}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    let built = String::from_utf8_lossy(&done.stdout);
    // The path is the last word of each line that tells of an image.
    let archives = built
        .lines()
        .filter_map(|line| line.split_whitespace().last());
    Ok(archives
        .filter(|word| word.ends_with(".tar"))
        .map(PathBuf::from)
        .collect())
}
