//! The edge of the operator: what starts rounds, and what speaks to Kubernetes in them.
//!
//! # What starts a round
//! - A manifest that changed. What the operator itself writes into its status does not count,
//!   or each round would start the next one.
//! - An object of a cluster that changed: StatefulSets, pods, claims, Services, ConfigMaps,
//!   budgets, policies.
//! - A Kubernetes node that was cordoned, tainted, (un)ready, or came or went: a round over
//!   every cluster, so that primaries leave before pods do.
//! - The passing of time: 2 s while something is under way, 30 s else. Drains and moves are
//!   seen in no object of Kubernetes; nor are Secrets watched, see below.
//!
//! Rounds over one cluster never overlap. What watches tell is used for nothing but to start a
//! round: a round reads everything live.
//!
//! # What the operator must be let to do
//! In each namespace that it looks after (a Role, or cluster-wide a ClusterRole):
//!
//! | group | resources | verbs |
//! | --- | --- | --- |
//! | `cairn.dev` | `kvclusters` | get, list, watch |
//! | `cairn.dev` | `kvclusters/status` | patch |
//! | `apps` | `statefulsets` | get, list, watch, create, patch |
//! | `` | `pods` | get, list, watch, delete |
//! | `` | `persistentvolumeclaims` | get, list, watch, patch, delete |
//! | `` | `services` | get, list, watch, create, patch, delete |
//! | `` | `configmaps` | get, list, watch, create, patch |
//! | `` | `serviceaccounts` | get, create, patch |
//! | `` | `secrets` | get, create, update |
//! | `policy` | `poddisruptionbudgets` | get, list, watch, create, patch, delete |
//! | `networking.k8s.io` | `networkpolicies` | get, list, watch, create, patch |
//! | `events.k8s.io` | `events` | create |
//! | `cert-manager.io` | `certificates` | get, create, patch |
//!
//! Where it makes objects that have an owner whose deletion they would hold up
//! (`OwnerReferencesPermissionEnforcement`), also `kvclusters/finalizers`: update.
//!
//! Secrets are neither listed nor watched: that would be to read all of them. A Secret that was
//! changed is seen with the next round that time starts.
//!
//! Cluster-wide (a ClusterRole, and the operator does without):
//!
//! | group | resources | verbs |
//! | --- | --- | --- |
//! | `` | `nodes` | get, list, watch |
//! | `` | `persistentvolumes` | get |
//!
//! In its own namespace: `coordination.k8s.io` `leases`: get, create, update.

pub mod apply;
mod certificates;
mod leftovers;
pub mod material;
pub mod observe;
mod ownership;
pub mod round;
pub mod status;
pub mod steps;
pub mod writes;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use cairn_crds::KvCluster;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, ObjectMeta};
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{Config, WatchStreamExt, applier, watcher as watch};
use kube::{Api, Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use self::round::World;
use self::writes::within;
use crate::names::LABEL_INSTANCE;
use crate::observed::HostSeen;

/// How long a cluster's changes are gathered before a round: a StatefulSet that makes pods
/// brings many at once.
const GATHER: Duration = Duration::from_millis(100);
/// The most rounds at a time, over different clusters.
const ROUNDS: u16 = 8;
/// How long rounds under way may take to end when the process stops.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Selects what belongs to any cluster.
const SELECTOR: &str = "app.kubernetes.io/name=cairn";

/// Where clusters are looked after.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// In every namespace.
    Everywhere,
    /// In these alone.
    Namespaces(Vec<String>),
}

impl Scope {
    /// One API for all namespaces, or one for each.
    fn apis<K>(&self, client: &Client) -> Vec<Api<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        match self {
            Self::Everywhere => vec![Api::all(client.clone())],
            Self::Namespaces(namespaces) => namespaces
                .iter()
                .map(|namespace| Api::namespaced(client.clone(), namespace))
                .collect(),
        }
    }
}

/// A cluster to look at.
type Trigger = ObjectRef<KvCluster>;

