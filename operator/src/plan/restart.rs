//! Restarts of pods of an outdated revision.
//!
//! One node at a time over both roles, in a round in which nothing else is asked for, while
//! every partition is whole and nobody has another duty that hinders it (see
//! [`super::duties`]). Coordinators come first, their leader last of
//! them, then data nodes, the highest numbers first.
//!
//! A pod that does not work cannot be made worse: it is replaced although something is not
//! whole, so that a bad image, or a limit that is too small, does not wedge the cluster.

use std::cmp::Reverse;

use crate::names::Role;
use crate::observed::PodSeen;
use crate::store::Store;

use super::duties::{Duties, Duty};
use super::group;
use super::view::{Node, View};
use super::{Plan, Topic};

/// For how long a pod that runs has to be unready before it counts as not working,
/// milliseconds: a node that reads a long log is not ready meanwhile.
const STALLED_MS: u64 = 300_000;

/// For how long every pod has to have been ready before the next one is restarted,
/// milliseconds: a pod that is made anew has another address, and for as long as resolvers
/// keep the old one, or that there was none (5 s with the usual settings of CoreDNS), it is
/// not found by its name. Data nodes of this build tell each other their addresses; those of
/// builds before, and coordinators, go by names alone.
const REACHED_MS: u64 = 8_000;

const REASON: &str = "its revision is outdated";

fn is_outdated(view: View<'_>, node: &Node<'_>) -> bool {
    let set = view.seen.sets.get(&node.role);
    let set = set.filter(|set| set.is_current && !set.update_revision.is_empty());
    let pod = node.pod.filter(|pod| !pod.deleting);
    set.zip(pod)
        .is_some_and(|(set, pod)| pod.revision != set.update_revision)
}

/// Whether Kubernetes says itself that nothing runs there.
fn does_not_run(pod: &PodSeen) -> bool {
    !pod.ready && !pod.running && pod.waiting.is_some()
}

/// Replaces a pod that does not run, where its revision is outdated: nobody has to be asked,
/// for nothing ends with it. The coordinators themselves may be who does not run.
///
/// One that is leaving too: it could never say that it is empty.
pub(super) fn replace_broken(view: View<'_>, plan: &mut Plan) {
    for role in Role::ALL {
        let kept = plan.replicas.of(role);
        let nodes = view.nodes(role).into_iter();
        let mut broken = nodes.filter(|node| {
            node.ordinal < kept && node.pod.is_some_and(does_not_run) && is_outdated(view, node)
        });
        if let Some(node) = broken.next() {
            plan.steps
                .extend(node.delete_pod(false, "it does not run, and its revision is outdated"));
            let text = "Its pod does not run, and is made anew from the present template.";
            plan.note(Topic::Restart, &node.name, text);
            return;
        }
    }
}

/// Restarts the next node, where one is outdated and may be.
pub(super) fn next(view: View<'_>, store: &Store, duties: &Duties<'_>, plan: &mut Plan) {
    if view.seen.sets.values().any(|set| !set.is_current) {
        let text = "Kubernetes is about to take up what its StatefulSets say.";
        plan.note_of_all(Topic::Restart, text);
    }
    let mut outdated: Vec<(&Node<'_>, Duty)> = duties
        .everyone()
        .filter(|(_, duty)| *duty != Duty::Past)
        .filter(|(node, _)| is_outdated(view, node))
        .collect();
    if outdated.is_empty() {
        return;
    }
    let leads = |node: &Node<'_>| node.seat.is_some_and(|seat| seat.leader);
    outdated.sort_by_key(|(node, _)| (node.role, leads(node), Reverse(node.ordinal)));
    let mut hindering = duties
        .everyone()
        .filter(|(_, duty)| duty.hinders_restarts());
    let candidate = match (hindering.next(), hindering.next()) {
        (None, _)
            if plan.steps.is_empty() && is_settled(store) && all_are_reached(view, duties) =>
        {
            outdated.iter().find(|(_, duty)| duty.may_restart())
        }
        // Nobody but itself is in the way.
        (Some((one, Duty::Come)), None)
            if is_stalled(view, one) && is_the_only_one_away(one, store) =>
        {
            outdated.iter().find(|(node, _)| node.name == one.name)
        }
        _ => None,
    };
    let Some((node, _)) = candidate else {
        let count = outdated.len();
        let text = if outdated.iter().all(|(_, duty)| *duty == Duty::Parked) {
            format!(
                "{count} pods of an outdated revision wait until their Kubernetes nodes take \
                 pods again, and their claims are whole."
            )
        } else {
            format!(
                "{count} pods of an outdated revision are restarted one at a time, while all \
                 nodes are well and every partition has all its copies."
            )
        };
        plan.note_of_all(Topic::Restart, &text);
        return;
    };
    if node.role == Role::Data {
        plan.steps.extend(view.expect_back(node));
    }
    plan.steps.extend(node.delete_pod(false, REASON));
    plan.note(
        Topic::Restart,
        &node.name,
        "It is restarted: its revision is outdated.",
    );
}

/// Whether every copy is there, and nothing moves, nor is about to.
fn is_settled(store: &Store) -> bool {
    group::under_way(store).is_none() && store.is_whole() && !store.is_moving()
}

/// Whether every pod has been ready for long enough that the others find it.
fn all_are_reached(view: View<'_>, duties: &Duties<'_>) -> bool {
    let now = view.seen.now_unix_ms;
    let is_new = |since: u64| now.saturating_sub(since) < REACHED_MS;
    let mut pods = duties.everyone().filter_map(|(node, _)| node.pod);
    !pods.any(|pod| pod.ready && pod.ready_since_unix_ms.is_some_and(is_new))
}

fn is_stalled(view: View<'_>, node: &Node<'_>) -> bool {
    let since = node.pod.and_then(|pod| pod.not_ready_since_unix_ms);
    let now = view.seen.now_unix_ms;
    let is_long = since.is_some_and(|since| now.saturating_sub(since) >= STALLED_MS);
    is_long && !node.pod.is_some_and(does_not_run)
}

/// Whether every copy that does not answer is the node's.
fn is_the_only_one_away(node: &Node<'_>, store: &Store) -> bool {
    let id = node.member.map(|member| member.id);
    let copies = store.partitions.iter().flat_map(|p| &p.replicas);
    copies
        .filter(|copy| !copy.up)
        .all(|copy| Some(copy.member.node) == id)
}
