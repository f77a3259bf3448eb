//! gRPC over TLS: who is let in, and how new files come into force.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_client::transport::{Channel, Dialer};
use cairn_core::record::ClusterMap;
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1::MapRequest;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::fake::plain_listener;
use super::{MapFeed, ServeConfig, TopologyServer, serve};
use crate::listener::{ListenerConfig, TlsSource};
use crate::settings::{TlsFiles, TlsPorts};
use crate::tls::Tls;

/// Signs certificates.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed").pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes a node's files, signed by this authority.
    fn issue(&self, directory: &Path) -> TlsFiles {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let write = |name: &str, text: &str| {
            let path = directory.join(name);
            std::fs::write(&path, text).expect("write");
            path
        };
        TlsFiles {
            cert: write("cert.pem", &certificate.pem()),
            key: write("key.pem", &key.serialize_pem()),
            ca: write("ca.pem", &self.certificate),
        }
    }

    /// A dialler that trusts this authority and shows no certificate.
    fn anonymous(&self) -> Dialer {
        let mut roots = RootCertStore::empty();
        let root = CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("PEM");
        roots.add(root).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let config = Arc::new(config);
        Dialer {
            tls: Some(Arc::new(move || Arc::clone(&config))),
            ..Dialer::default()
        }
    }
}

/// Serves a map behind TLS; returns the address.
async fn start(tls: Option<TlsSource>) -> String {
    start_with(ListenerConfig {
        tls,
        ..plain_listener()
    })
    .await
}

async fn start_with(config: ListenerConfig) -> String {
    let map = ClusterMap {
        cluster_id: "over TLS".to_owned(),
        ..ClusterMap::default()
    };
    let feed = MapFeed::new(Arc::new(ArcSwap::from_pointee(map)));
    let shutdown = CancellationToken::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(serve(
        listener,
        Routes::new(TopologyServer::new(feed, shutdown.clone()).into_server()),
        ServeConfig::default(),
        config,
        shutdown,
    ));
    address
}

async fn ask(channel: Channel) -> Result<(), String> {
    TopologyClient::new(channel)
        .get(MapRequest::default())
        .await
        .map(drop)
        .map_err(|status| status.message().to_owned())
}

/// Dials anew and asks for the map.
async fn reach(dialer: Dialer, address: &str) -> Result<(), String> {
    let channel = dialer.dial(address).await.map_err(|e| e.to_string())?;
    ask(channel).await
}

#[tokio::test]
async fn nodes_let_in_only_those_of_their_authority() {
    let (ours, strangers) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let tls = Tls::load(Some(&ours.issue(directory.path())), TlsPorts::All).expect("they fit");
    let elsewhere = tempfile::tempdir().expect("a directory");
    let stranger =
        Tls::load(Some(&strangers.issue(elsewhere.path())), TlsPorts::All).expect("they fit");

    let peers = start(tls.peer_server()).await;
    assert_eq!(reach(tls.peer_dialer(), &peers).await, Ok(()));
    for refused in [Dialer::default(), ours.anonymous(), stranger.peer_dialer()] {
        assert!(reach(refused, &peers).await.is_err());
    }

    let clients = start(tls.grpc_server()).await;
    assert_eq!(reach(ours.anonymous(), &clients).await, Ok(()));
    for refused in [Dialer::default(), strangers.anonymous()] {
        assert!(reach(refused, &clients).await.is_err());
    }
}

#[tokio::test]
async fn where_tls_is_between_nodes_alone_clients_are_served_and_dialled_in_plain_text() {
    let ours = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    let files = ours.issue(directory.path());
    let tls = Tls::load(Some(&files), TlsPorts::Peer).expect("they fit");
    assert!(!tls.covers_clients());
    assert!(tls.grpc_server().is_none() && tls.plain_server().is_none());

    let peers = start(tls.peer_server()).await;
    assert_eq!(reach(tls.peer_dialer(), &peers).await, Ok(()));
    for refused in [tls.client_dialer(), ours.anonymous()] {
        assert!(reach(refused, &peers).await.is_err());
    }
    let clients = start(tls.grpc_server()).await;
    assert_eq!(reach(tls.client_dialer(), &clients).await, Ok(()));
    assert!(reach(tls.peer_dialer(), &clients).await.is_err());

    let everywhere = Tls::load(Some(&files), TlsPorts::All).expect("they fit");
    assert!(everywhere.covers_clients());
    let clients = start(everywhere.grpc_server()).await;
    assert_eq!(reach(everywhere.client_dialer(), &clients).await, Ok(()));
}

#[tokio::test]
async fn new_files_serve_from_the_next_connection_on() {
    let (before, after) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().expect("a directory");
    let files = before.issue(directory.path());
    let tls = Tls::load(Some(&files), TlsPorts::All).expect("they fit");
    let address = start(tls.peer_server()).await;
    let open = tls.peer_dialer().dial(&address).await.expect("connect");
    assert_eq!(ask(open.clone()).await, Ok(()));

    // Broken files change nothing.
    let key = std::fs::read(&files.key).expect("read");
    std::fs::write(&files.key, "not a key").expect("write");
    assert!(tls.reload().is_err());
    assert_eq!(reach(tls.peer_dialer(), &address).await, Ok(()));
    std::fs::write(&files.key, key).expect("write");
    assert!(matches!(tls.reload(), Ok(false)));

    let former = Tls::load(Some(&files), TlsPorts::All).expect("they fit");
    after.issue(directory.path());
    assert!(matches!(tls.reload(), Ok(true)));
    assert_eq!(reach(tls.peer_dialer(), &address).await, Ok(()));
    assert!(reach(former.peer_dialer(), &address).await.is_err());
    assert_eq!(ask(open).await, Ok(()));
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up_and_holds_nobody_up() {
    let ours = Authority::new();
    let directory = tempfile::tempdir().expect("a directory");
    let tls = Tls::load(Some(&ours.issue(directory.path())), TlsPorts::All).expect("they fit");
    let config = ListenerConfig {
        tls: tls.grpc_server(),
        handshake_timeout: Duration::from_millis(200),
        ..plain_listener()
    };
    let address = start_with(config).await;
    // The head of a record, and nothing of it; and nothing at all.
    let mut slow = Vec::new();
    for bytes in [&b"\x16\x03\x01\x02\x00"[..], b""] {
        let mut stream = TcpStream::connect(&address).await.expect("connect");
        stream.write_all(bytes).await.expect("sent");
        slow.push(stream);
    }
    assert_eq!(reach(ours.anonymous(), &address).await, Ok(()));
    for mut stream in slow {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(ended.is_ok(), "it is closed");
    }
}
