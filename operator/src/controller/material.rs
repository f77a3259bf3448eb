//! The cluster's Secrets: certificates, and the users with the operator among them.
//!
//! What is drawn at random must not be drawn twice: nodes that hold certificates of two
//! authorities do not know each other. So these are created where there are none, or written
//! over the version that was read, and whoever is overtaken reads again in its next round.

use cairn_crds::KvClusterSpec;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use kube::{Api, Client};

use super::ownership::{Standing, standing};
use super::writes::{Error, Writes, within};
use crate::admin::Access;
use crate::cluster::Cluster;
use crate::events::{News, Reason};
use crate::names::{CLIENT_PORT, Names, Role};
use crate::observed::Observed;
use crate::pki::{self, SecretData};
use crate::plan::{Note, Topic};
use crate::users;

/// What came of looking after the Secrets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// What is in the way.
    pub notes: Vec<Note>,
    /// What is to be told.
    pub news: Vec<News>,
    /// Somebody else was faster: all is looked at again soon.
    pub overtaken: bool,
}

impl Kept {
    fn stuck(&mut self, text: String) {
        self.notes.push(Note {
            topic: Topic::Stuck,
            node: None,
            text,
        });
    }
}

/// Names and writes a cluster's Secrets.
struct Keeper<'a> {
    api: Api<Secret>,
    writes: &'a Writes,
    cluster: &'a Cluster,
    now_unix_ms: u64,
    kept: Kept,
}

/// Makes or renews what is missing or due.
///
/// # Errors
/// Where the API server does not answer or refuses, or where a Secret holds what nobody made.
pub async fn keep(
    client: &Client,
    writes: &Writes,
    cluster: &Cluster,
    now_unix_ms: u64,
) -> Result<Kept, Error> {
    let mut keeper = Keeper {
        api: Api::namespaced(client.clone(), &cluster.names.namespace),
        writes,
        cluster,
        now_unix_ms,
        kept: Kept::default(),
    };
    keeper.certificates().await?;
    keeper.users().await?;
    Ok(keeper.kept)
}

impl Keeper<'_> {
    async fn certificates(&mut self) -> Result<(), Error> {
        let names = &self.cluster.names;
        if let Some(name) = &self.cluster.spec.tls.secret_name {
            // Somebody else's, which is looked at and left alone.
            let at = std::time::Duration::from_millis(self.now_unix_ms);
            match self.read(name).await? {
                None => self.kept.stuck(format!(
                    "the Secret {name} with the certificates is missing: pods wait for it"
                )),
                Some(secret) => {
                    if let Err(why) = pki::check(names, &data_of(&secret), at) {
                        self.kept
                            .stuck(format!("the certificates in Secret {name}: {why}"));
                    }
                }
            }
            return Ok(());
        }
        let now = self.now_unix_ms;
        let name = names.authority();
        let content = |error: pki::PkiError| Error::Content {
            what: format!("Secret {name}"),
            reason: error.to_string(),
        };
        let authority = match self.own(&name).await? {
            Own::Foreign => return Ok(()),
            Own::Absent => {
                let made = pki::make_authority(names, now).map_err(content)?;
                self.put(&name, None, made, "the certificate authority is made")
                    .await?
            }
            Own::There(secret) => {
                let data = data_of(&secret);
                if pki::authority_needs_renewal(&data, now).map_err(content)? {
                    let made = pki::renew_authority(names, &data, now).map_err(content)?;
                    let told = "the certificate authority is renewed";
                    self.put(&name, Some(secret), made, told).await?
                } else {
                    Some(data)
                }
            }
        };
        let Some(authority) = authority else {
            return Ok(());
        };
        let name = names.certificate();
        let (old, told) = match self.own(&name).await? {
            Own::Foreign => return Ok(()),
            Own::Absent => (None, "the nodes' certificate is made"),
            Own::There(secret) => {
                if !pki::needs_renewal(names, &authority, &data_of(&secret), now) {
                    return Ok(());
                }
                (Some(secret), "the nodes' certificate is renewed")
            }
        };
        let made = pki::make_certificate(names, &authority, now).map_err(content)?;
        self.put(&name, old, made, told).await?;
        Ok(())
    }

    async fn users(&mut self) -> Result<(), Error> {
        let Some(asked) = &self.cluster.spec.users else {
            return Ok(());
        };
        let person = self.read(&asked.secret_name).await?.map(|secret| {
            let mut data = data_of(&secret);
            data.remove(&asked.key)
        });
        let Some(Some(person)) = person else {
            self.kept.stuck(format!(
                "the Secret {} with the users is missing, or holds no {}",
                asked.secret_name, asked.key
            ));
            return Ok(());
        };
        let name = self.cluster.names.users();
        let old = match self.own(&name).await? {
            Own::Foreign => return Ok(()),
            Own::Absent => None,
            Own::There(secret) => Some(secret),
        };
        let before = old.as_deref().map(data_of).unwrap_or_default();
        let token = before
            .get(users::TOKEN)
            .and_then(|token| String::from_utf8(token.clone()).ok())
            .unwrap_or_else(draw_token);
        let composed = match users::compose(&person, &token) {
            Ok(composed) => composed,
            Err(error) => {
                let secret = &asked.secret_name;
                self.kept
                    .stuck(format!("Secret {secret}, key {}: {error}", asked.key));
                return Ok(());
            }
        };
        if composed != before {
            self.put(&name, old, composed, "").await?;
        }
        Ok(())
    }

    async fn read(&self, name: &str) -> Result<Option<Secret>, Error> {
        within(|| format!("read Secret {name}"), self.api.get_opt(name)).await
    }

    async fn own(&mut self, name: &str) -> Result<Own, Error> {
        let Some(secret) = self.read(name).await? else {
            return Ok(Own::Absent);
        };
        if standing(&secret.metadata, self.cluster) == Standing::Foreign {
            let (note, news) = foreign("Secret", name);
            self.kept.notes.push(note);
            self.kept.news.push(news);
            return Ok(Own::Foreign);
        }
        Ok(Own::There(Box::new(secret)))
    }

    /// Creates a Secret, or writes over the one that was read; what it holds, unless somebody
    /// was faster.
    async fn put(
        &mut self,
        name: &str,
        old: Option<Box<Secret>>,
        data: SecretData,
        told: &str,
    ) -> Result<Option<SecretData>, Error> {
        let replaces = old.is_some();
        let mut secret = old.map_or_else(|| self.empty(name), |old| *old);
        secret.data = Some(
            data.iter()
                .map(|(key, value)| (key.clone(), ByteString(value.clone())))
                .collect(),
        );
        let written = if replaces {
            self.writes.replace(&self.api, &secret).await?
        } else {
            self.writes.create(&self.api, &secret).await?
        };
        if written.is_none() {
            self.kept.overtaken = true;
            return Ok(None);
        }
        if !told.is_empty() {
            self.kept.news.push(News::new(Reason::Certificates, told));
        }
        Ok(Some(data))
    }

    fn empty(&self, name: &str) -> Secret {
        Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(self.cluster.names.namespace.clone()),
                labels: Some(self.cluster.names.labels()),
                owner_references: Some(vec![self.cluster.owner.clone()]),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        }
    }
}

