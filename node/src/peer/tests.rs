//! Two nodes against each other, over loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cairn_client::transport::{ByteStream, Dialer};
use cairn_core::ids::{Epoch, Index, MapVersion, Mark, NodeId, PartitionId, Position, ReplicaId};
use cairn_core::record::{Addresses, ClusterMap};
use cairn_core::replication::message::Append;
use cairn_core::replication::{EntryKind, GiveError, LogEntry, PeerMessage, SnapshotWanted};
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::*;
use crate::grpc::fake::{Process, bind_again, map_of, plain_listener};
use crate::grpc::{ServeConfig, serve};

/// What no test should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a node heard.
#[derive(Clone, PartialEq, Debug)]
enum Heard {
    Messages(NodeId, Vec<PeerMessage>),
    Connected(NodeId),
    Unreachable(Vec<NodeId>),
}

struct Ear(UnboundedSender<Heard>);

impl PeerSink for Ear {
    fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>) -> Option<BoxFuture<'static, ()>> {
        let _ = self.0.send(Heard::Messages(from, messages));
        // Waiting for room must lose nothing.
        Some(Box::pin(tokio::task::yield_now()))
    }
}

impl PeerEvents for Ear {
    fn connected(&self, peer: NodeId) {
        let _ = self.0.send(Heard::Connected(peer));
    }

    fn unreachable(&self, peers: Vec<NodeId>) {
        let _ = self.0.send(Heard::Unreachable(peers));
    }
}

/// Copies of replica 1, in three chunks; the third read of replica 2 fails.
struct Copies;

struct Copy {
    left: u8,
    fails: bool,
    expected: u64,
}

impl SnapshotSource for Copies {
    fn open(
        &self,
        _: NodeId,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotReader>, SnapshotRefusal>> {
        let SnapshotWanted {
            partition, replica, ..
        } = wanted;
        let opened: Result<Box<dyn SnapshotReader>, _> = if replica.0 <= 2 {
            Ok(Box::new(Copy {
                left: 3,
                fails: replica.0 == 2,
                expected: 0,
            }))
        } else {
            Err(SnapshotRefusal::Refused {
                partition,
                replica,
                reason: GiveError::NotHere,
            })
        };
        Box::pin(async move { opened })
    }
}

impl SnapshotReader for Copy {
    fn mark(&self) -> Mark {
        mark(7)
    }

    fn lineage(&self) -> Vec<Mark> {
        vec![mark(7)]
    }

    fn expected_bytes(&self) -> u64 {
        self.expected
    }

    fn next_chunk(&mut self, bytes: usize) -> Result<Option<Bytes>, String> {
        if self.left == 0 {
            return Ok(None);
        }
        if self.fails && self.left == 1 {
            return Err("the disk says no".to_owned());
        }
        self.left -= 1;
        self.expected = (bytes * 3) as u64;
        Ok(Some(vec![self.left; bytes].into()))
    }
}

fn mark(index: u64) -> Mark {
    Mark {
        position: Position {
            epoch: Epoch(1),
            index: Index(index),
        },
        chain: 99,
    }
}

struct Node {
    number: u64,
    map: SharedMap,
    process: Process,
    pool: PeerPool,
    heard: UnboundedReceiver<Heard>,
}

impl Node {
    fn start(number: u64, listener: std::net::TcpListener, map: ClusterMap) -> Self {
        let own = LocalIdentity {
            node: NodeId(number),
            uuid: format!("uuid-{number}"),
            incarnation: format!("incarnation-{number}"),
            session: number,
        };
        Self::start_as(own, listener, map)
    }

    fn start_as(own: LocalIdentity, listener: std::net::TcpListener, map: ClusterMap) -> Self {
        Self::start_with(own, listener, map, Dialer::default())
    }

    fn start_with(
        own: LocalIdentity,
        listener: std::net::TcpListener,
        map: ClusterMap,
        dialer: Dialer,
    ) -> Self {
        let (ear, heard) = unbounded_channel();
        let map: SharedMap = Arc::new(ArcSwap::from_pointee(map));
        let process = Process::start();
        let shutdown = CancellationToken::new();
        listener.set_nonblocking(true).expect("non-blocking");
        let pool = {
            let _inside = process.runtime().enter();
            let pool = PeerPool::start(
                own.clone(),
                PeerConfig::default(),
                dialer,
                Arc::clone(&map),
                Arc::new(Ear(ear.clone())),
                shutdown.clone(),
            );
            let service = PeerService::new(
                pool.clone(),
                PeerConfig::default(),
                Arc::new(Ear(ear)),
                Arc::new(Copies),
                Throttle::new(1 << 30),
                shutdown.clone(),
            );
            tokio::spawn(serve(
                TcpListener::from_std(listener).expect("listener"),
                Routes::new(service.into_server()),
                ServeConfig::default(),
                plain_listener(),
                shutdown,
            ));
            pool
        };
        Self {
            number: own.node.0,
            map,
            process,
            pool,
            heard,
        }
    }

