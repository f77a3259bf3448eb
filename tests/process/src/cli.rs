//! The command line, as a person types it.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{binary, waiting};

/// `cairn` with nothing of the tester's own settings, which dies with the test.
///
/// # Errors
/// Where there is no binary.
pub fn cairn(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary::cairn()?);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CAIRN_") {
            command.env_remove(name);
        }
    }
    command.args(words).stdin(Stdio::null());
    leashed(&mut command);
    Ok(command)
}

/// Has what the command starts die with the thread that starts it.
pub fn leashed(command: &mut Command) {
    // SAFETY: between fork and exec only `prctl` is called, which is
    // async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}

/// What became of a command that says little.
struct Ended {
    status: ExitStatus,
    printed: String,
    said: String,
}

fn run(command: &mut Command, bound: Duration) -> Result<Ended> {
    let mut process = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let (output, errors) = (process.stdout.take(), process.stderr.take());
    let (mut output, mut errors) = output.zip(errors).context("its pipes")?;
    let status = waiting::until(&format!("{command:?} to end"), bound, || {
        Ok(process.try_wait()?)
    });
    if status.is_err() {
        let _ = process.kill();
        let _ = process.wait();
    }
    let (mut printed, mut said) = (String::new(), String::new());
    output.read_to_string(&mut printed)?;
    errors.read_to_string(&mut said)?;
    Ok(Ended {
        status: status.with_context(|| format!("it said: {said}"))?,
        printed,
        said,
    })
}

/// Runs it where it is to be done within `bound`, and returns what it printed.
///
/// # Errors
/// Where it fails; says what it said.
pub fn done(mut command: Command, bound: Duration) -> Result<String> {
    let ended = run(&mut command, bound)?;
    ensure!(
        ended.status.success(),
        "{command:?} ended with {}: {}",
        ended.status,
        ended.said
    );
    Ok(ended.printed)
}

/// Runs it where it is to refuse within `bound`, and returns what it said.
///
/// # Errors
/// Where it does not.
pub fn refused(mut command: Command, bound: Duration) -> Result<String> {
    let ended = run(&mut command, bound)?;
    ensure!(
        !ended.status.success(),
        "{command:?} ended as if nothing had happened: {}",
        ended.said
    );
    Ok(ended.said)
}
