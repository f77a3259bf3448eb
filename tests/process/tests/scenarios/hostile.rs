//! What strangers send that mean harm, against a node of its own process: whatever it is,
//! the node lives, holds a bounded amount of memory, and answers its neighbours.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cairn_process_tests::cluster::{BOUND, Cluster, Spec};
use cairn_process_tests::http2::{Http2, ping, settings};
use cairn_process_tests::resp::{Connection, Reply};
use cairn_process_tests::waiting;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;
/// What the node may hold of long messages and commands that come in.
const ROOM: u64 = 64 * MIB;
/// What else may come and go in a node that is busy: caches, allocator, log.
const SLACK: u64 = 96 * MIB;
const PUT: &str = "/cairn.kv.v1.Kv/Put";
const GET: &str = "/cairn.kv.v1.Kv/Get";
const PIPELINE: &str = "/cairn.kv.v1.Kv/Pipeline";

/// One node, a neighbour's connection to it, and what it held before it was attacked.
struct Target {
    cluster: Cluster,
    runtime: Runtime,
    neighbour: Connection,
}

impl Target {
    fn start() -> Result<Self> {
        let spec = Spec {
            coordinators: 1,
            data_nodes: 1,
            partitions: 4,
            ..Spec::default()
        }
        .with("CAIRN_REPLICATION_FACTOR", 1)
        .with("CAIRN_INPUT_ROOM_BYTES", ROOM)
        .with("CAIRN_STALL_TIMEOUT_MS", 4000)
        .with("CAIRN_VALUE_CACHE_BYTES", "8MiB");
        let cluster = Cluster::start(spec)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let neighbour = runtime.block_on(Connection::open(&cluster.data[0].resp(), PATIENCE))?;
        let mut target = Self {
            cluster,
            runtime,
            neighbour,
        };
        target.neighbour_is_served()?;
        Ok(target)
    }

    /// There is room for it.
    fn a_long_message_gets_through(&mut self) -> Result<()> {
        let long = vec![b'x'; 8 << 20];
        let words: [&[u8]; 3] = [b"SET", b"long", &long];
        let call = async { tokio::time::timeout(BOUND, self.neighbour.call(&words)).await };
        let reply = self.runtime.block_on(call).context("the room is lost")??;
        ensure!(reply == Reply::Simple("OK".to_owned()), "{reply:?}");
        Ok(())
    }

    fn neighbour_is_served(&mut self) -> Result<()> {
        for words in [
            &[&b"SET"[..], b"neighbour", b"is well"][..],
            &[b"GET", b"neighbour"],
        ] {
            let call = async { tokio::time::timeout(PATIENCE, self.neighbour.call(words)).await };
            let reply = self
                .runtime
                .block_on(call)
                .context("a neighbour stalled")??;
            ensure!(!matches!(reply, Reply::Error(_)), "{reply:?}");
        }
        Ok(())
    }

    /// Resident memory of the node, in bytes.
    fn resident(&self) -> Result<u64> {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> Result<u64> {
        let path = format!("/proc/{}/status", self.cluster.data[0].pid()?);
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(field));
        let number = line.and_then(|line| line.split_ascii_whitespace().nth(1));
        Ok(number.context("a size")?.parse::<u64>()? * 1024)
    }

    fn holds_at_most(&self, before: u64, more: u64, what: &str) -> Result<()> {
        // The most that it ever held: what was given back meanwhile was held too.
        let now = self.memory("VmHWM:")?;
        println!("{what}: {} MiB at most, {} before", now / MIB, before / MIB);
        ensure!(
            now <= before + more + SLACK,
            "{what}: the node held {} MiB, {} before it, and {} more are allowed",
            now / MIB,
            before / MIB,
            (more + SLACK) / MIB
        );
        Ok(())
    }

    fn resp(&self) -> String {
        self.cluster.data[0].resp()
    }

    fn grpc(&self) -> String {
        self.cluster.data[0].client()
    }
}

