//! The images under test, made of the binaries that cargo built.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::binary;

/// The tag of the images that the tests use, which is that of `make images`: who runs the
/// tests on another cluster loads what that made there first.
pub const TAG: &str = env!("CARGO_PKG_VERSION");

/// The tag of the nodes' image with the earlier build.
pub const EARLIER_TAG: &str = "earlier";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../images/build");

/// Makes the images and returns their archives. The operator's is left out where its binary
/// is not there.
///
/// # Errors
/// Where one cannot be made.
pub fn build() -> Result<Vec<PathBuf>> {
    let cairn = binary::cairn()?;
    let mut command = script(TAG, &cairn.with_file_name("images"), cairn);
    command
        .env("CAIRN_OPERATOR_BIN", cairn.with_file_name("cairn-operator"))
        .env("CAIRN_LOAD_BIN", cairn.with_file_name("cairn-load"));
    run(command)
}

/// The same of the nodes' image alone, with the build that the tests upgrade from; nothing
/// where there is none.
///
/// # Errors
/// As [`build`].
pub fn build_earlier() -> Result<Vec<PathBuf>> {
    let Some(earlier) = binary::earlier()? else {
        return Ok(Vec::new());
    };
    let out = binary::cairn()?.with_file_name("images-earlier");
    let mut command = script(EARLIER_TAG, &out, &earlier);
    command.arg("node");
    run(command)
}

fn script(tag: &str, out: &Path, cairn: &Path) -> Command {
    let mut command = Command::new(SCRIPT);
    command
        .args(["--profile", "dev", "--tag", tag, "--out"])
        .arg(out)
        .env("CAIRN_BIN", cairn);
    command
}

fn run(mut command: Command) -> Result<Vec<PathBuf>> {
    let done = command.output().with_context(|| format!("run {SCRIPT}"))?;
    ensure!(
        done.status.success(),
        "{SCRIPT}: {}",
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
