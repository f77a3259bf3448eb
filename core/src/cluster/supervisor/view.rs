//! What the leader was told by each data node: the statuses of its replicas.
//!
//! A status is believed only while its node is up. What a node that is down said last
//! is kept to tell what may have been lost with it (rule 9), for nothing else.

use std::collections::{BTreeMap, BTreeSet};

use crate::cluster::failure_detector::{FailureDetector, Health};
use crate::cluster::report::{
    FollowerStatus, Heartbeat, HeatReport, NodeFigures, PartitionStatus, Role, Wish,
};
use crate::ids::{MapVersion, Micros, NodeId, PartitionId};
use crate::record::{Member, PartitionRecord};

/// For how long what a node told of its heat is believed: it is told anew each second.
const HEAT_FOR: Micros = Micros::from_millis(5_000);

#[derive(Clone, Debug, Default)]
pub(super) struct NodeView {
    /// Whether a full heartbeat came since the stream was opened.
    complete: bool,
    /// The process that spoke last, and the number of its last heartbeat.
    last: Option<(u64, u64)>,
    map_version: MapVersion,
    statuses: BTreeMap<PartitionId, PartitionStatus>,
    pub(super) draining: bool,
    pub(super) disk_full: bool,
    figures: Option<NodeFigures>,
    /// What was hot on it, and when that was told.
    heat: Option<(Micros, HeatReport)>,
}

/// Every node's view, and which of them are up.
#[derive(Debug)]
pub(super) struct Views {
    pub(super) detector: FailureDetector,
    nodes: BTreeMap<NodeId, NodeView>,
}

impl Views {
    pub(super) fn new(timeout: Micros) -> Self {
        Self {
            detector: FailureDetector::new(timeout),
            nodes: BTreeMap::new(),
        }
    }

    pub(super) fn set_members(&mut self, now: Micros, members: &BTreeSet<NodeId>) {
        self.detector.set_members(now, members);
        self.nodes.retain(|node, _| members.contains(node));
        for node in members {
            self.nodes.entry(*node).or_default();
        }
    }

    pub(super) fn stream_opened(&mut self, now: Micros, node: NodeId) {
        self.detector.stream_opened(now, node);
        if let Some(view) = self.nodes.get_mut(&node) {
            view.complete = false;
        }
    }

    pub(super) fn stream_closed(&mut self, node: NodeId) {
        self.detector.stream_closed(node);
        if let Some(view) = self.nodes.get_mut(&node) {
            view.complete = false;
        }
    }

    /// Takes a heartbeat. Tells which partitions it says something new about, and
    /// whether the process restarted.
    pub(super) fn heartbeat(
        &mut self,
        now: Micros,
        heartbeat: Heartbeat,
        partitions: usize,
    ) -> Heard {
        let Heartbeat {
            node,
            session,
            sequence,
            map_version,
            unreachable,
            silent_client_ports,
            disk_full,
            draining,
            figures,
            heat,
            full,
            partitions: statuses,
        } = heartbeat;
        let Some(view) = self.nodes.get_mut(&node) else {
            return Heard::default();
        };
        // One that was overtaken, by another of the same stream or of the stream that
        // took its place, tells of what is no more: its statuses would bring back what
        // a full heartbeat replaced.
        if view
            .last
            .is_some_and(|(process, last)| process == session && sequence <= last)
        {
            return Heard::default();
        }
        view.last = Some((session, sequence));
        let restarted = self.detector.heartbeat(now, node, session, unreachable);
        self.detector.silent_client_ports(node, silent_client_ports);
        let mut heard = Heard {
            restarted,
            ..Heard::default()
        };
        if restarted {
            view.complete = false;
        }
        if view.draining != draining {
            heard.changed.extend(view.statuses.keys());
        }
        view.map_version = map_version;
        view.draining = draining;
        view.disk_full = disk_full;
        view.figures = figures;
        if let Some(heat) = heat {
            view.heat = Some((now, *heat));
        }
        if full {
            heard.changed.extend(view.statuses.keys());
            view.statuses.clear();
            view.complete = true;
        }
        if !view.complete {
            // Changes to something that was never told whole.
            return heard;
        }
        for status in statuses {
            if (status.partition.0 as usize) < partitions {
                heard.changed.insert(status.partition);
                view.statuses.insert(status.partition, status);
            }
        }
        heard
    }

