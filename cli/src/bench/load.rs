//! The closed loop over RESP: each connection of the generator has one request
//! under way at a time, on a socket of its own to whichever node owns the key.
//!
//! One thread drives many connections through epoll, with one write, one read and
//! a share of one wait per operation, so that the generator takes as little as it
//! can of the processors that it shares with the servers.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;

use super::directory::{Directory, Table};
use super::workload::{KEY_BYTES, Operation, Plan, Random, Values, Window, key};
use crate::resp::{self, ReplyKind};

/// How long an operation may take before it is given up as timed out.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection waits after an error before its next operation.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often one operation follows a redirection.
const REDIRECTIONS_MAX: u32 = 16;

/// What one thread, or all of them, saw.
#[derive(Clone, Debug)]
pub(super) struct Tally {
    /// Microseconds of every good answer within the window.
    pub(super) latency: Histogram<u64>,
    /// By kind.
    pub(super) errors: BTreeMap<String, u64>,
    /// Redirections that were followed.
    pub(super) redirections: u64,
    /// Reads of keys that were not there.
    pub(super) missing: u64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            // Up to two minutes in microseconds, three digits: the bounds are valid.
            latency: Histogram::new_with_bounds(1, 120_000_000, 3)
                .expect("the histogram's bounds are valid"),
            errors: BTreeMap::new(),
            redirections: 0,
            missing: 0,
        }
    }

    /// Adds another one.
    pub(super) fn add(&mut self, other: &Self) {
        // Both have the same bounds, so that this cannot fail.
        let _ = self.latency.add(&other.latency);
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.redirections += other.redirections;
        self.missing += other.missing;
    }

    pub(super) fn good(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency.saturating_record(micros.max(1));
    }

    pub(super) fn error(&mut self, kind: &str) {
        match self.errors.get_mut(kind) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(kind.to_owned(), 1);
            }
        }
    }
}

/// What a thread is told.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) directory: &'a Directory,
    pub(super) connections: usize,
    pub(super) plan: Plan,
    pub(super) window: Option<Window>,
    pub(super) seed: u64,
    pub(super) value_size: usize,
    /// Counts good answers, for the progress display.
    pub(super) progress: &'a AtomicU64,
}

struct Connection {
    /// By node number, made when first needed.
    sockets: Vec<Option<TcpStream>>,
    /// The encoded request.
    out: Vec<u8>,
    /// How much of it is written.
    written: usize,
    /// What was read of the answer.
    input: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// Nothing to do any more.
    Done,
    /// Waits after an error.
    Paused { until: Instant },
    /// A request is under way.
    Waiting {
        node: u16,
        started: Instant,
        slot: u16,
        redirections: u32,
    },
}

struct Thread<'a> {
    directory: &'a Directory,
    table: Arc<Table>,
    version: u64,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    plan: Plan,
    window: Option<Window>,
    random: Random,
    values: Values,
    tally: Tally,
    progress: &'a AtomicU64,
    active: usize,
    paused: usize,
    chunk: Box<[u8]>,
}

