//! Makes a [`Cluster`] of a manifest, or says everything that is wrong with it, and what to do.
//!
//! The schema of the resource refuses most of it when a manifest is applied. It is looked at
//! again here: the schema that is installed may be older than the operator, and some of it no
//! schema can say. What numbers fit together is decided by `cairn_core`, as on the nodes.
//!
//! What is taken and should still be known is in [`warnings`].

mod syntax;
#[cfg(test)]
mod tests;

use cairn_core::cluster::settings::{Preset, ResolvedSettings, SettingsError, SettingsRequest};
use cairn_core::kv::request::ReadLevel as CoreReadLevel;
use cairn_crds::spec::{
    Consistency, LimitsSpec, MetadataSpec, OutsideType, ReadLevel, SchedulingSpec,
};
use cairn_crds::{KvCluster, KvClusterSpec};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource as _;
use tracing_subscriber::filter::Targets;

use crate::cluster::Cluster;
use crate::names::{CLUSTER_NAME_BYTES_MAX, Names, Role};
use crate::quantity::{self, QuantityError};

/// The most data nodes.
const DATA_NODES_MAX: u32 = 200;
/// The most connections that a node can be told to take.
const CONNECTIONS_MAX: u32 = 1_000_000;
/// How long clients may be given to trust a new authority, s: thirty days.
const OVERLAP_SECONDS_MAX: u32 = 2_592_000;
const MILLION: u32 = 1_000_000;
/// How long a node may be given to stop, ms.
const DRAIN_TIMEOUT_MS: std::ops::RangeInclusive<u32> = 1_000..=600_000;
/// The longest name of an image, and filter of the log, in bytes.
const TEXT_BYTES_MAX: usize = 512;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// What holds where a manifest does not say: what the operator was started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Defaults {
    /// The version of nodes of clusters that are made now.
    pub version: String,
    /// The repository of their image.
    pub repository: String,
}

