//! What data nodes and coordinators say to each other about partitions: orders
//! down, reports up. Shared by replication, which answers them, and by the
//! supervisor, which asks.

use serde::{Deserialize, Serialize};

use crate::hot::PartitionLoad;
use crate::ids::{Epoch, Index, MapVersion, Micros, NodeId, PartitionId, Position, ReplicaId};
use crate::record::Member;

/// What the coordinators ask of a replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Order {
    /// Say how you stand; changes nothing (rule 1: "first ask without effect").
    Ask {
        /// Which partition.
        partition: PartitionId,
        /// Comes back in the report.
        round: u64,
    },
    /// Promise the epoch durably, then report.
    Fence {
        /// Which partition.
        partition: PartitionId,
        /// The raised epoch, committed in the coordinators' log.
        epoch: Epoch,
        /// Comes back in the report.
        round: u64,
    },
    /// To a primary: stop serving, bring the successor up to your head, release
    /// your grants, then report [`Wish::HandedOver`] (rule 11).
    HandOver {
        /// Which partition.
        partition: PartitionId,
        /// The epoch in which the receiver is primary.
        epoch: Epoch,
        /// Who is to follow.
        to: Member,
    },
}

/// How one replica stands: the answer to [`Order::Ask`] and [`Order::Fence`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReplicaReport {
    /// Which partition.
    pub partition: PartitionId,
    /// Who reports.
    pub member: Member,
    /// From the order.
    pub round: u64,
    /// Whether this answers a fence of the very epoch that `promised` tells: only then
    /// may the head count in an inspection (rule 1).
    pub fenced: bool,
    /// The promised epoch, durable.
    pub promised: Epoch,
    /// The last entry on disk, whatever is missing before it.
    pub head: Position,
    /// The commit index that the replica knows.
    pub commit: Index,
    /// Whether it may count: a corrupt replica reports `false` and counts as absent.
    pub whole: bool,
    /// Of one that is not whole: only entries before its head are missing, while
    /// `head` and `promised` are provably right. It may count where too few whole ones
    /// are left (rule 12).
    #[serde(default)]
    pub head_intact: bool,
    /// Whether it has granted, and not yet seen lapse, a lease to the primary of
    /// the epoch that it had promised when asked.
    pub lease_current: bool,
    /// How much longer any grant that it gave for this partition lasts, of any
    /// epoch and holder, counted from when the report was sent.
    pub lease_remaining: Micros,
}

/// How much room a data node's disk has and how much clients ask of it: what a move of
/// replicas is planned by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeFigures {
    /// The size of the file system that holds the data directory; 0 before it was looked at.
    pub disk_total_bytes: u64,
    /// What of it may still be used.
    pub disk_free_bytes: u64,
    /// Reads of clients that were served here in a second, smoothed over some ten seconds,
    /// as the two below are.
    pub reads_per_second: u64,
    /// Writes of clients that were taken here in a second.
    pub writes_per_second: u64,
    /// Bytes of keys and values that those reads found and those writes brought, in a second.
    pub bytes_per_second: u64,
}

/// The most partitions that one report tells of, the busiest.
pub const HEAT_PARTITIONS_MAX: usize = 64;
/// The most keys that one report tells of, the hottest.
pub const HEAT_KEYS_MAX: usize = 16;
/// The longest name of a key that is told.
pub const HEAT_KEY_BYTES: usize = 256;

/// What clients ask of one node's partitions and keys, made once a second.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HeatReport {
    /// The busiest partitions, whatever the node's role in them.
    pub partitions: Vec<(PartitionId, PartitionLoad)>,
    /// The hottest keys.
    pub keys: Vec<KeyHeat>,
}

/// A key that is hot on one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyHeat {
    /// Where it belongs.
    pub partition: PartitionId,
    /// XXH3 of its name.
    pub hash: u64,
    /// Its name, where names are told.
    pub name: Option<Vec<u8>>,
    /// Reads of it in a second.
    pub reads_per_second: u64,
    /// Writes of it in a second.
    pub writes_per_second: u64,
    /// Bytes that those found and brought.
    pub bytes_per_second: u64,
    /// For how long it has been hot there.
    pub hot_for_ms: u64,
}

/// A data node's heartbeat. The first one of a stream lists every partition that
/// has a replica on the node, later ones only those whose status changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Who.
    pub node: NodeId,
    /// Drawn when the process started: another number means that it restarted.
    pub session: u64,
    /// Counts up within a session.
    pub sequence: u64,
    /// The map that the node has.
    pub map_version: MapVersion,
    /// Peers whose ports the node gets no answer from, right now.
    pub unreachable: Vec<NodeId>,
    /// Peers whose port for clients gives the node no answer.
    pub silent_client_ports: Vec<NodeId>,
    /// Whether the node refuses writes for want of disk space.
    pub disk_full: bool,
    /// Whether the process is draining: it wants to hand over what it leads.
    pub draining: bool,
    /// Its disk and its load; `None` from a build that does not tell.
    #[serde(default)]
    pub figures: Option<NodeFigures>,
    /// What is hot on it, where that was judged anew since the last heartbeat.
    #[serde(default)]
    pub heat: Option<Box<HeatReport>>,
    /// Whether `partitions` lists everything.
    pub full: bool,
    /// Statuses, see above.
    pub partitions: Vec<PartitionStatus>,
}

/// The role of a replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Receives the log and votes.
    Replica,
    /// Receives the log and counts nowhere.
    Learner,
    /// Named primary; its barrier has not committed yet.
    Rising,
    /// Serves.
    Primary,
    /// Named primary of its epoch, restarted since, and not resumed (rules 3, 14).
    Suspended,
}

/// What a replica wants of the coordinators.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Wish {
    /// Nothing.
    None,
    /// I am the primary of this epoch and cannot serve (restarted, or my flush,
    /// barrier or probe is stuck): promote someone, me or another, now.
    Promote,
    /// I handed over to the successor that you named.
    HandedOver,
    /// I am corrupt: replace me.
    Replace,
}

/// How one replica stands, in a heartbeat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PartitionStatus {
    /// Which partition.
    pub partition: PartitionId,
    /// Which replica.
    pub replica: ReplicaId,
    /// The promised epoch.
    pub epoch: Epoch,
    /// Its role.
    pub role: Role,
    /// The last entry on disk.
    pub head: Position,
    /// The commit index that it knows.
    pub commit: Index,
    /// The applied index.
    pub applied: Index,
    /// What it wants.
    pub wish: Wish,
    /// Only from a primary: its view of every other replica.
    pub followers: Vec<FollowerStatus>,
    /// About how many bytes its state takes on the disk, once that was measured. Told anew
    /// when it has changed by much.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// How far the copy is that it fetches, if it fetches one.
    #[serde(default)]
    pub copying: Option<CopyProgress>,
}

/// How far a copy of a replica's state is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CopyProgress {
    /// Bytes that have arrived.
    pub received_bytes: u64,
    /// About how many bytes it is going to have; 0 while nothing has arrived.
    pub expected_bytes: u64,
}

/// A primary's view of one other replica.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FollowerStatus {
    /// Which replica.
    pub replica: ReplicaId,
    /// The last index known to be matched and flushed there, in this epoch.
    pub matched: Index,
    /// Whether it is within reach of the head: a learner that may become a member.
    pub caught_up: bool,
    /// Whether it takes what it is sent, and did so lately. One that does not stops
    /// writes where W=N (rule 10).
    pub answering: bool,
    /// Whether it was given up: it was too slow to catch up while clients wrote, and
    /// no log is kept for it any more (rule 13).
    pub hopeless: bool,
}
