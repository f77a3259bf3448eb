//! What must hold in every state.

use cairn_core::cluster::report::Role;
use cairn_core::ids::{Mark, Micros};
use cairn_core::record::Member;

use crate::node::{Node, View};
use crate::world::State;

/// What does not hold, if anything.
#[must_use]
pub fn broken(state: &State) -> Option<String> {
    primaries(state)
        .or_else(|| logs(state))
        .or_else(|| kept(state))
        .or_else(|| leases(state))
}

fn leads(node: &Node) -> bool {
    matches!(node.view.role, Some(Role::Primary | Role::Rising))
}

fn pairs(state: &State) -> impl Iterator<Item = (&'static Node, &'static Node)> {
    let nodes = state.nodes;
    (0..nodes.len()).flat_map(move |a| (0..a).map(move |b| (nodes[b], nodes[a])))
}

/// Rule 1: an epoch has one primary.
fn primaries(state: &State) -> Option<String> {
    pairs(state)
        .find(|(a, b)| leads(a) && leads(b) && a.view.epoch == b.view.epoch)
        .map(|(a, b)| format!("{} and {} are both primary of {}", a.id, b.id, a.view.epoch))
}

/// Rules 1 and 4: what was flushed at a position is the same everywhere, and logs match
/// up to what both know to be committed.
fn logs(state: &State) -> Option<String> {
    pairs(state).find_map(|(a, b)| {
        let differ = a.view.durable.iter().find(|mark| {
            let mut same = b
                .view
                .durable
                .iter()
                .filter(|m| m.position == mark.position);
            same.any(|m| m != *mark)
        });
        if let Some(mark) = differ {
            let (a, b) = (a.id, b.id);
            return Some(format!(
                "{a} and {b} have flushed two entries at {}",
                mark.position
            ));
        }
        let commit = a.view.commit.min(b.view.commit);
        let up_to = |view: &'static View| {
            view.log
                .iter()
                .map(|(mark, _)| *mark)
                .take_while(move |mark| mark.index() <= commit)
        };
        up_to(&a.view)
            .zip(up_to(&b.view))
            .find(|(one, other)| one != other)
            .map(|(one, other)| {
                let (a, b) = (a.id, b.id);
                format!("{a} has committed {one:?} where {b} has committed {other:?}")
            })
    })
}

/// Rule 3: whoever leads a newer epoch has every write that was acknowledged before.
fn kept(state: &State) -> Option<String> {
    (0..).zip(state.acked).find_map(|(write, acked)| {
        let lacks = |node: &&&Node| {
            let newer = acked != 0 && node.view.epoch.0 >= u64::from(acked);
            leads(node) && newer && !node.holds(write)
        };
        state.nodes.iter().find(lacks).map(|node| {
            let (id, epoch) = (node.id, node.view.epoch);
            format!("{id} leads {epoch} without write {write}, which was acknowledged in e{acked}")
        })
    })
}

/// Whether the node may answer a strong read now.
#[must_use]
pub fn may_answer(node: &Node, now: Micros) -> bool {
    node.view.serving && now < node.view.lease_until
}

/// Rule 5: one node at most may answer, none but the one that is named once another is,
/// and what it answers from holds every write that was acknowledged.
fn leases(state: &State) -> Option<String> {
    let now = state.time();
    let answering: Vec<&Node> = state
        .nodes
        .iter()
        .filter(|n| may_answer(n, now))
        .copied()
        .collect();
    let first = answering.first()?;
    if let Some(second) = answering.get(1) {
        return Some(format!("{} and {} may both answer", first.id, second.id));
    }
    let record = &state.council.record;
    if record.primary.is_some_and(|p| p.node != first.id) {
        return Some(format!("{} may answer though another is named", first.id));
    }
    let view = &first.view;
    (0..).zip(state.acked).find_map(|(write, acked)| {
        let committed =
            |(mark, w): &(Mark, Option<u8>)| *w == Some(write) && mark.index() <= view.commit;
        (acked != 0 && !view.log.iter().any(committed)).then(|| {
            format!(
                "{} may answer without the acknowledged write {write}",
                first.id
            )
        })
    })
}

/// Rules 7 and 11: what is acknowledged is flushed on W of each set in force.
#[must_use]
pub fn acknowledged(state: &State, by: &Node, mark: Mark) -> Option<String> {
    let record = by.view.record.as_ref()?;
    // What a newer record removed had it, or what acknowledges could not count on it.
    let has = |member: &Member| {
        let node = state.nodes.iter().find(|n| n.id == member.node);
        node.is_some_and(|n| n.view.role.is_none() || n.view.durable.contains(&mark))
    };
    record.config.sets().find_map(|set| {
        let have = set.members.iter().filter(|m| has(m)).count();
        (have < set.write_quorum()).then(|| {
            let (at, epoch) = (mark.position, by.view.epoch);
            format!("{at} was acknowledged in {epoch}, flushed on {have} of a set")
        })
    })
}
