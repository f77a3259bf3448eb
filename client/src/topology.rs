//! The map: fetched from any node, and followed.
//!
//! One task follows it, in two ways that never wait for each other. It watches the map
//! of one node after another. And when a call met a surprise, which pokes it, it asks
//! other nodes at once, in case the watched one is cut off or behind: a node that
//! froze still takes connections, and must not keep what others say from being heard.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use cairn_core::ids::{MapVersion, NodeId, PartitionId};
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::{ClusterMap, NodeStanding, PartitionRecord};
use cairn_proto::limits;
use cairn_proto::map::{ApplyError, MapUpdate};
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1 as pb;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, FuturesUnordered};
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tracing::{debug, warn};

use crate::error::Error;
use crate::stats::{Counters, count};
use crate::transport::{Channel, Dialer};

/// How long one node may take to send a map.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one of several may take that are asked after a surprise.
const POKE_TIMEOUT: Duration = Duration::from_millis(300);
/// How often others are asked at most.
const POKE_PAUSE: Duration = Duration::from_millis(100);
/// How long the first of them may be silent before the second is asked too.
const HEDGE_AFTER: Duration = Duration::from_millis(50);
/// How long a watched node may lack a map that another one has.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// For how long a node that failed is asked after all others.
const SUSPECT_FOR: Duration = Duration::from_secs(10);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Called with the partitions that changed and the map that has them.
pub(crate) type OnChange = Box<dyn Fn(&[PartitionId], &ClusterMap) + Send + Sync>;
/// The newest map, for those who only read it.
pub(crate) type SharedMap = Arc<ArcSwap<ClusterMap>>;
/// Why a node sends no map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoMap {
    /// Whether it does not let this client in.
    pub(crate) denied: bool,
    /// In words.
    pub(crate) reason: String,
}

impl From<String> for NoMap {
    fn from(reason: String) -> Self {
        Self {
            denied: false,
            reason,
        }
    }
}

/// The maps of one node as they come, or why they do not.
type Updates = BoxStream<'static, Result<pb::MapUpdate, String>>;

/// Asks nodes for their map.
pub(crate) trait MapSource: Send + Sync + 'static {
    /// The map of one node.
    fn fetch(
        &self,
        address: &str,
        request: pb::MapRequest,
    ) -> BoxFuture<'static, Result<pb::MapUpdate, NoMap>>;

    /// The map of one node and its changes.
    fn watch(
        &self,
        address: &str,
        request: pb::MapRequest,
    ) -> BoxFuture<'static, Result<Updates, String>>;
}

impl MapSource for Dialer {
    fn fetch(
        &self,
        address: &str,
        request: pb::MapRequest,
    ) -> BoxFuture<'static, Result<pb::MapUpdate, NoMap>> {
        let (dialer, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let reply = connect(&dialer, &address).await?.get(request).await;
            reply
                .map(tonic::Response::into_inner)
                .map_err(|status| NoMap {
                    denied: status.code() == Code::Unauthenticated,
                    reason: format!("{address}: {}", status.message()),
                })
        })
    }

    fn watch(
        &self,
        address: &str,
        request: pb::MapRequest,
    ) -> BoxFuture<'static, Result<Updates, String>> {
        let (dialer, address) = (self.clone(), address.to_owned());
        Box::pin(async move {
            let updates = connect(&dialer, &address).await?.watch(request).await;
            let updates = updates.map_err(|status| status.message().to_owned())?;
            let updates = updates.into_inner();
            Ok(updates
                .map(|update| update.map_err(|status| status.message().to_owned()))
                .boxed())
        })
    }
}

/// The whole map of one node, a coordinator or a data node. `within` bounds the call.
///
/// # Errors
/// In words, where the node sends none in time.
pub async fn fetch_map(
    dialer: &Dialer,
    address: &str,
    within: Duration,
) -> Result<Arc<ClusterMap>, String> {
    let asked = dialer.fetch(address, pb::MapRequest::default());
    let update = timeout(within, asked)
        .await
        .map_err(|_| format!("{address}: no answer within {within:?}"))?
        .map_err(|no_map| no_map.reason)?;
    match MapUpdate::try_from(update).map_err(|e| format!("{address}: {e}"))? {
        MapUpdate::Full(map) => Ok(map),
        MapUpdate::Delta(_) => Err(format!("{address}: a change of a map instead of a map")),
    }
}