/// Runs a task to its end.
pub(super) fn run(task: Task<'_>) -> io::Result<Tally> {
    let mut random = Random::new(task.seed);
    let values = Values::new(task.value_size, &mut random);
    let connections = (0..task.connections)
        .map(|_| Connection {
            sockets: Vec::new(),
            out: Vec::with_capacity(KEY_BYTES + task.value_size + 64),
            written: 0,
            input: Vec::new(),
            state: State::Done,
        })
        .collect();
    let mut thread = Thread {
        directory: task.directory,
        table: task.directory.table(),
        version: task.directory.version(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections,
        plan: task.plan,
        window: task.window,
        random,
        values,
        tally: Tally::new(),
        progress: task.progress,
        active: task.connections,
        paused: 0,
        chunk: vec![0; 64 << 10].into_boxed_slice(),
    };
    thread.drive()?;
    Ok(thread.tally)
}

impl Thread<'_> {
    fn drive(&mut self) -> io::Result<()> {
        let mut now = Instant::now();
        for at in 0..self.connections.len() {
            self.begin(at, now);
        }
        let mut events = Vec::with_capacity(1024);
        let mut swept = now;
        while self.active > 0 {
            if self.window.is_some_and(|window| now >= window.until) {
                break;
            }
            let wait_ms = if self.paused > 0 { 2 } else { 20 };
            let wait = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: wait_ms * 1_000_000,
            };
            events.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                Some(&wait),
            ) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let data = event.data.u64();
                let (at, node) = ((data >> 16) as usize, (data & 0xFFFF) as u16);
                self.ready(at, node);
            }
            now = Instant::now();
            if self.directory.version() != self.version {
                self.version = self.directory.version();
                self.table = self.directory.table();
            }
            if self.paused > 0 || now.duration_since(swept) > Duration::from_millis(100) {
                swept = now;
                self.sweep(now);
            }
        }
        Ok(())
    }

    /// Wakes the paused and gives up what takes too long.
    fn sweep(&mut self, now: Instant) {
        for at in 0..self.connections.len() {
            match self.connections[at].state {
                State::Paused { until } if now >= until => {
                    self.paused -= 1;
                    self.begin(at, now);
                }
                State::Waiting { node, started, .. }
                    if now.duration_since(started) > REQUEST_TIMEOUT =>
                {
                    self.fail(at, node, "timed out", now);
                }
                State::Done | State::Paused { .. } | State::Waiting { .. } => {}
            }
        }
    }

    /// Begins the connection's next operation.
    fn begin(&mut self, at: usize, now: Instant) {
        let next = if self.window.is_some_and(|window| now >= window.until) {
            None
        } else {
            self.plan.next(&mut self.random)
        };
        let connection = &mut self.connections[at];
        let Some((operation, number)) = next else {
            connection.state = State::Done;
            self.active -= 1;
            return;
        };
        let key = key(operation, number);
        connection.out.clear();
        match operation {
            Operation::Set => {
                let value = self.values.cut(&mut self.random);
                resp::encode(&mut connection.out, &[b"SET", &key, value]);
            }
            Operation::Get => resp::encode(&mut connection.out, &[b"GET", &key]),
            Operation::Incr => resp::encode(&mut connection.out, &[b"INCR", &key]),
        }
        let slot = cairn_core::slots::slot(&key);
        let node = self.table.owner[usize::from(slot)];
        self.send(at, node, slot, now, 0);
    }

    /// Sends the encoded request to a node.
    fn send(&mut self, at: usize, node: u16, slot: u16, started: Instant, redirections: u32) {
        let connection = &mut self.connections[at];
        connection.written = 0;
        connection.input.clear();
        connection.state = State::Waiting {
            node,
            started,
            slot,
            redirections,
        };
        if connection.sockets.len() <= usize::from(node) {
            connection
                .sockets
                .resize_with(usize::from(node) + 1, || None);
        }
        if connection.sockets[usize::from(node)].is_none() {
            match self.connect(at, node) {
                Ok(socket) => self.connections[at].sockets[usize::from(node)] = Some(socket),
                Err(error) => {
                    let kind = describe(&error);
                    self.fail(at, node, kind, Instant::now());
                    return;
                }
            }
        }
        self.write(at, node);
    }

    fn connect(&self, at: usize, node: u16) -> io::Result<TcpStream> {
        let address = &self.table.addresses[usize::from(node)];
        let socket = self.directory.connect(address, CONNECT_TIMEOUT)?;
        socket.set_nonblocking(true)?;
        epoll::add(
            &self.epoll,
            &socket,
            epoll::EventData::new_u64((at as u64) << 16 | u64::from(node)),
            // Edge-triggered: a socket is read until it would block or its answer is
            // whole, and an answer never has bytes after it.
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET,
        )?;
        Ok(socket)
    }

    fn write(&mut self, at: usize, node: u16) {
        let connection = &mut self.connections[at];
        let Some(Some(socket)) = connection.sockets.get_mut(usize::from(node)) else {
            return;
        };
        while connection.written < connection.out.len() {
            match socket.write(&connection.out[connection.written..]) {
                Ok(0) => {
                    self.fail(at, node, "connection lost", Instant::now());
                    return;
                }
                Ok(written) => connection.written += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The socket says when it can be written to again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    let kind = describe(&error);
                    self.fail(at, node, kind, Instant::now());
                    return;
                }
            }
        }
    }

    /// A socket can be read or written, or is closed.
    fn ready(&mut self, at: usize, node: u16) {
        let Some(connection) = self.connections.get_mut(at) else {
            return;
        };
        let expected = match connection.state {
            State::Waiting { node: expected, .. } => expected == node,
            State::Done | State::Paused { .. } => false,
        };
        if expected && connection.written < connection.out.len() {
            self.write(at, node);
        }
        loop {
            let connection = &mut self.connections[at];
            let Some(Some(socket)) = connection.sockets.get_mut(usize::from(node)) else {
                return;
            };
            let read = match socket.read(&mut self.chunk) {
                Ok(0) => Err("connection lost"),
                Ok(read) => Ok(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(describe(&error)),
            };
            match (read, expected) {
                (Ok(read), true) => {
                    if self.received(at, node, read) {
                        return;
                    }
                }
                (Err(kind), true) => {
                    self.fail(at, node, kind, Instant::now());
                    return;
                }
                // An idle socket was closed, or a late answer came: it is made anew
                // when it is needed again.
                (_, false) => {
                    connection.sockets[usize::from(node)] = None;
                    return;
                }
            }
        }
    }

    /// Takes `read` bytes of the chunk; says whether the answer is whole.
    fn received(&mut self, at: usize, node: u16, read: usize) -> bool {
        let connection = &mut self.connections[at];
        let bytes = if connection.input.is_empty() {
            &self.chunk[..read]
        } else {
            connection.input.extend_from_slice(&self.chunk[..read]);
            &connection.input
        };
        match resp::scan(bytes) {
            Ok(None) => {
                if connection.input.is_empty() {
                    connection.input.extend_from_slice(&self.chunk[..read]);
                }
                false
            }
            Ok(Some((length, kind))) if length == bytes.len() => {
                let error = match &kind {
                    ReplyKind::Error(range) => Some(bytes[range.clone()].to_vec()),
                    ReplyKind::Good | ReplyKind::Nil => None,
                };
                self.answered(at, kind == ReplyKind::Nil, error.as_deref());
                true
            }
            // Bytes past the end of the only answer, or none of the protocol.
            Ok(Some(_)) | Err(_) => {
                self.fail(at, node, "not RESP", Instant::now());
                true
            }
        }
    }

    fn answered(&mut self, at: usize, missing: bool, error: Option<&[u8]>) {
        let now = Instant::now();
        let State::Waiting {
            started,
            slot,
            redirections,
            ..
        } = self.connections[at].state
        else {
            return;
        };
        let Some(words) = error else {
            if self.window.is_none_or(|window| started >= window.from) {
                self.tally.good(now.duration_since(started));
                self.tally.missing += u64::from(missing);
            }
            self.progress.fetch_add(1, Ordering::Relaxed);
            self.begin(at, now);
            return;
        };
        if let Some((_, address)) = resp::moved(words)
            && redirections < REDIRECTIONS_MAX
        {
            self.tally.redirections += 1;
            self.directory.want_refresh();
            let to = self.table.addresses.iter().position(|a| a == address);
            if let Some(to) = to.and_then(|to| u16::try_from(to).ok()) {
                // Until the new table is there, others need not be redirected too.
                Arc::make_mut(&mut self.table).owner[usize::from(slot)] = to;
                self.send(at, to, slot, started, redirections + 1);
                return;
            }
        }
        let kind = words.split(|&b| b == b' ').next().unwrap_or_default();
        let kind = String::from_utf8_lossy(kind).into_owned();
        self.directory.want_refresh();
        self.pause(at, &kind, now);
    }

    /// Counts an error, closes the socket and pauses the connection.
    fn fail(&mut self, at: usize, node: u16, kind: &str, now: Instant) {
        if let Some(socket) = self.connections[at].sockets.get_mut(usize::from(node)) {
            *socket = None;
        }
        self.directory.want_refresh();
        self.pause(at, kind, now);
    }

    fn pause(&mut self, at: usize, kind: &str, now: Instant) {
        self.tally.error(kind);
        self.paused += 1;
        self.connections[at].state = State::Paused {
            until: now + PAUSE_AFTER_ERROR,
        };
    }
}

fn describe(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused",
        io::ErrorKind::TimedOut => "connect timed out",
        io::ErrorKind::PermissionDenied => "not let in",
        _ => "connection lost",
    }
}
