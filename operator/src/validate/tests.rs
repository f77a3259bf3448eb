use serde_json::{Value, json};

use super::*;

fn defaults() -> Defaults {
    Defaults {
        version: "0.1.0".to_owned(),
        repository: "cairn/node".to_owned(),
    }
}

/// A manifest as small as one can be, with a change.
fn manifest(change: impl FnOnce(&mut Value)) -> KvCluster {
    let mut manifest = json!({
        "apiVersion": "cairn.dev/v1alpha1",
        "kind": "KvCluster",
        "metadata": {
            "name": "orders", "namespace": "shop", "generation": 3,
            "uid": "6f6d4f43-4ac4-4bd5-9f4e-3c1d7f1f0001",
        },
        "spec": { "data": { "replicas": 4, "storage": { "size": "10Gi" } } },
    });
    change(&mut manifest);
    serde_json::from_value(manifest).expect("a manifest")
}

fn cluster(change: impl FnOnce(&mut Value)) -> Cluster {
    validate(&manifest(change), &defaults()).expect("it holds together")
}

/// What is wrong, as a person reads it.
fn problems(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let problems = validate(&manifest(change), &defaults()).err();
    problems
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// One thing is wrong, and it begins so.
fn one(expected: &str, change: impl FnOnce(&mut Value)) {
    let problems = problems(change);
    assert_eq!(problems.len(), 1, "{expected}: {problems:?}");
    assert!(
        problems[0].starts_with(expected),
        "{expected}: {problems:?}"
    );
}

#[test]
fn the_smallest_manifest_is_taken_with_its_defaults() {
    let cluster = cluster(|_| ());
    assert_eq!(cluster.names.namespace, "shop");
    assert_eq!(cluster.generation, 3);
    assert_eq!(cluster.image, "cairn/node:0.1.0");
    assert_eq!(cluster.owner.kind, "KvCluster");
    assert_eq!(cluster.owner.controller, Some(true));
    assert!(!cluster.deleting);
    assert!(warnings(&cluster).is_empty(), "{:?}", warnings(&cluster));
}

#[test]
fn the_specs_version_wins_then_the_one_that_the_cluster_was_made_with() {
    let made = |m: &mut Value| m["status"] = json!({ "version": "0.0.9" });
    assert_eq!(cluster(made).image, "cairn/node:0.0.9");
    let asked = |m: &mut Value| {
        made(m);
        m["spec"]["version"] = json!("0.2.0");
    };
    let asked = cluster(asked);
    assert_eq!(
        (asked.version.as_str(), asked.image.as_str()),
        ("0.2.0", "cairn/node:0.2.0")
    );
    let image = cluster(|m| m["spec"]["image"] = json!("registry.local/cairn@sha256:00"));
    assert_eq!(image.image, "registry.local/cairn@sha256:00");
    // A status before anything was written into it.
    assert_eq!(cluster(|m| m["status"] = json!({})).version, "0.1.0");
}

#[test]
fn numbers_that_do_not_fit_together_are_refused() {
    one("spec.coordinators.replicas: 2 coordinators", |m| {
        m["spec"]["coordinators"] = json!({ "replicas": 2 });
    });
    one(
        "spec.replicationFactor: replicationFactor 5 needs as many data nodes",
        |m| {
            m["spec"]["replicationFactor"] = json!(5);
        },
    );
    one(
        "spec.writeQuorum: writeQuorum 4 is above replicationFactor 3",
        |m| {
            m["spec"]["writeQuorum"] = json!(4);
        },
    );
    one(
        "spec.minInSync: minInSync 3 is not between 1 and writeQuorum 2",
        |m| {
            m["spec"]["minInSync"] = json!(3);
        },
    );
    one("spec.readQuorum: readQuorum 4 is not between", |m| {
        m["spec"]["readQuorum"] = json!(4);
    });
    one("spec.readQuorum: readQuorum 1 + writeQuorum 2", |m| {
        m["spec"]["readQuorum"] = json!(1);
    });
    one(
        "spec.writeQuorum: consistency strong needs a majority",
        |m| {
            m["spec"]["consistency"] = json!("strong");
            m["spec"]["writeQuorum"] = json!(1);
        },
    );
    one("spec.partitions: partitions 0", |m| {
        m["spec"]["partitions"] = json!(0)
    });
    one("spec.virtualNodes: virtualNodes 2000", |m| {
        m["spec"]["virtualNodes"] = json!(2000);
    });
    one("spec.data.replicas: 201 is above 200", |m| {
        m["spec"]["data"]["replicas"] = json!(201);
    });
    for (field, value) in [
        ("leaseMs", 49),
        ("nodeTimeoutMs", 99),
        ("replaceAfterMs", 604_800_001),
        ("movesPerNode", 65),
        ("movesPerNode", 300),
        ("drainTimeoutMs", 999),
    ] {
        one(&format!("spec.timings.{field}: "), |m| {
            m["spec"]["timings"] = json!({ field: value });
        });
    }
    one("spec.limits.idempotenceWindow: ", |m| {
        m["spec"]["limits"] = json!({ "idempotenceWindow": 1 });
    });
}

#[test]
fn sizes_are_read_strictly() {
    for size in ["ten", "-1Gi", "10GiB", "1023Mi", "400m", "99Ei"] {
        one("spec.data.storage.size: ", |m| {
            m["spec"]["data"]["storage"]["size"] = json!(size);
        });
        one("spec.coordinators.storage.size: ", |m| {
            m["spec"]["coordinators"] = json!({ "storage": { "size": size } });
        });
    }
    for (field, size) in [
        ("maxValueBytes", "17Mi"),
        ("maxValueBytes", "1"),
        ("valueCacheBytes", "2Pi"),
        ("storeCacheBytes", "0"),
        ("diskReserveBytes", "1Ki"),
        ("diskReserveBytes", "10Gi"),
        ("snapshotSendBytesPerSecond", "1k"),
        ("snapshotReceiveBytesPerSecond", "-5M"),
    ] {
        one(&format!("spec.limits.{field}: "), |m| {
            m["spec"]["limits"] = json!({ field: size });
        });
    }
    let free = json!({ "snapshotSendBytesPerSecond": "0", "valueCacheBytes": 0 });
    assert!(problems(|m| m["spec"]["limits"] = free).is_empty());
    one("spec.limits.maxConnections: ", |m| {
        m["spec"]["limits"] = json!({ "maxConnections": 0 });
    });
}

#[test]
fn resources_hold_together() {
    one("spec.data.resources.limits.cpu: of `two`", |m| {
        m["spec"]["data"]["resources"] = json!({ "limits": { "cpu": "two" } });
    });
    one(
        "spec.data.resources.requests.memory: it is above the limit",
        |m| {
            m["spec"]["data"]["resources"] = json!({ "requests": { "memory": "2Gi", "cpu": "1" }, "limits": { "memory": "1Gi" } });
        },
    );
}

#[test]
fn names_that_would_break_or_cross_others_are_refused() {
    let called = |name: String| problems(move |m| m["metadata"]["name"] = json!(name));
    assert!(called("a".repeat(40)).is_empty());
    assert_eq!(called("a".repeat(41)).len(), 1);
    for name in ["Orders", "1orders", "orders.x"] {
        assert_eq!(called(name.to_owned()).len(), 1, "{name}");
    }
    // The Service for clients of one would be that for nodes of another.
    for name in ["orders-data", "orders-coordinator"] {
        assert_eq!(called(name.to_owned()).len(), 1, "{name}");
    }
    assert!(called("data".to_owned()).is_empty());
    one("metadata: it lacks", |m| m["metadata"]["uid"] = Value::Null);
}

#[test]
fn texts_are_what_kubernetes_and_the_nodes_take() {
    one("spec.logLevel: ", |m| {
        m["spec"]["logLevel"] = json!("info=loud")
    });
    one("spec.logLevel: ", |m| {
        m["spec"]["logLevel"] = json!("info\nX=1")
    });
    one("spec.version: ", |m| m["spec"]["version"] = json!("1:2"));
    one("spec.image: ", |m| m["spec"]["image"] = json!("a b"));
    one("spec.image: ", |m| m["spec"]["image"] = json!(""));
    one("spec.imagePullSecrets[0].name: ", |m| {
        m["spec"]["imagePullSecrets"] = json!([{ "name": "A" }]);
    });
    one("spec.data.pod.labels: `a b` is not right", |m| {
        m["spec"]["data"]["pod"] = json!({ "labels": { "a b": "c" } });
    });
    one("spec.coordinators.scheduling.nodeSelector: `c d`", |m| {
        m["spec"]["coordinators"] = json!({ "scheduling": { "nodeSelector": { "a": "c d" } } });
    });
    one("spec.service.annotations: ", |m| {
        m["spec"]["service"] = json!({ "annotations": { "": "anything at all" } });
    });
    one("spec.data.storage.storageClassName: ", |m| {
        m["spec"]["data"]["storage"]["storageClassName"] = json!("Fast");
    });
    one("spec.users.key: ", |m| {
        m["spec"]["users"] = json!({ "secretName": "people", "key": "a/b" });
    });
    one("spec.users.secretName: the operator keeps its own", |m| {
        m["spec"]["users"] = json!({ "secretName": "orders-users" });
    });
    one("spec.tls.secretName: the operator keeps its own", |m| {
        m["spec"]["tls"] = json!({ "secretName": "orders-tls" });
    });
}

#[test]
fn only_this_clusters_data_nodes_can_be_drained() {
    let drain =
        |names: Value| move |m: &mut Value| m["spec"]["maintenance"] = json!({ "drain": names });
    assert!(problems(drain(json!(["orders-data-0"]))).is_empty());
    for name in [
        "orders-coordinator-0",
        "other-data-0",
        "orders-data-00",
        "orders-data-x",
        "",
    ] {
        one(
            "spec.maintenance.drain[1]: ",
            drain(json!(["orders-data-3", name])),
        );
    }
    // Scaling down may come before the list is shortened.
    let beyond = cluster(drain(json!(["orders-data-7"])));
    assert_eq!(
        warnings(&beyond),
        ["maintenance.drain names 1 nodes beyond data.replicas 4"]
    );
    let many = cluster(drain(json!([
        "orders-data-0",
        "orders-data-1",
        "orders-data-1"
    ])));
    let warnings = warnings(&many);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("leaves 2 data nodes"), "{warnings:?}");
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    let problems = problems(|m| {
        m["metadata"]["name"] = json!("Orders");
        m["spec"]["coordinators"] = json!({ "replicas": 4 });
        m["spec"]["replicationFactor"] = json!(5);
        m["spec"]["logLevel"] = json!("info=loud");
        m["spec"]["data"]["storage"]["size"] = json!("1");
    });
    assert_eq!(problems.len(), 5, "{problems:?}");
}

