//! What the trial of a counter writes: `count.md`, `count.json` and a plot.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Serialize;

use super::Added;
use crate::machine::Machine;
use crate::plot::{self, Bar, number};
use crate::scratch::keep;
use crate::stats::Spread;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    command: String,
    machine: Machine,
    nodes: u32,
    adders: u32,
    rounds: Vec<Round>,
}

/// One cluster's history.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Round {
    stages: Vec<Stage>,
    acknowledged: u64,
    unknown: u64,
    sum: i64,
}

/// Some seconds of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stage {
    pub(super) label: String,
    pub(super) per_second: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// For how long nobody's addition was acknowledged, at most.
    pub(super) pause_ms: f64,
    pub(super) refused: u64,
    pub(super) unknown: u64,
}

impl Stage {
    pub(super) fn sentence(&self) -> String {
        format!(
            "{}: {} additions/s, p50 {:.1} ms, p99 {:.1} ms, longest pause {:.0} ms, {} refused, {} unknown",
            self.label,
            number(self.per_second),
            self.p50_ms,
            self.p99_ms,
            self.pause_ms,
            self.refused,
            self.unknown
        )
    }
}

impl Round {
    pub(super) fn new(stages: Vec<Stage>, added: Added, sum: i64) -> Self {
        Self {
            stages,
            acknowledged: added.acknowledged,
            unknown: added.unknown,
            sum,
        }
    }

    /// Whether the counter is what was acknowledged, and at most what may have been done besides.
    fn is_exact(&self) -> bool {
        let possible = self.acknowledged..=self.acknowledged + self.unknown;
        u64::try_from(self.sum).is_ok_and(|sum| possible.contains(&sum))
    }

    pub(super) fn sentence(&self) -> String {
        format!(
            "{} additions acknowledged, {} unknown; the counter is {}: {}",
            self.acknowledged,
            self.unknown,
            self.sum,
            match (self.is_exact(), self.unknown) {
                (true, 0) => "exact",
                (true, _) => "as exact as can be told",
                (false, _) => "WRONG",
            }
        )
    }
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        command: String,
        (nodes, adders): (u32, u32),
        rounds: Vec<Round>,
    ) -> Self {
        Self {
            command,
            machine,
            nodes,
            adders,
            rounds,
        }
    }

    pub(super) fn has_figures(&self) -> bool {
        !self.rounds.is_empty()
    }

    pub(super) fn is_exact(&self) -> bool {
        self.rounds.iter().all(Round::is_exact)
    }

    /// Each stage with what it was in every round.
    fn stages(&self) -> impl Iterator<Item = (&str, Vec<&Stage>)> {
        let labels = self.rounds.first().map_or(&[][..], |round| &round.stages);
        labels.iter().enumerate().map(|(at, stage)| {
            let of_all = self.rounds.iter().filter_map(|round| round.stages.get(at));
            (stage.label.as_str(), of_all.collect())
        })
    }

    pub(super) fn write(&self, results: &Path) -> Result<PathBuf> {
        keep(
            results,
            "count.json",
            &(serde_json::to_string_pretty(self)? + "\n"),
        )?;
        let bars: Vec<Bar> = self
            .stages()
            .map(|(label, stages)| Bar {
                label: label.to_owned(),
                value: Spread::of(stages.iter().map(|stage| stage.per_second)),
                colour: usize::from(label.contains("killed")),
            })
            .collect();
        let plot = plot::bars("Additions to one counter", "additions per second", &bars);
        keep(results, "count.svg", &plot)?;
        keep(results, "count.md", &self.to_markdown())
    }

    fn to_markdown(&self) -> String {
        let mut text = format!(
            "# One counter through kills and other numbers of stripes\n\n\
             Written by `{}`; [docs/benchmarks.md](../../docs/benchmarks.md) says how to read it.\n\n\
             Machine: {}. {} data nodes, {} additions under way at once. Medians of {} rounds, with the \
             lowest and the highest; of pauses the longest.\n\n![additions](count.svg)\n\n\
             | stage | additions/s | p50 ms | p99 ms | longest pause ms | refused | outcome unknown |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
            self.command,
            self.machine.sentence(),
            self.nodes,
            self.adders,
            self.rounds.len()
        );
        for (label, stages) in self.stages() {
            let spread = |of: fn(&Stage) -> f64| Spread::of(stages.iter().map(|stage| of(stage)));
            let rate = spread(|stage| stage.per_second);
            let _ = writeln!(
                text,
                "| {label} | {} ({} to {}) | {:.1} | {:.1} | {:.0} | {} | {} |",
                number(rate.median),
                number(rate.min),
                number(rate.max),
                spread(|stage| stage.p50_ms).median,
                spread(|stage| stage.p99_ms).median,
                spread(|stage| stage.pause_ms).max,
                stages.iter().map(|stage| stage.refused).sum::<u64>(),
                stages.iter().map(|stage| stage.unknown).sum::<u64>()
            );
        }
        text.push('\n');
        for (at, round) in (1..).zip(&self.rounds) {
            let _ = writeln!(text, "- round {at}: {}", round.sentence());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(acknowledged: u64, unknown: u64, sum: i64) -> Round {
        let added = Added {
            acknowledged,
            unknown,
            refused: 0,
        };
        Round::new(Vec::new(), added, sum)
    }

    #[test]
    fn a_counter_may_be_what_was_acknowledged_and_what_is_unknown_alone() {
        assert!(round(10, 0, 10).is_exact());
        assert!(round(10, 0, 10).sentence().ends_with(": exact"));
        assert!(round(10, 2, 12).is_exact());
        for wrong in [
            round(10, 0, 9),
            round(10, 0, 11),
            round(10, 2, 13),
            round(0, 0, -1),
        ] {
            assert!(!wrong.is_exact(), "{wrong:?}");
            assert!(wrong.sentence().ends_with("WRONG"));
        }
    }
}
