use std::sync::Arc;

use async_trait::async_trait;
use http::Method;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::observed::Silence;
use crate::store::Store;
use crate::testing::{FakeApi, cluster, writes};

const POD: &str = "/api/v1/namespaces/shop/pods/orders-data-2";
const CLAIM: &str = "/api/v1/namespaces/shop/persistentvolumeclaims/data-orders-data-2";

/// Coordinators that were told what to answer.
#[derive(Default)]
struct Told {
    refuses: Option<Refusal>,
    asked: Arc<Mutex<Vec<(Admin, u64)>>>,
}

#[async_trait]
impl Coordinators for Told {
    async fn status(&self) -> Result<Store, Silence> {
        Err(Silence::NotAsked)
    }

    async fn change(&self, change: &Admin, term: u64) -> Result<String, Refusal> {
        self.asked.lock().push((change.clone(), term));
        match &self.refuses {
            Some(refusal) => Err(refusal.clone()),
            None => Ok("done".to_owned()),
        }
    }
}

fn pod(uid: &str) -> Value {
    json!({"metadata": {"name": "orders-data-2", "namespace": "shop", "uid": uid}})
}

fn claim(uid: &str) -> Value {
    json!({"metadata": {"name": "data-orders-data-2", "namespace": "shop", "uid": uid}})
}

fn delete_pod(uid: &str, force: bool) -> Step {
    Step::DeletePod {
        name: "orders-data-2".to_owned(),
        uid: uid.to_owned(),
        force,
        reason: "it is a test".to_owned(),
    }
}

fn delete_claim(uid: &str) -> Step {
    Step::DeleteClaim {
        name: "data-orders-data-2".to_owned(),
        uid: uid.to_owned(),
        reason: "it is a test".to_owned(),
    }
}

async fn carry(api: &FakeApi, told: &Told, steps: &[Step]) -> Carried {
    let cluster = cluster();
    carry_out(&api.client(), &writes(), &cluster, Some(told), steps)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_deletion_is_of_the_one_that_was_just_read() {
    let api = FakeApi::default();
    api.put(POD, pod("u1"));
    api.put(CLAIM, claim("u2"));
    let steps = [delete_claim("u2"), delete_pod("u1", true)];
    let carried = carry(&api, &Told::default(), &steps).await;
    assert_eq!((carried.done, carried.news.len()), (2, 2));
    let deletes = api.writes();
    assert_eq!(deletes.len(), 2);
    for (delete, uid) in deletes.iter().zip(["u2", "u1"]) {
        assert_eq!(delete.method, Method::DELETE);
        assert_eq!(delete.body["preconditions"]["uid"], uid);
        assert!(delete.body["preconditions"]["resourceVersion"].is_string());
    }
    assert_eq!(deletes[0].body.get("gracePeriodSeconds"), None);
    assert_eq!(deletes[1].body["gracePeriodSeconds"], 0);
    assert!(api.get(POD).is_none() && api.get(CLAIM).is_none());
}

#[tokio::test]
async fn another_pod_of_that_name_is_left_alone_and_ends_the_round() {
    let api = FakeApi::default();
    api.put(POD, pod("another"));
    api.put(CLAIM, claim("u2"));
    let steps = [delete_pod("u1", false), delete_claim("u2")];
    let carried = carry(&api, &Told::default(), &steps).await;
    assert_eq!(carried, Carried::default());
    assert!(api.writes().is_empty());
}

#[tokio::test]
async fn a_claim_that_changes_between_the_look_and_the_deletion_is_left_alone() {
    let api = FakeApi::default();
    api.put(CLAIM, claim("u2"));
    api.before(Method::DELETE, CLAIM, |state| {
        let mut bound_anew = claim("u2");
        bound_anew["metadata"]["labels"] = json!({"changed": "yes"});
        state.put(CLAIM, bound_anew);
    });
    let carried = carry(&api, &Told::default(), &[delete_claim("u2")]).await;
    assert_eq!(carried, Carried::default());
    assert!(api.get(CLAIM).is_some());
    // And one that was deleted and made anew.
    api.before(Method::DELETE, CLAIM, |state| {
        state.remove(CLAIM);
        state.put(CLAIM, claim("u3"));
    });
    carry(&api, &Told::default(), &[delete_claim("u2")]).await;
    assert!(api.get(CLAIM).is_some());
}

#[tokio::test]
async fn what_is_gone_or_going_needs_no_deletion() {
    let api = FakeApi::default();
    let mut going = pod("u1");
    going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    api.put(POD, going);
    let steps = [delete_claim("u2"), delete_pod("u1", false)];
    let carried = carry(&api, &Told::default(), &steps).await;
    assert_eq!((carried.done, carried.news.len()), (2, 0));
    assert!(api.writes().is_empty());
    // Where nobody confirms its end, it is taken away although it is going.
    let carried = carry(&api, &Told::default(), &[delete_pod("u1", true)]).await;
    assert_eq!(carried.news.len(), 1);
    assert!(api.get(POD).is_none());
}

#[tokio::test]
async fn a_refusal_ends_the_round_without_failing_it() {
    let api = FakeApi::default();
    api.put(POD, pod("u1"));
    let told = Told {
        refuses: Some(Refusal::Refused("too few copies would be left".to_owned())),
        ..Told::default()
    };
    let steps = [Step::Admin(Admin::Gone(2)), delete_pod("u1", true)];
    let carried = carry(&api, &told, &steps).await;
    assert_eq!(carried.done, 0);
    assert_eq!(carried.notes[0].topic, Topic::Lost);
    assert!(carried.notes[0].text.contains("too few copies"));
    assert_eq!(carried.news[0].reason, Reason::Refused);
    assert!(api.get(POD).is_some(), "what follows was not done");
}

#[tokio::test]
async fn every_change_carries_the_term_and_what_is_done_is_told() {
    let api = FakeApi::default();
    let told = Told::default();
    let steps = [
        Step::Admin(Admin::Drain(1)),
        Step::Admin(Admin::Retire(1)),
        Step::Admin(Admin::MovePrimary {
            partition: 3,
            to: 2,
        }),
    ];
    let writes = writes();
    let term = writes.term().unwrap();
    let carried = carry_out(&api.client(), &writes, &cluster(), Some(&told), &steps)
        .await
        .unwrap();
    assert_eq!(carried.done, 3);
    let reasons: Vec<Reason> = carried.news.iter().map(|news| news.reason).collect();
    assert_eq!(reasons, [Reason::Changed, Reason::NodeRetired]);
    let asked = told.asked.lock();
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|(_, with)| *with == term && *with > 0));
    assert_eq!(writes.count(), 3, "each counts as a write");
}

