//! Volumes of nodes that are no more.
//!
//! A claim is deleted only where the coordinators say, in this round, that nobody of its
//! pod's name is a member, and where it is marked as retired, cannot be used any more, or never
//! got a volume. Any other is left alone, though no member was ever seen on it: it may hold the
//! data of a cluster that was deleted, or of a node that a person gave up, and neither the
//! coordinators nor the claim would say so.

use cairn_crds::spec::VolumePolicy;

use crate::names::Role;

use super::duties::{Duties, Duty};
use super::view::View;
use super::{Plan, Topic};

/// Takes marks off the claims of nodes that turned out to stay.
pub(super) fn unmark(duties: &Duties<'_>, plan: &mut Plan) {
    for (node, duty) in duties.everyone() {
        let stays = match duty {
            // Each of these says itself what is to be marked.
            Duty::GiveUp(_) | Duty::Renew | Duty::Leave | Duty::Past | Duty::Return => false,
            Duty::Come => node.member.is_some() || node.seat.is_some_and(|seat| seat.voter),
            Duty::Empty | Duty::Emptied | Duty::HandOver | Duty::Parked | Duty::Steady => true,
        };
        if stays {
            plan.steps.extend(node.mark(false));
        }
    }
}

/// Lets nodes come back on empty volumes.
pub(super) fn renew(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    for (node, duty) in duties.everyone() {
        match duty {
            Duty::Renew => {
                let reason = "the node on it is no member any more, and comes back as another";
                plan.steps.extend(node.delete_claim(reason));
                // A pod that nobody has started holds no claim back.
                if let Some(pod) = node.pod.filter(|pod| pod.host.is_some()) {
                    let force = view.is_stranded(pod);
                    let reason = "it comes back on an empty volume";
                    plan.steps.extend(node.delete_pod(force, reason));
                }
                let text = "It comes back on an empty volume.";
                plan.note(Topic::Lost, &node.name, text);
            }
            // Its claim went after it was made: not every version of Kubernetes makes
            // another one for a pod that there is.
            Duty::Come if node.claim.is_none() => {
                let waits = |pod: &&crate::observed::PodSeen| !pod.running && pod.host.is_none();
                if node.pod.filter(waits).is_some() {
                    plan.steps
                        .extend(node.delete_pod(false, "its claim is gone: both are made anew"));
                }
            }
            _ => {}
        }
    }
}

/// Says which volumes go with the next restart of their pods.
pub(super) fn tell_what_goes(duties: &Duties<'_>, plan: &mut Plan) {
    for node in Role::ALL
        .into_iter()
        .flat_map(|role| duties.with(role, Duty::Parked))
    {
        if node.claim.is_some_and(|claim| claim.deleting) {
            let text = "Somebody deleted its claim, which goes with its volume once the pod \
                        ends. It is not restarted. Empty it first, by maintenance.drain, and then \
                        delete the pod.";
            plan.note(Topic::Stuck, &node.name, text);
        }
    }
}

/// Deletes what is left of nodes that were removed, by policy.
pub(super) fn clear_away(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    for role in Role::ALL {
        let kept = view.seen.sets.get(&role).map_or(0, |set| set.replicas);
        for node in duties.with(role, Duty::Past) {
            match node.pod {
                // Nobody would ever confirm its end.
                Some(pod) if pod.deleting && view.is_stranded(pod) => {
                    let reason = "it was removed, and its Kubernetes node does not answer";
                    plan.steps.extend(node.delete_pod(true, reason));
                }
                Some(_) => {
                    let topic = match role {
                        Role::Coordinator => Topic::Group,
                        Role::Data => Topic::Scaling,
                    };
                    plan.note(topic, &node.name, "It was removed, and its pod ends.");
                }
                None if node.ordinal >= kept
                    && (node.is_marked() || node.has_no_volume())
                    && view.cluster.spec.volumes.when_scaled == VolumePolicy::Delete =>
                {
                    let reason = if node.is_marked() {
                        "the node on it was removed, and volumes.whenScaled is Delete"
                    } else {
                        "it never got a volume, and volumes.whenScaled is Delete"
                    };
                    plan.steps.extend(node.delete_claim(reason));
                }
                None => {}
            }
        }
    }
}
