//! The template of a role's pods.
//!
//! It is a function of the manifest and of the image alone, and of those of its fields that a
//! running node cannot take up. What it says, and why here:
//!
//! - **Image, resources, scheduling, labels**: a pod cannot change them.
//! - **Which files a node reads, and which of its ports speak TLS**: they go with the volumes
//!   and the probes beside them. In the ConfigMap they could reach a container that is
//!   restarted with the volumes of the template before.
//! - **Whether there are ports for clients outside**: a Service leads there by the name that the
//!   template gives them. By which addresses is no part of it.
//! - **The time-out for stopping**: it goes with the time that Kubernetes gives.
//! - **A hash of what a node reads at its start alone** (log level, bounds), see
//!   `settings` beside this. Everything else a node hears of while it runs.
//!
//! Pods are taken to have IPv4 addresses: Redis clients are told them.
//!
//! # Probes
//!
//! `/livez` says that the process runs, and looks at no disk, no peer and no coordinator: a
//! node whose disk hangs, or that is cut off, would not be mended by being killed, and the
//! coordinators put others in its place within seconds. So it fails where the process answers
//! nothing at all, and is given two minutes of that, for a machine under load may hold it up
//! for long. It answers before the log is recovered, however long that takes: until then alone
//! starting is bounded, to five minutes.
//!
//! `/readyz` says whether the node takes part: it decides who is in the clients' Service, and
//! what an eviction counts as available. Other nodes find one that is not ready as well.

use std::collections::BTreeMap;

use cairn_crds::KvClusterSpec;
use cairn_crds::spec::{ImagePullPolicy, MetadataSpec, SchedulingSpec, StorageSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapEnvSource, ConfigMapVolumeSource, Container, ContainerPort,
    EnvFromSource, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{metadata, places, scheduling, settings};
use crate::cluster::Cluster;
use crate::names::{
    ANNOTATION_SETTINGS, CLIENT_PORT, HTTP_PORT, OUTSIDE_CLIENT_PORT, OUTSIDE_RESP_PORT, PEER_PORT,
    RESP_PORT, Role, VOLUME,
};
use crate::{pki, users};

/// The user and group of the process, and the group of its volume: `nonroot` of many images.
const NOBODY: i64 = 65_532;
/// The name of the container.
const CONTAINER: &str = "cairn";
/// Where the node's volume is.
const DATA_DIR: &str = "/var/lib/cairn";
const TLS_VOLUME: &str = "tls";
const TLS_DIR: &str = "/etc/cairn/tls";
const USERS_VOLUME: &str = "users";
const USERS_DIR: &str = "/etc/cairn/users";
const PLACES_VOLUME: &str = "places";
const PLACES_DIR: &str = "/etc/cairn/places";
/// How long a node hands over where the manifest does not say, ms: the node's own default.
const DRAIN_TIMEOUT_MS: u32 = 20_000;
/// What Kubernetes gives a process beyond that, s: a node ends itself 5 s after its time-out.
const GRACE_SECONDS: i64 = 10;
/// Files of a Secret: for the process's group.
const SECRET_MODE: i32 = 0o440;

/// The ports of a role's pods, with their names.
#[must_use]
pub fn ports(role: Role) -> &'static [(&'static str, u16)] {
    static ALL: [(&str, u16); 4] = [
        ("redis", RESP_PORT),
        ("grpc", CLIENT_PORT),
        ("peer", PEER_PORT),
        ("http", HTTP_PORT),
    ];
    match role {
        Role::Coordinator => &ALL[1..],
        Role::Data => &ALL,
    }
}

/// The ports for clients outside, with their names.
pub(super) const OUTSIDE_PORTS: [(&str, u16); 2] = [
    ("redis-outside", OUTSIDE_RESP_PORT),
    ("grpc-outside", OUTSIDE_CLIENT_PORT),
];

/// Those of them that pods of the role have.
pub(super) fn outside_ports(cluster: &Cluster, role: Role) -> &'static [(&'static str, u16)] {
    if role == Role::Data && cluster.spec.outside.is_some() {
        &OUTSIDE_PORTS
    } else {
        &[]
    }
}

/// What a manifest says of a role.
pub(super) struct RoleSpec<'a> {
    pub(super) storage: &'a StorageSpec,
    pub(super) resources: Option<&'a ResourceRequirements>,
    pub(super) scheduling: &'a SchedulingSpec,
    pub(super) pod: &'a MetadataSpec,
}

impl<'a> RoleSpec<'a> {
    pub(super) fn of(spec: &'a KvClusterSpec, role: Role) -> Self {
        match role {
            Role::Coordinator => Self {
                storage: &spec.coordinators.storage,
                resources: spec.coordinators.resources.as_ref(),
                scheduling: &spec.coordinators.scheduling,
                pod: &spec.coordinators.pod,
            },
            Role::Data => Self {
                storage: &spec.data.storage,
                resources: spec.data.resources.as_ref(),
                scheduling: &spec.data.scheduling,
                pod: &spec.data.pod,
            },
        }
    }
}

