//! The typed settings of a node process, one struct per role, and how they are
//! read. Nothing here opens, binds or resolves anything.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use cairn_core::cluster::supervisor::ReadCopies;
use cairn_core::hot::KeyRate;
use cairn_core::kv::request::ReadLevel;
use cairn_core::record::{Addresses, ClusterSettings};
use cairn_proto::limits::CLIENT_MESSAGE_BYTES;

use super::kinds::flag_of;
use super::reader::{Reader, SettingsError, check_host_port};
use super::values::Values;
use super::wal::{self, WalSettings};
use super::{cluster, limits, outside, read_copies};
use crate::agent::{PlaceSettings, PlacesFile, WEIGHTS, check_label};
use crate::coordinator::CoordinatorAddress;
use crate::partition::HotKeysShown;
use crate::resp::EndpointType;
use crate::trace::TraceSettings;

/// Cairn's own events, and of the libraries' only what is amiss.
const LOG_DEFAULT: &str = "info,openraft=warn,fjall=warn,lsm_tree=warn";
/// Room for a command's name, its options and the framing of all.
const COMMAND_REST_BYTES: usize = 4096;
/// The longest name of a manifest, in bytes: a kind, a namespace and a name.
const MANIFEST_BYTES_MAX: usize = 512;
/// How many snapshots may be under way at a time.
const SNAPSHOTS_AT_ONCE: RangeInclusive<usize> = 1..=64;
const KIB: u64 = 1 << 10;
pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;

/// The settings of a node, by its role.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeSettings {
    /// A coordinator.
    Coordinator(Box<CoordinatorSettings>),
    /// A data node.
    Data(Box<DataSettings>),
}

impl NodeSettings {
    /// What both roles have.
    #[must_use]
    pub fn process(&self) -> &ProcessSettings {
        match self {
            Self::Coordinator(settings) => &settings.process,
            Self::Data(settings) => &settings.process,
        }
    }
}

/// What both roles have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// The node's name.
    pub name: String,
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where gRPC clients connect.
    pub client_listen: SocketAddr,
    /// Where other nodes connect.
    pub peer_listen: SocketAddr,
    /// Where health and metrics are.
    pub http_listen: SocketAddr,
    /// What others dial. `resp` is empty for a coordinator.
    pub advertised: Addresses,
    /// Every coordinator.
    pub coordinators: Vec<CoordinatorAddress>,
    /// TLS, if the cluster has it.
    pub tls: Option<TlsFiles>,
    /// Which ports speak it then.
    pub tls_ports: TlsPorts,
    /// Who may do what, if that is set up.
    pub users_file: Option<PathBuf>,
    /// The log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Threads that serve connections.
    pub network_threads: usize,
    /// How long stopping may take.
    pub drain_timeout: Duration,
    /// Whether the process ends when standard input is closed.
    pub exit_with_stdin: bool,
    /// Things to warn about once logs are there.
    pub warnings: Vec<String>,
}

/// The files of this node's TLS identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the other nodes.
    pub ca: PathBuf,
}

/// Which ports speak TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsPorts {
    /// Every port.
    #[default]
    All,
    /// The port between nodes.
    Peer,
}

impl FromStr for TlsPorts {
    type Err = UnknownPorts;

    fn from_str(text: &str) -> Result<Self, UnknownPorts> {
        match text {
            "all" => Ok(Self::All),
            "peer" => Ok(Self::Peer),
            _ => Err(UnknownPorts),
        }
    }
}

/// A word that names no choice of [`TlsPorts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give all or peer")]
pub struct UnknownPorts;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// The settings of a coordinator.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorSettings {
    /// What both roles have.
    pub process: ProcessSettings,
    /// What the cluster is made with.
    pub cluster: ClusterSettings,
    /// How often the Raft leader shows that it is there.
    pub raft_heartbeat: Duration,
    /// The base of this coordinator's election time-out.
    pub raft_election: Duration,
    /// When partitions get copies for reads alone.
    pub read_copies: ReadCopies,
    /// The manifest that governs the cluster, if one does.
    pub managed_by: Option<String>,
}

