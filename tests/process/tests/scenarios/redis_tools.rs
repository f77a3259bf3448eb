//! Debian's redis-cli and redis-benchmark against `cairn dev`, unchanged.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::BOUND;
use cairn_process_tests::{binary, ports};
use tempfile::TempDir;

/// `cairn dev` as a person starts it.
struct Dev {
    process: Child,
    port: u16,
    _directory: TempDir,
}

impl Dev {
    fn start() -> Result<Self> {
        let directory = TempDir::with_prefix("cairn-dev-")?;
        let port = ports::free_run(5)?;
        let mut command = Command::new(binary::cairn()?);
        command
            .args(["dev", "--resp-port", &port.to_string(), "--data-dir"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // SAFETY: between fork and exec only `prctl` is called, which is
        // async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let mut process = command.spawn()?;
        let output = process.stdout.take().context("its output")?;
        let dev = Self {
            process,
            port,
            _directory: directory,
        };
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
            println!("cairn dev: {line}");
            if line == "ready" {
                return Ok(dev);
            }
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its children end with it, even when it is killed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn installed(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        println!("skipped: {tool} is not installed (ci/install-tools)");
    }
    found
}

#[test]
fn redis_cli_and_redis_benchmark_run_unchanged_against_cairn_dev() -> Result<()> {
    if !installed("redis-cli") || !installed("redis-benchmark") {
        return Ok(());
    }
    let dev = Dev::start()?;
    let port = dev.port.to_string();
    let cli = |words: &[&str]| -> Result<String> {
        let done = Command::new("redis-cli")
            .args(["-c", "-p", &port])
            .args(words)
            .output()?;
        ensure!(done.status.success(), "redis-cli {words:?}: {done:?}");
        Ok(String::from_utf8(done.stdout)?.trim().to_owned())
    };
    ensure!(cli(&["PING"])? == "PONG");
    for number in 0..40 {
        let key = format!("key:{number}");
        ensure!(
            cli(&["SET", &key, &number.to_string()])? == "OK",
            "SET {key}"
        );
        ensure!(cli(&["GET", &key])? == number.to_string(), "GET {key}");
        ensure!(
            cli(&["INCR", &key])? == (number + 1).to_string(),
            "INCR {key}"
        );
    }
    ensure!(cli(&["MGET", "{a}1", "{a}2"])?.is_empty());
    ensure!(cli(&["CLUSTER", "INFO"])?.contains("cluster_state:ok"));
    ensure!(cli(&["CLUSTER", "KEYSLOT", "foo"])? == "12182");
    let check = Command::new("redis-cli")
        .args(["--cluster", "check", &format!("127.0.0.1:{port}")])
        .output()?;
    let said = String::from_utf8_lossy(&check.stdout);
    ensure!(
        said.contains("All 16384 slots covered"),
        "redis-cli --cluster check: {said}"
    );

    let done = Command::new("redis-benchmark")
        .args([
            "--cluster",
            "-p",
            &port,
            "-t",
            "set,get,incr",
            "-n",
            "20000",
            "-c",
            "50",
            "-r",
            "10000",
            "-d",
            "128",
            "-q",
        ])
        .output()?;
    let said = String::from_utf8_lossy(&done.stdout).replace('\r', "\n");
    println!("{said}");
    ensure!(done.status.success(), "redis-benchmark: {said}");
    for test in ["SET", "GET", "INCR"] {
        ensure!(
            said.lines()
                .any(|line| line.starts_with(test) && line.contains("requests per second")),
            "redis-benchmark did not finish {test}"
        );
    }
    Ok(())
}
