//! One client connection: a single task that reads, runs and answers, and that is
//! never further ahead of its client than the limits allow.
//!
//! Each turn takes the answers that came, runs every command that is complete in the
//! buffer, writes what is due in one system call, and reads. A connection that asks
//! for one thing at a time costs one read and one write for each.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use cairn_core::kv::request::WriteRequest;
use cairn_core::tracking::ReaderId;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep};
use tracing::{debug, warn};

use super::backend::{Backend, ReadTerms, Session as _};
use super::call::{Action, Args, Call, Hello, LogIn, Refusal, Replies, Session};
use super::commands;
use super::encode::{Encoder, Protocol};
use super::output::Output;
use super::parser::{Found, Parser, Range};
use super::queue::{Cost, Queue, Runner, Terms};
use super::render;
use super::shared::{Client, Count, Fate, Shared};
use super::tracking::{self, Tracking};
use crate::budget::Room;
use crate::users::{Caller, Checking, Denied};

/// How often the task goes round before others have their turn, the engine among them.
const TURNS: usize = 2;
/// Commands run in one turn.
const COMMANDS_PER_TURN: usize = 256;
/// The smallest room to read into, and the largest for short commands.
const READ_MIN: usize = 2 << 10;
const READ_MAX: usize = 64 << 10;
/// A client that asked for nothing for so long goes elsewhere, where the node stops: longer
/// than it takes to follow an answer that says where.
const QUIET: Duration = Duration::from_millis(200);
/// Progress of so many bytes ends a stall.
const PROGRESS_BYTES: usize = 64 << 10;

/// Why no more commands are run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ending {
    /// It goes on.
    No,
    /// Answer what was taken, then close.
    AfterReplies,
}

/// See the module.
pub(crate) struct Connection<B: Backend, S> {
    stream: S,
    shared: Arc<Shared>,
    backend: Arc<B>,
    client: Arc<Client>,
    writes: B::Session,
    session: Session,
    parser: Parser,
    input: BytesMut,
    /// How much room to read into.
    read_size: usize,
    /// How many bytes the command under way needs in `input`, as far as is known;
    /// 0: there may be a complete one.
    wanted: usize,
    /// Room for a long command that is not complete.
    room: Room,
    waiting_for_room: Option<BoxFuture<'static, Room>>,
    output: Output,
    queue: Queue<B>,
    ending: Ending,
    /// A credential that is being checked. Until then nothing is run.
    login: Option<PendingLogIn>,
    last_command: &'static str,
    /// Who is told when a key changes that the command under way reads.
    reader: Option<ReaderId>,
    /// Bytes read and written since the stall clock was set.
    progress: usize,
    stalled: bool,
    /// Where the node stops.
    leaving: Option<Leaving>,
}

/// How a connection finds its end where the node stops. Closing it at once would break
/// what the client is just sending: it could not know whether that was done.
struct Leaving {
    /// The last command, or the beginning.
    active: Instant,
    look: Pin<Box<Sleep>>,
}

/// A login whose credential takes a slow hash.
struct PendingLogIn {
    checked: BoxFuture<'static, Result<Caller, Denied>>,
    hello: Option<Hello>,
    mute: bool,
}

/// Serves a connection to its end.
pub(crate) async fn run<B: Backend, S>(
    stream: S,
    shared: Arc<Shared>,
    backend: Arc<B>,
    client: Arc<Client>,
    caller: Caller,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut connection = Connection {
        stream,
        writes: backend.session(),
        parser: Parser::new(shared.config.limits),
        shared,
        backend,
        client,
        session: Session::new(caller),
        input: BytesMut::new(),
        read_size: READ_MIN,
        wanted: 1,
        room: Room::default(),
        waiting_for_room: None,
        output: Output::default(),
        queue: Queue::new(),
        ending: Ending::No,
        login: None,
        last_command: "",
        reader: None,
        progress: 0,
        stalled: false,
        leaving: None,
    };
    let result = std::future::poll_fn(|context| connection.poll(context)).await;
    if let Err(error) = result {
        debug!(client = connection.client.id, %error, "connection ended");
    }
}

