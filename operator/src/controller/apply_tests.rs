use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use super::*;
use crate::leader::Leadership;
use crate::plan::{Plan, Replicas};
use crate::testing::{FakeApi, cluster, writes};

const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/orders-data";
const PLACES: &str = "/api/v1/namespaces/shop/configmaps/orders-places";

fn plan(data: u32) -> Plan {
    Plan {
        replicas: Replicas {
            coordinators: 3,
            data,
        },
        ..Plan::default()
    }
}

fn object(cluster: &Cluster, plan: &Plan, kind: &str, name: &str) -> Object {
    crate::build::objects(cluster, plan, &crate::build::Material::default())
        .into_iter()
        .find(|object| object.resource().kind == kind && object.name() == name)
        .unwrap()
}

fn places(cluster: &Cluster) -> Object {
    object(cluster, &plan(3), "ConfigMap", "orders-places")
}

#[tokio::test]
async fn what_is_as_asked_is_written_once() {
    let api = FakeApi::default();
    let cluster = cluster();
    let all = crate::build::objects(&cluster, &plan(3), &crate::build::Material::default());
    for expected in [Applied::Changed, Applied::Unchanged, Applied::Unchanged] {
        for object in &all {
            let applied = apply(&api.client(), &writes(), &cluster, object)
                .await
                .unwrap();
            assert_eq!(applied, expected, "{object:?}");
        }
    }
    let writes = api.writes();
    assert_eq!(writes.len(), all.len());
    for write in &writes {
        assert_eq!(write.method, Method::PATCH);
        assert!(
            write.query.contains("fieldManager=cairn-operator"),
            "{}",
            write.query
        );
        assert!(write.query.contains("force=true"), "{}", write.query);
        let owner = &write.body["metadata"]["ownerReferences"][0];
        assert_eq!(owner["uid"], "uid-orders");
    }
}

#[tokio::test]
async fn what_somebody_changed_is_put_right_and_what_they_added_is_left() {
    let api = FakeApi::default();
    let cluster = cluster();
    let object = places(&cluster);
    apply(&api.client(), &writes(), &cluster, &object)
        .await
        .unwrap();
    let mut added = api.get(PLACES).unwrap();
    added["metadata"]["annotations"]["example.com/theirs"] = "1".into();
    api.put(PLACES, added.clone());
    let applied = apply(&api.client(), &writes(), &cluster, &object)
        .await
        .unwrap();
    assert_eq!(applied, Applied::Unchanged);

    added["data"]["places.toml"] = "nonsense".into();
    api.put(PLACES, added);
    let applied = apply(&api.client(), &writes(), &cluster, &object)
        .await
        .unwrap();
    assert_eq!(applied, Applied::Changed);
    let live = api.get(PLACES).unwrap();
    assert_ne!(live["data"]["places.toml"], "nonsense");
    assert_eq!(live["metadata"]["annotations"]["example.com/theirs"], "1");
}

#[tokio::test]
async fn a_field_that_is_asked_for_no_more_is_taken_back() {
    let api = FakeApi::default();
    let cluster = cluster();
    let of = |data: &[(&str, &str)]| {
        let Object::ConfigMap(map) = places(&cluster) else {
            panic!("another kind");
        };
        let data = data.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Object::from(ConfigMap {
            data: Some(data.collect()),
            ..*map
        })
    };
    apply(
        &api.client(),
        &writes(),
        &cluster,
        &of(&[("a", "1"), ("b", "2")]),
    )
    .await
    .unwrap();
    // All that is left of it is there; what is not asked for any more is for the API server
    // to find out, which knows who owned it.
    let less = of(&[("a", "1")]);
    let applied = apply(&api.client(), &writes(), &cluster, &less)
        .await
        .unwrap();
    assert_eq!(applied, Applied::Changed);
}

#[tokio::test]
async fn an_object_of_somebody_else_is_left_alone() {
    let api = FakeApi::default();
    let cluster = cluster();
    let theirs = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "orders-places", "namespace": "shop"}, "data": {"a": "b"},
    });
    api.put(PLACES, theirs);
    let object = places(&cluster);
    let applied = apply(&api.client(), &writes(), &cluster, &object)
        .await
        .unwrap();
    assert_eq!(applied, Applied::Foreign);
    let unwanted = Unwanted::DisruptionBudget("orders-data".to_owned());
    let budget = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/orders-data";
    api.put(
        budget,
        json!({"metadata": {"name": "orders-data", "namespace": "shop"}}),
    );
    remove(&api.client(), &writes(), &cluster, &unwanted)
        .await
        .unwrap();
    assert!(api.writes().is_empty());
}

