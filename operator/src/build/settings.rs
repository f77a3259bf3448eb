//! The settings of the nodes, in a ConfigMap for each role: what a node reads of it, it reads
//! when its process starts.
//!
//! They are of two kinds, and the difference decides who is restarted:
//!
//! - [`at_start`]: what holds for a node from its start on. A hash of them is in the pod's
//!   template, so that a change of one restarts nodes one by one.
//! - [`agreed`]: what the coordinators agreed on when the cluster was made, or were told to
//!   change since, and where a node begins to look for them. A node that runs hears of a
//!   change by itself; the ConfigMap matters for a disk that is still empty.
//!
//! What goes with a pod's volumes or probes is in neither but in the template, see
//! [`super::pod`]: a container that is restarted reads this ConfigMap anew, while its volumes
//! are still those of the old template.
//!
//! What a manifest does not say is not written here either: the nodes' own defaults hold, and
//! a field that a newer operator knows restarts nobody who does not use it.

use std::collections::BTreeMap;

use cairn_crds::spec::{Consistency, LimitsSpec, ReadLevel, TimingsSpec, TracesSpec};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use ring::digest;

use super::metadata;
use crate::cluster::Cluster;
use crate::names::{PEER_PORT, Role};
use crate::plan::Plan;
use crate::quantity;
use crate::users::hex;

/// The most coordinators that there can be.
const COORDINATORS_MAX: u32 = 5;
/// How many bytes of the hash are kept: it is compared with itself alone.
const HASH_BYTES: usize = 8;

/// Settings by the names of their variables.
type Settings = BTreeMap<&'static str, String>;

pub(super) fn config_map(cluster: &Cluster, plan: &Plan, role: Role) -> ConfigMap {
    let all = agreed(cluster, plan, role)
        .into_iter()
        .chain(at_start(cluster, role));
    ConfigMap {
        metadata: metadata::of(cluster, cluster.names.settings(role), Some(role)),
        data: Some(all.map(|(name, value)| (name.to_owned(), value)).collect()),
        ..ConfigMap::default()
    }
}

/// A hash of what holds for a node from its start on.
pub(super) fn hash(cluster: &Cluster, role: Role) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for (name, value) in at_start(cluster, role) {
        // Neither holds a line break.
        context.update(format!("{name}={value}\n").as_bytes());
    }
    hex(&context.finish().as_ref()[..HASH_BYTES])
}

fn at_start(cluster: &Cluster, role: Role) -> Settings {
    let spec = &cluster.spec;
    let mut settings = Settings::from([("CAIRN_LOG", spec.log_level.clone())]);
    match role {
        Role::Coordinator => {
            settings.insert("CAIRN_MANAGED_BY", cluster.names.manifest());
        }
        Role::Data => {
            let LimitsSpec {
                max_connections,
                max_value_bytes,
                snapshot_send_bytes_per_second,
                snapshot_receive_bytes_per_second,
                value_cache_bytes,
                store_cache_bytes,
                disk_reserve_bytes,
                // Agreed on.
                idempotence_window: _,
            } = &spec.limits;
            put(
                &mut settings,
                "CAIRN_MAX_CONNECTIONS",
                max_connections.as_ref(),
            );
            for (name, size) in [
                ("CAIRN_MAX_VALUE_BYTES", max_value_bytes),
                (
                    "CAIRN_SNAPSHOT_SEND_BYTES_PER_SECOND",
                    snapshot_send_bytes_per_second,
                ),
                (
                    "CAIRN_SNAPSHOT_RECEIVE_BYTES_PER_SECOND",
                    snapshot_receive_bytes_per_second,
                ),
                ("CAIRN_VALUE_CACHE_BYTES", value_cache_bytes),
                ("CAIRN_STORE_CACHE_BYTES", store_cache_bytes),
                ("CAIRN_DISK_RESERVE_BYTES", disk_reserve_bytes),
            ] {
                put(&mut settings, name, size.as_ref().and_then(bytes).as_ref());
            }
            if let Some(TracesSpec {
                collector,
                writes_per_million,
            }) = &spec.traces
            {
                put(&mut settings, "CAIRN_TRACE_COLLECTOR", Some(collector));
                put(
                    &mut settings,
                    "CAIRN_TRACE_PER_MILLION",
                    writes_per_million.as_ref(),
                );
            }
        }
    }
    settings
}

