//! The one place where the node's map changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{MapVersion, Micros, NodeId};
use cairn_core::record::{ClusterMap, NodeInfo};
use cairn_core::replication::Event;
use cairn_proto::map::{ApplyError, MapUpdate};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{EngineHandle, PeerLink, PeerMap, SharedMap, map_file};

/// How long the coordinators' own push of a map is waited for before a peer is
/// asked for it.
const PEER_PATIENCE: Duration = Duration::from_millis(100);
/// How long a peer may take to send its map.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before a map that could not be fetched is asked for again.
const FETCH_RETRY: Duration = Duration::from_millis(500);
/// The shortest time between two writes of the map.
const SAVE_SPACING: Duration = Duration::from_secs(1);
/// How long to wait before a map that could not be written is written again.
const SAVE_RETRY: Duration = Duration::from_secs(1);

/// The node's map, and who is told when it changes.
pub(super) struct Maps {
    shared: SharedMap,
    engine: EngineHandle,
    peers: Arc<dyn PeerLink>,
    /// Updates come from the session and from peers: one at a time.
    changing: Mutex<()>,
    newest: watch::Sender<Arc<ClusterMap>>,
}

impl Maps {
    pub(super) fn new(
        shared: SharedMap,
        engine: EngineHandle,
        peers: Arc<dyn PeerLink>,
        file: PathBuf,
        saved: SavedMap,
    ) -> (Self, Saver, watch::Receiver<SavedMap>) {
        let (newest, receiver) = watch::channel(shared.load_full());
        let maps = Self {
            shared,
            engine,
            peers,
            changing: Mutex::new(()),
            newest,
        };
        let (saved, on_disk) = watch::channel(saved);
        let saver = Saver {
            newest: receiver,
            engine: maps.engine.clone(),
            file,
            saved,
            saved_nodes: Nodes::new(),
            spacing: SAVE_SPACING,
        };
        (maps, saver, on_disk)
    }

    pub(super) fn current(&self) -> Arc<ClusterMap> {
        self.shared.load_full()
    }

    pub(super) fn version(&self) -> MapVersion {
        self.shared.load().version
    }

    pub(super) fn cluster_id(&self) -> String {
        self.shared.load().cluster_id.clone()
    }

    /// Takes an update. Another cluster's is refused, an older one is passed over.
    pub(super) fn offer(&self, update: MapUpdate) -> Result<(), ApplyError> {
        let _changing = self.changing.lock();
        let Some(map) = update.apply(&self.shared.load())? else {
            return Ok(());
        };
        tracing::debug!(version = %map.version, "a newer map");
        metrics::gauge!("cairn_agent_map_version").set(map.version.0 as f64);
        self.shared.store(Arc::clone(&map));
        self.engine.0.set_map(Arc::clone(&map));
        self.peers.map_changed();
        self.newest.send_replace(map);
        Ok(())
    }
}

/// What of the map is on disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SavedMap {
    /// Its version.
    pub version: MapVersion,
    /// The longest lease that it tells of, in milliseconds. A process that starts
    /// reckons with that one (rule 5), so that no longer one may be granted under.
    pub lease_ms_longest: u64,
}

impl SavedMap {
    pub(super) fn of(map: &ClusterMap) -> Self {
        Self {
            version: map.version,
            lease_ms_longest: map.settings.as_ref().map_or(0, |s| s.lease_ms_longest),
        }
    }
}

/// The identities that may speak to this node, and where they are.
type Nodes = BTreeMap<NodeId, Arc<NodeInfo>>;

/// Writes the newest map to disk, off the runtime's threads: soon after it came, but
/// not each one while many come, as in a failover, when the disk has better to do. The
/// last one always is, and at once those that tell of a longer lease or of other nodes: a
/// process that starts knows its peers by what is on the disk, and from any of them it
/// hears the rest (rules 14 and 15).
#[derive(Debug)]
pub(super) struct Saver {
    newest: watch::Receiver<Arc<ClusterMap>>,
    engine: EngineHandle,
    file: PathBuf,
    saved: watch::Sender<SavedMap>,
    /// The nodes in the map that was written last; none before that.
    saved_nodes: Nodes,
    spacing: Duration,
}

impl Saver {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut last: Option<Instant> = None;
        if self.saved.borrow().version < self.newest.borrow().version {
            self.newest.mark_changed();
        }
        loop {
            let stopping = tokio::select! {
                () = shutdown.cancelled() => true,
                changed = self.newest.changed() => changed.is_err(),
            };
            let stopping = stopping || self.rest(last, &shutdown).await;
            if stopping && SavedMap::of(&self.newest.borrow()) == *self.saved.borrow() {
                return;
            }
            let map = Arc::clone(&self.newest.borrow_and_update());
            let saved = SavedMap::of(&map);
            let file = self.file.clone();
            let longest = map.settings.as_ref().map(|s| s.lease_ms_longest);
            let nodes = map.nodes.clone();
            let written = tokio::task::spawn_blocking(move || map_file::write(&file, &map)).await;
            last = Some(Instant::now());
            match written {
                Ok(Ok(())) => {
                    // A grant may be no longer than what the next start waits out, and
                    // that start knows what is on the disk (rule 5).
                    if let Some(longest) = longest.map(Micros::from_millis) {
                        self.engine.0.submit(Event::LeaseKept { longest });
                    }
                    self.saved_nodes = nodes;
                    self.saved.send_replace(saved);
                }
                Ok(Err(error)) => {
                    // The map is a cache, and the disk may be full: not fatal.
                    tracing::warn!(%error, file = %self.file.display(), "write the map");
                    if stopping {
                        return;
                    }
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        () = sleep(SAVE_RETRY) => {}
                    }
                    self.newest.mark_changed();
                }
                Err(error) => {
                    tracing::warn!(%error, "write the map");
                    return;
                }
            }
        }
    }

    /// Waits until the next map may be written; whether the agent is to stop.
    async fn rest(&mut self, last: Option<Instant>, shutdown: &CancellationToken) -> bool {
        let Some(last) = last else {
            return false;
        };
        let rested = sleep_until(last + self.spacing);
        tokio::pin!(rested);
        loop {
            let urgent = {
                let map = self.newest.borrow_and_update();
                SavedMap::of(&map).lease_ms_longest > self.saved.borrow().lease_ms_longest
                    || map.nodes != self.saved_nodes
            };
            if urgent {
                return false;
            }
            tokio::select! {
                () = shutdown.cancelled() => return true,
                () = &mut rested => return false,
                changed = self.newest.changed() => if changed.is_err() {
                    return true;
                },
            }
        }
    }
}

