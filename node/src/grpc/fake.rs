//! Nodes without a disk or replication, for tests of the protocol and the client:
//! they share one state, and each plays a script.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::{Pending, pending};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, MapVersion, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::kv::request::{
    BatchAction, Expiry, ReadLevel, RequestError, Value, WriteLevel, WriteOp, WriteOutcome,
    WriteReply, WriteRequest,
};
use cairn_core::record::{
    Addresses, ClusterMap, Configuration, Member, NodeInfo, NodeStanding, PartitionRecord,
    ReplicaSet, SlotRange,
};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::{
    IntakeConfig, KvBackend, KvLimits, KvServer, MapFeed, ReadResult, ServeConfig, StartedRead,
    TopologyServer, WriteQueue, WriteResult, serve,
};
use crate::listener::ListenerConfig;
use crate::partition::{LocalState, Reading};
use crate::users::Users;

/// What a node does with the next write.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Refuses, having done nothing.
    Refuse(RequestError),
    /// Applies it and answers with an error.
    ApplyThen(RequestError),
    /// Applies it and never answers.
    ApplyThenHang,
    /// Never answers, having done nothing.
    Hang,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    data: BTreeMap<Bytes, Value>,
    names: HashMap<(u128, u64), WriteReply>,
    index: u64,
    /// Every write that any node was asked for.
    pub(crate) asked: Vec<(NodeId, WriteRequest)>,
    /// The level of each of them.
    pub(crate) write_levels: Vec<WriteLevel>,
    /// Which node was asked for every read, and at which level.
    pub(crate) reads: Vec<(NodeId, ReadLevel)>,
    /// What nodes refuse reads at other levels than `primary` with.
    pub(crate) refused_reads: HashMap<NodeId, RequestError>,
}

impl State {
    fn apply(&mut self, request: &WriteRequest) -> WriteReply {
        let name = request.sequenced.map(|s| (s.client, s.sequence));
        if let Some(reply) = name.and_then(|name| self.names.get(&name)) {
            return reply.clone();
        }
        self.index += 1;
        let position = Position {
            epoch: Epoch(1),
            index: Index(self.index),
        };
        let outcome = match &request.op {
            WriteOp::Batch { operations } => WriteOutcome::Batch(
                operations
                    .iter()
                    .map(|operation| self.act(&operation.key, &operation.action, position))
                    .collect(),
            ),
            WriteOp::Set { key, value, .. } => {
                let put = BatchAction::Put {
                    value: value.clone(),
                    expiry: Expiry::Never,
                };
                self.act(key, &put, position)
            }
            WriteOp::Delete { key, .. } => self.act(key, &BatchAction::Delete, position),
            WriteOp::Increment { key, delta } => {
                self.act(key, &BatchAction::Increment { delta: *delta }, position)
            }
            other => panic!("gRPC has no {other:?}"),
        };
        let reply = WriteReply { outcome, position };
        if let Some(name) = name {
            self.names.insert(name, reply.clone());
        }
        reply
    }

    fn act(&mut self, key: &Bytes, action: &BatchAction, version: Position) -> WriteOutcome {
        let (data, outcome) = match action {
            BatchAction::Put { value, .. } => (value.clone(), WriteOutcome::Set { previous: None }),
            BatchAction::Delete => {
                let count = u64::from(self.data.remove(key).is_some());
                return WriteOutcome::Deleted { count };
            }
            BatchAction::Increment { delta } => {
                let before = self.data.get(key).map_or(0, |v| {
                    let text = std::str::from_utf8(&v.data).expect("a number");
                    text.parse::<i64>().expect("a number")
                });
                let sum = before + delta;
                (sum.to_string().into(), WriteOutcome::Integer(sum))
            }
        };
        let value = Value::string(data, version, None);
        self.data.insert(key.clone(), value);
        outcome
    }
}

/// One node of a fake cluster.
#[derive(Clone, Debug)]
pub(crate) struct FakeNode {
    node: NodeId,
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<VecDeque<Act>>>,
    map: Arc<ArcSwap<ClusterMap>>,
}

impl KvBackend for FakeNode {
    type Writes = FakeWrites;
    type Read = Pending<ReadResult>;

    fn writes(&self) -> FakeWrites {
        FakeWrites {
            node: self.clone(),
            done: Vec::new(),
            waker: None,
        }
    }

