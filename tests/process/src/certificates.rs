//! The TLS files of a cluster, from an authority of the test's own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
};
use rustls::ClientConfig;

use crate::access;

/// Signs certificates for nodes on loopback, and keeps their files in one folder.
#[derive(Debug)]
pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, whose certificate lies in `directory`.
    ///
    /// # Errors
    /// Where it cannot be made or written.
    pub fn new(directory: &Path) -> Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key)?.pem();
        let authority = Self {
            directory: directory.to_owned(),
            issuer: Issuer::new(params, key),
        };
        authority.write("ca.pem", &certificate)?;
        Ok(authority)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let fresh = self.directory.join(format!("{name}.new"));
        fs::write(&fresh, text)?;
        fs::rename(&fresh, self.directory.join(name))?;
        Ok(())
    }

    /// Puts a new certificate and key in the place of those that the nodes have, and
    /// returns the certificate as clients are shown it.
    ///
    /// # Errors
    /// Where they cannot be made or written.
    pub fn issue(&self) -> Result<Vec<u8>> {
        self.sign(CertificateParams::new(["127.0.0.1".to_owned()])?)
    }

    /// The same with a certificate that is good for so long and no longer.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_for(&self, good_for: Duration) -> Result<Vec<u8>> {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
        params.not_after = (SystemTime::now() + good_for).into();
        self.sign(params)
    }

    /// The same with a certificate for these host names and addresses.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn issue_names(&self, names: Vec<String>) -> Result<Vec<u8>> {
        let mut params = CertificateParams::new(names)?;
        // Not that of the authority, or OpenSSL takes it for one that signed itself.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "a node");
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Vec<u8>> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        self.write("key.pem", &key.serialize_pem())?;
        self.write("cert.pem", &certificate.pem())?;
        Ok(certificate.der().to_vec())
    }

    /// The variables that name the files.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [
            ("CAIRN_TLS_CERT_FILE", "cert.pem"),
            ("CAIRN_TLS_KEY_FILE", "key.pem"),
            ("CAIRN_TLS_CA_FILE", "ca.pem"),
        ]
        .map(|(name, file)| (name, self.directory.join(file).display().to_string()))
    }

    /// For clients that trust this authority and show no certificate. `protocol` is
    /// what gRPC has to name.
    ///
    /// # Errors
    /// Where the authority's own certificate cannot be read back.
    pub fn client(&self, protocol: Option<&[u8]>) -> Result<Arc<ClientConfig>> {
        access::trusting(&self.directory.join("ca.pem"), protocol)
    }
}
