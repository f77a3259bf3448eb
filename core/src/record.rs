//! What the coordinators decide of a partition, and the map made of it.
//!
//! A [`PartitionRecord`] is ordered by `(epoch, revision)`: whoever holds a newer
//! one keeps it, from whichever node it came. Records exist only once the
//! coordinators' Raft log has committed them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::counters::Declared;
use crate::ids::{Epoch, MapVersion, NodeId, PartitionId, ReplicaId};
use crate::kv::request::ReadLevel;
use crate::seeded::{Bug, is_seeded};

/// One replica and where it lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// The node that holds it.
    pub node: NodeId,
    /// The replica, never used again once it left.
    pub replica: ReplicaId,
}

/// The replicas that count for quorums, the primary included.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ReplicaSet {
    /// N members.
    pub members: Vec<Member>,
    /// W: how many of them, the primary included, an entry must be flushed on.
    pub write_quorum: u8,
}

impl ReplicaSet {
    /// N.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is no member at all, which no valid record has.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// W.
    #[must_use]
    pub fn write_quorum(&self) -> usize {
        usize::from(self.write_quorum)
    }

    /// N-W+1: how many replicas meet every set of W (rule 2).
    #[must_use]
    pub fn inspection_quorum(&self) -> usize {
        if is_seeded(Bug::InspectMajority) {
            return self.len() / 2 + 1;
        }
        self.len() + 1 - self.write_quorum().min(self.len())
    }

    /// How many replicas, the primary included, must have granted the lease
    /// (rule 5): W, or a majority where W is 1. Never fewer than W, so that whoever holds
    /// the lease can write too.
    #[must_use]
    pub fn lease_quorum(&self) -> usize {
        if self.write_quorum == 1 {
            self.len() / 2 + 1
        } else {
            self.write_quorum()
        }
    }

    /// Whether the replica is a member.
    #[must_use]
    pub fn contains(&self, replica: ReplicaId) -> bool {
        self.members.iter().any(|m| m.replica == replica)
    }
}

/// The configuration of a partition in one epoch.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The set in force; while joint, the old one.
    pub current: ReplicaSet,
    /// While joint: the set that is to follow. Quorums count in both.
    pub joint: Option<ReplicaSet>,
    /// Replicas that receive the log and count nowhere. Members of `joint` are
    /// voters and not listed here.
    pub learners: Vec<Member>,
    /// Copies for reads alone: they receive the log, count nowhere either, and are not on
    /// their way to becoming members. They answer reads of the levels `replica` and `any`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub readers: Vec<Member>,
}

impl Configuration {
    /// The sets in force: one, or two while joint.
    pub fn sets(&self) -> impl Iterator<Item = &ReplicaSet> {
        std::iter::once(&self.current).chain(self.joint.as_ref())
    }

    /// Every voter once, in a stable order.
    #[must_use]
    pub fn voters(&self) -> Vec<Member> {
        let mut all: Vec<Member> = self
            .sets()
            .flat_map(|s| s.members.iter().copied())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Every replica once, learners and copies for reads included.
    #[must_use]
    pub fn replicas(&self) -> Vec<Member> {
        let mut all = self.voters();
        all.extend(self.learners.iter().chain(&self.readers).copied());
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Replicas that are being made: the learners, and those of the set to come that are
    /// not in the one in force.
    pub fn in_the_making(&self) -> impl Iterator<Item = Member> {
        let joining = self.joint.iter().flat_map(|set| &set.members);
        let joining = joining.filter(|m| !self.current.members.contains(m));
        self.learners.iter().chain(joining).copied()
    }

    /// The replica of this partition that `node` is to hold, if any.
    ///
    /// Where a damaged replica is replaced on its own node, both are listed for a
    /// while: the newer one is meant, the older one counts as absent (rule 12).
    #[must_use]
    pub fn on_node(&self, node: NodeId) -> Option<Member> {
        self.sets()
            .flat_map(|s| s.members.iter())
            .chain(self.learners.iter())
            .chain(self.readers.iter())
            .filter(|m| m.node == node)
            .max_by_key(|m| m.replica)
            .copied()
    }

    /// Who may answer reads that any replica may: the voters, and the copies for reads.
    #[must_use]
    pub fn answering_reads(&self) -> Vec<Member> {
        let mut all = self.voters();
        all.extend(self.readers.iter().copied());
        all
    }

    /// Whether the replica is a copy for reads alone.
    #[must_use]
    pub fn is_reader(&self, replica: ReplicaId) -> bool {
        self.readers.iter().any(|m| m.replica == replica)
    }

    /// Whether the replica counts for quorums.
    #[must_use]
    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.sets().any(|s| s.contains(replica))
    }
}

/// A contiguous range of slots, both ends included.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub first: u16,
    /// Last slot.
    pub last: u16,
}

