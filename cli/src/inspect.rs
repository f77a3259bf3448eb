//! `status`, `ring`, `nodes`, `partitions`: what the coordinators' leader says of
//! the cluster, and what the map says of the ring.

use cairn_client::ClusterMap;
use cairn_core::cluster::failure_detector::Health;
use cairn_core::cluster::ring::Ring;
use cairn_core::cluster::state::Leaving;
use cairn_core::cluster::status::{
    ClusterStatus, NodeStatus, PartitionHealth, PartitionState, ReplicaHealth,
};
use cairn_core::hot::PartitionLoad;
use cairn_core::ids::NodeId;
use cairn_core::record::{ClusterSettings, Member, NodeStanding};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::output::{self, Format};
use crate::rebalance;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct PartitionsArgs {
    /// Only those that are not as they should be
    #[arg(long)]
    degraded: bool,
    /// Only those with a replica on this data node
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// What clients ask of them, the busiest first
    #[arg(long)]
    load: bool,
}

/// The status document, as far as the tables need it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    #[serde(flatten)]
    pub(crate) status: ClusterStatus,
    pub(crate) answered_by: String,
    pub(crate) leading: bool,
    pub(crate) coordinators: Vec<Coordinator>,
    #[serde(default)]
    pub(crate) coordinators_change: Option<CoordinatorsChange>,
    pub(crate) settings: Option<ClusterSettings>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Coordinator {
    pub(crate) name: String,
    pub(crate) raft_id: String,
    pub(crate) peer: String,
    pub(crate) client: String,
    pub(crate) voter: bool,
    pub(crate) leader: bool,
    #[serde(default)]
    pub(crate) lag: Option<u64>,
}

/// How far the last change of the coordinators' group is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CoordinatorsChange {
    pub(crate) what: String,
    /// Empty once it has ended.
    pub(crate) step: String,
    pub(crate) failed: Option<String>,
}

async fn fetch(endpoints: &Endpoints) -> Result<Value, Failure> {
    let text = endpoints
        .admin()
        .status()
        .await
        .map_err(|error| endpoints.explain(Failure::from(error)))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::new(Kind::Other, format!("read the status: {error}")))
}

/// The status document.
pub(crate) async fn document(endpoints: &Endpoints) -> Result<Document, Failure> {
    parse(&fetch(endpoints).await?)
}

fn parse(document: &Value) -> Result<Document, Failure> {
    Document::deserialize(document).map_err(|error| {
        Failure::new(
            Kind::Other,
            format!("the status has a form that this build does not know: {error}"),
        )
        .with_remedy("Use the command of the cluster's own version, or -o json")
    })
}

impl Document {
    /// A leader's document with nothing but the status.
    #[cfg(test)]
    pub(crate) fn of(status: ClusterStatus) -> Self {
        Self {
            status,
            answered_by: "coordinator-1".to_owned(),
            leading: true,
            coordinators: Vec::new(),
            coordinators_change: None,
            settings: None,
        }
    }

    pub(crate) fn name_of(&self, node: NodeId) -> String {
        self.status
            .nodes
            .iter()
            .find(|status| status.id == node)
            .map_or_else(|| node.to_string(), |status| status.name.clone())
    }

    pub(crate) fn warn_if_blind(&self) {
        if !self.leading {
            eprintln!(
                "the coordinators have no leader: {} tells what it knows, which says nothing of \
                 how nodes and partitions are now",
                self.answered_by
            );
        }
    }
}

/// How the cluster is, in a few lines.
pub(crate) fn status(endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let value = block_on(fetch(endpoints))?;
    if format == Format::Json {
        return output::json(&value);
    }
    let document = parse(&value)?;
    document.warn_if_blind();
    output::text(&status_text(&document))
}

