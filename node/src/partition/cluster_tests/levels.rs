//! Reads at other levels than `primary`, and writes that wait for every member.

use cairn_core::kv::request::{ReadLevel, Value, WriteLevel};
use futures::FutureExt;

use super::*;

const P: PartitionId = PartitionId(0);

async fn read_at(handle: &Handle, name: &str, level: ReadLevel) -> ReadingResult {
    match handle.start_read_at(P, &key(name), level) {
        StartedReading::Done(result) => result,
        StartedReading::Waiting(reading) => timeout(PATIENCE, reading).await.expect("it ends"),
    }
}

fn data(value: Option<Value>) -> Option<String> {
    value.map(|v| String::from_utf8(v.data.to_vec()).expect("text"))
}

async fn seen(handle: &Handle, name: &str, level: ReadLevel) -> Option<String> {
    data(
        read_at(handle, name, level)
            .await
            .expect("it is read")
            .value,
    )
}

/// As [`seen`], of a replica that may have to catch up first, as one on a slow machine
/// has.
async fn current(handle: &Handle, name: &str, level: ReadLevel) -> Option<String> {
    let caught_up = async {
        loop {
            match read_at(handle, name, level).await {
                Ok(reading) => return data(reading.value),
                Err(RequestError::Moved { .. } | RequestError::NotReady { .. }) => {}
                Err(other) => panic!("{other}"),
            }
        }
    };
    timeout(PATIENCE, caught_up).await.expect("it catches up")
}

/// The nodes that follow.
fn followers(cluster: &TestCluster) -> Vec<NodeId> {
    let primary = cluster.primary(P).node();
    let all = cluster.nodes.keys().copied();
    all.filter(|node| *node != primary).collect()
}

