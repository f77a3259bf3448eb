//! The commands of the coordinators' Raft log and what becomes of each.
//!
//! A command about a partition is a compare-and-set: it names the epoch (and, where
//! the learners matter, the revision) that it was made for, and is refused where
//! the partition has moved on. So a command may be proposed twice, or by a leader
//! that lost its place, without harm.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId, PartitionId, ReplicaId};
use crate::record::{Addresses, ClusterSettings, CoordinatorInfo, Member, ReplicaSet};

use super::settings::SettingsError;

/// The most commands that one batch may hold.
pub const BATCH_MAX: usize = 20_000;

/// One entry of the coordinators' Raft log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Makes the cluster. Refused where one exists already under another id.
    CreateCluster {
        /// Drawn by the coordinator that proposes it.
        cluster_id: String,
        /// Already resolved; validated once more when applied.
        settings: ClusterSettings,
    },
    /// Changes what may change while the cluster lives: RF, W, `minInSync`, timings, the
    /// idempotence window. Configurations follow RF and W one by one.
    ChangeSettings {
        /// All settings, changed or not.
        settings: ClusterSettings,
    },
    /// Admits a data node, or tells its new addresses.
    RegisterNode(NodeRegistration),
    /// Says that an identity never comes back.
    MarkGone {
        /// Whose.
        node: NodeId,
        /// Even where too few copies of a partition would be left.
        force: bool,
    },
    /// Says that a node is stopped on purpose. The leader takes it back once the node is up
    /// in another process.
    ExpectBack {
        /// Which node.
        node: NodeId,
        /// Until when, in milliseconds since 1970 UTC; zero takes it back.
        until_unix_ms: u64,
    },
    /// Makes the table, in epoch 1, with the first seat of each partition as its
    /// primary. Placement is computed by the proposer and travels in the command,
    /// so that coordinators of two versions never disagree about it.
    MakeTable {
        /// The nodes of each partition, preferred primary first.
        seats: Vec<Vec<NodeId>>,
    },
    /// Raises the epoch and leaves it without a primary: the first half of a
    /// promotion (rule 1).
    RaiseEpoch {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch before.
        epoch: Epoch,
    },
    /// Names the primary of an epoch that has none yet: the second half.
    NamePrimary {
        /// Which partition.
        partition: PartitionId,
        /// The epoch, fenced and inspected.
        epoch: Epoch,
        /// Who; a voter.
        primary: Member,
        /// Set where acknowledged writes may have been lost (rule 9).
        loss: Option<Loss>,
    },
    /// Creates a replica that receives the log and counts nowhere.
    AddLearner {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Its revision.
        revision: u64,
        /// Where. A member on the same node is replaced by it later.
        node: NodeId,
    },
    /// Gives a learner up.
    RemoveLearner {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Its revision.
        revision: u64,
        /// Which replica.
        replica: ReplicaId,
    },
    /// Creates a copy for reads: it receives the log, counts nowhere, and answers reads that
    /// any replica may. Builds without [`crate::features::Feature::ReadCopies`] cannot read it.
    AddReader {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Its revision.
        revision: u64,
        /// Where. No replica of the partition is there, nor is to be.
        node: NodeId,
    },
    /// Gives a copy for reads up.
    RemoveReader {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Its revision.
        revision: u64,
        /// Which replica.
        replica: ReplicaId,
    },
    /// A new epoch in which quorums count in the current set and in `set`, with the
    /// same primary (rule 11).
    EnterJoint {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch before.
        epoch: Epoch,
        /// Its revision before.
        revision: u64,
        /// The set that is to follow; of current members and learners.
        set: ReplicaSet,
    },
    /// A new epoch with one set again. Its primary stays if it belongs to that set.
    LeaveJoint {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch before.
        epoch: Epoch,
        /// Which set stays.
        direction: Direction,
    },
    /// Drops members without a joint configuration, where every member acknowledges
    /// each write (rule 10).
    Shrink {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch before.
        epoch: Epoch,
        /// The members that stay, the primary among them.
        keep: Vec<ReplicaId>,
    },
    /// A person's word that only these members are left of a partition, whatever
    /// was acknowledged by others (rules 9 and 12). A new epoch without a primary.
    KeepSurvivors {
        /// Which partition.
        partition: PartitionId,
        /// Its epoch before.
        epoch: Epoch,
        /// The members that stay.
        keep: Vec<ReplicaId>,
    },
    /// Gives a partition other seats. Its replicas follow one by one: a learner on an empty
    /// seat, then a joint configuration without one that has no seat (rules 11 and 13).
    Reseat {
        /// Which partition.
        partition: PartitionId,
        /// The seats that this was decided for.
        before: Vec<NodeId>,
        /// The nodes it belongs on, preferred primary first.
        seats: Vec<NodeId>,
    },
    /// Asks a node to give up all that it holds. It stays a member, and what it holds
    /// counts, until each replica has its successor elsewhere (rule 11).
    Drain {
        /// Which node.
        node: NodeId,
    },
    /// Takes [`Command::Drain`] back, or [`Command::MarkAway`].
    Undrain {
        /// Which node.
        node: NodeId,
    },
    /// Says that a node stayed away for longer than the grace: its replicas are made
    /// anew elsewhere, and what is left when it comes back is kept.
    MarkAway {
        /// Which node.
        node: NodeId,
    },
    /// Says that a node that stayed away is back. Changes nothing where it drains.
    MarkBack {
        /// Which node.
        node: NodeId,
    },
    /// Ends the membership of a node that drains and is empty.
    Retire {
        /// Which node.
        node: NodeId,
    },
    /// Holds back, or lets go on, every move that no lost copy asks for.
    PauseMoves {
        /// Whether to hold them back.
        paused: bool,
    },
    /// Gives partitions other seats, because other nodes are to hold the data than those
    /// that the present seats were made for. All or none: refused where the nodes have
    /// changed since, or one of the partitions has other seats by now.
    Rebalance {
        /// What the seats were made for.
        basis: PlacementBasis,
        /// Those that change.
        moves: Vec<SeatChange>,
    },
    /// A command of a caller that proves with a number that nobody took its place: one
    /// with a lower number than another had before is refused.
    Fenced {
        /// The caller's number.
        token: u64,
        /// The command.
        command: Box<Command>,
    },
    /// Forgets the numbers of callers: a person's word that the next one begins anew.
    ResetToken,
    /// Tells data nodes and clients, by the map, who the coordinators are.
    NoteCoordinators {
        /// The voters of their group.
        coordinators: Vec<CoordinatorInfo>,
    },
    /// Several commands in one entry, each judged alone.
    Batch(Vec<Command>),
}

