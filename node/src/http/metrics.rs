//! The process's metrics: the recorder behind the `metrics` facade, and what
//! Prometheus expects to know of any process.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Histograms of durations, in seconds: from a memory access to a lost lease.
const SECONDS: [f64; 17] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];
/// Histograms of sizes, in bytes.
const BYTES: [f64; 9] = [
    64.0,
    256.0,
    1024.0,
    4096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    16_777_216.0,
];

/// Histograms of how many of something came together.
const COUNTS: [f64; 11] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0,
];
/// Which those are.
const COUNTING: [&str; 2] = ["cairn_wal_batch_records", "cairn_engine_turn_inputs"];

/// The recorder of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// The recorder could not be installed.
#[derive(Debug, thiserror::Error)]
#[error("install the metrics recorder: {0}")]
pub struct InstallError(String);

/// The recorder of this process, installed by the first call. Metrics that were
/// named before it go nowhere: call it before anything else is started.
///
/// # Errors
/// Where another recorder was installed by other means.
pub fn install() -> Result<Metrics, InstallError> {
    static INSTALLED: OnceLock<Result<Metrics, String>> = OnceLock::new();
    INSTALLED
        .get_or_init(|| build().map_err(|error| error.to_string()))
        .clone()
        .map_err(InstallError)
}

fn build() -> Result<Metrics, metrics_exporter_prometheus::BuildError> {
    let mut builder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".to_owned()), &BYTES)?;
    // What has no buckets would be told as quantiles, which cannot be added up over nodes.
    for name in COUNTING {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), &COUNTS)?;
    }
    let handle = builder.install_recorder()?;
    metrics::describe_gauge!("process_resident_memory_bytes", "Resident memory.");
    metrics::describe_gauge!("process_virtual_memory_bytes", "Virtual memory.");
    metrics::describe_gauge!("process_open_fds", "Open file descriptors.");
    metrics::describe_gauge!("process_max_fds", "The most file descriptors.");
    metrics::describe_gauge!("process_threads", "Threads.");
    metrics::describe_gauge!(
        "process_start_time_seconds",
        "When the process started, since the Unix epoch."
    );
    metrics::describe_gauge!(
        "process_cpu_seconds_total",
        "Time on the processors, in user and in system mode."
    );
    metrics::gauge!("process_start_time_seconds").set(unix_seconds());
    metrics::gauge!("cairn_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(Metrics { handle })
}

impl Metrics {
    /// Everything, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        observe_process();
        self.handle.render()
    }

    /// Folds what histograms gathered. To be called every few seconds, for without
    /// it a process that nobody scrapes gathers without end.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// Reads what the kernel counts. What cannot be read is left as it was.
fn observe_process() {
    let usage = usage_seconds();
    metrics::gauge!("process_cpu_seconds_total").set(usage);
    metrics::gauge!("cairn_time_seconds").set(unix_seconds());
    if let Some((virtual_bytes, resident)) = memory() {
        metrics::gauge!("process_virtual_memory_bytes").set(virtual_bytes as f64);
        metrics::gauge!("process_resident_memory_bytes").set(resident as f64);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(entries.count() as f64);
    }
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        metrics::gauge!("process_max_fds").set(most as f64);
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/task") {
        metrics::gauge!("process_threads").set(entries.count() as f64);
    }
}

/// The calendar, since 1970.
fn unix_seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

fn usage_seconds() -> f64 {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}

/// Virtual and resident memory, in bytes.
fn memory() -> Option<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let kibibytes = |name: &str| -> Option<u64> {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    };
    Some((kibibytes("VmSize:")? * 1024, kibibytes("VmRSS:")? * 1024))
}

/// Resident memory of this process, in bytes, where it can be told.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    memory().map(|(_, resident)| resident)
}