impl SlotRange {
    /// Whether the slot is inside.
    #[must_use]
    pub fn contains(&self, slot: u16) -> bool {
        (self.first..=self.last).contains(&slot)
    }
}

/// All that the coordinators have decided of one partition.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct PartitionRecord {
    /// Which partition.
    pub id: PartitionId,
    /// Its slots, fixed for the life of the cluster.
    pub slots: SlotRange,
    /// The epoch. Raised by every fence and every change of a voter set.
    pub epoch: Epoch,
    /// Counts the changes within an epoch: naming the primary, learners.
    pub revision: u64,
    /// Who votes, who learns, W.
    pub config: Configuration,
    /// The primary of this epoch. Named at most once per epoch, never changed
    /// within it.
    pub primary: Option<Member>,
    /// Whether `config.current` has fewer members, or a lower W, than the
    /// cluster is configured for (rule 10).
    pub degraded: bool,
    /// The map version that changed this record last.
    pub changed_at: MapVersion,
}

impl PartitionRecord {
    /// The order of records: a newer one replaces an older one.
    #[must_use]
    pub fn order(&self) -> (Epoch, u64) {
        (self.epoch, self.revision)
    }
}

/// Where a data node listens. Host names or IP addresses, with a port.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Addresses {
    /// RESP, for Redis clients.
    pub resp: String,
    /// gRPC, for clients.
    pub client: String,
    /// gRPC, between nodes.
    pub peer: String,
    /// HTTP: health and metrics.
    pub http: String,
    /// The host name, without a port, that Redis clients are told besides the host of
    /// `resp`; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resp_hostname: String,
    /// The IP address that `client` and `peer` name, while a resolver may still answer with
    /// the one before; `None` where the node does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpAddr>,
    /// Where clients reach it that are not on its network. In a box: few nodes have any.
    #[serde(default, skip_serializing_if = "OutsideAddresses::is_empty")]
    pub outside: Box<OutsideAddresses>,
}

/// Where clients reach a data node that are not on its network. Each is empty where there is
/// no such way.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct OutsideAddresses {
    /// RESP, for Redis clients.
    #[serde(default)]
    pub resp: String,
    /// gRPC, for clients.
    #[serde(default)]
    pub client: String,
}

impl OutsideAddresses {
    /// Whether it cannot be reached from outside at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.resp.is_empty() && self.client.is_empty()
    }
}

/// Whether an admitted identity may still come back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum NodeStanding {
    /// A member.
    Member,
    /// Gone for good: its name has a new identity, or an admin said so. It is
    /// never admitted again and its replicas are replaced.
    Gone,
}

