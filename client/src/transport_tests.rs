use std::sync::atomic::{AtomicUsize, Ordering};

use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::record::{Addresses, ClusterMap, NodeInfo, NodeStanding};

use super::*;

const NAME: &str = "data-1.example";
const IP: [u8; 4] = [192, 0, 2, 7];

/// The map of one node, which says that its name stands for [`IP`].
fn map() -> SharedMap {
    let node = NodeInfo {
        id: NodeId(1),
        uuid: "uuid-1".to_owned(),
        incarnation: "incarnation-1".to_owned(),
        name: "data-1".to_owned(),
        addresses: Addresses {
            client: format!("{NAME}:7400"),
            ip: Some(IP.into()),
            ..Addresses::default()
        },
        zone: String::new(),
        weight: 100,
        standing: NodeStanding::Member,
        features: 0,
        changed_at: MapVersion(1),
    };
    let map = ClusterMap {
        nodes: [(node.id, Arc::new(node))].into(),
        ..ClusterMap::default()
    };
    Arc::new(arc_swap::ArcSwap::from_pointee(map))
}

/// A network in which one host answers, and every other one neither does nor refuses. Counts
/// who was tried besides.
fn network(answers: &'static str, others: &Arc<AtomicUsize>) -> Dialer {
    let others = Arc::clone(others);
    Dialer {
        connect: Some(Arc::new(move |host, _| {
            if host != answers {
                others.fetch_add(1, Ordering::Relaxed);
                return Box::pin(std::future::pending());
            }
            Box::pin(async {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                tokio::spawn(async move {
                    let _theirs = theirs;
                    std::future::pending::<()>().await;
                });
                Ok(Box::new(ours) as Box<dyn ByteStream>)
            })
        })),
        ..Dialer::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_dialled_where_the_map_says_that_it_is_while_its_name_leads_elsewhere() {
    let others = Arc::default();
    let dialer = network("192.0.2.7", &others).following(map());
    dialer.dial(&format!("{NAME}:7400")).await.unwrap();
    assert_eq!(others.load(Ordering::Relaxed), 0);
    // Of other addresses it knows nothing.
    let unknown = dialer.dial(&format!("{NAME}:7401")).await;
    assert!(unknown.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_node_is_found_by_its_name_where_the_map_is_too_old() {
    let others = Arc::default();
    let dialer = network(NAME, &others).following(map());
    dialer.dial(&format!("{NAME}:7400")).await.unwrap();
    assert_eq!(others.load(Ordering::Relaxed), 1);
    // Nor is one that was told to be there looked for anywhere else.
    let there = dialer
        .dial_at(&format!("{NAME}:7400"), Some(IP.into()))
        .await;
    assert!(there.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_name_that_no_certificate_could_be_for_is_dialled_where_no_tls_is_spoken() {
    let name = "data-.example";
    assert!(ServerName::try_from(name).is_err());
    let dialer = network(name, &Arc::default());
    dialer.dial(&format!("{name}:7400")).await.unwrap();
}
