//! How the clients of a load are let in where nodes speak TLS and have users: by files, which
//! are looked at for each connection, so that what is in them may be replaced meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use cairn_client::transport::{Credential, Dialer, TlsSource};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

/// How clients are let in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// The file with the certificates by which nodes are known, in PEM.
    pub authorities: PathBuf,
    /// Who the Redis clients say they are.
    pub user: String,
    /// The file with their password.
    pub password: PathBuf,
    /// By what the clients of the Rust library are known.
    pub token: String,
}

impl Access {
    /// The password as it is now.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn password(&self) -> Result<String> {
        let text = fs::read_to_string(&self.password);
        let text = text.with_context(|| self.password.display().to_string())?;
        Ok(text.trim().to_owned())
    }

    /// For a connection that is made now; `protocol` is what gRPC has to name.
    ///
    /// # Errors
    /// Where the file holds no certificates.
    pub fn tls(&self, protocol: Option<&[u8]>) -> Result<Arc<ClientConfig>> {
        trusting(&self.authorities, protocol)
    }

    /// For clients of the Rust library.
    ///
    /// # Errors
    /// Where the file holds no certificates at the moment.
    pub fn dialer(&self) -> Result<Dialer> {
        let last = Arc::new(std::sync::Mutex::new(self.tls(Some(b"h2"))?));
        let access = self.clone();
        let tls: TlsSource = Arc::new(move || {
            let mut last = last
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            // One that is just being replaced is looked at again for the next connection.
            if let Ok(config) = access.tls(Some(b"h2")) {
                *last = config;
            }
            Arc::clone(&last)
        });
        Ok(Dialer {
            tls: Some(tls),
            credential: Credential::token(&self.token),
            ..Dialer::default()
        })
    }
}

/// For clients that trust who is in a PEM file and show no certificate. `protocol` is what gRPC
/// has to name.
///
/// # Errors
/// Where the file holds no certificates.
pub(crate) fn trusting(authorities: &Path, protocol: Option<&[u8]>) -> Result<Arc<ClientConfig>> {
    let pem = fs::read(authorities).with_context(|| authorities.display().to_string())?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    ensure!(
        !roots.is_empty(),
        "{} holds no certificate",
        authorities.display()
    );
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    Ok(Arc::new(config))
}
