//! Changes of a sight by hand, and looks at what is planned for it.

use super::world::World;
use crate::observed::Observed;
use crate::plan::{Admin, Plan, Step, Topic};
use crate::store::{Health, Store};

/// What the operator sees of a world.
pub(super) fn seen(world: &World) -> Observed {
    world.observe()
}

/// The coordinators' word.
pub(super) fn store(seen: &mut Observed) -> &mut Store {
    seen.store.as_mut().unwrap()
}

/// A data node, as the coordinators have it.
pub(super) fn member<'a>(seen: &'a mut Observed, name: &str) -> &'a mut crate::store::Node {
    let nodes = &mut store(seen).nodes;
    nodes.iter_mut().find(|node| node.name == name).unwrap()
}

/// The data node is down, and so are its copies.
pub(super) fn down(seen: &mut Observed, name: &str) {
    let node = member(seen, name);
    node.health = Health::Down;
    let id = node.id;
    let partitions = &mut store(seen).partitions;
    for partition in partitions {
        let copies: Vec<u64> = partition.replicas.iter().map(|c| c.member.node).collect();
        for copy in &mut partition.replicas {
            copy.up &= copy.member.node != id;
        }
        if copies.contains(&id) {
            partition.state = "member-silent".to_owned();
            let other = copies.into_iter().find(|other| *other != id);
            partition.primary = other.map(|node| crate::store::Seat { node });
        }
    }
    let pod = seen.pods.get_mut(name).unwrap();
    pod.ready = false;
    pod.running = false;
}

/// What the coordinators are asked for.
pub(super) fn admin(plan: &Plan) -> Vec<&Admin> {
    let steps = plan.steps.iter();
    steps
        .filter_map(|step| match step {
            Step::Admin(admin) => Some(admin),
            _ => None,
        })
        .collect()
}

/// Pods and claims that go.
pub(super) fn deleted(plan: &Plan) -> Vec<&str> {
    let steps = plan.steps.iter();
    steps
        .filter_map(|step| match step {
            Step::DeletePod { name, .. } | Step::DeleteClaim { name, .. } => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// Whether something of that kind is said of a node.
pub(super) fn has_note(plan: &Plan, topic: Topic, node: &str) -> bool {
    let mut notes = plan.notes.iter();
    notes.any(|note| note.topic == topic && note.node.as_deref() == Some(node))
}
