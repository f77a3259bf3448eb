use async_trait::async_trait;
use cairn_client::InForce;
use http::Method;
use serde_json::Value;

use super::*;
use crate::admin::{Access, Refusal};
use crate::leader::Leadership;
use crate::plan::Admin;
use crate::store::Store;
use crate::testing::{FakeApi, defaults, manifest};

const MANIFEST: &str = "/apis/cairn.dev/v1alpha1/namespaces/shop/kvclusters/orders";
const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

/// No coordinator is within reach.
struct Nowhere;

#[async_trait]
impl Coordinators for Nowhere {
    async fn status(&self) -> Result<Store, Silence> {
        Err(Silence::NoAnswer("nobody is there".to_owned()))
    }

    async fn change(&self, _: &Admin, _: u64) -> Result<String, Refusal> {
        Err(Refusal::NoAnswer("nobody is there".to_owned()))
    }
}

#[async_trait]
impl Reach for Nowhere {
    fn reach(&self, _: &Access) -> Result<Arc<dyn Coordinators>, String> {
        Ok(Arc::new(Self))
    }

    async fn in_force(&self, _: &Access) -> Result<InForce, String> {
        Err("nobody is there".to_owned())
    }
}

fn world_of(api: &FakeApi, leadership: Leadership) -> World {
    World {
        client: api.client(),
        writes: Writes::new(leadership, None),
        events: Events::new(api.client(), "operator-0".to_owned()),
        health: Health::default(),
        reach: Arc::new(Nowhere),
        defaults: defaults(),
        memory: Memory::default(),
    }
}

fn world(api: &FakeApi) -> World {
    world_of(api, Leadership::alone())
}

fn put_manifest(api: &FakeApi, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::to_value(manifest()).unwrap();
    change(&mut value);
    api.put(MANIFEST, value);
}

fn of() -> ObjectRef<KvCluster> {
    ObjectRef::new("orders").within("shop")
}

#[tokio::test]
async fn a_manifest_becomes_objects_once() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    let world = world(&api);
    reconcile(&world, &of()).await.unwrap();
    let writes = api.writes();
    // The version stands before anything is made by it.
    assert_eq!(writes[0].path, format!("{MANIFEST}/status"));
    assert_eq!(writes[0].body["status"]["version"], "1.2.3");
    let path = |tail: &str| writes.iter().position(|write| write.path.ends_with(tail));
    let set = path("statefulsets/orders-data").expect("a StatefulSet");
    let secrets: Vec<&Value> = writes
        .iter()
        .filter(|write| write.path == SECRETS)
        .map(|write| &write.body["metadata"]["name"])
        .collect();
    assert_eq!(secrets, ["orders-ca", "orders-tls"]);
    assert!(
        path("/secrets").unwrap() < set,
        "certificates come before pods"
    );
    let live = api.get(MANIFEST).unwrap();
    assert_eq!(live["status"]["phase"], "Creating");
    assert_eq!(
        live["spec"],
        serde_json::to_value(manifest()).unwrap()["spec"]
    );

    // Another round finds all as it should be, and tells of the StatefulSets that there are now.
    reconcile(&world, &of()).await.unwrap();
    let writes = api.writes();
    let status = format!("{MANIFEST}/status");
    assert!(
        writes.iter().all(|write| write.path == status),
        "{writes:#?}"
    );
    reconcile(&world, &of()).await.unwrap();
    let writes = api.writes();
    assert!(writes.is_empty(), "{writes:#?}");
}

