//! `docs/kvcluster.md`: every field that is ours, from the schema.

use std::fmt::Write as _;

use serde_json::Value;

use super::{is_foreign, root, walk};

const HEAD: &str = "\
# KvCluster

<!-- Written by the tests of the crate cairn-crds, with UPDATE_EXPECT=1. -->

Every field of `cairn.dev/v1alpha1`, as `kubectl explain kvc.spec --recursive` tells it too.
[kubernetes.md](kubernetes.md) says how to use them. Sizes are numbers of bytes with an
optional unit: `Ki`, `Mi`, `Gi`, `Ti`, `k`, `M`, `G`, `T`. Types with a capital letter are those of
Kubernetes.
";

/// The whole page.
pub(super) fn reference() -> String {
    let root = root();
    let mut page = HEAD.to_owned();
    table(&mut page, "What is asked for", ".spec", &root);
    page.push_str("\n## What is refused\n\n");
    page.push_str("When a manifest is applied the API server refuses it, with these messages:\n\n");
    walk("", &root, &mut |_, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let line = format!("- {}.\n", word(&rule["message"]));
            // Both roles have the rules of storage.
            if !page.contains(&line) {
                page.push_str(&line);
            }
        }
    });
    table(&mut page, "What is answered", ".status", &root);
    page
}

fn table(page: &mut String, title: &str, part: &str, root: &Value) {
    write!(
        page,
        "\n## {title}\n\n| field | value | default | what for |\n"
    )
    .unwrap();
    page.push_str("| --- | --- | --- | --- |\n");
    walk("", root, &mut |path, schema| {
        let is_field = path.starts_with(&format!("{part}."))
            && !path.ends_with("[]")
            && !path.ends_with(".*")
            && !is_foreign(path);
        if is_field {
            let (value, default) = (value(path, schema), default(path, schema, root));
            let description = word(&schema["description"]).replace('|', "\\|");
            writeln!(
                page,
                "| `{}` | {value} | {default} | {description} |",
                &path[1..]
            )
            .unwrap();
        }
    });
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// What may stand there.
fn value(path: &str, schema: &Value) -> String {
    if let Some(kind) = foreign(path) {
        return kind.to_owned();
    }
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().map(|it| format!("`{}`", word(it))).collect();
        return words.join(", ");
    }
    match word(&schema["type"]) {
        "integer" => match (&schema["minimum"], &schema["maximum"]) {
            (Value::Number(least), Value::Number(most)) => {
                // The definition holds them as floating point.
                let whole = |number: &serde_json::Number| number.as_f64().unwrap_or_default();
                format!("{} to {}", whole(least), whole(most))
            }
            _ => "number".to_owned(),
        },
        "string" => "text".to_owned(),
        "boolean" => "`true`, `false`".to_owned(),
        "array" => format!("list of {}", item(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => "map".to_owned(),
        "object" => String::new(),
        _ => "size".to_owned(),
    }
}

fn item(items: &Value) -> &str {
    match word(&items["type"]) {
        "string" => "text",
        _ => "objects",
    }
}

/// The type of Kubernetes that a field is of.
fn foreign(path: &str) -> Option<&'static str> {
    [
        ("imagePullSecrets", "list of LocalObjectReference"),
        ("resources", "ResourceRequirements"),
        ("tolerations", "list of Toleration"),
        ("affinity", "Affinity"),
        (
            "topologySpreadConstraints",
            "list of TopologySpreadConstraint",
        ),
        ("conditions", "list of Condition"),
    ]
    .into_iter()
    .find_map(|(field, kind)| path.ends_with(&format!(".{field}")).then_some(kind))
}

/// The default, or that there must be something.
fn default(path: &str, schema: &Value, root: &Value) -> String {
    let (parent, name) = path.rsplit_once('.').unwrap_or_default();
    match &schema["default"] {
        Value::Null => {
            let mut told = String::new();
            walk("", root, &mut |path, schema| {
                if path != parent {
                    return;
                }
                let names = schema["required"].as_array();
                if let Some(given) = schema["default"][name].as_str() {
                    told = format!("`{given}`");
                } else if names.is_some_and(|names| names.iter().any(|it| word(it) == name)) {
                    "required".clone_into(&mut told);
                }
            });
            told
        }
        // That of each field inside stands in its own line.
        Value::Object(_) => String::new(),
        Value::String(text) if text.is_empty() => String::new(),
        Value::String(text) => format!("`{text}`"),
        other => format!("`{other}`"),
    }
}
