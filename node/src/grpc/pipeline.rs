//! Many calls on one stream.
//!
//! The stream of answers drives everything: polling it reads calls, starts them,
//! and collects what was answered, all on the connection's own task. A client that
//! does not read its answers is therefore not read either: what they hold is counted
//! against what the connection's answers may hold, before another call is started. What
//! comes in unasked is a write's answer alone, so that one that may be long is reserved for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cairn_core::kv::request::RequestError;
use cairn_proto::Malformed;
use cairn_proto::kv::KvError;
use cairn_proto::levels::LeveledWrite;
use cairn_proto::limits;
use cairn_proto::pb::kv::v1 as pb;
use cairn_proto::trace::SpanContext;
use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, Streaming};

use super::answers::{Answers, Ledger};
use super::authenticate::status_of;
use super::backend::{KvBackend, ReadResult, StartedRead, WriteQueue};
use super::patience::Call;
use super::service::{KvServer, WriteKind};
use crate::budget::Room;
use crate::trace::{Span, Tracer};
use crate::users::{Caller, Denied};

/// About how many bytes of answers travel in one message.
const ANSWERS_BYTES: usize = 1 << 20;
/// The most reads of one pipeline that wait at a time.
const WAITING_READS_MAX: usize = 256;
/// How long calls wait for room for what they may answer before they are refused: what they
/// hold meanwhile nobody else can have.
const ROOM_PATIENCE: Duration = Duration::from_secs(5);
/// The ids of calls stay below this, so that the kind of a write fits beside its id.
const ID_MAX: u64 = 1 << ID_BITS;
const ID_BITS: u32 = u64::BITS - KIND_BITS;
const KIND_BITS: u32 = 3;

/// The answers of one pipeline.
pub struct Pipeline<B: KvBackend> {
    server: KvServer<B>,
    /// Judged anew before each call: the stream may outlive what lets it in.
    caller: Caller,
    calls: Streaming<pb::Calls>,
    /// Read, and not started yet.
    unstarted: VecDeque<pb::Call>,
    /// Ends the wait of the first of them for room.
    until_refused: Option<Pin<Box<Sleep>>>,
    /// Holds what `unstarted` came to.
    intake: Option<Arc<Call>>,
    writes: B::Writes,
    writes_waiting: usize,
    reads: FuturesUnordered<WithId>,
    /// Calls that wait and are traced, by their ids.
    spans: HashMap<u64, Span>,
    ready: VecDeque<pb::Answer>,
    ready_bytes: usize,
    /// What the last message holds, until the next is asked for.
    leaving_bytes: usize,
    answers: Answers,
    /// What all of these hold, and what writes that wait may come to.
    ledger: Ledger,
    /// No more calls are read: the client said so, or the node stops.
    closed: bool,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<B: KvBackend> fmt::Debug for Pipeline<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("unstarted", &self.unstarted.len())
            .field("writes_waiting", &self.writes_waiting)
            .field("reads_waiting", &self.reads.len())
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

impl<B: KvBackend> Pipeline<B> {
    pub(super) fn new(
        server: KvServer<B>,
        caller: Caller,
        (answers, intake): (Answers, Option<Arc<Call>>),
        calls: Streaming<pb::Calls>,
        shutdown: CancellationToken,
    ) -> Self {
        if let Some(intake) = &intake {
            intake.keep();
        }
        Self {
            writes: server.backend.writes(),
            server,
            caller,
            calls,
            unstarted: VecDeque::new(),
            until_refused: None,
            intake,
            writes_waiting: 0,
            reads: FuturesUnordered::new(),
            spans: HashMap::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            leaving_bytes: 0,
            ledger: answers.ledger(),
            answers,
            closed: false,
            shutdown: Box::pin(shutdown.cancelled_owned()),
        }
    }

    fn answer(&mut self, id: u64, reply: pb::answer::Reply) {
        self.answer_with(id, reply, Room::default());
    }

    /// An answer that took room already.
    fn answer_with(&mut self, id: u64, reply: pb::answer::Reply, room: Room) {
        if !self.spans.is_empty()
            && let Some(span) = self.spans.remove(&id)
        {
            let failed = matches!(reply, pb::answer::Reply::Error(_));
            self.server.tracer.end(span, failed);
        }
        let bytes = weight(&reply);
        self.ready_bytes += bytes;
        self.ledger.add(bytes, room);
        self.ready.push_back(pb::Answer {
            id,
            reply: Some(reply),
        });
    }

    fn refuse(&mut self, id: u64, error: KvError) {
        self.answer(id, pb::answer::Reply::Error(error.into()));
    }

    /// Whether another call may be started.
    fn has_room(&self) -> bool {
        let limits = &self.server.limits;
        self.ready_bytes < limits.pipeline_answer_bytes_max
            && self.reads.len() < WAITING_READS_MAX
            && self.writes_waiting + self.ready.len() < limits.pipeline_calls_max
    }

