//! Over the Redis protocol, to a cluster or to one server: each connection of the driver has a
//! socket to each node that it asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use cairn_workload::directory::{Directory, Table};
use cairn_workload::operation::{Random, Values};
use cairn_workload::resp::{self, ReplyKind};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Answer, Call, Found, Increments, Level, Verb};

/// How long `WAIT` may wait.
const WAIT_MS: &[u8] = b"5000";
/// How often calls follow redirections.
const REDIRECTIONS_MAX: usize = 16;
/// How often replicas are looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// How long a server that says nothing may take to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The servers, and who of them owns which slot.
pub(super) struct Servers {
    directory: Arc<Directory>,
    level: Level,
    wait: u32,
    increments: Increments,
    stop: Arc<AtomicBool>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Servers {
    pub(super) fn open(
        seeds: Vec<String>,
        level: Level,
        wait: u32,
        increments: Increments,
    ) -> Result<Self> {
        let directory = Arc::new(Directory::open(seeds, None).context("ask for the slots")?);
        let stop = Arc::new(AtomicBool::new(false));
        let (refreshed, until) = (Arc::clone(&directory), Arc::clone(&stop));
        std::thread::spawn(move || refreshed.keep_fresh(&until));
        if level == Level::Replica {
            // Nobody is redirected to a replica that is new: who wants to read there looks.
            let (wanted, until) = (Arc::clone(&directory), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !until.load(Ordering::Acquire) {
                    std::thread::sleep(LOOK_INTERVAL);
                    wanted.want_refresh();
                }
            });
        }
        Ok(Self {
            directory,
            level,
            wait,
            increments,
            stop,
        })
    }

    pub(super) async fn connect(&self, number: usize) -> Result<Connection> {
        let table = self.directory.table();
        let mut connection = Connection {
            sockets: Vec::new(),
            table,
            version: self.directory.version(),
            directory: Arc::clone(&self.directory),
            level: self.level,
            wait: self.wait,
            adds_at: match self.increments {
                Increments::Owner => None,
                Increments::Any => Some(number),
            },
        };
        // Before the load begins, so that no operation waits for a handshake.
        for node in 0..connection.table.addresses.len() {
            connection
                .socket(node as u16)
                .await
                .map_err(anyhow::Error::msg)?;
        }
        Ok(connection)
    }
}

struct Socket {
    stream: TcpStream,
    out: Vec<u8>,
    input: Vec<u8>,
    /// The calls whose replies are due, in their order.
    due: Vec<Due>,
}

#[derive(Clone, Copy)]
struct Due {
    /// The place of the call among those of the exchange.
    at: usize,
    write: bool,
}

pub(super) struct Connection {
    /// By node.
    sockets: Vec<Option<Socket>>,
    table: Arc<Table>,
    version: u64,
    directory: Arc<Directory>,
    level: Level,
    wait: u32,
    /// Its increments go to the node of this number, modulo how many there are.
    adds_at: Option<usize>,
}

/// What a server answered to one call.
enum Reply {
    Found(Found),
    Moved { slot: u16, to: String },
    Error(String),
}

/// The place of a call, when it was answered, and how.
type Ended = (usize, Instant, Reply);

impl Connection {
    /// The socket to a node, made when it is first needed.
    async fn socket(&mut self, node: u16) -> Result<&mut Socket, String> {
        let at = usize::from(node);
        if self.sockets.len() <= at {
            self.sockets.resize_with(at + 1, || None);
        }
        if self.sockets[at].is_none() {
            let address = self.table.addresses[at].clone();
            let opened = tokio::time::timeout(CONNECT_TIMEOUT, connect(&address, self.level)).await;
            self.sockets[at] = Some(match opened {
                Ok(Ok(socket)) => socket,
                Ok(Err(error)) => return Err(format!("connect: {error}")),
                Err(_) => return Err("connect: timed out".to_owned()),
            });
        }
        self.sockets[at]
            .as_mut()
            .ok_or_else(|| "no socket".to_owned())
    }

    fn node_for(&self, call: &Call, random: &mut Random) -> u16 {
        let slot = usize::from(call.slot);
        let owner = self.table.owner[slot];
        if let (Verb::Increment, Some(number)) = (call.verb, self.adds_at) {
            return (number % self.table.addresses.len().max(1)) as u16;
        }
        if call.verb != Verb::Get || self.level != Level::Replica {
            return owner;
        }
        let replicas = &self.table.replicas[slot];
        let at = random.below(replicas.len() as u64 + 1) as usize;
        replicas.get(at).copied().unwrap_or(owner)
    }

