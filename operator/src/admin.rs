//! What the coordinators are asked, through a trait so that rounds can be tested without any.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cairn_client::InForce;
use cairn_client::admin::{
    Admin as Client, AdminError, Change, ChangeCoordinators, CoordinatorAt, Cordon, Drain,
    ExpectBack, MovePrimary, NodeGone, PauseMoves, Retire, Settings,
};
use cairn_client::transport::{Credential, Dialer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tonic::{Code, Status};

use crate::observed::Silence;
use crate::plan::{Admin, AgreedSettings};
use crate::store::Store;

/// How long the coordinators may take to say how things are.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);
/// How long they may take to do something.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a node may take to say what it goes by.
const IN_FORCE_DEADLINE: Duration = Duration::from_secs(3);
/// How long a connection may take: names are resolved, and pods may have moved.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How a cluster's coordinators are spoken to.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// Their client ports, `host:port`.
    pub endpoints: Vec<String>,
    /// The certificates, in PEM, one of which signed theirs; absent where they speak no TLS.
    pub authority: Option<Vec<u8>>,
    /// The token of the operator's own user, where the cluster has users.
    pub token: Option<String>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.authority.is_some())
            .field("token", &self.token.is_some())
            .finish()
    }
}

/// Why there is no answer to a change.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// They do not want to: what they say.
    #[error("{0}")]
    Refused(String),
    /// Nobody answered as a leader.
    #[error("{0}")]
    NoAnswer(String),
}

/// The coordinators of a cluster.
#[async_trait]
pub trait Coordinators: Send + Sync {
    /// How things are, as the leader sees them.
    async fn status(&self) -> Result<Store, Silence>;

    /// Asks for a change in the name of the operator that leads under that term. What was done,
    /// in a sentence.
    async fn change(&self, change: &Admin, term: u64) -> Result<String, Refusal>;
}

/// Finds coordinators, and single nodes.
#[async_trait]
pub trait Reach: Send + Sync {
    /// Those that are reached so.
    ///
    /// # Errors
    /// A sentence, where what is given cannot be used.
    fn reach(&self, access: &Access) -> Result<Arc<dyn Coordinators>, String>;

    /// Asks the node at the first of the endpoints what certificates and users it goes by.
    ///
    /// # Errors
    /// In words, where it does not tell.
    async fn in_force(&self, access: &Access) -> Result<InForce, String>;
}

/// Over the network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network;

#[async_trait]
impl Reach for Network {
    fn reach(&self, access: &Access) -> Result<Arc<dyn Coordinators>, String> {
        let client = Client::new(access.endpoints.clone(), dialer(access)?);
        Ok(Arc::new(Remote { client }))
    }

    async fn in_force(&self, access: &Access) -> Result<InForce, String> {
        let endpoint = access.endpoints.first().ok_or("nobody to ask")?;
        cairn_client::in_force(&dialer(access)?, endpoint, IN_FORCE_DEADLINE).await
    }
}

fn dialer(access: &Access) -> Result<Dialer, String> {
    let mut dialer = Dialer {
        connect_timeout: CONNECT_TIMEOUT,
        ..Dialer::default()
    };
    if let Some(pem) = &access.authority {
        let config = Arc::new(tls(pem)?);
        dialer.tls = Some(Arc::new(move || Arc::clone(&config)));
    }
    if let Some(token) = &access.token {
        let credential =
            Credential::token(token).ok_or("the operator's own token cannot be sent")?;
        dialer.credential = Some(credential);
    }
    Ok(dialer)
}

/// Nodes are known by who signed their certificates; as a client the operator shows none.
fn tls(authority: &[u8]) -> Result<ClientConfig, String> {
    let unusable = |why: String| format!("the certificate authority cannot be used: {why}");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority) {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct Remote {
    client: Client,
}

#[async_trait]
impl Coordinators for Remote {
    async fn status(&self) -> Result<Store, Silence> {
        let client = self.client.clone().deadline(STATUS_DEADLINE);
        let document = client.status().await.map_err(|error| match &error {
            AdminError::Refused(status) if is_refusal(status) => {
                Silence::Refused(error.to_string())
            }
            _ => Silence::NoAnswer(error.to_string()),
        })?;
        read(&document)
    }

    async fn change(&self, change: &Admin, term: u64) -> Result<String, Refusal> {
        let client = self.client.clone().deadline(CHANGE_DEADLINE).token(term);
        let reply = client
            .change(wire(change), false)
            .await
            .map_err(|error| match error {
                AdminError::Refused(status) if is_refusal(&status) => {
                    Refusal::Refused(status.message().to_owned())
                }
                error => Refusal::NoAnswer(error.to_string()),
            })?;
        let mut text = reply.message;
        for warning in reply.warnings {
            text.push_str("; ");
            text.push_str(&warning);
        }
        Ok(text)
    }
}

/// Whether a coordinator said no, rather than that nobody was understood: one that speaks TLS
/// and is not spoken to so (or the other way round) breaks the connection off in the middle.
fn is_refusal(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unknown | Code::Internal | Code::Unavailable | Code::Cancelled
    )
}

/// Reads the document. One that a leader did not make knows nothing of nodes.
fn read(document: &str) -> Result<Store, Silence> {
    #[derive(serde::Deserialize)]
    struct By {
        leading: bool,
    }
    let unreadable =
        |error: serde_json::Error| Silence::NoAnswer(format!("the status cannot be read: {error}"));
    let by: By = serde_json::from_str(document).map_err(unreadable)?;
    if !by.leading {
        return Err(Silence::NoAnswer(
            "the coordinators have no leader".to_owned(),
        ));
    }
    serde_json::from_str(document).map_err(unreadable)
}