#[tokio::test]
async fn certificates_are_made_once_whoever_races() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    let first = world(&api);
    let other = world(&api);
    // Both see no authority, and the other one is faster.
    let fast = api.clone();
    let made = Arc::new(Mutex::new(None));
    let told = Arc::clone(&made);
    reconcile(&other, &of()).await.unwrap();
    let theirs = fast.get(&format!("{SECRETS}/orders-ca")).unwrap();
    *told.lock() = Some(theirs.clone());
    fast.remove(&format!("{SECRETS}/orders-ca"));
    fast.before(Method::POST, SECRETS, move |state| {
        state.put(&format!("{SECRETS}/orders-ca"), theirs);
    });
    let looked = reconcile(&first, &of()).await.unwrap().unwrap();
    assert_eq!(looked.again_in, SOON);
    let kept = api.get(&format!("{SECRETS}/orders-ca")).unwrap();
    assert_eq!(
        Some(&kept["data"]),
        made.lock().as_ref().map(|m| &m["data"])
    );
    // Nothing was signed by the one that lost.
    let before = api.get(&format!("{SECRETS}/orders-tls")).unwrap();
    reconcile(&first, &of()).await.unwrap();
    assert_eq!(
        api.get(&format!("{SECRETS}/orders-tls")).unwrap()["data"],
        before["data"]
    );
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_not_taken_over() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    let ca = format!("{SECRETS}/orders-ca");
    api.put(
        &ca,
        serde_json::json!({"metadata": {"name": "orders-ca", "namespace": "shop"}}),
    );
    reconcile(&world(&api), &of()).await.unwrap();
    let live = api.get(MANIFEST).unwrap();
    let message = live["status"]["message"].as_str().unwrap();
    assert!(message.contains("Secret orders-ca exists"), "{message}");
    assert_eq!(api.get(&ca).unwrap().get("data"), None);
    let events: Vec<_> = api
        .writes()
        .into_iter()
        .filter(|write| write.path.contains("/events"))
        .map(|write| write.body["reason"].clone())
        .collect();
    assert!(events.contains(&"Foreign".into()), "{events:?}");
}

#[tokio::test]
async fn an_invalid_manifest_changes_nothing_and_says_why() {
    let api = FakeApi::default();
    put_manifest(&api, |value| value["spec"]["replicationFactor"] = 5.into());
    let action = round(&world(&api), of()).await;
    assert_eq!(action, Action::requeue(AT_REST));
    let live = api.get(MANIFEST).unwrap();
    assert_eq!(live["status"]["phase"], "Invalid");
    assert!(!live["status"]["message"].as_str().unwrap().is_empty());
    let others = |write: &crate::testing::Seen| {
        !write.path.contains("/events") && !write.path.ends_with("/status")
    };
    assert!(!api.writes().iter().any(others));
}

#[tokio::test]
async fn a_manifest_that_is_gone_is_no_failure() {
    let api = FakeApi::default();
    assert_eq!(round(&world(&api), of()).await, Action::await_change());
}

#[tokio::test]
async fn an_operator_that_lost_the_lease_does_nothing_at_all() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    let (_reign, leadership) = Leadership::new();
    let result = reconcile(&world_of(&api, leadership), &of()).await;
    assert!(matches!(result, Err(Error::NotLeading(_))));
    assert!(api.writes().is_empty());
}

#[tokio::test]
async fn an_operator_that_loses_the_lease_in_a_round_stops_there() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    let (reign, leadership) = Leadership::new();
    reign.send_replace(Some(crate::leader::Reign::endless(7)));
    // Its place is taken while it makes certificates.
    api.before(Method::POST, SECRETS, move |_| {
        reign.send_replace(None);
    });
    let result = reconcile(&world_of(&api, leadership), &of()).await;
    assert!(matches!(result, Err(Error::NotLeading(_))), "{result:?}");
    let writes = api.writes();
    let last = writes.last().unwrap();
    assert_eq!((&last.method, last.path.as_str()), (&Method::POST, SECRETS));
}

