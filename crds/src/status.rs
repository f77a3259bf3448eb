//! What the operator answers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The most nodes that the status lists, those first that are not well.
pub const NODES_MAX: usize = 200;

/// How the cluster is.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct KvClusterStatus {
    /// The generation of the spec that this is the answer to.
    pub observed_generation: i64,
    /// What the cluster is doing, in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// What it waits for, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The id that the coordinators drew when they made the cluster.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cluster_id: String,
    /// The version that the nodes are to run: what the spec says, or the operator's when the
    /// cluster was made.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The image of that version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub image: String,
    /// Data nodes that serve of those that are asked for, as `3/5`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ready_nodes: String,
    /// Selects the pods of the data nodes, for autoscalers.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// The data nodes.
    pub data: RoleStatus,
    /// The coordinators.
    pub coordinators: RoleStatus,
    /// The partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partitions: Option<PartitionsStatus>,
    /// What is being moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rebalance: Option<RebalanceStatus>,
    /// What clients ask for far more than other things; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hot: Option<HotStatus>,
    /// Each node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub nodes: Vec<NodeStatus>,
    /// `Ready`, `Progressing`, `Degraded`, `QuorumHealthy`, `Rebalancing`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"])
    )]
    pub conditions: Vec<Condition>,
}

/// What the cluster is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
pub enum Phase {
    /// Its nodes are coming up for the first time.
    Creating,
    /// It is as the spec says.
    Running,
    /// Nodes are added or removed, or their number is changing.
    Scaling,
    /// Data moves between the nodes.
    Rebalancing,
    /// Copies are missing, or nodes are not well.
    Degraded,
    /// Partitions are not served.
    Unavailable,
    /// The spec cannot be followed; the message says why.
    Invalid,
    /// The operator leaves it alone.
    Paused,
}

/// The nodes of a role.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RoleStatus {
    /// Pods that there are.
    pub replicas: u32,
    /// Those of them that are ready.
    pub ready: u32,
}

/// The partitions.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PartitionsStatus {
    /// In all.
    pub total: u32,
    /// With a primary that serves.
    pub serving: u32,
    /// With fewer copies, or a lower write quorum, than asked for.
    pub degraded: u32,
    /// Promotions, ever, from too few reports: acknowledged writes may have been lost.
    pub lossy_promotions: u64,
}

/// What clients ask for far more than other things.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HotStatus {
    /// Partitions, by number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub partitions: Vec<u32>,
    /// Keys that have been hot for a minute or longer: hashes of them, or their names where
    /// the data nodes tell names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub keys: Vec<String>,
    /// Copies for reads alone that there are.
    pub read_copies: u32,
}

/// What is being moved.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RebalanceStatus {
    /// Copies that are being made.
    pub under_way: u32,
    /// Copies that are still to be made.
    pub waiting: u32,
    /// About how many bytes are still to be copied.
    pub bytes_left: u64,
}

/// A node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// The name of its pod.
    pub name: String,
    /// `coordinator` or `data`.
    pub role: String,
    /// How it is: `Ready`, `Starting`, `Down`, `Draining`, `Empty`, `Removing`, `Lost`.
    pub state: String,
    /// Why, where that helps.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The Kubernetes node that it runs on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// Its zone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Its number in the cluster, of a data node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// Copies on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// Partitions that it leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leads: Option<u32>,
    /// Where clients outside reach it, of a data node; absent while it has no such address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideStatus>,
}

/// Where clients outside reach a data node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OutsideStatus {
    /// Redis clients, as `host:port`.
    pub redis: String,
    /// gRPC clients, as `host:port`.
    pub grpc: String,
}
