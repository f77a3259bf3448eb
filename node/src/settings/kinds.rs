//! What a setting is: who reads it, under which heading it stands, what its flag is.

/// Which processes read a setting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Roles {
    /// Coordinators and data nodes.
    Both,
    /// Coordinators.
    Coordinator,
    /// Data nodes.
    Data,
}

impl Roles {
    /// As the docs write it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Coordinator => "coordinator",
            Self::Data => "data",
        }
    }
}

/// A heading under which settings stand in the docs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Who the process is.
    Identity,
    /// Where it listens and what it tells others.
    Network,
    /// What the whole cluster agrees on.
    Cluster,
    /// Bounds on memory, disk and connections.
    Bounds,
    /// Intervals and time-outs of this process.
    Timings,
    /// Logs and the process itself.
    Process,
}

impl Group {
    /// Every group, in the order of the docs.
    pub const ALL: [Self; 6] = [
        Self::Identity,
        Self::Network,
        Self::Cluster,
        Self::Bounds,
        Self::Timings,
        Self::Process,
    ];

    /// The heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Identity => "Identity",
            Self::Network => "Network",
            Self::Cluster => "Cluster",
            Self::Bounds => "Bounds",
            Self::Timings => "Timings",
            Self::Process => "Process",
        }
    }

    /// What is said under the heading.
    #[must_use]
    pub fn about(self) -> &'static str {
        match self {
            Self::Identity => "Who this process is.",
            Self::Network => {
                "Where it listens, what it tells others to dial, and whom it trusts. An \
                 `ADVERTISE` setting that is not given is the advertised host with the port \
                 of the matching `LISTEN` setting."
            }
            Self::Cluster => {
                "Read by coordinators when the cluster is made, then agreed on through Raft: \
                 a coordinator that starts later with other values warns and keeps what was agreed."
            }
            Self::Bounds => "Memory, disk and connections are bounded by these.",
            Self::Timings => {
                "Intervals and time-outs of this process alone. The lease and the node time-out \
                 belong to the cluster."
            }
            Self::Process => "Logs, threads and the way out.",
        }
    }
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable.
    pub name: &'static str,
    /// Which processes read it.
    pub roles: Roles,
    /// Under which heading it stands.
    pub group: Group,
    /// What holds where it is not given, as the docs say it.
    pub default: &'static str,
    /// The unit or the form of the value.
    pub unit: &'static str,
    /// What it is for.
    pub purpose: &'static str,
}

impl Setting {
    /// The flag without its dashes: `CAIRN_WRITE_QUORUM` is `write-quorum`.
    #[must_use]
    pub fn flag(&self) -> String {
        flag_of(self.name)
    }
}

/// The flag of a variable, without its dashes.
#[must_use]
pub fn flag_of(name: &str) -> String {
    name.strip_prefix("CAIRN_")
        .unwrap_or(name)
        .to_ascii_lowercase()
        .replace('_', "-")
}
