//! As little of the Redis protocol as the load generator and the readiness probe of
//! `dev` need: encoding commands, finding the end of a reply, and reading
//! `CLUSTER SLOTS`.
//!
//! Encoding and scanning allocate nothing: the generator shares the machine with
//! what it measures.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::Range;
use std::time::Duration;

/// The longest reply that is taken from a server.
const REPLY_BYTES_MAX: usize = 64 << 20;
/// How deep arrays may nest.
const DEPTH_MAX: usize = 8;

/// Appends a command of RESP to `out`.
pub fn encode(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    out.push(b'*');
    push_number(out, arguments.len());
    for argument in arguments {
        out.push(b'$');
        push_number(out, argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends the number and the end of its line.
fn push_number(out: &mut Vec<u8>, number: usize) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// What a reply is, as far as the generator cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// A value, a status or a number.
    Good,
    /// No such key.
    Nil,
    /// An error, and where its words are in the buffer.
    Error(Range<usize>),
}

/// The bytes are not RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server sent something that is not RESP")]
pub struct NotResp;

/// The length and the kind of the reply at the front of `bytes`, if it is whole.
/// Only the flat replies of `GET`, `SET` and `INCR` are understood.
///
/// # Errors
/// Where they are none.
pub fn scan(bytes: &[u8]) -> Result<Option<(usize, ReplyKind)>, NotResp> {
    let Some(&kind) = bytes.first() else {
        return Ok(None);
    };
    let Some(end) = line_end(bytes, 1) else {
        return if bytes.len() > 64 << 10 {
            Err(NotResp)
        } else {
            Ok(None)
        };
    };
    match kind {
        b'+' | b':' | b',' | b'#' => Ok(Some((end + 2, ReplyKind::Good))),
        b'-' => Ok(Some((end + 2, ReplyKind::Error(1..end)))),
        b'_' => Ok(Some((end + 2, ReplyKind::Nil))),
        b'$' => {
            if &bytes[1..end] == b"-1" {
                return Ok(Some((end + 2, ReplyKind::Nil)));
            }
            let length = number(&bytes[1..end])?;
            let whole = end + 2 + length + 2;
            if length > REPLY_BYTES_MAX {
                Err(NotResp)
            } else if bytes.len() < whole {
                Ok(None)
            } else {
                Ok(Some((whole, ReplyKind::Good)))
            }
        }
        _ => Err(NotResp),
    }
}

/// Where the line that `from` is in ends: the place of its `\r\n`.
fn line_end(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    let at = rest.iter().position(|&b| b == b'\r')?;
    (rest.get(at + 1) == Some(&b'\n')).then_some(from + at)
}

fn number(digits: &[u8]) -> Result<usize, NotResp> {
    if digits.is_empty() || digits.len() > 12 {
        return Err(NotResp);
    }
    digits.iter().try_fold(0usize, |sum, &digit| {
        if digit.is_ascii_digit() {
            Ok(sum * 10 + usize::from(digit - b'0'))
        } else {
            Err(NotResp)
        }
    })
}

/// A reply as a tree, for the few that are not hot.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Tree {
    Integer(i64),
    Text(Vec<u8>),
    Nil,
    Error(String),
    Array(Vec<Tree>),
}

/// The tree at the front of `bytes` and its length, if it is whole.
fn tree(bytes: &[u8], depth: usize) -> Result<Option<(usize, Tree)>, NotResp> {
    if depth > DEPTH_MAX {
        return Err(NotResp);
    }
    let Some(&kind) = bytes.first() else {
        return Ok(None);
    };
    let Some(end) = line_end(bytes, 1) else {
        return Ok(None);
    };
    let line = &bytes[1..end];
    let after = end + 2;
    let whole = |tree| Ok(Some((after, tree)));
    match kind {
        b'+' => whole(Tree::Text(line.to_vec())),
        b'-' => whole(Tree::Error(String::from_utf8_lossy(line).into_owned())),
        b'_' => whole(Tree::Nil),
        b':' => std::str::from_utf8(line)
            .ok()
            .and_then(|text| text.parse().ok())
            .map_or(Err(NotResp), |n| whole(Tree::Integer(n))),
        b'$' | b'*' | b'%' | b'~' if line == b"-1" => whole(Tree::Nil),
        b'$' => {
            let length = number(line)?;
            Ok(bytes
                .get(after..after + length)
                .filter(|_| bytes.len() >= after + length + 2)
                .map(|text| (after + length + 2, Tree::Text(text.to_vec()))))
        }
        b'*' | b'~' | b'%' => {
            let count = number(line)? * if kind == b'%' { 2 } else { 1 };
            let mut items = Vec::new();
            let mut at = after;
            for _ in 0..count {
                let Some((length, item)) = tree(&bytes[at..], depth + 1)? else {
                    return Ok(None);
                };
                at += length;
                items.push(item);
            }
            Ok(Some((at, Tree::Array(items))))
        }
        _ => Err(NotResp),
    }
}

/// A range of slots and the address of its primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotOwner {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
    /// `host:port`.
    pub primary: String,
    /// Those of its replicas.
    pub replicas: Vec<String>,
}

