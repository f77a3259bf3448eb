//! Volumes that are lost, with the process that used them.
//!
//! A volume counts as lost where it can be used on certain Kubernetes nodes only, and all of
//! these are out of the API, said to be out of service, or silent for longer than the cluster
//! waits for a data node (a minute at least). Where the operator may not read Kubernetes
//! nodes it never does. The node on it is given up only while the coordinators do not hear
//! from it either, and while enough other copies of everything on it answer.
//!
//! Silence may pass: of nodes that are only silent one is given up at a time, and only while
//! nothing that it holds lacks another copy as well.

use std::collections::BTreeSet;

use crate::names::Role;
use crate::store::{NodeStanding, Partition, Store};

use super::duties::{Duties, Duty};
use super::view::{HostFate, Node, View};
use super::{Admin, Plan, Step, Topic};

/// Gives up data nodes whose volumes are lost.
pub(super) fn give_up_data(store: &Store, duties: &Duties<'_>, plan: &mut Plan) {
    let mut being_replaced = store
        .nodes
        .iter()
        .any(|node| node.standing == NodeStanding::Gone)
        || duties.with(Role::Data, Duty::Renew).next().is_some();
    let mut lost: Vec<(&Node<'_>, HostFate)> = duties
        .all(Role::Data)
        .filter_map(|(node, duty)| match duty {
            Duty::GiveUp(fate) => Some((node, fate)),
            _ => None,
        })
        .collect();
    // What is certain does not wait for what may pass.
    lost.sort_by_key(|(node, fate)| (std::cmp::Reverse(*fate), node.ordinal));
    for (node, fate) in lost {
        let Some(member) = node.member else { continue };
        let id = member.id;
        if let Some(partition) = store.partitions.iter().find(|p| needs(p, id, store)) {
            let text = format!(
                "Its volume is lost, and partition {} is not safe without it: too few of its \
                 other copies answer. Bring its Kubernetes node or the other copies back; where \
                 none will come back, `cairn recover` goes on with what is left.",
                partition.partition
            );
            plan.note(Topic::Stuck, &node.name, &text);
            continue;
        }
        let is_certain = fate == HostFate::Gone;
        let lacks_another = || store.partitions.iter().any(|p| lacks(p, id, store));
        if !is_certain && (being_replaced || lacks_another()) {
            let text = "Its Kubernetes node does not answer. It is given up once everything that \
                        it holds has all its other copies.";
            plan.note(Topic::Lost, &node.name, text);
            continue;
        }
        being_replaced = true;
        plan.steps.extend(node.mark(true));
        plan.steps.push(Step::Admin(Admin::Gone(id)));
        let text = "Its volume is lost with its Kubernetes node: it is given up, and comes back \
                    on an empty one.";
        plan.note(Topic::Lost, &node.name, text);
    }
}

/// How many of the set's copies on others than the node answer, where it has one there.
fn others(copies: &[&crate::store::Copy], node: u64) -> Option<(usize, usize)> {
    let is_there = copies.iter().any(|copy| copy.member.node == node);
    let up = copies
        .iter()
        .filter(|copy| copy.up && copy.member.node != node)
        .count();
    is_there.then_some((up, copies.len()))
}

/// The copies of each set in force: the one of now, and while it changes the one to come.
fn sets(partition: &Partition) -> Vec<Vec<&crate::store::Copy>> {
    let set = |only: &str| {
        let counts =
            |copy: &&crate::store::Copy| copy.standing == "member" || copy.standing == only;
        partition.replicas.iter().filter(counts).collect()
    };
    vec![set("leaving"), set("joining")]
}

/// Whether a partition needs the node's copy: without it, it is not served, or could not be
/// promoted after it (rules 2 and 9). The coordinators judge this again.
fn needs(partition: &Partition, node: u64, store: &Store) -> bool {
    let write_quorum = store.settings.as_ref().map_or(1, |s| s.write_quorum) as usize;
    let lead = partition.primary.as_ref().map(|seat| seat.node);
    sets(partition).iter().any(|set| {
        let Some((up, size)) = others(set, node) else {
            return false;
        };
        // Where W is one, leases are on a majority.
        let quorum = if write_quorum == 1 {
            size / 2 + 1
        } else {
            write_quorum.min(size)
        };
        !partition.serving || lead == Some(node) || up < size + 1 - quorum
    })
}

/// Whether a partition of the node lacks another copy than its.
fn lacks(partition: &Partition, node: u64, store: &Store) -> bool {
    let copies = store.settings.as_ref().map_or(1, |s| s.replication_factor) as usize;
    sets(partition)
        .iter()
        .any(|set| others(set, node).is_some_and(|(up, _)| up + 1 < copies))
}

/// Gives up a coordinator's volume: one at a time, and only while a majority is up without it.
/// On an empty volume it joins anew by itself.
pub(super) fn give_up_coordinator(
    view: View<'_>,
    store: &Store,
    duties: &Duties<'_>,
    plan: &mut Plan,
) {
    let ready: BTreeSet<&str> = duties
        .all(Role::Coordinator)
        .filter(|(node, _)| node.is_ready())
        .map(|(node, _)| node.name.as_str())
        .collect();
    let voters: Vec<_> = store.coordinators.iter().filter(|c| c.voter).collect();
    let mut one_comes_back = duties
        .all(Role::Coordinator)
        .any(|(_, duty)| matches!(duty, Duty::Come | Duty::Renew));
    for (node, duty) in duties.all(Role::Coordinator) {
        if !matches!(duty, Duty::GiveUp(_)) {
            continue;
        }
        let others = voters.iter().filter(|c| c.name != node.name);
        let up = others.filter(|c| ready.contains(c.name.as_str())).count();
        let leads = voters.iter().any(|c| c.leader && c.name != node.name);
        if up * 2 <= voters.len() || !leads {
            let text = "Its volume is lost, and no majority of the coordinators is up without \
                        it. Bring its Kubernetes node or the others back; where the majority is \
                        lost for good, see `cairn recover-coordinators`.";
            plan.note(Topic::Stuck, &node.name, text);
        } else if one_comes_back {
            let text = "Its volume is lost. It is given up once the others are ready.";
            plan.note(Topic::Lost, &node.name, text);
        } else {
            one_comes_back = true;
            let reason = "its Kubernetes node is lost, and the others are a majority";
            plan.steps.extend(node.delete_claim(reason));
            if let Some(pod) = node.pod.filter(|pod| pod.host.is_some()) {
                let force = view.is_stranded(pod);
                plan.steps.extend(node.delete_pod(force, reason));
            }
            let text = "Its volume is lost with its Kubernetes node: it comes back on an empty \
                        one.";
            plan.note(Topic::Lost, &node.name, text);
        }
    }
}

/// Says what nobody can judge where Kubernetes nodes cannot be read.
pub(super) fn tell_what_is_unknown(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    if view.knows_hosts() {
        return;
    }
    let now = view.seen.now_unix_ms;
    for (node, duty) in duties.everyone() {
        let bound = node.claim.and_then(|claim| claim.only_on.as_ref());
        let (Duty::Come | Duty::Leave, Some(_), Some(pod)) = (duty, bound, node.pod) else {
            continue;
        };
        let since = pod.not_ready_since_unix_ms;
        let is_long = since.is_some_and(|since| now.saturating_sub(since) > view.patience_ms());
        if is_long {
            let text = "It has been away for long, and its volume is on one Kubernetes node. The \
                        operator may not read Kubernetes nodes, so that it gives up no volume. \
                        If that node is lost, delete the claim and then the pod; otherwise bring \
                        it back.";
            plan.note(Topic::Stuck, &node.name, text);
        }
    }
}
