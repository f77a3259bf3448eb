//! One measurement, and the summary of those of all rounds.

use std::collections::BTreeMap;

use cairn_workload::tally::Tally;
use serde::Serialize;

use crate::driver::Seen;
use crate::machine::Pulse;
use crate::stats::Spread;

/// The driver's threads count as busy from here on: it, and not the servers, may then be what
/// a figure is about.
const DRIVER_BUSY: f64 = 0.9;

/// One arm in one round.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub(crate) operations_per_second: f64,
    /// Of all servers of the system, per operation.
    server_cpu_us: f64,
    driver_cpu_us: f64,
    driver_busy: f64,
    disk_bytes: f64,
    /// Between servers, and with the driver.
    loopback_bytes: f64,
    resident_mib: f64,
    /// How many processors others kept busy meanwhile.
    others_processors: f64,
    #[serde(flatten)]
    pulse: Pulse,
}

impl Sample {
    pub(crate) fn of(seen: &Seen, pulse: Pulse) -> Self {
        let operations = seen.operations().max(1) as f64;
        let sum = |of: fn(&crate::usage::Usage) -> f64| seen.servers.iter().map(of).sum::<f64>();
        Self {
            operations_per_second: seen.rate(),
            server_cpu_us: sum(|usage| usage.cpu.as_secs_f64()) * 1e6 / operations,
            driver_cpu_us: seen.driver_cpu.as_secs_f64() * 1e6 / operations,
            driver_busy: seen.driver_busy,
            disk_bytes: seen.disk_bytes as f64 / operations,
            loopback_bytes: seen.loopback_bytes as f64 / operations,
            resident_mib: sum(|usage| usage.resident as f64) / f64::from(1 << 20),
            others_processors: seen.others_cpu.as_secs_f64() / seen.seconds,
            pulse,
        }
    }
}

/// Milliseconds of all rounds together.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Latency {
    fn of(tally: &Tally) -> Self {
        let all = tally.all();
        if all.is_empty() {
            return Self::default();
        }
        let at = |quantile: f64| all.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: all.max() as f64 / 1000.0,
        }
    }
}

/// What all rounds of an arm say.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Summary {
    pub(crate) operations_per_second: Spread,
    pub(crate) latency_ms: Latency,
    pub(crate) server_cpu_us: Spread,
    pub(crate) driver_cpu_us: Spread,
    /// Whether the driver may have been what was measured.
    pub(crate) driver_bound: bool,
    pub(crate) disk_bytes: Spread,
    pub(crate) loopback_bytes: Spread,
    pub(crate) resident_mib: Spread,
    pub(crate) others_processors: Spread,
    pub(crate) fdatasyncs_per_second: Spread,
    pub(crate) loopback_us: Spread,
    /// Answers that were not good, by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) missing_keys: u64,
    pub(crate) rounds: Vec<Sample>,
}

/// What is collected of an arm, round by round.
#[derive(Debug)]
pub(crate) struct Collected {
    tally: Tally,
    samples: Vec<Sample>,
}

impl Collected {
    pub(crate) fn new() -> Self {
        Self {
            tally: Tally::new(),
            samples: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, seen: &Seen, pulse: Pulse) {
        self.tally.add(&seen.tally);
        self.samples.push(Sample::of(seen, pulse));
    }

    pub(crate) fn rates(&self) -> Vec<f64> {
        self.samples
            .iter()
            .map(|sample| sample.operations_per_second)
            .collect()
    }

    pub(crate) fn summary(&self) -> Summary {
        let spread = |of: fn(&Sample) -> f64| Spread::of(self.samples.iter().map(of));
        Summary {
            operations_per_second: spread(|sample| sample.operations_per_second),
            latency_ms: Latency::of(&self.tally),
            server_cpu_us: spread(|sample| sample.server_cpu_us),
            driver_cpu_us: spread(|sample| sample.driver_cpu_us),
            driver_bound: spread(|sample| sample.driver_busy).median > DRIVER_BUSY,
            disk_bytes: spread(|sample| sample.disk_bytes),
            loopback_bytes: spread(|sample| sample.loopback_bytes),
            resident_mib: spread(|sample| sample.resident_mib),
            others_processors: spread(|sample| sample.others_processors),
            fdatasyncs_per_second: spread(|sample| sample.pulse.fdatasyncs_per_second),
            loopback_us: spread(|sample| sample.pulse.loopback_us),
            errors: self.tally.errors.clone(),
            missing_keys: self.tally.missing,
            rounds: self.samples.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cairn_workload::operation::Operation;

    use super::*;
    use crate::usage::Usage;

    #[test]
    fn figures_are_per_operation_and_rounds_are_summed_up() {
        let mut collected = Collected::new();
        for (operations, fdatasyncs_per_second) in [(100u64, 1000.0), (300, 3000.0)] {
            let mut tally = Tally::new();
            for _ in 0..operations {
                tally.good(Operation::Update, Duration::from_millis(2));
            }
            let usage = Usage {
                cpu: Duration::from_micros(operations * 5),
                resident: 1 << 20,
            };
            let seen = Seen {
                tally,
                seconds: 2.0,
                driver_cpu: Duration::from_micros(operations * 3),
                servers: vec![usage, usage],
                disk_bytes: operations * 14,
                loopback_bytes: operations * 11,
                others_cpu: Duration::from_secs(1),
                keys: 1,
                driver_busy: 0.95,
            };
            let pulse = Pulse {
                fdatasyncs_per_second,
                loopback_us: 9.0,
            };
            collected.add(&seen, pulse);
        }
        assert_eq!(collected.rates(), [50.0, 150.0]);
        let summary = collected.summary();
        let rate = summary.operations_per_second;
        assert_eq!((rate.median, rate.min, rate.max), (100.0, 50.0, 150.0));
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        close(summary.server_cpu_us.median, 10.0);
        close(summary.driver_cpu_us.median, 3.0);
        close(summary.disk_bytes.median, 14.0);
        close(summary.loopback_bytes.median, 11.0);
        close(summary.resident_mib.median, 2.0);
        close(summary.others_processors.median, 0.5);
        close(summary.fdatasyncs_per_second.median, 2000.0);
        assert!(summary.driver_bound);
        assert!((1.9..=2.1).contains(&summary.latency_ms.p99), "{summary:?}");
    }
}
