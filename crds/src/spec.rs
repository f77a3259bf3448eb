//! What a person asks for.

#![allow(
    clippy::duplicated_attributes,
    reason = "several columns of the table have the same type"
)]

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, ResourceRequirements, Toleration, TopologySpreadConstraint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::status::KvClusterStatus;
use crate::{rules, schema};

/// A durable, replicated key-value store.
#[derive(CustomResource, Clone, PartialEq, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "cairn.dev",
    version = "v1alpha1",
    kind = "KvCluster",
    plural = "kvclusters",
    shortname = "kvc",
    category = "all",
    namespaced,
    status = "KvClusterStatus",
    derive = "PartialEq",
    doc = "A durable, replicated key-value store: coordinators that agree on who holds what, and data nodes that hold it.",
    scale(
        spec_replicas_path = ".spec.data.replicas",
        status_replicas_path = ".status.data.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.readyNodes",
        description = "Data nodes that serve, of those that are asked for"
    ),
    printcolumn(
        name = "Desired",
        type_ = "integer",
        json_path = ".spec.data.replicas",
        description = "Data nodes that are asked for"
    ),
    printcolumn(
        name = "Phase",
        type_ = "string",
        json_path = ".status.phase",
        description = "What the cluster is doing"
    ),
    printcolumn(
        name = "Version",
        type_ = "string",
        json_path = ".status.version",
        description = "The version that its nodes run"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.message",
        description = "What it waits for",
        priority = 1
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::on_spec)]
pub struct KvClusterSpec {
    /// The version of Cairn that the nodes run, as `0.1.0`. The operator's own version where it
    /// is left out when the cluster is made; a newer operator does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64), regex(pattern = r"^[0-9A-Za-z][0-9A-Za-z._-]*$"))]
    pub version: Option<String>,

    /// The image of the nodes, in place of the operator's default repository with `version` as
    /// its tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^\S+$"))]
    pub image: Option<String>,

    // The description of an optional enum is that of its type.
    /// When the kubelet pulls the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets in this namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The coordinators. They agree through Raft on who holds what, and hold no data.
    #[serde(default)]
    pub coordinators: CoordinatorsSpec,

    /// The data nodes.
    pub data: DataSpec,

    /// How many copies of each partition there are. May be changed while the cluster runs.
    #[serde(default = "replication_factor")]
    #[schemars(range(min = 1, max = 7))]
    pub replication_factor: u8,

    /// On how many copies a write is on disk before it is acknowledged. A majority of
    /// `replicationFactor` where it is left out, 1 where `consistency` is `eventual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub write_quorum: Option<u8>,

    /// How far the write quorum may be lowered, and no further, while copies are missing and it
    /// asks for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub min_in_sync: Option<u8>,

    /// A preset that supplies what `writeQuorum` and `readLevel` do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistency: Option<Consistency>,

    /// The level of reads that name none: `primary`, or `any` where `consistency` is
    /// `eventual`. Fixed when the cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_level: Option<ReadLevel>,

    /// How many copies a `quorum` read asks at least. Fixed when the cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 7))]
    pub read_quorum: Option<u8>,

    /// How many ranges the keys are cut into: the most that can be spread, and moved one by
    /// one. Fixed when the cluster is made.
    #[serde(default = "partitions")]
    #[schemars(range(min = 1, max = 16384))]
    pub partitions: u32,

    /// Virtual nodes on the ring of a data node of weight 100. Fixed when the cluster is made.
    #[serde(default = "virtual_nodes")]
    #[schemars(range(min = 1, max = 1024))]
    pub virtual_nodes: u32,

