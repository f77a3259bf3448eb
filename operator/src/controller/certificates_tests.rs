use std::sync::Arc;

use async_trait::async_trait;
use cairn_client::InForce;
use http::Method;
use k8s_openapi::ByteString;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::super::material;
use crate::admin::{Access, Coordinators, Reach};
use crate::cluster::Cluster;
use crate::names::{Names, Role};
use crate::observed::{Observed, PodSeen};
use crate::pki::{self, SecretData};
use crate::testing::{FakeApi, cluster, writes};

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";
const CERTIFICATE: &str = "/apis/cert-manager.io/v1/namespaces/shop/certificates/orders-tls";
/// In 2026.
const NOW: u64 = 1_795_000_000_000;

/// Nodes that go by what they were given last, and say so.
#[derive(Clone, Default)]
struct Nodes(Arc<Mutex<InForce>>);

#[async_trait]
impl Reach for Nodes {
    fn reach(&self, _: &Access) -> Result<Arc<dyn Coordinators>, String> {
        Err("not asked for".to_owned())
    }

    async fn in_force(&self, _: &Access) -> Result<InForce, String> {
        Ok(self.0.lock().clone())
    }
}

impl Nodes {
    /// They take up what their Secrets hold by now.
    fn take_up(&self, api: &FakeApi) {
        let live = data(api, "orders-tls");
        let mut known = self.0.lock();
        known.certificate = pki::fingerprint(&live[pki::CERTIFICATE]).unwrap();
        let trusted = pki::fingerprints(&live[pki::AUTHORITY]).unwrap();
        known.authorities = trusted.into_iter().collect();
        if api.get(&format!("{SECRETS}/orders-users")).is_some() {
            let users = data(api, "orders-users");
            let file = &users[crate::users::FILE];
            let hash = ring::digest::digest(&ring::digest::SHA256, file);
            known.users = hash.as_ref().to_vec();
        }
    }
}

fn data(api: &FakeApi, name: &str) -> SecretData {
    let secret = api.get(&format!("{SECRETS}/{name}")).unwrap();
    let parts = secret["data"].as_object().unwrap();
    parts
        .iter()
        .map(|(key, value)| {
            let bytes: ByteString = serde_json::from_value(value.clone()).unwrap();
            (key.clone(), bytes.0)
        })
        .collect()
}

fn put(api: &FakeApi, name: &str, data: &SecretData) {
    let data: serde_json::Map<String, Value> = data
        .iter()
        .map(|(key, value)| (key.clone(), json!(ByteString(value.clone()))))
        .collect();
    let secret = json!({"metadata": {"name": name, "namespace": "shop"}, "data": data});
    api.put(&format!("{SECRETS}/{name}"), secret);
}

fn observed(names: &Names) -> Observed {
    let pod = |role, ordinal| {
        let seen = PodSeen {
            role: Some(role),
            ordinal,
            running: true,
            ..PodSeen::default()
        };
        (names.pod(role, ordinal), seen)
    };
    Observed {
        now_unix_ms: NOW,
        pods: [pod(Role::Coordinator, 0), pod(Role::Data, 0)].into(),
        ..Observed::default()
    }
}

async fn keep(api: &FakeApi, nodes: &Nodes, cluster: &Cluster) -> material::Kept {
    keep_for(api, nodes, cluster, &[]).await
}

/// The same where clients outside reach nodes by these hosts.
async fn keep_for(
    api: &FakeApi,
    nodes: &Nodes,
    cluster: &Cluster,
    hosts: &[&str],
) -> material::Kept {
    let observed = observed(&cluster.names);
    let (client, writes) = (api.client(), writes());
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    material::keep(&client, &writes, nodes, cluster, &observed, &hosts)
        .await
        .unwrap()
}

/// Rounds until nothing is waited for, in which nodes take up what they are given; how many.
async fn settled(api: &FakeApi, nodes: &Nodes, cluster: &Cluster) -> usize {
    for round in 0..12 {
        let kept = keep(api, nodes, cluster).await;
        nodes.take_up(api);
        if !kept.overtaken {
            return round;
        }
    }
    panic!("it does not settle");
}

fn authorities(api: &FakeApi) -> usize {
    let live = data(api, "orders-tls");
    pki::fingerprints(&live[pki::AUTHORITY]).unwrap().len()
}

