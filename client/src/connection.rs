//! One pipelined connection to one node, shared by every call to it.
//!
//! Calls wait in a queue; the open stream takes all that wait as one message. The
//! connection is made when there is a call for it, and again by the first call after
//! it broke. A call that is answered with an error tells whether it was sent: one
//! that was not has surely changed nothing.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use cairn_core::ids::{MapVersion, PartitionId};
use cairn_core::record::ClusterMap;
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_client::KvClient;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;

use crate::load::Load;
use crate::stats::{Counters, count};
use crate::topology::SharedMap;
use crate::trace;
use crate::transport::Dialer;

/// About how many bytes of calls travel in one message.
const MESSAGE_BYTES: usize = 1 << 20;
/// How often attempts are looked at that may have taken too long.
const SWEEP: Duration = Duration::from_millis(50);

/// Why a call on a connection has no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Lost {
    /// Whether the node may have received the call.
    pub(crate) sent: bool,
    /// What happened.
    pub(crate) why: Why,
}

/// What happened to a call without an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Why {
    /// The connection could not be made or broke.
    Connection(Arc<str>),
    /// The node does not let this client in, and took no call.
    Denied(Arc<str>),
    /// There was no answer in time.
    Timeout,
    /// The map names another primary for the partition.
    Superseded,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(reason) | Self::Denied(reason) => f.write_str(reason),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Superseded => f.write_str("another node became primary"),
        }
    }
}

/// How a call came to its address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Routed {
    /// The partition of its key.
    pub(crate) partition: PartitionId,
    /// The map that routed it.
    pub(crate) version: MapVersion,
    /// Whether it is the primary's to answer, and given up where another is named.
    pub(crate) to_primary: bool,
}

/// The answer to a call.
pub(crate) type Answered = Result<pb::answer::Reply, Lost>;

/// A connection to one address.
#[derive(Clone)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    address: String,
    dialer: Dialer,
    map: SharedMap,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
    room: Semaphore,
    load: Load,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Whether a task keeps, or makes, the connection.
    driven: bool,
    next_id: u64,
    /// Calls below this id were taken by a stream: they may have been sent.
    taken_below: u64,
    queue: Vec<pb::Call>,
    waiting: HashMap<u64, Waiting>,
    waker: Option<Waker>,
    /// Raised when a stream breaks, which ends its sending half.
    stream: u64,
}

struct Waiting {
    reply: oneshot::Sender<Answered>,
    partition: PartitionId,
    to_primary: bool,
    until: Instant,
}

impl State {
    fn fail(&self, id: u64, waiting: Waiting, why: Why) {
        // Nobody may be waiting any more.
        let _ = waiting.reply.send(Err(Lost {
            sent: id < self.taken_below,
            why,
        }));
    }

    fn fail_where(&mut self, which: impl Fn(&Waiting) -> bool, why: &Why) -> usize {
        let failed: Vec<u64> = self
            .waiting
            .iter()
            .filter(|(_, w)| which(w))
            .map(|(id, _)| *id)
            .collect();
        for id in &failed {
            if let Some(waiting) = self.waiting.remove(id) {
                self.fail(*id, waiting, why.clone());
            }
        }
        // What was not sent must not be sent later: its caller was told so.
        if !failed.is_empty() {
            let waiting = &self.waiting;
            self.queue.retain(|call| waiting.contains_key(&call.id));
        }
        failed.len()
    }
}