#[test]
fn what_is_risky_is_taken_and_said() {
    for (expected, change) in [
        ("replicationFactor 1", json!({ "replicationFactor": 1 })),
        ("writeQuorum 1", json!({ "writeQuorum": 1 })),
        ("writeQuorum 1", json!({ "consistency": "eventual" })),
        (
            "one coordinator",
            json!({ "coordinators": { "replicas": 1 } }),
        ),
        (
            "data.replicas equals replicationFactor 4",
            json!({ "replicationFactor": 4 }),
        ),
        (
            "writeQuorum equals replicationFactor 3",
            json!({ "writeQuorum": 3 }),
        ),
        (
            "nodeTimeoutMs 100 is below leaseMs 400",
            json!({ "timings": { "nodeTimeoutMs": 100 } }),
        ),
        (
            "readLevel any",
            json!({ "consistency": "strong", "readLevel": "any" }),
        ),
    ] {
        let cluster = cluster(|m| {
            let fields = change.as_object().expect("fields");
            let spec = m["spec"].as_object_mut().expect("a spec");
            spec.extend(fields.clone());
        });
        let warnings = warnings(&cluster);
        assert_eq!(warnings.len(), 1, "{expected}: {warnings:?}");
        assert!(
            warnings[0].starts_with(expected),
            "{expected}: {warnings:?}"
        );
    }
    let five = cluster(|m| {
        m["spec"]["data"]["replicas"] = json!(6);
        m["spec"]["replicationFactor"] = json!(5);
        m["spec"]["writeQuorum"] = json!(2);
    });
    assert_eq!(
        warnings(&five),
        ["writeQuorum 2 of 5 survives 3 losses for writes but only 1 for a promotion"]
    );
}