    /// Takes what was heard until `wanted` has come.
    async fn hear(&mut self, wanted: &Heard) {
        while self.next().await != *wanted {}
    }

    async fn next(&mut self) -> Heard {
        timeout(PATIENCE, self.heard.recv())
            .await
            .unwrap_or_else(|_| panic!("node {} heard nothing", self.number))
            .expect("the node lives")
    }

    /// Takes messages from `from` until there are `count`.
    async fn messages(&mut self, from: u64, count: usize) -> Vec<PeerMessage> {
        let mut all = Vec::new();
        while all.len() < count {
            if let Heard::Messages(sender, messages) = self.next().await {
                assert_eq!(sender, NodeId(from));
                all.extend(messages);
            }
        }
        all
    }
}

fn listeners(count: usize) -> (Vec<std::net::TcpListener>, Vec<SocketAddr>) {
    let listeners: Vec<_> = (0..count)
        .map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("bind"))
        .collect();
    let addresses = listeners
        .iter()
        .map(|l| l.local_addr().expect("bound"))
        .collect();
    (listeners, addresses)
}

fn map(addresses: &[SocketAddr]) -> ClusterMap {
    let addresses = addresses.iter().map(|address| Addresses {
        peer: address.to_string(),
        ..Addresses::default()
    });
    map_of(1, Some(1), addresses.collect())
}

fn pair() -> (Node, Node, Vec<SocketAddr>) {
    let (listeners, addresses) = listeners(2);
    let mut listeners = listeners.into_iter();
    let mut start = |number| {
        let listener = listeners.next().expect("one each");
        Node::start(number, listener, map(&addresses))
    };
    (start(1), start(2), addresses)
}

fn versions(range: std::ops::Range<u64>) -> Vec<PeerMessage> {
    range
        .map(|n| PeerMessage::MapVersion(MapVersion(n)))
        .collect()
}

fn append(bytes: usize) -> PeerMessage {
    let previous = mark(4);
    let body = Bytes::from(vec![7; bytes]);
    PeerMessage::Append(Append {
        partition: PartitionId(0),
        epoch: Epoch(2),
        to: ReplicaId(2),
        from: ReplicaId(1),
        session: 1,
        previous,
        entries: vec![LogEntry::after(previous, Epoch(2), EntryKind::Write, body)],
        commit: Index(4),
    })
}

#[tokio::test]
async fn messages_travel_both_ways_in_order() {
    let (mut one, mut two, _) = pair();
    one.hear(&Heard::Connected(NodeId(2))).await;
    two.hear(&Heard::Connected(NodeId(1))).await;
    for n in 0..100 {
        one.pool.send(NodeId(2), versions(n * 10..n * 10 + 10));
    }
    two.pool.send(NodeId(1), versions(0..3));
    assert_eq!(two.messages(1, 1000).await, versions(0..1000));
    assert_eq!(one.messages(2, 3).await, versions(0..3));
    assert!(one.pool.is_connected(NodeId(2)));
    assert!(one.pool.unreachable().is_empty());
}

#[tokio::test]
async fn a_message_larger_than_a_frame_travels_too() {
    let (mut one, mut two, _) = pair();
    one.hear(&Heard::Connected(NodeId(2))).await;
    let large = append(16 << 20);
    one.pool
        .send(NodeId(2), vec![append(10), large.clone(), append(20)]);
    assert_eq!(
        two.messages(1, 3).await,
        vec![append(10), large, append(20)]
    );
}

