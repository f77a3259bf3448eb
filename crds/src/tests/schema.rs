//! What the API server demands of a schema, and what a person expects of one.

use serde_json::{Value, json};

use super::{is_foreign, root, walk};

/// Checks what makes a schema structural: each node has one type (or is an integer or a string),
/// says nothing under `anyOf` and the like that it does not say outside, and refers to nothing.
fn structural(path: &str, schema: &Value, found: &mut Vec<String>) {
    let int_or_string = schema["x-kubernetes-int-or-string"] == json!(true);
    if int_or_string == schema["type"].is_string() {
        found.push(format!(
            "{path}: exactly one of type and int-or-string: {schema}"
        ));
    }
    if schema["additionalProperties"].is_object() && schema["properties"].is_object() {
        found.push(format!("{path}: both properties and additionalProperties"));
    }
    if schema["type"] == json!("array") && !schema["items"].is_object() {
        found.push(format!("{path}: an array without items"));
    }
    if schema["type"] == json!("object")
        && !schema["properties"].is_object()
        && !schema["additionalProperties"].is_object()
    {
        found.push(format!(
            "{path}: an object of nothing, which would be pruned"
        ));
    }
    for word in [
        "$ref",
        "definitions",
        "dependencies",
        "uniqueItems",
        "nullable",
    ] {
        if !schema[word].is_null() {
            found.push(format!("{path}: has {word}"));
        }
    }
    for word in ["allOf", "anyOf", "oneOf"] {
        for branch in schema[word].as_array().into_iter().flatten() {
            for inner in ["type", "description", "default", "nullable"] {
                if !branch[inner].is_null() && !int_or_string {
                    found.push(format!("{path}: {inner} inside of {word}"));
                }
            }
        }
    }
}

#[test]
fn the_schema_is_structural_and_known_to_kubernetes_in_each_word() {
    let mut found = Vec::new();
    walk("", &root(), &mut |path, schema| {
        structural(path, schema, &mut found);
        if let Some(format) = schema["format"].as_str() {
            let known = ["int32", "int64", "double", "date-time"];
            if !known.contains(&format) {
                found.push(format!("{path}: the API server warns of format {format}"));
            }
        }
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_field_says_what_it_is_for() {
    let mut found = Vec::new();
    walk("", &root(), &mut |path, schema| {
        let is_field = !path.ends_with("[]") && !path.ends_with(".*");
        let description = schema["description"].as_str().unwrap_or_default();
        if is_field && description.trim().is_empty() {
            found.push(path.to_owned());
        }
        if description.contains('\n') {
            found.push(format!("{path}: more than a paragraph"));
        }
    });
    assert!(found.is_empty(), "{found:#?}");
}

/// Of the spec alone: a bound in the status would keep the operator from telling what it must.
#[test]
fn everything_that_is_asked_for_is_bounded() {
    let mut found = Vec::new();
    walk(
        ".spec",
        &root()["properties"]["spec"],
        &mut |path, schema| {
            if is_foreign(path) {
                return;
            }
            let bounded = match schema["type"].as_str() {
                Some("string") => schema["maxLength"].is_u64() || schema["enum"].is_array(),
                Some("array") => schema["maxItems"].is_u64(),
                Some("object") if schema["additionalProperties"].is_object() => {
                    schema["maxProperties"].is_u64()
                }
                Some("integer") => schema["minimum"].is_number() && schema["maximum"].is_number(),
                Some("object" | "boolean") => true,
                _ => schema["maxLength"].is_u64() && schema["minimum"].is_number(),
            };
            if !bounded {
                found.push(format!("{path}: {schema}"));
            }
        },
    );
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn the_least_that_can_be_said_is_enough() {
    let spec = kube_cel::apply_defaults(
        &root(),
        &json!({"spec": {"data": {"replicas": 3, "storage": {"size": "10Gi"}}}}),
    );
    let spec: crate::KvClusterSpec = serde_json::from_value(spec["spec"].clone()).unwrap();
    assert_eq!(
        (spec.replication_factor, spec.partitions, spec.virtual_nodes),
        (3, 128, 64)
    );
    assert_eq!(
        (spec.settled_write_quorum(), spec.settled_min_in_sync()),
        (2, 2)
    );
    assert_eq!(spec.coordinators.replicas, 3);
    assert_eq!(spec.coordinators.storage.size.0, "2Gi");
    // The operator reads what was stored before a default came in, too: both ways are one.
    let without: crate::KvClusterSpec =
        serde_json::from_value(json!({"data": {"replicas": 3, "storage": {"size": "10Gi"}}}))
            .unwrap();
    assert_eq!(spec, without);
}

#[test]
fn numbers_stand_for_quantities_and_null_for_nothing() {
    let spec: crate::KvClusterSpec = serde_json::from_value(json!({
        "data": {
            "replicas": 3,
            "storage": {"size": 10_737_418_240_u64},
            "resources": {"limits": {"cpu": 2}},
        },
        "writeQuorum": null,
    }))
    .unwrap();
    assert_eq!(spec.data.storage.size.0, "10737418240");
    let resources = serde_json::to_value(spec.data.resources).unwrap();
    assert_eq!(resources, json!({"limits": {"cpu": "2"}}));
}

#[test]
fn the_definition_is_small_enough_for_kubectl_apply() {
    // It keeps what it applied in an annotation, all of which have 256 KiB together.
    let size = serde_json::to_vec(&crate::definition()).unwrap().len();
    assert!(size < 200_000, "{size} bytes");
}

#[test]
fn autoscalers_find_what_they_need() {
    let definition = serde_json::to_value(crate::definition()).unwrap();
    let version = &definition["spec"]["versions"][0];
    assert_eq!(
        version["subresources"]["scale"],
        json!({
            "specReplicasPath": ".spec.data.replicas",
            "statusReplicasPath": ".status.data.replicas",
            "labelSelectorPath": ".status.selector",
        })
    );
    assert_eq!(definition["spec"]["names"]["shortNames"], json!(["kvc"]));
    let columns: Vec<&str> = version["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        ["Ready", "Desired", "Phase", "Version", "Message", "Age"]
    );
}
