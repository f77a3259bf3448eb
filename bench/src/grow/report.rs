//! What was measured, as JSON, Markdown and plots.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::axis::Axis;
use super::{Asked, Rests};
use crate::machine::Machine;
use crate::plot::{self, Line, number};
use crate::sample::Summary;
use crate::scratch::keep;

/// One point of an axis.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    pub(super) axis: Axis,
    pub(super) value: u64,
    pub(super) rest: Rests,
    pub(super) asked: BTreeMap<Asked, Summary>,
}

/// All that was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    command: String,
    machine: Machine,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(machine: Machine, command: String) -> Self {
        Self {
            command,
            machine,
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn has_figures(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Of an axis, in the order in which its points were measured: the first is what the others
    /// are held against.
    fn of(&self, axis: Axis) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.axis == axis).collect()
    }

    pub(super) fn write(&self, results: &Path) -> Result<PathBuf> {
        let write = |name: &str, text: String| keep(results, name, &text);
        write("grow.json", serde_json::to_string_pretty(self)? + "\n")?;
        for axis in Axis::ALL {
            let rows = self.of(axis);
            if rows.len() > 1 {
                write(&format!("grow-{}.svg", axis.name()), plot_of(axis, &rows))?;
            }
        }
        write("grow.md", self.to_markdown())
    }

    fn to_markdown(&self) -> String {
        let mut text = format!(
            "# How the cost of Cairn grows\n\n\
             Written by `{}`; [docs/benchmarks.md](../../docs/benchmarks.md) says how to read it.\n\n\
             Machine: {}. Along each axis the rest is usual: 128 partitions, 3 data nodes and 3 \
             coordinators, RF 3, W 2, the Redis protocol. Points are held against the first one of \
             their axis.\n",
            self.command,
            self.machine.sentence()
        );
        for axis in Axis::ALL {
            let rows = self.of(axis);
            if !rows.is_empty() {
                table(&mut text, axis, &rows);
            }
        }
        text
    }
}

fn plot_of(axis: Axis, rows: &[&Row]) -> String {
    let lines: Vec<Line> = Asked::ALL
        .into_iter()
        .map(|asked| {
            let mut points: Vec<_> = rows
                .iter()
                .filter_map(|row| {
                    let summary = row.asked.get(&asked)?;
                    Some((row.value as f64, summary.operations_per_second))
                })
                .collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            Line {
                label: asked.name().to_owned(),
                points,
            }
        })
        .collect();
    plot::lines(axis.title(), axis.name(), "operations per second", &lines)
}

fn table(text: &mut String, axis: Axis, rows: &[&Row]) {
    let _ = write!(text, "\n## {}\n\n", axis.title());
    if rows.len() > 1 {
        let _ = write!(text, "![{0}](grow-{0}.svg)\n\n", axis.name());
    }
    let _ = write!(
        text,
        "| {} | asked | operations/s | of the first | p50 ms | p99 ms | servers' CPU us | to disk B \
         | resident MiB | at rest: data node | coordinator | fdatasyncs/s |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        axis.name()
    );
    for row in rows {
        for (asked, summary) in &row.asked {
            let first = rows[0]
                .asked
                .get(asked)
                .map_or(0.0, |first| first.operations_per_second.median);
            let rate = summary.operations_per_second;
            let at_rest = |rest: super::Rest| {
                format!(
                    "{:.1} %, {:.0} MiB",
                    rest.processor_percent, rest.resident_mib
                )
            };
            let _ = writeln!(
                text,
                "| {} | {} | {} ({} to {}) | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.0} | {} | {} | {:.0} |",
                row.value,
                asked.name(),
                number(rate.median),
                number(rate.min),
                number(rate.max),
                if first > 0.0 {
                    rate.median / first
                } else {
                    0.0
                },
                summary.latency_ms.p50,
                summary.latency_ms.p99,
                summary.server_cpu_us.median,
                summary.disk_bytes.median,
                summary.resident_mib.median,
                at_rest(row.rest.data_node),
                at_rest(row.rest.coordinator),
                summary.fdatasyncs_per_second.median
            );
        }
    }
    for row in rows {
        for (asked, summary) in &row.asked {
            for (kind, count) in &summary.errors {
                let _ = writeln!(
                    text,
                    "\n{} {}, {}: {count} errors: {kind}",
                    axis.name(),
                    row.value,
                    asked.name()
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Collected;

    #[test]
    fn points_are_held_against_the_first_of_their_axis() {
        let mut report = Report::new(Machine::here(Path::new("/")), "grow".to_owned());
        assert!(!report.has_figures());
        for (value, rate) in [(64, 200.0), (16, 100.0)] {
            let mut summary = Collected::new().summary();
            summary.operations_per_second.median = rate;
            report.add(Row {
                axis: Axis::Partitions,
                value,
                rest: Rests::default(),
                asked: [(Asked::Writes, summary)].into(),
            });
        }
        let text = report.to_markdown();
        assert!(
            text.contains("| 64 | writes | 200 (0.00 to 0.00) | 1.00 |"),
            "{text}"
        );
        assert!(
            text.contains("| 16 | writes | 100 (0.00 to 0.00) | 0.50 |"),
            "{text}"
        );
        assert!(text.contains("grow-partitions.svg") && !text.contains("grow-keys.svg"));
    }
}
