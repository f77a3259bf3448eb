//! A client that keeps what it reads, in RESP3, as `CLIENT TRACKING` has it: one connection to
//! each node, over which it reads, and is told what changed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

/// A value of RESP3, as far as nodes send them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// `+` and `$`.
    Text(Vec<u8>),
    /// `-`.
    Error(String),
    /// `:`.
    Integer(i64),
    /// `_`.
    Null,
    /// `*`, `~` and, flat, `%`.
    Many(Vec<Frame>),
    /// `>`: it answers nothing.
    Push(Vec<Frame>),
}

/// One connection.
#[derive(Debug)]
pub struct Resp3 {
    stream: BufReader<TcpStream>,
}

impl Resp3 {
    /// Connects, and asks for RESP3.
    ///
    /// # Errors
    /// Where nobody answers within `bound`.
    pub fn open(address: &str, bound: Duration) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address.parse()?, bound)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(bound))?;
        let mut this = Self {
            stream: BufReader::new(stream),
        };
        this.send(&["HELLO", "3"])?;
        this.frame()?;
        Ok(this)
    }

    /// Sends a command.
    ///
    /// # Errors
    /// Where the connection is broken.
    pub fn send(&mut self, words: &[&str]) -> Result<()> {
        let mut frame = format!("*{}\r\n", words.len());
        for word in words {
            frame.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.stream.get_mut().write_all(frame.as_bytes())?;
        Ok(())
    }

    /// Reads the next frame.
    ///
    /// # Errors
    /// Where none comes within the bound.
    pub fn frame(&mut self) -> Result<Frame> {
        let mut line = String::new();
        ensure!(self.stream.read_line(&mut line)? > 0, "it was closed");
        let (kind, rest) = line.trim_end().split_at(1);
        let count = || rest.parse::<usize>().context("a length");
        Ok(match kind {
            "+" => Frame::Text(rest.as_bytes().to_vec()),
            "-" => Frame::Error(rest.to_owned()),
            ":" => Frame::Integer(rest.parse()?),
            "_" => Frame::Null,
            "$" => {
                let mut bytes = vec![0; count()? + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(bytes.len() - 2);
                Frame::Text(bytes)
            }
            "*" | "~" | ">" | "%" => {
                let count = count()? * if kind == "%" { 2 } else { 1 };
                let all = (0..count).map(|_| self.frame()).collect::<Result<_>>()?;
                if kind == ">" {
                    Frame::Push(all)
                } else {
                    Frame::Many(all)
                }
            }
            other => bail!("a frame that begins with {other:?}"),
        })
    }

    /// What came without being asked for, while there is some.
    fn waiting(&mut self) -> Result<Option<Frame>> {
        if self.stream.buffer().is_empty() {
            self.stream.get_ref().set_nonblocking(true)?;
            let looked = self.stream.get_ref().peek(&mut [0]);
            self.stream.get_ref().set_nonblocking(false)?;
            match looked {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                looked => ensure!(looked? > 0, "it was closed"),
            }
        }
        self.frame().map(Some)
    }
}

/// A client that keeps what it reads. See the module.
#[derive(Debug)]
pub struct Keeper {
    bound: Duration,
    tracking: Vec<String>,
    connections: BTreeMap<String, Resp3>,
    /// The values by key, and from which node each came.
    kept: BTreeMap<String, (String, Vec<u8>)>,
}

impl Keeper {
    /// One that says `CLIENT TRACKING` and these words on each connection.
    #[must_use]
    pub fn new(tracking: &[&str], bound: Duration) -> Self {
        Self {
            bound,
            tracking: tracking.iter().map(|word| (*word).to_owned()).collect(),
            connections: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    fn connection(&mut self, node: &str) -> Result<&mut Resp3> {
        if !self.connections.contains_key(node) {
            let mut connection = Resp3::open(node, self.bound)?;
            let words = ["CLIENT", "TRACKING", "ON"].into_iter();
            let words: Vec<&str> = words
                .chain(self.tracking.iter().map(String::as_str))
                .collect();
            connection.send(&words)?;
            let reply = connection.frame()?;
            ensure!(reply == Frame::Text(b"OK".to_vec()), "{reply:?}");
            self.connections.insert(node.to_owned(), connection);
        }
        self.connections.get_mut(node).context("it was put there")
    }

    fn told(&mut self, node: &str, push: &[Frame]) -> Result<()> {
        let [Frame::Text(kind), what] = push else {
            bail!("told {push:?}");
        };
        ensure!(kind == b"invalidate", "told {push:?}");
        match what {
            Frame::Null => self.kept.retain(|_, (from, _)| from != node),
            Frame::Many(keys) => {
                for key in keys {
                    let Frame::Text(key) = key else {
                        bail!("told {push:?}");
                    };
                    self.kept.remove(&*String::from_utf8_lossy(key));
                }
            }
            other => bail!("told {other:?}"),
        }
        Ok(())
    }

    /// Reads a key of a node, and keeps it. Where the node does not answer with a value, what
    /// it says; where the connection breaks, everything that came over it is dropped.
    ///
    /// # Errors
    /// Where there is no value.
    pub fn read(&mut self, node: &str, key: &str) -> Result<Vec<u8>> {
        let read = self.try_read(node, key);
        if read.is_err() && !matches!(&read, Err(error) if error.is::<Refused>()) {
            self.drop_node(node);
        }
        read
    }

    fn try_read(&mut self, node: &str, key: &str) -> Result<Vec<u8>> {
        self.connection(node)?.send(&["GET", key])?;
        loop {
            match self.connection(node)?.frame()? {
                Frame::Push(push) => self.told(node, &push)?,
                Frame::Text(value) => {
                    let entry = (node.to_owned(), value.clone());
                    self.kept.insert(key.to_owned(), entry);
                    return Ok(value);
                }
                other => return Err(Refused(format!("GET {key} of {node}: {other:?}")).into()),
            }
        }
    }

    /// Takes what it was told. Nodes whose connections broke are dropped.
    ///
    /// # Errors
    /// Where that makes no sense.
    pub fn listen(&mut self) -> Result<()> {
        for node in self.connections.keys().cloned().collect::<Vec<_>>() {
            while let Some(connection) = self.connections.get_mut(&node) {
                match connection.waiting() {
                    Ok(None) => break,
                    Ok(Some(Frame::Push(push))) => self.told(&node, &push)?,
                    Ok(Some(other)) => bail!("{node} says {other:?}"),
                    Err(_) => self.drop_node(&node),
                }
            }
        }
        Ok(())
    }

    fn drop_node(&mut self, node: &str) {
        self.connections.remove(node);
        self.kept.retain(|_, (from, _)| from != node);
    }

    /// What it keeps of a key, and from which node.
    #[must_use]
    pub fn kept(&self, key: &str) -> Option<(&str, &[u8])> {
        let (node, value) = self.kept.get(key)?;
        Some((node, value))
    }
}

/// A node answered that it does not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);
