//! What is to be done: decided purely from the manifest and what there is.
//!
//! Each round begins anew. A step is asked for as long as it is not seen to have happened, so
//! every step may be carried out twice, and the operator may die between any two.
//!
//! One planner holds all reasons to disturb a node, since they exclude each other: see
//! [`plan`].

use crate::cluster::Cluster;
use crate::names::Role;
use crate::observed::Observed;

/// What is to be done in this round, and what is to be said.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// How many pods the StatefulSets are to keep from now on.
    pub replicas: Replicas,
    /// What has to happen besides, in this order. The first that fails ends the round.
    pub steps: Vec<Step>,
    /// What is under way or in the way, for the status.
    pub notes: Vec<Note>,
    /// What the places file is to say.
    pub places: Places,
}

/// How many pods there are to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Replicas {
    /// Coordinators.
    pub coordinators: u32,
    /// Data nodes.
    pub data: u32,
}

/// Zones of Kubernetes nodes and weights of data nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Places {
    /// By the name of a Kubernetes node.
    pub zones: std::collections::BTreeMap<String, String>,
    /// By the name of a data node.
    pub weights: std::collections::BTreeMap<String, u32>,
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Ask the coordinators for something.
    Admin(Admin),
    /// Delete a pod that is that one.
    DeletePod {
        /// Its name.
        name: String,
        /// Its UID: another one of that name is left alone.
        uid: String,
        /// Whether its Kubernetes node is gone, so that nobody confirms its end.
        force: bool,
        /// What is said about it.
        reason: String,
    },
    /// Delete a claim that is that one.
    DeleteClaim {
        /// Its name.
        name: String,
        /// Its UID.
        uid: String,
        /// What is said about it.
        reason: String,
    },
    /// Write on a claim that the node on it was retired.
    MarkRetired {
        /// The claim.
        name: String,
        /// Its UID.
        uid: String,
    },
}

/// What the coordinators are asked for. What already is so is no error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admin {
    /// A data node is to give up all that it holds.
    Drain(u64),
    /// It is to take part again.
    Undrain(u64),
    /// It drained and is empty: it is a member no longer.
    Retire(u64),
    /// It will not come back. Refused where too few copies would be left.
    Gone(u64),
    /// It is away on purpose until then, milliseconds since 1970 UTC.
    ExpectBack(u64, u64),
    /// A partition is to be led by another of its copies' nodes.
    MovePrimary {
        /// Which.
        partition: u32,
        /// The node.
        to: u64,
    },
    /// Hold back moves that no lost copy asks for, or let them go on.
    PauseMoves(bool),
    /// Agreed numbers that are to change; absent ones stay.
    Settings(AgreedSettings),
    /// Coordinators to be taken in, by name and address between nodes.
    AddCoordinators(Vec<(String, String)>),
    /// Coordinators that leave, by name.
    RemoveCoordinators(Vec<String>),
}

/// Agreed numbers. Absent ones stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AgreedSettings {
    /// RF.
    pub replication_factor: Option<u32>,
    /// W.
    pub write_quorum: Option<u32>,
    /// How far W may be lowered.
    pub min_in_sync: Option<u32>,
    /// How long a grant lasts, ms.
    pub lease_ms: Option<u64>,
    /// How long a node may be silent, ms.
    pub node_timeout_ms: Option<u64>,
    /// How long a node may stay away, ms.
    pub replace_after_ms: Option<u64>,
    /// Copies made at a time on a node.
    pub moves_per_node: Option<u32>,
    /// Sequenced writes that a partition remembers.
    pub idempotence_window: Option<u32>,
}

/// Something under way, or in the way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Note {
    /// What kind.
    pub topic: Topic,
    /// The node that it is about, by its pod's name.
    pub node: Option<String>,
    /// A sentence.
    pub text: String,
}

/// What a note is about, the one first that a person should hear of first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Topic {
    /// Something that a person must decide or mend.
    Stuck,
    /// A node that is lost, or is being replaced.
    Lost,
    /// Nodes that come up for the first time.
    Creating,
    /// Data nodes that join or leave.
    Scaling,
    /// The coordinators' group.
    Group,
    /// Agreed numbers.
    Settings,
    /// A node that is restarted, or hands over before its Kubernetes node goes.
    Restart,
    /// A drain that a person asked for.
    Maintenance,
    /// The manifest asks that nothing be done.
    Paused,
}

/// Decides what is to be done.
#[must_use]
pub fn plan(cluster: &Cluster, observed: &Observed) -> Plan {
    let _ = (cluster, observed, Role::ALL);
    Plan::default()
}