/// Looks after clusters until `stop`, and lets the rounds under way end then. Dropped, it
/// ends them where they are.
pub async fn run(world: Arc<World>, scope: &Scope, stop: CancellationToken) {
    let client = world.client.clone();
    let mut runs = Vec::new();
    for api in scope.apis::<KvCluster>(&client) {
        let (store, manifests) = manifests(api);
        runs.push((store, manifests));
    }
    let may_watch_nodes = may_watch_nodes(&client).await;
    // Each namespace has a store of its own; what belongs to a cluster names it, and a
    // trigger for a cluster that another store holds goes nowhere.
    let mut running = Vec::new();
    for (at, (store, manifests)) in runs.into_iter().enumerate() {
        let one = match scope {
            Scope::Everywhere => Scope::Everywhere,
            Scope::Namespaces(namespaces) => Scope::Namespaces(vec![namespaces[at].clone()]),
        };
        let mut triggers = vec![manifests];
        triggers.extend(belongings(&client, &one));
        if may_watch_nodes {
            triggers.push(hosts(&client, store.clone()));
        }
        running.push(looking_after(
            Arc::clone(&world),
            store,
            triggers,
            stop.clone(),
        ));
    }
    futures::future::join_all(running).await;
}

/// Runs the rounds that triggers and time start.
async fn looking_after(
    world: Arc<World>,
    store: Store<KvCluster>,
    triggers: Vec<BoxStream<'static, Trigger>>,
    stop: CancellationToken,
) {
    let queue = stream::select_all(triggers)
        .take_until(stop.clone().cancelled_owned())
        .map(Ok::<_, Infallible>);
    let config = Config::default().debounce(GATHER).concurrency(ROUNDS);
    let rounds = applier(
        |manifest: Arc<KvCluster>, world: Arc<World>| {
            let of = ObjectRef::from_obj(&*manifest);
            Box::pin(async move { Ok::<_, Infallible>(round::round(&world, of).await) })
        },
        |_, never: &Infallible, _| match *never {},
        world,
        store,
        queue,
        config,
    );
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_WITHIN).await;
    };
    rounds
        .take_until(overdue)
        .for_each(|result| async move {
            // A cluster that was deleted between its trigger and its round is nothing to tell.
            if let Err(error) = result {
                tracing::debug!(%error, "a trigger led nowhere");
            }
        })
        .await;
}

/// The manifests, and a trigger for each that changed.
fn manifests(api: Api<KvCluster>) -> (Store<KvCluster>, BoxStream<'static, Trigger>) {
    let (store, writer) = reflector::store();
    let mut seen: BTreeMap<(String, String), (Option<String>, Option<i64>)> = BTreeMap::new();
    let triggers = watch(api, watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .filter_map(move |event| {
            let changed = events(event).and_then(|(metadata, gone)| {
                let key = (
                    metadata.namespace.clone().unwrap_or_default(),
                    metadata.name.clone().unwrap_or_default(),
                );
                let now = (metadata.uid.clone(), metadata.generation);
                let is_new = if gone {
                    seen.remove(&key);
                    true
                } else {
                    seen.insert(key.clone(), now.clone()) != Some(now)
                };
                is_new.then(|| ObjectRef::new(&key.1).within(&key.0))
            });
            async move { changed }
        })
        .boxed();
    (store, triggers)
}

/// Watches of what belongs to clusters.
fn belongings(client: &Client, scope: &Scope) -> Vec<BoxStream<'static, Trigger>> {
    fn of<K>(client: &Client, scope: &Scope) -> Vec<BoxStream<'static, Trigger>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let apis = scope.apis::<PartialObjectMeta<K>>(client);
        apis.into_iter().map(belonging).collect()
    }
    let mut all = of::<StatefulSet>(client, scope);
    all.extend(of::<Pod>(client, scope));
    all.extend(of::<PersistentVolumeClaim>(client, scope));
    all.extend(of::<Service>(client, scope));
    all.extend(of::<ConfigMap>(client, scope));
    all.extend(of::<PodDisruptionBudget>(client, scope));
    all.extend(of::<NetworkPolicy>(client, scope));
    all
}

