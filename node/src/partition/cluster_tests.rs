//! Engines over real disks, with peers that are a function call away and a
//! coordinator played by the test.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_core::cluster::report::{Order, ReplicaReport, Role};
use cairn_core::ids::{Epoch, Index, MapVersion, Micros, NodeId, PartitionId, ReplicaId};
use cairn_core::kv::request::{
    Condition, Expiry, RequestError, Sequenced, WriteOp, WriteOutcome, WriteReply, WriteRequest,
};
use cairn_core::record::{
    ClusterMap, ClusterSettings, Configuration, Member, PartitionRecord, ReplicaSet,
};
use cairn_core::replication::{Event, PeerMessage, Timing};
use cairn_core::slots::range_of_partition;
use futures::future::{BoxFuture, join_all};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::disk::DataDirectory;
use crate::peer::{PeerSink, SnapshotPart, SnapshotReader, SnapshotSource};
use crate::store::{NodeStorage, StorageConfig};

const LEASE_MS: u64 = 400;
const PATIENCE: Duration = Duration::from_secs(30);

/// The network: who can be reached, and which ways are cut.
#[derive(Default)]
struct Network {
    handles: BTreeMap<NodeId, Handle>,
    cut: HashSet<(NodeId, NodeId)>,
}

#[derive(Clone)]
struct Way {
    own: NodeId,
    network: Arc<Mutex<Network>>,
}

impl Way {
    fn to(&self, node: NodeId) -> Option<Handle> {
        let network = self.network.lock();
        let open = !network.cut.contains(&(self.own, node));
        network.handles.get(&node).filter(|_| open).cloned()
    }
}

impl PeerLink for Way {
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        if let Some(handle) = self.to(to) {
            drop(handle.deliver(self.own, messages));
        }
    }
}

struct Parts(Box<dyn SnapshotReader>);

impl SnapshotParts for Parts {
    fn next(&mut self) -> BoxFuture<'_, Result<SnapshotPart, String>> {
        let part = self.0.next_chunk(4096).map(|chunk| match chunk {
            Some(chunk) => SnapshotPart::Rows(chunk),
            None => SnapshotPart::End {
                mark: self.0.mark(),
                lineage: self.0.lineage(),
            },
        });
        Box::pin(std::future::ready(part))
    }
}

impl SnapshotFetch for Way {
    fn fetch(
        &self,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotParts>, String>> {
        let handle = self.to(wanted.from);
        Box::pin(async move {
            let handle = handle.ok_or("out of reach")?;
            let opened = handle
                .open(wanted.partition, wanted.epoch, wanted.replica)
                .await;
            match opened {
                Ok(reader) => Ok(Box::new(Parts(reader)) as Box<dyn SnapshotParts>),
                Err(refusal) => Err(refusal.to_string()),
            }
        })
    }
}

struct Reports(mpsc::UnboundedSender<ReplicaReport>);

impl AgentLink for Reports {
    fn report(&self, report: ReplicaReport) {
        // A test that no longer listens needs no report.
        let _ = self.0.send(report);
    }

    fn urge(&self) {}

    fn disk_full(&self, _: bool) {}

    fn peer_map(&self, _: NodeId, _: MapVersion) {}
}

struct TestNode {
    engine: RunningEngine,
    storage: NodeStorage,
    reports: mpsc::UnboundedReceiver<ReplicaReport>,
    directory: DataDirectory,
}

struct TestCluster {
    root: TempDir,
    network: Arc<Mutex<Network>>,
    nodes: BTreeMap<NodeId, TestNode>,
    map: ClusterMap,
    log_bytes: usize,
    rounds: u64,
}

fn member(node: u64, partition: u32) -> Member {
    Member {
        node: NodeId(node),
        replica: ReplicaId(u64::from(partition) * 10 + node),
    }
}

fn settings() -> ClusterSettings {
    ClusterSettings {
        replication_factor: 3,
        write_quorum: 2,
        min_in_sync: 2,
        partitions: 4,
        virtual_nodes: 64,
        initial_data_nodes: 3,
        lease_ms: LEASE_MS,
        lease_ms_longest: LEASE_MS,
        idempotence_window: 1000,
        node_timeout_ms: 1000,
    }
}

impl TestCluster {
    /// Three nodes and four partitions, whose primaries are spread over the nodes.
    async fn start() -> Self {
        Self::start_with(64 << 20).await
    }

