//! The tables of docs/metrics.md, to hold to them what nodes tell and what rules and
//! dashboards ask for. `ci/check-tree` holds them to the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

/// Labels that the scrape gives, whatever the metric.
pub const TARGET_LABELS: [&str; 6] = [
    "namespace",
    "cairn_cluster",
    "cairn_role",
    "pod",
    "job",
    "instance",
];

/// What is known of a metric besides its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Metric {
    /// `counter`, `gauge` or `histogram`.
    pub kind: String,
    /// Its labels.
    pub labels: BTreeSet<String>,
}

/// The metrics by name.
#[derive(Clone, Debug)]
pub struct Table(BTreeMap<String, Metric>);

/// The repository.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn quoted(cell: &str) -> impl Iterator<Item = String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned)
}

impl Table {
    /// Reads docs/metrics.md.
    ///
    /// # Errors
    /// Where it cannot be read, or a row has not its four cells.
    pub fn read() -> Result<Self> {
        let text = std::fs::read_to_string(repository().join("docs/metrics.md"))?;
        let mut metrics = BTreeMap::new();
        for line in text.lines() {
            let rest = line.strip_prefix("| ");
            let Some(rest) =
                rest.filter(|r| r.starts_with("`cairn_") || r.starts_with("`process_"))
            else {
                continue;
            };
            let cells: Vec<&str> = rest.split('|').map(str::trim).collect();
            let [names, kind, labels, ..] = cells.as_slice() else {
                bail!("a row of docs/metrics.md: {line}");
            };
            for name in quoted(names) {
                let metric = Metric {
                    kind: (*kind).to_owned(),
                    labels: quoted(labels).collect(),
                };
                metrics.insert(name, metric);
            }
        }
        ensure!(metrics.len() > 50, "docs/metrics.md has {}", metrics.len());
        Ok(Self(metrics))
    }

    /// The metric that a series of this name belongs to, and whether the name is that of a
    /// histogram's buckets.
    #[must_use]
    pub fn of_series(&self, name: &str) -> Option<(&Metric, bool)> {
        if let Some(metric) = self.0.get(name).filter(|m| m.kind != "histogram") {
            return Some((metric, false));
        }
        ["_bucket", "_sum", "_count"].iter().find_map(|ending| {
            let metric = self.0.get(name.strip_suffix(ending)?)?;
            (metric.kind == "histogram").then_some((metric, *ending == "_bucket"))
        })
    }

