//! The client's watch against nodes that refuse.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_client::{Client, KeyFilter, Options, WatchOptions};
use cairn_core::ids::{Epoch, Index, PartitionId, Position};
use cairn_core::kv::request::Value;
use cairn_core::kv::watch::KeyEvent;
use cairn_core::record::{Addresses, PartitionRecord, SlotRange};
use cairn_proto::keyspace::{WatchEnd, WatchQuery, WatchUpdate};
use cairn_proto::kv::KvError;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::keyspace_server;
use futures::{Stream, StreamExt, stream};
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::fake::{map_of, plain_listener};
use super::{MapFeed, ServeConfig, TopologyServer, serve};

const PATIENCE: Duration = Duration::from_secs(60);
const SERVED: PartitionId = PartitionId(0);
const REFUSED: PartitionId = PartitionId(1);

fn position(index: u64) -> Position {
    Position {
        epoch: Epoch(1),
        index: Index(index),
    }
}

/// Something happens in one partition every millisecond; the other is refused until it
/// relents, and then it is as the first.
#[derive(Clone, Default)]
struct Refusing {
    asked: Arc<AtomicU64>,
    relenting: Arc<AtomicBool>,
}

fn event(partition: PartitionId, index: u64) -> WatchUpdate {
    let value = Value::string(Bytes::from(index.to_string()), position(index), None);
    WatchUpdate::Events {
        partition,
        events: vec![KeyEvent::Put {
            key: Bytes::from(partition.0.to_string()),
            value,
        }],
        position: position(index),
    }
}

#[tonic::async_trait]
impl keyspace_server::Keyspace for Refusing {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchReply, Status>> + Send>>;

    async fn scan(&self, _: Request<pb::ScanRequest>) -> Result<Response<pb::ScanReply>, Status> {
        Err(Status::unimplemented("only watches"))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let query = WatchQuery::try_from(request.into_inner()).expect("it is sound");
        let mut first = Vec::new();
        let mut going: Vec<(PartitionId, u64)> = Vec::new();
        for (partition, after) in query.from {
            let after = after.expect("a token was given").index.0;
            if partition == SERVED {
                going.push((partition, after));
                continue;
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
            if self.relenting.load(Ordering::Relaxed) {
                going.push((partition, after));
                continue;
            }
            let why = WatchEnd::Refused(KvError::NotReady { partition });
            first.push(WatchUpdate::End { partition, why });
        }
        let later = stream::unfold(going, |mut going| async move {
            sleep(Duration::from_millis(1)).await;
            let updates: Vec<WatchUpdate> = going
                .iter_mut()
                .map(|(partition, index)| {
                    *index += 1;
                    event(*partition, *index)
                })
                .collect();
            Some((stream::iter(updates), going))
        });
        let updates = stream::iter(first).chain(later.flatten());
        Ok(Response::new(Box::pin(
            updates.map(|update| Ok(update.into())),
        )))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_refused_is_asked_for_less_and_less_while_others_are_served() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let addresses = Addresses {
        client: listener.local_addr().expect("bound").to_string(),
        ..Addresses::default()
    };
    let mut map = map_of(1, Some(1), vec![addresses.clone()]);
    let whole = map.partitions.remove(0);
    map.partitions = [(SERVED, 0, 8191), (REFUSED, 8192, 16_383)]
        .into_iter()
        .map(|(id, first, last)| {
            Arc::new(PartitionRecord {
                id,
                slots: SlotRange { first, last },
                ..(*whole).clone()
            })
        })
        .collect();
    let feed = MapFeed::new(Arc::new(ArcSwap::from_pointee(map)));
    let node = Refusing::default();
    let shutdown = CancellationToken::new();
    let routes = Routes::new(keyspace_server::KeyspaceServer::new(node.clone()))
        .add_service(TopologyServer::new(feed.clone(), shutdown.clone()).into_server());
    let config = ServeConfig::default();
    tokio::spawn(serve(
        listener,
        routes,
        config,
        plain_listener(),
        shutdown.clone(),
    ));

    let options = Options {
        backoff_min: Duration::from_millis(1),
        backoff_max: PATIENCE * 60,
        ..Options::default()
    };
    let client = Client::connect([addresses.client], options).await;
    let client = client.expect("it answers");
    let from = WatchOptions {
        from: Some("0:1/5,1:1/7".parse().expect("a token")),
        ..WatchOptions::default()
    };
    let watch = client.watch(KeyFilter::Prefix(Bytes::new()), from).await;
    let mut watch = watch.expect("it begins");
    let mut last = [5, 7];
    let mut next = async || {
        let event = timeout(PATIENCE, watch.next()).await.expect("in time");
        let event = event.expect("it goes on");
        let of = usize::from(event.key().as_ref() == b"1");
        assert_eq!(
            event.version(),
            position(last[of] + 1),
            "each once, in order"
        );
        last[of] += 1;
        of
    };
    // A second and more at the rate of these events, in which a node that is asked again
    // at once is asked hundreds of times.
    for _ in 0..1000 {
        assert_eq!(next().await, 0, "the other is refused");
    }
    // Each pause is twice the one before: a second holds about ten, a day not forty.
    let asked = node.asked.load(Ordering::Relaxed);
    assert!((1..=40).contains(&asked), "asked {asked} times");

    // Once it is not refused, the watch has it.
    node.relenting.store(true, Ordering::Relaxed);
    let mut of_it = 0;
    while of_it < 10 {
        of_it += next().await;
    }
    shutdown.cancel();
}
