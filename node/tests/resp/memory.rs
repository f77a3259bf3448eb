//! A node of a made-up cluster that keeps its keys in memory, behind the Redis
//! listener: for tests and for measuring the listener alone.

use std::collections::{BTreeMap, HashMap};
use std::future::Ready;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, MapVersion, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::kv::request::{
    Condition, Expiry, ReadLevel as KvReadLevel, RequestError, Value, WriteOp, WriteOutcome,
    WriteReply, WriteRequest,
};
use cairn_core::record::{
    Addresses, ClusterMap, ClusterSettings, Configuration, Member, NodeInfo, NodeStanding,
    PartitionRecord, ReplicaSet,
};
use cairn_core::slots::range_of_partition;
use cairn_node::resp::backend::{ReadResult, WriteResult};
use futures::future::BoxFuture;
use tokio::sync::Notify;

use cairn_node::resp::{Backend, Facts, Figures, ReadLevel, Session, Started};

/// The node behind the listener.
pub(crate) const HERE: NodeId = NodeId(1);

/// A map of `nodes` nodes on ports from `port` on. `primaries` names the primary of
/// each partition, in turn; the two nodes after it hold the replicas.
pub(crate) fn cluster_map(nodes: u64, port: u16, primaries: &[Option<u64>]) -> ClusterMap {
    let member = |node: u64, partition: u32| Member {
        node: NodeId(node),
        replica: ReplicaId(u64::from(partition) * 100 + node),
    };
    let after = |node: u64, by: u64| (node - 1 + by) % nodes + 1;
    let partitions = primaries.len() as u32;
    let records = (0..partitions).map(|id| {
        let primary = primaries[id as usize];
        let first = primary.unwrap_or(1);
        Arc::new(PartitionRecord {
            id: PartitionId(id),
            slots: range_of_partition(id, partitions),
            epoch: Epoch(3),
            revision: 1,
            config: Configuration {
                current: ReplicaSet {
                    members: (0..nodes.min(3))
                        .map(|by| member(after(first, by), id))
                        .collect(),
                    write_quorum: 2,
                },
                joint: None,
                learners: Vec::new(),
            },
            primary: primary.map(|node| member(node, id)),
            degraded: false,
            changed_at: MapVersion(9),
        })
    });
    let info = |node: u64| NodeInfo {
        id: NodeId(node),
        uuid: format!("00000000-0000-4000-8000-{node:012}"),
        incarnation: String::new(),
        name: format!("data-{node}"),
        addresses: Addresses {
            resp: format!("127.0.0.1:{}", u64::from(port) + node - 1),
            peer: format!("127.0.0.1:{}", 7400 + node),
            ..Addresses::default()
        },
        zone: String::new(),
        weight: 100,
        standing: NodeStanding::Member,
        features: 0,
        changed_at: MapVersion(1),
    };
    ClusterMap {
        cluster_id: "test".to_owned(),
        version: MapVersion(9),
        settings: Some(Arc::new(ClusterSettings {
            replication_factor: 3,
            write_quorum: 2,
            min_in_sync: 2,
            partitions,
            virtual_nodes: 64,
            initial_data_nodes: nodes as u32,
            lease_ms: 500,
            lease_ms_longest: 500,
            idempotence_window: 64,
            node_timeout_ms: 1000,
            read_level: KvReadLevel::Primary,
            read_quorum: 0,
        })),
        nodes: (1..=nodes)
            .map(|node| (NodeId(node), Arc::new(info(node))))
            .collect::<BTreeMap<_, _>>(),
        partitions: records.collect(),
    }
}

/// How writes are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answering {
    /// At once.
    AtOnce,
    /// When the test says so.
    WhenTold,
}

type Answers = Arc<Mutex<Inbox>>;

#[derive(Default)]
struct Inbox {
    answers: Vec<(u64, WriteResult)>,
    waker: Option<Waker>,
}

#[derive(Default)]
struct State {
    keys: HashMap<Bytes, Value>,
    index: u64,
    /// What every request is refused with, where it is.
    refusal: Option<RequestError>,
    /// Writes that wait to be told, in order.
    waiting: Vec<(Answers, u64, WriteRequest)>,
    started: u64,
}

/// Keys in memory.
pub(crate) struct Memory {
    state: Mutex<State>,
    answering: Answering,
    map_changed: Arc<Notify>,
}

impl Memory {
    pub(crate) fn new(answering: Answering) -> Self {
        Self {
            state: Mutex::default(),
            answering,
            map_changed: Arc::default(),
        }
    }

    /// Refuses everything from now on, or nothing.
    pub(crate) fn refuse(&self, error: Option<RequestError>) {
        self.state.lock().expect("no test panics with it").refusal = error;
    }

    /// Says that a newer map came.
    pub(crate) fn map_changed(&self) {
        self.map_changed.notify_waiters();
    }

    /// How many writes were started.
    pub(crate) fn started(&self) -> u64 {
        self.state.lock().expect("no test panics with it").started
    }

    /// Carries out so many of the writes that wait; returns how many there were.
    pub(crate) fn answer(&self, most: usize) -> usize {
        let mut state = self.state.lock().expect("no test panics with it");
        let count = state.waiting.len().min(most);
        let due: Vec<_> = state.waiting.drain(..count).collect();
        for (inbox, token, request) in due {
            let result = state.write(request);
            give(&inbox, token, result);
        }
        count
    }
}

