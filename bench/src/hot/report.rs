//! What the trial of hot keys writes: `hot.md`, `hot.json`, and a plot for each load.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::HotLoad;
use super::arm::Arm;
use crate::driver::{Increments, Level};
use crate::machine::Machine;
use crate::plot::{self, Line, number};
use crate::sample::Summary;
use crate::scratch::keep;
use crate::stats::Spread;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    command: String,
    machine: Machine,
    /// What of one processor each data node may take, and of how many microseconds.
    quota: Option<(f64, u64)>,
    arms: Vec<Arm>,
    rows: Vec<Row>,
}

/// An arm under a load, with so many nodes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    #[serde(serialize_with = "by_name")]
    pub(super) load: HotLoad,
    pub(super) nodes: u32,
    pub(super) arm: String,
    /// The busiest data node's processor time over the mean of all.
    pub(super) max_over_mean: Spread,
    /// What the busiest took of its share.
    pub(super) busiest_share: Spread,
    /// Seconds in a second for which threads of the node that waited most were held back, added
    /// up over its threads.
    pub(super) throttled: Spread,
    #[serde(flatten)]
    pub(super) summary: Summary,
}

fn by_name<S: serde::Serializer>(load: &HotLoad, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(load.name())
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        command: String,
        quota: Option<(f64, u64)>,
        arms: &[Arm],
    ) -> Self {
        Self {
            command,
            machine,
            quota,
            arms: arms.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(super) fn has_figures(&self) -> bool {
        !self.rows.is_empty()
    }

    /// Of a load, in the order of nodes and arms.
    fn of(&self, load: HotLoad) -> Vec<&Row> {
        self.rows.iter().filter(|row| row.load == load).collect()
    }

    pub(super) fn write(&self, results: &Path) -> Result<PathBuf> {
        let write = |name: &str, text: String| keep(results, name, &text);
        write("hot.json", serde_json::to_string_pretty(self)? + "\n")?;
        for load in HotLoad::ALL {
            let rows = self.of(load);
            if rows.is_empty() {
                continue;
            }
            let lines: Vec<Line> = self
                .arms
                .iter()
                .map(|arm| Line {
                    label: arm.name.clone(),
                    points: rows
                        .iter()
                        .filter(|row| row.arm == arm.name)
                        .map(|row| (f64::from(row.nodes), row.summary.operations_per_second))
                        .collect(),
                })
                .filter(|line| !line.points.is_empty())
                .collect();
            let plot = plot::lines(load.title(), "data nodes", "operations per second", &lines);
            write(&format!("hot-{}.svg", load.name()), plot)?;
        }
        write("hot.md", self.to_markdown())
    }

    fn to_markdown(&self) -> String {
        let held = match self.quota {
            Some((share, period_us)) => format!(
                "Each data node is held to {} % of one processor, taken of every {} ms.",
                share * 100.0,
                period_us as f64 / 1000.0
            ),
            None => "Data nodes were not held to any share: they compete for the machine, and \
                     more of them are not expected to be faster."
                .to_owned(),
        };
        let mut text = format!(
            "# Cairn under hot keys\n\n\
             Written by `{}`; [docs/benchmarks.md](../../docs/benchmarks.md) says how to read it.\n\n\
             Machine: {}. {held}\n\n",
            self.command,
            self.machine.sentence()
        );
        for arm in &self.arms {
            let more: Vec<String> = arm
                .environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .chain(arm.settings.clone())
                .collect();
            let more = match more.as_slice() {
                [] => String::new(),
                more => format!(", with {}", more.join(", ")),
            };
            let _ = writeln!(
                text,
                "- **{}**: {} reads over {}, increments to {}{more}",
                arm.name,
                match arm.level {
                    Level::Primary => "primary",
                    Level::Replica => "replica",
                    Level::Near => "near",
                },
                arm.protocol.name(),
                match arm.increments {
                    Increments::Owner => "the key's primary",
                    Increments::Any => "any node",
                }
            );
        }
        for load in HotLoad::ALL {
            let rows = self.of(load);
            if !rows.is_empty() {
                table(&mut text, load, &rows);
            }
        }
        text
    }
}

fn table(text: &mut String, load: HotLoad, rows: &[&Row]) {
    let _ = write!(
        text,
        "\n## {}\n\n![{}](hot-{}.svg)\n\n\
         | data nodes | arm | operations/s | p50 ms | p99 ms | busiest node over mean | of its share \
         | held back s/s | driver's CPU us | others' processors |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        load.title(),
        load.name(),
        load.name()
    );
    for row in rows {
        let summary = &row.summary;
        let rate = summary.operations_per_second;
        let _ = writeln!(
            text,
            "| {} | {} | {} ({} to {}) | {:.2} | {:.2} | {:.2} | {:.0} % | {:.2} | {:.1}{} | {:.2} |",
            row.nodes,
            row.arm,
            number(rate.median),
            number(rate.min),
            number(rate.max),
            summary.latency_ms.p50,
            summary.latency_ms.p99,
            row.max_over_mean.median,
            row.busiest_share.median * 100.0,
            row.throttled.median,
            summary.driver_cpu_us.median,
            if summary.driver_bound { " (busy)" } else { "" },
            summary.others_processors.median
        );
    }
    for row in rows {
        for (kind, count) in &row.summary.errors {
            let _ = writeln!(
                text,
                "\n{} nodes, {}: {count} errors: {kind}",
                row.nodes, row.arm
            );
        }
    }
}