    async fn start_with(log_bytes: usize) -> Self {
        let settings = settings();
        let partitions = (0..settings.partitions)
            .map(|id| {
                Arc::new(PartitionRecord {
                    id: PartitionId(id),
                    slots: range_of_partition(id, settings.partitions),
                    epoch: Epoch(1),
                    revision: 1,
                    config: Configuration {
                        current: ReplicaSet {
                            members: (1..=3).map(|node| member(node, id)).collect(),
                            write_quorum: 2,
                        },
                        joint: None,
                        learners: vec![],
                    },
                    primary: Some(member(u64::from(id) % 3 + 1, id)),
                    degraded: false,
                    changed_at: MapVersion(1),
                })
            })
            .collect();
        let map = ClusterMap {
            cluster_id: "test".to_owned(),
            version: MapVersion(1),
            settings: Some(Arc::new(settings)),
            nodes: BTreeMap::new(),
            partitions,
        };
        let mut cluster = Self {
            root: tempfile::tempdir().expect("a temporary directory"),
            network: Arc::default(),
            nodes: BTreeMap::new(),
            map,
            log_bytes,
            rounds: 0,
        };
        for node in 1..=3 {
            cluster.start_node(NodeId(node), 1);
        }
        cluster.tell_map();
        for partition in 0..4 {
            cluster.wait_until_served(PartitionId(partition)).await;
        }
        cluster
    }

    fn directory(&self, node: NodeId, life: u32) -> PathBuf {
        self.root.path().join(format!("{}-{life}", node.0))
    }

    fn start_node(&mut self, node: NodeId, life: u32) {
        let lease = Micros::from_millis(LEASE_MS);
        let timing = Timing {
            lease,
            lease_longest: lease,
            lease_margin: Micros::from_millis(LEASE_MS / 10),
            tick: Micros::from_millis(10),
            resend: Micros::from_millis(200),
            stuck: Micros::from_millis(10_000),
            window_bytes: 4 << 20,
            log_bytes: self.log_bytes,
        };
        let mut config = EngineConfig::new(node, rand::random(), timing);
        config.request_timeout = Duration::from_secs(2);
        let shared_map = Arc::new(ArcSwap::from_pointee(ClusterMap::default()));
        let prepared = Prepared::new(config, shared_map);
        let handle = prepared.handle();
        let directory = DataDirectory::open(&self.directory(node, life)).expect("open directory");
        let mut storage_config = StorageConfig {
            reserve_bytes: 0,
            ..StorageConfig::default()
        };
        storage_config.wal.segment_bytes = 1 << 20;
        let mut storage = NodeStorage::open(&directory, &storage_config, prepared.callbacks())
            .expect("open storage");
        let way = Way {
            own: node,
            network: Arc::clone(&self.network),
        };
        let (send, reports) = mpsc::unbounded_channel();
        let engine = prepared
            .start(
                EngineStorage {
                    wal: storage.wal.clone(),
                    apply: storage.apply.clone(),
                    reader: storage.reader.clone(),
                    recovered: std::mem::take(&mut storage.recovered),
                    next_generation: storage.next_generation,
                },
                Links {
                    peers: Arc::new(way.clone()),
                    snapshots: Arc::new(way),
                    agent: Arc::new(Reports(send)),
                },
                tokio::runtime::Handle::current(),
            )
            .expect("start the engine");
        let others: Vec<(NodeId, Handle)> = {
            let mut network = self.network.lock();
            network.handles.insert(node, handle.clone());
            network.handles.clone().into_iter().collect()
        };
        for (other, theirs) in others.into_iter().filter(|(other, _)| *other != node) {
            handle.submit(Event::PeerConnected { peer: other });
            theirs.submit(Event::PeerConnected { peer: node });
        }
        self.nodes.insert(
            node,
            TestNode {
                engine,
                storage,
                reports,
                directory,
            },
        );
    }

    /// Ends a node without a word to anyone.
    async fn stop_node(&mut self, node: NodeId) {
        self.network.lock().handles.remove(&node);
        let stopped = self.nodes.remove(&node).expect("it runs");
        tokio::task::spawn_blocking(move || {
            let TestNode {
                engine,
                storage,
                directory,
                ..
            } = stopped;
            engine.stop();
            storage.close();
            drop(directory);
        })
        .await
        .expect("it stops");
    }

    fn handle(&self, node: NodeId) -> Handle {
        self.nodes[&node].engine.handle()
    }

    fn tell_map(&self) {
        let map = Arc::new(self.map.clone());
        for node in self.nodes.values() {
            node.engine.handle().install_map(Arc::clone(&map));
        }
    }

    fn record(&self, partition: PartitionId) -> &PartitionRecord {
        &self.map.partitions[partition.0 as usize]
    }

    fn primary(&self, partition: PartitionId) -> Handle {
        let primary = self.record(partition).primary.expect("named");
        self.handle(primary.node)
    }