    /// Begins the span of a call whose caller traces it.
    fn begin(&mut self, id: u64, request: &pb::call::Request, header: &str) -> Option<SpanContext> {
        use pb::call::Request;
        if header.is_empty() {
            return None;
        }
        let asked = self.server.tracer.asked(Some(header))?;
        let name = match request {
            Request::Put(_) => "put",
            Request::Get(_) => "get",
            Request::Delete(_) => "delete",
            Request::Increment(_) => "increment",
            Request::Batch(_) => "batch",
        };
        let span = Tracer::begin_request(name, asked);
        let context = span.context();
        self.spans.insert(id, span);
        Some(context)
    }

    fn start(
        &mut self,
        pb::Call {
            id,
            request,
            traceparent,
        }: pb::Call,
    ) {
        use pb::call::Request;
        if id >= ID_MAX {
            let problem = format!("is not below 2^{ID_BITS}");
            return self.refuse(id, Malformed::new("id", problem).into());
        }
        let Some(request) = request else {
            return self.refuse(id, Malformed::missing("request").into());
        };
        let trace = self.begin(id, &request, &traceparent);
        let (kind, request) = match request {
            Request::Get(get) => return self.start_read(id, get),
            Request::Put(put) => {
                let kind = if put.return_previous {
                    WriteKind::PutForPrevious
                } else {
                    WriteKind::Put
                };
                (kind, self.server.admit(put, &self.caller))
            }
            Request::Delete(delete) => (WriteKind::Delete, self.server.admit(delete, &self.caller)),
            Request::Increment(inc) => (WriteKind::Increment, self.server.admit(inc, &self.caller)),
            Request::Batch(batch) => (WriteKind::Batch, self.server.admit(batch, &self.caller)),
        };
        match request {
            Ok(LeveledWrite { request, level }) => {
                self.writes_waiting += 1;
                self.writes
                    .submit_traced(token(id, kind), request, level, trace);
            }
            Err(error) => {
                self.ledger.remove(self.reserved(kind));
                self.refuse(id, error);
            }
        }
    }

    /// What the answer of a write may come to hold, where that is much: it cannot be made
    /// again for want of room for it.
    fn reserved(&self, kind: WriteKind) -> usize {
        match kind {
            WriteKind::PutForPrevious => self.server.limits.value_bytes_max,
            _ => 0,
        }
    }

    fn reserve_for(&self, call: &pb::Call) -> usize {
        match &call.request {
            Some(pb::call::Request::Put(put)) if put.return_previous && call.id < ID_MAX => {
                self.reserved(WriteKind::PutForPrevious)
            }
            _ => 0,
        }
    }

    fn start_read(&mut self, id: u64, get: pb::GetRequest) {
        match self.server.admit_read(get, &self.caller) {
            Err(error) => self.refuse(id, error),
            Ok(request) => {
                let started = self.server.start_read(&request);
                let room = match &started {
                    StartedRead::Done(result) => self.answers.room_for(result),
                    StartedRead::Waiting(_) => None,
                };
                match (started, room) {
                    (StartedRead::Done(result), Some(room)) => self.read(id, result, room),
                    (started, _) => {
                        let answers = self.answers.clone();
                        let read = answers.read(self.server.clone(), request, started);
                        // On a task of its own, which drops what there is no room for
                        // although nobody polls this stream.
                        let read = AbortOnDropHandle::new(tokio::spawn(read));
                        self.reads.push(WithId { id, read });
                    }
                }
            }
        }
    }

    fn read(&mut self, id: u64, result: ReadResult, room: Room) {
        let reply = self.server.read_answer(result);
        self.answer_with(id, reply, room);
    }

    /// Reads and starts calls while there is room for what they need.
    fn poll_calls(&mut self, context: &mut Context<'_>) -> Result<(), Status> {
        while self.has_room() && self.ledger.poll_covered(context) {
            self.caller.refresh();
            if !self.caller.is_let_in() {
                return Err(status_of(Denied::Wrong));
            }
            if let Some(call) = self.unstarted.pop_front() {
                if !self.ledger.poll_reserve(self.reserve_for(&call), context) {
                    self.unstarted.push_front(call);
                    let wait = || Box::pin(tokio::time::sleep(ROOM_PATIENCE));
                    self.until_refused.get_or_insert_with(wait);
                    break;
                }
                self.until_refused = None;
                self.start(call);
                continue;
            }
            if let Some(intake) = &self.intake {
                intake.dealt_with();
            }
            if self.closed {
                break;
            }
            match Pin::new(&mut self.calls).poll_next(context)? {
                Poll::Pending => break,
                Poll::Ready(None) => self.closed = true,
                Poll::Ready(Some(pb::Calls { calls })) => {
                    if calls.len() > limits::PIPELINE_CALLS {
                        let problem = format!(
                            "has {} parts, and {} is the most",
                            calls.len(),
                            limits::PIPELINE_CALLS
                        );
                        return Err(Malformed::new("calls", problem).into());
                    }
                    self.unstarted = calls.into();
                }
            }
        }
        if let Some(until) = &mut self.until_refused
            && until.as_mut().poll(context).is_ready()
        {
            self.until_refused = None;
            self.refuse_unstarted();
        }
        Ok(())
    }