/// The settings of a data node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSettings {
    /// What both roles have.
    pub process: ProcessSettings,
    /// Where Redis clients connect.
    pub resp_listen: SocketAddr,
    /// Where clients connect that are not on the nodes' network, if any do.
    pub outside_listen: Option<OutsideListen>,
    /// Where it stands among the others.
    pub place: PlaceSettings,
    /// Where traces go, if anywhere.
    pub trace: Option<TraceSettings>,
    /// The most Redis connections, and the most gRPC connections.
    pub max_connections: usize,
    /// The longest key.
    pub max_key_bytes: usize,
    /// The most arguments of a Redis command.
    pub max_arguments: usize,
    /// The longest Redis command.
    pub max_command_bytes: usize,
    /// The most replies that a Redis client may leave unread.
    pub output_buffer_bytes: usize,
    /// Room for the long commands and messages of all clients.
    pub input_room_bytes: usize,
    /// When an idle Redis connection is closed, if ever.
    pub idle_timeout: Option<Duration>,
    /// When a stalled connection is closed.
    pub stall_timeout: Duration,
    /// How long a client's TLS handshake may take.
    pub handshake_timeout: Duration,
    /// The largest value.
    pub max_value_bytes: usize,
    /// The most bytes of writes that wait.
    pub pending_write_bytes: usize,
    /// The most log in memory.
    pub log_memory_bytes: usize,
    /// The most bytes in flight to one replica of one partition.
    pub window_bytes: usize,
    /// The value cache.
    pub value_cache_bytes: u64,
    /// What remembering who keeps which key may take.
    pub tracking_bytes: u64,
    /// The store's block cache.
    pub store_cache_bytes: u64,
    /// The store's memtable.
    pub store_memtable_bytes: u64,
    /// The store's journals.
    pub store_journal_bytes: u64,
    /// Threads that read the store.
    pub store_reader_threads: usize,
    /// The write-ahead log.
    pub wal: WalSettings,
    /// The most bytes of snapshots that are sent in a second; 0 for no fixed limit.
    pub snapshot_send_rate: u64,
    /// The most bytes of snapshots that are received in a second; 0 for no fixed limit.
    pub snapshot_receive_rate: u64,
    /// What is told of keys that are asked for far more than others.
    pub hot_keys: HotKeysShown,
    /// How often a hot key is answered in a second.
    pub key_rate: Option<KeyRate>,
    /// How many snapshots are given at a time.
    pub snapshots_sent_at_once: usize,
    /// How many snapshots are fetched at a time.
    pub snapshots_received_at_once: usize,
    /// Free space below which writes are refused.
    pub disk_reserve_bytes: u64,
    /// The level at which Redis connections read after `READONLY`.
    pub readonly_level: ReadLevel,
    /// How often the node reports.
    pub heartbeat: Duration,
    /// How often replication looks at its timers.
    pub tick: Duration,
    /// When an unanswered append is sent again.
    pub resend: Duration,
    /// When a flush that does not return counts as stuck.
    pub stuck_flush: Duration,
    /// For how long writes are slowed for a replica that catches up.
    pub push_back: Duration,
    /// How many reads of a replica within a lease for reads are worth one.
    pub read_lease_at: u64,
    /// What a primary subtracts from its lease; `None` leaves it to the lease's length.
    pub lease_margin: Option<Duration>,
    /// How long a request may wait.
    pub request_timeout: Duration,
    /// By what Redis clients are told to reach a node.
    pub endpoint_type: EndpointType,
}

/// Where clients connect that are not on the nodes' network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutsideListen {
    /// Redis.
    pub resp: SocketAddr,
    /// gRPC.
    pub client: SocketAddr,
}

