use serde_json::json;

use super::*;
use crate::testing::FakeApi;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/ops/leases";

fn candidate(api: &FakeApi, identity: &str) -> Candidate {
    Candidate::new(api.client(), "ops", "cairn-operator", identity.to_owned())
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

#[tokio::test]
async fn one_of_two_holds_the_lease_and_the_next_has_a_larger_term() {
    let api = FakeApi::default();
    let (mut first, mut second) = (candidate(&api, "a"), candidate(&api, "b"));
    let term = first.attempt(at(0)).await.unwrap().expect("it is free");
    assert_eq!(second.attempt(at(0)).await.unwrap(), None);
    // Renewing keeps the term.
    assert_eq!(first.attempt(at(5)).await.unwrap(), Some(term));
    // Seen to change at 5 s, so not to be taken until 20 s.
    assert_eq!(second.attempt(at(5)).await.unwrap(), None);
    assert_eq!(second.attempt(at(19)).await.unwrap(), None);
    let next = second.attempt(at(20)).await.unwrap().expect("it ran out");
    assert!(next > term, "{next} {term}");
    assert_eq!(first.attempt(at(21)).await.unwrap(), None, "it is lost");
}

#[tokio::test]
async fn a_lease_that_was_given_back_is_taken_at_once_under_a_larger_term() {
    let api = FakeApi::default();
    let (mut first, mut second) = (candidate(&api, "a"), candidate(&api, "b"));
    let term = first.attempt(at(0)).await.unwrap().unwrap();
    first.release().await.unwrap();
    let next = second.attempt(at(0)).await.unwrap().expect("it is free");
    assert!(next > term, "{next} {term}");
    // What is not one's own is not given back.
    first.release().await.unwrap();
    assert_eq!(second.attempt(at(1)).await.unwrap(), Some(next));
}

#[tokio::test]
async fn the_term_grows_where_the_clock_went_back_and_where_the_lease_was_deleted() {
    let api = FakeApi::default();
    let mut first = candidate(&api, "a");
    let later = now_unix_ms() + 1_000_000_000;
    api.put(
        &format!("{LEASES}/cairn-operator"),
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "cairn-operator", "annotations": {ANNOTATION_TERM: later.to_string()}},
            "spec": {"leaseTransitions": 7}
        }),
    );
    assert_eq!(first.attempt(at(0)).await.unwrap(), Some(later + 1));

    let before = now_unix_ms();
    api.remove(&format!("{LEASES}/cairn-operator"));
    // It held it, and may not go on under the old term.
    let anew = first.attempt(at(1)).await.unwrap().unwrap();
    assert!(anew >= before, "{anew} {before}");
}

#[tokio::test]
async fn whoever_is_overtaken_between_reading_and_writing_does_not_lead() {
    let api = FakeApi::default();
    let (mut first, mut second) = (candidate(&api, "a"), candidate(&api, "b"));
    first.attempt(at(0)).await.unwrap().unwrap();
    let old = second.api.get("cairn-operator").await.unwrap();
    second.look(Some(&old), at(0));
    first.attempt(at(15)).await.unwrap().unwrap();
    // It decides by what it read before the holder renewed.
    let Move::Write(lease) = second.decide(Some(&old), at(15), Timestamp::now()) else {
        panic!("it looks as if it had run out");
    };
    let refused = second
        .api
        .replace("cairn-operator", &PostParams::default(), &lease)
        .await
        .unwrap_err();
    assert!(matches!(refused, kube::Error::Api(status) if status.is_conflict()));
}

#[tokio::test]
async fn a_reign_ends_by_itself_when_nobody_renews_it() {
    fn late() -> Duration {
        Duration::from_secs(60)
    }
    let (sender, mut own) = Leadership::new();
    assert_eq!(own.term(), Err(NotLeading));
    own.clock = late;
    let reign = |seconds| {
        Some(Reign {
            term: 7,
            until: Some(Duration::from_secs(seconds)),
        })
    };
    sender.send_replace(reign(61));
    assert_eq!(own.gained().await, 7);
    sender.send_replace(reign(60));
    assert_eq!(own.term(), Err(NotLeading));
    own.lost(7).await;
    // Another reign of the same process is not the one that was waited for.
    sender.send_replace(reign(61));
    own.lost(6).await;
    // The election's task may be gone: the reign lasts as long as it was told to.
    drop(sender);
    assert_eq!(own.term(), Ok(7));
}

#[tokio::test]
async fn the_election_stops_with_the_process_and_gives_the_lease_back() {
    let api = FakeApi::default();
    let (sender, mut own) = Leadership::new();
    let stop = CancellationToken::new();
    let running = tokio::spawn(candidate(&api, "a").run(sender, stop.clone()));
    let term = own.gained().await;
    assert!(term > 0);
    stop.cancel();
    running.await.unwrap();
    assert_eq!(own.term(), Err(NotLeading));
    let lease = api.get(&format!("{LEASES}/cairn-operator")).unwrap();
    assert_eq!(lease["spec"].get("holderIdentity"), None);
    assert_eq!(
        lease["metadata"]["annotations"][ANNOTATION_TERM],
        term.to_string()
    );
}
