//! Commands about the server: `INFO`, `CONFIG`, `DBSIZE`, `WAIT`, `TIME`, `ROLE`.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::super::backend::Question;
use super::super::call::{Action, Call, Refusal};
use super::super::glob;
use super::super::shared::{Count, Shared};
use super::super::words;
use super::connection::REDIS_VERSION;
use super::introspect::help_lines;
use crate::http::metrics::resident_bytes;

/// `CONFIG` alone is refused by its arity.
pub(super) fn config(_: &mut Call<'_>) -> Result<Action, Refusal> {
    Err("ERR wrong number of arguments for 'config' command"
        .to_owned()
        .into())
}

/// What `CONFIG GET` knows: names that clients and tools look for, with what is true
/// of them here.
fn parameters(shared: &Shared) -> Vec<(&'static str, String)> {
    let config = &shared.config;
    let limits = &config.limits;
    let fixed = |text: &str| text.to_owned();
    vec![
        ("appendfsync", fixed("always")),
        ("appendonly", fixed("yes")),
        ("bind", fixed("")),
        (
            "client-query-buffer-limit",
            limits.request_bytes.to_string(),
        ),
        ("cluster-enabled", fixed("yes")),
        (
            "cluster-preferred-endpoint-type",
            fixed(config.endpoint_type.word()),
        ),
        ("cluster-require-full-coverage", fixed("no")),
        ("databases", fixed("1")),
        ("maxclients", config.connections_max.to_string()),
        ("maxmemory", fixed("0")),
        ("maxmemory-policy", fixed("noeviction")),
        ("notify-keyspace-events", fixed("")),
        ("port", shared.port.to_string()),
        ("proto-max-bulk-len", limits.value_bytes.to_string()),
        ("requirepass", fixed("")),
        ("save", fixed("")),
        ("slowlog-log-slower-than", fixed("-1")),
        ("slowlog-max-len", fixed("0")),
        ("tcp-keepalive", fixed("300")),
        (
            "timeout",
            config
                .idle_timeout
                .map_or(0, |timeout| timeout.as_secs())
                .to_string(),
        ),
    ]
}

pub(super) fn config_get(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let patterns = call.args.from(2);
    if patterns.iter().any(|p| p.len() > glob::PATTERN_BYTES_MAX) {
        return Err(words::LONG_PATTERN.into());
    }
    let found: Vec<(&str, String)> = parameters(call.shared)
        .into_iter()
        .filter(|(name, _)| patterns.iter().any(|p| glob::matches(p, name.as_bytes())))
        .collect();
    let mut reply = call.reply();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(Action::Replied)
}

/// Settings come from the environment; none is changed by a client.
pub(super) fn config_set(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let known = parameters(call.shared)
        .iter()
        .any(|(name, _)| call.args.is(2, name));
    let mut text = if known {
        b"ERR CONFIG SET failed (possibly related to argument '".to_vec()
    } else {
        b"ERR Unknown option or number of arguments for CONFIG SET - '".to_vec()
    };
    text.extend_from_slice(call.args.get(2));
    text.extend_from_slice(if known {
        b"') - can't set immutable config".as_slice()
    } else {
        b"'".as_slice()
    });
    Err(text.into())
}

pub(super) fn config_resetstat(call: &mut Call<'_>) -> Result<Action, Refusal> {
    call.shared.counts.reset();
    call.ok()
}

pub(super) fn config_help(call: &mut Call<'_>) -> Result<Action, Refusal> {
    help_lines(
        call,
        "CONFIG",
        &[
            (
                "GET <pattern>",
                "Return parameters matching the glob-like <pattern> and their values.",
            ),
            (
                "SET <directive> <value>",
                "Refused: settings come from the environment.",
            ),
            (
                "RESETSTAT",
                "Reset statistics reported by the INFO command.",
            ),
        ],
    )
}

/// The keys of the slots that this node is primary of.
pub(super) fn dbsize(_: &mut Call<'_>) -> Result<Action, Refusal> {
    Ok(Action::Ask(Question::Count))
}

pub(super) fn time(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let mut reply = call.reply();
    reply.array(2);
    reply.bulk(now.as_secs().to_string().as_bytes());
    reply.bulk(now.subsec_micros().to_string().as_bytes());
    Ok(Action::Replied)
}

/// Every node is a primary of something, as far as Redis clients are concerned.
pub(super) fn role(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let mut reply = call.reply();
    reply.array(3);
    reply.bulk(b"master");
    reply.integer(0);
    reply.array(0);
    Ok(Action::Replied)
}

/// Replies come in order, so that every earlier write of this connection has been
/// answered when this one is: each is on W-1 replicas then, flushed. Nobody counts
/// those that have it beyond that.
pub(super) fn wait(call: &mut Call<'_>) -> Result<Action, Refusal> {
    call.args.integer(1)?;
    let timeout = call
        .args
        .integer(2)
        .map_err(|_| Refusal::from("ERR timeout is not an integer or out of range".to_owned()))?;
    if timeout < 0 {
        return Err("ERR timeout is negative".to_owned().into());
    }
    let replicas = call.shared.topology().acknowledging_replicas();
    call.integer(replicas)
}

const SECTIONS: [&str; 8] = [
    "server",
    "clients",
    "memory",
    "persistence",
    "stats",
    "replication",
    "cluster",
    "keyspace",
];

