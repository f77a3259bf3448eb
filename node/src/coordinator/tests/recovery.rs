//! Going on with one disk where the majority of the disks is lost.

use cairn_core::ids::MapVersion;

use super::*;

impl Fleet {
    fn map(&self, place: usize) -> ClusterMap {
        let office = &self.running[place].as_ref().unwrap().office;
        let view = office.view.borrow();
        ClusterMap::clone(&view.map)
    }

    /// Goes on with the disk of one that is stopped.
    fn recover(&self, place: usize, newest: Option<&ClusterMap>) -> Result<MapVersion, String> {
        let disk = SurvivingDisk::open(&self.data_dir(place)).map_err(|e| e.to_string())?;
        disk.rewrite(newest, true).map_err(|e| e.to_string())
    }

    /// Waits until one that runs ends by itself; why it did.
    async fn ended(&mut self, place: usize) -> String {
        let coordinator = self.running[place].take().unwrap();
        let ended = tokio::time::timeout(PATIENCE, coordinator.wait());
        ended.await.expect("it to end").unwrap_err().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_disk_that_is_behind_goes_on_with_what_data_nodes_know_and_the_others_are_kept_out() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let cluster = fleet.cluster_id(leader).await;
    let left = (leader + 1) % 3;
    let others: Vec<usize> = (0..3).filter(|p| *p != left).collect();
    let first = fleet.register(leader, "u1", "n1").await.unwrap().node;
    fleet.stop(left).await;
    // What the disk that is left does not know, and every data node does.
    let second = fleet.register(leader, "u2", "n2").await.unwrap().node;
    let known = fleet.map(leader);
    let running = SurvivingDisk::open(&fleet.data_dir(leader));
    assert!(running.is_err(), "its process runs");
    for place in &others {
        fleet.stop(*place).await;
    }
    let old_id = {
        let disk = SurvivingDisk::open(&fleet.data_dir(left)).unwrap();
        assert_eq!(disk.name(), format!("c{left}"));
        assert!(disk.is_behind(&known));
        let members = disk.members(&Dialer::default()).await;
        assert_eq!(members.len(), 3);
        assert!(members.iter().all(|m| m.voter && !m.alive), "{members:?}");
        members.iter().find(|m| m.own).unwrap().raft_id
    };
    let version = fleet.recover(left, Some(&known)).unwrap();
    assert!(version > known.version);
    // Once is enough: the result is another group's, and nothing is behind it.
    fleet.start(left).await;
    assert_eq!(fleet.leading().await, left);
    assert_ne!(fleet.group(left).id(), old_id);
    let map = fleet.map(left);
    assert_eq!(map.cluster_id, cluster);
    assert!(map.version >= version);
    assert_eq!(fleet.register(left, "u1", "n1").await.unwrap().node, first);
    assert_eq!(fleet.register(left, "u2", "n2").await.unwrap().node, second);
    let third = fleet.register(left, "u3", "n3").await.unwrap().node;
    assert!(third > second + 1, "a number that may be taken: {third}");

    // The lost ones come back after all, and are a majority of the group before.
    for place in &others {
        fleet.start(*place).await;
    }
    for place in &others {
        let why = fleet.ended(*place).await;
        assert!(why.contains("went on with another disk"), "{why}");
        let listeners = Listeners {
            peer: bound(&fleet.addresses[*place].peer).await,
            client: bound(&fleet.clients[*place]).await,
        };
        let again = start(fleet.config(*place), listeners, CancellationToken::new()).await;
        assert!(again.is_err(), "a disk that was given up starts");
        let recovered = fleet.recover(*place, None).unwrap_err();
        assert!(
            recovered.contains("went on with another disk"),
            "{recovered}"
        );
    }
    assert!(fleet.health(left).leading);

    // On empty disks they are taken in.
    for place in &others {
        fleet.wipe(*place);
        fleet.start(*place).await;
    }
    let add = pb::ChangeCoordinators {
        add: others
            .iter()
            .map(|place| pb::CoordinatorAt {
                name: fleet.addresses[*place].name.clone(),
                peer: fleet.addresses[*place].peer.clone(),
            })
            .collect(),
        remove: Vec::new(),
    };
    fleet.ask(add).await.unwrap();
    fleet.consists_of(&[0, 1, 2]).await;
    // It is their history now too, whoever leads.
    fleet.stop(left).await;
    let next = fleet.leading().await;
    assert_eq!(fleet.register(next, "u3", "n3").await.unwrap().node, third);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_a_cluster_is_no_base_to_go_on_from() {
    let mut fleet = Fleet::new(3, settings(3)).await;
    let empty = SurvivingDisk::open(&fleet.data_dir(0));
    assert!(empty.is_err());
    assert!(!fleet.data_dir(0).exists(), "looking makes nothing");
    fleet.start(0).await;
    fleet.stop(0).await;
    assert!(SurvivingDisk::open(&fleet.data_dir(0)).is_err());
}
