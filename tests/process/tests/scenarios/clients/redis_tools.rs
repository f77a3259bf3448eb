//! Debian's redis-cli and redis-benchmark against `cairn dev`, unchanged.

use std::process::Command;

use anyhow::{Result, ensure};
use cairn_process_tests::skip;
use tempfile::TempDir;

use crate::dev::Dev;

#[test]
fn redis_cli_and_redis_benchmark_run_unchanged_against_cairn_dev() -> Result<()> {
    for tool in ["redis-cli", "redis-benchmark"] {
        if Command::new(tool).arg("--version").output().is_err() {
            return skip::without(&format!("{tool} is not installed (see ci/install-tools)"));
        }
    }
    let directory = TempDir::with_prefix("cairn-dev-")?;
    let dev = Dev::start(directory.path(), &[])?;
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