fn status_text(document: &Document) -> String {
    let Document {
        status,
        coordinators,
        settings,
        ..
    } = document;
    let summary = status.summary;
    let leader = coordinators
        .iter()
        .find(|coordinator| coordinator.leader)
        .map_or("none", |coordinator| coordinator.name.as_str());
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        text.push_str(&format!("{name:<14}{value}\n"));
    };
    if status.cluster_id.is_empty() {
        line("cluster", "not made yet".to_owned());
    } else {
        line(
            "cluster",
            format!("{}, map {}", status.cluster_id, status.version),
        );
    }
    if let Some(settings) = settings {
        line(
            "settings",
            format!(
                "replication factor {}, write quorum {}, min in sync {}, lease {} ms",
                settings.replication_factor,
                settings.write_quorum,
                settings.min_in_sync,
                settings.lease_ms
            ),
        );
    }
    line(
        "coordinators",
        format!("{}, leader {leader}", coordinators.len()),
    );
    line(
        "data nodes",
        format!("{} of {} up", summary.nodes_up, summary.nodes),
    );
    line(
        "partitions",
        format!(
            "{} of {} serve, {} degraded, {} moving",
            summary.serving, summary.partitions, summary.degraded, summary.moving
        ),
    );
    if summary.lossy_promotions > 0 {
        line(
            "LOSS",
            format!(
                "{} promotions from too few replicas: acknowledged writes may be lost",
                summary.lossy_promotions
            ),
        );
    }
    line("replicas", rebalance::line(document));
    for node in status.nodes.iter().filter(|node| !is_well(node)) {
        line("node", format!("{}: {}", node.name, condition(node)));
    }
    text
}

fn is_well(node: &NodeStatus) -> bool {
    node.standing == NodeStanding::Member
        && node.health == Health::Up
        && node.leaving.is_none()
        && !node.draining
        && !node.disk_full
}

fn condition(node: &NodeStatus) -> String {
    let mut words = vec![match node.standing {
        NodeStanding::Gone => "gone".to_owned(),
        NodeStanding::Member => health_word(node.health),
    }];
    match node.leaving {
        Some(_) if node.empty => words.push("empty".to_owned()),
        Some(Leaving::Draining) => words.push("draining".to_owned()),
        Some(Leaving::Away) => words.push("replaced elsewhere".to_owned()),
        None => {}
    }
    if node.draining {
        words.push("stopping".to_owned());
    }
    if node.disk_full {
        words.push("disk full".to_owned());
    }
    words.join(", ")
}

fn health_word(health: Health) -> String {
    match health {
        Health::Unknown => "unknown".to_owned(),
        Health::Up => "up".to_owned(),
        Health::Suspect(reason) => format!("suspect ({})", kebab(&format!("{reason:?}"))),
        Health::Down(reason) => format!("down ({})", kebab(&format!("{reason:?}"))),
    }
}

/// `SomeWords` as `some-words`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for (at, letter) in name.chars().enumerate() {
        if letter.is_ascii_uppercase() && at > 0 {
            text.push('-');
        }
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// Coordinators and data nodes.
pub(crate) fn nodes(endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let value = block_on(fetch(endpoints))?;
    if format == Format::Json {
        return output::json(&json!({
            "coordinators": value["coordinators"],
            "nodes": value["nodes"],
        }));
    }
    let document = parse(&value)?;
    document.warn_if_blind();
    // Where the map cannot be had, the table goes without addresses.
    let map = block_on(async { Ok(endpoints.client().await?.map()) }).ok();
    let address = |node: NodeId| {
        map.as_ref()
            .and_then(|map| map.nodes.get(&node))
            .map_or(("-".to_owned(), "-".to_owned()), |info| {
                (info.addresses.resp.clone(), info.addresses.client.clone())
            })
    };
    let coordinators = document.coordinators.iter().map(|coordinator| {
        vec![
            coordinator.name.clone(),
            "coordinator".to_owned(),
            if coordinator.leader {
                "leader"
            } else if coordinator.voter {
                "follower"
            } else {
                "joining"
            }
            .to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
            coordinator.client.clone(),
        ]
    });
    let data = document.status.nodes.iter().map(|node| {
        let (resp, client) = address(node.id);
        vec![
            node.name.clone(),
            format!("data {}", node.id),
            condition(node),
            if node.zone.is_empty() {
                "-".to_owned()
            } else {
                node.zone.clone()
            },
            node.leads.to_string(),
            node.replicas.to_string(),
            disk_text(node),
            load_text(node),
            resp,
            client,
        ]
    });
    output::table(
        &[
            "NODE", "ROLE", "STATE", "ZONE", "LEADS", "REPLICAS", "FREE", "LOAD", "REDIS", "GRPC",
        ],
        coordinators.chain(data),
    )
}