    /// Refuses the calls that were read, for want of room: nothing was done about them.
    fn refuse_unstarted(&mut self) {
        self.ledger.rest();
        for call in std::mem::take(&mut self.unstarted) {
            self.refuse(call.id, KvError::Overloaded);
        }
    }

    /// Collects what was answered.
    fn poll_answers(&mut self, context: &mut Context<'_>) {
        while self.writes_waiting > 0
            && let Poll::Ready(done) = self.writes.poll_take(context)
        {
            self.writes_waiting = self.writes_waiting.saturating_sub(done.len());
            for (token, result) in done {
                let (id, kind) = from_token(token);
                self.ledger.remove(self.reserved(kind));
                let reply = self.server.write_answer(kind, result);
                self.answer(id, reply);
            }
        }
        // Each may be a large value: what is not taken yet stays where it is.
        while !self.reads.is_empty()
            && self.ready_bytes < self.server.limits.pipeline_answer_bytes_max
            && let Poll::Ready(Some((id, (result, room)))) = self.reads.poll_next_unpin(context)
        {
            self.read(id, result, room);
        }
    }

    /// The next message, of what is ready.
    fn take(&mut self) -> Option<pb::Answers> {
        let mut bytes = 0;
        let mut count = 0;
        for answer in &self.ready {
            bytes += answer.reply.as_ref().map_or(0, weight);
            count += 1;
            if bytes >= ANSWERS_BYTES {
                break;
            }
        }
        if count == 0 {
            return None;
        }
        self.ready_bytes = self.ready_bytes.saturating_sub(bytes);
        self.leaving_bytes = bytes;
        Some(pb::Answers {
            answers: self.ready.drain(..count).collect(),
        })
    }
}

impl<B: KvBackend> Stream for Pipeline<B> {
    type Item = Result<pb::Answers, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<pb::Answers, Status>>> {
        let this = &mut *self;
        // Whoever asks for more has passed on what there was.
        this.ledger.remove(std::mem::take(&mut this.leaving_bytes));
        if !this.closed && this.shutdown.as_mut().poll(context).is_ready() {
            // What was read is still answered; the client finds the rest refused by
            // the end of the stream.
            this.closed = true;
        }
        loop {
            let called = this.poll_calls(context);
            this.writes.flush();
            if let Err(status) = called {
                return Poll::Ready(Some(Err(status)));
            }
            this.poll_answers(context);
            if let Some(answers) = this.take() {
                // Until that is taken, nobody asks for the room that it waits for.
                this.ledger.rest();
                return Poll::Ready(Some(Ok(answers)));
            }
            if this.writes_waiting == 0 && this.reads.is_empty() && this.unstarted.is_empty() {
                if this.closed {
                    return Poll::Ready(None);
                }
                return Poll::Pending;
            }
            if this.unstarted.is_empty() || !this.has_room() || !this.ledger.poll_covered(context) {
                return Poll::Pending;
            }
            // Answers made room for calls that were read already.
        }
    }
}

impl<B: KvBackend> Unpin for Pipeline<B> {}

/// The kind of a write and its call's id in one number.
fn token(id: u64, kind: WriteKind) -> u64 {
    let kind = match kind {
        WriteKind::Put => 0,
        WriteKind::Delete => 1,
        WriteKind::Increment => 2,
        WriteKind::Batch => 3,
        WriteKind::PutForPrevious => 4,
    };
    id << KIND_BITS | kind
}

fn from_token(token: u64) -> (u64, WriteKind) {
    let kind = match token & ((1 << KIND_BITS) - 1) {
        0 => WriteKind::Put,
        1 => WriteKind::Delete,
        2 => WriteKind::Increment,
        3 => WriteKind::Batch,
        _ => WriteKind::PutForPrevious,
    };
    (token >> KIND_BITS, kind)
}

/// About how many bytes an answer takes.
fn weight(reply: &pb::answer::Reply) -> usize {
    use pb::answer::Reply;
    const SMALL: usize = 64;
    match reply {
        Reply::Get(get) => SMALL + get.value.as_ref().map_or(0, |v| v.data.len()),
        Reply::Put(put) => SMALL + put.previous.as_ref().map_or(0, bytes::Bytes::len),
        Reply::Delete(_) | Reply::Increment(_) => SMALL,
        Reply::Batch(batch) => match &batch.outcome {
            Some(pb::batch_reply::Outcome::Applied(applied)) => {
                SMALL + applied.results.len() * size_of::<pb::BatchResult>()
            }
            _ => 2 * SMALL,
        },
        Reply::Error(_) => 2 * SMALL,
    }
}

/// A read that remembers whose it is.
struct WithId {
    id: u64,
    read: AbortOnDropHandle<(ReadResult, Room)>,
}

impl Future for WithId {
    type Output = (u64, (ReadResult, Room));

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let id = self.id;
        Pin::new(&mut self.read).poll(context).map(|read| {
            // It ends early where the process does.
            let lost = |_| (Err(RequestError::Unknown), Room::default());
            (id, read.unwrap_or_else(lost))
        })
    }
}