/// Judges every given value and returns the settings of the role, or every
/// problem there is.
///
/// # Errors
/// See [`SettingsError`].
pub fn read(values: &Values) -> Result<NodeSettings, SettingsError> {
    let reader = Reader::new(values);
    let settings = match reader.required("CAIRN_ROLE") {
        Some("coordinator") => {
            read_coordinator(&reader).map(|settings| NodeSettings::Coordinator(Box::new(settings)))
        }
        Some("data") => read_data(&reader).map(|settings| NodeSettings::Data(Box::new(settings))),
        Some(_) => {
            reader.problem(
                "CAIRN_ROLE",
                "there is no such role",
                "Give coordinator or data",
            );
            None
        }
        None => None,
    };
    reader.finish(settings)
}

pub(super) fn read_coordinator(reader: &Reader<'_>) -> Option<CoordinatorSettings> {
    let process = read_process(reader, None);
    let cluster = cluster::read(reader);
    let raft_heartbeat = reader.millis("CAIRN_RAFT_HEARTBEAT_MS", 80, 10..=10_000);
    let raft_election = reader.millis("CAIRN_RAFT_ELECTION_MS", 300, 50..=60_000);
    if raft_election < raft_heartbeat * 3 {
        reader.problem(
            "CAIRN_RAFT_ELECTION_MS",
            "it is less than three Raft heartbeats, so that one late heartbeat would unseat the leader",
            "Raise it, or lower CAIRN_RAFT_HEARTBEAT_MS",
        );
    }
    let managed_by = read_manifest(reader);
    let process = process?;
    if !process.coordinators.iter().any(|c| c.name == process.name) {
        reader.problem(
            "CAIRN_COORDINATORS",
            format!("this coordinator's name, {}, is not in it", process.name),
            "Set CAIRN_NAME to one of the listed names, or add it",
        );
    }
    let (cluster, warnings) = cluster?;
    let mut process = process;
    process.warnings.extend(warnings);
    Some(CoordinatorSettings {
        process,
        cluster,
        raft_heartbeat,
        raft_election,
        read_copies: read_copies::read(reader),
        managed_by,
    })
}

/// The manifest's name, which is told to whoever is refused for its sake.
fn read_manifest(reader: &Reader<'_>) -> Option<String> {
    const NAME: &str = "CAIRN_MANAGED_BY";
    let text = reader.text(NAME)?;
    if text.len() > MANIFEST_BYTES_MAX || text.chars().any(char::is_control) {
        reader.problem(
            NAME,
            format!("it is longer than {MANIFEST_BYTES_MAX} bytes or holds a control character"),
            "Give the manifest's kind and name, as KvCluster shop/orders",
        );
        return None;
    }
    Some(text.to_owned())
}

