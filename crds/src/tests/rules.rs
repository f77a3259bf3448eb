//! Each rule refuses what it is for, with its message, and lets the rest through.

use std::collections::BTreeSet;

use kube_cel::{CompiledSchema, ScopeContext, Validator, analyze_rule, compile_schema};
use serde_json::{Value, json};

use super::{root, walk};

thread_local! {
    /// The rules, parsed once.
    static COMPILED: CompiledSchema = compile_schema(&root());
}

/// Why the API server would refuse this, in place of `old` where there is one.
pub(super) fn refusals(new: &Value, old: Option<&Value>) -> Vec<String> {
    let judged = COMPILED.with(|rules| Validator::new().validate_compiled(rules, new, old));
    let errors = judged.err();
    let errors = errors.iter().flat_map(|errors| errors.as_slice());
    errors.map(|error| error.message.clone()).collect()
}

/// A manifest with these fields besides the least that must be said.
fn manifest(changes: &Value) -> Value {
    let mut manifest = json!({
        "apiVersion": "cairn.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {"name": "orders", "namespace": "shop"},
        "spec": {"data": {"replicas": 3, "storage": {"size": "10Gi"}}},
    });
    merge(&mut manifest["spec"], changes);
    manifest
}

fn merge(into: &mut Value, changes: &Value) {
    match changes {
        Value::Object(changes) => {
            for (name, value) in changes {
                merge(&mut into[name.as_str()], value);
            }
        }
        other => *into = other.clone(),
    }
}

/// What is refused when a cluster is made: the fields, and a piece of the message.
fn refused_at_creation() -> Vec<(Value, &'static str)> {
    vec![
        (
            json!({"replicationFactor": 4}),
            "replicationFactor must not be larger than data.replicas",
        ),
        (
            json!({"data": {"replicas": 2}}),
            "replicationFactor must not be larger than data.replicas",
        ),
        (
            json!({"replicationFactor": 2, "writeQuorum": 3}),
            "writeQuorum must not be larger",
        ),
        (json!({"minInSync": 3}), "minInSync must not be larger"),
        (
            json!({"consistency": "eventual", "minInSync": 2}),
            "minInSync must not be larger",
        ),
        (json!({"readQuorum": 4}), "readQuorum must not be larger"),
        (
            json!({"consistency": "strong", "writeQuorum": 1}),
            "consistency strong needs",
        ),
        (
            json!({"readQuorum": 1}),
            "readQuorum and writeQuorum must overlap",
        ),
        (
            json!({"readQuorum": 2, "writeQuorum": 1}),
            "readQuorum and writeQuorum must overlap",
        ),
        (
            json!({"coordinators": {"replicas": 2}}),
            "coordinators.replicas must be 1, 3 or 5",
        ),
        (
            json!({"coordinators": {"replicas": 4}}),
            "coordinators.replicas must be 1, 3 or 5",
        ),
        (
            json!({"data": {"storage": {"size": "1023Mi"}}}),
            "storage.size must be 1Gi at least",
        ),
        (
            json!({"data": {"storage": {"size": 1_000_000}}}),
            "storage.size must be 1Gi at least",
        ),
        (
            json!({"coordinators": {"replicas": 3, "storage": {"size": "500Mi"}}}),
            "storage.size must be 1Gi at least",
        ),
        (
            json!({"outside": {"type": "LoadBalancer", "nodeAddress": "InternalIP"}}),
            "outside.nodeAddress is for the type NodePort",
        ),
        (
            json!({"outside": {"type": "NodePort", "sourceRanges": ["192.0.2.0/24"]}}),
            "outside.sourceRanges is for the type LoadBalancer",
        ),
        (
            json!({"tls": {"secretName": "mine", "issuerRef": {"name": "ca", "kind": "Issuer", "group": "cert-manager.io"}}}),
            "tls.secretName and tls.issuerRef exclude each other",
        ),
        (
            json!({"traces": {"collector": "http://collector.observability:4317"}}),
            "traces.collector must be a host and a port",
        ),
        (
            json!({"traces": {"collector": "collector.observability"}}),
            "traces.collector must be a host and a port",
        ),
        (
            json!({"traces": {"collector": "collector:0", "writesPerMillion": 1}}),
            "traces.collector must be a host and a port",
        ),
    ]
}

