//! Nodes whose Kubernetes node is to go, and pods that end though their Kubernetes node stays.

use std::collections::{BTreeMap, BTreeSet};

use crate::names::Role;
use crate::store::{Health, Store};

use super::duties::{Duties, Duty};
use super::view::{HostFate, View};
use super::{Admin, Plan, Step, Topic};

/// How many primaries are asked to hand over in a round: those of a node that leads thousands
/// are not all in between at the same time.
const MOVES_PER_ROUND: usize = 16;

/// How many entries a copy may lack and still take over without a pause that clients feel.
const LAG_MAX: u64 = 1_000;

/// Tells the coordinators of pods that end and come back, so that nothing is moved for them.
pub(super) fn expect_back(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    let now = view.seen.now_unix_ms;
    for (node, duty) in duties.all(Role::Data) {
        let comes_back = !matches!(
            duty,
            Duty::GiveUp(_) | Duty::Renew | Duty::Leave | Duty::Past
        );
        let Some(pod) = node.pod.filter(|pod| pod.deleting && comes_back) else {
            continue;
        };
        let is_alive = view.fate_of_pod(pod).unwrap_or(HostFate::Fine) == HostFate::Fine;
        // One that does not end is not on its way back.
        let is_late = pod
            .not_ready_since_unix_ms
            .is_some_and(|since| now.saturating_sub(since) > view.restart_ms());
        if is_alive && !is_late {
            plan.steps.extend(view.expect_back(node));
        }
    }
}

/// For how long a node is cordoned at the coordinators. It is asked for again in time, and ends
/// by itself where no operator is left to take it back.
const CORDON_MS: u64 = 600_000;

/// Has nodes on Kubernetes nodes that are to go get no primaries: what they handed over would
/// be brought back to them once all is calm.
pub(super) fn cordon(view: View<'_>, duties: &Duties<'_>, plan: &mut Plan) {
    let now = view.seen.now_unix_ms;
    for (node, duty) in duties.all(Role::Data) {
        let Some(member) = node.member else { continue };
        // Coordinators of an older version know of no such thing.
        let Some(until) = member.cordoned_until_unix_ms else {
            continue;
        };
        let is_to_go = view.must_yield(node) && !matches!(duty, Duty::GiveUp(_));
        let asked = if is_to_go && until < now + CORDON_MS / 2 {
            now + CORDON_MS
        } else if !is_to_go && until > now {
            0
        } else {
            continue;
        };
        plan.steps
            .push(Step::Admin(Admin::Cordon(member.id, asked)));
    }
}

/// Has the primaries of nodes on Kubernetes nodes that are to go led by others.
pub(super) fn hand_over(store: &Store, duties: &Duties<'_>, plan: &mut Plan) {
    // Only who has nothing else to do takes over.
    let mut leads: BTreeMap<u64, u32> = duties
        .with(Role::Data, Duty::Steady)
        .filter_map(|node| node.member)
        .filter(|member| {
            let is_well = member.health == Health::Up && member.leaving.is_none();
            is_well && !member.draining && !member.disk_full
        })
        .map(|member| (member.id, member.leads))
        .collect();
    let leaving: BTreeMap<u64, &str> = duties
        .with(Role::Data, Duty::HandOver)
        .filter_map(|node| Some((node.member?.id, node.name.as_str())))
        .collect();
    let mut moves = 0;
    let mut stuck = BTreeSet::new();
    for partition in &store.partitions {
        let Some(from) = partition.primary.as_ref().map(|seat| seat.node) else {
            continue;
        };
        let Some(name) = leaving.get(&from) else {
            continue;
        };
        // While copies come or go, the coordinators hand nothing over.
        let is_steady = partition.replicas.iter().all(|c| c.standing == "member");
        if !partition.serving || !is_steady || moves == MOVES_PER_ROUND {
            continue;
        }
        let able = partition.replicas.iter().filter(|copy| {
            copy.up && copy.member.node != from && copy.lag.is_some_and(|lag| lag <= LAG_MAX)
        });
        let able = able.map(|copy| copy.member.node);
        let to = able
            .filter_map(|node| Some((*leads.get(&node)?, node)))
            .min();
        let Some((led, to)) = to else {
            stuck.insert(*name);
            continue;
        };
        leads.insert(to, led + 1);
        moves += 1;
        plan.steps.push(Step::Admin(Admin::MovePrimary {
            partition: partition.partition,
            to,
        }));
    }
    for name in leaving.into_values() {
        let text = if stuck.contains(name) {
            "Its Kubernetes node takes no new pods, or evicts them. Some partitions that it \
             leads have no other copy now that could take over."
        } else {
            "Its Kubernetes node takes no new pods, or evicts them: it hands its primaries over."
        };
        plan.note(Topic::Restart, name, text);
    }
}
