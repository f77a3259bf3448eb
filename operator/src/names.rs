//! What objects are called, how they are labelled, and which ports nodes have.

use std::collections::BTreeMap;
use std::fmt;

/// What a node is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// It agrees with others on who holds what.
    Coordinator,
    /// It holds data.
    Data,
}

impl Role {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Coordinator, Self::Data];

    /// The value of the label of its pods.
    #[must_use]
    pub fn component(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Data => "data",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.component())
    }
}

/// Redis clients.
pub const RESP_PORT: u16 = 6379;
/// gRPC clients.
pub const CLIENT_PORT: u16 = 7400;
/// Redis clients outside Kubernetes' network.
pub const OUTSIDE_RESP_PORT: u16 = 6380;
/// gRPC clients outside Kubernetes' network.
pub const OUTSIDE_CLIENT_PORT: u16 = 7403;
/// Nodes among themselves.
pub const PEER_PORT: u16 = 7401;
/// Health and metrics.
pub const HTTP_PORT: u16 = 7402;

/// The field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "cairn-operator";
/// The volume that holds a node's data; claims are called `data-POD`.
pub const VOLUME: &str = "data";

/// The label with a cluster's name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// The label with a role.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";

/// The label that a Service for clients outside has.
pub const LABEL_OUTSIDE: &str = "cairn.dev/outside";
/// The label of a pod of a StatefulSet with its name.
pub const LABEL_POD_NAME: &str = "statefulset.kubernetes.io/pod-name";

/// On a KvCluster: what a deleted one of its name left on volumes is its data.
pub const ANNOTATION_ADOPT_VOLUMES: &str = "cairn.dev/adopt-volumes";
/// On a claim: the node that was on it gave up all that it held, and was retired.
pub const ANNOTATION_RETIRED: &str = "cairn.dev/retired";
/// On a Secret: which renewal that a person asked for it is the result of.
pub const ANNOTATION_RENEWED: &str = "cairn.dev/renewed";
/// On the Secret with the certificate: since when nodes are given two authorities,
/// milliseconds since 1970.
pub const ANNOTATION_TRUSTED_SINCE: &str = "cairn.dev/trusted-since";
/// On the Secret with the certificate: the hosts by which clients outside reach nodes that the
/// certificate names which every node shows.
pub const ANNOTATION_HOSTS: &str = "cairn.dev/hosts-outside";
/// On a Secret: a hash of what every node goes by.
pub const ANNOTATION_TAKEN_UP: &str = "cairn.dev/taken-up";

/// On a pod template: a hash of the settings that a node reads at its start alone.
pub const ANNOTATION_SETTINGS: &str = "cairn.dev/settings";

pub use cairn_crds::CLUSTER_NAME_BYTES_MAX;

/// The names of a cluster's objects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Names {
    /// Its namespace.
    pub namespace: String,
    /// Its own.
    pub cluster: String,
}

impl Names {
    /// The StatefulSet of a role, and its headless Service, of the same name.
    #[must_use]
    pub fn role(&self, role: Role) -> String {
        match role {
            Role::Coordinator => format!("{}-coordinator", self.cluster),
            Role::Data => format!("{}-data", self.cluster),
        }
    }

    /// The Service for clients, of data nodes that serve.
    #[must_use]
    pub fn client_service(&self) -> String {
        self.cluster.clone()
    }

    /// The Service through which clients outside reach one data node.
    #[must_use]
    pub fn outside(&self, ordinal: u32) -> String {
        format!("{}-outside", self.pod(Role::Data, ordinal))
    }

    /// A pod, which is a node's name too.
    #[must_use]
    pub fn pod(&self, role: Role, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.role(role))
    }

    /// The number of a pod of the role, by its name.
    #[must_use]
    pub fn ordinal(&self, role: Role, pod: &str) -> Option<u32> {
        let rest = pod.strip_prefix(&self.role(role))?.strip_prefix('-')?;
        let canonical = rest == "0" || !rest.starts_with('0');
        rest.parse().ok().filter(|_| canonical)
    }

    /// The claim of a pod.
    #[must_use]
    pub fn claim(&self, pod: &str) -> String {
        format!("{VOLUME}-{pod}")
    }

    /// The name under which a pod is found by others; short of the cluster's domain.
    #[must_use]
    pub fn host(&self, role: Role, ordinal: u32) -> String {
        format!(
            "{}.{}.{}.svc",
            self.pod(role, ordinal),
            self.role(role),
            self.namespace
        )
    }

    /// The ConfigMap with the settings of a role.
    #[must_use]
    pub fn settings(&self, role: Role) -> String {
        self.role(role)
    }

    /// The ConfigMap with zones and weights.
    #[must_use]
    pub fn places(&self) -> String {
        format!("{}-places", self.cluster)
    }

    /// The Secret with the certificate authority that the operator made.
    #[must_use]
    pub fn authority(&self) -> String {
        format!("{}-ca", self.cluster)
    }

    /// The Secret with the nodes' certificate.
    #[must_use]
    pub fn certificate(&self) -> String {
        format!("{}-tls", self.cluster)
    }

    /// The Secret into which somebody else's issuer puts the nodes' certificate.
    #[must_use]
    pub fn issued(&self) -> String {
        format!("{}-issued", self.cluster)
    }

    /// The Secret with the users file as the nodes read it, and the operator's own credential.
    #[must_use]
    pub fn users(&self) -> String {
        format!("{}-users", self.cluster)
    }

    /// The ServiceAccount of the nodes, which may do nothing.
    #[must_use]
    pub fn account(&self) -> String {
        self.cluster.clone()
    }

    /// Labels that select every object of the cluster.
    #[must_use]
    pub fn selector(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            ("app.kubernetes.io/name".to_owned(), "cairn".to_owned()),
            (LABEL_INSTANCE.to_owned(), self.cluster.clone()),
        ])
    }

    /// Labels that select the pods of a role.
    #[must_use]
    pub fn role_selector(&self, role: Role) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(LABEL_COMPONENT.to_owned(), role.component().to_owned());
        labels
    }

    /// Labels of every object of the cluster.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.selector();
        labels.insert(
            "app.kubernetes.io/managed-by".to_owned(),
            FIELD_MANAGER.to_owned(),
        );
        labels
    }

    /// What the coordinators are told of who governs the cluster.
    #[must_use]
    pub fn manifest(&self) -> String {
        format!("KvCluster {}/{}", self.namespace, self.cluster)
    }
}
