//! Certificates: an authority for each cluster, and one certificate for all its nodes.
//!
//! Nodes know each other by it: whoever speaks to a port between nodes shows a certificate of
//! the same authority. One certificate serves all nodes, since they hold the same data and may
//! do the same; it names every host that a node of the cluster can have, whatever its number.
//!
//! - The authority's key stands in the authority's Secret alone, which no pod mounts.
//! - An authority is renewed with the key that it has: what either certificate of it signed
//!   is trusted by who knows the other one, so that nodes may take them up one by one.
//! - Another authority, with a key of its own, is made where a person asks for it: how nodes
//!   go over to it is a matter of [`crate::rotation`].
//! - Whether a certificate is still good is asked of the same verifier that nodes use, for a
//!   time to come. Nothing is remembered beside it.
//!
//! Time comes in as an argument. Keys are drawn from the system's random source.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber, date_time_ymd,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::names::{Names, Role};

/// What a Secret holds.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// The key of a Secret that holds a certificate.
pub const CERTIFICATE: &str = "tls.crt";
/// The key of a Secret that holds a certificate's private key.
pub const KEY: &str = "tls.key";
/// The key of a Secret that holds the certificate of whoever signed the other one.
pub const AUTHORITY: &str = "ca.crt";

const DAY_SECONDS: u64 = 24 * 3_600;
/// How long an authority is good for: ten years.
const AUTHORITY_FOR: Duration = Duration::from_secs(3_652 * DAY_SECONDS);
/// How long the nodes' certificate is good for.
const CERTIFICATE_FOR: Duration = Duration::from_secs(365 * DAY_SECONDS);
/// What is left of its time when a certificate is renewed: this part of it.
const LEFT_AT_RENEWAL: u32 = 3;
/// Since when a new certificate is good: clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3_600);
/// The latest time that is reckoned with, milliseconds since 1970: the year 3000.
const LATEST_UNIX_MS: u64 = 32_503_680_000_000;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// It cannot be made.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The Secret with the authority holds none.
    #[error("the Secret with the cluster's certificate authority cannot be used: {0}")]
    Authority(String),
}

/// The host names that a node of the cluster can have, as certificates spell them, with those
/// by which clients outside reach it.
#[must_use]
pub fn host_names(names: &Names, outside: &BTreeSet<String>) -> Vec<String> {
    let namespace = &names.namespace;
    let mut all = Vec::new();
    for service in Role::ALL.map(|role| names.role(role)) {
        // A name without the cluster's domain is completed by the resolver; that of the
        // domain is for those who are given whole names.
        for domain in ["svc", "svc.cluster.local"] {
            all.push(format!("*.{service}.{namespace}.{domain}"));
            all.push(format!("{service}.{namespace}.{domain}"));
        }
    }
    let service = names.client_service();
    all.push(service.clone());
    for domain in ["", ".svc", ".svc.cluster.local"] {
        all.push(format!("{service}.{namespace}{domain}"));
    }
    // Through a port-forward.
    all.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    all.extend(outside.iter().cloned());
    all
}

/// A new authority, at that time (milliseconds since 1970 UTC): what its Secret is to hold.
///
/// # Errors
/// See [`PkiError`].
pub fn make_authority(names: &Names, now_unix_ms: u64) -> Result<SecretData, PkiError> {
    sign_authority(
        names,
        &KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
        now_unix_ms,
    )
}

/// The authority with its time begun anew, and the key that it has.
///
/// # Errors
/// See [`PkiError`].
pub fn renew_authority(
    names: &Names,
    authority: &SecretData,
    now_unix_ms: u64,
) -> Result<SecretData, PkiError> {
    sign_authority(names, &authority_key(authority)?, now_unix_ms)
}

/// Whether a third or less of the authority's time is left.
///
/// # Errors
/// Where the Secret holds no authority.
pub fn authority_needs_renewal(authority: &SecretData, now_unix_ms: u64) -> Result<bool, PkiError> {
    let certificate = authority_certificate(authority)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
        .map_err(|error| PkiError::Authority(error.to_string()))?;
    let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let left = Duration::from_secs(until).saturating_sub(Duration::from_millis(now_unix_ms));
    Ok(left <= AUTHORITY_FOR / LEFT_AT_RENEWAL)
}