    /// Keys that may become striped counters, whose additions are spread over several
    /// partitions, by prefix. A prefix that is taken out gets no stripes any more: its
    /// counters are put together again as they are added to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["prefix"])
    )]
    pub counters: Vec<CounterSpec>,

    /// How soon failures are noticed and mended.
    #[serde(default)]
    pub timings: TimingsSpec,

    /// Bounds of each data node.
    #[serde(default)]
    pub limits: LimitsSpec,

    /// What the nodes log: a level, or `target=level,...`.
    #[serde(default = "log_level")]
    #[schemars(length(min = 1, max = 512))]
    pub log_level: String,

    /// Who must show certificates to whom.
    #[serde(default)]
    pub tls: TlsSpec,

    /// A Secret with a users file: who may do what. Everyone who reaches the ports may do
    /// everything where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<UsersSpec>,

    /// The Service through which clients find the cluster.
    #[serde(default)]
    pub service: ServiceSpec,

    /// How clients outside Kubernetes' network reach the data nodes; they do not where it is
    /// left out. Data nodes are restarted, one by one, when it comes or goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideSpec>,

    /// Who is told of single requests that are traced; nobody where it is left out. Data nodes
    /// are restarted, one by one, when it changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<TracesSpec>,

    /// What becomes of volumes that are not used any more.
    #[serde(default)]
    pub volumes: VolumesSpec,

    /// What a person wants to be done, or left alone.
    #[serde(default)]
    pub maintenance: MaintenanceSpec,
}

fn replication_factor() -> u8 {
    3
}
fn partitions() -> u32 {
    128
}
fn virtual_nodes() -> u32 {
    64
}
fn log_level() -> String {
    "info,openraft=warn,fjall=warn,lsm_tree=warn".to_owned()
}

/// When the kubelet pulls the image; as Kubernetes has it where this is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
pub enum ImagePullPolicy {
    /// Each time a pod starts.
    Always,
    /// Where the node does not have it.
    IfNotPresent,
    /// Never: it is on the node already.
    Never,
}

/// A preset that supplies what `writeQuorum` and `readLevel` do not say: `strong` is writes on a
/// majority and reads of what was acknowledged last, `eventual` is writes on one copy and reads
/// from any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Writes on a majority, reads of what was acknowledged last.
    Strong,
    /// Writes on one copy, reads from any.
    Eventual,
}

/// The level of reads that name none: `primary`, or `any` where `consistency` is `eventual`.
/// Fixed when the cluster is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadLevel {
    /// The primary answers, under its lease.
    Primary,
    /// A quorum of copies is asked.
    Quorum,
    /// A copy answers once it has what the primary had committed when it was asked.
    Replica,
    /// Any copy answers with what it has.
    Any,
}

/// The coordinators.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::on_coordinators)]
pub struct CoordinatorsSpec {
    /// How many: 1, 3 or 5. One more than half of them must be up for failovers; reads and
    /// writes go on without.
    #[schemars(range(min = 1, max = 5))]
    pub replicas: u8,
    /// The volume of each.
    pub storage: StorageSpec,
    /// What each asks of its Kubernetes node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where they run.
    pub scheduling: SchedulingSpec,
    /// Labels and annotations of the pods.
    pub pod: MetadataSpec,
}

impl Default for CoordinatorsSpec {
    fn default() -> Self {
        Self {
            replicas: 3,
            storage: StorageSpec {
                size: Quantity("2Gi".to_owned()),
                storage_class_name: None,
            },
            resources: None,
            scheduling: SchedulingSpec::default(),
            pod: MetadataSpec::default(),
        }
    }
}

/// The data nodes.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSpec {
    /// How many. Raising it moves data onto the new ones; lowering it first moves the data
    /// off those with the highest numbers, and removes each once it is empty.
    #[schemars(range(min = 1, max = 200))]
    pub replicas: u32,
    /// The volume of each. A node's share of the data follows from its size.
    pub storage: StorageSpec,
    /// What each asks of its Kubernetes node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequirements>,
    /// Where they run. Copies of a partition are spread over the zones of the Kubernetes nodes.
    #[serde(default)]
    pub scheduling: SchedulingSpec,
    /// Labels and annotations of the pods.
    #[serde(default)]
    pub pod: MetadataSpec,
}

