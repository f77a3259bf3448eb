//! The tutorial, from its first command to its last.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_process_tests::runbook::{Runbook, shell};
use cairn_process_tests::{cli, skip};
use tempfile::TempDir;

/// How long all of it may take.
const BOUND: Duration = Duration::from_secs(300);

#[test]
fn every_command_of_the_tutorial_does_what_it_says_there() -> Result<()> {
    // Its ports are those of every cluster that anybody has on this machine.
    let alone = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let mut tried = Command::new("unshare");
    tried.args(alone).args(["redis-cli", "--version"]);
    if !tried.output().is_ok_and(|done| done.status.success()) {
        return skip::without(
            "the tutorial needs redis-cli, unshare and the right to make namespaces",
        );
    }
    let program = Runbook::page("tutorial.md")?.program();
    let home = TempDir::new()?;
    std::fs::write(home.path().join("tutorial"), program)?;
    let inner = shell("exec 1>&2\nip link set lo up\nsource ./tutorial")?;
    let mut command = Command::new("unshare");
    command
        .args(alone)
        .arg(inner.get_program())
        .args(inner.get_args())
        .env_clear();
    for (name, value) in inner.get_envs() {
        command.env(name, value.unwrap_or_default());
    }
    command.env("HOME", home.path()).current_dir(home.path());
    cli::leashed(&mut command);
    let began = Instant::now();
    cli::done(command, BOUND).context("the tutorial")?;
    println!("the tutorial took {:.1?}", began.elapsed());
    Ok(())
}