/// A new certificate for the nodes, signed by the authority: what its Secret is to hold.
///
/// # Errors
/// See [`PkiError`].
pub fn make_certificate(
    names: &Names,
    outside: &BTreeSet<String>,
    authority: &SecretData,
    now_unix_ms: u64,
) -> Result<SecretData, PkiError> {
    let issuer = Issuer::from_ca_cert_der(
        &authority_certificate(authority)?,
        authority_key(authority)?,
    )?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(host_names(names, outside))?;
    put_times(&mut params, now_unix_ms, CERTIFICATE_FOR);
    put_subject(&mut params, names, "cairn node");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(BTreeMap::from([
        (CERTIFICATE.to_owned(), certificate.pem().into_bytes()),
        (KEY.to_owned(), key.serialize_pem().into_bytes()),
        (AUTHORITY.to_owned(), authority[CERTIFICATE].clone()),
    ]))
}

/// Whether the nodes' certificate is to be made anew: a third or less of its time is left, or
/// it is not one with which every node of the cluster would be believed, under each of its
/// names, by whoever knows the authority alone.
#[must_use]
pub fn needs_renewal(
    names: &Names,
    outside: &BTreeSet<String>,
    authority: &SecretData,
    certificate: &SecretData,
    now_unix_ms: u64,
) -> bool {
    let now = Duration::from_millis(now_unix_ms);
    let soon = now + CERTIFICATE_FOR / LEFT_AT_RENEWAL;
    let mut certificate = certificate.clone();
    certificate.extend(
        authority
            .get(CERTIFICATE)
            .map(|authority| (AUTHORITY.to_owned(), authority.clone())),
    );
    let is_believed = |at| {
        // A node that a wildcard stands for.
        let hosts = host_names(names, outside).into_iter();
        let hosts = hosts.map(|host| host.replace('*', "node-0"));
        check_as(&certificate, hosts, at).is_ok()
    };
    ![now, soon].into_iter().all(is_believed)
}

/// Those of these hosts under which a node with that certificate is believed.
#[must_use]
pub fn named(certificate: &SecretData, hosts: &BTreeSet<String>, at: Duration) -> BTreeSet<String> {
    let believed = |host: &&String| check_as(certificate, [(*host).clone()], at).is_ok();
    hosts.iter().filter(believed).cloned().collect()
}

/// The SHA-256 of each certificate, in DER.
///
/// # Errors
/// In words, where there is none, or what is no certificate.
pub fn fingerprints(pem: &[u8]) -> Result<BTreeSet<Vec<u8>>, String> {
    let all: BTreeSet<Vec<u8>> = certificates(pem)?.iter().map(|one| sha256(one)).collect();
    if all.is_empty() {
        return Err("there is no certificate in it".to_owned());
    }
    Ok(all)
}

/// The SHA-256 of the first certificate, in DER.
///
/// # Errors
/// As [`fingerprints`].
pub fn fingerprint(pem: &[u8]) -> Result<Vec<u8>, String> {
    let all = certificates(pem)?;
    let first = all.first().ok_or("there is no certificate in it")?;
    Ok(sha256(first))
}

fn sha256(of: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, of)
        .as_ref()
        .to_vec()
}

/// Whether nodes believe each other with what a Secret holds, at a time since 1970; also one
/// that a person made, of which no more is asked.
///
/// # Errors
/// What a node would say, in words.
pub fn check(names: &Names, certificate: &SecretData, at: Duration) -> Result<(), String> {
    let hosts = Role::ALL.map(|role| names.host(role, 0));
    check_as(certificate, hosts, at)
}