/// A data node as the coordinators know it. Its health is not here: that is the
/// leader's observation, not a decision.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeInfo {
    /// The number that the coordinators gave it.
    pub id: NodeId,
    /// The node's UUID, drawn when its empty disk was first used.
    pub uuid: String,
    /// The incarnation's UUID, drawn at the same time.
    pub incarnation: String,
    /// Its label, for people and for Kubernetes.
    pub name: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its zone; empty where unknown.
    pub zone: String,
    /// Its share of the data, relative to the others; 100 is usual.
    pub weight: u32,
    /// Whether it may come back.
    pub standing: NodeStanding,
    /// The features that it understands (rule 18).
    pub features: u64,
    /// The map version that changed this entry last.
    pub changed_at: MapVersion,
}

/// A coordinator, as others reach it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct CoordinatorInfo {
    /// Its label.
    pub name: String,
    /// gRPC, between nodes: `host:port`.
    pub peer: String,
    /// gRPC, for clients: `host:port`.
    pub client: String,
}

/// The settings of the whole cluster, agreed through Raft.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ClusterSettings {
    /// RF, 1 to 7.
    pub replication_factor: u8,
    /// W.
    pub write_quorum: u8,
    /// The fewest members that a shrunken configuration may have.
    pub min_in_sync: u8,
    /// How many partitions; fixed when the cluster is made.
    pub partitions: u32,
    /// Virtual nodes of a node of weight 100.
    pub virtual_nodes: u32,
    /// How many data nodes must have registered before the table is made.
    pub initial_data_nodes: u32,
    /// How long a replica's grant lasts, in milliseconds.
    pub lease_ms: u64,
    /// The longest `lease_ms` that this cluster ever had.
    pub lease_ms_longest: u64,
    /// How many sequenced writes a partition remembers (rule 8).
    pub idempotence_window: u32,
    /// How long a node may be silent before it counts as down, in milliseconds.
    pub node_timeout_ms: u64,
    /// The level of reads that name none.
    #[serde(default)]
    pub read_level: ReadLevel,
    /// R: how many replicas a quorum read asks at least; N-W+1 where that is more.
    #[serde(default)]
    pub read_quorum: u8,
    /// How long a node may stay away before its replicas are made anew elsewhere, in
    /// milliseconds.
    #[serde(default = "replace_after_ms")]
    pub replace_after_ms: u64,
    /// The most replicas that are made at a time on one node, and of one node's partitions.
    #[serde(default = "moves_per_node")]
    pub moves_per_node: u8,
    /// Which keys may become striped counters, as [`crate::counters::Declared`] spells it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub counters: String,
}

impl ClusterSettings {
    /// Which keys may become striped counters; none where it cannot be read, which no
    /// settings are that were agreed on.
    #[must_use]
    pub fn declared_counters(&self) -> Declared {
        Declared::parse(&self.counters).unwrap_or_default()
    }
}

// What clusters have that were made before these settings.
fn replace_after_ms() -> u64 {
    crate::cluster::settings::REPLACE_AFTER_MS_DEFAULT
}

fn moves_per_node() -> u8 {
    crate::cluster::settings::MOVES_PER_NODE_DEFAULT
}

/// The map: what clients and data nodes cache. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The cluster's id, drawn when it was made; empty before.
    pub cluster_id: String,
    /// The version.
    pub version: MapVersion,
    /// The settings, once the cluster was made.
    pub settings: Option<Arc<ClusterSettings>>,
    /// Every identity ever admitted, by number.
    pub nodes: BTreeMap<NodeId, Arc<NodeInfo>>,
    /// The table, indexed by partition; empty until it was made.
    pub partitions: Vec<Arc<PartitionRecord>>,
    /// The voters of the coordinators' group, ascending by name; empty until their
    /// leader has noted them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub coordinators: Vec<CoordinatorInfo>,
}

impl ClusterMap {
    /// The partition that holds a slot.
    ///
    /// Ranges are contiguous and ascending, so that this is a binary search.
    #[must_use]
    pub fn partition_of_slot(&self, slot: u16) -> Option<&Arc<PartitionRecord>> {
        let at = self.partitions.partition_point(|p| p.slots.last < slot);
        self.partitions.get(at).filter(|p| p.slots.contains(slot))
    }
}