/// A volume.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::on_storage)]
pub struct StorageSpec {
    /// How large, as `100Gi`. It can be raised, not lowered.
    #[schemars(schema_with = "schema::size")]
    pub size: Quantity,
    /// The StorageClass; the namespace's default where it is left out. Fixed when the
    /// cluster is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub storage_class_name: Option<String>,
}

/// Where pods run.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SchedulingSpec {
    /// Labels that a Kubernetes node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub node_selector: BTreeMap<String, String>,
    /// Taints that the pods put up with.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub tolerations: Vec<Toleration>,
    /// Affinity, in place of the operator's, which keeps two pods of a role off one Kubernetes
    /// node where there is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// How the pods are spread, in place of the operator's way: evenly over zones where that
    /// can be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub topology_spread_constraints: Option<Vec<TopologySpreadConstraint>>,
    /// The PriorityClass of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub priority_class_name: Option<String>,
}

/// Labels and annotations that are added to those of the operator, which win.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MetadataSpec {
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// How soon failures are noticed and mended. May be changed while the cluster runs.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TimingsSpec {
    /// How long a copy's grant to its primary lasts, in milliseconds: the least time that a
    /// failover takes. 400 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 50, max = 60_000))]
    pub lease_ms: Option<u32>,
    /// How long a data node may be silent before it counts as down, in milliseconds. 1500
    /// where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 600_000))]
    pub node_timeout_ms: Option<u32>,
    /// How long a data node may stay away before its copies are made anew on others, in
    /// milliseconds. 300000, five minutes, where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 604_800_000))]
    pub replace_after_ms: Option<u32>,
    /// The most copies that are made at a time on one data node. 4 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub moves_per_node: Option<u32>,
    /// How long a node that is to stop may hand over and finish what runs, in milliseconds.
    /// 20000 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1_000, max = 600_000))]
    pub drain_timeout_ms: Option<u32>,
}

/// Bounds of each data node. A changed one holds for a node from its next start.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct LimitsSpec {
    /// The most connections of Redis clients, and of gRPC clients, at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections: Option<u32>,
    /// The largest value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub max_value_bytes: Option<Quantity>,
    /// The most that copies which a node gives to others may take of network and disk in a
    /// second. They give way to clients where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub snapshot_send_bytes_per_second: Option<Quantity>,
    /// The most that copies which a node fetches may take of network and disk in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub snapshot_receive_bytes_per_second: Option<Quantity>,
    /// The cache of values in front of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub value_cache_bytes: Option<Quantity>,
    /// The block cache of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub store_cache_bytes: Option<Quantity>,
    /// Free disk space below which a node refuses writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::size")]
    pub disk_reserve_bytes: Option<Quantity>,
    /// How many sequenced writes a partition remembers, so that a retry is applied once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 16_777_216))]
    pub idempotence_window: Option<u32>,
}

/// Keys that may become striped counters.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CounterSpec {
    /// What the keys begin with.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[^\s,=]+$"))]
    pub prefix: String,
    /// Over how many stripes the additions to one of them are spread; 0: none any more. About
    /// as many as there are data nodes, or a small multiple, serve best.
    #[schemars(range(min = 0, max = 64))]
    pub stripes: u32,
}

/// Who must show certificates to whom.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::on_tls)]
pub struct TlsSpec {
    /// Whether the ports for clients (Redis, gRPC, health and metrics) speak TLS, and nothing
    /// else. Between nodes TLS is always spoken, and both sides show certificates.
    pub clients: bool,
    /// A Secret with `tls.crt`, `tls.key` and `ca.crt`, in place of the certificates that the
    /// operator makes. It must name the nodes' host names; see the documentation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub secret_name: Option<String>,
    /// An issuer of cert-manager that signs the nodes' certificate, in place of the authority
    /// that the operator makes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
    /// Certificates that are to be made anew before their time. Without effect where somebody
    /// else makes them.
    pub renew: RenewSpec,
    /// How long clients are given to trust a new authority beside the old one before nodes show
    /// certificates of it, in seconds; an hour where it is left out. Without effect where clients
    /// speak no TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_592_000))]
    pub overlap_seconds: Option<u32>,
}

