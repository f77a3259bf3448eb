//! `recover`: a person names the survivors of a partition that lost too many
//! replicas, after having been shown what may be lost.

use std::time::{Duration, Instant};

use cairn_client::admin::{Change, Recover};
use cairn_core::cluster::status::{PartitionHealth, ReplicaHealth};
use cairn_core::ids::{NodeId, Position};
use serde_json::json;

use crate::confirm;
use crate::endpoints::{Endpoints, block_on};
use crate::failure::Failure;
use crate::inspect::{self, Document};
use crate::output::{self, Format};

/// How often it is looked whether the partition is served.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct RecoverArgs {
    /// The number of the partition
    partition: u32,
    /// The data nodes whose replicas stay; every other replica is given up
    #[arg(long, required = true, value_delimiter = ',', value_name = "NAME,...")]
    survivor: Vec<String>,
    /// Do not ask, and accept what may be lost
    #[arg(long, short = 'y', visible_alias = "yes")]
    accept_loss: bool,
}

/// Shows what may be lost, asks, has it done and waits until the partition is served.
pub(crate) fn run(
    args: &RecoverArgs,
    endpoints: &Endpoints,
    format: Format,
) -> Result<(), Failure> {
    let document = block_on(inspect::document(endpoints))?;
    let health = find(&document, args.partition)?;
    let survivors = survivors(&document, health, &args.survivor)?;
    let risk = Risk::of(health, &survivors);
    // Not on standard output: that is for what came of it.
    eprint!("{}", risk.text(&document, health, &survivors));
    let question = format!("Go on with {} alone?", args.survivor.join(", "));
    confirm::require_loss(args.accept_loss, "giving up replicas", &question)?;
    let change = Change::Recover(Recover {
        partition: args.partition,
        survivors: survivors.iter().map(|node| node.0).collect(),
        accept_loss: true,
        epoch: health.epoch.0,
    });
    let said = block_on(async { Ok(endpoints.admin().change(change, false).await?) })?;
    eprintln!("{}; waiting for a primary", said.message);
    let served = await_served(endpoints, args.partition)?;
    let primary = served.primary.map(|member| document.name_of(member.node));
    let primary = primary.unwrap_or_default();
    match format {
        Format::Json => output::json(&json!({
            "partition": args.partition,
            "epoch": served.epoch.0,
            "primary": primary,
            "lost": served.lost,
        })),
        Format::Table => output::text(&format!(
            "partition {} is served by {primary} in epoch {}\n",
            args.partition, served.epoch.0
        )),
    }
}

fn find(document: &Document, partition: u32) -> Result<&PartitionHealth, Failure> {
    if !document.leading {
        return Err(Failure::unavailable(
            "the coordinators have no leader, and nobody else knows how the partition is",
        )
        .with_remedy("Bring a majority of the coordinators back first"));
    }
    let mut partitions = document.status.partitions.iter();
    let health = partitions
        .find(|health| health.partition.0 == partition)
        .ok_or_else(|| {
            Failure::usage(format!(
                "there is no partition {partition}: there are {}",
                document.status.partitions.len()
            ))
        })?;
    match health.primary.filter(|_| health.serving) {
        None => Ok(health),
        Some(primary) => Err(Failure::refused(format!(
            "partition {partition} is served by {}: there is nothing to recover",
            document.name_of(primary.node)
        ))),
    }
}

fn survivors(
    document: &Document,
    health: &PartitionHealth,
    names: &[String],
) -> Result<Vec<NodeId>, Failure> {
    let mut survivors = Vec::new();
    for name in names {
        let replica = health
            .replicas
            .iter()
            .find(|replica| document.name_of(replica.member.node) == *name);
        let Some(replica) = replica else {
            let holders: Vec<_> = health
                .replicas
                .iter()
                .map(|replica| document.name_of(replica.member.node))
                .collect();
            return Err(Failure::usage(format!(
                "{name} holds no replica of partition {}: {} do",
                health.partition.0,
                holders.join(", ")
            )));
        };
        if !replica.up {
            return Err(
                Failure::refused(format!("{name} is not up, and cannot go on"))
                    .with_remedy("Start it again, or name another survivor"),
            );
        }
        survivors.push(replica.member.node);
    }
    Ok(survivors)
}

/// What is known of what the others had and the survivors have not.
#[derive(Debug, PartialEq, Eq)]
struct Risk {
    /// The furthest head that is known of anyone.
    furthest: Option<Position>,
    /// The furthest head of a survivor.
    kept: Option<Position>,
}

impl Risk {
    fn of(health: &PartitionHealth, survivors: &[NodeId]) -> Self {
        let survives = |replica: &&ReplicaHealth| survivors.contains(&replica.member.node);
        Self {
            furthest: health.replicas.iter().filter_map(|r| r.head).max(),
            kept: (health.replicas.iter().filter(survives))
                .filter_map(|r| r.head)
                .max(),
        }
    }

