//! Whoever keeps what it read is told of every change, by the threads that apply.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::PartitionId;
use cairn_core::kv::request::ReadLevel;
use tokio::time::timeout;

use super::super::*;
use super::harness::*;
use crate::tracking::{Mail, Reader, Scope};

fn keeper(node: &Handle) -> Reader {
    node.tracker()
        .open(Scope::Read, false, Arc::new(Mail::default()))
}

async fn read(node: &Handle, reader: &Reader, key: &Bytes, level: ReadLevel) -> Option<Bytes> {
    let partition = node.partition_of(key).expect("there is a map");
    reader.remember(partition, key);
    let reading = match node.start_read_at(partition, key, level) {
        StartedReading::Done(result) => result,
        StartedReading::Waiting(reading) => reading.await,
    };
    reading.expect("it is read").value.map(|value| value.data)
}

/// Keeps a key, and reads it again whenever it is told to, until it is the last value.
async fn keep(node: Handle, key: Bytes, level: ReadLevel, last: Bytes) -> usize {
    let reader = keeper(&node);
    let mut reads = 0;
    loop {
        reads += 1;
        if read(&node, &reader, &key, level).await.as_ref() == Some(&last) {
            return reads;
        }
        let told = timeout(PATIENCE, poll_fn(|c| reader.mail().poll_take(c))).await;
        let told = told.expect("the value that it keeps is old, and it is told so");
        assert!(told.all || told.keys.iter().any(|(told, _)| *told == key));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_a_key_comes_to_its_last_value() {
    const WRITES: usize = 400;
    let cluster = TestCluster::start().await;
    let name = key_in(PartitionId(0), 0);
    let primary = cluster.primary(PartitionId(0));
    primary.write(set(&name, "first")).await.expect("written");
    let last = Bytes::from(format!("v{}", WRITES - 1));
    let other = cluster.nodes.keys().find(|node| **node != primary.node());
    let other = cluster.handle(*other.expect("three nodes"));
    let keepers: Vec<_> = [
        (&primary, ReadLevel::Primary),
        (&primary, ReadLevel::Primary),
        (&other, ReadLevel::Any),
        (&other, ReadLevel::Replica),
    ]
    .into_iter()
    .map(|(node, level)| tokio::spawn(keep(node.clone(), key(&name), level, last.clone())))
    .collect();
    for number in 0..WRITES {
        let value = format!("v{number}");
        primary.write(set(&name, &value)).await.expect("written");
    }
    for keeper in keepers {
        let reads = keeper.await.expect("it ends");
        assert!(reads <= WRITES + 2, "{reads} reads");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_that_is_handed_over_is_told_as_a_whole() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let names: Vec<String> = (0..3).map(|n| key_in(partition, n)).collect();
    let elsewhere = key_in(PartitionId(1), 0);
    let primary = cluster.primary(partition);
    let reader = keeper(&primary);
    for name in &names {
        let value = read(&primary, &reader, &key(name), ReadLevel::Primary).await;
        assert_eq!(value, None);
    }
    reader.remember(PartitionId(1), elsewhere.as_bytes());
    assert!(primary.vouches(partition).await);
    assert!(!primary.vouches(PartitionId(4000)).await);
    assert!(reader.mail().is_empty());
    let to = cluster.nodes.keys().find(|node| **node != primary.node());
    let to = *to.expect("three nodes");
    assert!(cluster.handle(to).vouches(partition).await, "by a proof");
    cluster.hand_over(partition, to).await;
    let told = reader.mail().take();
    let mut keys: Vec<_> = told.keys.into_iter().map(|(key, _)| key).collect();
    keys.sort();
    let mut expected: Vec<_> = names.iter().map(|name| key(name)).collect();
    expected.sort();
    assert_eq!(keys, expected);
    cluster.stop().await;
}