pub(super) fn read_data(reader: &Reader<'_>) -> Option<DataSettings> {
    let resp_listen = reader.listen("CAIRN_RESP_LISTEN", "0.0.0.0:6379");
    let process = read_process(reader, resp_listen);
    let ip = read_ip(reader);
    let hostname = reader.text("CAIRN_RESP_HOSTNAME").unwrap_or_default();
    if !hostname.is_empty()
        && (check_host_port(&format!("{hostname}:1")).is_err() || hostname.starts_with('['))
    {
        reader.problem(
            "CAIRN_RESP_HOSTNAME",
            "it is not a host name",
            "Give a name without a port",
        );
    }
    let endpoint_type = read_endpoint_type(reader, hostname);
    let outside_listen = outside::listen(reader, process.as_ref(), resp_listen);
    let place = read_place(reader, outside_listen.is_some());
    let bounded = |name, default, range| to_usize(reader.bytes(name, default, range));
    let max_value_bytes = bounded("CAIRN_MAX_VALUE_BYTES", 16 * MIB, KIB..=16 * MIB);
    let max_key_bytes = bounded("CAIRN_MAX_KEY_BYTES", 64 * KIB, 1..=64 * KIB);
    let max_command_bytes = bounded("CAIRN_MAX_COMMAND_BYTES", 32 * MIB, 64 * KIB..=GIB);
    let input_room_bytes = bounded("CAIRN_INPUT_ROOM_BYTES", 512 * MIB, MIB..=1024 * GIB);
    let idle_timeout = reader.millis("CAIRN_IDLE_TIMEOUT_MS", 0, 0..=31_536_000_000);
    let pending_write_bytes = bounded("CAIRN_PENDING_WRITE_BYTES", 64 * MIB, MIB..=64 * GIB);
    if max_command_bytes < max_key_bytes + max_value_bytes + COMMAND_REST_BYTES {
        reader.problem(
            "CAIRN_MAX_COMMAND_BYTES",
            "it is less than a command with the largest key and the largest value",
            "Raise it, or lower CAIRN_MAX_VALUE_BYTES",
        );
    }
    if input_room_bytes < 2 * max_command_bytes.max(CLIENT_MESSAGE_BYTES) {
        reader.problem(
            "CAIRN_INPUT_ROOM_BYTES",
            "it is less than two of the longest commands or messages (of gRPC, 24 MiB)",
            "Raise it, or lower CAIRN_MAX_COMMAND_BYTES",
        );
    }
    if pending_write_bytes < 2 * max_value_bytes {
        reader.problem(
            "CAIRN_PENDING_WRITE_BYTES",
            "it is less than two of the largest values",
            "Raise it, or lower CAIRN_MAX_VALUE_BYTES",
        );
    }
    Some(DataSettings {
        outside_listen,
        place,
        trace: read_trace(reader),
        max_connections: reader
            .number("CAIRN_MAX_CONNECTIONS", 1..=1_000_000)
            .unwrap_or(10_000),
        max_value_bytes,
        max_key_bytes,
        max_arguments: reader
            .number("CAIRN_MAX_ARGUMENTS", 16..=1 << 20)
            .unwrap_or(1 << 20),
        max_command_bytes,
        output_buffer_bytes: bounded("CAIRN_OUTPUT_BUFFER_BYTES", MIB, 64 * KIB..=GIB),
        input_room_bytes,
        idle_timeout: (!idle_timeout.is_zero()).then_some(idle_timeout),
        stall_timeout: reader.millis("CAIRN_STALL_TIMEOUT_MS", 60_000, 1_000..=3_600_000),
        handshake_timeout: reader.millis("CAIRN_HANDSHAKE_TIMEOUT_MS", 5_000, 100..=600_000),
        pending_write_bytes,
        log_memory_bytes: bounded("CAIRN_LOG_MEMORY_BYTES", 128 * MIB, MIB..=256 * GIB),
        window_bytes: bounded("CAIRN_WINDOW_BYTES", 4 * MIB, 64 * KIB..=GIB),
        value_cache_bytes: reader.bytes("CAIRN_VALUE_CACHE_BYTES", 64 * MIB, 0..=1024 * GIB),
        tracking_bytes: reader.bytes("CAIRN_TRACKING_BYTES", 128 * MIB, MIB..=1024 * GIB),
        store_cache_bytes: reader.bytes("CAIRN_STORE_CACHE_BYTES", 64 * MIB, MIB..=1024 * GIB),
        store_memtable_bytes: reader.bytes("CAIRN_STORE_MEMTABLE_BYTES", 64 * MIB, MIB..=4 * GIB),
        store_journal_bytes: reader.bytes(
            "CAIRN_STORE_JOURNAL_BYTES",
            128 * MIB,
            64 * MIB..=64 * GIB,
        ),
        store_reader_threads: reader
            .number("CAIRN_STORE_READER_THREADS", 1..=256)
            .unwrap_or_else(|| store_readers(allowed_cpus())),
        wal: wal::read(reader, max_value_bytes),
        snapshot_send_rate: read_rate(reader, "CAIRN_SNAPSHOT_SEND_BYTES_PER_SECOND"),
        snapshot_receive_rate: read_rate(reader, "CAIRN_SNAPSHOT_RECEIVE_BYTES_PER_SECOND"),
        snapshots_sent_at_once: reader
            .number("CAIRN_SNAPSHOTS_SENT_AT_ONCE", SNAPSHOTS_AT_ONCE)
            .unwrap_or(4),
        hot_keys: limits::hot_keys(reader),
        key_rate: limits::key_rate(reader),
        snapshots_received_at_once: reader
            .number("CAIRN_SNAPSHOTS_RECEIVED_AT_ONCE", SNAPSHOTS_AT_ONCE)
            .unwrap_or(2),
        disk_reserve_bytes: reader.bytes("CAIRN_DISK_RESERVE_BYTES", 256 * MIB, MIB..=1024 * GIB),
        readonly_level: cluster::read_level(reader, "CAIRN_READONLY_LEVEL")
            .unwrap_or(ReadLevel::Replica),
        heartbeat: reader.millis("CAIRN_HEARTBEAT_MS", 100, 10..=10_000),
        tick: reader.millis("CAIRN_TICK_MS", 10, 1..=1_000),
        resend: reader.millis("CAIRN_RESEND_MS", 200, 10..=60_000),
        stuck_flush: reader.millis("CAIRN_STUCK_FLUSH_MS", 2_000, 100..=600_000),
        push_back: reader.millis("CAIRN_PUSH_BACK_MS", 60_000, 1_000..=3_600_000),
        read_lease_at: reader
            .number("CAIRN_READ_LEASE_AT", 0..=1_000_000)
            .unwrap_or(4),
        lease_margin: reader
            .number("CAIRN_LEASE_MARGIN_MS", 1..=60_000)
            .map(Duration::from_millis),
        request_timeout: reader.millis("CAIRN_REQUEST_TIMEOUT_MS", 2_000, 100..=600_000),
        endpoint_type,
        // Last, so that everything above was judged as well.
        process: of_data_node(process?, hostname, ip),
        resp_listen: resp_listen?,
    })
}

