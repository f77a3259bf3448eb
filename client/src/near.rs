//! Keeps what it read ([`cairn_core::tracking`]), for reads that say how old it may be.
//!
//! One stream to each node that keys were read from: over it go the reads, what the node tells
//! to have changed, and its word that the rest is current. A stream that breaks takes what was
//! read over it along. Whatever cannot be had so is read as ever.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cairn_core::ids::Micros;
use cairn_core::kv::request::{Value, WriteOp};
use cairn_core::slots;
use cairn_core::tracking::{NearBounds, NearCache, Served, Source, Ticket};
use cairn_proto::kv::Consistency;
use cairn_proto::pb::near::v1::near_client::NearClient;
use cairn_proto::pb::near::v1::{
    Changed, Found, KeepReply, KeepRequest, Read, Refusal, keep_reply, keep_request,
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::client::{Client, Connections};
use crate::error::Error;
use crate::options::Options;
use crate::stats::{Counters, count};

/// How many requests wait for a stream; further reads go the usual way.
const REQUESTS_MAX: usize = 256;
/// How many keys are remembered that nodes say are not to be kept.
const NOT_KEPT_MAX: usize = 1024;
/// After a stream broke, or could not be opened, the next is tried no sooner.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// How much a near cache keeps, and how sure of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NearCacheOptions {
    /// The most keys.
    pub entries: usize,
    /// The most bytes of keys and values, about.
    pub bytes: usize,
    /// How often each node is asked to vouch for what was read from it: what is kept is
    /// no older than that and a round trip, as long as the node answers.
    pub vouch_every: Duration,
}

impl Default for NearCacheOptions {
    fn default() -> Self {
        Self {
            entries: 10_000,
            bytes: 16 << 20,
            vouch_every: Duration::from_millis(100),
        }
    }
}

/// A value, and how long ago it was the newest at the least.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Aged {
    /// The value, if the key exists.
    pub value: Option<Value>,
    /// No more time has passed since the value was the newest. Zero: it was while the call
    /// was made.
    pub age: Duration,
}

impl Client {
    /// The value of a key as it was no longer ago than `max_age`, which is answered from
    /// memory where [`Options::near_cache`] is set and keeps it. Without that, and where it
    /// keeps nothing so new, it is read from the primary.
    ///
    /// A value that this client wrote, and was acknowledged, is never answered from before
    /// that write.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn get_within(
        &self,
        key: impl Into<Bytes>,
        max_age: Duration,
    ) -> Result<Aged, Error> {
        let key = key.into();
        let inner = &self.inner;
        if let Some(near) = &inner.near.0 {
            if let Some(aged) = near.serve(&key, max_age) {
                return Ok(aged);
            }
            let map = inner.topology.map();
            let record = map.partition_of_slot(slots::slot(&key));
            let primary = record.and_then(|record| map.nodes.get(&record.primary?.node));
            let address = primary.map(|node| &node.addresses.client);
            if let Some(address) = address.filter(|address| !address.is_empty())
                && let Some(value) = near.read(address, &key).await
            {
                return Ok(Aged {
                    value,
                    age: Duration::ZERO,
                });
            }
        }
        let reading = self.read(key, Consistency::Primary).await?;
        Ok(Aged {
            value: reading.value,
            age: Duration::ZERO,
        })
    }
}

/// The near cache of a client, if it has one.
pub(crate) struct Near(Option<Arc<Keeping>>);

impl Near {
    pub(crate) fn new(
        options: &Options,
        connections: &Arc<Connections>,
        counters: &Arc<Counters>,
        shutdown: CancellationToken,
    ) -> Self {
        Self(options.near_cache.map(|near| {
            Arc::new(Keeping {
                cache: Mutex::new(NearCache::new(NearBounds {
                    entries: near.entries,
                    bytes: near.bytes,
                })),
                clock: Mutex::new(Clock::new()),
                links: Mutex::default(),
                not_kept: Mutex::default(),
                next: AtomicU64::new(1),
                vouch_every: near.vouch_every.max(Duration::from_millis(1)),
                patience: options.attempt_timeout,
                connections: Arc::clone(connections),
                counters: Arc::clone(counters),
                shutdown,
            })
        }))
    }

    /// What this client wrote is read anew.
    pub(crate) fn wrote(&self, op: &WriteOp) {
        if let Some(near) = &self.0 {
            let mut cache = near.cache.lock();
            op.keys().for_each(|key| cache.changed(key));
        }
    }
}

/// Time that never runs slower than any of two clocks: that of the process, which may stand
/// still while the machine sleeps, and the calendar, which may be set.
struct Clock {
    now: Micros,
    process: Instant,
    calendar: SystemTime,
}

