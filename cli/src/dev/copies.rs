//! Whether the cluster can do without a node's disk, as far as it can tell.

use std::collections::BTreeSet;

use cairn_client::ClusterMap;
use cairn_core::cluster::status::ClusterStatus;
use cairn_core::ids::{NodeId, PartitionId};
use cairn_core::record::{Member, NodeStanding, ReplicaSet};

use super::control::{Standing, State, no_such_node};
use super::layout::Role;
use crate::endpoints::{Endpoints, block_on};
use crate::failure::Failure;
use crate::inspect::{self, Document};

/// How many partitions a refusal names.
const NAMED_MAX: usize = 8;

/// Refuses where others do not hold all that was acknowledged by a node.
pub(super) fn refuse_loss(
    name: &str,
    all: &[Standing],
    cluster: &Endpoints,
) -> Result<(), Failure> {
    match find(name, all)?.node.role {
        Role::Coordinator => refuse_loss_of_quorum(name, all),
        Role::Data => {
            let (document, map) = look(name, cluster)?;
            let down = all.iter().filter(|s| s.state != State::Running);
            let down = down.flat_map(|s| identities(&document.status, &s.node.name));
            let leaving = identities(&document.status, name).collect();
            let at_risk = at_risk(&map, &document.status, &leaving, &down.collect());
            if at_risk.is_empty() {
                return Ok(());
            }
            let named: Vec<_> = at_risk
                .iter()
                .take(NAMED_MAX)
                .map(|p| p.0.to_string())
                .collect();
            let more = if at_risk.len() > NAMED_MAX {
                ", ..."
            } else {
                ""
            };
            Err(Failure::refused(format!(
                "{name} may have the last copies of what was acknowledged: too few other replicas \
                 of {} partitions are whole and within reach ({}{more})",
                at_risk.len(),
                named.join(", ")
            ))
            .with_remedy(
                "Start the nodes that are stopped and wait until `cairn partitions --degraded` \
                 shows none of these, or give --force",
            ))
        }
    }
}

/// Refuses a node that the cluster has not given up.
pub(super) fn refuse_member(
    name: &str,
    all: &[Standing],
    cluster: &Endpoints,
) -> Result<(), Failure> {
    if find(name, all)?.node.role == Role::Coordinator {
        // The supervisor refuses it, whatever is forced.
        return Ok(());
    }
    let (document, _) = look(name, cluster)?;
    if members(&document.status, name).next().is_none() {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "{name} is a member of the cluster, which counts on what it holds"
    ))
    .with_remedy(format!(
        "First `cairn nodes drain {name} --wait`, which moves its data to others, then \
         `cairn nodes remove {name}`; or give --force"
    )))
}

fn find<'a>(name: &str, all: &'a [Standing]) -> Result<&'a Standing, Failure> {
    let found = all.iter().find(|standing| standing.node.name == name);
    found.ok_or_else(|| no_such_node(name, all.iter().map(|standing| &standing.node)))
}

fn look(
    name: &str,
    cluster: &Endpoints,
) -> Result<(Document, std::sync::Arc<ClusterMap>), Failure> {
    let looked = block_on(async {
        let document = inspect::document(cluster).await?;
        if !document.leading {
            return Err(Failure::unavailable("the coordinators have no leader"));
        }
        Ok((document, cluster.client().await?.map()))
    });
    looked.map_err(|failure| {
        let (reason, _) = failure.into_words();
        Failure::refused(format!(
            "whether others hold what is on {name} cannot be told: {reason}"
        ))
        .with_remedy("Bring a majority of the coordinators back first, or give --force")
    })
}

fn identities(status: &ClusterStatus, name: &str) -> impl Iterator<Item = NodeId> {
    let nodes = status.nodes.iter();
    nodes
        .filter(move |node| node.name == name)
        .map(|node| node.id)
}

fn members(status: &ClusterStatus, name: &str) -> impl Iterator<Item = NodeId> {
    let nodes = status.nodes.iter();
    nodes
        .filter(move |node| node.name == name && node.standing == NodeStanding::Member)
        .map(|node| node.id)
}

/// The partitions of which the nodes that leave have a copy, and the others too few whole
/// ones: without N-W+1 of a set nobody is promoted (rule 2). Where W is 1 a write may be on
/// its primary alone, which hands over before it stops: one other copy has to do.
fn at_risk(
    map: &ClusterMap,
    status: &ClusterStatus,
    leaving: &BTreeSet<NodeId>,
    down: &BTreeSet<NodeId>,
) -> Vec<PartitionId> {
    let lacks = |set: &ReplicaSet, is_whole: &dyn Fn(&Member) -> bool| {
        let needed = match set.write_quorum() {
            1 => 1,
            _ => set.inspection_quorum(),
        };
        let (gone, others): (Vec<&Member>, Vec<&Member>) = set
            .members
            .iter()
            .partition(|member| leaving.contains(&member.node));
        let whole = others.into_iter().filter(|member| is_whole(member)).count();
        !gone.is_empty() && whole < needed
    };
    let partitions = map.partitions.iter();
    let risky = partitions.filter(|record| {
        let health = status.partitions.iter().find(|h| h.partition == record.id);
        let is_whole = |member: &Member| {
            let replicas = health.map_or(&[][..], |health| &health.replicas);
            !down.contains(&member.node)
                && replicas
                    .iter()
                    .any(|replica| replica.member == *member && replica.up && !replica.corrupt)
        };
        record.config.sets().any(|set| lacks(set, &is_whole))
    });
    risky.map(|record| record.id).collect()
}