/// Whether a node with that certificate is believed under each of these names.
fn check_as(
    certificate: &SecretData,
    hosts: impl IntoIterator<Item = String>,
    at: Duration,
) -> Result<(), String> {
    let told = |error: rustls::Error| error.to_string();
    let part = |key: &str| certificate.get(key).ok_or(format!("it lacks {key}"));
    let chain = certificates(part(CERTIFICATE)?)?;
    let key = PrivateKeyDer::from_pem_slice(part(KEY)?).map_err(|error| error.to_string())?;
    let mut roots = RootCertStore::empty();
    for root in certificates(part(AUTHORITY)?)? {
        roots.add(root).map_err(told)?;
    }
    let roots = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    CertifiedKey::from_der(chain.clone(), key, &provider).map_err(told)?;
    let (own, between) = chain.split_first().ok_or("there is no certificate in it")?;
    let at = UnixTime::since_unix_epoch(at);
    let server =
        WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| error.to_string())?;
    for host in hosts {
        let server_name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
        server
            .verify_server_cert(own, between, &server_name, &[], at)
            .map_err(|error| format!("as {host}: {error}"))?;
    }
    WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| error.to_string())?
        .verify_client_cert(own, between, at)
        .map_err(told)?;
    Ok(())
}

fn sign_authority(names: &Names, key: &KeyPair, now_unix_ms: u64) -> Result<SecretData, PkiError> {
    let mut params = CertificateParams::default();
    put_times(&mut params, now_unix_ms, AUTHORITY_FOR);
    put_subject(&mut params, names, "cairn authority");
    // What follows from the key would be the same for each renewal, and no two certificates
    // of an issuer may have one number.
    params.serial_number = Some(SerialNumber::from_slice(&now_unix_ms.to_be_bytes()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(key)?;
    Ok(BTreeMap::from([
        (CERTIFICATE.to_owned(), certificate.pem().into_bytes()),
        (KEY.to_owned(), key.serialize_pem().into_bytes()),
    ]))
}

/// Each part has a bound of 64 characters, which namespace and name keep.
fn put_subject(params: &mut CertificateParams, names: &Names, common_name: &str) {
    let subject = &mut params.distinguished_name;
    subject.push(DnType::CommonName, common_name);
    subject.push(DnType::OrganizationName, names.namespace.as_str());
    subject.push(DnType::OrganizationalUnitName, names.cluster.as_str());
}

fn put_times(params: &mut CertificateParams, now_unix_ms: u64, good_for: Duration) {
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(now_unix_ms.min(LATEST_UNIX_MS));
    params.not_before = now - CLOCKS_DIFFER;
    params.not_after = now + good_for;
}

fn authority_certificate(authority: &SecretData) -> Result<CertificateDer<'static>, PkiError> {
    let pem = authority
        .get(CERTIFICATE)
        .ok_or_else(|| PkiError::Authority(format!("it lacks {CERTIFICATE}")))?;
    CertificateDer::from_pem_slice(pem).map_err(|error| PkiError::Authority(error.to_string()))
}

fn authority_key(authority: &SecretData) -> Result<KeyPair, PkiError> {
    let pem = authority
        .get(KEY)
        .and_then(|pem| std::str::from_utf8(pem).ok())
        .ok_or_else(|| PkiError::Authority(format!("it lacks {KEY}")))?;
    KeyPair::from_pem(pem).map_err(|error| PkiError::Authority(error.to_string()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

    use super::*;

    /// In 2026.
    const NOW: u64 = 1_795_000_000_000;

    fn names() -> Names {
        Names {
            namespace: "shop".to_owned(),
            cluster: "orders".to_owned(),
        }
    }

    fn nowhere() -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn after(days: u64) -> u64 {
        NOW + days * DAY_SECONDS * 1_000
    }

    fn made() -> (SecretData, SecretData) {
        let authority = make_authority(&names(), NOW).expect("an authority");
        let certificate =
            make_certificate(&names(), &nowhere(), &authority, NOW).expect("a certificate");
        (authority, certificate)
    }

    #[test]
    fn nodes_believe_each_other_under_every_name() {
        let (_, certificate) = made();
        let at = Duration::from_millis(NOW);
        check(&names(), &certificate, at).expect("believed");
        let own: Vec<String> = Role::ALL
            .iter()
            .flat_map(|role| (0..3).map(|ordinal| names().host(*role, ordinal)))
            .collect();
        for host in own.iter().map(String::as_str).chain([
            "orders",
            "orders.shop",
            "orders.shop.svc",
            "orders.shop.svc.cluster.local",
            "orders-data-7.orders-data.shop.svc.cluster.local",
            "orders-coordinator.shop.svc",
            "localhost",
            "127.0.0.1",
        ]) {
            greet(&certificate, &certificate, host).expect(host);
        }
        for stranger in [
            "example.com",
            "orders-data-0.orders-data.other.svc",
            "a.b.orders-data.shop.svc",
            "other.shop.svc",
        ] {
            greet(&certificate, &certificate, stranger).expect_err(stranger);
        }
    }

    #[test]
    fn a_certificate_names_the_hosts_outside_and_is_renewed_for_another() {
        let (authority, inside) = made();
        let outside: BTreeSet<String> = ["192.0.2.7", "2001:db8::1", "lb.example.com"]
            .map(str::to_owned)
            .into();
        let needs = |hosts: &BTreeSet<String>, certificate: &SecretData| {
            needs_renewal(&names(), hosts, &authority, certificate, NOW)
        };
        assert!(needs(&outside, &inside));
        let made = make_certificate(&names(), &outside, &authority, NOW).expect("made");
        assert!(!needs(&outside, &made));
        for host in &outside {
            greet(&made, &made, host).expect(host);
        }
        // One that is not in use any more is no reason to make it anew.
        assert!(!needs(&nowhere(), &made));
    }

    #[test]
    fn another_clusters_nodes_are_strangers() {
        let (_, own) = made();
        let (_, other) = made();
        greet(&own, &other, "orders").expect_err("another authority");
        greet(&other, &own, "orders").expect_err("another authority");
    }

    #[test]
    fn the_authoritys_key_is_in_its_own_secret_alone() {
        let (authority, certificate) = made();
        let key = &authority[KEY];
        assert!(certificate.values().all(|part| part != key));
        assert_eq!(certificate[AUTHORITY], authority[CERTIFICATE]);
        let keys: Vec<&str> = certificate.keys().map(String::as_str).collect();
        assert_eq!(keys, [AUTHORITY, CERTIFICATE, KEY]);
    }

    #[test]
    fn a_certificate_is_renewed_with_a_third_of_its_time_left() {
        let (authority, certificate) = made();
        let needs =
            |days| needs_renewal(&names(), &nowhere(), &authority, &certificate, after(days));
        assert!(!needs(0));
        assert!(!needs(242));
        assert!(needs(245));
        assert!(needs(400));
        // A clock that was ahead when it was made.
        assert!(needs_renewal(
            &names(),
            &nowhere(),
            &authority,
            &certificate,
            NOW - 2 * 3_600_000
        ));
    }

    #[test]
    fn a_certificate_that_would_not_be_believed_is_renewed() {
        let (authority, certificate) = made();
        let (other_authority, other) = made();
        let elsewhere = Names {
            namespace: "other".to_owned(),
            ..names()
        };
        assert!(needs_renewal(
            &names(),
            &nowhere(),
            &other_authority,
            &certificate,
            NOW
        ));
        assert!(needs_renewal(
            &elsewhere,
            &nowhere(),
            &authority,
            &certificate,
            NOW
        ));
        for key in [CERTIFICATE, KEY] {
            let mut broken = certificate.clone();
            broken.insert(key.to_owned(), b"nothing".to_vec());
            assert!(
                needs_renewal(&names(), &nowhere(), &authority, &broken, NOW),
                "{key}"
            );
            broken.remove(key);
            assert!(
                needs_renewal(&names(), &nowhere(), &authority, &broken, NOW),
                "{key}"
            );
        }
        let mut mixed = certificate.clone();
        mixed.insert(KEY.to_owned(), other[KEY].clone());
        assert!(needs_renewal(&names(), &nowhere(), &authority, &mixed, NOW));
    }

    #[test]
    fn a_renewed_authority_is_trusted_with_what_the_old_one_signed() {
        let (authority, certificate) = made();
        let needs = |days| authority_needs_renewal(&authority, after(days)).expect("an authority");
        assert!(!needs(0));
        assert!(!needs(2_430));
        assert!(needs(2_440));
        let later = after(2_440);
        let renewed = renew_authority(&names(), &authority, later).expect("renewed");
        assert_eq!(renewed[KEY], authority[KEY]);
        assert_ne!(renewed[CERTIFICATE], authority[CERTIFICATE]);
        assert!(!authority_needs_renewal(&renewed, later).expect("an authority"));
        let fresh = make_certificate(&names(), &nowhere(), &renewed, NOW).expect("a certificate");
        // What the old one signed is good by the new one too, which has its key.
        assert!(!needs_renewal(
            &names(),
            &nowhere(),
            &renewed,
            &certificate,
            NOW
        ));
        greet(&fresh, &certificate, "orders").expect("the old one is believed");
        greet(&certificate, &fresh, "orders").expect("the new one is believed");
    }

    #[test]
    fn a_secret_without_an_authority_is_refused() {
        for broken in [
            BTreeMap::new(),
            BTreeMap::from([(CERTIFICATE.to_owned(), b"x".to_vec())]),
        ] {
            assert!(matches!(
                make_certificate(&names(), &nowhere(), &broken, NOW),
                Err(PkiError::Authority(_))
            ));
            assert!(authority_needs_renewal(&broken, NOW).is_err());
        }
    }

    /// A handshake in memory, as two nodes do it: see `node/src/tls.rs`.
    fn greet(client: &SecretData, server: &SecretData, host: &str) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = |data: &SecretData| {
            let mut roots = RootCertStore::empty();
            for root in certificates(&data[AUTHORITY]).expect("an authority") {
                roots.add(root).expect("a root");
            }
            Arc::new(roots)
        };
        let chain = |data: &SecretData| certificates(&data[CERTIFICATE]).expect("a chain");
        let key = |data: &SecretData| PrivateKeyDer::from_pem_slice(&data[KEY]).expect("a key");
        let at = Arc::new(Fixed);
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots(server), Arc::clone(&provider))
                .build()
                .expect("a verifier");
        let mut config = ServerConfig::builder_with_details(Arc::clone(&provider), at.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain(server), key(server))
            .expect("a certificate with its key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut server_side = ServerConnection::new(Arc::new(config)).expect("a server");
        let mut config = ClientConfig::builder_with_details(provider, at)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots(client))
            .with_client_auth_cert(chain(client), key(client))
            .expect("a certificate with its key");
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(host.to_owned()).expect("a name");
        let mut client_side = ClientConnection::new(Arc::new(config), name).expect("a client");
        let failed = |error: rustls::Error| error.to_string();
        while client_side.is_handshaking() || server_side.is_handshaking() {
            let mut wire = Vec::new();
            while client_side.wants_write() {
                client_side.write_tls(&mut wire).expect("memory");
            }
            let mut read = wire.as_slice();
            while !read.is_empty() {
                server_side.read_tls(&mut read).expect("memory");
                server_side.process_new_packets().map_err(failed)?;
            }
            let mut wire = Vec::new();
            while server_side.wants_write() {
                server_side.write_tls(&mut wire).expect("memory");
            }
            let mut read = wire.as_slice();
            while !read.is_empty() {
                client_side.read_tls(&mut read).expect("memory");
                client_side.process_new_packets().map_err(failed)?;
            }
        }
        client_side.writer().write_all(b"hello").expect("memory");
        let mut wire = Vec::new();
        client_side.write_tls(&mut wire).expect("memory");
        server_side.read_tls(&mut wire.as_slice()).expect("memory");
        server_side.process_new_packets().map_err(failed)?;
        let mut heard = [0; 5];
        server_side.reader().read_exact(&mut heard).expect("heard");
        assert_eq!(&heard, b"hello");
        Ok(())
    }

    #[derive(Debug)]
    struct Fixed;

    impl rustls::time_provider::TimeProvider for Fixed {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_millis(NOW)))
        }
    }
}
