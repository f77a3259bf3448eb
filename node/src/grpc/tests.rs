//! The service and the client against each other, over loopback.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_client::transport::{ByteStream, Channel, Dialer};
use cairn_client::{Client, Condition, Error, Options, PutOptions};
use cairn_core::ids::{Epoch, Index, MapVersion, NodeId, Position};
use cairn_core::kv::request::{RequestError, Sequenced, WriteRequest};
use cairn_core::record::ClusterMap;
use cairn_proto::kv::KvError;
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_client::KvClient;
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1::MapRequest;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use super::fake::{Act, FakeCluster, map_of, plain_listener};
use super::{MapFeed, ServeConfig, TopologyServer, serve};

/// What no test should take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn client(cluster: &FakeCluster) -> Client {
    client_with(cluster, Options::default()).await
}

async fn client_with(cluster: &FakeCluster, options: Options) -> Client {
    Client::connect([cluster.address(1)], options)
        .await
        .expect("the cluster answers")
}

fn names(cluster: &FakeCluster) -> Vec<Sequenced> {
    let state = cluster.state.lock();
    let requests = state.asked.iter().map(|(_, r): &(NodeId, WriteRequest)| r);
    requests
        .map(|r| r.sequenced.expect("every write has a name"))
        .collect()
}

#[tokio::test]
async fn the_simple_calls_do_what_they_say() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    assert_eq!(client.get("a").await, Ok(None));
    let version = client.put("a", "1").await.expect("put");
    let value = client.get("a").await.expect("get").expect("exists");
    assert_eq!((value.data, value.version), (Bytes::from("1"), version));
    assert_eq!(client.increment("a", 41).await, Ok(42));
    assert_eq!(client.delete("a").await, Ok(true));
    assert_eq!(client.delete("a").await, Ok(false));
    let outcome = client
        .put_with("a", "2", PutOptions::default())
        .await
        .expect("put");
    assert!(outcome.applied());
    let stats = client.stats();
    assert_eq!((stats.retries, stats.connects), (0, 1));
}

#[tokio::test]
async fn many_tasks_share_one_connection() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    let tasks: Vec<_> = (0..200)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.increment("counter", 1).await })
        })
        .collect();
    for task in tasks {
        task.await.expect("the task ends").expect("increment");
    }
    assert_eq!(client.increment("counter", 0).await, Ok(200));
    assert_eq!(client.stats().connects, 1);
}

#[tokio::test]
async fn a_moved_partition_is_followed() {
    let cluster = FakeCluster::start(2);
    let client = client(&cluster).await;
    client.put("a", "1").await.expect("put");
    cluster.promote(Some(2));
    let value = client.get("a").await.expect("get").expect("exists");
    assert_eq!(value.data, Bytes::from("1"));
    client.put("a", "2").await.expect("put");
    let last = cluster.state.lock().asked.last().cloned();
    assert_eq!(last.map(|(node, _)| node), Some(NodeId(2)));
}

#[tokio::test]
async fn a_write_of_unknown_outcome_is_retried_under_its_name_and_applied_once() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    assert_eq!(client.increment("n", 1).await, Ok(1));
    cluster.script(1, [Act::ApplyThen(RequestError::Unknown)]);
    assert_eq!(client.increment("n", 1).await, Ok(2));
    let names = names(&cluster);
    assert_eq!(names.len(), 3);
    assert_eq!(names[1], names[2]);
    assert_eq!(names[1].known.index, Index(1));
    assert_eq!(client.stats().unknown, 1);
}

#[tokio::test]
async fn a_write_that_was_cut_off_is_retried_under_its_name_and_applied_once() {
    let mut cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    assert_eq!(client.increment("n", 1).await, Ok(1));
    cluster.script(1, [Act::ApplyThenHang]);
    let cut_off = tokio::spawn({
        let client = client.clone();
        async move { client.increment("n", 1).await }
    });
    // The node has applied it once it was asked twice.
    while cluster.state.lock().asked.len() < 2 {
        tokio::task::yield_now().await;
    }
    cluster.kill(1);
    cluster.restart(1).await;
    let sum = timeout(PATIENCE, cut_off)
        .await
        .expect("in time")
        .expect("the task ends");
    assert_eq!(sum, Ok(2));
    let names = names(&cluster);
    assert_eq!(names[1], names[names.len() - 1]);
}