/// A number of bytes for people, in units of 1024.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut amount = bytes as f64;
    let mut unit = None;
    for larger in UNITS {
        if amount < 1023.95 {
            break;
        }
        amount /= 1024.0;
        unit = Some(larger);
    }
    unit.map_or_else(
        || format!("{bytes} B"),
        |unit| format!("{amount:.1} {unit}"),
    )
}

/// What is free of the disk.
fn disk_text(node: &NodeStatus) -> String {
    match node.figures {
        Some(figures) if figures.disk_total_bytes > 0 => format!(
            "{} of {}",
            bytes_text(figures.disk_free_bytes),
            bytes_text(figures.disk_total_bytes)
        ),
        _ => "-".to_owned(),
    }
}

/// What clients read and write in a second.
fn load_text(node: &NodeStatus) -> String {
    node.figures.map_or("-".to_owned(), |figures| {
        format!(
            "{} r/s, {} w/s, {}/s",
            figures.reads_per_second,
            figures.writes_per_second,
            bytes_text(figures.bytes_per_second)
        )
    })
}

/// Every partition.
pub(crate) fn partitions(
    args: &PartitionsArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let value = block_on(fetch(endpoints))?;
    let document = parse(&value)?;
    document.warn_if_blind();
    let node = match &args.node {
        None => None,
        Some(name) => Some(
            document
                .status
                .nodes
                .iter()
                .find(|node| node.name == *name)
                .map(|node| node.id)
                .ok_or_else(|| Failure::usage(format!("there is no data node named {name}")))?,
        ),
    };
    let mut chosen: Vec<&PartitionHealth> = document
        .status
        .partitions
        .iter()
        .filter(|partition| !args.degraded || partition.state != PartitionState::Healthy)
        .filter(|partition| {
            node.is_none_or(|node| partition.replicas.iter().any(|r| r.member.node == node))
        })
        .collect();
    if args.load {
        chosen.sort_by_key(|p| std::cmp::Reverse(p.load.unwrap_or_default().requests_per_second()));
    }
    if format == Format::Json {
        return output::json(&chosen);
    }
    if args.load {
        return output::table(
            &[
                "PARTITION",
                "READS/S",
                "BY ANY REPLICA",
                "WRITES/S",
                "BYTES/S",
                "PROCESSOR",
                "PRIMARY",
                "REPLICAS",
            ],
            chosen
                .into_iter()
                .map(|partition| load_row(&document, partition)),
        );
    }
    output::table(
        &[
            "PARTITION",
            "SLOTS",
            "EPOCH",
            "STATE",
            "W",
            "BYTES",
            "PRIMARY",
            "REPLICAS",
            "LAG",
        ],
        chosen
            .into_iter()
            .map(|partition| partition_row(&document, partition)),
    )
}

/// What a partition is asked; dashes where no node has told.
fn load_row(document: &Document, partition: &PartitionHealth) -> Vec<String> {
    let told = |what: fn(PartitionLoad) -> String| partition.load.map_or("-".to_owned(), what);
    vec![
        partition.partition.0.to_string(),
        told(|load| load.reads_per_second.to_string()),
        told(|load| load.replica_reads_per_second.to_string()),
        told(|load| load.writes_per_second.to_string()),
        told(|load| bytes_text(load.bytes_per_second)),
        told(|load| format!("{:.1}%", load.processor_micros_per_second as f64 / 1e4)),
        partition
            .primary
            .map_or("-".to_owned(), |member| document.name_of(member.node)),
        others_text(document, partition),
    ]
}

