//! A node of a made-up cluster that keeps its keys in memory, behind the Redis
//! listener: for tests and for measuring the listener alone.

use std::collections::{BTreeMap, HashMap};
use std::future::Ready;
use std::sync::Arc;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cairn_core::ids::{Epoch, Index, MapVersion, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::kv::request::{
    ReadLevel as KvReadLevel, RequestError, Value, WriteReply, WriteRequest,
};
use cairn_core::kv::{EntryBody, Evaluation, Evaluator, StoredValue, VersionedValue};
use cairn_core::record::{
    Addresses, ClusterMap, ClusterSettings, Configuration, Member, NodeInfo, NodeStanding,
    PartitionRecord, ReplicaSet,
};
use cairn_core::slots::range_of_partition;
use cairn_core::tracking::Change;
use cairn_node::resp::backend::{AskResult, Found, Question, ReadResult, WriteResult};
use futures::future::BoxFuture;
use tokio::sync::Notify;

use cairn_node::resp::{Backend, Facts, Figures, ReadTerms, Session, Started};
use cairn_node::store::KeyWatch;
use cairn_node::tracking::{Tracker, Watching};

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
                readers: Vec::new(),
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
            replace_after_ms: 300_000,
            moves_per_node: 4,
            counters: String::new(),
        })),
        nodes: (1..=nodes)
            .map(|node| (NodeId(node), Arc::new(info(node))))
            .collect::<BTreeMap<_, _>>(),
        partitions: records.collect(),
        coordinators: Vec::new(),
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
    keys: HashMap<Bytes, VersionedValue>,
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
    pub(crate) tracker: Arc<Tracker>,
}

impl Memory {
    pub(crate) fn new(answering: Answering) -> Self {
        Self {
            state: Mutex::default(),
            answering,
            map_changed: Arc::default(),
            tracker: Arc::new(Tracker::new(1 << 20)),
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

    /// Carries out the last of the writes that wait; returns how many there were.
    pub(crate) fn answer_last(&self) -> usize {
        let tracker = Arc::clone(&self.tracker);
        let mut state = self.state.lock().expect("no test panics with it");
        let Some((inbox, token, request)) = state.waiting.pop() else {
            return 0;
        };
        let result = state.write(&tracker, request);
        give(&inbox, token, result);
        1
    }

    /// Carries out so many of the writes that wait; returns how many there were.
    pub(crate) fn answer(&self, most: usize) -> usize {
        let tracker = Arc::clone(&self.tracker);
        let mut state = self.state.lock().expect("no test panics with it");
        let count = state.waiting.len().min(most);
        let due: Vec<_> = state.waiting.drain(..count).collect();
        for (inbox, token, request) in due {
            let result = state.write(&tracker, request);
            give(&inbox, token, result);
        }
        count
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn give(inbox: &Answers, token: u64, result: WriteResult) {
    let mut inbox = inbox.lock().expect("no test panics with it");
    inbox.answers.push((token, result));
    if let Some(waker) = inbox.waker.take() {
        waker.wake();
    }
}

impl State {
    fn write(&mut self, tracker: &Arc<Tracker>, request: WriteRequest) -> WriteResult {
        if let Some(error) = &self.refusal {
            return Err(error.clone());
        }
        // What a write means is decided by the very code that decides it in a primary;
        // here the store is never behind the log.
        let bases = |key: &Bytes| Some(self.keys.get(key).cloned());
        let evaluation = Evaluator::new(0).evaluate(wall_ms(), &request, &bases);
        let (body, outcome) = match evaluation {
            Evaluation::Propose { body, outcome } => (body, outcome),
            Evaluation::Refuse { outcome } => (EntryBody::default(), outcome),
            other => panic!("a Redis client's write needs nothing else: {other:?}"),
        };
        self.index += 1;
        let position = Position {
            epoch: Epoch(3),
            index: Index(self.index),
        };
        let mut changes = Vec::new();
        for (key, value) in body.writes {
            changes.push(Change {
                partition: PartitionId(0),
                key: key.clone(),
                version: value.as_ref().map(|_| position),
            });
            match value {
                None => {
                    self.keys.remove(&key);
                }
                Some(value) => {
                    let value = StoredValue {
                        data: Bytes::copy_from_slice(&value.data),
                        ..value
                    };
                    let stored = VersionedValue {
                        version: position,
                        value,
                    };
                    self.keys.insert(Bytes::copy_from_slice(&key), stored);
                }
            }
        }
        let tracker = Arc::clone(tracker);
        let watching = Watching {
            tracker,
            leads: |_| true,
        };
        watching.changed(&changes);
        Ok(WriteReply { outcome, position })
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
            expired_keys: 0,
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

    fn tracker(&self) -> Option<&Arc<Tracker>> {
        Some(&self.0.tracker)
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

    /// Pages of the keys in order; a cursor is how many came before.
    fn ask(&self, question: Question) -> BoxFuture<'static, AskResult> {
        let state = self.0.state.lock().expect("no test panics with it");
        let mut keys: Vec<Bytes> = state.keys.keys().cloned().collect();
        keys.sort_unstable();
        let found = match (&state.refusal, question) {
            (Some(error), _) => Err(error.clone()),
            (None, Question::Count) => Ok(Found::Count(keys.len() as u64)),
            (None, Question::Scan(scan)) => {
                let from = usize::try_from(scan.cursor).unwrap_or(usize::MAX);
                let to = from.saturating_add(scan.count);
                let cursor = if to < keys.len() { to as u64 } else { 0 };
                let page = keys.into_iter().skip(from).take(scan.count);
                Ok(Found::Page {
                    cursor,
                    keys: page.collect(),
                })
            }
        };
        Box::pin(std::future::ready(found))
    }

    fn read(&self, _: u16, key: &Bytes, terms: ReadTerms) -> Started<Ready<ReadResult>> {
        if let Some(reader) = terms.reader {
            self.0.tracker.remember(PartitionId(0), key, reader);
        }
        let state = self.0.state.lock().expect("no test panics with it");
        Started::Done(match &state.refusal {
            Some(error) => Err(error.clone()),
            None => Ok(state
                .keys
                .get(key)
                .filter(|stored| !stored.value.expired(wall_ms()))
                .map(|stored| {
                    let value = &stored.value;
                    Value::string(value.data.clone(), stored.version, value.expires_at)
                })),
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
        let result = state.write(&self.memory.tracker, request);
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
