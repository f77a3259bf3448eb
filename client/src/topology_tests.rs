use cairn_core::ids::{Epoch, ReplicaId};
use cairn_core::record::{Addresses, Configuration, Member, NodeInfo, ReplicaSet, SlotRange};
use tokio::sync::mpsc;

use super::*;

/// What no test should take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A map of nodes `a`, `b`, ... that all hold the one partition.
fn map_of(version: u64, count: u64, primary: Option<u64>) -> ClusterMap {
    let members: Vec<Member> = (1..=count)
        .map(|n| Member {
            node: NodeId(n),
            replica: ReplicaId(n),
        })
        .collect();
    let nodes = members.iter().map(|member| {
        let info = NodeInfo {
            id: member.node,
            uuid: format!("uuid-{}", member.node.0),
            incarnation: format!("incarnation-{}", member.node.0),
            name: format!("node-{}", member.node.0),
            addresses: Addresses {
                client: address(member.node.0),
                ..Addresses::default()
            },
            zone: String::new(),
            weight: 100,
            standing: NodeStanding::Member,
            features: 0,
            changed_at: MapVersion(1),
        };
        (member.node, Arc::new(info))
    });
    ClusterMap {
        cluster_id: "test".to_owned(),
        version: MapVersion(version),
        settings: None,
        nodes: nodes.collect(),
        coordinators: Vec::new(),
        partitions: vec![Arc::new(PartitionRecord {
            id: PartitionId(0),
            slots: SlotRange {
                first: 0,
                last: 16_383,
            },
            epoch: Epoch(version),
            revision: 0,
            config: Configuration {
                current: ReplicaSet {
                    write_quorum: 1,
                    members: members.clone(),
                },
                joint: None,
                learners: Vec::new(),
                readers: Vec::new(),
            },
            primary: primary
                .and_then(|n| members.iter().find(|m| m.node == NodeId(n)))
                .copied(),
            degraded: false,
            changed_at: MapVersion(version),
        })],
    }
}

fn address(node: u64) -> String {
    format!("node-{node}:7400")
}

fn update(map: &ClusterMap) -> pb::MapUpdate {
    (&MapUpdate::Full(Arc::new(map.clone()))).into()
}

/// What a fake node does when its map is fetched.
#[derive(Clone, Debug)]
enum Fetch {
    /// Nothing, as a frozen node.
    Silent,
    Answer(Box<ClusterMap>),
}

#[derive(Default)]
struct Fakes {
    fetches: HashMap<String, Fetch>,
    /// Addresses whose watch opens; others are silent.
    watchable: Vec<String>,
    /// The open watches, in the order in which they were opened.
    watches: Vec<(String, mpsc::UnboundedSender<pb::MapUpdate>)>,
    /// Every fetch begun.
    fetched: Vec<String>,
    /// How many fetches ended, or were given up.
    ended: usize,
}

/// Nodes that do what a test says.
#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Fakes>>);

struct Ended(Fake);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.0.lock().ended += 1;
    }
}

impl MapSource for Fake {
    fn fetch(
        &self,
        address: &str,
        _: pb::MapRequest,
    ) -> BoxFuture<'static, Result<pb::MapUpdate, NoMap>> {
        let mut fakes = self.0.lock();
        fakes.fetched.push(address.to_owned());
        let fetch = fakes.fetches.get(address).cloned();
        let ended = Ended(self.clone());
        Box::pin(async move {
            let _ended = ended;
            match fetch.unwrap_or(Fetch::Silent) {
                Fetch::Silent => std::future::pending().await,
                Fetch::Answer(map) => Ok(update(&map)),
            }
        })
    }

    fn watch(
        &self,
        address: &str,
        _: pb::MapRequest,
    ) -> BoxFuture<'static, Result<Updates, String>> {
        let mut fakes = self.0.lock();
        if !fakes.watchable.iter().any(|a| a == address) {
            return Box::pin(std::future::pending());
        }
        let (sender, receiver) = mpsc::unbounded_channel();
        fakes.watches.push((address.to_owned(), sender));
        let updates = futures::stream::unfold(receiver, |mut receiver| async move {
            let update = receiver.recv().await?;
            Some((Ok(update), receiver))
        });
        Box::pin(async move { Ok(updates.boxed()) })
    }
}