fn read_trace(reader: &Reader<'_>) -> Option<TraceSettings> {
    const COLLECTOR: &str = "CAIRN_TRACE_COLLECTOR";
    let per_million = reader
        .number("CAIRN_TRACE_PER_MILLION", 0..=1_000_000)
        .unwrap_or(0);
    let collector = reader.text(COLLECTOR).filter(|text| !text.is_empty())?;
    if let Err(reason) = check_host_port(collector) {
        reader.problem(
            COLLECTOR,
            reason,
            "Give the HOST:PORT where the collector takes OTLP over gRPC, as 127.0.0.1:4317",
        );
        return None;
    }
    Some(TraceSettings {
        collector: collector.to_owned(),
        per_million,
    })
}

fn read_place(reader: &Reader<'_>, has_outside: bool) -> PlaceSettings {
    const FILE: &str = "CAIRN_PLACES_FILE";
    let label = |name| {
        let text = reader.text(name)?;
        if check_label(text).is_ok() {
            return Some(text.to_owned());
        }
        reader.problem(
            name,
            "it holds a blank or a control character, or more than 253 bytes",
            "Give a shorter name, without blanks",
        );
        None
    };
    let (zone, host) = (label("CAIRN_ZONE"), label("CAIRN_HOST"));
    let file = reader.text(FILE).map(|path| PlacesFile {
        path: path.into(),
        host: host.clone().unwrap_or_default(),
    });
    let [no_zone, no_host] = ["CAIRN_ZONE", "CAIRN_HOST"].map(|name| reader.text(name).is_none());
    if file.is_some() && no_zone && no_host {
        reader.problem(
            FILE,
            "it is by the machine's name that the zone is found there, and none was given",
            "Set CAIRN_HOST too, or the zone outright with CAIRN_ZONE",
        );
    }
    PlaceSettings {
        zone,
        weight: reader.number("CAIRN_WEIGHT", WEIGHTS),
        outside: outside::addresses(reader, has_outside),
        file,
    }
}

/// A limit of the bandwidth of snapshots; 0 for none.
fn read_rate(reader: &Reader<'_>, name: &'static str) -> u64 {
    let rate = reader.bytes(name, 0, 0..=1024 * GIB);
    if (1..MIB).contains(&rate) {
        reader.problem(
            name,
            "it is so little that a chunk of a snapshot would count as stalled",
            "Give 1MiB or more, or 0 for no fixed limit",
        );
    }
    rate
}