/// A trigger for each object that changed, came or went: for the cluster that it names. What is
/// in the object is not fetched.
fn belonging<K>(api: Api<PartialObjectMeta<K>>) -> BoxStream<'static, Trigger>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static,
{
    watch(api, watcher::Config::default().labels(SELECTOR))
        .default_backoff()
        .filter_map(|event| {
            let of = events(event).and_then(|(metadata, _)| cluster_of(&metadata));
            async move { of }
        })
        .boxed()
}

/// The cluster to which an object belongs, by its label.
fn cluster_of(metadata: &ObjectMeta) -> Option<Trigger> {
    let cluster = metadata.labels.as_ref()?.get(LABEL_INSTANCE)?;
    let namespace = metadata.namespace.as_deref()?;
    Some(ObjectRef::new(cluster).within(namespace))
}

/// The metadata of what an event is about, and whether that is gone. A watch that fails is
/// begun anew by whoever gave it a backoff.
fn events<K: ResourceExt>(event: watcher::Result<Event<K>>) -> Option<(ObjectMeta, bool)> {
    match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => Some((object.meta().clone(), false)),
        Ok(Event::Delete(object)) => Some((object.meta().clone(), true)),
        Ok(Event::Init | Event::InitDone) => None,
        Err(error) => {
            tracing::warn!(%error, "a watch failed; it is begun anew");
            None
        }
    }
}

/// Every cluster, whenever a Kubernetes node changed in a way that matters to them.
fn hosts(client: &Client, store: Store<KvCluster>) -> BoxStream<'static, Trigger> {
    let api: Api<Node> = Api::all(client.clone());
    let mut hosts = Hosts::default();
    watch(api, watcher::Config::default())
        .default_backoff()
        .flat_map(move |event| {
            let clusters = if hosts.take(event) {
                store.state()
            } else {
                Vec::new()
            };
            stream::iter(clusters).map(|manifest| ObjectRef::from_obj(&*manifest))
        })
        .boxed()
}

/// The Kubernetes nodes as the watch tells of them.
#[derive(Default)]
struct Hosts {
    known: BTreeMap<String, HostSeen>,
    /// Those that were listed since the watch began anew.
    listed: BTreeSet<String>,
}

impl Hosts {
    /// Takes up an event; whether something changed that matters.
    fn take(&mut self, event: watcher::Result<Event<Node>>) -> bool {
        match event {
            Ok(Event::Apply(host)) => self.put(&host),
            Ok(Event::InitApply(host)) => {
                self.listed.insert(host.name_any());
                self.put(&host)
            }
            Ok(Event::Delete(host)) => self.known.remove(&host.name_any()).is_some(),
            Ok(Event::Init) => {
                self.listed.clear();
                false
            }
            Ok(Event::InitDone) => {
                let before = self.known.len();
                self.known.retain(|name, _| self.listed.contains(name));
                self.known.len() != before
            }
            Err(error) => {
                tracing::warn!(%error, "the watch of nodes failed; it is begun anew");
                false
            }
        }
    }

    fn put(&mut self, host: &Node) -> bool {
        let seen = observe::host_seen(host);
        self.known.insert(host.name_any(), seen.clone()) != Some(seen)
    }
}

/// Whether Kubernetes nodes may be watched: not where the operator is let into some namespaces
/// alone.
async fn may_watch_nodes(client: &Client) -> bool {
    let api: Api<Node> = Api::all(client.clone());
    let params = ListParams::default().limit(1);
    match within(|| "list nodes".to_owned(), api.list(&params)).await {
        Ok(_) => true,
        Err(error) if error.is_forbidden() => {
            tracing::info!("Kubernetes nodes may not be read: no volume is given up by itself");
            false
        }
        Err(error) => {
            tracing::warn!(%error, "Kubernetes nodes are not watched until this starts anew");
            false
        }
    }
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