/// Asks one server for `CLUSTER SLOTS`. A server that is no cluster owns all.
///
/// # Errors
/// Where it cannot be reached, or knows none.
pub fn fetch_slots(
    address: &str,
    timeout: Duration,
    auth: Option<&Auth>,
) -> io::Result<Vec<SlotOwner>> {
    let mut stream = connect(address, timeout, auth)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut request = Vec::new();
    encode(&mut request, &[b"CLUSTER", b"SLOTS"]);
    stream.write_all(&request)?;
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 16 << 10];
    let reply = loop {
        let read = stream.read(&mut chunk)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&chunk[..read]);
        if bytes.len() > REPLY_BYTES_MAX {
            return Err(io::Error::other(NotResp));
        }
        if let Some((_, reply)) = tree(&bytes, 0).map_err(io::Error::other)? {
            break reply;
        }
    };
    owners(&reply, address).map_err(io::Error::other)
}

fn owners(reply: &Tree, asked: &str) -> Result<Vec<SlotOwner>, String> {
    let ranges = match reply {
        Tree::Array(ranges) => ranges,
        Tree::Error(words) if words.contains("cluster support disabled") => {
            return Ok(vec![SlotOwner {
                first: 0,
                last: 16_383,
                primary: asked.to_owned(),
                replicas: Vec::new(),
            }]);
        }
        Tree::Error(words) => return Err(words.clone()),
        Tree::Integer(_) | Tree::Text(_) | Tree::Nil => {
            return Err("CLUSTER SLOTS was not answered with an array".to_owned());
        }
    };
    let asked_host = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
    ranges
        .iter()
        .map(|range| owner(range, asked_host))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| "CLUSTER SLOTS was answered in an unknown form".to_owned())
}

fn owner(range: &Tree, asked_host: &str) -> Option<SlotOwner> {
    let Tree::Array(parts) = range else {
        return None;
    };
    let [Tree::Integer(first), Tree::Integer(last), nodes @ ..] = parts.as_slice() else {
        return None;
    };
    let (primary, replicas) = nodes.split_first()?;
    let slot = |slot: i64| u16::try_from(slot).ok().filter(|slot| *slot < 16_384);
    Some(SlotOwner {
        first: slot(*first)?,
        last: slot(*last)?,
        primary: node_address(primary, asked_host)?,
        replicas: replicas
            .iter()
            .map(|node| node_address(node, asked_host))
            .collect::<Option<_>>()?,
    })
}

fn node_address(node: &Tree, asked_host: &str) -> Option<String> {
    let Tree::Array(node) = node else {
        return None;
    };
    let [host, Tree::Integer(port), ..] = node.as_slice() else {
        return None;
    };
    let host = match host {
        // An empty or missing host stands for the one that was asked.
        Tree::Text(host) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
        _ => asked_host.to_owned(),
    };
    Some(format!("{host}:{}", u16::try_from(*port).ok()?))
}

/// What logs a connection in.
#[derive(Clone, PartialEq, Eq)]
pub struct Auth {
    command: Vec<u8>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Auth(..)")
    }
}

impl Auth {
    /// With the arguments of `AUTH`.
    pub fn new(arguments: &[&[u8]]) -> Self {
        let words: Vec<&[u8]> = std::iter::once(&b"AUTH"[..])
            .chain(arguments.iter().copied())
            .collect();
        let mut command = Vec::new();
        encode(&mut command, &words);
        Self { command }
    }