/// The change as it travels.
fn wire(change: &Admin) -> Change {
    match change {
        Admin::Drain(node) => Change::Drain(Drain {
            node: *node,
            undo: false,
        }),
        Admin::Undrain(node) => Change::Drain(Drain {
            node: *node,
            undo: true,
        }),
        Admin::Retire(node) => Change::Retire(Retire { node: *node }),
        // Never against the coordinators' judgement: a person may force it, see `cairn`.
        Admin::Gone(node) => Change::NodeGone(NodeGone {
            node: *node,
            force: false,
        }),
        Admin::ExpectBack(node, until_unix_ms) => Change::ExpectBack(ExpectBack {
            node: *node,
            until_unix_ms: *until_unix_ms,
        }),
        Admin::Cordon(node, until_unix_ms) => Change::Cordon(Cordon {
            node: *node,
            until_unix_ms: *until_unix_ms,
        }),
        Admin::MovePrimary { partition, to } => Change::MovePrimary(MovePrimary {
            partition: *partition,
            to_node: *to,
        }),
        Admin::PauseMoves(paused) => Change::PauseMoves(PauseMoves { paused: *paused }),
        Admin::Settings(settings) => Change::Settings(agreed(settings)),
        Admin::AddCoordinators(add) => Change::Coordinators(ChangeCoordinators {
            add: add
                .iter()
                .map(|(name, peer)| CoordinatorAt {
                    name: name.clone(),
                    peer: peer.clone(),
                })
                .collect(),
            remove: Vec::new(),
        }),
        Admin::RemoveCoordinators(remove) => Change::Coordinators(ChangeCoordinators {
            add: Vec::new(),
            remove: remove.clone(),
        }),
    }
}

fn agreed(settings: &AgreedSettings) -> Settings {
    let AgreedSettings {
        replication_factor,
        write_quorum,
        min_in_sync,
        lease_ms,
        node_timeout_ms,
        replace_after_ms,
        moves_per_node,
        idempotence_window,
        ref counters,
    } = *settings;
    Settings {
        replication_factor,
        write_quorum,
        min_in_sync,
        lease_ms,
        node_timeout_ms,
        replace_after_ms,
        moves_per_node,
        idempotence_window,
        counters: counters.clone(),
    }
}

impl Admin {
    /// What is asked for, in a word, for metrics.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Drain(_) => "drain",
            Self::Undrain(_) => "undrain",
            Self::Retire(_) => "retire",
            Self::Gone(_) => "gone",
            Self::ExpectBack(..) => "expect_back",
            Self::Cordon(..) => "cordon",
            Self::MovePrimary { .. } => "move_primary",
            Self::PauseMoves(_) => "pause_moves",
            Self::Settings(_) => "settings",
            Self::AddCoordinators(_) => "add_coordinators",
            Self::RemoveCoordinators(_) => "remove_coordinators",
        }
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Drain(node) => write!(f, "drain node {node}"),
            Self::Undrain(node) => write!(f, "take node {node} back"),
            Self::Retire(node) => write!(f, "retire node {node}"),
            Self::Gone(node) => write!(f, "give node {node} up"),
            Self::ExpectBack(node, _) => write!(f, "expect node {node} back"),
            Self::Cordon(node, 0) => write!(f, "let node {node} lead again"),
            Self::Cordon(node, _) => write!(f, "give node {node} no primaries"),
            Self::MovePrimary { partition, to } => {
                write!(f, "move the primary of partition {partition} to node {to}")
            }
            Self::PauseMoves(true) => f.write_str("pause moves"),
            Self::PauseMoves(false) => f.write_str("let moves go on"),
            Self::Settings(_) => f.write_str("change the agreed settings"),
            Self::AddCoordinators(add) => {
                let names: Vec<&str> = add.iter().map(|(name, _)| name.as_str()).collect();
                write!(f, "take in {}", names.join(", "))
            }
            Self::RemoveCoordinators(names) => write!(f, "remove {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_leaders_document_counts() {
        let of = |leading: bool| {
            format!(
                r#"{{"clusterId":"c","leading":{leading},"summary":{{}},"nodes":[],"partitions":[]}}"#
            )
        };
        assert_eq!(read(&of(true)).unwrap().cluster_id, "c");
        assert!(matches!(read(&of(false)), Err(Silence::NoAnswer(_))));
        assert!(matches!(read("{"), Err(Silence::NoAnswer(_))));
    }

    #[test]
    fn a_connection_that_breaks_off_is_no_refusal() {
        assert!(!is_refusal(&Status::internal("h2 protocol error")));
        assert!(is_refusal(&Status::permission_denied("not you")));
        assert!(is_refusal(&Status::failed_precondition("too few")));
    }

    #[test]
    fn an_authority_without_a_certificate_is_refused() {
        let access = |authority: Option<&[u8]>| Access {
            endpoints: vec!["a:7400".to_owned()],
            authority: authority.map(<[u8]>::to_vec),
            token: Some("secret".to_owned()),
        };
        assert!(Network.reach(&access(None)).is_ok());
        assert!(Network.reach(&access(Some(b"nothing"))).is_err());
        let shown = format!("{:?}", access(None));
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_node_is_never_given_up_by_force() {
        let Change::NodeGone(gone) = wire(&Admin::Gone(4)) else {
            panic!("another change");
        };
        assert_eq!((gone.node, gone.force), (4, false));
    }
}
