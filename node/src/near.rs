//! The service `cairn.near.v1`: reads of clients that keep what they read, and are told when
//! it changes ([`crate::tracking`]).
//!
//! Everything of a client goes over one stream, in order: it is vouched for what it keeps
//! after it was told all that had changed by then.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::ids::PartitionId;
use cairn_core::kv::request::{ReadLevel, Value};
use cairn_core::tracking::Taken;
use cairn_proto::pb::near::v1::near_server::{self, Near, NearServer};
use cairn_proto::pb::near::v1::{
    Changed, Found, KeepReply, KeepRequest, Read, Refusal, keep_reply, keep_request,
};
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::counters::Counters;
use crate::grpc::caller_of;
use crate::partition::{Handle, ReadingResult, StartedReading};
use crate::tracking::{Mail, Reader, Scope};
use crate::users::Caller;

/// The name of the service.
pub(crate) const SERVICE: &str = near_server::SERVICE_NAME;

/// How many streams may be open on a node.
const STREAMS_MAX: usize = 4096;
/// How many reads of one stream may be under way; further ones are not taken yet.
const READS_MAX: usize = 32;
/// Longer values are not kept: they would take the room of many.
const VALUE_BYTES_MAX: usize = 64 << 10;
/// How many messages wait for a client that does not read; then it is not read from.
const WAITING_MAX: usize = 32;
/// How many keys stand in one message.
const KEYS_PER_MESSAGE: usize = 256;

/// The service.
#[derive(Clone, Debug)]
pub(crate) struct NearService {
    counters: Counters,
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

/// The service; its streams end with `shutdown`.
pub(crate) fn service(counters: Counters, shutdown: CancellationToken) -> NearServer<NearService> {
    NearServer::new(NearService {
        counters,
        places: Arc::new(Semaphore::new(STREAMS_MAX)),
        shutdown,
    })
}

#[tonic::async_trait]
impl Near for NearService {
    type KeepStream = ReceiverStream<Result<KeepReply, Status>>;

    async fn keep(
        &self,
        request: Request<Streaming<KeepRequest>>,
    ) -> Result<Response<Self::KeepStream>, Status> {
        let caller = caller_of(request.extensions());
        if !caller.is_let_in() {
            return Err(Status::unauthenticated("who calls is not known"));
        }
        let place = Arc::clone(&self.places).try_acquire_owned();
        let place = place.map_err(|_| {
            Status::resource_exhausted(format!(
                "{STREAMS_MAX} clients keep keys of this node already: read by `Get`"
            ))
        })?;
        let mail = Arc::new(Mail::default());
        let handle = self.counters.handle();
        let tracker = handle.tracker();
        let reader = tracker.open(Scope::Read, false, Arc::clone(&mail));
        let (told, tell) = mpsc::channel(WAITING_MAX);
        let keeping = Keeping {
            handle: handle.clone(),
            counters: self.counters.clone(),
            caller,
            mail,
            reader,
            reads: FuturesUnordered::new(),
            vouching: None,
            asked: None,
            told,
            _place: place,
        };
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = keeping.run(request.into_inner()) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(tell)))
    }
}

/// The client does not listen any more.
struct Gone;

type PendingRead = BoxFuture<'static, (u64, ReadingResult)>;
/// The number of a question, and the partitions that nobody vouches for.
type PendingVouch = Pin<Box<dyn Future<Output = (u64, Vec<PartitionId>)> + Send>>;

/// A client that keeps what it reads.
struct Keeping {
    handle: Handle,
    counters: Counters,
    caller: Caller,
    mail: Arc<Mail>,
    reader: Reader,
    reads: FuturesUnordered<PendingRead>,
    vouching: Option<PendingVouch>,
    /// A question that waits for the one before it.
    asked: Option<u64>,
    told: mpsc::Sender<Result<KeepReply, Status>>,
    _place: OwnedSemaphorePermit,
}

