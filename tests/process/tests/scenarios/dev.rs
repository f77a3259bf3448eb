//! `cairn dev`, as a person starts it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::resp::{ClusterClient, Patience, Reply, Routes};
use cairn_process_tests::{binary, ports, waiting};
use tempfile::TempDir;

/// The command, in a directory and on ports of the test's own.
fn command(directory: &Path, port: u16, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary::cairn()?);
    command
        .args(["dev", "--resp-port", &port.to_string(), "--data-dir"])
        .arg(directory)
        .args(words)
        .env_remove("CAIRN_ROLE")
        .stdin(Stdio::null());
    // SAFETY: between fork and exec only `prctl` is called, which is
    // async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    Ok(command)
}

/// A running `cairn dev`. Dropping it kills it, and its nodes end with it.
pub(crate) struct Dev {
    process: Child,
    pub(crate) port: u16,
}

impl Dev {
    /// Starts it and waits for the line `ready`.
    pub(crate) fn start(directory: &Path, words: &[&str]) -> Result<Self> {
        let port = ports::free_run(5)?;
        let mut command = command(directory, port, words)?;
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let output = process.stdout.take().context("its output")?;
        let dev = Self { process, port };
        let (lines, said) = mpsc::channel();
        // Reads on to the end, so that the pipe never fills up.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.send(line);
            }
        });
        loop {
            let line = said
                .recv_timeout(BOUND)
                .context("wait for the line `ready`")?;
            if line == "ready" {
                return Ok(dev);
            }
        }
    }

    fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The processes that it started.
    fn children(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if parent(pid) == Some(self.pid()) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The parent of a process that still runs.
fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything but ends with the last parenthesis.
    let mut fields = status.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (state != "Z").then_some(())?;
    fields.next()?.parse().ok()
}

/// Runs it where it is to refuse, and returns what it said.
fn refused(directory: &Path, words: &[&str]) -> Result<String> {
    let mut process = command(directory, ports::free_run(5)?, words)?
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = process.stderr.take().context("its errors")?;
    let status = waiting::until("cairn dev to refuse", BOUND, || Ok(process.try_wait()?))?;
    let mut said = String::new();
    stderr.read_to_string(&mut said)?;
    ensure!(
        !status.success(),
        "it ended as if nothing had happened: {said}"
    );
    Ok(said)
}

/// Sends a command about one key to whoever leads its slot.
fn call(address: &str, words: &[&str]) -> Result<Reply> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let routes = Routes::new(vec![address.to_owned()]);
    let mut client = ClusterClient::new(routes, Patience::default());
    let bytes: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    Ok(runtime.block_on(client.call(words[1], &bytes))?)
}

#[test]
fn cairn_dev_finds_its_data_again_and_its_nodes_end_with_it() -> Result<()> {
    let directory = TempDir::with_prefix("cairn-dev-")?;
    let counts = ["--coordinators", "1", "--data-nodes", "3"];
    let dev = Dev::start(directory.path(), &counts)?;
    let children = dev.children()?;
    ensure!(children.len() == 4, "it has the children {children:?}");
    let address = format!("127.0.0.1:{}", dev.port);
    waiting::until("a write", BOUND, || {
        Ok(Some(call(&address, &["SET", "greeting", "hello"])?))
    })?;

    // Another one on the same directory, and one with other counts, are refused.
    let said = refused(directory.path(), &counts)?;
    ensure!(
        said.contains(&dev.pid().to_string()),
        "it does not name the holder: {said}"
    );

    // Killed, without a chance to end its nodes itself.
    drop(dev);
    waiting::until("the nodes to end", BOUND, || {
        Ok(children
            .iter()
            .all(|&pid| parent(pid).is_none())
            .then_some(()))
    })?;
    let said = refused(directory.path(), &["--data-nodes", "4"])?;
    ensure!(
        said.contains("reset"),
        "it does not name the way out: {said}"
    );

    let dev = Dev::start(directory.path(), &[])?;
    let address = format!("127.0.0.1:{}", dev.port);
    let reply = waiting::until("a read", BOUND, || {
        Ok(Some(call(&address, &["GET", "greeting"])?))
    })?;
    ensure!(
        reply == Reply::Bulk(Some(b"hello".to_vec())),
        "the value is {reply:?}"
    );
    Ok(())
}