    fn read(&self, key: &Bytes, level: Option<ReadLevel>) -> StartedRead<Pending<ReadResult>> {
        let level = level.unwrap_or(ReadLevel::Primary);
        if level == ReadLevel::Primary
            && let Some(error) = self.elsewhere()
        {
            return StartedRead::Done(Err(error));
        }
        if key.starts_with(b"hang") {
            return StartedRead::Waiting(pending());
        }
        let mut state = self.state.lock();
        state.reads.push((self.node, level));
        if let Some(error) = state.refused_reads.get(&self.node)
            && level != ReadLevel::Primary
        {
            return StartedRead::Done(Err(error.clone()));
        }
        let local = (level == ReadLevel::Any).then_some(LocalState {
            epoch: Epoch(1),
            applied: Index(state.index),
            commit: Index(state.index + 3),
        });
        StartedRead::Done(Ok(Reading {
            value: state.data.get(key).cloned(),
            local,
        }))
    }

    fn map(&self) -> Arc<ClusterMap> {
        self.map.load_full()
    }
}

impl FakeNode {
    /// A node serves what its map says that it is primary of.
    fn elsewhere(&self) -> Option<RequestError> {
        let map = self.map.load();
        let Some(record) = map.partitions.first() else {
            return Some(RequestError::NoMap);
        };
        (record.primary.map(|p| p.node) != Some(self.node)).then(|| RequestError::Moved {
            partition: record.id,
            epoch: record.epoch,
            primary: record.primary,
        })
    }

    fn act(&self, request: &WriteRequest) -> Option<WriteResult> {
        let mut state = self.state.lock();
        state.asked.push((self.node, request.clone()));
        if let Some(error) = self.elsewhere() {
            return Some(Err(error));
        }
        match self.script.lock().pop_front() {
            None => Some(Ok(state.apply(request))),
            Some(Act::Refuse(error)) => Some(Err(error)),
            Some(Act::ApplyThen(error)) => {
                state.apply(request);
                Some(Err(error))
            }
            Some(Act::ApplyThenHang) => {
                state.apply(request);
                None
            }
            Some(Act::Hang) => None,
        }
    }
}

/// The writes of one stream.
#[derive(Debug)]
pub(crate) struct FakeWrites {
    node: FakeNode,
    done: Vec<(u64, WriteResult)>,
    waker: Option<Waker>,
}

impl WriteQueue for FakeWrites {
    fn submit(&mut self, token: u64, request: WriteRequest, level: WriteLevel) {
        self.node.state.lock().write_levels.push(level);
        if let Some(result) = self.node.act(&request) {
            self.done.push((token, result));
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }

    fn poll_take(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        if self.done.is_empty() {
            self.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut self.done))
    }
}

/// Nodes that share one state, all with one partition, each on a port of its own.
pub(crate) struct FakeCluster {
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) map: Arc<ArcSwap<ClusterMap>>,
    users: Users,
    intake: Option<IntakeConfig>,
    nodes: Vec<Running>,
}

struct Running {
    address: SocketAddr,
    script: Arc<Mutex<VecDeque<Act>>>,
    process: Option<(Process, MapFeed)>,
}

/// A runtime that stands for a process: dropped, everything in it is gone at once.
pub(crate) struct Process(Option<Runtime>);

impl Process {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("runtime");
        Self(Some(runtime))
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("not dropped yet")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl FakeCluster {
    /// A cluster of so many nodes, numbered from 1; node 1 is primary.
    pub(crate) fn start(count: u64) -> Self {
        Self::guarded(count, Users::open())
    }

    /// The same with users.
    pub(crate) fn guarded(count: u64, users: Users) -> Self {
        Self::start_with(count, users, None)
    }

    /// One node that bounds what its callers may make it hold.
    pub(crate) fn bounded(intake: IntakeConfig) -> Self {
        Self::start_with(1, Users::open(), Some(intake))
    }

    fn start_with(count: u64, users: Users, intake: Option<IntakeConfig>) -> Self {
        let mut cluster = Self {
            state: Arc::default(),
            map: Arc::default(),
            users,
            intake,
            nodes: Vec::new(),
        };
        let listeners: Vec<std::net::TcpListener> = (0..count)
            .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("bind"))
            .collect();
        for listener in &listeners {
            cluster.nodes.push(Running {
                address: listener.local_addr().expect("bound"),
                script: Arc::default(),
                process: None,
            });
        }
        cluster.map.store(Arc::new(cluster.map_with(1, Some(1))));
        for (number, listener) in (1..).zip(listeners) {
            cluster.run(number, listener);
        }
        cluster
    }

    fn at(number: u64) -> usize {
        usize::try_from(number - 1).expect("a small number")
    }

