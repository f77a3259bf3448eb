//! What of the schema the types do not say.
//!
//! [`finish`] brings the derived schema into the shape that an API server likes: it takes out
//! what it would warn of, and what would let `null` through. The other functions are the
//! schemas of fields whose type alone would allow too much.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use schemars::{Schema, SchemaGenerator, json_schema};

/// Names of Secrets and classes: a DNS subdomain.
pub(crate) const NAME: &str = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// Labels, as Kubernetes bounds their values.
pub(crate) fn labels(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 63},
    })
}

/// Annotations. A bound for each, where Kubernetes has one for all together.
pub(crate) fn annotations(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": {"type": "string", "maxLength": 4096},
    })
}

/// A number of bytes: `1073741824`, `1Gi` or `1.5Gi`. Other than a quantity of Kubernetes it
/// is never negative, and has no exponent and no fraction of a byte as its unit.
pub(crate) fn size(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "minimum": 0,
        "maxLength": 32,
        "pattern": r"^[0-9]+(\.[0-9]+)?([KMGTPE]i|[kMGTPE])?$",
    })
}

/// Brings a schema, and all below it, into shape.
///
/// - Nothing is nullable: the API server then drops a `null` before it fills in defaults, so that
///   `writeQuorum: null`, as templates like to write, is the same as no `writeQuorum`.
/// - Formats that Kubernetes does not know go: it warns of each whenever the schema is applied.
/// - Descriptions keep their first paragraph. Those of Kubernetes' own types are essays, with
///   which the definition would be too large for `kubectl apply` to remember it.
pub(crate) fn finish(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.format.as_deref().is_some_and(is_unknown) {
        schema.format = None;
    }
    if let Some(description) = &mut schema.description {
        *description = first_paragraph(description);
    }
    let properties = schema
        .properties
        .iter_mut()
        .flat_map(|map| map.values_mut());
    let branches = [&mut schema.all_of, &mut schema.any_of, &mut schema.one_of]
        .into_iter()
        .flatten()
        .flatten();
    properties.chain(branches).for_each(finish);
    match schema.items.as_mut() {
        Some(JSONSchemaPropsOrArray::Schema(items)) => finish(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(finish),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = schema.additional_properties.as_mut() {
        finish(values);
    }
}

/// Whether Rust's name of a number's width is none that Kubernetes knows.
fn is_unknown(format: &str) -> bool {
    format.starts_with("uint") || matches!(format, "int8" | "int16")
}

/// The first paragraph on one line.
fn first_paragraph(text: &str) -> String {
    let lines: Vec<&str> = text
        .trim()
        .lines()
        .map(str::trim)
        .take_while(|line| !line.is_empty())
        .collect();
    lines.join(" ")
}