impl Clock {
    fn new() -> Self {
        Self {
            now: Micros(0),
            process: Instant::now(),
            calendar: SystemTime::now(),
        }
    }

    fn advance(&mut self, process: Instant, calendar: SystemTime) -> Micros {
        let passed = process.saturating_duration_since(self.process);
        let by_calendar = calendar.duration_since(self.calendar).unwrap_or_default();
        (self.process, self.calendar) = (process, calendar);
        let passed = u64::try_from(passed.max(by_calendar).as_micros());
        self.now = self.now.plus(Micros(passed.unwrap_or(u64::MAX)));
        self.now
    }
}

/// See the module.
struct Keeping {
    cache: Mutex<NearCache>,
    clock: Mutex<Clock>,
    /// By address.
    links: Mutex<HashMap<String, Link>>,
    not_kept: Mutex<BTreeSet<Bytes>>,
    /// The next number of a stream, a read or a question.
    next: AtomicU64,
    vouch_every: Duration,
    patience: Duration,
    connections: Arc<Connections>,
    counters: Arc<Counters>,
    shutdown: CancellationToken,
}

/// The stream to a node.
enum Link {
    Opening,
    Open(Arc<Stream>),
    /// There is none until then.
    Broken(Instant),
}

/// An open stream.
struct Stream {
    source: Source,
    requests: mpsc::Sender<KeepRequest>,
    waiting: Mutex<HashMap<u64, Waiting>>,
}

/// A read that waits for its answer.
struct Waiting {
    key: Bytes,
    ticket: Option<Ticket>,
    answer: oneshot::Sender<Option<Value>>,
}

impl Keeping {
    fn now(&self) -> Micros {
        let mut clock = self.clock.lock();
        clock.advance(Instant::now(), SystemTime::now())
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    fn serve(&self, key: &[u8], max_age: Duration) -> Option<Aged> {
        let max_age = Micros(u64::try_from(max_age.as_micros()).unwrap_or(u64::MAX));
        let now = self.now();
        let served = self.cache.lock().serve(now, key, max_age);
        let served = served.filter(|served| !is_past(served.value.as_ref()));
        match served {
            Some(Served { value, age }) => {
                count(&self.counters.near_hits);
                let age = Duration::from_micros(age.0);
                Some(Aged { value, age })
            }
            None => {
                count(&self.counters.near_misses);
                None
            }
        }
    }

    /// Reads a key over the stream to a node. `None`: it is to be read in the usual way.
    async fn read(self: &Arc<Self>, address: &str, key: &Bytes) -> Option<Option<Value>> {
        let stream = self.stream(address)?;
        if self.not_kept.lock().contains(key) {
            return None;
        }
        // A slice would keep in memory whatever it is a slice of.
        let key = Bytes::copy_from_slice(key);
        let id = self.number();
        let (answer, answered) = oneshot::channel();
        // The moment is before the request leaves.
        let now = self.now();
        let ticket = self.cache.lock().ask(now, stream.source, &key)?;
        let waiting = Waiting {
            key: key.clone(),
            ticket: Some(ticket),
            answer,
        };
        stream.waiting.lock().insert(id, waiting);
        let read = keep_request::Request::Read(Read { id, key });
        let request = KeepRequest {
            request: Some(read),
        };
        let sent = stream.requests.try_send(request);
        let answer = match sent {
            Ok(()) => {
                let answered = timeout(self.patience, answered).await;
                answered.ok().and_then(Result::ok)
            }
            Err(_) => None,
        };
        if answer.is_none() && stream.waiting.lock().remove(&id).is_some() {
            self.cache.lock().give_up(ticket);
        }
        answer
    }

    /// The stream to a node, where it is open; it is opened otherwise.
    fn stream(self: &Arc<Self>, address: &str) -> Option<Arc<Stream>> {
        let mut links = self.links.lock();
        match links.get(address) {
            Some(Link::Open(stream)) => return Some(Arc::clone(stream)),
            Some(Link::Opening) => return None,
            Some(Link::Broken(until)) if Instant::now() < *until => return None,
            Some(Link::Broken(_)) | None => {}
        }
        links.insert(address.to_owned(), Link::Opening);
        let (this, address) = (Arc::clone(self), address.to_owned());
        tokio::spawn(async move {
            let shutdown = this.shutdown.clone();
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = this.keep(&address) => {}
            }
            let until = Instant::now() + AGAIN_AFTER;
            this.links.lock().insert(address, Link::Broken(until));
        });
        None
    }

