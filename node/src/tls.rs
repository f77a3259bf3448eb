//! This node's TLS identity: read from files, used by every listener and dialler,
//! and read again when the files change.
//!
//! Nodes know each other by mutual TLS: whoever connects to a peer port shows a
//! certificate of the cluster's CA. Clients need not.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_client::transport::Dialer;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::listener::TlsSource;
use crate::settings::{TlsFiles, TlsPorts};
use crate::tasks::Servers;
use crate::{diagnosis, reload};

/// How often the files are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// The most that one of the files may have.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// What gRPC speaks inside.
const H2: &[u8] = b"h2";

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// One does not hold what it should.
    #[error("{} holds no usable {what}: {reason}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Certificate, key and CA do not fit together.
    #[error("the TLS files do not fit together: {0}")]
    Mismatch(String),
}

/// TLS, or plain text where no files were named, and on those ports that are to have none.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tls {
    loaded: Option<Arc<Loaded>>,
    ports: TlsPorts,
}

#[derive(Debug)]
struct Loaded {
    files: TlsFiles,
    current: ArcSwap<Configs>,
}

/// For dialling a cluster's nodes as a client: `ca` signs their certificates, and
/// `identity` (certificate and key) is shown to whoever asks for one.
///
/// # Errors
/// See [`TlsError`].
pub fn client_dialer(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Dialer, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?
        .with_root_certificates(roots(ca, &read(ca)?)?);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(
                certificates(cert, &read(cert)?)?,
                private_key(key, &read(key)?)?,
            )
            .map_err(mismatch)?,
    };
    config.alpn_protocols = vec![H2.to_vec()];
    let config = Arc::new(config);
    Ok(Dialer {
        tls: Some(Arc::new(move || Arc::clone(&config))),
        ..Dialer::default()
    })
}

/// What the files make, and their bytes.
#[derive(Debug)]
struct Configs {
    bytes: [Vec<u8>; 3],
    /// When the node's own certificate expires, in seconds since 1970, where that can be read.
    not_after: Option<i64>,
    /// The node's own certificate.
    own: Option<CertificateDer<'static>>,
    /// By which it knows who signed another's.
    authorities: Vec<CertificateDer<'static>>,
    /// For ports between nodes: a certificate is asked for.
    peer_server: Arc<ServerConfig>,
    /// For gRPC clients.
    grpc_server: Arc<ServerConfig>,
    /// For Redis and HTTP clients.
    plain_server: Arc<ServerConfig>,
    /// For dialling other nodes.
    client: Arc<ClientConfig>,
}

impl Tls {
    /// Reads the files, if there are any.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn load(files: Option<&TlsFiles>, ports: TlsPorts) -> Result<Self, TlsError> {
        let loaded = files
            .map(|files| {
                let configs = Configs::build(files, read_all(files)?)?;
                configs.tell();
                Ok(Arc::new(Loaded {
                    files: files.clone(),
                    current: ArcSwap::from_pointee(configs),
                }))
            })
            .transpose()?;
        Ok(Self { loaded, ports })
    }

    /// Whether the ports for clients speak TLS.
    #[must_use]
    pub fn covers_clients(&self) -> bool {
        self.on_client_ports().is_some()
    }

    fn on_client_ports(&self) -> Option<&Arc<Loaded>> {
        let loaded = self.loaded.as_ref();
        loaded.filter(|_| self.ports == TlsPorts::All)
    }

    /// For listeners between nodes.
    #[must_use]
    pub fn peer_server(&self) -> Option<TlsSource> {
        source(self.loaded.as_ref(), |configs| &configs.peer_server)
    }

    /// For listeners of gRPC clients.
    #[must_use]
    pub fn grpc_server(&self) -> Option<TlsSource> {
        source(self.on_client_ports(), |configs| &configs.grpc_server)
    }

    /// For listeners of Redis clients, and of those that ask for health and metrics.
    #[must_use]
    pub fn plain_server(&self) -> Option<TlsSource> {
        source(self.on_client_ports(), |configs| &configs.plain_server)
    }

    /// For dialling the ports between nodes.
    #[must_use]
    pub fn peer_dialer(&self) -> Dialer {
        dialer(self.loaded.as_ref())
    }

    /// For dialling other nodes' ports for clients.
    #[must_use]
    pub fn client_dialer(&self) -> Dialer {
        dialer(self.on_client_ports())
    }

    /// Looks at the files now; says whether they had changed.
    #[cfg(test)]
    pub(crate) fn reload(&self) -> Result<bool, TlsError> {
        self.loaded
            .as_ref()
            .map_or(Ok(false), |loaded| loaded.reload())
    }

    /// Looks at the files now and then among `servers`. New ones serve from the next
    /// connection on; ones that cannot be used are warned about and the old ones kept.
    pub(crate) fn keep_fresh(&self, servers: &mut Servers) {
        let Some(loaded) = self.loaded.clone() else {
            return;
        };
        reload::keep_fresh(
            servers,
            "TLS files",
            RELOAD_INTERVAL,
            metrics::counter!("cairn_tls_reloads_failed_total"),
            move || loaded.reload(),
        );
    }
}

