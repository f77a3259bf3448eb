//! What was measured, for people and for machines.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::load::Tally;
use super::{BenchArgs, Mode};
use crate::failure::Failure;
use crate::output::{self, Format};

/// The figures of one measurement.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    protocol: &'static str,
    mode: &'static str,
    connections: u32,
    keys: u64,
    value_bytes: u32,
    seconds: f64,
    operations: u64,
    operations_per_second: f64,
    latency_us: Latency,
    /// Answers that were not good, by kind.
    errors: BTreeMap<String, u64>,
    redirections: u64,
    missing_keys: u64,
    /// Processor time of this process for each operation, warm-up included.
    generator_cpu_us_per_operation: f64,
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

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        protocol: &'static str,
        tally: &Tally,
        elapsed: Duration,
        cpu: Duration,
    ) -> Self {
        let latency = &tally.latency;
        let operations = latency.len();
        let seconds = elapsed.as_secs_f64();
        // Warm-up operations took processor time too; the rate is taken as the same.
        let measured_share = seconds / (seconds + args.warmup().as_secs_f64());
        Self {
            protocol,
            mode: match args.mode {
                Mode::Write => "write",
                Mode::Read => "read",
                Mode::Mix => "mix",
            },
            connections: args.connections,
            keys: args.keys,
            value_bytes: args.value_size,
            seconds,
            operations,
            operations_per_second: operations as f64 / seconds,
            latency_us: Latency {
                mean: latency.mean(),
                p50: latency.value_at_quantile(0.5),
                p90: latency.value_at_quantile(0.9),
                p99: latency.value_at_quantile(0.99),
                p999: latency.value_at_quantile(0.999),
                max: latency.max(),
            },
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
        let Latency {
            mean,
            p50,
            p90,
            p99,
            p999,
            max,
        } = self.latency_us;
        let ms = |micros: u64| format!("{:.2} ms", micros as f64 / 1000.0);
        let mut text = format!(
            "{} over {}, {} connections, {} keys of {} bytes, {:.1} s\n\
             {:>10.0} operations/s ({} in all)\n\
             latency: mean {:.2} ms, p50 {}, p90 {}, p99 {}, p99.9 {}, max {}\n\
             generator: {:.1} us of processor time per operation\n",
            self.mode,
            self.protocol,
            self.connections,
            self.keys,
            self.value_bytes,
            self.seconds,
            self.operations_per_second,
            self.operations,
            mean / 1000.0,
            ms(p50),
            ms(p90),
            ms(p99),
            ms(p999),
            ms(max),
            self.generator_cpu_us_per_operation,
        );
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
