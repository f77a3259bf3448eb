//! How the rest of the data node speaks to the agent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cairn_core::cluster::report::{HeatReport, NodeFigures, ReplicaReport};
use cairn_core::ids::{MapVersion, NodeId};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, watch};

use super::PeerMap;

/// How many reports may wait: as many as there can be orders.
const REPORTS_MAX: usize = 16_384;

/// How the rest of the data node speaks to the agent. Cheap to clone; nothing here
/// blocks.
#[derive(Clone, Debug)]
pub struct AgentInbox {
    reports: mpsc::Sender<ReplicaReport>,
    shared: Arc<Shared>,
    peer_maps: Arc<watch::Sender<PeerMap>>,
}

/// The agent's end.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) reports: mpsc::Receiver<ReplicaReport>,
    pub(super) shared: Arc<Shared>,
    pub(super) peer_maps: watch::Receiver<PeerMap>,
}

/// What a heartbeat tells besides statuses.
#[derive(Debug, Default)]
pub(super) struct Shared {
    unreachable: Mutex<Vec<NodeId>>,
    silent_client_ports: Mutex<Vec<NodeId>>,
    disk_full: AtomicBool,
    figures: Mutex<Option<NodeFigures>>,
    heat: Mutex<Option<HeatReport>>,
    urgent: Notify,
}

impl Shared {
    pub(super) fn unreachable(&self) -> Vec<NodeId> {
        self.unreachable.lock().clone()
    }

    pub(super) fn silent_client_ports(&self) -> Vec<NodeId> {
        self.silent_client_ports.lock().clone()
    }

    /// The peers whose port for clients gives no answer, in order. A change is told at
    /// once.
    pub(super) fn set_silent_client_ports(&self, peers: Vec<NodeId>) {
        let mut known = self.silent_client_ports.lock();
        if *known != peers {
            *known = peers;
            self.urge();
        }
    }

    pub(super) fn disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Relaxed)
    }

    pub(super) fn figures(&self) -> Option<NodeFigures> {
        *self.figures.lock()
    }

    /// What was judged since it was told last.
    pub(super) fn take_heat(&self) -> Option<HeatReport> {
        self.heat.lock().take()
    }

    /// Waits until something is to be told before the next heartbeat is due.
    pub(super) async fn urgent(&self) {
        self.urgent.notified().await;
    }

    pub(super) fn urge(&self) {
        self.urgent.notify_one();
    }
}

/// Makes both ends.
pub(super) fn channel() -> (AgentInbox, Outbox) {
    let (reports, receiver) = mpsc::channel(REPORTS_MAX);
    let (peer_maps, heard) = watch::channel(None);
    let shared = Arc::new(Shared::default());
    (
        AgentInbox {
            reports,
            shared: Arc::clone(&shared),
            peer_maps: Arc::new(peer_maps),
        },
        Outbox {
            reports: receiver,
            shared,
            peer_maps: heard,
        },
    )
}

impl AgentInbox {
    /// An answer to an order ([`cairn_core::replication::Effect::Report`]).
    pub fn report(&self, report: ReplicaReport) {
        // What does not fit is asked for again.
        if self.reports.try_send(report).is_err() {
            metrics::counter!("cairn_agent_reports_dropped_total").increment(1);
        }
    }

    /// Something changed that the coordinators should hear before the next
    /// heartbeat is due: a wish, a role.
    pub fn urge(&self) {
        self.shared.urge();
    }

    /// The peers that give no answer right now. A change is told at once.
    pub fn set_unreachable(&self, mut peers: Vec<NodeId>) {
        peers.sort_unstable();
        peers.dedup();
        let mut known = self.shared.unreachable.lock();
        if *known != peers {
            *known = peers;
            self.shared.urge();
        }
    }

    /// Whether the node refuses writes for want of disk space.
    pub fn set_disk_full(&self, full: bool) {
        if self.shared.disk_full.swap(full, Ordering::Relaxed) != full {
            self.shared.urge();
        }
    }

    /// The node's disk and load: told with the next heartbeat.
    pub fn set_figures(&self, figures: NodeFigures) {
        *self.shared.figures.lock() = Some(figures);
    }

    /// What clients ask for most: told with the next heartbeat.
    pub fn set_heat(&self, report: HeatReport) {
        *self.shared.heat.lock() = Some(report);
    }

    /// Another node said which map it has.
    pub fn peer_map(&self, peer: NodeId, version: MapVersion) {
        self.peer_maps.send_if_modified(|known| {
            let before = known.map(|(_, v)| v).unwrap_or_default();
            // Of several that have it the last one to say so is asked: that one lives.
            if version >= before {
                *known = Some((peer, version));
            }
            version > before
        });
    }
}