    pub(super) async fn exchange(
        &mut self,
        calls: &[Call],
        values: &Values,
        random: &mut Random,
    ) -> Vec<Answer> {
        if self.directory.version() != self.version {
            self.version = self.directory.version();
            self.table = self.directory.table();
        }
        let mut answers: Vec<Option<Answer>> = vec![None; calls.len()];
        let mut redirected: Vec<(usize, u16)> = Vec::new();
        let mut waiting: Vec<usize> = (0..calls.len()).collect();
        for _ in 0..REDIRECTIONS_MAX {
            let mut asked: Vec<u16> = Vec::with_capacity(2);
            for at in waiting.drain(..) {
                let call = &calls[at];
                let told = redirected.iter().find(|(redirected, _)| *redirected == at);
                let node = told.map_or_else(|| self.node_for(call, random), |(_, node)| *node);
                match self.socket(node).await {
                    Ok(socket) => socket.push(at, call, values, random),
                    Err(error) => answers[at] = Some((Instant::now(), Err(error))),
                }
                if !asked.contains(&node) {
                    asked.push(node);
                }
            }
            redirected.clear();
            for (at, ended, reply) in self.replies(&asked).await {
                match reply {
                    Reply::Found(found) => answers[at] = Some((ended, Ok(found))),
                    Reply::Error(words) => {
                        self.directory.want_refresh();
                        answers[at] = Some((ended, Err(words)));
                    }
                    Reply::Moved { slot, to } => {
                        self.directory.want_refresh();
                        match self.table.addresses.iter().position(|it| *it == to) {
                            Some(node) => {
                                Arc::make_mut(&mut self.table).owner[usize::from(slot)] =
                                    node as u16;
                                redirected.push((at, node as u16));
                                waiting.push(at);
                            }
                            None => {
                                answers[at] = Some((ended, Err("MOVED to a stranger".to_owned())));
                            }
                        }
                    }
                }
            }
            if waiting.is_empty() {
                break;
            }
        }
        let late = Instant::now();
        answers
            .into_iter()
            .map(|answer| answer.unwrap_or_else(|| (late, Err("redirected for ever".to_owned()))))
            .collect()
    }

    /// Sends to all of these nodes what was pushed for them, and reads what is due.
    async fn replies(&mut self, asked: &[u16]) -> Vec<Ended> {
        let wait = self.wait;
        if let [node] = asked {
            let at = usize::from(*node);
            return match self.sockets.get_mut(at).and_then(Option::as_mut) {
                Some(socket) => {
                    let replies = socket.exchange(wait).await;
                    self.forget_broken(&[(*node, &replies)]);
                    replies
                }
                None => Vec::new(),
            };
        }
        let sockets = self.sockets.iter_mut().zip(0u16..);
        let of_nodes: Vec<(u16, Vec<_>)> = join_all(
            sockets
                .filter(|(_, node)| asked.contains(node))
                .filter_map(|(socket, node)| socket.as_mut().map(|socket| (socket, node)))
                .map(|(socket, node)| async move { (node, socket.exchange(wait).await) }),
        )
        .await;
        let borrowed: Vec<_> = of_nodes.iter().map(|(node, of)| (*node, of)).collect();
        self.forget_broken(&borrowed);
        of_nodes
            .into_iter()
            .flat_map(|(_, replies)| replies)
            .collect()
    }

    /// A socket on which something went wrong is made anew.
    fn forget_broken(&mut self, of_nodes: &[(u16, &Vec<Ended>)]) {
        for (node, replies) in of_nodes {
            let broken = |reply: &Reply| matches!(reply, Reply::Error(words) if words == LOST);
            if replies.iter().any(|(_, _, reply)| broken(reply)) {
                self.sockets[usize::from(*node)] = None;
            }
        }
    }
}

const LOST: &str = "connection lost";

async fn connect(address: &str, level: Level) -> std::io::Result<Socket> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut socket = Socket {
        stream,
        out: Vec::with_capacity(4096),
        input: Vec::with_capacity(4096),
        due: Vec::new(),
    };
    if level == Level::Replica {
        resp::encode(&mut socket.out, &[b"READONLY"]);
        socket.stream.write_all(&socket.out).await?;
        socket.out.clear();
        socket.next_reply().await?;
        socket.input.clear();
    }
    Ok(socket)
}

impl Socket {
    fn push(&mut self, at: usize, call: &Call, values: &Values, random: &mut Random) {
        match call.verb {
            Verb::Get => resp::encode(&mut self.out, &[b"GET", &call.key]),
            Verb::Set => {
                let value = values.cut(random);
                resp::encode(&mut self.out, &[b"SET", &call.key, value]);
            }
            Verb::Increment => resp::encode(&mut self.out, &[b"INCR", &call.key]),
        }
        self.due.push(Due {
            at,
            write: call.verb != Verb::Get,
        });
    }