#[tokio::test]
async fn what_the_api_server_refuses_stands_in_the_status_and_is_tried_less_and_less() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    api.forbid_writes("/apis/apps/v1/namespaces/shop/statefulsets/orders-coordinator");
    let world = world(&api);
    let first = round(&world, of()).await;
    let second = round(&world, of()).await;
    assert_eq!(first, Action::requeue(BACKOFF.0));
    assert_eq!(second, Action::requeue(BACKOFF.0 * 2));
    let message = api.get(MANIFEST).unwrap()["status"]["message"].clone();
    let told = message.as_str().unwrap();
    assert!(
        told.contains("apply StatefulSet orders-coordinator"),
        "{told}"
    );
    for _ in 0..40 {
        world.memory.failed("shop/orders");
    }
    assert_eq!(world.memory.failed("shop/orders"), BACKOFF.1);
    world.memory.succeeded("shop/orders", Some(Phase::Running));
    assert_eq!(world.memory.failed("shop/orders"), BACKOFF.0);
}

#[tokio::test]
async fn the_version_that_a_cluster_was_made_with_stays() {
    let api = FakeApi::default();
    put_manifest(&api, |_| {});
    reconcile(&world(&api), &of()).await.unwrap();
    let mut newer = world(&api);
    newer.defaults.version = "9.9.9".to_owned();
    api.writes();
    reconcile(&newer, &of()).await.unwrap();
    let made: Vec<_> = api
        .writes()
        .into_iter()
        .filter(|write| write.path.starts_with("/apis/apps"))
        .collect();
    assert!(
        made.is_empty(),
        "a newer operator changes nothing: {made:#?}"
    );
    assert_eq!(api.get(MANIFEST).unwrap()["status"]["version"], "1.2.3");
}

#[tokio::test]
async fn a_paused_cluster_is_only_told_about() {
    let api = FakeApi::default();
    put_manifest(&api, |value| {
        value["spec"]["maintenance"] = json!({"paused": true})
    });
    reconcile(&world(&api), &of()).await.unwrap();
    let others = |write: &crate::testing::Seen| {
        !write.path.contains("/events") && !write.path.ends_with("/status")
    };
    assert!(!api.writes().iter().any(others));
    assert_eq!(api.get(MANIFEST).unwrap()["status"]["phase"], "Paused");
}

#[tokio::test]
async fn users_are_composed_with_the_operators_own_whose_token_stays() {
    let api = FakeApi::default();
    put_manifest(&api, |value| {
        value["spec"]["users"] = json!({"secretName": "people"})
    });
    let world = world(&api);
    reconcile(&world, &of()).await.unwrap();
    let message = api.get(MANIFEST).unwrap()["status"]["message"].clone();
    assert!(
        message.as_str().unwrap().contains("Secret people"),
        "{message}"
    );

    let file = |text: &str| {
        let data = k8s_openapi::ByteString(text.as_bytes().to_vec());
        json!({
            "metadata": {"name": "people", "namespace": "shop"},
            "data": {"users.toml": data},
        })
    };
    api.put(&format!("{SECRETS}/people"), file(""));
    reconcile(&world, &of()).await.unwrap();
    let users = format!("{SECRETS}/orders-users");
    let first = api.get(&users).expect("made");
    assert!(first["data"]["token"].is_string());
    api.put(&format!("{SECRETS}/people"), file("# nobody\n"));
    reconcile(&world, &of()).await.unwrap();
    let second = api.get(&users).unwrap();
    assert_eq!(first["data"]["token"], second["data"]["token"]);
    assert_ne!(first["data"]["users.toml"], second["data"]["users.toml"]);
}

#[tokio::test]
async fn a_set_that_was_just_changed_is_told_of_in_the_same_round() {
    let api = FakeApi::default();
    let world = world(&api);
    let mut cluster = crate::testing::cluster();
    let observed = Observed::default();
    let plan = plan::plan(&cluster, &observed);
    for (level, expected) in [("info", 2), ("info", 0), ("debug", 2)] {
        level.clone_into(&mut cluster.spec.log_level);
        let mut told = Told::default();
        bring_about(&world, &cluster, &observed, &plan, &mut told)
            .await
            .unwrap();
        let of_sets = told
            .notes
            .iter()
            .filter(|note| note.topic == Topic::Restart);
        assert_eq!(of_sets.count(), expected, "{level}");
    }
}