#[tokio::test]
async fn a_killed_node_is_noticed_and_found_again() {
    let (mut one, two, addresses) = pair();
    one.hear(&Heard::Connected(NodeId(2))).await;
    drop(two.process);
    one.hear(&Heard::Unreachable(vec![NodeId(2)])).await;
    assert!(!one.pool.is_connected(NodeId(2)));
    // Dropped, not kept for later.
    one.pool.send(NodeId(2), versions(0..5));
    let mut two = Node::start(2, bind_again(addresses[1]).await, map(&addresses));
    one.hear(&Heard::Unreachable(vec![])).await;
    one.hear(&Heard::Connected(NodeId(2))).await;
    one.pool.send(NodeId(2), versions(5..6));
    assert_eq!(two.messages(1, 1).await, versions(5..6));
}

#[tokio::test]
async fn a_new_address_is_followed() {
    let (mut one, mut two, addresses) = pair();
    one.hear(&Heard::Connected(NodeId(2))).await;
    two.hear(&Heard::Connected(NodeId(1))).await;
    let (mut moved, moved_to) = listeners(1);
    let mut changed = map(&[addresses[0], moved_to[0]]);
    changed.version = MapVersion(2);
    let mut new = Node::start(2, moved.remove(0), changed.clone());
    one.map.store(Arc::new(changed));
    one.pool.map_changed();
    one.hear(&Heard::Connected(NodeId(2))).await;
    one.pool.send(NodeId(2), versions(8..9));
    assert_eq!(new.messages(1, 1).await, versions(8..9));
}

/// A name that goes on standing for where a pod was, and sockets that are a pod's own.
fn dialer(name: &'static str, was_at: &'static str, own: &'static str) -> Dialer {
    Dialer {
        connect: Some(Arc::new(move |host, port| {
            let host = if host == name { was_at } else { host };
            let to = format!("{host}:{port}").parse().expect("an address");
            Box::pin(async move {
                let socket = tokio::net::TcpSocket::new_v4()?;
                socket.bind(format!("{own}:0").parse().expect("an address"))?;
                Ok(Box::new(socket.connect(to).await?) as Box<dyn ByteStream>)
            })
        })),
        ..Dialer::default()
    }
}

#[tokio::test]
async fn a_new_process_is_dialled_back_where_its_name_leads_to_the_old_one() {
    let (name, old_pod, new_pod) = ("two.example", "127.0.0.1", "127.0.0.2");
    let (mut listeners, addresses) = listeners(2);
    let old = listeners.remove(1);
    let port = addresses[1].port();
    let map = |one: String| {
        let peers = [one, format!("{name}:{port}")].map(|peer| Addresses {
            peer,
            ..Addresses::default()
        });
        map_of(1, Some(1), peers.into())
    };
    let right = map(addresses[0].to_string());
    let identity = |number: u64, session: u64| LocalIdentity {
        node: NodeId(number),
        uuid: format!("uuid-{number}"),
        incarnation: format!("incarnation-{number}"),
        session,
    };
    let begin = |own, listener, map: &ClusterMap, ip| {
        Node::start_with(own, listener, map.clone(), dialer(name, old_pod, ip))
    };
    let mut one = begin(identity(1, 1), listeners.remove(0), &right, old_pod);
    // It finds nobody, and so does not call in the way of the process that is to follow it.
    let mut two = begin(identity(2, 2), old, &map("127.0.0.1:1".to_owned()), old_pod);
    one.hear(&Heard::Connected(NodeId(2))).await;
    one.pool.send(NodeId(2), versions(1..2));
    assert_eq!(two.messages(1, 1).await, versions(1..2));

    // The old process does not end: it stands for a host that is gone without a word.
    let listener = std::net::TcpListener::bind((new_pod, port)).expect("bind");
    let mut new = begin(identity(2, 3), listener, &right, new_pod);
    one.hear(&Heard::Connected(NodeId(2))).await;
    one.pool.send(NodeId(2), versions(2..3));
    assert_eq!(new.messages(1, 1).await, versions(2..3));
}

#[tokio::test]
async fn another_incarnation_is_not_let_in() {
    let (listeners, addresses) = listeners(2);
    let mut listeners = listeners.into_iter();
    let mut one = Node::start(1, listeners.next().expect("one"), map(&addresses));
    let wiped = LocalIdentity {
        node: NodeId(2),
        uuid: "uuid-2".to_owned(),
        incarnation: "another".to_owned(),
        session: 9,
    };
    let two = Node::start_as(wiped, listeners.next().expect("two"), map(&addresses));
    // It answers, so that it is not unreachable, and yet there is no stream either
    // way: a third node's stream shows that there was time for one.
    let third = LocalIdentity {
        node: NodeId(2),
        uuid: "uuid-2".to_owned(),
        incarnation: "incarnation-2".to_owned(),
        session: 10,
    };
    two.pool.send(NodeId(1), versions(0..1));
    let (mut other, _) = self::listeners(1);
    let mut honest = Node::start_as(third, other.remove(0), map(&addresses));
    honest.hear(&Heard::Connected(NodeId(1))).await;
    honest.pool.send(NodeId(1), versions(5..6));
    assert_eq!(one.messages(2, 1).await, versions(5..6));
    assert!(!one.pool.is_connected(NodeId(2)));
    assert!(!two.pool.is_connected(NodeId(1)));
    assert!(one.pool.unreachable().is_empty());
}

