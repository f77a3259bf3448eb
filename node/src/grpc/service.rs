//! The service `cairn.kv.v1.Kv`.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use cairn_core::counters::StripeName;
use cairn_core::counters::name::is_reserved;
use cairn_core::kv::request::{ReadLevel, RequestError, WriteOp};
use cairn_core::record::ClusterMap;
use cairn_proto::Malformed;
use cairn_proto::kv::{Consistency, KvError, ReadRequest};
use cairn_proto::levels::{LeveledWrite, ReplicaState};
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::pb::kv::v1::kv_server;
use cairn_proto::trace::{self, SpanContext};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::answers::{Answers, Sent};
use super::authenticate::caller_of;
use super::backend::{KvBackend, ReadResult, StartedRead, WriteQueue, WriteResult};
use super::intake::FREE_BYTES;
use super::patience::Call;
use super::pipeline::Pipeline;
use crate::budget::Room;
use crate::partition::{LocalState, Reading};
use crate::side::Side;
use crate::trace::{Span, Tracer};
use crate::users::{Caller, Permissions, Users};

/// The bounds of keys and values, and of what one pipeline may make wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KvLimits {
    /// The longest key, in bytes; never above [`limits::KEY_BYTES`].
    pub key_bytes_max: usize,
    /// The longest value, in bytes; never above [`limits::VALUE_BYTES`].
    pub value_bytes_max: usize,
    /// The most calls of one pipeline that wait for their answer.
    pub pipeline_calls_max: usize,
    /// How many bytes of answers one pipeline may leave unread before no more of
    /// its calls are started.
    pub pipeline_answer_bytes_max: usize,
}

impl Default for KvLimits {
    fn default() -> Self {
        Self {
            key_bytes_max: limits::KEY_BYTES,
            value_bytes_max: limits::VALUE_BYTES,
            pipeline_calls_max: 16_384,
            pipeline_answer_bytes_max: 4 << 20,
        }
    }
}

/// Serves clients from a [`KvBackend`].
#[derive(Clone, Debug)]
pub struct KvServer<B> {
    pub(super) backend: B,
    pub(super) limits: KvLimits,
    side: Side,
    pub(super) tracer: Tracer,
    shutdown: CancellationToken,
}

impl<B: KvBackend> KvServer<B> {
    /// Pipelines end with `shutdown`, once what they started was answered.
    #[must_use]
    pub fn new(backend: B, limits: KvLimits, shutdown: CancellationToken) -> Self {
        Self {
            tracer: backend.tracer(),
            backend,
            limits,
            side: Side::Inside,
            shutdown,
        }
    }

    /// The same as clients of that side are told it.
    #[must_use]
    pub(crate) fn on(self, side: Side) -> Self {
        Self { side, ..self }
    }

    /// The service for tonic's router.
    #[must_use]
    pub fn into_server(self) -> kv_server::KvServer<Self> {
        kv_server::KvServer::new(self)
            .max_decoding_message_size(limits::CLIENT_MESSAGE_BYTES)
            .max_encoding_message_size(limits::CLIENT_MESSAGE_BYTES)
    }

    /// Checks a write against the settings and the caller's permissions, and starts
    /// nothing.
    pub(super) fn admit<R>(&self, request: R, caller: &Caller) -> Result<LeveledWrite, KvError>
    where
        LeveledWrite: TryFrom<R, Error = Malformed>,
    {
        let write = LeveledWrite::try_from(request)?;
        for key in write.request.op.keys() {
            self.check_key(key)?;
            let named = match &write.request.op {
                // A stripe of a counter: whoever may write the counter may add to it.
                WriteOp::Increment { key, .. } => StripeName::parse(key),
                _ => None,
            };
            let key = match &named {
                Some(stripe) => &stripe.counter,
                None => unreserved(key)?,
            };
            permit(caller, |own| own.may_write(key), "write this key")?;
        }
        for value in write.request.op.values() {
            within("value", value.len(), self.limits.value_bytes_max)?;
        }
        Ok(write)
    }

