//! The cluster's Secrets: certificates, and the users with the operator among them.
//!
//! What is drawn at random must not be drawn twice: nodes that hold certificates of two
//! authorities do not know each other. So these are created where there are none, or written
//! over the version that was read, and whoever is overtaken reads again in its next round.

use std::collections::BTreeSet;

use cairn_client::InForce;
use cairn_crds::KvClusterSpec;
use futures::{StreamExt as _, stream};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::ObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use ring::digest;

use super::certificates;
use super::ownership::{Standing, standing};
use super::writes::{Error, Writes, within};
use crate::admin::{Access, Reach};
use crate::cluster::Cluster;
use crate::events::{News, Reason};
use crate::names::{ANNOTATION_TAKEN_UP, CLIENT_PORT, Names, Role};
use crate::observed::{Observed, PodSeen};
use crate::pki::{self, SecretData};
use crate::plan::{Note, Topic};
use crate::rotation::{self, Told};
use crate::users;

/// How many nodes are asked at a time.
const AT_A_TIME: usize = 32;
/// What is said of a node whose build knows nothing of the question.
const CANNOT_TELL: &str = "cannot tell";

/// What came of looking after the Secrets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Kept {
    /// What is in the way.
    pub notes: Vec<Note>,
    /// What is to be told.
    pub news: Vec<News>,
    /// Somebody else was faster, or nodes are waited for: all is looked at again soon.
    pub overtaken: bool,
    /// The hosts by which clients outside reach nodes under which they believe every node by
    /// now; `None` where nobody asks for a certificate, where it is not the operator's, or where
    /// no node runs.
    pub hosts: Option<BTreeSet<String>>,
}

impl Kept {
    /// Says what is waited for, and that it is looked at again soon.
    pub(super) fn wait(&mut self, text: String) {
        self.overtaken = true;
        self.notes.push(Note {
            topic: Topic::Secrets,
            node: None,
            text,
        });
    }

    pub(super) fn stuck(&mut self, text: String) {
        self.notes.push(Note {
            topic: Topic::Stuck,
            node: None,
            text,
        });
    }
}

/// Names and writes a cluster's Secrets.
pub(super) struct Keeper<'a> {
    pub(super) client: &'a Client,
    api: Api<Secret>,
    pub(super) writes: &'a Writes,
    /// The way to nodes.
    reach: &'a dyn Reach,
    pub(super) cluster: &'a Cluster,
    observed: &'a Observed,
    /// Where clients outside reach nodes whose ports for clients speak TLS.
    pub(super) outside: BTreeSet<String>,
    pub(super) now_unix_ms: u64,
    pub(super) kept: Kept,
}

/// Makes or renews what is missing or due. `outside` are the hosts by which clients outside
/// reach nodes.
///
/// # Errors
/// Where the API server does not answer or refuses, or where a Secret holds what nobody made.
pub async fn keep(
    client: &Client,
    writes: &Writes,
    reach: &dyn Reach,
    cluster: &Cluster,
    observed: &Observed,
    outside: &BTreeSet<String>,
) -> Result<Kept, Error> {
    let mut keeper = Keeper {
        client,
        api: Api::namespaced(client.clone(), &cluster.names.namespace),
        writes,
        reach,
        cluster,
        observed,
        outside: if cluster.spec.tls.clients {
            outside.clone()
        } else {
            BTreeSet::new()
        },
        now_unix_ms: observed.now_unix_ms,
        kept: Kept::default(),
    };
    certificates::keep(&mut keeper).await?;
    keeper.users().await?;
    Ok(keeper.kept)
}