    /// The handle of the node that is primary of a key, by the test's map.
    fn primary_of(&self, key: &Bytes) -> Handle {
        let slot = cairn_core::slots::slot(key);
        let record = self
            .map
            .partition_of_slot(slot)
            .expect("all slots are held");
        self.primary(record.id)
    }

    fn change(&mut self, partition: PartitionId, change: impl FnOnce(&mut PartitionRecord)) {
        self.map.version = MapVersion(self.map.version.0 + 1);
        let mut record = self.record(partition).clone();
        record.revision += 1;
        record.changed_at = self.map.version;
        change(&mut record);
        self.map.partitions[partition.0 as usize] = Arc::new(record);
    }

    async fn wait_until_served(&self, partition: PartitionId) {
        let primary = self.primary(partition);
        let served = async {
            loop {
                let here = primary.standing(partition);
                if here.is_some_and(|p| p.leads(boottime())) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = timeout(PATIENCE, served).await;
        waited.unwrap_or_else(|_| panic!("{partition}: {:?}", primary.standing(partition)));
    }

    /// Plays the coordinators: fences, waits out the leases, names the best.
    async fn promote(&mut self, partition: PartitionId) {
        let epoch = self.record(partition).epoch.next();
        let live: Vec<NodeId> = self.nodes.keys().copied().collect();
        let reports = self.ask(partition, &live, |round| Order::Fence {
            partition,
            epoch,
            round,
        });
        let reports = reports.await;
        assert!(reports.len() >= 2, "N-W+1 replicas answer");
        let best = reports
            .iter()
            .filter(|r| r.whole && r.promised == epoch)
            .max_by_key(|r| r.head)
            .expect("someone is whole")
            .member;
        loop {
            let again = self.ask(partition, &live, |round| Order::Ask { partition, round });
            let again = again.await;
            if again.iter().all(|r| r.lease_remaining == Micros(0)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.change(partition, |record| {
            record.epoch = epoch;
            record.primary = Some(best);
        });
        self.tell_map();
        self.wait_until_served(partition).await;
    }

    async fn ask(
        &mut self,
        partition: PartitionId,
        nodes: &[NodeId],
        order: impl Fn(u64) -> Order,
    ) -> Vec<ReplicaReport> {
        self.rounds += 1;
        let mut reports = Vec::new();
        for node in nodes {
            let node = self.nodes.get_mut(node).expect("it runs");
            let order = order(self.rounds);
            node.engine.handle().submit(Event::Order { order });
            loop {
                let report = timeout(PATIENCE, node.reports.recv());
                let report = report.await.expect("it answers").expect("it runs");
                if report.round == self.rounds && report.partition == partition {
                    reports.push(report);
                    break;
                }
            }
        }
        reports
    }

    async fn stop(mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.stop_node(node).await;
        }
    }
}

fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

fn set_op(name: &str, value: &str, expiry: Expiry) -> WriteOp {
    WriteOp::Set {
        key: key(name),
        value: key(value),
        condition: Condition::Always,
        expiry,
        return_previous: false,
    }
}

fn set(name: &str, value: &str) -> WriteRequest {
    WriteRequest {
        op: set_op(name, value, Expiry::Never),
        sequenced: None,
    }
}

fn increment(name: &str, sequence: Option<u64>) -> WriteRequest {
    WriteRequest {
        op: WriteOp::Increment {
            key: key(name),
            delta: 1,
        },
        sequenced: sequence.map(|sequence| Sequenced {
            client: 42,
            sequence,
            known: Index::ZERO,
        }),
    }
}

fn integer(result: Result<WriteReply, RequestError>) -> i64 {
    match result.expect("it was written").outcome {
        WriteOutcome::Integer(number) => number,
        other => panic!("not a number: {other:?}"),
    }
}

async fn text(handle: &Handle, name: &str) -> Option<String> {
    let value = handle.read(&key(name)).await.expect("it is read")?;
    Some(String::from_utf8(value.data.to_vec()).expect("text"))
}

/// A key of the partition.
fn key_in(partition: PartitionId, number: u32) -> String {
    let range = range_of_partition(partition.0, 4);
    (0..)
        .map(|n: u32| format!("key-{number}-{n}"))
        .find(|name| range.contains(cairn_core::slots::slot(name.as_bytes())))
        .expect("some key falls there")
}

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
    // So little log is kept that the beginning is gone soon.
    let mut cluster = TestCluster::start_with(16 << 10).await;
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
    // Housekeeping drops the log's beginning twice a second.
    tokio::time::sleep(Duration::from_millis(1200)).await;
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
    cluster.stop().await;
}
