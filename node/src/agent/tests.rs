//! Agents against real coordinators, with an engine that only takes notes.

use cairn_core::cluster::report::{NodeFigures, Role, Wish};
use cairn_core::ids::{Epoch, Index, Micros, PartitionId, Position, ReplicaId};
use parking_lot::Mutex;
use tempfile::TempDir;

use super::*;
use crate::coordinator::tests::{Fleet, eventually, settings};

#[derive(Debug, Default)]
struct Notes {
    events: Mutex<Vec<Event>>,
    maps: Mutex<Vec<Arc<ClusterMap>>>,
    full: Mutex<usize>,
    statuses: Mutex<Vec<PartitionStatus>>,
}

impl Notes {
    /// What the engine was told of the coordinators, in order.
    fn reach(&self) -> Vec<bool> {
        let events = self.events.lock();
        events
            .iter()
            .filter_map(|event| match event {
                Event::Coordinators { reachable } => Some(*reachable),
                _ => None,
            })
            .collect()
    }

    fn newest(&self) -> MapVersion {
        self.maps
            .lock()
            .last()
            .map(|m| m.version)
            .unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default)]
struct Engine(Arc<Notes>);

impl EngineLink for Engine {
    fn submit(&self, event: Event) {
        if matches!(event, Event::Drain) {
            for status in self.0.statuses.lock().iter_mut() {
                status.role = Role::Replica;
            }
        }
        self.0.events.lock().push(event);
    }

    fn statuses(&self, full: bool) -> BoxFuture<'static, Vec<PartitionStatus>> {
        *self.0.full.lock() += usize::from(full);
        let statuses = self.0.statuses.lock().clone();
        async move { statuses }.boxed()
    }

    fn set_map(&self, map: Arc<ClusterMap>) {
        self.0.maps.lock().push(map);
    }
}

/// Other data nodes that all have one map, and how often they were asked for it.
#[derive(Debug, Default)]
struct Peers(Mutex<Option<Arc<ClusterMap>>>, Mutex<usize>);

impl PeerLink for Peers {
    fn map_changed(&self) {}

    fn fetch_map(&self, _: NodeId) -> BoxFuture<'static, Result<Arc<ClusterMap>, String>> {
        *self.1.lock() += 1;
        let map = self.0.lock().clone().ok_or_else(|| "no map".to_owned());
        async move { map }.boxed()
    }
}

/// One data node, and its disk.
struct Node {
    dir: TempDir,
    identity: NodeIdentity,
    engine: Engine,
    peers: Arc<Peers>,
    sessions: u64,
}