#[test]
fn mismatches_are_told_apart() {
    let own = LocalIdentity {
        node: NodeId(1),
        uuid: "uuid-1".to_owned(),
        incarnation: "incarnation-1".to_owned(),
        session: 1,
    };
    let map = map(&["127.0.0.1:1".parse().expect("address"); 2]);
    let theirs = cairn_proto::peer::Handshake {
        format: cairn_proto::FORMAT,
        cluster_id: "fake".to_owned(),
        node: NodeId(2),
        uuid: "uuid-2".to_owned(),
        incarnation: "incarnation-2".to_owned(),
        expected_uuid: "uuid-1".to_owned(),
        features: 0,
        session: 2,
    };
    let check = |change: &dyn Fn(&mut cairn_proto::peer::Handshake)| {
        let mut changed = theirs.clone();
        change(&mut changed);
        super::handshake::check(&own, &map, &changed)
    };
    assert_eq!(check(&|_| {}), Ok(()));
    let wrong = check(&|t| t.format += 1);
    assert!(matches!(wrong, Err(HandshakeError::Format { .. })));
    let wrong = check(&|t| t.cluster_id = "other".to_owned());
    assert!(matches!(wrong, Err(HandshakeError::Cluster { .. })));
    let wrong = check(&|t| t.expected_uuid = "uuid-3".to_owned());
    assert!(matches!(wrong, Err(HandshakeError::Receiver { .. })));
    let wrong = check(&|t| t.node = NodeId(9));
    assert!(matches!(wrong, Err(HandshakeError::NotMember { .. })));
    let wrong = check(&|t| t.uuid = "uuid-9".to_owned());
    assert!(matches!(wrong, Err(HandshakeError::Impostor { .. })));
}

#[tokio::test]
async fn a_snapshot_arrives_whole_or_not_at_all() {
    let (one, two, _) = pair();
    let fetch = |replica| {
        let pool = one.pool.clone();
        let wanted = SnapshotWanted {
            partition: PartitionId(0),
            replica: ReplicaId(replica),
            epoch: Epoch(1),
            after: Index(0),
        };
        async move { pool.fetch_snapshot(NodeId(2), &wanted).await }
    };
    let mut copy = fetch(1).await.expect("a copy");
    let size = PeerConfig::default().snapshot_chunk_bytes;
    for left in [2, 1, 0] {
        let part = copy.next().await.expect("a chunk");
        let rows = SnapshotPart::Rows {
            rows: vec![left; size].into(),
            expected_bytes: (size * 3) as u64,
            last: Index(7),
        };
        assert_eq!(part, rows);
    }
    let end = copy.next().await.expect("the end");
    let (mark, lineage) = (mark(7), vec![mark(7)]);
    assert_eq!(end, SnapshotPart::End { mark, lineage });

    let mut broken = fetch(2).await.expect("a copy that breaks");
    broken.next().await.expect("a chunk");
    broken.next().await.expect("a chunk");
    let error = broken.next().await.expect_err("the disk said no");
    assert!(matches!(&error, FetchError::Refused(s) if s.message().contains("the disk says no")));

    let error = fetch(3).await.expect_err("not here");
    assert!(matches!(&error, FetchError::Refused(s) if s.code() == tonic::Code::NotFound));
    drop(two);
    assert!(fetch(1).await.is_err());
}

#[tokio::test]
async fn a_node_gives_its_map_to_another() {
    let (mut one, two, _) = pair();
    one.hear(&Heard::Connected(NodeId(2))).await;
    let fetched = one.pool.fetch_map(NodeId(2)).await.expect("a map");
    assert_eq!(*fetched, *two.map.load_full());
    assert!(matches!(
        one.pool.fetch_map(NodeId(9)).await,
        Err(MapFetchError::NotConnected(_))
    ));
}
