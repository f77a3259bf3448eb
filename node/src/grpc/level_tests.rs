//! The client's choice of replicas, and the levels that travel with requests.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use cairn_client::{Client, Consistency, Options, PutOptions, WriteLevel};
use cairn_core::ids::{Epoch, NodeId, PartitionId};
use cairn_core::kv::request::{ReadLevel, RequestError};
use cairn_core::record::ClusterSettings;
use tokio::time::timeout;

use super::fake::FakeCluster;

/// What no test should take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn client(cluster: &FakeCluster, options: Options) -> Client {
    Client::connect([cluster.address(1)], options)
        .await
        .expect("the cluster answers")
}

fn asked(cluster: &FakeCluster, level: ReadLevel) -> BTreeSet<u64> {
    let state = cluster.state.lock();
    let reads = state.reads.iter().filter(|(_, l)| *l == level);
    reads.map(|(node, _)| node.0).collect()
}

#[tokio::test]
async fn reads_below_primary_are_spread_over_the_replicas_and_the_others_are_not() {
    let cluster = FakeCluster::start(3);
    let client = client(&cluster, Options::default()).await;
    client.put("k", "v").await.expect("put");
    for consistency in [
        Consistency::Primary,
        Consistency::Quorum,
        Consistency::Replica,
        Consistency::Any,
    ] {
        let level = consistency.level(ReadLevel::Primary);
        let expected = match level {
            ReadLevel::Primary => BTreeSet::from([1]),
            _ => BTreeSet::from([1, 2, 3]),
        };
        // One whose first answer took long, as a connection was made, comes later.
        let spread = async {
            while asked(&cluster, level) != expected {
                let value = client.get_with("k", consistency).await.expect("get");
                assert_eq!(value.expect("exists").data, "v");
            }
        };
        let spread = timeout(PATIENCE, spread).await;
        spread.unwrap_or_else(|_| panic!("{level:?}: {:?}", asked(&cluster, level)));
    }
    assert_eq!(client.stats().replicas_left, 0);
}

#[tokio::test]
async fn a_replica_that_redirects_is_left_for_the_one_that_it_names() {
    let cluster = FakeCluster::start(3);
    let client = client(&cluster, Options::default()).await;
    client.put("k", "v").await.expect("put");
    let primary = cluster.map.load().partitions[0].primary;
    for node in [2, 3] {
        let moved = RequestError::Moved {
            partition: PartitionId(0),
            epoch: Epoch(1),
            primary,
        };
        cluster
            .state
            .lock()
            .refused_reads
            .insert(NodeId(node), moved);
    }
    for _ in 0..50 {
        let value = client
            .get_with("k", Consistency::Replica)
            .await
            .expect("get");
        assert_eq!(value.expect("exists").data, "v");
    }
    let stats = client.stats();
    assert!(stats.replicas_left > 0, "{stats:?}");
    assert_eq!(stats.replicas_left, stats.moved);
}

#[tokio::test]
async fn replicas_that_cannot_answer_or_are_gone_are_left_for_others() {
    let mut cluster = FakeCluster::start(3);
    let client = client(&cluster, Options::default()).await;
    client.put("k", "v").await.expect("put");
    let not_ready = RequestError::NotReady {
        partition: PartitionId(0),
    };
    cluster
        .state
        .lock()
        .refused_reads
        .insert(NodeId(2), not_ready);
    cluster.kill(1);
    for _ in 0..50 {
        let value = client
            .get_with("k", Consistency::Quorum)
            .await
            .expect("get");
        assert_eq!(value.expect("exists").data, "v");
    }
    assert!(client.stats().replicas_left > 0);
}

#[tokio::test]
async fn a_read_of_any_state_tells_how_old_that_is_and_others_do_not() {
    let cluster = FakeCluster::start(1);
    let client = client(&cluster, Options::default()).await;
    let version = client.put("k", "v").await.expect("put");
    let reading = client.read("k", Consistency::Any).await.expect("read");
    let state = reading.state.expect("how old");
    assert_eq!((state.applied, state.behind()), (version.index, 3));
    let reading = client.read("k", Consistency::Quorum).await.expect("read");
    assert_eq!(reading.state, None);
}

#[tokio::test]
async fn levels_are_the_calls_then_the_clients_then_the_clusters() {
    let cluster = FakeCluster::start(1);
    let mut map = cluster.map.load().as_ref().clone();
    let settings = ClusterSettings {
        read_level: ReadLevel::Any,
        ..crate::coordinator::tests::settings(1)
    };
    map.settings = Some(Arc::new(settings));
    cluster.map.store(Arc::new(map));
    let by_cluster = client(&cluster, Options::default()).await;
    by_cluster.get("k").await.expect("get");
    let options = Options {
        consistency: Consistency::Quorum,
        write_level: WriteLevel::All,
        ..Options::default()
    };
    let by_client = client(&cluster, options).await;
    by_client.get("k").await.expect("get");
    by_client
        .get_with("k", Consistency::Replica)
        .await
        .expect("get");
    let levels: Vec<ReadLevel> = cluster.state.lock().reads.iter().map(|r| r.1).collect();
    assert_eq!(
        levels,
        [ReadLevel::Any, ReadLevel::Quorum, ReadLevel::Replica]
    );

    by_client.put("k", "v").await.expect("put");
    let options = PutOptions {
        write_level: Some(WriteLevel::Quorum),
        ..PutOptions::default()
    };
    by_client.put_with("k", "v", options).await.expect("put");
    by_client.increment("n", 1).await.expect("increment");
    by_cluster.delete("k").await.expect("delete");
    assert_eq!(
        cluster.state.lock().write_levels,
        [
            WriteLevel::All,
            WriteLevel::Quorum,
            WriteLevel::All,
            WriteLevel::Quorum
        ]
    );
}