#[tokio::test]
async fn an_unjudged_first_try_is_made_anew_by_a_client_that_knows_more() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    let position = Position {
        epoch: Epoch(1),
        index: Index(700),
    };
    cluster.script(1, [Act::Refuse(RequestError::Unjudged { position })]);
    assert_eq!(client.increment("n", 1).await, Ok(1));
    let names = names(&cluster);
    assert_eq!(names[0].sequence, names[1].sequence);
    assert_eq!((names[0].known, names[1].known), (Position::ZERO, position));
}

#[tokio::test]
async fn an_unjudged_retry_is_told_as_unknown() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    let position = Position {
        epoch: Epoch(1),
        index: Index(700),
    };
    cluster.script(
        1,
        [
            Act::Refuse(RequestError::Unknown),
            Act::Refuse(RequestError::Unjudged { position }),
        ],
    );
    let result = client.increment("n", 1).await;
    assert!(
        matches!(result, Err(Error::OutcomeUnknown { .. })),
        "{result:?}"
    );
    // What it learned serves the next write.
    assert_eq!(client.increment("n", 1).await, Ok(1));
    assert_eq!(names(&cluster)[2].known, position);
}

#[tokio::test]
async fn a_call_to_a_deposed_primary_is_given_up_when_the_map_says_so() {
    let cluster = FakeCluster::start(2);
    let options = Options {
        attempt_timeout: PATIENCE * 2,
        deadline: PATIENCE * 2,
        ..Options::default()
    };
    let client = client_with(&cluster, options).await;
    cluster.script(1, [Act::Hang]);
    let hanging = tokio::spawn({
        let client = client.clone();
        async move { client.increment("n", 5).await }
    });
    while cluster.state.lock().asked.is_empty() {
        tokio::task::yield_now().await;
    }
    cluster.promote(Some(2));
    let sum = timeout(PATIENCE, hanging)
        .await
        .expect("long before the attempt's own time-out")
        .expect("the task ends");
    assert_eq!(sum, Ok(5));
    let names = names(&cluster);
    assert!(names.iter().all(|n| *n == names[0]));
    assert_eq!(client.stats().superseded, 1);
}

#[tokio::test]
async fn a_partition_without_a_primary_is_waited_for() {
    let cluster = FakeCluster::start(2);
    let client = client(&cluster).await;
    cluster.promote(None);
    let mut versions = client.map_versions();
    let version = cluster.map.load().version;
    timeout(PATIENCE, versions.wait_for(|v| *v >= version))
        .await
        .expect("in time")
        .expect("the client lives");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("a", "1").await }
    });
    tokio::task::yield_now().await;
    cluster.promote(Some(2));
    timeout(PATIENCE, waiting)
        .await
        .expect("in time")
        .expect("the task ends")
        .expect("put");
    assert_eq!(names(&cluster).len(), 1);
}

#[tokio::test]
async fn a_voter_is_asked_while_the_map_names_no_primary_and_the_former_one_is_not() {
    let cluster = FakeCluster::start(2);
    let client = client(&cluster).await;
    cluster.promote(None);
    let mut versions = client.map_versions();
    let version = cluster.map.load().version;
    timeout(PATIENCE, versions.wait_for(|v| *v >= version))
        .await
        .expect("in time")
        .expect("the client lives");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.put("a", "1").await }
    });
    let asked = async {
        while cluster.state.lock().asked.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.expect("a voter is asked");
    cluster.promote(Some(2));
    timeout(PATIENCE, waiting)
        .await
        .expect("in time")
        .expect("the task ends")
        .expect("put");
    let state = cluster.state.lock();
    assert!(state.asked.iter().all(|(node, _)| *node == NodeId(2)));
}

#[tokio::test]
async fn a_deadline_tells_whether_the_write_may_have_happened() {
    let cluster = FakeCluster::start(1);
    let options = Options {
        attempt_timeout: Duration::from_millis(50),
        deadline: Duration::from_millis(300),
        ..Options::default()
    };
    let client = client_with(&cluster, options).await;
    let partition = cairn_core::ids::PartitionId(0);
    let not_ready = Act::Refuse(RequestError::NotReady { partition });
    cluster.script(1, std::iter::repeat_n(not_ready, 1000));
    let refused = client.put("a", "1").await;
    assert!(
        matches!(refused, Err(Error::Unavailable { .. })),
        "{refused:?}"
    );
    cluster.forget_script(1);
    cluster.script(1, std::iter::repeat_n(Act::Hang, 1000));
    let hung = client.put("a", "1").await;
    assert!(
        matches!(hung, Err(Error::OutcomeUnknown { .. })),
        "{hung:?}"
    );
}