    /// What a page of metrics tells that the tables do not, or tell otherwise.
    ///
    /// # Errors
    /// Where it is no page of metrics.
    pub fn contradictions(&self, page: &str) -> Result<Vec<String>> {
        let mut found = BTreeSet::new();
        for line in page.lines().filter(|line| !line.is_empty()) {
            if let Some(told) = line.strip_prefix("# TYPE ") {
                let (name, kind) = told.split_once(' ').context("a type without a name")?;
                match self.0.get(name) {
                    None => found.insert(format!("{name} is not listed")),
                    Some(metric) if metric.kind != kind => {
                        found.insert(format!("{name} is a {kind}, listed as {}", metric.kind))
                    }
                    Some(_) => false,
                };
            } else if !line.starts_with('#') {
                let end = line.find(['{', ' ']).context("a series without a value")?;
                let (name, rest) = line.split_at(end);
                let Some((metric, bucket)) = self.of_series(name) else {
                    found.insert(format!("{name} belongs to nothing that is listed"));
                    continue;
                };
                let mut wanted = metric.labels.clone();
                wanted.extend(bucket.then(|| "le".to_owned()));
                let told: BTreeSet<String> = match rest.strip_prefix('{') {
                    None => BTreeSet::new(),
                    Some(labels) => identifiers(labels.split_once('}').map_or("", |(l, _)| l))
                        .into_iter()
                        .map(|(name, _)| name)
                        .collect(),
                };
                if told != wanted {
                    found.insert(format!("{name} has {told:?}, listed with {wanted:?}"));
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// What is wrong with the names in a PromQL expression: a metric that is not listed, or a
    /// label that it has not.
    #[must_use]
    pub fn unknown_in(&self, expression: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut labels: BTreeSet<String> = TARGET_LABELS.map(str::to_owned).into();
        labels.insert("le".to_owned());
        let names = identifiers(expression);
        for (at, (name, end)) in names.iter().enumerate() {
            let ours = name.starts_with("cairn_") || name.starts_with("process_");
            let (is_metric, known) = match self.of_series(name) {
                Some((metric, bucket)) => {
                    let mut known = metric.labels.clone();
                    known.extend(TARGET_LABELS.map(str::to_owned));
                    known.extend(bucket.then(|| "le".to_owned()));
                    (true, known)
                }
                None if name == "up" => (true, TARGET_LABELS.map(str::to_owned).into()),
                None => (false, BTreeSet::new()),
            };
            if ours && !is_metric && !TARGET_LABELS.contains(&name.as_str()) {
                problems.push(format!("{name} is not listed"));
            }
            if !is_metric {
                continue;
            }
            labels.extend(known.iter().cloned());
            if let Some(close) = expression[*end..]
                .strip_prefix('{')
                .and_then(|r| r.find('}'))
            {
                let close = end + 1 + close;
                let inside = names[at + 1..].iter().take_while(|(_, e)| *e <= close);
                let wrong = inside.filter(|(label, _)| !known.contains(label));
                problems.extend(wrong.map(|(label, _)| format!("{name} has no label {label}")));
            }
        }
        for word in ["by", "on", "ignoring", "without"] {
            for (at, _) in expression.match_indices(&format!("{word} (")) {
                let rest = &expression[at + word.len() + 2..];
                let inside = rest.split_once(')').map_or(rest, |(inside, _)| inside);
                let wrong = identifiers(inside);
                let wrong = wrong.iter().filter(|(label, _)| !labels.contains(label));
                problems.extend(wrong.map(|(label, _)| format!("nothing has the label {label}")));
            }
        }
        problems
    }
}

/// The words of an expression that lie outside of quotes, each with where it ends. Durations
/// and numbers are none.
fn identifiers(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut quote = None;
    let mut word: Option<usize> = None;
    let ends_with_space = text.char_indices().chain([(text.len(), ' ')]);
    for (at, letter) in ends_with_space {
        if let Some(open) = quote {
            if letter == open {
                quote = None;
            }
            continue;
        }
        let belongs = letter == '_' || letter.is_ascii_alphanumeric();
        match word {
            None if belongs => word = Some(at),
            Some(start) if !belongs => {
                let found_word = &text[start..at];
                if !found_word.starts_with(|first: char| first.is_ascii_digit()) {
                    found.push((found_word.to_owned(), at));
                }
                word = None;
            }
            _ => {}
        }
        if letter == '"' || letter == '\'' {
            quote = Some(letter);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_labels_that_are_not_listed_are_found() {
        let table = Table::read().expect("the tables");
        for right in [
            "rate(cairn_writes_total[5m]) > 0",
            r#"sum by (namespace, served) (rate(cairn_reads_total{served="quorum",pod!=""}[1m]))"#,
            "histogram_quantile(0.99, sum by (le) (rate(cairn_wal_flush_seconds_bucket[5m])))",
            r#"up{cairn_cluster!=""} == 0"#,
        ] {
            assert_eq!(table.unknown_in(right), [] as [&str; 0], "{right}");
        }
        for wrong in [
            "cairn_nothing_total",
            "cairn_wal_flush_seconds > 1",
            "cairn_writes_total_bucket",
            r#"cairn_reads_total{by="quorum"}"#,
            "sum by (served) (cairn_writes_total)",
            r#"up{served="x"}"#,
        ] {
            assert!(!table.unknown_in(wrong).is_empty(), "{wrong}");
        }
    }

    #[test]
    fn a_page_that_tells_something_else_is_found() {
        let table = Table::read().expect("the tables");
        let right = "# TYPE cairn_logins_failed_total counter\n\
                     cairn_logins_failed_total{listener=\"resp\",reason=\"wrong\"} 1\n\n\
                     # TYPE cairn_wal_flush_seconds histogram\n\
                     cairn_wal_flush_seconds_bucket{le=\"0.1\"} 3\n\
                     cairn_wal_flush_seconds_sum 0.1\ncairn_wal_flush_seconds_count 3\n";
        let told = |page: &str| table.contradictions(page).expect("a page");
        assert_eq!(told(right), [] as [&str; 0]);
        for (from, to) in [
            ("_failed_total counter", "_failed_total gauge"),
            ("listener=\"resp\",", ""),
            ("cairn_wal_flush_seconds_sum", "cairn_wal_flush_seconds"),
            ("cairn_logins_failed_total{", "cairn_logins{"),
        ] {
            assert_eq!(told(&right.replace(from, to)).len(), 1, "{from}");
        }
    }
}