#[tokio::test]
async fn what_a_stateful_set_cannot_change_is_kept_and_the_rest_applied() {
    let api = FakeApi::default();
    let mut cluster = cluster();
    let set = object(&cluster, &plan(3), "StatefulSet", "orders-data");
    apply(&api.client(), &writes(), &cluster, &set)
        .await
        .unwrap();
    // As the API server would complete it.
    let mut live = api.get(SET).unwrap();
    live["spec"]["volumeClaimTemplates"][0]["status"] = json!({"phase": "Pending"});
    live["spec"]["volumeClaimTemplates"][0]["spec"]["volumeMode"] = "Filesystem".into();
    api.put(SET, live.clone());
    let applied = apply(&api.client(), &writes(), &cluster, &set)
        .await
        .unwrap();
    // The hash is of other claims than at the first time, and never changes again.
    assert_eq!(applied, Applied::Changed);
    let applied = apply(&api.client(), &writes(), &cluster, &set)
        .await
        .unwrap();
    assert_eq!(applied, Applied::Unchanged);

    cluster.spec.data.storage.size.0 = "20Gi".to_owned();
    let larger = object(&cluster, &plan(5), "StatefulSet", "orders-data");
    let applied = apply(&api.client(), &writes(), &cluster, &larger)
        .await
        .unwrap();
    assert_eq!(applied, Applied::Changed);
    let now = api.get(SET).unwrap();
    assert_eq!(now["spec"]["replicas"], 5);
    assert_eq!(
        now["spec"]["volumeClaimTemplates"],
        live["spec"]["volumeClaimTemplates"]
    );
}

#[tokio::test]
async fn an_operator_without_the_lease_changes_nothing() {
    let api = FakeApi::default();
    let cluster = cluster();
    let (_reign, leadership) = Leadership::new();
    let writes = Writes::new(leadership, None);
    let result = apply(&api.client(), &writes, &cluster, &places(&cluster)).await;
    assert!(matches!(result, Err(Error::NotLeading(_))));
    let unwanted = Unwanted::DisruptionBudget("orders-data".to_owned());
    let budget = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/orders-data";
    let owners = json!([{"apiVersion": "v", "kind": "k", "name": "n", "uid": "uid-orders"}]);
    let metadata = json!({"name": "orders-data", "namespace": "shop", "ownerReferences": owners});
    api.put(budget, json!({"metadata": metadata}));
    let result = remove(&api.client(), &writes, &cluster, &unwanted).await;
    assert!(matches!(result, Err(Error::NotLeading(_))));
    assert!(api.writes().is_empty());
}

#[tokio::test]
async fn what_nothing_asks_for_is_deleted_as_the_one_that_was_read() {
    let api = FakeApi::default();
    let cluster = cluster();
    let budget = "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/orders-data";
    let owners = json!([{"apiVersion": "v", "kind": "k", "name": "n", "uid": "uid-orders"}]);
    let metadata = json!({"name": "orders-data", "namespace": "shop", "ownerReferences": owners});
    api.put(budget, json!({"metadata": metadata}));
    let unwanted = Unwanted::DisruptionBudget("orders-data".to_owned());
    remove(&api.client(), &writes(), &cluster, &unwanted)
        .await
        .unwrap();
    let deletes = api.writes();
    assert_eq!(deletes.len(), 1);
    let preconditions = &deletes[0].body["preconditions"];
    assert!(preconditions["uid"].is_string() && preconditions["resourceVersion"].is_string());
    assert_eq!(api.get(budget), None);
    // And that it is gone is no failure.
    remove(&api.client(), &writes(), &cluster, &unwanted)
        .await
        .unwrap();
}

#[test]
fn amounts_are_compared_as_amounts_and_text_as_text() {
    let covered = |asked: Value, live: Value| is_covered(&asked, &live, false);
    let limits = |text: &str| json!({"resources": {"limits": {"cpu": text}}});
    assert!(covered(limits("1"), limits("1000m")));
    assert!(!covered(limits("1"), limits("1100m")));
    assert!(!covered(
        json!({"data": {"A": "1"}}),
        json!({"data": {"A": "1000m"}})
    ));
    assert!(covered(json!({"emptyDir": {}, "x": null}), json!({})));
    assert!(!covered(json!([{"a": 1}]), json!([{"a": 1}, {"a": 2}])));
    assert!(covered(json!([{"a": 1}]), json!([{"a": 1, "b": 2}])));
}
