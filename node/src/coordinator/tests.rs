//! Three coordinators in one process, over loopback and real disks.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::cluster::Command;
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::{Addresses, ClusterSettings};
use cairn_proto::pb::coordinator::v1 as pb;
use cairn_proto::pb::coordinator::v1::coordinator_client::CoordinatorClient;
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::*;

mod manifest;
mod membership;
mod recovery;

/// Long enough for a machine that does a lot besides.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings for a cluster of so many data nodes.
pub(crate) fn settings(data_nodes: u32) -> ClusterSettings {
    ClusterSettings {
        replication_factor: data_nodes.min(3) as u8,
        write_quorum: data_nodes.min(3) as u8 / 2 + 1,
        min_in_sync: 1,
        partitions: 8,
        virtual_nodes: 16,
        initial_data_nodes: data_nodes,
        lease_ms: 400,
        lease_ms_longest: 400,
        idempotence_window: 1024,
        node_timeout_ms: 1500,
        read_level: ReadLevel::Primary,
        read_quorum: 0,
        replace_after_ms: 300_000,
        moves_per_node: 4,
        counters: String::new(),
    }
}

/// Asks again until the answer is there; says what was waited for where it is not.
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Binds the address once whoever had it before is gone.
pub(crate) async fn bound(address: &str) -> TcpListener {
    eventually("an address to be free", || async {
        TcpListener::bind(address).await.ok()
    })
    .await
}

/// Fresh ports, and where they are.
async fn listeners() -> (Listeners, String, String) {
    let peer = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = |l: &TcpListener| -> SocketAddr { l.local_addr().unwrap() };
    let (at, client_at) = (address(&peer).to_string(), address(&client).to_string());
    (Listeners { peer, client }, at, client_at)
}

/// A group of coordinators.
pub(crate) struct Fleet {
    dirs: Vec<TempDir>,
    pub(crate) addresses: Vec<CoordinatorAddress>,
    /// Which of them each is configured with.
    lists: Vec<Vec<usize>>,
    clients: Vec<String>,
    listeners: Vec<Option<Listeners>>,
    running: Vec<Option<Coordinator>>,
    settings: ClusterSettings,
    pub(crate) users: crate::users::Users,
    managed_by: Option<String>,
}

impl Fleet {
    /// Reserves ports and directories; nobody runs yet.
    pub(crate) async fn new(count: usize, settings: ClusterSettings) -> Self {
        let mut fleet = Self {
            dirs: Vec::new(),
            addresses: Vec::new(),
            lists: Vec::new(),
            clients: Vec::new(),
            listeners: Vec::new(),
            running: Vec::new(),
            settings,
            users: crate::users::Users::open(),
            managed_by: None,
        };
        for _ in 0..count {
            fleet.reserve((0..count).collect()).await;
        }
        fleet
    }

    /// Reserves ports and a directory for another one, configured with that list.
    async fn reserve(&mut self, list: Vec<usize>) -> usize {
        let place = self.dirs.len();
        let (listeners, peer, client) = listeners().await;
        self.addresses.push(CoordinatorAddress {
            name: format!("c{place}"),
            peer,
        });
        self.clients.push(client);
        self.lists.push(list);
        self.listeners.push(Some(listeners));
        self.dirs.push(tempfile::tempdir().unwrap());
        self.running.push(None);
        place
    }

    /// All of them, running and agreed on a leader.
    pub(crate) async fn started(count: usize, settings: ClusterSettings) -> Self {
        let mut fleet = Self::new(count, settings).await;
        for place in 0..count {
            fleet.start(place).await;
        }
        fleet.leader().await;
        fleet
    }

