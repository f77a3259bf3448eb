//! What the operator counts, as Prometheus text.

use std::fmt;
use std::time::Duration;

use cairn_crds::status::Phase;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Histograms of durations, in seconds: from a round that finds all as it should be to one that
/// waits for coordinators.
const SECONDS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
];

/// What is done to an object of Kubernetes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Server-side apply.
    Apply,
    /// Create, where there was none.
    Create,
    /// Write over a known version.
    Replace,
    /// Set annotations of a known version.
    Annotate,
    /// Ask for a larger volume.
    Grow,
    /// Write the status.
    Status,
    /// Delete a known version.
    Delete,
}

impl Verb {
    fn word(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Create => "create",
            Self::Replace => "replace",
            Self::Annotate => "annotate",
            Self::Grow => "grow",
            Self::Status => "status",
            Self::Delete => "delete",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The recorder of this process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Installs the recorder. To be called once, before anything is counted.
///
/// # Errors
/// Where there is one already.
pub fn install() -> Result<Metrics, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    metrics::gauge!("cairn_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    leader(false);
    Ok(Metrics { handle })
}

impl Metrics {
    /// Everything, in Prometheus' text format.
    #[must_use]
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds what histograms gathered. To be called every few seconds, for without it a process
    /// that nobody scrapes gathers without end.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}

/// A write to the API server.
pub(crate) fn api_write(verb: Verb, kind: &str, outcome: &'static str) {
    metrics::counter!(
        "cairn_operator_api_writes_total",
        "verb" => verb.word(), "kind" => kind.to_owned(), "outcome" => outcome,
    )
    .increment(1);
}

/// A call to the coordinators that asks for a change.
pub(crate) fn admin_call(call: &'static str, outcome: &'static str) {
    metrics::counter!(
        "cairn_operator_admin_calls_total", "call" => call, "outcome" => outcome,
    )
    .increment(1);
}

/// A round that ended; `outcome` is `ok`, or a word for what ended it early.
pub(crate) fn round(outcome: &'static str, took: Duration) {
    metrics::counter!("cairn_operator_reconciles_total", "outcome" => outcome).increment(1);
    metrics::histogram!("cairn_operator_reconcile_seconds").record(took.as_secs_f64());
}

/// Whether this operator acts.
pub fn leader(leads: bool) {
    metrics::gauge!("cairn_operator_leader").set(f64::from(u8::from(leads)));
}

/// An event that was not taken.
pub(crate) fn event_failed() {
    metrics::counter!("cairn_operator_events_failed_total").increment(1);
}

/// Every phase, so that one that no cluster is in any more shows 0.
const PHASES: [Phase; 8] = [
    Phase::Creating,
    Phase::Running,
    Phase::Scaling,
    Phase::Rebalancing,
    Phase::Degraded,
    Phase::Unavailable,
    Phase::Invalid,
    Phase::Paused,
];

/// How many clusters are in which phase.
pub(crate) fn clusters<'a>(phases: impl Iterator<Item = &'a Phase> + Clone) {
    for phase in PHASES {
        let count = phases.clone().filter(|of| **of == phase).count();
        metrics::gauge!("cairn_operator_clusters", "phase" => format!("{phase:?}"))
            .set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}