/// The head of a gRPC message, and as much of it as there is.
fn message(announced: u32, bytes: usize) -> Vec<u8> {
    let mut message = vec![0];
    message.extend_from_slice(&announced.to_be_bytes());
    message.resize(5 + bytes, 0);
    message
}

/// A field of protobuf that holds bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length > 0x7f {
        field.push(length as u8 | 0x80);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(bytes);
    field
}

/// A whole gRPC message.
fn whole(bytes: &[u8]) -> Vec<u8> {
    let mut message = message(bytes.len() as u32, 0);
    message.extend_from_slice(bytes);
    message
}

/// A message of a pipeline with so many calls of one kind: 2 is a put, 3 a get.
fn calls(kind: u8, count: u8, request: &[u8]) -> Vec<u8> {
    let call = |id: u8| [vec![1 << 3, id], field(kind, request)].concat();
    let all: Vec<u8> = (1..=count).flat_map(|id| field(1, &call(id))).collect();
    whole(&all)
}

/// Sends all of `bytes` on a call.
fn send(connection: &mut Http2, call: u32, bytes: &[u8]) -> Result<()> {
    let mut at = 0;
    waiting::until("the node to take a call", BOUND, || {
        at += connection.data(call, &bytes[at..])?;
        if at < bytes.len() {
            connection.look()?;
        }
        Ok((at == bytes.len()).then_some(()))
    })
}

/// Waits until the node closed every one of them, looked at all the while.
fn all_closed(connections: &mut [Http2]) -> Result<()> {
    waiting::until("connections that take nothing to be closed", BOUND, || {
        for connection in &mut *connections {
            connection.look()?;
        }
        let closed = connections.iter().all(Http2::is_gone);
        Ok(closed.then_some(()))
    })
}

/// Sends `bytes` on every call of every connection for as long as the node takes any.
fn push(attackers: &mut [(Http2, Vec<(u32, usize)>)], bytes: &[u8]) -> Result<u64> {
    let mut total = 0;
    let mut idle = 0;
    while idle < 50 {
        let mut sent = 0;
        for (connection, calls) in &mut *attackers {
            for (call, at) in calls {
                loop {
                    let step = connection.data(*call, &bytes[*at..]).unwrap_or(0);
                    *at += step;
                    sent += step as u64;
                    if step == 0 {
                        break;
                    }
                }
            }
            connection.look()?;
        }
        idle = if sent == 0 { idle + 1 } else { 0 };
        total += sent;
    }
    Ok(total)
}

#[test]
fn messages_that_are_never_sent_to_their_end_hold_a_bounded_amount_of_memory() -> Result<()> {
    let mut target = Target::start()?;
    let before = target.resident()?;
    let bytes = message(20 << 20, 19 << 20);
    let mut attackers = Vec::new();
    for path in [PUT, PIPELINE, PUT, PIPELINE] {
        let mut connection = Http2::open(&target.grpc())?;
        connection.look()?;
        let calls = (0..4)
            .map(|_| Ok((connection.call(path)?, 0)))
            .collect::<Result<Vec<_>>>()?;
        attackers.push((connection, calls));
    }
    // Without a bound it would take 300 MiB of it.
    let taken = push(&mut attackers, &bytes)?;
    println!("the node took {} MiB of them", taken / MIB);
    ensure!(
        taken >= ROOM / 2,
        "the attack is too feeble to show anything"
    );
    let unread = 4 * 8 * MIB;
    target.holds_at_most(before, ROOM + unread, "half-sent messages")?;
    target.neighbour_is_served()?;
    // They are given up, and their room serves others: a long message gets through.
    for (connection, calls) in &mut attackers {
        waiting::until("half-sent messages to be given up", BOUND, || {
            connection.look()?;
            let open = calls
                .iter()
                .filter(|(call, _)| !connection.has_ended(*call));
            Ok((open.count() == 0).then_some(()))
        })?;
    }
    target.a_long_message_gets_through()?;
    target.cluster.check_running()
}

