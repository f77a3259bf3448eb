//! The coordinators' group: who is taken in, and who leaves.
//!
//! Newcomers are taken in together, once all of them run, so that the group passes through no
//! even number that one of them would keep it at. Nobody leaves before all who are asked for
//! are in. As with data nodes, a claim is marked before its coordinator leaves.

use crate::names::{PEER_PORT, Role};
use crate::store::Store;

use super::duties::{Duties, Duty};
use super::view::{Node, View};
use super::{Admin, Plan, Step, Topic};

/// What the group is doing, where it is changing.
pub(super) fn under_way(store: &Store) -> Option<&str> {
    let change = store.coordinators_change.as_ref()?;
    (!change.step.is_empty()).then_some(change.step.as_str())
}

/// Changes the group, unless it is changing.
pub(super) fn change(view: View<'_>, store: &Store, duties: &Duties<'_>, plan: &mut Plan) {
    if !store.coordinators.iter().any(|c| c.voter) {
        return;
    }
    if let Some(step) = under_way(store) {
        plan.note_of_all(
            Topic::Group,
            &format!("The coordinators' group changes: {step}."),
        );
        return;
    }
    let newcomers: Vec<&Node<'_>> = duties
        .all(Role::Coordinator)
        .filter(|(_, duty)| matches!(duty, Duty::Come | Duty::Renew))
        .filter(|(node, _)| !node.seat.is_some_and(|seat| seat.voter))
        .map(|(node, _)| node)
        .collect();
    if !newcomers.is_empty() {
        let all_run = newcomers.iter().all(|node| {
            let runs = node.pod.is_some_and(|pod| pod.running && !pod.deleting);
            let is_new = node
                .claim
                .is_none_or(|claim| !claim.retired && !claim.deleting);
            runs && is_new
        });
        if all_run {
            add(view, &newcomers, plan);
        } else {
            let text = "New coordinators are taken in together, once all of them run.";
            plan.note_of_all(Topic::Group, text);
        }
        return;
    }
    let leaving: Vec<&Node<'_>> = duties.with(Role::Coordinator, Duty::Leave).collect();
    if leaving.is_empty() {
        return;
    }
    let stay = duties.all(Role::Coordinator);
    let stay = stay.filter(|(_, duty)| !matches!(duty, Duty::Leave | Duty::Past));
    let (mut ready, mut count) = (0, 0);
    for (node, _) in stay {
        ready += usize::from(node.is_ready());
        count += 1;
    }
    if ready * 2 <= count {
        let text = format!(
            "Coordinators leave once a majority of those that stay is ready: {ready} of {count} \
             are."
        );
        plan.note_of_all(Topic::Group, &text);
        return;
    }
    plan.steps
        .extend(leaving.iter().filter_map(|node| node.mark(true)));
    let names: Vec<String> = leaving.iter().map(|node| node.name.clone()).collect();
    for name in &names {
        plan.note(Topic::Group, name, "It leaves the coordinators' group.");
    }
    plan.steps
        .push(Step::Admin(Admin::RemoveCoordinators(names)));
}

fn add(view: View<'_>, newcomers: &[&Node<'_>], plan: &mut Plan) {
    let at = |node: &&Node<'_>| {
        let host = view.cluster.names.host(Role::Coordinator, node.ordinal);
        (node.name.clone(), format!("{host}:{PEER_PORT}"))
    };
    let added: Vec<(String, String)> = newcomers.iter().map(at).collect();
    for node in newcomers {
        plan.note(
            Topic::Group,
            &node.name,
            "It is taken into the coordinators' group.",
        );
    }
    plan.steps.push(Step::Admin(Admin::AddCoordinators(added)));
}
