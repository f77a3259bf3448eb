//! The one place where the node's map changes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cairn_core::ids::{MapVersion, Micros};
use cairn_core::record::ClusterMap;
use cairn_core::replication::Event;
use cairn_proto::map::{ApplyError, MapUpdate};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{EngineHandle, PeerLink, PeerMap, SharedMap, map_file};

/// How long the coordinators' own push of a map is waited for before a peer is
/// asked for it.
const PEER_PATIENCE: Duration = Duration::from_millis(100);
/// How long a peer may take to send its map.
const FETCH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before a map that could not be fetched is asked for again.
const FETCH_RETRY: Duration = Duration::from_millis(500);
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
    ) -> (Self, Saver) {
        let (newest, receiver) = watch::channel(shared.load_full());
        let maps = Self {
            shared,
            engine,
            peers,
            changing: Mutex::new(()),
            newest,
        };
        let saver = Saver {
            newest: receiver,
            engine: maps.engine.clone(),
            file,
        };
        (maps, saver)
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

/// Writes the newest map to disk whenever there is one, off the runtime's threads.
#[derive(Debug)]
pub(super) struct Saver {
    newest: watch::Receiver<Arc<ClusterMap>>,
    engine: EngineHandle,
    file: PathBuf,
}

impl Saver {
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let stopping = tokio::select! {
                () = shutdown.cancelled() => true,
                changed = self.newest.changed() => changed.is_err(),
            };
            if stopping && !self.newest.has_changed().unwrap_or(false) {
                return;
            }
            let map = Arc::clone(&self.newest.borrow_and_update());
            let file = self.file.clone();
            let longest = map.settings.as_ref().map(|s| s.lease_ms_longest);
            let written = tokio::task::spawn_blocking(move || map_file::write(&file, &map)).await;
            match written {
                Ok(Ok(())) => {
                    // A grant may be no longer than what the next start waits out, and
                    // that start knows what is on the disk (rule 5).
                    if let Some(longest) = longest.map(Micros::from_millis) {
                        self.engine.0.submit(Event::LeaseKept { longest });
                    }
                }
                Ok(Err(error)) => {
                    // The map is a cache, and the disk may be full: not fatal.
                    tracing::warn!(%error, file = %self.file.display(), "write the map");
                    if stopping {
                        return;
                    }
                    sleep(SAVE_RETRY).await;
                    self.newest.mark_changed();
                }
                Err(error) => {
                    tracing::warn!(%error, "write the map");
                    return;
                }
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