impl Node {
    fn new(uuid: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            identity: NodeIdentity {
                uuid: uuid.to_owned(),
                incarnation: format!("{uuid}-1"),
                cluster_id: None,
                node: None,
            },
            engine: Engine::default(),
            peers: Arc::default(),
            sessions: 0,
        }
    }

    fn config(&mut self, fleet: &Fleet) -> AgentConfig {
        self.sessions += 1;
        let mut config = AgentConfig::new(
            format!("n-{}", self.identity.uuid),
            self.sessions,
            fleet.addresses.clone(),
            self.dir.path().join("map"),
        );
        config.coordinators_grace = Duration::from_millis(300);
        config
    }

    async fn enroll(&mut self, fleet: &Fleet) -> Result<Enrolled, AgentError> {
        let config = self.config(fleet);
        let enrolled = enroll(config, self.identity.clone(), CancellationToken::new()).await?;
        self.identity.node = Some(enrolled.node);
        self.identity.cluster_id = Some(enrolled.map.load().cluster_id.clone());
        Ok(enrolled)
    }

    fn spawn(&self, enrolled: Enrolled) -> Agent {
        let engine = Arc::new(self.engine.clone());
        let peers = Arc::clone(&self.peers) as Arc<dyn PeerLink>;
        spawn(enrolled, engine, peers, CancellationToken::new())
    }

    async fn connected(agent: &Agent) -> String {
        let mut status = agent.status();
        let status = eventually("a session", || {
            let now = status.borrow_and_update().clone();
            async move { now.connected.then_some(now) }
        })
        .await;
        status.leader.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_admitted_and_follows_the_leader() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    let (number, map) = (enrolled.node, Arc::clone(&enrolled.map));
    assert!(map.load().nodes.contains_key(&number));
    let agent = node.spawn(enrolled);
    let leader = fleet.leader().await;
    assert_eq!(Node::connected(&agent).await, fleet.addresses[leader].peer);

    fleet.stop(leader).await;
    let next = fleet.leader().await;
    eventually("a session with the next leader", || async {
        let status = agent.status().borrow().clone();
        (status.leader.as_ref() == Some(&fleet.addresses[next].peer)).then_some(())
    })
    .await;
    // Each session begins with a heartbeat that tells everything.
    eventually("a full heartbeat to each", || async {
        (*node.engine.0.full.lock() >= 2).then_some(())
    })
    .await;

    // Another node's admission reaches this one's map, and its disk.
    let other = Node::new("u2").enroll(&fleet).await.unwrap().node;
    assert_ne!(other, number);
    eventually("the other node in the map", || async {
        map.load().nodes.contains_key(&other).then_some(())
    })
    .await;
    agent.stop().await;
    let kept = map_file::read(&node.dir.path().join("map")).unwrap();
    assert_eq!(kept.unwrap(), **map.load());
    assert_eq!(node.engine.0.newest(), map.load().version);
    // It may grant what the next start would wait out: that is on the disk now.
    let longest = Micros::from_millis(map.load().settings.as_ref().unwrap().lease_ms_longest);
    let told = |event: &Event| matches!(event, Event::LeaseKept { longest: l } if *l == longest);
    assert!(node.engine.0.events.lock().iter().any(told));
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_starts_from_its_disk_while_the_coordinators_are_away() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    let number = enrolled.node;
    let agent = node.spawn(enrolled);
    Node::connected(&agent).await;
    eventually("the map on disk", || async {
        map_file::read(&node.dir.path().join("map"))
            .unwrap()
            .map(drop)
    })
    .await;
    agent.stop().await;
    fleet.stop_all().await;

    node.engine = Engine::default();
    let enrolled = node.enroll(&fleet).await.unwrap();
    assert_eq!(enrolled.node, number);
    let agent = node.spawn(enrolled);
    eventually("the coordinators to count as away", || async {
        (node.engine.0.reach() == [false]).then_some(())
    })
    .await;
    fleet.start(0).await;
    Node::connected(&agent).await;
    eventually("the coordinators to count as back", || async {
        (node.engine.0.reach() == [false, true]).then_some(())
    })
    .await;
    agent.stop().await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_refused_and_refuses() {
    let mut ours = Fleet::started(1, settings(1)).await;
    let mut theirs = Fleet::started(1, settings(1)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&ours).await.unwrap();
    let agent = node.spawn(enrolled);
    Node::connected(&agent).await;
    eventually("the map on disk", || async {
        map_file::read(&node.dir.path().join("map"))
            .unwrap()
            .map(drop)
    })
    .await;
    agent.stop().await;
    // The map names them, and a node that reached them would be in touch with its own.
    ours.stop_all().await;

    // Its map is good enough to start from, and its session is refused.
    node.engine = Engine::default();
    let enrolled = node.enroll(&theirs).await.unwrap();
    let agent = node.spawn(enrolled);
    eventually("the coordinators to count as away", || async {
        (node.engine.0.reach() == [false]).then_some(())
    })
    .await;
    assert!(!agent.status().borrow().connected);
    agent.stop().await;

    // Without a map it is refused outright.
    std::fs::remove_file(node.dir.path().join("map")).unwrap();
    let refused = node.enroll(&theirs).await;
    assert!(
        matches!(refused, Err(AgentError::Refused(_))),
        "{refused:?}"
    );
    theirs.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_map_comes_from_a_peer_and_another_clusters_does_not() {
    let mut fleet = Fleet::started(1, settings(3)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    fleet.stop_all().await;
    let (map, inbox) = (Arc::clone(&enrolled.map), enrolled.inbox.clone());
    let agent = node.spawn(enrolled);
    let mut newer = ClusterMap::clone(&map.load());
    newer.version = MapVersion(newer.version.0 + 10);
    let mut foreign = newer.clone();
    foreign.cluster_id = "another".to_owned();
    foreign.version = MapVersion(newer.version.0 + 1);

    *node.peers.0.lock() = Some(Arc::new(newer.clone()));
    inbox.peer_map(NodeId(77), newer.version);
    eventually("the peer's map", || async {
        (node.engine.0.newest() == newer.version).then_some(())
    })
    .await;
    *node.peers.0.lock() = Some(Arc::new(foreign.clone()));
    inbox.peer_map(NodeId(77), foreign.version);
    // Asked for a second time: by then the first answer was looked at.
    let asked = *node.peers.1.lock();
    eventually("the foreign map to be looked at", || async {
        (*node.peers.1.lock() >= asked + 2).then_some(())
    })
    .await;
    newer.version = MapVersion(foreign.version.0 + 1);
    *node.peers.0.lock() = Some(Arc::new(newer.clone()));
    inbox.peer_map(NodeId(77), newer.version);
    eventually("a later map of the own cluster", || async {
        (node.engine.0.newest() == newer.version).then_some(())
    })
    .await;
    assert!(
        node.engine
            .0
            .maps
            .lock()
            .iter()
            .all(|m| m.cluster_id != "another")
    );
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_went_back_in_time_is_not_followed() {
    let mut fleet = Fleet::started(1, settings(3)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    fleet.stop(0).await;
    let kept = tempfile::tempdir().unwrap();
    copy(&fleet.data_dir(0), &kept.path().join("raft"));
    fleet.start(0).await;
    fleet.leader().await;
    let map = Arc::clone(&enrolled.map);
    let agent = node.spawn(enrolled);
    Node::connected(&agent).await;
    // More than the leader itself notes once it is back.
    for other in ["u2", "u3", "u4", "u5"] {
        let other = Node::new(other).enroll(&fleet).await.unwrap().node;
        eventually("the other node in the map", || async {
            map.load().nodes.contains_key(&other).then_some(())
        })
        .await;
    }
    let newest = map.load_full();
    fleet.stop(0).await;
    std::fs::remove_dir_all(fleet.data_dir(0)).unwrap();
    copy(&kept.path().join("raft"), &fleet.data_dir(0));
    fleet.start(0).await;
    fleet.leader().await;
    // It would be followed into the past, and the node's map never change again.
    eventually("the leader to be found behind", || async {
        let status = agent.status().borrow().clone();
        assert!(!status.connected || !status.leader_behind);
        status.leader_behind.then_some(())
    })
    .await;
    assert_eq!(**map.load(), *newest);
    agent.stop().await;
    fleet.stop_all().await;
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_configured_with_one_coordinator_finds_those_that_took_its_place() {
    let mut fleet = Fleet::started(1, settings(3)).await;
    let configured = fleet.addresses.clone();
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    let map = Arc::clone(&enrolled.map);
    let agent = node.spawn(enrolled);
    Node::connected(&agent).await;
    fleet.replace_by(&[1, 2, 3]).await;
    eventually("the node to hear of the new ones", || async {
        (map.load().coordinators.len() == 3).then_some(())
    })
    .await;
    agent.stop().await;
    // The one that it is configured with is gone for good.
    let mut config = node.config(&fleet);
    config.coordinators = configured;
    let identity = node.identity.clone();
    let enrolled = enroll(config, identity, CancellationToken::new())
        .await
        .unwrap();
    let agent = node.spawn(enrolled);
    let leader = fleet.leader().await;
    assert_eq!(Node::connected(&agent).await, fleet.addresses[leader].peer);
    agent.stop().await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_coordinator_that_is_frozen_is_not_waited_for_alone() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let mut node = Node::new("u1");
    let mut enrolled = node.enroll(&fleet).await.unwrap();
    // It takes connections, and never says a word.
    let frozen = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = frozen.local_addr().unwrap();
    let config = &mut enrolled.config;
    config
        .coordinators
        .insert(0, format!("frozen={address}").parse().unwrap());
    config.session = 0;
    // Whoever waits for it to answer waits for longer than the test.
    config.connect_timeout = Duration::from_secs(3_600);
    let agent = node.spawn(enrolled);
    assert_eq!(Node::connected(&agent).await, fleet.addresses[0].peer);
    drop(frozen);
    agent.stop().await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_ends_once_nothing_is_led_any_more() {
    let mut fleet = Fleet::started(1, settings(3)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    node.engine.0.statuses.lock().push(PartitionStatus {
        partition: PartitionId(3),
        replica: ReplicaId(9),
        epoch: Epoch(1),
        role: Role::Primary,
        head: Position::ZERO,
        commit: Index::ZERO,
        applied: Index::ZERO,
        wish: Wish::None,
        followers: Vec::new(),
        bytes: None,
        copying: None,
    });
    let agent = node.spawn(enrolled);
    Node::connected(&agent).await;
    assert!(agent.drain(Duration::from_secs(30)).await);
    let drained = node
        .engine
        .0
        .events
        .lock()
        .iter()
        .any(|e| matches!(e, Event::Drain));
    assert!(drained);
    agent.stop().await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_coordinators_show_what_a_node_tells_of_its_disk_and_its_load() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let mut node = Node::new("u1");
    let enrolled = node.enroll(&fleet).await.unwrap();
    let inbox = enrolled.inbox.clone();
    let agent = node.spawn(enrolled);
    let shown = async |name: &str| fleet.status(0).await["nodes"][0][name].as_u64();
    Node::connected(&agent).await;
    assert_eq!(shown("diskTotalBytes").await, None);
    inbox.set_figures(NodeFigures {
        disk_total_bytes: 100,
        disk_free_bytes: 40,
        reads_per_second: 7,
        writes_per_second: 5,
        bytes_per_second: 900,
    });
    eventually("the free space", || async {
        (shown("diskFreeBytes").await == Some(40)).then_some(())
    })
    .await;
    assert_eq!(shown("diskTotalBytes").await, Some(100));
    assert_eq!(shown("readsPerSecond").await, Some(7));
    assert_eq!(shown("writesPerSecond").await, Some(5));
    assert_eq!(shown("bytesPerSecond").await, Some(900));
    agent.stop().await;
    fleet.stop_all().await;
}

/// Waits until the coordinators know the node at that place.
async fn known_at(fleet: &Fleet, zone: &str, weight: u64) {
    eventually("the node at its place", || async {
        let status = fleet.status(fleet.leader().await).await;
        let zone_is = status["nodes"][0]["zone"] == zone;
        (zone_is && status["ring"][0]["weight"] == weight).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_waits_for_its_place_and_registers_anew_where_that_changes() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let mut node = Node::new("u1");
    let file = node.dir.path().join("places.toml");
    let at = PlaceSettings {
        file: Some(PlacesFile {
            path: file.clone(),
            host: "worker-1".to_owned(),
        }),
        ..PlaceSettings::default()
    };
    let mut config = node.config(&fleet);
    let places = Places::new(&config.name, at.clone());
    config.places = places.clone();
    let enrolling = tokio::spawn(enroll(
        config,
        node.identity.clone(),
        CancellationToken::new(),
    ));
    eventually("the node to say what it waits for", || async {
        places.lack().filter(|lack| lack.contains("No such file"))
    })
    .await;
    std::fs::write(&file, "zones.worker-2 = 'b'").unwrap();
    eventually("the node to look again", || async {
        places.lack().filter(|lack| lack.contains("`worker-1`"))
    })
    .await;
    let registered = fleet.status(0).await["nodes"].as_array().unwrap().len();
    assert_eq!(registered, 0);
    std::fs::write(&file, "zones.worker-1 = 'a'\nweights.n-u1 = 200").unwrap();
    let enrolled = enrolling.await.unwrap().unwrap();
    assert_eq!(places.lack(), None);
    node.identity.node = Some(enrolled.node);
    node.identity.cluster_id = Some(enrolled.map.load().cluster_id.clone());
    let agent = node.spawn(enrolled);
    Node::connected(&agent).await;
    known_at(&fleet, "a", 200).await;

    std::fs::write(&file, "zones.worker-1 = 'c'\nweights.n-u1 = 50").unwrap();
    assert!(places.look().unwrap());
    known_at(&fleet, "c", 50).await;
    Node::connected(&agent).await;
    eventually("the map on disk", || async {
        let map = map_file::read(&node.dir.path().join("map")).unwrap()?;
        let zone = &map.nodes.values().next()?.zone;
        (zone == "c").then_some(())
    })
    .await;
    agent.stop().await;

    // A node that has a place does not wait: it may hold data that others need.
    std::fs::remove_file(&file).unwrap();
    let mut config = node.config(&fleet);
    config.places = Places::new(&config.name, at);
    let places = config.places.clone();
    let identity = node.identity.clone();
    let enrolled = enroll(config, identity, CancellationToken::new()).await;
    let agent = node.spawn(enrolled.unwrap());
    Node::connected(&agent).await;
    let kept = places.now().unwrap();
    assert_eq!((kept.zone.as_str(), kept.weight), ("c", 50));
    known_at(&fleet, "c", 50).await;
    agent.stop().await;
    fleet.stop_all().await;
}

#[tokio::test]
async fn a_node_that_waits_for_its_place_ends_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = AgentConfig::new("n".to_owned(), 1, Vec::new(), folder.path().join("map"));
    let file = PlacesFile {
        path: folder.path().join("nothing"),
        host: "worker-1".to_owned(),
    };
    let at = PlaceSettings {
        file: Some(file),
        ..PlaceSettings::default()
    };
    config.places = Places::new("n", at);
    let shutdown = CancellationToken::new();
    let identity = Node::new("u1").identity;
    let enrolling = tokio::spawn(enroll(config.clone(), identity, shutdown.clone()));
    eventually("the node to wait", || async { config.places.lack() }).await;
    shutdown.cancel();
    let ended = enrolling.await.unwrap();
    assert!(matches!(ended, Err(AgentError::Shutdown)), "{ended:?}");
}
