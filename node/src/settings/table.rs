//! The one table of settings: what the flags, the variables and `docs/settings.md`
//! are made of. A test holds that every row is read and that nothing else is.

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

/// The row of a variable.
#[must_use]
pub fn setting(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.name == name)
}

const fn row(
    name: &'static str,
    roles: Roles,
    group: Group,
    default: &'static str,
    unit: &'static str,
    purpose: &'static str,
) -> Setting {
    Setting {
        name,
        roles,
        group,
        default,
        unit,
        purpose,
    }
}

use Group::{Bounds, Cluster, Identity, Network, Process, Timings};
use Roles::{Both, Coordinator, Data};

/// Every setting of a node process.
pub const SETTINGS: &[Setting] = &[
    row(
        "CAIRN_ROLE",
        Both,
        Identity,
        "required",
        "`coordinator` or `data`",
        "Makes the process a node of this role; without it the binary is the `cairn` command.",
    ),
    row(
        "CAIRN_NAME",
        Both,
        Identity,
        "the host name",
        "name",
        "The node's name, for people and for Kubernetes. One live identity is admitted per name.",
    ),
    row(
        "CAIRN_DATA_DIR",
        Both,
        Identity,
        "/var/lib/cairn",
        "directory",
        "Where the node keeps everything. One process at a time holds it.",
    ),
    row(
        "CAIRN_ZONE",
        Data,
        Identity,
        "none, or what CAIRN_PLACES_FILE says",
        "name",
        "The failure zone: replicas of a partition are spread over zones.",
    ),
    row(
        "CAIRN_WEIGHT",
        Data,
        Identity,
        "100, or what CAIRN_PLACES_FILE says",
        "1 to 10000",
        "The node's share of the data relative to the others.",
    ),
    row(
        "CAIRN_HOST",
        Data,
        Identity,
        "none",
        "name",
        "The machine that the node runs on, as CAIRN_PLACES_FILE calls it: with Kubernetes the node's name, from the downward API (`spec.nodeName`).",
    ),
    row(
        "CAIRN_PLACES_FILE",
        Data,
        Identity,
        "none",
        "TOML file",
        "The zones of machines, the weights of data nodes and their addresses outside, see docs/operations.md. A node without a place waits for its line before it takes part; a changed line comes into force within seconds.",
    ),
    row(
        "CAIRN_COORDINATORS",
        Both,
        Network,
        "required",
        "`name=host:port,...`",
        "Coordinators by name with their peer addresses. An odd number: 1, 3 or 5. All of them, where the cluster is to be made; later, where to begin to look for the present ones.",
    ),
    row(
        "CAIRN_RESP_LISTEN",
        Data,
        Network,
        "0.0.0.0:6379",
        "ip:port",
        "Where Redis clients connect.",
    ),
    row(
        "CAIRN_CLIENT_LISTEN",
        Both,
        Network,
        "0.0.0.0:7400",
        "ip:port",
        "Where gRPC clients connect.",
    ),
    row(
        "CAIRN_PEER_LISTEN",
        Both,
        Network,
        "0.0.0.0:7401",
        "ip:port",
        "Where other nodes connect.",
    ),
    row(
        "CAIRN_HTTP_LISTEN",
        Both,
        Network,
        "0.0.0.0:7402",
        "ip:port",
        "Health (`/livez`, `/readyz`), Prometheus (`/metrics`) and, on a coordinator, the status page (`/`).",
    ),
    row(
        "CAIRN_ADVERTISE_HOST",
        Both,
        Network,
        "the listening address, or the host name where that is a wildcard",
        "host",
        "The host under which others reach this node.",
    ),
    row(
        "CAIRN_RESP_ADVERTISE",
        Data,
        Network,
        "see above",
        "host:port",
        "The address that `MOVED` and `CLUSTER SLOTS` tell Redis clients.",
    ),
    row(
        "CAIRN_RESP_HOSTNAME",
        Data,
        Network,
        "none",
        "host",
        "The host name that the `CLUSTER` commands tell besides the host of the address, as Redis's `cluster-announce-hostname`.",
    ),
    row(
        "CAIRN_RESP_ENDPOINT_TYPE",
        Data,
        Network,
        "ip",
        "`ip`, `hostname` or `unknown-endpoint`",
        "What Redis clients are told to dial, as Redis's `cluster-preferred-endpoint-type`: the host of the address, the host name, or the host that they reached already.",
    ),
    row(
        "CAIRN_OUTSIDE_RESP_LISTEN",
        Data,
        Network,
        "none",
        "ip:port",
        "Where Redis clients connect that are not on the nodes' network: they are told addresses outside alone. With CAIRN_OUTSIDE_CLIENT_LISTEN, or not at all.",
    ),
    row(
        "CAIRN_OUTSIDE_CLIENT_LISTEN",
        Data,
        Network,
        "none",
        "ip:port",
        "Where gRPC clients connect that are not on the nodes' network.",
    ),
    row(
        "CAIRN_OUTSIDE_RESP_ADVERTISE",
        Data,
        Network,
        "none, or what CAIRN_PLACES_FILE says",
        "host:port",
        "The address that `MOVED` and `CLUSTER SLOTS` tell Redis clients that came in from outside.",
    ),
    row(
        "CAIRN_OUTSIDE_CLIENT_ADVERTISE",
        Data,
        Network,
        "none, or what CAIRN_PLACES_FILE says",
        "host:port",
        "The address by which gRPC clients outside reach this node.",
    ),
    row(
        "CAIRN_CLIENT_ADVERTISE",
        Both,
        Network,
        "see above",
        "host:port",
        "The address that the map tells gRPC clients.",
    ),
    row(
        "CAIRN_PEER_ADVERTISE",
        Both,
        Network,
        "see above",
        "host:port",
        "The address that other nodes dial.",
    ),
    row(
        "CAIRN_HTTP_ADVERTISE",
        Both,
        Network,
        "see above",
        "host:port",
        "The address under which health and metrics are reached.",
    ),
    row(
        "CAIRN_TLS_CERT_FILE",
        Both,
        Network,
        "none: plain text",
        "PEM file",
        "This node's certificate chain. Given together with the key and the CA; read again when the files change.",
    ),
    row(
        "CAIRN_TLS_KEY_FILE",
        Both,
        Network,
        "none",
        "PEM file",
        "The private key of the certificate.",
    ),
    row(
        "CAIRN_TLS_CA_FILE",
        Both,
        Network,
        "none",
        "PEM file",
        "The CA whose certificates other nodes must show.",
    ),
    row(
        "CAIRN_TLS_PORTS",
        Both,
        Network,
        "all",
        "`all` or `peer`",
        "Which ports speak TLS where the files are given: every one, or the port between nodes alone. The same on every node.",
    ),
    row(
        "CAIRN_USERS_FILE",
        Both,
        Network,
        "none: everyone may do everything",
        "TOML file",
        "Who may do what on the ports for clients, see docs/security.md; read again when the file changes.",
    ),
    row(
        "CAIRN_MANAGED_BY",
        Coordinator,
        Network,
        "none",
        "text, as `KvCluster shop/orders`",
        "The manifest that governs the cluster: changes of members and settings that a person asks for are refused in its name, unless with `--override-manifest`.",
    ),
    row(
        "CAIRN_CONSISTENCY",
        Coordinator,
        Cluster,
        "none",
        "`strong` or `eventual`",
        "A preset: supplies the defaults of the write quorum and of the read level; explicit ones win. `strong` refuses a write quorum below a majority.",
    ),
    row(
        "CAIRN_READ_LEVEL",
        Coordinator,
        Cluster,
        "primary; any where the consistency is `eventual`",
        "`primary`, `quorum`, `replica` or `any`",
        "The level of reads that name none: see `docs/consistency.md`. Redis connections read at `primary`, and at `CAIRN_READONLY_LEVEL` after `READONLY`.",
    ),
    row(
        "CAIRN_READ_QUORUM",
        Coordinator,
        Cluster,
        "RF - W + 1",
        "1 to RF",
        "How many replicas a `quorum` read asks at least. Refused where it does not overlap with the write quorum, unless the consistency is `eventual`.",
    ),
    row(
        "CAIRN_REPLICATION_FACTOR",
        Coordinator,
        Cluster,
        "3",
        "1 to 7",
        "How many replicas a partition has, the primary included.",
    ),
    row(
        "CAIRN_WRITE_QUORUM",
        Coordinator,
        Cluster,
        "RF/2 rounded down, plus 1; 1 where the consistency is `eventual`",
        "1 to RF",
        "On how many replicas a write is flushed before it is acknowledged.",
    ),
    row(
        "CAIRN_MIN_IN_SYNC",
        Coordinator,
        Cluster,
        "the smaller of the write quorum and RF/2 rounded up",
        "1 to W",
        "The fewest members that a configuration may shrink to where the write quorum is all of them.",
    ),
    row(
        "CAIRN_PARTITIONS",
        Coordinator,
        Cluster,
        "128",
        "1 to 16384",
        "How many ranges the slots are cut into. Fixed when the cluster is made.",
    ),
    row(
        "CAIRN_VIRTUAL_NODES",
        Coordinator,
        Cluster,
        "64",
        "1 to 1024",
        "Virtual nodes on the ring of a data node of weight 100.",
    ),
    row(
        "CAIRN_INITIAL_DATA_NODES",
        Coordinator,
        Cluster,
        "the replication factor",
        "count",
        "How many data nodes must have registered before the partitions are placed.",
    ),
    row(
        "CAIRN_LEASE_MS",
        Coordinator,
        Cluster,
        "400",
        "ms",
        "How long a replica's grant to its primary lasts: the least time that a failover takes.",
    ),
    row(
        "CAIRN_NODE_TIMEOUT_MS",
        Coordinator,
        Cluster,
        "1500",
        "ms",
        "How long a data node may be silent before it counts as down.",
    ),
    row(
        "CAIRN_REPLACE_AFTER_MS",
        Coordinator,
        Cluster,
        "300000",
        "ms",
        "How long a data node may stay away before its replicas are made anew elsewhere.",
    ),
    row(
        "CAIRN_MOVES_PER_NODE",
        Coordinator,
        Cluster,
        "4",
        "1 to 64",
        "The most replicas that are made at a time on one data node, and out of what one leads.",
    ),
    row(
        "CAIRN_IDEMPOTENCE_WINDOW",
        Coordinator,
        Cluster,
        "65536",
        "16 to 16777216",
        "How many sequenced writes a partition remembers, so that a retry is applied once.",
    ),
    row(
        "CAIRN_COUNTERS",
        Coordinator,
        Cluster,
        "",
        "PREFIX=STRIPES, ...",
        "Which keys may become striped counters, with 1 to 64 stripes (docs/hot-keys.md).",
    ),
    row(
        "CAIRN_READONLY_LEVEL",
        Data,
        Network,
        "replica",
        "`primary`, `quorum`, `replica` or `any`",
        "The level at which a Redis connection reads after `READONLY`: see `docs/consistency.md`.",
    ),
    row(
        "CAIRN_MAX_CONNECTIONS",
        Data,
        Bounds,
        "10000",
        "count",
        "The most Redis connections at a time, and the most gRPC connections; more are refused. Lowered at start, with a warning, to what the limit of open files leaves.",
    ),
    row(
        "CAIRN_MAX_KEY_BYTES",
        Data,
        Bounds,
        "64KiB",
        "bytes, 64KiB or less",
        "The longest key; longer ones are refused.",
    ),
    row(
        "CAIRN_MAX_VALUE_BYTES",
        Data,
        Bounds,
        "16MiB",
        "bytes",
        "The largest value; larger ones are refused.",
    ),
    row(
        "CAIRN_MAX_ARGUMENTS",
        Data,
        Bounds,
        "1048576",
        "16 to 1048576",
        "The most arguments of one Redis command, its name included; keys among them 65536 at most.",
    ),
    row(
        "CAIRN_MAX_COMMAND_BYTES",
        Data,
        Bounds,
        "32MiB",
        "bytes",
        "The longest Redis command in all; one with the largest key and value must fit.",
    ),
    row(
        "CAIRN_OUTPUT_BUFFER_BYTES",
        Data,
        Bounds,
        "1MiB",
        "bytes",
        "The most bytes of replies that a Redis client may leave unread; beyond it nothing more is run for it.",
    ),
    row(
        "CAIRN_INPUT_ROOM_BYTES",
        Data,
        Bounds,
        "512MiB",
        "bytes",
        "Room for the commands and messages above 64 KiB of all clients together, over Redis and gRPC, while they come in; others wait.",
    ),
    row(
        "CAIRN_PENDING_WRITE_BYTES",
        Data,
        Bounds,
        "64MiB",
        "bytes",
        "The most bytes of writes that wait for their commit, half of them at most of writes of level `all`; more are refused as overloaded.",
    ),
    row(
        "CAIRN_LOG_MEMORY_BYTES",
        Data,
        Bounds,
        "128MiB",
        "bytes",
        "The most log bytes kept in memory for replicas that lag; one further behind gets a snapshot.",
    ),
    row(
        "CAIRN_WINDOW_BYTES",
        Data,
        Bounds,
        "4MiB",
        "bytes",
        "The most unacknowledged bytes in flight to one replica of one partition.",
    ),
    row(
        "CAIRN_VALUE_CACHE_BYTES",
        Data,
        Bounds,
        "64MiB",
        "bytes",
        "The cache of values in front of the store.",
    ),
    row(
        "CAIRN_TRACKING_BYTES",
        Data,
        Bounds,
        "128MiB",
        "bytes",
        "The most memory for remembering which client keeps which key in a cache, about 110 bytes and the key for each; where it is full, clients are told to drop some of them. See hot-keys.md.",
    ),
    row(
        "CAIRN_STORE_CACHE_BYTES",
        Data,
        Bounds,
        "64MiB",
        "bytes",
        "The store's block cache.",
    ),
    row(
        "CAIRN_STORE_MEMTABLE_BYTES",
        Data,
        Bounds,
        "64MiB",
        "bytes",
        "How much the store collects in memory before it writes a table.",
    ),
    row(
        "CAIRN_STORE_JOURNAL_BYTES",
        Data,
        Bounds,
        "128MiB",
        "bytes, 64MiB or more",
        "The most that the store's own journals take on disk.",
    ),
    row(
        "CAIRN_STORE_READER_THREADS",
        Data,
        Bounds,
        "the CPUs that the process is allowed, from 2 to 16",
        "1 to 256",
        "Threads that read from disk what no cache holds.",
    ),
    row(
        "CAIRN_WAL_SEGMENT_BYTES",
        Data,
        Bounds,
        "64MiB",
        "bytes",
        "The size of one segment of the write-ahead log, allocated ahead.",
    ),
    row(
        "CAIRN_WAL_RETAIN_BYTES",
        Data,
        Bounds,
        "512MiB",
        "bytes",
        "The most log that is kept on disk for replicas that lag.",
    ),
    row(
        "CAIRN_WAL_KEEP_BYTES",
        Data,
        Bounds,
        "128MiB",
        "bytes",
        "How much of the log stays on disk for watches although no replica needs it, within CAIRN_WAL_RETAIN_BYTES and while the disk has room.",
    ),
    row(
        "CAIRN_SNAPSHOT_SEND_BYTES_PER_SECOND",
        Data,
        Bounds,
        "no fixed limit",
        "bytes",
        "The most that copies for other nodes, snapshots and the log for new replicas, may take of the network and the disk in a second, all together; 0: no fixed limit. More only where clients write more. Without one, and below it, they give way to clients.",
    ),
    row(
        "CAIRN_SNAPSHOT_RECEIVE_BYTES_PER_SECOND",
        Data,
        Bounds,
        "no fixed limit",
        "bytes",
        "The same for snapshots that the node fetches.",
    ),
    row(
        "CAIRN_HOT_KEYS",
        Data,
        Bounds,
        "hashes",
        "`hashes`, `names` or `off`",
        "What the node tells of keys that clients ask for far more than others: a hash of the key, or its name, which may be a secret; or nothing, and then it looks for none. `cairn hotkeys` shows them.",
    ),
    row(
        "CAIRN_SNAPSHOTS_SENT_AT_ONCE",
        Data,
        Bounds,
        "4",
        "number",
        "How many snapshots the node gives at a time; who wants another one asks elsewhere, or later.",
    ),
    row(
        "CAIRN_SNAPSHOTS_RECEIVED_AT_ONCE",
        Data,
        Bounds,
        "2",
        "number",
        "How many snapshots the node fetches at a time; the others wait.",
    ),
    row(
        "CAIRN_DISK_RESERVE_BYTES",
        Data,
        Bounds,
        "256MiB",
        "bytes",
        "Free disk space below which writes are refused while reads go on.",
    ),
    row(
        "CAIRN_HEARTBEAT_MS",
        Data,
        Timings,
        "100",
        "ms",
        "How often a data node tells the coordinators how it stands.",
    ),
    row(
        "CAIRN_TICK_MS",
        Data,
        Timings,
        "10",
        "ms",
        "How often replication looks at its timers.",
    ),
    row(
        "CAIRN_RESEND_MS",
        Data,
        Timings,
        "200",
        "ms",
        "When an append without an answer is sent again.",
    ),
    row(
        "CAIRN_STUCK_FLUSH_MS",
        Data,
        Timings,
        "2000",
        "ms",
        "When a flush that does not return counts as stuck: the node then asks that others lead, and nobody counts on it.",
    ),
    row(
        "CAIRN_PUSH_BACK_MS",
        Data,
        Timings,
        "60000",
        "ms",
        "For how long writes may be slowed so that a replica far behind catches up, before it is given up.",
    ),
    row(
        "CAIRN_LEASE_MARGIN_MS",
        Data,
        Timings,
        "a tenth of the lease",
        "ms",
        "What a primary subtracts from its lease for clocks that drift; never more than half of it.",
    ),
    row(
        "CAIRN_REQUEST_TIMEOUT_MS",
        Data,
        Timings,
        "2000",
        "ms",
        "How long a request may wait on the node before its outcome is reported as unknown.",
    ),
    row(
        "CAIRN_IDLE_TIMEOUT_MS",
        Data,
        Timings,
        "0: never",
        "ms",
        "Closes a Redis connection that has sent nothing for so long, to the second.",
    ),
    row(
        "CAIRN_STALL_TIMEOUT_MS",
        Data,
        Timings,
        "60000",
        "ms",
        "Closes a connection that leaves a command or message unfinished, or replies unread, and ends a watch that is not read, for so long.",
    ),
    row(
        "CAIRN_HANDSHAKE_TIMEOUT_MS",
        Data,
        Timings,
        "5000",
        "ms",
        "How long a client's TLS handshake may take.",
    ),
    row(
        "CAIRN_RAFT_HEARTBEAT_MS",
        Coordinator,
        Timings,
        "80",
        "ms",
        "How often the leading coordinator shows the others that it is there.",
    ),
    row(
        "CAIRN_RAFT_ELECTION_MS",
        Coordinator,
        Timings,
        "300",
        "ms",
        "How long coordinators do without their leader before they elect another.",
    ),
    row(
        "CAIRN_DRAIN_TIMEOUT_MS",
        Both,
        Timings,
        "20000",
        "ms",
        "How long a node that was asked to stop may hand over and finish what runs. A second signal ends it at once.",
    ),
    row(
        "CAIRN_TRACE_COLLECTOR",
        Data,
        Process,
        "none",
        "host:port",
        "The OpenTelemetry collector that is told of requests that are traced: where it takes OTLP over gRPC, without TLS.",
    ),
    row(
        "CAIRN_TRACE_PER_MILLION",
        Data,
        Process,
        "0",
        "0 to 1000000",
        "How many of a million writes are traced although no caller asks for it.",
    ),
    row(
        "CAIRN_LOG",
        Both,
        Process,
        "info,openraft=warn,fjall=warn,lsm_tree=warn",
        "filter",
        "What is logged: a level, or `target=level,...`. A level alone leaves libraries at warnings; name one (`info,openraft=debug`) to hear more of it.",
    ),
    row(
        "CAIRN_LOG_FORMAT",
        Both,
        Process,
        "text",
        "`text` or `json`",
        "How log lines look. They go to standard error.",
    ),
    row(
        "CAIRN_NETWORK_THREADS",
        Both,
        Process,
        "the CPUs that the process is allowed",
        "1 to 256",
        "Threads that serve connections. The default follows cgroup quotas and CPU affinity.",
    ),
    row(
        "CAIRN_EXIT_WITH_STDIN",
        Both,
        Process,
        "false",
        "`true` or `false`",
        "Ends the process when standard input is closed: for a parent that must not leave it behind.",
    ),
];
