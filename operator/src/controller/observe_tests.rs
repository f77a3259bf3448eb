use serde_json::{Value, json};

use super::*;
use crate::testing::FakeApi;

const PODS: &str = "/api/v1/namespaces/shop/pods";
const CLAIMS: &str = "/api/v1/namespaces/shop/persistentvolumeclaims";

fn names() -> Names {
    Names {
        namespace: "shop".to_owned(),
        cluster: "orders".to_owned(),
    }
}

fn labels(role: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "cairn",
        "app.kubernetes.io/instance": "orders",
        "app.kubernetes.io/component": role,
        "controller-revision-hash": "orders-data-5",
    })
}

fn pod(api: &FakeApi, name: &str, ready: bool) {
    let status = if ready { "True" } else { "False" };
    api.put(
        &format!("{PODS}/{name}"),
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "shop", "labels": labels("data")},
            "spec": {"containers": [], "nodeName": "host-a"},
            "status": {
                "conditions": [{
                    "type": "Ready", "status": status,
                    "lastTransitionTime": "1970-01-01T00:00:07Z",
                }],
                "containerStatuses": [{
                    "name": "cairn", "image": "i", "imageID": "", "ready": ready, "restartCount": 0,
                    "state": {"running": {}},
                }],
            },
        }),
    );
}

fn claim(api: &FakeApi, name: &str, volume: &str) {
    api.put(
        &format!("{CLAIMS}/{name}"),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": "shop", "labels": labels("data")},
            "spec": {
                "volumeName": volume,
                "resources": {"requests": {"storage": "10Gi"}},
            },
            "status": {"phase": "Bound", "capacity": {"storage": "12Gi"}},
        }),
    );
}

fn volume(api: &FakeApi, name: &str, host: &str) {
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]},
    ]}]}});
    api.put(
        &format!("/api/v1/persistentvolumes/{name}"),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name}, "spec": {"nodeAffinity": affinity},
        }),
    );
}

fn host(api: &FakeApi, name: &str, hostname: &str, spec: Value) {
    api.put(
        &format!("/api/v1/nodes/{name}"),
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": hostname, "topology.kubernetes.io/zone": "z1",
            }},
            "spec": spec,
            "status": {"conditions": [{
                "type": "Ready", "status": "True", "lastTransitionTime": "1970-01-01T00:00:03Z",
            }]},
        }),
    );
}

fn set(api: &FakeApi) {
    api.put(
        "/apis/apps/v1/namespaces/shop/statefulsets/orders-data",
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {"name": "orders-data", "namespace": "shop", "generation": 4},
            "spec": {
                "replicas": 3, "serviceName": "orders-data",
                "selector": {}, "template": {},
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"resources": {"requests": {"storage": "10Gi"}}},
                }],
            },
            "status": {"replicas": 3, "observedGeneration": 4, "updateRevision": "orders-data-6"},
        }),
    );
}