    /// Sends what was pushed and reads the replies. With `wait`, one `WAIT` follows all that
    /// was pushed, and the writes are answered when it is.
    async fn exchange(&mut self, wait: u32) -> Vec<Ended> {
        let waits = wait > 0 && self.due.iter().any(|due| due.write);
        if waits {
            let replicas = wait.to_string();
            resp::encode(&mut self.out, &[b"WAIT", replicas.as_bytes(), WAIT_MS]);
        }
        let due = std::mem::take(&mut self.due);
        let mut replies = Vec::with_capacity(due.len());
        let wait = waits.then_some(wait);
        let outcome = self.read_replies(&due, wait, &mut replies).await;
        self.out.clear();
        self.input.clear();
        let now = Instant::now();
        match outcome {
            Ok(acknowledged) if waits => {
                for ((_, ended, reply), _) in replies.iter_mut().zip(&due).filter(|it| it.1.write) {
                    *ended = now;
                    if !acknowledged && matches!(reply, Reply::Found(_)) {
                        *reply = Reply::Error("too few replicas acknowledged".to_owned());
                    }
                }
            }
            Ok(_) => {}
            Err(_) => {
                replies.clear();
                let lost = || Reply::Error(LOST.to_owned());
                replies.extend(due.iter().map(|due| (due.at, now, lost())));
            }
        }
        self.due = due;
        self.due.clear();
        replies
    }

    /// Says whether `WAIT` was answered with as many replicas as were asked for.
    async fn read_replies(
        &mut self,
        due: &[Due],
        wait: Option<u32>,
        replies: &mut Vec<Ended>,
    ) -> std::io::Result<bool> {
        self.stream.write_all(&self.out).await?;
        let mut from = 0;
        for Due { at, .. } in due.iter().copied() {
            let (length, kind) = self.reply_at(from).await?;
            let reply = match kind {
                ReplyKind::Good => Reply::Found(Found::Good),
                ReplyKind::Nil => Reply::Found(Found::Missing),
                ReplyKind::Error(words) => {
                    error_reply(&self.input[from + words.start..from + words.end])
                }
            };
            replies.push((at, Instant::now(), reply));
            from += length;
        }
        let Some(wait) = wait else {
            return Ok(true);
        };
        let (length, _) = self.reply_at(from).await?;
        Ok(integer(&self.input[from..from + length]).is_some_and(|got| got >= u64::from(wait)))
    }

    async fn next_reply(&mut self) -> std::io::Result<(usize, ReplyKind)> {
        self.reply_at(0).await
    }

    /// The reply that begins there, once it is whole.
    async fn reply_at(&mut self, from: usize) -> std::io::Result<(usize, ReplyKind)> {
        loop {
            if let Some(reply) = resp::scan(&self.input[from..]).map_err(std::io::Error::other)? {
                return Ok(reply);
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn error_reply(words: &[u8]) -> Reply {
    if let Some((slot, address)) = resp::moved(words) {
        return Reply::Moved {
            slot,
            to: address.to_owned(),
        };
    }
    let kind = words.split(|&byte| byte == b' ').next().unwrap_or_default();
    Reply::Error(String::from_utf8_lossy(kind).into_owned())
}

/// The number of an integer reply.
fn integer(reply: &[u8]) -> Option<u64> {
    let text = reply.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_told_apart() {
        assert_eq!(integer(b":12\r\n"), Some(12));
        assert_eq!(integer(b"+OK\r\n"), None);
        assert_eq!(integer(b":-1\r\n"), None);
        assert!(matches!(
            error_reply(b"MOVED 7 127.0.0.1:1"),
            Reply::Moved { slot: 7, to } if to == "127.0.0.1:1"
        ));
        assert!(matches!(
            error_reply(b"NOREPLICAS Not enough"),
            Reply::Error(words) if words == "NOREPLICAS"
        ));
    }

    /// A server without a cluster, which answers a write, a read of a missing key and a `WAIT`
    /// byte by byte.
    fn server(wait: &'static [u8]) -> String {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let mut chunk = [0; 4096];
                    while let Ok(read) = stream.read(&mut chunk) {
                        let asked = &chunk[..read];
                        let holds = |word: &[u8]| asked.windows(word.len()).any(|it| it == word);
                        let reply: Vec<u8> = if holds(b"CLUSTER") {
                            b"-ERR This instance has cluster support disabled\r\n".to_vec()
                        } else if holds(b"WAIT") {
                            [b"+OK\r\n$-1\r\n", wait].concat()
                        } else {
                            return;
                        };
                        for byte in reply {
                            if stream.write_all(&[byte]).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn writes_are_good_once_the_wait_after_them_is() {
        for (reply, good) in [(&b":1\r\n"[..], true), (b":0\r\n", false)] {
            let servers = Servers::open(vec![server(reply)], Level::Primary, 1, Increments::Owner)
                .expect("slots");
            let mut connection = servers.connect(0).await.expect("a connection");
            let mut random = Random::new(1);
            let values = Values::new(8, &mut random);
            let operation = cairn_workload::operation::Operation::Update;
            let calls = [
                Call::new(Verb::Set, operation, 1),
                Call::new(Verb::Get, operation, 2),
            ];
            let answers = connection.exchange(&calls, &values, &mut random).await;
            let outcomes: Vec<_> = answers
                .into_iter()
                .map(|(_, outcome)| outcome.ok())
                .collect();
            let write = good.then_some(Found::Good);
            assert_eq!(outcomes, [write, Some(Found::Missing)]);
        }
    }
}