impl Keeping {
    async fn run(mut self, mut requests: Streaming<KeepRequest>) {
        loop {
            let vouched = async {
                match &mut self.vouching {
                    Some(vouching) => vouching.await,
                    None => std::future::pending().await,
                }
            };
            let done = tokio::select! {
                biased;
                post = poll_fn(|context| self.mail.poll_take(context)) => self.pass_on(post).await,
                Some((id, result)) = self.reads.next() => self.found(id, result).await,
                (number, doubted) = vouched => {
                    for partition in doubted {
                        self.reader.doubt(partition);
                    }
                    // Behind all that it was told by now.
                    self.mail.vouch(number);
                    self.vouching = None;
                    if let Some(number) = self.asked.take() {
                        self.vouch(number);
                    }
                    Ok(())
                }
                request = requests.message(), if self.reads.len() < READS_MAX => match request {
                    Ok(Some(KeepRequest { request: Some(request) })) => self.take(request).await,
                    // A newer client asks for something else.
                    Ok(Some(KeepRequest { request: None })) => Ok(()),
                    Ok(None) | Err(_) => Err(Gone),
                },
            };
            if done.is_err() {
                return;
            }
        }
    }

    async fn send(&mut self, reply: keep_reply::Reply) -> Result<(), Gone> {
        let reply = KeepReply { reply: Some(reply) };
        self.told.send(Ok(reply)).await.map_err(|_| Gone)
    }

    async fn pass_on(&mut self, post: Taken) -> Result<(), Gone> {
        let Taken { all, keys, vouched } = post;
        if all {
            let changed = Changed {
                keys: Vec::new(),
                all,
            };
            self.send(keep_reply::Reply::Changed(changed)).await?;
        }
        for keys in keys.chunks(KEYS_PER_MESSAGE) {
            let changed = Changed {
                keys: keys.iter().map(|(key, _)| key.clone()).collect(),
                all: false,
            };
            self.send(keep_reply::Reply::Changed(changed)).await?;
        }
        if let Some(number) = vouched {
            self.send(keep_reply::Reply::Vouched(number)).await?;
        }
        Ok(())
    }

    async fn take(&mut self, request: keep_request::Request) -> Result<(), Gone> {
        match request {
            keep_request::Request::Vouch(number) => {
                if self.vouching.is_some() {
                    self.asked = Some(number);
                } else {
                    self.vouch(number);
                }
                Ok(())
            }
            keep_request::Request::Read(Read { id, key }) => self.read(id, key).await,
        }
    }

    fn vouch(&mut self, number: u64) {
        let handle = self.handle.clone();
        let partitions = self.reader.partitions();
        self.vouching = Some(Box::pin(async move {
            let all = partitions.into_iter().map(|partition| {
                let handle = handle.clone();
                async move { (partition, handle.vouches(partition).await) }
            });
            let looked = futures::future::join_all(all).await;
            let doubted = looked.into_iter().filter(|(_, vouches)| !vouches);
            (number, doubted.map(|(partition, _)| partition).collect())
        }));
    }

    async fn read(&mut self, id: u64, key: Bytes) -> Result<(), Gone> {
        self.caller.refresh();
        let permissions = self.caller.permissions();
        // Whoever may not read it, and whatever is no key, is told so by `Get`.
        if cairn_proto::kv::check_key(&key).is_err()
            || !permissions.is_some_and(|own| own.may_read(&key))
        {
            return self.refuse(id, Refusal::Elsewhere).await;
        }
        let Ok(partition) = self.handle.partition_of(&key) else {
            return self.refuse(id, Refusal::Elsewhere).await;
        };
        // A striped counter is added to elsewhere, and nobody here hears of that.
        if self.counters.stripes(&key).is_some() {
            return self.refuse(id, Refusal::NotKept).await;
        }
        self.reader.remember(partition, &key);
        let level = ReadLevel::Primary;
        match self.handle.start_read_at(partition, &key, level) {
            StartedReading::Done(result) => self.found(id, result).await,
            StartedReading::Waiting(read) => {
                self.reads.push(Box::pin(async move { (id, read.await) }));
                Ok(())
            }
        }
    }

    async fn refuse(&mut self, id: u64, refusal: Refusal) -> Result<(), Gone> {
        let found = Found {
            id,
            value: None,
            refusal: refusal.into(),
        };
        self.send(keep_reply::Reply::Found(found)).await
    }

    async fn found(&mut self, id: u64, result: ReadingResult) -> Result<(), Gone> {
        let value: Option<Value> = match result {
            Err(_) => return self.refuse(id, Refusal::Elsewhere).await,
            Ok(reading) => reading.value,
        };
        if value
            .as_ref()
            .is_some_and(|v| v.data.len() > VALUE_BYTES_MAX)
        {
            return self.refuse(id, Refusal::NotKept).await;
        }
        let found = Found {
            id,
            value: value.map(Into::into),
            refusal: Refusal::None.into(),
        };
        self.send(keep_reply::Reply::Found(found)).await
    }
}
