//! A client of the Redis listener that counts bytes, over a pipe in memory.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::record::ClusterMap;
use cairn_node::listener::Ends;
use cairn_node::resp::{RespConfig, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::memory::{Answering, Memory, Shared, cluster_map};

/// Longer than any test takes, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the pipe holds.
pub(crate) const PIPE_BYTES: usize = 64 << 10;

/// A server, and the keys behind it.
pub(crate) struct Node {
    pub(crate) server: Arc<Server<Shared>>,
    /// The same for clients from outside.
    pub(crate) outside: Arc<Server<Shared>>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) map: Arc<ArcSwap<ClusterMap>>,
}

impl Node {
    /// One node that is primary of everything.
    pub(crate) fn alone(answering: Answering, config: RespConfig) -> Self {
        Self::of(cluster_map(1, 7000, &[Some(1)]), answering, config)
    }

    /// The first node of that map.
    pub(crate) fn of(map: ClusterMap, answering: Answering, config: RespConfig) -> Self {
        let map = Arc::new(ArcSwap::from_pointee(map));
        let memory = Arc::new(Memory::new(answering));
        let backend = Arc::new(Shared(Arc::clone(&memory)));
        let server = Arc::new(Server::new(backend, Arc::clone(&map), config, 7000));
        Self {
            outside: Arc::new(server.outside(7100)),
            server,
            memory,
            map,
        }
    }

    /// A new connection.
    pub(crate) fn connect(&self) -> Client {
        Self::connect_to(Arc::clone(&self.server))
    }

    /// A new connection from outside.
    pub(crate) fn connect_outside(&self) -> Client {
        Self::connect_to(Arc::clone(&self.outside))
    }

    fn connect_to(server: Arc<Server<Shared>>) -> Client {
        let (near, far) = duplex(PIPE_BYTES);
        let ends = Ends {
            remote: ([127, 0, 0, 1], 50_000).into(),
            local: ([127, 0, 0, 1], 7000).into(),
        };
        Client {
            stream: near,
            task: tokio::spawn(async move { server.connection(far, ends).await }),
        }
    }
}

/// One connection.
pub(crate) struct Client {
    pub(crate) stream: DuplexStream,
    pub(crate) task: JoinHandle<()>,
}

impl Client {
    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(PATIENCE, self.stream.write_all(bytes))
            .await
            .expect("the server reads")
            .expect("the server lives");
    }

    /// Sends a command, its arguments between spaces.
    pub(crate) async fn command(&mut self, text: &str) {
        self.send(&command(text)).await;
    }

    /// Reads exactly what is expected.
    pub(crate) async fn expect(&mut self, expected: &str) {
        let mut got = vec![0; expected.len()];
        let mut at = 0;
        while at < got.len() {
            let read = timeout(PATIENCE, self.stream.read(&mut got[at..]))
                .await
                .unwrap_or_else(|_| panic!("{expected:?} comes: {:?}", text(&got[..at])))
                .expect("the server lives");
            assert!(
                read > 0,
                "{expected:?}, not the end: {:?}",
                text(&got[..at])
            );
            at += read;
            // A shorter reply would leave the test waiting: look at what came so far.
            assert_eq!(text(&got[..at]), text(&expected.as_bytes()[..at]));
        }
    }

    /// Reads what is left of a line.
    pub(crate) async fn rest_of_line(&mut self) {
        while timeout(PATIENCE, self.stream.read_u8())
            .await
            .expect("the line ends")
            .expect("the server lives")
            != b'\n'
        {}
    }

    /// Sends a command and reads its reply.
    pub(crate) async fn call(&mut self, command: &str, expected: &str) {
        self.command(command).await;
        self.expect(expected).await;
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> String {
        let mut got = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut got))
            .await
            .expect("the server closes")
            .expect("the server lives");
        text(&got)
    }

    /// Reads one bulk or verbatim string.
    pub(crate) async fn bulk(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n") {
            head.push(
                timeout(PATIENCE, self.stream.read_u8())
                    .await
                    .expect("a reply comes")
                    .expect("the server lives"),
            );
        }
        let length: usize = text(&head[1..head.len() - 2]).parse().expect("a length");
        let mut body = vec![0; length + 2];
        timeout(PATIENCE, self.stream.read_exact(&mut body))
            .await
            .expect("the string comes")
            .expect("the server lives");
        text(&body[..length])
    }
}

/// A command, encoded.
pub(crate) fn command(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
