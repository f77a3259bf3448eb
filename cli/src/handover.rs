//! `nodes handover`: a data node lets others lead what it leads, and gets no primary back for
//! a while. It goes on as a replica, and nothing is copied.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use cairn_client::admin::{Change, Cordon, MovePrimary};
use cairn_core::cluster::failure_detector::Health;
use cairn_core::cluster::status::{PartitionHealth, Standing};
use cairn_core::ids::{NodeId, PartitionId};

use crate::endpoints::{Endpoints, block_on};
use crate::failure::{Failure, Kind};
use crate::inspect::Document;
use crate::membership;
use crate::rebalance::{self, Manifest, Wait};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct HandoverArgs {
    /// Its name
    #[arg(value_name = "NODE")]
    node: String,
    /// For how many seconds it gets no primary, unless the others fail
    #[arg(long = "for", value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Let it lead again
    #[arg(long, conflicts_with_all = ["seconds", "wait"])]
    clear: bool,
    #[command(flatten)]
    wait: Wait,
}

/// Cordons the node and asks for each of its primaries to be moved; with `--wait` until it
/// leads nothing.
pub(crate) fn run(
    args: &HandoverArgs,
    endpoints: &Endpoints,
    manifest: Manifest,
) -> Result<(), Failure> {
    let document = membership::document(endpoints)?;
    let node = membership::find(&document, &args.node)?.id;
    let cordon = |until_unix_ms| {
        let cordon = Cordon {
            node: node.0,
            until_unix_ms,
        };
        rebalance::change(endpoints, &args.node, Change::Cordon(cordon), manifest)
    };
    if args.clear {
        return cordon(0);
    }
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let until = now + Duration::from_secs(args.seconds);
    cordon(u64::try_from(until.as_millis()).unwrap_or(u64::MAX))?;

    let mut asked = Vec::new();
    let mut ask = |document: &Document| -> Result<(), Failure> {
        let moves = moves(document, node);
        // What is under way is not asked for again before the look after the next.
        let moves: Vec<_> = moves
            .into_iter()
            .filter(|one| !asked.contains(one))
            .collect();
        block_on(async {
            let admin = endpoints.admin();
            for (partition, to) in &moves {
                let change = Change::MovePrimary(MovePrimary {
                    partition: partition.0,
                    to_node: to.0,
                });
                admin.change(change, manifest.override_manifest).await?;
            }
            Ok(())
        })?;
        asked = moves;
        Ok(())
    };
    if !args.wait.is_asked() {
        ask(&document)?;
        eprintln!("{}: it was asked to hand over all that it leads", args.node);
        return Ok(());
    }
    rebalance::wait_until(&args.wait, endpoints, |document| {
        let leads = leads(document, node).count();
        if leads == 0 {
            return Ok(None);
        }
        if document
            .status
            .partitions
            .iter()
            .all(|one| is_alone(document, one, node))
        {
            return Err(Failure::new(
                Kind::Refused,
                format!("no other data node could lead what {} leads", args.node),
            ));
        }
        ask(document)?;
        Ok(Some(format!("{} leads {leads} partitions", args.node)))
    })?;
    eprintln!("{}: it leads nothing", args.node);
    Ok(())
}

fn leads(document: &Document, node: NodeId) -> impl Iterator<Item = &PartitionHealth> {
    let partitions = document.status.partitions.iter();
    partitions.filter(move |one| one.primary.is_some_and(|primary| primary.node == node))
}

/// Whether nobody else could lead the partition, where the node leads it.
fn is_alone(document: &Document, partition: &PartitionHealth, node: NodeId) -> bool {
    let is_led = partition
        .primary
        .is_some_and(|primary| primary.node == node);
    !is_led || candidates(document, partition, node).next().is_none()
}

/// Members on other nodes that are well and are to stay.
fn candidates<'a>(
    document: &'a Document,
    partition: &'a PartitionHealth,
    node: NodeId,
) -> impl Iterator<Item = NodeId> + 'a {
    let is_well = |id: NodeId| {
        let mut nodes = document.status.nodes.iter();
        nodes.any(|one| {
            one.id == id
                && one.health == Health::Up
                && !one.draining
                && one.leaving.is_none()
                && one.cordoned_until_unix_ms == 0
        })
    };
    let replicas = partition.replicas.iter();
    replicas
        .filter(|one| one.standing == Standing::Member && one.up && !one.corrupt)
        .map(|one| one.member.node)
        .filter(move |id| *id != node && is_well(*id))
}

/// Who is to lead what the node leads: of those who could, whoever leads least.
fn moves(document: &Document, node: NodeId) -> Vec<(PartitionId, NodeId)> {
    let mut leading: BTreeMap<NodeId, usize> = BTreeMap::new();
    for primary in document
        .status
        .partitions
        .iter()
        .filter_map(|one| one.primary)
    {
        *leading.entry(primary.node).or_default() += 1;
    }
    let mut moves = Vec::new();
    for partition in leads(document, node) {
        let least = candidates(document, partition, node)
            .min_by_key(|id| (leading.get(id).copied().unwrap_or(0), *id));
        if let Some(to) = least {
            *leading.entry(to).or_default() += 1;
            moves.push((partition.partition, to));
        }
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recover::tests as sample;

    #[test]
    fn primaries_go_to_members_that_are_well_and_lead_least() {
        let mut document = sample::document(true);
        let first = document.status.partitions[0].clone();
        assert!(
            moves(&document, NodeId(1)).is_empty(),
            "both others are down"
        );
        assert!(is_alone(&document, &first, NodeId(1)));
        for partition in 1..4 {
            let mut another = first.clone();
            another.partition = PartitionId(partition);
            document.status.partitions.push(another);
        }
        for partition in &mut document.status.partitions {
            partition.replicas[1].up = true;
            partition.replicas[2].up = true;
        }
        let to = |document: &Document| -> Vec<u64> {
            moves(document, NodeId(1))
                .iter()
                .map(|(_, to)| to.0)
                .collect()
        };
        assert_eq!(to(&document), [2, 3, 2, 3]);
        document.status.partitions[3].primary = Some(first.replicas[1].member);
        assert_eq!(to(&document), [3, 2, 3]);
        document.status.nodes[1].cordoned_until_unix_ms = 5;
        assert_eq!(to(&document), [3, 3, 3]);
        document.status.partitions[0].replicas[2].corrupt = true;
        assert_eq!(to(&document), [3, 3]);
    }
}
