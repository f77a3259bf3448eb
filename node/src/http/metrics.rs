//! The process's metrics: the recorder behind the `metrics` facade, and what
//! Prometheus expects to know of any process.

use metrics_exporter_prometheus::PrometheusHandle;

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
