use serde_json::{Value, json};

use super::*;

fn host(name: &str, spec: &Value, heartbeat: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": spec,
        "status": {"conditions": [{
            "type": "Ready", "status": "True",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "lastHeartbeatTime": heartbeat,
        }]},
    }))
    .unwrap()
}

#[test]
fn a_cordon_matters_and_a_heartbeat_does_not() {
    let mut hosts = Hosts::default();
    let plain = json!({});
    let early = "2026-01-01T00:00:01Z";
    let late = "2026-01-01T00:05:01Z";
    assert!(hosts.take(Ok(Event::Apply(host("a", &plain, early)))));
    assert!(!hosts.take(Ok(Event::Apply(host("a", &plain, late)))));
    let cordoned = json!({"unschedulable": true});
    assert!(hosts.take(Ok(Event::Apply(host("a", &cordoned, late)))));
    assert!(hosts.take(Ok(Event::Delete(host("a", &cordoned, late)))));
}

#[test]
fn a_node_that_went_while_nobody_watched_is_noticed() {
    let mut hosts = Hosts::default();
    let plain = json!({});
    let at = "2026-01-01T00:00:01Z";
    for name in ["a", "b"] {
        hosts.take(Ok(Event::Apply(host(name, &plain, at))));
    }
    assert!(!hosts.take(Ok(Event::Init)));
    assert!(!hosts.take(Ok(Event::InitApply(host("a", &plain, at)))));
    assert!(hosts.take(Ok(Event::InitDone)));
    assert_eq!(hosts.known.len(), 1);
}

#[test]
fn an_object_starts_a_round_over_the_cluster_that_its_label_names() {
    let metadata: ObjectMeta = serde_json::from_value(json!({
        "name": "orders-data-0", "namespace": "shop",
        "labels": {"app.kubernetes.io/instance": "orders"},
    }))
    .unwrap();
    let of = cluster_of(&metadata).unwrap();
    assert_eq!(
        (of.name.as_str(), of.namespace.as_deref()),
        ("orders", Some("shop"))
    );
    assert!(cluster_of(&ObjectMeta::default()).is_none());
}
