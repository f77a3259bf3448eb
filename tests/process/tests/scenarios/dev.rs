//! `cairn dev`, as a person starts it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
pub(crate) use cairn_process_tests::cli::cairn;
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::resp::{ClusterClient, Patience, Reply, Routes};
use cairn_process_tests::{cli, ports, waiting};
use tempfile::TempDir;

/// `cairn dev`, in a directory and on ports of the test's own.
pub(crate) fn command(directory: &Path, port: u16, words: &[&str]) -> Result<Command> {
    let mut command = cairn(&["dev", "--resp-port", &port.to_string(), "--data-dir"])?;
    command.arg(directory).args(words);
    Ok(command)
}

/// A running `cairn dev`. Dropping it kills it, and its nodes end with it.
pub(crate) struct Dev {
    process: Child,
    pub(crate) port: u16,
    /// What it said before it was ready, of both its outputs.
    pub(crate) said: String,
}

impl Dev {
    /// Starts it and waits for the line `ready`.
    pub(crate) fn start(directory: &Path, words: &[&str]) -> Result<Self> {
        let port = ports::free_run(5)?;
        Self::run(command(directory, port, words)?, port)
    }

    /// Runs a command that is one, and waits for the line `ready`, alone.
    pub(crate) fn run(mut command: Command, port: u16) -> Result<Self> {
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (lines, arrived) = mpsc::channel();
        // They read on to the end, so that no pipe ever fills up.
        let output = process.stdout.take().context("its output")?;
        read_lines(output, lines.clone());
        let errors = process.stderr.take().context("its errors")?;
        read_lines(errors, lines);
        let mut dev = Self {
            process,
            port,
            said: String::new(),
        };
        loop {
            let line = arrived
                .recv_timeout(BOUND * 2)
                .with_context(|| format!("no line `ready`; it said:\n{}", dev.said))?;
            if line == "ready" {
                return Ok(dev);
            }
            dev.said.push_str(&line);
            dev.said.push('\n');
        }
    }

    /// Asks it to stop, as Ctrl-C or a service manager does, and waits for its end.
    pub(crate) fn stop(mut self) -> Result<ExitStatus> {
        // SAFETY: `kill` takes two integers; the process is our own child, not yet
        // waited for, so that its number belongs to nobody else.
        let result = unsafe { libc::kill(i32::try_from(self.pid())?, libc::SIGTERM) };
        ensure!(result == 0, "{}", std::io::Error::last_os_error());
        waiting::until("cairn dev to end", BOUND, || Ok(self.process.try_wait()?))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The processes that it started.
    pub(crate) fn children(&self) -> Result<Vec<u32>> {
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

fn read_lines(pipe: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            // Nobody listens any more once it is ready.
            let _ = lines.send(line);
        }
    });
}

/// The parent of a process that still runs.
pub(crate) fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which may hold anything but ends with the last parenthesis.
    let mut fields = status.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    (state != "Z").then_some(())?;
    fields.next()?.parse().ok()
}

/// Runs it where it is to refuse, and returns what it said.
pub(crate) fn refused(command: Command) -> Result<String> {
    cli::refused(command, BOUND)
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
    let elsewhere = ports::free_run(5)?;
    let said = refused(command(directory.path(), elsewhere, &counts)?)?;
    ensure!(
        said.contains(&dev.pid().to_string()),
        "it does not name the holder: {said}"
    );

    // So is one on the same ports, whatever its directory.
    let aside = TempDir::with_prefix("cairn-dev-")?;
    let said = refused(command(aside.path(), dev.port, &counts)?)?;
    let port = format!("{}, Redis of data-1: in use by process", dev.port);
    ensure!(
        children
            .iter()
            .any(|pid| said.contains(&format!("{port} {pid} "))),
        "it does not name who has the port: {said}"
    );

    // Killed, without a chance to end its nodes itself.
    drop(dev);
    waiting::until("the nodes to end", BOUND, || {
        Ok(children
            .iter()
            .all(|&pid| parent(pid).is_none())
            .then_some(()))
    })?;
    let others = ["--data-nodes", "4", "--coordinators", "3"];
    let said = refused(command(directory.path(), elsewhere, &others)?)?;
    for words in [
        "--data-nodes is 4, it was made with 3",
        "--coordinators is 3, it was made with 1",
        "cairn dev reset --data-dir",
    ] {
        ensure!(said.contains(words), "it does not say `{words}`: {said}");
    }

    let dev = Dev::start(directory.path(), &[])?;
    let address = format!("127.0.0.1:{}", dev.port);
    let read = |address: &str| {
        waiting::until("a read", BOUND, || {
            Ok(Some(call(address, &["GET", "greeting"])?))
        })
    };
    let reply = read(&address)?;
    ensure!(
        reply == Reply::Bulk(Some(b"hello".to_vec())),
        "the value is {reply:?}"
    );

    // What is reset while it runs would be gone under its feet; afterwards it begins anew,
    // with whatever counts are asked for.
    let reset = || -> Result<Command> {
        let mut reset = cairn(&["dev", "reset", "--yes", "--data-dir"])?;
        reset.arg(directory.path());
        Ok(reset)
    };
    let said = refused(reset()?)?;
    ensure!(
        said.contains(&dev.pid().to_string()),
        "it does not name the holder: {said}"
    );
    let status = dev.stop()?;
    ensure!(status.success(), "it ended with {status}");
    let done = reset()?.output()?;
    ensure!(done.status.success(), "{done:?}");
    let dev = Dev::start(
        directory.path(),
        &["--coordinators", "1", "--data-nodes", "4"],
    )?;
    let reply = read(&format!("127.0.0.1:{}", dev.port))?;
    ensure!(
        reply == Reply::Bulk(None),
        "after the reset the value is {reply:?}"
    );
    Ok(())
}
