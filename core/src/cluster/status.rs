//! What people are shown: the status page and the command line.
//!
//! A view of one moment, made by [`super::Supervisor::status`] from the state and from
//! what data nodes told the leader. It decides nothing.

use serde::{Deserialize, Serialize};

use super::command::Loss;
use super::failure_detector::Health;
use super::rebalance::CopyMove;
use super::report::{CopyProgress, NodeFigures, Role};
use super::state::Leaving;
use super::supervisor::PromotionReason;
use crate::hot::PartitionLoad;
use crate::ids::{Epoch, Index, MapVersion, NodeId, PartitionId, Position};
use crate::record::{Member, NodeStanding, SlotRange};

/// The whole cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterStatus {
    /// Its id; empty before it was made.
    pub cluster_id: String,
    /// The version of the map.
    pub version: MapVersion,
    /// How many partitions are how.
    pub summary: Summary,
    /// Every identity, gone ones that still hold a seat included.
    pub nodes: Vec<NodeStatus>,
    /// Every partition.
    pub partitions: Vec<PartitionHealth>,
    /// What is being moved.
    #[serde(default)]
    pub rebalance: RebalanceStatus,
    /// What clients ask for most.
    #[serde(default)]
    pub heat: HeatStatus,
    /// Which features may be used now, and who holds the others back (rule 18).
    #[serde(default)]
    pub features: Vec<FeatureStatus>,
}

/// Whether a feature may be used now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureStatus {
    /// Which.
    pub name: String,
    /// Who holds it back, in a sentence; absent where everybody understands it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<String>,
}

/// The most partitions, and the most keys, that are shown as hot.
pub const HOT_SHOWN: usize = 16;

/// What clients ask for most, by what the data nodes told last.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeatStatus {
    /// Partitions that are asked far more than others, the hottest first.
    pub partitions: Vec<HotPartition>,
    /// The hottest keys of all nodes, the hottest first.
    pub keys: Vec<HotKeyStatus>,
    /// Copies for reads alone that there are.
    pub read_copies: usize,
}

/// A partition that is asked far more than others.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HotPartition {
    /// Which.
    pub partition: PartitionId,
    /// What it is asked.
    #[serde(flatten)]
    pub load: PartitionLoad,
    /// How many copies for reads alone it has.
    pub read_copies: usize,
}

/// A key that is hot, on all nodes together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HotKeyStatus {
    /// Where it belongs.
    pub partition: PartitionId,
    /// Its hash, or its name where nodes tell names; what of a name is no text is replaced.
    pub key: String,
    /// Reads of it in a second.
    pub reads_per_second: u64,
    /// Writes of it in a second.
    pub writes_per_second: u64,
    /// Bytes that those found and brought.
    pub bytes_per_second: u64,
    /// For how long it has been hot.
    pub hot_for_ms: u64,
}

/// What is being moved, and what is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RebalanceStatus {
    /// Whether moves are held back that no lost copy asks for.
    pub paused: bool,
    /// Whether the seats are those for the nodes that are to hold the data; if not, they
    /// are given anew in a moment, or there are too few nodes.
    pub planned: bool,
    /// Whether fewer nodes are there to hold replicas than the replication factor asks for.
    #[serde(default)]
    pub too_few_nodes: bool,
    /// Whether nobody is replaced because too many nodes are down at once.
    pub held_back: bool,
    /// Replicas that are being made.
    pub under_way: usize,
    /// Replicas that are still to be made, and wait.
    pub waiting: usize,
    /// Replicas that are still to go, or partitions whose W is still to change, without
    /// anything being copied.
    pub to_adjust: usize,
    /// About how many bytes are still to be copied, as far as sizes are known.
    pub bytes_left: u64,
}

impl RebalanceStatus {
    /// Whether every replica is where it belongs.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.planned && self.under_way == 0 && self.waiting == 0 && self.to_adjust == 0
    }
}

/// What has to be copied, and why.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// About how many bytes in all, as far as sizes are known.
    pub bytes: u64,
    /// Nodes whose disks are too small for it.
    pub no_room: Vec<NoRoom>,
    /// The replicas.
    pub copies: Vec<PlannedCopy>,
}

/// One replica that has to be made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedCopy {
    /// Which.
    #[serde(flatten)]
    pub copy: CopyMove,
    /// About how many bytes, where that is known.
    pub bytes: Option<u64>,
}

/// A node whose disk is too small for what it would get.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NoRoom {
    /// Which.
    pub node: NodeId,
    /// About how many bytes it would get.
    pub needed_bytes: u64,
    /// How many it may take.
    pub free_bytes: u64,
}

