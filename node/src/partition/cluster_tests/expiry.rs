//! What expires goes by itself, once, everywhere.

use std::time::Duration;

use bytes::Bytes;
use cairn_core::ids::PartitionId;
use cairn_core::kv::ExpiryRow;
use cairn_core::kv::request::{Expiry, WriteOutcome, WriteRequest};
use tokio::time::timeout;

use super::super::*;
use super::harness::*;
use crate::store::{DueBounds, KeyRange};

const ALL: DueBounds = DueBounds {
    rows: usize::MAX,
    bytes: usize::MAX,
};

fn expiring(name: &str, after_ms: u64) -> WriteRequest {
    WriteRequest {
        op: set_op(name, "v", Expiry::AtMillis(wall_ms() + after_ms)),
        sequenced: None,
    }
}

/// The keys that a node's store holds of a partition, and the rows of its expiry index.
fn stored(node: &TestNode, partition: PartitionId) -> (Vec<Bytes>, Vec<ExpiryRow>) {
    let standing = node.engine.handle().standing(partition).expect("here");
    let reader = &node.storage.reader;
    let mut keys = Vec::new();
    let all = KeyRange::default();
    reader
        .visit_blocking(standing.generation, &all, &mut |key, _| {
            keys.push(key);
            true
        })
        .expect("readable");
    let first = ExpiryRow {
        second: 0,
        key: Bytes::new(),
    };
    let index = reader
        .due_blocking(standing.generation, &first, u64::MAX, ALL)
        .expect("readable");
    (keys, index.rows)
}

/// Waits until every node has applied what was written until now, holds these keys, and
/// nothing expires.
async fn settled(cluster: &TestCluster, partition: PartitionId, keys: &[Bytes]) {
    let primary = cluster.primary(partition);
    let head = primary.standing(partition).expect("here").head;
    let applied = |node: &TestNode| {
        let here = node.engine.handle().standing(partition);
        here.is_some_and(|here| here.applied >= head)
    };
    let settled = async {
        for node in cluster.nodes.values() {
            while !applied(node) || stored(node, partition) != (keys.to_vec(), Vec::new()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    if timeout(PATIENCE, settled).await.is_err() {
        let all: Vec<_> = cluster
            .nodes
            .values()
            .map(|node| stored(node, partition))
            .collect();
        panic!("not {keys:?}: {all:?}");
    }
}

/// Waits until so many keys were counted, which is done now and then; not one more is.
async fn counted(primary: &Handle, keys: u64) {
    let counted = async {
        while primary.expired_keys() < keys {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, counted).await.expect("they are counted");
    assert_eq!(primary.expired_keys(), keys);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_nobody_reads_expire_on_every_replica_by_few_entries() {
    let cluster = TestCluster::start().await;
    let partition = PartitionId(1);
    let primary = cluster.primary(partition);
    let stays = key_in(partition, 0);
    let count = 600;
    let requests = (0..count)
        .map(|n| expiring(&key_in(partition, n), 300))
        .chain([set(&stays, "v")])
        .collect();
    let written = primary.write_many(requests).await;
    let last = written
        .into_iter()
        .map(|reply| reply.expect("written").position)
        .max()
        .expect("several");
    settled(&cluster, partition, &[key(&stays)]).await;
    // The one that was set again did not expire, and its row went as the others did.
    counted(&primary, u64::from(count) - 1).await;
    let head = primary.standing(partition).expect("here").head;
    let entries = head.0 - last.index.0;
    assert!((3..50).contains(&entries), "{entries} entries");
    // Nothing is left to do, and nothing is done.
    let cell = primary.shared.board.cell(partition).expect("here");
    let idle = async {
        while cell.next_expiry() != board::NEVER {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, idle).await.expect("it rests");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_primary_expires_what_it_inherited() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let names: Vec<String> = (0..20).map(|n| key_in(partition, n)).collect();
    let primary = cluster.primary(partition);
    for name in &names {
        primary.write(expiring(name, 1500)).await.expect("written");
    }
    let old = primary.node();
    cluster.stop_node(old).await;
    cluster.promote(partition).await;
    settled(&cluster, partition, &[]).await;
    counted(&cluster.primary(partition), 20).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_expiry_counts_and_its_key_lives_on() {
    let cluster = TestCluster::start().await;
    let partition = PartitionId(3);
    let primary = cluster.primary(partition);
    let (longer, soon) = (key_in(partition, 1), key_in(partition, 2));
    for name in [&longer, &soon] {
        primary.write(expiring(name, 200)).await.expect("written");
    }
    let later = primary.write(expiring(&longer, 3_600_000)).await;
    assert_eq!(
        later.expect("written").outcome,
        WriteOutcome::Set { previous: None }
    );
    counted(&primary, 1).await;
    assert_eq!(text(&primary, &longer).await, Some("v".to_owned()));
    assert_eq!(text(&primary, &soon).await, None);
    assert_eq!(primary.expired_keys(), 1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_without_a_quorum_delays_no_other() {
    // Who waits for a quorum here waits for as long as this test.
    let cluster = TestCluster::start_tuned(64 << 20, 0, |config| {
        config.request_timeout = PATIENCE * 10;
    })
    .await;
    // Both have the same primary.
    let (stuck, healthy) = (PartitionId(0), PartitionId(3));
    let primary = cluster.primary(stuck);
    assert_eq!(primary.node(), cluster.primary(healthy).node());
    let first = key_in(stuck, 1);
    primary
        .write(expiring(&first, 2000))
        .await
        .expect("written");
    cluster.network.lock().unsent.insert(stuck);
    for (name, after_ms) in [(1, 2000), (2, 3500)] {
        let write = expiring(&key_in(healthy, name), after_ms);
        primary.write(write).await.expect("written");
    }
    settled(&cluster, healthy, &[]).await;
    let node = &cluster.nodes[&primary.node()];
    assert_eq!(stored(node, stuck).0, [key(&first)]);
    // It is not forgotten.
    cluster.network.lock().unsent.clear();
    settled(&cluster, stuck, &[]).await;
    cluster.stop().await;
}
