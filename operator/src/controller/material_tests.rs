use serde_json::json;

use super::*;
use crate::observed::{PodSeen, SetSeen};
use crate::testing::{FakeApi, cluster};

const TLS: &str = "/api/v1/namespaces/shop/secrets/orders-tls";

fn observed(revision: &str) -> Observed {
    let names = cluster().names;
    let pod = PodSeen {
        role: Some(Role::Coordinator),
        running: true,
        revision: revision.to_owned(),
        ..PodSeen::default()
    };
    let set = SetSeen {
        is_current: true,
        update_revision: "new".to_owned(),
        ..SetSeen::default()
    };
    Observed {
        pods: [(names.pod(Role::Coordinator, 0), pod)].into(),
        sets: [(Role::Coordinator, set)].into(),
        ..Observed::default()
    }
}

/// Whether TLS is spoken, way by way.
async fn tried(api: &FakeApi, clients: bool, revision: &str) -> Vec<bool> {
    let mut cluster = cluster();
    cluster.spec.tls.clients = clients;
    let ways = ways(
        &api.client(),
        &cluster.names,
        &cluster.spec,
        &observed(revision),
    )
    .await
    .unwrap();
    let host = "orders-coordinator-0.orders-coordinator.shop.svc:7400";
    assert!(ways.iter().all(|way| way.endpoints == [host]));
    ways.iter().map(|way| way.authority.is_some()).collect()
}

#[tokio::test]
async fn coordinators_that_were_not_restarted_are_spoken_to_as_before() {
    let api = FakeApi::default();
    let data = json!({"ca.crt": k8s_openapi::ByteString(b"pem".to_vec())});
    api.put(
        TLS,
        json!({"metadata": {"name": "orders-tls"}, "data": data}),
    );
    assert_eq!(
        tried(&api, true, "new").await,
        [true],
        "never in plain text"
    );
    assert_eq!(tried(&api, false, "new").await, [false]);
    assert_eq!(tried(&api, true, "old").await, [true, false]);
    assert_eq!(tried(&api, false, "old").await, [false, true]);
}

#[tokio::test]
async fn where_no_coordinator_runs_nobody_is_asked() {
    let api = FakeApi::default();
    let cluster = cluster();
    let mut observed = observed("new");
    for pod in observed.pods.values_mut() {
        pod.running = false;
    }
    let ways = ways(&api.client(), &cluster.names, &cluster.spec, &observed).await;
    assert!(ways.unwrap().is_empty());
}
