//! What a node tells a person who looks at it from afar: how it is set up, what it runs on,
//! its metrics, and the last lines of its log.
//!
//! None of it holds a key, a value or a secret: settings name files and not what is in them,
//! and nothing that is logged holds what clients sent.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read, Write};
use std::sync::{LazyLock, OnceLock};

use bytes::Bytes;
use cairn_proto::pb::diagnosis::v1::diagnosis_server::{self, Diagnosis, DiagnosisServer};
use cairn_proto::pb::diagnosis::v1::{
    DescribeReply, DescribeRequest, InForceReply, InForceRequest,
};
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};
use tonic::{Request, Response, Status};
use tracing_subscriber::fmt::MakeWriter;

use crate::grpc::admins_only;
use crate::http::metrics;
use crate::settings::{SETTINGS, Values};

/// The name of the service.
pub(crate) const SERVICE: &str = diagnosis_server::SERVICE_NAME;

/// How much of the log is kept, and of one line of it.
const LOG_BYTES: usize = 512 << 10;
const LINE_BYTES: usize = 4 << 10;
/// How much of a file of the system's is read.
const SYSTEM_FILE_BYTES: u64 = 64 << 10;
/// How names of settings end that hold a secret themselves. There are none: this is for the
/// day on which there is one.
const SECRET: [&str; 4] = ["_PASSWORD", "_TOKEN", "_SECRET", "_KEY"];

/// The last lines of this process's log.
#[derive(Debug, Default)]
pub struct RecentLog {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<Box<[u8]>>,
    bytes: usize,
}

/// The log of this process: a writer for what writes logs.
#[must_use]
pub fn recent_log() -> &'static RecentLog {
    static LOG: LazyLock<RecentLog> = LazyLock::new(RecentLog::default);
    &LOG
}

impl RecentLog {
    fn keep(&self, line: &[u8]) {
        let line: Box<[u8]> = match line.get(..LINE_BYTES) {
            None => line.into(),
            Some(cut) => [cut, b"...\n"].concat().into(),
        };
        let mut kept = self.kept.lock();
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.bytes > LOG_BYTES
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.bytes -= oldest.len();
        }
    }

    /// The lines, oldest first.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let kept = self.kept.lock();
        let mut text = Vec::with_capacity(kept.bytes);
        for line in &kept.lines {
            text.extend_from_slice(line);
        }
        text
    }
}

/// Keeps a line: a subscriber writes each event at once.
#[derive(Debug)]
pub struct LineWriter(&'static RecentLog);

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.keep(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for &'static RecentLog {
    type Writer = LineWriter;

    fn make_writer(&self) -> LineWriter {
        LineWriter(self)
    }
}

static SETTINGS_IN_FORCE: OnceLock<Value> = OnceLock::new();

/// Keeps what this process was given, to be told. The first call counts.
pub fn set_up_with(values: &Values) {
    let _ = SETTINGS_IN_FORCE.set(settings(values));
}

/// Every setting: what was given, or its default as the documentation has it.
fn settings(values: &Values) -> Value {
    let told = SETTINGS.iter().map(|setting| {
        let told = match values.get(setting.name) {
            Some(_) if holds_secret(setting.name) => json!({"given": "(not told)"}),
            Some(given) => json!({"given": given}),
            None => json!({"default": setting.default}),
        };
        (setting.name.to_owned(), told)
    });
    let unknown = values.unknown();
    json!({"settings": told.collect::<Map<_, _>>(), "unknownVariables": unknown})
}

fn holds_secret(name: &str) -> bool {
    SECRET.iter().any(|ending| name.ends_with(ending))
}

/// The machine, as far as it shows itself.
fn machine() -> Value {
    let memory = read("/proc/meminfo").unwrap_or_default();
    let memory_bytes = |name: &str| -> Option<u64> {
        let line = memory.lines().find(|line| line.starts_with(name))?;
        let kibibytes: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(kibibytes * 1024)
    };
    let release = read("/etc/os-release").unwrap_or_default();
    let system = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="));
    // Version 2 of control groups, then version 1.
    let limit = read("/sys/fs/cgroup/memory.max")
        .or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let name = rustix::system::uname();
    json!({
        "system": system.map(|name| name.trim_matches('"')),
        "kernel": name.release().to_string_lossy(),
        "architecture": name.machine().to_string_lossy(),
        "cpusAllowed": crate::settings::allowed_cpus(),
        "memoryTotalBytes": memory_bytes("MemTotal:"),
        "memoryAvailableBytes": memory_bytes("MemAvailable:"),
        "memoryLimit": limit.map(|limit| limit.trim().to_owned()),
        "openFilesMax": rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        "loadAverage": read("/proc/loadavg").map(|load| load.trim().to_owned()),
        "pressure": json!({
            "cpu": read("/proc/pressure/cpu"),
            "io": read("/proc/pressure/io"),
            "memory": read("/proc/pressure/memory"),
        }),
    })
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(SYSTEM_FILE_BYTES)
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// Everything, in one reply. Blocks for as long as metrics take to be rendered.
fn describe() -> Result<DescribeReply, String> {
    let mut document = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "process": std::process::id(),
        "machine": machine(),
    });
    if let (Some(document), Some(Value::Object(settings))) =
        (document.as_object_mut(), SETTINGS_IN_FORCE.get())
    {
        document.extend(settings.clone());
    }
    let metrics = metrics::install().map_err(|error| error.to_string())?;
    Ok(DescribeReply {
        json: document.to_string().into(),
        metrics: metrics.render().into(),
        log: recent_log().text().into(),
    })
}