/// An issuer of cert-manager.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub name: String,
    /// Its kind: `Issuer`, of this namespace, or `ClusterIssuer`, or what its group calls it.
    #[serde(default = "issuer_kind")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z][A-Za-z0-9]*$"))]
    pub kind: String,
    /// The group of its kind.
    #[serde(default = "issuer_group")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub group: String,
}

fn issuer_kind() -> String {
    "Issuer".to_owned()
}
fn issuer_group() -> String {
    "cert-manager.io".to_owned()
}

/// Certificates that are to be made anew before their time: each is, whenever its number is
/// raised. No node is restarted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(transform = rules::on_renewals)]
pub struct RenewSpec {
    /// The certificate authority, with another key. Clients that check the nodes need the new
    /// `ca.crt` within `tls.overlapSeconds`.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub authority: u32,
    /// The nodes' certificate.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub certificate: u32,
}

/// Where the users come from.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsersSpec {
    /// The Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub secret_name: String,
    /// The key in it that holds the file, in TOML.
    #[serde(default = "users_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

fn users_key() -> String {
    "users.toml".to_owned()
}

/// The Service through which clients find the cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// Labels of the Service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Service.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// How clients outside Kubernetes' network reach the data nodes: each through a Service of its
/// own, by whose address the nodes are told of to whoever came in that way.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::on_outside)]
pub struct OutsideSpec {
    // The description of an enum is that of its type.
    /// By what.
    #[serde(rename = "type")]
    pub kind: OutsideType,
    /// Which address of the Kubernetes node is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_address: Option<NodeAddress>,
    /// With `LoadBalancer`: the networks from which clients may come, as `192.0.2.0/24`. All
    /// where it is left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(
            length(min = 1, max = 64),
            regex(pattern = r"^[0-9A-Fa-f:.]+/[0-9]{1,3}$")
        )
    )]
    pub source_ranges: Vec<String>,
    /// Labels of the Services.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Services, as those that whoever makes load balancers reads.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::annotations")]
    pub annotations: BTreeMap<String, String>,
}

/// By what clients outside reach a data node: `NodePort` by an address of the Kubernetes node
/// that its pod is on and a port that Kubernetes chooses, `LoadBalancer` by the address that its
/// Service is given, on the usual ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
pub enum OutsideType {
    /// An address of its Kubernetes node, and a port there.
    NodePort,
    /// A load balancer of its own.
    LoadBalancer,
}

/// With `NodePort`: which address of the Kubernetes node is told. `ExternalIP` where it has one,
/// else `InternalIP`, where this is left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
pub enum NodeAddress {
    /// The one outside of its network.
    ExternalIP,
    /// The one in its network.
    InternalIP,
}

/// An OpenTelemetry collector that data nodes tell of requests that are traced.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(transform = rules::on_traces)]
pub struct TracesSpec {
    /// The host and the port where it takes OTLP over gRPC, without TLS, as
    /// `collector.observability:4317`.
    #[schemars(length(max = 259))]
    pub collector: String,
    /// How many of a million writes are traced although no caller asks for it; none where it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub writes_per_million: Option<u32>,
}

/// What becomes of volumes that are not used any more.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumesSpec {
    /// Those of a node that was removed because fewer are asked for. It was empty by then.
    pub when_scaled: VolumePolicy,
    /// Those of a cluster that is deleted.
    pub when_deleted: VolumePolicy,
}

/// What becomes of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub enum VolumePolicy {
    /// Its claim stays until a person deletes it.
    #[default]
    Retain,
    /// Its claim is deleted.
    Delete,
}

/// What a person wants to be done, or left alone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct MaintenanceSpec {
    /// The operator changes nothing while this is set. It goes on telling how things are.
    pub paused: bool,
    /// Moves that no lost copy asks for are held back while this is set.
    pub rebalance_paused: bool,
    /// Data nodes, by the names of their pods, that are to give up all that they hold, and to
    /// stay empty for as long as they are named here.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 200),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub drain: Vec<String>,
}