/// Fetches newer maps from peers that have one: configurations reach a node even
/// where the coordinators do not (rule 15).
pub(super) async fn follow_peers(
    maps: Arc<Maps>,
    mut heard: watch::Receiver<PeerMap>,
    peers: Arc<dyn PeerLink>,
    shutdown: CancellationToken,
) {
    let mut retry = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(FETCH_RETRY), if retry => {}
            changed = heard.changed() => if changed.is_err() {
                // Nobody is left who could say anything.
                return;
            },
        }
        retry = false;
        let newer = |heard: &PeerMap| heard.filter(|(_, version)| *version > maps.version());
        if newer(&heard.borrow()).is_none() {
            continue;
        }
        sleep(PEER_PATIENCE).await;
        let Some((peer, version)) = newer(&heard.borrow_and_update()) else {
            continue;
        };
        let outcome = match timeout(FETCH_TIMEOUT, peers.fetch_map(peer)).await {
            Ok(Ok(map)) => maps.offer(MapUpdate::Full(map)).map_err(|e| e.to_string()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err("no answer in time".to_owned()),
        };
        if let Err(error) = outcome {
            tracing::debug!(%peer, %version, error, "fetch a peer's map");
            retry = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use cairn_core::cluster::settings::SettingsRequest;
    use cairn_core::record::{Addresses, NodeStanding};

    use super::*;

    /// An engine that notes how long a lease it may grant.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<Micros>>);

    impl crate::agent::EngineLink for Kept {
        fn submit(&self, event: Event) {
            if let Event::LeaseKept { longest } = event {
                self.0.lock().push(longest);
            }
        }

        fn statuses(
            &self,
            _full: bool,
        ) -> futures::future::BoxFuture<'static, Vec<cairn_core::cluster::report::PartitionStatus>>
        {
            Box::pin(async { Vec::new() })
        }

        fn set_map(&self, _map: Arc<ClusterMap>) {}
    }

    fn map(version: u64, lease_ms_longest: u64) -> Arc<ClusterMap> {
        let mut settings = SettingsRequest::default().resolve().unwrap().settings;
        settings.lease_ms_longest = lease_ms_longest;
        Arc::new(ClusterMap {
            cluster_id: "c".to_owned(),
            version: MapVersion(version),
            settings: Some(Arc::new(settings)),
            ..ClusterMap::default()
        })
    }

    fn with_a_node(map: Arc<ClusterMap>) -> Arc<ClusterMap> {
        let mut map = Arc::unwrap_or_clone(map);
        let node = NodeInfo {
            id: NodeId(1),
            uuid: "u".to_owned(),
            incarnation: "i".to_owned(),
            name: "data-0".to_owned(),
            addresses: Addresses::default(),
            zone: String::new(),
            weight: 100,
            standing: NodeStanding::Member,
            features: 0,
            changed_at: MapVersion(51),
        };
        map.nodes.insert(node.id, Arc::new(node));
        Arc::new(map)
    }

    /// A saver that waits for longer than any test between two writes.
    #[tokio::test]
    async fn maps_are_written_at_intervals_but_what_a_start_relies_on_at_once_and_the_last_always()
    {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("map");
        let (newest, receiver) = watch::channel(map(1, 400));
        let (saved, mut on_disk) = watch::channel(SavedMap::default());
        let kept = Arc::new(Kept::default());
        let saver = Saver {
            newest: receiver,
            engine: EngineHandle(Arc::clone(&kept) as Arc<dyn crate::agent::EngineLink>),
            file: file.clone(),
            saved,
            saved_nodes: Nodes::new(),
            spacing: Duration::from_secs(3_600),
        };
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(saver.run(shutdown.clone()));
        // The one that came with the admission, before anything changed.
        on_disk.wait_for(|s| s.version.0 == 1).await.unwrap();
        for version in 2..50 {
            newest.send_replace(map(version, 400));
            tokio::task::yield_now().await;
        }
        newest.send_replace(map(50, 900));
        on_disk.changed().await.unwrap();
        assert_eq!(on_disk.borrow_and_update().lease_ms_longest, 900);
        newest.send_replace(with_a_node(map(51, 900)));
        on_disk.changed().await.unwrap();
        assert_eq!(on_disk.borrow_and_update().version, MapVersion(51));
        let last = with_a_node(map(52, 900));
        newest.send_replace(Arc::clone(&last));
        tokio::task::yield_now().await;
        shutdown.cancel();
        running.await.unwrap();
        assert_eq!(on_disk.borrow().version, MapVersion(52));
        let told = kept.0.lock().clone();
        assert_eq!(told, [400, 900, 900, 900].map(Micros::from_millis));
        assert_eq!(map_file::read(&file).unwrap().unwrap(), *last);
    }
}
