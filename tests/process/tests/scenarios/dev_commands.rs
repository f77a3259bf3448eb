//! `cairn dev add`, `stop`, `start`, `wipe` and `remove`, asked of a `cairn dev` that runs.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::resp::{ClusterClient, Patience, Reply, Routes};
use cairn_process_tests::{cli, waiting};
use serde_json::Value;
use tempfile::TempDir;

use crate::dev::{Dev, cairn, parent, refused};

const KEYS: u32 = 60;

/// `cairn dev` with a command for the cluster in a directory.
fn asking(directory: &Path, words: &[&str]) -> Result<Command> {
    let mut command = cairn(&["dev"])?;
    command
        .args(words)
        .args(["--timeout", "60", "-o", "json", "--data-dir"])
        .arg(directory);
    Ok(command)
}

/// Runs a command that is to succeed, and returns what it printed as JSON.
fn done(command: Command) -> Result<Value> {
    let printed = cli::done(command, BOUND * 2)?;
    serde_json::from_str(&printed).with_context(|| format!("no JSON: {printed}"))
}

/// A field of the node of that name, as `cairn dev list` tells it.
fn told(directory: &Path, name: &str, field: &str) -> Result<Value> {
    let all = done(asking(directory, &["list"])?)?;
    let mut all = all.as_array().context("a list")?.iter();
    let node = all.find(|node| node["name"] == name);
    Ok(node.with_context(|| format!("no {name}"))?[field].clone())
}

fn pid(directory: &Path, name: &str) -> Result<Option<u32>> {
    let pid = told(directory, name, "pid")?;
    Ok(pid.as_u64().map(u32::try_from).transpose()?)
}

fn says(said: &str, words: &str) -> Result<()> {
    ensure!(said.contains(words), "it does not say `{words}`: {said}");
    Ok(())
}

/// Writes every key with a value of that round, or reads it back.
struct Keys(Vec<String>);

impl Keys {
    fn each(&self, mut act: impl FnMut(&str) -> (Vec<Vec<u8>>, Reply)) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut client = ClusterClient::new(Routes::new(self.0.clone()), Patience::default());
        for number in 0..KEYS {
            let key = format!("kept:{number}");
            let (words, expected) = act(&key);
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let what = format!("{key} to be answered");
            let reply = waiting::until(&what, BOUND, || {
                Ok(Some(runtime.block_on(client.call(&key, &words))?))
            })?;
            ensure!(reply == expected, "{key}: {reply:?}");
        }
        Ok(())
    }

    fn write(&self, round: u32) -> Result<()> {
        self.each(|key| {
            let value = format!("{key} in round {round}");
            let words = ["SET", key, &value].map(|word| word.as_bytes().to_vec());
            (words.to_vec(), Reply::Simple("OK".to_owned()))
        })
    }

    fn read(&self, round: u32) -> Result<()> {
        self.each(|key| {
            let value = format!("{key} in round {round}");
            let words = ["GET", key].map(|word| word.as_bytes().to_vec());
            (words.to_vec(), Reply::Bulk(Some(value.into_bytes())))
        })
    }
}