async fn connect(dialer: &Dialer, address: &str) -> Result<TopologyClient<Channel>, String> {
    let channel = dialer.dial(address).await.map_err(|e| e.to_string())?;
    Ok(TopologyClient::new(channel).max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES))
}

/// The newest map that the client has.
pub(crate) struct Topology {
    endpoints: Vec<String>,
    source: Box<dyn MapSource>,
    map: SharedMap,
    versions: watch::Sender<MapVersion>,
    /// Held while a newer map is taken.
    taking: Mutex<()>,
    /// Who was primary last of the partitions that have none.
    former: Mutex<HashMap<PartitionId, NodeId>>,
    /// When the addresses that failed of late failed last.
    suspects: Mutex<HashMap<String, Instant>>,
    /// Whose map is watched.
    watched: Mutex<Option<String>>,
    poke: Notify,
    counters: Arc<Counters>,
    on_change: OnChange,
}

impl Topology {
    pub(crate) fn new(
        endpoints: Vec<String>,
        source: Box<dyn MapSource>,
        map: SharedMap,
        counters: Arc<Counters>,
        on_change: OnChange,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoints,
            source,
            map,
            versions: watch::Sender::new(MapVersion::ZERO),
            taking: Mutex::default(),
            former: Mutex::default(),
            suspects: Mutex::default(),
            watched: Mutex::default(),
            poke: Notify::new(),
            counters,
            on_change,
        })
    }

    /// The newest map.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        self.map.load_full()
    }

    /// Told of every newer map.
    pub(crate) fn versions(&self) -> watch::Receiver<MapVersion> {
        self.versions.subscribe()
    }

    /// Something suggests that there is a newer map.
    pub(crate) fn poke(&self) {
        self.poke.notify_one();
    }

    /// An address gave no answer: others are asked before it for a while.
    pub(crate) fn suspect(&self, address: &str) {
        let now = Instant::now();
        self.suspects.lock().insert(address.to_owned(), now);
    }

    /// Where the replicas of a partition are that may answer a read of the level, which is not
    /// the primary's: those that gave no answer of late aside, unless there are none besides.
    pub(crate) fn replicas(
        &self,
        map: &ClusterMap,
        record: &PartitionRecord,
        level: ReadLevel,
    ) -> Vec<String> {
        let members = match level {
            // A copy for reads is in no quorum.
            ReadLevel::Quorum => record.config.voters(),
            ReadLevel::Replica | ReadLevel::Any | ReadLevel::Primary => {
                record.config.answering_reads()
            }
        };
        let addresses: Vec<String> = members
            .iter()
            .filter_map(|member| map.nodes.get(&member.node))
            .map(|node| node.addresses.client.clone())
            .filter(|address| !address.is_empty())
            .collect();
        let suspects = self.suspects.lock();
        let failed = |address: &String| {
            suspects
                .get(address)
                .is_some_and(|since| since.elapsed() < SUSPECT_FOR)
        };
        let answering: Vec<String> = addresses.iter().filter(|a| !failed(a)).cloned().collect();
        if answering.is_empty() {
            addresses
        } else {
            answering
        }
    }

    /// Where a voter of a partition without a primary is that may know more than the
    /// map, or may have become primary: one that answers, and not the former primary.
    pub(crate) fn voter(&self, map: &ClusterMap, record: &PartitionRecord) -> Option<String> {
        let former = self.former.lock().get(&record.id).copied();
        let voters = record.config.voters();
        let addresses = voters
            .iter()
            .filter(|member| Some(member.node) != former)
            .filter_map(|member| map.nodes.get(&member.node))
            .map(|node| node.addresses.client.clone())
            .filter(|address| !address.is_empty())
            .collect();
        self.in_order(addresses).into_iter().next()
    }

    /// Fetches a first map that has a table.
    pub(crate) async fn fetch_first(&self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let mut reason = "there is no endpoint".to_owned();
        let mut pause = BACKOFF_MIN;
        loop {
            for endpoint in &self.endpoints {
                match self.fetch(endpoint, FETCH_TIMEOUT).await {
                    Ok(()) if !self.map.load().partitions.is_empty() => return Ok(()),
                    Ok(()) => {
                        reason = "the cluster has not been made yet: it waits for its first data \
                                  nodes"
                            .to_owned();
                    }
                    // No other node knows other users.
                    Err(NoMap {
                        denied: true,
                        reason,
                    }) => return Err(Error::Unauthenticated { reason }),
                    Err(error) => reason = error.reason,
                }
            }
            if Instant::now() + pause >= until {
                return Err(Error::Connect {
                    endpoints: self.endpoints.clone(),
                    reason,
                });
            }
            sleep(pause).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    fn request(&self) -> pb::MapRequest {
        let map = self.map.load();
        pb::MapRequest {
            cluster_id: map.cluster_id.clone(),
            version: map.version.0,
        }
    }

    /// Fetches the map of one node and takes it if it is newer.
    async fn fetch(&self, address: &str, within: Duration) -> Result<(), NoMap> {
        let update = timeout(within, self.source.fetch(address, self.request()))
            .await
            .map_err(|_| format!("{address}: no map within {within:?}"))??;
        self.take(update).map(drop).map_err(|e| match e {
            TakeError::Gap => format!("{address}: sent changes to a map that is not here").into(),
            TakeError::Wrong(error) => format!("{address}: {error}").into(),
        })
    }

    /// Takes an update, whose version is returned; an older one changes nothing.
    fn take(&self, update: pb::MapUpdate) -> Result<MapVersion, TakeError> {
        let update =
            MapUpdate::try_from(update).map_err(|error| TakeError::Wrong(error.to_string()))?;
        let version = match &update {
            MapUpdate::Full(map) => map.version,
            MapUpdate::Delta(delta) => delta.version,
        };
        let _taking = self.taking.lock();
        let before = self.map.load_full();
        let Some(after) = update.apply(&before).map_err(|error| match error {
            ApplyError::Gap { .. } => TakeError::Gap,
            ApplyError::OtherCluster { .. } | ApplyError::Misfit(_) => {
                TakeError::Wrong(error.to_string())
            }
        })?
        else {
            return Ok(version);
        };
        self.note_former(&before, &after);
        self.map.store(Arc::clone(&after));
        count(&self.counters.map_updates);
        let changed: Vec<PartitionId> = after
            .partitions
            .iter()
            .filter(|new| {
                before
                    .partitions
                    .get(new.id.0 as usize)
                    .is_none_or(|old| old.primary != new.primary || old.order() < new.order())
            })
            .map(|record| record.id)
            .collect();
        self.versions.send_replace(after.version);
        (self.on_change)(&changed, &after);
        Ok(version)
    }

    fn note_former(&self, before: &ClusterMap, after: &ClusterMap) {
        let mut former = self.former.lock();
        for new in &after.partitions {
            let old = before.partitions.get(new.id.0 as usize);
            match (old.and_then(|old| old.primary), new.primary) {
                (_, Some(_)) => drop(former.remove(&new.id)),
                (Some(old), None) => drop(former.insert(new.id, old.node)),
                (None, None) => {}
            }
        }
    }

    /// Every address that may have the map: in random order, those that failed of late
    /// last, the one that failed first before the others.
    fn candidates(&self) -> Vec<String> {
        let map = self.map.load();
        let nodes = map
            .nodes
            .values()
            .filter(|n| n.standing == NodeStanding::Member && !n.addresses.client.is_empty())
            .map(|n| n.addresses.client.clone());
        let all: BTreeSet<String> = self.endpoints.iter().cloned().chain(nodes).collect();
        self.in_order(all.into_iter().collect())
    }

    fn in_order(&self, mut addresses: Vec<String>) -> Vec<String> {
        addresses.shuffle(&mut rand::rng());
        let mut suspects = self.suspects.lock();
        suspects.retain(|_, since| since.elapsed() < SUSPECT_FOR);
        addresses.sort_by_key(|address| suspects.get(address).copied());
        addresses
    }

    fn clear(&self, address: &str) {
        self.suspects.lock().remove(address);
    }

    /// Follows the map until `shutdown`.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            () = self.watch_one_after_another() => {}
            () = self.answer_pokes() => {}
        }
    }

    async fn watch_one_after_another(&self) {
        let mut pause = BACKOFF_MIN;
        loop {
            let first = self.candidates().into_iter().next();
            if let Some(address) = first {
                let began = Instant::now();
                *self.watched.lock() = Some(address.clone());
                let ended = self.watch(&address).await;
                *self.watched.lock() = None;
                self.suspect(&address);
                debug!(address, reason = ended, "stopped watching the map");
                // One that served for a while is no reason to slow down.
                if began.elapsed() > BACKOFF_MAX {
                    pause = BACKOFF_MIN;
                }
            }
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            sleep(jittered).await;
            pause = (pause * 2).min(BACKOFF_MAX);
        }
    }

    /// Watches the map of one node until that ends, or the node stays behind others.
    async fn watch(&self, address: &str) -> String {
        let opened = timeout(FETCH_TIMEOUT, self.source.watch(address, self.request()));
        let mut updates = match opened.await {
            Ok(Ok(updates)) => updates,
            Ok(Err(reason)) => return reason,
            Err(_) => return format!("no answer within {FETCH_TIMEOUT:?}"),
        };
        let mut versions = self.versions.subscribe();
        // What this node is known to have, and what it lacks since when.
        let mut has = MapVersion::ZERO;
        let mut lacks: Option<(MapVersion, Instant)> = None;
        loop {
            let newest = self.map.load().version;
            lacks = match lacks {
                Some(lacks) if has < lacks.0 => Some(lacks),
                _ => (has < newest).then(|| (newest, Instant::now() + BEHIND_MAX)),
            };
            let until = lacks.map(|(_, until)| until);
            tokio::select! {
                biased;
                update = updates.next() => match update {
                    Some(Ok(update)) => match self.take(update) {
                        Ok(version) => {
                            self.clear(address);
                            has = has.max(version);
                        }
                        Err(TakeError::Gap) => return "changes to a map that is not here".to_owned(),
                        Err(TakeError::Wrong(error)) => {
                            warn!(address, error, "refused a map");
                            return error;
                        }
                    },
                    Some(Err(reason)) => return reason,
                    None => return "closed by the node".to_owned(),
                },
                // A newer map came from elsewhere: this node is given time to have it
                // too. Its stream is worth more than a new one to who knows whom.
                _ = versions.changed() => {}
                () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                    return format!("stays behind: others have version {newest}");
                }
            }
        }
    }

    /// Asks others whenever there was a surprise, no more often than a pause allows.
    async fn answer_pokes(&self) {
        loop {
            self.poke.notified().await;
            let next = Instant::now() + POKE_PAUSE;
            self.ask_others().await;
            sleep_until(next).await;
        }
    }

    /// Asks a node that is not watched for its map; a second one too where the first
    /// fails or is silent. Ends with the first answer.
    async fn ask_others(&self) {
        let watched = self.watched.lock().clone();
        let others = self.candidates().into_iter();
        let mut others = others.filter(|a| Some(a) != watched.as_ref()).take(2);
        let Some(first) = others.next() else { return };
        let mut second = others.next();
        let mut first_is_silent = true;
        let mut asking = FuturesUnordered::new();
        asking.push(self.ask(first.clone()));
        let hedge = sleep(HEDGE_AFTER);
        let mut hedge = std::pin::pin!(hedge);
        loop {
            tokio::select! {
                answered = asking.next() => match answered {
                    Some((address, true)) => {
                        if first_is_silent && address != first {
                            self.suspect(&first);
                        }
                        return;
                    }
                    Some((address, false)) => first_is_silent &= address != first,
                    None if second.is_none() => return,
                    None => {}
                },
                () = &mut hedge, if second.is_some() => {
                    asking.extend(second.take().map(|second| self.ask(second)));
                    continue;
                }
            }
            if asking.is_empty() {
                let Some(second) = second.take() else { return };
                asking.push(self.ask(second));
            }
        }
    }

    /// Whether a node sent its map, which was taken.
    async fn ask(&self, address: String) -> (String, bool) {
        match self.fetch(&address, POKE_TIMEOUT).await {
            Ok(()) => {
                self.clear(&address);
                (address, true)
            }
            Err(NoMap { reason, .. }) => {
                debug!(reason, "asked another node for the map");
                self.suspect(&address);
                (address, false)
            }
        }
    }
}

enum TakeError {
    /// The whole map is needed.
    Gap,
    /// It makes no sense.
    Wrong(String),
}

#[cfg(test)]
#[path = "topology_tests.rs"]
mod tests;
