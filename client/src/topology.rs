//! The map: fetched from any node, and followed.
//!
//! One task watches the map of one node after another. A call that met a surprise
//! pokes it: it then asks a second node at once, in case the watched one is cut off
//! or behind.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use cairn_core::ids::{MapVersion, PartitionId};
use cairn_core::record::{ClusterMap, NodeStanding};
use cairn_proto::limits;
use cairn_proto::map::{ApplyError, MapUpdate};
use cairn_proto::pb::kv::v1::topology_client::TopologyClient;
use cairn_proto::pb::map::v1 as pb;
use parking_lot::Mutex;
use rand::Rng;
use rand::seq::SliceRandom;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tracing::{debug, warn};

use crate::error::Error;
use crate::stats::{Counters, count};
use crate::transport::Dialer;

/// How long one node may take to send a map.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a second node is asked at most.
const POKE_PAUSE: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Called with the partitions that changed and the map that has them.
pub(crate) type OnChange = Box<dyn Fn(&[PartitionId], &ClusterMap) + Send + Sync>;

/// The newest map that the client has.
pub(crate) struct Topology {
    endpoints: Vec<String>,
    dialer: Dialer,
    map: ArcSwap<ClusterMap>,
    versions: watch::Sender<MapVersion>,
    /// Held while a newer map is taken.
    taking: Mutex<()>,
    poke: Notify,
    counters: Arc<Counters>,
    on_change: OnChange,
}

impl Topology {
    pub(crate) fn new(
        endpoints: Vec<String>,
        dialer: Dialer,
        counters: Arc<Counters>,
        on_change: OnChange,
    ) -> Arc<Self> {
        Arc::new(Self {
            endpoints,
            dialer,
            map: ArcSwap::default(),
            versions: watch::Sender::new(MapVersion::ZERO),
            taking: Mutex::default(),
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

    /// Fetches a first map that has a table.
    pub(crate) async fn fetch_first(&self, within: Duration) -> Result<(), Error> {
        let until = Instant::now() + within;
        let mut reason = "there is no endpoint".to_owned();
        let mut pause = BACKOFF_MIN;
        loop {
            for endpoint in &self.endpoints {
                match self.fetch(endpoint).await {
                    Ok(()) if !self.map.load().partitions.is_empty() => return Ok(()),
                    Ok(()) => {
                        reason = "the cluster has not been made yet: it waits for its first data \
                                  nodes"
                            .to_owned();
                    }
                    Err(error) => reason = error,
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

    async fn connect(&self, address: &str) -> Result<TopologyClient<Channel>, String> {
        let channel = self.dialer.dial(address).await.map_err(|e| e.to_string())?;
        Ok(TopologyClient::new(channel)
            .max_decoding_message_size(limits::COORDINATOR_MESSAGE_BYTES))
    }

    fn request(&self) -> pb::MapRequest {
        let map = self.map.load();
        pb::MapRequest {
            cluster_id: map.cluster_id.clone(),
            version: map.version.0,
        }
    }

    /// Fetches the map of one node and takes it if it is newer.
    async fn fetch(&self, address: &str) -> Result<(), String> {
        let fetched = timeout(FETCH_TIMEOUT, async {
            let mut client = self.connect(address).await?;
            let reply = client.get(self.request()).await;
            reply.map_err(|status| format!("{address}: {}", status.message()))
        });
        let update = fetched
            .await
            .map_err(|_| format!("{address}: no map within {FETCH_TIMEOUT:?}"))??;
        self.take(update.into_inner()).map_err(|e| match e {
            TakeError::Gap => format!("{address}: sent changes to a map that is not here"),
            TakeError::Wrong(error) => format!("{address}: {error}"),
        })
    }

    /// Takes an update; an older one changes nothing.
    fn take(&self, update: pb::MapUpdate) -> Result<(), TakeError> {
        let update =
            MapUpdate::try_from(update).map_err(|error| TakeError::Wrong(error.to_string()))?;
        let _taking = self.taking.lock();
        let before = self.map.load_full();
        let Some(after) = update.apply(&before).map_err(|error| match error {
            ApplyError::Gap { .. } => TakeError::Gap,
            ApplyError::OtherCluster { .. } | ApplyError::Misfit(_) => {
                TakeError::Wrong(error.to_string())
            }
        })?
        else {
            return Ok(());
        };
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
        Ok(())
    }

    /// Every address that may have the map, in random order.
    fn candidates(&self) -> Vec<String> {
        let map = self.map.load();
        let nodes = map
            .nodes
            .values()
            .filter(|n| n.standing == NodeStanding::Member && !n.addresses.client.is_empty())
            .map(|n| n.addresses.client.clone());
        let all: BTreeSet<String> = self.endpoints.iter().cloned().chain(nodes).collect();
        let mut all: Vec<String> = all.into_iter().collect();
        all.shuffle(&mut rand::rng());
        all
    }

    /// Follows the map until `shutdown`.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.watch_one_after_another() => {}
        }
    }

    async fn watch_one_after_another(&self) {
        let mut pause = BACKOFF_MIN;
        loop {
            for address in self.candidates() {
                let began = Instant::now();
                let ended = self.watch(&address).await;
                debug!(address, reason = ended, "stopped watching the map");
                // One that served for a while is no reason to slow down.
                if began.elapsed() > BACKOFF_MAX {
                    pause = BACKOFF_MIN;
                }
                let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
                sleep(jittered).await;
                pause = (pause * 2).min(BACKOFF_MAX);
            }
        }
    }

    /// Watches the map of one node until that ends, or another one has a newer map.
    async fn watch(&self, address: &str) -> String {
        let opened = timeout(FETCH_TIMEOUT, async {
            let mut client = self.connect(address).await?;
            let updates = client.watch(self.request()).await;
            updates.map_err(|status| status.message().to_owned())
        });
        let mut updates = match opened.await {
            Ok(Ok(updates)) => updates.into_inner(),
            Ok(Err(reason)) => return reason,
            Err(_) => return format!("no answer within {FETCH_TIMEOUT:?}"),
        };
        loop {
            tokio::select! {
                update = updates.message() => match update {
                    Ok(Some(update)) => match self.take(update) {
                        Ok(()) => {}
                        Err(TakeError::Gap) => return "changes to a map that is not here".to_owned(),
                        Err(TakeError::Wrong(error)) => {
                            warn!(address, error, "refused a map");
                            return error;
                        }
                    },
                    Ok(None) => return "closed by the node".to_owned(),
                    Err(status) => return status.message().to_owned(),
                },
                () = self.poke.notified() => {
                    let before = self.map.load().version;
                    let other = self.candidates().into_iter().find(|a| a != address);
                    let Some(other) = other else { continue };
                    if let Err(reason) = self.fetch(&other).await {
                        debug!(reason, "asked a second node for the map");
                    }
                    if self.map.load().version > before {
                        return format!("{other} has a newer map");
                    }
                    sleep(POKE_PAUSE).await;
                }
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
