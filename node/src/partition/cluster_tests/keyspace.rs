//! Walking through keys, counting and watching them.

use std::collections::HashMap;

use cairn_core::ids::Position;
use cairn_core::kv::scan::{ScanPage, ScanQuery};
use cairn_core::kv::watch::{KeyEvent, KeyFilter};

use super::*;
use crate::data_node::keyspace::{Keyspace, hash_of};
use crate::resp::{Found, Question, ScanQuestion};

pub(super) const HEARTBEAT: Duration = Duration::from_millis(100);

fn query(partition: PartitionId) -> ScanQuery {
    ScanQuery {
        partition,
        prefix: Bytes::new(),
        after: None,
        limit: 1000,
        bytes: 1 << 20,
        keys_only: false,
    }
}

fn names(page: &ScanPage) -> Vec<String> {
    let text = |key: &Bytes| String::from_utf8(key.to_vec()).expect("text");
    page.rows.iter().map(|row| text(&row.key)).collect()
}

/// All keys of the partition, in order.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

pub(super) async fn delete(handle: &Handle, name: &str) {
    let op = WriteOp::Delete {
        key: key(name),
        condition: Condition::Always,
    };
    let request = WriteRequest {
        op,
        sequenced: None,
    };
    handle.write(request).await.expect("deleted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_sees_every_acknowledged_write_in_order_and_goes_on_after_a_failover() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(0);
    let primary = cluster.primary(partition);
    let mut all: Vec<String> = (0..40).map(|n| key_in(partition, n)).collect();
    for name in &all {
        primary.write(set(name, name)).await.expect("written");
        // Not yet applied, as a rule, and counted all the same.
    }
    assert_eq!(primary.count(partition).await, Ok(40));
    let page = primary.scan(query(partition)).await.expect("scanned");
    assert_eq!(names(&page), sorted(all.clone()));
    assert_eq!(page.next, None);
    assert!(page.rows.iter().all(|row| row.key == row.value.data));

    // Bounds, and what is left out.
    let gone = all.remove(7);
    delete(&primary, &gone).await;
    let expiring = set_op(&all[3], "x", Expiry::AtMillis(wall_ms() + 1));
    let request = WriteRequest {
        op: expiring,
        sequenced: None,
    };
    primary.write(request).await.expect("written");
    tokio::time::sleep(Duration::from_millis(5)).await;
    let expired = all.remove(3);
    let mut few = ScanQuery {
        limit: 7,
        keys_only: true,
        ..query(partition)
    };
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let page = cluster.primary(partition).scan(few.clone()).await;
        let page = page.expect("scanned");
        assert!(page.rows.len() <= 7);
        assert!(page.rows.iter().all(|row| row.value.data.is_empty()));
        seen.extend(names(&page));
        pages += 1;
        if pages == 2 {
            let dead = primary.node();
            cluster.stop_node(dead).await;
            cluster.promote(partition).await;
        }
        few.after = page.next;
        if few.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, sorted(all.clone()), "without {gone} and {expired}");

    let primary = cluster.primary(partition);
    let narrow = ScanQuery {
        prefix: key("key-1-"),
        ..query(partition)
    };
    let page = primary.scan(narrow).await.expect("scanned");
    let expected = all.iter().filter(|name| name.starts_with("key-1-"));
    assert_eq!(names(&page), sorted(expected.cloned().collect()));
    let short = ScanQuery {
        bytes: 1,
        ..query(partition)
    };
    let page = primary.scan(short).await.expect("scanned");
    assert_eq!(page.rows.len(), 1);
    for node in cluster.nodes.keys().filter(|n| **n != primary.node()) {
        let refused = cluster.handle(*node).scan(query(partition)).await;
        assert!(matches!(refused, Err(RequestError::Moved { .. })));
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_copy_counts_the_same_keys_however_it_came_to_them() {
    let mut cluster = TestCluster::start_with(16 << 10).await;
    let partition = PartitionId(1);
    let primary = cluster.primary(partition);
    let wiped = NodeId(primary.node().0 % 3 + 1);
    cluster.stop_node(wiped).await;
    let names: Vec<String> = (0..300).map(|n| key_in(partition, n)).collect();
    for round in 0..3 {
        for name in &names {
            let value = format!("{round}");
            primary.write(set(name, &value)).await.expect("written");
        }
    }
    for name in &names[..50] {
        delete(&primary, name).await;
    }
    assert_eq!(primary.count(partition).await, Ok(250));
    // It is far behind what is in memory: a snapshot, and the log behind it.
    cluster.start_node(wiped, 1);
    cluster.tell_map();
    for name in &names[50..60] {
        delete(&primary, name).await;
    }
    let head = primary.standing(partition).expect("here").head;
    let back = cluster.handle(wiped);
    let caught_up = async {
        while back.standing(partition).is_none_or(|p| p.applied < head) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, caught_up).await.expect("it catches up");
    for (node, running) in &cluster.nodes {
        let here = cluster.handle(*node).standing(partition).expect("here");
        if here.applied == head {
            let keys = running.storage.reader.keys(here.generation);
            assert_eq!(keys, 240, "{node}");
        }
    }
    // And after a restart.
    cluster.stop_node(wiped).await;
    cluster.start_node(wiped, 1);
    let published = async {
        loop {
            if let Some(here) = cluster.handle(wiped).standing(partition) {
                return here.generation;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let generation = timeout(PATIENCE, published).await.expect("recovered");
    let keys = cluster.nodes[&wiped].storage.reader.keys(generation);
    assert_eq!(keys, 240);
    cluster.stop().await;
}

pub(super) async fn step(watcher: &mut Watcher) -> Step {
    let next = timeout(PATIENCE, watcher.next()).await;
    next.expect("it tells something").expect("it goes on")
}

/// The events of `count` writes; positions in between are passed over.
pub(super) async fn collect(watcher: &mut Watcher, count: usize) -> (Vec<KeyEvent>, Position) {
    let (mut all, mut last) = (Vec::new(), Position::ZERO);
    while all.len() < count {
        match step(watcher).await {
            Step::Events {
                events, position, ..
            } => {
                all.extend(events);
                last = position;
            }
            Step::Positions(_) => {}
            Step::Ended { why, .. } => panic!("it ended: {why:?}"),
        }
    }
    assert_eq!(all.len(), count);
    (all, last)
}

pub(super) fn told(events: &[KeyEvent]) -> Vec<(String, Option<String>)> {
    let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).expect("text");
    events
        .iter()
        .map(|event| match event {
            KeyEvent::Put { key, value } => (text(key), Some(text(&value.data))),
            KeyEvent::Deleted { key, .. } => (text(key), None),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_each_write_once_in_order_across_a_failover() {
    let mut cluster = TestCluster::start().await;
    let partition = PartitionId(2);
    let primary = cluster.primary(partition);
    let (mine, other) = (key_in(partition, 1), key_in(partition, 2));
    primary.write(set(&mine, "before")).await.expect("written");
    let filter = KeyFilter::Key(key(&mine));
    let mut watcher = primary
        .watch(filter.clone(), [(partition, None)], HEARTBEAT)
        .expect("there is room");
    // It has begun once it says where.
    let Step::Positions(begun) = step(&mut watcher).await else {
        panic!("it says first where it begins");
    };
    assert_eq!(begun.len(), 1);
    for number in 0..20 {
        let value = format!("{number}");
        primary.write(set(&mine, &value)).await.expect("written");
        primary.write(set(&other, &value)).await.expect("written");
    }
    delete(&primary, &mine).await;
    let mut expected: Vec<(String, Option<String>)> = (0..20)
        .map(|n| (mine.clone(), Some(n.to_string())))
        .chain([(mine.clone(), None)])
        .collect();
    let (events, position) = collect(&mut watcher, 21).await;
    assert_eq!(told(&events), expected);
    assert!(events.is_sorted_by_key(KeyEvent::version));

    // Writes of other keys move the position, so that the token stays young.
    primary.write(set(&other, "last")).await.expect("written");
    let later = loop {
        if let Step::Positions(positions) = step(&mut watcher).await
            && let Some((_, at)) = positions.first()
        {
            break *at;
        }
    };
    assert!(later > position);

    // The primary dies with writes that the watch has not told.
    for number in 20..30 {
        let value = format!("{number}");
        primary.write(set(&mine, &value)).await.expect("written");
    }
    let dead = primary.node();
    cluster.stop_node(dead).await;
    drop(watcher);
    cluster.promote(partition).await;
    let primary = cluster.primary(partition);
    primary.write(set(&mine, "after")).await.expect("written");
    let mut again = primary
        .watch(filter.clone(), [(partition, Some(later))], HEARTBEAT)
        .expect("there is room");
    let (events, position) = collect(&mut again, 11).await;
    expected = (20..30)
        .map(|n| (mine.clone(), Some(n.to_string())))
        .chain([(mine.clone(), Some("after".to_owned()))])
        .collect();
    assert_eq!(told(&events), expected);

    // A position that no log of this line ever had.
    for lost in [
        Position {
            epoch: position.epoch,
            index: Index(position.index.0 + 1000),
        },
        Position {
            epoch: later.epoch,
            index: Index(position.index.0 + 1),
        },
    ] {
        let mut stray = primary
            .watch(filter.clone(), [(partition, Some(lost))], HEARTBEAT)
            .expect("there is room");
        let ended = Step::Ended {
            partition,
            why: Ended::Compacted,
        };
        assert_eq!(step(&mut stray).await, ended, "{lost}");
        assert_eq!(stray.next().await, None);
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_several_partitions_outlives_those_that_are_served_elsewhere() {
    let mut cluster = TestCluster::start().await;
    // Partitions 0 and 3 have their primary on node 1.
    let (stays, goes) = (PartitionId(0), PartitionId(3));
    let primary = cluster.primary(stays);
    assert_eq!(cluster.primary(goes).node(), primary.node());
    let everything = KeyFilter::Prefix(Bytes::new());
    let elsewhere = PartitionId(1);
    let from = [(stays, None), (goes, None), (elsewhere, None)];
    let mut watcher = primary
        .watch(everything, from, HEARTBEAT)
        .expect("there is room");
    // In whatever order the partitions are looked at.
    let (mut begun, mut refused) = (Vec::new(), Vec::new());
    while begun.len() + refused.len() < 3 {
        match step(&mut watcher).await {
            Step::Positions(positions) => begun.extend(positions.into_iter().map(|(p, _)| p)),
            Step::Ended {
                partition,
                why: Ended::Refused(RequestError::Moved { .. }),
            } => refused.push(partition),
            other => panic!("nothing was written: {other:?}"),
        }
    }
    begun.sort_unstable();
    assert_eq!((begun, refused), (vec![stays, goes], vec![elsewhere]));
    cluster.hand_over(goes, NodeId(2)).await;
    let ended = loop {
        match step(&mut watcher).await {
            Step::Positions(_) => {}
            other => break other,
        }
    };
    assert!(
        matches!(
            ended,
            Step::Ended { partition, why: Ended::Refused(RequestError::Moved { .. }) }
                if partition == goes
        ),
        "{ended:?}"
    );
    let name = key_in(stays, 5);
    primary.write(set(&name, "1")).await.expect("written");
    let (events, _) = collect(&mut watcher, 1).await;
    assert_eq!(told(&events), [(name, Some("1".to_owned()))]);
    cluster.stop().await;
}

/// Asks for a page, of a node that remembers what `keyspace` does.
async fn page(keyspace: &Arc<Keyspace>, cursor: u64, pattern: Option<&str>) -> (u64, Vec<String>) {
    let question = Question::Scan(ScanQuestion {
        cursor,
        count: 7,
        pattern: pattern.map(key),
    });
    let found = timeout(PATIENCE, Arc::clone(keyspace).ask(question)).await;
    match found.expect("in time") {
        Ok(Found::Page { cursor, keys }) => {
            let text = |key: &Bytes| String::from_utf8(key.to_vec()).expect("text");
            (cursor, keys.iter().map(text).collect())
        }
        other => panic!("no page: {other:?}"),
    }
}

/// Two keys that begin so and have the same cursor, the lesser one first.
fn twins(beginning: &str) -> (String, String) {
    let name = |number: u64| format!("{beginning}:{number:010}");
    let mut seen = HashMap::new();
    for number in 0.. {
        let hash = hash_of(name(number).as_bytes());
        if let Some(before) = seen.insert(hash, number) {
            return (name(before), name(number));
        }
    }
    unreachable!("there are fewer hashes than numbers")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_ends_though_two_keys_share_a_cursor() {
    let cluster = TestCluster::start().await;
    let primary = cluster.primary(PartitionId(0));
    // All in one slot.
    let tag = format!("{{{}}}", key_in(PartitionId(0), 0));
    let (first, second) = twins(&tag);
    // One page ends on the one and the next page on the other.
    let mut names: Vec<String> = (0..6).map(|n| format!("{tag}!{n}")).collect();
    names.push(first.clone());
    names.extend((0..6).map(|n| format!("{first}-{n}")));
    names.push(second.clone());
    names.extend((0..6).map(|n| format!("{second}-{n}")));
    for name in &names {
        primary.write(set(name, "v")).await.expect("written");
    }
    let keyspace = Keyspace::new(primary.clone());
    let (mut cursor, mut found) = (0, Vec::new());
    for _ in 0..10 {
        let (next, keys) = page(&keyspace, cursor, None).await;
        found.extend(keys);
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(cursor, 0, "it goes round in circles: {found:?}");
    assert_eq!(found, names);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_by_cursors_returns_every_key_whoever_answers() {
    let mut cluster = TestCluster::start().await;
    // Both have their primary on node 1.
    let led = [PartitionId(0), PartitionId(3)];
    let primary = cluster.primary(led[0]);
    let mut names: Vec<String> = led
        .into_iter()
        .flat_map(|partition| (0..60).map(move |n| key_in(partition, n)))
        .collect();
    for name in &names {
        primary.write(set(name, "v")).await.expect("written");
    }
    names.sort_unstable();
    let remembers = Keyspace::new(primary.clone());
    let count = Arc::clone(&remembers).ask(Question::Count).await;
    assert_eq!(count, Ok(Found::Count(120)));

    // One that remembers, and one that has forgotten everything before each page.
    for forgets in [false, true] {
        let (mut cursor, mut found) = (0, Vec::new());
        loop {
            let fresh = Keyspace::new(primary.clone());
            let asked = if forgets { &fresh } else { &remembers };
            let (next, keys) = page(asked, cursor, None).await;
            assert!(keys.len() <= 7);
            found.extend(keys);
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        found.sort_unstable();
        assert_eq!(found, names, "forgets: {forgets}");
    }

    // The key that the cursor stands for is deleted, and nobody remembers it.
    let (cursor, first) = page(&remembers, 0, None).await;
    let last = first.last().expect("some");
    delete(&primary, last).await;
    let (mut next, mut found) = (cursor, first.clone());
    loop {
        let (cursor, keys) = page(&Keyspace::new(primary.clone()), next, None).await;
        found.extend(keys);
        next = cursor;
        if next == 0 {
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, names);
    names.retain(|name| name != last);

    // Only what matches is returned, and a literal beginning keeps from looking at more.
    let (cursor, keys) = page(&remembers, 0, Some("nothing-begins-so*")).await;
    assert_eq!((cursor, keys), (0, vec![]));
    let wanted = &names[10];
    let (_, keys) = page(&remembers, 0, Some(wanted)).await;
    assert_eq!(keys, std::slice::from_ref(wanted));

    // The partition moves away in the middle: the replica that stays tells the rest.
    let (mut cursor, mut found) = page(&remembers, 0, None).await;
    cluster.hand_over(led[0], NodeId(2)).await;
    while cursor != 0 {
        let (next, keys) = page(&remembers, cursor, None).await;
        found.extend(keys);
        cursor = next;
    }
    found.sort_unstable();
    assert_eq!(found, names);
    // Whoever leads it now begins anew with it, and no one who leads nothing answers.
    let count = Keyspace::new(cluster.primary(led[0])).ask(Question::Count);
    assert!(matches!(count.await, Ok(Found::Count(59..))));
    cluster.stop().await;
}