#[test]
fn nodes_of_a_running_cairn_dev_are_added_stopped_started_and_wiped() -> Result<()> {
    let home = TempDir::with_prefix("cairn-dev-")?;
    let directory = home.path();
    let words = [
        "--coordinators",
        "3",
        "--data-nodes",
        "3",
        "--partitions",
        "16",
        "--restart-delay-ms",
        "0",
    ];
    let dev = Dev::start(directory, &words)?;
    // Any of them may be asked for the way: the first three are never removed.
    let keys = |dev: &Dev| {
        let ports = dev.port..dev.port + 3;
        Keys(ports.map(|port| format!("127.0.0.1:{port}")).collect())
    };
    keys(&dev).write(1)?;

    // A further node is one of the cluster's, with what was said of it.
    let added = done(asking(
        directory,
        &["add", "--zone", "b", "--weight", "50"],
    )?)?;
    ensure!(
        added[0]["name"] == "data-4" && added[0]["zone"] == "b",
        "{added}"
    );
    ensure!(dev.children()?.len() == 7, "{:?}", dev.children()?);
    let coordinator = told(directory, "coordinator-1", "client")?;
    let endpoint = format!("127.0.0.1:{coordinator}");
    let admitted = || -> Result<Value> {
        let nodes = done(cairn(&["nodes", "-o", "json", "--endpoints", &endpoint])?)?;
        let mut data = nodes["nodes"].as_array().context("nodes")?.iter();
        let found = data.find(|node| node["name"] == "data-4");
        Ok(found.context("no data-4")?.clone())
    };
    let node = admitted()?;
    ensure!(node["zone"] == "b" && node["health"] == "up", "{node}");

    // What is stopped stays stopped, while what dies is started again.
    let stopped = pid(directory, "data-1")?.context("it runs")?;
    let answer = done(asking(directory, &["stop", "data-1"])?)?;
    ensure!(answer[0]["state"] == "stopped", "{answer}");
    ensure!(parent(stopped).is_none(), "{stopped} runs");
    let killed = pid(directory, "data-4")?.context("it runs")?;
    // SAFETY: `kill` takes two integers; the number is that of a child of the
    // `cairn dev` of this test, which alone waits for it.
    let result = unsafe { libc::kill(i32::try_from(killed)?, libc::SIGKILL) };
    ensure!(result == 0, "{}", std::io::Error::last_os_error());
    waiting::until("the killed node to run again", BOUND, || {
        let now = pid(directory, "data-4")?;
        Ok(now.filter(|&now| now != killed).map(drop))
    })?;
    ensure!(pid(directory, "data-1")?.is_none(), "data-1 runs");
    keys(&dev).write(2)?;

    // Who asks for what cannot be is told why.
    says(
        &refused(asking(directory, &["stop", "data-1"])?)?,
        "data-1 is stopped already",
    )?;
    says(
        &refused(asking(directory, &["start", "data-2"])?)?,
        "data-2 runs already (pid ",
    )?;
    let said = refused(asking(directory, &["start", "data-9"])?)?;
    says(&said, "there is no node data-9")?;
    says(&said, "coordinator-1, coordinator-2, coordinator-3, data-1")?;
    says(
        &refused(asking(directory, &["remove", "coordinator-1", "--yes"])?)?,
        "is a coordinator",
    )?;
    says(
        &refused(asking(directory, &["remove", "data-4", "--yes"])?)?,
        "cairn nodes drain data-4 --wait",
    )?;

    // With a copy out of reach the disk of another one is not given away.
    let wipe = || asking(directory, &["wipe", "data-2", "--yes"]);
    says(&refused(wipe()?)?, "data-2 may have the last copies")?;
    done(asking(directory, &["start", "data-1"])?)?;
    let mark = directory.join("data-2").join("of-the-old-disk");
    fs::write(&mark, "")?;
    waiting::until("enough copies for a wipe", BOUND * 2, || {
        done(wipe()?).map(Some)
    })?;
    ensure!(!mark.exists(), "the disk is the old one");
    keys(&dev).read(2)?;
    // Once the wiped one is full again, the others can be done without.
    let wipe = || asking(directory, &["wipe", "data-3", "--yes"]);
    waiting::until("the wiped node to be full again", BOUND * 2, || {
        done(wipe()?).map(Some)
    })?;
    keys(&dev).read(2)?;

    // A coordinator can be away too.
    done(asking(directory, &["stop", "coordinator-1", "--kill"])?)?;
    says(
        &refused(asking(directory, &["wipe", "coordinator-2", "--yes"])?)?,
        "1 of 3 coordinators run",
    )?;
    keys(&dev).write(3)?;
    done(asking(directory, &["start", "coordinator-1"])?)?;

    // All of them are there after a restart, what was stopped too.
    done(asking(directory, &["stop", "data-1", "--kill"])?)?;
    let status = dev.stop()?;
    ensure!(status.success(), "it ended with {status}");
    says(&refused(asking(directory, &["list"])?)?, "does not run")?;
    let dev = Dev::start(directory, &["--data-nodes", "3"])?;
    ensure!(dev.children()?.len() == 7, "{:?}", dev.children()?);
    keys(&dev).read(3)?;

    // One that is removed is not.
    done(asking(
        directory,
        &["remove", "data-4", "--yes", "--force"],
    )?)?;
    ensure!(!directory.join("data-4").exists(), "its disk is there");
    ensure!(dev.children()?.len() == 6, "{:?}", dev.children()?);
    keys(&dev).read(3)?;
    dev.stop()?;
    let dev = Dev::start(directory, &[])?;
    ensure!(dev.children()?.len() == 6, "{:?}", dev.children()?);
    keys(&dev).read(3)
}
