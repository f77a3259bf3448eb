//! The binaries under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

/// The path of `cairn`: `CAIRN_BIN`, or the one that cargo builds beside this test.
///
/// # Errors
/// Where it cannot be built.
pub fn cairn() -> Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(|| find().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(reason) => anyhow::bail!("{reason}"),
    }
}

/// The path of `cairn-operator`: beside `cairn`.
///
/// # Errors
/// Where there is none.
pub fn operator() -> Result<PathBuf> {
    let path = cairn()?.with_file_name("cairn-operator");
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}

/// The `cairn` of an earlier commit, to upgrade from and to go back to: `CAIRN_EARLIER_BIN`, or
/// what `ci/earlier-build` has built. Nothing where it did not.
///
/// # Errors
/// Where what is named is not there.
pub fn earlier() -> Result<Option<PathBuf>> {
    if let Some(path) = std::env::var_os("CAIRN_EARLIER_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "CAIRN_EARLIER_BIN={} is no file",
            path.display()
        );
        return Ok(Some(path));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ci/earlier-build");
    let looked = Command::new(&script).arg("--look").output();
    let looked = looked.with_context(|| format!("run {}", script.display()))?;
    if looked.status.code() == Some(3) {
        return Ok(None);
    }
    ensure!(
        looked.status.success(),
        "{}: {}",
        script.display(),
        String::from_utf8_lossy(&looked.stderr)
    );
    let path = String::from_utf8(looked.stdout)?;
    Ok(Some(PathBuf::from(path.trim_end())))
}

fn find() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAIRN_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "CAIRN_BIN={} is no file", path.display());
        return Ok(path);
    }
    // target/debug/deps/scenarios-0123 -> target/debug/cairn
    let test = std::env::current_exe().context("find this test's own path")?;
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("this test lies in no target directory")?;
    // The same selection as `ci/run-tests` builds, so that this is a look, not a build.
    let mut build = Command::new(env!("CARGO"));
    build
        .args([
            "build",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--locked",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    // What cargo told this test about itself is watched by build scripts (ring's): they,
    // and all that needs them, would be built again, now and after the test once more.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            build.env_remove(&name);
        }
    }
    let status = build.status().context("run cargo build")?;
    ensure!(status.success(), "cargo build failed");
    let path = profile.join("cairn");
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}
