//! Watches that are behind what the log in memory holds.

use std::path::PathBuf;

use cairn_core::ids::Position;
use cairn_core::kv::watch::KeyFilter;

use super::keyspace::{HEARTBEAT, collect, delete, step, told};
use super::*;

/// What the logs of a node may take in memory where they are to be cut soon.
const LOG_BYTES: usize = 32 << 10;

/// Waits until the log in memory begins behind an index.
async fn cut_past(primary: &Handle, partition: PartitionId, index: u64) {
    let cut = async {
        loop {
            let metas = primary.metas().await;
            let meta = metas.iter().find(|m| m.partition == partition);
            if meta.is_some_and(|m| m.base.index() > Index(index)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, cut).await.expect("the log is cut");
}

/// Where the watch of a partition begins.
async fn begun(watcher: &mut Watcher) -> Position {
    match step(watcher).await {
        Step::Positions(positions) => positions[0].1,
        other => panic!("it says where it begins: {other:?}"),
    }
}

fn segments(cluster: &TestCluster, node: NodeId) -> Vec<PathBuf> {
    let log = cluster.directory(node, 1).join("wal");
    let files = std::fs::read_dir(log).expect("the log's directory");
    let paths = files.map(|file| file.expect("a file").path());
    let mut segments: Vec<PathBuf> = paths
        .filter(|path| {
            path.file_name()
                .is_some_and(|n| n.to_string_lossy().starts_with("segment-"))
        })
        .collect();
    segments.sort();
    segments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_from_the_log_on_disk_after_a_restart_of_every_node_too() {
    let mut cluster = TestCluster::start_tuned(LOG_BYTES, 64 << 20, |_| {}).await;
    let partition = PartitionId(0);
    let primary = cluster.primary(partition);
    let (mine, other) = (key_in(partition, 1), key_in(partition, 2));
    let filter = KeyFilter::Key(key(&mine));
    let mut slow = primary
        .watch(filter.clone(), [(partition, None)], HEARTBEAT)
        .expect("there is room");
    let from = begun(&mut slow).await;
    let filling = "v".repeat(1 << 10);
    let mut expected = Vec::new();
    for number in 0..400 {
        let value = format!("{number}-{filling}");
        primary.write(set(&mine, &value)).await.expect("written");
        primary.write(set(&other, &value)).await.expect("written");
        expected.push((mine.clone(), Some(value)));
    }
    delete(&primary, &mine).await;
    expected.push((mine.clone(), None));
    cut_past(&primary, partition, 600).await;
    let (events, position) = collect(&mut slow, 401).await;
    assert_eq!(told(&events), expected);
    drop(slow);

    for node in 1..=3 {
        cluster.stop_node(NodeId(node)).await;
    }
    for node in 1..=3 {
        cluster.start_node(NodeId(node), 1);
    }
    cluster.tell_map();
    cluster.promote(partition).await;
    let primary = cluster.primary(partition);
    primary.write(set(&mine, "after")).await.expect("written");
    expected.push((mine.clone(), Some("after".to_owned())));
    cut_past(&primary, partition, from.index.0).await;
    for (from, skipped) in [(from, 0), (position, 401)] {
        let mut again = primary
            .watch(filter.clone(), [(partition, Some(from))], HEARTBEAT)
            .expect("there is room");
        let (events, _) = collect(&mut again, expected.len() - skipped).await;
        assert_eq!(told(&events), expected[skipped..]);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_does_not_read_is_told_when_the_disk_does_not_hold_what_it_missed() {
    let cluster = TestCluster::start_with(LOG_BYTES).await;
    let partition = PartitionId(0);
    let primary = cluster.primary(partition);
    let name = key_in(partition, 1);
    let filter = KeyFilter::Key(key(&name));
    let mut slow = primary
        .watch(filter, [(partition, None)], HEARTBEAT)
        .expect("there is room");
    begun(&mut slow).await;
    let node = primary.node();
    let first = segments(&cluster, node).remove(0);
    // A batch may be on its way to the watcher; what is behind it is not kept for it.
    let value = "v".repeat(16 << 10);
    let mut written = 0;
    let reclaimed = async {
        while first.exists() {
            primary.write(set(&name, &value)).await.expect("written");
            written += 1;
        }
    };
    timeout(PATIENCE, reclaimed).await.expect("a segment goes");
    let mut events = 0;
    let ended = loop {
        match step(&mut slow).await {
            Step::Events { events: more, .. } => events += more.len(),
            Step::Positions(_) => {}
            Step::Ended { why, .. } => break why,
        }
    };
    assert_eq!(ended, Ended::Compacted);
    assert!(events < written, "it was told all {events}");
    cluster.stop().await;
}
