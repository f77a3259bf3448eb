//! Answers that do not all fit into what their connection may hold, from end to end.

use std::time::Duration;

use bytes::Bytes;
use cairn_client::transport::Dialer;
use cairn_client::{Client, Options, PutOptions};
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_client::KvClient;
use futures::future::join_all;
use tokio::time::timeout;

use super::IntakeConfig;
use super::fake::FakeCluster;

const PATIENCE: Duration = Duration::from_secs(30);

/// A node each of whose connections holds a megabyte of answers, and a value of which
/// three fit.
async fn narrow() -> (FakeCluster, Client, Bytes) {
    let cluster = FakeCluster::bounded(IntakeConfig {
        answer_bytes: 1 << 20,
        ..IntakeConfig::default()
    });
    let client = Client::connect([cluster.address(1)], Options::default())
        .await
        .expect("the cluster answers");
    let value = Bytes::from(vec![7; 300 << 10]);
    client.put("long", value.clone()).await.expect("put");
    client.put("short", "s").await.expect("put");
    (cluster, client, value)
}

#[tokio::test]
async fn all_answers_of_a_pipeline_come_to_a_client_that_takes_them() {
    let (_cluster, client, value) = narrow().await;
    let reads = (0..60).map(|n| client.get(if n % 3 == 0 { "short" } else { "long" }));
    let reads = timeout(PATIENCE, join_all(reads)).await.expect("in time");
    for (n, read) in reads.into_iter().enumerate() {
        let data = read.expect("get").expect("exists").data;
        assert_eq!(data.len(), if n % 3 == 0 { 1 } else { value.len() });
    }
    // Each reserves more than there is in all, so that they go one by one.
    let options = PutOptions {
        return_previous: true,
        ..PutOptions::default()
    };
    let writes = (0..20).map(|_| client.put_with("other", "v", options));
    let writes = timeout(PATIENCE, join_all(writes)).await.expect("in time");
    assert!(writes.iter().all(Result::is_ok), "{writes:?}");
    let read = client.get("long").await.expect("get").expect("exists");
    assert_eq!(read.data, value);
}

#[tokio::test]
async fn all_calls_of_a_connection_are_answered_to_a_client_that_takes_the_answers() {
    let (cluster, _client, value) = narrow().await;
    let channel = Dialer::default()
        .dial(&cluster.address(1))
        .await
        .expect("connect");
    let calls = (0..40).map(|n| {
        let mut calls = KvClient::new(channel.clone());
        async move {
            if n % 4 == 0 {
                let put = pb::PutRequest {
                    key: "other".into(),
                    return_previous: true,
                    ..pb::PutRequest::default()
                };
                return calls.put(put).await.map(|_| 0);
            }
            let get = pb::GetRequest {
                key: "long".into(),
                ..pb::GetRequest::default()
            };
            let reply = calls.get(get).await?.into_inner();
            Ok(reply.value.expect("exists").data.len())
        }
    });
    let answers = timeout(PATIENCE, join_all(calls)).await.expect("in time");
    for (n, answer) in answers.into_iter().enumerate() {
        let length = answer.expect("it is answered");
        assert_eq!(length, if n % 4 == 0 { 0 } else { value.len() });
    }
}
