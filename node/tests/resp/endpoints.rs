//! By what clients are told to reach a node, in the three ways of
//! `cluster-preferred-endpoint-type`.

use std::sync::Arc;

use cairn_core::ids::NodeId;
use cairn_core::kv::request::RequestError;
use cairn_core::record::ClusterMap;
use cairn_node::resp::{EndpointType, RespConfig};

use crate::memory::{Answering, cluster_map};
use crate::support::{Client, Node};

/// Two nodes, of which the first has a host name; the second is primary of everything.
fn map() -> ClusterMap {
    let mut map = cluster_map(2, 7000, &[Some(2)]);
    let node = map.nodes.get_mut(&NodeId(1)).expect("it is there");
    Arc::make_mut(node).addresses.resp_hostname = "one.example".to_owned();
    map
}

async fn told(endpoint_type: EndpointType) -> (Client, Node) {
    let config = RespConfig {
        endpoint_type,
        ..RespConfig::default()
    };
    let node = Node::of(map(), Answering::AtOnce, config);
    (node.connect(), node)
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

async fn check(
    endpoint_type: EndpointType,
    first: &str,
    first_more: &[&str],
    second: &str,
    second_more: &[&str],
) {
    let (mut client, node) = told(endpoint_type).await;
    let map = node.map.load_full();
    let name = |id: u64| {
        let uuid = &map.nodes[&NodeId(id)].uuid;
        uuid.chars().filter(|c| *c != '-').collect::<String>()
    };
    client.command("CLUSTER SLOTS").await;
    client.expect("*1\r\n*4\r\n:0\r\n:16383\r\n").await;
    for (id, endpoint, more) in [(2, second, second_more), (1, first, first_more)] {
        client.expect("*4\r\n").await;
        client.expect(endpoint).await;
        client
            .expect(&format!(":{}\r\n$40\r\n{}", 6999 + id, name(id)))
            .await;
        client.rest_of_line().await;
        client.expect(&format!("*{}\r\n", more.len())).await;
        for word in more {
            client.expect(&bulk(word)).await;
        }
    }
    client.command("CLUSTER NODES").await;
    let nodes = client.bulk().await;
    assert!(
        nodes.contains("127.0.0.1:7000@7401,one.example myself,"),
        "{nodes}"
    );
    assert!(nodes.contains("127.0.0.1:7001@7402 master"), "{nodes}");
    // The primary is told to whoever asks another node.
    let primary = map.partitions[0].primary;
    node.memory.refuse(Some(RequestError::Moved {
        partition: map.partitions[0].id,
        epoch: map.partitions[0].epoch,
        primary,
    }));
    let host = match endpoint_type {
        EndpointType::Address => "127.0.0.1",
        EndpointType::Hostname => "?",
        EndpointType::Unknown => "",
    };
    let moved = format!("-MOVED 15495 {host}:7001\r\n");
    client.call("GET a", &moved).await;
    client
        .call(
            "CONFIG GET cluster-preferred-endpoint-type",
            &format!(
                "*2\r\n{}{}",
                bulk("cluster-preferred-endpoint-type"),
                bulk(match endpoint_type {
                    EndpointType::Address => "ip",
                    EndpointType::Hostname => "hostname",
                    EndpointType::Unknown => "unknown-endpoint",
                })
            ),
        )
        .await;
}

#[tokio::test]
async fn nodes_are_told_by_address_with_their_host_name_beside_it() {
    let address = bulk("127.0.0.1");
    check(
        EndpointType::Address,
        &address,
        &["hostname", "one.example"],
        &address,
        &[],
    )
    .await;
}

#[tokio::test]
async fn nodes_are_told_by_host_name_with_their_address_beside_it() {
    check(
        EndpointType::Hostname,
        &bulk("one.example"),
        &["ip", "127.0.0.1"],
        &bulk("?"),
        &["ip", "127.0.0.1"],
    )
    .await;
}

#[tokio::test]
async fn clients_may_be_left_with_the_host_that_they_reached() {
    check(
        EndpointType::Unknown,
        "$-1\r\n",
        &["ip", "127.0.0.1", "hostname", "one.example"],
        "$-1\r\n",
        &["ip", "127.0.0.1"],
    )
    .await;
}

#[tokio::test]
async fn shards_tell_the_endpoint_and_the_host_name() {
    for (endpoint_type, endpoint) in [
        (EndpointType::Address, "127.0.0.1"),
        (EndpointType::Hostname, "one.example"),
        (EndpointType::Unknown, ""),
    ] {
        let (mut client, _node) = told(endpoint_type).await;
        client.command("CLUSTER SHARDS").await;
        client.command("QUIT").await;
        let text = client.rest().await;
        let one = format!(
            "{}{}{}{}",
            bulk("endpoint"),
            bulk(endpoint),
            bulk("hostname"),
            bulk("one.example")
        );
        assert!(text.contains(&one), "{text}");
        assert_eq!(text.matches("$8\r\nhostname\r\n").count(), 1, "{text}");
    }
}

#[tokio::test]
async fn clients_outside_are_told_addresses_outside_and_others_are_not() {
    let config = RespConfig {
        endpoint_type: EndpointType::Hostname,
        ..RespConfig::default()
    };
    let node = Node::of(map(), Answering::AtOnce, config);
    let partition = node.map.load().partitions[0].clone();
    node.memory.refuse(Some(RequestError::Moved {
        partition: partition.id,
        epoch: partition.epoch,
        primary: partition.primary,
    }));
    let mut client = node.connect_outside();
    // Nobody can be reached from outside yet, and that is no reason to send anybody inside.
    client.call("CLUSTER SLOTS", "*0\r\n").await;
    client.command("GET a").await;
    client.expect("-TRYAGAIN ").await;
    client.rest_of_line().await;

    let mut map = map();
    let mut outside = |id: u64, resp: &str| {
        let node = map.nodes.get_mut(&NodeId(id)).expect("it is there");
        resp.clone_into(&mut Arc::make_mut(node).addresses.outside.resp);
    };
    outside(1, "192.0.2.1:30001");
    node.map.store(Arc::new(map.clone()));
    // The primary has no address there: another answers for it, and says to try again.
    client.command("CLUSTER SLOTS").await;
    client.expect("*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n").await;
    client
        .expect(&format!("{}:30001\r\n", bulk("192.0.2.1")))
        .await;
    client.rest_of_line().await;
    client.rest_of_line().await;
    client.expect("*0\r\n").await;
    client.command("GET a").await;
    client.expect("-TRYAGAIN ").await;
    client.rest_of_line().await;

    let mut outside = |id: u64, resp: &str| {
        let node = map.nodes.get_mut(&NodeId(id)).expect("it is there");
        resp.clone_into(&mut Arc::make_mut(node).addresses.outside.resp);
    };
    outside(2, "lb.example:6379");
    node.map.store(Arc::new(map));
    client
        .call("GET a", "-MOVED 15495 lb.example:6379\r\n")
        .await;
    for (word, commands) in [("nodes", "CLUSTER NODES"), ("shards", "CLUSTER SHARDS")] {
        let mut client = node.connect_outside();
        client.command(commands).await;
        client.command("QUIT").await;
        let text = client.rest().await;
        assert!(
            text.contains("192.0.2.1") && text.contains("lb.example"),
            "{word}: {text}"
        );
        assert!(
            !text.contains("127.0.0.1") && !text.contains("one.example"),
            "{word}: {text}"
        );
    }
    // Inside nothing of it is heard.
    let mut inside = node.connect();
    inside.call("GET a", "-MOVED 15495 ?:7001\r\n").await;
    inside.command("CLUSTER NODES").await;
    inside.command("QUIT").await;
    let text = inside.rest().await;
    assert!(
        !text.contains("192.0.2.1") && !text.contains("lb.example"),
        "{text}"
    );
}
