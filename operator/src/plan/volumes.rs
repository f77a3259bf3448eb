//! Volumes that are to grow.
//!
//! A claim is asked for more room in place: whoever provides the volume enlarges it, and the
//! kubelet its file system, under the pod that uses it. All claims of a role are asked in one
//! round, since the weight of a node follows from the size of its volume: one after the other
//! they would be unequal for a while, and data would move for nothing.
//!
//! The template of claims in a StatefulSet cannot change. Once every claim asks for the new
//! size the set is deleted without its pods, and made anew, which takes them over; in a round
//! in which nothing else is asked for and nobody else is disturbed. An operator that dies
//! between any two of these steps goes on where it was: each is asked for as long as it is not
//! seen to have happened.
//!
//! Nothing here disturbs a node, and so it is not among the duties; but a claim that is about to
//! go is left alone, and so is that of a pod which is deleted in the same round.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::names::Role;
use crate::quantity;

use super::duties::{Duties, Duty};
use super::view::{Node, View};
use super::{Plan, Step, Topic};

/// Asks for more room where the manifest does.
pub(super) fn grow(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    for role in Role::ALL {
        let size = view.cluster.storage_size(role);
        let Ok(bytes) = quantity::bytes(size) else {
            continue;
        };
        for (node, duty) in duties.all(role) {
            let restarts =
                |step: &Step| matches!(step, Step::DeletePod { name, .. } if *name == node.name);
            let Some(claim) = node.claim.filter(|_| may_grow(node, duty)) else {
                continue;
            };
            if plan.steps.iter().any(restarts) {
                continue;
            }
            if claim.requested_bytes < bytes {
                plan.steps.push(Step::GrowClaim {
                    name: node.claim_name.clone(),
                    uid: claim.uid.clone(),
                    size: size.0.clone(),
                });
            }
            if claim.capacity_bytes < bytes {
                let text = if claim.waits_for_mount {
                    format!(
                        "Its volume has grown to {}; its file system does once it is mounted \
                         anew, where the kubelet cannot do it meanwhile: then restart the pod.",
                        size.0
                    )
                } else {
                    format!("Its volume grows to {}.", size.0)
                };
                plan.note(Topic::Volumes, &node.name, &text);
            }
        }
    }
}

/// Has the StatefulSet of a role made anew, where its claims have outgrown it.
pub(super) fn renew_sets(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    for role in Role::ALL {
        let size = view.cluster.storage_size(role);
        let Some(set) = view.seen.sets.get(&role) else {
            continue;
        };
        let (Ok(bytes), Ok(made_with)) = (
            quantity::bytes(size),
            quantity::bytes(&Quantity(set.storage_size.clone())),
        ) else {
            continue;
        };
        if bytes < made_with {
            let text = format!(
                "{role}.storage.size is {}, and volumes are made with {}: a volume cannot shrink. \
                 Set it to {} again.",
                size.0, set.storage_size, set.storage_size
            );
            plan.note_of_all(Topic::Stuck, &text);
        }
        if bytes <= made_with {
            continue;
        }
        let asks_for_less = |(node, duty): (&Node<'_>, Duty)| {
            duty != Duty::Past && node.claim.is_none_or(|claim| claim.requested_bytes < bytes)
        };
        let is_calm = plan.steps.is_empty()
            && set.is_current
            && !duties.everyone().any(|(_, duty)| duty.hinders_restarts())
            && !duties.all(role).any(asks_for_less);
        if is_calm {
            plan.steps.push(Step::RenewSet {
                role,
                uid: set.uid.clone(),
            });
        }
        let text = format!(
            "New volumes of {role} nodes are made with {} once its StatefulSet is made anew, \
             which keeps the pods.",
            size.0
        );
        plan.note_of_all(Topic::Volumes, &text);
    }
}

/// Whether the node keeps its claim, and a larger one would be of use.
fn may_grow(node: &Node<'_>, duty: Duty) -> bool {
    let keeps_it = match duty {
        Duty::GiveUp(_) | Duty::Renew | Duty::Leave | Duty::Past => false,
        Duty::Empty
        | Duty::Emptied
        | Duty::Return
        | Duty::Come
        | Duty::HandOver
        | Duty::Parked
        | Duty::Steady => true,
    };
    keeps_it
        && node
            .claim
            .is_some_and(|claim| claim.bound && !claim.deleting && !claim.retired)
}
