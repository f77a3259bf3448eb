//! `hotkeys`: the keys that data nodes are asked for far more than others.

use std::time::Duration;

use cairn_client::transport::Dialer;
use cairn_core::hot::KeyHash;
use cairn_core::record::NodeStanding;
use cairn_proto::pb::hot::v1::hot_keys_client::HotKeysClient;
use cairn_proto::pb::hot::v1::{HotKey, ListReply, ListRequest};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::output::{self, Format};

/// The most that one node may tell.
const REPLY_BYTES_MAX: usize = 1 << 20;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HotkeysArgs {
    /// Only what this data node tells
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Show them again every second until interrupted, or every SECONDS
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    watch: Option<u64>,
}

/// What one node tells, or why it does not.
#[derive(Debug)]
struct Told {
    name: String,
    reply: Result<ListReply, String>,
}

/// Carries `hotkeys` out.
pub(crate) fn run(
    args: &HotkeysArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    block_on(async {
        let Some(seconds) = args.watch else {
            return show(&ask(args, endpoints).await?, format);
        };
        loop {
            show(&ask(args, endpoints).await?, format)?;
            sleep(Duration::from_secs(seconds)).await;
        }
    })
}

/// Asks every data node.
async fn ask(args: &HotkeysArgs, endpoints: &Endpoints) -> Result<Vec<Told>, Failure> {
    let map = endpoints.client().await?.map();
    let members = map.nodes.values();
    let members = members.filter(|node| node.standing == NodeStanding::Member);
    let mut asking = JoinSet::new();
    for node in members.filter(|n| args.node.as_ref().is_none_or(|name| *name == n.name)) {
        let (dialer, within) = (endpoints.dialer().clone(), endpoints.timeout());
        let (name, address) = (node.name.clone(), node.addresses.client.clone());
        asking.spawn(async move {
            let told = timeout(within, list(&dialer, &address)).await;
            let reply = told.unwrap_or_else(|_| Err(format!("no answer within {within:?}")));
            Told { name, reply }
        });
    }
    if asking.is_empty() {
        let why = match &args.node {
            Some(name) => format!("there is no data node {name}"),
            None => "the cluster has no data nodes".to_owned(),
        };
        return Err(Failure::new(Kind::NotFound, why).with_remedy("`cairn nodes` lists them"));
    }
    let mut told = asking.join_all().await;
    told.sort_by(|a, b| a.name.cmp(&b.name));
    if let [
        Told {
            reply: Err(why), ..
        },
        ..,
    ] = told.as_slice()
        && told.iter().all(|one| one.reply.is_err())
    {
        return Err(endpoints.explain(Failure::unavailable(format!("nobody tells: {why}"))));
    }
    Ok(told)
}

async fn list(dialer: &Dialer, address: &str) -> Result<ListReply, String> {
    let channel = dialer.dial(address).await.map_err(|e| e.to_string())?;
    let mut client = HotKeysClient::new(channel).max_decoding_message_size(REPLY_BYTES_MAX);
    let reply = client.list(ListRequest {}).await;
    reply
        .map(tonic::Response::into_inner)
        .map_err(|status| match status.code() {
            tonic::Code::Unimplemented => "it runs a build that does not look".to_owned(),
            _ => status.message().to_owned(),
        })
}

fn show(told: &[Told], format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return output::json(&document(told));
    }
    for one in told {
        match &one.reply {
            Ok(reply) if reply.off => eprintln!("{}: CAIRN_HOT_KEYS is off", one.name),
            Ok(_) => {}
            Err(why) => eprintln!("{}: {why}", one.name),
        }
    }
    output::text(&table(told))
}

/// The keys of all nodes, the hottest first.
fn rows(told: &[Told]) -> Vec<(&str, &HotKey)> {
    let mut rows: Vec<(&str, &HotKey)> = told
        .iter()
        .filter_map(|one| Some((one.name.as_str(), one.reply.as_ref().ok()?)))
        .flat_map(|(name, reply)| reply.keys.iter().map(move |key| (name, key)))
        .collect();
    rows.sort_by(|(_, a), (_, b)| per_second(b).total_cmp(&per_second(a)));
    rows
}

