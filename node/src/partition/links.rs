//! What the engine hands things to: the peers, the agent, other nodes' snapshots;
//! and how it takes what the peers send.

use std::fmt;
use std::sync::Arc;

use cairn_core::cluster::report::{HeatReport, NodeFigures, ReplicaReport};
use cairn_core::ids::{MapVersion, NodeId};
use cairn_core::replication::{PeerMessage, SnapshotWanted};
use cairn_proto::trace::TracedEntry;
use futures::future::BoxFuture;

use super::handle::Handle;
use super::inbox::Input;
use crate::agent::AgentInbox;
use crate::peer::{self, PeerPool, PeerSink, SnapshotPart, SnapshotStream};

/// Sends messages to other nodes. Called by the engine: returns at once.
pub trait PeerLink: Send + Sync + 'static {
    /// Sends messages, in order. They may be lost.
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>);

    /// Tells of entries that are traced, with what is sent next.
    fn tell_traced(&self, _to: NodeId, _entries: Vec<TracedEntry>) {}
}

impl PeerLink for PeerPool {
    fn send(&self, to: NodeId, messages: Vec<PeerMessage>) {
        Self::send(self, to, messages);
    }

    fn tell_traced(&self, to: NodeId, entries: Vec<TracedEntry>) {
        Self::tell_traced(self, to, entries);
    }
}

/// The agent, as the engine knows it. Called by the engine: returns at once.
pub trait AgentLink: Send + Sync + 'static {
    /// An answer to an order.
    fn report(&self, report: ReplicaReport);

    /// Something changed that the coordinators should hear of soon.
    fn urge(&self);

    /// Whether the node refuses writes for want of disk space.
    fn disk_full(&self, full: bool);

    /// The node's disk and load, as of now.
    fn figures(&self, figures: NodeFigures);

    /// What clients ask for most, as judged just now.
    fn heat(&self, _report: HeatReport) {}

    /// Another node said which map it has.
    fn peer_map(&self, peer: NodeId, version: MapVersion);
}

impl AgentLink for AgentInbox {
    fn report(&self, report: ReplicaReport) {
        Self::report(self, report);
    }

    fn urge(&self) {
        Self::urge(self);
    }

    fn disk_full(&self, full: bool) {
        self.set_disk_full(full);
    }

    fn figures(&self, figures: NodeFigures) {
        self.set_figures(figures);
    }

    fn heat(&self, report: HeatReport) {
        self.set_heat(report);
    }

    fn peer_map(&self, peer: NodeId, version: MapVersion) {
        Self::peer_map(self, peer, version);
    }
}

/// A snapshot as it arrives.
pub trait SnapshotParts: Send {
    /// The next part. After the end, or an error, there is nothing to ask for.
    fn next(&mut self) -> BoxFuture<'_, Result<SnapshotPart, String>>;
}

impl SnapshotParts for SnapshotStream {
    fn next(&mut self) -> BoxFuture<'_, Result<SnapshotPart, String>> {
        Box::pin(async move { Self::next(self).await.map_err(|error| error.to_string()) })
    }
}

/// Fetches snapshots from other nodes.
pub trait SnapshotFetch: Send + Sync + 'static {
    /// Opens a snapshot of a replica on another node.
    fn fetch(
        &self,
        from: NodeId,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotParts>, String>>;
}

impl SnapshotFetch for PeerPool {
    fn fetch(
        &self,
        from: NodeId,
        wanted: SnapshotWanted,
    ) -> BoxFuture<'static, Result<Box<dyn SnapshotParts>, String>> {
        let pool = self.clone();
        Box::pin(async move {
            match pool.fetch_snapshot(from, &wanted).await {
                Ok(stream) => Ok(Box::new(stream) as Box<dyn SnapshotParts>),
                Err(error) => Err(error.to_string()),
            }
        })
    }
}

/// Everything that the engine hands things to.
#[derive(Clone)]
pub struct Links {
    /// The peers.
    pub peers: Arc<dyn PeerLink>,
    /// Their snapshots.
    pub snapshots: Arc<dyn SnapshotFetch>,
    /// The agent.
    pub agent: Arc<dyn AgentLink>,
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}

impl PeerSink for Handle {
    fn deliver(&self, from: NodeId, messages: Vec<PeerMessage>) -> Option<BoxFuture<'static, ()>> {
        let bytes = messages.iter().map(peer::weight).sum();
        let full = self.shared.peer_backlog.add(messages.len(), bytes);
        self.shared.inbox.push(Input::Peer {
            from,
            messages,
            bytes,
        });
        full.then(|| {
            let shared = Arc::clone(&self.shared);
            Box::pin(async move { shared.peer_backlog.room().await }) as BoxFuture<'static, ()>
        })
    }

    fn traced(&self, entries: Vec<TracedEntry>) {
        if self.shared.config.tracer.is_on() {
            self.shared.inbox.push_quietly(Input::Traced(entries));
        }
    }
}