fn read_endpoint_type(reader: &Reader<'_>, hostname: &str) -> EndpointType {
    const NAME: &str = "CAIRN_RESP_ENDPOINT_TYPE";
    match reader.text(NAME) {
        None | Some("ip") => EndpointType::Address,
        Some("hostname") => {
            if hostname.is_empty() {
                reader.problem(
                    NAME,
                    "host names are preferred, and this node has none",
                    "Set CAIRN_RESP_HOSTNAME too",
                );
            }
            EndpointType::Hostname
        }
        Some("unknown-endpoint") => EndpointType::Unknown,
        Some(_) => {
            reader.problem(
                NAME,
                "there is no such type",
                "Give ip, hostname or unknown-endpoint",
            );
            EndpointType::Address
        }
    }
}

fn of_data_node(
    mut process: ProcessSettings,
    hostname: &str,
    ip: Option<IpAddr>,
) -> ProcessSettings {
    hostname.clone_into(&mut process.advertised.resp_hostname);
    process.advertised.ip = ip;
    process
}

fn read_ip(reader: &Reader<'_>) -> Option<IpAddr> {
    const NAME: &str = "CAIRN_ADVERTISE_IP";
    let given = reader.text(NAME)?;
    let ip = given.parse::<IpAddr>().ok();
    if ip.is_none_or(|ip| ip.is_unspecified() || ip.is_multicast()) {
        reader.problem(
            NAME,
            "it is not the IP address of a host",
            "Give one without a port and without brackets",
        );
    }
    ip
}

fn read_process(reader: &Reader<'_>, resp_listen: Option<SocketAddr>) -> Option<ProcessSettings> {
    let name = read_name(reader);
    let data_dir = PathBuf::from(reader.text("CAIRN_DATA_DIR").unwrap_or("/var/lib/cairn"));
    if !data_dir.is_absolute() {
        reader.problem(
            "CAIRN_DATA_DIR",
            "it is not an absolute path, so that it would depend on where the process starts",
            "Give one that begins with /",
        );
    }
    let client_listen = reader.listen("CAIRN_CLIENT_LISTEN", "0.0.0.0:7400");
    let peer_listen = reader.listen("CAIRN_PEER_LISTEN", "0.0.0.0:7401");
    let http_listen = reader.listen("CAIRN_HTTP_LISTEN", "0.0.0.0:7402");
    let host = reader.text("CAIRN_ADVERTISE_HOST");
    if let Some(host) = host
        && check_host_port(&format!("{host}:1")).is_err()
    {
        reader.problem(
            "CAIRN_ADVERTISE_HOST",
            "it is neither a name nor an address",
            "Give a host without a port; an IPv6 address stands in brackets",
        );
    }
    let advertise = |name: &'static str, listen: Option<SocketAddr>| {
        let given = reader.advertised(name);
        let listen = listen?;
        if listen.port() == 0 && given.is_none() {
            reader.problem(
                name,
                "the listening port is drawn by the system (0), so that it cannot be derived",
                format!("Set {name}, or listen on a fixed port"),
            );
        }
        Some(given.unwrap_or_else(|| derive_address(host, listen)))
    };
    let client = advertise("CAIRN_CLIENT_ADVERTISE", client_listen);
    let peer = advertise("CAIRN_PEER_ADVERTISE", peer_listen);
    let http = advertise("CAIRN_HTTP_ADVERTISE", http_listen);
    let resp = match resp_listen {
        Some(_) => advertise("CAIRN_RESP_ADVERTISE", resp_listen),
        None => Some(String::new()),
    };
    let coordinators = read_coordinators(reader);
    let tls = read_tls(reader);
    let tls_ports = read_tls_ports(reader, tls.is_some());
    let users_file = reader.text("CAIRN_USERS_FILE").map(PathBuf::from);
    let log_format = match reader.text("CAIRN_LOG_FORMAT") {
        None | Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(_) => {
            reader.problem(
                "CAIRN_LOG_FORMAT",
                "there is no such format",
                "Give text or json",
            );
            LogFormat::Text
        }
    };
    let log = reader.text("CAIRN_LOG").unwrap_or(LOG_DEFAULT);
    if let Err(error) = log.parse::<tracing_subscriber::filter::Targets>() {
        reader.problem(
            "CAIRN_LOG",
            format!("it is not a filter: {error}"),
            "Give a level (error, warn, info, debug, trace) or target=level,...",
        );
    }
    let network_threads = reader
        .number("CAIRN_NETWORK_THREADS", 1..=256)
        .unwrap_or_else(allowed_cpus);
    let drain_timeout = reader.millis("CAIRN_DRAIN_TIMEOUT_MS", 20_000, 0..=3_600_000);
    let exit_with_stdin = reader.flag("CAIRN_EXIT_WITH_STDIN", false);
    check_distinct(
        reader,
        &[
            ("CAIRN_RESP_LISTEN", resp_listen),
            ("CAIRN_CLIENT_LISTEN", client_listen),
            ("CAIRN_PEER_LISTEN", peer_listen),
            ("CAIRN_HTTP_LISTEN", http_listen),
        ],
    );
    Some(ProcessSettings {
        name: name?,
        data_dir,
        client_listen: client_listen?,
        peer_listen: peer_listen?,
        http_listen: http_listen?,
        advertised: Addresses {
            resp: resp?,
            client: client?,
            peer: peer?,
            http: http?,
            resp_hostname: String::new(),
            ip: None,
            // Known later, and part of the node's place.
            outside: Box::default(),
        },
        coordinators: coordinators?,
        tls,
        tls_ports,
        users_file,
        log: log.to_owned(),
        log_format,
        network_threads,
        drain_timeout,
        exit_with_stdin,
        warnings: Vec::new(),
    })
}