impl Connection {
    pub(crate) fn new(
        address: String,
        dialer: Dialer,
        map: SharedMap,
        in_flight_max: usize,
        counters: Arc<Counters>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                address,
                dialer,
                map,
                counters,
                shutdown,
                room: Semaphore::new(in_flight_max.clamp(1, Semaphore::MAX_PERMITS)),
                load: Load::default(),
                state: Mutex::default(),
            }),
        }
    }

    /// About how long another call would take.
    pub(crate) fn cost(&self) -> u64 {
        self.shared.load.cost(Instant::now())
    }

    /// Makes one call, and waits for its answer, at most until `until`.
    pub(crate) async fn call(
        &self,
        routed: Routed,
        request: pb::call::Request,
        until: Instant,
    ) -> Answered {
        let shared = &self.shared;
        let _room = match shared.room.try_acquire() {
            Ok(room) => room,
            Err(_) => tokio::time::timeout_at(until.into(), shared.room.acquire())
                .await
                .ok()
                .and_then(Result::ok)
                .ok_or(Lost {
                    sent: false,
                    why: Why::Timeout,
                })?,
        };
        let mut under_way = shared.load.begin();
        let Routed {
            partition,
            version,
            to_primary,
        } = routed;
        let (reply, answer) = oneshot::channel();
        let traceparent = trace::current();
        let (id, waker) = {
            let mut state = shared.state.lock();
            // A newer map may have come while the call waited for room, or between
            // its routing and now: then nobody would take it out again. The map is
            // replaced before [`Self::supersede`] takes this lock: either the new one
            // is seen here, or the call is seen there.
            let map = shared.map.load();
            if to_primary && map.version > version && shared.is_elsewhere(partition, &map) {
                count(&shared.counters.superseded);
                return Err(Lost {
                    sent: false,
                    why: Why::Superseded,
                });
            }
            let id = state.next_id;
            state.next_id += 1;
            state.queue.push(pb::Call {
                id,
                request: Some(request),
                traceparent,
            });
            let waiting = Waiting {
                reply,
                partition,
                to_primary,
                until,
            };
            state.waiting.insert(id, waiting);
            if !state.driven {
                state.driven = true;
                tokio::spawn(drive(Arc::clone(shared)));
            }
            (id, state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        let mut abandoned = Abandon {
            shared,
            id,
            done: false,
        };
        let answered = answer.await.unwrap_or(Err(Lost {
            sent: true,
            why: Why::Connection("the client was closed".into()),
        }));
        abandoned.done = true;
        if matches!(answered, Ok(pb::answer::Reply::Error(_))) {
            under_way.refuse();
        }
        answered
    }

    /// Gives up calls for partitions that changed and are now served elsewhere.
    pub(crate) fn supersede(&self, changed: &[PartitionId], map: &ClusterMap) {
        let failed = self.shared.state.lock().fail_where(
            |w| {
                w.to_primary
                    && changed.contains(&w.partition)
                    && self.shared.is_elsewhere(w.partition, map)
            },
            &Why::Superseded,
        );
        self.shared
            .counters
            .superseded
            .fetch_add(failed as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Shared {
    /// Whether the map names a primary of the partition at another address.
    fn is_elsewhere(&self, partition: PartitionId, map: &ClusterMap) -> bool {
        let primary = map
            .partitions
            .get(partition.0 as usize)
            .and_then(|p| p.primary);
        let address = primary
            .and_then(|p| map.nodes.get(&p.node))
            .map(|n| n.addresses.client.as_str());
        address.is_some_and(|a| !a.is_empty() && a != self.address)
    }
}

/// Forgets a call whose caller went away.
struct Abandon<'a> {
    shared: &'a Shared,
    id: u64,
    done: bool,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.state.lock().waiting.remove(&self.id);
        }
    }
}

/// Makes the connection, keeps it until it breaks, and fails what then waits.
async fn drive(shared: Arc<Shared>) {
    let ended = tokio::select! {
        () = shared.shutdown.cancelled() => End::Broken("the client was closed".to_owned()),
        ended = run(&shared) => ended,
    };
    debug!(address = shared.address, reason = ?ended, "connection ended");
    count(&shared.counters.connections_lost);
    let waker = {
        let mut state = shared.state.lock();
        let why = match ended {
            End::Broken(reason) => Why::Connection(format!("{}: {reason}", shared.address).into()),
            End::Denied(reason) => {
                // Calls were given to a stream that was refused as a whole.
                state.taken_below = 0;
                Why::Denied(format!("{}: {reason}", shared.address).into())
            }
        };
        state.fail_where(|_| true, &why);
        state.queue = Vec::new();
        state.stream += 1;
        state.driven = false;
        state.waker.take()
    };
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// How a connection ended.
#[derive(Debug)]
enum End {
    Broken(String),
    /// The node does not let this client in: it took nothing from the stream.
    Denied(String),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::Unauthenticated => Self::Denied(reason),
            _ => Self::Broken(reason),
        }
    }
}