#[test]
fn the_settled_numbers_are_those_of_the_nodes() {
    for replication_factor in 1..=7u8 {
        for write_quorum in std::iter::once(None).chain((1..=replication_factor).map(Some)) {
            for consistency in [None, Some("eventual")] {
                let cluster = cluster(|m| {
                    m["spec"]["data"]["replicas"] = json!(7);
                    m["spec"]["replicationFactor"] = json!(replication_factor);
                    m["spec"]["writeQuorum"] = json!(write_quorum);
                    m["spec"]["consistency"] = json!(consistency);
                });
                let settings = resolve(&cluster.spec).expect("they fit").settings;
                assert_eq!(
                    (
                        cluster.spec.settled_write_quorum(),
                        cluster.spec.settled_min_in_sync()
                    ),
                    (settings.write_quorum, settings.min_in_sync)
                );
            }
        }
    }
}

#[test]
fn a_manifest_that_is_being_deleted_says_so() {
    let cluster = cluster(|m| m["metadata"]["deletionTimestamp"] = json!("2026-11-26T12:00:00Z"));
    assert!(cluster.deleting);
}

#[test]
fn a_collector_of_traces_is_a_host_and_a_port() {
    let traces = |traces: Value| move |m: &mut Value| m["spec"]["traces"] = traces;
    let taken = json!({"collector": "collector.observability:4317", "writesPerMillion": 1_000_000});
    assert!(problems(traces(taken)).is_empty());
    one(
        "spec.traces.collector: ",
        traces(json!({"collector": "http://collector:4317"})),
    );
    one(
        "spec.traces.writesPerMillion: ",
        traces(json!({"collector": "a:1", "writesPerMillion": 1_000_001})),
    );
}