fn read_name(reader: &Reader<'_>) -> Option<String> {
    let Some(name) = reader
        .text("CAIRN_NAME")
        .map(str::to_owned)
        .or_else(host_name)
    else {
        reader.problem(
            "CAIRN_NAME",
            "it was not given, and this machine's host name cannot be read",
            "Set CAIRN_NAME",
        );
        return None;
    };
    let fits = name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if fits {
        return Some(name);
    }
    reader.problem(
        "CAIRN_NAME",
        "a name has letters, digits, dots, dashes and underscores, 253 of them at most",
        "Choose such a name",
    );
    None
}

fn read_coordinators(reader: &Reader<'_>) -> Option<Vec<CoordinatorAddress>> {
    const NAME: &str = "CAIRN_COORDINATORS";
    let text = reader.required(NAME)?;
    let coordinators = match CoordinatorAddress::parse_list(text) {
        Ok(coordinators) => coordinators,
        Err(error) => {
            reader.problem(
                NAME,
                error.to_string(),
                "Write 1, 3 or 5 coordinators as name=host:port, separated by commas",
            );
            return None;
        }
    };
    for coordinator in &coordinators {
        if let Err(reason) = check_host_port(&coordinator.peer) {
            reader.problem(
                NAME,
                format!(
                    "of the address of {}, {}, {reason}",
                    coordinator.name, coordinator.peer
                ),
                "Write every coordinator as name=host:port",
            );
            return None;
        }
    }
    let peers: BTreeSet<_> = coordinators.iter().map(|c| &c.peer).collect();
    if peers.len() < coordinators.len() {
        reader.problem(
            NAME,
            "an address is in it twice",
            "List every coordinator with an address of its own",
        );
        return None;
    }
    Some(coordinators)
}