fn source(
    loaded: Option<&Arc<Loaded>>,
    pick: fn(&Configs) -> &Arc<ServerConfig>,
) -> Option<TlsSource> {
    let loaded = Arc::clone(loaded?);
    Some(Arc::new(move || Arc::clone(pick(&loaded.current.load()))))
}

fn dialer(loaded: Option<&Arc<Loaded>>) -> Dialer {
    let tls = loaded.map(|loaded| {
        let loaded = Arc::clone(loaded);
        let source: cairn_client::transport::TlsSource =
            Arc::new(move || Arc::clone(&loaded.current.load().client));
        source
    });
    Dialer {
        tls,
        ..Dialer::default()
    }
}

impl Loaded {
    /// Reads the files again; says whether they had changed.
    fn reload(&self) -> Result<bool, TlsError> {
        let bytes = read_all(&self.files)?;
        if bytes == self.current.load().bytes {
            return Ok(false);
        }
        let configs = Configs::build(&self.files, bytes)?;
        let configs = Arc::new(configs);
        self.current.store(Arc::clone(&configs));
        // Only then: whoever hears of it relies on it.
        configs.tell();
        Ok(true)
    }
}

fn read_all(files: &TlsFiles) -> Result<[Vec<u8>; 3], TlsError> {
    Ok([read(&files.cert)?, read(&files.key)?, read(&files.ca)?])
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::Read {
        path: path.to_owned(),
        source,
    };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(io::Error::other(format!(
            "it has {length} bytes, which no certificate has"
        ))));
    }
    fs::read(path).map_err(failed)
}

impl Configs {
    fn build(files: &TlsFiles, bytes: [Vec<u8>; 3]) -> Result<Self, TlsError> {
        let [cert, key, ca] = &bytes;
        let chain = certificates(&files.cert, cert)?;
        let key = private_key(&files.key, key)?;
        let authorities = certificates(&files.ca, ca)?;
        let roots = Arc::new(trusted(&files.ca, &authorities)?);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = |mutual: bool, protocol: Option<&[u8]>| {
            server(&provider, &roots, mutual, chain.clone(), key.clone_key()).map(|mut config| {
                config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
                Arc::new(config)
            })
        };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(mismatch)?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(mismatch)?;
        client.alpn_protocols = vec![H2.to_vec()];
        let own = chain.first();
        Ok(Self {
            not_after: own.and_then(|own| not_after(own)),
            own: own.cloned(),
            authorities,
            peer_server: server(true, Some(H2))?,
            grpc_server: server(false, Some(H2))?,
            plain_server: server(false, None)?,
            client: Arc::new(client),
            bytes,
        })
    }

    /// Tells what is in use from now on, and when the certificate expires.
    fn tell(&self) {
        let own = self.own.as_deref().unwrap_or_default();
        diagnosis::note_certificates(own, &self.authorities);
        if let Some(not_after) = self.not_after {
            metrics::gauge!("cairn_tls_certificate_not_after_seconds").set(not_after as f64);
        }
    }
}

/// When a certificate expires, in seconds since 1970.
fn not_after(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(parsed.validity().not_after.timestamp())
}

fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| TlsError::Content {
        path: path.to_owned(),
        what: "private key",
        reason: error.to_string(),
    })
}

fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    trusted(path, &certificates(path, pem)?)
}

fn trusted(path: &Path, authorities: &[CertificateDer<'_>]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in authorities {
        roots
            .add(root.clone().into_owned())
            .map_err(|error| TlsError::Content {
                path: path.to_owned(),
                what: "CA certificate",
                reason: error.to_string(),
            })?;
    }
    Ok(roots)
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let content = |reason: String| TlsError::Content {
        path: path.to_owned(),
        what: "certificate",
        reason,
    };
    let all = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| content(error.to_string()))?;
    if all.is_empty() {
        return Err(content("there is none in it".to_owned()));
    }
    Ok(all)
}

fn server(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    mutual: bool,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(mismatch)?;
    let builder = if mutual {
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
                .build()
                .map_err(|error| TlsError::Mismatch(error.to_string()))?;
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    builder.with_single_cert(chain, key).map_err(mismatch)
}

fn mismatch(error: rustls::Error) -> TlsError {
    TlsError::Mismatch(error.to_string())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    #[test]
    fn a_certificate_says_when_it_expires() {
        let mut params = CertificateParams::new(vec!["a".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(2030, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("signed");
        assert_eq!(not_after(certificate.der()), Some(1_893_456_000));
        assert_eq!(not_after(&CertificateDer::from(vec![1, 2, 3])), None);
    }
}