#[test]
fn a_way_from_outside_says_what_its_type_has() {
    let outside = |outside: Value| move |m: &mut Value| m["spec"]["outside"] = outside;
    for taken in [
        json!({"type": "NodePort", "nodeAddress": "ExternalIP"}),
        json!({"type": "LoadBalancer", "sourceRanges": ["192.0.2.0/24"]}),
    ] {
        assert!(problems(outside(taken)).is_empty());
    }
    one(
        "spec.outside.nodeAddress: ",
        outside(json!({"type": "LoadBalancer", "nodeAddress": "InternalIP"})),
    );
    one(
        "spec.outside.sourceRanges: ",
        outside(json!({"type": "NodePort", "sourceRanges": ["192.0.2.0/24"]})),
    );
    one(
        "spec.outside.sourceRanges[1]: ",
        outside(json!({"type": "LoadBalancer", "sourceRanges": ["::/0", "192.0.2.0/99"]})),
    );
    one(
        "spec.outside.annotations: ",
        outside(json!({"type": "NodePort", "annotations": {"a b": "c"}})),
    );
    one(
        "spec.outside.labels: ",
        outside(json!({"type": "NodePort", "labels": {"a": "c d"}})),
    );
}

#[test]
fn certificates_come_from_one_place() {
    let tls = |tls: Value| move |m: &mut Value| m["spec"]["tls"] = tls;
    let taken = json!({"issuerRef": {"name": "company"}, "renew": {"authority": 3}});
    assert!(problems(tls(taken)).is_empty());
    one(
        "spec.tls.issuerRef: ",
        tls(json!({"issuerRef": {"name": "company"}, "secretName": "mine"})),
    );
    one(
        "spec.tls.issuerRef.name: ",
        tls(json!({"issuerRef": {"name": "The company"}})),
    );
    one(
        "spec.tls.overlapSeconds: ",
        tls(json!({"overlapSeconds": 2_592_001})),
    );
    one(
        "spec.tls.secretName: ",
        tls(json!({"secretName": "orders-issued"})),
    );
}