fn per_second(key: &HotKey) -> f64 {
    key.reads_per_second + key.writes_per_second
}

/// Its name as it may stand in a table, or its hash.
fn name(key: &HotKey) -> String {
    match &key.key {
        Some(name) => String::from_utf8_lossy(name).escape_debug().to_string(),
        None => KeyHash(key.hash).to_string(),
    }
}

fn table(told: &[Told]) -> String {
    let rows = rows(told);
    if rows.is_empty() {
        return "no key is asked for far more than others\n".to_owned();
    }
    let header = [
        "KEY",
        "PARTITION",
        "NODE",
        "READS/S",
        "WRITES/S",
        "BYTES/S",
        "OF THE NODE",
        "FOR",
    ];
    let rows = rows.into_iter().map(|(node, key)| {
        vec![
            name(key),
            format!("p{}", key.partition),
            node.to_owned(),
            format!("{:.0}", key.reads_per_second),
            format!("{:.0}", key.writes_per_second),
            format!("{:.0}", key.bytes_per_second),
            format!("{:.1}%", key.share * 100.0),
            format!("{}s", key.hot_for_ms / 1_000),
        ]
    });
    output::render_table(&header, rows)
}

fn document(told: &[Told]) -> Value {
    let nodes = told.iter().map(|one| match &one.reply {
        Err(why) => json!({"node": one.name, "error": why}),
        Ok(reply) => json!({
            "node": one.name,
            "off": reply.off,
            "requestsPerSecond": reply.requests_per_second,
            "keys": reply.keys.iter().map(|key| json!({
                "hash": KeyHash(key.hash).to_string(),
                "key": key.key.as_ref().map(|name| String::from_utf8_lossy(name)),
                "partition": key.partition,
                "readsPerSecond": key.reads_per_second,
                "writesPerSecond": key.writes_per_second,
                "bytesPerSecond": key.bytes_per_second,
                "share": key.share,
                "hotForMs": key.hot_for_ms,
            })).collect::<Vec<_>>(),
        }),
    });
    json!({"nodes": nodes.collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(hash: u64, name: Option<&'static [u8]>, reads: f64, writes: f64) -> HotKey {
        HotKey {
            partition: 7,
            hash,
            key: name.map(Into::into),
            reads_per_second: reads,
            writes_per_second: writes,
            bytes_per_second: 12_345.6,
            share: 0.123_4,
            hot_for_ms: 61_000,
        }
    }

    fn told() -> Vec<Told> {
        let reply = |keys| {
            Ok(ListReply {
                requests_per_second: 1_000.0,
                keys,
                off: false,
            })
        };
        let names = vec![key(1, Some(b"user:1\n\x1b[2J"), 90.4, 9.0)];
        vec![
            Told {
                name: "data-0".to_owned(),
                reply: reply(names),
            },
            Told {
                name: "data-1".to_owned(),
                reply: Err("no answer".to_owned()),
            },
            Told {
                name: "data-2".to_owned(),
                reply: reply(vec![key(0xabc, None, 0.0, 200.0)]),
            },
        ]
    }

    #[test]
    fn the_hottest_come_first_and_no_name_writes_to_the_terminal() {
        let shown = table(&told());
        let lines: Vec<Vec<&str>> = shown
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 3, "{shown}");
        assert_eq!(
            lines[1],
            [
                "#0000000000000abc",
                "p7",
                "data-2",
                "0",
                "200",
                "12346",
                "12.3%",
                "61s"
            ]
        );
        assert_eq!(lines[2][0], r"user:1\n\u{1b}[2J");
        assert!(table(&[]).starts_with("no key"));
    }

    #[test]
    fn the_document_names_who_did_not_answer() {
        let document = document(&told());
        assert_eq!(document["nodes"][1]["error"], "no answer");
        assert_eq!(document["nodes"][0]["keys"][0]["hash"], "#0000000000000001");
        assert_eq!(document["nodes"][2]["keys"][0]["key"], Value::Null);
    }
}
