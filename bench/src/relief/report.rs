//! What the trial of relief writes: `relief.md`, `relief.json` and a plot.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::Moments;
use crate::machine::Machine;
use crate::plot::{self, Line, number};
use crate::scratch::keep;
use crate::stats::Spread;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    command: String,
    machine: Machine,
    nodes: u32,
    share: f64,
    rounds: Vec<Round>,
}

/// One cluster's history. Times are in seconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Round {
    /// Reads a second, as the data nodes tell them.
    rates: Vec<(f64, f64)>,
    named: Option<f64>,
    known: Option<f64>,
    copied: Option<f64>,
    copied_last: Option<f64>,
    copies: usize,
    /// After the last request.
    cool: Option<f64>,
    rest: Option<f64>,
    /// Reads a second before the first copy and after the last one was made, each at its median.
    before: Option<f64>,
    after: Option<f64>,
}

impl Round {
    pub(super) fn new(seen: Moments, ended: Duration) -> Self {
        let rates = seen.rates.iter();
        let rates: Vec<(f64, f64)> = rates.map(|(at, rate)| (at.as_secs_f64(), *rate)).collect();
        let seconds = |moment: Option<Duration>| moment.map(|moment| moment.as_secs_f64());
        let (copied, copied_last) = (seconds(seen.copied), seconds(seen.copied_last));
        let ended = ended.as_secs_f64();
        let median = |from: f64, until: f64| {
            let among = rates.iter().filter(|(at, _)| *at >= from && *at < until);
            let among: Vec<f64> = among.map(|(_, rate)| *rate).collect();
            (!among.is_empty()).then(|| Spread::of(among).median)
        };
        // The nodes' figures follow by some seconds.
        let before = median(5.0, copied.unwrap_or(ended));
        // A copy answers once it holds the partition and clients have heard of it.
        let after = copied_last.and_then(|last| median(last + 5.0, ended));
        Self {
            named: seconds(seen.named),
            known: seconds(seen.known),
            copied,
            copied_last,
            copies: seen.copies,
            cool: seconds(seen.cool),
            rest: seconds(seen.rest),
            before,
            after,
            rates,
        }
    }

    pub(super) fn sentence(&self) -> String {
        format!(
            "named after {}, known to the coordinators after {}, first copy after {}, the last of {} \
             after {}; {} reads/s before, {} after; nothing hot {} after the last request, at rest {}",
            told(self.named),
            told(self.known),
            told(self.copied),
            self.copies,
            told(self.copied_last),
            self.before.map_or_else(|| "-".to_owned(), number),
            self.after.map_or_else(|| "-".to_owned(), number),
            told(self.cool),
            told(self.rest)
        )
    }
}

fn told(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1} s"))
}

impl Report {
    pub(super) fn new(
        machine: Machine,
        command: String,
        (nodes, share): (u32, f64),
        rounds: Vec<Round>,
    ) -> Self {
        Self {
            command,
            machine,
            nodes,
            share,
            rounds,
        }
    }

    pub(super) fn has_figures(&self) -> bool {
        !self.rounds.is_empty()
    }

    pub(super) fn write(&self, results: &Path) -> Result<PathBuf> {
        keep(
            results,
            "relief.json",
            &(serde_json::to_string_pretty(self)? + "\n"),
        )?;
        let lines: Vec<Line> = (1..)
            .zip(&self.rounds)
            .map(|(number, round)| Line {
                label: format!("round {number}"),
                points: round
                    .rates
                    .iter()
                    .map(|(at, rate)| (*at, Spread::of(vec![*rate])))
                    .collect(),
            })
            .collect();
        let plot = plot::lines(
            "Reads while a hot key gets copies",
            "seconds since the first request",
            "reads per second",
            &lines,
        );
        keep(results, "relief.svg", &plot)?;
        keep(results, "relief.md", &self.to_markdown())
    }

    fn to_markdown(&self) -> String {
        let mut text = format!(
            "# From the first hot request to rest\n\n\
             Written by `{}`; [docs/benchmarks.md](../../docs/benchmarks.md) says how to read it.\n\n\
             Machine: {}. {} data nodes, each held to {} % of one processor. Half of all reads, at the \
             level `replica`, are of one key.\n\n![reads](relief.svg)\n\n\
             | round | named by a node | known to the coordinators | first copy | last copy | copies \
             | reads/s before | after | not hot after the last request | no copies left |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
            self.command,
            self.machine.sentence(),
            self.nodes,
            self.share * 100.0
        );
        for (at, round) in (1..).zip(&self.rounds) {
            let _ = writeln!(
                text,
                "| {at} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                told(round.named),
                told(round.known),
                told(round.copied),
                told(round.copied_last),
                round.copies,
                round.before.map_or_else(|| "-".to_owned(), number),
                round.after.map_or_else(|| "-".to_owned(), number),
                told(round.cool),
                told(round.rest)
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_tells_what_copies_brought() {
        let at = |seconds| Some(Duration::from_secs(seconds));
        let seen = Moments {
            named: at(1),
            known: at(2),
            copied: at(12),
            copied_last: at(14),
            copies: 2,
            cool: at(3),
            rest: None,
            rates: Vec::new(),
        };
        let rates = (0..40)
            .map(|at| (Duration::from_secs(at), if at < 14 { 100.0 } else { 150.0 }))
            .collect();
        let round = Round::new(Moments { rates, ..seen }, Duration::from_secs(40));
        assert_eq!((round.before, round.after), (Some(100.0), Some(150.0)));
        let sentence = round.sentence();
        assert!(sentence.contains("named after 1.0 s"), "{sentence}");
        assert!(sentence.ends_with("at rest never"), "{sentence}");
    }
}