#[tokio::test]
async fn without_the_lease_nobody_is_asked() {
    let api = FakeApi::default();
    let told = Told::default();
    let (_reign, leadership) = crate::leader::Leadership::new();
    let writes = Writes::new(leadership, None);
    let steps = [Step::Admin(Admin::Drain(1))];
    let result = carry_out(&api.client(), &writes, &cluster(), Some(&told), &steps).await;
    assert!(matches!(result, Err(Error::NotLeading(_))));
    assert!(told.asked.lock().is_empty());
}

#[tokio::test]
async fn a_claim_is_marked_as_the_one_that_was_read() {
    let api = FakeApi::default();
    api.put(CLAIM, claim("u2"));
    let mark = |uid: &str, retired| Step::MarkRetired {
        name: "data-orders-data-2".to_owned(),
        uid: uid.to_owned(),
        retired,
    };
    let carried = carry(&api, &Told::default(), &[mark("another", true)]).await;
    assert_eq!(carried.done, 0);
    let carried = carry(&api, &Told::default(), &[mark("u2", true)]).await;
    assert_eq!(carried.done, 1);
    let live = api.get(CLAIM).unwrap();
    assert_eq!(live["metadata"]["annotations"][ANNOTATION_RETIRED], "true");
}

fn grow(uid: &str) -> Step {
    Step::GrowClaim {
        name: "data-orders-data-2".to_owned(),
        uid: uid.to_owned(),
        size: "20Gi".to_owned(),
    }
}

#[tokio::test]
async fn a_claim_grows_as_the_one_that_was_read() {
    let api = FakeApi::default();
    api.put(CLAIM, claim("u2"));
    let carried = carry(&api, &Told::default(), &[grow("another")]).await;
    assert_eq!((carried.done, api.writes().len()), (0, 0));
    let carried = carry(&api, &Told::default(), &[grow("u2")]).await;
    assert_eq!((carried.done, carried.news.len()), (1, 1));
    let patch = &api.writes()[0].body;
    assert_eq!(patch["metadata"]["uid"], "u2");
    assert!(patch["metadata"]["resourceVersion"].is_string());
    let live = api.get(CLAIM).unwrap();
    assert_eq!(live["spec"]["resources"]["requests"]["storage"], "20Gi");
}

#[tokio::test]
async fn a_claim_that_may_not_grow_holds_nothing_else_back() {
    let api = FakeApi::default();
    api.put(CLAIM, claim("u2"));
    api.put(POD, pod("u1"));
    api.forbid_writes(CLAIM);
    let steps = [grow("u2"), delete_pod("u1", false)];
    let carried = carry(&api, &Told::default(), &steps).await;
    assert_eq!(carried.done, 2);
    assert_eq!(carried.notes[0].topic, Topic::Stuck);
    assert!(carried.notes[0].text.contains("allowVolumeExpansion"));
    assert!(api.get(POD).is_none());
}

#[tokio::test]
async fn a_set_is_made_anew_without_its_pods() {
    const SET: &str = "/apis/apps/v1/namespaces/shop/statefulsets/orders-data";
    let api = FakeApi::default();
    let set = json!({"metadata": {"name": "orders-data", "namespace": "shop", "uid": "s1"}});
    api.put(SET, set);
    let renew = |uid: &str| Step::RenewSet {
        role: crate::names::Role::Data,
        uid: uid.to_owned(),
    };
    carry(&api, &Told::default(), &[renew("another")]).await;
    assert!(api.writes().is_empty());
    carry(&api, &Told::default(), &[renew("s1")]).await;
    let delete = &api.writes()[0];
    assert_eq!(delete.method, Method::DELETE);
    assert_eq!(delete.body["propagationPolicy"], "Orphan");
    assert_eq!(delete.body["preconditions"]["uid"], "s1");
}
