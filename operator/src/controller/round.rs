//! One round over one cluster: observe, validate, plan, apply, carry out, tell.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cairn_crds::status::Phase;
use cairn_crds::{KvCluster, KvClusterStatus};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::json;

use super::apply::{self, Applied};
use super::leftovers;
use super::material;
use super::observe::observe;
use super::status::{Found, status};
use super::steps::{self, Carried};
use super::writes::{Error, Writes, within};
use crate::admin::{Coordinators, Reach};
use crate::build::{self, Material, Object};
use crate::cluster::Cluster;
use crate::events::{Events, News, Reason};
use crate::health::Health;
use crate::metrics;
use crate::names::Names;
use crate::observed::{Observed, Silence};
use crate::plan::{self, Note, OutsideAddress, Plan, Topic};
use crate::validate::{self, Defaults};

/// How soon a cluster is looked at again where something was just asked for: to tell of it, and
/// to ask for what comes next.
const AT_ONCE: Duration = Duration::from_millis(500);
/// How soon a cluster is looked at again while something is under way.
const SOON: Duration = Duration::from_secs(2);
/// After how long the coordinators are asked again that saw a partition unserved: longer than
/// a primary takes to hand over, which is no outage to tell of.
const HAND_OVER: Duration = Duration::from_millis(500);
/// How soon one at rest is.
const AT_REST: Duration = Duration::from_secs(30);
/// How soon a round is tried again that failed, at first and at most.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What rounds have in common.
pub struct World {
    /// The API server.
    pub client: Client,
    /// Everything that changes something.
    pub writes: Writes,
    /// What people are told.
    pub events: Events,
    /// How this process is.
    pub health: Health,
    /// The way to coordinators.
    pub reach: Arc<dyn Reach>,
    /// What manifests that leave something out get.
    pub defaults: Defaults,
    /// What is remembered between rounds: nothing that anything is decided by.
    pub memory: Memory,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

/// How clusters were, for metrics, and how often their rounds failed of late.
#[derive(Debug, Default)]
pub struct Memory {
    phases: Mutex<BTreeMap<String, Phase>>,
    failures: Mutex<BTreeMap<String, u32>>,
}

impl Memory {
    /// A round of that cluster failed; how long to wait for the next one.
    fn failed(&self, cluster: &str) -> Duration {
        let mut failures = self.failures.lock();
        let count = failures.entry(cluster.to_owned()).or_default();
        let (first, most) = BACKOFF;
        let wait = first.saturating_mul(1 << (*count).min(16)).min(most);
        *count += 1;
        wait
    }

    fn succeeded(&self, cluster: &str, phase: Option<Phase>) {
        self.failures.lock().remove(cluster);
        let mut phases = self.phases.lock();
        match phase {
            Some(phase) => phases.insert(cluster.to_owned(), phase),
            None => phases.remove(cluster),
        };
        metrics::clusters(phases.values());
    }
}

/// One round over the cluster of that name. Never fails: what went wrong is told, and when to
/// look again is the answer.
pub async fn round(world: &World, of: ObjectRef<KvCluster>) -> Action {
    let key = format!(
        "{}/{}",
        of.namespace.as_deref().unwrap_or_default(),
        of.name
    );
    let _under_way = world.health.round(key.clone());
    let began = Instant::now();
    let result = reconcile(world, &of).await;
    let outcome = result.as_ref().map_or_else(Error::kind, |_| "ok");
    metrics::round(outcome, began.elapsed());
    match result {
        Ok(Some(looked)) => {
            world.memory.succeeded(&key, looked.phase);
            Action::requeue(looked.again_in)
        }
        Ok(None) => {
            world.memory.succeeded(&key, None);
            Action::await_change()
        }
        Err(error) => {
            let wait = world.memory.failed(&key);
            tracing::warn!(cluster = key, %error, retry_in = ?wait, "a round failed");
            Action::requeue(wait)
        }
    }
}

/// What a round found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Looked {
    phase: Option<Phase>,
    again_in: Duration,
}