/// What is taken when a cluster is made.
fn taken_at_creation() -> Vec<Value> {
    vec![
        json!({}),
        json!({"replicationFactor": 3, "writeQuorum": 3, "minInSync": 3}),
        json!({"writeQuorum": 1}),
        json!({"writeQuorum": 1, "readQuorum": 3, "minInSync": 1}),
        json!({"readQuorum": 2}),
        json!({"consistency": "strong", "writeQuorum": 2, "readQuorum": 2}),
        json!({"consistency": "strong", "readLevel": "any"}),
        json!({"consistency": "eventual", "readQuorum": 1, "minInSync": 1}),
        json!({"consistency": "eventual", "writeQuorum": 2, "minInSync": 2}),
        json!({"replicationFactor": 1, "data": {"replicas": 1}, "coordinators": {"replicas": 1}}),
        json!({"coordinators": {"replicas": 5}}),
        json!({"data": {"replicas": 7}, "replicationFactor": 7, "writeQuorum": 4, "readQuorum": 4}),
        json!({"data": {"storage": {"size": "1Gi", "storageClassName": "fast"}}}),
        json!({"data": {"storage": {"size": 1_073_741_824}}}),
        json!({"data": {"storage": {"size": "1.5Ti"}}}),
        json!({"tls": {"renew": {"authority": 2, "certificate": 1}, "overlapSeconds": 0}}),
        // Numbers stay when certificates come from elsewhere.
        json!({"tls": {"secretName": "mine", "renew": {"authority": 1, "certificate": 2}}}),
        json!({"outside": {"type": "NodePort"}}),
        json!({"outside": {"type": "NodePort", "nodeAddress": "ExternalIP"}}),
        json!({"outside": {"type": "LoadBalancer", "sourceRanges": ["192.0.2.0/24"]}}),
        json!({"traces": {"collector": "collector.observability:4317"}}),
        json!({"traces": {"collector": "192.0.2.1:65535", "writesPerMillion": 0}}),
        json!({"traces": {"collector": "[2001:db8::7]:4317", "writesPerMillion": 1_000_000}}),
    ]
}

/// What is refused when a cluster changes: before, after, and a piece of the message.
fn refused_later() -> Vec<(Value, Value, &'static str)> {
    vec![
        (json!({}), json!({"partitions": 256}), "partitions is fixed"),
        (
            json!({"virtualNodes": 32}),
            json!({}),
            "virtualNodes is fixed",
        ),
        (json!({}), json!({"readLevel": "any"}), "readLevel is fixed"),
        (
            json!({"readLevel": "quorum"}),
            json!({}),
            "readLevel is fixed",
        ),
        (
            json!({}),
            json!({"consistency": "eventual"}),
            "readLevel is fixed",
        ),
        (
            json!({"consistency": "eventual"}),
            json!({"consistency": "strong"}),
            "readLevel is fixed",
        ),
        (json!({}), json!({"readQuorum": 2}), "readQuorum is fixed"),
        (json!({"readQuorum": 2}), json!({}), "readQuorum is fixed"),
        (
            json!({"readQuorum": 2}),
            json!({"readQuorum": 3}),
            "readQuorum is fixed",
        ),
        (
            json!({}),
            json!({"data": {"storage": {"size": "9Gi"}}}),
            "storage.size can only grow",
        ),
        (
            json!({"data": {"storage": {"size": 20_000_000_000_u64}}}),
            json!({"data": {"storage": {"size": "10Gi"}}}),
            "storage.size can only grow",
        ),
        (
            json!({"coordinators": {"storage": {"size": "3Gi"}}}),
            json!({}),
            "storage.size can only grow",
        ),
        (
            json!({}),
            json!({"data": {"storage": {"storageClassName": "fast"}}}),
            "storage.storageClassName is fixed",
        ),
        (
            json!({"data": {"storage": {"storageClassName": "fast"}}}),
            json!({"data": {"storage": {"storageClassName": "slow"}}}),
            "storage.storageClassName is fixed",
        ),
        (
            json!({"data": {"storage": {"storageClassName": "fast"}}}),
            json!({}),
            "storage.storageClassName is fixed",
        ),
        (
            json!({"tls": {"renew": {"authority": 2, "certificate": 0}}}),
            json!({"tls": {"renew": {"authority": 1, "certificate": 0}}}),
            "the numbers of tls.renew only grow",
        ),
        (
            json!({"tls": {"renew": {"authority": 0, "certificate": 1}}}),
            json!({"tls": {"renew": {"authority": 0, "certificate": 0}}}),
            "the numbers of tls.renew only grow",
        ),
        // As `kubectl scale` would.
        (
            json!({}),
            json!({"data": {"replicas": 2}}),
            "replicationFactor must not be larger than data.replicas",
        ),
    ]
}

/// What is taken when a cluster changes.
fn taken_later() -> Vec<(Value, Value)> {
    vec![
        (json!({}), json!({})),
        (
            json!({"tls": {"renew": {"authority": 0, "certificate": 1}}}),
            json!({"tls": {"renew": {"authority": 1, "certificate": 1}}}),
        ),
        (json!({}), json!({"data": {"replicas": 9}})),
        (json!({"data": {"replicas": 9}}), json!({})),
        (
            json!({}),
            json!({"partitions": 128, "virtualNodes": 64, "readLevel": "primary"}),
        ),
        (json!({}), json!({"data": {"storage": {"size": "11Gi"}}})),
        (json!({}), json!({"data": {"storage": {"size": "10240Mi"}}})),
        (json!({}), json!({"consistency": "strong"})),
        (
            json!({}),
            json!({"consistency": "eventual", "readLevel": "primary"}),
        ),
        (
            json!({"consistency": "eventual"}),
            json!({"readLevel": "any", "writeQuorum": 2}),
        ),
        (
            json!({"readQuorum": 2}),
            json!({"readQuorum": 2, "writeQuorum": 3}),
        ),
        (
            json!({"coordinators": {"replicas": 1}}),
            json!({"coordinators": {"replicas": 5}}),
        ),
        (
            json!({"data": {"storage": {"storageClassName": "fast"}}}),
            json!({"data": {"storage": {"storageClassName": "fast", "size": "20Gi"}}}),
        ),
    ]
}