enum Own {
    Absent,
    Foreign,
    There(Box<Secret>),
}

/// What is said of an object that has a name which the cluster needs, and is not the cluster's.
pub(super) fn foreign(kind: &str, name: &str) -> (Note, News) {
    let text = format!(
        "{kind} {name} exists and does not belong to this cluster: it is left alone. Rename or \
         delete it, or make the cluster under another name"
    );
    let note = Note {
        topic: Topic::Stuck,
        node: None,
        text: text.clone(),
    };
    (note, News::new(Reason::Foreign, text))
}

/// 256 bits from the system's random source, as text.
fn draw_token() -> String {
    let bytes: [u8; 32] = rand::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn data_of(secret: &Secret) -> SecretData {
    let data = secret.data.clone().unwrap_or_default();
    data.into_iter()
        .map(|(key, value)| (key, value.0))
        .collect()
}

/// How the coordinators of a cluster can be spoken to, as far as its Secrets say so by now: as
/// the manifest has it, and where some were not restarted since it changed, otherwise as well:
/// these speak TLS, or do not, as they did before. Nowhere else, or whoever keeps the
/// coordinators from answering would be sent the operator's token in plain text.
///
/// # Errors
/// Where the API server does not answer or refuses.
pub async fn ways(
    client: &Client,
    names: &Names,
    spec: &KvClusterSpec,
    observed: &Observed,
) -> Result<Vec<Access>, Error> {
    // Those that do not run would each cost a time-out.
    let running = observed
        .pods
        .values()
        .filter(|pod| pod.role == Some(Role::Coordinator) && pod.running && !pod.deleting);
    let set = observed.sets.get(&Role::Coordinator);
    let outdated = running
        .clone()
        .any(|pod| set.is_none_or(|set| !set.is_current || set.update_revision != pod.revision));
    let endpoints: Vec<String> = running
        .map(|pod| {
            format!(
                "{}:{CLIENT_PORT}",
                names.host(Role::Coordinator, pod.ordinal)
            )
        })
        .collect();
    if endpoints.is_empty() {
        return Ok(Vec::new());
    }
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    let part = async |name: &str, key: &str| {
        let what = || format!("read Secret {name}");
        let secret = within(what, api.get_opt(name)).await?;
        Ok::<_, Error>(secret.and_then(|secret| data_of(&secret).remove(key)))
    };
    let secret = spec.tls.secret_name.clone();
    let secret = secret.unwrap_or_else(|| names.certificate());
    let authority = part(&secret, pki::AUTHORITY).await?;
    let token = part(&names.users(), users::TOKEN).await?;
    let token = token.and_then(|token| String::from_utf8(token).ok());
    let way = |authority: Option<Vec<u8>>| Access {
        endpoints: endpoints.clone(),
        authority,
        token: token.clone(),
    };
    let mut ways = vec![way(None)];
    ways.extend(authority.map(|authority| way(Some(authority))));
    // False comes before true: what the manifest says is tried first.
    ways.sort_by_key(|way| way.authority.is_some() != spec.tls.clients);
    if !outdated {
        ways.retain(|way| way.authority.is_some() == spec.tls.clients);
    }
    Ok(ways)
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
