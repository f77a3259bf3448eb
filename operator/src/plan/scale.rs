//! How many data nodes there are: growing at once, shrinking once nobody needs the last.
//!
//! A node that is not asked for gives up what it holds (drain), is retired once it says that
//! it is empty, and only then loses its pod. The claim is marked *before* the retirement: an
//! operator that dies between the two leaves a mark on a volume that holds nothing, whereas
//! the other order would leave a retired volume that looks like a new one, on which a node
//! never becomes ready. Every step can be taken back until the retirement is in force.

use crate::names::Role;
use crate::observed::SetSeen;
use crate::store::{Health, NodeStanding, Store};

use super::duties::{Duties, Duty};
use super::group;
use super::view::View;
use super::{Admin, Plan, Step, Topic};

/// How many pods a role's StatefulSet is to keep.
///
/// What the coordinators count on is kept, whatever is asked for; where they say nothing,
/// whatever there may be is kept.
pub(super) fn replicas(view: View<'_>, role: Role) -> u32 {
    let wanted = view.wanted(role);
    let kept = view.seen.sets.get(&role).map(|set| set.replicas);
    match view.store() {
        // Who is being taken into the group is not listed yet, and needed all the same.
        Some(store) if role == Role::Coordinator && group::under_way(store).is_some() => wanted
            .max(kept.unwrap_or(0))
            .max(view.needed_by_store(role, store)),
        Some(store) => wanted.max(view.needed_by_store(role, store)),
        None => wanted.max(kept.unwrap_or_else(|| numbered_so_far(view, role))),
    }
}

/// Where there is no StatefulSet: one more than the highest number of a pod, or of a claim
/// that may hold something. A set with fewer would end pods that it finds.
fn numbered_so_far(view: View<'_>, role: Role) -> u32 {
    let nodes = view.nodes(role).into_iter();
    let there = nodes.filter(|node| node.pod.is_some() || node.has_fit_claim());
    there.map(|node| node.ordinal + 1).max().unwrap_or(0)
}

/// Takes back drains that nobody asks for any more.
pub(super) fn bring_back(duties: &Duties<'_>, plan: &mut Plan) {
    for node in duties.with(Role::Data, Duty::Return) {
        // The mark goes first: the volume is about to hold something again.
        plan.steps.extend(node.mark(false));
        if let Some(member) = node.member {
            plan.steps.push(Step::Admin(Admin::Undrain(member.id)));
            plan.note(Topic::Scaling, &node.name, "It takes part again.");
        }
    }
}

/// Retires nodes that are empty, those with the highest numbers first: the pods of others
/// could not go before them, and they can still be asked to stay.
pub(super) fn retire(duties: &Duties<'_>, plan: &mut Plan) {
    for (node, duty) in duties.all(Role::Data).rev() {
        match (duty, node.member) {
            (Duty::Past, _) => {}
            (Duty::Leave, Some(member)) if node.drains() && member.empty => {
                plan.steps.extend(node.mark(true));
                plan.steps.push(Step::Admin(Admin::Retire(member.id)));
                plan.note(Topic::Scaling, &node.name, "It is empty, and is retired.");
            }
            _ => return,
        }
    }
}

/// Asks nodes to give up what they hold: as many as leave enough for the replication factor.
pub(super) fn drain(view: View<'_>, store: &Store, duties: &Duties<'_>, plan: &mut Plan) {
    let agreed = store.settings.as_ref();
    let copies = agreed.map_or(0, |settings| settings.replication_factor);
    let asked = u32::from(view.cluster.spec.replication_factor);
    let holding = store
        .nodes
        .iter()
        .filter(|node| node.standing == NodeStanding::Member && node.leaving.is_none())
        .count();
    let holding = u32::try_from(holding).unwrap_or(u32::MAX);
    let mut spare = holding.saturating_sub(copies);
    for (node, duty) in duties.all(Role::Data).rev() {
        let topic = match duty {
            Duty::Leave => Topic::Scaling,
            Duty::Empty => Topic::Maintenance,
            Duty::Emptied => {
                let text = "It is empty, and stays so until it is taken out of \
                            maintenance.drain.";
                plan.note(Topic::Maintenance, &node.name, text);
                continue;
            }
            _ => continue,
        };
        let Some(member) = node.member else { continue };
        if node.drains() {
            if !member.empty {
                plan.note(topic, &node.name, &progress(member, store));
            }
            continue;
        }
        if copies > asked {
            let text = format!(
                "It gives up what it holds once replicationFactor is {asked} instead of {copies}."
            );
            plan.note(topic, &node.name, &text);
            continue;
        }
        // One that counts as away holds no seat, so that nobody is missed.
        if member.leaving.is_none() {
            if spare == 0 {
                let text = format!(
                    "It cannot give up what it holds: {holding} data nodes take part, and \
                     replicationFactor {copies} needs {copies}. It waits for others to join."
                );
                plan.note(topic, &node.name, &text);
                continue;
            }
            spare -= 1;
        }
        plan.steps.push(Step::Admin(Admin::Drain(member.id)));
        plan.note(topic, &node.name, "It is asked to give up what it holds.");
    }
}

fn progress(member: &crate::store::Node, store: &Store) -> String {
    let left = member.replicas.max(member.seats);
    if member.health != Health::Up {
        return format!(
            "It gives up what it holds, and is not up: {left} copies are left, and it cannot \
             say that it is empty before it is back."
        );
    }
    let held = if store.rebalance.paused {
        " Moves are held back by maintenance.rebalancePaused."
    } else {
        ""
    };
    format!("It gives up what it holds: {left} copies are left.{held}")
}

/// Says which nodes are waited for.
pub(super) fn tell_who_comes(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    for (node, duty) in duties.everyone() {
        if duty != Duty::Come {
            continue;
        }
        let set = view.seen.sets.get(&node.role);
        let is_new = node.member.is_none() && node.seat.is_none();
        let is_heard = node
            .member
            .is_some_and(|member| member.health == Health::Up);
        let topic = match (node.role, is_new) {
            (Role::Coordinator, true) => Topic::Group,
            (Role::Data, true) => Topic::Scaling,
            // It has registered, or is back, and opens its doors in a moment.
            (Role::Data, false) if is_heard => Topic::Restart,
            (_, false) => Topic::Lost,
        };
        plan.note(topic, &node.name, &why_it_is_away(node.pod, set));
    }
}

/// Why a node is not there, in a sentence.
pub(super) fn why_it_is_away(
    pod: Option<&crate::observed::PodSeen>,
    set: Option<&SetSeen>,
) -> String {
    let Some(pod) = pod else {
        return if set.is_some() {
            "Its pod is being made.".to_owned()
        } else {
            "Its StatefulSet is being made.".to_owned()
        };
    };
    match &pod.waiting {
        _ if pod.deleting => "Its pod ends, and is made anew.".to_owned(),
        Some(reason) => format!("Its pod does not run: {reason}."),
        None if !pod.running => "Its pod starts.".to_owned(),
        None if !pod.ready => "It is not ready yet.".to_owned(),
        None => "The coordinators have not heard of it yet.".to_owned(),
    }
}