#[tokio::test]
async fn what_there_is_is_read_live() {
    let api = FakeApi::default();
    set(&api);
    pod(&api, "orders-data-0", true);
    pod(&api, "orders-data-1", false);
    claim(&api, "data-orders-data-0", "pv-0");
    claim(&api, "data-orders-data-1", "pv-1");
    volume(&api, "pv-0", "a.example");
    volume(&api, "pv-1", "a.example");
    let taints = json!({"unschedulable": true, "taints": [
        {"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"},
        {"key": "node.kubernetes.io/out-of-service", "effect": "NoExecute"},
    ]});
    host(&api, "host-a", "a.example", taints);
    // Another cluster's are not this one's.
    let other = json!({"metadata": {"name": "other-data-0", "labels": {
        "app.kubernetes.io/name": "cairn", "app.kubernetes.io/instance": "other",
    }}});
    api.put(&format!("{PODS}/other-data-0"), other);

    let seen = observe(&api.client(), &names()).await.unwrap();
    let data = &seen.sets[&Role::Data];
    assert_eq!((data.replicas, data.is_current), (3, true));
    assert_eq!(data.update_revision, "orders-data-6");
    assert_eq!(data.storage_size, "10Gi");
    assert_eq!(seen.pods.len(), 2);
    let well = &seen.pods["orders-data-0"];
    assert_eq!((well.role, well.ordinal), (Some(Role::Data), 0));
    assert_eq!((well.ready, well.not_ready_since_unix_ms), (true, None));
    assert_eq!(well.revision, "orders-data-5");
    let ill = &seen.pods["orders-data-1"];
    assert_eq!((ill.ready, ill.running), (false, true));
    assert_eq!(ill.not_ready_since_unix_ms, Some(7000));
    assert_eq!(ill.host.as_deref(), Some("host-a"));
    let claim = &seen.claims["data-orders-data-1"];
    assert_eq!(
        (claim.requested_bytes, claim.capacity_bytes),
        (10 << 30, 12 << 30)
    );
    assert!(claim.bound && claim.names_volume);
    // By its label, which is not the node's name.
    assert_eq!(claim.only_on, Some(vec!["host-a".to_owned()]));
    assert_eq!(seen.claims["data-orders-data-0"].only_on, None, "not asked");
    let host = &seen.hosts.unwrap()["host-a"];
    assert!(host.ready && host.cordoned && host.out_of_service && !host.evicting);
    assert_eq!((host.since_unix_ms, host.zone.as_str()), (3000, "z1"));
}

#[tokio::test]
async fn where_nodes_may_not_be_read_no_volume_is_pinned_to_one() {
    let api = FakeApi::default();
    pod(&api, "orders-data-0", false);
    claim(&api, "data-orders-data-0", "pv-0");
    volume(&api, "pv-0", "host-a");
    api.forbid("/api/v1/nodes");
    let seen = observe(&api.client(), &names()).await.unwrap();
    assert_eq!(seen.hosts, None);
    assert_eq!(seen.claims["data-orders-data-0"].only_on, None);
    // Nor where volumes may not be.
    api.forbid("/api/v1/persistentvolumes");
    observe(&api.client(), &names()).await.unwrap();
    // Pods have to be.
    api.forbid(PODS);
    let error = observe(&api.client(), &names()).await.unwrap_err();
    assert_eq!(error.kind(), "forbidden");
}

#[tokio::test]
async fn a_volume_of_a_node_that_is_gone_names_a_node_that_is_not_there() {
    let api = FakeApi::default();
    pod(&api, "orders-data-0", false);
    claim(&api, "data-orders-data-0", "pv-0");
    volume(&api, "pv-0", "host-gone");
    host(&api, "host-a", "host-a", json!({}));
    let seen = observe(&api.client(), &names()).await.unwrap();
    let only_on = seen.claims["data-orders-data-0"].only_on.clone().unwrap();
    assert_eq!(only_on, ["host-gone"]);
    assert!(!seen.hosts.unwrap().contains_key("host-gone"));
}

#[test]
fn a_volume_of_a_zone_is_pinned_to_no_node() {
    let of = |terms: Value| {
        let volume: PersistentVolume = serde_json::from_value(json!({"spec": {
            "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
        }}))
        .unwrap();
        only_on(&volume, &[])
    };
    let expression =
        |key: &str, values: &[&str]| json!({"key": key, "operator": "In", "values": values});
    let zone = json!({"matchExpressions": [expression("topology.kubernetes.io/zone", &["z1"])]});
    let host = json!({"matchExpressions": [
        expression("topology.kubernetes.io/zone", &["z1"]),
        expression("kubernetes.io/hostname", &["b", "a"]),
    ]});
    assert_eq!(of(json!([zone])), None);
    assert_eq!(
        of(json!([host])),
        Some(vec!["a".to_owned(), "b".to_owned()])
    );
    // One term that any node of the zone meets is enough.
    assert_eq!(of(json!([host, zone])), None);
    let named = json!({"matchFields": [expression("metadata.name", &["c"])]});
    assert_eq!(of(json!([named])), Some(vec!["c".to_owned()]));
    assert_eq!(of(json!([])), None);
}