#[test]
fn a_client_that_takes_no_answers_keeps_no_room_from_others() -> Result<()> {
    let mut target = Target::start()?;
    let put = [field(1, b"unread"), field(2, b"v")].concat();
    // The put is answered while the second message is on its way: from then on nothing
    // moves on the call unless the client takes the answer.
    let mut bytes = calls(2, 1, &put);
    bytes.extend_from_slice(&message(20 << 20, 100 << 10));
    let mut attackers = Vec::new();
    for _ in 0..3 {
        let mut connection = Http2::open_closed(&target.grpc())?;
        connection.look()?;
        for _ in 0..2 {
            let call = connection.call(PIPELINE)?;
            send(&mut connection, call, &bytes)?;
        }
        attackers.push(connection);
    }
    target.neighbour_is_served()?;
    all_closed(&mut attackers)?;
    // All the room was theirs, and is not any more.
    target.a_long_message_gets_through()?;
    target.cluster.check_running()
}

#[test]
fn answers_that_nobody_takes_hold_a_bounded_amount_of_memory() -> Result<()> {
    let mut target = Target::start()?;
    // Longer than the cache of values: each read brings a copy of its own.
    let value = vec![b'x'; 12 << 20];
    let words: [&[u8]; 3] = [b"SET", b"large", &value];
    target.runtime.block_on(target.neighbour.call(&words))?;
    let before = target.memory("VmHWM:")?;
    let get = field(1, b"large");
    let mut connection = Http2::open_closed(&target.grpc())?;
    connection.look()?;
    for _ in 0..30 {
        let call = connection.call(GET)?;
        send(&mut connection, call, &whole(&get))?;
    }
    for _ in 0..10 {
        let call = connection.call(PIPELINE)?;
        send(&mut connection, call, &calls(3, 16, &get))?;
    }
    target.neighbour_is_served()?;
    all_closed(std::slice::from_mut(&mut connection))?;
    // Without a bound it would be two GiB of them. An answer is encoded beside the value
    // that it is made from, and so are those that are read at a time.
    target.holds_at_most(before, 3 * 48 * MIB, "answers that nobody takes")?;
    target.neighbour_is_served()?;
    target.cluster.check_running()
}

#[test]
fn calls_that_are_reset_and_floods_of_frames_stall_nobody() -> Result<()> {
    let mut target = Target::start()?;
    let before = target.resident()?;
    // Calls by the ten thousand, each taken back at once.
    let mut resetting = Http2::open(&target.grpc())?;
    for count in 0..10_000 {
        let done = resetting.call(PUT).and_then(|call| resetting.reset(call));
        if done.is_err() || (count % 100 == 0 && !resetting.look()?) {
            println!("the connection ended after {count} calls");
            break;
        }
    }
    target.neighbour_is_served()?;
    // Frames that have to be answered, whose answers nobody reads.
    for flood in [settings(), ping()] {
        let mut connection = Http2::open(&target.grpc())?;
        let many = flood.repeat(4096);
        let mut sent = 0;
        while sent < 64 << 20 && connection.write(&many).is_ok() {
            sent += many.len();
        }
        println!("it took {} KiB of a flood", sent >> 10);
        target.neighbour_is_served()?;
    }
    target.holds_at_most(before, 0, "resets and floods")?;
    // A message beyond the limit is refused by its head.
    let mut connection = Http2::open(&target.grpc())?;
    let call = connection.call(PUT)?;
    connection.data(call, &message(1 << 30, 0))?;
    waiting::until("the message to be refused", BOUND, || {
        connection.look()?;
        Ok(connection.has_ended(call).then_some(()))
    })?;
    target.cluster.check_running()
}