fn agreed(cluster: &Cluster, plan: &Plan, role: Role) -> Settings {
    let spec = &cluster.spec;
    let mut settings = Settings::from([("CAIRN_COORDINATORS", coordinators(cluster, plan))]);
    if role == Role::Data {
        return settings;
    }
    let TimingsSpec {
        lease_ms,
        node_timeout_ms,
        replace_after_ms,
        moves_per_node,
        // Of the process alone, and bound to the time that Kubernetes gives it.
        drain_timeout_ms: _,
    } = &spec.timings;
    let all = &mut settings;
    put(
        all,
        "CAIRN_REPLICATION_FACTOR",
        Some(&spec.replication_factor),
    );
    put(all, "CAIRN_WRITE_QUORUM", spec.write_quorum.as_ref());
    put(all, "CAIRN_MIN_IN_SYNC", spec.min_in_sync.as_ref());
    put(all, "CAIRN_CONSISTENCY", spec.consistency.map(consistency));
    put(all, "CAIRN_READ_LEVEL", spec.read_level.map(read_level));
    put(all, "CAIRN_READ_QUORUM", spec.read_quorum.as_ref());
    put(all, "CAIRN_PARTITIONS", Some(&spec.partitions));
    put(all, "CAIRN_VIRTUAL_NODES", Some(&spec.virtual_nodes));
    put(all, "CAIRN_LEASE_MS", lease_ms.as_ref());
    put(all, "CAIRN_NODE_TIMEOUT_MS", node_timeout_ms.as_ref());
    put(all, "CAIRN_REPLACE_AFTER_MS", replace_after_ms.as_ref());
    put(all, "CAIRN_MOVES_PER_NODE", moves_per_node.as_ref());
    let counters = spec.declared_counters();
    put(
        all,
        "CAIRN_COUNTERS",
        Some(&counters).filter(|counters| !counters.is_empty()),
    );
    put(
        all,
        "CAIRN_IDEMPOTENCE_WINDOW",
        spec.limits.idempotence_window.as_ref(),
    );
    settings
}

/// Where a node begins to look for coordinators; and who makes the group, where there is
/// none: all of these together, once each of them answers, the first of them leading.
///
/// It lists those that are asked for, and those that are still there. One that leaves stays
/// listed until its pod is gone: a coordinator whose disk was lost and that is listed alone
/// would make a group of its own, although the others have one. A newcomer is listed before
/// it is a member: it finds the group by the others, and waits to be taken in. Nodes refuse an
/// even number, so that it is made odd; one that is listed and not there does no harm to a
/// group that exists.
fn coordinators(cluster: &Cluster, plan: &Plan) -> String {
    let wanted = u32::from(cluster.spec.coordinators.replicas);
    let listed = wanted.max(plan.replicas.coordinators) | 1;
    let names = &cluster.names;
    let all: Vec<String> = (0..listed.min(COORDINATORS_MAX))
        .map(|ordinal| {
            let role = Role::Coordinator;
            let (pod, host) = (names.pod(role, ordinal), names.host(role, ordinal));
            format!("{pod}={host}:{PEER_PORT}")
        })
        .collect();
    all.join(",")
}

fn put<T: ToString + ?Sized>(settings: &mut Settings, name: &'static str, value: Option<&T>) {
    if let Some(value) = value {
        settings.insert(name, value.to_string());
    }
}

/// What does not parse was refused before, see `validate`.
fn bytes(size: &Quantity) -> Option<u64> {
    quantity::bytes(size).ok()
}

fn consistency(preset: Consistency) -> &'static str {
    match preset {
        Consistency::Strong => "strong",
        Consistency::Eventual => "eventual",
    }
}

fn read_level(level: ReadLevel) -> &'static str {
    match level {
        ReadLevel::Primary => "primary",
        ReadLevel::Quorum => "quorum",
        ReadLevel::Replica => "replica",
        ReadLevel::Any => "any",
    }
}
