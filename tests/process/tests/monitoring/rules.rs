//! The rules as files: complete, tested, and about metrics that there are.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::metrics_table::{Table, repository};
use cairn_process_tests::prometheus::{NO_PROMETHEUS, is_installed, promtool};
use cairn_process_tests::skip;
use serde_json::Value;

/// A file of the repository that is YAML.
fn yaml(path: &str) -> Result<Value> {
    let text = fs::read_to_string(repository().join(path))?;
    serde_saphyr::from_str(&text).with_context(|| path.to_owned())
}

/// The rules, as a file of them.
pub(crate) fn file() -> Result<Value> {
    yaml("monitoring/alerts.yaml")
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of[field].as_str().unwrap_or_default()
}

/// Every rule, by the name of its alert.
fn alerts() -> Result<BTreeMap<String, Value>> {
    let file = file()?;
    let groups = file["groups"].as_array().context("groups")?;
    let rules = groups.iter().filter_map(|group| group["rules"].as_array());
    let mut alerts = BTreeMap::new();
    for rule in rules.flatten() {
        let name = text(rule, "alert").to_owned();
        ensure!(!name.is_empty(), "a rule that is no alert: {rule}");
        let twice = alerts.insert(name.clone(), rule.clone());
        ensure!(twice.is_none(), "{name} is there twice");
    }
    ensure!(alerts.len() > 20, "{} alerts", alerts.len());
    Ok(alerts)
}

#[test]
fn every_alert_says_how_bad_it_is_what_it_is_and_what_to_do() -> Result<()> {
    let runbooks = repository().join("docs/runbooks");
    let index = fs::read_to_string(runbooks.join("README.md"))?;
    let alerts = alerts()?;
    for (name, rule) in &alerts {
        let severity = text(&rule["labels"], "severity");
        ensure!(
            ["warning", "critical"].contains(&severity),
            "{name}: {severity}"
        );
        let annotations = &rule["annotations"];
        ensure!(
            text(annotations, "summary").len() > 10,
            "{name} has no summary"
        );
        let description = text(annotations, "description");
        let of_whom = ["$labels.cairn_cluster", "$labels.namespace"];
        ensure!(
            of_whom.iter().any(|label| description.contains(label)),
            "{name} does not say which cluster it is about"
        );
        let page = format!("docs/runbooks/{name}.md");
        ensure!(text(annotations, "runbook_url") == page, "{name}: {page}");
        let runbook = fs::read_to_string(repository().join(&page)).context(page)?;
        let mut at = 0;
        for part in [
            format!("# {name}\n"),
            format!("Severity: {severity}."),
            "\n## What it means\n".to_owned(),
            "\n## How bad\n".to_owned(),
            "\n## What to look at\n".to_owned(),
            "\n## What to do\n".to_owned(),
        ] {
            let found = runbook[at..].find(&part);
            at += found.with_context(|| format!("{name}.md lacks {part:?}"))?;
        }
        let row = format!("| [{name}]({name}.md) | {severity} | ");
        ensure!(
            index.contains(&row),
            "docs/runbooks/README.md lacks {row:?}"
        );
    }
    for entry in fs::read_dir(runbooks)? {
        let file = entry?.file_name().into_string().unwrap_or_default();
        let name = file.strip_suffix(".md").context(file.clone())?;
        ensure!(
            name == "README" || alerts.contains_key(name),
            "{file} is about no alert"
        );
    }
    Ok(())
}

#[test]
fn every_alert_is_about_metrics_and_labels_that_there_are() -> Result<()> {
    let table = Table::read()?;
    for (name, rule) in alerts()? {
        let problems = table.unknown_in(text(&rule, "expr"));
        ensure!(problems.is_empty(), "{name}: {problems:?}");
    }
    Ok(())
}

#[test]
fn every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> Result<()> {
    let tests = yaml("monitoring/alerts.test.yaml")?;
    let (mut fires, mut does_not) = (BTreeSet::new(), BTreeSet::new());
    let tests = tests["tests"].as_array().context("tests")?;
    let checks = tests
        .iter()
        .filter_map(|test| test["promql_expr_test"].as_array());
    for check in checks.flatten() {
        let (_, rest) = text(check, "expr")
            .split_once("ALERTS{alertname=\"")
            .context("a check of no alert")?;
        let (name, _) = rest.split_once('"').context("a name")?;
        let expected = check["exp_samples"]
            .as_array()
            .context("what is expected")?;
        if expected.is_empty() {
            does_not.insert(name.to_owned());
        } else {
            fires.insert(name.to_owned());
        }
    }
    let names: BTreeSet<String> = alerts()?.into_keys().collect();
    ensure!(fires == names, "fire: {:?}", &fires ^ &names);
    ensure!(does_not == names, "do not: {:?}", &does_not ^ &names);
    Ok(())
}

#[test]
fn prometheus_takes_the_rules_and_each_fires_when_it_should() -> Result<()> {
    if !is_installed() {
        return skip::without(NO_PROMETHEUS);
    }
    let folder = repository().join("monitoring");
    promtool(&folder, &["check", "rules", "--lint-fatal", "alerts.yaml"])?;
    promtool(&folder, &["test", "rules", "alerts.test.yaml"])
}

#[test]
fn every_alert_is_made_to_fire_on_real_processes() -> Result<()> {
    let provoked = crate::live::PROVOKED.into_iter();
    let provoked = provoked.chain(crate::operator::PROVOKED);
    let provoked: BTreeSet<String> = provoked.map(str::to_owned).collect();
    let names: BTreeSet<String> = alerts()?.into_keys().collect();
    ensure!(provoked == names, "{:?}", &provoked ^ &names);
    Ok(())
}
