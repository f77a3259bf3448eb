//! What there is: read live at the beginning of a round, and what planning goes by.

use std::collections::BTreeMap;

use crate::names::Role;
use crate::store::Store;

/// Everything that is known at the beginning of a round.
#[derive(Clone, PartialEq, Debug)]
pub struct Observed {
    /// Milliseconds since 1970 UTC.
    pub now_unix_ms: u64,
    /// The StatefulSets that exist.
    pub sets: BTreeMap<Role, SetSeen>,
    /// The pods, by name.
    pub pods: BTreeMap<String, PodSeen>,
    /// The claims, by name.
    pub claims: BTreeMap<String, ClaimSeen>,
    /// The Services for clients outside, by name.
    pub outside: BTreeMap<String, OutsideSeen>,
    /// The Kubernetes nodes by name; `None` where the operator may not read them.
    pub hosts: Option<BTreeMap<String, HostSeen>>,
    /// What the coordinators say, or why they say nothing.
    pub store: Result<Store, Silence>,
}

impl Default for Observed {
    /// Nothing at all.
    fn default() -> Self {
        Self {
            now_unix_ms: 0,
            sets: BTreeMap::new(),
            pods: BTreeMap::new(),
            claims: BTreeMap::new(),
            outside: BTreeMap::new(),
            hosts: None,
            store: Err(Silence::NotAsked),
        }
    }
}

/// Why the coordinators say nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Silence {
    /// Nobody was asked: none of them has a pod that runs.
    #[default]
    NotAsked,
    /// Nobody answered as a leader.
    NoAnswer(String),
    /// They refuse, as where another operator has taken over.
    Refused(String),
}

/// A StatefulSet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetSeen {
    /// Its UID.
    pub uid: String,
    /// How many pods it is to keep.
    pub replicas: u32,
    /// The revision of pods that it would make now.
    pub update_revision: String,
    /// Whether its controller has seen its latest spec: the revision is that of it.
    pub is_current: bool,
    /// The size in its claim template.
    pub storage_size: String,
}

/// A pod.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PodSeen {
    /// Its UID.
    pub uid: String,
    /// Its role; absent of one that is no node.
    pub role: Option<Role>,
    /// Its number.
    pub ordinal: u32,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// Whether its container runs.
    pub running: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// The Kubernetes node that it was given.
    pub host: Option<String>,
    /// An address of that Kubernetes node.
    pub host_ip: Option<String>,
    /// Its revision, as the StatefulSet calls it.
    pub revision: String,
    /// Why it does not run, where Kubernetes says so: `Unschedulable`, `ImagePullBackOff`,
    /// `CrashLoopBackOff`.
    pub waiting: Option<String>,
    /// Since when it has not been ready, milliseconds since 1970 UTC; absent where it is, or
    /// where that is not known.
    pub not_ready_since_unix_ms: Option<u64>,
    /// Since when it has been ready, milliseconds since 1970 UTC; absent where it is not, or
    /// where that is not known.
    pub ready_since_unix_ms: Option<u64>,
}

/// A claim of a volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClaimSeen {
    /// Its UID.
    pub uid: String,
    /// Whether it has a volume.
    pub bound: bool,
    /// Whether it names a volume, which it goes on to do where that is lost.
    pub names_volume: bool,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// Whether it says that the node on it was retired.
    pub retired: bool,
    /// What it asks for, bytes.
    pub requested_bytes: u64,
    /// What it has, bytes.
    pub capacity_bytes: u64,
    /// Whether its volume has grown, and the file system on it is still to.
    pub waits_for_mount: bool,
    /// The Kubernetes nodes on which its volume can be used; `None` where that is all, or not
    /// known.
    pub only_on: Option<Vec<String>>,
}

/// A Kubernetes node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostSeen {
    /// Whether its kubelet reports that it is well.
    pub ready: bool,
    /// Since when it has been (un)ready, milliseconds since 1970 UTC.
    pub since_unix_ms: u64,
    /// It takes no new pods: cordoned, or being drained.
    pub cordoned: bool,
    /// A taint lets pods be evicted from it although it answers (NoExecute, other than those
    /// that Kubernetes itself sets on nodes that do not answer).
    pub evicting: bool,
    /// A person or a controller says that it is out of service for good
    /// (`node.kubernetes.io/out-of-service`).
    pub out_of_service: bool,
    /// Its zone; empty where it has none.
    pub zone: String,
    /// Its address within the cluster's network.
    pub internal_ip: Option<String>,
    /// Its address outside of it.
    pub external_ip: Option<String>,
}

/// A Service for clients outside, of one data node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct OutsideSeen {
    /// The port of every Kubernetes node that leads to its port for Redis.
    pub redis_node_port: Option<u16>,
    /// The port of every Kubernetes node that leads to its port for gRPC.
    pub grpc_node_port: Option<u16>,
    /// The address or host name of its load balancer, once it has one.
    pub ingress: Option<String>,
}
