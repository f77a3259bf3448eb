//! What was measured, for people and for machines.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::BenchArgs;
use crate::failure::Failure;
use crate::output::{self, Format};
use cairn_workload::distribution::Distribution;
use cairn_workload::operation::Operation;
use cairn_workload::tally::Tally;

/// The figures of one measurement.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    protocol: &'static str,
    workload: String,
    distribution: Distribution,
    connections: u32,
    /// What was asked for in an open loop; none for a closed one.
    rate: Option<f64>,
    keys: u64,
    value_bytes: u32,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    latency_us: Latency,
    by_operation: BTreeMap<&'static str, OfOperation>,
    /// What was due in an open loop and not answered when the measurement ended.
    unanswered: u64,
    oldest_unanswered_ms: f64,
    /// Answers that were not good, by kind.
    errors: BTreeMap<String, u64>,
    redirections: u64,
    missing_keys: u64,
    /// Processor time of this process for each operation, warm-up included.
    generator_cpu_us_per_operation: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OfOperation {
    operations: u64,
    latency_us: Latency,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Latency {
    fn of(latency: &Histogram<u64>) -> Self {
        Self {
            mean: latency.mean(),
            p50: latency.value_at_quantile(0.5),
            p90: latency.value_at_quantile(0.9),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
        }
    }

    fn to_text(self) -> String {
        let ms = |micros: u64| format!("{:.2} ms", micros as f64 / 1000.0);
        format!(
            "mean {:.2} ms, p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
            self.mean / 1000.0,
            ms(self.p50),
            ms(self.p90),
            ms(self.p99),
            ms(self.p999),
            ms(self.max)
        )
    }
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        protocol: &'static str,
        tally: &Tally,
        elapsed: Duration,
        cpu: Duration,
    ) -> Self {
        let latency = tally.all();
        let operations = latency.len();
        let seconds = elapsed.as_secs_f64();
        // Warm-up operations took processor time too; the rate is taken as the same.
        let measured_share = seconds / (seconds + args.warmup().as_secs_f64());
        Self {
            protocol,
            workload: args.workload_name(),
            distribution: args.distribution(),
            connections: args.connections,
            rate: args.rate,
            keys: args.keys,
            value_bytes: args.value_size,
            seconds,
            operations,
            operations_per_second: operations as f64 / seconds,
            latency_us: Latency::of(&latency),
            by_operation: Operation::ALL
                .into_iter()
                .filter_map(|operation| {
                    let latency = tally.of(operation)?;
                    let of = OfOperation {
                        operations: latency.len(),
                        latency_us: Latency::of(latency),
                    };
                    Some((operation.name(), of))
                })
                .collect(),
            unanswered: tally.unanswered,
            oldest_unanswered_ms: tally.unanswered_for.as_secs_f64() * 1000.0,
            errors: tally.errors.clone(),
            redirections: tally.redirections,
            missing_keys: tally.missing,
            generator_cpu_us_per_operation: if operations == 0 {
                0.0
            } else {
                cpu.as_secs_f64() * 1e6 * measured_share / operations as f64
            },
        }
    }

    pub(super) fn print(&self, format: Format) -> Result<(), Failure> {
        match format {
            Format::Json => output::json(self),
            Format::Table => output::text(&self.to_text()),
        }?;
        if self.operations == 0 {
            return Err(Failure::unavailable(format!(
                "no operation succeeded; errors: {:?}",
                self.errors
            )));
        }
        Ok(())
    }

    fn to_text(&self) -> String {
        let asked = match self.rate {
            Some(rate) => format!("open loop at {rate:.0} operations/s"),
            None => "closed loop".to_owned(),
        };
        let mut text = format!(
            "{} over {}, {asked}, {} connections, {} keys ({:?}) of {} bytes, {:.1} s\n\
             {:>10.0} operations/s ({} in all)\n\
             latency: {}\n",
            self.workload,
            self.protocol,
            self.connections,
            self.keys,
            self.distribution,
            self.value_bytes,
            self.seconds,
            self.operations_per_second,
            self.operations,
            self.latency_us.to_text(),
        );
        if self.by_operation.len() > 1 {
            for (name, of) in &self.by_operation {
                text.push_str(&format!("  {name}: {}\n", of.latency_us.to_text()));
            }
        }
        text.push_str(&format!(
            "generator: {:.1} us of processor time per operation\n",
            self.generator_cpu_us_per_operation
        ));
        if self.unanswered > 0 {
            text.push_str(&format!(
                "not answered in time: {} operations, the oldest due {:.0} ms before the end: the \
                 cluster did not keep up, and the latencies are the lower for it\n",
                self.unanswered, self.oldest_unanswered_ms
            ));
        }
        if self.missing_keys > 0 {
            text.push_str(&format!("reads of missing keys: {}\n", self.missing_keys));
        }
        if self.redirections > 0 {
            text.push_str(&format!("redirections followed: {}\n", self.redirections));
        }
        for (kind, count) in &self.errors {
            text.push_str(&format!("errors, {kind}: {count}\n"));
        }
        text
    }
}
