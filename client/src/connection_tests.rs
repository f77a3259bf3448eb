use cairn_core::ids::{Epoch, MapVersion, NodeId, ReplicaId};
use cairn_core::record::{
    Addresses, Configuration, Member, NodeInfo, NodeStanding, PartitionRecord, ReplicaSet,
    SlotRange,
};

use super::*;

/// What no test should take.
const PATIENCE: Duration = Duration::from_secs(20);
const PARTITION: PartitionId = PartitionId(0);

/// A map that names the node at `address` primary.
fn map_naming(version: u64, address: &str) -> ClusterMap {
    let member = Member {
        node: NodeId(version),
        replica: ReplicaId(version),
    };
    let node = NodeInfo {
        id: member.node,
        uuid: "uuid".to_owned(),
        incarnation: "incarnation".to_owned(),
        name: "node".to_owned(),
        addresses: Addresses {
            client: address.to_owned(),
            ..Addresses::default()
        },
        zone: String::new(),
        weight: 100,
        standing: NodeStanding::Member,
        features: 0,
        changed_at: MapVersion(version),
    };
    ClusterMap {
        cluster_id: "test".to_owned(),
        version: MapVersion(version),
        settings: None,
        nodes: [(member.node, Arc::new(node))].into(),
        coordinators: Vec::new(),
        partitions: vec![Arc::new(PartitionRecord {
            id: PARTITION,
            slots: SlotRange {
                first: 0,
                last: 16_383,
            },
            epoch: Epoch(version),
            revision: 0,
            config: Configuration {
                current: ReplicaSet {
                    write_quorum: 1,
                    members: vec![member],
                },
                joint: None,
                learners: Vec::new(),
                readers: Vec::new(),
            },
            primary: Some(member),
            degraded: false,
            changed_at: MapVersion(version),
        })],
    }
}

fn get() -> pb::call::Request {
    pb::call::Request::Get(pb::GetRequest {
        key: "k".into(),
        ..pb::GetRequest::default()
    })
}

/// A connection to a node that takes connections and is silent, as a frozen one is.
/// The listener is to be kept.
async fn to_a_silent_node(
    in_flight_max: usize,
) -> (Connection, SharedMap, tokio::net::TcpListener) {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("bind");
    let address = silent.local_addr().expect("bound").to_string();
    let map = SharedMap::default();
    map.store(Arc::new(map_naming(1, &address)));
    let dialer = Dialer {
        connect_timeout: PATIENCE * 2,
        ..Dialer::default()
    };
    let connection = Connection::new(
        address,
        dialer,
        Arc::clone(&map),
        in_flight_max,
        Arc::default(),
        CancellationToken::new(),
    );
    (connection, map, silent)
}

fn to_primary(version: u64) -> Routed {
    Routed {
        partition: PARTITION,
        version: MapVersion(version),
        to_primary: true,
    }
}

const SUPERSEDED: Answered = Err(Lost {
    sent: false,
    why: Why::Superseded,
});

#[tokio::test]
async fn a_call_that_waited_for_room_is_not_sent_to_a_primary_that_was_superseded() {
    let (connection, map, _silent) = to_a_silent_node(1).await;
    let until = Instant::now() + PATIENCE;
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move {
                let routed = to_primary(1);
                connection.call(routed, get(), until).await
            })
        })
        .collect();
    while connection.shared.state.lock().waiting.is_empty() {
        tokio::task::yield_now().await;
    }
    map.store(Arc::new(map_naming(2, "elsewhere:1")));
    connection.supersede(&[PARTITION], &map.load());
    for call in calls {
        assert_eq!(call.await.expect("the task ends"), SUPERSEDED);
    }
    assert!(connection.shared.state.lock().queue.is_empty());
}

#[tokio::test]
async fn a_call_routed_by_an_older_map_than_the_newest_is_routed_again() {
    let (connection, map, _silent) = to_a_silent_node(10).await;
    map.store(Arc::new(map_naming(2, "elsewhere:1")));
    // Whatever was waiting was superseded before this call came.
    connection.supersede(&[PARTITION], &map.load());
    let until = Instant::now() + PATIENCE;
    let routed = to_primary(1);
    assert_eq!(connection.call(routed, get(), until).await, SUPERSEDED);
}

#[tokio::test]
async fn a_refusal_that_knows_more_than_the_map_is_followed_all_the_same() {
    let (connection, map, _silent) = to_a_silent_node(10).await;
    map.store(Arc::new(map_naming(2, "elsewhere:1")));
    let routed = to_primary(2);
    let call = connection.call(routed, get(), Instant::now());
    let lost = call.await.expect_err("the node is silent");
    assert_eq!(lost.why, Why::Timeout);
}

#[tokio::test]
async fn a_read_that_any_replica_answers_is_given_up_for_no_primary() {
    let (connection, map, _silent) = to_a_silent_node(10).await;
    let until = Instant::now() + Duration::from_millis(50);
    let waiting = connection.clone();
    let call = tokio::spawn(async move {
        let routed = Routed {
            to_primary: false,
            ..to_primary(1)
        };
        waiting.call(routed, get(), until).await
    });
    while connection.shared.state.lock().waiting.is_empty() {
        tokio::task::yield_now().await;
    }
    map.store(Arc::new(map_naming(2, "elsewhere:1")));
    connection.supersede(&[PARTITION], &map.load());
    let lost = call
        .await
        .expect("the task ends")
        .expect_err("the node is silent");
    assert_eq!(lost.why, Why::Timeout);
}
