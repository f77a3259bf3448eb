//! The harness: nodes over real disks, a network that is a function call, and the
//! coordinators' part.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_core::cluster::report::{NodeFigures, Order, ReplicaReport, Wish};
use cairn_core::ids::{Epoch, MapVersion, Micros, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::kv::request::{
    Condition, Expiry, ReadLevel, RequestError, Sequenced, WriteOp, WriteOutcome, WriteReply,
    WriteRequest,
};
use cairn_core::record::{
    ClusterMap, ClusterSettings, Configuration, Member, PartitionRecord, ReplicaSet,
};
use cairn_core::replication::{Event, PeerMessage, SnapshotWanted, Timing};
use cairn_core::slots::range_of_partition;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::*;
use crate::disk::DataDirectory;
use crate::peer::{PeerSink, SnapshotPart, SnapshotReader, SnapshotSource};
use crate::store::{NodeStorage, StorageConfig};

pub(super) const LEASE_MS: u64 = 400;
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// The network: who can be reached, and which ways are cut.
#[derive(Default)]
pub(super) struct Network {
    pub(super) handles: BTreeMap<NodeId, Handle>,
    pub(super) cut: HashSet<(NodeId, NodeId)>,
    /// Partitions whose entries reach nobody: they have no quorum.
    pub(super) unsent: HashSet<PartitionId>,
    /// Nodes whose snapshots break off after their first chunk.
    pub(super) breaking: HashSet<NodeId>,
    /// Of which partition, and from where, snapshots were fetched.
    pub(super) sources: Vec<(PartitionId, NodeId)>,
}

#[derive(Clone)]
pub(super) struct Way {
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
    fn send(&self, to: NodeId, mut messages: Vec<PeerMessage>) {
        {
            let network = self.network.lock();
            messages.retain(|message| match message {
                PeerMessage::Append(append) => !network.unsent.contains(&append.partition),
                _ => true,
            });
        }
        if let Some(handle) = self.to(to) {
            drop(handle.deliver(self.own, messages));
        }
    }
}

pub(super) struct Parts {
    reader: Box<dyn SnapshotReader>,
    chunks: usize,
    breaks: bool,
}

impl SnapshotParts for Parts {
    fn next(&mut self) -> BoxFuture<'_, Result<SnapshotPart, String>> {
        self.chunks += 1;
        if self.breaks && self.chunks > 1 {
            return Box::pin(std::future::ready(Err("it broke off".to_owned())));
        }
        let part = self.reader.next_chunk(4096).map(|chunk| match chunk {
            Some(rows) => SnapshotPart::Rows {
                rows,
                expected_bytes: self.reader.expected_bytes(),
                last: self.reader.mark().index(),
            },
            None => SnapshotPart::End {
                mark: self.reader.mark(),
                lineage: self.reader.lineage(),
            },
        });
        Box::pin(std::future::ready(part))
    }
}

impl SnapshotFetch for Way {
    fn fetch(
        &self,
        from: NodeId,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotParts>, String>> {
        let (handle, to) = (self.to(from), self.own);
        let breaks = {
            let mut network = self.network.lock();
            network.sources.push((wanted.partition, from));
            network.breaking.contains(&from)
        };
        Box::pin(async move {
            let handle = handle.ok_or("out of reach")?;
            match handle.open(to, wanted).await {
                Ok(reader) => Ok(Box::new(Parts {
                    reader,
                    chunks: 0,
                    breaks,
                }) as Box<dyn SnapshotParts>),
                Err(refusal) => Err(refusal.to_string()),
            }
        })
    }
}

pub(super) struct Reports(mpsc::UnboundedSender<ReplicaReport>);

impl AgentLink for Reports {
    fn report(&self, report: ReplicaReport) {
        // A test that no longer listens needs no report.
        let _ = self.0.send(report);
    }

    fn urge(&self) {}

    fn disk_full(&self, _: bool) {}

    fn figures(&self, _: NodeFigures) {}

    fn peer_map(&self, _: NodeId, _: MapVersion) {}
}

pub(super) struct TestNode {
    pub(super) engine: RunningEngine,
    pub(super) storage: NodeStorage,
    pub(super) reports: mpsc::UnboundedReceiver<ReplicaReport>,
    pub(super) directory: DataDirectory,
}

pub(super) struct TestCluster {
    pub(super) root: TempDir,
    pub(super) network: Arc<Mutex<Network>>,
    pub(super) nodes: BTreeMap<NodeId, TestNode>,
    pub(super) map: ClusterMap,
    pub(super) log_bytes: usize,
    pub(super) kept_bytes: u64,
    /// Changes the bounds of each engine before it starts.
    pub(super) tune: fn(&mut EngineConfig),
    pub(super) rounds: u64,
    /// Where each partition is served, for clients that follow.
    pub(super) routes: Routes,
}

pub(super) type Routes = Arc<Mutex<BTreeMap<PartitionId, Handle>>>;

pub(super) fn member(node: u64, partition: u32) -> Member {
    Member {
        node: NodeId(node),
        replica: ReplicaId(u64::from(partition) * 10 + node),
    }
}

pub(super) fn settings() -> ClusterSettings {
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
        read_level: ReadLevel::Primary,
        read_quorum: 0,
        replace_after_ms: 300_000,
        moves_per_node: 4,
        counters: String::new(),
    }
}

