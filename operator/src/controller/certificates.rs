//! The nodes' certificate, whoever makes it: the operator's own authority, an issuer of
//! cert-manager, or a person. What replaces one step by step is [`crate::rotation`].

use std::collections::BTreeSet;

use cairn_client::InForce;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ApiResource;
use ring::digest;

use super::apply::{self, Applied};
use super::material::{Keeper, Own, annotation, data_of, foreign};
use super::writes::Error;
use crate::build::certificate;
use crate::names::{ANNOTATION_HOSTS, ANNOTATION_RENEWED, ANNOTATION_TRUSTED_SINCE};
use crate::pki::{self, SecretData};
use crate::rotation::{self, Next, Sight, Step};
use crate::users;

/// How long clients are given to trust a new authority, where the manifest does not say.
const OVERLAP_SECONDS: u32 = 3_600;

/// Where the nodes' certificate comes from.
enum Source {
    /// The operator's own authority signs it.
    Authority(SecretData),
    /// Somebody else made it.
    Given(SecretData),
}

impl Source {
    /// By whom nodes know each other in the end, in PEM.
    fn authorities(&self) -> &[u8] {
        let part = match self {
            Self::Authority(authority) => authority.get(pki::CERTIFICATE),
            Self::Given(given) => given.get(pki::AUTHORITY),
        };
        part.map(Vec::as_slice).unwrap_or_default()
    }
}

/// Makes or replaces what is missing or due. Secrets that hold what nobody made are said to be
/// in the way, and keep nothing else from being done.
///
/// # Errors
/// Where the API server does not answer or refuses.
pub(super) async fn keep(keeper: &mut Keeper<'_>) -> Result<(), Error> {
    if let Some(name) = &keeper.cluster.spec.tls.secret_name {
        return look_at(keeper, name).await;
    }
    if keeper.cluster.spec.tls.clients {
        believed_hosts(keeper).await?;
    }
    match take_steps(keeper).await {
        Err(error @ Error::Content { .. }) => {
            keeper.kept.stuck(format!(
                "{error}; nodes go on with the certificates that they have"
            ));
            Ok(())
        }
        outcome => outcome,
    }
}

/// Notes by which hosts clients outside believe the nodes already, whatever comes next. Where
/// no node runs yet there is nothing to be careful about.
async fn believed_hosts(keeper: &mut Keeper<'_>) -> Result<(), Error> {
    let secret = keeper.read(&keeper.cluster.names.certificate()).await?;
    if secret.is_none() && keeper.nobody_runs() {
        return Ok(());
    }
    let shown = secret.and_then(|secret| annotation(&secret, ANNOTATION_HOSTS).map(str::to_owned));
    let shown = shown.unwrap_or_default();
    let shown = shown.split(',').filter(|host| !host.is_empty());
    keeper.kept.hosts = Some(shown.map(str::to_owned).collect());
    Ok(())
}

async fn take_steps(keeper: &mut Keeper<'_>) -> Result<(), Error> {
    let tls = &keeper.cluster.spec.tls;
    let source = match &tls.issuer_ref {
        Some(_) => issued(keeper).await?.map(Source::Given),
        None => authority(keeper).await?.map(Source::Authority),
    };
    match source {
        Some(source) => nodes(keeper, &source).await,
        None => Ok(()),
    }
}

/// A person's, which is looked at and left alone.
async fn look_at(keeper: &mut Keeper<'_>, name: &str) -> Result<(), Error> {
    let at = std::time::Duration::from_millis(keeper.now_unix_ms);
    match keeper.read(name).await? {
        None => keeper.kept.stuck(format!(
            "the Secret {name} with the certificates is missing: pods wait for it"
        )),
        Some(secret) => {
            if let Err(why) = pki::check(&keeper.cluster.names, &data_of(&secret), at) {
                keeper
                    .kept
                    .stuck(format!("the certificates in Secret {name}: {why}"));
            }
        }
    }
    Ok(())
}