impl Keeper<'_> {
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
        let file = composed.get(users::FILE).map(Vec::as_slice);
        let hash = digest::digest(&digest::SHA256, file.unwrap_or_default());
        let text = users::hex(hash.as_ref());
        let Some(old) = old else {
            let mark = self.taken_up_at_once(text);
            self.put(&name, None, composed, "", &mark).await?;
            return Ok(());
        };
        if composed != before {
            self.put(&name, Some(old), composed, "", &[]).await?;
            self.kept
                .wait("The users file was changed just now.".to_owned());
            return Ok(());
        }
        let goes_by = |node: &InForce| node.users == hash.as_ref();
        self.await_taken_up(&old, text, "the users file", Vec::new(), goes_by)
            .await
    }

    /// Waits until every node goes by what a Secret holds, so that a person knows when what was
    /// replaced may go. That they do is written down, with `marks` besides, or each round would
    /// ask them.
    pub(super) async fn await_taken_up(
        &mut self,
        secret: &Secret,
        hash: String,
        what: &str,
        mut marks: Vec<(&str, String)>,
        has: impl Fn(&InForce) -> bool,
    ) -> Result<(), Error> {
        let is_marked =
            |(key, value): &(&str, String)| annotation(secret, key) == Some(value.as_str());
        let mut behind = Vec::new();
        if annotation(secret, ANNOTATION_TAKEN_UP) != Some(hash.as_str()) {
            let told = self.ask().await?;
            behind = rotation::behind(&told, has);
            // One that cannot tell is of a build that is older than the question.
            behind.retain(|name| !name.contains(CANNOT_TELL));
        } else if marks.iter().all(is_marked) {
            return Ok(());
        }
        if behind.is_empty() {
            let name = secret.name_any();
            marks.push((ANNOTATION_TAKEN_UP, hash));
            let secret = Box::new(secret.clone());
            self.put(&name, Some(secret.clone()), data_of(&secret), "", &marks)
                .await?;
            return Ok(());
        }
        let named = rotation::named(&behind);
        self.kept.wait(format!(
            "Every node is to go by {what}; waiting for {named}."
        ));
        Ok(())
    }

    /// What is written on a Secret that is made while nobody runs who could go by another.
    pub(super) fn taken_up_at_once(&self, hash: String) -> Vec<(&'static str, String)> {
        if self.nobody_runs() {
            vec![(ANNOTATION_TAKEN_UP, hash)]
        } else {
            Vec::new()
        }
    }

    /// Whether no node runs.
    pub(super) fn nobody_runs(&self) -> bool {
        let mut pods = self.observed.pods.values();
        !pods.any(|pod| pod.role.is_some() && pod.running)
    }

    /// What the nodes that run say that they go by.
    pub(super) async fn ask(&mut self) -> Result<Told, Error> {
        let names = &self.cluster.names;
        let spec = &self.cluster.spec;
        let (authority, token) = credentials(self.client, names, spec).await?;
        let running = self.observed.pods.iter().filter_map(|(name, pod)| {
            let role = pod.role.filter(|_| pod.running)?;
            let outdated = is_outdated(self.observed, role, pod);
            let endpoint = format!("{}:{CLIENT_PORT}", names.host(role, pod.ordinal));
            let ways = ways_to(vec![endpoint], spec, authority.as_deref(), &token, outdated);
            Some((name.clone(), pod.deleting, ways))
        });
        let reach = self.reach;
        let asked = stream::iter(running).map(|(name, deleting, ways)| async move {
            let mut said = Err("nobody to ask".to_owned());
            for access in ways {
                said = reach.in_force(&access).await;
                if said.is_ok() {
                    break;
                }
            }
            // One that stops still hands over to the others, and is waited for as long as it
            // speaks.
            (said.is_ok() || !deleting).then_some((name, said))
        });
        let told = asked.buffer_unordered(AT_A_TIME);
        Ok(told.filter_map(std::future::ready).collect().await)
    }

    pub(super) async fn read(&self, name: &str) -> Result<Option<Secret>, Error> {
        within(|| format!("read Secret {name}"), self.api.get_opt(name)).await
    }

    pub(super) async fn own(&mut self, name: &str) -> Result<Own, Error> {
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

    /// Creates a Secret, or writes over the one that was read, with these annotations besides
    /// those that it has; what it holds, unless somebody was faster.
    pub(super) async fn put(
        &mut self,
        name: &str,
        old: Option<Box<Secret>>,
        data: SecretData,
        told: &str,
        annotations: &[(&str, String)],
    ) -> Result<Option<SecretData>, Error> {
        let replaces = old.is_some();
        let mut secret = old.map_or_else(|| self.empty(name), |old| *old);
        if !annotations.is_empty() {
            let all = secret.metadata.annotations.get_or_insert_default();
            all.extend(
                annotations
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), value.clone())),
            );
        }
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

pub(super) enum Own {
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

/// An annotation of a Secret.
pub(super) fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    let annotations = secret.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

pub(super) fn data_of(secret: &Secret) -> SecretData {
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
    let outdated = running
        .clone()
        .any(|pod| is_outdated(observed, Role::Coordinator, pod));
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
    let (authority, token) = credentials(client, names, spec).await?;
    Ok(ways_to(
        endpoints,
        spec,
        authority.as_deref(),
        &token,
        outdated,
    ))
}

/// Whether a pod was not restarted since its StatefulSet changed.
fn is_outdated(observed: &Observed, role: Role, pod: &PodSeen) -> bool {
    let set = observed.sets.get(&role);
    set.is_none_or(|set| !set.is_current || set.update_revision != pod.revision)
}

/// The certificates by which nodes are known, and the operator's token.
async fn credentials(
    client: &Client,
    names: &Names,
    spec: &KvClusterSpec,
) -> Result<(Option<Vec<u8>>, Option<String>), Error> {
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
    Ok((authority, token))
}

/// How nodes can be spoken to there, see [`ways`].
fn ways_to(
    endpoints: Vec<String>,
    spec: &KvClusterSpec,
    authority: Option<&[u8]>,
    token: &Option<String>,
    outdated: bool,
) -> Vec<Access> {
    let way = |authority: Option<Vec<u8>>| Access {
        endpoints: endpoints.clone(),
        authority,
        token: token.clone(),
    };
    let mut ways = vec![way(None)];
    ways.extend(authority.map(|authority| way(Some(authority.to_vec()))));
    // False comes before true: what the manifest says is tried first.
    ways.sort_by_key(|way| way.authority.is_some() != spec.tls.clients);
    if !outdated {
        ways.retain(|way| way.authority.is_some() == spec.tls.clients);
    }
    ways
}

#[cfg(test)]
#[path = "material_tests.rs"]
mod tests;
