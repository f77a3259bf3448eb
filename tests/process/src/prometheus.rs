//! A real Prometheus over the nodes of a test, and the tool that checks its files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cluster::{BOUND, Cluster};
use crate::{cli, ports, waiting};

/// Why a test that needs it is skipped.
pub const NO_PROMETHEUS: &str = "no prometheus and promtool in PATH: ci/install-tools";

const PATIENCE: Duration = Duration::from_secs(5);
const BODY_MAX: u64 = 16 << 20;

/// Whether Prometheus and its tool are there.
#[must_use]
pub fn is_installed() -> bool {
    ["prometheus", "promtool"].iter().all(|program| {
        let asked = Command::new(program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    })
}

/// Runs promtool in a folder; what it said, where it finds anything wrong.
///
/// # Errors
/// Where it does, or is not there.
pub fn promtool(folder: &Path, words: &[&str]) -> Result<()> {
    let output = Command::new("promtool")
        .args(words)
        .current_dir(folder)
        .output()
        .context("run promtool")?;
    ensure!(
        output.status.success(),
        "promtool {words:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A Prometheus that runs. Dropping it kills the process and removes what it collected.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Prometheus {
    /// Starts one that asks every node of a cluster each second, and judges these rules as
    /// often.
    ///
    /// # Errors
    /// Where it does not come to serve.
    pub fn start(cluster: &Cluster, rules: &Value) -> Result<Self> {
        let nodes = cluster.coordinators.iter().chain(&cluster.data);
        let targets: Vec<String> = nodes
            .map(|node| format!("{}:{}", node.host.address, node.ports.http))
            .collect();
        let labels = json!({"namespace": "test", "cairn_cluster": "test"});
        Self::over(&targets, &labels, rules)
    }

    /// The same for whatever listens at these addresses, with labels for all of them.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn over(targets: &[String], labels: &Value, rules: &Value) -> Result<Self> {
        let directory = TempDir::with_prefix("cairn-prometheus-")?;
        // JSON is YAML.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.json"],
            "scrape_configs": [{
                "job_name": "cairn",
                "static_configs": [{"targets": targets, "labels": labels}],
            }],
        });
        let path = |name: &str| directory.path().join(name);
        fs::write(path("prometheus.json"), config.to_string())?;
        fs::write(path("rules.json"), rules.to_string())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, ports::free()?));
        let log = File::create(path("log"))?;
        let mut command = Command::new("prometheus");
        command
            .arg(format!(
                "--config.file={}",
                path("prometheus.json").display()
            ))
            .arg(format!("--storage.tsdb.path={}", path("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        cli::leashed(&mut command);
        let process = command.spawn().context("start prometheus")?;
        let mut prometheus = Self {
            process,
            address,
            directory,
        };
        waiting::until("Prometheus to be ready", BOUND, || {
            let ended = prometheus.process.try_wait()?;
            ensure!(
                ended.is_none(),
                "it ended: {}",
                fs::read_to_string(prometheus.directory.path().join("log"))?
            );
            Ok(prometheus.get("/-/ready").is_ok().then_some(()))
        })?;
        Ok(prometheus)
    }

    /// Asks it over HTTP/1.0, so that the answer comes in one piece.
    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.take(BODY_MAX).read_to_string(&mut text)?;
        let (head, body) = text.split_once("\r\n\r\n").context("no end of headers")?;
        let status = head.split_ascii_whitespace().nth(1);
        ensure!(status == Some("200"), "{path}: {head}");
        Ok(body.to_owned())
    }

    /// The alerts that fire, each as Prometheus tells it.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn firing(&self) -> Result<Vec<Value>> {
        let answer: Value = serde_json::from_str(&self.get("/api/v1/alerts")?)?;
        let alerts = answer["data"]["alerts"].as_array().context("no alerts")?;
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        Ok(firing.cloned().collect())
    }

    /// The names of the alerts that fire.
    ///
    /// # Errors
    /// As [`Self::firing`].
    pub fn names(&self) -> Result<BTreeSet<String>> {
        let firing = self.firing()?;
        let names = firing
            .iter()
            .filter_map(|alert| alert["labels"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// What an expression comes to at present, one value for each set of labels.
    fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut encoded = String::new();
        for byte in expression.bytes() {
            encoded.push_str(&format!("%{byte:02X}"));
        }
        let answer: Value =
            serde_json::from_str(&self.get(&format!("/api/v1/query?query={encoded}"))?)?;
        let found = answer["data"]["result"].as_array();
        Ok(found.context("no result")?.clone())
    }

    /// The value that an expression has at present, where it has one alone.
    ///
    /// # Errors
    /// Where Prometheus does not answer, or not with one number.
    pub fn value(&self, expression: &str) -> Result<f64> {
        let found = self.query(expression)?;
        let [one] = found.as_slice() else {
            bail!("{expression} has {} values", found.len());
        };
        let value = one["value"][1].as_str().context("a value")?;
        Ok(value.parse()?)
    }

    /// The names of the alerts that have fired since this was started.
    ///
    /// # Errors
    /// Where it does not answer.
    pub fn fired(&self) -> Result<BTreeSet<String>> {
        let ever = "max by (alertname) (max_over_time(ALERTS{alertstate=\"firing\"}[1d]))";
        let found = self.query(ever)?;
        let names = found
            .iter()
            .filter_map(|one| one["metric"]["alertname"].as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Waits until all of these fire.
    ///
    /// # Errors
    /// Where they do not in time; says which do.
    pub fn await_firing(&self, wanted: &[&str]) -> Result<()> {
        let what = format!("{wanted:?} to fire");
        waiting::until(&what, BOUND * 2, || {
            let names = self.names()?;
            ensure!(
                wanted.iter().all(|name| names.contains(*name)),
                "fire: {names:?}"
            );
            Ok(Some(()))
        })?;
        println!("fire: {wanted:?}");
        Ok(())
    }

    /// Waits until none of these fires.
    ///
    /// # Errors
    /// Where one goes on; says which do.
    pub fn await_clear(&self, gone: &[&str]) -> Result<()> {
        let what = format!("{gone:?} to clear");
        waiting::until(&what, BOUND * 2, || {
            let names = self.names()?;
            ensure!(
                !gone.iter().any(|name| names.contains(*name)),
                "fire: {names:?}"
            );
            Ok(Some(()))
        })?;
        println!("quiet: {gone:?}");
        Ok(())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