fn read_tls(reader: &Reader<'_>) -> Option<TlsFiles> {
    const NAMES: [&str; 3] = [
        "CAIRN_TLS_CERT_FILE",
        "CAIRN_TLS_KEY_FILE",
        "CAIRN_TLS_CA_FILE",
    ];
    match NAMES.map(|name| reader.text(name)) {
        [None, None, None] => None,
        [Some(cert), Some(key), Some(ca)] => Some(TlsFiles {
            cert: cert.into(),
            key: key.into(),
            ca: ca.into(),
        }),
        given => {
            for (name, given) in NAMES.iter().zip(given) {
                if given.is_none() {
                    reader.problem(
                        name,
                        "TLS needs the certificate, the key and the CA together",
                        format!("Set {name} or --{} too", flag_of(name)),
                    );
                }
            }
            None
        }
    }
}

fn read_tls_ports(reader: &Reader<'_>, has_files: bool) -> TlsPorts {
    const NAME: &str = "CAIRN_TLS_PORTS";
    let Some(text) = reader.text(NAME) else {
        return TlsPorts::default();
    };
    match text.parse() {
        Ok(TlsPorts::Peer) if !has_files => {
            reader.problem(
                NAME,
                "TLS is wanted between nodes, and there are no files for it",
                "Set CAIRN_TLS_CERT_FILE, CAIRN_TLS_KEY_FILE and CAIRN_TLS_CA_FILE too",
            );
            TlsPorts::Peer
        }
        Ok(ports) => ports,
        Err(UnknownPorts) => {
            reader.problem(NAME, "there is no such choice", "Give all or peer");
            TlsPorts::default()
        }
    }
}

pub(super) fn check_distinct(reader: &Reader<'_>, listens: &[(&'static str, Option<SocketAddr>)]) {
    for (at, (name, address)) in listens.iter().enumerate() {
        for (other, other_address) in &listens[..at] {
            if let (Some(a), Some(b)) = (address, other_address)
                && a.port() == b.port()
                && a.port() != 0
                && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified())
            {
                reader.problem(
                    name,
                    format!("it takes the same port as {other}"),
                    "Give every listener a port of its own",
                );
            }
        }
    }
}

fn derive_address(host: Option<&str>, listen: SocketAddr) -> String {
    match host {
        Some(host) => format!("{host}:{}", listen.port()),
        None if listen.ip().is_unspecified() => {
            let host = host_name().unwrap_or_else(|| match listen.ip() {
                IpAddr::V4(_) => "127.0.0.1".to_owned(),
                IpAddr::V6(_) => "[::1]".to_owned(),
            });
            format!("{host}:{}", listen.port())
        }
        None => listen.to_string(),
    }
}

fn host_name() -> Option<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().ok()?;
    (!name.is_empty() && name != "(none)").then(|| name.to_owned())
}

/// The CPUs that this process may use: what the cgroup's quota and the affinity
/// mask leave of the machine's.
#[must_use]
pub fn allowed_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// How many threads read from disk where nobody says: one per CPU, for most of what they
/// read lies in the page cache. Two at least, so that one slow read does not hold all
/// others up, and not more than a disk answers better for.
fn store_readers(cpus: usize) -> usize {
    cpus.clamp(2, 16)
}

fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;

    #[test]
    fn threads_follow_the_cpus_that_the_process_may_use() {
        // The mask is the thread's own, so that this touches no other test.
        let seen = std::thread::spawn(|| {
            let all = sched_getaffinity(None).expect("the mask");
            let allowed: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&c| all.is_set(c)).collect();
            let mut seen = Vec::new();
            for count in [1, allowed.len().min(2)] {
                let mut few = CpuSet::new();
                for &cpu in allowed.iter().take(count) {
                    few.set(cpu);
                }
                sched_setaffinity(None, &few).expect("a narrower mask");
                seen.push((count, allowed_cpus()));
            }
            seen
        })
        .join()
        .expect("a thread that measures");
        // A quota of the cgroup may leave fewer than the mask, and never more.
        assert_eq!(seen[0], (1, 1));
        assert!(seen.iter().all(|(mask, cpus)| cpus <= mask), "{seen:?}");
    }

    #[test]
    fn readers_are_never_one_nor_very_many() {
        assert_eq!([1, 2, 8, 96].map(store_readers), [2, 2, 8, 16]);
    }
}