fn is_expired(value: &Value) -> bool {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_millis());
    value.expires_at.is_some_and(|at| u128::from(at) <= now)
}

fn give(inbox: &Answers, token: u64, result: WriteResult) {
    let mut inbox = inbox.lock().expect("no test panics with it");
    inbox.answers.push((token, result));
    if let Some(waker) = inbox.waker.take() {
        waker.wake();
    }
}

impl State {
    fn write(&mut self, request: WriteRequest) -> WriteResult {
        if let Some(error) = &self.refusal {
            return Err(error.clone());
        }
        self.index += 1;
        for key in request.op.keys() {
            if self.keys.get(key).is_some_and(is_expired) {
                self.keys.remove(key);
            }
        }
        let position = Position {
            epoch: Epoch(3),
            index: Index(self.index),
        };
        let outcome = match request.op {
            WriteOp::Set {
                key,
                value,
                condition,
                expiry,
                return_previous,
            } => {
                let before = self.keys.get(&key).cloned();
                let previous = before
                    .as_ref()
                    .filter(|_| return_previous)
                    .map(|value| value.data.clone());
                let holds = match condition {
                    Condition::Always => true,
                    Condition::Absent => before.is_none(),
                    Condition::Present => before.is_some(),
                    Condition::Version(version) => {
                        before.as_ref().map(|value| value.version) == Some(version)
                    }
                };
                if holds {
                    let expires_at = match expiry {
                        Expiry::Never => None,
                        Expiry::Keep => before.and_then(|value| value.expires_at),
                        Expiry::AtMillis(at) => Some(at),
                    };
                    let stored = Value {
                        data: Bytes::copy_from_slice(&value),
                        version: position,
                        expires_at,
                    };
                    self.keys.insert(Bytes::copy_from_slice(&key), stored);
                    WriteOutcome::Set { previous }
                } else {
                    WriteOutcome::ConditionFailed {
                        version: before.map(|value| value.version),
                        previous,
                    }
                }
            }
            WriteOp::Delete { keys, .. } => WriteOutcome::Deleted {
                count: keys
                    .iter()
                    .filter(|key| self.keys.remove(*key).is_some())
                    .count() as u64,
            },
            WriteOp::Increment { key, delta } => self.increment(&key, delta, position),
        };
        Ok(WriteReply { outcome, position })
    }

    fn increment(&mut self, key: &Bytes, delta: i64, version: Position) -> WriteOutcome {
        let before = match self.keys.get(key) {
            None => Some(0),
            Some(value) => std::str::from_utf8(&value.data)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .filter(|number| number.to_string().as_bytes() == &value.data[..]),
        };
        let Some(before) = before else {
            return WriteOutcome::NotAnInteger;
        };
        let Some(after) = before.checked_add(delta) else {
            return WriteOutcome::Overflow;
        };
        let value = Value {
            data: Bytes::from(after.to_string()),
            version,
            expires_at: None,
        };
        self.keys.insert(Bytes::copy_from_slice(key), value);
        WriteOutcome::Integer(after)
    }
}

impl Facts for Memory {
    fn node(&self) -> Option<NodeId> {
        Some(HERE)
    }

    fn figures(&self) -> Figures {
        let keys = self
            .state
            .lock()
            .expect("no test panics with it")
            .keys
            .len();
        Figures {
            keys: Some(keys as u64),
            disk_full: false,
        }
    }
}

/// A handle of [`Memory`] that the listener owns.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Memory>);

impl Facts for Shared {
    fn node(&self) -> Option<NodeId> {
        self.0.node()
    }

    fn figures(&self) -> Figures {
        self.0.figures()
    }
}

impl Backend for Shared {
    type Session = Writes;
    type Read = Ready<ReadResult>;

    fn session(&self) -> Writes {
        Writes {
            memory: Arc::clone(&self.0),
            inbox: Arc::default(),
        }
    }

    fn map_changed(&self) -> Option<BoxFuture<'static, ()>> {
        let mut changed = Box::pin(Arc::clone(&self.0.map_changed).notified_owned());
        changed.as_mut().enable();
        Some(changed)
    }

    fn read(&self, _: u16, key: &Bytes, _: ReadLevel) -> Started<Ready<ReadResult>> {
        let state = self.0.state.lock().expect("no test panics with it");
        Started::Done(match &state.refusal {
            Some(error) => Err(error.clone()),
            None => Ok(state
                .keys
                .get(key)
                .filter(|value| !is_expired(value))
                .cloned()),
        })
    }
}

/// The writes of one connection.
pub(crate) struct Writes {
    memory: Arc<Memory>,
    inbox: Answers,
}

impl Session for Writes {
    fn write(&mut self, _: u16, token: u64, request: WriteRequest) {
        let mut state = self.memory.state.lock().expect("no test panics with it");
        state.started += 1;
        if self.memory.answering == Answering::WhenTold {
            state
                .waiting
                .push((Arc::clone(&self.inbox), token, request));
            return;
        }
        let result = state.write(request);
        give(&self.inbox, token, result);
    }

    fn poll_answers(&mut self, context: &mut Context<'_>) -> Poll<Vec<(u64, WriteResult)>> {
        let mut inbox = self.inbox.lock().expect("no test panics with it");
        if inbox.answers.is_empty() {
            inbox.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(std::mem::take(&mut inbox.answers))
    }
}