/// A coordinator whose disk is gone joins anew, which the others have to agree on.
fn refuse_loss_of_quorum(name: &str, all: &[Standing]) -> Result<(), Failure> {
    let coordinators = all.iter().filter(|s| s.node.role == Role::Coordinator);
    let (own, others): (Vec<&Standing>, Vec<&Standing>) =
        coordinators.partition(|s| s.node.name == name);
    let total = own.len() + others.len();
    let running = others.iter().filter(|s| s.state == State::Running).count();
    if running > total / 2 {
        return Ok(());
    }
    Err(Failure::refused(format!(
        "without {name}, {running} of {total} coordinators run: too few to go on, and to let it \
         in again"
    ))
    .with_remedy(if total == 1 {
        "It alone has the partition table: `cairn dev reset` deletes the whole cluster"
    } else {
        "Start the others first, or give --force"
    }))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use cairn_core::cluster::status::{PartitionHealth, PartitionState, ReplicaHealth};
    use cairn_core::cluster::{command::Loss, status::Standing as Seat};
    use cairn_core::ids::{Epoch, MapVersion, ReplicaId};
    use cairn_core::record::{Configuration, PartitionRecord, SlotRange};

    use super::super::layout::{Node, Recorded};
    use super::*;

    const SLOTS: SlotRange = SlotRange {
        first: 0,
        last: 16383,
    };

    fn member(node: u64) -> Member {
        Member {
            node: NodeId(node),
            replica: ReplicaId(node + 10),
        }
    }

    fn set(nodes: &[u64], write_quorum: u8) -> ReplicaSet {
        ReplicaSet {
            members: nodes.iter().copied().map(member).collect(),
            write_quorum,
        }
    }

    fn cluster(
        current: ReplicaSet,
        joint: Option<ReplicaSet>,
        unwell: &[u64],
    ) -> (ClusterMap, ClusterStatus) {
        let config = Configuration {
            current,
            joint,
            learners: Vec::new(),
            readers: Vec::new(),
        };
        let replica = |member: Member| ReplicaHealth {
            member,
            standing: Seat::Member,
            reader: false,
            up: !unwell.contains(&member.node.0),
            role: None,
            head: None,
            commit: None,
            applied: None,
            lag: None,
            corrupt: false,
            bytes: None,
            copying: None,
        };
        let health = PartitionHealth {
            partition: PartitionId(0),
            slots: SLOTS,
            epoch: Epoch(1),
            state: PartitionState::Healthy,
            primary: None,
            serving: true,
            write_quorum: config.current.write_quorum,
            degraded: false,
            promotion: None,
            lossy_promotions: 0,
            lost: Loss::default(),
            seats: Vec::new(),
            load: None,
            replicas: config.replicas().into_iter().map(replica).collect(),
        };
        let record = PartitionRecord {
            id: PartitionId(0),
            slots: SLOTS,
            epoch: Epoch(1),
            revision: 0,
            config,
            primary: None,
            degraded: false,
            changed_at: MapVersion(1),
        };
        let map = ClusterMap {
            partitions: vec![Arc::new(record)],
            ..ClusterMap::default()
        };
        let status = ClusterStatus {
            partitions: vec![health],
            ..ClusterStatus::default()
        };
        (map, status)
    }

    fn loses(cluster: &(ClusterMap, ClusterStatus), leaving: u64, down: &[u64]) -> bool {
        let down = down.iter().copied().map(NodeId).collect();
        !at_risk(&cluster.0, &cluster.1, &[NodeId(leaving)].into(), &down).is_empty()
    }

    #[test]
    fn a_disk_goes_while_enough_others_could_be_promoted() {
        let usual = cluster(set(&[1, 2, 3], 2), None, &[]);
        assert!(!loses(&usual, 1, &[]));
        assert!(!loses(&usual, 4, &[2, 3]), "it holds nothing");
        assert!(loses(&usual, 1, &[2]), "stopped a moment ago");
        assert!(loses(&cluster(set(&[1, 2, 3], 2), None, &[3]), 1, &[]));
        assert!(loses(&cluster(set(&[1], 1), None, &[]), 1, &[]));
        // One copy has everything where W is N, and has to do where W is 1.
        for write_quorum in [1, 2] {
            let two = cluster(set(&[1, 2], write_quorum), None, &[]);
            assert!(!loses(&two, 1, &[]));
            assert!(loses(&two, 1, &[2]));
        }
    }

    #[test]
    fn while_joint_both_sets_have_to_hold_out() {
        let moving = cluster(set(&[1, 2, 3], 2), Some(set(&[2, 3, 4], 2)), &[]);
        assert!(!loses(&moving, 1, &[4]), "the new set does not need node 1");
        assert!(loses(&moving, 2, &[4]));
    }

    #[test]
    fn coordinators_keep_their_majority() {
        let standing = |node: Node, is_up: bool| Standing {
            node,
            state: if is_up {
                State::Running
            } else {
                State::Stopped
            },
            pid: None,
            log: PathBuf::new(),
        };
        let all = |down: &[&str]| -> Vec<Standing> {
            let nodes = Recorded::usual().nodes().into_iter();
            nodes
                .map(|node| {
                    let is_up = !down.contains(&node.name.as_str());
                    standing(node, is_up)
                })
                .collect()
        };
        let refused = |down: &[&str]| refuse_loss_of_quorum("coordinator-1", &all(down));
        refused(&[]).expect("two of three go on");
        refused(&["coordinator-1"]).expect("it is down itself");
        let text = refused(&["coordinator-2"])
            .expect_err("one of three")
            .to_string();
        assert!(text.contains("1 of 3"), "{text}");
        let alone: Vec<_> = all(&[]).into_iter().take(1).collect();
        let text = refuse_loss_of_quorum("coordinator-1", &alone)
            .expect_err("nobody else")
            .to_string();
        assert!(text.contains("cairn dev reset"), "{text}");
    }
}