impl<B: Backend, S> Connection<B, S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.client.waker.register(context.waker());
        match self.client.fate() {
            Fate::Lives => {}
            Fate::Leaves => self.poll_leaving(context),
            Fate::Drains => self.ending = Ending::AfterReplies,
            Fate::Killed => return Poll::Ready(Ok(())),
        }
        for _ in 0..TURNS {
            let mut progress = self.deliver();
            progress |= self.collect(context);
            progress |= self.poll_login(context);
            progress |= self.run_commands();
            self.render();
            let mut written = 0;
            let flushed = self
                .output
                .poll_write(&mut self.stream, context, &mut written);
            self.shared.counts.add(Count::OutputBytes, written as u64);
            self.progress += written;
            // Room for more replies, and so for more commands.
            progress |= written > 0
                && (self.wanted == 0 || self.queue.front().is_some() || self.has_mail());
            match flushed {
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if self.is_over() => return self.poll_shutdown(context),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            progress |= match self.fill(context) {
                Poll::Ready(result) => result.map(|()| true)?,
                Poll::Pending => false,
            };
            if !progress {
                self.watch_stall();
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ends where the client was quiet for long enough.
    fn poll_leaving(&mut self, context: &mut Context<'_>) {
        let busy = !self.queue.is_empty() || !self.input.is_empty();
        let leaving = self.leaving.get_or_insert_with(|| Leaving {
            active: Instant::now(),
            look: Box::pin(sleep(QUIET)),
        });
        while self.ending == Ending::No && leaving.look.as_mut().poll(context).is_ready() {
            if busy {
                leaving.active = Instant::now();
            }
            if leaving.active.elapsed() >= QUIET {
                self.ending = Ending::AfterReplies;
            }
            leaving.look.as_mut().reset(leaving.active + QUIET);
        }
    }

    /// Whether everything that will be said was said.
    fn is_over(&self) -> bool {
        self.ending == Ending::AfterReplies
            && self.queue.is_empty()
            && self.login.is_none()
            && self.output.is_empty()
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Saying goodbye over TLS takes a client that reads.
        if !self.stalled {
            self.stalled = true;
            self.client.stall(Some(self.shared.clients.tick()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn collect(&mut self, context: &mut Context<'_>) -> bool {
        if self.queue.is_empty() {
            return false;
        }
        let mut runner = Runner {
            backend: &*self.backend,
            session: &mut self.writes,
            hold: self.shared.config.failover_hold,
            reply_bytes_max: self.shared.config.limits.reply_bytes,
        };
        let changed = self.queue.collect(&mut runner, context);
        self.writes.flush();
        self.shared.counts.add(Count::Held, self.queue.take_held());
        changed
    }

    /// Writes the replies that are due into the output, as far as there is room.
    fn render(&mut self) {
        let room = self.shared.config.limits.output_bytes;
        while self.output.len() < room {
            let Some(due) = self.queue.front() else {
                return;
            };
            render::due(&due, &mut self.output, &self.shared);
            if let Some(tracking) = &mut self.session.tracking {
                tracking.answered(&due);
            }
            self.queue.pop();
        }
    }

    /// Whether something waits to be told that no command asked for.
    fn has_mail(&self) -> bool {
        let client = &self.client;
        !client.mail.is_empty() || !client.redirected.is_empty()
    }

    /// Tells of keys that changed, behind the answers to all commands that came before: the
    /// value that one of them read may be the old one.
    fn deliver(&mut self) -> bool {
        let holds = |tracking: &Tracking| tracking.holds_mail();
        if !self.has_mail() && !self.session.tracking.as_ref().is_some_and(holds) {
            return false;
        }
        let waiting = self.output.len() + self.queue.reply_bytes();
        let has_room = waiting < self.shared.config.limits.output_bytes;
        // What another connection is told takes no room here.
        let redirects = |tracking: &Tracking| tracking.redirect.is_some();
        if !has_room && !self.session.tracking.as_ref().is_some_and(redirects) {
            return false;
        }
        let mut told = tracking::Messages::new(&self.session, &self.client);
        if let Some(tracking) = &mut self.session.tracking {
            let progress = (self.queue.taken(), self.queue.popped());
            tracking.deliver(&self.client, &self.shared.clients, progress, &mut told);
        } else {
            // Left from before it ceased to keep anything.
            drop(self.client.mail.take());
        }
        if has_room && !self.client.redirected.is_empty() {
            let post = self.client.redirected.take();
            told.redirected(post, self.session.subscribed);
        }
        let messages = told.into_bytes();
        let is_any = !messages.is_empty();
        if is_any {
            self.local(false, |to, _| to.extend_from_slice(&messages));
        }
        is_any
    }

    /// Whether another command may be run.
    fn may_run(&self) -> bool {
        let limits = &self.shared.config.limits;
        self.ending == Ending::No
            && self.login.is_none()
            && self.queue.len() < limits.in_flight
            && self.queue.has_room()
            // One command of any length is run where nothing else waits.
            && (self.queue.request_bytes() < limits.waiting_bytes || self.queue.is_empty())
            && self.output.len() + self.queue.reply_bytes() < limits.output_bytes
    }

    /// Runs commands that are complete in the buffer. Returns whether the task should
    /// go round again for it.
    fn run_commands(&mut self) -> bool {
        if self.input.len() < self.wanted || self.input.is_empty() {
            return false;
        }
        let mut commands = 0u64;
        let mut again = false;
        while self.may_run() {
            if commands as usize == COMMANDS_PER_TURN {
                again = true;
                break;
            }
            self.parser.trust(self.session.caller.is_let_in());
            let (frame, length) = match self.parser.find(&self.input) {
                Ok(Found::Incomplete { bytes }) => {
                    self.wanted = bytes;
                    break;
                }
                Ok(Found::Nothing { bytes }) => {
                    self.input.advance(bytes);
                    self.wanted = 0;
                    continue;
                }
                Ok(Found::Command { bytes }) => (self.input.split_to(bytes).freeze(), bytes),
                Ok(Found::Inline { bytes }) => {
                    self.input.advance(bytes);
                    (self.parser.take_inline(), bytes)
                }
                Err(error) => {
                    debug!(client = self.client.id, %error, "protocol error");
                    self.shared.counts.add(Count::Errors, 1);
                    self.reply_error(format!("ERR {error}").as_bytes());
                    self.end();
                    break;
                }
            };
            self.wanted = 0;
            let cost = self.release(length);
            let ranges = self.parser.take_arguments();
            let taken = self.queue.taken();
            self.run(&frame, &ranges);
            if self.queue.taken() > taken {
                self.queue.charge(cost);
            }
            self.parser.recycle(ranges);
            commands += 1;
        }
        self.writes.flush();
        if commands > 0 {
            self.shared.counts.add(Count::Commands, commands);
            self.client.touch(self.shared.clients.tick());
            if let Some(leaving) = &mut self.leaving {
                leaving.active = Instant::now();
            }
        }
        // A write that was started, a read, or a login, is to be polled once.
        again || (commands > 0 && (!self.queue.is_empty() || self.login.is_some()))
    }

    /// What a command costs that was found. What a long one took is its own from here
    /// on.
    fn release(&mut self, length: usize) -> Cost {
        let mut cost = Cost {
            bytes: length,
            room: Room::default(),
        };
        if length > READ_MAX {
            // It was read into room of twice its size at most, which ends here.
            cost.room = std::mem::take(&mut self.room);
            cost.room.shrink_to(length);
            // What is left of the buffer would keep all of it in memory.
            self.input = BytesMut::from(&self.input[..]);
        }
        cost
    }

    fn end(&mut self) {
        self.ending = Ending::AfterReplies;
        self.input = BytesMut::new();
        self.room = Room::default();
        self.wanted = 1;
    }

    fn reply_error(&mut self, text: &[u8]) {
        self.local(false, |out, protocol| {
            Encoder::new(out, protocol).error(text);
        });
    }

    /// Writes a reply behind all others.
    fn local(&mut self, mute: bool, write: impl FnOnce(&mut BytesMut, Protocol)) {
        let protocol = self.session.protocol;
        if !self.queue.is_empty() {
            let out = self.queue.local(protocol, mute);
            let before = out.len();
            write(out, protocol);
            let grown = out.len() - before;
            self.queue.grew(grown);
        } else if !mute {
            write(self.output.tail(), protocol);
        }
    }

    fn run(&mut self, frame: &Bytes, ranges: &[Range]) {
        let args = Args::new(frame, ranges);
        self.session.caller.refresh();
        let mute = match self.session.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::SkipNext => {
                self.session.replies = Replies::On;
                true
            }
        };
        self.reader = self
            .session
            .tracking
            .as_mut()
            .and_then(Tracking::begin_command);
        let key_bytes_max = self.shared.config.limits.key_bytes;
        let admitted = commands::admit(args, key_bytes_max, &self.session.caller);
        let (command, slot) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if args.is(0, "POST") || args.is(0, "HOST:") {
                    warn!(
                        client = self.client.id,
                        remote = %self.client.ends.remote,
                        "HTTP on the Redis port: closed, someone may be trying to reach it \
                         through a browser"
                    );
                    self.end();
                    return;
                }
                return self.refuse(mute, &refusal.0);
            }
        };
        if self.session.subscribed
            && self.session.protocol == Protocol::Two
            && !tracking::SUBSCRIBED.contains(&command.name)
        {
            let refusal = tracking::not_while_subscribed(command.name);
            return self.refuse(mute, &refusal.0);
        }
        if self.last_command != command.name {
            self.last_command = command.name;
            self.client.about.lock().command = command.name;
        }
        self.carry_out(args, slot, |call| match (command.handler)(call) {
            // `CLIENT REPLY ON` is answered, whatever it was before.
            Ok(Action::Replied) if command.name == "client|reply" => (Ok(Action::Replied), false),
            action => (action, mute),
        });
    }

    /// Calls a handler and does what it wants done. The handler also says whether the
    /// client goes without the reply.
    fn carry_out(
        &mut self,
        args: Args<'_>,
        slot: u16,
        handler: impl FnOnce(&mut Call<'_>) -> (Result<Action, Refusal>, bool),
    ) {
        let mut out = BytesMut::new();
        let direct = self.queue.is_empty();
        let target = if direct { self.output.tail() } else { &mut out };
        let before = target.len();
        let protocol = self.session.protocol;
        let mut call = Call {
            args,
            session: &mut self.session,
            client: &self.client,
            shared: &self.shared,
            out: target,
        };
        let (action, mute) = handler(&mut call);
        let mute = mute || matches!(action, Ok(Action::Silent));
        match action {
            Ok(Action::LogIn(LogIn { checking, hello })) => match checking {
                Checking::Done(result) => self.finish_login(result, hello, mute),
                Checking::Waiting(checked) => {
                    self.login = Some(PendingLogIn {
                        checked,
                        hello,
                        mute,
                    });
                }
            },
            Ok(action @ (Action::Replied | Action::Quit | Action::Silent)) => {
                if direct && mute {
                    self.output.truncate_tail(before);
                } else if !direct {
                    self.local(mute, |to, _| to.extend_from_slice(&out));
                }
                if matches!(action, Action::Quit) {
                    self.end();
                }
            }
            Ok(action) => {
                let terms = Terms {
                    slot,
                    protocol,
                    mute,
                };
                self.start(action, terms);
            }
            Err(refusal) => {
                if direct {
                    self.output.truncate_tail(before);
                }
                self.refuse(mute, &refusal.0);
            }
        }
    }

    /// Looks whether a credential was checked meanwhile. Returns whether it was.
    fn poll_login(&mut self, context: &mut Context<'_>) -> bool {
        let Some(login) = &mut self.login else {
            return false;
        };
        let Poll::Ready(result) = login.checked.as_mut().poll(context) else {
            return false;
        };
        if let Some(PendingLogIn { hello, mute, .. }) = self.login.take() {
            self.finish_login(result, hello, mute);
        }
        true
    }

    fn finish_login(&mut self, result: Result<Caller, Denied>, hello: Option<Hello>, mute: bool) {
        let none = Bytes::new();
        self.carry_out(Args::new(&none, &[]), 0, |call| {
            (commands::logged_in(call, result, hello), mute)
        });
    }

    fn refuse(&mut self, mute: bool, text: &[u8]) {
        self.shared.counts.add(Count::Errors, 1);
        self.local(mute, |out, protocol| {
            Encoder::new(out, protocol).error(text);
        });
    }

    fn start(&mut self, action: Action, terms: Terms) {
        let mut runner = Runner {
            backend: &*self.backend,
            session: &mut self.writes,
            hold: self.shared.config.failover_hold,
            reply_bytes_max: self.shared.config.limits.reply_bytes,
        };
        let how = ReadTerms {
            level: self.session.level,
            reader: self.reader,
        };
        match action {
            Action::Replied | Action::Silent | Action::Quit | Action::LogIn(_) => {}
            Action::Write { op, shape } => {
                let request = WriteRequest {
                    op,
                    sequenced: None,
                };
                self.queue.write(&mut runner, terms, shape, request);
            }
            Action::Read { key, shape } => {
                let result = self.queue.read(&mut runner, terms, shape, key, how);
                if let Some(result) = result
                    && !terms.mute
                {
                    render::read(shape, &result, terms, &mut self.output, &self.shared);
                }
            }
            Action::Ask(question) => self.queue.ask(terms, question),
            Action::ReadMany { keys, shape } => {
                self.queue.read_many(terms, shape, keys, how);
            }
        }
    }

    /// Reads, where more is wanted. Ready with progress, or with an error.
    fn fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending != Ending::No || self.input.len() >= self.wanted.max(1) || !self.may_run() {
            return Poll::Pending;
        }
        if !self.make_room(context) {
            return Poll::Pending;
        }
        let before = self.input.len();
        let room = self.input.capacity() - before;
        let read = {
            let read = pin!(self.stream.read_buf(&mut self.input));
            std::task::ready!(read.poll(context))?
        };
        if read == 0 {
            // The client closed its side. What it sent is answered; half a command is
            // not one.
            self.end();
            return Poll::Ready(Ok(()));
        }
        self.shared.counts.add(Count::InputBytes, read as u64);
        self.progress += read;
        if read == room {
            self.read_size = (self.read_size * 2).min(READ_MAX);
        }
        Poll::Ready(Ok(()))
    }

    /// Makes room to read into: little for short commands, for a long one twice what
    /// came of it already, so that announcing it alone takes no memory.
    fn make_room(&mut self, context: &mut Context<'_>) -> bool {
        let len = self.input.len();
        let capacity = self.input.capacity();
        let missing = self.wanted.saturating_sub(len);
        if capacity - len >= missing.min(self.read_size / 2).max(READ_MIN / 4) {
            return true;
        }
        let more = missing.clamp(self.read_size, len.max(READ_MAX));
        if len + more > READ_MAX && !self.charge(len + more, context) {
            return false;
        }
        self.input.reserve(more);
        true
    }

    /// Takes room for a long command of so many bytes from what all connections
    /// share. Where there is none it is waited for, until the stall ends the wait.
    fn charge(&mut self, bytes: usize, context: &mut Context<'_>) -> bool {
        let room = &self.shared.config.room;
        let short = bytes.saturating_sub(self.room.bytes());
        if short == 0 {
            return true;
        }
        let waiting = self
            .waiting_for_room
            .get_or_insert_with(|| Box::pin(room.take(short)));
        let Poll::Ready(more) = waiting.as_mut().poll(context) else {
            return false;
        };
        self.waiting_for_room = None;
        self.room.merge(more);
        true
    }

    /// Says since when the client owes the rest of a command, or leaves replies
    /// unread, without moving on.
    fn watch_stall(&mut self) {
        let owes =
            self.parser.is_within() || (!self.input.is_empty() && self.wanted > self.input.len());
        // One that waits for room and holds none is not to blame; of those that hold
        // some, one must give way where all wait for more.
        let waits = self.waiting_for_room.is_some() && self.room.is_empty();
        let stalled = (owes && !waits && self.ending == Ending::No && self.may_run())
            || !self.output.is_empty();
        let moved = self.progress >= PROGRESS_BYTES;
        if stalled && (!self.stalled || moved) {
            self.client.stall(Some(self.shared.clients.tick()));
            self.progress = 0;
        } else if !stalled && self.stalled {
            self.client.stall(None);
        }
        self.stalled = stalled;
    }
}