/// The template of a role's pods.
#[must_use]
pub fn template(cluster: &Cluster, role: Role) -> PodTemplateSpec {
    let names = &cluster.names;
    let given = RoleSpec::of(&cluster.spec, role).pod;
    let own = BTreeMap::from([(
        ANNOTATION_SETTINGS.to_owned(),
        settings::hash(cluster, role),
    )]);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(metadata::merged(&given.labels, names.role_selector(role))),
            annotations: Some(metadata::merged(&given.annotations, own)),
            ..ObjectMeta::default()
        }),
        spec: Some(pod_spec(cluster, role)),
    }
}

fn pod_spec(cluster: &Cluster, role: Role) -> PodSpec {
    let names = &cluster.names;
    let secrets = &cluster.spec.image_pull_secrets;
    let SchedulingSpec {
        node_selector,
        tolerations,
        affinity,
        topology_spread_constraints,
        priority_class_name,
    } = RoleSpec::of(&cluster.spec, role).scheduling;
    PodSpec {
        containers: vec![container(cluster, role)],
        volumes: Some(volumes(cluster, role)),
        service_account_name: Some(names.account()),
        automount_service_account_token: Some(false),
        // A variable for every Service of the namespace would be read as a mistyped setting.
        enable_service_links: Some(false),
        image_pull_secrets: (!secrets.is_empty()).then(|| secrets.clone()),
        termination_grace_period_seconds: Some(grace_seconds(cluster)),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(NOBODY),
            run_as_group: Some(NOBODY),
            fs_group: Some(NOBODY),
            // A volume with much on it is not gone through at each start.
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".to_owned(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        node_selector: (!node_selector.is_empty()).then(|| node_selector.clone()),
        tolerations: (!tolerations.is_empty()).then(|| tolerations.clone()),
        affinity: Some(
            affinity
                .clone()
                .unwrap_or_else(|| scheduling::affinity(names, role)),
        ),
        topology_spread_constraints: Some(
            topology_spread_constraints
                .clone()
                .unwrap_or_else(|| scheduling::spread(names, role)),
        ),
        priority_class_name: priority_class_name.clone(),
        ..PodSpec::default()
    }
}

fn container(cluster: &Cluster, role: Role) -> Container {
    let given = RoleSpec::of(&cluster.spec, role).resources;
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: cluster
            .spec
            .image_pull_policy
            .map(|policy| pull_policy(policy).to_owned()),
        env_from: Some(vec![EnvFromSource {
            config_map_ref: Some(ConfigMapEnvSource {
                name: cluster.names.settings(role),
                optional: None,
            }),
            ..EnvFromSource::default()
        }]),
        env: Some(environment(cluster, role)),
        ports: Some(
            ports(role)
                .iter()
                .chain(outside_ports(cluster, role))
                .copied()
                .map(container_port)
                .collect(),
        ),
        resources: Some(given.cloned().unwrap_or_else(|| resources(role))),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(300),
            ..probe(cluster, "/livez")
        }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            failure_threshold: Some(12),
            ..probe(cluster, "/livez")
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(2),
            failure_threshold: Some(3),
            ..probe(cluster, "/readyz")
        }),
        // What a node says last, where a wrong setting keeps it from starting, is then in the
        // pod's status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(mounts(cluster, role)),
        ..Container::default()
    }
}

