//! Batches, from the client to the service and back.

use bytes::Bytes;
use cairn_client::{Batch, BatchOutcome, BatchResult, Client, Condition, Error, Options};
use cairn_core::kv::request::{RequestError, WriteOp};
use cairn_proto::kv::KvError;
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_client::KvClient;
use tonic::{Code, Status};

use super::fake::{Act, FakeCluster};

async fn client(cluster: &FakeCluster) -> Client {
    Client::connect([cluster.address(1)], Options::default())
        .await
        .expect("the cluster answers")
}

fn applied(outcome: Result<BatchOutcome, Error>) -> Vec<BatchResult> {
    match outcome {
        Ok(BatchOutcome::Applied { results, .. }) => results,
        other => panic!("not applied: {other:?}"),
    }
}

#[tokio::test]
async fn a_batch_is_one_write_under_one_name_and_a_retry_of_it_is_applied_once() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    let batch = Batch::new()
        .put("{a}k", "v")
        .increment("{a}n", 2)
        .delete_if("{a}k", Condition::Present);
    cluster.script(1, [Act::ApplyThen(RequestError::Unknown)]);
    let expected = vec![
        BatchResult::Put,
        BatchResult::Integer(2),
        BatchResult::Deleted(true),
    ];
    assert_eq!(applied(client.batch(batch).await), expected);
    let asked = cluster.state.lock().asked.clone();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].1, asked[1].1);
    let WriteOp::Batch { operations } = &asked[0].1.op else {
        panic!("not a batch: {asked:?}");
    };
    assert_eq!(operations.len(), 3);
    assert_eq!(operations[2].condition, Condition::Present);
    assert_eq!(client.increment("{a}n", 0).await, Ok(2));
}

#[tokio::test]
async fn a_batch_beyond_its_bounds_is_never_sent() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    let many = (0..=limits::BATCH_OPERATIONS).fold(Batch::new(), |b, _| b.delete("k"));
    let value = Bytes::from(vec![0; limits::BATCH_BYTES / 2]);
    let long = Batch::new().put("k", value.clone()).put("k", value);
    for batch in [Batch::new(), many, long, Batch::new().delete("")] {
        let refused = client.batch(batch).await;
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    assert!(cluster.state.lock().asked.is_empty());
}

#[tokio::test]
async fn the_service_refuses_what_no_client_of_ours_sends() {
    let cluster = FakeCluster::start(1);
    let channel = cairn_client::transport::Dialer::default()
        .dial(&cluster.address(1))
        .await
        .expect("connect");
    let mut raw = KvClient::new(channel);
    let operation = |key: &'static str| pb::BatchOperation {
        key: Bytes::from(key),
        condition: None,
        action: Some(pb::batch_operation::Action::Delete(pb::BatchDelete {})),
    };
    let nothing = pb::BatchOperation {
        action: None,
        ..operation("k")
    };
    for operations in [vec![], vec![operation("")], vec![operation("k"), nothing]] {
        let request = pb::BatchRequest {
            operations,
            sequenced: None,
            write_level: 0,
        };
        let status = raw.batch(request).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
    let request = pb::BatchRequest {
        operations: vec![operation("k")],
        sequenced: None,
        write_level: 0,
    };
    let reply = raw.batch(request.clone()).await.expect("a batch of one");
    assert!(reply.into_inner().outcome.is_some());
    cluster.script(1, [Act::Refuse(RequestError::CrossPartition)]);
    let status: Status = raw.batch(request).await.expect_err("refused");
    assert_eq!(KvError::from_status(&status), Some(KvError::CrossPartition));
    assert!(status.message().contains("{hash tag}"), "{status:?}");
}