/// A round; `None` where there is no such cluster.
async fn reconcile(world: &World, of: &ObjectRef<KvCluster>) -> Result<Option<Looked>, Error> {
    world.writes.term()?;
    let namespace = of.namespace.clone().unwrap_or_default();
    let api: Api<KvCluster> = Api::namespaced(world.client.clone(), &namespace);
    let what = || format!("read KvCluster {}", of.name);
    let Some(manifest) = within(what, api.get_opt(&of.name)).await? else {
        return Ok(None);
    };
    let names = Names {
        namespace,
        cluster: of.name.clone(),
    };
    let judged = validate::validate(&manifest, &world.defaults);
    let mut cluster = judged.map_err(|problems| {
        let sentences = problems.iter().map(ToString::to_string);
        sentences.collect::<Vec<String>>()
    });
    if let Ok(cluster) = &cluster
        && manifest
            .status
            .as_ref()
            .is_none_or(|status| status.version.is_empty())
    {
        // Before anything is made by it: an operator of another version that goes on from here
        // must not take its own.
        fix_version(world, &api, &manifest, cluster).await?;
    }
    let mut observed = observe(&world.client, &names).await?;
    let mut told = Told::default();
    // What is wrong with the manifest itself is told first.
    if cluster.is_ok()
        && let Some(refusal) = leftovers::refusal(&manifest, &observed)
    {
        // The claims may be about to go.
        told.soon = true;
        cluster = Err(vec![refusal]);
    }
    let coordinators = ask_coordinators(world, &names, &manifest, &mut observed).await?;
    let failure = match &cluster {
        Err(problems) => {
            let text = problems.join("; ");
            told.news.push(News::new(Reason::Invalid, text));
            None
        }
        Ok(cluster) => act(
            world,
            cluster,
            &observed,
            coordinators.as_deref(),
            &mut told,
        )
        .await
        .err(),
    };
    if matches!(failure, Some(Error::NotLeading(_))) {
        return Err(failure.unwrap_or(crate::leader::NotLeading.into()));
    }
    if let Some(error) = &failure {
        told.notes.push(stuck(error.to_string()));
    }
    if let Ok(cluster) = &cluster {
        for warning in validate::warnings(cluster) {
            told.news
                .push(News::new(Reason::Warning, warning.to_string()));
        }
    }
    let found = Found {
        manifest: &manifest,
        names: &names,
        cluster: cluster.as_ref().map_err(Vec::as_slice),
        observed: &observed,
        notes: &told.notes,
        outside: &told.outside,
    };
    let new = status(&found, Timestamp::now());
    told.transitions(manifest.status.as_ref(), &new);
    for news in &told.news {
        world.events.tell(&manifest, news).await;
    }
    let phase = new.phase;
    if manifest.status.as_ref() != Some(&new) {
        write_status(world, &api, &manifest, &new).await?;
        // What changes goes on changing: a node that has just come gets its share in a moment,
        // which nothing but the coordinators tells.
        told.soon |= phase == Some(Phase::Running);
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let at_rest = matches!(
        phase,
        None | Some(Phase::Running | Phase::Paused | Phase::Invalid)
    );
    let again_in = if told.asked {
        AT_ONCE
    } else if told.soon || !at_rest {
        SOON
    } else {
        AT_REST
    };
    Ok(Some(Looked { phase, again_in }))
}

/// What a round has to tell.
#[derive(Default)]
struct Told {
    /// Where clients outside reach data nodes.
    outside: BTreeMap<String, OutsideAddress>,
    notes: Vec<Note>,
    news: Vec<News>,
    /// Whether to look again soon, whatever the phase.
    soon: bool,
    /// Whether something was asked for, and done.
    asked: bool,
}

impl Told {
    /// What changed for the better or the worse.
    fn transitions(&mut self, old: Option<&KvClusterStatus>, new: &KvClusterStatus) {
        let of = |status: Option<&KvClusterStatus>, kind: &str| {
            let condition = status?.conditions.iter().find(|one| one.type_ == kind)?;
            Some((condition.status.clone(), condition.message.clone()))
        };
        let is = |truth: &Option<(String, String)>, word: &str| {
            truth.as_ref().is_some_and(|(status, _)| status == word)
        };
        let (ready_before, ready) = (of(old, "Ready"), of(Some(new), "Ready"));
        let creating = old.is_none_or(|old| matches!(old.phase, None | Some(Phase::Creating)));
        if creating && is(&ready, "True") && !is(&ready_before, "True") {
            let text = "the cluster serves for the first time";
            self.news.push(News::new(Reason::Created, text));
        }
        let (before, now) = (of(old, "Degraded"), of(Some(new), "Degraded"));
        if is(&now, "True") && !is(&before, "True") {
            let text = now.map(|(_, message)| message).unwrap_or_default();
            self.news.push(News::new(Reason::Degraded, text));
        } else if is(&now, "False") && is(&before, "True") {
            self.news
                .push(News::new(Reason::Recovered, "the cluster is whole again"));
        }
        let known = old.and_then(|old| old.hot.as_ref());
        let is_new = |key: &&String| known.is_none_or(|known| !known.keys.contains(*key));
        let hot = new.hot.iter().flat_map(|hot| &hot.keys);
        let keys: Vec<&str> = hot.filter(is_new).map(String::as_str).collect();
        if !keys.is_empty() {
            let text = format!(
                "asked for far more than other keys, for a minute by now: {}",
                keys.join(", ")
            );
            self.news.push(News::new(Reason::HotKeys, text));
        }
        let stuck = self.notes.iter().filter(|note| note.topic == Topic::Stuck);
        let stuck: Vec<News> = stuck
            .map(|note| News::new(Reason::Stuck, note.text.clone()))
            .collect();
        self.news.extend(stuck);
    }
}

fn stuck(text: String) -> Note {
    Note {
        topic: Topic::Stuck,
        node: None,
        text,
    }
}

/// Plans, applies, and carries out.
async fn act(
    world: &World,
    cluster: &Cluster,
    observed: &Observed,
    coordinators: Option<&dyn Coordinators>,
    told: &mut Told,
) -> Result<(), Error> {
    let plan = plan::plan(cluster, observed);
    // What waits for time to pass is told of by nobody.
    told.outside = plan.places.outside.clone();
    let waits = |note: &Note| matches!(note.topic, Topic::Restart | Topic::Volumes);
    told.soon |= plan.notes.iter().any(waits);
    told.notes.extend(plan.notes.iter().cloned());
    // Kubernetes takes away what belongs to a manifest that is deleted; nothing is made anew.
    if !cluster.deleting && !cluster.spec.maintenance.paused {
        bring_about(world, cluster, observed, &plan, told).await?;
    }
    let Carried { notes, news, done } = steps::carry_out(
        &world.client,
        &world.writes,
        cluster,
        coordinators,
        &plan.steps,
    )
    .await?;
    told.asked |= done > 0;
    told.soon |= !notes.is_empty();
    told.notes.extend(notes);
    told.news.extend(news);
    Ok(())
}

/// Secrets and objects.
async fn bring_about(
    world: &World,
    cluster: &Cluster,
    observed: &Observed,
    plan: &Plan,
    told: &mut Told,
) -> Result<(), Error> {
    let World { client, writes, .. } = world;
    let kept = material::keep(
        client,
        writes,
        world.reach.as_ref(),
        cluster,
        observed,
        &plan.outside.hosts,
    )
    .await?;
    told.soon |= kept.overtaken;
    told.notes.extend(kept.notes);
    told.news.extend(kept.news);
    let mut plan = plan.clone();
    if let Some(hosts) = &kept.hosts {
        // Nobody is sent to a node by a name under which it is not believed yet.
        let withheld = |address: &OutsideAddress| !hosts.contains(address.host());
        told.soon |= plan.places.outside.values().any(withheld);
        plan.places.outside.retain(|_, address| !withheld(address));
    }
    told.outside = plan.places.outside.clone();
    let plan = &plan;
    // Secrets are kept by `material`, and never applied.
    for object in build::objects(cluster, plan, &Material::default()) {
        match apply::apply(client, writes, cluster, &object).await? {
            Applied::Unchanged => {}
            Applied::Changed => {
                tracing::info!(?object, "applied");
                told.soon = true;
                if let Object::StatefulSet(_) = &object {
                    // What was observed before knows nothing of it: without this word the
                    // status would call a manifest settled of which nothing is done yet.
                    told.notes.push(Note {
                        topic: Topic::Restart,
                        node: None,
                        text: format!("StatefulSet {} was changed just now.", object.name()),
                    });
                }
            }
            Applied::Foreign => {
                let kind = object.resource().kind;
                let (note, news) = material::foreign(&kind, object.name());
                told.notes.push(note);
                told.news.push(news);
            }
        }
    }
    for unwanted in build::unwanted(cluster, plan) {
        apply::remove(client, writes, cluster, &unwanted).await?;
    }
    Ok(())
}

/// Asks the coordinators how things are, where one of them runs.
async fn ask_coordinators(
    world: &World,
    names: &Names,
    manifest: &KvCluster,
    observed: &mut Observed,
) -> Result<Option<Arc<dyn Coordinators>>, Error> {
    let ways = material::ways(&world.client, names, &manifest.spec, observed).await?;
    let conditions = manifest.status.iter().flat_map(|status| &status.conditions);
    let served = conditions
        .into_iter()
        .any(|one| one.type_ == "Ready" && one.status == "True");
    let mut answering = None;
    for access in ways {
        let (said, coordinators) = match world.reach.reach(&access) {
            Ok(coordinators) => {
                let mut said = coordinators.status().await;
                if served && said.as_ref().is_ok_and(|store| store.unserved() > 0) {
                    tokio::time::sleep(HAND_OVER).await;
                    said = coordinators.status().await;
                }
                (said, Some(coordinators))
            }
            Err(why) => (Err(Silence::NoAnswer(why)), None),
        };
        let answers = !matches!(said, Err(Silence::NoAnswer(_)));
        if answers || observed.store == Err(Silence::NotAsked) {
            observed.store = said;
            answering = coordinators;
        }
        if answers {
            break;
        }
    }
    Ok(answering)
}

/// Writes down which version a cluster is made with.
async fn fix_version(
    world: &World,
    api: &Api<KvCluster>,
    manifest: &KvCluster,
    cluster: &Cluster,
) -> Result<(), Error> {
    let status = KvClusterStatus {
        version: cluster.version.clone(),
        image: cluster.image.clone(),
        phase: Some(Phase::Creating),
        ..manifest.status.clone().unwrap_or_default()
    };
    write_status(world, api, manifest, &status).await
}

async fn write_status(
    world: &World,
    api: &Api<KvCluster>,
    manifest: &KvCluster,
    status: &KvClusterStatus,
) -> Result<(), Error> {
    let fields = json!({
        "apiVersion": "cairn.dev/v1alpha1",
        "kind": "KvCluster",
        // Of this manifest, and of no other that has its name by now.
        "metadata": {"name": manifest.name_any(), "uid": manifest.uid()},
        "status": status,
    });
    world
        .writes
        .status(api, &manifest.name_any(), &fields)
        .await?;
    Ok(())
}

#[cfg(test)]
#[path = "round_tests.rs"]
mod tests;
