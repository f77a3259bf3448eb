//! The schema as the API server will see it, the rules, and what is generated.

mod documentation;
mod examples;
mod generated;
mod rules;
mod schema;
// Shared with the test of the chart.
#[path = "../../tests/strict/mod.rs"]
mod strict;

use serde_json::Value;

use crate::definition;

/// The schema of the whole resource.
fn root() -> Value {
    let definition = serde_json::to_value(definition()).unwrap();
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// Calls for each schema below this one, itself included, with the path of its field.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            walk(&format!("{path}.{name}"), property, visit);
        }
    }
    if schema["items"].is_object() {
        walk(&format!("{path}[]"), &schema["items"], visit);
    }
    if schema["additionalProperties"].is_object() {
        walk(&format!("{path}.*"), &schema["additionalProperties"], visit);
    }
}

/// Where schemas begin that are Kubernetes' own.
const FOREIGN: [&str; 7] = [
    ".spec.imagePullSecrets[]",
    ".spec.coordinators.resources",
    ".spec.data.resources",
    ".scheduling.tolerations[]",
    ".scheduling.affinity",
    ".scheduling.topologySpreadConstraints[]",
    ".status.conditions[]",
];

/// Whether a field is inside of a type of Kubernetes.
fn is_foreign(path: &str) -> bool {
    FOREIGN.iter().any(|foreign| {
        path.find(foreign)
            .is_some_and(|at| !path[at + foreign.len()..].is_empty())
    })
}
