//! What the load in a pod tells a test, as lines of JSON on its output.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What happened between two marks.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// The name of the later one.
    pub mark: String,
    /// How long that was, milliseconds.
    pub took_ms: u32,
    /// Requests that were refused for good, or whose outcome is unknown.
    pub failed: u64,
    /// What clients were told, by kind: those that they tried again included.
    pub errors: BTreeMap<String, u64>,
    /// The longest time in which some partition acknowledged nothing, milliseconds.
    pub longest_gap_ms: u32,
    /// The median over the partitions of the longest time of each, milliseconds.
    pub median_gap_ms: u32,
    /// The 99th percentile of how long requests took, milliseconds.
    pub p99_ms: f64,
    /// Promises that were broken so far.
    pub broken: Vec<String>,
}

/// What became of every write that was acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// How many were.
    pub acknowledged: u64,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

impl Told {
    /// The line of JSON.
    ///
    /// # Panics
    /// Never: every key is a string.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("maps have strings for keys")
    }

    /// The one of that mark in what the load printed.
    #[must_use]
    pub fn find(printed: &str, mark: &str) -> Option<Self> {
        let mut told = printed
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok());
        told.find(|told: &Self| told.mark == mark)
    }
}

impl Verdict {
    /// The line of JSON.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn line(&self) -> String {
        serde_json::to_string(self).expect("plain fields")
    }

    /// The one in what the load printed.
    #[must_use]
    pub fn find(printed: &str) -> Option<Self> {
        printed
            .lines()
            .find_map(|line| serde_json::from_str(line).ok())
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {:.1} s; {} requests failed; longest pause of a partition {} ms (median {}); \
             p99 {:.0} ms; retried {:?}",
            self.mark,
            f64::from(self.took_ms) / 1e3,
            self.failed,
            self.longest_gap_ms,
            self.median_gap_ms,
            self.p99_ms,
            self.errors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_found_among_other_lines() {
        let told = Told {
            mark: "grown".to_owned(),
            took_ms: 1500,
            failed: 2,
            errors: BTreeMap::from([("MOVED".to_owned(), 7)]),
            longest_gap_ms: 30,
            median_gap_ms: 20,
            p99_ms: 4.5,
            broken: vec![],
        };
        let verdict = Verdict {
            acknowledged: 3,
            broken: vec!["lost".to_owned()],
        };
        let printed = format!("the load runs\n{}\n{}\n", told.line(), verdict.line());
        assert_eq!(Told::find(&printed, "grown").unwrap().errors["MOVED"], 7);
        assert!(Told::find(&printed, "shrunk").is_none());
        assert_eq!(Verdict::find(&printed).unwrap().broken, ["lost"]);
        assert!(Verdict::find("the load runs\n").is_none());
    }
}