/// The operator's own authority, made, renewed or replaced where that is due.
async fn authority(keeper: &mut Keeper<'_>) -> Result<Option<SecretData>, Error> {
    let (names, now) = (&keeper.cluster.names, keeper.now_unix_ms);
    let wanted = keeper.cluster.spec.tls.renew.authority;
    let name = names.authority();
    let content = |error: pki::PkiError| Error::Content {
        what: format!("Secret {name}"),
        reason: error.to_string(),
    };
    let mark = [(ANNOTATION_RENEWED, wanted.to_string())];
    match keeper.own(&name).await? {
        Own::Foreign => Ok(None),
        Own::Absent => {
            let made = pki::make_authority(names, now).map_err(content)?;
            let told = "the certificate authority is made";
            keeper.put(&name, None, made, told, &mark).await
        }
        Own::There(secret) if renewed(&secret) < wanted => {
            // With a key of its own: what the old one signs is worth nothing in the end.
            let made = pki::make_authority(names, now).map_err(content)?;
            let told = "another certificate authority is made";
            keeper.put(&name, Some(secret), made, told, &mark).await
        }
        Own::There(secret) => {
            let data = data_of(&secret);
            if pki::authority_needs_renewal(&data, now).map_err(content)? {
                let made = pki::renew_authority(names, &data, now).map_err(content)?;
                let told = "the certificate authority is renewed";
                return keeper.put(&name, Some(secret), made, told, &[]).await;
            }
            Ok(Some(data))
        }
    }
}

/// Which renewal a Secret is the result of.
fn renewed(secret: &Secret) -> u32 {
    let mark = annotation(secret, ANNOTATION_RENEWED);
    mark.and_then(|mark| mark.parse().ok()).unwrap_or(0)
}

/// What an issuer of cert-manager made, once it has: asked for by a Certificate.
async fn issued(keeper: &mut Keeper<'_>) -> Result<Option<SecretData>, Error> {
    let cluster = keeper.cluster;
    let Some(asked) = certificate::certificate(cluster, &keeper.outside) else {
        return Ok(None);
    };
    let resource = ApiResource {
        group: "cert-manager.io".to_owned(),
        version: "v1".to_owned(),
        api_version: "cert-manager.io/v1".to_owned(),
        kind: "Certificate".to_owned(),
        plural: "certificates".to_owned(),
    };
    let name = cluster.names.certificate();
    let applied = apply::apply_value(
        keeper.client,
        keeper.writes,
        cluster,
        &resource,
        &name,
        asked,
    )
    .await;
    match applied {
        Ok(Applied::Foreign) => {
            let (note, news) = foreign("Certificate", &name);
            keeper.kept.notes.push(note);
            keeper.kept.news.push(news);
            return Ok(None);
        }
        Ok(Applied::Unchanged | Applied::Changed) => {}
        Err(error) if error.is_unknown_kind() => {
            keeper.kept.stuck(
                "tls.issuerRef needs cert-manager, and this Kubernetes knows no Certificate of \
                 cert-manager.io/v1. Install it, or leave issuerRef out"
                    .to_owned(),
            );
            return Ok(None);
        }
        Err(error @ Error::NotLeading(_)) => return Err(error),
        // Whoever stands behind it may be away for as long as it likes: what was issued before
        // goes on, and so does everything else.
        Err(error) => keeper.kept.stuck(format!(
            "cert-manager cannot be asked for a certificate, and nodes go on with what they have: \
             {error}"
        )),
    }
    let name = cluster.names.issued();
    let Some(secret) = keeper.read(&name).await? else {
        let text = format!("Secret {name} with the certificate is to come from the issuer.");
        keeper.kept.wait(text);
        return Ok(None);
    };
    let data = data_of(&secret);
    let at = std::time::Duration::from_millis(keeper.now_unix_ms);
    if let Err(why) = pki::check(&cluster.names, &data, at) {
        keeper.kept.stuck(format!(
            "what the issuer put into Secret {name} is of no use to nodes, which go on with what \
             they have: {why}"
        ));
        return Ok(None);
    }
    Ok(Some(data))
}