/// What the process goes by.
static IN_FORCE: Mutex<InForceReply> = Mutex::new(InForceReply {
    certificate: Bytes::new(),
    authorities: Vec::new(),
    users: Bytes::new(),
});

/// Notes which certificates are in force from now on: the node's own, and those of whoever
/// may have signed another's.
pub(crate) fn note_certificates(own: &[u8], authorities: &[CertificateDer<'_>]) {
    let mut in_force = IN_FORCE.lock();
    in_force.certificate = sha256(own);
    in_force.authorities = authorities.iter().map(|one| sha256(one)).collect();
}

/// Notes which users file is.
pub(crate) fn note_users(file: &[u8]) {
    IN_FORCE.lock().users = sha256(file);
}

fn sha256(of: &[u8]) -> Bytes {
    let digest = ring::digest::digest(&ring::digest::SHA256, of);
    Bytes::copy_from_slice(digest.as_ref())
}

/// The service.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DiagnosisService {
    /// The listener that it is on, to count whom it refuses.
    listener: &'static str,
}

/// The service on a listener of this name.
pub(crate) fn service(listener: &'static str) -> DiagnosisServer<DiagnosisService> {
    DiagnosisServer::new(DiagnosisService { listener })
}

#[tonic::async_trait]
impl Diagnosis for DiagnosisService {
    async fn describe(
        &self,
        request: Request<DescribeRequest>,
    ) -> Result<Response<DescribeReply>, Status> {
        self.admit(request.extensions())?;
        let described = tokio::task::spawn_blocking(describe).await;
        let reply = described
            .map_err(|error| error.to_string())
            .and_then(|described| described)
            .map_err(Status::internal)?;
        Ok(Response::new(reply))
    }

    async fn in_force(
        &self,
        request: Request<InForceRequest>,
    ) -> Result<Response<InForceReply>, Status> {
        self.admit(request.extensions())?;
        Ok(Response::new(IN_FORCE.lock().clone()))
    }
}

impl DiagnosisService {
    fn admit(self, extensions: &tonic::Extensions) -> Result<(), Status> {
        admins_only(
            extensions,
            self.listener,
            "permission denied: to be told of a node's settings, log and secrets in force takes the \
             role admin",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_its_last_lines_within_its_bounds() {
        let log = RecentLog::default();
        for number in 0..20_000 {
            log.keep(format!("line {number} {}\n", "x".repeat(100)).as_bytes());
        }
        log.keep(&vec![b'y'; 1 << 20]);
        let text = String::from_utf8(log.text()).expect("text");
        assert!(text.len() <= LOG_BYTES, "{}", text.len());
        assert!(text.len() > LOG_BYTES / 2, "{}", text.len());
        assert!(!text.contains("line 0 ") && text.contains("line 19999 "));
        assert!(text.starts_with("line ") && text.ends_with("yyy...\n"));
    }

    #[test]
    fn settings_are_told_as_given_or_as_they_are_by_default() {
        let values = Values::from_variables([
            ("CAIRN_WEIGHT".to_owned(), "200".to_owned()),
            ("CAIRN_PASSWORD".to_owned(), "hunter2".to_owned()),
        ]);
        let told = settings(&values);
        assert_eq!(told["settings"]["CAIRN_WEIGHT"], json!({"given": "200"}));
        assert_eq!(told["settings"]["CAIRN_TICK_MS"], json!({"default": "10"}));
        // What is no setting is named, and its value is nobody's business.
        assert_eq!(told["unknownVariables"], json!(["CAIRN_PASSWORD"]));
        assert!(!told.to_string().contains("hunter2"));
    }

    #[test]
    fn no_setting_holds_a_secret_but_what_would_is_not_told() {
        assert!(SETTINGS.iter().all(|setting| !holds_secret(setting.name)));
        assert!(holds_secret("CAIRN_SOME_PASSWORD"));
    }
}