#[test]
fn why_a_pod_waits_is_told_unless_it_only_starts() {
    let of = |status: Value| {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "orders-coordinator-0", "labels": labels("coordinator")},
            "status": status,
        }))
        .unwrap();
        pod_seen(&pod, &names())
    };
    let waiting = |reason: &str| {
        json!({"containerStatuses": [{
            "name": "cairn", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"waiting": {"reason": reason}},
        }]})
    };
    assert_eq!(of(waiting("ContainerCreating")).waiting, None);
    let stuck = of(waiting("ImagePullBackOff"));
    assert_eq!(stuck.waiting.as_deref(), Some("ImagePullBackOff"));
    assert_eq!(stuck.role, Some(Role::Coordinator));
    let pending = json!({"conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
    ]});
    assert_eq!(of(pending).waiting.as_deref(), Some("Unschedulable"));
}

#[tokio::test]
async fn services_and_addresses_for_clients_outside_are_read() {
    let api = FakeApi::default();
    let service = |name: &str, ours: bool, ports: Value, status: Value| {
        let mut labels = labels("data");
        if ours {
            labels["cairn.dev/outside"] = json!("true");
        }
        api.put(
            &format!("/api/v1/namespaces/shop/services/{name}"),
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": name, "namespace": "shop", "labels": labels},
                "spec": {"ports": ports}, "status": status,
            }),
        );
    };
    let ports = json!([
        {"name": "grpc", "port": 7400, "nodePort": 30002},
        {"name": "redis", "port": 6379, "nodePort": 30001},
    ]);
    let balancer = |ingress: Value| json!({"loadBalancer": {"ingress": ingress}});
    service("a", true, ports.clone(), json!({}));
    service(
        "b",
        true,
        json!([{"port": 6379}]),
        balancer(json!([{"ip": "192.0.2.9", "hostname": "x"}])),
    );
    service(
        "c",
        true,
        json!([]),
        balancer(json!([{}, {"hostname": "lb.example"}])),
    );
    service("orders", false, ports, json!({}));
    pod(&api, "orders-data-0", true);
    let mut stored = api.get(&format!("{PODS}/orders-data-0")).unwrap();
    stored["status"]["hostIP"] = json!("10.0.0.1");
    api.put(&format!("{PODS}/orders-data-0"), stored);
    host(&api, "host-a", "a.example", json!({}));
    let mut stored = api.get("/api/v1/nodes/host-a").unwrap();
    stored["status"]["addresses"] = json!([
        {"type": "Hostname", "address": "a.example"},
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "InternalIP", "address": "2001:db8::1"},
        {"type": "ExternalIP", "address": "192.0.2.1"},
    ]);
    api.put("/api/v1/nodes/host-a", stored);
    let seen = observe(&api.client(), &names()).await.unwrap();
    let of = |redis, grpc, ingress: Option<&str>| OutsideSeen {
        redis_node_port: redis,
        grpc_node_port: grpc,
        ingress: ingress.map(str::to_owned),
    };
    let expected = [
        ("a".to_owned(), of(Some(30001), Some(30002), None)),
        ("b".to_owned(), of(None, None, Some("192.0.2.9"))),
        ("c".to_owned(), of(None, None, Some("lb.example"))),
    ];
    assert_eq!(seen.outside, expected.into());
    assert_eq!(
        seen.pods["orders-data-0"].host_ip.as_deref(),
        Some("10.0.0.1")
    );
    let host = &seen.hosts.unwrap()["host-a"];
    assert_eq!(host.internal_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(host.external_ip.as_deref(), Some("192.0.2.1"));
}