pub(super) fn info(call: &mut Call<'_>) -> Result<Action, Refusal> {
    let wanted = call.args.from(1);
    let all = wanted.len() == 0
        || wanted.iter().any(|section| {
            ["all", "default", "everything"]
                .iter()
                .any(|word| section.eq_ignore_ascii_case(word.as_bytes()))
        });
    let mut text = String::new();
    for name in SECTIONS {
        if all
            || wanted
                .iter()
                .any(|s| s.eq_ignore_ascii_case(name.as_bytes()))
        {
            if !text.is_empty() {
                text.push_str("\r\n");
            }
            section(call.shared, name, &mut text);
        }
    }
    call.reply().text(&text);
    Ok(Action::Replied)
}

fn section(shared: &Shared, name: &str, text: &mut String) {
    let mut title = name.to_owned();
    title[..1].make_ascii_uppercase();
    text.push_str(&format!("# {title}\r\n"));
    let fields = match name {
        "server" => server_fields(shared),
        "clients" => vec![
            ("connected_clients", shared.clients.len().to_string()),
            ("cluster_connections", "0".to_owned()),
            ("maxclients", shared.config.connections_max.to_string()),
            ("blocked_clients", "0".to_owned()),
            ("tracking_clients", "0".to_owned()),
        ],
        "memory" => memory_fields(),
        "persistence" => vec![
            ("loading", "0".to_owned()),
            ("aof_enabled", "1".to_owned()),
            (
                "aof_last_write_status",
                if shared.facts.figures().disk_full {
                    "err"
                } else {
                    "ok"
                }
                .to_owned(),
            ),
        ],
        "stats" => stats_fields(shared),
        "replication" => replication_fields(shared),
        "cluster" => vec![("cluster_enabled", "1".to_owned())],
        _ => {
            if let Some(keys) = shared.facts.figures().keys.filter(|keys| *keys > 0) {
                text.push_str(&format!("db0:keys={keys},expires=0,avg_ttl=0\r\n"));
            }
            return;
        }
    };
    for (name, value) in fields {
        text.push_str(name);
        text.push(':');
        text.push_str(&value);
        text.push_str("\r\n");
    }
}

fn server_fields(shared: &Shared) -> Vec<(&'static str, String)> {
    let uptime = shared.started.elapsed().as_secs();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    vec![
        ("redis_version", REDIS_VERSION.to_owned()),
        ("cairn_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("redis_mode", "cluster".to_owned()),
        ("os", std::env::consts::OS.to_owned()),
        ("arch_bits", usize::BITS.to_string()),
        ("process_id", std::process::id().to_string()),
        ("run_id", run_id(shared)),
        ("tcp_port", shared.port.to_string()),
        ("server_time_usec", now.as_micros().to_string()),
        ("uptime_in_seconds", uptime.to_string()),
        ("uptime_in_days", (uptime / 86_400).to_string()),
    ]
}

/// The node's name, as long as it has one.
fn run_id(shared: &Shared) -> String {
    shared
        .topology()
        .my_name()
        .map_or_else(|| "0".repeat(40), str::to_owned)
}

fn memory_fields() -> Vec<(&'static str, String)> {
    let resident = resident_bytes().unwrap_or(0);
    vec![
        ("used_memory", resident.to_string()),
        ("used_memory_human", human(resident)),
        ("used_memory_rss", resident.to_string()),
        ("used_memory_rss_human", human(resident)),
        ("maxmemory", "0".to_owned()),
        ("maxmemory_human", "0B".to_owned()),
        ("maxmemory_policy", "noeviction".to_owned()),
    ]
}

fn stats_fields(shared: &Shared) -> Vec<(&'static str, String)> {
    let counts = &shared.counts;
    let mut fields: Vec<(&'static str, String)> = [
        ("total_connections_received", Count::Connections),
        ("total_commands_processed", Count::Commands),
        ("total_net_input_bytes", Count::InputBytes),
        ("total_net_output_bytes", Count::OutputBytes),
        ("keyspace_hits", Count::Hits),
        ("keyspace_misses", Count::Misses),
        ("total_error_replies", Count::Errors),
        ("client_timeouts", Count::TimedOut),
        ("requests_held_for_failover", Count::Held),
    ]
    .into_iter()
    .map(|(name, count)| (name, counts.since_reset(count).to_string()))
    .collect();
    let expired = shared.facts.figures().expired_keys;
    fields.push(("expired_keys", expired.to_string()));
    fields.insert(
        2,
        (
            "instantaneous_ops_per_sec",
            counts
                .commands_per_second
                .load(Ordering::Relaxed)
                .to_string(),
        ),
    );
    fields
}

fn replication_fields(shared: &Shared) -> Vec<(&'static str, String)> {
    let topology = shared.topology();
    let replicas = topology.acknowledging_replicas();
    vec![
        ("role", "master".to_owned()),
        ("connected_slaves", "0".to_owned()),
        ("master_failover_state", "no-failover".to_owned()),
        ("master_replid", run_id(shared)),
        ("master_repl_offset", "0".to_owned()),
        ("min_slaves_good_slaves", replicas.to_string()),
        ("partitions", topology.map().partitions.len().to_string()),
        ("partitions_primary", topology.partitions_led().to_string()),
        ("partitions_held", topology.partitions_held().to_string()),
    ]
}

/// Bytes as Redis writes them for people.
fn human(bytes: u64) -> String {
    let units = ["B", "K", "M", "G", "T"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes}B")
    } else {
        format!("{value:.2}{}", units[unit])
    }
}