/// Cuts a node off from all others, both ways.
fn cut(cluster: &TestCluster, node: NodeId) {
    let mut network = cluster.network.lock();
    for other in (1..=3).map(NodeId).filter(|other| *other != node) {
        network.cut.insert((node, other));
        network.cut.insert((other, node));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_replica_answers_strong_reads_with_what_was_acknowledged_last() {
    let cluster = TestCluster::start().await;
    let primary = cluster.primary(P);
    let name = key_in(P, 1);
    for round in 0..30 {
        let value = format!("v{round}");
        primary.write(set(&name, &value)).await.expect("written");
        for node in 1..=3 {
            let handle = cluster.handle(NodeId(node));
            for level in [ReadLevel::Replica, ReadLevel::Quorum] {
                let read = current(&handle, &name, level).await;
                assert_eq!(read.as_ref(), Some(&value), "{level:?} on node {node}");
            }
        }
    }
    assert_eq!(
        current(&primary, "nothing-{here}", ReadLevel::Replica).await,
        None
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_reads_at_once_share_their_questions_and_none_is_stale() {
    let cluster = TestCluster::start().await;
    let primary = cluster.primary(P);
    let counter = key_in(P, 2);
    let follower = cluster.handle(followers(&cluster)[0]);
    let mut acknowledged = 0;
    for _ in 0..40 {
        acknowledged = integer(primary.write(increment(&counter, None)).await);
        let levels = [ReadLevel::Replica, ReadLevel::Quorum];
        let reads = (0..32).map(|n| current(&follower, &counter, levels[n % 2]));
        for read in join_all(reads).await {
            let read: i64 = read.expect("it exists").parse().expect("a number");
            assert_eq!(read, acknowledged, "nobody writes meanwhile");
        }
    }
    assert_eq!(acknowledged, 40);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_hears_no_primary_sends_reads_there_and_tells_what_it_has() {
    let cluster = TestCluster::start().await;
    let (primary, name) = (cluster.primary(P), key_in(P, 3));
    primary.write(set(&name, "before")).await.expect("written");
    let lonely = followers(&cluster)[0];
    let handle = cluster.handle(lonely);
    assert_eq!(
        current(&handle, &name, ReadLevel::Replica).await.as_deref(),
        Some("before")
    );
    cut(&cluster, lonely);
    primary
        .write(set(&name, "after"))
        .await
        .expect("written by two");
    let refused = read_at(&handle, &name, ReadLevel::Replica).await;
    let Err(RequestError::Moved { primary: told, .. }) = refused else {
        panic!("it cannot know: {refused:?}");
    };
    assert_eq!(told.map(|m| m.node), Some(primary.node()));
    let refused = read_at(&handle, &name, ReadLevel::Quorum).await;
    assert!(
        matches!(refused, Err(RequestError::NotReady { .. })),
        "alone it is no quorum: {refused:?}"
    );
    let local = read_at(&handle, &name, ReadLevel::Any)
        .await
        .expect("its own");
    assert_eq!(data(local.value).as_deref(), Some("before"));
    let state = local.local.expect("how old it is");
    assert!(
        state.applied <= state.commit && state.applied > Index::ZERO,
        "{state:?}"
    );
    // It is not behind for good. Until it has caught up it sends reads elsewhere.
    cluster.network.lock().cut.clear();
    let read = current(&handle, &name, ReadLevel::Replica).await;
    assert_eq!(read.as_deref(), Some("after"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quorum_reads_go_on_while_the_primary_is_gone_and_after_the_next_one_is_named() {
    let mut cluster = TestCluster::start().await;
    let (primary, name) = (cluster.primary(P), key_in(P, 4));
    primary.write(set(&name, "kept")).await.expect("written");
    let left = followers(&cluster);
    // Both have heard that it is committed.
    for node in &left {
        let handle = cluster.handle(*node);
        assert_eq!(
            current(&handle, &name, ReadLevel::Replica).await.as_deref(),
            Some("kept")
        );
    }
    cluster.stop_node(primary.node()).await;
    for node in &left {
        let handle = cluster.handle(*node);
        assert_eq!(
            current(&handle, &name, ReadLevel::Quorum).await.as_deref(),
            Some("kept")
        );
        let refused = read_at(&handle, &name, ReadLevel::Replica).await;
        assert!(
            matches!(refused, Err(RequestError::Moved { .. })),
            "{refused:?}"
        );
    }
    cluster.promote(P).await;
    let primary = cluster.primary(P);
    primary.write(set(&name, "newer")).await.expect("written");
    for node in &left {
        let handle = cluster.handle(*node);
        for level in [ReadLevel::Quorum, ReadLevel::Replica] {
            let read = current(&handle, &name, level).await;
            assert_eq!(read.as_deref(), Some("newer"), "{level:?}");
        }
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_past_its_time_is_left_to_the_primary() {
    let cluster = TestCluster::start().await;
    let (primary, name) = (cluster.primary(P), key_in(P, 5));
    let soon = Expiry::AtMillis(wall_ms() + 30);
    let write = WriteRequest {
        op: set_op(&name, "fleeting", soon),
        sequenced: None,
    };
    primary.write(write).await.expect("written");
    let follower = cluster.handle(followers(&cluster)[0]);
    while wall_ms()
        < match soon {
            Expiry::AtMillis(at) => at,
            _ => 0,
        }
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for level in [ReadLevel::Replica, ReadLevel::Quorum] {
        let refused = read_at(&follower, &name, level).await;
        assert!(
            matches!(refused, Err(RequestError::Moved { .. })),
            "{level:?}: {refused:?}"
        );
    }
    assert_eq!(seen(&follower, &name, ReadLevel::Any).await, None);
    // The primary expires it by an entry; then every replica may say that it is gone.
    assert_eq!(text(&primary, &name).await, None);
    for level in [ReadLevel::Replica, ReadLevel::Quorum] {
        assert_eq!(current(&follower, &name, level).await, None);
    }
    cluster.stop().await;
}

/// Starts a write of that level and waits for its answer.
fn write_at(
    primary: &Handle,
    request: WriteRequest,
    level: WriteLevel,
) -> impl Future<Output = WriteResult> + use<> {
    let mut queue = ReplyQueue::with_capacity(1);
    let mut batch = WriteBatch::default();
    primary.batch_write_at(&mut batch, level, request, queue.reply_to(0));
    primary.submit_batch(&mut batch);
    async move { queue.take(1).await.pop().expect("an answer").1 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_of_level_all_is_acknowledged_once_the_last_member_has_flushed_it() {
    let cluster = TestCluster::start().await;
    let (primary, name) = (cluster.primary(P), key_in(P, 6));
    let write = |value: &str, level| write_at(&primary, set(&name, value), level);
    write("one", WriteLevel::All)
        .await
        .expect("all three are there");
    let lonely = followers(&cluster)[0];
    cut(&cluster, lonely);
    // It commits with the two that are left, and its outcome stays open.
    let mut waiting = Box::pin(write("two", WriteLevel::All));
    write("three", WriteLevel::Quorum)
        .await
        .expect("two are enough");
    assert!(waiting.as_mut().now_or_never().is_none());
    let given_up = timeout(PATIENCE, waiting).await.expect("a bounded time");
    assert_eq!(given_up, Err(RequestError::Unknown));
    assert_eq!(text(&primary, &name).await.as_deref(), Some("three"));
    let waiting = write("four", WriteLevel::All);
    cluster.network.lock().cut.clear();
    timeout(PATIENCE, waiting)
        .await
        .expect("in time")
        .expect("the third one is back");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_for_a_member_that_is_away_leave_room_for_those_that_need_not() {
    // They wait for as long as this test, unless the member comes back.
    let cluster = TestCluster::start_tuned(64 << 20, 0, |config| {
        config.request_timeout = PATIENCE * 10;
        config.pending_writes_max = 8;
    })
    .await;
    let (primary, name) = (cluster.primary(P), key_in(P, 7));
    cut(&cluster, followers(&cluster)[0]);
    let mut waiting = Vec::new();
    let mut refused = 0;
    for number in 0..8 {
        let write = set(&name, &format!("{number}"));
        let mut write = Box::pin(write_at(&primary, write, WriteLevel::All));
        match write.as_mut().now_or_never() {
            None => waiting.push(write),
            Some(answer) => {
                assert_eq!(answer, Err(RequestError::Overloaded));
                refused += 1;
            }
        }
    }
    assert_eq!((waiting.len(), refused), (4, 4));
    for number in 0..20 {
        let write = write_at(
            &primary,
            set(&name, &format!("q{number}")),
            WriteLevel::Quorum,
        );
        let written = timeout(PATIENCE, write).await.expect("in time");
        written.expect("two are enough");
    }
    cluster.network.lock().cut.clear();
    for write in waiting {
        let written = timeout(PATIENCE, write).await.expect("in time");
        written.expect("the third one is back");
    }
    cluster.stop().await;
}