impl TestCluster {
    /// Three nodes and four partitions, whose primaries are spread over the nodes.
    pub(super) async fn start() -> Self {
        Self::start_with(64 << 20).await
    }

    /// With a bound for the logs in memory.
    pub(super) async fn start_with(log_bytes: usize) -> Self {
        Self::start_tuned(log_bytes, 0, |_| {}).await
    }

    /// With so much of the log on disk kept that no replica needs, besides, and other
    /// bounds of the engines.
    pub(super) async fn start_tuned(
        log_bytes: usize,
        kept_bytes: u64,
        tune: fn(&mut EngineConfig),
    ) -> Self {
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
                        readers: Vec::new(),
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
            coordinators: Vec::new(),
        };
        let mut cluster = Self {
            root: tempfile::tempdir().expect("a temporary directory"),
            network: Arc::default(),
            nodes: BTreeMap::new(),
            map,
            log_bytes,
            kept_bytes,
            tune,
            rounds: 0,
            routes: Routes::default(),
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

    pub(super) fn directory(&self, node: NodeId, life: u32) -> PathBuf {
        self.root.path().join(format!("{}-{life}", node.0))
    }

    pub(super) fn start_node(&mut self, node: NodeId, life: u32) {
        let lease = Micros::from_millis(LEASE_MS);
        let timing = Timing {
            lease,
            lease_longest: lease,
            lease_margin: None,
            tick: Micros::from_millis(10),
            resend: Micros::from_millis(200),
            stuck: Micros::from_millis(10_000),
            window_bytes: 4 << 20,
            log_bytes: self.log_bytes,
            keep_bytes: self.log_bytes,
            unapplied_bytes: 64 << 20,
            push_back: Micros::from_millis(10_000),
            read_lease_at: 1,
            read_lease_parts: 8,
            read_lease_max: Micros::from_millis(100),
        };
        let mut config = EngineConfig::new(node, rand::random(), timing);
        config.request_timeout = Duration::from_secs(2);
        (self.tune)(&mut config);
        let shared_map = Arc::new(ArcSwap::from_pointee(ClusterMap::default()));
        let prepared = Prepared::new(config, shared_map);
        let handle = prepared.handle();
        let directory = DataDirectory::open(&self.directory(node, life)).expect("open directory");
        let mut storage_config = StorageConfig {
            reserve_bytes: 0,
            ..StorageConfig::default()
        };
        storage_config.wal.segment_bytes = 1 << 20;
        storage_config.wal.kept_bytes = self.kept_bytes;
        storage_config.wal.recovered_bytes = self.log_bytes;
        let mut storage = NodeStorage::open(&directory, &storage_config, prepared.callbacks())
            .expect("open storage");
        let way = Way {
            own: node,
            network: Arc::clone(&self.network),
        };
        let (send, reports) = mpsc::unbounded_channel();
        let engine = prepared.start(
            EngineStorage {
                wal: storage.wal.clone(),
                apply: storage.apply.clone(),
                reader: storage.reader.clone(),
                log: storage.log.clone(),
                recovered: std::mem::take(&mut storage.recovered),
                next_generation: storage.next_generation,
            },
            Links {
                peers: Arc::new(way.clone()),
                snapshots: Arc::new(way),
                agent: Arc::new(Reports(send)),
            },
            tokio::runtime::Handle::current(),
        );
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
    pub(super) async fn stop_node(&mut self, node: NodeId) {
        self.network.lock().handles.remove(&node);
        let stopped = self.nodes.remove(&node).expect("it runs");
        let TestNode {
            engine,
            storage,
            directory,
            ..
        } = stopped;
        engine.stop().await;
        tokio::task::spawn_blocking(move || {
            storage.close();
            drop(directory);
        })
        .await
        .expect("it stops");
    }

    pub(super) fn handle(&self, node: NodeId) -> Handle {
        self.nodes[&node].engine.handle()
    }

    pub(super) fn tell_map(&self) {
        let map = Arc::new(self.map.clone());
        for node in self.nodes.values() {
            node.engine.handle().install_map(Arc::clone(&map));
        }
    }

    pub(super) fn record(&self, partition: PartitionId) -> &PartitionRecord {
        &self.map.partitions[partition.0 as usize]
    }

    pub(super) fn primary(&self, partition: PartitionId) -> Handle {
        let primary = self.record(partition).primary.expect("named");
        self.handle(primary.node)
    }

    /// The handle of the node that is primary of a key, by the test's map.
    pub(super) fn primary_of(&self, key: &Bytes) -> Handle {
        let slot = cairn_core::slots::slot(key);
        let record = self
            .map
            .partition_of_slot(slot)
            .expect("all slots are held");
        self.primary(record.id)
    }

    pub(super) fn change(
        &mut self,
        partition: PartitionId,
        change: impl FnOnce(&mut PartitionRecord),
    ) {
        self.map.version = MapVersion(self.map.version.0 + 1);
        let mut record = self.record(partition).clone();
        record.revision += 1;
        record.changed_at = self.map.version;
        change(&mut record);
        self.map.partitions[partition.0 as usize] = Arc::new(record);
    }

    pub(super) async fn wait_until_served(&self, partition: PartitionId) {
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
        self.routes.lock().insert(partition, primary);
    }

    /// Plays the coordinators: fences, waits out the leases, names the best.
    pub(super) async fn promote(&mut self, partition: PartitionId) {
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

    /// Plays the coordinators: the primary hands over, and the successor is named
    /// without waiting for any lease.
    pub(super) async fn hand_over(&mut self, partition: PartitionId, to: NodeId) {
        let record = self.record(partition).clone();
        let to = record.config.on_node(to).expect("a member");
        let primary = self.primary(partition);
        let order = Order::HandOver {
            partition,
            epoch: record.epoch,
            to,
        };
        primary.submit(Event::Order { order });
        let released = async {
            loop {
                let statuses = primary.statuses(true).await;
                let status = statuses.iter().find(|s| s.partition == partition);
                if status.is_some_and(|s| s.wish == Wish::HandedOver) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, released).await.expect("it hands over");
        self.change(partition, |record| {
            record.epoch = record.epoch.next();
            record.primary = Some(to);
        });
        self.tell_map();
        self.wait_until_served(partition).await;
    }

    pub(super) async fn ask(
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

    pub(super) async fn stop(mut self) {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        for node in nodes {
            self.stop_node(node).await;
        }
    }
}

pub(super) fn key(name: &str) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

pub(super) fn set_op(name: &str, value: &str, expiry: Expiry) -> WriteOp {
    WriteOp::Set {
        key: key(name),
        value: key(value),
        condition: Condition::Always,
        expiry,
        return_previous: false,
    }
}

pub(super) fn set(name: &str, value: &str) -> WriteRequest {
    WriteRequest {
        op: set_op(name, value, Expiry::Never),
        sequenced: None,
    }
}

pub(super) fn increment(name: &str, sequence: Option<u64>) -> WriteRequest {
    WriteRequest {
        op: WriteOp::Increment {
            key: key(name),
            delta: 1,
        },
        sequenced: sequence.map(|sequence| Sequenced {
            client: 42,
            sequence,
            known: Position::ZERO,
        }),
    }
}

pub(super) fn integer(result: Result<WriteReply, RequestError>) -> i64 {
    match result.expect("it was written").outcome {
        WriteOutcome::Integer(number) => number,
        other => panic!("not a number: {other:?}"),
    }
}

pub(super) async fn text(handle: &Handle, name: &str) -> Option<String> {
    let value = handle.read(&key(name)).await.expect("it is read")?;
    Some(String::from_utf8(value.data.to_vec()).expect("text"))
}

/// A key of the partition.
pub(super) fn key_in(partition: PartitionId, number: u32) -> String {
    let range = range_of_partition(partition.0, 4);
    (0..)
        .map(|n: u32| format!("key-{number}-{n}"))
        .find(|name| range.contains(cairn_core::slots::slot(name.as_bytes())))
        .expect("some key falls there")
}

/// A native client: it retries each increment under its name until it is answered.
/// Returns every number that it was told.
pub(super) async fn count(
    routes: Routes,
    partition: PartitionId,
    client: u128,
    times: u64,
) -> Vec<i64> {
    let name = key_in(partition, 0);
    let (mut told, mut known) = (Vec::new(), Position::ZERO);
    for sequence in 1..=times {
        let request = WriteRequest {
            op: WriteOp::Increment {
                key: key(&name),
                delta: 1,
            },
            sequenced: Some(Sequenced {
                client,
                sequence,
                known,
            }),
        };
        loop {
            let handle = routes.lock().get(&partition).cloned().expect("a route");
            match handle.write(request.clone()).await {
                Ok(reply) => {
                    known = known.max(reply.position);
                    told.push(integer(Ok(reply)));
                    break;
                }
                Err(RequestError::Unjudged { .. }) => panic!("the window is large enough"),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    }
    told
}

/// Every number from 1 was told exactly once: no increment was lost, none applied
/// twice, and none answered from a state that was lost.
pub(super) fn assert_counted(told: Vec<Vec<i64>>) {
    let mut all: Vec<i64> = told.into_iter().flatten().collect();
    all.sort_unstable();
    let count = i64::try_from(all.len()).expect("few");
    assert_eq!(all, (1..=count).collect::<Vec<_>>());
}
