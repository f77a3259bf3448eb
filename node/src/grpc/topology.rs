//! The map and its changes, for clients; served by data nodes and coordinators.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cairn_core::ids::MapVersion;
use cairn_core::record::ClusterMap;
use cairn_proto::limits;
use cairn_proto::map::MapUpdate;
use cairn_proto::pb::kv::v1::topology_server;
use cairn_proto::pb::map::v1 as pb;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::authenticate::caller_of;
use crate::side::Side;

/// The newest map, and word of its changes.
#[derive(Clone)]
pub struct MapFeed {
    map: Arc<ArcSwap<ClusterMap>>,
    versions: watch::Sender<MapVersion>,
}

impl fmt::Debug for MapFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapFeed")
            .field("version", &*self.versions.borrow())
            .finish()
    }
}

impl MapFeed {
    /// Follows the map in `map`; [`Self::changed`] says that it was replaced.
    #[must_use]
    pub fn new(map: Arc<ArcSwap<ClusterMap>>) -> Self {
        let version = map.load().version;
        Self {
            map,
            versions: watch::Sender::new(version),
        }
    }

    /// To be called after the map was replaced.
    pub fn changed(&self) {
        let version = self.map.load().version;
        self.versions.send_if_modified(|told| {
            let newer = version > *told;
            if newer {
                *told = version;
            }
            newer
        });
    }

    /// Told of every newer map from here on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<MapVersion> {
        self.versions.subscribe()
    }

    /// The newest map.
    #[must_use]
    pub fn map(&self) -> Arc<ClusterMap> {
        self.map.load_full()
    }
}

/// The service `cairn.kv.v1.Topology`.
#[derive(Clone, Debug)]
pub struct TopologyServer {
    feed: MapFeed,
    side: Side,
    shutdown: CancellationToken,
}

impl TopologyServer {
    /// Serves the map of `feed`; watches end with `shutdown`.
    #[must_use]
    pub fn new(feed: MapFeed, shutdown: CancellationToken) -> Self {
        Self {
            feed,
            side: Side::Inside,
            shutdown,
        }
    }

    /// The same as clients of that side are told it.
    #[must_use]
    pub(crate) fn on(self, side: Side) -> Self {
        Self { side, ..self }
    }

    /// The service for tonic's router.
    #[must_use]
    pub fn into_server(self) -> topology_server::TopologyServer<Self> {
        topology_server::TopologyServer::new(self)
            .max_encoding_message_size(limits::COORDINATOR_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl topology_server::Topology for TopologyServer {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::MapUpdate, Status>> + Send>>;

    async fn get(
        &self,
        request: Request<pb::MapRequest>,
    ) -> Result<Response<pb::MapUpdate>, Status> {
        let pb::MapRequest {
            cluster_id,
            version,
        } = request.into_inner();
        let update = MapUpdate::since(&self.feed.map(), &cluster_id, MapVersion(version));
        Ok(Response::new(self.side.sees((&update).into())))
    }

    async fn watch(
        &self,
        request: Request<pb::MapRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller_of(request.extensions());
        let pb::MapRequest {
            cluster_id,
            version,
        } = request.into_inner();
        let mut changes = self.feed.versions.subscribe();
        // The first update comes at once, changed or not.
        changes.mark_changed();
        let side = self.side;
        let state = (
            self.feed.clone(),
            changes,
            cluster_id,
            MapVersion(version),
            caller,
        );
        let updates = futures::stream::unfold(
            state,
            move |(feed, mut changes, mut cluster_id, mut version, mut caller)| async move {
                changes.changed().await.ok()?;
                caller.refresh();
                if !caller.is_let_in() {
                    return None;
                }
                changes.mark_unchanged();
                let map = feed.map();
                let update = MapUpdate::since(&map, &cluster_id, version);
                cluster_id.clone_from(&map.cluster_id);
                version = map.version;
                let message = side.sees(pb::MapUpdate::from(&update));
                Some((Ok(message), (feed, changes, cluster_id, version, caller)))
            },
        );
        let ended = self.shutdown.clone().cancelled_owned();
        Ok(Response::new(Box::pin(updates.take_until(ended))))
    }
}