    fn text(&self, document: &Document, health: &PartitionHealth, survivors: &[NodeId]) -> String {
        let shown = |what: Option<String>| what.unwrap_or_else(|| "?".to_owned());
        let mut text = output::render_table(
            &["REPLICA", "FATE", "STATE", "HEAD", "COMMIT", "APPLIED"],
            health.replicas.iter().map(|replica| {
                let survives = survivors.contains(&replica.member.node);
                let state = match (replica.up, replica.corrupt) {
                    (false, _) => "down",
                    (true, true) => "damaged",
                    (true, false) => "up",
                };
                vec![
                    document.name_of(replica.member.node),
                    if survives { "stays" } else { "given up" }.to_owned(),
                    state.to_owned(),
                    shown(replica.head.map(|head| head.to_string())),
                    shown(replica.commit.map(|index| index.0.to_string())),
                    shown(replica.applied.map(|index| index.0.to_string())),
                ]
            }),
        );
        text.push_str(&match (self.kept, self.furthest) {
            (Some(kept), Some(furthest)) if furthest > kept => {
                format!("Lost for certain: what follows {kept}, at least up to {furthest}. ")
            }
            (Some(_), _) => "Nothing is known of that the survivors lack. ".to_owned(),
            (None, _) => "What the survivors hold is not known. ".to_owned(),
        });
        text.push_str(
            "Lost as well: whatever was acknowledged by the replicas that are given up after \
             they were last heard of.\n",
        );
        text
    }
}

fn await_served(endpoints: &Endpoints, partition: u32) -> Result<PartitionHealth, Failure> {
    let until = Instant::now() + endpoints.timeout();
    block_on(async {
        loop {
            let document = inspect::document(endpoints).await?;
            let mut partitions = document.status.partitions.into_iter();
            let served = partitions.find(|one| one.partition.0 == partition && one.serving);
            match served {
                Some(served) => return Ok(served),
                None if Instant::now() + PAUSE >= until => {
                    return Err(Failure::unavailable(
                        "the survivors are named, but none of them serves yet",
                    )
                    .with_remedy("Look at `cairn partitions --degraded`"));
                }
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use cairn_core::cluster::command::Loss;
    use cairn_core::cluster::failure_detector::Health;
    use cairn_core::cluster::status::{ClusterStatus, NodeStatus, PartitionState, Standing};
    use cairn_core::ids::{Epoch, Index, PartitionId, ReplicaId};
    use cairn_core::record::{Member, NodeStanding, SlotRange};

    use super::*;
    use crate::failure::Kind;

    fn replica(node: u64, up: bool, head: u64) -> ReplicaHealth {
        ReplicaHealth {
            member: Member {
                node: NodeId(node),
                replica: ReplicaId(node),
            },
            standing: Standing::Member,
            reader: false,
            up,
            role: None,
            head: Some(Position {
                epoch: Epoch(3),
                index: Index(head),
            }),
            commit: None,
            applied: None,
            lag: None,
            corrupt: false,
            bytes: None,
            copying: None,
        }
    }

    fn node(id: u64) -> NodeStatus {
        NodeStatus {
            id: NodeId(id),
            name: format!("data-{id}"),
            zone: String::new(),
            standing: NodeStanding::Member,
            health: Health::Up,
            health_for_ms: 0,
            heard_ms_ago: None,
            draining: false,
            disk_full: false,
            expected_back_unix_ms: None,
            cordoned_until_unix_ms: 0,
            leads: 0,
            seats: 1,
            leaving: None,
            empty: false,
            replicas: 1,
            figures: None,
        }
    }

    /// Three replicas of which the first alone is up.
    pub(crate) fn document(serving: bool) -> Document {
        let replicas = vec![
            replica(1, true, 7),
            replica(2, false, 9),
            replica(3, false, 8),
        ];
        Document::of(ClusterStatus {
            nodes: (1..=3).map(node).collect(),
            partitions: vec![PartitionHealth {
                partition: PartitionId(0),
                slots: SlotRange {
                    first: 0,
                    last: 16383,
                },
                epoch: Epoch(3),
                state: PartitionState::Unserved,
                primary: serving.then(|| replicas[0].member),
                serving,
                write_quorum: 2,
                degraded: false,
                promotion: None,
                lossy_promotions: 0,
                lost: Loss::default(),
                seats: Vec::new(),
                load: None,
                replicas,
            }],
            ..ClusterStatus::default()
        })
    }

    #[test]
    fn what_is_served_is_not_recovered() {
        let refused = find(&document(true), 0).expect_err("it is served");
        assert_eq!(refused.kind(), Kind::Refused);
        let wrong = find(&document(false), 1).expect_err("there is no such partition");
        assert_eq!(wrong.kind(), Kind::Usage);
        find(&document(false), 0).expect("nobody serves it");
    }

    #[test]
    fn only_replicas_that_are_up_survive() {
        let document = document(false);
        let health = find(&document, 0).expect("nobody serves it");
        let named = |name: &str| survivors(&document, health, &[name.to_owned()]);
        assert_eq!(named("data-1"), Ok(vec![NodeId(1)]));
        assert_eq!(named("data-2").expect_err("down").kind(), Kind::Refused);
        let stranger = named("data-4").expect_err("holds nothing");
        assert_eq!(stranger.kind(), Kind::Usage);
        assert!(stranger.to_string().contains("data-1, data-2, data-3"));
    }

    #[test]
    fn what_is_known_to_be_lost_is_told() {
        let document = document(false);
        let health = find(&document, 0).expect("nobody serves it");
        let survivors = [NodeId(1)];
        let text = Risk::of(health, &survivors).text(&document, health, &survivors);
        assert!(
            text.contains("what follows 3/7, at least up to 3/9"),
            "{text}"
        );
        assert!(text.contains("given up"), "{text}");
        let all = [NodeId(1), NodeId(2)];
        let text = Risk::of(health, &all).text(&document, health, &all);
        assert!(text.contains("Nothing is known of"), "{text}");
    }
}
