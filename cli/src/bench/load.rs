//! The load over RESP: each connection of the generator has one request under way at a
//! time, on a socket of its own to whichever node owns the key. In a closed loop it then
//! begins the next one, in an open one it waits until one is due.
//!
//! One thread drives many connections through epoll, with one write, one read and
//! a share of one wait per operation, so that the generator takes as little as it
//! can of the processors that it shares with the servers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::epoll;

use cairn_workload::directory::{Directory, Table};
use cairn_workload::operation::{KEY_BYTES, Operation, Pace, Plan, Random, Values, Window, key};
use cairn_workload::resp::{self, ReplyKind};
use cairn_workload::tally::Tally;

/// How long an operation may take before it is given up as timed out.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection waits after an error before its next operation.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(5);
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How often one operation follows a redirection.
const REDIRECTIONS_MAX: u32 = 16;

/// What a thread is told.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) directory: &'a Directory,
    pub(super) connections: usize,
    pub(super) plan: Plan,
    /// When operations are due; none for a closed loop.
    pub(super) pace: Option<Pace>,
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
    operation: Operation,
    /// The number of its key.
    number: u64,
    /// Whether the second half of a read-modify-write is under way.
    second: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// Nothing to do any more.
    Done,
    /// Waits until an operation is due.
    Idle,
    /// Waits after an error.
    Paused { until: Instant },
    /// A request is under way.
    Waiting {
        node: u16,
        /// When the operation began, or was due: what its latency counts from.
        started: Instant,
        /// When this request was sent.
        sent: Instant,
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
    pace: Option<Pace>,
    /// Connections that wait until an operation is due.
    idle: Vec<usize>,
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
            operation: Operation::Read,
            number: 0,
            second: false,
        })
        .collect();
    let mut thread = Thread {
        directory: task.directory,
        table: task.directory.table(),
        version: task.directory.version(),
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections,
        plan: task.plan,
        pace: task.pace,
        idle: Vec::new(),
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
            let wait = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: i64::from(self.patience(now).subsec_nanos()),
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
            while self.pace.is_some_and(|pace| pace.due() <= now)
                && let Some(at) = self.idle.pop()
            {
                self.begin(at, now);
            }
            if self.directory.version() != self.version {
                self.version = self.directory.version();
                self.table = self.directory.table();
            }
            if self.paused > 0 || now.duration_since(swept) > Duration::from_millis(100) {
                swept = now;
                self.sweep(now);
            }
        }
        if let (Some(window), Some(pace)) = (self.window, self.pace) {
            self.count_unanswered(window.until, pace);
        }
        Ok(())
    }

    /// How long to wait for sockets, below a second.
    fn patience(&self, now: Instant) -> Duration {
        let most = Duration::from_millis(if self.paused > 0 { 2 } else { 20 });
        match self.pace {
            Some(pace) if !self.idle.is_empty() => {
                pace.due().saturating_duration_since(now).min(most)
            }
            _ => most,
        }
    }

    /// What was due within the window of an open loop and was not answered in it.
    fn count_unanswered(&mut self, until: Instant, pace: Pace) {
        let waiting = self.connections.iter().filter_map(|it| match it.state {
            State::Waiting { started, .. } => Some(started),
            State::Done | State::Idle | State::Paused { .. } => None,
        });
        let since: Vec<Instant> = waiting.collect();
        let behind = pace.behind(until);
        let oldest = since
            .iter()
            .copied()
            .chain((behind > 0).then(|| pace.due()))
            .min();
        self.tally.unanswered(
            since.len() as u64 + behind,
            oldest.map_or(Duration::ZERO, |at| until.saturating_duration_since(at)),
        );
    }

    /// Wakes the paused and gives up what takes too long.
    fn sweep(&mut self, now: Instant) {
        for at in 0..self.connections.len() {
            match self.connections[at].state {
                State::Paused { until } if now >= until => {
                    self.paused -= 1;
                    self.begin(at, now);
                }
                State::Waiting { node, sent, .. } if now.duration_since(sent) > REQUEST_TIMEOUT => {
                    self.fail(at, node, "timed out", now);
                }
                State::Done | State::Idle | State::Paused { .. } | State::Waiting { .. } => {}
            }
        }
    }

    /// Begins the connection's next operation, once it is due.
    fn begin(&mut self, at: usize, now: Instant) {
        let due = self.pace.map_or(now, |pace| pace.due());
        if due > now {
            self.connections[at].state = State::Idle;
            self.idle.push(at);
            return;
        }
        let next = if self.window.is_some_and(|window| due >= window.until) {
            None
        } else {
            self.plan.next(&mut self.random)
        };
        let Some((operation, number)) = next else {
            self.connections[at].state = State::Done;
            self.active -= 1;
            return;
        };
        let started = self.pace.as_mut().map_or(now, Pace::take);
        let connection = &mut self.connections[at];
        connection.operation = operation;
        connection.number = number;
        connection.second = false;
        self.request(at, started, now);
    }

    /// Encodes and sends what the connection's operation asks for next.
    fn request(&mut self, at: usize, started: Instant, now: Instant) {
        let connection = &mut self.connections[at];
        let key = key(connection.operation, connection.number);
        connection.out.clear();
        if connection.operation == Operation::Increment {
            resp::encode(&mut connection.out, &[b"INCR", &key]);
        } else if connection.operation.reads() && !connection.second {
            resp::encode(&mut connection.out, &[b"GET", &key]);
        } else {
            let value = self.values.cut(&mut self.random);
            resp::encode(&mut connection.out, &[b"SET", &key, value]);
        }
        let slot = cairn_core::slots::slot(&key);
        let node = self.table.owner[usize::from(slot)];
        self.send(at, node, slot, started, now, 0);
    }

    /// Sends the encoded request to a node.
    fn send(
        &mut self,
        at: usize,
        node: u16,
        slot: u16,
        started: Instant,
        sent: Instant,
        redirections: u32,
    ) {
        let connection = &mut self.connections[at];
        connection.written = 0;
        connection.input.clear();
        connection.state = State::Waiting {
            node,
            started,
            sent,
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
            State::Done | State::Idle | State::Paused { .. } => false,
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
            let connection = &mut self.connections[at];
            let operation = connection.operation;
            let counted = self.window.is_none_or(|window| started >= window.from);
            self.tally.missing += u64::from(missing && counted);
            if operation == Operation::ReadModifyWrite && !connection.second {
                connection.second = true;
                self.request(at, started, now);
                return;
            }
            if counted {
                self.tally.good(operation, now.duration_since(started));
            }
            self.plan.ended(operation, connection.number);
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
                self.send(at, to, slot, started, now, redirections + 1);
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
        let failed = &self.connections[at];
        self.plan.ended(failed.operation, failed.number);
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

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;
    use cairn_workload::distribution::{Chooser, Distribution, Inserted};
    use cairn_workload::operation::Mix;

    const STALL: Duration = Duration::from_millis(500);

    /// A server that owns all slots, answers OK to everything, and stands still once.
    fn server_that_stalls_at(stall_at: u64) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || answer(&stream, stall_at));
            }
        });
        address
    }

    fn answer(stream: &TcpStream, stall_at: u64) {
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let mut answered = 0;
        while let Some(head) = lines.next() {
            let words: usize = head.trim_start_matches('*').parse().unwrap_or(0);
            let arguments: Vec<String> = lines.by_ref().take(2 * words).collect();
            answered += 1;
            if answered == stall_at {
                std::thread::sleep(STALL);
            }
            let reply: &[u8] = if arguments.get(1).is_some_and(|name| name == "CLUSTER") {
                b"-ERR This instance has cluster support disabled\r\n"
            } else {
                b"+OK\r\n"
            };
            if { stream }.write_all(reply).is_err() {
                return;
            }
        }
    }

    #[test]
    fn an_open_loop_counts_what_waited_while_the_server_stood_still() {
        let directory =
            Directory::open(vec![server_that_stalls_at(100)], None).expect("a directory");
        let progress = AtomicU64::new(0);
        let tally = run(Task {
            directory: &directory,
            connections: 1,
            plan: Plan::Random {
                mix: Mix {
                    get: 1,
                    ..Mix::default()
                },
                keys: Chooser::new(Distribution::Uniform, Inserted::new(100)),
                left: Some(1_000),
            },
            pace: Some(Pace::new(Instant::now(), 1_000.0, 0, 1)),
            window: None,
            seed: 1,
            value_size: 8,
            progress: &progress,
        })
        .expect("a run");
        let latencies = tally.all();
        assert_eq!(latencies.len(), 1_000);
        assert_eq!(tally.errors, std::collections::BTreeMap::new());
        // A thousand a second were due: those of the first 400 ms of the stall waited for
        // 100 ms or longer, though but one request was under way.
        let waited = latencies.count_between(100_000, u64::MAX);
        assert!(waited >= 350, "{waited} of {}", latencies.len());
    }
}