/// What a placement is made for: other nodes or another RF ask for another one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PlacementBasis {
    /// RF.
    pub replication_factor: u8,
    /// The nodes that may hold replicas, by number: zone and weight of each.
    pub nodes: BTreeMap<NodeId, (String, u32)>,
}

/// The seats of one partition, before and after.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeatChange {
    /// Which partition.
    pub partition: PartitionId,
    /// The seats that this was decided for.
    pub before: Vec<NodeId>,
    /// The nodes that it belongs on, preferred primary first.
    pub seats: Vec<NodeId>,
}

impl Command {
    /// The partition that the command is about, if it is about one.
    #[must_use]
    pub fn partition(&self) -> Option<PartitionId> {
        match self {
            Self::RaiseEpoch { partition, .. }
            | Self::NamePrimary { partition, .. }
            | Self::AddLearner { partition, .. }
            | Self::RemoveLearner { partition, .. }
            | Self::AddReader { partition, .. }
            | Self::RemoveReader { partition, .. }
            | Self::EnterJoint { partition, .. }
            | Self::LeaveJoint { partition, .. }
            | Self::Shrink { partition, .. }
            | Self::KeepSurvivors { partition, .. }
            | Self::Reseat { partition, .. } => Some(*partition),
            Self::CreateCluster { .. }
            | Self::ChangeSettings { .. }
            | Self::RegisterNode(_)
            | Self::MarkGone { .. }
            | Self::ExpectBack { .. }
            | Self::MakeTable { .. }
            | Self::Drain { .. }
            | Self::Undrain { .. }
            | Self::MarkAway { .. }
            | Self::MarkBack { .. }
            | Self::Retire { .. }
            | Self::PauseMoves { .. }
            | Self::Rebalance { .. }
            | Self::ResetToken
            | Self::NoteCoordinators { .. }
            | Self::Batch(_) => None,
            Self::Fenced { command, .. } => command.partition(),
        }
    }
}

/// A data node that presents itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRegistration {
    /// The node's UUID, from its disk.
    pub uuid: String,
    /// The incarnation's UUID, from its disk.
    pub incarnation: String,
    /// Its label.
    pub name: String,
    /// Where it listens.
    pub addresses: Addresses,
    /// Its zone; empty where unknown.
    pub zone: String,
    /// Its share, 100 being usual.
    pub weight: u32,
    /// What it understands (rule 18).
    pub features: u64,
    /// Whether the proposer saw the identity that holds the name now to be down:
    /// then that one is gone and this one takes its seats.
    pub replace_dead: bool,
}