impl Fake {
    /// Waits for a condition.
    async fn until(&self, condition: impl Fn(&Fakes) -> bool) {
        timeout(PATIENCE, async {
            while !condition(&self.0.lock()) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("in time");
    }

    fn topology(&self, on_change: OnChange) -> Arc<Topology> {
        let topology = Topology::new(
            vec![address(1)],
            Box::new(self.clone()),
            SharedMap::default(),
            Arc::default(),
            on_change,
        );
        topology
            .take(update(&map_of(1, 3, Some(1))))
            .unwrap_or_else(|_| panic!("a first map"));
        topology
    }
}

#[tokio::test]
async fn a_frozen_node_that_is_asked_does_not_keep_an_update_from_being_heard() {
    let fake = Fake::default();
    fake.0.lock().watchable = vec![address(1)];
    let (seen, mut changes) = mpsc::unbounded_channel();
    let looking = fake.clone();
    let topology = fake.topology(Box::new(move |_, map| {
        let _ = seen.send((map.version, looking.0.lock().ended));
    }));
    topology.suspect(&address(2));
    topology.suspect(&address(3));
    tokio::spawn(Arc::clone(&topology).follow(CancellationToken::new()));
    fake.until(|f| !f.watches.is_empty()).await;
    topology.poke();
    fake.until(|f| !f.fetched.is_empty()).await;
    {
        let fakes = fake.0.lock();
        let sent = fakes.watches[0].1.send(update(&map_of(2, 3, Some(3))));
        sent.expect("it is watched");
    }
    let seen = timeout(PATIENCE, async {
        loop {
            let (version, ended) = changes.recv().await.expect("the client lives");
            if version == MapVersion(2) {
                return ended;
            }
        }
    });
    assert_eq!(
        seen.await.expect("in time"),
        0,
        "it waited for a frozen node"
    );
}

#[tokio::test]
async fn two_nodes_are_asked_where_the_first_is_silent_and_it_goes_last_from_then_on() {
    let fake = Fake::default();
    {
        let mut fakes = fake.0.lock();
        fakes.watchable = vec![address(1)];
        let newer = Box::new(map_of(2, 3, Some(3)));
        fakes.fetches.insert(address(3), Fetch::Answer(newer));
    }
    let topology = fake.topology(Box::new(|_, _| {}));
    // Node 3 is asked after node 2, and neither is watched.
    topology.suspect(&address(3));
    *topology.watched.lock() = Some(address(1));
    topology.ask_others().await;
    assert_eq!(fake.0.lock().fetched, vec![address(2), address(3)]);
    assert_eq!(topology.map().version, MapVersion(2));
    assert_eq!(topology.candidates().last(), Some(&address(2)));
}

#[tokio::test]
async fn a_newer_map_from_elsewhere_ends_a_watch_only_where_its_node_stays_behind() {
    let fake = Fake::default();
    fake.0.lock().watchable = (1..=3).map(address).collect();
    let topology = fake.topology(Box::new(|_, _| {}));
    tokio::spawn(Arc::clone(&topology).follow(CancellationToken::new()));
    fake.until(|f| !f.watches.is_empty()).await;
    let first = fake.0.lock().watches[0].1.clone();
    // From elsewhere, and then from the watched node too: it is kept.
    let second = update(&map_of(2, 3, Some(2)));
    assert!(topology.take(second.clone()).is_ok());
    first.send(second).expect("it is watched");
    let mut versions = topology.versions();
    first
        .send(update(&map_of(3, 3, Some(2))))
        .expect("it is watched");
    timeout(PATIENCE, versions.wait_for(|v| *v == MapVersion(3)))
        .await
        .expect("in time")
        .expect("the client lives");
    assert_eq!(fake.0.lock().watches.len(), 1);
    // From elsewhere alone: another one is watched in the end.
    assert!(topology.take(update(&map_of(4, 3, Some(2)))).is_ok());
    fake.until(|f| f.watches.len() == 2).await;
    let fakes = fake.0.lock();
    assert_ne!(fakes.watches[0].0, fakes.watches[1].0);
}

#[test]
fn a_partition_without_a_primary_is_asked_of_a_voter_that_was_not_primary_and_answers() {
    let fake = Fake::default();
    let topology = fake.topology(Box::new(|_, _| {}));
    for version in 2..=3 {
        let orphaned = map_of(version, 3, None);
        assert!(topology.take(update(&orphaned)).is_ok());
        topology.suspect(&address(2));
        let record = &orphaned.partitions[0];
        assert_eq!(topology.voter(&orphaned, record), Some(address(3)));
    }
    let named = map_of(4, 3, Some(2));
    assert!(topology.take(update(&named)).is_ok());
    let orphaned = map_of(5, 2, None);
    assert!(topology.take(update(&orphaned)).is_ok());
    let record = &orphaned.partitions[0];
    assert_eq!(topology.voter(&orphaned, record), Some(address(1)));
}