#[tokio::test]
async fn a_person_has_another_authority_made_and_nodes_go_over_to_it_step_by_step() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let mut cluster = cluster();
    settled(&api, &nodes, &cluster).await;
    let (old, before) = (data(&api, "orders-ca"), data(&api, "orders-tls"));
    cluster.spec.tls.renew.authority = 1;
    keep(&api, &nodes, &cluster).await;
    assert_ne!(data(&api, "orders-ca")[pki::KEY], old[pki::KEY]);
    // Nobody has taken it up: what is shown stays, however often one looks.
    for _ in 0..3 {
        let kept = keep(&api, &nodes, &cluster).await;
        let text = &kept.notes[0].text;
        assert!(
            text.contains("orders-coordinator-0, orders-data-0"),
            "{text}"
        );
        assert_eq!(
            data(&api, "orders-tls")[pki::CERTIFICATE],
            before[pki::CERTIFICATE]
        );
        assert_eq!(authorities(&api), 2);
    }
    nodes.take_up(&api);
    settled(&api, &nodes, &cluster).await;
    let after = data(&api, "orders-tls");
    assert_ne!(after[pki::CERTIFICATE], before[pki::CERTIFICATE]);
    assert_eq!(
        after[pki::AUTHORITY],
        data(&api, "orders-ca")[pki::CERTIFICATE]
    );
    // And once: the number stands for one renewal.
    assert_eq!(settled(&api, &nodes, &cluster).await, 0);
    assert_eq!(data(&api, "orders-tls"), after);
}

#[tokio::test]
async fn a_person_has_another_certificate_made_at_once() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let mut cluster = cluster();
    settled(&api, &nodes, &cluster).await;
    let before = data(&api, "orders-tls");
    cluster.spec.tls.renew.certificate = 7;
    settled(&api, &nodes, &cluster).await;
    let after = data(&api, "orders-tls");
    assert_ne!(after[pki::CERTIFICATE], before[pki::CERTIFICATE]);
    assert_eq!(after[pki::AUTHORITY], before[pki::AUTHORITY]);
    settled(&api, &nodes, &cluster).await;
    assert_eq!(data(&api, "orders-tls"), after);
}

#[tokio::test]
async fn where_clients_speak_tls_they_are_given_time() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let mut cluster = cluster();
    cluster.spec.tls.clients = true;
    settled(&api, &nodes, &cluster).await;
    let before = data(&api, "orders-tls");
    cluster.spec.tls.renew.authority = 1;
    for _ in 0..4 {
        keep(&api, &nodes, &cluster).await;
        nodes.take_up(&api);
    }
    let kept = keep(&api, &nodes, &cluster).await;
    assert!(
        kept.notes[0].text.contains("tls.overlapSeconds"),
        "{kept:?}"
    );
    assert_eq!(
        data(&api, "orders-tls")[pki::CERTIFICATE],
        before[pki::CERTIFICATE]
    );
    cluster.spec.tls.overlap_seconds = Some(0);
    settled(&api, &nodes, &cluster).await;
    assert_ne!(
        data(&api, "orders-tls")[pki::CERTIFICATE],
        before[pki::CERTIFICATE]
    );
}

/// A cluster whose certificates come from an issuer of cert-manager, which the test plays.
fn with_issuer() -> Cluster {
    let mut cluster = cluster();
    cluster.spec.tls.issuer_ref = Some(cairn_crds::spec::IssuerRef {
        name: "company".to_owned(),
        kind: "ClusterIssuer".to_owned(),
        group: "cert-manager.io".to_owned(),
    });
    cluster
}

fn issue(api: &FakeApi, authority: &SecretData) -> SecretData {
    let nowhere = std::collections::BTreeSet::new();
    let names = crate::testing::cluster().names;
    let made = pki::make_certificate(&names, &nowhere, authority, NOW).unwrap();
    put(api, "orders-issued", &made);
    made
}

#[tokio::test]
async fn an_issuer_is_asked_for_every_name_and_nodes_get_what_it_makes() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let cluster = with_issuer();
    let kept = keep(&api, &nodes, &cluster).await;
    assert!(kept.notes[0].text.contains("orders-issued"), "{kept:?}");
    assert!(api.get(&format!("{SECRETS}/orders-tls")).is_none());
    let asked = api.get(CERTIFICATE).unwrap();
    assert_eq!(asked["spec"]["secretName"], "orders-issued");
    assert_eq!(asked["spec"]["issuerRef"]["name"], "company");
    assert_eq!(asked["spec"]["issuerRef"]["kind"], "ClusterIssuer");
    let hosts = asked["spec"]["dnsNames"].as_array().unwrap();
    assert!(
        hosts.contains(&json!("*.orders-data.shop.svc")),
        "{hosts:?}"
    );
    assert_eq!(asked["spec"]["ipAddresses"], json!(["127.0.0.1"]));
    assert_eq!(asked["metadata"]["ownerReferences"][0]["uid"], "uid-orders");
    let authority = pki::make_authority(&cluster.names, NOW).unwrap();
    let first = issue(&api, &authority);
    settled(&api, &nodes, &cluster).await;
    assert_eq!(data(&api, "orders-tls"), first);
    // The operator makes no authority of its own.
    assert!(api.get(&format!("{SECRETS}/orders-ca")).is_none());
    // Another certificate of the same authority is passed on at once.
    let second = issue(&api, &authority);
    keep(&api, &nodes, &cluster).await;
    assert_eq!(data(&api, "orders-tls"), second);
}