/// What a container is told beside the ConfigMap, which it wins over. A variable may refer to
/// those before it.
fn environment(cluster: &Cluster, role: Role) -> Vec<EnvVar> {
    let names = &cluster.names;
    let tls = &cluster.spec.tls;
    let host = format!("$(CAIRN_NAME).{}.{}.svc", names.role(role), names.namespace);
    let tls_ports = if tls.clients { "all" } else { "peer" };
    let mut all = vec![
        literal("CAIRN_ROLE", role.component()),
        of_pod("CAIRN_NAME", "metadata.name"),
        literal("CAIRN_ADVERTISE_HOST", host.clone()),
        literal("CAIRN_DATA_DIR", DATA_DIR),
        literal(
            "CAIRN_DRAIN_TIMEOUT_MS",
            drain_timeout_ms(cluster).to_string(),
        ),
        literal(
            "CAIRN_TLS_CERT_FILE",
            format!("{TLS_DIR}/{}", pki::CERTIFICATE),
        ),
        literal("CAIRN_TLS_KEY_FILE", format!("{TLS_DIR}/{}", pki::KEY)),
        literal("CAIRN_TLS_CA_FILE", format!("{TLS_DIR}/{}", pki::AUTHORITY)),
        literal("CAIRN_TLS_PORTS", tls_ports),
    ];
    if cluster.spec.users.is_some() {
        let file = format!("{USERS_DIR}/{}", users::FILE);
        all.push(literal("CAIRN_USERS_FILE", file));
    }
    if role == Role::Data {
        all.extend([
            of_pod("CAIRN_HOST", "spec.nodeName"),
            literal(
                "CAIRN_PLACES_FILE",
                format!("{PLACES_DIR}/{}", places::FILE),
            ),
            of_pod("POD_IP", "status.podIP"),
            // Many Redis clients take the address of a node for its identity, and some no
            // name in its place.
            literal("CAIRN_RESP_ADVERTISE", format!("$(POD_IP):{RESP_PORT}")),
            literal("CAIRN_RESP_HOSTNAME", host),
        ]);
        if cluster.spec.outside.is_some() {
            let listen = |port: u16| format!("0.0.0.0:{port}");
            all.extend([
                literal("CAIRN_OUTSIDE_RESP_LISTEN", listen(OUTSIDE_RESP_PORT)),
                literal("CAIRN_OUTSIDE_CLIENT_LISTEN", listen(OUTSIDE_CLIENT_PORT)),
            ]);
        }
        if tls.clients {
            // An address is in no certificate.
            all.push(literal("CAIRN_RESP_ENDPOINT_TYPE", "hostname"));
        }
    }
    all
}

fn volumes(cluster: &Cluster, role: Role) -> Vec<Volume> {
    let names = &cluster.names;
    let tls = cluster.spec.tls.secret_name.clone();
    let mut all = vec![secret_volume(
        TLS_VOLUME,
        tls.unwrap_or_else(|| names.certificate()),
        &[pki::CERTIFICATE, pki::KEY, pki::AUTHORITY],
    )];
    if cluster.spec.users.is_some() {
        // Without the operator's token, which is beside it.
        all.push(secret_volume(USERS_VOLUME, names.users(), &[users::FILE]));
    }
    if role == Role::Data {
        all.push(Volume {
            name: PLACES_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: names.places(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    all
}

fn mounts(cluster: &Cluster, role: Role) -> Vec<VolumeMount> {
    let mut all = vec![
        mount(VOLUME, DATA_DIR, false),
        mount(TLS_VOLUME, TLS_DIR, true),
    ];
    if cluster.spec.users.is_some() {
        all.push(mount(USERS_VOLUME, USERS_DIR, true));
    }
    if role == Role::Data {
        all.push(mount(PLACES_VOLUME, PLACES_DIR, true));
    }
    all
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn secret_volume(name: &str, secret: String, keys: &[&str]) -> Volume {
    let items = keys.iter().map(|key| KeyToPath {
        key: (*key).to_owned(),
        path: (*key).to_owned(),
        mode: None,
    });
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret),
            default_mode: Some(SECRET_MODE),
            items: Some(items.collect()),
            optional: None,
        }),
        ..Volume::default()
    }
}

fn probe(cluster: &Cluster, path: &str) -> Probe {
    let scheme = if cluster.spec.tls.clients {
        "HTTPS"
    } else {
        "HTTP"
    };
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            scheme: Some(scheme.to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}

fn drain_timeout_ms(cluster: &Cluster) -> u32 {
    let given = cluster.spec.timings.drain_timeout_ms;
    given.unwrap_or(DRAIN_TIMEOUT_MS)
}

fn grace_seconds(cluster: &Cluster) -> i64 {
    i64::from(drain_timeout_ms(cluster).div_ceil(1_000)) + GRACE_SECONDS
}

/// What a node asks for where the manifest does not say: enough to be scheduled with some
/// sense, little enough for a laptop. There are no limits, since what a node takes follows
/// from its bounds, and a limit below them would end it.
fn resources(role: Role) -> ResourceRequirements {
    let (cpu, memory) = match role {
        Role::Coordinator => ("50m", "128Mi"),
        Role::Data => ("200m", "512Mi"),
    };
    let requests = [("cpu", cpu), ("memory", memory)]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())));
    ResourceRequirements {
        requests: Some(BTreeMap::from(requests)),
        ..ResourceRequirements::default()
    }
}

fn pull_policy(policy: ImagePullPolicy) -> &'static str {
    match policy {
        ImagePullPolicy::Always => "Always",
        ImagePullPolicy::IfNotPresent => "IfNotPresent",
        ImagePullPolicy::Never => "Never",
    }
}

fn container_port((name, port): (&str, u16)) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(port),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn literal(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(value.into()),
        value_from: None,
    }
}

fn of_pod(name: &str, field: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: field.to_owned(),
                api_version: None,
            }),
            ..EnvVarSource::default()
        }),
    }
}