    /// Checks a read against the settings and the caller's permissions.
    pub(super) fn admit_read(
        &self,
        request: pb::GetRequest,
        caller: &Caller,
    ) -> Result<ReadRequest, KvError> {
        let request = ReadRequest::try_from(request)?;
        self.check_key(&request.key)?;
        unreserved(&request.key)?;
        permit(caller, |own| own.may_read(&request.key), "read this key")?;
        Ok(request)
    }

    /// Starts a read.
    pub(super) fn start_read(&self, request: &ReadRequest) -> StartedRead<B::Read> {
        let level = match request.consistency {
            Consistency::Default => None,
            named => Some(named.level(ReadLevel::Primary)),
        };
        self.backend.read(&request.key, level)
    }

    fn check_key(&self, key: &[u8]) -> Result<(), KvError> {
        within("key", key.len(), self.limits.key_bytes_max)
    }

    /// Gives a refusal the address that it points to.
    pub(super) fn refusal(&self, error: RequestError) -> KvError {
        refusal(error, self.side, || self.backend.map())
    }

    /// A span of a request whose caller traces it, by its metadata.
    fn begin(&self, name: &'static str, metadata: &MetadataMap) -> Option<Span> {
        if !self.tracer.is_on() {
            return None;
        }
        let header = metadata.get(trace::HEADER).and_then(|v| v.to_str().ok());
        let asked = self.tracer.asked(header)?;
        Some(Tracer::begin_request(name, asked))
    }

    /// Ends a span, where there is one.
    fn end<T>(&self, span: Option<Span>, result: &Result<T, Status>) {
        if let Some(span) = span {
            self.tracer.end(span, result.is_err());
        }
    }

    async fn write<R, A>(
        &self,
        name: &'static str,
        request: Request<R>,
    ) -> Result<Response<A>, Status>
    where
        LeveledWrite: TryFrom<R, Error = Malformed>,
        A: TryFrom<cairn_core::kv::request::WriteReply, Error = Malformed> + Message,
    {
        let span = self.begin(name, request.metadata());
        let trace = span.as_ref().map(Span::context);
        let result = self.write_traced(request, trace).await;
        self.end(span, &result);
        result
    }

    async fn write_traced<R, A>(
        &self,
        request: Request<R>,
        trace: Option<SpanContext>,
    ) -> Result<Response<A>, Status>
    where
        LeveledWrite: TryFrom<R, Error = Malformed>,
        A: TryFrom<cairn_core::kv::request::WriteReply, Error = Malformed> + Message,
    {
        let caller = caller_of(request.extensions());
        let answers = Answers::of(request.extensions());
        let LeveledWrite { request, level } = self.admit(request.into_inner(), &caller)?;
        let mut room = match &request.op {
            // A write cannot be made again for want of room for what it answers. One that
            // holds much itself, which nobody counts by now, does not wait for it.
            WriteOp::Set {
                return_previous: true,
                value,
                ..
            } => match answers.room_now(self.limits.value_bytes_max) {
                Some(room) => room,
                None if value.len() > FREE_BYTES => return Err(KvError::Overloaded.into()),
                None => answers.room(self.limits.value_bytes_max).await,
            },
            _ => Room::default(),
        };
        let mut writes = self.backend.writes();
        writes.submit_traced(0, request, level, trace);
        writes.flush();
        let result = poll_fn(|context| writes.poll_take(context))
            .await
            .pop()
            .map_or(Err(RequestError::Unknown), |(_, result)| result);
        let reply = result.map_err(|e| self.refusal(e))?;
        let answer = A::try_from(reply).map_err(KvError::from)?;
        room.shrink_to(answer.encoded_len());
        Ok(Sent::with(answer, room))
    }
}

/// Refuses what a caller may not do.
pub(super) fn permit(
    caller: &Caller,
    may: impl FnOnce(&Permissions) -> bool,
    what: &str,
) -> Result<(), KvError> {
    if caller.permissions().is_some_and(may) {
        return Ok(());
    }
    Users::note_forbidden("client");
    Err(KvError::PermissionDenied {
        what: what.to_owned(),
    })
}

fn get_reply(Reading { value, local }: Reading) -> pb::GetReply {
    let state = |local: LocalState| ReplicaState {
        epoch: local.epoch,
        applied: local.applied,
        commit: local.commit,
    };
    pb::GetReply {
        value: value.map(Into::into),
        state: local.map(|local| state(local).into()),
    }
}