#[test]
fn nonsense_ends_in_a_closed_connection_on_every_port() -> Result<()> {
    let mut target = Target::start()?;
    let node = &target.cluster.data[0];
    let mut nonsense: Vec<Vec<u8>> = vec![
        b"*2\r\n*1\r\n*1\r\n$1\r\na\r\n".to_vec(),
        b"*1\r\n".repeat(50_000),
        b"%1\r\n~1\r\n>2\r\n|1\r\n".repeat(1000),
        b"*1048577\r\n".to_vec(),
        b"*1\r\n$99999999999\r\n".to_vec(),
        vec![0; 200_000],
        vec![0xff; 200_000],
    ];
    nonsense.push(b"GET / HTTP/1.1\r\n".repeat(10_000));
    for port in [
        node.ports.resp,
        node.ports.client,
        node.ports.peer,
        node.ports.http,
    ] {
        for bytes in &nonsense {
            let mut stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_read_timeout(Some(BOUND))?;
            stream.set_write_timeout(Some(BOUND))?;
            // It may be closed before all was sent.
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut said = [0; 4096];
            loop {
                match stream.read(&mut said) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                    Err(error) => anyhow::bail!("port {port} stays open: {error}"),
                }
            }
        }
    }
    target.neighbour_is_served()?;
    target.cluster.check_running()
}

#[test]
fn a_pipeline_whose_replies_nobody_reads_is_not_run_on_and_ends() -> Result<()> {
    let mut target = Target::start()?;
    let value = vec![b'x'; 1 << 20];
    let words: [&[u8]; 3] = [b"SET", b"large", &value];
    target.runtime.block_on(target.neighbour.call(&words))?;
    let before = target.resident()?;
    let mut stream = TcpStream::connect(target.resp())?;
    stream.set_write_timeout(Some(Duration::from_millis(500)))?;
    let gets = b"*2\r\n$3\r\nGET\r\n$5\r\nlarge\r\n".repeat(4096);
    let mut sent = 0usize;
    let mut held_back = false;
    while sent < 256 << 20 {
        match stream.write(&gets) {
            Ok(0) => break,
            Ok(count) => sent += count,
            Err(error) => {
                held_back = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
                break;
            }
        }
    }
    println!("it took {} KiB of a pipeline", sent >> 10);
    ensure!(held_back || sent < 256 << 20, "the node reads on and on");
    target.holds_at_most(before, 64 * MIB, "a pipeline without a reader")?;
    target.neighbour_is_served()?;
    waiting::until("the connection to be closed", BOUND, || {
        stream.set_nonblocking(true)?;
        let ended = match stream.write(b"*") {
            Ok(_) => false,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        };
        Ok(ended.then_some(()))
    })?;
    target.cluster.check_running()
}

/// Raises this process's limit of open files as far as it goes; returns it.
fn open_files() -> u64 {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls are given a valid struct, and change nothing else.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        }
    }
    limit.rlim_cur
}

#[test]
fn ten_thousand_connections_cost_little_and_one_more_is_refused() -> Result<()> {
    // The node keeps files back for its log and its store, and shares the rest between
    // its two ports for clients.
    let most = open_files().saturating_sub(2048) / 2;
    let count = usize::try_from(most)?.min(10_000) - 1;
    let mut target = Target::start()?;
    let before = target.resident()?;
    let mut open = Vec::with_capacity(count);
    let mut pong = [0; 7];
    for number in 0..count {
        let mut stream =
            TcpStream::connect(target.resp()).with_context(|| format!("connection {number}"))?;
        stream.set_read_timeout(Some(BOUND))?;
        stream.write_all(b"PING\r\n")?;
        stream
            .read_exact(&mut pong)
            .with_context(|| format!("connection {number}"))?;
        ensure!(&pong == b"+PONG\r\n");
        open.push(stream);
    }
    println!("{count} connections are open");
    target.neighbour_is_served()?;
    // 16 KiB each.
    target.holds_at_most(before, count as u64 * 16 * 1024, "ten thousand connections")?;
    // Where files are few, the node shares them out otherwise.
    if most >= 1024 {
        let mut stream = TcpStream::connect(target.resp())?;
        stream.set_read_timeout(Some(BOUND))?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        ensure!(said == "-ERR max number of clients reached\r\n", "{said}");
    }
    // Half a command on each of them, and each is closed for it.
    for stream in &mut open {
        stream.write_all(b"*2\r\n$3\r\nGET\r\n$100")?;
    }
    let mut rest = Vec::new();
    for mut stream in open {
        // Closed, not timed out.
        stream.read_to_end(&mut rest)?;
    }
    target.neighbour_is_served()?;
    target.cluster.check_running()
}
