//! The group grows, shrinks and moves while it runs.

use cairn_client::admin::Admin;

use super::*;

/// What is asked for: whom to add, whom to remove, by place.
fn change(fleet: &Fleet, add: &[usize], remove: &[usize]) -> pb::ChangeCoordinators {
    pb::ChangeCoordinators {
        add: add.iter().map(|place| at(fleet, *place)).collect(),
        remove: remove.iter().map(|place| format!("c{place}")).collect(),
    }
}

fn at(fleet: &Fleet, place: usize) -> pb::CoordinatorAt {
    let address = &fleet.addresses[place];
    pb::CoordinatorAt {
        name: address.name.clone(),
        peer: address.peer.clone(),
    }
}

impl Fleet {
    /// One that leads, whatever those say that are no members.
    pub(super) async fn leading(&self) -> usize {
        eventually("a leader", || async {
            self.running().into_iter().find(|p| self.health(*p).leading)
        })
        .await
    }

    /// Asks the leader for a change until it is begun or refused.
    pub(super) async fn ask(&self, change: pb::ChangeCoordinators) -> Result<String, String> {
        eventually("an answer of the leader", || async {
            let leader = self.leading().await;
            let office = &self.running[leader].as_ref().unwrap().office;
            match office.change_coordinators(change.clone()).await {
                Err(status) if status.code() == tonic::Code::Unavailable => None,
                Ok(reply) => Some(Ok([&[reply.message][..], &reply.warnings]
                    .concat()
                    .join("; "))),
                Err(status) => Some(Err(status.message().to_owned())),
            }
        })
        .await
    }

    /// Waits until the leader's group is of these, all of them voters, and they know it.
    pub(super) async fn consists_of(&self, places: &[usize]) -> usize {
        let mut names: Vec<String> = places.iter().map(|p| format!("c{p}")).collect();
        names.sort();
        eventually("the group to be as asked", || async {
            let leader = self.leading().await;
            let status = self.status(leader).await;
            let coordinators = status["coordinators"].as_array()?;
            let voters = coordinators.iter().all(|c| c["voter"] == true);
            let mut found: Vec<&str> = coordinators
                .iter()
                .filter_map(|c| c["name"].as_str())
                .collect();
            found.sort_unstable();
            let here = places
                .iter()
                .all(|p| self.running[*p].is_none() || self.health(*p).is_ready());
            (voters && found == names && here).then_some(leader)
        })
        .await
    }

    /// Waits until the map names these coordinators.
    pub(super) async fn named_in_the_map(&self, places: &[usize]) {
        eventually("the map to name the coordinators", || async {
            let leader = self.leading().await;
            let office = &self.running[leader].as_ref().unwrap().office;
            let map = Arc::clone(&office.view.borrow().map);
            let named: Vec<_> = map
                .coordinators
                .iter()
                .map(|c| (&c.peer, &c.client))
                .collect();
            let expected: Vec<_> = places
                .iter()
                .map(|p| (&self.addresses[*p].peer, &self.clients[*p]))
                .collect();
            (named == expected).then_some(())
        })
        .await;
    }

    /// Puts others in the place of the first one, which stops.
    pub(crate) async fn replace_by(&mut self, places: &[usize]) {
        for place in places {
            let beside = *places.iter().find(|p| *p != place).unwrap();
            assert_eq!(self.reserve(vec![0, beside, *place]).await, *place);
        }
        for place in places {
            self.start(*place).await;
        }
        self.ask(change(self, places, &[])).await.unwrap();
        self.consists_of(&[&[0], places].concat()).await;
        // Who knows the first one alone hears of the others before it goes.
        self.named_in_the_map(&[&[0], places].concat()).await;
        // The voters are known a moment before the change has ended.
        eventually("the removal to begin", || async {
            self.ask(change(self, &[], &[0])).await.ok()
        })
        .await;
        self.consists_of(places).await;
        self.named_in_the_map(places).await;
        self.stop(0).await;
    }

    async fn raft_id(&self, place: usize) -> u64 {
        self.group(place).id()
    }

    /// Waits until one knows that it is no member any more.
    async fn is_out(&self, place: usize) {
        eventually("the one that was removed to hear so", || async {
            self.group(place).is_out().then_some(())
        })
        .await;
        assert!(!self.health(place).is_ready());
    }
}