#[tokio::test]
async fn an_issuer_that_changes_its_authority_breaks_nothing() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let cluster = with_issuer();
    let authority = |()| pki::make_authority(&cluster.names, NOW).unwrap();
    issue(&api, &authority(()));
    settled(&api, &nodes, &cluster).await;
    let before = data(&api, "orders-tls");
    let made = issue(&api, &authority(()));
    // It replaced both at once, and nodes are not given both at once.
    keep(&api, &nodes, &cluster).await;
    assert_eq!(authorities(&api), 2);
    keep(&api, &nodes, &cluster).await;
    assert_eq!(
        data(&api, "orders-tls")[pki::CERTIFICATE],
        before[pki::CERTIFICATE]
    );
    nodes.take_up(&api);
    settled(&api, &nodes, &cluster).await;
    assert_eq!(data(&api, "orders-tls"), made);
}

#[tokio::test]
async fn what_an_issuer_makes_that_is_of_no_use_is_not_passed_on() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let cluster = with_issuer();
    let authority = pki::make_authority(&cluster.names, NOW).unwrap();
    let good = issue(&api, &authority);
    settled(&api, &nodes, &cluster).await;
    // As issuers do that tell nobody who they are.
    let mut anonymous = issue(&api, &authority);
    anonymous.remove(pki::AUTHORITY);
    put(&api, "orders-issued", &anonymous);
    let kept = keep(&api, &nodes, &cluster).await;
    assert!(kept.notes[0].text.contains("ca.crt"), "{kept:?}");
    assert_eq!(data(&api, "orders-tls"), good);
}

#[tokio::test]
async fn a_users_file_is_waited_for_until_every_node_goes_by_it() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let mut cluster = cluster();
    cluster.spec.users = Some(cairn_crds::spec::UsersSpec {
        secret_name: "people".to_owned(),
        key: "users.toml".to_owned(),
    });
    let file = |text: &str| {
        put(
            &api,
            "people",
            &[("users.toml".to_owned(), text.as_bytes().to_vec())].into(),
        );
    };
    file("# one\n");
    settled(&api, &nodes, &cluster).await;
    settled(&api, &nodes, &cluster).await;
    file("# two\n");
    keep(&api, &nodes, &cluster).await;
    for _ in 0..2 {
        let kept = keep(&api, &nodes, &cluster).await;
        assert!(kept.notes[0].text.contains("users file"), "{kept:?}");
    }
    nodes.take_up(&api);
    assert!(!keep(&api, &nodes, &cluster).await.overtaken);
    // That is written down, and nobody is asked again.
    *nodes.0.lock() = InForce::default();
    assert!(!keep(&api, &nodes, &cluster).await.overtaken);
    assert!(
        api.writes()
            .iter()
            .all(|write| write.method != Method::DELETE)
    );
}

#[tokio::test]
async fn nobody_is_sent_to_a_host_before_every_node_is_believed_there() {
    let api = FakeApi::default();
    let nodes = Nodes::default();
    let mut cluster = cluster();
    let with = async |hosts: &[&str], cluster: &Cluster| {
        let kept = keep_for(&api, &nodes, cluster, hosts).await;
        kept.hosts
            .map(|hosts| hosts.into_iter().collect::<Vec<_>>())
    };
    settled(&api, &nodes, &cluster).await;
    // Where clients speak no TLS no certificate is in the way.
    assert_eq!(with(&["192.0.2.1"], &cluster).await, None);
    cluster.spec.tls.clients = true;
    settled(&api, &nodes, &cluster).await;
    let nobody: Option<Vec<String>> = Some(Vec::new());
    for _ in 0..3 {
        assert_eq!(with(&["192.0.2.1"], &cluster).await, nobody);
    }
    nodes.take_up(&api);
    with(&["192.0.2.1"], &cluster).await;
    let one = Some(vec!["192.0.2.1".to_owned()]);
    assert_eq!(with(&["192.0.2.1"], &cluster).await, one);
    // Another one waits, and the first goes on to be told.
    for _ in 0..3 {
        assert_eq!(with(&["192.0.2.1", "lb.example"], &cluster).await, one);
    }
    nodes.take_up(&api);
    with(&["192.0.2.1", "lb.example"], &cluster).await;
    let both = Some(vec!["192.0.2.1".to_owned(), "lb.example".to_owned()]);
    assert_eq!(with(&["192.0.2.1", "lb.example"], &cluster).await, both);
    // One that went and comes back is named by the certificate that there is.
    with(&[], &cluster).await;
    with(&["lb.example"], &cluster).await;
    let back = Some(vec!["lb.example".to_owned()]);
    assert_eq!(with(&["lb.example"], &cluster).await, back);
}