    pub(super) fn health(&self, node: NodeId) -> Health {
        self.detector.health(node)
    }

    pub(super) fn is_up(&self, node: NodeId) -> bool {
        self.health(node) == Health::Up
    }

    pub(super) fn is_draining(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|v| v.draining)
    }

    pub(super) fn is_full(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|v| v.disk_full)
    }

    /// Whether the node has seen that version of the map, or is down, so that it tells
    /// nothing.
    pub(super) fn has_seen(&self, node: NodeId, version: MapVersion) -> bool {
        self.health(node).is_down()
            || self
                .nodes
                .get(&node)
                .is_some_and(|view| self.is_up(node) && view.map_version >= version)
    }

    /// The disk and the load of a node, as it told last.
    pub(super) fn figures(&self, node: NodeId) -> Option<NodeFigures> {
        self.nodes.get(&node)?.figures
    }

    /// What is hot, as each node told not long ago.
    pub(super) fn heat(&self, now: Micros) -> impl Iterator<Item = (NodeId, &HeatReport)> {
        self.nodes.iter().filter_map(move |(node, view)| {
            let (at, heat) = view.heat.as_ref()?;
            (now.minus(*at) <= HEAT_FOR).then_some((*node, heat))
        })
    }

    /// The status of a replica, from a node that is up and has told everything.
    pub(super) fn status(
        &self,
        partition: PartitionId,
        member: Member,
    ) -> Option<&PartitionStatus> {
        self.nodes
            .get(&member.node)
            .filter(|view| view.complete && self.is_up(member.node))
            .and_then(|view| view.statuses.get(&partition))
            .filter(|status| status.replica == member.replica)
    }

    /// What was last told of a replica, however long ago.
    pub(super) fn last_status(
        &self,
        partition: PartitionId,
        member: Member,
    ) -> Option<&PartitionStatus> {
        self.nodes
            .get(&member.node)
            .and_then(|view| view.statuses.get(&partition))
            .filter(|status| status.replica == member.replica)
    }

    /// Whether the node has told everything, knows of the record, and does not list
    /// the replica that the record puts there.
    pub(super) fn is_missing(&self, record: &PartitionRecord, member: Member) -> bool {
        let told = self.nodes.get(&member.node).is_some_and(|view| {
            view.complete && self.is_up(member.node) && view.map_version >= record.changed_at
        });
        told && self.status(record.id, member).is_none()
    }

    /// How the primary of the record's epoch stands, as it says itself.
    pub(super) fn primary_status(&self, record: &PartitionRecord) -> Option<&PartitionStatus> {
        record
            .primary
            .and_then(|primary| self.status(record.id, primary))
            .filter(|status| status.epoch == record.epoch)
    }

    /// Whether the partition has a primary that serves.
    pub(super) fn is_serving(&self, record: &PartitionRecord) -> bool {
        self.primary_status(record)
            .is_some_and(|status| status.role == Role::Primary && status.wish == Wish::None)
    }

    /// Whether enough members answer the primary for it to hold its lease and to
    /// acknowledge a write.
    pub(super) fn has_quorum(&self, record: &PartitionRecord) -> bool {
        let answers = |m: &Member| {
            record.primary == Some(*m) || self.follower(record, *m).is_some_and(|f| f.answering)
        };
        record.config.sets().all(|set| {
            let have = set.members.iter().filter(|m| answers(m)).count();
            have >= set.lease_quorum()
        })
    }

    /// What the primary says of another replica.
    pub(super) fn follower(
        &self,
        record: &PartitionRecord,
        member: Member,
    ) -> Option<&FollowerStatus> {
        self.primary_status(record)?
            .followers
            .iter()
            .find(|f| f.replica == member.replica)
    }

    /// Whether the replica found damage.
    pub(super) fn is_corrupt(&self, partition: PartitionId, member: Member) -> bool {
        self.status(partition, member)
            .is_some_and(|status| status.wish == Wish::Replace)
    }
}

/// What a heartbeat told.
#[derive(Debug, Default)]
pub(super) struct Heard {
    pub(super) changed: BTreeSet<PartitionId>,
    pub(super) restarted: bool,
}