/// One coordinator, and two more that run and wait to be taken in.
async fn one_and_two_newcomers() -> Fleet {
    let mut fleet = Fleet::started(1, settings(3)).await;
    for _ in 0..2 {
        fleet.reserve(vec![0, 1, 2]).await;
    }
    fleet.start(1).await;
    fleet.start(2).await;
    fleet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_of_one_grows_to_three_and_five_and_asking_twice_changes_nothing() {
    let mut fleet = one_and_two_newcomers().await;
    let node = fleet.register(0, "u1", "n1").await.unwrap().node;
    let cluster = fleet.cluster_id(0).await;
    fleet.ask(change(&fleet, &[1, 2], &[])).await.unwrap();
    fleet.consists_of(&[0, 1, 2]).await;
    fleet.named_in_the_map(&[0, 1, 2]).await;
    let ids = [fleet.raft_id(1).await, fleet.raft_id(2).await];
    let again = fleet.ask(change(&fleet, &[2], &[])).await.unwrap();
    assert_eq!(again, "it already is as asked");

    for place in [3, 4] {
        fleet.reserve(vec![0, place, 1]).await;
        fleet.start(place).await;
    }
    let begun = fleet.ask(change(&fleet, &[3], &[])).await.unwrap();
    assert!(
        begun.contains("4 coordinators; 4 coordinators survive no more"),
        "{begun}"
    );
    fleet.consists_of(&[0, 1, 2, 3]).await;
    // The voters are these a moment before the change has ended.
    eventually("the next change to begin", || async {
        match fleet.ask(change(&fleet, &[4], &[])).await {
            Ok(_) => Some(()),
            Err(why) if why.contains("another change is under way") => None,
            Err(why) => panic!("{why}"),
        }
    })
    .await;
    let leader = fleet.consists_of(&[0, 1, 2, 3, 4]).await;
    fleet.named_in_the_map(&[0, 1, 2, 3, 4]).await;
    assert_eq!(ids, [fleet.raft_id(1).await, fleet.raft_id(2).await]);
    fleet.reserve(vec![0, 1, 5]).await;
    fleet.start(5).await;
    let refused = fleet.ask(change(&fleet, &[5], &[])).await.unwrap_err();
    assert!(refused.contains("at most 5"), "{refused}");

    // Two may be lost now, the one that was alone at first among them.
    fleet.stop(0).await;
    fleet.stop(if leader == 4 { 3 } else { 4 }).await;
    let leader = fleet.leading().await;
    assert_eq!(fleet.register(leader, "u1", "n1").await.unwrap().node, node);
    assert_eq!(fleet.cluster_id(leader).await, cluster);
    // It finds the others again, though it is configured with itself alone.
    fleet.start(0).await;
    eventually("the first one to be a member", || async {
        fleet.health(0).is_ready().then_some(())
    })
    .await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newcomer_makes_no_cluster_where_one_exists_that_does_not_answer() {
    let mut fleet = one_and_two_newcomers().await;
    let cluster = fleet.cluster_id(0).await;
    fleet.stop(0).await;
    for place in [1, 2] {
        fleet.stop(place).await;
        fleet.wipe(place);
        fleet.start(place).await;
    }
    fleet.wait_for_refusals(1, 60).await;
    fleet.wait_for_refusals(2, 10).await;
    for place in [1, 2] {
        let card = fleet.group(place).card().await.unwrap();
        assert!(!card.has_log && card.cluster_id.is_empty(), "{card:?}");
    }
    // Where it answers they are not members before somebody says so.
    fleet.start(0).await;
    eventually("the newcomers to meet the cluster", || async {
        let (one, two) = (fleet.group(1), fleet.group(2));
        let met = one.cluster.get() == cluster && two.cluster.get() == cluster;
        met.then_some(())
    })
    .await;
    assert_eq!(fleet.members(0).await.len(), 1);
    // Whoever asks one of them for the state of the cluster hears of it by another one.
    let newcomers_first = [1, 2, 0].map(|place| fleet.clients[place].clone());
    let admin = Admin::new(newcomers_first, Dialer::default());
    eventually("newcomers to send to the leader", || async {
        let document = admin.status().await.ok()?;
        let document: Value = serde_json::from_str(&document).ok()?;
        (document["leading"] == true && document["answeredBy"] == "c0").then_some(())
    })
    .await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_removed_and_disturbs_nobody_and_comes_back_with_an_empty_disk() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let gone = fleet.leader().await;
    let rest: Vec<usize> = (0..3).filter(|p| *p != gone).collect();
    let before = fleet.raft_id(gone).await;
    let begun = fleet.ask(change(&fleet, &[], &[gone])).await.unwrap();
    assert!(begun.contains("2 coordinators"), "{begun}");
    let leader = fleet.consists_of(&rest).await;
    fleet.named_in_the_map(&rest).await;
    fleet.is_out(gone).await;
    let again = fleet.ask(change(&fleet, &[], &[gone])).await.unwrap();
    assert_eq!(again, "it already is as asked");
    // Without a leader among the others it may not stand either, nor after a restart,
    // and without a majority of them nobody leads.
    fleet.stop(leader).await;
    fleet.stop(gone).await;
    fleet.start(gone).await;
    fleet.wait_for_refusals(gone, 40).await;
    for place in fleet.running() {
        assert!(!fleet.health(place).leading, "c{place}");
    }
    fleet.start(leader).await;
    fleet.consists_of(&rest).await;
    fleet.is_out(gone).await;
    // An empty disk is not taken in by itself.
    fleet.stop(gone).await;
    fleet.wipe(gone);
    fleet.start(gone).await;
    fleet.consists_of(&rest).await;
    fleet.ask(change(&fleet, &[gone], &[])).await.unwrap();
    fleet.consists_of(&[0, 1, 2]).await;
    assert_ne!(fleet.raft_id(gone).await, before);
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_would_be_unsafe_is_refused_with_the_reason() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let others: Vec<usize> = (0..3).filter(|p| *p != leader).collect();
    let stranger = fleet.reserve(vec![0, 1, 3]).await;
    let refused = fleet
        .ask(change(&fleet, &[stranger], &[]))
        .await
        .unwrap_err();
    assert!(refused.contains("does not answer"), "{refused}");
    fleet.start(stranger).await;
    // A name that a living one has, claimed elsewhere.
    let mut taken = change(&fleet, &[stranger], &[]);
    taken.add[0].name = format!("c{}", others[0]);
    let refused = fleet.ask(taken).await.unwrap_err();
    assert!(
        refused.contains("taken by a living coordinator"),
        "{refused}"
    );
    let mut misnamed = change(&fleet, &[stranger], &[]);
    misnamed.add[0].name = "x".to_owned();
    let refused = fleet.ask(misnamed).await.unwrap_err();
    assert!(refused.contains("answers as `c3`"), "{refused}");
    let refused = fleet
        .ask(change(&fleet, &[], &[0, 1, 2]))
        .await
        .unwrap_err();
    assert!(refused.contains("the last coordinator"), "{refused}");
    // One is dead: removing one that lives would leave no majority.
    fleet.stop(others[0]).await;
    let refused = fleet
        .ask(change(&fleet, &[], &[others[1]]))
        .await
        .unwrap_err();
    assert!(
        refused.contains(&format!("without an answer: `c{}`", others[0])),
        "{refused}"
    );
    let both = change(&fleet, &[stranger], &[stranger]);
    let refused = fleet.ask(both).await.unwrap_err();
    assert!(refused.contains("named twice"), "{refused}");
    // One change at a time.
    let office = fleet.running[leader].as_ref().unwrap().office.clone();
    let alone = Arc::clone(&office.group.joining).lock_owned().await;
    let busy = office.change_coordinators(change(&fleet, &[stranger], &[]));
    assert_eq!(busy.await.unwrap_err().code(), tonic::Code::Unavailable);
    drop((alone, office));
    // The dead one is replaced by another name, in one step.
    fleet
        .ask(change(&fleet, &[stranger], &[others[0]]))
        .await
        .unwrap();
    fleet.consists_of(&[leader, others[1], stranger]).await;
    fleet.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_one_is_replaced_under_its_name_at_another_address() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let dead = (leader + 1) % 3;
    let before = fleet.raft_id(dead).await;
    fleet.stop(dead).await;
    fleet.wipe(dead);
    fleet.elsewhere(dead).await;
    fleet.start(dead).await;
    // Its address is another: only a person may say that the name is this one's now.
    eventually("it to hear that it is not taken in", || async {
        let card = fleet.group(dead).card().await.ok()?;
        (!card.cluster_id.is_empty()).then_some(())
    })
    .await;
    fleet.ask(change(&fleet, &[dead], &[])).await.unwrap();
    fleet.consists_of(&[0, 1, 2]).await;
    fleet.named_in_the_map(&[0, 1, 2]).await;
    assert_ne!(fleet.raft_id(dead).await, before);
    fleet.stop_all().await;
}

impl Fleet {
    /// Gives one that is stopped other ports.
    async fn elsewhere(&mut self, place: usize) {
        let (listeners, peer, client) = listeners().await;
        self.listeners[place] = Some(listeners);
        self.addresses[place].peer = peer;
        self.clients[place] = client;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn coordinators_move_to_other_addresses_one_by_one_and_all_at_once() {
    let mut fleet = Fleet::started(3, settings(3)).await;
    let leader = fleet.leader().await;
    let ids = [
        fleet.raft_id(0).await,
        fleet.raft_id(1).await,
        fleet.raft_id(2).await,
    ];
    // The others are configured with its old address, and hear of the new one.
    for place in [(leader + 1) % 3, leader] {
        fleet.stop(place).await;
        fleet.elsewhere(place).await;
        fleet.start(place).await;
        fleet.consists_of(&[0, 1, 2]).await;
        fleet.named_in_the_map(&[0, 1, 2]).await;
    }
    // Then everybody is, with a list that says so.
    fleet.stop_all().await;
    for place in 0..3 {
        fleet.elsewhere(place).await;
    }
    for place in 0..3 {
        fleet.start(place).await;
    }
    fleet.consists_of(&[0, 1, 2]).await;
    fleet.named_in_the_map(&[0, 1, 2]).await;
    for (place, id) in ids.into_iter().enumerate() {
        assert_eq!(fleet.raft_id(place).await, id);
    }
    fleet.stop_all().await;
}
