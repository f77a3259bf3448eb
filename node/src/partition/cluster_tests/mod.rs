//! What three engines owe their clients together: over real disks, with peers that
//! are a function call away and a coordinator played by the test.

mod expiry;
mod harness;
mod keyspace;
mod levels;
mod tracking;
mod watches;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_core::cluster::report::Role;
use cairn_core::ids::{Index, NodeId, PartitionId, ReplicaId};
use cairn_core::kv::request::{
    Condition, Expiry, RequestError, WriteOp, WriteOutcome, WriteRequest,
};
use cairn_core::record::Member;
use cairn_core::replication::{DiskRoom, Event};
use futures::future::join_all;
use tokio::time::timeout;

use self::harness::*;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_read_from_the_primary_and_from_nobody_else() {
    let cluster = TestCluster::start().await;
    for number in 0..40 {
        let name = format!("k{number}");
        let primary = cluster.primary_of(&key(&name));
        let written = primary.write(set(&name, "v")).await.expect("it is written");
        assert_eq!(written.outcome, WriteOutcome::Set { previous: None });
        let read = primary.read(&key(&name)).await.expect("it is read");
        let value = read.expect("it exists");
        assert_eq!(value.data, key("v"));
        assert_eq!(value.version, written.position);
        assert_eq!(text(&primary, &format!("none-{{{name}}}")).await, None);
        for other in cluster.nodes.keys().filter(|n| **n != primary.node()) {
            let refused = cluster.handle(*other).read(&key(&name)).await;
            let Err(RequestError::Moved { primary: told, .. }) = refused else {
                panic!("only the primary answers: {refused:?}");
            };
            assert_eq!(told.map(|m| m.node), Some(primary.node()));
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_writes_of_one_connection_stay_in_order() {
    let cluster = TestCluster::start().await;
    let name = key_in(PartitionId(0), 0);
    let primary = cluster.primary(PartitionId(0));
    let requests = (0..500).map(|_| increment(&name, None)).collect();
    let numbers: Vec<i64> = primary
        .write_many(requests)
        .await
        .into_iter()
        .map(integer)
        .collect();
    assert_eq!(numbers, (1..=500).collect::<Vec<_>>());
    assert_eq!(text(&primary, &name).await, Some("500".to_owned()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_increments_all_count() {
    let cluster = TestCluster::start().await;
    let writers = (0..32).map(|writer| {
        let names: Vec<String> = (0..4).map(|p| key_in(PartitionId(p), 7)).collect();
        let handles: Vec<Handle> = (0..4).map(|p| cluster.primary(PartitionId(p))).collect();
        tokio::spawn(async move {
            for round in 0..50 {
                let at = (writer + round) % 4;
                integer(handles[at].write(increment(&names[at], None)).await);
            }
        })
    });
    for writer in join_all(writers).await {
        writer.expect("every write is acknowledged");
    }
    let mut sum = 0;
    for partition in (0..4).map(PartitionId) {
        let name = key_in(partition, 7);
        let number = text(&cluster.primary(partition), &name).await;
        sum += number
            .expect("it was counted")
            .parse::<i64>()
            .expect("a number");
    }
    assert_eq!(sum, 32 * 50);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_primary_loses_no_acknowledged_write_and_no_retry_counts_twice() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let (values, counter) = (
        (0..50).map(|n| key_in(partition, n)).collect::<Vec<_>>(),
        key_in(partition, 1000),
    );
    let primary = cluster.primary(partition);
    let before = primary.node();
    for name in &values {
        primary.write(set(name, name)).await.expect("written");
    }
    assert_eq!(
        integer(primary.write(increment(&counter, Some(1))).await),
        1
    );
    let interrupted = primary.write(increment(&counter, Some(2)));
    cluster.stop_node(before).await;
    drop(interrupted.await);
    cluster.promote(partition).await;

    let primary = cluster.primary(partition);
    assert_ne!(primary.node(), before);
    for name in &values {
        assert_eq!(text(&primary, name).await.as_ref(), Some(name));
    }
    assert_eq!(
        integer(primary.write(increment(&counter, Some(1))).await),
        1
    );
    assert_eq!(
        integer(primary.write(increment(&counter, Some(2))).await),
        2
    );
    assert_eq!(
        integer(primary.write(increment(&counter, Some(2))).await),
        2
    );
    assert_eq!(text(&primary, &counter).await, Some("2".to_owned()));

    // The old primary comes back as a follower and catches up.
    cluster.start_node(before, 1);
    cluster.tell_map();
    primary
        .write(set(&counter, "after"))
        .await
        .expect("written");
    let back = cluster.handle(before);
    let head = primary.standing(partition).expect("here").head;
    let caught_up = async {
        while back.standing(partition).is_none_or(|p| p.applied < head) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, caught_up).await.expect("it catches up");
    let local = back.read_any(&key(&counter)).await.expect("it is read");
    assert_eq!(local.value.expect("it exists").data, key("after"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_restarts_while_the_coordinators_are_away() {
    let mut cluster = TestCluster::start().await;
    let names: Vec<String> = (0..100).map(|n| format!("restart-{n}")).collect();
    for name in &names {
        let primary = cluster.primary_of(&key(name));
        primary.write(set(name, name)).await.expect("written");
    }
    let counter = key_in(PartitionId(1), 3);
    let primary = cluster.primary(PartitionId(1));
    assert_eq!(
        integer(primary.write(increment(&counter, Some(9))).await),
        1
    );
    for node in 1..=3 {
        cluster.stop_node(NodeId(node)).await;
    }
    for node in 1..=3 {
        cluster.start_node(NodeId(node), 1);
    }
    cluster.tell_map();
    for partition in (0..4).map(PartitionId) {
        let statuses = cluster.primary(partition).statuses(true).await;
        let status = statuses.iter().find(|s| s.partition == partition);
        assert_eq!(status.expect("it is here").role, Role::Suspended);
    }
    for node in cluster.nodes.values() {
        let event = Event::Coordinators { reachable: false };
        node.engine.handle().submit(event);
    }
    for partition in (0..4).map(PartitionId) {
        cluster.wait_until_served(partition).await;
    }
    for name in &names {
        let primary = cluster.primary_of(&key(name));
        assert_eq!(text(&primary, name).await.as_ref(), Some(name));
    }
    let primary = cluster.primary(PartitionId(1));
    assert_eq!(
        integer(primary.write(increment(&counter, Some(9))).await),
        1
    );
    assert_eq!(
        integer(primary.write(increment(&counter, Some(10))).await),
        2
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_is_cut_off_answers_nothing() {
    let cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let name = key_in(partition, 0);
    let primary = cluster.primary(partition);
    primary.write(set(&name, "old")).await.expect("written");
    assert_eq!(text(&primary, &name).await, Some("old".to_owned()));
    for other in [NodeId(2), NodeId(3)] {
        let mut network = cluster.network.lock();
        network.cut.insert((primary.node(), other));
        network.cut.insert((other, primary.node()));
    }
    let lapsed = async {
        while primary
            .standing(partition)
            .is_some_and(|p| p.leads(boottime()))
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, lapsed).await.expect("the lease lapses");
    assert_eq!(
        primary.read(&key(&name)).await,
        Err(RequestError::NotReady { partition })
    );
    assert_eq!(
        primary.write(set(&name, "new")).await,
        Err(RequestError::NotReady { partition })
    );
    cluster.network.lock().cut.clear();
    cluster.wait_until_served(partition).await;
    assert_eq!(text(&primary, &name).await, Some("old".to_owned()));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_expired_key_is_deleted_by_an_entry() {
    let cluster = TestCluster::start().await;
    let partition = PartitionId(2);
    let name = key_in(partition, 0);
    let primary = cluster.primary(partition);
    let request = WriteRequest {
        op: set_op(&name, "v", Expiry::AtMillis(wall_ms() + 100)),
        sequenced: None,
    };
    let set_at = primary.write(request).await.expect("written").position;
    let gone = async {
        while text(&primary, &name).await.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("it expires");
    let name = key(&name);
    let reads = join_all((0..8).map(|_| primary.read(&name))).await;
    assert!(reads.iter().all(|read| *read == Ok(None)));
    // One entry for the value, one for its end, whoever asked how often.
    let head = primary.standing(partition).expect("here").head;
    assert_eq!(head, set_at.index.next());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_replica_comes_back_through_a_snapshot_while_writes_go_on() {
    let mut cluster = TestCluster::start_with(SHORT_LOG).await;
    let sources = bring_back_a_wiped_replica(&mut cluster).await;
    assert_eq!(sources.first(), Some(&NodeId(3)), "not from the primary");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_breaks_off_comes_from_elsewhere() {
    let mut cluster = TestCluster::start_with(SHORT_LOG).await;
    cluster.network.lock().breaking.insert(NodeId(3));
    let sources = bring_back_a_wiped_replica(&mut cluster).await;
    assert_eq!(sources.first(), Some(&NodeId(3)));
    assert_eq!(sources.last(), Some(&NodeId(1)), "of {sources:?}");
    cluster.stop().await;
}

/// So little log that the beginning is gone soon.
const SHORT_LOG: usize = 16 << 10;

/// The replica of partition 0 on node 2 loses its disk and is copied from elsewhere, while
/// clients write. From where that was tried.
async fn bring_back_a_wiped_replica(cluster: &mut TestCluster) -> Vec<NodeId> {
    let partition = PartitionId(0);
    let primary = cluster.primary(partition);
    let big = "x".repeat(2000);
    let names: Vec<String> = (0..200).map(|n| key_in(partition, n)).collect();
    for name in &names {
        primary.write(set(name, &big)).await.expect("written");
    }
    let counter = key_in(partition, 5000);
    assert_eq!(
        integer(primary.write(increment(&counter, Some(1))).await),
        1
    );
    let wiped = NodeId(2);
    cluster.stop_node(wiped).await;
    for name in &names {
        primary.write(set(name, &big)).await.expect("two suffice");
    }
    // Housekeeping drops the log's beginning after a while.
    let dropped = async {
        loop {
            let metas = primary.metas().await;
            let meta = metas.iter().find(|m| m.partition == partition);
            if meta.is_some_and(|m| m.base.index() > Index(100)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, dropped).await.expect("it is dropped");
    cluster.start_node(wiped, 2);
    let fresh = Member {
        node: wiped,
        replica: ReplicaId(900),
    };
    cluster.change(partition, |record| record.config.learners = vec![fresh]);
    for other in 1..4 {
        // Its other replicas are gone with the disk, and nobody replaces them here.
        cluster.change(PartitionId(other), |record| record.revision += 1);
    }
    cluster.tell_map();
    let back = cluster.handle(wiped);
    let writer = tokio::spawn({
        let (primary, counter) = (primary.clone(), counter.clone());
        async move {
            for sequence in 2..=100 {
                integer(primary.write(increment(&counter, Some(sequence))).await);
            }
        }
    });
    let caught_up = async {
        loop {
            let statuses = primary.statuses(true).await;
            let status = statuses.iter().find(|s| s.partition == partition);
            let followers = status.map(|s| s.followers.clone()).unwrap_or_default();
            let learner = followers.iter().find(|f| f.replica == fresh.replica);
            if learner.is_some_and(|l| l.caught_up) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, caught_up).await.expect("it catches up");
    writer.await.expect("writes go on");
    let head = primary.standing(partition).expect("here").head;
    let applied = async {
        while back.standing(partition).is_none_or(|p| p.applied < head) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, applied).await.expect("it applies");
    for name in &names {
        let local = back.read_any(&key(name)).await.expect("it is read");
        assert_eq!(local.value.expect("it was copied").data, key(&big));
    }
    let local = back.read_any(&key(&counter)).await.expect("it is read");
    assert_eq!(local.value.expect("it was copied").data, key("100"));
    let network = cluster.network.lock();
    let fetched = network.sources.iter();
    let of_this = fetched.filter(|(of, _)| *of == partition);
    of_this.map(|(_, from)| *from).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_are_exact_across_hand_overs() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let clients: Vec<_> = (1..=8)
        .map(|client| {
            let routes = Arc::clone(&cluster.routes);
            tokio::spawn(count(routes, partition, client, 100))
        })
        .collect();
    for to in [2, 3, 1, 3] {
        cluster.hand_over(partition, NodeId(to)).await;
    }
    let told = join_all(clients).await;
    assert_counted(told.into_iter().map(|t| t.expect("it counts")).collect());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_are_exact_across_failovers() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let clients: Vec<_> = (1..=8)
        .map(|client| {
            let routes = Arc::clone(&cluster.routes);
            tokio::spawn(count(routes, partition, client, 150))
        })
        .collect();
    for _ in 0..3 {
        let primary = cluster.primary(partition).node();
        cluster.stop_node(primary).await;
        cluster.promote(partition).await;
        cluster.start_node(primary, 1);
        cluster.tell_map();
    }
    let told = join_all(clients).await;
    assert_counted(told.into_iter().map(|t| t.expect("it counts")).collect());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_serves_reads_and_recovers_by_itself() {
    let cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let name = key_in(partition, 0);
    let primary = cluster.primary(partition);
    primary.write(set(&name, "v")).await.expect("written");
    primary.submit(Event::DiskRoom {
        room: DiskRoom::Reserve,
    });
    assert_eq!(
        primary.write(set(&name, "w")).await,
        Err(RequestError::DiskFull)
    );
    assert_eq!(text(&primary, &name).await, Some("v".to_owned()));
    primary.submit(Event::DiskRoom {
        room: DiskRoom::Ample,
    });
    primary.write(set(&name, "w")).await.expect("written");
    // A majority without room blocks as well, and says so before anything is written.
    for other in [2, 3] {
        let event = Event::DiskRoom {
            room: DiskRoom::Reserve,
        };
        cluster.handle(NodeId(other)).submit(event);
    }
    let refused = async {
        while primary.write(set(&name, "x")).await != Err(RequestError::DiskFull) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, refused).await.expect("it is refused");
    cluster.handle(NodeId(2)).submit(Event::DiskRoom {
        room: DiskRoom::Ample,
    });
    let resumed = async {
        while primary.write(set(&name, "y")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, resumed).await.expect("it resumes");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_state_is_damaged_or_that_was_removed_answers_no_local_read() {
    let cluster = TestCluster::start().await;
    let partitions = [PartitionId(0), PartitionId(1)];
    for partition in partitions {
        let name = key_in(partition, 0);
        let primary = cluster.primary(partition);
        primary.write(set(&name, "v")).await.expect("written");
    }
    let [damaged, removed] = partitions.map(|partition| {
        let primary = cluster.primary(partition).node();
        let other = cluster.nodes.keys().copied().find(|n| *n != primary);
        let handle = cluster.handle(other.expect("there are three"));
        (partition, key(&key_in(partition, 0)), handle)
    });
    for (_, name, handle) in [&damaged, &removed] {
        let read = async {
            while !matches!(handle.read_any(name).await, Ok(read) if read.value.is_some()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, read).await.expect("it is applied");
    }
    damaged.2.corrupt(vec![damaged.0]);
    // The map alone says so: the replica has yet to hear of it.
    let mut map = (*removed.2.map()).clone();
    let record = Arc::make_mut(&mut map.partitions[1]);
    let node = removed.2.node();
    record.config.current.members.retain(|m| m.node != node);
    removed.2.shared_map().store(Arc::new(map));
    for (_, name, handle) in [&damaged, &removed] {
        let refused = async {
            while !matches!(handle.read_any(name).await, Err(RequestError::Moved { .. })) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, refused).await.expect("it is refused");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_a_batch_start_together_and_in_order() {
    let cluster = TestCluster::start().await;
    let name = key_in(PartitionId(0), 0);
    let primary = cluster.primary(PartitionId(0));
    let mut queue = ReplyQueue::default();
    let mut batch = WriteBatch::default();
    for token in 0..100 {
        let reply = queue.reply_to(token);
        primary.batch_write(&mut batch, increment(&name, None), reply);
    }
    primary.submit_batch(&mut batch);
    let mut told = Vec::new();
    while told.len() < 100 {
        told.extend(queue.take(1).await);
    }
    told.sort_unstable_by_key(|(token, _)| *token);
    let numbers: Vec<i64> = told.into_iter().map(|(_, r)| integer(r)).collect();
    assert_eq!(numbers, (1..=100).collect::<Vec<_>>());
    cluster.stop().await;
}