/// The replicas besides the primary; what serves reads alone is told so.
fn others_text(document: &Document, partition: &PartitionHealth) -> String {
    let others = partition
        .replicas
        .iter()
        .filter(|replica| Some(replica.member) != partition.primary)
        .map(|replica| {
            let name = document.name_of(replica.member.node);
            if replica.reader {
                format!("{name} (reads)")
            } else {
                name
            }
        });
    others.collect::<Vec<_>>().join(",")
}

fn partition_row(document: &Document, partition: &PartitionHealth) -> Vec<String> {
    let name = |member: Member| document.name_of(member.node);
    let primary = partition.primary;
    let others: Vec<_> = partition
        .replicas
        .iter()
        .filter(|replica| Some(replica.member) != primary)
        .collect();
    let lag = others
        .iter()
        .map(|replica| match (replica.up, replica.corrupt, replica.lag) {
            (_, true, _) => "corrupt".to_owned(),
            (false, ..) => "down".to_owned(),
            _ if replica.copying.is_some() => copying_text(replica),
            (true, _, Some(lag)) => lag.to_string(),
            (true, _, None) => "?".to_owned(),
        })
        .collect::<Vec<_>>();
    let state = serde_json::to_value(partition.state)
        .ok()
        .and_then(|state| state.as_str().map(str::to_owned))
        .unwrap_or_default();
    vec![
        partition.partition.0.to_string(),
        format!("{}-{}", partition.slots.first, partition.slots.last),
        partition.epoch.0.to_string(),
        match &partition.promotion {
            Some((_, reason)) => format!("{state} ({})", kebab(&format!("{reason:?}"))),
            None => state,
        },
        partition.write_quorum.to_string(),
        // The primary's, or what the fullest other copy is known to take.
        partition
            .replicas
            .iter()
            .filter(|replica| primary.is_none() || Some(replica.member) == primary)
            .filter_map(|replica| replica.bytes)
            .max()
            .map_or("-".to_owned(), bytes_text),
        primary.map_or("-".to_owned(), name),
        others_text(document, partition),
        lag.join(","),
    ]
}

/// How far the copy is that a replica fetches.
fn copying_text(replica: &ReplicaHealth) -> String {
    match replica.copying {
        Some(copying) if copying.expected_bytes > 0 => {
            let hundredths = u128::from(copying.received_bytes) * 100;
            let percent = hundredths / u128::from(copying.expected_bytes);
            format!("copying {}%", percent.min(100))
        }
        _ => "copying".to_owned(),
    }
}

