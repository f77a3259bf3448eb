//! The dashboard as a file: whether Grafana would take it, and Prometheus what it asks.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::metrics_table::{Table, repository};
use cairn_process_tests::prometheus::{NO_PROMETHEUS, is_installed, promtool};
use cairn_process_tests::skip;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The version of the format, as of Grafana 9.
const SCHEMA: u64 = 37;
const COLUMNS: u64 = 24;

fn dashboard() -> Result<Value> {
    let text = fs::read_to_string(repository().join("monitoring/dashboard.json"))?;
    serde_json::from_str(&text).context("monitoring/dashboard.json")
}

fn list<'a>(of: &'a Value, field: &str) -> Result<&'a Vec<Value>> {
    of[field]
        .as_array()
        .with_context(|| format!("no list {field}: {of}"))
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

/// The expressions of a panel or a variable, with values in the place of variables.
fn expressions(dashboard: &Value) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for panel in list(dashboard, "panels")? {
        if panel["type"] != "row" {
            for target in list(panel, "targets")? {
                found.push(text(target, "expr").to_owned());
            }
        }
    }
    for variable in list(&dashboard["templating"], "list")? {
        if variable["type"] == "query" {
            let query = text(variable, "definition");
            let inside = query
                .strip_prefix("label_values(")
                .and_then(|q| q.rsplit_once(','));
            let (selector, _) = inside.with_context(|| format!("a variable's query: {query}"))?;
            found.push(selector.to_owned());
        }
    }
    Ok(found
        .into_iter()
        .map(|expression| {
            expression
                .replace("$__rate_interval", "5m")
                .replace("$namespace", "a")
                .replace("$cluster", "b")
                .replace("$instance", "c")
        })
        .collect())
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_has_its_place() -> Result<()> {
    let dashboard = dashboard()?;
    ensure!(
        dashboard["schemaVersion"] == SCHEMA,
        "{}",
        dashboard["schemaVersion"]
    );
    ensure!(dashboard["id"].is_null(), "an id belongs to one Grafana");
    ensure!(!text(&dashboard, "uid").is_empty() && !text(&dashboard, "title").is_empty());
    let (mut ids, mut cells) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard, "panels")? {
        let title = text(panel, "title");
        ensure!(!title.is_empty(), "a panel without a title: {panel}");
        ensure!(
            ids.insert(panel["id"].as_u64()),
            "{title}: its id is another's"
        );
        let place = |field: &str| panel["gridPos"][field].as_u64().context("a place");
        let (x, y, w, h) = (place("x")?, place("y")?, place("w")?, place("h")?);
        ensure!(w > 0 && h > 0 && x + w <= COLUMNS, "{title} lies outside");
        for column in x..x + w {
            for row in y..y + h {
                ensure!(cells.insert((column, row)), "{title} lies on another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        ensure!(
            text(panel, "description").len() > 20,
            "{title} has no description"
        );
        let unit = text(&panel["fieldConfig"]["defaults"], "unit");
        ensure!(!unit.is_empty(), "{title} has no unit");
        let mut refs = BTreeSet::new();
        for target in list(panel, "targets")? {
            ensure!(
                refs.insert(text(target, "refId")),
                "{title}: two queries of one refId"
            );
            ensure!(!text(target, "expr").is_empty(), "{title} asks nothing");
            let source = text(&target["datasource"], "uid");
            ensure!(source == "${datasource}", "{title} asks {source}");
        }
        ensure!(!refs.is_empty(), "{title} asks nothing");
    }
    Ok(())
}

#[test]
fn every_query_is_about_metrics_and_labels_that_there_are() -> Result<()> {
    let table = Table::read()?;
    let expressions = expressions(&dashboard()?)?;
    ensure!(expressions.len() > 20, "{} queries", expressions.len());
    for expression in expressions {
        let problems = table.unknown_in(&expression);
        ensure!(problems.is_empty(), "{expression}: {problems:?}");
        ensure!(
            !expression.contains('$'),
            "{expression}: an unknown variable"
        );
    }
    Ok(())
}

#[test]
fn prometheus_takes_every_query() -> Result<()> {
    if !is_installed() {
        return skip::without(NO_PROMETHEUS);
    }
    // Queries are not checked as such; recording rules are.
    let rules: Vec<Value> = expressions(&dashboard()?)?
        .into_iter()
        .enumerate()
        .map(
            |(number, expression)| json!({"record": format!("query:{number}"), "expr": expression}),
        )
        .collect();
    let folder = TempDir::with_prefix("cairn-dashboard-")?;
    let file = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    fs::write(folder.path().join("rules.json"), file.to_string())?;
    promtool(folder.path(), &["check", "rules", "rules.json"])
}