/// Something in a manifest that cannot be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{field}: {problem}. {remedy}")]
pub struct Invalid {
    /// Where: `spec.data.replicas`.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// Makes a cluster of a manifest.
///
/// # Errors
/// Everything that is wrong with it, not only the first.
pub fn validate(manifest: &KvCluster, operator: &Defaults) -> Result<Cluster, Vec<Invalid>> {
    let mut problems = Problems::default();
    let metadata = &manifest.metadata;
    let names = Names {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        cluster: metadata.name.clone().unwrap_or_default(),
    };
    let owner = manifest.controller_owner_ref(&());
    if names.namespace.is_empty() || owner.is_none() {
        problems.add(
            "metadata",
            "it lacks a namespace, a name or a UID, which whatever the API server stores has",
            "Apply the manifest to a cluster",
        );
    }
    problems.name(&names);
    let spec = &manifest.spec;
    problems.numbers(spec);
    problems.images(spec);
    problems.nodes(spec);
    problems.limits(&spec.limits, &spec.data.storage.size);
    problems.access(spec, &names);
    problems.outside(spec);
    problems.traces(spec);
    problems.drain(spec, &names);
    match owner {
        Some(owner) if problems.0.is_empty() => {
            let version = version(manifest, operator);
            let image = spec
                .image
                .clone()
                .unwrap_or_else(|| format!("{}:{version}", operator.repository));
            Ok(Cluster {
                names,
                uid: owner.uid.clone(),
                generation: metadata.generation.unwrap_or(0),
                owner,
                spec: spec.clone(),
                version,
                image,
                deleting: metadata.deletion_timestamp.is_some(),
            })
        }
        _ => Err(problems.0),
    }
}

/// The version that the nodes are to run. A cluster keeps the one that it was made with,
/// however new the operator is by now.
fn version(manifest: &KvCluster, operator: &Defaults) -> String {
    let status = manifest.status.as_ref();
    let made_with = status.map(|status| status.version.clone());
    manifest
        .spec
        .version
        .clone()
        .or(made_with.filter(|version| !version.is_empty()))
        .unwrap_or_else(|| operator.version.clone())
}

/// What a person should know of a cluster that is taken.
#[must_use]
pub fn warnings(cluster: &Cluster) -> Vec<String> {
    let spec = &cluster.spec;
    let mut all: Vec<String> = resolve(spec).map_or_else(
        |_| Vec::new(),
        |resolved| resolved.warnings.iter().map(ToString::to_string).collect(),
    );
    let (nodes, copies) = (spec.data.replicas, u32::from(spec.replication_factor));
    if nodes == copies && copies > 1 {
        all.push(format!(
            "data.replicas equals replicationFactor {copies}: while a node is lost there is \
             nowhere to make its copies anew"
        ));
    }
    let ordinals = drained(cluster);
    let absent = ordinals.iter().filter(|ordinal| **ordinal >= nodes).count();
    if absent > 0 {
        all.push(format!(
            "maintenance.drain names {absent} nodes beyond data.replicas {nodes}"
        ));
    }
    let drained = ordinals.len() - absent;
    let left = nodes.saturating_sub(u32::try_from(drained).unwrap_or(u32::MAX));
    if drained > 0 && left < copies {
        all.push(format!(
            "maintenance.drain leaves {left} data nodes, too few for replicationFactor {copies}: \
             they cannot give everything up"
        ));
    }
    all
}

/// The numbers of the data nodes that are to be drained, each once.
fn drained(cluster: &Cluster) -> std::collections::BTreeSet<u32> {
    let named = &cluster.spec.maintenance.drain;
    named
        .iter()
        .filter_map(|pod| cluster.names.ordinal(Role::Data, pod))
        .collect()
}

/// The agreed numbers with their defaults, as the nodes work them out.
fn resolve(spec: &KvClusterSpec) -> Result<ResolvedSettings, Vec<SettingsError>> {
    let timings = &spec.timings;
    SettingsRequest {
        preset: spec.consistency.map(|preset| match preset {
            Consistency::Strong => Preset::Strong,
            Consistency::Eventual => Preset::Eventual,
        }),
        replication_factor: Some(spec.replication_factor),
        write_quorum: spec.write_quorum,
        read_level: spec.read_level.map(|level| match level {
            ReadLevel::Primary => CoreReadLevel::Primary,
            ReadLevel::Quorum => CoreReadLevel::Quorum,
            ReadLevel::Replica => CoreReadLevel::Replica,
            ReadLevel::Any => CoreReadLevel::Any,
        }),
        read_quorum: spec.read_quorum,
        min_in_sync: spec.min_in_sync,
        partitions: Some(spec.partitions),
        virtual_nodes: Some(spec.virtual_nodes),
        coordinators: Some(u32::from(spec.coordinators.replicas)),
        data_nodes: Some(spec.data.replicas),
        lease_ms: timings.lease_ms.map(u64::from),
        node_timeout_ms: timings.node_timeout_ms.map(u64::from),
        idempotence_window: spec.limits.idempotence_window,
        replace_after_ms: timings.replace_after_ms.map(u64::from),
        // What does not fit is out of bounds as well.
        moves_per_node: timings
            .moves_per_node
            .map(|moves| u8::try_from(moves).unwrap_or(u8::MAX)),
        counters: Some(spec.declared_counters()),
    }
    .resolve()
}

/// Everything that was found wrong so far.
#[derive(Default)]
struct Problems(Vec<Invalid>);

impl Problems {
    fn add(
        &mut self,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.0.push(Invalid {
            field: field.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Notes what a text is not, if it is not.
    fn syntax(&mut self, field: &str, text: &str, checked: Result<(), &'static str>) {
        if let Err(expected) = checked {
            self.add(
                field,
                format!("`{text}` is not right"),
                format!("Give {expected}"),
            );
        }
    }

    fn name(&mut self, names: &Names) {
        let name = names.cluster.as_str();
        if name.len() > CLUSTER_NAME_BYTES_MAX {
            self.add(
                "metadata.name",
                format!(
                    "it has {} characters, and {CLUSTER_NAME_BYTES_MAX} are the most: names of \
                     pods are made of it",
                    name.len()
                ),
                "Choose a shorter name",
            );
        }
        self.syntax("metadata.name", name, syntax::service_name(name));
        // The Service for clients has the cluster's name, those for nodes have these endings.
        for role in Role::ALL {
            if name.ends_with(&format!("-{role}")) {
                self.add(
                    "metadata.name",
                    format!("objects of another cluster may be called so: it ends in -{role}"),
                    "Choose another name",
                );
            }
        }
    }

    /// What the nodes agree on.
    fn numbers(&mut self, spec: &KvClusterSpec) {
        for error in resolve(spec).err().unwrap_or_default() {
            let (field, remedy) = remedy(&error);
            self.add(field, error.to_string(), remedy);
        }
        if spec.data.replicas > DATA_NODES_MAX {
            self.add(
                "spec.data.replicas",
                format!("{} is above {DATA_NODES_MAX}", spec.data.replicas),
                "Lower it",
            );
        }
        let drain_timeout = spec.timings.drain_timeout_ms;
        if drain_timeout.is_some_and(|ms| !DRAIN_TIMEOUT_MS.contains(&ms)) {
            self.add(
                "spec.timings.drainTimeoutMs",
                format!(
                    "it is not between {} and {}",
                    DRAIN_TIMEOUT_MS.start(),
                    DRAIN_TIMEOUT_MS.end()
                ),
                "Give one within these bounds, or leave it out",
            );
        }
    }

    fn images(&mut self, spec: &KvClusterSpec) {
        if let Some(version) = &spec.version {
            self.syntax("spec.version", version, syntax::tag(version));
        }
        if let Some(image) = &spec.image
            && (image.is_empty()
                || image.len() > TEXT_BYTES_MAX
                || !image.bytes().all(|b| b.is_ascii_graphic()))
        {
            self.add(
                "spec.image",
                "it is no reference to an image",
                "Write one like registry/cairn-node:0.1.0, or leave it out",
            );
        }
        for (at, secret) in spec.image_pull_secrets.iter().enumerate() {
            let field = format!("spec.imagePullSecrets[{at}].name");
            self.syntax(&field, &secret.name, syntax::object_name(&secret.name));
        }
        if spec.log_level.len() > TEXT_BYTES_MAX
            || spec.log_level.chars().any(char::is_control)
            || spec.log_level.parse::<Targets>().is_err()
        {
            self.add(
                "spec.logLevel",
                "it is no filter",
                "Give a level (error, warn, info, debug, trace) or target=level,...",
            );
        }
    }

    /// Volumes, resources and places of both roles.
    fn nodes(&mut self, spec: &KvClusterSpec) {
        let coordinators = &spec.coordinators;
        let data = &spec.data;
        for (role, storage, resources, scheduling, pod) in [
            (
                "spec.coordinators",
                &coordinators.storage,
                &coordinators.resources,
                &coordinators.scheduling,
                &coordinators.pod,
            ),
            (
                "spec.data",
                &data.storage,
                &data.resources,
                &data.scheduling,
                &data.pod,
            ),
        ] {
            let field = format!("{role}.storage.size");
            self.size(&field, Some(&storage.size), GIB..=u64::MAX);
            if let Some(class) = &storage.storage_class_name {
                let field = format!("{role}.storage.storageClassName");
                self.syntax(&field, class, syntax::object_name(class));
            }
            if let Some(resources) = resources {
                self.resources(&format!("{role}.resources"), resources);
            }
            self.scheduling(&format!("{role}.scheduling"), scheduling);
            self.pod_metadata(&format!("{role}.pod"), pod);
        }
        self.labels("spec.service.labels", &spec.service.labels);
        self.annotations("spec.service.annotations", &spec.service.annotations);
    }

    fn resources(&mut self, field: &str, resources: &ResourceRequirements) {
        let limits = resources.limits.as_ref();
        for (list, amounts) in [
            ("requests", &resources.requests),
            ("limits", &resources.limits),
        ] {
            for (name, amount) in amounts.iter().flatten() {
                if let Err(error) = quantity::nanos(amount) {
                    self.quantity(&format!("{field}.{list}.{name}"), amount, error);
                }
            }
        }
        for (name, request) in resources.requests.iter().flatten() {
            let limit = limits.and_then(|limits| limits.get(name));
            if let (Ok(request), Some(Ok(limit))) =
                (quantity::nanos(request), limit.map(quantity::nanos))
                && request > limit
            {
                self.add(
                    format!("{field}.requests.{name}"),
                    "it is above the limit",
                    "Lower it, or raise the limit",
                );
            }
        }
    }

    fn scheduling(&mut self, field: &str, scheduling: &SchedulingSpec) {
        self.labels(&format!("{field}.nodeSelector"), &scheduling.node_selector);
        if let Some(class) = &scheduling.priority_class_name {
            let field = format!("{field}.priorityClassName");
            self.syntax(&field, class, syntax::object_name(class));
        }
    }

    fn pod_metadata(&mut self, field: &str, pod: &MetadataSpec) {
        self.labels(&format!("{field}.labels"), &pod.labels);
        self.annotations(&format!("{field}.annotations"), &pod.annotations);
    }

    fn labels(&mut self, field: &str, labels: &std::collections::BTreeMap<String, String>) {
        for (key, value) in labels {
            self.syntax(field, key, syntax::qualified_name(key));
            self.syntax(field, value, syntax::label_value(value));
        }
    }

    fn annotations(
        &mut self,
        field: &str,
        annotations: &std::collections::BTreeMap<String, String>,
    ) {
        for key in annotations.keys() {
            self.syntax(field, key, syntax::qualified_name(key));
        }
    }

    fn limits(&mut self, limits: &LimitsSpec, volume: &Quantity) {
        let LimitsSpec {
            max_connections,
            max_value_bytes,
            snapshot_send_bytes_per_second,
            snapshot_receive_bytes_per_second,
            value_cache_bytes,
            store_cache_bytes,
            disk_reserve_bytes,
            // Agreed on, see `resolve`.
            idempotence_window: _,
        } = limits;
        if max_connections.is_some_and(|count| !(1..=CONNECTIONS_MAX).contains(&count)) {
            self.add(
                "spec.limits.maxConnections",
                format!("it is not between 1 and {CONNECTIONS_MAX}"),
                "Give one within these bounds, or leave it out",
            );
        }
        for (name, size, bounds) in [
            ("maxValueBytes", max_value_bytes, KIB..=16 * MIB),
            ("valueCacheBytes", value_cache_bytes, 0..=1024 * GIB),
            ("storeCacheBytes", store_cache_bytes, MIB..=1024 * GIB),
            ("diskReserveBytes", disk_reserve_bytes, MIB..=1024 * GIB),
        ] {
            self.size(&format!("spec.limits.{name}"), size.as_ref(), bounds);
        }
        for (name, rate) in [
            ("snapshotSendBytesPerSecond", snapshot_send_bytes_per_second),
            (
                "snapshotReceiveBytesPerSecond",
                snapshot_receive_bytes_per_second,
            ),
        ] {
            let field = format!("spec.limits.{name}");
            self.size(&field, rate.as_ref(), 0..=1024 * GIB);
            let bytes = rate.as_ref().and_then(|rate| quantity::bytes(rate).ok());
            if bytes.is_some_and(|bytes| (1..MIB).contains(&bytes)) {
                self.add(
                    field,
                    "it is so little that a part of a copy would count as stalled",
                    "Give 1Mi or more, or 0 for no fixed limit",
                );
            }
        }
        let reserve = disk_reserve_bytes.as_ref().map(quantity::bytes);
        if let (Some(Ok(reserve)), Ok(volume)) = (reserve, quantity::bytes(volume))
            && reserve >= volume
        {
            self.add(
                "spec.limits.diskReserveBytes",
                "it is the whole volume: every write would be refused",
                "Lower it, or raise data.storage.size",
            );
        }
    }

    fn size(
        &mut self,
        field: &str,
        size: Option<&Quantity>,
        bounds: std::ops::RangeInclusive<u64>,
    ) {
        let Some(size) = size else {
            return;
        };
        match quantity::bytes(size) {
            Ok(bytes) if bounds.contains(&bytes) => {}
            Ok(bytes) => {
                let (problem, remedy) = if bytes < *bounds.start() {
                    ("little", format!("Give {} bytes or more", bounds.start()))
                } else {
                    ("much", format!("Give {} bytes or less", bounds.end()))
                };
                self.add(field, format!("{} is too {problem}", size.0), remedy);
            }
            Err(error) => self.quantity(field, size, error),
        }
    }

    fn quantity(&mut self, field: &str, quantity: &Quantity, error: QuantityError) {
        let remedy = "Write a number with a unit of Kubernetes, as 100Gi or 500M";
        self.add(field, format!("of `{}`, {error}", quantity.0), remedy);
    }

    /// Certificates and users.
    fn access(&mut self, spec: &KvClusterSpec, names: &Names) {
        let own = [
            names.authority(),
            names.certificate(),
            names.issued(),
            names.users(),
        ];
        let tls = spec.tls.secret_name.as_ref();
        let users = spec.users.as_ref().map(|users| &users.secret_name);
        for (field, secret) in [
            ("spec.tls.secretName", tls),
            ("spec.users.secretName", users),
        ] {
            let Some(secret) = secret else {
                continue;
            };
            self.syntax(field, secret, syntax::object_name(secret));
            if own.contains(secret) {
                self.add(
                    field,
                    format!("the operator keeps its own in a Secret called {secret}"),
                    "Call the Secret something else",
                );
            }
        }
        self.certificates(spec);
        if let Some(users) = &spec.users {
            self.syntax("spec.users.key", &users.key, syntax::data_key(&users.key));
        }
    }

    fn certificates(&mut self, spec: &KvClusterSpec) {
        let tls = &spec.tls;
        if tls.secret_name.is_some() && tls.issuer_ref.is_some() {
            self.add(
                "spec.tls.issuerRef",
                "certificates come from one place, and secretName names another",
                "Leave one of them out",
            );
        }
        if let Some(issuer) = &tls.issuer_ref {
            let (name, group) = (&issuer.name, &issuer.group);
            self.syntax("spec.tls.issuerRef.name", name, syntax::object_name(name));
            self.syntax(
                "spec.tls.issuerRef.group",
                group,
                syntax::object_name(group),
            );
        }
        if tls
            .overlap_seconds
            .is_some_and(|seconds| seconds > OVERLAP_SECONDS_MAX)
        {
            self.add(
                "spec.tls.overlapSeconds",
                format!("it is above {OVERLAP_SECONDS_MAX}"),
                "Lower it, or leave it out",
            );
        }
    }

    fn outside(&mut self, spec: &KvClusterSpec) {
        let Some(outside) = &spec.outside else {
            return;
        };
        if outside.node_address.is_some() && outside.kind != OutsideType::NodePort {
            self.add(
                "spec.outside.nodeAddress",
                "it is for the type NodePort: a load balancer has an address of its own",
                "Leave it out",
            );
        }
        if !outside.source_ranges.is_empty() && outside.kind != OutsideType::LoadBalancer {
            self.add(
                "spec.outside.sourceRanges",
                "it is for the type LoadBalancer: nothing stands before a port of a Kubernetes node",
                "Leave it out, and restrict who reaches these in your network",
            );
        }
        for (at, range) in outside.source_ranges.iter().enumerate() {
            let field = format!("spec.outside.sourceRanges[{at}]");
            self.syntax(&field, range, syntax::network(range));
        }
        self.labels("spec.outside.labels", &outside.labels);
        self.annotations("spec.outside.annotations", &outside.annotations);
    }

    fn traces(&mut self, spec: &KvClusterSpec) {
        let Some(traces) = &spec.traces else {
            return;
        };
        let collector = &traces.collector;
        self.syntax(
            "spec.traces.collector",
            collector,
            syntax::host_port(collector),
        );
        if traces.writes_per_million.is_some_and(|n| n > MILLION) {
            self.add(
                "spec.traces.writesPerMillion",
                format!("it is above {MILLION}"),
                "Lower it, or leave it out",
            );
        }
    }

    fn drain(&mut self, spec: &KvClusterSpec, names: &Names) {
        for (at, pod) in spec.maintenance.drain.iter().enumerate() {
            if names.ordinal(Role::Data, pod).is_none() {
                self.add(
                    format!("spec.maintenance.drain[{at}]"),
                    format!("`{pod}` is no data node of this cluster"),
                    format!("Name pods like {}", names.pod(Role::Data, 0)),
                );
            }
        }
    }
}

/// The field to look at, and what to do with it.
fn remedy(error: &SettingsError) -> (&'static str, &'static str) {
    const BOUNDS: &str = "Give one within these bounds, or leave it out";
    match error {
        SettingsError::ReplicationFactor(_) => ("spec.replicationFactor", "Give one from 1 to 7"),
        SettingsError::WriteQuorumZero => ("spec.writeQuorum", "Give 1 or more, or leave it out"),
        SettingsError::WriteQuorumAboveReplicationFactor { .. } => (
            "spec.writeQuorum",
            "Lower it, or raise replicationFactor, or leave it out",
        ),
        SettingsError::TooFewDataNodes { .. } => (
            "spec.replicationFactor",
            "Raise data.replicas first, or lower replicationFactor",
        ),
        SettingsError::StrongBelowMajority { .. } => (
            "spec.writeQuorum",
            "Leave it out, or set consistency to eventual",
        ),
        SettingsError::ReadQuorumTooSmall { .. } => (
            "spec.readQuorum",
            "Leave it out, or set consistency to eventual",
        ),
        SettingsError::ReadQuorum { .. } => (
            "spec.readQuorum",
            "Give one from 1 to replicationFactor, or leave it out",
        ),
        SettingsError::MinInSync { .. } => (
            "spec.minInSync",
            "Give one from 1 to the write quorum, or leave it out",
        ),
        SettingsError::Partitions(_) => ("spec.partitions", BOUNDS),
        SettingsError::VirtualNodes(_) => ("spec.virtualNodes", BOUNDS),
        SettingsError::Coordinators(_) => ("spec.coordinators.replicas", "Give 1, 3 or 5"),
        SettingsError::Lease(_) | SettingsError::LeaseLongest { .. } => {
            ("spec.timings.leaseMs", BOUNDS)
        }
        SettingsError::NodeTimeout(_) => ("spec.timings.nodeTimeoutMs", BOUNDS),
        SettingsError::ReplaceAfter(_) => ("spec.timings.replaceAfterMs", BOUNDS),
        SettingsError::MovesPerNode(_) => ("spec.timings.movesPerNode", BOUNDS),
        SettingsError::IdempotenceWindow(_) => ("spec.limits.idempotenceWindow", BOUNDS),
        SettingsError::Counters(_) => (
            "spec.counters",
            "Give each prefix once, of printable characters, with at most 64 stripes",
        ),
    }
}