#[tokio::test]
async fn a_full_disk_is_said_at_once() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    cluster.script(1, [Act::Refuse(RequestError::DiskFull)]);
    assert_eq!(client.put("a", "1").await, Err(Error::DiskFull));
    assert_eq!(client.stats().retries, 0);
}

#[tokio::test]
async fn the_map_is_followed_past_the_node_that_gave_it() {
    let mut cluster = FakeCluster::start(3);
    let client = client(&cluster).await;
    for dead in 1..=2 {
        cluster.kill(dead);
        cluster.promote(Some(dead + 1));
        let version = cluster.map.load().version;
        let mut versions = client.map_versions();
        timeout(PATIENCE, versions.wait_for(|v| *v >= version))
            .await
            .expect("in time")
            .expect("the client lives");
        client.put("a", "1").await.expect("put");
    }
}

#[tokio::test]
async fn nobody_there_is_said_clearly() {
    let mut cluster = FakeCluster::start(1);
    let address = cluster.address(1);
    cluster.kill(1);
    let options = Options {
        deadline: Duration::from_millis(200),
        ..Options::default()
    };
    let error = Client::connect([address.clone()], options)
        .await
        .expect_err("nobody is there");
    assert!(error.to_string().contains(&address), "{error}");
}

async fn raw(cluster: &FakeCluster) -> KvClient<Channel> {
    let channel = cairn_client::transport::Dialer::default()
        .dial(&cluster.address(1))
        .await
        .expect("connect");
    KvClient::new(channel)
}

fn put(key: &'static str) -> pb::PutRequest {
    pb::PutRequest {
        key: Bytes::from(key),
        value: Bytes::from("value"),
        ..pb::PutRequest::default()
    }
}

#[tokio::test]
async fn refusals_of_unary_calls_carry_their_reason() {
    let cluster = FakeCluster::start(2);
    let mut client = raw(&cluster).await;
    let status = client.put(put("")).await.expect_err("an empty key");
    assert_eq!(status.code(), Code::InvalidArgument);
    let reason = KvError::from_status(&status);
    assert!(
        matches!(&reason, Some(KvError::Invalid { field, .. }) if field == "key"),
        "{reason:?}"
    );
    let get = pb::GetRequest {
        key: Bytes::from("a"),
        consistency: 9,
    };
    let status = client.get(get).await.expect_err("no such level");
    assert_eq!(status.code(), Code::InvalidArgument);
    cluster.promote(Some(2));
    let status = client.put(put("a")).await.expect_err("moved");
    let reason = KvError::from_status(&status).expect("a typed reason");
    assert!(
        matches!(&reason, KvError::Moved { address, .. } if *address == cluster.address(2)),
        "{reason:?}"
    );
}

#[tokio::test]
async fn a_refused_call_does_not_end_its_pipeline() {
    let cluster = FakeCluster::start(1);
    let mut client = raw(&cluster).await;
    let call = |id, key| pb::Call {
        id,
        request: Some(pb::call::Request::Put(put(key))),
        ..pb::Call::default()
    };
    let calls = pb::Calls {
        calls: vec![
            call(7, ""),
            call(8, "a"),
            pb::Call {
                id: 9,
                ..pb::Call::default()
            },
            call(u64::MAX, "b"),
        ],
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    sender.send(calls).await.expect("open");
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut answers = client
        .pipeline(stream)
        .await
        .expect("a pipeline")
        .into_inner();
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < 4 {
        let message = timeout(PATIENCE, answers.message()).await.expect("in time");
        for answer in message.expect("no error").expect("no end").answers {
            let refused = matches!(answer.reply, Some(pb::answer::Reply::Error(_)));
            seen.insert(answer.id, refused);
        }
    }
    let expected = [(7, true), (8, false), (9, true), (u64::MAX, true)];
    assert_eq!(seen, expected.into());
    drop(sender);
    let end = timeout(PATIENCE, answers.message()).await.expect("in time");
    assert!(end.expect("no error").is_none());
}

#[tokio::test]
async fn conditions_travel() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster).await;
    let version = Position {
        epoch: Epoch(3),
        index: Index(9),
    };
    let options = PutOptions {
        condition: Condition::Version(version),
        expiry: cairn_client::Expiry::AtMillis(5),
        return_previous: true,
        write_level: None,
    };
    client.put_with("k", "v", options).await.expect("put");
    let asked = cluster.state.lock().asked[0].1.op.clone();
    assert_eq!(
        asked,
        cairn_core::kv::request::WriteOp::Set {
            key: Bytes::from("k"),
            value: Bytes::from("v"),
            condition: options.condition,
            expiry: options.expiry,
            return_previous: true,
        }
    );
}