/// Runs one connection to its end and says why it ended.
async fn run(shared: &Arc<Shared>) -> End {
    let mut sweep = interval(SWEEP);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let opening = open(shared);
    let mut opening = std::pin::pin!(opening);
    let mut answers = loop {
        tokio::select! {
            opened = &mut opening => match opened {
                Ok(answers) => break answers,
                Err(reason) => return reason,
            },
            _ = sweep.tick() => sweep_late(shared),
        }
    };
    count(&shared.counters.connects);
    loop {
        tokio::select! {
            message = answers.message() => match message {
                Ok(Some(pb::Answers { answers })) => take(shared, answers),
                Ok(None) => return End::Broken("closed by the node".to_owned()),
                Err(status) => return End::Broken(status.message().to_owned()),
            },
            _ = sweep.tick() => sweep_late(shared),
        }
    }
}

async fn open(shared: &Arc<Shared>) -> Result<tonic::Streaming<pb::Answers>, End> {
    let channel = shared
        .dialer
        .dial(&shared.address)
        .await
        .map_err(|e| End::Broken(e.to_string()))?;
    let number = shared.state.lock().stream;
    let calls = Calls {
        shared: Arc::clone(shared),
        number,
    };
    let mut client = KvClient::new(channel)
        .max_encoding_message_size(limits::CLIENT_MESSAGE_BYTES)
        .max_decoding_message_size(limits::CLIENT_MESSAGE_BYTES);
    let within = shared.dialer.connect_timeout;
    tokio::time::timeout(within, client.pipeline(calls))
        .await
        .map_err(|_| End::Broken(format!("no answer within {within:?}")))?
        .map(tonic::Response::into_inner)
        .map_err(End::from)
}

fn take(shared: &Shared, answers: Vec<pb::Answer>) {
    let mut state = shared.state.lock();
    for pb::Answer { id, reply } in answers {
        // An answer to a call that was given up has nobody to go to.
        let Some(waiting) = state.waiting.remove(&id) else {
            continue;
        };
        let answered = reply.ok_or_else(|| Lost {
            sent: true,
            why: Why::Connection("the node sent an empty answer".into()),
        });
        let _ = waiting.reply.send(answered);
    }
}

fn sweep_late(shared: &Shared) {
    let now = Instant::now();
    let late = shared
        .state
        .lock()
        .fail_where(|w| w.until <= now, &Why::Timeout);
    shared
        .counters
        .timeouts
        .fetch_add(late as u64, std::sync::atomic::Ordering::Relaxed);
}

/// The calls of one stream, in as few messages as may be.
struct Calls {
    shared: Arc<Shared>,
    number: u64,
}

impl Stream for Calls {
    type Item = pb::Calls;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<pb::Calls>> {
        let mut state = self.shared.state.lock();
        if state.stream != self.number {
            return Poll::Ready(None);
        }
        let mut bytes = 0;
        let mut count = 0;
        for call in &state.queue {
            if count > 0 && (bytes >= MESSAGE_BYTES || count >= limits::PIPELINE_CALLS) {
                break;
            }
            bytes += weight(call);
            count += 1;
        }
        if count == 0 {
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                none => *none = Some(context.waker().clone()),
            }
            return Poll::Pending;
        }
        let calls: Vec<pb::Call> = if count == state.queue.len() {
            std::mem::take(&mut state.queue)
        } else {
            state.queue.drain(..count).collect()
        };
        if let Some(last) = calls.last() {
            state.taken_below = last.id + 1;
        }
        Poll::Ready(Some(pb::Calls { calls }))
    }
}

/// About how many bytes a call takes.
fn weight(call: &pb::Call) -> usize {
    use pb::call::Request;
    const SMALL: usize = 64;
    SMALL
        + match &call.request {
            Some(Request::Put(put)) => put.key.len() + put.value.len(),
            Some(Request::Get(get)) => get.key.len(),
            Some(Request::Delete(delete)) => delete.key.len(),
            Some(Request::Increment(increment)) => increment.key.len(),
            Some(Request::Batch(batch)) => batch
                .operations
                .iter()
                .map(|operation| SMALL + operation.key.len() + value_bytes(operation))
                .sum(),
            None => 0,
        }
}

fn value_bytes(operation: &pb::BatchOperation) -> usize {
    match &operation.action {
        Some(pb::batch_operation::Action::Put(put)) => put.value.len(),
        _ => 0,
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