/// The ring and how much of it each node has.
pub(crate) fn ring(endpoints: &Endpoints, format: Format) -> Result<(), Failure> {
    let map = block_on(async { Ok(endpoints.client().await?.map()) })?;
    let view = RingView::new(&map)?;
    if format == Format::Json {
        return output::json(&view);
    }
    output::table(
        &["NODE", "WEIGHT", "VIRTUAL", "RING", "LEADS", "REPLICAS"],
        view.nodes.iter().map(|node| {
            vec![
                node.name.clone(),
                node.weight.to_string(),
                node.virtual_nodes.to_string(),
                format!("{:.2}%", node.ring_share * 100.0),
                node.leads.to_string(),
                node.replicas.to_string(),
            ]
        }),
    )
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RingView {
    virtual_nodes_per_weight_100: u32,
    nodes: Vec<RingShare>,
    points: Vec<RingPoint>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RingShare {
    id: NodeId,
    name: String,
    weight: u32,
    virtual_nodes: usize,
    /// The part of all positions whose first virtual node clockwise is the node's.
    ring_share: f64,
    leads: usize,
    replicas: usize,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RingPoint {
    /// As text: JSON's numbers end before it does.
    position: String,
    node: NodeId,
}

impl RingView {
    fn new(map: &ClusterMap) -> Result<Self, Failure> {
        let settings = map
            .settings
            .as_ref()
            .ok_or_else(|| Failure::unavailable("the cluster has not been made yet"))?;
        let members = map
            .nodes
            .values()
            .filter(|node| node.standing == NodeStanding::Member);
        let ring = Ring::of_map(map);
        let shares = ring.shares();
        let nodes = members
            .map(|node| {
                let holds = |member: &Member| member.node == node.id;
                let (points, ring_share) = shares.get(&node.id).copied().unwrap_or_default();
                RingShare {
                    id: node.id,
                    name: node.name.clone(),
                    weight: node.weight,
                    virtual_nodes: points,
                    ring_share,
                    leads: map
                        .partitions
                        .iter()
                        .filter(|p| p.primary.as_ref().is_some_and(holds))
                        .count(),
                    replicas: map
                        .partitions
                        .iter()
                        .filter(|p| p.config.replicas().iter().any(holds))
                        .count(),
                }
            })
            .collect();
        Ok(Self {
            virtual_nodes_per_weight_100: settings.virtual_nodes,
            nodes,
            points: ring
                .points()
                .iter()
                .map(|point| RingPoint {
                    position: point.position.to_string(),
                    node: point.node,
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_as_words() {
        assert_eq!(kebab("PrimaryDown"), "primary-down");
    }

    #[test]
    fn bytes_are_told_in_the_unit_that_fits() {
        let told = [0, 1023, 1024, 1536, (1 << 20) - 1, 5 << 30, u64::MAX].map(bytes_text);
        let expected = [
            "0 B",
            "1023 B",
            "1.0 KiB",
            "1.5 KiB",
            "1.0 MiB",
            "5.0 GiB",
            "16384.0 PiB",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn figures_of_nodes_and_replicas_are_read_where_they_are_told() {
        let node = json!({
            "id": 1, "name": "data-1", "zone": "", "standing": "Member", "health": "up",
            "healthForMs": 1, "heardMsAgo": 1, "draining": false, "diskFull": false,
            "expectedBackUnixMs": null, "leads": 1, "replicas": 1,
        });
        let silent = NodeStatus::deserialize(&node).expect("of an older build");
        assert_eq!(
            (disk_text(&silent), load_text(&silent)),
            ("-".into(), "-".into())
        );
        let mut told = node.clone();
        told["seats"] = 1.into();
        told["empty"] = false.into();
        told["cordonedUntilUnixMs"] = 0.into();
        for (name, value) in [
            ("diskTotalBytes", 4u64 << 30),
            ("diskFreeBytes", 1 << 30),
            ("readsPerSecond", 5),
            ("writesPerSecond", 6),
            ("bytesPerSecond", 2048),
        ] {
            told[name] = value.into();
        }
        let node = NodeStatus::deserialize(&told).expect("with figures");
        assert_eq!(serde_json::to_value(&node).expect("the same"), told);
        assert_eq!(disk_text(&node), "1.0 GiB of 4.0 GiB");
        assert_eq!(load_text(&node), "5 r/s, 6 w/s, 2.0 KiB/s");

        let replica = json!({
            "member": {"node": 1, "replica": 2}, "standing": "learner", "up": true,
            "role": "Learner", "head": null, "commit": null, "applied": null, "lag": null,
            "corrupt": false, "bytes": 7, "receivedBytes": 30, "expectedBytes": 120,
            "reader": false,
        });
        let copying = ReplicaHealth::deserialize(&replica).expect("one that copies");
        assert_eq!(copying_text(&copying), "copying 25%");
        assert_eq!(serde_json::to_value(&copying).expect("the same"), replica);
    }

    #[test]
    fn the_status_document_is_read() {
        let document: Document = serde_json::from_value(json!({
            "clusterId": "c", "version": 7,
            "summary": {"partitions": 2, "serving": 1, "degraded": 1, "moving": 0,
                "nodesUp": 2, "nodes": 3, "lossyPromotions": 0},
            "nodes": [], "partitions": [],
            "answeredBy": "coordinator-1", "leading": true, "term": 3, "http": "h:1",
            "coordinators": [{"name": "coordinator-1", "raftId": "5", "peer": "a:1",
                "client": "b:2", "voter": true, "leader": true}],
            "settings": null, "events": [],
        }))
        .expect("the form that coordinators write");
        let text = status_text(&document);
        assert!(text.contains("2 of 3 up"), "{text}");
        assert!(text.contains("1 of 2 serve, 1 degraded"), "{text}");
        assert!(text.contains("leader coordinator-1"), "{text}");
    }
}
