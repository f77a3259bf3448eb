//! Whether the other data nodes' ports for clients answer: what only a client would
//! notice else (rule 1, "two other nodes get no answer on its client port").
//!
//! Each is asked for its map, which costs it next to nothing where the version is the
//! one that is known. Any answer will do, a refusal too. A port that never answered
//! this process is not spoken of: it may be advertised for clients elsewhere alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use cairn_client::transport::{Channel, Dialer};
use cairn_core::ids::NodeId;
use cairn_core::record::{ClusterMap, NodeStanding};
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1::MapRequest;
use futures::future::join_all;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::MetadataValue;

use super::SharedMap;
use super::inbox::Shared;
use crate::grpc::PROBE;

/// How often each port is asked, where there are few.
const EVERY: Duration = Duration::from_secs(1);
/// How many are asked in that time; where there are more, each is asked less often.
const AT_A_TIME: usize = 32;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many answers in a row must be missing: one may be lost to a hiccup.
const MISSES: u32 = 2;

/// One node's port.
#[derive(Debug)]
struct Port {
    address: String,
    client: Option<TopologyClient<Channel>>,
    answered: bool,
    misses: u32,
}

impl Port {
    fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            client: None,
            answered: false,
            misses: 0,
        }
    }

    fn note(&mut self, answered: bool) {
        if answered {
            self.answered = true;
            self.misses = 0;
        } else {
            self.misses = self.misses.saturating_add(1);
            // A process that is frozen keeps its connection open.
            self.client = None;
        }
    }

    fn is_silent(&self) -> bool {
        self.answered && self.misses >= MISSES
    }
}

/// The ports of all the others.
#[derive(Debug)]
pub(super) struct Ports {
    own: NodeId,
    map: SharedMap,
    dialer: Dialer,
    ports: BTreeMap<NodeId, Port>,
}

impl Ports {
    pub(super) fn new(own: NodeId, map: SharedMap, dialer: Dialer) -> Self {
        Self {
            own,
            map,
            dialer,
            ports: BTreeMap::new(),
        }
    }

    /// Asks them in turn until `shutdown`, and has the heartbeats tell what is found.
    pub(super) async fn watch(mut self, shared: Arc<Shared>, shutdown: CancellationToken) {
        let answering = metrics::gauge!("cairn_agent_client_ports_answering");
        loop {
            let rounds = self.ports.len().div_ceil(AT_A_TIME).max(1);
            let pause = EVERY * u32::try_from(rounds).unwrap_or(u32::MAX);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = sleep(pause) => {}
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.ask_all() => {}
            }
            shared.set_silent_client_ports(self.silent());
            answering.set(self.answering() as f64);
        }
    }

    fn silent(&self) -> Vec<NodeId> {
        let silent = self.ports.iter().filter(|(_, port)| port.is_silent());
        silent.map(|(node, _)| *node).collect()
    }

    fn answering(&self) -> usize {
        let ports = self.ports.values();
        ports
            .filter(|port| port.answered && port.misses == 0)
            .count()
    }

    fn follow(&mut self, map: &ClusterMap) {
        let mut left: BTreeSet<NodeId> = self.ports.keys().copied().collect();
        for node in map.nodes.values() {
            let address = &node.addresses.client;
            if node.id == self.own || node.standing != NodeStanding::Member || address.is_empty() {
                continue;
            }
            left.remove(&node.id);
            let port = self
                .ports
                .entry(node.id)
                .or_insert_with(|| Port::at(address));
            if port.address != *address {
                *port = Port::at(address);
            }
        }
        for node in left {
            self.ports.remove(&node);
        }
    }

    async fn ask_all(&mut self) {
        let map = self.map.load_full();
        self.follow(&map);
        let (dialer, map) = (&self.dialer, &map);
        let asked = self.ports.values_mut().map(|port| async move {
            if port.client.is_none() {
                port.client = dialer.lazy(&port.address).ok().map(TopologyClient::new);
            }
            let answered = match port.client.clone() {
                Some(client) => answers(client, map).await,
                None => false,
            };
            port.note(answered);
        });
        join_all(asked).await;
    }
}

/// Whether anything comes back that the other side has sent.
async fn answers(mut client: TopologyClient<Channel>, map: &ClusterMap) -> bool {
    let mut request = Request::new(MapRequest {
        cluster_id: map.cluster_id.clone(),
        version: map.version.0,
    });
    // Where users are set up, the refusal is answer enough.
    request
        .metadata_mut()
        .insert(PROBE, MetadataValue::from_static("1"));
    match timeout(PATIENCE, client.get(request)).await {
        Ok(Ok(_)) => true,
        // What the transport reports has its own error as the cause.
        Ok(Err(status)) => std::error::Error::source(&status).is_none(),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arc_swap::ArcSwap;
    use cairn_core::ids::MapVersion;
    use cairn_core::record::{Addresses, NodeInfo};
    use tokio::net::TcpListener;

    use super::*;
    use crate::grpc::{self, MapFeed, ServeConfig, TopologyServer};
    use crate::listener::ListenerConfig;

    fn map(addresses: &[&str]) -> ClusterMap {
        let node = |(at, address): (usize, &&str)| {
            let id = NodeId(at as u64 + 1);
            let info = NodeInfo {
                id,
                uuid: format!("u{at}"),
                incarnation: format!("i{at}"),
                name: format!("n{at}"),
                addresses: Addresses {
                    client: (*address).to_owned(),
                    ..Addresses::default()
                },
                zone: String::new(),
                weight: 100,
                standing: NodeStanding::Member,
                features: 0,
                changed_at: MapVersion(1),
            };
            (id, Arc::new(info))
        };
        ClusterMap {
            cluster_id: "c".to_owned(),
            version: MapVersion(1),
            nodes: addresses
                .iter()
                .enumerate()
                .map(node)
                .collect::<BTreeMap<_, _>>(),
            ..ClusterMap::default()
        }
    }

    #[tokio::test]
    async fn a_port_that_answered_and_does_so_no_more_is_told_of() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let feed = MapFeed::new(Arc::new(ArcSwap::default()));
        let mut routes = tonic::service::Routes::builder();
        routes.add_service(TopologyServer::new(feed, shutdown.clone()).into_server());
        let serving = tokio::spawn(grpc::serve(
            listener,
            routes.routes(),
            ServeConfig::default(),
            ListenerConfig {
                name: "test",
                connections_max: 16,
                handshake_timeout: Duration::from_secs(5),
                drain_timeout: Duration::ZERO,
                tls: None,
            },
            shutdown.clone(),
        ));
        // Nobody was ever heard at the third.
        let map = map(&["127.0.0.1:1", &address, "127.0.0.1:1"]);
        let mut ports = Ports::new(
            NodeId(1),
            Arc::new(ArcSwap::new(Arc::new(map))),
            Dialer::default(),
        );
        ports.ask_all().await;
        assert!(ports.ports[&NodeId(2)].answered);
        assert_eq!((ports.silent(), ports.answering()), (vec![], 1));
        shutdown.cancel();
        serving.await.unwrap().unwrap();
        ports.ask_all().await;
        assert_eq!(ports.silent(), [], "one answer may be lost");
        ports.ask_all().await;
        assert_eq!((ports.silent(), ports.answering()), (vec![NodeId(2)], 0));
    }
}