    fn config(&self, place: usize) -> CoordinatorConfig {
        CoordinatorConfig {
            name: self.addresses[place].name.clone(),
            data_dir: self.data_dir(place),
            coordinators: self.lists[place]
                .iter()
                .map(|listed| self.addresses[*listed].clone())
                .collect(),
            peer_listen: self.addresses[place].peer.clone(),
            client_listen: self.clients[place].clone(),
            client_advertise: self.clients[place].clone(),
            http_advertise: String::new(),
            dialer: Dialer::default(),
            peer_tls: None,
            client_tls: None,
            users: self.users.clone(),
            cluster: self.settings.clone(),
            raft: RaftTimings::default(),
            tick: Duration::from_millis(25),
            snapshot_every: 16,
            read_copies: Default::default(),
            drain_timeout: Duration::from_secs(10),
            managed_by: self.managed_by.clone(),
        }
    }

    pub(crate) fn data_dir(&self, place: usize) -> PathBuf {
        self.dirs[place].path().join("raft")
    }

    pub(crate) async fn start(&mut self, place: usize) {
        let config = self.config(place);
        let listeners = match self.listeners[place].take() {
            Some(listeners) => listeners,
            None => Listeners {
                peer: bound(&config.peer_listen).await,
                client: bound(&config.client_listen).await,
            },
        };
        let started = start(config, listeners, CancellationToken::new()).await;
        self.running[place] = Some(started.unwrap());
    }

    pub(crate) async fn stop(&mut self, place: usize) {
        let coordinator = self.running[place].take().unwrap();
        coordinator.stop();
        coordinator.wait().await.unwrap();
    }

    pub(crate) async fn stop_all(&mut self) {
        for place in 0..self.running.len() {
            if self.running[place].is_some() {
                self.stop(place).await;
            }
        }
    }

    fn wipe(&self, place: usize) {
        std::fs::remove_dir_all(self.data_dir(place)).unwrap();
    }

    fn health(&self, place: usize) -> CoordinatorHealth {
        self.running[place]
            .as_ref()
            .map(|c| c.health().borrow().clone())
            .unwrap_or_default()
    }

    fn running(&self) -> Vec<usize> {
        (0..self.running.len())
            .filter(|p| self.running[*p].is_some())
            .collect()
    }

    /// Waits until one leads and everybody who runs is ready and knows it.
    pub(crate) async fn leader(&self) -> usize {
        eventually("a leader that everybody knows", || async {
            let places = self.running();
            let leader = *places.iter().find(|p| self.health(**p).leading)?;
            let name = Some(self.addresses[leader].name.clone());
            let agreed = places.iter().all(|p| {
                let health = self.health(*p);
                health.is_ready() && health.leader == name
            });
            agreed.then_some(leader)
        })
        .await
    }

    fn group(&self, place: usize) -> &super::Group {
        &self.running[place].as_ref().unwrap().office.group
    }

    /// Waits until a coordinator that hears no leader was so many times not allowed to
    /// stand for election.
    async fn wait_for_refusals(&self, place: usize, count: u64) {
        let refused = || self.group(place).elections.refused.load(Ordering::Relaxed);
        let before = refused();
        eventually("rounds of questions without leave to stand", || async {
            (refused() >= before + count).then_some(())
        })
        .await;
    }

    /// The routes of a coordinator's status page.
    pub(crate) fn page(&self, place: usize) -> axum::Router {
        self.running[place].as_ref().unwrap().page()
    }

    pub(crate) async fn status(&self, place: usize) -> Value {
        self.running[place].as_ref().unwrap().status().await
    }

    /// Raft ids by name, from the membership as one coordinator has it.
    async fn members(&self, place: usize) -> Vec<(String, String)> {
        let status = self.status(place).await;
        let mut members: Vec<_> = status["coordinators"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| {
                assert_eq!(c["voter"], true);
                let text = |field: &str| c[field].as_str().unwrap().to_owned();
                (text("name"), text("raftId"))
            })
            .collect();
        members.sort();
        members
    }

    async fn cluster_id(&self, place: usize) -> String {
        let id = self.status(place).await["clusterId"].clone();
        id.as_str().unwrap().to_owned()
    }