/// The Secret that pods mount: made at once, and replaced step by step.
async fn nodes(keeper: &mut Keeper<'_>, source: &Source) -> Result<(), Error> {
    let (cluster, now) = (keeper.cluster, keeper.now_unix_ms);
    let (names, tls) = (&cluster.names, &cluster.spec.tls);
    let name = names.certificate();
    let content = |reason: String| Error::Content {
        what: format!("Secret {name}"),
        reason,
    };
    let mark = (ANNOTATION_RENEWED, tls.renew.certificate.to_string());
    let secret = match keeper.own(&name).await? {
        Own::Foreign => return Ok(()),
        Own::Absent => {
            let made = leaf(keeper, source).map_err(content)?;
            let told = "the nodes' certificate is made";
            let mut marks = keeper.taken_up_at_once(hash(&made));
            if !marks.is_empty() {
                marks.push((ANNOTATION_HOSTS, hosts(keeper, &made)));
            }
            marks.push(mark);
            keeper.put(&name, None, made, told, &marks).await?;
            return Ok(());
        }
        Own::There(secret) => secret,
    };
    let live = data_of(&secret);
    let at = std::time::Duration::from_millis(now);
    let sight = Sight {
        live: &live,
        authorities: source.authorities(),
        replace: match source {
            Source::Authority(authority) => {
                renewed(&secret) < tls.renew.certificate
                    || pki::needs_renewal(names, &keeper.outside, authority, &live, now)
            }
            Source::Given(given) => [pki::CERTIFICATE, pki::KEY]
                .iter()
                .any(|key| given.get(*key) != live.get(*key)),
        },
        believed: pki::check(names, &live, at).is_ok(),
        trusted_since_unix_ms: annotation(&secret, ANNOTATION_TRUSTED_SINCE)
            .and_then(|since| since.parse().ok()),
        overlap_ms: if tls.clients {
            u64::from(tls.overlap_seconds.unwrap_or(OVERLAP_SECONDS)) * 1_000
        } else {
            0
        },
        now_unix_ms: now,
    };
    let mut next = rotation::next(&sight, None).map_err(content)?;
    if next == Next::Ask {
        let told = keeper.ask().await?;
        next = rotation::next(&sight, Some(&told)).map_err(content)?;
    }
    if let Some(text) = rotation::sentence(&next) {
        keeper.kept.wait(text);
    }
    match next {
        Next::Ask | Next::Wait(..) | Next::Overlap(_) => {}
        Next::Settled => {
            let part = |key: &str| live.get(key).map(Vec::as_slice).unwrap_or_default();
            let own = pki::fingerprint(part(pki::CERTIFICATE)).map_err(content)?;
            let trusted = pki::fingerprints(part(pki::AUTHORITY)).map_err(content)?;
            let goes_by = |node: &InForce| {
                let known: BTreeSet<_> = node.authorities.iter().cloned().collect();
                node.certificate == own && known == trusted
            };
            let what = "the certificates that it was given last";
            let marks = vec![(ANNOTATION_HOSTS, hosts(keeper, &live))];
            keeper
                .await_taken_up(&secret, hash(&live), what, marks, goes_by)
                .await?;
        }
        Next::Authorities(step, pem) => {
            let mut data = live;
            data.insert(pki::AUTHORITY.to_owned(), pem);
            let told = match step {
                Step::Drop => "nodes are to trust the new certificate authority alone",
                Step::Trust | Step::Issue => {
                    "nodes are to trust the new certificate authority beside the old one"
                }
            };
            let since = [(ANNOTATION_TRUSTED_SINCE, now.to_string())];
            keeper.put(&name, Some(secret), data, told, &since).await?;
            keeper
                .kept
                .wait(format!("Certificates are replaced: {told}."));
        }
        Next::Issue => {
            let mut data = leaf(keeper, source).map_err(content)?;
            // Both, as long as there are two: only what is shown changes.
            if sight.believed {
                data.extend(
                    live.get_key_value(pki::AUTHORITY)
                        .map(|(k, v)| (k.clone(), v.clone())),
                );
            }
            let told = "the nodes' certificate is renewed";
            keeper.put(&name, Some(secret), data, told, &[mark]).await?;
            keeper
                .kept
                .wait(format!("Certificates are replaced: {told}."));
        }
    }
    Ok(())
}

/// The hosts by which clients outside reach nodes that a certificate names.
fn hosts(keeper: &Keeper<'_>, certificate: &SecretData) -> String {
    let at = std::time::Duration::from_millis(keeper.now_unix_ms);
    let named = pki::named(certificate, &keeper.outside, at);
    named.into_iter().collect::<Vec<_>>().join(",")
}

/// Of what nodes say that they go by.
fn hash(data: &SecretData) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for key in [pki::CERTIFICATE, pki::AUTHORITY] {
        context.update(data.get(key).map(Vec::as_slice).unwrap_or_default());
    }
    users::hex(context.finish().as_ref())
}

/// A certificate for the nodes, and by whom they know each other.
fn leaf(keeper: &Keeper<'_>, source: &Source) -> Result<SecretData, String> {
    let (names, outside) = (&keeper.cluster.names, &keeper.outside);
    match source {
        Source::Authority(authority) => {
            pki::make_certificate(names, outside, authority, keeper.now_unix_ms)
                .map_err(|error| error.to_string())
        }
        Source::Given(given) => Ok([pki::CERTIFICATE, pki::KEY, pki::AUTHORITY]
            .iter()
            .filter_map(|key| given.get_key_value(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()),
    }
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