/// Names that are refused.
const NAMES_REFUSED: [&str; 5] = [
    "orders.shop",
    "1orders",
    "orders-",
    "Orders",
    "a-name-that-is-one-character-too-long-abc",
];

#[track_caller]
fn is_refused(new: &Value, old: Option<&Value>, message: &str) -> String {
    let found = refusals(new, old);
    let Some(found) = found.iter().find(|found| found.starts_with(message)) else {
        panic!("not refused with {message:?}, but {found:?}: {new} in place of {old:?}");
    };
    found.clone()
}

#[test]
fn each_rule_refuses_what_it_is_for_and_says_what_to_do() {
    let mut provoked = BTreeSet::new();
    for (changes, message) in refused_at_creation() {
        let new = manifest(&changes);
        provoked.insert(is_refused(&new, None, message));
        // A cluster may not become so either.
        is_refused(&new, Some(&new), message);
    }
    for (before, after, message) in refused_later() {
        let (before, after) = (manifest(&before), manifest(&after));
        assert_eq!(refusals(&before, None), Vec::<String>::new(), "{before}");
        provoked.insert(is_refused(&after, Some(&before), message));
    }
    for name in NAMES_REFUSED {
        let mut new = manifest(&json!({}));
        new["metadata"]["name"] = json!(name);
        provoked.insert(is_refused(
            &new,
            None,
            "metadata.name must be 40 characters",
        ));
    }

    let mut known = BTreeSet::new();
    walk("", &root(), &mut |_, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            known.insert(rule["message"].as_str().unwrap().to_owned());
        }
    });
    assert_eq!(
        known, provoked,
        "a rule without a case, or one that refuses with an error"
    );
}

#[test]
fn no_rule_refuses_what_is_sound() {
    for changes in taken_at_creation() {
        let new = manifest(&changes);
        assert_eq!(refusals(&new, None), Vec::<String>::new(), "{changes}");
        assert_eq!(
            refusals(&new, Some(&new)),
            Vec::<String>::new(),
            "{changes} again"
        );
    }
    for (before, after) in taken_later() {
        let (before, after) = (manifest(&before), manifest(&after));
        assert_eq!(refusals(&before, None), Vec::<String>::new(), "{before}");
        assert_eq!(
            refusals(&after, Some(&before)),
            Vec::<String>::new(),
            "{after}"
        );
    }
    for name in ["a", "orders-1", "a-name-that-is-as-long-as-it-can-be-abcd"] {
        let mut new = manifest(&json!({}));
        new["metadata"]["name"] = json!(name);
        assert_eq!(refusals(&new, None), Vec::<String>::new(), "{name}");
    }
}

/// The rules and the nodes reckon alike.
#[test]
fn the_write_quorum_of_the_rules_is_the_one_that_the_nodes_take() {
    for replication_factor in 1..=7_u8 {
        for consistency in [None, Some("strong"), Some("eventual")] {
            let mut changes = json!({
                "data": {"replicas": 7}, "replicationFactor": replication_factor,
            });
            if let Some(consistency) = consistency {
                changes["consistency"] = json!(consistency);
            }
            let spec: crate::KvClusterSpec =
                serde_json::from_value(manifest(&changes)["spec"].clone()).unwrap();
            let settled = spec.settled_write_quorum();
            for floor in 1..=replication_factor {
                changes["minInSync"] = json!(floor);
                let is_taken = refusals(&manifest(&changes), None).is_empty();
                assert_eq!(is_taken, floor <= settled, "{changes}: {settled}");
            }
        }
    }
}

#[test]
fn no_rule_is_too_dear_or_out_of_its_scope() {
    let mut found = Vec::new();
    walk("", &root(), &mut |path, schema| {
        let Some(rules) = schema["x-kubernetes-validations"].as_array() else {
            return;
        };
        let compiled = compile_schema(schema);
        for error in compiled.compilation_errors() {
            found.push(format!("{path}: {error:?}"));
        }
        for rule in rules {
            let text = rule["rule"].as_str().unwrap();
            for warning in analyze_rule(text, &compiled, ScopeContext::CrdValidation) {
                found.push(format!("{path}: {}", warning.message));
            }
            // The API server takes no message that has one.
            let message = rule["message"].as_str().unwrap();
            assert!(
                !text.contains('\n') && !message.contains('\n'),
                "{path}: {rule}"
            );
        }
    });
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn where_a_rule_points_there_is_a_field() {
    walk("", &root(), &mut |path, schema| {
        for rule in schema["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            if let Some(field) = rule["fieldPath"].as_str() {
                let pointer = format!("/properties{}", field.replace('.', "/"));
                assert!(schema.pointer(&pointer).is_some(), "{path}: {field}");
            }
        }
    });
}