    pub(crate) async fn register(
        &self,
        place: usize,
        uuid: &str,
        name: &str,
    ) -> Result<pb::RegisterReply, tonic::Status> {
        let channel = Dialer::default().lazy(&self.addresses[place].peer).unwrap();
        let request = pb::RegisterRequest {
            format: cairn_proto::FORMAT,
            uuid: uuid.to_owned(),
            incarnation: format!("{uuid}-1"),
            name: name.to_owned(),
            addresses: Some((&Addresses::default()).into()),
            weight: 100,
            ..pb::RegisterRequest::default()
        };
        let reply = CoordinatorClient::new(channel).register(request).await?;
        Ok(reply.into_inner())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_made_once_all_are_there_and_is_found_again() {
    let mut fleet = Fleet::new(3, settings(3)).await;
    fleet.start(2).await;
    fleet.start(0).await;
    // The initialiser runs, and waits for the third.
    let (Some(zero), Some(two)) = (&fleet.running[0], &fleet.running[2]) else {
        unreachable!()
    };
    assert!(!zero.health().borrow().member && !two.health().borrow().member);
    fleet.start(1).await;
    let leader = fleet.leader().await;
    let members = fleet.members(leader).await;
    assert_eq!(members.len(), 3);
    let cluster = fleet.cluster_id(leader).await;
    assert!(!cluster.is_empty());
    for place in 0..3 {
        eventually("the cluster to be known everywhere", || async {
            (fleet.cluster_id(place).await == cluster).then_some(())
        })
        .await;
    }

    fleet.stop_all().await;
    for place in 0..3 {
        fleet.start(place).await;
    }
    let leader = fleet.leader().await;
    assert_eq!(fleet.members(leader).await, members);
    assert_eq!(fleet.cluster_id(leader).await, cluster);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_coordinator_makes_its_own_group() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let cluster = fleet.cluster_id(0).await;
    fleet.stop(0).await;
    fleet.start(0).await;
    fleet.leader().await;
    assert_eq!(fleet.cluster_id(0).await, cluster);
    fleet.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_one_leads_when_the_leader_stops_and_nothing_is_forgotten() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let first = fleet.leader().await;
    let node = fleet.register(first, "u1", "n1").await.unwrap().node;
    fleet.stop(first).await;
    let begun = Instant::now();
    let second = fleet.leader().await;
    println!("a new leader was there after {:?}", begun.elapsed());
    assert_ne!(first, second);
    // The same identity has the same number; another one has another.
    assert_eq!(fleet.register(second, "u1", "n1").await.unwrap().node, node);
    assert_ne!(fleet.register(second, "u2", "n2").await.unwrap().node, node);
    fleet.start(first).await;
    let third = fleet.leader().await;
    // Entries that it missed, and snapshots that were taken meanwhile, arrive.
    eventually("the one that was away to catch up", || async {
        let nodes = fleet.status(first).await["nodes"].as_array()?.len();
        (nodes == 2).then_some(())
    })
    .await;
    let admission = fleet.register(third, "u2", "n2").await.unwrap();
    assert!(admission.map.is_some());
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_disk_joins_under_a_new_id_and_never_makes_a_second_cluster() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let cluster = {
        let leader = fleet.leader().await;
        fleet.cluster_id(leader).await
    };
    // The initialiser itself among them, and the leader, whichever it is.
    for place in [0, 2, 1] {
        let leader = fleet.leader().await;
        let before = fleet.members(leader).await;
        fleet.stop(place).await;
        fleet.wipe(place);
        fleet.start(place).await;
        let leader = fleet.leader().await;
        let after = eventually("the membership to settle", || async {
            let members = fleet.members(leader).await;
            (members.len() == 3 && members != before).then_some(members)
        })
        .await;
        for (place_of, (old, new)) in before.iter().zip(&after).enumerate() {
            assert_eq!(old.0, new.0);
            assert_eq!(old.1 == new.1, place_of != place, "{before:?} {after:?}");
        }
        eventually("the state to arrive", || async {
            (fleet.cluster_id(place).await == cluster).then_some(())
        })
        .await;
    }
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_was_wiped_does_not_answer_for_the_one_before() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let others: Vec<usize> = (0..3).filter(|p| *p != leader).collect();
    // With the leader and one disk gone nobody may be elected: the wiped one never
    // votes under the id that it forgot.
    fleet.stop(leader).await;
    fleet.stop(others[0]).await;
    fleet.wipe(others[0]);
    fleet.start(others[0]).await;
    // It asks to be taken in, and is told that there is no leader to do it: both
    // have then met without coming to a decision.
    let term = fleet.health(others[1]).term;
    fleet.wait_for_refusals(others[1], 20).await;
    for place in [others[0], others[1]] {
        assert!(!fleet.health(place).leading);
    }
    assert!(fleet.health(others[1]).term <= term + 1);
    // Once the third is back there is a majority of disks that forgot nothing.
    fleet.start(leader).await;
    fleet.leader().await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hears_nothing_deposes_nobody_whom_the_others_hear() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let deaf = (leader + 1) % 3;
    let term = fleet.health(leader).term;
    // What the leader says is lost on its way; the other way round all is well.
    let cut_off = |cut: bool| {
        let elections = &fleet.group(deaf).elections;
        elections.cut_off.store(cut, Ordering::Relaxed);
    };
    cut_off(true);
    // Longer than any election timeout.
    fleet.wait_for_refusals(deaf, 60).await;
    assert_eq!(fleet.health(deaf).term, term);
    cut_off(false);
    assert_eq!(fleet.leader().await, leader);
    assert_eq!(fleet.health(leader).term, term);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_is_replaced_and_lets_its_data_nodes_go() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let reign = fleet.running[leader]
        .as_ref()
        .unwrap()
        .office
        .desk
        .reign()
        .unwrap();
    let disk = fleet.group(leader).hanging_disk();
    let (back, hangs) = std::sync::mpsc::channel::<()>();
    let held = Arc::clone(&disk);
    let hanging = std::thread::spawn(move || {
        let _held = held.lock();
        let _ = hangs.recv();
    });
    eventually("the disk to hang", || async {
        disk.is_locked().then_some(())
    })
    .await;
    let others: Vec<usize> = (0..3).filter(|p| *p != leader).collect();
    // Something to write: its answer never comes.
    let stuck = fleet.register(leader, "u1", "n1");
    let (refused, ()) = tokio::join!(stuck, async {
        let ended = tokio::time::timeout(PATIENCE, reign.over.cancelled());
        ended.await.expect("the reign to end");
    });
    assert!(refused.is_err());
    let next = eventually("another leader", || async {
        others.iter().copied().find(|p| fleet.health(*p).leading)
    })
    .await;
    fleet.register(next, "u2", "n2").await.unwrap();
    drop(back);
    hanging.join().unwrap();
    fleet.leader().await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_disk_does_not_go_back_to_an_initialiser_without_votes() {
    let mut fleet = Fleet::new(3, settings(3)).await;
    // One disk of c0 has made its log, and nobody has voted for it.
    fleet.start(0).await;
    let first = fleet.group(0);
    first.adopt("begun-by-the-first").await.unwrap();
    let node = |place: usize| raft::RaftNode {
        name: fleet.addresses[place].name.clone(),
        ..raft::RaftNode::default()
    };
    let members = BTreeMap::from([(first.id(), first.node()), (11, node(1)), (12, node(2))]);
    first.raft.initialize(members).await.unwrap();
    // Another disk of that name has since prepared the others for its own cluster.
    for place in [1, 2] {
        let name = &fleet.addresses[place].name;
        let opened = storage::open(&fleet.data_dir(place), name, storage::WriteOn::Thread).unwrap();
        let prepared = storage::Identity {
            cluster_id: Some("prepared-by-the-second".to_owned()),
            ..opened.identity.clone()
        };
        let change = vec![prepared.change()];
        opened.writer.write(change).await.unwrap();
        let closed = opened.closed;
        drop((opened.log, opened.machine, opened.writer));
        closed.await.unwrap();
        fleet.start(place).await;
    }
    // They meet the first one's log in every round, and stay where they are: were one
    // to go back, it could vote for both.
    fleet.wait_for_refusals(1, 60).await;
    for place in [1, 2] {
        let card = fleet.group(place).card().await.unwrap();
        assert_eq!(card.cluster_id, "prepared-by-the-second");
        assert!(!card.has_log);
    }
    assert!(!fleet.group(0).card().await.unwrap().committed);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_says_who_leads_and_serves_the_map() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let follower = (leader + 1) % 3;
    let refusal = fleet.register(follower, "u1", "n1").await.unwrap_err();
    let detail: pb::NotLeader = cairn_proto::refusal::detail(&refusal).unwrap();
    assert_eq!(detail.peer_address, fleet.addresses[leader].peer);
    assert_eq!(detail.client_address, fleet.clients[leader]);

    fleet.register(leader, "u1", "n1").await.unwrap();
    let channel = Dialer::default().lazy(&fleet.clients[follower]).unwrap();
    let mut topology = TopologyClient::new(channel);
    let mut updates = topology
        .watch(cairn_proto::pb::map::v1::MapRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut map = cairn_core::record::ClusterMap::default();
    while map.nodes.is_empty() {
        let update = updates.message().await.unwrap().unwrap();
        let update = cairn_proto::map::MapUpdate::try_from(update).unwrap();
        if let Some(newer) = update.apply(&map).unwrap() {
            map = cairn_core::record::ClusterMap::clone(&newer);
        }
    }
    assert_eq!(map.cluster_id, fleet.cluster_id(leader).await);
    drop(updates);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_has_one_live_identity() {
    let mut fleet = Fleet::started(1, settings(1)).await;
    let node = fleet.register(0, "u1", "n1").await.unwrap().node;
    let refused = fleet.register(0, "u2", "n1").await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("n1"), "{refused}");
    assert_eq!(fleet.register(0, "u1", "n1").await.unwrap().node, node);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agreed_settings_outlive_a_start_with_others() {
    let mut fleet = Fleet::started(1, settings(3)).await;
    let agreed = fleet.status(0).await["settings"].clone();
    fleet.stop(0).await;
    fleet.settings.lease_ms = 900;
    fleet.start(0).await;
    fleet.leader().await;
    assert_eq!(fleet.status(0).await["settings"], agreed);
    fleet.stop_all().await;
}

/// Raft's metrics are behind a lock on which a writer that waits keeps new readers out: one
/// who asks twice at a time waits for itself, and the coordinator hangs for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whether_it_is_settled_is_asked_while_the_answer_changes() {
    let fleet = Fleet::started(1, settings(3)).await;
    let group = Arc::clone(&fleet.running[0].as_ref().unwrap().office.group);
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (done, ended) = tokio::sync::oneshot::channel();
    let asker = std::thread::spawn({
        let (group, over) = (Arc::clone(&group), Arc::clone(&over));
        move || {
            let mut asked = 0u64;
            while !over.load(Ordering::Relaxed) {
                group.is_settled();
                asked += 1;
            }
            done.send(asked)
        }
    });
    for round in 0..500 {
        let paused = round % 2 == 0;
        let written = group.raft.client_write(Command::PauseMoves { paused });
        let written = tokio::time::timeout(PATIENCE, written).await;
        written.expect("Raft waits for a reader").unwrap();
    }
    over.store(true, Ordering::Relaxed);
    let asked = tokio::time::timeout(PATIENCE, ended).await;
    assert!(asked.expect("the reader waits for itself").unwrap() > 500);
    asker.join().unwrap().unwrap();
}