/// Which set stays when a joint configuration ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Direction {
    /// The new one. Only after the primary's barrier has committed in both.
    Forward,
    /// The old one. Always possible.
    Backward,
}

/// What may have been lost by naming a primary from too few reports.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// How many entries some absent replica was known to hold past the head of the
    /// chosen one. What nobody told is not in it: the true figure may be higher.
    pub entries_known: u64,
}

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Response {
    /// It changed the state.
    Done,
    /// The state already was as asked, or the entry held no command.
    Unchanged,
    /// The node is admitted under this number.
    Registered {
        /// The number.
        node: NodeId,
    },
    /// It changed nothing, for this reason.
    Refused(Refusal),
    /// One for each command of a batch.
    Batch(Vec<Response>),
}

impl Response {
    /// The refusal, if it is one.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// Why a command changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Serialize, Deserialize)]
pub enum Refusal {
    /// No `CreateCluster` has been applied.
    #[error("the cluster has not been made yet")]
    NoCluster,
    /// Another `CreateCluster` came first.
    #[error("cluster {cluster_id} exists already")]
    ClusterExists {
        /// Its id.
        cluster_id: String,
    },
    /// An empty or oversized text, or one with control characters.
    #[error("{field} is not acceptable: {reason}")]
    BadText {
        /// Which field.
        field: String,
        /// Why.
        reason: String,
    },
    /// The settings cannot keep their promise.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings(Vec<SettingsError>),
    /// A setting that a living cluster cannot change (yet).
    #[error("{field} cannot be changed while the cluster lives")]
    FixedSetting {
        /// Which.
        field: String,
    },
    /// The name belongs to an identity that is not known to be dead.
    #[error("the name {name} belongs to node {holder}, which is not known to be down")]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: NodeId,
    },
    /// The identity was declared gone.
    #[error("node {node} was replaced or declared gone and is never admitted again")]
    IdentityGone {
        /// Which.
        node: NodeId,
    },
    /// The UUID is known under another incarnation: a copied disk.
    #[error("node {node} is known under another incarnation: its identity was copied")]
    OtherIncarnation {
        /// Which.
        node: NodeId,
    },
    /// Giving the node up would leave a partition with too few copies to promote.
    #[error(
        "node {node} holds copies that cannot be done without (partition {partition}): \
         giving it up needs an explicit request"
    )]
    LastCopies {
        /// Which node.
        node: NodeId,
        /// One such partition.
        partition: PartitionId,
    },
    /// There is no such node, or it is gone.
    #[error("node {node} is not a member")]
    UnknownNode {
        /// Which.
        node: NodeId,
    },
    /// The table exists already.
    #[error("the partition table exists already")]
    TableExists,
    /// Fewer nodes than the settings ask for would be left.
    #[error("{have} data nodes are there to hold replicas, {need} are needed")]
    TooFewNodes {
        /// How many.
        have: u32,
        /// How many are needed.
        need: u32,
    },
    /// A table or a set that breaks a rule.
    #[error("{reason}")]
    Invalid {
        /// Which rule.
        reason: String,
    },
    /// There is no such partition.
    #[error("there is no partition {partition}")]
    UnknownPartition {
        /// Which.
        partition: PartitionId,
    },
    /// The partition moved on.
    #[error("partition {partition} is at {epoch}.{revision} by now")]
    Stale {
        /// Which.
        partition: PartitionId,
        /// Its epoch.
        epoch: Epoch,
        /// Its revision.
        revision: u64,
    },
    /// The partition has other seats by now.
    #[error("partition {partition} has other seats by now")]
    SeatsChanged {
        /// Which.
        partition: PartitionId,
    },
    /// The nodes that are to hold the data have changed since.
    #[error("other nodes are to hold the data by now")]
    BasisChanged,
    /// The node still holds, or is to hold, replicas.
    #[error("node {node} is not empty: it holds, or is to hold, a replica of {partition}")]
    NotEmpty {
        /// Which node.
        node: NodeId,
        /// One of them.
        partition: PartitionId,
    },
    /// Another caller with a higher number spoke before.
    #[error("a caller with token {seen} has taken over from the one with {token}")]
    StaleCaller {
        /// The caller's.
        token: u64,
        /// The highest one.
        seen: u64,
    },
    /// The epoch has a primary already.
    #[error("partition {partition} has a primary in its epoch already")]
    HasPrimary {
        /// Which.
        partition: PartitionId,
    },
    /// The epoch has no primary to carry over.
    #[error("partition {partition} has no primary in its epoch")]
    NoPrimary {
        /// Which.
        partition: PartitionId,
    },
    /// Too large a batch, or one inside another.
    #[error("a batch holds at most {BATCH_MAX} commands and no other batch")]
    BadBatch,
}