    fn log_in(&self, stream: &mut TcpStream, timeout: Duration) -> io::Result<()> {
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        stream.write_all(&self.command)?;
        let mut answer = Vec::new();
        let mut byte = [0];
        loop {
            if let Some((_, kind)) = scan(&answer).map_err(io::Error::other)? {
                return match kind {
                    ReplyKind::Error(words) => Err(io::Error::new(
                        io::ErrorKind::PermissionDenied,
                        String::from_utf8_lossy(&answer[words]).into_owned(),
                    )),
                    ReplyKind::Good | ReplyKind::Nil => Ok(()),
                };
            }
            stream.read_exact(&mut byte)?;
            answer.push(byte[0]);
        }
    }
}

/// Connects within a bound, to the first address that answers, and logs in.
///
/// # Errors
/// Where none answers, or does not let it in.
pub fn connect(address: &str, timeout: Duration, auth: Option<&Auth>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(mut stream) => {
                stream.set_nodelay(true)?;
                if let Some(auth) = auth {
                    auth.log_in(&mut stream, timeout)?;
                }
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The slot and address of a `MOVED` error's words, or none if it is another one.
pub fn moved(words: &[u8]) -> Option<(u16, &str)> {
    let text = std::str::from_utf8(words).ok()?;
    let (slot, address) = text.strip_prefix("MOVED ")?.split_once(' ')?;
    Some((slot.parse().ok().filter(|slot| *slot < 16_384)?, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_encoded_as_redis_reads_them() {
        let mut out = Vec::new();
        encode(&mut out, &[b"SET", b"key", b"a\r\nb"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$4\r\na\r\nb\r\n");
    }

    #[test]
    fn a_reply_is_found_however_it_is_cut() {
        for (reply, kind) in [
            (&b"+OK\r\n"[..], ReplyKind::Good),
            (b":12\r\n", ReplyKind::Good),
            (b"$5\r\nhe\r\no\r\n", ReplyKind::Good),
            (b"$0\r\n\r\n", ReplyKind::Good),
            (b"$-1\r\n", ReplyKind::Nil),
            (b"_\r\n", ReplyKind::Nil),
            (b"-ERR no\r\n", ReplyKind::Error(1..7)),
        ] {
            for cut in 0..reply.len() {
                assert_eq!(scan(&reply[..cut]), Ok(None), "{reply:?} cut at {cut}");
            }
            assert_eq!(scan(reply), Ok(Some((reply.len(), kind))));
        }
        assert_eq!(scan(b"HTTP/1.1 400\r\n"), Err(NotResp));
        assert_eq!(scan(b"$99999999999\r\n"), Err(NotResp));
    }

    #[test]
    fn slots_are_read() {
        let reply = b"*2\r\n*3\r\n:0\r\n:99\r\n*3\r\n$9\r\n127.0.0.1\r\n:6379\r\n$2\r\nid\r\n\
                      *4\r\n:100\r\n:16383\r\n*2\r\n$0\r\n\r\n:6380\r\n*2\r\n$1\r\na\r\n:6381\r\n";
        let (length, parsed) = tree(reply, 0).expect("RESP").expect("whole");
        assert_eq!(length, reply.len());
        assert_eq!(
            owners(&parsed, "host:1").expect("slots"),
            [
                SlotOwner {
                    first: 0,
                    last: 99,
                    primary: "127.0.0.1:6379".to_owned(),
                    replicas: Vec::new(),
                },
                SlotOwner {
                    first: 100,
                    last: 16_383,
                    primary: "host:6380".to_owned(),
                    replicas: vec!["a:6381".to_owned()],
                },
            ]
        );
        for cut in 0..reply.len() {
            assert_eq!(tree(&reply[..cut], 0), Ok(None));
        }
    }

    #[test]
    fn a_redirection_is_read() {
        assert_eq!(
            moved(b"MOVED 12182 10.0.0.1:6379"),
            Some((12_182, "10.0.0.1:6379"))
        );
        assert_eq!(moved(b"MOVED 99999 10.0.0.1:6379"), None);
        assert_eq!(moved(b"ERR no"), None);
    }
}