/// How many partitions are how.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// In all.
    pub partitions: usize,
    /// With a primary that serves.
    pub serving: usize,
    /// With fewer copies, or a lower W, than configured.
    pub degraded: usize,
    /// With a replica being made or a joint configuration.
    pub moving: usize,
    /// In which a set in force has too few whole members within reach to acknowledge a write,
    /// or to hold a lease.
    #[serde(default)]
    pub without_quorum: usize,
    /// In which a set in force has lost members from reach and can lose no other.
    #[serde(default)]
    pub without_spare: usize,
    /// How many entries the member that is furthest behind its primary lacks.
    #[serde(default)]
    pub lag_entries: u64,
    /// Data nodes that are up.
    pub nodes_up: usize,
    /// Data nodes that are members, and down.
    #[serde(default)]
    pub nodes_down: usize,
    /// Data nodes that are members.
    pub nodes: usize,
    /// Promotions from too few reports, ever (rule 9).
    pub lossy_promotions: u64,
}

/// One data node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// Its number.
    pub id: NodeId,
    /// Its label.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Whether it may come back.
    pub standing: NodeStanding,
    /// How the leader sees it.
    pub health: Health,
    /// For how long, in milliseconds.
    pub health_for_ms: u64,
    /// How long ago it was heard of, in milliseconds.
    pub heard_ms_ago: Option<u64>,
    /// It wants to hand over what it leads.
    pub draining: bool,
    /// It refuses writes for want of room.
    pub disk_full: bool,
    /// It is away on purpose until then, milliseconds since 1970 UTC.
    pub expected_back_unix_ms: Option<u64>,
    /// It gets no primary until then, milliseconds since 1970 UTC; 0 where it does.
    #[serde(default)]
    pub cordoned_until_unix_ms: u64,
    /// Partitions that it is primary of.
    pub leads: usize,
    /// Replicas on it.
    pub replicas: usize,
    /// Replicas that belong on it.
    #[serde(default)]
    pub seats: usize,
    /// Why it is to hold nothing, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaving: Option<Leaving>,
    /// Whether it drains and has said that nothing is left: then it may go.
    #[serde(default)]
    pub empty: bool,
    /// Its disk and its load, as it told last; absent where it did not yet.
    #[serde(flatten)]
    pub figures: Option<NodeFigures>,
}

/// How a partition is, the worst that applies first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartitionState {
    /// Nobody serves, and nothing is under way.
    Unserved,
    /// A new primary is being found.
    Promoting,
    /// Served, with fewer copies or a lower W than configured.
    Degraded,
    /// Served, while its configuration changes.
    Moving,
    /// Served, but a member does not answer.
    MemberSilent,
    /// As it should be.
    Healthy,
}

/// How far a promotion is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PromotionStep {
    /// Asking without effect.
    Asking,
    /// The epoch is being raised.
    Raising,
    /// Replicas promise and report, leases run out.
    Fencing,
    /// The primary is being named.
    Naming,
}

/// One partition.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionHealth {
    /// Which.
    pub partition: PartitionId,
    /// Its slots.
    pub slots: SlotRange,
    /// Its epoch.
    pub epoch: Epoch,
    /// How it is.
    pub state: PartitionState,
    /// Its primary.
    pub primary: Option<Member>,
    /// Whether the primary serves.
    pub serving: bool,
    /// W in force; the larger one while joint.
    pub write_quorum: u8,
    /// Whether it has fewer copies or a lower W than configured.
    pub degraded: bool,
    /// The promotion under way, and why.
    pub promotion: Option<(PromotionStep, PromotionReason)>,
    /// What may have been lost so far: promotions from too few reports.
    pub lossy_promotions: u64,
    /// What may have been lost so far: entries known of.
    pub lost: Loss,
    /// The nodes that it belongs on, preferred primary first.
    #[serde(default)]
    pub seats: Vec<NodeId>,
    /// What clients ask of it, where it is among the busiest of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<PartitionLoad>,
    /// Its replicas.
    pub replicas: Vec<ReplicaHealth>,
}

/// What a replica counts for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// A member of the set in force.
    Member,
    /// Receives the log and counts nowhere.
    Learner,
    /// A member of the set that is to follow only.
    Joining,
    /// A member of the old set only.
    Leaving,
}

/// One replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaHealth {
    /// Which, and where.
    pub member: Member,
    /// What it counts for.
    pub standing: Standing,
    /// Whether it is a copy for reads alone; it counts nowhere and is told as a learner.
    #[serde(default)]
    pub reader: bool,
    /// Whether its node is up.
    pub up: bool,
    /// What it says of itself, if its node is up.
    pub role: Option<Role>,
    /// Its last entry on disk, when last heard of.
    pub head: Option<Position>,
    /// The commit index that it knew.
    pub commit: Option<Index>,
    /// What it had applied.
    pub applied: Option<Index>,
    /// How many entries the primary knows it to lack.
    pub lag: Option<u64>,
    /// Whether it found damage.
    pub corrupt: bool,
    /// About how many bytes its state takes on its node's disk, when last heard of.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Of one that fetches a copy: how far that is.
    #[serde(flatten)]
    pub copying: Option<CopyProgress>,
}