    /// Opens a stream and follows it to its end.
    async fn keep(&self, address: &str) {
        let Ok(channel) = self.connections.channel(address) else {
            return;
        };
        let (requests, sent) = mpsc::channel(REQUESTS_MAX);
        let mut client = NearClient::new(channel);
        let opened = timeout(self.patience, client.keep(ReceiverStream::new(sent))).await;
        let replies = match opened {
            Ok(Ok(replies)) => replies.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(address, %status, "no stream for a near cache");
                return;
            }
            Err(_) => return,
        };
        let stream = Arc::new(Stream {
            source: Source(self.number()),
            requests,
            waiting: Mutex::default(),
        });
        self.cache.lock().opened(stream.source);
        // Whatever ends it, being cancelled too.
        let _closes = Closes {
            keeping: self,
            stream: &stream,
        };
        let open = Link::Open(Arc::clone(&stream));
        self.links.lock().insert(address.to_owned(), open);
        self.follow(&stream, replies).await;
    }

    async fn follow(&self, stream: &Stream, mut replies: Streaming<KeepReply>) {
        let mut ticks = interval(self.vouch_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The question that is not answered yet, and when it was put.
        let mut asked: Option<(u64, Micros, Instant)> = None;
        loop {
            tokio::select! {
                reply = replies.message() => {
                    let Ok(Some(KeepReply { reply: Some(reply) })) = reply else {
                        return;
                    };
                    match reply {
                        keep_reply::Reply::Found(found) => self.found(stream, found),
                        keep_reply::Reply::Changed(changed) => self.changed(stream, &changed),
                        keep_reply::Reply::Vouched(number) => {
                            if let Some((_, at, _)) = asked.take_if(|(own, ..)| *own == number) {
                                self.cache.lock().vouched(stream.source, at);
                            }
                        }
                    }
                }
                _ = ticks.tick() => match asked {
                    // A node that says nothing any more tells of no change either.
                    Some((_, _, since)) if since.elapsed() > 2 * self.patience => return,
                    Some(_) => {}
                    None => {
                        let (number, at) = (self.number(), self.now());
                        let vouch = keep_request::Request::Vouch(number);
                        let request = KeepRequest { request: Some(vouch) };
                        if stream.requests.try_send(request).is_ok() {
                            asked = Some((number, at, Instant::now()));
                        }
                    }
                },
            }
        }
    }

    fn found(&self, stream: &Stream, found: Found) {
        let Some(waiting) = stream.waiting.lock().remove(&found.id) else {
            return;
        };
        let Waiting {
            key,
            ticket,
            answer,
        } = waiting;
        let refusal = found.refusal();
        let value = found.value.map(Value::try_from).transpose();
        match (refusal, value) {
            (Refusal::None, Ok(value)) => {
                if let Some(ticket) = ticket {
                    self.cache.lock().answer(ticket, value.clone());
                }
                // Whoever asked may have given up.
                let _ = answer.send(value);
            }
            (refusal, _) => {
                if let Some(ticket) = ticket {
                    self.cache.lock().give_up(ticket);
                }
                if refusal == Refusal::NotKept {
                    let mut not_kept = self.not_kept.lock();
                    if not_kept.len() >= NOT_KEPT_MAX {
                        not_kept.clear();
                    }
                    not_kept.insert(key);
                }
            }
        }
    }

    fn changed(&self, stream: &Stream, changed: &Changed) {
        count(&self.counters.near_invalidations);
        let mut cache = self.cache.lock();
        if changed.all {
            cache.all(stream.source);
        }
        for key in &changed.keys {
            cache.changed(key);
        }
    }
}

/// Ends what was read over a stream with it.
struct Closes<'a> {
    keeping: &'a Keeping,
    stream: &'a Stream,
}

impl Drop for Closes<'_> {
    fn drop(&mut self) {
        self.keeping.cache.lock().closed(self.stream.source);
        // Their callers read in the usual way.
        self.stream.waiting.lock().clear();
    }
}

/// Whether the time of a value is past, by the calendar here: its deletion is on the way.
fn is_past(value: Option<&Value>) -> bool {
    let Some(at) = value.and_then(|value| value.expires_at) else {
        return false;
    };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.is_ok_and(|since| since.as_millis() >= u128::from(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_as_fast_as_the_faster_of_two_clocks() {
        let (process, calendar) = (Instant::now(), SystemTime::now());
        let mut clock = Clock {
            now: Micros(0),
            process,
            calendar,
        };
        let second = Duration::from_secs(1);
        let now = clock.advance(process + second, calendar + second);
        assert_eq!(now, Micros::from_millis(1000));
        // The machine slept.
        let now = clock.advance(process + second, calendar + 60 * second);
        assert_eq!(now, Micros::from_millis(60_000));
        // The calendar was set back.
        let now = clock.advance(process + 3 * second, calendar);
        assert_eq!(now, Micros::from_millis(62_000));
        let now = clock.advance(process + 3 * second, calendar + second);
        assert_eq!(now, Micros::from_millis(63_000));
    }
}