#[tokio::test]
async fn a_call_that_is_never_sent_to_its_end_is_given_up() {
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let map = Arc::new(ArcSwap::from_pointee(map_of(1, Some(1), vec![])));
    let topology = TopologyServer::new(MapFeed::new(map), shutdown.clone());
    tokio::spawn(serve(
        listener,
        Routes::new(topology.into_server()),
        ServeConfig {
            call_timeout: Some(Duration::from_millis(20)),
            ..ServeConfig::for_clients()
        },
        plain_listener(),
        shutdown.clone(),
    ));
    let mut channel = Dialer::default().dial(&address).await.expect("connect");
    // The head of a message of a megabyte, and never the message.
    let head = Bytes::from_static(&[0, 0, 16, 0, 0]);
    let body = futures::stream::once(async move { Ok::<_, std::io::Error>(head) })
        .chain(futures::stream::pending());
    let request = axum::http::Request::post(format!("http://{address}/cairn.kv.v1.Topology/Get"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(axum::body::Body::from_stream(body)))
        .expect("a request");
    let answer = timeout(PATIENCE, async {
        std::future::poll_fn(|context| channel.poll_ready(context))
            .await
            .expect("it is ready");
        channel.call(request).await
    });
    let answer = answer.await.expect("it is given up").expect("an answer");
    let status = Status::from_header_map(answer.headers()).expect("refused at once");
    assert_ne!(status.code(), Code::Ok);
    shutdown.cancel();
}

/// Serves a map of a cluster of that name until it is shut down.
async fn serving(cluster_id: &str) -> (String, CancellationToken) {
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let map = ClusterMap {
        cluster_id: cluster_id.to_owned(),
        version: MapVersion(1),
        ..ClusterMap::default()
    };
    let feed = MapFeed::new(Arc::new(ArcSwap::from_pointee(map)));
    tokio::spawn(serve(
        listener,
        Routes::new(TopologyServer::new(feed, shutdown.clone()).into_server()),
        ServeConfig::default(),
        plain_listener(),
        shutdown.clone(),
    ));
    (address, shutdown)
}

#[tokio::test]
async fn a_name_is_looked_up_anew_once_the_connection_to_its_address_is_gone() {
    const NAME: &str = "data-0.pods.test";
    let ((before, shutdown), (after, _later)) = (serving("before").await, serving("after").await);
    let leads_to = Arc::new(Mutex::new(before));
    let names = Arc::clone(&leads_to);
    let dialer = Dialer {
        connect: Some(Arc::new(move |host, port| {
            assert_eq!((host, port), (NAME, 7401));
            let address = names.lock().clone();
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            })
        })),
        ..Dialer::default()
    };
    let channel = dialer.lazy(&format!("{NAME}:7401")).expect("an address");
    let mut client = TopologyClient::new(channel);
    let mut ask = async || {
        let reply = client.get(MapRequest::default()).await?.into_inner();
        match MapUpdate::try_from(reply) {
            Ok(MapUpdate::Full(map)) => Ok::<_, Status>(map.cluster_id.clone()),
            other => panic!("no whole map: {other:?}"),
        }
    };
    assert_eq!(ask().await.expect("an answer"), "before");
    *leads_to.lock() = after;
    shutdown.cancel();
    // What is under way when the old address goes may fail; the next try goes to the new one.
    let found = async {
        loop {
            if let Ok(cluster) = ask().await
                && cluster == "after"
            {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, found)
        .await
        .expect("the name is looked up");
}
