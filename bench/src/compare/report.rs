//! What the comparison writes: `compare.md` for people, `compare.json` for machines, and a plot
//! for each cell.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::{Against, Arm, Cell, against};
use crate::machine::Machine;
use crate::plot::{self, Bar, number};
use crate::sample::{Collected, Summary};
use crate::scratch::keep;
use crate::stats::Spread;
use crate::systems::Kind;
use crate::workloads::skew_name;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    command: String,
    machine: Machine,
    keys: u64,
    value_bytes: u32,
    seconds: f64,
    rounds: u32,
    systems: Vec<Described>,
    skipped: Vec<Described>,
    cells: Vec<Measured>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    name: String,
    what: String,
    /// Of one processor, while nobody asks it anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    idle_processors: Option<f64>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Measured {
    name: String,
    workload: &'static str,
    keys: String,
    connections: u32,
    depth: u32,
    arms: Vec<MeasuredArm>,
    against: Vec<Against>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MeasuredArm {
    name: String,
    #[serde(skip)]
    colour: usize,
    #[serde(flatten)]
    summary: Summary,
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        keys: u64,
        value_bytes: u32,
        seconds: f64,
        rounds: u32,
        command: String,
    ) -> Self {
        Self {
            command,
            machine,
            keys,
            value_bytes,
            seconds,
            rounds,
            systems: Vec::new(),
            skipped: Vec::new(),
            cells: Vec::new(),
        }
    }

    pub(super) fn system(&mut self, name: &str, what: String) {
        self.systems.push(Described {
            name: name.to_owned(),
            what,
            idle_processors: None,
        });
    }

    pub(super) fn skipped(&mut self, name: &str, what: String) {
        self.skipped.push(Described {
            name: name.to_owned(),
            what,
            idle_processors: None,
        });
    }

    pub(super) fn idle(&mut self, idle: Vec<(String, f64)>) {
        for (name, processors) in idle {
            for system in self.systems.iter_mut().filter(|it| it.name == name) {
                system.idle_processors = Some(processors);
            }
        }
    }

    pub(super) fn add(&mut self, cell: &Cell, arms: &[Arm], collected: &[Collected]) {
        self.cells.push(Measured {
            name: cell.name(),
            workload: cell.workload.name(),
            keys: skew_name(cell.skew),
            connections: cell.connections,
            depth: cell.depth,
            arms: arms
                .iter()
                .zip(collected)
                .map(|(arm, collected)| MeasuredArm {
                    name: arm.name.clone(),
                    colour: match arm.kind {
                        Kind::Cairn3 => 0,
                        Kind::Redis => 1,
                        Kind::Etcd => 2,
                        Kind::Cairn5 => 3,
                    },
                    summary: collected.summary(),
                })
                .collect(),
            against: against(arms, collected),
        });
    }

    pub(super) fn has_figures(&self) -> bool {
        !self.cells.is_empty()
    }

    /// Whether every answer was good, and there were some.
    pub(super) fn is_sound(&self) -> bool {
        self.cells.iter().flat_map(|cell| &cell.arms).all(|arm| {
            let summary = &arm.summary;
            summary.errors.is_empty()
                && summary.missing_keys == 0
                && summary.operations_per_second.min > 0.0
        })
    }

    /// Writes all of it and returns the page for people.
    pub(super) fn write(&self, results: &Path) -> Result<PathBuf> {
        let write = |name: &str, text: String| keep(results, name, &text);
        write("compare.json", serde_json::to_string_pretty(self)? + "\n")?;
        for cell in &self.cells {
            let bars: Vec<Bar> = cell
                .arms
                .iter()
                .map(|arm| Bar {
                    label: arm.name.clone(),
                    value: arm.summary.operations_per_second,
                    colour: arm.colour,
                })
                .collect();
            let title = cell.title();
            write(
                &format!("compare-{}.svg", cell.name),
                plot::bars(&title, "operations per second", &bars),
            )?;
        }
        write("compare.md", self.to_markdown())
    }

    fn to_markdown(&self) -> String {
        let mut text = format!(
            "# Cairn beside its peers\n\n\
             Written by `{}`; [docs/benchmarks.md](../../docs/benchmarks.md) says how to read it.\n\n\
             Machine: {}. All servers and the driver run on it, over loopback. {} keys of 16 \
             bytes, values of {} bytes, {} round{} of {} s in turn: medians, with the lowest and \
             the highest round.\n\n",
            self.command,
            self.machine.sentence(),
            self.keys,
            self.value_bytes,
            self.rounds,
            if self.rounds == 1 { "" } else { "s" },
            self.seconds
        );
        for system in &self.systems {
            let idle = system.idle_processors.map_or_else(String::new, |idle| {
                format!(" Takes {:.1} % of one processor while idle.", idle * 100.0)
            });
            let _ = writeln!(text, "- **{}**: {}.{idle}", system.name, system.what);
        }
        for skipped in &self.skipped {
            let _ = writeln!(text, "- **{} was skipped**: {}", skipped.name, skipped.what);
        }
        for cell in &self.cells {
            cell.to_markdown(&mut text);
        }
        text
    }
}

impl Measured {
    fn title(&self) -> String {
        let depth = match self.depth {
            1 => "one operation under way on each".to_owned(),
            depth => format!("{depth} operations under way on each"),
        };
        let many = if self.connections == 1 { "" } else { "s" };
        format!(
            "{}, {} connection{many}, {depth}, {} keys",
            self.workload, self.connections, self.keys
        )
    }

    fn to_markdown(&self, text: &mut String) {
        let _ = write!(
            text,
            "\n## {}\n\n![{}](compare-{}.svg)\n\n\
             | system | operations/s | p50 ms | p99 ms | p99.9 ms | servers' CPU us | driver's CPU us \
             | to disk B | loopback B | memory MiB | fdatasync/s | loopback us | others' processors |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            self.title(),
            self.name,
            self.name
        );
        for arm in &self.arms {
            let summary = &arm.summary;
            let latency = summary.latency_ms;
            let _ = writeln!(
                text,
                "| {} | {} | {:.2} | {:.2} | {:.2} | {:.1} | {:.1}{} | {} | {} | {} | {} | {:.1} | {:.2} |",
                arm.name,
                range(summary.operations_per_second),
                latency.p50,
                latency.p99,
                latency.p999,
                summary.server_cpu_us.median,
                summary.driver_cpu_us.median,
                if summary.driver_bound { " (busy)" } else { "" },
                number(summary.disk_bytes.median),
                number(summary.loopback_bytes.median),
                number(summary.resident_mib.median),
                number(summary.fdatasyncs_per_second.median),
                summary.loopback_us.median,
                summary.others_processors.median
            );
        }
        if !self.against.is_empty() {
            text.push_str(
                "\nOperations per second, Cairn's divided by the peer's of the same round:\n\n",
            );
        }
        for of in &self.against {
            let _ = writeln!(
                text,
                "- {} against {}: {:.2} ({:.2} to {:.2})",
                of.ours, of.theirs, of.ratio.median, of.ratio.min, of.ratio.max
            );
        }
        for arm in &self.arms {
            for (kind, count) in &arm.summary.errors {
                let _ = writeln!(text, "\n{}: {count} errors: {kind}", arm.name);
            }
            if arm.summary.missing_keys > 0 {
                let _ = writeln!(
                    text,
                    "\n{}: {} reads found no key",
                    arm.name, arm.summary.missing_keys
                );
            }
        }
    }
}

fn range(spread: Spread) -> String {
    format!(
        "{} ({} to {})",
        number(spread.median),
        number(spread.min),
        number(spread.max)
    )
}