/// Refuses keys that no client may use.
fn unreserved(key: &Bytes) -> Result<&Bytes, KvError> {
    if is_reserved(key) {
        return Err(KvError::Invalid {
            field: "key".to_owned(),
            problem: "begins with \\xffcairn\\xff, as Cairn's own keys do".to_owned(),
        });
    }
    Ok(key)
}

fn within(field: &str, len: usize, max: usize) -> Result<(), KvError> {
    if len > max {
        return Err(KvError::Invalid {
            field: field.to_owned(),
            problem: format!("has {len} bytes, and this server takes {max} at most"),
        });
    }
    Ok(())
}

/// Gives a refusal the address that it points to, as clients of that side reach it.
pub(super) fn refusal(
    error: RequestError,
    side: Side,
    map: impl FnOnce() -> Arc<ClusterMap>,
) -> KvError {
    KvError::from_request(error, |primary| {
        map()
            .nodes
            .get(&primary.node)
            .map(|n| side.client(&n.addresses).to_owned())
            .unwrap_or_default()
    })
}

#[tonic::async_trait]
impl<B: KvBackend> kv_server::Kv for KvServer<B> {
    type PipelineStream = Pipeline<B>;

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutReply>, Status> {
        self.write("put", request).await
    }

    async fn get(
        &self,
        request: Request<pb::GetRequest>,
    ) -> Result<Response<pb::GetReply>, Status> {
        let caller = caller_of(request.extensions());
        let answers = Answers::of(request.extensions());
        let span = self.begin("get", request.metadata());
        let request = self.admit_read(request.into_inner(), &caller)?;
        let started = self.start_read(&request);
        let (result, room) = answers.read(self.clone(), request, started).await;
        let reading = result.map_err(|e| Status::from(self.refusal(e)));
        self.end(span, &reading);
        Ok(Sent::with(get_reply(reading?), room))
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteReply>, Status> {
        self.write("delete", request).await
    }

    async fn increment(
        &self,
        request: Request<pb::IncrementRequest>,
    ) -> Result<Response<pb::IncrementReply>, Status> {
        self.write("increment", request).await
    }

    async fn batch(
        &self,
        request: Request<pb::BatchRequest>,
    ) -> Result<Response<pb::BatchReply>, Status> {
        self.write("batch", request).await
    }

    async fn pipeline(
        &self,
        request: Request<Streaming<pb::Calls>>,
    ) -> Result<Response<Pipeline<B>>, Status> {
        let caller = caller_of(request.extensions());
        let answers = Answers::of(request.extensions());
        let intake = request.extensions().get::<Arc<Call>>().cloned();
        Ok(Response::new(Pipeline::new(
            self.clone(),
            caller,
            (answers, intake),
            request.into_inner(),
            self.shutdown.clone(),
        )))
    }
}

/// Which reply a write's result becomes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum WriteKind {
    Put,
    /// One that answers with the value that it replaced.
    PutForPrevious,
    Delete,
    Increment,
    Batch,
}

impl<B: KvBackend> KvServer<B> {
    /// The answer to a write of a pipeline.
    pub(super) fn write_answer(&self, kind: WriteKind, result: WriteResult) -> pb::answer::Reply {
        use pb::answer::Reply;
        let reply = match result {
            Ok(reply) => match kind {
                WriteKind::Put | WriteKind::PutForPrevious => reply.try_into().map(Reply::Put),
                WriteKind::Delete => reply.try_into().map(Reply::Delete),
                WriteKind::Increment => reply.try_into().map(Reply::Increment),
                WriteKind::Batch => reply.try_into().map(Reply::Batch),
            }
            .map_err(|e: Malformed| KvError::from(e)),
            Err(error) => Err(self.refusal(error)),
        };
        reply.unwrap_or_else(|error| Reply::Error(error.into()))
    }

    /// The answer to a read of a pipeline.
    pub(super) fn read_answer(&self, result: ReadResult) -> pb::answer::Reply {
        match result {
            Ok(reading) => pb::answer::Reply::Get(get_reply(reading)),
            Err(error) => pb::answer::Reply::Error(self.refusal(error).into()),
        }
    }
}