    fn run(&mut self, number: u64, listener: std::net::TcpListener) {
        let process = Process::start();
        let (users, intake) = (self.users.clone(), self.intake.clone());
        let feed = MapFeed::new(Arc::clone(&self.map));
        let running = &mut self.nodes[Self::at(number)];
        let node = FakeNode {
            node: NodeId(number),
            state: Arc::clone(&self.state),
            script: Arc::clone(&running.script),
            map: Arc::clone(&self.map),
        };
        let shutdown = CancellationToken::new();
        let routes =
            Routes::new(KvServer::new(node, KvLimits::default(), shutdown.clone()).into_server())
                .add_service(TopologyServer::new(feed.clone(), shutdown.clone()).into_server());
        listener.set_nonblocking(true).expect("non-blocking");
        {
            let _inside = process.runtime().enter();
            let listener = TcpListener::from_std(listener).expect("listener");
            tokio::spawn(serve(
                listener,
                routes,
                ServeConfig {
                    users,
                    intake,
                    ..ServeConfig::default()
                },
                plain_listener(),
                shutdown,
            ));
        }
        running.process = Some((process, feed));
    }

    /// The client address of a node.
    pub(crate) fn address(&self, number: u64) -> String {
        self.nodes[Self::at(number)].address.to_string()
    }

    /// What a node does with its next writes, one after the other.
    pub(crate) fn script(&self, number: u64, acts: impl IntoIterator<Item = Act>) {
        self.nodes[Self::at(number)].script.lock().extend(acts);
    }

    /// From here on the node serves.
    pub(crate) fn forget_script(&self, number: u64) {
        self.nodes[Self::at(number)].script.lock().clear();
    }

    /// Ends a node as kill -9 would.
    pub(crate) fn kill(&mut self, number: u64) {
        self.nodes[Self::at(number)].process = None;
    }

    /// Starts a killed node again on its port.
    pub(crate) async fn restart(&mut self, number: u64) {
        let address = self.nodes[Self::at(number)].address;
        let listener = bind_again(address).await;
        self.run(number, listener);
    }

    /// Names a primary, or none, in a new epoch.
    pub(crate) fn promote(&self, primary: Option<u64>) {
        let version = self.map.load().version.0 + 1;
        self.map.store(Arc::new(self.map_with(version, primary)));
        for node in &self.nodes {
            if let Some((_, feed)) = &node.process {
                feed.changed();
            }
        }
    }

    fn map_with(&self, version: u64, primary: Option<u64>) -> ClusterMap {
        let addresses = self.nodes.iter().map(|n| Addresses {
            client: n.address.to_string(),
            ..Addresses::default()
        });
        map_of(version, primary, addresses.collect())
    }
}

/// A listener without TLS.
pub(crate) fn plain_listener() -> ListenerConfig {
    ListenerConfig {
        name: "test",
        connections_max: 100,
        handshake_timeout: Duration::from_secs(5),
        drain_timeout: Duration::from_secs(5),
        tls: None,
    }
}

/// Binds a port whose former owner may take a moment to go.
pub(crate) async fn bind_again(address: SocketAddr) -> std::net::TcpListener {
    for _ in 0..500 {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )
        .expect("socket");
        socket.set_reuse_address(true).expect("reuse");
        if socket.bind(&address.into()).is_ok() && socket.listen(128).is_ok() {
            return socket.into();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{address} did not become free");
}

/// A map with one partition over all nodes.
pub(crate) fn map_of(version: u64, primary: Option<u64>, addresses: Vec<Addresses>) -> ClusterMap {
    let members: Vec<Member> = (1..=addresses.len() as u64)
        .map(|number| Member {
            node: NodeId(number),
            replica: ReplicaId(number),
        })
        .collect();
    let nodes = members.iter().zip(addresses).map(|(member, addresses)| {
        let info = NodeInfo {
            id: member.node,
            uuid: format!("uuid-{}", member.node.0),
            incarnation: format!("incarnation-{}", member.node.0),
            name: format!("node-{}", member.node.0),
            addresses,
            zone: String::new(),
            weight: 100,
            standing: NodeStanding::Member,
            features: 0,
            changed_at: MapVersion(1),
        };
        (member.node, Arc::new(info))
    });
    ClusterMap {
        cluster_id: "fake".to_owned(),
        version: MapVersion(version),
        settings: None,
        nodes: nodes.collect(),
        coordinators: Vec::new(),
        partitions: vec![Arc::new(PartitionRecord {
            id: PartitionId(0),
            slots: SlotRange {
                first: 0,
                last: 16_383,
            },
            epoch: Epoch(version),
            revision: 0,
            config: Configuration {
                current: ReplicaSet {
                    write_quorum: 1,
                    members: members.clone(),
                },
                joint: None,
                learners: Vec::new(),
                readers: Vec::new(),
            },
            primary: primary
                .and_then(|n| members.iter().find(|m| m.node == NodeId(n)))
                .copied(),
            degraded: false,
            changed_at: MapVersion(version),
        })],
    }
}
